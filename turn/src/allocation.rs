//! Allocations (RFC 8656): a client's relay addresses, with their permissions and channels.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use campfire_protocol::stun::TransactionId;
use campfire_protocol::time::Time;

use crate::auth::{Key, Source, User};
use crate::channel::{QUARANTINE, Target, channel_data};
use crate::config::Rate;
use crate::io::{Forward, Output, RelayId, Via};
use crate::limit::Bucket;
use crate::table::{Map, Ref, Slab, map};
use crate::timer::Timer;
use crate::{Server, cost};

/// Lifetime of a permission (RFC 8656 §9).
pub(crate) const PERMISSION: Duration = Duration::from_mins(5);
/// Lifetime of a channel (RFC 8656 §12).
pub(crate) const CHANNEL: Duration = Duration::from_mins(10);
/// How often what has lapsed in an allocation is looked for.
pub(crate) const SWEEP: Duration = Duration::from_mins(1);

/// One family's relay address.
pub(crate) struct Relay {
    pub id: RelayId,
    /// `None`: the shell has not opened it yet.
    pub address: Option<SocketAddr>,
}

/// A family that was asked for and cannot be had, with the code that says why.
#[derive(Clone, Copy)]
pub(crate) struct Missing {
    pub ipv6: bool,
    pub code: u16,
}

/// An Allocate that waits for its relay sockets.
pub(crate) struct Waiting {
    pub key: Key,
    pub lifetime: Duration,
    pub missing: Option<Missing>,
    /// With FINGERPRINT.
    pub fingerprint: bool,
}

pub(crate) struct Allocation {
    pub client: u32,
    pub user: u32,
    pub source: Source,
    pub expires: Time,
    /// Of the Allocate request: its retransmission is answered the same.
    pub transaction: TransactionId,
    pub answer: Box<[u8]>,
    pub waiting: Option<Box<Waiting>>,
    pub relays: [Option<Relay>; 2],
    pub permissions: BTreeMap<IpAddr, Time>,
    pub channels: Vec<u32>,
}

impl Allocation {
    /// The relay socket of a peer's family.
    pub fn relay(&self, ipv6: bool) -> Option<&Relay> {
        self.relays.get(usize::from(ipv6))?.as_ref()
    }
}

/// A channel of an allocation.
pub(crate) struct PeerChannel {
    pub allocation: u32,
    pub relay: RelayId,
    pub channel: u16,
    pub peer: SocketAddr,
    pub expires: Time,
    /// Until when its peer's permission holds.
    pub permitted: Time,
}

/// What a user of standard TURN has.
pub(crate) struct Usage {
    user: User,
    pub allocations: usize,
    bandwidth: Bucket,
}

/// All allocations.
pub(crate) struct Allocations {
    pub slab: Slab<Allocation>,
    pub relays: Map<RelayId, u32>,
    pub channels: Slab<PeerChannel>,
    pub by_peer: Map<(RelayId, SocketAddr), u32>,
    pub users: Slab<Usage>,
    by_user: Map<User, u32>,
    next_relay: u64,
}

impl Allocations {
    pub fn new(seed: u64) -> Self {
        Self {
            slab: Slab::new(),
            relays: map(seed),
            channels: Slab::new(),
            by_peer: map(seed.rotate_left(17)),
            users: Slab::new(),
            by_user: map(seed.rotate_left(34)),
            next_relay: 0,
        }
    }

    /// A number for a relay socket.
    pub fn new_relay(&mut self) -> RelayId {
        self.next_relay += 1;
        RelayId(self.next_relay)
    }

    /// Allocations of a user.
    pub fn held_by(&self, user: &User) -> usize {
        self.by_user.get(user).and_then(|user| self.users.get(*user)).map_or(0, |usage| usage.allocations)
    }

    /// Counts one more allocation of a user.
    pub fn enlist(&mut self, user: User) -> u32 {
        let index = if let Some(index) = self.by_user.get(&user) {
            *index
        } else {
            let usage = Usage { user: user.clone(), allocations: 0, bandwidth: Bucket::default() };
            let index = self.users.insert(usage).index;
            self.by_user.insert(user, index);
            index
        };
        if let Some(usage) = self.users.get_mut(index) {
            usage.allocations += 1;
        }
        index
    }

    /// Counts one less.
    fn discharge(&mut self, user: u32) {
        let Some(usage) = self.users.get_mut(user) else { return };
        usage.allocations -= 1;
        if usage.allocations == 0
            && let Some(usage) = self.users.remove(user)
        {
            self.by_user.remove(&usage.user);
        }
    }

    /// Whether this is the user that allocated.
    pub fn belongs_to(&self, allocation: u32, user: &User) -> bool {
        let owner = self.slab.get(allocation).and_then(|allocation| self.users.get(allocation.user));
        owner.is_some_and(|usage| usage.user == *user)
    }
}

impl Server {
    /// The client's allocation, waiting for its sockets or not.
    pub(crate) fn allocation_at(&self, via: &Via) -> Option<u32> {
        self.clients.find(via).and_then(|client| self.clients.get(client)).and_then(|client| client.allocation)
    }

    /// Whether the user may relay so many bytes more.
    pub(crate) fn within_bandwidth(&mut self, now: Time, user: u32, bytes: usize) -> bool {
        let Some(most) = self.config.limits.bandwidth_per_user else { return true };
        let rate = Rate { rate: most, burst: most };
        if self.turn.users.get_mut(user).is_some_and(|usage| usage.bandwidth.take(now, rate, bytes as u32)) {
            return true;
        }
        self.stats.dropped_bandwidth += 1;
        false
    }

    /// Where a channel's frame goes.
    pub(crate) fn forward_to_peer(&mut self, now: Time, channel: u32, length: usize) -> Forward {
        let Some(channel) = self.turn.channels.get(channel).filter(|channel| channel.expires > now) else {
            self.stats.dropped_no_channel += 1;
            return Forward::Drop;
        };
        if channel.permitted <= now {
            self.stats.dropped_no_permission += 1;
            return Forward::Drop;
        }
        let (relay, to, allocation) = (channel.relay, channel.peer, channel.allocation);
        let Some(allocation) = self.turn.slab.get(allocation).filter(|allocation| allocation.expires > now) else {
            self.stats.dropped_no_allocation += 1;
            return Forward::Drop;
        };
        if !self.within_bandwidth(now, allocation.user, length) {
            return Forward::Drop;
        }
        self.stats.frames_to_peer += 1;
        self.stats.bytes_to_peer += length as u64;
        Forward::Peer { relay, to, length }
    }

    /// The channel on which a peer's datagram goes to the client, if it goes on one; counts it then.
    pub(crate) fn channel_of_peer(&mut self, now: Time, relay: RelayId, from: SocketAddr, length: usize) -> Option<(u16, Via)> {
        let channel = self.turn.by_peer.get(&(relay, from)).and_then(|channel| self.turn.channels.get(*channel))?;
        if channel.expires <= now || channel.permitted <= now {
            return None;
        }
        let (number, allocation) = (channel.channel, self.turn.slab.get(channel.allocation)?);
        let (user, client) = (allocation.user, allocation.client);
        if allocation.expires <= now {
            return None;
        }
        let via = self.clients.get(client)?.via;
        // What is over the bandwidth is found so again, counted and dropped on the slow way.
        if self.config.limits.bandwidth_per_user.is_some() {
            let rate = self.config.limits.bandwidth_per_user.map(|most| Rate { rate: most, burst: most })?;
            if !self.turn.users.get_mut(user)?.bandwidth.take(now, rate, length as u32) {
                return None;
            }
        }
        self.stats.frames_to_client += 1;
        self.stats.bytes_to_client += length as u64;
        Some((number, via))
    }

    /// A datagram came to a relay socket.
    pub(crate) fn relay_datagram(&mut self, now: Time, relay: RelayId, from: SocketAddr, payload: &[u8]) {
        if let Some((channel, via)) = self.channel_of_peer(now, relay, from, payload.len()) {
            let bytes = channel_data(&via, channel, payload);
            self.outputs.push_back(Output::Send { via, bytes });
            return;
        }
        let Some(allocation) = self.turn.relays.get(&relay).and_then(|allocation| self.turn.slab.get(*allocation)) else {
            self.stats.dropped_no_allocation += 1;
            return;
        };
        let permitted = allocation.permissions.get(&from.ip()).is_some_and(|until| *until > now);
        if !permitted || allocation.waiting.is_some() || allocation.expires <= now {
            self.stats.dropped_no_permission += 1;
            return;
        }
        let (user, client) = (allocation.user, allocation.client);
        let Some(via) = self.clients.get(client).map(|client| client.via) else { return };
        if !self.within_bandwidth(now, user, payload.len()) {
            return;
        }
        self.stats.frames_to_client += 1;
        self.stats.bytes_to_client += payload.len() as u64;
        let bytes = self.data_indication(from, payload);
        self.outputs.push_back(Output::Send { via, bytes });
    }

    /// Installs or refreshes a permission that was found good. `false`: there are too many.
    pub(crate) fn permit(&mut self, now: Time, allocation: u32, peer: IpAddr) -> bool {
        let most = self.config.limits.permissions;
        let Some(inside) = self.turn.slab.get_mut(allocation) else { return false };
        if !inside.permissions.contains_key(&peer) {
            if inside.permissions.len() >= most {
                let before = inside.permissions.len();
                inside.permissions.retain(|_, until| *until > now);
                let gone = before - inside.permissions.len();
                self.stats.permissions = self.stats.permissions.saturating_sub(gone as u64);
                self.refund(gone * cost::PERMISSION);
            }
            let Some(inside) = self.turn.slab.get(allocation) else { return false };
            if inside.permissions.len() >= most || !self.fits(cost::PERMISSION) {
                return false;
            }
            self.stats.permissions += 1;
            self.charge(cost::PERMISSION);
        }
        let Some(inside) = self.turn.slab.get_mut(allocation) else { return false };
        inside.permissions.insert(peer, now + PERMISSION);
        for channel in &inside.channels {
            if let Some(channel) = self.turn.channels.get_mut(*channel).filter(|channel| channel.peer.ip() == peer) {
                channel.permitted = now + PERMISSION;
            }
        }
        true
    }

    /// Whether a channel's number is free for another peer: it lapsed, and five minutes ago.
    pub(crate) fn peer_channel_lapsed(&self, now: Time, channel: u32) -> bool {
        self.turn.channels.get(channel).is_none_or(|channel| channel.expires + QUARANTINE <= now)
    }

    pub(crate) fn drop_peer_channel(&mut self, index: u32) {
        let Some(channel) = self.turn.channels.remove(index) else { return };
        self.stats.channels = self.stats.channels.saturating_sub(1);
        self.refund(cost::CHANNEL);
        if self.turn.by_peer.get(&(channel.relay, channel.peer)) == Some(&index) {
            self.turn.by_peer.remove(&(channel.relay, channel.peer));
        }
        let Some(allocation) = self.turn.slab.get_mut(channel.allocation) else { return };
        allocation.channels.retain(|other| *other != index);
        self.channels.remove(&(allocation.client, channel.channel));
    }

    /// A new channel that was found good.
    pub(crate) fn open_peer_channel(&mut self, now: Time, allocation: u32, relay: RelayId, number: u16, peer: SocketAddr) {
        let Some(inside) = self.turn.slab.get_mut(allocation) else { return };
        let channel = PeerChannel { allocation, relay, channel: number, peer, expires: now + CHANNEL, permitted: now + PERMISSION };
        let index = self.turn.channels.insert(channel).index;
        inside.channels.push(index);
        self.channels.insert((inside.client, number), Target::Peer(index));
        self.turn.by_peer.insert((relay, peer), index);
        self.stats.channels += 1;
        self.charge(cost::CHANNEL);
    }

    /// Forgets an allocation and closes its sockets.
    pub(crate) fn end_allocation(&mut self, index: u32) {
        let Some(channels) = self.turn.slab.get(index).map(|allocation| allocation.channels.clone()) else { return };
        for channel in channels {
            self.drop_peer_channel(channel);
        }
        let Some(allocation) = self.turn.slab.remove(index) else { return };
        for relay in allocation.relays.iter().flatten() {
            self.turn.relays.remove(&relay.id);
            self.outputs.push_back(Output::CloseRelay { relay: relay.id });
        }
        self.stats.permissions = self.stats.permissions.saturating_sub(allocation.permissions.len() as u64);
        self.stats.allocations = self.stats.allocations.saturating_sub(1);
        self.refund(cost::ALLOCATION + allocation.permissions.len() * cost::PERMISSION);
        self.turn.discharge(allocation.user);
        if let Some(client) = self.clients.get_mut(allocation.client) {
            client.allocation = None;
        }
        self.clients.tidy(allocation.client);
    }

    /// Ends one family's relay address; with the last one the allocation.
    pub(crate) fn end_family(&mut self, index: u32, ipv6: bool) {
        let Some(allocation) = self.turn.slab.get_mut(index) else { return };
        let Some(relay) = allocation.relays.get_mut(usize::from(ipv6)).and_then(Option::take) else { return };
        if allocation.relays.iter().all(Option::is_none) {
            if let Some(slot) = allocation.relays.get_mut(usize::from(ipv6)) {
                *slot = Some(relay);
            }
            return self.end_allocation(index);
        }
        let before = allocation.permissions.len();
        allocation.permissions.retain(|peer, _| peer.is_ipv6() != ipv6);
        let gone = before - allocation.permissions.len();
        let channels = allocation.channels.clone();
        self.stats.permissions = self.stats.permissions.saturating_sub(gone as u64);
        self.refund(gone * cost::PERMISSION);
        for channel in channels {
            if self.turn.channels.get(channel).is_some_and(|channel| channel.relay == relay.id) {
                self.drop_peer_channel(channel);
            }
        }
        self.turn.relays.remove(&relay.id);
        self.outputs.push_back(Output::CloseRelay { relay: relay.id });
    }

    pub(crate) fn allocation_timer(&mut self, now: Time, reference: Ref) {
        let Some(expires) = self.turn.slab.at(reference).map(|allocation| allocation.expires) else { return };
        if expires <= now {
            return self.end_allocation(reference.index);
        }
        self.sweep(now, reference.index);
        self.timers.push(expires.min(now + SWEEP), Timer::Allocation(reference));
    }

    /// Forgets what has lapsed in an allocation.
    fn sweep(&mut self, now: Time, index: u32) {
        let Some(allocation) = self.turn.slab.get_mut(index) else { return };
        let before = allocation.permissions.len();
        allocation.permissions.retain(|_, until| *until > now);
        let gone = before - allocation.permissions.len();
        let channels = allocation.channels.clone();
        self.stats.permissions = self.stats.permissions.saturating_sub(gone as u64);
        self.refund(gone * cost::PERMISSION);
        for channel in channels {
            if self.peer_channel_lapsed(now, channel) {
                self.drop_peer_channel(channel);
            }
        }
    }
}
