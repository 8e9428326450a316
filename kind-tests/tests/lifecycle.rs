//! The life of a Campfire under traffic: every field changes, servers come and go, the key is rotated, the operator is taken away and comes
//! back; nothing of it costs a packet between peers, nothing shows a key, and what is deleted is gone.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use campfire_kind_tests::mesh::{campfire, deployment, is_true, name};
use campfire_kind_tests::{Cluster, SYSTEM, condition, is_ready, root};
use serde_json::Value;

const NAMESPACE: &str = "lifecycle";

/// One change after the other: merge patches of a Campfire's spec. What an entry sets stays until a later one takes it back.
const CHANGES: [&str; 24] = [
    r#"{"clusterName": "renamed"}"#,
    r#"{"turn": {"replicas": 2}}"#,
    r#"{"turn": {"exposure": {"type": "NodePort"}}}"#,
    r#"{"turn": {"exposure": {"serviceLayout": "Mixed"}}}"#,
    r#"{"turn": {"exposure": {"annotations": {"example.org/of": "services"}}}}"#,
    r#"{"turn": {"exposure": {"externalAddresses": ["turn-a.example.org", "turn-b.example.org:4000"]}}}"#,
    r#"{"turn": {"exposure": {"type": "LoadBalancer", "loadBalancerClass": "example.org/a"}}}"#,
    r#"{"turn": {"exposure": {"loadBalancerClass": "example.org/b"}}}"#,
    r#"{"turn": {"exposure": {"type": "ClusterIP", "loadBalancerClass": null, "externalAddresses": null, "serviceLayout": "PerTransport"}}}"#,
    r#"{"turn": {"transports": ["UDP", "TCP", "TLS"], "tls": {"secretName": "certificate"}}}"#,
    r#"{"turn": {"replicas": 1, "exposure": {"type": "HostPort"}}}"#,
    r#"{"turn": {"podTemplate": {"annotations": {"example.org/of": "pods"}, "labels": {"example.org/team": "a"}, "priorityClassName": "system-cluster-critical"}}}"#,
    r#"{"turn": {"podTemplate": {"resources": {"limits": {"memory": "96Mi"}}, "nodeSelector": {"kubernetes.io/os": "linux"}}}}"#,
    r#"{"turn": {"podTemplate": {"tolerations": [{"key": "spot", "operator": "Exists"}], "imagePullSecrets": [{"name": "registry"}]}}}"#,
    r#"{"turn": {"transports": ["UDP", "TCP"], "tls": null, "podTemplate": null}}"#,
    r#"{"turn": {"exposure": {"type": "ClusterIP"}, "servers": ["elsewhere=192.0.2.7:3478"]}}"#,
    r#"{"network": {"acceptRoutes": ["198.51.100.0/24"]}}"#,
    r#"{"network": {"mtu": 1300, "ipv4Pool": "100.80.0.0/16"}}"#,
    r#"{"members": {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "lifecycle"}}}}}"#,
    r#"{"members": {"namespaces": {"from": "All", "selector": null}}}"#,
    r#"{"sidecar": {"mode": "Tun", "startup": {"policy": "Require", "timeout": "20s"}, "resources": {"requests": {"cpu": "5m"}}}}"#,
    r#"{"remotePeers": "Summary"}"#,
    r#"{"turn": {"servers": null, "replicas": 2}}"#,
    r#"{"turn": {"replicas": 1}, "psk": {"deletionPolicy": "Delete"}}"#,
];

#[test]
#[expect(clippy::too_many_lines, reason = "a story, one thing after the other")]
fn every_field_changes_and_the_key_is_rotated_under_traffic_and_what_is_deleted_is_gone() {
    let Some(cluster) = Cluster::one() else { return };
    let ns = cluster.with_operator(NAMESPACE);
    cluster.apply(ns, &certificate());
    cluster.apply(ns, &campfire("{turn: {exposure: {type: ClusterIP}}}"));
    cluster.campfire_ready(ns);
    cluster.apply(ns, &deployment("hello", 2, "{}"));
    let pods = cluster.pods(ns, "hello", 2);
    let address = cluster.mesh_address(ns, name(&pods[1]));
    cluster.talks(ns, name(&pods[0]), &address, name(&pods[1]));
    direct(cluster, ns, name(&pods[0]));
    let traffic = cluster.traffic(ns, name(&pods[0]), &address);
    let mut keys = cluster.keys(ns);

    for change in CHANGES {
        println!("[{}] spec: {change}", cluster.name());
        cluster.change(ns, &format!(r#"{{"spec": {change}}}"#));
        if change.contains("HostPort") {
            servers_are_replaced(cluster, ns, 1);
        }
    }
    let set = servers_are_replaced(cluster, ns, 1);
    assert!(set["spec"]["template"]["spec"]["tolerations"].is_null(), "what was taken back is gone: {set}");

    // Who comes now has what the spec says now, and finds the others by a server that goes on whatever the next one would be.
    let server = servers_without_an_image(cluster, ns);
    cluster.kubectl(&["scale", "-n", ns, "deployment/hello", "--replicas=3"]);
    let now = cluster.pods(ns, "hello", 3);
    let new = now.iter().find(|pod| pods.iter().all(|old| name(old) != name(pod))).unwrap();
    let interface = cluster.exec(ns, name(new), "app", &["ip", "addr", "show", "dev", "campfire0"]).unwrap();
    assert!(interface.contains("mtu 1300") && interface.contains("inet 100.80."), "{interface}");
    cluster.talks(ns, name(new), &address, name(&pods[1]));
    servers_have_their_image_again(cluster, ns, &server);

    // The three steps of a rotation.
    let before = cluster.get(ns, "campfire", "main").unwrap()["status"]["keyFingerprint"].as_str().unwrap().to_owned();
    for (step, reason) in [("Distribute", "Distributed"), ("Activate", "Activated"), ("Retire", "Retired")] {
        cluster.kubectl(&["annotate", "-n", ns, "campfire", "main", &format!("campfire.network/rotate={step}"), "--overwrite"]);
        cluster.wait_for(&format!("rotation step {step}"), ns, Duration::from_mins(2), || {
            let campfire = cluster.get(ns, "campfire", "main")?;
            (condition(&campfire, "Rotated")?["reason"] == reason).then_some(())
        });
        keys.extend(cluster.keys(ns));
    }
    let after = cluster.get(ns, "campfire", "main").unwrap()["status"]["keyFingerprint"].as_str().unwrap().to_owned();
    assert_ne!(before, after);
    cluster.wait_for("the sidecars to have dropped the old key", ns, Duration::from_mins(1), || {
        let held = |pod: &Value| cluster.status(ns, name(pod))["self"]["fingerprints"] == serde_json::json!([after]);
        now.iter().all(held).then_some(())
    });
    let status = cluster.status(ns, name(&pods[0]));
    let history: String = status["peers"].as_array().unwrap().iter().map(|peer| peer["history"].to_string()).collect();
    assert!(history.contains("session established"), "{history}");
    for end in ["session expired", "the direct path died", "it started anew"] {
        assert!(!history.contains(end), "a session was dropped: {history}");
    }

    // The mesh does without its operator, and so does deletion.
    cluster.helm(&["uninstall", "campfire", "-n", "campfire-system", "--wait", "--timeout", "120s"]);
    let shown = cluster.everything_readable();
    let loss = traffic.stop();
    assert_eq!(loss.lost, 0, "the direct path between two pods lost packets");
    cluster.reinstall();
    let shown = shown + &cluster.everything_readable();
    assert!(keys.len() >= 4, "too few keys to look for: {}", keys.len());
    // Of all that was to be searched there is something: objects, logs of sidecars and operators, metrics.
    for part in ["kind: Campfire", "campfire_sidecar::control", "campfire_operator::", "campfire_operator_leader"] {
        assert!(shown.contains(part), "nothing of {part} was read");
    }
    for key in &keys {
        assert!(!shown.contains(key.as_str()), "a key stands where anybody may read it; it is {} characters long", key.len());
    }
    cluster.wait_for("the Campfire to be Ready with the operator that came back", ns, Duration::from_mins(1), || {
        cluster.get(ns, "campfire", "main").filter(|campfire| is_true(campfire, "Ready"))
    });

    cluster.kubectl(&["delete", "-n", ns, "campfire", "main", "--wait", "--timeout=60s"]);
    cluster.wait_for("Secrets, servers and Services of the Campfire to be gone", ns, Duration::from_mins(1), || {
        let left = cluster.kubectl(&[
            "get",
            "-n",
            ns,
            "statefulsets,services,secrets",
            "-l",
            "app.kubernetes.io/managed-by=campfire-operator",
            "-o",
            "name",
        ]);
        left.trim().is_empty().then_some(())
    });

    // A namespace with a mesh in it goes as any other.
    cluster.kubectl(&["rollout", "restart", "-n", ns, "deployment/hello"]);
    cluster.apply(ns, &campfire("{turn: {exposure: {type: ClusterIP}}}"));
    cluster.campfire_ready(ns);
    cluster.kubectl(&["delete", "namespace", ns, "--wait", "--timeout=90s"]);
}

/// Waits until a pod has a direct path to everybody.
fn direct(cluster: &Cluster, ns: &str, pod: &str) {
    cluster.wait_for(&format!("{pod} to have direct paths"), ns, Duration::from_secs(30), || {
        let status = cluster.status(ns, pod);
        status["peers"].as_array()?.iter().all(|peer| peer["path"] == "Direct").then_some(())
    });
}

/// Waits until a change of the servers is done to all of them, and the one that was tried beside them is gone.
fn servers_are_replaced(cluster: &Cluster, ns: &str, replicas: usize) -> Value {
    cluster.wait_for(&format!("{replicas} TURN servers as they should be"), ns, Duration::from_mins(2), || {
        let left = cluster.list(ns, "pods", "campfire.network/campfire=main");
        let set = cluster.get(ns, "statefulset", "main-turn")?;
        let (spec, status) = (&set["spec"], &set["status"]);
        let done = status["updateRevision"] == status["currentRevision"] && status["observedGeneration"] == set["metadata"]["generation"];
        (done && spec["replicas"] == replicas && left.len() == replicas && left.iter().all(is_ready)).then_some(set)
    })
}

/// The operator is given an image for servers that cannot be pulled. Returns the uid of the server that goes on.
fn servers_without_an_image(cluster: &Cluster, ns: &str) -> Value {
    let server = || cluster.get(ns, "pod", "main-turn-0").map(|pod| pod["metadata"]["uid"].clone());
    let before = server();
    upgrade(cluster, "127.0.0.1:1/campfire-turn");
    let said = cluster.wait_for("it to be said why the servers stay as they are", ns, Duration::from_mins(2), || {
        let campfire = cluster.get(ns, "campfire", "main")?;
        let accepted = condition(&campfire, "Accepted").filter(|accepted| accepted["reason"] == "NewServerNotReady")?;
        assert!(
            condition(&campfire, "TurnAvailable").is_some_and(|it| it["reason"] == "AllReady"),
            "a server that works is one: {campfire}"
        );
        Some(accepted["message"].as_str()?.to_owned())
    });
    assert!(said.contains("pod main-turn-1: ") && said.contains("127.0.0.1:1/campfire-turn"), "{said}");
    assert!(before.is_some() && server() == before, "a server that works is replaced by one that does not");
    before.unwrap()
}

/// It is given the one that is there, and another change goes on.
fn servers_have_their_image_again(cluster: &Cluster, ns: &str, before: &Value) {
    assert_eq!(
        &cluster.get(ns, "pod", "main-turn-0").unwrap()["metadata"]["uid"],
        before,
        "a server that works is replaced by one that does not"
    );
    upgrade(cluster, "campfire-turn");
    cluster.change(ns, r#"{"spec": {"turn": {"podTemplate": {"labels": {"example.org/team": "b"}}}}}"#);
    servers_are_replaced(cluster, ns, 1);
    assert_eq!(cluster.get(ns, "pod", "main-turn-0").unwrap()["metadata"]["labels"]["example.org/team"], "b");
}

/// Gives the operator another image for servers.
fn upgrade(cluster: &Cluster, image: &str) {
    let chart = root().join("charts/campfire");
    let repository = format!("turn.image.repository={image}");
    cluster.helm(&["upgrade", "campfire", &chart.to_string_lossy(), "-n", SYSTEM, "--reuse-values", "--set", &repository]);
}

/// A Secret with a certificate for TURN over TLS.
fn certificate() -> String {
    let made = rcgen::generate_simple_self_signed(vec!["turn-a.example.org".to_owned()]).unwrap();
    let indented = |pem: &str| format!("    {}\n", pem.trim_end().replace('\n', "\n    "));
    let (certificate, key) = (indented(&made.cert.pem()), indented(&made.signing_key.serialize_pem()));
    format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: certificate}}\nstringData:\n  tls.crt: |\n{certificate}  tls.key: |\n{key}"
    )
}
