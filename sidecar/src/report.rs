//! What a running peer tells of itself: the mesh's status and what the shell adds. The JSON of `campfire status --json`.

use campfire_api::agent::Problem;
use campfire_fire::status::ServerState;
use campfire_mesh::status::{PathKind, Status};
use serde::{Deserialize, Serialize};

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// Interface name.
    pub interface: String,
    /// UDP port.
    pub listen_port: u16,
    /// Interface MTU, bytes.
    pub mtu: u16,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// What the clock shows here, milliseconds since 1970.
    pub unix_ms: u64,
    /// Camped, and connected to all who were there; stays true once it was.
    pub ready: bool,
    /// What is wrong here, each with what to do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// What the mesh knows.
    #[serde(flatten)]
    pub status: Status,
}

impl Report {
    /// Camped on one server at least.
    pub fn camped(&self) -> bool {
        self.status.servers.iter().any(|server| server.state == ServerState::Camped)
    }

    /// Peers with a session, and peers known.
    pub fn connected(&self) -> (usize, usize) {
        (self.status.peers.iter().filter(|peer| peer.connected && peer.path != PathKind::None).count(), self.status.peers.len())
    }

    /// Camped, at least `peers` connected, and all peers known answer. In a large room nobody beyond `peers` is waited for:
    /// links are made on demand.
    pub fn settled(&self, peers: usize) -> bool {
        let (connected, known) = self.connected();
        self.camped() && connected >= peers && (self.status.own.large || connected == known)
    }
}

/// How people call a peer: its name, else the start of its key.
pub fn label(name: &str, public_key: &str) -> String {
    if name.is_empty() { public_key.chars().take(8).collect() } else { name.to_owned() }
}
