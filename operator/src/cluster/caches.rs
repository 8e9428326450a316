//! What is kept of the objects that are watched: of 10,000 pods or MeshPeers what nobody reads would be most of the memory. A map of two labels alone
//! takes 550 bytes, and an owner with its name and uid 250.

use std::fmt::Debug;

use campfire_api::MeshPeer;
use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt as _};
use tokio::sync::broadcast;

use super::cache::{Cache, cache};
use crate::health::Gate;
use crate::members::NamespaceMeta;
use crate::state::ObjectKey;

/// Keeps a cache up to date by a watch that is begun anew, with backoff and jitter, for as long as the process lives. `keep`: what is kept of an
/// object.
pub(super) fn reflect<K, T>(
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    changes: broadcast::Sender<ObjectKey>,
    synced: Gate,
    keep: fn(K) -> T,
) -> Cache<T>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    let (cache, mut keeper) = cache();
    tokio::spawn(async move {
        let mut events = std::pin::pin!(stream.default_backoff());
        while let Some(event) = events.next().await {
            match event {
                // Seen by nobody before `InitDone`: then the cache has them.
                Ok(Event::Init) => keeper.begin(),
                Ok(Event::InitApply(object)) => keeper.list(ObjectKey::of(&object), keep(object)),
                Ok(Event::InitDone) => {
                    keeper.end();
                    synced.open();
                    for key in keeper.keys() {
                        let _ = changes.send(key);
                    }
                }
                Ok(Event::Apply(object)) => {
                    let key = ObjectKey::of(&object);
                    keeper.put(key.clone(), keep(object));
                    let _ = changes.send(key);
                }
                Ok(Event::Delete(object)) => {
                    let key = ObjectKey::of(&object);
                    keeper.remove(&key);
                    let _ = changes.send(key);
                }
                Err(error) => {
                    let kind = K::kind(&());
                    tracing::warn!(%kind, %error, "a watch broke and is begun anew");
                }
            }
        }
    });
    cache
}

pub(super) fn lean<K: Resource>(mut object: K) -> K {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    object
}

pub(super) fn lean_peer(mut peer: MeshPeer) -> MeshPeer {
    let metadata = peer.meta_mut();
    (metadata.managed_fields, metadata.labels, metadata.annotations) = (None, None, None);
    // Of owners it is asked of what kind they are, and whether it is theirs.
    let kind = |owner: OwnerReference| OwnerReference { kind: owner.kind, controller: owner.controller, ..OwnerReference::default() };
    metadata.owner_references =
        metadata.owner_references.take().map(|owners| owners.into_iter().map(kind).collect::<Box<[_]>>().into_vec());
    if let Some(status) = &mut peer.status {
        // A reader leaves room for four.
        status.conditions.shrink_to_fit();
        status.addresses.shrink_to_fit();
    }
    peer
}

pub(super) fn lean_namespace(namespace: PartialObjectMeta<Namespace>) -> NamespaceMeta {
    let name = namespace.name_any();
    NamespaceMeta::new(name, lean(namespace).metadata)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_peer_is_kept_who_made_it_and_what_it_says_and_of_a_namespace_its_labels() {
        let status = json!({ "conditions": [], "addresses": ["fd00::1"] });
        let owner = json!({ "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u", "controller": true });
        let metadata =
            json!({ "namespace": "shop", "name": "web", "uid": "p", "generation": 3, "labels": { "a": "b" }, "ownerReferences": [owner] });
        let spec = json!({ "type": "Pod", "campfireRef": { "name": "home" }, "podRef": { "name": "web", "uid": "u" } });
        let whole =
            json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "MeshPeer", "metadata": metadata, "spec": spec, "status": status });
        let whole: MeshPeer = serde_json::from_value(whole).unwrap();
        let kept = lean_peer(whole.clone());
        assert_eq!((&kept.spec, &kept.status, kept.metadata.generation), (&whole.spec, &whole.status, Some(3)));
        assert_eq!((kept.uid(), kept.labels().len()), (whole.uid(), 0));
        let [owner] = kept.owner_references() else { panic!("{kept:?}") };
        assert_eq!((owner.kind.as_str(), owner.controller, owner.uid.as_str()), ("Pod", Some(true), ""));

        let annotations = json!({ "a": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}" });
        let metadata = json!({ "name": "shop", "labels": { "team": "a" }, "annotations": annotations });
        let namespace =
            lean_namespace(serde_json::from_value(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata })).unwrap());
        assert_eq!((namespace.name.as_str(), namespace.labels.len(), namespace.annotations.len()), ("shop", 1, 1));
    }
}
