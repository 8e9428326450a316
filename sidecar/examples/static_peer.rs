//! The data plane alone, with a table made by hand: a WireGuard peer with fixed endpoints, for tests and benches. It has no
//! mesh: handshakes are answered on the path they came on.
//!
//! `static_peer run TUN LISTEN SECRET PRESHARED MTU PEER…`, each PEER `PUBLIC,ENDPOINT,ALLOWED[,initiate]`, keys in hex;
//! ENDPOINT `ADDRESS:PORT`, or `relay@ADDRESS:PORT@CHANNEL` for ChannelData (channel in hex) through a server.
//! TUN `-`: the device is on standard input, opened by somebody else.
//! `TAKES` in the environment: networks, separated by commas, to which packets from links may go (default: everywhere).
//! `static_peer relay LISTEN ONE OTHER` forwards datagrams from one address to the other.
//! `static_peer sink LISTEN` takes one TCP connection, checks the bytes of `static_peer source ADDRESS BYTES`, and answers with
//! their number.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use campfire_datapath::command::Command as Data;
use campfire_datapath::table::{Addressing, Table, Way};
use campfire_datapath::upcall::Upcall;
use campfire_protocol::carrier::{Path, ServerSlot, SocketId, Via};
use campfire_sidecar::data::{self, DataConfig};
use campfire_sidecar::plane::{FromData, ToData};
use campfire_sys::tun::Tun;
use campfire_tunnel::{Command, Event, LinkId};
use zeroize::Zeroizing;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["run", tun, listen, secret, preshared, mtu, peers @ ..] => run(tun, listen.parse()?, secret, preshared, mtu.parse()?, peers),
        ["relay", listen, one, other] => relay(listen.parse()?, [one.parse()?, other.parse()?]),
        ["sink", listen] => sink(listen.parse()?),
        ["source", address, bytes] => source(address.parse()?, bytes.parse()?),
        _ => bail!("see the top of examples/static_peer.rs"),
    }
}

struct Peer {
    public_key: [u8; 32],
    path: Path,
    allowed: Vec<ipnet::IpNet>,
    initiate: bool,
}

fn run(tun: &str, listen: SocketAddr, secret: &str, preshared: &str, mtu: u16, peers: &[&str]) -> Result<()> {
    let socket = SocketId(u16::from(listen.is_ipv6()));
    let preshared = Zeroizing::new(key(preshared)?);
    let peers = peers.iter().map(|peer| parse(peer, socket)).collect::<Result<Vec<_>>>()?;
    let mut handle = data::start(DataConfig {
        tun: device(tun).with_context(|| format!("opening TUN {tun}"))?,
        sockets: vec![(socket, data::bind(listen).with_context(|| format!("binding {listen}"))?)],
        secret: Zeroizing::new(key(secret)?),
        mtu,
        epoch: Instant::now(),
    })?;
    let takes = std::env::var("TAKES").unwrap_or_else(|_| "0.0.0.0/0,::/0".to_owned());
    let offered = takes.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let mut addressing = Addressing { offered, ..Addressing::default() };
    let mut servers = HashMap::new();
    for (index, peer) in peers.iter().enumerate() {
        let link = LinkId(index as u32);
        if let Path::Relay { server, via, .. } = peer.path {
            servers.insert(via, server);
        }
        addressing.allowed.push(peer.allowed.clone());
        addressing.routes.extend(peer.allowed.iter().map(|net| (*net, link)));
    }
    let ways = peers.iter().map(|peer| Way { path: Some(peer.path), also: None }).collect();
    let table = Table { version: 1, addressing: Arc::new(addressing), ways, servers: Arc::new(servers), found_within: None };
    handle.to.send(ToData::Table(table))?;
    let mut paths = HashMap::new();
    for (index, peer) in peers.iter().enumerate() {
        let link = LinkId(index as u32);
        paths.insert(link, peer.path);
        let add = Command::Add { link, public_key: peer.public_key, preshared: preshared.clone() };
        handle.to.send(ToData::Command(Data::Tunnel(add)))?;
        if peer.initiate {
            handle.to.send(ToData::Command(Data::Tunnel(Command::Initiate { link })))?;
        }
    }
    println!("running {tun}");
    while let Some(message) = handle.from.blocking_recv() {
        let upcall = match message {
            FromData::Upcall(upcall) => upcall,
            FromData::SocketOpened { .. } => continue,
            FromData::SocketClosed { .. } => bail!("the socket is gone"),
            FromData::Failed(reason) => bail!(reason),
        };
        match upcall {
            Upcall::Handshake { path, message, .. } => handle.to.send(ToData::Command(Data::Receive { path, message }))?,
            Upcall::Tunnel(Event::Send { link, message }) => {
                if let Some(path) = paths.get(&link) {
                    handle.to.send(ToData::Command(Data::SendMessage { path: *path, message }))?;
                }
            }
            Upcall::Tunnel(Event::Established { link, initiator }) => println!("established {} {initiator}", link.0),
            Upcall::Tunnel(Event::Expired { link }) => {
                handle.to.send(ToData::Command(Data::Tunnel(Command::Initiate { link })))?;
            }
            Upcall::Wanted { address } => println!("wanted {address}"),
            // There is no mesh that would ask, and none to be told.
            Upcall::Stun { .. } | Upcall::Initiation { .. } | Upcall::Control { .. } | Upcall::Traffic(_) => {}
        }
    }
    Ok(())
}

fn device(name: &str) -> std::io::Result<Tun> {
    match name {
        "-" => data::adopt_tun(std::io::stdin().as_fd().try_clone_to_owned()?),
        name => data::open_tun(std::path::Path::new("/dev/net/tun"), name),
    }
}

fn parse(text: &str, socket: SocketId) -> Result<Peer> {
    let fields: Vec<&str> = text.split(',').collect();
    let [public_key, endpoint, allowed, rest @ ..] = fields.as_slice() else { bail!("PUBLIC,ENDPOINT,ALLOWED: {text}") };
    let path = match endpoint.split('@').collect::<Vec<_>>().as_slice() {
        ["relay", server, channel] => Path::Relay {
            server: ServerSlot(0),
            via: Via::Udp { socket, remote: server.parse()? },
            channel: u16::from_str_radix(channel, 16)?,
        },
        _ => Path::Direct { socket, remote: endpoint.parse()? },
    };
    let allowed = allowed.split('+').map(str::parse).collect::<Result<_, _>>()?;
    Ok(Peer { public_key: key(public_key)?, path, allowed, initiate: rest.contains(&"initiate") })
}

fn key(text: &str) -> Result<[u8; 32]> {
    let bytes = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2).unwrap_or(""), 16));
    bytes.collect::<Result<Vec<u8>, _>>()?.try_into().map_err(|_| anyhow::anyhow!("a key has 64 hex digits"))
}

/// Byte `at` of the stream: no period that segment sizes could hide behind.
fn pattern(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

fn sink(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen)?;
    println!("listening");
    let (mut stream, _) = listener.accept()?;
    let (mut total, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        if let Some(wrong) = (0..length).find(|at| buffer[*at] != pattern(total + at)) {
            bail!("byte {} is wrong", total + wrong);
        }
        total += length;
    }
    stream.write_all(&(total as u64).to_be_bytes())?;
    Ok(())
}

fn source(address: SocketAddr, bytes: usize) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut at = 0;
    while at < bytes {
        let chunk: Vec<u8> = (at..(at + (1 << 16)).min(bytes)).map(pattern).collect();
        stream.write_all(&chunk)?;
        at += chunk.len();
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    println!("arrived {}", u64::from_be_bytes(answer));
    Ok(())
}

/// Both sides use the same channel number, so a datagram passes as it is.
fn relay(listen: SocketAddr, members: [SocketAddr; 2]) -> Result<()> {
    let socket = UdpSocket::bind(listen)?;
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(at) = members.iter().position(|member| *member == from) {
            let _ = socket.send_to(&buffer[..length], members[1 - at]);
        }
    }
}
