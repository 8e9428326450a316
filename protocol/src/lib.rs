//! Keys, rooms, server choice, announcements and the wire of the campfire protocol, version 2 (see `docs/protocol.md`).
//!
//! Pure: no clock, no sockets, no global randomness. Time and random bytes come in as arguments.

pub mod time;
