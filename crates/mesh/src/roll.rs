//! Whether it can be known who is there: so long as that is not so, an address without a link may be somebody's.

use std::collections::HashSet;
use std::time::Duration;

use campfire_protocol::carrier::ServerSlot;
use campfire_protocol::time::Time;

/// After the first server took us in, the others have this long to do so, and to say who sits there.
const COMPLETE: Duration = Duration::from_secs(5);
/// Of a small room all are known, but for who comes this very moment.
const SMALL: Duration = Duration::from_secs(1);
/// In a large room everybody is looked for, and after a second at other servers too.
pub(crate) const LONG: Duration = Duration::from_secs(5);

/// Where we camp, and since when.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    camped: HashSet<(ServerSlot, u8)>,
    complete_at: Option<Time>,
    complete: bool,
}

impl Roll {
    /// We camp in this room of a server. Tells whether that is news.
    pub(crate) fn camped(&mut self, now: Time, server: ServerSlot, room: u8) -> bool {
        if self.camped.is_empty() {
            self.complete_at = Some(now + COMPLETE);
        }
        self.camped.insert((server, room))
    }

    /// A server is lost.
    pub(crate) fn lost(&mut self, server: ServerSlot) {
        self.camped.retain(|(camped, _)| *camped != server);
        if self.camped.is_empty() {
            (self.complete_at, self.complete) = (None, false);
        }
    }

    /// When [`found_within`](Self::found_within) changes by itself.
    pub(crate) fn due(&self) -> Option<Time> {
        self.complete_at
    }

    /// How long it takes until somebody who is asked for has a link; `None` while that cannot be known.
    /// `long`: in a large room, and while somebody's certificate may be on its way.
    pub(crate) fn found_within(&mut self, now: Time, long: bool) -> Option<Duration> {
        if self.complete_at.take_if(|at| *at <= now).is_some() {
            self.complete = true;
        }
        self.complete.then_some(if long { LONG } else { SMALL })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_called_absent_before_all_servers_had_time_to_say_who_is_there() {
        let mut roll = Roll::default();
        assert_eq!((roll.found_within(at(60), false), roll.due()), (None, None));
        assert!(roll.camped(at(60), ServerSlot(0), 0) && !roll.camped(at(61), ServerSlot(0), 0) && roll.camped(at(62), ServerSlot(1), 0));
        assert_eq!((roll.found_within(at(64), false), roll.due()), (None, Some(at(65))));
        assert_eq!((roll.found_within(at(65), false), roll.due()), (Some(SMALL), None));
        assert_eq!(roll.found_within(at(65), true), Some(LONG));
        // One of two servers still says who is there; without both nobody does.
        roll.lost(ServerSlot(0));
        assert_eq!(roll.found_within(at(70), false), Some(SMALL));
        roll.lost(ServerSlot(1));
        assert_eq!(roll.found_within(at(70), false), None);
        roll.camped(at(80), ServerSlot(1), 0);
        assert_eq!((roll.found_within(at(84), false), roll.found_within(at(85), false)), (None, Some(SMALL)));
    }

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }
}
