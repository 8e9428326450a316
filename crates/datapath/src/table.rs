//! What the control plane publishes for the data plane, and what the data plane tells of what it saw.

use std::collections::HashMap;
use std::net::IpAddr;

use campfire_protocol::carrier::{Path, ServerSlot, Via};
use campfire_protocol::time::Time;
use campfire_tunnel::LinkId;
use ipnet::IpNet;

/// What the data plane needs, replaced as a whole when anything in it changes. It is asked two kinds of questions, which have nothing to do with
/// each other: who a peer is ([`holder`](Self::holder), [`admit`](Self::admit)), and how it is reached ([`ways`](Self::ways)).
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Moves with every change.
    pub version: u64,
    /// Our own overlay addresses: IPv6 first, then IPv4 while we hold one. The device carries these, and packets to them
    /// and to [`offered`](Self::offered) alone are taken from links: see [`admit`](Self::admit).
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

/// What a packet from a link must not say of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// That it is from an address that is not the link's.
    Source,
    /// That it is for an address that is neither ours nor on a route that we offer.
    Destination,
}

/// Who a peer is: whose addresses are, and what may come from whom. Knows no path.
impl Table {
    /// Whose an overlay address is: a host's, or else the one with the longest route to it.
    #[inline]
    pub fn holder(&self, address: &IpAddr) -> Option<LinkId> {
        self.hosts.get(address).or_else(|| self.routes.iter().find(|(net, _)| net.contains(address)).map(|(_, link)| link)).copied()
    }

    /// Whether a packet that a link's session carried is taken. What else is to be asked of packets one day is asked here.
    #[inline]
    pub fn admit(&self, link: LinkId, source: &IpAddr, destination: &IpAddr) -> Result<(), Refusal> {
        let entry = self.links.get(link.0 as usize).and_then(Option::as_ref);
        if !entry.is_some_and(|entry| entry.allowed.iter().any(|net| net.contains(source))) {
            return Err(Refusal::Source);
        }
        // Or a peer could reach, through this machine, whatever it routes to.
        if !self.own.contains(destination) && !self.offered.iter().any(|route| route.contains(destination)) {
            return Err(Refusal::Destination);
        }
        Ok(())
    }
}

/// How a peer is reached. Knows no address of the overlay's.
impl Table {
    /// The path that a link's packets take, and the one beside it while that is in doubt.
    #[inline]
    pub fn ways(&self, link: LinkId) -> Option<(Path, Option<Path>)> {
        let entry = self.links.get(link.0 as usize)?.as_ref()?;
        Some((entry.path?, entry.also))
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
