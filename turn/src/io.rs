//! The contract between the server's core and its shell.
//!
//! After each [`Server::handle`](crate::Server::handle) (or a batch of them) the shell drains
//! [`Server::poll`](crate::Server::poll) until it gives `None`, then looks at
//! [`Server::next_wake`](crate::Server::next_wake). ChannelData takes a way of its own that allocates nothing:
//! [`Server::forward`](crate::Server::forward).

use std::net::SocketAddr;

/// A UDP socket that the shell listens on. The shell binds one for each configured address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u16);

/// A TCP or TLS connection from a client, numbered by the shell, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// An allocation's relay socket, numbered by the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u64);

/// Where a client's messages come from and go to: its 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// UDP.
    Udp { listener: ListenerId, remote: SocketAddr },
    /// TCP or TLS.
    Stream { stream: StreamId, remote: SocketAddr },
}

/// What the shell tells the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// The time of `next_wake` has come.
    Wake,
    /// A STUN message from a client (also ChannelData that `forward` returned as not its own).
    Message { via: Via, bytes: &'a [u8] },
    /// A datagram arrived at a relay socket.
    RelayDatagram { relay: RelayId, from: SocketAddr, payload: &'a [u8] },
    /// A stream was opened or has ended.
    StreamOpened { via: Via },
    /// It ended: what hung on it is released.
    StreamClosed { via: Via },
    /// Answer to [`Output::OpenRelay`].
    RelayOpened { relay: RelayId, address: SocketAddr },
    /// Answer to [`Output::OpenRelay`]: no port could be had.
    RelayFailed { relay: RelayId },
    /// Secrets were (re)loaded; what they no longer cover ends.
    Secrets(crate::auth::Secrets),
    /// Stop taking newcomers and tell members to move.
    Drain,
}

/// What the core asks of the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send to a client: a whole STUN message or ChannelData (padded to four bytes on streams: done already).
    Send { via: Via, bytes: Vec<u8> },
    /// Send from a relay socket.
    SendRelay { relay: RelayId, to: SocketAddr, payload: Vec<u8> },
    /// Bind a relay socket: on the configured relay address of this family, a random port of the range; `even`: an even port.
    OpenRelay { relay: RelayId, ipv6: bool, even: bool },
    /// Close it.
    CloseRelay { relay: RelayId },
    /// Close a client's stream.
    CloseStream { via: Via },
}

/// What becomes of a ChannelData frame; the ranges are into the frame that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Between members: the header has been rewritten in place; send the frame (padded for a stream) to `via`.
    Client { via: Via },
    /// To a relay socket's peer: send the payload (frame without its first four bytes, `length` long).
    Peer { relay: RelayId, to: SocketAddr, length: usize },
    /// Hand the frame to [`Input::Message`]: it takes the slow way (receiver not bound yet).
    Slow,
    /// Dropped and counted.
    Drop,
}
