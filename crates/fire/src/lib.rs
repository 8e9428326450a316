//! One member's place at the fire: which servers to camp on, the conversation with each, who sits there. Pure; knows the protocol and
//! nothing of links, tunnels or packets: it is all that an operator needs, and the ground that a mesh stands on.
//!
//! The contract with whoever links over it: the fire says [`Event`]s; links ask by [`Fire::signal`], [`Fire::bind`],
//! [`Fire::release`] and [`Fire::find`]. A peer is its [`PublicKey`]; where it sits is known as [`Seat`]s.
//!
//! After each call that takes `now`, drain [`Fire::poll_event`] and [`Fire::poll_output`] until both give `None`, then
//! look at [`Fire::next_wake`].

mod answers;
mod asking;
mod channels;
mod choice;
mod clock;
pub mod config;
mod connect;
mod conversation;
mod counters;
mod exchange;
mod finds;
pub mod io;
mod own;
mod roster;
mod seating;
mod shared;
pub mod status;
mod timers;

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use campfire_protocol::announce::{Announcement, Session};
use campfire_protocol::carrier::{Path, ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::identity::PublicKey;
use campfire_protocol::key::{Keys, MAX_KEYS};
use campfire_protocol::server::Transport;
use campfire_protocol::stun::{Attribute, Class, Message, Method};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::MemberId;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

pub use self::counters::Counters;

use crate::choice::{Choice, Conversations};
use crate::clock::Clock;
use crate::config::{Config, KeyEntry, Reconfigure};
use crate::conversation::Conversation;
use crate::finds::Finds;
use crate::io::Output;
use crate::own::{Own, Room};
use crate::shared::Shared;
use crate::status::{Server, ServerState};

/// A peer's seat in one room (one per key held) on one server, under which Signal and Bind reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat {
    /// The server.
    pub server: ServerSlot,
    /// Which of our keys' rooms: a number that the fire gives to a key and keeps for it ([`Fire::keys`]). At start the
    /// index into [`Config::keys`].
    pub room: u8,
    /// Its id there.
    pub member: MemberId,
}

/// How a member was learned of: decides who starts the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// From the answer to our Camp (we came later): we start at once.
    Camp,
    /// Pushed: it came later and starts; we wait 1 s.
    Ember,
    /// Asked for: we start at once.
    Find,
}

/// What the fire tells the links.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug)]
pub enum Event {
    /// A verified announcement, newer than what was known of this peer, or a seat more of it.
    Member { seat: Seat, learned: Learned, announcement: Box<Announcement> },
    /// A seat is gone (departure pushed, or not listed after a reset). A hint: a live session keeps its link.
    Departed { peer: PublicKey, seat: Seat },
    /// Another member signalled: a raw WireGuard message, or a relayed frame from before we were bound. Comes after the
    /// sender's `Member`: what unknown seats signal waits until they are known, or is dropped.
    Signal { from: Seat, data: Vec<u8> },
    /// Answer to [`Fire::bind`]: [`Fire::relay_path`] gives a path now. Said again whenever that path changed (another
    /// transport, the server restarted and was bound again).
    Bound { seat: Seat, channel: u16 },
    /// The seat does not exist (404), or the server refuses; its binding is gone. The links may try another common server.
    Unreachable { seat: Seat, code: u16 },
    /// How a server sees one of our UDP sockets (Camp, Binding). Reported on change.
    Mapped { server: ServerSlot, via: Via, local_socket_observed: SocketAddr },
    /// We camp in this room there (again). Bindings are bound again by the fire itself; unless `kept`, their paths do not
    /// carry until `Bound` is said again.
    Camped { server: ServerSlot, room: u8, kept: bool },
    /// The server no longer answers; paths through it are in doubt. Bindings are kept and come back with `Bound`.
    Lost { server: ServerSlot },
    /// Under traffic nothing came from the server for 500 ms and two Bindings: paths through it are suspect.
    Suspect { server: ServerSlot },
    /// A suspect server answered.
    Trusted { server: ServerSlot },
}

/// An address under which a server sees one of our sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The server that says so.
    pub server: ServerSlot,
    /// Our socket.
    pub socket: SocketId,
    /// What it saw.
    pub observed: SocketAddr,
}

/// How long the seats under a dropped key are kept, while links move to other rooms.
const ROOM_LINGER: Duration = Duration::from_secs(15);
/// Changes of what we say within this time are said together, and not by everybody at the same moment.
const SAY: Duration = Duration::from_millis(100);
const SAY_JITTER: Duration = Duration::from_millis(300);
/// Linked members of a large room that began anew are looked for again within this time.
const REFIND: Duration = Duration::from_secs(5);
/// Without a UDP socket the mesh starts all the same after this time.
const NO_SOCKETS: Duration = Duration::from_secs(1);

/// The fire side.
///
/// # Accepted keys
/// We sit in the room of every key that we hold, and say there who we are: a seat that says nothing does not exist. Where a
/// peer is met in several rooms, [`Fire::seats`] prefers announced keys, then newer ones. So in the three observed steps of a
/// rotation (all accept the new key, all announce it, the old one is dropped) any two peers with one common key meet,
/// whatever step either is at, even if steps were skipped; the step from accepting to announcing moves traffic to seats
/// that outlive the old key before that is dropped.
pub struct Fire {
    sh: Shared,
    conversations: Conversations,
    choice: Choice,
    finds: Finds,
    network: campfire_protocol::identity::NetworkId,
    started: bool,
    start_at: Time,
    announce_at: Option<Time>,
    said: roster::Version,
    closing: bool,
}

impl Fire {
    /// Starts: nothing is sent before a socket or stream can carry it.
    pub fn new(config: &Config, seed: [u8; 32], now: Time, wall: UnixMillis) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let clock = Clock::new(now, wall);
        let own = Own::new(config, &mut rng, now, wall);
        let mut sh = Shared::new(rng, clock, own, Vec::new(), config.members, config.in_cluster);
        set_keys(&mut sh, now, &config.keys);
        let mut conversations = Conversations::new();
        let mut choice = Choice::default();
        choice.give(&mut sh, &mut conversations, now, &config.servers);
        if let Some(record) = &config.record {
            choice.give_record(&mut sh, &mut conversations, now, record);
        }
        let said = sh.own.version();
        Self {
            sh,
            conversations,
            choice,
            finds: Finds::default(),
            network: config.network,
            started: false,
            start_at: now + NO_SOCKETS,
            announce_at: None,
            said,
            closing: false,
        }
    }

    /// A STUN message arrived from `via`.
    pub fn on_stun(&mut self, now: Time, via: Via, message: &[u8]) {
        if self.closing {
            return;
        }
        if !self.sh.vias.contains_key(&via) {
            self.sh.counters.drop_foreign_source += 1;
            return;
        }
        let Ok(message) = Message::parse(message) else {
            self.sh.counters.drop_malformed += 1;
            return;
        };
        self.sh.counters.fire_received_messages += 1;
        let sh = &mut self.sh;
        match message.class() {
            Class::Success | Class::Error => {
                let id = message.transaction();
                match self.conversations.values_mut().find(|conversation| conversation.asked(id, via)) {
                    Some(conversation) => conversation.on_answer(sh, now, &message),
                    None => sh.counters.drop_unexpected += 1,
                }
            }
            Class::Indication if matches!(message.method(), Method::EMBER | Method::SIGNAL) => {
                let to = message.get(Attribute::CAMP_TO).and_then(|to| <[u8; 16]>::try_from(to).ok()).map(MemberId);
                let conversation = to.and_then(|to| {
                    self.conversations.values_mut().find_map(|conversation| Some((conversation.room_of(&to)?, conversation)))
                });
                match conversation {
                    Some((room, conversation)) => conversation.on_push(sh, now, room, &message),
                    None => sh.counters.drop_unexpected += 1,
                }
            }
            _ => sh.counters.drop_unexpected += 1,
        }
        self.settle(now);
    }

    /// The time of [`next_wake`](Self::next_wake) has come (or not: harmless).
    pub fn on_wake(&mut self, now: Time) {
        if self.closing {
            return;
        }
        self.started |= self.start_at <= now;
        for conversation in self.conversations.values_mut() {
            conversation.on_wake(&mut self.sh, now);
        }
        self.settle(now);
    }

    /// When to call [`on_wake`](Self::on_wake).
    pub fn next_wake(&self) -> Option<Time> {
        if self.closing {
            return None;
        }
        if !self.started {
            return Some(self.start_at);
        }
        let conversations = self.conversations.values().filter_map(Conversation::due).min();
        [conversations, self.choice.due, self.finds.due(), self.announce_at].into_iter().flatten().min()
    }

    /// A wall clock reading.
    pub fn on_wall(&mut self, now: Time, wall: UnixMillis) {
        self.sh.clock.set_own(now, wall);
    }

    /// A UDP socket is open, or its addresses changed. Sockets 0 and 1 carry the conversations; others are only looked at
    /// from outside ([`observe`](Self::observe)).
    pub fn on_socket_opened(&mut self, now: Time, socket: SocketId, local: &[SocketAddr]) {
        if self.closing {
            return;
        }
        self.sh.sockets.insert(socket, local.to_vec());
        if answers::is_primary(socket) {
            self.started = true;
            for conversation in self.conversations.values_mut() {
                conversation.on_socket_opened(&mut self.sh, now, socket);
            }
        }
        self.settle(now);
    }

    /// A UDP socket is gone.
    pub fn on_socket_closed(&mut self, now: Time, socket: SocketId) {
        if self.closing || self.sh.sockets.remove(&socket).is_none() {
            return;
        }
        for conversation in self.conversations.values_mut() {
            conversation.on_socket_closed(&mut self.sh, now, socket);
        }
        let dead = |via: &Via| matches!(via, Via::Udp { socket: of, .. } if *of == socket);
        let vias: Vec<(Via, ServerSlot)> = self.sh.vias.iter().filter(|(via, _)| dead(via)).map(|(via, slot)| (*via, *slot)).collect();
        for (via, slot) in vias {
            self.sh.remove_via(via, slot);
        }
        self.settle(now);
    }

    /// Answer to [`Output::Resolve`].
    pub fn on_resolved(&mut self, now: Time, server: ServerSlot, addresses: &[SocketAddr]) {
        if let Some(conversation) = self.conversations.get_mut(&server).filter(|_| !self.closing) {
            conversation.on_resolved(&mut self.sh, now, addresses);
            self.settle(now);
        }
    }

    /// Answer to [`Output::OpenStream`].
    pub fn on_stream_opened(&mut self, now: Time, stream: StreamId) {
        if self.closing {
            return;
        }
        let sh = &mut self.sh;
        if !self.conversations.values_mut().any(|conversation| conversation.on_stream_opened(sh, now, stream)) {
            // It took too long, or UDP answered meanwhile.
            sh.outputs.push_back(Output::CloseStream { stream });
        }
        self.settle(now);
    }

    /// Answer to [`Output::OpenStream`], or the stream ended later.
    pub fn on_stream_closed(&mut self, now: Time, stream: StreamId, reason: &str) {
        if self.closing {
            return;
        }
        for conversation in self.conversations.values_mut() {
            conversation.on_stream_closed(&mut self.sh, now, stream, reason);
        }
        self.settle(now);
    }

    /// Servers, keys, routes or the record are replaced.
    pub fn reconfigure(&mut self, now: Time, change: &Reconfigure) {
        if self.closing {
            return;
        }
        if let Some(keys) = &change.keys {
            set_keys(&mut self.sh, now, keys);
        }
        if let Some(servers) = &change.servers {
            self.choice.give(&mut self.sh, &mut self.conversations, now, servers);
        }
        if let Some(record) = &change.record {
            self.sh.own.set_record(record);
            self.choice.give_record(&mut self.sh, &mut self.conversations, now, record);
        }
        if let Some(routes) = &change.routes {
            self.sh.own.set_routes(routes);
        }
        self.sh.dirty = true;
        self.settle(now);
    }

    /// Leaves every seat (Camp with lifetime 0). Nothing but those goes out afterwards.
    pub fn shutdown(&mut self, now: Time) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        self.sh.outputs.retain(|output| matches!(output, Output::Send { .. }));
        let before = self.sh.outputs.len();
        for conversation in self.conversations.values_mut() {
            let rooms: Vec<u8> = conversation.seatings.keys().copied().collect();
            for room in rooms {
                conversation.leave(&mut self.sh, now, room);
            }
        }
        // Nobody will be there to say it again: datagrams go twice.
        let again: Vec<Output> = self.sh.outputs.iter().skip(before).cloned().collect();
        let on_udp = |output: &Output| matches!(output, Output::Send { via: Via::Udp { .. }, .. });
        self.sh.outputs.extend(again.into_iter().filter(on_udp));
        self.sh.events.clear();
    }

    /// What the data plane saw on paths through a server: when it last sent to it and last received from it.
    pub fn note_traffic(&mut self, now: Time, server: ServerSlot, sent: Option<Time>, received: Option<Time>) {
        if let Some(conversation) = self.conversations.get_mut(&server).filter(|_| !self.closing) {
            conversation.note_traffic(&mut self.sh, now, sent, received);
        }
    }

    /// Paths through this server carry nothing, though it may answer Bindings (it restarted and knows nobody): the seats on
    /// it are refreshed now. Not to be said more often than every few seconds.
    pub fn doubt(&mut self, now: Time, server: ServerSlot) {
        if let Some(conversation) = self.conversations.get_mut(&server).filter(|_| !self.closing) {
            conversation.refresh_now(now);
        }
    }

    /// Links through this server carry small packets and no large ones, whoever is at the other end: it is reached on a
    /// stream from here on, if it offers one, until our network changes.
    pub fn narrow(&mut self, now: Time, server: ServerSlot) {
        if let Some(conversation) = self.conversations.get_mut(&server).filter(|_| !self.closing) {
            conversation.narrow(&mut self.sh, now);
        }
        self.settle(now);
    }

    /// Sends up to 1,000 bytes to a member; retransmitted until answered. Failure is told as [`Event::Unreachable`].
    pub fn signal(&mut self, now: Time, seat: &Seat, data: Vec<u8>) {
        if let Some(conversation) = self.conversations.get_mut(&seat.server).filter(|_| !self.closing) {
            conversation.signal(&mut self.sh, now, (seat.room, seat.member), data);
        }
    }

    /// Binds a channel to a member; answered by [`Event::Bound`] or [`Event::Unreachable`]. Idempotent.
    pub fn bind(&mut self, now: Time, seat: &Seat) {
        if let Some(conversation) = self.conversations.get_mut(&seat.server).filter(|_| !self.closing) {
            conversation.bind(&mut self.sh, now, (seat.room, seat.member));
        }
    }

    /// Ends a binding.
    pub fn release(&mut self, now: Time, seat: &Seat) {
        if let Some(conversation) = self.conversations.get_mut(&seat.server).filter(|_| !self.closing) {
            conversation.release(&mut self.sh, now, (seat.room, seat.member));
        }
    }

    /// Asks for members of large rooms by overlay address (its text) or name; answers come as [`Event::Member`]. Does
    /// nothing where all rooms are small (everybody is known there) and for what was asked moments ago.
    pub fn find(&mut self, now: Time, what: &str) {
        if !self.closing && self.large() {
            self.finds.find(&mut self.sh, now, what);
            self.settle(now);
        }
    }

    /// Whether there is a link to this peer: it is then kept in the cache of a large room and found again after resets.
    pub fn interest(&mut self, peer: &PublicKey, linked: bool) {
        self.sh.roster.set_linked(peer, linked);
    }

    /// Asks the servers how they see this socket (a fresh one); answers come as [`Event::Mapped`].
    pub fn observe(&mut self, now: Time, socket: SocketId) {
        if self.closing {
            return;
        }
        for conversation in self.conversations.values_mut() {
            conversation.observe(&mut self.sh, now, socket);
        }
    }

    /// The path to a member through its bound channel; `None` while not bound or the server is not reached.
    pub fn relay_path(&self, seat: &Seat) -> Option<Path> {
        let conversation = self.conversations.get(&seat.server)?;
        let binding = conversation.channels.get((seat.room, seat.member)).filter(|binding| binding.usable())?;
        Some(Path::Relay { server: seat.server, via: conversation.active()?.via, channel: binding.channel })
    }

    /// Whose the channel is on which something came from this server.
    pub fn seat_of_channel(&self, server: ServerSlot, channel: u16) -> Option<Seat> {
        let (room, member) = self.conversations.get(&server)?.channels.member(channel)?;
        Some(Seat { server, room, member })
    }

    /// Who sits there.
    pub fn peer_of(&self, seat: &Seat) -> Option<PublicKey> {
        self.sh.roster.peer_of(seat)
    }

    /// The peer's seats on servers where we camp too, best first: answering ones, settled ones, newest key, by score. Both
    /// sides come to the same order where they see the same servers.
    pub fn seats(&self, peer: &PublicKey) -> Vec<Seat> {
        let usable = |seat: &Seat| {
            let conversation = self.conversations.get(&seat.server)?;
            let wanted = conversation.seatings.get(&seat.room).is_some_and(|seating| seating.wanted && seating.until.is_some());
            wanted.then_some(conversation)
        };
        let ranked = self.sh.roster.seats_of(peer).filter_map(|(seat, info)| {
            let conversation = usable(&seat)?;
            let settled = info.settled && self.choice.settled(seat.server, seat.room);
            let doubt = conversation.active().is_none() || conversation.suspect || conversation.leaving;
            let grade = (doubt, !settled, self.sh.room_rank(seat.room));
            Some((grade, Reverse(conversation.known_tag(seat.room)), seat))
        });
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, _, seat)| seat).collect()
    }

    /// The newest announcement of a peer, as long as it sits anywhere.
    pub fn announcement(&self, peer: &PublicKey) -> Option<&Announcement> {
        self.sh.roster.announcement(peer)
    }

    /// The peers known at present (in a large room: those found).
    pub fn peers(&self) -> impl Iterator<Item = &Announcement> {
        self.sh.roster.seated()
    }

    /// Keys held with their room numbers, newest first.
    pub fn keys(&self) -> impl Iterator<Item = (u8, &Keys)> {
        self.sh.rooms.iter().filter(|room| room.leaving.is_none()).map(|room| (room.number, &*room.keys))
    }

    /// The servers on which we sit, with the key of the room: a server that does not know a key yet is not among those of that key.
    pub fn seated(&self, now: Time) -> impl Iterator<Item = (&Keys, &str)> {
        self.keys().flat_map(move |(room, keys)| {
            let there = self.conversations.values().filter(move |conversation| conversation.seated(now, room));
            there.map(move |conversation| (keys, conversation.server.id.as_str()))
        })
    }

    /// Our own run.
    pub fn session(&self) -> Session {
        self.sh.own.session()
    }

    /// The IPv4 address that we claim at present, if any.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.sh.own.ipv4()
    }

    /// Members of the (largest) room, ourselves included, as servers count.
    pub fn members(&self) -> usize {
        let seatings = self.conversations.values().flat_map(|conversation| conversation.seatings.values());
        seatings.filter(|seating| seating.until.is_some()).map(|seating| seating.members as usize).max().unwrap_or(0)
    }

    /// Whether a room in which we sit is large: nobody gets its roster.
    pub fn large(&self) -> bool {
        self.conversations.values().flat_map(|conversation| conversation.seatings.values()).any(|s| s.large && s.until.is_some())
    }

    /// Outside addresses of our UDP sockets as seen by servers, newest word of each.
    pub fn mapped(&self) -> Vec<Mapped> {
        let all = self.conversations.values().flat_map(|conversation| {
            let server = conversation.slot;
            conversation.mapped.iter().map(move |(socket, observed)| Mapped { server, socket: *socket, observed: *observed })
        });
        all.collect()
    }

    /// Servers see different ports of the same socket.
    pub fn symmetric(&self) -> bool {
        let seen: Vec<Mapped> = self.mapped().into_iter().filter(|mapped| answers::is_primary(mapped.socket)).collect();
        // Where there is no NAT between, nothing is learned of it; and the way to a server inside has another NAT, if any.
        let behind_nat = |mapped: &&Mapped| self.sh.sockets.get(&mapped.socket).is_none_or(|local| !local.contains(&mapped.observed));
        let outside: Vec<&Mapped> = seen.iter().filter(behind_nat).collect();
        let differs = |a: &Mapped, b: &Mapped| {
            a.socket == b.socket && is_private(a.observed.ip()) == is_private(b.observed.ip()) && a.observed.port() != b.observed.port()
        };
        outside.iter().enumerate().any(|(n, a)| outside.iter().skip(n + 1).any(|b| differs(a, b)))
    }

    /// Servers answer on streams and none on UDP.
    pub fn udp_blocked(&self) -> bool {
        self.sh.udp_blocked
    }

    /// Where servers send from at present (a data plane takes ChannelData and STUN from there alone).
    pub fn vias(&self) -> impl Iterator<Item = (Via, ServerSlot)> {
        self.sh.vias.iter().map(|(via, slot)| (*via, *slot))
    }

    /// Moves with every change of [`vias`](Self::vias).
    pub fn vias_version(&self) -> u64 {
        self.sh.vias_version
    }

    /// A server's id, for people.
    pub fn server_name(&self, server: ServerSlot) -> Option<&str> {
        self.conversations.get(&server).map(|conversation| conversation.server.id.as_str())
    }

    /// The address of the server that answers at present.
    pub fn server_address(&self, server: ServerSlot) -> Option<SocketAddr> {
        self.conversations.get(&server)?.active().map(|active| active.remote)
    }

    /// The wall clock, corrected by what servers say (the median of them and our own).
    pub fn unix_now(&self, now: Time) -> UnixMillis {
        self.sh.clock.now(now)
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.sh.counters
    }

    /// The servers for people, those that are camped on first.
    pub fn servers(&self, now: Time) -> Vec<Server> {
        let mut servers: Vec<Server> = self.conversations.values().map(|conversation| conversation.status(now)).collect();
        servers.sort_by(|a, b| ((a.state != ServerState::Camped), &a.id).cmp(&((b.state != ServerState::Camped), &b.id)));
        servers
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.sh.events.pop_front()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.sh.outputs.pop_front()
    }

    /// What follows from what has just happened.
    fn settle(&mut self, now: Time) {
        if !self.started || self.closing {
            return;
        }
        let sh = &mut self.sh;
        if !sh.records.is_empty() {
            self.choice.take_records(sh, &mut self.conversations, now);
        }
        self.note_udp();
        let sh = &mut self.sh;
        // Deciding may connect, and that may tell something: a second look is enough.
        for _ in 0..2 {
            if sh.dirty || self.choice.due.is_some_and(|due| due <= now) {
                self.choice.decide(sh, &mut self.conversations, now);
            }
        }
        self.forget_rooms(now);
        let sh = &mut self.sh;
        if std::mem::take(&mut sh.refind) {
            for peer in sh.roster.linked() {
                let at = now + sh.jitter(REFIND);
                self.finds.plan(at, self.network.address(&peer).to_string());
            }
        }
        let network = self.network;
        let found = |sh: &Shared, what: &str| is_known(sh, network, what);
        if self.finds.flush(sh, &mut self.conversations, now, found) {
            self.choice.visit_all(sh, now);
            self.choice.decide(sh, &mut self.conversations, now);
        }
        self.say(now);
        for conversation in self.conversations.values_mut() {
            conversation.tidy(&mut self.sh);
        }
    }

    /// Rooms that have been left are forgotten; their numbers may be given again.
    fn forget_rooms(&mut self, now: Time) {
        let over = |room: &Room| room.leaving.is_some_and(|until| until <= now);
        let gone: Vec<u8> = self.sh.rooms.iter().filter(|room| over(room)).map(|room| room.number).collect();
        for number in gone {
            if !seated_anywhere(&self.conversations, number) {
                self.sh.rooms.retain(|room| room.number != number);
                self.conversations.values_mut().for_each(|conversation| conversation.forget_room(number));
            }
        }
    }

    /// Whether UDP works at all.
    fn note_udp(&mut self) {
        let actives = || self.conversations.values().filter_map(|conversation| Some((conversation, conversation.active()?)));
        let on_udp = actives().any(|(_, active)| active.transport == Transport::Udp);
        let failed = actives().any(|(conversation, _)| conversation.udp_failed);
        // While nothing answers at all, what was known stays.
        if on_udp || failed {
            self.sh.udp_blocked = !on_udp && failed;
        }
    }

    /// Tells the servers what has changed of what we say.
    fn say(&mut self, now: Time) {
        let version = self.sh.own.version();
        if version != self.said && self.announce_at.is_none() {
            self.announce_at = Some(now + SAY + self.sh.jitter(SAY_JITTER));
        }
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce_at = None;
            self.said = version;
            for conversation in self.conversations.values_mut() {
                conversation.announce(&mut self.sh, now);
            }
        }
    }
}

/// Takes over the keys held, newest first; those no longer held are left after a while.
fn set_keys(sh: &mut Shared, now: Time, keys: &[KeyEntry]) {
    let mut old = std::mem::take(&mut sh.rooms);
    let mut rooms: Vec<Room> = Vec::new();
    for entry in keys.iter().take(MAX_KEYS) {
        let known = old.iter().position(|room| room.keys.fingerprint == entry.keys.fingerprint).map(|index| old.remove(index));
        let number = known.as_ref().map_or_else(
            || (0..=u8::MAX).find(|n| !rooms.iter().chain(&old).any(|room| room.number == *n)).unwrap_or(u8::MAX),
            |room| room.number,
        );
        rooms.push(Room { number, keys: std::sync::Arc::clone(&entry.keys), mode: entry.mode, leaving: None });
    }
    sh.own.set_fingerprints(rooms.iter().map(|room| room.keys.fingerprint).collect());
    for mut room in old {
        room.leaving = Some(room.leaving.unwrap_or(now + ROOM_LINGER));
        rooms.push(room);
    }
    sh.rooms = rooms;
    sh.dirty = true;
}

fn seated_anywhere(conversations: &Conversations, room: u8) -> bool {
    conversations.values().filter_map(|conversation| conversation.seatings.get(&room)).any(|seating| seating.wanted)
}

/// Whether a member looked for by this address or name is known.
fn is_known(sh: &Shared, network: campfire_protocol::identity::NetworkId, what: &str) -> bool {
    sh.roster.seated().any(|announcement| {
        let names = [announcement.name.to_lowercase(), announcement.ipv4.map(|ip| ip.to_string()).unwrap_or_default()];
        names.iter().any(|name| name == what) || network.address(&announcement.public_key).to_string() == what
    })
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback() || matches!(ip.octets(), [100, 64..=127, ..]),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}
