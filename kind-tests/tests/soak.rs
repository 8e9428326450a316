//! What takes longer than a gate may: twenty members whose node is restarted while the operator is away for two minutes, and a cluster that is
//! stopped as a whole, and started again. All come into the mesh by themselves, and none is made anew for it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use campfire_kind_tests::mesh::{campfire, deployment, is_true, name};
use campfire_kind_tests::{Cluster, SYSTEM, is_ready};
use serde_json::Value;

const NAMESPACE: &str = "soak";
const PODS: usize = 20;
/// From the operator's return until the last member is back.
const BACK: Duration = Duration::from_mins(1);
const OPERATOR: &str = "app.kubernetes.io/name=campfire-operator";

#[test]
#[ignore = "soak: twenty members, an operator away for two minutes, a cluster that is stopped for one"]
fn soak_twenty_members_come_back_after_their_node_the_operator_or_the_whole_cluster_was_away() {
    let Some(cluster) = Cluster::two() else { return };
    let ns = cluster.with_operator(NAMESPACE);
    cluster.apply(ns, &campfire("{turn: {exposure: {type: ClusterIP}}}"));
    cluster.campfire_ready(ns);
    cluster.apply(ns, &deployment("hello", PODS as u32, "{}"));
    members(cluster, ns, Duration::from_mins(3));
    let before = uids(cluster, ns);

    println!("===== the node is restarted while the operator is away, for two minutes");
    cluster.kubectl(&["scale", "-n", SYSTEM, "deployment/campfire-operator", "--replicas=0"]);
    cluster.wait_for("no operator to be left", SYSTEM, Duration::from_mins(1), || {
        cluster.list(SYSTEM, "pods", OPERATOR).is_empty().then_some(())
    });
    let away = Instant::now();
    cluster.restart_node();
    up_again(cluster, ns);
    std::thread::sleep(Duration::from_mins(2).saturating_sub(away.elapsed()));
    cluster.kubectl(&["scale", "-n", SYSTEM, "deployment/campfire-operator", "--replicas=2"]);
    leads(cluster);
    let begun = Instant::now();
    members(cluster, ns, BACK);
    println!("SOAK: {PODS} of {PODS} members back {:.0} s after the operator", begun.elapsed().as_secs_f64());
    assert_eq!(uids(cluster, ns), before, "they were made anew");
    complete(cluster, ns);

    println!("===== the whole cluster is stopped for a minute");
    cluster.stop_and_start(Duration::from_mins(1));
    let begun = Instant::now();
    up_again(cluster, ns);
    leads(cluster);
    let led = begun.elapsed();
    members(cluster, ns, Duration::from_mins(2));
    println!(
        "SOAK: after the whole cluster was away an operator is ready {:.0} s after its start, and {PODS} of {PODS} members are back after {:.0} s",
        led.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(uids(cluster, ns), before, "they were made anew");
    complete(cluster, ns);
    for kind in ["deployments", "campfires"] {
        cluster.kubectl(&["delete", "-n", ns, kind, "--all", "--wait"]);
    }
}

/// Waits until the API server answers and the apps run again.
fn up_again(cluster: &Cluster, ns: &str) {
    cluster.wait_for("the API server to be back", ns, Duration::from_mins(3), || cluster.try_kubectl(&["get", "--raw", "/readyz"]).ok());
    cluster.wait_for("the apps to run again", ns, Duration::from_mins(4), || {
        let pods = pods(cluster, ns)?;
        (pods.len() == PODS && pods.iter().all(|pod| is_ready(pod) && restarts(pod) > 0)).then_some(())
    });
}

fn leads(cluster: &Cluster) {
    cluster.wait_for("an operator to be ready", SYSTEM, Duration::from_mins(3), || {
        let text = cluster.try_kubectl(&["get", "-n", SYSTEM, "pods", "-l", OPERATOR, "-o", "json"]).ok()?;
        let list: Value = serde_json::from_str(&text).ok()?;
        list["items"].as_array()?.iter().any(is_ready).then_some(())
    });
}

/// Waits until all are in the mesh: their MeshPeers are ready, with the addresses that their interfaces have now.
fn members(cluster: &Cluster, ns: &str, patience: Duration) {
    let address = |pod: &Value| {
        let text = cluster.exec(ns, name(pod), "app", &["ip", "-6", "addr", "show", "dev", "campfire0", "scope", "global"]).ok()?;
        Some(text.split_whitespace().skip_while(|word| *word != "inet6").nth(1)?.split('/').next()?.to_owned())
    };
    let mut there = BTreeSet::new();
    cluster.wait_for(&format!("the {PODS} members to be in the mesh"), ns, patience, || {
        let text = cluster.try_kubectl(&["get", "-n", ns, "meshpeers", "-o", "json"]).ok()?;
        let peers: Value = serde_json::from_str(&text).ok()?;
        for pod in pods(cluster, ns)? {
            let of = |peer: &&Value| peer["spec"]["podRef"]["uid"] == pod["metadata"]["uid"] && is_true(peer, "Ready");
            let Some(peer) = peers["items"].as_array()?.iter().find(of).filter(|_| !there.contains(name(&pod))) else { continue };
            if peer["status"]["addresses"][0].as_str() == address(&pod).as_deref() {
                there.insert(name(&pod).to_owned());
            }
        }
        (there.len() == PODS).then_some(())
    });
}

/// That one talks to another, and the Campfire misses nobody.
fn complete(cluster: &Cluster, ns: &str) {
    let pods = pods(cluster, ns).unwrap();
    let (from, to) = (name(&pods[0]), name(&pods[PODS - 1]));
    cluster.talks(ns, from, &cluster.mesh_address(ns, to), to);
    cluster.wait_for("the Campfire to miss nobody", ns, Duration::from_mins(2), || {
        let campfire = cluster.get(ns, "campfire", "main")?;
        (is_true(&campfire, "Ready") && campfire["status"]["podsWithoutMesh"] == 0).then_some(())
    });
}

fn pods(cluster: &Cluster, ns: &str) -> Option<Vec<Value>> {
    let text = cluster.try_kubectl(&["get", "-n", ns, "pods", "-l", "app=hello", "-o", "json"]).ok()?;
    let list: Value = serde_json::from_str(&text).ok()?;
    list["items"].as_array().cloned()
}

fn uids(cluster: &Cluster, ns: &str) -> BTreeSet<String> {
    let pods = pods(cluster, ns).unwrap();
    pods.iter().map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
}

fn restarts(pod: &Value) -> i64 {
    let all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    all.filter_map(|container| container["restartCount"].as_i64()).max().unwrap_or(0)
}
