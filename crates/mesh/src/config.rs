//! What a peer is told: what its place at the fire needs, and what it may do with others. Validated by whoever builds it (the
//! shell parses flags and files once); the mesh only clamps what would break its bounds.

use campfire_protocol::certificate::{Chain, RootPublic};
use campfire_protocol::identity::Identity;
use campfire_protocol::key::Keys;
use campfire_protocol::server::Server;
use ipnet::IpNet;

/// Milliseconds without traffic after which a link made on demand is closed, unless said otherwise.
pub const IDLE_CLOSE_MS: u64 = 300_000;

/// MTU of the overlay's interface, bytes, unless said otherwise: IPv6's least.
pub const MTU: u16 = 1_280;

/// Whether direct paths may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectPolicy {
    /// Wherever they can be had.
    #[default]
    Allow,
    /// Never: everything goes through servers.
    Forbid,
}

/// Bounds on links; the defaults are those of docs/protocol.md.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Up to this many members a link is made to each at once; above, on first traffic.
    pub eager_links: usize,
    /// Links at the same time.
    pub links: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { eager_links: 64, links: 1_024 }
    }
}

/// Who belongs to a certified mesh, and what shows that we do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Whose word counts: at least one; two while the root changes.
    pub roots: Vec<RootPublic>,
    /// What we show to others; `None`: not certified yet, nobody lets us in.
    pub chain: Option<Chain>,
}

/// All that one peer is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who it is, its keys and servers, what it announces.
    pub fire: campfire_fire::config::Config,
    /// Routes of others that count if they lie within one of these. Default: none.
    pub accepted_routes: Vec<IpNet>,
    /// Direct paths.
    pub direct: DirectPolicy,
    /// Milliseconds without traffic after which a link made on demand is closed.
    pub idle_close_ms: u64,
    /// MTU of the overlay's interface, bytes: a path carries data when packets of this size have come through.
    pub mtu: u16,
    /// Bounds.
    pub limits: Limits,
    /// `None`: the mesh is open to whoever holds its key.
    pub membership: Option<Membership>,
}

impl Config {
    /// A peer with one announced key and defaults elsewhere.
    pub fn new(identity: Identity, keys: Keys, servers: Vec<Server>) -> Self {
        Self {
            fire: campfire_fire::config::Config::new(identity, keys, servers),
            accepted_routes: Vec::new(),
            direct: DirectPolicy::default(),
            idle_close_ms: IDLE_CLOSE_MS,
            mtu: MTU,
            limits: Limits::default(),
            membership: None,
        }
    }
}

/// What may change while the peer runs; `None`: unchanged.
#[derive(Clone, Debug, Default)]
pub struct Reconfigure {
    /// At the fire.
    pub fire: campfire_fire::config::Reconfigure,
    /// New routes accepted.
    pub accepted_routes: Option<Vec<IpNet>>,
    /// Other roots, or a new chain.
    pub membership: Option<Membership>,
}
