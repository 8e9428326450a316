//! What all parts of the operator share: settings, the client, caches of the cluster, who leads, when to stop.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use campfire_api::{Campfire, MeshPeer, Resources, names};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::PartialObjectMeta;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use kube::{Api, Client, Resource, ResourceExt as _};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};

use crate::health::Readiness;
use crate::metrics::Metrics;
use crate::state::{Memberships, ObjectKey, Reports, Sightings};

/// What the operator was told at its start.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Namespace that it runs in.
    pub namespace: String,
    /// Its pod's name: its identity in the Lease and in events.
    pub pod_name: String,
    /// Its pod's address: what the EndpointSlice of the agent Service says while it leads.
    pub pod_ip: Option<IpAddr>,
    /// Image of the sidecar.
    pub sidecar_image: String,
    /// Image of the TURN servers.
    pub turn_image: String,
    /// `Always`, `IfNotPresent` or `Never`, for both.
    pub image_pull_policy: String,
    /// CPU and memory of sidecars whose Campfire asks for none.
    pub sidecar_resources: Option<Resources>,
    /// How this cluster is called where a Campfire does not say.
    pub cluster_name: String,
    /// Namespaces that may hold Campfires; empty: all.
    pub campfire_namespaces: Vec<String>,
    /// How long the MeshPeer of a peer elsewhere stays after the peer left.
    pub remote_peers_linger: Duration,
    /// Port of health and metrics.
    pub http_port: u16,
    /// Port of the agent API.
    pub agent_port: u16,
    /// Port of the webhook.
    pub webhook_port: u16,
}

/// An error of a call about a Secret, without what the Secret holds: API servers and parsers may quote what they did not expect.
pub fn of_secret(error: &kube::Error) -> String {
    match error {
        // Not allowed, not there, there already: these name the Secret alone.
        kube::Error::Api(status) if matches!(status.code, 403 | 404 | 409) => status.message.clone(),
        kube::Error::Api(status) => format!("the API answers {} {}", status.code, status.reason),
        kube::Error::Service(error) => format!("the API does not answer: {error}"),
        kube::Error::HyperError(error) => format!("the API does not answer: {error}"),
        _ => "the API's answer cannot be read".into(),
    }
}

/// The same of a watch.
pub fn of_watched_secret(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            of_secret(error)
        }
        watcher::Error::WatchError(status) => format!("the API answers {} {}", status.code, status.reason),
        watcher::Error::NoResourceVersion => "the API's answer cannot be read".into(),
    }
}

impl Settings {
    /// Whether Campfires of this namespace are served.
    pub fn serves(&self, namespace: &str) -> bool {
        self.campfire_namespaces.is_empty() || self.campfire_namespaces.iter().any(|served| served == namespace)
    }
}

/// Until when this operator may write as leader.
///
/// Time is counted from a start of this process's own; 0 stands for "does not lead".
#[derive(Debug)]
pub struct Fence {
    start: std::time::Instant,
    until: AtomicU64,
}

impl Default for Fence {
    fn default() -> Self {
        Self { start: std::time::Instant::now(), until: AtomicU64::new(0) }
    }
}

impl Fence {
    /// It leads until then.
    pub fn lead_until(&self, until: std::time::Instant) {
        let millis = until.saturating_duration_since(self.start).as_millis();
        self.until.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// It leads no more.
    pub fn close(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Whether it leads still: to be asked right before a write, as a process that was stopped for a while wakes in the middle of one.
    pub fn open(&self) -> bool {
        self.start.elapsed().as_millis() < u128::from(self.until.load(Ordering::Acquire))
    }
}

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
}

/// What all parts of the operator share.
pub struct Context {
    /// Client of the cluster.
    pub client: Client,
    /// What the operator was told at its start.
    pub settings: Settings,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// What members are told.
    pub memberships: Arc<Memberships>,
    /// What sidecars said.
    pub reports: Arc<Reports>,
    /// Who is at the fires.
    pub sightings: Arc<Sightings>,
    /// Whether this operator leads.
    pub leader: watch::Receiver<bool>,
    /// Until when it leads.
    pub fence: Arc<Fence>,
    /// `true`: end.
    pub shutdown: watch::Receiver<bool>,
    /// What `/readyz` waits for.
    pub readiness: Arc<Readiness>,
    /// Publishes events.
    pub recorder: Recorder,
    /// Campfires, in the namespaces that are served.
    pub campfires: Store<Campfire>,
    /// MeshPeers.
    pub peers: Store<MeshPeer>,
    /// Namespaces.
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    /// Pods that have a sidecar.
    pub pods: Store<PartialObjectMeta<Pod>>,
    /// What changed in them.
    pub changes: Changes,
}

impl Context {
    /// Makes the context and begins to fill its caches, which takes a moment: see [`Self::synced`].
    pub fn start(
        client: Client,
        settings: Settings,
        metrics: Arc<Metrics>,
        reports: Reports,
        leader: watch::Receiver<bool>,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let reporter = Reporter { controller: names::FIELD_MANAGER.into(), instance: Some(settings.pod_name.clone()) };
        let readiness = Arc::new(Readiness::default());
        // Room is taken at once, for all that may wait; who lags behind looks at everything.
        let campfire_changes = broadcast::Sender::new(1_024);
        let peer_changes = broadcast::Sender::new(2_048);
        let namespace_changes = broadcast::Sender::new(1_024);
        let pod_changes = broadcast::Sender::new(2_048);

        let campfires = reflect(
            watch_objects(Api::<Campfire>::all(client.clone()), watcher::Config::default()),
            campfire_changes.clone(),
            readiness.gate("campfires"),
            lean,
        );
        let peers = reflect(
            watch_objects(Api::<MeshPeer>::all(client.clone()), watcher::Config::default()),
            peer_changes.clone(),
            readiness.gate("meshpeers"),
            lean_peer,
        );
        let namespaces = reflect(
            watch_objects(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), watcher::Config::default()),
            namespace_changes.clone(),
            readiness.gate("namespaces"),
            lean,
        );
        let injected = format!("{}={}", names::INJECTED_LABEL, names::ENABLED);
        // Pods that have ended leave the cache, and so lose their MeshPeers: their phase is not in the metadata.
        let living = watcher::Config::default().labels(&injected).fields("status.phase!=Succeeded,status.phase!=Failed");
        let pods = reflect(
            watch_objects(Api::<PartialObjectMeta<Pod>>::all(client.clone()), living),
            pod_changes.clone(),
            readiness.gate("pods"),
            lean_pod,
        );
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            settings,
            metrics,
            memberships: Arc::default(),
            reports: Arc::new(reports),
            sightings: Arc::default(),
            leader,
            fence: Arc::default(),
            shutdown,
            readiness,
            campfires,
            peers,
            namespaces,
            pods,
            changes: Changes { campfires: campfire_changes, peers: peer_changes, namespaces: namespace_changes, pods: pod_changes },
        }
    }

    /// Waits until the caches are filled.
    pub async fn synced(&self) {
        // An error says that the cache's writer is gone: the process ends then.
        let _ = self.campfires.wait_until_ready().await;
        let _ = self.peers.wait_until_ready().await;
        let _ = self.namespaces.wait_until_ready().await;
        let _ = self.pods.wait_until_ready().await;
    }
}

/// Waits until the operator is to end.
pub async fn stopped(shutdown: &watch::Receiver<bool>) {
    let mut shutdown = shutdown.clone();
    // Who could say so is gone: that is the end too.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Keeps a cache up to date by a watch that is begun anew, with backoff and jitter, for as long as the process lives.
fn reflect<K>(
    stream: impl futures_util::Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    changes: broadcast::Sender<ObjectKey>,
    synced: crate::health::Gate,
    lean: fn(&mut K),
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store::<K>();
    tokio::spawn(async move {
        let mut events = std::pin::pin!(reflector::reflector(writer, stream.default_backoff().modify(lean)));
        let mut listed = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                // Seen by nobody before `InitDone`: then the cache has them.
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => listed.push(key(&object)),
                Ok(Event::InitDone) => {
                    synced.open();
                    for key in listed.drain(..) {
                        let _ = changes.send(key);
                    }
                }
                Ok(Event::Apply(object) | Event::Delete(object)) => {
                    let _ = changes.send(key(&object));
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

fn lean<K: Resource>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

fn lean_peer(peer: &mut MeshPeer) {
    let metadata = peer.meta_mut();
    (metadata.managed_fields, metadata.labels, metadata.annotations) = (None, None, None);
    // A reader leaves room for four.
    metadata.owner_references.iter_mut().for_each(Vec::shrink_to_fit);
    if let Some(status) = &mut peer.status {
        status.conditions.shrink_to_fit();
        status.addresses.shrink_to_fit();
    }
}

fn lean_pod(pod: &mut PartialObjectMeta<Pod>) {
    pod.types = None;
    let metadata = pod.meta_mut();
    (metadata.managed_fields, metadata.labels, metadata.owner_references, metadata.generate_name) = (None, None, None, None);
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|name, _| name == names::CAMPFIRE_ANNOTATION || name.starts_with(names::CONFIG_PREFIX));
    }
}

/// Namespace and name of an object.
pub fn key<K: Resource<DynamicType = ()>>(object: &K) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

/// An object of a cache.
pub fn cached<K>(store: &Store<K>, key: &ObjectKey) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut reference = reflector::ObjectRef::<K>::new(&key.name);
    if !key.namespace.is_empty() {
        reference = reference.within(&key.namespace);
    }
    store.get(&reference)
}

/// Listens on a port, on IPv6 and IPv4, or on IPv4 alone where there is no IPv6.
pub async fn listen(port: u16) -> Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
        bound => bound,
    }
    .with_context(|| format!("port {port} cannot be listened on: is another operator running on this machine?"))
}

/// A client by the pod's ServiceAccount, or by the kubeconfig outside of a cluster. Each write is counted in the metrics.
///
/// For tests: with `CAMPFIRE_FAILPOINT_WRITES=n` in the environment the process ends right after its n-th write (those to
/// Leases and of events left out), as if it had been killed there.
pub async fn connect(metrics: Arc<Metrics>) -> Result<Client> {
    let mut config = kube::Config::infer()
        .await
        .context("no cluster to work for: run in a pod with a ServiceAccount, or say by KUBECONFIG which cluster")?;
    // Watches are held open longer than this by the server's own bookmarks; anything else is stuck.
    config.read_timeout = Some(Duration::from_secs(295));
    config.connect_timeout = Some(Duration::from_secs(5));
    let namespace = config.default_namespace.clone();
    let inner = Client::try_from(config).context("the client of the cluster cannot be made")?;
    let failpoint: Option<u64> = std::env::var("CAMPFIRE_FAILPOINT_WRITES").ok().and_then(|count| count.parse().ok());
    let writes = Arc::new(AtomicU64::new(0));
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let inner = inner.clone();
        let metrics = metrics.clone();
        let writes = writes.clone();
        async move {
            let verb = request.method().clone();
            let path = request.uri().path();
            let silent = path.contains("/leases") || path.contains("/events") || path.contains("/tokenreviews");
            let counted = !matches!(verb, http::Method::GET | http::Method::HEAD) && !silent;
            let response = inner.send(request).await?;
            if counted {
                metrics.api_write(verb.as_str(), response.status().as_u16());
                if response.status().is_success() && Some(writes.fetch_add(1, Ordering::Relaxed) + 1) == failpoint {
                    std::process::exit(137);
                }
            }
            Ok::<_, kube::Error>(response)
        }
    });
    Ok(Client::new(service, namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_call_about_a_secret_shows_nothing_of_it() {
        let value = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        let parser = serde_json::from_str::<u8>(&format!("\"{value}\"")).unwrap_err();
        assert!(parser.to_string().contains(value), "what would be shown otherwise");
        let refused = kube::core::Status::failure(&format!("Invalid value: {value}"), "Invalid").with_code(422);
        for error in [kube::Error::SerdeError(parser), kube::Error::Api(Box::new(refused))] {
            assert!(!of_secret(&error).contains(value), "{}", of_secret(&error));
        }
        let forbidden = kube::core::Status::failure("secrets \"x\" is forbidden", "Forbidden").with_code(403);
        assert!(of_secret(&kube::Error::Api(Box::new(forbidden))).contains("forbidden"));
    }
}
