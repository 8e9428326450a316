//! One peer's brain: camping, roster, links, paths, routing. Pure.
//!
//! A [`Mesh`] is told what happens ([`io::Input`]), says what is to be done ([`io::Output`]) and when it wants to be woken,
//! and publishes the [`Table`] that the data plane reads. It owns no socket, no clock and no randomness but its seed's.

#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]

use std::collections::VecDeque;

use campfire_datapath::table::Table;
use campfire_datapath::upcall::Upcall;
use campfire_fire::Fire;
use campfire_fire::netcheck::Targets;
use campfire_protocol::key::hmac_sha256;
use campfire_protocol::time::{Time, UnixMillis};

use crate::config::Config;
use crate::io::{Input, Output};
use crate::links::Links;
use crate::status::Status;

mod budget;
mod candidates;
pub mod config;
mod fresh;
mod gate;
pub mod io;
mod link;
mod links;
#[cfg(test)]
mod links_tests;
mod liveness;
mod meet;
mod pacing;
mod paths;
pub mod ping;
mod punch;
mod relays;
mod roll;
mod shared;
pub mod status;
mod table;
mod why;

/// One peer.
///
/// After each [`handle`](Self::handle) (or a batch of them), drain [`poll`](Self::poll) until it gives `None`; then look at
/// [`next_wake`](Self::next_wake) and, if its version moved, hand [`table`](Self::table) to the data plane.
pub struct Mesh {
    fire: Fire,
    links: Links,
    outputs: VecDeque<Output>,
}

impl Mesh {
    /// A peer that has not yet said anything. `seed` must be random; `wall` is the clock's reading `now`.
    pub fn new(config: Config, seed: [u8; 32], now: Time, wall: UnixMillis) -> Self {
        let fire = Fire::new(&config.fire, derived(&seed, "fire"), now, wall);
        Self { links: Links::new(config, derived(&seed, "links"), now), fire, outputs: VecDeque::new() }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        match input {
            Input::Wake => self.fire.on_wake(now),
            Input::Wall { unix_millis } => self.fire.on_wall(now, UnixMillis(unix_millis)),
            Input::Fire(input) => {
                self.fire.handle(now, input);
                self.links.carried(now, &mut self.fire, input);
            }
            Input::Handshake { path, message, initiator } => self.links.handshake(now, &mut self.fire, path, message, initiator),
            Input::Initiation { token, initiator } => self.links.initiation(now, &mut self.fire, token, initiator),
            Input::Control { link, path, payload } => self.links.control(now, &mut self.fire, link, path, payload),
            Input::Tunnel(event) => self.links.tunnel(now, &mut self.fire, event),
            Input::Traffic(traffic) => self.links.traffic(now, &mut self.fire, &traffic),
            Input::Wanted { address } => self.links.want(now, &mut self.fire, address),
            Input::Ping(ping) => self.links.ping(now, &mut self.fire, ping),
            Input::Configure(change) => {
                self.fire.reconfigure(now, &change.fire);
                self.links.reconfigure(now, &mut self.fire, &change);
            }
            Input::Shutdown => {
                self.links.shutdown(now, &mut self.fire);
                // What is said in the tunnels goes out before we leave the seats that carry it.
                self.drain_links();
                self.fire.shutdown(now);
            }
        }
        self.settle(now);
    }

    /// The data plane told something: each part of it is one [`Input`].
    pub fn upcall(&mut self, now: Time, upcall: Upcall) {
        match upcall {
            Upcall::Stun { via, message } => self.handle(now, Input::Fire(campfire_fire::io::Input::Stun { via, message: &message })),
            Upcall::Handshake { path, message, initiator } => self.handle(now, Input::Handshake { path, message: &message, initiator }),
            Upcall::Initiation { token, initiator } => self.handle(now, Input::Initiation { token, initiator }),
            Upcall::Control { link, path, payload } => self.handle(now, Input::Control { link, path, payload: &payload }),
            Upcall::Tunnel(event) => self.handle(now, Input::Tunnel(event)),
            Upcall::Traffic(links) => links.into_iter().for_each(|traffic| self.handle(now, Input::Traffic(traffic))),
            Upcall::Wanted { address } => self.handle(now, Input::Wanted { address }),
        }
    }

    /// Carries what each half says over to the other until both are quiet.
    fn settle(&mut self, now: Time) {
        while let Some(event) = self.fire.poll_event() {
            self.links.on_fire(now, &mut self.fire, event);
        }
        self.links.run(now, &mut self.fire);
        while let Some(event) = self.fire.poll_event() {
            self.links.on_fire(now, &mut self.fire, event);
        }
        while let Some(output) = self.fire.poll_output() {
            self.outputs.push_back(Output::Fire(output));
        }
        self.drain_links();
    }

    fn drain_links(&mut self) {
        self.outputs.append(&mut self.links.shared.out);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.links.publish(&self.fire);
            self.drain_links();
        }
        self.outputs.pop_front()
    }

    /// When to say [`Input::Wake`]; `None`: not before something else happens.
    pub fn next_wake(&self) -> Option<Time> {
        [self.fire.next_wake(), self.links.next_wake()].into_iter().flatten().min()
    }

    /// What the data plane needs. Its version moves with every change; up to date once [`poll`](Self::poll) gave `None`.
    pub fn table(&self) -> &Table {
        self.links.table()
    }

    /// The servers that are known, to be tried.
    pub fn targets(&self, now: Time) -> Targets {
        self.fire.targets(now)
    }

    /// The wall clock, corrected by what servers say.
    pub fn unix_now(&self, now: Time) -> UnixMillis {
        self.fire.unix_now(now)
    }

    /// What this peer knows, for people.
    pub fn status(&self, now: Time) -> Status {
        status::build(now, &self.links, &self.fire)
    }
}

/// A seed of its own for each half, so that neither tells anything of what the other draws.
fn derived(seed: &[u8; 32], label: &str) -> [u8; 32] {
    hmac_sha256(seed, &[b"campfire seed ", label.as_bytes()])
}
