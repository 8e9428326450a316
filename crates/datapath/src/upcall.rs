//! What the data plane tells the control plane.

use std::net::IpAddr;

use campfire_protocol::carrier::{Path, Via};
use campfire_tunnel::LinkId;

use crate::table::Traffic;

/// One thing that is not for the data plane to decide.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upcall {
    /// A STUN message of a server's.
    Stun { via: Via, message: Vec<u8> },
    /// A handshake message (WireGuard types 1–3), and whose key a type 1 proves. Nothing was answered yet: the control plane makes the link if
    /// there is to be one, and gives the message back as [`Command::Receive`](crate::command::Command::Receive).
    Handshake { path: Path, message: Vec<u8>, initiator: Option<[u8; 32]> },
    /// Answer to [`Command::IdentifyInitiation`](crate::command::Command::IdentifyInitiation).
    Initiation { token: u64, initiator: Option<[u8; 32]> },
    /// An opened control packet's payload.
    Control { link: LinkId, path: Path, payload: Vec<u8> },
    /// The tunnels' event.
    Tunnel(campfire_tunnel::Event),
    /// What was seen on links since the last time, about every 100 ms; links with traffic alone.
    Traffic(Vec<Traffic>),
    /// An application wants an overlay address without a link or session.
    Wanted { address: IpAddr },
}

impl Upcall {
    /// Whether it would be said again if it were lost: it came from the network, or an application asks again. The others are said once.
    pub fn comes_again(&self) -> bool {
        match self {
            Self::Stun { .. } | Self::Handshake { .. } | Self::Control { .. } | Self::Wanted { .. } => true,
            Self::Initiation { .. } | Self::Tunnel(_) | Self::Traffic(_) => false,
        }
    }
}
