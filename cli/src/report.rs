//! What a sidecar tells of itself: the parts of `campfire status --json` that are needed here. What it does not say is taken to be empty, for plugin
//! and sidecar may be of different versions.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Version of the sidecar.
    pub version: String,
    /// What its clock shows, milliseconds since 1970.
    pub unix_ms: Option<u64>,
    /// Itself.
    #[serde(rename = "self")]
    pub own: Own,
    /// The servers it knows, best first.
    pub servers: Vec<Server>,
    /// The peers it knows.
    pub peers: Vec<Peer>,
}

/// A peer of itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "crates/mesh/src/status.rs says it")]
pub struct Own {
    pub public_key: String,
    pub addresses: Vec<IpAddr>,
    pub name: String,
    pub namespace: String,
    pub cluster: String,
    pub fingerprints: Vec<String>,
    pub members: usize,
    pub large: bool,
}

/// A server, as a peer sees it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "crates/fire/src/status.rs says it")]
pub struct Server {
    pub id: String,
    pub state: ServerState,
    pub transport: Option<Transport>,
    pub rtt_ms: Option<f64>,
    pub observed: Option<SocketAddr>,
    pub problem: Option<String>,
    pub limit: Option<Limit>,
}

/// Why a server takes no further member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "crates/protocol/src/limit.rs says it")]
pub enum Limit {
    Leaving,
    Newcomers,
    Seats,
    Rooms,
    Members,
    Memory,
    /// Of a newer sidecar.
    #[serde(other)]
    Unknown,
}

impl Limit {
    /// It will not be better by waiting.
    pub const fn stays(self) -> bool {
        !matches!(self, Self::Leaving | Self::Newcomers)
    }
}

/// What `campfire netcheck --json` tells: the parts that are needed here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Netcheck {
    /// By server.
    pub servers: Vec<Tried>,
}

/// A server that was tried.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "crates/fire/src/netcheck.rs says it")]
pub struct Tried {
    pub id: String,
    pub by: Vec<Outcome>,
}

/// What came of it by one transport.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "crates/fire/src/netcheck.rs says it")]
pub struct Outcome {
    pub transport: Option<Transport>,
    pub problem: Option<String>,
}

/// What a server is to a peer, and as it is shown: `crates/fire/src/status.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "crates/fire/src/status.rs says it")]
pub enum ServerState {
    Idle,
    Connecting,
    Camped,
    Lost,
    PlainTurn,
    /// Of a newer sidecar.
    #[default]
    #[serde(other)]
    Unknown,
}

/// By what a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "crates/protocol/src/server.rs says it")]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    /// Of a newer sidecar.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for ServerState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Camped => "camped",
            Self::Lost => "lost",
            Self::PlainTurn => "plainturn",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Unknown => "?",
        })
    }
}

/// A peer, as another sees it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "crates/mesh/src/status.rs says it")]
pub struct Peer {
    pub name: String,
    pub namespace: String,
    pub cluster: String,
    pub public_key: String,
    pub addresses: Vec<IpAddr>,
    pub connected: bool,
    pub path: String,
    pub server: Option<String>,
    pub why_not_direct: Option<String>,
    pub reason: Option<String>,
    pub rtt_ms: Option<f64>,
}

impl Report {
    /// Sits on one server at least.
    pub fn camped(&self) -> bool {
        self.servers.iter().any(|server| server.state == ServerState::Camped)
    }
}

/// How people call a peer: its name, else the start of its key.
pub fn label(name: &str, public_key: &str) -> String {
    if name.is_empty() { public_key.chars().take(8).collect() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use campfire_fire::status::{Server, ServerState};
    use campfire_mesh::io::WhyNotDirect;
    use campfire_mesh::status::{PathKind, Peer, Status};
    use campfire_protocol::server::Transport;

    use super::Report;

    #[test]
    fn what_a_peer_tells_is_read() {
        let mut status = Status::default();
        status.own.name = "ada".into();
        status.own.addresses = vec!["fd00::a".parse().unwrap()];
        status.servers =
            vec![Server { id: "oak".into(), state: ServerState::Camped, transport: Some(Transport::Tls), ..Server::default() }];
        status.peers = vec![Peer {
            name: "bob".into(),
            connected: true,
            path: PathKind::Relay,
            server: Some("oak".into()),
            why_not_direct: Some(WhyNotDirect::SymmetricNAT),
            rtt_ms: Some(3.5),
            ..Peer::default()
        }];
        let report: Report = serde_json::from_value(serde_json::to_value(&status).unwrap()).unwrap();
        assert!(report.camped());
        assert_eq!((report.own.name.as_str(), report.own.addresses[0].to_string().as_str()), ("ada", "fd00::a"));
        let (server, peer) = (&report.servers[0], &report.peers[0]);
        assert_eq!(server.transport, Some(super::Transport::Tls));
        assert_eq!(
            (peer.path.as_str(), peer.server.as_deref(), peer.why_not_direct.as_deref()),
            ("Relay", Some("oak"), Some("SymmetricNAT"))
        );
        assert_eq!(peer.rtt_ms, Some(3.5));
    }

    #[test]
    fn each_state_limit_and_transport_of_today_is_known() {
        let states = [ServerState::Idle, ServerState::Connecting, ServerState::Camped, ServerState::Lost, ServerState::PlainTurn];
        for state in states {
            // Whoever adds one must add it here and above.
            match state {
                ServerState::Idle | ServerState::Connecting | ServerState::Camped | ServerState::Lost | ServerState::PlainTurn => {}
            }
            let read: super::ServerState = serde_json::from_value(serde_json::to_value(state).unwrap()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{state:?}"));
        }
        for limit in campfire_protocol::limit::Limit::ALL {
            let read: super::Limit = serde_json::from_value(serde_json::to_value(limit).unwrap()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{limit:?}"));
        }
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
            let read: super::Transport = serde_json::from_value(serde_json::to_value(transport).unwrap()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{transport:?}"));
        }
    }

    #[test]
    fn what_a_trial_found_is_read() {
        use campfire_fire::netcheck::{Netcheck, Outcome, Tried};
        let udp = Outcome { transport: Transport::Udp, address: None, rtt_ms: None, mapped: None, problem: Some("no answer".into()) };
        let found = Netcheck { servers: vec![Tried { id: "oak".into(), by: vec![udp] }], ..Netcheck::default() };
        let read: super::Netcheck = serde_json::from_value(serde_json::to_value(&found).unwrap()).unwrap();
        assert_eq!((read.servers[0].id.as_str(), read.servers[0].by[0].transport), ("oak", Some(super::Transport::Udp)));
        assert_eq!(read.servers[0].by[0].problem.as_deref(), Some("no answer"));
    }

    #[test]
    fn what_another_version_leaves_out_or_adds_is_no_error() {
        let report: Report =
            serde_json::from_str(r#"{"version": "9", "new": [1], "self": {"name": "x"}, "peers": [{"path": "Teleport"}]}"#).unwrap();
        assert_eq!((report.own.name.as_str(), report.peers[0].path.as_str()), ("x", "Teleport"));
        assert!(!report.camped());
    }
}
