//! What the fire asks of the shell around it.

use std::net::SocketAddr;

use campfire_protocol::carrier::{ServerSlot, StreamId, Via};
use campfire_protocol::server::Transport;

/// What is to be done.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this datagram (STUN or ChannelData, already framed) as it is.
    Send { via: Via, datagram: Vec<u8> },
    /// Look up a server's name; answered by [`Fire::on_resolved`](crate::Fire::on_resolved).
    Resolve { server: ServerSlot, host: String, port: u16 },
    /// Connect to a server; with TLS its certificate must match `pin`, or, without one, what the shell was told to trust. Answered by
    /// [`Fire::on_stream_opened`](crate::Fire::on_stream_opened) or [`Fire::on_stream_closed`](crate::Fire::on_stream_closed).
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
