//! Who sits at the fire: verified announcements by public key, and under which seats each is reached. Bounded: in a small
//! room it is the roster, in a large one a cache of those that were found or linked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use campfire_protocol::announce::{Announcement, Session};
use campfire_protocol::carrier::ServerSlot;
use campfire_protocol::identity::PublicKey;
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::MemberId;

use crate::Seat;

/// A member without a seat is remembered this long, so that nobody can replay its older announcements at once.
const MEMORY: Duration = Duration::from_mins(10);
/// Most seats held for one member: 4 rooms on 16 servers.
const MAX_SEATS: usize = 64;

/// One of a member's seats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeatInfo {
    /// Of the newest announcement seen at this seat.
    pub(crate) sequence: u32,
    /// The member says itself that it camps there (and does not just visit).
    pub(crate) settled: bool,
    /// Of the sealed announcement: the same bytes again need not be opened.
    pub(crate) digest: u64,
}

/// A member.
#[derive(Clone, Debug)]
struct Known {
    announcement: Announcement,
    seats: BTreeMap<Seat, SeatInfo>,
    linked: bool,
    used: u64,
    seatless_since: Option<Time>,
}

/// Why an announcement was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Older than what is known, or of an earlier run.
    Replayed,
    /// The seat is another member's.
    ForeignSeat,
    /// No room for another member or seat.
    Full,
}

/// What taking an announcement changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// The announcement is newer than what was known, or the seat is new.
    pub(crate) news: bool,
    /// Seats of an earlier run: gone.
    pub(crate) gone: Vec<Seat>,
}

/// All members.
#[derive(Debug)]
pub(crate) struct Roster {
    members: BTreeMap<PublicKey, Known>,
    seats: BTreeMap<Seat, PublicKey>,
    limit: usize,
    uses: u64,
}

impl Roster {
    pub(crate) fn new(limit: usize) -> Self {
        Self { members: BTreeMap::new(), seats: BTreeMap::new(), limit: limit.max(1), uses: 0 }
    }

    /// Takes a verified announcement that was found at `seat`. `cache`: the room is large, whoever was not used for longest
    /// and is not linked makes room. `latest`: no run can have begun after that; one that says so is known from a time when our
    /// clock was wrong, and does not stand against an earlier one.
    pub(crate) fn admit(
        &mut self,
        now: Time,
        seat: Seat,
        info: SeatInfo,
        announcement: &Announcement,
        latest: UnixMillis,
        cache: bool,
    ) -> Result<Change, Refusal> {
        let key = announcement.public_key;
        if self.seats.get(&seat).is_some_and(|holder| *holder != key) {
            return Err(Refusal::ForeignSeat);
        }
        self.uses += 1;
        let uses = self.uses;
        if !self.members.contains_key(&key) {
            self.make_room(now, cache)?;
            let known =
                Known { announcement: announcement.clone(), seats: BTreeMap::new(), linked: false, used: uses, seatless_since: None };
            self.members.insert(key, known);
        }
        let Some(known) = self.members.get_mut(&key) else { return Err(Refusal::Full) };
        let mut change = Change::default();
        let session = known.announcement.session;
        if announcement.session < session && session.started <= latest {
            return Err(Refusal::Replayed);
        }
        let another_run = announcement.session != session;
        if another_run {
            change.gone.extend(known.seats.keys().filter(|old| **old != seat));
            known.seats.clear();
            change.news = true;
        } else if known.seats.get(&seat).is_some_and(|held| held.sequence > announcement.sequence) {
            return Err(Refusal::Replayed);
        } else {
            change.news = announcement.sequence > known.announcement.sequence || !known.seats.contains_key(&seat);
        }
        for old in &change.gone {
            known.seats.remove(old);
            self.seats.remove(old);
        }
        if known.seats.len() >= MAX_SEATS && !known.seats.contains_key(&seat) {
            return Err(Refusal::Full);
        }
        if another_run || announcement.sequence > known.announcement.sequence {
            known.announcement = announcement.clone();
        }
        known.seats.insert(seat, info);
        known.seatless_since = None;
        known.used = uses;
        self.seats.insert(seat, key);
        Ok(change)
    }

    /// A seat is gone. Tells whose it was.
    pub(crate) fn depart(&mut self, now: Time, seat: &Seat) -> Option<PublicKey> {
        let key = self.seats.remove(seat)?;
        if let Some(known) = self.members.get_mut(&key) {
            known.seats.remove(seat);
            if known.seats.is_empty() {
                known.seatless_since = Some(now);
            }
        }
        Some(key)
    }

    /// The seats known in a room on a server.
    pub(crate) fn seats_at(&self, server: ServerSlot, room: u8) -> impl Iterator<Item = (Seat, PublicKey)> {
        let from = Seat { server, room, member: MemberId([0; 16]) };
        let to = Seat { server, room, member: MemberId([0xFF; 16]) };
        self.seats.range(from..=to).map(|(seat, key)| (*seat, *key))
    }

    /// Who sits there.
    pub(crate) fn peer_of(&self, seat: &Seat) -> Option<PublicKey> {
        self.seats.get(seat).copied()
    }

    /// What is known of a seat.
    pub(crate) fn seat(&self, seat: &Seat) -> Option<&SeatInfo> {
        self.members.get(self.seats.get(seat)?)?.seats.get(seat)
    }

    /// A member's seats.
    pub(crate) fn seats_of(&self, peer: &PublicKey) -> impl Iterator<Item = (Seat, SeatInfo)> {
        self.members.get(peer).into_iter().flat_map(|known| known.seats.iter().map(|(seat, info)| (*seat, *info)))
    }

    /// A member's newest announcement, as long as it sits anywhere.
    pub(crate) fn announcement(&self, peer: &PublicKey) -> Option<&Announcement> {
        self.members.get(peer).filter(|known| !known.seats.is_empty()).map(|known| &known.announcement)
    }

    /// Members with a seat.
    pub(crate) fn seated(&self) -> impl Iterator<Item = &Announcement> {
        self.members.values().filter(|known| !known.seats.is_empty()).map(|known| &known.announcement)
    }

    /// Keys of members with a seat, with their servers.
    pub(crate) fn whereabouts(&self) -> impl Iterator<Item = (&PublicKey, impl Iterator<Item = (&Seat, &SeatInfo)>)> {
        self.members.iter().filter(|(_, known)| !known.seats.is_empty()).map(|(key, known)| (key, known.seats.iter()))
    }

    /// Whether there is a link to it.
    pub(crate) fn set_linked(&mut self, peer: &PublicKey, linked: bool) {
        self.uses += 1;
        if let Some(known) = self.members.get_mut(peer) {
            known.linked = linked;
            known.used = self.uses;
        }
    }

    /// Linked members.
    pub(crate) fn linked(&self) -> BTreeSet<PublicKey> {
        self.members.iter().filter(|(_, known)| known.linked).map(|(key, _)| *key).collect()
    }

    /// The session known of a member.
    #[cfg(test)]
    pub(crate) fn session(&self, peer: &PublicKey) -> Option<Session> {
        self.members.get(peer).map(|known| known.announcement.session)
    }

    /// Members held, with a seat or without.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    fn make_room(&mut self, now: Time, cache: bool) -> Result<(), Refusal> {
        if self.members.len() < self.limit {
            return Ok(());
        }
        self.members.retain(|_, known| known.linked || known.seatless_since.is_none_or(|since| now.since(since) < MEMORY));
        while self.members.len() >= self.limit {
            let candidates = self.members.iter().filter(|(_, known)| !known.linked && (cache || known.seats.is_empty()));
            let Some(oldest) = candidates.min_by_key(|(_, known)| (!known.seats.is_empty(), known.used)).map(|(key, _)| *key) else {
                return Err(Refusal::Full);
            };
            for seat in self.members.remove(&oldest).into_iter().flat_map(|known| known.seats.into_keys()) {
                self.seats.remove(&seat);
            }
        }
        Ok(())
    }
}

/// Orders runs and changes within one: what [`Announcement`]s are compared by.
pub(crate) type Version = (Session, u32);

#[cfg(test)]
mod tests {
    use campfire_protocol::identity::Identity;

    use super::*;

    const LATEST: UnixMillis = UnixMillis(1_000);

    #[test]
    fn a_later_run_replaces_the_seats_of_the_earlier_one() {
        let mut roster = Roster::new(4);
        let first = announcement(1, 10, 1);
        assert!(admit(&mut roster, seat(0, 1), &first).unwrap().news);
        assert!(admit(&mut roster, seat(1, 2), &first).unwrap().news, "a seat more");
        let later = admit(&mut roster, seat(0, 3), &announcement(1, 20, 1)).unwrap();
        assert!(later.news);
        assert_eq!(later.gone, [seat(0, 1), seat(1, 2)]);
        assert_eq!(admit(&mut roster, seat(0, 1), &first), Err(Refusal::Replayed), "the earlier run is over");
        assert_eq!(roster.session(&first.public_key).unwrap().started, UnixMillis(20));
    }

    #[test]
    fn a_run_from_the_future_does_not_stand_against_one_of_today() {
        let mut roster = Roster::new(4);
        admit(&mut roster, seat(0, 1), &announcement(1, LATEST.0 + 1, 9)).unwrap();
        let today = admit(&mut roster, seat(1, 2), &announcement(1, 10, 1)).unwrap();
        assert!(today.news);
        assert_eq!(today.gone, [seat(0, 1)]);
        assert_eq!(roster.session(&announcement(1, 10, 1).public_key).unwrap().started, UnixMillis(10));
    }

    #[test]
    fn an_older_announcement_at_the_same_seat_is_a_replay_and_elsewhere_a_server_that_lags() {
        let mut roster = Roster::new(4);
        admit(&mut roster, seat(0, 1), &announcement(1, 10, 5)).unwrap();
        assert_eq!(admit(&mut roster, seat(0, 1), &announcement(1, 10, 4)), Err(Refusal::Replayed));
        assert!(!admit(&mut roster, seat(0, 1), &announcement(1, 10, 5)).unwrap().news, "the same again");
        assert!(admit(&mut roster, seat(1, 2), &announcement(1, 10, 4)).unwrap().news);
        assert_eq!(roster.announcement(&announcement(1, 10, 4).public_key).unwrap().sequence, 5);
    }

    #[test]
    fn a_seat_cannot_be_taken_over_by_another_key() {
        let mut roster = Roster::new(4);
        admit(&mut roster, seat(0, 1), &announcement(1, 10, 1)).unwrap();
        assert_eq!(admit(&mut roster, seat(0, 1), &announcement(2, 99, 9)), Err(Refusal::ForeignSeat));
    }

    #[test]
    fn a_full_roster_refuses_and_a_full_cache_forgets_who_is_not_linked_and_was_not_used_for_longest() {
        let mut roster = Roster::new(2);
        let (one, two, three) = (announcement(1, 1, 1), announcement(2, 1, 1), announcement(3, 1, 1));
        admit(&mut roster, seat(0, 1), &one).unwrap();
        admit(&mut roster, seat(0, 2), &two).unwrap();
        assert_eq!(admit(&mut roster, seat(0, 3), &three), Err(Refusal::Full));
        roster.set_linked(&one.public_key, true);
        assert!(roster.admit(Time::default(), seat(0, 3), info(1), &three, LATEST, true).is_ok());
        assert!(roster.announcement(&two.public_key).is_none());
        assert!(roster.announcement(&one.public_key).is_some());
        assert_eq!(roster.peer_of(&seat(0, 2)), None);
    }

    #[test]
    fn who_left_is_remembered_for_a_while_and_makes_room_first() {
        let mut roster = Roster::new(2);
        let one = announcement(1, 10, 1);
        admit(&mut roster, seat(0, 1), &one).unwrap();
        assert_eq!(roster.depart(Time::default(), &seat(0, 1)), Some(one.public_key));
        assert_eq!(admit(&mut roster, seat(0, 9), &announcement(1, 9, 1)), Err(Refusal::Replayed));
        admit(&mut roster, seat(0, 2), &announcement(2, 1, 1)).unwrap();
        admit(&mut roster, seat(0, 3), &announcement(3, 1, 1)).unwrap();
        assert_eq!(roster.len(), 2);
        assert!(roster.announcement(&one.public_key).is_none());
    }

    fn admit(roster: &mut Roster, seat: Seat, announcement: &Announcement) -> Result<Change, Refusal> {
        roster.admit(Time::default(), seat, info(announcement.sequence), announcement, LATEST, false)
    }

    fn info(sequence: u32) -> SeatInfo {
        SeatInfo { sequence, settled: true, digest: 0 }
    }

    fn seat(server: u16, member: u8) -> Seat {
        Seat { server: ServerSlot(server), room: 0, member: MemberId([member; 16]) }
    }

    fn announcement(who: u8, started: u64, sequence: u32) -> Announcement {
        Announcement {
            public_key: Identity::from_seed(&[who; 32]).public(),
            session: Session { started: UnixMillis(started), nonce: 0 },
            sequence,
            sent_at: UnixMillis(started),
            name: String::new(),
            namespace: String::new(),
            cluster: String::new(),
            fingerprints: Vec::new(),
            servers: Vec::new(),
            routes: Vec::new(),
            ipv4: None,
            features: 0,
            record: None,
        }
    }
}
