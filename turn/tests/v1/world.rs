//! A server without sockets, and scripted nodes at addresses of their own, which see what it sends to these at once.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use campfire_protocol::time::{Time, UnixMillis};
use campfire_turn::auth::Secrets;
use campfire_turn::io::{Input, ListenerId, Output, Via};
use campfire_turn::{Config, Server};

use crate::node::Node;

/// 2026-11-22 11:00:00 UTC, in seconds since 1970.
pub const HOUR: u64 = 1_795_345_200;

pub fn config() -> Config {
    Config { campfire: false, allocations: false, campfire_v1: true, ..Config::default() }
}

/// An address for each number, in a /24 of its own.
pub fn address(number: u32) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    ([1 + a, b, c, 7], 4_000).into()
}

pub fn via(remote: SocketAddr) -> Via {
    Via::Udp { listener: ListenerId(0), remote }
}

pub struct World {
    pub server: Server,
    pub now: Time,
    pub nodes: BTreeMap<SocketAddr, Node>,
    /// Bytes that came to the server, and those that it sent.
    pub taken: usize,
    pub sent: usize,
}

impl World {
    /// A server whose clock shows [`HOUR`].
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: Config) -> Self {
        let server = Server::new(config, Secrets::new(), [42; 32], Time::default(), UnixMillis(HOUR * 1_000));
        Self { server, now: Time::default(), nodes: BTreeMap::new(), taken: 0, sent: 0 }
    }

    /// What its clock shows, in seconds since 1970.
    pub fn unix(&self) -> u64 {
        HOUR + self.now.as_micros() / 1_000_000
    }

    /// A datagram from an address; what is sent on to whom.
    pub fn sends(&mut self, from: SocketAddr, bytes: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        self.taken += bytes.len();
        self.input(Input::Message { via: via(from), bytes })
    }

    pub fn input(&mut self, input: Input<'_>) -> Vec<(SocketAddr, Vec<u8>)> {
        let wall = UnixMillis(HOUR * 1_000 + self.now.as_micros() / 1_000);
        self.server.handle(self.now, wall, input);
        let outputs = std::iter::from_fn(|| self.server.poll());
        let sent: Vec<_> = outputs
            .map(|output| match output {
                Output::Send { via, bytes } => (via.remote(), bytes),
                other => panic!("{other:?}"),
            })
            .collect();
        self.sent += sent.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        sent
    }

    /// Lets time pass, with all that is due in it.
    pub fn pass(&mut self, span: Duration) {
        self.pass_until(self.now + span);
    }

    pub fn pass_until(&mut self, end: Time) {
        while let Some(wake) = self.server.next_wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            assert!(self.input(Input::Wake).is_empty(), "nothing is sent by itself");
        }
        self.now = end;
        assert!(self.input(Input::Wake).is_empty(), "nothing is sent by itself");
    }

    /// A node comes, and everybody says what they have to say, until nobody has anything more.
    pub fn comes(&mut self, at: SocketAddr, node: Node) {
        let mut underway: VecDeque<_> = node.begins().into_iter().map(|bytes| (at, bytes)).collect();
        self.nodes.insert(at, node);
        while let Some((from, bytes)) = underway.pop_front() {
            for (to, bytes) in self.sends(from, &bytes) {
                if let Some(node) = self.nodes.get_mut(&to) {
                    underway.extend(node.hears(&bytes).into_iter().map(|answer| (to, answer)));
                }
            }
        }
    }

    pub fn met(&self, number: u32) -> usize {
        self.nodes[&address(number)].met()
    }

    pub fn memory(&self) -> u64 {
        self.server.stats().memory
    }
}
