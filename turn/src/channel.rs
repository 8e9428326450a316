//! Channels: one number space for each 5-tuple (RFC 8656 §12), in which stand the channels of its allocation and the
//! bindings of its seats, and the way of frames through them.
//!
//! A binding belongs to its seat: it follows it to another address, and ends with it or when it is released. It knows its
//! counterpart (the other member's channel for this one), so that a frame costs two look-ups by hash.

use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::time::Duration;

use campfire_protocol::time::Time;
use campfire_protocol::wire::{self, BindRequest, MAX_RELAYED_SIGNAL, MemberId, SignalRequest};

use crate::camp::Caller;
use crate::io::{Forward, Output, RelayId, Via};
use crate::table::Ref;
use crate::{Request, Server, cost};

/// How long a released or expired channel is not bound to another peer (RFC 8656 §12).
pub(crate) const QUARANTINE: Duration = Duration::from_mins(5);

/// What a channel number leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A binding: another member.
    Member(u32),
    /// A channel of the allocation: a peer.
    Peer(u32),
}

/// A channel that a seat has bound to a member.
pub(crate) struct Binding {
    /// Whose.
    seat: u32,
    channel: u16,
    /// The other member's channel for this one; 0: it has none.
    reverse: u16,
    /// The other member's seat, when last looked up.
    to: Ref,
    member: MemberId,
    /// When it was released; it is not bound to another member for a while.
    released: Option<Time>,
}

/// Header of ChannelData: channel and length of what follows (RFC 8656 §12.4).
const HEADER: usize = 4;

/// The channel and the payload's length, if the frame is whole.
fn parse(frame: &[u8]) -> Option<(u16, usize)> {
    let ([c0, c1, l0, l1], payload) = frame.split_first_chunk::<HEADER>()?;
    let length = usize::from(u16::from_be_bytes([*l0, *l1]));
    (length <= payload.len()).then_some((u16::from_be_bytes([*c0, *c1]), length))
}

impl Server {
    pub(crate) fn forward_frame(&mut self, now: Time, via: &Via, frame: &mut [u8]) -> Forward {
        let Some((channel, length)) = parse(frame) else {
            self.stats.dropped_malformed += 1;
            return Forward::Drop;
        };
        let Some(client) = self.clients.find(via) else {
            self.stats.dropped_no_client += 1;
            return Forward::Drop;
        };
        match self.channels.get(&(client, channel)) {
            Some(Target::Member(binding)) => {
                let Some(binding) = self.bindings.get(*binding).filter(|binding| binding.released.is_none()) else {
                    self.stats.dropped_no_channel += 1;
                    return Forward::Drop;
                };
                let (seat, to, reverse) = (binding.seat, binding.to, binding.reverse);
                let receiver = self.camp.seats.at(to).filter(|_| reverse != 0);
                let there = receiver.and_then(|receiver| self.clients.get(receiver.client?));
                let (Some(there), Some((number, _))) = (there, frame.split_first_chunk_mut::<2>()) else { return Forward::Slow };
                *number = reverse.to_be_bytes();
                let via = there.via;
                self.note_exchange(seat, to.index);
                self.stats.frames_members += 1;
                self.stats.bytes_members += length as u64;
                Forward::Client { via }
            }
            Some(Target::Peer(peer)) => self.forward_to_peer(now, *peer, length),
            None => {
                self.stats.dropped_no_channel += 1;
                Forward::Drop
            }
        }
    }

    fn note_exchange(&mut self, one: u32, other: u32) {
        for seat in [one, other] {
            self.camp.note_exchange(seat);
        }
    }

    pub(crate) fn forward_from_peer(&mut self, now: Time, relay: RelayId, from: SocketAddr, frame: &mut [u8]) -> Forward {
        let Some((header, payload)) = frame.split_first_chunk_mut::<HEADER>() else { return Forward::Slow };
        let Ok(length) = u16::try_from(payload.len()) else { return Forward::Slow };
        let Some((channel, via)) = self.channel_of_peer(now, relay, from, payload.len()) else { return Forward::Slow };
        let [c0, c1] = channel.to_be_bytes();
        let [l0, l1] = length.to_be_bytes();
        *header = [c0, c1, l0, l1];
        Forward::Client { via }
    }

    /// A frame that `forward_frame` did not take: the receiver has not bound, or its seat was another when last looked at.
    pub(crate) fn slow_frame(&mut self, now: Time, via: Via, frame: &[u8]) {
        let Some((channel, length)) = parse(frame) else {
            self.stats.dropped_malformed += 1;
            return;
        };
        let payload = frame.get(HEADER..HEADER + length).unwrap_or_default();
        let target = self.clients.find(&via).and_then(|client| self.channels.get(&(client, channel)).copied());
        let index = match target {
            Some(Target::Member(binding)) => binding,
            Some(Target::Peer(peer)) => {
                if let Forward::Peer { relay, to, .. } = self.forward_to_peer(now, peer, length) {
                    self.outputs.push_back(Output::SendRelay { relay, to, payload: payload.to_vec() });
                }
                return;
            }
            None => {
                self.stats.dropped_no_channel += 1;
                return;
            }
        };
        self.connect(index);
        let Some(binding) = self.bindings.get(index).filter(|binding| binding.released.is_none()) else {
            self.stats.dropped_no_channel += 1;
            return;
        };
        let (seat, member, reverse, to) = (binding.seat, binding.member, binding.reverse, binding.to);
        let Some(sender) = self.camp.seats.get(seat).map(|seat| seat.member) else { return };
        let there = self.camp.seats.at(to).and_then(|to| to.client).and_then(|client| self.clients.get(client)).map(|client| client.via);
        let Some(there) = there else {
            self.stats.dropped_absent += 1;
            return;
        };
        if reverse != 0 {
            self.note_exchange(seat, to.index);
            self.stats.frames_members += 1;
            self.stats.bytes_members += length as u64;
            let bytes = channel_data(&there, reverse, payload);
            self.outputs.push_back(Output::Send { via: there, bytes });
            return;
        }
        let rate = self.config.limits.slow_frames;
        if length > MAX_RELAYED_SIGNAL || length == 0 {
            self.stats.dropped_slow_size += 1;
        } else if !self.camp.seats.get_mut(to.index).is_some_and(|receiver| receiver.slow_frames.take(now, rate, 1)) {
            self.stats.dropped_slow_limit += 1;
        } else if self.deliver(seat, to.index, &SignalRequest { from: sender, to: member, data: payload.to_vec() }) {
            self.note_exchange(seat, to.index);
            self.stats.pushed_slow += 1;
        }
    }

    /// Looks up a live binding's other end again, and lets the two know of each other.
    fn connect(&mut self, index: u32) {
        let Some(binding) = self.bindings.get(index).filter(|binding| binding.released.is_none()) else { return };
        let (seat, member, channel) = (binding.seat, binding.member, binding.channel);
        let Some(sitting) = self.camp.seats.get(seat) else { return };
        let (room, own) = (sitting.room, sitting.member);
        let other = self.camp.member(room, member);
        let back = other.and_then(|other| self.binding_to(other, own));
        let (own, to) = (self.camp.seats.reference(seat), other.and_then(|other| self.camp.seats.reference(other)));
        let mut reverse = 0;
        if let (Some(back), Some(own)) = (back.and_then(|back| self.bindings.get_mut(back)), own) {
            (back.to, back.reverse) = (own, channel);
            reverse = back.channel;
        }
        if let Some(binding) = self.bindings.get_mut(index) {
            binding.reverse = reverse;
            binding.to = to.unwrap_or(binding.to);
        }
    }

    /// Ends a binding; its number rests.
    fn release(&mut self, index: u32) {
        let Some(binding) = self.bindings.get_mut(index).filter(|binding| binding.released.is_none()) else { return };
        binding.released = Some(self.now);
        let (seat, member) = (binding.seat, binding.member);
        self.stats.bindings = self.stats.bindings.saturating_sub(1);
        let Some(sitting) = self.camp.seats.get(seat) else { return };
        let other = self.camp.member(sitting.room, member);
        let back = other.and_then(|other| self.binding_to(other, sitting.member));
        if let Some(back) = back.and_then(|back| self.bindings.get_mut(back)) {
            back.reverse = 0;
        }
    }

    /// The live binding of a seat to a member.
    fn binding_to(&self, seat: u32, member: MemberId) -> Option<u32> {
        let live = |binding: &Binding| binding.member == member && binding.released.is_none();
        self.camp.seats.get(seat)?.bindings.iter().copied().find(|binding| self.bindings.get(*binding).is_some_and(live))
    }

    pub(crate) fn bind(&mut self, request: &Request<'_>, caller: &Caller) {
        self.stats.requests_bind += 1;
        let Ok(bind) = BindRequest::decode(request.message) else { return self.fail(request, 400, "Bad Request", Some(&caller.key)) };
        let Some(seat) = self.seat_of(request, caller, bind.from) else { return };
        if !self.may_request(request, caller, seat) {
            return;
        }
        let held = self.binding_to(seat, bind.to);
        if bind.release {
            if let Some(held) = held.filter(|held| self.bindings.get(*held).is_some_and(|binding| binding.channel == bind.channel)) {
                self.release(held);
            }
            return self.answer(request, wire::encode_success(request.message, &[], &caller.key));
        }
        match self.take_binding(request, seat, &bind, held) {
            Some((code, reason)) => self.fail(request, code, reason, Some(&caller.key)),
            None => self.answer(request, wire::encode_success(request.message, &[], &caller.key)),
        }
    }

    fn take_binding(&mut self, request: &Request<'_>, seat: u32, bind: &BindRequest, held: Option<u32>) -> Option<(u16, &'static str)> {
        let now = request.now;
        let client = self.clients.find(&request.via)?;
        let room = self.camp.seats.get(seat)?.room;
        let Some(other) = self.camp.member(room, bind.to).filter(|_| bind.to != bind.from) else { return Some((404, "No Such Member")) };
        let key = (client, bind.channel);
        match self.channels.get(&key).copied() {
            Some(Target::Member(binding)) if Some(binding) == held => {
                self.connect(binding);
                return None;
            }
            Some(Target::Member(index)) => {
                let resting = self.bindings.get(index).filter(|binding| binding.seat == seat);
                let rested = |binding: &Binding| {
                    let released = binding.released?;
                    (binding.member == bind.to || now.since(released) >= QUARANTINE).then_some(())
                };
                if resting.and_then(rested).is_none() {
                    return Some((400, "Channel In Use"));
                }
                self.drop_binding(index);
            }
            Some(Target::Peer(peer)) => {
                if !self.peer_channel_lapsed(now, peer) {
                    return Some((400, "Channel In Use"));
                }
                self.drop_peer_channel(peer);
            }
            None => {}
        }
        if let Some(refusal) = self.no_room_for_binding(now, seat) {
            return Some(refusal);
        }
        if let Some(held) = held {
            // The member lost count of its numbers: the newer one counts, the older one rests.
            self.release(held);
        }
        let to = self.camp.seats.reference(other)?;
        let binding = Binding { seat, channel: bind.channel, reverse: 0, to, member: bind.to, released: None };
        let index = self.bindings.insert(binding).index;
        self.camp.seats.get_mut(seat)?.bindings.push(index);
        self.charge(cost::BINDING);
        self.stats.bindings += 1;
        self.channels.insert(key, Target::Member(index));
        self.connect(index);
        if self.camp.open.get(room).is_some_and(|room| room.large) {
            self.watch(seat, other);
        }
        None
    }

    fn no_room_for_binding(&mut self, now: Time, seat: u32) -> Option<(u16, &'static str)> {
        let most = self.config.limits.bindings;
        if self.camp.seats.get(seat)?.bindings.len() >= most {
            for binding in self.camp.seats.get(seat)?.bindings.clone() {
                let released = self.bindings.get(binding).and_then(|binding| binding.released);
                if released.is_some_and(|released| now.since(released) >= QUARANTINE) {
                    self.drop_binding(binding);
                }
            }
        }
        if self.camp.seats.get(seat)?.bindings.len() >= most {
            self.stats.limited_bindings += 1;
            return Some((486, "Too Many Bindings"));
        }
        if !self.fits(cost::BINDING) {
            self.stats.limited_memory += 1;
            return Some((508, "Server Full"));
        }
        None
    }

    /// Forgets a binding.
    fn drop_binding(&mut self, index: u32) {
        self.release(index);
        let Some(binding) = self.bindings.remove(index) else { return };
        self.refund(cost::BINDING);
        let Some(seat) = self.camp.seats.get_mut(binding.seat) else { return };
        seat.bindings.retain(|other| *other != index);
        if let Some(client) = seat.client
            && self.channels.get(&(client, binding.channel)) == Some(&Target::Member(index))
        {
            self.channels.remove(&(client, binding.channel));
        }
    }

    /// Forgets all bindings of a seat that ends.
    pub(crate) fn release_bindings(&mut self, seat: u32) {
        for binding in self.camp.seats.get_mut(seat).map(|seat| seat.bindings.clone()).unwrap_or_default() {
            self.drop_binding(binding);
        }
    }

    /// A seat's channels no longer stand at this client.
    pub(crate) fn forget_channels(&mut self, seat: u32, from: Option<u32>) {
        let (Some(from), Some(sitting)) = (from, self.camp.seats.get(seat)) else { return };
        for index in &sitting.bindings {
            if let Some(binding) = self.bindings.get(*index)
                && self.channels.get(&(from, binding.channel)) == Some(&Target::Member(*index))
            {
                self.channels.remove(&(from, binding.channel));
            }
        }
    }

    /// A seat's channels move with it. Where a number is taken at the new place, the binding ends.
    pub(crate) fn move_bindings(&mut self, seat: u32, from: Option<u32>, to: u32) {
        self.forget_channels(seat, from);
        for index in self.camp.seats.get(seat).map(|seat| seat.bindings.clone()).unwrap_or_default() {
            let Some(channel) = self.bindings.get(index).map(|binding| binding.channel) else { continue };
            match self.channels.entry((to, channel)) {
                Entry::Vacant(place) => {
                    place.insert(Target::Member(index));
                }
                Entry::Occupied(_) => {
                    self.stats.bindings_lost += 1;
                    self.drop_binding(index);
                }
            }
        }
    }

    /// A room became large: members stay interested in those whom they have bound.
    pub(crate) fn watch_the_bound(&mut self, room: u32) {
        for seat in self.camp.open.get(room).map(|room| room.seats.clone()).unwrap_or_default() {
            for binding in self.camp.seats.get(seat).map(|seat| seat.bindings.clone()).unwrap_or_default() {
                let bound = self.bindings.get(binding).and_then(|binding| self.camp.member(room, binding.member));
                if let Some(bound) = bound {
                    self.watch(seat, bound);
                }
            }
        }
    }
}

/// A ChannelData frame, padded where it goes out on a stream (RFC 8656 §12.5).
pub(crate) fn channel_data(via: &Via, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + payload.len() + 3);
    frame.extend_from_slice(&channel.to_be_bytes());
    frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(payload);
    if matches!(via, Via::Stream { .. }) {
        frame.resize(frame.len().next_multiple_of(4), 0);
    }
    frame
}

/// Whether a number may be an allocation's channel: RFC 8656 §12 has 0x4000–0x4FFF, but clients of RFC 5766 (coturn's
/// among them) draw from 0x4000–0x7FFF, and nothing else on a server's port begins so.
pub(crate) fn is_channel(number: u16) -> bool {
    (0x4000..=0x7FFF).contains(&number)
}
