//! Servers that tell peers a false address, which is then probed by everybody.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::net::{IpAddr, SocketAddr};

use campfire_sim::{Lie, Nat, NodeId, PeerRef, Place, World, secs, seed};

/// As many as are linked to each other at once.
const ROOM: usize = 64;

#[test]
fn in_a_room_of_64_a_false_address_gets_few_probes_from_each_and_not_one_for_each_pair() {
    // Without a budget each of two tries would send five times to each of 63 peers' false addresses: 40,320 in this minute.
    let mut room = Room::new(&[true], |victim| Lie::Address(SocketAddr::new(victim, 53)));
    room.world.run_for(secs(60));
    let probes = room.probes();
    assert!((ROOM..=ROOM * (6 + 60 / 7)).contains(&probes), "{probes}");
    // Tries become rarer, and with them what is sent; there is never more than the budget.
    room.world.run_for(secs(120));
    let probes = room.probes();
    assert!(probes <= ROOM * 120 / 7, "{probes}");
    assert!(room.world.all_connected(&room.peers));
}

#[test]
fn a_port_for_each_peer_makes_no_more_of_one_host_than_it_can_bear() {
    let mut room = Room::new(&[true], Lie::Host);
    room.world.run_for(secs(60));
    let probes = room.probes();
    assert!((ROOM..=ROOM * (64 + 60)).contains(&probes), "{probes}");
}

#[test]
fn of_three_servers_a_lying_one_keeps_nobody_from_direct_paths() {
    let lie = |victim| Lie::Address(SocketAddr::new(victim, 53));
    let mut room = Room::behind(&[Nat::port_restricted(); 10], &[true, false, false], lie);
    let peers = room.peers.clone();
    let all_direct = |world: &mut World| (1..peers.len()).all(|n| peers[..n].iter().all(|&other| world.direct(peers[n], other)));
    room.world.run_until(secs(10), all_direct).expect("what two servers say is tried first");
    assert!(room.probes() <= peers.len() * 7);
}

#[test]
fn many_peers_behind_one_nat_all_get_direct_paths_though_they_share_its_address() {
    let mut world = World::new(seed(1));
    world.server("a");
    world.server("b");
    let [inside, outside] = [world.nat(Nat::masquerade()), world.nat(Nat::port_restricted())];
    let peers: Vec<_> = (0..40).map(|_| world.peer(inside)).collect();
    let other = world.peer(outside);
    world.run_until(secs(20), |world| peers.iter().all(|&peer| world.direct(peer, other))).expect("all direct");
}

/// Peers, servers of which some tell lies, and a host that the lies are about. Unless said otherwise the peers reach each other through servers alone.
struct Room {
    world: World,
    peers: Vec<PeerRef>,
    victim: NodeId,
}

impl Room {
    fn new(lying: &[bool], lie: impl Fn(IpAddr) -> Lie) -> Self {
        Self::behind(&[Nat::symmetric(); ROOM], lying, lie)
    }

    /// One peer behind each of these.
    fn behind(nats: &[Nat], lying: &[bool], lie: impl Fn(IpAddr) -> Lie) -> Self {
        let mut world = World::new(seed(1));
        let victim = world.host(Place::Internet);
        let address = IpAddr::from(world.net.addresses(victim).0.unwrap());
        for (number, lies) in lying.iter().enumerate() {
            world.server_with(&format!("s{number}"), |server| server.lie = lies.then(|| lie(address)));
        }
        let gateways: Vec<_> = nats.iter().map(|nat| world.nat(*nat)).collect();
        let peers = gateways.into_iter().map(|gateway| world.peer(gateway)).collect();
        Self { world, peers, victim }
    }

    /// What came to the victim since this was last asked.
    fn probes(&mut self) -> usize {
        self.world.mail(self.victim).len()
    }
}
