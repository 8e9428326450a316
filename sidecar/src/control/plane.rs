//! The way to the data thread: in order, bounded, never waiting.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use campfire_camp::ChannelSink;
use campfire_protocol::carrier::StreamId;
use tokio::sync::mpsc;

use crate::data::ToDataSender;
use crate::plane::ToData;

/// Commands that may wait for the data thread.
const MAX_BACKLOG: usize = 65_536;
/// How often a full queue of the data thread is tried again.
const AGAIN: Duration = Duration::from_millis(1);
/// How long what is left may take at the end.
const LAST: Duration = Duration::from_secs(1);

/// What waits for the data thread while its queue is full.
pub(super) struct Plane {
    to: ToDataSender,
    backlog: VecDeque<ToData>,
}

impl Plane {
    pub(super) fn new(to: ToDataSender) -> Self {
        Self { to, backlog: VecDeque::new() }
    }

    /// Leaves something; [`flush`](Self::flush) hands it over.
    pub(super) fn tell(&mut self, message: ToData) {
        if self.backlog.len() >= MAX_BACKLOG {
            // The data thread hangs or has ended, which its own message will say.
            self.backlog.pop_front();
        }
        self.backlog.push_back(message);
    }

    /// Hands over what waits, in order, as far as the data thread takes it.
    pub(super) fn flush(&mut self) {
        while let Some(message) = self.backlog.pop_front() {
            if let Err(message) = self.to.offer(message) {
                self.backlog.push_front(message);
                return;
            }
        }
    }

    /// When to flush again, if anything waits.
    pub(super) fn next_try(&self) -> Option<Instant> {
        (!self.backlog.is_empty()).then(|| Instant::now() + AGAIN)
    }

    /// Hands over all that waits and tells the data thread to end.
    pub(super) async fn stop(&mut self) {
        self.tell(ToData::Stop);
        let deadline = Instant::now() + LAST;
        self.flush();
        while !self.backlog.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(AGAIN).await;
            self.flush();
        }
    }
}

impl ChannelSink for ToDataSender {
    fn ready(&self, stream: StreamId, queue: mpsc::Sender<Vec<u8>>) {
        let _ = self.send(ToData::StreamReady { stream, sender: queue });
    }

    fn frames(&self, stream: StreamId, frames: Vec<Vec<u8>>) {
        // A full queue means that the data thread cannot keep up: what it would do is drop them.
        let _ = self.send(ToData::StreamFrames { stream, frames });
    }

    fn gone(&self, stream: StreamId) {
        let _ = self.send(ToData::StreamGone { stream });
    }
}
