//! Cutting a TCP or TLS stream to a server into frames: STUN messages and ChannelData padded to four bytes (RFC 8656
//! §12.5, RFC 8489 §6.2.2).

/// The longest STUN message that a server has reason to send, in bytes.
const MAX_STUN: usize = 2_048;
/// The longest ChannelData payload: the largest MTU and what WireGuard adds, in bytes.
const MAX_CHANNEL: usize = 9_216;
/// STUN's magic cookie (RFC 8489 §5).
const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

/// A frame, whole and without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A STUN message.
    Stun(&'a [u8]),
    /// ChannelData: header and payload.
    Channel(&'a [u8]),
}

/// The stream carries something else: it cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// First byte of neither.
    #[error("the server sends neither STUN nor ChannelData (first byte {0:#04x})")]
    Unknown(u8),
    /// STUN without its cookie, of odd length or too long.
    #[error("the server sends a malformed STUN message")]
    Stun,
    /// ChannelData longer than any packet.
    #[error("the server sends something else than STUN and ChannelData")]
    Channel,
}

/// Bytes as they come, frames as they are whole. Holds at most one frame and one read.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    start: usize,
}

impl Framer {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None`: read on.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let Some(&[first, _, high, low]) = rest.first_chunk::<4>() else {
            // Bad streams are known by their first byte.
            return match rest.first() {
                Some(&first) if first >= 0x50 => Err(FrameError::Unknown(first)),
                _ => Ok(None),
            };
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (size, padded) = match first {
            0x00..=0x3F => {
                let size = 20 + length;
                if length % 4 != 0 || size > MAX_STUN || rest.get(4..8).is_some_and(|cookie| cookie != COOKIE) {
                    return Err(FrameError::Stun);
                }
                (size, size)
            }
            0x40..=0x4F if length > MAX_CHANNEL => return Err(FrameError::Channel),
            0x40..=0x4F => (4 + length, (4 + length).next_multiple_of(4)),
            other => return Err(FrameError::Unknown(other)),
        };
        if rest.len() < padded {
            return Ok(None);
        }
        let from = self.start;
        self.start += padded;
        let frame = self.buffer.get(from..from + size).unwrap_or_default();
        Ok(Some(if first < 0x40 { Frame::Stun(frame) } else { Frame::Channel(frame) }))
    }
}

/// Adds the padding that ChannelData needs on a stream; STUN messages are multiples of four already.
pub fn pad(frame: &mut Vec<u8>) {
    frame.resize(frame.len().next_multiple_of(4), 0);
}

/// How many ChannelData frames a batch of padded ones holds.
pub fn count(batch: &[u8]) -> u64 {
    let mut rest = batch;
    let mut frames = 0;
    while let Some(&[_, _, high, low]) = rest.first_chunk::<4>() {
        let size = (4 + usize::from(u16::from_be_bytes([high, low]))).next_multiple_of(4);
        rest = rest.get(size..).unwrap_or_default();
        frames += 1;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_the_stream_is_cut() {
        let mut stream = stun(8);
        stream.extend(channel(0x4001, b"12345"));
        stream.extend(channel(0x4002, b""));
        stream.extend(stun(0));
        for piece in 1..stream.len() {
            let mut framer = Framer::default();
            let mut seen = Vec::new();
            for bytes in stream.chunks(piece) {
                framer.push(bytes);
                while let Some(frame) = framer.next_frame().expect("sound") {
                    seen.push(match frame {
                        Frame::Stun(message) => ("stun", message.to_vec()),
                        Frame::Channel(frame) => ("channel", frame.to_vec()),
                    });
                }
            }
            let expected = vec![
                ("stun", stun(8)),
                ("channel", b"\x40\x01\x00\x0512345".to_vec()),
                ("channel", b"\x40\x02\x00\x00".to_vec()),
                ("stun", stun(0)),
            ];
            assert_eq!(seen, expected, "cut into pieces of {piece}");
        }
    }

    #[test]
    fn a_stream_of_something_else_is_an_error_at_its_first_bytes() {
        assert_eq!(next(b"HTTP/1.1 400 Bad Request"), Err(FrameError::Channel));
        assert_eq!(next(&[0x80]), Err(FrameError::Unknown(0x80)));
        assert_eq!(next(&[0x50, 0, 0, 0]), Err(FrameError::Unknown(0x50)));
        assert_eq!(next(&[0x00, 0x01, 0x00, 0x08, 0x21, 0x12, 0xA4, 0x43]), Err(FrameError::Stun));
        assert_eq!(next(&[0x00, 0x01, 0x00, 0x07, 0x21, 0x12, 0xA4, 0x42]), Err(FrameError::Stun));
        assert_eq!(next(&[0x00, 0x01, 0xFF, 0xFC, 0x21, 0x12, 0xA4, 0x42]), Err(FrameError::Stun));
    }

    #[test]
    fn frames_of_a_batch_are_counted() {
        let mut batch = channel(0x4001, b"12345");
        batch.extend(channel(0x4001, &[7; 1200]));
        assert_eq!(count(&batch), 2);
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[0x40, 1, 0xFF, 0xFF]), 1);
    }

    fn next(bytes: &[u8]) -> Result<bool, FrameError> {
        let mut framer = Framer::default();
        framer.push(bytes);
        framer.next_frame().map(|frame| frame.is_some())
    }

    fn stun(length: u16) -> Vec<u8> {
        let mut message = vec![0x00, 0x01];
        message.extend(length.to_be_bytes());
        message.extend(COOKIE);
        message.resize(20 + usize::from(length), 9);
        message
    }

    fn channel(number: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = number.to_be_bytes().to_vec();
        frame.extend(u16::try_from(payload.len()).expect("short").to_be_bytes());
        frame.extend(payload);
        pad(&mut frame);
        frame
    }
}
