//! The contract between the two planes of the peer: what the control side (tokio: mesh, streams, status) and the data
//! thread (epoll: TUN, UDP, WireGuard) say to each other. Control messages may be slow and allocate; nothing here is per
//! packet, except frames of TCP and TLS relays, which go in batches.

use std::sync::Arc;

use campfire_mesh::io::{Output, Path, SocketId, StreamId, Table, Traffic, Via};
use campfire_tunnel::LinkId;
use std::net::{IpAddr, SocketAddr};

/// To the data thread.
#[derive(Debug)]
pub enum ToData {
    /// A new table; replaces the old one before the next batch.
    Table(Arc<Table>),
    /// One of the mesh's outputs that the data thread carries out: `Send` on UDP, `SendMessage`, `SendControl`, `Tunnel`,
    /// `IdentifyInitiation`, `Receive`, `OpenSocket`, `CloseSocket`.
    Output(Output),
    /// ChannelData and WireGuard frames that came on a stream (header and payload, unpadded), to be opened.
    StreamFrames { stream: StreamId, frames: Vec<Vec<u8>> },
    /// A stream may be used for sending, by the queue in here.
    StreamReady { stream: StreamId, sender: StreamSender },
    /// It may not any more.
    StreamGone { stream: StreamId },
    /// The process ends: flush, then stop.
    Stop,
}

/// Where the data thread leaves frames for a stream: bounded (256 KiB); what does not fit is dropped, newest first, and counted.
pub type StreamSender = tokio::sync::mpsc::Sender<Vec<u8>>;

/// From the data thread.
#[derive(Debug)]
pub enum FromData {
    /// A STUN message.
    Stun { via: Via, message: Vec<u8> },
    /// A handshake message (WireGuard types 1–3), and whose key a type 1 proves.
    Handshake { path: Path, message: Vec<u8>, initiator: Option<[u8; 32]> },
    /// Answer to `IdentifyInitiation`.
    Initiation { token: u64, initiator: Option<[u8; 32]> },
    /// An opened control packet's payload.
    Control { link: LinkId, path: Path, payload: Vec<u8> },
    /// The tunnels' event.
    Tunnel(campfire_tunnel::Event),
    /// What was seen on links, about every 100 ms.
    Traffic(Vec<Traffic>),
    /// An application wants an overlay address without a link or session.
    Wanted { address: IpAddr },
    /// Answer to `OpenSocket` (and said for sockets 0 and 1 at start).
    SocketOpened { socket: SocketId, local: SocketAddr },
    /// A socket failed.
    SocketClosed { socket: SocketId },
    /// The data thread cannot go on (device gone …): the process ends with this error.
    Failed(String),
}

/// Counters that the data thread keeps and status and metrics read (relaxed atomics; one writer).
#[derive(Debug, Default)]
pub struct Counters;
