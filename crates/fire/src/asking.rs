//! What is asked of a server.

use std::time::Duration;

use campfire_protocol::carrier::{SocketId, Via};
use campfire_protocol::stun::{Builder, Class, Method, TransactionId};
use campfire_protocol::time::Time;
use campfire_protocol::wire::{Auth, BindRequest, CampRequest, FindRequest, MAX_SIGNAL, MemberId, SignalRequest};
use zeroize::Zeroizing;

use crate::channels::{Member, State as Bound};
use crate::conversation::Conversation;
use crate::exchange::{Ask, Exchange, Purpose};
use crate::hearth::Hearth;
use crate::{FireEvent, Seat};

/// Requests in flight to one server.
const MAX_EXCHANGES: usize = 512;
/// Lifetime asked for, seconds.
const LIFETIME: u32 = 60;

impl Conversation {
    /// Refreshes every seat that is taken, at once.
    pub(crate) fn refresh_now(&mut self, now: Time) {
        for seating in self.seatings.values_mut() {
            seating.refresh_at = seating.refresh_at.map(|at| at.min(now));
        }
    }

    /// Asks every server that we sit at for everything.
    pub(crate) fn read_again(&mut self, now: Time) {
        for seating in self.seatings.values_mut().filter(|seating| seating.until.is_some() && !seating.large) {
            seating.read_all_again(now);
        }
    }

    /// Camps in a room by this via, unless that is under way. The announcement goes along if the server does not hold it.
    pub(crate) fn camp(&mut self, hearth: &mut Hearth, now: Time, number: u8, via: Via) {
        let Some(seating) = self.seatings.get_mut(&number) else { return };
        if seating.camp.and_then(|id| self.exchanges.get(&id)).is_some_and(|exchange| exchange.via == via) {
            return;
        }
        seating.tried = seating.tried.or(Some(now));
        let version = hearth.own.version();
        let version = (seating.held != Some(version)).then_some(version);
        let id = self.ask(hearth, now, via, Ask::Camp { room: number, version, leave: false }, 0);
        if let Some(seating) = self.seatings.get_mut(&number) {
            seating.camp = id;
            if id.is_none() {
                seating.refresh_at = Some(now + Duration::from_secs(1));
            }
        }
    }

    /// Leaves a room.
    pub(crate) fn leave(&mut self, hearth: &mut Hearth, now: Time, room: u8) {
        let Some(seating) = self.seatings.get_mut(&room) else { return };
        seating.wanted = false;
        let was_there = seating.until.is_some() || seating.camp.is_some();
        let bound: Vec<Member> = self.channels.iter().map(|(member, _)| member).filter(|member| member.0 == room).collect();
        for member in bound {
            self.channels.remove(now, member);
            hearth.events.push_back(FireEvent::Unreachable { seat: self.seat(member), code: 404 });
        }
        self.exchanges.retain(|_, exchange| exchange.room() != Some(room));
        if let Some(active) = self.active().filter(|_| was_there) {
            self.ask(hearth, now, active.via, Ask::Camp { room, version: None, leave: true }, 0);
        }
        if let Some(seating) = self.seatings.get_mut(&room) {
            seating.stand_up();
        }
        hearth.depart_all(now, self.slot, room, |_| false);
    }

    pub(crate) fn seat(&self, member: Member) -> Seat {
        Seat { server: self.slot, room: member.0, member: member.1 }
    }

    /// Sends a request; keeps it until it is answered or given up.
    pub(crate) fn ask(&mut self, hearth: &mut Hearth, now: Time, via: Via, ask: Ask, challenges: u8) -> Option<TransactionId> {
        if self.exchanges.len() >= MAX_EXCHANGES {
            hearth.counters.drop_not_sent += 1;
            return None;
        }
        let id = hearth.transaction();
        let mut exchange = Exchange::new(now, ask, via, Vec::new(), self.rtt);
        exchange.challenges = challenges;
        match exchange.room() {
            None => exchange.bytes = Builder::new(Class::Request, Method::BINDING, id).finish(),
            Some(room) => self.encode(hearth, now, room, id, &mut exchange)?,
        }
        hearth.send(via, exchange.bytes.clone());
        self.exchanges.insert(id, exchange);
        Some(id)
    }

    fn encode(&mut self, hearth: &mut Hearth, now: Time, number: u8, id: TransactionId, exchange: &mut Exchange) -> Option<()> {
        let room = hearth.room(number)?.clone();
        let server_time = hearth.clock.at(now, self.slot);
        let seating = self.seatings.get_mut(&number)?;
        let credential = seating.credential(&room.keys, server_time);
        let (user_name, key) = (credential.user_name.clone(), credential.key.clone());
        let nonce = seating.nonce(exchange.via);
        let auth = Auth { user_name: &user_name, nonce, key: &key };
        let from = seating.member;
        exchange.bytes = match &exchange.ask {
            Ask::Binding(_) => return None,
            Ask::Camp { version, leave, .. } => {
                let (announcement, problem) = match version {
                    Some(_) => hearth.own.seal(&mut hearth.rng, &room, &from, hearth.clock.now(now)),
                    None => (None, None),
                };
                let request = CampRequest {
                    room: room.keys.room,
                    token: seating.token(),
                    lifetime: if *leave { 0 } else { LIFETIME },
                    unix_millis: server_time.0,
                    tags: if announcement.is_some() { hearth.own.tags(&room.keys) } else { Vec::new() },
                    announcement,
                    cursor: seating.read_from(),
                };
                let bytes = request.encode(id, &auth);
                if let Some(problem) = problem {
                    hearth.problem(format!(
                        "what this peer announces does not fit ({problem}): the server record or the routes are left out"
                    ));
                }
                bytes
            }
            Ask::Find { tags, .. } => FindRequest { from, tags: tags.clone() }.encode(id, &auth),
            Ask::Signal { to, data, .. } => SignalRequest { from, to: *to, data: data.clone() }.encode(id, &auth),
            Ask::Bind { to, channel, release, .. } => BindRequest { from, to: *to, channel: *channel, release: *release }.encode(id, &auth),
        };
        exchange.proven = nonce.is_some();
        exchange.key = Some(Zeroizing::new(*key));
        Some(())
    }

    /// Signals to a member.
    pub(crate) fn signal(&mut self, hearth: &mut Hearth, now: Time, member: Member, data: Vec<u8>) {
        let Some(active) = self.active().filter(|_| !data.is_empty() && data.len() <= MAX_SIGNAL) else {
            hearth.counters.drop_not_sent += 1;
            hearth.events.push_back(FireEvent::Unreachable { seat: self.seat(member), code: 408 });
            return;
        };
        self.ask(hearth, now, active.via, Ask::Signal { room: member.0, to: member.1, data }, 0);
    }

    /// Wants a channel to a member.
    pub(crate) fn bind(&mut self, hearth: &mut Hearth, now: Time, member: Member) {
        let Some(binding) = self.channels.want(now, member) else {
            hearth.counters.drop_not_sent += 1;
            hearth.events.push_back(FireEvent::Unreachable { seat: self.seat(member), code: 486 });
            return;
        };
        let (channel, state) = (binding.channel, binding.state);
        match state {
            Bound::Bound | Bound::Renewing if self.active().is_some() => {
                hearth.events.push_back(FireEvent::Bound { seat: self.seat(member), channel });
            }
            Bound::Asking | Bound::Bound | Bound::Renewing => {}
            Bound::Wanted(_) => self.ask_bind(hearth, now, member),
        }
    }

    /// Asks for a wanted channel if we sit in its room, else later.
    pub(crate) fn ask_bind(&mut self, hearth: &mut Hearth, now: Time, member: Member) {
        let seated = self.seated(now, member.0);
        let via = self.active().map(|active| active.via);
        let Some(binding) = self.channels.get_mut(member) else { return };
        let Some(via) = via.filter(|_| seated) else {
            binding.state = Bound::Wanted(now + Duration::from_secs(1));
            return;
        };
        binding.state = if binding.usable() { Bound::Renewing } else { Bound::Asking };
        let channel = binding.channel;
        let asked = self.ask(hearth, now, via, Ask::Bind { room: member.0, to: member.1, channel, release: false }, 0);
        if asked.is_none()
            && let Some(binding) = self.channels.get_mut(member)
        {
            binding.state = Bound::Wanted(now + Duration::from_secs(1));
        }
    }

    /// Ends a binding.
    pub(crate) fn release(&mut self, hearth: &mut Hearth, now: Time, member: Member) {
        let Some(binding) = self.channels.remove(now, member) else { return };
        let (room, to) = member;
        self.exchanges.retain(|_, exchange| !matches!(exchange.ask, Ask::Bind { room: r, to: t, .. } if (r, t) == member));
        if let Some(active) = self.active() {
            self.ask(hearth, now, active.via, Ask::Bind { room, to, channel: binding.channel, release: true }, 0);
        }
    }

    /// Asks how another socket of ours is seen.
    pub(crate) fn observe(&mut self, hearth: &mut Hearth, now: Time, socket: SocketId) {
        let remotes: Vec<_> = match self.active() {
            Some(active) => vec![active.via],
            None => hearth.vias.iter().filter(|(_, slot)| **slot == self.slot).map(|(via, _)| *via).take(1).collect(),
        };
        for via in remotes {
            let Via::Udp { remote, .. } = via else { continue };
            let v6 = hearth.sockets.get(&socket).and_then(|local| local.first()).is_some_and(std::net::SocketAddr::is_ipv6);
            if remote.is_ipv6() == v6 {
                let via = Via::Udp { socket, remote };
                hearth.add_via(via, self.slot);
                self.ask(hearth, now, via, Ask::Binding(Purpose::Observe(socket)), 0);
            }
        }
    }

    /// A request comes to nothing: whoever waits for it is told.
    pub(crate) fn give_up(&mut self, hearth: &mut Hearth, now: Time, exchange: &Exchange, code: u16) {
        match exchange.ask {
            Ask::Signal { room, to, .. } => {
                hearth.events.push_back(FireEvent::Unreachable { seat: self.seat((room, to)), code });
            }
            Ask::Bind { room, to, release: false, .. } => {
                if let Some(binding) = self.channels.get_mut((room, to)) {
                    binding.state = Bound::Wanted(now + Duration::from_secs(1));
                }
            }
            Ask::Bind { release: true, .. } | Ask::Binding(_) | Ask::Camp { .. } | Ask::Find { .. } => {}
        }
    }

    /// A member is not (any more) where we thought.
    pub(crate) fn unreachable(&mut self, hearth: &mut Hearth, now: Time, room: u8, to: MemberId, code: u16) {
        self.channels.remove(now, (room, to));
        let seat = self.seat((room, to));
        // In a small room the log says who left: this one may be on its way from one connection to the next, of which the log
        // says nothing.
        if code == 404 && self.seatings.get(&room).is_some_and(|seating| seating.large) {
            hearth.depart(now, &seat);
        }
        hearth.events.push_back(FireEvent::Unreachable { seat, code });
    }
}
