//! The cluster as the operator sees it: its client, caches of what is read all the time, and which Campfires are served.

mod caches;
mod client;

use std::sync::Arc;

use campfire_api::{Campfire, MeshPeer, names};
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Pod, ResourceQuota};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{watcher, watcher as watch_objects};
use kube::{Api, Client, Resource};
use tokio::sync::broadcast;

use self::caches::{lean, lean_peer, lean_pod, reflect};
pub use self::client::{connect, of_secret, of_watched_secret};
use crate::health::Readiness;
use crate::members::{NamespaceMeta, Places, Served, Unadmitted, admit};
use crate::nodes::Nodes;
use crate::settings::OperatorSettings;
use crate::state::{ObjectKey, PodId};

/// Which objects of the caches changed. Who lags ([`broadcast::error::RecvError::Lagged`]) looks at all of the cache.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Campfires.
    pub campfires: broadcast::Sender<ObjectKey>,
    /// MeshPeers.
    pub peers: broadcast::Sender<ObjectKey>,
    /// Namespaces (the key's namespace is empty).
    pub namespaces: broadcast::Sender<ObjectKey>,
    /// Pods that have a sidecar.
    pub pods: broadcast::Sender<ObjectKey>,
    /// The node agent's CSIDriver.
    pub drivers: broadcast::Sender<ObjectKey>,
}

/// What bounds the pods of a namespace.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// Its LimitRanges.
    pub ranges: Vec<Arc<LimitRange>>,
    /// Its quotas.
    pub quotas: Vec<Arc<ResourceQuota>>,
}

/// The cluster.
pub struct Cluster {
    /// Its client.
    pub client: Client,
    /// Publishes events.
    pub recorder: Recorder,
    /// Namespaces whose Campfires are served.
    pub served: Served,
    /// Campfires, of all namespaces.
    pub campfires: Store<Campfire>,
    /// MeshPeers.
    pub peers: Store<MeshPeer>,
    /// Namespaces.
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    /// Pods that have a sidecar.
    pub pods: Store<PartialObjectMeta<Pod>>,
    /// What namespaces allow their pods.
    pub ranges: Store<LimitRange>,
    /// What is left to namespaces.
    pub quotas: Store<ResourceQuota>,
    /// The node agent's CSIDriver, where it is installed.
    pub drivers: Store<CSIDriver>,
    /// How containers are run.
    pub runtimes: Store<RuntimeClass>,
    /// What changed in them.
    pub changes: Changes,
}

impl Cluster {
    /// Begins to fill the caches, which takes a moment: see [`Self::synced`].
    pub fn start(client: Client, settings: &OperatorSettings, readiness: &Readiness) -> Self {
        let reporter = Reporter { controller: names::FIELD_MANAGER.into(), instance: Some(settings.pod_name.clone()) };
        // Room is taken at once, for all that may wait; who lags behind looks at everything.
        let changes = Changes {
            campfires: broadcast::Sender::new(1_024),
            peers: broadcast::Sender::new(2_048),
            namespaces: broadcast::Sender::new(1_024),
            pods: broadcast::Sender::new(2_048),
            drivers: broadcast::Sender::new(1),
        };
        let all = watcher::Config::default;
        let injected = format!("{}={}", names::INJECTED_LABEL, names::ENABLED);
        // Pods that have ended leave the cache, and so lose their MeshPeers: their phase is not in the metadata.
        let living = all().labels(&injected).fields("status.phase!=Succeeded,status.phase!=Failed");
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            served: settings.served.clone(),
            campfires: reflect(
                watch_objects(Api::<Campfire>::all(client.clone()), all()),
                changes.campfires.clone(),
                readiness.gate("campfires"),
                lean,
            ),
            peers: reflect(
                watch_objects(Api::<MeshPeer>::all(client.clone()), all()),
                changes.peers.clone(),
                readiness.gate("meshpeers"),
                lean_peer,
            ),
            namespaces: reflect(
                watch_objects(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), all()),
                changes.namespaces.clone(),
                readiness.gate("namespaces"),
                lean,
            ),
            pods: reflect(
                watch_objects(Api::<PartialObjectMeta<Pod>>::all(client.clone()), living),
                changes.pods.clone(),
                readiness.gate("pods"),
                lean_pod,
            ),
            // Nobody waits for a change of these: they are looked at when a pod comes.
            ranges: reflect(
                watch_objects(Api::<LimitRange>::all(client.clone()), all()),
                broadcast::Sender::new(1),
                readiness.gate("limitranges"),
                lean,
            ),
            quotas: reflect(
                watch_objects(Api::<ResourceQuota>::all(client.clone()), all()),
                broadcast::Sender::new(1),
                readiness.gate("resourcequotas"),
                lean,
            ),
            drivers: reflect(
                watch_objects(Api::<CSIDriver>::all(client.clone()), all().fields(&format!("metadata.name={}", names::NODE_DRIVER))),
                changes.drivers.clone(),
                readiness.gate("csidrivers"),
                lean,
            ),
            runtimes: reflect(
                watch_objects(Api::<RuntimeClass>::all(client.clone()), all()),
                broadcast::Sender::new(1),
                readiness.gate("runtimeclasses"),
                lean,
            ),
            client,
            changes,
        }
    }

    /// Waits until the caches are filled.
    pub async fn synced(&self) {
        // An error says that the cache's writer is gone: the process ends then.
        let _ = self.campfires.wait_until_ready().await;
        let _ = self.peers.wait_until_ready().await;
        let _ = self.namespaces.wait_until_ready().await;
        let _ = self.pods.wait_until_ready().await;
        let _ = self.ranges.wait_until_ready().await;
        let _ = self.quotas.wait_until_ready().await;
        let _ = self.drivers.wait_until_ready().await;
        let _ = self.runtimes.wait_until_ready().await;
    }

    /// The Campfires that are served.
    pub fn places(&self) -> Places {
        Places::new(self.campfires.state(), &self.served)
    }

    /// The Campfire of this key, if pods of the namespace may sit there.
    ///
    /// # Errors
    /// Why they may not.
    pub fn admit(&self, campfire: &ObjectKey, namespace: &str) -> Result<Arc<Campfire>, Unadmitted> {
        // One that nobody has seen has no labels.
        let namespace = self.namespace(namespace).unwrap_or_else(|| NamespaceMeta::new(namespace, ObjectMeta::default()));
        admit(campfire, cached(&self.campfires, campfire), &self.served, &namespace)
    }

    /// A namespace, if it was seen.
    pub fn namespace(&self, name: &str) -> Option<NamespaceMeta> {
        cached(&self.namespaces, &ObjectKey::new("", name)).map(|found| NamespaceMeta::new(name, found.metadata.clone()))
    }

    /// What bounds the pods of a namespace.
    pub fn bounds(&self, namespace: &str) -> Bounds {
        let here = |metadata: &ObjectMeta| metadata.namespace.as_deref() == Some(namespace);
        Bounds {
            ranges: self.ranges.state_filter(|range| here(&range.metadata)),
            quotas: self.quotas.state_filter(|quota| here(&quota.metadata)),
        }
    }

    /// What the cluster's nodes have for pods.
    pub fn nodes(&self) -> Nodes {
        let driver = self.drivers.get(&ObjectRef::new(names::NODE_DRIVER));
        let classes = self.runtimes.state();
        Nodes::of(driver.as_deref(), classes.iter().map(Arc::as_ref))
    }

    /// The pod of this uid, if it is there and has a sidecar.
    pub fn pod(&self, pod: &PodId) -> Option<Arc<PartialObjectMeta<Pod>>> {
        cached(&self.pods, &pod.key).filter(|found| found.metadata.uid.as_ref() == Some(&pod.uid))
    }
}

/// An object of a cache.
pub fn cached<K>(store: &Store<K>, key: &ObjectKey) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut reference = ObjectRef::<K>::new(&key.name);
    if !key.namespace.is_empty() {
        reference = reference.within(&key.namespace);
    }
    store.get(&reference)
}
