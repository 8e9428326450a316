//! What the control plane asks of the data plane.

use std::net::SocketAddr;

use campfire_protocol::carrier::{Path, SocketId};
use campfire_tunnel::LinkId;

/// One thing to do; carried out in the order in which they come.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send this datagram (STUN or ChannelData, already framed) as it is.
    Send { socket: SocketId, remote: SocketAddr, datagram: Vec<u8> },
    /// Send this WireGuard message (a handshake) on a path: bare when direct, wrapped in ChannelData when relayed.
    SendMessage { path: Path, message: Vec<u8> },
    /// Seal this control payload ([`campfire_tunnel::control::wrap`]) in the link's session and send it on this path.
    SendControl { link: LinkId, path: Path, payload: Vec<u8> },
    /// For the tunnels; their events come back.
    Tunnel(campfire_tunnel::Command),
    /// Which key does this initiation prove? To be answered with the token.
    IdentifyInitiation { token: u64, message: Vec<u8> },
    /// Take this WireGuard message (handshake or data, it came by Signal) as if it had come on `path`.
    Receive { path: Path, message: Vec<u8> },
    /// Open one more UDP socket of the family of `like`.
    OpenSocket { socket: SocketId, like: SocketId },
    /// Close it.
    CloseSocket { socket: SocketId },
}
