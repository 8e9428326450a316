//! The fire side of the mesh: which servers to camp on, the conversation with each, who sits there. Knows nothing of links.
//!
//! The contract with the rest of the mesh: the fire says [`Event`]s; the links ask by [`Fire::signal`], [`Fire::bind`],
//! [`Fire::release`] and [`Fire::find`]. A peer is its [`PublicKey`]; where it sits is known as [`Seat`]s.
//!
//! After each call that takes `now`, drain [`Fire::poll_event`] and [`Fire::poll_output`] until both give `None`, then
//! look at [`Fire::next_wake`].

use std::net::SocketAddr;

use campfire_protocol::announce::{Announcement, Session};
use campfire_protocol::identity::PublicKey;
use campfire_protocol::key::Keys;
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::MemberId;

use crate::config::{Config, Reconfigure};
use crate::io::{Output, Path, ServerSlot, SocketId, StreamId, Via};

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
pub enum Event {
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

/// The fire side.
pub struct Fire;

#[allow(
    unused_variables,
    clippy::unused_self,
    clippy::needless_pass_by_value,
    clippy::missing_const_for_fn,
    clippy::iter_not_returning_iterator
)] // contract first
impl Fire {
    /// Starts: nothing is sent before a socket or stream can carry it.
    pub fn new(config: &Config, seed: [u8; 32], now: Time, wall: UnixMillis) -> Self {
        Self
    }

    /// A STUN message arrived from `via`.
    pub fn on_stun(&mut self, now: Time, via: Via, message: &[u8]) {}

    /// The time of [`next_wake`](Self::next_wake) has come (or not: harmless).
    pub fn on_wake(&mut self, now: Time) {}

    /// When to call [`on_wake`](Self::on_wake).
    pub fn next_wake(&self) -> Option<Time> {
        None
    }

    /// A wall clock reading.
    pub fn on_wall(&mut self, now: Time, wall: UnixMillis) {}

    /// A UDP socket is open, or its addresses changed. Sockets 0 and 1 carry the conversations; others are only looked at
    /// from outside ([`observe`](Self::observe)).
    pub fn on_socket_opened(&mut self, now: Time, socket: SocketId, local: &[SocketAddr]) {}

    /// A UDP socket is gone.
    pub fn on_socket_closed(&mut self, now: Time, socket: SocketId) {}

    /// Answer to [`Output::Resolve`].
    pub fn on_resolved(&mut self, now: Time, server: ServerSlot, addresses: &[SocketAddr]) {}

    /// Answer to [`Output::OpenStream`].
    pub fn on_stream_opened(&mut self, now: Time, stream: StreamId) {}

    /// Answer to [`Output::OpenStream`], or the stream ended later.
    pub fn on_stream_closed(&mut self, now: Time, stream: StreamId, reason: &str) {}

    /// Servers, keys, routes or the record are replaced.
    pub fn reconfigure(&mut self, now: Time, change: &Reconfigure) {}

    /// Leaves every seat (Camp with lifetime 0). Nothing but those goes out afterwards.
    pub fn shutdown(&mut self, now: Time) {}

    /// What the data plane saw on paths through a server: when it last sent to it and last received from it.
    pub fn note_traffic(&mut self, now: Time, server: ServerSlot, sent: Option<Time>, received: Option<Time>) {}

    /// Sends up to 1,000 bytes to a member; retransmitted until answered. Failure is told as [`Event::Unreachable`].
    pub fn signal(&mut self, now: Time, seat: &Seat, data: Vec<u8>) {}

    /// Binds a channel to a member; answered by [`Event::Bound`] or [`Event::Unreachable`]. Idempotent.
    pub fn bind(&mut self, now: Time, seat: &Seat) {}

    /// Ends a binding.
    pub fn release(&mut self, now: Time, seat: &Seat) {}

    /// Asks for members of large rooms by overlay address (its text) or name; answers come as [`Event::Member`]. Does
    /// nothing where all rooms are small (everybody is known there) and for what was asked moments ago.
    pub fn find(&mut self, now: Time, what: &str) {}

    /// Whether there is a link to this peer: it is then kept in the cache of a large room and found again after resets.
    pub fn interest(&mut self, peer: &PublicKey, linked: bool) {}

    /// Asks the servers how they see this socket (a fresh one); answers come as [`Event::Mapped`].
    pub fn observe(&mut self, now: Time, socket: SocketId) {}

    /// The path to a member through its bound channel; `None` while not bound or the server is not reached.
    pub fn relay_path(&self, seat: &Seat) -> Option<Path> {
        None
    }

    /// Whose the channel is on which something came from this server.
    pub fn seat_of_channel(&self, server: ServerSlot, channel: u16) -> Option<Seat> {
        None
    }

    /// Who sits there.
    pub fn peer_of(&self, seat: &Seat) -> Option<PublicKey> {
        None
    }

    /// The peer's seats on servers where we camp too, best first: answering ones, settled ones, newest key, by score. Both
    /// sides come to the same order where they see the same servers.
    pub fn seats(&self, peer: &PublicKey) -> Vec<Seat> {
        Vec::new()
    }

    /// The newest announcement of a peer.
    pub fn announcement(&self, peer: &PublicKey) -> Option<&Announcement> {
        None
    }

    /// The peers known at present (in a large room: those found).
    pub fn peers(&self) -> impl Iterator<Item = &Announcement> {
        std::iter::empty()
    }

    /// Keys held with their room numbers, newest first.
    pub fn keys(&self) -> impl Iterator<Item = (u8, &Keys)> {
        std::iter::empty()
    }

    /// Our own run.
    pub fn session(&self) -> Session {
        Session::default()
    }

    /// The IPv4 address that we claim at present, if any.
    pub fn ipv4(&self) -> Option<std::net::Ipv4Addr> {
        None
    }

    /// Members of the (largest) room, ourselves included, as servers count.
    pub fn members(&self) -> usize {
        0
    }

    /// Whether the announced room is large: nobody gets the roster.
    pub fn large(&self) -> bool {
        false
    }

    /// Outside addresses of our UDP sockets as seen by servers, newest word of each.
    pub fn mapped(&self) -> Vec<Mapped> {
        Vec::new()
    }

    /// Servers see different ports of the same socket.
    pub fn symmetric(&self) -> bool {
        false
    }

    /// Servers answer on streams and none on UDP.
    pub fn udp_blocked(&self) -> bool {
        false
    }

    /// Where servers send from at present (for [`Table::servers`](crate::io::Table::servers)).
    pub fn vias(&self) -> impl Iterator<Item = (Via, ServerSlot)> {
        std::iter::empty()
    }

    /// Moves with every change of [`vias`](Self::vias).
    pub fn vias_version(&self) -> u64 {
        0
    }

    /// A server's id, for people.
    pub fn server_name(&self, server: ServerSlot) -> Option<&str> {
        None
    }

    /// The address of the server that answers at present.
    pub fn server_address(&self, server: ServerSlot) -> Option<SocketAddr> {
        None
    }

    /// The wall clock, corrected by what servers say (the median of them and our own).
    pub fn unix_now(&self, now: Time) -> UnixMillis {
        UnixMillis(0)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }
}
