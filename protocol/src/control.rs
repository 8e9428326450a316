//! What two linked peers say to each other inside their WireGuard session (docs/protocol.md, "A link"): a CBOR array
//! `[kind, …]`, unknown kinds and trailing elements ignored, padding allowed after it.

use std::net::SocketAddr;

/// A message in the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Where I might be reached: at most 8 addresses, best first. `symmetric`: my mapped port differs between servers.
    Candidates {
        /// Addresses.
        addresses: Vec<SocketAddr>,
        /// Ports differ between servers.
        symmetric: bool,
        /// Servers see no UDP from me.
        udp_blocked: bool,
        /// Configuration forbids direct paths.
        forbidden: bool,
        /// Counts up with each change.
        generation: u32,
    },
    /// Let us both start probing now (sent by the lower key over the relay).
    Punch {
        /// Which attempt.
        attempt: u32,
    },
    /// Answer to [`Control::Punch`]: I begin in half a round trip, measured by you.
    PunchAck {
        /// The attempt answered.
        attempt: u32,
        /// Whether the answerer is ready (else: later).
        ready: bool,
    },
    /// Sent on the path to be tested; answered on it. Also the ping of a path in use.
    Probe {
        /// Random; echoed.
        id: u64,
        /// Total payload size wanted: the message is padded to it, and the answer too.
        size: u16,
    },
    /// Answer to [`Control::Probe`], on the path it came on.
    ProbeReply {
        /// Echoed.
        id: u64,
        /// The address it came from, as the answerer saw it (absent on the relay).
        observed: Option<SocketAddr>,
        /// Echoed; padded to.
        size: u16,
    },
    /// I am leaving.
    Goodbye,
}

/// Bytes that are no control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed control message")]
pub struct ControlError;

impl Control {
    /// Encodes, padded where the message says so.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
    /// Decodes; `None` for a kind that this version does not know.
    pub fn decode(_bytes: &[u8]) -> Result<Option<Self>, ControlError> {
        todo!()
    }
}
