//! What a hostile client of the agent API could do, and what it comes to.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{REPORT_PATH, Report, SETTINGS_PATH};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use super::tests::{Camp, address, bound, home, pod, report, signed};
use super::{LIMITS, Limits, report as reports};
use crate::state::{PeerReport, Proof, Reported, Sighting, View, WireguardKey};

/// How long a pod that starts may wait for its answer while others do what they like.
const PATIENCE: Duration = Duration::from_secs(1);

/// Small numbers of the same kind: as many addresses as it takes to hold every place, without one being over its own limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn red_11_addresses_that_hold_every_place_keep_no_new_pod_waiting() {
    let limits = Limits { connections: 32, per_address: 16, ..LIMITS };
    let camp = Camp::within(limits, &[("web", "u1")]).await;
    let token = bound("web", "u1");
    // Eight, with eight connections each: some say nothing, some begin to, and all come again as soon as they are closed.
    let mut crowd = JoinSet::new();
    for number in 0_u8..64 {
        let (from, to) = (format!("127.0.1.{}:0", number % 8 + 1), camp.address);
        crowd.spawn(async move {
            loop {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(from.parse().unwrap()).unwrap();
                if let Ok(mut stream) = socket.connect(to).await {
                    if number >= 32 {
                        let _ = stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await;
                    }
                    let _ = stream.read(&mut [0; 1]).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let closed = || -> u64 {
        let text = camp.rig.ctx.metrics.text();
        let line = text.lines().find(|line| line.contains("connections_closed_total{port=\"agent\",reason=\"silent\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    };
    let begun = Instant::now();
    while closed() < 64 {
        assert!(begun.elapsed() < Duration::from_secs(20), "every place is held");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for number in 0..10 {
        let (asked, before) = (Instant::now(), closed());
        let answer = tokio::time::timeout(PATIENCE, camp.post(SETTINGS_PATH, Some(&token), "{}")).await;
        let status = answer.unwrap_or_else(|_| panic!("{number}: no answer within {PATIENCE:?}")).0;
        assert_eq!(status, 200, "{number}, after {:?}", asked.elapsed());
        // So that each finds them all held again.
        while closed() < before + 32 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn red_16_a_pod_reports_nobodys_key_or_address_and_is_no_second_pod_of_an_identity() {
    let camp = Camp::start(&[("web", "u1"), ("rogue", "u2")]).await;
    let rogue = bound("rogue", "u2");
    let as_rogue = |field: &str, value: serde_json::Value| {
        let mut report = report();
        report[field] = value;
        signed(report, 1, &pod("rogue", "u2"))
    };
    let foreign = json!(["fd00::1", "100.80.0.1", address()]);
    assert_eq!(camp.post(REPORT_PATH, Some(&rogue), as_rogue("addresses", foreign)).await.0, 204);
    assert_eq!(camp.rig.ctx.reports.get(&pod("rogue", "u2")).unwrap().report.addresses, [address()], "those that follow from its identity");
    let key = json!(WireguardKey(crate::testing::identity(2).x25519()).to_string());
    let (status, _, body) = camp.post(REPORT_PATH, Some(&rogue), as_rogue("publicKey", key)).await;
    assert_eq!((status, body.as_str()), (400, r#"{"message":"publicKey is not the identity's"}"#));
    // Whoever has the identity says at the fire, signed, which pod that is.
    let seen = Sighting { namespace: "shop".into(), name: "web".into(), ..crate::testing::sighting(1) };
    let view = View { camped: 1, seen: [(seen.identity, seen)].into(), ..View::default() };
    camp.rig.ctx.sightings.publish(&home(), view);
    let (status, _, body) = camp.post(REPORT_PATH, Some(&rogue), signed(report(), 1, &pod("rogue", "u2"))).await;
    assert_eq!((status, body.contains("another peer's")), (403, true), "{body}");
    assert_eq!(camp.post(REPORT_PATH, Some(&bound("web", "u1")), signed(report(), 1, &pod("web", "u1"))).await.0, 204);
}

#[tokio::test]
async fn red_16_a_pod_that_reports_an_identity_whose_key_it_has_not_is_refused_whether_that_one_was_seen_or_not() {
    let camp = Camp::start(&[("web", "u1"), ("web", "u3"), ("rogue", "u2")]).await;
    let rogue = bound("rogue", "u2");
    let own = signed(report(), 1, &pod("web", "u1"));
    let mut moved: serde_json::Value = serde_json::from_str(&own).unwrap();
    moved["addresses"] = json!([]);
    let mut nobody = report();
    nobody["signature"] = json!(STANDARD.encode([0; 64]));
    let cases = [
        ("signed by its own key", signed(report(), 2, &pod("rogue", "u2"))),
        ("as the other pod sent it", own.clone()),
        ("signed by nobody", nobody.to_string()),
        ("with other addresses", moved.to_string()),
    ];
    // Not seen at the fire, seen there as itself, and seen under the name that the rogue has.
    for seen in [None, Some("web"), Some("rogue")] {
        if let Some(name) = seen {
            let seen = Sighting { namespace: "shop".into(), name: name.into(), ..crate::testing::sighting(1) };
            camp.rig.ctx.sightings.publish(&home(), View { camped: 1, seen: [(seen.identity, seen)].into(), ..View::default() });
        }
        for (what, body) in &cases {
            let (status, _, answer) = camp.post(REPORT_PATH, Some(&rogue), body.clone()).await;
            assert_eq!(status, 403, "{what}: {answer}");
            assert!(answer.contains("a pod reports no identity but its own"), "{what}: {answer}");
        }
        assert!(camp.rig.ctx.reports.get(&pod("rogue", "u2")).is_none());
    }
    // Nor is a pod that is gone reported by one of its name.
    assert_eq!(camp.post(REPORT_PATH, Some(&bound("web", "u3")), own).await.0, 403);
}

#[test]
fn red_16_no_bit_of_a_report_that_is_signed_can_be_another() {
    let web = pod("web", "u1");
    let whole = signed(report(), 1, &web);
    let (report, proof) = reports::read(whole.as_bytes(), &web, None).unwrap();
    let last = Reported { proof, ..crate::testing::reported(&home(), report) };
    let signed: campfire_api::agent::Report = serde_json::from_str(&whole).unwrap();
    let held = [&signed.public_key, &signed.identity, &signed.addresses[0], &signed.signature];
    // Nor when it was verified as it is before.
    for last in [None, Some(&last)] {
        for text in held {
            let at = whole.find(text.as_str()).unwrap();
            for byte in at..at + text.len() {
                for bit in 0..7 {
                    let mut bytes = whole.clone().into_bytes();
                    bytes[byte] ^= 1 << bit;
                    assert!(reports::read(&bytes, &web, last).is_err(), "{}", String::from_utf8_lossy(&bytes));
                }
            }
        }
        for end in 0..whole.len() {
            assert!(reports::read(&whole.as_bytes()[..end], &web, last).is_err());
        }
    }
}

#[test]
fn red_16_a_report_is_verified_again_unless_all_that_is_signed_and_the_signature_are_what_was_verified() {
    let web = pod("web", "u1");
    let body = signed(report(), 1, &web);
    let (first, proof) = reports::read(body.as_bytes(), &web, None).unwrap();
    let last = Reported { proof, ..crate::testing::reported(&home(), first.clone()) };
    // What is not signed is another, and of the rest each byte is as it was.
    let mut said: Report = serde_json::from_str(&body).unwrap();
    said.unconnected = 7;
    let heartbeat = serde_json::to_string(&said).unwrap();
    let (again, proof_again) = reports::read(heartbeat.as_bytes(), &web, Some(&last)).unwrap();
    assert_eq!((again, proof_again), (PeerReport { unconnected: 7, ..first }, proof));
    // That it is the proof that counts, and no signature that is looked at: one of nobody's, had it been proven.
    said.signature = STANDARD.encode([0; 64]);
    let forged = serde_json::to_string(&said).unwrap();
    let statement = said.statement("shop", "web", "u1");
    let proven = Reported { proof: Proof::of(&[0; 64], &statement), ..last.clone() };
    assert!(reports::read(forged.as_bytes(), &web, Some(&proven)).is_ok());
    // As another pod's, or after another report, it is verified.
    for other in [pod("web", "u2"), pod("rogue", "u1")] {
        assert_eq!(reports::read(forged.as_bytes(), &other, Some(&proven)).unwrap_err().status, 403);
        assert_eq!(reports::read(heartbeat.as_bytes(), &other, Some(&last)).unwrap_err().status, 403);
    }
    for before in [None, Some(&last)] {
        assert_eq!(reports::read(forged.as_bytes(), &web, before).unwrap_err().status, 403);
    }
}

#[tokio::test]
async fn a_report_that_comes_before_the_campfire_was_looked_at_loses_no_address_that_an_earlier_operator_let_pass() {
    let mut camp = Camp::start(&[("web", "u1"), ("new", "u2")]).await;
    camp.rig.ctx.memberships.clear();
    let shown = |uid: &str, addresses: serde_json::Value| {
        serde_json::from_value(json!({
            "apiVersion": "campfire.network/v1alpha1", "kind": "MeshPeer", "metadata": { "namespace": "shop", "name": "web" },
            "spec": { "type": "Pod", "campfireRef": { "name": "home" }, "podRef": { "name": "web", "uid": uid } },
            "status": { "conditions": [], "addresses": addresses },
        }))
        .unwrap()
    };
    let key = pod("web", "u1").key;
    let held = async |camp: &Camp, name: &str, uid: &str| {
        assert_eq!(camp.post(REPORT_PATH, Some(&bound(name, uid)), signed(report(), 1, &pod(name, uid))).await.0, 204);
        camp.rig.ctx.reports.get(&pod(name, uid)).unwrap().report.addresses.clone()
    };
    camp.rig.peers.put(key.clone(), shown("u1", json!([address(), "fd00::1"])));
    assert_eq!(held(&camp, "web", "u1").await, [address()]);
    assert!(held(&camp, "new", "u2").await.is_empty(), "nobody let one of its own pass");
    camp.rig.peers.put(key, shown("u0", json!([address()])));
    assert!(held(&camp, "web", "u1").await.is_empty(), "that was a pod of its name");
}
