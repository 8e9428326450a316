//! Collects what a batch of received datagrams makes us send, and sends it with as few system calls as the order of each
//! receiver's datagrams allows: a run of equal length to one address becomes one train (UDP GSO), all trains of a socket one
//! `sendmmsg`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use campfire_sys::udp::{BATCH, Message, Sender, Sent};

use super::sockets::UdpSockets;

/// Most datagrams of a train (the kernel's `UDP_MAX_SEGMENTS` on every kernel that has UDP GSO).
const MAX_SEGMENTS: usize = 64;
/// Most bytes of a train: an IPv6 UDP payload without jumbograms, with room for extension headers.
const MAX_BYTES: usize = 65_000;
/// How many trains are looked at for one to append to. More would cost more than the call that it saves.
const OPEN: usize = 8;
/// Memory for bytes that do not lie in the receiver's slab.
const ARENA: usize = 256 * 1024;
/// How long a send waits for room in a socket's buffer. A network card's queue drains in microseconds: a millisecond's patience is cheaper than a
/// lost train, and is the longest that one socket may hold up the others.
const PATIENCE: Duration = Duration::from_millis(1);
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

/// Which memory a [`Piece`] lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The receiver's slab.
    Slab,
    /// The outbox's own memory.
    Arena,
}

/// Bytes to be sent.
#[derive(Clone, Copy, Debug)]
struct Piece {
    source: Source,
    offset: usize,
    length: usize,
}

/// The two memories that pieces lie in.
#[derive(Clone, Copy)]
struct Sources<'a> {
    slab: &'a [u8],
    arena: &'a [u8],
}

impl<'a> Sources<'a> {
    /// The bytes of a piece; empty if it lies outside.
    fn bytes(&self, piece: &Piece) -> &'a [u8] {
        let memory = match piece.source {
            Source::Slab => self.slab,
            Source::Arena => self.arena,
        };
        memory.get(piece.offset..piece.offset + piece.length).unwrap_or_default()
    }
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

    fn message<'a>(&'a self, sources: Sources<'a>) -> Message<impl Iterator<Item = &'a [u8]> + Clone> {
        let segment = if self.count > 1 { self.segment } else { 0 };
        let pieces = self.pieces.iter().map(move |piece| sources.bytes(piece));
        Message { to: self.route.to, from: self.route.from, segment, pieces }
    }
}

/// Trains being put together.
pub struct Outbox {
    trains: Vec<Train>,
    used: usize,
    arena: Vec<u8>,
    sender: Sender,
    /// Whether all sockets cut trains so far.
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
    pub fn flush(&mut self, sockets: &UdpSockets, slab: &[u8]) {
        let sources = Sources { slab, arena: &self.arena };
        let mut rest = self.trains.get(..self.used).unwrap_or_default();
        while let Some(head) = rest.first() {
            // All that goes out of one socket, while the order of what goes out of another is kept.
            let run = rest.iter().take_while(|train| train.route.socket == head.route.socket).count();
            let (trains, later) = rest.split_at(run);
            if let Some(socket) = sockets.socket(head.route.socket) {
                self.sent += self.sender.send(socket, trains.iter().map(|train| train.message(sources)), PATIENCE);
                if self.segmentation && !socket.segments() {
                    self.segmentation = false;
                    tracing::info!("the kernel cannot segment datagrams here (UDP_SEGMENT): each is sent by itself from now on");
                }
            } else {
                self.sent.refused += trains.iter().map(|train| train.count as u64).sum::<u64>();
            }
            rest = later;
        }
        self.used = 0;
        self.arena.clear();
    }

    /// What was sent since the last call.
    pub fn take_sent(&mut self) -> Sent {
        std::mem::take(&mut self.sent)
    }
}
