//! One link: this peer's relation to one other. Relayed first, then direct in place, never worse (docs/protocol.md, "A
//! link").

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use campfire_datapath::command::Command;
use campfire_datapath::table::Traffic;
use campfire_fire::{Learned, Seat};
use campfire_protocol::announce::{Announcement, Session};
use campfire_protocol::carrier::{Path, ServerSlot, SocketId};
use campfire_protocol::control::Control;
use campfire_protocol::identity::PublicKey;
use campfire_protocol::key::{Fingerprint, Keys};
use campfire_protocol::time::{Time, UnixMillis, UnixSeconds};
use campfire_tunnel::LinkId;
use ipnet::IpNet;
use rand_core::RngCore as _;

use crate::candidates::canonical;
use crate::gate::Gate;
use crate::io::{Notice, WhyNotDirect};
use crate::liveness::Liveness;
use crate::paths::{Pair, Paths};
use crate::ping;
use crate::punch::{Punch, Step};
use crate::relays::Relays;
use crate::roll::LONG;
use crate::shared::{Cx, Shared};
use crate::table::Claim;

/// Handshakes are started again after these, then every half minute.
const HANDSHAKE_AGAIN: [u64; 5] = [1, 2, 4, 8, 16];
const HANDSHAKE_SLOW: u64 = 30;
/// How long we wait for a newcomer's handshake before we start one.
pub(crate) const NEWCOMER: Duration = Duration::from_secs(1);
/// An answer to a handshake goes the way the question came for this long.
const REPLY: Duration = Duration::from_secs(2);
/// How often a link that is not on its best server looks whether it may be again.
const LOOK: Duration = Duration::from_secs(5);
/// A relay is asked for its size only when no direct path was found meanwhile.
const SIZE_AFTER: Duration = Duration::from_secs(1);
/// Kept until there is a way.
const MAX_WAITING: usize = 8;

/// Where a probe was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Direct(Pair),
    Relay(ServerSlot),
}

/// A probe that is out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) id: u64,
    pub(crate) target: Target,
    pub(crate) at: Time,
    pub(crate) full: bool,
}

/// How a handshake came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Signal(Seat),
    Path(Path),
}

/// What the peer told of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) symmetric: bool,
    pub(crate) udp_blocked: bool,
    pub(crate) forbidden: bool,
    pub(crate) generation: u32,
}

/// Whether large packets come through the relay in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// As far as is known.
    Fine,
    /// Being found out: probes sent, and when the next is due.
    Checking { probes: u8, next: Time },
}

/// What becomes of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    /// The peer said goodbye.
    Goodbye,
    /// No session, no seat: gone.
    Gone,
    /// Idle, and made on demand.
    Idle,
}

/// One link.
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) peer: PublicKey,
    pub(crate) wireguard: [u8; 32],
    /// Ours is the lower WireGuard key: we ask for tries at a direct path.
    pub(crate) lower: bool,
    pub(crate) name: String,
    /// Follows from its key.
    pub(crate) address: Ipv6Addr,
    /// What the newest announcement says.
    pub(crate) session: Session,
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) routes: Vec<IpNet>,
    /// Whether it is let in.
    pub(crate) gate: Gate,
    /// The key that the pair uses.
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) relays: Relays,
    pub(crate) paths: Paths,
    pub(crate) punch: Punch,
    pub(crate) told: Option<Told>,
    pub(crate) probes: VecDeque<Sent>,
    pub(crate) pings: VecDeque<ping::Out>,
    /// There is a session.
    pub(crate) established: Option<Time>,
    pub(crate) last_handshake: Option<Time>,
    next_handshake: Option<Time>,
    initiated: Option<Time>,
    handshakes: usize,
    reply: Option<(Time, Route)>,
    waiting_messages: VecDeque<Vec<u8>>,
    waiting_controls: VecDeque<Vec<u8>>,
    pub(crate) path: Option<Path>,
    pub(crate) also: Option<Path>,
    /// The IPv4 socket of the present try.
    pub(crate) socket: SocketId,
    /// The peer runs anew: what we know of its addresses is void once it has shaken hands.
    restarted: bool,
    /// It has no seat any more.
    pub(crate) departed: bool,
    /// Whether large packets come through the relay.
    pub(crate) size: Size,
    /// The direct path is so much slower than the relay that the relay is used.
    pub(crate) slow: bool,
    look_at: Option<Time>,
    pub(crate) noticed: Option<(Option<SocketAddr>, Option<ServerSlot>, Option<WhyNotDirect>)>,
    pub(crate) last_data: Time,
    pub(crate) last_received: Option<Time>,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) history: VecDeque<(Time, Cow<'static, str>)>,
    /// The deadline under which the collection has filed it.
    pub(crate) filed: Option<Time>,
}

impl Link {
    /// Makes the link and its place in the tunnels. No handshake is started yet.
    pub(crate) fn new(cx: &mut Cx<'_>, id: LinkId, announcement: &Announcement) -> Self {
        let wireguard = announcement.public_key.x25519();
        let mut link = Self {
            id,
            peer: announcement.public_key,
            wireguard,
            lower: cx.shared.wireguard < wireguard,
            name: String::new(),
            address: cx.shared.rules.network.address(&announcement.public_key),
            session: announcement.session,
            ipv4: None,
            routes: Vec::new(),
            gate: Gate::default(),
            fingerprint: None,
            relays: Relays::default(),
            paths: Paths::default(),
            punch: Punch::new(),
            told: None,
            probes: VecDeque::new(),
            pings: VecDeque::new(),
            established: None,
            last_handshake: None,
            next_handshake: None,
            initiated: None,
            handshakes: 0,
            reply: None,
            waiting_messages: VecDeque::new(),
            waiting_controls: VecDeque::new(),
            path: None,
            also: None,
            socket: SocketId(0),
            restarted: false,
            departed: false,
            size: Size::Fine,
            slow: false,
            look_at: None,
            noticed: None,
            last_data: cx.now,
            last_received: None,
            sent_bytes: 0,
            received_bytes: 0,
            history: VecDeque::new(),
            filed: None,
        };
        link.paths.patient = !link.lower;
        link.relays.patient = !link.lower;
        link.take_over(announcement);
        let preshared = link.choose_key(cx, announcement).map(|keys| keys.wireguard_preshared(&cx.shared.wireguard, &wireguard));
        if let Some(preshared) = preshared {
            cx.shared.data(Command::Tunnel(campfire_tunnel::Command::Add { link: id, public_key: wireguard, preshared }));
        }
        link.happened(cx.now, "learned of it at the fire");
        link.seats_changed(cx);
        if cx.shared.membership.is_some() {
            cx.shared.patient_until = Some(cx.now + LONG);
        }
        cx.shared.changed.addressing = true;
        link
    }

    /// Starts a handshake: at once, or when a newcomer has not done so by then.
    pub(crate) fn start(&mut self, cx: &mut Cx<'_>, learned: Learned) {
        if self.established.is_some() && !self.restarted {
            return;
        }
        let at = match learned {
            // Not while an answer may be on its way: a new initiation would make it void.
            Learned::Camp | Learned::Find => self.initiated.map_or(cx.now, |at| cx.now.max(at + NEWCOMER)),
            Learned::Ember => cx.now + NEWCOMER + cx.shared.jitter(NEWCOMER / 4),
        };
        self.next_handshake = Some(self.next_handshake.map_or(at, |next| next.min(at)));
    }

    /// A newer announcement, or a seat more.
    pub(crate) fn announced(&mut self, cx: &mut Cx<'_>, seat: Seat, announcement: &Announcement, learned: Learned) {
        self.departed = false;
        self.relays.reconsider(seat);
        if announcement.session != self.session {
            self.restarted = true;
            self.handshakes = 0;
            self.next_handshake = None;
            self.initiated = None;
            self.happened(cx.now, "it started anew");
        }
        let said = (announcement.session, announcement.ipv4, &announcement.routes);
        cx.shared.changed.addressing |= said != (self.session, self.ipv4, &self.routes);
        self.take_over(announcement);
        self.rekey(cx, announcement);
        self.start(cx, learned);
        self.seats_changed(cx);
    }

    fn take_over(&mut self, announcement: &Announcement) {
        self.session = announcement.session;
        self.ipv4 = announcement.ipv4;
        self.routes.clone_from(&announcement.routes);
        if self.gate.certified().is_none() {
            self.name = if announcement.name.is_empty() { short(&self.wireguard) } else { announcement.name.clone() };
        }
    }

    /// The addresses and routes that it claims, as its announcement or, in a certified mesh, its certificate says; none while its gate is
    /// shut.
    pub(crate) fn claim(&self, shared: &Shared) -> Option<Claim<'_>> {
        let open =
            Claim { link: self.id, peer: self.peer, seniority: self.session, address: self.address, ipv4: self.ipv4, routes: &self.routes };
        if shared.membership.is_none() {
            return Some(open);
        }
        let certified = self.gate.certified()?;
        let (ipv4, routes) = (certified.peer().ipv4, &certified.peer().routes);
        Some(Claim { seniority: born(certified.since()), ipv4, routes, ..open })
    }

    /// The newest key that both hold, newest in the order of the side with the lower key: so both choose the same one.
    fn choose_key<'a>(&mut self, cx: &'a Cx<'_>, announcement: &Announcement) -> Option<&'a Keys> {
        let ours = || cx.fire.keys().map(|(_, keys)| keys);
        let theirs = &announcement.fingerprints;
        let common = if self.lower {
            ours().find(|keys| theirs.contains(&keys.fingerprint))
        } else {
            theirs.iter().find_map(|fingerprint| ours().find(|keys| keys.fingerprint == *fingerprint))
        };
        let key = common.or(ours().next())?;
        self.fingerprint = Some(key.fingerprint);
        Some(key)
    }

    /// The keys of one side changed: the pair uses the newest common one from the next handshake on.
    pub(crate) fn rekey(&mut self, cx: &mut Cx<'_>, announcement: &Announcement) {
        let before = self.fingerprint;
        let preshared = self.choose_key(cx, announcement).map(|keys| keys.wireguard_preshared(&cx.shared.wireguard, &self.wireguard));
        if let Some(preshared) = preshared.filter(|_| self.fingerprint != before) {
            cx.shared.data(Command::Tunnel(campfire_tunnel::Command::Rekey { link: self.id, preshared }));
            self.happened(cx.now, "the pair moves to a newer key");
            if self.established.is_some() && self.lower {
                cx.shared.initiations.push_back(self.id);
            }
        }
    }

    /// Seats came or went, or servers.
    pub(crate) fn seats_changed(&mut self, cx: &mut Cx<'_>) {
        let seats = cx.fire.seats(&self.peer);
        // A departure is a hint: while a session lives its last way is kept.
        if !(seats.is_empty() && self.established.is_some()) {
            for gone in self.relays.order(cx.now, &seats) {
                cx.fire.release(cx.now, &gone);
            }
        }
        self.choose_relay(cx);
    }

    /// Servers became doubtful or sound, or time passed.
    pub(crate) fn choose_relay(&mut self, cx: &mut Cx<'_>) {
        for seat in self.relays.choose(cx.now, &cx.shared.doubts) {
            self.bind(cx, seat);
        }
        if self.relays.at_best() {
            self.look_at = None;
        } else if self.look_at.is_none() {
            self.look_at = Some(cx.now + LOOK);
        }
        self.update_path(cx);
    }

    fn bind(&mut self, cx: &mut Cx<'_>, seat: Seat) {
        cx.fire.bind(cx.now, &seat);
        if let Some(path) = cx.fire.relay_path(&seat) {
            self.relays.bound(cx.now, seat, path);
            self.relays.choose(cx.now, &cx.shared.doubts);
        }
    }

    /// The server gave a channel.
    pub(crate) fn bound(&mut self, cx: &mut Cx<'_>, seat: Seat) {
        if let Some(path) = cx.fire.relay_path(&seat) {
            self.relays.bound(cx.now, seat, path);
            self.choose_relay(cx);
        }
    }

    /// The server refused, or does not know the seat.
    pub(crate) fn unreachable(&mut self, cx: &mut Cx<'_>, seat: Seat, code: u16) {
        if self.relays.contains(&seat) {
            self.happened(cx.now, format!("a server refused the way to it ({code})"));
        }
        self.relays.refused(cx.now, seat);
        self.choose_relay(cx);
        if self.established.is_none() && self.relays.signal_seat(cx.now, &cx.shared.doubts).is_some_and(|other| other != seat) {
            // Not by waiting for the next try: the other server is asked at once.
            self.initiated = None;
            self.next_handshake = self.next_handshake.map(|next| next.min(cx.now + Duration::from_millis(100)));
        }
    }

    /// Channels of a room on a server have to be bound again.
    pub(crate) fn void(&mut self, cx: &mut Cx<'_>, server: ServerSlot, room: u8) {
        self.relays.void(cx.now, server, room);
        self.seats_changed(cx);
    }

    /// The peer sends through this seat: what goes back takes the fast way too.
    pub(crate) fn follow(&mut self, cx: &mut Cx<'_>, seat: Seat) {
        if self.relays.follow(cx.now, seat) {
            self.bind(cx, seat);
        }
    }

    /// An initiation of the peer's came this way.
    pub(crate) fn initiation_came(&mut self, now: Time, route: Route) {
        self.reply = Some((now + REPLY, route));
        // One of two suffices: ours waits.
        self.next_handshake = self.next_handshake.map(|next| next.max(now + NEWCOMER));
    }

    /// A message of the tunnel's own: a handshake goes by Signal until there is a session, all else on the path.
    pub(crate) fn send_message(&mut self, cx: &mut Cx<'_>, message: Vec<u8>) {
        match message.first() {
            Some(1) => {
                let by_signal = self.established.is_none() || self.restarted || self.path.is_none();
                let seat = self.relays.signal_seat(cx.now, &cx.shared.doubts);
                if let (true, Some(seat)) = (by_signal, seat) {
                    cx.fire.signal(cx.now, &seat, message.clone());
                }
                if let (false, Some(path)) = (by_signal, self.path) {
                    self.push(cx, path, message);
                }
            }
            Some(2 | 3) => match self.reply.filter(|(until, _)| *until >= cx.now) {
                Some((_, Route::Signal(seat))) => cx.fire.signal(cx.now, &seat, message),
                Some((_, Route::Path(path))) => cx.shared.data(Command::SendMessage { path, message }),
                None => {
                    if let Some(path) = self.path {
                        self.push(cx, path, message);
                    }
                }
            },
            Some(_) => match self.path {
                Some(path) => self.push(cx, path, message),
                None if self.waiting_messages.len() < MAX_WAITING => self.waiting_messages.push_back(message),
                None => cx.shared.counters.count("messages_without_path"),
            },
            None => {}
        }
    }

    fn push(&self, cx: &mut Cx<'_>, path: Path, message: Vec<u8>) {
        if let Some(also) = self.also {
            cx.shared.data(Command::SendMessage { path: also, message: message.clone() });
        }
        cx.shared.data(Command::SendMessage { path, message });
    }

    /// Says something in the tunnel.
    pub(crate) fn say(&mut self, cx: &mut Cx<'_>, control: &Control) {
        if !self.passes(cx.shared, control) {
            return;
        }
        let payload = control.encode();
        let Some(path) = self.path else {
            if self.waiting_controls.len() < MAX_WAITING {
                self.waiting_controls.push_back(payload);
            }
            return;
        };
        if let Some(also) = self.also {
            cx.shared.data(Command::SendControl { link: self.id, path: also, payload: payload.clone() });
        }
        cx.shared.data(Command::SendControl { link: self.id, path, payload });
    }

    /// The session is usable.
    pub(crate) fn session_established(&mut self, cx: &mut Cx<'_>) {
        let first = self.established.is_none();
        self.established = Some(self.established.unwrap_or(cx.now));
        self.last_handshake = Some(cx.now);
        self.last_received = Some(cx.now);
        self.next_handshake = None;
        self.handshakes = 0;
        if !first && !self.restarted {
            return;
        }
        if self.restarted {
            self.restarted = false;
            self.paths.clear();
            self.told = None;
        }
        self.last_data = cx.now;
        self.happened(cx.now, "session established");
        if self.path.is_none() {
            // The answer to our Bind is on its way; or the table must show the way anew.
            self.choose_relay(cx);
        }
        self.update_path(cx);
        self.introduce(cx);
        if self.is_open(cx.shared) {
            self.begin(cx);
        }
    }

    /// There is a session, and the gate is open: from here on all that links do is done.
    pub(crate) fn begin(&mut self, cx: &mut Cx<'_>) {
        self.punch.restart(self.lower, cx.now);
        self.notice(cx);
        if cx.shared.forbidden {
            let candidates = cx.own_candidates(SocketId(0));
            self.say(cx, &candidates);
            self.punch.rest();
        }
        self.ping_relay(cx);
    }

    /// No session is left.
    pub(crate) fn session_expired(&mut self, cx: &mut Cx<'_>) -> Verdict {
        if self.established.take().is_some() {
            self.happened(cx.now, "session expired");
            cx.shared.notice(Notice::PeerGone { peer: self.name.clone(), reason: "fell silent".into() });
        }
        self.noticed = None;
        self.paths.clear();
        self.punch.rest();
        self.seats_changed(cx);
        if self.departed {
            return Verdict::Gone;
        }
        if !cx.shared.eager && cx.now.since(self.last_data) > cx.shared.idle_close / 2 {
            return Verdict::Idle;
        }
        self.handshakes = HANDSHAKE_AGAIN.len();
        self.next_handshake = Some(cx.now + cx.shared.jitter(Duration::from_secs(HANDSHAKE_SLOW)));
        Verdict::Keep
    }

    /// An application wants it now.
    pub(crate) fn wanted(&mut self, cx: &mut Cx<'_>) {
        self.last_data = cx.now;
        if self.established.is_none() && self.next_handshake.is_none_or(|next| next > cx.now + NEWCOMER) {
            self.handshakes = 0;
            self.next_handshake = Some(cx.now);
        }
    }

    /// What the data plane saw. Gives the server to which data was sent, and when, for the fire.
    pub(crate) fn traffic(&mut self, cx: &mut Cx<'_>, traffic: &Traffic) {
        self.sent_bytes = self.sent_bytes.saturating_add(traffic.sent_bytes);
        self.received_bytes = self.received_bytes.saturating_add(traffic.received_bytes);
        if let Some((at, path)) = traffic.last_received {
            self.heard(cx, at, path);
        }
        let used = traffic.sent_bytes > 0 || traffic.received_bytes > 0;
        if used {
            self.last_data = cx.now;
        }
        if let Some(live) = self.live() {
            if let Some(at) = traffic.last_sent {
                live.sent(at);
            }
            if used {
                live.used(cx.now);
            }
        }
        if let (Some(Path::Relay { server, .. }), Some(at)) = (self.path, traffic.last_sent) {
            cx.fire.note_traffic(cx.now, server, Some(at), None);
        }
        if let Some((at, Path::Relay { server, .. })) = traffic.last_received {
            cx.fire.note_traffic(cx.now, server, None, Some(at));
        }
    }

    /// Liveness of the path in use.
    fn live(&mut self) -> Option<&mut Liveness> {
        match self.path? {
            Path::Direct { socket, remote } => self.paths.get(Pair { socket, remote }).map(|direct| &mut direct.live),
            Path::Relay { server, .. } => self.relays.live(server),
        }
    }

    /// Something authentic came.
    pub(crate) fn heard(&mut self, cx: &mut Cx<'_>, at: Time, path: Path) {
        self.last_received = self.last_received.max(Some(at));
        match path {
            Path::Direct { socket, remote } => {
                let pair = Pair { socket, remote: canonical(remote) };
                match self.paths.get(pair) {
                    Some(direct) => direct.live.heard(at),
                    None => self.surprise(cx, pair),
                }
            }
            Path::Relay { server, .. } => {
                if self.relays.heard(at, server) {
                    self.choose_relay(cx);
                }
            }
        }
    }

    /// What is due.
    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) -> Verdict {
        let now = cx.now;
        if self.idles(cx) {
            return Verdict::Idle;
        }
        if self.departed && self.established.is_none() {
            return Verdict::Gone;
        }
        if self.next_handshake.is_some_and(|next| next <= now) {
            let pause = Duration::from_secs(HANDSHAKE_AGAIN.get(self.handshakes).copied().unwrap_or(HANDSHAKE_SLOW));
            self.handshakes += 1;
            self.initiated = Some(now);
            self.next_handshake = Some(now + pause + cx.shared.jitter(pause / 4));
            cx.shared.initiations.push_back(self.id);
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.seats_changed(cx);
        }
        self.tend_gate(cx);
        if self.established.is_some() && self.is_open(cx.shared) {
            self.ping(cx);
            self.check_size(cx);
        }
        for pair in self.paths.full_again(now) {
            self.probe(cx, Target::Direct(pair), true);
        }
        let direct = self.paths.current().is_some();
        let hopeless = cx.standing().symmetric || self.told.as_ref().is_some_and(|told| told.symmetric);
        let jitter = cx.shared.rng.next_u32() % 1_001;
        match self.punch.tick(now, self.lower, direct, hopeless, jitter) {
            Some(Step::Ask) => self.ask(cx),
            Some(Step::AskAgain) => {
                let candidates = cx.own_candidates(self.socket);
                self.say(cx, &candidates);
                self.say(cx, &Control::Punch { attempt: self.punch.attempt() });
            }
            Some(Step::Refuse) => self.say(cx, &Control::PunchAck { attempt: self.punch.attempt(), ready: false }),
            Some(Step::Round(round)) => self.round(cx, round),
            Some(Step::Failed) => {
                self.paths.failed();
                let why = self.why(cx.standing());
                self.happened(now, format!("no direct path: {}", why.map_or("the reason is not known", WhyNotDirect::sentence)));
                self.notice(cx);
            }
            None => {}
        }
        self.choose_relay(cx);
        Verdict::Keep
    }

    /// Pings what is due, and draws the consequences of those that were missed.
    fn ping(&mut self, cx: &mut Cx<'_>) {
        if let Some(Path::Relay { server, .. }) = self.path
            && let Some(live) = self.relays.live(server)
            && live.ping(cx.now)
        {
            if live.misses_pings() {
                cx.doubt(server);
            }
            self.probe(cx, Target::Relay(server), false);
        }
        for pair in self.paths.pings(cx.now) {
            self.probe(cx, Target::Direct(pair), false);
        }
        self.paths.choose();
        if self.paths.prune(self.relays.path().is_some()) && self.paths.current().is_none() {
            self.happened(cx.now, "the direct path died");
            self.punch.restart(self.lower, cx.now + NEWCOMER);
            if !self.lower {
                let candidates = cx.own_candidates(SocketId(0));
                self.update_path(cx);
                self.say(cx, &candidates);
            }
        }
    }

    /// When something is due.
    pub(crate) fn due(&self, cx: &Cx<'_>) -> Option<Time> {
        let open = self.established.is_some() && self.is_open(cx.shared);
        let relay_ping = match self.path {
            Some(Path::Relay { .. }) if open => self.relays.ping_due(),
            _ => None,
        };
        let size = match self.size {
            Size::Checking { next, .. } if open => Some(next),
            Size::Checking { .. } | Size::Fine => None,
        };
        let idle = (!cx.shared.eager).then_some(self.last_data + cx.shared.idle_close);
        let gone = (self.departed && self.established.is_none()).then_some(cx.now);
        let dues = [
            self.next_handshake,
            self.look_at,
            self.relays.next_choice(cx.now),
            relay_ping,
            size,
            self.paths.due(),
            self.punch.due(),
            self.gate.due(self.established.is_some()),
            idle,
            gone,
        ];
        dues.into_iter().flatten().min()
    }

    fn idles(&self, cx: &Cx<'_>) -> bool {
        !cx.shared.eager && cx.now.since(self.last_data) >= cx.shared.idle_close
    }

    /// Our own addresses changed: the peer is told, and a pause need not be sat out.
    pub(crate) fn own_changed(&mut self, cx: &mut Cx<'_>) {
        if self.established.is_some() && self.is_open(cx.shared) {
            let candidates = cx.own_candidates(SocketId(0));
            self.say(cx, &candidates);
            self.punch.hurry(self.lower, cx.now + NEWCOMER);
        }
    }

    /// A socket is gone.
    pub(crate) fn socket_closed(&mut self, cx: &mut Cx<'_>, socket: SocketId) {
        if self.paths.close(socket) && self.paths.current().is_none() && self.is_open(cx.shared) {
            self.punch.restart(self.lower, cx.now + NEWCOMER);
        }
        self.update_path(cx);
    }

    /// The link ends: its bindings are released.
    pub(crate) fn end(&mut self, cx: &mut Cx<'_>) {
        let bound: Vec<Seat> = self.relays.bound_seats().collect();
        for seat in bound {
            cx.fire.release(cx.now, &seat);
        }
        cx.shared.data(Command::Tunnel(campfire_tunnel::Command::Remove { link: self.id }));
        cx.shared.changed.addressing = true;
        cx.shared.changed.ways.push(self.id);
    }

    /// Whether the direct path is much slower than the relay, with some distance between going and coming back.
    fn is_slower_than_relay(&mut self, now: Time, pair: Pair) -> bool {
        let Some(relay) = self.relays.current().and_then(|live| live.rtt.least()) else { return false };
        let bound = if self.slow { relay * 3 / 2 + Duration::from_millis(15) } else { relay * 2 + Duration::from_millis(30) };
        self.paths.get(pair).is_some_and(|direct| direct.live.takes_longer(now, bound))
    }

    /// Puts the path in force that the state of things asks for.
    pub(crate) fn update_path(&mut self, cx: &mut Cx<'_>) {
        let relay = self.relays.path();
        let (path, also) = match self.paths.current() {
            Some(direct) if direct.live.in_doubt() => (Some(direct.pair.path()), relay),
            Some(direct) => {
                let pair = direct.pair;
                self.slow = relay.is_some() && self.is_slower_than_relay(cx.now, pair);
                (if self.slow { relay } else { Some(pair.path()) }, None)
            }
            None => (relay, self.relays.spare(cx.now, &cx.shared.doubts)),
        };
        if (path, also) == (self.path, self.also) {
            return;
        }
        if path != self.path {
            self.size = Size::Checking { probes: 0, next: cx.now + SIZE_AFTER };
        }
        self.path = path;
        self.also = also;
        cx.shared.changed.ways.push(self.id);
        self.notice(cx);
        if path.is_some() {
            for message in std::mem::take(&mut self.waiting_messages) {
                self.send_message(cx, message);
            }
            for payload in std::mem::take(&mut self.waiting_controls) {
                if let Some(path) = self.path {
                    cx.shared.data(Command::SendControl { link: self.id, path, payload });
                }
            }
            if self.established.is_some() && self.relays.rtt().is_none() && self.probes.is_empty() {
                self.ping_relay(cx);
            }
        }
    }
}

/// Seniority by the time at which a peer was born, in place of the run's.
pub(crate) fn born(UnixSeconds(born): UnixSeconds) -> Session {
    Session { started: UnixMillis(born.saturating_mul(1_000)), nonce: 0 }
}

/// A key's first characters, for people.
pub(crate) fn short(wireguard: &[u8; 32]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(wireguard).chars().take(8).collect()
}
