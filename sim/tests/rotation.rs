//! Key rotation in three observed steps: no ping lost, nobody stranded, addresses kept.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use campfire_fire::config::{KeyEntry, KeyMode, Reconfigure as CampChange};
use campfire_mesh::config::Reconfigure;
use campfire_sim::{FlowRef, Nat, PeerRef, Place, World, millis, secs, seed};

#[test]
fn three_steps_lose_no_ping() {
    let (mut world, peers) = room();
    let flows = flows(&mut world, &peers);
    let addresses = peers.map(|peer| world.address(peer));
    for step in STEPS {
        for &peer in &peers {
            hold(&mut world, peer, step);
            world.run_for(secs(7));
        }
        world.run_for(secs(60));
        assert!(world.all_connected(&peers), "{step:?}");
    }
    world.run_for(secs(300));
    for flow in flows {
        let report = world.report(flow);
        assert_eq!(report.lost(), 0, "{report:?}");
    }
    assert_eq!(peers.map(|peer| world.address(peer)), addresses);
    for &one in &peers {
        for &other in peers.iter().filter(|&&other| other != one) {
            let fingerprint = world.peer_status(one, other).unwrap().fingerprint;
            assert_eq!(fingerprint, world.keys(1).fingerprint.to_string());
        }
    }
}

#[test]
fn all_at_once_loses_no_ping_either() {
    let (mut world, peers) = room();
    let flows = flows(&mut world, &peers);
    for step in STEPS {
        for &peer in &peers {
            hold(&mut world, peer, step);
        }
        world.run_for(secs(30));
    }
    world.run_for(secs(200));
    for flow in flows {
        let report = world.report(flow);
        assert_eq!(report.lost(), 0, "{report:?}");
    }
}

#[test]
fn a_newcomer_with_either_key_is_met_while_both_are_announced() {
    for (key, steps) in [(0, 1), (0, 2), (1, 2), (1, 3)] {
        let (mut world, peers) = room();
        for step in &STEPS[..steps] {
            for &peer in &peers {
                hold(&mut world, peer, step);
            }
            world.run_for(secs(60));
        }
        let keys = world.keys(key);
        let newcomer = world.peer_with(Place::Internet, |peer| {
            peer.config.fire.keys = vec![KeyEntry { keys, mode: KeyMode::Announce }];
        });
        let everyone = world.peer_refs();
        world
            .run_until(secs(10), |world| world.all_connected(&everyone))
            .unwrap_or_else(|| panic!("{newcomer:?} with key {key} after step {steps}"));
    }
}

#[test]
fn who_missed_the_rotation_is_found_again_when_told() {
    let (mut world, peers) = room();
    for step in STEPS {
        for &peer in &peers[..2] {
            hold(&mut world, peer, step);
        }
        world.run_for(secs(600));
    }
    assert!(world.connected(peers[0], peers[1]));
    hold(&mut world, peers[2], STEPS[2]);
    world.run_until(secs(10), |world| world.all_connected(&peers)).expect("all are connected");
}

type Step = &'static [(usize, KeyMode)];

/// Everyone accepts the new key; everyone announces under both; the old one is dropped.
const STEPS: [Step; 3] =
    [&[(1, KeyMode::Accept), (0, KeyMode::Announce)], &[(1, KeyMode::Announce), (0, KeyMode::Announce)], &[(1, KeyMode::Announce)]];

fn hold(world: &mut World, peer: PeerRef, step: Step) {
    let keys = step.iter().map(|&(key, mode)| KeyEntry { keys: world.keys(key), mode }).collect();
    world.reconfigure(peer, Reconfigure { fire: CampChange { keys: Some(keys), ..CampChange::default() }, ..Reconfigure::default() });
}

/// Two that need a relay, and one that does not.
fn room() -> (World, [PeerRef; 3]) {
    let mut world = World::new(seed(1));
    world.server("a");
    world.server("b");
    // The overlay's id is carried beside the keys.
    let network = world.keys(0).network;
    let peers = [Nat::symmetric(), Nat::symmetric(), Nat::full_cone()].map(|nat| {
        let gateway = world.nat(nat);
        world.peer_with(gateway, |peer| peer.config.fire.network = network)
    });
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("all are connected");
    world.run_for(secs(5));
    (world, peers)
}

fn flows(world: &mut World, peers: &[PeerRef]) -> Vec<FlowRef> {
    let mut flows = Vec::new();
    for &one in peers {
        for &other in peers.iter().filter(|&&other| other != one) {
            flows.push(world.flow(one, other, millis(250)));
        }
    }
    flows
}
