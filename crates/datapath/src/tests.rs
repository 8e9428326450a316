//! Two datapaths against each other, over sessions without cryptography.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use campfire_protocol::carrier::{Path, ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::time::Time;
use campfire_tunnel::{Event, LinkId, OVERHEAD, Opened, Source, TunnelError, Tunnels, Unidentified};

use crate::command::Command;
use crate::packet::tests::{tcp, udp};
use crate::segment::tests::superpacket;
use crate::table::{Addressing, Table, Traffic, Way};
use crate::upcall::Upcall;
use crate::vnet::{VNET, VnetHeader};
use crate::{Config, Datapath, Memory, Shell, Train};

const LINK: LinkId = LinkId(2);
const SERVER: ServerSlot = ServerSlot(7);

#[test]
fn a_superpacket_crosses_as_one_train_and_comes_out_as_one_superpacket() {
    let (mut a, mut b) = pair(direct);
    let (header, packet) = superpacket(&tcp(true, 0x18, 5, &[7; 10_000]), 1000);
    a.app(&header, &packet);
    assert_eq!(a.shell.sent.len(), 1, "one send");
    let (socket, remote, segment, bytes) = a.shell.sent.remove(0);
    assert_eq!((socket, remote, segment, bytes.len()), (SocketId(0), there(), 1060 + OVERHEAD, 10 * (1060 + OVERHEAD)));
    b.received(Via::Udp { socket: SocketId(0), remote: here() }, bytes.chunks(segment));
    let [(written, packets)] = &b.shell.written[..] else { panic!("{} writes", b.shell.written.len()) };
    assert_eq!((&written[VNET..], *packets), (&packet[..], 10), "as the kernel gave it");
    assert_eq!(a.datapath.counters().tun_read_packets, 10);
}

#[test]
fn through_a_server_every_message_has_its_own_header() {
    let (mut a, mut b) = pair(relayed);
    for size in [100, 100, 40] {
        let mut buffer = [&VnetHeader::default().write()[..], &udp(true, 9, &vec![1; size])].concat();
        a.datapath.packet(a.now, &mut buffer, &mut a.shell);
    }
    a.datapath.flush(&mut a.shell);
    assert_eq!(a.shell.sent.len(), 1, "one train");
    let (_, remote, segment, bytes) = a.shell.sent.remove(0);
    assert_eq!((remote, segment), (server(), 4 + 148 + OVERHEAD));
    assert_eq!(bytes[..4], [0x40, 1, 0, 148 + OVERHEAD as u8]);
    b.received(Via::Udp { socket: SocketId(0), remote: server() }, bytes.chunks(segment));
    assert_eq!(b.shell.packets(), 3);
    b.received(Via::Udp { socket: SocketId(0), remote: there() }, [&bytes[..segment]]);
    assert_eq!(b.datapath.counters().dropped_unrecognised, 1, "ChannelData is taken from servers alone");
}

#[test]
fn a_path_in_doubt_has_another_beside_it_and_one_copy_is_taken() {
    let (mut a, mut b) = pair(|| Way { also: relayed().path, ..direct() });
    a.app(&VnetHeader::default(), &udp(false, 9, &[1; 100]));
    assert_eq!(a.shell.sent.len(), 2);
    b.received(Via::Udp { socket: SocketId(0), remote: here() }, [&a.shell.datagrams(there())[0][..]]);
    b.received(Via::Udp { socket: SocketId(0), remote: server() }, [&a.shell.datagrams(server())[0][..]]);
    assert_eq!((b.shell.packets(), b.datapath.counters().dropped_replayed), (1, 1));
}

#[test]
fn packets_wait_for_a_session_and_go_out_in_order_when_it_comes() {
    let (mut a, mut b) = pair(direct);
    a.datapath.tunnels.ready = false;
    for byte in 0..3 {
        a.app(&VnetHeader::default(), &udp(true, 9, &[byte; 64]));
    }
    assert!(a.shell.sent.is_empty());
    assert_eq!(a.shell.told, [Upcall::Wanted { address: peers(true) }], "asked for once");
    assert_eq!(a.datapath.next_wake(), Some(Time::default()), "to see to what waits");
    a.datapath.tunnels.ready = true;
    a.command(Command::Tunnel(campfire_tunnel::Command::Initiate { link: LINK }));
    assert_eq!(a.shell.told.pop(), Some(Upcall::Tunnel(Event::Established { link: LINK, initiator: true })));
    b.received(Via::Udp { socket: SocketId(0), remote: here() }, a.shell.datagrams(there()).iter().map(Vec::as_slice));
    let expected: Vec<u8> = (0..3).flat_map(|byte| [byte; 64]).collect();
    assert_eq!(b.shell.written[0].0[VNET + 48..], expected);
}

#[test]
fn packets_wait_for_a_path_and_not_for_ever() {
    let (mut a, _) = pair(Way::default);
    for round in 1..=2 {
        a.app(&VnetHeader::default(), &udp(false, 9, &[1; 64]));
        a.tick(round * 6_000);
    }
    assert_eq!(a.datapath.counters().dropped_no_session, 2);
    a.app(&VnetHeader::default(), &udp(false, 9, &[1; 64]));
    a.datapath.set_table(a.now, table(direct()), &mut a.shell);
    a.datapath.flush(&mut a.shell);
    assert_eq!(a.shell.datagrams(there()).len(), 1);
}

#[test]
fn what_is_for_everybody_or_for_nobody_is_not_waited_for() {
    let (mut a, _) = pair(direct);
    for (at, byte) in [(24, 0xff), (24, 0xfe)] {
        let mut packet = udp(true, 9, &[1; 64]);
        packet[at..at + 2].copy_from_slice(&[byte, 0x80]);
        a.app(&VnetHeader::default(), &packet);
    }
    a.datapath.packet(a.now, &mut [0; 40], &mut a.shell);
    let counters = a.datapath.counters();
    assert_eq!((counters.dropped_no_route, counters.dropped_tun_malformed), (2, 1));
    assert!(a.shell.told.is_empty());
}

#[test]
fn whoever_sends_to_nobody_is_told_and_whoever_sends_to_a_silent_peer_is_not() {
    for (found_within, millis) in [(Some(Duration::from_secs(1)), 1_001), (Some(Duration::from_secs(9)), 5_001)] {
        let (mut a, _) = pair(Way::default);
        a.datapath.set_table(a.now, Table { found_within, ..table(Way::default()) }, &mut a.shell);
        let mut packet = tcp(true, 0x02, 1, &[]);
        packet[39] = 0x77;
        for packet in [&packet, &tcp(true, 0x02, 1, &[])] {
            a.app(&VnetHeader::default(), packet);
        }
        a.tick(millis - 1);
        assert!(a.shell.written.is_empty());
        a.tick(millis + 250);
        let [(written, 1)] = &a.shell.written[..] else { panic!("{} writes", a.shell.written.len()) };
        assert_eq!(written[..VNET], VnetHeader::default().write());
        let answer = &written[VNET..];
        assert_eq!((&answer[8..24], &answer[24..40]), (&packet[24..40], &packet[8..24]), "from there to whom it came from");
        assert_eq!((answer[6], &answer[40..42], &answer[48..]), (58, &[1, 3][..], &packet[..]));
        a.tick(10_000);
        let counters = a.datapath.counters();
        assert_eq!((counters.dropped_no_route, counters.unreachable_told, counters.dropped_no_session), (1, 1, 1));
        assert_eq!(a.shell.written.len(), 1);
    }
    // While nobody can know who is there, nothing is said.
    let (mut a, _) = pair(Way::default);
    let mut packet = udp(false, 9, &[1; 64]);
    packet[19] = 0x77;
    a.app(&VnetHeader::default(), &packet);
    a.tick(10_000);
    assert_eq!((a.shell.written.len(), a.datapath.counters().dropped_no_session), (0, 1));
}

#[test]
fn a_packet_from_or_to_a_strange_address_is_dropped_and_counted() {
    let (mut a, mut b) = pair(direct);
    for at in [8, 24] {
        let mut packet = udp(true, 9, &[1; 64]);
        packet[at + 15] = 0x77;
        // The sender's own table would not let it out.
        let message = a.datapath.tunnels.sealed(&packet);
        b.received(Via::Udp { socket: SocketId(0), remote: here() }, [&message[..]]);
    }
    let counters = b.datapath.counters();
    assert_eq!((counters.dropped_source, counters.dropped_destination, b.shell.packets()), (1, 1, 0));
}

#[test]
fn what_comes_in_and_is_not_to_be_opened_is_counted_by_its_reason() {
    let (mut a, mut b) = pair(direct);
    let via = Via::Udp { socket: SocketId(0), remote: here() };
    let good = a.datapath.tunnels.sealed(&udp(true, 9, &[1; 64]));
    let (mut unknown, mut forged) = (good.clone(), good.clone());
    unknown[4] = 9;
    *forged.last_mut().unwrap() = 1;
    let malformed = a.datapath.tunnels.sealed(&[0x12; 40]);
    b.received(via, [&unknown[..], &forged, &malformed, &good, &good, b"?"]);
    b.received(Via::Stream(StreamId(1)), [&good[..]]);
    let counters = b.datapath.counters();
    let counted = [counters.dropped_unknown_session, counters.dropped_forged, counters.dropped_malformed, counters.dropped_replayed];
    assert_eq!((counted, counters.dropped_unrecognised), ([1; 4], 2), "WireGuard goes bare on UDP alone");
    assert_eq!(b.shell.packets(), 1);
}

#[test]
fn stun_handshakes_and_control_packets_go_up() {
    let (mut a, mut b) = pair(direct);
    let mut stun = vec![0x01, 0x01, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    stun.resize(20, 0);
    let (mut initiation, mut response) = (vec![1, 0, 0, 0], vec![2, 0, 0, 0]);
    initiation.resize(148, 5);
    response.resize(92, 0);
    let servers = Via::Udp { socket: SocketId(0), remote: server() };
    b.received(servers, [&stun[..]]);
    let via = Via::Udp { socket: SocketId(0), remote: here() };
    b.received(via, [&initiation[..], &response]);
    let path = Path::Direct { socket: SocketId(0), remote: here() };
    let told = std::mem::take(&mut b.shell.told);
    let expected = [
        Upcall::Stun { via: servers, message: stun },
        Upcall::Handshake { path, message: initiation.clone(), initiator: Some([5; 32]) },
        Upcall::Handshake { path, message: response, initiator: None },
    ];
    assert_eq!(told, expected);
    initiation[4] = 0;
    b.received(via, [&initiation[..]]);
    assert_eq!(b.datapath.counters().dropped_forged, 1, "proves no key");
    initiation[4] = 6;
    b.received(via, [&initiation[..]]);
    assert_eq!(b.shell.datagrams(here()), [[3, 0, 0, 0]], "the cookie goes back on the way on which the initiation came");
    assert_eq!(b.datapath.counters().dropped_limited, 1);

    a.command(Command::SendControl { link: LINK, path: direct().path.unwrap(), payload: b"probe".to_vec() });
    b.received(via, [&a.shell.datagrams(there())[0][..]]);
    assert_eq!(b.shell.told, [Upcall::Control { link: LINK, path, payload: b"probe".to_vec() }]);
    assert_eq!(b.shell.packets(), 0);
}

#[test]
fn commands_are_carried_out() {
    let (mut a, mut b) = pair(direct);
    let path = direct().path.unwrap();
    a.command(Command::Send { socket: SocketId(1), remote: server(), datagram: b"stun".to_vec() });
    a.command(Command::SendMessage { path, message: vec![1; 148] });
    assert_eq!(a.shell.sent, [(SocketId(1), server(), 4, b"stun".to_vec()), (SocketId(0), there(), 148, vec![1; 148])]);
    a.command(Command::IdentifyInitiation { token: 4, message: vec![5; 148] });
    assert_eq!(a.shell.told.pop(), Some(Upcall::Initiation { token: 4, initiator: Some([5; 32]) }));
    a.command(Command::Receive { path, message: vec![2; 92] });
    assert_eq!(a.datapath.counters().dropped_forged, 1, "the stand-in takes no handshake");
    let message = a.datapath.tunnels.sealed(&udp(true, 9, &[1; 64]));
    b.command(Command::Receive { path, message });
    assert_eq!(b.shell.packets(), 1, "data too may come by a Signal");
    a.command(Command::OpenSocket { socket: SocketId(3), like: SocketId(0) });
    a.datapath.command(a.now, Command::SendMessage { path, message: vec![1; 92] }, &mut a.shell);
    a.datapath.command(a.now, Command::CloseSocket { socket: SocketId(0) }, &mut a.shell);
    assert_eq!(a.shell.sockets, ["open 3 like 0", "close 0 after 3 sends"]);
    a.command(Command::Send { socket: SocketId(0), remote: there(), datagram: vec![0; 70_000] });
    a.command(Command::SendMessage { path: relayed().path.unwrap(), message: vec![0; 65_487] });
    a.command(Command::SendControl { link: LinkId(0), path, payload: Vec::new() });
    let counters = a.datapath.counters();
    assert_eq!((counters.dropped_too_long, counters.dropped_no_session), (2, 1));
}

#[test]
fn traffic_is_told_of_for_links_that_had_some() {
    let (mut a, mut b) = pair(direct);
    a.app(&VnetHeader::default(), &udp(true, 9, &[1; 100]));
    b.received(Via::Udp { socket: SocketId(0), remote: here() }, [&a.shell.datagrams(there())[0][..]]);
    b.command(Command::SendControl { link: LINK, path: direct().path.unwrap(), payload: b"probe".to_vec() });
    a.tick(100);
    b.tick(100);
    let nothing = Traffic { link: LINK, sent_bytes: 0, received_bytes: 0, last_received: None, last_sent: None };
    let sent = Traffic { sent_bytes: 148, last_sent: Some(Time::default()), ..nothing };
    let last_received = Some((Time::default(), Path::Direct { socket: SocketId(0), remote: here() }));
    let received = Traffic { received_bytes: 148, last_received, ..nothing };
    assert_eq!((&a.shell.told[..], &b.shell.told[..]), (&[Upcall::Traffic(vec![sent])][..], &[Upcall::Traffic(vec![received])][..]));
    a.tick(200);
    assert_eq!(a.shell.told.len(), 1, "nothing new, nothing said");
}

#[test]
fn a_datapath_without_links_and_packets_need_not_be_woken() {
    let mut idle = Side::new(Table::default());
    assert_eq!(idle.datapath.next_wake(), None);
    idle.app(&VnetHeader::default(), &udp(true, 9, &[1; 100]));
    assert_eq!(idle.datapath.next_wake(), Some(Time::default()));
    idle.tick(0);
    assert_eq!(idle.datapath.next_wake(), Some(at(250)));
    idle.tick(6_000);
    idle.tick(7_000);
    assert_eq!(idle.datapath.next_wake(), None, "nothing waits any more");
}

#[test]
fn an_upcall_that_is_said_once_is_not_one_that_comes_again() {
    assert!(Upcall::Wanted { address: peers(true) }.comes_again());
    assert!(!Upcall::Traffic(Vec::new()).comes_again());
}

/// A datapath, its shell and its clock.
struct Side {
    datapath: Datapath<Plain>,
    shell: Recorder,
    now: Time,
}

impl Side {
    fn new(table: Table) -> Self {
        let config = Config { mtu: 1420, tcp_superpackets: true, udp_superpackets: true, memory: Memory::default() };
        let mut side = Self { datapath: Datapath::new(Plain::default(), &config), shell: Recorder::default(), now: Time::default() };
        side.datapath.set_table(side.now, table, &mut side.shell);
        side
    }

    fn app(&mut self, header: &VnetHeader, packet: &[u8]) {
        let mut buffer = [&header.write()[..], packet].concat();
        self.datapath.packet(self.now, &mut buffer, &mut self.shell);
        self.datapath.flush(&mut self.shell);
    }

    fn received<'a>(&mut self, via: Via, datagrams: impl IntoIterator<Item = &'a [u8]>) {
        self.datapath.received(self.now, via, datagrams, &mut self.shell);
        self.datapath.flush(&mut self.shell);
    }

    fn command(&mut self, command: Command) {
        self.datapath.command(self.now, command, &mut self.shell);
        self.datapath.flush(&mut self.shell);
    }

    fn tick(&mut self, millis: u64) {
        self.now = at(millis);
        self.datapath.tick(self.now, &mut self.shell);
        self.datapath.flush(&mut self.shell);
    }
}

/// Keeps all that it is told to do.
#[derive(Default)]
pub(crate) struct Recorder {
    /// Socket, receiver, segment, bytes.
    pub sent: Vec<(SocketId, SocketAddr, usize, Vec<u8>)>,
    pub frames: Vec<(StreamId, Vec<u8>, usize)>,
    written: Vec<(Vec<u8>, usize)>,
    told: Vec<Upcall>,
    sockets: Vec<String>,
}

impl Recorder {
    /// What was sent to one place.
    pub fn datagrams(&self, to: SocketAddr) -> Vec<Vec<u8>> {
        let trains = self.sent.iter().filter(|(_, remote, ..)| *remote == to);
        trains
            .flat_map(|(_, remote, segment, bytes)| Train { remote: *remote, bytes, segment: *segment }.datagrams().map(<[u8]>::to_vec))
            .collect()
    }

    fn packets(&self) -> usize {
        self.written.iter().map(|(_, packets)| packets).sum()
    }
}

impl Shell for Recorder {
    fn send(&mut self, socket: SocketId, trains: &[Train<'_>]) {
        self.sent.extend(trains.iter().map(|train| (socket, train.remote, train.segment, train.bytes.to_vec())));
    }

    fn send_frames(&mut self, stream: StreamId, frames: &[u8], count: usize) {
        self.frames.push((stream, frames.to_vec(), count));
    }

    fn write(&mut self, pieces: &[IoSlice<'_>], packets: usize) {
        self.written.push((pieces.iter().flat_map(|piece| piece.to_vec()).collect(), packets));
    }

    fn tell(&mut self, upcall: Upcall) {
        self.told.push(upcall);
    }

    fn open_socket(&mut self, socket: SocketId, like: SocketId) {
        self.sockets.push(format!("open {} like {}", socket.0, like.0));
    }

    fn close_socket(&mut self, socket: SocketId) {
        self.sockets.push(format!("close {} after {} sends", socket.0, self.sent.len()));
    }
}

/// One session, on [`LINK`], with a counter and a tag of zeros.
#[derive(Default)]
struct Plain {
    ready: bool,
    counter: u64,
    seen: BTreeSet<u64>,
}

impl Plain {
    fn sealed(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut message = vec![0; packet.len() + OVERHEAD];
        self.seal(LINK, packet, &mut message).unwrap();
        message
    }
}

impl Tunnels for Plain {
    fn execute(&mut self, command: campfire_tunnel::Command, events: &mut Vec<Event>) {
        assert_eq!(command, campfire_tunnel::Command::Initiate { link: LINK });
        events.push(Event::Established { link: LINK, initiator: true });
    }

    fn initiator(&mut self, initiation: &[u8], _: Source) -> Result<[u8; 32], Unidentified> {
        match initiation[4] {
            5 => Ok([5; 32]),
            6 => Err(Unidentified::Cookie(vec![3, 0, 0, 0])),
            _ => Err(Unidentified::Refused(TunnelError::Forged)),
        }
    }

    fn handshake(&mut self, _: &[u8], _: Source, _: &mut Vec<Event>) -> Result<LinkId, TunnelError> {
        Err(TunnelError::Forged)
    }

    fn is_ready(&self, link: LinkId) -> bool {
        self.ready && link == LINK
    }

    fn seal(&mut self, link: LinkId, packet: &[u8], out: &mut [u8]) -> Result<usize, TunnelError> {
        if !self.is_ready(link) {
            return Err(TunnelError::NoSession);
        }
        let length = packet.len() + OVERHEAD;
        let out = out.get_mut(..length).ok_or(TunnelError::BufferTooSmall)?;
        out.fill(0);
        out[0] = 4;
        out[8..16].copy_from_slice(&self.counter.to_le_bytes());
        out[16..16 + packet.len()].copy_from_slice(packet);
        self.counter += 1;
        Ok(length)
    }

    fn open(&mut self, message: &[u8], out: &mut [u8], _: &mut Vec<Event>) -> Result<Opened, TunnelError> {
        let (packet, tag) = message[16..].split_at(message.len() - OVERHEAD);
        if message[4] != 0 {
            return Err(TunnelError::UnknownIndex);
        }
        if *tag != [0; 16] {
            return Err(TunnelError::Forged);
        }
        if !self.seen.insert(u64::from_le_bytes(message[8..16].try_into().unwrap())) {
            return Err(TunnelError::Replayed);
        }
        out[..packet.len()].copy_from_slice(packet);
        Ok(Opened { link: LINK, packet: 0..packet.len() })
    }

    fn tick(&mut self, _: &mut Vec<Event>) {}

    fn last_handshake_ms(&self, link: LinkId) -> Option<u64> {
        self.is_ready(link).then_some(0)
    }
}

/// Two that have a session, each with this way to the other.
fn pair(way: fn() -> Way) -> (Side, Side) {
    let sides = (Side::new(table(way())), Side::new(table(way())));
    let ready = |mut side: Side| {
        side.datapath.tunnels.ready = true;
        side
    };
    (ready(sides.0), ready(sides.1))
}

/// The peer has the addresses that test packets go to and those that they come from, and so have we.
fn table(way: Way) -> Table {
    let peer = [peers(true), peers(false)];
    let own = [IpAddr::from([0xfd; 16]), IpAddr::from([10, 0, 0, 1])];
    let allowed = own.iter().chain(&peer).map(|address| (*address).into()).collect();
    let addressing = Addressing {
        own: own.iter().chain(&peer).copied().collect(),
        allowed: vec![Vec::new(), Vec::new(), allowed],
        hosts: peer.into_iter().map(|address| (address, LINK)).collect(),
        ..Addressing::default()
    };
    let servers = [(Via::Udp { socket: SocketId(0), remote: server() }, SERVER)].into_iter().collect();
    Table {
        version: 1,
        addressing: Arc::new(addressing),
        ways: Arc::from([Way::default(), Way::default(), way]),
        servers: Arc::new(servers),
        found_within: None,
    }
}

/// Where test packets go.
fn peers(v6: bool) -> IpAddr {
    if v6 { [0xfc; 16].into() } else { [10, 0, 0, 2].into() }
}

fn direct() -> Way {
    Way { path: Some(Path::Direct { socket: SocketId(0), remote: there() }), also: None }
}

fn relayed() -> Way {
    let via = Via::Udp { socket: SocketId(0), remote: server() };
    Way { path: Some(Path::Relay { server: SERVER, via, channel: 0x4001 }), also: None }
}

fn here() -> SocketAddr {
    ([192, 0, 2, 1], 4001).into()
}

fn there() -> SocketAddr {
    ([192, 0, 2, 2], 4001).into()
}

fn server() -> SocketAddr {
    ([192, 0, 2, 3], 3478).into()
}

fn at(millis: u64) -> Time {
    Time::from_micros(millis * 1000)
}
