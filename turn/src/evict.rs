//! Memory, and who makes way when there is none left.

use std::net::IpAddr;

use campfire_protocol::key::Fingerprint;

use crate::camp::End;
use crate::config::Rate;
use crate::limit::household;
use crate::room::Room;
use crate::{Request, Server, v1};

/// So many a second are enough for newcomers of one prefix. (Not in all: who fills a room must not use up the others'
/// tries.)
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

    /// Charges what rooms (and version 1) hold more than when this was last done, or refunds what they hold less.
    pub(crate) fn settle(&mut self) {
        let now = self.camp.held() + self.v1.as_ref().map_or(0, v1::Rendezvous::held);
        let before = std::mem::replace(&mut self.settled, now);
        self.charge(now.saturating_sub(before));
        self.refund(before.saturating_sub(now));
    }

    /// A newcomer finds no place, in its room or (`None`) in the server at all: the youngest seat that never exchanged a
    /// frame makes way, of the household that holds the most in one room, as long as that is more than the newcomer's own
    /// household (or campfire) holds. So a member that fills a room fills it for itself. Whether a seat was freed.
    pub(crate) fn make_way(&mut self, request: &Request<'_>, fingerprint: Fingerprint, room: Option<u32>) -> bool {
        if !self.evictions.take(request.now, EVICTIONS, request.via.remote().ip()) {
            return false;
        }
        let campfire = match room {
            Some(_) => fingerprint,
            None => self.camp.largest_campfire(fingerprint),
        };
        let own = (campfire == fingerprint).then(|| household(request.via.remote().ip()));
        let households = || {
            let rooms = self.camp.rooms_at(campfire).filter(|(index, _)| room.is_none_or(|room| room == *index));
            rooms.map(|(_, room)| &room.households)
        };
        let held = own.map_or(0, |own| households().map(|households| households.count(own)).sum());
        let heaviest = households().filter_map(|households| households.heaviest(own)).max();
        let Some((_, (_, seat))) = heaviest.filter(|(seats, _)| own.is_none() || *seats > held + 1) else { return false };
        self.end_seat(request.now, seat, End::Evicted);
        true
    }

    /// A newcomer opens a room, and its campfire has as many as it may have: since no server knows which room is the right one, one makes way
    /// in which a single household sits, of the household that holds the most such rooms, the idle and the youngest first. Who opens rooms to
    /// keep others out so loses them; a room in which several meet is never closed. Whether one was.
    pub(crate) fn close_a_room(&mut self, request: &Request<'_>, fingerprint: Fingerprint) -> bool {
        let own = household(request.via.remote().ip());
        let alone: Vec<(IpAddr, u32)> = {
            let rooms = self.camp.rooms_at(fingerprint);
            rooms.filter_map(|(index, room)| Some((room.households.only().filter(|other| *other != own)?, index))).collect()
        };
        let held = |household| alone.iter().filter(|(other, _)| *other == household).count();
        let youngest = |room: &Room| room.seats.iter().filter_map(|seat| self.camp.seats.get(*seat)).map(|seat| seat.taken).max();
        let heaviest = alone.iter().filter_map(|(household, index)| {
            let room = self.camp.open.get(*index)?;
            Some((held(*household), room.households.any_idle(), youngest(room), *index))
        });
        let Some((.., room)) = heaviest.max() else { return false };
        if !self.evictions.take(request.now, EVICTIONS, request.via.remote().ip()) {
            return false;
        }
        let seats = self.camp.open.get(room).map(|room| room.seats.clone()).unwrap_or_default();
        for seat in seats {
            self.end_seat(request.now, seat, End::Evicted);
        }
        true
    }
}
