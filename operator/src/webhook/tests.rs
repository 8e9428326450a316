// Values written where they are used.
#![allow(clippy::needless_pass_by_value)]

use std::collections::BTreeMap;
use std::sync::Arc;

use campfire_api::conditions::SkipReason;
use campfire_api::names::*;
use campfire_api::{Campfire, Resources};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::containers::Defaults;
use super::inject::{Decision, Op};
use super::{inject, review};
use crate::cluster::Bounds;
use crate::members::{NamespaceMeta, Places, Served, Trusted};
use crate::nodes::Nodes;
use crate::settings::Level;

const CA: &str = "sha256-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[test]
fn a_pod_that_asks_gets_init_container_and_sidecar_before_its_own() {
    let before = pod(json!({ "initContainers": [{ "name": "migrate", "image": "app" }] }));
    let (after, warnings) = injected(&before, &namespace("shop"), &[campfire("shop", "home", json!({}))]);
    assert_eq!(names(&after, "initContainers"), [INIT_CONTAINER, SIDECAR_CONTAINER, "migrate"]);
    assert_eq!(names(&after, "volumes"), [STATE_VOLUME, AGENT_VOLUME]);
    assert_eq!(after["metadata"]["labels"][INJECTED_LABEL], ENABLED);
    assert_eq!(after["metadata"]["labels"]["app"], "web");
    assert_eq!(after["metadata"]["annotations"][CAMPFIRE_ANNOTATION], "shop/home");
    assert_eq!(after["metadata"]["annotations"][CA_ANNOTATION], CA);
    assert_eq!(after["metadata"]["annotations"][SETTINGS_HASH_ANNOTATION].as_str().unwrap().len(), 16);
    assert!(warnings.is_empty());
}

#[test]
fn the_injected_pod_is_what_the_golden_file_says() {
    let (after, _) = injected(&pod(json!({})), &namespace("shop"), &[campfire("shop", "home", json!({}))]);
    let text = serde_json::to_string_pretty(&after).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/webhook/golden/pod.json");
    if std::env::var_os("CAMPFIRE_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert!(
        text == golden,
        "the injected pod differs from {path}; if it should, run the test with CAMPFIRE_BLESS=1 and read the diff. Now:\n{text}"
    );
}

#[test]
fn only_the_init_container_has_capabilities_and_no_container_is_privileged() {
    let (after, _) = injected(&pod(json!({})), &namespace("shop"), &[campfire("shop", "home", json!({}))]);
    let init = &after["spec"]["initContainers"][0]["securityContext"];
    assert_eq!(init["capabilities"], json!({ "drop": ["ALL"], "add": ["NET_ADMIN", "MKNOD", "CHOWN"] }));
    let sidecar = &after["spec"]["initContainers"][1]["securityContext"];
    assert_eq!(sidecar["capabilities"], json!({ "drop": ["ALL"] }));
    assert_eq!(sidecar["runAsNonRoot"], true);
    for context in [init, sidecar] {
        assert_eq!(context["privileged"], false);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    }
}

#[test]
fn a_pod_without_metadata_maps_and_lists_is_patched_too() {
    let bare: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": [{ "name": "app" }] } })).unwrap();
    let (after, _) = injected(&bare, &labelled("shop", &[(INJECT_LABEL, ENABLED)]), &[campfire("shop", "home", json!({}))]);
    assert_eq!(names(&after, "initContainers"), [INIT_CONTAINER, SIDECAR_CONTAINER]);
}

#[test]
fn the_second_call_changes_nothing() {
    let (campfires, namespace) = ([campfire("shop", "home", json!({}))], namespace("shop"));
    let (after, _) = injected(&pod(json!({})), &namespace, &campfires);
    let again: Pod = serde_json::from_value(after).unwrap();
    assert_eq!(ops(decide(&again, &namespace, &campfires, &defaults(), CA)), []);
}

#[test]
fn what_others_put_before_ours_or_mounted_into_ours_is_put_right_at_the_second_call() {
    let (campfires, namespace) = ([campfire("shop", "home", json!({}))], namespace("shop"));
    let (once, _) = injected(&pod(json!({})), &namespace, &campfires);
    let mut moved = once.clone();
    moved["spec"]["initContainers"].as_array_mut().unwrap().insert(0, json!({ "name": "istio-init" }));
    moved["spec"]["initContainers"][2]["volumeMounts"].as_array_mut().unwrap().push(json!({
        "name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }));
    let (after, _) = injected(&serde_json::from_value(moved).unwrap(), &namespace, &campfires);
    assert_eq!(names(&after, "initContainers"), [INIT_CONTAINER, SIDECAR_CONTAINER, "istio-init"]);
    assert_eq!(after["spec"]["initContainers"][1], once["spec"]["initContainers"][1], "without the pod's API token");
    assert_eq!(names(&after, "volumes"), [STATE_VOLUME, AGENT_VOLUME]);
}

#[test]
fn a_copy_of_an_injected_pod_gets_what_holds_now() {
    let namespace = namespace("shop");
    let (old, _) = injected(&pod(json!({})), &namespace, &[campfire("shop", "home", json!({ "sidecar": { "image": "old" } }))]);
    let (new, _) = injected(&serde_json::from_value(old).unwrap(), &namespace, &[campfire("shop", "home", json!({}))]);
    let (fresh, _) = injected(&pod(json!({})), &namespace, &[campfire("shop", "home", json!({}))]);
    assert_eq!(new, fresh);
}

#[test]
fn the_label_of_the_pod_wins_over_the_namespaces() {
    let campfires = [campfire("shop", "home", json!({}))];
    let unlabelled = labelled_pod(&[]);
    let on = labelled("shop", &[(INJECT_LABEL, ENABLED)]);
    let off = labelled("shop", &[(INJECT_LABEL, DISABLED)]);
    let reason = |pod: &Pod, namespace: &NamespaceMeta| reason(decide(pod, namespace, &campfires, &defaults(), CA));
    assert_eq!(reason(&unlabelled, &namespace("shop")), Some(SkipReason::NotAsked));
    assert_eq!(reason(&unlabelled, &on), None);
    assert_eq!(reason(&labelled_pod(&[(INJECT_LABEL, DISABLED)]), &on), Some(SkipReason::NotAsked));
    assert_eq!(reason(&labelled_pod(&[(INJECT_LABEL, ENABLED)]), &off), None);
}

#[test]
fn each_reason_to_leave_a_pod_alone_is_said_with_what_to_do() {
    let home = || campfire("shop", "home", json!({}));
    let open = |name: &str| campfire("infra", name, json!({ "members": { "namespaces": { "from": "All" } } }));
    let named = |name: &str| annotated_pod(&[(CAMPFIRE_ANNOTATION, name)]);
    let restricted = labelled("shop", &[("pod-security.kubernetes.io/enforce", "restricted")]);
    let baseline = labelled("shop", &[("pod-security.kubernetes.io/enforce", "baseline")]);
    let shop = namespace("shop");
    let cases: Vec<(Pod, NamespaceMeta, Vec<Campfire>, SkipReason, &str)> = vec![
        (
            pod(json!({})),
            namespace("kube-system"),
            vec![open("a")],
            SkipReason::ProtectedNamespace,
            "pods in namespace kube-system never get a sidecar",
        ),
        (
            pod(json!({})),
            namespace("campfire-system"),
            vec![open("a")],
            SkipReason::ProtectedNamespace,
            "pods in namespace campfire-system never get a sidecar",
        ),
        (pod(json!({ "hostNetwork": true })), shop.clone(), vec![home()], SkipReason::HostNetwork, "hostNetwork"),
        (pod(json!({ "os": { "name": "windows" } })), shop.clone(), vec![home()], SkipReason::Windows, "Windows"),
        (pod(json!({ "nodeSelector": { "kubernetes.io/os": "windows" } })), shop.clone(), vec![home()], SkipReason::Windows, "Windows"),
        (pod(json!({})), shop.clone(), vec![], SkipReason::NoCampfire, "create one"),
        (
            pod(json!({})),
            shop.clone(),
            vec![home(), campfire("shop", "other", json!({}))],
            SkipReason::AmbiguousCampfire,
            "(shop/home, shop/other): name one in annotation campfire.network/campfire",
        ),
        (named("gone"), shop.clone(), vec![home()], SkipReason::CampfireNotFound, "there is no Campfire shop/gone"),
        (
            named("other/home"),
            shop.clone(),
            vec![campfire("other", "home", json!({}))],
            SkipReason::NamespaceNotAdmitted,
            "does not admit namespace shop",
        ),
        (named("../etc"), shop.clone(), vec![home()], SkipReason::InvalidAnnotation, "no [namespace/]name"),
        (pod(json!({})), restricted.clone(), vec![home()], SkipReason::PodSecurityForbids, "enforces the Pod Security Standard restricted"),
        (
            pod(json!({})),
            baseline,
            vec![home()],
            SkipReason::PodSecurityForbids,
            "label the namespace pod-security.kubernetes.io/enforce=privileged",
        ),
        (pod(json!({ "containers": [{ "name": "campfire" }] })), shop.clone(), vec![home()], SkipReason::NameTaken, "named campfire"),
        (pod(json!({ "initContainers": [{ "name": "campfire-init" }] })), shop.clone(), vec![home()], SkipReason::NameTaken, "rename it"),
        (
            pod(json!({ "volumes": [{ "name": "campfire-state" }] })),
            shop.clone(),
            vec![home()],
            SkipReason::NameTaken,
            "named campfire-state",
        ),
    ];
    for (pod, namespace, campfires, expected, part) in cases {
        match decide(&pod, &namespace, &campfires, &defaults(), CA) {
            Decision::Skip { reason, message, .. } => {
                assert_eq!(reason, expected);
                assert!(message.contains(part), "{expected:?}: {message}");
            }
            Decision::Patch { .. } => panic!("{expected:?} was injected"),
        }
    }
    let tun = campfire("shop", "home", json!({ "sidecar": { "mode": "Tun" } }));
    assert_eq!(reason(decide(&pod(json!({})), &restricted, &[tun], &defaults(), CA)), None, "whoever asks for Tun gets it");
    assert_eq!(reason(decide(&pod(json!({})), &shop, &[home()], &defaults(), "")), Some(SkipReason::OperatorStarting));
}

#[test]
fn a_named_campfire_is_taken_among_several_and_the_pods_name_before_the_namespaces() {
    let open = |name: &str| campfire("infra", name, json!({ "members": { "namespaces": { "from": "All" } } }));
    let campfires = [open("a"), open("b"), campfire("shop", "home", json!({}))];
    let mut shop = namespace("shop");
    shop.annotations.insert(CAMPFIRE_ANNOTATION.into(), "infra/b".into());
    let sits_at = |pod: &Pod| match decide(pod, &shop, &campfires, &defaults(), CA) {
        Decision::Patch { campfire, .. } => campfire.to_string(),
        Decision::Skip { message, .. } => panic!("{message}"),
    };
    assert_eq!(sits_at(&pod(json!({}))), "infra/b");
    assert_eq!(sits_at(&annotated_pod(&[(CAMPFIRE_ANNOTATION, "home")])), "shop/home");
}

#[test]
fn settings_come_from_the_pod_then_the_campfire_then_the_chart() {
    let campfires = [campfire(
        "shop",
        "home",
        json!({ "sidecar": {
        "image": "of-campfire", "startup": { "policy": "Require", "timeout": "2m" }, "resources": { "limits": { "memory": "1Gi" } },
    } }),
    )];
    let (plain, _) = injected(&pod(json!({})), &namespace("shop"), &campfires);
    let sidecar = &plain["spec"]["initContainers"][1];
    assert_eq!(sidecar["image"], "of-campfire");
    assert_eq!(sidecar["resources"], json!({ "requests": { "cpu": "10m" }, "limits": { "memory": "1Gi" } }));
    assert_eq!(env(sidecar, "CAMPFIRE_STARTUP_POLICY"), "Require");
    assert_eq!(env(sidecar, "CAMPFIRE_STARTUP_TIMEOUT"), "120s");
    let own = annotated_pod(&[
        ("config.campfire.network/image", "registry.example.org:5000/own@sha256:00"),
        ("config.campfire.network/startup-policy", "Wait"),
        ("config.campfire.network/startup-timeout", "30s"),
        ("config.campfire.network/log", "debug"),
        ("config.campfire.network/direct", "Forbid"),
    ]);
    let (own, warnings) = injected(&own, &namespace("shop"), &campfires);
    let sidecar = &own["spec"]["initContainers"][1];
    assert_eq!(sidecar["image"], "registry.example.org:5000/own@sha256:00");
    assert_eq!(env(sidecar, "CAMPFIRE_STARTUP_POLICY"), "Wait");
    assert_eq!(env(sidecar, "CAMPFIRE_STARTUP_TIMEOUT"), "30s");
    assert_eq!(env(sidecar, "CAMPFIRE_LOG"), "debug");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_ne!(plain["metadata"]["annotations"][SETTINGS_HASH_ANNOTATION], own["metadata"]["annotations"][SETTINGS_HASH_ANNOTATION]);
}

#[test]
fn the_init_container_is_told_all_that_it_makes_and_asks_nobody() {
    let network = json!({ "network": { "ipv4Pool": "100.80.0.0/16", "acceptRoutes": ["10.8.0.0/16", "fd00:8::/32"], "mtu": 1400 } });
    let (after, _) = injected(&pod(json!({})), &namespace("shop"), &[campfire("shop", "home", network.clone())]);
    let (init, sidecar) = (&after["spec"]["initContainers"][0], &after["spec"]["initContainers"][1]);
    assert_eq!(env(init, "CAMPFIRE_NETWORK"), "0102030405");
    assert_eq!((env(init, "CAMPFIRE_IPV4_POOL"), env(init, "CAMPFIRE_MTU")), ("100.80.0.0/16", "1400"));
    assert_eq!(env(init, "CAMPFIRE_ACCEPT_ROUTE"), "10.8.0.0/16,fd00:8::/32");
    assert_eq!(init["args"], json!(["pod-init"]));
    let mounts =
        |container: &Value| container["volumeMounts"].as_array().unwrap().iter().map(|mount| mount["name"].clone()).collect::<Vec<_>>();
    assert_eq!(mounts(init), [STATE_VOLUME], "no token: it has nobody to show it to");
    assert!(mounts(sidecar).contains(&json!("campfire-agent")));
    // A network that changes changes what a pod would be given; a second way to the agent API does not.
    let hash = |after: &Value| after["metadata"]["annotations"][SETTINGS_HASH_ANNOTATION].clone();
    let (plain, _) = injected(&pod(json!({})), &namespace("shop"), &[campfire("shop", "home", json!({}))]);
    assert_ne!(hash(&after), hash(&plain));
    let defaults = Defaults { agent_address: Some("10.96.0.77".parse().unwrap()), ..defaults() };
    let Decision::Patch { ops, .. } = decide(&pod(json!({})), &namespace("shop"), &[campfire("shop", "home", network)], &defaults, CA)
    else {
        panic!("no patch");
    };
    let ops = serde_json::to_value(ops).unwrap().to_string();
    assert!(ops.contains(hash(&after).as_str().unwrap()) && ops.matches("10.96.0.77").count() == 1, "{ops}");
}

#[test]
fn a_pod_whose_campfire_has_no_network_yet_is_not_injected() {
    let mut new = campfire("shop", "home", json!({}));
    new.status = None;
    let decision = decide(&pod(json!({})), &namespace("shop"), &[new], &defaults(), CA);
    let Decision::Skip { reason: SkipReason::CampfireNotReady, message, .. } = decision else { panic!("{decision:?}") };
    assert!(message.contains("kubectl wait") && message.contains("make the pod anew"), "{message}");
}

#[test]
fn red_10_a_campfire_of_another_namespace_is_a_place_at_a_fire_and_nothing_more_unless_it_is_trusted() {
    let mut games = campfire(
        "games",
        "x",
        json!({
            "members": { "namespaces": { "from": "All" } },
            "sidecar": {
                "image": "registry.evil.example/root:1", "imagePullSecrets": [{ "name": "theirs" }], "mode": "Tun",
                "startup": { "policy": "Require", "timeout": "999m" }, "resources": { "requests": { "cpu": "64" } },
            },
            "network": { "acceptRoutes": ["10.0.0.0/8"], "mtu": 1400 },
            "turn": { "podTemplate": { "annotations": { "config.campfire.network/image": "registry.evil.example/root:1" } } },
        }),
    );
    let alone = std::slice::from_ref(&games);
    let (after, warnings) = injected(&pod(json!({})), &namespace("shop"), alone);
    let bare = campfire("games", "x", json!({ "members": { "namespaces": { "from": "All" } }, "network": { "mtu": 1400 } }));
    let (plain, _) = injected(&pod(json!({})), &namespace("shop"), &[bare]);
    assert_eq!(after, plain, "as the chart says, whatever the Campfire does");
    assert_eq!(env(&after["spec"]["initContainers"][0], "CAMPFIRE_MTU"), "1400", "all members have one");
    assert!(matches!(warnings.as_slice(), [said] if said.contains("trustedNamespaces does not name games")), "{warnings:?}");
    // Nor does `Tun` get pods refused where another namespace's PodSecurity is against it.
    let restricted = labelled("shop", &[("pod-security.kubernetes.io/enforce", "restricted")]);
    assert_eq!(reason(decide(&pod(json!({})), &restricted, alone, &defaults(), CA)), Some(SkipReason::PodSecurityForbids));
    let home = |name: &str| inject::startup_timeout(name, &BTreeMap::new(), &games, &Trusted::default()).as_secs();
    assert_eq!((home("shop"), home("games")), (10, 999 * 60), "and no pod is thought to be on its way for so long");

    // In its own namespace, and where the chart trusts its namespace, it holds.
    let trusting = Defaults { trusted: Trusted::new(["infra", "games"]), ..defaults() };
    for (namespace, defaults) in [(namespace("games"), defaults()), (namespace("shop"), trusting)] {
        let Decision::Patch { ops, warnings, .. } = decide(&pod(json!({})), &namespace, alone, &defaults, CA) else { panic!() };
        let ops = serde_json::to_value(ops).unwrap().to_string();
        assert!(["registry.evil.example/root:1", "theirs", "Require", "10.0.0.0/8"].iter().all(|said| ops.contains(said)), "{ops}");
        assert_eq!(warnings, [""; 0]);
    }

    // Where another one admits the namespace already, one that comes later takes nobody away; nor from the namespace's own.
    let mut main = campfire("default", "main", json!({ "members": { "namespaces": { "from": "All" } } }));
    main.metadata.creation_timestamp = serde_json::from_value(json!("2026-11-27T08:00:00Z")).unwrap();
    games.metadata.creation_timestamp = serde_json::from_value(json!("2026-11-27T08:00:01Z")).unwrap();
    let sits = |campfires: &[Campfire], namespace: &NamespaceMeta| match decide(&pod(json!({})), namespace, campfires, &defaults(), CA) {
        Decision::Patch { campfire, warnings, .. } => (campfire.to_string(), warnings.concat()),
        Decision::Skip { reason, message, .. } => panic!("{reason:?}: {message}"),
    };
    let shop = namespace("shop");
    let (at, said) = sits(&[games.clone(), main.clone()], &shop);
    assert_eq!(at, "default/main");
    assert!(said.contains("default/main is the oldest (then games/x): name one in annotation"), "{said}");
    assert_eq!(sits(&[main.clone(), games.clone(), campfire("shop", "home", json!({}))], &shop), ("shop/home".into(), String::new()));
    let mut named = shop.clone();
    named.annotations.insert(CAMPFIRE_ANNOTATION.into(), "default/main".into());
    assert_eq!(sits(&[games, main], &named), ("default/main".into(), String::new()));
}

#[test]
fn a_setting_that_cannot_be_read_is_warned_of_and_the_default_holds() {
    let wrong = annotated_pod(&[
        ("config.campfire.network/image", "no image; rm -rf /"),
        ("config.campfire.network/startup-policy", "wait"),
        ("config.campfire.network/startup-timeout", "0s"),
        ("config.campfire.network/log", ""),
        ("config.campfire.network/direct", "no"),
        ("config.campfire.network/mtu", "9000"),
    ]);
    let (after, warnings) = injected(&wrong, &namespace("shop"), &[campfire("shop", "home", json!({}))]);
    let (plain, _) = injected(&pod(json!({})), &namespace("shop"), &[campfire("shop", "home", json!({}))]);
    assert_eq!(after["spec"], plain["spec"]);
    assert_eq!(warnings.len(), 6, "{warnings:?}");
    assert!(
        warnings.contains(&"campfire: annotation config.campfire.network/direct must be Allow or Forbid: the default is used".to_owned())
    );
    assert!(
        warnings.iter().any(|warning| warning.contains("mtu is not known and was ignored; there are startup-policy, ")),
        "{warnings:?}"
    );
}

#[test]
fn malformed_reviews_are_refused_with_what_is_wrong() {
    let refused = |body: &str| review::read(body.as_bytes()).unwrap_err().message;
    assert!(refused("").starts_with("this is no AdmissionReview: EOF"));
    assert!(refused("[1]").starts_with("this is no AdmissionReview"));
    assert_eq!(
        refused(r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}"#),
        "this is no AdmissionReview of admission.k8s.io/v1"
    );
    assert_eq!(refused(r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#), "the AdmissionReview has no request");
    assert!(refused(&asked(&json!({ "spec": 7 })).to_string()).starts_with("the AdmissionReview's object is no Pod: "));
    let many = asked(&json!({ "spec": { "volumes": vec![json!({}); 1_001] } })).to_string();
    assert!(refused(&many).contains("a list has more than 1000 elements"));
    let deep = |field: &str| {
        let object = format!(r#"{{"metadata":{{"{field}":[{{"name":{}1{}}}]}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        asked(&json!("X")).to_string().replace("\"X\"", &object)
    };
    assert!(refused(&deep("ownerReferences")).len() < 300);
    assert!(review::read(deep("managedFields").as_bytes()).is_ok(), "deep nesting is passed over, not followed");
}

#[test]
fn reviews_of_anything_else_are_let_pass() {
    for (field, value) in [
        ("operation", json!("UPDATE")),
        ("subResource", json!("status")),
        ("resource", json!({ "group": "apps", "version": "v1", "resource": "deployments" })),
    ] {
        let mut review = asked(&json!({ "any": "thing" }));
        review["request"][field] = value;
        assert!(review::read(review.to_string().as_bytes()).unwrap().pod.is_none());
    }
}

#[test]
fn the_answer_allows_and_carries_the_patch_and_the_warnings() {
    let ops = [Op::Add { path: "/a".into(), value: json!(1) }, Op::Remove { path: "/b".into() }];
    let answer: Value = serde_json::from_slice(&review::write("u1", &ops, &["w".into()])).unwrap();
    assert_eq!(
        answer,
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {
                "uid": "u1", "allowed": true, "patchType": "JSONPatch", "warnings": ["w"],
                "patch": "W3sib3AiOiJhZGQiLCJwYXRoIjoiL2EiLCJ2YWx1ZSI6MX0seyJvcCI6InJlbW92ZSIsInBhdGgiOiIvYiJ9XQ==",
            },
        })
    );
    let nothing: Value = serde_json::from_slice(&review::write("u1", &[], &[])).unwrap();
    assert_eq!(nothing["response"], json!({ "uid": "u1", "allowed": true }));
}

proptest! {
    #[test]
    fn hostile_reviews_are_answered_or_refused(spec in any_json(), metadata in any_json(), level in "[a-z]{0,12}") {
        let review = asked(&json!({ "metadata": metadata, "spec": spec })).to_string();
        let Ok(asked) = review::read(review.as_bytes()) else { return Ok(()) };
        let Some(pod) = asked.pod else { return Ok(()) };
        let namespace = labelled(&asked.namespace, &[("pod-security.kubernetes.io/enforce", &level), (INJECT_LABEL, ENABLED)]);
        let campfires = [campfire("shop", "home", json!({}))];
        if let Decision::Patch { ops, .. } = decide(&pod, &namespace, &campfires, &defaults(), CA) {
            // The patch fits the pod that it is for, and the result is a pod that needs no other.
            let mut after = serde_json::to_value(&pod).unwrap();
            for op in &ops {
                apply(&mut after, op);
            }
            let after: Pod = serde_json::from_value(after).unwrap();
            prop_assert_eq!(super::tests::ops(decide(&after, &namespace, &campfires, &defaults(), CA)), vec![]);
        }
    }

    #[test]
    fn bytes_that_are_no_review_are_refused(body in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(review::read(&body).is_err());
    }
}

/// JSON made of names that pods have, in places where they may not be.
fn any_json() -> impl Strategy<Value = Value> {
    let names = [
        "name",
        "containers",
        "initContainers",
        "volumes",
        "volumeMounts",
        "labels",
        "annotations",
        "hostNetwork",
        "os",
        "campfire",
        "campfire-init",
        "campfire-state",
        "campfire-agent",
        INJECT_LABEL,
        INJECTED_LABEL,
        CAMPFIRE_ANNOTATION,
        SETTINGS_HASH_ANNOTATION,
        "config.campfire.network/image",
        "mountPath",
        "a/b~c",
    ];
    let name = proptest::sample::select(names.to_vec());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        name.clone().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..6).prop_map(|map| json!(map)),
        ]
    });
    // Often nearly a pod, so that something is patched.
    let list = |name: &'static str| {
        let one = proptest::sample::select(vec!["app", "campfire", "campfire-init", "campfire-state", "x"])
            .prop_map(|name| json!({ "name": name }));
        proptest::collection::vec(one, 0..4).prop_map(move |list| (name, Value::from(list)))
    };
    let near =
        (list("containers"), list("initContainers"), list("volumes"), proptest::option::of(Just(json!({ SETTINGS_HASH_ANNOTATION: "0" }))))
            .prop_map(|(containers, inits, volumes, stamped)| {
                let mut spec: serde_json::Map<String, Value> =
                    [containers, inits, volumes].map(|(name, list)| (name.to_owned(), list)).into_iter().collect();
                if let Some(stamped) = stamped {
                    spec.insert("annotations".into(), stamped);
                }
                Value::from(spec)
            });
    prop_oneof![tree, near]
}

/// With these Campfires, all of which are served.
pub(super) fn decide(pod: &Pod, namespace: &NamespaceMeta, campfires: &[Campfire], defaults: &Defaults, ca: &str) -> Decision {
    let places = Places::new(campfires.iter().cloned().map(Arc::new).collect(), &Served::default());
    inject::decide(pod, namespace, &Bounds::default(), &places, defaults, ca)
}

pub(super) fn defaults() -> Defaults {
    Defaults {
        operator_namespace: "campfire-system".into(),
        image: "registry.example.org/campfire:0.1.0".into(),
        pull_policy: "IfNotPresent".into(),
        resources: resources(json!({ "requests": { "cpu": "10m", "memory": "24Mi" }, "limits": { "memory": "128Mi" } })),
        pod_security: Level::Privileged,
        trusted: Trusted::default(),
        agent_address: None,
        nodes: Nodes::default(),
    }
}

pub(super) fn resources(given: Value) -> Resources {
    serde_json::from_value(given).unwrap()
}

pub(super) fn campfire(namespace: &str, name: &str, spec: Value) -> Campfire {
    serde_json::from_value(json!({
        "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "namespace": namespace, "name": name }, "spec": spec,
        "status": { "prefix": "fd01:203:405::/48" },
    }))
    .unwrap()
}

pub(super) fn namespace(name: &str) -> NamespaceMeta {
    labelled(name, &[])
}

pub(super) fn labelled(name: &str, labels: &[(&str, &str)]) -> NamespaceMeta {
    NamespaceMeta { name: name.into(), labels: map(labels), annotations: BTreeMap::new() }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// One that asks for the sidecar.
pub(super) fn pod(spec: Value) -> Pod {
    let mut pod = json!({
        "metadata": { "labels": { INJECT_LABEL: ENABLED, "app": "web" } },
        "spec": { "containers": [{ "name": "app", "image": "app", "resources": { "requests": { "cpu": "1" } } }] },
    });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(pod).unwrap()
}

fn labelled_pod(labels: &[(&str, &str)]) -> Pod {
    let mut pod = pod(json!({}));
    pod.metadata.labels = Some(map(labels));
    pod
}

fn annotated_pod(annotations: &[(&str, &str)]) -> Pod {
    let mut pod = pod(json!({}));
    pod.metadata.annotations = Some(map(annotations));
    pod
}

fn asked(object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u1", "operation": "CREATE", "namespace": "shop", "object": object,
            "resource": { "group": "", "version": "v1", "resource": "pods" },
        },
    })
}

fn ops(decision: Decision) -> Vec<Op> {
    match decision {
        Decision::Patch { ops, .. } => ops,
        Decision::Skip { reason, message, .. } => panic!("{reason:?}: {message}"),
    }
}

fn reason(decision: Decision) -> Option<SkipReason> {
    match decision {
        Decision::Patch { .. } => None,
        Decision::Skip { reason, .. } => Some(reason),
    }
}

/// The pod after the patch, and the warnings.
fn injected(pod: &Pod, namespace: &NamespaceMeta, campfires: &[Campfire]) -> (Value, Vec<String>) {
    match decide(pod, namespace, campfires, &defaults(), CA) {
        Decision::Patch { ops, warnings, .. } => {
            let mut after = serde_json::to_value(pod).unwrap();
            for op in &ops {
                apply(&mut after, op);
            }
            (after, warnings)
        }
        Decision::Skip { reason, message, .. } => panic!("{reason:?}: {message}"),
    }
}

/// RFC 6902, as strict as the API server: the parent must be there.
pub(super) fn apply(document: &mut Value, op: &Op) {
    let (path, value) = match op {
        Op::Add { path, value } => (path, Some(value)),
        Op::Remove { path } => (path, None),
    };
    let (parent, last) = path.rsplit_once('/').unwrap();
    let last = last.replace("~1", "/").replace("~0", "~");
    match (document.pointer_mut(parent).unwrap_or_else(|| panic!("{path}: no parent")), value) {
        (Value::Object(map), Some(value)) => drop(map.insert(last, value.clone())),
        (Value::Object(map), None) => drop(map.remove(&last).unwrap()),
        (Value::Array(list), Some(value)) if last == "-" => list.push(value.clone()),
        (Value::Array(list), Some(value)) => list.insert(last.parse().unwrap(), value.clone()),
        (Value::Array(list), None) => drop(list.remove(last.parse().unwrap())),
        (other, _) => panic!("{path}: {other} has no members"),
    }
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    pod["spec"][list].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

fn env<'a>(container: &'a Value, name: &str) -> &'a str {
    let entry = container["env"].as_array().unwrap().iter().find(|entry| entry["name"] == name);
    entry.unwrap()["value"].as_str().unwrap()
}
