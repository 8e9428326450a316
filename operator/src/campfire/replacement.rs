//! Whether the servers' pods can be made anew as a change of their template would have them. The controller of a StatefulSet deletes a pod that works
//! first and makes the new one then: one that the API server refuses (a PriorityClass that does not exist, PodSecurity, a policy, a quota) would
//! leave nothing in its place. So a pod is tried before, by a dry run, which is all that the operator does of its right to create pods.

use std::collections::BTreeMap;
use std::time::Duration;

use campfire_api::conditions::Reason;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PostParams;
use kube::{Api, Resource as _, ResourceExt as _};

use super::apply::{self, Settled};
use super::children;
use super::error::Error;
use super::fetch::Found;
use super::rollout;
use super::validate::Valid;
use crate::cluster::Bounds;
use crate::conditions::Said;
use crate::context::Context;
use crate::webhook::fit::no_room_instead_of;

/// What the API server says of a quota that has no room for one more.
pub const FULL: &str = "exceeded quota";
/// For one try.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a change of the servers' template comes to, where there are pods that would be replaced by it.
#[derive(Debug)]
pub enum Replacement {
    /// There is none.
    None,
    /// The new pods are admitted.
    Admitted,
    /// They are each in the place of another: a quota has no room for one more, or there is nothing that one more would show.
    InPlace,
    /// They are not: why.
    Refused(Said),
}

/// Asks the API server what it has against the servers as they would be now, while those that there are would be deleted for them.
pub async fn tried(ctx: &Context, settled: &Settled, valid: &Valid, found: &mut Found) -> Result<Replacement, Error> {
    if valid.turn.replicas == 0 {
        return Ok(Replacement::None);
    }
    let (account, wanted) = children::servers(valid, &ctx.settings);
    let name = wanted.name_any();
    // Where no pod is there is none to lose: what keeps it from being made the StatefulSet's events say.
    let Some(set) = found.children.sets.get(&name).filter(|set| set.status.as_ref().is_some_and(|status| status.replicas > 0)) else {
        return Ok(Replacement::None);
    };
    let (tries, tried) = (rollout::tries(set), rollout::one_more(&wanted, set, &found.pods));
    let changes = async |wanted: &StatefulSet| apply::next_template(ctx, settled, wanted, set).await;
    let changed = changes(if tries { &tried } else { &wanted }).await;
    let differs = tried.spec.as_ref().map(|spec| &spec.template) != wanted.spec.as_ref().map(|spec| &spec.template);
    let shown = match &changed {
        Some(_) => !differs || tries || changes(&tried).await.is_some(),
        // What one that is tried does without is to be admitted too, and may be another by now.
        None if tries && differs => false,
        None => return Ok(Replacement::None),
    };
    // They are to be admitted as they will be, not as they are tried.
    let next = if tries && differs { changes(&wanted).await.or_else(|| changed.clone()) } else { changed.clone() };
    let (Some(next), Some(now)) = (next, set.spec.as_ref().map(|spec| &spec.template)) else { return Ok(Replacement::None) };
    let admitted = match &changed {
        None => Replacement::None,
        Some(_) if shown => Replacement::Admitted,
        Some(_) => Replacement::InPlace,
    };
    let namespace = &valid.key.namespace;
    let pod = pod(set, &next);
    let specs = now.spec.clone().unwrap_or_default();
    // It is ours to make: somebody who deleted it keeps no pod from being tried.
    apply::all(ctx, settled, namespace, &BTreeMap::from([(name, account)]), &mut found.children.accounts).await?;
    let pods: Api<Pod> = Api::namespaced(ctx.cluster.client.clone(), namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let Ok(answer) = tokio::time::timeout(PATIENCE, pods.create(&dry, &pod)).await else { return Ok(admitted) };
    let full = matches!(&answer, Err(kube::Error::Api(status)) if status.message.contains(FULL));
    let why = against(answer, &specs, &pod.spec.unwrap_or_default(), &ctx.cluster.bounds(namespace));
    let Some(why) = why else { return Ok(if full && changed.is_some() { Replacement::InPlace } else { admitted }) };
    let message = format!(
        "the servers stay as they are, for the API server refuses their pods as spec.turn has them now: {why}: correct spec.turn.podTemplate or \
         what it names; it is tried again within two minutes, and all else goes on"
    );
    Ok(Replacement::Refused(Said::of(Reason::PodsRefused, message)))
}

/// A pod of this template as the StatefulSet's controller would make it, by the name of one that there is: policies know pods by their names, labels and
/// owners. Names are looked at last of all: whoever hears that it is taken has been admitted.
fn pod(set: &StatefulSet, template: &PodTemplateSpec) -> Pod {
    let name = format!("{}-0", set.name_any());
    let mut metadata = template.metadata.clone().unwrap_or_default();
    let labels = metadata.labels.get_or_insert_default();
    labels.insert("statefulset.kubernetes.io/pod-name".into(), name.clone());
    labels.insert("apps.kubernetes.io/pod-index".into(), "0".into());
    // Nobody is kept from deleting the StatefulSet by it, for which another right would be needed.
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: StatefulSet::api_version(&()).into_owned(),
        kind: StatefulSet::kind(&()).into_owned(),
        name: set.name_any(),
        uid: set.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    metadata.name = Some(name);
    Pod { metadata, spec: Some(spec), status: None }
}

/// What the API server has against a pod that was tried, in its words. `None`: nothing, or nothing that holds for a pod in the place of another.
///
/// - An API server that does not answer, or has too much to do, says nothing about the pod: the change is made, or fails, as it would without a try.
/// - It may refuse the *try* alone: where the operator may create no pods (a Role of an older chart), or where a webhook takes no dry runs.
/// - A quota is asked for one pod more, and the one that is replaced is deleted before: it is against the new one if it has no room for it in the
///   place of the old one. That a quota demands what the template lacks ("must specify") holds for both.
/// - A webhook that must be asked and does not answer (500) refuses every pod while that lasts: to wait costs nothing.
fn against(answer: kube::Result<Pod>, now: &PodSpec, next: &PodSpec, bounds: &Bounds) -> Option<String> {
    let Err(kube::Error::Api(status)) = answer else { return None };
    let unasked = status.code == 500 && status.message.contains("failed calling webhook");
    let of_the_try = ["cannot create resource \"pods\"", "does not support dry run"].iter().any(|words| status.message.contains(words));
    if !(unasked || matches!(status.code, 400 | 403 | 422)) || of_the_try {
        return None;
    }
    if !status.message.contains(FULL) {
        return Some(status.message);
    }
    no_room_instead_of(now, next, &bounds.quotas).map(|why| format!("{} ({why})", status.message))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::core::Status;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_refuses_a_try_alone_holds_up_no_change_and_what_refuses_the_new_pod_does() {
        let forbidden = |why: &str| format!("pods \"fire-turn-0\" is forbidden: {why}");
        let full = forbidden("exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1");
        let table = [
            (403, forbidden("no PriorityClass with name nope was found"), true),
            (403, forbidden("error looking up service account default/fire-turn: serviceaccount \"fire-turn\" not found"), true),
            (403, forbidden("violates PodSecurity \"restricted:latest\": hostPort"), true),
            (403, forbidden("failed quota: q: must specify limits.cpu for: turn"), true),
            (403, forbidden("maximum memory usage per Container is 1Gi, but limit is 2Gi"), true),
            (422, "pods \"fire-turn-0\" is invalid: ValidatingAdmissionPolicy 'p' denied request: no".to_owned(), true),
            (400, "admission webhook \"policy.example\" denied the request: no".to_owned(), true),
            (500, "Internal error occurred: failed calling webhook \"policy.example\": connection refused".to_owned(), true),
            (403, full, false),
            (400, "admission webhook \"policy.example\" does not support dry run".to_owned(), false),
            (
                403,
                "pods is forbidden: User \"op\" cannot create resource \"pods\" in API group \"\" in the namespace \"default\"".to_owned(),
                false,
            ),
            (409, "pods \"fire-turn-0\" already exists".to_owned(), false),
            (404, "namespaces \"default\" not found".to_owned(), false),
            (429, "too many requests".to_owned(), false),
            (500, "Internal error occurred: etcdserver: leader changed".to_owned(), false),
            (503, "apiserver is shutting down".to_owned(), false),
        ];
        let bounds = Bounds { quotas: vec![quota(&json!({ "pods": "1" }), &json!({ "pods": "1" }))], ..Bounds::default() };
        for (code, words, holds) in table {
            let answer = Err(kube::Error::Api(Box::new(Status::failure(&words, "").with_code(code))));
            let said = against(answer, &PodSpec::default(), &PodSpec::default(), &bounds);
            assert_eq!(said.as_deref(), holds.then_some(words.as_str()), "{code}");
        }
        let away = std::io::Error::other("connection refused");
        assert_eq!(against(Err(kube::Error::Service(Box::new(away))), &PodSpec::default(), &PodSpec::default(), &bounds), None);
        assert_eq!(against(Ok(Pod::default()), &PodSpec::default(), &PodSpec::default(), &bounds), None);
    }

    #[test]
    fn a_quota_is_against_a_pod_that_has_no_room_in_the_place_of_the_old_one() {
        let small = json!({ "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "512Mi" } });
        let large = json!({ "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "1Gi" } });
        let of = |resources: &Value, class: &str| -> PodSpec {
            let container = json!({ "name": "turn", "resources": resources });
            serde_json::from_value(json!({ "containers": [container], "priorityClassName": class })).unwrap()
        };
        let scoped = |class: &str| json!({ "scopeSelector": { "matchExpressions": [{ "scopeName": "PriorityClass", "operator": "In", "values": [class] }] } });
        // Of the new pod: its resources and class; of the quota: hard, used, spec. Whether it fits.
        let table = [
            ("full, and one goes for it", (&small, "a"), (json!({ "pods": "2" }), json!({ "pods": "2" }), json!({})), true),
            ("nothing is allowed any more", (&small, "a"), (json!({ "pods": "0" }), json!({ "pods": "1" }), json!({})), false),
            (
                "fewer are allowed than there are",
                (&small, "a"),
                (json!({ "count/pods": "1" }), json!({ "count/pods": "2" }), json!({})),
                false,
            ),
            (
                "larger, and there is room for what is more",
                (&large, "a"),
                (json!({ "limits.memory": "1Gi" }), json!({ "limits.memory": "512Mi" }), json!({})),
                true,
            ),
            (
                "larger than what is left",
                (&large, "a"),
                (json!({ "limits.memory": "1Gi" }), json!({ "limits.memory": "1Gi" }), json!({})),
                false,
            ),
            (
                "of a class whose quota is full of others",
                (&small, "b"),
                (json!({ "pods": "1" }), json!({ "pods": "1" }), scoped("b")),
                false,
            ),
            (
                "of a class that this quota does not count",
                (&small, "b"),
                (json!({ "pods": "0" }), json!({ "pods": "0" }), scoped("a")),
                true,
            ),
            ("what it does not ask for", (&small, "a"), (json!({ "requests.nvidia.com/gpu": "0" }), json!({}), json!({})), true),
        ];
        for (what, (resources, class), (hard, used, spec), fits) in table {
            let quota: Arc<_> = {
                let mut quota = Arc::unwrap_or_clone(quota(&hard, &used));
                quota.spec = serde_json::from_value(spec).unwrap();
                quota.into()
            };
            let said = no_room_instead_of(&of(&small, "a"), &of(resources, class), &[quota]);
            assert_eq!(said.is_none(), fits, "{what}: {said:?}");
        }
    }

    fn quota(hard: &Value, used: &Value) -> Arc<k8s_openapi::api::core::v1::ResourceQuota> {
        serde_json::from_value(json!({ "metadata": { "name": "q" }, "status": { "hard": hard, "used": used } })).map(Arc::new).unwrap()
    }
}
