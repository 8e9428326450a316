//! `dump`: all that a report of a fault needs, as one text. No Secret is read; of what is read that might hold one (other people's containers,
//! annotations, a URI that somebody put into a log) nothing is kept.

use std::fmt::Write as _;

use anyhow::Result;
use campfire_api::names::{CAMPFIRE_LABEL, INIT_CONTAINER, SIDECAR_CONTAINER};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt as _};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::member::Member;
use campfire_text::printable;

/// Lines of each log.
const LINES: i64 = 500;
/// Members whose sidecars are asked, and whose logs are taken, of each cluster: those that are not ready first.
const MEMBERS: usize = 20;
/// Label values of the pods that are ours.
const OPERATOR: &str = "app.kubernetes.io/name=campfire-operator";

/// `dump`.
pub async fn dump(clusters: &[Cluster]) -> Result<String> {
    let mut out = format!("kubectl campfire dump, version {}, {}\n", env!("CARGO_PKG_VERSION"), Timestamp::now());
    for cluster in clusters {
        eprintln!("gathering from {}: objects, logs, what sidecars say", cluster.place());
        one(&mut out, cluster).await?;
    }
    Ok(redacted(&out))
}

async fn one(out: &mut String, cluster: &Cluster) -> Result<()> {
    let (campfires, peers) = tokio::try_join!(cluster.campfires(), cluster.peers())?;
    let mut members = cluster.members().await.unwrap_or_default();
    section(out, cluster, "status", &crate::status::fires(&campfires, &peers));
    section(out, cluster, "peers", &crate::status::rows(&peers, true));
    objects(out, cluster, "campfires", Ok(campfires));
    objects(out, cluster, "meshpeers", Ok(peers));

    let everywhere = Cluster { namespace: None, ..cluster.clone() };
    let ours = ListParams::default().labels(OPERATOR);
    objects(out, cluster, "deployments of the operator", everywhere.api::<Deployment>().list(&ours).await.map(|list| list.items));
    let of_campfires = ListParams::default().labels(CAMPFIRE_LABEL);
    objects(out, cluster, "statefulsets", cluster.api::<StatefulSet>().list(&of_campfires).await.map(|list| list.items));
    objects(out, cluster, "services", cluster.api::<Service>().list(&of_campfires).await.map(|list| list.items));
    objects(out, cluster, "events", cluster.api::<Event>().list(&ListParams::default().limit(500)).await.map(|list| list.items));

    let mut pods = Vec::new();
    for (what, list) in [
        ("pods of the operator", everywhere.api::<Pod>().list(&ours).await),
        ("pods of servers", cluster.api::<Pod>().list(&of_campfires).await),
    ] {
        let list = list.map(|list| list.items);
        pods.extend(list.iter().flatten().map(|pod| (pod.namespace().unwrap_or_default(), pod.name_any(), None)));
        objects(out, cluster, what, list);
    }
    members.sort_by_key(|member| member.ready);
    members.truncate(MEMBERS);
    objects(out, cluster, "pods of members", member_pods(cluster, &members).await);
    for (member, report) in raw_reports(cluster, &members).await {
        section(out, cluster, &format!("campfire status --json in {}/{}", member.namespace, member.name), &report);
    }
    for member in &members {
        for container in [INIT_CONTAINER, SIDECAR_CONTAINER] {
            pods.push((member.namespace.clone(), member.name.clone(), Some(container)));
        }
    }
    for (namespace, name, container) in pods {
        let about =
            LogParams { container: container.map(str::to_owned), tail_lines: Some(LINES), timestamps: true, ..LogParams::default() };
        let log = Api::<Pod>::namespaced(cluster.client.clone(), &namespace).logs(&name, &about).await;
        let log = log.unwrap_or_else(|error| format!("{:#}", cluster.explain(&error, "get pods/log")));
        section(out, cluster, &format!("log of {namespace}/{name} {}", container.unwrap_or_default()), &log);
    }
    Ok(())
}

async fn member_pods(cluster: &Cluster, members: &[Member]) -> kube::Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for member in members {
        pods.extend(Api::<Pod>::namespaced(cluster.client.clone(), &member.namespace).get_opt(&member.name).await?);
    }
    Ok(pods)
}

/// As the sidecars say it: all fields, also those that this plugin does not know.
async fn raw_reports(cluster: &Cluster, members: &[Member]) -> Vec<(Member, String)> {
    let mut reports = Vec::new();
    for member in members {
        let said = match cluster.run(member, &["status", "--json"], |_| ()).await {
            Ok(ran) if ran.well => ran.printed,
            Ok(ran) => ran.complained,
            Err(error) => format!("{error:#}"),
        };
        reports.push((member.clone(), said));
    }
    reports
}

fn section(out: &mut String, cluster: &Cluster, title: &str, text: &str) {
    let _ = writeln!(out, "\n===== {} {title}", cluster.context);
    for line in text.lines() {
        let _ = writeln!(out, "{}", printable(line));
    }
}

fn objects<K: Serialize>(out: &mut String, cluster: &Cluster, title: &str, found: kube::Result<Vec<K>>) {
    let text = match found {
        Err(error) => format!("{:#}", cluster.explain(&error, &format!("list {title}"))),
        Ok(items) => {
            let clean = items.iter().filter_map(|item| serde_json::to_value(item).ok()).map(cleaned);
            clean.filter_map(|item| serde_yaml::to_string(&item).ok()).collect::<Vec<_>>().join("---\n")
        }
    };
    section(out, cluster, title, &text);
}

/// An object without what is no business of ours: who wrote which field, annotations of others, containers of others.
fn cleaned(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|name, _| name.contains("campfire.network/"));
        }
    }
    for path in ["/spec", "/spec/template/spec"] {
        let Some(spec) = object.pointer_mut(path) else { continue };
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                if ![SIDECAR_CONTAINER, INIT_CONTAINER, "operator", "turn"].contains(&name.as_str()) {
                    *container =
                        serde_json::json!({ "name": name, "image": container["image"], "note": "left out: not a container of campfire" });
                }
            }
        }
        if let Some(spec) = spec.as_object_mut() {
            // Names of other people's Secrets and ConfigMaps.
            spec.remove("volumes");
        }
        if let Some(annotations) = object.pointer_mut("/spec/template/metadata/annotations").and_then(Value::as_object_mut) {
            annotations.retain(|name, _| name.contains("campfire.network/"));
        }
    }
    object
}

/// Without keys of URIs, whoever wrote them into a log.
fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("camp://") {
        let (before, uri) = rest.split_at(at);
        out.push_str(before);
        let end = uri.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | ')' | ',')).unwrap_or(uri.len());
        let (uri, after) = uri.split_at(end);
        match uri.split_once('#') {
            Some((open, _)) => {
                let _ = write!(out, "{open}#(left out)");
            }
            None => out.push_str(uri),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_keys_of_uris_are_left_out_wherever_they_stand() {
        assert_eq!(
            redacted("a camp://01/oak#c2VjcmV0 b \"camp://02#x?y\" camp://03 camp://04#z"),
            "a camp://01/oak#(left out) b \"camp://02#(left out)\" camp://03 camp://04#(left out)"
        );
    }

    #[test]
    fn of_others_containers_and_annotations_nothing_is_kept() {
        let object = json!({
            "metadata": { "managedFields": [1], "annotations": { "campfire.network/campfire": "default/main", "note": "hunter2" } },
            "spec": {
                "volumes": [{ "secret": { "secretName": "hunter2" } }],
                "containers": [{ "name": "app", "image": "shop", "env": [{ "name": "P", "value": "hunter2" }], "args": ["hunter2"] }],
                "initContainers": [{ "name": "campfire", "image": "campfire:1", "args": ["up"] }],
            },
        });
        let text = cleaned(object).to_string();
        assert!(!text.contains("hunter2") && !text.contains("managedFields"), "{text}");
        assert!(text.contains("\"args\":[\"up\"]") && text.contains("default/main") && text.contains("\"shop\""), "{text}");
        let template = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "other", "env": "hunter2" }] }, "metadata": { "annotations": { "a": "hunter2" } } } } });
        assert!(!cleaned(template).to_string().contains("hunter2"));
    }
}
