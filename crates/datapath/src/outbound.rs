//! Out: from the interface to trains.

use std::io::IoSlice;
use std::net::IpAddr;

use campfire_protocol::carrier::Path;
use campfire_protocol::time::Time;
use campfire_tunnel::{LinkId, OVERHEAD, TunnelError, Tunnels};

use crate::packet::{Ip, clamp_mss};
use crate::segment::segment;
use crate::trains::Trains;
use crate::upcall::Upcall;
use crate::vnet::{VNET, VnetHeader};
use crate::{Datapath, Shell};

impl<T: Tunnels> Datapath<T> {
    /// Takes one packet or superpacket, with its [`VnetHeader`] before it, from the interface. It is sent, or kept until it can be; `buffer`
    /// is used up: a superpacket is cut where it lies.
    #[inline]
    pub fn packet(&mut self, now: Time, buffer: &mut [u8], shell: &mut impl Shell) {
        let parsed = buffer.split_first_chunk::<VNET>().and_then(|(header, packet)| Some((VnetHeader::read(*header)?, Ip::parse(packet)?)));
        let Some((header, ip)) = parsed else {
            self.counters.dropped_tun_malformed += 1;
            return;
        };
        let destination = ip.destination(&buffer[VNET..]);
        match self.way(&destination) {
            Some((link, path, also)) => self.seal(now, link, path, also, &header, &ip, &mut buffer[VNET..], shell),
            None => self.keep(now, destination, buffer, shell),
        }
    }

    /// Link and paths to an address, if a packet can be sent right now.
    #[inline]
    fn way(&self, destination: &IpAddr) -> Option<(LinkId, Path, Option<Path>)> {
        let link = self.table.link_to(destination)?;
        let way = self.table.way(link)?;
        let path = way.path?;
        self.tunnels.is_ready(link).then_some((link, path, way.also))
    }

    #[inline]
    #[expect(clippy::too_many_arguments, reason = "all that is known of one packet, at its only call")]
    fn seal(
        &mut self,
        now: Time,
        link: LinkId,
        path: Path,
        also: Option<Path>,
        header: &VnetHeader,
        ip: &Ip,
        packet: &mut [u8],
        shell: &mut impl Shell,
    ) {
        clamp_mss(packet, ip, self.mtu, header.partial_checksum);
        let (tunnels, trains, message) = (&mut self.tunnels, &mut self.trains, &mut self.message);
        let (mut sent, mut refused) = (0, None);
        let count = segment(header, packet, |piece| {
            let sealed = match also {
                None => seal_into(tunnels, trains, link, &path, piece, shell),
                Some(also) => tunnels.seal(link, piece, message).and_then(|length| {
                    let sent =
                        trains.send_message(&path, &message[..length], shell) & trains.send_message(&also, &message[..length], shell);
                    if sent { Ok(()) } else { Err(TunnelError::BufferTooSmall) }
                }),
            };
            match sealed {
                Ok(()) => sent += piece.len(),
                Err(error) => refused = Some(error),
            }
        });
        match count {
            Ok(count) => self.counters.tun_read_packets += count as u64,
            Err(_) => self.counters.dropped_tun_malformed += 1,
        }
        if let Some(error) = refused {
            self.count_refused(error);
        }
        if sent > 0 {
            let seen = self.ledger.of(link);
            seen.sent_bytes += sent as u64;
            seen.last_sent = Some(now);
        }
    }

    /// Keeps a packet that has no way yet, and asks for one.
    fn keep(&mut self, now: Time, destination: IpAddr, buffer: &[u8], shell: &mut impl Shell) {
        // What a host says to everybody (multicast, link-local …) is for nobody here.
        let somebody = match destination {
            IpAddr::V4(address) => !(address.is_multicast() || address.is_broadcast() || address.is_loopback() || address.is_unspecified()),
            IpAddr::V6(address) => {
                !(address.is_multicast() || address.is_unicast_link_local() || address.is_loopback() || address.is_unspecified())
            }
        };
        if !somebody {
            self.counters.dropped_no_route += 1;
            return;
        }
        let kept = self.waiting.keep(destination, buffer, now);
        self.counters.dropped_no_session += kept.dropped as u64;
        if kept.ask {
            shell.tell(Upcall::Wanted { address: destination });
        }
    }

    /// Drops what has waited too long. What was for nobody is answered; a peer that does not answer is no reason to say anything, as in
    /// WireGuard.
    pub(crate) fn give_up(&mut self, now: Time, shell: &mut impl Shell) {
        let table = &self.table;
        let nobody = |address: &IpAddr| table.found_within.filter(|_| table.link_to(address).is_none());
        for (address, packet) in self.waiting.expire(now, nobody) {
            let packet = &packet[VNET..];
            if nobody(&address).is_none() {
                self.counters.dropped_no_session += 1;
                continue;
            }
            self.counters.dropped_no_route += 1;
            if let Some(answer) = self.unreachable.answer(now, packet) {
                self.counters.unreachable_told += 1;
                shell.write(&[IoSlice::new(&VnetHeader::default().write()), IoSlice::new(answer)], 1);
            }
        }
    }

    /// Sends what waited and now has a way.
    pub(crate) fn release(&mut self, now: Time, shell: &mut impl Shell) {
        if self.waiting.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut released = waiting.release(|address| self.way(address).is_some());
        self.waiting = waiting;
        for packet in &mut released {
            self.packet(now, packet, shell);
        }
    }
}

/// Seals straight into the path's train.
#[inline]
fn seal_into(
    tunnels: &mut impl Tunnels,
    trains: &mut Trains,
    link: LinkId,
    path: &Path,
    packet: &[u8],
    shell: &mut impl Shell,
) -> Result<(), TunnelError> {
    let length = packet.len() + OVERHEAD;
    let place = trains.reserve_message(path, length, shell).ok_or(TunnelError::BufferTooSmall)?;
    // A message shorter than its place would leave a hole in the train; sealing adds a fixed number of bytes.
    if tunnels.seal(link, packet, place)? != length {
        return Err(TunnelError::BufferTooSmall);
    }
    trains.commit();
    Ok(())
}
