//! The conversation with one server: reaching it, keeping seats, noticing that it is gone. Questions are in
//! [`asking`](crate::asking), answers and pushes in [`answers`](crate::answers).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use campfire_protocol::carrier::{ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::server::{Server, ServerTag, Transport, tag};
use campfire_protocol::stun::TransactionId;
use campfire_protocol::time::Time;

use crate::FireEvent;
use crate::channels::Channels;
use crate::connect::{self, Connecting, Names, socket_for};
use crate::exchange::{Ask, Exchange, Purpose};
use crate::hearth::Hearth;
use crate::io::{Notice, Output};
use crate::own::Room;
use crate::processes::{Processes, SEVERAL};
use crate::seating::Seating;
use crate::status::{self, ServerState};
use crate::timers::Watch;

/// Waits between rounds of attempts: the first retries are quick.
const BACKOFF: [Duration; 5] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// Random part on top.
const BACKOFF_JITTER: Duration = Duration::from_secs(2);
/// How long a server that is still being reached, or has not yet answered our Camp, counts as one that will.
pub(crate) const HOPE: Duration = Duration::from_millis(1_500);
/// How often a server that speaks no campfire is tried again.
const PLAIN_RETRY: Duration = Duration::from_mins(5);
/// Rounds in which Binding was answered and Camp was not, until a server counts as plain TURN.
const PLAIN_ROUNDS: u8 = 2;
/// First wait before UDP is tried again under a conversation on a stream; doubles.
const UPGRADE: Duration = Duration::from_secs(10);
/// A stream is closed this long after the conversation moved to UDP.
const OLD_STREAM: Duration = Duration::from_secs(3);
/// In a large room a broken conversation is taken up again within this much per member, at most [`REJOIN_MAX`].
const REJOIN: Duration = Duration::from_millis(1);
const REJOIN_MAX: Duration = Duration::from_secs(10);

/// What is being done about the server.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Nobody wants to sit there.
    Idle,
    /// It did not answer; tried again then.
    Waiting(Time),
    /// Being reached.
    Connecting(Connecting),
    /// It answers campfire messages.
    Active(Active),
    /// It answers, but speaks no campfire; tried again then.
    Plain(Time),
}

/// An open conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Active {
    pub(crate) via: Via,
    pub(crate) transport: Transport,
    pub(crate) remote: SocketAddr,
    /// When to try UDP again, and the wait after that; on streams alone.
    pub(crate) upgrade: Option<(Time, Duration)>,
}

/// See the module.
pub(crate) struct Conversation {
    pub(crate) slot: ServerSlot,
    pub(crate) server: Server,
    /// Hosts of it that we know from other members alone.
    pub(crate) hearsay: BTreeSet<String>,
    tags: BTreeMap<u8, ServerTag>,
    /// What it said of itself when it last answered a Camp: its id, if it has one, and which process it is.
    pub(crate) says_id: Option<String>,
    pub(crate) instance: Option<[u8; 8]>,
    pub(crate) processes: Processes,
    pub(crate) phase: Phase,
    pub(crate) names: Names,
    pub(crate) seatings: BTreeMap<u8, Seating>,
    pub(crate) exchanges: BTreeMap<TransactionId, Exchange>,
    pub(crate) channels: Channels,
    /// When anything last came from there.
    pub(crate) heard: Option<Time>,
    pub(crate) rtt: Option<Duration>,
    pub(crate) failures: usize,
    /// It has answered a campfire message, ever.
    pub(crate) campfire: bool,
    plain_rounds: u8,
    pub(crate) watch: Watch,
    pub(crate) suspect: bool,
    /// It said that it is about to stop.
    pub(crate) leaving: bool,
    /// How it sees our sockets.
    pub(crate) mapped: BTreeMap<SocketId, SocketAddr>,
    pub(crate) old_streams: Vec<(Time, StreamId)>,
    /// It answers on a stream and did not on UDP.
    pub(crate) udp_failed: bool,
    /// Over UDP large packets do not come through: streams alone are used.
    pub(crate) narrow: bool,
    /// `Notice::Camped` was given since it was last lost.
    pub(crate) noticed: bool,
    noticed_plain: bool,
    pub(crate) problem: Option<String>,
}

impl Conversation {
    pub(crate) fn new(hearth: &mut Hearth, slot: ServerSlot, server: Server) -> Self {
        let start = u16::try_from(hearth.jitter(Duration::from_micros(4_096)).as_micros()).unwrap_or(0);
        Self {
            slot,
            server,
            hearsay: BTreeSet::new(),
            tags: BTreeMap::new(),
            says_id: None,
            instance: None,
            processes: Processes::default(),
            phase: Phase::Idle,
            names: Names::default(),
            seatings: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            channels: Channels::new(start),
            heard: None,
            rtt: None,
            failures: 0,
            campfire: false,
            plain_rounds: 0,
            watch: Watch::default(),
            suspect: false,
            leaving: false,
            mapped: BTreeMap::new(),
            old_streams: Vec::new(),
            udp_failed: false,
            narrow: false,
            noticed: false,
            noticed_plain: false,
            problem: None,
        }
    }

    /// Its tag under a room's key.
    pub(crate) fn tag(&mut self, room: &Room) -> ServerTag {
        *self.tags.entry(room.number).or_insert_with(|| tag(&room.keys, &self.server.id))
    }

    /// What the list says of it now. Where it was reached is left if that is none of its addresses any more: the id moved.
    pub(crate) fn is_now(&mut self, hearth: &mut Hearth, now: Time, server: Server) {
        let changed = self.server.addresses != server.addresses;
        self.server = server;
        let Some(active) = self.active().filter(|_| changed) else { return };
        let here = |host: &str| host.parse().map_or(true, |ip: IpAddr| ip == active.remote.ip());
        let still =
            self.server.addresses.iter().any(|a| a.transport == active.transport && a.port == active.remote.port() && here(&a.host));
        if !still {
            self.lost(hearth, now, "it is at another address now");
        }
    }

    /// It is known by another id: the tags were of the old one.
    pub(crate) fn renamed(&mut self) {
        self.tags.clear();
    }

    /// A room's number may come to mean another room.
    pub(crate) fn forget_room(&mut self, room: u8) {
        self.seatings.remove(&room);
        self.tags.remove(&room);
    }

    /// The same, once it was computed.
    pub(crate) fn known_tag(&self, room: u8) -> Option<ServerTag> {
        self.tags.get(&room).copied()
    }

    /// For people.
    pub(crate) fn status(&self, now: Time) -> status::Server {
        let seated = || self.seatings.iter().filter(|(room, _)| self.seated(now, **room)).map(|(_, seating)| seating);
        let state = match &self.phase {
            Phase::Plain(_) => ServerState::PlainTurn,
            Phase::Active(_) if seated().next().is_some() => ServerState::Camped,
            Phase::Idle | Phase::Waiting(_) | Phase::Connecting(_) | Phase::Active(_) if !self.wanted() => ServerState::Idle,
            Phase::Waiting(_) => ServerState::Lost,
            Phase::Connecting(_) if self.failures > 0 => ServerState::Lost,
            Phase::Idle | Phase::Connecting(_) | Phase::Active(_) => ServerState::Connecting,
        };
        let active = self.active();
        let wanted = || self.seatings.values().filter(|seating| seating.wanted);
        let refused = wanted().find_map(|seating| seating.problem.clone());
        let several = || self.processes.are_several(now).then(|| SEVERAL.to_owned());
        status::Server {
            id: self.server.id.to_string(),
            state,
            transport: active.map(|active| active.transport),
            address: active.map(|active| active.remote),
            rtt_ms: self.rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0),
            members: seated().map(|seating| seating.members as usize).max().unwrap_or(0),
            observed: self.mapped.iter().next().map(|(_, observed)| *observed),
            problem: refused.or_else(|| if state == ServerState::Camped { several() } else { self.problem.clone() }),
            limit: wanted().find_map(|seating| seating.limit),
        }
    }

    pub(crate) fn active(&self) -> Option<Active> {
        if let Phase::Active(active) = self.phase { Some(active) } else { None }
    }

    /// We sit in this room there.
    pub(crate) fn seated(&self, now: Time, room: u8) -> bool {
        self.active().is_some() && self.seatings.get(&room).is_some_and(|seating| seating.seated(now))
    }

    /// We sit there, or nothing yet speaks against it.
    pub(crate) fn hopeful(&self, now: Time, room: u8) -> bool {
        match &self.phase {
            Phase::Idle => self.failures == 0,
            Phase::Connecting(connecting) => self.failures == 0 && now.since(connecting.started) < HOPE,
            Phase::Active(_) => self.seatings.get(&room).is_none_or(|seating| {
                seating.seated(now) || seating.problem.is_none() && seating.tried.is_none_or(|at| now.since(at) < HOPE)
            }),
            Phase::Waiting(_) | Phase::Plain(_) => false,
        }
    }

    /// The rooms in which to sit. Seats elsewhere are left.
    pub(crate) fn want(&mut self, hearth: &mut Hearth, now: Time, rooms: &BTreeSet<u8>) {
        for &number in rooms {
            let Some(room) = hearth.room(number).cloned() else { continue };
            let seating = self.seatings.entry(number).or_insert_with(|| Seating::new(&mut hearth.rng, &room.keys));
            if !seating.wanted {
                seating.wanted = true;
                if let Some(active) = self.active() {
                    self.camp(hearth, now, number, active.via);
                }
            }
        }
        let unwanted: Vec<u8> = self.seatings.iter().filter(|(room, s)| s.wanted && !rooms.contains(room)).map(|(room, _)| *room).collect();
        for room in unwanted {
            self.leave(hearth, now, room);
        }
        match self.phase {
            Phase::Idle if !rooms.is_empty() => self.connect(hearth, now),
            Phase::Connecting(_) | Phase::Waiting(_) | Phase::Plain(_) if rooms.is_empty() => self.hang_up(hearth),
            Phase::Idle | Phase::Connecting(_) | Phase::Waiting(_) | Phase::Plain(_) | Phase::Active(_) => {}
        }
    }

    /// Whether anybody wants to sit there.
    pub(crate) fn wanted(&self) -> bool {
        self.seatings.values().any(|seating| seating.wanted)
    }

    /// Begins a round of attempts.
    pub(crate) fn connect(&mut self, hearth: &mut Hearth, now: Time) {
        self.drop_vias(hearth);
        let addresses = connect::preferred(&self.server, hearth.in_cluster);
        self.names.want(now, &addresses);
        self.phase = Phase::Connecting(Connecting::new(now));
        self.go_on_connecting(hearth, now);
    }

    pub(crate) fn go_on_connecting(&mut self, hearth: &mut Hearth, now: Time) {
        if let Some((host, port)) = self.names.next(now) {
            hearth.outputs.push_back(Output::Resolve { server: self.slot, host, port });
        }
        let mut addresses = connect::preferred(&self.server, hearth.in_cluster);
        addresses.retain(|address| !self.narrow || address.transport != Transport::Udp);
        let hurry = hearth.udp_blocked;
        let Phase::Connecting(connecting) = &mut self.phase else { return };
        connecting.plan(now, &addresses, &self.names, &hearth.sockets, hurry, &self.hearsay);
        for stream in connecting.late(now) {
            hearth.outputs.push_back(Output::CloseStream { stream });
            hearth.remove_via(Via::Stream(stream), self.slot);
        }
        if self.names.settled() {
            connecting.advance(now);
        }
        let begin = connecting.begin(now);
        let room = self.first_room(hearth);
        for index in begin {
            self.begin_attempt(hearth, now, index, room);
        }
        self.check_exhausted(hearth, now);
    }

    fn check_exhausted(&mut self, hearth: &mut Hearth, now: Time) {
        let Phase::Connecting(connecting) = &self.phase else { return };
        if !connecting.exhausted() || !self.names.settled() {
            return;
        }
        if connecting.binding_answered {
            self.plain_rounds += 1;
            if self.plain_rounds >= PLAIN_ROUNDS && !self.campfire {
                return self.found_plain(hearth, now, "it answers Binding but not Camp");
            }
        }
        let nothing = connecting.attempts.is_empty();
        let failure = connecting.failure.clone().unwrap_or_else(|| "no answer".into());
        self.problem = Some(if nothing { "no address could be reached or resolved".into() } else { failure });
        self.back_off(hearth, now);
    }

    fn back_off(&mut self, hearth: &mut Hearth, now: Time) {
        let wait = BACKOFF.get(self.failures).or(BACKOFF.last()).copied().unwrap_or(BACKOFF_JITTER);
        let jitter = hearth.jitter(BACKOFF_JITTER.min(wait));
        self.failures += 1;
        self.drop_vias(hearth);
        self.phase = Phase::Waiting(now + wait + jitter);
        hearth.dirty = true;
    }

    /// The room in which the first Camp is tried: the one preferred.
    fn first_room(&self, hearth: &Hearth) -> Option<u8> {
        let wanted = self.seatings.iter().filter(|(_, seating)| seating.wanted).map(|(room, _)| *room);
        wanted.min_by_key(|room| hearth.room_rank(*room))
    }

    fn begin_attempt(&mut self, hearth: &mut Hearth, now: Time, index: usize, room: Option<u8>) {
        let slot = self.slot;
        let pin = self.server.certificate_pin;
        let Phase::Connecting(connecting) = &mut self.phase else { return };
        let Some(attempt) = connecting.attempts.get_mut(index) else { return };
        let (remote, transport) = (attempt.remote, attempt.transport);
        if transport == Transport::Udp {
            let (Some(socket), Some(room)) = (socket_for(&hearth.sockets, remote), room) else {
                attempt.state = connect::State::Failed;
                return;
            };
            let via = Via::Udp { socket, remote };
            attempt.state = connect::State::Asked(via);
            hearth.add_via(via, slot);
            self.camp(hearth, now, room, via);
        } else {
            let stream = hearth.stream();
            attempt.state = Connecting::opening(now, stream);
            hearth.add_via(Via::Stream(stream), slot);
            hearth.outputs.push_back(Output::OpenStream { stream, server: slot, remote, transport, host: attempt.host.clone(), pin });
        }
    }

    pub(crate) fn on_resolved(&mut self, hearth: &mut Hearth, now: Time, addresses: &[SocketAddr]) {
        self.names.resolved(now, addresses);
        self.go_on_connecting(hearth, now);
    }

    pub(crate) fn on_stream_opened(&mut self, hearth: &mut Hearth, now: Time, stream: StreamId) -> bool {
        let via = Via::Stream(stream);
        let room = self.first_room(hearth);
        let Phase::Connecting(connecting) = &mut self.phase else { return false };
        let Some(attempt) = connecting.by_via(via) else { return false };
        attempt.state = connect::State::Asked(via);
        if let Some(room) = room {
            self.camp(hearth, now, room, via);
        }
        true
    }

    pub(crate) fn on_stream_closed(&mut self, hearth: &mut Hearth, now: Time, stream: StreamId, reason: &str) {
        let via = Via::Stream(stream);
        self.old_streams.retain(|(_, old)| *old != stream);
        if self.active().is_some_and(|active| active.via == via) {
            self.lost(hearth, now, &format!("connection closed: {reason}"));
        } else if let Phase::Connecting(connecting) = &mut self.phase
            && let Some(attempt) = connecting.by_via(via)
        {
            attempt.state = connect::State::Failed;
            connecting.failure = Some(reason.to_owned());
            self.exchanges.retain(|_, exchange| exchange.via != via);
            hearth.remove_via(via, self.slot);
            self.go_on_connecting(hearth, now);
        }
    }

    /// A socket is open (again), or its addresses changed: the way to the server may have.
    pub(crate) fn on_socket_opened(&mut self, hearth: &mut Hearth, now: Time, socket: SocketId) {
        if std::mem::take(&mut self.narrow)
            && let Phase::Active(active) = &mut self.phase
            && active.transport != Transport::Udp
        {
            active.upgrade = Some((now, UPGRADE));
        }
        match &self.phase {
            Phase::Active(active) if matches!(active.via, Via::Udp { socket: ours, .. } if ours == socket) => self.camp_all(hearth, now),
            Phase::Active(Active { upgrade: Some((_, wait)), .. }) => {
                let wait = *wait;
                if let Phase::Active(active) = &mut self.phase {
                    active.upgrade = Some((now, wait));
                }
            }
            Phase::Connecting(_) => self.go_on_connecting(hearth, now),
            Phase::Waiting(_) if self.wanted() => {
                self.failures = 0;
                self.connect(hearth, now);
            }
            Phase::Idle | Phase::Waiting(_) | Phase::Active(_) | Phase::Plain(_) => {}
        }
    }

    pub(crate) fn on_socket_closed(&mut self, hearth: &mut Hearth, now: Time, socket: SocketId) {
        self.mapped.remove(&socket);
        let on_it = |via: &Via| matches!(via, Via::Udp { socket: ours, .. } if *ours == socket);
        if self.active().is_some_and(|active| on_it(&active.via)) {
            return self.lost(hearth, now, "our UDP socket closed");
        }
        let failed: Vec<TransactionId> = self.exchanges.iter().filter(|(_, e)| on_it(&e.via)).map(|(id, _)| *id).collect();
        for id in failed {
            if let Some(exchange) = self.exchanges.remove(&id) {
                self.failed(hearth, now, &exchange);
            }
        }
    }

    /// A way was found: the conversation begins (or moves) there. Camps in all rooms but the one whose answer told.
    pub(crate) fn settle_on(&mut self, hearth: &mut Hearth, now: Time, via: Via, told: u8) {
        let has_udp = self.server.addresses.iter().any(|address| address.transport == Transport::Udp);
        let (transport, remote) = match &mut self.phase {
            Phase::Active(active) if active.via == via => return,
            Phase::Active(active) => {
                // UDP works again.
                let Via::Udp { remote, .. } = via else { return };
                if let Via::Stream(old) = active.via {
                    self.old_streams.push((now + OLD_STREAM, old));
                }
                (Transport::Udp, remote)
            }
            Phase::Connecting(connecting) => {
                let unanswered = connecting.udp_unanswered(now) || hearth.udp_blocked && !connecting.binding_answered;
                let Some(found) = connecting.by_via(via) else { return };
                let (transport, remote) = (found.transport, found.remote);
                self.udp_failed = transport != Transport::Udp && has_udp && unanswered && !self.narrow;
                self.drop_vias_but(hearth, via);
                (transport, remote)
            }
            Phase::Idle | Phase::Waiting(_) | Phase::Plain(_) => return,
        };
        if transport == Transport::Udp {
            self.udp_failed = false;
        }
        let upgrade = (transport != Transport::Udp && has_udp && !self.narrow).then(|| (now + UPGRADE, UPGRADE));
        self.phase = Phase::Active(Active { via, transport, remote, upgrade });
        self.plain_rounds = 0;
        self.watch = Watch::default();
        hearth.dirty = true;
        self.carry_over(hearth, now, via);
        self.camp_in_all_but(hearth, now, Some(told));
    }

    /// What was asked on another via is asked again on this one.
    fn carry_over(&mut self, hearth: &mut Hearth, now: Time, via: Via) {
        let elsewhere: Vec<TransactionId> = self.exchanges.iter().filter(|(_, e)| e.via != via).map(|(id, _)| *id).collect();
        for id in elsewhere {
            let Some(exchange) = self.exchanges.remove(&id) else { continue };
            match exchange.ask {
                Ask::Find { .. } | Ask::Signal { .. } | Ask::Bind { .. } => {
                    self.ask(hearth, now, via, exchange.ask, exchange.challenges);
                }
                Ask::Camp { room, .. } => {
                    if let Some(seating) = self.seatings.get_mut(&room).filter(|seating| seating.camp == Some(id)) {
                        seating.camp = None;
                    }
                }
                Ask::Binding(_) => {}
            }
        }
    }

    /// Camps in all wanted rooms.
    pub(crate) fn camp_all(&mut self, hearth: &mut Hearth, now: Time) {
        self.camp_in_all_but(hearth, now, None);
    }

    fn camp_in_all_but(&mut self, hearth: &mut Hearth, now: Time, but: Option<u8>) {
        let Some(active) = self.active() else { return };
        let wanted = self.seatings.iter().filter(|(room, seating)| seating.wanted && Some(**room) != but);
        let rooms: Vec<u8> = wanted.map(|(room, _)| *room).collect();
        for room in rooms {
            self.camp(hearth, now, room, active.via);
        }
    }

    /// The server does not answer any more.
    /// Large packets do not come through over UDP: from here on a stream, if the server offers one.
    pub(crate) fn narrow(&mut self, hearth: &mut Hearth, now: Time) {
        let on_udp = self.active().is_some_and(|active| active.transport == Transport::Udp);
        if on_udp && self.server.addresses.iter().any(|address| address.transport != Transport::Udp) {
            self.narrow = true;
            self.lost(hearth, now, "large packets do not come through over UDP: a stream is used");
        }
    }

    pub(crate) fn lost(&mut self, hearth: &mut Hearth, now: Time, reason: &str) {
        if self.active().is_none() {
            return;
        }
        hearth.counters.fire_servers_lost += 1;
        hearth.events.push_back(FireEvent::Lost { server: self.slot });
        if std::mem::take(&mut self.noticed) {
            hearth.notice(Notice::ServerLost { server: self.server.id.to_string(), reason: reason.to_owned() });
        }
        self.problem = Some(reason.to_owned());
        self.suspect = false;
        self.watch = Watch::default();
        self.failures = 0;
        for exchange in std::mem::take(&mut self.exchanges).into_values() {
            self.give_up(hearth, now, &exchange, 408);
        }
        let members = self.seatings.values().filter(|seating| seating.large).map(|seating| seating.members).max().unwrap_or(0);
        self.seatings.values_mut().for_each(Seating::interrupted);
        if let Some(Active { via: Via::Stream(stream), .. }) = self.active() {
            hearth.outputs.push_back(Output::CloseStream { stream });
        }
        hearth.dirty = true;
        if members > 0 {
            // Not everybody at once.
            self.drop_vias(hearth);
            let jitter = hearth.jitter((REJOIN * members).min(REJOIN_MAX));
            self.phase = Phase::Waiting(now + jitter);
        } else {
            self.connect(hearth, now);
        }
    }

    /// The server speaks no campfire.
    pub(crate) fn found_plain(&mut self, hearth: &mut Hearth, now: Time, why: &str) {
        if !std::mem::replace(&mut self.noticed_plain, true) {
            hearth.notice(Notice::PlainTurn { server: self.server.id.to_string() });
        }
        let via = match &self.phase {
            Phase::Connecting(connecting) => connecting.attempts.iter().find_map(|attempt| match attempt.state {
                connect::State::Asked(via) => Some(via),
                connect::State::Planned(_) | connect::State::Opening(..) | connect::State::Failed => None,
            }),
            Phase::Idle | Phase::Waiting(_) | Phase::Active(_) | Phase::Plain(_) => None,
        };
        self.problem = Some(format!("plain TURN server: {why}"));
        self.exchanges.clear();
        self.seatings.values_mut().for_each(Seating::interrupted);
        match via.filter(|via| matches!(via, Via::Udp { .. })) {
            Some(via) => {
                // It can still tell how it sees us.
                self.drop_vias_but(hearth, via);
                self.ask(hearth, now, via, Ask::Binding(Purpose::Look), 0);
            }
            None => self.drop_vias(hearth),
        }
        let jitter = hearth.jitter(PLAIN_RETRY / 5);
        self.phase = Phase::Plain(now + PLAIN_RETRY + jitter);
        hearth.dirty = true;
    }

    /// Nobody wants to sit there any more.
    pub(crate) fn hang_up(&mut self, hearth: &mut Hearth) {
        if let Some(Active { via: Via::Stream(stream), .. }) = self.active() {
            hearth.outputs.push_back(Output::CloseStream { stream });
        }
        self.exchanges.clear();
        self.seatings.values_mut().for_each(Seating::stand_up);
        self.drop_vias(hearth);
        self.phase = Phase::Idle;
        self.failures = 0;
        self.noticed = false;
        self.suspect = false;
        self.watch = Watch::default();
    }

    /// Hangs up once the last seat has been left.
    pub(crate) fn tidy(&mut self, hearth: &mut Hearth) {
        if self.active().is_some() && self.exchanges.is_empty() && !self.wanted() {
            hearth.dirty = true;
            self.hang_up(hearth);
        }
    }

    /// The rooms in which the server does not hold what we say now are told.
    pub(crate) fn announce(&mut self, hearth: &mut Hearth, now: Time) {
        let Some(active) = self.active() else { return };
        let version = hearth.own.version();
        let outdated = self.seatings.iter().filter(|(_, s)| s.wanted && s.until.is_some() && s.held != Some(version));
        let outdated: Vec<u8> = outdated.map(|(room, _)| *room).collect();
        for room in outdated {
            self.camp(hearth, now, room, active.via);
        }
    }

    /// Forgets all vias; closes the streams of attempts.
    fn drop_vias(&mut self, hearth: &mut Hearth) {
        self.drop_those(hearth, None);
    }

    /// The same but for one.
    fn drop_vias_but(&mut self, hearth: &mut Hearth, keep: Via) {
        self.drop_those(hearth, Some(keep));
        hearth.add_via(keep, self.slot);
    }

    fn drop_those(&mut self, hearth: &mut Hearth, keep: Option<Via>) {
        let gone = |via: &Via| Some(*via) != keep;
        if let Phase::Connecting(connecting) = &self.phase {
            for attempt in &connecting.attempts {
                if let connect::State::Opening(stream, _) | connect::State::Asked(Via::Stream(stream)) = attempt.state
                    && gone(&Via::Stream(stream))
                {
                    hearth.outputs.push_back(Output::CloseStream { stream });
                }
            }
        }
        let vias: Vec<Via> = hearth.vias.iter().filter(|(via, slot)| **slot == self.slot && gone(via)).map(|(via, _)| *via).collect();
        for via in vias {
            hearth.remove_via(via, self.slot);
        }
        if let Some(keep) = keep {
            // Requests of rooms other than the first are asked again by whoever settles on `keep`.
            let dropped: Vec<TransactionId> = self.exchanges.iter().filter(|(_, e)| e.via != keep).map(|(id, _)| *id).collect();
            for id in dropped {
                if let Some(Ask::Camp { room, .. }) = self.exchanges.remove(&id).map(|exchange| exchange.ask)
                    && let Some(seating) = self.seatings.get_mut(&room).filter(|seating| seating.camp == Some(id))
                {
                    seating.camp = None;
                }
            }
        }
    }
}
