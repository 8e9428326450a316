//! Who leads, and until when. All replicas serve; the leader alone writes.

pub mod endpoints;
pub mod lease;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::watch;

/// Whether this operator leads, for those who ask.
#[derive(Clone, Debug)]
pub struct Leadership {
    leads: watch::Receiver<bool>,
    fence: Arc<Fence>,
}

/// Who says whether this operator leads: [`lease`].
#[derive(Debug)]
pub struct Mandate {
    leads: watch::Sender<bool>,
    fence: Arc<Fence>,
}

impl Leadership {
    /// It does not lead yet.
    pub fn new() -> (Mandate, Self) {
        let (sender, leads) = watch::channel(false);
        let fence = Arc::new(Fence::default());
        (Mandate { leads: sender, fence: fence.clone() }, Self { leads, fence })
    }

    /// Whether this operator leads.
    pub fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// Tells when that changes.
    pub fn follow(&self) -> watch::Receiver<bool> {
        self.leads.clone()
    }

    /// Whether it leads still: to be asked right before a write, as a process that was stopped for a while wakes in the middle of one.
    pub fn may_write(&self) -> bool {
        self.fence.open()
    }
}

impl Mandate {
    /// It leads until then. `true`: it did not before.
    pub fn lead_until(&self, until: Instant) -> bool {
        self.fence.open_until(until);
        self.leads.send_if_modified(|leads| !std::mem::replace(leads, true))
    }

    /// It leads no more.
    pub fn resign(&self) {
        self.fence.close();
        self.leads.send_replace(false);
    }
}

/// Until when this operator may write as leader.
///
/// Time is counted from a start of this process's own; 0 stands for "does not lead".
#[derive(Debug)]
struct Fence {
    start: Instant,
    until: AtomicU64,
}

impl Default for Fence {
    fn default() -> Self {
        Self { start: Instant::now(), until: AtomicU64::new(0) }
    }
}

impl Fence {
    fn open_until(&self, until: Instant) {
        let millis = until.saturating_duration_since(self.start).as_millis();
        self.until.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn close(&self) {
        self.until.store(0, Ordering::Release);
    }

    fn open(&self) -> bool {
        self.start.elapsed().as_millis() < u128::from(self.until.load(Ordering::Acquire))
    }
}
