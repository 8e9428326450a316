//! The operator comes in by its chart; pods with a label mesh through the TURN server it deploys; what is deleted leaves nothing.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use campfire_kind_tests::mesh::{campfire, deployment, name};
use campfire_kind_tests::{Cluster, TEST_APP, condition};
use serde_json::Value;

const SPEC: &str = "{turn: {exposure: {type: ClusterIP}}}";

/// What a pod's app, that uses the mesh with its first command, may take from before it is asked for to that command, seconds.
const START: f64 = 5.0;

/// Seconds from before a pod is asked for until its app uses the mesh: it shows the interface, and is answered by a peer.
fn seconds_to_start(cluster: &Cluster, ns: &str, pod: &str, peer: &str) -> f64 {
    let line = format!("ip -6 addr show dev campfire0 && ping -c 1 -w 5 {peer}");
    let manifest = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {pod}, labels: {{campfire.network/inject: enabled}}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: app, image: '{TEST_APP}', imagePullPolicy: Never, command: [sh, -c, '{line}']}}
"
    );
    cluster.seconds_to_start(ns, pod, &manifest)
}

#[test]
fn three_labelled_pods_mesh_through_the_deployed_turn_server_and_directly() {
    let Some(cluster) = Cluster::one() else { return };
    let ns = cluster.with_operator("mesh");
    cluster.apply(ns, &campfire(SPEC));
    cluster.campfire_ready(ns);

    cluster.apply(ns, &deployment("hello", 3, "{}"));
    let pods = cluster.pods(ns, "hello", 3);
    let names: Vec<&str> = pods.iter().map(name).collect();
    for pod in &pods {
        let inits: Vec<&str> = pod["spec"]["initContainers"].as_array().unwrap().iter().map(name_of_container).collect();
        assert_eq!(inits, ["campfire-init", "campfire"], "{}", name(pod));
    }
    let addresses: Vec<String> = names.iter().map(|pod| cluster.mesh_address(ns, pod)).collect();
    let start = Instant::now();
    for (from, here) in names.iter().enumerate() {
        for (to, there) in names.iter().enumerate().filter(|(to, _)| *to != from) {
            cluster.talks(ns, here, &addresses[to], there);
        }
    }
    println!("all six pairs talked within {:.1} s", start.elapsed().as_secs_f64());
    let status = cluster.exec(ns, names[0], "campfire", &["/campfire", "status"]).unwrap();
    println!("{status}");
    assert!(!status.is_empty());

    println!("{}", wg_show(names[0]));

    let mut took = ["quick-a", "quick-b", "quick-c"].map(|pod| seconds_to_start(cluster, ns, pod, &addresses[0]));
    println!("from asked for to answered over the mesh: {took:.2?} s");
    // The quickest: what else this machine does is not the mesh's time.
    took.sort_by(f64::total_cmp);
    assert!(took[0] < START, "{took:?}");

    // What the operator says of them is so, and follows them through a rollout.
    let ready = |peer: &Value| condition(peer, "Ready").is_some_and(|it| it["status"] == "True");
    let linked = |peer: &Value| ["Direct", "Relay", "Mixed"].iter().any(|path| peer["status"]["path"] == *path);
    let of_pods = |pods: &[Value], peers: &[Value]| {
        let uid = |peer: &Value| pods.iter().any(|pod| pod["metadata"]["uid"] == peer["spec"]["podRef"]["uid"]);
        peers.len() == pods.len() && peers.iter().all(|peer| uid(peer) && ready(peer) && linked(peer) && peer["spec"]["type"] == "Pod")
    };
    // Two more, between whom packets go on meanwhile.
    cluster.apply(ns, &deployment("steady", 2, "{}"));
    let steady = cluster.pods(ns, "steady", 2);
    let address = cluster.mesh_address(ns, name(&steady[1]));
    let all = || cluster.list(ns, "pods", "app in (hello, steady)");
    let peers = cluster.wait_for("the five pods' MeshPeers to be ready and linked", ns, Duration::from_mins(1), || {
        let peers = cluster.list(ns, "meshpeers", "");
        of_pods(&all(), &peers).then_some(peers)
    });
    for peer in &peers {
        let shown = cluster.mesh_address(ns, name(peer));
        assert_eq!(peer["status"]["addresses"][0], shown.as_str(), "{peer}");
    }
    println!("{}", cluster.kubectl(&["get", "-n", ns, "campfires,meshpeers", "-o", "wide"]));
    let traffic = cluster.traffic(ns, name(&steady[0]), &address);
    cluster.kubectl(&["rollout", "restart", "-n", ns, "deployment/hello"]);
    cluster.kubectl(&["rollout", "status", "-n", ns, "deployment/hello", "--timeout=120s"]);
    cluster.wait_for("MeshPeers of the new pods and the old two, and no others", ns, Duration::from_mins(2), || {
        let pods = all();
        (pods.len() == 5 && of_pods(&pods, &cluster.list(ns, "meshpeers", ""))).then_some(())
    });
    // Who came in the place of others talks to who stayed.
    for pod in cluster.list(ns, "pods", "app=hello") {
        cluster.talks(ns, name(&pod), &address, name(&steady[1]));
    }
    assert_eq!(traffic.stop().lost, 0, "others that came and went cost packets");

    // Nothing that a person may look at has key material in it: the pre-shared key in the forms that it is kept in.
    let secret = cluster.kubectl(&["get", "-n", ns, "secret", "main-psk", "-o", "jsonpath={.data.psk}"]);
    assert!(secret.len() > 20, "no key in main-psk");
    let everything = cluster.state_of(ns)
        + &cluster.kubectl(&["get", "-n", ns, "pods,campfires,meshpeers,events,statefulsets,configmaps", "-o", "yaml"]);
    assert!(!everything.contains(secret.trim()), "the key stands in an object, an event or a log");

    cluster.kubectl(&["delete", "-n", ns, "deployment", "hello", "steady", "--wait"]);
    cluster
        .wait_for("no MeshPeer to be left over", ns, Duration::from_mins(1), || cluster.list(ns, "meshpeers", "").is_empty().then_some(()));
    cluster.kubectl(&["delete", "-n", ns, "campfire", "main", "--wait", "--timeout=60s"]);
    cluster.wait_for("the TURN servers and Services of the deleted Campfire to be gone", ns, Duration::from_mins(1), || {
        let left = cluster.kubectl(&["get", "-n", ns, "statefulsets,services,pods", "-o", "name"]);
        left.trim().is_empty().then_some(())
    });
}

/// What the real `wg show` says in a pod: its sidecar's control socket, as this machine sees it.
fn wg_show(pod: &str) -> String {
    let of_pod = |root: &Path| std::fs::read_to_string(root.join("etc/hostname")).is_ok_and(|name| name.trim() == pod);
    let roots = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path().join("root")));
    let socket = roots.filter(|root| of_pod(root)).map(|root| root.join("var/run/wireguard/campfire0.sock")).find(|socket| socket.exists());
    let socket = socket.unwrap_or_else(|| panic!("no process of {pod} with a WireGuard control socket"));
    let here = Path::new("/var/run/wireguard/campfire-story.sock");
    std::fs::create_dir_all(here.parent().unwrap()).unwrap();
    let _ = std::fs::remove_file(here);
    std::os::unix::fs::symlink(socket, here).unwrap();
    let output = Command::new("wg").args(["show", "campfire-story"]).output().unwrap();
    std::fs::remove_file(here).unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "wg show: {}", String::from_utf8_lossy(&output.stderr));
    let count = |what: &str| shown.lines().filter(|line| line.trim().starts_with(what)).count();
    assert_eq!((count("peer: "), count("endpoint: "), count("latest handshake: ")), (2, 2, 2), "{shown}");
    shown
}

fn name_of_container(container: &Value) -> &str {
    container["name"].as_str().unwrap()
}

#[test]
fn a_job_with_the_sidecar_completes() {
    let Some(cluster) = Cluster::one() else { return };
    let ns = cluster.with_operator("job");
    cluster.apply(ns, &campfire(SPEC));
    cluster.campfire_ready(ns);
    cluster.apply(
        ns,
        &format!(
            "
apiVersion: batch/v1
kind: Job
metadata: {{name: once}}
spec:
  backoffLimit: 2
  template:
    metadata: {{labels: {{campfire.network/inject: enabled}}}}
    spec:
      restartPolicy: Never
      containers:
      - {{name: app, image: '{TEST_APP}', imagePullPolicy: Never, command: [ip, '-6', addr, show, dev, campfire0]}}
"
        ),
    );
    cluster.wait_for("the Job to complete", ns, Duration::from_mins(1), || {
        cluster.get(ns, "job", "once").filter(|job| condition(job, "Complete").is_some_and(|it| it["status"] == "True"))
    });
    let printed = cluster.kubectl(&["logs", "-n", ns, "job/once", "-c", "app"]);
    assert!(printed.contains("inet6"), "the app saw no mesh address: {printed}");
    cluster.kubectl(&["delete", "-n", ns, "job", "once", "--wait"]);
    cluster.kubectl(&["delete", "-n", ns, "campfire", "main", "--wait", "--timeout=60s"]);
}
