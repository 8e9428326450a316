//! What the control plane publishes for the data plane, and what the data plane tells of what it saw.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use campfire_protocol::carrier::{Path, ServerSlot, Via};
use campfire_protocol::time::Time;
use campfire_tunnel::LinkId;
use ipnet::IpNet;

/// What the data plane needs, in parts that change for reasons of their own: a path that moves copies no address, and an address that
/// comes computes no path. Cloned by three counts; the data plane holds a clone and takes the next one between two batches.
#[derive(Clone, Debug)]
pub struct Table {
    /// Moves with every change of any part.
    pub version: u64,
    /// Who each peer is.
    pub addressing: Arc<Addressing>,
    /// How each peer is reached, by [`LinkId`].
    pub ways: Arc<[Way]>,
    /// Where servers send from: ChannelData and STUN are taken from here alone.
    pub servers: Arc<HashMap<Via, ServerSlot>>,
    /// Whoever has an address that is asked for has a link within this time: one without is nobody's. `None` while that cannot be known.
    pub found_within: Option<Duration>,
}

/// Whose addresses and routes are whose: what a packet may be sent to, and taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addressing {
    /// Our own overlay addresses: IPv6 first, then IPv4 while we hold one. The device carries these, and packets to them
    /// and to [`offered`](Self::offered) alone are taken from links: see [`Table::is_ours`].
    pub own: Vec<IpAddr>,
    /// Routes that we offer others.
    pub offered: Vec<IpNet>,
    /// By [`LinkId`], the peer's own addresses and accepted routes: a packet with another source is dropped and counted. Empty where
    /// no link is, and where nothing is let in from the peer.
    pub allowed: Vec<Vec<IpNet>>,
    /// Overlay addresses (hosts) and whose they are.
    pub hosts: HashMap<IpAddr, LinkId>,
    /// Accepted routes, longest prefix first.
    pub routes: Vec<(IpNet, LinkId)>,
}

/// How a link's packets go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Where to send; `None` while there is no way yet, or no link.
    pub path: Option<Path>,
    /// When the path is in doubt, data goes here as well.
    pub also: Option<Path>,
}

impl Default for Table {
    /// Nobody is there yet.
    fn default() -> Self {
        Self { version: 0, addressing: Arc::default(), ways: Arc::from([]), servers: Arc::default(), found_within: None }
    }
}

impl Table {
    /// Whose an address is: its holder's, else that of the longest route to it.
    #[inline]
    pub fn link_to(&self, destination: &IpAddr) -> Option<LinkId> {
        let Addressing { hosts, routes, .. } = &*self.addressing;
        hosts.get(destination).copied().or_else(|| routes.iter().find(|(net, _)| net.contains(destination)).map(|(_, link)| *link))
    }

    /// How a link's packets go; `None` where it has never been heard of.
    #[inline]
    pub fn way(&self, link: LinkId) -> Option<&Way> {
        self.ways.get(link.0 as usize)
    }

    /// Whether a packet from this link may have this source: the peer's own address, or one on a route of its that is accepted.
    #[inline]
    pub fn allows(&self, link: LinkId, source: &IpAddr) -> bool {
        self.addressing.allowed.get(link.0 as usize).is_some_and(|allowed| allowed.iter().any(|net| net.contains(source)))
    }

    /// Whether a packet from a link may go to this address: it is ours, or one that we offer a route to.
    #[inline]
    pub fn is_ours(&self, destination: &IpAddr) -> bool {
        let Addressing { own, offered, .. } = &*self.addressing;
        own.contains(destination) || offered.iter().any(|route| route.contains(destination))
    }

    /// The server that sends from there.
    #[inline]
    pub fn server(&self, via: &Via) -> Option<ServerSlot> {
        self.servers.get(via).copied()
    }

    /// Links from which something is let in have ids below this.
    #[inline]
    pub fn links(&self) -> usize {
        self.addressing.allowed.len()
    }
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
    /// When applications' payload was last sent (not control packets: nobody answers an answer).
    pub last_sent: Option<Time>,
}
