//! The webhook as the API server sees it: over TLS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use campfire_api::names::{INJECT_LABEL, INJECT_PATH};
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::testing::{Rig, post};

#[tokio::test]
async fn a_pod_is_patched_and_one_that_cannot_be_is_let_pass_with_a_warning() {
    let server = Server::start().await;
    let (status, answer) = server.ask(&review("shop", &pod(&json!({})), false)).await;
    assert_eq!((status, &answer["response"]["allowed"], &answer["response"]["patchType"]), (200, &json!(true), &json!("JSONPatch")));
    let (status, answer) = server.ask(&review("shop", &pod(&json!({ "hostNetwork": true })), false)).await;
    assert_eq!(status, 200);
    assert_eq!(
        answer["response"],
        json!({
            "uid": "u1", "allowed": true,
            "warnings": ["campfire: no sidecar (HostNetwork): the pod uses the node's network (hostNetwork), where the sidecar makes no interface"],
        })
    );
}

#[tokio::test]
async fn all_that_one_api_server_has_under_way_at_once_is_answered() {
    let server = Server::start().await;
    let review = review("shop", &pod(&json!({})), false);
    // Each on a connection of its own, as API servers ask.
    let answers = futures_util::future::join_all((0..200).map(|_| server.ask(&review))).await;
    assert!(answers.iter().all(|(status, answer)| *status == 200 && answer["response"]["patchType"] == "JSONPatch"));
}

#[tokio::test]
async fn a_namespace_that_was_made_this_moment_is_asked_for() {
    let server = Server::start().await;
    let (_, answer) = server.ask(&review("new", &pod(&json!({})), false)).await;
    let warning = answer["response"]["warnings"][0].as_str().unwrap();
    assert!(
        warning.starts_with("campfire: no sidecar (PodSecurityForbids): namespace new enforces the Pod Security Standard restricted"),
        "{warning}"
    );
}

#[tokio::test]
async fn the_owner_of_the_pod_gets_one_event_and_none_for_a_dry_run() {
    let server = Server::start().await;
    server.ask(&review("shop", &pod(&json!({ "hostNetwork": true })), true)).await;
    for _ in 0..5 {
        server.ask(&review("shop", &pod(&json!({ "hostNetwork": true })), false)).await;
    }
    // Another reason is another event; when that is there the others would be.
    server.ask(&review("shop", &pod(&json!({ "os": { "name": "windows" } })), false)).await;
    let events = loop {
        let events = server.events.lock().unwrap().clone();
        if events.iter().any(|event| event["reason"] == "Windows") && events.iter().any(|event| event["reason"] == "HostNetwork") {
            break events;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(events.len(), 2, "{events:?}");
    let event = events.iter().find(|event| event["reason"] == "HostNetwork").unwrap();
    assert_eq!(
        event["regarding"],
        json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "namespace": "shop", "uid": "r1" })
    );
    assert_eq!(event["type"], "Warning");
}

#[tokio::test]
async fn malformed_huge_and_hostile_bodies_are_refused_and_the_next_one_is_served() {
    let server = Server::start().await;
    let deep = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
    let bodies: Vec<(Vec<u8>, u16)> = vec![
        (Vec::new(), 400),
        (b"\xff\xfe\x00".to_vec(), 400),
        (b"{\"apiVersion\":".to_vec(), 400),
        (deep.clone().into_bytes(), 400),
        (review("shop", &json!({ "metadata": { "labels": { "a": 1 } } }), false).to_string().into_bytes(), 400),
        (format!("{{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"request\":{deep}}}").into_bytes(), 400),
        (vec![b' '; 3 * 1024 * 1024 + 1], 413),
    ];
    for (body, expected) in bodies {
        let (status, _, answer) = post(server.address, &server.rig.ca(), INJECT_PATH, None, body).await;
        assert_eq!(status, expected, "{answer}");
        assert!(serde_json::from_str::<Value>(&answer).unwrap()["message"].is_string() && answer.len() < 500, "{answer}");
    }
    assert_eq!(post(server.address, &server.rig.ca(), "/else", None, "").await.0, 404);
    // As large as may be: very many volumes and annotations.
    let mut large = pod(&json!({ "volumes": (0..1_000).map(|number| json!({ "name": format!("v{number}") })).collect::<Vec<_>>() }));
    for number in 0..6_000 {
        large["metadata"]["annotations"][format!("config.campfire.network/{number}")] = json!("x");
    }
    let (status, answer) = server.ask(&review("shop", &large, false)).await;
    assert_eq!(status, 200);
    assert_eq!(answer["response"]["warnings"].as_array().unwrap().len(), 8, "no more than a person reads");
}

struct Server {
    rig: Rig,
    address: SocketAddr,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    async fn start() -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = events.clone();
        let mut rig = Rig::new(move |method, path, body| match (method, path) {
            ("GET", "/api/v1/namespaces/new") => (
                200,
                json!({
                    "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                    "metadata": { "name": "new", "labels": { "pod-security.kubernetes.io/enforce": "restricted" } },
                }),
            ),
            ("POST", "/apis/events.k8s.io/v1/namespaces/shop/events") => {
                seen.lock().unwrap().push(body.clone());
                (201, body.clone())
            }
            _ => (404, json!({ "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": path })),
        });
        rig.namespace("shop", &json!({}));
        rig.campfire("infra", "home", &json!({ "members": { "namespaces": { "from": "All" } } }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(super::serve(rig.ctx.clone(), rig.bundle.subscribe(), listener));
        Self { rig, address, events }
    }

    async fn ask(&self, review: &Value) -> (u16, Value) {
        let (status, _, body) = post(self.address, &self.rig.ca(), INJECT_PATH, None, Bytes::from(review.to_string())).await;
        (status, serde_json::from_str(&body).unwrap())
    }
}

fn pod(spec: &Value) -> Value {
    let mut pod = json!({
        "metadata": {
            "generateName": "web-1-", "labels": { INJECT_LABEL: "enabled" }, "annotations": {},
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "r1", "controller": true }],
        },
        "spec": { "containers": [{ "name": "app", "image": "app" }] },
    });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

fn review(namespace: &str, object: &Value, dry_run: bool) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u1", "operation": "CREATE", "namespace": namespace, "object": object, "dryRun": dry_run,
            "resource": { "group": "", "version": "v1", "resource": "pods" },
        },
    })
}
