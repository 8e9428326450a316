//! What our containers get beside a pod's own, by tables.

// Values written where they are used.
#![allow(clippy::needless_pass_by_value)]

use std::sync::Arc;

use campfire_api::Campfire;
use campfire_api::conditions::SkipReason;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::containers::Defaults;
use super::fit::{Class, Wish, class_of, fit};
use super::inject::{Decision, Op, decide};
use super::tests::{apply, campfire, defaults, labelled, pod, resources};
use crate::cluster::Bounds;
use crate::members::{NamespaceMeta, Places, Served};
use crate::settings::Level;

/// As the chart asks for.
fn usual() -> Wish {
    Wish { resources: resources(json!({ "requests": { "cpu": "10m", "memory": "24Mi" }, "limits": { "memory": "128Mi" } })), own: false }
}

fn both(cpu: &str, memory: &str) -> Value {
    let amounts = json!({ "cpu": cpu, "memory": memory });
    json!({ "requests": amounts, "limits": amounts })
}

fn apps(each: &[Value]) -> PodSpec {
    let containers: Vec<Value> = each.iter().enumerate().map(|(n, has)| json!({ "name": format!("app-{n}"), "resources": has })).collect();
    serde_json::from_value(json!({ "containers": containers })).unwrap()
}

fn range(kind: &str, more: Value) -> Bounds {
    let mut item = json!({ "type": kind });
    item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let range = serde_json::from_value(json!({ "metadata": { "name": "r" }, "spec": { "limits": [item] } })).unwrap();
    Bounds { ranges: vec![Arc::new(range)], ..Bounds::default() }
}

fn quota(spec: Value, hard: Value, used: Value) -> Bounds {
    let mut spec = spec;
    spec["hard"] = hard.clone();
    let quota = json!({ "metadata": { "name": "q" }, "spec": spec, "status": { "hard": hard, "used": used } });
    Bounds { quotas: vec![Arc::new(serde_json::from_value(quota).unwrap())], ..Bounds::default() }
}

#[test]
fn ours_ask_for_what_keeps_the_pods_class_and_what_its_namespace_wants_of_each() {
    let free = Bounds::default;
    let requests = |cpu: &str, memory: &str| json!({ "requests": { "cpu": cpu, "memory": memory } });
    let own = Wish { own: true, ..usual() };
    let more =
        Wish { resources: resources(json!({ "requests": { "cpu": "2", "nvidia.com/gpu": 1 }, "limits": { "cpu": "1" } })), own: true };
    let restartable = json!({ "containers": [{ "name": "a", "resources": both("1", "1Gi") }], "initContainers": [{ "name": "i" }] });
    let restartable: PodSpec = serde_json::from_value(restartable).unwrap();
    let guaranteed = json!({ "requests": { "cpu": "200m", "memory": "128Mi" }, "limits": { "cpu": "200m", "memory": "128Mi" } });
    let burstable = json!({ "requests": { "cpu": "10m", "memory": "24Mi" }, "limits": { "memory": "128Mi" } });
    let table = vec![
        ("Guaranteed", apps(&[both("1", "1Gi"), both("100m", "64Mi")]), usual(), free(), guaranteed.clone()),
        ("limits alone are requests too", apps(&[json!({ "limits": { "cpu": "1", "memory": "1Gi" } })]), usual(), free(), guaranteed),
        ("an init container without any makes it Burstable", restartable, usual(), free(), burstable.clone()),
        ("BestEffort", apps(&[json!({}), json!({})]), usual(), free(), json!({})),
        ("BestEffort, of a Campfire that asks", apps(&[json!({})]), own.clone(), free(), burstable.clone()),
        (
            "but not where a quota tells the classes apart",
            apps(&[json!({})]),
            own,
            quota(json!({ "scopes": ["NotBestEffort"] }), json!({ "requests.cpu": "1" }), json!({})),
            json!({}),
        ),
        ("Burstable, of which one has no limits", apps(&[requests("1", "1Gi"), both("1", "1Gi")]), usual(), free(), burstable.clone()),
        (
            "a CPU limit where all have one",
            apps(&[json!({ "requests": { "cpu": "50m" }, "limits": { "cpu": "1" } }), json!({ "limits": { "cpu": "100m" } })]),
            usual(),
            free(),
            json!({ "requests": { "cpu": "10m", "memory": "24Mi" }, "limits": { "cpu": "200m", "memory": "128Mi" } }),
        ),
        (
            "never more than the limit, and nothing that no node may have",
            apps(&[requests("1", "1Gi")]),
            more,
            free(),
            json!({ "requests": { "cpu": "1", "memory": "24Mi" }, "limits": { "cpu": "1" } }),
        ),
        (
            "min",
            apps(&[requests("1", "1Gi")]),
            usual(),
            range("Container", json!({ "min": { "cpu": "50m", "memory": "200Mi" } })),
            json!({ "requests": { "cpu": "50m", "memory": "200Mi" }, "limits": { "memory": "200Mi" } }),
        ),
        (
            "max",
            apps(&[both("1", "1Gi"), requests("1", "1Gi")]),
            usual(),
            range("Container", json!({ "max": { "cpu": "100m", "memory": "64Mi" } })),
            json!({ "requests": { "cpu": "10m", "memory": "24Mi" }, "limits": { "cpu": "100m", "memory": "64Mi" } }),
        ),
        (
            "ratio, of a container and of a pod alike",
            apps(&[requests("1", "1Gi")]),
            usual(),
            range("Pod", json!({ "maxLimitRequestRatio": { "memory": "4", "cpu": "2.5" } })),
            json!({ "requests": { "cpu": "80m", "memory": "32Mi" }, "limits": { "cpu": "200m", "memory": "128Mi" } }),
        ),
        (
            "bounds of a Guaranteed pod",
            apps(&[both("1", "1Gi")]),
            usual(),
            range("Container", json!({ "min": { "cpu": "500m" }, "max": { "memory": "64Mi" } })),
            json!({ "requests": { "cpu": "500m", "memory": "64Mi" }, "limits": { "cpu": "500m", "memory": "64Mi" } }),
        ),
    ];
    for (what, spec, wish, bounds, expected) in table {
        let fitted = fit(&spec, &wish, &bounds).unwrap_or_else(|(reason, why)| panic!("{what}: {reason}: {why}"));
        assert_eq!(json!(fitted), expected, "{what}");
    }
}

#[test]
fn a_pod_with_resources_of_its_own_gets_none_from_us() {
    let of_pod = |resources: Value, each: Value| -> PodSpec {
        serde_json::from_value(json!({ "resources": resources, "containers": [{ "name": "app", "resources": each }] })).unwrap()
    };
    let nothing = Bounds::default();
    assert_eq!(json!(fit(&of_pod(both("100m", "64Mi"), both("100m", "64Mi")), &usual(), &nothing).unwrap()), json!({}));
    assert_eq!(json!(fit(&of_pod(both("1", "1Gi"), json!({})), &usual(), &nothing).unwrap()), json!({}));
    let cpu = json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "1" } });
    assert_eq!(
        json!(fit(&of_pod(cpu, json!({ "requests": { "memory": "1Gi" } })), &usual(), &nothing).unwrap()),
        json!({ "requests": { "memory": "24Mi" }, "limits": { "memory": "128Mi" } }),
        "of what the pod does not name as ever"
    );
    // Each container must have some, and there is some left, or not.
    let least = range("Container", json!({ "min": { "cpu": "50m" } }));
    let some = fit(&of_pod(both("200m", "64Mi"), both("100m", "64Mi")), &usual(), &least).unwrap();
    assert_eq!(json!(some), json!({ "requests": { "cpu": "50m" }, "limits": { "cpu": "200m" } }));
    let (reason, why) = fit(&of_pod(both("100m", "64Mi"), both("100m", "64Mi")), &usual(), &least).unwrap_err();
    assert_eq!(reason, SkipReason::LimitRangeForbids);
    assert!(why.contains("of which 0 are left") && why.contains("LimitRange r"), "{why}");
}

#[test]
fn where_ours_do_not_fit_the_pod_is_left_alone_and_where_it_does_not_fit_itself_that_is_not_ours_to_say() {
    let app = || apps(&[both("100m", "64Mi")]);
    let full = |hard: Value, used: Value| quota(json!({}), hard, used);
    let of = |scopes: Value| quota(scopes, json!({ "limits.cpu": "1" }), json!({ "limits.cpu": "850m" }));
    let priority = |operator: &str| json!({ "scopeSelector": { "matchExpressions": [{ "scopeName": "PriorityClass", "operator": operator, "values": ["high"] }] } });
    let table = vec![
        (range("Container", json!({ "max": { "memory": "16Mi" } })), Some((SkipReason::LimitRangeForbids, "raise its max"))),
        (range("Pod", json!({ "max": { "cpu": "250m" } })), Some((SkipReason::LimitRangeForbids, "allows a pod 250m of cpu"))),
        (range("Pod", json!({ "max": { "cpu": "300m" } })), None),
        (range("Pod", json!({ "max": { "cpu": "50m" } })), None),
        (full(json!({ "limits.cpu": "1" }), json!({ "limits.cpu": "700m" })), None),
        (
            full(json!({ "limits.cpu": "1" }), json!({ "limits.cpu": "701m" })),
            Some((SkipReason::QuotaForbids, "then 199m of limits.cpu, and the sidecar needs 200m")),
        ),
        (full(json!({ "limits.cpu": "1" }), json!({ "limits.cpu": "1" })), None),
        (full(json!({ "memory": "1Gi" }), json!({ "memory": "900Mi" })), Some((SkipReason::QuotaForbids, "of memory"))),
        (full(json!({ "requests.memory": "1Gi" }), json!({ "requests.memory": "900Mi" })), Some((SkipReason::QuotaForbids, "quota q"))),
        (of(json!({ "scopes": ["Terminating"] })), None),
        (of(json!({ "scopes": ["NotTerminating", "NotBestEffort"] })), Some((SkipReason::QuotaForbids, "quota q"))),
        (of(json!({ "scopes": ["BestEffort"] })), None),
        (of(priority("In")), None),
        (of(priority("NotIn")), Some((SkipReason::QuotaForbids, "quota q"))),
    ];
    for (bounds, expected) in table {
        match (fit(&app(), &usual(), &bounds), expected) {
            (Ok(_), None) => {}
            (Err((reason, why)), Some((expected, part))) => {
                assert_eq!(reason, expected, "{why}");
                assert!(why.contains(part), "{why}");
            }
            (fitted, expected) => panic!("{fitted:?} for {expected:?}: {bounds:?}"),
        }
    }
}

#[test]
fn pods_that_cannot_take_a_sidecar_are_left_alone_and_told_why() {
    let plain = || labelled("shop", &[]);
    let mirror = || {
        let mut pod = pod(json!({}));
        pod.metadata.annotations = Some([("kubernetes.io/config.mirror".to_owned(), "x".to_owned())].into());
        pod
    };
    let full = || {
        let mut pod = pod(json!({}));
        pod.metadata.annotations = Some([("big".to_owned(), "x".repeat(256 * 1_024 - 500))].into());
        pod
    };
    let tun = campfire("shop", "home", json!({ "sidecar": { "mode": "Tun" } }));
    let auto = campfire("shop", "home", json!({}));
    let table = vec![
        (pod(json!({ "hostNetwork": true })), Some((SkipReason::HostNetwork, "hostNetwork"))),
        (pod(json!({ "os": { "name": "windows" } })), Some((SkipReason::Windows, "Windows"))),
        (mirror(), Some((SkipReason::MirrorPod, "from a file"))),
        (full(), Some((SkipReason::AnnotationsFull, "262144"))),
        (pod(json!({ "hostUsers": false })), Some((SkipReason::UserNamespace, "spec.sidecar.mode: Tun"))),
        // These take it: ours say themselves what a pod says of all.
        (pod(json!({ "hostUsers": true, "shareProcessNamespace": true, "restartPolicy": "Never" })), None),
        (pod(json!({ "securityContext": { "runAsNonRoot": true, "runAsUser": 1_000, "fsGroup": 2_000 } })), None),
    ];
    for (pod, expected) in table {
        match (decided(&pod, &plain(), std::slice::from_ref(&auto), &Bounds::default(), &defaults()), expected) {
            (Decision::Patch { .. }, None) => {}
            (Decision::Skip { reason, message, campfire }, Some((expected, part))) => {
                assert_eq!(reason, expected);
                assert!(message.contains(part), "{message}");
                assert_eq!(campfire.unwrap().to_string(), "shop/home", "where it is missed");
            }
            (decision, expected) => panic!("{decision:?}, expected {expected:?}"),
        }
    }
    let pod = pod(json!({ "hostUsers": false }));
    assert!(matches!(decided(&pod, &plain(), &[tun], &Bounds::default(), &defaults()), Decision::Patch { .. }), "who insists gets it");
}

#[test]
fn what_no_label_says_of_pod_security_is_known_from_a_campfire_that_tried_or_from_the_chart() {
    let tried = |namespace: &str, reason: &str, message: &str| {
        let mut campfire =
            serde_json::to_value(campfire(namespace, "c", json!({ "members": { "namespaces": { "from": "All" } } }))).unwrap();
        campfire["status"]["conditions"] = json!([{
            "type": "MembersAdmitted", "status": "False", "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]);
        serde_json::from_value::<Campfire>(campfire).unwrap()
    };
    let untried = || campfire("infra", "c", json!({ "members": { "namespaces": { "from": "All" } } }));
    let level = |level: Level| Defaults { pod_security: level, ..defaults() };
    let enforcing = |level: &str| labelled("shop", &[("pod-security.kubernetes.io/enforce", level)]);
    let (free, baseline) = (level(Level::Privileged), level(Level::Baseline));
    let plain = || labelled("shop", &[]);
    let violated = "this cluster's PodSecurity forbids the sidecar";
    let table = vec![
        ("nobody knows", untried(), plain(), &free, None),
        ("the chart says", untried(), plain(), &baseline, Some((SkipReason::PodSecurityForbids, "podSecurity.default"))),
        ("a label wins over the chart", untried(), enforcing("privileged"), &baseline, None),
        (
            "a label that is none holds as restricted",
            untried(),
            enforcing("nonsense"),
            &free,
            Some((SkipReason::PodSecurityForbids, "restricted")),
        ),
        (
            "tried elsewhere",
            tried("infra", "PodSecurityDefault", violated),
            plain(),
            &free,
            Some((SkipReason::PodSecurityForbids, violated)),
        ),
        ("a label wins over that", tried("infra", "PodSecurityDefault", violated), enforcing("privileged"), &free, None),
        ("tried elsewhere, and admitted, whatever the chart says", tried("infra", "AdmittedByDefault", ""), plain(), &baseline, None),
        (
            "of a labelled namespace nothing follows",
            tried("infra", "Admitted", ""),
            plain(),
            &baseline,
            Some((SkipReason::PodSecurityForbids, "chart")),
        ),
        ("tried here: exempt", tried("shop", "AdmittedByDefault", ""), plain(), &baseline, None),
        (
            "a policy here",
            tried("shop", "PolicyForbids", "no added ones"),
            plain(),
            &free,
            Some((SkipReason::PolicyForbids, "no added ones")),
        ),
        (
            "and in spite of a label",
            tried("shop", "PolicyForbids", "x"),
            enforcing("privileged"),
            &free,
            Some((SkipReason::PolicyForbids, "x")),
        ),
        ("a policy elsewhere", tried("infra", "PolicyForbids", "no added ones"), plain(), &free, None),
    ];
    for (what, campfire, namespace, defaults, expected) in table {
        match (decided(&pod(json!({})), &namespace, &[campfire], &Bounds::default(), defaults), expected) {
            (Decision::Patch { .. }, None) => {}
            (Decision::Skip { reason, message, .. }, Some((expected, part))) => {
                assert_eq!(reason, expected, "{what}");
                assert!(message.contains(part), "{what}: {message}");
            }
            (decision, expected) => panic!("{what}: {decision:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn pull_secrets_of_the_campfire_come_beside_the_pods_own() {
    let campfire = campfire("shop", "home", json!({ "sidecar": { "imagePullSecrets": [{ "name": "ours" }, { "name": "both" }] } }));
    let after = |spec: Value| {
        let pod = pod(spec);
        let Decision::Patch { ops, .. } =
            decided(&pod, &labelled("shop", &[]), std::slice::from_ref(&campfire), &Bounds::default(), &defaults())
        else {
            panic!("not injected")
        };
        let after = after(&pod, &ops);
        after["spec"]["imagePullSecrets"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(after(json!({})), ["ours", "both"]);
    assert_eq!(after(json!({ "imagePullSecrets": [{ "name": "theirs" }, { "name": "both" }] })), ["theirs", "both", "ours"]);
}

#[test]
fn a_limit_range_that_filled_in_more_and_a_copy_with_other_resources_are_told_apart() {
    let (namespace, campfire) = (labelled("shop", &[]), campfire("shop", "home", json!({})));
    let injected = |pod: &Pod| match decided(pod, &namespace, std::slice::from_ref(&campfire), &Bounds::default(), &defaults()) {
        Decision::Patch { ops, .. } => (after(pod, &ops), ops),
        Decision::Skip { message, .. } => panic!("{message}"),
    };
    let burstable = pod(json!({ "containers": [{ "name": "app", "resources": { "requests": { "cpu": "1" } } }] }));
    let (mut once, _) = injected(&burstable);
    once["spec"]["initContainers"][1]["resources"]["limits"]["cpu"] = json!("500m");
    assert_eq!(injected(&serde_json::from_value(once.clone()).unwrap()).1, [], "what a LimitRange added stays");
    once["spec"]["containers"][0]["resources"] = both("1", "1Gi");
    let (again, _) = injected(&serde_json::from_value(once).unwrap());
    assert_eq!(again["spec"]["initContainers"][1]["resources"], both("200m", "128Mi"), "another class, other resources");
}

proptest! {
    /// Whatever a pod has: its class is the same with ours, and no container of ours asks for more than its limit.
    #[test]
    fn no_pod_changes_its_class(each in proptest::collection::vec(any_resources(), 1..4), own in any::<bool>(), min in 0_u32..300, ratio in 1_u32..9) {
        let spec = apps(&each);
        let bounds = range("Container", json!({ "min": { "cpu": format!("{min}m") }, "maxLimitRequestRatio": { "memory": ratio.to_string() } }));
        let class = class_of(&spec);
        // A container without any would not be admitted there by itself.
        let bounds = if class == Class::BestEffort { Bounds::default() } else { bounds };
        let wish = Wish { own: own && class != Class::BestEffort, ..usual() };
        let Ok(fitted) = fit(&spec, &wish, &bounds) else { return Ok(()) };
        let mut with = each.clone();
        with.push(json!(fitted));
        prop_assert_eq!(class_of(&apps(&with)), class, "{:?}", fitted);
        for (name, request) in &fitted.requests {
            let (request, limit) = (super::amount::Amount::read(&request.0), fitted.limits.get(name).and_then(|limit| super::amount::Amount::read(&limit.0)));
            prop_assert!(limit.is_none_or(|limit| request <= Some(limit)));
        }
    }
}

fn any_resources() -> impl Strategy<Value = Value> {
    let amounts = || {
        let cpu = proptest::option::of(proptest::sample::select(vec!["0", "100m", "1", "0.5"]));
        let memory = proptest::option::of(proptest::sample::select(vec!["64Mi", "1Gi", "1e8"]));
        (cpu, memory).prop_map(|(cpu, memory)| {
            let pairs = [("cpu", cpu), ("memory", memory)].into_iter().filter_map(|(name, amount)| Some((name.to_owned(), json!(amount?))));
            Value::Object(pairs.collect())
        })
    };
    prop_oneof![
        (amounts(), amounts()).prop_map(|(requests, limits)| json!({ "requests": requests, "limits": limits })),
        amounts().prop_map(|same| json!({ "requests": same, "limits": same })),
        Just(json!({})),
    ]
}

fn decided(pod: &Pod, namespace: &NamespaceMeta, campfires: &[Campfire], bounds: &Bounds, defaults: &Defaults) -> Decision {
    let places = Places::new(campfires.iter().cloned().map(Arc::new).collect(), &Served::default());
    decide(pod, namespace, bounds, &places, defaults, "ca")
}

fn after(pod: &Pod, ops: &[Op]) -> Value {
    let mut after = serde_json::to_value(pod).unwrap();
    for op in ops {
        apply(&mut after, op);
    }
    after
}
