//! The network: hosts and gateways in a tree whose root is the internet, and how a UDP packet finds its way through it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use campfire_protocol::time::Time;

use crate::link::{Link, LinkState};
use crate::nat::{Nat, Table};
use crate::random::Random;

/// A host or a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// A UDP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// From where (rewritten by NATs).
    pub source: SocketAddr,
    /// To where (rewritten by NATs).
    pub destination: SocketAddr,
    /// What.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Size on the wire with IP and UDP headers.
    pub fn size(&self) -> usize {
        self.payload.len() + if self.source.is_ipv4() { 28 } else { 48 }
    }
}

/// Where a packet is next.
#[derive(Debug)]
pub enum Hop {
    /// It arrives at a node from above, or from beside.
    Arrive(NodeId, Packet),
    /// It comes to a gateway from inside.
    Inside(NodeId, Packet),
}

/// What TCP connections a gateway lets out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tcp {
    /// All.
    #[default]
    Any,
    /// To these ports.
    Only(u16),
    /// None.
    None,
}

/// Packets and bytes that crossed the network, and those that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Packets sent by hosts.
    pub sent: u64,
    /// Packets delivered to hosts.
    pub delivered: u64,
    /// Lost on links (loss, queue, MTU, link down).
    pub lost: u64,
    /// Dropped by gateways.
    pub filtered: u64,
    /// Nobody has the address, or a partition lies between.
    pub unroutable: u64,
}

#[derive(Debug)]
struct Node {
    parent: Option<NodeId>,
    /// The ancestor that hangs on the internet, or the node itself.
    top: NodeId,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    link: LinkState,
    gateway: Option<Gateway>,
}

#[derive(Debug)]
struct Gateway {
    nat: Option<(Nat, Table)>,
    /// Inside hosts' routed (untranslated) flows: what the stateful firewall lets back in.
    flows: HashMap<(SocketAddr, SocketAddr), Time>,
    udp: bool,
    tcp: Tcp,
    local: HashMap<IpAddr, NodeId>,
    /// Moves when all state is forgotten: breaks TCP connections.
    epoch: u32,
    v6: bool,
    lan: u32,
    hosts: u32,
}

/// How long a stateful firewall remembers a flow.
const FIREWALL_TIMEOUT: Duration = Duration::from_mins(2);

/// All nodes and links.
#[derive(Debug, Default)]
pub struct Network {
    nodes: Vec<Node>,
    internet: HashMap<IpAddr, NodeId>,
    /// Pairs of top-level nodes that cannot reach each other.
    cuts: HashSet<(NodeId, NodeId)>,
    public_addresses: u32,
    /// Counts.
    pub counters: NetCounters,
}

/// What a gateway is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatewaySpec {
    /// IPv4 NAT; `None`: no IPv4 at all.
    pub nat: Option<Nat>,
    /// Routed IPv6 behind a stateful firewall.
    pub v6: bool,
    /// Whether UDP may leave.
    pub udp: bool,
    /// Which TCP may leave.
    pub tcp: Tcp,
    /// Its link to the outside.
    pub link: Link,
}

impl Network {
    /// Adds a gateway below `parent` (`None`: the internet).
    pub fn add_gateway(&mut self, parent: Option<NodeId>, spec: &GatewaySpec) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        let gateway = Gateway {
            nat: spec.nat.map(|nat| (nat, Table::new(&nat))),
            flows: HashMap::new(),
            udp: spec.udp,
            tcp: spec.tcp,
            local: HashMap::new(),
            epoch: 0,
            v6: spec.v6,
            lan: u32::from(Ipv4Addr::new(10, 0, 0, 0)) + ((id.0 << 8) & 0x00ff_ff00),
            hosts: 1,
        };
        self.add(parent, spec.nat.is_some(), false, spec.link, Some(gateway))
    }

    /// Adds a host below `parent`. It has the families that its gateway has; on the internet those asked for.
    pub fn add_host(&mut self, parent: Option<NodeId>, v4: bool, v6: bool, link: Link) -> NodeId {
        let (v4, v6) = match parent.and_then(|parent| self.gateway(parent)) {
            Some(gateway) => (gateway.nat.is_some(), gateway.v6),
            None => (v4, v6),
        };
        self.add(parent, v4, v6, link, None)
    }

    fn add(&mut self, parent: Option<NodeId>, v4: bool, v6: bool, link: Link, gateway: Option<Gateway>) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        let v4 = v4.then(|| self.next_address(parent));
        let v6 = v6.then(|| Ipv6Addr::from(0x2a00_0c0f_0000_0000_0000_0000_0000_0000_u128 + u128::from(id.0)));
        let top = parent.map_or(id, |parent| self.nodes[parent.0 as usize].top);
        self.nodes.push(Node { parent, top, v4, v6, link: LinkState::new(link), gateway });
        if let Some(v4) = v4 {
            self.realm_mut(parent).insert(v4.into(), id);
        }
        // IPv6 is routed, so every realm above knows the way down.
        let (mut below, mut realm) = (id, parent);
        while let Some(v6) = v6 {
            self.realm_mut(realm).insert(v6.into(), below);
            let Some(gateway) = realm else { break };
            (below, realm) = (gateway, self.nodes[gateway.0 as usize].parent);
        }
        id
    }

    fn next_address(&mut self, parent: Option<NodeId>) -> Ipv4Addr {
        if let Some(gateway) = parent.and_then(|parent| self.nodes[parent.0 as usize].gateway.as_mut()) {
            gateway.hosts += 1;
            return Ipv4Addr::from(gateway.lan + gateway.hosts);
        }
        self.public_addresses += 1;
        Ipv4Addr::from(u32::from(Ipv4Addr::new(20, 0, 0, 0)) + self.public_addresses)
    }

    fn realm_mut(&mut self, realm: Option<NodeId>) -> &mut HashMap<IpAddr, NodeId> {
        match realm.and_then(|gateway| self.nodes[gateway.0 as usize].gateway.as_mut()) {
            Some(gateway) => &mut gateway.local,
            None => &mut self.internet,
        }
    }

    fn gateway(&self, node: NodeId) -> Option<&Gateway> {
        self.nodes[node.0 as usize].gateway.as_ref()
    }

    /// A node's addresses in its realm.
    pub fn addresses(&self, node: NodeId) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let node = &self.nodes[node.0 as usize];
        (node.v4, node.v6)
    }

    /// The gateway that a node is behind.
    pub fn parent(&self, node: NodeId) -> Option<NodeId> {
        self.nodes[node.0 as usize].parent
    }

    /// A node's link, to change it.
    pub fn link_mut(&mut self, node: NodeId) -> &mut LinkState {
        &mut self.nodes[node.0 as usize].link
    }

    /// The node through which `node` hangs on the internet.
    pub fn top(&self, node: NodeId) -> NodeId {
        self.nodes[node.0 as usize].top
    }

    /// Blocks or lets UDP and TCP through a gateway.
    pub fn police(&mut self, gateway: NodeId, udp: bool, tcp: Tcp) {
        if let Some(gateway) = &mut self.nodes[gateway.0 as usize].gateway {
            (gateway.udp, gateway.tcp) = (udp, tcp);
        }
    }

    /// Numbers the hosts to come inside a gateway from this address on (so that two LANs can share addresses).
    pub fn number_from(&mut self, gateway: NodeId, lan: Ipv4Addr) {
        if let Some(gateway) = &mut self.nodes[gateway.0 as usize].gateway {
            (gateway.lan, gateway.hosts) = (lan.into(), 0);
        }
    }

    /// Makes a gateway forget all flows; with `readdress` it also moves to another outside address.
    pub fn rebind(&mut self, gateway: NodeId, readdress: bool) {
        let node = &mut self.nodes[gateway.0 as usize];
        let (parent, old) = (node.parent, node.v4);
        if let Some(state) = &mut node.gateway {
            state.epoch += 1;
            state.flows.clear();
            if let Some((nat, table)) = &mut state.nat {
                *table = Table::new(nat);
            }
        }
        if let (true, Some(old)) = (readdress, old) {
            let new = self.next_address(parent);
            let realm = self.realm_mut(parent);
            realm.remove(&IpAddr::from(old));
            realm.insert(new.into(), gateway);
            self.nodes[gateway.0 as usize].v4 = Some(new);
        }
    }

    /// Cuts or mends the way between two nodes' places on the internet.
    pub fn cut(&mut self, one: NodeId, other: NodeId, cut: bool) {
        let pair = ordered(self.top(one), self.top(other));
        if cut {
            self.cuts.insert(pair);
        } else {
            self.cuts.remove(&pair);
        }
    }

    fn is_cut(&self, one: NodeId, other: NodeId) -> bool {
        !self.cuts.is_empty() && self.cuts.contains(&ordered(self.top(one), self.top(other)))
    }

    /// A host sends.
    pub fn send(&mut self, now: Time, from: NodeId, packet: Packet, random: &mut Random, next: &mut Vec<(Time, Hop)>) {
        self.counters.sent += 1;
        self.climb(now, from, packet, random, next);
    }

    /// A packet takes its next step. Returns it when it has come to the host that it is for.
    pub fn step(&mut self, now: Time, hop: Hop, random: &mut Random, next: &mut Vec<(Time, Hop)>) -> Option<(NodeId, Packet)> {
        match hop {
            Hop::Arrive(node, packet) if self.gateway(node).is_none() => {
                let (v4, v6) = self.addresses(node);
                let ours = match packet.destination.ip() {
                    IpAddr::V4(ip) => Some(ip) == v4,
                    IpAddr::V6(ip) => Some(ip) == v6,
                };
                if !ours {
                    self.counters.unroutable += 1;
                    return None;
                }
                self.counters.delivered += 1;
                Some((node, packet))
            }
            Hop::Arrive(gateway, mut packet) => {
                if !self.translate_in(now, gateway, &mut packet) {
                    self.counters.filtered += 1;
                } else if let Some(child) = self.gateway(gateway).and_then(|state| state.local.get(&packet.destination.ip()).copied()) {
                    self.descend(now, child, packet, random, next);
                } else {
                    self.counters.unroutable += 1;
                }
                None
            }
            Hop::Inside(gateway, packet) => {
                self.leave(now, gateway, packet, random, next);
                None
            }
        }
    }

    /// From a node up its link into its realm, and from there down or further up.
    fn climb(&mut self, now: Time, from: NodeId, packet: Packet, random: &mut Random, next: &mut Vec<(Time, Hop)>) {
        let node = &mut self.nodes[from.0 as usize];
        let parent = node.parent;
        let duplicate = random.chance(node.link.link.duplicate);
        let Some(at) = node.link.cross(now, true, packet.size(), random) else {
            self.counters.lost += 1;
            return;
        };
        if duplicate {
            self.route(at, from, parent, packet.clone(), random, next);
        }
        self.route(at, from, parent, packet, random, next);
    }

    fn route(&mut self, at: Time, from: NodeId, realm: Option<NodeId>, packet: Packet, random: &mut Random, next: &mut Vec<(Time, Hop)>) {
        let destination = packet.destination.ip();
        let local = match realm.and_then(|gateway| self.gateway(gateway)) {
            Some(gateway) => gateway.local.get(&destination).copied(),
            None => self.internet.get(&destination).copied(),
        };
        match (local, realm) {
            (Some(child), None) if self.is_cut(from, child) => self.counters.unroutable += 1,
            (Some(child), _) => self.descend(at, child, packet, random, next),
            (None, Some(gateway)) => next.push((at, Hop::Inside(gateway, packet))),
            (None, None) => self.counters.unroutable += 1,
        }
    }

    fn descend(&mut self, now: Time, child: NodeId, packet: Packet, random: &mut Random, next: &mut Vec<(Time, Hop)>) {
        match self.nodes[child.0 as usize].link.cross(now, false, packet.size(), random) {
            Some(at) => next.push((at, Hop::Arrive(child, packet))),
            None => self.counters.lost += 1,
        }
    }

    /// Out of a gateway, translated where it translates.
    fn leave(&mut self, now: Time, gateway: NodeId, mut packet: Packet, random: &mut Random, next: &mut Vec<(Time, Hop)>) {
        let node = &mut self.nodes[gateway.0 as usize];
        let Some(state) = &mut node.gateway else { return };
        let remote = packet.destination;
        let allowed = match (packet.source, &mut state.nat, node.v4) {
            _ if !state.udp => false,
            (SocketAddr::V4(_), Some((nat, table)), Some(outside)) => {
                let hairpin = remote.ip() == outside;
                match table.outbound(now, packet.source, remote, random) {
                    Some(port) if !hairpin || nat.hairpin => {
                        packet.source = SocketAddr::new(outside.into(), port);
                        if hairpin {
                            next.push((now, Hop::Arrive(gateway, packet)));
                            return;
                        }
                        true
                    }
                    _ => false,
                }
            }
            (SocketAddr::V6(_), ..) if state.v6 => {
                if state.flows.len() >= 4_096 {
                    state.flows.retain(|_, expires| *expires > now);
                }
                state.flows.insert((packet.source, remote), now + FIREWALL_TIMEOUT);
                true
            }
            _ => false,
        };
        if allowed {
            self.climb(now, gateway, packet, random, next);
        } else {
            self.counters.filtered += 1;
        }
    }

    /// Whether a packet may enter, its destination translated.
    fn translate_in(&mut self, now: Time, gateway: NodeId, packet: &mut Packet) -> bool {
        let node = &mut self.nodes[gateway.0 as usize];
        let Some(state) = &mut node.gateway else { return false };
        if !state.udp {
            return false;
        }
        match (&mut state.nat, packet.destination) {
            (Some((_, table)), SocketAddr::V4(destination)) if node.v4 == Some(*destination.ip()) => {
                match table.inbound(now, packet.source, destination.port()) {
                    Some(inside) => {
                        packet.destination = inside;
                        true
                    }
                    None => false,
                }
            }
            (_, SocketAddr::V6(_)) => match state.flows.get_mut(&(packet.destination, packet.source)) {
                Some(expires) if *expires > now => {
                    *expires = now + FIREWALL_TIMEOUT;
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// The way of a TCP connection from `client` to `server`: the nodes whose links it crosses and its outside address.
    /// `None` when a gateway does not let it out, or nobody has the address.
    pub fn tcp_way(&self, client: NodeId, server: SocketAddr, random: &mut Random) -> Option<TcpWay> {
        let (mut nodes, mut gateways) = (vec![client], Vec::new());
        let (v4, v6) = self.addresses(client);
        let mut seen_as: IpAddr = if server.is_ipv4() { v4?.into() } else { v6?.into() };
        let mut realm = self.nodes[client.0 as usize].parent;
        while let Some(gateway) = realm {
            let node = &self.nodes[gateway.0 as usize];
            let state = node.gateway.as_ref()?;
            match state.tcp {
                Tcp::Only(port) if port != server.port() => return None,
                Tcp::None => return None,
                Tcp::Only(_) | Tcp::Any => {}
            }
            if server.is_ipv4() {
                state.nat.as_ref()?;
                seen_as = node.v4?.into();
            }
            gateways.push((gateway, state.epoch));
            nodes.push(gateway);
            realm = node.parent;
        }
        let host = *self.internet.get(&server.ip())?;
        nodes.push(host);
        let port = 1_024 + random.below(64_000) as u16;
        Some(TcpWay { nodes, gateways, server: host, seen_as: SocketAddr::new(seen_as, port) })
    }

    /// Whether a way is whole: all links up, no partition on it.
    pub fn tcp_whole(&self, way: &TcpWay) -> bool {
        way.nodes.iter().all(|node| self.nodes[node.0 as usize].link.up)
            && way.nodes.first().is_none_or(|&client| !self.is_cut(client, way.server))
    }

    /// Whether all gateways on it still know the connection.
    pub fn tcp_known(&self, way: &TcpWay) -> bool {
        way.gateways.iter().all(|&(gateway, epoch)| self.gateway(gateway).is_some_and(|state| state.epoch == epoch))
    }

    /// How long a segment takes on a way; what is lost is sent again, which takes a round trip and a bit.
    pub fn tcp_delay(&self, way: &TcpWay, random: &mut Random) -> Duration {
        let mut delay = Duration::ZERO;
        let mut delivered = 1.0;
        for node in &way.nodes {
            let link = &self.nodes[node.0 as usize].link.link;
            delay += link.delay + random.up_to(link.jitter);
            delivered *= 1.0 - link.loss;
        }
        let round_trip = 2 * delay;
        for _ in 0..8 {
            if !random.chance(1.0 - delivered) {
                break;
            }
            delay += round_trip + Duration::from_millis(25);
        }
        delay
    }
}

/// See [`Network::tcp_way`].
#[derive(Clone, Debug)]
pub struct TcpWay {
    nodes: Vec<NodeId>,
    gateways: Vec<(NodeId, u32)>,
    /// The server's host.
    pub server: NodeId,
    /// As the server sees the client.
    pub seen_as: SocketAddr,
}

fn ordered(one: NodeId, other: NodeId) -> (NodeId, NodeId) {
    if one < other { (one, other) } else { (other, one) }
}
