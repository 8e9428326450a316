//! The thread: waits for what is ready, and does it in this order: commands of the control plane, datagrams from UDP, packets
//! from the TUN, timers.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver as Commands, TryRecvError};
use std::time::{Duration, Instant};

use campfire_datapath::command::Command;
use campfire_datapath::table::{Table, Traffic};
use campfire_protocol::carrier::{Path, SocketId, Via};
use campfire_protocol::time::Time;
use campfire_tunnel::noise::NoiseTunnels;
use campfire_tunnel::{Event, LinkId, OVERHEAD, Tunnels, control};
use tokio::sync::mpsc::Sender;

use super::ports::Ports;
use super::{DataConfig, Wake, add};
use crate::plane::{Counters, FromData, ToData};
use campfire_datapath::coalesce::Coalescer;
use campfire_datapath::waiting::Waiting;
use campfire_sys::calls::{BATCH, Epoll, Receiver};
use campfire_sys::tun::Tun;

/// Tokens of the epoll instance; sockets have theirs from 0.
const WAKE: u64 = u64::MAX;
const TUN: u64 = u64::MAX - 1;

/// Opened packets between two flushes.
pub(super) const SLAB: usize = 512 * 1024;

/// A packet from the TUN with its header; room for what the kernel may put there at most.
const READ: usize = 66 * 1024;

/// Packets and bytes read from the TUN before other things get their turn.
const TUN_PACKETS: usize = 64;
const TUN_BYTES: usize = 256 * 1024;

/// Receives on one socket before other things get their turn.
const RECEIVES: usize = 4;

/// Turns before epoll is asked again.
const TURNS: usize = 16;

/// Commands done before packets get their turn.
const COMMANDS: usize = 256;

/// How often tunnels' timers run.
const TICK: Duration = Duration::from_millis(250);

/// How often traffic is reported.
const REPORT: Duration = Duration::from_millis(100);

/// How often the control plane's full queue is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// Messages kept while the control plane's queue is full.
const PENDING: usize = 65_536;

/// Why the loop ends.
enum End {
    Stopped,
    Failed(String),
}

/// What was seen on a link since the last report.
#[derive(Clone, Default)]
pub(super) struct LinkState {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub last_received: Option<(Time, Path)>,
    pub last_sent: Option<Time>,
    active: bool,
}

/// The way to the control plane.
pub(super) struct Outbox {
    to: Sender<FromData>,
    pending: VecDeque<FromData>,
    counters: Arc<Counters>,
}

impl Outbox {
    /// Says something that must arrive.
    pub fn tell(&mut self, message: FromData) {
        if self.pending.len() < PENDING {
            self.pending.push_back(message);
        } else {
            add(&self.counters.dropped_to_control, 1);
        }
        self.flush();
    }

    /// Says something that the network would say again.
    pub fn offer(&mut self, message: FromData) {
        if self.pending.is_empty() && self.to.try_send(message).is_ok() {
            return;
        }
        add(&self.counters.dropped_to_control, 1);
    }

    fn flush(&mut self) {
        while let Some(message) = self.pending.pop_front() {
            if let Err(error) = self.to.try_send(message) {
                self.pending.push_front(match error {
                    tokio::sync::mpsc::error::TrySendError::Full(message) => message,
                    tokio::sync::mpsc::error::TrySendError::Closed(_) => return,
                });
                return;
            }
        }
    }
}

/// All that the thread owns.
pub(super) struct Worker {
    pub tun: Tun,
    pub ports: Ports,
    pub tunnels: NoiseTunnels,
    pub table: Arc<Table>,
    pub links: Vec<LinkState>,
    active: Vec<LinkId>,
    pub events: Vec<Event>,
    /// A message that goes two ways.
    pub twice: Vec<u8>,
    /// Opened packets that the coalescer holds.
    pub slab: Vec<u8>,
    pub used: usize,
    pub coalescer: Coalescer,
    pub waiting: Waiting,
    pub outbox: Outbox,
    pub counters: Arc<Counters>,
    pub mtu: u16,
    pub now: Time,
    epoch: Instant,
    epoll: Epoll,
    commands: Commands<ToData>,
    wake: Arc<Wake>,
    /// Sockets to receive from in this turn.
    ready: Vec<SocketId>,
    /// Datagrams or buffers to ask for in one receive: few when they are long, so that they stay in the cache.
    receive: usize,
    next_tick: Time,
    next_report: Time,
}

impl Worker {
    pub fn new(
        config: DataConfig,
        commands: Commands<ToData>,
        wake: Arc<Wake>,
        to: Sender<FromData>,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(wake.event.as_fd(), WAKE)?;
        epoll.add(config.tun.as_fd(), TUN)?;
        let mut worker = Self {
            coalescer: Coalescer::new(config.tun.superpackets(), config.tun.udp_superpackets()),
            tun: config.tun,
            ports: Ports::new(Arc::clone(&counters)),
            tunnels: NoiseTunnels::new(&config.secret),
            table: Arc::default(),
            links: Vec::new(),
            active: Vec::new(),
            events: Vec::new(),
            twice: vec![0; READ],
            slab: vec![0; SLAB],
            used: 0,
            waiting: Waiting::default(),
            outbox: Outbox { to, pending: VecDeque::new(), counters: Arc::clone(&counters) },
            counters,
            mtu: config.mtu,
            now: Time::default(),
            epoch: config.epoch,
            epoll,
            commands,
            wake,
            ready: Vec::new(),
            receive: 8,
            next_tick: Time::default(),
            next_report: Time::default(),
        };
        for (id, socket) in config.sockets {
            worker.open_socket(id, socket)?;
        }
        Ok(worker)
    }

    /// The thread's life.
    pub fn run(mut self) {
        let mut receiver = Receiver::new();
        let mut buffer = vec![0; READ];
        if let Err(End::Failed(reason)) = self.work(&mut receiver, &mut buffer) {
            self.outbox.tell(FromData::Failed(reason));
        }
        self.ports.flush();
    }

    fn work(&mut self, receiver: &mut Receiver, buffer: &mut [u8]) -> Result<(), End> {
        let mut tokens = [0; 16];
        loop {
            let millis = self.wait_millis();
            let count = self.epoll.wait(&mut tokens, millis).map_err(|error| End::Failed(format!("epoll: {error}")))?;
            self.now = Time::from_micros(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX));
            let mut tun = false;
            self.ready.clear();
            for token in &tokens[..count] {
                match *token {
                    WAKE => {
                        self.wake.clear();
                        self.commands()?;
                    }
                    TUN => tun = true,
                    socket => self.ready.push(SocketId(socket as u16)),
                }
            }
            for _ in 0..TURNS {
                let mut more = false;
                for index in 0..self.ready.len() {
                    let socket = self.ready[index];
                    more |= self.receive(receiver, socket);
                }
                if tun {
                    tun = self.read(buffer)?;
                    more |= tun;
                }
                if !more {
                    break;
                }
            }
            self.timers();
            self.ports.flush();
        }
    }

    fn wait_millis(&self) -> i32 {
        let mut next = self.next_tick;
        if !self.active.is_empty() {
            next = next.min(self.next_report);
        }
        if !self.outbox.pending.is_empty() {
            next = next.min(self.now + RETRY);
        }
        let wait = next.since(self.now);
        i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
    }

    /// Commands of the control plane.
    fn commands(&mut self) -> Result<(), End> {
        for _ in 0..COMMANDS {
            match self.commands.try_recv() {
                Ok(ToData::Stop) | Err(TryRecvError::Disconnected) => return Err(End::Stopped),
                Ok(message) => self.told(message),
                Err(TryRecvError::Empty) => {
                    self.ports.flush();
                    self.flush_opened();
                    return Ok(());
                }
            }
        }
        self.ports.flush();
        self.flush_opened();
        self.wake.wake();
        Ok(())
    }

    fn told(&mut self, message: ToData) {
        match message {
            ToData::Table(table) => {
                self.table = table;
                self.release();
            }
            ToData::Command(command) => self.command(command),
            ToData::StreamFrames { stream, frames } => {
                add(&self.counters.stream_received_frames, frames.len());
                let via = Via::Stream(stream);
                let server = self.table.servers.get(&via).copied();
                for frame in &frames {
                    self.datagram(via, server, frame);
                }
            }
            ToData::StreamReady { stream, sender } => self.ports.stream_ready(stream, sender),
            ToData::StreamGone { stream } => self.ports.stream_gone(stream),
            ToData::Stop => {}
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Send { socket, remote, datagram } => self.ports.send(Via::Udp { socket, remote }, &[], &datagram),
            Command::SendMessage { path, message } => self.ports.send_message(&path, &message),
            Command::SendControl { link, path, payload } => {
                let packet = control::wrap(&payload);
                let mut message = vec![0; packet.len() + OVERHEAD];
                match self.tunnels.seal(link, &packet, &mut message) {
                    Ok(length) => {
                        self.ports.send_message(&path, &message[..length]);
                        let now = self.now;
                        if let Some(state) = self.link_state(link) {
                            state.last_sent = Some(now);
                        }
                    }
                    Err(error) => self.count_refused(error),
                }
            }
            Command::Tunnel(command) => {
                self.tunnels.execute(command, &mut self.events);
                self.tell_events();
            }
            Command::IdentifyInitiation { token, message } => {
                let initiator = self.tunnels.initiator(&message);
                self.outbox.tell(FromData::Initiation { token, initiator });
            }
            Command::Receive { path, message } => {
                if message.first() == Some(&4) {
                    self.data(&message, path);
                } else {
                    if let Err(error) = self.tunnels.handshake(&message, &mut self.events) {
                        self.count_refused(error);
                    }
                    self.tell_events();
                }
            }
            Command::OpenSocket { socket, like } => {
                let opened = self.ports.another(like).and_then(|fresh| self.open_socket(socket, fresh));
                if let Err(error) = opened {
                    tracing::debug!(%error, "no further UDP socket");
                    self.outbox.tell(FromData::SocketClosed { socket });
                }
            }
            Command::CloseSocket { socket } => self.ports.close(socket),
        }
    }

    fn open_socket(&mut self, id: SocketId, socket: UdpSocket) -> io::Result<()> {
        let local = socket.local_addr()?;
        self.epoll.add(socket.as_fd(), u64::from(id.0))?;
        self.ports.open(id, socket);
        self.outbox.tell(FromData::SocketOpened { socket: id, local });
        Ok(())
    }

    /// Hands on what the tunnels said; a session may let packets go that waited for it.
    pub fn tell_events(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let mut established = false;
        for event in self.events.drain(..) {
            established |= matches!(event, Event::Established { .. });
            self.outbox.tell(FromData::Tunnel(event));
        }
        if established {
            self.release();
        }
    }

    /// Receives from one socket; says whether there may be more.
    fn receive(&mut self, receiver: &mut Receiver, socket: SocketId) -> bool {
        let mut more = true;
        for _ in 0..RECEIVES {
            let Some(fd) = self.ports.socket(socket) else { return false };
            let count = match receiver.receive(fd.as_fd(), self.receive) {
                Ok(count) => count,
                Err(error) => {
                    tracing::debug!(%error, ?socket, "receiving");
                    0
                }
            };
            add(&self.counters.udp_receives, usize::from(count > 0));
            let mut bytes = 0;
            for index in 0..count {
                let Some((buffer, remote, segment)) = receiver.get(index) else { continue };
                bytes += buffer.len();
                add(&self.counters.udp_received_datagrams, buffer.len().div_ceil(segment));
                let via = Via::Udp { socket, remote };
                let server = self.table.servers.get(&via).copied();
                for datagram in buffer.chunks(segment) {
                    self.datagram(via, server, datagram);
                }
            }
            add(&self.counters.udp_received_bytes, bytes);
            more = count == self.receive;
            if count > 0 {
                self.receive = if bytes > count * 8192 { 4 } else { BATCH };
            }
            if !more {
                break;
            }
        }
        self.flush_opened();
        more
    }

    /// Reads from the TUN; says whether there may be more.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool, End> {
        let mut bytes = 0;
        let mut more = true;
        for _ in 0..TUN_PACKETS {
            match self.tun.read(buffer) {
                Ok(length) => {
                    bytes += length;
                    self.packet(&mut buffer[..length]);
                    if bytes >= TUN_BYTES {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    more = false;
                    break;
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EFAULT | libc::ENODEV)) => {
                    return Err(End::Failed(format!("the TUN device {} is gone ({error})", self.tun.name())));
                }
                Err(error) => {
                    tracing::debug!(%error, "reading from the TUN");
                    more = false;
                    break;
                }
            }
        }
        self.ports.flush();
        Ok(more)
    }

    fn timers(&mut self) {
        self.outbox.flush();
        if self.now >= self.next_tick {
            self.next_tick = self.now + TICK;
            self.tunnels.tick(&mut self.events);
            self.tell_events();
            add(&self.counters.dropped_no_session, self.waiting.expire(self.now));
        }
        if self.now >= self.next_report && !self.active.is_empty() {
            self.next_report = self.now + REPORT;
            let links = &mut self.links;
            let report = self.active.drain(..).filter_map(|link| {
                let state = std::mem::take(links.get_mut(link.0 as usize)?);
                Some(Traffic {
                    link,
                    sent_bytes: state.sent_bytes,
                    received_bytes: state.received_bytes,
                    last_received: state.last_received,
                    last_sent: state.last_sent,
                })
            });
            let report = report.collect();
            self.outbox.tell(FromData::Traffic(report));
        }
    }

    /// What is noted of a link until the next report.
    #[inline]
    pub fn link_state(&mut self, link: LinkId) -> Option<&mut LinkState> {
        let index = link.0 as usize;
        if index >= self.links.len() {
            if index >= self.table.links.len() {
                return None;
            }
            self.links.resize(self.table.links.len(), LinkState::default());
        }
        let state = &mut self.links[index];
        if !state.active {
            state.active = true;
            self.active.push(link);
        }
        Some(state)
    }

    /// Whose an address is.
    #[inline]
    pub fn lookup(&self, address: &IpAddr) -> Option<LinkId> {
        self.table
            .hosts
            .get(address)
            .or_else(|| self.table.routes.iter().find(|(net, _)| net.contains(address)).map(|(_, link)| link))
            .copied()
    }
}
