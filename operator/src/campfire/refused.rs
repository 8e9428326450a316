//! Pods that were given a sidecar and are refused for it afterwards: by a policy of a namespace in which the operator may try nothing. Nobody tells it: it is
//! seen by what makes such pods again and again while there is none. That is told where people look, on what makes them, and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use campfire_api::names::{ENABLED, INJECTED_LABEL};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Api;
use kube::api::ListParams;

use super::missed::Reasons;
use crate::context::Context;
use crate::events::{Happened, say_of};
use crate::state::ObjectKey;

/// Of what makes pods that are refused.
pub const REFUSED: &str = "PodsRefusedWithSidecar";
/// Owners that are looked at in one look, and pods of each namespace.
const MOST: usize = 20;
const PAGE: u32 = 500;

/// What makes pods that are refused, by Campfire.
#[derive(Debug, Default)]
pub struct Refused {
    counts: Mutex<BTreeMap<ObjectKey, i32>>,
    told: Mutex<BTreeSet<String>>,
}

impl Refused {
    /// Adds those of one Campfire.
    pub fn add(&self, campfire: &ObjectKey, reasons: &mut Reasons) {
        if let Some(count) = self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(campfire) {
            reasons.insert(REFUSED, *count);
        }
    }

    /// Looks at what has made pods again and again; returns the Campfires whose number changed.
    pub async fn look(&self, ctx: &Context) -> Vec<ObjectKey> {
        let mut counts: BTreeMap<ObjectKey, i32> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let told = std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        for (owner, campfire) in ctx.given.often(Instant::now()).into_iter().take(MOST) {
            match has_pods(ctx, &owner).await {
                Some(true) => ctx.given.came(&owner),
                Some(false) => {
                    let count = counts.entry(campfire).or_default();
                    *count = count.saturating_add(1);
                    let uid = owner.uid.clone().unwrap_or_default();
                    if !told.contains(&uid) {
                        let note = "its pods are given a campfire sidecar, and then refused: event FailedCreate says by what. If that is against the \
                                    sidecar, exempt the containers campfire-init and campfire from it; or label the pod template \
                                    campfire.network/inject: disabled";
                        say_of(&ctx.cluster, &owner, Happened::PodsRefusedWithSidecar, note).await;
                    }
                    seen.insert(uid);
                }
                // It is not told again for that.
                None => seen.extend(owner.uid.filter(|uid| told.contains(uid))),
            }
        }
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        let mut held = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: BTreeSet<ObjectKey> = held.keys().chain(counts.keys()).cloned().collect();
        let changed = keys.into_iter().filter(|key| held.get(key) != counts.get(key)).collect();
        *held = counts;
        changed
    }
}

/// Whether there is a pod with a sidecar that this controls. `None`: not known.
async fn has_pods(ctx: &Context, owner: &ObjectReference) -> Option<bool> {
    // Of one that there is: who asks a webhook may be anybody.
    let namespace = ctx.cluster.namespace(owner.namespace.as_deref()?)?;
    let pods = Api::<Pod>::namespaced(ctx.cluster.client.clone(), &namespace.name);
    let params = ListParams::default().labels(&format!("{INJECTED_LABEL}={ENABLED}")).limit(PAGE);
    let page = pods.list_metadata(&params).await.ok()?;
    let owned = page.items.iter().any(|pod| pod.metadata.owner_references.iter().flatten().any(|of| Some(&of.uid) == owner.uid.as_ref()));
    // In a namespace with more pods it may have some that were not seen.
    (owned || page.metadata.continue_.is_none_or(|more| more.is_empty())).then_some(owned)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::Rig;

    #[tokio::test]
    async fn what_makes_pods_that_are_refused_is_told_once_and_counted_until_there_is_one() {
        let there = Arc::new(Mutex::new(json!([])));
        let events = Arc::new(Mutex::new(Vec::<Value>::new()));
        let (pods, told) = (there.clone(), events.clone());
        let mut rig = Rig::new(move |method, path, body| {
            if (method, path) == ("GET", "/api/v1/namespaces/shop/pods") {
                let items = pods.lock().unwrap().clone();
                return (
                    200,
                    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": items }),
                );
            }
            assert!(path.contains("/events"), "{method} {path}");
            told.lock().unwrap().push(json!([body["reason"], body["regarding"]["kind"], body["regarding"]["name"]]));
            (201, body.clone())
        });
        rig.namespace("shop", &json!({}));
        let fire = ObjectKey::new("infra", "fire");
        let owned = json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "r1", "controller": true }]);
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "ownerReferences": owned } })).unwrap();
        let now = Instant::now();
        let begun = now.checked_sub(Duration::from_secs(30)).unwrap();
        for at in [begun, begun, begun, begun, now] {
            rig.ctx.given.note("shop", &pod, &fire, at);
            // Of a namespace that nobody knows nothing is asked.
            let mut other = pod.clone();
            other.metadata.owner_references.as_mut().unwrap()[0].uid = "r2".into();
            rig.ctx.given.note("no/where", &other, &fire, at);
        }
        let refused = Refused::default();
        let count = |refused: &Refused| {
            let mut reasons = Reasons::new();
            refused.add(&fire, &mut reasons);
            reasons.get(REFUSED).copied()
        };
        assert_eq!(refused.look(&rig.ctx).await, std::slice::from_ref(&fire));
        assert_eq!(refused.look(&rig.ctx).await, []);
        assert_eq!((count(&refused), &*events.lock().unwrap()), (Some(1), &vec![json!([REFUSED, "ReplicaSet", "web-1"])]));
        *there.lock().unwrap() = json!([{ "metadata": { "name": "web-1-x", "ownerReferences": owned } }]);
        assert_eq!(refused.look(&rig.ctx).await, std::slice::from_ref(&fire));
        assert_eq!(count(&refused), None);
    }
}
