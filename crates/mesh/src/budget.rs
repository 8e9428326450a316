//! How many candidate probes a destination gets, over all links: candidates are what others say. One server can tell every member of a room the
//! address of somebody who has nothing to do with it, each member tells all others, and all would probe it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use campfire_protocol::time::Time;

/// Probes at once, and the time in which one more is earned.
#[derive(Clone, Copy, Debug)]
struct Limit {
    burst: u32,
    every: Duration,
}

/// To one address and port: what one link's try needs, again after the shortest pause.
const DESTINATION: Limit = Limit { burst: 6, every: Duration::from_secs(7) };
/// To all ports of one address (IPv6: of one /64): many peers may be behind one NAT.
const HOST: Limit = Limit { burst: 64, every: Duration::from_secs(1) };
/// Destinations remembered, about 200 KiB.
const MAX_REMEMBERED: usize = 4_096;

/// Candidate probes that nobody has answered, by destination: each is remembered until this time (a leaky bucket). A host has port 0, which
/// is nobody's.
#[derive(Debug, Default)]
pub(crate) struct Budget(HashMap<SocketAddr, Time>);

impl Budget {
    /// A probe wants to go there. Tells whether it may; then it is counted.
    pub(crate) fn spend(&mut self, now: Time, to: SocketAddr) -> bool {
        let keys = [(to, DESTINATION), (host(to), HOST)].map(|(key, limit)| {
            let until = self.0.get(&key).map_or(now, |until| now.max(*until)) + limit.every;
            (key, until, until.since(now) <= limit.every * limit.burst)
        });
        if !keys.iter().all(|(_, _, fits)| *fits) {
            return false;
        }
        if self.0.len() + keys.len() > MAX_REMEMBERED {
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() + keys.len() > MAX_REMEMBERED {
            return false;
        }
        self.0.extend(keys.map(|(key, until, _)| (key, until)));
        true
    }

    /// So many probes have found the peer there, and count no more.
    pub(crate) fn refund(&mut self, now: Time, to: SocketAddr, probes: u32) {
        for (key, limit) in [(to, DESTINATION), (host(to), HOST)] {
            if let Some(until) = self.0.get_mut(&key) {
                *until = now + until.since(now).saturating_sub(limit.every * probes);
            }
        }
    }
}

fn host(of: SocketAddr) -> SocketAddr {
    let ip = match of.ip() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        IpAddr::V4(ip) => IpAddr::V4(ip),
    };
    SocketAddr::new(ip, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_destination_gets_few_probes_whoever_names_it_and_one_link_never_runs_short() {
        let mut budget = Budget::default();
        let sent = (0..1_000).filter(|_| budget.spend(at(0), to("192.0.2.1:53"))).count();
        assert_eq!(sent, 6);
        // A try is five rounds, the next one 36 s later.
        let mut budget = Budget::default();
        for again in 0..20 {
            assert!((0..5).all(|_| budget.spend(at(again * 39), to("192.0.2.1:53"))), "{again}");
        }
    }

    #[test]
    fn many_ports_of_a_host_and_many_addresses_of_an_ipv6_network_are_one_host() {
        for name in [|n| format!("192.0.2.1:{n}"), |n| format!("[2001:db8::{n:x}]:53")] {
            let mut budget = Budget::default();
            let sent = (1..1_000).filter(|n| budget.spend(at(0), to(&name(*n)))).count();
            assert_eq!(sent, 64);
            assert!(budget.spend(at(0), to("192.0.2.2:1")) && budget.spend(at(0), to("[2001:db8:0:1::1]:1")));
        }
    }

    #[test]
    fn what_is_answered_costs_nothing() {
        let mut budget = Budget::default();
        for port in 1..1_000 {
            let there = to(&format!("192.0.2.1:{port}"));
            assert!(budget.spend(at(0), there) && budget.spend(at(0), there), "{port}");
            budget.refund(at(0), there, 2);
        }
        budget.refund(at(0), to("192.0.2.9:1"), 7);
        assert_eq!((0..100).filter(|_| budget.spend(at(0), to("192.0.2.9:1"))).count(), 6, "nothing can be saved up");
    }

    #[test]
    fn memory_is_bounded_and_what_is_long_ago_makes_room() {
        let mut budget = Budget::default();
        for n in 0..20_000_u32 {
            budget.spend(at(0), SocketAddr::new(IpAddr::V4(n.into()), 1));
        }
        assert!(budget.0.len() <= MAX_REMEMBERED, "{}", budget.0.len());
        assert!(!budget.spend(at(0), to("192.0.2.1:1")));
        assert!(budget.spend(at(60), to("192.0.2.1:1")));
        assert_eq!(budget.0.len(), 2);
    }

    fn to(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }
}
