//! Unix sockets of packets (`SOCK_SEQPACKET`): a message is a packet, whole or not at all, and a descriptor may come with it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, bind, recvmsg, sendmsg, socket_with,
};

use crate::check;

/// Makes a socket at this path, where nothing may be, for others to connect to. Neither it nor what it accepts waits. `backlog`: how many may wait to be
/// accepted. (To async runtimes it is as any Unix listener, and a connection as any stream: only reading and writing are done by what is here.)
///
/// # Errors
/// The kernel refused; the path has more than 107 bytes.
pub fn listen(path: &Path, backlog: i32) -> io::Result<OwnedFd> {
    let socket = new(SocketFlags::NONBLOCK)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}

/// Connects; what is done with the connection waits.
///
/// # Errors
/// Nobody listens there; the path has more than 107 bytes.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = new(SocketFlags::empty())?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Sends one packet, and a descriptor with it. Who is gone is an error, and no signal.
///
/// # Errors
/// The kernel refused; where nothing waits, `WouldBlock`.
pub fn send(connection: impl AsFd, packet: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors {
        // There is room for one.
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    sendmsg(connection, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet into `buffer`: its length, 0 at the end. Descriptors that come with it are closed.
///
/// # Errors
/// The kernel refused; where nothing waits, `WouldBlock`. `InvalidData`: the packet is larger than the buffer.
pub fn receive(connection: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let received = recvmsg(connection, &mut [IoSliceMut::new(buffer)], &mut RecvAncillaryBuffer::default(), RecvFlags::empty())?;
    whole(received.bytes, received.flags)
}

/// As [`receive`], with the one descriptor that may come with the packet.
///
/// # Errors
/// As of [`receive`].
pub fn receive_with_descriptor(connection: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(connection, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            // What there is no room for the kernel has closed; what there is is ours to close.
            for received in descriptors {
                descriptor.get_or_insert(received);
            }
        }
    }
    Ok((whole(received.bytes, received.flags)?, descriptor))
}

/// User id of who connected, as of then (`SO_PEERCRED`), in this process's user namespace.
///
/// # Errors
/// The kernel refused.
pub fn peer_user(connection: impl AsFd) -> io::Result<u32> {
    // Not rustix's: to it a process id of 0 cannot be, which is what one of another pid namespace has.
    // SAFETY: `ucred` is plain numbers, for which all-zero is valid.
    let mut peer: libc::ucred = unsafe { zeroed() };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let (socket, at) = (connection.as_fd().as_raw_fd(), (&raw mut peer).cast());
    // SAFETY: both pointers lead to values that outlive the call, and the length is that of the first.
    check(unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, at, &raw mut length) })?;
    Ok(peer.uid)
}

fn new(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags | SocketFlags::CLOEXEC, None)?)
}

fn whole(length: usize, flags: ReturnFlags) -> io::Result<usize> {
    if flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet larger than any that is understood"));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixListener;

    use rustix::process::getuid;

    use super::*;

    #[test]
    fn packets_come_whole_with_what_was_sent_along_and_too_large_ones_not_at_all() {
        let folder = std::env::temp_dir().join(format!("campfire-sys-local-{}", std::process::id()));
        let _ = std::fs::remove_file(&folder);
        let listener = UnixListener::from(listen(&folder, 4).unwrap());
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let client = connect(&folder).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        assert_eq!(peer_user(&server).unwrap(), getuid().as_raw());

        let mut buffer = [0; 8];
        assert_eq!(receive(&server, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(&client, b"12345678", None).unwrap();
        send(&client, b"123456789", None).unwrap();
        send(&client, b"ab", Some(client.as_fd())).unwrap();
        assert_eq!((receive(&server, &mut buffer).unwrap(), &buffer), (8, b"12345678"));
        assert_eq!(receive(&server, &mut buffer).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(receive(&server, &mut buffer).unwrap(), 2, "what came along is closed");

        let file = std::fs::File::open("/proc/self/comm").unwrap();
        send(&server, b"here", Some(file.as_fd())).unwrap();
        send(&server, b"none", None).unwrap();
        let (length, descriptor) = receive_with_descriptor(&client, &mut buffer).unwrap();
        let mut text = String::new();
        std::fs::File::from(descriptor.unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!((length, text.is_empty()), (4, false));
        assert!(receive_with_descriptor(&client, &mut buffer).unwrap().1.is_none());
        drop(server);
        assert_eq!(receive(&client, &mut buffer).unwrap(), 0);
        assert!(send(&client, b"x", None).is_err());
        std::fs::remove_file(&folder).unwrap();
    }
}
