//! The ground that the other stories stand on: clusters come up, pods run, find each other, and have TUN devices; two clusters are apart.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use campfire_kind_tests::{Cluster, NODE_PORT_OF_TWO, TEST_APP};

fn app(name: &str, line: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - name: app\n    image: {TEST_APP}\n    command: [sh, -c, {line:?}]\n    imagePullPolicy: Never\n"
    )
}

#[test]
fn pods_reach_a_service_by_its_name() {
    let Some(cluster) = Cluster::one() else { return };
    let ns = "ground-service";
    cluster.namespace(ns);
    cluster.apply(ns, &app("server", "while true; do echo hello from $HOSTNAME | nc -l -p 8080; done"));
    cluster.apply(
        ns,
        "apiVersion: v1\nkind: Service\nmetadata: {name: server}\nspec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}\n",
    );
    cluster.apply(ns, &app("client", "sleep 100000"));
    cluster.ready(ns, "server");
    cluster.ready(ns, "client");
    let answer = cluster.wait_for("the server's answer through its Service's name", ns, Duration::from_secs(30), || {
        cluster
            .exec(ns, "client", "app", &["sh", "-c", "echo | nc -w 2 server.ground-service.svc.cluster.local 80"])
            .ok()
            .filter(|answer| !answer.is_empty())
    });
    assert_eq!(answer.trim(), "hello from server");
    cluster.kubectl(&["delete", "namespace", ns, "--wait=false"]);
}

#[test]
fn an_init_container_makes_a_tun_device_that_the_app_sees() {
    let Some(cluster) = Cluster::one() else { return };
    let ns = "ground-tun";
    cluster.namespace(ns);
    cluster.apply(
        ns,
        &format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: tun}}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{{name: state, emptyDir: {{medium: Memory, sizeLimit: 16Mi}}}}]
  initContainers:
  - name: make
    image: {TEST_APP}
    imagePullPolicy: Never
    command: [sh, -ec, 'mkdir -p /state/net; [ -e /state/net/tun ] || mknod /state/net/tun c 10 200; tunctl -f /state/net/tun -t probe0; ip link set probe0 up']
    volumeMounts: [{{name: state, mountPath: /state}}]
    securityContext: {{readOnlyRootFilesystem: true, capabilities: {{drop: [ALL], add: [NET_ADMIN, MKNOD]}}, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: app
    image: {TEST_APP}
    imagePullPolicy: Never
    command: [sleep, '100000']
"
        ),
    );
    cluster.ready(ns, "tun");
    let links = cluster.exec(ns, "tun", "app", &["ip", "link"]).unwrap();
    assert!(links.contains("probe0"), "{links}");
    cluster.kubectl(&["delete", "namespace", ns, "--wait=false"]);
}

#[test]
fn two_clusters_have_the_same_addresses_and_reach_each_other_only_by_published_ports() {
    let (Some(one), Some(two)) = (Cluster::one(), Cluster::two()) else { return };
    let ns = "ground-apart";
    one.namespace(ns);
    two.namespace(ns);
    two.apply(ns, &app("server", "while true; do echo hello from the second | nc -l -p 8080; done"));
    two.apply(
        ns,
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: server}}\nspec: {{type: NodePort, selector: {{app: server}}, ports: [{{port: 80, targetPort: 8080, nodePort: {NODE_PORT_OF_TWO}}}]}}\n"
        ),
    );
    one.apply(ns, &app("client", "sleep 100000"));
    one.ready(ns, "client");
    two.ready(ns, "server");
    let ask = |address: &str, port: u16| one.exec(ns, "client", "app", &["sh", "-c", &format!("echo | nc -w 2 {address} {port}")]);
    let gateway = one.gateway();
    let answer = one.wait_for("an answer of the second cluster by its published port", ns, Duration::from_secs(30), || {
        ask(&gateway, NODE_PORT_OF_TWO).ok().filter(|answer| !answer.is_empty())
    });
    assert_eq!(answer.trim(), "hello from the second");
    let node = two.node_address();
    assert!(ask(&node, NODE_PORT_OF_TWO).is_err(), "{node}, the other's node, answers: the clusters are not apart");
    let pod_cidr = |cluster: &Cluster| cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].spec.podCIDR}"]);
    assert_eq!(pod_cidr(one), pod_cidr(two));
    for cluster in [one, two] {
        cluster.kubectl(&["delete", "namespace", ns, "--wait=false"]);
    }
}
