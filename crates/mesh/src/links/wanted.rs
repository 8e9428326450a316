//! Addresses that applications want, and that no link has.

use std::net::IpAddr;
use std::time::Duration;

use campfire_fire::{Fire, Learned};
use campfire_protocol::announce::Announcement;
use campfire_protocol::identity::PublicKey;
use campfire_protocol::time::Time;

use super::Links;
use crate::link::Verdict;

/// Looked for at a time.
const MAX_WANTED: usize = 256;

impl Links {
    /// An application wants an address: whoever has it gets a link, or is looked for.
    pub(crate) fn want(&mut self, now: Time, fire: &mut Fire, address: IpAddr) {
        let linked = self.table.link_to(&address);
        let known = self.directory.get(&address).copied().or_else(|| self.claimant(fire, address));
        if let Some(id) = linked.or_else(|| known.and_then(|peer| self.by_peer.get(&peer).copied())) {
            self.with(now, fire, id, |link, cx| {
                link.wanted(cx);
                Verdict::Keep
            });
            return;
        }
        if let Some(announcement) = known.and_then(|peer| fire.announcement(&peer)).cloned() {
            self.left.remove(&announcement.public_key);
            self.link(now, fire, &announcement, Learned::Find);
            return;
        }
        let overlay = self.shared.rules.network.prefix();
        let findable = match address {
            IpAddr::V6(v6) => overlay.contains(&v6),
            IpAddr::V4(v4) => self.shared.rules.pool.is_some_and(|pool| pool.contains(&v4)),
        };
        if !findable || self.wanted.get(&address).is_some_and(|at| now.since(*at) < Duration::from_secs(1)) {
            return;
        }
        if self.wanted.len() >= MAX_WANTED {
            self.shared.counters.count("wanted_dropped");
            return;
        }
        self.wanted.insert(address, now);
        fire.find(now, &address.to_string());
    }

    /// Who is known to claim this address or a route to it, linked or not.
    fn claimant(&self, fire: &Fire, address: IpAddr) -> Option<PublicKey> {
        if self.shared.rules.pool.is_none() && self.shared.rules.accepted.is_empty() {
            return None;
        }
        let claims = |announcement: &&Announcement| {
            self.shared.rules.claimed(&announcement.public_key, announcement.ipv4).map(IpAddr::V4) == Some(address)
                || announcement.routes.iter().any(|route| route.contains(&address) && self.shared.rules.accepts(route))
        };
        fire.peers().find(claims).map(|announcement| announcement.public_key)
    }
}
