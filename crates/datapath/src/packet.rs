//! What is read and changed in IP packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::Sum;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// TCP flags (RFC 9293 §3.1).
pub(crate) const FIN: u8 = 0x01;
/// Synchronise.
pub(crate) const SYN: u8 = 0x02;
/// Push.
pub(crate) const PSH: u8 = 0x08;
/// Acknowledgement.
pub(crate) const ACK: u8 = 0x10;
/// Congestion window reduced (RFC 3168).
pub(crate) const CWR: u8 = 0x80;

/// What an IP header says. IPv6 extension headers count as transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// IPv6, not IPv4.
    pub v6: bool,
    /// Bytes of the IP header: where the transport begins.
    pub header: usize,
    /// Protocol, or next header.
    pub protocol: u8,
    /// Bytes of the packet, by its own account.
    pub length: usize,
    /// Part of a fragmented packet (IPv4).
    pub fragment: bool,
}

impl Ip {
    /// Reads the header; `None` if `packet` is no sound IP packet or shorter than its header says.
    #[inline]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let ip = match first >> 4 {
            4 if packet.len() >= 20 => Self {
                v6: false,
                header: usize::from(first & 15) * 4,
                protocol: packet[9],
                length: usize::from(read_u16(packet, 2)),
                fragment: read_u16(packet, 6) & 0x3fff != 0,
            },
            6 if packet.len() >= 40 => {
                Self { v6: true, header: 40, protocol: packet[6], length: usize::from(read_u16(packet, 4)) + 40, fragment: false }
            }
            _ => return None,
        };
        (ip.header >= 20 && ip.length >= ip.header && packet.len() >= ip.header).then_some(ip)
    }

    /// Source and destination, as they stand in the packet that this was read from.
    #[inline]
    pub fn addresses<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        if self.v6 { &packet[8..40] } else { &packet[12..20] }
    }

    /// Where it comes from.
    #[inline]
    pub fn source(&self, packet: &[u8]) -> IpAddr {
        address(&self.addresses(packet)[..if self.v6 { 16 } else { 4 }])
    }

    /// Where it goes.
    #[inline]
    pub fn destination(&self, packet: &[u8]) -> IpAddr {
        address(&self.addresses(packet)[if self.v6 { 16 } else { 4 }..])
    }
}

#[inline]
fn address(octets: &[u8]) -> IpAddr {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return IpAddr::V4(Ipv4Addr::from(octets));
    }
    <[u8; 16]>::try_from(octets).map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |octets| IpAddr::V6(Ipv6Addr::from(octets)))
}

/// A big-endian 16-bit number; 0 beyond the end.
#[inline]
pub(crate) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// A big-endian 32-bit number; 0 beyond the end.
#[inline]
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Writes the packet's length (of `packet` as it is, or `length`) and, for IPv4, the header's checksum.
#[inline]
pub(crate) fn set_length(packet: &mut [u8], ip: &Ip, length: usize) {
    if ip.v6 {
        packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
    } else {
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet[10..12].fill(0);
        let checksum = Sum::default().add(&packet[..ip.header]).finish();
        packet[10..12].copy_from_slice(&checksum);
    }
}

/// Whether the transport's checksum (TCP or UDP, at `ip.header`) is right.
#[inline]
pub fn is_sound(packet: &[u8], ip: &Ip) -> bool {
    Sum::pseudo_header(ip.addresses(packet), ip.protocol, packet.len() - ip.header).add(&packet[ip.header..]).is_sound()
}

/// Lowers the MSS that a TCP SYN announces to what fits an MTU of `mtu` bytes (RFC 9293 §3.7.1). `partial_checksum`: the
/// checksum is still to be completed over the whole, so it needs no correction.
pub fn clamp_mss(packet: &mut [u8], ip: &Ip, mtu: u16, partial_checksum: bool) {
    let tcp = ip.header;
    if ip.protocol != TCP || ip.fragment || packet.len() < tcp + 20 || packet[tcp + 13] & SYN == 0 {
        return;
    }
    let end = (tcp + usize::from(packet[tcp + 12] >> 4) * 4).min(packet.len());
    let most = mtu.saturating_sub(tcp as u16 + 20);
    let mut at = tcp + 20;
    while at < end {
        match (packet[at], packet.get(at + 1)) {
            (0, _) => return,
            (1, _) => at += 1,
            (2, Some(4)) if at + 4 <= end => {
                let announced = read_u16(packet, at + 2);
                if announced > most {
                    packet[at + 2..at + 4].copy_from_slice(&most.to_be_bytes());
                    if !partial_checksum {
                        // RFC 1624: HC' = ~(~HC + ~m + m'). An option at an odd offset has its bytes swapped in the sum.
                        let (old, new) =
                            if (at - tcp).is_multiple_of(2) { (announced, most) } else { (announced.swap_bytes(), most.swap_bytes()) };
                        let sum = Sum::default().add_u16(!read_u16(packet, tcp + 16)).add_u16(!old).add_u16(new);
                        packet[tcp + 16..tcp + 18].copy_from_slice(&sum.finish());
                    }
                }
                return;
            }
            (_, Some(length)) if *length >= 2 => at += usize::from(*length),
            _ => return,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn a_syn_is_clamped_and_stays_sound() {
        for v6 in [false, true] {
            for padding in [0, 1] {
                let mut packet = tcp(v6, SYN, 1, &[]);
                let ip = Ip::parse(&packet).unwrap();
                let mut options = vec![1; padding];
                options.extend([2, 4, 0x23, 0x00, 3, 3, 7]);
                options.resize(8, 1);
                packet.extend(&options);
                packet[ip.header + 12] = 7 << 4;
                seal(&mut packet);
                let ip = Ip::parse(&packet).unwrap();
                clamp_mss(&mut packet, &ip, 1280, false);
                assert!(is_sound(&packet, &ip));
                assert_eq!(read_u16(&packet, ip.header + 20 + padding + 2), if v6 { 1220 } else { 1240 });
                let before = packet.clone();
                clamp_mss(&mut packet, &ip, 1400, false);
                assert_eq!(packet, before, "an MSS is never raised");
            }
        }
    }

    #[test]
    fn garbage_is_no_packet() {
        assert_eq!(Ip::parse(&[]), None);
        assert_eq!(Ip::parse(&[0x45; 19]), None);
        assert_eq!(Ip::parse(&[0x60; 39]), None);
        assert_eq!(Ip::parse(&[0x41; 60]), None, "header too short");
        for length in 0..80 {
            for first in [0x45, 0x4f, 0x60] {
                let mut packet = vec![0x06; length];
                if let Some(byte) = packet.first_mut() {
                    *byte = first;
                }
                if let Some(ip) = Ip::parse(&packet) {
                    clamp_mss(&mut packet, &ip, 1280, false);
                }
            }
        }
    }

    /// A TCP packet, sound.
    pub fn tcp(v6: bool, flags: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut transport = vec![0x30, 0x39, 0, 80];
        transport.extend(sequence.to_be_bytes());
        transport.extend([0, 0, 0, 9, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        transport.extend(payload);
        ip(v6, TCP, &transport)
    }

    /// A UDP packet, sound.
    pub fn udp(v6: bool, source: u16, payload: &[u8]) -> Vec<u8> {
        let mut transport = source.to_be_bytes().to_vec();
        transport.extend([0, 53]);
        transport.extend((payload.len() as u16 + 8).to_be_bytes());
        transport.extend([0, 0]);
        transport.extend(payload);
        ip(v6, UDP, &transport)
    }

    fn ip(v6: bool, protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut packet = if v6 {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header.extend([0xfd; 16]);
            header.extend([0xfc; 16]);
            header
        } else {
            vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
        };
        packet.extend(transport);
        seal(&mut packet);
        packet
    }

    /// Sets lengths and checksums.
    pub fn seal(packet: &mut [u8]) {
        let v6 = packet[0] >> 4 == 6;
        let header = if v6 { 40 } else { 20 };
        let length = packet.len();
        let protocol = if v6 { packet[6] } else { packet[9] };
        let parsed = Ip { v6, header, protocol, length, fragment: false };
        set_length(packet, &parsed, length);
        let at = header + if protocol == TCP { 16 } else { 6 };
        packet[at..at + 2].fill(0);
        let sum = Sum::pseudo_header(parsed.addresses(packet), protocol, length - header).add(&packet[header..]).finish();
        packet[at..at + 2].copy_from_slice(&sum);
    }
}
