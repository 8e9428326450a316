//! What whoever sent a packet is told when nobody takes it: ICMP's "destination unreachable", written to the interface it came from
//! (RFC 792; RFC 4443 §3.1; docs/decisions/0027-a-packet-to-nobody-is-answered.md).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use campfire_protocol::time::Time;

use crate::checksum::Sum;
use crate::packet::Ip;

/// Of an answer over IPv6, bytes: the least MTU (RFC 4443 §2.4 c).
const MOST_V6: usize = 1_280;
/// Over IPv4 (RFC 1812 §4.3.2.3).
const MOST_V4: usize = 576;
/// Bytes of an ICMP error before the packet that it is about.
const ICMP: usize = 8;
/// Extension headers that are looked behind for an ICMPv6 message.
const MAX_EXTENSIONS: usize = 8;

/// Answers at once, and the time in which one more is earned (RFC 4443 §2.4 f).
const BURST: u32 = 100;
const EVERY: Duration = Duration::from_millis(10);

/// What answers there may be, and where they are put together.
pub(crate) struct Unreachable {
    answer: Box<[u8; MOST_V6]>,
    /// The last of the answers so far would have been due then, had they kept their distance.
    due: Time,
}

impl Default for Unreachable {
    fn default() -> Self {
        Self { answer: Box::new([0; MOST_V6]), due: Time::default() }
    }
}

impl Unreachable {
    /// The answer to a packet, from the interface, that nobody takes; `None` where there must be none, or too many were given.
    pub fn answer(&mut self, now: Time, packet: &[u8]) -> Option<&[u8]> {
        let ip = Ip::parse(packet)?;
        if !may_be_answered(packet, &ip) || self.due.since(now) >= EVERY * BURST {
            return None;
        }
        self.due = self.due.max(now) + EVERY;
        let (header, most) = if ip.v6 { (40, MOST_V6) } else { (20, MOST_V4) };
        let about = &packet[..packet.len().min(ip.length).min(most - header - ICMP)];
        let length = header + ICMP + about.len();
        let answer = &mut self.answer[..length];
        answer[..header + ICMP].fill(0);
        answer[header + ICMP..].copy_from_slice(about);
        // From the address that was asked for: a packet from our own would be one from elsewhere with our name, which kernels drop.
        let (source, destination) = ip.addresses(packet).split_at(if ip.v6 { 16 } else { 4 });
        let sum = if ip.v6 {
            answer[0] = 6 << 4;
            answer[4..6].copy_from_slice(&((ICMP + about.len()) as u16).to_be_bytes());
            answer[6..8].copy_from_slice(&[ICMPV6, 64]);
            answer[8..24].copy_from_slice(destination);
            answer[24..40].copy_from_slice(source);
            // Address unreachable.
            answer[header..header + 2].copy_from_slice(&[1, 3]);
            Sum::pseudo_header(&answer[8..40], ICMPV6, ICMP + about.len())
        } else {
            // Precedence of internetwork control (RFC 1812 §4.3.2.5).
            answer[..2].copy_from_slice(&[4 << 4 | 5, 0xc0]);
            answer[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            answer[8..10].copy_from_slice(&[64, ICMPV4]);
            answer[12..16].copy_from_slice(destination);
            answer[16..20].copy_from_slice(source);
            let checksum = Sum::default().add(&answer[..header]).finish();
            answer[10..12].copy_from_slice(&checksum);
            // Host unreachable.
            answer[header..header + 2].copy_from_slice(&[3, 1]);
            Sum::default()
        };
        let checksum = sum.add(&answer[header..]).finish();
        answer[header + 2..header + 4].copy_from_slice(&checksum);
        Some(answer)
    }
}

/// IP protocol numbers.
const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;

/// No error about an error, about what was for many, from nobody in particular, or about a later piece of a packet (RFC 1122 §3.2.2,
/// RFC 4443 §2.4 e).
fn may_be_answered(packet: &[u8], ip: &Ip) -> bool {
    is_somebody(ip.source(packet))
        && is_somebody(ip.destination(packet))
        && if ip.v6 { is_no_error_v6(packet) } else { is_no_error_v4(packet, ip) }
}

fn is_somebody(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let reserved = address.octets()[0] == 0 || address >= Ipv4Addr::new(240, 0, 0, 0);
            !(address.is_multicast() || address.is_loopback() || reserved)
        }
        IpAddr::V6(address) => !(address.is_multicast() || address.is_loopback() || address.is_unspecified()),
    }
}

fn is_no_error_v4(packet: &[u8], ip: &Ip) -> bool {
    let offset = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff;
    // Echo, router discovery, timestamps, address masks: questions and their answers.
    let asks = |kind: &u8| matches!(kind, 0 | 8..=10 | 13..=18);
    offset == 0 && (ip.protocol != ICMPV4 || packet.get(ip.header).is_some_and(asks))
}

fn is_no_error_v6(packet: &[u8]) -> bool {
    let (mut protocol, mut at) = (packet[6], 40);
    for _ in 0..MAX_EXTENSIONS {
        let Some(&[next, length, offset @ .., _, _, _, _]) = packet.get(at..at + 8).and_then(|head| head.first_chunk::<8>()) else {
            // Too short for what it says to be.
            return !matches!(protocol, 0 | 43 | 44 | 51 | ICMPV6 | 60);
        };
        match protocol {
            // Informational, but a redirect.
            ICMPV6 => return next >= 128 && next != 137,
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => at += (usize::from(length) + 1) * 8,
            // Fragment (RFC 8200 §4.5): the first one alone.
            44 if u16::from_be_bytes(offset) & 0xfff8 == 0 => at += 8,
            44 => return false,
            // Authentication (RFC 4302 §2.2).
            51 => at += (usize::from(length) + 2) * 4,
            _ => return true,
        }
        protocol = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{tcp, udp};

    #[test]
    fn an_answer_over_ipv4_is_what_rfc_792_says() {
        let packet = udp(false, 9, &[7; 1_000]);
        let mut unreachable = Unreachable::default();
        let answer = unreachable.answer(at(0), &packet).unwrap();
        assert_eq!(answer.len(), 576);
        assert_eq!(answer[..2], [0x45, 0xc0]);
        assert_eq!(answer[2..4], 576u16.to_be_bytes());
        assert_eq!(answer[4..10], [0, 0, 0, 0, 64, 1]);
        assert_eq!((&answer[12..16], &answer[16..20]), (&packet[16..20], &packet[12..16]));
        assert_eq!((answer[20], answer[21], &answer[24..28]), (3, 1, &[0; 4][..]));
        assert_eq!(answer[28..], packet[..548]);
        assert_eq!((plain_sum(&answer[..20]), plain_sum(&answer[20..])), (0xffff, 0xffff));
    }

    #[test]
    fn an_answer_over_ipv6_is_what_rfc_4443_says() {
        for size in [0, 1, 7, 900, 1_184, 1_400] {
            let packet = udp(true, 9, &vec![7; size]);
            let mut unreachable = Unreachable::default();
            let answer = unreachable.answer(at(0), &packet).unwrap();
            let about = packet.len().min(1_280 - 48);
            assert_eq!(answer.len(), 48 + about);
            assert_eq!(answer[..4], [0x60, 0, 0, 0]);
            assert_eq!(answer[4..6], (8 + about as u16).to_be_bytes());
            assert_eq!(answer[6..8], [58, 64]);
            assert_eq!((&answer[8..24], &answer[24..40]), (&packet[24..40], &packet[8..24]));
            assert_eq!((answer[40], answer[41], &answer[44..48]), (1, 3, &[0; 4][..]));
            assert_eq!(answer[48..], packet[..about]);
            // RFC 8200 §8.1: addresses, length, next header.
            let pseudo = [&answer[8..40], &(8 + about as u32).to_be_bytes(), &[0, 0, 0, 58], &answer[40..]].concat();
            assert_eq!(plain_sum(&pseudo), 0xffff, "{size}");
        }
    }

    #[test]
    fn errors_and_what_is_for_many_or_from_nobody_get_no_answer() {
        let changed = |v6: bool, changes: &[(usize, &[u8])]| {
            let mut packet = udp(v6, 9, &[0; 64]);
            for (at, bytes) in changes {
                packet[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            packet
        };
        let silent = [
            changed(false, &[(9, &[1]), (20, &[3])]),
            changed(false, &[(9, &[1]), (20, &[5])]),
            changed(false, &[(9, &[1]), (20, &[11])]),
            changed(false, &[(9, &[1]), (20, &[12])]),
            changed(false, &[(9, &[1]), (20, &[99])]),
            changed(false, &[(16, &[224])]),
            changed(false, &[(16, &[255; 4])]),
            changed(false, &[(12, &[224])]),
            changed(false, &[(12, &[0; 4])]),
            changed(false, &[(12, &[127])]),
            changed(false, &[(12, &[255; 4])]),
            changed(false, &[(6, &[0x20, 1])]),
            changed(true, &[(6, &[58]), (40, &[1])]),
            changed(true, &[(6, &[58]), (40, &[4])]),
            changed(true, &[(6, &[58]), (40, &[127])]),
            changed(true, &[(6, &[58]), (40, &[137])]),
            // Behind hop-by-hop, routing and destination options, authentication, a first fragment.
            changed(true, &[(6, &[0]), (40, &[43, 0]), (48, &[60, 0]), (56, &[58, 1]), (72, &[1])]),
            changed(true, &[(6, &[51]), (40, &[58, 1]), (52, &[3])]),
            changed(true, &[(6, &[44]), (40, &[58, 0, 0, 1]), (48, &[1])]),
            changed(true, &[(6, &[44]), (40, &[17, 0, 0, 8])]),
            // Headers without end.
            changed(true, &[(6, &[0]), (40, &[0; 64])]),
            changed(true, &[(6, &[0]), (40, &[58, 255])]),
            changed(true, &[(24, &[0xff, 2])]),
            changed(true, &[(8, &[0xff, 2])]),
            changed(true, &[(8, &[0; 16])]),
            vec![0x60; 12],
            Vec::new(),
        ];
        for packet in silent {
            assert_eq!(Unreachable::default().answer(at(0), &packet), None, "{packet:02x?}");
        }
        let answered = [
            changed(false, &[(9, &[1]), (20, &[8])]),
            changed(false, &[(6, &[0x20, 0])]),
            changed(true, &[(6, &[58]), (40, &[128])]),
            changed(true, &[(6, &[0]), (40, &[58, 0]), (48, &[128])]),
            changed(true, &[(6, &[44]), (40, &[17, 0, 0, 1])]),
            tcp(false, 2, 1, &[]),
            tcp(true, 2, 1, &[]),
        ];
        for packet in answered {
            assert!(Unreachable::default().answer(at(0), &packet).is_some(), "{packet:02x?}");
        }
    }

    #[test]
    fn what_lies_behind_the_packet_is_not_told_and_nothing_stays_of_the_answer_before() {
        let mut unreachable = Unreachable::default();
        let long = udp(false, 9, &[0xee; 400]);
        unreachable.answer(at(0), &long).unwrap();
        let mut short = udp(false, 9, &[1]);
        let length = short.len();
        short.extend([0xdd; 40]);
        let answer = unreachable.answer(at(0), &short).unwrap();
        assert_eq!(answer[28..], short[..length]);
    }

    #[test]
    fn answers_are_limited() {
        let (mut unreachable, packet) = (Unreachable::default(), tcp(true, 2, 1, &[]));
        let mut count = |millis| (0..1_000).filter(|_| unreachable.answer(at(millis), &packet).is_some()).count();
        assert_eq!([0, 0, 500, 100_000].map(&mut count), [100, 0, 50, 100]);
    }

    #[test]
    fn whatever_comes_does_no_harm() {
        let mut unreachable = Unreachable::default();
        for first in [0x45, 0x4f, 0x60] {
            for (length, fill) in (0..120).flat_map(|length| [0, 44, 43, 51, 58, 60, 255].map(|fill| (length, fill))) {
                let mut packet = vec![fill; length];
                if let Some(byte) = packet.first_mut() {
                    *byte = first;
                }
                unreachable.answer(at(length as u64 * 100_000), &packet);
            }
        }
    }

    /// The Internet checksum as its RFC has it, word by word: not what the code uses.
    fn plain_sum(bytes: &[u8]) -> u32 {
        let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
        words.fold(0, |sum, word| ((sum + word) & 0xffff) + ((sum + word) >> 16))
    }

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1_000)
    }
}
