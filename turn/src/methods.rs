//! The standard methods: Binding (RFC 8489), and those of TURN (RFC 8656), with long-term credentials.

use std::net::SocketAddr;
use std::time::Duration;

use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method};
use campfire_protocol::time::Time;

use crate::allocation::{Allocation, Missing, Relay, SWEEP, Waiting};
use crate::auth::{self, Key, NonceState, PASSWORD_ALGORITHMS, Refusal, Standard};
use crate::channel::{Target, is_channel};
use crate::io::{Output, RelayId, Via};
use crate::timer::Timer;
use crate::{Request, Server, cost, fingerprint};

/// REQUESTED-TRANSPORT: UDP (RFC 8656 §18.7).
const UDP: u8 = 17;
/// Lifetime of an allocation if none is asked for, and the shortest (RFC 8656 §3.2).
const DEFAULT_LIFETIME: Duration = Duration::from_mins(10);
/// Addresses in one CreatePermission.
const MAX_PEERS: usize = 16;

/// Code and reason of an error response.
type Error = (u16, &'static str);
const BAD_REQUEST: Error = (400, "Bad Request");
const MISMATCH: Error = (437, "Allocation Mismatch");
const FORBIDDEN: Error = (403, "Forbidden");
const FAMILY_MISMATCH: Error = (443, "Peer Address Family Mismatch");
const UNSUPPORTED_FAMILY: Error = (440, "Address Family not Supported");
const NO_CAPACITY: Error = (508, "Insufficient Capacity");

/// What an Allocate asks for.
struct Wanted {
    /// First family, and whether the other one too.
    ipv6: bool,
    additional: bool,
    even: bool,
    lifetime: Duration,
}

impl Server {
    pub(crate) fn standard_method(&mut self, request: &Request<'_>, method: Method) {
        *match method {
            Method::ALLOCATE => &mut self.stats.requests_allocate,
            Method::REFRESH => &mut self.stats.requests_refresh,
            Method::CREATE_PERMISSION => &mut self.stats.requests_create_permission,
            _ => &mut self.stats.requests_channel_bind,
        } += 1;
        let Some(standard) = self.authenticate(request) else { return };
        let mut unknown = request.message.unknown_required(&[Attribute::PASSWORD_ALGORITHM]);
        // Fragmentation of what is relayed is left to the kernel; nobody may rely on it (RFC 8656 §7.2).
        unknown.extend(request.message.get(Attribute::DONT_FRAGMENT).map(|_| Attribute::DONT_FRAGMENT.0));
        if !unknown.is_empty() {
            return self.unknown_attributes(request, Some(&standard.key), &unknown);
        }
        let outcome = match method {
            Method::ALLOCATE => {
                return match self.allocate(request, standard) {
                    Ok(()) => {}
                    Err((key, error)) => self.error(request, Some(&key), error),
                };
            }
            Method::REFRESH => self.refresh_allocation(request, &standard),
            Method::CREATE_PERMISSION => self.create_permission(request, &standard),
            _ => self.channel_bind(request, &standard),
        };
        match outcome {
            Ok(builder) => {
                let bytes = self.signed(builder, &standard.key);
                self.answer(request, bytes);
            }
            Err(error) => self.error(request, Some(&standard.key), error),
        }
    }

    /// Binding (RFC 8489 §12): anybody may ask, so the answer is small.
    pub(crate) fn binding(&mut self, request: &Request<'_>) {
        self.stats.requests_binding += 1;
        if !self.may_answer(request) {
            return;
        }
        let unknown = request.message.unknown_required(&[]);
        if !unknown.is_empty() {
            return self.unknown_attributes(request, None, &unknown);
        }
        let success = Builder::answer(Class::Success, request.message).xor_address(Attribute::XOR_MAPPED_ADDRESS, request.via.remote());
        self.answer(request, success.finish());
    }

    /// Long-term credentials (RFC 8489 §9.2.4). Answers what is not to be believed.
    fn authenticate(&mut self, request: &Request<'_>) -> Option<Standard> {
        let standard = match auth::standard(&self.secrets, &self.config.realm, request.message) {
            Ok(standard) => standard,
            Err(refusal) => {
                let code = match refusal {
                    Refusal::Absent => {
                        self.stats.refused_absent += 1;
                        401
                    }
                    Refusal::Malformed => 400,
                    Refusal::Campfire => {
                        self.stats.refused_campfire += 1;
                        403
                    }
                    Refusal::User | Refusal::Integrity => {
                        self.stats.refused_wrong += 1;
                        401
                    }
                };
                self.challenge(request, code);
                return None;
            }
        };
        let nonce = request.message.text(Attribute::NONCE).ok().flatten().unwrap_or_default();
        let NonceState::Fresh { issued } = self.nonces.check(request.now, self.config.nonce_lifetime, &request.via, nonce) else {
            self.stats.refused_stale += 1;
            self.challenge(request, 438);
            return None;
        };
        // What was allocated in time goes on for as long as it is refreshed: a call does not end with the credential that began it, and clients
        // cannot change theirs under way (RFC 8656 §5).
        let goes_on = |server: &Self| server.allocation_at(&request.via).is_some_and(|at| server.turn.belongs_to(at, &standard.user));
        let expired = standard.expiry.is_some_and(|expiry| !auth::unexpired(expiry, request.wall, request.now.since(issued)));
        if expired && !goes_on(self) {
            self.stats.refused_expired += 1;
            self.challenge(request, 401);
            return None;
        }
        Some(standard)
    }

    /// An error to somebody who has proven nothing; 401 and 438 say how to.
    fn challenge(&mut self, request: &Request<'_>, code: u16) {
        if !self.may_answer(request) {
            return;
        }
        self.stats.error(code);
        let reason = match code {
            401 => "Unauthorized",
            403 => "Campfire Credentials",
            438 => "Stale Nonce",
            _ => "Bad Request",
        };
        let mut builder = Builder::answer(Class::Error, request.message).error_code(code, reason);
        if matches!(code, 401 | 438) {
            builder = builder
                .attribute(Attribute::NONCE, self.nonces.issue(request.now, &request.via).as_bytes())
                .attribute(Attribute::REALM, self.config.realm.as_bytes())
                .attribute(Attribute::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS);
        }
        self.answer(request, builder.finish());
    }

    /// 420 (RFC 8489 §6.3.1).
    pub(crate) fn unknown_attributes(&mut self, request: &Request<'_>, key: Option<&Key>, unknown: &[u16]) {
        self.stats.error(420);
        let list: Vec<u8> = unknown.iter().flat_map(|attribute| attribute.to_be_bytes()).collect();
        let builder = Builder::answer(Class::Error, request.message)
            .error_code(420, "Unknown Attribute")
            .attribute(Attribute::UNKNOWN_ATTRIBUTES, &list);
        let bytes = match key {
            Some(key) => self.signed(builder, key),
            None => builder.finish(),
        };
        self.answer(request, bytes);
    }

    pub(crate) fn error(&mut self, request: &Request<'_>, key: Option<&Key>, (code, reason): Error) {
        self.stats.error(code);
        let builder = Builder::answer(Class::Error, request.message).error_code(code, reason);
        let bytes = match key {
            Some(key) => self.signed(builder, key),
            None => builder.finish(),
        };
        self.answer(request, bytes);
    }

    fn signed(&self, builder: Builder, key: &Key) -> Vec<u8> {
        key.finish(builder.optional(Attribute::SOFTWARE, self.config.software.as_deref().map(str::as_bytes)))
    }

    /// Allocate (RFC 8656 §7.2). The answer comes when the relay sockets are open.
    fn allocate(&mut self, request: &Request<'_>, standard: Standard) -> Result<(), (Key, Error)> {
        let Standard { user, source, key, .. } = standard;
        if let Some(existing) = self.allocation_at(&request.via) {
            let Some(allocation) = self.turn.slab.get(existing) else { return Err((key, MISMATCH)) };
            if allocation.transaction != request.message.transaction() || !self.turn.belongs_to(existing, &user) {
                return Err((key, MISMATCH));
            }
            if allocation.waiting.is_none() {
                let bytes = allocation.answer.to_vec();
                self.outputs.push_back(Output::Send { via: request.via, bytes });
            }
            return Ok(());
        }
        let wanted = match self.wanted(request.message) {
            Ok(wanted) => wanted,
            Err(error) => return Err((key, error)),
        };
        let limits = &self.config.limits;
        let (limit, error) = if self.draining {
            (&mut self.stats.limited_draining, NO_CAPACITY)
        } else if self.turn.held_by(&user) >= limits.allocations_per_user {
            (&mut self.stats.limited_allocations_per_user, (486, "Allocation Quota Reached"))
        } else if self.stats.allocations >= limits.allocations as u64 {
            (&mut self.stats.limited_allocations, NO_CAPACITY)
        } else if self.stats.memory + cost::ALLOCATION as u64 > limits.memory as u64 {
            (&mut self.stats.limited_memory, NO_CAPACITY)
        } else {
            self.begin_allocation(request, &wanted, user, source, key);
            return Ok(());
        };
        *limit += 1;
        Err((key, error))
    }

    /// What an Allocate asks for, if it can be had.
    fn wanted(&self, message: &Message) -> Result<Wanted, Error> {
        if !self.config.allocations {
            return Err(FORBIDDEN);
        }
        match message.get(Attribute::REQUESTED_TRANSPORT) {
            Some([UDP, _, _, _]) => {}
            Some([_, _, _, _]) => return Err((442, "Unsupported Transport Protocol")),
            _ => return Err(BAD_REQUEST),
        }
        let family = |attribute| match message.get(attribute) {
            None => Ok(None),
            Some([family, _, _, _]) => Ok(Some(*family)),
            Some(_) => Err(BAD_REQUEST),
        };
        let (requested, additional) = (family(Attribute::REQUESTED_ADDRESS_FAMILY)?, family(Attribute::ADDITIONAL_ADDRESS_FAMILY)?);
        let even = match message.get(Attribute::EVEN_PORT) {
            None => None,
            Some([flags]) => Some(flags & 0x80 != 0),
            Some(_) => return Err(BAD_REQUEST),
        };
        if let Some(token) = message.get(Attribute::RESERVATION_TOKEN) {
            // No port is ever reserved, so there is no token of ours to redeem.
            let alone = even.is_none() && requested.is_none() && additional.is_none() && token.len() == 8;
            return Err(if alone { NO_CAPACITY } else { BAD_REQUEST });
        }
        if requested.is_some() && additional.is_some() || additional.is_some_and(|family| family != 2) {
            return Err(BAD_REQUEST);
        }
        let ipv6 = match requested {
            None | Some(1) => false,
            Some(2) => true,
            Some(_) => return Err(UNSUPPORTED_FAMILY),
        };
        if even == Some(true) {
            return Err(if additional.is_some() { BAD_REQUEST } else { NO_CAPACITY });
        }
        let had = if ipv6 { self.config.relay_ipv6 } else { self.config.relay_ipv4 };
        if !had && additional.is_none() || !self.config.relay_ipv4 && !self.config.relay_ipv6 {
            return Err(UNSUPPORTED_FAMILY);
        }
        let lifetime = self.lifetime(message)?.unwrap_or(DEFAULT_LIFETIME);
        Ok(Wanted { ipv6, additional: additional.is_some(), even: even.is_some(), lifetime: lifetime.max(self.shortest()) })
    }

    /// LIFETIME within the bounds, zero excepted (RFC 8656 §7.2).
    fn lifetime(&self, message: &Message) -> Result<Option<Duration>, Error> {
        let Some(seconds) = message.u32(Attribute::LIFETIME).map_err(|_| BAD_REQUEST)? else { return Ok(None) };
        if seconds == 0 {
            return Ok(Some(Duration::ZERO));
        }
        let asked = Duration::from_secs(u64::from(seconds));
        Ok(Some(asked.min(self.config.limits.allocation_lifetime).max(self.shortest())))
    }

    fn shortest(&self) -> Duration {
        DEFAULT_LIFETIME.min(self.config.limits.allocation_lifetime)
    }

    fn begin_allocation(&mut self, request: &Request<'_>, wanted: &Wanted, user: auth::User, source: auth::Source, key: Key) {
        let families = if wanted.additional { vec![false, true] } else { vec![wanted.ipv6] };
        let (mut relays, mut missing) = ([None, None], None);
        let client = self.clients.intern(request.via);
        let mut opened = Vec::new();
        for ipv6 in families {
            if if ipv6 { self.config.relay_ipv6 } else { self.config.relay_ipv4 } {
                let id = self.turn.new_relay();
                if let Some(slot) = relays.get_mut(usize::from(ipv6)) {
                    *slot = Some(Relay { id, address: None });
                }
                opened.push(id);
                self.outputs.push_back(Output::OpenRelay { relay: id, ipv6, even: wanted.even });
            } else {
                missing = Some(Missing { ipv6, code: 440 });
            }
        }
        let user = self.turn.enlist(user);
        let expires = request.now + wanted.lifetime;
        let waiting = Waiting { key, lifetime: wanted.lifetime, missing, fingerprint: request.fingerprint };
        let reference = self.turn.slab.insert(Allocation {
            client,
            user,
            source,
            expires,
            transaction: request.message.transaction(),
            answer: Box::default(),
            waiting: Some(Box::new(waiting)),
            relays,
            permissions: std::collections::BTreeMap::new(),
            channels: Vec::new(),
        });
        for relay in opened {
            self.turn.relays.insert(relay, reference.index);
        }
        if let Some(client) = self.clients.get_mut(client) {
            client.allocation = Some(reference.index);
            client.prove();
        }
        self.stats.allocations += 1;
        self.charge(cost::ALLOCATION);
        self.timers.push(expires.min(request.now + SWEEP), Timer::Allocation(reference));
    }

    /// The shell opened a relay socket, or (`None`) could not.
    pub(crate) fn relay_answered(&mut self, now: Time, relay: RelayId, address: Option<SocketAddr>) {
        let Some(index) = self.turn.relays.get(&relay).copied() else {
            if address.is_some() {
                self.outputs.push_back(Output::CloseRelay { relay });
            }
            return;
        };
        let Some(allocation) = self.turn.slab.get_mut(index) else { return };
        for (ipv6, slot) in [false, true].into_iter().zip(&mut allocation.relays) {
            let Some(asked) = slot.as_mut().filter(|asked| asked.id == relay) else { continue };
            if address.is_some() {
                asked.address = address;
            } else {
                self.turn.relays.remove(&relay);
                self.stats.limited_ports += 1;
                *slot = None;
                if let Some(waiting) = &mut allocation.waiting {
                    waiting.missing = Some(Missing { ipv6, code: 508 });
                }
            }
        }
        if allocation.relays.iter().flatten().all(|relay| relay.address.is_some())
            && let Some(waiting) = allocation.waiting.take()
        {
            self.finish_allocation(now, index, &waiting);
        }
    }

    /// All relay sockets have been answered: so is the client.
    fn finish_allocation(&mut self, now: Time, index: u32, waiting: &Waiting) {
        let Some(allocation) = self.turn.slab.get_mut(index) else { return };
        let Some(via) = self.clients.get(allocation.client).map(|client| client.via) else { return };
        let relayed: Vec<_> = allocation.relays.iter().flatten().filter_map(|relay| relay.address).collect();
        allocation.expires = now + waiting.lifetime;
        let transaction = allocation.transaction;
        let builder = |class| Builder::new(class, Method::ALLOCATE, transaction);
        let (failed, mut answer) = if relayed.is_empty() {
            (true, builder(Class::Error).error_code(NO_CAPACITY.0, NO_CAPACITY.1))
        } else {
            let success = relayed
                .iter()
                .fold(builder(Class::Success), |builder, address| builder.xor_address(Attribute::XOR_RELAYED_ADDRESS, *address));
            let success = success.u32(Attribute::LIFETIME, waiting.lifetime.as_secs() as u32);
            (false, success.xor_address(Attribute::XOR_MAPPED_ADDRESS, via.remote()))
        };
        if let Some(Missing { ipv6, code }) = waiting.missing.filter(|_| !failed) {
            let family = if ipv6 { 2 } else { 1 };
            answer = answer.attribute(Attribute::ADDRESS_ERROR_CODE, &[family, 0, (code / 100) as u8, (code % 100) as u8]);
        }
        let mut bytes = self.signed(answer, &waiting.key);
        if waiting.fingerprint {
            fingerprint::append(&mut bytes);
        }
        if failed {
            self.stats.error(NO_CAPACITY.0);
            self.end_allocation(index);
        } else if let Some(allocation) = self.turn.slab.get_mut(index) {
            allocation.answer = bytes.clone().into();
        }
        self.outputs.push_back(Output::Send { via, bytes });
    }

    /// The allocation that a request is about, if it is this user's and ready.
    fn owned(&self, request: &Request<'_>, standard: &Standard) -> Result<u32, Error> {
        let index = self.allocation_at(&request.via).ok_or(MISMATCH)?;
        let ready = self.turn.slab.get(index).is_some_and(|allocation| allocation.waiting.is_none() && allocation.expires > request.now);
        if !ready {
            return Err(MISMATCH);
        }
        if self.turn.belongs_to(index, &standard.user) { Ok(index) } else { Err((441, "Wrong Credentials")) }
    }

    /// Refresh (RFC 8656 §8.2).
    fn refresh_allocation(&mut self, request: &Request<'_>, standard: &Standard) -> Result<Builder, Error> {
        let index = self.owned(request, standard)?;
        let family = match request.message.get(Attribute::REQUESTED_ADDRESS_FAMILY) {
            None => None,
            Some([1, _, _, _]) => Some(false),
            Some([2, _, _, _]) => Some(true),
            Some(_) => return Err(BAD_REQUEST),
        };
        let lifetime = self.lifetime(request.message)?.unwrap_or(self.shortest());
        let Some(allocation) = self.turn.slab.get_mut(index) else { return Err(MISMATCH) };
        if family.is_some_and(|ipv6| allocation.relay(ipv6).is_none()) {
            return Err(FAMILY_MISMATCH);
        }
        if !lifetime.is_zero() {
            allocation.expires = request.now + lifetime;
        } else if let Some(ipv6) = family {
            self.end_family(index, ipv6);
        } else {
            self.end_allocation(index);
        }
        Ok(Builder::answer(Class::Success, request.message).u32(Attribute::LIFETIME, lifetime.as_secs() as u32))
    }

    /// Whether this may be a peer of the allocation.
    fn check_peer(&self, index: u32, peer: SocketAddr) -> Result<RelayId, Error> {
        let allocation = self.turn.slab.get(index).ok_or(MISMATCH)?;
        let relay = allocation.relay(peer.is_ipv6()).ok_or(FAMILY_MISMATCH)?.id;
        if self.config.peers.permits(peer.ip()) { Ok(relay) } else { Err(FORBIDDEN) }
    }

    /// CreatePermission (RFC 8656 §10.2): all of them, or none.
    fn create_permission(&mut self, request: &Request<'_>, standard: &Standard) -> Result<Builder, Error> {
        let index = self.owned(request, standard)?;
        let peers = request.message.xor_addresses(Attribute::XOR_PEER_ADDRESS).map_err(|_| BAD_REQUEST)?;
        if peers.is_empty() || peers.len() > MAX_PEERS {
            return Err(BAD_REQUEST);
        }
        for peer in &peers {
            self.check_peer(index, *peer)?;
        }
        for peer in peers {
            if !self.permit(request.now, index, peer.ip()) {
                self.stats.limited_permissions += 1;
                return Err(NO_CAPACITY);
            }
        }
        Ok(Builder::answer(Class::Success, request.message))
    }

    /// ChannelBind (RFC 8656 §12.2).
    fn channel_bind(&mut self, request: &Request<'_>, standard: &Standard) -> Result<Builder, Error> {
        let now = request.now;
        let index = self.owned(request, standard)?;
        let number = match request.message.get(Attribute::CHANNEL_NUMBER) {
            Some([high, low, _, _]) => u16::from_be_bytes([*high, *low]),
            _ => return Err(BAD_REQUEST),
        };
        let peer = request.message.xor_address(Attribute::XOR_PEER_ADDRESS).ok().flatten().ok_or(BAD_REQUEST)?;
        if !is_channel(number) || peer.port() == 0 {
            return Err(BAD_REQUEST);
        }
        let relay = self.check_peer(index, peer)?;
        let client = self.turn.slab.get(index).ok_or(MISMATCH)?.client;
        // The peer must not be on another channel, nor the channel another's (or a member's).
        if let Some(other) = self.turn.by_peer.get(&(relay, peer)).copied()
            && self.turn.channels.get(other).is_some_and(|channel| channel.channel != number)
        {
            if self.turn.channels.get(other).is_some_and(|channel| channel.expires > now) {
                return Err(BAD_REQUEST);
            }
            // It lapsed: the peer may have another number, its old one rests.
            self.turn.by_peer.remove(&(relay, peer));
        }
        let held = match self.channels.get(&(client, number)).copied() {
            Some(Target::Member(_)) => return Err(BAD_REQUEST),
            Some(Target::Peer(held)) => {
                let same = self.turn.channels.get(held).is_some_and(|channel| channel.peer == peer && channel.relay == relay);
                if !same && !self.peer_channel_lapsed(now, held) {
                    return Err(BAD_REQUEST);
                }
                if !same {
                    self.drop_peer_channel(held);
                }
                same.then_some(held)
            }
            None => None,
        };
        let channels = self.turn.slab.get(index).map_or(0, |allocation| allocation.channels.len());
        if held.is_none() && (channels >= self.config.limits.channels || !self.fits(cost::CHANNEL)) {
            self.stats.limited_channels += 1;
            return Err(NO_CAPACITY);
        }
        if !self.permit(now, index, peer.ip()) {
            self.stats.limited_permissions += 1;
            return Err(NO_CAPACITY);
        }
        match held {
            Some(held) => {
                if let Some(channel) = self.turn.channels.get_mut(held) {
                    channel.expires = now + crate::allocation::CHANNEL;
                    channel.permitted = now + crate::allocation::PERMISSION;
                }
                self.turn.by_peer.insert((relay, peer), held);
            }
            None => self.open_peer_channel(now, index, relay, number, peer),
        }
        Ok(Builder::answer(Class::Success, request.message))
    }

    /// Send indication (RFC 8656 §11.2).
    pub(crate) fn send_indication(&mut self, now: Time, via: &Via, message: &Message) {
        self.stats.requests_send += 1;
        let Some(allocation) = self.allocation_at(via).and_then(|index| self.turn.slab.get(index)) else {
            self.stats.dropped_no_allocation += 1;
            return;
        };
        let peer = message.xor_address(Attribute::XOR_PEER_ADDRESS).ok().flatten();
        let understood = message.unknown_required(&[]).is_empty() && message.get(Attribute::DONT_FRAGMENT).is_none();
        let (Some(peer), Some(data), true) = (peer, message.get(Attribute::DATA), understood) else {
            self.stats.dropped_malformed += 1;
            return;
        };
        let permitted = allocation.permissions.get(&peer.ip()).is_some_and(|until| *until > now) && peer.port() != 0;
        let ready = allocation.waiting.is_none() && allocation.expires > now;
        let Some(relay) = allocation.relay(peer.is_ipv6()).map(|relay| relay.id).filter(|_| permitted && ready) else {
            self.stats.dropped_no_permission += 1;
            return;
        };
        let user = allocation.user;
        if !self.within_bandwidth(now, user, data.len()) {
            return;
        }
        self.stats.frames_to_peer += 1;
        self.stats.bytes_to_peer += data.len() as u64;
        self.outputs.push_back(Output::SendRelay { relay, to: peer, payload: data.to_vec() });
    }

    /// A peer's datagram as a Data indication (RFC 8656 §11.3).
    pub(crate) fn data_indication(&mut self, from: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let transaction = self.transaction();
        Builder::new(Class::Indication, Method::DATA, transaction)
            .xor_address(Attribute::XOR_PEER_ADDRESS, from)
            .attribute(Attribute::DATA, payload)
            .finish()
    }
}
