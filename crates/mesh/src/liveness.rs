//! Does a path still carry packets? Answered by what is heard on it, and by pings (probes inside the session) when
//! nothing is.

use std::time::Duration;

use campfire_protocol::time::Time;

/// Silence under traffic after which a path is pinged.
const SILENCE: Duration = Duration::from_secs(1);
/// When traffic ends, the path is pinged once after this: who only answered learns so too that it died.
const END_OF_TRAFFIC: Duration = Duration::from_millis(1_500);
/// Misses after which a path is in doubt: data goes on two paths.
pub(crate) const DOUBT: u8 = 3;
/// Misses after which a path in doubt is given up, if another one works.
const DEAD: u8 = 6;
/// Pings without an answer, while packets are heard all the same: the way there is broken, the way back works.
const ONE_WAY: u8 = 3;

/// The side that hears pings asks itself once in so many times the idle time.
const PATIENT: u32 = 20;
/// So many round trips in a row have to be long before a path is called slow.
const RECENT: usize = 4;
/// A long round trip is looked at again after this: a machine that stood still for a moment makes one too.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A round trip time: smoothed, and the last few as they were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    /// The newest first.
    recent: [Option<Duration>; RECENT],
}

impl Rtt {
    /// Takes a sample (RFC 6298's weights).
    pub(crate) fn sample(&mut self, sample: Duration) {
        self.smoothed = Some(self.smoothed.map_or(sample, |old| (old * 7 + sample) / 8));
        self.recent.rotate_right(1);
        self.recent[0] = Some(sample);
    }

    /// The estimate.
    pub(crate) fn get(self) -> Option<Duration> {
        self.smoothed
    }

    /// The shortest of the last few.
    pub(crate) fn least(self) -> Option<Duration> {
        self.recent.into_iter().flatten().min()
    }
}

/// The state of one path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    /// Round trip of pings.
    pub(crate) rtt: Rtt,
    /// When something authentic last came on it.
    heard: Time,
    /// When a ping was last answered.
    answered: Time,
    /// First sending after `heard`.
    quiet_since: Option<Time>,
    /// Applications used it; asked then whether it still carries, unless they use it until then.
    ask_at: Option<Time>,
    /// A ping is out since.
    pinged: Option<Time>,
    /// Pings lost in a row, nothing else heard.
    misses: u8,
    /// Pings unanswered in a row, whatever else was heard.
    unanswered: u8,
    /// How long a path may idle before it is pinged: keeps NAT mappings and knowledge alive.
    idle: Duration,
    /// Nobody had used it when the pings began that are unanswered.
    idled: bool,
    /// The other side is expected to ping first.
    patient: bool,
}

impl Liveness {
    /// A path that was heard on `now`.
    pub(crate) fn new(now: Time, idle: Duration, patient: bool) -> Self {
        Self {
            rtt: Rtt::default(),
            heard: now,
            answered: now,
            quiet_since: None,
            ask_at: None,
            pinged: None,
            misses: 0,
            unanswered: 0,
            idle,
            idled: false,
            patient,
        }
    }

    /// The path was made anew: what was held against it is void.
    pub(crate) fn renewed(&mut self, now: Time) {
        *self = Self { rtt: self.rtt, ..Self::new(now, self.idle, self.patient) };
    }

    /// Something authentic came on it at `at`.
    pub(crate) fn heard(&mut self, at: Time) {
        if at > self.heard {
            self.heard = at;
            self.quiet_since = None;
            self.misses = 0;
        }
    }

    /// Data was sent on it at `at`.
    pub(crate) fn sent(&mut self, at: Time) {
        if at > self.heard && self.quiet_since.is_none() {
            self.quiet_since = Some(at);
        }
    }

    /// Whether every one of the last round trips took longer than this. If the newest did and it is not known of enough others,
    /// the path is asked again soon.
    pub(crate) fn takes_longer(&mut self, now: Time, bound: Duration) -> bool {
        let longer = self.rtt.recent.iter().take_while(|rtt| rtt.is_some_and(|rtt| rtt > bound)).count();
        if longer > 0 && longer < RECENT {
            self.ask_at = Some(self.ask_at.map_or(now + LOOK_AGAIN, |at| at.min(now + LOOK_AGAIN)));
        }
        longer == RECENT
    }

    /// Applications' packets went or came.
    pub(crate) fn used(&mut self, now: Time) {
        self.ask_at = Some(now + END_OF_TRAFFIC);
    }

    /// A ping was answered after `rtt`.
    pub(crate) fn answered(&mut self, now: Time, rtt: Duration) {
        self.heard(now);
        self.rtt.sample(rtt);
        self.answered = now;
        self.pinged = None;
        self.quiet_since = None;
        self.misses = 0;
        self.unanswered = 0;
    }

    /// When the next ping is due.
    pub(crate) fn due(&self) -> Time {
        if let Some(pinged) = self.pinged {
            return pinged + self.timeout();
        }
        // One side's pings keep the path open for both; whoever hears them asks more seldom: of a way that is broken in one direction
        // the other side learns by its own, and under traffic this one does.
        let idle = if self.patient {
            (self.answered + self.idle * PATIENT).min(self.heard + self.idle * 5 / 4)
        } else {
            self.answered + self.idle
        };
        [self.quiet_since.map(|since| since + SILENCE), self.ask_at].into_iter().flatten().fold(idle, Time::min)
    }

    /// Looks whether a ping is due; if so counts the miss of the one before, and the caller sends one.
    pub(crate) fn ping(&mut self, now: Time) -> bool {
        if now < self.due() {
            return false;
        }
        if self.pinged.is_none() {
            self.idled = self.quiet_since.is_none() && self.ask_at.is_none();
        }
        self.force_ping(now);
        true
    }

    /// A ping is sent now, due or not.
    pub(crate) fn force_ping(&mut self, now: Time) {
        if let Some(pinged) = self.pinged {
            self.unanswered = self.unanswered.saturating_add(1);
            if self.heard <= pinged {
                self.misses = self.misses.saturating_add(1);
            }
        }
        self.pinged = Some(now);
        self.ask_at = None;
    }

    /// How long an answer may take: short at first, then, for a path that seems dead, seldom.
    fn timeout(&self) -> Duration {
        let base = (self.rtt.get().unwrap_or(Duration::from_millis(150)) * 2).clamp(Duration::from_millis(150), Duration::from_millis(500));
        let misses = self.misses.max(self.unanswered / 2);
        if misses < DEAD { base } else { (base * 2u32.pow(u32::from(misses - DEAD + 1).min(7))).min(self.idle) }
    }

    /// A ping went unanswered, and nothing else came.
    pub(crate) fn misses_pings(&self) -> bool {
        self.misses > 0
    }

    /// In doubt: send on another path as well.
    pub(crate) fn in_doubt(&self) -> bool {
        self.misses >= DOUBT || self.unanswered >= ONE_WAY * 2
    }

    /// When something authentic last came on it.
    pub(crate) fn last_heard(&self) -> Time {
        self.heard
    }

    /// Dead, and it was while nobody used it: something on the way forgot it sooner than it was pinged.
    pub(crate) fn was_forgotten(&self) -> bool {
        self.is_dead() && self.idled
    }

    /// Given up, if another path works.
    pub(crate) fn is_dead(&self) -> bool {
        self.misses >= DEAD || self.unanswered >= ONE_WAY * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_path_is_pinged_only_to_keep_it_open() {
        let live = Liveness::new(at(0), Duration::from_secs(20), false);
        assert_eq!(live.due(), at(20_000));
    }

    #[test]
    fn who_hears_the_others_pings_seldom_pings_itself() {
        let mut live = Liveness::new(at(0), Duration::from_secs(20), true);
        for second in (20..400).step_by(20) {
            assert!(live.due() > at(second * 1_000));
            live.heard(at(second * 1_000));
        }
        assert_eq!(live.due(), at(400_000), "the way there has to be proved now and then");
    }

    #[test]
    fn silence_under_traffic_is_noticed_after_a_second_and_doubted_after_three_misses() {
        let mut live = Liveness::new(at(0), Duration::from_secs(20), false);
        live.sent(at(5_000));
        live.sent(at(5_500));
        assert_eq!(live.due(), at(6_000));
        let mut now = live.due();
        for _ in 0..3 {
            assert!(live.ping(now));
            assert!(!live.in_doubt());
            now = live.due();
        }
        assert!(live.ping(now));
        assert!(live.in_doubt() && !live.is_dead());
        assert!(now < at(7_000), "{now:?}");
        for _ in 0..3 {
            now = live.due();
            assert!(live.ping(now));
        }
        assert!(live.is_dead());
    }

    #[test]
    fn the_end_of_traffic_is_followed_by_one_ping() {
        let mut live = Liveness::new(at(0), Duration::from_secs(20), false);
        for ms in (100..=5_000).step_by(100) {
            live.heard(at(ms));
            live.used(at(ms));
        }
        assert_eq!(live.due(), at(6_500));
        assert!(live.ping(at(6_500)));
        live.answered(at(6_540), Duration::from_millis(40));
        assert_eq!(live.due(), at(26_540));
    }

    #[test]
    fn traffic_that_is_answered_needs_no_ping() {
        let mut live = Liveness::new(at(0), Duration::from_secs(20), false);
        for ms in (100..5_000).step_by(100) {
            live.sent(at(ms));
            live.heard(at(ms + 50));
        }
        assert_eq!(live.due(), at(20_000));
    }

    #[test]
    fn a_path_that_works_one_way_only_is_given_up_too() {
        let mut live = Liveness::new(at(0), Duration::from_secs(20), false);
        let mut now = live.due();
        for _ in 0..20 {
            live.ping(now);
            live.heard(now + Duration::from_millis(1));
            now = live.due();
        }
        assert!(live.is_dead());
    }

    #[test]
    fn one_long_round_trip_is_asked_about_and_only_several_in_a_row_are_believed() {
        let mut live = Liveness::new(at(0), Duration::from_secs(20), false);
        let bound = Duration::from_millis(50);
        for (now, rtt, slow, due) in [(0, 300, false, 200), (300, 300, false, 500), (600, 300, false, 800), (900, 300, true, 20_900)] {
            live.answered(at(now), Duration::from_millis(rtt));
            assert_eq!((live.takes_longer(at(now), bound), live.due()), (slow, at(due)), "at {now}");
            if due < 20_000 {
                assert!(live.ping(at(due)));
            }
        }
        live.answered(at(20_900), Duration::from_millis(2));
        assert!(!live.takes_longer(at(20_900), bound), "the first short one shows what the path can do");
        assert_eq!(live.due(), at(40_900));
    }

    #[test]
    fn an_answer_clears_all_doubt() {
        let mut live = Liveness::new(at(0), Duration::from_secs(20), false);
        live.sent(at(10));
        for _ in 0..5 {
            live.ping(live.due());
        }
        assert!(live.in_doubt());
        live.answered(at(9_000), Duration::from_millis(40));
        assert!(!live.in_doubt());
        assert_eq!(live.due(), at(29_000));
        assert_eq!(live.rtt.get(), Some(Duration::from_millis(40)));
    }

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }
}
