//! What the chart renders. Needs `helm` (in the path, in `HELM`, or where the cluster tests keep theirs); without it each test says so.

mod helm;

use std::collections::BTreeSet;

use campfire_api::names;
use helm::{Helm, NAMESPACE, chart};
use serde_json::Value;

const VALUE_SETS: [&str; 4] = ["values.yaml", "ci/minimal-values.yaml", "ci/full-values.yaml", "ci/monitoring-values.yaml"];

#[test]
fn every_value_set_lints_and_renders_objects_that_are_labelled_and_placed() {
    let Some(helm) = Helm::find() else { return };
    for set in VALUE_SETS {
        helm.run(&["lint", "--strict", ".", "-f", set]).unwrap_or_else(|refused| panic!("{set}: {refused}"));
        let objects = helm.render(&["-f", set]);
        assert!(objects.len() > 8, "{set}: {} objects", objects.len());
        for object in &objects {
            let what = format!("{set}: {} {}", text(object, "/kind"), text(object, "/metadata/name"));
            assert!(!text(object, "/apiVersion").is_empty() && !text(object, "/metadata/name").is_empty(), "{what}");
            assert_eq!(text(object, "/metadata/labels/app.kubernetes.io~1part-of"), "campfire", "{what}");
            let cluster = matches!(
                text(object, "/kind"),
                "CustomResourceDefinition" | "ClusterRole" | "ClusterRoleBinding" | "MutatingWebhookConfiguration"
            );
            assert_eq!(text(object, "/metadata/namespace").is_empty(), cluster, "{what}");
        }
    }
}

#[test]
fn a_key_that_the_chart_does_not_know_is_refused_wherever_it_stands() {
    let Some(helm) = Helm::find() else { return };
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap();
    let mut closed = Vec::new();
    closed_objects(&schema, &schema, "", &mut closed);
    assert!(closed.len() > 15, "{closed:?}");
    for path in closed {
        let refused = helm.run(&["template", "c", ".", "--set", &format!("{path}bogus=1")]).expect_err(&path);
        assert!(refused.contains("bogus"), "{path}: {refused}");
    }
    for wrong in [
        "campfireNamespaces[0]=Upper",
        "operator.image.digest=sha256:1",
        "operator.log.format=xml",
        "operator.replicas=two",
        "clusterName=a_b",
    ] {
        helm.run(&["template", "c", ".", "--set", wrong]).expect_err(wrong);
    }
}

#[test]
fn every_value_is_in_the_schema_and_in_the_readme_and_the_other_way_round() {
    let values: Value = serde_yaml::from_str(&std::fs::read_to_string(chart().join("values.yaml")).unwrap()).unwrap();
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap();
    let (mut given, mut known) = (BTreeSet::new(), BTreeSet::new());
    let open = ["operator.resources", "sidecar.resources"];
    leaves(&values, "", &mut given);
    schema_leaves(&schema, &schema, "", &mut known);
    given.retain(|path| !open.iter().any(|open| path.starts_with(open)));
    known.retain(|path| !open.iter().any(|open| path.starts_with(open)) && path != "global" && path != "enabled");
    assert_eq!(given, known);
    let readme = std::fs::read_to_string(chart().join("README.md")).unwrap();
    let explained = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let explained: BTreeSet<String> = explained.map(str::to_owned).filter(|path| !open.contains(&path.as_str())).collect();
    assert_eq!(explained, known, "README.md of the chart");
}

#[test]
fn names_and_ports_are_those_that_the_programs_know() {
    let Some(helm) = Helm::find() else { return };
    let objects = helm.render(&[]);
    for (name, port) in [(names::AGENT_SERVICE, names::AGENT_PORT), (names::WEBHOOK_SERVICE, 443), (names::STANDBY_SERVICE, 443)] {
        let service = find(&objects, "Service", name);
        assert!(service.pointer("/spec/selector").is_none(), "the leader says where it leads");
        assert_eq!(service.pointer("/spec/ports/0/port"), Some(&port.into()));
        assert_eq!(service.pointer("/spec/ports/0/name"), Some(&"https".into()));
    }
    assert!(find(&objects, "Service", names::OPERATOR_SERVICE).pointer("/spec/selector").is_some(), "by it the replicas are known");
    let operator = find(&objects, "Deployment", "campfire-operator");
    let ports: Vec<u64> =
        list(operator, "/spec/template/spec/containers/0/ports").iter().filter_map(|port| port["containerPort"].as_u64()).collect();
    assert_eq!(ports, [names::HTTP_PORT, names::AGENT_PORT, names::WEBHOOK_PORT].map(u64::from));
    let rules = list(find(&objects, "Role", "campfire-operator"), "/rules").to_vec();
    let named = |resource: &str| -> Vec<String> {
        let about = rules.iter().filter(|rule| list(rule, "/resources").contains(&resource.into()));
        about.flat_map(|rule| list(rule, "/resourceNames").iter().filter_map(|name| name.as_str().map(str::to_owned))).collect()
    };
    assert_eq!(named("leases"), [names::LEASE]);
    assert!(named("secrets").contains(&names::CA_SECRET.to_owned()));
    let led = [names::AGENT_SERVICE, names::WEBHOOK_SERVICE, names::STANDBY_SERVICE];
    assert_eq!(named("endpointslices"), led);
    assert_eq!(named("services"), led);
    let uid = operator.pointer("/spec/template/spec/securityContext/runAsUser");
    assert_eq!(uid, Some(&names::UID.into()));
}

#[test]
fn the_operator_takes_the_arguments_that_the_chart_gives_it() {
    use campfire_operator::cli::{Cli, Command as Asked};
    use campfire_operator::settings::Level;
    use clap::Parser as _;
    let Some(helm) = Helm::find() else { return };
    for set in VALUE_SETS {
        let objects = helm.render(&["-f", set]);
        let arguments = |pointer: &str, object: &Value| -> Vec<String> {
            let given = list(object, pointer).iter().filter_map(|argument| argument.as_str().map(str::to_owned));
            std::iter::once("campfire-operator".to_owned()).chain(given).collect()
        };
        let given = arguments("/spec/template/spec/containers/0/args", find(&objects, "Deployment", "campfire-operator"));
        let Asked::Run(run) = Cli::try_parse_from(given).unwrap().command else { panic!("it runs") };
        let settings = run.settings().unwrap();
        assert!(settings.served.holds("default") && !settings.served.holds("kube-system"), "{set}");
        assert_eq!(
            settings.trusted.beyond("default"),
            set.contains("full"),
            "{set}: nobody is trusted beyond its namespace unless it is said"
        );
        let level = if set.contains("full") { Level::Baseline } else { Level::Privileged };
        assert_eq!(settings.pod_security, level, "{set}");
        let (port, host) = if set.contains("full") { (10_250, Some(&true.into())) } else { (names::WEBHOOK_PORT, None) };
        let pod = find(&objects, "Deployment", "campfire-operator").pointer("/spec/template/spec").unwrap();
        assert_eq!((settings.webhook_port, pod.pointer("/hostNetwork")), (port, host), "{set}");
        assert_eq!(pod.pointer("/containers/0/ports/2/containerPort"), Some(&port.into()), "{set}: where the Service leads");
        assert!(settings.sidecar_resources.is_some() && settings.sidecar_image.contains("/campfire"), "{set}: {settings:?}");
        let given = arguments("/spec/containers/0/args", find(&objects, "Pod", "campfire-operator-test"));
        let asked = Cli::try_parse_from(given).unwrap().command;
        assert!(matches!(asked, Asked::Probe { url } if url == format!("http://campfire-operator.{NAMESPACE}.svc:8080/readyz")));
    }
}

#[test]
fn injection_may_fail_without_a_pod_failing_and_never_touches_the_system_or_itself() {
    let Some(helm) = Helm::find() else { return };
    let objects = helm.render(&["--set", "webhook.excludedNamespaces={gatekeeper-system}"]);
    let configuration = find(&objects, "MutatingWebhookConfiguration", names::WEBHOOK_CONFIGURATION);
    let (canary, webhooks): (Vec<&Value>, Vec<&Value>) =
        list(configuration, "/webhooks").iter().partition(|webhook| text(webhook, "/name") == names::CANARY_WEBHOOK);
    assert_eq!((canary.len(), webhooks.len()), (1, 4));
    let (again, first): (Vec<&Value>, Vec<&Value>) = webhooks.iter().partition(|webhook| text(webhook, "/name").contains(".again."));
    for (webhooks, service, path) in
        [(&first, names::WEBHOOK_SERVICE, names::INJECT_PATH), (&again, names::STANDBY_SERVICE, names::INJECT_AGAIN_PATH)]
    {
        assert_eq!(webhooks.len(), 2);
        for webhook in webhooks {
            assert_eq!(text(webhook, "/clientConfig/service/name"), service);
            assert_eq!(text(webhook, "/clientConfig/service/path"), path);
        }
    }
    for (first, again) in first.iter().zip(&again) {
        let mut without = (*again).clone();
        let condition = without.as_object_mut().unwrap().remove("matchConditions").expect("asked again only about pods without a sidecar");
        assert!(text(&condition, "/0/expression").contains(names::INJECTED_LABEL));
        without["name"] = first["name"].clone();
        without["clientConfig"] = first["clientConfig"].clone();
        assert_eq!(&without, *first, "about the same pods");
    }
    assert_eq!(canary[0].pointer("/objectSelector"), Some(&serde_json::json!({ "matchLabels": { names::CANARY_LABEL: "asked" } })));
    assert_eq!(
        canary[0].pointer("/rules/0/resources"),
        Some(&serde_json::json!(["meshpeers"])),
        "it fails, and nothing of anybody else's with it"
    );
    for webhook in webhooks {
        assert_eq!(text(webhook, "/failurePolicy"), "Ignore");
        assert_eq!(text(webhook, "/sideEffects"), "NoneOnDryRun");
        assert_eq!(text(webhook, "/reinvocationPolicy"), "IfNeeded");
        assert_eq!(webhook["timeoutSeconds"], 3);
        assert!(webhook.pointer("/clientConfig/caBundle").is_none(), "the operator's own, and follows its rotation");
        assert_eq!(
            webhook["rules"],
            serde_json::json!([{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"], "scope": "Namespaced"}])
        );
        let excluded = list(webhook, "/namespaceSelector/matchExpressions")
            .iter()
            .find(|expression| text(expression, "/key") == "kubernetes.io/metadata.name" && text(expression, "/operator") == "NotIn")
            .expect("excluded namespaces");
        assert_eq!(excluded["values"], serde_json::json!(["kube-system", NAMESPACE, "gatekeeper-system"]));
        let asked = [webhook.pointer("/objectSelector/matchLabels"), webhook.pointer("/namespaceSelector/matchLabels")];
        let asked: Vec<&Value> = asked.into_iter().flatten().collect();
        assert_eq!(asked, [&serde_json::json!({ names::INJECT_LABEL: names::ENABLED })], "one of the two asks, no more");
    }
}

#[test]
fn the_operator_may_do_what_it_needs_and_no_more() {
    let Some(helm) = Helm::find() else { return };
    for set in VALUE_SETS {
        for object in helm.render(&["-f", set]) {
            let (kind, name) = (text(&object, "/kind"), text(&object, "/metadata/name"));
            if !matches!(kind, "ClusterRole" | "Role") {
                continue;
            }
            for rule in list(&object, "/rules") {
                for part in ["/apiGroups", "/resources", "/verbs"] {
                    assert!(
                        !list(rule, part).iter().any(|entry| entry.as_str().is_some_and(|entry| entry.contains('*'))),
                        "{name}: {rule}"
                    );
                }
                for verb in ["escalate", "bind", "impersonate"] {
                    assert!(!list(rule, "/verbs").contains(&verb.into()), "{name}: {rule}");
                }
                if kind == "ClusterRole" && name == "campfire-operator" {
                    assert!(!list(rule, "/resources").contains(&"secrets".into()), "Secrets of the whole cluster: {rule}");
                    if list(rule, "/resources").contains(&"mutatingwebhookconfigurations".into()) {
                        assert_eq!(rule["resourceNames"], serde_json::json!([names::WEBHOOK_CONFIGURATION]));
                    }
                }
            }
        }
    }
    let full = helm.render(&["-f", "ci/full-values.yaml"]);
    let places: Vec<&str> = full
        .iter()
        .filter(|object| text(object, "/kind") == "Role" && text(object, "/metadata/name") == "campfire-operator-campfires")
        .map(|object| text(object, "/metadata/namespace"))
        .collect();
    assert_eq!(places, ["default", "games"]);
    // Who edits a namespace makes no Campfires, which may admit pods of others.
    for role in full.iter().filter(|object| text(object, "/kind") == "ClusterRole" && object.pointer("/metadata/labels").is_some()) {
        let edits = role["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true";
        let writes =
            |rule: &&Value| list(rule, "/resources").contains(&"campfires".into()) && list(rule, "/verbs").contains(&"create".into());
        assert!(!edits || !list(role, "/rules").iter().any(|rule| writes(&rule)), "{}", text(role, "/metadata/name"));
    }
    // Pods are tried, by dry runs, where Campfires live, and made nowhere.
    for role in full.iter().filter(|object| matches!(text(object, "/kind"), "ClusterRole" | "Role")) {
        let pods = list(role, "/rules").iter().filter(|rule| list(rule, "/resources").contains(&"pods".into()));
        let verbs: BTreeSet<&str> = pods.flat_map(|rule| list(rule, "/verbs")).filter_map(Value::as_str).collect();
        let expected: &[&str] = match text(role, "/metadata/name") {
            "campfire-operator-campfires" => &["create"],
            "campfire-operator" if text(role, "/kind") == "ClusterRole" => &["get", "list", "watch"],
            _ => &[],
        };
        assert_eq!(verbs.into_iter().collect::<Vec<_>>(), expected, "{}", text(role, "/metadata/name"));
    }
}

#[test]
fn the_charts_pods_pass_the_restricted_level() {
    let Some(helm) = Helm::find() else { return };
    let objects = helm.render(&[]);
    let deployment = find(&objects, "Deployment", "campfire-operator");
    let pods =
        [deployment.pointer("/spec/template/spec").unwrap(), find(&objects, "Pod", "campfire-operator-test").pointer("/spec").unwrap()];
    for pod in pods {
        assert_eq!(pod.pointer("/securityContext/runAsNonRoot"), Some(&true.into()));
        assert_eq!(text(pod, "/securityContext/seccompProfile/type"), "RuntimeDefault");
        for host in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
            assert!(pod.get(host).is_none(), "{host}");
        }
        for container in list(pod, "/containers") {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["capabilities"], serde_json::json!({"drop": ["ALL"]}));
            assert!(container.pointer("/resources/limits/memory").is_some() && container.pointer("/resources/requests/cpu").is_some());
        }
    }
}

#[test]
fn images_go_by_digest_where_one_is_given_else_by_tag() {
    let Some(helm) = Helm::find() else { return };
    let version = env!("CARGO_PKG_VERSION");
    let seen = |objects: &[Value]| -> Vec<String> {
        let container = find(objects, "Deployment", "campfire-operator").pointer("/spec/template/spec/containers/0").unwrap().clone();
        let mut seen = vec![text(&container, "/image").to_owned()];
        seen.extend(list(&container, "/args").iter().filter_map(Value::as_str).filter(|arg| arg.contains("-image=")).map(str::to_owned));
        seen
    };
    assert_eq!(
        seen(&helm.render(&[])),
        [
            format!("localhost/campfire-operator:{version}"),
            format!("--sidecar-image=localhost/campfire:{version}"),
            format!("--turn-image=localhost/campfire-turn:{version}")
        ]
    );
    let digest = "0".repeat(63);
    assert_eq!(
        seen(&helm.render(&["-f", "ci/full-values.yaml"])),
        [
            format!("registry.example.org:5000/campfire/campfire-operator@sha256:{digest}1"),
            format!("--sidecar-image=registry.example.org:5000/campfire/campfire@sha256:{digest}2"),
            "--turn-image=registry.example.org:5000/campfire/campfire-turn:0.1.0-rc.1".to_owned()
        ]
    );
}

#[test]
fn crds_are_those_of_the_repository_and_stay_unless_told_otherwise() {
    let ours = chart().join("../../crds");
    let mut definitions = 0;
    for entry in std::fs::read_dir(&ours).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        let copy = std::fs::read_to_string(chart().join("files/crds").join(name)).unwrap_or_default();
        assert!(copy == std::fs::read_to_string(&path).unwrap(), "differs: cp crds/*.yaml charts/campfire/files/crds/");
        definitions += 1;
    }
    assert_eq!(std::fs::read_dir(chart().join("files/crds")).unwrap().count(), definitions);

    let Some(helm) = Helm::find() else { return };
    let kept = |arguments: &[&str]| -> Vec<bool> {
        let objects = helm.render(arguments);
        let definitions = objects.iter().filter(|object| text(object, "/kind") == "CustomResourceDefinition");
        definitions.map(|object| text(object, "/metadata/annotations/helm.sh~1resource-policy") == "keep").collect()
    };
    assert_eq!(kept(&[]), vec![true; definitions]);
    assert_eq!(kept(&["--set", "crds.keep=false"]), vec![false; definitions]);
    assert!(kept(&["--set", "crds.enabled=false"]).is_empty());
}

#[test]
fn a_parent_chart_may_say_whether_it_is_wanted() {
    let Some(helm) = Helm::find() else { return };
    let parent = tempfile::tempdir().unwrap();
    std::fs::create_dir(parent.path().join("charts")).unwrap();
    std::os::unix::fs::symlink(chart().canonicalize().unwrap(), parent.path().join("charts/campfire")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let about = format!(
        "apiVersion: v2\nname: platform\nversion: 1.0.0\ndependencies:\n- {{name: campfire, version: {version}, condition: campfire.enabled}}\n"
    );
    std::fs::write(parent.path().join("Chart.yaml"), about).unwrap();
    let rendered = |enabled: bool| {
        let wanted = format!("campfire.enabled={enabled}");
        helm.run_in(parent.path(), &["template", "p", ".", "-n", NAMESPACE, "--set", &wanted, "--set", "global.x=1"]).unwrap()
    };
    assert!(rendered(true).contains("kind: Deployment"));
    assert!(!rendered(false).contains("kind: Deployment"));
}

#[test]
fn values_of_an_older_release_that_lack_what_came_since_are_filled_up() {
    let Some(helm) = Helm::find() else { return };
    let text = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    assert!(text == std::fs::read_to_string(chart().join("files/values.yaml")).unwrap(), "differs: cp values.yaml files/values.yaml");
    let whole = helm.render(&[]);
    let values: serde_json::Map<String, Value> = serde_yaml::from_str(&text).unwrap();
    // As `helm upgrade --reuse-values` has it: the chart is new, and its own values do not count.
    let older = tempfile::tempdir().unwrap();
    assert!(std::process::Command::new("cp").arg("-r").arg(chart().join(".")).arg(older.path()).status().unwrap().success());
    let mut lacking: Vec<(String, Option<String>)> = Vec::new();
    for (name, block) in &values {
        lacking.push((name.clone(), None));
        let keys = block.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "resources");
        lacking.extend(keys.map(|key| (name.clone(), Some(key.clone()))));
    }
    for (name, key) in lacking {
        let mut old = values.clone();
        match &key {
            None => drop(old.remove(&name)),
            Some(key) => drop(old[&name].as_object_mut().unwrap().remove(key)),
        }
        std::fs::write(older.path().join("values.yaml"), serde_yaml::to_string(&old).unwrap()).unwrap();
        let rendered =
            helm.run_in(older.path(), &["template", "c", ".", "-n", NAMESPACE]).unwrap_or_else(|error| panic!("{name} {key:?}: {error}"));
        assert!(helm::objects(&rendered) == whole, "without {name} {key:?}");
    }
}

#[test]
fn what_needs_other_operators_or_may_surprise_is_off_by_default() {
    let Some(helm) = Helm::find() else { return };
    let kinds =
        |arguments: &[&str]| -> BTreeSet<String> { helm.render(arguments).iter().map(|object| text(object, "/kind").to_owned()).collect() };
    let extra = ["ServiceMonitor", "PodMonitor", "PrometheusRule", "PodDisruptionBudget", "NetworkPolicy"];
    let default = kinds(&[]);
    assert!(!extra.iter().any(|kind| default.contains(*kind)), "{default:?}");
    let mut all = kinds(&["-f", "ci/monitoring-values.yaml"]);
    all.extend(kinds(&["-f", "ci/full-values.yaml"]));
    assert!(extra.iter().all(|kind| all.contains(*kind)), "{all:?}");
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| text(object, "/kind") == kind && text(object, "/metadata/name") == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Follows a `$ref` into `$defs`.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    schema.get("$ref").and_then(Value::as_str).map_or(schema, |target| root.pointer(target.trim_start_matches('#')).expect("a definition"))
}

/// Paths (with a dot at the end) of all objects that take no other keys; an object that says nothing of others is a mistake.
fn closed_objects(root: &Value, schema: &Value, path: &str, closed: &mut Vec<String>) {
    let schema = resolve(root, schema);
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        assert_eq!(schema.get("additionalProperties"), Some(&false.into()), "{path}");
        closed.push(path.to_owned());
        for (name, property) in properties {
            closed_objects(root, property, &format!("{path}{name}."), closed);
        }
    }
}

/// Paths of all that is no object with known keys.
fn schema_leaves(root: &Value, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let schema = resolve(root, schema);
    match schema.get("properties").and_then(Value::as_object) {
        Some(properties) => properties.iter().for_each(|(name, property)| schema_leaves(root, property, &join(path, name), found)),
        None => _ = found.insert(path.to_owned()),
    }
}

fn leaves(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value.as_object().filter(|object| !object.is_empty()) {
        Some(object) => object.iter().for_each(|(name, value)| leaves(value, &join(path, name), found)),
        None => _ = found.insert(path.to_owned()),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
