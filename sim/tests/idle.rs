//! What links cost that nobody uses.

use std::time::Duration;

use campfire_mesh::config::DirectPolicy;
use campfire_sim::{Nat, World, secs, seed};

/// Packets a minute on an idle link, both ways together: pings, their answers, WireGuard's rekeys and keepalives.
const A_MINUTE: f64 = 8.0;
const WATCHED: Duration = secs(1_200);

#[test]
fn an_idle_link_costs_eight_packets_a_minute_at_most() {
    for direct in [true, false] {
        let mut world = World::new(seed(1));
        world.server("a");
        world.server("b");
        let gateways = [Nat::masquerade(), Nat::port_restricted()].map(|nat| world.nat(nat));
        // Where a direct path is still looked for, now and then, that costs something too.
        let policy = if direct { DirectPolicy::default() } else { DirectPolicy::Forbid };
        let [one, other] = gateways.map(|gateway| world.peer_with(gateway, |peer| peer.config.direct = policy));
        world.run_for(secs(120));
        assert_eq!(world.direct(one, other), direct);
        let nodes = [world.node(one), world.node(other)];
        world.tap();
        world.run_for(WATCHED);
        let sent = world.tap();
        // WireGuard's messages begin with their type, ChannelData with its channel; the rest is camping.
        let of_links = sent
            .iter()
            .filter(|(node, packet)| nodes.contains(node) && matches!(packet.payload[..], [1..=4, 0, 0, 0, ..] | [0x40..=0x4f, ..]));
        let mut kinds = std::collections::BTreeMap::<_, usize>::new();
        let mut count = 0;
        for (node, packet) in of_links {
            count += 1;
            *kinds.entry((*node, packet.payload[0], packet.payload.len())).or_default() += 1;
        }
        let a_minute = f64::from(count) / (WATCHED.as_secs_f64() / 60.0);
        assert!(a_minute <= A_MINUTE, "{a_minute} packets a minute, direct {direct}: {kinds:?}");
        assert!(a_minute >= 3.0, "{a_minute}: nothing keeps the NAT open, or nothing is counted");
    }
}

#[test]
fn a_nat_that_forgets_sooner_is_learned_of_and_then_the_path_stays() {
    // Between a peer's pings it forgets; WireGuard's keepalive 10 s after each comes from one side alone.
    let forgetful = Nat::port_restricted().timeouts(secs(15), secs(15));
    let mut world = World::new(seed(1));
    world.server("a");
    world.server("b");
    let gateways = [world.nat(forgetful), world.nat(forgetful)];
    let [one, other] = gateways.map(|gateway| world.peer(gateway));
    world.run_for(secs(1_800));
    let told = world.notices(one).len();
    for _ in 0..60 {
        assert!(world.direct(one, other), "after half an hour it is known how long a mapping lives");
        world.run_for(secs(10));
    }
    assert_eq!(world.notices(one).len(), told, "{:?}", world.notices(one));
}
