//! When to probe: both sides of a link start at the same moment, try for three seconds, and after a failure pause as long
//! as a NAT may remember it.
//!
//! An early probe can spoil the hole: a Linux masquerade whose INPUT accepts makes an entry of its own for it, which pushes
//! the late side's mapping to another port and lives as long as it is renewed. Hence the common start, the pause, and the
//! fresh socket for the next try.

use std::time::Duration;

use campfire_protocol::time::Time;

/// When the rounds of one try begin.
const ROUNDS: [Duration; 5] =
    [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(400), Duration::from_millis(900), Duration::from_millis(1_700)];
/// How long one try lasts.
const TRY: Duration = Duration::from_secs(3);
/// Longer than the 30 s for which Linux keeps an unanswered UDP entry.
const PAUSE: Duration = Duration::from_secs(36);
/// The answering side's own pause: shorter by what the two clocks of a try may differ.
const ANSWERING_PAUSE: Duration = Duration::from_secs(33);
/// The pause grows up to this.
const MAX_PAUSE: Duration = Duration::from_mins(10);
/// The first pause where one side is symmetric: little hope.
const HOPELESS_PAUSE: Duration = Duration::from_mins(2);
/// How long the answer to `Punch` may take.
const ANSWER: Duration = Duration::from_secs(1);
/// How often `Punch` is repeated, and how long until it is tried afresh.
const ASKS: u8 = 5;
const UNANSWERED: Duration = Duration::from_secs(30);
/// How long the answering side may need to measure the round trip.
const MEASURE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing to do.
    Rest,
    /// The lower key asks then.
    Due { at: Time },
    /// It has asked.
    Asked { at: Time, asks: u8 },
    /// The higher key was asked and does not know the round trip yet.
    Owes { since: Time },
    /// It has answered and begins then.
    Armed { start: Time },
    /// Both probe.
    Probing { began: Time, round: u8, end: Time },
    /// Neither does.
    Paused { until: Time },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask now: [`Punch::asked`] or [`Punch::postpone`].
    Ask,
    /// Send `Punch` again.
    AskAgain,
    /// Answer that we are not ready.
    Refuse,
    /// Send this round of probes.
    Round(u8),
    /// The try ended without a path.
    Failed,
}

/// One link's tries at a direct path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Punch {
    phase: Phase,
    /// Number of the try.
    attempt: u32,
    /// Tries that failed in a row.
    failures: u32,
    /// A try came to its end.
    tried: bool,
}

impl Punch {
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Rest, attempt: 0, failures: 0, tried: false }
    }

    /// Number of the present or last try.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Tries that failed in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether a try has come to its end: until then "why not direct" is not known.
    pub(crate) fn tried(&self) -> bool {
        self.tried
    }

    /// Whether probes of a try are being sent.
    pub(crate) fn is_probing(&self) -> bool {
        matches!(self.phase, Phase::Probing { .. })
    }

    /// Whether the lower key still waits for the answer to this attempt.
    pub(crate) fn awaits(&self, attempt: u32) -> bool {
        matches!(self.phase, Phase::Asked { .. }) && attempt == self.attempt
    }

    /// The higher key has answered this attempt and waits for the moment.
    pub(crate) fn is_armed(&self, attempt: u32) -> bool {
        matches!(self.phase, Phase::Armed { .. }) && attempt == self.attempt
    }

    /// The higher key owes an answer.
    pub(crate) fn owes(&self) -> bool {
        matches!(self.phase, Phase::Owes { .. })
    }

    /// Starts over: the lower key asks then, whatever failed before.
    pub(crate) fn restart(&mut self, lower: bool, at: Time) {
        self.failures = 0;
        self.tried = false;
        self.phase = if lower { Phase::Due { at } } else { Phase::Rest };
    }

    /// Addresses changed on one side while paused: the pause need not be sat out.
    pub(crate) fn hurry(&mut self, lower: bool, at: Time) {
        if let Phase::Paused { until } = self.phase {
            let until = until.min(at);
            self.phase = if lower { Phase::Due { at: until } } else { Phase::Rest };
        }
    }

    /// No tries any more: there is a path, or there must be none.
    pub(crate) fn rest(&mut self) {
        self.phase = Phase::Rest;
        self.failures = 0;
    }

    /// Not now.
    pub(crate) fn postpone(&mut self, until: Time) {
        self.phase = Phase::Due { at: until };
    }

    /// `Punch` was sent: gives the attempt's number.
    pub(crate) fn asked(&mut self, now: Time) -> u32 {
        self.attempt = self.attempt.wrapping_add(1);
        self.phase = Phase::Asked { at: now, asks: 1 };
        self.attempt
    }

    /// The higher key was asked. Gives whether it can be now; if so [`arm`](Self::arm) follows as soon as the round trip is known.
    pub(crate) fn was_asked(&mut self, now: Time, attempt: u32) -> bool {
        if matches!(self.phase, Phase::Paused { until } if until > now) {
            return false;
        }
        self.attempt = attempt;
        self.phase = Phase::Owes { since: now };
        true
    }

    /// The higher key answers now and begins in half a round trip.
    pub(crate) fn arm(&mut self, now: Time, rtt: Duration) {
        self.phase = Phase::Armed { start: now + rtt / 2 };
    }

    /// The answer came: begin at once, or ask again later.
    pub(crate) fn answered(&mut self, now: Time, ready: bool, later: Duration) {
        self.phase = if ready { Phase::Armed { start: now } } else { Phase::Due { at: now + later } };
    }

    /// A path was found: the try ends soon, so that a better one may still show.
    pub(crate) fn found(&mut self, now: Time) {
        if let Phase::Probing { began, round, end } = self.phase {
            self.phase = Phase::Probing { began, round, end: end.min(now + Duration::from_millis(500)) };
        }
    }

    /// When [`tick`](Self::tick) has something to say.
    pub(crate) fn due(&self) -> Option<Time> {
        match self.phase {
            Phase::Rest => None,
            Phase::Due { at } => Some(at),
            Phase::Asked { at, .. } => Some(at + ANSWER),
            Phase::Owes { since } => Some(since + MEASURE),
            Phase::Armed { start } => Some(start),
            Phase::Probing { began, round, end } => Some(ROUNDS.get(usize::from(round)).map_or(end, |offset| (began + *offset).min(end))),
            Phase::Paused { until } => Some(until),
        }
    }

    /// When the next try is due, while pausing.
    pub(crate) fn paused_until(&self) -> Option<Time> {
        match self.phase {
            Phase::Paused { until } => Some(until),
            Phase::Due { at } => Some(at),
            Phase::Rest | Phase::Asked { .. } | Phase::Owes { .. } | Phase::Armed { .. } | Phase::Probing { .. } => None,
        }
    }

    /// Moves on. `lower`: ours is the lower key; `direct`: there is a direct path; `hopeless`: one side is symmetric;
    /// `jitter` in 0..=1,000 spreads the pauses.
    pub(crate) fn tick(&mut self, now: Time, lower: bool, direct: bool, hopeless: bool, jitter: u32) -> Option<Step> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        match self.phase {
            Phase::Rest => None,
            Phase::Due { .. } => Some(Step::Ask),
            Phase::Asked { asks, .. } => {
                if asks < ASKS {
                    self.phase = Phase::Asked { at: now, asks: asks + 1 };
                    Some(Step::AskAgain)
                } else {
                    self.phase = Phase::Due { at: now + UNANSWERED };
                    None
                }
            }
            Phase::Owes { .. } => {
                self.phase = Phase::Rest;
                Some(Step::Refuse)
            }
            Phase::Armed { .. } => {
                self.phase = Phase::Probing { began: now, round: 1, end: now + TRY };
                Some(Step::Round(0))
            }
            Phase::Probing { end, .. } if now >= end => {
                self.tried = true;
                if direct {
                    self.rest();
                    return None;
                }
                self.failures = self.failures.saturating_add(1);
                let first = if hopeless { HOPELESS_PAUSE } else { PAUSE };
                let pause = (first * 2u32.pow((self.failures - 1).min(5))).min(MAX_PAUSE);
                let pause = if lower { pause + pause * jitter.min(1_000) / 8_000 } else { ANSWERING_PAUSE };
                self.phase = Phase::Paused { until: now + pause };
                Some(Step::Failed)
            }
            Phase::Probing { began, round, end } => {
                self.phase = Phase::Probing { began, round: round + 1, end };
                Some(Step::Round(round))
            }
            Phase::Paused { .. } => {
                self.phase = if lower { Phase::Due { at: now } } else { Phase::Rest };
                lower.then_some(Step::Ask)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_begin_at_the_same_moment() {
        let rtt = Duration::from_millis(80);
        let (mut lower, mut higher) = (Punch::new(), Punch::new());
        lower.restart(true, at(0));
        assert_eq!(tick(&mut lower, at(0), true), Some(Step::Ask));
        let attempt = lower.asked(at(0));
        assert!(higher.was_asked(at(40), attempt));
        higher.arm(at(40), rtt);
        assert!(lower.awaits(attempt));
        lower.answered(at(80), true, Duration::ZERO);
        assert_eq!(lower.due(), Some(at(80)));
        assert_eq!(higher.due(), Some(at(80)));
        assert_eq!(tick(&mut lower, at(80), true), Some(Step::Round(0)));
        assert_eq!(tick(&mut higher, at(80), false), Some(Step::Round(0)));
    }

    #[test]
    fn a_failed_try_is_followed_by_a_pause_longer_than_a_conntrack_entry() {
        let mut punch = probing(true);
        let (rounds, failed_at) = run(&mut punch, true);
        assert_eq!(rounds, ROUNDS.len());
        assert!(punch.due().unwrap().since(failed_at) >= Duration::from_secs(35));
        assert!(punch.tried());
        let next = punch.due().unwrap();
        assert_eq!(tick(&mut punch, next, true), Some(Step::Ask));
        punch.asked(next);
        punch.answered(next, true, Duration::ZERO);
        let (_, failed_again) = run(&mut punch, true);
        assert!(punch.due().unwrap().since(failed_again) >= Duration::from_secs(70));
    }

    #[test]
    fn the_answering_side_refuses_while_it_pauses_and_is_ready_before_the_asking_side() {
        let mut higher = probing(false);
        let (_, failed_at) = run(&mut higher, false);
        assert!(!higher.was_asked(failed_at + Duration::from_secs(20), 2));
        assert!(higher.was_asked(failed_at + Duration::from_secs(34), 2));
    }

    #[test]
    fn a_found_path_ends_the_try() {
        let mut punch = probing(true);
        punch.found(at(100));
        let mut now = at(100);
        while let Some(due) = punch.due() {
            now = due;
            punch.tick(now, true, true, false, 0);
        }
        assert!(now <= at(600));
        assert_eq!(punch.failures(), 0);
    }

    #[test]
    fn an_unanswered_punch_is_repeated_a_few_times() {
        let mut punch = Punch::new();
        punch.restart(true, at(0));
        punch.asked(at(0));
        let mut again = 0;
        while punch.due().unwrap() < at(20_000) {
            let now = punch.due().unwrap();
            again += usize::from(tick(&mut punch, now, true) == Some(Step::AskAgain));
        }
        assert_eq!(again, usize::from(ASKS) - 1);
        assert!(!punch.tried());
    }

    #[test]
    fn changed_addresses_shorten_a_pause() {
        let mut punch = probing(true);
        let (_, failed_at) = run(&mut punch, true);
        punch.hurry(true, failed_at + Duration::from_secs(2));
        assert_eq!(punch.due(), Some(failed_at + Duration::from_secs(2)));
    }

    fn probing(lower: bool) -> Punch {
        let mut punch = Punch::new();
        punch.phase = Phase::Armed { start: at(0) };
        assert_eq!(tick(&mut punch, at(0), lower), Some(Step::Round(0)));
        punch
    }

    /// Runs a try to its end; gives its rounds and when it failed.
    fn run(punch: &mut Punch, lower: bool) -> (usize, Time) {
        let mut rounds = 1;
        loop {
            let now = punch.due().unwrap();
            match tick(punch, now, lower) {
                Some(Step::Round(0)) => rounds = 1,
                Some(Step::Round(_)) => rounds += 1,
                Some(Step::Failed) => return (rounds, now),
                other => panic!("{other:?}"),
            }
        }
    }

    fn tick(punch: &mut Punch, now: Time, lower: bool) -> Option<Step> {
        punch.tick(now, lower, false, false, 0)
    }

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }
}
