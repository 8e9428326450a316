//! The contract between the two planes of the peer: what the control side (tokio: mesh, streams, status) and the data thread (epoll: TUN, UDP and
//! the datapath between them) say to each other. Control messages may be slow and allocate; nothing here is per
//! packet, except frames of TCP and TLS relays, which go in batches.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use campfire_datapath::command::Command;
use campfire_datapath::counters::Counters as DatapathCounters;
use campfire_datapath::table::Table;
use campfire_datapath::upcall::Upcall;
use campfire_protocol::carrier::{SocketId, StreamId};

/// To the data thread.
#[allow(missing_docs)] // of fields: their types and the variant say it
#[derive(Debug)]
pub enum ToData {
    /// A new table; replaces the old one before the next batch.
    Table(Table),
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

/// Where the data thread leaves frames for a stream ([`ChannelSink::ready`](campfire_camp::ChannelSink::ready)). A batch is at most
/// [`STREAM_BATCH`](campfire_datapath::STREAM_BATCH) bytes; what does not fit is dropped, newest first, and counted.
pub type StreamSender = tokio::sync::mpsc::Sender<Vec<u8>>;

/// From the data thread.
#[allow(missing_docs)] // of fields: their types and the variant say it
#[derive(Debug)]
pub enum FromData {
    /// What the datapath passes up.
    Upcall(Upcall),
    /// Answer to [`Command::OpenSocket`] (and said for sockets 0 and 1 at start).
    SocketOpened { socket: SocketId, local: SocketAddr },
    /// A socket failed.
    SocketClosed { socket: SocketId },
    /// The data thread cannot go on (device gone …): the process ends with this error.
    Failed(String),
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters that status and metrics read: the data thread's own, and the datapath's as they were at the end of its last turn (relaxed
        /// atomics; one writer).
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
            datapath: [AtomicU64; DatapathCounters::NAMES.len()],
        }

        impl Counters {
            /// Every counter's name and value, for metrics and status.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                let own = [$((stringify!($name), &self.$name)),*];
                let datapath = DatapathCounters::NAMES.into_iter().zip(&self.datapath);
                own.into_iter().chain(datapath).map(|(name, counter)| (name, counter.load(Ordering::Relaxed))).collect()
            }
        }
    };
}

counters! {
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
    /// Packets that the kernel refused to take from us.
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
    /// Messages for the control plane that did not fit into its queue.
    dropped_to_control,
}

impl Counters {
    /// Takes over what the datapath counted.
    pub(crate) fn publish(&self, counted: &DatapathCounters) {
        for (counter, value) in self.datapath.iter().zip(counted.values()) {
            counter.store(value, Ordering::Relaxed);
        }
    }
}
