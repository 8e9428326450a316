//! Camp and Ember: seats, first contact, cursors, pages, pushes.

use std::time::Duration;

use crate::world::*;
use campfire_protocol::key::RoomId;
use campfire_protocol::wire::{Cursor, Entry};
use campfire_turn::Config;
use campfire_turn::io::Input;

fn entry(member: &Member) -> Entry {
    Entry { member: member.id(), announcement: member.announcement.clone() }
}

#[test]
fn the_first_camp_takes_a_seat_without_a_nonce_and_the_second_member_learns_of_the_first() {
    let mut world = World::new(Config { server_id: Some("fire.example:3478".into()), ..Config::default() });
    let (mut a, mut b) = (Member::new(1, 1), Member::new(1, 2));
    let first = a.camp(&mut world).unwrap();
    assert_eq!((first.members, first.entries.len(), first.lifetime), (1, 0, 60));
    assert_eq!(first.server_id.as_deref(), Some("fire.example:3478"));
    assert_eq!((first.unix_millis, first.observed), (START, a.via.remote()));
    let second = b.camp(&mut world).unwrap();
    assert_eq!((second.members, second.entries, second.reset), (2, vec![entry(&a)], true));
    assert_eq!(second.cursor.sequence, second.head);
    world.pass(Duration::from_millis(29));
    assert_eq!(a.embers(&mut world), vec![], "changes are collected");
    world.pass(Duration::from_millis(1));
    let embers = a.embers(&mut world);
    assert_eq!(embers.len(), 1);
    assert_eq!((embers[0].to, embers[0].previous, &embers[0].entries), (a.id(), a.cursor, &vec![entry(&b)]));
    assert_eq!(embers[0].cursor, b.cursor);
    assert_eq!(b.pushes(&mut world), vec![], "nobody hears of itself");
}

#[test]
fn a_refresh_says_nothing_new_and_a_changed_announcement_is_pushed() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 3);
    let again = members[0].camp(&mut world).unwrap();
    assert_eq!((again.reset, again.entries.len()), (false, 0));
    members[0].announcement = None;
    members[0].camp(&mut world).unwrap();
    world.pass(seconds(1));
    assert_eq!(members[1].embers(&mut world), vec![]);
    members[0].announcement = Some(b"changed".to_vec());
    members[0].camp(&mut world).unwrap();
    world.pass(seconds(1));
    for other in &members[1..] {
        let embers = other.embers(&mut world);
        assert_eq!(embers.len(), 1);
        assert_eq!(embers[0].entries, vec![entry(&members[0])]);
        assert_eq!(embers[0].previous, other.cursor, "no gap");
    }
    let caught_up = members[1].camp(&mut world).unwrap();
    assert_eq!(caught_up.entries, vec![entry(&members[0])], "what was pushed is told again to whoever says that it has not read it");
}

#[test]
fn a_member_that_leaves_is_gone_for_the_others_at_once() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 3);
    members[0].lifetime = 0;
    let left = members[0].camp(&mut world).unwrap();
    assert_eq!(left.lifetime, 0);
    world.pass(Duration::from_millis(100));
    let embers = members[1].embers(&mut world);
    assert_eq!(embers[0].entries, vec![Entry { member: members[0].id(), announcement: None }]);
    assert_eq!((world.stats().seats, world.stats().ended_left), (2, 1));
    let again = members[0].camp(&mut world).unwrap();
    assert_eq!(again.lifetime, 0, "leaving twice is fine");
}

#[test]
fn a_silent_member_is_gone_after_its_lifetime_and_the_server_forgets_everything() {
    let mut world = World::new(Config::default());
    let _ = camped(&mut world, 1, 5);
    assert!(world.stats().memory > 0);
    world.pass(seconds(61));
    let stats = world.stats();
    assert_eq!((stats.seats, stats.rooms, stats.clients, stats.memory, stats.ended_expired), (0, 0, 0, 0, 5));
    assert!(world.server.is_idle());
}

#[test]
fn lifetimes_are_capped() {
    let mut world = World::new(Config::default());
    let mut member = Member::new(1, 1);
    member.lifetime = u32::MAX;
    assert_eq!(member.camp(&mut world).unwrap().lifetime, 60);
}

#[test]
fn whoever_was_away_reads_on_from_its_cursor_departures_included() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 4);
    members[0].camp(&mut world).unwrap();
    members[2].lifetime = 0;
    members[2].camp(&mut world).unwrap();
    members[3].announcement = Some(b"new".to_vec());
    members[3].camp(&mut world).unwrap();
    let caught_up = members[0].camp(&mut world).unwrap();
    assert!(!caught_up.reset);
    assert_eq!(caught_up.entries, vec![Entry { member: members[2].id(), announcement: None }, entry(&members[3])]);
}

#[test]
fn a_foreign_or_forgotten_cursor_begins_anew_without_departures() {
    let mut config = Config::default();
    config.limits.departures = 2;
    let mut world = World::new(config);
    let mut members = camped(&mut world, 1, 6);
    let old = members[0].cursor;
    for gone in &mut members[2..] {
        gone.lifetime = 0;
        gone.camp(&mut world).unwrap();
    }
    for cursor in [old, Cursor { incarnation: 77, sequence: 1 }, Cursor { sequence: 9_999, ..old }, Cursor::default()] {
        members[0].cursor = cursor;
        let anew = members[0].camp(&mut world).unwrap();
        assert!(anew.reset, "{cursor:?}");
        assert_eq!(anew.entries, vec![entry(&members[1])]);
    }
}

#[test]
fn a_long_roster_streams_to_a_proven_source_and_not_to_another() {
    let mut world = World::new(Config::default());
    for n in 0..40 {
        let mut member = Member::new(1, n);
        member.announcement = Some(vec![n as u8; 300]);
        member.camp(&mut world).unwrap();
    }
    world.pass(seconds(1));
    world.sent.clear();
    let mut newcomer = Member::new(1, 99);
    let first = newcomer.camp(&mut world).unwrap();
    assert!(first.cursor.sequence < first.head);
    assert_eq!(newcomer.pushes(&mut world), vec![], "nothing more before it has shown a nonce");
    let mut listed: Vec<Entry> = first.entries;
    let next = newcomer.camp(&mut world).unwrap();
    assert!(!next.reset);
    listed.extend(next.entries);
    let embers = newcomer.embers(&mut world);
    let mut cursor = next.cursor;
    for ember in embers {
        assert_eq!(ember.previous, cursor, "pages follow each other");
        cursor = ember.cursor;
        listed.extend(ember.entries);
    }
    assert_eq!(cursor.sequence, next.head);
    let mut members: Vec<_> = listed.iter().map(|entry| entry.member).collect();
    members.sort();
    members.dedup();
    assert_eq!((listed.len(), members.len()), (40, 40), "everybody once");
}

#[test]
fn more_than_sixteen_pages_follow_paced_until_the_end() {
    let mut world = World::new(Config::default());
    for n in 0..200 {
        let mut member = Member::new(1, n);
        member.announcement = Some(vec![n as u8; 650]);
        member.camp(&mut world).unwrap();
    }
    world.pass(seconds(5));
    world.sent.clear();
    let mut newcomer = Member::new(1, 999);
    newcomer.camp(&mut world).unwrap();
    let answer = newcomer.camp(&mut world).unwrap();
    let at_once = newcomer.embers(&mut world);
    assert_eq!(at_once.len(), 16);
    world.pass(seconds(2));
    let mut cursor = answer.cursor;
    let mut listed = 2;
    for ember in at_once.into_iter().chain(newcomer.embers(&mut world)) {
        assert_eq!(ember.previous, cursor);
        cursor = ember.cursor;
        listed += ember.entries.len();
    }
    assert_eq!((cursor.sequence, listed), (answer.head, 200));
}

#[test]
fn a_clock_that_is_off_by_more_than_a_minute_is_told_the_time_and_gets_in_with_the_nonce() {
    let mut world = World::new(Config::default());
    let mut member = Member::new(1, 1);
    world.wall.0 += 61_000;
    let request = member.camp_request(&mut world);
    world.wall.0 -= 61_000;
    let answer = world.ask(member.via, &request).unwrap();
    assert!(answer.len() <= 140);
    let failure = campfire_protocol::wire::Failure::decode(&campfire_protocol::stun::Message::parse(&answer).unwrap()).unwrap();
    assert_eq!((failure.code, failure.unix_millis), (401, Some(START)));
    assert_eq!(world.stats().refused_clock, 1);
    member.nonce = failure.nonce;
    member.camp(&mut world).unwrap();
}

#[test]
fn expiry_is_looked_at_with_the_first_use_and_when_the_nonce_is_renewed() {
    let mut world = World::new(Config::default());
    let mut member = Member::new(1, 1);
    member.user_name = campfire_protocol::credential::user_name(START / 1_000 + 100, member.fingerprint);
    member.camp(&mut world).unwrap();
    for _ in 0..4 {
        world.pass(seconds(50));
        member.camp(&mut world).expect("the nonce is older than the expiry");
    }
    // An hour after the last renewal.
    for _ in 0..66 {
        world.pass(seconds(55));
        if let Err(failure) = member.camp(&mut world) {
            assert_eq!(failure.code, 438);
            let failure = member.camp(&mut world).unwrap_err();
            assert_eq!((failure.code, world.stats().refused_expired), (401, 1));
            return;
        }
    }
    panic!("an expired credential was never looked at again");
}

#[test]
fn an_expired_credential_takes_no_seat() {
    let mut world = World::new(Config::default());
    let mut member = Member::new(1, 1);
    member.user_name = campfire_protocol::credential::user_name(START / 1_000 - 1, member.fingerprint);
    let failure = member.camp(&mut world).unwrap_err();
    assert_eq!((failure.code, failure.unix_millis), (401, Some(START)));
    assert_eq!(member.camp(&mut world).unwrap_err().code, 401, "nor with a nonce");
    assert_eq!(world.stats().seats, 0);
}

#[test]
fn a_seat_moves_on_a_nonce_of_the_new_address() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 2);
    let old = std::mem::replace(&mut members[0].via, source(500));
    assert_eq!(members[0].camp(&mut world).unwrap_err().code, 438, "the nonce is of the old address");
    let moved = members[0].camp(&mut world).unwrap();
    assert_eq!((moved.observed, moved.members), (source(500).remote(), 2));
    assert_eq!(world.stats().moved, 1);
    let to = members[0].id();
    members[1].signal(&mut world, to, b"hello").unwrap();
    assert_eq!(members[0].pushes(&mut world).len(), 1);
    assert!(world.received(old).is_empty());
}

#[test]
fn a_seat_whose_stream_ended_waits_ten_seconds_and_can_be_taken_up_again() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 1);
    let mut b = Member::new(1, 7);
    b.via = stream(1, "198.51.100.7:5000");
    b.camp(&mut world).unwrap();
    world.input(Input::StreamClosed { via: b.via });
    let to = b.id();
    assert_eq!(members[0].signal(&mut world, to, b"hello").unwrap_err().code, 404);
    b.via = stream(2, "198.51.100.7:5001");
    assert_eq!(b.camp(&mut world).unwrap_err().code, 438);
    b.camp(&mut world).unwrap();
    members[0].signal(&mut world, to, b"hello").unwrap();
    world.input(Input::StreamClosed { via: b.via });
    world.pass(seconds(11));
    assert_eq!((world.stats().seats, world.stats().ended_expired), (1, 1));
}

#[test]
fn a_stream_needs_no_padding_to_get_pages() {
    let mut world = World::new(Config::default());
    for n in 0..20 {
        let mut member = Member::new(1, n);
        member.announcement = Some(vec![n as u8; 300]);
        member.camp(&mut world).unwrap();
    }
    let mut newcomer = Member::new(1, 99);
    newcomer.via = stream(1, "198.51.100.7:5000");
    let answer = newcomer.camp(&mut world).unwrap();
    let listed: usize = newcomer.embers(&mut world).iter().map(|ember| ember.entries.len()).sum();
    assert_eq!(listed + answer.entries.len(), 20);
}

#[test]
fn an_announcement_is_asked_for_when_the_seat_is_gone() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 1);
    world.pass(seconds(70));
    members[0].announcement = None;
    assert_eq!(members[0].camp(&mut world).unwrap_err().code, 404);
    members[0].announcement = Some(b"here I am".to_vec());
    members[0].camp(&mut world).unwrap();
}

#[test]
fn rooms_and_campfires_do_not_meet() {
    let mut world = World::new(Config::default());
    let _ = camped(&mut world, 1, 2);
    let mut foreign = Member::new(2, 50);
    foreign.room = psk(1).room;
    assert_eq!(foreign.camp(&mut world).unwrap().members, 1, "the same room id under another key is another room");
    let mut elsewhere = Member::new(1, 51);
    elsewhere.room = RoomId([9; 32]);
    assert_eq!(elsewhere.camp(&mut world).unwrap().members, 1);
}

#[test]
fn draining_tells_everybody_and_takes_nobody() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 100);
    world.input(Input::Drain);
    world.pass(seconds(1));
    for member in &members {
        let embers = member.embers(&mut world);
        assert_eq!(embers.len(), 1);
        assert!(embers[0].leaving && embers[0].previous == embers[0].cursor);
    }
    assert!(members[0].camp(&mut world).unwrap().leaving);
    assert_eq!(Member::new(1, 1_000).camp(&mut world).unwrap_err().code, 508);
}

#[test]
fn reloaded_secrets_end_what_they_no_longer_cover() {
    let mut world = World::new(Config::default());
    let mut kept = camped(&mut world, 1, 2);
    let mut gone = Member::new(2, 77);
    gone.camp(&mut world).unwrap();
    let mut secrets = campfire_turn::auth::Secrets::new();
    secrets.add_campfire(psk(1).fingerprint, psk(1).relay);
    world.input(Input::Secrets(secrets));
    assert_eq!((world.stats().seats, world.stats().ended_secret), (2, 1));
    kept[0].camp(&mut world).unwrap();
    assert_eq!(gone.camp(&mut world).unwrap_err().code, 401);
}

#[test]
fn without_campfire_the_server_is_plain_turn() {
    let mut world = World::new(Config { campfire: false, ..Config::default() });
    assert_eq!(Member::new(1, 1).camp(&mut world).unwrap_err().code, 400);
}
