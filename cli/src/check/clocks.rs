//! Clocks: this machine's, the API server's, and those of the nodes, the operator's and the members' among them. Nobody has to be asked for most: who
//! renews a Lease writes into it what its own clock shows, and the API server writes beside it what its clock showed then.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use super::{Check, Findings, Outcome};
use crate::cluster::Cluster;
use crate::report::Report;

/// Seconds by which two clocks may differ.
const SKEW: i64 = 30;
/// Where kubelets say that they live.
const NODE_LEASES: &str = "kube-node-lease";

/// The API server's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// Seconds that it is ahead of this machine's.
    ahead: i64,
}

impl Clock {
    /// Compares the two. `date`: what the API server's shows now, seconds since 1970.
    pub(super) fn compared(findings: &mut Findings<'_>, date: Option<u64>) -> Self {
        let Some(ahead) = date.and_then(|date| i64::try_from(date).ok()).map(|date| date - here()) else {
            findings.add(Check::ClusterClock, Outcome::Unknown, "the API server says no time");
            return Self::default();
        };
        match apart(ahead) {
            None => findings.good(Check::ClusterClock, "the API server's clock agrees with this machine's"),
            Some(apart) => findings.add(Check::ClusterClock, Outcome::Warning, format!("the API server's clock is {apart} this machine's")),
        }
        Self { ahead }
    }

    /// What it shows now, seconds since 1970.
    pub(super) fn now(self) -> i64 {
        here() + self.ahead
    }
}

/// Somebody's clock beside the API server's. `ahead`: seconds.
pub(super) fn beside(findings: &mut Findings<'_>, whose: &str, ahead: i64) {
    if let Some(apart) = apart(ahead) {
        findings.add(Check::ClusterClock, Outcome::Warning, format!("the clock of {whose} is {apart} the API server's"));
    }
}

/// The same of a pod's, as its sidecar tells it, which was asked at the first of these times of the API server's clock and had answered at the second.
pub(super) fn of_member(findings: &mut Findings<'_>, whose: &str, report: &Report, asked: i64, answered: i64) {
    let Some(shown) = report.unix_ms.and_then(|millis| i64::try_from(millis / 1_000).ok()) else { return };
    // Between the two it may have been read at any time.
    beside(findings, whose, shown - shown.clamp(asked, answered.max(asked)));
}

/// This machine's clock, seconds since 1970.
fn here() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// In words, if it is worth any.
fn apart(ahead: i64) -> Option<String> {
    let which = if ahead > 0 { "ahead of" } else { "behind" };
    (ahead.abs() > SKEW).then(|| format!("{} s {which}", ahead.abs()))
}

/// When the API server saw the last change of a Lease, by its own clock, seconds since 1970.
pub(super) fn written(lease: &Lease) -> Option<i64> {
    let entries = lease.metadata.managed_fields.iter().flatten();
    entries.filter_map(|entry| entry.time.as_ref()).map(|time| time.0.as_second()).max()
}

/// Seconds by which the clock of whoever renews a Lease is ahead of the API server's.
pub(super) fn ahead(lease: &Lease) -> Option<i64> {
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?;
    Some(renewed.0.as_second() - written(lease)?)
}

/// The nodes', by what kubelets write. Who may not read that is not told: the others are looked at all the same.
pub(super) async fn nodes(cluster: &Cluster, findings: &mut Findings<'_>) {
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), NODE_LEASES);
    let Ok(leases) = leases.list(&ListParams::default()).await else { return };
    for lease in &leases.items {
        if let Some(ahead) = ahead(lease) {
            beside(findings, &format!("node {}", lease.name_any()), ahead);
        }
    }
}

/// `Fri, 27 Nov 2026 08:00:00 GMT` (RFC 9110 §5.6.7), in seconds since 1970.
pub(super) fn http_date(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words[..] else { return None };
    let month = 1 + ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        .iter()
        .position(|name| *name == month)? as u64;
    let (day, year) = (day.parse::<u64>().ok()?, year.parse::<u64>().ok()?.checked_sub(1)?);
    let mut parts = time.split(':').map(str::parse::<u64>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    // Days before the year, then before the month.
    let leap = |year: u64| year / 4 - year / 100 + year / 400;
    let is_leap = leap(year + 1) > leap(year);
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][(month - 1) as usize] + u64::from(is_leap && month > 2);
    let days = (year * 365 + leap(year) + before + day - 1).checked_sub(719_162)?;
    Some(days * 86_400 + hours * 3_600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lease_tells_by_how_much_its_holders_clock_is_wrong() {
        let lease = |renewed: &str, times: &[&str]| -> Lease {
            let entries: Vec<_> = times.iter().map(|time| json!({ "manager": "x", "operation": "Update", "time": time })).collect();
            serde_json::from_value(json!({ "metadata": { "managedFields": entries }, "spec": { "renewTime": renewed } })).unwrap()
        };
        assert_eq!(ahead(&lease("2026-11-27T08:00:07.500000Z", &["2026-11-27T08:00:07Z"])), Some(0));
        assert_eq!(
            ahead(&lease("2026-11-27T08:10:00.000000Z", &["2026-11-26T00:00:00Z", "2026-11-27T08:00:00Z"])),
            Some(600),
            "the last change counts"
        );
        assert_eq!(ahead(&lease("2026-11-27T06:00:00.000000Z", &["2026-11-27T08:00:00Z"])), Some(-7_200));
        assert_eq!(ahead(&lease("2026-11-27T06:00:00.000000Z", &[])), None, "nobody knows");
        assert_eq!(apart(-7_200).as_deref(), Some("7200 s behind"));
        assert_eq!((apart(31).as_deref(), apart(30), apart(-30)), (Some("31 s ahead of"), None, None));
    }

    #[test]
    fn a_sidecar_that_took_long_to_answer_has_no_wrong_clock_for_it() {
        let told = |shown: i64, asked: i64, answered: i64| {
            let report = Report { unix_ms: Some(u64::try_from(shown).unwrap() * 1_000), ..Report::default() };
            let mut findings = Findings::of("");
            of_member(&mut findings, "pod hello-a", &report, asked, answered);
            findings.found.into_iter().map(|finding| finding.words).next()
        };
        assert_eq!(told(1_010, 1_000, 1_020), None);
        assert_eq!(told(1_050, 1_000, 1_020), None, "30 s are no fault");
        assert_eq!(told(1_060, 1_000, 1_020).as_deref(), Some("the clock of pod hello-a is 40 s ahead of the API server's"));
        assert_eq!(told(900, 1_000, 1_020).as_deref(), Some("the clock of pod hello-a is 100 s behind the API server's"));
    }

    #[test]
    fn dates_of_http_are_read() {
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Fri, 27 Nov 2026 08:00:00 GMT"), Some(1_795_766_400));
        assert_eq!(http_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(http_date("Fri, 01 Mar 2024 00:00:00 GMT"), Some(1_709_251_200));
        for broken in [
            "",
            "yesterday",
            "Fri, 27 Foo 2026 08:00:00 GMT",
            "Fri, 27 Nov 2026 08:00 GMT",
            "Fri, 27 Nov 2026 08:00:00 CET",
            "Mon, 01 Jan 0000 00:00:00 GMT",
        ] {
            assert_eq!(http_date(broken), None, "{broken}");
        }
    }
}
