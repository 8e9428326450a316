//! What the operator asks the API server for, to the last field: a field more would be one that it owns.

use campfire_protocol::key::KeyMode;
use serde_json::{Value, json};

use super::children::children;
use super::tests::{held, sent, settings, valid};

/// One Campfire of each kind, and one with everything that can be said of its servers.
fn specs() -> Vec<(&'static str, Value)> {
    let exposed = |kind: &str| json!({ "turn": { "exposure": { "type": kind } } });
    let template = json!({
        "annotations": { "example.org/a": "b" }, "labels": { "team": "x", "campfire.network/campfire": "other" },
        "resources": { "requests": { "cpu": "1000m", "memory": "64Mi" }, "limits": { "memory": "1Gi" } },
        "nodeSelector": { "pool": "edge" }, "priorityClassName": "high", "imagePullSecrets": [{ "name": "registry" }],
        "tolerations": [
            { "key": "edge", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 30 }, { "operator": "Exists" },
        ],
    });
    vec![
        ("ClusterIP", exposed("ClusterIP")),
        ("NodePort", exposed("NodePort")),
        ("HostPort", exposed("HostPort")),
        (
            "LoadBalancer",
            json!({ "turn": { "replicas": 2, "exposure": { "type": "LoadBalancer", "loadBalancerClass": "c", "annotations": { "a": "b" } } } }),
        ),
        ("Mixed", json!({ "turn": { "exposure": { "type": "NodePort", "serviceLayout": "Mixed", "externalAddresses": ["192.0.2.1"] } } })),
        (
            "everything",
            json!({ "turn": {
                "exposure": { "type": "LoadBalancer" }, "transports": ["TLS", "TCP"], "tls": { "secretName": "certificate" },
                "podTemplate": template,
            } }),
        ),
        (
            "resources left empty",
            json!({ "turn": { "exposure": { "type": "ClusterIP" }, "transports": ["UDP"], "podTemplate": { "resources": {} } } }),
        ),
        (
            "limits raised",
            json!({ "turn": { "exposure": { "type": "ClusterIP" }, "limits": {
                "membersPerRoom": 50_000, "seatsPerSource": 64, "stateMiB": 1024, "connections": 30_000, "connectionsPerSource": 20_000,
            } } }),
        ),
        ("no servers here", json!({ "join": { "secretRef": { "name": "j" } } })),
    ]
}

fn all_sent() -> Value {
    let keys = [(1, KeyMode::Accept), (2, KeyMode::Announce)];
    let of = |spec: Value| Value::from(sent(&children(&valid(spec), &held(&keys), &settings())));
    specs().into_iter().map(|(name, spec)| (name.to_owned(), of(spec))).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn the_children_are_those_of_the_golden_file() {
    let text = serde_json::to_string_pretty(&all_sent()).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/campfire/golden/children.json");
    if std::env::var_os("CAMPFIRE_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert!(
        text == golden,
        "the children differ from {path}; if they should, run the test with CAMPFIRE_BLESS=1 and read the diff. Now:\n{text}"
    );
}
