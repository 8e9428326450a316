//! Rooms in which nobody holds the roster.

use std::time::Duration;

use crate::world::*;
use campfire_protocol::key::Tag;
use campfire_protocol::wire::Entry;
use campfire_turn::Config;
use campfire_turn::io::{Forward, Output};

fn small_limits() -> Config {
    let mut config = Config::default();
    (config.limits.large, config.limits.small) = (10, 6);
    config
}

fn tagged(n: usize) -> Member {
    let mut member = Member::new(1, n);
    member.tags = vec![tag(n)];
    member
}

fn tag(n: usize) -> Tag {
    Tag((n as u64).to_be_bytes())
}

/// A large room of `count` members that have shown a nonce.
fn large(world: &mut World, count: usize) -> Vec<Member> {
    let mut members: Vec<Member> = (0..count).map(tagged).collect();
    for member in &mut members {
        member.camp(world).unwrap();
        member.camp(world).unwrap();
    }
    world.pass(seconds(1));
    world.sent.clear();
    members
}

fn entry(member: &Member) -> Entry {
    Entry { member: member.id(), announcement: member.announcement.clone() }
}

#[test]
fn a_large_room_gives_no_roster_and_pushes_nothing_to_strangers() {
    let mut world = World::new(small_limits());
    let mut members = large(&mut world, 20);
    let answer = members[0].camp(&mut world).unwrap();
    assert_eq!((answer.large, answer.members, answer.entries.len()), (true, 20, 0));
    members[1].announcement = Some(b"changed".to_vec());
    members[1].camp(&mut world).unwrap();
    tagged(99).camp(&mut world).unwrap();
    members[2].lifetime = 0;
    members[2].camp(&mut world).unwrap();
    world.pass(seconds(1));
    assert!(world.sent.is_empty(), "{:?}", world.sent);
    assert_eq!(world.stats().large_rooms, 1);
}

#[test]
fn whoever_has_found_a_member_is_told_of_its_changes_and_its_departure() {
    let mut world = World::new(small_limits());
    let mut members = large(&mut world, 20);
    assert_eq!(members[0].find(&mut world, &[tag(7), tag(8), tag(1_000)]).unwrap(), vec![entry(&members[7]), entry(&members[8])]);
    members[7].announcement = Some(b"changed".to_vec());
    members[7].camp(&mut world).unwrap();
    world.pass(seconds(1));
    let embers = members[0].embers(&mut world);
    assert_eq!(embers.len(), 1);
    assert_eq!((embers[0].previous, &embers[0].entries), (embers[0].cursor, &vec![entry(&members[7])]));
    members[7].lifetime = 0;
    members[7].camp(&mut world).unwrap();
    world.pass(seconds(1));
    assert_eq!(members[0].embers(&mut world)[0].entries, vec![Entry { member: members[7].id(), announcement: None }]);
    assert!(world.sent.is_empty(), "nobody else is told");
}

#[test]
fn whoever_is_signalled_learns_first_who_signals_and_stays_interested() {
    let mut world = World::new(small_limits());
    let mut members = large(&mut world, 20);
    let to = members[3].id();
    members[0].signal(&mut world, to, b"initiation").unwrap();
    members[0].signal(&mut world, to, b"again").unwrap();
    let pushes = members[3].pushes(&mut world);
    assert!(
        matches!(&pushes[..], [Push::Ember(ember), Push::Signal(_), Push::Signal(_)] if ember.entries == vec![entry(&members[0])]),
        "{pushes:?}"
    );
    for (changes, hears) in [(0, 3), (3, 0)] {
        members[changes].announcement = Some(b"changed".to_vec());
        members[changes].camp(&mut world).unwrap();
        world.pass(seconds(1));
        assert_eq!(members[hears].embers(&mut world)[0].entries, vec![entry(&members[changes])]);
    }
    let to = members[5].id();
    members[4].bind(&mut world, to, 0x4000).unwrap();
    members[5].announcement = Some(b"changed".to_vec());
    members[5].camp(&mut world).unwrap();
    world.pass(seconds(1));
    assert_eq!(members[4].embers(&mut world).len(), 1, "so does whoever binds");
}

#[test]
fn what_waits_to_be_told_is_charged_to_the_memory_limit_until_it_is_told() {
    let mut world = World::new(small_limits());
    let mut members = large(&mut world, 20);
    let to = members[3].id();
    for member in &mut members[4..14] {
        member.signal(&mut world, to, b"initiation").unwrap();
    }
    world.pass(seconds(1));
    let before = world.stats().memory;
    let old = members[3].announcement.replace(b"changed".to_vec()).map_or(0, |old| old.len());
    members[3].camp(&mut world).unwrap();
    let (waiting, told) = (world.stats().memory, before + 7 - old as u64);
    assert!(waiting >= told + 10 * 24, "{waiting} with ten waiting, {told} without");
    world.pass(seconds(1));
    assert_eq!(world.stats().memory, told);
}

#[test]
fn one_tag_finds_at_most_four_and_not_always_the_same() {
    let mut world = World::new(small_limits());
    let mut members = large(&mut world, 20);
    for (n, member) in members.iter_mut().enumerate().skip(1) {
        member.tags = vec![tag(500)];
        member.announcement = Some(format!("shared by {n}").into_bytes());
        member.camp(&mut world).unwrap();
    }
    assert_eq!(members[0].find(&mut world, &[tag(3)]).unwrap(), vec![], "the old tag is gone");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let found = members[0].find(&mut world, &[tag(500)]).unwrap();
        assert_eq!(found.len(), 4);
        seen.extend(found.into_iter().map(|entry| entry.member));
    }
    assert!(seen.len() > 8, "whoever takes another's tag does not hide it: {}", seen.len());
}

#[test]
fn what_does_not_fit_into_the_answer_to_a_find_follows() {
    let mut world = World::new(small_limits());
    let mut members: Vec<Member> = (0..20).map(tagged).collect();
    for (n, member) in members.iter_mut().enumerate() {
        member.announcement = Some(vec![n as u8; 600]);
        member.camp(&mut world).unwrap();
        member.camp(&mut world).unwrap();
    }
    world.pass(seconds(1));
    world.sent.clear();
    let tags: Vec<Tag> = (1..17).map(tag).collect();
    let answer = members[0].find(&mut world, &tags).unwrap();
    let pushed: Vec<Entry> = members[0].embers(&mut world).into_iter().flat_map(|ember| ember.entries).collect();
    assert_eq!((answer.len(), pushed.len()), (1, 15));
}

#[test]
fn interest_is_bounded_and_the_oldest_makes_way() {
    let mut config = small_limits();
    config.limits.interest = 3;
    let mut world = World::new(config);
    let mut members = large(&mut world, 20);
    members[0].find(&mut world, &[tag(1), tag(2), tag(3), tag(4)]).unwrap();
    for watcher in &mut members[10..14] {
        watcher.find(&mut world, &[tag(5)]).unwrap();
    }
    for member in &mut members[1..6] {
        member.announcement = Some(b"changed".to_vec());
        member.camp(&mut world).unwrap();
    }
    world.pass(seconds(1));
    let told: usize = members[0].embers(&mut world).iter().map(|ember| ember.entries.len()).sum();
    assert_eq!(told, 3, "of the last three found");
    let hearing = (10..14).filter(|watcher| !members[*watcher].embers(&mut world).is_empty()).count();
    assert_eq!(hearing, 3, "and one's changes are told to the last three that found one");
}

#[test]
fn a_room_that_grows_keeps_the_bound_interested_and_one_that_shrinks_begins_anew() {
    let mut world = World::new(small_limits());
    let mut members: Vec<Member> = (0..10).map(tagged).collect();
    for member in &mut members {
        member.camp(&mut world).unwrap();
        member.camp(&mut world).unwrap();
    }
    let to = members[1].id();
    members[0].bind(&mut world, to, 0x4000).unwrap();
    let back = members[0].id();
    members[1].bind(&mut world, back, 0x4000).unwrap();
    members.push(tagged(10));
    assert!(members[10].camp(&mut world).unwrap().large);
    world.pass(seconds(1));
    world.sent.clear();
    members[1].announcement = Some(b"changed".to_vec());
    members[1].camp(&mut world).unwrap();
    world.pass(seconds(1));
    assert_eq!(members[0].embers(&mut world)[0].entries, vec![entry(&members[1])]);
    assert_eq!(world.forward(members[0].via, 0x4000, b"x").0, Forward::Client { via: members[1].via });
    for gone in &mut members[5..] {
        gone.lifetime = 0;
        gone.camp(&mut world).unwrap();
        if world.stats().seats > 5 {
            assert_eq!(world.stats().large_rooms, 1, "not before it is well below");
        }
    }
    assert_eq!(world.stats().large_rooms, 0);
    world.sent.clear();
    let answer = members[0].camp(&mut world).unwrap();
    assert_eq!((answer.reset, answer.large, answer.members), (true, false, 5));
    assert_eq!(answer.entries, members[1..5].iter().map(entry).collect::<Vec<_>>());
    world.pass(seconds(1));
    members[2].announcement = Some(b"changed".to_vec());
    members[2].camp(&mut world).unwrap();
    world.pass(seconds(1));
    let embers = members[0].embers(&mut world);
    assert_eq!((embers.len(), embers[0].previous), (1, members[0].cursor));
}

#[test]
fn nobody_s_cursor_fits_by_chance_after_a_room_was_large() {
    let mut world = World::new(small_limits());
    let mut members = large(&mut world, 12);
    let cursors: Vec<_> = members.iter_mut().map(|member| member.camp(&mut world).unwrap().cursor).collect();
    for gone in &mut members[5..] {
        gone.lifetime = 0;
        gone.camp(&mut world).unwrap();
    }
    world.sent.clear();
    members[1].announcement = Some(b"changed".to_vec());
    members[1].camp(&mut world).unwrap();
    world.pass(seconds(1));
    let embers = members[0].embers(&mut world);
    assert!(!embers.is_empty());
    assert!(embers.iter().all(|ember| ember.previous.sequence > cursors[0].sequence), "a gap, seen by the sequence alone");
}

#[test]
fn a_room_of_ten_thousand_costs_a_member_what_it_uses() {
    let mut world = World::new(Config::default());
    let mut members: Vec<Member> = (0..10_000).map(tagged).collect();
    for member in &mut members {
        member.announcement = Some(vec![7; 250]);
        member.camp(&mut world).unwrap();
        world.sent.clear();
    }
    assert_eq!(world.stats().seats, 10_000);
    let per_member = world.stats().memory / 10_000;
    assert!(per_member <= 2_048 + 250, "{per_member} bytes");
    world.pass(seconds(1));
    world.sent.clear();
    // All change at once: nobody is told, and each gets one answer.
    let before = world.stats().pushed_embers;
    for (n, member) in members.iter_mut().enumerate() {
        member.announcement = Some(vec![n as u8; 251]);
        let answer = member.camp(&mut world).unwrap();
        assert!(answer.entries.is_empty());
    }
    world.pass(Duration::from_millis(500));
    assert_eq!(world.stats().pushed_embers, before);
    // A popular one: its change is told to 256, not to all.
    for member in &mut members[1..1_000] {
        member.find(&mut world, &[tag(0)]).unwrap();
    }
    world.sent.clear();
    members[0].announcement = Some(b"popular".to_vec());
    members[0].camp(&mut world).unwrap();
    world.pass(seconds(1));
    assert_eq!(world.stats().pushed_embers - before, 256);
    assert_eq!(world.sent.iter().filter(|output| matches!(output, Output::Send { .. })).count(), 256);
    // All leave by silence.
    world.pass(seconds(61));
    assert_eq!((world.stats().seats, world.stats().memory), (0, 0));
}

#[test]
fn a_mass_restart_of_a_small_room_is_pushed_without_quadratic_bursts() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 200);
    let start = world.now;
    for member in &mut members {
        member.announcement = Some(vec![9; 280]);
        member.camp(&mut world).unwrap();
    }
    let mut most = 0;
    while world.now.since(start) < Duration::from_secs(5) {
        world.sent.clear();
        world.pass(Duration::from_millis(5));
        most = most.max(world.sent.len());
    }
    assert!(most <= 128, "{most} Embers in five milliseconds");
    for member in &mut members {
        let answer = member.camp(&mut world).unwrap();
        assert!(answer.head - answer.cursor.sequence <= 200);
    }
}
