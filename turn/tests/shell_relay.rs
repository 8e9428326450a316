//! ChannelData between members through the real sockets, over all transports, alone and in trains.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::{
    Link, Server, bound_pair, channel_data, keys, next_channel_data, observed_address, secret_line, write_certificate, write_secret,
};

#[test]
fn members_reach_each_other_over_every_pair_of_transports() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = write_certificate(dir.path());
    let server = server(dir.path(), &["--listen", "127.0.0.1:0", "--listen", "tls://127.0.0.1:0"]);
    let link = |transport: &str| match transport {
        "udp" => Link::udp(server.udp[0]),
        "tcp" => Link::tcp(server.tcp[0]),
        _ => Link::tls(server.tls[0], &certificate).unwrap(),
    };
    for from in ["udp", "tcp", "tls"] {
        for to in ["udp", "tcp", "tls"] {
            let (mut one, mut other) = bound_pair(link(from), link(to), &keys(1));
            for length in [1, 2, 3, 4, 100, 1_400] {
                let payload = vec![length as u8; length];
                one.link.send(&channel_data(0x4001, &payload));
                assert_eq!(next_channel_data(&mut other.link), (0x4002, payload), "{from} to {to}, {length} bytes");
                other.link.send(&channel_data(0x4002, b"back"));
                assert_eq!(next_channel_data(&mut one.link), (0x4001, b"back".to_vec()));
            }
            one.leave();
            other.leave();
        }
    }
}

#[test]
fn a_train_keeps_its_order_and_takes_few_calls() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), &["--listen", "127.0.0.1:0"]);
    let (one, mut other) = bound_pair(Link::udp(server.udp[0]), Link::udp(server.udp[0]), &keys(1));
    let Link::Udp(socket) = &one.link else { unreachable!() };
    let before = (server.metric("udp_calls_total{direction=\"sent\"}"), server.metric("udp_datagrams_total{direction=\"sent\"}"));
    let trains = 20;
    for train in 0..trains {
        // 40 datagrams of one length and a shorter one at the end.
        let frames = (0..41_u8).flat_map(|place| {
            let length = if place == 40 { 700 } else { 1_400 };
            let mut payload = vec![0x55; length];
            payload[..2].copy_from_slice(&[train, place]);
            channel_data(0x4001, &payload)
        });
        send_train(socket, &frames.collect::<Vec<_>>(), 1_404);
        for place in 0..41_u8 {
            let (channel, payload) = next_channel_data(&mut other.link);
            assert_eq!((channel, payload[0], payload[1]), (0x4002, train, place));
            assert_eq!(payload.len(), if place == 40 { 700 } else { 1_400 });
        }
    }
    let calls = server.metric("udp_calls_total{direction=\"sent\"}") - before.0;
    let datagrams = server.metric("udp_datagrams_total{direction=\"sent\"}") - before.1;
    assert!(datagrams >= 41 * u64::from(trains));
    assert!(calls * 10 < datagrams, "{calls} calls for {datagrams} datagrams: trains were taken apart");
}

#[test]
fn padding_behind_channel_data_is_not_passed_on_over_udp() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), &["--listen", "127.0.0.1:0"]);
    let (mut one, mut other) = bound_pair(Link::udp(server.udp[0]), Link::udp(server.udp[0]), &keys(1));
    let mut frame = channel_data(0x4001, b"12345");
    frame.extend([0; 3]);
    one.link.send(&frame);
    loop {
        let frame = other.link.receive().unwrap();
        if frame[0] == 0x40 {
            assert_eq!(frame, channel_data(0x4002, b"12345"));
            return;
        }
    }
}

#[test]
fn a_listener_on_all_addresses_answers_from_the_one_that_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut listen = vec!["--listen", "0.0.0.0:0"];
    let ipv6 = UdpSocket::bind("[::1]:0").is_ok();
    if ipv6 {
        listen.extend(["--listen", "[::]:0"]);
    }
    let server = server(dir.path(), &listen);
    for address in ["127.0.0.1", "127.0.0.2", "127.1.2.3"] {
        // A connected socket takes datagrams from that very address alone.
        let mut link = Link::udp(SocketAddr::new(address.parse().unwrap(), server.udp[0].port()));
        assert!(observed_address(&mut link).ip().is_loopback());
    }
    if ipv6 {
        let mut link = Link::udp(SocketAddr::new("::1".parse().unwrap(), server.udp[1].port()));
        assert_eq!(observed_address(&mut link).ip().to_string(), "::1");
    }
}

#[test]
fn a_reader_that_sleeps_costs_newest_frames_and_not_memory() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), &["--listen", "127.0.0.1:0"]);
    let (mut one, mut other) = bound_pair(Link::udp(server.udp[0]), Link::tcp(server.tcp[0]), &keys(1));
    // Far more than the kernel's buffers and our queue hold.
    let mut sent = 0;
    let dropped = common::eventually(|| {
        for _ in 0..500 {
            one.link.send(&channel_data(0x4001, &[7; 1_400]));
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
        Some(server.metric("stream_frames_dropped_total")).filter(|dropped| *dropped > 100)
    });
    assert!(dropped.is_some(), "{sent} frames were sent to a connection that nobody reads");
    // What was queued comes whole and in frames; then the connection works as before.
    let mut got = 0;
    while next_channel_data(&mut other.link).1 == [7; 1_400] {
        got += 1;
        if got % 100 == 0 && got + 200 > sent - server.metric("stream_frames_dropped_total") {
            break;
        }
    }
    let answered = common::eventually(|| {
        one.link.send(&channel_data(0x4001, b"awake again"));
        std::iter::repeat_with(|| next_channel_data(&mut other.link).1).take(64).find(|payload| payload == b"awake again")
    });
    assert!(answered.is_some());
}

fn server(dir: &std::path::Path, arguments: &[&str]) -> Server {
    let secrets = dir.join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    write_secret(&secrets.join("blue"), &secret_line(&keys(1)));
    let path = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let (secrets, cert, key) = (path(secrets), path(dir.join("cert.pem")), path(dir.join("key.pem")));
    let mut all = vec!["--enable-campfire", "--secrets-dir", &secrets, "--http-listen", "127.0.0.1:0"];
    if dir.join("cert.pem").exists() {
        all.extend(["--tls-cert", &cert, "--tls-key", &key]);
    }
    Server::start_with(&[&all, arguments].concat())
}

/// Sends datagrams of one length, but for the last, with one call (UDP GSO).
fn send_train(socket: &UdpSocket, bytes: &[u8], segment: usize) {
    let state = quinn_udp::UdpSocketState::new(socket.into()).unwrap();
    let destination = socket.peer_addr().unwrap();
    let transmit = quinn_udp::Transmit { destination, ecn: None, contents: bytes, segment_size: Some(segment), src_ip: None };
    state.try_send(socket.into(), &transmit).unwrap();
}
