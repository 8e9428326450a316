//! What one peer knows, for people and for metrics: `campfire status`, `campfire why`, `campfire graph` read it (as JSON
//! too). Holds no secret.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_datapath::table::Addressing;
use campfire_fire::Fire;
use campfire_fire::status::Server;
use campfire_protocol::announce::Announcement;
use campfire_protocol::carrier::{Path, SocketId};
use campfire_protocol::certificate::Refusal;
use campfire_protocol::time::Time;
use serde::{Deserialize, Serialize};

use crate::gate;
use crate::io::WhyNotDirect;
use crate::link::Link;
use crate::links::Links;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This peer.
    #[serde(rename = "self")]
    pub own: Own,
    /// What is wrong here, which the shell tells with what it knows itself.
    #[serde(skip)]
    pub problems: Vec<Problem>,
    /// Servers in the list, best first.
    pub servers: Vec<Server>,
    /// Peers that are linked or known, by name.
    pub peers: Vec<Peer>,
    /// Counters by name; they only grow.
    pub counters: BTreeMap<String, u64>,
}

/// What is wrong with this peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Another process uses its identity.
    IdentityShared(&'static str),
    /// Another peer has its IPv4 address.
    AddressTaken(String),
    /// In a certified mesh, its certificate lets it in nowhere.
    NotCertified(&'static str),
}

impl Problem {
    /// For people, with what to do about it.
    pub fn message(&self) -> &str {
        match self {
            Self::IdentityShared(message) | Self::NotCertified(message) => message,
            Self::AddressTaken(message) => message,
        }
    }
}

/// This peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// WireGuard public key, base64.
    pub public_key: String,
    /// Ed25519 public key, hex.
    pub identity: String,
    /// Overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Network id, hex.
    pub network: String,
    /// Name, namespace, cluster; may be empty.
    pub name: String,
    /// See `name`.
    pub namespace: String,
    /// See `name`.
    pub cluster: String,
    /// Keys held, newest first.
    pub fingerprints: Vec<String>,
    /// Where we might be reached from outside, as told to others.
    pub candidates: Vec<SocketAddr>,
    /// Our mapped port differs between servers.
    pub symmetric: bool,
    /// Members of the room, ourselves included, as the servers count.
    pub members: usize,
    /// The room is large: nobody holds the roster, links are made on demand.
    pub large: bool,
}

/// How a peer's packets go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathKind {
    /// No way yet, or no session.
    #[default]
    None,
    /// Straight.
    Direct,
    /// Through a server.
    Relay,
}

/// A peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Name, namespace, cluster; may be empty.
    pub name: String,
    /// See `name`.
    pub namespace: String,
    /// See `name`.
    pub cluster: String,
    /// WireGuard public key, base64.
    pub public_key: String,
    /// Ed25519 public key, hex.
    pub identity: String,
    /// Overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Accepted routes.
    pub routes: Vec<String>,
    /// Names, IPv4 address and routes are certified. Never so in an open mesh: there they are what the peer claims.
    #[serde(default)]
    pub certified: bool,
    /// In a certified mesh, why nothing passes to or from it, if nothing does.
    #[serde(default)]
    pub refusal: Option<Refusal>,
    /// There is a session, and packets pass.
    pub connected: bool,
    /// How packets go.
    pub path: PathKind,
    /// The other end: the peer's address when direct, the server's when relayed.
    pub endpoint: Option<SocketAddr>,
    /// The server in use when relayed.
    pub server: Option<String>,
    /// Why it is not direct, if it is not.
    pub why_not_direct: Option<WhyNotDirect>,
    /// The same in a sentence.
    pub reason: Option<String>,
    /// Round trip on the path in use, milliseconds.
    pub rtt_ms: Option<f64>,
    /// The last handshake, milliseconds ago.
    pub last_handshake_ms: Option<u64>,
    /// The last authentic message, milliseconds ago.
    pub last_received_ms: Option<u64>,
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Fingerprint of the key that the pair uses.
    pub fingerprint: String,
    /// Where the peer says it might be reached.
    pub candidates: Vec<SocketAddr>,
    /// Tries at a direct path.
    pub punch_attempts: u32,
    /// When the next try is due, milliseconds from now.
    pub next_attempt_ms: Option<u64>,
    /// What happened to this link, oldest first; bounded.
    pub history: Vec<Happened>,
}

/// Something that happened to a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// Milliseconds ago.
    pub ago_ms: u64,
    /// What.
    pub what: String,
}

/// Gathers everything.
pub(crate) fn build(now: Time, links: &Links, fire: &Fire) -> Status {
    let addressing = &*links.table().addressing;
    let config = &links.config.fire;
    let own = Own {
        public_key: STANDARD.encode(links.shared.wireguard),
        identity: links.shared.own.to_string(),
        addresses: addressing.own.clone(),
        network: config.network.to_string(),
        name: config.name.clone(),
        namespace: config.namespace.clone(),
        cluster: config.cluster.clone(),
        fingerprints: fire.keys().map(|(_, keys)| keys.fingerprint.to_string()).collect(),
        candidates: if links.shared.forbidden { Vec::new() } else { links.shared.candidates.list(SocketId(0)) },
        symmetric: links.shared.standing(fire).symmetric,
        members: fire.members(),
        large: fire.large(),
    };
    let mut peers: Vec<Peer> = links.iter().map(|link| peer(now, link, links, fire, addressing)).collect();
    let unlinked = fire.peers().filter(|announcement| announcement.has_tunnel() && links.of(&announcement.public_key).is_none());
    peers.extend(unlinked.map(|announcement| Peer {
        name: announcement.name.clone(),
        namespace: announcement.namespace.clone(),
        cluster: announcement.cluster.clone(),
        public_key: STANDARD.encode(announcement.public_key.x25519()),
        identity: announcement.public_key.to_string(),
        addresses: vec![IpAddr::V6(config.network.address(&announcement.public_key))],
        reason: Some("no link yet: made on first traffic".into()),
        ..Peer::default()
    }));
    peers.sort_by(|a, b| (&a.name, &a.public_key).cmp(&(&b.name, &b.public_key)));
    let counters = links.shared.counters.values().chain(fire.counters().iter()).map(|(name, value)| (name.to_owned(), value)).collect();
    let shared = fire.identity_shared().map(Problem::IdentityShared);
    let uncertified = gate::own_fault(&links.shared, &fire.clocks(now)).map(Problem::NotCertified);
    let problems = shared.into_iter().chain(links.ipv4_taken_by().map(Problem::AddressTaken)).chain(uncertified).collect();
    Status { own, problems, servers: fire.servers(now), peers, counters }
}

fn peer(now: Time, link: &Link, links: &Links, fire: &Fire, addressing: &Addressing) -> Peer {
    let announcement = fire.announcement(&link.peer);
    let shared = &links.shared;
    let refusal = link.gate.refusal(shared);
    let certified = link.gate.certified().filter(|_| shared.membership.is_some());
    let why = link.why(shared.standing(fire)).filter(|_| refusal.is_none());
    let ago = |at: Time| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
    let connected = link.established.is_some() && !link.is_silent() && refusal.is_none();
    let (kind, endpoint, server) = way(fire, link.path.filter(|_| connected));
    let (mut addresses, mut routes) = (vec![IpAddr::V6(link.address)], Vec::new());
    for net in addressing.allowed.get(link.id.0 as usize).into_iter().flatten() {
        match net.addr() {
            address if net.prefix_len() != net.max_prefix_len() || addressing.hosts.get(&address) != Some(&link.id) => {
                routes.push(net.to_string());
            }
            address if !addresses.contains(&address) => addresses.push(address),
            _ => {}
        }
    }
    let display = |what: fn(&Announcement) -> &String| announcement.map(what).cloned().unwrap_or_default();
    Peer {
        name: link.name.clone(),
        namespace: certified.map_or_else(|| display(|said| &said.namespace), |certified| certified.peer().namespace.clone()),
        cluster: certified.map_or_else(|| display(|said| &said.cluster), |certified| certified.cluster().into_owned()),
        public_key: STANDARD.encode(link.wireguard),
        identity: link.peer.to_string(),
        addresses,
        routes,
        certified: certified.is_some(),
        refusal,
        connected,
        path: kind,
        endpoint,
        server,
        why_not_direct: why,
        reason: reason(link, why, refusal, connected),
        rtt_ms: link.rtt().map(|rtt| rtt.as_secs_f64() * 1_000.0),
        last_handshake_ms: link.last_handshake.map(ago),
        last_received_ms: link.last_received.map(ago),
        sent_bytes: link.sent_bytes,
        received_bytes: link.received_bytes,
        fingerprint: link.fingerprint.map(|fingerprint| fingerprint.to_string()).unwrap_or_default(),
        candidates: link.told.as_ref().map(|told| told.addresses.clone()).unwrap_or_default(),
        punch_attempts: link.punch.attempt(),
        next_attempt_ms: link.punch.paused_until().map(|until| u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX)),
        history: link.history().map(|(at, what)| Happened { ago_ms: ago(at), what: what.to_owned() }).collect(),
    }
}

/// A path for people: what it is, its other end, and the server that relays.
pub(crate) fn way(fire: &Fire, path: Option<Path>) -> (PathKind, Option<SocketAddr>, Option<String>) {
    match path {
        Some(Path::Direct { remote, .. }) => (PathKind::Direct, Some(remote), None),
        Some(Path::Relay { server, .. }) => (PathKind::Relay, fire.server_address(server), fire.server_name(server).map(str::to_owned)),
        None => (PathKind::None, None, None),
    }
}

/// The state of a link in a sentence.
fn reason(link: &Link, why: Option<WhyNotDirect>, refusal: Option<Refusal>, connected: bool) -> Option<String> {
    if link.established.is_none() {
        return Some(
            if link.path.is_some() { "no answer to our handshake yet" } else { "no common server carries packets to it at present" }.into(),
        );
    }
    if let Some(refusal) = refusal {
        return Some(format!("not let in: {}", refusal.sentence()));
    }
    if !connected {
        return Some("does not answer at present".into());
    }
    let told = link.told.as_ref();
    let sentence = match why {
        None => return None,
        Some(WhyNotDirect::Policy) if told.is_some_and(|told| told.forbidden) => "the other side's configuration forbids direct paths",
        Some(WhyNotDirect::UDPBlocked) if told.is_some_and(|told| told.udp_blocked) => "no UDP gets out at the other side",
        Some(why) => why.sentence(),
    };
    Some(sentence.into())
}
