use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{GRANT_PATH, GrantRequest, Granted};
use campfire_api::names::NODE_DRIVER;
use campfire_api::node::{Grant, GrantKey};
use campfire_protocol::identity::Identity;
use serde_json::{Value, json};

use super::tests::{Camp, bound, home, membership, pod};
use crate::state::PodId;

fn key() -> GrantKey {
    GrantKey::from_seed(&[7; 32])
}

/// An API server that has pods of every kind.
fn api(method: &str, path: &str, _: &Value) -> (u16, Value) {
    let volume = |driver: &str| json!([{ "name": "campfire-node", "csi": { "driver": driver, "readOnly": true } }]);
    let spec = match path.rsplit('/').next() {
        Some("web" | "other") => json!({ "containers": [], "volumes": volume(NODE_DRIVER) }),
        Some("host") => json!({ "containers": [], "volumes": volume(NODE_DRIVER), "hostNetwork": true }),
        Some("plain") => json!({ "containers": [], "volumes": volume("other.example") }),
        Some("broken") => return (500, json!({ "kind": "Status", "code": 500, "message": "etcd", "reason": "x", "status": "Failure" })),
        _ => return (404, json!({ "kind": "Status", "code": 404, "message": "no", "reason": "NotFound", "status": "Failure" })),
    };
    assert_eq!(method, "GET");
    (200, json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": "shop", "uid": "u1" }, "spec": spec }))
}

/// A request of the peer with this identity, as this pod's.
fn request(by: u8, pod: &PodId) -> String {
    let identity = Identity::from_seed(&[by; 32]);
    let mut request = GrantRequest { identity: identity.public().to_string(), signature: String::new() };
    request.signature = STANDARD.encode(identity.sign(&request.statement(&pod.key.namespace, &pod.key.name, &pod.uid)));
    serde_json::to_string(&request).unwrap()
}

#[tokio::test]
async fn a_pod_of_the_agents_is_granted_its_own_addresses_and_what_its_campfire_routes() {
    let camp = Camp::asking(api, &[("web", "u1")]).await;
    let (web, token) = (pod("web", "u1"), bound("web", "u1"));
    let ask = async || camp.post(GRANT_PATH, Some(&token), request(1, &web)).await;
    assert_eq!(ask().await.0, 503, "whoever has just begun to lead has no key yet");
    camp.rig.ctx.signer.put(key());
    let (status, _, body) = ask().await;
    assert_eq!(status, 200, "{body}");
    let granted: Granted = serde_json::from_str(&body).unwrap();
    let grant = Grant::verify(&STANDARD.decode(&granted.grant).unwrap(), &key().public()).unwrap();
    let own = membership().id.address(&crate::testing::identity(1));
    assert_eq!((grant.pod_uid.as_str(), grant.mtu), ("u1", 1280));
    assert_eq!(grant.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), [format!("{own}/48")]);
    assert!(grant.routes.is_empty() && granted.accept_routes.is_empty());

    let mut wider = membership();
    wider.network.ipv4_pool = Some("100.80.0.0/16".parse().unwrap());
    wider.network.accept_routes = vec!["10.1.2.3/8".parse().unwrap()];
    wider.network.mtu = 1400;
    camp.rig.ctx.memberships.publish(&home(), wider);
    let granted: Granted = serde_json::from_str(&ask().await.2).unwrap();
    let grant = Grant::verify(&STANDARD.decode(&granted.grant).unwrap(), &key().public()).unwrap();
    assert_eq!((grant.addresses.len(), grant.mtu, granted.mtu), (2, 1400, 1400));
    assert!(grant.addresses[1].to_string().starts_with("100.80.") && grant.addresses[1].prefix_len() == 16);
    assert_eq!((grant.routes[0].to_string(), granted.accept_routes), ("10.0.0.0/8".into(), vec!["10.0.0.0/8".to_owned()]));

    camp.rig.ctx.memberships.withdraw(&home());
    assert_eq!(ask().await.0, 503);
}

#[tokio::test]
async fn nobody_is_granted_what_another_pod_or_peer_is_or_what_an_agent_has_no_business_with() {
    let names = ["web", "other", "host", "plain", "broken", "gone"];
    let pods = names.map(|name| (name, if name == "other" { "u2" } else { "u1" }));
    let camp = Camp::asking(api, &pods).await;
    camp.rig.ctx.signer.put(key());
    let (web, other) = (pod("web", "u1"), pod("other", "u2"));
    let refused = async |as_pod: &PodId, body: String| {
        let token = bound(&as_pod.key.name, &as_pod.uid);
        let (status, _, said) = camp.post(GRANT_PATH, Some(&token), body).await;
        (status, said)
    };
    // What another pod signed, another's key, nothing at all.
    assert_eq!(refused(&other, request(1, &web)).await.0, 403);
    let mut stolen: Value = serde_json::from_str(&request(1, &web)).unwrap();
    stolen["identity"] = json!(crate::testing::identity(2).to_string());
    assert_eq!(refused(&web, stolen.to_string()).await.0, 403);
    for body in ["", "{}", r#"{"identity":"00","signature":""}"#, &json!({ "identity": "A".repeat(64), "signature": "x" }).to_string()] {
        assert_eq!(refused(&web, body.to_owned()).await.0, 400, "{body}");
    }
    // A pod of the name that is not the one of the token; in its node's network; without our volume; unknown.
    for (name, uid, status, says) in [
        ("other", "u2", 403, "is gone"),
        ("host", "u1", 403, "node's network"),
        ("plain", "u1", 403, "no volume of the node agent's"),
        ("broken", "u1", 503, "does not say"),
        ("gone", "u1", 403, "is gone"),
    ] {
        let who = pod(name, uid);
        let (got, said) = refused(&who, request(1, &who)).await;
        assert!(got == status && said.contains(says), "{name}: {got} {said}");
    }
    let (status, _, _) = camp.post(GRANT_PATH, None, request(1, &web)).await;
    assert_eq!(status, 401);
}
