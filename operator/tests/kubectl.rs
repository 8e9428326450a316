//! What `kubectl` prints is what docs/kubernetes.md prints. With `CAMPFIRE_WRITE_DOCS=1` the document takes over what is printed.

#![allow(clippy::unwrap_used)]

mod control_plane;
mod in_process;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use campfire_api::agent::Path as Way;
use campfire_api::names::{CAMPFIRE_ANNOTATION, ENABLED, INJECTED_LABEL};
use campfire_api::{Campfire, MeshPeer};
use campfire_operator::state::{ObjectKey, PeerReport, PodId as Who, Proof, Reported, Sighting, View, WireguardKey};
use campfire_protocol::identity::{Identity, PublicKey};
use campfire_protocol::key::{Fingerprint, Psk};
use control_plane::{ControlPlane, apply, define, program};
use in_process::{Operator, campfire_says, eventually, peer_says};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

#[tokio::test]
async fn kubectl_prints_what_the_document_prints() {
    let Some(kubectl) = program("kubectl") else {
        println!("SKIPPED: no kubectl beside etcd and kube-apiserver: run `make test` once");
        return;
    };
    let Some(plane) = ControlPlane::start().await else { return };
    let _operator = quickstart(&plane.client).await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes.md");
    let document = std::fs::read_to_string(&file).unwrap();
    let mut written = String::new();
    let mut compared = 0;
    for (number, piece) in document.split("```").enumerate() {
        let command = piece.strip_prefix("console\n$ kubectl ").filter(|_| number % 2 == 1);
        let Some((arguments, expected)) = command.and_then(|command| command.split_once('\n')) else {
            written.push_str(piece);
            written.push_str("```");
            continue;
        };
        let output = Command::new(&kubectl).arg("--kubeconfig").arg(plane.kubeconfig()).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "kubectl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        let found = String::from_utf8(output.stdout).unwrap();
        let found = found.split("Events:").next().unwrap().trim_end();
        let found = found.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n";
        if std::env::var_os("CAMPFIRE_WRITE_DOCS").is_none() {
            assert_eq!(plain(&found), plain(expected), "kubectl {arguments}, of which docs/kubernetes.md prints something else:\n{found}");
        }
        written.extend(["console\n$ kubectl ", arguments, "\n", &found, "```"]);
        compared += 1;
    }
    assert_eq!(compared, 3);
    if std::env::var_os("CAMPFIRE_WRITE_DOCS").is_some() {
        std::fs::write(file, written.strip_suffix("```").unwrap()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_backed_up_as_the_document_says_is_the_same_mesh_again_in_another_cluster() {
    let Some(kubectl) = program("kubectl") else {
        println!("SKIPPED: no kubectl beside etcd and kube-apiserver: run `make test` once");
        return;
    };
    let (Some(before), Some(after)) = (ControlPlane::start().await, ControlPlane::start().await) else { return };
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md")).unwrap();
    let section = document.split_once("\n## What to back up\n").unwrap().1.split("\n## ").next().unwrap().to_owned();
    let commands: Vec<&str> = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    let [backup, restore] = commands[..] else { panic!("{commands:?}") };
    let folder = tempfile::tempdir().unwrap();
    let typed = |plane: &ControlPlane, commands: &str| {
        let path = format!("{}:{}", kubectl.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", commands]).current_dir(folder.path()).env("PATH", path).env("KUBECONFIG", plane.kubeconfig());
        let output = bash.output().unwrap();
        assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let status = async |plane: &ControlPlane| {
        let campfires = Api::<Campfire>::namespaced(plane.client.clone(), "default");
        campfire_says(&campfires, "main", "KeyReady", "KeyReady").await;
        let status = campfires.get("main").await.unwrap().status.unwrap();
        (status.key_fingerprint.unwrap(), status.prefix.unwrap())
    };
    define(&before.client).await;
    let _there = Operator::start(&before.client, &["default"]).await;
    let spec = json!({ "psk": { "deletionPolicy": "Delete" }, "turn": { "replicas": 0, "servers": ["turn:192.0.2.1"] } });
    let campfire = json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "name": "main" }, "spec": spec });
    apply(&Api::<Campfire>::namespaced(before.client.clone(), "default"), "main", &campfire).await;
    let was = status(&before).await;
    typed(&before, backup);

    define(&after.client).await;
    let _here = Operator::start(&after.client, &["default"]).await;
    let restoring = restore.to_owned();
    tokio::task::block_in_place(|| typed(&after, &restoring));
    assert_eq!(status(&after).await, was, "the same key, the same network");
    let key = Api::<Secret>::namespaced(after.client.clone(), "default").get("main-psk").await.unwrap();
    assert!(key.owner_references().is_empty(), "no owner of the other cluster");
}

/// Without what is another at each run: ages, times, ids, ports and addresses that the cluster chose, and so the width of columns.
fn plain(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let varies = ["UID:", "Resource Version:", "Creation Timestamp:", "Last Transition Time:", "Server:", "Server List Version:"];
            if let Some(name) = varies.into_iter().find(|name| line.trim_start().starts_with(name)) {
                return vec![name.to_owned()];
            }
            let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
            cells.map(|cell| if of_this_run(cell) { "*".to_owned() } else { cell.to_owned() }).collect()
        })
        .collect()
}

/// An age, a node port, or an address of a Service.
fn of_this_run(cell: &str) -> bool {
    let age = cell.strip_suffix(['s', 'm']).is_some_and(|number| number.split('m').all(|part| part.parse::<u16>().is_ok()));
    age || cell.parse::<u16>().is_ok_and(|port| port >= 30_000) || cell.starts_with("10.91.")
}

/// The quickstart's Campfire with two pods, a laptop, and a pod of another cluster, as if all of them ran.
async fn quickstart(client: &Client) -> Operator {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for definition in campfire_api::definitions() {
        apply(&definitions, &definition.name_any(), &definition).await;
    }
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    apply(&Api::<ServiceAccount>::namespaced(client.clone(), "default"), "default", &account).await;
    // A key that is always the same makes a prefix and a fingerprint that are.
    let key = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "main-psk" },
        "stringData": { "psk": "07".repeat(32), "network": "8e3d1f5ac2" },
    });
    apply(&Api::<Secret>::namespaced(client.clone(), "default"), "main-psk", &key).await;
    let (campfires, peers) =
        (Api::<Campfire>::namespaced(client.clone(), "default"), Api::<MeshPeer>::namespaced(client.clone(), "default"));
    apply(&campfires, "main", &example("quickstart")).await;
    let operator = Operator::start(client, &["default"]).await;
    server(client).await;

    let mut seen = BTreeMap::new();
    for (number, name) in [(1, "hello-6d9f7c5b84-4xkzp"), (2, "hello-6d9f7c5b84-q7w2n")] {
        let pod = json!({
            "metadata": { "name": name, "labels": { INJECTED_LABEL: ENABLED }, "annotations": { CAMPFIRE_ANNOTATION: "default/main" } },
            "spec": { "containers": [{ "name": "app", "image": "app" }] },
        });
        let pods = Api::<Pod>::namespaced(client.clone(), "default");
        let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        // The other cluster is behind a NAT that gives each destination another port.
        let report = PeerReport {
            wireguard: public_key(number),
            identity: identity(number),
            addresses: vec![address(number)],
            camped: true,
            ready: true,
            unconnected: 0,
            path: Way::Mixed,
            reason: "PeerSymmetricNAT".into(),
            unreachable: false,
            fingerprints: vec![fingerprint()],
            problems: Vec::new(),
        };
        let who = Who { key: ObjectKey::new("default", name), uid: pod.uid().unwrap() };
        let proof = Proof::of(&[0; 64], &[]);
        operator.ctx.reports.put(who, Reported { campfire: ObjectKey::new("default", "main"), report, proof, at: Instant::now() });
        seen.insert(identity(number), sighting(number, name, "berlin"));
    }
    seen.insert(identity(3), sighting(3, "laptop", ""));
    seen.insert(identity(4), sighting(4, "shop-7c9d6b5f4-m2x8v", "paris"));
    let mut laptop = example("external-peer");
    laptop["spec"]["external"]["publicKey"] = json!(public_key(3).to_string());
    // Once there is something to copy.
    eventually("there is a join Secret", async || {
        campfires.get("main").await.unwrap().status.unwrap_or_default().join_secret_name.is_some()
    })
    .await;
    apply(&peers, "laptop", &laptop).await;
    // Whoever is seen before it is declared is shown as a Remote until then.
    eventually("the laptop is known", async || operator.ctx.cluster.peers.find(|peer| peer.name_any() == "laptop").is_some()).await;
    operator.ctx.sightings.publish(&ObjectKey::new("default", "main"), View { camped: 1, members: 4, seen, ..View::default() });
    for name in ["hello-6d9f7c5b84-4xkzp", "hello-6d9f7c5b84-q7w2n"] {
        peer_says_when_it_is_there(&peers, name, "Ready").await;
    }
    peer_says_when_it_is_there(&peers, "laptop", "AtTheFire").await;
    peer_says_when_it_is_there(&peers, &format!("main-r-{}", &identity(4).to_string()[..20]), "AtTheFire").await;
    eventually("all are counted", async || {
        let status = campfires.get("main").await.unwrap().status.unwrap_or_default();
        status.peers == Some(4) && status.turn.as_deref() == Some("1/1") && status.key_generations.iter().any(|held| held.peers == 4)
    })
    .await;
    operator
}

async fn peer_says_when_it_is_there(peers: &Api<MeshPeer>, name: &str, reason: &str) {
    eventually(name, async || peers.get_opt(name).await.unwrap().is_some()).await;
    peer_says(peers, name, "Ready", reason).await;
}

/// The server's pod on its node, ready.
async fn server(client: &Client) {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "kind-control-plane" },
        "status": { "addresses": [{ "type": "InternalIP", "address": "172.18.0.2" }] },
    });
    let nodes = Api::<Node>::all(client.clone());
    apply(&nodes, "kind-control-plane", &node).await;
    nodes.patch_status("kind-control-plane", &PatchParams::default(), &Patch::Merge(&node)).await.unwrap();
    let sets = Api::<StatefulSet>::namespaced(client.clone(), "default");
    eventually("the servers are made", async || sets.get_opt("main-turn").await.unwrap().is_some()).await;
    let labels = sets.get("main-turn").await.unwrap().spec.unwrap().selector.match_labels;
    let pod = json!({
        "metadata": { "name": "main-turn-0", "labels": labels },
        "spec": { "nodeName": "kind-control-plane", "containers": [{ "name": "turn", "image": "turn" }] },
    });
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let ready = json!({ "status": { "replicas": 1, "readyReplicas": 1 } });
    sets.patch_status("main-turn", &PatchParams::default(), &Patch::Merge(ready)).await.unwrap();
}

fn example(name: &str) -> Value {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/{name}.yaml"));
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn identity(number: u8) -> PublicKey {
    Identity::from_seed(&[number; 32]).public()
}

fn public_key(number: u8) -> WireguardKey {
    WireguardKey(identity(number).x25519())
}

fn address(number: u8) -> IpAddr {
    format!("fd8e:3d1f:5ac2:{number:x}a7c:91e0:44b{number:x}:7d02:5f{number:x}1").parse().unwrap()
}

fn sighting(number: u8, name: &str, cluster: &str) -> Sighting {
    Sighting {
        identity: identity(number),
        wireguard: public_key(number),
        name: name.into(),
        namespace: "default".into(),
        cluster: cluster.into(),
        addresses: vec![address(number)],
        fingerprints: vec![fingerprint()],
        origin: false,
    }
}

/// Of the key.
fn fingerprint() -> Fingerprint {
    Psk::from_bytes([7; 32]).derive().fingerprint
}
