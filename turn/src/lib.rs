//! A TURN server (RFC 8656) with campfire rooms: the pure core. No clock, no sockets, no global randomness: time, messages
//! and a seed come in as arguments, and what is to be done comes out as values (see [`io`]). The shell around it is the
//! program `campfire-turn`.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`io`] | the contract with the shell |
//! | [`config`], [`auth`], [`stats`] | settings and limits, who may use it, what is counted |
//! | `methods`, `allocation` | Binding and TURN |
//! | `camp`, `room`, `push`, `evict` | the fire: seats and rooms, what members are told, who makes way |
//! | `channel` | ChannelData, to members and to peers |
//! | `v1` | how nodes of version 1 meet, if that is asked for |
//! | `client`, `filter`, `fingerprint`, `households`, `limit`, `table`, `timer` | what these stand on |

#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]

use std::collections::VecDeque;
use std::net::SocketAddr;

use campfire_protocol::stun::{Class, Message, Method};
use campfire_protocol::time::{Time, UnixMillis};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};

mod allocation;
pub mod auth;
mod camp;
mod channel;
mod client;
pub mod config;
mod evict;
mod filter;
mod fingerprint;
mod households;
pub mod io;
mod limit;
mod methods;
mod push;
mod room;
pub mod stats;
mod table;
mod timer;
mod v1;

pub use config::Config;
pub use stats::Stats;

use io::{Forward, Input, Output, RelayId, Via};
use table::{Map, Slab, map};
use timer::{Timer, Timers};

/// What state costs, for the memory limit: bytes, rounded up, with what containers keep in reserve.
mod cost {
    pub const SEAT: usize = 1_024;
    pub const TAG: usize = 64;
    pub const BINDING: usize = 160;
    pub const INTEREST: usize = 16;
    pub const DEPARTURE: usize = 96;
    pub const PENDING: usize = 32;
    pub const ALLOCATION: usize = 1_536;
    pub const PERMISSION: usize = 96;
    pub const CHANNEL: usize = 320;
    pub const V1_ENTRY: usize = 768;
    pub const V1_HELD: usize = 64;
}

/// The server's core.
pub struct Server {
    config: Config,
    secrets: auth::Secrets,
    rng: ChaCha8Rng,
    nonces: auth::Nonces,
    stats: Stats,
    outputs: VecDeque<Output>,
    /// As said with the last input.
    now: Time,
    timers: Timers,
    unproven: limit::Prefixes,

    clients: client::Clients,
    channels: Map<(u32, u16), channel::Target>,
    bindings: Slab<channel::Binding>,
    camp: room::Rooms,
    turn: allocation::Allocations,
    v1: Option<v1::Rendezvous>,

    /// Rooms with something to push, and when.
    dirty: VecDeque<(Time, u32)>,
    embers: limit::Bucket,
    evictions: limit::Prefixes,
    newcomers: limit::Prefixes,
    /// What [`Server::settle`] has charged.
    settled: usize,
    draining: bool,
    /// When to tell the next members that the server leaves, and from which seat on.
    farewell: Option<(Time, u32)>,
}

/// A request with what was found out about it before it was understood.
struct Request<'a> {
    now: Time,
    wall: UnixMillis,
    via: Via,
    message: &'a Message,
    /// It carries a FINGERPRINT, so does its answer.
    fingerprint: bool,
}

impl Request<'_> {
    /// Bytes of the message.
    fn size(&self) -> usize {
        self.message.as_bytes().len()
    }
}

impl Server {
    /// An empty server. `seed` must be random: nonces, incarnations and hashes come of it.
    pub fn new(config: Config, secrets: auth::Secrets, seed: [u8; 32], now: Time, _wall: UnixMillis) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let mut nonce_key = [0; 32];
        rng.fill_bytes(&mut nonce_key);
        Self {
            secrets,
            nonces: auth::Nonces::new(nonce_key),
            stats: Stats::default(),
            outputs: VecDeque::new(),
            now,
            timers: Timers::default(),
            unproven: limit::Prefixes::new(rng.next_u64()),
            clients: client::Clients::new(rng.next_u64()),
            channels: map(rng.next_u64()),
            bindings: Slab::new(),
            camp: room::Rooms::new(rng.next_u64()),
            turn: allocation::Allocations::new(rng.next_u64()),
            dirty: VecDeque::new(),
            embers: limit::Bucket::default(),
            evictions: limit::Prefixes::new(rng.next_u64()),
            newcomers: limit::Prefixes::new(rng.next_u64()),
            settled: 0,
            draining: false,
            farewell: None,
            v1: config.campfire_v1.then(|| v1::Rendezvous::new(&mut rng)),
            config,
            rng,
        }
    }

    /// Takes one input. What is to be done about it comes out of [`Server::poll`].
    pub fn handle(&mut self, now: Time, wall: UnixMillis, input: Input<'_>) {
        self.now = now;
        match input {
            Input::Wake | Input::StreamOpened { .. } => {}
            Input::Message { via, bytes } => self.message(now, wall, via, bytes),
            Input::RelayDatagram { relay, from, payload } => self.relay_datagram(now, relay, from, payload),
            Input::StreamClosed { via } => self.stream_closed(now, &via),
            Input::RelayOpened { relay, address } => self.relay_answered(now, relay, Some(address)),
            Input::RelayFailed { relay } => self.relay_answered(now, relay, None),
            Input::Secrets(secrets) => self.replace_secrets(now, secrets),
            Input::Drain => self.drain(),
        }
        while let Some((at, timer)) = self.timers.pop(now) {
            match timer {
                Timer::Seat(seat) => self.seat_timer(now, at, seat),
                Timer::Allocation(allocation) => self.allocation_timer(now, allocation),
            }
        }
        if let Some(v1) = &mut self.v1 {
            v1.expire(now, &mut self.stats);
        }
        self.flush(now);
        self.say_farewell(now);
        self.gauge();
    }

    /// The next thing to be done, in order; `None` when there is nothing left.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Wake`] is due.
    pub fn next_wake(&self) -> Option<Time> {
        let push = self.dirty.front().map(|(due, _)| *due);
        let farewell = self.farewell.map(|(due, _)| due);
        let v1 = self.v1.as_ref().and_then(v1::Rendezvous::next);
        [self.timers.next(), push, farewell, v1].into_iter().flatten().min()
    }

    /// Passes a ChannelData frame on (RFC 8656 §12.4): rewrites the channel number in place and says where to send it.
    /// Allocates nothing. `frame` begins with the ChannelData header; what follows its length (padding) is ignored.
    pub fn forward(&mut self, now: Time, via: Via, frame: &mut [u8]) -> Forward {
        self.forward_frame(now, &via, frame)
    }

    /// The same for a datagram that came to a relay socket. `frame` has four bytes of room for the header in front of the
    /// payload; they are filled in. [`Forward::Slow`]: hand the payload to [`Input::RelayDatagram`].
    pub fn forward_relayed(&mut self, now: Time, relay: RelayId, from: SocketAddr, frame: &mut [u8]) -> Forward {
        self.forward_from_peer(now, relay, from, frame)
    }

    /// Counters and gauges.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether nothing is left that a drain has to wait for: nobody sits here, nothing is allocated.
    pub fn is_idle(&self) -> bool {
        self.clients.len() == 0 && self.outputs.is_empty()
    }

    fn message(&mut self, now: Time, wall: UnixMillis, via: Via, bytes: &[u8]) {
        if bytes.first().is_some_and(|first| first & 0xC0 == 0x40) {
            return self.slow_frame(now, via, bytes);
        }
        if self.message_v1(now, wall, via, bytes) {
            return;
        }
        let Ok(message) = Message::parse(bytes) else {
            self.stats.dropped_malformed += 1;
            return;
        };
        let fingerprint = match fingerprint::check(&message) {
            fingerprint::Fingerprint::Absent => false,
            fingerprint::Fingerprint::Right => true,
            fingerprint::Fingerprint::Wrong => {
                self.stats.dropped_fingerprint += 1;
                return;
            }
        };
        let request = Request { now, wall, via, message: &message, fingerprint };
        match (message.class(), message.method()) {
            (Class::Request, Method::BINDING) => self.binding(&request),
            (Class::Request, method @ (Method::ALLOCATE | Method::REFRESH | Method::CREATE_PERMISSION | Method::CHANNEL_BIND)) => {
                self.standard_method(&request, method);
            }
            (Class::Request, method @ (Method::CAMP | Method::FIND | Method::SIGNAL | Method::BIND)) if self.config.campfire => {
                self.camp_method(&request, method);
            }
            (Class::Request, _) => {
                self.stats.requests_unknown += 1;
                if self.may_answer(&request) {
                    self.error(&request, None, (400, "Unknown Method"));
                }
            }
            (Class::Indication, Method::SEND) => self.send_indication(now, &via, &message),
            // A keep-alive (RFC 8445 §11).
            (Class::Indication, Method::BINDING) => {}
            _ => self.stats.dropped_unexpected += 1,
        }
    }

    /// Takes a datagram of version 1, if it is one and nodes of that version are served.
    fn message_v1(&mut self, now: Time, wall: UnixMillis, via: Via, bytes: &[u8]) -> bool {
        let Some(v1) = self.v1.as_mut().filter(|_| v1::claims(bytes) && matches!(via, Via::Udp { .. })) else { return false };
        let elsewhere = (self.stats.memory as usize).saturating_sub(v1.held());
        let (limits, stats, outputs) = (&self.config.limits, &mut self.stats, &mut self.outputs);
        v1.message(&mut v1::Context { now, wall, limits, elsewhere, stats, outputs }, via, bytes);
        true
    }

    /// Queues the answer to a request.
    fn answer(&mut self, request: &Request<'_>, mut bytes: Vec<u8>) {
        if request.fingerprint {
            fingerprint::append(&mut bytes);
        }
        self.outputs.push_back(Output::Send { via: request.via, bytes });
    }

    /// Whether a source that this request proves nothing about may be answered: it has proven itself before, or its prefix
    /// has a token left.
    fn may_answer(&mut self, request: &Request<'_>) -> bool {
        let known = self.clients.find(&request.via).and_then(|client| self.clients.get(client));
        let rate = self.config.limits.unproven;
        if known.is_some_and(client::Client::proven)
            || matches!(request.via, Via::Stream { .. })
            || self.unproven.take(request.now, rate, request.via.remote().ip())
        {
            return true;
        }
        self.stats.dropped_unproven += 1;
        false
    }

    fn stream_closed(&mut self, now: Time, via: &Via) {
        let Some(client) = self.clients.find(via) else { return };
        let (seats, allocation) =
            self.clients.get_mut(client).map(|client| (std::mem::take(&mut client.seats), client.allocation)).unwrap_or_default();
        for seat in seats {
            self.detach_seat(now, seat);
        }
        if let Some(allocation) = allocation {
            self.end_allocation(allocation);
        }
        self.clients.tidy(client);
    }

    /// What the new secrets do not cover ends.
    fn replace_secrets(&mut self, now: Time, secrets: auth::Secrets) {
        let old = std::mem::replace(&mut self.secrets, secrets);
        let removed = |fingerprint| self.secrets.campfire(fingerprint) != old.campfire(fingerprint);
        let rooms = self.camp.open.iter().filter(|(_, room)| removed(room.fingerprint));
        let seats: Vec<u32> = rooms.flat_map(|(_, room)| room.seats.iter().copied()).collect();
        for seat in seats {
            self.end_seat(now, seat, camp::End::Secret);
        }
        let uncovered = self.turn.slab.iter().filter(|(_, allocation)| !self.secrets.covers(&allocation.source));
        let allocations: Vec<u32> = uncovered.map(|(index, _)| index).collect();
        for allocation in allocations {
            self.end_allocation(allocation);
        }
    }

    fn gauge(&mut self) {
        self.settle();
        if let Some(v1) = &self.v1 {
            v1.gauge(&mut self.stats);
        }
        self.stats.dropped_push_overflow = self.camp.untold;
        self.stats.seats = self.camp.len() as u64;
        self.stats.clients = self.clients.len() as u64;
        self.stats.rooms = self.camp.room_count() as u64;
        self.stats.large_rooms = self.camp.large_count() as u64;
    }
}
