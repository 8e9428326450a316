//! `virtio_net_hdr`: what comes before each packet on a TUN device that takes superpackets (virtio 1.2 §5.1.6).

/// Bytes of a [`VnetHeader`].
pub const VNET: usize = 10;

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
