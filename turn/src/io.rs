//! The contract between the server's core and its shell.
//!
//! After each [`Server::handle`](crate::Server::handle) (or a batch of them) the shell drains
//! [`Server::poll`](crate::Server::poll) until it gives `None`, then looks at
//! [`Server::next_wake`](crate::Server::next_wake). ChannelData takes a way of its own that allocates nothing:
//! [`Server::forward`](crate::Server::forward), and [`Server::forward_relayed`](crate::Server::forward_relayed) back.

use std::net::SocketAddr;

/// A UDP socket that the shell listens on. The shell binds one for each configured address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u16);

/// A TCP or TLS connection from a client, numbered by the shell, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// An allocation's relay socket, numbered by the core, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u64);

/// Where a client's messages come from and go to: its 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// UDP.
    Udp {
        /// The socket it came to.
        listener: ListenerId,
        /// The client's address; IPv4 as IPv4, never v4-mapped.
        remote: SocketAddr,
    },
    /// TCP or TLS.
    Stream {
        /// The connection.
        stream: StreamId,
        /// The client's address; IPv4 as IPv4, never v4-mapped.
        remote: SocketAddr,
    },
}

impl Via {
    /// The client's address.
    pub fn remote(&self) -> SocketAddr {
        match self {
            Via::Udp { remote, .. } | Via::Stream { remote, .. } => *remote,
        }
    }
}

/// What the shell tells the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// The time of `next_wake` has come.
    Wake,
    /// A STUN message from a client or a datagram of version 1 (also ChannelData for which `forward` said [`Forward::Slow`]).
    Message {
        /// Whose.
        via: Via,
        /// A whole datagram, or one frame of a stream.
        bytes: &'a [u8],
    },
    /// A datagram arrived at a relay socket.
    RelayDatagram {
        /// Which.
        relay: RelayId,
        /// The peer that sent it.
        from: SocketAddr,
        /// Its content.
        payload: &'a [u8],
    },
    /// A stream was opened.
    StreamOpened {
        /// Which.
        via: Via,
    },
    /// It ended: what hung on it is released.
    StreamClosed {
        /// Which.
        via: Via,
    },
    /// Answer to [`Output::OpenRelay`].
    RelayOpened {
        /// Which.
        relay: RelayId,
        /// What clients are told: the address at which peers reach the socket.
        address: SocketAddr,
    },
    /// Answer to [`Output::OpenRelay`]: no port could be had.
    RelayFailed {
        /// Which.
        relay: RelayId,
    },
    /// Secrets were (re)loaded; what they no longer cover ends.
    Secrets(crate::auth::Secrets),
    /// Stop taking newcomers and tell members to move.
    Drain,
}

/// What the core asks of the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send to a client: a whole STUN message, ChannelData (padded to four bytes on streams: done already), or a datagram of
    /// version 1 as it came.
    Send {
        /// To whom.
        via: Via,
        /// What.
        bytes: Vec<u8>,
    },
    /// Send from a relay socket.
    SendRelay {
        /// Which.
        relay: RelayId,
        /// The peer.
        to: SocketAddr,
        /// What.
        payload: Vec<u8>,
    },
    /// Bind a relay socket: on the configured relay address of this family, a random port of the range.
    OpenRelay {
        /// How to call it.
        relay: RelayId,
        /// Family.
        ipv6: bool,
        /// The port must be even.
        even: bool,
    },
    /// Close it.
    CloseRelay {
        /// Which.
        relay: RelayId,
    },
    /// Close a client's stream.
    CloseStream {
        /// Which.
        via: Via,
    },
}

/// What becomes of a ChannelData frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The header has been (re)written in place: send the frame (four bytes of header and what its length field says;
    /// padded to four bytes on a stream) to a client.
    Client {
        /// To whom.
        via: Via,
    },
    /// To a relay socket's peer: send the payload (the frame without its first four bytes, `length` long).
    Peer {
        /// From where.
        relay: RelayId,
        /// To whom.
        to: SocketAddr,
        /// Bytes of payload.
        length: usize,
    },
    /// Hand the frame to [`Input::Message`] (or the payload to [`Input::RelayDatagram`]): it takes the slow way.
    Slow,
    /// Dropped and counted.
    Drop,
}
