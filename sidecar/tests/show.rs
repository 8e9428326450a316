//! What people see: status, graph, why; and what Prometheus reads.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use campfire_fire::status::{Server, ServerState};
use campfire_mesh::io::WhyNotDirect;
use campfire_mesh::status::{Happened, PathKind, Peer};
use campfire_protocol::server::Transport;
use campfire_sidecar::metrics::{self, Snapshot};
use campfire_sidecar::report::Report;
use campfire_sidecar::{graph, show, why};

#[test]
fn status_is_a_table_with_paths_and_reasons() {
    assert_eq!(
        show::status(&ada()),
        "\
ada.home (laptop)  campfire0  fd00::a
key 0123456789abcdef  network 0102030405  port 4000  up 61 min
camped; 2 of 3 peers connected

SERVER  STATE   VIA  RTT     SEEN AS
oak     camped  UDP  4.0 ms  198.51.100.1:4000
birch   lost    -    -       -                  10.0.0.1:3478 refuses connections: nothing listens there

PEER         ADDRESS  PATH     RTT     HANDSHAKE  SENT     RECEIVED  WHY NOT DIRECT
bob          fd00::b  direct   0.8 ms  5 s ago    1.5 KiB  10 B
db (valley)  fd00::d  via oak  23 ms   3 min ago  0 B      0 B       PeerSymmetricNAT
eve?[31m     -        none     -       -          0 B      0 B       Pending
"
    );
}

#[test]
fn long_names_are_shortened_in_the_table_and_stay_apart_and_are_found_as_they_are_shown() {
    let mut report = ada();
    let mut peer = report.status.peers[1].clone();
    peer.namespace = "n".repeat(63);
    peer.cluster = "the-cluster-of-the-valley".into();
    let named = |middle: &str, end: &str| Peer { name: format!("payments-{}-{end}", middle.repeat(53 - end.len())), ..peer.clone() };
    report.status.peers = vec![named("a", "x2k4j"), named("a", "q9w8e")];
    let text = show::status(&report);
    let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("PEER")).collect();
    assert!(lines[1].starts_with("paymen…aaaaaaa-x2k4j.nnn…nnnnnnnn (the…e-valley)  "), "{text}");
    assert!(lines[2].starts_with("paymen…aaaaaaa-q9w8e.nnn…nnnnnnnn (the…e-valley)  "), "{text}");
    assert!(lines.iter().all(|line| line.chars().count() <= 130), "{text}");
    // Two that differ in the middle alone are called by all that they are called.
    report.status.peers.extend([named("b", "same"), named("b", "same")]);
    report.status.peers[2].name.replace_range(20..21, "x");
    let shown = show::names(&report.status.peers);
    assert!(shown[2].starts_with(&report.status.peers[2].name) && shown[2] != shown[3], "{shown:?}");
    for (peer, shown) in report.status.peers.iter().zip(&shown) {
        let found: Vec<&str> = why::find(&report, shown).iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(found, [&peer.name]);
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["peers"][0]["name"], report.status.peers[0].name);
}

#[test]
fn a_large_room_says_that_links_are_made_on_demand() {
    let mut report = ada();
    report.status.own.large = true;
    report.status.own.members = 10_000;
    assert!(show::status(&report).contains("2 of 3 peers connected, 10000 in the room (links are made on demand)"));
    assert!(report.settled(0), "nobody is waited for");
}

#[test]
fn a_peer_is_settled_when_it_camps_and_all_that_it_knows_answer() {
    let mut report = ada();
    assert!(!report.settled(0), "eve does not answer");
    report.status.peers.truncate(2);
    assert!(report.settled(0) && report.settled(2));
    assert!(!report.settled(3), "one more was asked for");
    report.status.servers[0].state = ServerState::Lost;
    assert!(!report.settled(0), "it does not camp");
}

#[test]
fn a_graph_of_several_peers_draws_each_link_once() {
    let dot = graph::dot(&[ada(), bob()]);
    // ada ↔ bob directly, drawn once for both; ada → db relayed; ada → eve not connected.
    assert_eq!(dot.matches("dir=none, style=solid").count(), 1, "{dot}");
    assert_eq!(dot.matches("style=dashed").count(), 1, "{dot}");
    assert!(dot.contains("tooltip=\"via oak, 23 ms: the other side's NAT is symmetric\""), "{dot}");
    assert!(dot.contains("tooltip=\"not connected"), "{dot}");
    assert!(dot.contains("\"server oak\" [label=\"oak\\n2 camp here, 1 pairs relayed\", shape=cylinder"), "{dot}");
    assert_eq!(dot.matches("style=dotted];").count(), 2, "each camps on oak: {dot}");
    assert!(dot.starts_with("digraph campfire {\n") && dot.ends_with("}\n"));
}

#[test]
fn both_sides_that_send_differently_are_two_arrows() {
    let mut bob = bob();
    bob.status.peers[0].path = PathKind::Relay;
    bob.status.peers[0].server = Some("oak".into());
    let dot = graph::dot(&[ada(), bob]);
    assert_eq!(dot.matches("dir=none, style=solid").count(), 0, "{dot}");
    assert_eq!(dot.matches("dir=forward, style=dashed").count(), 2, "{dot}");
}

#[test]
fn a_line_shows_the_round_trip_that_each_end_measured() {
    let mut other = bob();
    other.status.peers[0].rtt_ms = Some(7.0);
    let dot = graph::dot(&[ada(), other]);
    assert!(dot.lines().any(|line| line.contains("0.8 ms</font>") && line.contains("7.0 ms</font>")), "{dot}");
}

#[test]
fn names_of_others_cannot_break_out_of_the_graph() {
    let mut report = ada();
    report.status.peers[0].name = "x\"];evil[label=\"\\".into();
    let dot = graph::dot(&[report]);
    assert!(dot.contains(r#"label="x\"];evil[label=\"\\""#), "{dot}");
}

#[test]
fn graphviz_takes_the_graph() {
    let Ok(mut dot) = std::process::Command::new("dot")
        .args(["-Tplain", "-o", "/dev/null"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
    else {
        println!("SKIPPED: needs dot (package graphviz)");
        return;
    };
    let mut report = ada();
    report.status.peers[0].name = "\"\\\u{7}<b>".into();
    std::io::Write::write_all(&mut dot.stdin.take().unwrap(), graph::dot(&[report, bob()]).as_bytes()).unwrap();
    let output = dot.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn why_explains_a_relayed_path_and_what_would_help() {
    let report = ada();
    let text = why::explain(&report, &report.status.peers[1]);
    for part in [
        "db (valley) (fd00::d) is connected via oak at 192.0.2.1:3478, 23 ms there and back.",
        "Why not directly: the other side's NAT is symmetric",
        "What would help: One side with a public address or IPv6",
        "This side:  198.51.100.1:4000",
        "Other side: 203.0.113.9:1234 (another port for every destination)",
        "Tries at a direct path so far: 3; the next try is in 40 s.",
        "2 min ago  learned of it at the fire",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn why_explains_a_direct_path_and_none_at_all() {
    let mut report = ada();
    assert!(
        why::explain(&report, &report.status.peers[0])
            .starts_with("bob (fd00::b) is connected directly at 192.0.2.2:4000, 0.8 ms there and back.\n")
    );
    let text = why::explain(&report, &report.status.peers[2]);
    assert!(text.starts_with("eve?[31m is known, but not connected.\n"), "{text}");
    assert!(text.contains("It may have left without a word"), "{text}");
    report.status.servers[0].state = ServerState::Lost;
    let text = why::explain(&report, &report.status.peers[2]);
    assert!(text.contains("camps on no server") && text.contains("birch: 10.0.0.1:3478 refuses connections"), "{text}");
}

#[test]
fn every_reason_is_explained_with_what_would_help() {
    for reason in [
        WhyNotDirect::SymmetricNAT,
        WhyNotDirect::PeerSymmetricNAT,
        WhyNotDirect::UDPBlocked,
        WhyNotDirect::NoReflexiveAddress,
        WhyNotDirect::ProbeTimeout,
        WhyNotDirect::MTUTooSmall,
        WhyNotDirect::Policy,
        WhyNotDirect::SlowerThanRelay,
        WhyNotDirect::Pending,
    ] {
        let mut report = ada();
        report.status.peers[1].why_not_direct = Some(reason);
        assert!(why::explain(&report, &report.status.peers[1]).contains("What would help: "), "{reason:?}");
        // The words of the table are those of the JSON.
        assert_eq!(serde_json::to_value(reason).unwrap(), show::reason(reason));
    }
}

#[test]
fn a_narrow_way_is_no_firewall() {
    for (mtu, part) in [
        (1280, "An MTU of 1340 bytes on the way (over IPv6 1360), or fragments let through.\n"),
        (
            1400,
            "An MTU of 1460 bytes on the way (over IPv6 1480), or fragments let through, or a smaller one of the mesh, down to 1280: --mtu",
        ),
    ] {
        let mut report = ada();
        report.mtu = mtu;
        report.status.peers[1].why_not_direct = Some(WhyNotDirect::MTUTooSmall);
        let text = why::explain(&report, &report.status.peers[1]);
        assert!(text.contains(part) && text.contains("has a smaller MTU") && !text.contains("firewall"), "{text}");
    }
}

#[test]
fn a_peer_is_found_by_name_address_key_and_beginnings() {
    let report = ada();
    let found = |wanted: &str| why::find(&report, wanted).iter().map(|peer| peer.name.clone()).collect::<Vec<_>>();
    assert_eq!(found("bob"), ["bob"]);
    assert_eq!(found("fd00::d"), ["db"]);
    assert_eq!(found("fd00:0::d"), ["db"]);
    assert_eq!(found(&"b".repeat(43)), ["bob"]);
    assert_eq!(found("bbbb"), ["bob"]);
    assert_eq!(found("d"), ["db"]);
    assert!(found("nobody").is_empty());
}

#[test]
fn json_comes_back_as_it_went() {
    let report = ada();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["self"]["name"], "ada");
    assert_eq!(json["peers"][1]["path"], "Relay");
    assert_eq!(json["peers"][1]["why_not_direct"], "PeerSymmetricNAT");
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}

#[test]
fn metrics_are_sound_and_carry_paths_reasons_and_counters() {
    let mut report = ada();
    report.ready = true;
    report.status.counters.insert("announcements_dropped".into(), 7);
    let text = metrics::text(Snapshot { report, data: vec![("tun_reads", 42)], streams: [1, 2, 3] });
    for line in [
        "campfire_peers{path=\"direct\"} 1.0",
        "campfire_peers{path=\"relay\"} 1.0",
        "campfire_peers_relayed{reason=\"PeerSymmetricNAT\"} 1.0",
        "campfire_ready 1.0",
        "campfire_server_camped{server=\"oak\"} 1.0",
        "campfire_server_camped{server=\"birch\"} 0.0",
        "campfire_server_rtt_seconds{server=\"oak\"} 0.004",
        "campfire_data_tun_reads_total 42",
        "campfire_mesh_announcements_dropped_total 7",
        "campfire_streams_dropped_frames_total 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in:\n{text}");
    }
}

fn ada() -> Report {
    let mut report = Report { interface: "campfire0".into(), listen_port: 4000, uptime_ms: 3_660_000, ..Report::default() };
    let own = &mut report.status.own;
    own.public_key = "a".repeat(43);
    own.name = "ada".into();
    own.namespace = "home".into();
    own.cluster = "laptop".into();
    own.addresses = vec!["fd00::a".parse().unwrap()];
    own.network = "0102030405".into();
    own.fingerprints = vec!["0123456789abcdef".into()];
    own.candidates = vec!["198.51.100.1:4000".parse().unwrap()];
    report.status.servers = vec![
        Server {
            id: "oak".into(),
            state: ServerState::Camped,
            transport: Some(Transport::Udp),
            rtt_ms: Some(4.0),
            observed: Some("198.51.100.1:4000".parse().unwrap()),
            ..Server::default()
        },
        Server {
            id: "birch".into(),
            state: ServerState::Lost,
            problem: Some("10.0.0.1:3478 refuses connections: nothing listens there".into()),
            ..Server::default()
        },
    ];
    report.status.peers = vec![
        Peer {
            name: "bob".into(),
            public_key: "b".repeat(43),
            addresses: vec!["fd00::b".parse().unwrap()],
            connected: true,
            path: PathKind::Direct,
            endpoint: Some("192.0.2.2:4000".parse().unwrap()),
            rtt_ms: Some(0.8),
            last_handshake_ms: Some(5_200),
            sent_bytes: 1536,
            received_bytes: 10,
            ..Peer::default()
        },
        Peer {
            name: "db".into(),
            cluster: "valley".into(),
            public_key: "d".repeat(43),
            addresses: vec!["fd00::d".parse().unwrap()],
            connected: true,
            path: PathKind::Relay,
            server: Some("oak".into()),
            endpoint: Some("192.0.2.1:3478".parse().unwrap()),
            why_not_direct: Some(WhyNotDirect::PeerSymmetricNAT),
            reason: Some("the other side's NAT is symmetric".into()),
            rtt_ms: Some(23.4),
            last_handshake_ms: Some(185_000),
            candidates: vec!["203.0.113.9:1234".parse().unwrap()],
            punch_attempts: 3,
            next_attempt_ms: Some(40_000),
            history: vec![Happened { ago_ms: 130_000, what: "learned of it at the fire".into() }],
            ..Peer::default()
        },
        Peer { name: "eve\u{1b}[31m".into(), public_key: "e".repeat(43), why_not_direct: Some(WhyNotDirect::Pending), ..Peer::default() },
    ];
    report
}

fn bob() -> Report {
    let mut report = Report::default();
    report.status.own.public_key = "b".repeat(43);
    report.status.own.name = "bob".into();
    report.status.servers = vec![Server { id: "oak".into(), state: ServerState::Camped, ..Server::default() }];
    report.status.peers = vec![Peer {
        name: "ada".into(),
        public_key: "a".repeat(43),
        connected: true,
        path: PathKind::Direct,
        rtt_ms: Some(0.9),
        ..Peer::default()
    }];
    report
}
