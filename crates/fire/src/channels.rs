//! Channel numbers on one server and what they are bound to.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use campfire_protocol::time::Time;
use campfire_protocol::wire::MemberId;

/// A member in one of our rooms.
pub(crate) type Member = (u8, MemberId);

const FIRST: u16 = 0x4000;
const LAST: u16 = 0x4FFF;
/// A number is not used for another member sooner (RFC 8656 §12: 5 minutes).
const REST: Duration = Duration::from_mins(5);

/// How far a binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// To be asked for, not before this time.
    Wanted(Time),
    /// Asked for.
    Asking,
    /// Granted.
    Bound,
    /// Granted once and asked for again (another transport); usable meanwhile.
    Renewing,
}

/// A binding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    pub(crate) channel: u16,
    pub(crate) state: State,
    /// Other numbers tried because the server refused one.
    pub(crate) renumbered: u8,
}

impl Binding {
    pub(crate) fn usable(&self) -> bool {
        matches!(self.state, State::Bound | State::Renewing)
    }
}

/// All of a server's.
#[derive(Debug)]
pub(crate) struct Channels {
    bindings: BTreeMap<Member, Binding>,
    numbers: BTreeMap<u16, Member>,
    resting: VecDeque<(Time, u16)>,
    next: u16,
}

impl Channels {
    /// `start`: any number; decides which channel is given first (a restarted process that meets its old bindings on the
    /// server shall seldom collide).
    pub(crate) fn new(start: u16) -> Self {
        Self { bindings: BTreeMap::new(), numbers: BTreeMap::new(), resting: VecDeque::new(), next: FIRST + start % (LAST - FIRST + 1) }
    }

    /// The binding for a member, made if need be; `None` when no number is free.
    pub(crate) fn want(&mut self, now: Time, member: Member) -> Option<&mut Binding> {
        if !self.bindings.contains_key(&member) {
            let channel = self.free_number(now)?;
            self.numbers.insert(channel, member);
            self.bindings.insert(member, Binding { channel, state: State::Wanted(now), renumbered: 0 });
        }
        self.bindings.get_mut(&member)
    }

    /// Gives the binding another number because the server refused the one it has. `false`: no more of it.
    pub(crate) fn renumber(&mut self, now: Time, member: Member) -> bool {
        let Some(renumbered) = self.bindings.get(&member).map(|binding| binding.renumbered) else { return false };
        self.remove(now, member);
        if renumbered >= 3 {
            return false;
        }
        let Some(binding) = self.want(now, member) else { return false };
        binding.renumbered = renumbered + 1;
        true
    }

    /// Forgets a binding; its number rests.
    pub(crate) fn remove(&mut self, now: Time, member: Member) -> Option<Binding> {
        let binding = self.bindings.remove(&member)?;
        self.numbers.remove(&binding.channel);
        self.resting.push_back((now + REST, binding.channel));
        Some(binding)
    }

    pub(crate) fn get(&self, member: Member) -> Option<&Binding> {
        self.bindings.get(&member)
    }

    pub(crate) fn get_mut(&mut self, member: Member) -> Option<&mut Binding> {
        self.bindings.get_mut(&member)
    }

    pub(crate) fn member(&self, channel: u16) -> Option<Member> {
        self.numbers.get(&channel).copied()
    }

    /// Whether anybody of this room is bound.
    pub(crate) fn any_in(&self, room: u8) -> bool {
        self.bindings.keys().any(|member| member.0 == room)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Member, &Binding)> {
        self.bindings.iter().map(|(member, binding)| (*member, binding))
    }

    /// Bindings in a room have to be asked for again: void or, if the seat was kept, usable meanwhile.
    pub(crate) fn renew(&mut self, now: Time, room: u8, kept: bool) {
        for (_, binding) in self.bindings.iter_mut().filter(|(member, _)| member.0 == room) {
            binding.state = if kept && binding.usable() { State::Renewing } else { State::Wanted(now) };
        }
    }

    fn free_number(&mut self, now: Time) -> Option<u16> {
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            self.resting.pop_front();
        }
        for _ in FIRST..=LAST {
            let number = self.next;
            self.next = if number == LAST { FIRST } else { number + 1 };
            if !self.numbers.contains_key(&number) && !self.resting.iter().any(|(_, resting)| *resting == number) {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u16) -> Member {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&n.to_be_bytes());
        (0, MemberId(id))
    }

    #[test]
    fn numbers_stay_in_range_and_rest_for_five_minutes() {
        let mut channels = Channels::new(0xFFFF);
        let start = Time::from_micros(0);
        let all: Vec<u16> = (0..4096).map(|n| channels.want(start, member(n)).unwrap().channel).collect();
        assert!(all.iter().all(|n| (FIRST..=LAST).contains(n)));
        assert!(channels.want(start, member(5000)).is_none(), "all are taken");
        let freed = channels.remove(start, member(7)).unwrap().channel;
        assert!(channels.want(start + Duration::from_secs(299), member(5000)).is_none(), "it rests");
        assert_eq!(channels.want(start + Duration::from_mins(5), member(5000)).unwrap().channel, freed);
    }

    #[test]
    fn a_refused_number_is_replaced_three_times_and_no_more() {
        let mut channels = Channels::new(0);
        let now = Time::from_micros(0);
        let first = channels.want(now, member(1)).unwrap().channel;
        assert!(channels.renumber(now, member(1)));
        assert_ne!(channels.get(member(1)).unwrap().channel, first);
        assert!(channels.renumber(now, member(1)) && channels.renumber(now, member(1)));
        assert!(!channels.renumber(now, member(1)));
        assert_eq!(channels.iter().count(), 0);
    }
}
