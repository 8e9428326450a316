//! The collection of links: who is linked, pacing, goodbyes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use campfire_datapath::command::Command;
use campfire_fire::{Fire, FireEvent, Learned, Seat};
use campfire_protocol::announce::{Announcement, NO_TUNNEL, Session};
use campfire_protocol::carrier::{Path, ServerSlot, SocketId, Via};
use campfire_protocol::certificate::{Chain, Mandate, Namespaces, PeerCertificate, Refusal, Rights, RootKey, Scope};
use campfire_protocol::control::Control;
use campfire_protocol::identity::{Identity, PublicKey, ipv4_in_pool};
use campfire_protocol::key::Psk;
use campfire_protocol::time::{Time, UnixMillis, UnixSeconds};
use campfire_protocol::wire::MemberId;
use campfire_tunnel::LinkId;

use crate::config::{Config, Membership, Reconfigure};
use crate::io::{Input, Output};
use crate::links::Links;

#[test]
fn a_big_room_is_joined_at_a_bounded_pace() {
    let mut bench = Bench::new();
    for n in 0..200 {
        bench.learn(n, Learned::Camp, 1);
    }
    assert_eq!(bench.initiated().len(), 50);
    let mut most = 0;
    while let Some(wake) = bench.links.next_wake().filter(|wake| *wake < at(1_000)) {
        bench.run(wake);
        most = most.max(bench.initiated().len());
    }
    assert!((1..=50).contains(&most), "{most}");
}

#[test]
fn a_newcomer_is_given_a_second_to_start() {
    let mut bench = Bench::new();
    bench.learn(1, Learned::Ember, 1);
    assert!(bench.initiated().is_empty());
    bench.run(at(900));
    assert!(bench.initiated().is_empty());
    bench.run(at(1_300));
    assert_eq!(bench.initiated(), [LinkId(0)]);
}

#[test]
fn what_is_learned_again_from_another_server_starts_no_second_handshake() {
    let mut bench = Bench::new();
    bench.learn(1, Learned::Camp, 1);
    bench.run(at(5));
    bench.learn(1, Learned::Camp, 1);
    bench.run(at(100));
    assert_eq!(bench.initiated().len(), 1);
}

#[test]
fn an_unanswered_handshake_is_started_again_ever_more_seldom() {
    let mut bench = Bench::new();
    bench.learn(1, Learned::Camp, 1);
    let count = bench.initiated_until(at(600_000));
    assert!((15..=30).contains(&count), "{count}");
}

#[test]
fn who_said_goodbye_is_linked_again_only_when_it_comes_back() {
    let mut bench = Bench::new();
    bench.learn(1, Learned::Camp, 1);
    bench.establish(LinkId(0));
    let path = Path::Direct { socket: SocketId(0), remote: "192.0.2.9:1".parse().unwrap() };
    bench.input(Input::Control { link: LinkId(0), path, payload: &Control::Goodbye.encode() });
    assert_eq!(bench.links.iter().count(), 0);
    bench.learn(1, Learned::Ember, 1);
    assert_eq!(bench.links.iter().count(), 0, "the same run of it, said again by another server");
    bench.learn(1, Learned::Ember, 2);
    assert_eq!(bench.links.iter().count(), 1);
}

#[test]
fn who_left_under_a_clock_that_was_ahead_is_linked_again_under_the_right_one() {
    let mut bench = Bench::new();
    bench.learn(1, Learned::Camp, 9_000);
    bench.establish(LinkId(0));
    let path = Path::Direct { socket: SocketId(0), remote: "192.0.2.9:1".parse().unwrap() };
    bench.input(Input::Control { link: LinkId(0), path, payload: &Control::Goodbye.encode() });
    bench.learn(1, Learned::Ember, 2);
    assert_eq!(bench.links.iter().count(), 1, "which run is older is the fire's to know");
}

#[test]
fn a_departure_never_closes_a_link_with_a_session() {
    let mut bench = Bench::new();
    bench.learn(1, Learned::Camp, 1);
    bench.learn(2, Learned::Camp, 1);
    bench.establish(LinkId(0));
    for n in [1, 2] {
        bench.fire_says(FireEvent::Departed { peer: announcement(n, 1).public_key, seat: seat(n) });
    }
    assert_eq!(bench.links.iter().map(|link| link.id).collect::<Vec<_>>(), [LinkId(0)]);
    bench.input(Input::Tunnel(campfire_tunnel::Event::Expired { link: LinkId(0) }));
    assert_eq!(bench.links.iter().count(), 0, "expiry and departure together do");
}

#[test]
fn there_are_never_more_links_than_configured() {
    let mut bench = Bench::new();
    for n in 0..3_000 {
        bench.learn(n, Learned::Ember, 1);
    }
    assert_eq!(bench.links.iter().count(), bench.links.config.limits.links);
}

#[test]
fn nobody_links_to_a_member_without_a_tunnel() {
    let mut bench = Bench::new();
    let mut operator = announcement(1, 1);
    operator.features = NO_TUNNEL;
    for learned in [Learned::Camp, Learned::Ember, Learned::Find] {
        bench.fire_says(FireEvent::Member { seat: seat(1), learned, announcement: Box::new(operator.clone()) });
    }
    assert_eq!(bench.links.iter().count(), 0);
    bench.learn(2, Learned::Camp, 1);
    assert_eq!(bench.links.iter().count(), 1, "others are linked");
}

#[test]
fn above_the_threshold_links_are_made_on_demand_and_closed_when_idle() {
    let mut bench = Bench::new();
    bench.links.config.limits.eager_links = 10;
    for n in 0..30 {
        bench.learn(n, Learned::Ember, 1);
    }
    let linked = bench.links.iter().count();
    assert!(linked < 10, "{linked}");
    while let Some(wake) = bench.links.next_wake().filter(|wake| *wake < at(310_000)) {
        bench.run(wake);
    }
    assert_eq!(bench.links.iter().count(), 0);
}

#[test]
fn garbage_in_the_tunnel_or_from_nowhere_is_counted_and_no_more() {
    let mut bench = Bench::new();
    bench.learn(1, Learned::Camp, 1);
    let path = Path::Direct { socket: SocketId(0), remote: "192.0.2.9:1".parse().unwrap() };
    for payload in [&[][..], &[0xff; 9], &[0x9f; 1_240], b"hello"] {
        bench.input(Input::Control { link: LinkId(0), path, payload });
        bench.input(Input::Control { link: LinkId(77), path, payload });
        bench.input(Input::Handshake { path, message: payload, initiator: None });
        bench.fire_says(FireEvent::Signal { from: seat(1), data: payload.to_vec() });
    }
    bench.input(Input::Initiation { token: 99, initiator: Some([1; 32]) });
    bench.input(Input::Tunnel(campfire_tunnel::Event::Established { link: LinkId(9), initiator: true }));
    assert!(bench.links.shared.counters.values().count() > 0);
}

#[test]
fn initiations_that_wait_for_their_identity_are_bounded() {
    let mut bench = Bench::new();
    for _ in 0..10_000 {
        bench.fire_says(FireEvent::Signal { from: seat(1), data: vec![1; 148] });
    }
    let asked = bench.links.shared.out.iter().filter(|output| matches!(output, Output::Data(Command::IdentifyInitiation { .. }))).count();
    assert!(asked <= 256, "{asked}");
}

#[test]
fn the_table_shows_every_link_and_its_version_moves_only_with_a_change() {
    let mut bench = Bench::new();
    bench.learn(1, Learned::Camp, 1);
    bench.links.publish(&bench.fire);
    let table = bench.links.table().clone();
    let address = bench.links.shared.rules.network.address(&announcement(1, 1).public_key);
    assert_eq!(table.link_to(&address.into()), Some(LinkId(0)));
    assert!(table.addressing.allowed[0].contains(&std::net::IpAddr::V6(address).into()));
    bench.run(at(50));
    bench.links.publish(&bench.fire);
    assert_eq!(bench.links.table().version, table.version);
}

#[test]
fn a_path_that_moves_copies_no_address_and_an_address_that_comes_no_path() {
    let mut bench = Bench::new();
    for n in 0..1_000 {
        bench.learn(n, Learned::Ember, 1);
    }
    bench.links.publish(&bench.fire);
    let links: Vec<LinkId> = bench.links.iter().map(|link| link.id).collect();
    for round in 0..300 {
        let held = bench.links.table().clone();
        let (link, port) = (links[round * 7 % links.len()], 1_000 + round as u16);
        bench.links.move_link(link, Path::Direct { socket: SocketId(0), remote: ([192, 0, 2, 1], port).into() });
        bench.links.publish(&bench.fire);
        let table = bench.links.table();
        assert!(table.version > held.version && table.way(link) != held.way(link));
        assert!(Arc::ptr_eq(&table.addressing, &held.addressing) && Arc::ptr_eq(&table.servers, &held.servers));
    }

    let held = bench.links.table().clone();
    let change = Reconfigure { accepted_routes: Some(vec!["10.0.0.0/8".parse().unwrap()]), ..Reconfigure::default() };
    bench.links.reconfigure(bench.now, &mut bench.fire, &change);
    bench.links.publish(&bench.fire);
    let table = bench.links.table();
    assert!(!Arc::ptr_eq(&table.addressing, &held.addressing) && Arc::ptr_eq(&table.ways, &held.ways));
}

#[test]
fn a_run_that_begins_anew_is_weighed_anew() {
    let mut bench = Bench::new();
    bench.learn(1, Learned::Camp, 1);
    bench.links.publish(&bench.fire);
    let held = bench.links.table().clone();
    bench.learn(1, Learned::Camp, 2);
    bench.links.publish(&bench.fire);
    assert!(!Arc::ptr_eq(&bench.links.table().addressing, &held.addressing), "of two that claim the same the older session keeps it");
}

#[test]
fn red_8_who_is_looked_for_by_ipv4_is_not_found_in_a_made_up_claim() {
    let mut bench = Bench::new();
    let pool: ipnet::Ipv4Net = "100.80.0.0/16".parse().unwrap();
    bench.links.shared.rules.pool = Some(pool);
    bench.links.config.limits.eager_links = 0;
    let (mut thief, mut sought) = (announcement(1, 1), announcement(2, 1));
    sought.ipv4 = ipv4_in_pool(pool, &sought.public_key);
    thief.ipv4 = sought.ipv4;
    bench.links.want(bench.now, &mut bench.fire, IpAddr::V4(sought.ipv4.unwrap()));
    for (n, said, links) in [(1, thief, 0), (2, sought, 1)] {
        bench.fire_says(FireEvent::Member { seat: seat(n), learned: Learned::Find, announcement: Box::new(said) });
        assert_eq!(bench.links.iter().count(), links);
    }
}

#[test]
fn whichever_way_a_session_came_and_speaks_nothing_passes_before_a_chain_that_holds() {
    let remote = "192.0.2.9:1".parse().unwrap();
    let via = Via::Udp { socket: SocketId(0), remote: "192.0.2.1:3478".parse().unwrap() };
    let relay = |channel| Path::Relay { server: ServerSlot(0), via, channel };
    // Directly, on a bound channel, as ChannelData that came as a Signal.
    for path in [Path::Direct { socket: SocketId(0), remote }, relay(0x4001), relay(0)] {
        let mut bench = Bench::new();
        bench.certify();
        let peer = announcement(1, 1).public_key;
        let address = IpAddr::V6(bench.links.shared.rules.network.address(&peer));
        bench.learn(1, Learned::Camp, 1);
        bench.input(Input::Handshake { path, message: &[1; 148], initiator: Some(peer.x25519()) });
        // And once more, as a rekey.
        for _ in 0..2 {
            bench.establish(LinkId(0));
            for control in [
                Control::Candidates { addresses: vec![remote], symmetric: false, udp_blocked: false, forbidden: false, generation: 1 },
                Control::Punch { attempt: 1 },
                Control::Probe { id: 7, size: 0 },
                Control::Chain { chain: vec![7; 100], held: None },
                chain_of(Identity::from_seed(&[77; 32]).public()),
            ] {
                bench.input(Input::Control { link: LinkId(0), path, payload: &control.encode() });
            }
        }
        bench.run(at(30_000));
        bench.links.publish(&bench.fire);
        let link = bench.links.iter().next().unwrap();
        assert!(link.told.is_none() && link.gate.refusal(&bench.links.shared) == Some(Refusal::NotCertified));
        assert_eq!(bench.links.table().link_to(&address), None);
        assert!(!bench.links.table().allows(LinkId(0), &address));
        let said = bench.said();
        assert!(said.iter().all(|control| matches!(control, Control::Chain { .. })), "{path:?}: {said:?}");

        bench.input(Input::Control { link: LinkId(0), path, payload: &chain_of(peer).encode() });
        bench.links.publish(&bench.fire);
        assert!(bench.links.table().link_to(&address) == Some(LinkId(0)) && bench.links.table().allows(LinkId(0), &address));
    }
}

#[test]
fn a_flood_of_chains_is_looked_at_ten_times_a_second() {
    let mut bench = Bench::new();
    bench.certify();
    bench.learn(1, Learned::Camp, 1);
    let path = Path::Direct { socket: SocketId(0), remote: "192.0.2.9:1".parse().unwrap() };
    bench.establish(LinkId(0));
    let stolen = chain_of(Identity::from_seed(&[77; 32]).public()).encode();
    for ms in 0..1_000 {
        bench.run(at(ms));
        bench.input(Input::Control { link: LinkId(0), path, payload: &stolen });
    }
    let counted = |what| bench.links.shared.counters.values().find(|(name, _)| *name == what).map(|(_, count)| count);
    assert_eq!((counted("refused_not_certified"), counted("chains_withheld")), (Some(10), Some(990)));
}

/// What a peer shows that a root has let in.
fn chain_of(identity: PublicKey) -> Control {
    Control::Chain { chain: chain(identity).to_bytes(), held: None }
}

fn chain(identity: PublicKey) -> Chain {
    let mandate = Mandate {
        scope: Scope::Cluster("paris".into()),
        rights: Rights { certify: true, ..Rights::default() },
        namespaces: Namespaces::All,
        routes: vec![],
        from: UnixSeconds(0),
        until: UnixSeconds(1_000_000),
    };
    let peer = PeerCertificate {
        identity,
        name: "web-0".into(),
        namespace: "shop".into(),
        cluster: None,
        pod: None,
        service_account: None,
        labels: vec![],
        ipv4: None,
        routes: vec![],
        born: UnixSeconds(0),
        issued: UnixSeconds(0),
        until: UnixSeconds(1_000),
    };
    root().delegate(Identity::from_seed(&[2; 32]), mandate).unwrap().certify(peer).unwrap()
}

fn root() -> RootKey {
    RootKey::from_seed(&[1; 32])
}

struct Bench {
    now: Time,
    fire: Fire,
    links: Links,
}

impl Bench {
    fn new() -> Self {
        let identity = Identity::from_seed(&[200; 32]);
        let mut config = Config::new(identity, Psk::from_bytes([9; 32]).derive(), Vec::new());
        config.limits.eager_links = 5_000;
        let fire = Fire::new(&config.fire, [0; 32], at(0), UnixMillis(1));
        let links = Links::new(config, [0; 32], at(0));
        Self { now: at(0), fire, links }
    }

    /// The mesh has a root, and we are let in.
    fn certify(&mut self) {
        let membership = Membership { roots: vec![root().public()], chain: Some(chain(self.links.shared.own)) };
        let change = Reconfigure { membership: Some(membership), ..Reconfigure::default() };
        self.links.reconfigure(self.now, &mut self.fire, &change);
    }

    /// What was said in tunnels since asked last.
    fn said(&mut self) -> Vec<Control> {
        let out = std::mem::take(&mut self.links.shared.out);
        out.into_iter()
            .filter_map(|output| match output {
                Output::Data(Command::SendControl { payload, .. }) => Some(Control::decode(&payload).unwrap().unwrap()),
                _ => None,
            })
            .collect()
    }

    fn run(&mut self, now: Time) {
        self.now = now;
        self.links.run(now, &mut self.fire);
    }

    fn input(&mut self, input: Input<'_>) {
        let (now, fire) = (self.now, &mut self.fire);
        match input {
            Input::Handshake { path, message, initiator } => self.links.handshake(now, fire, path, message, initiator),
            Input::Initiation { token, initiator } => self.links.initiation(now, fire, token, initiator),
            Input::Control { link, path, payload } => self.links.control(now, fire, link, path, payload),
            Input::Tunnel(event) => self.links.tunnel(now, fire, event),
            other => panic!("not for links alone: {other:?}"),
        }
        self.links.run(self.now, &mut self.fire);
    }

    fn fire_says(&mut self, event: FireEvent) {
        self.links.on_fire(self.now, &mut self.fire, event);
        self.links.run(self.now, &mut self.fire);
    }

    fn learn(&mut self, n: u16, learned: Learned, session: u64) {
        self.fire_says(FireEvent::Member { seat: seat(n), learned, announcement: Box::new(announcement(n, session)) });
    }

    fn establish(&mut self, link: LinkId) {
        self.input(Input::Tunnel(campfire_tunnel::Event::Established { link, initiator: true }));
    }

    /// Handshakes started since asked last.
    fn initiated(&mut self) -> Vec<LinkId> {
        let out = std::mem::take(&mut self.links.shared.out);
        out.into_iter()
            .filter_map(|output| match output {
                Output::Data(Command::Tunnel(campfire_tunnel::Command::Initiate { link })) => Some(link),
                _ => None,
            })
            .collect()
    }

    fn initiated_until(&mut self, end: Time) -> usize {
        let mut count = self.initiated().len();
        while let Some(wake) = self.links.next_wake().filter(|wake| *wake < end) {
            self.run(wake.max(self.now + Duration::from_micros(1)));
            count += self.initiated().len();
        }
        count
    }
}

fn announcement(n: u16, session: u64) -> Announcement {
    let mut seed = [0; 32];
    seed[..2].copy_from_slice(&n.to_be_bytes());
    Announcement {
        public_key: Identity::from_seed(&seed).public(),
        session: Session { started: UnixMillis(session), nonce: 1 },
        sequence: 1,
        sent_at: UnixMillis(1),
        name: format!("peer-{n}"),
        namespace: String::new(),
        cluster: String::new(),
        fingerprints: vec![Psk::from_bytes([9; 32]).derive().fingerprint],
        servers: Vec::new(),
        routes: Vec::new(),
        ipv4: None,
        features: 0,
        record: None,
    }
}

fn seat(n: u16) -> Seat {
    let mut member = [0; 16];
    member[..2].copy_from_slice(&n.to_be_bytes());
    Seat { server: ServerSlot(0), room: 0, member: MemberId(member) }
}

fn at(ms: u64) -> Time {
    Time::from_micros(ms * 1000)
}
