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
use crate::config::{Config, KeyMode};
use crate::roster::Version;

/// A run that has not yet been accepted anywhere begins anew when the clock turns out to be this wrong.
const WRONG_CLOCK: Duration = Duration::from_secs(30);

/// How many times a run of ours that seems later is outrun.
const MAX_OUTRUNS: u32 = 3;

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
    /// It is.
    Done,
    /// The other one comes after us again and again: it is no earlier run, it runs too.
    InVain,
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
    ipv4: Option<Ipv4Addr>,
    session: Session,
    begun: Time,
    anchored: bool,
    sequence: u32,
    outruns: u32,
    /// When this run began, by the corrected clock. Its session may begin later ([`Own::outrun`]).
    woke: UnixMillis,
    /// Another run under our identity that spoke after we began, and one of its seats.
    twin: Option<(Session, Seat)>,
    servers: BTreeMap<u8, Vec<ServerTag>>,
    fingerprints: Vec<Fingerprint>,
}

impl Own {
    pub(crate) fn new(config: &Config, rng: &mut ChaCha20Rng, now: Time, wall: UnixMillis) -> Self {
        Self {
            identity: config.identity.clone(),
            network: config.network,
            name: config.name.clone(),
            namespace: config.namespace.clone(),
            cluster: config.cluster.clone(),
            routes: config.routes.iter().copied().take(MAX_ROUTES).collect(),
            record: config.record.clone(),
            features: if config.tunnel { 0 } else { NO_TUNNEL },
            ipv4: config.ipv4_pool.and_then(|pool: Ipv4Net| ipv4_in_pool(pool, &config.identity.public())),
            session: Session { started: wall, nonce: rng.next_u64() },
            begun: now,
            anchored: false,
            sequence: 1,
            outruns: 0,
            woke: wall,
            twin: None,
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

    /// Orders what we say.
    pub(crate) fn version(&self) -> Version {
        (self.session, self.sequence)
    }

    /// Our address that others can find us by.
    pub(crate) fn address(&self) -> std::net::Ipv6Addr {
        self.network.address(&self.identity.public())
    }

    /// A server took our announcement: this run keeps its start time for good.
    pub(crate) fn anchor(&mut self) {
        self.anchored = true;
    }

    /// The clock was corrected. If no server has taken our announcement yet, this run begins at the right time.
    pub(crate) fn clock_corrected(&mut self, now: Time, wall: UnixMillis) {
        let age = u64::try_from(now.since(self.begun).as_millis()).unwrap_or(u64::MAX);
        let started = wall.0.saturating_sub(age);
        if !self.anchored && u128::from(started.abs_diff(self.session.started.0)) > WRONG_CLOCK.as_millis() {
            self.session.started = UnixMillis(started);
            self.woke = self.session.started;
        }
    }

    /// An earlier run of ours is still known, and seems to be later than this one (the clock was set back, or wrong): others
    /// would take us for a replay. This run begins after it, then.
    pub(crate) fn outrun(&mut self, other: &Announcement, seat: Seat) -> Option<Outrun> {
        if other.sent_at > self.woke {
            self.twin = Some((other.session, seat));
        }
        let other = other.session;
        if other < self.session {
            return None;
        }
        self.outruns += 1;
        if self.outruns > MAX_OUTRUNS {
            return (self.outruns == MAX_OUTRUNS + 1).then_some(Outrun::InVain);
        }
        self.begin_after(other);
        Some(Outrun::Done)
    }

    /// A seat is gone. If another process with our identity had it, its goodbye was taken for ours: we begin anew, after it,
    /// so that others know us again.
    pub(crate) fn outlive(&mut self, seat: &Seat) {
        if let Some((other, _)) = self.twin.take_if(|(_, held)| held == seat) {
            self.outruns = 0;
            self.begin_after(other.max(self.session));
        }
    }

    fn begin_after(&mut self, other: Session) {
        self.session.started = UnixMillis(other.started.0.saturating_add(1));
        self.anchored = true;
        self.changed();
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
