//! The campfire methods (docs/protocol.md, "On the wire"): Camp, Find, Signal; Bind is in [`channel`](crate::channel).

use std::time::Duration;

use campfire_protocol::key::Fingerprint;
use campfire_protocol::limit::Limit;
use campfire_protocol::stun::{Attribute, MAX_MESSAGE, Method};
use campfire_protocol::time::Time;
use campfire_protocol::wire::{self, CampRequest, CampSuccess, Failure, FindRequest, MAX_ENTRIES, MemberId, SignalRequest};
use rand_core::RngCore as _;

use crate::auth::{self, Camper, Key, NonceState};
use crate::client::Client;
use crate::io::Via;
use crate::limit::household;
use crate::room::{Bounds, Newcomer, Seat};
use crate::table::Ref;
use crate::timer::Timer;
use crate::{Request, Server, cost};

/// A first Camp without a nonce must have been made this recently, by the two clocks.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);
/// Pages of a roster that follow the answer to a Camp at once.
const PAGES: usize = 16;
/// Members that one tag finds.
const PER_TAG: usize = 4;
/// Events that may wait in a large room to be pushed.
const PENDING: usize = 1 << 16;
/// Shortest lifetime of a seat.
const MIN_LIFETIME: u32 = 5;
/// Bytes that FINGERPRINT takes.
const FINGERPRINT_SIZE: usize = 8;

/// How a seat ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Left,
    Expired,
    Evicted,
    Secret,
}

/// A campfire request that may be looked at: integrity, nonce and expiry are right.
pub(crate) struct Caller {
    pub fingerprint: Fingerprint,
    pub key: zeroize::Zeroizing<[u8; 32]>,
    expiry: u64,
    /// A nonce of ours came back: the source gets what is sent to it.
    pub proven: bool,
}

impl Server {
    pub(crate) fn bounds(&self) -> Bounds {
        let limits = &self.config.limits;
        let spare = (limits.memory as u64).saturating_sub(self.stats.memory) as usize / cost::PENDING;
        Bounds { large: limits.large, small: limits.small, departures: limits.departures, pending: PENDING, spare }
    }

    pub(crate) fn camp_method(&mut self, request: &Request<'_>, method: Method) {
        let Some(caller) = self.caller(request, method) else { return };
        let unknown = request.message.unknown_required(&wire::KNOWN);
        if !unknown.is_empty() {
            return self.unknown_attributes(request, Some(&Key::sha256(caller.key.as_ref())), &unknown);
        }
        match method {
            Method::CAMP => self.camp(request, &caller),
            Method::FIND => self.find(request, &caller),
            Method::SIGNAL => self.signal(request, &caller),
            _ => self.bind(request, &caller),
        }
    }

    /// Who sends this campfire request; answers it if that is not to be believed.
    fn caller(&mut self, request: &Request<'_>, method: Method) -> Option<Caller> {
        let Some(Camper { fingerprint, expiry, key }) = auth::camper(&self.secrets, request.message) else {
            self.stats.refused_wrong += 1;
            self.fail_unproven(request, 401, None);
            return None;
        };
        let (now, wall) = (request.now, request.wall);
        let nonce = request.message.text(Attribute::NONCE).ok().flatten();
        let age = match nonce.map(|nonce| self.nonces.check(now, self.config.nonce_lifetime, &request.via, nonce)) {
            Some(NonceState::Fresh { issued }) => Some(now.since(issued)),
            Some(NonceState::Stale) => {
                self.stats.refused_stale += 1;
                self.fail_unproven(request, 438, Some(&key));
                return None;
            }
            None if method == Method::CAMP => None,
            None => {
                self.stats.refused_absent += 1;
                self.fail_unproven(request, 401, Some(&key));
                return None;
            }
        };
        if !auth::unexpired(expiry, wall, age.unwrap_or_default()) {
            self.stats.refused_expired += 1;
            self.fail_unproven(request, 401, Some(&key));
            return None;
        }
        if let Some(client) = self.clients.find(&request.via).and_then(|client| self.clients.get_mut(client)) {
            if age.is_some() {
                client.prove();
            } else {
                client.earn(request.size());
            }
        }
        let proven = age.is_some() || matches!(request.via, Via::Stream { .. });
        Some(Caller { fingerprint, key, expiry, proven })
    }

    fn camp(&mut self, request: &Request<'_>, caller: &Caller) {
        self.stats.requests_camp += 1;
        let Ok(camp) = CampRequest::decode(request.message) else { return self.fail(request, 400, "Bad Request", Some(&caller.key)) };
        let with_nonce = request.message.get(Attribute::NONCE).is_some();
        if !with_nonce && request.wall.0.abs_diff(camp.unix_millis) > CLOCK_TOLERANCE.as_millis() as u64 {
            self.stats.refused_clock += 1;
            return self.fail_unproven(request, 401, Some(&caller.key));
        }
        let member = camp.token.id();
        let room = self.camp.find(caller.fingerprint, camp.room);
        let seat = room.and_then(|room| self.camp.member(room, member));
        if camp.announcement.as_ref().is_some_and(|sealed| sealed.len() > self.config.limits.announcement) {
            self.stats.limited_announcement += 1;
            return self.fail(request, 400, "Announcement Too Large", Some(&caller.key));
        }
        let granted = camp.lifetime.max(MIN_LIFETIME).min(u32::try_from(self.config.limits.seat_lifetime.as_secs()).unwrap_or(u32::MAX));
        let expires = request.now + Duration::from_secs(u64::from(granted));
        let seat = match seat {
            Some(seat) => {
                let here = self.clients.find(&request.via);
                let sits = self.camp.seats.get(seat).and_then(|seat| seat.client);
                if (sits.is_none() || sits != here) && !with_nonce {
                    // Whoever replays a first Camp from elsewhere must not take the seat.
                    self.stats.refused_moved += 1;
                    return self.fail_unproven(request, 401, Some(&caller.key));
                }
                if !with_nonce && self.would_turn_back(request, seat, camp.announcement.as_deref()) {
                    self.stats.refused_absent += 1;
                    return self.fail_unproven(request, 401, Some(&caller.key));
                }
                if !self.may_request(request, caller, seat) {
                    return;
                }
                if camp.lifetime == 0 {
                    self.end_seat(request.now, seat, End::Left);
                    return self.answer_leave(request, caller);
                }
                if (sits.is_none() || sits != here) && !self.move_seat(request, caller, seat) {
                    return;
                }
                self.refresh(seat, expires, camp.announcement, camp.tags);
                seat
            }
            None if camp.lifetime == 0 => return self.answer_leave(request, caller),
            None => match self.take_seat(request, caller, camp.room, member, expires, camp.announcement, camp.tags) {
                Some(seat) => seat,
                None => return,
            },
        };
        self.answer_camp(request, caller, seat, camp.cursor, granted);
    }

    /// Whether a first Camp would replace what a member said later: it was captured, and comes again from a spoofed source.
    fn would_turn_back(&self, request: &Request<'_>, seat: u32, announcement: Option<&[u8]>) -> bool {
        let client = self.clients.find(&request.via).and_then(|client| self.clients.get(client));
        let spoofable = matches!(request.via, Via::Udp { .. }) && client.is_some_and(Client::proven);
        let differs = |sitting: &Seat| announcement.is_some_and(|announcement| *announcement != *sitting.announcement);
        spoofable && self.camp.seats.get(seat).is_some_and(differs)
    }

    /// Takes a token of the member's, or answers that there is none.
    pub(crate) fn may_request(&mut self, request: &Request<'_>, caller: &Caller, seat: u32) -> bool {
        let rate = self.config.limits.requests;
        if self.camp.seats.get_mut(seat).is_some_and(|seat| seat.requests.take(request.now, rate, 1)) {
            return true;
        }
        self.stats.limited_requests += 1;
        self.fail(request, 486, "Too Many Requests", Some(&caller.key));
        false
    }

    fn refresh(&mut self, seat: u32, expires: Time, announcement: Option<Vec<u8>>, tags: Vec<campfire_protocol::key::Tag>) {
        let bounds = self.bounds();
        let Some(sitting) = self.camp.seats.get_mut(seat) else { return };
        sitting.expires = expires;
        let Some(announcement) = announcement.filter(|new| **new != *sitting.announcement) else { return };
        let room = sitting.room;
        let before = sitting.announcement.len() + sitting.tag_count() * cost::TAG;
        self.refund(before);
        self.charge(announcement.len() + tags.len() * cost::TAG);
        self.stats.announcements += 1;
        self.camp.announce(seat, announcement.into(), tags.into(), bounds);
        self.schedule_pushes(room);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    fn take_seat(
        &mut self,
        request: &Request<'_>,
        caller: &Caller,
        room: campfire_protocol::key::RoomId,
        member: MemberId,
        expires: Time,
        announcement: Option<Vec<u8>>,
        tags: Vec<campfire_protocol::key::Tag>,
    ) -> Option<u32> {
        let Some(announcement) = announcement else {
            // The seat that the member thinks it has is gone: it must say again who it is.
            self.fail(request, 404, "No Such Seat", Some(&caller.key));
            return None;
        };
        if self.draining {
            self.stats.limited_draining += 1;
            self.refuse(request, Limit::Leaving, caller);
            return None;
        }
        let rate = self.config.limits.newcomers;
        if !self.newcomers.take(request.now, rate, request.via.remote().ip()) {
            self.stats.limited_newcomers += 1;
            self.refuse(request, Limit::Newcomers, caller);
            return None;
        }
        let here = self.clients.find(&request.via).and_then(|client| self.clients.get(client));
        if here.is_some_and(|client| client.seats.len() >= self.config.limits.seats_per_source) {
            self.stats.limited_seats_per_source += 1;
            self.refuse(request, Limit::Seats, caller);
            return None;
        }
        let found = self.camp.find(caller.fingerprint, room);
        let one_more = found.is_none() && self.camp.rooms_of(caller.fingerprint) >= self.config.limits.rooms;
        if one_more && !self.close_a_room(request, caller.fingerprint) {
            self.stats.limited_rooms += 1;
            self.refuse(request, Limit::Rooms, caller);
            return None;
        }
        let seats = found.and_then(|room| self.camp.open.get(room)).map_or(0, |room| room.seats.len());
        if seats >= self.config.limits.members && !self.make_way(request, caller.fingerprint, found) {
            self.stats.limited_members += 1;
            self.refuse(request, Limit::Members, caller);
            return None;
        }
        let size = cost::SEAT + announcement.len() + tags.len() * cost::TAG;
        let fits = self.fits(size) || self.make_way(request, caller.fingerprint, None) && self.fits(size);
        if !fits {
            self.stats.limited_memory += 1;
            self.refuse(request, Limit::Memory, caller);
            return None;
        }
        self.charge(size);
        let incarnation = self.rng.next_u64();
        // The one found may have been closed by the eviction of its last member.
        let room = self.camp.enter(caller.fingerprint, room, incarnation);
        let client = self.clients.intern(request.via);
        let newcomer = Newcomer {
            member,
            client,
            household: household(request.via.remote().ip()),
            expires,
            announcement: announcement.into(),
            tags: tags.into(),
        };
        let bounds = self.bounds();
        let (seat, grown) = self.camp.sit(request.now, room, newcomer, bounds)?;
        if let Some(client) = self.clients.get_mut(client) {
            client.seats.push(seat.index);
            if caller.proven {
                client.prove();
            } else {
                client.earn(request.size());
            }
        }
        self.stats.taken += 1;
        self.stats.announcements += 1;
        self.timers.push(expires, Timer::Seat(seat));
        if grown {
            self.watch_the_bound(room);
        }
        self.schedule_pushes(room);
        Some(seat.index)
    }

    /// Ends a seat and all that hangs on it.
    pub(crate) fn end_seat(&mut self, now: Time, seat: u32, end: End) {
        self.release_bindings(seat);
        let (incarnation, bounds) = (self.rng.next_u64(), self.bounds());
        let Some(gone) = self.camp.leave(now, seat, incarnation, bounds) else { return };
        self.settle();
        self.refund(cost::SEAT + gone.announcement.len() + gone.tag_count() * cost::TAG);
        *match end {
            End::Left => &mut self.stats.ended_left,
            End::Expired => &mut self.stats.ended_expired,
            End::Evicted => &mut self.stats.ended_evicted,
            End::Secret => &mut self.stats.ended_secret,
        } += 1;
        if let Some(client) = gone.client {
            if let Some(client) = self.clients.get_mut(client) {
                client.seats.retain(|other| *other != seat);
            }
            self.clients.tidy(client);
        }
        self.schedule_pushes(gone.room);
    }

    /// The member proved by a nonce that it is at another address now.
    fn move_seat(&mut self, request: &Request<'_>, caller: &Caller, seat: u32) -> bool {
        let target = self.clients.find(&request.via).and_then(|client| self.clients.get(client));
        if target.is_some_and(|client| client.seats.len() >= self.config.limits.seats_per_source) {
            self.stats.limited_seats_per_source += 1;
            self.refuse(request, Limit::Seats, caller);
            return false;
        }
        let to = self.clients.intern(request.via);
        if let Some(client) = self.clients.get_mut(to) {
            client.seats.push(seat);
            client.prove();
        }
        let Some(sitting) = self.camp.seats.get_mut(seat) else { return false };
        let from = sitting.client.replace(to);
        self.camp.settle(seat, Some(household(request.via.remote().ip())));
        self.move_bindings(seat, from, to);
        if let Some(from) = from {
            if let Some(client) = self.clients.get_mut(from) {
                client.seats.retain(|other| *other != seat);
            }
            self.clients.tidy(from);
        }
        self.stats.moved += 1;
        true
    }

    /// A seat's stream ended: the seat waits, for a while, for its member to come back another way.
    pub(crate) fn detach_seat(&mut self, now: Time, seat: u32) {
        let Some(reference) = self.camp.seats.reference(seat) else { return };
        if let Some(sitting) = self.camp.seats.get_mut(seat) {
            let from = sitting.client.take();
            sitting.expires = sitting.expires.min(now + Duration::from_secs(10));
            let expires = sitting.expires;
            sitting.timer = expires;
            self.camp.settle(seat, None);
            self.forget_channels(seat, from);
            self.timers.push(expires, Timer::Seat(reference));
        }
    }

    pub(crate) fn seat_timer(&mut self, now: Time, due: Time, seat: Ref) {
        let Some(expires) = self.camp.seats.at(seat).filter(|seat| seat.timer == due).map(|seat| seat.expires) else { return };
        if expires <= now {
            return self.end_seat(now, seat.index, End::Expired);
        }
        if let Some(sitting) = self.camp.seats.get_mut(seat.index) {
            sitting.timer = expires;
        }
        self.timers.push(expires, Timer::Seat(seat));
    }

    /// A Camp success without entries.
    fn success(&self, request: &Request<'_>, caller: &Caller, seat: Option<u32>, lifetime: u32) -> CampSuccess {
        // A nonce is not renewed for a credential that has expired: it has to be looked at again.
        let old = request.message.text(Attribute::NONCE).ok().flatten();
        let nonce = match old {
            Some(old) if !auth::unexpired(caller.expiry, request.wall, Duration::ZERO) => old.to_owned(),
            _ => self.nonces.issue(request.now, &request.via),
        };
        let room = seat.and_then(|seat| self.camp.seats.get(seat)).and_then(|seat| self.camp.open.get(seat.room));
        CampSuccess {
            lifetime,
            server_id: self.config.server_id.clone(),
            instance: self.nonces.instance(request.via.remote().ip()),
            unix_millis: request.wall.0,
            observed: request.via.remote(),
            nonce,
            members: room.map_or(0, |room| room.seats.len() as u32),
            reset: false,
            cursor: room.map(|room| room.cursor(room.head)).unwrap_or_default(),
            head: room.map_or(0, |room| room.head),
            entries: Vec::new(),
            large: room.is_some_and(|room| room.large),
            leaving: self.draining,
        }
    }

    /// Answers a Camp that ends a seat.
    fn answer_leave(&mut self, request: &Request<'_>, caller: &Caller) {
        let success = self.success(request, caller, None, 0);
        if answer_size(request, caller) < success.encoded_len() {
            self.stats.refused_absent += 1;
            return self.fail_unproven(request, 401, Some(&caller.key));
        }
        self.answer(request, success.encode(request.message.transaction(), &caller.key));
    }

    /// Answers a Camp: the first page in the answer, to a proven source further ones behind it.
    fn answer_camp(&mut self, request: &Request<'_>, caller: &Caller, seat: u32, cursor: wire::Cursor, granted: u32) {
        let mut success = self.success(request, caller, Some(seat), granted);
        let Some(room) = self.camp.seats.get(seat).map(|seat| seat.room) else { return };
        let Some(inside) = self.camp.open.get(room) else { return };
        success.reset = inside.must_reset(cursor);
        let large = inside.large;
        let Some(left) = answer_size(request, caller).checked_sub(success.encoded_len()) else {
            self.stats.refused_absent += 1;
            return self.fail_unproven(request, 401, Some(&caller.key));
        };
        if !large {
            let from = if success.reset { 0 } else { cursor.sequence };
            let (entries, read) = self.camp.page(seat, from, !success.reset, left, MAX_ENTRIES);
            success.entries = entries;
            success.cursor.sequence = read;
        }
        self.stats.resets += u64::from(success.reset);
        let (read, head) = (success.cursor.sequence, success.head);
        self.answer(request, success.encode(request.message.transaction(), &caller.key));
        if let Some(sitting) = self.camp.seats.get_mut(seat) {
            sitting.pushed = read;
        }
        if caller.proven && !large && read < head {
            self.push_pages(seat, PAGES, !success.reset);
            self.schedule_pushes(room);
        }
    }

    fn find(&mut self, request: &Request<'_>, caller: &Caller) {
        self.stats.requests_find += 1;
        let Ok(find) = FindRequest::decode(request.message) else { return self.fail(request, 400, "Bad Request", Some(&caller.key)) };
        let Some(seat) = self.seat_of(request, caller, find.from) else { return };
        if !self.may_request(request, caller, seat) {
            return;
        }
        let Some(room) = self.camp.seats.get(seat).map(|seat| seat.room) else { return };
        let large = self.camp.open.get(room).is_some_and(|room| room.large);
        let mut found = Vec::new();
        for tag in find.tags {
            let start = self.rng.next_u32() % self.camp.seats.end().max(1);
            for other in self.camp.tagged(room, tag, start, PER_TAG) {
                if other != seat && !found.contains(&other) {
                    found.push(other);
                }
            }
        }
        let mut room_left = MAX_MESSAGE - FINGERPRINT_SIZE - ANSWER_OVERHEAD;
        let (mut entries, mut rest) = (Vec::new(), Vec::new());
        for other in found {
            if large {
                self.watch(seat, other);
            }
            let Some(entry) = self.camp.entry(other) else { continue };
            if entry.encoded_len() <= room_left && entries.len() < MAX_ENTRIES {
                room_left -= entry.encoded_len();
                entries.push(entry);
            } else {
                rest.push(entry);
            }
        }
        self.answer(request, wire::encode_success(request.message, &entries, &caller.key));
        // What does not fit follows, as far as a small room's cursor does not say it anyway.
        if large {
            self.push_entries(seat, rest);
        }
    }

    fn signal(&mut self, request: &Request<'_>, caller: &Caller) {
        self.stats.requests_signal += 1;
        let Ok(signal) = SignalRequest::decode(request.message) else { return self.fail(request, 400, "Bad Request", Some(&caller.key)) };
        let Some(from) = self.seat_of(request, caller, signal.from) else { return };
        let rate = self.config.limits.signals;
        let Some(sitting) = self.camp.seats.get_mut(from) else { return };
        if !sitting.signals.take(request.now, rate, 1) {
            self.stats.limited_signals += 1;
            return self.fail(request, 486, "Too Many Signals", Some(&caller.key));
        }
        let room = sitting.room;
        let to = self.camp.member(room, signal.to).filter(|to| self.camp.seats.get(*to).is_some_and(|to| to.client.is_some()));
        let Some(to) = to else { return self.fail(request, 404, "No Such Member", Some(&caller.key)) };
        if self.deliver(from, to, &signal) {
            self.stats.pushed_signals += 1;
            self.answer(request, wire::encode_success(request.message, &[], &caller.key));
        } else {
            self.fail(request, 486, "Receiver Not Proven", Some(&caller.key));
        }
    }

    /// Hands sealed bytes to a member, who learns first of the sender if it has not been told of it yet.
    pub(crate) fn deliver(&mut self, from: u32, to: u32, signal: &SignalRequest) -> bool {
        let Some(sender) = self.camp.seats.get(from) else { return false };
        let (room, sequence) = (sender.room, sender.sequence);
        if self.camp.open.get(room).is_some_and(|room| room.large) {
            self.watch(from, to);
            if self.watch(to, from)
                && let Some(entry) = self.camp.entry(from)
            {
                self.push_entries(to, vec![entry]);
            }
        } else if self.camp.seats.get(to).is_some_and(|to| to.pushed < sequence) {
            self.push_pages(to, PAGES, true);
        }
        let transaction = self.transaction();
        let Some(key) = self.push_key(to) else { return false };
        self.push(to, signal.encode_indication(transaction, &key))
    }

    pub(crate) fn watch(&mut self, watcher: u32, watched: u32) -> bool {
        self.camp.watch(watcher, watched, self.config.limits.interest)
    }

    /// The seat in whose name this request speaks: it must be at this source and of this campfire. Answers if there is
    /// none.
    pub(crate) fn seat_of(&mut self, request: &Request<'_>, caller: &Caller, from: MemberId) -> Option<u32> {
        let client = self.clients.find(&request.via).and_then(|client| self.clients.get(client));
        let seat = client.and_then(|client| {
            client.seats.iter().copied().find(|seat| {
                let sitting = self.camp.seats.get(*seat);
                sitting.is_some_and(|sitting| {
                    let room = self.camp.open.get(sitting.room);
                    sitting.member == from && room.is_some_and(|room| room.fingerprint == caller.fingerprint)
                })
            })
        });
        if seat.is_none() {
            self.fail(request, 403, "Not Your Seat", Some(&caller.key));
        }
        seat
    }

    /// Answers a campfire request with an error. With 401 and 438 goes a nonce, with 401 the server's time.
    pub(crate) fn fail(&mut self, request: &Request<'_>, code: u16, reason: &str, key: Option<&[u8; 32]>) {
        self.stats.error(code);
        let challenge = matches!(code, 401 | 438);
        let failure = Failure {
            code,
            reason: reason.to_owned(),
            nonce: challenge.then(|| self.nonces.issue(request.now, &request.via)),
            unix_millis: (code == 401).then_some(request.wall.0),
        };
        self.answer(request, failure.encode(request.message, key));
    }

    /// Answers a member whom a limit keeps out.
    fn refuse(&mut self, request: &Request<'_>, limit: Limit, caller: &Caller) {
        let (code, reason) = limit.answer();
        self.fail(request, code, reason, Some(&caller.key));
    }

    /// The same to a source that has proven nothing, as far as its prefix may be answered.
    fn fail_unproven(&mut self, request: &Request<'_>, code: u16, key: Option<&[u8; 32]>) {
        if self.may_answer(request) {
            self.fail(request, code, if code == 438 { "Stale Nonce" } else { "Unauthorized" }, key);
        }
    }
}

/// Bytes that an answer to this Camp may have: a source that has proven nothing gets no more than it sent.
fn answer_size(request: &Request<'_>, caller: &Caller) -> usize {
    if caller.proven { MAX_MESSAGE - FINGERPRINT_SIZE } else { request.size().min(MAX_MESSAGE).saturating_sub(FINGERPRINT_SIZE) }
}

/// Bytes of a success response without entries: header and integrity.
const ANSWER_OVERHEAD: usize = campfire_protocol::stun::HEADER + campfire_protocol::stun::SHA256_SIZE;
