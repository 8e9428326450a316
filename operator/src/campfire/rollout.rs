//! How a change of the servers' pods is done: first on one more beside them. The controller of a StatefulSet deletes a pod that works and makes the new
//! one then; one that is admitted and does not become ready all the same (an image that is not there, no node that it fits on, a container that ends)
//! would leave nothing in its place. So the StatefulSet gets one replica more and a `partition` that leaves all others as they are, also where one has to
//! be made anew meanwhile. Once the one more is ready both are taken back, and the others are replaced. Pure.
//!
//! All of it stands in the StatefulSet, so whoever leads next goes on with it (docs/decisions/0029).

use std::collections::BTreeMap;

use campfire_api::conditions::Reason;
use campfire_api::{ExposureType, names};
use k8s_openapi::api::apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;

use super::endpoints;
use super::fetch::Found;
use super::replacement::{FULL, Replacement};
use super::room::{has_room, host_ports};
use super::validate::{MAX_REPLICAS, Valid};
use crate::conditions::Said;

/// Label with the revision of the template that a pod was made by.
const REVISION: &str = "controller-revision-hash";
/// How long one may take to become ready before it is said that it does not; and how long one whose container ended before is to stay ready.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// A change is tried on one server more than there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// How that goes.
    pub said: Said,
}

/// What is known of the one that is tried besides its pod.
#[derive(Debug, Default)]
pub struct Attempt {
    /// Why its pod cannot be made.
    pub refused: Option<String>,
    /// The last warning about its pod.
    pub warning: Option<String>,
    /// Where it finds no place: the pods on the nodes that there are servers on, by node.
    pub neighbours: BTreeMap<String, Vec<Pod>>,
}

/// Whether the servers' pods are to be replaced (`None`), or one more is to be tried (still). `replaced`: what a change of the template comes to.
pub fn trial(valid: &Valid, found: &Found, replaced: &Replacement, now: Timestamp) -> Option<Trial> {
    let set = found.children.sets.get(&names::turn(&valid.key.name)).filter(|_| valid.turn.replicas > 0)?;
    let count = stay(set)?;
    let name = pod_name(set, count);
    let begun = || {
        let message = format!("the spec is understood; pod {name} is tried before the servers are replaced by such pods, and goes then");
        Some(Trial { said: Said::of(Reason::Accepted, message) })
    };
    match replaced {
        Replacement::Admitted => return begun(),
        // One that is tried already has the room that it asks for.
        Replacement::InPlace if tries(set) => return begun(),
        Replacement::InPlace | Replacement::Refused(_) => return None,
        Replacement::None if !tries(set) => return None,
        Replacement::None => {}
    }
    let status = set.status.clone().unwrap_or_default();
    let Some(revision) = status.update_revision.filter(|_| status.observed_generation == set.metadata.generation) else { return begun() };
    let is_new = |pod: &&Pod| pod.labels().get(REVISION) == Some(&revision);
    // The change was taken back. A server that is not there may be on its way, as the current revision has it.
    let all = servers(set, &found.pods).count() == usize::from(count) || status.current_revision.as_ref() == Some(&revision);
    if all && servers(set, &found.pods).all(|pod| is_new(&pod)) {
        return None;
    }
    let pod = found.pods.get(&name).filter(|pod| pod.metadata.deletion_timestamp.is_none()).filter(is_new);
    let why = match pod {
        Some(pod) if is_proven(pod, now) || (is_unplaced(pod) && fits_instead(set, found, pod)) => return None,
        Some(pod) => endpoints::trouble_of(pod).or_else(|| slow(pod, found, now)),
        None => match &found.attempt.refused {
            // Each has the room of the one that goes; and is of its own class, not of one that is no more.
            Some(why) if why.contains(FULL) || (differs_in_class(valid, set) && why.contains("no PriorityClass")) => return None,
            why => why.clone(),
        },
    };
    let Some(why) = why else { return begun() };
    let message = format!(
        "the servers stay as they are, for one more that was made as they would be does not become ready: {why}: correct spec.turn, the chart's \
         turn.image or what is missing; they are replaced once it is ready, and all else goes on"
    );
    Some(Trial { said: Said::of(Reason::NewServerNotReady, message) })
}

/// The servers as a change of them is tried: one more of them is, and asks for nothing that those that run have to give up first. A port of a node is
/// theirs, and with a higher priority it would be theirs to go.
pub fn one_more(wanted: &StatefulSet, live: &StatefulSet, pods: &BTreeMap<String, Pod>) -> StatefulSet {
    let mut tried = wanted.clone();
    let (Some(spec), Some(count)) = (&mut tried.spec, stay(live)) else { return tried };
    spec.replicas = Some(i32::from(count) + 1);
    spec.update_strategy = Some(replacing_from(count.into()));
    if let Some(pod) = &mut spec.template.spec {
        pod.priority_class_name = template(live).and_then(|pod| pod.priority_class_name.clone());
        let here: Vec<&Pod> = servers(live, pods).collect();
        let theirs =
            |port: i32| here.is_empty() || here.iter().any(|pod| pod.spec.iter().flat_map(host_ports).any(|(held, _)| held == port));
        for port in pod.containers.iter_mut().flat_map(|container| container.ports.iter_mut().flatten()) {
            port.host_port = port.host_port.filter(|port| !theirs(*port));
        }
    }
    tried
}

/// How the controller replaces pods: one by one, those from this ordinal on.
pub fn replacing_from(ordinal: i32) -> StatefulSetUpdateStrategy {
    let rolling = RollingUpdateStatefulSetStrategy { partition: Some(ordinal), ..RollingUpdateStatefulSetStrategy::default() };
    StatefulSetUpdateStrategy { type_: Some("RollingUpdate".into()), rolling_update: Some(rolling) }
}

/// A Campfire with its servers as they are while a change of theirs waits: as many, and with ports of their nodes or without. `None`: there are none.
pub fn as_they_are(valid: &Valid, found: &Found) -> Option<Valid> {
    let set = found.children.sets.get(&names::turn(&valid.key.name))?;
    let mut valid = valid.clone();
    valid.turn.replicas = stay(set)?;
    let here: Vec<&Pod> = servers(set, &found.pods).collect();
    let on_host = here.iter().any(|pod| pod.spec.iter().flat_map(host_ports).next().is_some());
    if let Some(exposure) = &mut valid.turn.exposure
        && matches!(exposure.kind, ExposureType::ClusterIp | ExposureType::HostPort)
        && !here.is_empty()
    {
        exposure.kind = if on_host { ExposureType::HostPort } else { ExposureType::ClusterIp };
    }
    Some(valid)
}

/// Whether one more is being tried.
pub fn tries(set: &StatefulSet) -> bool {
    partition(set) > 0
}

/// Name of the pod that is tried, if one is.
pub fn tried(set: &StatefulSet) -> Option<String> {
    stay(set).filter(|_| tries(set)).map(|count| pod_name(set, count))
}

/// Whether a pod finds no place.
pub fn is_unplaced(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
}

/// How many servers there are that a change would replace; `None`: none.
fn stay(set: &StatefulSet) -> Option<u8> {
    let count = if tries(set) { partition(set) } else { set.spec.as_ref()?.replicas? };
    u8::try_from(count.min(MAX_REPLICAS.into())).ok().filter(|count| *count > 0)
}

fn partition(set: &StatefulSet) -> i32 {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.rolling_update.as_ref()?.partition);
    strategy.unwrap_or_default()
}

fn differs_in_class(valid: &Valid, set: &StatefulSet) -> bool {
    template(set).is_some_and(|pod| pod.priority_class_name != valid.turn.template.priority_class_name)
}

fn pod_name(set: &StatefulSet, ordinal: u8) -> String {
    format!("{}-{ordinal}", set.name_any())
}

fn template(set: &StatefulSet) -> Option<&PodSpec> {
    set.spec.as_ref()?.template.spec.as_ref()
}

/// The pods of those that stay.
fn servers<'a>(set: &StatefulSet, pods: &'a BTreeMap<String, Pod>) -> impl Iterator<Item = &'a Pod> {
    (0..stay(set).unwrap_or_default()).filter_map(move |ordinal| pods.get(&pod_name(set, ordinal)))
}

/// Whether it is ready, and stays so if its container ended before.
fn is_proven(pod: &Pod, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let restarted =
        status.iter().flat_map(|status| status.container_statuses.iter().flatten()).any(|container| container.restart_count > 0);
    let ready = status.iter().flat_map(|status| status.conditions.iter().flatten()).find(|it| it.type_ == "Ready" && it.status == "True");
    ready.is_some_and(|ready| !restarted || ready.last_transition_time.as_ref().is_some_and(|since| now.duration_since(since.0) > PATIENCE))
}

/// What is said of one that nothing is known to be wrong with, and that should be ready by now.
fn slow(pod: &Pod, found: &Found, now: Timestamp) -> Option<String> {
    let made = pod.metadata.creation_timestamp.as_ref()?;
    (!endpoints::is_ready(pod) && now.duration_since(made.0) > PATIENCE).then(|| {
        let warning = found.attempt.warning.as_deref().map(|warning| format!(": {warning}")).unwrap_or_default();
        format!("pod {} is not ready since it was made at {}{warning}", pod.name_any(), made.0)
    })
}

/// Whether a pod that finds no place beside the servers would find one in the place of each that has one.
fn fits_instead(set: &StatefulSet, found: &Found, tried: &Pod) -> bool {
    let Some(next) = &tried.spec else { return false };
    servers(set, &found.pods).all(|server| {
        let Some(name) = server.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) else { return true };
        let (Some(node), Some(all)) = (found.nodes.get(name), found.attempt.neighbours.get(name)) else { return false };
        has_room(node, all.iter().filter(|pod| pod.uid() != server.uid()), next)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{object, valid};
    use super::*;

    /// A server, and one that is tried beside it, of this status.
    fn found(pod: Option<Value>) -> Found {
        let mut found = Found::default();
        let spec = json!({ "replicas": 2, "updateStrategy": { "rollingUpdate": { "partition": 1 } }, "template": { "spec": { "priorityClassName": "old", "containers": [] } } });
        let status = json!({ "replicas": 2, "observedGeneration": 3, "currentRevision": "a", "updateRevision": "b" });
        let set = json!({ "metadata": { "name": "fire-turn", "generation": 3 }, "spec": spec, "status": status });
        found.children.sets.insert("fire-turn".into(), object(set));
        let mut pods = vec![("fire-turn-0", "a", json!({}))];
        pods.extend(pod.map(|status| ("fire-turn-1", "b", status)));
        for (name, revision, status) in pods {
            let metadata =
                json!({ "name": name, "creationTimestamp": "2026-01-01T00:00:00Z", "labels": { "controller-revision-hash": revision } });
            found.pods.insert(name.into(), object(json!({ "metadata": metadata, "status": status })));
        }
        found
    }

    /// What is said of it so long after it was made; `None`: the servers are replaced.
    fn said(found: &Found, class: &str, seconds: i64) -> Option<(Reason, String)> {
        let valid = valid(json!({ "turn": { "exposure": { "type": "ClusterIP" }, "podTemplate": { "priorityClassName": class } } }));
        let now = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds);
        trial(&valid, found, &Replacement::None, now).map(|trial| (trial.said.reason, trial.said.message))
    }

    #[test]
    fn one_that_is_tried_is_given_time_and_then_said_not_to_be_ready() {
        let reason = |found: &Found, seconds| said(found, "old", seconds).map(|(reason, _)| reason);
        let mut silent = found(Some(json!({})));
        assert_eq!((reason(&silent, 50), reason(&silent, 70)), (Some(Reason::Accepted), Some(Reason::NewServerNotReady)));
        silent.attempt.warning = Some("MountVolume.SetUp failed: secret \"x\" not found".into());
        let message = said(&silent, "old", 70).unwrap().1;
        assert!(
            message.contains("pod fire-turn-1 is not ready since it was made at 2026-01-01T00:00:00Z: MountVolume.SetUp failed"),
            "{message}"
        );
        // One that starts over and over is known by how it ends, whatever it does at the moment.
        let ends = |state: Value, restarts: i32, since: &str| {
            let ended = json!({ "terminated": { "exitCode": 2, "reason": "Error" } });
            let container = json!({ "name": "turn", "image": "i", "imageID": "", "ready": state.get("running").is_some() && !since.is_empty(),
                "restartCount": restarts, "state": state, "lastState": ended });
            let ready = json!([{ "type": "Ready", "status": if since.is_empty() { "False" } else { "True" }, "lastTransitionTime": Some(since).filter(|since| !since.is_empty()) }]);
            found(Some(json!({ "containerStatuses": [container], "conditions": ready })))
        };
        for state in [json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s" } }), json!({ "running": {} })] {
            let (reason, message) = said(&ends(state, 1, ""), "old", 5).unwrap();
            assert_eq!(reason, Reason::NewServerNotReady);
            assert!(
                message.contains("pod fire-turn-1: its container ends with exit code 2 (Error): kubectl logs -p fire-turn-1"),
                "{message}"
            );
        }
        // It is to stay ready then, and one that never ended is believed at once.
        let ready = |restarts| ends(json!({ "running": {} }), restarts, "2026-01-01T00:00:10Z");
        assert_eq!((reason(&ready(1), 20), reason(&ready(1), 80), reason(&ready(0), 20)), (Some(Reason::Accepted), None, None));
    }

    #[test]
    fn one_that_cannot_be_made_is_against_the_change_unless_each_would_be_in_the_place_of_another() {
        let refused = |why: &str, class: &str| {
            let mut found = found(None);
            found.attempt.refused = Some(why.into());
            said(&found, class, 5).map(|(reason, _)| reason)
        };
        assert_eq!(said(&found(None), "old", 500).map(|(reason, _)| reason), Some(Reason::Accepted), "it is on its way");
        assert_eq!(refused("denied by policy", "old"), Some(Reason::NewServerNotReady));
        assert_eq!(refused("exceeded quota: few", "old"), None);
        // It has the class of those that run, which may be gone; they are to have the new one.
        assert_eq!(refused("no PriorityClass with name old was found", "new"), None);
        assert_eq!(refused("no PriorityClass with name old was found", "old"), Some(Reason::NewServerNotReady));
        // The change was taken back; and somebody edited the StatefulSet.
        let mut back = found(None);
        back.pods.get_mut("fire-turn-0").unwrap().labels_mut().insert(REVISION.into(), "b".into());
        assert_eq!(said(&back, "old", 5), None);
        let mut away = found(None);
        away.pods.clear();
        assert!(said(&away, "old", 5).is_some(), "a server that is on its way would be made as those that do not become ready");
    }
}
