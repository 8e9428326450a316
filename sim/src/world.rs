//! The world: what it consists of, and what happens next.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use campfire_fire::io as fire;
use campfire_mesh::Mesh;
use campfire_mesh::config::Config;
use campfire_mesh::io::{Input, Notice};
use campfire_protocol::carrier::{ServerSlot, SocketId, StreamId};
use campfire_protocol::key::{Keys, Psk};
use campfire_protocol::server::Server;
use campfire_protocol::time::{Time, UnixMillis};
use campfire_tunnel::Tunnels;
use campfire_tunnel::noise::NoiseTunnels;
use campfire_turn::io as turn;

use crate::link::Link;
use crate::net::{Hop, Network, NodeId, Packet};
use crate::peer::{Effect, Peer};
use crate::queue::Queue;
use crate::random::Random;
use crate::server::ServerHost;
use crate::standin::{Clock, StandIn};
use crate::stream::{Connection, Happening};
use crate::trace::{Line, Trace};

/// A peer in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerRef(pub usize);

/// A server in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerRef(pub usize);

/// The wall clock when a world begins: 2025-06-01T00:00:00Z, in milliseconds since 1970.
pub const EPOCH: u64 = 1_748_736_000_000;

/// What is planned.
pub(crate) enum Event {
    Hop(Hop),
    Start(PeerRef, u32),
    Wake(PeerRef, u32),
    Wall(PeerRef, u32),
    SocketOpened(PeerRef, u32, SocketId),
    Resolved(PeerRef, u32, ServerSlot, Vec<SocketAddr>),
    ServerWake(ServerRef, u32),
    RelayOpened(ServerRef, u32, turn::RelayId, SocketAddr),
    Stream(Happening),
    Flow(usize),
    Call(Box<dyn FnOnce(&mut World)>),
}

/// Who lives on a node.
#[derive(Clone, Copy)]
enum Inhabitant {
    Peer(PeerRef),
    Server(ServerRef),
}

/// What a peer is started with.
pub struct PeerOptions {
    /// What the mesh is told.
    pub config: Config,
    /// By how much its wall clock is wrong, in milliseconds.
    pub clock_error: i64,
    /// The port of its sockets; `None`: a random one.
    pub port: Option<u16>,
    /// Its host's link.
    pub link: Link,
    /// Start after this long.
    pub after: Duration,
    /// On the internet: whether it has IPv4 and IPv6. Behind a gateway it has what the gateway has.
    pub ipv4: bool,
    /// See `ipv4`.
    pub ipv6: bool,
    /// Real WireGuard sessions in place of the stand-in. They have the machine's clock and randomness: such a world does not
    /// replay exactly, and should not last long in virtual time.
    pub real_sessions: bool,
    /// How long a name takes to look up.
    pub dns_delay: Duration,
}

/// A peer's host: what outlives the peer.
pub(crate) struct PeerHost {
    pub node: NodeId,
    pub options: PeerOptions,
    pub peer: Option<Peer>,
    /// Counts the peer's lives: what was planned for an earlier one does not happen.
    pub run: u32,
    pub sockets: BTreeMap<(bool, u16), SocketId>,
    pub ports: BTreeMap<SocketId, (bool, u16)>,
    pub streams: BTreeMap<StreamId, usize>,
    pub address: IpAddr,
    pub notices: Vec<(Time, Notice)>,
    pub camp_notices: Vec<(Time, fire::Notice)>,
    wake: Option<Time>,
}

/// A world: everything in it follows from its seed and what the test does to it.
pub struct World {
    pub(crate) seed: u64,
    pub(crate) now: Time,
    pub(crate) queue: Queue<Event>,
    pub(crate) random: Random,
    /// The network under everything.
    pub net: Network,
    /// What happened.
    pub trace: Trace,
    pub(crate) clock: Clock,
    pub(crate) peers: Vec<PeerHost>,
    pub(crate) servers: Vec<ServerHost>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) names: HashMap<String, NodeId>,
    pub(crate) keys: Vec<Arc<Keys>>,
    pub(crate) pings: Vec<Ping>,
    pub(crate) flows: Vec<Flow>,
    /// The link of hosts on the internet and of gateways, unless said otherwise.
    pub wan: Link,
    /// The link of hosts behind gateways.
    pub lan: Link,
    inhabitants: HashMap<NodeId, Inhabitant>,
    hops: Vec<(Time, Hop)>,
    pub(crate) mail: HashMap<NodeId, Vec<(Time, Packet)>>,
    pub(crate) tap: Option<Vec<(NodeId, Packet)>>,
    quiet: bool,
}

/// A ping over the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Who asks.
    pub from: PeerRef,
    /// Who is asked.
    pub to: PeerRef,
    /// When.
    pub sent: Time,
    /// When it came there.
    pub reached: Option<Time>,
    /// When the answer was back.
    pub answered: Option<Time>,
}

pub(crate) struct Flow {
    pub from: PeerRef,
    pub to: PeerRef,
    pub interval: Duration,
    pub size: usize,
    pub pings: Vec<usize>,
    pub active: bool,
}

impl World {
    /// An empty world. Ten milliseconds lie between any host and the internet.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let keys = (0..4).map(|_| Arc::new(Psk::from_bytes(random.bytes32()).derive())).collect();
        Self {
            seed,
            now: Time::default(),
            queue: Queue::default(),
            random,
            net: Network::default(),
            trace: Trace::default(),
            clock: Clock::default(),
            peers: Vec::new(),
            servers: Vec::new(),
            connections: Vec::new(),
            names: HashMap::new(),
            keys,
            pings: Vec::new(),
            flows: Vec::new(),
            wan: Link::clean(Duration::from_millis(10)),
            lan: Link::clean(Duration::from_micros(100)),
            inhabitants: HashMap::new(),
            hops: Vec::new(),
            mail: HashMap::new(),
            tap: None,
            quiet: false,
        }
    }

    /// Time since the world began.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Lets `duration` pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some((at, event)) = self.queue.pop_until(end) {
            self.now = at;
            self.clock.set(at);
            self.happen(event);
        }
        self.now = end;
        self.clock.set(end);
    }

    /// Lets time pass until `condition` holds, looking every millisecond, but at most `limit`. Gives how long it took.
    pub fn run_until(&mut self, limit: Duration, mut condition: impl FnMut(&mut Self) -> bool) -> Option<Duration> {
        let start = self.now;
        loop {
            if condition(self) {
                return Some(self.now.since(start));
            }
            if self.now.since(start) >= limit {
                return None;
            }
            // Nothing changes while nothing happens.
            self.run_for(Duration::from_millis(1));
        }
    }

    /// Does something to the world later.
    pub fn after(&mut self, delay: Duration, action: impl FnOnce(&mut Self) + 'static) {
        self.queue.push(self.now + delay, Event::Call(Box::new(action)));
    }

    /// Writes a line into the trace.
    pub fn note(&mut self, text: String) {
        self.trace.add(self.now, Line::Text(text));
    }

    /// On a failure, say nothing of the trace (for tests that expect one).
    pub fn keep_quiet(&mut self) {
        self.quiet = true;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Hop(hop) => self.hop(hop),
            Event::Start(peer, run) => self.start(peer, run),
            Event::Wake(peer, run) => {
                let now = self.now;
                let host = &mut self.peers[peer.0];
                if host.run == run && host.wake == Some(now) {
                    host.wake = None;
                    if let Some(living) = &mut host.peer {
                        living.wake(now);
                    }
                    self.settle(peer);
                }
            }
            Event::Wall(peer, run) => {
                if self.peers[peer.0].run == run && self.peers[peer.0].peer.is_some() {
                    let unix_millis = self.wall(self.peers[peer.0].options.clock_error);
                    self.tell(peer, Input::Wall { unix_millis });
                    self.queue.push(self.now + Duration::from_mins(1), Event::Wall(peer, run));
                }
            }
            Event::SocketOpened(peer, run, socket) => {
                if self.peers[peer.0].run == run {
                    self.socket_opened(peer, socket);
                }
            }
            Event::Resolved(peer, run, server, addresses) => {
                if self.peers[peer.0].run == run {
                    self.tell(peer, Input::Fire(fire::Input::Resolved { server, addresses: &addresses }));
                }
            }
            Event::ServerWake(server, run) => self.server_wake(server, run),
            Event::RelayOpened(server, run, relay, address) => self.relay_opened(server, run, relay, address),
            Event::Stream(happening) => self.stream_happening(happening),
            Event::Flow(flow) => self.flow_tick(flow),
            Event::Call(action) => action(self),
        }
    }

    /// A wall clock that is wrong by `error` milliseconds.
    pub(crate) fn wall(&self, error: i64) -> u64 {
        (EPOCH + self.now.as_micros() / 1_000).saturating_add_signed(error)
    }

    fn hop(&mut self, hop: Hop) {
        let arrived = self.net.step(self.now, hop, &mut self.random, &mut self.hops);
        self.plan_hops();
        let Some((node, packet)) = arrived else { return };
        let head = [packet.payload.first().copied().unwrap_or(0), packet.payload.get(1).copied().unwrap_or(0)];
        let line = Line::Udp { source: packet.source, destination: packet.destination, size: packet.payload.len(), head };
        self.trace.add(self.now, line);
        match self.inhabitants.get(&node) {
            Some(&Inhabitant::Peer(peer)) => {
                let now = self.now;
                let host = &mut self.peers[peer.0];
                let at = (packet.destination.is_ipv6(), packet.destination.port());
                if let (Some(&socket), Some(living)) = (host.sockets.get(&at), host.peer.as_mut()) {
                    living.datagram(now, socket, packet.source, &packet.payload);
                    self.settle(peer);
                }
            }
            Some(&Inhabitant::Server(server)) => self.server_datagram(server, packet),
            None => self.mail.entry(node).or_default().push((self.now, packet)),
        }
    }

    fn plan_hops(&mut self) {
        for (at, hop) in self.hops.drain(..) {
            self.queue.push(at, Event::Hop(hop));
        }
    }

    /// Sends a packet from a node (also for tests that play an attacker).
    pub fn inject(&mut self, node: NodeId, packet: Packet) {
        if let Some(tap) = &mut self.tap {
            tap.push((node, packet.clone()));
        }
        self.net.send(self.now, node, packet, &mut self.random, &mut self.hops);
        self.plan_hops();
    }

    pub(crate) fn settle_in_server(&mut self, node: NodeId, server: ServerRef) {
        self.inhabitants.insert(node, Inhabitant::Server(server));
    }

    pub(crate) fn add_peer_host(&mut self, node: NodeId, options: PeerOptions) -> PeerRef {
        let peer = PeerRef(self.peers.len());
        let address = options.config.fire.network.address(&options.config.fire.identity.public()).into();
        let start = self.now + options.after;
        self.peers.push(PeerHost {
            node,
            options,
            peer: None,
            run: 0,
            sockets: BTreeMap::new(),
            ports: BTreeMap::new(),
            streams: BTreeMap::new(),
            address,
            notices: Vec::new(),
            camp_notices: Vec::new(),
            wake: None,
        });
        self.inhabitants.insert(node, Inhabitant::Peer(peer));
        self.queue.push(start, Event::Start(peer, 0));
        peer
    }

    fn start(&mut self, peer: PeerRef, run: u32) {
        let now = self.now;
        if self.peers[peer.0].run != run || self.peers[peer.0].peer.is_some() {
            return;
        }
        let (seed, session_seed) = (self.random.bytes32(), self.random.u64());
        let wall = self.wall(self.peers[peer.0].options.clock_error);
        let host = &mut self.peers[peer.0];
        let secret = host.options.config.fire.identity.x25519_secret();
        let tunnels: Box<dyn Tunnels> = if host.options.real_sessions {
            Box::new(NoiseTunnels::new(&secret))
        } else {
            Box::new(StandIn::new(*secret, session_seed, self.clock.clone()))
        };
        let mesh = Mesh::new(host.options.config.clone(), seed, now, UnixMillis(wall));
        host.peer = Some(Peer::new(mesh, tunnels));
        self.trace.add(now, Line::Text(format!("peer {} starts", peer.0)));
        self.tell(peer, Input::Wall { unix_millis: wall });
        self.queue.push(now + Duration::from_mins(1), Event::Wall(peer, run));
        let (v4, v6) = self.net.addresses(self.peers[peer.0].node);
        if v4.is_some() {
            self.open_socket(peer, SocketId(0), false);
            self.socket_opened(peer, SocketId(0));
        }
        if v6.is_some() {
            self.open_socket(peer, SocketId(1), true);
            self.socket_opened(peer, SocketId(1));
        }
    }

    /// Ends a peer's life without a word; it may be started again.
    pub(crate) fn end_peer(&mut self, peer: PeerRef) {
        let host = &mut self.peers[peer.0];
        host.peer = None;
        host.run += 1;
        host.wake = None;
        host.sockets.clear();
        host.ports.clear();
        let streams = std::mem::take(&mut host.streams);
        for connection in streams.into_values() {
            self.client_ended(connection);
        }
    }

    fn open_socket(&mut self, peer: PeerRef, socket: SocketId, ipv6: bool) {
        let wanted = self.peers[peer.0].options.port.filter(|_| socket.0 < 2);
        let port = wanted.unwrap_or_else(|| 32_768 + self.random.below(28_000) as u16);
        let host = &mut self.peers[peer.0];
        host.sockets.insert((ipv6, port), socket);
        host.ports.insert(socket, (ipv6, port));
    }

    fn socket_opened(&mut self, peer: PeerRef, socket: SocketId) {
        let host = &self.peers[peer.0];
        let Some(&(ipv6, port)) = host.ports.get(&socket) else { return };
        let (v4, v6) = self.net.addresses(host.node);
        let ip = if ipv6 { v6.map(IpAddr::from) } else { v4.map(IpAddr::from) };
        let local: Vec<_> = ip.map(|ip| SocketAddr::new(ip, port)).into_iter().collect();
        self.tell(peer, Input::Fire(fire::Input::SocketOpened { socket, local: &local }));
    }

    /// Tells a peer's mesh something.
    pub fn tell(&mut self, peer: PeerRef, input: Input<'_>) {
        let now = self.now;
        if let Some(living) = &mut self.peers[peer.0].peer {
            living.input(now, input);
            self.settle(peer);
        }
    }

    /// Does what a peer wants done, and plans when it is to be woken.
    pub(crate) fn settle(&mut self, peer: PeerRef) {
        let now = self.now;
        loop {
            let Some(living) = self.peers[peer.0].peer.as_mut() else { return };
            let effects = living.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.effect(peer, effect);
            }
        }
        let host = &mut self.peers[peer.0];
        let Some(living) = host.peer.as_mut() else { return };
        if let Some(wake) = living.next_wake() {
            // A wake-up that has passed would come at once, for ever: give time a chance to move.
            let wake = wake.max(now + Duration::from_micros(1));
            if host.wake.is_none_or(|planned| planned > wake) {
                host.wake = Some(wake);
                self.queue.push(wake, Event::Wake(peer, host.run));
            }
        }
    }

    fn effect(&mut self, peer: PeerRef, effect: Effect) {
        let now = self.now;
        let (node, run) = (self.peers[peer.0].node, self.peers[peer.0].run);
        match effect {
            Effect::Datagram { socket, remote, payload } => {
                let Some(&(ipv6, port)) = self.peers[peer.0].ports.get(&socket) else { return };
                let (v4, v6) = self.net.addresses(node);
                let ip = if ipv6 { v6.map(IpAddr::from) } else { v4.map(IpAddr::from) };
                if let Some(ip) = ip.filter(|ip| ip.is_ipv4() == remote.is_ipv4()) {
                    self.inject(node, Packet { source: SocketAddr::new(ip, port), destination: remote, payload });
                }
            }
            Effect::Frame { stream, frame } => {
                if let Some(&connection) = self.peers[peer.0].streams.get(&stream) {
                    self.stream_send(connection, true, frame);
                }
            }
            Effect::Connect { stream, remote, transport } => self.connect(peer, stream, remote, transport),
            Effect::Disconnect { stream } => {
                if let Some(connection) = self.peers[peer.0].streams.remove(&stream) {
                    self.client_ended(connection);
                }
            }
            Effect::Resolve { server, host, port } => {
                let addresses = self.look_up(&host, port);
                let at = now + self.peers[peer.0].options.dns_delay;
                self.queue.push(at, Event::Resolved(peer, run, server, addresses));
            }
            Effect::OpenSocket { socket, like } => {
                let ipv6 = self.peers[peer.0].ports.get(&like).is_some_and(|&(ipv6, _)| ipv6);
                self.open_socket(peer, socket, ipv6);
                self.queue.push(now, Event::SocketOpened(peer, run, socket));
            }
            Effect::CloseSocket { socket } => {
                let host = &mut self.peers[peer.0];
                if let Some(at) = host.ports.remove(&socket) {
                    host.sockets.remove(&at);
                }
            }
            Effect::Inner(packet) => self.inner(peer, &packet),
            Effect::Notice(notice) => {
                self.trace.add(now, Line::Text(format!("peer {}: {notice:?}", peer.0)));
                self.peers[peer.0].notices.push((now, notice));
            }
            Effect::CampNotice(notice) => {
                self.trace.add(now, Line::Text(format!("peer {}: {notice:?}", peer.0)));
                self.peers[peer.0].camp_notices.push((now, notice));
            }
        }
    }

    fn look_up(&self, host: &str, port: u16) -> Vec<SocketAddr> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return vec![SocketAddr::new(ip, port)];
        }
        let Some(&node) = self.names.get(host) else { return Vec::new() };
        let (v4, v6) = self.net.addresses(node);
        let ips = v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from));
        ips.map(|ip| SocketAddr::new(ip, port)).collect()
    }

    /// The list of all servers, as peers get it.
    pub fn server_list(&self) -> Vec<Server> {
        self.servers.iter().map(|server| server.entry.clone()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.quiet {
            eprintln!("{}", self.trace);
            eprintln!("the world above has seed {}: CAMPFIRE_SEED={} replays it", self.seed, self.seed);
        }
    }
}
