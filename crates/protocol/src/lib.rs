//! Keys, rooms, server choice, announcements and the wire of the campfire protocol, version 2 (see `docs/protocol.md`).
//!
//! Pure: no clock, no sockets, no global randomness. Time and random bytes come in as arguments.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`key`] | the pre-shared key, what is derived from it, its texts |
//! | [`identity`] | a peer's Ed25519/X25519 identity, its overlay addresses |
//! | [`server`] | servers, their addresses, which to camp on |
//! | [`uri`] | `camp://` |
//! | [`credential`] | TURN REST user names, passwords and integrity keys |
//! | [`stun`] | STUN messages (RFC 8489): building, reading, integrity |
//! | [`wire`] | the campfire messages on STUN: Camp, Ember, Find, Signal, Bind |
//! | [`announce`] | sealed and signed announcements, server records |
//! | [`certificate`] | who issues for a mesh, who a peer is by that, and what makes a chain of both hold |
//! | [`control`] | what peers say to each other inside the tunnel |
//! | [`limit`] | why a server takes no further member |
//! | [`carrier`] | the names of sockets, streams, servers and paths |

#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]

pub mod announce;
pub mod carrier;
mod cbor;
pub mod certificate;
pub mod control;
pub mod credential;
pub mod identity;
pub mod key;
pub mod limit;
pub mod server;
pub mod stun;
pub mod time;
pub mod uri;
pub mod wire;

#[cfg(test)]
mod vectors;
