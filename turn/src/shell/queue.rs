//! What waits to be written to a stream: bounded in bytes and in time, so that a slow reader neither fills memory nor gets
//! packets that nobody wants any more.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Most bytes that wait for one stream.
const MAX_BYTES: usize = 256 * 1024;
/// Longest wait of a frame behind which others are still queued.
const MAX_AGE: Duration = Duration::from_millis(100);
/// Frames are put together into chunks of about a TLS record.
const CHUNK: usize = 16 * 1024;

/// Frames for one stream, put in by the packet thread and written by the stream's task.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    notify: Notify,
}

#[derive(Default)]
struct Inner {
    chunks: VecDeque<Chunk>,
    /// When the chunk that is being written was begun.
    writing: Option<Instant>,
    /// Bytes that wait or are being written.
    bytes: usize,
    closed: bool,
}

struct Chunk {
    bytes: Vec<u8>,
    since: Instant,
}

impl Queue {
    /// Adds a frame, padded to four bytes; whether there was room. A frame that does not fit is dropped whole: what waits
    /// already is older and goes first.
    pub fn push(&self, now: Instant, frame: &[u8]) -> bool {
        let padded = frame.len().next_multiple_of(4);
        let Ok(mut inner) = self.inner.lock() else { return false };
        let oldest = inner.writing.or_else(|| inner.chunks.front().map(|chunk| chunk.since));
        let late = oldest.is_some_and(|oldest| now.saturating_duration_since(oldest) > MAX_AGE);
        if inner.closed || late || inner.bytes + padded > MAX_BYTES {
            return false;
        }
        inner.bytes += padded;
        let wake = inner.chunks.is_empty();
        if inner.chunks.back().is_none_or(|chunk| chunk.bytes.len() + padded > CHUNK) {
            inner.chunks.push_back(Chunk { bytes: Vec::with_capacity(padded.max(2048)), since: now });
        }
        if let Some(chunk) = inner.chunks.back_mut() {
            chunk.bytes.extend_from_slice(frame);
            chunk.bytes.resize(chunk.bytes.len() + padded - frame.len(), 0);
        }
        drop(inner);
        if wake {
            self.notify.notify_one();
        }
        true
    }

    /// No more frames; what waits is still written.
    pub fn close(&self) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.closed = true;
        }
        self.notify.notify_one();
    }

    /// The next bytes to write, when there are any; `None` once closed and empty. Ends the chunk given before.
    pub async fn next(&self) -> Option<Vec<u8>> {
        let mut ended = true;
        loop {
            if let Ok(mut inner) = self.inner.lock() {
                if std::mem::take(&mut ended) {
                    inner.writing = None;
                    inner.bytes = inner.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
                }
                if let Some(chunk) = inner.chunks.pop_front() {
                    inner.writing = Some(chunk.since);
                    return Some(chunk.bytes);
                }
                if inner.closed {
                    return None;
                }
            }
            self.notify.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_out_in_order_and_padded() {
        let queue = Queue::default();
        let now = Instant::now();
        assert!(queue.push(now, &[1, 2, 3]));
        assert!(queue.push(now, &[4, 5, 6, 7]));
        assert_eq!(queue.next().await.unwrap(), [1, 2, 3, 0, 4, 5, 6, 7]);
        queue.close();
        assert!(queue.next().await.is_none());
    }

    #[tokio::test]
    async fn the_newest_frame_is_dropped_when_256_kib_wait() {
        let queue = Queue::default();
        let now = Instant::now();
        let taken = (0..1000).filter(|_| queue.push(now, &[0; 1024])).count();
        assert_eq!(taken, 256);
        let first = queue.next().await.unwrap();
        assert!(!queue.push(now, &[0; 1024]), "a chunk that is being written still counts");
        let _ = queue.next().await.unwrap();
        assert!(queue.push(now, &vec![0; first.len()]));
    }

    #[tokio::test]
    async fn frames_are_dropped_while_an_older_one_has_waited_for_100_ms() {
        let queue = Queue::default();
        let now = Instant::now();
        assert!(queue.push(now, &[0; 8]));
        assert!(queue.push(now + Duration::from_millis(100), &[0; 8]));
        assert!(!queue.push(now + Duration::from_millis(101), &[0; 8]));
        let _ = queue.next().await;
        assert!(!queue.push(now + Duration::from_millis(101), &[0; 8]), "it is still being written");
        queue.close();
        let _ = queue.next().await;
        assert!(!queue.push(now, &[0; 8]), "closed");
    }
}
