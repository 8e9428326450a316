//! The load: datagrams at a fixed rate from one client to the other, and how many arrive.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use serde::{Deserialize, Serialize};

use crate::client::{self, CHANNEL, Pair};
use crate::measure::Reading;

/// How the two clients reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Members of a campfire.
    Members,
    /// Standard allocations, each with a channel to the other's relayed address.
    Allocations,
    /// No server: straight to a sink.
    Sink,
}

/// What to send.
#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long, value_enum)]
    way: Way,
    /// The server, or the sink.
    #[arg(long)]
    server: SocketAddr,
    /// The server's process.
    #[arg(long)]
    process: Option<u32>,
    /// Datagrams a second.
    #[arg(long)]
    rate: u32,
    /// Datagrams sent with one call; 1: each by itself.
    #[arg(long)]
    train: usize,
    /// Payload of a datagram, bytes.
    #[arg(long)]
    size: usize,
    /// How long to measure, seconds.
    #[arg(long)]
    seconds: f64,
}

/// Where to take datagrams.
#[derive(clap::Args)]
pub struct SinkArguments {
    #[arg(long)]
    listen: SocketAddr,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that arrived (all that were sent, for a sink).
    pub received: u64,
    /// Wall time, seconds.
    pub seconds: f64,
    /// CPU time of the server's process, seconds.
    pub process: f64,
    /// CPU time of the machine, seconds.
    pub machine: f64,
    /// Share of the machine that others took away.
    pub steal: f64,
}

/// Longest time between two sends.
const TICK: Duration = Duration::from_millis(1);
/// Sent before measuring begins: caches, routes and the server's batches are warm then.
const WARM_UP: Duration = Duration::from_millis(500);

/// Runs the load and prints a [`Measured`] as JSON.
pub fn run(arguments: &Arguments) -> Result<()> {
    let pair = match arguments.way {
        Way::Members => client::members(arguments.server)?,
        Way::Allocations => client::allocations(arguments.server)?,
        Way::Sink => {
            let sender = client::socket(arguments.server)?;
            Pair { sender, receiver: client::socket(arguments.server)? }
        }
    };
    let received = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let counter = {
        let (received, done) = (Arc::clone(&received), Arc::clone(&done));
        let receiver = pair.receiver;
        std::thread::spawn(move || count(&receiver, &received, &done))
    };
    let mut sender = Sender::new(pair.sender, arguments)?;
    sender.send_for(WARM_UP)?;
    let (begin, sent, arrived) = (Reading::take(arguments.process)?, sender.sent, received.load(Ordering::Relaxed));
    sender.send_for(Duration::from_secs_f64(arguments.seconds))?;
    let used = Reading::take(arguments.process)?.since(&begin);
    // What is still on its way.
    std::thread::sleep(Duration::from_millis(50));
    let sent = sender.sent - sent;
    let arrived = received.load(Ordering::Relaxed) - arrived;
    done.store(true, Ordering::Relaxed);
    counter.join().map_err(|_| anyhow::anyhow!("the counting thread panicked"))??;
    let measured = Measured {
        sent,
        received: if arguments.way == Way::Sink { sent } else { arrived },
        seconds: used.elapsed.as_secs_f64(),
        process: used.process.as_secs_f64(),
        machine: used.machine.as_secs_f64(),
        steal: used.steal,
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

struct Sender {
    socket: UdpSocket,
    state: UdpSocketState,
    /// A train of frames.
    frames: Vec<u8>,
    frame: usize,
    train: usize,
    rate: f64,
    sent: u64,
}

impl Sender {
    fn new(socket: UdpSocket, arguments: &Arguments) -> Result<Self> {
        let mut frame = CHANNEL.to_be_bytes().to_vec();
        frame.extend(u16::try_from(arguments.size).context("--size")?.to_be_bytes());
        frame.resize(4 + arguments.size, 0x5A);
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self {
            socket,
            state,
            frames: frame.repeat(arguments.train),
            frame: frame.len(),
            train: arguments.train,
            rate: arguments.rate.into(),
            sent: 0,
        })
    }

    fn send_for(&mut self, duration: Duration) -> Result<()> {
        let (begin, before) = (Instant::now(), self.sent);
        let interval = Duration::from_secs_f64(self.train as f64 / self.rate).max(TICK);
        let mut next = begin;
        while begin.elapsed() < duration {
            let due = (begin.elapsed().as_secs_f64() * self.rate) as u64;
            while self.sent - before < due {
                let destination = self.socket.peer_addr()?;
                let segment_size = (self.train > 1).then_some(self.frame);
                let transmit = Transmit { destination, ecn: None, contents: &self.frames, segment_size, src_ip: None };
                match self.state.try_send((&self.socket).into(), &transmit) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
                    Err(error) => return Err(error).context("cannot send"),
                }
                self.sent += self.train as u64;
            }
            next += interval;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}

/// Counts datagrams that arrive, trains as what they carry.
fn count(socket: &UdpSocket, received: &AtomicU64, done: &AtomicBool) -> Result<()> {
    let buffers = 8_usize;
    let options = socket2::SockRef::from(socket);
    // The generator must not be what loses packets; the limit of the system holds.
    let _ = options.set_recv_buffer_size(8 << 20);
    let state = UdpSocketState::new(socket.into())?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut memory = vec![0_u8; 65_536 * buffers];
    let mut metas = vec![RecvMeta::default(); buffers];
    while !done.load(Ordering::Relaxed) {
        let mut slices: Vec<IoSliceMut<'_>> = memory.chunks_mut(65_536).map(IoSliceMut::new).collect();
        match state.recv(socket.into(), &mut slices, &mut metas) {
            Ok(count) => {
                let datagrams: usize = metas.iter().take(count).map(|meta| meta.len.div_ceil(meta.stride.max(1))).sum();
                received.fetch_add(datagrams as u64, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
    Ok(())
}

/// Receives for ever.
pub fn sink(arguments: &SinkArguments) -> Result<()> {
    let socket = UdpSocket::bind(arguments.listen)?;
    count(&socket, &AtomicU64::new(0), &AtomicBool::new(false))
}
