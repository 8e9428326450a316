//! A peer: a real [`Mesh`], sessions, and a data plane in small that does what the sidecar's does.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use campfire_datapath::command::Command;
use campfire_datapath::table::{Table, Traffic};
use campfire_fire::io as fire;
use campfire_mesh::Mesh;
use campfire_mesh::io::{Input, Notice, Output};
use campfire_protocol::carrier::{Path, ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::server::Transport;
use campfire_protocol::time::Time;
use campfire_tunnel::{Event, LinkId, OVERHEAD, TunnelError, Tunnels, control};

use crate::overlay::addresses;

/// What a peer wants done in the world.
#[derive(Debug)]
pub enum Effect {
    /// Send a UDP datagram.
    Datagram {
        socket: SocketId,
        remote: SocketAddr,
        payload: Vec<u8>,
    },
    /// Send a frame on a stream.
    Frame {
        stream: StreamId,
        frame: Vec<u8>,
    },
    /// Connect.
    Connect {
        stream: StreamId,
        remote: SocketAddr,
        transport: Transport,
    },
    /// Disconnect.
    Disconnect {
        stream: StreamId,
    },
    /// Look a name up.
    Resolve {
        server: ServerSlot,
        host: String,
        port: u16,
    },
    /// Open one more socket.
    OpenSocket {
        socket: SocketId,
        like: SocketId,
    },
    /// Close one.
    CloseSocket {
        socket: SocketId,
    },
    /// A packet for the applications.
    Inner(Vec<u8>),
    /// For people.
    Notice(Notice),
    CampNotice(fire::Notice),
}

/// What a peer's data plane counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams and frames sent.
    pub sent: u64,
    /// Their bytes, with IP and UDP (or TCP) headers.
    pub sent_bytes: u64,
    /// Datagrams and frames received.
    pub received: u64,
    /// Their bytes, with headers.
    pub received_bytes: u64,
    /// Neither STUN nor ChannelData of a server, nor WireGuard.
    pub unrecognised: u64,
    /// WireGuard that did not authenticate or belongs to no session.
    pub forged: u64,
    /// WireGuard seen before.
    pub replayed: u64,
    /// Inner packets from an address that is not the link's.
    pub wrong_source: u64,
    /// Inner packets to an address that is neither ours nor on a route that we offer.
    pub wrong_destination: u64,
    /// Inner packets to nowhere.
    pub no_route: u64,
    /// Inner packets that waited too long for a session.
    pub given_up: u64,
    /// Times that the mesh was asked something.
    pub inputs: u64,
}

/// How long a packet waits for a session, and how many do.
const HOLD: Duration = Duration::from_secs(5);
const HELD: usize = 64;
/// An address is wanted at most this often.
const WANT_AGAIN: Duration = Duration::from_millis(500);

/// A running peer.
pub struct Peer {
    /// Its brain.
    pub mesh: Mesh,
    /// Its sessions.
    pub tunnels: Box<dyn Tunnels>,
    /// The data plane's copy of the mesh's table.
    pub table: Arc<Table>,
    /// Counts.
    pub counters: Counters,
    /// What the world has to do; drained by it.
    pub effects: Vec<Effect>,
    /// Packets that wait for a session.
    held: VecDeque<(Time, Vec<u8>)>,
    wanted: BTreeMap<IpAddr, Time>,
    /// By link: what was seen since the mesh was told.
    traffic: Vec<Option<Traffic>>,
    dirty: Vec<LinkId>,
    buffer: Vec<u8>,
    opened: Vec<u8>,
}

impl Peer {
    /// A peer that has not said a word.
    pub fn new(mesh: Mesh, tunnels: Box<dyn Tunnels>) -> Self {
        Self {
            mesh,
            tunnels,
            table: Arc::default(),
            counters: Counters::default(),
            effects: Vec::new(),
            held: VecDeque::new(),
            wanted: BTreeMap::new(),
            traffic: Vec::new(),
            dirty: Vec::new(),
            buffer: vec![0; 2_048],
            opened: vec![0; 2_048],
        }
    }

    /// Tells the mesh something and does what it asks for then.
    pub fn input(&mut self, now: Time, input: Input<'_>) {
        self.counters.inputs += 1;
        self.mesh.handle(now, input);
        self.drain(now);
    }

    /// Whether links have traffic that the mesh has not been told of.
    pub fn has_traffic(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Tells the mesh what was seen on links.
    pub fn report_traffic(&mut self, now: Time) {
        for link in std::mem::take(&mut self.dirty) {
            if let Some(traffic) = self.traffic.get_mut(link.0 as usize).and_then(Option::take) {
                self.input(now, Input::Traffic(traffic));
            }
        }
    }

    /// Runs the sessions' timers.
    pub fn tick(&mut self, now: Time) {
        let mut events = Vec::new();
        self.tunnels.tick(&mut events);
        self.tell(now, events);
        while self.held.front().is_some_and(|(since, _)| now.since(*since) >= HOLD) {
            self.held.pop_front();
            self.counters.given_up += 1;
        }
    }

    /// Whether ticks are worth their while.
    pub fn needs_ticks(&self) -> bool {
        !self.held.is_empty() || self.table.links.iter().any(Option::is_some)
    }

    /// A datagram came.
    pub fn datagram(&mut self, now: Time, socket: SocketId, remote: SocketAddr, payload: &[u8]) {
        self.counters.received += 1;
        self.counters.received_bytes += (payload.len() + if remote.is_ipv4() { 28 } else { 48 }) as u64;
        let via = Via::Udp { socket, remote };
        let server = self.table.servers.get(&via).copied();
        match (server, payload) {
            (Some(_), [0x40..=0x4f, ..]) => self.channel_data(now, via, payload),
            (_, message) if is_wireguard(message) => self.wireguard(now, Path::Direct { socket, remote }, message),
            (Some(_), message) if is_stun(message) => self.input(now, Input::Stun { via, message }),
            _ => self.counters.unrecognised += 1,
        }
    }

    /// A frame came on a stream.
    pub fn frame(&mut self, now: Time, stream: StreamId, frame: &[u8]) {
        self.counters.received += 1;
        self.counters.received_bytes += frame.len() as u64 + 54;
        let via = Via::Stream(stream);
        match frame {
            [0x40..=0x4f, ..] => self.channel_data(now, via, frame),
            message if is_stun(message) => self.input(now, Input::Stun { via, message }),
            _ => self.counters.unrecognised += 1,
        }
    }

    fn channel_data(&mut self, now: Time, via: Via, frame: &[u8]) {
        let (Some(&server), [high, low, length @ ..]) = (self.table.servers.get(&via), frame) else {
            self.counters.unrecognised += 1;
            return;
        };
        let channel = u16::from_be_bytes([*high, *low]);
        let length = length.first_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
        match frame.get(4..4 + length) {
            Some(message) if is_wireguard(message) => self.wireguard(now, Path::Relay { server, via, channel }, message),
            _ => self.counters.unrecognised += 1,
        }
    }

    /// A WireGuard message came by `path`.
    fn wireguard(&mut self, now: Time, path: Path, message: &[u8]) {
        if message[0] == 4 {
            self.open(now, path, message);
        } else {
            let initiator = if message[0] == 1 { self.tunnels.initiator(message) } else { None };
            if message[0] == 1 && initiator.is_none() {
                self.counters.forged += 1;
                return;
            }
            self.input(now, Input::Handshake { path, message, initiator });
        }
    }

    fn open(&mut self, now: Time, path: Path, message: &[u8]) {
        let mut events = Vec::new();
        let mut out = std::mem::take(&mut self.opened);
        let opened = self.tunnels.open(message, &mut out, &mut events);
        self.tell(now, events);
        match opened {
            Ok(opened) => {
                let traffic = self.traffic(opened.link);
                traffic.last_received = Some((now, path));
                let packet = &out[opened.packet];
                if let Some(payload) = control::unwrap(packet) {
                    self.input(now, Input::Control { link: opened.link, path, payload });
                } else if !packet.is_empty() {
                    let entry = self.table.links.get(opened.link.0 as usize).and_then(Option::as_ref);
                    let (source, destination) = addresses(packet).unzip();
                    if !entry.zip(source).is_some_and(|(entry, source)| entry.allowed.iter().any(|net| net.contains(&source))) {
                        self.counters.wrong_source += 1;
                    } else if !destination.is_some_and(|destination| self.table.is_ours(&destination)) {
                        self.counters.wrong_destination += 1;
                    } else {
                        self.traffic(opened.link).received_bytes += packet.len() as u64;
                        self.effects.push(Effect::Inner(packet.to_vec()));
                    }
                }
            }
            Err(TunnelError::Replayed) => self.counters.replayed += 1,
            Err(_) => self.counters.forged += 1,
        }
        self.opened = out;
    }

    /// An application sends an IP packet.
    pub fn app(&mut self, now: Time, packet: Vec<u8>) {
        let Some((_, destination)) = addresses(&packet) else { return };
        let link = self.lookup(destination);
        if link.is_some_and(|link| self.seal(now, link, &packet)) {
            return;
        }
        if self.held.len() == HELD {
            self.held.pop_front();
            self.counters.given_up += 1;
        }
        self.held.push_back((now, packet));
        if self.wanted.get(&destination).is_none_or(|&last| now.since(last) >= WANT_AGAIN) {
            self.wanted.insert(destination, now);
            self.input(now, Input::Wanted { address: destination });
        }
    }

    /// Whose an overlay address is.
    pub fn lookup(&self, address: IpAddr) -> Option<LinkId> {
        let host = self.table.hosts.get(&address).copied();
        host.or_else(|| self.table.routes.iter().find(|(net, _)| net.contains(&address)).map(|&(_, link)| link))
    }

    /// Seals and sends on the link's path, if there is one and a session.
    fn seal(&mut self, now: Time, link: LinkId, packet: &[u8]) -> bool {
        let Some(entry) = self.table.links.get(link.0 as usize).and_then(Option::as_ref) else { return false };
        let (Some(path), also) = (entry.path, entry.also) else { return false };
        if !self.seal_on(now, link, path, packet) {
            return false;
        }
        if let Some(also) = also {
            // The same message: the receiver's replay window drops the second.
            let message = std::mem::take(&mut self.buffer);
            self.send_on(also, &message[..packet.len() + OVERHEAD]);
            self.buffer = message;
        }
        true
    }

    fn seal_on(&mut self, now: Time, link: LinkId, path: Path, packet: &[u8]) -> bool {
        let mut out = std::mem::take(&mut self.buffer);
        if out.len() < packet.len() + 64 {
            out.resize(packet.len() + 64, 0);
        }
        let sealed = self.tunnels.seal(link, packet, &mut out);
        if let Ok(length) = sealed {
            let traffic = self.traffic(link);
            traffic.last_sent = Some(now);
            if control::unwrap(packet).is_none() {
                traffic.sent_bytes += packet.len() as u64;
            }
            self.send_on(path, &out[..length]);
        }
        self.buffer = out;
        sealed.is_ok()
    }

    fn send_on(&mut self, path: Path, message: &[u8]) {
        match path {
            Path::Direct { socket, remote } => self.send(Via::Udp { socket, remote }, message.to_vec()),
            Path::Relay { via, channel, .. } => {
                let mut frame = Vec::with_capacity(4 + message.len());
                frame.extend_from_slice(&channel.to_be_bytes());
                frame.extend_from_slice(&(message.len() as u16).to_be_bytes());
                frame.extend_from_slice(message);
                self.send(via, frame);
            }
        }
    }

    fn send(&mut self, via: Via, payload: Vec<u8>) {
        self.counters.sent += 1;
        match via {
            Via::Udp { socket, remote } => {
                self.counters.sent_bytes += (payload.len() + if remote.is_ipv4() { 28 } else { 48 }) as u64;
                self.effects.push(Effect::Datagram { socket, remote, payload });
            }
            Via::Stream(stream) => {
                self.counters.sent_bytes += payload.len() as u64 + 54;
                self.effects.push(Effect::Frame { stream, frame: payload });
            }
        }
    }

    /// Hands the sessions' events to the mesh.
    fn tell(&mut self, now: Time, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        for event in events {
            self.counters.inputs += 1;
            self.mesh.handle(now, Input::Tunnel(event));
        }
        self.drain(now);
    }

    /// Does what camping needs.
    fn camp(&mut self, output: fire::Output) {
        match output {
            fire::Output::Send { via, datagram } => self.send(via, datagram),
            fire::Output::Resolve { server, host, port } => self.effects.push(Effect::Resolve { server, host, port }),
            fire::Output::OpenStream { stream, remote, transport, .. } => {
                self.effects.push(Effect::Connect { stream, remote, transport });
            }
            fire::Output::CloseStream { stream } => self.effects.push(Effect::Disconnect { stream }),
            fire::Output::Notice(notice) => self.effects.push(Effect::CampNotice(notice)),
        }
    }

    /// Does what the mesh asks for until it asks for nothing.
    fn drain(&mut self, now: Time) {
        let mut events = Vec::new();
        while let Some(output) = self.mesh.poll() {
            match output {
                Output::Fire(output) => self.camp(output),
                Output::Data(Command::Send { socket, remote, datagram }) => self.send(Via::Udp { socket, remote }, datagram),
                Output::Data(Command::SendMessage { path, message }) => self.send_on(path, &message),
                Output::Data(Command::SendControl { link, path, payload }) => {
                    self.seal_on(now, link, path, &control::wrap(&payload));
                }
                Output::Data(Command::Tunnel(command)) => self.tunnels.execute(command, &mut events),
                Output::Data(Command::IdentifyInitiation { token, message }) => {
                    let initiator = self.tunnels.initiator(&message);
                    self.mesh.handle(now, Input::Initiation { token, initiator });
                }
                Output::Data(Command::Receive { path, message }) => match message.first() {
                    Some(4) => {
                        // The table must be the mesh's: it may have made the link just now.
                        self.refresh();
                        self.open(now, path, &message);
                    }
                    Some(1..=3) => match self.tunnels.handshake(&message, &mut events) {
                        Ok(_) => {}
                        Err(TunnelError::Replayed) => self.counters.replayed += 1,
                        Err(_) => self.counters.forged += 1,
                    },
                    _ => self.counters.unrecognised += 1,
                },
                Output::Data(Command::OpenSocket { socket, like }) => self.effects.push(Effect::OpenSocket { socket, like }),
                Output::Data(Command::CloseSocket { socket }) => self.effects.push(Effect::CloseSocket { socket }),
                Output::Notice(notice) => self.effects.push(Effect::Notice(notice)),
            }
            for event in events.drain(..) {
                self.counters.inputs += 1;
                self.mesh.handle(now, Input::Tunnel(event));
            }
        }
        if self.refresh() || !self.held.is_empty() {
            self.release(now);
        }
    }

    /// Takes the mesh's table if it is newer.
    fn refresh(&mut self) -> bool {
        let table = self.mesh.table();
        let newer = table.version != self.table.version;
        self.table = table;
        newer
    }

    /// Sends what waited and may go now.
    fn release(&mut self, now: Time) {
        for _ in 0..self.held.len() {
            let Some((since, packet)) = self.held.pop_front() else { return };
            let link = addresses(&packet).and_then(|(_, destination)| self.lookup(destination));
            if !link.is_some_and(|link| self.seal(now, link, &packet)) {
                self.held.push_back((since, packet));
            }
        }
    }

    fn traffic(&mut self, link: LinkId) -> &mut Traffic {
        let position = link.0 as usize;
        if self.traffic.len() <= position {
            self.traffic.resize(position + 1, None);
        }
        if self.traffic[position].is_none() {
            self.dirty.push(link);
        }
        self.traffic[position].get_or_insert(Traffic { link, sent_bytes: 0, received_bytes: 0, last_received: None, last_sent: None })
    }
}

/// See docs/protocol.md, "On the wire".
fn is_wireguard(message: &[u8]) -> bool {
    matches!((message.first_chunk(), message.len()), (Some([1, 0, 0, 0]), 148) | (Some([2, 0, 0, 0]), 92) | (Some([3, 0, 0, 0]), 64))
        || message.len() >= 32 && message[..4] == [4, 0, 0, 0]
}

fn is_stun(message: &[u8]) -> bool {
    message.len() >= 20
        && message[0] < 4
        && message.len().is_multiple_of(4)
        && usize::from(u16::from_be_bytes([message[2], message[3]])) == message.len() - 20
        && message[4..8] == [0x21, 0x12, 0xa4, 0x42]
}
