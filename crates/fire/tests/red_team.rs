//! What hostile members, servers and bystanders could do; each test shows the fault as it stands.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use campfire_fire::FireEvent;
use campfire_fire::config::{KeyEntry, KeyMode, Reconfigure};
use campfire_fire::io::Notice;
use campfire_protocol::announce::{Announcement, ServerRecord, Session};
use campfire_protocol::carrier::{SocketId, Via};
use campfire_protocol::credential::push_key;
use campfire_protocol::identity::{Identity, ipv4_in_pool};
use campfire_protocol::server::{Scope, Server as Entry, ServerAddress, ServerId, Transport, score};
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, TransactionId};
use campfire_protocol::time::UnixMillis;
use campfire_protocol::wire::{CampSuccess, Cursor, Ember, Entry as Row, MemberId};
use std::sync::Arc;
use world::{World, address, config, entry, identity, ms, psk, secs};

fn via(server: usize) -> Via {
    Via::Udp { socket: SocketId(0), remote: address(server) }
}
fn counter(world: &World, peer: usize, name: &str) -> u64 {
    world.look(peer).counters().iter().find(|(known, _)| *known == name).unwrap().1
}

/// Bystander without any key, who sees a transaction id: forged errors of every kind, before the server answers.
#[test]
fn red_4_one_forged_401_hides_nobody() {
    for code in [300, 400, 401, 403, 404, 420, 438, 486, 508] {
        let mut world = World::new(1);
        let other = world.join(&[0]);
        world.run(secs(2));
        let victim = world.join(&[0]);
        world.inject(victim, via(0), &forged(&world, code));
        let took = world.run_until(secs(2), "it is known", |world| world.knows(other, victim) && world.knows(victim, other));
        assert!(took <= ms(60), "{code}: the real answer is waited for, {took:?}");
        world.run(secs(600));
        assert_eq!(world.look(victim).unix_now(world.now).0.abs_diff(world.wall(0).0), 0, "{code}");
        assert!(world.knows(other, victim), "{code}");
        assert_eq!(counter(&world, other, "drop_future"), 0, "{code}");
        assert!(!world.peers[victim].notices.iter().any(|notice| matches!(notice, Notice::Problem { .. })), "{code}: said to nobody");
    }
}

/// The same against one that sits there: nothing that it asks is ended by an error that anybody could have made.
#[test]
fn red_4_a_forged_error_ends_no_question_of_one_that_sits_there() {
    for code in [300, 400, 401, 403, 404, 420, 438, 486, 508] {
        let mut world = World::new(1);
        let (victim, other) = (world.join(&[0]), world.join(&[0]));
        world.run(secs(2));
        let seat = world.seat(victim, other);
        world.fire(victim, |fire, now| fire.bind(now, &seat));
        world.inject(victim, via(0), &forged(&world, code));
        world.run(ms(50));
        assert!(world.look(victim).relay_path(&seat).is_some(), "{code}");
        world.fire(victim, |fire, now| fire.signal(now, &seat, vec![1; 148]));
        world.inject(victim, via(0), &forged(&world, code));
        world.run(secs(5));
        assert_eq!(world.count(victim, |event| matches!(event, FireEvent::Unreachable { .. })), 0, "{code}");
        assert_eq!(world.count(other, |event| matches!(event, FireEvent::Signal { .. })), 1, "{code}");
    }
}

/// One malicious server among three, that answers first: in whatever order, with a clock of its own that is right or wrong, and
/// though an earlier run is remembered.
#[test]
fn red_4_one_lying_server_of_three_hides_nobody() {
    const YEARS: i64 = 100 * 365 * 86_400_000;
    for lie in [YEARS, -YEARS / 2, 3_600_000, -3_600_000, 700_000, -500_000] {
        for own in [0, -600_000, -YEARS / 4] {
            let mut world = World::new(3);
            let other = world.join(&[0, 1, 2]);
            let victim = world.join(&[0, 1, 2]);
            world.run(secs(60));
            world.fire(victim, campfire_fire::Fire::shutdown);
            world.run(secs(1));
            assert!(!world.knows(other, victim), "it has left, and is remembered");
            world.hosts[0].clock_error = lie;
            world.peers[victim].clock_error = own;
            let config = config(victim, &[0, 1, 2]);
            (world.hosts[1].delay, world.hosts[2].delay) = (ms(120), ms(300));
            world.begin(victim, &config);
            // Between 10 minutes, where it is dropped, and 12, where it begins anew, a session is left to come true.
            world.run(if (600_000..720_000).contains(&lie) { secs(150) } else { secs(3) });
            assert!(world.knows(victim, other) && world.knows(other, victim), "lie {lie}, own {own}");
            world.run(secs(600));
            assert_eq!(world.look(other).seats(&world.peers[victim].key).len(), 3, "lie {lie}, own {own}: known at all three");
            assert_eq!(world.look(victim).seats(&world.peers[other].key).len(), 3, "lie {lie}, own {own}");
            let started = world.look(victim).session().started.0;
            assert!(started.abs_diff(world.wall(0).0) < 700_000, "lie {lie}, own {own}: it says that it began {started}");
        }
    }
}

/// A server that has been alone and then says another time than before makes nobody begin anew, however often it changes its mind.
#[test]
fn red_4_a_server_that_changes_its_mind_makes_nobody_begin_anew() {
    let mut world = World::new(1);
    let (victim, other) = (world.join(&[0]), world.join(&[0]));
    world.run(secs(60));
    let session = world.look(victim).session();
    for error in [-3_600_000, 3_600_000, -7_200_000, 86_400_000, 0] {
        world.hosts[0].clock_error = error;
        world.run(secs(60));
        assert_eq!(world.look(victim).session(), session, "{error}");
    }
    assert!(world.knows(other, victim) && world.knows(victim, other));
}

/// All believed a server that was wrong by years; when it is right again, they find each other at once, and newcomers find them.
#[test]
fn red_4_what_a_lonely_server_said_of_the_time_is_over_when_it_is_right_again() {
    for error in [86_400_000 * 365, -86_400_000 * 365] {
        let mut world = World::new(1);
        world.hosts[0].clock_error = error;
        world.start(0);
        let (a, b) = (world.join(&[0]), world.join(&[0]));
        world.run(secs(60));
        assert!(world.all_know_all());
        world.hosts[0].clock_error = 0;
        world.run(secs(120));
        let newcomer = world.join(&[0]);
        world.run(secs(60));
        assert!(world.all_know_all(), "{error}");
        let started = world.look(newcomer).announcement(&world.peers[a].key).unwrap().session.started.0;
        assert!(error < 0 || started < world.wall(0).0 + 1, "{error}: {started}");
        let _ = b;
    }
}

/// Who was dropped as from the future, because our clock was behind for a moment, is read again when it is right.
#[test]
fn red_4_a_clock_that_was_wrong_for_a_moment_loses_nobody() {
    let mut world = World::new(3);
    // Known at the second server alone.
    let other = world.join(&[1]);
    world.run(secs(2));
    world.hosts[0].clock_error = -3_600_000;
    let victim = world.peer();
    // Between the liar and its own clock it believes the liar until the third server answers.
    world.peers[victim].clock_error = -7_200_000;
    (world.hosts[1].delay, world.hosts[2].delay) = (ms(100), ms(1_000));
    let config = config(victim, &[0, 1, 2]);
    world.begin(victim, &config);
    world.run(secs(5));
    assert!(counter(&world, victim, "drop_future") > 0);
    assert!(world.knows(victim, other), "and nobody says it again");
}

/// What anybody on the path says of our address is a hint to camp: told to others is what the answer to that says.
#[test]
fn red_21_a_forged_mapped_address_is_told_to_nobody() {
    let mut world = World::new(1);
    let (victim, other) = (world.join(&[0]), world.join(&[0]));
    world.run(secs(2));
    world.forget_events();
    let seat = world.seat(victim, other);
    world.fire(victim, |fire, now| fire.bind(now, &seat));
    world.run(ms(100));
    // Under traffic that is not answered it asks by Binding.
    world.stop(0);
    world.fire(victim, |fire, now| fire.note_traffic(now, seat.server, Some(now), None));
    let asked = |world: &World| world.peers[victim].sent_messages;
    let before = asked(&world);
    world.run_until(secs(3), "it asks", |world| asked(world) > before);
    let forged = Builder::new(Class::Success, Method::BINDING, world.last_transaction(0))
        .xor_address(Attribute::XOR_MAPPED_ADDRESS, "10.96.0.10:53".parse().unwrap())
        .finish();
    let before = asked(&world);
    world.inject(victim, via(0), &forged);
    assert!(asked(&world) > before, "it camps");
    assert_eq!(world.count(victim, |event| matches!(event, FireEvent::Mapped { .. })), 0);
}

/// An error of somebody who knows no key, to the newest request to the first server.
fn forged(world: &World, code: u16) -> Vec<u8> {
    Builder::new(Class::Error, Method::CAMP, world.last_transaction(0))
        .error_code(code, "Forged")
        .attribute(Attribute::NONCE, b"x")
        .attribute(Attribute::CAMP_TIME, &4_102_444_800_000_u64.to_be_bytes()) // 2100
        .finish()
}

fn fast(id: &str, server: usize) -> Entry {
    let way = |transport| ServerAddress { host: address(server).ip().to_string(), port: 3_478, transport, scope: Scope::External };
    Entry { id: ServerId::new(id).unwrap(), addresses: vec![way(Transport::Udp)], certificate_pin: None }
}

/// Any member publishes a record; ids are chosen so that its servers are the best of all.
#[test]
fn red_5_any_member_moves_everybody_to_its_own_servers_and_this_outlives_a_rotation() {
    let mut world = World::new(8); // 0..2: the operators'; 3..7: the attacker's.
    for server in 3..8 {
        world.hosts[server].keys = vec![1]; // What the attacker holds.
        world.start(server);
    }
    let honest: Vec<usize> = (0..3).map(|_| world.join(&[0, 1])).collect();
    world.run(secs(5));
    assert!(honest.iter().all(|peer| world.sits_at(*peer) == [0, 1].into()));
    // Grind ids that beat those of the honest servers.
    let best = ["s0", "s1"].map(|id| score(&psk(1), &ServerId::new(id).unwrap())).into_iter().max().unwrap();
    let mut ids = (0..).map(|n| format!("x{n}")).filter(|id| score(&psk(1), &ServerId::new(id).unwrap()) > best);
    let servers: Vec<Entry> = (3..8).map(|server| fast(&ids.next().unwrap(), server)).collect();
    let attacker = world.peer();
    let mut own = config(attacker, &[0, 1]);
    own.record = Some(ServerRecord { version: 1, servers });
    world.begin(attacker, &own);
    world.run(secs(300));
    // The ids are the attacker's own; where they sit is told by what they are sent.
    let where_now = |world: &World, peer: usize| -> Vec<String> {
        world
            .look(peer)
            .servers(world.now)
            .iter()
            .filter(|s| s.state == campfire_fire::status::ServerState::Camped)
            .map(|s| s.id.clone())
            .collect()
    };
    for peer in &honest {
        println!("honest {peer} now camps at {:?}", where_now(&world, *peer));
    }
    let homes = |world: &World, peer: usize, seen_by: usize| -> Vec<String> {
        let said = world.look(seen_by).announcement(&world.peers[peer].key).unwrap().servers.clone();
        let ids: Vec<String> = world.look(peer).servers(world.now).iter().map(|s| s.id.clone()).collect();
        said.iter()
            .map(|tag| {
                ids.iter()
                    .find(|id| campfire_protocol::server::tag(&psk(1), &ServerId::new(id).unwrap()) == *tag)
                    .cloned()
                    .unwrap_or("?".into())
            })
            .collect()
    };
    println!("homes before the hour of grace is over: {:?}", homes(&world, 0, 1));
    let relay = world.look(0).seats(&world.peers[honest[1]].key)[0].server;
    println!("0 relays to 1 through {:?}", world.look(0).server_name(relay));
    world.run(secs(3_700));
    println!("homes after it: {:?} {:?} {:?}", homes(&world, 0, 1), homes(&world, 1, 0), homes(&world, 2, 0));
    let relay = world.look(0).seats(&world.peers[honest[1]].key)[0].server;
    println!("0 relays to 1 through {:?}", world.look(0).server_name(relay));
    for peer in &honest {
        println!("honest {peer}, an hour later: {:?}; says it is at home there", where_now(&world, *peer));
    }
    // The attacker is removed: it leaves, the key is rotated in three steps.
    world.fire(attacker, campfire_fire::Fire::shutdown);
    world.kill(attacker);
    let key = |n: u8, mode| KeyEntry { keys: Arc::new(psk(n)), mode };
    for keys in [
        vec![key(2, KeyMode::Accept), key(1, KeyMode::Announce)],
        vec![key(2, KeyMode::Announce), key(1, KeyMode::Announce)],
        vec![key(2, KeyMode::Announce)],
    ] {
        for peer in &honest {
            let change = Reconfigure { keys: Some(keys.clone()), ..Reconfigure::default() };
            world.fire(*peer, |fire, now| fire.reconfigure(now, &change));
        }
        world.run(secs(120));
    }
    world.run(secs(1_000));
    let mut listed = 0;
    for peer in &honest {
        let all: Vec<String> = world.look(*peer).servers(world.now).iter().map(|s| format!("{}:{:?}", s.id, s.state)).collect();
        listed = all.iter().filter(|id| id.starts_with('x')).count();
        println!("honest {peer} after the rotation: {all:?}");
    }
    assert!(listed == 5);
}

/// Eight identities of one member take all places of origins.
#[test]
fn red_5_eight_made_up_origins_shut_out_the_operators() {
    let mut world = World::new(3);
    let victim = world.join(&[0]);
    for n in 0..8 {
        let attacker = world.peer();
        let mut own = config(attacker, &[0]);
        own.record = Some(ServerRecord { version: 1, servers: vec![fast(&format!("y{n}"), 1)] });
        world.begin(attacker, &own);
        world.run(ms(50));
    }
    world.run(secs(5));
    let operator = world.peer();
    let mut own = config(operator, &[0]);
    own.record = Some(ServerRecord { version: 7, servers: vec![entry(2)] });
    own.tunnel = false;
    world.begin(operator, &own);
    world.run(secs(60));
    let known: Vec<String> = world.look(victim).servers(world.now).iter().map(|s| s.id.clone()).collect();
    println!("victim's list: {known:?}, drop_records {}", counter(&world, victim, "drop_records"));
    assert!(!known.contains(&"s2".to_owned()));
}

/// The attacker publishes the operator's server under its id with addresses that lead nowhere: it takes all places of addresses.
#[test]
fn red_5_a_server_of_an_operator_is_displaced_by_its_own_id() {
    let mut world = World::new(3);
    let victim = world.join(&[0]);
    world.run(secs(1));
    let nowhere = |first: u8| {
        let way =
            |n: u8| ServerAddress { host: format!("192.0.2.{}", first + n), port: 9, transport: Transport::Udp, scope: Scope::External };
        Entry { id: ServerId::new("s2").unwrap(), addresses: (0..4).map(way).collect(), certificate_pin: None }
    };
    // Origins are walked in the order of their keys: the attacker's are low.
    let operator = world.peer();
    let mut operators = config(operator, &[0]);
    let high = (0..200_u8).map(|n| Identity::from_seed(&[n; 32])).max_by_key(|id| *id.public().as_bytes()).unwrap();
    operators.identity = high;
    operators.tunnel = false;
    operators.record = Some(ServerRecord { version: 1, servers: vec![entry(2)] });
    for first in [1, 11] {
        let attacker = world.peer();
        let mut own = config(attacker, &[0]);
        own.record = Some(ServerRecord { version: 1, servers: vec![nowhere(first)] });
        world.begin(attacker, &own);
    }
    world.run(secs(2));
    world.begin(operator, &operators);
    world.run(secs(120));
    let state: Vec<String> = world.look(victim).servers(world.now).iter().map(|s| format!("{}:{:?}", s.id, s.state)).collect();
    println!("{state:?}");
    assert!(!world.sits_at(victim).contains(&2));
}

/// A claim that does not follow from the claimer's key is nobody's.
#[test]
fn red_8_a_made_up_claim_strips_nobody_of_its_ipv4_address() {
    let mut world = World::new(1);
    let pool: ipnet::Ipv4Net = "100.80.0.0/16".parse().unwrap();
    let victim = world.peer();
    let mut own = config(victim, &[0]);
    own.ipv4_pool = Some(pool);
    world.begin(victim, &own);
    let other = world.join(&[0]);
    world.run(secs(2));
    let address_of_victim = world.look(victim).ipv4().unwrap();
    let me = world.seat(other, victim).member;
    let thief = Identity::from_seed(&[99; 32]);
    assert_ne!(ipv4_in_pool(pool, &thief.public()), Some(address_of_victim));
    let said = Announcement {
        public_key: thief.public(),
        session: Session { started: UnixMillis(0), nonce: 0 },
        sequence: 1,
        sent_at: world.wall(0),
        name: "thief".into(),
        namespace: String::new(),
        cluster: String::new(),
        fingerprints: vec![psk(1).fingerprint],
        servers: Vec::new(),
        routes: Vec::new(),
        ipv4: Some(address_of_victim),
        features: 0,
        record: None,
    };
    let member = MemberId([0x11; 16]);
    let sealed = said.seal(&thief, &psk(1), &member, &[1; 24]).unwrap();
    let cursor = Cursor { incarnation: 9, sequence: 1 };
    let ember = Ember { to: me, previous: cursor, cursor, entries: vec![Row { member, announcement: Some(sealed) }], leaving: false };
    // (As the server pushes it when the thief camps.)
    world.inject(victim, via(0), &ember.encode(TransactionId([3; 12]), &push_key(&psk(1).relay, &me)));
    assert_eq!(world.look(victim).peers().filter(|known| known.public_key == thief.public()).count(), 1, "it was heard");
    assert_eq!(world.look(victim).ipv4(), Some(address_of_victim));
    assert!(!world.peers[victim].notices.iter().any(|notice| matches!(notice, Notice::Problem { .. })));
}

/// A member spoofs the server's address: what it says of the server is asked for, and not so.
#[test]
fn red_14a_a_forged_leaving_makes_nobody_leave() {
    let mut world = World::new(2);
    let (victim, insider) = (world.join(&[0, 1]), world.join(&[0, 1]));
    world.run(secs(5));
    let sent = world.peers[victim].sent_messages;
    for seat in world.look(insider).seats(&world.peers[victim].key) {
        let host = world.host_of(insider, seat.server);
        for n in 0..100 {
            let cursor = Cursor { incarnation: 9, sequence: 1 };
            let ember = Ember { to: seat.member, previous: cursor, cursor, entries: Vec::new(), leaving: true };
            world.inject(victim, via(host), &ember.encode(TransactionId([n; 12]), &push_key(&psk(1).relay, &seat.member)));
            world.run(ms(1));
        }
    }
    world.run(secs(10));
    assert!(world.peers[victim].sent_messages - sent < 10, "it asks, but not as often as somebody likes");
    assert_eq!(world.count(victim, |event| matches!(event, FireEvent::Suspect { .. })), 0);
    let newcomer = world.join(&[0, 1]);
    world.run(secs(5));
    let said = world.look(newcomer).announcement(&world.peers[victim].key).map(|announcement| announcement.servers.len());
    assert_eq!(said, Some(2));
}

/// The same with departures: whoever is there is known again with the next Camp.
#[test]
fn red_14a_a_forged_departure_is_over_with_the_next_camp() {
    let mut world = World::new(1);
    let (victim, other) = (world.join(&[0]), world.join(&[0]));
    let _third = world.join(&[0]);
    world.run(secs(40));
    let (at, gone) = (log(&world, victim), world.seat(victim, other).member);
    // Beside the log, as the next page of it, and as a page that comes too early.
    for (previous, sequence) in [(at.sequence, at.sequence), (at.sequence, at.sequence + 1), (at.sequence + 5, at.sequence + 6)] {
        let (previous, cursor) = (Cursor { sequence: previous, ..at }, Cursor { sequence, ..at });
        push(&mut world, victim, other, Ember { previous, cursor, entries: vec![Row { member: gone, announcement: None }], ..nothing() });
        assert!(!world.knows(victim, other), "a hint is taken at once");
        world.run_until(secs(7), "known again", |world| world.knows(victim, other));
        world.run(secs(60));
    }
    let quiet = world.peers[victim].sent_messages;
    world.run(secs(100));
    assert!(world.peers[victim].sent_messages - quiet <= 8, "and then all is quiet");
}

/// Nor does anything else that is said of the log: whoever comes later is known, and nobody asks without end.
#[test]
fn red_14a_a_forged_cursor_hides_nobody_and_makes_nobody_ask_without_end() {
    for (before, behind) in [(0, 1), (0, 1_000_000), (5, 6), (u64::MAX / 2, u64::MAX / 2 + 1)] {
        let mut world = World::new(1);
        let (victim, other) = (world.join(&[0]), world.join(&[0]));
        world.run(secs(40));
        let at = log(&world, victim);
        let previous = Cursor { sequence: at.sequence + before, ..at };
        let cursor = Cursor { sequence: at.sequence + behind, ..at };
        push(&mut world, victim, other, Ember { previous, cursor, ..nothing() });
        // What others change is known at once all the same, if it comes before the next Camp.
        let change = Reconfigure { routes: Some(vec!["10.1.0.0/16".parse().unwrap()]), ..Reconfigure::default() };
        world.fire(other, |fire, now| fire.reconfigure(now, &change));
        world.run(secs(1));
        let routes = world.look(victim).announcement(&world.peers[other].key).unwrap().routes.len();
        assert_eq!(routes, 1, "{before} {behind}");
        push(&mut world, victim, other, Ember { previous, cursor, ..nothing() });
        let newcomer = world.join(&[0]);
        world.run(secs(60));
        assert!(world.knows(victim, newcomer), "{before} {behind}");
        let quiet = world.peers[victim].sent_messages;
        world.run(secs(100));
        assert!(world.peers[victim].sent_messages - quiet <= 8, "{before} {behind}: it asks on and on");
    }
}

fn nothing() -> Ember {
    Ember { to: MemberId([0; 16]), previous: Cursor::default(), cursor: Cursor::default(), entries: Vec::new(), leaving: false }
}

/// An Ember to the victim's seat at the first server, by somebody who knows that seat.
fn push(world: &mut World, victim: usize, insider: usize, ember: Ember) {
    let to = world.seat(insider, victim).member;
    world.inject(victim, via(0), &Ember { to, ..ember }.encode(TransactionId([3; 12]), &push_key(&psk(1).relay, &to)));
}

/// Where the log is, as a member was last told.
fn log(world: &World, peer: usize) -> Cursor {
    let success = |bytes: &[u8]| CampSuccess::decode(&Message::parse(bytes).ok()?).ok();
    world.peers[peer].heard.iter().rev().find_map(|(_, bytes)| success(bytes)).unwrap().cursor
}

/// What the operator hands to sidecars: its own server by TLS, then what an insider published under the same id.
#[test]
fn red_5_a_pin_from_a_record_lands_on_the_operators_own_server() {
    let own: Entry = "587c1bab-0=turns:turn.example.org:5349?transport=tcp".parse().unwrap();
    let foreign: Entry = format!("587c1bab-0=turns:198.51.100.66:5349?cert={}", "A".repeat(43)).parse().unwrap();
    let merged = campfire_protocol::server::merge([own, foreign]);
    println!("{merged:?}");
    assert!(merged.len() == 1 && merged[0].certificate_pin == Some([0; 32]));
}

/// Two bad servers (or one and a member): what the victim says at one is shown to it at the other, as if another process had its
/// identity, and taken away again. It knows its echo.
#[test]
fn red_14b_its_own_echo_makes_nobody_begin_anew() {
    let mut world = World::new(2);
    let (victim, other) = (world.join(&[0, 1]), world.join(&[0, 1]));
    world.run(secs(5));
    let first = world.look(victim).session();
    let seats = world.look(other).seats(&world.peers[victim].key);
    let at = |world: &World, host: usize| seats.iter().find(|seat| world.host_of(other, seat.server) == host).unwrap().member;
    let (here, there) = (at(&world, 0), at(&world, 1));
    let cursor = Cursor { incarnation: 9, sequence: 1 };
    let mut restarts = 0;
    for round in 0..20 {
        // The newest sealed announcement of the victim's seat at server 1, as it was told to somebody there.
        let sealed = world.peers[other].heard.iter().rev().find_map(|(_, bytes)| {
            let message = Message::parse(bytes).ok()?;
            let entries = Ember::decode(&message)
                .map(|ember| ember.entries)
                .or_else(|_| CampSuccess::decode(&message).map(|success| success.entries))
                .ok()?;
            entries.into_iter().find(|entry| entry.member == there)?.announcement
        });
        let Some(sealed) = sealed else { panic!("round {round}: nothing heard") };
        let before = world.look(victim).session();
        for announcement in [Some(sealed), None] {
            let entries = vec![Row { member: there, announcement }];
            let ember = Ember { to: here, previous: cursor, cursor, entries, leaving: false };
            world.inject(victim, via(0), &ember.encode(TransactionId([3; 12]), &push_key(&psk(1).relay, &here)));
        }
        world.run(secs(1));
        restarts += usize::from(world.look(victim).session() > before);
    }
    assert_eq!((restarts, world.look(victim).session()), (0, first));
    assert!(!world.peers[victim].notices.iter().any(|notice| matches!(notice, Notice::Problem { .. })), "it is no other process");
}

/// What another process with its identity said once is shown and taken away again and again; then what it says ever anew.
#[test]
fn red_14b_another_process_makes_a_peer_begin_anew_once_a_minute_at_most() {
    for (speaks_on, most) in [(false, 1), (true, 4)] {
        let mut world = World::new(1);
        let (victim, other) = (world.join(&[0]), world.join(&[0]));
        world.run(secs(5));
        let (me, member) = (world.seat(other, victim).member, MemberId([0x22; 16]));
        let ours = identity(victim);
        let mut said = world.look(other).announcement(&ours.public()).unwrap().clone();
        said.session.nonce ^= 1;
        said.sent_at = world.wall(0);
        let mut beginnings = 0;
        for second in 0..180_u32 {
            let before = world.look(victim).session();
            if speaks_on {
                (said.session.started, said.sent_at) = (before.started, world.wall(0));
            }
            said.sequence = second;
            for announcement in [Some(said.seal(&ours, &psk(1), &member, &[1; 24]).unwrap()), None] {
                let entries = vec![Row { member, announcement }];
                let cursor = Cursor { incarnation: 9, sequence: 1 };
                let ember = Ember { to: me, previous: cursor, cursor, entries, leaving: false };
                world.inject(victim, via(0), &ember.encode(TransactionId([3; 12]), &push_key(&psk(1).relay, &me)));
            }
            world.run(secs(1));
            beginnings += usize::from(world.look(victim).session() > before);
        }
        assert!((1..=most).contains(&beginnings), "{beginnings}");
        world.run(secs(60));
        assert_eq!(world.look(other).announcement(&ours.public()).unwrap().session, world.look(victim).session());
    }
}

/// A bad server shows a newcomer what it recorded of one that is long gone.
#[test]
fn red_22_what_was_recorded_makes_nobody_appear_who_left() {
    for age in [3_600, 4 * 3_600] {
        let mut world = World::new(1);
        let old = world.join(&[0]);
        world.run(secs(30));
        let made = Announcement {
            public_key: identity(9).public(),
            session: Session { started: world.wall(0), nonce: 5 },
            sequence: 3,
            sent_at: world.wall(0),
            name: "ghost".into(),
            namespace: String::new(),
            cluster: String::new(),
            fingerprints: vec![psk(1).fingerprint],
            servers: Vec::new(),
            routes: Vec::new(),
            ipv4: None,
            features: 0,
            record: None,
        };
        world.run(secs(age));
        let newcomer = world.join(&[0]);
        world.run(secs(2));
        let (member, keys) = (MemberId([9; 16]), psk(1));
        let row = Row { member, announcement: Some(made.seal(&identity(9), &keys, &member, &[1; 24]).unwrap()) };
        let to = world.seat(old, newcomer).member;
        let cursor = Cursor { incarnation: 9, sequence: 1 };
        let ember = Ember { to, previous: cursor, cursor, entries: vec![row], leaving: false };
        world.inject(newcomer, via(0), &ember.encode(TransactionId([7; 12]), &push_key(&keys.relay, &to)));
        let appears = world.look(newcomer).peers().any(|peer| peer.public_key == identity(9).public());
        assert_eq!(appears, age < 3 * 3_600, "{age}");
        assert_eq!(counter(&world, newcomer, "drop_stale"), u64::from(!appears));
        assert!(world.knows(newcomer, old), "who is there says so again and again");
    }
}

/// Days pass: those that are there are found by whoever comes, and a clock that was years ahead for a moment hides nobody for longer.
#[test]
fn red_22_who_stays_is_found_for_days() {
    let mut world = World::new(2);
    let old = world.join(&[0, 1]);
    for _ in 0..4 {
        world.run(secs(17 * 3_600));
        let newcomer = world.peer();
        world.peers[newcomer].clock_error = 86_400_000 * 365;
        let config = config(newcomer, &[0, 1]);
        world.begin(newcomer, &config);
        world.run(secs(120));
        assert!(world.knows(newcomer, old) && world.knows(old, newcomer));
        world.kill(newcomer);
    }
}
