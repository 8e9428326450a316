//! What hostile members, servers and bystanders could do; each test shows the fault as it stands.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use campfire_fire::config::{KeyEntry, KeyMode, Reconfigure};
use campfire_fire::io::Notice;
use campfire_protocol::announce::{Announcement, ServerRecord, Session};
use campfire_protocol::carrier::{SocketId, Via};
use campfire_protocol::credential::push_key;
use campfire_protocol::identity::{Identity, ipv4_in_pool};
use campfire_protocol::server::{Scope, Server as Entry, ServerAddress, ServerId, Transport, score};
use campfire_protocol::stun::{Attribute, Builder, Class, Method, TransactionId};
use campfire_protocol::time::UnixMillis;
use campfire_protocol::wire::{Cursor, Ember, Entry as Row, MemberId};
use std::sync::Arc;
use world::{World, address, config, entry, identity, ms, psk, secs};

fn via(server: usize) -> Via {
    Via::Udp { socket: SocketId(0), remote: address(server) }
}
fn counter(world: &World, peer: usize, name: &str) -> u64 {
    world.look(peer).counters().iter().find(|(known, _)| *known == name).unwrap().1
}

/// Bystander without any key, who sees one transaction id: one forged datagram.
#[test]
fn red_4_one_forged_401_makes_a_peer_invisible_for_its_whole_run() {
    let mut world = World::new(1);
    let other = world.join(&[0]);
    world.run(secs(2));
    let victim = world.join(&[0]);
    let transaction = world.last_transaction(0);
    let forged = Builder::new(Class::Error, Method::CAMP, transaction)
        .error_code(401, "Unauthorized")
        .attribute(Attribute::NONCE, b"x")
        .attribute(Attribute::CAMP_TIME, &4_102_444_800_000_u64.to_be_bytes()) // 2100
        .finish();
    world.inject(victim, via(0), &forged);
    world.run(secs(600));
    let off = world.look(victim).unix_now(world.now).0.abs_diff(world.wall(0).0);
    println!(
        "victim's clock off by {off} ms, knows other: {}, other knows victim: {}, other's drop_future: {}, session started {}",
        world.knows(victim, other),
        world.knows(other, victim),
        counter(&world, other, "drop_future"),
        world.look(victim).session().started.0
    );
    assert!(!world.knows(other, victim));
}

/// One malicious server among three, that answers first.
#[test]
fn red_4_one_lying_server_of_three_makes_a_peer_invisible_at_all() {
    let mut world = World::new(3);
    let other = world.join(&[0, 1, 2]);
    world.run(secs(5));
    world.hosts[0].clock_error = 100 * 365 * 86_400_000;
    let victim = world.join(&[0, 1, 2]);
    world.run(secs(600));
    println!(
        "victim sits at {:?}, other knows victim: {}, victim knows other: {}, drop_future {}",
        world.sits_at(victim),
        world.knows(other, victim),
        world.knows(victim, other),
        counter(&world, other, "drop_future")
    );
    assert!(!world.knows(other, victim));
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

/// A claim that does not even follow from the claimer's key takes everybody's IPv4 address away.
#[test]
fn red_8_a_made_up_claim_strips_a_peer_of_its_ipv4_address() {
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
        sent_at: UnixMillis(0),
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
    println!(
        "victim had {address_of_victim}, now {:?}; {:?}",
        world.look(victim).ipv4(),
        world.peers[victim].notices.iter().filter(|n| matches!(n, Notice::Problem { .. })).collect::<Vec<_>>()
    );
    assert_eq!(world.look(victim).ipv4(), None);
}

/// A member spoofs the server's address once: the server counts as leaving until it starts anew.
#[test]
fn red_14a_a_forged_leaving_sticks() {
    let mut world = World::new(2);
    let (victim, insider) = (world.join(&[0, 1]), world.join(&[0, 1]));
    world.run(secs(5));
    let me = world.look(insider).seats(&world.peers[victim].key);
    for seat in me {
        let host = world.host_of(insider, seat.server);
        let cursor = Cursor { incarnation: 9, sequence: 1 };
        let ember = Ember { to: seat.member, previous: cursor, cursor, entries: Vec::new(), leaving: true };
        world.inject(victim, via(host), &ember.encode(TransactionId([3; 12]), &push_key(&psk(1).relay, &seat.member)));
    }
    world.run(secs(3_600));
    let said = world.look(insider).announcement(&world.peers[victim].key).map(|a| a.servers.len());
    println!("an hour later the victim says that it camps at {said:?} servers (2 before)");
    let newcomer = world.join(&[0, 1]);
    world.run(secs(60));
    let said = world.look(newcomer).announcement(&world.peers[victim].key).map(|a| a.servers.len());
    println!("newcomer sees {said:?}");
    let _ = identity(0);
    assert_eq!(said, Some(0));
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
/// identity, and taken away again.
#[test]
fn red_14b_two_servers_make_a_peer_begin_anew_without_end() {
    use campfire_protocol::stun::Message;
    use campfire_protocol::wire::{CampSuccess, Ember as E};
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
            let entries = E::decode(&message)
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
    let after = world.look(victim).session();
    let seen = world.count(other, |event| matches!(event, campfire_fire::FireEvent::Member { announcement, .. } if announcement.public_key == identity(victim).public() && announcement.session > first));
    println!("{restarts} new sessions in 20 s ({} -> {}), told to the other {seen} times", first.started.0, after.started.0);
    assert!(restarts >= 15);
}
