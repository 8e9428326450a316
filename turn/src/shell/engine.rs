//! The packet thread: owns the core and every UDP socket, and never waits for anything but epoll.
//!
//! Priorities of its loop: 1. commands and frames from streams (bounded each time), 2. datagrams, a batch a socket,
//! 3. timers. After each batch everything that it caused is sent.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use campfire_protocol::time::{Time, UnixMillis};
use campfire_sys::epoll::{Epoll, Wake};
use campfire_sys::udp::{BATCH, HEADROOM, Received, Receiver};
use campfire_turn::Server;
use campfire_turn::auth::Secrets;
use campfire_turn::io::{Forward, Input, Output, RelayId, StreamId, Via};
use campfire_turn::stats::Metric;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;
use tokio::sync::{mpsc, oneshot};

use super::framing;
use super::metrics::Counters;
use super::outbox::{Outbox, Route, SocketKey};
use super::queue::Queue;
use super::sockets::{RelaySettings, UdpSockets};

/// Length of the ChannelData header.
const HEADER: usize = 4;
/// Most batches of stream frames taken between two looks at the sockets.
const STREAM_BATCHES: usize = 64;
/// Batches of stream frames that wait for the packet thread; more hold up the streams they come from.
const STREAM_BACKLOG: usize = 256;
const WAKE_TOKEN: u64 = u64::MAX;
const _: () = assert!(HEADER <= HEADROOM);
/// Tokens of relay sockets have this bit and the relay's number.
const RELAY_TOKEN: u64 = 1 << 63;

/// What other threads ask of the packet thread.
pub enum Command {
    /// New secrets.
    Secrets(Secrets),
    /// Stop taking newcomers.
    Drain,
    /// Read the core's numbers.
    Report(oneshot::Sender<Report>),
    /// End.
    Stop,
}

/// The core's numbers.
pub struct Report {
    /// For Prometheus.
    pub metrics: Vec<Metric>,
    /// A drain is over.
    pub idle: bool,
    /// Clients that hold a seat or an allocation.
    pub clients: u64,
    /// Allocations (RFC 8656).
    pub allocations: u64,
}

/// What a stream's task tells the packet thread.
pub enum StreamEvent {
    /// A client connected; what is sent to it goes into the queue.
    Opened(StreamId, SocketAddr, Arc<Queue>),
    /// Whole frames with their padding.
    Frames(StreamId, Vec<u8>),
    /// It is gone.
    Closed(StreamId),
}

/// How other threads reach the packet thread.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    streams: mpsc::Sender<StreamEvent>,
    wake: Arc<Wake>,
}

impl Handle {
    /// Sends a command. Only the program itself does, a few at a time.
    pub fn command(&self, command: Command) {
        let _ = self.commands.send(command);
        self.wake.signal();
    }

    /// The core's numbers; `None` if the packet thread does not answer within a second.
    pub async fn report(&self) -> Option<Report> {
        let (sender, receiver) = oneshot::channel();
        self.command(Command::Report(sender));
        tokio::time::timeout(std::time::Duration::from_secs(1), receiver).await.ok()?.ok()
    }

    /// Passes on what happened on a stream, when there is room.
    pub async fn stream(&self, event: StreamEvent) {
        let _ = self.streams.send(event).await;
        self.wake.signal();
    }
}

/// What the engine takes from others; made before its thread, handed over to it.
pub struct Inbox {
    commands: mpsc::UnboundedReceiver<Command>,
    streams: mpsc::Receiver<StreamEvent>,
    wake: Arc<Wake>,
}

/// The way to the packet thread, and its end there.
pub fn channel() -> std::io::Result<(Handle, Inbox)> {
    let wake = Arc::new(Wake::new()?);
    let (commands, command_receiver) = mpsc::unbounded_channel();
    let (streams, stream_receiver) = mpsc::channel(STREAM_BACKLOG);
    let handle = Handle { commands, streams, wake: Arc::clone(&wake) };
    Ok((handle, Inbox { commands: command_receiver, streams: stream_receiver, wake }))
}

struct Stream {
    remote: SocketAddr,
    queue: Arc<Queue>,
}

/// The time, read once a batch.
#[derive(Clone, Copy)]
struct Now {
    instant: Instant,
    time: Time,
    wall: UnixMillis,
}

impl Now {
    fn read(started: Instant) -> Self {
        let instant = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let time = Time::from_micros(instant.duration_since(started).as_micros() as u64);
        Self { instant, time, wall: UnixMillis(wall) }
    }
}

/// The packet thread's state.
pub struct Engine {
    server: Server,
    started: Instant,
    epoll: Epoll,
    inbox: Inbox,
    sockets: UdpSockets,
    relay_settings: RelaySettings,
    streams: HashMap<StreamId, Stream>,
    receiver: Receiver,
    outbox: Outbox,
    rng: ChaCha12Rng,
    counters: Arc<Counters>,
    stopped: bool,
}

impl Engine {
    /// Takes over the sockets. `seed` must be random.
    pub fn new(
        config: campfire_turn::Config,
        secrets: Secrets,
        seed: [u8; 32],
        sockets: UdpSockets,
        relay_settings: RelaySettings,
        inbox: Inbox,
        counters: Arc<Counters>,
    ) -> std::io::Result<Self> {
        let started = Instant::now();
        let now = Now::read(started);
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut core_seed = [0; 32];
        rand_core::RngCore::fill_bytes(&mut rng, &mut core_seed);
        let epoll = Epoll::new()?;
        epoll.add(&*inbox.wake, WAKE_TOKEN)?;
        for index in 0..sockets.listeners() {
            if let Some(socket) = sockets.socket(SocketKey::Listener(index)) {
                epoll.add(socket, index as u64)?;
            }
        }
        Ok(Self {
            server: Server::new(config, secrets, core_seed, now.time, now.wall),
            started,
            epoll,
            inbox,
            sockets,
            relay_settings,
            streams: HashMap::new(),
            receiver: Receiver::new(BATCH),
            outbox: Outbox::new(),
            rng,
            counters,
            stopped: false,
        })
    }

    /// Runs until [`Command::Stop`].
    pub fn run(mut self) -> std::io::Result<()> {
        let mut now = Now::read(self.started);
        while !self.stopped {
            // Counted from when the last batch came in: a timer may be late by what that took, and the clock is read once a wakeup.
            let wake = self.server.next_wake();
            let ready = self.epoll.wait(wake.map(|wake| wake.since(now.time)))?;
            now = Now::read(self.started);
            for index in 0..ready {
                match self.epoll.token(index) {
                    Some(WAKE_TOKEN) => self.take_inbox(now),
                    Some(token) if token & RELAY_TOKEN != 0 => self.receive_relay(RelayId(token & !RELAY_TOKEN), now),
                    Some(token) => self.receive_listener(token as usize, now),
                    None => {}
                }
                if index % 8 == 7 {
                    now = Now::read(self.started);
                }
            }
            if wake.is_some_and(|wake| wake <= now.time) {
                self.server.handle(now.time, now.wall, Input::Wake);
                self.drain_outputs(now);
            }
            self.flush();
            self.count_sent();
        }
        Ok(())
    }

    fn take_inbox(&mut self, now: Now) {
        self.inbox.wake.clear();
        while let Ok(command) = self.inbox.commands.try_recv() {
            match command {
                Command::Secrets(secrets) => self.server.handle(now.time, now.wall, Input::Secrets(secrets)),
                Command::Drain => self.server.handle(now.time, now.wall, Input::Drain),
                Command::Report(reply) => {
                    let stats = self.server.stats();
                    let (clients, allocations, metrics) = (stats.clients, stats.allocations, stats.metrics().collect());
                    let _ = reply.send(Report { metrics, idle: self.server.is_idle(), clients, allocations });
                }
                Command::Stop => self.stopped = true,
            }
            self.drain_outputs(now);
        }
        for _ in 0..STREAM_BATCHES {
            let Ok(event) = self.inbox.streams.try_recv() else { return };
            self.stream_event(event, now);
        }
        self.inbox.wake.signal();
    }

    fn stream_event(&mut self, event: StreamEvent, now: Now) {
        match event {
            StreamEvent::Opened(stream, remote, queue) => {
                self.streams.insert(stream, Stream { remote, queue });
                self.server.handle(now.time, now.wall, Input::StreamOpened { via: Via::Stream { stream, remote } });
            }
            StreamEvent::Frames(stream, mut bytes) => {
                let Some(remote) = self.streams.get(&stream).map(|stream| stream.remote) else { return };
                self.stream_frames(Via::Stream { stream, remote }, &mut bytes, now);
            }
            StreamEvent::Closed(stream) => {
                if let Some(Stream { remote, .. }) = self.streams.remove(&stream) {
                    self.server.handle(now.time, now.wall, Input::StreamClosed { via: Via::Stream { stream, remote } });
                }
            }
        }
        self.drain_outputs(now);
    }

    fn stream_frames(&mut self, via: Via, bytes: &mut [u8], now: Now) {
        let mut rest = bytes;
        let mut frames = 0;
        while let Ok(Some(frame)) = framing::first_frame(rest) {
            let Some((bytes, tail)) = rest.split_at_mut_checked(frame.total) else { break };
            rest = tail;
            frames += 1;
            let Some(bytes) = bytes.get_mut(..frame.length) else { break };
            if !is_channel_data(bytes) {
                self.server.handle(now.time, now.wall, Input::Message { via, bytes });
                self.drain_outputs(now);
                continue;
            }
            match self.server.forward(now.time, via, bytes) {
                Forward::Client { via } => self.send_client(via, bytes, now),
                Forward::Peer { relay, to, length } => {
                    let payload = bytes.get(HEADER..HEADER + length).unwrap_or_default();
                    self.send_copy(self.sockets.relay_route(relay, to), payload);
                }
                Forward::Slow => {
                    self.server.handle(now.time, now.wall, Input::Message { via, bytes });
                    self.drain_outputs(now);
                }
                Forward::Drop => {}
            }
        }
        self.counters.stream_received.add(frames);
    }

    fn receive_listener(&mut self, index: usize, now: Now) {
        let limit = self.sockets.listener_mut(index).map_or(0, |listener| listener.batch);
        let count = self.receive(SocketKey::Listener(index), limit);
        let mut bytes = 0;
        let mut datagrams = 0;
        for place in 0..count {
            let Some(received) = self.receiver.get(place) else {
                self.counters.udp_truncated.add(1);
                continue;
            };
            bytes += received.length;
            if received.from.port() == 0 {
                continue;
            }
            let Some(listener) = self.sockets.listener_id(index, received.local) else { continue };
            datagrams += self.client_datagrams(Via::Udp { listener, remote: received.from }, received, now);
        }
        if let Some(listener) = self.sockets.listener_mut(index) {
            // Half a megabyte stays in the second-level cache until it is sent.
            listener.batch = if bytes > 512 * 1024 { (limit / 2).max(8) } else { (limit * 2).min(64) };
        }
        self.counters.udp_received.add(datagrams);
        self.counters.udp_received_bytes.add(bytes as u64);
        self.flush();
    }

    /// Datagrams of a client; how many they were.
    fn client_datagrams(&mut self, via: Via, received: Received, now: Now) -> u64 {
        let end = received.offset + received.length;
        let mut offset = received.offset;
        let mut datagrams = 0;
        while offset < end {
            let length = received.segment.min(end - offset);
            datagrams += 1;
            let frame = self.receiver.bytes_mut(offset, length);
            if is_channel_data(frame) {
                match self.server.forward(now.time, via, frame) {
                    Forward::Client { via } => {
                        let length = channel_data_length(frame);
                        self.forward_client(via, offset, length, now);
                    }
                    Forward::Peer { relay, to, length } => {
                        self.outbox.push_slab(self.sockets.relay_route(relay, to), offset + HEADER, length);
                    }
                    Forward::Slow => self.message(via, offset, length, now),
                    Forward::Drop => tracing::trace!(?via, length, "ChannelData dropped"),
                }
            } else {
                self.message(via, offset, length, now);
            }
            offset += length;
        }
        datagrams
    }

    /// A STUN message (or what claims to be one) that lies in the slab.
    fn message(&mut self, via: Via, offset: usize, length: usize, now: Now) {
        tracing::trace!(?via, length, "message");
        let bytes = self.receiver.bytes_mut(offset, length);
        self.server.handle(now.time, now.wall, Input::Message { via, bytes });
        self.drain_outputs(now);
    }

    /// ChannelData that lies in the slab and has its new header.
    fn forward_client(&mut self, via: Via, offset: usize, length: usize, now: Now) {
        match via {
            Via::Udp { listener, remote } => {
                if let Some(route) = self.sockets.route(listener, remote) {
                    self.outbox.push_slab(route, offset, length);
                }
            }
            Via::Stream { stream, .. } => {
                let frame = self.receiver.bytes_mut(offset, length);
                queue_frame(&self.streams, &self.counters, stream, frame, now);
            }
        }
    }

    fn receive_relay(&mut self, relay: RelayId, now: Now) {
        let count = self.receive(SocketKey::Relay(relay.0), 32);
        let mut bytes = 0;
        let mut datagrams = 0;
        for place in 0..count {
            let Some(received) = self.receiver.get(place) else {
                self.counters.udp_truncated.add(1);
                continue;
            };
            bytes += received.length;
            datagrams += self.peer_datagrams(relay, received, now);
        }
        self.counters.udp_received.add(datagrams);
        self.counters.udp_received_bytes.add(bytes as u64);
        self.flush();
    }

    /// Datagrams of a peer; how many they were.
    fn peer_datagrams(&mut self, relay: RelayId, mut received: Received, now: Now) -> u64 {
        received.from = self.sockets.seen_from(received.from);
        let end = received.offset + received.length;
        let mut offset = received.offset;
        let mut datagrams = 0;
        let mut scratch = [0; 2048];
        // An empty datagram is one too.
        while offset < end || datagrams == 0 {
            let length = received.segment.min(end - offset);
            datagrams += 1;
            if datagrams == 1 {
                // The header goes into the free bytes in front of the slot: nothing is copied.
                let frame = self.receiver.bytes_mut(offset - HEADER, HEADER + length);
                match self.server.forward_relayed(now.time, relay, received.from, frame) {
                    Forward::Client { via } => self.forward_client(via, offset - HEADER, HEADER + length, now),
                    Forward::Slow => self.relay_datagram(relay, received.from, offset, length, now),
                    Forward::Drop | Forward::Peer { .. } => {}
                }
            } else if let Some(frame) = scratch.get_mut(..HEADER + length) {
                // The header would overwrite the datagram before it in the train, which is still to be sent.
                let payload = self.receiver.bytes_mut(offset, length);
                if let Some(room) = frame.get_mut(HEADER..) {
                    room.copy_from_slice(payload);
                }
                match self.server.forward_relayed(now.time, relay, received.from, frame) {
                    Forward::Client { via } => self.send_client(via, frame, now),
                    Forward::Slow => self.relay_datagram(relay, received.from, offset, length, now),
                    Forward::Drop | Forward::Peer { .. } => {}
                }
            } else {
                self.relay_datagram(relay, received.from, offset, length, now);
            }
            offset += length;
        }
        datagrams
    }

    fn relay_datagram(&mut self, relay: RelayId, from: SocketAddr, offset: usize, length: usize, now: Now) {
        tracing::trace!(?relay, %from, length, "datagram from a peer");
        let payload = self.receiver.bytes_mut(offset, length);
        self.server.handle(now.time, now.wall, Input::RelayDatagram { relay, from, payload });
        self.drain_outputs(now);
    }

    fn receive(&mut self, socket: SocketKey, limit: usize) -> usize {
        let Some(open) = self.sockets.socket(socket) else { return 0 };
        self.counters.udp_receive_calls.add(1);
        match self.receiver.receive(open, limit) {
            Ok(count) => count,
            Err(error) => {
                // An ICMP error of something sent earlier; it was read off the socket by being told.
                tracing::debug!(?socket, %error, "receive");
                0
            }
        }
    }

    fn drain_outputs(&mut self, now: Now) {
        while let Some(output) = self.server.poll() {
            match output {
                Output::Send { via, bytes } => self.send_client(via, &bytes, now),
                Output::SendRelay { relay, to, payload } => self.send_copy(self.sockets.relay_route(relay, to), &payload),
                Output::OpenRelay { relay, ipv6, even } => self.open_relay(relay, ipv6, even, now),
                Output::CloseRelay { relay } => {
                    // What is still to go out of it goes first.
                    self.flush();
                    self.sockets.close_relay(relay.0);
                    self.counters.relay_sockets.set(self.sockets.relays() as u64);
                }
                Output::CloseStream { via: Via::Stream { stream, .. } } => {
                    if let Some(stream) = self.streams.get(&stream) {
                        stream.queue.close();
                    }
                }
                Output::CloseStream { .. } => {}
            }
        }
    }

    fn open_relay(&mut self, relay: RelayId, ipv6: bool, even: bool, now: Now) {
        let opened = if self.relay_settings.descriptors.left() {
            self.sockets.open_relay(relay.0, ipv6, even, &self.relay_settings, &mut self.rng)
        } else {
            Err(io::Error::other("as many files are open as the system allows; raise the hard limit (ulimit -Hn, LimitNOFILE=)"))
        };
        let opened = opened.and_then(|address| {
            if let Some(socket) = self.sockets.socket(SocketKey::Relay(relay.0)) {
                self.epoll.add(socket, RELAY_TOKEN | relay.0)?;
            }
            Ok(address)
        });
        let input = match opened {
            Ok(address) => Input::RelayOpened { relay, address },
            Err(error) => {
                tracing::debug!(%error, ipv6, "no relay socket could be bound (see --relay-address and --relay-ports)");
                self.counters.relay_failed.add(1);
                self.sockets.close_relay(relay.0);
                Input::RelayFailed { relay }
            }
        };
        self.counters.relay_sockets.set(self.sockets.relays() as u64);
        self.server.handle(now.time, now.wall, input);
    }

    /// Sends a frame, by copy.
    fn send_client(&mut self, via: Via, frame: &[u8], now: Now) {
        match via {
            Via::Udp { listener, remote } => {
                if let Some(route) = self.sockets.route(listener, remote) {
                    self.send_copy(route, frame);
                }
            }
            Via::Stream { stream, .. } => queue_frame(&self.streams, &self.counters, stream, frame, now),
        }
    }

    fn send_copy(&mut self, route: Route, bytes: &[u8]) {
        if !self.outbox.has_room(bytes.len()) {
            self.flush();
        }
        self.outbox.push_bytes(route, bytes);
    }

    fn flush(&mut self) {
        if !self.outbox.is_empty() {
            self.outbox.flush(&self.sockets, self.receiver.slab());
        }
    }

    fn count_sent(&mut self) {
        let sent = self.outbox.take_sent();
        self.counters.udp_sent.add(sent.datagrams);
        self.counters.udp_sent_bytes.add(sent.bytes);
        self.counters.udp_send_calls.add(sent.calls);
        self.counters.udp_full.add(sent.full);
        self.counters.udp_refused.add(sent.refused);
    }
}

/// By its first two bits (RFC 8656 §12): channels of old clients go up to 0x7FFF.
fn is_channel_data(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & 0xC0 == 0x40)
}

/// Length of a ChannelData frame that the core has checked, without what may pad it.
fn channel_data_length(frame: &[u8]) -> usize {
    frame.get(2..4).map_or(0, |field| HEADER + (usize::from(field[0]) << 8 | usize::from(field[1]))).min(frame.len())
}

fn queue_frame(streams: &HashMap<StreamId, Stream>, counters: &Counters, stream: StreamId, frame: &[u8], now: Now) {
    let Some(stream) = streams.get(&stream) else { return };
    if stream.queue.push(now.instant, frame) {
        counters.stream_sent.add(1);
    } else {
        counters.stream_dropped.add(1);
    }
}
