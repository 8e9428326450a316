//! WireGuard sessions behind one batch interface. No sockets, no devices.
//!
//! The control plane (`campfire-mesh`) asks for things with [`Command`] and learns of them by [`Event`]; the data plane
//! seals and opens packets through [`Tunnels`]. Two implementations exist: [`noise::NoiseTunnels`] (boringtun, the real one)
//! and the simulated world's stand-in, which has the same messages, sizes and timers but no cryptography.

#![deny(clippy::wildcard_enum_match_arm)]

use std::net::IpAddr;
use std::ops::Range;

use zeroize::Zeroizing;

pub mod control;
mod limits;
pub mod noise;

/// A link: this peer's relation to one other member. Chosen by the mesh, dense (an index into tables), reused only after
/// [`Command::Remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// What the control plane asks of the tunnels.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// Make a link to the peer with this X25519 public key. `preshared` is the pair's WireGuard preshared key.
    Add { link: LinkId, public_key: [u8; 32], preshared: Zeroizing<[u8; 32]> },
    /// The pair's preshared key changed: handshakes use the new one (the old one is still accepted from the other side
    /// until a handshake with the new one completes); the running session lives on until the new one carries a packet.
    Rekey { link: LinkId, preshared: Zeroizing<[u8; 32]> },
    /// Start a handshake now. The initiation comes out as [`Event::Send`].
    Initiate { link: LinkId },
    /// Forget the link and its keys.
    Remove { link: LinkId },
}

/// What the tunnels tell the control plane.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A WireGuard message of the tunnel's own (handshake, cookie, keepalive) to be sent on the link's path of the
    /// mesh's choice.
    Send { link: LinkId, message: Vec<u8> },
    /// A session is usable for sending: on the initiator when the response came, on the responder with the first
    /// authenticated data. Comes again after each later handshake.
    Established { link: LinkId, initiator: bool },
    /// No session is left and the tunnel has given up retrying; the mesh decides whether to [`Command::Initiate`] again.
    Expired { link: LinkId },
}

impl std::fmt::Debug for Command {
    /// Names the link; never shows a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Add { link, .. } => write!(f, "Add({})", link.0),
            Self::Rekey { link, .. } => write!(f, "Rekey({})", link.0),
            Self::Initiate { link } => write!(f, "Initiate({})", link.0),
            Self::Remove { link } => write!(f, "Remove({})", link.0),
        }
    }
}

/// A data message opened into an output buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Whose session it was.
    pub link: LinkId,
    /// Where in the output buffer the inner IP packet lies; empty for a keepalive.
    pub packet: Range<usize>,
}

/// Why a packet was not sealed or a message not opened. Each is counted by whoever asked; none is fatal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TunnelError {
    /// No session yet; one is wanted (the mesh is told by the caller, which may keep the packet for a moment).
    #[error("no session")]
    NoSession,
    /// No such link.
    #[error("no such link")]
    UnknownLink,
    /// The receiver index belongs to no session of ours.
    #[error("unknown receiver index")]
    UnknownIndex,
    /// Authentication failed, or not a WireGuard message at all.
    #[error("message does not authenticate")]
    Forged,
    /// A counter seen before or too old.
    #[error("replayed message")]
    Replayed,
    /// Authentic, but what is inside is not an IP packet.
    #[error("inner packet malformed")]
    Malformed,
    /// The output buffer is too small.
    #[error("buffer too small")]
    BufferTooSmall,
    /// Too many handshakes from this member at present.
    #[error("handshakes limited")]
    Limited,
}

/// Where a handshake message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Through a server, which paces its members and takes nothing from others.
    Relayed,
    /// From this address, or so it says: until a cookie came back nothing proves it.
    Direct(IpAddr),
}

/// Why it is not known who made an initiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unidentified {
    /// It is not looked at.
    Refused(TunnelError),
    /// There are too many from sources that nothing proves. This cookie reply goes back where the initiation came from; the next one that
    /// comes with the cookie is looked at (WireGuard's paper, 5.3).
    Cookie(Vec<u8>),
}

/// Bytes that sealing adds to a packet: 16 of header, 16 of tag. Packets are not padded (receivers take the length from the
/// inner IP header either way): equal packets stay equal, so that they fit one train.
pub const OVERHEAD: usize = 32;

/// All the WireGuard sessions of one peer.
///
/// Contract: after [`execute`](Self::execute), [`handshake`](Self::handshake), [`open`](Self::open) and
/// [`tick`](Self::tick) the caller hands every [`Event`] in `events` to the mesh, in order.
pub trait Tunnels {
    /// Carries out a command of the control plane.
    fn execute(&mut self, command: Command, events: &mut Vec<Event>);

    /// The X25519 public key that a handshake initiation claims and proves to know (parsed with our static key alone), so
    /// that the mesh can look up or make the link first.
    fn initiator(&mut self, initiation: &[u8], from: Source) -> Result<[u8; 32], Unidentified>;

    /// Takes a handshake message (WireGuard type 1, 2 or 3). An initiation is only answered when a link with its key
    /// exists. Returns whose it was.
    fn handshake(&mut self, message: &[u8], from: Source, events: &mut Vec<Event>) -> Result<LinkId, TunnelError>;

    /// Whether there is a session to seal with.
    fn is_ready(&self, link: LinkId) -> bool {
        self.last_handshake_ms(link).is_some()
    }

    /// Seals inner IP packet `packet` for `link` into `out`; returns the message's length.
    fn seal(&mut self, link: LinkId, packet: &[u8], out: &mut [u8]) -> Result<usize, TunnelError>;

    /// Opens a data message (type 4) into `out`, which needs room for `message.len() - 16` bytes (the tag is opened along).
    fn open(&mut self, message: &[u8], out: &mut [u8], events: &mut Vec<Event>) -> Result<Opened, TunnelError>;

    /// Runs the timers (rekey, keepalive, expiry). To be called about every 250 ms.
    fn tick(&mut self, events: &mut Vec<Event>);

    /// Time of the link's last completed handshake, as milliseconds ago, if there is a session.
    fn last_handshake_ms(&self, link: LinkId) -> Option<u64>;
}

impl<T: Tunnels + ?Sized> Tunnels for Box<T> {
    fn execute(&mut self, command: Command, events: &mut Vec<Event>) {
        (**self).execute(command, events);
    }

    fn initiator(&mut self, initiation: &[u8], from: Source) -> Result<[u8; 32], Unidentified> {
        (**self).initiator(initiation, from)
    }

    fn handshake(&mut self, message: &[u8], from: Source, events: &mut Vec<Event>) -> Result<LinkId, TunnelError> {
        (**self).handshake(message, from, events)
    }

    fn is_ready(&self, link: LinkId) -> bool {
        (**self).is_ready(link)
    }

    fn seal(&mut self, link: LinkId, packet: &[u8], out: &mut [u8]) -> Result<usize, TunnelError> {
        (**self).seal(link, packet, out)
    }

    fn open(&mut self, message: &[u8], out: &mut [u8], events: &mut Vec<Event>) -> Result<Opened, TunnelError> {
        (**self).open(message, out, events)
    }

    fn tick(&mut self, events: &mut Vec<Event>) {
        (**self).tick(events);
    }

    fn last_handshake_ms(&self, link: LinkId) -> Option<u64> {
        (**self).last_handshake_ms(link)
    }
}
