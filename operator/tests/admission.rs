//! What a real API server makes of pods with our containers: quotas, LimitRanges, pod-level resources, classes, PodSecurity, policies and pods that
//! cannot take them. Each pod is made by itself first, and again asking for a sidecar: who is admitted alone is admitted so, with the mesh or
//! without, of the class that it had; and where it is without, the reason is told.

#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "values written where they are used")]

mod control_plane;
mod in_process;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use campfire_api::conditions::Reason;
use campfire_api::names::{
    CANARY_LABEL, CANARY_WEBHOOK, DISABLED, ENABLED, INIT_CONTAINER, INJECT_LABEL, INJECT_PATH, MODE_ANNOTATION, NODE_DRAIN_ANNOTATION,
    NODE_DRIVER, SIDECAR_CONTAINER, WEBHOOK_CONFIGURATION,
};
use campfire_api::{Campfire, CampfireStatus, MeshPeer};
use campfire_operator::campfire::canary;
use campfire_operator::certs::{Authority, Bundle, Times};
use campfire_operator::webhook;
use campfire_operator::webhook::fit::class_of;
use control_plane::{ControlPlane, apply, define};
use in_process::{Operator, campfire_says, eventually};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Pod, ResourceQuota, ServiceAccount};
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What the cluster enforces where a namespace has no label.
const BASELINE: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: latest}
    exemptions: {namespaces: [kube-system]}
";

/// How a pod that asks for a sidecar comes out.
enum Out {
    /// With it.
    With,
    /// Without it, for this reason, by the metrics and the warning.
    Without(&'static str),
    /// It is not admitted by itself either.
    NotAlone,
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_admitted_alone_is_admitted_with_us_or_left_alone_and_told_why() {
    let Some(world) = World::start(None).await else { return };
    let mut failures = Vec::new();
    let table = table();
    assert!(table.len() >= 25, "{}", table.len());
    for (number, (what, setting, spec, expected)) in table.into_iter().enumerate() {
        let namespace = format!("n{number}");
        world.namespace(&namespace, &setting).await;
        if let Err(failure) = world.tries(&namespace, spec, &expected).await {
            failures.push(format!("{what}: {failure}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_of_pod_security_that_no_label_shows_is_found_out_and_no_pod_is_refused_for_it() {
    let Some(world) = World::start(Some(BASELINE)).await else { return };
    let campfires = Api::<Campfire>::namespaced(world.client.clone(), "default");
    let said = campfire_says(&campfires, "home", "MembersAdmitted", "PodSecurityDefault").await;
    assert!(said.starts_with("False: this cluster's PodSecurity forbids the sidecar") && said.contains("baseline:latest"), "{said}");
    for (namespace, labels, out) in [
        ("bare", json!({}), Out::Without("PodSecurityForbids")),
        ("free", json!({ "pod-security.kubernetes.io/enforce": "privileged" }), Out::With),
        ("strict", json!({ "pod-security.kubernetes.io/enforce": "restricted" }), Out::Without("PodSecurityForbids")),
    ] {
        world.namespace(namespace, &json!({ "labels": labels })).await;
        world.tries(namespace, app(json!({})), &out).await.unwrap_or_else(|failure| panic!("{namespace}: {failure}"));
    }
    // The namespace is labelled: what is found then is of it alone.
    let label = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "privileged" } } });
    Api::<Namespace>::all(world.client.clone()).patch("default", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    let touch = json!({ "metadata": { "annotations": { "example.org/touched": "1" } } });
    campfires.patch("home", &PatchParams::default(), &Patch::Merge(touch)).await.unwrap();
    let said = campfire_says(&campfires, "home", "MembersAdmitted", "Admitted").await;
    assert!(said.starts_with("True: pods with the sidecar are admitted"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_refuses_our_containers_in_a_campfires_namespace_is_found_out_and_pods_start_without() {
    let Some(world) = World::start(None).await else { return };
    let campfires = Api::<Campfire>::namespaced(world.client.clone(), "default");
    campfire_says(&campfires, "home", "MembersAdmitted", "AdmittedByDefault").await;
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": { "name": "no-capabilities" },
        "spec": {
            "matchConstraints": { "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }] },
            "validations": [{
                "expression": "!has(object.spec.initContainers) || object.spec.initContainers.all(c, !has(c.securityContext) || !has(c.securityContext.capabilities) || !has(c.securityContext.capabilities.add))",
                "message": "added capabilities are forbidden here",
            }],
        },
    });
    apply(&Api::<ValidatingAdmissionPolicy>::all(world.client.clone()), "no-capabilities", &policy).await;
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": { "name": "no-capabilities" },
        "spec": { "policyName": "no-capabilities", "validationActions": ["Deny"] },
    });
    apply(&Api::<ValidatingAdmissionPolicyBinding>::all(world.client.clone()), "no-capabilities", &binding).await;
    let said = async || campfires.get("home").await.unwrap().status.unwrap_or_default().conditions;
    let mut touched = 0;
    let begun = Instant::now();
    while !said().await.iter().any(|condition| condition.reason == "PolicyForbids" && condition.message.contains("added capabilities")) {
        assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", said().await);
        touched += 1;
        let touch = json!({ "metadata": { "annotations": { "example.org/touched": touched.to_string() } } });
        campfires.patch("home", &PatchParams::default(), &Patch::Merge(touch)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let asks = json!({ "metadata": { "labels": { INJECT_LABEL: ENABLED } } });
    Api::<Namespace>::all(world.client.clone()).patch("default", &PatchParams::default(), &Patch::Merge(asks)).await.unwrap();
    world.tries("default", app(json!({})), &Out::Without("PolicyForbids")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_node_agent_is_installed_pods_that_may_do_nothing_are_admitted_with_the_sidecar_as_they_are() {
    let Some(world) = World::start(Some(BASELINE)).await else { return };
    let level = |level: &str| json!({ "labels": { "pod-security.kubernetes.io/enforce": level } });
    let settings = [("bare", json!({})), ("base", level("baseline")), ("strict", level("restricted")), ("free", level("privileged"))];
    for (namespace, labels) in &settings {
        world.namespace(namespace, labels).await;
    }
    let own =
        |uid: Value| json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" }, "runAsUser": uid, "fsGroup": 2000 });
    let restricted = |uid: Value| {
        let mut pod = with(app(json!({})), json!({ "securityContext": own(uid) }));
        pod["containers"][0]["securityContext"] =
            json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } });
        pod
    };
    for namespace in ["bare", "base", "strict"] {
        world.tries(namespace, restricted(json!(1_000_660_000)), &Out::Without("PodSecurityForbids")).await.unwrap();
    }

    let driver = |annotations: Value| {
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": { "name": NODE_DRIVER, "annotations": annotations },
            "spec": { "attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"], "fsGroupPolicy": "None" },
        })
    };
    let drivers = Api::<CSIDriver>::all(world.client.clone());
    apply(&drivers, NODE_DRIVER, &driver(json!({}))).await;
    eventually("the agent is seen", || async { world.operator.ctx.cluster.nodes().agent.is_some() }).await;
    for (namespace, node) in [("bare", true), ("base", true), ("strict", true), ("free", false)] {
        for uid in [json!(1_000_660_000), Value::Null] {
            world
                .tries(namespace, restricted(uid.clone()), &Out::With)
                .await
                .unwrap_or_else(|failure| panic!("{namespace} {uid}: {failure}"));
            let pod = world.make(namespace, "x", restricted(uid), true, ENABLED).await.unwrap();
            assert_eq!(pod.annotations().get(MODE_ANNOTATION).is_some(), node, "{namespace}");
        }
    }
    let campfires = Api::<Campfire>::namespaced(world.client.clone(), "default");
    let touch = json!({ "metadata": { "annotations": { "example.org/touched": "2" } } });
    campfires.patch("home", &PatchParams::default(), &Patch::Merge(touch)).await.unwrap();
    let said = campfire_says(&campfires, "home", "MembersAdmitted", "AdmittedByDefault").await;
    assert!(said.starts_with("True"), "what is tried there is what pods there get: {said}");

    apply(&drivers, NODE_DRIVER, &driver(json!({ NODE_DRAIN_ANNOTATION: "true" }))).await;
    eventually("it is seen to go", || async { world.operator.ctx.cluster.nodes().agent.is_some_and(|agent| agent.drain) }).await;
    world.tries("strict", restricted(Value::Null), &Out::Without("PodSecurityForbids")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_the_api_server_reaches_the_webhook_is_asked_of_it_and_the_cause_is_told() {
    let Some(world) = World::start(None).await else { return };
    let said = canary::look(&world.operator.ctx).await.unwrap();
    assert!(said.is_true(), "{said:?}");
    let nobody = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": WEBHOOK_CONFIGURATION }, "webhooks": [asking(1, "")],
    });
    apply(&Api::<MutatingWebhookConfiguration>::all(world.client.clone()), WEBHOOK_CONFIGURATION, &nobody).await;
    eventually("it is found out", || async { canary::look(&world.operator.ctx).await.is_some_and(|said| !said.is_true()) }).await;
    let said = canary::look(&world.operator.ctx).await.unwrap();
    assert!(said.reason == Reason::Unreached && said.message.contains("connection refused"), "{said:?}");
    let peers = Api::<MeshPeer>::all(world.client.clone());
    assert!(peers.list(&ListParams::default()).await.unwrap().items.is_empty(), "nothing comes to be");
}

fn app(resources: Value) -> Value {
    json!({ "containers": [container("app", resources)] })
}

fn container(name: &str, resources: Value) -> Value {
    json!({ "name": name, "image": "app", "resources": resources, "securityContext": {
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 1000, "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    } })
}

fn both(cpu: &str, memory: &str) -> Value {
    let amounts = json!({ "cpu": cpu, "memory": memory });
    json!({ "requests": amounts, "limits": amounts })
}

fn requests(cpu: &str, memory: &str) -> Value {
    json!({ "requests": { "cpu": cpu, "memory": memory } })
}

fn with(mut spec: Value, more: Value) -> Value {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn quota(hard: Value, used: Value) -> Value {
    json!({ "quota": { "spec": { "hard": hard }, "used": used } })
}

fn scoped(scope: &str, hard: Value) -> Value {
    json!({ "quota": { "spec": { "hard": hard, "scopes": [scope] }, "used": {} } })
}

fn range(kind: &str, item: Value) -> Value {
    json!({ "range": with(json!({ "type": kind }), item) })
}

/// What stands in the namespace, the pod, how it comes out.
type Row = (&'static str, Value, Value, Out);

fn table() -> Vec<Row> {
    [quotas(), ranges(), others()].into_iter().flatten().collect()
}

fn free() -> Value {
    json!({})
}

fn quotas() -> Vec<Row> {
    use Out::{NotAlone, With, Without};
    let all = json!({ "limits.cpu": "4", "limits.memory": "4Gi", "requests.cpu": "2", "requests.memory": "2Gi" });
    let migrating = || with(app(both("100m", "64Mi")), json!({ "initContainers": [container("migrate", both("1", "64Mi"))] }));
    vec![
        ("BestEffort", free(), app(json!({})), With),
        ("Burstable", free(), app(requests("100m", "64Mi")), With),
        ("Guaranteed", free(), app(both("100m", "64Mi")), With),
        ("Guaranteed, with an init container", free(), migrating(), With),
        ("a quota of all, a pod that says all", quota(all.clone(), json!({})), app(both("100m", "64Mi")), With),
        ("a quota of all, a pod that says nothing", quota(all, json!({})), app(json!({})), NotAlone),
        ("a quota of requests", quota(json!({ "requests.cpu": "1" }), json!({})), app(requests("100m", "64Mi")), With),
        (
            "a quota of limits, used up by the pod",
            quota(json!({ "limits.cpu": "1" }), json!({ "limits.cpu": "800m" })),
            app(both("100m", "64Mi")),
            Without("QuotaForbids"),
        ),
        (
            "a quota of memory, used up by the pod",
            quota(json!({ "requests.memory": "1Gi" }), json!({ "requests.memory": "950Mi" })),
            app(requests("100m", "64Mi")),
            Without("QuotaForbids"),
        ),
        ("a quota for BestEffort alone", scoped("BestEffort", json!({ "pods": "1" })), app(json!({})), With),
        ("a quota for all but BestEffort", scoped("NotBestEffort", json!({ "requests.cpu": "1" })), app(json!({})), With),
        ("a quota that others have", scoped("Terminating", json!({ "limits.cpu": "1m" })), app(both("100m", "64Mi")), With),
    ]
}

fn ranges() -> Vec<Row> {
    use Out::{NotAlone, With, Without};
    vec![
        ("LimitRange, min", range("Container", json!({ "min": { "cpu": "50m" } })), app(requests("100m", "64Mi")), With),
        ("LimitRange, min of memory", range("Container", json!({ "min": { "memory": "200Mi" } })), app(both("100m", "256Mi")), With),
        ("LimitRange, max", range("Container", json!({ "max": { "cpu": "150m", "memory": "64Mi" } })), app(both("100m", "64Mi")), With),
        ("LimitRange, max by default", range("Container", json!({ "max": { "cpu": "150m" } })), app(json!({})), With),
        (
            "LimitRange, too little memory",
            range("Container", json!({ "max": { "memory": "16Mi" } })),
            app(both("100m", "16Mi")),
            Without("LimitRangeForbids"),
        ),
        (
            "LimitRange, ratio",
            range("Container", json!({ "maxLimitRequestRatio": { "memory": "4", "cpu": "2" } })),
            app(both("100m", "64Mi")),
            With,
        ),
        (
            "LimitRange, ratio by default",
            range("Container", json!({ "maxLimitRequestRatio": { "memory": "4" } })),
            app(json!({})),
            NotAlone,
        ),
        (
            "LimitRange, defaults",
            range(
                "Container",
                json!({ "default": { "cpu": "1", "memory": "1Gi" }, "defaultRequest": { "cpu": "500m", "memory": "512Mi" } }),
            ),
            app(json!({})),
            With,
        ),
        (
            "LimitRange, defaults that make it Guaranteed",
            range("Container", json!({ "default": { "cpu": "1", "memory": "1Gi" } })),
            app(json!({})),
            With,
        ),
        ("LimitRange of pods, ratio", range("Pod", json!({ "maxLimitRequestRatio": { "memory": "1" } })), app(both("100m", "64Mi")), With),
        ("LimitRange of pods, with room", range("Pod", json!({ "max": { "cpu": "1" } })), app(both("100m", "64Mi")), With),
        (
            "LimitRange of pods, filled by the pod",
            range("Pod", json!({ "max": { "cpu": "150m" } })),
            app(both("100m", "64Mi")),
            Without("LimitRangeForbids"),
        ),
    ]
}

fn others() -> Vec<Row> {
    use Out::{With, Without};
    let level = |level: &str| json!({ "labels": { "pod-security.kubernetes.io/enforce": level } });
    let of_pod = |of_pod: Value, of_app: Value| with(app(of_app), json!({ "resources": of_pod }));
    let host = json!({ "hostNetwork": true });
    let windows = json!({ "os": { "name": "windows" }, "containers": [{ "name": "app", "image": "app" }] });
    let odd = json!({ "shareProcessNamespace": true, "restartPolicy": "Never", "securityContext": { "runAsNonRoot": true, "runAsUser": 1, "fsGroup": 2 } });
    vec![
        ("pod-level resources, used up by its containers", free(), of_pod(both("100m", "64Mi"), both("100m", "64Mi")), With),
        ("pod-level resources alone", free(), of_pod(both("1", "512Mi"), json!({})), With),
        (
            "pod-level CPU alone",
            free(),
            of_pod(json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "1" } }), requests("100m", "64Mi")),
            With,
        ),
        (
            "pod-level resources under a quota",
            quota(json!({ "limits.cpu": "1", "requests.memory": "1Gi" }), json!({})),
            of_pod(both("100m", "64Mi"), both("100m", "64Mi")),
            With,
        ),
        (
            "pod-level resources under defaults, with room",
            range("Container", json!({ "default": { "cpu": "100m" }, "defaultRequest": { "cpu": "20m" } })),
            of_pod(both("1", "512Mi"), both("100m", "64Mi")),
            With,
        ),
        (
            "pod-level resources under a min, without room",
            range("Container", json!({ "min": { "cpu": "50m" } })),
            of_pod(both("100m", "64Mi"), both("100m", "64Mi")),
            Without("LimitRangeForbids"),
        ),
        ("privileged", level("privileged"), app(json!({})), With),
        ("baseline", level("baseline"), app(json!({})), Without("PodSecurityForbids")),
        ("restricted", level("restricted"), app(json!({})), Without("PodSecurityForbids")),
        ("hostNetwork", free(), with(app(json!({})), host), Without("HostNetwork")),
        ("Windows", free(), windows, Without("Windows")),
        ("a user namespace", free(), with(app(json!({})), json!({ "hostUsers": false })), Without("UserNamespace")),
        ("not root, one process namespace, ends", free(), with(app(json!({})), odd), With),
        ("pull secrets", free(), with(app(json!({})), json!({ "imagePullSecrets": [{ "name": "theirs" }] })), With),
        ("no API token", free(), with(app(json!({})), json!({ "automountServiceAccountToken": false })), With),
        ("our names", free(), json!({ "containers": [container("campfire", json!({}))] }), Without("NameTaken")),
    ]
}

/// The entry by which the operator finds out whether it is reached, as the chart has it.
fn asking(port: u16, ca: &str) -> Value {
    json!({
        "name": CANARY_WEBHOOK, "failurePolicy": "Fail", "timeoutSeconds": 3, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": { "url": format!("https://localhost:{port}{INJECT_PATH}"), "caBundle": ca },
        "objectSelector": { "matchLabels": { CANARY_LABEL: "asked" } },
        "rules": [{ "apiGroups": ["campfire.network"], "apiVersions": ["v1alpha1"], "operations": ["CREATE"], "resources": ["meshpeers"] }],
    })
}

/// An API server, the operator, and its webhook.
struct World {
    client: Client,
    operator: Operator,
    _bundle: watch::Sender<Arc<Bundle>>,
    _plane: ControlPlane,
}

impl World {
    async fn start(admission: Option<&str>) -> Option<Self> {
        let plane = ControlPlane::with_admission(admission).await?;
        let client = plane.client.clone();
        define(&client).await;
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
        apply(&Api::<ServiceAccount>::namespaced(client.clone(), "default"), "default", &account).await;
        let operator = Operator::trusting(&client, &["default"], &["default"]).await;
        let now = SystemTime::now();
        let authority = Authority::make(now, &Times::default()).unwrap();
        let (servers, _) = authority.server(&["localhost".to_owned()], now, &Times::default()).unwrap();
        let bundle = watch::Sender::new(Arc::new(Bundle { pem: authority.pem(), servers: Some(servers) }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(webhook::serve(operator.ctx.clone(), bundle.subscribe(), listener));
        let ca = base64::engine::general_purpose::STANDARD.encode(authority.pem());
        let webhook = json!({
            "name": "namespace.inject.campfire.network", "failurePolicy": "Ignore", "timeoutSeconds": 3, "sideEffects": "NoneOnDryRun",
            "clientConfig": { "url": format!("https://localhost:{port}{INJECT_PATH}"), "caBundle": ca },
            "reinvocationPolicy": "IfNeeded", "admissionReviewVersions": ["v1"], "namespaceSelector": { "matchLabels": { INJECT_LABEL: ENABLED } },
            "objectSelector": { "matchExpressions": [{ "key": INJECT_LABEL, "operator": "NotIn", "values": [DISABLED] }] },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
        });
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": WEBHOOK_CONFIGURATION }, "webhooks": [webhook, asking(port, &ca)],
        });
        apply(&Api::<MutatingWebhookConfiguration>::all(client.clone()), WEBHOOK_CONFIGURATION, &configuration).await;
        let spec = json!({
            "turn": { "replicas": 0, "servers": ["turn:192.0.2.1"] }, "members": { "namespaces": { "from": "All" } },
            "sidecar": { "imagePullSecrets": [{ "name": "ours" }] },
        });
        let campfire =
            json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "name": "home" }, "spec": spec });
        let campfires = Api::<Campfire>::namespaced(client.clone(), "default");
        apply(&campfires, "home", &campfire).await;
        eventually("the Campfire has a network", || async {
            campfires.get("home").await.unwrap().status.is_some_and(|status: CampfireStatus| status.prefix.is_some())
        })
        .await;
        let world = Self { client, operator, _bundle: bundle, _plane: plane };
        // The API server takes a moment to take the webhook in.
        world.namespace("asked", &json!({ "labels": { "pod-security.kubernetes.io/enforce": "privileged" } })).await;
        eventually("the API server asks", || async {
            world.make("asked", "x", app(json!({})), true, ENABLED).await.is_ok_and(|pod| injected(&pod))
        })
        .await;
        Some(world)
    }

    /// One with these labels, bounds, and a ServiceAccount; back when the operator has seen it all.
    async fn namespace(&self, name: &str, setting: &Value) {
        let mut labels = json!({ INJECT_LABEL: ENABLED });
        labels.as_object_mut().unwrap().extend(setting["labels"].as_object().cloned().unwrap_or_default());
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
        apply(&Api::<Namespace>::all(self.client.clone()), name, &namespace).await;
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
        apply(&Api::<ServiceAccount>::namespaced(self.client.clone(), name), "default", &account).await;
        if !setting["range"].is_null() {
            let range =
                json!({ "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": "r" }, "spec": { "limits": [setting["range"]] } });
            apply(&Api::<LimitRange>::namespaced(self.client.clone(), name), "r", &range).await;
        }
        if !setting["quota"].is_null() {
            let quota =
                json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "q" }, "spec": setting["quota"]["spec"] });
            let quotas = Api::<ResourceQuota>::namespaced(self.client.clone(), name);
            apply(&quotas, "q", &quota).await;
            // What a controller would count.
            let hard = setting["quota"]["spec"]["hard"].clone();
            let mut used: Value = hard.as_object().unwrap().keys().map(|name| (name.clone(), json!("0"))).collect();
            used.as_object_mut().unwrap().extend(setting["quota"]["used"].as_object().unwrap().clone());
            let status = json!({ "status": { "hard": hard, "used": used } });
            quotas.patch_status("q", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        }
        let cluster = &self.operator.ctx.cluster;
        eventually("the namespace is seen", || async {
            let bounds = cluster.bounds(name);
            cluster.namespace(name).is_some()
                && bounds.ranges.is_empty() == setting["range"].is_null()
                && if setting["quota"].is_null() {
                    true
                } else {
                    bounds.quotas.first().is_some_and(|quota| quota.status.as_ref().is_some_and(|status| status.used.is_some()))
                }
        })
        .await;
    }

    async fn make(&self, namespace: &str, name: &str, spec: Value, dry_run: bool, asks: &str) -> kube::Result<Pod> {
        let pod = json!({ "metadata": { "name": name, "labels": { INJECT_LABEL: asks } }, "spec": spec });
        let params = PostParams { dry_run, ..PostParams::default() };
        // The label enabled of the namespace asks as well.
        let mut pod: Pod = serde_json::from_value(pod).unwrap();
        if asks == ENABLED {
            pod.metadata.labels = None;
        }
        Api::<Pod>::namespaced(self.client.clone(), namespace).create(&params, &pod).await
    }

    fn counted(&self, result: &str) -> u64 {
        let text = self.operator.ctx.metrics.text();
        let line = text.lines().find(|line| line.contains(&format!("admissions_total{{result=\"{result}\"}}")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }

    /// Makes the pod alone and with us, and says what is not as it should be.
    async fn tries(&self, namespace: &str, spec: Value, expected: &Out) -> Result<(), String> {
        let alone = self.make(namespace, "alone", spec.clone(), true, DISABLED).await;
        let counted = |result: &str| self.counted(result);
        let before = if let Out::Without(reason) = expected { counted(reason) } else { 0 };
        let with = self.make(namespace, "with", spec, false, ENABLED).await;
        let (alone, with) = match (alone, with, expected) {
            (Err(_), _, Out::NotAlone) => return Ok(()),
            (Err(error), ..) => return Err(format!("is not admitted alone: {error}")),
            (Ok(_), _, Out::NotAlone) => return Err("is admitted alone".into()),
            (Ok(_), Err(error), _) => return Err(format!("is refused with us: {error}")),
            (Ok(alone), Ok(with), _) => (alone, with),
        };
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let _ = pods.delete("with", &DeleteParams::default().grace_period(0)).await;
        let qos = |pod: &Pod| pod.status.as_ref().and_then(|status| status.qos_class.clone());
        if qos(&alone) != qos(&with) {
            return Err(format!("was {:?} and is {:?}", qos(&alone), qos(&with)));
        }
        let (kind, seen) = (class_of(alone.spec.as_ref().unwrap()), qos(&alone).unwrap_or_default());
        if format!("{kind:?}") != seen {
            return Err(format!("we take it for {kind:?}, the API server for {seen}"));
        }
        let pulls = |pod: &Pod| {
            pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()).map(|it| it.name.clone()).collect::<Vec<_>>()
        };
        match expected {
            Out::With if !injected(&with) => Err("has no sidecar".into()),
            Out::With if pulls(&with) != [pulls(&alone), vec!["ours".to_owned()]].concat() => Err(format!("pulls with {:?}", pulls(&with))),
            Out::Without(_) if injected(&with) => Err("has a sidecar".into()),
            Out::Without(reason) if counted(reason) == before => {
                Err(format!("it is not said that {reason}: {}", self.operator.ctx.metrics.text()))
            }
            Out::With | Out::Without(_) | Out::NotAlone => Ok(()),
        }
    }
}

fn injected(pod: &Pod) -> bool {
    let inits: Vec<&str> = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).map(|it| it.name.as_str()).collect();
    let ours: &[&str] =
        if pod.annotations().contains_key(MODE_ANNOTATION) { &[SIDECAR_CONTAINER] } else { &[INIT_CONTAINER, SIDECAR_CONTAINER] };
    inits.starts_with(ours) && pod.name_any() != ""
}
