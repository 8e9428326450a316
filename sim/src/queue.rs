//! What happens when: events in order of virtual time, those of one instant in the order in which they were planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use campfire_protocol::time::Time;

/// A queue of events over virtual time.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Planned<E>>,
    planned: u64,
}

#[derive(Debug)]
struct Planned<E> {
    at: Time,
    order: u64,
    event: E,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0 }
    }
}

impl<E> Queue<E> {
    /// Plans an event.
    pub fn push(&mut self, at: Time, event: E) {
        self.planned += 1;
        self.heap.push(Planned { at, order: self.planned, event });
    }

    /// The next event, if it is due at `until` or before.
    pub fn pop_until(&mut self, until: Time) -> Option<(Time, E)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|planned| (planned.at, planned.event))
    }
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    /// The heap's greatest is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_then_of_planning() {
        let mut queue = Queue::default();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.push(Time::from_micros(at), event);
        }
        let mut seen = String::new();
        while let Some((_, event)) = queue.pop_until(Time::from_micros(5)) {
            seen.push(event);
        }
        assert_eq!(seen, "abcd");
    }

    #[test]
    fn an_event_later_than_asked_for_stays() {
        let mut queue = Queue::default();
        queue.push(Time::from_micros(10), ());
        assert!(queue.pop_until(Time::from_micros(9)).is_none());
        assert!(queue.pop_until(Time::from_micros(10)).is_some());
    }
}
