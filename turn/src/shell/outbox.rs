//! Collects what a batch of received datagrams makes us send, and sends it with as few system calls as the order of each
//! receiver's datagrams allows: a run of equal length to one address becomes one train (UDP GSO), all trains of a socket one
//! `sendmmsg`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use campfire_sys::udp::{self as offload, BATCH, Message, Piece, Sender, Source, Sources};

/// Most datagrams of a train (the kernel's `UDP_MAX_SEGMENTS` on every kernel that has UDP GSO).
const MAX_SEGMENTS: usize = 64;
/// Most bytes of a train: an IPv6 UDP payload without jumbograms, with room for extension headers.
const MAX_BYTES: usize = 65_000;
/// How many trains are looked at for one to append to. More would cost more than the call that it saves.
const OPEN: usize = 8;
/// Memory for bytes that do not lie in the receiver's slab.
const ARENA: usize = 256 * 1024;
/// The longest payload of a datagram.
pub const MAX_DATAGRAM: usize = 65_507;

/// One of the sockets that we send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKey {
    /// A listening socket, by its place.
    Listener(usize),
    /// A relay socket, by its number.
    Relay(u64),
}

/// Where a datagram goes, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The sending socket.
    pub socket: SocketKey,
    /// The receiver.
    pub to: SocketAddr,
    /// The local address, if the socket is bound to all of them.
    pub from: Option<IpAddr>,
}

struct Train {
    route: Route,
    /// Length of every datagram but the last.
    segment: usize,
    count: usize,
    bytes: usize,
    /// A shorter datagram has ended it.
    ended: bool,
    pieces: Vec<Piece>,
}

impl Train {
    fn takes(&self, length: usize) -> bool {
        !self.ended && length > 0 && length <= self.segment && self.count < MAX_SEGMENTS && self.bytes + length <= MAX_BYTES
    }

    fn push(&mut self, piece: Piece) {
        self.ended |= piece.length < self.segment;
        self.count += 1;
        self.bytes += piece.length;
        if let Some(last) = self.pieces.last_mut()
            && last.source == piece.source
            && last.offset + last.length == piece.offset
        {
            last.length += piece.length;
            return;
        }
        self.pieces.push(piece);
    }

    fn message(&self) -> Message<'_> {
        let segment = if self.count > 1 { self.segment as u16 } else { 0 };
        Message { to: self.route.to, from: self.route.from, segment, pieces: &self.pieces }
    }
}

/// What happened to what was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// System calls.
    pub calls: u64,
    /// Datagrams dropped because the socket's buffer stayed full.
    pub full: u64,
    /// Datagrams that the kernel refused (no route, forbidden by a firewall and such).
    pub refused: u64,
}

/// Gives the descriptor of a socket, if it is still open.
pub trait Sockets {
    /// The descriptor of `socket`.
    fn descriptor(&self, socket: SocketKey) -> Option<BorrowedFd<'_>>;
}

/// Trains being put together.
pub struct Outbox {
    trains: Vec<Train>,
    used: usize,
    arena: Vec<u8>,
    sender: Sender,
    /// Whether trains are sent as such; off for good after the kernel said that it cannot.
    segmentation: bool,
    sent: Sent,
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            trains: Vec::with_capacity(BATCH),
            used: 0,
            arena: Vec::with_capacity(ARENA),
            sender: Sender::new(),
            segmentation: true,
            sent: Sent::default(),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Whether [`Self::push_bytes`] has room for `length` bytes more before a flush.
    pub fn has_room(&self, length: usize) -> bool {
        self.arena.len() + length <= ARENA
    }

    /// Adds bytes that lie in the slab.
    pub fn push_slab(&mut self, route: Route, offset: usize, length: usize) {
        self.push(route, Piece { source: Source::Slab, offset, length });
    }

    /// Adds a copy of `bytes`; flush first if there is no room.
    pub fn push_bytes(&mut self, route: Route, bytes: &[u8]) {
        if bytes.len() > MAX_DATAGRAM {
            self.sent.refused += 1;
            return;
        }
        let piece = Piece { source: Source::Arena, offset: self.arena.len(), length: bytes.len() };
        self.arena.extend_from_slice(bytes);
        self.push(route, piece);
    }

    fn push(&mut self, route: Route, piece: Piece) {
        let used = self.used;
        // The youngest train to this receiver alone may grow: an older one would overtake it.
        let open = self.trains.iter_mut().take(used).rev().take(OPEN).find(|train| train.route == route);
        if let Some(train) = open
            && self.segmentation
            && train.takes(piece.length)
        {
            train.push(piece);
            return;
        }
        if used == self.trains.len() {
            let pieces = Vec::with_capacity(4);
            self.trains.push(Train { route, segment: 0, count: 0, bytes: 0, ended: false, pieces });
        }
        if let Some(train) = self.trains.get_mut(used) {
            train.route = route;
            train.segment = piece.length;
            train.count = 0;
            train.bytes = 0;
            train.ended = false;
            train.pieces.clear();
            train.push(piece);
            self.used += 1;
        }
    }

    /// Sends everything; `slab` is what [`Self::push_slab`] spoke of.
    pub fn flush(&mut self, sockets: &impl Sockets, slab: &[u8]) {
        let mut first = 0;
        while first < self.used {
            first += self.flush_run(first, sockets, slab).max(1);
        }
        self.used = 0;
        self.arena.clear();
    }

    /// Sends trains from `first` on that go out of one socket; how many are done with.
    fn flush_run(&mut self, first: usize, sockets: &impl Sockets, slab: &[u8]) -> usize {
        let sources = Sources { slab, arena: &self.arena };
        let Some(trains) = self.trains.get(first..self.used) else { return self.used };
        let Some(head) = trains.first() else { return 0 };
        let run = || trains.iter().take_while(|train| train.route.socket == head.route.socket);
        let Some(fd) = sockets.descriptor(head.route.socket) else {
            let run = run();
            return run.inspect(|train| self.sent.refused += train.count as u64).count();
        };
        self.sent.calls += 1;
        match self.sender.send(fd, run().map(Train::message), sources) {
            Ok(done) => {
                for train in trains.iter().take(done) {
                    self.sent.datagrams += train.count as u64;
                    self.sent.bytes += train.bytes as u64;
                }
                done
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A network card's queue drains in microseconds. A millisecond's patience is cheaper than a lost train, and
                // is the longest that one socket may hold up the others.
                if !offload::wait_writable(fd, 1) {
                    self.sent.full += head.count as u64;
                    return 1;
                }
                self.retry(first, fd, slab)
            }
            Err(error) if head.count > 1 => {
                // EIO: no segmentation on this device, ever. EINVAL or EMSGSIZE: the path's MTU is below the segments'
                // length; the datagrams go one by one, in fragments.
                if error.raw_os_error() == Some(libc::EIO) {
                    self.segmentation = false;
                    tracing::info!("the kernel cannot segment datagrams here (UDP_SEGMENT): each is sent by itself from now on");
                }
                self.one_by_one(first, fd, slab);
                1
            }
            Err(error) => {
                tracing::debug!(to = %head.route.to, %error, "a datagram was not taken");
                self.sent.refused += 1;
                1
            }
        }
    }

    /// Sends the train `first` once more after its socket was full.
    fn retry(&mut self, first: usize, fd: BorrowedFd<'_>, slab: &[u8]) -> usize {
        let sources = Sources { slab, arena: &self.arena };
        let Some(train) = self.trains.get(first) else { return 1 };
        self.sent.calls += 1;
        if self.sender.send(fd, std::iter::once(train.message()), sources).is_ok() {
            self.sent.datagrams += train.count as u64;
            self.sent.bytes += train.bytes as u64;
        } else {
            self.sent.full += train.count as u64;
        }
        1
    }

    /// Sends the datagrams of a train that the kernel did not take as one.
    fn one_by_one(&mut self, first: usize, fd: BorrowedFd<'_>, slab: &[u8]) {
        let sources = Sources { slab, arena: &self.arena };
        let Some(train) = self.trains.get(first) else { return };
        for piece in &train.pieces {
            let mut offset = 0;
            while offset < piece.length {
                let length = train.segment.min(piece.length - offset);
                let one = [Piece { source: piece.source, offset: piece.offset + offset, length }];
                let message = Message { to: train.route.to, from: train.route.from, segment: 0, pieces: &one };
                self.sent.calls += 1;
                match self.sender.send(fd, std::iter::once(message), sources) {
                    Ok(_) => {
                        self.sent.datagrams += 1;
                        self.sent.bytes += length as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.sent.full += 1,
                    Err(_) => self.sent.refused += 1,
                }
                offset += length.max(1);
            }
        }
    }

    /// What was sent since the last call.
    pub fn take_sent(&mut self) -> Sent {
        std::mem::take(&mut self.sent)
    }
}
