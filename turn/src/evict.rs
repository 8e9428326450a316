//! Memory, and who makes way when there is none left.

use campfire_protocol::key::Fingerprint;

use crate::camp::End;
use crate::config::Rate;
use crate::limit::household;
use crate::{Request, Server};

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

    /// Charges what rooms hold more than when this was last done, or refunds what they hold less.
    pub(crate) fn settle(&mut self) {
        let (before, now) = (std::mem::replace(&mut self.settled, self.camp.held()), self.camp.held());
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
}
