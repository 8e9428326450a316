//! A stand-in for WireGuard: the same messages, sizes, state machine and timers, but no cryptography worth the name.
//!
//! Nothing is encrypted, and a quick keyed checksum takes the place of authentication. What tests rely on is kept: a handshake
//! completes between holders of both private keys and one preshared key alone, a message altered, replayed or sealed for
//! another session is refused, indices and sizes are WireGuard's (148, 92, 64, 32 + n), and so are the timers: rekey after
//! 120 s, refusal after 180 s, handshakes again every 5 s for 90 s, keepalive after 10 s, new handshake after 15 s of silence.
//!
//! It takes its time from a [`Clock`] that the world moves, which the real sessions cannot.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use campfire_protocol::time::Time;
use campfire_tunnel::{Command, Event, LinkId, Opened, Source, TunnelError, Tunnels, Unidentified};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::hash::{digest, tag};
use crate::random::Random;

/// Virtual time, for what does not get it as an argument.
#[derive(Clone, Debug, Default)]
pub struct Clock(Rc<Cell<u64>>);

impl Clock {
    /// Moves it.
    pub fn set(&self, now: Time) {
        self.0.set(now.as_micros());
    }

    /// Reads it.
    pub fn now(&self) -> Time {
        Time::from_micros(self.0.get())
    }
}

const INITIATION: usize = 148;
const RESPONSE: usize = 92;
const HEADER: usize = 16;
const TAG: usize = 16;

const REKEY_AFTER: Duration = Duration::from_mins(2);
const REJECT_AFTER: Duration = Duration::from_mins(3);
const REKEY_ATTEMPTS_FOR: Duration = Duration::from_secs(90);
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes of one peer closer together than this are refused.
const FLOOD: Duration = Duration::from_millis(20);
/// Looks like a STUN cookie: never used as an index (docs/protocol.md).
const COOKIE: u32 = 0x42A4_1221;

/// The stand-in. See the module.
pub struct StandIn {
    clock: Clock,
    random: Random,
    secret: StaticSecret,
    public: [u8; 32],
    links: Vec<Option<Link>>,
    by_key: HashMap<[u8; 32], LinkId>,
    by_index: HashMap<u32, LinkId>,
    /// The last static Diffie-Hellman computed for a stranger: `initiator` is followed by `Add` and `handshake`.
    last_shared: ([u8; 32], [u8; 32]),
}

struct Link {
    id: LinkId,
    public: [u8; 32],
    shared: [u8; 32],
    /// Newest first; the second until a handshake with the first completes.
    preshared: [Option<[u8; 32]>; 2],
    /// Answered with, one under each preshared key, and not confirmed by the other side yet.
    next: [Option<Session>; 2],
    current: Option<Session>,
    previous: Option<Session>,
    pending: Option<Pending>,
    newest_timestamp: u64,
    last_initiation: Option<Time>,
    /// Data sent since anything came.
    unanswered_since: Option<Time>,
    keepalive_at: Option<Time>,
    expiry_told: bool,
}

struct Session {
    initiator: bool,
    created: Time,
    local: u32,
    remote: u32,
    send: [u8; 32],
    receive: [u8; 32],
    counter: u64,
    /// Whether it has carried a packet of ours.
    carried: bool,
    window: Window,
}

struct Pending {
    local: u32,
    ephemeral: [u8; 32],
    first_sent: Time,
    again_at: Time,
}

impl StandIn {
    /// All sessions of the peer with this X25519 secret.
    pub fn new(secret: [u8; 32], seed: u64, clock: Clock) -> Self {
        let secret = StaticSecret::from(secret);
        Self {
            clock,
            random: Random::new(seed),
            public: PublicKey::from(&secret).to_bytes(),
            secret,
            links: Vec::new(),
            by_key: HashMap::new(),
            by_index: HashMap::new(),
            last_shared: ([0; 32], [0; 32]),
        }
    }

    fn shared_with(&mut self, public: [u8; 32]) -> [u8; 32] {
        if self.last_shared.0 != public {
            self.last_shared = (public, self.secret.diffie_hellman(&PublicKey::from(public)).to_bytes());
        }
        self.last_shared.1
    }

    /// Checks an initiation's tag; gives the key of who made it.
    fn read_initiation(&mut self, message: &[u8]) -> Option<[u8; 32]> {
        if message.len() != INITIATION || message[..4] != [1, 0, 0, 0] {
            return None;
        }
        let public: [u8; 32] = message[40..72].try_into().ok()?;
        let known = self.by_key.get(&public).and_then(|&id| self.link(id)).map(|link| link.shared);
        let shared = known.unwrap_or_else(|| self.shared_with(public));
        (tag(&shared, &message[..80]) == message[80..96]).then_some(public)
    }

    fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.get(id.0 as usize)?.as_ref()
    }

    fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(id.0 as usize)?.as_mut()
    }

    fn new_index(&mut self, link: LinkId) -> u32 {
        loop {
            let index = self.random.u64() as u32;
            if index != COOKIE && !self.by_index.contains_key(&index) {
                self.by_index.insert(index, link);
                return index;
            }
        }
    }

    fn initiate(&mut self, id: LinkId, events: &mut Vec<Event>) {
        let now = self.clock.now();
        let Some(link) = self.link_mut(id) else { return };
        let (first_sent, old) = match link.pending.take() {
            Some(pending) => (pending.first_sent, Some(pending.local)),
            None => (now, None),
        };
        if let Some(old) = old {
            self.by_index.remove(&old);
        }
        let local = self.new_index(id);
        let ephemeral = self.random.bytes32();
        let again_at = now + REKEY_TIMEOUT + self.random.up_to(Duration::from_millis(333));
        let public = self.public;
        let Some(link) = self.link_mut(id) else { return };
        let mut message = vec![0; INITIATION];
        message[0] = 1;
        message[4..8].copy_from_slice(&local.to_le_bytes());
        message[8..40].copy_from_slice(&ephemeral);
        message[40..72].copy_from_slice(&public);
        message[72..80].copy_from_slice(&now.as_micros().to_be_bytes());
        let authentic = tag(&link.shared, &message[..80]);
        message[80..96].copy_from_slice(&authentic);
        link.pending = Some(Pending { local, ephemeral, first_sent, again_at });
        link.expiry_told = false;
        events.push(Event::Send { link: id, message });
    }

    fn answer(&mut self, message: &[u8], events: &mut Vec<Event>) -> Result<LinkId, TunnelError> {
        let now = self.clock.now();
        let public = self.read_initiation(message).ok_or(TunnelError::Forged)?;
        let id = *self.by_key.get(&public).ok_or(TunnelError::UnknownLink)?;
        let timestamp = u64::from_be_bytes(message[72..80].try_into().map_err(|_| TunnelError::Forged)?);
        let link = self.link_mut(id).ok_or(TunnelError::UnknownLink)?;
        if timestamp <= link.newest_timestamp {
            return Err(TunnelError::Replayed);
        }
        if link.last_initiation.is_some_and(|last| now.since(last) < FLOOD) {
            return Err(TunnelError::Limited);
        }
        link.newest_timestamp = timestamp;
        link.last_initiation = Some(now);
        link.keepalive_at = None;
        // Which preshared key the other side holds shows only in its confirmation: an answer under each.
        for slot in 0..2 {
            let Some(link) = self.link_mut(id) else { break };
            let replaced = link.next[slot].take();
            let (shared, Some(preshared)) = (link.shared, link.preshared[slot]) else { continue };
            if let Some(replaced) = replaced {
                self.by_index.remove(&replaced.local);
            }
            let local = self.new_index(id);
            let ephemeral = self.random.bytes32();
            let mut response = vec![0; RESPONSE];
            response[0] = 2;
            response[4..8].copy_from_slice(&local.to_le_bytes());
            response[8..12].copy_from_slice(&message[4..8]);
            response[12..44].copy_from_slice(&ephemeral);
            let secret = digest(&[&shared, &preshared, &message[8..40], &ephemeral]);
            let authentic = tag(&secret, &response[..44]);
            response[44..60].copy_from_slice(&authentic);
            let remote = u32::from_le_bytes([message[4], message[5], message[6], message[7]]);
            if let Some(link) = self.link_mut(id) {
                link.next[slot] = Some(Session::new(&secret, false, now, local, remote));
            }
            events.push(Event::Send { link: id, message: response });
        }
        Ok(id)
    }

    fn complete(&mut self, message: &[u8], events: &mut Vec<Event>) -> Result<LinkId, TunnelError> {
        let now = self.clock.now();
        if message.len() != RESPONSE || message[1..4] != [0, 0, 0] {
            return Err(TunnelError::Forged);
        }
        let number = |at: usize| u32::from_le_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
        let (remote, local) = (number(4), number(8));
        let id = *self.by_index.get(&local).ok_or(TunnelError::UnknownIndex)?;
        let link = self.link_mut(id).ok_or(TunnelError::UnknownLink)?;
        let pending = link.pending.as_ref().filter(|pending| pending.local == local).ok_or(TunnelError::UnknownIndex)?;
        let secrets = link.preshared.map(|key| key.map(|key| digest(&[&link.shared, &key, &pending.ephemeral, &message[12..44]])));
        let position = secrets.iter().position(|secret| secret.is_some_and(|secret| tag(&secret, &message[..44]) == message[44..60]));
        let Some((position, secret)) = position.and_then(|position| Some((position, secrets[position]?))) else {
            return Err(TunnelError::Forged);
        };
        link.pending = None;
        if position == 0 {
            link.preshared[1] = None;
        }
        let session = Session::new(&secret, true, now, local, remote);
        let dropped = link.promote(session);
        for index in dropped {
            self.by_index.remove(&index);
        }
        // Confirms the session to the responder.
        let mut keepalive = vec![0; HEADER + TAG];
        if let Some(session) = self.link_mut(id).and_then(|link| link.current.as_mut()) {
            session.seal(&[], &mut keepalive);
        }
        events.push(Event::Established { link: id, initiator: true });
        events.push(Event::Send { link: id, message: keepalive });
        Ok(id)
    }

    fn forget(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.by_key.remove(&link.public);
        for session in link.next.into_iter().chain([link.current, link.previous]).flatten() {
            self.by_index.remove(&session.local);
        }
        if let Some(pending) = link.pending {
            self.by_index.remove(&pending.local);
        }
    }
}

impl Tunnels for StandIn {
    fn execute(&mut self, command: Command, events: &mut Vec<Event>) {
        match command {
            Command::Add { link, public_key, preshared } => {
                self.forget(link);
                let shared = self.shared_with(public_key);
                let position = link.0 as usize;
                if self.links.len() <= position {
                    self.links.resize_with(position + 1, || None);
                }
                self.by_key.insert(public_key, link);
                self.links[position] = Some(Link::new(link, public_key, shared, *preshared));
            }
            Command::Rekey { link, preshared } => {
                if let Some(link) = self.link_mut(link).filter(|link| link.preshared[0] != Some(*preshared)) {
                    link.preshared = [Some(*preshared), link.preshared[0]];
                }
            }
            Command::Initiate { link } => self.initiate(link, events),
            Command::Remove { link } => self.forget(link),
        }
    }

    fn initiator(&mut self, initiation: &[u8], _from: Source) -> Result<[u8; 32], Unidentified> {
        self.read_initiation(initiation).ok_or(Unidentified::Refused(TunnelError::Forged))
    }

    fn handshake(&mut self, message: &[u8], _from: Source, events: &mut Vec<Event>) -> Result<LinkId, TunnelError> {
        match message.first() {
            Some(1) => self.answer(message, events),
            Some(2) => self.complete(message, events),
            _ => Err(TunnelError::Forged),
        }
    }

    fn seal(&mut self, link: LinkId, packet: &[u8], out: &mut [u8]) -> Result<usize, TunnelError> {
        let now = self.clock.now();
        let link = self.link_mut(link).ok_or(TunnelError::UnknownLink)?;
        let session = link.current.as_mut().filter(|session| now.since(session.created) < REJECT_AFTER).ok_or(TunnelError::NoSession)?;
        let length = HEADER + packet.len() + TAG;
        let out = out.get_mut(..length).ok_or(TunnelError::BufferTooSmall)?;
        session.seal(packet, out);
        session.carried = true;
        link.keepalive_at = None;
        link.unanswered_since.get_or_insert(now);
        Ok(length)
    }

    fn open(&mut self, message: &[u8], out: &mut [u8], events: &mut Vec<Event>) -> Result<Opened, TunnelError> {
        let now = self.clock.now();
        if message.len() < HEADER + TAG || message[..4] != [4, 0, 0, 0] {
            return Err(TunnelError::Forged);
        }
        let index = u32::from_le_bytes([message[4], message[5], message[6], message[7]]);
        let id = *self.by_index.get(&index).ok_or(TunnelError::UnknownIndex)?;
        let link = self.link_mut(id).ok_or(TunnelError::UnknownIndex)?;
        let body = &message[HEADER..message.len() - TAG];
        let session = link
            .next
            .iter_mut()
            .chain([&mut link.current, &mut link.previous])
            .flatten()
            .find(|session| session.local == index && now.since(session.created) < REJECT_AFTER)
            .ok_or(TunnelError::UnknownIndex)?;
        if tag(&session.receive, &message[..message.len() - TAG]) != message[message.len() - TAG..] {
            return Err(TunnelError::Forged);
        }
        let mut counter = [0; 8];
        counter.copy_from_slice(&message[8..16]);
        if !session.window.take(u64::from_le_bytes(counter)) {
            return Err(TunnelError::Replayed);
        }
        let confirmed = link.next.iter().position(|next| next.as_ref().is_some_and(|next| next.local == index));
        if let Some(slot) = confirmed {
            if slot == 0 {
                link.preshared[1] = None;
            }
            let dropped = link.next[slot].take().map(|next| link.promote(next)).unwrap_or_default();
            for index in dropped {
                self.by_index.remove(&index);
            }
            events.push(Event::Established { link: id, initiator: false });
        }
        let link = self.link_mut(id).ok_or(TunnelError::UnknownIndex)?;
        link.unanswered_since = None;
        if body.is_empty() {
            return Ok(Opened { link: id, packet: 0..0 });
        }
        link.keepalive_at.get_or_insert(now + KEEPALIVE_TIMEOUT);
        let length = inner_length(body).filter(|&length| length <= body.len()).ok_or(TunnelError::Malformed)?;
        out.get_mut(..length).ok_or(TunnelError::BufferTooSmall)?.copy_from_slice(&body[..length]);
        Ok(Opened { link: id, packet: 0..length })
    }

    fn tick(&mut self, events: &mut Vec<Event>) {
        let now = self.clock.now();
        for position in 0..self.links.len() {
            let Some(link) = &mut self.links[position] else { continue };
            let id = link.id;
            let (mut initiate, mut gave_up) = (false, false);
            if let Some(pending) = &link.pending {
                if now.since(pending.first_sent) >= REKEY_ATTEMPTS_FOR {
                    let local = pending.local;
                    link.pending = None;
                    self.by_index.remove(&local);
                    gave_up = true;
                } else {
                    initiate = now >= pending.again_at;
                }
            } else if let Some(session) = &link.current {
                let age = now.since(session.created);
                let silent = link.unanswered_since.is_some_and(|since| now.since(since) >= KEEPALIVE_TIMEOUT + REKEY_TIMEOUT);
                initiate = age < REJECT_AFTER && (silent || session.initiator && session.carried && age >= REKEY_AFTER);
            }
            let Some(link) = &mut self.links[position] else { continue };
            if let Some(session) = link.current.as_mut().filter(|_| link.keepalive_at.is_some_and(|at| at <= now)) {
                link.keepalive_at = None;
                let mut message = vec![0; HEADER + TAG];
                session.seal(&[], &mut message);
                events.push(Event::Send { link: id, message });
            }
            // As boringtun does: what gave up on a handshake forgets its sessions too.
            let over = gave_up || link.current.as_ref().is_some_and(|session| now.since(session.created) >= 3 * REJECT_AFTER);
            if over && link.pending.is_none() && !link.expiry_told {
                link.expiry_told = true;
                link.unanswered_since = None;
                for session in [link.current.take(), link.previous.take()].into_iter().flatten() {
                    self.by_index.remove(&session.local);
                }
                events.push(Event::Expired { link: id });
            }
            if initiate {
                self.initiate(id, events);
            }
        }
    }

    fn last_handshake_ms(&self, link: LinkId) -> Option<u64> {
        let now = self.clock.now();
        let session = self.link(link)?.current.as_ref()?;
        let age = now.since(session.created);
        (age < REJECT_AFTER).then_some(age.as_millis() as u64)
    }
}

impl Link {
    fn new(id: LinkId, public: [u8; 32], shared: [u8; 32], preshared: [u8; 32]) -> Self {
        Self {
            id,
            public,
            shared,
            preshared: [Some(preshared), None],
            next: [None, None],
            current: None,
            previous: None,
            pending: None,
            newest_timestamp: 0,
            last_initiation: None,
            unanswered_since: None,
            keepalive_at: None,
            expiry_told: false,
        }
    }

    /// Makes `session` the current one; gives the indices that are free then. When both sides initiate at once, each may have
    /// the other's session as current: what was answered with and not confirmed yet stays as the previous one.
    fn promote(&mut self, session: Session) -> Vec<u32> {
        let mut others = self.next.iter_mut().filter_map(Option::take).chain(self.current.take()).chain(self.previous.take());
        self.previous = others.next();
        let dropped = others.map(|session| session.local).collect();
        self.current = Some(session);
        self.unanswered_since = None;
        self.expiry_told = false;
        dropped
    }
}

impl Session {
    fn new(secret: &[u8; 32], initiator: bool, created: Time, local: u32, remote: u32) -> Self {
        let keys = [digest(&[secret, b"initiator"]), digest(&[secret, b"responder"])];
        let (send, receive) = if initiator { (keys[0], keys[1]) } else { (keys[1], keys[0]) };
        Self { initiator, created, local, remote, send, receive, counter: 0, carried: false, window: Window::default() }
    }

    /// Writes a data message into `out`, which has the right size.
    fn seal(&mut self, packet: &[u8], out: &mut [u8]) {
        let end = HEADER + packet.len();
        out[..4].copy_from_slice(&[4, 0, 0, 0]);
        out[4..8].copy_from_slice(&self.remote.to_le_bytes());
        out[8..16].copy_from_slice(&self.counter.to_le_bytes());
        out[HEADER..end].copy_from_slice(packet);
        let authentic = tag(&self.send, &out[..end]);
        out[end..end + TAG].copy_from_slice(&authentic);
        self.counter += 1;
    }
}

/// Which counters have come, of the last 1,024.
#[derive(Default)]
struct Window {
    next: u64,
    seen: [u64; 16],
}

impl Window {
    /// Whether `counter` is new; notes it.
    fn take(&mut self, counter: u64) -> bool {
        if counter.saturating_add(960) < self.next {
            return false;
        }
        if counter >= self.next && counter - self.next > 1_024 {
            self.seen = [0; 16];
            self.next = counter;
        }
        while self.next <= counter {
            // A word is cleared when the window reaches it.
            if self.next.is_multiple_of(64) {
                self.seen[(self.next / 64) as usize % 16] = 0;
            }
            self.next += 1;
        }
        let (word, bit) = ((counter / 64) as usize % 16, 1 << (counter % 64));
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }
}

fn inner_length(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => Some(usize::from(u16::from_be_bytes([packet[2], packet[3]]))),
        6 if packet.len() >= 40 => Some(40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))),
        _ => None,
    }
}
