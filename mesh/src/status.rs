//! What one peer knows, for people and for metrics: `campfire status`, `campfire why`, `campfire graph` read it (as JSON
//! too). Holds no secret.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use campfire_protocol::server::Transport;
use serde::{Deserialize, Serialize};

use crate::io::WhyNotDirect;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This peer.
    #[serde(rename = "self")]
    pub own: Own,
    /// Servers in the list, best first.
    pub servers: Vec<Server>,
    /// Peers that are linked or known, by name.
    pub peers: Vec<Peer>,
    /// Counters by name; they only grow.
    pub counters: BTreeMap<String, u64>,
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

/// What a server is to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerState {
    /// Not tried now.
    #[default]
    Idle,
    /// Being reached.
    Connecting,
    /// We sit there.
    Camped,
    /// It does not answer.
    Lost,
    /// Speaks TURN, not campfire.
    PlainTurn,
}

/// A server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its id.
    pub id: String,
    /// What it is to us.
    pub state: ServerState,
    /// How we reach it.
    pub transport: Option<Transport>,
    /// At which address.
    pub address: Option<SocketAddr>,
    /// Round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Members of the room there.
    pub members: usize,
    /// How it sees us.
    pub observed: Option<SocketAddr>,
    /// What is wrong, for people.
    pub problem: Option<String>,
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
    /// There is a session.
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
