//! A second cluster joins with one secret: it shares nothing with the first but the addresses of its pods, which are the same.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use campfire_kind_tests::Cluster;
use campfire_kind_tests::mesh::{campfire, deployment, is_true, name};
use serde_json::Value;

const NAMESPACE: &str = "join";

#[test]
fn a_second_cluster_joins_with_one_secret_learns_of_new_servers_and_is_forgotten_when_it_leaves() {
    let (Some(one), Some(two)) = (Cluster::one(), Cluster::two()) else { return };
    let ns = one.with_operator(NAMESPACE);
    two.with_operator(NAMESPACE);
    // What the second cluster's pods reach the first's servers by: their own gateway, where the host publishes the first's NodePorts.
    let reached = two.gateway();
    one.apply(ns, &campfire(&format!("{{turn: {{exposure: {{type: NodePort, externalAddresses: [{reached}]}}}}}}")));
    one.campfire_ready(ns);

    let uri = one.wait_for("the join secret", ns, Duration::from_secs(30), || {
        Some(one.get(ns, "secret", "main-join")?["data"]["uri"].as_str()?.to_owned())
    });
    two.apply(ns, &format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: one}}\ndata: {{uri: {uri}}}\n"));
    two.apply(ns, &campfire("{join: {secretRef: {name: one}}}"));
    two.campfire_ready(ns);

    one.apply(ns, &deployment("hello", 2, "{}"));
    two.apply(ns, &deployment("hello", 2, "{}"));
    let (here, there) = (one.pods(ns, "hello", 2), two.pods(ns, "hello", 2));
    let addresses =
        |cluster: &Cluster, pods: &[Value]| -> Vec<String> { pods.iter().map(|pod| cluster.mesh_address(ns, name(pod))).collect() };
    let (addresses_here, addresses_there) = (addresses(one, &here), addresses(two, &there));
    for (pod, address) in here.iter().zip(&addresses_here) {
        for (other, other_address) in there.iter().zip(&addresses_there) {
            one.talks(ns, name(pod), other_address, name(other));
            two.talks(ns, name(other), address, name(pod));
        }
    }

    // Both say how: pods of one cluster directly, those of the other through the fire, and why.
    for (cluster, other, addresses) in [(one, "two", &addresses_there), (two, "one", &addresses_here)] {
        let told = |peer: &Value| match peer["spec"]["type"].as_str() {
            Some("Pod") => peer["status"]["path"] == "Mixed" && !matches!(peer["status"]["reason"].as_str(), None | Some("" | "Pending")),
            Some("Remote") => peer["status"]["clusterName"] == other && is_true(peer, "Ready"),
            _ => false,
        };
        let what = format!("the MeshPeers of {} to say who is where, and how", cluster.name());
        let peers = cluster.wait_for(&what, ns, Duration::from_mins(1), || {
            let peers = cluster.list(ns, "meshpeers", "");
            (peers.len() == 4 && peers.iter().all(told)).then_some(peers)
        });
        let mut shown: Vec<&str> = peers
            .iter()
            .filter(|peer| peer["spec"]["type"] == "Remote")
            .filter_map(|peer| peer["status"]["addresses"][0].as_str())
            .collect();
        shown.sort_unstable();
        let mut expected: Vec<&str> = addresses.iter().map(String::as_str).collect();
        expected.sort_unstable();
        assert_eq!(shown, expected, "the other cluster's peers in {}", cluster.name());
        let why: Vec<&str> = peers.iter().filter_map(|peer| peer["status"]["reason"].as_str()).collect();
        assert!(why.iter().all(|why| ["SymmetricNAT", "PeerSymmetricNAT", "ProbeTimeout"].contains(why)), "why not direct: {why:?}");
        println!("{}", cluster.kubectl(&["get", "-n", ns, "campfires,meshpeers", "-o", "wide"]));
    }

    // A server more: who joined learns of it at the fire, while packets go on.
    let traffic = two.traffic(ns, name(&there[0]), &addresses_here[0]);
    one.change(ns, r#"{"spec": {"turn": {"replicas": 2}}}"#);
    two.wait_for("a sidecar of the second cluster to camp on both servers", ns, Duration::from_mins(1), || {
        let status = two.status(ns, name(&there[0]));
        let servers = status["servers"].as_array()?;
        (servers.len() == 2 && servers.iter().all(|server| server["state"] == "Camped")).then_some(())
    });
    let loss = traffic.stop();
    assert!(loss.lost == 0, "a new server cost packets: {loss:?}");

    // One side goes. The other cleans up.
    two.kubectl(&["delete", "-n", ns, "deployment/hello", "campfire/main", "--wait"]);
    two.helm(&["uninstall", "campfire", "-n", "campfire-system", "--wait", "--timeout", "120s"]);
    one.wait_for("no peer of the second cluster to be left", ns, Duration::from_mins(2), || {
        let peers = one.list(ns, "meshpeers", "");
        let campfire = one.get(ns, "campfire", "main")?;
        let gone = campfire["status"]["clusters"].as_array().is_none_or(|clusters| clusters.iter().all(|it| it["name"] != "two"));
        (gone && peers.len() == 2 && peers.iter().all(|peer| peer["spec"]["type"] == "Pod" && peer["status"]["path"] == "Direct"))
            .then_some(())
    });
    one.kubectl(&["delete", "-n", ns, "deployment/hello", "campfire/main", "--wait"]);
}
