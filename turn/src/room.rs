//! Rooms and seats: who sits where, the log of changes, and who hears of them.
//!
//! A **small** room keeps a log: each change (an announcement, a departure) takes the next number, each seat stands in it
//! once, with its last change, and departures stay for ten minutes. A member reads on from its cursor.
//!
//! A **large** room keeps none: a change is told to the members that showed an interest in the one that changed, at most so
//! many, so that what a change costs does not grow with the room.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use campfire_protocol::key::{Fingerprint, RoomId, Tag};
use campfire_protocol::time::Time;
use campfire_protocol::wire::{Cursor, Entry, MemberId};

use crate::cost;
use crate::households::Households;
use crate::limit::Bucket;
use crate::table::{Map, Ref, Slab, map};

/// Greater than every household.
const LAST_HOUSEHOLD: IpAddr = IpAddr::V6(std::net::Ipv6Addr::from_bits(u128::MAX));
/// How long departures are remembered.
pub(crate) const DEPARTURES_KEPT: Duration = Duration::from_mins(10);

/// A member's seat.
pub(crate) struct Seat {
    pub room: u32,
    pub member: MemberId,
    /// Where it sits; `None`: its stream has ended.
    pub client: Option<u32>,
    /// Where it stands in the room's list.
    position: u32,
    pub expires: Time,
    /// The timer that counts: one that is due at another time was overtaken.
    pub timer: Time,
    pub taken: Time,
    /// Number of its last change in a small room's log.
    pub sequence: u64,
    /// How far the log has been sent to it.
    pub pushed: u64,
    pub announcement: Box<[u8]>,
    tags: Box<[Tag]>,
    /// Members of whose changes it is told in a large room, oldest first.
    interest: Vec<u32>,
    /// The other direction.
    watchers: Vec<u32>,
    /// Channels that it has bound.
    pub bindings: Vec<u32>,
    /// A frame was relayed for it: it is not evicted.
    exchanged: bool,
    /// Where its client is.
    household: Option<IpAddr>,
    pub requests: Bucket,
    pub signals: Bucket,
    pub slow_frames: Bucket,
}

impl Seat {
    /// Tags under which it can be found.
    pub fn tag_count(&self) -> usize {
        self.tags.len()
    }
}

/// What a new seat is made of.
pub(crate) struct Newcomer {
    pub member: MemberId,
    pub client: u32,
    pub household: IpAddr,
    pub expires: Time,
    pub announcement: Box<[u8]>,
    pub tags: Box<[Tag]>,
}

#[derive(Clone, Copy)]
enum Change {
    Seat(u32),
    Left(MemberId),
}

/// The members that hold one key and camp here.
pub(crate) struct Room {
    pub fingerprint: Fingerprint,
    id: RoomId,
    pub incarnation: u64,
    /// Number of the last change.
    pub head: u64,
    /// Departures up to this number are forgotten: who has read less far begins anew.
    floor: u64,
    pub seats: Vec<u32>,
    log: BTreeMap<u64, Change>,
    departures: VecDeque<(Time, u64)>,
    pub large: bool,
    /// By tag and household, so that one of each is found without looking at all.
    tags: BTreeSet<(Tag, Option<IpAddr>, u32)>,
    pub households: Households,
    /// Large rooms: whom to tell of whom.
    pending: VecDeque<(Ref, MemberId)>,
    /// Waiting to be pushed.
    pub dirty: bool,
    /// Where pushing goes on.
    pub next: usize,
}

impl Room {
    /// Whether a member with this cursor must begin anew.
    pub fn must_reset(&self, cursor: Cursor) -> bool {
        cursor.incarnation != self.incarnation || cursor.sequence < self.floor || cursor.sequence > self.head
    }

    /// Whether something waits to be told in this large room.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// A cursor of this room.
    pub fn cursor(&self, sequence: u64) -> Cursor {
        Cursor { incarnation: self.incarnation, sequence }
    }
}

/// All rooms.
pub(crate) struct Rooms {
    pub open: Slab<Room>,
    pub seats: Slab<Seat>,
    by_room: Map<(Fingerprint, RoomId), u32>,
    by_member: Map<(u32, MemberId), u32>,
    campfires: Map<Fingerprint, Campfire>,
    /// Campfires by their seats.
    by_size: BTreeSet<(usize, Fingerprint)>,
    large: usize,
    /// Pairs of watcher and watched.
    interests: usize,
    /// Departures remembered, in all rooms.
    departures: usize,
    /// What waits to be told, in all rooms.
    pending: usize,
    /// Changes that could not be told: no place to remember them.
    pub untold: u64,
}

/// Those who hold one key.
#[derive(Default)]
struct Campfire {
    rooms: Vec<u32>,
    seats: usize,
}

/// Thresholds that rooms go by.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub large: usize,
    pub small: usize,
    pub departures: usize,
    /// What may wait to be told in one room, and in all of them beyond what does.
    pub pending: usize,
    pub spare: usize,
}

impl Rooms {
    pub fn new(seed: u64) -> Self {
        Self {
            open: Slab::new(),
            seats: Slab::new(),
            by_room: map(seed),
            by_member: map(seed.rotate_left(21)),
            campfires: map(seed.rotate_left(42)),
            by_size: BTreeSet::new(),
            large: 0,
            interests: 0,
            departures: 0,
            pending: 0,
            untold: 0,
        }
    }

    pub fn find(&self, fingerprint: Fingerprint, id: RoomId) -> Option<u32> {
        self.by_room.get(&(fingerprint, id)).copied()
    }

    pub fn member(&self, room: u32, member: MemberId) -> Option<u32> {
        self.by_member.get(&(room, member)).copied()
    }

    /// Rooms of one campfire.
    pub fn rooms_of(&self, fingerprint: Fingerprint) -> usize {
        self.campfires.get(&fingerprint).map_or(0, |campfire| campfire.rooms.len())
    }

    /// Bytes that come and go without a seat's doing, by the estimates of [`cost`].
    pub fn held(&self) -> usize {
        self.interests * cost::INTEREST + self.departures * cost::DEPARTURE + self.pending * cost::PENDING
    }

    /// Of the campfires that hold more seats than this one, the one that holds the most; else this one.
    pub fn largest_campfire(&self, own: Fingerprint) -> Fingerprint {
        let held = self.campfires.get(&own).map_or(0, |campfire| campfire.seats);
        self.by_size.last().filter(|(seats, _)| *seats > held + 1).map_or(own, |(_, fingerprint)| *fingerprint)
    }

    /// Rooms of one campfire, a few at most.
    pub fn rooms_at(&self, fingerprint: Fingerprint) -> impl Iterator<Item = (u32, &Room)> {
        let rooms = self.campfires.get(&fingerprint).map_or(&[][..], |campfire| &campfire.rooms);
        rooms.iter().filter_map(|room| Some((*room, self.open.get(*room)?)))
    }

    /// Counts a campfire's seats anew.
    fn resize(&mut self, fingerprint: Fingerprint, resize: impl FnOnce(&mut Campfire)) {
        let campfire = self.campfires.entry(fingerprint).or_default();
        self.by_size.remove(&(campfire.seats, fingerprint));
        resize(campfire);
        if campfire.rooms.is_empty() {
            self.campfires.remove(&fingerprint);
        } else {
            self.by_size.insert((campfire.seats, fingerprint));
        }
    }

    /// A seat's client is elsewhere now, or (`None`) nowhere.
    pub fn settle(&mut self, seat: u32, household: Option<IpAddr>) {
        let Some(sitting) = self.seats.get_mut(seat) else { return };
        let Some(room) = self.open.get_mut(sitting.room) else { return };
        let before = std::mem::replace(&mut sitting.household, household);
        for tag in &sitting.tags {
            room.tags.remove(&(*tag, before, seat));
            room.tags.insert((*tag, household, seat));
        }
        if let Some(before) = before {
            room.households.remove(before, (sitting.taken, seat));
        }
        if let Some(household) = household {
            room.households.add(household, (sitting.taken, seat), sitting.exchanged);
        }
    }

    /// A frame was relayed for a seat.
    #[inline]
    pub fn note_exchange(&mut self, seat: u32) {
        let Some(sitting) = self.seats.get_mut(seat) else { return };
        if !sitting.exchanged {
            sitting.exchanged = true;
            if let (Some(room), Some(household)) = (self.open.get_mut(sitting.room), sitting.household) {
                room.households.keep(household, (sitting.taken, seat));
            }
        }
    }

    /// Takes what is to be told next in a large room: to whom, of whom.
    pub fn next_pending(&mut self, room: u32) -> Option<(Ref, MemberId)> {
        let next = self.open.get_mut(room)?.pending.pop_front()?;
        self.pending -= 1;
        Some(next)
    }

    /// A room, opened if it is not there. `incarnation` must be random.
    pub fn enter(&mut self, fingerprint: Fingerprint, id: RoomId, incarnation: u64) -> u32 {
        if let Some(room) = self.find(fingerprint, id) {
            return room;
        }
        let room = Room {
            fingerprint,
            id,
            incarnation,
            head: 0,
            floor: 0,
            seats: Vec::new(),
            log: BTreeMap::new(),
            departures: VecDeque::new(),
            large: false,
            tags: BTreeSet::new(),
            households: Households::default(),
            pending: VecDeque::new(),
            dirty: false,
            next: 0,
        };
        let room = self.open.insert(room).index;
        self.by_room.insert((fingerprint, id), room);
        self.resize(fingerprint, |campfire| campfire.rooms.push(room));
        room
    }

    /// Closes a room in which nobody sits.
    fn close_if_empty(&mut self, index: u32) {
        if self.open.get(index).is_some_and(|room| room.seats.is_empty())
            && let Some(room) = self.open.remove(index)
        {
            self.by_room.remove(&(room.fingerprint, room.id));
            self.large -= usize::from(room.large);
            self.departures -= room.departures.len();
            self.pending -= room.pending.len();
            self.resize(room.fingerprint, |campfire| campfire.rooms.retain(|other| *other != index));
        }
    }

    /// Takes a seat in an open room. Whether the room became large by it.
    pub fn sit(&mut self, now: Time, room: u32, newcomer: Newcomer, bounds: Bounds) -> Option<(Ref, bool)> {
        let Newcomer { member, client, household, expires, announcement, tags } = newcomer;
        let inside = self.open.get_mut(room)?;
        let seat = self.seats.insert(Seat {
            room,
            member,
            client: Some(client),
            position: inside.seats.len() as u32,
            expires,
            timer: expires,
            taken: now,
            sequence: 0,
            pushed: inside.head,
            announcement,
            tags,
            interest: Vec::new(),
            watchers: Vec::new(),
            bindings: Vec::new(),
            exchanged: false,
            household: None,
            requests: Bucket::default(),
            signals: Bucket::default(),
            slow_frames: Bucket::default(),
        });
        inside.seats.push(seat.index);
        self.by_member.insert((room, member), seat.index);
        let grown = inside.seats.len() > bounds.large && !inside.large;
        let fingerprint = inside.fingerprint;
        self.resize(fingerprint, |campfire| campfire.seats += 1);
        self.settle(seat.index, Some(household));
        if grown {
            self.become_large(room);
        }
        self.note_change(seat.index, bounds);
        Some((seat, grown))
    }

    /// Replaces what a member says of itself.
    pub fn announce(&mut self, seat: u32, announcement: Box<[u8]>, tags: Box<[Tag]>, bounds: Bounds) {
        let Some(sitting) = self.seats.get_mut(seat) else { return };
        sitting.announcement = announcement;
        if sitting.tags != tags
            && let Some(room) = self.open.get_mut(sitting.room)
        {
            for tag in &sitting.tags {
                room.tags.remove(&(*tag, sitting.household, seat));
            }
            room.tags.extend(tags.iter().map(|tag| (*tag, sitting.household, seat)));
            sitting.tags = tags;
        }
        self.note_change(seat, bounds);
    }

    /// Gives the next number to a seat's change, or tells its watchers.
    fn note_change(&mut self, seat: u32, bounds: Bounds) {
        let Some(sitting) = self.seats.get_mut(seat) else { return };
        let Some(room) = self.open.get_mut(sitting.room) else { return };
        if room.large {
            let (member, watchers) = (sitting.member, sitting.watchers.clone());
            self.tell(sitting_room(&self.seats, seat), member, &watchers, bounds);
            return;
        }
        room.log.remove(&sitting.sequence);
        room.head += 1;
        sitting.sequence = room.head;
        room.log.insert(room.head, Change::Seat(seat));
    }

    fn tell(&mut self, room: Option<u32>, member: MemberId, watchers: &[u32], bounds: Bounds) {
        let Some(room) = room.and_then(|room| self.open.get_mut(room)) else { return };
        let before = room.pending.len();
        let most = bounds.pending.saturating_sub(before).min(bounds.spare);
        room.pending.extend(watchers.iter().filter_map(|watcher| self.seats.reference(*watcher)).take(most).map(|to| (to, member)));
        self.pending += room.pending.len() - before;
        self.untold += watchers.len().saturating_sub(most) as u64;
    }

    /// Leaves a seat. What the caller kept on it (client, bindings) is in what is returned.
    pub fn leave(&mut self, now: Time, seat: u32, incarnation: u64, bounds: Bounds) -> Option<Seat> {
        self.settle(seat, None);
        let mut gone = self.seats.remove(seat)?;
        self.by_member.remove(&(gone.room, gone.member));
        self.interests = self.interests.saturating_sub(gone.interest.len() + gone.watchers.len());
        for watched in std::mem::take(&mut gone.interest) {
            if let Some(watched) = self.seats.get_mut(watched) {
                watched.watchers.retain(|watcher| *watcher != seat);
            }
        }
        let watchers = std::mem::take(&mut gone.watchers);
        for watcher in &watchers {
            if let Some(watcher) = self.seats.get_mut(*watcher) {
                watcher.interest.retain(|watched| *watched != seat);
            }
        }
        let room = self.open.get_mut(gone.room)?;
        for tag in &gone.tags {
            room.tags.remove(&(*tag, gone.household, seat));
        }
        let position = gone.position as usize;
        if position < room.seats.len() {
            room.seats.swap_remove(position);
            if let Some(moved) = room.seats.get(position).and_then(|moved| self.seats.get_mut(*moved)) {
                moved.position = position as u32;
            }
        }
        let fingerprint = room.fingerprint;
        if room.large {
            if room.seats.len() < bounds.small {
                self.become_small(gone.room, incarnation);
            } else {
                self.tell(Some(gone.room), gone.member, &watchers, bounds);
            }
        } else {
            room.log.remove(&gone.sequence);
            room.head += 1;
            room.log.insert(room.head, Change::Left(gone.member));
            room.departures.push_back((now, room.head));
            self.departures += 1;
            while room.departures.len() > bounds.departures
                || room.departures.front().is_some_and(|(when, _)| now.since(*when) > DEPARTURES_KEPT)
            {
                let Some((_, sequence)) = room.departures.pop_front() else { break };
                self.departures -= 1;
                room.log.remove(&sequence);
                room.floor = room.floor.max(sequence);
            }
        }
        self.resize(fingerprint, |campfire| campfire.seats -= 1);
        self.close_if_empty(gone.room);
        Some(gone)
    }

    /// Nobody holds the roster any more.
    fn become_large(&mut self, room: u32) {
        if let Some(room) = self.open.get_mut(room) {
            room.large = true;
            self.large += 1;
            room.log.clear();
            self.departures -= room.departures.len();
            room.departures.clear();
            room.floor = room.head;
        }
    }

    /// A new log begins. It counts on, so that no cursor of the old one looks like one of the new.
    fn become_small(&mut self, room: u32, incarnation: u64) {
        let Some(room) = self.open.get_mut(room) else { return };
        room.large = false;
        self.large -= 1;
        room.incarnation = incarnation;
        self.pending -= room.pending.len();
        room.pending.clear();
        room.head += 1;
        room.floor = room.head;
        for seat in &room.seats {
            room.head += 1;
            room.log.insert(room.head, Change::Seat(*seat));
            if let Some(seat) = self.seats.get_mut(*seat) {
                seat.sequence = room.head;
            }
        }
        for seat in &room.seats {
            if let Some(seat) = self.seats.get_mut(*seat) {
                seat.pushed = room.head;
                self.interests = self.interests.saturating_sub(seat.interest.len());
                (seat.interest, seat.watchers) = (Vec::new(), Vec::new());
            }
        }
    }

    /// Entries after `from` for one reader, as many as fit into `bytes` and `most`, and the number read up to. The reader's
    /// own entry is passed over; `departures`: whether it is told of those.
    pub fn page(&self, reader: u32, from: u64, departures: bool, mut bytes: usize, most: usize) -> (Vec<Entry>, u64) {
        let mut entries = Vec::new();
        let Some(room) = self.seats.get(reader).and_then(|seat| self.open.get(seat.room)) else { return (entries, from) };
        let mut read = from;
        for (sequence, change) in room.log.range(from.saturating_add(1)..) {
            let entry = match change {
                Change::Seat(seat) if *seat == reader => None,
                Change::Seat(seat) => self.entry(*seat),
                Change::Left(member) => departures.then_some(Entry { member: *member, announcement: None }),
            };
            if let Some(entry) = entry {
                let size = entry.encoded_len();
                if size > bytes || entries.len() == most {
                    return (entries, read);
                }
                bytes -= size;
                entries.push(entry);
            }
            read = *sequence;
        }
        (entries, room.head)
    }

    /// What a member says of itself.
    pub fn entry(&self, seat: u32) -> Option<Entry> {
        let seat = self.seats.get(seat)?;
        Some(Entry { member: seat.member, announcement: Some(seat.announcement.to_vec()) })
    }

    /// Up to `most` seats that registered this tag: one of each household before a second of any, so that who registers somebody's tag many
    /// times does not hide it. Where there are more households than that, which ones depends on `start`.
    pub fn tagged(&self, room: u32, tag: Tag, start: u32, most: usize) -> Vec<u32> {
        let Some(room) = self.open.get(room) else { return Vec::new() };
        let somebody = room.seats.get(start as usize % room.seats.len().max(1)).and_then(|seat| self.seats.get(*seat));
        let first = (tag, somebody.and_then(|seat| seat.household), 0);
        let all = || room.tags.range(first..=(tag, Some(LAST_HOUSEHOLD), u32::MAX)).chain(room.tags.range((tag, None, 0)..first));
        let mut found = Vec::with_capacity(most);
        let mut from = Some(first);
        while let Some((_, household, seat)) = from.and_then(|from| room.tags.range(from..=(tag, Some(LAST_HOUSEHOLD), u32::MAX)).next()) {
            found.push(*seat);
            from = (found.len() < most).then_some((tag, *household, u32::MAX));
        }
        let mut from = (found.len() < most).then_some((tag, None, 0));
        while let Some((_, household, seat)) = from.and_then(|from| room.tags.range(from..first).next()) {
            found.push(*seat);
            from = (found.len() < most && (tag, *household, u32::MAX) < first).then_some((tag, *household, u32::MAX));
        }
        let more = most - found.len();
        let further: Vec<u32> = all().map(|(.., seat)| *seat).take(most + more).filter(|seat| !found.contains(seat)).take(more).collect();
        found.extend(further);
        found
    }

    /// `watcher` shall be told of `watched`'s changes while the room is large; the oldest interest makes way. Whether it is
    /// new.
    pub fn watch(&mut self, watcher: u32, watched: u32, most: usize) -> bool {
        let Some(seat) = self.seats.get_mut(watcher) else { return false };
        if watcher == watched || most == 0 || seat.interest.contains(&watched) {
            return false;
        }
        let given_up = if seat.interest.len() >= most { Some(seat.interest.remove(0)) } else { None };
        seat.interest.push(watched);
        self.interests += 1;
        if let Some(given_up) = given_up.and_then(|given_up| self.seats.get_mut(given_up)) {
            given_up.watchers.retain(|other| *other != watcher);
            self.interests -= 1;
        }
        let Some(seat) = self.seats.get_mut(watched) else { return false };
        let pushed_out = if seat.watchers.len() >= most { Some(seat.watchers.remove(0)) } else { None };
        seat.watchers.push(watcher);
        if let Some(pushed_out) = pushed_out.and_then(|pushed_out| self.seats.get_mut(pushed_out)) {
            pushed_out.interest.retain(|other| *other != watched);
            self.interests -= 1;
        }
        true
    }

    /// Rooms with somebody in them.
    pub fn room_count(&self) -> usize {
        self.by_room.len()
    }

    /// Those of them that are large.
    pub fn large_count(&self) -> usize {
        self.large
    }

    /// Seats in all.
    pub fn len(&self) -> usize {
        self.by_member.len()
    }
}

fn sitting_room(seats: &Slab<Seat>, seat: u32) -> Option<u32> {
    seats.get(seat).map(|seat| seat.room)
}
