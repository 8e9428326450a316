//! What hostile servers, members and bystanders send: dropped, counted, and without effect.
#![allow(clippy::unwrap_used)]

mod world;

use std::net::SocketAddr;
use std::time::Duration;

use campfire_fire::io::Input;
use campfire_fire::{FireEvent, Seat};
use campfire_protocol::announce::{Announcement, Session};
use campfire_protocol::carrier::{ServerSlot, SocketId, Via};
use campfire_protocol::credential::{campfire_key, push_key};
use campfire_protocol::identity::Identity;
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, TransactionId};
use campfire_protocol::time::UnixMillis;
use campfire_protocol::wire::{Cursor, Ember, Entry, Failure, MemberId, SignalRequest};

use world::{World, address, identity, ms, psk, secs};

/// Two members, of whom the first is to be deceived; its server is hostile.
struct Scene {
    world: World,
    victim: usize,
    other: usize,
    /// The victim's own id.
    me: MemberId,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new(1);
        let (victim, other) = (world.join(&[0]), world.join(&[0]));
        world.run(secs(2));
        let me = world.seat(other, victim).member;
        world.forget_events();
        Self { world, victim, other, me }
    }

    fn via() -> Via {
        Via::Udp { socket: SocketId(0), remote: address(0) }
    }

    fn counter(&self, name: &str) -> u64 {
        self.world.look(self.victim).counters().iter().find(|(known, _)| *known == name).unwrap().1
    }

    /// The server pushes an announcement for a seat.
    fn push(&mut self, member: MemberId, sealed: Option<Vec<u8>>) {
        let cursor = Cursor { incarnation: 9, sequence: 1 };
        let entries = vec![Entry { member, announcement: sealed }];
        let ember = Ember { to: self.me, previous: cursor, cursor, entries, leaving: false };
        let bytes = ember.encode(TransactionId([3; 12]), &push_key(&psk(1).relay, &self.me));
        self.world.inject(self.victim, Self::via(), &bytes);
    }

    fn members(&self) -> usize {
        self.world.look(self.victim).peers().count()
    }
}

#[test]
fn nothing_is_taken_from_where_no_server_is() {
    let mut scene = Scene::new();
    let answer = Builder::new(Class::Success, Method::BINDING, TransactionId([1; 12])).finish();
    let stranger: SocketAddr = "192.0.2.66:3478".parse().unwrap();
    scene.world.inject(scene.victim, Via::Udp { socket: SocketId(0), remote: stranger }, &answer);
    assert_eq!(scene.counter("drop_foreign_source"), 1);
    scene.world.inject(scene.victim, Scene::via(), &answer);
    assert_eq!(scene.counter("drop_unexpected"), 1, "an answer to nothing");
    for bytes in [&[][..], &[0; 19], &[1; 40], &answer[..19]] {
        scene.world.inject(scene.victim, Scene::via(), bytes);
    }
    assert_eq!(scene.counter("drop_malformed"), 4);
}

#[test]
fn pushes_under_another_key_or_to_another_seat_are_dropped() {
    let mut scene = Scene::new();
    let cursor = Cursor { incarnation: 9, sequence: 1 };
    let departure = vec![Entry { member: scene.world.seat(scene.victim, scene.other).member, announcement: None }];
    let ember = Ember { to: scene.me, previous: cursor, cursor, entries: departure.clone(), leaving: true };
    for key in [[0; 32], *push_key(&psk(2).relay, &scene.me), *push_key(&psk(1).relay, &MemberId([5; 16]))] {
        scene.world.inject(scene.victim, Scene::via(), &ember.encode(TransactionId([3; 12]), &key));
    }
    let signal = SignalRequest { from: departure[0].member, to: scene.me, data: vec![1; 148] };
    scene.world.inject(scene.victim, Scene::via(), &signal.encode_indication(TransactionId([3; 12]), &[0; 32]));
    assert_eq!(scene.counter("drop_integrity"), 4);
    let elsewhere = Ember { to: MemberId([5; 16]), ..ember };
    let key = push_key(&psk(1).relay, &MemberId([5; 16]));
    scene.world.inject(scene.victim, Scene::via(), &elsewhere.encode(TransactionId([3; 12]), &key));
    assert_eq!(scene.counter("drop_unexpected"), 1);
    scene.world.run(secs(1));
    assert!(scene.world.peers[scene.victim].events.is_empty(), "{:?}", scene.world.peers[scene.victim].events);
}

#[test]
fn announcements_that_do_not_open_or_verify_are_dropped() {
    let mut scene = Scene::new();
    let member = MemberId([0x11; 16]);
    let stranger = Identity::from_seed(&[99; 32]);
    let honest = announcement(&stranger, 1);
    // Sealed for another seat, for another room, and damaged.
    let for_another_seat = seal(&honest, &stranger, 1, MemberId([0x12; 16]));
    let for_another_room = seal(&honest, &stranger, 2, member);
    let mut damaged = seal(&honest, &stranger, 1, member);
    *damaged.last_mut().unwrap() ^= 1;
    for sealed in [for_another_seat, for_another_room, damaged, vec![0; 10]] {
        scene.push(member, Some(sealed));
    }
    assert_eq!(scene.counter("drop_sealed"), 4);
    assert_eq!(scene.members(), 1);
    scene.push(member, Some(seal(&honest, &stranger, 1, member)));
    assert_eq!(scene.members(), 2, "the honest one is taken");
}

#[test]
fn an_older_announcement_and_an_earlier_run_are_replays() {
    let mut scene = Scene::new();
    let member = MemberId([0x11; 16]);
    let stranger = Identity::from_seed(&[99; 32]);
    let sealed = |sequence, started| {
        let mut said = announcement(&stranger, sequence);
        said.session.started = UnixMillis(started);
        seal(&said, &stranger, 1, member)
    };
    let start = scene.world.wall(0).0;
    scene.push(member, Some(sealed(5, start)));
    scene.push(member, Some(sealed(4, start)));
    scene.push(member, Some(sealed(9, start - 1)));
    assert_eq!(scene.counter("drop_replayed"), 2);
    let known = scene.world.look(scene.victim).announcement(&stranger.public()).unwrap();
    assert_eq!((known.sequence, known.session.started.0), (5, start));
}

#[test]
fn a_seat_cannot_be_claimed_with_another_key_nor_our_own_key_from_elsewhere() {
    let mut scene = Scene::new();
    let seat = scene.world.seat(scene.victim, scene.other);
    let stranger = Identity::from_seed(&[99; 32]);
    scene.push(seat.member, Some(seal(&announcement(&stranger, 1_000), &stranger, 1, seat.member)));
    assert_eq!(scene.counter("drop_foreign_seat"), 1);
    assert_eq!(scene.world.look(scene.victim).peer_of(&seat), Some(scene.world.peers[scene.other].key));
    let ours = identity(scene.victim);
    let member = MemberId([0x22; 16]);
    scene.push(member, Some(seal(&announcement(&ours, 1_000), &ours, 1, member)));
    assert_eq!(scene.counter("drop_own_key"), 1);
}

#[test]
fn what_was_sent_in_the_future_is_dropped() {
    let mut scene = Scene::new();
    let member = MemberId([0x11; 16]);
    let stranger = Identity::from_seed(&[99; 32]);
    let now = scene.world.wall(0).0;
    let mut ahead = announcement(&stranger, 1);
    ahead.sent_at = UnixMillis(now + 660_000);
    scene.push(member, Some(seal(&ahead, &stranger, 1, member)));
    ahead.sent_at = UnixMillis(now);
    ahead.session.started = UnixMillis(u64::MAX);
    scene.push(member, Some(seal(&ahead, &stranger, 1, member)));
    assert_eq!(scene.counter("drop_future"), 2);
    ahead.session.started = UnixMillis(now + 540_000);
    scene.push(member, Some(seal(&ahead, &stranger, 1, member)));
    assert_eq!(scene.members(), 2);
}

#[test]
fn a_flood_of_members_and_seats_stays_within_bounds() {
    let mut scene = Scene::new();
    for n in 0..2_000_u32 {
        let mut id = [0x33; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let (member, who) = (MemberId(id), Identity::from_seed(&[u8::try_from(n % 251).unwrap() + 1; 32]));
        if n < 1_000 {
            // Few keys, many seats.
            scene.push(member, Some(seal(&announcement(&who, n), &who, 1, member)));
        } else {
            let mut seed = [0x55; 32];
            seed[..4].copy_from_slice(&n.to_be_bytes());
            let who = Identity::from_seed(&seed);
            scene.push(member, Some(seal(&announcement(&who, 1), &who, 1, member)));
        }
    }
    assert!(scene.members() <= 512, "{}", scene.members());
    assert!(scene.counter("drop_roster_full") > 0);
    let other = scene.world.peers[scene.other].key;
    assert!(scene.world.look(scene.victim).announcement(&other).is_some(), "who was there first stays");
}

#[test]
fn signals_of_unknown_senders_wait_for_their_announcement_and_no_longer() {
    let mut scene = Scene::new();
    let member = MemberId([0x11; 16]);
    let stranger = Identity::from_seed(&[99; 32]);
    let signal = SignalRequest { from: member, to: scene.me, data: vec![1; 148] };
    let bytes = signal.encode_indication(TransactionId([3; 12]), &push_key(&psk(1).relay, &scene.me));
    scene.world.inject(scene.victim, Scene::via(), &bytes);
    assert!(signals(&scene).is_empty());
    scene.push(member, Some(seal(&announcement(&stranger, 1), &stranger, 1, member)));
    assert_eq!(signals(&scene).len(), 1, "it came after all");
    for n in 0..200 {
        let unknown = SignalRequest { from: MemberId([n; 16]), ..signal.clone() };
        let bytes = unknown.encode_indication(TransactionId([3; 12]), &push_key(&psk(1).relay, &scene.me));
        scene.world.inject(scene.victim, Scene::via(), &bytes);
    }
    assert!(scene.counter("drop_unknown_sender") >= 100);
}

#[test]
fn an_answer_without_the_key_does_not_end_the_question() {
    let mut world = World::new(1);
    let (a, b) = (world.join(&[0]), world.join(&[0]));
    world.run(secs(2));
    let seat = world.seat(a, b);
    world.fire(a, |fire, now| fire.bind(now, &seat));
    // A bystander who saw the transaction answers first, wrongly signed.
    let transaction = world.last_transaction(0);
    let forged = Builder::new(Class::Success, Method::BIND, transaction).finish_sha256(&[0; 32]);
    world.inject(a, Scene::via(), &forged);
    assert!(world.look(a).relay_path(&seat).is_none());
    world.run(ms(100));
    assert!(world.look(a).relay_path(&seat).is_some());
}

#[test]
fn challenges_without_end_do_not_make_a_member_ask_without_end() {
    let mut world = World::new(1);
    let a = world.join(&[0]);
    let via = Scene::via();
    for _ in 0..50 {
        // By one who knows the key: others' are not even looked at.
        let request = world.last_request(0);
        let key = campfire_key(&psk(1).relay, request.text(Attribute::USERNAME).unwrap().unwrap());
        let challenge = Failure { code: 438, reason: "Stale Nonce".into(), nonce: Some("again".into()), unix_millis: None };
        let challenge = challenge.encode(&request, Some(&key));
        world.inject(a, via, &challenge);
    }
    assert!(world.peers[a].sent_messages < 10, "{}", world.peers[a].sent_messages);
}

#[test]
fn random_bytes_in_well_formed_messages_do_no_harm() {
    let mut scene = Scene::new();
    let key = push_key(&psk(1).relay, &scene.me);
    let mut state = 1_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for n in 0..3_000 {
        let method = [Method::EMBER, Method::SIGNAL, Method::CAMP, Method(0x0F7)][n % 4];
        let mut builder = Builder::new(Class::Indication, method, TransactionId([n as u8; 12]));
        builder = builder.attribute(Attribute::CAMP_TO, &scene.me.0);
        for _ in 0..random() % 5 {
            let value: Vec<u8> = (0..random() % 40).map(|_| random()).collect();
            builder = builder.attribute(Attribute(0x4C01 + u16::from(random() % 18)), &value);
        }
        let bytes = builder.finish_sha256(key.as_slice());
        assert!(Message::parse(&bytes).is_ok());
        scene.world.inject(scene.victim, Scene::via(), &bytes);
    }
    scene.world.run(Duration::from_secs(30));
    assert!(scene.world.knows(scene.victim, scene.other));
    assert!(!scene.world.peers[scene.victim].events.iter().any(|(_, event)| matches!(event, FireEvent::Lost { .. })));
}

fn signals(scene: &Scene) -> Vec<Seat> {
    let events = scene.world.peers[scene.victim].events.iter();
    events.filter_map(|(_, event)| if let FireEvent::Signal { from, .. } = event { Some(*from) } else { None }).collect()
}

fn announcement(who: &Identity, sequence: u32) -> Announcement {
    let now = UnixMillis(world::WALL + 1_000_000);
    Announcement {
        public_key: who.public(),
        session: Session { started: now, nonce: 1 },
        sequence,
        sent_at: now,
        name: "stranger".into(),
        namespace: String::new(),
        cluster: String::new(),
        fingerprints: vec![psk(1).fingerprint],
        servers: Vec::new(),
        routes: Vec::new(),
        ipv4: None,
        features: 0,
        record: None,
    }
}

fn seal(said: &Announcement, who: &Identity, key: u8, member: MemberId) -> Vec<u8> {
    said.seal(who, &psk(key), &member, &[member.0[0]; 24]).unwrap()
}

#[test]
fn a_server_slot_that_is_not_there_is_asked_for_nothing() {
    let mut scene = Scene::new();
    let nowhere = Seat { server: ServerSlot(77), room: 9, member: MemberId([1; 16]) };
    scene.world.fire(scene.victim, |fire, now| {
        fire.bind(now, &nowhere);
        fire.signal(now, &nowhere, vec![1; 10]);
        fire.release(now, &nowhere);
        fire.note_traffic(now, nowhere.server, Some(now), None);
        fire.handle(now, Input::Resolved { server: nowhere.server, addresses: &[] });
        fire.handle(now, Input::StreamClosed { stream: campfire_protocol::carrier::StreamId(1), reason: "" });
    });
    assert!(scene.world.look(scene.victim).relay_path(&nowhere).is_none());
}
