//! The same worlds with real WireGuard sessions (boringtun) in place of the stand-in. They have the machine's clock, so
//! virtual time must not outrun what the sessions allow: these worlds are short.

use campfire_sim::{Nat, PeerOptions, Place, World, millis, secs, seed};

#[test]
fn real_sessions_connect_relayed_and_direct() {
    for (nats, direct) in [([Nat::symmetric(), Nat::symmetric()], false), ([Nat::masquerade(), Nat::port_restricted()], true)] {
        let mut world = World::new(seed(1));
        world.server("a");
        world.server("b");
        let gateways = nats.map(|nat| world.nat(nat));
        let peers = gateways.map(|gateway| world.peer_with(gateway, real));
        world.run_until(secs(3), |world| world.connected(peers[0], peers[1])).expect("connected");
        let flow = world.flow(peers[0], peers[1], millis(50));
        world.run_for(secs(10));
        assert_eq!(world.report(flow).lost(), 0);
        assert_eq!(world.direct(peers[0], peers[1]), direct);
    }
}

#[test]
fn real_sessions_survive_the_relays_death() {
    let mut world = World::new(seed(1));
    let servers = [world.server("a"), world.server("b")];
    let gateways = [world.nat(Nat::symmetric()), world.nat(Nat::symmetric())];
    let peers = gateways.map(|gateway| world.peer_with(gateway, real));
    world.run_until(secs(3), |world| world.connected(peers[0], peers[1])).expect("connected");
    world.run_for(secs(5));
    let flow = world.flow(peers[0], peers[1], millis(50));
    world.run_for(secs(1));
    world.kill(servers[0]);
    world.run_for(secs(5));
    world.revive(servers[0]);
    world.run_for(secs(30));
    world.kill(servers[1]);
    world.run_for(secs(5));
    let report = world.report(flow);
    assert!(report.longest_gap < secs(2), "{report:?}");
}

#[test]
fn first_data_over_real_sessions_within_four_round_trips() {
    let mut world = World::new(seed(1));
    world.server("a");
    let camper = world.peer_with(Place::Internet, real);
    world.run_for(secs(5));
    let newcomer = world.peer_with(Place::Internet, real);
    world.run_for(millis(0));
    let ping = world.ping(newcomer, camper);
    world.run_for(secs(2));
    let ping = world.ping_result(ping);
    let took = ping.reached.expect("the ping comes through").since(ping.sent);
    assert!(took <= millis(4 * 40 + 20), "{took:?}");
}

fn real(peer: &mut PeerOptions) {
    peer.real_sessions = true;
}
