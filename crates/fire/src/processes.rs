//! Which processes have answered as one server: one that is gone for good does not come back, so if two take turns, both are there, and who sits
//! at the one does not see who sits at the other (two hosts behind one name, a balancer, an id given twice).

use std::net::IpAddr;
use std::time::Duration;

use campfire_protocol::time::Time;

/// What people are told.
pub(crate) const SEVERAL: &str = "several processes answer in turns under this id, and their members do not meet: give each server an id of its own, and each address (or name) one server";

/// Remembered of one server.
const MAX_PROCESSES: usize = 4;
/// How long it is told.
const TOLD: Duration = Duration::from_hours(1);

/// See the module. What a process calls itself depends on the address at which it sees us.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    /// The last that answered is the last.
    known: Vec<(IpAddr, [u8; 8])>,
    several_until: Option<Time>,
}

impl Processes {
    /// One answered, which sees us there.
    pub(crate) fn answered(&mut self, now: Time, observed: IpAddr, instance: [u8; 8]) {
        if let Some(before) = self.known.iter().position(|known| *known == (observed, instance)) {
            let since = self.known.split_off(before + 1);
            if since.iter().any(|(seen, _)| *seen == observed) {
                self.several_until = Some(now + TOLD);
            }
            self.known.pop();
            self.known.extend(since);
        }
        if self.known.len() == MAX_PROCESSES {
            self.known.remove(0);
        }
        self.known.push((observed, instance));
    }

    /// Whether several take turns.
    pub(crate) fn are_several(&self, now: Time) -> bool {
        self.several_until.is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_and_ways_of_our_own_that_change_are_one_process_and_turns_are_several() {
        let (home, away): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let several = |answers: &[(IpAddr, u8)]| {
            let mut processes = Processes::default();
            for (observed, process) in answers {
                processes.answered(Time::default(), *observed, [*process; 8]);
            }
            assert!(processes.known.len() <= MAX_PROCESSES);
            processes.are_several(Time::default())
        };
        assert!(!several(&[(home, 1), (home, 1), (home, 2), (home, 3), (home, 4), (home, 5), (home, 6)]), "started anew each time");
        assert!(!several(&[(home, 1), (away, 2), (home, 1), (away, 2), (home, 1)]), "over IPv4 and IPv6 in turns");
        assert!(several(&[(home, 1), (home, 2), (home, 1)]));
        assert!(several(&[(home, 1), (away, 3), (home, 2), (away, 3), (home, 1)]));
        let mut processes = Processes::default();
        for process in [1, 2, 1] {
            processes.answered(Time::default(), home, [process; 8]);
        }
        assert!(!processes.are_several(Time::default() + TOLD), "it is told no longer than it is so");
    }
}
