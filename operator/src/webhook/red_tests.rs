//! What a hostile client of the webhook could do; each test shows the fault as it stands.

use std::time::{Duration, Instant};

use campfire_api::names::INJECT_PATH;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::testing::{Rig, post};

fn kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One review of 3 MiB, which anybody who reaches the port may send.
#[test]
fn red_3_what_a_review_of_three_mebibytes_takes() {
    let (rss, peak) = (kib("VmRSS"), kib("VmHWM"));
    let containers = vec!["{}"; (3 * 1024 * 1024 - 400) / 3].join(",");
    let body = format!(
        "{{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"request\":{{\"uid\":\"u\",\"operation\":\"CREATE\",\"resource\":{{\"group\":\"\",\"resource\":\"pods\"}},\"object\":{{\"spec\":{{\"containers\":[{containers}]}}}}}}}}"
    );
    assert!(body.len() <= 3 * 1024 * 1024);
    let begun = Instant::now();
    let asked = super::review::read(body.as_bytes()).unwrap();
    let held = asked.pod.as_ref().unwrap().spec.as_ref().unwrap().containers.len();
    println!(
        "{} bytes: {held} containers, RSS {} MiB -> {} MiB, peak {} -> {} MiB, {:?} (the chart's limit: 192 MiB)",
        body.len(),
        rss / 1024,
        kib("VmRSS") / 1024,
        peak / 1024,
        kib("VmHWM") / 1024,
        begun.elapsed()
    );
    assert!(kib("VmHWM") - peak > 192 * 1024);
}

/// What the API server itself would send of a pod that a user makes (it writes defaults out, and names that are empty).
#[test]
fn red_3_what_a_pod_takes_that_came_through_the_api_server() {
    for (list, element) in [("env", "{\"name\":\"\"}"), ("envFrom", "{}"), ("volumeMounts", "{\"name\":\"\",\"mountPath\":\"\"}")] {
        let elements = vec![element; (3 * 1024 * 1024 - 600) / (element.len() + 1)].join(",");
        let body = format!(
            "{{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"request\":{{\"uid\":\"u\",\"operation\":\"CREATE\",\"resource\":{{\"group\":\"\",\"resource\":\"pods\"}},\"object\":{{\"spec\":{{\"containers\":[{{\"name\":\"a\",\"{list}\":[{elements}]}}]}}}}}}}}"
        );
        let before = kib("VmRSS");
        let asked = super::review::read(body.as_bytes()).unwrap();
        println!("{list}: {} bytes take {} MiB", body.len(), (kib("VmRSS") - before) / 1024);
        drop(asked);
    }
}

/// One address, 64 connections that say nothing.
#[tokio::test]
async fn red_2_one_pod_keeps_the_api_server_from_the_webhook() {
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
    println!("before: {:?}", ask().await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for n in 0..8 {
        println!("{n}: {:?}", ask().await);
    }
    assert_eq!(ask().await, None);
}

/// Who reaches the port chooses what the operator asks the API server for, as often as it likes.
#[tokio::test]
async fn red_18b_the_namespace_of_a_review_becomes_a_path_at_the_api_server() {
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
    for namespace in ["default/secrets/main-psk", "../../apis/campfire.network/v1alpha1/campfires", "x?watch=true&timeoutSeconds=300"] {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": { "uid": "u", "operation": "CREATE", "namespace": namespace, "resource": { "group": "", "resource": "pods" }, "object": { "metadata": {}, "spec": { "containers": [] } } },
        });
        post(address, &rig.ca(), INJECT_PATH, None, review.to_string()).await;
    }
    println!("{:#?}", asked.lock().unwrap());
    assert!(asked.lock().unwrap().iter().any(|asked| asked.contains("secrets/main-psk")));
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
    println!("{answered} of 30 questions in 90 s are answered within 3 s");
}
