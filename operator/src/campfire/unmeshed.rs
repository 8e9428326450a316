//! Pods that have a sidecar and no mesh. Where the sidecar does not say why, its pod shows it: an image that is not pulled, a container that fails.
//! It is told where people look: by the MeshPeer, by an event on the pod, and by a number on the Campfire.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use campfire_api::conditions::{ConditionType, Reason};
use campfire_api::names::{INIT_CONTAINER, SIDECAR_CONTAINER};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use kube::Api;

use super::missed::Reasons;
use crate::cluster::InjectedPod;
use crate::conditions::{Said, condition};
use crate::context::Context;
use crate::events::{self, Happened};
use crate::state::{ObjectKey, PodId};
use crate::webhook::inject::startup_timeout;

/// How long after its startup timeout a pod may be on its way: its image is pulled, its MeshPeer written.
const GRACE: Duration = Duration::from_secs(20);
/// Pods that are asked for in one look, and that events are sent for.
const MOST: usize = 20;

/// The pods of each Campfire that are without the mesh, by reason.
#[derive(Debug, Default)]
pub struct Unmeshed {
    counts: Mutex<BTreeMap<ObjectKey, Reasons>>,
    told: Mutex<BTreeSet<(PodId, Reason)>>,
}

impl Unmeshed {
    /// Of one Campfire.
    pub fn of(&self, campfire: &ObjectKey) -> Reasons {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(campfire).cloned().unwrap_or_default()
    }

    /// Looks at all pods that have a sidecar; returns the Campfires whose numbers changed.
    pub async fn look(&self, ctx: &Context) -> Vec<ObjectKey> {
        let mut counts: BTreeMap<ObjectKey, Reasons> = BTreeMap::new();
        let (mut causes, mut told) = (HashMap::new(), BTreeSet::new());
        let (mut asked, mut said) = (0, 0);
        for late in ctx.cluster.pods.state().into_iter().filter_map(|pod| late(ctx, pod)) {
            let mut why = late.said.clone();
            if late.silent {
                let known = ctx.causes.of(&late.pod.id);
                let found = if asked < MOST { ask(ctx, &late.pod.id, &mut asked).await } else { known };
                if let Some(found) = found {
                    causes.insert(late.pod.id.clone(), found.clone());
                    why = found;
                }
            }
            let count = counts.entry(late.campfire).or_default().entry(why.reason.name()).or_default();
            *count = count.saturating_add(1);
            let mark = (late.pod.id.clone(), why.reason);
            let new = !self.told.lock().unwrap_or_else(PoisonError::into_inner).contains(&mark);
            if new && said < MOST {
                said += 1;
                let note = format!("without the mesh: {}", why.message);
                events::say_of(&ctx.cluster, &late.pod.object_ref(), Happened::WithoutMesh(why.reason), &note).await;
                told.insert(mark);
            } else if !new {
                told.insert(mark);
            }
        }
        ctx.causes.replace(causes);
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
        let mut held = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: BTreeSet<ObjectKey> = held.keys().chain(counts.keys()).cloned().collect();
        let changed = keys.into_iter().filter(|key| held.get(key) != counts.get(key)).collect();
        *held = counts;
        changed
    }
}

/// A pod that should be in the mesh by now.
struct Late {
    pod: Arc<InjectedPod>,
    campfire: ObjectKey,
    /// As its MeshPeer has it.
    said: Said,
    /// Its sidecar says nothing.
    silent: bool,
}

fn late(ctx: &Context, pod: Arc<InjectedPod>) -> Option<Late> {
    let PodId { key, .. } = &pod.id;
    // What a new leader has not heard yet an earlier one wrote down. Mostly that all is well, and nothing more is asked.
    let peer = ctx.cluster.peers.get(key);
    let ready = peer.as_ref().and_then(|peer| condition(&peer.status.as_ref()?.conditions, ConditionType::Ready));
    if pod.deleted || ready.is_some_and(|ready| ready.status == "True") {
        return None;
    }
    let campfire = pod.campfire()?;
    let admitted = ctx.cluster.admit(campfire, &key.namespace).ok()?;
    let age = Timestamp::now().as_second().saturating_sub(pod.created?.as_second());
    let patience = startup_timeout(&key.namespace, &pod.annotations, &admitted, &ctx.settings.trusted).saturating_add(GRACE);
    if u64::try_from(age).unwrap_or(0) < patience.as_secs() {
        return None;
    }
    let report = ctx.reports.get(&pod.id);
    let changed = ready.is_some_and(|ready| ready.reason == Reason::InterfaceChanged.name());
    if !changed && report.as_ref().is_some_and(|said| said.report.ready) {
        return None;
    }
    let unknown = || Said::of(Reason::NotReported, "its sidecar has not reported yet: kubectl logs POD -c campfire");
    let said = ready.and_then(|ready| Some(Said::of(Reason::named(&ready.reason)?, ready.message.clone()))).unwrap_or_else(unknown);
    let (campfire, silent) = (campfire.clone(), report.is_none());
    Some(Late { pod, campfire, said, silent })
}

/// What the pod itself shows.
async fn ask(ctx: &Context, pod: &PodId, asked: &mut usize) -> Option<Said> {
    *asked += 1;
    let pods: Api<Pod> = Api::namespaced(ctx.cluster.client.clone(), &pod.key.namespace);
    let found = pods.get_opt(&pod.key.name).await.ok()??;
    let secrets = found.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref()).unwrap_or_default();
    let secrets: Vec<&str> = secrets.iter().map(|secret| secret.name.as_str()).collect();
    let mut said = cause(found.status.as_ref()?)?;
    if said.reason == Reason::ImageNotPulled && !secrets.is_empty() {
        // The operator may not read Secrets in the namespaces of members.
        let _ = write!(said.message, "; its imagePullSecrets are {}: are they in namespace {}?", secrets.join(", "), pod.key.namespace);
    }
    Some(said)
}

/// Why a pod's sidecar says nothing. Pure.
pub fn cause(status: &PodStatus) -> Option<Said> {
    let of = |name: &str| status.init_container_statuses.iter().flatten().find(|container| container.name == name);
    if let Some(unplaced) = status.conditions.iter().flatten().find(|it| it.type_ == "PodScheduled" && it.status == "False") {
        let why = unplaced.message.clone().or_else(|| unplaced.reason.clone()).unwrap_or_default();
        return Some(Said::of(Reason::NotScheduled, format!("the pod has no node yet: {why}")));
    }
    for (name, failing) in [(INIT_CONTAINER, Reason::InitFailing), (SIDECAR_CONTAINER, Reason::SidecarFailing)] {
        if let Some(said) = of(name).and_then(|container| failure(container, failing)) {
            return Some(said);
        }
    }
    let running = |container: &ContainerStatus| container.state.as_ref().is_some_and(|state| state.running.is_some());
    of(SIDECAR_CONTAINER).filter(|container| running(container)).map(|_| {
        let message = "the sidecar runs and has not reached the operator: does the pod reach Service campfire-agent (a NetworkPolicy for egress, another \
                       mesh's redirection)? kubectl logs POD -c campfire has its tries";
        Said::of(Reason::NoSettings, message)
    })
}

/// What is wrong with a container of ours.
fn failure(container: &ContainerStatus, failing: Reason) -> Option<Said> {
    let ContainerState { waiting, terminated, .. } = container.state.clone().unwrap_or_default();
    let name = &container.name;
    if let Some(waiting) = waiting {
        let why = waiting.reason.unwrap_or_default();
        let message = waiting.message.unwrap_or_default();
        return match why.as_str() {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable" => {
                let image = &container.image;
                let message = format!(
                    "image {image} of container {name} is not pulled ({why}): push it, correct spec.sidecar.image or the chart's, or give \
                     spec.sidecar.imagePullSecrets, and make the pod anew"
                );
                Some(Said::of(Reason::ImageNotPulled, message))
            }
            "" | "PodInitializing" | "ContainerCreating" => None,
            _ => Some(Said::of(failing, format!("container {name}: {why} {message}: kubectl logs POD -c {name} says why"))),
        };
    }
    let ended = terminated.filter(|ended| ended.exit_code != 0)?;
    let why = ended.reason.unwrap_or_default();
    Some(Said::of(failing, format!("container {name} ended with status {} ({why}): kubectl logs POD -c {name} says why", ended.exit_code)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{self, Rig};

    #[tokio::test]
    async fn a_pod_without_its_mesh_is_counted_and_has_one_event_that_says_why() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let events = told.clone();
        let mut rig = Rig::new(move |method, path, body| match (method, path) {
            ("GET", "/api/v1/namespaces/shop/pods/web") => {
                let waiting = json!({ "waiting": { "reason": "ImagePullBackOff" } });
                let init = json!({ "name": INIT_CONTAINER, "image": "x:nope", "imageID": "", "ready": false, "restartCount": 0, "state": waiting });
                let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" }, "status": { "initContainerStatuses": [init] } });
                (200, pod)
            }
            ("POST", path) if path.ends_with("/events") => {
                events.lock().unwrap().push((body["reason"].clone(), body["regarding"]["name"].clone()));
                (201, body.clone())
            }
            _ => (
                404,
                json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "message": "", "code": 404 }),
            ),
        });
        let campfire = ObjectKey::new("shop", "home");
        rig.namespace("shop", &json!({}));
        rig.campfire("shop", "home", &json!({}));
        for (name, uid) in [("web", "1"), ("fine", "2")] {
            rig.pod("shop", name, uid, &json!({ campfire_api::names::CAMPFIRE_ANNOTATION: "shop/home" }));
        }
        let fine = PodId { key: ObjectKey::new("shop", "fine"), uid: "2".into() };
        rig.ctx.reports.put(fine, testing::reported(&campfire, testing::report(1)));
        let unmeshed = Unmeshed::default();
        assert_eq!(unmeshed.look(&rig.ctx).await, std::slice::from_ref(&campfire));
        assert_eq!(unmeshed.of(&campfire), Reasons::from([("ImageNotPulled", 1)]));
        let silent = PodId { key: ObjectKey::new("shop", "web"), uid: "1".into() };
        assert_eq!(rig.ctx.causes.of(&silent).unwrap().reason, Reason::ImageNotPulled, "for its MeshPeer");
        assert_eq!(unmeshed.look(&rig.ctx).await, [], "nothing new");
        assert_eq!(*told.lock().unwrap(), [(json!("ImageNotPulled"), json!("web"))], "once");
        rig.delete_pod("shop", "web");
        assert_eq!(unmeshed.look(&rig.ctx).await, std::slice::from_ref(&campfire));
        assert_eq!(unmeshed.of(&campfire), Reasons::new());
    }

    #[test]
    fn what_keeps_a_sidecar_silent_is_read_from_its_pod() {
        let containers = |init: Value, sidecar: Value| {
            let of = |name: &str, state: Value| json!({ "name": name, "image": "x:nope", "imageID": "", "ready": false, "restartCount": 0, "state": state });
            json!({ "initContainerStatuses": [of(INIT_CONTAINER, init), of(SIDECAR_CONTAINER, sidecar)] })
        };
        let waiting = |reason: &str| json!({ "waiting": { "reason": reason, "message": "because" } });
        let done = || json!({ "terminated": { "exitCode": 0 } });
        let table = [
            (
                json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": "no node has CPU" }] }),
                Some((Reason::NotScheduled, "no node has CPU")),
            ),
            (
                containers(waiting("ImagePullBackOff"), waiting("PodInitializing")),
                Some((Reason::ImageNotPulled, "image x:nope of container campfire-init")),
            ),
            (
                containers(waiting("CrashLoopBackOff"), waiting("PodInitializing")),
                Some((Reason::InitFailing, "kubectl logs POD -c campfire-init")),
            ),
            (
                containers(json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } }), waiting("PodInitializing")),
                Some((Reason::InitFailing, "OOMKilled")),
            ),
            (containers(done(), waiting("CreateContainerError")), Some((Reason::SidecarFailing, "CreateContainerError because"))),
            (containers(done(), json!({ "running": {} })), Some((Reason::NoSettings, "Service campfire-agent"))),
            (containers(done(), waiting("PodInitializing")), None),
            (containers(waiting("PodInitializing"), waiting("PodInitializing")), None),
            (json!({}), None),
        ];
        for (status, expected) in table {
            let found = cause(&serde_json::from_value(status.clone()).unwrap());
            assert_eq!(found.as_ref().map(|said| said.reason), expected.map(|(reason, _)| reason), "{status}");
            if let (Some(found), Some((_, part))) = (found, expected) {
                assert!(found.message.contains(part), "{}", found.message);
            }
        }
    }
}
