//! What two linked peers say to each other inside their WireGuard session (docs/protocol.md, "A link"): a CBOR array
//! `[kind, …]`, unknown kinds and trailing elements ignored, padding allowed after it.

use std::convert::Infallible;
use std::net::SocketAddr;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use crate::cbor::{self, Malformed, address_to_bytes};
use crate::certificate::MAX_CHAIN;
use crate::time::UnixSeconds;

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
    /// Who I am in a certified mesh, and what I know of you.
    Chain {
        /// My chain of certificates, unread; 1 to [`MAX_CHAIN`] bytes.
        chain: Vec<u8>,
        /// When the one of yours was issued that lets you in here; `None`: none does.
        held: Option<UnixSeconds>,
    },
}

/// Bytes that are no control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed control message")]
pub struct ControlError;

/// Largest control message, in bytes; [`Control::Probe`] asks for no more.
pub const MAX_CONTROL: usize = 9_000;
/// Most addresses in [`Control::Candidates`].
pub const MAX_CANDIDATES: usize = 8;

/// The kinds, first element of the array.
mod kind {
    pub const CANDIDATES: u32 = 1;
    pub const PUNCH: u32 = 2;
    pub const PUNCH_ACK: u32 = 3;
    pub const PROBE: u32 = 4;
    pub const PROBE_REPLY: u32 = 5;
    pub const GOODBYE: u32 = 6;
    pub const CHAIN: u32 = 7;
}

const SYMMETRIC: u32 = 1;
const UDP_BLOCKED: u32 = 2;
const FORBIDDEN: u32 = 4;

impl Control {
    /// Encodes, padded where the message says so.
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::with_capacity(64));
        // Writing to a `Vec` cannot fail.
        let _ = self.write(&mut encoder);
        let mut bytes = encoder.into_writer();
        if let Self::Probe { size, .. } | Self::ProbeReply { size, .. } = self {
            let size = usize::from(*size).min(MAX_CONTROL);
            bytes.resize(bytes.len().max(size), 0);
        }
        bytes
    }

    fn write(&self, encoder: &mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<Infallible>> {
        match self {
            Self::Candidates { addresses, symmetric, udp_blocked, forbidden, generation } => {
                let flag = |set: &bool, flag| if *set { flag } else { 0 };
                let flags = flag(symmetric, SYMMETRIC) | flag(udp_blocked, UDP_BLOCKED) | flag(forbidden, FORBIDDEN);
                let addresses = addresses.get(..MAX_CANDIDATES).unwrap_or(addresses);
                encoder.array(4)?.u32(kind::CANDIDATES)?.array(addresses.len() as u64)?;
                for address in addresses {
                    encoder.bytes(&address_to_bytes(*address))?;
                }
                encoder.u32(flags)?.u32(*generation)?
            }
            Self::Punch { attempt } => encoder.array(2)?.u32(kind::PUNCH)?.u32(*attempt)?,
            Self::PunchAck { attempt, ready } => encoder.array(3)?.u32(kind::PUNCH_ACK)?.u32(*attempt)?.bool(*ready)?,
            Self::Probe { id, size } => encoder.array(3)?.u32(kind::PROBE)?.u64(*id)?.u16(*size)?,
            Self::ProbeReply { id, observed, size } => {
                encoder.array(4)?.u32(kind::PROBE_REPLY)?.u64(*id)?;
                match observed {
                    Some(address) => encoder.bytes(&address_to_bytes(*address))?,
                    None => encoder.null()?,
                }
                .u16(*size)?
            }
            Self::Goodbye => encoder.array(1)?.u32(kind::GOODBYE)?,
            Self::Chain { chain, held } => {
                encoder.array(3)?.u32(kind::CHAIN)?.bytes(chain)?;
                match held {
                    Some(UnixSeconds(issued)) => encoder.u64(*issued)?,
                    None => encoder.null()?,
                }
            }
        };
        Ok(())
    }

    /// Decodes; `None` for a kind that this version does not know. A probe or its answer that is shorter than the size it
    /// speaks of is malformed: so nobody can ask for an answer that is larger than the probe.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, ControlError> {
        let control = read(bytes).map_err(|Malformed| ControlError)?;
        match control {
            Some(Self::Probe { size, .. } | Self::ProbeReply { size, .. }) if usize::from(size) > bytes.len() => Err(ControlError),
            _ if bytes.len() > MAX_CONTROL => Err(ControlError),
            control => Ok(control),
        }
    }
}

fn read(bytes: &[u8]) -> Result<Option<Control>, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let length = cbor::array(&mut decoder)?;
    let kind = decoder.u32()?;
    let needed = match kind {
        kind::GOODBYE => 1,
        kind::PUNCH => 2,
        kind::PUNCH_ACK | kind::PROBE | kind::CHAIN => 3,
        kind::CANDIDATES | kind::PROBE_REPLY => 4,
        _ => return Ok(None),
    };
    if length < needed {
        return Err(Malformed);
    }
    Ok(Some(match kind {
        kind::CANDIDATES => {
            let addresses = cbor::list(&mut decoder, MAX_CANDIDATES, |decoder| cbor::address(decoder.bytes()?))?;
            let flags = decoder.u32()?;
            let set = |flag| flags & flag != 0;
            Control::Candidates {
                addresses,
                symmetric: set(SYMMETRIC),
                udp_blocked: set(UDP_BLOCKED),
                forbidden: set(FORBIDDEN),
                generation: decoder.u32()?,
            }
        }
        kind::PUNCH => Control::Punch { attempt: decoder.u32()? },
        kind::PUNCH_ACK => Control::PunchAck { attempt: decoder.u32()?, ready: decoder.bool()? },
        kind::PROBE => Control::Probe { id: decoder.u64()?, size: decoder.u16()? },
        kind::PROBE_REPLY => {
            let id = decoder.u64()?;
            let observed = if decoder.datatype()? == Type::Null {
                decoder.null()?;
                None
            } else {
                Some(cbor::address(decoder.bytes()?)?)
            };
            Control::ProbeReply { id, observed, size: decoder.u16()? }
        }
        kind::CHAIN => {
            let chain = decoder.bytes()?;
            if !(1..=MAX_CHAIN).contains(&chain.len()) {
                return Err(Malformed);
            }
            let held = if decoder.datatype()? == Type::Null { None } else { Some(UnixSeconds(decoder.u64()?)) };
            Control::Chain { chain: chain.to_vec(), held }
        }
        _ => Control::Goodbye,
    }))
}
