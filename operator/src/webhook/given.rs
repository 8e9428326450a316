//! Pods that the webhook gave a sidecar, by what makes them. Whether the API server took them it is not told: what controls them tries again and again
//! where it did not.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::bounds::Recent;
use crate::state::ObjectKey;

/// Owners that are remembered.
const OWNERS: usize = 1_000;
/// Tries, and the time that they reach over, from which on it is asked whether there is any pod. A controller whose pods are refused has made a dozen by then.
const TRIES: u32 = 5;
const OVER: Duration = Duration::from_secs(20);
/// Who tries nothing for so long has what it wants, or wants it no more: controllers try again every 17 minutes at the latest.
const QUIET: Duration = Duration::from_mins(20);

/// What pods were made of lately, and how often.
#[derive(Debug)]
pub struct Given(Mutex<Recent<String, Tries>>);

#[derive(Debug)]
struct Tries {
    owner: ObjectReference,
    campfire: ObjectKey,
    count: u32,
    first: Instant,
    last: Instant,
}

impl Default for Given {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(OWNERS)))
    }
}

impl Given {
    /// A pod was given a sidecar.
    pub fn note(&self, namespace: &str, pod: &Pod, campfire: &ObjectKey, now: Instant) {
        // Whoever makes a single pod is told why it is refused.
        let Some(owner) = controller(namespace, pod) else { return };
        let Some(uid) = owner.uid.clone() else { return };
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tries) = held.get(&uid).filter(|tries| tries.campfire == *campfire && now.duration_since(tries.last) < QUIET) {
            (tries.count, tries.last) = (tries.count.saturating_add(1), now);
        } else {
            held.insert(uid, Tries { owner, campfire: campfire.clone(), count: 1, first: now, last: now });
        }
    }

    /// Those that tried so often that there should be a pod.
    pub fn often(&self, now: Instant) -> Vec<(ObjectReference, ObjectKey)> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let often = held.iter().map(|(_, tries)| tries).filter(|tries| {
            tries.count >= TRIES && tries.last.duration_since(tries.first) >= OVER && now.duration_since(tries.last) < QUIET
        });
        often.map(|tries| (tries.owner.clone(), tries.campfire.clone())).collect()
    }

    /// There is a pod: it is counted anew.
    pub fn came(&self, owner: &ObjectReference) {
        if let Some(uid) = &owner.uid {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        }
    }
}

/// What controls a pod.
pub fn controller(namespace: &str, pod: &Pod) -> Option<ObjectReference> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    Some(ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        namespace: Some(namespace.to_owned()),
        uid: Some(owner.uid.clone()),
        ..ObjectReference::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(owner: &str) -> Pod {
        let owner = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true });
        serde_json::from_value(json!({ "metadata": { "ownerReferences": [owner] } })).unwrap()
    }

    #[test]
    fn who_tries_again_and_again_is_asked_about_and_who_makes_many_at_once_is_not() {
        let (given, begun, fire) = (Given::default(), Instant::now(), ObjectKey::new("infra", "fire"));
        let often = |seconds| {
            let now = begun + Duration::from_secs(seconds);
            given.often(now).into_iter().filter_map(|(owner, _)| owner.name).collect::<Vec<_>>()
        };
        for seconds in [0, 0, 1, 3, 8, 21] {
            given.note("shop", &pod("refused"), &fire, begun + Duration::from_secs(seconds));
        }
        for _ in 0..50 {
            given.note("shop", &pod("large"), &fire, begun);
        }
        given.note("shop", &Pod::default(), &fire, begun);
        assert_eq!(often(30), ["refused"]);
        assert_eq!(often(30 * 60), [""; 0], "it has given up");
        given.came(&controller("shop", &pod("refused")).unwrap());
        assert_eq!(often(30), [""; 0]);
        for owner in 0..10 * OWNERS {
            given.note("shop", &pod(&owner.to_string()), &fire, begun);
        }
        assert!(given.0.lock().unwrap().len() <= OWNERS);
    }
}
