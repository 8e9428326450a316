//! Links: delay, jitter, loss, reordering, rate, MTU.

use std::time::Duration;

use campfire_protocol::time::Time;

use crate::random::Random;

/// A node's link to what lies above it, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// One-way delay.
    pub delay: Duration,
    /// Up to this much more, at random; order is kept.
    pub jitter: Duration,
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Probability that a packet is held back by up to [`Link::REORDERED_BY`], so that others overtake it.
    pub reorder: f64,
    /// Probability that a packet comes twice.
    pub duplicate: f64,
    /// Largest IP packet, in bytes.
    pub mtu: usize,
    /// What happens to larger ones.
    pub oversize: Oversize,
    /// Bits per second, with a queue of 100 ms; `None`: no limit.
    pub rate: Option<u64>,
}

/// What a link does with packets above its MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// Fragments them (each fragment may be lost).
    Fragment,
    /// Drops them without a word.
    BlackHole,
}

impl Link {
    /// Most by which a reordered packet is late.
    pub const REORDERED_BY: Duration = Duration::from_millis(20);

    /// A clean link of this one-way delay.
    pub const fn clean(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            mtu: 1_500,
            oversize: Oversize::Fragment,
            rate: None,
        }
    }
}

/// Longest queue on a link with a rate.
const QUEUE: Duration = Duration::from_millis(100);

/// A link in use.
#[derive(Debug)]
pub struct LinkState {
    /// Its properties.
    pub link: Link,
    /// Whether it carries anything at all.
    pub up: bool,
    /// The last arrival in each direction (order is kept), and when each direction's queue is empty.
    directions: [Direction; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Direction {
    last_arrival: Time,
    busy_until: Time,
}

impl LinkState {
    /// A link that is up.
    pub fn new(link: Link) -> Self {
        Self { link, up: true, directions: Default::default() }
    }

    /// When a packet of `size` bytes arrives at the other end; `None`: it does not.
    pub fn cross(&mut self, now: Time, upward: bool, size: usize, random: &mut Random) -> Option<Time> {
        let link = self.link;
        if !self.up {
            return None;
        }
        let fragments = size.div_ceil(link.mtu.max(1));
        if fragments > 1 && link.oversize == Oversize::BlackHole {
            return None;
        }
        if link.loss > 0.0 && (0..fragments).any(|_| random.chance(link.loss)) {
            return None;
        }
        let direction = &mut self.directions[usize::from(upward)];
        let mut start = now;
        if let Some(rate) = link.rate {
            start = direction.busy_until.max(now);
            if start.since(now) > QUEUE {
                return None;
            }
            direction.busy_until = start + Duration::from_micros(size as u64 * 8 * 1_000_000 / rate.max(1));
            start = direction.busy_until;
        }
        let mut arrival = start + link.delay;
        if link.reorder > 0.0 && random.chance(link.reorder) {
            return Some(arrival + random.up_to(Link::REORDERED_BY));
        }
        if link.jitter > Duration::ZERO {
            arrival += random.up_to(link.jitter);
        }
        arrival = arrival.max(direction.last_arrival);
        direction.last_arrival = arrival;
        Some(arrival)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        for (reorder, sorted) in [(0.0, true), (0.3, false)] {
            let link = Link { jitter: Duration::from_millis(30), reorder, ..Link::clean(Duration::from_millis(10)) };
            let mut state = LinkState::new(link);
            let mut random = Random::new(1);
            let arrivals: Vec<_> = (0..200).filter_map(|i| state.cross(Time::from_micros(i * 1_000), true, 100, &mut random)).collect();
            assert_eq!(arrivals.is_sorted(), sorted);
        }
    }

    #[test]
    fn a_lossy_link_loses_about_as_much_as_it_says() {
        let mut state = LinkState::new(Link { loss: 0.1, ..Link::clean(Duration::ZERO) });
        let mut random = Random::new(1);
        let lost = (0..10_000).filter(|_| state.cross(Time::default(), true, 100, &mut random).is_none()).count();
        assert!((850..1_150).contains(&lost), "{lost}");
    }

    #[test]
    fn a_black_hole_swallows_what_exceeds_the_mtu() {
        let mut state = LinkState::new(Link { mtu: 1_280, oversize: Oversize::BlackHole, ..Link::clean(Duration::ZERO) });
        let mut random = Random::new(1);
        assert!(state.cross(Time::default(), true, 1_280, &mut random).is_some());
        assert!(state.cross(Time::default(), true, 1_281, &mut random).is_none());
    }

    #[test]
    fn a_slow_link_queues_and_then_drops() {
        let mut state = LinkState::new(Link { rate: Some(1_000_000), ..Link::clean(Duration::ZERO) });
        let mut random = Random::new(1);
        let arrivals: Vec<_> = (0..20).map(|_| state.cross(Time::default(), false, 1_250, &mut random)).collect();
        assert_eq!(arrivals[0], Some(Time::from_micros(10_000)));
        assert_eq!(arrivals[1], Some(Time::from_micros(20_000)));
        assert_eq!(arrivals[19], None);
    }
}
