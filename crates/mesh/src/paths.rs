//! A link's direct paths: those that are being checked, those that work, and which of these is used.

use std::net::SocketAddr;
use std::time::Duration;

use campfire_protocol::carrier::{Path, SocketId};
use campfire_protocol::time::Time;

use crate::liveness::Liveness;

/// Most working paths kept: the one in use and one beside it.
const MAX_DIRECT: usize = 2;
/// Most pairs checked at a time.
const MAX_CHECKS: usize = 24;
/// How often a pair on which something unexpected came is checked back.
const CHECK_BACK: Duration = Duration::from_millis(100);
/// When a full-size probe is repeated, and how often.
const FULL_AGAIN: Duration = Duration::from_millis(400);
const FULL_TRIES: u8 = 5;
/// A direct path is pinged this often when idle: NAT mappings live 30 s and more.
const IDLE: Duration = Duration::from_secs(29);
/// Where they live shorter, down to this.
const IDLE_MIN: Duration = Duration::from_secs(8);

/// A direct path: our socket and the address at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pair {
    pub(crate) socket: SocketId,
    pub(crate) remote: SocketAddr,
}

impl Pair {
    pub(crate) fn path(self) -> Path {
        Path::Direct { socket: self.socket, remote: self.remote }
    }
}

/// A path that works.
#[derive(Clone, Debug)]
pub(crate) struct Direct {
    pub(crate) pair: Pair,
    pub(crate) live: Liveness,
}

/// A pair that is being checked.
#[derive(Clone, Debug)]
struct Check {
    pair: Pair,
    checked: Time,
    /// A small probe came back: full-size ones sent, and when the next is due.
    full: Option<(u8, Time)>,
}

/// All direct paths of a link.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths {
    works: Vec<Direct>,
    current: Option<Pair>,
    checks: Vec<Check>,
    /// The last try found a pair that carries small packets alone.
    narrow: bool,
    /// The other side pings first.
    pub(crate) patient: bool,
    /// How long one may idle, as far as is known.
    idle: Idle,
}

/// How long a path may idle before it is pinged.
#[derive(Clone, Copy, Debug)]
struct Idle(Duration);

impl Default for Idle {
    fn default() -> Self {
        Self(IDLE)
    }
}

impl Paths {
    /// The path in use.
    pub(crate) fn current(&self) -> Option<&Direct> {
        self.works.iter().find(|direct| Some(direct.pair) == self.current)
    }

    /// A working path.
    pub(crate) fn get(&mut self, pair: Pair) -> Option<&mut Direct> {
        self.works.iter_mut().find(|direct| direct.pair == pair)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self { patient: self.patient, ..Self::default() };
    }

    /// Whether any path or check uses this socket.
    pub(crate) fn uses(&self, socket: SocketId) -> bool {
        self.works.iter().any(|direct| direct.pair.socket == socket) || self.checks.iter().any(|check| check.pair.socket == socket)
    }

    /// A socket is gone. Tells whether the path in use went with it.
    pub(crate) fn close(&mut self, socket: SocketId) -> bool {
        self.works.retain(|direct| direct.pair.socket != socket);
        self.checks.retain(|check| check.pair.socket != socket);
        self.settle()
    }

    /// A new try begins: what was checked before is void.
    pub(crate) fn begin(&mut self) {
        self.checks.clear();
    }

    /// A small probe is about to be sent on a pair. Tells whether it should be: not where one was answered already.
    pub(crate) fn check(&mut self, now: Time, pair: Pair) -> bool {
        if let Some(check) = self.checks.iter_mut().find(|check| check.pair == pair) {
            check.checked = now;
            return check.full.is_none();
        }
        if self.checks.len() >= MAX_CHECKS {
            return false;
        }
        self.checks.push(Check { pair, checked: now, full: None });
        true
    }

    /// Whether a pair may still turn out to work.
    pub(crate) fn is_open(&self, pair: Pair) -> bool {
        let answered = |check: &Check| check.pair == pair && check.full.is_some();
        !self.checks.iter().any(answered) && !self.works.iter().any(|direct| direct.pair == pair)
    }

    /// Something authentic came on a pair that is not known to work. Tells whether to check it now.
    pub(crate) fn surprise(&mut self, now: Time, pair: Pair) -> bool {
        if self.works.iter().any(|direct| direct.pair == pair) {
            return false;
        }
        if let Some(check) = self.checks.iter().find(|check| check.pair == pair)
            && (check.full.is_some_and(|(tries, _)| tries < FULL_TRIES) || now.since(check.checked) < CHECK_BACK)
        {
            return false;
        }
        if self.checks.len() >= MAX_CHECKS {
            // The oldest gives way: an address that really is the peer's shows itself again.
            if let Some(oldest) = (0..self.checks.len()).min_by_key(|index| self.checks[*index].checked) {
                self.checks.swap_remove(oldest);
            }
        }
        self.checks.retain(|check| check.pair != pair);
        self.checks.push(Check { pair, checked: now, full: None });
        true
    }

    /// A small probe came back. Tells whether to send a full-size one now.
    pub(crate) fn small_came_back(&mut self, now: Time, pair: Pair) -> bool {
        if self.works.iter().any(|direct| direct.pair == pair) {
            return false;
        }
        match self.checks.iter_mut().find(|check| check.pair == pair) {
            Some(check) if check.full.is_none() => {
                check.full = Some((1, now + FULL_AGAIN));
                true
            }
            _ => false,
        }
    }

    /// Full-size probes that are due again.
    pub(crate) fn full_again(&mut self, now: Time) -> Vec<Pair> {
        let mut again = Vec::new();
        for check in &mut self.checks {
            if let Some((tries, at)) = &mut check.full
                && *at <= now
                && *tries < FULL_TRIES
            {
                *tries += 1;
                *at = now + FULL_AGAIN;
                again.push(check.pair);
            }
        }
        again
    }

    /// A full-size probe came back: the path works.
    pub(crate) fn full_came_back(&mut self, now: Time, pair: Pair, rtt: Duration) {
        self.checks.retain(|check| check.pair != pair);
        if let Some(direct) = self.get(pair) {
            direct.live.answered(now, rtt);
            return;
        }
        let mut live = Liveness::new(now, self.idle.0, self.patient);
        live.answered(now, rtt);
        self.works.push(Direct { pair, live });
        self.choose();
        if self.works.len() > MAX_DIRECT
            && let Some(worst) = (0..self.works.len())
                .filter(|index| Some(self.works[*index].pair) != self.current)
                .max_by_key(|index| (self.works[*index].live.in_doubt(), self.works[*index].live.rtt.get()))
        {
            self.works.swap_remove(worst);
        }
    }

    /// A try ended without a path.
    pub(crate) fn failed(&mut self) {
        self.narrow = self.checks.iter().any(|check| check.full.is_some_and(|(tries, _)| tries >= FULL_TRIES));
    }

    /// Whether small packets came through in the last try, and no large ones.
    pub(crate) fn is_narrow(&self) -> bool {
        self.narrow
    }

    /// Picks the path to use: the one in use, unless it is in doubt or another is clearly faster. Tells whether it changed.
    pub(crate) fn choose(&mut self) -> bool {
        let before = self.current;
        let sound = |direct: &&Direct| !direct.live.in_doubt();
        let best = self.works.iter().filter(sound).min_by_key(|direct| direct.live.rtt.get());
        match (self.current(), best) {
            (_, None) => {}
            (None, Some(best)) => self.current = Some(best.pair),
            (Some(current), Some(best)) => {
                let (now, then) = (current.live.rtt.get().unwrap_or_default(), best.live.rtt.get().unwrap_or_default());
                if current.live.in_doubt() || then * 5 / 4 + Duration::from_millis(1) < now {
                    self.current = Some(best.pair);
                }
            }
        }
        self.current != before
    }

    /// Drops paths that are dead, the one in use only if `fallback` says that there is another way. Tells whether the one in use went.
    pub(crate) fn prune(&mut self, fallback: bool) -> bool {
        let current = self.current;
        if fallback && self.current().is_some_and(|direct| direct.live.was_forgotten()) {
            self.idle.0 = (self.idle.0 * 2 / 3).max(IDLE_MIN);
        }
        self.works.retain(|direct| !direct.live.is_dead() || (Some(direct.pair) == current && !fallback));
        self.settle()
    }

    /// Pairs whose ping is due; the miss of the one before is counted.
    pub(crate) fn pings(&mut self, now: Time) -> Vec<Pair> {
        self.works.iter_mut().filter_map(|direct| direct.live.ping(now).then_some(direct.pair)).collect()
    }

    /// When something is due.
    pub(crate) fn due(&self) -> Option<Time> {
        let full = self.checks.iter().filter_map(|check| check.full.filter(|(tries, _)| *tries < FULL_TRIES).map(|(_, at)| at));
        self.works.iter().map(|direct| direct.live.due()).chain(full).min()
    }

    fn settle(&mut self) -> bool {
        if self.current.is_some() && self.current().is_none() {
            self.current = None;
            self.choose();
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_carries_nothing_before_a_full_size_probe_came_back() {
        let mut paths = Paths::default();
        assert!(paths.check(at(0), pair(1)));
        assert!(paths.small_came_back(at(40), pair(1)));
        assert!(!paths.small_came_back(at(41), pair(1)), "one full-size probe at a time");
        assert!(paths.current().is_none());
        assert_eq!(paths.full_again(at(440)), [pair(1)]);
        paths.full_came_back(at(480), pair(1), ms(40));
        assert_eq!(paths.current().unwrap().pair, pair(1));
    }

    #[test]
    fn a_path_that_loses_large_packets_is_given_up() {
        let mut paths = Paths::default();
        paths.check(at(0), pair(1));
        paths.small_came_back(at(0), pair(1));
        for i in 1..100 {
            paths.full_again(at(i * 400));
        }
        assert!(!paths.is_narrow(), "the try has not ended");
        paths.failed();
        assert!(paths.is_narrow());
        paths.begin();
        assert!(paths.is_narrow(), "until the next try ends, too");
        paths.failed();
        assert!(!paths.is_narrow());
        assert_eq!(paths.due(), None);
    }

    #[test]
    fn a_slightly_faster_path_is_no_reason_to_change() {
        let mut paths = works(&[(1, 40), (2, 38)]);
        paths.choose();
        assert_eq!(paths.current().unwrap().pair, pair(1));
        let mut paths = works(&[(1, 40), (2, 10)]);
        paths.choose();
        assert_eq!(paths.current().unwrap().pair, pair(2));
    }

    #[test]
    fn the_last_way_is_never_dropped() {
        let mut paths = works(&[(1, 40)]);
        while !paths.works[0].live.is_dead() {
            let due = paths.due().unwrap();
            paths.pings(due);
        }
        assert!(!paths.prune(false));
        assert!(paths.current().is_some());
        assert!(paths.prune(true));
        assert!(paths.current().is_none());
    }

    #[test]
    fn strange_addresses_are_checked_back_but_not_without_bound() {
        let mut paths = Paths::default();
        assert!(paths.surprise(at(0), pair(1)));
        assert!(!paths.surprise(at(50), pair(1)));
        assert!(paths.surprise(at(150), pair(1)));
        for i in 0..1_000 {
            paths.surprise(at(200), pair(i));
        }
        assert!(paths.checks.len() <= MAX_CHECKS);
    }

    fn works(list: &[(u16, u64)]) -> Paths {
        let mut paths = Paths::default();
        for (port, rtt) in list {
            paths.check(at(0), pair(*port));
            paths.full_came_back(at(0), pair(*port), ms(*rtt));
        }
        paths
    }

    fn pair(port: u16) -> Pair {
        Pair { socket: SocketId(0), remote: SocketAddr::from(([1, 2, 3, 4], port)) }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }
}
