//! The data plane: one thread (epoll) between the TUN and the UDP sockets, and WireGuard between the two.
//!
//! Out: TUN (superpackets) → [`campfire_datapath::segment`] → sealed straight into a train of [`ports`] → one send a train. In: GRO buffers →
//! [`campfire_datapath::demux`] → opened into a slab → [`campfire_datapath::coalesce`] → one write a flow. Nothing on the way is allocated, locked or handed to
//! another thread per packet.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use campfire_protocol::carrier::SocketId;
use zeroize::Zeroizing;

use crate::plane::{Counters, FromData, ToData};

mod inbound;
mod outbound;
mod ports;
mod worker;

pub use campfire_sys::calls::make_tun_node;
pub use campfire_sys::tun::Tun;
pub use ports::bind;

/// Commands that may wait for the data thread.
const COMMANDS: usize = 4096;

/// Messages that may wait for the control plane.
const MESSAGES: usize = 4096;

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
        self.wake.wake();
        Ok(())
    }
}

#[cfg(test)]
impl ToDataSender {
    /// A queue that a test reads instead of the thread.
    pub(crate) fn without_thread() -> (Self, std::sync::mpsc::Receiver<ToData>) {
        let (queue, commands) = sync_channel(COMMANDS);
        let event = std::fs::File::options().write(true).open("/dev/null").expect("/dev/null");
        (Self { queue, wake: Arc::new(Wake { event, pending: AtomicBool::new(false) }) }, commands)
    }
}

/// Wakes the thread, with one system call however many commands were left since it looked.
struct Wake {
    event: std::fs::File,
    pending: AtomicBool,
}

impl Wake {
    fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // An eventfd refuses a write only when its counter is full, and then it is readable anyhow.
            let _ = io::Write::write(&mut &self.event, &1u64.to_ne_bytes());
        }
    }

    fn clear(&self) {
        let _ = io::Read::read(&mut &self.event, &mut [0; 8]);
        // Acquires what was left before the last wake, which wrote nothing.
        self.pending.swap(false, Ordering::AcqRel);
    }
}

/// Adds to a counter of which this thread is the only writer.
#[inline]
fn add(counter: &AtomicU64, count: usize) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count as u64), Ordering::Relaxed);
}

/// Starts the data thread.
pub fn start(config: DataConfig) -> io::Result<DataHandle> {
    let (queue, commands) = sync_channel(COMMANDS);
    let (to_control, from) = tokio::sync::mpsc::channel(MESSAGES);
    let wake = Arc::new(Wake { event: campfire_sys::calls::event_fd()?, pending: AtomicBool::new(false) });
    let counters = Arc::new(Counters::default());
    let worker = worker::Worker::new(config, commands, Arc::clone(&wake), to_control, Arc::clone(&counters))?;
    let join = std::thread::Builder::new().name("data".to_owned()).spawn(move || worker.run())?;
    Ok(DataHandle { to: ToDataSender { queue, wake }, from, counters, join })
}
