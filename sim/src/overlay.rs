//! What applications say over the overlay: pings, in small IP packets.

use std::net::IpAddr;

use campfire_datapath::packet::Ip;

/// Smallest ping: an IPv6 header, kind and id.
pub const SMALLEST: usize = 40 + 16;

const PING: u8 = 128;
const PONG: u8 = 129;

/// A ping or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// The answer.
    pub is_reply: bool,
    /// Which ping.
    pub id: u64,
    /// Bytes of the IP packet.
    pub size: usize,
}

impl Echo {
    /// As an IP packet of `size` bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut packet = vec![0; self.size.max(SMALLEST)];
        let length = packet.len();
        let header = match (self.source, self.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet[0] = 0x60;
                packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
                packet[6] = 58;
                packet[7] = 64;
                packet[8..24].copy_from_slice(&source.octets());
                packet[24..40].copy_from_slice(&destination.octets());
                40
            }
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet[0] = 0x45;
                packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                packet[8] = 64;
                packet[9] = 1;
                packet[12..16].copy_from_slice(&source.octets());
                packet[16..20].copy_from_slice(&destination.octets());
                20
            }
            _ => return Vec::new(),
        };
        packet[header] = if self.is_reply { PONG } else { PING };
        packet[header + 8..header + 16].copy_from_slice(&self.id.to_be_bytes());
        packet
    }

    /// Reads an IP packet.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let ip = Ip::parse(packet)?;
        let (source, destination) = (ip.source(packet), ip.destination(packet));
        let is_reply = match *packet.get(ip.header)? {
            PING => false,
            PONG => true,
            _ => return None,
        };
        let id = u64::from_be_bytes(packet.get(ip.header + 8..ip.header + 16)?.try_into().ok()?);
        Some(Self { source, destination, is_reply, id, size: packet.len() })
    }

    /// The answer to it.
    #[must_use]
    pub fn reply(&self) -> Self {
        Self { source: self.destination, destination: self.source, is_reply: true, ..*self }
    }
}
