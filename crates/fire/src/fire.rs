//! The fire as a whole: what it is told, and what follows.

use std::net::SocketAddr;
use std::time::Duration;

use campfire_protocol::carrier::{ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::identity::NetworkId;
use campfire_protocol::key::MAX_KEYS;
use campfire_protocol::server::Transport;
use campfire_protocol::stun::{Attribute, Class, Message, Method};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::MemberId;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use crate::FireEvent;
use crate::answers;
use crate::choice::{Choice, Conversations};
use crate::clock::Clock;
use crate::config::{Config, KeyEntry, Reconfigure};
use crate::conversation::Conversation;
use crate::finds::Finds;
use crate::hearth::{Hearth, IDENTITY_SHARED};
use crate::io::{Input, Output};
use crate::own::{Own, Room};
use crate::roster;

/// How long the seats under a dropped key are kept, while links move to other rooms.
const ROOM_LINGER: Duration = Duration::from_secs(15);
/// Changes of what we say within this time are said together, and not by everybody at the same moment.
const SAY: Duration = Duration::from_millis(100);
const SAY_JITTER: Duration = Duration::from_millis(300);
/// Linked members of a large room that began anew are looked for again within this time.
const REFIND: Duration = Duration::from_secs(5);
/// Without a UDP socket the mesh starts all the same after this time.
const NO_SOCKETS: Duration = Duration::from_secs(1);

/// One member's place at the fire.
///
/// # Contract
/// Whoever holds it says what carriers say by [`handle`](Self::handle), and calls [`on_wake`](Self::on_wake) at
/// [`next_wake`](Self::next_wake), [`on_wall`](Self::on_wall) every minute, [`reconfigure`](Self::reconfigure) when what it was told changes.
/// After each call that takes `now`: drain [`poll_event`](Self::poll_event) and [`poll_output`](Self::poll_output) until both give `None`
/// (events first: what is done about them may ask for more), carry the outputs out, then look at [`next_wake`](Self::next_wake) anew. At
/// the end [`shutdown`](Self::shutdown), and drain once more.
///
/// Whoever links over it hears [`FireEvent`]s, and asks by [`signal`](Self::signal), [`bind`](Self::bind), [`release`](Self::release) and
/// [`find`](Self::find). A peer is its [public key](campfire_protocol::identity::PublicKey); where it sits is known as [`Seat`](crate::Seat)s.
///
/// # Accepted keys
/// We sit in the room of every key that we hold, and say there who we are: a seat that says nothing does not exist. Where a
/// peer is met in several rooms, [`Fire::seats`] prefers announced keys, then newer ones. So in the three observed steps of a
/// rotation (all accept the new key, all announce it, the old one is dropped) any two peers with one common key meet,
/// whatever step either is at, even if steps were skipped; the step from accepting to announcing moves traffic to seats
/// that outlive the old key before that is dropped.
pub struct Fire {
    pub(crate) hearth: Hearth,
    pub(crate) conversations: Conversations,
    pub(crate) choice: Choice,
    pub(crate) finds: Finds,
    network: NetworkId,
    started: bool,
    start_at: Time,
    announce_at: Option<Time>,
    said: roster::Version,
    pub(crate) closing: bool,
}

impl Fire {
    /// Starts: nothing is sent before a socket or stream can carry it.
    pub fn new(config: &Config, seed: [u8; 32], now: Time, wall: UnixMillis) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let clock = Clock::new(now, wall);
        let own = Own::new(config, &mut rng, now, wall);
        let mut hearth = Hearth::new(rng, clock, own, Vec::new(), config.members, config.in_cluster);
        set_keys(&mut hearth, now, &config.keys);
        let mut conversations = Conversations::new();
        let mut choice = Choice::default();
        choice.give(&mut hearth, &mut conversations, now, &config.servers);
        choice.give_heard(&mut hearth, &mut conversations, now, &config.heard);
        if let Some(record) = &config.record {
            choice.give_record(&mut hearth, &mut conversations, now, record);
        }
        let said = hearth.own.version();
        Self {
            hearth,
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

    /// A socket, a stream or a name says something.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        if self.closing {
            return;
        }
        match input {
            Input::SocketOpened { socket, local } => self.socket_opened(now, socket, local),
            Input::SocketClosed { socket } => self.socket_closed(now, socket),
            Input::Resolved { server, addresses } => self.resolved(now, server, addresses),
            Input::StreamOpened { stream } => self.stream_opened(now, stream),
            Input::StreamClosed { stream, reason } => self.stream_closed(now, stream, reason),
            Input::Stun { via, message } => self.stun(now, via, message),
        }
    }

    fn stun(&mut self, now: Time, via: Via, message: &[u8]) {
        if !self.hearth.vias.contains_key(&via) {
            self.hearth.counters.drop_foreign_source += 1;
            return;
        }
        let Ok(message) = Message::parse(message) else {
            self.hearth.counters.drop_malformed += 1;
            return;
        };
        self.hearth.counters.fire_received_messages += 1;
        let hearth = &mut self.hearth;
        match message.class() {
            Class::Success | Class::Error => {
                let id = message.transaction();
                match self.conversations.values_mut().find(|conversation| conversation.asked(id, via)) {
                    Some(conversation) => conversation.on_answer(hearth, now, &message),
                    None => hearth.counters.drop_unexpected += 1,
                }
            }
            Class::Indication if matches!(message.method(), Method::EMBER | Method::SIGNAL) => {
                let to = message.get(Attribute::CAMP_TO).and_then(|to| <[u8; 16]>::try_from(to).ok()).map(MemberId);
                let conversation = to.and_then(|to| {
                    self.conversations.values_mut().find_map(|conversation| Some((conversation.room_of(&to)?, conversation)))
                });
                match conversation {
                    Some((room, conversation)) => conversation.on_push(hearth, now, room, &message),
                    None => hearth.counters.drop_unexpected += 1,
                }
            }
            Class::Request | Class::Indication => hearth.counters.drop_unexpected += 1,
        }
        self.settle(now);
    }

    fn socket_opened(&mut self, now: Time, socket: SocketId, local: &[SocketAddr]) {
        self.hearth.sockets.insert(socket, local.to_vec());
        if answers::is_primary(socket) {
            self.started = true;
            for conversation in self.conversations.values_mut() {
                conversation.on_socket_opened(&mut self.hearth, now, socket);
            }
        }
        self.settle(now);
    }

    fn socket_closed(&mut self, now: Time, socket: SocketId) {
        if self.hearth.sockets.remove(&socket).is_none() {
            return;
        }
        for conversation in self.conversations.values_mut() {
            conversation.on_socket_closed(&mut self.hearth, now, socket);
        }
        let dead = |via: &Via| matches!(via, Via::Udp { socket: of, .. } if *of == socket);
        let vias: Vec<(Via, ServerSlot)> = self.hearth.vias.iter().filter(|(via, _)| dead(via)).map(|(via, slot)| (*via, *slot)).collect();
        for (via, slot) in vias {
            self.hearth.remove_via(via, slot);
        }
        self.settle(now);
    }

    fn resolved(&mut self, now: Time, server: ServerSlot, addresses: &[SocketAddr]) {
        if let Some(conversation) = self.conversations.get_mut(&server) {
            conversation.on_resolved(&mut self.hearth, now, addresses);
            self.settle(now);
        }
    }

    fn stream_opened(&mut self, now: Time, stream: StreamId) {
        let hearth = &mut self.hearth;
        if !self.conversations.values_mut().any(|conversation| conversation.on_stream_opened(hearth, now, stream)) {
            // It took too long, or UDP answered meanwhile.
            hearth.outputs.push_back(Output::CloseStream { stream });
        }
        self.settle(now);
    }

    fn stream_closed(&mut self, now: Time, stream: StreamId, reason: &str) {
        for conversation in self.conversations.values_mut() {
            conversation.on_stream_closed(&mut self.hearth, now, stream, reason);
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
            conversation.on_wake(&mut self.hearth, now);
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
        [conversations, self.choice.due, self.finds.due(), self.announce_at, Some(self.hearth.own.due())].into_iter().flatten().min()
    }

    /// A wall clock reading.
    pub fn on_wall(&mut self, now: Time, wall: UnixMillis) {
        self.hearth.clock.set_own(now, wall);
        self.hearth.clock_told(now);
        self.settle(now);
    }

    /// Servers, keys, routes or the record are replaced.
    pub fn reconfigure(&mut self, now: Time, change: &Reconfigure) {
        if self.closing {
            return;
        }
        if let Some(keys) = &change.keys {
            set_keys(&mut self.hearth, now, keys);
        }
        if let Some(servers) = &change.servers {
            self.choice.give(&mut self.hearth, &mut self.conversations, now, servers);
        }
        if let Some(heard) = &change.heard {
            self.choice.give_heard(&mut self.hearth, &mut self.conversations, now, heard);
        }
        if let Some(record) = &change.record {
            self.hearth.own.set_record(record);
            self.choice.give_record(&mut self.hearth, &mut self.conversations, now, record);
        }
        if let Some(routes) = &change.routes {
            self.hearth.own.set_routes(routes);
        }
        self.hearth.dirty = true;
        self.settle(now);
    }

    /// Leaves every seat (Camp with lifetime 0). Nothing but those goes out afterwards.
    pub fn shutdown(&mut self, now: Time) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        self.hearth.outputs.retain(|output| matches!(output, Output::Send { .. }));
        let before = self.hearth.outputs.len();
        for conversation in self.conversations.values_mut() {
            let rooms: Vec<u8> = conversation.seatings.keys().copied().collect();
            for room in rooms {
                conversation.leave(&mut self.hearth, now, room);
            }
        }
        // Nobody will be there to say it again: datagrams go twice.
        let again: Vec<Output> = self.hearth.outputs.iter().skip(before).cloned().collect();
        let on_udp = |output: &Output| matches!(output, Output::Send { via: Via::Udp { .. }, .. });
        self.hearth.outputs.extend(again.into_iter().filter(on_udp));
        self.hearth.events.clear();
    }

    /// That another process uses our identity, for people, if one does.
    pub fn identity_shared(&self) -> Option<&'static str> {
        self.hearth.own.is_shared().then_some(IDENTITY_SHARED)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<FireEvent> {
        self.hearth.events.pop_front()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.hearth.outputs.pop_front()
    }

    /// What follows from what has just happened.
    pub(crate) fn settle(&mut self, now: Time) {
        if !self.started || self.closing {
            return;
        }
        let hearth = &mut self.hearth;
        if !hearth.records.is_empty() {
            self.choice.take_records(hearth, &mut self.conversations, now);
        }
        self.note_udp();
        if std::mem::take(&mut self.hearth.read_again) {
            self.conversations.values_mut().for_each(|conversation| conversation.read_again(now));
        }
        let hearth = &mut self.hearth;
        // Deciding may connect, and that may tell something: a second look is enough.
        for _ in 0..2 {
            if hearth.dirty || self.choice.due.is_some_and(|due| due <= now) {
                self.choice.decide(hearth, &mut self.conversations, now);
            }
        }
        self.forget_rooms(now);
        let hearth = &mut self.hearth;
        if std::mem::take(&mut hearth.refind) {
            for peer in hearth.roster.linked() {
                let at = now + hearth.jitter(REFIND);
                self.finds.plan(at, self.network.address(&peer).to_string());
            }
        }
        let network = self.network;
        let found = |hearth: &Hearth, what: &str| is_known(hearth, network, what);
        if self.finds.flush(hearth, &mut self.conversations, now, found) {
            self.choice.visit_all(hearth, now);
            self.choice.decide(hearth, &mut self.conversations, now);
        }
        self.say(now);
        for conversation in self.conversations.values_mut() {
            conversation.tidy(&mut self.hearth);
        }
    }

    /// Rooms that have been left are forgotten; their numbers may be given again.
    fn forget_rooms(&mut self, now: Time) {
        let over = |room: &Room| room.leaving.is_some_and(|until| until <= now);
        let gone: Vec<u8> = self.hearth.rooms.iter().filter(|room| over(room)).map(|room| room.number).collect();
        for number in gone {
            if !seated_anywhere(&self.conversations, number) {
                self.hearth.rooms.retain(|room| room.number != number);
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
            self.hearth.udp_blocked = !on_udp && failed;
        }
    }

    /// Tells the servers what has changed of what we say.
    fn say(&mut self, now: Time) {
        self.hearth.own.begin_if_due(now);
        self.hearth.own.renew_if_due(now);
        let version = self.hearth.own.version();
        if version != self.said && self.announce_at.is_none() {
            self.announce_at = Some(now + SAY + self.hearth.jitter(SAY_JITTER));
        }
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce_at = None;
            self.said = version;
            for conversation in self.conversations.values_mut() {
                conversation.announce(&mut self.hearth, now);
            }
        }
    }
}

/// Takes over the keys held, newest first; those no longer held are left after a while.
fn set_keys(hearth: &mut Hearth, now: Time, keys: &[KeyEntry]) {
    let mut old = std::mem::take(&mut hearth.rooms);
    let mut rooms: Vec<Room> = Vec::new();
    for entry in keys.iter().take(MAX_KEYS) {
        let known = old.iter().position(|room| room.keys.fingerprint == entry.keys.fingerprint).map(|index| old.remove(index));
        let number = known.as_ref().map_or_else(
            || (0..=u8::MAX).find(|n| !rooms.iter().chain(&old).any(|room| room.number == *n)).unwrap_or(u8::MAX),
            |room| room.number,
        );
        rooms.push(Room { number, keys: std::sync::Arc::clone(&entry.keys), mode: entry.mode, leaving: None });
    }
    hearth.own.set_fingerprints(rooms.iter().map(|room| room.keys.fingerprint).collect());
    for mut room in old {
        room.leaving = Some(room.leaving.unwrap_or(now + ROOM_LINGER));
        rooms.push(room);
    }
    hearth.rooms = rooms;
    hearth.dirty = true;
}

fn seated_anywhere(conversations: &Conversations, room: u8) -> bool {
    conversations.values().filter_map(|conversation| conversation.seatings.get(&room)).any(|seating| seating.wanted)
}

/// Whether a member looked for by this address or name is known.
fn is_known(hearth: &Hearth, network: NetworkId, what: &str) -> bool {
    hearth.roster.seated().any(|announcement| {
        let names = [announcement.name.to_lowercase(), hearth.own.ipv4_of(announcement).map(|ip| ip.to_string()).unwrap_or_default()];
        names.iter().any(|name| name == what) || network.address(&announcement.public_key).to_string() == what
    })
}
