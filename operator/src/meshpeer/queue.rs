//! What waits to be written: keys, never values, so that the newest state wins; debounced, in order of due times, and within a
//! budget. Pure: time is an argument.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::state::ObjectKey;

/// Writes a second, and at once.
const BUDGET: f64 = 20.0;

/// Keys with the time at which each is due.
#[derive(Debug)]
pub struct WriteQueue {
    due: BTreeMap<(Instant, u64), ObjectKey>,
    places: HashMap<ObjectKey, (Instant, u64)>,
    next: u64,
    tokens: f64,
    filled: Instant,
}

impl WriteQueue {
    /// Empty, with the whole budget.
    pub fn new(now: Instant) -> Self {
        Self { due: BTreeMap::new(), places: HashMap::new(), next: 0, tokens: BUDGET, filled: now }
    }

    /// A key is due at `at`, or earlier if it was due earlier: changes that come meanwhile do not push it back.
    pub fn push(&mut self, key: &ObjectKey, at: Instant) {
        if let Some(place) = self.places.get(key).copied() {
            if place.0 <= at {
                return;
            }
            self.due.remove(&place);
        }
        let place = (at, self.next);
        self.next += 1;
        self.due.insert(place, key.clone());
        self.places.insert(key.clone(), place);
    }

    /// There is nothing to be written for it any more.
    pub fn cancel(&mut self, key: &ObjectKey) {
        if let Some(place) = self.places.remove(key) {
            self.due.remove(&place);
        }
    }

    /// The next key that is due, if the budget allows a write. Who writes says [`Self::spend`].
    pub fn pop(&mut self, now: Instant) -> Option<ObjectKey> {
        self.fill(now);
        let (place, _) = self.due.first_key_value()?;
        if place.0 > now || self.tokens < 1.0 {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        self.places.remove(&key);
        Some(key)
    }

    /// A write is made.
    pub fn spend(&mut self) {
        self.tokens -= 1.0;
    }

    /// When [`Self::pop`] may give something.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        let (place, _) = self.due.first_key_value()?;
        let missing = (1.0 - self.tokens).max(0.0) / BUDGET;
        let earned = if missing > 0.0 { self.filled + Duration::from_secs_f64(missing) } else { now };
        Some(place.0.max(earned))
    }

    /// Keys that wait.
    pub fn waiting(&self) -> usize {
        self.places.len()
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled);
        self.tokens = (self.tokens + since.as_secs_f64() * BUDGET).min(BUDGET);
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by it")]

    use super::*;

    #[test]
    fn changes_that_come_meanwhile_do_not_push_a_write_back_and_are_written_once() {
        let start = Instant::now();
        let mut queue = WriteQueue::new(start);
        queue.push(&key(1), start + secs(10));
        queue.push(&key(1), start + secs(15));
        assert_eq!(queue.pop(start + secs(9)), None);
        assert_eq!(queue.pop(start + secs(10)), Some(key(1)));
        assert_eq!(queue.pop(start + secs(20)), None);
        assert_eq!(queue.waiting(), 0);
    }

    #[test]
    fn what_is_urgent_overtakes_and_what_is_undone_is_never_written() {
        let start = Instant::now();
        let mut queue = WriteQueue::new(start);
        queue.push(&key(1), start + secs(10));
        queue.push(&key(2), start + secs(10));
        queue.push(&key(2), start + secs(1));
        assert_eq!(queue.pop(start + secs(1)), Some(key(2)));
        queue.cancel(&key(1));
        assert_eq!(queue.next_wake(start + secs(1)), None);
        assert_eq!(queue.pop(start + secs(60)), None);
    }

    #[test]
    fn ten_thousand_changes_at_once_are_written_in_order_at_twenty_a_second() {
        let start = Instant::now();
        let mut queue = WriteQueue::new(start);
        for n in 0..10_000 {
            queue.push(&key(n), start);
        }
        let mut now = start;
        let mut order = Vec::new();
        let mut by_second = BTreeMap::new();
        while let Some(wake) = queue.next_wake(now) {
            now = now.max(wake);
            if let Some(key) = queue.pop(now) {
                queue.spend();
                order.push(key);
                *by_second.entry((now - start).as_secs()).or_insert(0) += 1;
            } else {
                // Rounding of a token's time.
                now += Duration::from_micros(1);
            }
        }
        assert_eq!(order, (0..10_000).map(key).collect::<Vec<_>>());
        // The last token of the second may be rounded into the next.
        assert!((39..=40).contains(&by_second.get(&0).copied().unwrap_or(0)), "the burst and a second's worth: {by_second:?}");
        assert!(by_second.values().skip(1).all(|count| *count <= 21), "{by_second:?}");
        assert!((498..=501).contains(&(now - start).as_secs()), "{:?}", now - start);
    }

    #[test]
    fn what_turns_out_to_need_no_write_costs_no_budget() {
        let start = Instant::now();
        let mut queue = WriteQueue::new(start);
        for n in 0..1_000 {
            queue.push(&key(n), start);
        }
        assert_eq!(std::iter::from_fn(|| queue.pop(start)).count(), 1_000);
    }

    fn key(n: usize) -> ObjectKey {
        ObjectKey::new("shop", format!("pod-{n}"))
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
}
