//! A certified mesh: who belongs to it meets as ever; who holds the key and no certificate gets no packet through, whatever way it takes.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use campfire_mesh::config::{Membership, Reconfigure};
use campfire_protocol::certificate::{Chain, Issuer, LabelDigest, Mandate, Namespaces, PeerCertificate, Refusal, Rights, RootKey, Scope};
use campfire_protocol::identity::{Identity, PublicKey};
use campfire_protocol::time::UnixSeconds;
use campfire_sim::{EPOCH, Nat, PeerOptions, PeerRef, Place, World, millis, secs, seed};

/// The wall clock when a world begins.
const START: u64 = EPOCH / 1_000;
const DAY: u64 = 86_400;

#[test]
fn certified_peers_meet_directly_and_are_called_by_their_certificates() {
    let mut world = world();
    let gateways = [Nat::masquerade(), Nat::port_restricted(), Nat::symmetric()].map(|nat| world.nat(nat));
    let peers = gateways.map(|gateway| member(&mut world, gateway));
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("all are connected");
    world.run_until(secs(30), |world| world.direct(peers[0], peers[1])).expect("two are connected directly");
    let seen = world.peer_status(peers[0], peers[2]).unwrap();
    assert_eq!((seen.name.as_str(), seen.namespace.as_str(), seen.cluster.as_str()), ("web-2", "shop", "paris"));
    assert!(seen.certified && seen.refusal.is_none() && seen.connected);
    assert!(world.status(peers[0]).problems.is_empty());
    // Through rekeys too.
    let flow = world.flow(peers[0], peers[2], millis(500));
    world.run_for(secs(600));
    assert_eq!(world.report(flow).lost(), 0);
}

#[test]
fn two_round_trips_more_until_the_first_data_than_in_an_open_mesh() {
    let mut world = world();
    let camper = member(&mut world, Place::Internet);
    world.run_for(secs(10));
    let newcomer = member(&mut world, Place::Internet);
    world.run_for(Duration::ZERO);
    let ping = world.ping(newcomer, camper);
    world.run_for(secs(5));
    let ping = world.ping_result(ping);
    let took = ping.reached.expect("the ping comes through").since(ping.sent);
    assert!(took <= 6 * millis(40) + millis(20), "{took:?}");
}

#[test]
fn a_holder_of_the_key_without_a_certificate_gets_no_packet_through() {
    // It lets everybody in itself, speaks first or is spoken to, is as near as can be, and has all the time of rekeys.
    for insider_first in [false, true] {
        let mut world = world();
        let join = |world: &mut World, is_insider: bool| {
            let peer = if is_insider { world.peer(Place::Internet) } else { member(world, Place::Internet) };
            world.run_for(secs(3));
            peer
        };
        let (one, other) = (join(&mut world, insider_first), join(&mut world, !insider_first));
        let (insider, certified) = if insider_first { (one, other) } else { (other, one) };
        let flows = [world.flow(insider, certified, millis(250)), world.flow(certified, insider, millis(250))];
        world.run_for(secs(400));
        for flow in flows {
            let report = world.report(flow);
            assert_eq!((report.answered, report.sent > 0), (0, true));
        }
        assert_eq!(world.pings_that_came(insider, certified), 0);
        let dropped = world.counters(certified).datapath.dropped_source;
        assert!(dropped > 1_000, "what it sent has come, and was nobody's: {dropped}");
        let seen = world.peer_status(certified, insider).unwrap();
        assert_eq!((seen.refusal, seen.connected, seen.certified), (Some(Refusal::NotCertified), false, false));
        assert_eq!(world.route(certified, world.address(insider)), None);
        assert!(!world.way(insider, certified).is_direct(), "nobody has answered its probes");
        assert!(seen.candidates.is_empty(), "what it says of itself does not count");
        assert!(world.status(certified).counters["controls_at_a_shut_gate"] > 0);
    }
}

/// What an intruder shows, made of its own key and of that of somebody who is let in.
type Claim<'a> = Box<dyn Fn(PublicKey, PublicKey) -> Chain + 'a>;

#[test]
fn what_is_stolen_forged_or_of_another_mesh_helps_nobody() {
    let other_root = RootKey::from_seed(&[9; 32]);
    let other_issuer = other_root.delegate(Identity::from_seed(&[2; 32]), mandate(Scope::Cluster("paris".into()))).unwrap();
    let claims: [(Claim<'_>, Refusal); 4] = [
        (Box::new(|_, victim| chain(&issuer(), pod(victim, "web-0"))), Refusal::NotCertified),
        (Box::new(|own, _| chain(&other_issuer, pod(own, "web-1"))), Refusal::UnknownIssuer),
        (Box::new(|own, _| chain(&issuer(), ended(pod(own, "web-1")))), Refusal::CertificateExpired),
        (Box::new(|own, _| chain(&issuer(), not_yet(pod(own, "web-1")))), Refusal::CertificateExpired),
    ];
    for (claim, refusal) in claims {
        let mut world = world();
        let certified = member(&mut world, Place::Internet);
        let victim = world.identity(certified).public();
        let intruder = world.peer_with(Place::Internet, |peer| {
            let chain = claim(peer.config.fire.identity.public(), victim);
            peer.config.membership = Some(Membership { roots: vec![root().public()], chain: Some(chain) });
        });
        let flow = world.flow(intruder, certified, millis(250));
        world.run_for(secs(60));
        assert_eq!(world.report(flow).answered, 0, "{refusal:?}");
        assert_eq!(world.pings_that_came(intruder, certified), 0, "{refusal:?}");
        let seen = world.peer_status(certified, intruder).unwrap();
        assert_eq!((seen.refusal, seen.connected), (Some(refusal), false));
        assert_eq!(world.status(intruder).problems.len(), 1, "it is told itself: {refusal:?}");
        // Who is certified is itself as before.
        let friend = member(&mut world, Place::Internet);
        world.run_until(secs(5), |world| world.connected(friend, certified)).expect("others are let in");
    }
}

#[test]
fn the_end_of_a_certificate_shuts_the_gate_and_a_new_one_opens_it() {
    let mut world = world();
    let certified = member(&mut world, Place::Internet);
    let until = |seconds| move |peer: PeerCertificate| PeerCertificate { until: UnixSeconds(START + seconds), ..peer };
    let short = world.peer_with(Place::Internet, |peer| certify(peer, "web-1", until(600)));
    world.run_for(secs(30));
    assert!(world.direct(short, certified));
    // A quarter of an hour more for clocks that differ.
    world.run_for(secs(1_490 - 30));
    assert!(world.connected(short, certified));
    let flow = world.flow(short, certified, millis(250));
    world.run_for(secs(30));
    assert!(!world.connected(certified, short));
    let seen = world.peer_status(certified, short).unwrap();
    assert_eq!(seen.refusal, Some(Refusal::CertificateExpired));
    let shut = world.now();
    world.run_for(secs(30));
    assert_eq!(world.report_since(flow, shut).answered, 0);

    let renewed = chain(&issuer(), PeerCertificate { issued: UnixSeconds(START + 1_000), ..pod(world.identity(short).public(), "web-1") });
    let membership = Membership { roots: vec![root().public()], chain: Some(renewed) };
    world.reconfigure(short, Reconfigure { membership: Some(membership), ..Reconfigure::default() });
    world.run_until(secs(2), |world| world.connected(short, certified)).expect("it is let in again");
    world.run_until(secs(60), |world| world.direct(short, certified)).expect("directly, as before");
}

#[test]
fn a_renewal_before_the_end_is_not_noticed() {
    let mut world = world();
    let certified = member(&mut world, Place::Internet);
    let short = world.peer_with(Place::Internet, |peer| {
        certify(peer, "web-1", |pod| PeerCertificate { until: UnixSeconds(START + 600), ..pod });
    });
    world.run_for(secs(10));
    let flow = world.flow(certified, short, millis(100));
    world.run_for(secs(300));
    let renewed = chain(&issuer(), PeerCertificate { issued: UnixSeconds(START + 300), ..pod(world.identity(short).public(), "web-1b") });
    let membership = Membership { roots: vec![root().public()], chain: Some(renewed) };
    world.reconfigure(short, Reconfigure { membership: Some(membership), ..Reconfigure::default() });
    world.run_for(secs(2_000));
    assert_eq!(world.report(flow).lost(), 0);
    assert_eq!(world.peer_status(certified, short).unwrap().name, "web-1b");
}

#[test]
fn a_wrong_clock_shuts_nobody_out_while_servers_know_the_time() {
    for error in [-7_200_000, 7_200_000] {
        let mut world = world();
        world.server("b");
        let right = member(&mut world, Place::Internet);
        let wrong = world.peer_with(Place::Internet, |peer| {
            peer.clock_error = error;
            certify(peer, "web-1", |pod| PeerCertificate { issued: UnixSeconds(START - 60), until: UnixSeconds(START + 3_600), ..pod });
        });
        world.run_until(secs(10), |world| world.connected(right, wrong)).unwrap_or_else(|| panic!("{error}"));
    }
}

#[test]
fn chains_that_are_lost_are_shown_again() {
    let mut world = world();
    let one = member(&mut world, Place::Internet);
    let other = member(&mut world, Place::Internet);
    for peer in [one, other] {
        world.change_link(peer, |link| link.loss = 0.3);
    }
    world.run_until(secs(60), |world| world.connected(one, other) && world.connected(other, one)).expect("both gates open");
}

#[test]
fn routes_count_as_they_are_certified_and_no_others() {
    let mut world = world();
    let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    let scope = || Scope::External("router".into());
    let granted = Mandate { namespaces: Namespaces::Only(vec![]), routes: vec![net("10.20.0.0/16")], ..mandate(scope()) };
    let issuer = root().delegate(Identity::from_seed(&[3; 32]), granted).unwrap();
    let client = world.peer_with(Place::Internet, |peer| {
        peer.config.accepted_routes = vec![net("10.0.0.0/8")];
        certify(peer, "web-0", |pod| pod);
    });
    let router = world.peer_with(Place::Internet, |peer| {
        // What it announces besides is what it would like to have.
        peer.config.fire.routes = vec![net("10.20.7.0/24"), net("10.99.0.0/16")];
        let own = peer.config.fire.identity.public();
        let chain = chain(&issuer, PeerCertificate { routes: vec![net("10.20.7.0/24")], ..external(own, "router") });
        peer.config.membership = Some(Membership { roots: vec![root().public()], chain: Some(chain) });
    });
    world.run_until(secs(5), |world| world.connected(client, router)).unwrap();
    assert_eq!(world.route(client, "10.20.7.1".parse().unwrap()), Some(router));
    assert_eq!(world.route(client, "10.99.0.1".parse().unwrap()), None);
    assert_eq!(world.peer_status(client, router).unwrap().routes, ["10.20.7.0/24"]);
}

/// A server, and ten milliseconds to it from anywhere.
fn world() -> World {
    let mut world = World::new(seed(1));
    world.server("a");
    world
}

/// A pod of the cluster paris, named by the number of peers before it.
fn member(world: &mut World, place: impl Into<Place>) -> PeerRef {
    let name = format!("web-{}", world.peer_refs().len());
    world.peer_with(place, |peer| certify(peer, &name, |pod| pod))
}

fn certify(peer: &mut PeerOptions, name: &str, change: impl FnOnce(PeerCertificate) -> PeerCertificate) {
    let certificate = change(pod(peer.config.fire.identity.public(), name));
    peer.config.membership = Some(Membership { roots: vec![root().public()], chain: Some(chain(&issuer(), certificate)) });
}

fn chain(issuer: &Issuer, peer: PeerCertificate) -> Chain {
    issuer.certify(peer).unwrap()
}

fn root() -> RootKey {
    RootKey::from_seed(&[1; 32])
}

fn issuer() -> Issuer {
    root().delegate(Identity::from_seed(&[2; 32]), mandate(Scope::Cluster("paris".into()))).unwrap()
}

fn mandate(scope: Scope) -> Mandate {
    Mandate {
        scope,
        rights: Rights { certify: true, ..Rights::default() },
        namespaces: Namespaces::All,
        routes: vec![],
        from: UnixSeconds(START - DAY),
        until: UnixSeconds(START + 29 * DAY),
    }
}

fn pod(identity: PublicKey, name: &str) -> PeerCertificate {
    PeerCertificate {
        identity,
        name: name.into(),
        namespace: "shop".into(),
        cluster: None,
        pod: Some([7; 16]),
        service_account: Some(LabelDigest::of("", "web")),
        labels: vec![LabelDigest::of("app", "web")],
        ipv4: None,
        routes: vec![],
        born: UnixSeconds(START - 3_600),
        issued: UnixSeconds(START - 60),
        until: UnixSeconds(START + DAY),
    }
}

fn external(identity: PublicKey, name: &str) -> PeerCertificate {
    PeerCertificate { namespace: String::new(), pod: None, service_account: None, labels: vec![], ..pod(identity, name) }
}

fn ended(peer: PeerCertificate) -> PeerCertificate {
    PeerCertificate { born: UnixSeconds(START - 2 * DAY), issued: UnixSeconds(START - DAY), until: UnixSeconds(START - 901), ..peer }
}

fn not_yet(peer: PeerCertificate) -> PeerCertificate {
    PeerCertificate { issued: UnixSeconds(START + 3_600), ..peer }
}
