//! The plugin against a real API server: etcd and kube-apiserver on this machine, and nothing that runs pods.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "../../operator/tests/control_plane/mod.rs"]
mod control_plane;

use std::path::Path;
use std::process::Command;

use campfire_api::Campfire;
use control_plane::{ControlPlane, apply, define};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_real_api_server_says_is_understood() {
    let Some(plane) = ControlPlane::start().await else { return };
    let (client, admin) = (&plane.client, plane.kubeconfig());

    // Nothing is there yet.
    let (code, text) = run(admin, &["check", "--pre"]);
    assert!(code == 0 && text.contains("ok   install-absent: not installed yet\nok   install-rights: "), "{text}");
    let (code, text) = run(admin, &["check", "--short"]);
    assert!(code == 2 && text.contains("FAIL cluster-definitions: there are no Campfires"), "{text}");
    let (code, text) = run(admin, &["status"]);
    assert!(code == 1 && text.contains("its definitions are not installed"), "{text}");

    // The definitions, and a Campfire that no operator looks after.
    define(client).await;
    described(client, "of the definitions", |text| text.contains("\"members\"")).await;
    let namespace = Api::<Namespace>::all(client.clone());
    apply(
        &namespace,
        "locked",
        &labelled("locked", &[("campfire.network/inject", "enabled"), ("pod-security.kubernetes.io/enforce", "restricted")]),
    )
    .await;
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    apply(&Api::<ServiceAccount>::namespaced(client.clone(), "default"), "default", &account).await;
    let campfire = json!({
        "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "name": "main" },
        "spec": { "turn": { "exposure": { "type": "NodePort" } } },
    });
    apply(&Api::<Campfire>::namespaced(client.clone(), "default"), "main", &campfire).await;
    let (code, text) = run(admin, &["status", "-A"]);
    assert!(code == 0 && text.contains("default/main   Unknown") && text.contains("does the operator run?"), "{text}");
    let found = check(admin);
    for (id, result, words) in [
        ("cluster-version", "ok", "Kubernetes v1."),
        ("cluster-clock", "ok", "agrees"),
        ("cluster-definitions", "ok", "of this version"),
        ("cluster-rights", "ok", ""),
        ("cluster-podsecurity", "warning", "namespace locked enforces PodSecurity restricted"),
        ("operator-ready", "failed", "there is no operator"),
        ("operator-certificate", "failed", "there is no MutatingWebhookConfiguration"),
        ("operator-webhook", "failed", "a new pod in namespace default gets no sidecar"),
        ("fire-conditions", "failed", "default/main: the operator says nothing of it"),
        ("member-skipped", "ok", ""),
    ] {
        assert!(found.iter().any(|it| it.0 == id && it.1 == result && it.2.contains(words)), "{id} {result} {words}: {found:#?}");
    }
    assert!(
        Api::<Pod>::all(client.clone()).list(&kube::api::ListParams::default()).await.unwrap().items.is_empty(),
        "nothing is left behind"
    );

    // A pod's sidecar that cannot be asked, for there is no kubelet.
    let pod = json!({
        "metadata": { "name": "hello-a", "labels": { "campfire.network/injected": "enabled" }, "annotations": { "campfire.network/campfire": "default/main" } },
        "spec": { "containers": [{ "name": "app", "image": "app" }] },
    });
    Api::<Pod>::namespaced(client.clone(), "default")
        .create(&kube::api::PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let (code, text) = run(admin, &["graph"]);
    assert!(code == 1 && text.contains("hello-a"), "{text}");

    old_definitions(client).await;
    let found = check(admin);
    assert!(
        found.iter().any(|it| it.0 == "cluster-definitions" && it.1 == "failed" && it.2.contains("Campfire.spec.members")),
        "{found:#?}"
    );

    // Somebody who may read and not run commands; and somebody who may nothing.
    reader(client).await;
    let eve = as_somebody(admin, "eve");
    let (code, text) = run(&eve, &["status"]);
    assert!(
        code == 1
            && text.contains(".campfire.network in namespace default of context test: ")
            && text.contains("you lack the right to list "),
        "{text}"
    );
    let rob = as_somebody(admin, "rob");
    assert_eq!(run(&rob, &["status"]).0, 0);
    let (code, text) = run(&rob, &["graph"]);
    assert!(code == 1 && text.contains("you lack the right to create pods/exec in namespace default of context test"), "{text}");
    let found = check(&rob);
    assert!(found.iter().any(|it| it.0 == "cluster-rights" && it.1 == "warning" && it.2.ends_with(": create pods/exec")), "{found:#?}");

    clocks(&plane).await;
    joins(&plane).await;
}

/// An operator's clock that is wrong shows in what the API server notes beside its Lease; and one that renews it is not taken for a wrong one.
async fn clocks(plane: &ControlPlane) {
    let client = &plane.client;
    apply(&Api::<Namespace>::all(client.clone()), "campfire-system", &labelled("campfire-system", &[])).await;
    let labels = json!({ "app.kubernetes.io/name": "campfire-operator" });
    let template = json!({ "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "operator", "image": "operator" }] } });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "campfire-operator", "labels": labels },
        "spec": { "selector": { "matchLabels": labels }, "template": template },
    });
    apply(&Api::<Deployment>::namespaced(client.clone(), "campfire-system"), "campfire-operator", &deployment).await;
    let leases = Api::<Lease>::namespaced(client.clone(), "campfire-system");
    let renewed = |behind: i64| {
        let at = Timestamp::now() - SignedDuration::from_secs(behind);
        json!({ "holderIdentity": "campfire-operator-1", "leaseDurationSeconds": 15, "renewTime": format!("{at:.6}") })
    };
    let lease = json!({ "metadata": { "name": "campfire-operator" }, "spec": renewed(0) });
    let made = leases.create(&kube::api::PostParams::default(), &serde_json::from_value(lease).unwrap()).await.unwrap();
    let found = check(plane.kubeconfig());
    assert!(found.iter().any(|it| it.0 == "operator-leader" && it.1 == "ok"), "{found:#?}");
    assert!(found.iter().filter(|it| it.0 == "cluster-clock").all(|it| it.1 == "ok"), "{found:#?}");

    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let written = |lease: &Lease| lease.metadata.managed_fields.iter().flatten().filter_map(|it| it.time.clone()).max().unwrap();
    let mut next = made.clone();
    next.spec = serde_json::from_value(renewed(600)).unwrap();
    let next = leases.replace("campfire-operator", &kube::api::PostParams::default(), &next).await.unwrap();
    assert!(written(&next) > written(&made), "each renewal is noted with its time: {next:#?}");
    let found = check(plane.kubeconfig());
    let clock = found.iter().find(|it| it.0 == "cluster-clock" && it.1 == "warning").unwrap_or_else(|| panic!("{found:#?}"));
    assert!(
        clock.2.starts_with("the clock of the operator (campfire-operator-1) is 60") && clock.2.ends_with("behind the API server's"),
        "{clock:?}"
    );
    assert!(found.iter().any(|it| it.0 == "operator-leader" && it.1 == "ok"), "it leads, whatever its clock shows: {found:#?}");
}

/// Another context, which is the same server, joins from another namespace: the Secret and the Campfire are as the API server takes them.
async fn joins(plane: &ControlPlane) {
    let client = &plane.client;
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(plane.kubeconfig()).unwrap()).unwrap();
    let contexts = config["contexts"].as_array_mut().unwrap();
    contexts.push(json!({ "name": "paris", "context": { "cluster": "test", "user": "admin" } }));
    std::fs::write(plane.kubeconfig(), config.to_string()).unwrap();
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "main-join" }, "stringData": { "uri": "camp://0123456789#c2VjcmV0" } });
    apply(&Api::<Secret>::namespaced(client.clone(), "default"), "main-join", &secret).await;
    let campfires = Api::<Campfire>::namespaced(client.clone(), "default");
    let (code, text) = run(plane.kubeconfig(), &["join", "paris", "--to-namespace", "locked", "--timeout", "0"]);
    assert!(code == 1 && text.contains("default/main cannot be joined: the operator has not said whether it can be yet"), "{text}");
    campfires
        .patch_status("main", &PatchParams::default(), &Patch::Merge(json!({ "status": { "joinSecretName": "main-join" } })))
        .await
        .unwrap();
    for words in ["made", "renewed"] {
        let (code, text) = run(plane.kubeconfig(), &["join", "paris", "--to-namespace", "locked", "--timeout", "0"]);
        assert!(code == 0 && text.contains(words) && !text.contains("c2VjcmV0"), "{text}");
    }
    let made = Api::<Campfire>::namespaced(client.clone(), "locked").get("main").await.unwrap();
    assert_eq!(made.spec.join.unwrap().secret_ref.name, "main-uri");
    let carried = Api::<Secret>::namespaced(client.clone(), "locked").get("main-uri").await.unwrap();
    assert_eq!(carried.data.unwrap()["uri"].0, b"camp://0123456789#c2VjcmV0");
    let (code, text) = run(plane.kubeconfig(), &["join", "paris", "--timeout", "0"]);
    assert!(code == 1 && text.contains("context paris has a Campfire default/main with a key of its own"), "{text}");
}

/// Exit code, and all that was said.
fn run(kubeconfig: &Path, words: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-campfire")).arg("--kubeconfig").arg(kubeconfig).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), said)
}

/// (id, result, message)
fn check(kubeconfig: &Path) -> Vec<(String, String, String)> {
    let (_, text) = run(kubeconfig, &["check", "-o", "json"]);
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let word = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
    value["checks"].as_array().unwrap().iter().map(|check| (word(check, "id"), word(check, "result"), word(check, "message"))).collect()
}

fn labelled(name: &str, labels: &[(&str, &str)]) -> Value {
    let labels: serde_json::Map<String, Value> = labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
}

/// Definitions of a version that had no `spec.members`.
async fn old_definitions(client: &Client) {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let name = "campfires.campfire.network";
    let mut definition = serde_json::to_value(definitions.get(name).await.unwrap()).unwrap();
    let spec = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties").unwrap();
    spec.as_object_mut().unwrap().remove("members").unwrap();
    definitions.replace(name, &kube::api::PostParams::default(), &serde_json::from_value(definition).unwrap()).await.unwrap();
    described(client, "of the old definition", |text| !text.contains("\"members\"")).await;
}

/// Waits until the API server's description of itself, which follows a change a moment later, says this.
async fn described(client: &Client, of_what: &str, says: impl Fn(&str) -> bool) {
    for _ in 0..300 {
        let request = http::Request::get("/openapi/v3/apis/campfire.network/v1alpha1").body(Vec::new()).unwrap();
        // Not found, as long as it knows of none.
        if let Ok(text) = client.request::<Value>(request).await.map(|value| value.to_string())
            && says(&text)
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the API server does not tell {of_what}");
}

/// Lets `rob` read what the plugin reads, and nothing else.
async fn reader(client: &Client) {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "reader" },
        "rules": [
            { "apiGroups": ["campfire.network"], "resources": ["campfires", "meshpeers"], "verbs": ["get", "list"] },
            { "apiGroups": [""], "resources": ["pods", "events", "namespaces"], "verbs": ["get", "list"] },
        ],
    });
    apply(&Api::<ClusterRole>::all(client.clone()), "reader", &role).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "reader" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "rob" }],
    });
    apply(&Api::<ClusterRoleBinding>::all(client.clone()), "reader", &binding).await;
}

/// A kubeconfig in which the admin acts as somebody else.
fn as_somebody(admin: &Path, who: &str) -> std::path::PathBuf {
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(admin).unwrap()).unwrap();
    config["users"][0]["user"]["as"] = json!(who);
    let path = admin.with_file_name(who);
    std::fs::write(&path, config.to_string()).unwrap();
    path
}
