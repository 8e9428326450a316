//! What the fire is told by what carries its messages, and what it asks for.

use std::net::SocketAddr;

use campfire_protocol::carrier::{ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::server::Transport;

/// What sockets, streams and names say.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A UDP socket is open; `local` are the addresses under which other hosts might reach it (interface addresses with the socket's
    /// port). Said again when they change. Sockets 0 and 1 carry the conversations; others are only looked at from outside
    /// ([`Fire::observe`](crate::Fire::observe)).
    SocketOpened { socket: SocketId, local: &'a [SocketAddr] },
    /// A UDP socket is gone, or one that was asked for could not be opened.
    SocketClosed { socket: SocketId },
    /// Answer to [`Output::Resolve`]; empty when the name did not resolve.
    Resolved { server: ServerSlot, addresses: &'a [SocketAddr] },
    /// Answer to [`Output::OpenStream`]: it is up, TLS included.
    StreamOpened { stream: StreamId },
    /// Answer to [`Output::OpenStream`], or the stream ended later. `reason` is for people.
    StreamClosed { stream: StreamId, reason: &'a str },
    /// A STUN message arrived.
    Stun { via: Via, message: &'a [u8] },
}

/// What is to be done.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this datagram (STUN or ChannelData, already framed) as it is.
    Send { via: Via, datagram: Vec<u8> },
    /// Look up a server's name; answered by [`Input::Resolved`].
    Resolve { server: ServerSlot, host: String, port: u16 },
    /// Connect to a server; with TLS its certificate must match `pin`, or, without one, what the shell was told to trust. Answered by
    /// [`Input::StreamOpened`] or [`Input::StreamClosed`].
    OpenStream {
        stream: StreamId,
        server: ServerSlot,
        remote: SocketAddr,
        transport: Transport,
        host: String,
        /// [`Server::certificate_pin`](campfire_protocol::server::Server::certificate_pin).
        pin: Option<[u8; 32]>,
    },
    /// Close it.
    CloseStream { stream: StreamId },
    /// Something a person would notice; for the log and for watchers.
    Notice(Notice),
}

/// Something a person would notice.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Camped on a server (again).
    Camped { server: String, transport: Transport },
    /// A server no longer answers.
    ServerLost { server: String, reason: String },
    /// A server speaks TURN but not campfire.
    PlainTurn { server: String },
    /// A problem that somebody should act on: what is wrong and what to do about it.
    Problem { text: String },
}
