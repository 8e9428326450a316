//! What a hostile client of the webhook could do, and what it comes to.

use std::net::SocketAddr;
use std::time::Duration;

use campfire_api::names::INJECT_PATH;
use serde_json::json;
use tokio::net::TcpListener;

use crate::testing::{Rig, post};

fn kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reviews as large as they may be, which anybody who reaches the port may send, and users who make pods through the API server: lists of
/// what costs three bytes of JSON and a kilobyte of a Pod, wherever a Pod has lists.
#[test]
fn red_3_what_the_largest_reviews_take() {
    const MEASURE: &str = "CAMPFIRE_TEST_MEASURE";
    if std::env::var_os(MEASURE).is_none() {
        // Other tests' memory is not to be measured: it runs again, alone.
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", "webhook::red_tests::red_3_what_the_largest_reviews_take", "--nocapture"]).env(MEASURE, "1");
        assert!(alone.status().unwrap().success());
        return;
    }
    let many = |element: &str| vec![element; (super::MAX_REVIEW - 600) / (element.len() + 1)].join(",");
    let objects = [
        format!("{{\"spec\":{{\"containers\":[{}]}}}}", many("{}")),
        format!("{{\"spec\":{{\"initContainers\":[{}]}}}}", many("{}")),
        format!("{{\"spec\":{{\"ephemeralContainers\":[{}]}}}}", many("{}")),
        format!("{{\"spec\":{{\"volumes\":[{}]}}}}", many("{}")),
        format!("{{\"spec\":{{\"containers\":[{{\"env\":[{}]}}]}}}}", many("{\"name\":\"\"}")),
        format!("{{\"spec\":{{\"containers\":[{{\"envFrom\":[{}]}}]}}}}", many("{}")),
        format!("{{\"spec\":{{\"initContainers\":[{{\"volumeMounts\":[{}]}}]}}}}", many("{}")),
        format!("{{\"spec\":{{\"tolerations\":[{}]}}}}", many("{}")),
        format!("{{\"metadata\":{{\"managedFields\":[{}]}}}}", many("{}")),
        format!("{{\"metadata\":{{\"ownerReferences\":[{}]}}}}", many("{}")),
        format!("{{\"status\":{{\"containerStatuses\":[{}]}}}}", many("{}")),
        format!("{{\"metadata\":{{\"labels\":{{{}}}}}}}", many("\"a\":\"\"")),
    ];
    for object in objects {
        let body = review("shop", &object);
        assert!(body.len() <= super::MAX_REVIEW);
        let before = kib("VmRSS");
        let asked = super::review::read(body.as_bytes());
        let took = kib("VmRSS").saturating_sub(before);
        assert!(took < 8 * 1024, "{took} KiB for {}…", &object[..60]);
        drop(asked);
    }
    assert!(kib("VmHWM") - kib("VmRSS") < 64 * 1024, "nor for a moment");
}

fn review(namespace: &str, object: &str) -> String {
    format!(
        "{{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"request\":{{\"uid\":\"u\",\"operation\":\"CREATE\",\"namespace\":{},\"resource\":{{\"group\":\"\",\"resource\":\"pods\"}},\"object\":{object}}}}}",
        json!(namespace)
    )
}

#[test]
fn red_3_of_a_pod_all_is_read_that_a_decision_needs() {
    let object = json!({
        "metadata": { "generateName": "web-", "labels": { "a": "b" }, "annotations": null, "creationTimestamp": null,
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1", "controller": true }] },
        "spec": { "hostNetwork": true, "os": { "name": "linux" }, "nodeSelector": { "x": "y" }, "volumes": [{ "name": "v", "emptyDir": {} }],
            "initContainers": [{ "name": "i", "image": "x", "volumeMounts": [{ "name": "v", "mountPath": "/v" }, { "name": "w", "mountPath": "/w" }] }],
            "containers": [{ "name": "c", "image": "x", "env": [{ "name": "A", "value": "B" }] }] },
    });
    let pod = super::review::read(review("shop", &object.to_string()).as_bytes()).unwrap().pod.unwrap();
    let spec = pod.spec.unwrap();
    assert_eq!(pod.metadata.owner_references.unwrap()[0].name, "web");
    assert_eq!((pod.metadata.generate_name.unwrap(), pod.metadata.labels.unwrap()["a"].clone()), ("web-".into(), "b".into()));
    assert_eq!(
        (spec.host_network, spec.os.unwrap().name, spec.node_selector.unwrap()["x"].clone()),
        (Some(true), "linux".into(), "y".into())
    );
    assert_eq!((spec.containers[0].name.as_str(), spec.volumes.unwrap()[0].name.as_str()), ("c", "v"));
    let inits = spec.init_containers.unwrap();
    let mounts: Vec<_> = inits[0].volume_mounts.as_ref().unwrap().iter().map(|mount| mount.name.as_str()).collect();
    assert_eq!((inits[0].name.as_str(), mounts), ("i", vec!["v", "w"]));
}

/// One address, and more than there are places, with connections that say nothing, or begin a handshake and stop.
#[tokio::test]
async fn red_2_nobody_keeps_the_api_server_from_the_webhook() {
    let mut rig =
        Rig::new(|_, path, _| (404, json!({ "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": path })));
    rig.namespace("shop", &json!({}));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(super::serve(rig.ctx.clone(), rig.bundle.subscribe(), listener));
    let ca = rig.ca();
    let ask = || async {
        tokio::time::timeout(Duration::from_secs(3), post(address, &ca, INJECT_PATH, None, "x")).await.map(|answer| answer.0).ok()
    };
    let usual = ask().await;
    assert!(usual.is_some());
    for addresses in [1, 100] {
        let mut silent = Vec::new();
        for n in 0..200_u8 {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 1, n % addresses], 0))).unwrap();
            let mut stream = socket.connect(address).await.unwrap();
            if n % 2 == 0 {
                // A record of a handshake, begun.
                tokio::io::AsyncWriteExt::write_all(&mut stream, &[22, 3, 1, 2, 0]).await.unwrap();
            }
            silent.push(stream);
        }
        for _ in 0..8 {
            assert_eq!(ask().await, usual);
        }
    }
}

/// Who reaches the port chooses what the operator asks the API server for, as often as it likes.
#[tokio::test]
async fn red_18b_the_namespace_of_a_review_becomes_no_path_at_the_api_server() {
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = asked.clone();
    let mut rig = Rig::new(move |method, path, _| {
        seen.lock().unwrap().push(format!("{method} {path}"));
        (404, json!({ "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": path }))
    });
    rig.namespace("shop", &json!({}));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(super::serve(rig.ctx.clone(), rig.bundle.subscribe(), listener));
    for namespace in
        ["default/secrets/main-psk", "../../apis/campfire.network/v1alpha1/campfires", "x?watch=true&timeoutSeconds=300", "", "-", "A"]
    {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": { "uid": "u", "operation": "CREATE", "namespace": namespace, "resource": { "group": "", "resource": "pods" }, "object": { "metadata": {}, "spec": { "containers": [] } } },
        });
        assert_eq!(post(address, &rig.ca(), INJECT_PATH, None, review.to_string()).await.0, 400, "{namespace}");
    }
    assert!(!asked.lock().unwrap().iter().any(|asked| asked.contains("namespaces/")), "{:#?}", asked.lock().unwrap());
}

/// The same for longer: from two addresses, each connection opened anew when it is closed.
#[tokio::test]
#[ignore = "takes 90 s"]
async fn red_2_and_for_as_long_as_it_likes() {
    let mut rig =
        Rig::new(|_, path, _| (404, json!({ "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": path })));
    rig.namespace("shop", &json!({}));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(super::serve(rig.ctx.clone(), rig.bundle.subscribe(), listener));
    for (pod, count) in [("127.0.1.1:0", 60), ("127.0.1.2:0", 60)] {
        for n in 0..count {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(n * 10)).await;
                loop {
                    let socket = tokio::net::TcpSocket::new_v4().unwrap();
                    socket.bind(pod.parse().unwrap()).unwrap();
                    if let Ok(mut stream) = socket.connect(address).await {
                        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ca = rig.ca();
    let mut answered = 0;
    for _ in 0..30 {
        answered += usize::from(tokio::time::timeout(Duration::from_secs(3), post(address, &ca, INJECT_PATH, None, "x")).await.is_ok());
    }
    assert_eq!(answered, 30);
}
