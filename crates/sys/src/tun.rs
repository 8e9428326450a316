//! TUN devices: IP packets of applications, each behind a `virtio_net_hdr` that says what of a superpacket is still to be done (virtio 1.2 §5.1.6).

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use libc::{c_char, c_int, c_short, c_ulong};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::check;

/// Bytes of the `virtio_net_hdr` before each packet.
pub const HEADER: usize = 10;

/// `TUN_F_CSUM`: the reader completes checksums.
const TUN_F_CSUM: c_ulong = 0x01;
/// `TUN_F_TSO4` and `TUN_F_TSO6`: the reader takes TCP superpackets.
const TUN_F_TSO: c_ulong = 0x02 | 0x04;
/// `TUN_F_USO4` and `TUN_F_USO6` (Linux 6.2): the reader takes UDP superpackets.
const TUN_F_USO: c_ulong = 0x20 | 0x40;

/// Packets that the kernel queues for the reader. Fewer make for less latency under load, since most are superpackets; but a burst of small ones
/// has to fit while the reader waits for its turn on a busy machine.
const QUEUE_LENGTH: c_int = 128;

/// Makes the device node of TUN (character device 10:200), for its owner alone (wants `CAP_MKNOD`).
pub fn make_node(path: &Path) -> io::Result<()> {
    Ok(mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(10, 200))?)
}

/// An open TUN device.
pub struct Tun {
    file: File,
    name: String,
    header: bool,
    tcp_superpackets: bool,
    udp_superpackets: bool,
}

impl Tun {
    /// Makes a device that outlives this process, for the user `owner` to attach to by [`Self::open`]. Made already: nothing changes.
    pub fn make_persistent(node: &Path, name: &str, owner: u32) -> io::Result<()> {
        let (file, name) = open(node, name, true)?;
        by_value(&file, libc::TUNSETOWNER, owner.into())?;
        by_value(&file, libc::TUNSETPERSIST, 1)?;
        set_queue_length(&name)
    }

    /// Opens a device named `name`: made if there is none (wants `CAP_NET_ADMIN`), attached to if it is persistent and its owner is us (`ip tuntap
    /// add mode tun user …`, [`Self::make_persistent`]). `node`: the device node.
    ///
    /// `offload`: takes what superpackets the kernel has, of TCP, then of UDP, and gives it such; without them everything works, slower.
    pub fn open(node: &Path, name: &str, offload: bool) -> io::Result<Self> {
        let (file, name, header) = match open(node, name, true) {
            Ok((file, name)) => (file, name, true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let (file, name) = open(node, name, false)?;
                (file, name, false)
            }
            Err(error) => return Err(error),
        };
        // Without the right to (a device made for us) whoever made it has chosen.
        let _ = set_queue_length(&name);
        Ok(Self::with_offload(file, name, header, offload))
    }

    /// Takes a device that somebody else opened and attached to, and whose descriptor was sent here. `offload`: as of [`Self::open`].
    ///
    /// # Errors
    /// It is no TUN device, or one that nobody has attached to.
    pub fn adopt(descriptor: OwnedFd, offload: bool) -> io::Result<Self> {
        let file = File::from(descriptor);
        let mut request = request("")?;
        // SAFETY: TUNGETIFF writes one ifreq, which outlives the call; another kind of file refuses the code.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request) })?;
        // SAFETY: TUNGETIFF has set the flags, and all bit patterns of a short are valid.
        let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags } as u16);
        if flags & libc::IFF_TUN == 0 || flags & libc::IFF_NO_PI == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no TUN device of bare packets"));
        }
        rustix::io::ioctl_fionbio(&file, true)?;
        Ok(Self::with_offload(file, name_of(&request), flags & libc::IFF_VNET_HDR != 0, offload))
    }

    fn with_offload(file: File, name: String, header: bool, offload: bool) -> Self {
        let mut udp_superpackets = false;
        if header && offload {
            udp_superpackets = by_value(&file, libc::TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO | TUN_F_USO).is_ok();
            if !udp_superpackets {
                let offload = by_value(&file, libc::TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO);
                tracing::debug!(?offload, "TUN without UDP superpackets");
            }
        }
        Self { file, name, header, tcp_superpackets: header && offload, udp_superpackets }
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether superpackets of TCP may be written.
    pub fn tcp_superpackets(&self) -> bool {
        self.tcp_superpackets
    }

    /// Whether superpackets of UDP may be written.
    pub fn udp_superpackets(&self) -> bool {
        self.udp_superpackets
    }

    /// Reads one packet or superpacket behind its header; the length of both. `None`: none there.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let (header, packet) = buffer.split_at_mut_checked(HEADER).ok_or(io::ErrorKind::InvalidInput)?;
        let read = if self.header {
            (&self.file).read(buffer)
        } else {
            header.fill(0);
            (&self.file).read(packet).map(|length| HEADER + length)
        };
        match read {
            Ok(length) => Ok(Some(length)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one packet or superpacket in pieces, of which the first is its header; the bytes of it without.
    pub fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.header {
            return Ok((&self.file).write_vectored(pieces)?.saturating_sub(HEADER));
        }
        (&self.file).write_vectored(pieces.get(1..).unwrap_or_default())
    }

    /// Whether this error of [`read`](Self::read) means that the device is gone for good.
    pub fn is_gone(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EFAULT | libc::ENODEV))
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<Tun> for OwnedFd {
    fn from(tun: Tun) -> Self {
        tun.file.into()
    }
}

/// Opens the device node and asks for the device (`TUNSETIFF`); gives also the name that the kernel set.
fn open(node: &Path, name: &str, header: bool) -> io::Result<(File, String)> {
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(node)?;
    let mut request = request(name)?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | if header { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = flags as c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    Ok((file, name_of(&request)))
}

/// The name that the kernel wrote.
fn name_of(request: &libc::ifreq) -> String {
    request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte as u8)).collect()
}

/// A request about the interface of this name.
fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.len() >= libc::IFNAMSIZ || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface names have at most 15 characters"));
    }
    // SAFETY: ifreq is a plain C structure for which all-zero is valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

/// `TUNSETOWNER`, `TUNSETPERSIST`, `TUNSETOFFLOAD`: those that take their argument by value.
fn by_value(tun: &File, code: u64, value: c_ulong) -> io::Result<()> {
    // SAFETY: the callers' codes take their argument by value, and no pointer.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), code as _, value) }).map(drop)
}

/// `SIOCSIFTXQLEN`: how many packets the kernel queues for the reader (wants `CAP_NET_ADMIN`).
fn set_queue_length(name: &str) -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = request(name)?;
    // The union's ifr_qlen lies at the same place and is an int too.
    request.ifr_ifru.ifru_metric = QUEUE_LENGTH;
    // SAFETY: SIOCSIFTXQLEN reads one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN as _, &raw const request) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_interface_can_have_is_refused_before_the_kernel_is_asked() {
        for name in ["sixteen-letters-", "a/b", "a\0b"] {
            let error = Tun::open(Path::new("/dev/null"), name, true).err().map(|error| error.kind());
            assert_eq!(error, Some(io::ErrorKind::InvalidInput), "{name}");
        }
    }

    #[test]
    fn a_descriptor_that_is_no_tun_device_is_not_taken() {
        let error = Tun::adopt(File::open("/dev/null").unwrap().into(), true).err().and_then(|error| error.raw_os_error());
        assert_eq!(error, Some(libc::ENOTTY));
    }

    #[test]
    fn what_is_no_tun_device_node_is_an_error() {
        let error = Tun::open(Path::new("/dev/null"), "campfire9", true).err().and_then(|error| error.raw_os_error());
        assert_eq!(error, Some(libc::ENOTTY));
        assert!(!Tun::is_gone(&io::Error::from_raw_os_error(libc::ENOTTY)));
        assert!(Tun::is_gone(&io::Error::from_raw_os_error(libc::EBADFD)));
    }
}
