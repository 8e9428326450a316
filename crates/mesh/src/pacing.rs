//! What all links together may send and begin: candidate probes one after another, tries at direct paths not all at once.

use std::collections::VecDeque;
use std::time::Duration;

use campfire_protocol::time::Time;
use campfire_tunnel::LinkId;

use crate::paths::Pair;

/// Between two candidate probes, whatever link they are for.
const PROBE_SPACING: Duration = Duration::from_millis(5);
/// Probes waiting for their turn at most: beyond that the next round has to do.
const MAX_WAITING_PROBES: usize = 2_048;
/// Between the beginnings of two tries that we ask for …
const START_SPACING: Duration = Duration::from_millis(20);
/// … and how far those that we are asked for may run ahead of that.
const START_BURST: Duration = Duration::from_millis(320);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    probes: VecDeque<(LinkId, Pair)>,
    next_probe: Time,
    next_start: Time,
}

impl Pacing {
    /// A try that we ask for may begin now; else when.
    pub(crate) fn start(&mut self, now: Time) -> Result<(), Time> {
        if self.next_start > now {
            return Err(self.next_start);
        }
        self.next_start = now + START_SPACING;
        Ok(())
    }

    /// Whether a try that we are asked for may begin now: some may at once, but not a whole room's.
    pub(crate) fn start_asked(&mut self, now: Time) -> bool {
        let next = self.next_start.max(now);
        if next.since(now) > START_BURST {
            return false;
        }
        self.next_start = next + START_SPACING;
        true
    }

    /// Puts a candidate probe into the queue; `false`: too many wait, it is dropped.
    pub(crate) fn queue_probe(&mut self, link: LinkId, pair: Pair) -> bool {
        let room = self.probes.len() < MAX_WAITING_PROBES;
        if room {
            self.probes.push_back((link, pair));
        }
        room
    }

    /// A candidate probe goes out now, outside the queue: the others wait for it.
    pub(crate) fn spend_probe(&mut self, now: Time) {
        self.next_probe = self.next_probe.max(now) + PROBE_SPACING;
    }

    /// When the next probe in the queue is due.
    pub(crate) fn next_probe(&self) -> Option<Time> {
        (!self.probes.is_empty()).then_some(self.next_probe)
    }

    /// The probe that is due.
    pub(crate) fn take_probe(&mut self, now: Time) -> Option<(LinkId, Pair)> {
        if self.next_probe > now {
            return None;
        }
        let probe = self.probes.pop_front()?;
        self.spend_probe(now);
        Some(probe)
    }
}

#[cfg(test)]
mod tests {
    use campfire_protocol::carrier::SocketId;

    use super::*;

    #[test]
    fn probes_are_spaced_and_bounded() {
        let mut pacing = Pacing::default();
        for port in 0..10_000 {
            pacing.queue_probe(LinkId(0), Pair { socket: SocketId(0), remote: ([1, 2, 3, 4], port).into() });
        }
        let mut sent = 0;
        for ms in 0..100 {
            while pacing.take_probe(Time::from_micros(ms * 1_000)).is_some() {
                sent += 1;
            }
        }
        assert_eq!(sent, 20);
        assert_eq!(pacing.probes.len(), MAX_WAITING_PROBES - 20);
    }

    #[test]
    fn tries_of_a_whole_room_do_not_begin_at_once() {
        let mut pacing = Pacing::default();
        let begun = (0..100).filter(|_| pacing.start_asked(Time::default())).count();
        assert!((10..=20).contains(&begun), "{begun}");
        assert!(pacing.start(Time::default()).is_err());
    }
}
