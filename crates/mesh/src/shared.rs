//! What all links of a peer share: the way out, our own addresses, pacing, fresh sockets, counters.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use campfire_datapath::command::Command;
use campfire_fire::Fire;
use campfire_protocol::carrier::{ServerSlot, SocketId};
use campfire_protocol::control::Control;
use campfire_protocol::identity::PublicKey;
use campfire_protocol::time::Time;
use campfire_tunnel::LinkId;
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore as _;

use crate::candidates::Candidates;
use crate::io::{Notice, Output};
use crate::paths::Pair;
use crate::relays::Doubts;

/// Between two candidate probes, whatever link they are for.
const PROBE_SPACING: Duration = Duration::from_millis(5);
/// Probes waiting for their turn at most: beyond that the next round has to do.
const MAX_WAITING_PROBES: usize = 2_048;
/// Between the beginnings of two tries that we ask for …
const START_SPACING: Duration = Duration::from_millis(20);
/// … and how far those that we are asked for may run ahead of that.
const START_BURST: Duration = Duration::from_millis(320);
/// A server is asked whether it still knows us at most this often.
const DOUBT_AGAIN: Duration = Duration::from_secs(5);
/// Fresh sockets open at a time.
const MAX_FRESH: usize = 4;
/// How long a fresh socket serves links that try again.
const FRESH: Duration = Duration::from_secs(10);
/// How long to wait for the servers to say how they see it.
const MAPPING: Duration = Duration::from_millis(1_500);
/// Fresh sockets that nobody uses are closed after this.
const UNUSED: Duration = Duration::from_mins(1);

/// Counts; they only grow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    pub(crate) fn count(&mut self, what: &'static str) {
        let counter = self.0.entry(what).or_default();
        *counter = counter.saturating_add(1);
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, value)| (*name, *value))
    }
}

/// Whether a fresh socket can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// This one.
    Ready(SocketId),
    /// Ask again then.
    Wait(Time),
    /// No: the first socket has to do.
    No,
}

/// What speaks for or against direct paths on our side.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// Configuration forbids them.
    pub(crate) forbidden: bool,
    /// Servers see no UDP from us.
    pub(crate) udp_blocked: bool,
    /// Our mapped ports differ between servers.
    pub(crate) symmetric: bool,
    /// A server told us an outside address.
    pub(crate) reflexive: bool,
}

/// Shared by all links.
pub(crate) struct Shared {
    /// Our WireGuard key.
    pub(crate) wireguard: [u8; 32],
    /// Who we are.
    pub(crate) own: PublicKey,
    /// Direct paths are forbidden by configuration.
    pub(crate) forbidden: bool,
    /// Links are made to everybody and kept; else on demand, and closed after idling.
    pub(crate) eager: bool,
    /// When an idle link is closed.
    pub(crate) idle_close: Duration,
    /// Our addresses.
    pub(crate) candidates: Candidates,
    /// Counts up with every change of what we tell of ourselves.
    pub(crate) generation: u32,
    /// What is known against servers.
    pub(crate) doubts: Doubts,
    /// Large packets have come through from here since our network last changed.
    pub(crate) wide: bool,
    /// When servers were last asked whether they still know us.
    doubted: HashMap<ServerSlot, Time>,
    /// Links that want to start a handshake.
    pub(crate) initiations: VecDeque<LinkId>,
    /// Counts.
    pub(crate) counters: Counters,
    /// The table has to be made anew.
    pub(crate) dirty: bool,
    /// The way out.
    pub(crate) out: VecDeque<Output>,
    pub(crate) rng: ChaCha8Rng,
    probes: VecDeque<(LinkId, Pair)>,
    next_probe: Time,
    next_start: Time,
    fresh: Vec<(SocketId, Time)>,
    next_socket: u16,
}

/// What a link's methods get: the moment, the fire and what is shared.
pub(crate) struct Cx<'a> {
    pub(crate) now: Time,
    pub(crate) fire: &'a mut Fire,
    pub(crate) shared: &'a mut Shared,
}

impl Cx<'_> {
    /// What we tell a peer of ourselves, when `v4` is the IPv4 socket of this try.
    pub(crate) fn own_candidates(&self, v4: SocketId) -> Control {
        let Standing { forbidden, udp_blocked, symmetric, .. } = self.standing();
        let addresses = if forbidden { Vec::new() } else { self.shared.candidates.list(v4) };
        Control::Candidates { addresses, symmetric, udp_blocked, forbidden, generation: self.shared.generation }
    }

    /// What speaks for or against direct paths on our side.
    pub(crate) fn standing(&self) -> Standing {
        self.shared.standing(self.fire)
    }

    /// A ping through this server was lost: does it still know us?
    pub(crate) fn doubt(&mut self, server: ServerSlot) {
        let asked = self.shared.doubted.get(&server);
        if asked.is_none_or(|at| self.now.since(*at) >= DOUBT_AGAIN) {
            self.shared.doubted.insert(server, self.now);
            self.fire.doubt(self.now, server);
        }
    }

    /// A fresh IPv4 socket for another try.
    pub(crate) fn fresh_socket(&mut self) -> Fresh {
        let shared = &mut *self.shared;
        if let Some((socket, opened)) = shared.fresh.last().copied().filter(|(_, opened)| self.now.since(*opened) < FRESH) {
            let waited = self.now.since(opened) >= MAPPING;
            return if shared.candidates.is_mapped(socket) || (waited && shared.candidates.is_open(socket)) {
                Fresh::Ready(socket)
            } else if waited {
                Fresh::No
            } else {
                Fresh::Wait(self.now + Duration::from_millis(50))
            };
        }
        if shared.fresh.len() >= MAX_FRESH || !shared.candidates.is_open(SocketId(0)) || shared.next_socket == u16::MAX {
            return Fresh::No;
        }
        let socket = SocketId(shared.next_socket);
        shared.next_socket += 1;
        shared.fresh.push((socket, self.now));
        shared.data(Command::OpenSocket { socket, like: SocketId(0) });
        Fresh::Wait(self.now + Duration::from_millis(50))
    }
}

impl Shared {
    pub(crate) fn new(own: PublicKey, candidates: Candidates, rng: ChaCha8Rng) -> Self {
        Self {
            wireguard: own.x25519(),
            own,
            forbidden: false,
            eager: true,
            idle_close: Duration::from_mins(5),
            candidates,
            generation: 1,
            doubts: Doubts::default(),
            wide: false,
            doubted: HashMap::new(),
            initiations: VecDeque::new(),
            counters: Counters::default(),
            dirty: true,
            out: VecDeque::new(),
            rng,
            probes: VecDeque::new(),
            next_probe: Time::default(),
            next_start: Time::default(),
            fresh: Vec::new(),
            next_socket: 2,
        }
    }

    /// What speaks for or against direct paths on our side.
    pub(crate) fn standing(&self, fire: &Fire) -> Standing {
        Standing {
            forbidden: self.forbidden,
            udp_blocked: fire.udp_blocked(),
            symmetric: fire.symmetric() || self.candidates.symmetric(),
            reflexive: self.candidates.reflexive(),
        }
    }

    /// A random duration below `limit`.
    pub(crate) fn jitter(&mut self, limit: Duration) -> Duration {
        limit * (self.rng.next_u32() >> 16) / (1 << 16)
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.out.push_back(Output::Notice(notice));
    }

    /// Asks the data plane for something.
    pub(crate) fn data(&mut self, command: Command) {
        self.out.push_back(Output::Data(command));
    }

    /// A try that we ask for may begin now; else when.
    pub(crate) fn start(&mut self, now: Time) -> Result<(), Time> {
        if self.next_start > now {
            return Err(self.next_start);
        }
        self.next_start = now + START_SPACING;
        Ok(())
    }

    /// Whether a try that we are asked for may begin now: some may at once, but not a whole room's.
    pub(crate) fn start_asked(&mut self, now: Time) -> bool {
        let next = self.next_start.max(now);
        if next.since(now) > START_BURST {
            return false;
        }
        self.next_start = next + START_SPACING;
        true
    }

    /// Puts a candidate probe into the queue.
    pub(crate) fn queue_probe(&mut self, link: LinkId, pair: Pair) {
        if self.probes.len() < MAX_WAITING_PROBES {
            self.probes.push_back((link, pair));
        } else {
            self.counters.count("probes_dropped");
        }
    }

    /// A candidate probe goes out now, outside the queue: the others wait for it.
    pub(crate) fn spend_probe(&mut self, now: Time) {
        self.next_probe = self.next_probe.max(now) + PROBE_SPACING;
    }

    /// When the next probe in the queue is due.
    pub(crate) fn next_probe(&self) -> Option<Time> {
        (!self.probes.is_empty()).then_some(self.next_probe)
    }

    /// The probe that is due.
    pub(crate) fn take_probe(&mut self, now: Time) -> Option<(LinkId, Pair)> {
        if self.next_probe > now {
            return None;
        }
        let probe = self.probes.pop_front()?;
        self.spend_probe(now);
        Some(probe)
    }

    /// Fresh sockets that have had their time: the caller closes those that no link uses.
    pub(crate) fn old_sockets(&self, now: Time) -> Vec<SocketId> {
        self.fresh.iter().filter(|(_, opened)| now.since(*opened) > UNUSED).map(|(socket, _)| *socket).collect()
    }

    /// Whether fresh sockets are open.
    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// A fresh socket is gone.
    pub(crate) fn forget_socket(&mut self, socket: SocketId) {
        self.fresh.retain(|(open, _)| *open != socket);
    }
}

#[cfg(test)]
mod tests {
    use campfire_protocol::identity::Identity;
    use rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn probes_are_spaced_and_bounded() {
        let mut shared = shared();
        for port in 0..10_000 {
            shared.queue_probe(LinkId(0), Pair { socket: SocketId(0), remote: ([1, 2, 3, 4], port).into() });
        }
        let mut sent = 0;
        for ms in 0..100 {
            while shared.take_probe(Time::from_micros(ms * 1_000)).is_some() {
                sent += 1;
            }
        }
        assert_eq!(sent, 20);
        assert_eq!(shared.probes.len(), MAX_WAITING_PROBES - 20);
    }

    #[test]
    fn tries_of_a_whole_room_do_not_begin_at_once() {
        let mut shared = shared();
        let begun = (0..100).filter(|_| shared.start_asked(Time::default())).count();
        assert!((10..=20).contains(&begun), "{begun}");
        assert!(shared.start(Time::default()).is_err());
    }

    fn shared() -> Shared {
        Shared::new(Identity::from_seed(&[1; 32]).public(), Candidates::default(), ChaCha8Rng::from_seed([0; 32]))
    }
}
