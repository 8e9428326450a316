//! A peer: a real [`Mesh`] and the real [`Datapath`] between its sessions, its sockets and its applications.

use std::io::IoSlice;
use std::net::SocketAddr;

use campfire_datapath::command::Command;
use campfire_datapath::segment::segment;
use campfire_datapath::table::Table;
use campfire_datapath::upcall::Upcall;
use campfire_datapath::vnet::{VNET, VnetHeader};
use campfire_datapath::{Config, Datapath, Memory, Shell, Train};
use campfire_fire::io as fire;
use campfire_mesh::Mesh;
use campfire_mesh::io::{Input, Notice, Output};
use campfire_protocol::carrier::{ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::server::Transport;
use campfire_protocol::time::Time;
use campfire_tunnel::Tunnels;

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
    /// Times that the mesh was asked something.
    pub inputs: u64,
    /// What became of packets on their way.
    pub datapath: campfire_datapath::counters::Counters,
}

/// MTU of the overlay: that of a peer without a setting.
const MTU: u16 = 1280;

/// As little as serves one packet at a time: worlds have thousands of peers.
const MEMORY: Memory = Memory { opened: 4096, trains: 2, train: 4096 };

/// A running peer.
pub struct Peer {
    /// Its brain.
    pub mesh: Mesh,
    datapath: Datapath<Box<dyn Tunnels>>,
    /// Version of the table that the datapath has.
    published: u64,
    outside: Outside,
}

impl Peer {
    /// A peer that has not said a word.
    pub fn new(mesh: Mesh, tunnels: Box<dyn Tunnels>) -> Self {
        let config = Config { mtu: MTU, tcp_superpackets: true, udp_superpackets: true, memory: MEMORY };
        Self { mesh, datapath: Datapath::new(tunnels, &config), published: 0, outside: Outside::default() }
    }

    /// Tells the mesh something and does what it asks for then.
    pub fn input(&mut self, now: Time, input: Input<'_>) {
        self.outside.counters.inputs += 1;
        self.mesh.handle(now, input);
        self.settle(now);
    }

    /// When [`wake`](Self::wake) has something to do.
    pub fn next_wake(&self) -> Option<Time> {
        self.mesh.next_wake().into_iter().chain(self.datapath.next_wake()).min()
    }

    /// Does what is due.
    pub fn wake(&mut self, now: Time) {
        if self.datapath.next_wake().is_some_and(|due| due <= now) {
            self.datapath.tick(now, &mut self.outside);
            self.settle(now);
        }
        if self.mesh.next_wake().is_some_and(|due| due <= now) {
            self.input(now, Input::Wake);
        }
    }

    /// A datagram came.
    pub fn datagram(&mut self, now: Time, socket: SocketId, remote: SocketAddr, payload: &[u8]) {
        self.outside.counters.received += 1;
        self.outside.counters.received_bytes += (payload.len() + if remote.is_ipv4() { 28 } else { 48 }) as u64;
        self.datapath.received(now, Via::Udp { socket, remote }, [payload], &mut self.outside);
        self.settle(now);
    }

    /// A frame came on a stream: ChannelData is the datapath's, STUN the mesh's.
    pub fn frame(&mut self, now: Time, stream: StreamId, frame: &[u8]) {
        self.outside.counters.received += 1;
        self.outside.counters.received_bytes += frame.len() as u64 + 54;
        let via = Via::Stream(stream);
        if frame.first().is_some_and(|first| *first < 4) {
            self.input(now, Input::Fire(fire::Input::Stun { via, message: frame }));
        } else {
            self.datapath.received(now, via, [frame], &mut self.outside);
            self.settle(now);
        }
    }

    /// An application sends an IP packet.
    pub fn app(&mut self, now: Time, packet: &[u8]) {
        let mut buffer = [&VnetHeader::default().write()[..], packet].concat();
        self.datapath.packet(now, &mut buffer, &mut self.outside);
        self.settle(now);
    }

    /// The datapath's table.
    pub fn table(&self) -> &Table {
        self.datapath.table()
    }

    /// The sessions.
    pub fn tunnels(&self) -> &dyn Tunnels {
        &**self.datapath.tunnels()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        Counters { datapath: *self.datapath.counters(), ..self.outside.counters }
    }

    /// What is to be done in the world now.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.outside.effects)
    }

    /// Carries what each of the two says over to the other until both are quiet, as the sidecar's control loop and data thread do.
    fn settle(&mut self, now: Time) {
        loop {
            for upcall in std::mem::take(&mut self.outside.upcalls) {
                self.outside.counters.inputs += match &upcall {
                    Upcall::Traffic(links) => links.len() as u64,
                    Upcall::Stun { .. }
                    | Upcall::Handshake { .. }
                    | Upcall::Initiation { .. }
                    | Upcall::Control { .. }
                    | Upcall::Tunnel(_)
                    | Upcall::Wanted { .. } => 1,
                };
                self.mesh.upcall(now, upcall);
            }
            while let Some(output) = self.mesh.poll() {
                match output {
                    Output::Fire(output) => self.camp(now, output),
                    Output::Data(command) => self.datapath.command(now, command, &mut self.outside),
                    Output::Notice(notice) => self.outside.effects.push(Effect::Notice(notice)),
                    // Nobody asks here.
                    Output::Pong(_) => {}
                }
            }
            let table = self.mesh.table();
            if table.version != self.published {
                self.published = table.version;
                self.datapath.set_table(now, table.clone(), &mut self.outside);
            }
            self.datapath.flush(&mut self.outside);
            if self.outside.upcalls.is_empty() {
                return;
            }
        }
    }

    /// Does what camping needs.
    fn camp(&mut self, now: Time, output: fire::Output) {
        let effect = match output {
            fire::Output::Send { via: Via::Udp { socket, remote }, datagram } => {
                return self.datapath.command(now, Command::Send { socket, remote, datagram }, &mut self.outside);
            }
            fire::Output::Send { via: Via::Stream(stream), datagram } => return self.outside.frame(stream, datagram),
            fire::Output::Resolve { server, host, port } => Effect::Resolve { server, host, port },
            fire::Output::OpenStream { stream, server: _, remote, transport, host: _, pin: _ } => {
                Effect::Connect { stream, remote, transport }
            }
            fire::Output::CloseStream { stream } => Effect::Disconnect { stream },
            fire::Output::Notice(notice) => Effect::CampNotice(notice),
        };
        self.outside.effects.push(effect);
    }
}

/// What a peer's datapath reaches: the world, by effects, and the mesh.
#[derive(Default)]
struct Outside {
    effects: Vec<Effect>,
    upcalls: Vec<Upcall>,
    counters: Counters,
}

impl Outside {
    fn frame(&mut self, stream: StreamId, frame: Vec<u8>) {
        self.counters.sent += 1;
        self.counters.sent_bytes += frame.len() as u64 + 54;
        self.effects.push(Effect::Frame { stream, frame });
    }
}

impl Shell for Outside {
    fn send(&mut self, socket: SocketId, trains: &[Train<'_>]) {
        for train in trains {
            let remote = train.remote;
            for datagram in train.datagrams() {
                self.counters.sent += 1;
                self.counters.sent_bytes += (datagram.len() + if remote.is_ipv4() { 28 } else { 48 }) as u64;
                self.effects.push(Effect::Datagram { socket, remote, payload: datagram.to_vec() });
            }
        }
    }

    fn send_frames(&mut self, stream: StreamId, mut frames: &[u8], _: usize) {
        while let [_, _, high, low, ..] = *frames {
            let length = 4 + usize::from(u16::from_be_bytes([high, low]));
            let (frame, rest) = frames.split_at(length.next_multiple_of(4).min(frames.len()));
            self.frame(stream, frame[..length.min(frame.len())].to_vec());
            frames = rest;
        }
    }

    fn write(&mut self, pieces: &[IoSlice<'_>], packets: usize) {
        let mut whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let Some((header, packet)) = whole.split_first_chunk_mut::<VNET>() else { return };
        let effects = &mut self.effects;
        let cut = VnetHeader::read(*header).map(|header| segment(&header, packet, |piece| effects.push(Effect::Inner(piece.to_vec()))));
        assert_eq!(cut, Some(Ok(packets)), "what the datapath writes is sound");
    }

    fn tell(&mut self, upcall: Upcall) {
        self.upcalls.push(upcall);
    }

    fn open_socket(&mut self, socket: SocketId, like: SocketId) {
        self.effects.push(Effect::OpenSocket { socket, like });
    }

    fn close_socket(&mut self, socket: SocketId) {
        self.effects.push(Effect::CloseSocket { socket });
    }
}
