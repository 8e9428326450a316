//! Where messages leave: UDP sockets and streams, by trains.
//!
//! A train holds messages of equal size (the last may be shorter) to one place, back to back, and goes out as one send: the
//! kernel, or the NIC, cuts it. Up to [`TRAINS`] are open at a time; a full one leaves at once, the others at the end of a
//! wake-up.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;

use campfire_protocol::carrier::{Path, SocketId, StreamId, Via};

use super::add;
use crate::plane::{Counters, STREAM_BATCH, StreamSender};
use campfire_sys::calls::{self as sys, Sending};

/// Trains open at a time.
const TRAINS: usize = 8;

/// Datagrams in a train (the kernel's `UDP_MAX_SEGMENTS` of old).
const DATAGRAMS: usize = 64;

/// Bytes of a train: the longest UDP payload, over IPv6.
const MOST: usize = 65_487;

/// Receive buffer asked for, bytes (the kernel doubles it for its own overhead).
const RECEIVE_BUFFER: i32 = 2 << 20;

/// Send buffer asked for, bytes.
const SEND_BUFFER: i32 = 1 << 20;

/// How long a send waits for room in the kernel's buffer, milliseconds: the TUN's queue is the better place to wait.
const PATIENCE: i32 = 5;

/// Bytes before a message in ChannelData (RFC 8656 §12.4).
pub const CHANNEL_HEADER: usize = 4;

/// Binds a UDP socket for the data thread: non-blocking, GRO, large buffers, fragmentation allowed, IPv6 only if IPv6.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    let fd = socket.as_fd();
    // Each of these is an optimisation, and a kernel or a missing right may refuse it.
    let _ = sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    for (force, plain, bytes) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER)]
    {
        if sys::set_option(fd, libc::SOL_SOCKET, force, bytes).is_err() {
            let _ = sys::set_option(fd, libc::SOL_SOCKET, plain, bytes);
        }
    }
    // The overlay's MTU is small enough for nearly every path; on the rest a fragmented packet beats a lost one.
    let _ = if address.is_ipv4() {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    } else {
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    };
    Ok(socket)
}

/// A path's carrier, and the channel on it if it is a relay's.
#[inline]
pub fn carrier(path: &Path) -> (Via, Option<u16>) {
    match *path {
        Path::Direct { socket, remote } => (Via::Udp { socket, remote }, None),
        Path::Relay { via, channel, .. } => (via, Some(channel)),
    }
}

struct Port {
    socket: UdpSocket,
    /// Whether the kernel cuts trains for this socket.
    gso: bool,
}

struct Train {
    via: Option<Via>,
    buffer: Box<[u8]>,
    length: usize,
    /// Size of each datagram.
    segment: usize,
    count: usize,
    /// Nothing may follow.
    closed: bool,
}

impl Train {
    fn fits(&self, size: usize) -> bool {
        if matches!(self.via, Some(Via::Stream(_))) {
            return self.length + size <= STREAM_BATCH;
        }
        !self.closed && self.length + size <= MOST && self.count < DATAGRAMS && (self.count == 0 || size <= self.segment)
    }

    fn clear(&mut self) {
        (self.via, self.length, self.segment, self.count, self.closed) = (None, 0, 0, 0, false);
    }
}

/// The ways out.
pub struct Ports {
    sockets: Vec<Option<Port>>,
    streams: HashMap<StreamId, StreamSender>,
    trains: Vec<Train>,
    /// The train that [`reserve`](Self::reserve) gave a place in, and how much.
    reserved: (usize, usize),
    counters: Arc<Counters>,
}

impl Ports {
    /// No sockets and no streams yet.
    pub fn new(counters: Arc<Counters>) -> Self {
        let train = || Train { via: None, buffer: vec![0; MOST].into_boxed_slice(), length: 0, segment: 0, count: 0, closed: false };
        Self {
            sockets: Vec::new(),
            streams: HashMap::new(),
            trains: std::iter::repeat_with(train).take(TRAINS).collect(),
            reserved: (0, 0),
            counters,
        }
    }

    /// Takes a socket in.
    pub fn open(&mut self, id: SocketId, socket: UdpSocket) {
        let index = usize::from(id.0);
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        self.sockets[index] = Some(Port { socket, gso: true });
    }

    /// Closes one.
    pub fn close(&mut self, id: SocketId) {
        self.flush();
        if let Some(port) = self.sockets.get_mut(usize::from(id.0)) {
            *port = None;
        }
    }

    /// An open socket.
    pub fn socket(&self, id: SocketId) -> Option<&UdpSocket> {
        Some(&self.sockets.get(usize::from(id.0))?.as_ref()?.socket)
    }

    /// Binds a further socket of the family of `like`.
    pub fn another(&self, like: SocketId) -> io::Result<UdpSocket> {
        let family = self.socket(like).and_then(|socket| socket.local_addr().ok());
        bind(if family.is_some_and(|address| address.is_ipv6()) {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        })
    }

    /// A stream may be sent on.
    pub fn stream_ready(&mut self, id: StreamId, sender: StreamSender) {
        self.streams.insert(id, sender);
    }

    /// It may not any more.
    pub fn stream_gone(&mut self, id: StreamId) {
        self.streams.remove(&id);
    }

    /// A place for `size` bytes to `via` at the end of its train. To be filled, then kept by [`commit`](Self::commit).
    #[inline]
    pub fn reserve(&mut self, via: Via, size: usize) -> Option<&mut [u8]> {
        let padded = if matches!(via, Via::Stream(_)) { size.next_multiple_of(4) } else { size };
        if padded > MOST || (padded > size && padded > STREAM_BATCH) {
            return None;
        }
        let found = self.trains.iter().position(|train| train.via == Some(via));
        let index = match found {
            Some(index) => {
                if !self.trains[index].fits(padded) {
                    self.flush_one(index);
                }
                index
            }
            None => self.trains.iter().position(|train| train.via.is_none()).unwrap_or_else(|| {
                self.flush();
                0
            }),
        };
        let train = &mut self.trains[index];
        train.via = Some(via);
        self.reserved = (index, padded);
        train.buffer[train.length + size..train.length + padded].fill(0);
        Some(&mut train.buffer[train.length..train.length + size])
    }

    /// Keeps what was written to the place reserved last.
    #[inline]
    pub fn commit(&mut self) {
        let (index, size) = self.reserved;
        let train = &mut self.trains[index];
        if train.count == 0 {
            train.segment = size;
        }
        train.closed = size < train.segment;
        train.length += size;
        train.count += 1;
    }

    /// Leaves a datagram or frame behind what goes to the same place.
    pub fn send(&mut self, via: Via, header: &[u8], bytes: &[u8]) {
        if let Some(place) = self.reserve(via, header.len() + bytes.len()) {
            let (head, body) = place.split_at_mut(header.len());
            head.copy_from_slice(header);
            body.copy_from_slice(bytes);
            self.commit();
        }
    }

    /// Leaves a WireGuard message on `path`: bare, or in ChannelData.
    pub fn send_message(&mut self, path: &Path, message: &[u8]) {
        match carrier(path) {
            (via, None) => self.send(via, &[], message),
            (via, Some(channel)) => self.send(via, &channel_header(channel, message.len()), message),
        }
    }

    /// Sends all trains.
    pub fn flush(&mut self) {
        for index in 0..self.trains.len() {
            match self.trains[index].via {
                None => {}
                Some(Via::Stream(_)) => self.flush_one(index),
                Some(Via::Udp { socket, .. }) => self.flush_socket(socket),
            }
        }
    }

    /// Sends the trains of one socket with as few calls as possible.
    fn flush_socket(&mut self, socket: SocketId) {
        let mut sendings = [Sending { to: SocketAddr::from(([0; 4], 0)), bytes: &[], segment: 0 }; TRAINS];
        let mut count = 0;
        for train in &self.trains {
            if let Some(Via::Udp { socket: of, remote }) = train.via
                && of == socket
                && train.count > 0
            {
                let segment = if train.count > 1 { train.segment } else { 0 };
                sendings[count] = Sending { to: remote, bytes: &train.buffer[..train.length], segment };
                count += 1;
            }
        }
        transmit(self.sockets.get_mut(usize::from(socket.0)).and_then(Option::as_mut), &sendings[..count], &self.counters);
        for train in &mut self.trains {
            if matches!(train.via, Some(Via::Udp { socket: of, .. }) if of == socket) {
                train.clear();
            }
        }
    }

    fn flush_one(&mut self, index: usize) {
        let train = &mut self.trains[index];
        match train.via {
            Some(Via::Udp { socket, remote }) if train.count > 0 => {
                let segment = if train.count > 1 { train.segment } else { 0 };
                let sending = Sending { to: remote, bytes: &train.buffer[..train.length], segment };
                transmit(self.sockets.get_mut(usize::from(socket.0)).and_then(Option::as_mut), &[sending], &self.counters);
            }
            Some(Via::Stream(stream)) if train.count > 0 => {
                let sent = self.streams.get(&stream).is_some_and(|sender| sender.try_send(train.buffer[..train.length].to_vec()).is_ok());
                let counter = if sent { &self.counters.stream_sent_frames } else { &self.counters.stream_dropped_frames };
                add(counter, train.count);
            }
            _ => {}
        }
        train.clear();
    }
}

/// The header of ChannelData.
#[inline]
pub fn channel_header(channel: u16, length: usize) -> [u8; CHANNEL_HEADER] {
    let ([a, b], [c, d]) = (channel.to_be_bytes(), (length as u16).to_be_bytes());
    [a, b, c, d]
}

/// Sends, in order; what the kernel does not take is counted and gone.
fn transmit(port: Option<&mut Port>, mut sendings: &[Sending<'_>], counters: &Counters) {
    let datagrams = |sending: &Sending<'_>| match sending.segment {
        0 => 1,
        segment => sending.bytes.len().div_ceil(segment),
    };
    let Some(port) = port else {
        add(&counters.udp_send_errors, sendings.iter().map(datagrams).sum());
        return;
    };
    let mut waited = false;
    while let Some(first) = sendings.first() {
        if first.segment > 0 && !port.gso {
            one_by_one(port, first, counters);
            sendings = &sendings[1..];
            continue;
        }
        match sys::send(port.socket.as_fd(), sendings) {
            Ok(count) if count > 0 => {
                add(&counters.udp_sends, count);
                add(&counters.udp_sent_datagrams, sendings[..count].iter().map(datagrams).sum());
                add(&counters.udp_sent_bytes, sendings[..count].iter().map(|sending| sending.bytes.len()).sum());
                sendings = &sendings[count..];
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !waited => {
                waited = true;
                sys::wait_writable(port.socket.as_fd(), PATIENCE);
                continue;
            }
            Err(error) if first.segment > 0 && cannot_cut(&error) => {
                // EIO: no checksum offload on the way out, and it stays so. The others: longer than this route's MTU, which
                // single datagrams may be (they are fragmented).
                port.gso &= error.raw_os_error() != Some(libc::EIO);
                one_by_one(port, first, counters);
            }
            _ => add(&counters.udp_send_errors, datagrams(first)),
        }
        sendings = &sendings[1..];
    }
}

fn cannot_cut(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

/// Sends a train's datagrams without the kernel's help.
fn one_by_one(port: &Port, train: &Sending<'_>, counters: &Counters) {
    let mut singles = [Sending { segment: 0, ..*train }; sys::BATCH];
    let mut count = 0;
    let mut rest = train.bytes.chunks(train.segment.max(1)).peekable();
    while let Some(bytes) = rest.next() {
        singles[count].bytes = bytes;
        count += 1;
        if count < sys::BATCH && rest.peek().is_some() {
            continue;
        }
        let mut sent = 0;
        let mut waited = false;
        while sent < count {
            match sys::send(port.socket.as_fd(), &singles[sent..count]) {
                Ok(more) if more > 0 => {
                    add(&counters.udp_sends, more);
                    add(&counters.udp_sent_datagrams, more);
                    add(&counters.udp_sent_bytes, singles[sent..sent + more].iter().map(|single| single.bytes.len()).sum());
                    sent += more;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !waited => {
                    waited = true;
                    sys::wait_writable(port.socket.as_fd(), PATIENCE);
                }
                _ => {
                    add(&counters.udp_send_errors, 1);
                    sent += 1;
                }
            }
        }
        count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    #[test]
    fn equal_messages_leave_as_one_train_and_a_shorter_one_ends_it() {
        let (mut ports, to, peer) = ports();
        let via = Via::Udp { socket: SocketId(0), remote: to };
        for message in [&[1; 500][..], &[2; 500], &[3; 20], &[4; 500], &[5; 600]] {
            ports.send(via, &[], message);
        }
        ports.flush();
        assert_eq!(received(&peer), [(500, 1), (500, 2), (20, 3), (500, 4), (600, 5)]);
        assert_eq!(ports.counters.udp_sends.load(Ordering::Relaxed), 3);
        assert_eq!(ports.counters.udp_sent_datagrams.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn trains_are_cut_here_when_the_kernel_cannot() {
        let (mut ports, to, peer) = ports();
        if let Some(port) = ports.sockets[0].as_mut() {
            port.gso = false;
        }
        for index in 0..70 {
            ports.send(Via::Udp { socket: SocketId(0), remote: to }, &[9], &[index; 99]);
        }
        ports.flush();
        assert_eq!(received(&peer).len(), 70);
    }

    #[test]
    fn more_places_than_trains_lose_nothing() {
        let (mut ports, _, _) = ports();
        let peers: Vec<_> = (0..20).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for round in 0..3 {
            for peer in &peers {
                ports.send(Via::Udp { socket: SocketId(0), remote: peer.local_addr().unwrap() }, &[], &[round; 100]);
            }
        }
        ports.flush();
        for peer in &peers {
            assert_eq!(received(peer), [(100, 0), (100, 1), (100, 2)]);
        }
    }

    #[test]
    fn streams_get_batches_of_padded_frames_and_drop_the_newest_when_full() {
        let (mut ports, _, _) = ports();
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        ports.stream_ready(StreamId(4), sender);
        let path = Path::Relay { server: campfire_protocol::carrier::ServerSlot(0), via: Via::Stream(StreamId(4)), channel: 0x4001 };
        ports.send_message(&path, &[7; 5]);
        ports.send_message(&path, &[8; 4]);
        ports.flush();
        ports.send_message(&path, &[9; 4]);
        ports.flush();
        let batch = receiver.try_recv().unwrap();
        assert_eq!(batch, [0x40, 1, 0, 5, 7, 7, 7, 7, 7, 0, 0, 0, 0x40, 1, 0, 4, 8, 8, 8, 8]);
        assert!(receiver.try_recv().is_err());
        assert_eq!(ports.counters.stream_sent_frames.load(Ordering::Relaxed), 2);
        assert_eq!(ports.counters.stream_dropped_frames.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_place_that_cannot_be_reached_is_counted_and_harmless() {
        let (mut ports, _, _) = ports();
        ports.send(Via::Udp { socket: SocketId(5), remote: ([127, 0, 0, 1], 9).into() }, &[], &[1; 10]);
        ports.send(Via::Udp { socket: SocketId(0), remote: "[::1]:9".parse().unwrap() }, &[], &[1; 10]);
        ports.flush();
        assert_eq!(ports.counters.udp_send_errors.load(Ordering::Relaxed), 2);
        assert!(ports.reserve(Via::Stream(StreamId(1)), 70_000).is_none());
    }

    fn ports() -> (Ports, SocketAddr, UdpSocket) {
        let mut ports = Ports::new(Arc::default());
        ports.open(SocketId(0), bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        (ports, peer.local_addr().unwrap(), peer)
    }

    /// Lengths and last bytes.
    fn received(peer: &UdpSocket) -> Vec<(usize, u8)> {
        peer.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut buffer = [0; 2000];
        let mut all = Vec::new();
        while let Ok(length) = peer.recv(&mut buffer) {
            all.push((length, buffer[length - 1]));
        }
        all
    }
}
