//! The data plane alone, with a table made by hand: a WireGuard peer with fixed endpoints, for tests and benches. It has no
//! mesh: handshakes are answered on the path they came on.
//!
//! `static_peer run TUN LISTEN SECRET PRESHARED MTU PEER…`, each PEER `PUBLIC,ENDPOINT,ALLOWED[,initiate]`, keys in hex;
//! ENDPOINT `ADDRESS:PORT`, or `relay@ADDRESS:PORT@CHANNEL` for ChannelData (channel in hex) through a server.
//! `static_peer relay LISTEN` forwards each datagram to the other of the two that have written to it.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use campfire_mesh::io::{LinkEntry, Output, Path, ServerSlot, SocketId, Table, Via};
use campfire_sidecar::data::{self, DataConfig, Tun};
use campfire_sidecar::plane::{FromData, ToData};
use campfire_tunnel::{Command, Event, LinkId};
use zeroize::Zeroizing;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["run", tun, listen, secret, preshared, mtu, peers @ ..] => run(tun, listen.parse()?, secret, preshared, mtu.parse()?, peers),
        ["relay", listen] => relay(listen.parse()?),
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
        tun: Tun::open(tun).with_context(|| format!("opening TUN {tun}"))?,
        sockets: vec![(socket, data::bind(listen).with_context(|| format!("binding {listen}"))?)],
        secret: Zeroizing::new(key(secret)?),
        mtu,
        epoch: Instant::now(),
    })?;
    let mut table = Table { version: 1, ..Table::default() };
    for (index, peer) in peers.iter().enumerate() {
        let link = LinkId(index as u32);
        if let Path::Relay { server, via, .. } = peer.path {
            table.servers.insert(via, server);
        }
        table.links.push(Some(LinkEntry { path: Some(peer.path), also: None, allowed: peer.allowed.clone() }));
        table.routes.extend(peer.allowed.iter().map(|net| (*net, link)));
    }
    handle.to.send(ToData::Table(Arc::new(table)))?;
    let mut paths = HashMap::new();
    for (index, peer) in peers.iter().enumerate() {
        let link = LinkId(index as u32);
        paths.insert(link, peer.path);
        let add = Command::Add { link, public_key: peer.public_key, preshared: preshared.clone() };
        handle.to.send(ToData::Output(Output::Tunnel(add)))?;
        if peer.initiate {
            handle.to.send(ToData::Output(Output::Tunnel(Command::Initiate { link })))?;
        }
    }
    println!("running {tun}");
    while let Some(message) = handle.from.blocking_recv() {
        match message {
            FromData::Handshake { path, message, .. } => handle.to.send(ToData::Output(Output::Receive { path, message }))?,
            FromData::Tunnel(Event::Send { link, message }) => {
                if let Some(path) = paths.get(&link) {
                    handle.to.send(ToData::Output(Output::SendMessage { path: *path, message }))?;
                }
            }
            FromData::Tunnel(Event::Established { link, initiator }) => println!("established {} {initiator}", link.0),
            FromData::Tunnel(Event::Expired { link }) => {
                handle.to.send(ToData::Output(Output::Tunnel(Command::Initiate { link })))?;
            }
            FromData::Wanted { address } => println!("wanted {address}"),
            FromData::Failed(reason) => bail!(reason),
            _ => {}
        }
    }
    Ok(())
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

/// Both sides use the same channel number, so a datagram passes as it is.
fn relay(listen: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(listen)?;
    let mut known: Vec<SocketAddr> = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if !known.contains(&from) && known.len() < 2 {
            known.push(from);
        }
        if let Some(to) = known.iter().find(|known| **known != from) {
            let _ = socket.send_to(&buffer[..length], to);
        }
    }
}
