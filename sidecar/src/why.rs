//! `campfire why PEER`: why the path to a peer is what it is, in sentences, and what would help.

use std::fmt::Write as _;

use campfire_fire::status::ServerState;
use campfire_mesh::io::WhyNotDirect;
use campfire_mesh::status::{PathKind, Peer};
use campfire_protocol::certificate::Refusal;
use campfire_text::printable;

use crate::report::{Report, label};
use crate::show::{full_name, milliseconds, names, path, refused, span};

/// Peers that `wanted` may mean: those it names exactly, or as a table does, else those whose name or key begins with it.
pub fn find<'a>(report: &'a Report, wanted: &str) -> Vec<&'a Peer> {
    let exact = |(peer, shown): &(&Peer, String)| {
        peer.name == wanted
            || shown == wanted
            || full_name(&peer.name, &peer.namespace, "") == wanted
            || peer.public_key == wanted
            || peer.identity.eq_ignore_ascii_case(wanted)
            || wanted.parse().is_ok_and(|address| peer.addresses.contains(&address))
    };
    let begins = |peer: &&Peer| peer.name.starts_with(wanted) || peer.public_key.starts_with(wanted) || peer.identity.starts_with(wanted);
    let shown = report.status.peers.iter().zip(names(&report.status.peers));
    let exactly: Vec<&Peer> = shown.filter(exact).map(|(peer, _)| peer).collect();
    if exactly.is_empty() { report.status.peers.iter().filter(begins).collect() } else { exactly }
}

/// The explanation.
pub fn explain(report: &Report, peer: &Peer) -> String {
    let mut out = String::new();
    let name = printable(&full_name(&label(&peer.name, &peer.public_key), &peer.namespace, &peer.cluster));
    let address = peer.addresses.first().map(|address| format!(" ({address})")).unwrap_or_default();
    let rtt = peer.rtt_ms.map(|rtt| format!(", {} there and back", milliseconds(Some(rtt)))).unwrap_or_default();
    let endpoint = peer.endpoint.map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
    let _ = match peer.path {
        PathKind::Direct => writeln!(out, "{name}{address} is connected directly{endpoint}{rtt}."),
        PathKind::Relay => writeln!(out, "{name}{address} is connected {}{endpoint}{rtt}.", path(peer)),
        PathKind::None if peer.connected => writeln!(out, "{name}{address} has a session, but no path works at present."),
        PathKind::None => writeln!(out, "{name}{address} is known, but not connected."),
    };
    if peer.path != PathKind::Direct {
        not_direct(&mut out, report, peer);
    }
    if peer.path == PathKind::None {
        no_path(&mut out, report, peer);
    }
    if let Some(ms) = peer.last_received_ms {
        let _ = writeln!(out, "It was last heard of {} ago.", span(ms));
    }

    let _ = writeln!(out, "\nThis side:  {}", side(&report.status.own.candidates, report.status.own.symmetric));
    let _ = writeln!(out, "Other side: {}", side(&peer.candidates, peer.why_not_direct == Some(WhyNotDirect::PeerSymmetricNAT)));
    if peer.punch_attempts > 0 && peer.path != PathKind::Direct {
        let next = peer.next_attempt_ms.map(|ms| format!("; the next try is in {}", span(ms))).unwrap_or_default();
        let _ = writeln!(out, "Tries at a direct path so far: {}{next}.", peer.punch_attempts);
    }
    if !peer.history.is_empty() {
        out.push_str("\nWhat happened:\n");
        for happened in &peer.history {
            let _ = writeln!(out, "  {:>12} ago  {}", span(happened.ago_ms), printable(&happened.what));
        }
    }
    out
}

fn not_direct(out: &mut String, report: &Report, peer: &Peer) {
    let Some(why) = peer.why_not_direct else { return };
    if let Some(reason) = &peer.reason {
        let _ = writeln!(out, "Why not directly: {}", printable(reason));
    }
    let (what, help) = match why {
        WhyNotDirect::SymmetricNAT => (
            "The NAT in front of this peer gives it another port for every destination (each server sees another one), so nobody can aim at it, and the other side cannot be reached without that.",
            "One side with a public address or IPv6 (a forwarded port: --listen-port, hostPort), or a NAT that keeps the port (on Linux masquerade without --random-fully), would make it direct.",
        ),
        WhyNotDirect::PeerSymmetricNAT => (
            "The NAT in front of the other peer gives it another port for every destination, so it cannot be aimed at, and this side cannot be reached without that.",
            "One side with a public address or IPv6 (a forwarded port: --listen-port, hostPort) would make it direct.",
        ),
        WhyNotDirect::UDPBlocked => (
            "No UDP gets through here: the servers are reached by TCP or TLS alone.",
            "Let UDP out of this network (any port to the servers' 3478 and to peers).",
        ),
        WhyNotDirect::NoReflexiveAddress => {
            ("No server has told this peer yet how it looks from outside.", "A server that answers on UDP: see `campfire status`.")
        }
        WhyNotDirect::ProbeTimeout => (
            "Both sides sent probes to each other's addresses at the same moment, and none came through: a firewall, or NATs that cannot be crossed.",
            "Let UDP in on one side (a forwarded port: --listen-port), or IPv6 on both.",
        ),
        WhyNotDirect::MTUTooSmall => {
            narrow(out, report.mtu);
            return;
        }
        WhyNotDirect::Policy => ("Direct paths are switched off, here or at the other peer.", "Leave out --no-direct on both."),
        WhyNotDirect::SlowerThanRelay => (
            "A direct path was found, and packets take much longer on it than through the server. It is asked again now and then, and used when that changes.",
            "Look what lies between: a VPN, a long way round, a full line, a machine without time to answer.",
        ),
        WhyNotDirect::Pending => ("It has not been tried to the end yet.", "Wait some seconds and ask again."),
    };
    let _ = writeln!(out, "{what}\nWhat would help: {help}");
    if why == WhyNotDirect::SymmetricNAT {
        let seen: Vec<String> = report
            .status
            .servers
            .iter()
            .filter_map(|server| server.observed.map(|seen| format!("{} sees {seen}", printable(&server.id))))
            .collect();
        if seen.len() > 1 {
            let _ = writeln!(out, "Seen from outside: {}.", seen.join(", "));
        }
    }
}

/// Small packets come through directly, and large ones do not.
fn narrow(out: &mut String, mtu: u16) {
    // WireGuard's own 32 bytes, UDP's 8 and the IP header's.
    let [over_ipv4, over_ipv6] = [20, 40].map(|header| u32::from(mtu) + 32 + 8 + header);
    let _ = writeln!(
        out,
        "Small probes reach the other side directly; packets as large as this interface's ({mtu} bytes) do not: something on the way has a smaller MTU (a tunnel, a VPN, PPPoE) and lets no fragments through."
    );
    let smaller = if mtu > 1280 {
        format!(", or a smaller one of the mesh, down to 1280: --mtu, of this peer and the other ({mtu} now)")
    } else {
        String::new()
    };
    let _ = writeln!(
        out,
        "What would help: An MTU of {over_ipv4} bytes on the way (over IPv6 {over_ipv6}), or fragments let through{smaller}."
    );
}

fn no_path(out: &mut String, report: &Report, peer: &Peer) {
    if let Some(refusal) = peer.refusal.filter(|_| peer.last_handshake_ms.is_some()) {
        not_let_in(out, refusal);
    } else if !report.camped() {
        let _ = writeln!(out, "This peer camps on no server at present, so nobody new can be met:");
        for server in report.status.servers.iter().filter(|server| server.state != ServerState::Camped) {
            let problem = server.problem.as_deref().unwrap_or("does not answer");
            let _ = writeln!(out, "  {}: {}", printable(&server.id), printable(problem));
        }
    } else if report.status.own.large && !peer.connected {
        let _ = writeln!(out, "The room is large: a link is made with the first packet to it.");
    } else {
        let _ = writeln!(out, "It may have left without a word, or have no server in common with this peer any more.");
    }
}

/// It has a session, and nothing passes.
fn not_let_in(out: &mut String, refusal: Refusal) {
    let _ = writeln!(out, "It is not let in ({}): {}.", refused(refusal), refusal.sentence());
    let help = match refusal {
        Refusal::NotCertified => "A URI that `campfire uri --for NAME` made for it. The key alone lets nobody into this mesh.",
        Refusal::CertificateExpired => "Look whether its issuer still certifies (a laptop's URI ends too), and what both clocks show.",
        Refusal::UnknownIssuer => "Look whether both know the same root: root= in the URI at either side.",
        Refusal::OutOfScope => "Another delegation: name, namespace and routes are as its issuer was told that they may be.",
    };
    let _ = writeln!(out, "What would help: {help}");
}

fn side(candidates: &[std::net::SocketAddr], symmetric: bool) -> String {
    let addresses: Vec<String> = candidates.iter().map(ToString::to_string).collect();
    let addresses = if addresses.is_empty() { "no address known".to_owned() } else { addresses.join(", ") };
    if symmetric { format!("{addresses} (another port for every destination)") } else { addresses }
}
