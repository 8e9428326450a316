//! The real sessions: boringtun's `noise`.
//!
//! Each link has two places for a [`Tunn`]: one in use, and one beside it while a new preshared key takes over. A place's
//! number is the upper 24 bits of all its session indices, so that a receiver index leads to its session without a search.
//!
//! Limits ([`limits`](crate::limits)): a handshake message is looked at only when its mac1 is right. That needs no more than our public key,
//! which is no secret, so what comes directly has a budget apart from what comes through servers, and when there is much of it WireGuard's
//! cookies tell sources that are real from those that are made up. An initiation whose maker is known costs then a token of its link, so
//! that no member starves another; members nobody knows yet have a small share of their own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::limits::{Bucket, Limits};
use crate::{Command, Event, LinkId, OVERHEAD, Opened, Source, TunnelError, Tunnels, Unidentified};

/// Most links: keeps the upper 24 bits of every session index below 2^21, and so away from 0x42A412: index 0x42A41221 would
/// make a data message look like STUN (docs/protocol.md, "On the wire").
pub const MAX_LINKS: u32 = 1 << 20;

const _: () = assert!(2 * MAX_LINKS <= 0x0042_A412);

/// A handshake message is at most this long; boringtun asks for 148 at least.
const SCRATCH: usize = 256;

/// An old session beside its successor goes when it has been silent for this long …
const RETIRE_SILENT: Duration = Duration::from_secs(15);
/// … or has been beside it for this long (WireGuard's REJECT_AFTER_TIME).
const RETIRE_ALWAYS: Duration = Duration::from_mins(3);

/// How many initiations are remembered between [`Tunnels::initiator`] and [`Tunnels::handshake`].
const REMEMBERED: usize = 64;

/// One place of a link: a boringtun tunnel under one preshared key.
struct Place {
    tunn: Tunn,
    preshared: Zeroizing<[u8; 32]>,
    /// Whether boringtun has a session to send with: to be known without asking its clock.
    ready: bool,
    /// Index of the session that we answered with, until it carries its first packet.
    answered: Option<u32>,
    /// When a successor took over.
    retired: Option<Instant>,
    /// Last time something was opened here since the tick before (kept for a retired place alone).
    heard: bool,
    heard_at: Instant,
    expired: bool,
}

impl Place {
    fn refresh(&mut self) {
        self.ready = self.tunn.time_since_last_handshake().is_some();
    }
}

struct Link {
    public_key: [u8; 32],
    places: [Option<Box<Place>>; 2],
    /// Which place sends.
    current: usize,
    handshakes: Bucket,
}

/// Sessions of boringtun, one or two for each link.
pub struct NoiseTunnels {
    secret: StaticSecret,
    public: PublicKey,
    links: Vec<Option<Link>>,
    /// Whose a public key is.
    by_key: HashMap<[u8; 32], LinkId>,
    /// boringtun's limiter with no limit: it checks mac1.
    mac1: Arc<RateLimiter>,
    limits: Limits,
    /// mac1 and key of initiations that were looked at.
    remembered: VecDeque<([u8; 16], [u8; 32])>,
    scratch: [u8; SCRATCH],
}

impl std::fmt::Debug for NoiseTunnels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NoiseTunnels({} links)", self.links.iter().flatten().count())
    }
}

impl NoiseTunnels {
    /// No links yet. `secret` is our X25519 secret.
    pub fn new(secret: &Zeroizing<[u8; 32]>) -> Self {
        let secret = StaticSecret::from(**secret);
        let public = PublicKey::from(&secret);
        Self {
            mac1: Arc::new(RateLimiter::new(&public, u64::MAX)),
            limits: Limits::new(&public),
            secret,
            public,
            links: Vec::new(),
            by_key: HashMap::new(),
            remembered: VecDeque::with_capacity(REMEMBERED),
            scratch: [0; SCRATCH],
        }
    }

    fn link(&mut self, link: LinkId) -> Option<&mut Link> {
        self.links.get_mut(link.0 as usize)?.as_mut()
    }

    fn make_place(&self, link: LinkId, side: usize, public_key: &[u8; 32], preshared: &Zeroizing<[u8; 32]>) -> Box<Place> {
        let index = link.0 * 2 + side as u32;
        Box::new(Place {
            tunn: Tunn::new(
                self.secret.clone(),
                PublicKey::from(*public_key),
                Some(**preshared),
                None,
                index,
                Some(Arc::clone(&self.mac1)),
            ),
            preshared: preshared.clone(),
            ready: false,
            answered: None,
            retired: None,
            heard: false,
            heard_at: Instant::now(),
            expired: false,
        })
    }

    /// Link and side that a receiver index leads to.
    #[inline]
    fn locate(&self, index: u32) -> Option<(LinkId, usize)> {
        let place = index >> 8;
        let (link, side) = (place >> 1, (place & 1) as usize);
        self.links.get(link as usize)?.as_ref()?.places[side].as_ref()?;
        Some((LinkId(link), side))
    }

    fn add(&mut self, link: LinkId, public_key: [u8; 32], preshared: &Zeroizing<[u8; 32]>) {
        if link.0 >= MAX_LINKS {
            return;
        }
        self.remove(link);
        let index = link.0 as usize;
        if self.links.len() <= index {
            self.links.resize_with(index + 1, || None);
        }
        let place = self.make_place(link, 0, &public_key, preshared);
        self.by_key.insert(public_key, link);
        self.links[index] = Some(Link { public_key, places: [Some(place), None], current: 0, handshakes: Bucket::new(20.0, 4.0) });
    }

    fn rekey(&mut self, id: LinkId, preshared: &Zeroizing<[u8; 32]>) {
        let Some(link) = self.link(id) else { return };
        let other = link.current ^ 1;
        let current = link.places[link.current].as_ref();
        if current.is_some_and(|place| place.preshared == *preshared) {
            // Back to the key in use: whatever was about to take over does not.
            link.places[other] = None;
            return;
        }
        if link.places[other].as_ref().is_some_and(|place| place.preshared == *preshared && place.retired.is_none()) {
            return;
        }
        let public_key = link.public_key;
        let fresh = self.make_place(id, other, &public_key, preshared);
        if let Some(link) = self.link(id) {
            link.places[other] = Some(fresh);
        }
    }

    /// Starts a handshake under the newest key: the successor's place if there is one.
    fn initiate(&mut self, id: LinkId, events: &mut Vec<Event>) {
        let mut scratch = [0; SCRATCH];
        let Some(link) = self.link(id) else { return };
        let other = link.current ^ 1;
        let side = if link.places[other].as_ref().is_some_and(|place| place.retired.is_none()) { other } else { link.current };
        if let Some(place) = link.places[side].as_mut() {
            Self::initiate_place(place, id, &mut scratch, events);
        }
    }

    fn initiate_place(place: &mut Place, id: LinkId, scratch: &mut [u8], events: &mut Vec<Event>) {
        place.expired = false;
        if let TunnResult::WriteToNetwork(message) = place.tunn.format_handshake_initiation(scratch, true) {
            events.push(Event::Send { link: id, message: message.to_vec() });
        }
    }

    /// `side`'s session has proved to work in both directions: it sends from now on.
    fn established(link: &mut Link, id: LinkId, side: usize, initiator: bool, events: &mut Vec<Event>) {
        if side != link.current {
            if let Some(old) = link.places[link.current].as_mut() {
                let now = Instant::now();
                old.retired = Some(now);
                old.heard_at = now;
                old.heard = false;
            }
            link.current = side;
        }
        if let Some(place) = link.places[side].as_mut() {
            place.retired = None;
            place.expired = false;
            place.refresh();
        }
        events.push(Event::Established { link: id, initiator });
    }

    /// Who made this initiation, whose mac1 is right: remembered, or found by one Diffie-Hellman, for which `allowed` asks.
    fn identify(
        &mut self,
        initiation: &[u8],
        allowed: impl FnOnce(&mut Limits) -> Result<(), Unidentified>,
    ) -> Result<[u8; 32], Unidentified> {
        let mut cookie = [0; SCRATCH];
        let Ok(Packet::HandshakeInit(parsed)) = self.mac1.verify_packet(None, initiation, &mut cookie) else {
            return Err(Unidentified::Refused(TunnelError::Forged));
        };
        let mut mac1 = [0; 16];
        mac1.copy_from_slice(initiation.get(116..132).ok_or(Unidentified::Refused(TunnelError::Forged))?);
        if let Some((_, key)) = self.remembered.iter().find(|(seen, _)| *seen == mac1) {
            return Ok(*key);
        }
        allowed(&mut self.limits)?;
        let forged = |_| Unidentified::Refused(TunnelError::Forged);
        let half = parse_handshake_anon(&self.secret, &self.public, &parsed).map_err(forged)?;
        if self.remembered.len() == REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back((mac1, half.peer_static_public));
        Ok(half.peer_static_public)
    }

    fn remove(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(id.0 as usize).and_then(Option::take) else { return };
        // Another link may have come to have this key meanwhile.
        if self.by_key.get(&link.public_key) == Some(&id) {
            self.by_key.remove(&link.public_key);
        }
    }

    /// Answers an initiation from every living place: while a key changes we cannot know which one the other side means, and
    /// the answer under the other key does not authenticate there and is dropped.
    fn answer(&mut self, message: &[u8], from: Source, events: &mut Vec<Event>) -> Result<LinkId, TunnelError> {
        let key = self.identify(message, |limits| limits.initiation(message, from)).map_err(|why| match why {
            Unidentified::Refused(error) => error,
            Unidentified::Cookie(_) => TunnelError::Limited,
        })?;
        let id = *self.by_key.get(&key).ok_or(TunnelError::UnknownLink)?;
        let mut scratch = [0; SCRATCH];
        let Some(link) = self.link(id) else { return Err(TunnelError::UnknownLink) };
        link.handshakes.take()?;
        let mut outcome = Err(TunnelError::Forged);
        for side in [link.current ^ 1, link.current] {
            let Some(place) = link.places[side].as_mut().filter(|place| place.retired.is_none()) else { continue };
            match place.tunn.decapsulate(None, message, &mut scratch) {
                TunnResult::WriteToNetwork(answer) => {
                    place.answered = answer.get(4..8).and_then(|index| index.try_into().ok()).map(u32::from_le_bytes);
                    place.expired = false;
                    events.push(Event::Send { link: id, message: answer.to_vec() });
                    outcome = Ok(id);
                }
                TunnResult::Err(error) if outcome.is_err() => outcome = Err(handshake_error(&error)),
                TunnResult::Err(_) | TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {}
            }
        }
        outcome
    }

    /// Takes a response (type 2) or a cookie (type 3).
    fn conclude(&mut self, message: &[u8], index: u32, from: Source, events: &mut Vec<Event>) -> Result<LinkId, TunnelError> {
        let (id, side) = self.locate(index).ok_or(TunnelError::UnknownIndex)?;
        let mut scratch = [0; SCRATCH];
        let mut cookie = [0; SCRATCH];
        self.mac1.verify_packet(None, message, &mut cookie).map_err(|_| TunnelError::Forged)?;
        // Session indices can be guessed: what comes directly takes no token of the link's.
        match from {
            Source::Relayed => self.link(id).ok_or(TunnelError::UnknownLink)?.handshakes.take()?,
            Source::Direct(_) => self.limits.conclusion()?,
        }
        let Some(link) = self.link(id) else { return Err(TunnelError::UnknownLink) };
        let Some(place) = link.places[side].as_mut() else { return Err(TunnelError::UnknownIndex) };
        match place.tunn.decapsulate(None, message, &mut scratch) {
            // A keepalive: the session's first packet, which proves it to the other side.
            TunnResult::WriteToNetwork(keepalive) => {
                let keepalive = keepalive.to_vec();
                Self::established(link, id, side, true, events);
                events.push(Event::Send { link: id, message: keepalive });
                Ok(id)
            }
            TunnResult::Err(error) => Err(handshake_error(&error)),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => Ok(id),
        }
    }

    fn tick_link(link: &mut Link, id: LinkId, scratch: &mut [u8], now: Instant, events: &mut Vec<Event>) {
        let mut nudge = false;
        let mut renewed = false;
        for side in 0..2 {
            let Some(place) = link.places[side].as_mut() else { continue };
            if let Some(retired) = place.retired {
                if std::mem::take(&mut place.heard) {
                    // The other side still sends on the old session: show it the new one.
                    place.heard_at = now;
                    nudge = true;
                }
                if now.duration_since(place.heard_at) > RETIRE_SILENT || now.duration_since(retired) > RETIRE_ALWAYS {
                    link.places[side] = None;
                }
                continue;
            }
            match place.tunn.update_timers(scratch) {
                TunnResult::WriteToNetwork(message) => {
                    renewed |= side == link.current && message.first() == Some(&1);
                    events.push(Event::Send { link: id, message: message.to_vec() });
                }
                TunnResult::Err(WireGuardError::ConnectionExpired) if !place.expired => {
                    place.expired = true;
                    if side == link.current {
                        events.push(Event::Expired { link: id });
                    }
                }
                TunnResult::Err(_) | TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {}
            }
            if place.ready {
                place.refresh();
            }
        }
        if renewed && let Some(successor) = link.places[link.current ^ 1].as_mut().filter(|place| place.expired && place.retired.is_none())
        {
            // The session in use is being renewed: another try for the new key, too.
            Self::initiate_place(successor, id, scratch, events);
        }
        if nudge
            && let Some(place) = link.places[link.current].as_mut().filter(|place| place.ready)
            && let TunnResult::WriteToNetwork(message) = place.tunn.encapsulate(&[], scratch)
        {
            events.push(Event::Send { link: id, message: message.to_vec() });
        }
    }
}

/// What boringtun's refusal of a handshake means to the caller.
fn handshake_error(error: &WireGuardError) -> TunnelError {
    match error {
        WireGuardError::WrongTai64nTimestamp | WireGuardError::InvalidTai64nTimestamp => TunnelError::Replayed,
        WireGuardError::UnexpectedPacket | WireGuardError::WrongIndex => TunnelError::UnknownIndex,
        WireGuardError::UnderLoad => TunnelError::Limited,
        WireGuardError::DestinationBufferTooSmall
        | WireGuardError::IncorrectPacketLength
        | WireGuardError::WrongPacketType
        | WireGuardError::WrongKey
        | WireGuardError::InvalidMac
        | WireGuardError::InvalidAeadTag
        | WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter
        | WireGuardError::InvalidPacket
        | WireGuardError::NoCurrentSession
        | WireGuardError::LockFailed
        | WireGuardError::ConnectionExpired => TunnelError::Forged,
    }
}

/// What boringtun's refusal of a data message means to the caller.
fn data_error(error: &WireGuardError) -> TunnelError {
    match error {
        WireGuardError::NoCurrentSession | WireGuardError::WrongIndex => TunnelError::UnknownIndex,
        WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => TunnelError::Replayed,
        WireGuardError::InvalidPacket => TunnelError::Malformed,
        WireGuardError::DestinationBufferTooSmall
        | WireGuardError::IncorrectPacketLength
        | WireGuardError::UnexpectedPacket
        | WireGuardError::WrongPacketType
        | WireGuardError::WrongKey
        | WireGuardError::InvalidTai64nTimestamp
        | WireGuardError::WrongTai64nTimestamp
        | WireGuardError::InvalidMac
        | WireGuardError::InvalidAeadTag
        | WireGuardError::LockFailed
        | WireGuardError::ConnectionExpired
        | WireGuardError::UnderLoad => TunnelError::Forged,
    }
}

/// The little-endian 32-bit word at `offset`.
#[inline]
fn word(message: &[u8], offset: usize) -> Option<u32> {
    message.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
}

impl Tunnels for NoiseTunnels {
    fn execute(&mut self, command: Command, events: &mut Vec<Event>) {
        match command {
            Command::Add { link, public_key, preshared } => self.add(link, public_key, &preshared),
            Command::Rekey { link, preshared } => self.rekey(link, &preshared),
            Command::Initiate { link } => self.initiate(link, events),
            Command::Remove { link } => self.remove(link),
        }
    }

    fn initiator(&mut self, initiation: &[u8], from: Source) -> Result<[u8; 32], Unidentified> {
        let key = self.identify(initiation, |limits| limits.initiation(initiation, from))?;
        if !self.by_key.contains_key(&key) {
            self.limits.stranger(from).map_err(Unidentified::Refused)?;
        }
        Ok(key)
    }

    fn handshake(&mut self, message: &[u8], from: Source, events: &mut Vec<Event>) -> Result<LinkId, TunnelError> {
        match (word(message, 0), message.len()) {
            (Some(1), 148) => self.answer(message, from, events),
            (Some(2), 92) => self.conclude(message, word(message, 8).unwrap_or(0), from, events),
            (Some(3), 64) => self.conclude(message, word(message, 4).unwrap_or(0), from, events),
            _ => Err(TunnelError::Forged),
        }
    }

    #[inline]
    fn is_ready(&self, link: LinkId) -> bool {
        let link = self.links.get(link.0 as usize).and_then(Option::as_ref);
        link.and_then(|link| link.places[link.current].as_ref()).is_some_and(|place| place.ready)
    }

    #[inline]
    fn seal(&mut self, link: LinkId, packet: &[u8], out: &mut [u8]) -> Result<usize, TunnelError> {
        let link = self.link(link).ok_or(TunnelError::UnknownLink)?;
        let place = link.places[link.current].as_mut().filter(|place| place.ready).ok_or(TunnelError::NoSession)?;
        if out.len() < packet.len() + OVERHEAD {
            return Err(TunnelError::BufferTooSmall);
        }
        match place.tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(message) => Ok(message.len()),
            TunnResult::Done | TunnResult::Err(_) | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                Err(TunnelError::NoSession)
            }
        }
    }

    #[inline]
    fn open(&mut self, message: &[u8], out: &mut [u8], events: &mut Vec<Event>) -> Result<Opened, TunnelError> {
        if message.len() < OVERHEAD || word(message, 0) != Some(4) {
            return Err(TunnelError::Forged);
        }
        if out.len() < message.len() - 16 {
            return Err(TunnelError::BufferTooSmall);
        }
        let index = word(message, 4).unwrap_or(0);
        let (id, side) = self.locate(index).ok_or(TunnelError::UnknownIndex)?;
        let link = self.link(id).ok_or(TunnelError::UnknownIndex)?;
        let place = link.places[side].as_mut().ok_or(TunnelError::UnknownIndex)?;
        let length = match place.tunn.decapsulate(None, message, out) {
            TunnResult::Done => 0,
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => packet.len(),
            TunnResult::WriteToNetwork(_) => return Err(TunnelError::Forged),
            TunnResult::Err(error) => return Err(data_error(&error)),
        };
        place.heard = true;
        if place.answered == Some(index) || !place.ready {
            place.answered = None;
            if place.retired.is_none() {
                Self::established(link, id, side, false, events);
            }
        }
        Ok(Opened { link: id, packet: 0..length })
    }

    fn tick(&mut self, events: &mut Vec<Event>) {
        let now = Instant::now();
        for (index, link) in self.links.iter_mut().enumerate() {
            if let Some(link) = link {
                Self::tick_link(link, LinkId(index as u32), &mut self.scratch, now, events);
            }
        }
    }

    fn last_handshake_ms(&self, link: LinkId) -> Option<u64> {
        let link = self.links.get(link.0 as usize)?.as_ref()?;
        let place = link.places[link.current].as_ref()?;
        place.tunn.time_since_last_handshake().map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
    }
}
