//! The node agent: in namespaces that let pods do nothing these are admitted as they are written and are in the mesh, with pods that make their
//! interface themselves and with those of another cluster. What it costs nobody that the agent is killed, upgraded or away, that the kubelet or the
//! node is restarted; and that it goes as it came, once no pod needs it. In the second cluster, which enforces `baseline` where nothing is said.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use campfire_kind_tests::mesh::{campfire, deployment, is_true, name};
use campfire_kind_tests::{Cluster, SYSTEM, TEST_APP, condition, image, is_ready, root};
use serde_json::Value;

/// The Campfire's; it has no label of PodSecurity.
const NAMESPACE: &str = "nodes";
/// What the others enforce. All of them are admitted at that Campfire.
const OTHERS: [(&str, &str); 3] = [("nodes-restricted", "restricted"), ("nodes-baseline", "baseline"), ("nodes-free", "privileged")];
const RESTRICTED: &str = OTHERS[0].0;
const AGENT: &str = "campfire-node";
const AGENTS: &str = "app.kubernetes.io/name=campfire-node";
const DRIVER: &str = "node.campfire.network";
/// What a pod's app, that uses the mesh with its first command, may take from before it is asked for to that command, seconds.
const START: f64 = 5.0;
/// Pods that come at once, for soak.
const CROWD: usize = 110;
/// From the agent's return until a sidecar that was killed meanwhile is back in the mesh.
const AFTER_THE_AGENT: Duration = Duration::from_secs(5);
/// From the operator's return until the last member of a node that was restarted is back.
const AFTER_THE_OPERATOR: Duration = Duration::from_mins(1);

#[test]
fn pods_that_may_do_nothing_are_in_the_mesh_and_the_agent_that_helps_them_may_go_and_come() {
    let (Some(one), Some(two)) = (Cluster::one(), Cluster::two()) else { return };
    clear(two);
    let default = ByDefault::baseline(two);
    let far = fire(one, two);
    without_the_agent(two);
    install(two, &["--set", "metrics.enabled=true"]);
    may_do_nothing_in_the_api(two);
    admitted(two);
    talk(one, two, &far);
    start(two);
    goes_and_comes(two);
    restarted(two);
    uninstalled(two);
    drop(default);
    for (cluster, kinds) in [(one, "deployments,campfires"), (two, "deployments,statefulsets,jobs,campfires")] {
        for kind in kinds.split(',') {
            cluster.kubectl(&["delete", "-n", NAMESPACE, kind, "--all", "--wait"]);
        }
    }
    for (namespace, _) in OTHERS {
        two.kubectl(&["delete", "namespace", namespace, "--wait=false"]);
    }
}

#[test]
#[ignore = "soak: an agent that is away for ten minutes"]
fn soak_the_agent_is_away_for_ten_minutes() {
    let Some(cluster) = Cluster::two() else { return };
    with_the_agent(cluster);
    cluster.apply(RESTRICTED, &member("web", Kind::Deployment(2), 1_000, "", ""));
    let web = cluster.pods(RESTRICTED, "web", 2);
    let (steady, killed) = (name(&web[0]), name(&web[1]));
    cluster.apply("nodes-free", &deployment("tun", 1, "{}"));
    let tun = cluster.pods("nodes-free", "tun", 1);
    let tun = name(&tun[0]);
    let address = cluster.mesh_address("nodes-free", tun);
    // Who may do nothing may not ping; its kernel answers.
    let traffic = cluster.traffic("nodes-free", tun, &cluster.mesh_address(RESTRICTED, steady));
    away(cluster);
    cluster.on_node(&format!("ctr -n k8s.io tasks kill -s SIGKILL {}", sidecar(cluster, killed).unwrap()));
    std::thread::sleep(Duration::from_mins(10));
    returns(cluster);
    let took = answered(cluster, killed, &address);
    println!("SOAK: after ten minutes without the agent a sidecar that was killed meanwhile is back {:.1} s after it", took.as_secs_f64());
    assert!(took <= AFTER_THE_AGENT, "{took:?}");
    assert_eq!(traffic.stop().lost, 0, "packets were lost");
    cleared(cluster);
}

#[test]
#[ignore = "soak: 110 pods at once on one node"]
fn soak_the_agent_serves_a_crowd() {
    let Some(cluster) = Cluster::two() else { return };
    with_the_agent(cluster);
    cluster.on_node("sed -i '/^maxPods:/d' /var/lib/kubelet/config.yaml && echo 'maxPods: 150' >>/var/lib/kubelet/config.yaml && systemctl restart kubelet");
    cluster.wait_for("the node to take 150 pods", RESTRICTED, Duration::from_mins(1), || {
        let most = cluster.try_kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.allocatable.pods}"]).ok()?;
        (most.trim() == "150").then_some(())
    });
    let begun = Instant::now();
    cluster.apply(RESTRICTED, &member("crowd", Kind::Deployment(CROWD as u32), 1_005, "", ""));
    let made = cluster.wait_for("all of them to be made", RESTRICTED, Duration::from_mins(5), || {
        Some(cluster.list(RESTRICTED, "pods", "app=crowd")).filter(|pods| pods.len() == CROWD)
    });
    let missed = made.iter().filter(|pod| pod["spec"]["initContainers"].is_null()).count();
    assert_eq!(missed, 0, "pods that the API server did not show the webhook");
    cluster.wait_for("all of them to be in the mesh", RESTRICTED, Duration::from_mins(20), || {
        let text = cluster.try_kubectl(&["get", "-n", RESTRICTED, "meshpeers", "-o", "json"]).ok()?;
        let peers: Value = serde_json::from_str(&text).ok()?;
        let ready = peers["items"].as_array()?.iter().filter(|peer| name(peer).starts_with("crowd-") && is_true(peer, "Ready")).count();
        (ready == CROWD).then_some(())
    });
    let peak: u64 = cluster
        .on_node("grep -h VmHWM $(dirname $(grep -lx campfire-node /proc/[0-9]*/comm | head -n 1))/status")
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let restarts = cluster.list(AGENT, "pods", AGENTS)[0]["status"]["containerStatuses"][0]["restartCount"].clone();
    println!(
        "SOAK: {CROWD} pods of the agent in the mesh after {:.0} s; its memory was {:.1} MiB at most, restarted {restarts} times",
        begun.elapsed().as_secs_f64(),
        peak as f64 / 1_024.0
    );
    assert!(peak <= 48 * 1_024 && restarts == 0, "{peak} KiB, {restarts} restarts");
    cleared(cluster);
}

/// A Campfire for all namespaces, and the agent.
fn with_the_agent(cluster: &Cluster) {
    clear(cluster);
    cluster.with_operator(NAMESPACE);
    cluster.apply(NAMESPACE, &campfire("{turn: {exposure: {type: ClusterIP}}, members: {namespaces: {from: All}}}"));
    cluster.campfire_ready(NAMESPACE);
    install(cluster, &[]);
}

/// Neither any more, nor pods that it served.
fn cleared(cluster: &Cluster) {
    cluster.kubectl(&["delete", "-n", RESTRICTED, "deployments", "--all", "--wait", "--cascade=foreground", "--timeout=300s"]);
    uninstall(cluster);
    cluster.kubectl(&["delete", "-n", NAMESPACE, "campfires", "--all", "--wait"]);
}

/// What an earlier run left.
fn clear(cluster: &Cluster) {
    for (namespace, level) in OTHERS {
        if cluster.get("", "namespace", namespace).is_some() {
            cluster.kubectl(&["delete", "-n", namespace, "deployments,statefulsets,jobs,pods", "--all", "--force", "--grace-period=0"]);
        }
        cluster.namespace(namespace);
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        cluster.kubectl(&["label", "namespace", namespace, &label, "nodes=members"]);
    }
    if cluster.get("", "csidriver", DRIVER).is_some() {
        cluster.kubectl(&["delete", "-n", NAMESPACE, "deployments,pods", "--all", "--wait"]);
        uninstall(cluster);
    }
}

/// The second cluster's default is `baseline`, until this is dropped.
struct ByDefault<'a>(&'a Cluster);

impl<'a> ByDefault<'a> {
    const MANIFEST: &'static str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
    /// In a directory that the API server has anyway.
    const FILE: &'static str = "/etc/kubernetes/pki/podsecurity.yaml";

    fn baseline(cluster: &'a Cluster) -> Self {
        println!("===== namespaces without a label enforce baseline from now on");
        let text = "apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: latest}
    exemptions: {namespaces: [kube-system, local-path-storage]}
";
        let set = Self(cluster);
        cluster.on_node(&format!("cat >{} <<'TEXT'\n{text}TEXT", Self::FILE));
        set.restart(&format!("s|^\\( *\\)- kube-apiserver$|&\\n\\1- --admission-control-config-file={}|", Self::FILE), true);
        set
    }

    /// Edits the manifest and waits for an API server that has the flag, or has it no more.
    fn restart(&self, edit: &str, flag: bool) {
        // The kubelet must never see half of it.
        self.0.on_node(&format!("sed '{edit}' {0} >/etc/kubernetes/edited && mv /etc/kubernetes/edited {0}", Self::MANIFEST));
        self.0.wait_for("an API server with the changed manifest", "kube-system", Duration::from_mins(2), || {
            // One that runs, by its command line; not this one.
            let line = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -o -e '^kube-apiserve[r]$' -e '^--[a]dmission-control-config-file' || true";
            let found = self.0.on_node(line);
            let changed = found.contains("kube-apiserver") && found.contains("--admission") == flag;
            changed.then(|| self.0.try_kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"]).ok()).flatten()
        });
    }
}

impl Drop for ByDefault<'_> {
    fn drop(&mut self) {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.restart("/admission-control-config-file/d", false)));
        assert!(ended.is_ok() || std::thread::panicking(), "the API server did not come back as it was");
    }
}

/// One Campfire for both clusters, with its servers in the first; there a member, whose name this returns.
fn fire(one: &Cluster, two: &Cluster) -> String {
    one.with_operator(NAMESPACE);
    two.with_operator(NAMESPACE);
    one.apply(NAMESPACE, &campfire(&format!("{{turn: {{exposure: {{type: NodePort, externalAddresses: [{}]}}}}}}", two.gateway())));
    one.campfire_ready(NAMESPACE);
    one.apply(NAMESPACE, &deployment("far", 1, "{}"));
    let uri = one.wait_for("the join secret", NAMESPACE, Duration::from_secs(30), || {
        Some(one.get(NAMESPACE, "secret", "main-join")?["data"]["uri"].as_str()?.to_owned())
    });
    two.apply(NAMESPACE, &format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: one}}\ndata: {{uri: {uri}}}\n"));
    two.apply(
        NAMESPACE,
        &campfire("{join: {secretRef: {name: one}}, members: {namespaces: {from: Selector, selector: {matchLabels: {nodes: members}}}}}"),
    );
    two.kubectl(&["label", "namespace", NAMESPACE, "nodes=members", "--overwrite"]);
    two.campfire_ready(NAMESPACE);
    name(&one.pods(NAMESPACE, "far", 1)[0]).to_owned()
}

/// Where no agent is, pods start without a mesh, and say why.
fn without_the_agent(cluster: &Cluster) {
    println!("===== no agent yet");
    cluster.wait_for(
        "the Campfire to say that its own namespace may not have the init container",
        NAMESPACE,
        Duration::from_mins(1),
        || {
            let campfire = cluster.get(NAMESPACE, "campfire", "main")?;
            let admitted = condition(&campfire, "MembersAdmitted")?;
            (admitted["status"] == "False").then(|| println!("{}: {}", admitted["reason"], admitted["message"]))
        },
    );
    for namespace in [NAMESPACE, RESTRICTED] {
        cluster.apply(namespace, &member("without", Kind::Deployment(1), 1_000, "", ""));
        let pods = cluster.pods(namespace, "without", 1);
        assert!(pods[0]["spec"]["initContainers"].is_null(), "{}", pods[0]["spec"]);
        skipped(cluster, namespace);
        cluster.kubectl(&["delete", "-n", namespace, "deployment", "without", "--wait"]);
    }
}

/// Waits for the event that says why a pod of this namespace got no sidecar.
fn skipped(cluster: &Cluster, namespace: &str) {
    cluster.wait_for("the event that says why", namespace, Duration::from_secs(30), || {
        let events = cluster.try_kubectl(&["get", "-n", namespace, "events", "--field-selector=reason=PodSecurityForbids", "-o", "name"]);
        events.ok().filter(|events| !events.trim().is_empty())
    });
}

/// The agent by its chart, until the kubelet and the operator know it.
fn install(cluster: &Cluster, more: &[&str]) {
    cluster.load(&image("campfire-node"));
    if cluster.get("", "namespace", AGENT).is_none() {
        cluster.kubectl(&["create", "namespace", AGENT]);
        cluster.kubectl(&["label", "namespace", AGENT, "pod-security.kubernetes.io/enforce=privileged"]);
    }
    upgrade(cluster, more);
    registered(cluster);
    cluster.wait_for("the operator to have written its key", AGENT, Duration::from_mins(1), || {
        cluster.get(AGENT, "configmap", AGENT)?["data"]["public-key"].as_str().filter(|key| key.len() == 64).map(|_| ())
    });
}

fn upgrade(cluster: &Cluster, more: &[&str]) {
    let chart = root().join("charts/campfire-node");
    let args = ["upgrade", "--install", AGENT, chart.to_str().unwrap(), "-n", AGENT, "--wait", "--timeout", "120s"];
    println!("[{}] helm {} {}", cluster.name(), args.join(" "), more.join(" "));
    cluster.helm(&[&args[..], more].concat());
}

fn registered(cluster: &Cluster) {
    cluster.wait_for("the kubelet to have registered the driver", AGENT, Duration::from_mins(1), || {
        let nodes = cluster.try_kubectl(&["get", "csinodes", "-o", "jsonpath={.items[*].spec.drivers[*].name}"]).ok()?;
        nodes.split_whitespace().any(|driver| driver == DRIVER).then_some(())
    });
}

fn may_do_nothing_in_the_api(cluster: &Cluster) {
    let account = format!("--as=system:serviceaccount:{AGENT}:{AGENT}");
    for namespace in [AGENT, SYSTEM, NAMESPACE, "kube-system"] {
        let listed = cluster.kubectl(&["auth", "can-i", "--list", "-n", namespace, &account]);
        // What whoever is authenticated may: ask what it may, and read what the API server is.
        let more: Vec<&str> =
            listed.lines().skip(1).filter(|line| !line.starts_with("selfsubject") && !line.trim_start().starts_with('[')).collect();
        assert!(more.is_empty(), "in {namespace}: {more:#?}");
    }
    let pods = cluster.list(AGENT, "pods", AGENTS);
    assert!(pods[0]["spec"]["volumes"].as_array().unwrap().iter().all(|volume| volume["projected"].is_null()), "the agent has a token");
}

/// What a pod is made by.
#[derive(Clone, Copy)]
enum Kind {
    Deployment(u32),
    StatefulSet,
    Job,
    Pod,
}

/// A member that asks for nothing: what `restricted` wants, and may be told to be more.
/// `pod`, `container`: more of their security contexts, as in `, fsGroup: 2000`.
fn member(name: &str, kind: Kind, uid: u32, pod: &str, container: &str) -> String {
    let (line, policy) = match kind {
        Kind::Deployment(_) | Kind::StatefulSet => ("trap exit TERM; while true; do hostname | nc -l -p 7000 & wait; done", "Always"),
        Kind::Job => ("ip -6 addr show dev campfire0; id", "Never"),
        Kind::Pod => (r#"echo | nc -w 5 "$PEER" 7000 | sed "s/^/bytes from /""#, "Never"),
    };
    let spec = format!(
        "
terminationGracePeriodSeconds: 3
restartPolicy: {policy}
securityContext:
  {{runAsNonRoot: true, runAsUser: {uid}, seccompProfile: {{type: RuntimeDefault}}{pod}}}
containers:
- name: app
  image: {TEST_APP}
  imagePullPolicy: Never
  command: [sh, -c, '{line}']
  securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}{container}}}
"
    );
    let labels = format!("{{labels: {{app: {name}, campfire.network/inject: enabled}}}}");
    let template = |indent: &str| format!("{indent}metadata: {labels}\n{indent}spec:{}", spec.replace('\n', &format!("\n{indent}  ")));
    let of = |group: &str, kind: &str, more: &str| {
        let mut text = format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{more}");
        let _ = write!(text, "  template:\n{}", template("    "));
        text
    };
    let selector = format!("  selector: {{matchLabels: {{app: {name}}}}}\n");
    match kind {
        Kind::Deployment(replicas) => of("apps/v1", "Deployment", &format!("  replicas: {replicas}\n{selector}")),
        Kind::StatefulSet => of("apps/v1", "StatefulSet", &format!("  serviceName: {name}\n{selector}")),
        Kind::Job => of("batch/v1", "Job", "  backoffLimit: 0\n"),
        Kind::Pod => format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}, campfire.network/inject: enabled}}}}\nspec:{}",
            spec.replace('\n', "\n  ")
        ),
    }
}

/// Pods of all kinds in all namespaces: admitted as they are, with the sidecar alone beside them.
fn admitted(cluster: &Cluster) {
    println!("===== pods that may do nothing");
    let read_only = ", readOnlyRootFilesystem: true";
    cluster.apply(RESTRICTED, &member("web", Kind::Deployment(2), 1_000, "", ""));
    cluster.apply(RESTRICTED, &member("db", Kind::StatefulSet, 1_001, ", fsGroup: 2000", read_only));
    cluster.apply(RESTRICTED, &member("any", Kind::Deployment(1), 1_000_660_000, ", runAsGroup: 0, fsGroup: 1000660000", read_only));
    cluster.apply(RESTRICTED, &member("once", Kind::Job, 1_002, "", read_only));
    // Root in its own container, as `baseline` allows.
    cluster.apply("nodes-baseline", &deployment("plain", 1, "{}"));
    cluster.apply(NAMESPACE, &deployment("plain", 1, "{}"));
    cluster.apply("nodes-free", &deployment("tun", 1, "{}"));
    for (namespace, app, count) in
        [(RESTRICTED, "web", 2), (RESTRICTED, "db", 1), (RESTRICTED, "any", 1), ("nodes-baseline", "plain", 1), (NAMESPACE, "plain", 1)]
    {
        for pod in cluster.pods(namespace, app, count) {
            let spec = &pod["spec"];
            let inits: Vec<&str> = spec["initContainers"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
            assert_eq!(inits, ["campfire"], "{namespace}/{app}");
            let all = spec["initContainers"].as_array().unwrap().iter().chain(spec["containers"].as_array().unwrap());
            let added: Vec<&Value> = all.map(|it| &it["securityContext"]["capabilities"]["add"]).filter(|add| !add.is_null()).collect();
            assert!(added.is_empty(), "{namespace}/{app}: {added:?}");
            // As they were written.
            let written = cluster.get(namespace, "deployment", app).or_else(|| cluster.get(namespace, "statefulset", app)).unwrap();
            let written = &written["spec"]["template"]["spec"];
            assert_eq!(spec["securityContext"], written["securityContext"], "{namespace}/{app}");
            assert_eq!(spec["containers"][0]["securityContext"], written["containers"][0]["securityContext"], "{namespace}/{app}");
        }
    }
    let tun = &cluster.pods("nodes-free", "tun", 1)[0];
    assert_eq!(tun["spec"]["initContainers"][0]["name"], "campfire-init", "who may, makes its interface itself");
    cluster.wait_for("the Job to complete", RESTRICTED, Duration::from_mins(1), || {
        cluster.get(RESTRICTED, "job", "once").filter(|job| condition(job, "Complete").is_some_and(|it| it["status"] == "True"))
    });
    let printed = cluster.kubectl(&["logs", "-n", RESTRICTED, "job/once", "-c", "app"]);
    assert!(printed.contains("inet6") && printed.contains("uid=1002"), "{printed}");
    cluster.kubectl(&["delete", "-n", RESTRICTED, "job", "once", "--wait"]);
    for (namespace, app, count) in [(RESTRICTED, "web", 2), (RESTRICTED, "db", 1), (RESTRICTED, "any", 1), ("nodes-baseline", "plain", 1)] {
        cluster.members(namespace, app, count, Duration::from_secs(30));
    }
    for uid in ["web", "any"].map(|app| name(&cluster.pods(RESTRICTED, app, if app == "web" { 2 } else { 1 })[0]).to_owned()) {
        let status = cluster.exec(RESTRICTED, &uid, "app", &["grep", "-E", "CapEff|NoNewPrivs|Uid", "/proc/1/status"]).unwrap();
        println!("{uid}: {}", status.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

/// Each way between those that the agent helps, one that helps itself, and one of the other cluster.
fn talk(one: &Cluster, two: &Cluster, far: &str) {
    let place = |namespace: &'static str, app: &str, count: usize| {
        let pod = name(&two.pods(namespace, app, count)[0]).to_owned();
        let address = two.mesh_address(namespace, &pod);
        (namespace, pod, address)
    };
    let web = place(RESTRICTED, "web", 2);
    let there = one.mesh_address(NAMESPACE, far);
    let others = [
        place(RESTRICTED, "db", 1),
        place(RESTRICTED, "any", 1),
        place("nodes-baseline", "plain", 1),
        place(NAMESPACE, "plain", 1),
        place("nodes-free", "tun", 1),
    ];
    for (namespace, pod, address) in &others {
        two.talks(web.0, &web.1, address, pod);
        two.talks(namespace, pod, &web.2, &web.1);
    }
    for (namespace, pod, address) in others.iter().skip(1).step_by(3).chain([&web]) {
        two.talks(namespace, pod, &there, far);
        one.talks(NAMESPACE, far, address, pod);
    }
}

/// How long it takes until a new pod's app is answered.
fn start(cluster: &Cluster) {
    let peer = cluster.mesh_address("nodes-free", name(&cluster.pods("nodes-free", "tun", 1)[0]));
    let mut took = ["quick-a", "quick-b", "quick-c"].map(|pod| {
        let manifest = member(pod, Kind::Pod, 1_003, "", "").replace("$PEER", &peer);
        cluster.seconds_to_start(RESTRICTED, pod, &manifest)
    });
    println!("from asked for to answered over the mesh, by the agent: {took:.2?} s");
    // The quickest: what else this machine does is not the mesh's time.
    took.sort_by(f64::total_cmp);
    assert!(took[0] < START, "{took:?}");
}

/// Killed, away, upgraded, and the kubelet restarted, under traffic of who has its interface already.
fn goes_and_comes(cluster: &Cluster) {
    let web = cluster.pods(RESTRICTED, "web", 2);
    let (steady, killed) = (name(&web[0]), name(&web[1]));
    let tun = cluster.pods("nodes-free", "tun", 1);
    let tun = name(&tun[0]);
    let address = cluster.mesh_address("nodes-free", tun);
    // Who may do nothing may not ping; its kernel answers.
    let traffic = cluster.traffic("nodes-free", tun, &cluster.mesh_address(RESTRICTED, steady));

    println!("===== the agent is killed");
    let (pod, container) = agent(cluster);
    cluster.on_node(&format!("ctr -n k8s.io tasks kill -s SIGKILL {container}"));
    cluster.wait_for("its container to run again", AGENT, Duration::from_mins(1), || {
        let now = cluster.get(AGENT, "pod", &pod)?;
        (container_of(&now["status"]["containerStatuses"][0])? != container && is_ready(&now)).then_some(())
    });

    println!("===== the agent is away");
    away(cluster);
    let sidecar = sidecar(cluster, killed).unwrap();
    cluster.on_node(&format!("ctr -n k8s.io tasks kill -s SIGKILL {sidecar}"));
    cluster.apply(RESTRICTED, &member("early", Kind::Deployment(1), 1_004, "", ""));
    cluster.wait_for("the killed sidecar to say what it waits for", RESTRICTED, Duration::from_secs(30), || {
        let ran = cluster.exec(RESTRICTED, killed, "campfire", &["/campfire", "status"]);
        ran.err().filter(|said| said.contains("the node's agent does not answer"))
    });
    cluster.wait_for("the kubelet to say that there is no driver", RESTRICTED, Duration::from_mins(1), || {
        let events = cluster.try_kubectl(&["get", "-n", RESTRICTED, "events", "--field-selector=reason=FailedMount", "-o", "yaml"]).ok()?;
        events.contains(DRIVER).then_some(())
    });
    told(cluster, killed, steady);
    returns(cluster);
    let took = answered(cluster, killed, &address);
    assert!(took <= AFTER_THE_AGENT, "{took:?}");
    // The kubelet tries ever more seldom.
    let early = cluster.pods(RESTRICTED, "early", 1);
    cluster.talks(RESTRICTED, name(&early[0]), &address, tun);

    let (pod, _) = agent(cluster);
    let figures = cluster.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{AGENT}/pods/{pod}:9642/proxy/metrics")]);
    for figure in ["campfire_node_registered 1", "campfire_node_requests_total{reason=\"Made\"} "] {
        assert!(figures.lines().any(|line| line.starts_with(figure)), "no {figure} in:\n{figures}");
    }

    println!("===== the agent is upgraded");
    upgrade(cluster, &["--set", "podAnnotations.upgraded=yes"]);
    assert_ne!(agent(cluster).0, pod, "it is the same pod");

    println!("===== the kubelet is restarted");
    cluster.on_node("systemctl restart kubelet");
    // A pod that was made meanwhile has its interface too.
    cluster.kubectl(&["delete", "-n", RESTRICTED, "pods", "-l", "app=early", "--wait"]);
    let early = cluster.pods(RESTRICTED, "early", 1);
    cluster.talks(RESTRICTED, name(&early[0]), &address, tun);
    assert_eq!(traffic.stop().lost, 0, "packets were lost");

    println!("===== a pod is deleted by force");
    let uid = early[0]["metadata"]["uid"].as_str().unwrap();
    cluster.kubectl(&["delete", "-n", RESTRICTED, "deployment", "early", "--cascade=orphan"]);
    cluster.kubectl(&["delete", "-n", RESTRICTED, "replicasets", "-l", "app=early", "--cascade=orphan"]);
    cluster.kubectl(&["delete", "-n", RESTRICTED, "pods", "-l", "app=early", "--force", "--grace-period=0"]);
    cluster.wait_for("nothing of it to be left on the node", RESTRICTED, Duration::from_mins(2), || {
        let left =
            cluster.on_node(&format!("ls -d /var/lib/kubelet/pods/{uid} /var/lib/kubelet/plugins/{DRIVER}/pods/{uid} 2>/dev/null || true"));
        left.trim().is_empty().then_some(())
    });
}

/// Name of the agent's pod, and its container.
fn agent(cluster: &Cluster) -> (String, String) {
    cluster.wait_for("the agent to be ready", AGENT, Duration::from_mins(1), || {
        let pods = cluster.list(AGENT, "pods", AGENTS);
        let pod = pods.first().filter(|pod| pods.len() == 1 && is_ready(pod))?;
        Some((name(pod).to_owned(), container_of(&pod["status"]["containerStatuses"][0])?))
    })
}

fn container_of(status: &Value) -> Option<String> {
    let running = status["state"]["running"].is_object();
    running.then(|| status["containerID"].as_str().unwrap_or_default().trim_start_matches("containerd://").to_owned())
}

fn sidecar(cluster: &Cluster, pod: &str) -> Option<String> {
    let pod = cluster.get(RESTRICTED, "pod", pod)?;
    container_of(pod["status"]["initContainerStatuses"].as_array()?.iter().find(|it| it["name"] == "campfire")?)
}

/// The agent leaves its node, and the chart knows nothing of it.
fn away(cluster: &Cluster) {
    let patch = r#"{"spec": {"template": {"spec": {"nodeSelector": {"nowhere": "is-none"}}}}}"#;
    cluster.kubectl(&["patch", "-n", AGENT, "daemonset", AGENT, "--type=merge", "-p", patch]);
    cluster.wait_for("no agent to be left", AGENT, Duration::from_mins(1), || cluster.list(AGENT, "pods", AGENTS).is_empty().then_some(()));
}

/// The agent is back on its node, and ready: the kubelet has registered it.
fn returns(cluster: &Cluster) {
    let patch = r#"[{"op": "remove", "path": "/spec/template/spec/nodeSelector/nowhere"}]"#;
    cluster.kubectl(&["patch", "-n", AGENT, "daemonset", AGENT, "--type=json", "-p", patch]);
    agent(cluster);
}

/// How long it takes from now on until the app of a pod is answered at an address of the mesh.
fn answered(cluster: &Cluster, pod: &str, address: &str) -> Duration {
    let begun = Instant::now();
    let line = format!("echo | nc -w 1 {address} 7000");
    cluster.wait_for(&format!("the app of {pod} to be answered"), RESTRICTED, Duration::from_secs(30), || {
        cluster.exec(RESTRICTED, pod, "app", &["sh", "-c", &line]).ok().filter(|answer| !answer.is_empty())
    });
    begun.elapsed()
}

/// What `kubectl campfire` says of an agent that is not there.
fn told(cluster: &Cluster, waits: &str, other: &str) {
    let programs = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let typed = |line: &str| {
        let printed = cluster.bash(&format!("kubectl campfire -n {RESTRICTED} {line} 2>&1 || true"), &[("PATH", &path)]).unwrap();
        println!("[{}] kubectl campfire {line}\n{printed}", cluster.name());
        printed
    };
    let checked = typed("check --short");
    assert!(checked.contains("node-agent-runs: ") && checked.contains("node-agent-pods: "), "{checked}");
    let why = typed(&format!("why {waits} {other}"));
    assert!(why.contains("the node's agent does not answer") && why.contains("no agent on node"), "{why}");
}

/// The node is restarted while the operator is away.
fn restarted(cluster: &Cluster) {
    println!("===== the node is restarted while the operator is away");
    let operator = "app.kubernetes.io/name=campfire-operator";
    cluster.kubectl(&["scale", "-n", SYSTEM, "deployment/campfire-operator", "--replicas=0"]);
    cluster.wait_for("no operator to be left", SYSTEM, Duration::from_mins(1), || {
        cluster.list(SYSTEM, "pods", operator).is_empty().then_some(())
    });
    cluster.restart_node();
    cluster.wait_for("the API server to be back", NAMESPACE, Duration::from_mins(2), || {
        cluster.try_kubectl(&["get", "--raw", "/readyz"]).ok()
    });
    let all = [(RESTRICTED, "web", 2), (RESTRICTED, "db", 1), (RESTRICTED, "any", 1), ("nodes-baseline", "plain", 1)];
    cluster.wait_for("the apps to run again, without an operator", RESTRICTED, Duration::from_mins(3), || {
        all.iter().all(|(namespace, app, count)| back(cluster, namespace, app, *count)).then_some(())
    });
    cluster.kubectl(&["scale", "-n", SYSTEM, "deployment/campfire-operator", "--replicas=2"]);
    cluster.wait_for("an operator to be ready", SYSTEM, Duration::from_mins(2), || {
        cluster.list(SYSTEM, "pods", operator).iter().any(is_ready).then_some(())
    });
    let begun = Instant::now();
    for (namespace, app, count) in all {
        cluster.members(namespace, app, count, AFTER_THE_OPERATOR.saturating_sub(begun.elapsed()));
    }
    println!("all were back {:.0} s after the operator", begun.elapsed().as_secs_f64());
    registered(cluster);
}

fn back(cluster: &Cluster, namespace: &str, app: &str, count: usize) -> bool {
    let selector = format!("app={app}");
    let Ok(text) = cluster.try_kubectl(&["get", "-n", namespace, "pods", "-l", &selector, "-o", "json"]) else { return false };
    let list: Value = serde_json::from_str(&text).unwrap_or_default();
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let restarted = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64() > Some(0);
    pods.len() == count && pods.iter().all(|pod| is_ready(pod) && restarted(pod))
}

/// The newest of the agent's release.
fn revision(cluster: &Cluster) -> String {
    let history: Value = serde_json::from_str(&cluster.helm(&["history", AGENT, "-n", AGENT, "-o", "json"])).unwrap();
    history.as_array().unwrap().last().unwrap()["revision"].to_string()
}

fn uninstall(cluster: &Cluster) {
    cluster.helm(&["uninstall", AGENT, "-n", AGENT, "--wait", "--timeout", "120s"]);
    cluster.kubectl(&["delete", "namespace", AGENT, "--timeout=60s"]);
}

/// It is not taken away from pods that could not end without it, and then wholly.
fn uninstalled(cluster: &Cluster) {
    println!("===== the agent is uninstalled");
    let refused = cluster.try_helm(&["uninstall", AGENT, "-n", AGENT, "--wait", "--timeout", "120s"]);
    assert!(refused.is_err(), "{refused:?}");
    let said = cluster.kubectl(&["logs", "-n", AGENT, "job/campfire-node-uninstall"]);
    assert!(said.contains("kubectl annotate csidriver") && said.contains(&format!("{RESTRICTED}/web-")), "{said}");
    // It is there as before, and says by whom it is needed.
    registered(cluster);

    // What it says to do: helm upgrades no release that it has begun to uninstall, but by way of a rollback.
    cluster.helm(&["rollback", AGENT, "-n", AGENT, &revision(cluster), "--wait", "--timeout", "120s"]);
    upgrade(cluster, &["--set", "podAnnotations.upgraded=again"]);
    let refused = cluster.try_helm(&["uninstall", AGENT, "-n", AGENT, "--wait", "--timeout", "120s"]);
    assert!(refused.is_err(), "{refused:?}");
    cluster.kubectl(&["annotate", "csidriver", DRIVER, "node.campfire.network/drain=true", "--overwrite"]);
    cluster.kubectl(&["rollout", "restart", "-n", RESTRICTED, "deployment/web"]);
    cluster.wait_for("pods without the sidecar, as there is no agent for them any more", RESTRICTED, Duration::from_mins(2), || {
        let pods = cluster.list(RESTRICTED, "pods", "app=web");
        (pods.len() == 2 && pods.iter().all(|pod| is_ready(pod) && pod["spec"]["initContainers"].is_null())).then_some(())
    });
    skipped(cluster, RESTRICTED);
    for namespace in [NAMESPACE, RESTRICTED, "nodes-baseline"] {
        cluster.kubectl(&["delete", "-n", namespace, "deployments,statefulsets", "--all", "--wait"]);
    }
    cluster.wait_for("no pod to have its volume", RESTRICTED, Duration::from_mins(1), || {
        (!cluster.kubectl(&["get", "pods", "-A", "-o", "yaml"]).contains(&format!("driver: {DRIVER}"))).then_some(())
    });
    uninstall(cluster);
    assert!(cluster.get("", "csidriver", DRIVER).is_none(), "the CSIDriver is left");
    cluster.wait_for("the kubelet to know the driver no more", NAMESPACE, Duration::from_mins(1), || {
        let nodes = cluster.try_kubectl(&["get", "csinodes", "-o", "jsonpath={.items[*].spec.drivers[*].name}"]).ok()?;
        (!nodes.contains(DRIVER)).then_some(())
    });
    let left = cluster.on_node(&format!(
        "find /var/lib/kubelet/plugins/{DRIVER} -mindepth 1; ls -d /var/lib/kubelet/plugins_registry/*campfire* 2>/dev/null; find /var/lib/kubelet/pods -name node.sock; true"
    ));
    assert!(left.trim().is_empty(), "on the node: {left}");
    let pods = cluster.kubectl(&[
        "get",
        "pods",
        "-A",
        "-o",
        "jsonpath={range .items[?(@.metadata.deletionTimestamp)]}{.metadata.namespace}/{.metadata.name} {end}",
    ]);
    assert!(!pods.contains("nodes"), "pods that do not end: {pods}");
}
