//! The TUN device, and the `virtio_net_hdr` that comes before each packet on it (virtio 1.2 §5.1.6).

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::sys;

/// Bytes of a [`VnetHeader`].
pub const VNET: usize = 10;

/// Packets that the kernel queues for us. Fewer make for less latency under load, since most are superpackets; but a burst of
/// small ones has to fit while this thread waits for its turn on a busy machine.
const QUEUE_LENGTH: i32 = 128;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

/// What is to be cut from a superpacket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// Nothing: one packet.
    #[default]
    None,
    /// TCP segments in IPv4.
    Tcp4,
    /// TCP segments in IPv6.
    Tcp6,
    /// UDP datagrams.
    Udp,
}

/// `virtio_net_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Whether the checksum at `checksum_start + checksum_offset` holds the pseudo-header's sum and is to be completed.
    pub partial_checksum: bool,
    /// What to cut.
    pub gso: Gso,
    /// Bytes of all headers (a hint).
    pub header_length: u16,
    /// Payload bytes of each segment.
    pub segment: u16,
    /// Where the checksum's data begins.
    pub checksum_start: u16,
    /// Where the checksum lies, from there.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Reads one; `None` for a kind of superpacket that we never asked for.
    pub fn read(bytes: [u8; VNET]) -> Option<Self> {
        let [flags, kind, ..] = bytes;
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match kind {
            0 => Gso::None,
            GSO_TCPV4 => Gso::Tcp4,
            GSO_TCPV6 => Gso::Tcp6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return None,
        };
        Some(Self {
            partial_checksum: flags & NEEDS_CSUM != 0,
            gso,
            header_length: word(2),
            segment: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        })
    }

    /// Writes one.
    pub fn write(&self) -> [u8; VNET] {
        let kind = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => GSO_TCPV4,
            Gso::Tcp6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        let mut bytes = [u8::from(self.partial_checksum), kind, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, word) in [(2, self.header_length), (4, self.segment), (6, self.checksum_start), (8, self.checksum_offset)] {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// An open TUN device.
pub struct Tun {
    file: File,
    name: String,
    vnet: bool,
    udp_superpackets: bool,
}

impl Tun {
    /// Makes a device that outlives this process, for the user `owner` to attach to by [`Self::open`]. Made already: nothing changes.
    pub fn make_persistent(node: &Path, name: &str, owner: u32) -> io::Result<()> {
        let (file, name) = sys::open_tun(node, name, true)?;
        sys::set_persistent(&file, owner)?;
        sys::set_queue_length(&name, QUEUE_LENGTH)
    }

    /// Opens a device named `name`: made if there is none (wants `CAP_NET_ADMIN`), attached to if it is persistent and its
    /// owner is us (`ip tuntap add mode tun user …`, [`Self::make_persistent`]). `node`: the device node.
    ///
    /// Takes what offloads the kernel has: superpackets of TCP, then of UDP; with none everything works, slower.
    pub fn open(node: &Path, name: &str) -> io::Result<Self> {
        let (file, name, vnet) = match sys::open_tun(node, name, true) {
            Ok((file, name)) => (file, name, true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let (file, name) = sys::open_tun(node, name, false)?;
                (file, name, false)
            }
            Err(error) => return Err(error),
        };
        let mut udp_superpackets = false;
        if vnet && std::env::var_os("CAMPFIRE_NO_OFFLOAD").is_none() {
            udp_superpackets = sys::set_offload(&file, sys::TUN_F_CSUM | sys::TUN_F_TSO | sys::TUN_F_USO).is_ok();
            if !udp_superpackets {
                let offload = sys::set_offload(&file, sys::TUN_F_CSUM | sys::TUN_F_TSO);
                tracing::debug!(?offload, "TUN without UDP superpackets");
            }
        }
        // Without the right to (a device made for us) whoever made it has chosen.
        let _ = sys::set_queue_length(&name, QUEUE_LENGTH);
        Ok(Self { file, name, vnet, udp_superpackets })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it takes superpackets of UDP.
    pub(super) fn udp_superpackets(&self) -> bool {
        self.udp_superpackets
    }

    /// Whether it takes superpackets at all.
    pub(super) fn superpackets(&self) -> bool {
        self.vnet
    }

    /// Reads one packet or superpacket behind its header; returns the length of both. `WouldBlock` when there is none.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.vnet {
            return (&self.file).read(buffer);
        }
        let Some((header, packet)) = buffer.split_at_mut_checked(VNET) else { return Ok(0) };
        header.fill(0);
        Ok((&self.file).read(packet)? + VNET)
    }

    /// Writes one packet or superpacket in pieces, of which the first is its header.
    pub(super) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(if self.vnet { pieces } else { &pieces[1..] })
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_their_layout() {
        for gso in [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp] {
            let header =
                VnetHeader { partial_checksum: true, gso, header_length: 1, segment: 2, checksum_start: 0x0304, checksum_offset: 5 };
            assert_eq!(VnetHeader::read(header.write()), Some(header));
        }
        assert_eq!(VnetHeader::read([0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), None, "fragmentation offload was never asked for");
    }
}
