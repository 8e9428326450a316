//! How soon data flows after a peer starts while others camp: 4 round trips to the server and 20 ms.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use campfire_protocol::server::Transport;
use campfire_sim::{Nat, PeerOptions, Place, World, millis, secs, seed};

/// Client to server and back: twice ten milliseconds each way.
const ROUND_TRIP: Duration = millis(40);
const ALLOWANCE: Duration = millis(20);

#[test]
fn over_udp_within_four_round_trips() {
    assert_first_data(4, &[], |_| {});
}

#[test]
fn between_symmetric_nats_within_four_round_trips() {
    let mut world = camp(&[Some(Nat::symmetric())]);
    let gateway = world.nat(Nat::symmetric());
    let took = first_data(&mut world, gateway.into(), |_| {});
    // Behind a gateway the way is a little longer.
    assert!(took <= 4 * ROUND_TRIP + ALLOWANCE + millis(1), "{took:?}");
}

#[test]
fn with_four_servers_and_twenty_campers_within_four_round_trips() {
    let mut world = World::new(seed(1));
    for name in ["a", "b", "c", "d"] {
        world.server(name);
    }
    for _ in 0..20 {
        world.peer(Place::Internet);
    }
    world.run_for(secs(30));
    let took = first_data(&mut world, Place::Internet, |_| {});
    assert!(took <= 4 * ROUND_TRIP + ALLOWANCE, "{took:?}");
}

#[test]
fn one_round_trip_more_when_the_clock_is_wrong() {
    for clock_error in [600_000, -600_000] {
        assert_first_data(5, &[], |peer| peer.clock_error = clock_error);
    }
}

#[test]
fn one_round_trip_more_over_tcp() {
    assert_first_data(5, &[], |peer| only(peer, Transport::Tcp));
}

#[test]
fn two_round_trips_more_over_tls() {
    assert_first_data(6, &[], |peer| only(peer, Transport::Tls));
}

#[test]
fn to_a_camper_on_tls_as_soon_as_to_any_other() {
    let mut world = World::new(seed(1));
    world.server("a");
    world.peer_with(Place::Internet, |peer| only(peer, Transport::Tls));
    world.run_for(secs(10));
    let took = first_data(&mut world, Place::Internet, |_| {});
    assert!(took <= 4 * ROUND_TRIP + ALLOWANCE, "{took:?}");
}

fn assert_first_data(round_trips: u32, campers: &[Option<Nat>], change: impl FnOnce(&mut PeerOptions)) {
    let mut world = camp(campers);
    let took = first_data(&mut world, Place::Internet, change);
    assert!(took <= round_trips * ROUND_TRIP + ALLOWANCE, "{took:?}");
}

/// A world in which the first peer and others camp.
fn camp(others: &[Option<Nat>]) -> World {
    let mut world = World::new(seed(1));
    world.server("a");
    if others.is_empty() {
        world.peer(Place::Internet);
    }
    for nat in others {
        let place = nat.map_or(Place::Internet, |nat| world.nat(nat).into());
        world.peer(place);
    }
    world.run_for(secs(10));
    world
}

/// From the start of a newcomer that at once pings the first camper until the ping comes there.
fn first_data(world: &mut World, place: Place, change: impl FnOnce(&mut PeerOptions)) -> Duration {
    let camper = world.peer_refs()[0];
    let newcomer = world.peer_with(place, change);
    world.run_for(Duration::ZERO);
    let ping = world.ping(newcomer, camper);
    world.run_for(secs(5));
    let ping = world.ping_result(ping);
    ping.reached.expect("the ping comes through").since(ping.sent)
}

fn only(peer: &mut PeerOptions, transport: Transport) {
    for server in &mut peer.config.fire.servers {
        server.addresses.retain(|address| address.transport == transport);
    }
}
