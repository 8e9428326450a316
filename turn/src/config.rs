//! What the core can be told, all of it optional: [`Config::default`] is a server that campers and nobody else may use.

use std::time::Duration;

use ipnet::IpNet;

/// Settings of the core. The shell validates texts; numbers may have any value (zero means none of it).
#[derive(Clone, Debug)]
pub struct Config {
    /// Realm of standard TURN (RFC 8489 §9.2). Campfire methods use a fixed one.
    pub realm: String,
    /// What the server calls itself to campers (CAMP-SERVER-ID): the id that stands in their server lists.
    pub server_id: Option<String>,
    /// SOFTWARE in answers to authenticated requests (never in others: they stay small).
    pub software: Option<String>,
    /// Whether campfire methods are served.
    pub campfire: bool,
    /// Whether nodes of campfire version 1 may meet here (docs/campfire-v1.md).
    pub campfire_v1: bool,
    /// Whether allocations (RFC 8656) are served; without, Allocate is refused with 403.
    pub allocations: bool,
    /// A relay address of this family is configured.
    pub relay_ipv4: bool,
    /// A relay address of this family is configured.
    pub relay_ipv6: bool,
    /// How long a nonce is valid, for standard and campfire methods alike.
    pub nonce_lifetime: Duration,
    /// Which peers an allocation may exchange data with.
    pub peers: PeerPolicy,
    /// Limits of everything that could grow or be flooded.
    pub limits: Limits,
    /// Changes at the fire are collected this long before they are pushed.
    pub coalesce: Duration,
}

/// Which addresses are taken as peers (CreatePermission, ChannelBind, Send). Denied unless allowed: loopback,
/// link-local, cloud metadata, multicast, broadcast, reserved and unspecified addresses, the forms of these that are
/// embedded in IPv6 (v4-mapped, v4-compatible, NAT64, 6to4, Teredo, ISATAP), and private addresses.
///
/// `deny` wins over `allow`, `allow` over the built-in list.
#[derive(Clone, Debug, Default)]
pub struct PeerPolicy {
    /// Allowed although the built-in list denies them.
    pub allow: Vec<IpNet>,
    /// Denied in any case.
    pub deny: Vec<IpNet>,
    /// Allow private addresses (RFC 1918, RFC 6598, RFC 4193), cloud metadata among them excepted. A relay that the
    /// Internet can reach must not be a way into the network behind it, so they are denied by default.
    pub allow_private: bool,
}

/// A token bucket: `rate` tokens a second, at most `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second.
    pub rate: u32,
    /// Most tokens at once.
    pub burst: u32,
}

/// Limits. Each has a counter of refusals in [`Stats`](crate::stats::Stats).
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of state in all, as the core estimates them. When full, newcomers get 508.
    pub memory: usize,
    /// Answers to sources that have proven nothing (Binding; 400, 401, 420, 438), for each /24 or /48.
    pub unproven: Rate,

    /// Allocations in all.
    pub allocations: usize,
    /// Allocations of one user.
    pub allocations_per_user: usize,
    /// Bytes a second that one user's allocations may relay, both directions together.
    pub bandwidth_per_user: Option<u32>,
    /// Permissions of one allocation.
    pub permissions: usize,
    /// Channels of one allocation.
    pub channels: usize,
    /// Longest lifetime of an allocation (RFC 8656 §7.2 recommends an hour).
    pub allocation_lifetime: Duration,

    /// Members in one room.
    pub members: usize,
    /// Rooms of one campfire key.
    pub rooms: usize,
    /// Seats taken anew, for each /24 or /48: each is told to the others in the room.
    pub newcomers: Rate,
    /// Seats on one source address and port.
    pub seats_per_source: usize,
    /// Bytes of a sealed announcement.
    pub announcement: usize,
    /// Longest lifetime of a seat.
    pub seat_lifetime: Duration,
    /// Above this many members a room is large: nobody gets the roster.
    pub large: usize,
    /// Below this many members a large room is small again.
    pub small: usize,
    /// Bindings of one seat.
    pub bindings: usize,
    /// Members of whose changes one member is told in a large room, and members that are told of one's changes.
    pub interest: usize,
    /// Departures remembered for each room (and none for longer than 10 minutes).
    pub departures: usize,
    /// Requests of one member, Signals not counted.
    pub requests: Rate,
    /// Signals of one member.
    pub signals: Rate,
    /// Relay frames delivered as Signals to one member that has not bound.
    pub slow_frames: Rate,
    /// Embers in all: how fast changes are pushed.
    pub embers: Rate,

    /// Waiters and negotiations of version 1 in all.
    pub v1_entries: usize,
    /// The same for one IPv4 address or IPv6 /64.
    pub v1_entries_per_source: usize,
    /// Datagrams of version 1 that are taken from each /24 or /48, and those that are passed on to each.
    pub v1_datagrams: Rate,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            realm: "campfire".to_owned(),
            server_id: None,
            software: None,
            campfire: true,
            campfire_v1: false,
            allocations: true,
            relay_ipv4: true,
            relay_ipv6: false,
            nonce_lifetime: Duration::from_hours(1),
            peers: PeerPolicy::default(),
            limits: Limits::default(),
            coalesce: Duration::from_millis(30),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            unproven: Rate { rate: 1_000, burst: 4_000 },
            allocations: 4_096,
            allocations_per_user: 64,
            bandwidth_per_user: None,
            permissions: 256,
            channels: 256,
            allocation_lifetime: Duration::from_hours(1),
            members: 16_384,
            rooms: 16,
            newcomers: Rate { rate: 200, burst: 20_000 },
            seats_per_source: 8,
            announcement: 700,
            seat_lifetime: Duration::from_mins(1),
            large: 256,
            small: 192,
            bindings: 1_024,
            interest: 256,
            departures: 1_024,
            requests: Rate { rate: 50, burst: 400 },
            signals: Rate { rate: 100, burst: 600 },
            slow_frames: Rate { rate: 200, burst: 200 },
            embers: Rate { rate: 20_000, burst: 512 },
            v1_entries: 4_096,
            v1_entries_per_source: 256,
            v1_datagrams: Rate { rate: 20, burst: 1_000 },
        }
    }
}
