//! Token buckets, and a table of them of fixed size for sources that have proven nothing.

use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv6Addr};

use campfire_protocol::time::Time;

use crate::config::Rate;

/// A token bucket in eight bytes: the time at which it will be full again (GCRA), in nanoseconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bucket(u64);

impl Bucket {
    /// Takes `cost` tokens if it has them.
    pub fn take(&mut self, now: Time, rate: Rate, cost: u32) -> bool {
        if rate.rate == 0 {
            return false;
        }
        let now = now.as_micros().saturating_mul(1_000);
        let span = |tokens: u32| u64::from(tokens).saturating_mul(1_000_000_000) / u64::from(rate.rate);
        let full = self.0.max(now).saturating_add(span(cost));
        if full - now > span(rate.burst) {
            return false;
        }
        self.0 = full;
        true
    }
}

impl Bucket {
    /// Takes `cost` tokens whether or not it has them: the next ones wait for them.
    pub fn owe(&mut self, now: Time, rate: Rate, cost: u32) {
        let now = now.as_micros().saturating_mul(1_000);
        self.0 = self.0.max(now).saturating_add(u64::from(cost).saturating_mul(1_000_000_000) / u64::from(rate.rate.max(1)));
    }
}

/// Buckets for the prefixes that sources are in: a /24, or a /48. Prefixes that fall together share one, so that any number
/// of sources takes no memory.
pub(crate) struct Prefixes {
    buckets: Box<[Bucket]>,
    hash: foldhash::fast::FixedState,
}

const PREFIX_BUCKETS: usize = 1 << 14;

impl Prefixes {
    pub fn new(seed: u64) -> Self {
        Self { buckets: vec![Bucket::default(); PREFIX_BUCKETS].into(), hash: foldhash::fast::FixedState::with_seed(seed) }
    }

    pub fn take(&mut self, now: Time, rate: Rate, source: IpAddr) -> bool {
        let prefix: u64 = match source {
            IpAddr::V4(ip) => u64::from(ip.to_bits() >> 8) | 1 << 63,
            IpAddr::V6(ip) => (ip.to_bits() >> 80) as u64,
        };
        let slot = self.hash.hash_one(prefix) as usize % self.buckets.len();
        self.buckets.get_mut(slot).is_some_and(|bucket| bucket.take(now, rate, 1))
    }
}

/// Who counts as one source when a room is full: an IPv4 address, an IPv6 /64.
pub(crate) fn household(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate { rate: 10, burst: 5 };
        let mut bucket = Bucket::default();
        let start = Time::from_micros(1_000_000);
        assert_eq!((0..20).filter(|_| bucket.take(start, rate, 1)).count(), 5);
        let later = start + Duration::from_millis(300);
        assert_eq!((0..20).filter(|_| bucket.take(later, rate, 1)).count(), 3);
        assert!(!Bucket::default().take(start, Rate { rate: 0, burst: 9 }, 1));
    }

    #[test]
    fn sources_of_one_prefix_share_a_bucket() {
        let rate = Rate { rate: 1, burst: 4 };
        let mut prefixes = Prefixes::new(7);
        let now = Time::from_micros(0);
        assert_eq!((0..=255).filter(|&last| prefixes.take(now, rate, IpAddr::from([192, 0, 2, last]))).count(), 4);
        assert!(prefixes.take(now, rate, IpAddr::from([198, 51, 100, 1])));
    }
}
