//! In: from datagrams and frames to the interface.

use std::io::IoSlice;
use std::ops::Range;

use campfire_protocol::carrier::{Path, ServerSlot, Via};
use campfire_protocol::time::Time;
use campfire_tunnel::{LinkId, Source, TunnelError, Tunnels, Unidentified, control};

use crate::demux::{self, Kind};
use crate::packet::{Ip, clamp_mss};
use crate::upcall::Upcall;
use crate::{Datapath, Shell};

impl<T: Tunnels> Datapath<T> {
    /// Takes what came by `via`: the datagrams of a receive, or the frames of a stream (header and payload, unpadded).
    #[inline]
    pub fn received<'a>(&mut self, now: Time, via: Via, datagrams: impl IntoIterator<Item = &'a [u8]>, shell: &mut impl Shell) {
        let server = self.table.server(&via);
        for datagram in datagrams {
            self.datagram(now, via, server, datagram, shell);
        }
    }

    /// Takes one of them. `server`: whose address or stream `via` is.
    #[inline]
    fn datagram(&mut self, now: Time, via: Via, server: Option<ServerSlot>, datagram: &[u8], shell: &mut impl Shell) {
        match (demux::classify(datagram, server.is_some()), via, server) {
            (Kind::WireGuard(message), Via::Udp { socket, remote }, Some(_) | None) => {
                self.message(now, Path::Direct { socket, remote }, message, shell);
            }
            (Kind::Channel(channel, message), _, Some(server)) if demux::is_wireguard(message) => {
                self.message(now, Path::Relay { server, via, channel }, message, shell);
            }
            (Kind::Stun(message), ..) => shell.tell(Upcall::Stun { via, message: message.to_vec() }),
            (Kind::WireGuard(_) | Kind::Channel(..) | Kind::Unrecognised, ..) => self.counters.dropped_unrecognised += 1,
        }
    }

    /// A WireGuard message came on `path`.
    #[inline]
    fn message(&mut self, now: Time, path: Path, message: &[u8], shell: &mut impl Shell) {
        if message[0] == 4 {
            self.open(now, path, message, shell);
            return;
        }
        let initiator = match (message[0] == 1).then(|| self.tunnels.initiator(message, source(&path))) {
            None => None,
            Some(Ok(key)) => Some(key),
            Some(Err(Unidentified::Refused(error))) => return self.count_refused(error),
            Some(Err(Unidentified::Cookie(reply))) => {
                self.counters.dropped_limited += 1;
                let sent = self.trains.send_message(&path, &reply, shell);
                return self.count_too_long(!sent);
            }
        };
        shell.tell(Upcall::Handshake { path, message: message.to_vec(), initiator });
    }

    /// Opens a data message and passes on what is inside.
    #[inline]
    pub(crate) fn open(&mut self, now: Time, path: Path, message: &[u8], shell: &mut impl Shell) {
        if self.slab.len() - self.used < message.len() {
            self.flush_opened(shell);
        }
        let start = self.used;
        match self.tunnels.open(message, &mut self.slab[start..], &mut self.events) {
            Ok(opened) => self.inner(now, path, opened.link, start + opened.packet.start..start + opened.packet.end, shell),
            Err(error) => self.count_refused(error),
        }
        if !self.events.is_empty() {
            self.tell_events(now, shell);
        }
    }

    /// Takes the opened packet at `range` of the slab: who it may be from and for is asked here, and nowhere else.
    #[inline]
    fn inner(&mut self, now: Time, path: Path, link: LinkId, range: Range<usize>, shell: &mut impl Shell) {
        let seen = self.ledger.of(link);
        seen.last_received = Some((now, path));
        if range.is_empty() {
            return;
        }
        let packet = &mut self.slab[range.clone()];
        if let Some(payload) = control::unwrap(packet) {
            shell.tell(Upcall::Control { link, path, payload: payload.to_vec() });
            return;
        }
        let Some(ip) = Ip::parse(packet) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        clamp_mss(packet, &ip, self.mtu, false);
        if !self.table.allows(link, &ip.source(packet)) {
            self.counters.dropped_source += 1;
            return;
        }
        // Or a peer could reach, through this machine, whatever it routes to.
        if !self.table.is_ours(&ip.destination(packet)) {
            self.counters.dropped_destination += 1;
            return;
        }
        seen.received_bytes += range.len() as u64;
        self.used = range.end;
        self.coalescer.push(&mut self.slab, range, &ip, &mut |pieces: &[IoSlice<'_>], packets| shell.write(pieces, packets));
        if self.coalescer.is_empty() {
            self.used = 0;
        }
    }

    /// Writes what the coalescer holds; the slab is free again.
    pub(crate) fn flush_opened(&mut self, shell: &mut impl Shell) {
        if self.used > 0 {
            self.coalescer.flush(&mut self.slab, &mut |pieces: &[IoSlice<'_>], packets| shell.write(pieces, packets));
            self.used = 0;
        }
    }

    /// Counts what the tunnels refused, by reason.
    pub(crate) fn count_refused(&mut self, error: TunnelError) {
        let counters = &mut self.counters;
        let counter = match error {
            TunnelError::NoSession | TunnelError::UnknownLink => &mut counters.dropped_no_session,
            TunnelError::UnknownIndex => &mut counters.dropped_unknown_session,
            TunnelError::Forged => &mut counters.dropped_forged,
            TunnelError::Replayed => &mut counters.dropped_replayed,
            TunnelError::Malformed => &mut counters.dropped_malformed,
            TunnelError::BufferTooSmall => &mut counters.dropped_too_long,
            TunnelError::Limited => &mut counters.dropped_limited,
        };
        *counter += 1;
    }
}

/// Where a handshake message on this path came from.
pub(crate) fn source(path: &Path) -> Source {
    match path {
        Path::Relay { .. } => Source::Relayed,
        Path::Direct { remote, .. } => Source::Direct(remote.ip()),
    }
}
