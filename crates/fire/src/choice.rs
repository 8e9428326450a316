//! Which servers to sit at: the list (given, and from origins), homes, visits, stays (docs/protocol.md, "Servers").

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use campfire_protocol::announce::{MAX_SERVERS, ServerRecord};
use campfire_protocol::carrier::ServerSlot;
use campfire_protocol::identity::PublicKey;
use campfire_protocol::server::{Server, ServerId, ServerTag};
use campfire_protocol::time::Time;

use crate::aliases::Alias;
use crate::conversation::{Conversation, HOPE, Phase};
use crate::hearth::Hearth;
use crate::own::Room;

/// Up to this many servers, all are camped on.
const ALL: usize = 4;
/// With more, this many.
const HOMES: usize = 2;
/// The others are visited every 5 minutes ± 30 s: this, and a random part on top.
const VISIT: Duration = Duration::from_secs(270);
const VISIT_JITTER: Duration = Duration::from_mins(1);
/// The first visits come this soon.
const FIRST_VISIT: Duration = Duration::from_secs(4);
/// How long a visit lasts: more than half of the longest time between two, so that any two visitors meet.
const DWELL: Duration = Duration::from_mins(3);
/// How long a stay lasts before it is asked whether it is still needed, and the random part on top.
const STAY: Duration = Duration::from_mins(2);
const STAY_JITTER: Duration = Duration::from_mins(3);
/// How long the best two of an earlier list are kept at most, for whoever is met there alone,
const KEEP: Duration = Duration::from_hours(1);
/// and how many are, however often lists change.
const MAX_KEPT: usize = 4;
/// How long a seat is kept that is not wanted any more.
const LINGER: Duration = Duration::from_secs(30);
/// A server that fails for this long is left out of what we say of ourselves.
const HYSTERESIS: Duration = Duration::from_secs(10);
/// Servers in the list, at most.
const MAX_LIST: usize = 64;
/// Origins that are listened to.
const MAX_ORIGINS: usize = 8;
/// Addresses of one server, at most.
const MAX_ADDRESSES: usize = 8;

/// What a server is to us.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// In the list.
    pub(crate) listed: bool,
    /// Given, or ours to tell: not from what others say alone.
    pub(crate) given: bool,
    /// Among the best two of an earlier list: kept until then, while it is needed.
    pub(crate) keep_until: Option<Time>,
    pub(crate) visit_at: Option<Time>,
    visit_until: Option<Time>,
    /// The same server as another one, which we sit at (it is known by two ids).
    pub(crate) alias: Option<Alias>,
    /// It has been failing since.
    pub(crate) bad_since: Option<Time>,
    /// Rooms in which we sit though they are not wanted any more, until when.
    pub(crate) linger: BTreeMap<u8, Time>,
    /// Rooms in which we stay, for somebody who is met nowhere else, until when that is looked at again.
    stay: BTreeMap<u8, Time>,
    /// We are at home or stay there: others may count on it.
    settled: BTreeSet<u8>,
}

impl Standing {
    /// The rooms in which to sit there.
    fn rooms(&mut self, now: Time, conversation: &Conversation, rooms: &[Room]) -> BTreeSet<u8> {
        let visiting = self.listed && self.visit_until.is_some_and(|until| until > now);
        let mut wanted = BTreeSet::new();
        for room in rooms {
            let number = room.number;
            let sits = conversation.seatings.get(&number).is_some_and(|seating| seating.wanted);
            let open = if let Some(until) = room.leaving { sits && until > now } else { true };
            if open && self.alias.is_none() && (visiting || self.settled.contains(&number)) {
                self.linger.remove(&number);
                wanted.insert(number);
            } else if sits && open && self.alias.as_ref().is_none_or(|alias| !alias.one_way) {
                // Leave slowly: somebody may be using the seat.
                let until = self.linger.entry(number).or_insert(now + LINGER);
                if self.listed && self.alias.is_none() && conversation.channels.any_in(number) {
                    *until = now + LINGER;
                }
                if *until > now {
                    wanted.insert(number);
                } else {
                    self.linger.remove(&number);
                }
            }
        }
        wanted
    }
}

/// The list and what was decided of it.
#[derive(Default)]
pub(crate) struct Choice {
    given: Vec<Server>,
    /// What others published, as we were told.
    heard: Vec<Server>,
    own_record: Option<ServerRecord>,
    origins: BTreeMap<PublicKey, ServerRecord>,
    pub(crate) slots: BTreeMap<ServerId, ServerSlot>,
    /// From where on a free slot is looked for: one that was just given up rests.
    next_slot: u16,
    pub(crate) standings: BTreeMap<ServerSlot, Standing>,
    /// When to decide again.
    pub(crate) due: Option<Time>,
}

/// Conversations by server.
pub(crate) type Conversations = BTreeMap<ServerSlot, Conversation>;

impl Choice {
    /// The list given at the start, or a new one.
    pub(crate) fn give(&mut self, hearth: &mut Hearth, conversations: &mut Conversations, now: Time, servers: &[Server]) {
        self.given = servers.iter().take(MAX_LIST).cloned().collect();
        self.relist(hearth, conversations, now);
    }

    /// What others published, as we were told at the start or anew.
    pub(crate) fn give_heard(&mut self, hearth: &mut Hearth, conversations: &mut Conversations, now: Time, servers: &[Server]) {
        if self.heard != servers {
            self.heard = servers.iter().take(MAX_LIST).cloned().collect();
            self.relist(hearth, conversations, now);
        }
    }

    /// The record that we stand for ourselves.
    pub(crate) fn give_record(&mut self, hearth: &mut Hearth, conversations: &mut Conversations, now: Time, record: &ServerRecord) {
        self.own_record = Some(record.clone());
        self.relist(hearth, conversations, now);
    }

    /// Takes the records that came with announcements.
    pub(crate) fn take_records(&mut self, hearth: &mut Hearth, conversations: &mut Conversations, now: Time) {
        let mut changed = false;
        for announcement in std::mem::take(&mut hearth.records) {
            let (origin, Some(record)) = (announcement.public_key, announcement.record) else { continue };
            if self.origins.get(&origin).is_some_and(|known| known.version >= record.version) {
                continue;
            }
            if !self.origins.contains_key(&origin) && self.origins.len() >= MAX_ORIGINS {
                let gone = self.origins.keys().find(|known| hearth.roster.seats_of(known).next().is_none()).copied();
                let Some(gone) = gone else {
                    hearth.counters.drop_records += 1;
                    continue;
                };
                self.origins.remove(&gone);
            }
            self.origins.insert(origin, record);
            changed = true;
        }
        if changed {
            self.relist(hearth, conversations, now);
        }
    }

    /// The union of what was given and what origins say.
    fn union(&self) -> Vec<Server> {
        let mut list: Vec<Server> = Vec::new();
        let records = self.own_record.iter().chain(self.origins.values()).flat_map(|record| record.servers.iter().take(MAX_SERVERS));
        for server in self.given.iter().chain(&self.heard).chain(records) {
            if let Some(known) = list.iter_mut().find(|known| known.id == server.id) {
                for address in &server.addresses {
                    if known.addresses.len() < MAX_ADDRESSES && !known.addresses.contains(address) {
                        known.addresses.push(address.clone());
                    }
                }
            } else if list.len() < MAX_LIST && !server.addresses.is_empty() {
                list.push(server.clone());
            }
        }
        list
    }

    fn relist(&mut self, hearth: &mut Hearth, conversations: &mut Conversations, now: Time) {
        let list = self.union();
        let best: BTreeSet<ServerSlot> = self.best_listed(hearth, conversations);
        let mut listed = BTreeSet::new();
        let own = self.own_record.iter().flat_map(|record| &record.servers);
        let given: Vec<&Server> = self.given.iter().chain(own).collect();
        let given_ids: BTreeSet<ServerId> = given.iter().map(|server| server.id.clone()).collect();
        let given_hosts: BTreeSet<String> = given.iter().flat_map(|server| &server.addresses).map(|address| address.host.clone()).collect();
        for server in list {
            let slot = self.slots.get(&server.id).copied().unwrap_or_else(|| self.free_slot(conversations));
            self.slots.insert(server.id.clone(), slot);
            listed.insert(slot);
            let conversation = conversations.entry(slot).or_insert_with(|| Conversation::new(hearth, slot, server.clone()));
            let hosts = server.addresses.iter().map(|address| &address.host);
            conversation.hearsay = hosts.filter(|host| !given_hosts.contains(*host)).cloned().collect();
            conversation.is_now(hearth, now, server);
        }
        let mut kept = self.standings.values().filter(|standing| standing.keep_until.is_some()).count();
        for (slot, conversation) in conversations.iter() {
            let standing = self.standings.entry(*slot).or_default();
            standing.given = given_ids.contains(&conversation.server.id);
            let is_listed = listed.contains(slot);
            if standing.listed && !is_listed && best.contains(slot) && kept < MAX_KEPT {
                kept += 1;
                standing.keep_until = Some(now + KEEP);
            }
            if is_listed {
                standing.keep_until = None;
            }
            if is_listed && !standing.listed {
                standing.visit_at = None;
            }
            standing.listed = is_listed;
        }
        hearth.dirty = true;
    }

    fn free_slot(&mut self, conversations: &Conversations) -> ServerSlot {
        // The list and what is kept are far fewer than there are numbers.
        while conversations.contains_key(&ServerSlot(self.next_slot)) {
            self.next_slot = self.next_slot.wrapping_add(1);
        }
        let slot = ServerSlot(self.next_slot);
        self.next_slot = self.next_slot.wrapping_add(1);
        slot
    }

    /// The best two of the list, for each key.
    fn best_listed(&self, hearth: &Hearth, conversations: &mut Conversations) -> BTreeSet<ServerSlot> {
        let rooms: Vec<Room> = hearth.rooms.clone();
        rooms.iter().flat_map(|room| self.ranked(conversations, room).into_iter().take(HOMES)).collect()
    }

    /// Listed servers, best first.
    fn ranked(&self, conversations: &mut Conversations, room: &Room) -> Vec<ServerSlot> {
        let listed = self.standings.iter().filter(|(_, standing)| standing.listed).map(|(slot, _)| *slot);
        let mut ranked: Vec<(ServerTag, ServerSlot)> =
            listed.filter_map(|slot| Some((conversations.get_mut(&slot)?.tag(room), slot))).collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        ranked.into_iter().map(|(_, slot)| slot).collect()
    }

    /// Where others may count on us in this room.
    pub(crate) fn settled(&self, slot: ServerSlot, room: u8) -> bool {
        self.standings.get(&slot).is_some_and(|standing| standing.settled.contains(&room))
    }

    /// A member looked for was not found at home: all other servers are visited for a minute.
    pub(crate) fn visit_all(&mut self, hearth: &mut Hearth, now: Time) {
        if self.standings.values().filter(|standing| standing.listed).count() > ALL {
            for standing in self.standings.values_mut().filter(|standing| standing.listed) {
                let until = now + Duration::from_mins(1);
                standing.visit_until = Some(standing.visit_until.map_or(until, |at| at.max(until)));
            }
            hearth.dirty = true;
        }
    }

    /// Decides anew and carries it out.
    pub(crate) fn decide(&mut self, hearth: &mut Hearth, conversations: &mut Conversations, now: Time) {
        hearth.dirty = false;
        let mut due: Vec<Time> = Vec::new();
        due.extend(self.find_aliases(hearth, conversations, now));
        let rooms: Vec<Room> = hearth.rooms.clone();
        let few = self.standings.values().filter(|standing| standing.listed).count() <= ALL;
        let mut settled: BTreeMap<u8, BTreeSet<ServerSlot>> = BTreeMap::new();
        for room in &rooms {
            let ranked = self.ranked(conversations, room);
            let homes = self.homes(conversations, now, room.number, &ranked, few);
            if !few && homes.iter().any(|slot| conversations.get(slot).is_some_and(|c| !c.seated(now, room.number))) {
                due.push(now + HOPE);
            }
            let mut here: BTreeSet<ServerSlot> = homes.into_iter().collect();
            // What is known of who sits at a server that does not answer is no reason to leave another.
            let answers = |slot: &ServerSlot| conversations.get(slot).is_some_and(|c| c.seated(now, room.number));
            here.extend(self.kept(hearth, conversations, now, room.number, &here, answers));
            if !few {
                let needed = stays(hearth, room.number, &ranked, &here, answers);
                here.extend(self.stay(hearth, now, room.number, &needed));
            }
            settled.insert(room.number, here);
        }
        if !few {
            self.plan_visits(hearth, now, &settled);
        }
        for (slot, conversation) in conversations.iter() {
            let standing = self.standings.entry(*slot).or_default();
            standing.settled = settled.iter().filter(|(_, here)| here.contains(slot)).map(|(room, _)| *room).collect();
            if rooms.iter().any(|room| conversation.hopeful(now, room.number)) {
                standing.bad_since = None;
            } else {
                due.push(*standing.bad_since.get_or_insert(now) + HYSTERESIS);
            }
        }
        // Said first: what goes out with a first Camp need not be corrected.
        self.say_servers(hearth, conversations, now, &rooms);
        for (slot, conversation) in conversations.iter_mut() {
            let Some(standing) = self.standings.get_mut(slot) else { continue };
            let wanted = standing.rooms(now, conversation, &rooms);
            conversation.want(hearth, now, &wanted);
            due.extend([standing.visit_at, standing.visit_until, standing.keep_until].into_iter().flatten());
            due.extend(standing.linger.values().chain(standing.stay.values()));
        }
        self.forget(conversations, now);
        due.extend(rooms.iter().filter_map(|room| room.leaving));
        self.due = due.into_iter().filter(|at| *at > now).min();
    }

    /// All of few servers; of many the best two that answer, and those better ones that do not (they may return).
    fn homes(&self, conversations: &Conversations, now: Time, room: u8, ranked: &[ServerSlot], few: bool) -> Vec<ServerSlot> {
        let mut homes = Vec::new();
        let mut sound = 0;
        for slot in ranked {
            let Some(conversation) = conversations.get(slot) else { continue };
            if !few && sound >= HOMES || self.is_alias(*slot) {
                continue;
            }
            homes.push(*slot);
            if conversation.hopeful(now, room) && !conversation.leaving {
                sound += 1;
            }
        }
        homes
    }

    /// Begins and ends stays. They end at random times: where two members stay for one another at two servers, one of them
    /// leaves first, and the other sees that it is needed.
    fn stay(&mut self, hearth: &mut Hearth, now: Time, room: u8, needed: &BTreeSet<ServerSlot>) -> Vec<ServerSlot> {
        let mut staying = Vec::new();
        for (slot, standing) in self.standings.iter_mut().filter(|(_, standing)| standing.listed) {
            standing.stay.retain(|of, until| *of != room || *until > now);
            if needed.contains(slot) {
                standing.stay.entry(room).or_insert_with(|| now + STAY + hearth.jitter(STAY_JITTER));
            }
            if standing.stay.contains_key(&room) {
                staying.push(*slot);
            }
        }
        staying
    }

    fn plan_visits(&mut self, hearth: &mut Hearth, now: Time, settled: &BTreeMap<u8, BTreeSet<ServerSlot>>) {
        for (slot, standing) in self.standings.iter_mut().filter(|(_, standing)| standing.listed) {
            if settled.values().all(|here| here.contains(slot)) {
                continue;
            }
            let at = *standing.visit_at.get_or_insert_with(|| now + hearth.jitter(FIRST_VISIT));
            if at <= now {
                standing.visit_until = Some(now + DWELL);
                standing.visit_at = Some(now + VISIT + hearth.jitter(VISIT_JITTER));
            }
        }
    }

    /// The servers of an earlier list that are still needed: all while none of the list is camped on; then where somebody is met who
    /// is met nowhere else, or may be (nobody tells who is in a large room).
    fn kept(
        &self,
        hearth: &Hearth,
        conversations: &Conversations,
        now: Time,
        room: u8,
        homes: &BTreeSet<ServerSlot>,
        answers: impl Fn(&ServerSlot) -> bool,
    ) -> BTreeSet<ServerSlot> {
        let kept = self.standings.iter().filter(|(_, standing)| standing.keep_until.is_some_and(|until| until > now));
        let kept: Vec<ServerSlot> = kept.map(|(slot, _)| *slot).filter(|slot| !self.is_alias(*slot)).collect();
        if kept.is_empty() || !homes.iter().any(&answers) {
            return kept.into_iter().collect();
        }
        let is_large = |slot: &ServerSlot| conversations.get(slot).and_then(|c| c.seatings.get(&room)).is_some_and(|seating| seating.large);
        let mut needed = stays(hearth, room, &kept, homes, answers);
        needed.extend(kept.iter().filter(|slot| is_large(slot)));
        needed
    }

    /// Servers that are in no list any more, and that were left.
    fn forget(&mut self, conversations: &mut Conversations, now: Time) {
        for (slot, standing) in &mut self.standings {
            let left = conversations.get(slot).is_none_or(|conversation| !conversation.wanted());
            let over = standing.keep_until.is_some_and(|until| until <= now) || standing.settled.is_empty() && left;
            standing.keep_until.take_if(|_| over);
        }
        let standings = &mut self.standings;
        conversations.retain(|slot, conversation| {
            let standing = standings.get(slot);
            let done = matches!(conversation.phase, Phase::Idle) && !conversation.wanted();
            !done || standing.is_some_and(|standing| standing.listed || standing.keep_until.is_some())
        });
        standings.retain(|slot, _| conversations.contains_key(slot));
        self.slots.retain(|_, slot| conversations.contains_key(slot));
    }

    /// What we say of ourselves: where we are at home or stay, best first; servers that have been failing are left out.
    fn say_servers(&self, hearth: &mut Hearth, conversations: &mut Conversations, now: Time, rooms: &[Room]) {
        let mut said = BTreeMap::new();
        for room in rooms {
            let sound = |slot: &ServerSlot, standing: &Standing| {
                standing.settled.contains(&room.number)
                    && standing.bad_since.is_none_or(|since| since + HYSTERESIS > now)
                    && conversations.get(slot).is_some_and(|conversation| !conversation.leaving)
            };
            // Who knows a server by another id of the two counts on us there, too.
            let itself = |slot: &ServerSlot, standing: &Standing| match &standing.alias {
                Some(alias) if standing.listed => self.standings.get(&alias.of).is_some_and(|other| sound(&alias.of, other)),
                Some(_) => false,
                None => sound(slot, standing),
            };
            let slots: Vec<ServerSlot> = self.standings.iter().filter(|(slot, s)| itself(slot, s)).map(|(slot, _)| *slot).collect();
            let mut tags: Vec<ServerTag> = slots.iter().filter_map(|slot| Some(conversations.get_mut(slot)?.tag(room))).collect();
            tags.sort_unstable_by(|a, b| b.cmp(a));
            said.insert(room.number, tags);
        }
        hearth.own.set_servers(said);
    }
}

/// The servers beside `here` at which somebody is met who is met nowhere else: where that member is settled, else the best.
/// Both sides come to the same place. What is known from servers that do not answer does not count.
fn stays(
    hearth: &Hearth,
    room: u8,
    ranked: &[ServerSlot],
    here: &BTreeSet<ServerSlot>,
    answers: impl Fn(&ServerSlot) -> bool,
) -> BTreeSet<ServerSlot> {
    let mut stays = BTreeSet::new();
    for (_, seats) in hearth.roster.whereabouts() {
        let met: Vec<(ServerSlot, bool)> =
            seats.filter(|(seat, _)| seat.room == room && answers(&seat.server)).map(|(seat, info)| (seat.server, info.settled)).collect();
        let anywhere_settled = met.iter().any(|(_, settled)| *settled);
        // Where it is settled somewhere, a visit of its elsewhere is nothing to count on.
        let mut counts = met.iter().filter(|(_, settled)| *settled == anywhere_settled).map(|(slot, _)| *slot);
        if counts.clone().any(|slot| here.contains(&slot) || stays.contains(&slot)) {
            continue;
        }
        let rank = |slot: &ServerSlot| ranked.iter().position(|other| other == slot);
        stays.extend(counts.by_ref().filter(|slot| rank(slot).is_some()).min_by_key(rank));
    }
    stays
}
