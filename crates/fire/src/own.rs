//! What we say of ourselves, and the rooms (one per key held) in which we say it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use campfire_protocol::announce::{
    Announcement, AnnouncementError, MAX_FINGERPRINTS, MAX_ROUTES, MAX_SERVERS, NO_TUNNEL, ServerRecord, Session,
};
use campfire_protocol::identity::{Identity, NetworkId, ipv4_in_pool};
use campfire_protocol::key::{Fingerprint, Keys, Tag};
use campfire_protocol::server::ServerTag;
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::MemberId;
use ipnet::{IpNet, Ipv4Net};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore as _;

use crate::Seat;
use crate::clock::Support;
use crate::config::{Config, KeyMode};
use crate::hearth::AHEAD;
use crate::roster::Version;

/// A run that no server has taken yet moves to the right time when the clock turns out to be this wrong.
const WRONG_CLOCK: Duration = Duration::from_secs(30);
/// One that was taken begins anew if it began this long before its time (a server takes a first Camp that is a minute off),
const TOO_EARLY: Duration = Duration::from_secs(90);
/// or if its session lies this far ahead: everybody drops it then ([`AHEAD`]), whose clock is right to two minutes.
const TOO_LATE: Duration = Duration::from_mins(12);
/// Sessions of ours that were taken, as far back as is remembered.
const MAX_TAKEN: usize = 8;

/// How many times a run of ours that seems later is outrun.
const MAX_OUTRUNS: u32 = 3;
/// Because of what is said under our key this run begins anew at most this often: it costs everybody a handshake.
const REST: Duration = Duration::from_mins(1);

/// What we say is said again after this, and up to [`RENEW_JITTER`] more: what was not for three hours is not believed.
const RENEW: Duration = Duration::from_mins(50);
const RENEW_JITTER: Duration = Duration::from_mins(20);

/// A time some way after another.
pub(crate) fn ahead(wall: UnixMillis, by: Duration) -> UnixMillis {
    UnixMillis(wall.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
}

/// A key's room.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// Its number, kept as long as the key is held.
    pub(crate) number: u8,
    pub(crate) keys: Arc<Keys>,
    pub(crate) mode: KeyMode,
    /// The key is no longer held; the seats are kept until then, while links move to other rooms.
    pub(crate) leaving: Option<Time>,
}

/// Whether this run is later than another now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outrun {
    /// It is, or will be within a minute.
    Done,
    /// The other one comes after us again and again: it is no earlier run, it runs too.
    InVain,
}

/// Another process under our identity, that speaks while this one runs.
#[derive(Clone, Copy, Debug)]
struct Twin {
    session: Session,
    sent_at: UnixMillis,
    /// One of its seats.
    seat: Seat,
}

/// Who we are and what we say.
pub(crate) struct Own {
    pub(crate) identity: Identity,
    network: NetworkId,
    name: String,
    namespace: String,
    cluster: String,
    routes: Vec<IpNet>,
    record: Option<ServerRecord>,
    features: u32,
    pool: Option<Ipv4Net>,
    ipv4: Option<Ipv4Addr>,
    session: Session,
    begun: Time,
    /// How well founded the clock was that agreed with this session.
    support: Support,
    /// Starts of sessions of ours that servers have taken: what comes after must be later to whoever saw them.
    taken: Vec<UnixMillis>,
    sequence: u32,
    /// When all is said again, and how long after the time before.
    renew: (Time, Duration),
    outruns: u32,
    /// When this run began, by the corrected clock. Its session may begin later ([`Own::outrun`]).
    woke: UnixMillis,
    /// Another run under our identity that spoke after we began.
    twin: Option<Twin>,
    /// People were told of it.
    told: bool,
    /// When this run last began anew because of another.
    anew: Option<Time>,
    /// After which it will begin anew when [`REST`] is over.
    later: Option<Session>,
    servers: BTreeMap<u8, Vec<ServerTag>>,
    fingerprints: Vec<Fingerprint>,
}

impl Own {
    pub(crate) fn new(config: &Config, rng: &mut ChaCha20Rng, now: Time, wall: UnixMillis) -> Self {
        let period = RENEW + Duration::from_micros(rng.next_u64() % RENEW_JITTER.as_micros() as u64);
        Self {
            identity: config.identity.clone(),
            network: config.network,
            name: config.name.clone(),
            namespace: config.namespace.clone(),
            cluster: config.cluster.clone(),
            routes: config.routes.iter().copied().take(MAX_ROUTES).collect(),
            record: config.record.clone(),
            features: if config.tunnel { 0 } else { NO_TUNNEL },
            pool: config.ipv4_pool,
            ipv4: config.ipv4_pool.and_then(|pool| ipv4_in_pool(pool, &config.identity.public())),
            session: Session { started: wall, nonce: rng.next_u64() },
            begun: now,
            support: Support::default(),
            taken: Vec::new(),
            sequence: 1,
            renew: (now + period, period),
            outruns: 0,
            woke: wall,
            twin: None,
            told: false,
            anew: None,
            later: None,
            servers: BTreeMap::new(),
            fingerprints: Vec::new(),
        }
    }

    pub(crate) fn session(&self) -> Session {
        self.session
    }

    pub(crate) fn ipv4(&self) -> Option<Ipv4Addr> {
        self.ipv4
    }

    /// The IPv4 address that a member has: the one that follows from its key, if it claims that. No other can be claimed.
    pub(crate) fn ipv4_of(&self, announcement: &Announcement) -> Option<Ipv4Addr> {
        announcement.ipv4.filter(|address| self.pool.is_some_and(|pool| ipv4_in_pool(pool, &announcement.public_key) == Some(*address)))
    }

    /// Orders what we say.
    pub(crate) fn version(&self) -> Version {
        (self.session, self.sequence)
    }

    /// Our address that others can find us by.
    pub(crate) fn address(&self) -> std::net::Ipv6Addr {
        self.network.address(&self.identity.public())
    }

    /// A server took our announcement of this session. If it is later than the present one (the clock was corrected while it was
    /// under way), others would take us for a replay: this run begins after it, unless everybody drops it anyway.
    pub(crate) fn taken(&mut self, session: Session, wall: UnixMillis) {
        self.remember(session);
        if session > self.session && session.started <= ahead(wall, AHEAD) {
            self.begin(session);
        }
    }

    fn remember(&mut self, session: Session) {
        if !self.taken.contains(&session.started) {
            if self.taken.len() >= MAX_TAKEN {
                self.taken.remove(0);
            }
            self.taken.push(session.started);
        }
    }

    /// The clock was corrected. If no server has taken our announcement yet, this run begins at the right time. One that was
    /// taken begins anew if its start is wrong by a clock that is founded better than any that agreed with it: so what one
    /// server says sticks no longer than until others are heard, and no server alone makes us begin anew again and again.
    pub(crate) fn clock_corrected(&mut self, now: Time, wall: UnixMillis, support: Support) {
        let age = u64::try_from(now.since(self.begun).as_millis()).unwrap_or(u64::MAX);
        let started = UnixMillis(wall.0.saturating_sub(age));
        let fresh = self.taken.is_empty();
        let (early, late) = if fresh {
            (ahead(self.session.started, WRONG_CLOCK) < started, self.session.started > ahead(started, WRONG_CLOCK))
        } else {
            (ahead(self.session.started, TOO_EARLY) < started, self.session.started > ahead(wall, TOO_LATE))
        };
        if !early && !late {
            self.support = self.support.max(support);
        } else if fresh || support > self.support {
            self.support = support;
            let seen = self.taken.iter().filter(|taken| **taken <= ahead(wall, AHEAD)).max();
            self.session.started = seen.map_or(started, |seen| started.max(UnixMillis(seen.0.saturating_add(1))));
            self.woke = started;
            if !fresh {
                self.changed();
            }
        }
    }

    /// An earlier run of ours is still known, and seems to be later than this one (the clock was set back, or wrong): others
    /// would take us for a replay. This run begins after it, then. What this run said itself is an echo, whoever shows it where.
    pub(crate) fn outrun(&mut self, now: Time, other: &Announcement, seat: Seat) -> Option<Outrun> {
        if other.session.nonce == self.session.nonce {
            return None;
        }
        if other.sent_at > self.woke {
            self.twin = Some(Twin { session: other.session, sent_at: other.sent_at, seat });
        }
        let other = other.session;
        if other < self.session || self.later.is_some_and(|later| later >= other) {
            return None;
        }
        self.outruns += 1;
        let at_once = self.outruns <= MAX_OUTRUNS && self.begin_after(now, other);
        let beside = self.twin.is_some() || self.outruns > MAX_OUTRUNS;
        if at_once || !beside {
            return Some(Outrun::Done);
        }
        (!std::mem::replace(&mut self.told, true)).then_some(Outrun::InVain)
    }

    /// Another process with our identity runs beside this one, and both cannot be.
    pub(crate) fn is_shared(&self) -> bool {
        self.told
    }

    /// A seat is gone. If another process with our identity had it, its goodbye was taken for ours: we begin anew, after it,
    /// so that others know us again. What it had said until then makes no twin of it a second time.
    pub(crate) fn outlive(&mut self, now: Time, seat: &Seat) {
        if let Some(twin) = self.twin.take_if(|twin| twin.seat == *seat) {
            self.outruns = 0;
            self.told = false;
            self.woke = self.woke.max(twin.sent_at);
            self.begin_after(now, twin.session.max(self.session));
        }
    }

    /// Begins anew, after this session: now (`true`), or when that is due.
    fn begin_after(&mut self, now: Time, other: Session) -> bool {
        let rests = self.anew.is_some_and(|at| now.since(at) < REST);
        if rests {
            self.later = self.later.max(Some(other));
        } else {
            self.anew = Some(now);
            self.begin(other);
        }
        !rests
    }

    fn begin(&mut self, other: Session) {
        self.session.started = UnixMillis(other.started.0.saturating_add(1));
        self.remember(other);
        self.changed();
    }

    /// When there is something to say though nothing happens.
    pub(crate) fn due(&self) -> Time {
        self.anew_due().map_or(self.renew.0, |anew| anew.min(self.renew.0))
    }

    /// Says all again if that is due.
    pub(crate) fn renew_if_due(&mut self, now: Time) {
        let (at, period) = self.renew;
        if at <= now {
            self.renew.0 = now + period;
            self.changed();
        }
    }

    fn anew_due(&self) -> Option<Time> {
        self.later.and(self.anew).map(|at| at + REST)
    }

    /// Begins anew if that had to wait.
    pub(crate) fn begin_if_due(&mut self, now: Time) {
        if self.anew_due().is_some_and(|due| due <= now)
            && let Some(other) = self.later.take()
            && other >= self.session
        {
            self.anew = Some(now);
            self.begin(other);
        }
    }

    pub(crate) fn set_routes(&mut self, routes: &[IpNet]) {
        let routes: Vec<IpNet> = routes.iter().copied().take(MAX_ROUTES).collect();
        if routes != self.routes {
            self.routes = routes;
            self.changed();
        }
    }

    pub(crate) fn set_record(&mut self, record: &ServerRecord) {
        if self.record.as_ref() != Some(record) {
            self.record = Some(record.clone());
            self.changed();
        }
    }

    pub(crate) fn set_fingerprints(&mut self, fingerprints: Vec<Fingerprint>) {
        if fingerprints != self.fingerprints {
            self.fingerprints = fingerprints;
            self.fingerprints.truncate(MAX_FINGERPRINTS);
            self.changed();
        }
    }

    /// The servers camped on, by room, best first.
    pub(crate) fn set_servers(&mut self, mut servers: BTreeMap<u8, Vec<ServerTag>>) {
        for tags in servers.values_mut() {
            tags.truncate(MAX_SERVERS);
        }
        if servers != self.servers {
            self.servers = servers;
            self.changed();
        }
    }

    /// Gives up the IPv4 address: an older session claims it.
    pub(crate) fn yield_ipv4(&mut self) {
        self.ipv4 = None;
        self.changed();
    }

    fn changed(&mut self) {
        self.sequence = self.sequence.saturating_add(1);
    }

    /// What is said in a room.
    fn announcement(&self, room: u8, wall: UnixMillis) -> Announcement {
        Announcement {
            public_key: self.identity.public(),
            session: self.session,
            sequence: self.sequence,
            sent_at: wall,
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            cluster: self.cluster.clone(),
            fingerprints: self.fingerprints.clone(),
            servers: self.servers.get(&room).cloned().unwrap_or_default(),
            routes: self.routes.clone(),
            ipv4: self.ipv4,
            features: self.features,
            record: self.record.clone(),
        }
    }

    /// Our announcement for a seat. What does not fit is left out, the record first (the error says so), then routes.
    pub(crate) fn seal(
        &self,
        rng: &mut ChaCha20Rng,
        room: &Room,
        member: &MemberId,
        wall: UnixMillis,
    ) -> (Option<Vec<u8>>, Option<AnnouncementError>) {
        let mut announcement = self.announcement(room.number, wall);
        let mut problem = None;
        for _ in 0..3 {
            let mut nonce = [0; 24];
            rng.fill_bytes(&mut nonce);
            match announcement.seal(&self.identity, &room.keys, member, &nonce) {
                Ok(sealed) => return (Some(sealed), problem),
                Err(error) => problem = Some(error),
            }
            if announcement.record.take().is_none() {
                announcement.routes.clear();
            }
        }
        (None, problem)
    }

    /// What we can be found by in a large room: overlay addresses and names.
    pub(crate) fn tags(&self, keys: &Keys) -> Vec<Tag> {
        let mut names = vec![self.address().to_string()];
        names.extend(self.ipv4.map(|address| address.to_string()));
        if !self.name.is_empty() {
            let mut name = self.name.to_lowercase();
            names.push(name.clone());
            for part in [&self.namespace, &self.cluster].into_iter().filter(|part| !part.is_empty()) {
                name = format!("{name}.{}", part.to_lowercase());
                names.push(name.clone());
            }
        }
        names.iter().map(|name| keys.tag(name)).collect()
    }
}
