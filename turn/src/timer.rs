//! What is to be looked at when. A timer says that something may be due; whoever is called looks, and sets a new one if it
//! is not: so nothing is taken out or moved when a seat or an allocation is refreshed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use campfire_protocol::time::Time;

use crate::table::Ref;

/// What may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A seat's end.
    Seat(Ref),
    /// An allocation's end, or that of something in it.
    Allocation(Ref),
}

#[derive(Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<(Time, Timer)>>);

impl Timers {
    pub fn push(&mut self, at: Time, timer: Timer) {
        self.0.push(Reverse((at, timer)));
    }

    pub fn next(&self) -> Option<Time> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// The next one that is due, and since when.
    pub fn pop(&mut self, now: Time) -> Option<(Time, Timer)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse(due)| due)
    }
}
