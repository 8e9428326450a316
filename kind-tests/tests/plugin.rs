//! `kubectl campfire` against a real API server, real sidecars and a real kubelet between them.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use campfire_kind_tests::mesh::{campfire, deployment, name};
use campfire_kind_tests::{Cluster, root};
use serde_json::Value;

const NAMESPACE: &str = "plugin";

#[test]
fn kubectl_campfire_shows_asks_draws_and_checks() {
    let Some(cluster) = Cluster::one() else { return };
    let ns = cluster.with_operator(NAMESPACE);
    // As a run that failed may have left it.
    cluster.kubectl(&["label", "namespace", ns, "pod-security.kubernetes.io/enforce-"]);
    // Beside the folder of this test's own program.
    let programs = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    assert!(programs.join("kubectl-campfire").exists(), "no kubectl-campfire in {}: cargo build --workspace --bins", programs.display());
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let typed = |line: &str| {
        let printed = cluster.bash(&format!("kubectl campfire -n {ns} {line}"), &[("PATH", &path)]);
        let printed = printed.unwrap_or_else(|error| panic!("kubectl campfire {line}: {error}"));
        println!("[{}] kubectl campfire {line}\n{}", cluster.name(), if printed.len() < 4_000 { &printed } else { "" });
        printed
    };
    cluster.apply(ns, &campfire("{turn: {exposure: {type: ClusterIP}}}"));
    cluster.campfire_ready(ns);
    cluster.apply(ns, &deployment("hello", 2, "{}"));
    let pods = cluster.pods(ns, "hello", 2);
    cluster.wait_for("the MeshPeers to be linked directly", ns, Duration::from_mins(1), || {
        let peers = cluster.list(ns, "meshpeers", "");
        (peers.len() == 2 && peers.iter().all(|peer| peer["status"]["path"] == "Direct")).then_some(())
    });

    let status = typed("status");
    assert!(status.contains(&format!("{ns}/main")) && status.contains("2 pods here: 2 direct"), "{status}");
    let peers = typed("peers");
    assert!(pods.iter().all(|pod| peers.contains(name(pod))), "{peers}");
    for flags in ["", "--full "] {
        let pinged = typed(&format!("ping {flags}--count 3 --interval 0.2 hello hello"));
        assert!(pinged.contains("3 sent, 3 answered, 0% lost") && pinged.contains(", direct at "), "{pinged}");
    }
    let why = typed(&format!("why {} {}", name(&pods[0]), name(&pods[1])));
    assert!(why.contains(&format!("{}.{ns}", name(&pods[1]))) && why.contains(" is connected directly at "), "{why}");
    let svg = typed("graph");
    assert!(pods.iter().all(|pod| svg.contains(name(pod))) && svg.contains("direct: 1 pair"), "{svg}");
    let picture = root().join("target/kind-plugin.png");
    typed(&format!("graph -o png > {}", picture.display()));
    assert!(fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    fs::remove_file(&picture).unwrap();
    assert!(typed("netcheck").contains("UDP gets out:    yes"));

    // Of a sound mesh nothing is wrong; what there may be to know of depends on the machine.
    let checked: Value = serde_json::from_str(&typed("check -o json || test $? = 1")).unwrap();
    let found = |id: &str| checked["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).map(|check| &check["result"]);
    for id in [
        "cluster-version",
        "cluster-definitions",
        "cluster-rights",
        "operator-ready",
        "operator-leader",
        "operator-webhook",
        "operator-certificate",
        "fire-conditions",
        "fire-servers",
        "member-ready",
        "path-full",
    ] {
        assert_eq!(found(id).and_then(Value::as_str), Some("ok"), "{id}: {checked:#}");
    }

    let dump = typed("dump");
    assert!(dump.contains("status --json in plugin/") && dump.contains("log of campfire-system/campfire-operator"), "{dump}");
    for key in cluster.keys(ns) {
        assert!(!dump.contains(&key), "a key is in the dump");
    }

    // The sidecar is a wg too, where there is none.
    let wg = cluster.exec(ns, name(&pods[0]), "campfire", &["wg"]).unwrap();
    assert!(
        wg.starts_with("interface: campfire0\n  public key: ") && wg.contains("\n  latest handshake: ") && !wg.contains("private key"),
        "{wg}"
    );

    broken(cluster, ns, &path);
    cluster.kubectl(&["delete", "-n", ns, "deployment/hello", "campfire/main", "--wait"]);
}

/// Four worlds that are broken, one after the other, each with what `check` says of it, and where to read on.
fn broken(cluster: &Cluster, ns: &str, path: &str) {
    let finds = |finding: &str, exit: u8| {
        let checked = cluster.wait_for(&format!("check to say {finding:?}"), ns, Duration::from_mins(1), || {
            let line = format!("kubectl campfire -n {ns} check --short || test $? = {exit}");
            cluster.bash(&line, &[("PATH", path)]).ok().filter(|text| text.contains(finding))
        });
        println!("[{}] kubectl campfire check --short\n{checked}", cluster.name());
        let id = finding.split([' ', ':']).nth(1).unwrap();
        assert!(checked.contains(&format!("docs/cli.md#{id}")) && !checked.contains("path-full"), "{checked}");
    };

    // The operator goes: meshes go on, and nothing of it is visible but to who checks.
    let scale = |replicas: &str| cluster.kubectl(&["scale", "-n", "campfire-system", "deployment/campfire-operator", replicas]);
    scale("--replicas=0");
    finds("FAIL operator-webhook: ", 2);

    // A pod that was made meanwhile runs without the mesh, and is told of when the operator is back.
    cluster.apply(ns, &deployment("late", 1, "{}"));
    cluster.pods(ns, "late", 1);
    scale("--replicas=2");
    cluster.kubectl(&["rollout", "status", "-n", "campfire-system", "deployment/campfire-operator", "--timeout=60s"]);
    finds(&format!("warn member-missed: {ns}/main: 1 pod without the sidecar"), 1);
    cluster.kubectl(&["delete", "-n", ns, "deployment/late", "--wait"]);

    // A namespace that lets in no pods that may make an interface. The webhook cannot be tried there, which is not that it does not work.
    let enforce = |level: &str| cluster.kubectl(&["label", "namespace", ns, &format!("pod-security.kubernetes.io/enforce{level}")]);
    enforce("=restricted");
    finds(&format!("warn cluster-podsecurity: namespace {ns} enforces PodSecurity restricted"), 1);
    enforce("-");

    // Nobody here gives a load balancer its address.
    cluster.kubectl(&[
        "patch",
        "-n",
        ns,
        "campfire",
        "main",
        "--type=merge",
        "-p",
        r#"{"spec":{"turn":{"exposure":{"type":"LoadBalancer"}}}}"#,
    ]);
    finds(&format!("FAIL fire-conditions: {ns}/main: WaitingForAddress: "), 2);
}
