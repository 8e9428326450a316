//! The real program: nodes meet through its sockets, and a flood of sources leaves it as it is.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::{Link, PATIENCE, Server, eventually, observed_address, program, run};
use crate::node::{ANNOUNCE, Node, OFFER, PSK, Side, message};

const V1: &str = "--enable-campfire-v1";

#[test]
fn three_nodes_meet_through_the_program_in_all_orders() {
    let mut server = Server::start(&[V1, "--log", "trace"]);
    server.wait_for_log("authenticates nobody");
    for (round, order) in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]].into_iter().enumerate() {
        // Nodes of one round share a key, and all of them an hour: that of its first.
        let psk = format!("{round}{}", &PSK[1..]);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut nodes: Vec<(UdpSocket, Node)> = Vec::new();
        for number in order {
            let node = if number == 0 { Node::waiter(&psk, unix) } else { Node::joiner(&psk, unix, number) };
            let socket = connect(server.udp[0], Ipv4Addr::LOCALHOST);
            for bytes in node.begins() {
                socket.send(&bytes).unwrap();
            }
            nodes.push((socket, node));
        }
        let met = eventually(|| {
            for (socket, node) in &mut nodes {
                hear(socket, node);
            }
            (nodes.iter().map(|(_, node)| node.met()).sum::<usize>() == 4).then_some(())
        });
        assert!(met.is_some(), "{order:?}");
    }
    assert_eq!(server.metric("v1_waiters"), 6);
    assert_eq!(server.metric("v1_negotiations"), 12);
    assert_eq!(server.metric("v1_messages_total{type=\"offer\"}"), 12);
    assert_eq!(server.metric("v1_forwarded_total"), 12 * 6);
    assert_eq!(server.metric("v1_held_bytes"), 0);
    let [local, remote] = crate::node::sides(&format!("0{}", &PSK[1..]), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    let log = server.log();
    assert!(log.contains("TRACE"), "{log}");
    for text in [local.pwd, remote.pwd, format!("\"{}\"", local.ufrag), "1111-4222-8333".to_owned()] {
        assert!(!log.contains(&text), "{text} is in the log");
    }
}

#[test]
fn ten_thousand_sources_leave_the_program_as_it_is() {
    let server = Server::start(&[V1]);
    // Every address of 127.0.0.0/8 is this machine's. Each source makes its offer to itself, so that it knows when it was heard.
    let flood = |numbers: std::ops::Range<u32>| {
        for n in numbers {
            let [waiter, joiner] = [0, 1].map(|side| Side { secret: vec![], ufrag: "abcd".into(), pwd: format!("{n:0108}{side}") });
            let offer = message(OFFER, &format!("{n:08x}-1111-4222-8333-444444444444"), &joiner, &waiter, &[7; 900]);
            let socket = connect(server.udp[0], Ipv4Addr::from_bits(0x7F00_0000 | (n + 1) << 8 | 9));
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            for bytes in [message(ANNOUNCE, "", &waiter, &joiner, &[]), offer.clone()] {
                socket.send(&bytes).unwrap();
            }
            let mut bytes = [0; 2_048];
            let length = socket.recv(&mut bytes).unwrap();
            assert_eq!(bytes[..length], offer);
        }
    };
    flood(0..10_000);
    let (entries, resident, state) = (entries(&server), resident(&server), server.metric("state_bytes"));
    assert_eq!(entries, 4_096);
    flood(10_000..20_000);
    let grown = self::resident(&server).saturating_sub(resident);
    assert_eq!((self::entries(&server), server.metric("state_bytes")), (4_096, state));
    println!("resident {resident} B after 10,000 sources, {grown} B more after 10,000 more; state {state} B");
    assert!(grown < 1 << 20, "{grown} B");
    let taken = server.metric("udp_bytes_total{direction=\"received\"}");
    let sent = server.metric("udp_bytes_total{direction=\"sent\"}");
    assert!(sent < taken, "{sent} of {taken}");
}

#[test]
fn version_1_is_served_beside_version_2_if_asked_for_and_check_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = dir.path().to_str().unwrap();
    let campfire = ["--enable-campfire", "--secrets-dir", secrets, "--check"];
    for (arguments, expected) in [
        (vec![V1, "--check"], "campfire:  version 1 alone (0 secrets)"),
        ([&campfire[..], &[V1]].concat(), "campfire:  on, version 1 too (0 secrets)"),
        (campfire.to_vec(), "campfire:  on (0 secrets)"),
    ] {
        let output = run(&arguments);
        let (text, warned) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success() && text.contains(expected), "{text}");
        assert_eq!(warned.contains("authenticates nobody"), arguments.contains(&V1), "{warned}");
    }
    std::fs::write(dir.path().join("turn.toml"), "enable-campfire-v1 = true\n").unwrap();
    let mut command = program();
    let output = command.args(["--check", "--config"]).arg(dir.path().join("turn.toml")).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("version 1 alone"));
}

#[test]
fn the_program_does_not_know_version_1_unless_asked() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&["--enable-campfire", "--secrets-dir", dir.path().to_str().unwrap()]);
    let mut link = Link::udp(server.udp[0]);
    let (waiter, joiner) = (Node::waiter(PSK, 0), Node::joiner(PSK, 0, 1));
    for bytes in [waiter.begins(), joiner.begins()].concat() {
        link.send(&bytes);
    }
    // The next that comes is the answer to this.
    observed_address(&mut link);
    assert_eq!(server.metric("dropped_total{reason=\"malformed\"}"), 4);
    assert_eq!((entries(&server), server.metric("v1_messages_total{type=\"announce\"}"), server.metric("state_bytes")), (0, 0, 0));
}

fn connect(server: SocketAddr, from: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn hear(socket: &UdpSocket, node: &mut Node) {
    let mut bytes = [0; 4_096];
    while let Ok(length) = socket.recv(&mut bytes) {
        for answer in node.hears(&bytes[..length]) {
            socket.send(&answer).unwrap();
        }
    }
}

fn entries(server: &Server) -> u64 {
    server.metric("v1_waiters") + server.metric("v1_negotiations")
}

/// Resident bytes of the program.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}
