//! What tests say: build a world, do things to it, look at it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use campfire_mesh::config::{Config, Reconfigure};
use campfire_mesh::io::{Input, Notice, WhyNotDirect};
use campfire_mesh::status::{Peer as PeerStatus, Status};
use campfire_protocol::carrier::Path;
use campfire_protocol::identity::Identity;
use campfire_protocol::key::Keys;
use campfire_protocol::server::{Scope, Server, ServerAddress, ServerId, Transport};
use campfire_protocol::time::Time;
use campfire_turn::Config as ServerConfig;

use crate::link::Link;
use crate::nat::Nat;
use crate::net::{GatewaySpec, NodeId, Packet, Tcp};
use crate::overlay::Echo;
use crate::peer::{Counters, Peer};
use crate::server::{PORT, ServerCounters, ServerHost, ServerOptions, TLS_PORT};
use crate::world::{Event, Flow, PeerOptions, PeerRef, Ping, ServerRef, World};

/// A gateway in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gateway(pub NodeId);

/// Where a host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the internet, with a public address and nothing in between.
    Internet,
    /// Behind a gateway.
    Behind(Gateway),
}

impl From<Gateway> for Place {
    fn from(gateway: Gateway) -> Self {
        Self::Behind(gateway)
    }
}

impl Place {
    fn node(self) -> Option<NodeId> {
        match self {
            Self::Internet => None,
            Self::Behind(gateway) => Some(gateway.0),
        }
    }
}

/// How packets to a peer go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// No link, no session or no path.
    None,
    /// Straight, to this address.
    Direct(SocketAddr),
    /// Through a server.
    Relay,
}

impl Way {
    /// Straight?
    pub fn is_direct(self) -> bool {
        matches!(self, Self::Direct(_))
    }
}

/// What became of the pings of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// Sent at least [`FlowReport::GRACE`] ago.
    pub sent: usize,
    /// Answered.
    pub answered: usize,
    /// The longest time without an answer.
    pub longest_gap: Duration,
    /// The longest round trip.
    pub slowest: Duration,
}

impl FlowReport {
    /// Younger pings are not counted as lost.
    pub const GRACE: Duration = Duration::from_secs(1);

    /// Never answered.
    pub fn lost(&self) -> usize {
        self.sent - self.answered
    }
}

/// A flow of pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRef(usize);

/// Building.
impl World {
    /// A server on the internet, with IPv4 and IPv6, UDP, TCP and TLS.
    pub fn server(&mut self, name: &str) -> ServerRef {
        self.server_with(name, |_| {})
    }

    /// A server with other settings.
    pub fn server_with(&mut self, name: &str, change: impl FnOnce(&mut ServerOptions)) -> ServerRef {
        let keys = (0..self.keys.len()).collect();
        let mut options = ServerOptions { config: ServerConfig::default(), keys, clock_error: 0, lie: None };
        change(&mut options);
        let node = self.net.add_host(None, true, true, self.wan);
        let host = format!("{name}.example");
        let address = |port, transport| ServerAddress { host: host.clone(), port, transport, scope: Scope::External };
        let addresses = vec![address(PORT, Transport::Udp), address(PORT, Transport::Tcp), address(TLS_PORT, Transport::Tls)];
        let id = ServerId::new(name).expect("a test's server has a proper name");
        let server = ServerRef(self.servers.len());
        self.names.insert(host, node);
        self.servers.push(ServerHost {
            node,
            entry: Server { id, addresses, certificate_pin: None },
            options,
            liar: crate::lie::Liar::default(),
            core: None,
            run: 0,
            streams: std::collections::BTreeMap::new(),
            relays: std::collections::BTreeMap::new(),
            wake: None,
            counters: ServerCounters::default(),
        });
        self.settle_in_server(node, server);
        self.start_server(server);
        server
    }

    /// A gateway with this NAT, IPv4 alone.
    pub fn nat(&mut self, nat: Nat) -> Gateway {
        self.gateway_with(Place::Internet, nat, |_| {})
    }

    /// A gateway behind another (a carrier's, say).
    pub fn nat_behind(&mut self, outer: Gateway, nat: Nat) -> Gateway {
        self.gateway_with(outer, nat, |_| {})
    }

    /// A gateway with routed IPv6 behind a stateful firewall, and no IPv4.
    pub fn ipv6_only(&mut self) -> Gateway {
        self.gateway_with(Place::Internet, Nat::masquerade(), |spec| (spec.nat, spec.v6) = (None, true))
    }

    /// A gateway with other properties.
    pub fn gateway_with(&mut self, place: impl Into<Place>, nat: Nat, change: impl FnOnce(&mut GatewaySpec)) -> Gateway {
        let mut spec = GatewaySpec { nat: Some(nat), v6: false, udp: true, tcp: Tcp::Any, link: self.wan };
        change(&mut spec);
        Gateway(self.net.add_gateway(place.into().node(), &spec))
    }

    /// A peer that holds the world's first key and knows all its servers. It starts now.
    pub fn peer(&mut self, place: impl Into<Place>) -> PeerRef {
        self.peer_with(place, |_| {})
    }

    /// A peer with other options.
    pub fn peer_with(&mut self, place: impl Into<Place>, change: impl FnOnce(&mut PeerOptions)) -> PeerRef {
        let place = place.into();
        let identity = Identity::from_seed(&self.random.bytes32());
        let mut config = Config::new(identity, Keys::clone(&self.keys[0]), self.server_list());
        config.fire.name = format!("peer-{}", self.peers.len());
        let mut options = PeerOptions {
            config,
            clock_error: 0,
            port: None,
            link: if place == Place::Internet { self.wan } else { self.lan },
            after: Duration::ZERO,
            ipv4: true,
            ipv6: false,
            real_sessions: false,
            dns_delay: Duration::ZERO,
        };
        change(&mut options);
        let node = self.net.add_host(place.node(), options.ipv4, options.ipv6, options.link);
        self.add_peer_host(node, options)
    }

    /// A bare host, without a peer: for attackers, and for tests of the network itself.
    pub fn host(&mut self, place: impl Into<Place>) -> NodeId {
        let place = place.into();
        let link = if place == Place::Internet { self.wan } else { self.lan };
        self.net.add_host(place.node(), true, true, link)
    }

    /// What came to a bare host since this was last asked, and when.
    pub fn mail(&mut self, host: NodeId) -> Vec<(Time, Packet)> {
        self.mail.remove(&host).unwrap_or_default()
    }

    /// Records from now on what hosts send; gives what was recorded since this was last said.
    pub fn tap(&mut self) -> Vec<(NodeId, Packet)> {
        self.tap.replace(Vec::new()).unwrap_or_default()
    }

    /// A bare host sends from this port of its own.
    pub fn send(&mut self, host: NodeId, port: u16, destination: SocketAddr, payload: &[u8]) {
        let (v4, v6) = self.net.addresses(host);
        let ip = if destination.is_ipv4() { v4.map(IpAddr::from) } else { v6.map(IpAddr::from) };
        if let Some(ip) = ip {
            self.inject(host, Packet { source: SocketAddr::new(ip, port), destination, payload: payload.to_vec() });
        }
    }

    /// What is derived from the world's key `index` (0 to 3; servers hold all of them, peers the first).
    pub fn keys(&self, index: usize) -> std::sync::Arc<Keys> {
        self.keys[index].clone()
    }
}

/// Doing.
impl World {
    /// Changes a peer's configuration while it runs.
    pub fn reconfigure(&mut self, peer: PeerRef, change: Reconfigure) {
        let config = &mut self.peers[peer.0].options.config;
        if let Some(servers) = &change.fire.servers {
            config.fire.servers.clone_from(servers);
        }
        if let Some(keys) = &change.fire.keys {
            config.fire.keys.clone_from(keys);
        }
        self.note(format!("peer {} is reconfigured", peer.0));
        self.tell(peer, Input::Configure(Box::new(change)));
    }

    /// A peer says goodbye and ends.
    pub fn stop(&mut self, peer: PeerRef) {
        self.tell(peer, Input::Shutdown);
        self.end_peer(peer);
        self.note(format!("peer {} stops", peer.0));
    }

    /// A peer ends without a word.
    pub fn crash(&mut self, peer: PeerRef) {
        self.end_peer(peer);
        self.note(format!("peer {} crashes", peer.0));
    }

    /// A stopped or crashed peer starts anew, with the same identity.
    pub fn restart(&mut self, peer: PeerRef) {
        self.end_peer(peer);
        let run = self.peers[peer.0].run;
        self.queue.push(self.now, Event::Start(peer, run));
    }

    /// A server's process ends; its kernel resets its connections and drops its datagrams.
    pub fn kill(&mut self, server: ServerRef) {
        self.end_server(server, true);
    }

    /// A server that ended starts again and knows nothing.
    pub fn revive(&mut self, server: ServerRef) {
        if self.servers[server.0].core.is_none() {
            self.start_server(server);
        }
    }

    /// A server stops taking newcomers and tells its members to move.
    pub fn drain(&mut self, server: ServerRef) {
        self.server_input(server, campfire_turn::io::Input::Drain);
    }

    /// Takes a host's or gateway's link down or up.
    pub fn link_up(&mut self, node: impl Into<NodeOf>, up: bool) {
        let node = self.node(node);
        self.net.link_mut(node).up = up;
        self.note(format!("link of {node:?} up: {up}"));
    }

    /// Changes a link.
    pub fn change_link(&mut self, node: impl Into<NodeOf>, change: impl FnOnce(&mut Link)) {
        let node = self.node(node);
        change(&mut self.net.link_mut(node).link);
    }

    /// Cuts (or mends) the way between two places on the internet.
    pub fn cut(&mut self, one: impl Into<NodeOf>, other: impl Into<NodeOf>, cut: bool) {
        let (one, other) = (self.node(one), self.node(other));
        self.net.cut(one, other, cut);
        self.note(format!("cut {one:?} {other:?}: {cut}"));
    }

    /// A gateway forgets its flows.
    pub fn flush(&mut self, gateway: Gateway) {
        self.net.rebind(gateway.0, false);
        self.note(format!("gateway {:?} forgets", gateway.0));
    }

    /// A gateway forgets its flows and gets another public address.
    pub fn readdress(&mut self, gateway: Gateway) {
        self.net.rebind(gateway.0, true);
        self.note(format!("gateway {:?} moves", gateway.0));
    }

    /// Lets UDP and TCP through a gateway, or not.
    pub fn police(&mut self, gateway: Gateway, udp: bool, tcp: Tcp) {
        self.net.police(gateway.0, udp, tcp);
    }

    /// Numbers the hosts to come behind a gateway from this address on.
    pub fn number_from(&mut self, gateway: Gateway, lan: Ipv4Addr) {
        self.net.number_from(gateway.0, lan);
    }

    /// One ping of 64 bytes from one peer's application to another's. Gives its number.
    pub fn ping(&mut self, from: PeerRef, to: PeerRef) -> usize {
        self.ping_sized(from, to, 64)
    }

    /// A ping of `size` bytes of inner IP packet.
    pub fn ping_sized(&mut self, from: PeerRef, to: PeerRef, size: usize) -> usize {
        let id = self.pings.len();
        self.pings.push(Ping { from, to, sent: self.now, reached: None, answered: None });
        let (source, destination) = (self.peers[from.0].address, self.peers[to.0].address);
        self.app(from, &Echo { source, destination, is_reply: false, id: id as u64, size });
        id
    }

    /// An application sends an echo.
    pub fn app(&mut self, from: PeerRef, echo: &Echo) {
        let now = self.now;
        if let Some(living) = &mut self.peers[from.0].peer {
            living.app(now, &echo.encode());
            self.settle(from);
        }
    }

    /// Pings every `interval` from now on.
    pub fn flow(&mut self, from: PeerRef, to: PeerRef, interval: Duration) -> FlowRef {
        let flow = self.flows.len();
        self.flows.push(Flow { from, to, interval, size: 64, pings: Vec::new(), active: true });
        self.queue.push(self.now, Event::Flow(flow));
        FlowRef(flow)
    }

    /// Ends a flow.
    pub fn end_flow(&mut self, flow: FlowRef) {
        self.flows[flow.0].active = false;
    }

    pub(crate) fn flow_tick(&mut self, flow: usize) {
        let &Flow { from, to, interval, size, active, .. } = &self.flows[flow];
        if active {
            let ping = self.ping_sized(from, to, size);
            self.flows[flow].pings.push(ping);
            self.queue.push(self.now + interval, Event::Flow(flow));
        }
    }

    /// A packet came out of a peer's tunnel.
    pub(crate) fn inner(&mut self, peer: PeerRef, packet: &[u8]) {
        let now = self.now;
        let Some(echo) = Echo::decode(packet) else { return };
        let ping = self.pings.get_mut(echo.id as usize);
        if echo.is_reply {
            if let Some(ping) = ping.filter(|ping| ping.from == peer) {
                ping.answered.get_or_insert(now);
            }
        } else {
            if let Some(ping) = ping {
                ping.reached.get_or_insert(now);
            }
            self.app(peer, &echo.reply());
        }
    }
}

/// Looking.
impl World {
    /// What became of a ping.
    pub fn ping_result(&self, ping: usize) -> Ping {
        self.pings[ping]
    }

    /// How many pings of one peer's have come to another, whether they were answered or not.
    pub fn pings_that_came(&self, from: PeerRef, to: PeerRef) -> usize {
        self.pings.iter().filter(|ping| (ping.from, ping.to) == (from, to) && ping.reached.is_some()).count()
    }

    /// What became of a flow's pings so far.
    pub fn report(&self, flow: FlowRef) -> FlowReport {
        self.report_since(flow, Time::default())
    }

    /// What became of a flow's pings that were sent at `since` or later.
    pub fn report_since(&self, flow: FlowRef, since: Time) -> FlowReport {
        let mut report = FlowReport::default();
        let mut answers = Vec::new();
        for ping in self.flows[flow.0].pings.iter().map(|&ping| self.pings[ping]).filter(|ping| ping.sent >= since) {
            if let Some(answered) = ping.answered {
                report.sent += 1;
                report.answered += 1;
                report.slowest = report.slowest.max(answered.since(ping.sent));
                answers.push(answered);
            } else if self.now.since(ping.sent) >= FlowReport::GRACE {
                report.sent += 1;
            }
        }
        answers.sort_unstable();
        answers.push(self.now);
        report.longest_gap = answers.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default();
        if answers.len() == 1 && report.sent > 0 {
            report.longest_gap = self.now.since(since);
        }
        report
    }

    /// How `from` sends to `to` now, if it has a session.
    pub fn way(&self, from: PeerRef, to: PeerRef) -> Way {
        let Some(living) = &self.peers[from.0].peer else { return Way::None };
        let Some(link) = living.table().link_to(&self.peers[to.0].address) else { return Way::None };
        if living.tunnels().last_handshake_ms(link).is_none() {
            return Way::None;
        }
        match living.table().way(link).and_then(|way| way.path) {
            Some(Path::Direct { remote, .. }) => Way::Direct(remote),
            Some(Path::Relay { .. }) => Way::Relay,
            None => Way::None,
        }
    }

    /// Whether both have a session and a path to each other.
    pub fn connected(&self, one: PeerRef, other: PeerRef) -> bool {
        self.way(one, other) != Way::None && self.way(other, one) != Way::None
    }

    /// Whether every one of `peers` is connected to every other.
    pub fn all_connected(&self, peers: &[PeerRef]) -> bool {
        peers.iter().enumerate().all(|(i, &one)| peers[..i].iter().all(|&other| self.connected(one, other)))
    }

    /// Whether both go straight.
    pub fn direct(&self, one: PeerRef, other: PeerRef) -> bool {
        self.way(one, other).is_direct() && self.way(other, one).is_direct()
    }

    /// What a peer's mesh says of itself.
    pub fn status(&self, peer: PeerRef) -> Status {
        self.peers[peer.0].peer.as_ref().map(|living| living.mesh.status(self.now)).unwrap_or_default()
    }

    /// What a peer's mesh says of another.
    pub fn peer_status(&self, of: PeerRef, about: PeerRef) -> Option<PeerStatus> {
        let identity = self.peers[about.0].options.config.fire.identity.public().to_string();
        self.status(of).peers.into_iter().find(|peer| peer.identity == identity)
    }

    /// Why one peer does not go straight to another.
    pub fn why(&self, of: PeerRef, about: PeerRef) -> Option<WhyNotDirect> {
        self.peer_status(of, about)?.why_not_direct
    }

    /// When the running session between two peers began, as `of` sees it.
    pub fn session_began(&self, of: PeerRef, with: PeerRef) -> Option<Time> {
        let living = self.peers[of.0].peer.as_ref()?;
        let age = living.tunnels().last_handshake_ms(living.table().link_to(&self.peers[with.0].address)?)?;
        Some(Time::from_micros((self.now.as_micros() / 1_000).saturating_sub(age) * 1_000))
    }

    /// To whom `from` would send a packet for `address`.
    pub fn route(&self, from: PeerRef, address: IpAddr) -> Option<PeerRef> {
        let living = self.peers[from.0].peer.as_ref()?;
        let link = living.table().link_to(&address)?;
        let hosts = |peer: &PeerRef| living.table().addressing.hosts.get(&self.peers[peer.0].address) == Some(&link);
        self.peer_refs().into_iter().find(hosts)
    }

    /// A peer's overlay address.
    pub fn address(&self, peer: PeerRef) -> IpAddr {
        self.peers[peer.0].address
    }

    /// A peer's identity.
    pub fn identity(&self, peer: PeerRef) -> Identity {
        self.peers[peer.0].options.config.fire.identity.clone()
    }

    /// What a peer's data plane counted.
    pub fn counters(&self, peer: PeerRef) -> Counters {
        self.peers[peer.0].peer.as_ref().map(Peer::counters).unwrap_or_default()
    }

    /// What a server did.
    pub fn server_counters(&self, server: ServerRef) -> ServerCounters {
        self.servers[server.0].counters
    }

    /// A server's own counters; `None` while it is dead.
    pub fn server_stats(&self, server: ServerRef) -> Option<&campfire_turn::Stats> {
        self.servers[server.0].core.as_ref().map(campfire_turn::Server::stats)
    }

    /// The server with this id.
    pub fn server_named(&self, id: &str) -> Option<ServerRef> {
        self.servers.iter().position(|server| server.entry.id.as_str() == id).map(ServerRef)
    }

    /// A server's entry in lists.
    pub fn server_entry(&self, server: ServerRef) -> Server {
        self.servers[server.0].entry.clone()
    }

    /// What a peer had to say to people about servers.
    pub fn camp_notices(&self, peer: PeerRef) -> &[(Time, campfire_fire::io::Notice)] {
        &self.peers[peer.0].camp_notices
    }

    /// What a peer had to say to people about other peers.
    pub fn notices(&self, peer: PeerRef) -> &[(Time, Notice)] {
        &self.peers[peer.0].notices
    }

    /// Where something is in the network.
    pub fn node(&self, of: impl Into<NodeOf>) -> NodeId {
        match of.into() {
            NodeOf::Peer(peer) => self.peers[peer.0].node,
            NodeOf::Server(server) => self.servers[server.0].node,
            NodeOf::Node(node) => node,
        }
    }

    /// The gateway that something is behind.
    pub fn gateway_of(&self, of: impl Into<NodeOf>) -> Option<Gateway> {
        self.net.parent(self.node(of)).map(Gateway)
    }

    /// All peers.
    pub fn peer_refs(&self) -> Vec<PeerRef> {
        (0..self.peers.len()).map(PeerRef).collect()
    }
}

/// Whatever has a place in the network.
#[derive(Clone, Copy, Debug)]
pub enum NodeOf {
    /// A peer's host.
    Peer(PeerRef),
    /// A server's host.
    Server(ServerRef),
    /// A gateway, or a bystander.
    Node(NodeId),
}

impl From<PeerRef> for NodeOf {
    fn from(peer: PeerRef) -> Self {
        Self::Peer(peer)
    }
}

impl From<ServerRef> for NodeOf {
    fn from(server: ServerRef) -> Self {
        Self::Server(server)
    }
}

impl From<Gateway> for NodeOf {
    fn from(gateway: Gateway) -> Self {
        Self::Node(gateway.0)
    }
}

impl From<NodeId> for NodeOf {
    fn from(node: NodeId) -> Self {
        Self::Node(node)
    }
}
