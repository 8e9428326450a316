//! Caches of what the operator reads all the time, without what nobody reads.

use std::fmt::Debug;

use campfire_api::{MeshPeer, names};
use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event};
use tokio::sync::broadcast;

use crate::health::Gate;
use crate::state::ObjectKey;

/// Keeps a cache up to date by a watch that is begun anew, with backoff and jitter, for as long as the process lives.
pub(super) fn reflect<K>(
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    changes: broadcast::Sender<ObjectKey>,
    synced: Gate,
    lean: fn(&mut K),
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store::<K>();
    tokio::spawn(async move {
        let mut events = std::pin::pin!(reflector::reflector(writer, stream.default_backoff().modify(lean)));
        let mut listed = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                // Seen by nobody before `InitDone`: then the cache has them.
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => listed.push(ObjectKey::of(&object)),
                Ok(Event::InitDone) => {
                    synced.open();
                    for key in listed.drain(..) {
                        let _ = changes.send(key);
                    }
                }
                Ok(Event::Apply(object) | Event::Delete(object)) => {
                    let _ = changes.send(ObjectKey::of(&object));
                }
                Err(error) => {
                    let kind = K::kind(&());
                    tracing::warn!(%kind, %error, "a watch broke and is begun anew");
                }
            }
        }
    });
    store
}

// What nobody reads is not kept: of 10,000 pods it would be most of the memory (a map of labels alone takes 550 bytes, however few they
// are).

pub(super) fn lean<K: Resource>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

pub(super) fn lean_peer(peer: &mut MeshPeer) {
    let metadata = peer.meta_mut();
    (metadata.managed_fields, metadata.labels, metadata.annotations) = (None, None, None);
    // A reader leaves room for four.
    metadata.owner_references.iter_mut().for_each(Vec::shrink_to_fit);
    if let Some(status) = &mut peer.status {
        status.conditions.shrink_to_fit();
        status.addresses.shrink_to_fit();
    }
}

pub(super) fn lean_pod(pod: &mut PartialObjectMeta<Pod>) {
    pod.types = None;
    let metadata = pod.meta_mut();
    (metadata.managed_fields, metadata.labels, metadata.owner_references, metadata.generate_name) = (None, None, None, None);
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|name, _| {
            [names::CAMPFIRE_ANNOTATION, names::SETTINGS_HASH_ANNOTATION, names::MODE_ANNOTATION].contains(&name.as_str())
                || name.starts_with(names::CONFIG_PREFIX)
        });
    }
}
