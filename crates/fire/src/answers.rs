//! What a server answers and pushes.

use std::net::IpAddr;
use std::time::Duration;

use campfire_protocol::carrier::{SocketId, Via};
use campfire_protocol::limit::Limit;
use campfire_protocol::stun::{Attribute, Class, Message, Method, TransactionId};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::{CampSuccess, Cursor, Ember, Entry, Failure, MemberId, SignalIndication, decode_entries};

use crate::channels::State as Bound;
use crate::conversation::{Conversation, Phase};
use crate::exchange::{Ask, Exchange, Purpose};
use crate::hearth::Hearth;
use crate::io::Notice;
use crate::processes::SEVERAL;
use crate::roster::Version;
use crate::seating::Listing;
use crate::{FireEvent, Learned, Seat};

/// Seats are refreshed every 20 s ± 2: this, and a random part on top.
const REFRESH: Duration = Duration::from_secs(18);
const REFRESH_JITTER: Duration = Duration::from_secs(4);
/// How soon a source proves itself after its first Camp, and up to a second more.
const PROVE: Duration = Duration::from_millis(500);
/// Challenges answered in a row before we take it that the server does not want us.
const MAX_CHALLENGES: u8 = 3;
/// How long to wait for pages that were announced, beyond the round trip.
const PAGE_PATIENCE: Duration = Duration::from_millis(150);
/// In a large room what an Ember alone says is confirmed by a Camp within this much per member; at most, and for departures, within
/// [`CONFIRM_MAX`].
const CONFIRM: Duration = Duration::from_millis(1);
const CONFIRM_MAX: Duration = Duration::from_secs(5);
/// Retries where the server refuses.
const REFUSED: Duration = Duration::from_secs(8);

impl Conversation {
    /// Whether this transaction was asked for by this via.
    pub(crate) fn asked(&self, id: TransactionId, via: Via) -> bool {
        self.exchanges.get(&id).is_some_and(|exchange| exchange.via == via)
    }

    /// Our seat's room, by its id.
    pub(crate) fn room_of(&self, member: &MemberId) -> Option<u8> {
        self.seatings.iter().find(|(_, seating)| seating.member == *member).map(|(room, _)| *room)
    }

    /// An answer to something asked.
    pub(crate) fn on_answer(&mut self, hearth: &mut Hearth, now: Time, message: &Message) {
        let id = message.transaction();
        let Some(exchange) = self.exchanges.get_mut(&id) else { return };
        if exchange.key.as_ref().is_some_and(|key| message.verify_sha256(key.as_slice()).is_err()) {
            // Whoever sent this does not know the key: the request stays open.
            let Some(failure) = hint(message) else {
                hearth.counters.drop_integrity += 1;
                return;
            };
            exchange.refused = Some(failure);
            if exchange.is_refused() {
                self.believe_refusal(hearth, now, id);
            }
            return;
        }
        let Some(exchange) = self.exchanges.remove(&id) else { return };
        self.forget_camp(&exchange, id);
        let sample = now.since(exchange.sent);
        if exchange.clean() {
            self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        } else {
            // More than the round trip, if an answer to the second sending; but without it all would be sent twice.
            self.rtt = self.rtt.or(Some(sample));
        }
        self.hear_on(hearth, now, exchange.via);
        if message.class() == Class::Error {
            let Ok(failure) = Failure::decode(message) else {
                hearth.counters.drop_malformed += 1;
                return self.give_up(hearth, now, &exchange, 400);
            };
            return self.on_failure(hearth, now, exchange, &failure);
        }
        match exchange.ask {
            Ask::Binding(purpose) => self.on_binding(hearth, now, purpose, exchange.via, message),
            Ask::Camp { room, version, leave: false } => {
                if let Ok(success) = CampSuccess::decode(message) {
                    self.on_camped(hearth, now, room, version, &exchange, success);
                } else {
                    hearth.counters.drop_malformed += 1;
                    self.retry_camp(hearth, now, room, "it answers in a way that is not understood");
                }
            }
            Ask::Find { room, .. } => match decode_entries(message) {
                Ok(entries) => self.take(hearth, now, room, &entries, Learned::Find),
                Err(_) => hearth.counters.drop_malformed += 1,
            },
            Ask::Bind { room, to, channel, release: false } => {
                if let Some(binding) = self.channels.get_mut((room, to)).filter(|binding| binding.channel == channel) {
                    binding.state = Bound::Bound;
                    hearth.events.push_back(FireEvent::Bound { seat: self.seat((room, to)), channel });
                }
            }
            Ask::Camp { .. } | Ask::Signal { .. } | Ask::Bind { .. } => {}
        }
    }

    /// Anything came from there, and it is where we speak to the server.
    fn hear_on(&mut self, hearth: &mut Hearth, now: Time, via: Via) {
        if self.active().is_none_or(|active| active.via == via) {
            self.hear(hearth, now);
        }
    }

    /// Nobody who knows the key has answered, but somebody has refused.
    pub(crate) fn believe_refusal(&mut self, hearth: &mut Hearth, now: Time, id: TransactionId) {
        let Some(mut exchange) = self.exchanges.remove(&id) else { return };
        self.forget_camp(&exchange, id);
        self.hear_on(hearth, now, exchange.via);
        match (exchange.refused.take(), &exchange.ask) {
            (Some(failure), Ask::Camp { room, leave: false, .. }) => {
                let (room, via) = (*room, exchange.via);
                self.on_refusal(hearth, now, room, via, &failure);
            }
            (Some(failure), Ask::Find { .. } | Ask::Signal { .. } | Ask::Bind { .. }) => {
                self.give_up(hearth, now, &exchange, failure.code);
            }
            (Some(_) | None, _) => {}
        }
    }

    fn on_binding(&mut self, hearth: &mut Hearth, now: Time, purpose: Purpose, via: Via, message: &Message) {
        let Ok(Some(observed)) = message.xor_address(Attribute::XOR_MAPPED_ADDRESS) else {
            hearth.counters.drop_malformed += 1;
            return;
        };
        // Anybody on the path could have said so: where we camp, the answer to a Camp is believed alone.
        let camps_here = self.active().is_some_and(|active| active.via == via);
        let moved = if camps_here {
            matches!(via, Via::Udp { socket, .. } if self.mapped.get(&socket) != Some(&observed))
        } else {
            self.observed(hearth, via, observed)
        };
        if let Phase::Connecting(connecting) = &mut self.phase {
            connecting.binding_answered = true;
        }
        match purpose {
            // Our NAT gave us another address: the server has to learn it from a Camp.
            Purpose::Watch | Purpose::Look if moved && camps_here => self.camp_all(hearth, now),
            Purpose::Upgrade => {
                let rooms: Vec<u8> = self.seatings.iter().filter(|(_, seating)| seating.wanted).map(|(room, _)| *room).collect();
                for room in rooms {
                    self.camp(hearth, now, room, via);
                }
            }
            Purpose::Watch | Purpose::Look | Purpose::Observe(_) => {}
        }
    }

    /// How the server sees a socket; tells whether that is new.
    fn observed(&mut self, hearth: &mut Hearth, via: Via, observed: std::net::SocketAddr) -> bool {
        let Via::Udp { socket, .. } = via else { return false };
        if self.mapped.insert(socket, observed) == Some(observed) {
            return false;
        }
        hearth.events.push_back(FireEvent::Mapped { server: self.slot, via, local_socket_observed: observed });
        true
    }

    /// What the server says of itself.
    fn introduced(&mut self, hearth: &mut Hearth, now: Time, instance: [u8; 8], id: Option<String>, observed: IpAddr) {
        hearth.dirty |= self.instance != Some(instance) || self.says_id != id;
        (self.instance, self.says_id) = (Some(instance), id);
        let known = self.processes.are_several(now);
        self.processes.answered(now, observed, instance);
        if !known && self.processes.are_several(now) {
            hearth.problem(format!("{}: {SEVERAL}", self.server.id));
        }
    }

    fn on_camped(&mut self, hearth: &mut Hearth, now: Time, room: u8, version: Option<Version>, exchange: &Exchange, success: CampSuccess) {
        let via = exchange.via;
        self.settle_on(hearth, now, via, room);
        if self.active().is_none_or(|active| active.via != via) {
            return;
        }
        hearth.counters.fire_camps += 1;
        self.campfire = true;
        self.failures = 0;
        self.problem = None;
        self.introduced(hearth, now, success.instance, success.server_id, success.observed.ip());
        let rtt = if exchange.clean() { now.since(exchange.sent) } else { Duration::ZERO };
        hearth.clock.learn(now, self.slot, UnixMillis(success.unix_millis), rtt);
        if let Some((session, _)) = version {
            hearth.own.taken(session, hearth.clock.now(now));
        }
        hearth.clock_told(now);
        self.observed(hearth, via, success.observed);
        let jitter = hearth.jitter(REFRESH_JITTER);
        let patience = self.rtt.unwrap_or_default() * 2 + PAGE_PATIENCE;
        let Some(seating) = self.seatings.get_mut(&room) else { return };
        if !seating.wanted {
            return;
        }
        let lifetime = Duration::from_secs(u64::from(success.lifetime.clamp(3, 3_600)));
        let was_seated = seating.seated(now);
        let before = seating.cursor.incarnation;
        let same_server = before == success.cursor.incarnation;
        let kept = was_seated && same_server;
        let moved = seating.via != Some(via);
        seating.set_nonce(via, success.nonce);
        seating.challenges = 0;
        (seating.problem, seating.limit) = (None, None);
        seating.until = Some(now + lifetime);
        seating.via = Some(via);
        // A source that is not proven yet proves itself soon: until then little is pushed to it.
        let refresh = if exchange.proven || matches!(via, Via::Stream(_)) { REFRESH + jitter } else { PROVE + jitter / 4 };
        seating.refresh_at = Some(now + refresh.min(lifetime / 3));
        seating.members = success.members;
        seating.large = success.large;
        if version.is_some() {
            seating.held = version;
        } else if !same_server {
            // It started anew and knows nothing of us.
            seating.held = None;
        }
        seating.read_again &= !success.reset;
        if success.reset || !same_server {
            hearth.counters.fire_resets += u64::from(success.reset && before != 0);
            seating.listing = Some(Listing { head: success.head, ..Listing::default() });
            seating.joined_at = success.head;
            seating.cursor = Cursor::default();
            seating.head = 0;
            seating.forget_early();
            hearth.refind |= success.large;
        }
        seating.ends(exchange.sent, success.head);
        let tell = !std::mem::replace(&mut seating.told, true) || !kept || moved;
        let outdated = seating.held != Some(hearth.own.version());
        self.leaving(hearth, success.leaving);
        if tell {
            hearth.events.push_back(FireEvent::Camped { server: self.slot, room, kept });
            self.channels.renew(now, room, kept);
            hearth.dirty = true;
            if !std::mem::replace(&mut self.noticed, true)
                && let Some(active) = self.active()
            {
                hearth.notice(Notice::Camped { server: self.server.id.to_string(), transport: active.transport });
            }
            self.bind_all(hearth, now, room);
        }
        let learned = self.learned(room, success.cursor.sequence);
        self.take(hearth, now, room, &success.entries, learned);
        self.read_up_to(hearth, now, room, success.cursor);
        let known = hearth.roster.seats_at(self.slot, room).count();
        if let Some(seating) = self.seatings.get_mut(&room) {
            seating.expect_more(now, patience);
            seating.count(now, success.members, known);
            let more = seating.catch_up_at.is_some();
            // Nobody streams pages to a source that was not proven.
            if outdated || (more && !exchange.proven) {
                self.camp(hearth, now, room, via);
            }
        }
    }

    /// Who is listed up to `end` came before us or after.
    fn learned(&self, room: u8, end: u64) -> Learned {
        let came_before = self.seatings.get(&room).is_some_and(|seating| end <= seating.joined_at);
        if came_before { Learned::Camp } else { Learned::Ember }
    }

    fn bind_all(&mut self, hearth: &mut Hearth, now: Time, room: u8) {
        let members: Vec<_> = self.channels.iter().filter(|(member, _)| member.0 == room).map(|(member, _)| member).collect();
        for member in members {
            self.ask_bind(hearth, now, member);
        }
    }

    /// The server says with a Camp (or no longer says) that it is about to stop.
    fn leaving(&mut self, hearth: &mut Hearth, says: bool) {
        if std::mem::replace(&mut self.leaving, says) == says {
            return;
        }
        hearth.dirty = true;
        // Links move to other servers while this one still carries.
        let server = self.slot;
        hearth.events.push_back(if says { FireEvent::Suspect { server } } else { FireEvent::Trusted { server } });
    }

    /// Takes what a server says about members of a room.
    fn take(&mut self, hearth: &mut Hearth, now: Time, room: u8, entries: &[Entry], learned: Learned) {
        let Some(tag) = hearth.room(room).cloned().map(|room| self.tag(&room)) else { return };
        let slot = self.slot;
        let Some(seating) = self.seatings.get_mut(&room) else { return };
        let large = seating.large;
        let mut bound = Vec::new();
        for entry in entries.iter().filter(|entry| entry.member != seating.member) {
            if let Some(listing) = &mut seating.listing {
                if entry.announcement.is_some() {
                    listing.seen.insert(entry.member);
                } else {
                    listing.seen.remove(&entry.member);
                }
            }
            let seat = Seat { server: slot, room, member: entry.member };
            let unknown = hearth.roster.peer_of(&seat).is_none();
            hearth.take_entry(now, seat, entry, learned, tag, large);
            if unknown && let Some(binding) = self.channels.get((room, entry.member)).filter(|binding| binding.usable()) {
                bound.push(FireEvent::Bound { seat, channel: binding.channel });
            }
        }
        // What was bound before we knew (again) who sits there.
        hearth.events.extend(bound);
        if !large {
            // The server says how many there are with each Camp alone.
            let known = u32::try_from(hearth.roster.seats_at(slot, room).count()).unwrap_or(u32::MAX);
            seating.members = seating.members.max(known.saturating_add(1));
        }
    }

    /// The log has been read up to here. At the end of what a server lists after a reset, those not listed are gone.
    fn read_up_to(&mut self, hearth: &mut Hearth, now: Time, room: u8, cursor: Cursor) {
        let slot = self.slot;
        let Some(seating) = self.seatings.get_mut(&room) else { return };
        if cursor.incarnation != seating.cursor.incarnation || cursor.sequence > seating.cursor.sequence {
            seating.cursor = cursor;
        }
        let sequence = seating.cursor.sequence;
        let large = seating.large;
        if let Some(listing) = seating.listing.take_if(|listing| large || sequence >= listing.head) {
            hearth.depart_all(now, slot, room, |seat| listing.seen.contains(&seat.member));
            hearth.dirty = true;
        }
    }

    /// Camp will be tried again in a while.
    fn retry_camp(&mut self, hearth: &mut Hearth, now: Time, room: u8, problem: &str) {
        let jitter = hearth.jitter(REFUSED);
        if let Some(seating) = self.seatings.get_mut(&room) {
            seating.refresh_at = Some(now + REFUSED + jitter);
            seating.challenges = 0;
            seating.problem = Some(problem.to_owned());
            seating.limit = None;
        }
        self.problem = Some(problem.to_owned());
        hearth.dirty = true;
    }

    /// An error from one who knows the key.
    fn on_failure(&mut self, hearth: &mut Hearth, now: Time, exchange: Exchange, failure: &Failure) {
        let (via, sent) = (exchange.via, exchange.sent);
        let Some(room) = exchange.room() else { return };
        self.campfire = true;
        if let Some(unix_millis) = failure.unix_millis {
            hearth.clock.learn(now, self.slot, UnixMillis(unix_millis), now.since(sent));
            hearth.clock_told(now);
        }
        if let (Some(nonce), Some(seating)) = (&failure.nonce, self.seatings.get_mut(&room)) {
            seating.set_nonce(via, nonce.clone());
        }
        let Ask::Camp { leave, version, .. } = exchange.ask else {
            return self.on_member_failure(hearth, now, exchange, failure);
        };
        if leave {
            if matches!(failure.code, 401 | 438) && exchange.challenges < MAX_CHALLENGES {
                self.ask(hearth, now, via, exchange.ask, exchange.challenges + 1);
            }
            return;
        }
        self.settle_on(hearth, now, via, room);
        let Some(seating) = self.seatings.get_mut(&room) else { return };
        if !seating.wanted {
            return;
        }
        seating.challenges += 1;
        let again = match failure.code {
            401 | 438 => failure.nonce.is_some(),
            // It holds nothing of us: say everything.
            400 | 404 => version.is_none(),
            _ => false,
        };
        if again && seating.challenges <= MAX_CHALLENGES {
            if matches!(failure.code, 400 | 404) {
                seating.held = None;
            }
            return self.camp(hearth, now, room, via);
        }
        self.refused(hearth, now, room, failure);
    }

    /// A Camp was refused without integrity: the server does not know our key, or speaks no campfire.
    fn on_refusal(&mut self, hearth: &mut Hearth, now: Time, room: u8, via: Via, failure: &Failure) {
        let foreign = failure.code != 401 || failure.unix_millis.is_none();
        if foreign && !self.campfire {
            let why = format!("Camp is answered with {} {}", failure.code, failure.reason);
            if matches!(self.phase, Phase::Connecting(_)) {
                self.found_plain(hearth, now, &why);
            }
            return;
        }
        self.settle_on(hearth, now, via, room);
        if self.seatings.get(&room).is_some_and(|seating| seating.wanted) {
            self.refused(hearth, now, room, failure);
        }
    }

    /// The server does not let us sit there: said once, and tried again in a while.
    fn refused(&mut self, hearth: &mut Hearth, now: Time, room: u8, failure: &Failure) {
        let new = self.seatings.get(&room).is_some_and(|seating| seating.problem.is_none());
        let limit = Limit::of(failure);
        let problem = match (failure.code, hearth.room(room)) {
            (401, Some(known)) => format!("the server does not know key {} (give it the relay secret)", known.keys.fingerprint),
            (508 | 486, _) if limit == Some(Limit::Leaving) => "the server is about to stop".to_owned(),
            (508 | 486, _) => {
                let remedy = limit.map(|limit| format!(": {}", limit.remedy())).unwrap_or_default();
                format!("the server is full ({} {}){remedy}", failure.code, failure.reason)
            }
            _ => format!("the server refuses ({} {})", failure.code, failure.reason),
        };
        // Newcomers of a moment come in by themselves.
        if new && !matches!(limit, Some(Limit::Leaving | Limit::Newcomers)) {
            hearth.problem(format!("{}: {problem}", self.server.id));
        }
        self.retry_camp(hearth, now, room, &problem);
        if let Some(seating) = self.seatings.get_mut(&room) {
            seating.limit = limit;
        }
    }

    /// Find, Signal or Bind was refused.
    fn on_member_failure(&mut self, hearth: &mut Hearth, now: Time, exchange: Exchange, failure: &Failure) {
        if matches!(failure.code, 401 | 438) && failure.nonce.is_some() && exchange.challenges < MAX_CHALLENGES {
            self.ask(hearth, now, exchange.via, exchange.ask, exchange.challenges + 1);
            return;
        }
        let Some(room) = exchange.room().filter(|room| self.seatings.get(room).is_some_and(|seating| seating.wanted)) else { return };
        if failure.code == 403 && exchange.challenges < MAX_CHALLENGES {
            // It is we who do not sit there: our address changed, or the server started anew.
            self.camp(hearth, now, room, exchange.via);
            self.ask(hearth, now, exchange.via, exchange.ask, exchange.challenges + 1);
            return;
        }
        match exchange.ask {
            // Too much at present; whoever waits for an answer will ask again.
            Ask::Signal { .. } if failure.code == 486 => hearth.counters.drop_not_sent += 1,
            Ask::Signal { to, .. } => self.unreachable(hearth, now, room, to, failure.code),
            Ask::Bind { to, channel, release: false, .. } => {
                let Some(binding) = self.channels.get_mut((room, to)).filter(|binding| binding.channel == channel) else { return };
                match failure.code {
                    486 | 508 => binding.state = Bound::Wanted(now + Duration::from_secs(1)),
                    400 if self.channels.renumber(now, (room, to)) => self.ask_bind(hearth, now, (room, to)),
                    code => self.unreachable(hearth, now, room, to, code),
                }
            }
            Ask::Bind { release: true, .. } | Ask::Binding(_) | Ask::Camp { .. } | Ask::Find { .. } => {}
        }
        if failure.code == 404
            && let Some(seating) = self.seatings.get_mut(&room)
        {
            // Perhaps everybody is gone because the server started anew: look.
            let soon = now + Duration::from_millis(200);
            seating.refresh_at = seating.refresh_at.map(|at| at.min(soon));
        }
    }

    /// A push to one of our seats; its integrity is checked here.
    pub(crate) fn on_push(&mut self, hearth: &mut Hearth, now: Time, room: u8, message: &Message) {
        let Some(seating) = self.seatings.get(&room) else { return };
        if message.verify_sha256(seating.push_key.as_slice()).is_err() {
            hearth.counters.drop_integrity += 1;
            return;
        }
        self.hear(hearth, now);
        match message.method() {
            Method::EMBER => match Ember::decode(message) {
                Ok(ember) => self.on_ember(hearth, now, room, ember),
                Err(_) => hearth.counters.drop_malformed += 1,
            },
            _ => match SignalIndication::decode(message) {
                Ok(signal) => {
                    let from = self.seat((room, signal.from));
                    if !hearth.signalled(now, from, signal.data)
                        && let Some(seating) = self.seatings.get_mut(&room).filter(|seating| !seating.large)
                    {
                        seating.miss_somebody(now);
                    }
                }
                Err(_) => hearth.counters.drop_malformed += 1,
            },
        }
    }

    /// Announcements prove themselves. All else that an Ember says could be made up by any member (decision 0005): the next Camp
    /// tells, which an Ember can only bring forward.
    fn confirm(&mut self, hearth: &mut Hearth, now: Time, room: u8, ember: &Ember) {
        let slot = self.slot;
        let Some(seating) = self.seatings.get_mut(&room) else { return };
        let another_log = ember.previous != ember.cursor && ember.cursor.incarnation != seating.cursor.incarnation;
        if ember.leaving && !self.leaving || another_log {
            // Everybody is told so; not everybody asks at the same moment.
            let most = if seating.large { (CONFIRM * seating.members).min(CONFIRM_MAX) } else { Duration::ZERO };
            seating.hint(now, hearth.jitter(most));
        }
        if !seating.large && ember.entries.iter().any(|entry| entry.announcement.is_none() && hearth.knows(slot, room, entry)) {
            seating.doubted = true;
            let soon = now + hearth.jitter(CONFIRM_MAX);
            seating.refresh_at = seating.refresh_at.map(|at| at.min(soon));
        }
    }

    fn on_ember(&mut self, hearth: &mut Hearth, now: Time, room: u8, mut ember: Ember) {
        self.confirm(hearth, now, room, &ember);
        let patience = self.rtt.unwrap_or_default() * 2 + PAGE_PATIENCE;
        let slot = self.slot;
        let Some(seating) = self.seatings.get_mut(&room) else { return };
        if ember.previous == ember.cursor {
            return self.take(hearth, now, room, &ember.entries, Learned::Ember);
        }
        if ember.cursor.incarnation != seating.cursor.incarnation {
            return;
        }
        if ember.cursor.sequence <= seating.cursor.sequence {
            // Late, or we were told of too high a cursor: what is newer than what we have of somebody is taken all the same.
            ember.entries.retain(|entry| entry.announcement.is_some() && hearth.knows(slot, room, entry));
            return self.take(hearth, now, room, &ember.entries, Learned::Ember);
        }
        seating.pushed(now, ember.cursor.sequence);
        if ember.previous.sequence > seating.cursor.sequence {
            // What it says is true whatever was missed; what was missed is asked for, if it does not come by itself.
            let (entries, end) = (ember.entries.clone(), ember.cursor.sequence);
            seating.hold(ember);
            if seating.catch_up_at.is_none() {
                seating.expect_more(now, patience);
            }
            let learned = self.learned(room, end);
            return self.take(hearth, now, room, &entries, learned);
        }
        let mut next = Some(ember);
        while let Some(ember) = next {
            let learned = self.learned(room, ember.cursor.sequence);
            self.take(hearth, now, room, &ember.entries, learned);
            self.read_up_to(hearth, now, room, ember.cursor);
            next = self.seatings.get_mut(&room).and_then(crate::seating::Seating::following);
        }
        if let Some(seating) = self.seatings.get_mut(&room) {
            seating.expect_more(now, patience);
        }
    }
}

/// What a server says that does not know our key, or speaks no campfire. All other errors have integrity.
fn hint(message: &Message) -> Option<Failure> {
    let unsigned = message.class() == Class::Error && message.get(Attribute::MESSAGE_INTEGRITY_SHA256).is_none();
    let failure = unsigned.then(|| Failure::decode(message).ok()).flatten()?;
    matches!(failure.code, 400 | 401 | 420).then_some(failure)
}

/// The sockets whose outside address tells something about our NAT.
pub(crate) fn is_primary(socket: SocketId) -> bool {
    socket.0 <= 1
}
