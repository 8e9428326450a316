//! Tokens, admission and the operator's CA, with a real API server.

#![allow(clippy::unwrap_used)]

mod control_plane;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use campfire_api::Campfire;
use campfire_api::agent::{REPORT_PATH, Report, SETTINGS_PATH, Settings as Told};
use campfire_api::names::{
    AGENT_AUDIENCE, AGENT_SERVICE, CA_SECRET, CAMPFIRE_ANNOTATION, ENABLED, INIT_CONTAINER, INJECT_AGAIN_PATH, INJECT_LABEL, INJECT_PATH,
    INJECTED_LABEL, OPERATOR_SERVICE, SIDECAR_CONTAINER, STANDBY_SERVICE, WEBHOOK_CONFIGURATION, WEBHOOK_SERVICE,
};
use campfire_operator::certs::{self, Authority, Bundle, Times};
use campfire_operator::context::{Context, Shutdown};
use campfire_operator::leadership::{Leadership, Mandate, endpoints};
use campfire_operator::metrics::Metrics;
use campfire_operator::settings::OperatorSettings;
use campfire_operator::state::{HeldKey, Membership, MeshNetwork, ObjectKey, PodId as Who, Reports, WireguardKey};
use campfire_operator::{agent, webhook};
use campfire_protocol::identity::Identity;
use campfire_protocol::key::KeyMode;
use control_plane::{ControlPlane, apply, define};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

const SYSTEM: &str = "campfire-system";

#[tokio::test]
async fn a_pods_own_token_opens_the_agent_api_and_no_other_token_does() {
    let Some(plane) = ControlPlane::start().await else { return };
    let operator = Operator::start(&plane.client).await;
    operator.namespace("shop", &json!({ "team": "a" })).await;
    operator.namespace("other", &json!({})).await;
    operator
        .campfire("shop", json!({ "members": { "namespaces": { "from": "Selector", "selector": { "matchLabels": { "team": "a" } } } } }))
        .await;
    let web = operator.injected("shop", "web").await;
    let api = operator.injected("shop", "api").await;
    let outside = operator.injected("other", "outside").await;
    operator.sees(&[&web, &api, &outside]).await;

    let good = operator.token("shop", AGENT_AUDIENCE, Some(&web)).await;
    let (status, body) = operator.ask(SETTINGS_PATH, &good, json!({})).await;
    assert_eq!(status, 200, "{body}");
    let told: Told = serde_json::from_str(&body).unwrap();
    assert_eq!((told.namespace.as_str(), told.name.as_str()), ("shop", "web"), "whose token it is, not what anybody says");
    let identity = Identity::from_seed(&[1; 32]);
    let mut report = Report {
        public_key: WireguardKey(identity.public().x25519()).to_string(),
        identity: identity.public().to_string(),
        settings_version: told.version.clone(),
        camped: true,
        ready: true,
        ..Report::default()
    };
    report.signature = STANDARD.encode(identity.sign(&report.statement(&told.namespace, &told.name, &told.uid)));
    assert_eq!(operator.ask(REPORT_PATH, &good, json!(report)).await.0, 204);
    let other = operator.token("shop", AGENT_AUDIENCE, Some(&api)).await;
    let (status, body) = operator.ask(REPORT_PATH, &other, json!(report)).await;
    assert!(status == 403 && body.contains("a pod reports no identity but its own"), "{status} {body}");
    let who = Who { key: ObjectKey::new("shop", "web"), uid: web.uid().unwrap() };
    assert!(operator.ctx.reports.get(&who).is_some());

    let refused = async |token: &str| {
        let (status, body) = operator.ask(SETTINGS_PATH, token, json!({})).await;
        (status, serde_json::from_str::<Value>(&body).unwrap()["message"].as_str().unwrap().to_owned())
    };
    let (status, message) = refused(&operator.token("shop", "https://kubernetes.default.svc", Some(&web)).await).await;
    assert_eq!((status, message.as_str()), (401, "the token is for another audience: it must be campfire.network/agent"));
    let (status, message) = refused(&operator.token("shop", AGENT_AUDIENCE, None).await).await;
    assert!(status == 401 && message.starts_with("the token is not bound to a pod"), "{message}");
    let (status, message) = refused(&signed_by_another_cluster(&good)).await;
    assert!(status == 401 && message.starts_with("the API server of this cluster does not accept the token"), "{message}");
    let (status, message) = refused(&renamed(&good, "api", &api.uid().unwrap())).await;
    assert!(status == 401 && message.starts_with("the API server of this cluster does not accept the token"), "{message}");
    let (status, message) = refused(&expired(&good)).await;
    assert!(status == 401 && message.starts_with("the token has expired"), "{message}");
    let (status, message) = refused(&operator.token("other", AGENT_AUDIENCE, Some(&outside)).await).await;
    assert_eq!((status, message.as_str()), (403, "Campfire shop/home does not admit namespace other: see its spec.members.namespaces"));

    let reviews = operator.reviews();
    for number in 0..300 {
        let forged = renamed(&good, "web", &format!("guess-{number}"));
        assert_eq!(operator.ask(SETTINGS_PATH, &forged, json!({})).await.0, 403);
    }
    assert_eq!(operator.reviews(), reviews, "made-up tokens never reach the API server");
    assert_eq!(operator.ask(SETTINGS_PATH, &good, json!({})).await.0, 200);

    let gone = operator.token("shop", AGENT_AUDIENCE, Some(&api)).await;
    assert_eq!(operator.ask(SETTINGS_PATH, &gone, json!({})).await.0, 200);
    let pods = Api::<Pod>::namespaced(plane.client.clone(), "shop");
    pods.delete("api", &DeleteParams::default().grace_period(0)).await.unwrap();
    operator.until("a deleted pod's token is refused", async || operator.ask(SETTINGS_PATH, &gone, json!({})).await.0 == 403).await;
    let again = operator.injected("shop", "api").await;
    operator.sees(&[&again]).await;
    assert_eq!(operator.ask(SETTINGS_PATH, &gone, json!({})).await.0, 403, "nor does it open anything for a new pod of the name");

    // Membership is checked now, not when the pod was made.
    operator.namespace("shop", &json!({ "team": "b" })).await;
    operator.until("the namespace is shut out", async || operator.ask(SETTINGS_PATH, &good, json!({})).await.0 == 403).await;
}

#[tokio::test]
async fn neither_another_clusters_tokens_nor_a_flood_of_forged_ones_get_in_or_keep_others_out() {
    let Some(plane) = ControlPlane::start().await else { return };
    let Some(other) = ControlPlane::start().await else { return };
    let operator = Operator::start(&plane.client).await;
    let foreign = Operator::start(&other.client).await;
    for side in [&operator, &foreign] {
        side.namespace("shop", &json!({})).await;
        side.campfire("shop", json!({})).await;
    }
    let (ours, theirs) = (operator.injected("shop", "web").await, foreign.injected("shop", "web").await);
    operator.sees(&[&ours]).await;
    foreign.sees(&[&theirs]).await;

    // A pod of the same name, with the same issuer and audience: good there, and nothing here.
    let token = foreign.token("shop", AGENT_AUDIENCE, Some(&theirs)).await;
    assert_eq!(foreign.ask(SETTINGS_PATH, &token, json!({})).await.0, 200);
    let (status, body) = operator.ask(SETTINGS_PATH, &token, json!({})).await;
    assert_eq!((status, body.as_str()), (403, r#"{"message":"no pod shop/web of this uid has a sidecar: it is gone, or not seen yet"}"#));
    // As if it had the uid of the pod here: the API server does not know who signed it.
    let (status, body) = operator.ask(SETTINGS_PATH, &renamed(&token, "web", &ours.uid().unwrap()), json!({})).await;
    let refused = "the API server of this cluster does not accept the token: it has expired, is another cluster's, or its pod is gone";
    assert_eq!((status, body), (401, json!({ "message": refused }).to_string()));

    let good = operator.token("shop", AGENT_AUDIENCE, Some(&ours)).await;
    assert_eq!(operator.ask(SETTINGS_PATH, &good, json!({})).await.0, 200);
    let mut answers = BTreeMap::new();
    let (before, begun) = (operator.asked(), Instant::now());
    for number in 0..600 {
        let forged = changed(&good, |claims| claims["jti"] = json!(format!("forged-{number}")));
        let (status, _) =
            post(operator.agent, &format!("{AGENT_SERVICE}.{SYSTEM}.svc"), &operator.ca, SETTINGS_PATH, &forged, "{}".into()).await;
        *answers.entry(status).or_insert(0) += 1;
    }
    let (asked, most) = (operator.asked() - before, 160 + 10 * begun.elapsed().as_secs());
    assert!(answers.keys().all(|status| [401, 429].contains(status)) && answers.contains_key(&429), "{answers:?}");
    assert!(asked <= most, "of one address come 150 new tokens at once, and then ten a second: {asked}, not {most}");
    assert_eq!(operator.ask(SETTINGS_PATH, &good, json!({})).await.0, 200, "whose token is known is served all the while");
}

#[tokio::test]
async fn pods_start_whatever_the_webhook_says_and_get_their_sidecar_where_they_can() {
    let Some(plane) = ControlPlane::start().await else { return };
    let operator = Operator::start(&plane.client).await;
    operator.admit().await;
    operator.campfire("shop", json!({ "members": { "namespaces": { "from": "All" } } })).await;
    let levels = [
        ("plain", None, true),
        ("privileged", Some("privileged"), true),
        ("baseline", Some("baseline"), false),
        ("restricted", Some("restricted"), false),
    ];
    for (name, level, expected) in levels {
        let mut labels = json!({ INJECT_LABEL: ENABLED });
        if let Some(level) = level {
            labels["pod-security.kubernetes.io/enforce"] = json!(level);
        }
        operator.namespace(name, &labels).await;
        let made = operator.pod(name, "app", json!({})).await.unwrap();
        assert_eq!(inits(&made).first() == Some(&INIT_CONTAINER.to_owned()), expected, "{name}");
        assert_eq!(made.labels().get(INJECTED_LABEL).is_some(), expected, "{name}");
    }
    let made = operator.pod("plain", "first", json!({ "initContainers": [container("migrate")] })).await.unwrap();
    assert_eq!(inits(&made), [INIT_CONTAINER, SIDECAR_CONTAINER, "migrate"]);
    assert_eq!(made.annotations()[CAMPFIRE_ANNOTATION], "shop/home");
    let spec = made.spec.as_ref().unwrap();
    for ours in spec.init_containers.iter().flatten().take(2) {
        let mounts: Vec<_> = ours.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()).collect();
        assert!(mounts.iter().all(|mount| mount.starts_with("campfire-")), "the sidecar has no token for the API server: {mounts:?}");
    }
    let app = &spec.containers[0];
    assert!(app.volume_mounts.iter().flatten().any(|mount| mount.name.starts_with("kube-api-access")), "the app has");
    let out = operator.pod("plain", "out", json!({ "labels": { INJECT_LABEL: "disabled" } })).await.unwrap();
    assert_eq!(inits(&out), [""; 0]);

    // What was read back and made anew is injected anew, not twice.
    let mut copy = made.clone();
    copy.metadata = kube::api::ObjectMeta {
        name: Some("copy".into()),
        labels: made.metadata.labels.clone(),
        annotations: made.metadata.annotations.clone(),
        ..Default::default()
    };
    let copy = Api::<Pod>::namespaced(plane.client.clone(), "plain").create(&PostParams::default(), &copy).await.unwrap();
    assert_eq!(inits(&copy), [INIT_CONTAINER, SIDECAR_CONTAINER, "migrate"]);

    operator.webhook_away().await;
    let made = operator.pod("plain", "alone", json!({})).await.unwrap();
    assert_eq!(inits(&made), [""; 0], "without the operator pods start without a sidecar");
}

#[tokio::test]
async fn the_ca_is_made_once_shared_by_all_replicas_and_put_back_when_lost() {
    let Some(plane) = ControlPlane::start().await else { return };
    let leader = Operator::start(&plane.client).await;
    let follower = Operator::follow(&plane.client).await;
    leader.namespace(SYSTEM, &json!({})).await;
    leader.configuration(&json!({ "service": { "namespace": SYSTEM, "name": WEBHOOK_SERVICE } })).await;
    let mut of_follower = certs::run(follower.ctx.clone());
    let waiting = follower.ctx.readiness.waiting();
    assert!(waiting.contains(&"the CA in the webhook's configuration"), "nobody has put it there: {waiting:?}");
    let mut of_leader = certs::run(leader.ctx.clone());
    let there = |bundle: &Arc<Bundle>| !bundle.pem.is_empty();
    let pem = of_leader.wait_for(there).await.unwrap().pem.clone();
    assert_eq!(of_follower.wait_for(there).await.unwrap().pem, pem);

    let configurations = Api::<MutatingWebhookConfiguration>::all(plane.client.clone());
    let right = async || {
        let found = configurations.get(WEBHOOK_CONFIGURATION).await.unwrap();
        found.webhooks.iter().flatten().all(|webhook| webhook.client_config.ca_bundle.as_ref().is_some_and(|ca| ca.0 == pem.as_bytes()))
    };
    leader.until("the webhook's configuration has the CA", right).await;
    for operator in [&leader, &follower] {
        operator.until("it is ready when the API server can ask", async || operator.ctx.readiness.waiting().is_empty()).await;
    }
    let wrong = Patch::Merge(json!({ "webhooks": [] }));
    configurations.patch(WEBHOOK_CONFIGURATION, &PatchParams::default(), &wrong).await.unwrap();
    leader.configuration(&json!({ "service": { "namespace": SYSTEM, "name": WEBHOOK_SERVICE } })).await;
    leader.until("it has it again", right).await;

    let secrets = Api::<Secret>::namespaced(plane.client.clone(), SYSTEM);
    let before = secrets.get(CA_SECRET).await.unwrap().data;
    let garbage = Patch::Merge(json!({ "data": { "ca.key": "AAAA" } }));
    secrets.patch(CA_SECRET, &PatchParams::default(), &garbage).await.unwrap();
    let same = async || secrets.get_opt(CA_SECRET).await.unwrap().is_some_and(|secret| secret.data == before);
    leader.until("the CA is put back", same).await;
    secrets.delete(CA_SECRET, &DeleteParams::default()).await.unwrap();
    leader.until("the CA is put back", same).await;
    let version = async || secrets.get(CA_SECRET).await.unwrap().resource_version();
    let quiet = version().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(version().await, quiet, "and then left alone");
    assert_eq!(of_follower.borrow().pem, pem);
}

#[tokio::test]
async fn the_services_lead_to_the_leader_or_to_the_others_and_are_led_there_again() {
    let Some(plane) = ControlPlane::start().await else { return };
    let mut operator = Operator::start(&plane.client).await;
    operator.namespace(SYSTEM, &json!({})).await;
    let services = Api::<Service>::namespaced(plane.client.clone(), SYSTEM);
    let mut uids = BTreeMap::new();
    let led = [(AGENT_SERVICE, 8443), (WEBHOOK_SERVICE, 443), (STANDBY_SERVICE, 443)];
    for (name, port) in led {
        let service = json!({ "metadata": { "name": name }, "spec": { "ports": [{ "name": "https", "port": port }] } });
        let service = services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
        uids.insert(name, service.uid().unwrap());
    }
    let slices = Api::<EndpointSlice>::namespaced(plane.client.clone(), SYSTEM);
    // What the cluster's own controller would say of the Service that has all replicas.
    let replicas = |ready: &[&str]| {
        let endpoints: Vec<Value> = ready.iter().map(|it| json!({ "addresses": [it], "conditions": { "ready": true } })).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": { "name": "campfire-operator-x", "labels": { "kubernetes.io/service-name": OPERATOR_SERVICE } },
        })
    };
    let leads = async |service: &str, to: &[&str]| {
        let found = slices.get_opt(service).await.unwrap();
        found.is_some_and(|slice| slice.endpoints.iter().map(|it| it.addresses[0].as_str()).eq(to.iter().copied()))
    };
    let all = async |standbys: &[&str]| {
        leads(AGENT_SERVICE, &["192.0.2.7"]).await && leads(WEBHOOK_SERVICE, &["192.0.2.7"]).await && leads(STANDBY_SERVICE, standbys).await
    };
    operator.until("they lead to the leader, who is alone", async || all(&[]).await).await;
    for (name, uid) in &uids {
        assert_eq!(slices.get(name).await.unwrap().owner_references()[0].uid, *uid, "it goes with the Service");
    }
    apply(&slices, "campfire-operator-x", &replicas(&["192.0.2.7", "192.0.2.8"])).await;
    operator.until("one leads to the standby", async || all(&["192.0.2.8"]).await).await;
    for (name, _) in led {
        let elsewhere = Patch::Merge(json!({ "endpoints": [{ "addresses": ["192.0.2.66"] }] }));
        slices.patch(name, &PatchParams::default(), &elsewhere).await.unwrap();
        operator.until("it is led back", async || all(&["192.0.2.8"]).await).await;
        slices.delete(name, &DeleteParams::default()).await.unwrap();
        operator.until("it is made anew", async || all(&["192.0.2.8"]).await).await;
    }
    apply(&slices, "campfire-operator-x", &replicas(&["192.0.2.7", "192.0.2.9"])).await;
    operator.until("one leads to the new standby", async || all(&["192.0.2.9"]).await).await;
    operator.end();
    operator.until("nobody asks who ends", async || leads(WEBHOOK_SERVICE, &["192.0.2.9"]).await).await;
}

#[tokio::test]
async fn a_pod_about_which_the_leader_says_nothing_is_asked_about_again_and_no_other() {
    let Some(plane) = ControlPlane::start().await else { return };
    let operator = Operator::start(&plane.client).await;
    operator.namespace("plain", &json!({ INJECT_LABEL: ENABLED })).await;
    operator.campfire("shop", json!({ "members": { "namespaces": { "from": "All" } } })).await;
    // As a process that is stopped: connections are taken by the kernel, and nobody reads.
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap().into_std().unwrap();
    let client = |port: u16, path: &str| json!({ "url": format!("https://localhost:{port}{path}"), "caBundle": encode(&operator.ca) });
    let entries = |first: u16, second: u16| {
        let mut again = entry("namespace.again.inject.campfire.network", &client(second, INJECT_AGAIN_PATH));
        again["matchConditions"] = json!([{
            "name": "has-no-sidecar-yet",
            "expression": format!("!(has(object.metadata.labels) && '{INJECTED_LABEL}' in object.metadata.labels)"),
        }]);
        [entry("namespace.inject.campfire.network", &client(first, INJECT_PATH)), again]
    };
    let (hung, answers) = (hangs.local_addr().unwrap().port(), operator.webhook.port());
    let quick = async || {
        let begun = Instant::now();
        !inits(&operator.dry_run("plain").await).is_empty() && begun.elapsed() < Duration::from_secs(2)
    };
    operator.configurations(&entries(hung, answers)).await;
    operator.until("a pod gets its sidecar by the second entry", async || !inits(&operator.dry_run("plain").await).is_empty()).await;
    operator.configurations(&entries(answers, hung)).await;
    operator.until("a pod gets it by the first, and is not asked about again", quick).await;

    operator.configurations(&entries(answers, answers)).await;
    operator.until("both answer", quick).await;
    let skipped = || {
        let text = operator.ctx.metrics.text();
        let line = text.lines().find(|line| line.contains("admissions_total{result=\"HostNetwork\"}")).unwrap_or("0");
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    operator.pod("plain", "never", json!({ "hostNetwork": true })).await.unwrap();
    assert_eq!(skipped(), 1, "asked about twice, told and counted once");
}

/// An entry of the webhook's configuration, about the pods of namespaces that ask for it.
fn entry(name: &str, client: &Value) -> Value {
    json!({
        "name": name, "clientConfig": client, "failurePolicy": "Ignore", "timeoutSeconds": 3,
        "sideEffects": "NoneOnDryRun", "reinvocationPolicy": "IfNeeded", "admissionReviewVersions": ["v1"],
        "namespaceSelector": { "matchLabels": { INJECT_LABEL: ENABLED } },
        "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
    })
}

/// An operator's webhook and agent API in this process.
struct Operator {
    ctx: Arc<Context>,
    client: Client,
    ca: String,
    agent: SocketAddr,
    webhook: SocketAddr,
    _mandate: Mandate,
    shutdown: watch::Sender<bool>,
    _bundle: watch::Sender<Arc<Bundle>>,
}

impl Operator {
    async fn start(client: &Client) -> Self {
        define(client).await;
        Self::run(client, true).await
    }

    async fn follow(client: &Client) -> Self {
        Self::run(client, false).await
    }

    async fn run(client: &Client, leads: bool) -> Self {
        let (mandate, leadership) = Leadership::new();
        let (shutdown, stop) = Shutdown::new();
        if leads {
            mandate.lead_until(Instant::now() + Duration::from_hours(1));
        }
        let ctx = Context::start(client.clone(), settings(), Arc::new(Metrics::default()), Reports::new().0, leadership, stop);
        let ctx = Arc::new(ctx);
        ctx.cluster.synced().await;
        let now = SystemTime::now();
        let authority = Authority::make(now, &Times::default()).unwrap();
        // The API server is on this machine and calls the webhook by this name.
        let names = ["localhost".to_owned(), format!("{AGENT_SERVICE}.{SYSTEM}.svc")];
        let (servers, _) = authority.server(&names, now, &Times::default()).unwrap();
        let bundle = watch::Sender::new(Arc::new(Bundle { pem: authority.pem(), servers: Some(servers) }));
        let listen = async || {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            (listener.local_addr().unwrap(), listener)
        };
        let (agent, listener) = listen().await;
        tokio::spawn(agent::serve(ctx.clone(), bundle.subscribe(), listener));
        let (webhook, listener) = listen().await;
        tokio::spawn(webhook::serve(ctx.clone(), bundle.subscribe(), listener));
        tokio::spawn(endpoints::keep(ctx.clone()));
        ctx.memberships.publish(&ObjectKey::new("shop", "home"), membership());
        Self { ctx, client: client.clone(), ca: authority.pem(), agent, webhook, _mandate: mandate, shutdown, _bundle: bundle }
    }

    /// As at SIGTERM.
    fn end(&mut self) {
        self.shutdown.send_replace(true);
    }

    /// Makes or changes a namespace, with a ServiceAccount for its pods, and waits until the operator has seen it.
    async fn namespace(&self, name: &str, labels: &Value) {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
        apply(&Api::<Namespace>::all(self.client.clone()), name, &namespace).await;
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
        apply(&Api::<ServiceAccount>::namespaced(self.client.clone(), name), "default", &account).await;
        let wanted: BTreeMap<String, String> = serde_json::from_value(labels.clone()).unwrap();
        self.until("the namespace is seen", async || {
            let seen = self.ctx.cluster.namespaces.state();
            seen.iter().any(|seen| seen.name == name && wanted.iter().all(|(key, value)| seen.labels.get(key) == Some(value)))
        })
        .await;
    }

    async fn campfire(&self, namespace: &str, mut spec: Value) {
        if namespace == "shop" && !self.ctx.cluster.namespaces.state().iter().any(|seen| seen.name == "shop") {
            self.namespace("shop", &json!({})).await;
        }
        spec["turn"] = json!({ "exposure": { "type": "ClusterIP" } });
        let campfire =
            json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "name": "home" }, "spec": spec });
        let campfires = Api::<Campfire>::namespaced(self.client.clone(), namespace);
        apply(&campfires, "home", &campfire).await;
        // No controller runs here that would say it.
        let status = json!({ "status": { "prefix": "fd01:203:405::/48" } });
        campfires.patch_status("home", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        self.until("the Campfire and its network are seen", async || {
            let seen = self.ctx.cluster.campfires.state();
            seen.iter().any(|campfire| campfire.status.as_ref().is_some_and(|status| status.prefix.is_some()))
        })
        .await;
    }

    /// A pod that looks as if it had been injected.
    async fn injected(&self, namespace: &str, name: &str) -> Pod {
        let made = self
            .pod(namespace, name, json!({ "labels": { INJECTED_LABEL: ENABLED }, "annotations": { CAMPFIRE_ANNOTATION: "shop/home" } }))
            .await;
        made.unwrap()
    }

    /// A pod that even `restricted` lets pass; of `change`, labels and annotations go to the metadata, the rest to the spec.
    async fn pod(&self, namespace: &str, name: &str, change: Value) -> kube::Result<Pod> {
        let mut spec = json!({ "containers": [container("app")] });
        let mut metadata = json!({ "name": name });
        for (key, value) in change.as_object().unwrap() {
            let target = if key == "labels" || key == "annotations" { &mut metadata } else { &mut spec };
            target[key] = value.clone();
        }
        let pod = serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap();
        Api::<Pod>::namespaced(self.client.clone(), namespace).create(&PostParams::default(), &pod).await
    }

    /// Waits until the operator has seen these pods.
    async fn sees(&self, pods: &[&Pod]) {
        self.until("the pods are seen", async || {
            let seen = self.ctx.cluster.pods.state();
            pods.iter().all(|pod| seen.iter().any(|seen| Some(&seen.id.uid) == pod.uid().as_ref()))
        })
        .await;
    }

    /// A token of the namespace's default ServiceAccount.
    async fn token(&self, namespace: &str, audience: &str, pod: Option<&Pod>) -> String {
        let bound = pod.map(|pod| json!({ "apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid() }));
        let request = json!({ "metadata": {}, "spec": { "audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound } });
        let request: TokenRequest = serde_json::from_value(request).unwrap();
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        accounts.create_token_request("default", &PostParams::default(), &request).await.unwrap().status.unwrap().token
    }

    /// Status and body.
    async fn ask(&self, path: &str, token: &str, body: Value) -> (u16, String) {
        // Not faster than one pod may ask.
        loop {
            let (status, answer) =
                post(self.agent, &format!("{AGENT_SERVICE}.{SYSTEM}.svc"), &self.ca, path, token, body.to_string()).await;
            if status != 429 {
                return (status, answer);
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Times that the API server was asked about a token.
    fn asked(&self) -> u64 {
        self.reviews().rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn reviews(&self) -> String {
        let text = self.ctx.metrics.text();
        text.lines().find(|line| line.starts_with("campfire_operator_token_reviews_total")).unwrap().to_owned()
    }

    /// Makes the API server ask this webhook.
    async fn admit(&self) {
        self.configuration(
            &json!({ "url": format!("https://localhost:{}{INJECT_PATH}", self.webhook.port()), "caBundle": encode(&self.ca) }),
        )
        .await;
        // The API server takes a moment to take it in.
        self.namespace("probe", &json!({ INJECT_LABEL: ENABLED })).await;
        self.until("the API server asks", async || {
            self.dry_run("probe").await;
            self.ctx.metrics.text().contains("admissions_total{")
        })
        .await;
    }

    async fn dry_run(&self, namespace: &str) -> Pod {
        let pod = json!({ "metadata": { "name": "probe" }, "spec": { "containers": [container("app")] } });
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        Api::<Pod>::namespaced(self.client.clone(), namespace).create(&dry, &serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    async fn configuration(&self, client: &Value) {
        self.configurations(&[entry("namespace.inject.campfire.network", client)]).await;
    }

    async fn configurations(&self, webhooks: &[Value]) {
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": WEBHOOK_CONFIGURATION }, "webhooks": webhooks,
        });
        apply(&Api::<MutatingWebhookConfiguration>::all(self.client.clone()), WEBHOOK_CONFIGURATION, &configuration).await;
    }

    /// Nobody answers the API server any more.
    async fn webhook_away(&self) {
        self.configuration(&json!({ "url": "https://localhost:1/inject", "caBundle": encode(&self.ca) })).await;
        self.until("the API server asks nobody", async || inits(&self.dry_run("plain").await).is_empty()).await;
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let started = Instant::now();
        while !holds().await {
            assert!(started.elapsed() < Duration::from_mins(1), "{what}: not within a minute");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn post(address: SocketAddr, name: &str, ca: &str, path: &str, token: &str, body: String) -> (u16, String) {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(path).header("host", "operator").header("authorization", format!("Bearer {token}"));
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// A token with other claims and its old signature.
fn changed(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    change(&mut claims);
    format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2])
}

/// The same claims, signed by who is not this cluster.
fn signed_by_another_cluster(token: &str) -> String {
    let (signed, _) = token.rsplit_once('.').unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode([7; 64]))
}

fn renamed(token: &str, name: &str, uid: &str) -> String {
    changed(token, |claims| claims["kubernetes.io"]["pod"] = json!({ "name": name, "uid": uid }))
}

fn expired(token: &str) -> String {
    changed(token, |claims| claims["exp"] = json!(1_000_000_000))
}

fn container(name: &str) -> Value {
    json!({ "name": name, "image": "app", "securityContext": {
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 1000, "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    } })
}

fn inits(pod: &Pod) -> Vec<String> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).map(|container| container.name.clone()).collect()
}

fn encode(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn settings() -> OperatorSettings {
    OperatorSettings {
        namespace: SYSTEM.into(),
        pod_name: "campfire-0".into(),
        pod_ip: Some("192.0.2.7".parse().unwrap()),
        sidecar_image: "localhost/campfire:0".into(),
        turn_image: "localhost/campfire-turn:0".into(),
        image_pull_policy: "IfNotPresent".into(),
        cluster_name: "here".into(),
        agent_port: 8443,
        ..OperatorSettings::default()
    }
}

fn membership() -> Membership {
    let key = HeldKey::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8".parse().unwrap(), KeyMode::Announce);
    Membership {
        id: key.keys.network,
        keys: vec![key],
        own: Vec::new(),
        given: Vec::new(),
        heard: Vec::new(),
        cluster: "here".into(),
        network: MeshNetwork { ipv4_pool: None, accept_routes: Vec::new(), mtu: 1280 },
        server_list_version: 1,
    }
}
