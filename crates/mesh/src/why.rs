//! What people are told of a link: how its packets go, why not straight, what happened.

use std::borrow::Cow;
use std::time::Duration;

use campfire_protocol::carrier::Path;
use campfire_protocol::time::Time;

use crate::io::{Notice, WhyNotDirect};
use crate::link::{Link, Told};
use crate::liveness::Liveness;
use crate::shared::{Cx, Standing};

/// Entries of history.
const MAX_HISTORY: usize = 24;

impl Link {
    /// Tells people, when something they would notice changed.
    pub(crate) fn notice(&mut self, cx: &mut Cx<'_>) {
        if self.established.is_none() || self.path.is_none() || !self.is_open(cx.shared) {
            return;
        }
        let (remote, server) = match self.path {
            Some(Path::Direct { remote, .. }) => (Some(remote), None),
            Some(Path::Relay { server, .. }) => (None, Some(server)),
            None => (None, None),
        };
        let why = self.why(cx.standing());
        let state = (remote, server, why);
        if self.noticed == Some(state) {
            return;
        }
        let peer = self.name.clone();
        let path = self.path_text(cx);
        if self.noticed.is_none() {
            self.happened(cx.now, format!("connected {path}"));
            cx.shared.notice(Notice::PeerConnected { peer, path });
        } else {
            if self.noticed.is_some_and(|(old_remote, old_server, _)| (old_remote, old_server) != (remote, server)) {
                self.happened(cx.now, format!("now {path}"));
            }
            cx.shared.notice(Notice::PathChanged { peer, path, reason: why });
        }
        self.noticed = Some(state);
    }

    fn path_text(&self, cx: &Cx<'_>) -> String {
        match self.path {
            Some(Path::Direct { remote, .. }) => format!("direct to {remote}"),
            Some(Path::Relay { server, .. }) => format!("through {}", cx.fire.server_name(server).unwrap_or("a server")),
            None => "no way".into(),
        }
    }

    /// Why packets do not go straight; `None` if they do, or could.
    pub(crate) fn why(&self, ours: Standing) -> Option<WhyNotDirect> {
        if self.paths.current().is_some() {
            return self.slow.then_some(WhyNotDirect::SlowerThanRelay);
        }
        let theirs = |what: fn(&Told) -> bool| self.told.as_ref().is_some_and(what);
        Some(if ours.forbidden || theirs(|told| told.forbidden) {
            WhyNotDirect::Policy
        } else if !self.punch.tried() {
            WhyNotDirect::Pending
        } else if self.paths.is_narrow() {
            WhyNotDirect::MTUTooSmall
        } else if ours.udp_blocked || theirs(|told| told.udp_blocked) {
            WhyNotDirect::UDPBlocked
        } else if ours.symmetric {
            WhyNotDirect::SymmetricNAT
        } else if theirs(|told| told.symmetric) {
            WhyNotDirect::PeerSymmetricNAT
        } else if !ours.reflexive {
            WhyNotDirect::NoReflexiveAddress
        } else {
            WhyNotDirect::ProbeTimeout
        })
    }

    /// Remembers what happened, for `campfire why`.
    pub(crate) fn happened(&mut self, now: Time, what: impl Into<Cow<'static, str>>) {
        if self.history.len() >= MAX_HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((now, what.into()));
    }

    /// What happened, oldest first.
    pub(crate) fn history(&self) -> impl Iterator<Item = (Time, &str)> {
        self.history.iter().map(|(at, what)| (*at, what.as_ref()))
    }

    /// Round trip on the path in use.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.path {
            Some(Path::Direct { .. }) => self.paths.current().and_then(|direct| direct.live.rtt.get()),
            Some(Path::Relay { .. }) => self.relays.rtt(),
            None => None,
        }
    }

    /// Whether the path in use has been given up on, and no other is known.
    pub(crate) fn is_silent(&self) -> bool {
        match self.path {
            Some(Path::Direct { .. }) => self.paths.current().is_none_or(|direct| direct.live.is_dead()),
            Some(Path::Relay { .. }) => self.relays.current().is_none_or(Liveness::is_dead),
            None => true,
        }
    }
}
