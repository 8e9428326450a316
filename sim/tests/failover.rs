//! Servers die, return, and return empty, under pings.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use campfire_sim::{Nat, PeerRef, Place, ServerRef, Way, World, millis, secs, seed};

/// Twenty pings a second.
const INTERVAL: Duration = millis(50);
const MOST: Duration = secs(2);

#[test]
fn the_relays_death_is_a_gap_of_less_than_two_seconds_and_the_session_lives_on() {
    for seed in 0..8 {
        let (mut world, peers) = relayed(seed, 3);
        let relay = relay_of(&world, peers);
        let flow = world.flow(peers[0], peers[1], INTERVAL);
        world.run_for(secs(3));
        let began = world.session_began(peers[0], peers[1]);
        world.kill(relay);
        world.run_for(secs(10));
        let report = world.report(flow);
        assert!(report.longest_gap < MOST, "seed {seed}: {report:?}");
        assert_eq!(world.session_began(peers[0], peers[1]), began, "seed {seed}");
        assert_ne!(relay_of(&world, peers), relay, "seed {seed}");
    }
}

#[test]
fn a_relay_that_is_cut_off_from_one_side_alone_is_left_as_fast() {
    for seed in 0..8 {
        let (mut world, peers) = relayed(seed, 3);
        let relay = relay_of(&world, peers);
        let flow = world.flow(peers[0], peers[1], INTERVAL);
        world.run_for(secs(3));
        world.cut(peers[1], relay, true);
        world.run_for(secs(10));
        let report = world.report(flow);
        assert!(report.longest_gap < MOST, "seed {seed}: {report:?}");
    }
}

#[test]
fn direct_paths_do_not_notice_that_servers_die() {
    let mut world = World::new(seed(1));
    let servers = [world.server("a"), world.server("b")];
    let gateways = [world.nat(Nat::masquerade()), world.nat(Nat::port_restricted())];
    let peers = gateways.map(|gateway| world.peer(gateway));
    world.run_until(secs(10), |world| world.direct(peers[0], peers[1])).expect("direct");
    let flow = world.flow(peers[0], peers[1], INTERVAL);
    world.run_for(secs(1));
    for server in servers {
        world.kill(server);
    }
    // Past the sessions' renewal.
    world.run_for(secs(400));
    let report = world.report(flow);
    assert_eq!(report.lost(), 0, "{report:?}");
}

#[test]
fn when_all_servers_died_the_mesh_reforms_as_one_returns() {
    let mut world = World::new(seed(1));
    let servers = [world.server("a"), world.server("b"), world.server("c")];
    let nats = [Nat::symmetric(), Nat::symmetric(), Nat::masquerade(), Nat::full_cone()];
    let peers = nats.map(|nat| {
        let gateway = world.nat(nat);
        world.peer(gateway)
    });
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("connected at first");
    for server in servers {
        world.kill(server);
    }
    world.run_for(secs(120));
    let latecomer = world.peer(Place::Internet);
    world.run_for(secs(1));
    world.revive(servers[1]);
    let everyone: Vec<_> = world.peer_refs();
    let took = world.run_until(secs(60), |world| all_ping(world, &everyone)).expect("reforms");
    assert!(took <= secs(45), "{took:?}");
    assert!(world.connected(latecomer, peers[0]));
}

#[test]
fn a_server_that_restarts_empty_is_camped_on_again() {
    for (servers, most) in [(1, secs(5)), (3, MOST)] {
        for seed in 0..4 {
            let (mut world, peers) = relayed(seed, servers);
            let relay = relay_of(&world, peers);
            let flow = world.flow(peers[0], peers[1], INTERVAL);
            world.run_for(secs(3));
            world.kill(relay);
            world.run_for(millis(100));
            world.revive(relay);
            world.run_for(secs(30));
            let report = world.report(flow);
            assert!(report.longest_gap < most, "{servers} servers, seed {seed}: {report:?}");
            assert!(world.connected(peers[0], peers[1]));
            let newcomer = world.peer(Place::Internet);
            world.run_until(secs(3), |world| world.connected(newcomer, peers[0])).expect("newcomers are met there");
        }
    }
}

#[test]
fn everybody_returns_to_the_best_servers_in_time() {
    let (mut world, peers) = relayed(seed(1), 4);
    let relay = relay_of(&world, peers);
    world.kill(relay);
    world.run_for(secs(30));
    world.revive(relay);
    world.run_for(secs(330));
    assert_eq!(relay_of(&world, peers), relay);
}

#[test]
fn a_server_that_drains_is_left_without_a_lost_ping() {
    let (mut world, peers) = relayed(seed(1), 3);
    let relay = relay_of(&world, peers);
    let flow = world.flow(peers[0], peers[1], INTERVAL);
    world.run_for(secs(1));
    world.drain(relay);
    world.run_for(secs(10));
    world.kill(relay);
    world.run_for(secs(10));
    let report = world.report(flow);
    assert_eq!(report.lost(), 0, "{report:?}");
}

/// Two peers that nothing but a relay connects, and this many servers.
fn relayed(seed: u64, servers: usize) -> (World, [PeerRef; 2]) {
    let mut world = World::new(seed);
    for name in ["a", "b", "c", "d"].iter().take(servers) {
        world.server(name);
    }
    let gateways = [world.nat(Nat::symmetric()), world.nat(Nat::symmetric())];
    let peers = gateways.map(|gateway| world.peer(gateway));
    world.run_until(secs(5), |world| world.connected(peers[0], peers[1])).expect("connected");
    world.run_for(secs(5));
    assert_eq!(world.way(peers[0], peers[1]), Way::Relay);
    (world, peers)
}

fn relay_of(world: &World, peers: [PeerRef; 2]) -> ServerRef {
    let name = world.peer_status(peers[0], peers[1]).and_then(|peer| peer.server).expect("a relay in use");
    world.server_named(&name).expect("one of the servers")
}

fn all_ping(world: &mut World, peers: &[PeerRef]) -> bool {
    if !world.all_connected(peers) {
        return false;
    }
    let pings: Vec<_> =
        peers.iter().flat_map(|&one| peers.iter().filter(move |&&other| one != other).map(move |&other| (one, other))).collect();
    let pings: Vec<_> = pings.into_iter().map(|(one, other)| world.ping(one, other)).collect();
    world.run_for(secs(1));
    pings.iter().all(|&ping| world.ping_result(ping).answered.is_some())
}
