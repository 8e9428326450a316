//! The TUN device.

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::calls as sys;

/// Bytes of the `virtio_net_hdr` before each packet.
const VNET: usize = 10;

/// Packets that the kernel queues for us. Fewer make for less latency under load, since most are superpackets; but a burst of
/// small ones has to fit while this thread waits for its turn on a busy machine.
const QUEUE_LENGTH: i32 = 128;

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
    pub fn udp_superpackets(&self) -> bool {
        self.udp_superpackets
    }

    /// Whether it takes superpackets at all.
    pub fn superpackets(&self) -> bool {
        self.vnet
    }

    /// Reads one packet or superpacket behind its header; returns the length of both. `WouldBlock` when there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.vnet {
            return (&self.file).read(buffer);
        }
        let Some((header, packet)) = buffer.split_at_mut_checked(VNET) else { return Ok(0) };
        header.fill(0);
        Ok((&self.file).read(packet)? + VNET)
    }

    /// Writes one packet or superpacket in pieces, of which the first is its header.
    pub fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(if self.vnet { pieces } else { &pieces[1..] })
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
