//! What a MeshPeer's status says. Pure.
//!
//! Nothing that moves by itself is in it (no counters, times or numbers of links): a status that is built twice from the same state
//! is the same, and is then not written.

use std::net::IpAddr;
use std::time::Duration;

use campfire_api::agent::{HEARTBEAT, MAX_PROBLEMS, Path, ProblemReason};
use campfire_api::conditions::{ConditionType, Reason};
use campfire_api::{MeshPeer, MeshPeerStatus, PeerProblem};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::conditions::{self, Said, Stated};
use crate::events::clip;
use crate::state::{PeerReport, Sighting};

/// A report that is older than this is not believed any more: 2.5 heartbeats.
pub const STALE: Duration = Duration::from_secs(HEARTBEAT * 5 / 2);
/// Bounds of the API's schema.
const MAX_ADDRESSES: usize = 4;
const MAX_WORD: usize = 64;
const MAX_MESSAGE: usize = 256;

/// What is known of a pod's report.
#[derive(Clone, Copy, Debug)]
pub enum Heard<'a> {
    /// The last one, not too old.
    Fresh(&'a PeerReport),
    /// The last one, too old.
    Stale(&'a PeerReport),
    /// None, and long enough has been waited for one.
    Nothing,
    /// None yet since this operator leads: what an earlier one wrote stands.
    Wait,
}

/// The status of a pod's peer. `cause`: why its sidecar says nothing, as its pod shows.
pub fn of_pod(peer: &MeshPeer, accepted: Said, cluster: &str, heard: Heard<'_>, cause: Option<&Said>, now: Timestamp) -> MeshPeerStatus {
    let held = peer.status.clone().unwrap_or_default();
    if matches!(heard, Heard::Wait) && held.public_key.is_some() {
        let mut conditions = merged(peer, [(ConditionType::Accepted, accepted)], now);
        conditions.extend(held.conditions.iter().filter(|condition| condition.type_ != ConditionType::Accepted.name()).cloned());
        return MeshPeerStatus { conditions, ..held };
    }
    let report = match heard {
        Heard::Fresh(report) | Heard::Stale(report) => Some(report),
        Heard::Nothing | Heard::Wait => None,
    };
    let connected = connected(heard, held.public_key.is_some());
    let ready = if accepted.is_true() { ready(heard, &connected, cause) } else { accepted.clone() };
    let fresh = matches!(heard, Heard::Fresh(_));
    MeshPeerStatus {
        conditions: merged(
            peer,
            [(ConditionType::Accepted, accepted), (ConditionType::Connected, connected), (ConditionType::Ready, ready)],
            now,
        ),
        public_key: report.map_or(held.public_key, |report| Some(report.wireguard.to_string())),
        addresses: report.map_or(held.addresses, |report| addresses(&report.addresses)),
        cluster_name: (!cluster.is_empty()).then(|| clip(cluster, MAX_WORD).to_owned()),
        path: report.filter(|_| fresh).map(|report| report.path.into()),
        reason: report.filter(|report| fresh && !report.reason.is_empty()).map(|report| clip(&report.reason, MAX_WORD).to_owned()),
        problems: report.filter(|_| fresh).map(problems).unwrap_or_default(),
    }
}

fn connected(heard: Heard<'_>, was_heard: bool) -> Said {
    match heard {
        Heard::Fresh(report) if !report.camped => Said::of(
            Reason::NotCamped,
            "no TURN server is reached: see the problems, and `campfire status` in the pod's container `campfire`",
        ),
        Heard::Fresh(report) => match report.path {
            Path::None if report.unconnected > 0 => Said::of(
                Reason::NoSession,
                "peers at the fire do not answer: `campfire why PEER` in the pod's container `campfire` tells why",
            ),
            Path::None => Said::of(Reason::Camped, "at the fire; nobody else is linked"),
            Path::Direct => Said::of(Reason::Linked, "all links are direct"),
            Path::Relay => Said::of(Reason::Linked, "all links go through TURN servers"),
            Path::Mixed => Said::of(Reason::Linked, "some links are direct, some go through TURN servers"),
        },
        Heard::Stale(_) => not_reporting(),
        Heard::Nothing if was_heard => not_reporting(),
        Heard::Nothing | Heard::Wait => not_reported(),
    }
}

fn ready(heard: Heard<'_>, connected: &Said, cause: Option<&Said>) -> Said {
    match heard {
        Heard::Fresh(report) if interface(report).is_some() => interface(report).unwrap_or_else(|| connected.clone()),
        Heard::Fresh(report) if report.camped && report.ready => Said::of(Reason::Ready, usable(report)),
        Heard::Fresh(report) if report.ready => Said::of(
            Reason::FireUnreachable,
            "no TURN server is reached any more: direct sessions go on, nobody new is found until one is reached; see the problems",
        ),
        Heard::Fresh(report) if report.unreachable => Said::of(
            Reason::FireUnreachable,
            "no TURN server is reached: the app starts without the mesh when its startup timeout is over (policy Wait), and the peer joins as soon \
             as a server is reached; see the problems",
        ),
        Heard::Fresh(_) => Said::of(Reason::Starting, "the sidecar has not joined yet"),
        Heard::Stale(_) | Heard::Nothing | Heard::Wait => cause.unwrap_or(connected).clone(),
    }
}

/// What keeps the app from its mesh though the sidecar runs.
fn interface(report: &PeerReport) -> Option<Said> {
    report.problems.iter().find_map(|problem| {
        let reason = match problem.reason {
            ProblemReason::InterfaceUnconfigured => Reason::InterfaceUnconfigured,
            ProblemReason::InterfaceChanged => Reason::InterfaceChanged,
            ProblemReason::FireUnreachable
            | ProblemReason::RouteNotTaken
            | ProblemReason::IPv6Off
            | ProblemReason::SettingsOutdated
            | ProblemReason::IdentityShared
            | ProblemReason::AddressTaken
            | ProblemReason::NetworkConflict
            | ProblemReason::NotCertified
            | ProblemReason::Other(_) => return None,
        };
        Some(Said::of(reason, clip(&problem.message, MAX_MESSAGE)))
    })
}

/// That it can be used, and the first of what is wrong all the same.
fn usable(report: &PeerReport) -> String {
    let wrong = report.problems.first().map(|problem| format!(", but {}: {}", problem.reason.name(), problem.message));
    clip(&format!("the peer can be used{}", wrong.unwrap_or_default()), MAX_MESSAGE).to_owned()
}

fn not_reporting() -> Said {
    Said::of(
        Reason::NotReporting,
        "the sidecar has stopped reporting: see its log (`kubectl logs POD -c campfire`) and whether the pod reaches Service campfire-agent",
    )
}

fn not_reported() -> Said {
    Said::of(Reason::NotReported, "the sidecar has not reported yet: it does once the pod has started and reaches Service campfire-agent")
}

/// The status of a peer that is known from the fire: `None`, if it is not there.
pub fn of_sighting(peer: &MeshPeer, accepted: Said, absent: Said, sighting: Option<&Sighting>, now: Timestamp) -> MeshPeerStatus {
    let held = peer.status.clone().unwrap_or_default();
    let connected = if sighting.is_some() { Said::of(Reason::AtTheFire, "it is at the fire") } else { absent };
    let ready = if accepted.is_true() { connected.clone() } else { accepted.clone() };
    MeshPeerStatus {
        conditions: merged(
            peer,
            [(ConditionType::Accepted, accepted), (ConditionType::Connected, connected), (ConditionType::Ready, ready)],
            now,
        ),
        public_key: sighting.map_or(held.public_key, |sighting| Some(sighting.wireguard.to_string())),
        addresses: sighting.map_or(held.addresses, |sighting| addresses(&sighting.addresses)),
        cluster_name: sighting
            .map_or(held.cluster_name, |sighting| Some(sighting.cluster.clone()).filter(|cluster| !cluster.is_empty()))
            .map(|cluster| clip(&cluster, MAX_WORD).to_owned()),
        path: None,
        reason: None,
        problems: Vec::new(),
    }
}

/// The status of an object that nobody serves.
pub fn refused(peer: &MeshPeer, why: Said, now: Timestamp) -> MeshPeerStatus {
    let conditions = merged(peer, [(ConditionType::Accepted, why.clone()), (ConditionType::Ready, why)], now);
    MeshPeerStatus { conditions, ..MeshPeerStatus::default() }
}

/// Conditions with the times of their last transitions.
fn merged<const N: usize>(peer: &MeshPeer, said: [Stated; N], now: Timestamp) -> Vec<Condition> {
    let before = peer.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions::merged(before, said, peer.metadata.generation, now)
}

fn addresses(of: &[IpAddr]) -> Vec<String> {
    of.iter().take(MAX_ADDRESSES).map(ToString::to_string).collect()
}

fn problems(report: &PeerReport) -> Vec<PeerProblem> {
    let problem = |problem: &campfire_api::agent::Problem| PeerProblem {
        reason: clip(problem.reason.name(), MAX_WORD).to_owned(),
        message: clip(&problem.message, MAX_MESSAGE).to_owned(),
    };
    report.problems.iter().take(MAX_PROBLEMS).map(problem).collect()
}

/// What the held status says by a condition.
pub fn reason(status: Option<&MeshPeerStatus>, kind: ConditionType) -> Option<Reason> {
    conditions::reason(&status?.conditions, kind)
}

/// Whether a change from the held status is told at once: nothing was told yet, or the peer is on its way to its first Ready.
pub fn prompt(held: Option<&MeshPeerStatus>) -> bool {
    let starting =
        [Reason::NotReported, Reason::Starting, Reason::NotScheduled, Reason::ImageNotPulled, Reason::InitFailing, Reason::NoSettings];
    reason(held, ConditionType::Ready).is_none_or(|reason| starting.contains(&reason))
}

/// The merge patch that makes this the status of this very object.
pub fn patch(uid: &str, status: &MeshPeerStatus) -> Value {
    let mut said = serde_json::to_value(status).unwrap_or_default();
    for field in ["publicKey", "addresses", "clusterName", "path", "reason", "problems"] {
        // What is left out of a merge patch stays.
        if let Some(said) = said.as_object_mut() {
            said.entry(field).or_insert(Value::Null);
        }
    }
    json!({ "metadata": { "uid": uid }, "status": said })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by it")]

    use campfire_api::agent::{Problem, ProblemReason};
    use campfire_api::{CampfireRef, MeshPeerSpec, PathName, PeerType};

    use super::*;

    #[test]
    fn a_transition_moves_the_time_of_its_condition_alone() {
        let mut peer = peer();
        let report = report();
        peer.status = Some(of_pod(&peer, accepted(), "east", Heard::Fresh(&report), None, at(10)));
        let again = of_pod(&peer, accepted(), "east", Heard::Fresh(&report), None, at(20));
        assert_eq!(Some(&again), peer.status.as_ref(), "the same state is the same status, whenever it is built");
        let lost = PeerReport { camped: false, path: Path::None, ..report };
        let later = of_pod(&peer, accepted(), "east", Heard::Fresh(&lost), None, at(30));
        let times: Vec<(&str, &str, i64)> = later
            .conditions
            .iter()
            .map(|condition| (condition.type_.as_str(), condition.reason.as_str(), condition.last_transition_time.0.as_second()))
            .collect();
        assert_eq!(times, [("Accepted", "Accepted", 10), ("Connected", "NotCamped", 30), ("Ready", "FireUnreachable", 30)]);
        assert!(later.conditions.iter().all(|condition| condition.observed_generation == Some(3)));
    }

    #[test]
    fn a_peer_that_never_joined_starts_until_it_says_that_no_server_answers() {
        let peer = peer();
        let starting = PeerReport { camped: false, ready: false, path: Path::None, ..report() };
        let alone = PeerReport { unreachable: true, ..starting.clone() };
        for (report, reason) in [(starting, "Starting"), (alone, "FireUnreachable")] {
            let status = of_pod(&peer, accepted(), "east", Heard::Fresh(&report), None, at(10));
            assert_eq!(condition(&status, ConditionType::Ready).reason, reason);
        }
    }

    #[test]
    fn links_that_come_and_go_change_nothing_but_the_path() {
        let mut peer = peer();
        peer.status = Some(of_pod(&peer, accepted(), "east", Heard::Fresh(&report()), None, at(10)));
        let more = PeerReport { unconnected: 5, ..report() };
        assert_eq!(peer.status.as_ref(), Some(&of_pod(&peer, accepted(), "east", Heard::Fresh(&more), None, at(20))));
        let mixed = PeerReport { path: Path::Mixed, reason: "SymmetricNAT".into(), ..report() };
        let status = of_pod(&peer, accepted(), "east", Heard::Fresh(&mixed), None, at(20));
        assert_eq!((status.path, status.reason.as_deref()), (Some(PathName::Mixed), Some("SymmetricNAT")));
    }

    #[test]
    fn who_stops_to_report_is_unknown_and_keeps_its_key_and_addresses() {
        let mut peer = peer();
        peer.status = Some(of_pod(&peer, accepted(), "east", Heard::Fresh(&report()), None, at(10)));
        for heard in [Heard::Stale(&report()), Heard::Nothing] {
            let status = of_pod(&peer, accepted(), "east", heard, None, at(20));
            let ready = condition(&status, ConditionType::Ready);
            assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("Unknown", "NotReporting"));
            assert_eq!((status.public_key.is_some(), status.addresses.len(), status.path), (true, 1, None));
        }
    }

    #[test]
    fn what_is_wrong_with_the_interface_is_the_reason_and_other_problems_stand_in_the_message() {
        let said = |reason: ProblemReason| {
            let problem = Problem { reason, message: "make the pod anew".into() };
            let report = PeerReport { problems: vec![problem], ..report() };
            let status = of_pod(&peer(), accepted(), "here", Heard::Fresh(&report), None, at(1));
            let ready = condition(&status, ConditionType::Ready).clone();
            (ready.status, ready.reason, ready.message, status.problems[0].reason.clone())
        };
        let (status, reason, message, problem) = said(ProblemReason::InterfaceChanged);
        assert_eq!([status, reason, message, problem], ["False", "InterfaceChanged", "make the pod anew", "InterfaceChanged"]);
        let (status, reason, message, problem) = said(ProblemReason::SettingsOutdated);
        let whole = "the peer can be used, but SettingsOutdated: make the pod anew";
        assert_eq!([status.as_str(), &reason, &message, &problem], ["True", "Ready", whole, "SettingsOutdated"]);
    }

    #[test]
    fn a_new_leader_believes_what_is_written_until_it_should_have_heard() {
        let mut peer = peer();
        peer.status = Some(of_pod(&peer, accepted(), "east", Heard::Fresh(&report()), None, at(10)));
        assert_eq!(peer.status.as_ref(), Some(&of_pod(&peer, accepted(), "east", Heard::Wait, None, at(500))));
        let refused = of_pod(&peer, Said::of(Reason::CampfireNotFound, "make it"), "east", Heard::Wait, None, at(500));
        assert_eq!(condition(&refused, ConditionType::Accepted).status, "False", "but for what it sees itself");
        peer.status = None;
        let first = of_pod(&peer, accepted(), "east", Heard::Wait, None, at(500));
        assert_eq!(condition(&first, ConditionType::Ready).reason, "NotReported");
    }

    #[test]
    fn who_is_not_accepted_is_not_ready_and_says_the_same_why() {
        let status = of_pod(&peer(), Said::of(Reason::NamespaceNotAdmitted, "admit it"), "east", Heard::Fresh(&report()), None, at(1));
        let ready = condition(&status, ConditionType::Ready);
        assert_eq!((ready.status.as_str(), ready.reason.as_str(), ready.message.as_str()), ("False", "NamespaceNotAdmitted", "admit it"));
    }

    #[test]
    fn what_a_sidecar_says_stays_within_the_schema() {
        let problem = Problem { reason: ProblemReason::Other("X".repeat(100)), message: "ü".repeat(1_000) };
        let report =
            PeerReport { problems: vec![problem; 20], addresses: vec![IpAddr::from([0xfd; 16]); 9], reason: "Y".repeat(99), ..report() };
        let status = of_pod(&peer(), accepted(), &"c".repeat(99), Heard::Fresh(&report), None, at(1));
        assert_eq!((status.problems.len(), status.addresses.len()), (MAX_PROBLEMS, MAX_ADDRESSES));
        assert!(status.problems.iter().all(|problem| problem.reason.len() <= 64 && problem.message.len() <= 256));
        assert!(status.cluster_name.unwrap().len() <= 64 && status.reason.unwrap().len() <= 64);
    }

    #[test]
    fn the_way_to_the_first_ready_is_told_at_once_and_later_changes_are_not() {
        let mut peer = peer();
        assert!(prompt(None));
        peer.status = Some(of_pod(&peer, accepted(), "east", Heard::Wait, None, at(1)));
        assert!(prompt(peer.status.as_ref()));
        peer.status = Some(of_pod(&peer, accepted(), "east", Heard::Fresh(&PeerReport { ready: false, ..report() }), None, at(1)));
        assert!(prompt(peer.status.as_ref()));
        peer.status = Some(of_pod(&peer, accepted(), "east", Heard::Fresh(&report()), None, at(1)));
        assert!(!prompt(peer.status.as_ref()));
    }

    #[test]
    fn a_patch_takes_back_what_is_no_longer_so() {
        let status = of_pod(&peer(), accepted(), "", Heard::Nothing, None, at(1));
        let patch = patch("u", &status);
        assert_eq!(patch["metadata"]["uid"], "u");
        let said = patch["status"].as_object().unwrap();
        assert_eq!(said.get("path"), Some(&Value::Null));
        assert_eq!(said.get("problems"), Some(&Value::Null));
    }

    fn condition(status: &MeshPeerStatus, kind: ConditionType) -> &Condition {
        conditions::condition(&status.conditions, kind).unwrap()
    }

    fn accepted() -> Said {
        Said::of(Reason::Accepted, "")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn peer() -> MeshPeer {
        let campfire_ref = CampfireRef { namespace: Some("camp".into()), name: "fire".into() };
        let spec = MeshPeerSpec { kind: PeerType::Pod, campfire_ref, pod_ref: None, external: None };
        let mut peer = MeshPeer::new("web", spec);
        peer.metadata.generation = Some(3);
        peer
    }

    fn report() -> PeerReport {
        crate::testing::report(1)
    }
}
