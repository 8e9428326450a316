//! What a peer is told: who it is, which keys and servers it has, what it may do. Validated by whoever builds it (the
//! shell parses flags and files once); the mesh only clamps what would break its bounds.

use std::sync::Arc;

use campfire_protocol::announce::ServerRecord;
use campfire_protocol::identity::{Identity, NetworkId};
pub use campfire_protocol::key::KeyMode;
use campfire_protocol::key::Keys;
use campfire_protocol::server::Server;
use ipnet::{IpNet, Ipv4Net};

/// A key that is held.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// What is derived from it.
    pub keys: Arc<Keys>,
    /// How it is used.
    pub mode: KeyMode,
}

/// Whether direct paths may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectPolicy {
    /// Wherever they can be had.
    #[default]
    Allow,
    /// Never: everything goes through servers.
    Forbid,
}

/// Bounds on what is held; the defaults are those of docs/protocol.md.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Members held in the roster (in a large room: in the cache of found ones).
    pub members: usize,
    /// Up to this many members a link is made to each at once; above, on first traffic.
    pub eager_links: usize,
    /// Links at the same time.
    pub links: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { members: 512, eager_links: 64, links: 1_024 }
    }
}

/// All that one peer is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its key pair.
    pub identity: Identity,
    /// Keys held, newest first; at least one, at most 4, at least one of them [`KeyMode::Announce`].
    pub keys: Vec<KeyEntry>,
    /// The overlay's id.
    pub network: NetworkId,
    /// The list of servers, a bootstrap: origins may add to it.
    pub servers: Vec<Server>,
    /// Whether addresses of [`Scope::Cluster`](campfire_protocol::server::Scope) can be reached from here.
    pub in_cluster: bool,
    /// Display data; also what it can be found by in a large room. May be empty.
    pub name: String,
    /// Display data; may be empty.
    pub namespace: String,
    /// Display data; may be empty.
    pub cluster: String,
    /// Routes offered to others; at most 8.
    pub routes: Vec<IpNet>,
    /// Routes of others that count if they lie within one of these. Default: none.
    pub accepted_routes: Vec<IpNet>,
    /// The pool of IPv4 addresses, if IPv4 is wanted.
    pub ipv4_pool: Option<Ipv4Net>,
    /// Whether others may link to this member. One that only publishes servers and sees who is there has no tunnel.
    pub tunnel: bool,
    /// Direct paths.
    pub direct: DirectPolicy,
    /// Milliseconds without traffic after which a link made on demand is closed.
    pub idle_close_ms: u64,
    /// The server record that this peer stands for, if it is an origin.
    pub record: Option<ServerRecord>,
    /// Bounds.
    pub limits: Limits,
}

impl Config {
    /// A peer with one announced key and defaults elsewhere.
    pub fn new(identity: Identity, keys: Keys, servers: Vec<Server>) -> Self {
        Self {
            identity,
            network: keys.network,
            keys: vec![KeyEntry { keys: Arc::new(keys), mode: KeyMode::Announce }],
            servers,
            in_cluster: false,
            name: String::new(),
            namespace: String::new(),
            cluster: String::new(),
            routes: Vec::new(),
            accepted_routes: Vec::new(),
            ipv4_pool: None,
            tunnel: true,
            direct: DirectPolicy::default(),
            idle_close_ms: 300_000,
            record: None,
            limits: Limits::default(),
        }
    }
}

/// What may change while the peer runs; `None`: unchanged.
#[derive(Clone, Debug, Default)]
pub struct Reconfigure {
    /// A new list of servers. The best two of the old list are camped on for another hour.
    pub servers: Option<Vec<Server>>,
    /// New keys, newest first (see [`Config::keys`]).
    pub keys: Option<Vec<KeyEntry>>,
    /// New routes offered.
    pub routes: Option<Vec<IpNet>>,
    /// New routes accepted.
    pub accepted_routes: Option<Vec<IpNet>>,
    /// A new server record (origins alone).
    pub record: Option<ServerRecord>,
}
