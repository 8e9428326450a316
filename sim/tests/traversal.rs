//! The network itself, with bare hosts that punch holes the plain way: it must let through what real NATs let through.
//! What is expected here was measured in network namespaces with nftables.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::net::SocketAddr;
use std::time::Duration;

use campfire_sim::{Nat, NodeId, Place, World, millis, secs};

const KINDS: [(&str, Option<Nat>); 6] = [
    ("open", None),
    ("full cone", Some(Nat::full_cone())),
    ("restricted", Some(Nat::restricted())),
    ("port-restricted", Some(Nat::port_restricted())),
    ("Linux", Some(Nat::masquerade())),
    ("symmetric", Some(Nat::symmetric())),
];

#[test]
fn plain_punching_reaches_31_of_36_pairs() {
    let mut reached = 0;
    for (first_name, first) in KINDS {
        for (late_name, late) in KINDS {
            let direct = Punch::new(first, late, 10).run(millis(100));
            let impossible = |one: &str, other: &str| one == "symmetric" && matches!(other, "symmetric" | "port-restricted" | "Linux");
            let expected = !impossible(first_name, late_name) && !impossible(late_name, first_name);
            assert_eq!(direct, expected, "{first_name} first, {late_name} late");
            reached += usize::from(direct);
        }
    }
    assert_eq!(reached, 31);
}

#[test]
fn an_early_probe_spoils_the_hole_when_the_late_side_is_later_than_the_way_is_long() {
    for (skew, reached) in [(0, true), (14, true), (28, true), (40, false), (60, false), (100, false)] {
        let direct = Punch::new(Some(Nat::masquerade()), Some(Nat::masquerade_accepting()), 15).run(millis(skew));
        assert_eq!(direct, reached, "skew {skew} ms, one way 30 ms");
    }
}

#[test]
fn the_early_probe_does_no_harm_where_input_drops() {
    assert!(Punch::new(Some(Nat::masquerade_accepting()), Some(Nat::masquerade()), 15).run(millis(100)));
}

#[test]
fn two_hosts_behind_one_gateway_reach_each_other_inside_and_by_hairpin_where_there_is_one() {
    for (nat, hairpin) in [(Nat::full_cone(), false), (Nat::full_cone().hairpin(), true)] {
        let mut punch = Punch::behind_one(nat);
        assert_eq!(punch.run(millis(0)), hairpin);
        let (one, other) = (punch.hosts[0], punch.hosts[1]);
        let inside = SocketAddr::new(punch.world.net.addresses(other).0.unwrap().into(), 5000);
        punch.world.send(one, 5000, inside, b"inside");
        punch.world.run_for(secs(1));
        assert!(punch.world.mail(other).iter().any(|(_, packet)| packet.payload == b"inside"));
    }
}

#[test]
fn a_host_behind_two_nats_is_as_reachable_as_the_stricter_one_lets_it_be() {
    for (outer, reached) in [(Nat::full_cone(), true), (Nat::symmetric(), false)] {
        let mut world = World::new(1);
        let carrier = world.nat(outer);
        let home = world.nat_behind(carrier, Nat::masquerade());
        let other = world.nat(Nat::port_restricted());
        let hosts = [world.host(home), world.host(other)];
        assert_eq!(Punch::between(world, hosts).run(millis(50)), reached);
    }
}

#[test]
fn a_gateway_that_moves_or_forgets_breaks_what_was_punched() {
    let mut world = World::new(1);
    let gateway = world.nat(Nat::port_restricted());
    let (inside, outside) = (world.host(gateway), world.host(Place::Internet));
    let mut punch = Punch::between(world, [inside, outside]);
    assert!(punch.run(millis(0)));
    let before = punch.outside_of(inside);
    punch.world.flush(gateway);
    assert_ne!(punch.outside_of(inside), before);
    let before = punch.outside_of(inside);
    punch.world.readdress(gateway);
    assert_ne!(punch.outside_of(inside).ip(), before.ip());
}

#[test]
fn ipv6_behind_stateful_firewalls_can_be_punched_and_not_reached_otherwise() {
    let mut world = World::new(1);
    let (one, other) = (world.ipv6_only(), world.ipv6_only());
    let hosts = [world.host(one), world.host(other)];
    let addresses = hosts.map(|host| SocketAddr::new(world.net.addresses(host).1.unwrap().into(), 5000));
    world.send(hosts[0], 5000, addresses[1], b"early");
    world.run_for(secs(1));
    assert!(world.mail(hosts[1]).is_empty());
    world.send(hosts[1], 5000, addresses[0], b"answer");
    world.run_for(secs(1));
    assert_eq!(world.mail(hosts[0]).len(), 1);
}

#[test]
fn a_partition_cuts_both_ways_and_mends() {
    let mut world = World::new(1);
    let hosts = [world.host(Place::Internet), world.host(Place::Internet)];
    for (cut, reached) in [(true, 0), (false, 1)] {
        world.cut(hosts[0], hosts[1], cut);
        for (from, to) in [(0, 1), (1, 0)] {
            let address = SocketAddr::new(world.net.addresses(hosts[to]).0.unwrap().into(), 1);
            world.send(hosts[from], 1, address, b"x");
            world.run_for(secs(1));
            assert_eq!(world.mail(hosts[to]).len(), reached);
        }
    }
}

/// Two hosts that learn their outside addresses, tell each other by magic, and then send probes every 50 ms to the other's
/// outside address and to wherever probes came from.
struct Punch {
    world: World,
    hosts: [NodeId; 2],
    reflector: NodeId,
}

impl Punch {
    /// `way` milliseconds lie between each gateway and the internet's middle.
    fn new(first: Option<Nat>, late: Option<Nat>, way: u64) -> Self {
        let mut world = World::new(1);
        world.wan.delay = millis(way);
        let hosts = [first, late].map(|nat| match nat {
            Some(nat) => {
                let gateway = world.nat(nat);
                world.host(gateway)
            }
            None => world.host(Place::Internet),
        });
        Self::between(world, hosts)
    }

    fn behind_one(nat: Nat) -> Self {
        let mut world = World::new(1);
        let gateway = world.nat(nat);
        let hosts = [world.host(gateway), world.host(gateway)];
        Self::between(world, hosts)
    }

    fn between(mut world: World, hosts: [NodeId; 2]) -> Self {
        let reflector = world.host(Place::Internet);
        Self { world, hosts, reflector }
    }

    fn outside_of(&mut self, host: NodeId) -> SocketAddr {
        let reflector = SocketAddr::new(self.world.net.addresses(self.reflector).0.unwrap().into(), 3478);
        self.world.send(host, 5000, reflector, b"?");
        self.world.run_for(secs(1));
        self.world.mail(self.reflector).pop().unwrap().1.source
    }

    /// Whether both hear each other and hear that they were heard, when the second begins `skew` after the first.
    fn run(&mut self, skew: Duration) -> bool {
        let outside = self.hosts.map(|host| self.outside_of(host));
        let mut targets = [vec![outside[1]], vec![outside[0]]];
        let (mut heard, mut confirmed) = ([false; 2], [false; 2]);
        for step in 0..2_000 {
            for own in 0..2 {
                for (_, packet) in self.world.mail(self.hosts[own]) {
                    heard[own] = true;
                    confirmed[own] |= packet.payload == [1];
                    if !targets[own].contains(&packet.source) {
                        targets[own].push(packet.source);
                    }
                }
                let since = millis(step).checked_sub(if own == 0 { Duration::ZERO } else { skew });
                if since.is_some_and(|since| since.as_millis().is_multiple_of(50)) {
                    for &target in &targets[own] {
                        self.world.send(self.hosts[own], 5000, target, &[u8::from(heard[own])]);
                    }
                }
            }
            self.world.run_for(millis(1));
        }
        confirmed == [true; 2]
    }
}
