//! What networks do to peers: partitions, NATs that forget and move, small MTUs, firewalls, IPv6 alone, carriers' NATs, loss.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::net::IpAddr;
use std::time::Duration;

use campfire_mesh::io::WhyNotDirect;
use campfire_sim::{Link, Nat, Oversize, PeerRef, Place, Tcp, Way, World, millis, secs, seed};

const INTERVAL: Duration = millis(50);

#[test]
fn where_udp_is_blocked_everything_goes_over_tcp_and_where_only_443_is_open_over_tls() {
    for tcp in [Tcp::Any, Tcp::Only(443)] {
        let mut world = servers(2);
        let blocked = world.gateway_with(Place::Internet, Nat::masquerade(), |gateway| (gateway.udp, gateway.tcp) = (false, tcp));
        let open = world.nat(Nat::masquerade());
        let (one, other) = (world.peer(blocked), world.peer(open));
        world.run_until(secs(5), |world| world.connected(one, other)).expect("connected");
        let flow = world.flow(one, other, INTERVAL);
        world.run_for(secs(60));
        assert_eq!(world.report(flow).lost(), 0, "{tcp:?}");
        assert_eq!(world.why(one, other), Some(WhyNotDirect::UDPBlocked), "{tcp:?}");
        assert_eq!(world.way(other, one), Way::Relay, "{tcp:?}");
    }
}

#[test]
fn udp_that_is_blocked_later_is_replaced_by_tcp_and_taken_up_again() {
    let mut world = servers(2);
    let gateways = [world.nat(Nat::masquerade()), world.nat(Nat::masquerade())];
    let peers = gateways.map(|gateway| world.peer(gateway));
    world.run_until(secs(10), |world| world.direct(peers[0], peers[1])).expect("direct");
    world.police(gateways[0], false, Tcp::Any);
    let start = world.now();
    let flow = world.flow(peers[0], peers[1], INTERVAL);
    world.run_for(secs(60));
    let report = world.report_since(flow, start);
    assert!(report.longest_gap < secs(10), "{report:?}");
    world.police(gateways[0], true, Tcp::Any);
    world.run_until(secs(700), |world| world.direct(peers[0], peers[1])).expect("direct again");
}

#[test]
fn ipv6_only_peers_go_straight_to_each_other_and_relayed_to_those_with_ipv4_only() {
    let mut world = servers(2);
    let gateways = [world.ipv6_only(), world.ipv6_only(), world.nat(Nat::masquerade())];
    let peers = gateways.map(|gateway| world.peer(gateway));
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("connected");
    world.run_until(secs(10), |world| world.direct(peers[0], peers[1])).expect("direct over IPv6");
    assert_eq!(world.way(peers[0], peers[2]), Way::Relay);
    assert!(world.why(peers[0], peers[2]).is_some());
}

#[test]
fn a_dual_stack_peer_uses_ipv6_where_ipv4_is_symmetric() {
    let mut world = servers(2);
    let gateways = [0, 1].map(|_| world.gateway_with(Place::Internet, Nat::symmetric(), |gateway| gateway.v6 = true));
    let peers = gateways.map(|gateway| world.peer(gateway));
    world.run_until(secs(10), |world| world.direct(peers[0], peers[1])).expect("direct");
    let Way::Direct(remote) = world.way(peers[0], peers[1]) else { panic!("direct") };
    assert!(remote.is_ipv6());
}

#[test]
fn peers_behind_one_gateway_use_their_inside_addresses_whether_it_hairpins_or_not() {
    for nat in [Nat::symmetric(), Nat::masquerade(), Nat::full_cone().hairpin()] {
        let mut world = servers(2);
        let gateway = world.nat(nat);
        let peers = [world.peer(gateway), world.peer(gateway), world.peer(gateway)];
        world.run_until(secs(10), |world| world.direct(peers[0], peers[1]) && world.direct(peers[1], peers[2])).expect("direct");
        world.run_for(secs(5));
        let Way::Direct(remote) = world.way(peers[0], peers[1]) else { panic!("direct") };
        assert!(matches!(remote.ip(), IpAddr::V4(ip) if ip.is_private()), "the shortest way, {nat:?}");
    }
}

#[test]
fn two_lans_with_the_same_addresses_are_not_confused() {
    let mut world = servers(2);
    let gateways = [world.nat(Nat::masquerade()), world.nat(Nat::masquerade())];
    for gateway in gateways {
        world.number_from(gateway, [192, 168, 1, 10].into());
    }
    let peers: Vec<_> = gateways
        .into_iter()
        .flat_map(|gateway| [gateway; 2])
        .map(|gateway| world.peer_with(gateway, |peer| peer.port = Some(51_820)))
        .collect();
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("connected");
    world.run_for(secs(20));
    let flows: Vec<_> = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)].map(|(one, other)| world.flow(peers[one], peers[other], INTERVAL)).into();
    world.run_for(secs(20));
    for flow in flows {
        assert_eq!(world.report(flow).lost(), 0);
    }
}

#[test]
fn behind_a_carriers_nat_peers_are_connected_and_go_straight_where_it_hairpins() {
    for (carrier, direct) in [(Nat::full_cone(), false), (Nat::full_cone().hairpin(), true), (Nat::port_restricted().hairpin(), true)] {
        let mut world = servers(2);
        let carrier = world.nat(carrier);
        let homes = [world.nat_behind(carrier, Nat::masquerade()), world.nat_behind(carrier, Nat::masquerade())];
        let peers = homes.map(|home| world.peer(home));
        let outside = world.nat(Nat::port_restricted());
        let outside = world.peer(outside);
        world.run_until(secs(5), |world| world.all_connected(&[peers[0], peers[1], outside])).expect("connected");
        world.run_until(secs(10), |world| world.direct(peers[0], outside)).expect("direct to the outside");
        world.run_for(secs(10));
        assert_eq!(world.direct(peers[0], peers[1]), direct);
    }
}

#[test]
fn a_gateway_that_forgets_or_moves_is_survived() {
    for (nats, moves) in [
        ([Nat::port_restricted(), Nat::masquerade()], false),
        ([Nat::port_restricted(), Nat::masquerade()], true),
        ([Nat::symmetric(), Nat::symmetric()], false),
        ([Nat::symmetric(), Nat::symmetric()], true),
        ([Nat::full_cone(), Nat::restricted()], true),
    ] {
        let mut world = servers(2);
        let gateways = nats.map(|nat| world.nat(nat));
        let peers = gateways.map(|gateway| world.peer(gateway));
        world.run_until(secs(5), |world| world.connected(peers[0], peers[1])).expect("connected");
        world.run_for(secs(10));
        let direct = world.direct(peers[0], peers[1]);
        let flow = world.flow(peers[0], peers[1], INTERVAL);
        world.run_for(secs(1));
        if moves {
            world.readdress(gateways[0]);
        } else {
            world.flush(gateways[0]);
        }
        world.run_for(secs(30));
        let report = world.report(flow);
        assert!(report.longest_gap < secs(5), "{nats:?}, moves: {moves}: {report:?}");
        world.run_for(secs(60));
        assert_eq!(world.direct(peers[0], peers[1]), direct, "{nats:?}, moves: {moves}");
    }
}

#[test]
fn when_the_direct_way_breaks_the_relay_takes_over_and_hands_back() {
    let mut world = servers(2);
    let gateways = [world.nat(Nat::masquerade()), world.nat(Nat::port_restricted())];
    let peers = gateways.map(|gateway| world.peer(gateway));
    world.run_until(secs(10), |world| world.direct(peers[0], peers[1])).expect("direct");
    let flow = world.flow(peers[0], peers[1], INTERVAL);
    world.run_for(secs(1));
    world.cut(gateways[0], gateways[1], true);
    world.run_for(secs(20));
    let report = world.report(flow);
    assert!(report.longest_gap < secs(5), "{report:?}");
    assert_eq!(world.way(peers[0], peers[1]), Way::Relay);
    let mended = world.now();
    world.cut(gateways[0], gateways[1], false);
    world.run_until(secs(120), |world| world.direct(peers[0], peers[1])).expect("direct again");
    world.run_for(secs(5));
    assert_eq!(world.report_since(flow, mended).lost(), 0, "no ping is lost on the way back");
}

#[test]
fn a_peer_that_was_cut_off_from_everything_comes_back() {
    for away in [10, 100, 700, 4_000] {
        let mut world = servers(3);
        let nats = [Nat::symmetric(), Nat::symmetric(), Nat::full_cone()];
        let peers = nats.map(|nat| {
            let gateway = world.nat(nat);
            world.peer(gateway)
        });
        world.run_until(secs(5), |world| world.all_connected(&peers)).expect("connected");
        world.run_for(secs(5));
        let gateway = world.gateway_of(peers[0]).unwrap();
        world.link_up(gateway, false);
        world.run_for(secs(away));
        world.link_up(gateway, true);
        let back = world.now();
        let flows: Vec<_> = peers[1..].iter().map(|&other| world.flow(other, peers[0], INTERVAL)).collect();
        world.run_for(secs(60));
        for flow in flows {
            let report = world.report_since(flow, back);
            assert!(report.longest_gap < secs(30), "away {away} s: {report:?}");
        }
        assert!(world.all_connected(&peers), "away {away} s");
    }
}

#[test]
fn an_mtu_of_1280_on_the_way_lets_full_packets_through() {
    for nats in [[Nat::masquerade(), Nat::masquerade()], [Nat::symmetric(), Nat::symmetric()]] {
        let mut world = servers(2);
        let gateways = nats.map(|nat| world.nat(nat));
        world.change_link(gateways[0], |link| link.mtu = 1_280);
        assert_full_size_pings(&mut world, gateways.map(Place::from));
    }
}

#[test]
fn a_black_hole_for_large_packets_is_passed_by() {
    for nats in [[Nat::masquerade(), Nat::masquerade()], [Nat::symmetric(), Nat::symmetric()]] {
        let mut world = servers(2);
        let gateways = nats.map(|nat| world.nat(nat));
        world.change_link(gateways[0], |link| (link.mtu, link.oversize) = (1_280, Oversize::BlackHole));
        assert_full_size_pings(&mut world, gateways.map(Place::from));
    }
}

#[test]
fn an_mtu_that_was_chosen_is_proved_before_a_path_carries_data() {
    for nats in [[Nat::masquerade(), Nat::masquerade()], [Nat::symmetric(), Nat::symmetric()]] {
        let mut world = servers(2);
        let gateways = nats.map(|nat| world.nat(nat));
        // Small enough for 1,280 in a tunnel, and not for 1,400.
        world.change_link(gateways[0], |link| (link.mtu, link.oversize) = (1_400, Oversize::BlackHole));
        assert_pings_of(&mut world, gateways.map(Place::from), 1_400);
    }
}

#[test]
fn bad_links_are_survived() {
    let bad = Link { jitter: millis(30), loss: 0.1, reorder: 0.05, duplicate: 0.05, ..Link::clean(millis(60)) };
    for nats in [[Nat::masquerade(), Nat::port_restricted()], [Nat::symmetric(), Nat::symmetric()]] {
        let mut world = servers(2);
        world.wan = bad;
        let peers = nats.map(|nat| {
            let gateway = world.nat(nat);
            world.peer(gateway)
        });
        world.run_until(secs(20), |world| world.connected(peers[0], peers[1])).expect("connected");
        world.run_for(secs(5));
        let flow = world.flow(peers[0], peers[1], INTERVAL);
        world.run_for(secs(600));
        let report = world.report(flow);
        // There and back over two lossy links each; relayed over four.
        assert!(report.lost() * 100 < report.sent * 62, "{report:?}");
        assert!(report.longest_gap < secs(4), "{report:?}");
    }
}

#[test]
fn idle_links_stay_up_through_nats_that_forget_quickly() {
    let mut world = servers(2);
    let nat = |nat: Nat| nat.timeouts(secs(20), secs(30));
    let gateways = [world.nat(nat(Nat::masquerade())), world.nat(nat(Nat::port_restricted()))];
    let peers = gateways.map(|gateway| world.peer(gateway));
    world.run_until(secs(10), |world| world.direct(peers[0], peers[1])).expect("direct");
    for _ in 0..6 {
        world.run_for(secs(200));
        assert!(world.direct(peers[0], peers[1]));
        let pings = [world.ping(peers[1], peers[0]), world.ping(peers[0], peers[1])];
        world.run_for(secs(1));
        assert!(pings.iter().all(|&ping| world.ping_result(ping).answered.is_some()));
    }
}

#[test]
fn a_peer_that_crashes_and_starts_again_is_connected_at_once() {
    let mut world = servers(2);
    let peers = [Nat::symmetric(), Nat::symmetric(), Nat::full_cone()].map(|nat| {
        let gateway = world.nat(nat);
        world.peer(gateway)
    });
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("connected");
    world.run_for(secs(10));
    world.crash(peers[0]);
    world.run_for(secs(3));
    world.restart(peers[0]);
    world.run_for(millis(1));
    let ping = world.ping(peers[0], peers[1]);
    world.run_for(secs(3));
    let ping = world.ping_result(ping);
    assert!(ping.answered.expect("answered").since(ping.sent) < millis(500), "{ping:?}");
    let ping = world.ping(peers[2], peers[0]);
    world.run_for(secs(1));
    assert!(world.ping_result(ping).answered.is_some());
}

#[test]
fn a_goodbye_is_known_within_a_second_and_a_crash_in_time() {
    let mut world = servers(2);
    let peers = [world.peer(Place::Internet), world.peer(Place::Internet), world.peer(Place::Internet)];
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("connected");
    world.run_for(secs(5));
    world.stop(peers[1]);
    world.run_for(secs(1));
    assert!(!knows(&world, peers[0], peers[1]));
    world.crash(peers[2]);
    world.run_until(secs(300), |world| !knows(world, peers[0], peers[2])).expect("forgotten");
}

fn knows(world: &World, of: PeerRef, about: PeerRef) -> bool {
    world.peer_status(of, about).is_some_and(|peer| peer.connected)
}

fn servers(count: usize) -> World {
    let mut world = World::new(seed(1));
    for name in ["a", "b", "c", "d"].iter().take(count) {
        world.server(name);
    }
    world
}

/// Pings of the overlay's MTU come through in the end and then go on coming.
fn assert_full_size_pings(world: &mut World, places: [Place; 2]) {
    assert_pings_of(world, places, 1_280);
}

/// Peers whose interfaces have this MTU get packets of that size through, after a while.
fn assert_pings_of(world: &mut World, places: [Place; 2], mtu: u16) {
    let peers = places.map(|place| world.peer_with(place, |peer| peer.config.mtu = mtu));
    world.run_until(secs(5), |world| world.connected(peers[0], peers[1])).expect("connected");
    let mut answered = 0;
    for _ in 0..60 {
        let ping = world.ping_sized(peers[0], peers[1], usize::from(mtu));
        world.run_for(secs(1));
        answered = if world.ping_result(ping).answered.is_some() { answered + 1 } else { 0 };
    }
    assert!(answered >= 30, "the last {answered} of 60 were answered");
}
