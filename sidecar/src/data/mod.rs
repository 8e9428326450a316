//! The data thread: a [`Datapath`](campfire_datapath::Datapath) between the TUN and the UDP sockets, and the loop (epoll) that drives it.
//!
//! `worker` is the loop, `outside` what the datapath reaches through it: device, sockets, streams, the control plane. All that happens to a packet
//! is in `campfire-datapath`, all that needs the system in `campfire-sys`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use campfire_protocol::carrier::SocketId;
use campfire_sys::epoll::Wake;
use campfire_sys::tun::Tun;
use campfire_sys::udp::{Buffers, Socket};
use zeroize::Zeroizing;

use crate::plane::{Counters, FromData, ToData};

mod outside;
mod worker;

/// Commands that may wait for the data thread.
const COMMANDS: usize = 4096;

/// Messages that may wait for the control plane.
const MESSAGES: usize = 4096;

/// Of each UDP socket.
const BUFFERS: Buffers = Buffers { receive: 2 << 20, send: 1 << 20 };

/// What the data thread starts with.
pub struct DataConfig {
    /// The device (see [`open_tun`]).
    pub tun: Tun,
    /// Bound sockets (see [`bind`]); `SocketId(0)` IPv4, `SocketId(1)` IPv6.
    pub sockets: Vec<(SocketId, Socket)>,
    /// Our X25519 secret.
    pub secret: Zeroizing<[u8; 32]>,
    /// MTU of the overlay in bytes: TCP's MSS is clamped to it.
    pub mtu: u16,
    /// Time zero of [`campfire_protocol::time::Time`] in what it tells of traffic.
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
    wake: Arc<Wake>,
}

/// The data thread's queue is full, or the thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the data thread takes no commands at present")]
pub struct NotTaken;

impl ToDataSender {
    /// Leaves a command.
    pub fn send(&self, message: ToData) -> Result<(), NotTaken> {
        self.offer(message).map_err(|_| NotTaken)
    }

    /// Leaves a command, or gives it back: for those who try again.
    pub fn offer(&self, message: ToData) -> Result<(), ToData> {
        self.queue.try_send(message).map_err(|(TrySendError::Full(message) | TrySendError::Disconnected(message))| message)?;
        self.wake.signal();
        Ok(())
    }
}

/// Opens the TUN device `name` by the device node (see [`Tun::open`]), with all that the kernel takes off our hands, unless the environment has
/// `CAMPFIRE_NO_OFFLOAD`.
pub fn open_tun(node: &Path, name: &str) -> io::Result<Tun> {
    Tun::open(node, name, offload())
}

/// The same of a device that was sent here (see [`Tun::adopt`]).
pub fn adopt_tun(descriptor: OwnedFd) -> io::Result<Tun> {
    Tun::adopt(descriptor, offload())
}

fn offload() -> bool {
    std::env::var_os("CAMPFIRE_NO_OFFLOAD").is_none()
}

/// Binds a UDP socket for the data thread.
pub fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::bind(address, BUFFERS)?;
    crate::underlay::keep_out(&socket2::SockRef::from(&socket));
    Ok(socket)
}

/// Starts the data thread.
pub fn start(config: DataConfig) -> io::Result<DataHandle> {
    let (queue, commands) = sync_channel(COMMANDS);
    let (to_control, from) = tokio::sync::mpsc::channel(MESSAGES);
    let wake = Arc::new(Wake::new()?);
    let counters = Arc::new(Counters::default());
    let worker = worker::Worker::new(config, commands, Arc::clone(&wake), to_control, Arc::clone(&counters))?;
    let join = std::thread::Builder::new().name("data".to_owned()).spawn(move || worker.run())?;
    Ok(DataHandle { to: ToDataSender { queue, wake }, from, counters, join })
}
