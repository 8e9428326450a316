//! The loop: waits for what is ready, and does it in this order: commands of the control plane, datagrams from UDP, packets from the TUN, timers.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver as Commands, TryRecvError};
use std::time::{Duration, Instant};

use campfire_datapath::{Config, Datapath, Memory};
use campfire_protocol::carrier::{SocketId, Via};
use campfire_protocol::time::Time;
use campfire_sys::epoll::{Epoll, Wake};
use campfire_sys::tun::{self, Tun};
use campfire_sys::udp::{Received, Receiver};
use campfire_tunnel::noise::NoiseTunnels;
use tokio::sync::mpsc::Sender;

use super::DataConfig;
use super::outside::{Control, Outside, add};
use crate::plane::{Counters, FromData, ToData};

const _: () = assert!(tun::HEADER == campfire_datapath::vnet::VNET);

/// Tokens of the epoll instance; sockets have theirs from 0.
const WAKE: u64 = u64::MAX;
const TUN: u64 = u64::MAX - 1;

/// A packet from the TUN with its header; room for what the kernel may put there at most.
const READ: usize = 66 * 1024;

/// Packets and bytes read from the TUN before other things get their turn.
const TUN_PACKETS: usize = 64;
const TUN_BYTES: usize = 256 * 1024;

/// Receives on one socket before other things get their turn, and datagrams or trains in each: few when they are long, so that they stay in the
/// cache.
const RECEIVES: usize = 4;
const SHORT_BATCH: usize = 32;
const LONG_BATCH: usize = 4;
const LONG: usize = 8192;

/// Turns before epoll is asked again.
const TURNS: usize = 16;

/// Commands done before packets get their turn.
const COMMANDS: usize = 256;

/// How often the control plane's full queue is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// Why the loop ends.
enum End {
    Stopped,
    Failed(String),
}

/// All that the thread owns, but for the buffers that it reads into.
pub(super) struct Worker {
    datapath: Datapath<NoiseTunnels>,
    outside: Outside,
    now: Time,
    epoch: Instant,
    commands: Commands<ToData>,
    wake: Arc<Wake>,
    /// The datapath knows that the device takes no superpackets.
    singly: bool,
    /// Sockets to receive from in this turn.
    ready: Vec<SocketId>,
    batch: usize,
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
        epoll.add(&*wake, WAKE)?;
        epoll.add(&config.tun, TUN)?;
        let datapath = Config {
            mtu: config.mtu,
            tcp_superpackets: config.tun.tcp_superpackets(),
            udp_superpackets: config.tun.udp_superpackets(),
            memory: Memory::default(),
        };
        let control = Control::new(to, Arc::clone(&counters));
        let mut worker = Self {
            datapath: Datapath::new(NoiseTunnels::new(&config.secret), &datapath),
            outside: Outside::new(config.tun, epoll, control, counters),
            now: Time::default(),
            epoch: config.epoch,
            commands,
            wake,
            singly: false,
            ready: Vec::new(),
            batch: SHORT_BATCH,
        };
        for (id, socket) in config.sockets {
            worker.outside.adopt(id, socket)?;
        }
        Ok(worker)
    }

    /// The thread's life.
    pub fn run(mut self) {
        let mut receiver = Receiver::new(SHORT_BATCH);
        let mut buffer = vec![0; READ];
        if let Err(End::Failed(reason)) = self.work(&mut receiver, &mut buffer) {
            self.outside.control.tell(FromData::Failed(reason));
        }
        self.datapath.flush(&mut self.outside);
    }

    fn work(&mut self, receiver: &mut Receiver, buffer: &mut [u8]) -> Result<(), End> {
        loop {
            let timeout = self.timeout();
            let count = self.outside.epoll.wait(timeout).map_err(|error| End::Failed(format!("epoll: {error}")))?;
            self.now = Time::from_micros(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX));
            let mut tun = false;
            self.ready.clear();
            for index in 0..count {
                match self.outside.epoll.token(index) {
                    Some(WAKE) => {
                        self.wake.clear();
                        self.commands()?;
                    }
                    Some(TUN) => tun = true,
                    Some(socket) => self.ready.push(SocketId(socket as u16)),
                    None => {}
                }
            }
            for _ in 0..TURNS {
                let mut more = false;
                for index in 0..self.ready.len() {
                    more |= self.receive(receiver, self.ready[index]);
                }
                if tun {
                    tun = self.read(buffer)?;
                    more |= tun;
                }
                if !more {
                    break;
                }
            }
            self.outside.control.flush();
            self.datapath.tick(self.now, &mut self.outside);
            self.datapath.flush(&mut self.outside);
            if self.outside.singly && !std::mem::replace(&mut self.singly, true) {
                self.datapath.write_singly();
            }
            self.outside.counters.publish(self.datapath.counters());
        }
    }

    /// How long there is nothing to do by ourselves.
    fn timeout(&self) -> Option<Duration> {
        let retry = self.outside.control.is_waiting().then_some(RETRY);
        let wake = self.datapath.next_wake().map(|wake| wake.since(self.now));
        wake.into_iter().chain(retry).min()
    }

    /// Commands of the control plane.
    fn commands(&mut self) -> Result<(), End> {
        let mut done = 0;
        while done < COMMANDS {
            match self.commands.try_recv() {
                Ok(ToData::Stop) | Err(TryRecvError::Disconnected) => return Err(End::Stopped),
                Ok(message) => self.told(message),
                Err(TryRecvError::Empty) => break,
            }
            done += 1;
        }
        self.datapath.flush(&mut self.outside);
        if done == COMMANDS {
            self.wake.signal();
        }
        Ok(())
    }

    fn told(&mut self, message: ToData) {
        match message {
            ToData::Table(table) => self.datapath.set_table(self.now, table, &mut self.outside),
            ToData::Command(command) => self.datapath.command(self.now, command, &mut self.outside),
            ToData::StreamFrames { stream, frames } => {
                add(&self.outside.counters.stream_received_frames, frames.len());
                self.datapath.received(self.now, Via::Stream(stream), frames.iter().map(Vec::as_slice), &mut self.outside);
            }
            ToData::StreamReady { stream, sender } => {
                self.outside.streams.insert(stream, sender);
            }
            ToData::StreamGone { stream } => {
                self.outside.streams.remove(&stream);
            }
            ToData::Stop => {}
        }
    }

    /// Receives from one socket; says whether there may be more.
    fn receive(&mut self, receiver: &mut Receiver, id: SocketId) -> bool {
        let mut more = true;
        for _ in 0..RECEIVES {
            let Some(socket) = self.outside.socket(id) else { return false };
            let count = match receiver.receive(socket, self.batch) {
                Ok(count) => count,
                Err(error) => {
                    tracing::debug!(%error, socket = id.0, "receiving");
                    0
                }
            };
            let (mut datagrams, mut bytes) = (0, 0);
            for index in 0..count {
                let Some(Received { from, offset, length, segment, .. }) = receiver.get(index) else { continue };
                datagrams += length.div_ceil(segment);
                bytes += length;
                let via = Via::Udp { socket: id, remote: from };
                self.datapath.received(self.now, via, receiver.bytes(offset, length).chunks(segment), &mut self.outside);
            }
            let counters = &self.outside.counters;
            add(&counters.udp_receives, usize::from(count > 0));
            add(&counters.udp_received_datagrams, datagrams);
            add(&counters.udp_received_bytes, bytes);
            more = count == self.batch;
            if count > 0 {
                self.batch = if bytes > count * LONG { LONG_BATCH } else { SHORT_BATCH };
            }
            if !more {
                break;
            }
        }
        self.datapath.flush(&mut self.outside);
        more
    }

    /// Reads from the TUN; says whether there may be more.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool, End> {
        let (mut packets, mut bytes) = (0, 0);
        let mut more = true;
        while packets < TUN_PACKETS && bytes < TUN_BYTES {
            match self.outside.tun.read(buffer) {
                Ok(Some(length)) => {
                    packets += 1;
                    bytes += length.saturating_sub(tun::HEADER);
                    self.datapath.packet(self.now, &mut buffer[..length], &mut self.outside);
                }
                Ok(None) => {
                    more = false;
                    break;
                }
                Err(error) if Tun::is_gone(&error) => {
                    return Err(End::Failed(format!("the TUN device {} is gone ({error})", self.outside.tun.name())));
                }
                Err(error) => {
                    tracing::debug!(%error, "reading from the TUN");
                    more = false;
                    break;
                }
            }
        }
        add(&self.outside.counters.tun_reads, packets);
        add(&self.outside.counters.tun_read_bytes, bytes);
        self.datapath.flush(&mut self.outside);
        Ok(more)
    }
}
