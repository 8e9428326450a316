//! What a sidecar tells of itself: the parts of `campfire status --json` that are needed here. What it does not say is taken to be empty, for plugin
//! and sidecar may be of different versions.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Version of the sidecar.
    pub version: String,
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
    pub candidates: Vec<SocketAddr>,
    pub symmetric: bool,
    pub members: usize,
    pub large: bool,
}

/// A server, as a peer sees it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "crates/fire/src/status.rs says it")]
pub struct Server {
    pub id: String,
    pub state: String,
    pub transport: Option<String>,
    pub rtt_ms: Option<f64>,
    pub observed: Option<SocketAddr>,
    pub problem: Option<String>,
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
        self.servers.iter().any(|server| server.state == "Camped")
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
        assert_eq!(server.transport.as_deref(), serde_json::to_value(Transport::Tls).unwrap().as_str());
        assert_eq!(
            (peer.path.as_str(), peer.server.as_deref(), peer.why_not_direct.as_deref()),
            ("Relay", Some("oak"), Some("SymmetricNAT"))
        );
        assert_eq!(peer.rtt_ms, Some(3.5));
    }

    #[test]
    fn what_another_version_leaves_out_or_adds_is_no_error() {
        let report: Report =
            serde_json::from_str(r#"{"version": "9", "new": [1], "self": {"name": "x"}, "peers": [{"path": "Teleport"}]}"#).unwrap();
        assert_eq!((report.own.name.as_str(), report.peers[0].path.as_str()), ("x", "Teleport"));
        assert!(!report.camped());
    }
}
