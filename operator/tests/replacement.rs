//! A change that cannot work replaces no server that works: what it lacks is found out before one is deleted for it, and said.

#![allow(clippy::unwrap_used)]

mod control_plane;
mod in_process;
mod world;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use campfire_api::Endpoint;
use campfire_api::names::ROTATE_ANNOTATION;
use control_plane::{apply, program};
use in_process::{Operator, campfire_says, eventually};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ResourceQuota, Service, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use world::World;

#[tokio::test]
async fn tls_alone_waits_for_a_certificate_that_is_not_there_and_no_server_that_works_is_replaced_for_it() {
    let Some(world) = World::start().await else { return };
    let operator = Operator::start(&world.client, &["default"]).await;
    let tls = |transports: Value, secret: &str, team: &str| {
        json!({ "turn": { "exposure": { "type": "ClusterIP" }, "transports": transports, "tls": { "secretName": secret },
            "podTemplate": { "labels": { "team": team } } } })
    };
    let sets = Api::<StatefulSet>::namespaced(world.client.clone(), "default");
    let template = async || sets.get("fire-turn").await.unwrap().spec.unwrap().template;
    // The Secret with the servers' certificate, and the team that they are of.
    let has = async || {
        let template = template().await;
        let volumes = template.spec.unwrap().volumes.unwrap();
        let secret = volumes.into_iter().find(|volume| volume.name == "tls").and_then(|volume| volume.secret?.secret_name);
        (secret, template.metadata.unwrap().labels.unwrap().remove("team"))
    };
    let becomes = async |secret: Option<&str>, team: &str| {
        let wanted = (secret.map(str::to_owned), Some(team.to_owned()));
        eventually(&format!("servers have {wanted:?}"), || async { has().await == wanted }).await;
    };
    let says = async |text: &str| {
        eventually(text, || async { campfire_says(&world.campfires(), "fire", "Accepted", "TlsSecretMissing").await.contains(text) }).await;
    };

    // Who was never there without one begins without.
    world.campfire("fire", tls(json!(["UDP", "TLS"]), "nope", "a")).await;
    eventually("its servers", || async { sets.get_opt("fire-turn").await.unwrap().is_some() }).await;
    becomes(None, "a").await;
    assert_eq!(
        campfire_says(&world.campfires(), "fire", "Accepted", "TlsSecretMissing").await,
        "False: spec.turn.tls.secretName: there is no Secret nope in namespace default: make it (kubectl create secret tls nope --cert=FILE \
         --key=FILE); TLS waits for it, and all else goes on"
    );
    // All else is done: of the servers, and of the key.
    world.campfire("fire", tls(json!(["UDP", "TLS"]), "nope", "b")).await;
    becomes(None, "b").await;
    let rotate = json!({ "metadata": { "annotations": { ROTATE_ANNOTATION: "Distribute" } } });
    world.campfires().patch("fire", &PatchParams::default(), &Patch::Merge(rotate)).await.unwrap();
    eventually("members have both keys", async || operator.told("fire").is_some_and(|told| told.keys.len() == 2)).await;
    // One that holds something else is none either, and servers for TLS alone are none without it.
    world.secret("nope", json!({ "tls.crt": "-----BEGIN CERTIFICATE-----", "key": "x" })).await;
    says("holds no certificate").await;
    world.campfire("fire", tls(json!(["TLS"]), "nope", "c")).await;
    says("the servers stay as they are until then, and all else goes on").await;
    becomes(None, "b").await;

    let both = json!({ "tls.crt": "-----BEGIN CERTIFICATE-----", "tls.key": "-----BEGIN PRIVATE KEY-----" });
    world.secret("nope", both.clone()).await;
    campfire_says(&world.campfires(), "fire", "Accepted", "Accepted").await;
    becomes(Some("nope"), "c").await;

    // With a certificate that they have they go on, until there is the other one.
    world.campfire("fire", tls(json!(["TLS"]), "other", "d")).await;
    says("there is no Secret other").await;
    becomes(Some("nope"), "d").await;
    // Without it they could not be made anew.
    world.secrets().delete("nope", &DeleteParams::default()).await.unwrap();
    world.campfire("fire", tls(json!(["TLS"]), "other", "e")).await;
    says("the servers stay as they are until then").await;
    becomes(Some("nope"), "d").await;
    world.secret("other", both).await;
    campfire_says(&world.campfires(), "fire", "Accepted", "Accepted").await;
    becomes(Some("other"), "e").await;
}

#[tokio::test]
async fn a_server_that_works_is_replaced_once_one_more_that_is_made_as_it_will_be_is_ready_and_not_before() {
    let Some(cluster) = Cluster::start().await else { return };
    let operator = Operator::start(&cluster.world.client, &["default"]).await;
    cluster.spec("ClusterIP", 1, json!({})).await;
    cluster.servers_are(&[None], None).await;
    campfire_says(&cluster.world.campfires(), "fire", "TurnAvailable", "AllReady").await;
    let server = cluster.uid("fire-turn-0").await;
    let reached = cluster.endpoints().await;

    // An image that is not there.
    cluster.spec("ClusterIP", 1, json!({ "labels": { "team": "b", "image": "none" } })).await;
    assert_eq!(
        cluster.says("NewServerNotReady").await,
        "False: the servers stay as they are, for one more that was made as they would be does not become ready: pod fire-turn-1: ImagePullBackOff \
         no such image: correct spec.turn, the chart's turn.image or what is missing; they are replaced once it is ready, and all else goes on"
    );
    let goes_on = async || {
        // Longer than it takes to look.
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.says("NewServerNotReady").await;
        assert_eq!((cluster.uid("fire-turn-0").await, cluster.endpoints().await), (server.clone(), reached.clone()), "it works on");
        assert!(campfire_says(&cluster.world.campfires(), "fire", "TurnAvailable", "AllReady").await.starts_with("True: 1 of 1"));
    };
    goes_on().await;
    // Another that leads, another change that cannot work either, more servers, somebody who edits the StatefulSet.
    drop(operator);
    let operator = Operator::start(&cluster.world.client, &["default"]).await;
    goes_on().await;
    cluster.spec("ClusterIP", 1, json!({ "labels": { "team": "c", "image": "none" } })).await;
    cluster.servers_are(&[None], Some("c")).await;
    goes_on().await;
    cluster.spec("NodePort", 3, json!({ "labels": { "team": "c", "image": "none" } })).await;
    goes_on().await;
    cluster.servers_are(&[None], Some("c")).await;
    let scaled = json!({ "spec": { "replicas": 5 } });
    cluster.sets.patch("fire-turn", &PatchParams::default(), &Patch::Merge(scaled)).await.unwrap();
    cluster.servers_are(&[None], Some("c")).await;
    goes_on().await;

    // The change is taken back.
    cluster.spec("ClusterIP", 1, json!({})).await;
    cluster.servers_are(&[None], None).await;
    cluster.says("Accepted").await;
    assert_eq!(cluster.uid("fire-turn-0").await, server, "nobody is replaced");

    // A server that goes meanwhile comes back as it was, and all are replaced once the image is there: as many as there are to be.
    cluster.spec("ClusterIP", 2, json!({ "labels": { "team": "d", "image": "none" } })).await;
    cluster.says("NewServerNotReady").await;
    cluster.pods.delete("fire-turn-0", &DeleteParams::default()).await.unwrap();
    eventually("it comes back", || async { cluster.uid("fire-turn-0").await.is_some_and(|uid| Some(uid) != server) }).await;
    cluster.servers_are(&[None], Some("d")).await;
    cluster.images.store(true, Relaxed);
    cluster.servers_are(&[Some("d"), Some("d")], None).await;
    cluster.says("Accepted").await;
    eventually("both are ready", || async {
        campfire_says(&cluster.world.campfires(), "fire", "TurnAvailable", "AllReady").await.starts_with("True: 2 of 2")
    })
    .await;
    assert_eq!(cluster.endpoints().await.len(), 4);

    // What is taken out of a template is a change of it as what is put in.
    let before = [cluster.uid("fire-turn-0").await, cluster.uid("fire-turn-1").await];

    cluster.node(json!({ "spec": { "taints": [{ "key": "edge", "effect": "NoSchedule" }] } })).await;
    cluster.spec("ClusterIP", 2, json!({ "labels": { "image": "none" } })).await;
    assert!(cluster.says("NewServerNotReady").await.contains("Unschedulable"));
    assert_eq!([cluster.uid("fire-turn-0").await, cluster.uid("fire-turn-1").await], before);
    cluster.node(json!({ "status": { "allocatable": { "pods": "9" } } })).await;
    cluster.node(json!({ "spec": { "taints": null } })).await;
    cluster.servers_are(&[None, None], None).await;
    cluster.says("Accepted").await;

    // Where none is to be left there is nothing to try, and nothing that it would be tried beside.
    cluster.images.store(false, Relaxed);
    cluster.spec("ClusterIP", 2, json!({ "labels": { "team": "e", "image": "none" } })).await;
    cluster.says("NewServerNotReady").await;
    let none = json!({ "turn": { "replicas": 0, "servers": ["turn.example.com"] } });
    cluster.world.campfire("fire", none).await;
    cluster.servers_are(&[], None).await;
    cluster.spec("ClusterIP", 2, json!({ "labels": { "team": "f" } })).await;
    cluster.servers_are(&[Some("f"), Some("f")], None).await;
    cluster.says("Accepted").await;
    drop(operator);
}

#[tokio::test]
async fn a_change_that_can_work_is_not_held_up_where_a_node_has_no_room_for_one_more_and_one_that_cannot_is() {
    let Some(cluster) = Cluster::start().await else { return };
    let _operator = Operator::start(&cluster.world.client, &["default"]).await;
    cluster.spec("HostPort", 1, json!({})).await;
    cluster.servers_are(&[None], None).await;
    let host_ports = async |name: &str| {
        let pod = cluster.pods.get_opt(name).await.unwrap()?;
        let ports = pod.spec?.containers.into_iter().flat_map(|container| container.ports.unwrap_or_default());
        Some(ports.filter_map(|port| port.host_port).collect::<Vec<_>>())
    };
    assert_eq!(host_ports("fire-turn-0").await.unwrap(), [3478, 3478]);

    // The ports of the only node are those of the server that works: what is tried does without.
    cluster.spec("HostPort", 1, json!({ "labels": { "team": "b", "image": "none" } })).await;
    assert!(cluster.says("NewServerNotReady").await.contains("ImagePullBackOff"));
    assert_eq!(host_ports("fire-turn-1").await.unwrap(), [0; 0]);
    cluster.servers_are(&[None], Some("b")).await;
    // Where the server is goes on being told.
    cluster.node(json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.2" }] } })).await;
    eventually("its node's address", || async {
        cluster.endpoints().await.iter().any(|endpoint| endpoint.address == "192.0.2.2" && endpoint.port == 3478)
    })
    .await;
    cluster.images.store(true, Relaxed);
    cluster.servers_are(&[Some("b")], None).await;
    assert_eq!(host_ports("fire-turn-0").await.unwrap(), [3478, 3478]);

    // Not a pod more fits on it: each has the place of another.
    cluster.node(json!({ "status": { "allocatable": { "pods": "1" } } })).await;
    cluster.spec("HostPort", 1, json!({ "labels": { "team": "c" } })).await;
    cluster.servers_are(&[Some("c")], None).await;
    // But for one that asks for more than there is, and where the node takes no pod.
    let server = cluster.uid("fire-turn-0").await;
    let stays = async |what: &str| {
        let said = cluster.says("NewServerNotReady").await;
        assert!(said.contains("pod fire-turn-1: Unschedulable") && said.contains(what), "{said}");
        assert_eq!(cluster.uid("fire-turn-0").await, server);
    };
    cluster.spec("HostPort", 1, json!({ "labels": { "team": "d" }, "resources": { "requests": { "memory": "64Gi" } } })).await;
    stays("Insufficient memory").await;
    cluster.spec("HostPort", 1, json!({ "labels": { "team": "c" } })).await;
    cluster.servers_are(&[Some("c")], None).await;
    cluster.says("Accepted").await;
    cluster.node(json!({ "spec": { "unschedulable": true } })).await;
    cluster.spec("HostPort", 1, json!({ "labels": { "team": "e" } })).await;
    stays("unschedulable").await;
    cluster.node(json!({ "spec": { "unschedulable": null } })).await;
    cluster.servers_are(&[Some("e")], None).await;

    // A port that somebody else has: what leads to the server stays with it meanwhile.
    cluster.node(json!({ "status": { "allocatable": { "pods": "9" } } })).await;
    cluster.spec("ClusterIP", 1, json!({ "labels": { "team": "e" } })).await;
    eventually("the server has no port of its node", || async { host_ports("fire-turn-0").await.is_some_and(|ports| ports.is_empty()) })
        .await;
    cluster.servers_are(&[Some("e")], None).await;
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    apply(&Api::<ServiceAccount>::namespaced(cluster.world.client.clone(), "default"), "default", &account).await;
    let other = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "other" }, "spec": { "containers": [
        { "name": "x", "image": "x", "ports": [{ "containerPort": 3478, "hostPort": 3478, "protocol": "UDP" }] }] } });
    apply(&cluster.pods, "other", &other).await;
    eventually("it has its port", || async { cluster.pods.get("other").await.unwrap().spec.unwrap().node_name.is_some() }).await;
    let (server, reached) = (cluster.uid("fire-turn-0").await, cluster.endpoints().await);
    cluster.spec("HostPort", 1, json!({ "labels": { "team": "e" } })).await;
    assert!(cluster.says("NewServerNotReady").await.contains("free ports"));
    assert_eq!((cluster.uid("fire-turn-0").await, cluster.endpoints().await), (server, reached));
    cluster.pods.delete("other", &DeleteParams::default()).await.unwrap();
    eventually("the server has it", || async { host_ports("fire-turn-0").await.is_some_and(|ports| ports.len() == 2) }).await;
    cluster.servers_are(&[Some("e")], None).await;
}

#[tokio::test]
async fn a_change_whose_pods_the_api_server_would_refuse_replaces_no_server_that_works() {
    let Some(world) = World::start().await else { return };
    let operator = Operator::start(&world.client, &["default"]).await;
    let exposed = |kind: &str, template: Value| json!({ "turn": { "exposure": { "type": kind }, "podTemplate": template } });
    world.campfire("fire", exposed("ClusterIP", json!({}))).await;
    let sets = Api::<StatefulSet>::namespaced(world.client.clone(), "default");
    eventually("its servers", || async { sets.get_opt("fire-turn").await.unwrap().is_some() }).await;
    let runs = json!({ "status": { "replicas": 1, "readyReplicas": 1 } });
    sets.patch_status("fire-turn", &PatchParams::default(), &Patch::Merge(runs)).await.unwrap();
    let template = async || sets.get("fire-turn").await.unwrap().spec.unwrap().template;
    let goes_on = async |before| {
        campfire_says(&world.campfires(), "fire", "Accepted", "Accepted").await;
        eventually("its servers have it", || async { template().await != before }).await;
    };
    let refused = async || campfire_says(&world.campfires(), "fire", "Accepted", "PodsRefused").await;

    let before = template().await;
    world.campfire("fire", exposed("ClusterIP", json!({ "priorityClassName": "nope" }))).await;
    assert_eq!(
        refused().await,
        "False: the servers stay as they are, for the API server refuses their pods as spec.turn has them now: pods \"fire-turn-0\" is forbidden: no \
         PriorityClass with name nope was found: correct spec.turn.podTemplate or what it names; it is tried again within two minutes, and all else goes on"
    );
    // All else goes on: a key is rotated, of which the servers hear too.
    let rotate = json!({ "metadata": { "annotations": { ROTATE_ANNOTATION: "Distribute" } } });
    world.campfires().patch("fire", &PatchParams::default(), &Patch::Merge(rotate)).await.unwrap();
    eventually("members have both keys", async || operator.told("fire").is_some_and(|told| told.keys.len() == 2)).await;
    assert_eq!(world.secrets().get("fire-relay").await.unwrap().data.unwrap().len(), 2);
    assert_eq!(template().await, before);
    let class = json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": "nope" }, "value": 10 });
    apply(&Api::<PriorityClass>::all(world.client.clone()), "nope", &class).await;
    goes_on(before).await;

    // The ServiceAccount is the operator's: it is put back, and no pod is refused for it.
    let accounts = Api::<ServiceAccount>::namespaced(world.client.clone(), "default");
    accounts.delete("fire-turn", &DeleteParams::default()).await.unwrap();
    let before = template().await;
    world.campfire("fire", exposed("ClusterIP", json!({ "labels": { "team": "a" } }))).await;
    goes_on(before).await;
    assert!(accounts.get_opt("fire-turn").await.unwrap().is_some());

    // What members reach the servers by stays with them.
    let enforce = async |level: &str| {
        let label = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": level } } });
        Api::<Namespace>::all(world.client.clone()).patch("default", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    };
    enforce("baseline").await;
    let before = template().await;
    let services = Api::<Service>::namespaced(world.client.clone(), "default");
    let versions = async || {
        let listed = services.list(&ListParams::default()).await.unwrap().items;
        listed.into_iter().map(|service| (service.name_any(), service.resource_version())).collect::<Vec<_>>()
    };
    let reached = versions().await;
    world.campfire("fire", exposed("HostPort", json!({}))).await;
    assert!(refused().await.contains("violates PodSecurity \"baseline:latest\": hostPort"));
    assert_eq!((template().await, versions().await), (before.clone(), reached));
    enforce("privileged").await;
    goes_on(before).await;

    // A quota that is full has room for a pod in the place of another; one of nothing has not.
    let quotas = Api::<ResourceQuota>::namespaced(world.client.clone(), "default");
    let quota = json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "few" }, "spec": { "hard": { "pods": "1" } } });
    apply(&quotas, "few", &quota).await;
    for (hard, class, fits) in [("1", "one", true), ("0", "two", false)] {
        let counted = json!({ "status": { "hard": { "pods": hard }, "used": { "pods": "1" } } });
        quotas.patch_status("few", &PatchParams::default(), &Patch::Merge(counted)).await.unwrap();
        eventually("the operator has seen it", || async {
            let of = |quota: &ResourceQuota| quota.status.clone().and_then(|status| status.hard?.get("pods").cloned());
            operator.ctx.cluster.quotas.state().iter().any(|quota| of(quota).is_some_and(|seen| seen.0 == hard))
        })
        .await;
        let before = template().await;
        world.campfire("fire", exposed("HostPort", json!({ "labels": { "class": class } }))).await;
        if fits {
            goes_on(before).await;
        } else {
            let said = refused().await;
            assert!(said.contains("exceeded quota: few") && said.contains("(quota few allows 0 of pods, and it would be 1)"), "{said}");
            assert_eq!(template().await, before);
        }
    }

    // An operator that may try no pods holds nothing up.
    drop(operator);
    let before = template().await;
    let _operator = Operator::start(&world.with_rights_in("default").await, &["default"]).await;
    goes_on(before).await;
}

/// A control plane with the controller of StatefulSets and the scheduler that Kubernetes has, and one node. What its kubelet would do is done here.
struct Cluster {
    world: World,
    pods: Api<Pod>,
    sets: Api<StatefulSet>,
    /// Whether the image of pods with the label `image: none` is there.
    images: Arc<AtomicBool>,
    kubelet: JoinHandle<()>,
    _controllers: [Controller; 2],
}

impl Cluster {
    async fn start() -> Option<Self> {
        let world = World::start().await?;
        let (Some(manager), Some(scheduler)) = (program("kube-controller-manager"), program("kube-scheduler")) else {
            println!(
                "SKIPPED: no kube-controller-manager and kube-scheduler: run `make test` once, or say where they are in CAMPFIRE_KUBERNETES_BIN"
            );
            return None;
        };
        let pods = Api::<Pod>::namespaced(world.client.clone(), "default");
        let images = Arc::<AtomicBool>::default();
        let cluster = Self {
            sets: Api::namespaced(world.client.clone(), "default"),
            kubelet: tokio::spawn(kubelet(pods.clone(), images.clone())),
            _controllers: [
                Controller::start(&manager, &world, &["--controllers=statefulset-controller,garbage-collector-controller"]),
                Controller::start(&scheduler, &world, &[]),
            ],
            pods,
            images,
            world,
        };
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node" } });
        apply(&Api::<Node>::all(cluster.world.client.clone()), "node", &node).await;
        // New ones have a taint.
        cluster.node(json!({ "spec": { "taints": null } })).await;
        cluster.node(json!({ "status": { "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "9" } } })).await;
        Some(cluster)
    }

    /// Changes the node.
    async fn node(&self, change: Value) {
        let nodes = Api::<Node>::all(self.world.client.clone());
        let (params, patch) = (PatchParams::default(), Patch::Merge(&change));
        if change.get("status").is_some() {
            nodes.patch_status("node", &params, &patch).await
        } else {
            nodes.patch("node", &params, &patch).await
        }
        .unwrap();
    }

    async fn spec(&self, exposure: &str, replicas: u8, template: Value) {
        let turn = json!({ "replicas": replicas, "exposure": { "type": exposure }, "podTemplate": template });
        self.world.campfire("fire", json!({ "turn": turn })).await;
    }

    /// What is said by `Accepted`, once it has this reason for the spec as it is.
    async fn says(&self, reason: &str) -> String {
        let current = async || {
            let campfire = self.world.campfires().get("fire").await.unwrap();
            let generation = campfire.metadata.generation;
            let conditions = campfire.status.unwrap_or_default().conditions;
            conditions.into_iter().any(|it| it.type_ == "Accepted" && it.reason == reason && it.observed_generation == generation)
        };
        eventually(reason, || async { current().await }).await;
        campfire_says(&self.world.campfires(), "fire", "Accepted", reason).await
    }

    async fn uid(&self, name: &str) -> Option<String> {
        self.pods.get_opt(name).await.unwrap().filter(|pod| pod.metadata.deletion_timestamp.is_none())?.uid()
    }

    /// Waits until the servers' pods are of these teams, and the one that is tried, if one is.
    async fn servers_are(&self, teams: &[Option<&str>], tried: Option<&str>) {
        let mut wanted: Vec<Option<String>> = teams.iter().map(|team| team.map(str::to_owned)).collect();
        wanted.extend(tried.map(|team| Some(team.to_owned())));
        eventually(&format!("servers of {wanted:?}"), || async {
            let listed = self.pods.list(&ListParams::default().labels("campfire.network/campfire=fire")).await.unwrap();
            let mut pods: Vec<Pod> = listed.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
            pods.sort_by_key(ResourceExt::name_any);
            pods.iter().map(|pod| pod.labels().get("team").cloned()).collect::<Vec<_>>() == wanted
        })
        .await;
    }

    /// Where members are told that servers are.
    async fn endpoints(&self) -> Vec<Endpoint> {
        self.world.campfires().get("fire").await.unwrap().status.unwrap_or_default().endpoints
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kubelet.abort();
    }
}

/// Starts pods whose image is there, and ends those that are deleted.
async fn kubelet(pods: Api<Pod>, images: Arc<AtomicBool>) {
    let waits = json!({ "phase": "Pending", "containerStatuses": [{ "name": "turn", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } } }] });
    let runs = json!({ "phase": "Running", "containerStatuses": null, "conditions": [{ "type": "Ready", "status": "True" }] });
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Ok(listed) = pods.list(&ListParams::default()).await else { continue };
        for pod in listed.items.iter().filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())) {
            let status = pod.status.clone().unwrap_or_default();
            let missing = pod.labels().get("image").is_some_and(|image| image == "none") && !images.load(Relaxed);
            let change = match (missing, status.phase.as_deref()) {
                _ if pod.metadata.deletion_timestamp.is_some() => {
                    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                    let _ = pods.delete(&pod.name_any(), &now).await;
                    continue;
                }
                (true, _) if status.container_statuses.is_none() => &waits,
                (false, Some("Pending")) => &runs,
                _ => continue,
            };
            let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(json!({ "status": change }))).await;
        }
    }
}

/// A program of the control plane; ends with it.
struct Controller(Child);

impl Controller {
    fn start(program: &Path, world: &World, flags: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).arg("--kubeconfig").arg(world.kubeconfig());
        command.args(["--leader-elect=false", "--secure-port=0"]).args(flags);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
