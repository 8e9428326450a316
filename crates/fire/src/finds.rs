//! Members looked for in large rooms.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use campfire_protocol::carrier::ServerSlot;
use campfire_protocol::key::Tag;
use campfire_protocol::time::Time;
use campfire_protocol::wire::MAX_FIND_TAGS;

use crate::choice::Conversations;
use crate::exchange::Ask;
use crate::hearth::Hearth;

/// How long a member is looked for.
const PATIENCE: Duration = Duration::from_secs(8);
/// When other servers are asked as well.
const ELSEWHERE: Duration = Duration::from_secs(1);
/// Questions within this time go together.
const TOGETHER: Duration = Duration::from_millis(10);
/// What was asked is not asked again sooner.
const AGAIN: Duration = Duration::from_secs(2);
/// Looked for at the same time.
const MAX_PENDING: usize = 256;

struct Pending {
    asked: BTreeSet<(ServerSlot, u8)>,
    since: Time,
    elsewhere: bool,
}

/// What is looked for.
#[derive(Default)]
pub(crate) struct Finds {
    pending: BTreeMap<String, Pending>,
    /// To be looked for later.
    planned: Vec<(Time, String)>,
    flushed: Option<Time>,
    /// Something may have to be asked.
    fresh: bool,
}

impl Finds {
    /// Looks for an address or name.
    pub(crate) fn find(&mut self, hearth: &mut Hearth, now: Time, what: &str) {
        let what = what.to_lowercase();
        if let Some(pending) = self.pending.get_mut(&what) {
            if now.since(pending.since) >= AGAIN {
                *pending = Pending { asked: BTreeSet::new(), since: now, elsewhere: pending.elsewhere };
                self.fresh = true;
            }
            return;
        }
        if self.pending.len() >= MAX_PENDING {
            hearth.counters.drop_not_sent += 1;
            return;
        }
        self.pending.insert(what, Pending { asked: BTreeSet::new(), since: now, elsewhere: false });
        self.fresh = true;
    }

    /// Looks for it at some later time.
    pub(crate) fn plan(&mut self, at: Time, what: String) {
        if self.planned.len() < MAX_PENDING {
            self.planned.push((at, what));
        }
    }

    /// Asks what has not been asked. `true`: somebody was not found where we sit, other servers should be visited.
    pub(crate) fn flush(
        &mut self,
        hearth: &mut Hearth,
        conversations: &mut Conversations,
        now: Time,
        found: impl Fn(&Hearth, &str) -> bool,
    ) -> bool {
        let (ready, later) = std::mem::take(&mut self.planned).into_iter().partition(|(at, _)| *at <= now);
        self.planned = later;
        let ready: Vec<(Time, String)> = ready;
        for (_, what) in ready {
            self.find(hearth, now, &what);
        }
        if self.pending.is_empty() || self.flushed.is_some_and(|at| now.since(at) < TOGETHER) {
            return false;
        }
        self.pending.retain(|_, pending| now.since(pending.since) < PATIENCE);
        self.fresh = false;
        self.flushed = Some(now);
        for (slot, conversation) in conversations.iter_mut() {
            let Some(active) = conversation.active() else { continue };
            let large = conversation.seatings.iter().filter(|(_, seating)| seating.large && seating.seated(now) && seating.wanted);
            let rooms: Vec<u8> = large.map(|(room, _)| *room).collect();
            for room in rooms {
                let Some(keys) = hearth.room(room).map(|room| std::sync::Arc::clone(&room.keys)) else { continue };
                let unasked = self.pending.iter_mut().filter_map(|(what, pending)| pending.asked.insert((*slot, room)).then_some(what));
                let tags: Vec<Tag> = unasked.map(|what| keys.tag(what)).collect();
                for tags in tags.chunks(MAX_FIND_TAGS) {
                    conversation.ask(hearth, now, active.via, Ask::Find { room, tags: tags.to_vec() }, 0);
                }
            }
        }
        let mut elsewhere = false;
        for (what, pending) in self.pending.iter_mut().filter(|(_, p)| !p.elsewhere && now.since(p.since) >= ELSEWHERE) {
            pending.elsewhere = true;
            elsewhere |= !found(hearth, what);
        }
        elsewhere
    }

    /// When [`flush`](Self::flush) is due.
    pub(crate) fn due(&self) -> Option<Time> {
        let planned = self.planned.iter().map(|(at, _)| *at).min();
        let earliest = self.flushed.map_or_else(Time::default, |at| at + TOGETHER);
        let waiting = self.pending.values().map(|pending| match (self.fresh, pending.elsewhere) {
            (true, _) => earliest,
            (false, false) => earliest.max(pending.since + ELSEWHERE),
            (false, true) => earliest.max(pending.since + PATIENCE),
        });
        [planned, waiting.min()].into_iter().flatten().min()
    }
}
