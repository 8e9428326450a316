//! What any program may say on the socket of `wg`: requests in any number of pieces.
#![no_main]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use campfire_sidecar::uapi::{RequestError, read_request};
use libfuzzer_sys::fuzz_target;
use tokio::io::BufReader;

fuzz_target!(|bytes: &[u8]| {
    let whole = requests(bytes, 4_096);
    for piece in [1, 7, 64] {
        assert_eq!(requests(bytes, piece), whole, "in pieces of {piece}");
    }
});

/// Everything that is understood up to the end, or to the first that is not.
fn requests(bytes: &[u8], piece: usize) -> Vec<Result<campfire_sidecar::uapi::Request, RequestError>> {
    let mut reader = BufReader::with_capacity(piece, bytes);
    let mut seen = Vec::new();
    loop {
        let future = pin!(read_request(&mut reader));
        // Memory is always ready.
        let Poll::Ready(request) = future_poll(future) else { panic!("waits for bytes that are there") };
        match request.expect("memory can be read") {
            None => return seen,
            Some(request) => {
                seen.push(request);
                if request.is_err() {
                    return seen;
                }
            }
        }
    }
}

fn future_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
