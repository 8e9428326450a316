//! The cluster as the operator sees it: its client, caches of what is read all the time, and which Campfires are served.

pub mod cache;
mod caches;
mod client;
mod pod;

use std::sync::Arc;

use campfire_api::{Campfire, MeshPeer, names};
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Pod, ResourceQuota};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{watcher, watcher as watch_objects};
use kube::{Api, Client};
use tokio::sync::broadcast;

use self::cache::Cache;
use self::caches::{lean, lean_namespace, lean_peer, reflect};
pub use self::client::{connect, of_secret, of_watched_secret};
pub use self::pod::InjectedPod;
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
    pub campfires: Cache<Campfire>,
    /// MeshPeers.
    pub peers: Cache<MeshPeer>,
    /// Namespaces.
    pub namespaces: Cache<NamespaceMeta>,
    /// Pods that have a sidecar.
    pub pods: Cache<InjectedPod>,
    /// What namespaces allow their pods.
    pub ranges: Cache<LimitRange>,
    /// What is left to namespaces.
    pub quotas: Cache<ResourceQuota>,
    /// The node agent's CSIDriver, where it is installed.
    pub drivers: Cache<CSIDriver>,
    /// How containers are run.
    pub runtimes: Cache<RuntimeClass>,
    /// What changed in them.
    pub changes: Changes,
}

impl Cluster {
    /// Begins to fill the caches, which takes a moment: see [`Self::synced`].
    pub fn start(client: Client, settings: &OperatorSettings, readiness: &Readiness) -> Self {
        let reporter = Reporter { controller: names::FIELD_MANAGER.into(), instance: Some(settings.pod_name.clone()) };
        // Room is taken at once, for all that may wait; who lags behind looks at everything.
        let changes = Changes {
            campfires: broadcast::Sender::new(256),
            peers: broadcast::Sender::new(512),
            namespaces: broadcast::Sender::new(256),
            pods: broadcast::Sender::new(512),
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
                lean_namespace,
            ),
            pods: reflect(
                watch_objects(Api::<PartialObjectMeta<Pod>>::all(client.clone()), living),
                changes.pods.clone(),
                readiness.gate("pods"),
                InjectedPod::of,
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
        self.campfires.filled().await;
        self.peers.filled().await;
        self.namespaces.filled().await;
        self.pods.filled().await;
        self.ranges.filled().await;
        self.quotas.filled().await;
        self.drivers.filled().await;
        self.runtimes.filled().await;
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
        let namespace = self.namespace(namespace).unwrap_or_else(|| Arc::new(NamespaceMeta::new(namespace, ObjectMeta::default())));
        admit(campfire, self.campfires.get(campfire), &self.served, &namespace)
    }

    /// A namespace, if it was seen.
    pub fn namespace(&self, name: &str) -> Option<Arc<NamespaceMeta>> {
        self.namespaces.get(&ObjectKey::new("", name))
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
        let driver = self.drivers.get(&ObjectKey::new("", names::NODE_DRIVER));
        let classes = self.runtimes.state();
        Nodes::of(driver.as_deref(), classes.iter().map(Arc::as_ref))
    }

    /// The pod of this uid, if it is there and has a sidecar.
    pub fn pod(&self, pod: &PodId) -> Option<Arc<InjectedPod>> {
        self.pods.get(&pod.key).filter(|found| found.id.uid == pod.uid)
    }
}
