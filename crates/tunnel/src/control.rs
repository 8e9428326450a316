//! Packets of the mesh itself inside a WireGuard session: probes, candidates, `punch`, goodbye.
//!
//! WireGuard carries IP packets and nothing else, so a control packet is an IPv6 packet that no application can mean: from
//! and to fixed link-local addresses, next header 253 (RFC 3692: experimentation). It is taken out before the source
//! check and never reaches the TUN.

/// Bytes before the payload: one IPv6 header.
pub const HEADER: usize = 40;

/// IPv6 next header 253, "use for experimentation and testing" (RFC 3692, RFC 4727).
pub const NEXT_HEADER: u8 = 253;

const SOURCE: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xcf, 0, 1];
const DESTINATION: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xcf, 0, 2];

/// Wraps `payload` (at most 65,495 bytes) as a control packet.
pub fn wrap(payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER + payload.len());
    packet.extend_from_slice(&[0x60, 0, 0, 0]);
    packet.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
    packet.extend_from_slice(&[NEXT_HEADER, 255]);
    packet.extend_from_slice(&SOURCE);
    packet.extend_from_slice(&DESTINATION);
    packet.extend_from_slice(payload);
    packet
}

/// The payload, if `packet` (an inner packet that has been opened) is a control packet.
#[inline]
pub fn unwrap(packet: &[u8]) -> Option<&[u8]> {
    if packet.len() < HEADER || packet[0] >> 4 != 6 || packet[6] != NEXT_HEADER {
        return None;
    }
    (packet[8..24] == SOURCE && packet[24..40] == DESTINATION).then(|| &packet[HEADER..])
}
