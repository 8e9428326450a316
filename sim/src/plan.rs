//! Random worlds: a plan is drawn from a seed, carried out, and judged; one that fails is made smaller while it still fails.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::random::Random;
use crate::{Gateway, Link, Nat, Oversize, PeerRef, Place, ServerRef, Tcp, World, millis, secs};

/// A world and what befalls it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The world's seed.
    pub seed: u64,
    /// How many servers.
    pub servers: usize,
    /// The peers.
    pub peers: Vec<PeerPlan>,
    /// Properties of all links to the internet: one-way delay, jitter (milliseconds), loss.
    pub link: (u64, u64, f64),
    /// What happens, and in which second.
    pub deeds: Vec<(u64, Deed)>,
}

/// A peer of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerPlan {
    /// What it is behind.
    pub home: Home,
    /// Shares the gateway of the peer before it, if that has one.
    pub shares: bool,
    /// Seconds by which its clock is wrong.
    pub clock_error: i64,
    /// In which second it starts.
    pub start: u64,
}

/// What a peer is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// Nothing.
    Open,
    /// NATs.
    FullCone,
    /// See there.
    Hairpin,
    /// See there.
    Restricted,
    /// See there.
    PortRestricted,
    /// See there.
    Masquerade,
    /// With the early-probe trap.
    Accepting,
    /// See there.
    Symmetric,
    /// Two NATs.
    Carrier,
    /// Symmetric IPv4 and IPv6.
    DualStack,
    /// No IPv4.
    V6Only,
    /// No UDP.
    NoUdp,
    /// Nothing but TCP to port 443.
    OnlyTls,
    /// An MTU of 1280, without a word.
    SmallMtu,
}

/// Something that happens. Numbers are those of peers and servers, modulo how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A server dies.
    Kill(usize),
    /// It returns, empty.
    Revive(usize),
    /// A peer's gateway forgets.
    Flush(usize),
    /// A peer's gateway gets another address.
    Move(usize),
    /// A peer dies.
    Crash(usize),
    /// It says goodbye.
    Stop(usize),
    /// It starts again.
    Restart(usize),
    /// A peer's way to another is cut.
    Cut(usize, usize),
    /// A peer's way to a server is cut.
    CutServer(usize, usize),
    /// A peer's link goes down.
    Down(usize),
    /// A peer's link is up again, its ways are mended.
    Mend(usize),
    /// A peer's gateway blocks UDP.
    Block(usize),
    /// A peer's link loses a third of all packets.
    Lossy(usize),
}

const HOMES: [Home; 14] = [
    Home::Open,
    Home::FullCone,
    Home::Hairpin,
    Home::Restricted,
    Home::PortRestricted,
    Home::Masquerade,
    Home::Accepting,
    Home::Symmetric,
    Home::Carrier,
    Home::DualStack,
    Home::V6Only,
    Home::NoUdp,
    Home::OnlyTls,
    Home::SmallMtu,
];

/// How long things happen.
const TROUBLE: u64 = 60;
/// How long after the last of them everybody must have found everybody again.
const PATIENCE: Duration = secs(90);

impl Plan {
    /// A plan drawn from a seed.
    pub fn random(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x51_4e_0a_11);
        let servers = 1 + random.below(4) as usize;
        let count = 2 + random.below(5) as usize;
        let peers = (0..count).map(|_| PeerPlan {
            home: *random.pick(&HOMES),
            shares: random.chance(0.15),
            clock_error: *random.pick(&[0, 0, 0, 600, -600, 30, -3_600]),
            start: random.below(20),
        });
        let peers = peers.collect();
        let link = *random.pick(&[(10, 0, 0.0), (10, 0, 0.0), (40, 20, 0.0), (5, 2, 0.01), (100, 30, 0.02)]);
        let mut deeds: Vec<_> = (0..random.below(9)).map(|_| (random.below(TROUBLE), deed(&mut random))).collect();
        deeds.sort_by_key(|&(at, _)| at);
        Self { seed, servers, peers, link, deeds }
    }

    /// Carries it out. Gives the trace's hash, or what is wrong.
    pub fn run(&self) -> Result<u64, String> {
        self.run_quietly(true)
    }

    /// The same; a world that fails prints the end of its trace.
    pub fn run_loudly(&self) -> Result<u64, String> {
        self.run_quietly(false)
    }

    fn run_quietly(&self, quiet: bool) -> Result<u64, String> {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut case = Case::new(self);
            let outcome = case.run();
            if let (false, Err(wrong)) = (quiet, &outcome) {
                eprintln!("{}{wrong}", case.world.trace);
            }
            outcome
        }));
        outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        })
    }

    /// The smallest plan found that still fails.
    #[must_use]
    pub fn shrink(&self) -> Self {
        let mut best = self.clone();
        loop {
            let smaller = best.smaller().into_iter().find(|plan| plan.run().is_err());
            match smaller {
                Some(plan) => best = plan,
                None => return best,
            }
        }
    }

    fn smaller(&self) -> Vec<Self> {
        let mut plans = Vec::new();
        let mut with = |change: &dyn Fn(&mut Self)| {
            let mut plan = self.clone();
            change(&mut plan);
            if plan != *self {
                plans.push(plan);
            }
        };
        for position in 0..self.deeds.len() {
            with(&|plan| _ = plan.deeds.remove(position));
        }
        if self.peers.len() > 2 {
            for position in 0..self.peers.len() {
                with(&|plan| _ = plan.peers.remove(position));
            }
        }
        if self.servers > 1 {
            with(&|plan| plan.servers -= 1);
        }
        with(&|plan| plan.link = (10, 0, 0.0));
        for position in 0..self.peers.len() {
            with(&|plan| plan.peers[position].clock_error = 0);
            with(&|plan| plan.peers[position].shares = false);
            with(&|plan| plan.peers[position].start = 0);
            with(&|plan| plan.peers[position].home = Home::Open);
        }
        plans
    }
}

fn deed(random: &mut Random) -> Deed {
    let (one, other) = (random.below(8) as usize, random.below(8) as usize);
    let all = [
        Deed::Kill(one),
        Deed::Kill(one),
        Deed::Revive(one),
        Deed::Revive(one),
        Deed::Flush(one),
        Deed::Move(one),
        Deed::Crash(one),
        Deed::Stop(one),
        Deed::Restart(one),
        Deed::Cut(one, other),
        Deed::CutServer(one, other),
        Deed::Down(one),
        Deed::Mend(one),
        Deed::Mend(one),
        Deed::Block(one),
        Deed::Lossy(one),
    ];
    *random.pick(&all)
}

struct Case<'a> {
    plan: &'a Plan,
    world: World,
    servers: Vec<ServerRef>,
    gateways: Vec<Option<Gateway>>,
    peers: Vec<PeerRef>,
    crashed: Vec<bool>,
}

impl<'a> Case<'a> {
    fn new(plan: &'a Plan) -> Self {
        let mut world = World::new(plan.seed);
        world.keep_quiet();
        world.wan = Link { jitter: millis(plan.link.1), loss: plan.link.2, ..Link::clean(millis(plan.link.0)) };
        let servers = ["a", "b", "c", "d"].iter().take(plan.servers).map(|name| world.server(name)).collect();
        let mut gateways: Vec<Option<Gateway>> = Vec::new();
        let mut peers = Vec::new();
        for peer in &plan.peers {
            let shared = gateways.last().copied().flatten().filter(|_| peer.shares);
            let gateway = shared.or_else(|| home(&mut world, peer.home));
            gateways.push(gateway);
            let place = gateway.map_or(Place::Internet, Place::from);
            peers.push(world.peer_with(place, |options| {
                options.clock_error = peer.clock_error * 1_000;
                options.after = secs(peer.start);
            }));
        }
        let crashed = vec![false; peers.len()];
        Self { plan, world, servers, gateways, peers, crashed }
    }

    fn run(&mut self) -> Result<u64, String> {
        for &(at, deed) in &self.plan.deeds {
            let now = Duration::from_micros(self.world.now().as_micros());
            self.world.run_for(secs(at).saturating_sub(now));
            self.carry_out(deed);
        }
        let now = Duration::from_micros(self.world.now().as_micros());
        self.world.run_for(secs(TROUBLE).saturating_sub(now));
        self.calm();
        let peers = self.peers.clone();
        if self.world.run_until(PATIENCE, |world| world.all_connected(&peers)).is_none() {
            return Err(self.describe("not connected"));
        }
        let pairs = peers.iter().flat_map(|&one| peers.iter().map(move |&other| (one, other)));
        let mut missing: Vec<_> = pairs.filter(|(one, other)| one != other).collect();
        // Lossy links may cost a ping or two, but not many in a row.
        for _ in 0..15 {
            let pings: Vec<_> = missing.drain(..).map(|(one, other)| self.world.ping(one, other)).collect();
            self.world.run_for(secs(2));
            let results = pings.into_iter().map(|ping| self.world.ping_result(ping));
            missing = results.filter(|ping| ping.answered.is_none()).map(|ping| (ping.from, ping.to)).collect();
            if missing.is_empty() {
                return Ok(self.world.trace.hash());
            }
        }
        Err(self.describe(&format!("connected, but pings stay unanswered: {missing:?}")))
    }

    fn carry_out(&mut self, deed: Deed) {
        let peer = |number: usize| number % self.peers.len();
        let server = |number: usize| self.servers[number % self.servers.len()];
        match deed {
            Deed::Kill(number) => self.world.kill(server(number)),
            Deed::Revive(number) => self.world.revive(server(number)),
            Deed::Flush(number) => {
                if let Some(gateway) = self.gateways[peer(number)] {
                    self.world.flush(gateway);
                }
            }
            Deed::Move(number) => {
                if let Some(gateway) = self.gateways[peer(number)] {
                    self.world.readdress(gateway);
                }
            }
            Deed::Crash(number) | Deed::Stop(number) => {
                let number = peer(number);
                self.crashed[number] = true;
                if matches!(deed, Deed::Stop(_)) {
                    self.world.stop(self.peers[number]);
                } else {
                    self.world.crash(self.peers[number]);
                }
            }
            Deed::Restart(number) => {
                let number = peer(number);
                self.crashed[number] = false;
                self.world.restart(self.peers[number]);
            }
            Deed::Cut(one, other) => {
                let (one, other) = (self.peers[peer(one)], self.peers[peer(other)]);
                self.world.cut(one, other, true);
            }
            Deed::CutServer(one, other) => {
                let (one, other) = (self.peers[peer(one)], server(other));
                self.world.cut(one, other, true);
            }
            Deed::Down(number) => {
                let peer = self.peers[peer(number)];
                self.world.link_up(peer, false);
            }
            Deed::Mend(number) => self.mend(peer(number)),
            Deed::Block(number) => {
                if let Some(gateway) = self.gateways[peer(number)] {
                    self.world.police(gateway, false, Tcp::Any);
                }
            }
            Deed::Lossy(number) => {
                let peer = self.peers[peer(number)];
                self.world.change_link(peer, |link| link.loss = 0.33);
            }
        }
    }

    fn mend(&mut self, number: usize) {
        let (peer, home) = (self.peers[number], self.plan.peers[number].home);
        self.world.link_up(peer, true);
        self.world.change_link(peer, |link| link.loss = 0.0);
        for other in self.peers.clone() {
            self.world.cut(peer, other, false);
        }
        for server in self.servers.clone() {
            self.world.cut(peer, server, false);
        }
        if let Some(gateway) = self.gateways[number] {
            let shares = self.plan.peers[number].shares && number > 0 && self.gateways[number - 1] == Some(gateway);
            match home {
                _ if shares => {}
                Home::NoUdp => self.world.police(gateway, false, Tcp::Any),
                Home::OnlyTls => self.world.police(gateway, false, Tcp::Only(443)),
                Home::Open
                | Home::V6Only
                | Home::Carrier
                | Home::FullCone
                | Home::Hairpin
                | Home::Restricted
                | Home::PortRestricted
                | Home::Accepting
                | Home::Masquerade
                | Home::SmallMtu
                | Home::Symmetric
                | Home::DualStack => self.world.police(gateway, true, Tcp::Any),
            }
        }
    }

    /// Everything is mended; only the servers that died stay dead, as long as one lives.
    fn calm(&mut self) {
        for number in 0..self.peers.len() {
            self.mend(number);
            if self.crashed[number] {
                self.world.restart(self.peers[number]);
            }
        }
        if !self.servers.iter().any(|&server| self.world.server_stats(server).is_some()) {
            self.world.revive(self.servers[0]);
        }
    }

    fn describe(&self, what: &str) -> String {
        let mut text = format!("{what}:");
        for &one in &self.peers {
            for &other in self.peers.iter().filter(|&&other| other != one) {
                let _ = write!(text, " {}→{} {:?} {:?};", one.0, other.0, self.world.way(one, other), self.world.why(one, other));
            }
        }
        text
    }
}

fn home(world: &mut World, home: Home) -> Option<Gateway> {
    let nat = match home {
        Home::Open => return None,
        Home::V6Only => return Some(world.ipv6_only()),
        Home::Carrier => {
            let carrier = world.nat(Nat::port_restricted());
            return Some(world.nat_behind(carrier, Nat::masquerade()));
        }
        Home::FullCone => Nat::full_cone(),
        Home::Hairpin => Nat::full_cone().hairpin(),
        Home::Restricted => Nat::restricted(),
        Home::PortRestricted => Nat::port_restricted(),
        Home::Accepting => Nat::masquerade_accepting(),
        Home::Masquerade | Home::NoUdp | Home::OnlyTls | Home::SmallMtu => Nat::masquerade(),
        Home::Symmetric | Home::DualStack => Nat::symmetric(),
    };
    Some(world.gateway_with(Place::Internet, nat, |gateway| match home {
        Home::NoUdp => gateway.udp = false,
        Home::OnlyTls => (gateway.udp, gateway.tcp) = (false, Tcp::Only(443)),
        Home::DualStack => gateway.v6 = true,
        Home::SmallMtu => (gateway.link.mtu, gateway.link.oversize) = (1_280, Oversize::BlackHole),
        Home::Open
        | Home::V6Only
        | Home::Carrier
        | Home::FullCone
        | Home::Hairpin
        | Home::Restricted
        | Home::PortRestricted
        | Home::Accepting
        | Home::Masquerade
        | Home::Symmetric => {}
    }))
}
