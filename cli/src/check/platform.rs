//! The cluster itself: version, definitions, rights, PodSecurity.

use anyhow::{Context as _, Result};
use campfire_api::names::{ENABLED, GROUP, INJECT_LABEL, VERSION};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, PostParams};
use kube::client::Body;
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use super::clocks::{self, Clock};
use super::{Check, Findings, Outcome};
use crate::cluster::Cluster;
use crate::node::NodeAgent;

/// The first minor version of Kubernetes 1 with native sidecars.
const MINOR: u32 = 29;
/// Fields that are named.
const SHOWN: usize = 5;

/// (verb, group, resource, subresource, in a namespace)
type Right = (&'static str, &'static str, &'static str, &'static str, bool);

/// What this plugin needs.
const NEEDED: [Right; 4] = [
    ("list", GROUP, "campfires", "", true),
    ("list", GROUP, "meshpeers", "", true),
    ("list", "", "pods", "", true),
    ("create", "", "pods", "exec", true),
];
/// What whoever installs it needs, of the most that the chart makes.
const TO_INSTALL: [Right; 7] = [
    ("create", "apiextensions.k8s.io", "customresourcedefinitions", "", false),
    ("create", "rbac.authorization.k8s.io", "clusterroles", "", false),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings", "", false),
    ("create", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", false),
    ("create", "", "namespaces", "", false),
    ("create", "apps", "deployments", "", true),
    ("create", "", "secrets", "", true),
];

/// Looks. `None`: the API server does not answer, or knows no Campfires (and has to), so that it makes no sense to go on.
pub(super) async fn look(cluster: &Cluster, findings: &mut Findings<'_>, pre: bool) -> Option<Clock> {
    let clock = match version(cluster).await {
        Ok((version, date)) => {
            let (outcome, words) = judge_version(&version);
            findings.add(Check::ClusterVersion, outcome, words);
            Clock::compared(findings, date)
        }
        Err(error) => {
            findings.add(Check::ClusterVersion, Outcome::Wrong, format!("{error:#}"));
            return None;
        }
    };
    clocks::nodes(cluster, findings).await;
    let lacking = definitions(cluster).await;
    if pre {
        match lacking {
            Ok(Some(Lacking::All)) => findings.good(Check::InstallAbsent, "not installed yet"),
            Ok(Some(Lacking::Some(_)) | None) => findings.add(Check::InstallAbsent, Outcome::Warning, "its definitions are there already"),
            Err(error) => findings.unknown(Check::InstallAbsent, &error),
        }
        rights(cluster, findings, Check::InstallRights, &TO_INSTALL).await;
        pod_security(cluster, findings).await;
        return Some(clock);
    }
    let there = match lacking {
        Ok(None) => {
            findings.good(Check::ClusterDefinitions, "definitions are those of this version");
            true
        }
        Ok(Some(Lacking::All)) => {
            findings.add(
                Check::ClusterDefinitions,
                Outcome::Wrong,
                "there are no Campfires: the definitions are not installed (`check --pre` says whether they can be)",
            );
            false
        }
        Ok(Some(Lacking::Some(fields))) => {
            findings.add(
                Check::ClusterDefinitions,
                Outcome::Wrong,
                format!("the definitions are older than this plugin: they do not know {fields}"),
            );
            true
        }
        Err(error) => {
            findings.unknown(Check::ClusterDefinitions, &error);
            true
        }
    };
    rights(cluster, findings, Check::ClusterRights, &NEEDED).await;
    pod_security(cluster, findings).await;
    there.then_some(clock)
}

/// The server's version, and the seconds since 1970 that its clock shows.
async fn version(cluster: &Cluster) -> Result<(Value, Option<u64>)> {
    let request = http::Request::get("/version").body(Body::empty())?;
    let response = cluster.client.send(request).await.map_err(|error| cluster.explain(&error, "get /version"))?;
    let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok()).and_then(clocks::http_date);
    let status = response.status();
    let body = response.into_body().collect_bytes().await.map_err(|error| cluster.explain(&error, "get /version"))?;
    anyhow::ensure!(status.is_success(), "the API server answers {status} to whoever asks for its version");
    Ok((serde_json::from_slice(&body).context("the API server says no version")?, date))
}

fn judge_version(version: &Value) -> (Outcome, String) {
    let git = version["gitVersion"].as_str().unwrap_or_default();
    let digits = |field: &str| {
        version[field].as_str().unwrap_or_default().chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>()
    };
    match (digits("major"), digits("minor")) {
        (Ok(major), Ok(minor)) if (major, minor) >= (1, MINOR) => (Outcome::Good, format!("Kubernetes {git}")),
        (Ok(_), Ok(_)) => (Outcome::Wrong, format!("Kubernetes {git} knows no native sidecars: 1.{MINOR} or later is needed")),
        (_, _) => (Outcome::Unknown, format!("the version {git:?} is not understood")),
    }
}

/// What the definitions lack.
#[derive(Debug, PartialEq, Eq)]
enum Lacking {
    All,
    /// These fields.
    Some(String),
}

/// By the API server's own description, which whoever is authenticated may read.
async fn definitions(cluster: &Cluster) -> Result<Option<Lacking>> {
    let request = http::Request::get(format!("/openapi/v3/apis/{GROUP}/{VERSION}")).header("accept", "application/json").body(Vec::new())?;
    let served: Value = match cluster.client.request(request).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Some(Lacking::All)),
        answer => answer.map_err(|error| cluster.explain(&error, "get /openapi/v3"))?,
    };
    let mut unknown = Vec::new();
    for definition in campfire_api::definitions() {
        let kind = definition.spec.names.kind.clone();
        let ours = serde_json::to_value(&definition)?;
        let ours = ours.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default();
        let schemas = served.pointer("/components/schemas").and_then(Value::as_object);
        let suffix = format!(".{kind}");
        let Some(theirs) = schemas.into_iter().flatten().find_map(|(name, schema)| name.ends_with(&suffix).then_some(schema)) else {
            return Ok(Some(Lacking::All));
        };
        for part in ["spec", "status"] {
            let at = format!("/properties/{part}");
            missing(
                ours.pointer(&at).unwrap_or(&Value::Null),
                theirs.pointer(&at).unwrap_or(&Value::Null),
                &format!("{kind}.{part}"),
                &mut unknown,
            );
        }
    }
    let more = unknown.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    unknown.truncate(SHOWN);
    Ok((!unknown.is_empty()).then(|| Lacking::Some(unknown.join(", ") + &more)))
}

/// Fields of `ours` that `theirs` does not have.
fn missing(ours: &Value, theirs: &Value, at: &str, unknown: &mut Vec<String>) {
    // An API server puts what carries a description of its own into `allOf`.
    let theirs = theirs.pointer("/allOf/0").unwrap_or(theirs);
    for (name, field) in ours["properties"].as_object().into_iter().flatten() {
        match theirs["properties"].get(name) {
            Some(known) => missing(field, known, &format!("{at}.{name}"), unknown),
            None => unknown.push(format!("{at}.{name}")),
        }
    }
    if ours["items"].is_object() {
        missing(&ours["items"], &theirs["items"], at, unknown);
    }
}

async fn rights(cluster: &Cluster, findings: &mut Findings<'_>, check: Check, needed: &[Right]) {
    let reviews = Api::<SelfSubjectAccessReview>::all(cluster.client.clone());
    let mut lacking = Vec::new();
    for (verb, group, resource, subresource, in_namespace) in needed {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let attributes = ResourceAttributes {
            verb: some(verb),
            group: some(group),
            resource: some(resource),
            subresource: some(subresource),
            // For --pre the chart's own namespace, which need not be there yet.
            namespace: cluster.namespace.clone().filter(|_| *in_namespace),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), non_resource_attributes: None };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        match reviews.create(&PostParams::default(), &review).await {
            Err(error) => return findings.unknown(check, &cluster.explain(&error, "create selfsubjectaccessreviews")),
            Ok(review) if review.status.as_ref().is_some_and(|status| status.allowed) => {}
            Ok(_) => {
                let shown = [resource, *subresource].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
                let group = if group.is_empty() { String::new() } else { format!(".{group}") };
                lacking.push(format!("{verb} {shown}{group}"));
            }
        }
    }
    let place = cluster.place();
    let wrong = if lacking.is_empty() { Vec::new() } else { vec![format!("you may not in {place}: {}", lacking.join(", "))] };
    findings.each(check, Outcome::Warning, wrong, "you have the rights that are needed");
}

async fn pod_security(cluster: &Cluster, findings: &mut Findings<'_>) {
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    let asking = namespaces.list(&ListParams::default().labels(&format!("{INJECT_LABEL}={ENABLED}"))).await;
    let mut asking = match asking {
        Ok(list) => list.items,
        Err(error) => return findings.unknown(Check::ClusterPodSecurity, &cluster.explain(&error, "list namespaces")),
    };
    // That of the context, too, whose pods may ask each for itself.
    if let Some(own) = &cluster.namespace
        && !asking.iter().any(|namespace| namespace.name_any() == *own)
        && let Ok(Some(own)) = namespaces.get_opt(own).await
    {
        asking.push(own);
    }
    if let Ok(Some(agent)) = NodeAgent::of(cluster).await
        && !agent.drain
    {
        return findings
            .good(Check::ClusterPodSecurity, "where a PodSecurity level refuses the init container the node agent makes the interface");
    }
    let refuses = |namespace: &&Namespace| {
        namespace.labels().get("pod-security.kubernetes.io/enforce").is_some_and(|level| level == "baseline" || level == "restricted")
    };
    let wrong = asking.iter().filter(refuses).map(|namespace| {
        format!("namespace {} enforces PodSecurity {}", namespace.name_any(), namespace.labels()["pod-security.kubernetes.io/enforce"])
    });
    let wrong = wrong.collect();
    findings.each(
        Check::ClusterPodSecurity,
        Outcome::Warning,
        wrong,
        "no member namespace enforces a PodSecurity level that refuses sidecars",
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_before_native_sidecars_will_not_do() {
        let outcome = |major: &str, minor: &str| judge_version(&json!({ "major": major, "minor": minor, "gitVersion": "v" })).0;
        assert_eq!(outcome("1", "29"), Outcome::Good);
        assert_eq!(outcome("1", "33+"), Outcome::Good);
        assert_eq!(outcome("1", "28"), Outcome::Wrong);
        assert_eq!(outcome("", ""), Outcome::Unknown);
    }

    #[test]
    fn fields_that_older_definitions_lack_are_named() {
        let ours = json!({ "properties": { "a": { "properties": { "b": {} } }, "c": { "items": { "properties": { "d": {} } } } } });
        let theirs = json!({ "properties": { "a": { "allOf": [{ "properties": {} }] }, "c": { "items": { "properties": {} } } } });
        let mut unknown = Vec::new();
        missing(&ours, &theirs, "Campfire.spec", &mut unknown);
        assert_eq!(unknown, ["Campfire.spec.a.b", "Campfire.spec.c.d"]);
        unknown.clear();
        missing(&ours, &ours, "Campfire.spec", &mut unknown);
        assert!(unknown.is_empty());
    }
}
