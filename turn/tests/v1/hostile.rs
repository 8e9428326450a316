//! Whoever sends datagrams of version 1 in bad faith, under any source: what it costs the server, others, and a victim.

use std::net::SocketAddr;
use std::time::Duration;

use campfire_turn::Config;
use campfire_turn::config::{Limits, Rate};
use campfire_turn::io::{Input, StreamId, Via};

use crate::node::{ANNOUNCE, CANDIDATE, Node, OFFER, PSK, Side, message};
use crate::vectors::{bytes, vectors};
use crate::world::{HOUR, World, address, config};

const SPOOFED: u32 = 10_000;

#[test]
fn ten_thousand_spoofed_entries_take_as_much_memory_as_five_thousand_and_send_nothing_anywhere() {
    for kind in [ANNOUNCE, OFFER, CANDIDATE] {
        let mut world = World::new();
        for number in 0..SPOOFED / 2 {
            assert!(world.sends(address(number), &spoofed(kind, number)).is_empty());
        }
        let half = world.memory();
        for number in SPOOFED / 2..SPOOFED {
            assert!(world.sends(address(number), &spoofed(kind, number)).is_empty());
        }
        let stats = world.server.stats();
        assert_eq!(stats.v1_waiters + stats.v1_negotiations, 4_096, "type {kind}");
        assert_eq!(stats.v1_ended_full, u64::from(SPOOFED) - 4_096);
        assert_eq!(world.memory(), half, "flat");
        assert!(half < 6 << 20, "{half} of 256 MiB");
        world.pass(Duration::from_mins(61));
        assert_eq!(world.memory(), 0, "and given back at the hour");
    }
}

#[test]
fn who_waited_before_a_flood_is_met_after_it_and_so_is_who_comes_then() {
    let mut world = World::new();
    let campfires = |offset: u32| (0..100).map(move |n| (format!("{offset:016}{n:016}"), offset + 2 * n));
    for (psk, waiter) in campfires(1 << 20) {
        world.comes(address(waiter), Node::waiter(&psk, HOUR));
    }
    for number in 0..SPOOFED {
        world.sends(address(number), &spoofed(ANNOUNCE, number));
    }
    for (psk, waiter) in campfires(1 << 20) {
        world.comes(address(waiter + 1), Node::joiner(&psk, HOUR, waiter));
    }
    let met = |world: &World, offset| campfires(offset).map(|(_, waiter)| world.met(waiter)).sum::<usize>();
    assert!(met(&world, 1 << 20) >= 90, "{} of 100", met(&world, 1 << 20));
    world.pass(Duration::from_mins(1));
    for (psk, waiter) in campfires(2 << 20) {
        world.comes(address(waiter), Node::waiter(&psk, HOUR + 60));
        world.comes(address(waiter + 1), Node::joiner(&psk, HOUR + 60, waiter));
    }
    assert!(met(&world, 2 << 20) >= 99, "{} of 100", met(&world, 2 << 20));
}

/// Every datagram goes out once at most, and as it came. So nobody can be sent more than somebody has paid for, whatever
/// sources are made up; and what an announcement sets free, which had come before, is bounded.
#[test]
fn nothing_that_is_sent_is_larger_than_what_came_in() {
    let mut world = World::new();
    let victim = address(9 << 16);
    let mut paid: usize = 0;
    for number in 0..SPOOFED {
        // The victim waits in a hundred campfires, half of the time after the joiners' offers.
        let campfire = number % 100;
        let (waiter, joiner) = (u32::from(number % 7 == 0), number % 3);
        let (from, bytes) = if waiter == 1 {
            (victim, announcement(campfire))
        } else {
            (address(number), from_joiner(if joiner == 0 { OFFER } else { CANDIDATE }, campfire, number / 3, 900))
        };
        let sent = world.sends(from, &bytes);
        if waiter == 1 {
            assert!(sent.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= 32 << 10);
        } else {
            paid += bytes.len();
            assert!(sent.iter().all(|(to, _)| *to == victim));
        }
        assert!(world.sent <= paid, "the victim gets {} for {paid}", world.sent);
        if number % 100 == 0 {
            world.pass(Duration::from_secs(10));
        }
    }
    assert!(world.sent > 1_000_000, "it was put to the test: {}", world.sent);
}

/// A source that is another server's address makes the one take the other for a node, which sends back what it gets.
#[test]
fn servers_that_take_each_other_for_nodes_do_not_send_a_datagram_around() {
    for servers in 1..=4 {
        let mut worlds: Vec<World> = (0..servers).map(|_| World::new()).collect();
        let place = |at: SocketAddr| (0..servers).find(|number| address(*number) == at).unwrap();
        for (number, world) in (1..).zip(&mut worlds) {
            world.sends(address(number % servers), &announcement(1));
        }
        let mut underway =
            vec![(0, address(1 << 20), from_joiner(OFFER, 1, 1, 40)), (0, address(1 << 20), from_joiner(CANDIDATE, 1, 1, 40))];
        let mut heard = 0;
        while let Some((at, from, bytes)) = underway.pop() {
            heard += 1;
            assert!(heard <= 2 * (servers + 1), "{servers} servers send it around");
            underway.extend(worlds[at as usize].sends(from, &bytes).into_iter().map(|(to, bytes)| (place(to), address(at), bytes)));
        }
        assert_eq!(worlds[0].server.stats().v1_dropped_repeated, 2, "{servers} servers");
    }
}

#[test]
fn a_datagram_that_comes_again_from_wherever_is_not_passed_on_again() {
    let mut world = World::new();
    let (offer, candidate) = (from_joiner(OFFER, 1, 1, 40), from_joiner(CANDIDATE, 1, 1, 40));
    // Held twice, and set free once.
    assert!([&offer, &candidate, &offer].iter().all(|bytes| world.sends(address(2), bytes).is_empty()));
    assert_eq!(world.sends(address(1), &announcement(1)).len(), 2);
    for number in 0..10 {
        assert!(world.sends(address(2 + number), &offer).is_empty());
        assert!(world.sends(address(2 + number), &candidate).is_empty());
    }
    assert_eq!((world.server.stats().v1_forwarded, world.server.stats().v1_dropped_repeated), (2, 21));
    assert_eq!(world.sends(address(2), &from_joiner(CANDIDATE, 1, 1, 41)).len(), 1);
}

#[test]
fn an_announcement_sets_free_32_kib_at_most() {
    let mut world = World::new();
    for number in 0..200 {
        world.sends(address(number), &from_joiner(OFFER, 1, number, 1_000));
        world.sends(address(number), &from_joiner(CANDIDATE, 1, number, 500));
    }
    let stats = world.server.stats();
    assert!(stats.v1_held <= 32 << 10 && stats.v1_held > 30 << 10, "{}", stats.v1_held);
    assert!(stats.v1_negotiations * 500 < stats.v1_held, "who holds nothing is not kept: {}", stats.v1_negotiations);
    assert!(stats.v1_dropped_hold > 100);
    let set_free: usize = world.sends(address(1 << 20), &announcement(1)).iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(set_free <= 32 << 10 && set_free > 25 << 10, "{set_free}");
    assert_eq!(world.server.stats().v1_held, 0);
}

#[test]
fn one_joiner_cannot_fill_the_hold_of_others() {
    let mut world = World::new();
    for number in 0..100 {
        world.sends(address(1), &from_joiner(if number == 0 { OFFER } else { CANDIDATE }, 1, 1, 100 + number));
    }
    world.sends(address(2), &from_joiner(OFFER, 1, 2, 1_000));
    assert_eq!(world.sends(address(3), &announcement(1)).len(), 16 + 1);
}

#[test]
fn a_source_has_so_many_entries_and_replaces_its_own_negotiations_first() {
    let mut limits = Limits { v1_entries_per_source: 8, ..Limits::default() };
    let mut world = World::with(Config { limits: limits.clone(), ..config() });
    let (at, elsewhere) = (address(1), address(2));
    world.sends(at, &announcement(1));
    for number in 0..100 {
        world.sends(elsewhere, &announcement(100 + number));
        assert_eq!(world.sends(SocketAddr::new(at.ip(), 1_000 + number as u16), &from_joiner(OFFER, 100 + number, number, 40)).len(), 1);
    }
    let stats = world.server.stats();
    assert_eq!((stats.v1_waiters, stats.v1_negotiations, stats.v1_ended_source), (1 + 8, 7, 93 + 92));
    assert_eq!(world.sends(elsewhere, &from_joiner(OFFER, 1, 1, 40))[0].0, at, "its waiter has waited on");
    // None at all, which no flag can ask for.
    limits.v1_entries_per_source = 0;
    let mut world = World::with(Config { limits, ..config() });
    world.sends(at, &announcement(1));
    assert_eq!((world.memory(), world.server.stats().v1_dropped_full), (0, 1));
}

#[test]
fn prefixes_have_a_rate_both_as_sources_and_as_receivers() {
    let limits = Limits { v1_datagrams: Rate { rate: 10, burst: 50 }, ..Limits::default() };
    let mut world = World::with(Config { limits, ..config() });
    for number in 0..1_000 {
        world.sends(SocketAddr::new(address(1).ip(), number), &announcement(u32::from(number)));
    }
    assert_eq!((world.server.stats().v1_waiters, world.server.stats().v1_dropped_sender), (50, 950));
    let to_one = (0..1_000).map(|number| world.sends(address(2 + number), &from_joiner(OFFER, number % 50, number, 40)).len());
    assert_eq!(to_one.sum::<usize>(), 50);
    assert_eq!(world.server.stats().v1_dropped_receiver, 950);
    world.pass(Duration::from_secs(1));
    assert_eq!((0..50).map(|number| world.sends(address(2_000 + number), &from_joiner(OFFER, 1, number, 41)).len()).sum::<usize>(), 10);
}

#[test]
fn version_1_takes_an_eighth_of_the_memory_and_no_more_than_is_left() {
    let limits = Limits { memory: 1 << 20, ..Limits::default() };
    let mut world = World::with(Config { limits, ..config() });
    for number in 0..SPOOFED {
        world.sends(address(number), &from_joiner(OFFER, number, number, 1_000));
        assert!(world.memory() <= 1 << 17);
    }
    assert!(world.memory() > 120 << 10, "{}", world.memory());
    let limits = Limits { memory: 0, ..Limits::default() };
    let mut world = World::with(Config { limits, ..config() });
    world.sends(address(1), &announcement(1));
    assert_eq!((world.memory(), world.server.stats().v1_dropped_full), (0, 1));
}

/// As long as nobody asks for version 1, its messages are what they were: nothing that a server of version 2 knows.
#[test]
fn unless_asked_for_version_1_is_not_there() {
    assert!(!Config::default().campfire_v1);
    let vectors = vectors();
    let messages: Vec<Vec<u8>> = ["messages", "refused"].iter().flat_map(|list| vectors[list].as_array().unwrap()).map(bytes).collect();
    let mut world = World::with(Config::default());
    let before = world.server.stats().clone();
    for bytes in &messages {
        assert!(world.sends(address(1), bytes).is_empty());
    }
    let mut expected = before;
    expected.dropped_malformed += messages.len() as u64;
    assert_eq!(*world.server.stats(), expected);
    assert_eq!(world.server.next_wake(), None);
    // A STUN request of such a type is one of an unknown method, as ever.
    let stun = [&[0x08, 0x01, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
    assert_eq!(world.sends(address(1), &stun)[0].1[..2], [0x09, 0x11]);
}

#[test]
fn streams_are_not_for_version_1() {
    let mut world = World::new();
    let via = Via::Stream { stream: StreamId(1), remote: address(1) };
    assert!(world.input(Input::Message { via, bytes: &announcement(1) }).is_empty());
    assert_eq!((world.server.stats().dropped_malformed, world.memory()), (1, 0));
}

#[test]
fn a_wall_clock_at_its_ends_and_a_drain_change_nothing() {
    for wall in [0, 1, u64::MAX - 1, u64::MAX] {
        let mut world = World::new();
        let wall = campfire_protocol::time::UnixMillis(wall);
        let announcement = announcement(1);
        world.server.handle(world.now, wall, Input::Message { via: crate::world::via(address(1)), bytes: &announcement });
        let ends = world.server.next_wake().unwrap();
        assert!(ends > world.now && ends <= world.now + Duration::from_mins(61));
    }
    let mut world = World::new();
    world.input(Input::Drain);
    assert!(world.server.is_idle());
    world.comes(address(1), Node::waiter(PSK, HOUR));
    assert!(world.server.is_idle(), "a drain does not wait for what nobody can tell to move");
    world.comes(address(2), Node::joiner(PSK, HOUR, 1));
    assert_eq!(world.met(2), 1);
}

/// A message that only a spoofer would send: alone in its campfire.
fn spoofed(kind: u8, number: u32) -> Vec<u8> {
    if kind == ANNOUNCE { announcement(number) } else { from_joiner(kind, number, number, 40) }
}

fn announcement(campfire: u32) -> Vec<u8> {
    let [waiter, joiner] = credentials(campfire);
    message(ANNOUNCE, "", &waiter, &joiner, &[])
}

fn from_joiner(kind: u8, campfire: u32, number: u32, sealed: usize) -> Vec<u8> {
    let [waiter, joiner] = credentials(campfire);
    message(kind, &format!("{number:08x}-1111-4222-8333-444444444444"), &joiner, &waiter, &vec![7; sealed])
}

/// Credentials need not come of a key.
fn credentials(campfire: u32) -> [Side; 2] {
    [0, 1].map(|side| Side { secret: Vec::new(), ufrag: "abcd".to_owned(), pwd: format!("{campfire:0108}{side}") })
}
