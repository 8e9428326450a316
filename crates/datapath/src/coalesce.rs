//! Into the TUN: consecutive packets of a flow become one superpacket (what a NIC does as GRO), written in pieces from where
//! they were opened.

use std::io::IoSlice;
use std::ops::Range;

use crate::checksum::Sum;
use crate::packet::{ACK, Ip, PSH, TCP, UDP, is_sound, read_u16, read_u32, set_length};
use crate::vnet::{Gso, VnetHeader};

/// Flows held at a time.
const FLOWS: usize = 16;

/// Packets in a superpacket.
const PIECES: usize = 64;

/// Bytes of a superpacket.
const MOST: usize = 65_535;

/// A flow's packets so far: the first whole, of the others the payload.
struct Flow {
    ip: Ip,
    gso: Gso,
    /// The first packet in the slab.
    first: Range<usize>,
    /// Bytes of its headers.
    headers: usize,
    /// Payload bytes of each packet (the last may have fewer).
    segment: usize,
    /// Payloads after the first.
    rest: [(u32, u16); PIECES - 1],
    count: usize,
    /// Bytes of the superpacket.
    length: usize,
    /// Sequence number that continues it (TCP).
    next: u32,
    /// Whether the first packet's checksum was looked at.
    checked: bool,
}

/// What a packet is to coalescing.
struct Candidate {
    ip: Ip,
    gso: Gso,
    headers: usize,
    /// Nothing may follow it in a superpacket.
    last: bool,
}

/// Holds flows until they are full, broken or flushed. The packets themselves lie in a slab of the caller's, which stays untouched until
/// [`flush`](Self::flush). What is complete goes to the caller's `write`: in pieces, of which the first is a [`VnetHeader`], with how many packets
/// they stand for.
pub struct Coalescer {
    flows: Vec<Flow>,
    tcp: bool,
    udp: bool,
}

impl Coalescer {
    /// `tcp`, `udp`: what superpackets the device takes.
    pub fn new(tcp: bool, udp: bool) -> Self {
        Self { flows: Vec::with_capacity(FLOWS), tcp, udp }
    }

    /// Takes the packet at `range` of `slab`; writes what is complete.
    pub fn push(&mut self, slab: &mut [u8], range: Range<usize>, ip: &Ip, write: &mut impl FnMut(&[IoSlice<'_>], usize)) {
        let Some(candidate) = self.candidate(&slab[range.clone()], ip) else {
            // Whatever it is, it must not overtake what is held of the same pair.
            self.flush_pair(slab, range.clone(), ip, write);
            write_alone(&slab[range], write);
            return;
        };
        if let Some(index) = self.flows.iter().position(|flow| flow.same_flow(slab, range.clone(), &candidate)) {
            let flow = &mut self.flows[index];
            if flow.continues(slab, range.clone(), &candidate) {
                let payload = range.len() - candidate.headers;
                flow.rest[flow.count - 1] = ((range.start + candidate.headers) as u32, payload as u16);
                flow.count += 1;
                flow.length += payload;
                flow.next = flow.next.wrapping_add(payload as u32);
                if candidate.last {
                    // Checksums are partial from here on, so the flag may be set without more ado.
                    slab[flow.first.start + flow.ip.header + 13] |= if flow.gso == Gso::Udp { 0 } else { PSH };
                }
                if candidate.last || payload < flow.segment || flow.count == PIECES || flow.length + flow.segment > MOST {
                    self.flows.remove(index).write(slab, write);
                }
                return;
            }
            self.flows.remove(index).write(slab, write);
        }
        if candidate.last {
            write_alone(&slab[range], write);
            return;
        }
        if self.flows.len() == FLOWS {
            self.flows.remove(0).write(slab, write);
        }
        let payload = range.len() - candidate.headers;
        self.flows.push(Flow {
            ip: candidate.ip,
            gso: candidate.gso,
            headers: candidate.headers,
            segment: payload,
            rest: [(0, 0); PIECES - 1],
            count: 1,
            length: range.len(),
            next: read_u32(slab, range.start + candidate.ip.header + 4).wrapping_add(payload as u32),
            checked: false,
            first: range,
        });
    }

    /// Writes everything held; after it the slab may be used anew.
    pub fn flush(&mut self, slab: &mut [u8], write: &mut impl FnMut(&[IoSlice<'_>], usize)) {
        for flow in self.flows.drain(..) {
            flow.write(slab, write);
        }
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    fn candidate(&self, packet: &[u8], ip: &Ip) -> Option<Candidate> {
        // IPv4 options and fragments are rare enough to go alone.
        if ip.fragment || ip.length != packet.len() || ip.header != if ip.v6 { 40 } else { 20 } {
            return None;
        }
        match ip.protocol {
            TCP if self.tcp && packet.len() >= ip.header + 20 => {
                let headers = ip.header + usize::from(packet[ip.header + 12] >> 4) * 4;
                let flags = packet[ip.header + 13];
                let plain = flags & !PSH == ACK && headers >= ip.header + 20 && packet.len() > headers;
                let gso = if ip.v6 { Gso::Tcp6 } else { Gso::Tcp4 };
                plain.then_some(Candidate { ip: *ip, gso, headers, last: flags & PSH != 0 })
            }
            UDP if self.udp && packet.len() > ip.header + 8 => {
                let plain =
                    usize::from(read_u16(packet, ip.header + 4)) == packet.len() - ip.header && read_u16(packet, ip.header + 6) != 0;
                plain.then_some(Candidate { ip: *ip, gso: Gso::Udp, headers: ip.header + 8, last: false })
            }
            _ => None,
        }
    }

    fn flush_pair(&mut self, slab: &mut [u8], range: Range<usize>, ip: &Ip, write: &mut impl FnMut(&[IoSlice<'_>], usize)) {
        let mut index = 0;
        while let Some(flow) = self.flows.get(index) {
            if flow.ip.v6 == ip.v6 && flow.ip.addresses(&slab[flow.first.clone()]) == ip.addresses(&slab[range.clone()]) {
                self.flows.remove(index).write(slab, write);
            } else {
                index += 1;
            }
        }
    }
}

impl Flow {
    /// Same addresses, protocol and ports.
    fn same_flow(&self, slab: &[u8], range: Range<usize>, candidate: &Candidate) -> bool {
        let (first, other, at) = (&slab[self.first.clone()], &slab[range], self.ip.header);
        self.gso == candidate.gso
            && self.ip.v6 == candidate.ip.v6
            && first[at..at + 4] == other[at..at + 4]
            && self.ip.addresses(first) == candidate.ip.addresses(other)
    }

    /// Whether the packet continues the superpacket: everything that cutting it apart again would copy is equal, and both
    /// checksums are right (the superpacket says they are).
    fn continues(&mut self, slab: &[u8], range: Range<usize>, candidate: &Candidate) -> bool {
        let (first, other, at) = (&slab[self.first.clone()], &slab[range], self.ip.header);
        let payload = other.len() - candidate.headers;
        if self.headers != candidate.headers || payload > self.segment || self.length + payload > MOST {
            return false;
        }
        let same_ip = if self.ip.v6 {
            // Traffic class and flow label, hop limit.
            first[..4] == other[..4] && first[7] == other[7]
        } else {
            // Type of service; DF; time to live.
            first[1] == other[1] && first[6] == other[6] && first[8] == other[8]
        };
        let same_transport = self.gso == Gso::Udp
            || (read_u32(other, at + 4) == self.next
                && first[at + 8..at + 13] == other[at + 8..at + 13]
                && first[at + 14..at + 16] == other[at + 14..at + 16]
                && first[at + 18..self.headers] == other[at + 18..self.headers]);
        if !same_ip || !same_transport {
            return false;
        }
        if !self.checked {
            if !is_sound(first, &self.ip) {
                return false;
            }
            self.checked = true;
        }
        is_sound(other, &candidate.ip)
    }

    fn write(self, slab: &mut [u8], write: &mut impl FnMut(&[IoSlice<'_>], usize)) {
        if self.count == 1 {
            write_alone(&slab[self.first], write);
            return;
        }
        let (at, udp) = (self.ip.header, self.gso == Gso::Udp);
        let first = &mut slab[self.first.clone()];
        set_length(first, &self.ip, self.length);
        if udp {
            first[at + 4..at + 6].copy_from_slice(&((self.length - at) as u16).to_be_bytes());
        }
        let checksum_offset = if udp { 6 } else { 16 };
        let partial = Sum::pseudo_header(self.ip.addresses(first), self.ip.protocol, self.length - at).partial();
        first[at + checksum_offset..at + checksum_offset + 2].copy_from_slice(&partial);
        let header = VnetHeader {
            partial_checksum: true,
            gso: self.gso,
            header_length: self.headers as u16,
            segment: self.segment as u16,
            checksum_start: at as u16,
            checksum_offset: checksum_offset as u16,
        }
        .write();
        let slab = &*slab;
        let mut pieces = [IoSlice::new(&[]); PIECES + 1];
        pieces[0] = IoSlice::new(&header);
        pieces[1] = IoSlice::new(&slab[self.first.clone()]);
        for (piece, (start, length)) in pieces[2..].iter_mut().zip(&self.rest[..self.count - 1]) {
            *piece = IoSlice::new(&slab[*start as usize..*start as usize + usize::from(*length)]);
        }
        write(&pieces[..=self.count], self.count);
    }
}

fn write_alone(packet: &[u8], write: &mut impl FnMut(&[IoSlice<'_>], usize)) {
    let header = VnetHeader::default().write();
    write(&[IoSlice::new(&header), IoSlice::new(packet)], 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{seal, tcp, udp};
    use crate::segment::segment;
    use proptest::prelude::*;

    #[test]
    fn a_train_of_tcp_becomes_one_superpacket_and_back() {
        for v6 in [false, true] {
            let packets: Vec<_> =
                (0..5).map(|index| tcp(v6, if index == 4 { 0x18 } else { 0x10 }, index * 1000, &[index as u8; 1000])).collect();
            let written = coalesce(&packets);
            assert_eq!(written.len(), 1);
            assert_eq!(cut(written), with_identifications(packets));
        }
    }

    #[test]
    fn a_short_packet_ends_a_superpacket() {
        let packets = vec![tcp(true, 0x10, 0, &[0; 1000]), tcp(true, 0x10, 1000, &[1; 10]), tcp(true, 0x10, 1010, &[2; 10])];
        let written = coalesce(&packets);
        assert_eq!(written.len(), 2);
        assert_eq!(cut(written), packets);
    }

    #[test]
    fn datagrams_of_equal_size_become_one_superpacket() {
        let packets: Vec<_> = (0..100u8).map(|index| udp(true, 9, &[index; 64])).collect();
        let written = coalesce(&packets);
        assert_eq!(written.len(), 2, "at most 64 in one");
        assert_eq!(cut(written), packets);
    }

    #[test]
    fn a_wrong_checksum_is_not_laundered() {
        let mut packets: Vec<_> = (0..3).map(|index| tcp(true, 0x10, index * 100, &[0; 100])).collect();
        packets[1][80] ^= 1;
        let written = coalesce(&packets);
        assert_eq!(cut(written), packets, "as it came, to be dropped by the kernel");
        packets[0][80] ^= 1;
        assert_eq!(cut(coalesce(&packets)), packets);
    }

    #[test]
    fn flows_are_kept_apart_and_in_order() {
        let mut packets = Vec::new();
        for index in 0..6u32 {
            packets.push(tcp(false, 0x10, index * 100, &[1; 100]));
            packets.push(tcp(true, 0x10, index * 100, &[2; 100]));
            packets.push(udp(true, 7, &[3; 50]));
            packets.push(udp(true, 8, &[4; 50]));
        }
        assert_eq!(coalesce(&packets).len(), 4);
    }

    #[test]
    fn a_fin_does_not_overtake_the_data_before_it() {
        let packets = vec![tcp(true, 0x10, 0, &[0; 100]), tcp(true, 0x10, 100, &[0; 100]), tcp(true, 0x11, 200, &[])];
        let written = coalesce(&packets);
        assert_eq!(written.len(), 2);
        assert_eq!(cut(written), packets);
    }

    #[test]
    fn what_differs_in_a_header_is_not_merged() {
        let first = tcp(false, 0x10, 0, &[0; 100]);
        for (at, value) in [(1, 3), (6, 0), (8, 63), (20 + 11, 8), (20 + 14, 2)] {
            let mut second = tcp(false, 0x10, 100, &[0; 100]);
            second[at] = value;
            seal(&mut second);
            assert_eq!(coalesce(&[first.clone(), second]).len(), 2, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn cutting_what_was_coalesced_gives_the_same_packets(
            plan in prop::collection::vec((0u8..4, 1usize..1300, any::<bool>()), 1..120),
            v6: bool,
        ) {
            let mut sequence = [u32::MAX - 30_000; 4];
            let packets: Vec<_> = plan.iter().map(|(flow, size, push)| {
                let size = if *size < 1000 { 1000 } else { *size };
                let mut packet = if *flow < 2 {
                    let packet = tcp(v6, if *push { 0x18 } else { 0x10 }, sequence[usize::from(*flow)], &vec![*flow; size]);
                    sequence[usize::from(*flow)] = sequence[usize::from(*flow)].wrapping_add(size as u32);
                    packet
                } else {
                    udp(v6, 1, &vec![*flow; size])
                };
                let port = if v6 { 40 } else { 20 };
                packet[port] = *flow;
                seal(&mut packet);
                packet
            }).collect();
            let back = cut(coalesce(&packets));
            for flow in 0..4 {
                let of = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                    let port = if v6 { 40 } else { 20 };
                    packets.iter().filter(|packet| packet[port] == flow).cloned().map(without_identification).collect()
                };
                prop_assert_eq!(of(&back), of(&packets));
            }
        }

        #[test]
        fn garbage_is_passed_on_as_it_is(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 20..120), 1..20)) {
            let mut packets = packets;
            for packet in &mut packets {
                packet[0] = if packet[0] & 1 == 0 { 0x45 } else { 0x60 };
                packet[9] = if packet[9] & 1 == 0 { TCP } else { UDP };
            }
            let parsed = packets.iter().filter(|packet| Ip::parse(packet).is_some()).count();
            prop_assert_eq!(coalesce(&packets).iter().map(|(_, count)| count).sum::<usize>(), parsed);
        }
    }

    fn coalesce(packets: &[Vec<u8>]) -> Vec<(Vec<u8>, usize)> {
        let mut slab: Vec<u8> = packets.concat();
        let (mut coalescer, mut written, mut start) = (Coalescer::new(true, true), Vec::new(), 0);
        let mut write = |pieces: &[IoSlice<'_>], packets: usize| {
            written.push((pieces.iter().flat_map(|piece| piece.to_vec()).collect(), packets));
        };
        for packet in packets {
            if let Some(ip) = Ip::parse(packet) {
                coalescer.push(&mut slab, start..start + packet.len(), &ip, &mut write);
            }
            start += packet.len();
        }
        coalescer.flush(&mut slab, &mut write);
        assert!(coalescer.is_empty());
        written
    }

    fn cut(written: Vec<(Vec<u8>, usize)>) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (mut bytes, count) in written {
            // In pieces, as a device that takes no superpackets is to be served.
            let pieces = [IoSlice::new(&bytes[..10]), IoSlice::new(&bytes[10..30]), IoSlice::new(&bytes[30..])];
            if let Some(cut) = crate::segment::cut(&pieces, |piece| packets.push(piece.to_vec())) {
                assert_eq!(cut, count);
                continue;
            }
            let (header, packet) = bytes.split_at_mut(10);
            let header = VnetHeader::read(header.try_into().unwrap()).unwrap();
            assert_eq!(segment(&header, packet, |piece| packets.push(piece.to_vec())), Ok(count));
        }
        packets
    }

    /// IPv4 identifications are not kept: cutting numbers packets from the first one's.
    fn with_identifications(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        for (index, packet) in packets.iter_mut().enumerate() {
            if packet[0] >> 4 == 4 {
                packet[5] += index as u8;
                seal(packet);
            }
        }
        packets
    }

    fn without_identification(mut packet: Vec<u8>) -> Vec<u8> {
        if packet[0] >> 4 == 4 {
            packet[4..6].fill(0);
            seal(&mut packet);
        }
        packet
    }
}
