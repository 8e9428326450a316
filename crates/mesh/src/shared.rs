//! What all links of a peer share: who we are and where we are reached, what is known against servers, pacing, the way out.

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

use crate::budget::Budget;
use crate::candidates::Candidates;
use crate::config::{MTU, Membership};
use crate::fresh::FreshSockets;
use crate::io::{Notice, Output};
use crate::pacing::Pacing;
use crate::relays::Doubts;
use crate::table::Rules;

/// A server is asked whether it still knows us at most this often.
const DOUBT_AGAIN: Duration = Duration::from_secs(5);

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

/// What of the table has changed since it was last published.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// Who somebody is: addresses, routes, or the session that decides between two claims.
    pub(crate) addressing: bool,
    /// How these are reached.
    pub(crate) ways: Vec<LinkId>,
}

/// Control payload that makes an inner packet of this size, bytes.
pub(crate) fn full_size(mtu: u16) -> u16 {
    mtu.saturating_sub(campfire_tunnel::control::HEADER as u16)
}

/// Shared by all links.
pub(crate) struct Shared {
    /// Our WireGuard key.
    pub(crate) wireguard: [u8; 32],
    /// Who we are.
    pub(crate) own: PublicKey,
    /// What decides about addresses and routes.
    pub(crate) rules: Rules,
    /// Who may come in; `None`: whoever holds the key.
    pub(crate) membership: Option<Membership>,
    /// Until then a peer that has a link may be without an address because its certificate is on its way.
    pub(crate) patient_until: Option<Time>,
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
    /// Control payload that makes an inner packet of the interface's MTU, bytes.
    pub(crate) full_size: u16,
    /// Large packets have come through from here since our network last changed.
    pub(crate) wide: bool,
    /// What is known against servers.
    pub(crate) doubts: Doubts,
    /// When servers were last asked whether they still know us.
    doubted: HashMap<ServerSlot, Time>,
    /// Links that want to start a handshake.
    pub(crate) initiations: VecDeque<LinkId>,
    /// Whose turn it is to probe and to begin.
    pub(crate) pacing: Pacing,
    /// Which candidates may be probed at all.
    pub(crate) budget: Budget,
    /// Sockets for further tries.
    pub(crate) fresh: FreshSockets,
    /// Counts.
    pub(crate) counters: Counters,
    /// What is to be published.
    pub(crate) changed: Changed,
    /// The way out.
    pub(crate) out: VecDeque<Output>,
    pub(crate) rng: ChaCha8Rng,
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
}

impl Shared {
    pub(crate) fn new(own: PublicKey, rules: Rules, candidates: Candidates, rng: ChaCha8Rng) -> Self {
        Self {
            wireguard: own.x25519(),
            own,
            rules,
            membership: None,
            patient_until: None,
            forbidden: false,
            eager: true,
            idle_close: Duration::from_mins(5),
            candidates,
            generation: 1,
            full_size: full_size(MTU),
            wide: false,
            doubts: Doubts::default(),
            doubted: HashMap::new(),
            initiations: VecDeque::new(),
            pacing: Pacing::default(),
            budget: Budget::default(),
            fresh: FreshSockets::default(),
            counters: Counters::default(),
            changed: Changed::default(),
            out: VecDeque::new(),
            rng,
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
}
