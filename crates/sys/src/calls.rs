//! The system calls of the data plane that need `unsafe`: TUN, UDP with segmentation offload, epoll, eventfd. No policy
//! here; everything above is safe code.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

use libc::{c_int, c_void};

/// `TUN_F_CSUM`: the reader completes checksums.
pub const TUN_F_CSUM: u32 = 0x01;
/// `TUN_F_TSO4` and `TUN_F_TSO6`: the reader takes TCP superpackets.
pub const TUN_F_TSO: u32 = 0x02 | 0x04;
/// `TUN_F_USO4` and `TUN_F_USO6` (Linux 6.2): the reader takes UDP superpackets.
pub const TUN_F_USO: u32 = 0x20 | 0x40;

/// Datagrams in one receive or send.
pub const BATCH: usize = 32;

/// Bytes of a receive buffer: the longest UDP payload, and so the longest GRO buffer.
pub const BUFFER: usize = 65_536;

/// A socket address as the kernel has it.
const NAME: usize = size_of::<libc::sockaddr_in6>();

/// Room for one control message of ours, in words for alignment.
const CONTROL: usize = 8;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens a TUN queue: the device node, `TUNSETIFF`. Returns the interface's name as the kernel set it.
pub fn open_tun(node: &Path, name: &str, vnet_header: bool) -> io::Result<(File, String)> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(node)?;
    if name.len() >= libc::IFNAMSIZ || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface names have at most 15 characters"));
    }
    // SAFETY: ifreq is plain old data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
    if vnet_header {
        flags |= libc::IFF_VNET_HDR;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte as u8)).collect();
    Ok((file, name))
}

/// `TUNSETOWNER` and `TUNSETPERSIST`: the device stays when it is closed, and this user may attach to it.
pub fn set_persistent(tun: &File, owner: u32) -> io::Result<()> {
    // SAFETY: both take their argument by value.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOWNER as _, libc::c_ulong::from(owner)) })?;
    // SAFETY: the same.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST as _, 1 as libc::c_ulong) }).map(drop)
}

/// Makes the device node of TUN (character device 10:200), for its owner alone (wants `CAP_MKNOD`).
pub fn make_tun_node(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string that outlives the call.
    check(unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(10, 200)) }).map(drop)
}

/// `TUNSETOFFLOAD`: which superpackets the reader takes.
pub fn set_offload(tun: &File, flags: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags)) }).map(drop)
}

/// `SIOCSIFTXQLEN`: how many packets the kernel queues for the reader (wants `CAP_NET_ADMIN`).
pub fn set_queue_length(name: &str, packets: c_int) -> io::Result<()> {
    // SAFETY: socket(2) takes no pointers; the result is checked before it is owned.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?) };
    // SAFETY: ifreq is plain old data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_metric = packets; // The union's ifr_qlen lies at the same place and is an int too.
    // SAFETY: SIOCSIFTXQLEN reads one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN as _, &raw const request) }).map(drop)
}

/// Sets an integer socket option.
pub fn set_option(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the value is an int that outlives the call, and its size is given.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast::<c_void>(), size_of::<c_int>() as libc::socklen_t)
    })
    .map(drop)
}

/// An eventfd, non-blocking.
pub fn event_fd() -> io::Result<File> {
    // SAFETY: eventfd(2) takes no pointers; the result is checked before it is owned.
    unsafe { Ok(File::from_raw_fd(check(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC))?)) }
}

/// Waits until `fd` takes data again, at most `millis` milliseconds.
pub fn wait_writable(fd: BorrowedFd<'_>, millis: c_int) {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd, which outlives the call. Whatever it returns, the caller tries again once.
    unsafe { libc::poll(&raw mut entry, 1, millis) };
}

/// An epoll instance, level-triggered, for reading.
pub struct Epoll(OwnedFd);

impl Epoll {
    /// Makes one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1(2) takes no pointers; the result is checked before it is owned.
        unsafe { Ok(Self(OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?))) }
    }

    /// Watches `fd`; readiness comes back as `token`.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: one epoll_event, which outlives the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event) }).map(drop)
    }

    /// Waits at most `millis` milliseconds; fills `ready` with tokens and returns how many. Interrupted: none.
    pub fn wait(&self, ready: &mut [u64; 16], millis: c_int) -> io::Result<usize> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        // SAFETY: room for 16 events is given, and it outlives the call.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 16, millis) };
        match check(count) {
            Ok(count) => {
                for (token, event) in ready.iter_mut().zip(&events).take(count as usize) {
                    *token = event.u64;
                }
                Ok(count as usize)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// A slab of receive buffers and what came with each.
pub struct Receiver {
    buffers: Box<[u8]>,
    names: [[u8; NAME]; BATCH],
    lengths: [usize; BATCH],
    segments: [usize; BATCH],
}

impl Receiver {
    /// 2 MiB of buffers, of which the kernel's memory backs only what is written to.
    pub fn new() -> Self {
        Self { buffers: vec![0; BUFFER * BATCH].into_boxed_slice(), names: [[0; NAME]; BATCH], lengths: [0; BATCH], segments: [0; BATCH] }
    }

    /// Receives up to `most` datagrams or GRO buffers without blocking; returns how many (0: nothing there).
    pub fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        if most <= 4 { self.receive_up_to::<4>(socket, most) } else { self.receive_up_to::<BATCH>(socket, most.min(BATCH)) }
    }

    fn receive_up_to<const N: usize>(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        let mut controls = [[0u64; CONTROL]; N];
        // SAFETY: iovec and mmsghdr are plain old data, for which all zeros is a value.
        let (mut vectors, mut headers): ([libc::iovec; N], [libc::mmsghdr; N]) = unsafe { (zeroed(), zeroed()) };
        for (index, buffer) in self.buffers.chunks_exact_mut(BUFFER).enumerate().take(most) {
            vectors[index] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = self.names[index].as_mut_ptr().cast();
            header.msg_namelen = NAME as libc::socklen_t;
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = controls[index].as_mut_ptr().cast();
            header.msg_controllen = size_of::<[u64; CONTROL]>() as _;
        }
        // SAFETY: each of the first `most` headers points to one iovec over its own buffer, to a name and a control buffer of
        // the given lengths; all outlive the call and none is touched elsewhere meanwhile.
        let count =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), most as u32, libc::MSG_DONTWAIT as _, ptr::null_mut()) };
        let count = match check(count) {
            Ok(count) => count as usize,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(0),
            Err(error) => return Err(error),
        };
        for (index, header) in headers.iter().enumerate().take(count) {
            self.lengths[index] = (header.msg_len as usize).min(BUFFER);
            self.segments[index] = segment_size(&header.msg_hdr).unwrap_or(0);
        }
        Ok(count)
    }

    /// What the last receive put at `index`: bytes, source, and the size of each datagram in it (the last may be shorter).
    pub fn get(&self, index: usize) -> Option<(&[u8], SocketAddr, usize)> {
        let start = index * BUFFER;
        let length = *self.lengths.get(index)?;
        let bytes = self.buffers.get(start..start + length)?;
        let segment = match self.segments[index] {
            0 => length.max(1),
            segment => segment,
        };
        Some((bytes, read_name(&self.names[index])?, segment))
    }
}

/// The value of `UDP_GRO`'s control message.
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled the control buffer that the header points to, and set its length; the macros stay inside it.
    // The payload is an int (checked by cmsg_len) at any alignment.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_UDP
                && (*control).cmsg_type == libc::UDP_GRO
                && (*control).cmsg_len as usize >= libc::CMSG_LEN(size_of::<c_int>() as u32) as usize
            {
                let size: c_int = ptr::read_unaligned(libc::CMSG_DATA(control).cast());
                return usize::try_from(size).ok().filter(|size| *size > 0);
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

/// One send: a datagram, or a train of equal datagrams (the last may be shorter) that the kernel or the NIC cuts.
#[derive(Clone, Copy)]
pub struct Sending<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// Payload.
    pub bytes: &'a [u8],
    /// Size of each datagram; 0: it is one.
    pub segment: usize,
}

/// Sends up to [`BATCH`] of them without blocking; returns how many the kernel took. An error is that of the first.
pub fn send(socket: BorrowedFd<'_>, sendings: &[Sending<'_>]) -> io::Result<usize> {
    match sendings.len() {
        0 => Ok(0),
        1 => send_up_to::<1>(socket, sendings),
        2..=8 => send_up_to::<8>(socket, sendings),
        _ => send_up_to::<BATCH>(socket, sendings),
    }
}

fn send_up_to<const N: usize>(socket: BorrowedFd<'_>, sendings: &[Sending<'_>]) -> io::Result<usize> {
    let mut names = [([0u8; NAME], 0); N];
    let mut controls = [[0u64; CONTROL]; N];
    // SAFETY: iovec and mmsghdr are plain old data, for which all zeros is a value.
    let (mut vectors, mut headers): ([libc::iovec; N], [libc::mmsghdr; N]) = unsafe { (zeroed(), zeroed()) };
    let most = sendings.len().min(N);
    for (index, sending) in sendings.iter().enumerate().take(most) {
        names[index] = write_name(&sending.to);
        vectors[index] = libc::iovec { iov_base: sending.bytes.as_ptr().cast_mut().cast(), iov_len: sending.bytes.len() };
        let header = &mut headers[index].msg_hdr;
        header.msg_name = names[index].0.as_mut_ptr().cast();
        header.msg_namelen = names[index].1;
        header.msg_iov = &raw mut vectors[index];
        header.msg_iovlen = 1;
        if sending.segment > 0 && sending.segment < sending.bytes.len() {
            header.msg_control = controls[index].as_mut_ptr().cast();
            // SAFETY: the control buffer (64 bytes, aligned to 8) has room for one message with a u16; the length set
            // covers it exactly.
            unsafe {
                header.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
                let control = libc::CMSG_FIRSTHDR(header);
                (*control).cmsg_level = libc::SOL_UDP;
                (*control).cmsg_type = libc::UDP_SEGMENT;
                (*control).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
                ptr::write_unaligned(libc::CMSG_DATA(control).cast(), sending.segment as u16);
            }
        }
    }
    // SAFETY: each of the first `most` headers points to a name, an iovec over borrowed bytes and perhaps a control buffer, of
    // the given lengths; all outlive the call. sendmmsg does not write to the bytes.
    let count = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), most as u32, libc::MSG_DONTWAIT as _) };
    check(count).map(|count| count as usize)
}

/// Reads a `sockaddr_in` or `sockaddr_in6` by its layout.
fn read_name(name: &[u8; NAME]) -> Option<SocketAddr> {
    let family = c_int::from(u16::from_ne_bytes([name[0], name[1]]));
    let port = u16::from_be_bytes([name[2], name[3]]);
    match family {
        libc::AF_INET => Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(name[4], name[5], name[6], name[7]), port))),
        libc::AF_INET6 => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&name[8..24]);
            // The scope is kept for link-local addresses alone: for others it must not tell equal addresses apart.
            let address = Ipv6Addr::from(octets);
            let scope = if address.is_unicast_link_local() { u32::from_ne_bytes([name[24], name[25], name[26], name[27]]) } else { 0 };
            Some(SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope)))
        }
        _ => None,
    }
}

/// Writes one, with its length.
fn write_name(address: &SocketAddr) -> ([u8; NAME], libc::socklen_t) {
    let mut name = [0; NAME];
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            name[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            name[4..8].copy_from_slice(&v4.ip().octets());
            (name, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            name[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            name[8..24].copy_from_slice(&v6.ip().octets());
            name[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            (name, NAME as libc::socklen_t)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for address in ["192.0.2.1:80", "[2001:db8::1]:443", "[fe80::1%3]:5", "0.0.0.0:0"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(read_name(&write_name(&address).0), Some(address));
        }
    }

    #[test]
    fn datagrams_and_trains_arrive_whole() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(a) = UdpSocket::bind(local) else { continue };
            let b = UdpSocket::bind(local).unwrap();
            b.set_nonblocking(true).unwrap();
            let _ = set_option(b.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
            let to = b.local_addr().unwrap();
            let train: Vec<u8> = (0..2500u32).map(|byte| byte as u8).collect();
            let sendings = [Sending { to, bytes: b"one", segment: 0 }, Sending { to, bytes: &train, segment: 1000 }];
            assert_eq!(send(a.as_fd(), &sendings).unwrap(), 2);
            let (mut receiver, mut seen) = (Receiver::new(), Vec::new());
            wait_readable(&b);
            for _ in 0..10 {
                let count = receiver.receive(b.as_fd(), BATCH).unwrap();
                for index in 0..count {
                    let (bytes, from, segment) = receiver.get(index).unwrap();
                    assert_eq!(from, a.local_addr().unwrap());
                    seen.extend(bytes.chunks(segment).map(<[u8]>::to_vec));
                }
            }
            let expected: Vec<Vec<u8>> = std::iter::once(b"one".to_vec()).chain(train.chunks(1000).map(<[u8]>::to_vec)).collect();
            assert_eq!(seen, expected);
        }
    }

    fn wait_readable(socket: &UdpSocket) {
        let epoll = Epoll::new().unwrap();
        epoll.add(socket.as_fd(), 7).unwrap();
        let mut ready = [0; 16];
        assert_eq!(epoll.wait(&mut ready, 2000).unwrap(), 1);
        assert_eq!(ready[0], 7);
    }
}
