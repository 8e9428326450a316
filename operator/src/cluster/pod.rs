//! Pods that have a sidecar, as far as the operator reads them.

use std::collections::BTreeMap;

use campfire_api::names;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Resource as _;
use kube::api::PartialObjectMeta;

use crate::members::Claim;
use crate::state::{ObjectKey, PodId};

/// A pod that has a sidecar. There may be ten thousand, and each is looked at for each Campfire: what it says is read once, when it comes, and nothing
/// else of it is kept.
#[derive(Clone, Debug)]
pub struct InjectedPod {
    /// Which pod.
    pub id: PodId,
    /// Of its place. `None`: it names no Campfire.
    pub claim: Option<Claim>,
    /// The hash of its settings that the webhook stamped.
    pub stamped: Option<Box<str>>,
    /// Its annotations that are settings: mostly none.
    pub annotations: BTreeMap<String, String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// It is being deleted.
    pub deleted: bool,
}

impl InjectedPod {
    /// Of its metadata.
    pub fn of(pod: PartialObjectMeta<Pod>) -> Self {
        let key = ObjectKey::of(&pod);
        let claim = Claim::of(&pod.metadata);
        let mut annotations = pod.metadata.annotations.unwrap_or_default();
        let stamped = annotations.remove(names::SETTINGS_HASH_ANNOTATION).map(String::into_boxed_str);
        annotations.retain(|name, _| name.starts_with(names::CONFIG_PREFIX) || name == names::MODE_ANNOTATION);
        Self {
            id: PodId { key, uid: pod.metadata.uid.unwrap_or_default() },
            claim,
            stamped,
            // An emptied map keeps its room.
            annotations: if annotations.is_empty() { BTreeMap::new() } else { annotations },
            created: pod.metadata.creation_timestamp.map(|time| time.0),
            deleted: pod.metadata.deletion_timestamp.is_some(),
        }
    }

    /// Whether it names this Campfire. Whoever makes pods may write a claim on them.
    pub fn claims(&self, campfire: &ObjectKey) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.campfire == *campfire)
    }

    /// The Campfire that it names, if an object may be called so.
    pub fn campfire(&self) -> Option<&ObjectKey> {
        self.claim.as_ref().filter(|claim| claim.plain).map(|claim| &claim.campfire)
    }

    /// For events.
    pub fn object_ref(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(Pod::api_version(&()).into_owned()),
            kind: Some(Pod::kind(&()).into_owned()),
            name: Some(self.id.key.name.clone()),
            namespace: Some(self.id.key.namespace.clone()),
            uid: Some(self.id.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_pod_is_kept_what_it_claims_and_what_its_settings_follow_from() {
        let pod = |annotations| {
            let metadata = json!({
                "namespace": "shop", "name": "web", "uid": "u", "labels": { "a": "b" }, "annotations": annotations,
                "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:01:00Z",
            });
            InjectedPod::of(serde_json::from_value(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata })).unwrap())
        };
        let config = format!("{}direct", names::CONFIG_PREFIX);
        let said = pod(json!({
            names::CAMPFIRE_ANNOTATION: "camp/home", names::SETTINGS_HASH_ANNOTATION: "0123", &config: "Forbid", names::MODE_ANNOTATION: "node",
            "example.com/other": "x",
        }));
        assert_eq!((said.id.key.to_string().as_str(), said.id.uid.as_str(), said.stamped.as_deref()), ("shop/web", "u", Some("0123")));
        assert_eq!(said.annotations.keys().map(String::as_str).collect::<Vec<_>>(), [names::MODE_ANNOTATION, config.as_str()]);
        assert!(said.claims(&ObjectKey::new("camp", "home")) && !said.claims(&ObjectKey::new("shop", "home")));
        assert!(said.claim.as_ref().is_some_and(|claim| !claim.direct) && said.deleted && said.created.is_some());
        let object = said.object_ref();
        assert_eq!((object.kind.as_deref(), object.name.as_deref(), object.uid.as_deref()), (Some("Pod"), Some("web"), Some("u")));
        let odd = pod(json!({ names::CAMPFIRE_ANNOTATION: "not a label!/neither;" }));
        assert!(odd.claim.is_some() && odd.campfire().is_none());
        assert!(pod(json!({})).claim.is_none());
    }
}
