//! What the kubelet calls us (`:authority`), made into something that an HTTP/2 server may read.
//!
//! To the registration socket the kubelet connects by its path, and Go's gRPC then sends that path, percent-encoded, as the authority. That is none by
//! RFC 3986 (§3.2.2 has no `%2F`), and `h2` refuses the request as malformed. Nobody here looks at it, so it is overwritten as it comes in:
//! each value of `:authority` that is spelt out (RFC 7541 §6.2, by its index in the static table) becomes as many `x` as it has bytes, without
//! Huffman's code. Lengths stay, so nothing has to be held back; what the decoder's table holds is never larger than what the encoder's does, as long
//! as that codes by Huffman only what becomes shorter.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes before the first frame (RFC 9113 §3.4).
const PREFACE: u32 = 24;
/// Bytes of a frame's header (RFC 9113 §4.1).
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// Of `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY: u32 = 1;

/// Overwrites authorities in what a client sends.
#[derive(Debug)]
pub struct Overwriter {
    frames: Frames,
    fields: Fields,
}

/// Where in the stream of frames we are.
#[derive(Debug)]
enum Frames {
    Preface(u32),
    Header {
        bytes: [u8; FRAME_HEADER],
        filled: usize,
    },
    /// The length of what pads the frame comes.
    PadLength {
        rest: u32,
        priority: bool,
    },
    /// Bytes that are no fields, then fields, then padding.
    Payload {
        skip: u32,
        fields: u32,
        padding: u32,
    },
}

/// Where in a block of fields we are.
#[derive(Clone, Copy, Debug)]
enum Fields {
    /// A representation begins.
    Begin,
    /// A number goes on: `then` whatever it is for.
    Number { value: u32, shift: u32, then: After },
    /// A string's first byte comes.
    Length { of: Text },
    /// A string.
    Bytes { left: u32, of: Text },
}

/// What a number was for.
#[derive(Clone, Copy, Debug)]
enum After {
    /// An index or a table's size: nothing follows.
    Nothing,
    /// The index of a literal's name, 0: the name follows.
    Name,
    /// The length of a string.
    String(Text),
}

/// Which string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Name,
    Value,
    Authority,
}

impl Default for Overwriter {
    fn default() -> Self {
        Self { frames: Frames::Preface(PREFACE), fields: Fields::Begin }
    }
}

impl Overwriter {
    /// Goes over the next bytes of the stream, however they come.
    pub fn pass(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.step(byte);
        }
    }

    fn step(&mut self, byte: &mut u8) {
        match &mut self.frames {
            Frames::Preface(left) => {
                *left -= 1;
                if *left == 0 {
                    self.next_frame();
                }
            }
            Frames::Header { bytes, filled } => {
                bytes[*filled] = *byte;
                *filled += 1;
                if *filled == FRAME_HEADER {
                    let header = *bytes;
                    self.begin_frame(header);
                }
            }
            Frames::PadLength { rest, priority } => {
                let (padding, before) = (u32::from(*byte), if *priority { 5 } else { 0 });
                let (skip, rest) = (before.min(*rest), rest.saturating_sub(before));
                self.frames = Frames::Payload { skip, fields: rest.saturating_sub(padding), padding: padding.min(rest) };
                self.end_if_empty();
            }
            Frames::Payload { skip, fields, padding } => {
                if *skip > 0 {
                    *skip -= 1;
                } else if *fields > 0 {
                    *fields -= 1;
                    self.fields.step(byte);
                } else {
                    *padding = padding.saturating_sub(1);
                }
                self.end_if_empty();
            }
        }
    }

    fn next_frame(&mut self) {
        self.frames = Frames::Header { bytes: [0; FRAME_HEADER], filled: 0 };
    }

    fn begin_frame(&mut self, header: [u8; FRAME_HEADER]) {
        let [a, b, c, kind, flags, ..] = header;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.frames = match kind {
            HEADERS => {
                // A block begins: whatever was wrong with the one before.
                self.fields = Fields::Begin;
                let priority = flags & PRIORITY != 0;
                if flags & PADDED != 0 && length > 0 {
                    Frames::PadLength { rest: length - 1, priority }
                } else {
                    let skip = if priority { 5.min(length) } else { 0 };
                    Frames::Payload { skip, fields: length - skip, padding: 0 }
                }
            }
            CONTINUATION => Frames::Payload { skip: 0, fields: length, padding: 0 },
            _ => Frames::Payload { skip: length, fields: 0, padding: 0 },
        };
        self.end_if_empty();
    }

    fn end_if_empty(&mut self) {
        if let Frames::Payload { skip: 0, fields: 0, padding: 0 } = self.frames {
            self.next_frame();
        }
    }
}

impl Fields {
    fn step(&mut self, byte: &mut u8) {
        *self = match *self {
            // RFC 7541 §6: what it is, by its first bits, and the number in the rest.
            Self::Begin => match *byte {
                first if first & 0x80 != 0 => Self::number(first, 0x7f, After::Nothing),
                first if first & 0xc0 == 0x40 => Self::number(first, 0x3f, After::Name),
                first if first & 0xe0 == 0x20 => Self::number(first, 0x1f, After::Nothing),
                first => Self::number(first, 0x0f, After::Name),
            },
            Self::Number { value, shift, then } => {
                // Longer numbers than a frame may have fields are the decoder's to refuse.
                let value = value.saturating_add(u32::from(*byte & 0x7f).checked_shl(shift).unwrap_or(u32::MAX));
                if *byte & 0x80 == 0 { Self::after(value, then) } else { Self::Number { value, shift: shift.saturating_add(7), then } }
            }
            Self::Length { of } => {
                let first = *byte;
                if of == Text::Authority {
                    // The bits of Huffman's code are gone with the bytes.
                    *byte &= 0x7f;
                }
                Self::number(first, 0x7f, After::String(of))
            }
            Self::Bytes { left, of } => {
                if of == Text::Authority {
                    *byte = b'x';
                }
                Self::string(left - 1, of)
            }
        };
    }

    /// RFC 7541 §5.1: a number that begins in the low bits of a byte.
    fn number(first: u8, mask: u8, then: After) -> Self {
        if first & mask == mask {
            Self::Number { value: u32::from(mask), shift: 0, then }
        } else {
            Self::after(u32::from(first & mask), then)
        }
    }

    fn after(value: u32, then: After) -> Self {
        match then {
            After::Nothing => Self::Begin,
            After::Name if value == 0 => Self::Length { of: Text::Name },
            After::Name if value == AUTHORITY => Self::Length { of: Text::Authority },
            After::Name => Self::Length { of: Text::Value },
            After::String(of) => Self::string(value, of),
        }
    }

    /// With so much of a string to come.
    fn string(left: u32, of: Text) -> Self {
        match (left, of) {
            (0, Text::Name) => Self::Length { of: Text::Value },
            (0, Text::Value | Text::Authority) => Self::Begin,
            (left, of) => Self::Bytes { left, of },
        }
    }
}

/// A connection on which what the client calls us is overwritten.
#[derive(Debug)]
pub struct Overwritten<S> {
    stream: S,
    overwriter: Overwriter,
}

impl<S> Overwritten<S> {
    /// From its first byte on.
    pub fn new(stream: S) -> Self {
        Self { stream, overwriter: Overwriter::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Overwritten<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(new) = buffer.filled_mut().get_mut(before..) {
            self.overwriter.pass(new);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overwritten<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kubelet of 1.35 (grpc-go 1.72) sends to be told of a plugin: preface, SETTINGS, their acknowledgement, then the fields of `GetInfo`, with
    /// `%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fnode.campfire.network-reg.sock` as the authority, coded by Huffman in 54 bytes.
    const SENT: &str = "505249202a20485454502f322e300d0a0d0a534d0d0a0d0a000000040000000000000000040100000000000093010400000001\
        8386459c62ba2d98d558598c84d83498f52fb4b31909b06931ea63115392a94f41b654587b8ec545868346a8b0f5b632d054aa2c35d16cc6a91158598c84d9e95161\
        a8f215720e9ae535855ea2a7c1eceab58599741c9d7f5f901d75d0620d263d4c4d6564ff75d8749f7a8a9acac8b4c7602bba25c540027465864d833505b11f408\
        99acac8b24d494f6a7f8665f79f0b2edb0000050001000000010000000000";
    /// Before the length of the authority: two frames, a header and three fields.
    const AT: usize = 24 + 9 + 9 + 9 + 33;

    #[test]
    fn of_what_a_kubelet_sends_the_authority_alone_is_overwritten() {
        let sent = bytes(SENT);
        assert_eq!(sent[AT - 1..=AT], [0x41, 0x80 + 54]);
        let wanted = [&sent[..AT], &[54], &[b'x'; 54], &sent[AT + 55..]].concat();
        for piece in [1, 2, 3, 7, 64, sent.len()] {
            assert_eq!(passed(&sent, piece), wanted, "in pieces of {piece}");
        }
        // The next request on that connection names it by its place in the table.
        let next = frame(HEADERS, 4, &[0x83, 0x86, 0xbe, 0xc0]);
        assert_eq!(passed(&[&sent[..], &next].concat(), 64), [&wanted[..], &next].concat());
    }

    #[test]
    fn it_is_found_in_each_form_that_fields_may_have() {
        let begin = &bytes(SENT)[..24];
        for first in [0x41, 0x01, 0x11] {
            // A literal with a name of its own before it, a table's size before that; padding and priority around it.
            let fields =
                [&[0x3f, 0xe1, 0x1f, 0x40, 1, b'a', 2, b'A', b'B', first, 3, b'%', b'2', b'F', 0x82][..], &[0x5f, 0x00, 0]].concat();
            let wanted = [&fields[..11], b"xxx", &fields[14..]].concat();
            let wrapped = |fields: &[u8]| {
                let padded = [&[4, 0, 0, 0, 0, 9][..], fields, &[0x41, 1, b'%', 0]].concat();
                let (one, rest) = fields.split_at(12);
                [
                    begin.to_vec(),
                    frame(HEADERS, 0x04 | PADDED | PRIORITY, &padded),
                    frame(HEADERS, 0, one),
                    frame(CONTINUATION, 4, rest),
                    frame(0, 0, &[0x41, 3, b'%', b'2', b'F']),
                    frame(HEADERS, 0x04 | PRIORITY, &[&[0; 5][..], fields].concat()),
                ]
                .concat()
            };
            for piece in [1, 5, 1_000] {
                assert_eq!(passed(&wrapped(&fields), piece), wrapped(&wanted), "{first:#x} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_long_authority_is_overwritten_to_its_end() {
        let long = [&[0x41, 0x7f, 0x81, 0x01][..], &[b'%'; 256], &[0x82]].concat();
        let wanted = [&[0x41, 0x7f, 0x81, 0x01][..], &[b'x'; 256], &[0x82]].concat();
        let begin = &bytes(SENT)[..24];
        let stream = |fields: &[u8]| [begin.to_vec(), frame(HEADERS, 4, fields)].concat();
        assert_eq!(passed(&stream(&long), 10), stream(&wanted));
    }

    fn passed(sent: &[u8], piece: usize) -> Vec<u8> {
        let (mut overwriter, mut bytes) = (Overwriter::default(), sent.to_vec());
        bytes.chunks_mut(piece).for_each(|piece| overwriter.pass(piece));
        bytes
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [.., a, b, c] = payload.len().to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1][..], payload].concat()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }
}
