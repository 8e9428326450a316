//! What a network lets through, tried now: does each server answer by UDP, TCP and TLS, how fast, and as whom does it see us? From what
//! several see follows what the NAT in between does. Nobody is camped with, and no key is needed: a Binding (RFC 8489 §2) is all that is asked.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use campfire_protocol::carrier::{ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::server::{Server, ServerAddress, Transport};
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, TransactionId};
use campfire_protocol::time::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::Fire;
use crate::connect::{self, is_local};
use crate::io::{Input, Output};
use crate::status::ServerState;

/// How long one try may take, from the first packet on.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long a name may take.
const NAME: Duration = Duration::from_secs(2);
/// When a question that UDP may have lost is asked again, counted from the first.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(1_500)];
/// Most servers that are tried.
pub const MAX_SERVERS: usize = 16;
/// Most addresses that are tried of one server by one transport.
const MAX_ADDRESSES: usize = 2;

/// Which servers are to be tried, and from where.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    servers: Vec<(Server, BTreeSet<String>)>,
    in_cluster: bool,
}

impl Targets {
    /// Those that somebody names. `in_cluster`: addresses inside the servers' cluster are for us.
    pub fn given(servers: Vec<Server>, in_cluster: bool) -> Self {
        Self { servers: servers.into_iter().map(|server| (server, BTreeSet::new())).collect(), in_cluster }
    }
}

impl Fire {
    /// All servers that are known here, those that are camped on first.
    pub fn targets(&self, now: Time) -> Targets {
        let mut known: Vec<_> = self.conversations.values().collect();
        known.sort_by_key(|conversation| (conversation.status(now).state != ServerState::Camped, conversation.server.id.clone()));
        let servers = known.into_iter().map(|conversation| (conversation.server.clone(), conversation.hearsay.clone())).collect();
        Targets { servers, in_cluster: self.hearth.in_cluster }
    }
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Netcheck {
    /// The servers in the order in which they were given.
    pub servers: Vec<Tried>,
    /// How IPv4 leaves here; `None`: no server answered by it.
    pub ipv4: Option<Outside>,
    /// The same of IPv6.
    pub ipv6: Option<Outside>,
    /// Servers that were not tried, for there are more than [`MAX_SERVERS`].
    pub left_out: usize,
}

/// One server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Its id.
    pub id: String,
    /// By each transport for which it has an address.
    pub by: Vec<Outcome>,
}

/// What came of asking a server by one transport.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// By which.
    pub transport: Transport,
    /// At which address; of several that which answered soonest.
    pub address: Option<SocketAddr>,
    /// There and back, milliseconds; of TCP and TLS once connected. `None`: it does not answer.
    pub rtt_ms: Option<f64>,
    /// As whom it sees us.
    pub mapped: Option<SocketAddr>,
    /// Why it does not answer, for people.
    pub problem: Option<String>,
}

/// How a socket looks from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outside {
    /// What servers see, each once.
    pub mapped: Vec<SocketAddr>,
    /// What follows from it.
    pub nat: Nat,
}

/// What a NAT does to the source of packets to several destinations (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nat {
    /// There is none: servers see an address of this host.
    None,
    /// The same address and port for each destination.
    EndpointIndependent,
    /// Another one for each destination ("symmetric").
    EndpointDependent,
    /// There is one, and it takes answers of two servers to tell.
    Unknown,
}

/// Tries all at the same time.
///
/// # Contract
/// As of [`Fire`]: after [`new`](Self::new), [`handle`](Self::handle) and [`on_wake`](Self::on_wake) (at [`next_wake`](Self::next_wake)) drain
/// [`poll_output`](Self::poll_output). Once it [`is_done`](Self::is_done), within 5 s, [`finish`](Self::finish) says what was found.
#[derive(Debug)]
pub struct Trial {
    rng: ChaCha20Rng,
    sockets: BTreeSet<SocketId>,
    targets: Targets,
    left_out: usize,
    /// Names, each once; their places are what look-ups are told apart by.
    names: Vec<Name>,
    tries: Vec<Try>,
    outputs: VecDeque<Output>,
}

/// A name that is looked up.
#[derive(Debug)]
struct Name {
    host: String,
    /// `None`: it was found, or not.
    until: Option<Time>,
    found: bool,
}

/// One address by one transport.
#[derive(Debug)]
struct Try {
    server: usize,
    transport: Transport,
    remote: SocketAddr,
    via: Via,
    begun: Time,
    /// A stream is up.
    open: bool,
    /// Each question that is out, and when it went.
    asked: Vec<(TransactionId, Time)>,
    came: Option<Result<Answer, String>>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    rtt: Duration,
    mapped: Option<SocketAddr>,
}

impl Trial {
    /// Begins. `sockets`: which of UDP are open, 0 for IPv4 and 1 for IPv6.
    pub fn new(mut targets: Targets, sockets: impl IntoIterator<Item = SocketId>, seed: [u8; 32], now: Time) -> Self {
        let left_out = targets.servers.len().saturating_sub(MAX_SERVERS);
        targets.servers.truncate(MAX_SERVERS);
        let mut trial = Self {
            rng: ChaCha20Rng::from_seed(seed),
            sockets: sockets.into_iter().collect(),
            targets,
            left_out,
            names: Vec::new(),
            tries: Vec::new(),
            outputs: VecDeque::new(),
        };
        let all: Vec<(usize, ServerAddress)> = (0..trial.targets.servers.len()).flat_map(|server| trial.addresses(server)).collect();
        for (server, address) in all {
            match address.host.parse::<IpAddr>() {
                Ok(ip) => trial.begin(now, server, &address, ip),
                Err(_) => trial.look_up(now, &address),
            }
        }
        trial
    }

    /// A stream or a name says something, or a STUN message came. (What sockets there are was said before.)
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        match input {
            Input::SocketOpened { .. } | Input::SocketClosed { .. } => {}
            Input::Resolved { server, addresses } => self.resolved(now, server, addresses),
            Input::StreamOpened { stream } => {
                let waits = |it: &Try| it.via == Via::Stream(stream) && it.came.is_none();
                if let Some(place) = self.tries.iter().position(waits) {
                    self.tries[place].open = true;
                    self.ask(now, place);
                }
            }
            Input::StreamClosed { stream, reason } => {
                let via = Via::Stream(stream);
                if let Some(it) = self.tries.iter_mut().find(|it| it.via == via && it.came.is_none()) {
                    it.came = Some(Err(reason.to_owned()));
                }
            }
            Input::Stun { via, message } => self.stun(now, via, message),
        }
    }

    /// The time of [`next_wake`](Self::next_wake) has come.
    pub fn on_wake(&mut self, now: Time) {
        for name in &mut self.names {
            name.until.take_if(|until| *until <= now);
        }
        for place in 0..self.tries.len() {
            let it = &mut self.tries[place];
            if it.came.is_some() {
                continue;
            }
            if now >= it.begun + PATIENCE {
                let seconds = PATIENCE.as_secs();
                let what = match (it.transport, it.open) {
                    (Transport::Udp, _) => format!("no answer within {seconds} s"),
                    (_, false) => format!("no connection within {seconds} s"),
                    (_, true) => format!("it takes the connection, and does not answer within {seconds} s"),
                };
                it.came = Some(Err(what));
                self.hang_up(place);
            } else if it.again().is_some_and(|at| at <= now) {
                self.ask(now, place);
            }
        }
    }

    /// When [`on_wake`](Self::on_wake) is to be called.
    pub fn next_wake(&self) -> Option<Time> {
        let tries = self.tries.iter().filter(|it| it.came.is_none());
        let tries = tries.map(|it| it.again().unwrap_or(it.begun + PATIENCE));
        tries.chain(self.names.iter().filter_map(|name| name.until)).min()
    }

    /// What is to be done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Nothing is waited for any more.
    pub fn is_done(&self) -> bool {
        self.next_wake().is_none()
    }

    /// What was found. `is_own` knows the host's addresses.
    pub fn finish(&self, is_own: impl Fn(IpAddr) -> bool) -> Netcheck {
        let tried = |place: usize, server: &Server| Tried { id: server.id.to_string(), by: self.of(place) };
        let servers = self.targets.servers.iter().enumerate().map(|(place, (server, _))| tried(place, server)).collect();
        Netcheck { servers, ipv4: self.outside(SocketId(0), &is_own), ipv6: self.outside(SocketId(1), &is_own), left_out: self.left_out }
    }

    fn addresses(&self, server: usize) -> Vec<(usize, ServerAddress)> {
        let Some((known, _)) = self.targets.servers.get(server) else { return Vec::new() };
        connect::preferred(known, self.targets.in_cluster).into_iter().map(|address| (server, address)).collect()
    }

    fn look_up(&mut self, now: Time, address: &ServerAddress) {
        if self.names.iter().any(|name| name.host == address.host) {
            return;
        }
        let slot = ServerSlot(u16::try_from(self.names.len()).unwrap_or(u16::MAX));
        self.names.push(Name { host: address.host.clone(), until: Some(now + NAME), found: false });
        self.outputs.push_back(Output::Resolve { server: slot, host: address.host.clone(), port: address.port });
    }

    fn resolved(&mut self, now: Time, slot: ServerSlot, addresses: &[SocketAddr]) {
        let Some(name) = self.names.get_mut(usize::from(slot.0)).filter(|name| name.until.is_some()) else { return };
        name.until = None;
        name.found = !addresses.is_empty();
        let host = name.host.clone();
        // One of each family before a second of any.
        let first = |family: fn(&SocketAddr) -> bool| addresses.iter().filter(move |address| family(address));
        let (mut v4, mut v6) = (first(SocketAddr::is_ipv4), first(SocketAddr::is_ipv6));
        let turns: Vec<IpAddr> = (0..MAX_ADDRESSES).flat_map(|_| [v4.next(), v6.next()]).flatten().map(SocketAddr::ip).collect();
        let all: Vec<(usize, ServerAddress)> = (0..self.targets.servers.len()).flat_map(|server| self.addresses(server)).collect();
        for (server, address) in all.iter().filter(|(_, address)| address.host == host) {
            for ip in &turns {
                self.begin(now, *server, address, *ip);
            }
        }
    }

    fn begin(&mut self, now: Time, server: usize, address: &ServerAddress, ip: IpAddr) {
        let (transport, remote) = (address.transport, SocketAddr::new(ip, address.port));
        let Some((known, hearsay)) = self.targets.servers.get(server) else { return };
        let same = self.tries.iter().filter(|it| it.server == server && it.transport == transport);
        if same.clone().any(|it| it.remote == remote) || same.count() >= MAX_ADDRESSES {
            return;
        }
        let pin = known.certificate_pin;
        // Nobody makes us knock at our own doors.
        let usable = !(ip.is_unspecified() || ip.is_multicast() || hearsay.contains(&address.host) && is_local(ip));
        let socket = SocketId(u16::from(ip.is_ipv6()));
        let place = self.tries.len();
        let stream = StreamId(u32::try_from(place).unwrap_or(u32::MAX));
        let via = if transport == Transport::Udp { Via::Udp { socket, remote } } else { Via::Stream(stream) };
        let mut new = Try { server, transport, remote, via, begun: now, open: false, asked: Vec::new(), came: None };
        if !usable {
            new.came = Some(Err("nothing is sent to such an address".into()));
        } else if !self.sockets.contains(&socket) {
            new.came = Some(Err(format!("this host has no {}", if ip.is_ipv6() { "IPv6" } else { "IPv4" })));
        }
        let ended = new.came.is_some();
        self.tries.push(new);
        if ended {
            return;
        }
        if transport == Transport::Udp {
            self.ask(now, place);
        } else {
            let slot = ServerSlot(u16::try_from(server).unwrap_or(u16::MAX));
            self.outputs.push_back(Output::OpenStream { stream, server: slot, remote, transport, host: address.host.clone(), pin });
        }
    }

    /// Sends a question of its own, so that the answer tells which one it is to.
    fn ask(&mut self, now: Time, place: usize) {
        let mut id = [0; 12];
        self.rng.fill_bytes(&mut id);
        let id = TransactionId(id);
        let Some(it) = self.tries.get_mut(place) else { return };
        it.asked.push((id, now));
        let datagram = Builder::new(Class::Request, Method::BINDING, id).finish();
        self.outputs.push_back(Output::Send { via: it.via, datagram });
    }

    fn stun(&mut self, now: Time, via: Via, message: &[u8]) {
        let Ok(message) = Message::parse(message) else { return };
        let sent = |it: &Try| it.asked.iter().find(|(id, _)| *id == message.transaction()).map(|(_, at)| *at);
        let mut waiting = self.tries.iter().enumerate().filter(|(_, it)| it.via == via && it.came.is_none());
        let Some((place, at)) = waiting.find_map(|(place, it)| Some((place, sent(it)?))) else { return };
        let came = match message.class() {
            Class::Success => {
                let mapped = message.xor_address(Attribute::XOR_MAPPED_ADDRESS).ok().flatten();
                Ok(Answer { rtt: now.since(at), mapped: mapped.map(|seen| SocketAddr::new(seen.ip().to_canonical(), seen.port())) })
            }
            Class::Error => Err(message.error_code().map_or_else(
                || "it refuses, and does not say why".to_owned(),
                |(code, reason)| format!("it refuses ({code} {})", reason.chars().filter(|c| !c.is_control()).collect::<String>()),
            )),
            Class::Request | Class::Indication => return,
        };
        self.tries[place].came = Some(came);
        self.hang_up(place);
    }

    fn hang_up(&mut self, place: usize) {
        if let Some(Via::Stream(stream)) = self.tries.get(place).map(|it| it.via) {
            self.outputs.push_back(Output::CloseStream { stream });
        }
    }

    /// What came of a server by each of its transports.
    fn of(&self, server: usize) -> Vec<Outcome> {
        let addresses = self.addresses(server);
        let transports: BTreeSet<Transport> = addresses.iter().map(|(_, address)| address.transport).collect();
        let outcome = |transport: Transport| {
            let tries: Vec<&Try> = self.tries.iter().filter(|it| it.server == server && it.transport == transport).collect();
            let answered = tries.iter().filter_map(|it| Some((*it, it.came.as_ref()?.as_ref().ok()?)));
            if let Some((it, answer)) = answered.min_by_key(|(_, answer)| answer.rtt) {
                let rtt_ms = Some(answer.rtt.as_secs_f64() * 1_000.0);
                return Outcome { transport, address: Some(it.remote), rtt_ms, mapped: answer.mapped, problem: None };
            }
            let failed = tries.iter().find_map(|it| Some((it.remote, it.came.as_ref()?.as_ref().err()?.clone())));
            let (address, problem) = match failed {
                Some((address, problem)) => (Some(address), problem),
                None => (None, self.nameless(addresses.iter().filter(|(_, it)| it.transport == transport).map(|(_, it)| &*it.host))),
            };
            Outcome { transport, address, rtt_ms: None, mapped: None, problem: Some(problem) }
        };
        transports.into_iter().map(outcome).collect()
    }

    /// Why nothing could be tried.
    fn nameless<'a>(&self, mut hosts: impl Iterator<Item = &'a str>) -> String {
        let lost = |host: &&str| self.names.iter().any(|name| name.host == **host && !name.found);
        match hosts.find(lost) {
            Some(host) => format!("the name {host} is not found within {} s", NAME.as_secs()),
            None => "none of its addresses can be tried from here".into(),
        }
    }

    /// What all answers to one socket say of it.
    fn outside(&self, socket: SocketId, is_own: &impl Fn(IpAddr) -> bool) -> Option<Outside> {
        let of_socket = |it: &&Try| matches!(it.via, Via::Udp { socket: of, .. } if of == socket);
        let answers = self.tries.iter().filter(of_socket).filter_map(|it| Some((it.remote, it.came.as_ref()?.as_ref().ok()?.mapped?)));
        let answers: Vec<(SocketAddr, SocketAddr)> = answers.collect();
        let mapped: BTreeSet<SocketAddr> = answers.iter().map(|(_, mapped)| *mapped).collect();
        // Inside a cluster there may be none on the way, and one on the way out.
        let behind: Vec<_> = answers.iter().filter(|(_, mapped)| !is_own(mapped.ip())).collect();
        let destinations: BTreeSet<SocketAddr> = behind.iter().map(|(remote, _)| *remote).collect();
        let sources: BTreeSet<SocketAddr> = behind.iter().map(|(_, mapped)| *mapped).collect();
        let nat = match (answers.len(), destinations.len(), sources.len()) {
            (0, ..) => return None,
            (_, 0, _) => Nat::None,
            (_, 1, _) => Nat::Unknown,
            (.., 1) => Nat::EndpointIndependent,
            _ => Nat::EndpointDependent,
        };
        Some(Outside { mapped: mapped.into_iter().collect(), nat })
    }
}

impl Try {
    /// When the question goes out once more.
    fn again(&self) -> Option<Time> {
        let wait = AGAIN.get(self.asked.len().checked_sub(1)?).filter(|_| self.transport == Transport::Udp)?;
        Some(self.begun + *wait)
    }
}

#[cfg(test)]
#[path = "netcheck_tests.rs"]
mod tests;
