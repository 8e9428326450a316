//! The socket that `wg` asks: hostile requests, and the real `wg`.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_mesh::status::{PathKind, Peer};
use campfire_sidecar::http::{self, Asker};
use campfire_sidecar::metrics::Snapshot;
use campfire_sidecar::report::Report;
use campfire_sidecar::uapi;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

#[test]
fn get_tells_peers_and_never_a_private_key() {
    let answer = ask(b"get=1\n\n");
    assert!(answer.starts_with("listen_port=51820\npublic_key="), "{answer}");
    assert!(answer.ends_with("errno=0\n\n"), "{answer}");
    assert!(!answer.contains("private_key"), "{answer}");
    let hex = "11".repeat(32);
    assert!(
        answer.contains(&format!(
            "public_key={hex}\npreshared_key={}\nprotocol_version=1\nendpoint=192.0.2.7:4000\nlast_handshake_time_sec=999\nlast_handshake_time_nsec=500000000\ntx_bytes=10\nrx_bytes=20\npersistent_keepalive_interval=0\nallowed_ip=fd00::7/128\nallowed_ip=100.80.0.7/32\nallowed_ip=10.0.0.0/8\n",
            "0".repeat(64)
        )),
        "{answer}"
    );
}

#[test]
fn several_requests_on_one_connection_are_answered_in_order() {
    let answer = ask(b"get=1\n\nset=1\nlisten_port=1\n\nget=1\n\n");
    assert_eq!(answer.matches("errno=0\n\n").count(), 2);
    assert_eq!(answer.matches("errno=-95\n\n").count(), 1);
}

#[test]
fn set_is_refused_whatever_it_sets() {
    for request in ["set=1\n\n", "set=1\nprivate_key=00\n\n", "set=1\nreplace_peers=true\npublic_key=11\nremove=true\n\n"] {
        assert_eq!(ask(request.as_bytes()), format!("errno=-{}\n\n", libc::EOPNOTSUPP), "{request}");
    }
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_closed() {
    let refused = format!("errno=-{}\n\n", libc::EPROTO);
    let long = format!("set=1\n{}=1\n\n", "a".repeat(10_000));
    let endless = "a".repeat(100_000);
    for request in
        ["\n", "get=2\n\n", "get=1\nget=1\n\n", "GET / HTTP/1.1\r\n\r\n", "set=1\nnonsense\n\n", "get=1", &long, &endless, "\0\0\0\n\n"]
    {
        assert_eq!(ask(format!("{request}\nget=1\n\n").as_bytes()), refused, "{request:.40}");
    }
}

#[test]
fn a_request_that_breaks_off_changes_nothing() {
    for request in ["get=1", "get=1\n", "set=1\n", "set=1\na="] {
        assert_eq!(ask(request.as_bytes()), format!("errno=-{}\n\n", libc::EPROTO), "{request}");
    }
    assert_eq!(ask(b""), "");
}

#[test]
fn a_request_without_end_is_cut_off() {
    let mut request = b"set=1\n".to_vec();
    for _ in 0..=uapi::MAX_LINES {
        request.extend(b"a=b\n");
    }
    assert_eq!(ask(&request), format!("errno=-{}\n\n", libc::EPROTO));
}

#[test]
fn a_peer_with_a_broken_key_is_left_out() {
    let mut report = report();
    report.status.peers[0].public_key = "not a key\nallowed_ip=0.0.0.0/0".into();
    let text = uapi::render(&report, 0, None);
    assert_eq!(*text, "listen_port=51820\nerrno=0\n\n");
}

proptest! {
    #[test]
    fn whatever_comes_is_answered_or_refused(request in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'='), any::<u8>()], 0..200)) {
        let answer = ask(&request);
        prop_assert!(answer.is_empty() || answer.ends_with("\n\n"));
    }
}

#[test]
fn the_real_wg_shows_the_interface_and_may_not_change_it() {
    if Command::new("wg").arg("--version").output().is_err() {
        println!("SKIPPED: needs wg (package wireguard-tools)");
        return;
    }
    let name = format!("cfwg{}", std::process::id());
    let socket = http::socket_path(Path::new("/var/run/wireguard"), &name);
    runtime().block_on(async {
        let Ok(listener) = http::bind_unix(&socket) else {
            println!("SKIPPED: needs root, to make a socket in /var/run/wireguard");
            return;
        };
        let (sender, mut requests) = mpsc::channel(4);
        let server = tokio::spawn(uapi::listen(listener, Asker(sender), None));
        let answers = tokio::spawn(async move {
            while let Some(answer) = requests.recv().await {
                let _ = answer.send(Snapshot { report: report(), data: Vec::new(), streams: [0; 3] });
            }
        });
        let wg = async |arguments: Vec<String>| {
            tokio::task::spawn_blocking(move || Command::new("wg").args(arguments).output().unwrap()).await.unwrap()
        };
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();

        let shown = wg(words(&format!("show {name}"))).await;
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let peer = STANDARD.encode([0x11; 32]);
        for line in [
            format!("interface: {name}\n"),
            "listening port: 51820\n".into(),
            format!("peer: {peer}\n"),
            "endpoint: 192.0.2.7:4000\n".into(),
            "allowed ips: fd00::7/128, 100.80.0.7/32, 10.0.0.0/8\n".into(),
            "latest handshake: ".into(),
            "transfer: 20 B received, 10 B sent\n".into(),
        ] {
            assert!(text.contains(&line), "no {line:?} in {text}{}", String::from_utf8_lossy(&shown.stderr));
        }
        let dump = wg(words(&format!("show {name} dump"))).await;
        let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
        let fields: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(fields[0], ["(none)", "(none)", "51820", "off"]);
        assert_eq!(fields[1][..4], [peer.as_str(), "(none)", "192.0.2.7:4000", "fd00::7/128,100.80.0.7/32,10.0.0.0/8"]);
        assert_eq!(fields[1][5..], ["20", "10", "off"]);

        let set = wg(words(&format!("set {name} listen-port 1"))).await;
        assert!(!set.status.success());
        assert_eq!(String::from_utf8_lossy(&set.stderr), "Unable to modify interface: Operation not supported\n");
        server.abort();
        answers.abort();
    });
    let _ = std::fs::remove_file(socket);
}

/// Sends all of `request`, closes, and returns all that is answered.
fn ask(request: &[u8]) -> String {
    runtime().block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let serving = tokio::spawn(async move {
            let _ = uapi::serve(server, None, || async { Some((report(), 1_000_000)) }).await;
        });
        // The other side may close before it has read all.
        let _ = client.write_all(request).await;
        let _ = client.shutdown().await;
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), client.read_to_end(&mut answer)).await.unwrap().unwrap();
        serving.await.unwrap();
        String::from_utf8(answer).unwrap()
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn report() -> Report {
    let mut report = Report { listen_port: 51820, ..Report::default() };
    report.status.peers = vec![Peer {
        public_key: STANDARD.encode([0x11; 32]),
        addresses: vec!["fd00::7".parse().unwrap(), "100.80.0.7".parse().unwrap()],
        routes: vec!["10.0.0.0/8".into()],
        connected: true,
        path: PathKind::Direct,
        endpoint: Some("192.0.2.7:4000".parse().unwrap()),
        last_handshake_ms: Some(500),
        sent_bytes: 10,
        received_bytes: 20,
        ..Peer::default()
    }];
    report
}
