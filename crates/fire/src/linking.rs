//! What links ask of the fire: ways to members, and who is where.

use std::cmp::Reverse;

use campfire_protocol::carrier::{Path, ServerSlot, SocketId};
use campfire_protocol::identity::PublicKey;
use campfire_protocol::time::Time;

use crate::{Fire, Seat};

impl Fire {
    /// What the data plane saw on paths through a server: when it last sent to it and last received from it.
    pub fn note_traffic(&mut self, now: Time, server: ServerSlot, sent: Option<Time>, received: Option<Time>) {
        if let Some(conversation) = self.conversations.get_mut(&server).filter(|_| !self.closing) {
            conversation.note_traffic(&mut self.hearth, now, sent, received);
        }
    }

    /// Paths through this server carry nothing, though it may answer Bindings (it restarted and knows nobody): the seats on
    /// it are refreshed now. Not to be said more often than every few seconds.
    pub fn doubt(&mut self, now: Time, server: ServerSlot) {
        if let Some(conversation) = self.conversations.get_mut(&server).filter(|_| !self.closing) {
            conversation.refresh_now(now);
        }
    }

    /// Links through this server carry small packets and no large ones, whoever is at the other end: it is reached on a
    /// stream from here on, if it offers one, until our network changes.
    pub fn narrow(&mut self, now: Time, server: ServerSlot) {
        if let Some(conversation) = self.conversations.get_mut(&server).filter(|_| !self.closing) {
            conversation.narrow(&mut self.hearth, now);
        }
        self.settle(now);
    }

    /// Sends up to 1,000 bytes to a member; retransmitted until answered. Failure is told as [`FireEvent::Unreachable`](crate::FireEvent::Unreachable).
    pub fn signal(&mut self, now: Time, seat: &Seat, data: Vec<u8>) {
        if let Some(conversation) = self.conversations.get_mut(&seat.server).filter(|_| !self.closing) {
            conversation.signal(&mut self.hearth, now, (seat.room, seat.member), data);
        }
    }

    /// Binds a channel to a member; answered by [`FireEvent::Bound`](crate::FireEvent::Bound) or [`FireEvent::Unreachable`](crate::FireEvent::Unreachable). Idempotent.
    pub fn bind(&mut self, now: Time, seat: &Seat) {
        if let Some(conversation) = self.conversations.get_mut(&seat.server).filter(|_| !self.closing) {
            conversation.bind(&mut self.hearth, now, (seat.room, seat.member));
        }
    }

    /// Ends a binding.
    pub fn release(&mut self, now: Time, seat: &Seat) {
        if let Some(conversation) = self.conversations.get_mut(&seat.server).filter(|_| !self.closing) {
            conversation.release(&mut self.hearth, now, (seat.room, seat.member));
        }
    }

    /// Asks for members of large rooms by overlay address (its text) or name; answers come as [`FireEvent::Member`](crate::FireEvent::Member). Does
    /// nothing where all rooms are small (everybody is known there) and for what was asked moments ago.
    pub fn find(&mut self, now: Time, what: &str) {
        if !self.closing && self.large() {
            self.finds.find(&mut self.hearth, now, what);
            self.settle(now);
        }
    }

    /// Whether there is a link to this peer: it is then kept in the cache of a large room and found again after resets.
    pub fn interest(&mut self, peer: &PublicKey, linked: bool) {
        self.hearth.roster.set_linked(peer, linked);
    }

    /// Asks the servers how they see this socket (a fresh one); answers come as [`FireEvent::Mapped`](crate::FireEvent::Mapped).
    pub fn observe(&mut self, now: Time, socket: SocketId) {
        if self.closing {
            return;
        }
        for conversation in self.conversations.values_mut() {
            conversation.observe(&mut self.hearth, now, socket);
        }
    }

    /// The path to a member through its bound channel; `None` while not bound or the server is not reached.
    pub fn relay_path(&self, seat: &Seat) -> Option<Path> {
        let conversation = self.conversations.get(&seat.server)?;
        let binding = conversation.channels.get((seat.room, seat.member)).filter(|binding| binding.usable())?;
        Some(Path::Relay { server: seat.server, via: conversation.active()?.via, channel: binding.channel })
    }

    /// Whose the channel is on which something came from this server.
    pub fn seat_of_channel(&self, server: ServerSlot, channel: u16) -> Option<Seat> {
        let (room, member) = self.conversations.get(&server)?.channels.member(channel)?;
        Some(Seat { server, room, member })
    }

    /// Who sits there.
    pub fn peer_of(&self, seat: &Seat) -> Option<PublicKey> {
        self.hearth.roster.peer_of(seat)
    }

    /// The peer's seats on servers where we camp too, best first: answering ones, settled ones, newest key, by score. Both
    /// sides come to the same order where they see the same servers.
    pub fn seats(&self, peer: &PublicKey) -> Vec<Seat> {
        let usable = |seat: &Seat| {
            let conversation = self.conversations.get(&seat.server)?;
            let wanted = conversation.seatings.get(&seat.room).is_some_and(|seating| seating.wanted && seating.until.is_some());
            wanted.then_some(conversation)
        };
        let ranked = self.hearth.roster.seats_of(peer).filter_map(|(seat, info)| {
            let conversation = usable(&seat)?;
            let settled = info.settled && self.choice.settled(seat.server, seat.room);
            let doubt = conversation.active().is_none() || conversation.suspect || conversation.leaving;
            let grade = (doubt, !settled, self.hearth.room_rank(seat.room));
            Some((grade, Reverse(conversation.known_tag(seat.room)), seat))
        });
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, _, seat)| seat).collect()
    }
}
