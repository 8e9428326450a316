//! How a link gets a direct path in place of the relay: candidates, the common start, probes and their answers
//! (docs/protocol.md, "A link", 2).

use std::net::SocketAddr;
use std::time::Duration;

use campfire_protocol::control::Control;
use rand_core::RngCore as _;

use crate::candidates::canonical;
use crate::io::{Output, Path, SocketId};
use crate::link::{Link, NEWCOMER, Sent, Target, Told, Verdict};
use crate::paths::Pair;
use crate::shared::{Cx, Fresh};

/// Control payload that makes an inner packet of 1,280 bytes, the overlay's MTU.
const FULL_SIZE: u16 = 1_280 - campfire_tunnel::control::HEADER as u16;
/// Probes out at a time.
const MAX_PROBES: usize = 64;
/// How long a probe's answer may take.
const PROBE_LIFE: Duration = Duration::from_secs(5);

impl Link {
    /// The peer shows itself under an address that is not known to work: a peer-reflexive one, or its NAT's mapping moved.
    pub(crate) fn surprise(&mut self, cx: &mut Cx<'_>, pair: Pair) {
        if cx.shared.forbidden || !cx.shared.candidates.usable(pair.remote) {
            return;
        }
        if self.paths.surprise(cx.now, pair) {
            self.probe(cx, Target::Direct(pair), false);
        }
    }

    /// Sends a probe on a candidate path whose turn it is.
    pub(crate) fn check(&mut self, cx: &mut Cx<'_>, pair: Pair) {
        if self.established.is_some() && self.punch.is_probing() && self.paths.check(cx.now, pair) {
            self.probe(cx, Target::Direct(pair), false);
        }
    }

    pub(crate) fn probe(&mut self, cx: &mut Cx<'_>, target: Target, full: bool) {
        let path = match target {
            Target::Direct(pair) => Some(pair.path()),
            Target::Relay(server) => self.relays.path_on(server),
        };
        let Some(path) = path else { return };
        while self.probes.len() >= MAX_PROBES || self.probes.front().is_some_and(|sent| cx.now.since(sent.at) > PROBE_LIFE) {
            self.probes.pop_front();
        }
        let id = cx.shared.rng.next_u64();
        self.probes.push_back(Sent { id, target, at: cx.now, full });
        let payload = Control::Probe { id, size: if full { FULL_SIZE } else { 0 } }.encode();
        cx.shared.out.push_back(Output::SendControl { link: self.id, path, payload });
        cx.shared.counters.count("probes_sent");
    }

    pub(crate) fn ping_relay(&mut self, cx: &mut Cx<'_>) {
        if let (Some(server), Some(live)) = (self.relays.server(), self.relays.current_live()) {
            live.force_ping(cx.now);
            self.probe(cx, Target::Relay(server), false);
        }
    }

    /// A control packet came out of the tunnel.
    pub(crate) fn control(&mut self, cx: &mut Cx<'_>, path: Path, control: Control, length: usize) -> Verdict {
        self.heard(cx, cx.now, path);
        match control {
            Control::Candidates { addresses, symmetric, udp_blocked, forbidden, generation } => {
                let addresses = cx.shared.candidates.filter(&addresses);
                let told = Told { addresses, symmetric, udp_blocked, forbidden, generation };
                if self.told.as_ref().is_some_and(|old| *old != told) {
                    self.punch.hurry(self.lower, cx.now + NEWCOMER);
                }
                self.told = Some(told);
                if let Some(pair) = self.paths.current().map(|direct| direct.pair).filter(|_| self.lower) {
                    // The higher key says so too when its direct path died: does ours live?
                    self.probe(cx, Target::Direct(pair), false);
                }
                self.notice(cx);
            }
            Control::Punch { attempt } => self.asked(cx, attempt),
            Control::PunchAck { attempt, ready } => {
                if self.punch.awaits(attempt) {
                    let later = Duration::from_millis(500) + cx.shared.jitter(Duration::from_millis(500));
                    self.punch.answered(cx.now, ready, later);
                    if self.told.as_ref().is_some_and(|told| told.forbidden) {
                        self.punch.rest();
                    }
                }
            }
            Control::Probe { id, size } => self.answer_probe(cx, path, id, usize::from(size).min(length) as u16),
            Control::ProbeReply { id, observed, .. } => self.probe_answered(cx, path, id, observed),
            Control::Goodbye => return Verdict::Goodbye,
        }
        Verdict::Keep
    }

    pub(crate) fn answer_probe(&mut self, cx: &mut Cx<'_>, path: Path, id: u64, size: u16) {
        let (path, observed) = match path {
            Path::Direct { .. } if cx.shared.forbidden => return,
            Path::Direct { remote, .. } => (Some(path), Some(canonical(remote))),
            Path::Relay { server, .. } => (self.relays.path_on(server).or(self.path), None),
        };
        if let Some(path) = path {
            let payload = Control::ProbeReply { id, observed, size }.encode();
            cx.shared.out.push_back(Output::SendControl { link: self.id, path, payload });
        }
    }

    pub(crate) fn probe_answered(&mut self, cx: &mut Cx<'_>, path: Path, id: u64, observed: Option<SocketAddr>) {
        let Some(index) = self.probes.iter().position(|sent| sent.id == id) else {
            cx.shared.counters.count("probe_replies_unexpected");
            return;
        };
        let sent = self.probes[index];
        let rtt = cx.now.since(sent.at);
        match (sent.target, path) {
            (Target::Direct(pair), Path::Direct { socket, remote }) if pair == (Pair { socket, remote: canonical(remote) }) => {
                if let Some(direct) = self.paths.get(pair) {
                    direct.live.answered(cx.now, rtt);
                    self.paths.choose();
                } else if sent.full {
                    self.paths.full_came_back(cx.now, pair, rtt);
                    self.punch.found(cx.now);
                    self.happened(cx.now, format!("direct path to {} works", pair.remote));
                } else if self.paths.small_came_back(cx.now, pair) {
                    self.probe(cx, Target::Direct(pair), true);
                }
                if let Some(observed) = observed.map(canonical)
                    && pair.socket == SocketId(0)
                    && cx.shared.candidates.observed(observed)
                {
                    cx.shared.generation = cx.shared.generation.wrapping_add(1);
                }
            }
            (Target::Relay(server), Path::Relay { .. }) => {
                if let Some(live) = self.relays.live(server) {
                    live.answered(cx.now, rtt);
                }
                if self.punch.owes() {
                    self.accept(cx);
                }
                self.choose_relay(cx);
            }
            _ => return,
        }
        self.probes.remove(index);
        self.update_path(cx);
    }

    /// The lower key asks to start probing together.
    pub(crate) fn asked(&mut self, cx: &mut Cx<'_>, attempt: u32) {
        if self.punch.is_armed(attempt) {
            return;
        }
        let may = !self.lower && !cx.shared.forbidden && cx.shared.start_asked(cx.now) && self.punch.was_asked(cx.now, attempt);
        if !may {
            let candidates = cx.own_candidates(SocketId(0));
            self.say(cx, &candidates);
            self.say(cx, &Control::PunchAck { attempt, ready: false });
        } else if self.rtt().is_some() {
            self.accept(cx);
        } else if self.probes.is_empty() {
            self.ping_relay(cx);
        }
    }

    pub(crate) fn accept(&mut self, cx: &mut Cx<'_>) {
        let Some(rtt) = self.relays.rtt().or(self.rtt()) else { return };
        self.socket = SocketId(0);
        self.paths.begin();
        let candidates = cx.own_candidates(self.socket);
        self.say(cx, &candidates);
        self.say(cx, &Control::PunchAck { attempt: self.punch.attempt(), ready: true });
        self.punch.arm(cx.now, rtt);
    }

    pub(crate) fn ask(&mut self, cx: &mut Cx<'_>) {
        let forbidden = cx.shared.forbidden || self.told.as_ref().is_some_and(|told| told.forbidden);
        if forbidden || self.established.is_none() || self.paths.current().is_some_and(|direct| !direct.live.in_doubt()) {
            self.punch.rest();
            return;
        }
        if self.path.is_none() {
            self.punch.postpone(cx.now + NEWCOMER);
            return;
        }
        self.socket = SocketId(0);
        if self.punch.failures() > 0 {
            match cx.fresh_socket() {
                Fresh::Ready(socket) => self.socket = socket,
                Fresh::Wait(until) => {
                    self.punch.postpone(until);
                    return;
                }
                Fresh::No => {}
            }
        }
        if let Err(until) = cx.shared.start(cx.now) {
            let jitter = cx.shared.jitter(Duration::from_millis(20));
            self.punch.postpone(until + jitter);
            return;
        }
        self.paths.begin();
        let attempt = self.punch.asked(cx.now);
        let candidates = cx.own_candidates(self.socket);
        self.say(cx, &candidates);
        self.say(cx, &Control::Punch { attempt });
    }

    pub(crate) fn round(&mut self, cx: &mut Cx<'_>, round: u8) {
        let remotes: Vec<SocketAddr> = self.told.iter().flat_map(|told| told.addresses.iter().copied()).collect();
        let pairs = remotes.into_iter().map(|remote| Pair { socket: if remote.is_ipv4() { self.socket } else { SocketId(1) }, remote });
        let pairs: Vec<Pair> = pairs.filter(|pair| cx.shared.candidates.is_open(pair.socket)).collect();
        for (index, pair) in pairs.into_iter().enumerate() {
            // The likeliest go at the very moment on which both agreed.
            if round == 0 && index < 2 {
                cx.shared.spend_probe(cx.now);
                self.check(cx, pair);
            } else {
                cx.shared.queue_probe(self.id, pair);
            }
        }
    }
}
