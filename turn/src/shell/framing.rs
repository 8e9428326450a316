//! Cuts a byte stream into STUN messages and ChannelData (RFC 8656 §12.5: on streams ChannelData is padded to four bytes).

/// The longest frame: ChannelData of 65,535 bytes, padded; any STUN message that fits a relayed datagram is shorter.
pub const MAX_FRAME: usize = 4 + 65_536;

/// The stream carries something that is neither; nothing behind it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a STUN message nor ChannelData")]
pub struct Malformed;

/// A frame at the beginning of a stream's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its length without padding.
    pub length: usize,
    /// Bytes of the stream that it takes, padding included.
    pub total: usize,
}

/// Looks at the first frame; `None`: too few bytes to tell its length.
pub fn first_frame(bytes: &[u8]) -> Result<Option<Frame>, Malformed> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let length = |bytes: &[u8]| bytes.get(2..4).map(|field| usize::from(field[0]) << 8 | usize::from(field[1]));
    match first {
        0x00..=0x3F => {
            // Wrong cookies are noticed before a length is believed.
            if bytes.get(4..8).is_some_and(|cookie| cookie != [0x21, 0x12, 0xA4, 0x42]) {
                return Err(Malformed);
            }
            match length(bytes) {
                Some(length) if length % 4 != 0 => Err(Malformed),
                Some(length) if 20 + length > MAX_FRAME => Err(Malformed),
                Some(length) => Ok(Some(Frame { length: 20 + length, total: 20 + length })),
                None => Ok(None),
            }
        }
        0x40..=0x7F => Ok(length(bytes).map(|length| Frame { length: 4 + length, total: 4 + length.next_multiple_of(4) })),
        _ => Err(Malformed),
    }
}

/// Whether a stream may begin so: with a STUN message, for no channel can be bound yet. A browser's `GET` would pass for
/// ChannelData.
pub fn may_begin(bytes: &[u8]) -> Result<(), Malformed> {
    if bytes.first().is_none_or(|first| *first < 0x40) { Ok(()) } else { Err(Malformed) }
}

/// How many bytes at the beginning are whole frames.
pub fn whole_frames(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut end = 0;
    while let Some(frame) = first_frame(bytes.get(end..).unwrap_or_default())? {
        if end + frame.total > bytes.len() {
            break;
        }
        end += frame.total;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_data_takes_its_padding_along() {
        let bytes = [0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 0x40];
        assert_eq!(first_frame(&bytes), Ok(Some(Frame { length: 9, total: 12 })));
        assert_eq!(whole_frames(&bytes), Ok(12));
        assert_eq!(whole_frames(&bytes[..11]), Ok(0));
    }

    #[test]
    fn messages_are_cut_one_after_the_other() {
        let mut bytes = stun(8);
        bytes.extend([0x4F, 0xFF, 0, 0]);
        bytes.extend(stun(0));
        bytes.extend([0x00, 0x01]);
        assert_eq!(whole_frames(&bytes), Ok(28 + 4 + 20));
    }

    #[test]
    fn what_is_neither_is_refused_at_the_first_byte_that_shows_it() {
        assert_eq!(may_begin(b"GET / HTTP/1.1"), Err(Malformed));
        assert_eq!(may_begin(&[0x01]), Ok(()));
        assert_eq!(may_begin(b"SSH-2.0"), Err(Malformed));
        assert_eq!(first_frame(&[0x80]), Err(Malformed));
        assert_eq!(first_frame(&[0x00, 0x01, 0x00, 0x03]), Err(Malformed), "length not a multiple of four");
        assert_eq!(first_frame(&[0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xA4, 0x43]), Err(Malformed), "cookie");
        assert_eq!(first_frame(&[0x00, 0x01, 0x00]), Ok(None));
    }

    fn stun(length: u16) -> Vec<u8> {
        let mut bytes = vec![0, 1];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0x21, 0x12, 0xA4, 0x42]);
        bytes.resize(20 + usize::from(length), 0);
        bytes
    }
}
