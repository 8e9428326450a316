//! All links: who is linked, who starts, when each is woken, what the data plane is told.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use campfire_datapath::command::Command;
use campfire_datapath::table::{Table, Traffic, Way};
use campfire_fire::io::Input as Carried;
use campfire_fire::{Fire, FireEvent, Learned, Seat};
use campfire_protocol::announce::{Announcement, Session};
use campfire_protocol::carrier::{Path, Via};
use campfire_protocol::certificate::Chain;
use campfire_protocol::control::Control;
use campfire_protocol::identity::PublicKey;
use campfire_protocol::time::Time;
use campfire_tunnel::{Event, LinkId};
use ipnet::IpNet;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

use crate::candidates::{Candidates, MAIN_SOCKETS};
use crate::config::{Config, DirectPolicy, Membership, Reconfigure};
use crate::io::Notice;
use crate::link::{Link, Route, Verdict, born};
use crate::roll::Roll;
use crate::shared::{Cx, Shared, full_size};
use crate::table::{Claim, OwnClaim, Rules};

mod wanted;

/// Handshakes that we start at most, per second and at once.
const HANDSHAKES_PER_SECOND: f64 = 50.0;
const HANDSHAKE_BURST: f64 = 50.0;
/// Initiations that wait for the data plane to say whose they are.
const MAX_HELD: usize = 256;
/// Addresses that applications want are looked for this long.
const WANTED_LIFE: Duration = Duration::from_secs(10);
/// Peers that said goodbye, remembered until their seat is gone too.
const MAX_LEFT: usize = 1_024;
/// Changes of our own addresses are gathered for this long before peers are told.
const TELL: Duration = Duration::from_millis(200);
/// How often what is kept for a while is looked through.
const SWEEP: Duration = Duration::from_secs(30);
/// A link that was ticked is not ticked again before this.
const BREATH: Duration = Duration::from_millis(1);

/// An initiation that came by Signal.
struct Held {
    token: u64,
    from: Seat,
    message: Vec<u8>,
}

/// The links.
pub(crate) struct Links {
    pub(crate) config: Config,
    pub(crate) shared: Shared,
    slots: Vec<Option<Box<Link>>>,
    free: BTreeSet<u32>,
    by_peer: HashMap<PublicKey, LinkId>,
    by_wireguard: HashMap<[u8; 32], LinkId>,
    /// Overlay addresses of everybody who is known, linked or not.
    directory: HashMap<IpAddr, PublicKey>,
    deadlines: BTreeSet<(Time, LinkId)>,
    wanted: HashMap<IpAddr, Time>,
    left: HashMap<PublicKey, Session>,
    held: VecDeque<Held>,
    next_token: u64,
    roll: Roll,
    handshake_tokens: f64,
    handshake_at: Time,
    tell_at: Option<Time>,
    sweep_at: Time,
    table: Table,
    vias_version: u64,
    /// What the table says of ourselves.
    own_claim: OwnClaim,
    ipv4_taken: Option<LinkId>,
    down: bool,
}

impl Links {
    pub(crate) fn new(config: Config, seed: [u8; 32], now: Time) -> Self {
        let mut overlay = vec![IpNet::V6(config.fire.network.prefix())];
        overlay.extend(config.fire.ipv4_pool.map(IpNet::V4));
        let rules = Rules {
            network: config.fire.network,
            pool: config.fire.ipv4_pool,
            accepted: config.accepted_routes.clone(),
            offered: config.fire.routes.clone(),
        };
        let own = config.fire.identity.public();
        let mut shared = Shared::new(own, rules, Candidates::new(overlay), ChaCha8Rng::from_seed(seed));
        shared.full_size = full_size(config.mtu);
        shared.forbidden = config.direct == DirectPolicy::Forbid;
        shared.idle_close = Duration::from_millis(config.idle_close_ms.max(1_000));
        shared.membership.clone_from(&config.membership);
        let own_claim = OwnClaim { peer: own, seniority: Session::default(), ipv4: None };
        Self {
            config,
            shared,
            slots: Vec::new(),
            free: BTreeSet::new(),
            by_peer: HashMap::new(),
            by_wireguard: HashMap::new(),
            directory: HashMap::new(),
            deadlines: BTreeSet::new(),
            wanted: HashMap::new(),
            left: HashMap::new(),
            held: VecDeque::new(),
            next_token: 0,
            roll: Roll::default(),
            handshake_tokens: HANDSHAKE_BURST,
            handshake_at: now,
            tell_at: None,
            sweep_at: now + SWEEP,
            table: Table::default(),
            vias_version: 0,
            own_claim,
            ipv4_taken: None,
            down: false,
        }
    }

    /// A socket says something; the fire has heard of it already.
    pub(crate) fn carried(&mut self, now: Time, fire: &mut Fire, input: Carried<'_>) {
        match input {
            Carried::SocketOpened { socket, local } => {
                let changed = self.shared.candidates.opened(socket, local);
                if MAIN_SOCKETS.contains(&socket) {
                    self.shared.wide &= !changed;
                    self.own_changed(now, changed);
                } else {
                    fire.observe(now, socket);
                }
            }
            Carried::SocketClosed { socket } => {
                let changed = self.shared.candidates.closed(socket);
                self.shared.fresh.forget(socket);
                self.own_changed(now, changed && MAIN_SOCKETS.contains(&socket));
                self.each(now, fire, |link, cx| link.socket_closed(cx, socket));
            }
            Carried::Resolved { .. } | Carried::StreamOpened { .. } | Carried::StreamClosed { .. } | Carried::Stun { .. } => {}
        }
    }

    /// The data plane saw something on a link.
    pub(crate) fn traffic(&mut self, now: Time, fire: &mut Fire, traffic: &Traffic) {
        self.with(now, fire, traffic.link, |link, cx| {
            link.traffic(cx, traffic);
            Verdict::Keep
        });
    }

    /// Says goodbye to all.
    pub(crate) fn shutdown(&mut self, now: Time, fire: &mut Fire) {
        self.down = true;
        self.each(now, fire, |link, cx| {
            if link.established.is_some() {
                link.say(cx, &Control::Goodbye);
            }
        });
        self.deadlines.clear();
    }

    /// New keys or routes.
    pub(crate) fn reconfigure(&mut self, now: Time, fire: &mut Fire, change: &Reconfigure) {
        if let Some(accepted) = &change.accepted_routes {
            self.shared.rules.accepted.clone_from(accepted);
            self.shared.changed.addressing = true;
        }
        if let Some(routes) = &change.fire.routes {
            self.shared.rules.offered.clone_from(routes);
            self.shared.changed.addressing = true;
        }
        if let Some(membership) = &change.membership
            && self.shared.membership.as_ref() != Some(membership)
        {
            self.shared.membership = Some(membership.clone());
            self.shared.changed.addressing = true;
            self.each(now, fire, Link::membership_changed);
        }
        if let Some(keys) = &change.fire.keys {
            self.config.fire.keys.clone_from(keys);
            self.rekey(now, fire);
        }
    }

    fn rekey(&mut self, now: Time, fire: &mut Fire) {
        self.each(now, fire, |link, cx| {
            if let Some(announcement) = cx.fire.announcement(&link.peer).cloned() {
                link.rekey(cx, &announcement);
            }
            link.seats_changed(cx);
        });
    }

    /// The fire says something.
    pub(crate) fn on_fire(&mut self, now: Time, fire: &mut Fire, event: FireEvent) {
        if self.down {
            return;
        }
        match event {
            FireEvent::Member { seat, learned, announcement } => self.member(now, fire, seat, learned, &announcement),
            FireEvent::Departed { peer, .. } => self.departed(now, fire, peer),
            FireEvent::Signal { from, data } => self.signal(now, fire, from, data),
            FireEvent::Bound { seat, .. } => {
                if let Some(link) = self.link_at(fire, &seat) {
                    self.with(now, fire, link, |link, cx| {
                        link.bound(cx, seat);
                        Verdict::Keep
                    });
                }
            }
            FireEvent::Unreachable { seat, code } => match self.link_at(fire, &seat) {
                Some(link) => {
                    self.with(now, fire, link, |link, cx| {
                        link.unreachable(cx, seat, code);
                        Verdict::Keep
                    });
                }
                None => self.each(now, fire, |link, cx| link.unreachable(cx, seat, code)),
            },
            FireEvent::Mapped { server, via: Via::Udp { socket, .. }, local_socket_observed } => {
                let changed = self.shared.candidates.mapped(socket, server, local_socket_observed);
                self.own_changed(now, changed && MAIN_SOCKETS.contains(&socket));
            }
            FireEvent::Mapped { .. } => {}
            FireEvent::Camped { server, room, kept } => {
                let news = self.roll.camped(now, server, room);
                let doubted = self.shared.doubts.lost.remove(&server) | self.shared.doubts.suspect.remove(&server);
                if !kept {
                    self.each(now, fire, |link, cx| link.void(cx, server, room));
                } else if news || doubted {
                    self.each(now, fire, Link::seats_changed);
                }
                self.weigh(now, fire);
            }
            FireEvent::Lost { server } => {
                self.shared.doubts.lost.insert(server);
                self.roll.lost(server);
                self.each(now, fire, Link::seats_changed);
            }
            FireEvent::Suspect { server } => {
                self.shared.doubts.suspect.insert(server);
                self.each(now, fire, Link::choose_relay);
            }
            FireEvent::Trusted { server } => {
                self.shared.doubts.suspect.remove(&server);
                self.each(now, fire, Link::choose_relay);
            }
        }
    }

    /// Everything that is due.
    pub(crate) fn run(&mut self, now: Time, fire: &mut Fire) {
        if self.down {
            return;
        }
        while let Some((at, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            if let Some(link) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) {
                link.filed = None;
            }
            self.with_after(now, fire, id, now + BREATH, Link::tick);
        }
        while let Some((id, pair)) = self.shared.pacing.take_probe(now) {
            self.with(now, fire, id, |link, cx| {
                link.check(cx, pair);
                Verdict::Keep
            });
        }
        self.initiate(now);
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell_at = None;
            self.shared.generation = self.shared.generation.wrapping_add(1);
            self.each(now, fire, Link::own_changed);
        }
        if self.sweep_at <= now {
            self.sweep(now);
        }
        let patient = self.shared.patient_until.take_if(|until| *until <= now).is_none() && self.shared.patient_until.is_some();
        let found_within = self.roll.found_within(now, fire.large() || patient);
        self.table.version += u64::from(found_within != self.table.found_within);
        self.table.found_within = found_within;
    }

    pub(crate) fn next_wake(&self) -> Option<Time> {
        if self.down {
            return None;
        }
        let initiation = (!self.shared.initiations.is_empty()).then(|| {
            let missing = (1.0 - self.handshake_tokens).max(0.0) / HANDSHAKES_PER_SECOND;
            self.handshake_at + Duration::from_secs_f64(missing)
        });
        let busy = !self.wanted.is_empty() || !self.left.is_empty() || self.shared.fresh.any();
        let dues = [
            self.deadlines.first().map(|(at, _)| *at),
            self.shared.pacing.next_probe(),
            initiation,
            self.tell_at,
            self.roll.due(),
            self.shared.patient_until,
            busy.then_some(self.sweep_at),
        ];
        dues.into_iter().flatten().min()
    }

    /// Brings the table up to date: of its parts, those that changed.
    pub(crate) fn publish(&mut self, fire: &Fire) {
        let first = self.table.version == 0;
        let own = self.own_claim(fire);
        let addressed = std::mem::take(&mut self.shared.changed.addressing) || first || self.own_claim != own;
        if addressed {
            self.own_claim = own;
            self.readdress();
        }
        let moved = !self.shared.changed.ways.is_empty();
        if moved {
            self.move_links();
        }
        let reached = first || self.vias_version != fire.vias_version();
        if reached {
            self.vias_version = fire.vias_version();
            self.table.servers = Arc::new(fire.vias().collect());
        }
        self.table.version += u64::from(addressed || moved || reached);
    }

    /// What we claim: what we announce or, in a certified mesh, what of it is certified.
    fn own_claim(&self, fire: &Fire) -> OwnClaim {
        let announced = OwnClaim { peer: self.shared.own, seniority: fire.session(), ipv4: fire.ipv4() };
        let Some(Membership { roots: _, chain }) = &self.shared.membership else { return announced };
        let certified = chain.as_ref().map(Chain::peer);
        let ipv4 = announced.ipv4.filter(|address| certified.is_some_and(|peer| peer.ipv4 == Some(*address)));
        OwnClaim { seniority: certified.map_or(announced.seniority, |peer| born(peer.born)), ipv4, ..announced }
    }

    /// Who has our IPv4 address, for people, if somebody has.
    pub(crate) fn ipv4_taken_by(&self) -> Option<String> {
        let (link, address) = self.ipv4_taken.zip(self.own_claim.ipv4)?;
        let holder = self.get(link).map_or("a peer", |link| &link.name);
        Some(format!("IPv4 address {address} belongs to {holder}, whose session is older: running without; a larger pool makes this rarer"))
    }

    /// Decides anew whose addresses and routes are whose.
    fn readdress(&mut self) {
        let claims: Vec<Claim<'_>> = self.slots.iter().flatten().filter_map(|link| link.claim(&self.shared)).collect();
        let (addressing, taken) = self.shared.rules.addressing(&self.own_claim, &claims);
        if std::mem::replace(&mut self.ipv4_taken, taken).is_none()
            && let Some(text) = self.ipv4_taken_by()
        {
            self.shared.notice(Notice::Problem { text });
        }
        self.table.addressing = Arc::new(addressing);
    }

    /// Takes over the ways of those links that moved.
    fn move_links(&mut self) {
        if self.table.ways.len() < self.slots.len() {
            let more = self.slots.len() - self.table.ways.len();
            self.table.ways = self.table.ways.iter().copied().chain(std::iter::repeat_n(Way::default(), more)).collect();
        }
        // One copy, if the data plane still has the old ones.
        let ways = Arc::make_mut(&mut self.table.ways);
        for id in self.shared.changed.ways.drain(..) {
            let link = self.slots.get(id.0 as usize).and_then(Option::as_deref);
            if let Some(way) = ways.get_mut(id.0 as usize) {
                *way = link.map_or_else(Way::default, |link| Way { path: link.path, also: link.also });
            }
        }
    }

    /// As if a link's path had moved.
    #[cfg(test)]
    pub(crate) fn move_link(&mut self, id: LinkId, path: Path) {
        if let Some(link) = &mut self.slots[id.0 as usize] {
            link.path = Some(path);
            self.shared.changed.ways.push(id);
        }
    }

    /// The newest table.
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// All links, in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.slots.iter().flatten().map(AsRef::as_ref)
    }

    /// The link to a peer.
    pub(crate) fn of(&self, peer: &PublicKey) -> Option<&Link> {
        self.by_peer.get(peer).and_then(|id| self.get(*id))
    }

    fn get(&self, id: LinkId) -> Option<&Link> {
        self.slots.get(id.0 as usize).and_then(Option::as_deref)
    }

    fn link_at(&self, fire: &Fire, seat: &Seat) -> Option<LinkId> {
        fire.peer_of(seat).and_then(|peer| self.by_peer.get(&peer).copied())
    }

    // Members.

    fn member(&mut self, now: Time, fire: &mut Fire, seat: Seat, learned: Learned, announcement: &Announcement) {
        let peer = announcement.public_key;
        if peer == self.shared.own || !announcement.has_tunnel() {
            return;
        }
        let address = IpAddr::V6(self.shared.rules.network.address(&peer));
        let ipv4 = self.shared.rules.claimed(&peer, announcement.ipv4).map(IpAddr::V4);
        let wanted = self.wanted.remove(&address).is_some() | ipv4.is_some_and(|ipv4| self.wanted.remove(&ipv4).is_some());
        if self.directory.len() < self.config.fire.members.saturating_mul(2).max(64) {
            self.directory.insert(address, peer);
        }
        self.weigh(now, fire);
        if self.left.get(&peer) == Some(&announcement.session) {
            return;
        }
        self.left.remove(&peer);
        if let Some(id) = self.by_peer.get(&peer).copied() {
            self.with(now, fire, id, |link, cx| {
                link.announced(cx, seat, announcement, learned);
                Verdict::Keep
            });
        } else if self.shared.eager || wanted {
            self.link(now, fire, announcement, if wanted { Learned::Find } else { learned });
        }
    }

    fn departed(&mut self, now: Time, fire: &mut Fire, peer: PublicKey) {
        if fire.announcement(&peer).is_none() {
            self.left.remove(&peer);
            self.directory.remove(&IpAddr::V6(self.shared.rules.network.address(&peer)));
        }
        if let Some(id) = self.by_peer.get(&peer).copied() {
            self.with(now, fire, id, |link, cx| {
                link.departed = cx.fire.announcement(&peer).is_none();
                link.seats_changed(cx);
                if link.departed && link.established.is_none() { Verdict::Gone } else { Verdict::Keep }
            });
        }
        self.weigh(now, fire);
    }

    /// Small rooms: links to all. Large ones: on demand.
    fn weigh(&mut self, now: Time, fire: &mut Fire) {
        // Servers count at each Camp; who was pushed since is known besides.
        let members = fire.members().max(self.directory.len() + 1);
        let eager = !fire.large() && members <= self.config.limits.eager_links;
        if eager == self.shared.eager {
            return;
        }
        self.shared.eager = eager;
        // Idle links get a deadline now, or lose it.
        self.each(now, fire, |_, _| {});
        if eager {
            let missing: Vec<Announcement> = fire.peers().filter(|peer| !self.by_peer.contains_key(&peer.public_key)).cloned().collect();
            for announcement in missing {
                if announcement.public_key != self.shared.own && !self.left.contains_key(&announcement.public_key) {
                    self.link(now, fire, &announcement, Learned::Ember);
                }
            }
        }
    }

    fn link(&mut self, now: Time, fire: &mut Fire, announcement: &Announcement, learned: Learned) -> Option<LinkId> {
        if !announcement.has_tunnel() {
            return None;
        }
        if self.by_peer.len() >= self.config.limits.links {
            self.shared.counters.count("links_refused");
            return None;
        }
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None => u32::try_from(self.slots.len()).ok()?,
        };
        let id = LinkId(slot);
        if self.slots.len() <= slot as usize {
            self.slots.resize_with(slot as usize + 1, || None);
        }
        let peer = announcement.public_key;
        fire.interest(&peer, true);
        let link = Link::new(&mut Cx { now, fire, shared: &mut self.shared }, id, announcement);
        self.by_peer.insert(peer, id);
        self.by_wireguard.insert(link.wireguard, id);
        self.slots[slot as usize] = Some(Box::new(link));
        self.with(now, fire, id, |link, cx| {
            link.start(cx, learned);
            Verdict::Keep
        });
        Some(id)
    }

    fn unlink(&mut self, now: Time, fire: &mut Fire, id: LinkId, verdict: Verdict) {
        let Some(mut link) = self.slots.get_mut(id.0 as usize).and_then(Option::take) else { return };
        if let Some(filed) = link.filed {
            self.deadlines.remove(&(filed, id));
        }
        let mut cx = Cx { now, fire, shared: &mut self.shared };
        if verdict == Verdict::Idle && link.established.is_some() {
            link.say(&mut cx, &Control::Goodbye);
        }
        link.end(&mut cx);
        fire.interest(&link.peer, false);
        self.by_peer.remove(&link.peer);
        self.by_wireguard.remove(&link.wireguard);
        self.shared.initiations.retain(|waiting| *waiting != id);
        self.free.insert(id.0);
        let reason = match verdict {
            // On demand links end when they idle, and the other side is told so that it does not send into the void.
            Verdict::Goodbye if !self.shared.eager => return,
            Verdict::Goodbye => {
                if self.left.len() < MAX_LEFT {
                    self.left.insert(link.peer, link.session);
                }
                "said goodbye"
            }
            Verdict::Gone => "left the fire",
            Verdict::Idle | Verdict::Keep => return,
        };
        self.shared.notice(Notice::PeerGone { peer: link.name.clone(), reason: reason.into() });
    }

    // Handshakes.

    fn signal(&mut self, now: Time, fire: &mut Fire, from: Seat, message: Vec<u8>) {
        match message.first() {
            Some(1) if self.held.len() < MAX_HELD => {
                let token = self.next_token;
                self.next_token += 1;
                self.held.push_back(Held { token, from, message: message.clone() });
                self.shared.data(Command::IdentifyInitiation { token, message });
            }
            Some(2..=4) => {
                let Some(id) = self.link_at(fire, &from) else {
                    self.shared.counters.count("signals_from_strangers");
                    return;
                };
                self.with(now, fire, id, |link, cx| {
                    link.follow(cx, from);
                    Verdict::Keep
                });
                self.receive(fire, &from, message);
            }
            _ => self.shared.counters.count("signals_dropped"),
        }
    }

    /// A signalled message goes to the tunnels as if it had come through the server's channel.
    fn receive(&mut self, fire: &Fire, from: &Seat, message: Vec<u8>) {
        let path = fire.relay_path(from).or_else(|| {
            let via = fire.vias().find(|(_, server)| *server == from.server).map(|(via, _)| via)?;
            Some(Path::Relay { server: from.server, via, channel: 0 })
        });
        if let Some(path) = path {
            self.shared.data(Command::Receive { path, message });
        }
    }

    pub(crate) fn initiation(&mut self, now: Time, fire: &mut Fire, token: u64, initiator: Option<[u8; 32]>) {
        let Some(index) = self.held.iter().position(|held| held.token == token) else { return };
        let Some(Held { from, message, .. }) = self.held.remove(index) else { return };
        // Who signals must be who shakes hands: a member cannot speak for another.
        let peer = fire.peer_of(&from).filter(|peer| initiator == Some(peer.x25519()));
        let Some(id) = peer.and_then(|peer| self.answering(now, fire, &peer)) else {
            self.shared.counters.count("initiations_dropped");
            return;
        };
        self.with(now, fire, id, |link, cx| {
            link.initiation_came(cx.now, Route::Signal(from));
            link.follow(cx, from);
            Verdict::Keep
        });
        self.receive(fire, &from, message);
    }

    /// The link to answer a peer's handshake on: made if need be.
    fn answering(&mut self, now: Time, fire: &mut Fire, peer: &PublicKey) -> Option<LinkId> {
        if let Some(id) = self.by_peer.get(peer) {
            return Some(*id);
        }
        let announcement = fire.announcement(peer)?.clone();
        self.left.remove(peer);
        self.link(now, fire, &announcement, Learned::Ember)
    }

    pub(crate) fn handshake(&mut self, now: Time, fire: &mut Fire, path: Path, message: &[u8], initiator: Option<[u8; 32]>) {
        if message.first() == Some(&1) {
            let known = initiator.and_then(|key| self.by_wireguard.get(&key).copied());
            let id = known.or_else(|| {
                let Path::Relay { server, channel, .. } = path else { return None };
                let peer = fire.seat_of_channel(server, channel).and_then(|seat| fire.peer_of(&seat))?;
                if initiator == Some(peer.x25519()) { self.answering(now, fire, &peer) } else { None }
            });
            let Some(id) = id else {
                self.shared.counters.count("initiations_dropped");
                return;
            };
            self.with(now, fire, id, |link, cx| {
                link.initiation_came(cx.now, Route::Path(path));
                Verdict::Keep
            });
        }
        self.shared.data(Command::Receive { path, message: message.to_vec() });
    }

    fn initiate(&mut self, now: Time) {
        if self.shared.initiations.is_empty() {
            return;
        }
        let earned = now.since(self.handshake_at).as_secs_f64() * HANDSHAKES_PER_SECOND;
        self.handshake_tokens = (self.handshake_tokens + earned).min(HANDSHAKE_BURST);
        self.handshake_at = now;
        while self.handshake_tokens >= 0.999 {
            let Some(link) = self.shared.initiations.pop_front() else { break };
            self.handshake_tokens -= 1.0;
            self.shared.counters.count("handshakes_started");
            self.shared.data(Command::Tunnel(campfire_tunnel::Command::Initiate { link }));
        }
    }

    // What comes out of tunnels and applications.

    pub(crate) fn tunnel(&mut self, now: Time, fire: &mut Fire, event: Event) {
        match event {
            Event::Send { link, message } => self.with(now, fire, link, |link, cx| {
                link.send_message(cx, message);
                Verdict::Keep
            }),
            Event::Established { link, initiator: _ } => self.with(now, fire, link, |link, cx| {
                link.session_established(cx);
                Verdict::Keep
            }),
            Event::Expired { link } => self.with(now, fire, link, Link::session_expired),
        }
    }

    pub(crate) fn control(&mut self, now: Time, fire: &mut Fire, id: LinkId, path: Path, payload: &[u8]) {
        match Control::decode(payload) {
            Ok(Some(control)) => self.with(now, fire, id, |link, cx| link.control(cx, path, control, payload.len())),
            Ok(None) => self.shared.counters.count("controls_unknown"),
            Err(_) => self.shared.counters.count("controls_malformed"),
        }
    }

    // The machinery.

    fn own_changed(&mut self, now: Time, changed: bool) {
        if changed && self.tell_at.is_none() {
            self.tell_at = Some(now + TELL);
        }
    }

    fn sweep(&mut self, now: Time) {
        self.sweep_at = now + SWEEP;
        self.wanted.retain(|_, at| now.since(*at) < WANTED_LIFE);
        for socket in self.shared.fresh.old(now) {
            if !self.iter().any(|link| link.paths.uses(socket)) {
                self.shared.fresh.forget(socket);
                self.shared.candidates.closed(socket);
                self.shared.data(Command::CloseSocket { socket });
            }
        }
    }

    /// Does something with one link, then files it under its next deadline and draws the consequence.
    pub(crate) fn with(&mut self, now: Time, fire: &mut Fire, id: LinkId, what: impl FnOnce(&mut Link, &mut Cx<'_>) -> Verdict) {
        self.with_after(now, fire, id, now, what);
    }

    fn with_after(&mut self, now: Time, fire: &mut Fire, id: LinkId, soonest: Time, what: impl FnOnce(&mut Link, &mut Cx<'_>) -> Verdict) {
        let Some(link) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        let mut cx = Cx { now, fire, shared: &mut self.shared };
        let verdict = what(link, &mut cx);
        let due = link.due(&cx).map(|due| due.max(soonest));
        if due != link.filed {
            if let Some(filed) = link.filed {
                self.deadlines.remove(&(filed, id));
            }
            if let Some(due) = due {
                self.deadlines.insert((due, id));
            }
            link.filed = due;
        }
        if verdict != Verdict::Keep {
            self.unlink(now, fire, id, verdict);
        }
    }

    fn each(&mut self, now: Time, fire: &mut Fire, mut what: impl FnMut(&mut Link, &mut Cx<'_>)) {
        for slot in 0..self.slots.len() {
            self.with(now, fire, LinkId(slot as u32), |link, cx| {
                what(link, cx);
                Verdict::Keep
            });
        }
    }
}
