//! What carries packets: the names by which cores and shells speak of sockets, streams, servers and paths. Values without behaviour, so
//! that whoever camps, whoever links and whoever moves packets mean the same by them without knowing each other.

use std::net::SocketAddr;

/// A UDP socket of the shell's. The shell opens `SocketId(0)` (IPv4) and `SocketId(1)` (IPv6), where the family exists,
/// before the peer starts; the mesh asks for further ones (a fresh socket for another try at punching).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u16);

/// A TCP or TLS connection to a server, numbered by the fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// A server in the fire's list, numbered by the fire; never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerSlot(pub u16);

/// What carries a datagram: where it came from or shall go.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// A UDP socket of ours and the address at the other end.
    Udp { socket: SocketId, remote: SocketAddr },
    /// A stream to a server. Frames on it are STUN messages and ChannelData padded to four bytes (RFC 8656 §12.5); the
    /// shell cuts and pads them.
    Stream(StreamId),
}

/// How a link's packets go.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// Straight to the other peer.
    Direct { socket: SocketId, remote: SocketAddr },
    /// As ChannelData with this channel number through a server, over `via`.
    Relay { server: ServerSlot, via: Via, channel: u16 },
}
