//! Real worlds out of network namespaces: an internet, servers on it, gateways with a NAT of every kind, peers behind
//! them. For the demo, the tests that need a real kernel, and the benches.
//!
//! All traffic stays in the namespaces: none has a route out of the machine. A [`World`] removes itself when it is
//! dropped; what a killed run left behind is removed by the next one of the same name, or by [`World::remove`].

pub mod peer;
pub mod world;

pub use peer::{Peer, PeerOptions, TurnServer};
pub use world::{Gateway, Host, Nat, World, missing_for_worlds};
