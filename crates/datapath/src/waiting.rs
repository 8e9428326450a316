//! Packets that wait for a session, briefly and bounded: what an application sends first should arrive, not be asked for again
//! a second later.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use campfire_protocol::time::Time;

/// Addresses that are waited for at a time.
const ADDRESSES: usize = 256;

/// Packets for one address.
const PACKETS: usize = 64;

/// Bytes in all.
const BYTES: usize = 1 << 20;

/// How long a packet waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often an address is asked for.
const PACE: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Queue {
    packets: VecDeque<(Time, Vec<u8>)>,
    asked: Option<Time>,
}

/// The packets, by destination.
#[derive(Default)]
pub struct Waiting {
    queues: HashMap<IpAddr, Queue>,
    bytes: usize,
}

/// What became of a packet to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The control plane is to be asked for this address now.
    pub ask: bool,
    /// Packets given up for it (this one or an older one).
    pub dropped: usize,
}

impl Waiting {
    /// Keeps a packet (with its header).
    pub fn keep(&mut self, address: IpAddr, packet: &[u8], now: Time) -> Kept {
        if !self.queues.contains_key(&address) && self.queues.len() >= ADDRESSES {
            return Kept { ask: false, dropped: 1 };
        }
        let queue = self.queues.entry(address).or_default();
        let ask = queue.asked.is_none_or(|asked| now.since(asked) >= PACE);
        if ask {
            queue.asked = Some(now);
        }
        if self.bytes + packet.len() > BYTES {
            return Kept { ask, dropped: 1 };
        }
        let mut dropped = 0;
        if queue.packets.len() == PACKETS
            && let Some((_, oldest)) = queue.packets.pop_front()
        {
            self.bytes -= oldest.len();
            dropped = 1;
        }
        self.bytes += packet.len();
        queue.packets.push_back((now, packet.to_vec()));
        Kept { ask, dropped }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Takes out the packets, in order, for each address for which `ready` says so.
    pub fn release(&mut self, mut ready: impl FnMut(&IpAddr) -> bool) -> Vec<Vec<u8>> {
        let mut released = Vec::new();
        self.queues.retain(|address, queue| {
            if !ready(address) {
                return true;
            }
            released.extend(queue.packets.drain(..).map(|(_, packet)| packet));
            false
        });
        self.bytes -= released.iter().map(Vec::len).sum::<usize>();
        released
    }

    /// Takes out what has waited too long: where `sooner` knows better, no longer than that.
    pub fn expire(&mut self, now: Time, sooner: impl Fn(&IpAddr) -> Option<Duration>) -> Vec<(IpAddr, Vec<u8>)> {
        let mut expired = Vec::new();
        self.queues.retain(|address, queue| {
            let patience = sooner(address).unwrap_or(PATIENCE).min(PATIENCE);
            while let Some((_, packet)) = queue.packets.pop_front_if(|(since, _)| now.since(*since) > patience) {
                expired.push((*address, packet));
            }
            !queue.packets.is_empty() || queue.asked.is_some_and(|asked| now.since(asked) < PACE)
        });
        self.bytes -= expired.iter().map(|(_, packet)| packet.len()).sum::<usize>();
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_in_order_and_others_stay() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.keep(address(1), &[1], at(0)), Kept { ask: true, dropped: 0 });
        assert_eq!(waiting.keep(address(1), &[2], at(1)), Kept { ask: false, dropped: 0 });
        waiting.keep(address(2), &[3], at(1));
        assert_eq!(waiting.release(|of| *of == address(1)), [vec![1], vec![2]]);
        assert_eq!(waiting.bytes, 1);
        assert!(!waiting.is_empty());
    }

    #[test]
    fn everything_is_bounded() {
        let mut waiting = Waiting::default();
        let dropped: usize = (0..100).map(|_| waiting.keep(address(1), &[0; 100], at(0)).dropped).sum();
        assert_eq!((dropped, waiting.bytes), (36, 6400));
        for index in 0..1000 {
            waiting.keep(address(index), &[0; 10_000], at(0));
        }
        assert!(waiting.queues.len() <= ADDRESSES && waiting.bytes <= BYTES);
    }

    #[test]
    fn packets_expire_and_an_address_is_asked_for_at_a_pace() {
        let mut waiting = Waiting::default();
        waiting.keep(address(1), &[1], at(0));
        assert!(!waiting.keep(address(1), &[1], at(499)).ask);
        assert!(waiting.keep(address(1), &[1], at(500)).ask);
        assert_eq!(waiting.expire(at(5400), |_| None).len(), 1);
        assert_eq!(waiting.expire(at(6000), |_| None).len(), 2);
        assert!(waiting.is_empty() && waiting.bytes == 0);
    }

    #[test]
    fn where_nobody_is_to_be_found_a_packet_waits_less_long() {
        let mut waiting = Waiting::default();
        waiting.keep(address(1), &[1], at(0));
        waiting.keep(address(2), &[2], at(0));
        let sooner = |of: &IpAddr| (*of == address(1)).then_some(Duration::from_secs(1));
        assert!(waiting.expire(at(1_000), sooner).is_empty());
        assert_eq!(waiting.expire(at(1_001), sooner), [(address(1), vec![1])]);
        assert_eq!(waiting.bytes, 1);
    }

    fn address(index: u32) -> IpAddr {
        IpAddr::V4(index.into())
    }

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }
}
