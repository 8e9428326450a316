//! `campfire status` for people: a few lines and a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use campfire_fire::status::{Server, ServerState};
use campfire_mesh::io::WhyNotDirect;
use campfire_mesh::status::{PathKind, Peer};
use campfire_protocol::certificate::Refusal;
use campfire_protocol::server::Transport;
use campfire_text::{printable, table};

use crate::report::{Report, label};

/// Characters of a name in a table, with namespace and cluster …
const MOST_OF_NAME: usize = 48;
/// … and of these, each.
const MOST_OF_PLACE: usize = 12;

/// The report as text.
pub fn status(report: &Report) -> String {
    let mut out = String::new();
    let own = &report.status.own;
    let addresses: Vec<String> = own.addresses.iter().map(ToString::to_string).collect();
    let _ =
        writeln!(out, "{}  {}  {}", printable(&full_name(&own.name, &own.namespace, &own.cluster)), report.interface, addresses.join("  "));
    let keys: Vec<&str> = own.fingerprints.iter().map(String::as_str).collect();
    let _ = writeln!(out, "key {}  network {}  port {}  up {}", keys.join(", "), own.network, report.listen_port, span(report.uptime_ms));
    let (connected, known) = report.connected();
    let members = if own.large { format!(", {} in the room (links are made on demand)", own.members) } else { String::new() };
    let state = if report.camped() { "camped" } else { "not camped: no server answers" };
    let _ = writeln!(out, "{state}; {connected} of {known} peers connected{members}");
    for problem in &report.problems {
        let _ = writeln!(out, "problem: {}", printable(&problem.message));
    }

    let mut servers = vec![["SERVER", "STATE", "VIA", "RTT", "SEEN AS", ""].map(String::from).to_vec()];
    servers.extend(report.status.servers.iter().map(server_row));
    let _ = write!(out, "\n{}", table(&servers, 2));
    if report.status.peers.is_empty() {
        out.push_str("\nno other peer is known\n");
        return out;
    }
    let mut peers = vec![["PEER", "ADDRESS", "PATH", "RTT", "HANDSHAKE", "SENT", "RECEIVED", "WHY NOT DIRECT"].map(String::from).to_vec()];
    peers.extend(names(&report.status.peers).into_iter().zip(&report.status.peers).map(|(name, peer)| peer_row(name, peer)));
    let _ = write!(out, "\n{}", table(&peers, 2));
    out
}

fn server_row(server: &Server) -> Vec<String> {
    let state = match server.state {
        ServerState::Idle => "idle",
        ServerState::Connecting => "connecting",
        ServerState::Camped => "camped",
        ServerState::Lost => "lost",
        ServerState::PlainTurn => "plain TURN",
    };
    let transport = match server.transport {
        Some(Transport::Udp) => "UDP",
        Some(Transport::Tcp) => "TCP",
        Some(Transport::Tls) => "TLS",
        None => "-",
    };
    vec![
        printable(&cut(&server.id, MOST_OF_NAME)),
        state.into(),
        transport.into(),
        milliseconds(server.rtt_ms),
        server.observed.map_or_else(|| "-".into(), |seen| seen.to_string()),
        printable(server.problem.as_deref().unwrap_or_default()),
    ]
}

fn peer_row(name: String, peer: &Peer) -> Vec<String> {
    vec![
        name,
        peer.addresses.first().map_or_else(|| "-".into(), ToString::to_string),
        path(peer),
        milliseconds(peer.rtt_ms),
        peer.last_handshake_ms.map_or_else(|| "-".into(), |ms| format!("{} ago", span(ms))),
        bytes(peer.sent_bytes),
        bytes(peer.received_bytes),
        match peer.refusal {
            Some(refusal) => refused(refusal),
            None => peer.why_not_direct.filter(|_| peer.path != PathKind::Direct).map(reason).unwrap_or_default(),
        }
        .into(),
    ]
}

/// A peer's path in a word.
pub fn path(peer: &Peer) -> String {
    match (peer.path, &peer.server) {
        (PathKind::Direct, _) => "direct".into(),
        (PathKind::Relay, Some(server)) => format!("via {}", printable(&cut(server, MOST_OF_NAME))),
        (PathKind::Relay, None) => "relayed".into(),
        (PathKind::None, _) => "none".into(),
    }
}

/// A reason in a few words.
pub fn reason(why: WhyNotDirect) -> &'static str {
    match why {
        WhyNotDirect::SymmetricNAT => "SymmetricNAT",
        WhyNotDirect::PeerSymmetricNAT => "PeerSymmetricNAT",
        WhyNotDirect::UDPBlocked => "UDPBlocked",
        WhyNotDirect::NoReflexiveAddress => "NoReflexiveAddress",
        WhyNotDirect::ProbeTimeout => "ProbeTimeout",
        WhyNotDirect::MTUTooSmall => "MTUTooSmall",
        WhyNotDirect::Policy => "Policy",
        WhyNotDirect::SlowerThanRelay => "SlowerThanRelay",
        WhyNotDirect::Pending => "Pending",
    }
}

/// Why nothing passes, in a word.
pub fn refused(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotCertified => "NotCertified",
        Refusal::CertificateExpired => "CertificateExpired",
        Refusal::UnknownIssuer => "UnknownIssuer",
        Refusal::OutOfScope => "OutOfScope",
    }
}

/// How peers are called in a table: with room for the rest of the line, and no two alike that are not.
pub fn names(peers: &[Peer]) -> Vec<String> {
    let called = |peer: &Peer, most| {
        let name = label(&peer.name, &peer.public_key);
        let full = printable(&full_name(&name, &peer.namespace, &peer.cluster));
        if full.chars().count() <= most {
            return full;
        }
        let (namespace, cluster) = (cut(&peer.namespace, MOST_OF_PLACE), cut(&peer.cluster, MOST_OF_PLACE));
        let place = full_name("", &namespace, &cluster).chars().count();
        printable(&full_name(&cut(&name, most - place), &namespace, &cluster))
    };
    let short: Vec<String> = peers.iter().map(|peer| called(peer, MOST_OF_NAME)).collect();
    let mut alike = BTreeMap::<&str, usize>::new();
    for name in &short {
        *alike.entry(name).or_default() += 1;
    }
    let alone = |name: &String| alike.get(name.as_str()) == Some(&1);
    peers.iter().zip(&short).map(|(peer, name)| if alone(name) { name.clone() } else { called(peer, usize::MAX) }).collect()
}

/// Shortened in the middle: pods of one Deployment begin alike, and end each in its own way.
fn cut(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let head = (most - 1) / 3;
    let tail = most - 1 - head;
    text.chars().take(head).chain(['…']).chain(text.chars().skip(length - tail)).collect()
}

/// `name.namespace (cluster)`, without what is empty.
pub fn full_name(name: &str, namespace: &str, cluster: &str) -> String {
    let mut text = name.to_owned();
    if !namespace.is_empty() {
        let _ = write!(text, ".{namespace}");
    }
    if !cluster.is_empty() {
        let _ = write!(text, " ({cluster})");
    }
    text
}

/// A round trip, if it is known.
pub fn milliseconds(rtt: Option<f64>) -> String {
    rtt.map_or_else(|| "-".into(), campfire_text::milliseconds)
}

/// A span of time: its largest unit, and for hours and more the next.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
