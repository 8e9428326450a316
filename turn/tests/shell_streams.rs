//! TCP and TLS connections of friends and of others.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Link, PATIENCE, Server, new_transaction, observed_address, write_certificate, write_secret};

#[test]
fn binding_is_answered_over_udp_tcp_and_tls() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = write_certificate(dir.path());
    let server = server(dir.path(), &[]);
    for mut link in [Link::udp(server.udp[0]), Link::tcp(server.tcp[0]), Link::tls(server.tls[0], &certificate).unwrap()] {
        assert!(observed_address(&mut link).ip().is_loopback());
        assert!(observed_address(&mut link).ip().is_loopback());
    }
    server.wait_for_metric("connections{transport=\"tls\"}", 0);
}

#[test]
fn many_messages_in_one_segment_and_one_message_in_many_are_all_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), &[]);
    let mut socket = TcpStream::connect(server.tcp[0]).unwrap();
    socket.set_nodelay(true).unwrap();
    let many: Vec<u8> = (0..50).flat_map(|_| common::binding_request(new_transaction())).collect();
    socket.write_all(&many).unwrap();
    for byte in common::binding_request(new_transaction()) {
        socket.write_all(&[byte]).unwrap();
    }
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut link = Link::Stream(Box::new(socket), Vec::new());
    for _ in 0..51 {
        assert!(link.receive().is_some());
    }
}

#[test]
fn what_is_no_frame_closes_the_connection_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), &[]);
    let mut wrong_cookie = common::binding_request(new_transaction());
    wrong_cookie[4] ^= 1;
    let mut odd_length = common::binding_request(new_transaction());
    odd_length[3] = 3;
    let good = common::binding_request(new_transaction());
    let after_a_good_one = [good.as_slice(), &[0xFF; 100]].concat();
    let cases: [&[u8]; 5] = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01", &wrong_cookie, &odd_length, &after_a_good_one];
    for (index, bytes) in cases.iter().enumerate() {
        let mut socket = TcpStream::connect(server.tcp[0]).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // The end may come as a reset, when bytes of ours were left unread.
        let _ = socket.read_to_end(&mut rest);
        server.wait_for_metric("connections_ended_total{reason=\"malformed\"}", index as u64 + 1);
    }
    server.wait_for_metric("connections{transport=\"tcp\"}", 0);
    assert!(observed_address(&mut Link::tcp(server.tcp[0])).ip().is_loopback());
}

#[test]
fn silence_and_bytes_that_trickle_in_end_a_connection_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), &["--handshake-timeout", "300ms", "--idle-timeout", "600ms"]);
    let started = Instant::now();
    let mut silent = TcpStream::connect(server.tcp[0]).unwrap();
    let mut trickling = TcpStream::connect(server.tcp[0]).unwrap();
    let mut no_handshake = TcpStream::connect(server.tls[0]).unwrap();
    let mut idle = Link::tcp(server.tcp[0]);
    observed_address(&mut idle);
    for byte in &common::binding_request(new_transaction())[..10] {
        let _ = trickling.write_all(&[*byte]);
        std::thread::sleep(Duration::from_millis(50));
    }
    for socket in [&mut silent, &mut trickling, &mut no_handshake] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(socket.read(&mut [0; 10]).unwrap_or(0), 0);
    }
    assert!(idle.receive().is_none());
    assert!(started.elapsed() >= Duration::from_millis(600), "the idle one was closed too early");
    server.wait_for_metric("connections_ended_total{reason=\"timeout\"}", 4);
}

#[test]
fn connections_are_limited_in_total_and_for_each_source() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), &["--max-connections", "3", "--max-connections-per-source", "2"]);
    let open = |from: &str| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&format!("{from}:0").parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.connect(&server.tcp[0].into()).unwrap();
        let socket = TcpStream::from(socket);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let kept = [open("127.0.0.1"), open("127.0.0.1")];
    server.wait_for_metric("connections{transport=\"tcp\"}", 2);
    let is_closed = |mut socket: TcpStream| socket.read(&mut [0; 1]).unwrap_or(0) == 0;
    assert!(is_closed(open("127.0.0.1")));
    let other = open("127.0.0.2");
    server.wait_for_metric("connections{transport=\"tcp\"}", 3);
    assert!(is_closed(open("127.0.0.3")));
    assert_eq!(server.metric("connections_refused_total{reason=\"source_limit\"}"), 1);
    assert_eq!(server.metric("connections_refused_total{reason=\"limit\"}"), 1);
    drop((kept, other));
    server.wait_for_metric("connections{transport=\"tcp\"}", 0);
    assert!(observed_address(&mut Link::tcp(server.tcp[0])).ip().is_loopback());
}

#[test]
fn a_renewed_certificate_is_used_for_new_connections_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let old = write_certificate(dir.path());
    let mut server = server(dir.path(), &[]);
    let mut open = Link::tls(server.tls[0], &old).unwrap();
    observed_address(&mut open);
    std::fs::write(dir.path().join("cert.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    server.signal("HUP");
    server.wait_for_log("not reloaded");
    observed_address(&mut Link::tls(server.tls[0], &old).unwrap());
    let new = write_certificate(dir.path());
    assert!(common::eventually(|| Link::tls(server.tls[0], &new).ok()).is_some(), "{}", server.log());
    assert!(Link::tls(server.tls[0], &old).is_err());
    observed_address(&mut open);
}

fn server(dir: &std::path::Path, arguments: &[&str]) -> Server {
    if !dir.join("cert.pem").exists() {
        write_certificate(dir);
    }
    write_secret(&dir.join("users"), "alice:secret\n");
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (users, cert, key) = (path("users"), path("cert.pem"), path("key.pem"));
    let all = ["--users-file", &users, "--tls-cert", &cert, "--tls-key", &key, "--listen", "tls://127.0.0.1:0"];
    Server::start(&[&all, arguments].concat())
}
