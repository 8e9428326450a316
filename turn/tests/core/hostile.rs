//! What strangers, holders of the key and members may try.

use crate::world::*;
use campfire_protocol::credential;
use campfire_protocol::stun::{Attribute, Builder, Class, MAX_MESSAGE, Message, Method, TransactionId};
use campfire_protocol::wire::Failure;
use campfire_turn::Config;
use campfire_turn::config::Rate;
use campfire_turn::io::{Forward, Input, Output, RelayId, StreamId, Via};
use proptest::prelude::*;

fn failure(answer: &[u8]) -> Failure {
    Failure::decode(&Message::parse(answer).unwrap()).unwrap()
}

/// Bytes sent to clients so far.
fn bytes_out(world: &World) -> usize {
    world.sent.iter().map(|output| if let Output::Send { bytes, .. } = output { bytes.len() } else { 0 }).sum()
}

#[test]
fn a_replayed_first_camp_moves_nobody_and_learns_nothing() {
    let mut world = World::new(Config::default());
    let mut member = Member::new(1, 1);
    let captured = member.camp_request(&mut world);
    member.camp(&mut world).unwrap();
    let thief = udp("203.0.113.66:6666");
    let answer = world.ask(thief, &captured).unwrap();
    assert!(answer.len() <= 140);
    assert_eq!((failure(&answer).code, world.stats().refused_moved), (401, 1));
    member.camp(&mut world).unwrap();
    let mut other = Member::new(1, 2);
    other.camp(&mut world).unwrap();
    other.signal(&mut world, member.id(), b"to the member").unwrap();
    assert!(world.received(thief).is_empty());
    assert_eq!(world.stats().seats, 2);
}

#[test]
fn a_first_camp_replayed_from_a_spoofed_source_does_not_bring_back_an_old_announcement() {
    let mut world = World::new(Config::default());
    let mut member = Member::new(1, 1);
    let captured = member.camp_request(&mut world);
    member.camp(&mut world).unwrap();
    member.announcement = Some(b"newer".to_vec());
    member.camp(&mut world).unwrap();
    assert_eq!(failure(&world.ask(member.via, &captured).unwrap()).code, 401);
    let listed = Member::new(1, 2).camp(&mut world).unwrap().entries;
    assert_eq!(listed[0].announcement.as_deref(), Some(&b"newer"[..]));
}

#[test]
fn a_replayed_camp_with_a_nonce_is_worth_nothing_elsewhere() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 2);
    let captured = members[0].camp_request(&mut world);
    let answer = world.ask(udp("203.0.113.66:6666"), &captured).unwrap();
    assert_eq!(failure(&answer).code, 438);
    world.pass(seconds(1));
    assert_eq!(world.stats().moved, 0);
    members[0].camp(&mut world).unwrap();
}

#[test]
fn a_first_camp_replayed_after_a_minute_is_too_old() {
    let mut world = World::new(Config::default());
    let mut member = Member::new(1, 1);
    let captured = member.camp_request(&mut world);
    member.camp(&mut world).unwrap();
    member.lifetime = 0;
    member.camp(&mut world).unwrap();
    world.pass(seconds(61));
    assert_eq!(failure(&world.ask(udp("203.0.113.66:6666"), &captured).unwrap()).code, 401);
    assert_eq!(world.stats().seats, 0);
}

#[test]
fn forged_integrity_and_unknown_campfires_take_nothing() {
    let mut world = World::new(Config::default());
    let mut wrong = Member::new(1, 1);
    wrong.secret = psk(2).relay;
    assert_eq!(wrong.camp(&mut world).unwrap_err().code, 401);
    let mut unknown = Member::new(9, 2);
    assert_eq!(unknown.camp(&mut world).unwrap_err().code, 401);
    for name in ["", ":", "x:y", "99999999999999999999999:00", "1800000000", "-5:0011223344556677", "+1800000000:0011223344556677"] {
        let mut odd = Member::new(1, 3);
        odd.user_name = name.into();
        assert_eq!(odd.camp(&mut world).unwrap_err().code, 401, "{name:?}");
    }
    let mut flipped = Member::new(1, 4).camp_request(&mut world);
    flipped[60] ^= 1;
    assert_eq!(failure(&world.ask(source(4), &flipped).unwrap()).code, 401);
    assert_eq!((world.stats().seats, world.stats().clients, world.stats().memory), (0, 0, 0));
}

#[test]
fn standard_integrity_does_not_open_the_fire() {
    let mut world = World::new(Config::default());
    let member = Member::new(1, 1);
    let request = Builder::new(Class::Request, Method::CAMP, TransactionId([5; 12]))
        .attribute(Attribute::USERNAME, member.user_name.as_bytes())
        .finish_sha1(
            credential::long_term_key_md5(&member.user_name, "campfire", &credential::password(&member.secret, &member.user_name)).as_ref(),
        );
    assert_eq!(failure(&world.ask(member.via, &request).unwrap()).code, 401);
}

#[test]
fn one_campfire_cannot_reach_into_another() {
    let mut world = World::new(Config::default());
    let mut ours = camped(&mut world, 1, 1);
    let mut theirs = Member::new(2, 50);
    // Behind the same address, in a room of the same id.
    (theirs.via, theirs.room) = (ours[0].via, ours[0].room);
    theirs.camp(&mut world).unwrap();
    assert_eq!(theirs.signal(&mut world, ours[0].id(), b"x").unwrap_err().code, 404);
    assert_eq!(theirs.bind(&mut world, ours[0].id(), 0x4000).unwrap_err().code, 404);
    let token = std::mem::replace(&mut theirs.token, ours[0].token);
    assert_eq!(theirs.signal(&mut world, ours[0].id(), b"x").unwrap_err().code, 403, "another campfire's seat at the same address");
    theirs.token = token;
    ours[0].camp(&mut world).unwrap();
}

#[test]
fn a_hundred_thousand_spoofed_sources_leave_nothing_and_get_little() {
    let mut world = World::new(Config::default());
    let member = Member::new(9, 1);
    let camp = member.camp_request(&mut world);
    let allocate = Builder::new(Class::Request, Method::ALLOCATE, TransactionId([1; 12])).finish();
    let binding = Builder::new(Class::Request, Method::BINDING, TransactionId([2; 12])).finish();
    let mut received = 0;
    for n in 0..100_000 {
        for bytes in [&camp, &allocate, &binding] {
            received += bytes.len();
            world.message(source(n), bytes);
        }
        let (forward, _) = world.forward(source(n), 0x4000, b"x");
        assert_eq!(forward, Forward::Drop);
    }
    let stats = world.stats();
    assert_eq!((stats.clients, stats.seats, stats.allocations, stats.memory), (0, 0, 0, 0));
    assert_eq!(world.server.next_wake(), None, "not even a timer");
    assert!(bytes_out(&world) < received, "{} bytes out for {received} in", bytes_out(&world));
    assert!(world.sent.iter().all(|output| matches!(output, Output::Send { bytes, .. } if bytes.len() <= 140)));
}

#[test]
fn a_prefix_gets_so_many_answers_and_no_more_until_it_proves_itself() {
    let mut config = Config::default();
    config.limits.unproven = Rate { rate: 10, burst: 20 };
    let mut world = World::new(config);
    let mut members = camped(&mut world, 1, 1);
    for n in 0..1_000_u16 {
        let request = Builder::new(Class::Request, Method::BINDING, world.transaction()).finish();
        world.message(udp(&format!("10.0.0.77:{}", 1_000 + n)), &request);
    }
    assert_eq!((world.sent.len(), world.stats().dropped_unproven), (20, 980));
    world.sent.clear();
    let binding = Builder::new(Class::Request, Method::BINDING, world.transaction()).finish();
    assert!(world.ask(members[0].via, &binding).is_some(), "a neighbour that has proven itself is answered");
    members[0].camp(&mut world).unwrap();
    assert!(world.ask(udp("10.0.1.1:1"), &binding).is_some(), "and another prefix");
}

#[test]
fn what_is_pushed_to_a_seat_that_has_proven_nothing_is_bounded_by_what_it_sent() {
    let mut world = World::new(Config::default());
    let mut victim = Member::new(1, 1);
    victim.camp(&mut world).unwrap();
    let mut members = camped(&mut world, 1, 10);
    world.sent.clear();
    let mut victim = Member::new(1, 666);
    victim.camp(&mut world).unwrap();
    for _ in 0..50 {
        for member in &mut members {
            let _ = member.signal(&mut world, victim.id(), &[1; 1_000]);
            member.announcement = Some(vec![world.sent.len() as u8; 600]);
            member.camp(&mut world).unwrap();
            world.pass(std::time::Duration::from_millis(20));
        }
    }
    let pushed: usize = world.received(victim.via).iter().map(Vec::len).sum();
    assert!(pushed > 0 && pushed <= 3 * MAX_MESSAGE, "{pushed} bytes");
    assert!(world.stats().dropped_push_unproven > 0);
    // It proves itself, and hears again.
    victim.camp(&mut world).unwrap();
    members[0].signal(&mut world, victim.id(), &[1; 1_000]).unwrap();
    assert!(!victim.pushes(&mut world).is_empty());
}

#[test]
fn a_camp_that_is_smaller_than_its_answer_gets_a_challenge_instead() {
    let mut world = World::new(Config { server_id: Some("x".repeat(128)), ..Config::default() });
    let member = Member::new(1, 1);
    let unpadded = campfire_protocol::wire::CampRequest {
        room: member.room,
        token: member.token,
        lifetime: 60,
        unix_millis: START,
        announcement: Some(vec![1]),
        tags: Vec::new(),
        cursor: member.cursor,
    };
    // With a nonce the request is not padded; the nonce is a stranger's, so it is a first Camp that pretends.
    let bytes = {
        let key = member.key();
        let built = Builder::new(Class::Request, Method::CAMP, TransactionId([3; 12]))
            .attribute(Attribute::USERNAME, member.user_name.as_bytes())
            .attribute(Attribute::CAMP_ROOM, &unpadded.room.0)
            .attribute(Attribute::CAMP_TOKEN, &unpadded.token.0)
            .u32(Attribute::LIFETIME, 60)
            .attribute(Attribute::CAMP_TIME, &START.to_be_bytes())
            .attribute(Attribute::CAMP_CURSOR, &[0; 16])
            .attribute(Attribute::CAMP_ANNOUNCEMENT, &[1]);
        built.finish_sha256(key.as_ref())
    };
    let answer = world.ask(member.via, &bytes).unwrap();
    assert!(answer.len() <= bytes.len() && answer.len() <= 140);
    assert_eq!(failure(&answer).code, 401);
}

#[test]
fn one_member_that_fills_a_room_fills_it_for_itself() {
    let mut config = Config::default();
    config.limits.members = 50;
    let mut world = World::new(config);
    let mut honest = camped(&mut world, 1, 2);
    let (a, b) = (honest[0].id(), honest[1].id());
    honest[0].bind(&mut world, b, 0x4000).unwrap();
    honest[1].bind(&mut world, a, 0x4000).unwrap();
    world.forward(honest[0].via, 0x4000, b"x");
    // One host, many ports.
    let mut refused = 0;
    for n in 0..200_u16 {
        let mut filler = Member::new(1, 1_000 + usize::from(n));
        filler.via = udp(&format!("203.0.113.66:{}", 10_000 + n));
        refused += usize::from(filler.camp(&mut world).is_err());
    }
    assert_eq!((world.stats().seats, refused), (50, 152));
    let mut newcomers: Vec<Member> = (10..20).map(|n| Member::new(1, n)).collect();
    for newcomer in &mut newcomers {
        newcomer.camp(&mut world).expect("the filler makes way");
    }
    assert_eq!((world.stats().seats, world.stats().ended_evicted), (50, 10));
    assert_eq!(world.forward(honest[0].via, 0x4000, b"x").0, Forward::Client { via: honest[1].via });
    honest[0].camp(&mut world).unwrap();
}

#[test]
fn a_room_full_of_equals_takes_nobody_and_seats_that_exchanged_frames_stay() {
    let mut config = Config::default();
    config.limits.members = 4;
    let mut world = World::new(config);
    let mut members = camped(&mut world, 1, 4);
    let mut late = Member::new(1, 77);
    assert_eq!(late.camp(&mut world).unwrap_err().code, 508);
    assert_eq!(world.stats().limited_members, 1);
    members[0].lifetime = 0;
    members[0].camp(&mut world).unwrap();
    late.camp(&mut world).unwrap();
}

#[test]
fn when_memory_is_full_the_largest_campfire_makes_way_for_a_small_one_and_the_rest_is_refused() {
    let mut config = Config::default();
    config.limits.memory = 64 << 10;
    let mut world = World::new(config);
    let mut taken = 0;
    while Member::new(1, taken).camp(&mut world).is_ok() {
        taken += 1;
    }
    assert!(taken > 40, "{taken}");
    assert_eq!((world.stats().limited_memory, world.stats().ended_evicted), (1, 0));
    let mut other = Member::new(2, 5_000);
    other.camp(&mut world).unwrap();
    assert_eq!(world.stats().ended_evicted, 1);
    assert!(world.stats().memory <= 64 << 10);
    assert_eq!(User::alice(source(6_000)).allocate(&mut world).unwrap_err(), 508);
}

#[test]
fn seats_on_one_source_and_rooms_of_one_campfire_are_few() {
    let mut world = World::new(Config::default());
    for n in 0..8 {
        let mut member = Member::new(1, n);
        member.via = source(1);
        member.camp(&mut world).unwrap();
    }
    let mut ninth = Member::new(1, 9);
    ninth.via = source(1);
    assert_eq!(ninth.camp(&mut world).unwrap_err().code, 486);
    let mut mover = Member::new(1, 10);
    mover.camp(&mut world).unwrap();
    mover.via = source(1);
    mover.camp(&mut world).unwrap_err();
    assert_eq!(mover.camp(&mut world).unwrap_err().code, 486, "nor by moving there");
    let rooms = world.stats().rooms;
    let camp = |world: &mut World, n: usize, room: usize| {
        let mut member = Member::new(3, n);
        member.room.0 = [room as u8; 32];
        member.camp(world).map_err(|failure| failure.code)
    };
    // Of rooms in which one sits alone the youngest makes way; where several met, none does.
    for n in 0..20 {
        camp(&mut world, 100 + n, n).unwrap();
    }
    assert_eq!((world.stats().rooms - rooms, world.stats().ended_evicted), (16, 4));
    for n in (0..15).chain([19]) {
        camp(&mut world, 200 + n, n).unwrap();
    }
    assert_eq!(camp(&mut world, 300, 30).unwrap_err(), 508);
    assert_eq!((world.stats().limited_seats_per_source, world.stats().limited_rooms), (2, 1));
}

#[test]
fn a_member_s_requests_and_signals_are_limited_without_harm_to_others() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 3);
    let (b, c) = (members[1].id(), members[2].id());
    let signals = (0..2_000).filter(|_| members[0].signal(&mut world, b, b"x").is_ok()).count();
    assert_eq!((signals, world.stats().limited_signals), (600, 1_400));
    let binds = (0..1_000).filter(|_| members[0].bind(&mut world, b, 0x4000).is_ok()).count();
    assert!((390..=410).contains(&binds), "{binds}");
    assert_eq!(members[0].camp(&mut world).unwrap_err().code, 486);
    members[1].signal(&mut world, c, b"x").unwrap();
    members[1].camp(&mut world).unwrap();
    world.pass(seconds(1));
    members[0].camp(&mut world).expect("it recovers");
}

#[test]
fn oversized_and_malformed_requests_of_a_member_are_refused() {
    let mut config = Config::default();
    config.limits.announcement = 500;
    let mut world = World::new(config);
    let mut member = Member::new(1, 1);
    member.announcement = Some(vec![1; 501]);
    assert_eq!(member.camp(&mut world).unwrap_err().code, 400);
    assert_eq!(world.stats().limited_announcement, 1);
    member.announcement = Some(vec![1; 500]);
    member.camp(&mut world).unwrap();
    let (key, nonce) = (member.key(), member.nonce.clone().unwrap());
    let id = member.id();
    let long = vec![1; 1_100];
    let bad: [(Method, &[Given<'_>], u16); 9] = [
        (Method::CAMP, &[], 400),
        (Method::CAMP, &[(Attribute::CAMP_ROOM, &[1; 31])], 400),
        (Method::FIND, &[(Attribute::CAMP_FROM, &id.0)], 400),
        (Method::FIND, &[(Attribute::CAMP_FROM, &id.0), (Attribute::CAMP_TAGS, &[1; 17 * 8])], 400),
        (Method::FIND, &[(Attribute::CAMP_FROM, &id.0), (Attribute::CAMP_TAGS, &[1; 7])], 400),
        (Method::SIGNAL, &[(Attribute::CAMP_FROM, &id.0), (Attribute::CAMP_TO, &id.0), (Attribute::CAMP_DATA, &long)], 400),
        (Method::BIND, &[(Attribute::CAMP_FROM, &id.0), (Attribute::CAMP_TO, &id.0)], 400),
        (Method::BIND, &[(Attribute::CAMP_FROM, &id.0), (Attribute(0x7777), b"?")], 420),
        (Method::SIGNAL, &[(Attribute::CAMP_FROM, &[0; 16]), (Attribute::CAMP_TO, &id.0), (Attribute::CAMP_DATA, b"x")], 403),
    ];
    for (n, (method, attributes, code)) in bad.into_iter().enumerate() {
        let start = Builder::new(Class::Request, method, world.transaction())
            .attribute(Attribute::USERNAME, member.user_name.as_bytes())
            .attribute(Attribute::NONCE, nonce.as_bytes());
        let request = attributes.iter().fold(start, |builder, (attribute, value)| builder.attribute(*attribute, value));
        let answer = world.ask(member.via, &request.finish_sha256(key.as_ref())).unwrap();
        assert_eq!(failure(&answer).code, code, "case {n}");
    }
}

#[test]
fn taking_and_leaving_seats_all_the_time_is_limited_for_each_prefix() {
    let mut config = Config::default();
    config.limits.newcomers = Rate { rate: 5, burst: 10 };
    let mut world = World::new(config);
    let mut member = Member::new(1, 1);
    let mut taken = 0;
    for n in 0..100 {
        (member.lifetime, member.token.0[0]) = (60, n);
        taken += usize::from(member.camp(&mut world).is_ok());
        member.lifetime = 0;
        member.camp(&mut world).unwrap();
    }
    assert_eq!((taken, world.stats().limited_newcomers), (10, 90));
    Member::new(1, 70_000).camp(&mut world).expect("another prefix");
}

#[test]
fn a_stream_that_comes_and_goes_leaves_no_timers_behind() {
    let mut world = World::new(Config::default());
    let mut member = Member::new(1, 1);
    for n in 0..500 {
        member.via = stream(n, &format!("198.51.100.1:{}", 2_000 + n));
        if member.camp(&mut world).is_err() {
            member.camp(&mut world).unwrap();
        }
        world.input(Input::StreamClosed { via: member.via });
        world.pass(std::time::Duration::from_millis(100));
    }
    member.camp(&mut world).unwrap();
    world.pass(seconds(20));
    let mut wakes = 0;
    for _ in 0..4 {
        member.camp(&mut world).unwrap();
        let end = world.now + seconds(40);
        while let Some(wake) = world.server.next_wake().filter(|wake| *wake <= end) {
            world.pass(wake.since(world.now));
            wakes += 1;
        }
        world.pass(end.since(world.now));
    }
    assert!(wakes < 10, "{wakes}");
}

#[test]
fn pushes_and_answers_from_clients_are_not_passed_on() {
    let mut world = World::new(Config::default());
    let members = camped(&mut world, 1, 2);
    let (from, to) = (members[0].id(), members[1].id());
    let key = credential::push_key(&members[1].secret, &to);
    let forged =
        campfire_protocol::wire::SignalRequest { from, to, data: b"forged".to_vec() }.encode_indication(TransactionId([1; 12]), &key);
    world.message(members[0].via, &forged);
    world.message(members[0].via, &Builder::new(Class::Success, Method::CAMP, TransactionId([1; 12])).finish());
    world.message(members[0].via, &Builder::new(Class::Indication, Method::DATA, TransactionId([1; 12])).finish());
    assert!(world.sent.is_empty());
    assert_eq!(world.stats().dropped_unexpected, 3);
}

#[test]
fn a_million_tombstones_cannot_be_made() {
    let mut config = Config::default();
    config.limits.bindings = 8;
    config.limits.requests = Rate { rate: 1_000_000, burst: 1_000_000 };
    let mut world = World::new(config);
    let mut members = camped(&mut world, 1, 2);
    let b = members[1].id();
    let bound = (0x4000..0x4200).filter(|channel| members[0].bind(&mut world, b, *channel).is_ok()).count();
    assert_eq!((bound, world.stats().bindings), (8, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_input_in_any_order_is_survived(tight: bool, inputs in prop::collection::vec((0..9_usize, 0..4_usize, prop::collection::vec(any::<u8>(), 0..80), 0..90_u64), 1..60)) {
        let mut config = Config { relay_ipv6: true, ..Config::default() };
        if tight {
            let limits = &mut config.limits;
            (limits.large, limits.small, limits.interest, limits.members, limits.bindings, limits.departures) = (2, 2, 1, 3, 2, 1);
        }
        let mut world = World::new(config);
        let mut members: Vec<Member> = (0..4).map(|n| Member::new(1, n)).collect();
        let mut users: Vec<User> = (0..4).map(|n| User::alice(source(n))).collect();
        let ids: Vec<_> = members.iter().map(Member::id).collect();
        for (what, who, noise, wait) in inputs {
            let via = members[who].via;
            let other = ids[usize::from(noise.first().copied().unwrap_or(0)) % 4];
            let channel = 0x4000 + u16::from(noise.last().copied().unwrap_or(0) % 4);
            match what {
                0 => { let _ = members[who].camp(&mut world); }
                1 => { let _ = members[who].bind(&mut world, other, channel); }
                2 => {
                    let _ = members[who].release(&mut world, other, channel);
                    let _ = members[who].signal(&mut world, other, b"x");
                }
                3 => { let _ = world.forward(via, channel, &noise); }
                4 => { let _ = users[who].allocate(&mut world); let _ = users[who].bind(&mut world, "203.0.113.1:1", channel); }
                5 => {
                    members[who].lifetime = if wait % 2 == 0 { 0 } else { 60 };
                    members[who].via = source(usize::from(channel & 3));
                }
                6 => world.input(Input::StreamClosed { via }),
                7 => world.input(Input::RelayDatagram { relay: RelayId(wait % 4), from: "203.0.113.1:1".parse().unwrap(), payload: &noise }),
                _ => {
                    world.message(via, &noise);
                    let mut almost = members[who].camp_request(&mut world);
                    for byte in &noise {
                        let at = usize::from(*byte) * 4 % almost.len();
                        almost[at] ^= byte | 1;
                    }
                    world.message(Via::Stream { stream: StreamId(wait), remote: via.remote() }, &almost);
                    let mut frame = noise.clone();
                    let _ = world.server.forward(world.now, via, &mut frame);
                    let _ = world.server.forward_relayed(world.now, RelayId(wait % 4), "203.0.113.1:1".parse().unwrap(), &mut frame);
                }
            }
            world.pass(std::time::Duration::from_millis(wait * 700));
            world.sent.clear();
        }
        // Everything ends by itself, and the accounts are even.
        world.pass(seconds(4_000));
        let stats = world.stats();
        prop_assert_eq!((stats.seats, stats.rooms, stats.clients, stats.memory), (0, 0, 0, 0));
        prop_assert_eq!((stats.bindings, stats.allocations, stats.permissions, stats.channels), (0, 0, 0, 0));
    }
}
