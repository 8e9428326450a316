//! The data plane's reading of packets: what a datagram is, cutting superpackets, joining packets to superpackets. Joined and
//! cut again, packets are what they were; no wrong checksum becomes a right one.
#![no_main]

use std::collections::BTreeMap;
use std::io::IoSlice;

use campfire_datapath::coalesce::Coalescer;
use campfire_datapath::demux::{Kind, classify, is_wireguard};
use campfire_datapath::packet::{Ip, TCP, UDP, clamp_mss, is_sound};
use campfire_datapath::segment::segment;
use campfire_datapath::vnet::{Gso, VNET, VnetHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, rest)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => datagram(rest),
        1 => superpacket(rest),
        2 => clamp(rest),
        _ => train(rest),
    }
});

fn datagram(bytes: &[u8]) {
    for server in [false, true] {
        match classify(bytes, server) {
            Kind::WireGuard(message) => assert!(message.len() >= 32 && message == bytes),
            Kind::Channel(number, payload) => assert!(server && (0x4000..0x5000).contains(&number) && payload.len() + 4 <= bytes.len()),
            Kind::Stun(message) => assert!(server && message == bytes && !is_wireguard(message)),
            Kind::Unrecognised => {}
        }
    }
}

fn superpacket(bytes: &[u8]) {
    let Some((header, packet)) = bytes.split_first_chunk::<VNET>() else { return };
    let (Some(header), Some(ip)) = (VnetHeader::read(*header), Ip::parse(packet)) else { return };
    let mut packet = packet.to_vec();
    clamp_mss(&mut packet, &ip, 1_280, header.partial_checksum);
    let start = usize::from(header.checksum_start);
    let mut payload = 0;
    let cut = segment(&header, &mut packet, |piece| {
        if header.gso != Gso::None {
            let ip = Ip::parse(piece).expect("a piece is a packet");
            assert_eq!(ip.length, piece.len());
            if start == ip.header && ip.protocol == if header.gso == Gso::Udp { UDP } else { TCP } {
                assert!(is_sound(piece, &ip));
            }
            payload += 1;
        }
    });
    if let Ok(count) = cut
        && header.gso != Gso::None
    {
        assert_eq!(count, payload);
    }
}

fn clamp(bytes: &[u8]) {
    let Some(ip) = Ip::parse(bytes) else { return };
    let mut packet = bytes.to_vec();
    let sound = is_sound(&packet, &ip);
    clamp_mss(&mut packet, &ip, 1_280, false);
    assert_eq!(packet.len(), bytes.len());
    if sound && ip.protocol == TCP {
        assert!(is_sound(&packet, &ip));
    }
    let _ = (ip.source(&packet), ip.destination(&packet));
}

/// Packets of a few flows, some of them spoilt, pushed one after the other.
fn train(mut script: &[u8]) {
    let mut packets = Vec::new();
    while let Some((plan, rest)) = script.split_first_chunk::<6>() {
        packets.push(packet(*plan));
        script = rest;
        if packets.len() == 128 {
            break;
        }
    }
    let mut slab = packets.concat();
    let (mut coalescer, mut start) = (Coalescer::new(true, true), 0);
    let (mut pushed, mut written) = (Vec::new(), Vec::new());
    let mut write = |pieces: &[IoSlice<'_>], packets: usize| {
        written.push((pieces.iter().flat_map(|piece| piece.to_vec()).collect::<Vec<u8>>(), packets));
    };
    for packet in packets {
        let range = start..start + packet.len();
        start = range.end;
        if let Some(ip) = Ip::parse(&packet) {
            coalescer.push(&mut slab, range, &ip, &mut write);
            pushed.push(packet);
        }
    }
    coalescer.flush(&mut slab, &mut write);
    assert!(coalescer.is_empty());

    let mut back = Vec::new();
    for (mut bytes, count) in written {
        let (header, packet) = bytes.split_first_chunk_mut::<VNET>().expect("a header comes first");
        let header = VnetHeader::read(*header).expect("of our own");
        assert_eq!(segment(&header, packet, |piece| back.push(piece.to_vec())), Ok(count));
    }
    assert_eq!(by_flow(&back), by_flow(&pushed));
}

/// Family, TCP or UDP, flow and flags; sequence; size; a byte to spoil and how.
fn packet([kind, sequence, size, at, change, end]: [u8; 6]) -> Vec<u8> {
    let (v6, tcp, flow) = (kind & 1 != 0, kind & 2 != 0, kind >> 2 & 3);
    let payload = vec![sequence; usize::from(size % 16) * 10];
    let mut transport = vec![0x30, flow, 0, 80];
    if tcp {
        transport.extend((u32::from(sequence) * 100).to_be_bytes());
        transport.extend([0, 0, 0, 9, 0x50, 0x10 | end & 0x0B, 1, 0, 0, 0, 0, 0]);
    } else {
        transport.extend((payload.len() as u16 + 8).to_be_bytes());
        transport.extend([0, 0]);
    }
    transport.extend(payload);
    let protocol = if tcp { TCP } else { UDP };
    let mut packet = if v6 {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        header.extend([0xFD; 16]);
        header.extend([0xFC; 16]);
        header
    } else {
        vec![0x45, 0, 0, 0, 0, sequence, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
    };
    packet.extend(transport);
    let (length, header) = (packet.len(), if v6 { 40 } else { 20 });
    let length_field = if v6 { 4..6 } else { 2..4 };
    packet[length_field].copy_from_slice(&((if v6 { length - 40 } else { length }) as u16).to_be_bytes());
    if !v6 {
        let sum = checksum(&[&packet[..header]]);
        packet[10..12].copy_from_slice(&sum);
    }
    let pseudo = [0, protocol, ((length - header) >> 8) as u8, (length - header) as u8];
    let sum = checksum(&[&packet[if v6 { 8 } else { 12 }..header], &pseudo, &packet[header..]]);
    let field = header + if tcp { 16 } else { 6 };
    packet[field..field + 2].copy_from_slice(&if sum == [0; 2] && !tcp { [0xFF; 2] } else { sum });
    if change & 0x80 != 0
        && let Some(byte) = packet.get_mut(usize::from(at))
    {
        *byte ^= change & 0x7F;
    }
    if change & 0x40 != 0 {
        packet.truncate(length - usize::from(end % 8));
    }
    packet
}

/// RFC 1071, in the plainest words. All parts but the last are even.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    let folded = (sum >> 16) + (sum & 0xFFFF);
    (!((folded >> 16) + folded) as u16).to_be_bytes()
}

/// Packets in order, for each pair of addresses and ports. IPv4's identification and checksum are made anew where packets
/// are joined.
fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        let mut packet = packet.clone();
        let ip = Ip::parse(&packet).expect("was one before");
        let mut flow = ip.addresses(&packet).to_vec();
        flow.push(ip.protocol);
        flow.extend(packet.get(ip.header..ip.header + 4).unwrap_or_default());
        if !ip.v6 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        flows.entry(flow).or_default().push(packet);
    }
    flows
}
