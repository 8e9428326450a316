//! What the datapath reaches through its thread: the device, UDP sockets, streams, and the control plane.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::iter::once;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use campfire_datapath::segment::cut;
use campfire_datapath::upcall::Upcall;
use campfire_datapath::vnet::VNET;
use campfire_datapath::{Shell, Train};
use campfire_protocol::carrier::{SocketId, StreamId};
use campfire_sys::epoll::Epoll;
use campfire_sys::tun::Tun;
use campfire_sys::udp::{Message, Sender, Socket};
use tokio::sync::mpsc::error::TrySendError;

use super::bind;
use crate::plane::{Counters, FromData, StreamSender};

/// Messages kept while the control plane's queue is full.
const PENDING: usize = 65_536;

/// How long a send waits for room in the kernel's buffer: the TUN's queue is the better place to wait.
const PATIENCE: Duration = Duration::from_millis(5);

/// Everything that packets and messages come from and go to.
pub(super) struct Outside {
    pub tun: Tun,
    pub epoll: Epoll,
    pub streams: HashMap<StreamId, StreamSender>,
    pub control: Control,
    pub counters: Arc<Counters>,
    sockets: Vec<Option<Socket>>,
    sender: Sender,
    /// The device refused a superpacket.
    pub singly: bool,
}

impl Outside {
    /// No sockets and no streams yet.
    pub fn new(tun: Tun, epoll: Epoll, control: Control, counters: Arc<Counters>) -> Self {
        Self { tun, epoll, streams: HashMap::new(), control, counters, sockets: Vec::new(), sender: Sender::new(), singly: false }
    }

    /// Takes a socket in, and tells of it.
    pub fn adopt(&mut self, id: SocketId, socket: Socket) -> io::Result<()> {
        let local = socket.local_addr()?;
        self.epoll.add(&socket, u64::from(id.0))?;
        let index = usize::from(id.0);
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        self.sockets[index] = Some(socket);
        self.control.tell(FromData::SocketOpened { socket: id, local });
        Ok(())
    }

    /// An open socket.
    pub fn socket(&self, id: SocketId) -> Option<&Socket> {
        self.sockets.get(usize::from(id.0))?.as_ref()
    }

    /// The device did not take a superpacket: it gets the packets that this one stands for, and no other of its kind. Not so: `false`.
    #[cold]
    fn write_cut(&mut self, pieces: &[IoSlice<'_>]) -> bool {
        let (tun, counters, header) = (&self.tun, &self.counters, [0; VNET]);
        let cut = cut(pieces, |packet| match tun.write(&[IoSlice::new(&header), IoSlice::new(packet)]) {
            Ok(length) => {
                add(&counters.tun_writes, 1);
                add(&counters.tun_written_packets, 1);
                add(&counters.tun_written_bytes, length);
            }
            Err(_) => add(&counters.tun_write_errors, 1),
        });
        if cut.is_some() && !std::mem::replace(&mut self.singly, true) {
            tracing::warn!("the TUN device takes no superpackets: it is given single packets, which is slower");
        }
        cut.is_some()
    }

    /// Binds a further socket of the family of `like`.
    fn another(&self, like: SocketId) -> io::Result<Socket> {
        let family = self.socket(like).and_then(|socket| socket.local_addr().ok());
        let v6 = family.is_some_and(|address| address.is_ipv6());
        bind(SocketAddr::new(if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }, 0))
    }
}

impl Shell for Outside {
    #[inline]
    fn send(&mut self, socket: SocketId, trains: &[Train<'_>]) {
        let counters = &self.counters;
        let Some(socket) = self.sockets.get(usize::from(socket.0)).and_then(Option::as_ref) else {
            add(&counters.udp_send_errors, trains.iter().map(|train| train.datagrams().count()).sum());
            return;
        };
        let messages = trains.iter().map(|train| Message {
            to: train.remote,
            from: None,
            segment: if train.bytes.len() > train.segment { train.segment } else { 0 },
            pieces: once(train.bytes),
        });
        let sent = self.sender.send(socket, messages, PATIENCE);
        for (counter, count) in [
            (&counters.udp_sends, sent.messages),
            (&counters.udp_sent_datagrams, sent.datagrams),
            (&counters.udp_sent_bytes, sent.bytes),
            (&counters.udp_send_errors, sent.full + sent.refused),
        ] {
            add(counter, count as usize);
        }
    }

    fn send_frames(&mut self, stream: StreamId, frames: &[u8], count: usize) {
        let sent = self.streams.get(&stream).is_some_and(|sender| sender.try_send(frames.to_vec()).is_ok());
        add(if sent { &self.counters.stream_sent_frames } else { &self.counters.stream_dropped_frames }, count);
    }

    #[inline]
    fn write(&mut self, pieces: &[IoSlice<'_>], packets: usize) {
        match self.tun.write(pieces) {
            Ok(length) => {
                add(&self.counters.tun_writes, 1);
                add(&self.counters.tun_written_packets, packets);
                add(&self.counters.tun_written_bytes, length);
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && self.write_cut(pieces) => {}
            Err(error) => {
                add(&self.counters.tun_write_errors, packets);
                tracing::trace!(%error, "writing to the TUN");
            }
        }
    }

    fn tell(&mut self, upcall: Upcall) {
        if upcall.comes_again() { self.control.offer(FromData::Upcall(upcall)) } else { self.control.tell(FromData::Upcall(upcall)) }
    }

    fn open_socket(&mut self, socket: SocketId, like: SocketId) {
        if let Err(error) = self.another(like).and_then(|fresh| self.adopt(socket, fresh)) {
            tracing::debug!(%error, "no further UDP socket");
            self.control.tell(FromData::SocketClosed { socket });
        }
    }

    fn close_socket(&mut self, socket: SocketId) {
        if let Some(place) = self.sockets.get_mut(usize::from(socket.0)) {
            *place = None;
        }
    }
}

/// The way to the control plane.
pub(super) struct Control {
    to: tokio::sync::mpsc::Sender<FromData>,
    pending: VecDeque<FromData>,
    counters: Arc<Counters>,
}

impl Control {
    /// Nothing waits.
    pub fn new(to: tokio::sync::mpsc::Sender<FromData>, counters: Arc<Counters>) -> Self {
        Self { to, pending: VecDeque::new(), counters }
    }

    /// Says something that must arrive.
    pub fn tell(&mut self, message: FromData) {
        if self.pending.len() < PENDING {
            self.pending.push_back(message);
        } else {
            add(&self.counters.dropped_to_control, 1);
        }
        self.flush();
    }

    /// Says something that would be said again.
    fn offer(&mut self, message: FromData) {
        if self.pending.is_empty() && self.to.try_send(message).is_ok() {
            return;
        }
        add(&self.counters.dropped_to_control, 1);
    }

    /// Hands over what waits, as far as it is taken.
    pub fn flush(&mut self) {
        while let Some(message) = self.pending.pop_front() {
            if let Err(error) = self.to.try_send(message) {
                self.pending.push_front(match error {
                    TrySendError::Full(message) => message,
                    TrySendError::Closed(_) => return,
                });
                return;
            }
        }
    }

    /// Whether something waits for room.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// Adds to a counter of which this thread is the only writer.
#[inline]
pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count as u64), Ordering::Relaxed);
}
