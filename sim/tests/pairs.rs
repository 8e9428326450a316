//! All pairs of NATs: everybody is connected, directly wherever that can be, and else it is known why not.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use campfire_mesh::io::WhyNotDirect;
use campfire_sim::{Nat, PeerRef, Place, World, millis, secs, seed};

const KINDS: [(&str, Option<Nat>); 6] = [
    ("open", None),
    ("full cone", Some(Nat::full_cone())),
    ("restricted", Some(Nat::restricted())),
    ("port-restricted", Some(Nat::port_restricted())),
    ("Linux", Some(Nat::masquerade())),
    ("symmetric", Some(Nat::symmetric())),
];

/// Both try at most this long in tests that wait for a direct path.
const PATIENCE: Duration = secs(10);

#[test]
fn all_36_pairs_are_connected_and_31_of_them_directly() {
    let mut direct = 0;
    for (first_name, first) in KINDS {
        for (late_name, late) in KINDS {
            let mut pair = Pair::new(first, late, Duration::from_millis(700));
            assert!(pair.connects(), "{first_name} and {late_name}");
            let punchable = !(is_symmetric(first_name) && is_strict(late_name) || is_symmetric(late_name) && is_strict(first_name));
            if punchable {
                assert!(pair.becomes_direct(PATIENCE), "{first_name} and {late_name}");
                direct += 1;
            } else {
                pair.world.run_for(PATIENCE);
                assert!(!pair.world.direct(pair.one, pair.other), "{first_name} and {late_name}");
                let expected = match (is_symmetric(first_name), is_symmetric(late_name)) {
                    (true, true) => [WhyNotDirect::SymmetricNAT; 2],
                    (true, false) => [WhyNotDirect::SymmetricNAT, WhyNotDirect::PeerSymmetricNAT],
                    _ => [WhyNotDirect::PeerSymmetricNAT, WhyNotDirect::SymmetricNAT],
                };
                assert_eq!(pair.reasons(), expected.map(Some), "{first_name} and {late_name}");
            }
            assert!(pair.pings(), "{first_name} and {late_name}");
        }
    }
    assert_eq!(direct, 31);
}

#[test]
fn the_early_probe_trap_is_avoided_at_any_skew_of_the_start() {
    for accepting in [(true, false), (false, true), (true, true)] {
        for skew in [0, 5, 15, 28, 40, 60, 150, 700] {
            let nat = |accepting| if accepting { Nat::masquerade_accepting() } else { Nat::masquerade() };
            let mut pair = Pair::new(Some(nat(accepting.0)), Some(nat(accepting.1)), millis(skew));
            assert!(pair.connects(), "{accepting:?}, skew {skew}");
            assert!(pair.becomes_direct(PATIENCE), "{accepting:?}, skew {skew}");
        }
    }
}

#[test]
fn a_path_lost_to_the_trap_is_found_again_with_a_fresh_socket() {
    // Long ways and jitter part the two starts, so that a probe comes early now and then.
    for seed in 0..6 {
        let mut pair = Pair::seeded(seed, Some(Nat::masquerade_accepting()), Some(Nat::masquerade_accepting()), millis(300));
        for one in [pair.one, pair.other] {
            let gateway = pair.world.gateway_of(one).unwrap();
            pair.world.change_link(gateway, |link| (link.delay, link.jitter) = (millis(40), millis(60)));
        }
        assert!(pair.connects(), "seed {seed}");
        assert!(pair.becomes_direct(secs(100)), "seed {seed}");
    }
}

#[test]
fn a_room_with_one_peer_behind_each_kind_is_connected_throughout() {
    let mut world = World::new(seed(3));
    world.server("a");
    world.server("b");
    let places = KINDS.map(|(_, nat)| place(&mut world, nat));
    let peers = places.map(|place| world.peer(place));
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("all are connected");
    world.run_for(PATIENCE);
    let direct = pairs(&peers).filter(|&(one, other)| world.direct(one, other)).count();
    // 15 unordered pairs; the symmetric one cannot be punched by the port-restricted and the Linux one.
    assert_eq!(direct, 13);
}

struct Pair {
    world: World,
    one: PeerRef,
    other: PeerRef,
}

impl Pair {
    fn new(first: Option<Nat>, late: Option<Nat>, skew: Duration) -> Self {
        Self::seeded(seed(1), first, late, skew)
    }

    fn seeded(seed: u64, first: Option<Nat>, late: Option<Nat>, skew: Duration) -> Self {
        let mut world = World::new(seed);
        world.server("a");
        world.server("b");
        let (first, late) = (place(&mut world, first), place(&mut world, late));
        let one = world.peer(first);
        let other = world.peer_with(late, |peer| peer.after = skew);
        Self { world, one, other }
    }

    fn connects(&mut self) -> bool {
        let (one, other) = (self.one, self.other);
        self.world.run_until(secs(3), |world| world.connected(one, other)).is_some()
    }

    fn becomes_direct(&mut self, limit: Duration) -> bool {
        let (one, other) = (self.one, self.other);
        self.world.run_until(limit, |world| world.direct(one, other)).is_some()
    }

    fn reasons(&self) -> [Option<WhyNotDirect>; 2] {
        [self.world.why(self.one, self.other), self.world.why(self.other, self.one)]
    }

    fn pings(&mut self) -> bool {
        let pings = [self.world.ping(self.one, self.other), self.world.ping(self.other, self.one)];
        self.world.run_for(secs(1));
        pings.iter().all(|&ping| self.world.ping_result(ping).answered.is_some())
    }
}

fn place(world: &mut World, nat: Option<Nat>) -> Place {
    nat.map_or(Place::Internet, |nat| world.nat(nat).into())
}

fn is_symmetric(kind: &str) -> bool {
    kind == "symmetric"
}

/// Filters by address and port.
fn is_strict(kind: &str) -> bool {
    matches!(kind, "symmetric" | "port-restricted" | "Linux")
}

fn pairs(peers: &[PeerRef]) -> impl Iterator<Item = (PeerRef, PeerRef)> + '_ {
    peers.iter().enumerate().flat_map(|(i, &one)| peers[..i].iter().map(move |&other| (one, other)))
}
