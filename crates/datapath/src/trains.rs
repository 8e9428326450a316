//! Where messages wait to leave: by trains.
//!
//! A train holds messages of equal size (the last may be shorter) to one place, back to back, and goes out as one send: the kernel, or the
//! NIC, cuts it. A few are open at a time; a full one leaves at once, the others with a flush.

use std::net::{Ipv4Addr, SocketAddr};

use campfire_protocol::carrier::{Path, SocketId, StreamId, Via};

use crate::{Memory, Shell};

/// Most trains that may be open at a time: looking through more would cost more than the sends that it saves.
const TRAINS: usize = 8;

/// Datagrams in a train (the kernel's `UDP_MAX_SEGMENTS` of old).
const DATAGRAMS: usize = 64;

/// Most bytes that are handed to a stream at a time.
pub const STREAM_BATCH: usize = 16 * 1024;

/// Bytes before a message in ChannelData (RFC 8656 §12.4).
const CHANNEL_HEADER: usize = 4;

/// Datagrams to one place, back to back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train<'a> {
    /// Where to.
    pub remote: SocketAddr,
    /// The payloads.
    pub bytes: &'a [u8],
    /// Bytes of each datagram; the last may be shorter. Never 0.
    pub segment: usize,
}

impl<'a> Train<'a> {
    /// Each datagram by itself.
    pub fn datagrams(self) -> std::slice::Chunks<'a, u8> {
        self.bytes.chunks(self.segment)
    }
}

/// A train being put together.
struct Open {
    via: Via,
    buffer: Box<[u8]>,
    length: usize,
    /// Size of each message but the last.
    segment: usize,
    count: usize,
    /// A shorter message has ended it.
    ended: bool,
}

impl Open {
    #[inline]
    fn fits(&self, size: usize) -> bool {
        if matches!(self.via, Via::Stream(_)) {
            return self.length + size <= STREAM_BATCH.min(self.buffer.len());
        }
        !self.ended && self.length + size <= self.buffer.len() && self.count < DATAGRAMS && (self.count == 0 || size <= self.segment)
    }

    #[inline]
    fn clear(&mut self) {
        (self.length, self.segment, self.count, self.ended) = (0, 0, 0, false);
    }
}

/// The open trains. Their memory is taken once.
pub(crate) struct Trains {
    /// Those that are open come first: mostly one or two, and no more than that are looked at for a message.
    all: Vec<Open>,
    /// How many are open.
    open: usize,
    /// The train that [`reserve`](Self::reserve) gave a place in, and how much.
    reserved: (usize, usize),
}

impl Trains {
    pub fn new(memory: &Memory) -> Self {
        let train = || Open {
            via: Via::Stream(StreamId(0)),
            buffer: vec![0; memory.train].into_boxed_slice(),
            length: 0,
            segment: 0,
            count: 0,
            ended: false,
        };
        Self { all: std::iter::repeat_with(train).take(memory.trains.clamp(1, TRAINS)).collect(), open: 0, reserved: (0, 0) }
    }

    /// A place for a message of `size` bytes on `path`, behind what goes to the same place; the header of ChannelData is written already. To
    /// be filled whole, then kept by [`commit`](Self::commit). `None`: longer than a datagram.
    #[inline]
    pub fn reserve_message(&mut self, path: &Path, size: usize, shell: &mut impl Shell) -> Option<&mut [u8]> {
        let (via, channel) = match *path {
            Path::Direct { socket, remote } => return self.reserve(Via::Udp { socket, remote }, size, shell),
            Path::Relay { via, channel, server: _ } => (via, channel),
        };
        let place = self.reserve(via, CHANNEL_HEADER + size, shell)?;
        let (head, body) = place.split_at_mut(CHANNEL_HEADER);
        let ([a, b], [c, d]) = (channel.to_be_bytes(), (size as u16).to_be_bytes());
        head.copy_from_slice(&[a, b, c, d]);
        Some(body)
    }

    /// A place for `size` bytes to `via`.
    #[inline]
    fn reserve(&mut self, via: Via, size: usize, shell: &mut impl Shell) -> Option<&mut [u8]> {
        let stream = matches!(via, Via::Stream(_));
        let padded = if stream { size.next_multiple_of(4) } else { size };
        let most = self.all.first().map_or(0, |train| train.buffer.len());
        if padded > most || (stream && padded > STREAM_BATCH) {
            return None;
        }
        let index = match self.all.iter().take(self.open).position(|train| train.via == via) {
            Some(index) => {
                if !self.all[index].fits(padded) {
                    self.flush_one(index, shell);
                }
                index
            }
            None => self.begin(via, shell),
        };
        let train = &mut self.all[index];
        self.reserved = (index, padded);
        let place = &mut train.buffer[train.length..train.length + padded];
        if padded > size {
            place[size..].fill(0);
        }
        place.get_mut(..size)
    }

    /// One more train, for `via`.
    #[inline]
    fn begin(&mut self, via: Via, shell: &mut impl Shell) -> usize {
        if self.open == self.all.len() {
            self.flush(shell);
        }
        let index = self.open;
        self.all[index].via = via;
        self.open += 1;
        index
    }

    /// Keeps what was written to the place reserved last.
    #[inline]
    pub fn commit(&mut self) {
        let (index, size) = self.reserved;
        // Nothing is said by an empty one, and a train of them could not be cut.
        if size == 0 {
            return;
        }
        let train = &mut self.all[index];
        if train.count == 0 {
            train.segment = size;
        }
        train.ended = size < train.segment;
        train.length += size;
        train.count += 1;
    }

    /// Leaves a datagram behind what goes to the same place; whether it is short enough.
    pub fn send(&mut self, socket: SocketId, remote: SocketAddr, datagram: &[u8], shell: &mut impl Shell) -> bool {
        let Some(place) = self.reserve(Via::Udp { socket, remote }, datagram.len(), shell) else { return false };
        place.copy_from_slice(datagram);
        self.commit();
        true
    }

    /// Leaves a WireGuard message on `path`, bare or in ChannelData; whether it is short enough.
    pub fn send_message(&mut self, path: &Path, message: &[u8], shell: &mut impl Shell) -> bool {
        let Some(place) = self.reserve_message(path, message.len(), shell) else { return false };
        place.copy_from_slice(message);
        self.commit();
        true
    }

    /// Lets all trains leave.
    pub fn flush(&mut self, shell: &mut impl Shell) {
        for index in 0..self.open {
            match self.all[index].via {
                // Others of this socket, if there are any, come with it.
                Via::Udp { socket, .. } if self.open > 1 => self.flush_socket(socket, shell),
                Via::Udp { .. } | Via::Stream(_) => self.flush_one(index, shell),
            }
        }
        self.open = 0;
    }

    /// Lets the trains of one socket leave together: that may be one system call.
    fn flush_socket(&mut self, socket: SocketId, shell: &mut impl Shell) {
        let mut trains = [Train { remote: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), bytes: &[], segment: 1 }; TRAINS];
        let mut count = 0;
        for train in self.all.iter().take(self.open) {
            if let Via::Udp { socket: of, remote } = train.via
                && of == socket
                && train.count > 0
            {
                trains[count] = Train { remote, bytes: &train.buffer[..train.length], segment: train.segment };
                count += 1;
            }
        }
        if count > 0 {
            shell.send(socket, &trains[..count]);
        }
        for train in self.all.iter_mut().take(self.open) {
            if matches!(train.via, Via::Udp { socket: of, .. } if of == socket) {
                train.clear();
            }
        }
    }

    /// Lets one leave, that stays open.
    fn flush_one(&mut self, index: usize, shell: &mut impl Shell) {
        let train = &mut self.all[index];
        let bytes = &train.buffer[..train.length];
        if train.count > 0 {
            match train.via {
                Via::Udp { socket, remote } => shell.send(socket, &[Train { remote, bytes, segment: train.segment }]),
                Via::Stream(stream) => shell.send_frames(stream, bytes, train.count),
            }
        }
        train.clear();
    }
}

#[cfg(test)]
mod tests {
    use campfire_protocol::carrier::ServerSlot;

    use super::*;
    use crate::tests::Recorder;

    #[test]
    fn equal_messages_leave_as_one_train_and_a_shorter_one_ends_it() {
        let (mut trains, mut shell) = new();
        for message in [&[1; 500][..], &[2; 500], &[3; 20], &[4; 500], &[5; 600]] {
            assert!(trains.send(SocketId(0), to(1), message, &mut shell));
        }
        trains.flush(&mut shell);
        let sent: Vec<_> = shell.sent.iter().map(|(_, _, segment, bytes)| (*segment, bytes.len())).collect();
        assert_eq!(sent, [(500, 1020), (500, 500), (600, 600)]);
        assert_eq!(shell.datagrams(to(1)).iter().map(|datagram| datagram[0]).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_full_train_leaves_at_once() {
        let (mut trains, mut shell) = new();
        for _ in 0..DATAGRAMS {
            trains.send(SocketId(0), to(1), &[1; 100], &mut shell);
        }
        assert!(shell.sent.is_empty());
        trains.send(SocketId(0), to(1), &[1; 100], &mut shell);
        assert_eq!(shell.sent.len(), 1, "64 datagrams");
        for _ in 0..60 {
            trains.send(SocketId(0), to(2), &[1; 1400], &mut shell);
        }
        assert_eq!(shell.sent.len(), 2, "64 KiB");
    }

    #[test]
    fn more_places_than_trains_lose_nothing() {
        let (mut trains, mut shell) = new();
        for round in 0..3 {
            for place in 0..20 {
                trains.send(SocketId(place % 2), to(place), &[round; 100], &mut shell);
            }
        }
        trains.flush(&mut shell);
        for place in 0..20 {
            assert_eq!(shell.datagrams(to(place)), [[0; 100], [1; 100], [2; 100]]);
        }
    }

    #[test]
    fn streams_get_batches_of_padded_frames() {
        let (mut trains, mut shell) = new();
        let path = Path::Relay { server: ServerSlot(0), via: Via::Stream(StreamId(4)), channel: 0x4001 };
        trains.send_message(&path, &[7; 5], &mut shell);
        trains.send_message(&path, &[8; 4], &mut shell);
        trains.flush(&mut shell);
        trains.send_message(&path, &[9; 4], &mut shell);
        trains.flush(&mut shell);
        let first = [0x40, 1, 0, 5, 7, 7, 7, 7, 7, 0, 0, 0, 0x40, 1, 0, 4, 8, 8, 8, 8].to_vec();
        assert_eq!(shell.frames, [(StreamId(4), first, 2), (StreamId(4), [0x40, 1, 0, 4, 9, 9, 9, 9].to_vec(), 1)]);
        for _ in 0..20 {
            trains.send_message(&path, &[1; 1400], &mut shell);
        }
        trains.flush(&mut shell);
        assert!(shell.frames.iter().all(|(_, batch, _)| batch.len() <= STREAM_BATCH));
        assert_eq!(shell.frames.iter().map(|(.., count)| count).sum::<usize>(), 23);
    }

    #[test]
    fn what_is_longer_than_a_datagram_is_refused_and_what_is_empty_or_was_not_written_does_not_leave() {
        let (mut trains, mut shell) = new();
        assert!(!trains.send(SocketId(0), to(1), &vec![0; 70_000], &mut shell));
        let stream = Path::Relay { server: ServerSlot(0), via: Via::Stream(StreamId(1)), channel: 0x4001 };
        assert!(!trains.send_message(&stream, &vec![0; STREAM_BATCH], &mut shell));
        assert!(trains.send(SocketId(0), to(1), &[], &mut shell));
        assert!(trains.send_message(&Path::Direct { socket: SocketId(0), remote: to(1) }, &[], &mut shell));
        assert!(trains.reserve_message(&stream, 100, &mut shell).is_some());
        assert!(trains.reserve_message(&Path::Direct { socket: SocketId(0), remote: to(1) }, 100, &mut shell).is_some());
        trains.flush(&mut shell);
        assert!(shell.sent.is_empty() && shell.frames.is_empty());
    }

    fn new() -> (Trains, Recorder) {
        (Trains::new(&Memory::default()), Recorder::default())
    }

    fn to(place: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 1000 + place))
    }
}
