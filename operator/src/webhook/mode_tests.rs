use std::collections::BTreeMap;

use campfire_api::SidecarMode;
use campfire_api::conditions::SkipReason;
use campfire_api::names::*;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::{Value, json};

use super::containers::Defaults;
use super::inject::{Decision, settings_hash};
use super::tests::{apply, campfire, decide, defaults, labelled, namespace, pod};
use crate::nodes::Nodes;

const ENFORCE: &str = super::guard::ENFORCE;

/// With an agent whose CSIDriver has these annotations, in a cluster with gVisor.
fn with_agent(annotations: &Value) -> Defaults {
    let driver: CSIDriver =
        serde_json::from_value(json!({ "metadata": { "name": NODE_DRIVER, "annotations": annotations }, "spec": {} })).unwrap();
    let class = |name: &str, handler: &str| -> RuntimeClass {
        serde_json::from_value(json!({ "metadata": { "name": name }, "handler": handler })).unwrap()
    };
    let classes = [class("safe", "runsc-kvm"), class("vm", "kata-qemu"), class("fast", "crun")];
    Defaults { nodes: Nodes::of(Some(&driver), &classes), ..defaults() }
}

/// `Tun` or `Node`, or why neither.
fn way(mode: SidecarMode, pod: &Pod, level: Option<&str>, defaults: &Defaults) -> Result<&'static str, SkipReason> {
    let labels: Vec<(&str, &str)> = level.map(|level| (ENFORCE, level)).into_iter().collect();
    let home = campfire("shop", "home", json!({ "sidecar": { "mode": mode } }));
    match decide(pod, &labelled("shop", &labels), &[home], defaults, "ca") {
        Decision::Skip { reason, message, .. } => {
            assert!(message.contains(':'), "what to do: {message}");
            Err(reason)
        }
        Decision::Patch { ops, .. } => {
            let after = patched(pod, &ops);
            let node = after["metadata"]["annotations"][MODE_ANNOTATION] == NODE_MODE;
            assert_eq!(after["spec"]["initContainers"].as_array().unwrap().len(), if node { 1 } else { 2 });
            Ok(if node { "Node" } else { "Tun" })
        }
    }
}

fn patched(pod: &Pod, ops: &[super::inject::Op]) -> Value {
    let mut after = serde_json::to_value(pod).unwrap();
    for op in ops {
        apply(&mut after, op);
    }
    after
}

#[test]
fn who_makes_the_interface_follows_from_mode_namespace_and_agent() {
    use SidecarMode::{Auto, Node, Tun};
    let (none, agent, leaving) = (defaults(), with_agent(&json!({})), with_agent(&json!({ NODE_DRAIN_ANNOTATION: "true" })));
    let plain = pod(json!({}));
    let levels = [Some("privileged"), None, Some("baseline"), Some("restricted")];
    let of = |mode, defaults: &Defaults| levels.map(|level| way(mode, &plain, level, defaults));
    let forbidden = Err(SkipReason::PodSecurityForbids);
    assert_eq!(of(Auto, &none), [Ok("Tun"), Ok("Tun"), forbidden, forbidden]);
    assert_eq!(of(Auto, &agent), [Ok("Tun"), Ok("Node"), Ok("Node"), Ok("Node")]);
    assert_eq!(of(Auto, &leaving), of(Auto, &none), "no pod is given to an agent that goes");
    for defaults in [&none, &agent, &leaving] {
        assert_eq!(of(Tun, defaults), [Ok("Tun"); 4], "who asks for it gets it");
    }
    assert_eq!(of(Node, &agent), [Ok("Node"); 4]);
    for defaults in [&none, &leaving] {
        assert_eq!(of(Node, defaults), [Err(SkipReason::NoNodeAgent); 4]);
    }
}

#[test]
fn a_pod_of_another_user_namespace_kernel_or_node_is_where_the_agent_is_or_left_alone() {
    use SidecarMode::{Auto, Node, Tun};
    let (none, agent) = (defaults(), with_agent(&json!({})));
    let users = pod(json!({ "hostUsers": false }));
    assert_eq!(way(Auto, &users, Some("privileged"), &none), Err(SkipReason::UserNamespace));
    assert_eq!(way(Auto, &users, Some("privileged"), &agent), Ok("Node"));
    assert_eq!(way(Tun, &users, None, &agent), Ok("Tun"));
    for (class, is) in [("safe", Err(SkipReason::Sandboxed)), ("vm", Err(SkipReason::Sandboxed)), ("fast", Ok("Node"))] {
        for mode in [Auto, Node] {
            assert_eq!(way(mode, &pod(json!({ "runtimeClassName": class })), Some("restricted"), &agent), is, "{class}");
        }
    }
    let mut fargate = pod(json!({}));
    fargate.metadata.labels.as_mut().unwrap().insert("eks.amazonaws.com/fargate-profile".into(), "p".into());
    assert_eq!(way(Auto, &fargate, None, &agent), Err(SkipReason::Sandboxed));

    let some = with_agent(&json!({ NODE_SELECTOR_ANNOTATION: r#"{"campfire":"yes","zone":"a"}"# }));
    let selects = |labels: Value| pod(json!({ "nodeSelector": labels }));
    assert_eq!(way(Auto, &pod(json!({})), None, &some), Err(SkipReason::NodeAgentNotEverywhere));
    assert_eq!(way(Auto, &selects(json!({ "campfire": "yes" })), None, &some), Err(SkipReason::NodeAgentNotEverywhere));
    assert_eq!(way(Auto, &selects(json!({ "campfire": "yes", "zone": "a", "disk": "ssd" })), None, &some), Ok("Node"));
    assert_eq!(way(Node, &selects(json!({ "zone": "b" })), None, &some), Err(SkipReason::NodeAgentNotEverywhere));
    for odd in ["campfire=yes", "[]", "null"] {
        let odd = with_agent(&json!({ NODE_SELECTOR_ANNOTATION: odd }));
        assert_eq!(way(Auto, &pod(json!({})), None, &odd), Err(SkipReason::NodeAgentNotEverywhere));
    }
    // Who asks for it is brought there.
    let home = campfire("shop", "home", json!({ "sidecar": { "mode": "Node" } }));
    for before in [pod(json!({})), selects(json!({ "disk": "ssd" }))] {
        let Decision::Patch { ops, .. } = decide(&before, &namespace("shop"), std::slice::from_ref(&home), &some, "ca") else { panic!() };
        let after = patched(&before, &ops);
        assert_eq!((&after["spec"]["nodeSelector"]["campfire"], &after["spec"]["nodeSelector"]["zone"]), (&json!("yes"), &json!("a")));
        let again: Pod = serde_json::from_value(after).unwrap();
        let Decision::Patch { ops, .. } = decide(&again, &namespace("shop"), std::slice::from_ref(&home), &some, "ca") else { panic!() };
        assert_eq!(ops, [], "the second call changes nothing");
    }
}

#[test]
fn a_pod_of_the_agents_has_no_right_and_no_user_of_ours() {
    let (home, agent) = (campfire("shop", "home", json!({})), with_agent(&json!({})));
    let restricted = labelled("shop", &[(ENFORCE, "restricted")]);
    let after = |before: &Pod| match decide(before, &restricted, std::slice::from_ref(&home), &agent, "ca") {
        Decision::Patch { ops, .. } => patched(before, &ops),
        Decision::Skip { reason, message, .. } => panic!("{reason}: {message}"),
    };
    let made = after(&pod(json!({})));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/webhook/golden/node.json");
    let text = serde_json::to_string_pretty(&made).unwrap() + "\n";
    if std::env::var_os("CAMPFIRE_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert!(text == std::fs::read_to_string(path).unwrap(), "differs from {path} (CAMPFIRE_BLESS=1 writes it):\n{text}");
    let security = &made["spec"]["initContainers"][0]["securityContext"];
    assert_eq!(security["capabilities"], json!({ "drop": ["ALL"] }));
    assert_eq!(
        (&security["runAsNonRoot"], &security["runAsUser"]),
        (&json!(true), &Value::Null),
        "a namespace may have a range of its own"
    );
    // A pod that is root by itself would not start with a container that must not be.
    let root = after(&pod(json!({ "securityContext": { "runAsUser": 0 } })));
    assert_eq!(root["spec"]["initContainers"][0]["securityContext"]["runAsUser"], SIDECAR_UID);

    // What it was stamped with holds for as long as its mode does, whatever the pod itself is.
    for stamped in [&made, &root] {
        let annotations: BTreeMap<String, String> = serde_json::from_value(stamped["metadata"]["annotations"].clone()).unwrap();
        assert_eq!(settings_hash("shop", &annotations, &home, &agent).as_ref(), annotations.get(SETTINGS_HASH_ANNOTATION));
    }
    // A copy in a namespace that allows more is nobody's of the agent's.
    let copy: Pod = serde_json::from_value(made).unwrap();
    let free = labelled("shop", &[(ENFORCE, "privileged")]);
    let Decision::Patch { ops, .. } = decide(&copy, &free, std::slice::from_ref(&home), &agent, "ca") else { panic!() };
    let copy = patched(&copy, &ops);
    assert_eq!(copy["metadata"]["annotations"][MODE_ANNOTATION], Value::Null);
    assert!(!copy["spec"]["volumes"].to_string().contains(NODE_DRIVER) && copy["spec"]["initContainers"].as_array().unwrap().len() == 2);
}
