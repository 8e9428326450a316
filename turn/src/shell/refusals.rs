//! What is refused because of a limit is said once a minute, with what changes the limit: a counter alone is found by nobody whose call fails.

use std::collections::HashMap;

use campfire_protocol::limit::Limit;
use campfire_turn::stats::Metric;

/// A counter's name and label, what it counts, and what changes it.
const LIMITS: &[(&str, &str, &str, &str)] = &[
    ("limits_reached", "memory", "no memory was left for members, rooms or allocations", Limit::Memory.remedy()),
    ("limits_reached", "members", "a room was full", Limit::Members.remedy()),
    ("limits_reached", "rooms", "a campfire had as many rooms as it may have", Limit::Rooms.remedy()),
    ("limits_reached", "seats_per_source", "one address and port had as many members as it may have", Limit::Seats.remedy()),
    ("limits_reached", "allocations", "as many allocations as may be were held", "raise --max-allocations"),
    ("limits_reached", "allocations_per_user", "one user held as many allocations as it may", "raise --max-allocations-per-user"),
    ("limits_reached", "relay_ports", "no relay port was free", "widen --relay-ports, or look at --relay-address"),
    ("dropped", "bandwidth", "one user relayed as much as it may", "raise --max-bandwidth-per-user"),
    (
        "connections_refused",
        "limit",
        "as many connections as may be were open",
        "raise --max-connections (of a Campfire: spec.turn.limits.connections)",
    ),
    (
        "connections_refused",
        "source_limit",
        "one address had as many connections as it may have",
        "raise --max-connections-per-source (of a Campfire: spec.turn.limits.connectionsPerSource)",
    ),
    (
        "connections_refused",
        "descriptors",
        "the process had as many files open as it may have",
        "raise the hard limit of open files (ulimit -Hn, LimitNOFILE=)",
    ),
];

/// What the counters said when they were last looked at.
#[derive(Default)]
pub struct Refusals(HashMap<(&'static str, &'static str), u64>);

impl Refusals {
    /// What was refused since the last look: how often, why, and what changes that.
    pub fn since(&mut self, metrics: impl IntoIterator<Item = Metric>) -> Vec<(u64, &'static str, &'static str)> {
        let mut refused = Vec::new();
        for metric in metrics {
            let Some((_, label)) = metric.label else { continue };
            let name = metric.name.trim_end_matches("_total");
            let Some((name, label, what, remedy)) = LIMITS.iter().find(|limit| limit.0 == name && limit.1 == label) else { continue };
            let before = self.0.insert((name, label), metric.value).unwrap_or(0);
            if metric.value > before {
                refused.push((metric.value - before, *what, *remedy));
            }
        }
        refused
    }

    /// Says it.
    pub fn say(&mut self, metrics: impl IntoIterator<Item = Metric>) {
        for (times, what, remedy) in self.since(metrics) {
            tracing::warn!(times, "refused in the last minute: {what}; {remedy}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use campfire_turn::stats::Stats;

    use super::super::metrics::Counters;
    use super::*;

    #[test]
    fn each_limit_is_one_that_is_counted_and_is_said_once_for_what_came_since() {
        let (mut stats, counters) = (Stats::default(), Arc::new(Counters::default()));
        let all = |stats: &Stats, counters: &Counters| stats.metrics().chain(counters.metrics()).collect::<Vec<_>>();
        let counted: BTreeSet<_> =
            all(&stats, &counters).iter().filter_map(|metric| Some((metric.name.trim_end_matches("_total"), metric.label?.1))).collect();
        for (name, label, ..) in LIMITS {
            assert!(counted.contains(&(*name, *label)), "{name} {label}");
        }
        let mut refusals = Refusals::default();
        assert_eq!(refusals.since(all(&stats, &counters)), []);
        stats.limited_allocations_per_user = 3;
        counters.over_descriptors.add(2);
        let said = refusals.since(all(&stats, &counters));
        assert_eq!(
            said.iter().map(|(times, _, remedy)| (*times, *remedy)).collect::<Vec<_>>(),
            [(3, "raise --max-allocations-per-user"), (2, "raise the hard limit of open files (ulimit -Hn, LimitNOFILE=)"),]
        );
        assert_eq!(refusals.since(all(&stats, &counters)), []);
    }
}
