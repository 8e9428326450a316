//! Which Campfires wait to be looked at, and when.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::state::ObjectKey;

/// Campfires that are reconciled at the same time.
const CONCURRENT: usize = 4;
/// Longest wait after an error.
const MAX_BACKOFF: Duration = Duration::from_mins(2);

/// Campfires that wait to be looked at, and when.
#[derive(Debug, Default)]
pub struct DueCampfires {
    due: HashMap<ObjectKey, Instant>,
    running: HashSet<ObjectKey>,
    failures: HashMap<ObjectKey, u32>,
}

impl DueCampfires {
    /// Look at it within `after`.
    pub fn put(&mut self, key: ObjectKey, after: Duration) {
        let at = Instant::now() + after;
        self.due.entry(key).and_modify(|due| *due = at.min(*due)).or_insert(at);
    }

    /// One that is due and is not being looked at, and how often it failed since it last did not.
    pub fn take(&mut self, now: Instant) -> Option<(ObjectKey, u32)> {
        if self.running.len() >= CONCURRENT {
            return None;
        }
        let next = self.due.iter().filter(|(key, at)| **at <= now && !self.running.contains(*key)).min_by_key(|(_, at)| **at)?;
        let key = next.0.clone();
        self.due.remove(&key);
        self.running.insert(key.clone());
        let failures = self.failures.get(&key).copied().unwrap_or(0);
        Some((key, failures))
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        if self.running.len() >= CONCURRENT {
            return None;
        }
        self.due.iter().filter(|(key, _)| !self.running.contains(*key)).map(|(_, at)| *at).min()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.due.len()
    }

    /// It was looked at: look again after `again`, if given.
    pub fn done(&mut self, key: ObjectKey, again: Option<Duration>) {
        self.running.remove(&key);
        self.failures.remove(&key);
        if let Some(again) = again {
            self.put(key, jittered(again));
        }
    }

    /// It failed: it is tried again, ever more seldom.
    pub fn failed(&mut self, key: ObjectKey) {
        self.running.remove(&key);
        let failures = self.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        let backoff = Duration::from_millis(500).saturating_mul(1 << (*failures).min(10)).min(MAX_BACKOFF);
        self.put(key, jittered(backoff));
    }
}

/// Up to a quarter more, so that not all come at once.
fn jittered(time: Duration) -> Duration {
    let mut random = [0; 1];
    // Without random numbers there is no jitter.
    let _ = getrandom::fill(&mut random);
    time + time * u32::from(random[0]) / 1024
}
