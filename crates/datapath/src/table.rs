//! What the control plane publishes for the data plane, and what the data plane tells of what it saw.

use std::collections::HashMap;
use std::net::IpAddr;

use campfire_protocol::carrier::{Path, ServerSlot, Via};
use campfire_protocol::time::Time;
use campfire_tunnel::LinkId;
use ipnet::IpNet;

/// What the data plane needs, replaced as a whole when anything in it changes.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Moves with every change.
    pub version: u64,
    /// Our own overlay addresses: IPv6 first, then IPv4 while we hold one. The device carries these, and packets to them
    /// and to [`offered`](Self::offered) alone are taken from links: see [`Table::is_ours`].
    pub own: Vec<IpAddr>,
    /// Routes that we offer others.
    pub offered: Vec<IpNet>,
    /// By [`LinkId`]; `None` where no link is.
    pub links: Vec<Option<LinkEntry>>,
    /// Overlay addresses (hosts) and whose they are.
    pub hosts: HashMap<IpAddr, LinkId>,
    /// Accepted routes, longest prefix first.
    pub routes: Vec<(IpNet, LinkId)>,
    /// Where servers send from: ChannelData and STUN are taken from here alone.
    pub servers: HashMap<Via, ServerSlot>,
}

impl Table {
    /// Whether a packet from a link may go to this address: it is ours, or one that we offer a route to.
    #[inline]
    pub fn is_ours(&self, destination: &IpAddr) -> bool {
        self.own.contains(destination) || self.offered.iter().any(|route| route.contains(destination))
    }
}

/// One link as the data plane sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEntry {
    /// Where to send; `None` while there is no way yet.
    pub path: Option<Path>,
    /// When the path is in doubt, data goes here as well.
    pub also: Option<Path>,
    /// The peer's own addresses and accepted routes: a packet with another source is dropped and counted.
    pub allowed: Vec<IpNet>,
}

/// What the data plane saw on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The link.
    pub link: LinkId,
    /// Payload bytes of applications sealed and sent (control packets are not counted).
    pub sent_bytes: u64,
    /// Payload bytes of applications opened.
    pub received_bytes: u64,
    /// When the last authentic message came, and how.
    pub last_received: Option<(Time, Path)>,
    /// When the last message was sent.
    pub last_sent: Option<Time>,
}
