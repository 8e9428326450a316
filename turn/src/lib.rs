//! A TURN server (RFC 8656) with campfire rooms: the pure core. No clock, no sockets, no global randomness: time, messages
//! and a seed come in as arguments, and what is to be done comes out as values (see [`io`]). The shell around it is the
//! program `campfire-turn`.

use std::collections::VecDeque;

use campfire_protocol::time::{Time, UnixMillis};

pub mod auth;
pub mod config;
pub mod io;
pub mod stats;

pub use config::Config;
pub use stats::Stats;

/// The server's core.
pub struct Server {
    config: Config,
    secrets: auth::Secrets,
    stats: Stats,
    outputs: VecDeque<io::Output>,
}

impl Server {
    /// An empty server. `seed` must be random: nonces and incarnations come of it.
    pub fn new(config: Config, secrets: auth::Secrets, _seed: [u8; 32], _now: Time, _wall: UnixMillis) -> Self {
        Self { config, secrets, stats: Stats::default(), outputs: VecDeque::new() }
    }

    /// Takes one input. What is to be done about it comes out of [`Server::poll`].
    pub fn handle(&mut self, _now: Time, _wall: UnixMillis, input: io::Input<'_>) {
        if let io::Input::Secrets(secrets) = input {
            self.secrets = secrets;
        }
    }

    /// The next thing to be done, in order; `None` when there is nothing left.
    pub fn poll(&mut self) -> Option<io::Output> {
        self.outputs.pop_front()
    }

    /// When [`io::Input::Wake`] is due.
    pub fn next_wake(&self) -> Option<Time> {
        None
    }

    /// Passes a ChannelData frame on (RFC 8656 §12.4): rewrites the channel number in place and says where to send it.
    /// Allocates nothing. `frame` begins with the ChannelData header; what follows its length (padding) is ignored.
    pub fn forward(&mut self, _now: Time, _via: io::Via, _frame: &mut [u8]) -> io::Forward {
        io::Forward::Drop
    }

    /// The same for a datagram that came to a relay socket. `frame` has four bytes of room for the header in front of the
    /// payload; they are filled in. [`io::Forward::Slow`]: hand the payload to [`io::Input::RelayDatagram`].
    pub fn forward_relayed(&mut self, _now: Time, _relay: io::RelayId, _from: std::net::SocketAddr, _frame: &mut [u8]) -> io::Forward {
        io::Forward::Slow
    }

    /// Counters and gauges.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
