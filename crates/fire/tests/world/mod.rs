//! Fires and real server cores around one virtual clock, with a delay and little else between them.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use campfire_fire::config::Config;
use campfire_fire::io::{Input, Notice, Output};
use campfire_fire::{Fire, FireEvent, Learned, Seat};
use campfire_protocol::carrier::{ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::identity::{Identity, PublicKey};
use campfire_protocol::key::{Keys, Psk};
use campfire_protocol::server::{Scope, Server as Entry, ServerAddress, ServerId, Transport};
use campfire_protocol::stun::{Class, Message, Method, TransactionId};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_turn::auth::Secrets;
use campfire_turn::io as turn;
use campfire_turn::{Config as ServerConfig, Server};

pub const WALL: u64 = 1_800_000_000_000;
pub const DELAY: Duration = Duration::from_millis(10);

pub fn psk(n: u8) -> Keys {
    Psk::from_bytes([n; 32]).derive()
}

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// How a server's host treats what is not for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Campfire,
    /// Answers Binding and drops all else.
    BindingAlone,
}

pub struct Host {
    pub core: Option<Server>,
    pub config: ServerConfig,
    pub keys: Vec<u8>,
    pub clock_error: i64,
    pub speaks: Speaks,
    /// From there to everybody, beyond [`DELAY`].
    pub delay: Duration,
    streams: BTreeSet<turn::StreamId>,
}

pub struct Peer {
    pub fire: Option<Fire>,
    pub key: PublicKey,
    pub mapped: SocketAddr,
    pub udp_blocked: bool,
    pub clock_error: i64,
    pub events: Vec<(Time, FireEvent)>,
    pub notices: Vec<Notice>,
    pub sent_bytes: u64,
    pub sent_messages: u64,
    pub resolves: usize,
    /// Copies of what came, with where it came from.
    pub heard: Vec<(Via, Vec<u8>)>,
    streams: BTreeMap<StreamId, (usize, turn::StreamId)>,
    wake: Option<Time>,
}

enum Happens {
    ToServer { server: usize, via: turn::Via, bytes: Vec<u8> },
    ToPeer { peer: usize, via: Via, bytes: Vec<u8> },
    StreamOpened { peer: usize, stream: StreamId, server: usize },
    StreamClosed { peer: usize, stream: StreamId },
}

pub struct World {
    pub now: Time,
    pub hosts: Vec<Host>,
    pub peers: Vec<Peer>,
    queue: BTreeMap<(Time, u64), Happens>,
    order: u64,
    streams: u64,
    seed: u8,
}

impl World {
    pub fn new(servers: usize) -> Self {
        let mut world = Self {
            now: Time::from_micros(1_000_000_000),
            hosts: Vec::new(),
            peers: Vec::new(),
            queue: BTreeMap::new(),
            order: 0,
            streams: 0,
            seed: 0,
        };
        for _ in 0..servers {
            world.add_server(ServerConfig::default());
        }
        world
    }

    pub fn add_server(&mut self, config: ServerConfig) -> usize {
        let host = Host {
            core: None,
            config,
            keys: vec![1, 2],
            clock_error: 0,
            speaks: Speaks::Campfire,
            delay: Duration::ZERO,
            streams: BTreeSet::new(),
        };
        self.hosts.push(host);
        self.start(self.hosts.len() - 1);
        self.hosts.len() - 1
    }

    /// Starts a server: it knows nothing.
    pub fn start(&mut self, server: usize) {
        self.seed = self.seed.wrapping_add(1);
        self.start_with(server, self.seed);
    }

    /// The same with a seed: two servers of one seed have the same secrets, as if they were one process, or one knew the other's.
    pub fn start_with(&mut self, server: usize, seed: u8) {
        let wall = self.wall(self.hosts[server].clock_error);
        let host = &mut self.hosts[server];
        let mut secrets = Secrets::new();
        for key in &host.keys {
            let keys = psk(*key);
            secrets.add_campfire(keys.fingerprint, keys.relay.clone());
        }
        host.core = Some(Server::new(host.config.clone(), secrets, [seed; 32], self.now, wall));
    }

    pub fn stop(&mut self, server: usize) {
        self.hosts[server].core = None;
        let gone = std::mem::take(&mut self.hosts[server].streams);
        for peer in 0..self.peers.len() {
            let cut: Vec<StreamId> = self.peers[peer].streams.iter().filter(|(_, (_, of))| gone.contains(of)).map(|(id, _)| *id).collect();
            for stream in cut {
                self.after(DELAY, Happens::StreamClosed { peer, stream });
            }
        }
    }

    /// A peer's connections end at the server at once, and at the peer a little later.
    pub fn cut_streams(&mut self, peer: usize) {
        let remote = self.peers[peer].mapped;
        for (stream, (server, id)) in std::mem::take(&mut self.peers[peer].streams) {
            self.server_input(server, turn::Input::StreamClosed { via: turn::Via::Stream { stream: id, remote } });
            self.after(ms(100), Happens::StreamClosed { peer, stream });
        }
    }

    pub fn drain(&mut self, server: usize) {
        self.server_input(server, turn::Input::Drain);
    }

    pub fn wall(&self, error: i64) -> UnixMillis {
        UnixMillis((WALL + self.now.as_micros() / 1_000).saturating_add_signed(error))
    }

    /// A peer with this configuration; not started.
    pub fn peer(&mut self) -> usize {
        let n = u8::try_from(self.peers.len() % 250).unwrap() + 1;
        let high = u8::try_from(self.peers.len() / 250).unwrap();
        self.peers.push(Peer {
            fire: None,
            key: identity(self.peers.len()).public(),
            mapped: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, high, n)), 40_000),
            udp_blocked: false,
            clock_error: 0,
            events: Vec::new(),
            notices: Vec::new(),
            sent_bytes: 0,
            sent_messages: 0,
            resolves: 0,
            heard: Vec::new(),
            streams: BTreeMap::new(),
            wake: None,
        });
        self.peers.len() - 1
    }

    pub fn begin(&mut self, peer: usize, config: &Config) {
        self.seed = self.seed.wrapping_add(1);
        let mut seed = [self.seed; 32];
        seed[0] = u8::try_from(peer % 256).unwrap();
        let wall = self.wall(self.peers[peer].clock_error);
        self.peers[peer].fire = Some(Fire::new(config, seed, self.now, wall));
        let local = [SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 40_000)];
        self.fire(peer, |fire, now| fire.handle(now, Input::SocketOpened { socket: SocketId(0), local: &local }));
    }

    /// A peer that starts now with the default configuration.
    pub fn join(&mut self, servers: &[usize]) -> usize {
        let peer = self.peer();
        let config = config(peer, servers);
        self.begin(peer, &config);
        peer
    }

    /// Does something to a fire and carries out what it asks for.
    pub fn fire<T>(&mut self, peer: usize, action: impl FnOnce(&mut Fire, Time) -> T) -> T {
        let now = self.now;
        let result = action(self.peers[peer].fire.as_mut().unwrap(), now);
        self.drain_fire(peer);
        result
    }

    pub fn look(&self, peer: usize) -> &Fire {
        self.peers[peer].fire.as_ref().unwrap()
    }

    /// Ends a peer's process without a word.
    pub fn kill(&mut self, peer: usize) {
        self.peers[peer].fire = None;
        self.peers[peer].streams.clear();
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        let mut spins = 0;
        loop {
            let queued = self.queue.keys().next().map(|(at, _)| *at);
            let servers = self.hosts.iter().filter_map(|host| host.core.as_ref()?.next_wake()).min();
            let peers = self.peers.iter().filter_map(|peer| peer.wake.filter(|_| peer.fire.is_some())).min();
            let Some(next) = [queued, servers, peers].into_iter().flatten().min().filter(|at| *at <= end) else { break };
            spins = if next > self.now { 0 } else { spins + 1 };
            assert!(spins < 100_000, "somebody wants to be woken again and again");
            self.now = self.now.max(next);
            while let Some((&key, _)) = self.queue.iter().next().filter(|((at, _), _)| *at <= self.now) {
                let happens = self.queue.remove(&key).unwrap();
                self.happen(happens);
            }
            for server in 0..self.hosts.len() {
                if self.hosts[server].core.as_ref().and_then(Server::next_wake).is_some_and(|at| at <= self.now) {
                    self.server_input(server, turn::Input::Wake);
                }
            }
            for peer in 0..self.peers.len() {
                if self.peers[peer].fire.is_some() && self.peers[peer].wake.is_some_and(|at| at <= self.now) {
                    self.fire(peer, Fire::on_wake);
                }
            }
        }
        self.now = end;
    }

    /// Runs until this holds; how long it took. Panics after `most`.
    pub fn run_until(&mut self, most: Duration, what: &str, done: impl Fn(&World) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(self.now.since(start) < most, "not within {most:?}: {what}");
            self.run(ms(1));
        }
        self.now.since(start)
    }

    /// Whether a peer knows where another sits.
    pub fn knows(&self, peer: usize, other: usize) -> bool {
        !self.look(peer).seats(&self.peers[other].key).is_empty()
    }

    pub fn all_know_all(&self) -> bool {
        let up: Vec<usize> = (0..self.peers.len()).filter(|peer| self.peers[*peer].fire.is_some()).collect();
        up.iter().all(|a| up.iter().all(|b| a == b || self.knows(*a, *b)))
    }

    /// How many times an event was told to a peer.
    pub fn count(&self, peer: usize, which: impl Fn(&FireEvent) -> bool) -> usize {
        self.peers[peer].events.iter().filter(|(_, event)| which(event)).count()
    }

    /// When it was first told.
    pub fn first(&self, peer: usize, which: impl Fn(&FireEvent) -> bool) -> Option<Time> {
        self.peers[peer].events.iter().find(|(_, event)| which(event)).map(|(at, _)| *at)
    }

    pub fn learned(&self, peer: usize, other: usize) -> Option<Learned> {
        let key = self.peers[other].key;
        self.peers[peer].events.iter().find_map(|(_, event)| match event {
            FireEvent::Member { announcement, learned, .. } if announcement.public_key == key => Some(*learned),
            _ => None,
        })
    }

    /// The best seat of another, as a peer sees it.
    pub fn seat(&self, peer: usize, other: usize) -> Seat {
        self.look(peer).seats(&self.peers[other].key)[0]
    }

    pub fn forget_events(&mut self) {
        for peer in &mut self.peers {
            peer.events.clear();
            peer.notices.clear();
            peer.heard.clear();
        }
    }

    /// Which host a peer's server slot is.
    pub fn host_of(&self, peer: usize, slot: ServerSlot) -> usize {
        let name = self.look(peer).server_name(slot).unwrap().to_owned();
        (0..self.hosts.len()).find(|host| entry(*host).id.as_str() == name).unwrap()
    }

    pub fn slot_of(&self, peer: usize, host: usize) -> ServerSlot {
        let id = entry(host).id;
        (0..64).map(ServerSlot).find(|slot| self.look(peer).server_name(*slot) == Some(id.as_str())).unwrap()
    }

    /// The hosts at which a peer sits.
    pub fn sits_at(&self, peer: usize) -> BTreeSet<usize> {
        let servers = self.look(peer).servers(self.now);
        let camped = servers.iter().filter(|server| server.state == campfire_fire::status::ServerState::Camped);
        camped.map(|server| (0..self.hosts.len()).find(|host| entry(*host).id.as_str() == server.id).unwrap()).collect()
    }

    /// Something comes to a peer as if from this via.
    pub fn inject(&mut self, peer: usize, via: Via, bytes: &[u8]) {
        self.fire(peer, |fire, now| fire.handle(now, Input::Stun { via, message: bytes }));
    }

    /// The newest request that is on its way to a server.
    pub fn last_request(&self, server: usize) -> Message {
        let newest = self.queue.values().rev().find_map(|happens| match happens {
            Happens::ToServer { server: to, bytes, .. } if *to == server => Some(bytes),
            _ => None,
        });
        Message::parse(newest.unwrap()).unwrap()
    }

    /// Its transaction.
    pub fn last_transaction(&self, server: usize) -> TransactionId {
        self.last_request(server).transaction()
    }

    fn after(&mut self, delay: Duration, happens: Happens) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), happens);
    }

    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::ToServer { server, via, bytes } => self.arrive(server, via, &bytes),
            Happens::ToPeer { peer, via, bytes } => {
                if self.peers[peer].fire.is_some() {
                    self.peers[peer].heard.push((via, bytes.clone()));
                    self.fire(peer, |fire, now| fire.handle(now, Input::Stun { via, message: &bytes }));
                }
            }
            Happens::StreamOpened { peer, stream, server } => {
                if self.peers[peer].fire.is_none() {
                    return;
                }
                if self.hosts[server].core.is_none() {
                    return self.fire(peer, |fire, now| fire.handle(now, Input::StreamClosed { stream, reason: "connection refused" }));
                }
                self.streams += 1;
                let id = turn::StreamId(self.streams);
                self.hosts[server].streams.insert(id);
                self.peers[peer].streams.insert(stream, (server, id));
                let remote = self.peers[peer].mapped;
                self.server_input(server, turn::Input::StreamOpened { via: turn::Via::Stream { stream: id, remote } });
                self.fire(peer, |fire, now| fire.handle(now, Input::StreamOpened { stream }));
            }
            Happens::StreamClosed { peer, stream } => {
                self.peers[peer].streams.remove(&stream);
                if self.peers[peer].fire.is_some() {
                    self.fire(peer, |fire, now| fire.handle(now, Input::StreamClosed { stream, reason: "reset" }));
                }
            }
        }
    }

    fn arrive(&mut self, server: usize, via: turn::Via, bytes: &[u8]) {
        let is_binding = |message: Message| message.method() == Method::BINDING && message.class() == Class::Request;
        if self.hosts[server].speaks == Speaks::BindingAlone && !Message::parse(bytes).is_ok_and(is_binding) {
            return;
        }
        self.server_input(server, turn::Input::Message { via, bytes });
    }

    fn server_input(&mut self, server: usize, input: turn::Input<'_>) {
        let (now, wall) = (self.now, self.wall(self.hosts[server].clock_error));
        let Some(core) = &mut self.hosts[server].core else { return };
        core.handle(now, wall, input);
        let outputs: Vec<turn::Output> = std::iter::from_fn(|| core.poll()).collect();
        for output in outputs {
            let turn::Output::Send { via, bytes } = output else { continue };
            let to = (0..self.peers.len()).find_map(|peer| match via {
                turn::Via::Udp { remote, .. } if self.peers[peer].mapped == remote && !self.peers[peer].udp_blocked => {
                    Some((peer, Via::Udp { socket: SocketId(0), remote: address(server) }))
                }
                turn::Via::Stream { stream, .. } => {
                    let streams = &self.peers[peer].streams;
                    streams.iter().find(|(_, of)| **of == (server, stream)).map(|(id, _)| (peer, Via::Stream(*id)))
                }
                turn::Via::Udp { .. } => None,
            });
            if let Some((peer, via)) = to {
                self.after(DELAY + self.hosts[server].delay, Happens::ToPeer { peer, via, bytes });
            }
        }
    }

    fn drain_fire(&mut self, peer: usize) {
        loop {
            let fire = self.peers[peer].fire.as_mut().unwrap();
            if let Some(event) = fire.poll_event() {
                self.peers[peer].events.push((self.now, event));
                continue;
            }
            let Some(output) = fire.poll_output() else {
                self.peers[peer].wake = fire.next_wake();
                break;
            };
            match output {
                Output::Send { via, datagram } => self.send(peer, via, datagram),
                Output::Resolve { server, host, port } => {
                    self.peers[peer].resolves += 1;
                    let known = (0..self.hosts.len()).find(|n| name(*n) == host);
                    let found: Vec<SocketAddr> = known.into_iter().map(|n| SocketAddr::new(address(n).ip(), port)).collect();
                    self.peers[peer].fire.as_mut().unwrap().handle(self.now, Input::Resolved { server, addresses: &found });
                }
                Output::OpenStream { stream, remote, .. } => {
                    let server = (0..self.hosts.len()).find(|n| address(*n).ip() == remote.ip()).unwrap();
                    self.after(DELAY * 2, Happens::StreamOpened { peer, stream, server });
                }
                Output::CloseStream { stream } => {
                    if let Some((server, id)) = self.peers[peer].streams.remove(&stream) {
                        self.hosts[server].streams.remove(&id);
                        let remote = self.peers[peer].mapped;
                        self.server_input(server, turn::Input::StreamClosed { via: turn::Via::Stream { stream: id, remote } });
                    }
                }
                Output::Notice(notice) => self.peers[peer].notices.push(notice),
            }
        }
    }

    fn send(&mut self, peer: usize, via: Via, bytes: Vec<u8>) {
        self.peers[peer].sent_bytes += bytes.len() as u64;
        self.peers[peer].sent_messages += 1;
        assert!(bytes.len() <= 1_200, "a message of {} bytes", bytes.len());
        match via {
            Via::Udp { remote, .. } => {
                let server = (0..self.hosts.len()).find(|server| address(*server) == remote);
                if let Some(server) = server.filter(|_| !self.peers[peer].udp_blocked) {
                    let via = turn::Via::Udp { listener: turn::ListenerId(0), remote: self.peers[peer].mapped };
                    self.after(DELAY, Happens::ToServer { server, via, bytes });
                }
            }
            Via::Stream(stream) => {
                if let Some((server, id)) = self.peers[peer].streams.get(&stream).copied() {
                    let via = turn::Via::Stream { stream: id, remote: self.peers[peer].mapped };
                    self.after(DELAY, Happens::ToServer { server, via, bytes });
                }
            }
        }
    }
}

/// What a peer is configured with, unless a test says otherwise.
pub fn config(peer: usize, servers: &[usize]) -> Config {
    let servers = servers.iter().map(|server| entry(*server)).collect();
    let mut config = Config::new(identity(peer), psk(1), servers);
    config.name = format!("peer-{peer}");
    config
}

pub fn identity(n: usize) -> Identity {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&n.to_be_bytes());
    Identity::from_seed(&seed)
}

pub fn name(server: usize) -> String {
    format!("s{server}.example")
}

pub fn address(server: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, u8::try_from(server).unwrap() + 1)), 3_478)
}

/// A server's entry in lists: a literal address, UDP and TCP.
pub fn entry(server: usize) -> Entry {
    entry_as(server, &format!("s{server}"))
}

/// The same by another id.
pub fn entry_as(server: usize, id: &str) -> Entry {
    let way = |transport| ServerAddress { host: address(server).ip().to_string(), port: 3_478, transport, scope: Scope::External };
    Entry { id: ServerId::new(id).unwrap(), addresses: vec![way(Transport::Udp), way(Transport::Tcp)], certificate_pin: None }
}
