//! A packet's way: between the applications' interface, WireGuard sessions and paths.
//!
//! Pure: packets and time come in as arguments, what is to be sent, written and told goes out through a [`Shell`] that the caller lends. The
//! sidecar's data thread, the simulator's peers and the fuzzer all drive this one [`Datapath`].
//!
//! It knows the tunnels and the names of carriers. It knows nobody who decides: whose an address is and which path is taken comes in as a
//! [`Table`](table::Table), single things to do as a [`Command`], and what is not for it to decide goes up as an [`Upcall`].
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`table`], [`command`], [`upcall`], [`counters`] | what is said to it, and what it says |
//! | [`packet`], [`vnet`], [`demux`] | what bytes mean: IP packets, superpackets' headers, datagrams |
//! | [`segment`], [`coalesce`] | a superpacket cut, packets joined |
//! | `outbound`, `inbound` | the two directions; `waiting`, `trains`: where packets stop on the way; `unreachable`: what is said of those that end there |

#![deny(clippy::wildcard_enum_match_arm)]

use std::io::IoSlice;
use std::time::Duration;

use campfire_protocol::carrier::{SocketId, StreamId};
use campfire_protocol::time::Time;
use campfire_tunnel::{Event, Source, Tunnels, control};

use crate::coalesce::Coalescer;
use crate::command::Command;
use crate::counters::Counters;
use crate::ledger::Ledger;
use crate::table::Table;
use crate::trains::Trains;
use crate::unreachable::Unreachable;
use crate::upcall::Upcall;
use crate::waiting::Waiting;

mod checksum;
pub mod coalesce;
pub mod command;
pub mod counters;
pub mod demux;
mod inbound;
mod ledger;
mod outbound;
pub mod packet;
pub mod segment;
pub mod table;
mod trains;
mod unreachable;
pub mod upcall;
pub mod vnet;
mod waiting;

#[cfg(test)]
mod tests;

pub use trains::{STREAM_BATCH, Train};

/// How often tunnels' timers run.
const TICK: Duration = Duration::from_millis(250);

/// How often traffic is told of.
const REPORT: Duration = Duration::from_millis(100);

/// What a datapath does to the world. Each call is carried out at once, or what it carries is lost and counted by whoever implements it: nothing
/// is offered twice, and nothing may block for long.
pub trait Shell {
    /// Sends these trains, in order, from one socket.
    fn send(&mut self, socket: SocketId, trains: &[Train<'_>]);

    /// Hands whole ChannelData frames to a stream, one after the other and each padded to four bytes already (RFC 8656 §12.5): at most
    /// [`STREAM_BATCH`] bytes, `count` frames.
    fn send_frames(&mut self, stream: StreamId, frames: &[u8], count: usize);

    /// Writes one packet or superpacket to the interface, in pieces that belong together; the first is its [`vnet::VnetHeader`]. `packets`: how
    /// many it stands for.
    fn write(&mut self, pieces: &[IoSlice<'_>], packets: usize);

    /// Tells the control plane.
    fn tell(&mut self, upcall: Upcall);

    /// Opens one more UDP socket of the family of `like`, and tells the control plane of it.
    fn open_socket(&mut self, socket: SocketId, like: SocketId);

    /// Closes one. What was left for it has been sent.
    fn close_socket(&mut self, socket: SocketId);
}

/// What a datapath is made with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// MTU of the overlay in bytes: TCP's MSS is lowered to it, in both directions.
    pub mtu: u16,
    /// The interface takes superpackets of TCP.
    pub tcp_superpackets: bool,
    /// And of UDP.
    pub udp_superpackets: bool,
    /// How much memory packets have.
    pub memory: Memory,
}

/// Memory of a datapath's own, taken once, in bytes. The kernel backs what is written to alone.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Packets that were opened and not written yet. A message longer than this cannot be opened.
    pub opened: usize,
    /// Trains open at a time, 8 at most.
    pub trains: usize,
    /// Bytes of a train. A message longer than this cannot be sent.
    pub train: usize,
}

impl Default for Memory {
    /// For superpackets on a real interface, 1 MiB: half of it fits the second-level cache, and a train holds the longest UDP payload, over IPv6.
    fn default() -> Self {
        Self { opened: 512 * 1024, trains: 8, train: 65_487 }
    }
}

/// A packet's way, both directions of it, over all links of a peer.
///
/// **Contract.** Whatever happens is said at once, by the method that is named for it, with the time (which never goes back) and the shell:
///
/// - [`received`](Self::received): datagrams or frames came by a [`Via`](campfire_protocol::carrier::Via),
/// - [`packet`](Self::packet): the interface gave a packet or superpacket,
/// - [`command`](Self::command), [`set_table`](Self::set_table): the control plane wants something,
/// - [`tick`](Self::tick): the time of [`next_wake`](Self::next_wake) has come.
///
/// Packets and trains may stay open behind each of these. After a batch of calls, and always before it waits, the caller says
/// [`flush`](Self::flush).
///
/// No call fails: what cannot be done is counted in [`counters`](Self::counters), by reason. Packets on their way are neither allocated for nor
/// locked nor dispatched dynamically; memory is taken for what waits for a session (bounded), and for what goes up to the control plane.
pub struct Datapath<T> {
    tunnels: T,
    table: Table,
    /// Whether there is a link in it.
    linked: bool,
    mtu: u16,
    trains: Trains,
    /// Opened packets that the coalescer holds, and how much of it they use.
    slab: Box<[u8]>,
    used: usize,
    coalescer: Coalescer,
    /// A message on its way to more than one train, or of our own.
    message: Box<[u8]>,
    waiting: Waiting,
    unreachable: Unreachable,
    ledger: Ledger,
    events: Vec<Event>,
    counters: Counters,
    next_tick: Time,
    next_report: Time,
}

impl<T: Tunnels> Datapath<T> {
    /// Without links, sockets and packets.
    pub fn new(tunnels: T, config: &Config) -> Self {
        Self {
            tunnels,
            table: Table::default(),
            linked: false,
            mtu: config.mtu,
            trains: Trains::new(&config.memory),
            slab: vec![0; config.memory.opened].into_boxed_slice(),
            used: 0,
            coalescer: Coalescer::new(config.tcp_superpackets, config.udp_superpackets),
            message: vec![0; config.memory.train].into_boxed_slice(),
            waiting: Waiting::default(),
            unreachable: Unreachable::default(),
            ledger: Ledger::default(),
            events: Vec::new(),
            counters: Counters::default(),
            next_tick: Time::default(),
            next_report: Time::default(),
        }
    }

    /// Takes a new table in place of the one before; what waited and has a way now is sent.
    pub fn set_table(&mut self, now: Time, table: Table, shell: &mut impl Shell) {
        // Somebody who has no address here, because nothing is let in from there, has a session all the same.
        let Table { addressing, ways, .. } = &table;
        self.linked = addressing.allowed.iter().any(|allowed| !allowed.is_empty()) || ways.iter().any(|way| way.path.is_some());
        self.table = table;
        self.release(now, shell);
    }

    /// From now on the interface is given single packets: it refuses superpackets. Not between [`received`](Self::received) and
    /// [`flush`](Self::flush): what is held by then would be lost.
    pub fn write_singly(&mut self) {
        self.coalescer = Coalescer::new(false, false);
    }

    /// Does one thing for the control plane.
    pub fn command(&mut self, now: Time, command: Command, shell: &mut impl Shell) {
        match command {
            Command::Send { socket, remote, datagram } => {
                let sent = self.trains.send(socket, remote, &datagram, shell);
                self.count_too_long(!sent);
            }
            Command::SendMessage { path, message } => {
                let sent = self.trains.send_message(&path, &message, shell);
                self.count_too_long(!sent);
            }
            Command::SendControl { link, path, payload } => match self.tunnels.seal(link, &control::wrap(&payload), &mut self.message) {
                // No traffic: an answer to a ping would have to be answered for ever. Pings have a clock of their own.
                Ok(length) => {
                    let sent = self.trains.send_message(&path, &self.message[..length], shell);
                    self.count_too_long(!sent);
                }
                Err(error) => self.count_refused(error),
            },
            Command::Tunnel(command) => {
                self.tunnels.execute(command, &mut self.events);
                self.tell_events(now, shell);
            }
            Command::IdentifyInitiation { token, message } => {
                let initiator = self.tunnels.initiator(&message, Source::Relayed).ok();
                shell.tell(Upcall::Initiation { token, initiator });
            }
            Command::Receive { path, message } if message.first() == Some(&4) => self.open(now, path, &message, shell),
            Command::Receive { path, message } => {
                if let Err(error) = self.tunnels.handshake(&message, inbound::source(&path), &mut self.events) {
                    self.count_refused(error);
                }
                self.tell_events(now, shell);
            }
            Command::OpenSocket { socket, like } => shell.open_socket(socket, like),
            Command::CloseSocket { socket } => {
                self.trains.flush(shell);
                shell.close_socket(socket);
            }
        }
    }

    /// Runs what is due: the tunnels' timers, the end of waiting, the report of traffic.
    pub fn tick(&mut self, now: Time, shell: &mut impl Shell) {
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tunnels.tick(&mut self.events);
            self.tell_events(now, shell);
            self.give_up(now, shell);
        }
        if now >= self.next_report && !self.ledger.is_empty() {
            self.next_report = now + REPORT;
            shell.tell(Upcall::Traffic(self.ledger.close()));
        }
    }

    /// When [`tick`](Self::tick) has something to do; `None`: not before something else happens.
    pub fn next_wake(&self) -> Option<Time> {
        let tick = (self.linked || !self.waiting.is_empty()).then_some(self.next_tick);
        let report = (!self.ledger.is_empty()).then_some(self.next_report);
        tick.into_iter().chain(report).min()
    }

    /// Writes and sends all that is held.
    pub fn flush(&mut self, shell: &mut impl Shell) {
        self.flush_opened(shell);
        self.trains.flush(shell);
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The table in use.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The sessions.
    pub fn tunnels(&self) -> &T {
        &self.tunnels
    }

    /// Hands on what the tunnels said; a session may let packets go that waited for it.
    fn tell_events(&mut self, now: Time, shell: &mut impl Shell) {
        let mut established = false;
        for event in self.events.drain(..) {
            established |= matches!(event, Event::Established { .. });
            shell.tell(Upcall::Tunnel(event));
        }
        if established {
            self.release(now, shell);
        }
    }

    fn count_too_long(&mut self, too_long: bool) {
        self.counters.dropped_too_long += u64::from(too_long);
    }
}
