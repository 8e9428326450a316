//! Somebody asks whether a peer answers: a Probe inside the session, on the path in use, and how long its answer takes
//! (docs/protocol.md, "A link").
//!
//! The pings of people are kept apart from those of a path's liveness: a lost one throws no doubt on the path.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use campfire_datapath::command::Command;
use campfire_fire::Fire;
use campfire_protocol::carrier::Path;
use campfire_protocol::control::Control;
use campfire_protocol::time::Time;
use rand_core::RngCore as _;

use crate::io::Output;
use crate::link::{Link, Verdict};
use crate::links::Links;
use crate::shared::{Cx, Shared};
use crate::status::{PathKind, way};

/// Pings of one link that are out at a time.
const MAX_PINGS: usize = 32;
/// How long a ping's answer may take; the shell waits no longer.
pub const PING_LIFE: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Names the ping in its [`Pong`].
    pub token: u64,
    /// The peer: one of its overlay addresses.
    pub address: IpAddr,
    /// As large as the largest packet of the interface, by its MTU; else as small as can be.
    pub full: bool,
}

/// What comes of it. A ping that is lost has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Of the [`Ping`].
    pub token: u64,
    /// The answer, or why nothing was asked.
    pub result: Result<Answer, NotAsked>,
}

/// A peer answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// There and back.
    pub rtt: Duration,
    /// How the question went.
    pub path: PathKind,
    /// The other end: the peer's address when direct, the server's when relayed.
    pub endpoint: Option<SocketAddr>,
    /// The server, when relayed.
    pub server: Option<String>,
}

/// Why nothing was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAsked {
    /// Nobody is known to have the address.
    Unknown,
    /// There is no session, or no path (one is made on demand), or the peer is not let in.
    NotConnected,
    /// Too many are out.
    Busy,
}

/// A ping that is out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    id: u64,
    token: u64,
    at: Time,
    path: Path,
}

impl Links {
    /// Asks a peer.
    pub(crate) fn ping(&mut self, now: Time, fire: &mut Fire, ping: Ping) {
        let Some(id) = self.table().link_to(&ping.address) else {
            // As if an application had sent to it.
            self.want(now, fire, ping.address);
            let known =
                fire.peers().any(|announcement| IpAddr::V6(self.shared.rules.network.address(&announcement.public_key)) == ping.address);
            return not_asked(&mut self.shared, ping, if known { NotAsked::NotConnected } else { NotAsked::Unknown });
        };
        self.with(now, fire, id, |link, cx| {
            link.wanted(cx);
            link.ask_answer(cx, ping);
            Verdict::Keep
        });
    }
}

impl Link {
    pub(crate) fn ask_answer(&mut self, cx: &mut Cx<'_>, ping: Ping) {
        let Some(path) = self.path.filter(|_| self.established.is_some() && self.is_open(cx.shared)) else {
            return not_asked(cx.shared, ping, NotAsked::NotConnected);
        };
        while self.pings.front().is_some_and(|out| cx.now.since(out.at) > PING_LIFE) {
            self.pings.pop_front();
        }
        if self.pings.len() >= MAX_PINGS {
            return not_asked(cx.shared, ping, NotAsked::Busy);
        }
        let id = cx.shared.rng.next_u64();
        self.pings.push_back(Out { id, token: ping.token, at: cx.now, path });
        let payload = Control::Probe { id, size: if ping.full { cx.shared.full_size } else { 0 } }.encode();
        cx.shared.data(Command::SendControl { link: self.id, path, payload });
    }

    /// A probe was answered. Tells whether it was one of ours here.
    pub(crate) fn pong(&mut self, cx: &mut Cx<'_>, path: Path, id: u64) -> bool {
        let Some(out) = self.pings.iter().position(|out| out.id == id).and_then(|index| self.pings.remove(index)) else { return false };
        self.heard(cx, cx.now, path);
        let (path, endpoint, server) = way(cx.fire, Some(out.path));
        let answer = Answer { rtt: cx.now.since(out.at), path, endpoint, server };
        cx.shared.out.push_back(Output::Pong(Pong { token: out.token, result: Ok(answer) }));
        true
    }
}

fn not_asked(shared: &mut Shared, ping: Ping, why: NotAsked) {
    shared.out.push_back(Output::Pong(Pong { token: ping.token, result: Err(why) }));
}
