//! The cluster: Campfires, pods and their MeshPeers as objects, and what the API server counts.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{Path, Report};
use campfire_api::conditions::Reason;
use campfire_api::names::{self, CA_ANNOTATION, CAMPFIRE_ANNOTATION, ENABLED, INJECTED_LABEL, SETTINGS_HASH_ANNOTATION};
use campfire_api::{Campfire, MeshPeer};
use campfire_operator::campfire::keys::network_of_prefix;
use campfire_operator::conditions::Said;
use campfire_operator::meshpeer::status::{self, Heard};
use campfire_operator::state::{PeerReport, WireguardKey};
use campfire_operator::webhook::containers::Defaults;
use campfire_operator::webhook::inject::settings_hash;
use campfire_protocol::identity::{Identity, NetworkId};
use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc;

use super::control_plane::{ControlPlane, apply, define};
use super::process::defaults;

/// Namespace of the operator.
pub const SYSTEM: &str = "campfire-system";
/// Namespace of the Campfires.
pub const CAMP: &str = "camp";
/// Name of this cluster at the fires.
pub const CLUSTER: &str = "bench";
/// Namespaces of the pods.
const SHOPS: usize = 10;
/// Requests to the API server at once.
const AT_ONCE: usize = 32;

pub struct Cluster {
    pub plane: ControlPlane,
    pub client: Client,
    pub campfires: usize,
    /// Of each Campfire, once it has a key.
    pub fingerprints: Vec<String>,
    /// The operator's CA, PEM.
    pub ca: String,
    /// What the operator gives sidecars.
    defaults: Defaults,
    /// The Campfires, as the operator has said of them what pods are given.
    made: Vec<Campfire>,
}

/// A pod with its peer.
#[derive(Clone)]
pub struct Peer {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub campfire: usize,
    pub identity: Identity,
    pub report: Report,
}

impl Peer {
    /// Its report, as the operator reads it.
    fn heard(&self) -> PeerReport {
        let identity = self.identity.public();
        PeerReport {
            identity,
            wireguard: WireguardKey(identity.x25519()),
            addresses: self.report.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
            fingerprints: self.report.fingerprints.iter().filter_map(|fingerprint| fingerprint.parse().ok()).collect(),
            camped: self.report.camped,
            ready: self.report.ready,
            unconnected: self.report.unconnected,
            path: self.report.path,
            reason: String::new(),
            unreachable: false,
            problems: Vec::new(),
        }
    }
}

impl Cluster {
    /// `None`: there are no binaries, which was said.
    pub async fn start(campfires: usize) -> Result<Option<Self>> {
        let Some(plane) = ControlPlane::start().await else { return Ok(None) };
        let client = plane.client.clone();
        define(&client).await;
        for name in [SYSTEM.to_owned(), CAMP.to_owned()].into_iter().chain((0..SHOPS).map(shop)) {
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            apply(&Api::<Namespace>::all(client.clone()), &name, &namespace).await;
            let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
            apply(&Api::<ServiceAccount>::namespaced(client.clone(), &name), "default", &account).await;
        }
        let cluster =
            Self { plane, client, campfires, fingerprints: Vec::new(), ca: String::new(), defaults: defaults()?, made: Vec::new() };
        let first =
            json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "name": fire(0) }, "spec": spec() });
        // Waits until the definition is served.
        apply(&cluster.fires(), &fire(0), &first).await;
        at_once("Campfires", 1..campfires, async |number| {
            let campfire = serde_json::from_value(json!({ "metadata": { "name": fire(number) }, "spec": spec() }))?;
            cluster.fires().create(&PostParams::default(), &campfire).await.map(drop).context("a Campfire")
        })
        .await?;
        Ok(Some(cluster))
    }

    pub fn fires(&self) -> Api<Campfire> {
        Api::namespaced(self.client.clone(), CAMP)
    }

    /// Waits for the operator to have made what Campfires consist of, and says that the TURN servers run: nobody else does here.
    pub async fn settle(&mut self) -> Result<()> {
        let begun = Instant::now();
        let sets = Api::<StatefulSet>::namespaced(self.client.clone(), CAMP);
        at_once("TURN servers", 0..self.campfires, async |number| {
            let running = Patch::Merge(json!({ "status": { "replicas": 1, "readyReplicas": 1, "availableReplicas": 1 } }));
            while sets.patch_status(&names::turn(&fire(number)), &PatchParams::default(), &running).await.is_err() {
                ensure!(begun.elapsed() < Duration::from_mins(5), "no StatefulSet of {} within 5 minutes", fire(number));
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Ok(())
        })
        .await?;
        loop {
            let mut listed = self.fires().list(&ListParams::default()).await?.items;
            listed.sort_by_key(|campfire| campfire.name_any().trim_start_matches("fire-").parse::<usize>().unwrap_or_default());
            let ready = |campfire: &Campfire| {
                let status = campfire.status.as_ref()?;
                let conditions = &status.conditions;
                let holds = |kind: &str| conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True");
                (holds("TurnAvailable") && holds("KeyReady")).then(|| status.key_fingerprint.clone()).flatten()
            };
            let fingerprints: Vec<String> = listed.iter().filter_map(ready).collect();
            if fingerprints.len() == self.campfires {
                (self.fingerprints, self.made) = (fingerprints, listed);
                break;
            }
            ensure!(begun.elapsed() < Duration::from_mins(5), "{} Campfires have a key and a server", fingerprints.len());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let secret = Api::<Secret>::namespaced(self.client.clone(), SYSTEM).get(names::CA_SECRET).await?;
        let pem = secret.data.unwrap_or_default().remove("ca.crt").context("the operator's CA")?;
        self.ca = String::from_utf8(pem.0)?;
        Ok(())
    }

    /// Waits until the Campfires' statuses tell of so many peers at their fires.
    pub async fn sees(&self, peers: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            let listed = self.fires().list(&ListParams::default()).await?.items;
            let seen: i32 = listed.iter().filter_map(|campfire| campfire.status.as_ref()?.peers).sum();
            if usize::try_from(seen) == Ok(peers) {
                return Ok(());
            }
            ensure!(begun.elapsed() < Duration::from_mins(3), "{seen} of {peers} peers are seen at the fires after 3 minutes");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Relay secrets of all Campfires, by file name.
    pub async fn relay_secrets(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        let secrets = Api::<Secret>::namespaced(self.client.clone(), CAMP);
        for number in 0..self.campfires {
            let secret = secrets.get(&names::relay_secret(&fire(number))).await?;
            files.extend(secret.data.unwrap_or_default().into_iter().map(|(name, content)| (name, content.0)));
        }
        Ok(files)
    }

    /// Pods as the webhook leaves them.
    pub async fn pods(&self, numbers: std::ops::Range<usize>) -> Result<Vec<Peer>> {
        let mut peers = at_once("pods", numbers, async |number| Ok((number, self.pod(number).await?))).await?;
        peers.sort_by_key(|(number, _)| *number);
        Ok(peers.into_iter().map(|(_, peer)| peer).collect())
    }

    pub async fn pod(&self, number: usize) -> Result<Peer> {
        let mut peer = self.peer(number)?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), &peer.namespace);
        // What a Deployment's pods have, and what the webhook adds.
        let owner = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6c9d8f7b5d", "uid": "0f6f6f0e-3f1c-4c1e-9b60-6a1df3b1a001", "controller": true, "blockOwnerDeletion": true });
        let pod = json!({
            "metadata": {
                "name": peer.name, "generateName": "web-6c9d8f7b5d-", "ownerReferences": [owner],
                "labels": { INJECTED_LABEL: ENABLED, "app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "shop", "pod-template-hash": "6c9d8f7b5d" },
                "annotations": {
                    CAMPFIRE_ANNOTATION: format!("{CAMP}/{}", fire(peer.campfire)), CA_ANNOTATION: self.ca,
                    SETTINGS_HASH_ANNOTATION: peer.report.settings_version, "kubectl.kubernetes.io/restartedAt": "2025-01-01T00:00:00Z",
                },
            },
            "spec": { "containers": [{ "name": "app", "image": "app" }] },
        });
        let made = pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await.context("a pod")?;
        peer.uid = made.uid().unwrap_or_default();
        Ok(peer)
    }

    /// MeshPeers as an operator left them that led before, each Ready.
    pub async fn mesh_peers(&self, peers: &[Peer]) -> Result<()> {
        let manager = Some(names::FIELD_MANAGER.to_owned());
        at_once("MeshPeers", 0..peers.len(), async |index| {
            let Some(peer) = peers.get(index) else { return Ok(()) };
            let api = Api::<MeshPeer>::namespaced(self.client.clone(), &peer.namespace);
            let object: MeshPeer = serde_json::from_value(json!({
                "apiVersion": "campfire.network/v1alpha1", "kind": "MeshPeer",
                "metadata": {
                    "name": peer.name, "namespace": peer.namespace,
                    "labels": { names::CAMPFIRE_LABEL: fire(peer.campfire), names::CAMPFIRE_NAMESPACE_LABEL: CAMP, "app.kubernetes.io/managed-by": names::FIELD_MANAGER },
                    "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": peer.name, "uid": peer.uid, "controller": true }],
                },
                "spec": { "type": "Pod", "campfireRef": { "namespace": CAMP, "name": fire(peer.campfire) }, "podRef": { "name": peer.name, "uid": peer.uid } },
            }))?;
            let by = PostParams { field_manager: manager.clone(), ..PostParams::default() };
            let made = api.create(&by, &object).await.context("a MeshPeer")?;
            let said = status::of_pod(&made, Said::of(Reason::Accepted, ""), CLUSTER, Heard::Fresh(&peer.heard()), None, Timestamp::now());
            let patch = Patch::Merge(status::patch(&peer.uid_of(&made), &said));
            let by = PatchParams { field_manager: manager.clone(), ..PatchParams::default() };
            api.patch_status(&peer.name, &by, &patch).await.map(drop).context("a MeshPeer's status")
        })
        .await
        .map(drop)
    }

    fn peer(&self, number: usize) -> Result<Peer> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
        let identity = Identity::from_seed(&seed);
        let campfire = number % self.campfires;
        let (namespace, name) = (shop(number % SHOPS), format!("web-6c9d8f7b5d-{number:05}"));
        let report = Report {
            public_key: STANDARD.encode(identity.public().x25519()),
            identity: hex::encode(identity.public().as_bytes()),
            addresses: vec![self.network(campfire)?.address(&identity.public()).to_string()],
            settings_version: self.settings_version(&namespace, campfire)?,
            fingerprints: self.fingerprints.get(campfire).cloned().into_iter().collect(),
            camped: true,
            ready: true,
            direct: 49,
            path: Path::Direct,
            sidecar_version: env!("CARGO_PKG_VERSION").into(),
            ..Report::default()
        };
        Ok(Peer { namespace, name, uid: String::new(), campfire, identity, report })
    }

    /// The Campfire's network: addresses of another one would not be taken from its peers.
    fn network(&self, campfire: usize) -> Result<NetworkId> {
        let status = self.made.get(campfire).and_then(|campfire| campfire.status.as_ref());
        status.and_then(|status| network_of_prefix(status.prefix.as_deref()?)).context("the network of a Campfire")
    }

    /// What the webhook stamps on pods of a namespace: another hash would be one of older settings, which a Campfire's status tells.
    fn settings_version(&self, namespace: &str, campfire: usize) -> Result<String> {
        let object = self.made.get(campfire).context("a Campfire")?;
        let claim = BTreeMap::from([(CAMPFIRE_ANNOTATION.to_owned(), format!("{CAMP}/{}", fire(campfire)))]);
        settings_hash(namespace, &claim, object, &self.defaults).context("the hash of a pod's settings")
    }

    /// What the API server has counted.
    pub async fn counted(&self) -> Result<Counted> {
        let text = self.client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?;
        let mut requests = BTreeMap::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")) {
            let Some((labels, count)) = line.rsplit_once("} ") else { continue };
            let label = |name: &str| {
                let at = labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'));
                at.unwrap_or_default().to_owned()
            };
            let resource = match label("subresource").as_str() {
                "" => label("resource"),
                subresource => format!("{}/{subresource}", label("resource")),
            };
            *requests.entry((label("verb"), resource)).or_default() += count.parse::<f64>()?;
        }
        Ok(Counted { requests, at: Instant::now() })
    }

    /// Names of MeshPeers that appear from now on.
    pub async fn new_peers(&self) -> Result<mpsc::UnboundedReceiver<(String, Instant)>> {
        let api = Api::<MeshPeer>::all(self.client.clone());
        let version = api.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
        let (seen, arrivals) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let Ok(events) = api.watch_metadata(&WatchParams::default(), &version).await else { return };
            let mut events = std::pin::pin!(events);
            while let Some(Ok(event)) = events.next().await {
                if let WatchEvent::Added(peer) = event
                    && seen.send((peer.name_any(), Instant::now())).is_err()
                {
                    return;
                }
            }
        });
        Ok(arrivals)
    }

    /// Changes of the TURN servers' StatefulSets from now on: the value of an annotation of their pods.
    pub async fn template_changes(&self, annotation: &'static str) -> Result<mpsc::UnboundedReceiver<(String, Instant)>> {
        let api = Api::<StatefulSet>::namespaced(self.client.clone(), CAMP);
        let version = api.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
        let (seen, arrivals) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let Ok(events) = api.watch(&WatchParams::default(), &version).await else { return };
            let mut events = std::pin::pin!(events);
            while let Some(Ok(event)) = events.next().await {
                let WatchEvent::Modified(set) = event else { continue };
                let annotations = set.spec.and_then(|spec| spec.template.metadata?.annotations).unwrap_or_default();
                if let Some(value) = annotations.get(annotation)
                    && seen.send((value.clone(), Instant::now())).is_err()
                {
                    return;
                }
            }
        });
        Ok(arrivals)
    }
}

impl Peer {
    fn uid_of(&self, made: &MeshPeer) -> String {
        made.uid().unwrap_or_else(|| self.uid.clone())
    }

    /// Where its requests come from: nodes of 100 pods.
    pub fn node(number: usize) -> std::net::Ipv4Addr {
        let node = number / 100;
        std::net::Ipv4Addr::new(127, 1, (node / 250) as u8, (node % 250) as u8 + 1)
    }
}

/// Requests by verb and resource.
pub struct Counted {
    requests: BTreeMap<(String, String), f64>,
    pub at: Instant,
}

impl Counted {
    /// Requests since then that pass, by verb and resource.
    pub fn since(&self, before: &Self, pass: impl Fn(&str, &str) -> bool) -> BTreeMap<(String, String), f64> {
        let counts = self.requests.iter().filter(|((verb, resource), _)| pass(verb, resource));
        let counts = counts.map(|(key, count)| (key.clone(), count - before.requests.get(key).copied().unwrap_or_default()));
        counts.filter(|(_, count)| *count > 0.0).collect()
    }

    /// Writes since then. Left out: leader election's Leases, and what writes nothing (TokenReviews).
    pub fn writes(&self, before: &Self) -> BTreeMap<(String, String), f64> {
        self.since(before, |verb, resource| is_write(verb) && resource != "leases" && !resource.contains("tokenreviews"))
    }

    /// Writes to MeshPeers since then.
    pub fn peer_writes(&self, before: &Self) -> f64 {
        self.since(before, |verb, resource| is_write(verb) && resource.starts_with("meshpeers")).values().sum()
    }
}

fn is_write(verb: &str) -> bool {
    ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"].contains(&verb)
}

pub fn fire(number: usize) -> String {
    format!("fire-{number}")
}

fn shop(number: usize) -> String {
    format!("shop-{number}")
}

fn spec() -> serde_json::Value {
    json!({ "turn": { "exposure": { "type": "ClusterIP" } }, "members": { "namespaces": { "from": "All" } } })
}

/// Many at once, saying how far it is.
pub async fn at_once<T, F>(what: &str, numbers: std::ops::Range<usize>, run: impl Fn(usize) -> F) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>>,
{
    let all = numbers.len();
    let mut told = Instant::now();
    let mut done = Vec::with_capacity(all);
    let mut results = std::pin::pin!(futures_util::stream::iter(numbers).map(run).buffer_unordered(AT_ONCE));
    while let Some(result) = results.next().await {
        done.push(result?);
        if told.elapsed() >= Duration::from_secs(2) {
            told = Instant::now();
            eprintln!("  {what}: {} of {all}", done.len());
        }
    }
    Ok(done)
}
