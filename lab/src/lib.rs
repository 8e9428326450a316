//! Real worlds out of network namespaces: an internet, servers on it, gateways with a NAT of every kind, peers behind
//! them. For the demo, the tests that need a real kernel, and the benches.
//!
//! All traffic stays in the namespaces: none has a route out of the machine. [`Net`] makes namespaces and removes them, a [`World`] is an
//! internet made of one, and [`peer`] runs the project's own programs on its hosts.

pub mod nat;
pub mod net;
pub mod peer;
pub mod world;

pub use nat::Nat;
pub use net::{Namespace, Net, Process, Route};
pub use peer::{Peer, PeerOptions, TurnServer};
pub use world::{Gateway, Host, World};
