//! One member's place at the fire: which servers to camp on, the conversation with each, who sits there. Pure; knows the protocol and
//! nothing of links, tunnels or packets: it is all that an operator needs, and the ground that a mesh stands on.
//!
//! [`Fire`] is all of it: its documentation says what to call after what. [`io`] is what it is told and what it asks for; `campfire-camp`
//! carries that out.

#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]

mod aliases;
mod answers;
mod asking;
mod channels;
mod choice;
mod clock;
pub mod config;
mod connect;
mod conversation;
mod counters;
mod exchange;
mod finds;
mod fire;
mod hearth;
pub mod io;
mod linking;
pub mod netcheck;
mod own;
mod processes;
mod roster;
mod seating;
pub mod status;
mod timers;
mod view;

use std::net::SocketAddr;

use campfire_protocol::announce::Announcement;
use campfire_protocol::carrier::{ServerSlot, SocketId, Via};
use campfire_protocol::identity::PublicKey;
use campfire_protocol::wire::MemberId;

pub use self::counters::Counters;
pub use self::fire::Fire;

/// A peer's seat in one room (one per key held) on one server, under which Signal and Bind reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat {
    /// The server.
    pub server: ServerSlot,
    /// Which of our keys' rooms: a number that the fire gives to a key and keeps for it ([`Fire::keys`]). At start the
    /// index into [`Config::keys`].
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
    /// Asked for: we start at once.
    Find,
}

/// What the fire tells the links.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug)]
pub enum FireEvent {
    /// A verified announcement, newer than what was known of this peer, or a seat more of it.
    Member { seat: Seat, learned: Learned, announcement: Box<Announcement> },
    /// A seat is gone (departure pushed, or not listed after a reset). A hint: a live session keeps its link.
    Departed { peer: PublicKey, seat: Seat },
    /// Another member signalled: a raw WireGuard message, or a relayed frame from before we were bound. Comes after the
    /// sender's `Member`: what unknown seats signal waits until they are known, or is dropped.
    Signal { from: Seat, data: Vec<u8> },
    /// Answer to [`Fire::bind`]: [`Fire::relay_path`] gives a path now. Said again whenever that path changed (another
    /// transport, the server restarted and was bound again).
    Bound { seat: Seat, channel: u16 },
    /// The seat does not exist (404), or the server refuses; its binding is gone. The links may try another common server.
    Unreachable { seat: Seat, code: u16 },
    /// How a server sees one of our UDP sockets (Camp, Binding). Reported on change.
    Mapped { server: ServerSlot, via: Via, local_socket_observed: SocketAddr },
    /// We camp in this room there (again). Bindings are bound again by the fire itself; unless `kept`, their paths do not
    /// carry until `Bound` is said again.
    Camped { server: ServerSlot, room: u8, kept: bool },
    /// The server no longer answers; paths through it are in doubt. Bindings are kept and come back with `Bound`.
    Lost { server: ServerSlot },
    /// Under traffic nothing came from the server for 500 ms and two Bindings: paths through it are suspect.
    Suspect { server: ServerSlot },
    /// A suspect server answered.
    Trusted { server: ServerSlot },
}

/// An address under which a server sees one of our sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The server that says so.
    pub server: ServerSlot,
    /// Our socket.
    pub socket: SocketId,
    /// What it saw.
    pub observed: SocketAddr,
}
