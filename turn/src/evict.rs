//! Memory, and who makes way when there is none left.

use std::collections::BTreeMap;
use std::net::IpAddr;

use campfire_protocol::key::Fingerprint;

use crate::camp::End;
use crate::config::Rate;
use crate::limit::household;
use crate::{Request, Server};

/// An eviction looks at every seat: so many a second are enough for newcomers of one prefix. (Not in all: who fills a room
/// must not use up the others' tries.)
const EVICTIONS: Rate = Rate { rate: 10, burst: 20 };

impl Server {
    /// Whether so many bytes more of state may be taken.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.stats.memory + bytes as u64 <= self.config.limits.memory as u64
    }

    pub(crate) fn charge(&mut self, bytes: usize) {
        self.stats.memory += bytes as u64;
    }

    pub(crate) fn refund(&mut self, bytes: usize) {
        self.stats.memory = self.stats.memory.saturating_sub(bytes as u64);
    }

    /// A newcomer finds no place, in its room or (`None`) in the server at all: the youngest seat that never exchanged a
    /// frame makes way, of whoever holds the most, as long as that is more than the newcomer's own household (or campfire)
    /// holds. So a member that fills a room fills it for itself. Whether a seat was freed.
    pub(crate) fn make_way(&mut self, request: &Request<'_>, fingerprint: Fingerprint, room: Option<u32>) -> bool {
        if !self.evictions.take(request.now, EVICTIONS, request.via.remote().ip()) {
            return false;
        }
        let campfire = match room {
            Some(_) => fingerprint,
            None => self.largest_campfire(fingerprint),
        };
        let own = (campfire == fingerprint).then(|| household(request.via.remote().ip()));
        let mut households: BTreeMap<IpAddr, (usize, Option<(campfire_protocol::time::Time, u32)>)> = BTreeMap::new();
        for (seat, sitting) in self.camp.seats.iter() {
            let here = self.camp.open.get(sitting.room).is_some_and(|room| room.fingerprint == campfire);
            let ip = sitting.client.and_then(|client| self.clients.get(client)).map(|client| client.via.remote().ip());
            let Some(ip) = ip.filter(|_| here && room.is_none_or(|room| room == sitting.room)) else { continue };
            let (seats, youngest) = households.entry(household(ip)).or_default();
            *seats += 1;
            if !sitting.exchanged {
                *youngest = (*youngest).max(Some((sitting.taken, seat)));
            }
        }
        let held = own.and_then(|own| households.get(&own)).map_or(0, |(seats, _)| *seats);
        let heaviest = households
            .iter()
            .filter(|(ip, (seats, _))| Some(**ip) != own && (own.is_none() || *seats > held + 1))
            .filter_map(|(_, (seats, youngest))| youngest.map(|(taken, seat)| (*seats, taken, seat)))
            .max();
        let Some((_, _, seat)) = heaviest else { return false };
        self.end_seat(request.now, seat, End::Evicted);
        true
    }

    /// Of the campfires that hold more seats than this one, the one that holds the most; else this one.
    fn largest_campfire(&self, own: Fingerprint) -> Fingerprint {
        let mut seats: BTreeMap<Fingerprint, usize> = BTreeMap::new();
        for (_, room) in self.camp.open.iter() {
            *seats.entry(room.fingerprint).or_default() += room.seats.len();
        }
        let held = seats.get(&own).copied().unwrap_or(0);
        let larger = seats.into_iter().filter(|(_, seats)| *seats > held + 1).max_by_key(|(fingerprint, seats)| (*seats, *fingerprint));
        larger.map_or(own, |(fingerprint, _)| fingerprint)
    }
}
