//! A packet's whole way: whatever comes from the network, from applications and from the control plane, in any order, over sessions without
//! cryptography (so that what is inside is the fuzzer's to choose). What leaves is sound, and what came in is written, told or counted.
#![no_main]

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use campfire_datapath::command::Command;
use campfire_datapath::packet::Ip;
use campfire_datapath::segment::segment;
use campfire_datapath::table::{Addressing, Table, Way};
use campfire_datapath::upcall::Upcall;
use campfire_datapath::vnet::{VNET, VnetHeader};
use campfire_datapath::{Config, Datapath, Memory, STREAM_BATCH, Shell, Train};
use campfire_protocol::carrier::{Path, ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::time::Time;
use campfire_tunnel::{Event, LinkId, OVERHEAD, Opened, Source, TunnelError, Tunnels, Unidentified};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| {
    let memory = Memory { opened: 4096, trains: 2, train: 4096 };
    let config = Config { mtu: 1280, tcp_superpackets: true, udp_superpackets: true, memory };
    let (mut datapath, mut world) = (Datapath::new(Plain::default(), &config), World::default());
    let (mut script, mut now, mut received) = (script, Time::default(), 0);
    datapath.set_table(now, table(0), &mut world);
    while let [what, which, length, rest @ ..] = script {
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        script = rest;
        let path = path(*which);
        match what % 9 {
            0 | 1 => {
                datapath.received(now, via(*which), [bytes], &mut world);
                received += 1;
            }
            2 => {
                // A sound data message around the fuzzer's packet.
                let message = [&[4, 0, 0, 0][..], &u32::from(which % 3).to_le_bytes(), &[0; 8], bytes, &[0; 16]].concat();
                datapath.received(now, via(which >> 4), [&message[..]], &mut world);
                received += 1;
            }
            3 => datapath.packet(now, &mut [&VnetHeader::default().write()[..], bytes].concat(), &mut world),
            4 => datapath.packet(now, &mut bytes.to_vec(), &mut world),
            5 => datapath.command(now, command(*which, path, bytes), &mut world),
            6 => datapath.set_table(now, table(*which), &mut world),
            7 => {
                now = Time::from_micros(now.as_micros() + u64::from(*which) * 50_000);
                datapath.tick(now, &mut world);
            }
            _ => datapath.flush(&mut world),
        }
    }
    datapath.flush(&mut world);
    let counters = *datapath.counters();
    let lost = counters.dropped_unrecognised
        + counters.dropped_unknown_session
        + counters.dropped_forged
        + counters.dropped_limited
        + counters.dropped_malformed
        + counters.dropped_source
        + counters.dropped_destination;
    let of_ours = counters.unreachable_told;
    assert_eq!(world.written + world.told + lost + datapath.tunnels().keepalives, received + of_ours, "{counters:?}");
});

fn command(which: u8, path: Path, bytes: &[u8]) -> Command {
    let (link, socket) = (LinkId(u32::from(which % 3)), SocketId(u16::from(which % 2)));
    match which % 7 {
        0 => Command::Send { socket, remote: place(which), datagram: bytes.to_vec() },
        1 => Command::SendMessage { path, message: bytes.to_vec() },
        2 => Command::SendControl { link, path, payload: bytes.to_vec() },
        3 => Command::Tunnel(campfire_tunnel::Command::Initiate { link }),
        4 => Command::IdentifyInitiation { token: 1, message: bytes.to_vec() },
        5 => Command::OpenSocket { socket, like: SocketId(0) },
        _ => Command::CloseSocket { socket },
    }
}

/// Two links, of which the first may have no path, or two; servers are at place 3 and on stream 0. The one has its own addresses, the other what
/// is left of IPv6 and of 10.0.0.0/8.
fn table(which: u8) -> Table {
    let [ours, peers] = [[0xfd; 16], [0xfc; 16]].map(IpAddr::from);
    let [ours4, peers4] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
    let rest: Vec<IpNet> = ["10.0.0.0/8", "::/0"].iter().map(|net| net.parse().expect("a network")).collect();
    let addressing = Addressing {
        own: vec![ours, ours4],
        offered: vec!["10.9.0.0/16".parse().expect("a network")],
        allowed: vec![vec![peers.into(), peers4.into()], rest.clone()],
        hosts: [(peers, LinkId(0)), (peers4, LinkId(0))].into(),
        routes: rest.into_iter().map(|net| (net, LinkId(1))).collect(),
    };
    let first = Way { path: (which & 1 == 0).then(|| path(which >> 1)), also: (which & 2 == 0).then(|| path(which >> 2)) };
    let servers = [(Via::Udp { socket: SocketId(0), remote: place(3) }, ServerSlot(0)), (Via::Stream(StreamId(0)), ServerSlot(1))];
    Table {
        version: which.into(),
        addressing: Arc::new(addressing),
        ways: Arc::from([first, Way { path: Some(path(which >> 4)), also: None }]),
        servers: Arc::new(servers.into()),
        found_within: (which & 4 == 0).then_some(Duration::from_secs(1)),
    }
}

fn place(which: u8) -> SocketAddr {
    ([192, 0, 2, which % 4], 4001).into()
}

fn via(which: u8) -> Via {
    if which & 8 == 0 { Via::Udp { socket: SocketId(0), remote: place(which) } } else { Via::Stream(StreamId(u32::from(which % 2))) }
}

fn path(which: u8) -> Path {
    if which & 4 == 0 {
        Path::Direct { socket: SocketId(0), remote: place(which) }
    } else {
        Path::Relay { server: ServerSlot(0), via: via(which), channel: 0x4000 + u16::from(which) }
    }
}

/// Looks at all that leaves.
#[derive(Default)]
struct World {
    written: u64,
    /// Upcalls that a datagram became.
    told: u64,
}

impl Shell for World {
    fn send(&mut self, _: SocketId, trains: &[Train<'_>]) {
        for train in trains {
            assert!(train.segment > 0 && !train.bytes.is_empty() && train.datagrams().count() <= 64);
        }
    }

    fn send_frames(&mut self, _: StreamId, mut frames: &[u8], count: usize) {
        assert!(frames.len() <= STREAM_BATCH && count > 0);
        for _ in 0..count {
            let length = 4 + usize::from(u16::from_be_bytes([frames[2], frames[3]]));
            frames = &frames[length.next_multiple_of(4)..];
        }
        assert!(frames.is_empty(), "frames and nothing else");
    }

    fn write(&mut self, pieces: &[IoSlice<'_>], packets: usize) {
        let mut whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let (header, packet) = whole.split_first_chunk_mut::<VNET>().expect("a header comes first");
        let header = VnetHeader::read(*header).expect("of our own");
        assert_eq!(segment(&header, packet, |piece| assert!(Ip::parse(piece).is_some())), Ok(packets));
        self.written += packets as u64;
    }

    fn tell(&mut self, upcall: Upcall) {
        match upcall {
            Upcall::Stun { .. } | Upcall::Handshake { .. } | Upcall::Control { .. } => self.told += 1,
            Upcall::Initiation { .. } | Upcall::Tunnel(_) | Upcall::Traffic(_) | Upcall::Wanted { .. } => {}
        }
    }

    fn open_socket(&mut self, _: SocketId, _: SocketId) {}

    fn close_socket(&mut self, _: SocketId) {}
}

/// Sessions of links 0 and 1: headers and tags, but no cryptography. Link 1's comes to be when it is initiated.
#[derive(Default)]
struct Plain {
    initiated: bool,
    keepalives: u64,
}

impl Tunnels for Plain {
    fn execute(&mut self, command: campfire_tunnel::Command, events: &mut Vec<Event>) {
        if let campfire_tunnel::Command::Initiate { link: LinkId(1) } = command {
            self.initiated = true;
            events.push(Event::Established { link: LinkId(1), initiator: true });
        }
    }

    fn initiator(&mut self, initiation: &[u8], _: Source) -> Result<[u8; 32], Unidentified> {
        match initiation.get(8).map(|byte| byte % 3) {
            Some(0) => Ok([7; 32]),
            Some(1) => Err(Unidentified::Cookie(vec![3; 64])),
            _ => Err(Unidentified::Refused(TunnelError::Forged)),
        }
    }

    fn handshake(&mut self, _: &[u8], _: Source, _: &mut Vec<Event>) -> Result<LinkId, TunnelError> {
        Ok(LinkId(0))
    }

    fn is_ready(&self, link: LinkId) -> bool {
        link.0 == 0 || link.0 == 1 && self.initiated
    }

    fn seal(&mut self, link: LinkId, packet: &[u8], out: &mut [u8]) -> Result<usize, TunnelError> {
        if !self.is_ready(link) {
            return Err(TunnelError::NoSession);
        }
        let length = packet.len() + OVERHEAD;
        let out = out.get_mut(..length).ok_or(TunnelError::BufferTooSmall)?;
        out.fill(0);
        out[0] = 4;
        out[4] = link.0 as u8;
        out[16..16 + packet.len()].copy_from_slice(packet);
        Ok(length)
    }

    fn open(&mut self, message: &[u8], out: &mut [u8], _: &mut Vec<Event>) -> Result<Opened, TunnelError> {
        let link = match message[4..8] {
            [link @ 0..=1, 0, 0, 0] => LinkId(link.into()),
            _ => return Err(TunnelError::UnknownIndex),
        };
        let (packet, tag) = message[16..].split_at(message.len() - OVERHEAD);
        if tag != [0; 16] {
            return Err(TunnelError::Forged);
        }
        out[..packet.len()].copy_from_slice(packet);
        self.keepalives += u64::from(packet.is_empty());
        Ok(Opened { link, packet: 0..packet.len() })
    }

    fn tick(&mut self, _: &mut Vec<Event>) {}

    fn last_handshake_ms(&self, _: LinkId) -> Option<u64> {
        None
    }
}
