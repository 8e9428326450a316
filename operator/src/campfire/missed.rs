//! Pods that ask for a sidecar and have none: they were made while none could be given, or cannot have one. They are counted by reason, and told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use campfire_api::conditions::SkipReason;
use campfire_api::names::{DISABLED, ENABLED, INJECT_LABEL, INJECTED_LABEL};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use crate::context::Context;
use crate::events::{self, Happened};
use crate::members::Places;
use crate::state::ObjectKey;
use crate::webhook::containers::Defaults;
use crate::webhook::inject::{Decision, decide};

/// Time between looks.
pub const EVERY: Duration = Duration::from_secs(30);
/// Younger pods are left out: the watch may not have shown them yet.
const SETTLED: i64 = 10;
/// Pods of one page.
const PAGE: u32 = 500;
/// Most pods that an event is sent for, in one look.
const MAX_EVENTS: usize = 20;

/// The pods that each Campfire misses, by reason.
#[derive(Debug, Default)]
pub struct Missed {
    counts: Mutex<BTreeMap<ObjectKey, Reasons>>,
    told: Mutex<BTreeSet<String>>,
}

/// How many pods have no sidecar, by why.
pub type Reasons = BTreeMap<&'static str, i32>;

/// Of a pod that would get a sidecar if it were made now.
pub const MISSED: &str = "SidecarMissed";

impl Missed {
    /// Of one Campfire.
    pub fn of(&self, campfire: &ObjectKey) -> Reasons {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(campfire).cloned().unwrap_or_default()
    }

    /// Looks at all pods that ask for a sidecar and have none; returns the Campfires whose number changed.
    pub async fn look(&self, ctx: &Context) -> kube::Result<Vec<ObjectKey>> {
        let places = ctx.cluster.places();
        // What the sidecar would look like does not matter here, only whether there would be one.
        let defaults = Defaults { nodes: ctx.cluster.nodes(), ..Defaults::of(&ctx.settings) };
        let mut counts: BTreeMap<ObjectKey, Reasons> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut tell = Vec::new();
        let lists = if places.campfires().is_empty() { Vec::new() } else { lists(ctx) };
        for (api, labels) in lists {
            let mut params = ListParams::default().labels(&labels).limit(PAGE);
            loop {
                let page = api.list(&params).await?;
                for pod in page.items {
                    let Some((campfire, why)) = misses(ctx, &pod, &places, &defaults) else { continue };
                    let count = counts.entry(campfire).or_default().entry(why.0.map_or(MISSED, SkipReason::name)).or_default();
                    *count = count.saturating_add(1);
                    let uid = pod.uid().unwrap_or_default();
                    let new = !self.told.lock().unwrap_or_else(PoisonError::into_inner).contains(&uid);
                    if new && tell.len() < MAX_EVENTS {
                        seen.insert(uid);
                        tell.push((pod, why));
                    } else if !new {
                        seen.insert(uid);
                    }
                }
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => break,
                }
            }
        }
        for (pod, (reason, note)) in tell {
            let happened = reason.map_or(Happened::SidecarMissed, Happened::Skipped);
            events::say(&ctx.cluster, &pod, happened, &note).await;
        }
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        let mut held = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: BTreeSet<ObjectKey> = held.keys().chain(counts.keys()).cloned().collect();
        let changed = keys.into_iter().filter(|key| held.get(key) != counts.get(key)).collect();
        *held = counts;
        Ok(changed)
    }
}

/// Where pods are that ask for a sidecar and have none.
fn lists(ctx: &Context) -> Vec<(Api<Pod>, String)> {
    let client = || ctx.cluster.client.clone();
    let mut lists = vec![(Api::<Pod>::all(client()), format!("{INJECT_LABEL}={ENABLED},{INJECTED_LABEL}!={ENABLED}"))];
    for namespace in ctx.cluster.namespaces.state() {
        if namespace.labels.get(INJECT_LABEL).is_some_and(|value| value == ENABLED) {
            // Those with the pod's own label are in the first list.
            let labels = format!("{INJECT_LABEL} notin ({ENABLED},{DISABLED}),{INJECTED_LABEL}!={ENABLED}");
            lists.push((Api::namespaced(client(), &namespace.name), labels));
        }
    }
    lists
}

/// The Campfire that a pod would sit at, and why it does not: `None`, if it would now.
fn misses(ctx: &Context, pod: &Pod, places: &Places, defaults: &Defaults) -> Option<(ObjectKey, (Option<SkipReason>, String))> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let age = pod.creation_timestamp().map_or(i64::MAX, |made| Timestamp::now().as_second().saturating_sub(made.0.as_second()));
    if pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed")) || age < SETTLED {
        return None;
    }
    let namespace = ctx.cluster.namespace(&pod.namespace().unwrap_or_default())?;
    let bounds = ctx.cluster.bounds(&namespace.name);
    match decide(pod, &namespace, &bounds, places, defaults, "-") {
        Decision::Patch { campfire, ops, .. } if !ops.is_empty() => {
            let note = "the pod should have a campfire sidecar and has none: it was made while it could not be given one; delete it, so that it is \
                        made anew";
            Some((campfire, (None, note.to_owned())))
        }
        Decision::Patch { .. } => None,
        Decision::Skip { reason, message, campfire } => {
            Some((campfire?, (Some(reason), format!("the pod has no campfire sidecar: {message}"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::members::Served;
    use crate::testing::Rig;

    #[tokio::test]
    async fn a_campfire_that_is_not_served_misses_nobody_and_a_pod_that_is_missed_is_told_what_to_do() {
        let pod = json!({
            "metadata": {
                "namespace": "shop", "name": "web", "uid": "u", "labels": { INJECT_LABEL: ENABLED },
                "creationTimestamp": "2026-11-27T00:00:00Z",
            },
            "spec": { "containers": [{ "name": "app" }] },
        });
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = events.clone();
        let mut rig = Rig::serving(Served::new(["infra"]), move |method, path, body| {
            if (method, path) == ("GET", "/api/v1/pods") {
                return (200, json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [pod] }));
            }
            told.lock().unwrap().push([&body["reason"], &body["regarding"]["name"], &body["note"]].map(Clone::clone));
            (201, body.clone())
        });
        rig.namespace("shop", &json!({}));
        let open = json!({ "members": { "namespaces": { "from": "All" } } });
        rig.campfire("games", "open", &open);
        let missed = Missed::default();
        assert_eq!(missed.look(&rig.ctx).await.unwrap(), []);
        rig.campfire("infra", "open", &open);
        let served = ObjectKey::new("infra", "open");
        assert_eq!(missed.look(&rig.ctx).await.unwrap(), std::slice::from_ref(&served), "the other one makes it not ambiguous either");
        assert_eq!((missed.of(&served), missed.of(&ObjectKey::new("games", "open"))), (Reasons::from([(MISSED, 1)]), Reasons::new()));
        let note = "the pod should have a campfire sidecar and has none: it was made while it could not be given one; delete it, so that it is made anew";
        assert_eq!(*events.lock().unwrap(), [["SidecarMissed", "web", note].map(|text| json!(text))]);
        missed.look(&rig.ctx).await.unwrap();
        assert_eq!(events.lock().unwrap().len(), 1, "once");
    }
}
