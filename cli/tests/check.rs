//! `check` and `dump` against worlds that are whole, and worlds that are broken in one way each.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod fake;

use fake::{Answer, Api, Asked, list, refused};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// What stands in Secrets, logs and other people's containers, and may be in no output.
const SECRET: &str = "aHVudGVyMg-the-key-of-the-mesh";

#[test]
fn a_whole_world_is_well_in_one_line() {
    let api = Api::new(whole);
    let (code, output, errors) = api.run(&["check", "--short"]);
    let output = String::from_utf8(output).unwrap();
    assert_eq!((code, errors.as_str()), (0, ""), "{output}");
    assert!(output.starts_with("all is well: ") && output.lines().count() == 1, "{output}");
    let long = api.well(&["check"]);
    for line in [
        "Cluster\nok   cluster-version: Kubernetes v1.33.1\n",
        "ok   operator-leader: campfire-operator-1 leads\n",
        "Node agent\nok   node-agent-installed: it is not installed, and nobody needs it here\n",
        "ok   operator-webhook: a new pod in namespace default gets a sidecar\n",
        "ok   fire-servers: default/main: server oak, from hello-a: camped by UDP, 4.0 ms, which sees 198.51.100.1:4000\n",
        "ok   member-ready: 2 pods at the fire and ready\n",
        "ok   path-full: hello-a to hello-b: 0.8 ms, direct at 192.0.2.2:4000\n",
    ] {
        assert!(long.contains(line), "no {line:?} in:\n{long}");
    }
    let dry = api.asked().into_iter().filter(|asked| asked.method == "POST" && asked.path.ends_with("/pods")).collect::<Vec<_>>();
    assert!(!dry.is_empty() && dry.iter().all(|asked| asked.query.contains("dryRun=All")), "pods are made in dry runs alone");
    let allowed = ["/pods", "/selfsubjectaccessreviews"];
    let written = api.asked().into_iter().filter(|asked| asked.method != "GET").collect::<Vec<_>>();
    assert!(written.iter().all(|asked| allowed.iter().any(|end| asked.path.ends_with(end))), "{written:?}");
    assert!(api.asked().iter().all(|asked| !asked.path.contains("/secrets")), "no Secret is read");
}

#[test]
fn a_node_agent_that_is_as_it_should_be_is_well() {
    let text = Api::new(with_agent).well(&["check"]);
    for line in [
        "ok   cluster-podsecurity: where a PodSecurity level refuses the init container the node agent makes the interface\n",
        "Node agent\nok   node-agent-installed: it is installed in namespace campfire-node\n",
        "ok   node-agent-runs: it is ready and registered on 1 node\n",
        "ok   node-agent-key: it knows the key of the operator's grants\n",
        "ok   node-agent-pods: none of 2 pods waits for it\n",
    ] {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
    // Who may not look at nodes, and has no pod of the agent's, is not bothered.
    let api = Api::new(
        |context, asked| {
            if asked.path.contains("/csidrivers/") { refused(403, "Forbidden", "no") } else { whole(context, asked) }
        },
    );
    assert!(api.well(&["check"]).contains("ok   node-agent-installed: nobody needs it here"));
}

#[test]
fn each_broken_world_is_told_with_what_to_do() {
    for (id, line, exit, world) in [broken_clusters(), wrong_clocks(), broken_agents(), broken_fires(), broken_servers()].concat() {
        let api = Api::new(world);
        let (code, output, errors) = api.run(&["check", "--short"]);
        let output = String::from_utf8(output).unwrap();
        assert_eq!((code, errors.as_str()), (exit, ""), "{id}:\n{output}");
        assert!(output.contains(line), "{id}: no {line:?} in:\n{output}");
        assert!(output.contains(&format!("docs/cli.md#{id}\n")), "{id}: no link in:\n{output}");
        let json: Value = serde_json::from_slice(&api.run(&["check", "-o", "json"]).1).unwrap();
        let named = json["checks"].as_array().unwrap().iter().any(|check| check["id"] == id && check["result"] != "ok");
        assert!(named, "{id}: {json:#}");
    }
}

/// Two namespaces with a Campfire each; what becomes of a pod in `default`, and whether one in `other` gets a sidecar.
fn two_namespaces(asked: &Asked, first: Answer, other: bool) -> Answer {
    match asked.path.as_str() {
        "/api/v1/namespaces" => {
            list(&[json!({ "metadata": { "name": "default", "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } })])
        }
        "/apis/campfire.network/v1alpha1/campfires" => {
            let mut there = campfire("berlin");
            there["metadata"]["namespace"] = json!("other");
            list(&[campfire("berlin"), there])
        }
        "/api/v1/namespaces/default/pods" if asked.method == "POST" => first,
        "/api/v1/namespaces/other/pods" => {
            assert!(asked.method == "POST" && asked.query.contains("dryRun=All"), "{asked:?}");
            let mut pod = asked.body.clone();
            if other {
                pod["spec"]["initContainers"] = json!([{ "name": "campfire" }]);
            }
            Answer::Json(201, pod)
        }
        _ => whole("berlin", asked),
    }
}

#[test]
fn where_admission_is_against_sidecars_the_webhook_is_tried_elsewhere_and_not_taken_for_broken() {
    let forbids = "campfire: no sidecar (PodSecurityForbids): namespace default enforces the Pod Security Standard \"restricted\"";
    let line = "operator-webhook: it cannot be tried in namespace default: the webhook is asked, and gives no pod a sidecar there: \
                PodSecurityForbids: namespace default enforces the Pod Security Standard \"restricted\"\n";
    let api = Api::new(move |_, asked| two_namespaces(asked, Answer::Warned(asked.body.clone(), forbids.into()), false));
    let (code, output, _) = api.run(&["check", "--short"]);
    let text = String::from_utf8(output).unwrap();
    assert!(code == 1 && text.contains(&format!("??   {line}")), "{text}");
    assert!(text.contains("warn cluster-podsecurity: namespace default enforces PodSecurity restricted\n"), "the cause: {text}");

    let api = Api::new(move |_, asked| two_namespaces(asked, Answer::Warned(asked.body.clone(), forbids.into()), true));
    let (code, output, _) = api.run(&["check"]);
    let text = String::from_utf8(output).unwrap();
    let line = "ok   operator-webhook: a new pod in namespace other gets a sidecar; none does in namespace default: the webhook is asked";
    assert!(code == 1 && text.contains(line), "{text}");

    // A policy that is against the pod itself, which is none of ours.
    let denied = || refused(422, "Invalid", "ValidatingAdmissionPolicy 'registries' denied request: not an image of ours");
    let api = Api::new(move |_, asked| two_namespaces(asked, denied(), false));
    let (code, output, _) = api.run(&["check"]);
    let text = String::from_utf8(output).unwrap();
    let line = "??   operator-webhook: it cannot be tried in namespace default: a new pod is refused there, also without a sidecar: \
                ValidatingAdmissionPolicy 'registries' denied request";
    assert!(code == 1 && text.contains(line), "{text}");
}

#[test]
fn what_parts_two_clusters_is_told() {
    let api = Api::new(whole);
    let both = ["--context", "berlin", "--context", "paris", "check"];
    let text = api.well(&both);
    assert!(text.contains("Keys (all contexts)\nok   key-same: default/main in berlin, default/main in paris use one key\n"), "{text}");
    assert!(text.contains("ok   name-unique: each cluster has a name of its own\n"), "{text}");
    let api = Api::new(|context, asked| {
        let parted = context == "paris" && asked.path.ends_with("/campfires");
        let mut campfire = campfire(context);
        campfire["status"]["keyFingerprint"] = json!("ffff000011112222");
        if parted { list(&[campfire]) } else { whole("berlin", asked) }
    });
    let (code, output, _) = api.run(&both);
    let text = String::from_utf8(output).unwrap();
    assert_eq!(code, 2);
    assert!(text.contains("FAIL key-same: different keys are used at one fire: 0c92726f408e3ae0 by default/main in berlin, ffff000011112222 by default/main in paris"), "{text}");
    assert!(text.contains("warn name-unique: default/main in berlin and default/main in paris are all called berlin"), "{text}");
}

#[test]
fn before_it_is_installed_nothing_of_it_is_needed() {
    let api = Api::new(|context, asked| {
        let absent = asked.path.starts_with("/openapi") || asked.path.contains("campfire.network");
        if absent { refused(404, "NotFound", "not found") } else { whole(context, asked) }
    });
    let text = api.well(&["check", "--pre"]);
    assert!(text.contains("ok   install-absent: not installed yet\nok   install-rights: ") && !text.contains("operator"), "{text}");
    assert_eq!(api.run(&["check", "--short"]).0, 2, "and without --pre it is missed");
}

#[test]
fn a_dump_has_what_a_report_needs_and_no_secret() {
    let api = Api::new(whole);
    let dump = api.well(&["dump"]);
    for part in [
        "===== berlin status\n",
        "===== berlin campfires\n",
        "===== berlin campfire status --json in default/hello-a\n",
        "===== berlin log of default/hello-a campfire\n",
        "joined by camp://01/oak#(left out)",
    ] {
        assert!(dump.contains(part), "no {part:?} in:\n{dump}");
    }
    assert!(!dump.contains(SECRET), "{dump}");
    assert!(
        api.asked().iter().all(|asked| !asked.path.contains("/secrets") && asked.method == "GET"),
        "no Secret is read, and nothing is written"
    );
}

/// Check, what it says, the exit code, and the world.
type Broken = (&'static str, &'static str, i32, fn(&str, &Asked) -> Answer);

fn broken_clusters() -> Vec<Broken> {
    vec![
        (
            "cluster-definitions",
            "FAIL cluster-definitions: the definitions are older than this plugin: they do not know Campfire.spec.join",
            2,
            |context, asked| {
                if asked.path.starts_with("/openapi") {
                    let mut schema = definitions();
                    schema["components"]["schemas"]["network.campfire.Campfire"]["properties"]["spec"]["properties"]
                        .as_object_mut()
                        .unwrap()
                        .remove("join");
                    return Answer::Json(200, schema);
                }
                whole(context, asked)
            },
        ),
        ("cluster-definitions", "FAIL cluster-definitions: there are no Campfires", 2, |context, asked| {
            if asked.path.starts_with("/openapi") { refused(404, "NotFound", "not found") } else { whole(context, asked) }
        }),
        (
            "cluster-rights",
            "warn cluster-rights: you may not in namespace default of context berlin: create pods/exec",
            1,
            |context, asked| {
                let exec = asked.body.pointer("/spec/resourceAttributes/subresource") == Some(&json!("exec"));
                if exec { Answer::Json(201, json!({ "spec": {}, "status": { "allowed": false } })) } else { without_exec(context, asked) }
            },
        ),
        ("cluster-podsecurity", "warn cluster-podsecurity: namespace default enforces PodSecurity restricted", 1, |context, asked| {
            if asked.path == "/api/v1/namespaces" {
                return list(&[
                    json!({ "metadata": { "name": "default", "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } }),
                ]);
            }
            whole(context, asked)
        }),
        (
            "operator-ready",
            "FAIL operator-ready: 0 of 2 pods of Deployment campfire-system/campfire-operator are ready",
            2,
            |context, asked| {
                if asked.path.ends_with("/deployments") { list(&[deployment(0)]) } else { whole(context, asked) }
            },
        ),
    ]
}

fn wrong_clocks() -> Vec<Broken> {
    vec![
        // That of the API server and of all who agree with it, or this machine's: nobody can tell.
        ("cluster-clock", "warn cluster-clock: the API server's clock is 720", 1, |context, asked| match asked.path.as_str() {
            "/version" => Answer::Dated(7_205, json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.1" })),
            path if path.ends_with("/leases/campfire-operator") => Answer::Json(200, lease(-7_204, Some(-7_204))),
            path if path.ends_with("/exec") && asked.command()[1] == "status" => {
                Answer::Ran(report(7_205).to_string(), String::new(), true)
            }
            _ => whole(context, asked),
        }),
        (
            "cluster-clock",
            "warn cluster-clock: the clock of the operator (campfire-operator-1) is 600 s behind the API server's",
            1,
            |context, asked| {
                let renewed = asked.path.ends_with("/leases/campfire-operator");
                if renewed { Answer::Json(200, lease(601, Some(1))) } else { whole(context, asked) }
            },
        ),
        ("cluster-clock", "warn cluster-clock: the clock of node worker is 3600 s ahead of the API server's", 1, |context, asked| {
            if !asked.path.ends_with("/kube-node-lease/leases") {
                return whole(context, asked);
            }
            let mut node = lease(-3_590, Some(10));
            node["metadata"]["name"] = json!("worker");
            list(&[node])
        }),
        ("cluster-clock", "warn cluster-clock: the clock of pod default/hello-a is ", 1, |context, asked| {
            let status = asked.command().get(1).is_some_and(|word| word == "status");
            if status { Answer::Ran(report(-600).to_string(), String::new(), true) } else { whole(context, asked) }
        }),
    ]
}

fn broken_agents() -> Vec<Broken> {
    vec![
        (
            "node-agent-installed",
            "FAIL node-agent-installed: it is not installed, and is needed by 2 pods that it made the interface of",
            2,
            |context, asked| {
                let driver = asked.path.ends_with("/csidrivers/node.campfire.network");
                if driver { refused(404, "NotFound", "not found") } else { with_agent(context, asked) }
            },
        ),
        (
            "node-agent-installed",
            "warn node-agent-installed: it is to be uninstalled (drain), and is needed by 2 pods",
            1,
            |context, asked| {
                if !asked.path.ends_with("/csidrivers/node.campfire.network") {
                    return with_agent(context, asked);
                }
                let mut driver = driver();
                driver["metadata"]["annotations"]["node.campfire.network/drain"] = json!("true");
                Answer::Json(200, driver)
            },
        ),
        ("node-agent-runs", "FAIL node-agent-runs: it is ready on 0 of 1 node (not on worker)", 2, |context, asked| {
            let agents = asked.path.contains("/campfire-node/pods");
            if agents { list(&[agent("False")]) } else { with_agent(context, asked) }
        }),
        (
            "node-agent-pods",
            "FAIL node-agent-pods: default/hello-a, default/hello-b: its interface is made by the node agent, and there is no agent on node worker; what was made goes on",
            2,
            |context, asked| if asked.path.contains("/campfire-node/pods") { list(&[]) } else { with_agent(context, asked) },
        ),
        (
            "node-agent-runs",
            "FAIL node-agent-runs: it runs, and the kubelet has not registered its driver, on worker",
            2,
            |context, asked| if asked.path.ends_with("/csinodes") { list(&[]) } else { with_agent(context, asked) },
        ),
        (
            "node-agent-key",
            "FAIL node-agent-key: the operator has written no key into ConfigMap campfire-node/campfire-node",
            2,
            |context, asked| {
                let map = asked.path.ends_with("/configmaps/campfire-node");
                if map { Answer::Json(200, json!({ "metadata": { "name": "campfire-node" } })) } else { with_agent(context, asked) }
            },
        ),
        (
            "node-agent-pods",
            "FAIL node-agent-pods: default/hello-b: the sidecar waits for its interface: the node's agent refuses: BadSignature: the grant",
            2,
            |context, asked| match asked.path.as_str() {
                path if path.ends_with("/pods") && asked.query.contains("injected") => {
                    let mut waits = of_agent("hello-b");
                    waits["status"]["conditions"][0]["status"] = json!("False");
                    list(&[of_agent("hello-a"), waits])
                }
                path if path.ends_with("/hello-b/exec") => {
                    let said = "campfire: the sidecar waits for its interface: the node's agent refuses: BadSignature: the grant\n";
                    Answer::Ran(String::new(), said.into(), false)
                }
                _ => with_agent(context, asked),
            },
        ),
    ]
}

/// All is well, and a node's agent made the interfaces.
fn with_agent(context: &str, asked: &Asked) -> Answer {
    match asked.path.as_str() {
        path if path.ends_with("/csidrivers/node.campfire.network") => Answer::Json(200, driver()),
        path if path.ends_with("/csinodes") => list(&[
            json!({ "metadata": { "name": "worker" }, "spec": { "drivers": [{ "name": "node.campfire.network", "nodeID": "worker" }] } }),
        ]),
        path if path.ends_with("/campfire-node/daemonsets") => list(&[json!({
            "metadata": { "name": "campfire-node", "namespace": "campfire-node" },
            "status": { "desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": 1 },
        })]),
        path if path.ends_with("/campfire-node/pods") => list(&[agent("True")]),
        path if path.ends_with("/configmaps/campfire-node") => {
            Answer::Json(200, json!({ "metadata": { "name": "campfire-node" }, "data": { "public-key": "00" } }))
        }
        path if path.ends_with("/pods") && asked.query.contains("injected") => list(&[of_agent("hello-a"), of_agent("hello-b")]),
        _ => whole(context, asked),
    }
}

fn driver() -> Value {
    json!({ "metadata": { "name": "node.campfire.network", "annotations": { "node.campfire.network/namespace": "campfire-node" } }, "spec": {} })
}

/// The agent's own pod.
fn agent(ready: &str) -> Value {
    json!({
        "metadata": { "name": "campfire-node-x", "namespace": "campfire-node" }, "spec": { "nodeName": "worker", "containers": [] },
        "status": { "conditions": [{ "type": "Ready", "status": ready }] },
    })
}

/// A pod whose interface the agent made.
fn of_agent(name: &str) -> Value {
    let mut pod = pod(name);
    pod["metadata"]["annotations"]["campfire.network/mode"] = json!("Node");
    pod["spec"]["nodeName"] = json!("worker");
    pod["status"]["initContainerStatuses"] =
        json!([{ "name": "campfire", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} } }]);
    pod
}

fn broken_fires() -> Vec<Broken> {
    vec![
        ("operator-leader", "FAIL operator-leader: nobody leads: campfire-operator-1 renewed its Lease 3", 2, |context, asked| {
            if asked.path.ends_with("/leases/campfire-operator") { Answer::Json(200, lease(300, None)) } else { whole(context, asked) }
        }),
        (
            "operator-webhook",
            "FAIL operator-webhook: a new pod in namespace default gets no sidecar: the API server does not reach the webhook",
            2,
            |context, asked| {
                if asked.method == "POST" && asked.path.ends_with("/pods") {
                    Answer::Json(201, asked.body.clone())
                } else {
                    whole(context, asked)
                }
            },
        ),
        (
            "operator-webhook",
            "FAIL operator-webhook: a new pod in namespace default gets no sidecar: NoCampfire: no Campfire admits namespace default",
            2,
            |context, asked| {
                if asked.method == "POST" && asked.path.ends_with("/pods") {
                    let warning = "campfire: no sidecar (NoCampfire): no Campfire admits namespace default";
                    Answer::Warned(asked.body.clone(), warning.into())
                } else {
                    whole(context, asked)
                }
            },
        ),
        (
            "operator-webhook",
            "FAIL operator-webhook: a new pod in namespace default is refused once it has a sidecar: NET_ADMIN is forbidden",
            2,
            |context, asked| {
                let asks = asked.body["metadata"]["labels"]["campfire.network/inject"] == "enabled";
                if asks { refused(403, "Forbidden", "NET_ADMIN is forbidden") } else { whole(context, asked) }
            },
        ),
        ("fire-conditions", "FAIL fire-conditions: default/main: TurnNotReady: no server is ready", 2, |context, asked| {
            if !asked.path.ends_with("/campfires") {
                return whole(context, asked);
            }
            let mut campfire = campfire(context);
            campfire["status"]["conditions"] = json!([condition("Ready", "False", "TurnNotReady", "no server is ready")]);
            list(&[campfire])
        }),
        ("fire-conditions", "FAIL fire-conditions: default/main: NoEndpoints: the Services have no address yet", 2, |context, asked| {
            if !asked.path.ends_with("/campfires") {
                return whole(context, asked);
            }
            let mut campfire = campfire(context);
            campfire["status"]["conditions"] = json!([condition("Ready", "False", "NoEndpoints", "the Services have no address yet")]);
            list(&[campfire])
        }),
        ("member-missed", "warn member-missed: default/main: 3 pods without the sidecar that they should have", 1, |context, asked| {
            if !asked.path.ends_with("/campfires") {
                return whole(context, asked);
            }
            let mut campfire = campfire(context);
            campfire["status"]["missedPods"] = json!(3);
            list(&[campfire])
        }),
        ("path-full", "FAIL path-full: hello-a to hello-b: small packets come through, full-size ones do not", 2, |context, asked| {
            if asked.command().last().is_some_and(|word| word == "--full") {
                let lost = "PING\n1: no answer\n2: no answer\n3: no answer\n3 sent, 0 answered, 100% lost\n";
                return Answer::Ran(lost.into(), "campfire: hello-b does not answer".into(), false);
            }
            whole(context, asked)
        }),
    ]
}

fn broken_servers() -> Vec<Broken> {
    vec![
        (
            "fire-servers",
            "warn fire-servers: default/main: server oak, from hello-a: camped by TCP, 4.0 ms: no UDP gets there",
            1,
            |context, asked| match asked.command().get(1).map(String::as_str) {
                Some("status") => {
                    let mut report = report(0);
                    report["servers"][0]["transport"] = json!("tcp");
                    Answer::Ran(report.to_string(), String::new(), true)
                }
                Some("netcheck") => Answer::Ran(tried(Some("no answer within 3 s")).to_string(), String::new(), true),
                _ => whole(context, asked),
            },
        ),
        (
            "fire-servers",
            "FAIL fire-servers: default/main: server oak, from hello-a: not reached: no answer (tried now: by UDP no answer within 3 s, by TCP it answers)",
            2,
            |context, asked| match asked.command().get(1).map(String::as_str) {
                Some("status") => {
                    let mut report = report(0);
                    report["servers"][0] = json!({ "id": "oak", "state": "Lost", "problem": "no answer" });
                    Answer::Ran(report.to_string(), String::new(), true)
                }
                Some("netcheck") => Answer::Ran(tried(Some("no answer within 3 s")).to_string(), String::new(), true),
                _ => whole(context, asked),
            },
        ),
        (
            "fire-full",
            "FAIL fire-full: server oak: the server is full (508 Room Full): raise --max-members-per-room (of a Campfire: spec.turn.limits.membersPerRoom) (it turns default/hello-c away)",
            2,
            |context, asked| match asked.path.as_str() {
                path if path.ends_with("/meshpeers") => {
                    let mut away = peer(context, "hello-c");
                    away["status"]["conditions"] = json!([condition("Ready", "False", "FireUnreachable", "oak: the server is full")]);
                    list(&[peer(context, "hello-a"), peer(context, "hello-b"), away])
                }
                path if path.ends_with("/pods") && asked.query.contains("injected") => {
                    list(&[pod("hello-a"), pod("hello-b"), pod("hello-c")])
                }
                path if path.ends_with("/hello-c/exec") => {
                    let mut report = report(0);
                    let problem =
                        "the server is full (508 Room Full): raise --max-members-per-room (of a Campfire: spec.turn.limits.membersPerRoom)";
                    report["servers"][0] = json!({ "id": "oak", "state": "Connecting", "problem": problem, "limit": "Members" });
                    Answer::Ran(report.to_string(), String::new(), true)
                }
                _ => whole(context, asked),
            },
        ),
    ]
}

/// A world in which nobody may run commands in pods.
fn without_exec(context: &str, asked: &Asked) -> Answer {
    if asked.path.ends_with("/exec") { refused(403, "Forbidden", "no") } else { whole(context, asked) }
}

/// All is well.
fn whole(context: &str, asked: &Asked) -> Answer {
    let rest = asked.path.replace("/namespaces/default/", "/");
    match rest.as_str() {
        "/version" => Answer::Json(200, json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.1" })),
        "/openapi/v3/apis/campfire.network/v1alpha1" => Answer::Json(200, definitions()),
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => Answer::Json(201, json!({ "spec": {}, "status": { "allowed": true } })),
        "/api/v1/namespaces/default" => Answer::Json(200, json!({ "metadata": { "name": "default" } })),
        "/apis/apps/v1/deployments" => list(&[deployment(2)]),
        "/apis/coordination.k8s.io/v1/namespaces/campfire-system/leases/campfire-operator" => Answer::Json(200, lease(1, Some(1))),
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases" => list(&[lease(5, Some(5)), lease(1, None)]),
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/campfire-injection" => Answer::Json(200, webhooks()),
        "/apis/campfire.network/v1alpha1/campfires" => list(&[campfire(context)]),
        "/apis/campfire.network/v1alpha1/meshpeers" => list(&[peer(context, "hello-a"), peer(context, "hello-b")]),
        "/api/v1/pods" if asked.method == "POST" => {
            let mut pod = asked.body.clone();
            pod["spec"]["initContainers"] = json!([{ "name": "campfire-init" }, { "name": "campfire" }]);
            Answer::Json(201, pod)
        }
        "/api/v1/pods" if asked.query.contains("injected") => list(&[pod("hello-a"), pod("hello-b")]),
        "/api/v1/namespaces" | "/api/v1/pods" | "/api/v1/events" | "/api/v1/services" | "/apis/apps/v1/statefulsets" => list(&[]),
        path if path.ends_with("/log") => Answer::Json(200, json!(format!("joined by camp://01/oak#{SECRET}"))),
        path if path.ends_with("/exec") => exec(&asked.command()),
        path if path.starts_with("/api/v1/pods/") => Answer::Json(200, pod(path.rsplit('/').next().unwrap())),
        other => refused(404, "NotFound", &format!("not in this world: {other}")),
    }
}

fn exec(command: &[String]) -> Answer {
    match command.get(1).map(String::as_str) {
        Some("status") => Answer::Ran(report(0).to_string(), String::new(), true),
        Some("netcheck") => Answer::Ran(tried(None).to_string(), String::new(), true),
        Some("ping") => Answer::Ran("PING\n1: 0.8 ms, direct at 192.0.2.2:4000\n1 sent, 1 answered, 0% lost\n".into(), String::new(), true),
        other => Answer::Ran(String::new(), format!("unexpected: {other:?}"), false),
    }
}

/// What a sidecar says whose clock shows so many seconds more.
fn report(ahead: i64) -> Value {
    let shown = Timestamp::now().as_millisecond() + ahead * 1_000;
    let server = json!({ "id": "oak", "state": "Camped", "transport": "udp", "rtt_ms": 4.0, "observed": "198.51.100.1:4000" });
    json!({ "version": "0.1.0", "unix_ms": shown, "self": { "name": "hello-a", "public_key": "a" }, "servers": [server], "peers": [] })
}

/// What a sidecar finds of the server that there is, by UDP and TCP.
fn tried(by_udp: Option<&str>) -> Value {
    let udp = json!({ "transport": "udp", "address": "198.51.100.10:3478", "rtt_ms": 4.0, "problem": by_udp });
    let tcp = json!({ "transport": "tcp", "address": "198.51.100.10:3478", "rtt_ms": 5.0 });
    json!({ "servers": [{ "id": "oak", "by": [udp, tcp] }], "left_out": 0 })
}

/// Those of this version, as an API server describes them.
fn definitions() -> Value {
    let mut schemas = json!({});
    for definition in campfire_api::definitions() {
        let value = serde_json::to_value(&definition).unwrap();
        let kind = value["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        schemas[format!("network.campfire.{kind}")] = value.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone();
    }
    json!({ "components": { "schemas": schemas } })
}

fn deployment(ready: i32) -> Value {
    json!({
        "metadata": { "name": "campfire-operator", "namespace": "campfire-system" },
        "spec": { "replicas": 2, "selector": {}, "template": {} }, "status": { "readyReplicas": ready },
    })
}

/// Renewed so long ago by its holder's clock, and by the API server's, in seconds.
fn lease(seconds_ago: i64, written: Option<i64>) -> Value {
    let now = Timestamp::now().as_second();
    let at = |ago: i64, digits: &str| format!("{}{digits}Z", Timestamp::from_second(now - ago).unwrap().strftime("%Y-%m-%dT%H:%M:%S"));
    let fields: Vec<Value> = written.iter().map(|ago| json!({ "manager": "x", "operation": "Update", "time": at(*ago, "") })).collect();
    json!({
        "metadata": { "name": "campfire-operator", "managedFields": fields },
        "spec": { "holderIdentity": "campfire-operator-1", "leaseDurationSeconds": 15, "renewTime": at(seconds_ago, ".000000") },
    })
}

fn webhooks() -> Value {
    use base64::Engine as _;
    let authority = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    let bundle = base64::engine::general_purpose::STANDARD.encode(authority);
    let hook = |name: &str| json!({ "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "NoneOnDryRun", "clientConfig": { "caBundle": bundle } });
    json!({ "metadata": { "name": "campfire-injection" }, "webhooks": [hook("pod.inject.campfire.network"), hook("namespace.inject.campfire.network")] })
}

fn campfire(context: &str) -> Value {
    json!({
        "metadata": { "name": "main", "namespace": "default", "generation": 1 },
        "spec": { "clusterName": context, "turn": { "exposure": { "type": "NodePort" } } },
        "status": {
            "turn": "1/1", "peers": 2, "prefix": "fd01:203:405::/48", "keyFingerprint": "0c92726f408e3ae0", "observedGeneration": 1,
            "conditions": [condition("Ready", "True", "Ready", "2 peers at the fire")],
        },
    })
}

fn peer(context: &str, name: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "type": "Pod", "campfireRef": { "name": "main" }, "podRef": { "name": name, "uid": "1" } },
        "status": { "path": "Direct", "clusterName": context, "addresses": ["fd00::1"], "conditions": [condition("Ready", "True", "Ready", "the peer can be used")] },
    })
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "default", "labels": { "campfire.network/injected": "enabled" },
            "annotations": { "campfire.network/campfire": "default/main", "note": SECRET },
        },
        "spec": {
            "containers": [{ "name": "app", "image": "app", "env": [{ "name": "PASSWORD", "value": SECRET }] }],
            "initContainers": [{ "name": "campfire", "image": "localhost/campfire:0.1.0" }],
        },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-27T08:00:00Z" })
}
