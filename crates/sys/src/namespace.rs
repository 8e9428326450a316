//! Network namespaces: whose a socket is, and how a thread enters one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::fstat;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::check;

/// `SIOCGSKNS` (linux/sockios.h): a descriptor of a socket's network namespace. libc does not name it.
const SIOCGSKNS: u32 = 0x894C;

/// A network namespace, which lives at least as long as this value.
#[derive(Debug)]
pub struct Network {
    descriptor: OwnedFd,
    id: (u64, u64),
}

impl Network {
    /// This thread's.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn own() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The one that a path leads to, such as `/run/netns/NAME`.
    ///
    /// # Errors
    /// There is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of_descriptor(File::open(path)?.into())
    }

    /// A socket's: the one that its process was in when it made the socket. An accepted Unix socket counts as made by who connected, so this is
    /// how to know from where that was (wants `CAP_NET_ADMIN` there).
    ///
    /// # Errors
    /// The kernel refused.
    pub fn of_socket(socket: impl AsFd) -> io::Result<Self> {
        // SAFETY: SIOCGSKNS takes no argument, and gives a new descriptor.
        let descriptor = check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCGSKNS as _) })?;
        // SAFETY: the descriptor is new and nobody else's.
        Self::of_descriptor(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    fn of_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let stat = fstat(&descriptor)?;
        Ok(Self { descriptor, id: (stat.st_dev, stat.st_ino) })
    }

    /// Whether both are the same. (Neither's number can be given anew while both values live.)
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// Moves the calling thread, and no other, into it (wants `CAP_SYS_ADMIN`). Sockets, devices and `/proc/sys/net` are that namespace's from now on; a
    /// thread that is to do anything else later has to be another.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.descriptor.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_is_of_the_namespace_that_it_was_made_in() {
        let own = Network::own().unwrap();
        let (one, _other) = UnixStream::pair().unwrap();
        match Network::of_socket(&one) {
            Ok(network) => assert!(network.is(&own)),
            // Without the right to ask.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
        }
        assert_eq!(Network::of_socket(File::open("/dev/null").unwrap()).err().unwrap().raw_os_error(), Some(libc::ENOTTY));
    }
}
