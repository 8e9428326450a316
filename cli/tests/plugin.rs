//! The plugin as kubectl runs it, against an API server that is a function of the test.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod fake;

use fake::{Answer, Api, Asked, list, refused};
use serde_json::{Value, json};

/// What no output may hold.
const URI: &str = "camp://0123456789/oak?turn=192.0.2.1#c2VjcmV0IHNlY3JldA";
/// The same as a Secret holds it.
const ENCODED: &str = "Y2FtcDovLzAxMjM0NTY3ODkvb2FrP3R1cm49MTkyLjAuMi4xI2MyVmpjbVYwSUhObFkzSmxkQQ==";

#[test]
fn status_and_peers_show_what_stands_in_the_objects() {
    let api = Api::new(world);
    let status = api.well(&["status"]);
    assert!(status.starts_with("CAMPFIRE       READY   SERVERS   PEERS"), "{status}");
    assert!(status.contains("default/main   True    1/1       2       berlin 2"), "{status}");
    assert!(status.contains("default/main: 2 pods here: 2 direct\n"), "{status}");
    let peers = api.well(&["peers", "-A"]);
    assert!(peers.contains("default/hello-a   pod        main       berlin    fd00::a    direct   True"), "{peers}");
    assert!(api.asked().iter().any(|asked| asked.path == "/apis/campfire.network/v1alpha1/meshpeers"), "-A asks for all namespaces");
    let both = api.well(&["status", "--context", "berlin", "--context", "paris"]);
    assert!(
        both.starts_with("Context berlin\nCAMPFIRE") && both.contains("\nContext paris\nno Campfire in namespace default of context paris"),
        "{both}"
    );
    assert!(!both.contains(URI));
}

#[test]
fn why_and_ping_ask_the_first_pods_sidecar_for_the_seconds_address() {
    let api = Api::new(world);
    assert_eq!(api.well(&["why", "hello", "hello"]), "As hello-a sees it:\nhello-b (fd00::b) is connected directly.\n");
    assert_eq!(
        api.well(&["ping", "hello-b", "hello-a", "-c", "2", "-i", "0.1", "--full"]),
        "from hello-b\n1: 0.8 ms, direct at 192.0.2.2:4000\n2 sent, 1 answered, 50% lost\n"
    );
    let commands: Vec<(String, Vec<String>)> =
        api.asked().iter().filter(|asked| asked.path.ends_with("/exec")).map(|asked| (asked.path.clone(), asked.command())).collect();
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        commands,
        [
            ("/api/v1/namespaces/default/pods/hello-a/exec".to_owned(), words("campfire why fd00::b")),
            ("/api/v1/namespaces/default/pods/hello-b/exec".to_owned(), words("campfire ping fd00::a --count 2 --interval 0.1 --full")),
        ]
    );
    assert!(api.asked().iter().filter(|asked| asked.path.ends_with("/exec")).all(|asked| asked.query.contains("container=campfire")));
    // Across clusters: the first is asked for the address that the last knows.
    api.well(&["--context", "berlin", "--context", "paris", "why", "hello", "shop"]);
    assert_eq!(api.asked().last().unwrap().command(), words("campfire why fd00::c"));
    // A machine outside, by the name of its object; and whoever the sidecar alone knows.
    api.well(&["why", "hello", "laptop"]);
    assert_eq!(api.asked().last().unwrap().command(), words("campfire why fd00::1a"));
    let error = api.fails(&["why", "hello", "nobody"]);
    assert_eq!(error, "kubectl campfire: hello-a: no peer is called nobody\n");
    assert!(api.fails(&["ping", "hello-a", "hello-a"]).contains("both are hello-a"));
}

#[test]
fn a_pods_sidecar_tries_its_servers_and_all_that_was_found_is_shown_even_if_one_pod_reaches_none() {
    let api = Api::new(world);
    assert_eq!(api.well(&["netcheck"]), "default/hello-b, at default/main\n  UDP gets out:    yes?[31m\n", "one of each Campfire");
    assert!(api.well(&["netcheck", "hello-a"]).starts_with("default/hello-a, at default/main\n"));
    let found: Value = serde_json::from_str(&api.well(&["netcheck", "-o", "json"])).unwrap();
    assert_eq!((&found[0]["pod"], &found[0]["netcheck"]["servers"]), (&json!("hello-b"), &json!([])));
    let (code, output, errors) = api.run(&["--context", "berlin", "--context", "paris", "netcheck"]);
    let output = String::from_utf8(output).unwrap();
    assert!(
        output.contains("hello-b (berlin)") && output.contains("\ndefault/shop-c (paris), at default/main\n  UDP gets out:    not known\n"),
        "{output}"
    );
    assert_eq!((code, errors.as_str()), (1, "kubectl campfire: shop-c: no server answers, by whatever transport\n"));
    assert!(api.fails(&["netcheck", "nobody"]).contains("is called nobody"));
}

#[test]
fn a_graph_is_drawn_of_what_all_sidecars_say() {
    let api = Api::new(world);
    let svg = api.well(&["graph"]);
    assert!(svg.starts_with("<svg ") && svg.contains(">hello-a.default</text>") && svg.contains("direct: 1 pair"), "{svg}");
    let dot = api.well(&["graph", "-o", "dot"]);
    assert_eq!(dot.matches(" -- ").count(), 1, "{dot}");
    let (code, png, errors) = api.run(&["graph", "-o", "png"]);
    assert!(code == 0 && png.starts_with(b"\x89PNG"), "{errors}");
}

#[test]
fn joining_carries_the_secret_and_shows_it_to_nobody() {
    let api = Api::new(world);
    let (code, output, errors) = api.run(&["--context", "berlin", "join", "paris", "--timeout", "0"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(errors, "paris: Secret main-uri and Campfire main made\n");
    assert!(output.is_empty());
    let written: Vec<Asked> = api.asked().into_iter().filter(|asked| asked.method == "PATCH").collect();
    assert_eq!(written.len(), 2);
    assert_eq!(
        (written[0].path.as_str(), written[0].body["data"]["uri"].as_str().unwrap()),
        ("/api/v1/namespaces/default/secrets/main-uri", ENCODED)
    );
    assert_eq!(written[1].body["spec"], json!({ "join": { "secretRef": { "name": "main-uri" } } }));
    assert!(api.fails(&["join", "berlin"]).contains("berlin is the cluster that is joined"));
    assert!(api.fails(&["join", "oslo"]).contains("the kubeconfig has no context oslo; it has: berlin, paris"));
    // What an API server quotes of what it refuses is shown neither.
    let api = Api::new(|context, asked| match (asked.method.as_str(), context) {
        ("PATCH", "paris") => refused(422, "Invalid", &format!("data.uri: Invalid value: {}", asked.body["data"]["uri"])),
        _ => world(context, asked),
    });
    let errors = api.fails(&["join", "paris"]);
    assert!(errors.contains("the Secret was not taken") && !errors.contains(ENCODED) && !errors.contains(URI), "{errors}");
}

#[test]
fn what_cannot_be_done_is_said_with_the_right_that_is_missing() {
    let api = Api::new(|context, asked| match asked.path.as_str() {
        path if path.ends_with("/exec") => refused(403, "Forbidden", "no"),
        path if path.ends_with("/campfires") => refused(403, "Forbidden", "campfires is forbidden: User \"eve\""),
        path if path.ends_with("/meshpeers") && context == "paris" => {
            refused(404, "NotFound", "the server could not find the requested resource")
        }
        _ => world(context, asked),
    });
    let error = api.fails(&["status"]);
    assert!(error.contains("you lack the right to list campfires.campfire.network in namespace default of context berlin: "), "{error}");
    let error = api.fails(&["graph"]);
    assert!(error.contains("you lack the right to create pods/exec in namespace default of context berlin"), "{error}");
    let error = api.fails(&["peers", "--context", "paris"]);
    assert!(error.contains("its definitions are not installed (helm install"), "{error}");
    let error = api.fails(&["why", "nobody", "x"]);
    assert!(
        error.contains("no pod with a sidecar in namespace default of context berlin is called nobody; there are: hello-a, hello-b"),
        "{error}"
    );
    assert_eq!(api.run(&["status", "--nonsense"]).0, 64);
    assert_eq!(api.run(&["status", "-n", "x", "-A"]).0, 64);
}

#[test]
fn why_says_that_a_pod_waits_for_the_agent_of_its_node() {
    let api = Api::new(|context, asked| match asked.path.as_str() {
        "/api/v1/namespaces/default/pods/hello-a" => {
            let mut pod = pod("hello-a");
            pod["metadata"]["annotations"]["campfire.network/mode"] = json!("Node");
            pod["spec"]["nodeName"] = json!("worker");
            Answer::Json(200, pod)
        }
        path if path.ends_with("/csidrivers/node.campfire.network") => {
            let said = json!({ "node.campfire.network/namespace": "campfire-node" });
            Answer::Json(200, json!({ "metadata": { "name": "node.campfire.network", "annotations": said }, "spec": {} }))
        }
        path if path.ends_with("/csinodes") || path.contains("/namespaces/campfire-node/") && !path.ends_with("/campfire-node") => {
            list(&[])
        }
        path if path.ends_with("/hello-a/exec") => {
            Answer::Ran(String::new(), "campfire: the sidecar waits for its interface: the node's agent does not answer\n".into(), false)
        }
        _ => world(context, asked),
    });
    let error = api.fails(&["why", "hello-a", "hello-b"]);
    let wanted = "hello-a: the sidecar waits for its interface: the node's agent does not answer (its interface is made by the node agent, and \
                  there is no agent on node worker)";
    assert!(error.contains(wanted), "{error}");
}

#[test]
fn an_api_server_that_is_not_there_is_named() {
    let api = Api::new(world);
    let config = std::fs::read_to_string(api.kubeconfig()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["clusters"][0]["cluster"]["server"] = json!(format!("http://127.0.0.1:{port}"));
    std::fs::write(api.kubeconfig(), config.to_string()).unwrap();
    let error = api.fails(&["status"]);
    assert!(
        error.starts_with("kubectl campfire: the API server (context berlin) cannot be asked: ") && error.contains("refused"),
        "{error}"
    );
}

#[test]
fn completion_offers_pods_to_kubectl() {
    let api = Api::new(world);
    assert_eq!(api.well(&["__complete", "ping", "hello-"]), "hello-a\nhello-b\n:4\n");
    assert_eq!(api.well(&["__complete", "join", "p"]), "paris\n:4\n");
    assert!(api.well(&["completion", "bash"]).contains("kubectl-campfire"));
}

/// In berlin a Campfire with two pods that see each other directly, and a laptop; in paris a pod, and no Campfire.
fn world(context: &str, asked: &Asked) -> Answer {
    let rest = asked.path.replace("/namespaces/default", "");
    let pods = if context == "berlin" { vec![pod("hello-a"), pod("hello-b")] } else { vec![pod("shop-c")] };
    match rest.as_str() {
        "/apis/campfire.network/v1alpha1/campfires" if context == "berlin" => list(&[campfire()]),
        "/apis/campfire.network/v1alpha1/campfires" => list(&[]),
        "/apis/campfire.network/v1alpha1/meshpeers" if context == "berlin" => list(&[peer("hello-a"), peer("hello-b"), laptop()]),
        "/apis/campfire.network/v1alpha1/meshpeers" => list(&[peer("shop-c")]),
        "/api/v1/pods" => list(&pods),
        "/api/v1/secrets/main-join" => Answer::Json(200, json!({ "metadata": { "name": "main-join" }, "data": { "uri": ENCODED } })),
        path if asked.method == "PATCH" => Answer::Json(200, json!({ "metadata": { "name": path.rsplit('/').next() }, "spec": {} })),
        path if path.starts_with("/apis/campfire.network/v1alpha1/meshpeers/") => Answer::Json(200, peer(path.rsplit('/').next().unwrap())),
        path if path.ends_with("/exec") => exec(path, &asked.command()),
        _ => refused(404, "NotFound", "not found"),
    }
}

fn exec(path: &str, command: &[String]) -> Answer {
    let pod = path.split('/').nth(4).unwrap();
    let other = if pod == "hello-a" { "hello-b" } else { "hello-a" };
    match command.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["campfire", "status", "--json"] => Answer::Ran(serde_json::to_string_pretty(&report(pod, other)).unwrap(), String::new(), true),
        ["campfire", "netcheck"] if pod == "shop-c" => {
            Answer::Ran("  UDP gets out:    not known\n".into(), "campfire: no server answers, by whatever transport\n".into(), false)
        }
        ["campfire", "netcheck"] => Answer::Ran("  UDP gets out:    yes\u{1b}[31m\n".into(), String::new(), true),
        ["campfire", "netcheck", "--json"] => Answer::Ran(json!({ "servers": [] }).to_string(), String::new(), true),
        ["campfire", "why", "nobody"] => Answer::Ran(String::new(), "campfire: no peer is called nobody\n".into(), false),
        ["campfire", "why", address] => Answer::Ran(format!("hello-b ({address}) is connected directly.\n"), String::new(), true),
        ["campfire", "ping", ..] => {
            Answer::Ran("1: 0.8 ms, direct at 192.0.2.2:4000\n2 sent, 1 answered, 50% lost\n".into(), String::new(), true)
        }
        other => Answer::Ran(String::new(), format!("unexpected: {other:?}"), false),
    }
}

fn report(pod: &str, other: &str) -> Value {
    let shared = |name: &str| json!({ "name": name, "namespace": "default", "cluster": "berlin", "public_key": format!("key of {name}") });
    let mut peer = shared(other);
    peer["connected"] = json!(true);
    peer["path"] = json!("Direct");
    peer["rtt_ms"] = json!(0.8);
    // Larger than one frame of a WebSocket, as a large room's is.
    json!({ "version": "0.1.0", "self": shared(pod), "peers": [peer], "padding": "x".repeat(200_000) })
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "default", "labels": { "campfire.network/injected": "enabled" }, "annotations": { "campfire.network/campfire": "default/main" } },
        "spec": { "containers": [{ "name": "app", "image": "app" }], "initContainers": [{ "name": "campfire", "image": "localhost/campfire:0.1.0" }] },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

fn peer(name: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "type": "Pod", "campfireRef": { "name": "main" }, "podRef": { "name": name, "uid": "1" } },
        "status": {
            "path": "Direct", "clusterName": "berlin", "addresses": [format!("fd00::{}", &name[name.len() - 1..])],
            "conditions": [condition("Ready", "True", "Ready", "the peer can be used")],
        },
    })
}

fn laptop() -> Value {
    json!({
        "metadata": { "name": "laptop", "namespace": "default" },
        "spec": { "type": "External", "campfireRef": { "name": "main" }, "external": {} },
        "status": { "addresses": ["fd00::1a"] },
    })
}

fn campfire() -> Value {
    json!({
        "metadata": { "name": "main", "namespace": "default", "generation": 1 },
        "spec": { "turn": { "exposure": { "type": "NodePort" } } },
        "status": {
            "turn": "1/1", "peers": 2, "keyFingerprint": "0c92726f408e3ae0", "joinSecretName": "main-join", "observedGeneration": 1,
            "clusters": [{ "name": "berlin", "peers": 2 }],
            "conditions": [condition("Accepted", "True", "Accepted", "the spec is understood"), condition("Ready", "True", "Ready", "2 peers at the fire")],
        },
    })
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-27T08:00:00Z" })
}
