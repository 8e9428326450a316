//! A TCP or TLS stream, cut into frames by the server and by the peer (RFC 8656 §12.5), however its bytes arrive.
#![no_main]

use campfire_camp::frames::{Frame, FrameError, Framer, count};
use libfuzzer_sys::fuzz_target;

// The server's shell is a program: this part of it is compiled in.
#[allow(dead_code)]
#[path = "../../turn/src/shell/framing.rs"]
mod server;

type Seen = (Vec<Vec<u8>>, Option<FrameError>);

fuzz_target!(|bytes: &[u8]| {
    let Some((&piece, stream)) = bytes.split_first() else { return };
    let (frames, error) = peer(stream, stream.len().max(1));
    assert_eq!(peer(stream, usize::from(piece).max(1)), (frames.clone(), error));

    // What the peer took is what the server would: a frame for each, padding aside.
    let mut rest = stream;
    for frame in &frames {
        let cut = server::first_frame(rest).expect("the peer is the stricter one").expect("the peer saw it whole");
        assert_eq!(rest.get(..cut.length), Some(frame.as_slice()));
        assert!(cut.length <= cut.total && cut.total <= server::MAX_FRAME);
        if frame[0] >= 0x40 {
            assert_eq!(count(&rest[..cut.total]), 1);
        }
        rest = &rest[cut.total..];
    }

    // The server, by itself: whole frames are a prefix, and every further byte only adds to it.
    let _ = server::may_begin(stream);
    if let Ok(end) = server::whole_frames(stream) {
        let mut at = 0;
        while at < end {
            let cut = server::first_frame(&stream[at..]).expect("sound").expect("whole");
            at += cut.total;
        }
        assert_eq!(at, end);
        assert_eq!(server::whole_frames(&stream[..end]), Ok(end));
    }
});

/// All frames, and what ended them.
fn peer(stream: &[u8], piece: usize) -> Seen {
    let mut framer = Framer::default();
    let mut frames = Vec::new();
    for bytes in stream.chunks(piece) {
        framer.push(bytes);
        loop {
            match framer.next_frame() {
                Ok(Some(Frame::Stun(frame) | Frame::Channel(frame))) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}
