//! The wall clock, corrected by what servers say. All of it relative to the monotonic clock, so that a reading ages well.

use std::collections::BTreeMap;
use std::time::Duration;

use campfire_protocol::carrier::ServerSlot;
use campfire_protocol::time::{Time, UnixMillis};

/// A wall clock as its distance from the monotonic clock, in milliseconds.
fn distance(now: Time, wall: UnixMillis) -> i64 {
    let monotonic = i64::try_from(now.as_micros() / 1_000).unwrap_or(i64::MAX);
    i64::try_from(wall.0).unwrap_or(i64::MAX).saturating_sub(monotonic)
}

fn reading(now: Time, distance: i64) -> UnixMillis {
    let monotonic = i64::try_from(now.as_micros() / 1_000).unwrap_or(i64::MAX);
    UnixMillis(u64::try_from(monotonic.saturating_add(distance)).unwrap_or(0))
}

/// A server's clock counts this long after it was last told; if none was told since, the last ones do.
const FRESH: Duration = Duration::from_mins(10);
/// Clocks that differ by no more than this agree: as much as a server takes a first Camp at.
const AGREE: Duration = Duration::from_mins(1);

/// How well a reading is founded: clocks that agree on it, then clocks that were asked. More is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Support {
    agree: usize,
    asked: usize,
}

/// Our own clock and those of servers.
#[derive(Debug)]
pub(crate) struct Clock {
    own: i64,
    servers: BTreeMap<ServerSlot, (Time, i64)>,
}

impl Clock {
    pub(crate) fn new(now: Time, wall: UnixMillis) -> Self {
        Self { own: distance(now, wall), servers: BTreeMap::new() }
    }

    /// A reading of our own wall clock.
    pub(crate) fn set_own(&mut self, now: Time, wall: UnixMillis) {
        self.own = distance(now, wall);
    }

    /// Our own wall clock.
    pub(crate) fn own(&self, now: Time) -> UnixMillis {
        reading(now, self.own)
    }

    /// A server's clock, from an answer with its integrity that took `rtt`.
    pub(crate) fn learn(&mut self, now: Time, server: ServerSlot, wall: UnixMillis, rtt: Duration) {
        let half = u64::try_from(rtt.as_millis() / 2).unwrap_or(0);
        self.servers.insert(server, (now, distance(now, UnixMillis(wall.0.saturating_add(half)))));
    }

    fn votes(&self, now: Time) -> Vec<i64> {
        let fresh = |told: Time| now.since(told) < FRESH;
        let any = self.servers.values().any(|(told, _)| fresh(*told));
        self.servers.values().filter(|(told, _)| !any || fresh(*told)).map(|(_, distance)| *distance).collect()
    }

    fn median(&self, mut votes: Vec<i64>) -> i64 {
        if votes.len().is_multiple_of(2) {
            votes.push(self.own);
        }
        votes.sort_unstable();
        votes.get(votes.len() / 2).copied().unwrap_or(self.own)
    }

    /// The median of the servers' clocks; our own votes where their number is even. So one server is believed, of two the
    /// one that is nearer to us, and a single liar among three never.
    pub(crate) fn now(&self, now: Time) -> UnixMillis {
        reading(now, self.median(self.votes(now)))
    }

    /// How well [`now`](Self::now) is founded; our own clock is one of those asked.
    pub(crate) fn support(&self, now: Time) -> Support {
        let mut votes = self.votes(now);
        let median = self.median(votes.clone());
        votes.push(self.own);
        let agrees = |vote: &&i64| u128::from(vote.abs_diff(median)) <= AGREE.as_millis();
        Support { agree: votes.iter().filter(agrees).count(), asked: votes.len() }
    }

    /// What a server's own clock shows, as far as known.
    pub(crate) fn at(&self, now: Time, server: ServerSlot) -> UnixMillis {
        self.servers.get(&server).map_or_else(|| self.now(now), |(_, distance)| reading(now, *distance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_micros(5_000_000);

    #[test]
    fn one_server_corrects_a_wrong_clock() {
        let mut clock = Clock::new(NOW, UnixMillis(1_000_000));
        clock.learn(NOW, ServerSlot(0), UnixMillis(1_600_000), Duration::from_millis(40));
        assert_eq!(clock.now(NOW + Duration::from_secs(1)), UnixMillis(1_601_020));
    }

    #[test]
    fn of_two_servers_the_nearer_is_believed_and_each_is_spoken_to_in_its_own_time() {
        let mut clock = Clock::new(NOW, UnixMillis(1_000_000));
        clock.learn(NOW, ServerSlot(0), UnixMillis(9_000_000), Duration::ZERO);
        clock.learn(NOW, ServerSlot(1), UnixMillis(1_000_300), Duration::ZERO);
        assert_eq!(clock.now(NOW), UnixMillis(1_000_300));
        assert_eq!(clock.at(NOW, ServerSlot(0)), UnixMillis(9_000_000));
    }

    #[test]
    fn a_reading_is_founded_better_the_more_clocks_agree_on_it() {
        let mut clock = Clock::new(NOW, UnixMillis(1_000_000));
        let alone = clock.support(NOW);
        clock.learn(NOW, ServerSlot(0), UnixMillis(9_000_000), Duration::ZERO);
        let liar = clock.support(NOW);
        clock.learn(NOW, ServerSlot(1), UnixMillis(1_000_300), Duration::ZERO);
        let two = clock.support(NOW);
        clock.learn(NOW, ServerSlot(2), UnixMillis(1_000_400), Duration::ZERO);
        assert!(alone < liar && liar < two && two < clock.support(NOW), "{alone:?} {liar:?} {two:?}");
    }

    #[test]
    fn a_server_that_says_nothing_any_more_has_no_vote_beside_those_that_do() {
        let mut clock = Clock::new(NOW, UnixMillis(1_000_000));
        clock.learn(NOW, ServerSlot(0), UnixMillis(9_000_000), Duration::ZERO);
        let later = NOW + FRESH;
        assert_eq!(clock.now(later), UnixMillis(9_600_000), "the last that was heard");
        clock.learn(later, ServerSlot(1), UnixMillis(1_600_500), Duration::ZERO);
        assert_eq!(clock.now(later), UnixMillis(1_600_500));
    }

    #[test]
    fn absurd_times_do_not_overflow() {
        let mut clock = Clock::new(NOW, UnixMillis(u64::MAX));
        clock.learn(NOW, ServerSlot(0), UnixMillis(u64::MAX), Duration::MAX);
        let _ = clock.now(Time::from_micros(u64::MAX));
    }
}
