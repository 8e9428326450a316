//! What happened: a hash of all of it, by which two runs are compared, and the last of it in words, for when a test fails.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;

use campfire_protocol::time::Time;

use crate::hash::Hash;

/// How many events are remembered in words.
const REMEMBERED: usize = 2_000;

/// The trace of a world.
#[derive(Debug)]
pub struct Trace {
    hash: Hash,
    events: u64,
    lines: VecDeque<(Time, Line)>,
}

/// An event.
#[derive(Clone, Debug)]
pub enum Line {
    /// A UDP packet reached a host.
    Udp {
        /// From, as the receiver sees it.
        source: SocketAddr,
        /// To.
        destination: SocketAddr,
        /// Payload bytes.
        size: usize,
        /// How it begins.
        head: [u8; 2],
    },
    /// A frame on a stream.
    Frame {
        /// Which connection.
        connection: usize,
        /// Direction.
        to_server: bool,
        /// Bytes.
        size: usize,
        /// How it begins.
        head: [u8; 2],
    },
    /// Anything else.
    Text(String),
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: Hash::new(0), events: 0, lines: VecDeque::new() }
    }
}

impl Trace {
    /// Adds an event.
    pub fn add(&mut self, now: Time, line: Line) {
        self.events += 1;
        self.hash.add(now.as_micros());
        match &line {
            Line::Udp { source, destination, size, head } => {
                self.hash.add(u64::from(source.port()) << 32 | u64::from(destination.port()) << 16 | u64::from(u16::from_be_bytes(*head)));
                self.hash.add(*size as u64);
            }
            Line::Frame { connection, to_server, size, head } => {
                self.hash.add((*connection as u64) << 20 | u64::from(*to_server) << 16 | u64::from(u16::from_be_bytes(*head)));
                self.hash.add(*size as u64);
            }
            Line::Text(text) => self.hash.add_bytes(text.as_bytes()),
        }
        if self.lines.len() == REMEMBERED {
            self.lines.pop_front();
        }
        self.lines.push_back((now, line));
    }

    /// The hash of all events so far: equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.hash.value()
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in &self.lines {
            let micros = at.as_micros();
            write!(f, "{:5}.{:06} ", micros / 1_000_000, micros % 1_000_000)?;
            match line {
                Line::Udp { source, destination, size, head } => {
                    writeln!(f, "{source} → {destination} {size} {}", Kind(*head))?;
                }
                Line::Frame { connection, to_server, size, head } => {
                    let arrow = if *to_server { "→ server" } else { "→ client" };
                    writeln!(f, "stream {connection} {arrow} {size} {}", Kind(*head))?;
                }
                Line::Text(text) => writeln!(f, "{text}")?,
            }
        }
        Ok(())
    }
}

/// What a datagram is, by its first two bytes.
struct Kind([u8; 2]);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.0;
        match (first, second) {
            (1, 0) => f.write_str("wg initiation"),
            (2, 0) => f.write_str("wg response"),
            (4, 0) => f.write_str("wg data"),
            (0x40..=0x4f, _) => write!(f, "channel {first:02x}{second:02x}"),
            (0..=3, _) => {
                let bits = u16::from_be_bytes(self.0);
                let method = (bits & 0x0f) | (bits & 0xe0) >> 1 | (bits & 0x3e00) >> 2;
                let class = ["request", "indication", "success", "error"][usize::from((bits >> 4 & 1) | (bits >> 7 & 2))];
                let method = match method {
                    0x001 => "binding",
                    0x0f1 => "camp",
                    0x0f2 => "ember",
                    0x0f3 => "find",
                    0x0f4 => "signal",
                    0x0f5 => "bind",
                    _ => return write!(f, "stun {method:#05x} {class}"),
                };
                write!(f, "{method} {class}")
            }
            _ => write!(f, "{first:02x}{second:02x}"),
        }
    }
}
