//! The chart on a real API server: one release in a cluster, and an upgrade that keeps values.

#![allow(clippy::unwrap_used)]

mod control_plane;
mod helm;

use control_plane::ControlPlane;
use helm::{Helm, chart};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_release_is_refused_with_where_the_first_one_is_and_the_first_one_is_upgraded() {
    let Some(helm) = Helm::find() else { return };
    let Some(plane) = ControlPlane::start().await else { return };
    let kubeconfig = plane.kubeconfig().to_string_lossy().into_owned();
    let run = |arguments: &[&str]| {
        let all = [arguments, &["--kubeconfig", &kubeconfig, "--kube-insecure-skip-tls-verify"]].concat();
        helm.run_in(&chart(), &all)
    };
    run(&["install", "campfire", ".", "-n", "campfire-system", "--create-namespace"]).unwrap();
    for (name, namespace) in [("camp2", "campfire-system"), ("campfire", "other")] {
        let refused = run(&["install", name, ".", "-n", namespace, "--create-namespace"]).unwrap_err();
        let sentence = "Campfire is installed in this cluster already, as release campfire in namespace campfire-system";
        assert!(refused.contains(sentence) && refused.contains("helm upgrade campfire -n campfire-system"), "{refused}");
    }
    run(&["upgrade", "campfire", ".", "-n", "campfire-system", "--reuse-values", "--set", "remotePeers.lingerSeconds=30"]).unwrap();
    let values = run(&["get", "values", "campfire", "-n", "campfire-system"]).unwrap();
    assert!(values.contains("lingerSeconds: 30"), "{values}");
    run(&["uninstall", "campfire", "-n", "campfire-system"]).unwrap();
    run(&["install", "campfire", ".", "-n", "campfire-system"]).unwrap();
}
