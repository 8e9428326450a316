//! What a room costs, by its size: `cargo run --release -p campfire-sim --example room [MEMBERS…]`.
//!
//! CPU is that of the whole simulation on this machine: meshes, servers' cores and the world around them.

use std::time::{Duration, Instant};

use campfire_sim::room::Room;
use campfire_sim::secs;

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![100, 1_000, 10_000] } else { sizes };
    println!("members  phase          bytes/member  packets/member  inputs/member  CPU µs/member");
    for size in sizes {
        let mut room = Room::new(1, size, secs(5), 256);
        measure(size, "join", &mut room, secs(60));
        measure(size, "steady minute", &mut room, secs(60));
        for number in 0..size {
            room.world.restart(room.members[number]);
        }
        measure(size, "mass restart", &mut room, secs(60));
        let answered = room.pings(100);
        println!("{size:7}  {answered} of 100 pings between strangers answered within 2 s; longest roster {}", room.longest_roster());
    }
}

fn measure(size: usize, phase: &str, room: &mut Room, duration: Duration) {
    #[expect(clippy::disallowed_methods, reason = "a bench measures the machine")]
    let start = Instant::now();
    let cost = room.cost_of(duration);
    let micros = start.elapsed().as_micros() as f64 / size as f64;
    println!("{size:7}  {phase:13}  {:12.0}  {:14.1}  {:13.1}  {micros:13.0}", cost.bytes, cost.packets, cost.inputs);
}
