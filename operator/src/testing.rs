//! A context without a cluster, for tests of parts that serve: caches that a test fills, a CA, and a client that talks TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use campfire_api::agent::Path;
use campfire_api::{Campfire, MeshPeer, names};
use campfire_protocol::identity::{Identity, NetworkId, PublicKey};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};
use tokio_rustls::client::TlsStream;

use crate::certs::{Authority, Bundle, Times, server_names};
use crate::cluster::cache::{Cache, Keeper, cache};
use crate::cluster::{Changes, Cluster, InjectedPod};
use crate::context::{Context, Shutdown};
use crate::health::Readiness;
use crate::leadership::{Leadership, Mandate};
use crate::members::{NamespaceMeta, Served};
use crate::metrics::Metrics;
use crate::settings::OperatorSettings;
use crate::state::{HeldKey, Membership, MeshNetwork, ObjectKey, PeerReport, Proof, Reported, Reports, Sighting, WireguardKey};
use crate::tls;

/// A context, and what moves it.
pub struct Rig {
    pub ctx: Arc<Context>,
    pub mandate: Mandate,
    _shutdown: watch::Sender<bool>,
    pub bundle: watch::Sender<Arc<Bundle>>,
    pub campfires: Keeper<Campfire>,
    pub peers: Keeper<MeshPeer>,
    pub namespaces: Keeper<NamespaceMeta>,
    pub pods: Keeper<InjectedPod>,
}

impl Rig {
    /// One that leads, with empty caches. `api` answers what is asked of the API server.
    pub fn new(api: impl Fn(&str, &str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        Self::serving(Served::default(), api)
    }

    /// The same, for Campfires of some namespaces alone.
    pub fn serving(served: Served, api: impl Fn(&str, &str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let (campfires, campfire_keeper) = filled();
        let (peers, peer_keeper) = filled();
        let (namespaces, namespace_keeper) = filled();
        let (pods, pod_keeper) = filled();
        let (mandate, leadership) = Leadership::new();
        let (shutdown, stop) = Shutdown::new();
        let client = client(api);
        mandate.lead_until(Instant::now() + Duration::from_hours(1));
        let cluster = Cluster {
            recorder: Recorder::new(client.clone(), Reporter { controller: names::FIELD_MANAGER.into(), instance: None }),
            client,
            served,
            campfires,
            peers,
            namespaces,
            pods,
            ranges: filled().0,
            quotas: filled().0,
            drivers: filled().0,
            runtimes: filled().0,
            changes: Changes {
                campfires: broadcast::Sender::new(16),
                peers: broadcast::Sender::new(16),
                namespaces: broadcast::Sender::new(16),
                pods: broadcast::Sender::new(16),
                drivers: broadcast::Sender::new(1),
            },
        };
        let ctx = Context {
            settings: settings(),
            cluster,
            leadership,
            memberships: Arc::default(),
            reports: Arc::new(Reports::new().0),
            sightings: Arc::default(),
            causes: Arc::default(),
            given: crate::webhook::given::Given::default(),
            signer: Arc::default(),
            metrics: Arc::new(Metrics::default()),
            readiness: Arc::new(Readiness::default()),
            shutdown: stop,
        };
        let authority = Authority::make(SystemTime::now(), &Times::default()).unwrap();
        let (servers, _) = authority.server(&server_names("campfire-system"), SystemTime::now(), &Times::default()).unwrap();
        let bundle = watch::Sender::new(Arc::new(Bundle { pem: authority.pem(), servers: Some(servers) }));
        Self {
            ctx: Arc::new(ctx),
            mandate,
            _shutdown: shutdown,
            bundle,
            campfires: campfire_keeper,
            peers: peer_keeper,
            namespaces: namespace_keeper,
            pods: pod_keeper,
        }
    }

    pub fn campfire(&mut self, namespace: &str, name: &str, spec: &Value) {
        let campfire = json!({
            "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "namespace": namespace, "name": name }, "spec": spec,
            "status": { "prefix": "fd01:203:405::/48" },
        });
        self.campfires.put(ObjectKey::new(namespace, name), serde_json::from_value(campfire).unwrap());
    }

    pub fn namespace(&mut self, name: &str, labels: &Value) {
        let metadata = serde_json::from_value(json!({ "name": name, "labels": labels })).unwrap();
        self.namespaces.put(ObjectKey::new("", name), NamespaceMeta::new(name, metadata));
    }

    pub fn pod(&mut self, namespace: &str, name: &str, uid: &str, annotations: &Value) {
        let metadata = json!({ "namespace": namespace, "name": name, "uid": uid, "annotations": annotations, "creationTimestamp": "2026-01-01T00:00:00Z" });
        let pod = serde_json::from_value(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata })).unwrap();
        self.pods.put(ObjectKey::new(namespace, name), InjectedPod::of(pod));
    }

    pub fn delete_pod(&mut self, namespace: &str, name: &str) {
        self.pods.remove(&ObjectKey::new(namespace, name));
    }

    /// The operator's CA, PEM.
    pub fn ca(&self) -> String {
        self.bundle.borrow().pem.clone()
    }
}

/// Somebody's public key, by a number.
pub fn identity(number: u8) -> PublicKey {
    Identity::from_seed(&[number; 32]).public()
}

/// What the sidecar of that identity says when all is well.
pub fn report(number: u8) -> PeerReport {
    let identity = identity(number);
    PeerReport {
        identity,
        wireguard: WireguardKey(identity.x25519()),
        addresses: vec!["fd00::1".parse().unwrap()],
        fingerprints: Vec::new(),
        camped: true,
        ready: true,
        unconnected: 0,
        path: Path::Direct,
        reason: String::new(),
        unreachable: false,
        problems: Vec::new(),
    }
}

/// That, as it was taken from a pod of this Campfire, now.
pub fn reported(campfire: &ObjectKey, report: PeerReport) -> Reported {
    Reported { campfire: campfire.clone(), report, proof: Proof::of(&[0; 64], &[]), at: Instant::now() }
}

/// The same one as it is seen at the fire.
pub fn sighting(number: u8) -> Sighting {
    let identity = identity(number);
    Sighting {
        identity,
        wireguard: WireguardKey(identity.x25519()),
        name: format!("peer-{number}"),
        namespace: "shop".into(),
        cluster: String::new(),
        addresses: vec!["fd00::2".parse().unwrap()],
        fingerprints: Vec::new(),
        origin: false,
    }
}

/// Of a mesh with these keys, and no servers.
pub fn membership(keys: Vec<HeldKey>) -> Membership {
    Membership {
        keys,
        id: NetworkId([0, 0x11, 0x22, 0x33, 0x44]),
        own: Vec::new(),
        given: Vec::new(),
        heard: Vec::new(),
        cluster: "here".into(),
        network: MeshNetwork { ipv4_pool: None, accept_routes: Vec::new(), mtu: 1280 },
        server_list_version: 1,
    }
}

/// A cache that has seen all there is: nothing.
fn filled<T>() -> (Cache<T>, Keeper<T>) {
    let (cache, mut keeper) = cache();
    keeper.begin();
    keeper.end();
    (cache, keeper)
}

fn settings() -> OperatorSettings {
    OperatorSettings {
        namespace: "campfire-system".into(),
        pod_name: "campfire-0".into(),
        sidecar_image: "localhost/campfire:0".into(),
        turn_image: "localhost/campfire-turn:0".into(),
        image_pull_policy: "IfNotPresent".into(),
        cluster_name: "here".into(),
        ..OperatorSettings::default()
    }
}

/// A client whose API server is a function of method, path and body.
fn client(api: impl Fn(&str, &str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Client {
    let api = Arc::new(api);
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let api = api.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, answer) = api(parts.method.as_str(), parts.uri.path(), &body);
            let response = Response::builder().status(status).body(kube::client::Body::from(answer.to_string().into_bytes()));
            Ok::<_, kube::Error>(response.unwrap())
        }
    });
    Client::new(service, "default")
}

/// TLS to `address` as the agent Service's name, checked by `ca`.
pub async fn connect(address: SocketAddr, ca: &str) -> anyhow::Result<TlsStream<TcpStream>> {
    tls::connect(address, &format!("{}.campfire-system.svc", names::AGENT_SERVICE), ca).await
}

/// One request: status, `Retry-After`, body.
pub async fn post(address: SocketAddr, ca: &str, path: &str, token: Option<&str>, body: impl Into<Bytes>) -> (u16, Option<u64>, String) {
    let stream = connect(address, ca).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut request = Request::post(path).header("host", "operator");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let later = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    driver.abort();
    (status, later, String::from_utf8(body.to_vec()).unwrap())
}
