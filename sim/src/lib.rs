//! A world for tests: clock, NATs, links, loss, many meshes and servers in one process, all of it from one seed.
//!
//! Real are the peers' brains ([`campfire_mesh::Mesh`]), a packet's way between applications, sessions and paths
//! ([`campfire_datapath::Datapath`]), and the servers' cores ([`campfire_turn::Server`]). In small are sockets and streams. Stand-ins are the
//! WireGuard sessions ([`standin`]), unless a test asks for the real ones.
//!
//! ```no_run
//! use campfire_sim::{Nat, World, secs};
//!
//! let mut world = World::new(1);
//! world.server("a");
//! let (home, office) = (world.nat(Nat::masquerade()), world.nat(Nat::port_restricted()));
//! let (one, other) = (world.peer(home), world.peer(office));
//! world.run_for(secs(10));
//! assert!(world.direct(one, other));
//! ```
//!
//! A test that fails prints the end of its world's trace and the seed.

#![deny(clippy::wildcard_enum_match_arm)]

use std::time::Duration;

mod builder;
mod conntrack;
mod hash;
mod lie;
mod link;
mod nat;
mod net;
pub mod overlay;
mod peer;
pub mod plan;
mod queue;
mod random;
pub mod room;
mod server;
pub mod standin;
mod stream;
mod trace;
mod world;

pub use builder::{FlowRef, FlowReport, Gateway, NodeOf, Place, Way};
pub use lie::Lie;
pub use link::{Link, Oversize};
pub use nat::{Filtering, Mapping, Nat, Unsolicited};
pub use net::{GatewaySpec, NetCounters, NodeId, Packet, Tcp};
pub use peer::Counters;
pub use random::Random;
pub use server::{ServerCounters, ServerOptions};
pub use world::{EPOCH, PeerOptions, PeerRef, Ping, ServerRef, World};

/// This many seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// This many milliseconds.
pub const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The seeds of a test over many worlds: `count` of them, or as many as `CAMPFIRE_WORLDS` says, or the one in
/// `CAMPFIRE_SEED` alone.
pub fn seeds(count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("CAMPFIRE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("CAMPFIRE_WORLDS").unwrap_or(count)).collect(),
    }
}

/// `default`, or what `CAMPFIRE_SEED` says.
pub fn seed(default: u64) -> u64 {
    std::env::var("CAMPFIRE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
