//! Out: from the TUN to trains.

use std::net::IpAddr;

use campfire_protocol::carrier::Path;
use campfire_tunnel::{LinkId, OVERHEAD, Tunnels};

use super::add;
use super::ports::{CHANNEL_HEADER, Ports, carrier, channel_header};
use super::worker::Worker;
use crate::plane::FromData;
use campfire_datapath::packet::{Ip, clamp_mss};
use campfire_datapath::segment::segment;
use campfire_datapath::vnet::{VNET, VnetHeader};

impl Worker {
    /// Takes one packet or superpacket, with its header before it, from the TUN.
    #[inline]
    pub fn packet(&mut self, buffer: &mut [u8]) {
        add(&self.counters.tun_reads, 1);
        add(&self.counters.tun_read_bytes, buffer.len().saturating_sub(VNET));
        self.route(buffer);
    }

    /// Sends it, or keeps it until it can be sent.
    fn route(&mut self, buffer: &mut [u8]) {
        let parsed = buffer.split_first_chunk::<VNET>().and_then(|(header, packet)| Some((VnetHeader::read(*header)?, Ip::parse(packet)?)));
        let Some((header, ip)) = parsed else {
            add(&self.counters.dropped_tun_malformed, 1);
            return;
        };
        let destination = ip.destination(&buffer[VNET..]);
        let Some((link, path, also)) = self.way(&destination) else {
            self.keep(destination, buffer);
            return;
        };
        self.seal(link, path, also, &header, &ip, &mut buffer[VNET..]);
    }

    /// Link and paths to an address, if a packet can be sent right now.
    #[inline]
    fn way(&self, destination: &IpAddr) -> Option<(LinkId, Path, Option<Path>)> {
        let link = self.lookup(destination)?;
        let entry = self.table.links.get(link.0 as usize)?.as_ref()?;
        let path = entry.path?;
        self.tunnels.is_ready(link).then_some((link, path, entry.also))
    }

    #[inline]
    fn seal(&mut self, link: LinkId, path: Path, also: Option<Path>, header: &VnetHeader, ip: &Ip, packet: &mut [u8]) {
        clamp_mss(packet, ip, self.mtu, header.partial_checksum);
        let (tunnels, ports, message) = (&mut self.tunnels, &mut self.ports, &mut self.twice);
        let (mut sent, mut refused) = (0, None);
        let count = segment(header, packet, |piece| {
            let sealed = match also {
                None => seal_into(ports, &path, piece.len() + OVERHEAD, |place| tunnels.seal(link, piece, place)),
                Some(also) => tunnels.seal(link, piece, message).map(|length| {
                    ports.send_message(&path, &message[..length]);
                    ports.send_message(&also, &message[..length]);
                }),
            };
            match sealed {
                Ok(()) => sent += piece.len(),
                Err(error) => refused = Some(error),
            }
        });
        match count {
            Ok(count) => add(&self.counters.tun_read_packets, count),
            Err(_) => add(&self.counters.dropped_tun_malformed, 1),
        }
        if let Some(error) = refused {
            self.count_refused(error);
        }
        let now = self.now;
        if sent > 0
            && let Some(state) = self.link_state(link)
        {
            state.sent_bytes += sent as u64;
            state.last_sent = Some(now);
        }
    }

    /// Keeps a packet that has no way yet, and asks for one.
    fn keep(&mut self, destination: IpAddr, buffer: &[u8]) {
        // What a host says to everybody (multicast, link-local …) is for nobody here.
        let somebody = match destination {
            IpAddr::V4(address) => !(address.is_multicast() || address.is_broadcast() || address.is_loopback() || address.is_unspecified()),
            IpAddr::V6(address) => {
                !(address.is_multicast() || address.is_unicast_link_local() || address.is_loopback() || address.is_unspecified())
            }
        };
        if !somebody {
            add(&self.counters.dropped_no_route, 1);
            return;
        }
        let kept = self.waiting.keep(destination, buffer, self.now);
        add(&self.counters.dropped_no_session, kept.dropped);
        if kept.ask {
            self.outbox.offer(FromData::Wanted { address: destination });
        }
    }

    /// Sends what waited and now has a way.
    pub fn release(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut released = waiting.release(|address| self.way(address).is_some());
        self.waiting = waiting;
        for packet in &mut released {
            self.route(packet);
        }
        self.ports.flush();
    }
}

/// Seals straight into the path's train.
#[inline]
fn seal_into(
    ports: &mut Ports,
    path: &Path,
    length: usize,
    seal: impl FnOnce(&mut [u8]) -> Result<usize, campfire_tunnel::TunnelError>,
) -> Result<(), campfire_tunnel::TunnelError> {
    let (via, channel) = carrier(path);
    let header = if channel.is_some() { CHANNEL_HEADER } else { 0 };
    let place = ports.reserve(via, header + length).ok_or(campfire_tunnel::TunnelError::BufferTooSmall)?;
    let (head, body) = place.split_at_mut(header);
    if let Some(channel) = channel {
        head.copy_from_slice(&channel_header(channel, length));
    }
    // A message shorter than its place would leave a hole in the train; sealing adds a fixed number of bytes.
    if seal(body)? != length {
        return Err(campfire_tunnel::TunnelError::BufferTooSmall);
    }
    ports.commit();
    Ok(())
}
