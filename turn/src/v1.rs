//! Campfire version 1 (webmesh, August 2023): nodes that share a key tell each other through this server how to connect, by
//! datagrams that it passes on unread (docs/campfire-v1.md). A *waiter* announces itself, *joiners* make it offers.
//!
//! Nothing proves who sends what: a source is whatever a datagram says. So nothing is answered, what is passed on is passed
//! on once and as it came, and all that is kept is bounded: in all, for each source, in size and in time.

use std::collections::{BTreeSet, VecDeque};
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use campfire_protocol::time::{Time, UnixMillis};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use crate::Stats;
use crate::config::Limits;
use crate::cost;
use crate::io::{Output, Via};
use crate::limit::{Prefixes, household};
use crate::table::{Map, Slab, map};

mod wire;

pub(crate) use wire::claims;
use wire::{Id, Message, Side};

/// Sides change with every full hour (UTC), and what is kept ends with it.
const HOUR: u64 = 3_600_000;
/// Who is ahead by less than this has the next hour's side already; and what began just before the hour comes to its end.
const AHEAD: u64 = 60_000;
/// How long a joiner's datagrams are held for its waiter: as long as a NAT may be expected to let an answer in (RFC 4787,
/// REQ-5).
const HOLD: Duration = Duration::from_mins(2);
/// Most datagrams that are held for one negotiation.
const MAX_HELD: usize = 16;
/// Most bytes that are held for one waiter: what an announcement can set free at once.
const MAX_HELD_FOR_ONE: usize = 32 << 10;
/// Of the server's memory, this part is the most that version 1 takes.
const SHARE: usize = 8;

/// What a message meets: the time, the limits, and where its effects go.
pub(crate) struct Context<'a> {
    pub now: Time,
    pub wall: UnixMillis,
    pub limits: &'a Limits,
    /// Bytes of state that others hold.
    pub elsewhere: usize,
    pub stats: &'a mut Stats,
    pub outputs: &'a mut VecDeque<Output>,
}

impl Context<'_> {
    /// Most bytes that may be held here.
    fn room(&self) -> usize {
        self.limits.memory.saturating_sub(self.elsewhere).min(self.limits.memory / SHARE)
    }

    /// When what is heard of now ends: with the hour.
    fn end_of_hour(&self) -> Time {
        let rest = HOUR - self.wall.0.saturating_add(AHEAD) % HOUR;
        self.now + Duration::from_millis(rest + AHEAD)
    }
}

/// By what an entry is found: the waiter's side, and the negotiation; none: the waiter itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Name {
    side: Side,
    id: Option<Id>,
}

/// All names of one waiter's side.
fn all_of(side: Side) -> RangeInclusive<Name> {
    Name { side, id: None }..=Name { side, id: Some(Id::MAX) }
}

struct Entry {
    name: Name,
    /// Whom it counts for.
    household: IpAddr,
    /// The how many-th ever.
    number: u64,
    ends: Time,
    who: Who,
}

enum Who {
    Waiter(Via),
    Joiner(Negotiation),
}

/// A joiner's negotiation with its waiter.
struct Negotiation {
    joiner: Via,
    /// Who had announced itself first when the offer was passed on, or answered it since.
    waiter: Option<Via>,
    /// The offer has come.
    offered: bool,
    /// What came before there was a waiter, or before the offer; the offer first.
    held: Vec<Vec<u8>>,
}

impl Negotiation {
    fn held(&self) -> usize {
        self.held.iter().map(|bytes| cost::V1_HELD + bytes.len()).sum()
    }
}

/// What was passed on of late, so that it is not passed on again: servers that were made to take each other for nodes would
/// send one datagram around without end. A table of fixed size, where a newer datagram takes an older one's place.
struct Passed {
    hashes: Box<[u64]>,
    hash: foldhash::quality::FixedState,
}

impl Passed {
    /// To push one datagram out takes about as many others, each of which the rates count.
    const PLACES: usize = 1 << 14;

    fn new(seed: u64) -> Self {
        Self { hashes: vec![0; Self::PLACES].into(), hash: foldhash::quality::FixedState::with_seed(seed) }
    }

    /// Notes a datagram; whether it was not there yet.
    fn note(&mut self, bytes: &[u8]) -> bool {
        let hash = self.hash.hash_one(bytes);
        let place = hash as usize % Self::PLACES;
        self.hashes.get_mut(place).is_some_and(|before| std::mem::replace(before, hash) != hash)
    }
}

/// All that is known of version 1's nodes.
pub(crate) struct Rendezvous {
    index: Map<Name, u32>,
    entries: Slab<Entry>,
    waiters: usize,
    /// Negotiations that hold something.
    holding: BTreeSet<Name>,
    /// Bytes that they hold.
    held: usize,
    ends: BTreeSet<(Time, u32)>,
    /// Each household's entries: negotiations before waiters, the oldest first.
    households: BTreeSet<(IpAddr, bool, u64, u32)>,
    /// Entries ever made.
    opened: u64,
    senders: Prefixes,
    receivers: Prefixes,
    passed: Passed,
    rng: ChaCha8Rng,
}

impl Rendezvous {
    pub fn new(rng: &mut ChaCha8Rng) -> Self {
        Self {
            index: map(rng.next_u64()),
            entries: Slab::new(),
            waiters: 0,
            holding: BTreeSet::new(),
            held: 0,
            ends: BTreeSet::new(),
            households: BTreeSet::new(),
            opened: 0,
            senders: Prefixes::new(rng.next_u64()),
            receivers: Prefixes::new(rng.next_u64()),
            passed: Passed::new(rng.next_u64()),
            rng: ChaCha8Rng::seed_from_u64(rng.next_u64()),
        }
    }

    /// Takes a datagram that [`claims`] to be of version 1.
    pub fn message(&mut self, at: &mut Context<'_>, via: Via, bytes: &[u8]) {
        self.expire(at.now, at.stats);
        if !self.senders.take(at.now, at.limits.v1_datagrams, via.remote().ip()) {
            at.stats.v1_dropped_sender += 1;
            return;
        }
        let Some(message) = wire::read(bytes) else {
            at.stats.v1_dropped_malformed += 1;
            return;
        };
        let name = |side, id| Name { side, id: Some(id) };
        match message {
            Message::Announce { own } => {
                at.stats.v1_announces += 1;
                self.announce(at, via, own);
            }
            Message::Offer { id, other } => {
                at.stats.v1_offers += 1;
                self.joiner_speaks(at, via, name(other, id), bytes, true);
            }
            Message::Answer { id, own } => {
                at.stats.v1_answers += 1;
                self.waiter_speaks(at, via, name(own, id), bytes);
            }
            Message::Candidate { id, own, other } => {
                at.stats.v1_candidates += 1;
                if self.index.contains_key(&name(own, id)) {
                    self.waiter_speaks(at, via, name(own, id), bytes);
                } else {
                    self.joiner_speaks(at, via, name(other, id), bytes, false);
                }
            }
        }
    }

    /// Ends what is over.
    pub fn expire(&mut self, now: Time, stats: &mut Stats) {
        while let Some((_, entry)) = self.ends.first().filter(|(ends, _)| *ends <= now) {
            self.end(*entry, stats);
            stats.v1_ended_expired += 1;
        }
    }

    /// When something is over next.
    pub fn next(&self) -> Option<Time> {
        self.ends.first().map(|(ends, _)| *ends)
    }

    /// Bytes of state.
    pub fn held(&self) -> usize {
        self.index.len() * cost::V1_ENTRY + self.held
    }

    pub fn gauge(&self, stats: &mut Stats) {
        stats.v1_waiters = self.waiters as u64;
        stats.v1_negotiations = (self.index.len() - self.waiters) as u64;
        stats.v1_held = self.held as u64;
    }

    /// A waiter: the last one to announce itself is the one that newcomers meet.
    fn announce(&mut self, at: &mut Context<'_>, via: Via, side: Side) {
        let name = Name { side, id: None };
        if let Some(before) = self.index.get(&name) {
            self.end(*before, at.stats);
        }
        if self.open(at, name, via, Who::Waiter(via)).is_none() {
            return;
        }
        let joiners: Vec<Name> = self.holding.range(all_of(side)).copied().collect();
        for name in joiners {
            let Some(negotiation) = self.negotiation(name) else { continue };
            negotiation.waiter = Some(via);
            if negotiation.offered {
                self.release(at, name);
            }
        }
    }

    /// An offer or a candidate of a joiner: for the waiter, or whoever comes to wait.
    fn joiner_speaks(&mut self, at: &mut Context<'_>, via: Via, name: Name, bytes: &[u8], offer: bool) {
        let announced = self.index.get(&Name { id: None, ..name }).and_then(|entry| match self.entries.get(*entry)?.who {
            Who::Waiter(via) => Some(via),
            Who::Joiner(_) => None,
        });
        let new = Negotiation { joiner: via, waiter: None, offered: false, held: Vec::new() };
        if !self.index.contains_key(&name) && self.open(at, name, via, Who::Joiner(new)).is_none() {
            return;
        }
        let Some(negotiation) = self.negotiation(name) else { return };
        negotiation.joiner = via;
        negotiation.waiter = negotiation.waiter.or(announced);
        match negotiation.waiter {
            Some(waiter) if offer || negotiation.offered => {
                negotiation.offered = true;
                self.send(at, waiter, bytes.to_vec());
                self.release(at, name);
            }
            _ => self.hold(at, name, bytes, offer),
        }
    }

    /// An answer or a candidate of a waiter, for one joiner.
    fn waiter_speaks(&mut self, at: &mut Context<'_>, via: Via, name: Name, bytes: &[u8]) {
        let Some(negotiation) = self.negotiation(name) else {
            at.stats.v1_dropped_no_receiver += 1;
            return;
        };
        negotiation.waiter = Some(via);
        let joiner = negotiation.joiner;
        self.send(at, joiner, bytes.to_vec());
        if self.negotiation(name).is_some_and(|negotiation| negotiation.offered) {
            self.release(at, name);
        }
    }

    /// Keeps a datagram of a joiner until it can be passed on. What finds no room is dropped, and with it a negotiation that
    /// holds nothing.
    fn hold(&mut self, at: &mut Context<'_>, name: Name, bytes: &[u8], offer: bool) {
        let size = cost::V1_HELD + bytes.len();
        let fits = self.held_for(name.side) + size <= MAX_HELD_FOR_ONE && self.held() + size <= at.room();
        let Some(negotiation) = self.negotiation(name) else { return };
        if !fits || negotiation.held.len() >= MAX_HELD {
            at.stats.v1_dropped_hold += 1;
            if negotiation.held.is_empty()
                && let Some(entry) = self.index.get(&name)
            {
                self.end(*entry, at.stats);
            }
            return;
        }
        let place = if offer { 0 } else { negotiation.held.len() };
        negotiation.held.insert(place, bytes.to_vec());
        negotiation.offered |= offer;
        self.held += size;
        self.holding.insert(name);
        self.renew(name, at.now + HOLD);
    }

    /// Passes on what was held: there is a waiter now, and the offer.
    fn release(&mut self, at: &mut Context<'_>, name: Name) {
        self.renew(name, at.end_of_hour());
        self.holding.remove(&name);
        let Some(negotiation) = self.negotiation(name) else { return };
        let Some(waiter) = negotiation.waiter else { return };
        let size = negotiation.held();
        let held = std::mem::take(&mut negotiation.held);
        self.held -= size;
        for bytes in held {
            self.send(at, waiter, bytes);
        }
    }

    /// Bytes that are held for one waiter.
    fn held_for(&self, side: Side) -> usize {
        let held = |name: &Name| match &self.entries.get(*self.index.get(name)?)?.who {
            Who::Joiner(negotiation) => Some(negotiation.held()),
            Who::Waiter(_) => None,
        };
        self.holding.range(all_of(side)).filter_map(held).sum()
    }

    fn send(&mut self, at: &mut Context<'_>, via: Via, bytes: Vec<u8>) {
        if !self.receivers.take(at.now, at.limits.v1_datagrams, via.remote().ip()) {
            at.stats.v1_dropped_receiver += 1;
        } else if !self.passed.note(&bytes) {
            at.stats.v1_dropped_repeated += 1;
        } else {
            at.stats.v1_forwarded += 1;
            at.outputs.push_back(Output::Send { via, bytes });
        }
    }

    fn negotiation(&mut self, name: Name) -> Option<&mut Negotiation> {
        match &mut self.entries.get_mut(*self.index.get(&name)?)?.who {
            Who::Joiner(negotiation) => Some(negotiation),
            Who::Waiter(_) => None,
        }
    }

    /// A new entry. Whoever has too many already replaces one of its own; when there are too many in all, one of anybody's
    /// makes way.
    fn open(&mut self, at: &mut Context<'_>, name: Name, via: Via, who: Who) -> Option<u32> {
        let household = household(via.remote().ip());
        let all = (household, false, 0, 0)..=(household, true, u64::MAX, u32::MAX);
        if self.households.range(all.clone()).count() >= at.limits.v1_entries_per_source {
            let Some((.., oldest)) = self.households.range(all).next().copied() else {
                at.stats.v1_dropped_full += 1;
                return None;
            };
            self.end(oldest, at.stats);
            at.stats.v1_ended_source += 1;
        }
        while self.index.len() >= at.limits.v1_entries || self.held() + cost::V1_ENTRY > at.room() {
            let Some(entry) = self.younger_of_two() else {
                at.stats.v1_dropped_full += 1;
                return None;
            };
            self.end(entry, at.stats);
            at.stats.v1_ended_full += 1;
        }
        let waiter = matches!(who, Who::Waiter(_));
        self.waiters += usize::from(waiter);
        let ends = at.end_of_hour();
        self.opened += 1;
        let number = self.opened;
        let entry = self.entries.insert(Entry { name, household, number, ends, who }).index;
        self.index.insert(name, entry);
        self.ends.insert((ends, entry));
        self.households.insert((household, waiter, number, entry));
        Some(entry)
    }

    /// Who makes way: of two entries taken at random the younger. So a flood from any number of sources displaces itself
    /// rather than who was there before it, and who comes after it is not the next one to go.
    fn younger_of_two(&mut self) -> Option<u32> {
        let end = self.entries.end();
        let mut random = || {
            let start = self.rng.next_u32().checked_rem(end)?;
            (start..end).chain(0..start).find_map(|entry| Some((self.entries.get(entry)?.number, entry)))
        };
        let (one, other) = (random()?, random()?);
        Some(one.max(other).1)
    }

    fn renew(&mut self, name: Name, ends: Time) {
        let Some((place, entry)) = self.index.get(&name).and_then(|place| Some((*place, self.entries.get_mut(*place)?))) else { return };
        self.ends.remove(&(entry.ends, place));
        self.ends.insert((ends, place));
        entry.ends = ends;
    }

    fn end(&mut self, entry: u32, stats: &mut Stats) {
        let Some(Entry { name, household, number, ends, who }) = self.entries.remove(entry) else { return };
        let waiter = matches!(who, Who::Waiter(_));
        self.waiters -= usize::from(waiter);
        if let Who::Joiner(negotiation) = who {
            self.held -= negotiation.held();
            stats.v1_dropped_lapsed += negotiation.held.len() as u64;
        }
        self.index.remove(&name);
        self.holding.remove(&name);
        self.ends.remove(&(ends, entry));
        self.households.remove(&(household, waiter, number, entry));
    }
}
