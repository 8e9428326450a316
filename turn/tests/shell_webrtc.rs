//! Standard TURN as a client of another family speaks it: the webrtc family's `rtc-turn`.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use common::{PATIENCE, Server, write_secret};
use rtc_shared::{TransportContext, TransportMessage, TransportProtocol};
use rtc_turn::client::{Client, ClientConfig, Event};
use sansio::Protocol;

#[test]
fn a_peer_is_reached_through_an_allocation_over_udp_first_by_indications_and_then_by_a_channel() {
    exchange(TransportProtocol::UDP);
}

#[test]
fn a_peer_is_reached_through_an_allocation_over_tcp() {
    exchange(TransportProtocol::TCP);
}

#[test]
fn a_wrong_password_gets_no_allocation() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut client = Turn::connect(&server, TransportProtocol::UDP, "alice", "wrong");
    client.client.allocate(Instant::now()).unwrap();
    assert!(matches!(client.event(), Event::AllocateError(..)));
    assert_eq!(server.metric("allocations"), 0);
}

fn exchange(transport: TransportProtocol) {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut client = Turn::connect(&server, transport, "alice", "correct horse");
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let peer_address = peer.local_addr().unwrap();

    client.client.allocate(Instant::now()).unwrap();
    let Event::AllocateResponse(_, relayed) = client.event() else { panic!("no allocation") };
    assert!(relayed.ip().is_loopback());
    assert!((49152..=65535).contains(&relayed.port()));
    assert_eq!(server.metric("allocations"), 1);

    client.client.relay(relayed).unwrap().create_permission(Instant::now(), peer_address).unwrap();
    assert!(matches!(client.event(), Event::CreatePermissionResponse(..)));

    let mut by_channel = 0;
    for round in 0..100_u32 {
        client.client.relay(relayed).unwrap().send_to(Instant::now(), &round.to_be_bytes(), peer_address).unwrap();
        client.flush();
        let mut bytes = [0; 100];
        let (length, from) = peer.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from), (round.to_be_bytes().as_slice(), relayed));
        peer.send_to(&bytes[..length], relayed).unwrap();
        let Event::DataIndicationOrChannelData(channel, from, data) = client.event() else { panic!("no data") };
        assert_eq!((from, data.as_ref()), (peer_address, round.to_be_bytes().as_slice()));
        by_channel += u32::from(channel.is_some());
    }
    // The client binds a channel after the first datagram, and uses it once it is bound.
    assert!(by_channel > 50, "{by_channel} of 100 came by a channel");
    client.client.relay(relayed).unwrap().close(Instant::now()).unwrap();
    client.flush();
    server.wait_for_metric("allocations", 0);
}

fn server(dir: &std::path::Path) -> Server {
    write_secret(&dir.join("users"), "alice:correct horse\n");
    let users = dir.join("users");
    Server::start(&["--users-file", users.to_str().unwrap(), "--realm", "example.org", "--allow-peer", "127.0.0.0/8"])
}

/// The sans-I/O client and its socket.
struct Turn {
    client: Client,
    socket: Socket,
    local: SocketAddr,
    server: SocketAddr,
    transport: TransportProtocol,
}

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream, Vec<u8>),
}

impl Turn {
    fn connect(server: &Server, transport: TransportProtocol, user: &str, password: &str) -> Self {
        let (socket, local, server) = if transport == TransportProtocol::TCP {
            let socket = TcpStream::connect(server.tcp[0]).unwrap();
            let local = socket.local_addr().unwrap();
            (Socket::Tcp(socket, Vec::new()), local, server.tcp[0])
        } else {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let local = socket.local_addr().unwrap();
            (Socket::Udp(socket), local, server.udp[0])
        };
        let config = ClientConfig {
            stun_serv_addr: server.to_string(),
            turn_serv_addr: server.to_string(),
            local_addr: local,
            transport_protocol: transport,
            username: user.to_owned(),
            password: password.to_owned(),
            ..ClientConfig::default()
        };
        let client = Client::new(config, rtc_turn::crypto::default_provider().unwrap()).unwrap();
        Self { client, socket, local, server, transport }
    }

    fn flush(&mut self) {
        while let Some(transmit) = self.client.poll_write() {
            match &mut self.socket {
                Socket::Udp(socket) => {
                    socket.send_to(&transmit.message, transmit.transport.peer_addr).unwrap();
                }
                Socket::Tcp(socket, _) => socket.write_all(&transmit.message).unwrap(),
            }
        }
    }

    /// The next event; time goes on until there is one.
    fn event(&mut self) -> Event {
        let end = Instant::now() + PATIENCE;
        loop {
            self.flush();
            if let Some(event) = self.client.poll_event() {
                return event;
            }
            assert!(Instant::now() < end, "nothing happened");
            if let Some(message) = self.receive() {
                let transport =
                    TransportContext { local_addr: self.local, peer_addr: self.server, transport_protocol: self.transport, ecn: None };
                self.client.handle_read(TransportMessage { now: Instant::now(), transport, message }).unwrap();
            }
            self.client.handle_timeout(Instant::now()).unwrap();
        }
    }

    fn receive(&mut self) -> Option<BytesMut> {
        let wait = Some(Duration::from_millis(50));
        let mut bytes = [0; 4096];
        match &mut self.socket {
            Socket::Udp(socket) => {
                socket.set_read_timeout(wait).unwrap();
                let (length, _) = socket.recv_from(&mut bytes).ok()?;
                Some(BytesMut::from(&bytes[..length]))
            }
            Socket::Tcp(socket, buffer) => {
                socket.set_read_timeout(wait).unwrap();
                if let Ok(length) = socket.read(&mut bytes) {
                    buffer.extend_from_slice(&bytes[..length]);
                }
                let field = buffer.get(2..4)?;
                let length = usize::from(field[0]) << 8 | usize::from(field[1]);
                let length = if buffer[0] >= 0x40 { 4 + length } else { 20 + length };
                let total = length.next_multiple_of(4);
                let whole = buffer.get(..length).filter(|_| buffer.len() >= total).map(BytesMut::from)?;
                buffer.drain(..total);
                Some(whole)
            }
        }
    }
}
