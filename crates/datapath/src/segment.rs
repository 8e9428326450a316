//! Out of the TUN: a superpacket is cut into the packets it stands for, each with headers and checksums of its own (what a
//! NIC does for TSO and USO).

use std::io::IoSlice;

use crate::checksum::Sum;
use crate::packet::{CWR, FIN, Ip, PSH, TCP, UDP, read_u16, read_u32, set_length};
use crate::vnet::{Gso, VNET, VnetHeader};

/// Most bytes of headers: IPv4 and TCP with all their options are 120; IPv6 extension headers may come on top.
const MAX_HEADERS: usize = 192;

/// The superpacket makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Cuts `packet` (without its [`VnetHeader`]) and gives each piece to `emit`, in order; returns how many.
///
/// No payload is moved: each piece's headers are written right before its payload, over the end of the piece before, which
/// has been emitted by then.
pub fn segment(header: &VnetHeader, packet: &mut [u8], mut emit: impl FnMut(&mut [u8])) -> Result<usize, Malformed> {
    let start = usize::from(header.checksum_start);
    if header.gso == Gso::None {
        if header.partial_checksum {
            complete_checksum(packet, start, start + usize::from(header.checksum_offset))?;
        }
        emit(packet);
        return Ok(1);
    }
    let ip = Ip::parse(packet).ok_or(Malformed)?;
    let size = usize::from(header.segment);
    let (protocol, transport, checksum_at, known_version) = match header.gso {
        Gso::Tcp4 | Gso::Tcp6 => {
            let offset = packet.get(start + 12).ok_or(Malformed)? >> 4;
            (TCP, usize::from(offset) * 4, start + 16, ip.v6 == (header.gso == Gso::Tcp6))
        }
        Gso::Udp | Gso::None => (UDP, 8, start + 6, true),
    };
    let headers = start + transport;
    let sound = known_version && start >= ip.header && (ip.v6 || start == ip.header);
    if !sound || size == 0 || headers > MAX_HEADERS || packet.len() <= headers || (protocol == TCP && transport < 20) {
        return Err(Malformed);
    }
    let mut template = [0; MAX_HEADERS];
    template[..headers].copy_from_slice(&packet[..headers]);
    let template = &template[..headers];
    let (identification, sequence, flags) =
        (read_u16(template, 4), read_u32(template, start + 4), template[start + 13 - 6 * usize::from(protocol == UDP)]);
    let (mut at, mut count) = (headers, 0);
    while at < packet.len() {
        let end = (at + size).min(packet.len());
        let last = end == packet.len();
        let piece = &mut packet[at - headers..end];
        piece[..headers].copy_from_slice(template);
        if !ip.v6 {
            piece[4..6].copy_from_slice(&identification.wrapping_add(count as u16).to_be_bytes());
        }
        set_length(piece, &ip, end - at + headers);
        if protocol == TCP {
            piece[start + 4..start + 8].copy_from_slice(&sequence.wrapping_add((at - headers) as u32).to_be_bytes());
            let mut flags = flags;
            if !last {
                flags &= !(FIN | PSH);
            }
            if count > 0 {
                flags &= !CWR;
            }
            piece[start + 13] = flags;
        } else {
            piece[start + 4..start + 6].copy_from_slice(&((end - at + 8) as u16).to_be_bytes());
        }
        piece[checksum_at..checksum_at + 2].fill(0);
        let sum = Sum::pseudo_header(ip.addresses(piece), protocol, piece.len() - start).add(&piece[start..]).finish();
        piece[checksum_at..checksum_at + 2].copy_from_slice(&nonzero(protocol, sum));
        emit(piece);
        (at, count) = (end, count + 1);
    }
    Ok(count)
}

/// Cuts a superpacket as [`Shell::write`](crate::Shell::write) gets it, in pieces behind its header, for a device that takes none: each packet
/// goes to `emit`, with its headers and checksums complete. `None`: it is none.
pub fn cut(pieces: &[IoSlice<'_>], emit: impl FnMut(&mut [u8])) -> Option<usize> {
    let (header, rest) = pieces.split_first()?;
    let header = VnetHeader::read(header.get(..VNET)?.try_into().ok()?).filter(|header| header.gso != Gso::None)?;
    let mut packet: Vec<u8> = rest.iter().flat_map(|piece| piece.iter().copied()).collect();
    segment(&header, &mut packet, emit).ok()
}

/// UDP means by a checksum of zero that there is none (RFC 768).
#[inline]
fn nonzero(protocol: u8, checksum: [u8; 2]) -> [u8; 2] {
    if protocol == UDP && checksum == [0; 2] { [0xff; 2] } else { checksum }
}

/// Completes a checksum whose field holds the pseudo-header's sum.
fn complete_checksum(packet: &mut [u8], start: usize, at: usize) -> Result<(), Malformed> {
    if at + 2 > packet.len() || start > at {
        return Err(Malformed);
    }
    let sum = Sum::default().add(&packet[start..]).finish();
    let protocol = if at - start == 6 { UDP } else { TCP };
    packet[at..at + 2].copy_from_slice(&nonzero(protocol, sum));
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::packet::is_sound;
    use crate::packet::tests::{tcp, udp};
    use proptest::prelude::*;

    #[test]
    fn a_superpacket_of_tcp_is_cut_as_a_nic_would() {
        for v6 in [false, true] {
            let payload: Vec<u8> = (0..3000u32).map(|byte| byte as u8).collect();
            let (header, mut packet) = superpacket(&tcp(v6, 0x98, u32::MAX - 100, &payload), 1000);
            let pieces = cut(&header, &mut packet);
            assert_eq!(pieces.len(), 3);
            let mut whole = Vec::<u8>::new();
            for (index, piece) in pieces.iter().enumerate() {
                let ip = Ip::parse(piece).unwrap();
                assert_eq!(ip.length, piece.len());
                assert!(is_sound(piece, &ip));
                assert_eq!(read_u32(piece, ip.header + 4), (u32::MAX - 100).wrapping_add(1000 * index as u32));
                assert_eq!(piece[ip.header + 13], [0x90, 0x10, 0x18][index], "CWR first, PSH last");
                if !v6 {
                    assert!(Sum::default().add(&piece[..20]).is_sound());
                    assert_eq!(read_u16(piece, 4), 1 + index as u16);
                }
                whole.extend(&piece[ip.header + 20..]);
            }
            assert_eq!(whole, payload);
        }
    }

    #[test]
    fn a_superpacket_of_udp_is_cut_into_datagrams() {
        let (header, mut packet) = superpacket(&udp(true, 9, &[7; 2100]), 1000);
        let pieces = cut(&header, &mut packet);
        let expected: Vec<_> = [1000, 1000, 100].iter().map(|length| udp(true, 9, &vec![7; *length])).collect();
        assert_eq!(pieces, expected);
    }

    #[test]
    fn a_lone_packet_gets_its_checksum_completed() {
        let expected = tcp(false, 0x18, 5, b"hello");
        let (mut header, mut packet) = superpacket(&expected, 1000);
        header.gso = Gso::None;
        assert_eq!(cut(&header, &mut packet), vec![expected]);
    }

    #[test]
    fn nonsense_is_refused_without_a_panic() {
        let (good, packet) = superpacket(&tcp(false, 0x18, 5, &[1; 3000]), 1000);
        for header in [
            VnetHeader { segment: 0, ..good },
            VnetHeader { gso: Gso::Tcp6, ..good },
            VnetHeader { checksum_start: 0, ..good },
            VnetHeader { checksum_start: 60000, ..good },
            VnetHeader { gso: Gso::None, checksum_offset: 60000, ..good },
        ] {
            assert_eq!(segment(&header, &mut packet.clone(), |_| ()), Err(Malformed), "{header:?}");
        }
        for length in 0..60 {
            let _ = segment(&good, &mut packet.clone()[..length], |_| ());
        }
    }

    proptest! {
        #[test]
        fn garbage_is_cut_or_refused_but_never_a_panic(
            kind in 0usize..4,
            partial_checksum: bool,
            words in prop::array::uniform4(0u16..200),
            mut packet in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            if let Some(first) = packet.first_mut() {
                *first = [0x45, 0x60, 0x4f, *first][usize::from(*first & 3)];
            }
            let header = VnetHeader {
                partial_checksum,
                gso: [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp][kind],
                header_length: words[0],
                segment: words[1],
                checksum_start: words[2],
                checksum_offset: words[3],
            };
            let length = packet.len();
            let mut emitted = 0;
            let result = segment(&header, &mut packet, |piece| {
                assert!(piece.len() <= length);
                emitted += 1;
            });
            prop_assert_eq!(result.unwrap_or(0), emitted);
        }
    }

    /// The packet as the kernel hands it over: pseudo-header's sum in the checksum's place.
    pub fn superpacket(packet: &[u8], segment: u16) -> (VnetHeader, Vec<u8>) {
        let mut packet = packet.to_vec();
        let ip = Ip::parse(&packet).unwrap();
        let offset = if ip.protocol == TCP { 16 } else { 6 };
        let partial = Sum::pseudo_header(ip.addresses(&packet), ip.protocol, packet.len() - ip.header).partial();
        packet[ip.header + offset..ip.header + offset + 2].copy_from_slice(&partial);
        let gso = match (ip.protocol, ip.v6) {
            (TCP, false) => Gso::Tcp4,
            (TCP, true) => Gso::Tcp6,
            _ => Gso::Udp,
        };
        let header = VnetHeader {
            partial_checksum: true,
            gso,
            header_length: 0,
            segment,
            checksum_start: ip.header as u16,
            checksum_offset: offset as u16,
        };
        (header, packet)
    }

    fn cut(header: &VnetHeader, packet: &mut [u8]) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let count = segment(header, packet, |piece| pieces.push(piece.to_vec())).unwrap();
        assert_eq!(count, pieces.len());
        pieces
    }
}
