//! Random lists of many servers, and what befalls servers and peers: in the end, who has a server in common meets.
#![allow(clippy::unwrap_used)]

mod world;

use std::collections::BTreeSet;

use campfire_fire::config::Reconfigure;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use world::{World, config, entry, secs};

const SERVERS: usize = 9;

#[test]
fn whoever_has_a_living_server_in_common_meets() {
    let worlds = std::env::var("CAMPFIRE_WORLDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    for seed in 0..worlds {
        run(seed);
    }
}

fn run(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut below = move |bound: usize| rng.next_u64() as usize % bound;
    let mut world = World::new(SERVERS);
    let mut lists: Vec<BTreeSet<usize>> = Vec::new();
    let mut list = {
        let mut below = {
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xFFFF);
            move |bound: usize| rng.next_u64() as usize % bound
        };
        move || (0..=below(7)).map(|_| below(SERVERS)).collect::<BTreeSet<usize>>()
    };
    for peer in 0..4 {
        lists.push(list());
        world.peer();
        world.peers[peer].udp_blocked = below(5) == 0;
        world.peers[peer].clock_error = [0, 0, 300_000, -300_000][below(4)];
        let config = config(peer, &lists[peer].iter().copied().collect::<Vec<_>>());
        world.begin(peer, &config);
        world.run(secs(below(20) as u64));
    }
    for _ in 0..below(12) {
        let (server, peer) = (below(SERVERS), below(4));
        match below(8) {
            0 | 1 => world.stop(server),
            2 | 3 => world.start(server),
            4 => world.drain(server),
            5 => {
                lists[peer] = list();
                let change = Reconfigure { servers: Some(lists[peer].iter().map(|server| entry(*server)).collect()), ..Default::default() };
                world.fire(peer, |fire, now| fire.reconfigure(now, &change));
            }
            6 => {
                world.kill(peer);
                let config = config(peer, &lists[peer].iter().copied().collect::<Vec<_>>());
                world.begin(peer, &config);
            }
            _ => world.peers[peer].mapped.set_port(41_000 + below(9_000) as u16),
        }
        world.run(secs(below(90) as u64));
    }
    // Servers that drain will not take newcomers: they end.
    let up: Vec<bool> = world.hosts.iter().map(|host| host.core.is_some()).collect();
    for server in 0..SERVERS {
        if world.hosts[server].core.is_some() {
            world.stop(server);
            world.start(server);
        }
    }
    // Two rounds of visits, and what was wrong at the first.
    world.run(secs(700));
    for a in 0..4 {
        for b in 0..4 {
            let common = lists[a].intersection(&lists[b]).any(|server| up[*server]);
            assert!(a == b || !common || world.knows(a, b), "seed {seed}: {a} {:?} does not know {b} {:?}, up {up:?}", lists[a], lists[b]);
        }
    }
}
