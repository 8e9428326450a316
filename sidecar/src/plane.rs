//! The contract between the two planes of the peer: what the control side (tokio: mesh, streams, status) and the data
//! thread (epoll: TUN, UDP, WireGuard) say to each other. Control messages may be slow and allocate; nothing here is per
//! packet, except frames of TCP and TLS relays, which go in batches.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use campfire_datapath::command::Command;
use campfire_datapath::table::{Table, Traffic};
use campfire_protocol::carrier::{Path, SocketId, StreamId, Via};
use campfire_tunnel::LinkId;

/// To the data thread.
#[allow(missing_docs)] // of fields: their types and the variant say it
#[derive(Debug)]
pub enum ToData {
    /// A new table; replaces the old one before the next batch.
    Table(Arc<Table>),
    /// One thing to do.
    Command(Command),
    /// ChannelData and WireGuard frames that came on a stream (header and payload, unpadded), to be opened.
    StreamFrames { stream: StreamId, frames: Vec<Vec<u8>> },
    /// A stream may be used for sending, by the queue in here.
    StreamReady { stream: StreamId, sender: StreamSender },
    /// It may not any more.
    StreamGone { stream: StreamId },
    /// The process ends: flush, then stop.
    Stop,
}

/// Where the data thread leaves frames for a stream: each item is a batch of whole ChannelData frames, one after the other,
/// each already padded to four bytes (RFC 8656 §12.5): to be written as it is. A batch is at most [`STREAM_BATCH`] bytes and
/// the queue [`STREAM_QUEUE`] batches (256 KiB together); what does not fit is dropped, newest first, and counted.
pub type StreamSender = tokio::sync::mpsc::Sender<Vec<u8>>;

/// Most bytes in one item of a [`StreamSender`].
pub const STREAM_BATCH: usize = 16 * 1024;

/// Items that a [`StreamSender`]'s channel is to be made for.
pub const STREAM_QUEUE: usize = 16;

/// From the data thread.
#[allow(missing_docs)] // of fields: their types and the variant say it
#[derive(Debug)]
pub enum FromData {
    /// A STUN message.
    Stun { via: Via, message: Vec<u8> },
    /// A handshake message (WireGuard types 1–3), and whose key a type 1 proves.
    Handshake { path: Path, message: Vec<u8>, initiator: Option<[u8; 32]> },
    /// Answer to [`Command::IdentifyInitiation`].
    Initiation { token: u64, initiator: Option<[u8; 32]> },
    /// An opened control packet's payload.
    Control { link: LinkId, path: Path, payload: Vec<u8> },
    /// The tunnels' event.
    Tunnel(campfire_tunnel::Event),
    /// What was seen on links, about every 100 ms.
    Traffic(Vec<Traffic>),
    /// An application wants an overlay address without a link or session.
    Wanted { address: IpAddr },
    /// Answer to [`Command::OpenSocket`] (and said for sockets 0 and 1 at start).
    SocketOpened { socket: SocketId, local: SocketAddr },
    /// A socket failed.
    SocketClosed { socket: SocketId },
    /// The data thread cannot go on (device gone …): the process ends with this error.
    Failed(String),
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters that the data thread keeps and status and metrics read (relaxed atomics; one writer).
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Counters {
            /// Every counter's name and value, for metrics and status.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// IP packets read from the TUN (a superpacket counts as its segments).
    tun_read_packets,
    /// Reads of the TUN that gave something (superpackets or single packets).
    tun_reads,
    /// Bytes of IP packets read from the TUN.
    tun_read_bytes,
    /// IP packets written to the TUN (a superpacket counts as its segments).
    tun_written_packets,
    /// Writes to the TUN.
    tun_writes,
    /// Bytes of IP packets written to the TUN.
    tun_written_bytes,
    /// Writes to the TUN that the kernel refused.
    tun_write_errors,
    /// Datagrams sent on UDP (a GSO send counts as its segments).
    udp_sent_datagrams,
    /// Sends on UDP: trains and single datagrams.
    udp_sends,
    /// Bytes of UDP payload sent.
    udp_sent_bytes,
    /// Datagrams that the kernel did not take: full buffers, no route.
    udp_send_errors,
    /// Datagrams received on UDP (a GRO buffer counts as its segments).
    udp_received_datagrams,
    /// Receives on UDP that gave something.
    udp_receives,
    /// Bytes of UDP payload received.
    udp_received_bytes,
    /// Frames left for streams.
    stream_sent_frames,
    /// Frames that did not fit into a stream's queue, or whose stream was gone.
    stream_dropped_frames,
    /// Frames that came from streams.
    stream_received_frames,
    /// Datagrams and frames that are none of STUN, ChannelData, WireGuard, or are ChannelData or STUN from elsewhere than a
    /// server.
    dropped_unrecognised,
    /// WireGuard messages for a session that is not ours (any more).
    dropped_unknown_session,
    /// WireGuard messages that did not authenticate.
    dropped_forged,
    /// WireGuard messages seen before, or too old.
    dropped_replayed,
    /// Handshakes beyond a member's rate.
    dropped_limited,
    /// Packets inside WireGuard that are not sound IP packets.
    dropped_malformed,
    /// Packets inside WireGuard with a source address that is not the link's.
    dropped_source,
    /// Packets inside WireGuard to an address that is neither ours nor on a route that we offer.
    dropped_destination,
    /// Packets from the TUN to an address that nobody has.
    dropped_no_route,
    /// Packets from the TUN that waited for a session too long, or beyond the bound.
    dropped_no_session,
    /// Packets from the TUN that were no sound IP packets.
    dropped_tun_malformed,
    /// Messages for the control plane that did not fit into its queue.
    dropped_to_control,
}
