//! What the agent's chart renders. Needs `helm`; without it each test says so.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "../../operator/tests/helm/mod.rs"]
mod helm;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use campfire_api::names;
use campfire_node::cli::{Cli, Command};
use clap::Parser as _;
use helm::{Helm, objects};
use serde_json::Value;

const VALUE_SETS: [&str; 3] = ["values.yaml", "ci/minimal-values.yaml", "ci/full-values.yaml"];

#[test]
fn every_value_set_lints_and_renders_objects_that_are_labelled_and_placed() {
    let Some(helm) = Helm::find() else { return };
    for set in VALUE_SETS {
        helm.run_in(&chart(), &["lint", "--strict", ".", "-f", set]).unwrap_or_else(|refused| panic!("{set}: {refused}"));
        let objects = render(&helm, &["-f", set]);
        assert!(objects.len() > 5, "{set}: {} objects", objects.len());
        for object in &objects {
            let what = format!("{set}: {} {}", text(object, "/kind"), text(object, "/metadata/name"));
            assert_eq!(text(object, "/metadata/labels/app.kubernetes.io~1part-of"), "campfire", "{what}");
            let cluster = matches!(text(object, "/kind"), "CSIDriver" | "ClusterRole" | "ClusterRoleBinding");
            assert_eq!(text(object, "/metadata/namespace").is_empty(), cluster, "{what}");
        }
    }
    for wrong in [
        "bogus=1",
        "image.bogus=1",
        "kubeletDir=var/lib",
        "kubeletDir=/var/../etc/",
        "drain=maybe",
        "image.digest=sha256:1",
        "log.format=xml",
    ] {
        helm.run_in(&chart(), &["template", "c", ".", "--set", wrong]).expect_err(wrong);
    }
}

#[test]
fn the_driver_is_what_the_agent_takes_volumes_to_be() {
    let Some(helm) = Helm::find() else { return };
    let objects = render(&helm, &["--set", "nodeSelector.pool=apps"]);
    let driver = find(&objects, "CSIDriver", names::NODE_DRIVER);
    let wanted = serde_json::json!({
        "attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"], "fsGroupPolicy": "None"
    });
    assert_eq!(driver["spec"], wanted);
    assert_eq!(text(driver, "/metadata/labels/security.openshift.io~1csi-ephemeral-volume-profile"), "restricted");
    let said = |name: &str| driver["metadata"]["annotations"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(said(names::NODE_NAMESPACE_ANNOTATION), "campfire-node");
    assert_eq!(said(names::NODE_SELECTOR_ANNOTATION), r#"{"pool":"apps"}"#);
    assert_eq!(said(names::NODE_DRAIN_ANNOTATION), "false");
}

#[test]
fn the_agent_has_no_right_in_the_api_and_the_operator_one_object_alone() {
    let Some(helm) = Helm::find() else { return };
    let objects = render(&helm, &[]);
    let bindings: Vec<_> = objects.iter().filter(|object| text(object, "/kind").ends_with("RoleBinding")).collect();
    let bound = |binding: &Value| text(binding, "/subjects/0/name").to_owned();
    assert_eq!(bindings.iter().map(|binding| bound(binding)).collect::<Vec<_>>(), ["campfire-operator", "campfire-node-uninstall"]);
    let role = find(&objects, "Role", "campfire-node-key");
    let wanted = serde_json::json!([
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [names::NODE_CONFIG_MAP], "verbs": ["get", "patch"]}
    ]);
    assert_eq!(role["rules"], wanted);
    let bound = find(&objects, "RoleBinding", "campfire-node-key");
    let wanted = serde_json::json!([{"kind": "ServiceAccount", "name": "campfire-operator", "namespace": "campfire-system"}]);
    assert_eq!(bound["subjects"], wanted);
    let pod = &find(&objects, "DaemonSet", "campfire-node")["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    for absent in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(pod.get(absent).is_none(), "{absent}");
    }
    assert!(pod["containers"][0].get("ports").is_none());
}

#[test]
fn who_uninstalls_is_told_of_pods_that_could_not_end_by_one_that_may_list_them_and_nothing_else() {
    let Some(helm) = Helm::find() else { return };
    let objects = render(&helm, &[]);
    for kind in ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job"] {
        let annotations = &find(&objects, kind, "campfire-node-uninstall")["metadata"]["annotations"];
        assert_eq!(
            (annotations["helm.sh/hook"].as_str(), annotations["helm.sh/hook-delete-policy"].as_str()),
            (Some("pre-delete"), Some("before-hook-creation,hook-succeeded")),
            "{kind}"
        );
    }
    let rules = &find(&objects, "ClusterRole", "campfire-node-uninstall")["rules"];
    assert_eq!(*rules, serde_json::json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]));
    let pod = &find(&objects, "Job", "campfire-node-uninstall")["spec"]["template"]["spec"];
    assert_eq!(text(pod, "/serviceAccountName"), "campfire-node-uninstall");
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let given = list(&pod["containers"][0]["args"]).iter().filter_map(Value::as_str);
    assert!(matches!(Cli::try_parse_from(std::iter::once("campfire-node").chain(given)).unwrap().command, Command::MayUninstall));
}

#[test]
fn the_agent_takes_what_the_chart_gives_it_and_finds_it_where_the_node_has_it() {
    let Some(helm) = Helm::find() else { return };
    for set in VALUE_SETS {
        let objects = render(&helm, &["-f", set]);
        let pod = &find(&objects, "DaemonSet", "campfire-node")["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let value = |name: &str| {
            let variable = list(&container["env"]).iter().find(|variable| variable["name"] == name);
            variable.unwrap_or_else(|| panic!("{set}: {name}"))["value"].as_str().unwrap().to_owned()
        };
        // As the program reads its environment.
        let folder = value("CAMPFIRE_KUBELET_DIR");
        let given = ["campfire-node", "run", "--node-name", "n", "--kubelet-dir", &folder, "--log", &value("CAMPFIRE_LOG")];
        let given = given.into_iter().map(str::to_owned).chain([format!("--log-format={}", value("CAMPFIRE_LOG_FORMAT"))]);
        let port =
            list(&container["env"]).iter().find(|variable| variable["name"] == "CAMPFIRE_METRICS_PORT").map(|variable| &variable["value"]);
        let given = given.chain(port.map(|port| format!("--metrics-port={}", port.as_str().unwrap())));
        let Command::Run(run) = Cli::try_parse_from(given).unwrap().command else { panic!("it runs") };
        let mounts: Vec<_> = list(&container["volumeMounts"]).iter().filter_map(|mount| mount["mountPath"].as_str()).collect();
        let within = |path: &Path| mounts.iter().any(|mount| path.starts_with(mount));
        assert!(within(&run.kubelet.driver_socket()) && within(&run.kubelet.registration_socket()), "{set}: {mounts:?}");
        assert!(within(&run.kubelet.kubelet_dir.join("pods")) && within(&run.key_file), "{set}: {mounts:?}");
        assert_eq!(run.key_file.file_name().unwrap(), names::NODE_KEY);
        assert_eq!(run.metrics_port.map(Value::from), container.pointer("/ports/0/containerPort").cloned(), "{set}");
        for volume in list(&pod["volumes"]) {
            let Some(path) = volume.pointer("/hostPath/path").and_then(Value::as_str) else { continue };
            assert!(mounts.contains(&path), "{set}: {path} is elsewhere on the node");
        }
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let command: Vec<_> = list(&container[probe]["exec"]["command"]).iter().filter_map(Value::as_str).collect();
            assert!(matches!(Cli::try_parse_from(&command).unwrap().command, Command::Probe(_)), "{set}: {command:?}");
        }
    }
}

#[test]
fn every_value_is_in_the_schema_and_in_the_readme_and_the_other_way_round() {
    let read = |name: &str| std::fs::read_to_string(chart().join(name)).unwrap();
    let values: Value = serde_yaml::from_str(&read("values.yaml")).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let open = ["resources", "nodeSelector", "podAnnotations", "podLabels"];
    let mut given = BTreeSet::new();
    for (name, value) in values.as_object().unwrap() {
        match value.as_object() {
            Some(block) if !open.contains(&name.as_str()) => given.extend(block.keys().map(|key| format!("{name}.{key}"))),
            Some(_) | None => drop(given.insert(name.clone())),
        }
    }
    let mut known = BTreeSet::new();
    for (name, property) in schema["properties"].as_object().unwrap() {
        match property["properties"].as_object() {
            Some(block) if !open.contains(&name.as_str()) => {
                assert_eq!(property["additionalProperties"], false, "{name}");
                known.extend(block.keys().map(|key| format!("{name}.{key}")));
            }
            Some(_) | None if ["global", "enabled"].contains(&name.as_str()) => {}
            Some(_) | None => drop(known.insert(name.clone())),
        }
    }
    assert_eq!(given, known);
    let readme = read("README.md");
    let explained: BTreeSet<String> =
        readme.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect();
    assert_eq!(explained, known, "README.md of the chart");
}

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/campfire-node")
}

fn render(helm: &Helm, arguments: &[&str]) -> Vec<Value> {
    let all = [&["template", "c", ".", "-n", "campfire-node"], arguments].concat();
    objects(&helm.run_in(&chart(), &all).unwrap_or_else(|refused| panic!("{arguments:?}: {refused}")))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is = |object: &&Value| text(object, "/kind") == kind && text(object, "/metadata/name") == name;
    objects.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
