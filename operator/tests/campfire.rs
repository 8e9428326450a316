//! The Campfire reconciler against a real API server: the operator's program, killed and watched.

#![allow(clippy::unwrap_used)]

mod control_plane;

use std::collections::BTreeMap;
use std::future::Future;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use campfire_api::Campfire;
use campfire_api::names::FIELD_MANAGER;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::control_plane::{ControlPlane, define};

const PATIENCE: Duration = Duration::from_mins(1);
/// The annotation that says what was applied.
const APPLIED: &str = "campfire.network/applied";

/// A running operator, ended with the test.
struct Operator {
    process: Child,
    http: u16,
}

impl Operator {
    fn start(world: &World, namespace: &str, base: u16, failpoint: Option<u64>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_campfire-operator"));
        command.args([
            "run",
            "--campfire-namespaces",
            namespace,
            "--pod-name",
            namespace,
            "--pod-ip",
            "127.0.0.1",
            "--namespace",
            namespace,
        ]);
        for (offset, flag) in ["--http-port", "--agent-port", "--webhook-port"].iter().enumerate() {
            command.arg(flag).arg((base + u16::try_from(offset).unwrap()).to_string());
        }
        command.env("KUBECONFIG", world.plane.kubeconfig()).stdin(Stdio::null());
        if std::env::var("CAMPFIRE_TEST_LOG").is_err() {
            command.stderr(Stdio::null());
        }
        if let Some(count) = failpoint {
            command.env("CAMPFIRE_FAILPOINT_WRITES", count.to_string());
        }
        Self { process: command.spawn().unwrap(), http: base }
    }

    fn exited(&mut self) -> Option<i32> {
        self.process.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Writes to the API so far, by its own count.
    async fn writes(&self) -> u64 {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http)).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with("campfire_operator_api_writes_total"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A namespace of its own in the cluster, with the CRDs in place.
struct World {
    client: Client,
    plane: ControlPlane,
    namespace: String,
}

impl World {
    async fn new(namespace: &str) -> Option<Self> {
        let plane = ControlPlane::start().await?;
        let client = plane.client.clone();
        define(&client).await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        let _ = namespaces.create(&PostParams::default(), &object).await;
        Some(Self { client, plane, namespace: namespace.into() })
    }

    fn campfires(&self) -> Api<Campfire> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn sets(&self) -> Api<StatefulSet> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn make(&self, name: &str, spec: Value) {
        let object: Campfire = serde_json::from_value(
            json!({"apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": {"name": name}, "spec": spec}),
        )
        .unwrap();
        self.campfires().create(&PostParams::default(), &object).await.unwrap();
    }

    async fn change(&self, name: &str, patch: Value) {
        self.campfires().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.services().list(&ListParams::default()).await.unwrap().iter().map(ResourceExt::name_any).collect();
        names.sort();
        names
    }

    /// Reason and message of a condition, once its status is this.
    async fn condition(&self, name: &str, kind: &str, status: &str) -> (String, String) {
        let begun = Instant::now();
        loop {
            let campfire = self.campfires().get_opt(name).await.unwrap();
            let conditions = campfire.as_ref().and_then(|campfire| campfire.status.clone()).unwrap_or_default().conditions;
            if let Some(condition) = conditions.iter().find(|condition| condition.type_ == kind && condition.status == status) {
                return (condition.reason.clone(), condition.message.clone());
            }
            assert!(begun.elapsed() < PATIENCE, "{name}: {kind} is not {status}: {conditions:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn fingerprint(&self, name: &str) -> Option<String> {
        self.campfires().get(name).await.unwrap().status?.key_fingerprint
    }

    async fn reason(&self, name: &str, kind: &str, reason: &str) -> String {
        let begun = Instant::now();
        loop {
            let conditions = self.campfires().get(name).await.unwrap().status.unwrap_or_default().conditions;
            if let Some(condition) = conditions.iter().find(|condition| condition.type_ == kind && condition.reason == reason) {
                return condition.message.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "{name}: {kind} has not reason {reason}: {conditions:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn in_cluster(replicas: u8) -> Value {
    json!({"turn": {"replicas": replicas, "exposure": {"type": "ClusterIP"}}})
}

#[tokio::test]
async fn children_follow_the_spec_are_put_back_and_nothing_is_written_when_idle() {
    let Some(world) = World::new("follow").await else { return };
    let operator = Operator::start(&world, "follow", 21_080, None);
    world.make("fire", in_cluster(1)).await;
    world.condition("fire", "KeyReady", "True").await;
    eventually("one server's Services", || async { world.names().await == ["fire-turn", "fire-turn-0-tcp", "fire-turn-0-udp"] }).await;
    let (reason, message) = world.condition("fire", "Joinable", "False").await;
    assert!(reason == "NoExternalEndpoint" && message.contains("NodePort"), "{message}");

    // Up and down, another kind, one Service for all.
    world.change("fire", json!({"spec": {"turn": {"replicas": 3}}})).await;
    eventually("three servers", || async { world.names().await.len() == 7 }).await;
    world.change("fire", json!({"spec": {"turn": {"replicas": 1, "exposure": {"type": "NodePort", "serviceLayout": "Mixed"}}}})).await;
    eventually("one Service", || async { world.names().await == ["fire-turn", "fire-turn-0"] }).await;
    world.change("fire", json!({"spec": {"turn": {"exposure": {"externalAddresses": ["203.0.113.9"]}}}})).await;
    eventually("a join Secret", || async { world.secrets().get_opt("fire-join").await.unwrap().is_some() }).await;
    world.condition("fire", "Joinable", "True").await;
    let template = json!({"resources": {"limits": {"cpu": "1000m"}}, "annotations": {"a": "b"}});
    world.change("fire", json!({"spec": {"turn": {"podTemplate": template}}})).await;
    let annotated = |set: StatefulSet| set.spec.and_then(|spec| spec.template.metadata?.annotations).unwrap_or_default().contains_key("a");
    eventually("the template", || async { annotated(world.sets().get("fire-turn").await.unwrap()) }).await;
    world.change("fire", json!({"spec": {"turn": {"podTemplate": {"annotations": null}}}})).await;
    eventually("the annotation is gone", || async { !annotated(world.sets().get("fire-turn").await.unwrap()) }).await;

    // A person's edit is put back, and their label left alone.
    let edit = json!({"metadata": {"labels": {"team": "x"}}, "spec": {"externalTrafficPolicy": "Cluster"}});
    world.services().patch("fire-turn-0", &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
    let policy = |service: &Service| service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.clone());
    eventually("put back", || async { policy(&world.services().get("fire-turn-0").await.unwrap()).as_deref() == Some("Local") }).await;
    assert_eq!(world.services().get("fire-turn-0").await.unwrap().labels().get("team").map(String::as_str), Some("x"));
    world.services().delete("fire-turn-0", &DeleteParams::default()).await.unwrap();
    eventually("made anew", || async { world.services().get_opt("fire-turn-0").await.unwrap().is_some() }).await;

    // Silence.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = operator.writes().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(operator.writes().await, before, "idle is silent");

    // Nor is anything written when all is looked at again, here for a label that is not ours to mind.
    let label = json!({"metadata": {"labels": {"team": "y"}}});
    world.services().patch("fire-turn-0", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(operator.writes().await, before, "what is as it should be is not written");

    // One change, at most one write for each object that it touches: the status alone here.
    world.change("fire", json!({"spec": {"network": {"mtu": 1400}}})).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let writes = operator.writes().await - before;
    assert!(writes <= 1, "{writes} writes");

    // The key outlives the Campfire, and is adopted.
    let was = world.fingerprint("fire").await;
    world.campfires().delete("fire", &DeleteParams::default()).await.unwrap();
    eventually("gone", || async { world.campfires().get_opt("fire").await.unwrap().is_none() }).await;
    assert!(world.secrets().get_opt("fire-psk").await.unwrap().is_some());
    // Nobody collects garbage here: that it would be collected is seen from its owner.
    assert!(world.sets().get("fire-turn").await.unwrap().owner_references().iter().any(|owner| owner.kind == "Campfire"));
    world.make("fire", json!({"turn": {"replicas": 0, "servers": ["turn:192.0.2.1"]}})).await;
    world.condition("fire", "Ready", "True").await;
    assert_eq!(world.fingerprint("fire").await, was);
    world.campfires().delete("fire", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn what_an_older_version_applied_is_taken_over_with_nothing_of_it_left() {
    let Some(world) = World::new("older").await else { return };
    let operator = Operator::start(&world, "older", 23_080, None);
    world.make("fire", in_cluster(1)).await;
    eventually("all children", || async { world.sets().get_opt("fire-turn").await.unwrap().is_some() && world.names().await.len() == 3 })
        .await;
    world.condition("fire", "TurnAvailable", "False").await;
    let ours = world.sets().get("fire-turn").await.unwrap();
    let image = |set: &StatefulSet| set.spec.as_ref()?.template.spec.as_ref()?.containers[0].image.clone();
    drop(operator);

    // What another version might have asked for, by the same field manager: other values, and fields that this version does not know.
    let mut set = serde_json::to_value(&ours).unwrap();
    let container = &mut set["spec"]["template"]["spec"]["containers"][0];
    container["image"] = "localhost/campfire-turn:older".into();
    container["args"].as_array_mut().unwrap().push("--older".into());
    container["env"].as_array_mut().unwrap().push(json!({ "name": "OLDER", "value": "yes" }));
    set["spec"]["template"]["spec"]["shareProcessNamespace"] = true.into();
    let mut service = serde_json::to_value(world.services().get("fire-turn-0-udp").await.unwrap()).unwrap();
    service["spec"]["sessionAffinity"] = "ClientIP".into();
    service["spec"]["ports"].as_array_mut().unwrap().push(json!({ "name": "older", "port": 7, "protocol": "UDP" }));
    for (object, kind) in [(&mut set, "StatefulSet"), (&mut service, "Service")] {
        object["apiVersion"] = if kind == "Service" { "v1" } else { "apps/v1" }.into();
        object["kind"] = kind.into();
        object.as_object_mut().unwrap().remove("status");
        for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"] {
            object["metadata"].as_object_mut().unwrap().remove(field);
        }
        object["metadata"]["annotations"][APPLIED] = "older".into();
        object["metadata"]["labels"]["example.org/older"] = "yes".into();
    }
    let older = PatchParams::apply(FIELD_MANAGER).force();
    world.sets().patch("fire-turn", &older, &Patch::Apply(&set)).await.unwrap();
    world.services().patch("fire-turn-0-udp", &older, &Patch::Apply(&service)).await.unwrap();
    let person = json!({ "metadata": { "labels": { "team": "x" } } });
    world.sets().patch("fire-turn", &PatchParams::default(), &Patch::Merge(person)).await.unwrap();

    let operator = Operator::start(&world, "older", 23_080, None);
    eventually("taken over", || async { image(&world.sets().get("fire-turn").await.unwrap()) == image(&ours) }).await;
    let service = || async { world.services().get("fire-turn-0-udp").await.unwrap() };
    eventually("the Service too", || async { service().await.spec.unwrap().ports.unwrap().len() == 1 }).await;
    let (set, service) = (world.sets().get("fire-turn").await.unwrap(), service().await);
    assert_eq!(set.annotations().get(APPLIED), ours.annotations().get(APPLIED));
    assert_eq!(set.spec, ours.spec, "as this version would have made it");
    assert_eq!(service.spec.as_ref().unwrap().session_affinity.as_deref(), Some("None"), "and the API server's own value is back");
    assert_eq!(set.labels().get("team").map(String::as_str), Some("x"), "a person's label is a person's");
    for labels in [set.labels(), service.labels()] {
        assert!(!labels.contains_key("example.org/older"), "{labels:?}");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = operator.writes().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(operator.writes().await, before, "once");
    world.campfires().delete("fire", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn killed_after_each_write_it_converges_to_the_same() {
    let Some(world) = World::new("killed").await else { return };
    let mut kills = 0;
    for count in 1..40 {
        let name = format!("fire{count}");
        let mut operator = Operator::start(&world, "killed", 22_080, Some(count));
        world.make(&name, json!({"turn": {"replicas": 1, "servers": ["turn:192.0.2.1"], "exposure": {"type": "NodePort"}}})).await;
        let begun = Instant::now();
        let mut killed = false;
        while begun.elapsed() < Duration::from_secs(12) {
            if operator.exited() == Some(137) {
                killed = true;
                break;
            }
            let done = world
                .campfires()
                .get(&name)
                .await
                .unwrap()
                .status
                .unwrap_or_default()
                .conditions
                .iter()
                .any(|condition| condition.type_ == "Joinable");
            if done {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        kills += u32::from(killed);
        let kept = world.secrets().get_opt(&format!("{name}-psk")).await.unwrap().map(|secret| secret.data);
        drop(operator);
        let operator = Operator::start(&world, "killed", 22_080, None);
        world.condition(&name, "Joinable", "True").await;
        let now = world.secrets().get(&format!("{name}-psk")).await.unwrap();
        if let Some(kept) = kept {
            assert_eq!(now.data, kept, "the key is not made twice");
        }
        assert!(world.sets().get_opt(&format!("{name}-turn")).await.unwrap().is_some());
        assert_eq!(world.names().await.iter().filter(|service| service.starts_with(&format!("{name}-"))).count(), 3);
        world.campfires().delete(&name, &DeleteParams::default()).await.unwrap();
        eventually("gone", || async { world.campfires().get_opt(&name).await.unwrap().is_none() }).await;
        drop(operator);
        if !killed {
            break;
        }
    }
    assert!(kills >= 7, "one kill after each write: {kills}");
}

#[tokio::test]
async fn what_is_wrong_with_a_secret_is_said_with_what_to_do() {
    let Some(world) = World::new("secrets").await else { return };
    let _operator = Operator::start(&world, "secrets", 24_080, None);
    let named = |secret: &str| json!({"psk": {"secretRef": {"name": secret}}, "turn": {"replicas": 0, "servers": ["turn:192.0.2.1"]}});
    world.make("one", named("key")).await;
    assert!(world.reason("one", "KeyReady", "KeySecretMissing").await.contains("Secret key is missing: create it"));
    let put = |text: &str| {
        let data: BTreeMap<&str, &str> = [("psk", text)].into();
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "stringData": data})
    };
    let apply = |object: Value| {
        let secrets = world.secrets();
        async move { secrets.patch("key", &PatchParams::apply("person").force(), &Patch::Apply(&object)).await.unwrap() }
    };
    apply(put("too short")).await;
    let message = world.reason("one", "KeyReady", "KeyInvalid").await;
    assert!(message.contains("found 9 characters") && !message.contains("too short"), "{message}");
    apply(put(&"ab".repeat(32))).await;
    world.condition("one", "Ready", "True").await;
    let was = world.fingerprint("one").await;

    // Edited by hand: the new one counts.
    apply(put(&"cd".repeat(32))).await;
    eventually("another key", || async { world.fingerprint("one").await != was }).await;

    // A second Campfire with the key.
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.make("two", named("key")).await;
    assert!(world.reason("two", "KeyReady", "KeyClaimed").await.contains("Campfire one already"));
    world.campfires().delete("one", &DeleteParams::default()).await.unwrap();
    world.condition("two", "Ready", "True").await;

    // Gone.
    world.secrets().delete("key", &DeleteParams::default()).await.unwrap();
    assert!(world.reason("two", "KeyReady", "KeyMissing").await.contains("put it back from a backup"));
    world.campfires().delete("two", &DeleteParams::default()).await.unwrap();

    // A join Secret that is none.
    world.make("three", json!({"join": {"secretRef": {"name": "uri"}}})).await;
    assert!(world.reason("three", "KeyReady", "JoinSecretMissing").await.contains("copy it from the other cluster"));
    world.campfires().delete("three", &DeleteParams::default()).await.unwrap();
}
