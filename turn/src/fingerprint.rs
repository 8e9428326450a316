//! FINGERPRINT (RFC 8489 §14.7): checked when present, and answered with one.

use campfire_protocol::stun::{Attribute, Message};

/// What a message says of its own integrity against accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fingerprint {
    Absent,
    Right,
    Wrong,
}

/// Type and length of the attribute.
const HEAD: [u8; 4] = [0x80, 0x28, 0, 4];

/// Looks for the attribute, which must be the last.
pub(crate) fn check(message: &Message) -> Fingerprint {
    if message.get(Attribute::FINGERPRINT).is_none() {
        return Fingerprint::Absent;
    }
    match message.as_bytes().split_last_chunk::<8>() {
        Some((before, [h0, h1, h2, h3, value @ ..])) if [*h0, *h1, *h2, *h3] == HEAD && *value == of(before) => Fingerprint::Right,
        _ => Fingerprint::Wrong,
    }
}

/// Adds the attribute to a whole message.
pub(crate) fn append(message: &mut Vec<u8>) {
    let Some(length) = message.len().checked_sub(12).and_then(|length| u16::try_from(length).ok()) else { return };
    message[2..4].copy_from_slice(&length.to_be_bytes());
    let value = of(message);
    message.extend_from_slice(&HEAD);
    message.extend_from_slice(&value);
}

/// CRC-32 (ITU V.42) XOR "STUN".
fn of(bytes: &[u8]) -> [u8; 4] {
    let step = |crc: u32, byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8;
    (!bytes.iter().fold(!0, step) ^ 0x5354_554E).to_be_bytes()
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xEDB8_8320 ^ crc >> 1 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use campfire_protocol::stun::{Builder, Class, Method, TransactionId};

    use super::*;

    #[test]
    fn the_crc_is_that_of_v42() {
        assert_eq!(u32::from_be_bytes(of(b"123456789")) ^ 0x5354_554E, 0xCBF4_3926);
    }

    #[test]
    fn a_fingerprint_of_ours_is_right_and_any_flipped_bit_is_seen() {
        let mut bytes = Builder::new(Class::Request, Method::BINDING, TransactionId([9; 12])).u32(Attribute::LIFETIME, 7).finish();
        assert_eq!(check(&Message::parse(&bytes).expect("whole")), Fingerprint::Absent);
        append(&mut bytes);
        assert_eq!(check(&Message::parse(&bytes).expect("whole")), Fingerprint::Right);
        for at in [9, 26, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(check(&Message::parse(&flipped).expect("whole")), Fingerprint::Wrong, "byte {at}");
        }
    }
}
