//! In: from datagrams and frames to the TUN.

use std::io::IoSlice;
use std::net::IpAddr;
use std::ops::Range;

use campfire_protocol::carrier::{Path, ServerSlot, Via};
use campfire_tunnel::{LinkId, TunnelError, Tunnels, control};

use super::add;
use super::worker::{SLAB, Worker};
use crate::plane::{Counters, FromData};
use campfire_datapath::coalesce::Sink;
use campfire_datapath::demux::{self, Kind};
use campfire_datapath::packet::{Ip, clamp_mss};
use campfire_datapath::vnet::VNET;
use campfire_sys::tun::Tun;

/// The TUN as the place where packets and superpackets go.
struct Device<'a> {
    tun: &'a Tun,
    counters: &'a Counters,
}

impl Sink for Device<'_> {
    fn write(&mut self, pieces: &[IoSlice<'_>], packets: usize) {
        match self.tun.write(pieces) {
            Ok(length) => {
                add(&self.counters.tun_writes, 1);
                add(&self.counters.tun_written_packets, packets);
                add(&self.counters.tun_written_bytes, length.saturating_sub(VNET));
            }
            Err(error) => {
                add(&self.counters.tun_write_errors, packets);
                tracing::trace!(%error, "writing to the TUN");
            }
        }
    }
}

impl Worker {
    /// Takes one datagram or frame. `server`: whose address or stream `via` is.
    #[inline]
    pub fn datagram(&mut self, via: Via, server: Option<ServerSlot>, datagram: &[u8]) {
        let (message, path) = match (demux::classify(datagram, server.is_some()), via, server) {
            (Kind::WireGuard(message), Via::Udp { socket, remote }, _) => (message, Path::Direct { socket, remote }),
            (Kind::Channel(channel, message), _, Some(server)) if demux::is_wireguard(message) => {
                (message, Path::Relay { server, via, channel })
            }
            (Kind::Stun(message), ..) => {
                self.outbox.offer(FromData::Stun { via, message: message.to_vec() });
                return;
            }
            _ => {
                add(&self.counters.dropped_unrecognised, 1);
                return;
            }
        };
        if message[0] == 4 {
            self.data(message, path);
            return;
        }
        let initiator = if message[0] == 1 { self.tunnels.initiator(message) } else { None };
        if message[0] == 1 && initiator.is_none() {
            add(&self.counters.dropped_forged, 1);
            return;
        }
        self.outbox.offer(FromData::Handshake { path, message: message.to_vec(), initiator });
    }

    /// Opens a data message and passes on what is inside.
    #[inline]
    pub fn data(&mut self, message: &[u8], path: Path) {
        if self.slab.len() - self.used < message.len() {
            self.flush_opened();
        }
        let start = self.used;
        match self.tunnels.open(message, &mut self.slab[start..], &mut self.events) {
            Ok(opened) => {
                self.inner(opened.link, path, start + opened.packet.start..start + opened.packet.end);
            }
            Err(error) => self.count_refused(error),
        }
        if !self.events.is_empty() {
            self.tell_events();
        }
    }

    /// Takes the opened packet at `range` of the slab.
    #[inline]
    fn inner(&mut self, link: LinkId, path: Path, range: Range<usize>) {
        let now = self.now;
        if let Some(state) = self.link_state(link) {
            state.last_received = Some((now, path));
        }
        if range.is_empty() {
            return;
        }
        let packet = &mut self.slab[range.clone()];
        if let Some(payload) = control::unwrap(packet) {
            self.outbox.offer(FromData::Control { link, path, payload: payload.to_vec() });
            return;
        }
        let Some(ip) = Ip::parse(packet) else {
            add(&self.counters.dropped_malformed, 1);
            return;
        };
        clamp_mss(packet, &ip, self.mtu, false);
        let (source, destination) = (ip.source(packet), ip.destination(packet));
        if !self.allowed(link, &source) {
            add(&self.counters.dropped_source, 1);
            return;
        }
        // Or a peer could reach, through this machine, whatever it routes to.
        if !self.table.is_ours(&destination) {
            add(&self.counters.dropped_destination, 1);
            return;
        }
        if let Some(state) = self.link_state(link) {
            state.received_bytes += range.len() as u64;
        }
        self.used = range.end;
        self.coalescer.push(&mut self.slab, range, &ip, &mut Device { tun: &self.tun, counters: &self.counters });
        if self.coalescer.is_empty() {
            self.used = 0;
        }
    }

    #[inline]
    fn allowed(&self, link: LinkId, source: &IpAddr) -> bool {
        let entry = self.table.links.get(link.0 as usize).and_then(Option::as_ref);
        entry.is_some_and(|entry| entry.allowed.iter().any(|net| net.contains(source)))
    }

    /// Writes what the coalescer holds; the slab is free again.
    pub fn flush_opened(&mut self) {
        if self.used > 0 {
            self.coalescer.flush(&mut self.slab, &mut Device { tun: &self.tun, counters: &self.counters });
            self.used = 0;
        }
        debug_assert!(self.slab.len() == SLAB);
    }

    /// Counts what the tunnels refused, by reason.
    pub fn count_refused(&self, error: TunnelError) {
        let counters = &self.counters;
        let counter = match error {
            TunnelError::NoSession | TunnelError::UnknownLink => &counters.dropped_no_session,
            TunnelError::UnknownIndex => &counters.dropped_unknown_session,
            TunnelError::Forged => &counters.dropped_forged,
            TunnelError::Replayed => &counters.dropped_replayed,
            TunnelError::Malformed | TunnelError::BufferTooSmall => &counters.dropped_malformed,
            TunnelError::Limited => &counters.dropped_limited,
        };
        add(counter, 1);
    }
}
