//! The fire side of the mesh: which servers to camp on, the conversation with each, who sits there. Knows nothing of links.
//!
//! The contract with the rest of the mesh ([`crate::links`]): the fire says [`Event`]s; the links ask by
//! [`Fire::signal`], [`Fire::bind`], [`Fire::release`] and [`Fire::find`]. A peer is its [`PublicKey`]; where it sits is
//! known as [`Seat`]s.

use std::net::SocketAddr;

use campfire_protocol::announce::Announcement;
use campfire_protocol::identity::PublicKey;
use campfire_protocol::wire::MemberId;

use crate::io::{ServerSlot, Via};

/// A peer's seat in one room (one per key held) on one server, under which Signal and Bind reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat {
    /// The server.
    pub server: ServerSlot,
    /// Which of our keys' rooms (index into the key set; newest first).
    pub room: u8,
    /// Its id there.
    pub member: MemberId,
}

/// How a member was learned of: decides who starts the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// From the answer to our Camp (we came later): we start at once.
    Camp,
    /// Pushed: it came later and starts; we wait 1 s.
    Ember,
    /// Asked for.
    Find,
}

/// What the fire tells the links.
#[derive(Clone, Debug)]
pub enum Event {
    /// A verified announcement, newer than what was known of this peer at this seat, or a seat more.
    Member { seat: Seat, learned: Learned, announcement: Box<Announcement> },
    /// A seat is gone (departure pushed, or not listed after a reset). A hint: a live session keeps its link.
    Departed { peer: PublicKey, seat: Seat },
    /// Another member signalled: a raw WireGuard message, or a relayed frame from before we were bound.
    Signal { from: Seat, data: Vec<u8> },
    /// Answer to [`Fire::bind`]: the channel may be used now.
    Bound { seat: Seat, channel: u16 },
    /// The seat no longer exists, or the server refuses. The links may try another common server.
    Unreachable { seat: Seat, code: u16 },
    /// How the server sees our socket (Camp, Binding). Reported on change.
    Mapped { server: ServerSlot, via: Via, local_socket_observed: SocketAddr },
    /// We camp there (again): earlier bindings on it are void unless `kept`.
    Camped { server: ServerSlot, kept: bool },
    /// The server no longer answers; paths through it are in doubt.
    Lost { server: ServerSlot },
    /// Nothing from the server for 500 ms under traffic: paths through it are suspect.
    Suspect { server: ServerSlot },
}
