//! MeshPeers with a real API server: pods without a kubelet, reports without sidecars.

#![allow(clippy::unwrap_used)]

mod control_plane;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use campfire_api::agent::Path;
use campfire_api::names::{CAMPFIRE_ANNOTATION, ENABLED, INJECTED_LABEL, URI_KEY};
use campfire_api::{Campfire, MeshPeer, PathName};
use campfire_operator::context::{Context, Shutdown};
use campfire_operator::leadership::{Leadership, Mandate};
use campfire_operator::meshpeer;
use campfire_operator::metrics::Metrics;
use campfire_operator::settings::OperatorSettings;
use campfire_operator::state::{ObjectKey, PeerReport, PodId as Who, Proof, Reported, Reports, Sighting, View, WireguardKey};
use campfire_protocol::identity::{Identity, PublicKey};
use control_plane::{ControlPlane, apply, define};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[tokio::test]
async fn pods_have_peers_whose_status_is_written_on_transitions_alone() {
    let Some(plane) = ControlPlane::start().await else { return };
    let operator = Operator::start(&plane.client).await;
    let web = operator.pod("web").await;
    let peer = operator.peer_until("web", |peer| reason(peer, "Ready") == "NotReported").await;
    assert_eq!(peer.owner_references()[0].uid, web.uid);
    assert_eq!(peer.spec.pod_ref.as_ref().unwrap().uid, web.uid);

    // The first report is told at once.
    let told = Instant::now();
    operator.report(&web, &report("web", Path::Direct));
    let peer = operator.peer_until("web", |peer| reason(peer, "Ready") == "Ready").await;
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    let status = peer.status.unwrap();
    assert_eq!((status.path, status.cluster_name.as_deref()), (Some(PathName::Direct), Some("here")));

    // What moves without being a transition is not written, nor what is back before it is told.
    let writes = operator.writes().await;
    for n in 0..20 {
        operator.report(&web, &PeerReport { unconnected: n, ..report("web", Path::Direct) });
    }
    operator.report(&web, &report("web", Path::Mixed));
    tokio::time::sleep(Duration::from_secs(2)).await;
    operator.report(&web, &report("web", Path::Direct));
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(operator.writes().await, writes);

    // A transition is told once, after ten seconds, with the newest state.
    let changed = Instant::now();
    operator.report(&web, &report("web", Path::Mixed));
    tokio::time::sleep(Duration::from_secs(3)).await;
    operator.report(&web, &report("web", Path::Relay));
    operator.peer_until("web", |peer| peer.status.as_ref().is_some_and(|status| status.path == Some(PathName::Relay))).await;
    assert!((9..14).contains(&changed.elapsed().as_secs()), "{:?}", changed.elapsed());
    assert_eq!(operator.writes().await, writes + 1);

    // The next leader writes nothing that is already so, though nobody has reported to it.
    operator.end();
    let next = Operator::follow(&plane.client).await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(next.writes().await, writes + 1);

    // No garbage collector runs here: the operator deletes what its pod has left behind.
    Api::<Pod>::namespaced(next.client.clone(), "shop").delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
    next.until("the peer is gone", async || next.peers().get_opt("web").await.unwrap().is_none()).await;
}

#[tokio::test]
async fn a_hundred_pods_at_once_are_written_within_the_budget() {
    let Some(plane) = ControlPlane::start().await else { return };
    let operator = Operator::start(&plane.client).await;
    let started = Instant::now();
    for n in 0..100 {
        let who = operator.pod(&format!("pod-{n}")).await;
        operator.report(&who, &report(&format!("pod-{n}"), Path::Direct));
    }
    operator
        .until("all are ready", async || {
            let peers = operator.peers().list(&kube::api::ListParams::default()).await.unwrap();
            peers.items.iter().filter(|peer| reason(peer, "Ready") == "Ready").count() == 100
        })
        .await;
    // Two writes each: 200 at 20 a second, of which the burst is 20.
    let (took, writes) = (started.elapsed(), operator.writes().await);
    assert!(took >= Duration::from_secs(8), "{took:?}");
    assert!(writes as f64 <= took.as_secs_f64() * 20.0 + 21.0, "{writes} in {took:?}");
    assert!((200..=300).contains(&writes), "{writes}");
}

#[tokio::test]
async fn peers_of_elsewhere_have_objects_and_a_pods_own_peer_is_not_taken_for_one() {
    let Some(plane) = ControlPlane::start().await else { return };
    let operator = Operator::start(&plane.client).await;
    operator.pod("web").await;
    operator.peer_until("web", |_| true).await;
    let sightings = [sighting(1, "web", "here"), sighting(2, "laptop", "west"), sighting(3, "operator", "west")];
    let mut seen: BTreeMap<PublicKey, Sighting> = sightings.into_iter().map(|sighting| (sighting.identity, sighting)).collect();
    for sighting in seen.values_mut() {
        sighting.origin = sighting.name == "operator";
    }
    let view = View { camped: 1, members: 3, seen, ..View::default() };
    operator.ctx.sightings.publish(&Operator::home(), view.clone());
    let remote = format!("home-r-{}", &identity(2).to_string()[..20]);
    let peer = operator.peer_until(&remote, |peer| reason(peer, "Ready") == "AtTheFire").await;
    assert_eq!(peer.owner_references()[0].kind, "Campfire");
    assert_eq!(peer.status.unwrap().cluster_name.as_deref(), Some("west"));
    let names: BTreeSet<String> =
        operator.peers().list(&kube::api::ListParams::default()).await.unwrap().iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, BTreeSet::from(["web".into(), remote.clone()]));
    operator.ctx.sightings.publish(&Operator::home(), View { seen: [].into(), ..view });
    operator.peer_until(&remote, |peer| reason(peer, "Ready") == "Left").await;
}

#[tokio::test]
async fn who_is_declared_is_shown_once_and_who_may_not_sit_there_hides_nobody() {
    let Some(plane) = ControlPlane::start().await else { return };
    let operator = Operator::start(&plane.client).await;
    let seen = BTreeMap::from([(identity(2), sighting(2, "laptop", ""))]);
    operator.ctx.sightings.publish(&Operator::home(), View { camped: 1, members: 1, seen, ..View::default() });
    let remote = format!("home-r-{}", &identity(2).to_string()[..20]);
    operator.peer_until(&remote, |peer| reason(peer, "Ready") == "AtTheFire").await;
    let declared = json!({
        "apiVersion": "campfire.network/v1alpha1", "kind": "MeshPeer", "metadata": { "name": "laptop" },
        "spec": {
            "type": "External", "campfireRef": { "name": "home", "namespace": "shop" },
            "external": { "publicKey": WireguardKey(identity(2).x25519()).to_string() },
        },
    });

    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "elsewhere" } });
    apply(&Api::<Namespace>::all(operator.client.clone()), "elsewhere", &namespace).await;
    let stranger = Api::<MeshPeer>::namespaced(operator.client.clone(), "elsewhere");
    apply(&stranger, "laptop", &declared).await;
    operator
        .until("the stranger is told", async || reason(&stranger.get("laptop").await.unwrap(), "Accepted") == "NamespaceNotAdmitted")
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(reason(&operator.peers().get(&remote).await.unwrap(), "Ready"), "AtTheFire", "three looks at the fire later");

    apply(&operator.peers(), "laptop", &declared).await;
    operator.until("its second object is gone", async || operator.peers().get_opt(&remote).await.unwrap().is_none()).await;
}

#[tokio::test]
async fn what_people_make_gets_its_join_secret_or_is_told_why_not() {
    let Some(plane) = ControlPlane::start().await else { return };
    let operator = Operator::start(&plane.client).await;
    let peer = |name: &str, spec: Value| json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "MeshPeer", "metadata": { "name": name }, "spec": spec });
    let forged = json!({ "type": "Pod", "campfireRef": { "name": "home" }, "podRef": { "name": "x", "uid": "y" } });
    apply(&operator.peers(), "forged", &peer("forged", forged)).await;
    operator.peer_until("forged", |peer| reason(peer, "Accepted") == "NotManaged").await;
    apply(&operator.peers(), "lost", &peer("lost", json!({ "type": "External", "campfireRef": { "name": "none" }, "external": {} }))).await;
    operator.peer_until("lost", |peer| reason(peer, "Accepted") == "CampfireNotFound").await;
    apply(&operator.peers(), "early", &peer("early", json!({ "type": "External", "campfireRef": { "name": "home" }, "external": {} })))
        .await;
    operator.peer_until("early", |peer| reason(peer, "Accepted") == "NoExternalEndpoint").await;

    let secrets = Api::<Secret>::namespaced(operator.client.clone(), "shop");
    let campfire = Api::<Campfire>::namespaced(operator.client.clone(), "shop").get("home").await.unwrap();
    let owner = json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "name": "home", "uid": campfire.uid() });
    let source = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "home-join", "ownerReferences": [owner] }, "stringData": { URI_KEY: "camp://x#y" } });
    apply(&secrets, "home-join", &source).await;
    let taken = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "mine" }, "stringData": { "a": "b" } });
    apply(&secrets, "mine", &taken).await;
    let external = |name: &str| json!({ "type": "External", "campfireRef": { "name": "home" }, "external": { "secretName": name } });
    apply(&operator.peers(), "laptop", &peer("laptop", external("laptop-key"))).await;
    operator.peer_until("laptop", |peer| reason(peer, "Accepted") == "JoinSecretWritten").await;
    let written = secrets.get("laptop-key").await.unwrap();
    assert_eq!(written.data.unwrap().remove(URI_KEY).unwrap().0, b"camp://x#y");
    apply(&operator.peers(), "thief", &peer("thief", external("mine"))).await;
    operator.peer_until("thief", |peer| reason(peer, "Accepted") == "SecretExists").await;
    assert!(secrets.get("mine").await.unwrap().data.unwrap().contains_key("a"), "nobody's Secret is written over");
}

struct Operator {
    ctx: Arc<Context>,
    client: Client,
    task: JoinHandle<()>,
    _mandate: Mandate,
    _shutdown: watch::Sender<bool>,
}

impl Operator {
    async fn start(client: &Client) -> Self {
        define(client).await;
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
        apply(&Api::<Namespace>::all(client.clone()), "shop", &namespace).await;
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
        apply(&Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(client.clone(), "shop"), "default", &account).await;
        let campfire = json!({
            "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "name": "home" },
            "spec": { "turn": { "exposure": { "type": "ClusterIP" } } },
        });
        apply(&Api::<Campfire>::namespaced(client.clone(), "shop"), "home", &campfire).await;
        Self::follow(client).await
    }

    async fn follow(client: &Client) -> Self {
        let (mandate, leadership) = Leadership::new();
        let (shutdown, stop) = Shutdown::new();
        mandate.lead_until(Instant::now() + Duration::from_hours(1));
        let (reports, queue) = Reports::new();
        let ctx = Arc::new(Context::start(client.clone(), settings(), Arc::new(Metrics::default()), reports, leadership, stop));
        ctx.cluster.synced().await;
        let task = tokio::spawn(meshpeer::run(ctx.clone(), queue));
        Self { ctx, client: client.clone(), task, _mandate: mandate, _shutdown: shutdown }
    }

    fn end(self) {
        self.task.abort();
    }

    fn home() -> ObjectKey {
        ObjectKey::new("shop", "home")
    }

    fn peers(&self) -> Api<MeshPeer> {
        Api::namespaced(self.client.clone(), "shop")
    }

    async fn pod(&self, name: &str) -> Who {
        let pod = json!({
            "metadata": { "name": name, "labels": { INJECTED_LABEL: ENABLED }, "annotations": { CAMPFIRE_ANNOTATION: "shop/home" } },
            "spec": { "containers": [{ "name": "app", "image": "app" }] },
        });
        let pods = Api::<Pod>::namespaced(self.client.clone(), "shop");
        let made = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        Who { key: ObjectKey::new("shop", name), uid: made.uid().unwrap() }
    }

    fn report(&self, who: &Who, report: &PeerReport) {
        let proof = Proof::of(&[0; 64], &[]);
        self.ctx.reports.put(who.clone(), Reported { campfire: Self::home(), report: report.clone(), proof, at: Instant::now() });
    }

    /// Writes to MeshPeers that the API server has counted.
    async fn writes(&self) -> u64 {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = self.client.request_text(request).await.unwrap();
        let counted = text.lines().filter(|line| line.starts_with("apiserver_request_total{") && line.contains("resource=\"meshpeers\""));
        let writes = counted
            .filter(|line| ["POST", "PATCH", "PUT", "DELETE", "APPLY"].iter().any(|verb| line.contains(&format!("verb=\"{verb}\""))));
        writes.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    async fn peer_until(&self, name: &str, holds: impl Fn(&MeshPeer) -> bool) -> MeshPeer {
        let started = Instant::now();
        loop {
            let peer = self.peers().get_opt(name).await.unwrap();
            if let Some(peer) = peer.clone().filter(&holds) {
                return peer;
            }
            assert!(started.elapsed() < Duration::from_mins(1), "{name}: not within a minute; it is {peer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let started = Instant::now();
        while !holds().await {
            assert!(started.elapsed() < Duration::from_mins(1), "{what}: not within a minute");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn reason<'a>(peer: &'a MeshPeer, kind: &str) -> &'a str {
    let conditions = peer.status.iter().flat_map(|status| &status.conditions);
    conditions.filter(|condition| condition.type_ == kind).map(|condition| condition.reason.as_str()).next().unwrap_or_default()
}

fn report(name: &str, path: Path) -> PeerReport {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    PeerReport {
        identity: Identity::from_seed(&seed).public(),
        wireguard: WireguardKey([0; 32]),
        addresses: vec!["fd00::1".parse().unwrap()],
        fingerprints: Vec::new(),
        camped: true,
        ready: true,
        unconnected: 0,
        path,
        reason: String::new(),
        unreachable: false,
        problems: Vec::new(),
    }
}

fn identity(n: u8) -> PublicKey {
    Identity::from_seed(&[n; 32]).public()
}

fn sighting(n: u8, name: &str, cluster: &str) -> Sighting {
    Sighting {
        identity: identity(n),
        wireguard: WireguardKey(identity(n).x25519()),
        name: name.into(),
        namespace: "shop".into(),
        cluster: cluster.into(),
        addresses: vec!["fd00::2".parse().unwrap()],
        fingerprints: Vec::new(),
        origin: false,
    }
}

fn settings() -> OperatorSettings {
    OperatorSettings {
        namespace: "campfire-system".into(),
        pod_name: "campfire-0".into(),
        sidecar_image: "campfire:0".into(),
        turn_image: "campfire-turn:0".into(),
        image_pull_policy: "IfNotPresent".into(),
        cluster_name: "here".into(),
        remote_peers_linger: Duration::from_mins(10),
        ..OperatorSettings::default()
    }
}
