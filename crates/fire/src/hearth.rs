//! What all conversations share: the clock, the roster, what we say, what is to be told and done.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use campfire_protocol::announce::{Announcement, AnnouncementError};
use campfire_protocol::carrier::{ServerSlot, StreamId, Via};
use campfire_protocol::identity::PublicKey;
use campfire_protocol::server::ServerTag;
use campfire_protocol::stun::TransactionId;
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore as _;

use crate::clock::Clock;
use crate::config::KeyMode;
use crate::connect::Sockets;
use crate::counters::Counters;
use crate::io::{Notice, Output};
use crate::own::{Outrun, Own, Room, ahead};
use crate::roster::{Refusal, Roster, SeatInfo};
use crate::{FireEvent, Learned, Seat};

/// An announcement from further ahead is dropped.
pub(crate) const AHEAD: Duration = Duration::from_mins(10);
/// One that was made this long ago, and was not renewed since, is a recording.
const STALE: Duration = Duration::from_hours(3);
/// A clock that moved back by this much was ahead.
const CLOCK_BACK: Duration = Duration::from_mins(1);
/// How long a signal from an unknown seat waits for its announcement.
const STASH: Duration = Duration::from_secs(3);
const MAX_STASH: usize = 64;
/// Two processes under one identity.
pub(crate) const IDENTITY_SHARED: &str = "another process uses this peer's identity: give each its own, or end one of them";

/// See the module.
pub(crate) struct Hearth {
    pub(crate) rng: ChaCha20Rng,
    pub(crate) clock: Clock,
    pub(crate) counters: Counters,
    pub(crate) own: Own,
    /// Newest key first; then those that are being left.
    pub(crate) rooms: Vec<Room>,
    pub(crate) roster: Roster,
    pub(crate) sockets: Sockets,
    pub(crate) in_cluster: bool,
    /// UDP is known not to work from here.
    pub(crate) udp_blocked: bool,
    pub(crate) events: VecDeque<FireEvent>,
    pub(crate) outputs: VecDeque<Output>,
    /// Where servers are, by whom it is used.
    pub(crate) vias: BTreeMap<Via, ServerSlot>,
    pub(crate) vias_version: u64,
    /// Who sits where, or which server answers, has changed: the choice of servers is due for a look.
    pub(crate) dirty: bool,
    /// A large room began anew: linked members have to be found again.
    pub(crate) refind: bool,
    /// Server records that came with announcements.
    pub(crate) records: Vec<Announcement>,
    /// The soonest time of what was dropped as from the future.
    future: Option<UnixMillis>,
    /// The clock when something was last dropped as too old.
    stale: Option<UnixMillis>,
    /// It is not the future any more, or the clock was ahead when it was too old: everything is to be read again, for nobody says it a second time.
    pub(crate) read_again: bool,
    next_stream: u32,
    stash: VecDeque<(Time, Seat, Vec<u8>)>,
}

impl Hearth {
    pub(crate) fn new(mut rng: ChaCha20Rng, clock: Clock, own: Own, rooms: Vec<Room>, members: usize, in_cluster: bool) -> Self {
        let next_stream = rng.next_u32() >> 8;
        Self {
            rng,
            clock,
            counters: Counters::default(),
            own,
            rooms,
            roster: Roster::new(members),
            sockets: Sockets::new(),
            in_cluster,
            udp_blocked: false,
            events: VecDeque::new(),
            outputs: VecDeque::new(),
            vias: BTreeMap::new(),
            vias_version: 0,
            dirty: true,
            refind: false,
            records: Vec::new(),
            future: None,
            stale: None,
            read_again: false,
            next_stream,
            stash: VecDeque::new(),
        }
    }

    pub(crate) fn room(&self, number: u8) -> Option<&Room> {
        self.rooms.iter().find(|room| room.number == number)
    }

    /// Which room is preferred where several are common (lower is better): keys that are held before those being left,
    /// announced before accepted ones, the newest first.
    pub(crate) fn room_rank(&self, number: u8) -> (bool, bool, usize) {
        let of = |(position, room): (usize, &Room)| (room.leaving.is_some(), room.mode == KeyMode::Accept, position);
        self.rooms.iter().enumerate().find(|(_, room)| room.number == number).map_or((true, true, usize::MAX), of)
    }

    pub(crate) fn transaction(&mut self) -> TransactionId {
        let mut id = [0; 12];
        self.rng.fill_bytes(&mut id);
        TransactionId(id)
    }

    pub(crate) fn stream(&mut self) -> StreamId {
        self.next_stream = self.next_stream.wrapping_add(1);
        StreamId(self.next_stream)
    }

    /// A random duration below `most`.
    pub(crate) fn jitter(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.rng.next_u64() % most)
    }

    pub(crate) fn send(&mut self, via: Via, datagram: Vec<u8>) {
        self.counters.fire_sent_messages += 1;
        self.counters.fire_sent_bytes += datagram.len() as u64;
        self.outputs.push_back(Output::Send { via, datagram });
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }

    pub(crate) fn problem(&mut self, text: String) {
        self.notice(Notice::Problem { text });
    }

    /// What our own clock or a server's says has changed.
    pub(crate) fn clock_told(&mut self, now: Time) {
        let wall = self.clock.now(now);
        self.own.clock_corrected(now, wall, self.clock.support(now));
        if self.future.take_if(|soonest| *soonest <= ahead(wall, AHEAD)).is_some() {
            self.read_again = true;
        }
        if self.stale.take_if(|clock| ahead(wall, CLOCK_BACK) <= *clock).is_some() {
            self.read_again = true;
        }
    }

    pub(crate) fn add_via(&mut self, via: Via, server: ServerSlot) {
        // Two servers of the list may be one (known by two ids): whoever came first keeps it.
        if let Entry::Vacant(vacant) = self.vias.entry(via) {
            vacant.insert(server);
            self.vias_version += 1;
        }
    }

    pub(crate) fn remove_via(&mut self, via: Via, server: ServerSlot) {
        if self.vias.get(&via) == Some(&server) {
            self.vias.remove(&via);
            self.vias_version += 1;
        }
    }

    /// Takes what a server says about a seat. `cache`: the room is large.
    pub(crate) fn take_entry(&mut self, now: Time, seat: Seat, entry: &wire::Entry, learned: Learned, tag: ServerTag, cache: bool) {
        let Some(sealed) = &entry.announcement else { return self.depart(now, &seat) };
        let mut hasher = DefaultHasher::new();
        sealed.hash(&mut hasher);
        let digest = hasher.finish();
        if self.roster.seat(&seat).is_some_and(|known| known.digest == digest) {
            return;
        }
        let Some(keys) = self.room(seat.room).map(|room| std::sync::Arc::clone(&room.keys)) else { return };
        let announcement = match Announcement::open(sealed, &keys, &seat.member) {
            Ok(announcement) => announcement,
            Err(error) => {
                let counters = &mut self.counters;
                *match error {
                    AnnouncementError::Sealed => &mut counters.drop_sealed,
                    AnnouncementError::Malformed | AnnouncementError::TooLarge => &mut counters.drop_announcement_malformed,
                    AnnouncementError::Signature => &mut counters.drop_signature,
                } += 1;
                return;
            }
        };
        let latest = ahead(self.clock.now(now), AHEAD);
        let said = announcement.sent_at.max(announcement.session.started);
        if said > latest {
            self.counters.drop_future += 1;
            self.future = Some(self.future.map_or(said, |soonest| soonest.min(said)));
            return;
        }
        let wall = self.clock.now(now);
        if ahead(announcement.sent_at, STALE) < wall && announcement.public_key != self.own.identity.public() {
            self.counters.drop_stale += 1;
            self.stale = self.stale.max(Some(wall));
            return;
        }
        if announcement.public_key == self.own.identity.public() {
            self.counters.drop_own_key += 1;
            if self.own.outrun(now, &announcement, seat) == Some(Outrun::InVain) {
                self.problem(IDENTITY_SHARED.to_owned());
            }
            return;
        }
        let info = SeatInfo { sequence: announcement.sequence, settled: announcement.servers.contains(&tag), digest };
        match self.roster.admit(now, seat, info, &announcement, latest, cache) {
            Ok(change) => {
                self.dirty |= change.news || !change.gone.is_empty();
                if change.news {
                    self.look_at(&announcement);
                    self.events.push_back(FireEvent::Member { seat, learned, announcement: Box::new(announcement.clone()) });
                }
                for gone in change.gone {
                    self.events.push_back(FireEvent::Departed { peer: announcement.public_key, seat: gone });
                }
                self.release_stash(now, seat);
            }
            Err(Refusal::Replayed) => self.counters.drop_replayed += 1,
            Err(Refusal::ForeignSeat) => self.counters.drop_foreign_seat += 1,
            Err(Refusal::Full) => self.counters.drop_roster_full += 1,
        }
    }

    /// What an announcement means for ourselves.
    fn look_at(&mut self, announcement: &Announcement) {
        if let Some(ours) = self.own.ipv4()
            && self.own.ipv4_of(announcement) == Some(ours)
            && announcement.session < self.own.session()
        {
            self.own.yield_ipv4();
            let (name, key) = (&announcement.name, announcement.public_key);
            self.problem(format!(
                "IPv4 address {ours} is already used by {name} ({key:?}): this peer runs without IPv4; a larger pool makes conflicts rarer"
            ));
        }
        if announcement.record.is_some() {
            self.records.push(announcement.clone());
            self.dirty = true;
        }
    }

    /// A seat is gone.
    pub(crate) fn depart(&mut self, now: Time, seat: &Seat) {
        self.own.outlive(now, seat);
        if let Some(peer) = self.roster.depart(now, seat) {
            self.dirty = true;
            self.events.push_back(FireEvent::Departed { peer, seat: *seat });
        }
    }

    /// All seats known in a room on a server are gone, but for these.
    pub(crate) fn depart_all(&mut self, now: Time, server: ServerSlot, room: u8, but: impl Fn(&Seat) -> bool) {
        let gone: Vec<Seat> = self.roster.seats_at(server, room).map(|(seat, _)| seat).filter(|seat| !but(seat)).collect();
        for seat in gone {
            self.depart(now, &seat);
        }
    }

    /// Whether it is known who sits at the seat that this entry is about.
    pub(crate) fn knows(&self, server: ServerSlot, room: u8, entry: &wire::Entry) -> bool {
        self.roster.peer_of(&Seat { server, room, member: entry.member }).is_some()
    }

    /// A member signalled. If it is not known yet, the signal waits a moment for its announcement: the result says so.
    pub(crate) fn signalled(&mut self, now: Time, from: Seat, data: Vec<u8>) -> bool {
        let known: Option<PublicKey> = self.roster.peer_of(&from);
        if known.is_some() {
            self.events.push_back(FireEvent::Signal { from, data });
            return true;
        }
        self.expire_stash(now);
        if self.stash.len() >= MAX_STASH {
            self.stash.pop_front();
            self.counters.drop_unknown_sender += 1;
        }
        self.stash.push_back((now + STASH, from, data));
        false
    }

    fn release_stash(&mut self, now: Time, seat: Seat) {
        self.expire_stash(now);
        let (ready, waiting) = std::mem::take(&mut self.stash).into_iter().partition(|(_, from, _)| *from == seat);
        self.stash = waiting;
        let ready: VecDeque<(Time, Seat, Vec<u8>)> = ready;
        self.events.extend(ready.into_iter().map(|(_, from, data)| FireEvent::Signal { from, data }));
    }

    fn expire_stash(&mut self, now: Time) {
        let before = self.stash.len();
        self.stash.retain(|(until, _, _)| *until > now);
        self.counters.drop_unknown_sender += (before - self.stash.len()) as u64;
    }
}
