//! Clocks that are wrong, servers few of which are shared, lists that change, plain TURN servers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use campfire_fire::config::Reconfigure as CampChange;
use campfire_fire::io::Notice;
use campfire_mesh::config::Reconfigure;
use campfire_sim::{Nat, PeerRef, Place, World, millis, secs, seed};

const TEN_MINUTES: i64 = 600_000;

#[test]
fn peers_with_clocks_ten_minutes_wrong_meet_and_stay_together() {
    let mut world = World::new(seed(1));
    world.server("a");
    world.server("b");
    let peers = [0, TEN_MINUTES, -TEN_MINUTES].map(|clock_error| {
        let gateway = world.nat(Nat::symmetric());
        world.peer_with(gateway, |peer| peer.clock_error = clock_error)
    });
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("all are connected");
    let flows = flows(&mut world, &peers);
    // Past the renewal of seats, sessions and nonces.
    world.run_for(secs(4_000));
    for flow in flows {
        assert_eq!(world.report(flow).lost(), 0);
    }
}

#[test]
fn servers_with_clocks_ten_minutes_wrong_do_no_harm() {
    for errors in [[TEN_MINUTES, TEN_MINUTES], [TEN_MINUTES, -TEN_MINUTES], [0, -TEN_MINUTES]] {
        let mut world = World::new(seed(1));
        for (name, error) in ["a", "b"].into_iter().zip(errors) {
            world.server_with(name, |server| server.clock_error = error);
        }
        let peers = [0, TEN_MINUTES].map(|clock_error| {
            let gateway = world.nat(Nat::symmetric());
            world.peer_with(gateway, |peer| peer.clock_error = clock_error)
        });
        world.run_until(secs(5), |world| world.all_connected(&peers)).expect("all are connected");
        let flows = flows(&mut world, &peers);
        world.run_for(secs(300));
        for flow in flows {
            assert_eq!(world.report(flow).lost(), 0, "{errors:?}");
        }
    }
}

#[test]
fn a_peer_that_knows_one_of_six_servers_is_found_by_one_that_knows_all() {
    for shared in 0..6 {
        for newcomer_knows_all in [true, false] {
            let mut world = World::new(seed(1));
            let servers = ["a", "b", "c", "d", "e", "f"].map(|name| world.server(name));
            let one = vec![world.server_entry(servers[shared])];
            let knows_one = |after| {
                let one = one.clone();
                move |peer: &mut campfire_sim::PeerOptions| (peer.config.fire.servers, peer.after) = (one, after)
            };
            let (first, second) = if newcomer_knows_all {
                let first = world.peer_with(Place::Internet, knows_one(secs(0)));
                (first, world.peer_with(Place::Internet, |peer| peer.after = secs(10)))
            } else {
                let first = world.peer(Place::Internet);
                (first, world.peer_with(Place::Internet, knows_one(secs(10))))
            };
            let limit = if newcomer_knows_all { secs(15) } else { secs(10 + 360) };
            world
                .run_until(limit, |world| world.connected(first, second))
                .unwrap_or_else(|| panic!("shared {shared}, newcomer knows all: {newcomer_knows_all}"));
            let flows = flows(&mut world, &[first, second]);
            world.run_for(secs(900));
            for flow in flows {
                assert_eq!(world.report(flow).lost(), 0, "stays, shared {shared}");
            }
        }
    }
}

#[test]
fn two_peers_that_can_reach_one_common_server_of_six_meet_there() {
    for common in 0..6 {
        let mut world = World::new(seed(2));
        let servers = ["a", "b", "c", "d", "e", "f"].map(|name| world.server(name));
        let gateways = [world.nat(Nat::symmetric()), world.nat(Nat::symmetric())];
        for (i, &server) in servers.iter().enumerate().filter(|&(i, _)| i != common) {
            world.cut(gateways[i % 2], server, true);
        }
        let peers = gateways.map(|gateway| world.peer(gateway));
        world.run_until(secs(400), |world| world.connected(peers[0], peers[1])).unwrap_or_else(|| panic!("common: {common}"));
        let flows = flows(&mut world, &peers);
        world.run_for(secs(900));
        for flow in flows {
            assert_eq!(world.report(flow).lost(), 0, "common: {common}");
        }
    }
}

#[test]
fn a_changed_server_list_loses_no_ping_and_strands_nobody() {
    let mut world = World::new(seed(1));
    let old = [world.server("a"), world.server("b")];
    let peers = [Nat::symmetric(), Nat::symmetric(), Nat::masquerade()].map(|nat| {
        let gateway = world.nat(nat);
        world.peer(gateway)
    });
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("all are connected");
    let new = ["c", "d"].map(|name| world.server(name));
    let new_list = new.map(|server| world.server_entry(server)).to_vec();
    world.run_for(secs(10));
    let flows = flows(&mut world, &peers);
    for &peer in &peers {
        world.reconfigure(
            peer,
            Reconfigure { fire: CampChange { servers: Some(new_list.clone()), ..CampChange::default() }, ..Reconfigure::default() },
        );
        world.run_for(secs(30));
        // Who knows the new servers alone meets those who were told, and the others are not lost to those.
        let list = new_list.clone();
        let newcomer = world.peer_with(Place::Internet, |options| options.config.fire.servers = list);
        world.run_until(secs(5), |world| world.connected(newcomer, peer)).expect("newcomers are met");
        world.stop(newcomer);
    }
    // After the hour of grace the old servers can go.
    world.run_for(secs(3_700));
    for server in old {
        world.kill(server);
    }
    world.run_for(secs(60));
    for flow in flows {
        let report = world.report(flow);
        assert_eq!(report.lost(), 0, "{report:?}");
    }
}

#[test]
fn a_plain_turn_server_is_said_to_be_one_and_does_no_harm() {
    let mut world = World::new(seed(1));
    world.server_with("plain", |server| server.config.campfire = false);
    world.server("campfire");
    let gateways = [world.nat(Nat::symmetric()), world.nat(Nat::masquerade())];
    let peers = gateways.map(|gateway| world.peer(gateway));
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("all are connected");
    world.run_for(secs(30));
    for peer in peers {
        assert!(world.camp_notices(peer).iter().any(|(_, notice)| matches!(notice, Notice::PlainTurn { server } if server == "plain")));
    }
}

#[test]
fn a_server_that_does_not_hold_the_key_is_passed_over() {
    let mut world = World::new(seed(1));
    world.server_with("foreign", |server| server.keys = vec![3]);
    world.server("ours");
    let gateways = [world.nat(Nat::symmetric()), world.nat(Nat::masquerade())];
    let peers = gateways.map(|gateway| world.peer(gateway));
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("all are connected");
}

fn flows(world: &mut World, peers: &[PeerRef]) -> Vec<campfire_sim::FlowRef> {
    let mut flows = Vec::new();
    for &one in peers {
        for &other in peers.iter().filter(|&&other| other != one) {
            flows.push(world.flow(one, other, millis(500)));
        }
    }
    flows
}
