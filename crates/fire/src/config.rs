//! What a member is told: who it is, which keys and servers it has. Validated by whoever builds it (a shell parses flags and
//! files once); the fire only clamps what would break its bounds.

use std::sync::Arc;

use campfire_protocol::announce::ServerRecord;
use campfire_protocol::identity::{Identity, NetworkId};
pub use campfire_protocol::key::KeyMode;
use campfire_protocol::key::Keys;
use campfire_protocol::server::Server;
use ipnet::{IpNet, Ipv4Net};

/// Members held in the roster unless said otherwise.
pub const MEMBERS: usize = 512;

/// A key that is held.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// What is derived from it.
    pub keys: Arc<Keys>,
    /// How it is used.
    pub mode: KeyMode,
}

/// All that a member is told at its start.
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
    /// Servers that others published, as whoever configures us heard: believed no more than if we had heard it ourselves.
    pub heard: Vec<Server>,
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
    /// The pool of IPv4 addresses, if IPv4 is wanted.
    pub ipv4_pool: Option<Ipv4Net>,
    /// Whether others may link to this member. One that only publishes servers and sees who is there has no tunnel.
    pub tunnel: bool,
    /// The server record that this member stands for, if it is an origin.
    pub record: Option<ServerRecord>,
    /// Members held in the roster at most (in a large room: in the cache of found ones).
    pub members: usize,
}

impl Config {
    /// A member with one announced key and defaults elsewhere.
    pub fn new(identity: Identity, keys: Keys, servers: Vec<Server>) -> Self {
        Self {
            identity,
            network: keys.network,
            keys: vec![KeyEntry { keys: Arc::new(keys), mode: KeyMode::Announce }],
            servers,
            heard: Vec::new(),
            in_cluster: false,
            name: String::new(),
            namespace: String::new(),
            cluster: String::new(),
            routes: Vec::new(),
            ipv4_pool: None,
            tunnel: true,
            record: None,
            members: MEMBERS,
        }
    }
}

/// What may change while the member runs; `None`: unchanged.
#[derive(Clone, Debug, Default)]
pub struct Reconfigure {
    /// A new list of servers. The best two of the old list are camped on for up to an hour, if somebody is met there alone.
    pub servers: Option<Vec<Server>>,
    /// What was heard anew (see [`Config::heard`]).
    pub heard: Option<Vec<Server>>,
    /// New keys, newest first (see [`Config::keys`]).
    pub keys: Option<Vec<KeyEntry>>,
    /// New routes offered.
    pub routes: Option<Vec<IpNet>>,
    /// A new server record (origins alone).
    pub record: Option<ServerRecord>,
}
