//! What becomes of members when their node is restarted while the operator is away, and when one of the two operators is frozen while pods start:
//! all come into the mesh by themselves as soon as one answers, and none is made anew for it. In the second cluster, whose node is restarted.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use campfire_kind_tests::mesh::{campfire, deployment, is_true, name};
use campfire_kind_tests::{Cluster, SYSTEM, is_ready};
use serde_json::{Value, json};

const NAMESPACE: &str = "node";
/// From the operator's return until the last member is back.
const BACK: Duration = Duration::from_mins(1);
const OPERATOR: &str = "app.kubernetes.io/name=campfire-operator";

#[test]
fn members_whose_node_was_restarted_without_an_operator_come_back_by_themselves_and_a_frozen_operator_keeps_nobody_out() {
    let Some(cluster) = Cluster::two() else { return };
    let ns = cluster.with_operator(NAMESPACE);
    cluster.apply(ns, &campfire("{turn: {exposure: {type: ClusterIP}}}"));
    cluster.campfire_ready(ns);
    restarted(cluster, ns);
    frozen(cluster, ns);
    for kind in ["deployments", "campfires"] {
        cluster.kubectl(&["delete", "-n", ns, kind, "--all", "--wait"]);
    }
}

fn restarted(cluster: &Cluster, ns: &str) {
    println!("===== the node is restarted while the operator is away");
    cluster.apply(ns, &deployment("hello", 3, "{}"));
    let before = uids(&cluster.pods(ns, "hello", 3));
    cluster.members(ns, "hello", 3, Duration::from_secs(30));
    cluster.kubectl(&["scale", "-n", SYSTEM, "deployment/campfire-operator", "--replicas=0"]);
    cluster.wait_for("no operator to be left", SYSTEM, Duration::from_mins(1), || {
        cluster.list(SYSTEM, "pods", OPERATOR).is_empty().then_some(())
    });
    cluster.restart_node();
    cluster.wait_for("the API server to be back", ns, Duration::from_mins(2), || cluster.try_kubectl(&["get", "--raw", "/readyz"]).ok());
    // Their apps run: nothing but the mesh waits for the operator.
    cluster.wait_for("the apps to run again, without an operator", ns, Duration::from_mins(2), || {
        let pods: Value =
            serde_json::from_str(&cluster.try_kubectl(&["get", "-n", ns, "pods", "-l", "app=hello", "-o", "json"]).ok()?).ok()?;
        let pods = pods["items"].as_array()?.clone();
        (pods.len() == 3 && pods.iter().all(|pod| is_ready(pod) && restarts(pod) > 0)).then_some(())
    });
    cluster.kubectl(&["scale", "-n", SYSTEM, "deployment/campfire-operator", "--replicas=2"]);
    cluster.wait_for("an operator to be ready", SYSTEM, Duration::from_mins(2), || {
        cluster.list(SYSTEM, "pods", OPERATOR).iter().any(is_ready).then_some(())
    });
    cluster.members(ns, "hello", 3, BACK);
    let pods = cluster.pods(ns, "hello", 3);
    assert_eq!(uids(&pods), before, "they were made anew");
    let address = cluster.mesh_address(ns, name(&pods[1]));
    cluster.talks(ns, name(&pods[0]), &address, name(&pods[1]));
    cluster.wait_for("the Campfire to miss nobody", ns, Duration::from_mins(1), || {
        let campfire = cluster.get(ns, "campfire", "main")?;
        (is_true(&campfire, "Ready") && campfire["status"]["podsWithoutMesh"] == 0).then_some(())
    });
}

fn frozen(cluster: &Cluster, ns: &str) {
    println!("===== the leader is frozen while pods start");
    let (leader, _) = replicas(cluster);
    let frozen = Frozen::begin(cluster, &leader);
    let begun = Instant::now();
    // Two at once, and one when the other has not taken over yet.
    cluster.apply(ns, &deployment("frozen", 2, "{}"));
    std::thread::sleep(Duration::from_secs(4));
    cluster.apply(ns, &deployment("later", 1, "{}"));
    for (app, count) in [("frozen", 2), ("later", 1)] {
        cluster.members(ns, app, count, Duration::from_mins(1));
    }
    println!("all were in the mesh {:.1} s after the leader was frozen", begun.elapsed().as_secs_f64());
    // It ends by itself when it wakes, or was killed by its probes meanwhile.
    drop(frozen);

    println!("===== the standby is frozen while pods start");
    let (_, standby) = replicas(cluster);
    let frozen = Frozen::begin(cluster, &standby);
    let begun = Instant::now();
    cluster.apply(ns, &deployment("beside", 2, "{}"));
    cluster.members(ns, "beside", 2, Duration::from_mins(1));
    println!("all were in the mesh {:.1} s after the standby was frozen", begun.elapsed().as_secs_f64());
    drop(frozen);
}

/// The names of leader and standby, once both are ready and the API server is led to either.
fn replicas(cluster: &Cluster) -> (String, String) {
    cluster.wait_for("both operators to be ready, and the API server to be led to either", SYSTEM, Duration::from_mins(1), || {
        let pods = cluster.list(SYSTEM, "pods", OPERATOR);
        let lease = cluster.get(SYSTEM, "lease", "campfire-operator")?;
        let leads = |pod: &&Value| lease["spec"]["holderIdentity"] == pod["metadata"]["name"];
        let led = |pod: &Value, service: &str| {
            let slice = cluster.get(SYSTEM, "endpointslice", service)?;
            (slice["endpoints"] == json!([{ "addresses": [pod["status"]["podIP"]], "conditions": slice["endpoints"][0]["conditions"] }]))
                .then_some(())
        };
        let (leader, standby) = (pods.iter().find(leads)?, pods.iter().find(|pod| !leads(pod))?);
        led(leader, "campfire-webhook").and(led(standby, "campfire-webhook-standby"))?;
        (pods.len() == 2 && pods.iter().all(is_ready)).then(|| (name(leader).to_owned(), name(standby).to_owned()))
    })
}

/// A replica of the operator that is stopped (SIGSTOP), until this is dropped.
struct Frozen<'a>(&'a Cluster, String);

impl<'a> Frozen<'a> {
    fn begin(cluster: &'a Cluster, pod: &str) -> Self {
        let pod = cluster.get(SYSTEM, "pod", pod).unwrap();
        let container =
            pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().trim_start_matches("containerd://").to_owned();
        let frozen = Self(cluster, container);
        frozen.signal("SIGSTOP");
        frozen
    }

    fn signal(&self, signal: &str) {
        self.0.on_node(&format!("ctr -n k8s.io tasks kill -s {signal} {}", self.1));
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // Its container may be gone: killed by its probes.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.signal("SIGCONT")));
    }
}

fn uids(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
}

fn restarts(pod: &Value) -> i64 {
    let all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    all.filter_map(|container| container["restartCount"].as_i64()).max().unwrap_or(0)
}
