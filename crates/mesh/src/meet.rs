//! How a link gets a direct path in place of the relay: candidates, the common start, probes and their answers
//! (docs/protocol.md, "A link", 2).

use std::net::SocketAddr;
use std::time::Duration;

use campfire_datapath::command::Command;
use campfire_protocol::carrier::{Path, SocketId, Via};
use campfire_protocol::control::Control;
use rand_core::RngCore as _;

use crate::candidates::canonical;
use crate::fresh::Fresh;
use crate::link::{Link, NEWCOMER, Sent, Size, Target, Told, Verdict};
use crate::paths::Pair;
use crate::shared::Cx;

/// Probes out at a time.
const MAX_PROBES: usize = 64;
/// How long a probe's answer may take.
const PROBE_LIFE: Duration = Duration::from_secs(5);

/// Full-size probes through a relay before large packets are taken to be lost there, and the time between them.
const SIZE_PROBES: u8 = 6;
const SIZE_AGAIN: Duration = Duration::from_millis(400);

impl Link {
    /// The peer shows itself under an address that is not known to work: a peer-reflexive one, or its NAT's mapping moved.
    pub(crate) fn surprise(&mut self, cx: &mut Cx<'_>, pair: Pair) {
        if cx.shared.forbidden || !self.is_open(cx.shared) || !cx.shared.candidates.usable(pair.remote) {
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
        if !self.is_open(cx.shared) {
            return;
        }
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
        let payload = Control::Probe { id, size: if full { cx.shared.full_size } else { 0 } }.encode();
        cx.shared.data(Command::SendControl { link: self.id, path, payload });
        cx.shared.counters.count("probes_sent");
    }

    /// Finds out whether large packets come through the relay. Where none does for anybody, it is our own way to the server
    /// that is narrow, and a stream is asked for.
    pub(crate) fn check_size(&mut self, cx: &mut Cx<'_>) {
        let Size::Checking { probes, next } = self.size else { return };
        if next > cx.now {
            return;
        }
        match self.path {
            Some(Path::Relay { server, via: Via::Udp { .. }, .. }) if self.established.is_some() && !cx.shared.wide => {
                if probes == SIZE_PROBES {
                    self.size = Size::Fine;
                    self.happened(cx.now, "large packets do not come through the relay");
                    cx.fire.narrow(cx.now, server);
                } else {
                    self.size = Size::Checking { probes: probes + 1, next: cx.now + SIZE_AGAIN };
                    self.probe(cx, Target::Relay(server), true);
                }
            }
            _ => self.size = Size::Fine,
        }
    }

    pub(crate) fn ping_relay(&mut self, cx: &mut Cx<'_>) {
        if let (Some(server), Some(live)) = (self.relays.server(), self.relays.current_live()) {
            live.force_ping(cx.now);
            self.probe(cx, Target::Relay(server), false);
        }
    }

    /// A control packet came out of the tunnel.
    pub(crate) fn control(&mut self, cx: &mut Cx<'_>, path: Path, control: Control, length: usize) -> Verdict {
        if !self.passes(cx.shared, &control) {
            cx.shared.counters.count("controls_at_a_shut_gate");
            return Verdict::Keep;
        }
        if let Control::ProbeReply { id, .. } = control
            && self.pong(cx, path, id)
        {
            return Verdict::Keep;
        }
        if matches!(control, Control::ProbeReply { .. }) {
            // Drawn conclusions from below, if it is what we asked for.
            self.last_received = Some(cx.now);
        } else {
            self.heard(cx, cx.now, path);
        }
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
            Control::Chain { chain, held } => self.chain_shown(cx, &chain, held),
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
            cx.shared.data(Command::SendControl { link: self.id, path, payload });
        }
    }

    pub(crate) fn probe_answered(&mut self, cx: &mut Cx<'_>, path: Path, id: u64, observed: Option<SocketAddr>) {
        let Some(index) = self.probes.iter().position(|sent| sent.id == id) else {
            cx.shared.counters.count("probe_replies_unexpected");
            return;
        };
        let sent = self.probes[index];
        if sent.full {
            // At least our own way out carries large packets.
            cx.shared.wide |= !matches!(path, Path::Relay { via: Via::Stream(_), .. });
            if matches!(path, Path::Relay { .. }) {
                self.size = Size::Fine;
            }
        }
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
                    let sent = self.probes.iter().filter(|sent| sent.target == Target::Direct(pair)).count();
                    cx.shared.budget.refund(cx.now, pair.remote, sent as u32);
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
        let may = !self.lower && !cx.shared.forbidden && cx.shared.pacing.start_asked(cx.now) && self.punch.was_asked(cx.now, attempt);
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
            match cx.shared.fresh.get(cx.now, &cx.shared.candidates) {
                Fresh::Ready(socket) => self.socket = socket,
                Fresh::Wait(until) => return self.punch.postpone(until),
                Fresh::Open(socket, until) => {
                    cx.shared.data(Command::OpenSocket { socket, like: SocketId(0) });
                    return self.punch.postpone(until);
                }
                Fresh::No => {}
            }
        }
        if let Err(until) = cx.shared.pacing.start(cx.now) {
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
        let mut pairs: Vec<Pair> = pairs.filter(|pair| cx.shared.candidates.is_open(pair.socket) && self.paths.is_open(*pair)).collect();
        pairs.retain(|pair| {
            let may = cx.shared.budget.spend(cx.now, pair.remote);
            if !may {
                cx.shared.counters.count("probes_withheld");
            }
            may
        });
        for (index, pair) in pairs.into_iter().enumerate() {
            // The likeliest go at the very moment on which both agreed.
            if round == 0 && index < 2 {
                cx.shared.pacing.spend_probe(cx.now);
                self.check(cx, pair);
            } else if !cx.shared.pacing.queue_probe(self.id, pair) {
                cx.shared.counters.count("probes_dropped");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use campfire_protocol::announce::{Announcement, Session};
    use campfire_protocol::identity::Identity;
    use campfire_protocol::key::Psk;
    use campfire_protocol::time::{Time, UnixMillis};
    use campfire_tunnel::LinkId;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng as _;

    use super::*;
    use crate::candidates::Candidates;
    use crate::config::Config;
    use crate::io::{Output, WhyNotDirect};
    use crate::ping::{Answer, NotAsked, PING_LIFE, Ping, Pong};
    use crate::shared::{Shared, Standing};
    use crate::status::PathKind;
    use crate::table::Rules;
    use campfire_fire::Fire;

    #[test]
    fn a_peer_that_shows_itself_under_an_unknown_address_is_answered_checked_and_used() {
        let mut bench = Bench::new();
        let there = direct("203.0.113.7:4000");
        bench.control(there, Control::Probe { id: 7, size: 0 });
        let said = bench.said();
        assert!(said.contains(&(there, Control::ProbeReply { id: 7, observed: Some("203.0.113.7:4000".parse().unwrap()), size: 0 })));
        let (id, size) = probe_in(&said, there);
        assert_eq!(size, 0);
        bench.now += Duration::from_millis(30);
        bench.control(there, Control::ProbeReply { id, observed: None, size });
        assert_eq!(bench.link.path, None, "a small probe is not enough");
        let (id, size) = probe_in(&bench.said(), there);
        assert_eq!(size, FULL_SIZE, "a packet of 1,280 bytes inside");
        bench.now += Duration::from_millis(30);
        bench.control(there, Control::ProbeReply { id, observed: None, size });
        assert_eq!(bench.link.path, Some(there));
        assert_eq!(bench.link.why(Standing::default()), None);
    }

    #[test]
    fn an_answer_from_another_address_than_the_probed_one_proves_nothing() {
        let mut bench = Bench::new();
        bench.control(direct("203.0.113.7:4000"), Control::Probe { id: 7, size: 0 });
        let (id, size) = probe_in(&bench.said(), direct("203.0.113.7:4000"));
        bench.control(direct("203.0.113.8:4000"), Control::ProbeReply { id, observed: None, size });
        assert!(bench.said().iter().all(|(_, control)| !matches!(control, Control::Probe { size: FULL_SIZE, .. })));
    }

    #[test]
    fn an_answer_is_never_larger_than_its_question() {
        let mut bench = Bench::new();
        bench.control(direct("203.0.113.7:4000"), Control::Probe { id: 1, size: 0 });
        for (_, control) in bench.said() {
            assert!(control.encode().len() <= 64);
        }
    }

    #[test]
    fn where_direct_paths_are_forbidden_nothing_is_told_probed_or_answered() {
        let mut bench = Bench::new();
        bench.shared.forbidden = true;
        bench.control(direct("203.0.113.7:4000"), Control::Probe { id: 7, size: 0 });
        assert!(bench.said().is_empty());
        let candidates = bench.cx(|_, cx| cx.own_candidates(SocketId(0)));
        assert!(matches!(candidates, Control::Candidates { addresses, forbidden: true, .. } if addresses.is_empty()));
        assert_eq!(bench.link.why(Standing { forbidden: true, ..Standing::default() }), Some(WhyNotDirect::Policy));
    }

    #[test]
    fn addresses_that_must_not_be_probed_are_dropped_from_what_a_peer_tells() {
        let mut bench = Bench::new();
        let told = ["127.0.0.1:1", "169.254.169.254:80", "10.1.2.3:5", "[::1]:1", "[ff02::1]:9"].map(|text| text.parse().unwrap());
        bench.control(relay(), candidates(told.to_vec(), false));
        let told = &bench.link.told.as_ref().unwrap().addresses;
        assert_eq!(told, &["10.1.2.3:5".parse().unwrap()]);
    }

    #[test]
    fn why_not_direct_is_told_truthfully() {
        let open = Standing { reflexive: true, ..Standing::default() };
        let symmetric = Standing { symmetric: true, ..open };
        let mut bench = Bench::new();
        assert_eq!(bench.link.why(open), Some(WhyNotDirect::Pending));
        bench.fail_a_try();
        assert_eq!(bench.link.why(open), Some(WhyNotDirect::ProbeTimeout));
        assert_eq!(bench.link.why(Standing::default()), Some(WhyNotDirect::NoReflexiveAddress));
        assert_eq!(bench.link.why(symmetric), Some(WhyNotDirect::SymmetricNAT));
        assert_eq!(bench.link.why(Standing { udp_blocked: true, ..symmetric }), Some(WhyNotDirect::UDPBlocked));
        bench.control(relay(), candidates(Vec::new(), true));
        assert_eq!(bench.link.why(open), Some(WhyNotDirect::PeerSymmetricNAT));
        assert_eq!(bench.link.why(symmetric), Some(WhyNotDirect::SymmetricNAT));
    }

    #[test]
    fn where_small_probes_alone_come_back_it_is_the_mtu_whatever_the_nats_are() {
        let mut bench = Bench::new();
        let there = direct("203.0.113.7:4000");
        bench.control(there, Control::Probe { id: 7, size: 0 });
        let (id, size) = probe_in(&bench.said(), there);
        bench.control(there, Control::ProbeReply { id, observed: None, size });
        bench.fail_a_try();
        let ours = Standing { reflexive: true, symmetric: true, ..Standing::default() };
        assert_eq!(bench.link.why(ours), Some(WhyNotDirect::MTUTooSmall));
        bench.said();
        bench.make_direct("203.0.113.7:4000");
        assert_eq!(bench.link.why(ours), None);
    }

    #[test]
    fn what_is_said_without_a_path_waits_within_bounds() {
        let mut bench = Bench::new();
        for attempt in 0..100 {
            bench.cx(|link, cx| link.say(cx, &Control::Punch { attempt }));
            bench.cx(|link, cx| link.send_message(cx, vec![4; 32]));
        }
        assert!(bench.said().is_empty());
        bench.make_direct("203.0.113.7:4000");
        let waited = bench.said().iter().filter(|(_, control)| matches!(control, Control::Punch { .. })).count();
        assert!((1..=8).contains(&waited), "{waited}");
    }

    #[test]
    fn goodbye_ends_the_link() {
        let mut bench = Bench::new();
        let verdict = bench.cx(|link, cx| link.control(cx, relay(), Control::Goodbye, 10));
        assert_eq!(verdict, Verdict::Goodbye);
    }

    #[test]
    fn a_restarted_peers_old_address_is_not_used_any_more_once_it_has_shaken_hands() {
        let mut bench = Bench::new();
        bench.make_direct("203.0.113.7:4000");
        let restarted = Announcement { session: Session { started: UnixMillis(9), nonce: 1 }, ..announcement() };
        bench.cx(|link, cx| link.announced(cx, seat(), &restarted, campfire_fire::Learned::Ember));
        assert!(bench.link.path.is_some(), "a working path is not dropped for an announcement");
        bench.cx(Link::session_established);
        assert_eq!(bench.link.path, None);
    }

    #[test]
    fn a_ping_goes_on_the_path_in_use_is_answered_once_and_throws_no_doubt_on_it() {
        let mut bench = Bench::new();
        let there = direct("203.0.113.7:4000");
        let ping = |token, full| Ping { token, address: "fd00::1".parse().unwrap(), full };
        bench.cx(|link, cx| link.ask_answer(cx, ping(1, false)));
        assert_eq!(bench.pongs(), [Pong { token: 1, result: Err(NotAsked::NotConnected) }], "no path yet");
        bench.make_direct("203.0.113.7:4000");
        bench.said();
        for (token, full, size) in [(2, false, 0), (3, true, FULL_SIZE)] {
            bench.cx(|link, cx| link.ask_answer(cx, ping(token, full)));
            let (id, asked) = probe_in(&bench.said(), there);
            assert_eq!(asked, size);
            bench.now += Duration::from_millis(30);
            for _ in 0..2 {
                bench.control(there, Control::ProbeReply { id, observed: None, size });
            }
            let answer = Answer {
                rtt: Duration::from_millis(30),
                path: PathKind::Direct,
                endpoint: Some("203.0.113.7:4000".parse().unwrap()),
                server: None,
            };
            assert_eq!(bench.pongs(), [Pong { token, result: Ok(answer) }]);
        }
        for token in 0..100 {
            bench.cx(|link, cx| link.ask_answer(cx, ping(token, false)));
        }
        let refused = bench.pongs();
        assert!(refused.len() >= 60 && refused.iter().all(|pong| pong.result == Err(NotAsked::Busy)), "{refused:?}");
        assert!(!bench.link.paths.current().unwrap().live.in_doubt());
        bench.now += PING_LIFE + Duration::from_millis(1);
        bench.cx(|link, cx| link.ask_answer(cx, ping(7, false)));
        assert!(bench.pongs().is_empty(), "those that were lost have made room");
    }

    const FULL_SIZE: u16 = 1_240;

    /// One link with a session, and what it hangs on.
    struct Bench {
        now: Time,
        fire: Fire,
        shared: Shared,
        link: Link,
    }

    impl Bench {
        fn new() -> Self {
            let now = Time::from_micros(1_000_000);
            let identity = Identity::from_seed(&[1; 32]);
            let config = Config::new(identity.clone(), Psk::from_bytes([9; 32]).derive(), Vec::new());
            let mut fire = Fire::new(&config.fire, [0; 32], now, UnixMillis(1));
            let candidates = Candidates::new(Vec::new());
            let rules = Rules { network: config.fire.network, pool: None, accepted: Vec::new(), offered: Vec::new() };
            let mut shared = Shared::new(identity.public(), rules, candidates, ChaCha8Rng::from_seed([0; 32]));
            shared.candidates.opened(SocketId(0), &["192.0.2.1:5".parse().unwrap()]);
            let link = Link::new(&mut Cx { now, fire: &mut fire, shared: &mut shared }, LinkId(0), &announcement());
            let mut bench = Self { now, fire, shared, link };
            bench.cx(Link::session_established);
            bench.said();
            bench
        }

        fn cx<T>(&mut self, what: impl FnOnce(&mut Link, &mut Cx<'_>) -> T) -> T {
            what(&mut self.link, &mut Cx { now: self.now, fire: &mut self.fire, shared: &mut self.shared })
        }

        fn control(&mut self, path: Path, control: Control) {
            let length = control.encode().len();
            self.cx(|link, cx| link.control(cx, path, control, length));
        }

        /// What has been said in the tunnel since, and where.
        fn said(&mut self) -> Vec<(Path, Control)> {
            let out = std::mem::take(&mut self.shared.out);
            out.into_iter()
                .filter_map(|output| match output {
                    Output::Data(Command::SendControl { path, payload, .. }) => Some((path, Control::decode(&payload).unwrap().unwrap())),
                    _ => None,
                })
                .collect()
        }

        /// What has come of pings since.
        fn pongs(&mut self) -> Vec<Pong> {
            let out = std::mem::take(&mut self.shared.out);
            let (pongs, others) = out.into_iter().partition::<std::collections::VecDeque<_>, _>(|output| matches!(output, Output::Pong(_)));
            self.shared.out = others;
            pongs.into_iter().filter_map(|output| if let Output::Pong(pong) = output { Some(pong) } else { None }).collect()
        }

        fn make_direct(&mut self, address: &str) {
            let there = direct(address);
            self.control(there, Control::Probe { id: 1, size: 0 });
            for _ in 0..2 {
                let (id, size) = probe_in(&self.said(), there);
                self.control(there, Control::ProbeReply { id, observed: None, size });
            }
            assert_eq!(self.link.path, Some(there));
        }

        fn fail_a_try(&mut self) {
            self.link.punch.answered(self.now, true, Duration::ZERO);
            while let Some(due) = self.link.punch.due().filter(|_| !self.link.punch.tried()) {
                self.now = due;
                self.cx(Link::tick);
            }
        }
    }

    fn announcement() -> Announcement {
        Announcement {
            public_key: Identity::from_seed(&[2; 32]).public(),
            session: Session { started: UnixMillis(1), nonce: 1 },
            sequence: 1,
            sent_at: UnixMillis(1),
            name: "b".into(),
            namespace: String::new(),
            cluster: String::new(),
            fingerprints: vec![Psk::from_bytes([9; 32]).derive().fingerprint],
            servers: Vec::new(),
            routes: Vec::new(),
            ipv4: None,
            features: 0,
            record: None,
        }
    }

    fn candidates(addresses: Vec<SocketAddr>, symmetric: bool) -> Control {
        Control::Candidates { addresses, symmetric, udp_blocked: false, forbidden: false, generation: 1 }
    }

    fn probe_in(said: &[(Path, Control)], there: Path) -> (u64, u16) {
        let probe = said.iter().find_map(|(path, control)| match control {
            Control::Probe { id, size } if *path == there => Some((*id, *size)),
            _ => None,
        });
        probe.expect("a probe is sent")
    }

    fn direct(address: &str) -> Path {
        Path::Direct { socket: SocketId(0), remote: address.parse().unwrap() }
    }

    fn seat() -> campfire_fire::Seat {
        campfire_fire::Seat {
            server: campfire_protocol::carrier::ServerSlot(0),
            room: 0,
            member: campfire_protocol::wire::MemberId([1; 16]),
        }
    }

    fn relay() -> Path {
        let via = campfire_protocol::carrier::Via::Udp { socket: SocketId(0), remote: "198.51.100.1:3478".parse().unwrap() };
        Path::Relay { server: campfire_protocol::carrier::ServerSlot(0), via, channel: 0x4000 }
    }
}
