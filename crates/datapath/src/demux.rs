//! What a datagram is (docs/protocol.md, "On the wire").

/// A datagram's, or a stream frame's, kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// WireGuard, types 1–4.
    WireGuard(&'a [u8]),
    /// ChannelData from a server (RFC 8656 §12.4), without its header and padding.
    Channel(u16, &'a [u8]),
    /// STUN from a server (RFC 8489 §5).
    Stun(&'a [u8]),
    /// Anything else.
    Unrecognised,
}

/// Tells them apart. `server`: whether it came from one; STUN and ChannelData are taken from servers alone.
#[inline]
pub fn classify(datagram: &[u8], server: bool) -> Kind<'_> {
    if is_wireguard(datagram) {
        return Kind::WireGuard(datagram);
    }
    if server {
        return match datagram {
            [0x40..=0x4f, _, _, _, ..] => {
                let length = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
                let channel = u16::from_be_bytes([datagram[0], datagram[1]]);
                datagram.get(4..4 + length).map_or(Kind::Unrecognised, |payload| Kind::Channel(channel, payload))
            }
            _ if is_stun(datagram) => Kind::Stun(datagram),
            _ => Kind::Unrecognised,
        };
    }
    Kind::Unrecognised
}

/// A WireGuard message, by type, reserved bytes and length.
#[inline]
pub fn is_wireguard(bytes: &[u8]) -> bool {
    matches!((bytes, bytes.len()), ([4, 0, 0, 0, ..], 32..) | ([1, 0, 0, 0, ..], 148) | ([2, 0, 0, 0, ..], 92) | ([3, 0, 0, 0, ..], 64))
}

fn is_stun(bytes: &[u8]) -> bool {
    bytes.len() >= 20
        && bytes[0] < 4
        && usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) == bytes.len() - 20
        && bytes.len().is_multiple_of(4)
        && bytes[4..8] == [0x21, 0x12, 0xa4, 0x42]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wireguard_is_known_by_type_and_length() {
        for (kind, length, is) in [
            (1, 148, true),
            (1, 147, false),
            (2, 92, true),
            (3, 64, true),
            (4, 32, true),
            (4, 31, false),
            (4, 1500, true),
            (5, 148, false),
            (0, 148, false),
        ] {
            let mut bytes = vec![0; length];
            bytes[0] = kind;
            for server in [false, true] {
                assert_eq!(classify(&bytes, server) == Kind::WireGuard(&bytes), is, "type {kind}, {length} bytes");
            }
            bytes[2] = 1;
            assert_eq!(classify(&bytes, false), Kind::Unrecognised);
        }
    }

    #[test]
    fn channel_data_counts_from_servers_alone() {
        let frame = [0x40, 0x01, 0, 3, 7, 8, 9, 0];
        assert_eq!(classify(&frame, true), Kind::Channel(0x4001, &[7, 8, 9]));
        assert_eq!(classify(&frame, false), Kind::Unrecognised);
        assert_eq!(classify(&frame[..6], true), Kind::Unrecognised, "longer than the datagram");
        assert_eq!(classify(&[0x50, 0, 0, 0], true), Kind::Unrecognised);
    }

    #[test]
    fn stun_counts_from_servers_alone_and_with_the_right_length() {
        let mut message = vec![0x01, 0x01, 0, 4, 0x21, 0x12, 0xa4, 0x42];
        message.resize(24, 0);
        assert_eq!(classify(&message, true), Kind::Stun(&message));
        assert_eq!(classify(&message, false), Kind::Unrecognised);
        assert_eq!(classify(&message[..23], true), Kind::Unrecognised);
        message[4] = 0;
        assert_eq!(classify(&message, true), Kind::Unrecognised);
        for length in 0..24 {
            classify(&message[..length], true);
        }
    }
}
