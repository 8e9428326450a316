//! A new user: the chart goes in as the README says, tests itself, runs with the rights that it was given in a namespace of level
//! `restricted`, is upgraded, and goes away without a trace but what was to be kept.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use campfire_kind_tests::{CRDS, Cluster, SYSTEM as NAMESPACE, image, root};

#[test]
fn the_chart_is_installed_tests_itself_is_upgraded_and_leaves_nothing_stuck() {
    let Some(cluster) = Cluster::one() else { return };
    if !image("campfire-operator").exists() {
        println!("SKIPPED: no images: make images first");
        return;
    }
    cluster.load_images();
    cluster.uninstall();
    cluster.namespace(NAMESPACE);
    cluster.kubectl(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"]);
    let chart = root().join("charts/campfire");
    let chart = chart.to_str().unwrap();

    println!("[{}] waiting for helm install (two operators to be ready)", cluster.name());
    let notes =
        cluster.helm(&["install", "campfire", chart, "--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "120s"]);
    assert!(notes.contains("kubectl -n campfire-system rollout status"), "{notes}");
    let tested = cluster.helm(&["test", "campfire", "-n", NAMESPACE]);
    assert!(tested.contains("Succeeded"), "{tested}");

    // The operator did with the chart's rights what it has to: the webhook can be called, sidecars find the leader.
    let patched = || {
        let configuration = cluster.get("", "mutatingwebhookconfiguration", "campfire-injection")?;
        let webhooks = configuration["webhooks"].as_array()?.clone();
        webhooks.iter().all(|webhook| webhook["clientConfig"]["caBundle"].is_string()).then_some(())
    };
    assert!(patched().is_some(), "helm waited for a webhook that the API server cannot call");
    cluster.wait_for("the leader to be where sidecars ask", NAMESPACE, Duration::from_secs(30), || {
        let slice = cluster.get(NAMESPACE, "endpointslice", "campfire-agent")?;
        slice["endpoints"].as_array().filter(|endpoints| endpoints.len() == 1).map(|_| ())
    });

    let operator = "--as=system:serviceaccount:campfire-system:campfire-operator";
    let may =
        |verb: &str, what: &str, namespace: &str| cluster.try_kubectl(&["auth", "can-i", verb, what, "-n", namespace, operator]).is_ok();
    assert!(may("get", "secrets", "default"), "where Campfires may live");
    for namespace in ["kube-system", NAMESPACE] {
        assert!(!may("list", "secrets", namespace), "Secrets of {namespace}");
        assert!(!may("create", "pods", namespace), "pods of {namespace}");
    }
    // To try what admission makes of members (docs/decisions/0011): where Campfires may live, and its StatefulSets are the same power, alone.
    assert!(may("create", "pods", "default") && !may("*", "*", "default"));
    assert!(!may("delete", "pods", "default") && !may("patch", "pods", "default"));
    // `pods/exec` would be a pod of that name.
    let exec = cluster.try_kubectl(&["auth", "can-i", "create", "pods", "--subresource=exec", "-n", "default", operator]);
    assert!(exec.is_err(), "{exec:?}");

    let listed = cluster.kubectl(&["auth", "can-i", "--list", "-n", "kube-system", operator]);
    let resources: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(resources.contains(&"pods") && !resources.iter().any(|resource| *resource == "secrets" || resource.contains("*.")), "{listed}");
    assert!(!listed.contains("[*]"), "a wildcard: {listed}");

    let examples = std::fs::read_dir(root().join("examples")).unwrap().map(|file| file.unwrap().path());
    for file in examples.filter(|file| file.extension().is_some_and(|extension| extension == "yaml")) {
        cluster.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", file.to_str().unwrap()]);
    }
    assert!(cluster.kubectl(&["explain", "campfire.spec.turn.exposure"]).contains("NodePort"));

    println!("[{}] waiting for helm upgrade, and back", cluster.name());
    cluster.helm(&[
        "upgrade",
        "campfire",
        chart,
        "-n",
        NAMESPACE,
        "--reset-then-reuse-values",
        "--set",
        "clusterName=one",
        "--wait",
        "--timeout",
        "120s",
    ]);
    cluster.helm(&["rollback", "campfire", "-n", NAMESPACE, "--wait", "--timeout", "120s"]);
    assert!(patched().is_some(), "the CA outlives upgrade and rollback");

    cluster.helm(&["uninstall", "campfire", "-n", NAMESPACE, "--wait", "--timeout", "120s"]);
    for crd in CRDS {
        assert!(cluster.get("", "crd", crd).is_some(), "crds.keep: {crd}");
    }
    assert!(cluster.get("", "mutatingwebhookconfiguration", "campfire-injection").is_none());
    println!("[{}] waiting for helm install over what was kept", cluster.name());
    cluster.helm(&["install", "campfire", chart, "-n", NAMESPACE, "--wait", "--timeout", "120s", "--set", "operator.replicas=1"]);
    cluster.uninstall();
}
