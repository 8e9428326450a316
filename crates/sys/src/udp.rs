//! UDP in batches: many datagrams with one system call, trains of equal datagrams as one (UDP GRO and GSO), and the local address of each.

use std::cell::Cell;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::AddAssign;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_uint};
use socket2::{Domain, Protocol, Type};

use crate::ancillary::{Control, Name, read_name, write_controls, write_name};
use crate::check;
use crate::epoll::wait_writable;
use crate::fixed::Fixed;

/// Most datagrams (a train counts as one) that one call takes or gives.
pub const BATCH: usize = 64;
/// A slot holds the longest datagram or train.
const SLOT: usize = 64 * 1024;
/// Free bytes in front of each received datagram or train: a header can be put before it in place.
pub const HEADROOM: usize = 64;
/// Distance of slots: not a multiple of a page, so that the first bytes of all slots do not fall into the same few cache sets.
const STRIDE: usize = HEADROOM + SLOT + 1216;

/// How much a socket's buffers are to hold, in bytes (the kernel doubles it for its own overhead).
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// What arrives while nobody looks.
    pub receive: usize,
    /// What is sent faster than it leaves.
    pub send: usize,
}

/// A UDP socket that is sent from and received on in batches.
pub struct Socket {
    socket: UdpSocket,
    /// Whether the kernel cuts trains for it; not any more once it said that it cannot.
    segments: Cell<bool>,
}

impl Socket {
    /// Binds one: non-blocking, of one family (IPv6 without IPv4), with trains received whole. Buffers grow past the system's limits where the
    /// process may (`CAP_NET_ADMIN`), else up to them. Datagrams too long for a path are fragmented, whatever an ICMP says of its MTU: an
    /// overlay's MTU is small enough for nearly every path, and on the rest a fragmented packet beats a lost one.
    pub fn bind(address: SocketAddr, buffers: Buffers) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let this = Self { socket: socket.into(), segments: Cell::new(true) };
        for (force, plain, bytes) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, buffers.receive), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, buffers.send)]
        {
            let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
            if this.set(libc::SOL_SOCKET, force, bytes).is_err() {
                // As much as there is.
                let _ = this.set(libc::SOL_SOCKET, plain, bytes);
            }
        }
        let fragments = if address.is_ipv6() {
            this.set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
        } else {
            this.set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
        };
        if let Err(error) = fragments.and_then(|()| this.set(libc::SOL_UDP, libc::UDP_GRO, 1)) {
            tracing::debug!(%error, "a UDP socket without all its options: it works, slower");
        }
        Ok(this)
    }

    /// From now on each received datagram says to which of our addresses it came ([`Received::local`]).
    pub fn tell_local_addresses(&self) -> io::Result<()> {
        if self.local_addr()?.is_ipv6() {
            self.set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
        } else {
            self.set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
        }
    }

    /// What it is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What its receive buffer became, in bytes, the kernel's overhead included.
    pub fn receive_buffer(&self) -> io::Result<usize> {
        socket2::SockRef::from(&self.socket).recv_buffer_size()
    }

    /// Whether the kernel cuts trains here. Where it does not they are cut by us, with one call for up to [`BATCH`] datagrams.
    pub fn segments(&self) -> bool {
        self.segments.get()
    }

    fn set(&self, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
        let size = size_of::<c_int>() as libc::socklen_t;
        // SAFETY: the value is an int that lives through the call, and its size is given.
        check(unsafe { libc::setsockopt(self.socket.as_raw_fd(), level, option, (&raw const value).cast(), size) }).map(drop)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What the kernel said about a received datagram or train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Who sent it.
    pub from: SocketAddr,
    /// The local address that it was sent to, if asked for ([`Socket::tell_local_addresses`]).
    pub local: Option<IpAddr>,
    /// Where its bytes begin in [`Receiver::slab`].
    pub offset: usize,
    /// How many they are.
    pub length: usize,
    /// Length of each datagram in it but the last, which may be shorter; never 0.
    pub segment: usize,
}

/// Fixed memory for a batch of received datagrams.
pub struct Receiver {
    slab: Fixed<u8>,
    names: Fixed<Name>,
    /// Read by way of the headers, as the vectors are.
    _controls: Fixed<Control>,
    _vectors: Fixed<libc::iovec>,
    /// Each points at its own of the above from the beginning on.
    headers: Box<[libc::mmsghdr]>,
    /// Datagrams of the last batch.
    count: usize,
    /// Headers whose lengths the kernel may have changed.
    written: usize,
}

// SAFETY: what its headers point at is this value's own, and stays where it is when the value moves.
unsafe impl Send for Receiver {}

impl Receiver {
    /// Reserves so many slots of 64 KiB, [`BATCH`] at most; pages that no datagram was long enough to touch cost nothing.
    pub fn new(slots: usize) -> Self {
        let slots = slots.clamp(1, BATCH);
        // SAFETY: a plain C structure for which all-zero is valid.
        let name = unsafe { zeroed::<Name>() };
        // SAFETY: the same; a null pointer and a zero length.
        let vector = unsafe { zeroed::<libc::iovec>() };
        // SAFETY: the same.
        let header = unsafe { zeroed::<libc::mmsghdr>() };
        let slab = Fixed::new(0, STRIDE * slots);
        let (names, controls, vectors) = (Fixed::new(name, slots), Fixed::new([0; 12], slots), Fixed::new(vector, slots));
        let mut headers = vec![header; slots].into_boxed_slice();
        for (index, header) in headers.iter_mut().enumerate() {
            let slot = libc::iovec { iov_base: slab.at(index * STRIDE + HEADROOM).cast(), iov_len: SLOT };
            // SAFETY: there are as many vectors as headers, and nobody holds a reference to one.
            unsafe { vectors.at(index).write(slot) };
            header.msg_hdr.msg_name = names.at(index).cast();
            header.msg_hdr.msg_iov = vectors.at(index);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = controls.at(index).cast();
        }
        Self { slab, names, _controls: controls, _vectors: vectors, headers, count: 0, written: slots }
    }

    /// The memory that [`Received::offset`] counts in.
    pub fn slab(&self) -> &[u8] {
        &self.slab
    }

    /// The bytes of one received datagram, or of one of a train; empty beyond the slab.
    pub fn bytes(&self, offset: usize, length: usize) -> &[u8] {
        self.slab.get(offset..offset + length).unwrap_or_default()
    }

    /// The same, to be rewritten in place.
    pub fn bytes_mut(&mut self, offset: usize, length: usize) -> &mut [u8] {
        self.slab.get_mut(offset..offset + length).unwrap_or_default()
    }

    /// Receives up to `most` datagrams or trains without waiting; how many there are to be read with [`get`](Self::get) (0: nothing there). An
    /// error is one of something sent earlier (an ICMP message), and is read off the socket by being told.
    pub fn receive(&mut self, socket: &Socket, most: usize) -> io::Result<usize> {
        self.count = 0;
        // Those alone that a call before this one gave back: a datagram that comes by itself costs no more for the places beside it.
        for header in self.headers.iter_mut().take(std::mem::take(&mut self.written)) {
            header.msg_hdr.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = size_of::<Control>() as _;
            header.msg_hdr.msg_flags = 0;
        }
        let (headers, count, flags) = (self.headers.as_mut_ptr(), self.headers.len().min(most), libc::MSG_DONTWAIT as _);
        // SAFETY: each header points at a slot, a name, a vector and a control buffer of this value, which is held exclusively through the
        // call; their lengths are true: those that an earlier call changed were just set again.
        let received = unsafe { libc::recvmmsg(socket.socket.as_raw_fd(), headers, count as c_uint, flags, ptr::null_mut()) };
        // One that the kernel began and gave up is not counted.
        self.written = received.max(0) as usize + 1;
        match check(received) {
            Ok(received) => {
                self.count = received as usize;
                Ok(self.count)
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The `index`-th of the last batch; `None` if it was cut short or came from no IP address.
    pub fn get(&self, index: usize) -> Option<Received> {
        let header = self.headers.get(index).filter(|_| index < self.count)?;
        let length = (header.msg_len as usize).min(SLOT);
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let from = read_name(self.names.get(index)?)?;
        let mut received = Received { from, local: None, offset: index * STRIDE + HEADROOM, length, segment: length.max(1) };
        read_controls(&header.msg_hdr, &mut received);
        Some(received)
    }
}

/// Reads the control messages that the kernel left with a datagram of the last batch.
fn read_controls(header: &libc::msghdr, received: &mut Received) {
    // SAFETY: `msg_control` points at a control buffer of the receiver that is borrowed here, filled by the kernel up to `msg_controllen`.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: null, or within that buffer and aligned, since the buffer is and all lengths are padded.
    while let Some(message) = unsafe { next.as_ref() } {
        // SAFETY: points behind a header within the buffer.
        let data = unsafe { libc::CMSG_DATA(next) };
        match (message.cmsg_level, message.cmsg_type) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // SAFETY: the kernel puts an int there, at any alignment.
                received.segment = unsafe { ptr::read_unaligned(data.cast::<c_int>()) }.max(1) as usize;
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: the kernel puts an in_pktinfo there, at any alignment.
                let info = unsafe { ptr::read_unaligned(data.cast::<libc::in_pktinfo>()) };
                received.local = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: the kernel puts an in6_pktinfo there, at any alignment.
                let info = unsafe { ptr::read_unaligned(data.cast::<libc::in6_pktinfo>()) };
                received.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            _ => {}
        }
        // SAFETY: both point into the same buffer; the macro gives null beyond its end.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
}

/// One datagram, or a train of them, to be sent.
#[derive(Clone)]
pub struct Message<P> {
    /// The receiver.
    pub to: SocketAddr,
    /// The local address to send from, where the socket has several.
    pub from: Option<IpAddr>,
    /// Length of each datagram of a train but the last; 0: it is one datagram.
    pub segment: usize,
    /// What is sent, in order. Of a train each piece but the last holds whole datagrams of that length.
    pub pieces: P,
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// System calls.
    pub calls: u64,
    /// Messages that the kernel took: trains, and datagrams that went by themselves.
    pub messages: u64,
    /// Datagrams in them.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams lost because the socket's buffer stayed full.
    pub full: u64,
    /// Datagrams that the kernel refused (no route, forbidden by a firewall and such).
    pub refused: u64,
}

impl AddAssign for Sent {
    fn add_assign(&mut self, more: Self) {
        self.calls += more.calls;
        self.messages += more.messages;
        self.datagrams += more.datagrams;
        self.bytes += more.bytes;
        self.full += more.full;
        self.refused += more.refused;
    }
}

/// Memory for the headers of a batch of sends.
pub struct Sender {
    names: Box<[Name]>,
    controls: Box<[Control]>,
    vectors: Vec<libc::iovec>,
    headers: Box<[libc::mmsghdr]>,
}

// SAFETY: what its headers point at is set anew before each call; between calls no pointer is followed.
unsafe impl Send for Sender {}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

impl Sender {
    /// Headers for [`BATCH`] messages.
    pub fn new() -> Self {
        // SAFETY: a plain C structure for which all-zero is valid.
        let name = unsafe { zeroed::<Name>() };
        // SAFETY: the same.
        let header = unsafe { zeroed::<libc::mmsghdr>() };
        Self {
            names: vec![name; BATCH].into_boxed_slice(),
            controls: vec![[0; 12]; BATCH].into_boxed_slice(),
            vectors: Vec::with_capacity(BATCH * 4),
            headers: vec![header; BATCH].into_boxed_slice(),
        }
    }

    /// Sends messages, in order, with as few calls as possible; what the kernel does not take is counted and gone. Where it cannot cut a train,
    /// the train's datagrams go one by one. While the socket's buffer is full it waits up to `patience` for room; when there was none in that
    /// time, what does not fit is not waited for any more.
    pub fn send<'a, P>(&mut self, socket: &Socket, messages: impl Iterator<Item = Message<P>> + Clone, patience: Duration) -> Sent
    where
        P: Iterator<Item = &'a [u8]> + Clone,
    {
        let mut run = Run { socket, patience, sent: Sent::default() };
        let mut rest = messages;
        while let Some(head) = rest.clone().next() {
            let train = head.segment > 0;
            if !train || socket.segments.get() {
                match run.advance(self, &mut rest) {
                    Ok(()) => break,
                    // EIO: no checksum offload on the way out, and it stays so. The others: longer than this path's MTU, which single
                    // datagrams may be (they are fragmented).
                    Err(Refused { error, train: true, .. }) if cannot_cut(&error) => {
                        socket.segments.set(socket.segments.get() && error.raw_os_error() != Some(libc::EIO));
                    }
                    Err(Refused { error, datagrams, .. }) => {
                        tracing::debug!(%error, "datagrams were not taken");
                        run.sent.refused += datagrams;
                        rest.next();
                        continue;
                    }
                }
            }
            if let Some(Message { to, from, segment, pieces }) = rest.next() {
                let mut singles = pieces.flat_map(move |piece| piece.chunks(segment.max(1))).map(move |datagram| Message {
                    to,
                    from,
                    segment: 0,
                    pieces: std::iter::once(datagram),
                });
                while let Err(Refused { datagrams, .. }) = run.advance(self, &mut singles) {
                    run.sent.refused += datagrams;
                    singles.next();
                }
            }
        }
        run.sent
    }

    /// Hands up to [`BATCH`] messages to the kernel in one call; how many it took. An error is that of the first.
    fn submit<'a, P>(&mut self, socket: &Socket, messages: impl Iterator<Item = Message<P>>) -> io::Result<usize>
    where
        P: Iterator<Item = &'a [u8]>,
    {
        self.vectors.clear();
        let mut count = 0;
        let rest = self.controls.iter_mut().zip(self.headers.iter_mut());
        for ((message, name), (control, header)) in messages.zip(self.names.iter_mut()).zip(rest) {
            let first = self.vectors.len();
            self.vectors
                .extend(message.pieces.map(|bytes| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }));
            header.msg_hdr.msg_namelen = write_name(name, message.to);
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            // Pointed at its vectors below, once they no longer move.
            header.msg_hdr.msg_iov = ptr::null_mut();
            header.msg_hdr.msg_iovlen = (self.vectors.len() - first) as _;
            write_controls(&mut header.msg_hdr, control, message.from, message.segment as u16);
            count += 1;
        }
        let mut next = self.vectors.as_mut_ptr();
        for header in self.headers.iter_mut().take(count) {
            header.msg_hdr.msg_iov = next;
            // SAFETY: the lengths of all headers add up to the number of vectors, so this stays within them or one past.
            next = unsafe { next.add(header.msg_hdr.msg_iovlen) };
        }
        let (headers, flags) = (self.headers.as_mut_ptr(), libc::MSG_DONTWAIT as _);
        // SAFETY: the first `count` headers point at names, controls and vectors of this value, held exclusively, and the vectors at bytes that
        // are borrowed for 'a, which outlives the call; the kernel only reads them.
        let sent = unsafe { libc::sendmmsg(socket.socket.as_raw_fd(), headers, count as c_uint, flags) };
        Ok(check(sent)? as usize)
    }
}

/// What is the same for all messages of one [`Sender::send`], and what became of them so far.
struct Run<'a> {
    socket: &'a Socket,
    /// Zero once the buffer stayed full.
    patience: Duration,
    sent: Sent,
}

/// The message that the kernel did not take, and why.
struct Refused {
    error: io::Error,
    train: bool,
    datagrams: u64,
}

impl Run<'_> {
    /// Sends until all is sent, or until the first of the rest is refused for another reason than a full buffer.
    fn advance<'a, P, M>(&mut self, sender: &mut Sender, rest: &mut M) -> Result<(), Refused>
    where
        P: Iterator<Item = &'a [u8]> + Clone,
        M: Iterator<Item = Message<P>> + Clone,
    {
        let mut waited = false;
        while let Some(head) = rest.clone().next() {
            self.sent.calls += 1;
            match sender.submit(self.socket, rest.clone()) {
                Ok(count) => {
                    waited = false;
                    self.sent.messages += count as u64;
                    for (message, header) in rest.by_ref().take(count).zip(&sender.headers) {
                        self.sent.bytes += u64::from(header.msg_len);
                        self.sent.datagrams += datagrams(u64::from(header.msg_len), message.segment);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !waited && !self.patience.is_zero() && wait_writable(self.socket, self.patience) {
                        waited = true;
                    } else {
                        self.patience = Duration::ZERO;
                        self.sent.full += head.datagrams();
                        rest.next();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Refused { error, train: head.segment > 0, datagrams: head.datagrams() }),
            }
        }
        Ok(())
    }
}

impl<'a, P: Iterator<Item = &'a [u8]>> Message<P> {
    fn datagrams(self) -> u64 {
        datagrams(self.pieces.map(|piece| piece.len() as u64).sum(), self.segment)
    }
}

fn datagrams(bytes: u64, segment: usize) -> u64 {
    if segment == 0 { 1 } else { bytes.div_ceil(segment as u64) }
}

fn cannot_cut(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use super::*;
    use crate::epoll::Epoll;

    const BUFFERS: Buffers = Buffers { receive: 1 << 20, send: 1 << 20 };
    const PATIENCE: Duration = Duration::from_millis(5);

    #[test]
    fn datagrams_and_trains_arrive_whole() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(a) = Socket::bind(local.parse().unwrap(), BUFFERS) else { continue };
            let b = Socket::bind(local.parse().unwrap(), BUFFERS).unwrap();
            let to = b.local_addr().unwrap();
            let train: Vec<u8> = (0..2500u32).map(|byte| byte as u8).collect();
            let messages =
                [(0, &b"one"[..]), (1000, &train)].map(|(segment, bytes)| Message { to, from: None, segment, pieces: once(bytes) });
            let sent = Sender::new().send(&a, messages.into_iter(), PATIENCE);
            assert_eq!((sent.messages, sent.datagrams, sent.bytes, sent.full + sent.refused), (2, 4, 2503, 0));
            let expected: Vec<Vec<u8>> = once(b"one".to_vec()).chain(train.chunks(1000).map(<[u8]>::to_vec)).collect();
            assert_eq!(received(&b, &mut Receiver::new(4), 4), expected);
        }
    }

    #[test]
    fn a_train_in_pieces_is_cut_by_us_where_the_kernel_cannot() {
        let (a, b) = pair();
        a.segments.set(false);
        let bytes: Vec<Vec<u8>> = (0..70u8).map(|index| vec![index; 99]).collect();
        let (first, second) = (bytes[..30].concat(), bytes[30..].concat());
        let train = Message { to: b.local_addr().unwrap(), from: None, segment: 99, pieces: [&first[..], &second[..]].into_iter() };
        let sent = Sender::new().send(&a, once(train), PATIENCE);
        assert_eq!((sent.calls, sent.messages, sent.datagrams, sent.bytes), (2, 70, 70, 6930), "64 in a call");
        assert_eq!(received(&b, &mut Receiver::new(BATCH), 70), bytes);
    }

    #[test]
    fn what_cannot_be_sent_is_counted_and_the_rest_goes_out() {
        let (a, b) = pair();
        let train = [7; 1000];
        let wrong = "[::1]:9".parse().unwrap();
        let messages = [(wrong, 0), (b.local_addr().unwrap(), 100), (wrong, 100)];
        let messages = messages.into_iter().map(|(to, segment)| Message { to, from: None, segment, pieces: once(&train[..]) });
        let sent = Sender::new().send(&a, messages, PATIENCE);
        assert_eq!((sent.refused, sent.datagrams), (11, 10));
        assert_eq!(received(&b, &mut Receiver::new(BATCH), 10).len(), 10);
    }

    #[test]
    fn a_datagram_says_where_it_came_to_and_leaves_from_where_it_is_told() {
        let a = Socket::bind("0.0.0.0:0".parse().unwrap(), BUFFERS).unwrap();
        a.tell_local_addresses().unwrap();
        let b = Socket::bind("127.0.0.1:0".parse().unwrap(), BUFFERS).unwrap();
        let local: IpAddr = "127.0.0.9".parse().unwrap();
        let port = a.local_addr().unwrap().port();
        let (mut sender, mut receiver) = (Sender::new(), Receiver::new(1));
        let there = Message { to: SocketAddr::new(local, port), from: None, segment: 0, pieces: once(&b"there"[..]) };
        sender.send(&b, once(there), PATIENCE);
        wait_readable(&a);
        assert_eq!(receiver.receive(&a, 1).unwrap(), 1);
        assert_eq!(receiver.get(0).unwrap().local, Some(local));
        let back = Message { to: b.local_addr().unwrap(), from: Some(local), segment: 2, pieces: once(&b"back"[..]) };
        sender.send(&a, once(back), PATIENCE);
        wait_readable(&b);
        receiver.receive(&b, 1).unwrap();
        assert_eq!(receiver.get(0).unwrap().from, SocketAddr::new(local, port));
    }

    #[test]
    fn what_a_batch_left_in_its_places_shortens_nothing_of_the_next() {
        let mut receiver = Receiver::new(4);
        let mut sender = Sender::new();
        let mut pass = |local: &str, count: usize, tell: bool| {
            let Ok(to) = Socket::bind(local.parse().unwrap(), BUFFERS) else { return };
            if tell {
                to.tell_local_addresses().unwrap();
            }
            let from = Socket::bind(local.parse().unwrap(), BUFFERS).unwrap();
            let bytes: Vec<[u8; 9]> = (0..count).map(|index| [index as u8; 9]).collect();
            let (address, origin) = (to.local_addr().unwrap(), from.local_addr().unwrap());
            let messages = bytes.iter().map(|bytes| Message { to: address, from: None, segment: 0, pieces: once(&bytes[..]) });
            sender.send(&from, messages, PATIENCE);
            wait_readable(&to);
            assert_eq!(receiver.receive(&to, count).unwrap(), count);
            for (index, bytes) in bytes.iter().enumerate() {
                let received = receiver.get(index).unwrap();
                assert_eq!((received.from, received.local), (origin, tell.then(|| address.ip())), "{local}");
                assert_eq!(receiver.bytes(received.offset, received.length), bytes);
            }
            assert_eq!(receiver.get(count), None);
            assert_eq!(receiver.receive(&to, 4).unwrap(), 0, "and a look at nothing between");
        };
        // An IPv4 address is shorter than an IPv6 one, and no control message than one.
        for (local, count, tell) in [("127.0.0.1:0", 4, false), ("[::1]:0", 3, true), ("127.0.0.1:0", 1, true), ("[::1]:0", 4, true)] {
            pass(local, count, tell);
        }
    }

    #[test]
    fn nothing_to_receive_is_no_error() {
        let (a, _b) = pair();
        let mut receiver = Receiver::new(4);
        assert_eq!(receiver.receive(&a, 4).unwrap(), 0);
        assert_eq!(receiver.get(0), None);
    }

    fn pair() -> (Socket, Socket) {
        let bind = || Socket::bind("127.0.0.1:0".parse().unwrap(), BUFFERS).unwrap();
        (bind(), bind())
    }

    /// So many datagrams, in order.
    fn received(socket: &Socket, receiver: &mut Receiver, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            wait_readable(socket);
            for index in 0..receiver.receive(socket, BATCH).unwrap() {
                let Received { offset, length, segment, .. } = receiver.get(index).unwrap();
                all.extend(receiver.bytes(offset, length).chunks(segment).map(<[u8]>::to_vec));
            }
        }
        all
    }

    fn wait_readable(socket: &Socket) {
        let mut epoll = Epoll::new().unwrap();
        epoll.add(socket, 7).unwrap();
        assert_eq!(epoll.wait(Some(Duration::from_secs(2))).unwrap(), 1, "nothing within 2 s");
    }
}
