//! Linux system calls that the standard library does not offer: batches of datagrams in both directions, segmentation
//! offload (UDP GRO and GSO), the local address of a datagram, epoll and eventfd. The only `unsafe` code of the server.
//!
//! Everything here works on memory that the callers own and on indices that are checked before a pointer is made of them;
//! no pointer outlives the call that it was made for.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

/// Most datagrams (GRO trains count as one) that one call takes or gives.
pub const BATCH: usize = 64;
/// A slot holds the longest datagram or GRO train.
const SLOT: usize = 64 * 1024;
/// Free bytes in front of a slot's datagram: a header can be put before it in place.
pub const HEADROOM: usize = 64;
/// Distance of slots: not a multiple of a page, so that the first bytes of all slots do not fall into the same few cache sets.
const STRIDE: usize = HEADROOM + SLOT + 1216;
/// Room for the control messages of one datagram: packet info and segment size, with space to spare.
type Control = [u64; 12];

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Waits for many sockets.
pub struct Epoll {
    fd: OwnedFd,
    events: [libc::epoll_event; BATCH],
}

impl Epoll {
    /// An epoll instance that reports up to [`BATCH`] sockets a wait.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned, and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Self { fd, events: [libc::epoll_event { events: 0, u64: 0 }; BATCH] })
    }

    /// Reports `token` whenever `fd` can be read (level-triggered), until `fd` is closed.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: both descriptors are open, `event` lives through the call and the kernel copies it.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event) })?;
        Ok(())
    }

    /// Waits until a socket is readable or `timeout` (rounded up to milliseconds; `None`: forever) has passed; the number of
    /// tokens to be read with [`Self::token`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
        let events = libc::c_int::try_from(self.events.len()).unwrap_or(0);
        // SAFETY: the kernel writes at most `events` events into memory of that many, which we hold exclusively.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), events, timeout) };
        match check(count) {
            Ok(count) => Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The token of the `index`-th readable socket of the last wait.
    pub fn token(&self, index: usize) -> u64 {
        self.events.get(index).map_or(u64::MAX, |event| event.u64)
    }
}

/// A counter that makes an [`Epoll`] return: how other threads wake the packet thread.
pub struct WakeFd(OwnedFd);

impl WakeFd {
    /// A new one, not signalled.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?) }))
    }

    /// Its descriptor, for [`Epoll::add`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0)
    }

    /// Signals it.
    pub fn signal(&self) {
        let one = 1_u64;
        // SAFETY: writes the eight bytes of `one`. It fails only when the counter is full: then it is signalled already.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    /// Takes the signal back.
    pub fn clear(&self) {
        let mut count = 0_u64;
        // SAFETY: reads at most eight bytes into `count`. Failing means that it was not signalled.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }
}

fn set(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` lives through the call, and its size is given.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t)
    })?;
    Ok(())
}

/// Lets the kernel hand over trains of datagrams of one sender and size in one piece.
pub fn enable_gro(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Asks for the local address of every datagram.
pub fn enable_packet_info(fd: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    if ipv6 { set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1) } else { set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1) }
}

/// Sends with fragmentation allowed and takes no ICMP's word for a path's MTU: a relay carries what it is given.
pub fn allow_fragments(fd: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    } else {
        set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    }
}

/// Grows the socket buffers past the system's limits where the process may (`CAP_NET_ADMIN`), else up to them.
pub fn grow_buffers(fd: BorrowedFd<'_>, bytes: usize) {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set(fd, libc::SOL_SOCKET, force, bytes).is_err() {
            let _ = set(fd, libc::SOL_SOCKET, plain, bytes);
        }
    }
}

/// Waits up to `milliseconds` until `fd` takes a datagram again; whether it does.
pub fn wait_writable(fd: BorrowedFd<'_>, milliseconds: u16) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one `pollfd` that lives through the call.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds.into()) == 1 }
}

/// Storage for an address of either family.
type Name = libc::sockaddr_in6;

fn write_name(name: &mut Name, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: all-zero is a valid `sockaddr_in`.
            let mut v4: libc::sockaddr_in = unsafe { zeroed() };
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = address.port().to_be();
            v4.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            // SAFETY: a `sockaddr_in6` is larger than a `sockaddr_in` and at least as strictly aligned.
            unsafe { ptr::write(ptr::from_mut(name).cast::<libc::sockaddr_in>(), v4) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = address.port().to_be();
            name.sin6_flowinfo = address.flowinfo();
            name.sin6_addr.s6_addr = address.ip().octets();
            name.sin6_scope_id = address.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

fn read_name(name: &Name) -> Option<SocketAddr> {
    match libc::c_int::from(name.sin6_family) {
        libc::AF_INET => {
            // SAFETY: as in `write_name`; every bit pattern is a valid `sockaddr_in`.
            let v4 = unsafe { ptr::read(ptr::from_ref(name).cast::<libc::sockaddr_in>()) };
            let address = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::V4(SocketAddrV4::new(address, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => Some(SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::from(name.sin6_addr.s6_addr),
            u16::from_be(name.sin6_port),
            0,
            name.sin6_scope_id,
        ))),
        _ => None,
    }
}

/// What the kernel said about a received datagram or train.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Who sent it.
    pub from: SocketAddr,
    /// The local address that it was sent to, if asked for ([`enable_packet_info`]).
    pub local: Option<IpAddr>,
    /// Where its bytes begin in the slab.
    pub offset: usize,
    /// How many they are.
    pub length: usize,
    /// Length of each datagram in it but the last, which may be shorter.
    pub segment: usize,
}

/// Fixed memory for a batch of received datagrams.
pub struct Receiver {
    slab: Box<[u8]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl Receiver {
    /// Reserves [`BATCH`] slots of 64 KiB; pages that no datagram was long enough to touch cost nothing.
    pub fn new() -> Self {
        // SAFETY: all three are plain C structures for which all-zero (null pointers, zero lengths) is valid.
        let (name, vector, header) = unsafe { (zeroed::<Name>(), zeroed::<libc::iovec>(), zeroed::<libc::mmsghdr>()) };
        Self {
            slab: vec![0; STRIDE * BATCH].into_boxed_slice(),
            names: vec![name; BATCH].into_boxed_slice(),
            controls: vec![[0; 12]; BATCH].into_boxed_slice(),
            vectors: vec![vector; BATCH].into_boxed_slice(),
            headers: vec![header; BATCH].into_boxed_slice(),
        }
    }

    /// The memory that [`Received::offset`] counts in.
    pub fn slab(&self) -> &[u8] {
        &self.slab
    }

    /// The bytes of one frame of a received datagram, to be rewritten in place.
    pub fn frame_mut(&mut self, offset: usize, length: usize) -> &mut [u8] {
        self.slab.get_mut(offset..offset + length).unwrap_or_default()
    }

    /// Receives up to `limit` datagrams without waiting; how many.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
        let count = limit.min(BATCH);
        let slots = self.slab.chunks_exact_mut(STRIDE);
        let rest = self.names.iter_mut().zip(self.controls.iter_mut()).zip(self.vectors.iter_mut());
        for ((slot, ((name, control), vector)), header) in slots.zip(rest).zip(self.headers.iter_mut()).take(count) {
            let slot = slot.get_mut(HEADROOM..HEADROOM + SLOT).unwrap_or_default();
            vector.iov_base = slot.as_mut_ptr().cast();
            vector.iov_len = slot.len();
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_hdr.msg_iov = ptr::from_mut(vector);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of::<Control>() as _;
            header.msg_hdr.msg_flags = 0;
        }
        // SAFETY: the first `count` headers were just pointed at slots, names and control buffers of this value, which is
        // held exclusively through the call; their lengths are true.
        let received = unsafe {
            libc::recvmmsg(fd.as_raw_fd(), self.headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT as _, ptr::null_mut())
        };
        Ok(check(received)? as usize)
    }

    /// The `index`-th datagram of the last batch; `None` if it was cut short or came from no IP address.
    pub fn get(&self, index: usize) -> Option<Received> {
        let header = self.headers.get(index)?;
        let length = (header.msg_len as usize).min(SLOT);
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let mut received = Received {
            from: read_name(self.names.get(index)?)?,
            local: None,
            offset: index * STRIDE + HEADROOM,
            length,
            segment: length.max(1),
        };
        // SAFETY: `msg_control` points at this value's control buffer, which the kernel has filled up to `msg_controllen`;
        // the CMSG macros stay within it, and payloads are read unaligned after their level and type were checked.
        unsafe {
            let mut control = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
            while let Some(message) = control.as_ref() {
                let data = libc::CMSG_DATA(control);
                match (message.cmsg_level, message.cmsg_type) {
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        received.segment = ptr::read_unaligned(data.cast::<libc::c_int>()).max(1) as usize;
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = ptr::read_unaligned(data.cast::<libc::in_pktinfo>());
                        received.local = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = ptr::read_unaligned(data.cast::<libc::in6_pktinfo>());
                        received.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                    }
                    _ => {}
                }
                control = libc::CMSG_NXTHDR(&raw const header.msg_hdr, control);
            }
        }
        Some(received)
    }
}

/// Which memory a [`Piece`] lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The receiver's slab.
    Slab,
    /// The outbox's own memory.
    Arena,
}

/// Bytes to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Where they lie.
    pub source: Source,
    /// First byte.
    pub offset: usize,
    /// How many.
    pub length: usize,
}

/// The two memories that pieces lie in.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// [`Source::Slab`].
    pub slab: &'a [u8],
    /// [`Source::Arena`].
    pub arena: &'a [u8],
}

impl<'a> Sources<'a> {
    /// The bytes of a piece; empty if it lies outside.
    pub fn bytes(&self, piece: &Piece) -> &'a [u8] {
        let memory = match piece.source {
            Source::Slab => self.slab,
            Source::Arena => self.arena,
        };
        memory.get(piece.offset..piece.offset + piece.length).unwrap_or_default()
    }
}

/// One datagram, or a train of them, to be sent.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// The receiver.
    pub to: SocketAddr,
    /// The local address to send from, where the socket has several.
    pub from: Option<IpAddr>,
    /// Length of each datagram of a train but the last; 0: one datagram.
    pub segment: u16,
    /// What is sent, in order.
    pub pieces: &'a [Piece],
}

/// Memory for the headers of a batch of sends.
pub struct Sender {
    names: Box<[Name]>,
    controls: Box<[Control]>,
    vectors: Vec<libc::iovec>,
    headers: Box<[libc::mmsghdr]>,
}

impl Sender {
    /// Headers for [`BATCH`] messages.
    pub fn new() -> Self {
        // SAFETY: plain C structures for which all-zero is valid.
        let (name, header) = unsafe { (zeroed::<Name>(), zeroed::<libc::mmsghdr>()) };
        Self {
            names: vec![name; BATCH].into_boxed_slice(),
            controls: vec![[0; 12]; BATCH].into_boxed_slice(),
            vectors: Vec::with_capacity(BATCH * 4),
            headers: vec![header; BATCH].into_boxed_slice(),
        }
    }

    /// Sends up to [`BATCH`] messages in one call; how many went out. An error is that of the first message.
    pub fn send<'a>(&mut self, fd: BorrowedFd<'_>, messages: impl Iterator<Item = Message<'a>>, sources: Sources<'_>) -> io::Result<usize> {
        self.vectors.clear();
        let mut count = 0;
        let rest = self.controls.iter_mut().zip(self.headers.iter_mut());
        for ((message, name), (control, header)) in messages.zip(self.names.iter_mut()).zip(rest) {
            let first = self.vectors.len();
            self.vectors.extend(message.pieces.iter().map(|piece| {
                let bytes = sources.bytes(piece);
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
            }));
            header.msg_hdr.msg_namelen = write_name(name, message.to);
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            // Pointed at its vectors below, once they no longer move.
            header.msg_hdr.msg_iov = ptr::null_mut();
            header.msg_hdr.msg_iovlen = (self.vectors.len() - first) as _;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of::<Control>() as _;
            let used = write_controls(&header.msg_hdr, control, message.from, message.segment);
            header.msg_hdr.msg_controllen = used as _;
            if used == 0 {
                header.msg_hdr.msg_control = ptr::null_mut();
            }
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let mut next = self.vectors.as_mut_ptr();
        for header in self.headers.iter_mut().take(count) {
            header.msg_hdr.msg_iov = next;
            // SAFETY: the lengths of all headers add up to the number of vectors, so this stays within them or one past.
            next = unsafe { next.add(header.msg_hdr.msg_iovlen) };
        }
        // SAFETY: the first `count` headers point at names, controls and vectors of this value, held exclusively, and the
        // vectors at `sources`, borrowed through the call and only read.
        let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), self.headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT as _) };
        Ok(check(sent)? as usize)
    }
}

/// Writes the control messages into `buffer`, to which `header` points already; the bytes used.
fn write_controls(header: &libc::msghdr, buffer: &mut Control, from: Option<IpAddr>, segment: u16) -> usize {
    if from.is_none() && segment == 0 {
        return 0;
    }
    // CMSG_NXTHDR looks at the lengths of what follows.
    *buffer = [0; 12];
    let mut used = 0;
    // SAFETY: `header` points at `buffer` with its whole length, which has room for both messages (CMSG_SPACE of the larger
    // packet info, 40, and of the segment size, 24, in 96 bytes); payloads are written unaligned.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(ptr::from_ref(header));
        match from {
            Some(IpAddr::V4(address)) => {
                let mut info: libc::in_pktinfo = zeroed();
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(address.octets());
                used += put(next, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
                next = libc::CMSG_NXTHDR(ptr::from_ref(header), next);
            }
            Some(IpAddr::V6(address)) => {
                let mut info: libc::in6_pktinfo = zeroed();
                info.ipi6_addr.s6_addr = address.octets();
                used += put(next, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
                next = libc::CMSG_NXTHDR(ptr::from_ref(header), next);
            }
            None => {}
        }
        if segment != 0 {
            used += put(next, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        }
    }
    used
}

/// Writes one control message; the space it takes.
///
/// # Safety
/// `at` must be null or point at a control message header with room for a `T` behind it.
unsafe fn put<T>(at: *mut libc::cmsghdr, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let Some(message) = at.as_mut() else { return 0 };
        message.cmsg_level = level;
        message.cmsg_type = kind;
        message.cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as _;
        ptr::write_unaligned(libc::CMSG_DATA(at).cast::<T>(), value);
        libc::CMSG_SPACE(size_of::<T>() as u32) as usize
    }
}
