//! A server: a real [`campfire_turn::Server`] core on a host of its own, and what its shell does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use campfire_protocol::server::Server as Entry;
use campfire_protocol::time::{Time, UnixMillis};
use campfire_turn::auth::Secrets;
use campfire_turn::io::{Forward, Input, ListenerId, Output, RelayId, StreamId, Via};
use campfire_turn::{Config, Server};

use crate::lie::{Liar, Lie};
use crate::net::{NodeId, Packet};
use crate::trace::Line;
use crate::world::{Event, ServerRef, World};

/// The port of UDP and TCP, and that of TLS.
pub const PORT: u16 = 3_478;
/// See [`PORT`].
pub const TLS_PORT: u16 = 443;

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The core's settings.
    pub config: Config,
    /// Which of the world's keys it serves.
    pub keys: Vec<usize>,
    /// By how much its wall clock is wrong, in milliseconds.
    pub clock_error: i64,
    /// What it tells its clients of their addresses, if not the truth.
    pub lie: Option<Lie>,
}

/// A server's host: what outlives the server.
pub(crate) struct ServerHost {
    pub node: NodeId,
    pub entry: Entry,
    pub options: ServerOptions,
    pub liar: Liar,
    pub core: Option<Server>,
    /// Counts the server's lives.
    pub run: u32,
    /// Which connection a stream is.
    pub streams: BTreeMap<StreamId, usize>,
    pub relays: BTreeMap<u16, RelayId>,
    pub wake: Option<Time>,
    pub counters: ServerCounters,
}

/// What a server did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounters {
    /// Datagrams and frames received.
    pub received: u64,
    /// Their bytes, without headers.
    pub received_bytes: u64,
    /// Datagrams and frames sent.
    pub sent: u64,
    /// Their bytes, without headers.
    pub sent_bytes: u64,
    /// ChannelData frames that went straight from member to member.
    pub forwarded: u64,
}

impl World {
    pub(crate) fn start_server(&mut self, server: ServerRef) {
        let (now, seed) = (self.now, self.random.bytes32());
        let host = &self.servers[server.0];
        let wall = UnixMillis(self.wall(host.options.clock_error));
        let mut secrets = Secrets::new();
        for &key in &host.options.keys {
            let keys = &self.keys[key];
            secrets.add_campfire(keys.fingerprint, keys.relay.clone());
        }
        let core = Server::new(host.options.config.clone(), secrets, seed, now, wall);
        self.servers[server.0].core = Some(core);
        self.trace.add(now, Line::Text(format!("server {} starts", server.0)));
        self.settle_server(server);
    }

    /// The process ends without a word: what it knew is lost. With `reset` its kernel ends its connections.
    pub(crate) fn end_server(&mut self, server: ServerRef, reset: bool) {
        let host = &mut self.servers[server.0];
        host.core = None;
        host.run += 1;
        host.wake = None;
        host.relays.clear();
        let streams = std::mem::take(&mut host.streams);
        self.trace.add(self.now, Line::Text(format!("server {} ends", server.0)));
        for connection in streams.into_values() {
            self.server_ended(connection, reset);
        }
    }

    pub(crate) fn server_datagram(&mut self, server: ServerRef, packet: Packet) {
        let (now, wall) = (self.now, UnixMillis(self.wall(self.servers[server.0].options.clock_error)));
        let host = &mut self.servers[server.0];
        let Some(core) = &mut host.core else { return };
        host.counters.received += 1;
        host.counters.received_bytes += packet.payload.len() as u64;
        if packet.destination.port() == PORT {
            let listener = ListenerId(u16::from(packet.destination.is_ipv6()));
            self.server_message(server, Via::Udp { listener, remote: packet.source }, packet.payload);
        } else if let Some(&relay) = host.relays.get(&packet.destination.port()) {
            core.handle(now, wall, Input::RelayDatagram { relay, from: packet.source, payload: &packet.payload });
            self.settle_server(server);
        }
    }

    /// A message of a client: ChannelData goes the quick way.
    pub(crate) fn server_message(&mut self, server: ServerRef, via: Via, mut bytes: Vec<u8>) {
        let (now, wall) = (self.now, UnixMillis(self.wall(self.servers[server.0].options.clock_error)));
        let host = &mut self.servers[server.0];
        if host.options.lie.is_some() {
            host.liar.asked(via.remote(), &bytes);
        }
        let Some(core) = &mut host.core else { return };
        let forward = match bytes.first() {
            Some(0x40..=0x4f) => core.forward(now, via, &mut bytes),
            _ => Forward::Slow,
        };
        match forward {
            Forward::Client { via } => {
                self.servers[server.0].counters.forwarded += 1;
                self.server_send(server, via, bytes);
            }
            Forward::Peer { relay, to, length } => {
                let payload = bytes.get(4..4 + length).unwrap_or_default().to_vec();
                self.server_send_relay(server, relay, to, payload);
            }
            Forward::Slow => {
                core.handle(now, wall, Input::Message { via, bytes: &bytes });
                self.settle_server(server);
            }
            Forward::Drop => {}
        }
    }

    pub(crate) fn server_input(&mut self, server: ServerRef, input: Input<'_>) {
        let (now, wall) = (self.now, UnixMillis(self.wall(self.servers[server.0].options.clock_error)));
        if let Some(core) = &mut self.servers[server.0].core {
            core.handle(now, wall, input);
            self.settle_server(server);
        }
    }

    pub(crate) fn server_wake(&mut self, server: ServerRef, run: u32) {
        let now = self.now;
        let host = &mut self.servers[server.0];
        if host.run == run && host.wake == Some(now) {
            host.wake = None;
            if host.core.as_ref().and_then(Server::next_wake).is_some_and(|wake| wake <= now) {
                self.server_input(server, Input::Wake);
            } else {
                self.settle_server(server);
            }
        }
    }

    pub(crate) fn relay_opened(&mut self, server: ServerRef, run: u32, relay: RelayId, address: SocketAddr) {
        if self.servers[server.0].run == run {
            self.server_input(server, Input::RelayOpened { relay, address });
        }
    }

    fn settle_server(&mut self, server: ServerRef) {
        let now = self.now;
        while let Some(output) = self.servers[server.0].core.as_mut().and_then(Server::poll) {
            match output {
                Output::Send { via, bytes } => self.server_send(server, via, bytes),
                Output::SendRelay { relay, to, payload } => self.server_send_relay(server, relay, to, payload),
                Output::OpenRelay { relay, ipv6, .. } => {
                    let port = 49_152 + self.random.below(16_000) as u16;
                    let host = &mut self.servers[server.0];
                    host.relays.insert(port, relay);
                    let (run, (v4, v6)) = (host.run, self.net.addresses(host.node));
                    let ip = if ipv6 { v6.map(IpAddr::from) } else { v4.map(IpAddr::from) };
                    if let Some(ip) = ip {
                        self.queue.push(now, Event::RelayOpened(server, run, relay, SocketAddr::new(ip, port)));
                    }
                }
                Output::CloseRelay { relay } => self.servers[server.0].relays.retain(|_, open| *open != relay),
                Output::CloseStream { via } => {
                    if let Via::Stream { stream, .. } = via
                        && let Some(connection) = self.servers[server.0].streams.remove(&stream)
                    {
                        self.server_ended(connection, true);
                    }
                }
            }
        }
        let host = &mut self.servers[server.0];
        if let Some(wake) = host.core.as_ref().and_then(Server::next_wake) {
            let wake = wake.max(now + std::time::Duration::from_micros(1));
            if host.wake.is_none_or(|planned| planned > wake) {
                host.wake = Some(wake);
                self.queue.push(wake, Event::ServerWake(server, host.run));
            }
        }
    }

    fn server_send(&mut self, server: ServerRef, via: Via, mut bytes: Vec<u8>) {
        let host = &mut self.servers[server.0];
        if let Some(lie) = host.options.lie {
            let keys: Vec<_> = host.options.keys.iter().map(|key| &*self.keys[*key]).collect();
            bytes = host.liar.instead(lie, &keys, via.remote(), &bytes).unwrap_or(bytes);
        }
        host.counters.sent += 1;
        host.counters.sent_bytes += bytes.len() as u64;
        match via {
            Via::Udp { remote, .. } => self.server_packet(server, PORT, remote, bytes),
            Via::Stream { stream, .. } => {
                if let Some(&connection) = host.streams.get(&stream) {
                    self.stream_send(connection, false, bytes);
                }
            }
        }
    }

    fn server_send_relay(&mut self, server: ServerRef, relay: RelayId, to: SocketAddr, payload: Vec<u8>) {
        let port = self.servers[server.0].relays.iter().find(|(_, open)| **open == relay).map(|(&port, _)| port);
        if let Some(port) = port {
            self.server_packet(server, port, to, payload);
        }
    }

    fn server_packet(&mut self, server: ServerRef, port: u16, remote: SocketAddr, payload: Vec<u8>) {
        let node = self.servers[server.0].node;
        let (v4, v6) = self.net.addresses(node);
        let ip = if remote.is_ipv6() { v6.map(IpAddr::from) } else { v4.map(IpAddr::from) };
        if let Some(ip) = ip {
            self.inject(node, Packet { source: SocketAddr::new(ip, port), destination: remote, payload });
        }
    }
}
