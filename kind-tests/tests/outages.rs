//! What stops when what is down, as docs/operations.md says it: the operator, the API server, the TURN servers, one after the other, under
//! traffic on a direct path and through a server. In the second cluster, so that other stories go on in the first meanwhile.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use campfire_kind_tests::mesh::{campfire, deployment, is_true, name};
use campfire_kind_tests::{Cluster, condition};
use serde_json::Value;

const NAMESPACE: &str = "outages";
/// A taint that no TURN server tolerates.
const NO_SERVERS: &str = "example.org/no-servers=here:NoSchedule";

#[test]
#[expect(clippy::too_many_lines, reason = "a story, one thing after the other")]
fn what_need_not_stop_goes_on_while_operator_api_server_and_servers_are_down() {
    let Some(cluster) = Cluster::two() else { return };
    let ns = cluster.with_operator(NAMESPACE);
    cluster.apply(ns, &campfire("{turn: {exposure: {type: ClusterIP}}}"));
    cluster.campfire_ready(ns);
    cluster.apply(ns, &deployment("hello", 3, "{}"));
    cluster.apply(ns, &deployment("relayed", 1, "{config.campfire.network/direct: Forbid}"));
    let pods = cluster.pods(ns, "hello", 3);
    let relayed = cluster.pods(ns, "relayed", 1);
    let (from, to, restarted, relayed) = (name(&pods[0]), name(&pods[1]), name(&pods[2]), name(&relayed[0]));
    let address = cluster.mesh_address(ns, to);
    for pod in [from, restarted, relayed] {
        cluster.talks(ns, pod, &address, to);
    }
    cluster.wait_for("one direct path, and one through the server", ns, Duration::from_secs(30), || {
        let path = |pod: &str| {
            cluster.status(ns, pod)["peers"].as_array()?.iter().find(|peer| peer["name"] == to).map(|peer| peer["path"].clone())
        };
        (path(from)? == "Direct" && path(relayed)? == "Relay").then_some(())
    });
    let identity = mesh_key(cluster, ns, restarted);

    println!("===== the operator is down");
    let (direct, through) = (cluster.traffic(ns, from, &address), cluster.traffic(ns, relayed, &address));
    cluster.kubectl(&["scale", "-n", "campfire-system", "deployment/campfire-operator", "--replicas=0"]);
    cluster.wait_for("no operator to be left", "campfire-system", Duration::from_mins(1), || {
        cluster.list("campfire-system", "pods", "app.kubernetes.io/name=campfire-operator").is_empty().then_some(())
    });
    cluster.apply(ns, &deployment("late", 1, "{}"));
    let late = cluster.pods(ns, "late", 1);
    assert!(late[0]["spec"]["initContainers"].is_null(), "nobody could give it a sidecar");
    restart_sidecar(cluster, ns, restarted);
    cluster.talks(ns, restarted, &address, to);
    assert_eq!(mesh_key(cluster, ns, restarted), identity, "the sidecar came back as somebody else");
    cluster.kubectl(&["scale", "-n", "campfire-system", "deployment/campfire-operator", "--replicas=2"]);
    cluster.wait_for("the pod without a sidecar to be counted", ns, Duration::from_mins(2), || {
        (cluster.get(ns, "campfire", "main")?["status"]["missedPods"] == 1).then_some(())
    });
    cluster.wait_for("its event", ns, Duration::from_mins(1), || {
        let events = cluster.try_kubectl(&["get", "-n", ns, "events", "--field-selector=reason=SidecarMissed", "-o", "name"]).ok()?;
        (!events.trim().is_empty()).then_some(())
    });
    // What the event says to do.
    cluster.kubectl(&["rollout", "restart", "-n", ns, "deployment/late"]);
    cluster.wait_for("the pod to be made anew, with a sidecar, and no pod to be missed", ns, Duration::from_mins(2), || {
        let pods = cluster.list(ns, "pods", "app=late");
        let missed = &cluster.get(ns, "campfire", "main")?["status"]["missedPods"];
        (pods.len() == 1 && pods[0]["spec"]["initContainers"].is_array() && missed == 0).then_some(())
    });
    cluster.kubectl(&["delete", "-n", ns, "deployment", "late", "--wait"]);
    for loss in [direct.stop(), through.stop()] {
        assert_eq!(loss.lost, 0, "packets were lost while the operator was down");
    }

    println!("===== the API server is down");
    let (direct, through) = (cluster.traffic(ns, from, &address), cluster.traffic(ns, relayed, &address));
    let container = container_of_sidecar(cluster, ns, restarted);
    cluster.on_node("mv /etc/kubernetes/manifests/kube-apiserver.yaml /etc/kubernetes/");
    cluster.wait_for("no answer of the API server", ns, Duration::from_mins(1), || {
        cluster.try_kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"]).is_err().then_some(())
    });
    cluster.on_node(&kill(&container));
    // Longer than the leader's lease, and than what a client tries again for at once.
    std::thread::sleep(Duration::from_secs(20));
    cluster.on_node("mv /etc/kubernetes/kube-apiserver.yaml /etc/kubernetes/manifests/");
    cluster.wait_for("the API server to be back", ns, Duration::from_mins(2), || cluster.try_kubectl(&["get", "--raw", "/readyz"]).ok());
    cluster.wait_for("the sidecar that was killed meanwhile to have been restarted", ns, Duration::from_mins(1), || {
        let now = try_container_of_sidecar(cluster, ns, restarted)?;
        (now != container).then_some(())
    });
    cluster.talks(ns, restarted, &address, to);
    assert_eq!(mesh_key(cluster, ns, restarted), identity, "the sidecar came back as somebody else");
    for loss in [direct.stop(), through.stop()] {
        assert_eq!(loss.lost, 0, "packets were lost while the API server was down");
    }
    // The operators lead again, and do as the spec says.
    cluster.change(ns, r#"{"spec": {"network": {"mtu": 1300}}}"#);

    println!("===== the TURN servers are down");
    let (direct, through) = (cluster.traffic(ns, from, &address), cluster.traffic(ns, relayed, &address));
    // (A template that no server can have would take down none: one more is tried beside them.)
    cluster.kubectl(&["taint", "nodes", "--all", NO_SERVERS]);
    let servers = "app.kubernetes.io/name=campfire-turn,campfire.network/campfire=main";
    cluster.kubectl(&["delete", "-n", ns, "pods", "-l", servers, "--wait=false"]);
    let said = cluster.wait_for("the Campfire to say that no server runs, and why", ns, Duration::from_mins(2), || {
        let campfire = cluster.get(ns, "campfire", "main")?;
        let turn = condition(&campfire, "TurnAvailable")?;
        (turn["reason"] == "TurnNotReady" && turn["message"].as_str()?.contains("taint")).then(|| turn["message"].clone())
    });
    println!("{said}");
    cluster.wait_for("no relay to be left", ns, Duration::from_mins(2), || {
        let link = |status: Value| status["peers"].as_array().is_some_and(|peers| peers.iter().any(|peer| peer["connected"] == true));
        (!link(cluster.status(ns, relayed))).then_some(())
    });
    let begun = Instant::now();
    let tolerations = "      tolerations: [{operator: Exists}]\n      containers:";
    let alone = deployment("alone", 1, "{config.campfire.network/startup-timeout: 5s}").replacen("      containers:", tolerations, 1);
    cluster.apply(ns, &alone);
    cluster.wait_for("the app of a pod that finds nobody to start all the same", ns, Duration::from_mins(1), || {
        let pods = cluster.list(ns, "pods", "app=alone");
        let running = |it: &Value| it["name"] == "app" && it["state"]["running"].is_object();
        pods.first()?["status"]["containerStatuses"].as_array()?.iter().any(running).then_some(())
    });
    assert!(begun.elapsed() >= Duration::from_secs(5), "it did not wait for the fire: {:?}", begun.elapsed());
    let alone = cluster.list(ns, "pods", "app=alone")[0].clone();
    cluster.wait_for("its MeshPeer to say so", ns, Duration::from_mins(1), || {
        let peer = cluster.get(ns, "meshpeer", name(&alone))?;
        (condition(&peer, "Ready")?["reason"] == "FireUnreachable").then_some(())
    });
    cluster.kubectl(&["taint", "nodes", "--all", &format!("{NO_SERVERS}-")]);
    cluster.campfire_ready(ns);
    cluster.talks(ns, name(&alone), &address, to);
    cluster.wait_for("its MeshPeer to be Ready", ns, Duration::from_mins(1), || {
        cluster.get(ns, "meshpeer", name(&alone)).filter(|peer| is_true(peer, "Ready"))
    });
    assert_eq!(direct.stop().lost, 0, "a direct path lost packets while the servers were down");
    let loss = through.stop();
    assert!(loss.lost > 0, "traffic through the server went on without it: {loss:?}");
    for kind in ["deployments", "campfires"] {
        cluster.kubectl(&["delete", "-n", ns, kind, "--all", "--wait"]);
    }
}

/// A peer's WireGuard key: who it is.
fn mesh_key(cluster: &Cluster, ns: &str, pod: &str) -> String {
    cluster.status(ns, pod)["self"]["public_key"].as_str().unwrap().to_owned()
}

fn try_container_of_sidecar(cluster: &Cluster, ns: &str, pod: &str) -> Option<String> {
    let pod = cluster.get(ns, "pod", pod)?;
    let sidecar = pod["status"]["initContainerStatuses"].as_array()?.iter().find(|it| it["name"] == "campfire")?.clone();
    let running = sidecar["state"]["running"].is_object() && sidecar["started"] == true;
    running.then(|| sidecar["containerID"].as_str().unwrap_or_default().trim_start_matches("containerd://").to_owned())
}

fn container_of_sidecar(cluster: &Cluster, ns: &str, pod: &str) -> String {
    cluster.wait_for(&format!("the sidecar of {pod} to run"), ns, Duration::from_mins(1), || try_container_of_sidecar(cluster, ns, pod))
}

fn kill(container: &str) -> String {
    format!("ctr -n k8s.io tasks kill -s SIGKILL {container}")
}

/// Kills a sidecar, and waits until the kubelet has started it again.
fn restart_sidecar(cluster: &Cluster, ns: &str, pod: &str) {
    let before = container_of_sidecar(cluster, ns, pod);
    cluster.on_node(&kill(&before));
    cluster.wait_for(&format!("the killed sidecar of {pod} to run again"), ns, Duration::from_mins(1), || {
        try_container_of_sidecar(cluster, ns, pod).filter(|now| *now != before)
    });
}
