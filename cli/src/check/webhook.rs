//! Whether a pod that asks for a sidecar gets one: by pods that nobody keeps.

use anyhow::Result;
use campfire_api::conditions::SkipReason;
use campfire_api::names::{DISABLED, ENABLED, INJECT_LABEL, SIDECAR_CONTAINER};
use http::{HeaderValue, header};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::client::Body;
use kube::core::{Request, Status};
use kube::{Resource as _, ResourceExt};
use serde_json::json;

use super::{Check, Findings, Outcome};
use crate::cluster::Cluster;

/// Other namespaces that are tried where the first says nothing of the webhook.
const ELSEWHERE: usize = 5;

/// What came of a pod.
enum Tried {
    /// It has a sidecar.
    Given,
    /// Admission in that namespace is against the pod or the sidecar, in these words.
    NotHere(String),
    /// What else is to be said.
    Found(Outcome, String),
}

/// Looks. Where admission is against it nothing is wrong with the webhook: it is tried in another namespace with a Campfire then, also in one that is
/// not looked at otherwise.
pub(super) async fn look(cluster: &Cluster, findings: &mut Findings<'_>) {
    let check = Check::OperatorWebhook;
    let first = match namespace(cluster).await {
        Ok(Some(namespace)) => namespace,
        Ok(None) => return findings.add(check, Outcome::Unknown, "there is no Campfire that a pod could sit at"),
        Err(error) => return findings.unknown(check, &error),
    };
    let why = match tried(cluster, &first).await {
        Tried::Given => return findings.good(check, format!("a new pod in namespace {first} gets a sidecar")),
        Tried::Found(outcome, words) => return findings.add(check, outcome, words),
        Tried::NotHere(why) => why,
    };
    for namespace in elsewhere(cluster, &first).await {
        if let Tried::Given = tried(cluster, &namespace).await {
            return findings
                .good(check, format!("a new pod in namespace {namespace} gets a sidecar; none does in namespace {first}: {why}"));
        }
    }
    findings.add(check, Outcome::Unknown, format!("it cannot be tried in namespace {first}: {why}"));
}

/// Where a pod may sit at a fire.
async fn namespace(cluster: &Cluster) -> Result<Option<String>> {
    if let Some(member) = cluster.members().await?.first() {
        return Ok(Some(member.namespace.clone()));
    }
    Ok(cluster.campfires().await?.first().and_then(ResourceExt::namespace))
}

/// Other namespaces with a Campfire. Who may not list those of all has none.
async fn elsewhere(cluster: &Cluster, first: &str) -> Vec<String> {
    let everywhere = Cluster { namespace: None, ..cluster.clone() };
    let campfires = everywhere.campfires().await.unwrap_or_default();
    let mut others: Vec<String> = campfires.iter().filter_map(ResourceExt::namespace).filter(|namespace| namespace != first).collect();
    others.dedup();
    others.truncate(ELSEWHERE);
    others
}

/// Makes a pod, in a dry run.
async fn tried(cluster: &Cluster, namespace: &str) -> Tried {
    let (pod, warnings) = match create(cluster, namespace, ENABLED).await {
        Ok(made) => made,
        Err(kube::Error::Api(refused)) => {
            // For the pod itself, or for what the sidecar asks for.
            return match create(cluster, namespace, DISABLED).await {
                Err(_) => Tried::NotHere(format!("a new pod is refused there, also without a sidecar: {}", refused.message)),
                Ok(_) => Tried::Found(
                    Outcome::Wrong,
                    format!("a new pod in namespace {namespace} is refused once it has a sidecar: {}", refused.message),
                ),
            };
        }
        Err(error) => {
            let error = cluster.explain(&error, &format!("create pods (in a dry run) in namespace {namespace}"));
            return Tried::Found(Outcome::Unknown, format!("{error:#}"));
        }
    };
    let containers = pod.spec.unwrap_or_default().init_containers.unwrap_or_default();
    if containers.iter().any(|container| container.name == SIDECAR_CONTAINER) {
        return Tried::Given;
    }
    let wrong = |why: &str| Tried::Found(Outcome::Wrong, format!("a new pod in namespace {namespace} gets no sidecar: {why}"));
    match warnings.iter().find_map(|warning| SkipReason::warned(warning)) {
        None => {
            wrong(&format!("the API server does not reach the webhook, or the pod may not have one (kubectl get events -n {namespace})"))
        }
        Some((reason, message)) if of_namespace(reason) => {
            Tried::NotHere(format!("the webhook is asked, and gives no pod a sidecar there: {reason}: {message}"))
        }
        Some((reason, message)) => wrong(&format!("{reason}: {message}")),
    }
}

/// Whether admission in the namespace is against the sidecar, and not something that should be otherwise where pods ask for one.
fn of_namespace(reason: SkipReason) -> bool {
    match reason {
        SkipReason::PodSecurityForbids | SkipReason::PolicyForbids | SkipReason::QuotaForbids | SkipReason::LimitRangeForbids => true,
        SkipReason::NotAsked
        | SkipReason::ProtectedNamespace
        | SkipReason::HostNetwork
        | SkipReason::Windows
        | SkipReason::NoCampfire
        | SkipReason::AmbiguousCampfire
        | SkipReason::CampfireNotFound
        | SkipReason::NamespaceNotAdmitted
        | SkipReason::InvalidAnnotation
        | SkipReason::MirrorPod
        | SkipReason::UserNamespace
        | SkipReason::NoNodeAgent
        | SkipReason::NodeAgentNotEverywhere
        | SkipReason::Sandboxed
        | SkipReason::AnnotationsFull
        | SkipReason::NameTaken
        | SkipReason::CampfireNotReady
        | SkipReason::OperatorStarting => false,
    }
}

/// The pod as it would be with this label, and what the API server warns of.
async fn create(cluster: &Cluster, namespace: &str, inject: &str) -> kube::Result<(Pod, Vec<String>)> {
    // Nothing of its own that any PodSecurity level would refuse.
    let security = json!({
        "runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "campfire-check-", "labels": { INJECT_LABEL: inject } },
        "spec": { "containers": [{ "name": "app", "image": "never-pulled", "securityContext": security }] },
    });
    let dry = PostParams { dry_run: true, field_manager: None };
    let request = Request::new(Pod::url_path(&(), Some(namespace))).create(&dry, pod.to_string().into_bytes());
    // By hand: a client that returns the object alone drops the warnings.
    let response = cluster.client.send(request.map_err(kube::Error::BuildRequest)?.map(Body::from)).await?;
    let warnings = response.headers().get_all(header::WARNING).iter().filter_map(warned).collect();
    let code = response.status();
    let body = response.into_body().collect_bytes().await?;
    if code.is_success() {
        return Ok((serde_json::from_slice(&body).map_err(kube::Error::SerdeError)?, warnings));
    }
    let status = serde_json::from_slice(&body).unwrap_or_else(|_| Status::failure("it says no more", "Unknown").with_code(code.as_u16()));
    Err(kube::Error::Api(status.boxed()))
}

/// The text of a Warning header: `299 - "text"` (RFC 7234 §5.5).
fn warned(header: &HeaderValue) -> Option<String> {
    let (_, quoted) = std::str::from_utf8(header.as_bytes()).ok()?.split_once('"')?;
    let mut quoted = quoted.chars();
    let mut text = String::new();
    loop {
        match quoted.next()? {
            '"' => return Some(text),
            '\\' => text.push(quoted.next()?),
            plain => text.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_read_out_of_their_quotes() {
        let text = |header: &[u8]| warned(&HeaderValue::from_bytes(header).unwrap());
        assert_eq!(text(br#"299 - "a \"quoted\" \\ word""#).as_deref(), Some(r#"a "quoted" \ word"#));
        assert_eq!(text("299 - \"Grüße\"".as_bytes()).as_deref(), Some("Grüße"));
        for broken in [&b"299 - none"[..], b"299 - \"no end", b"299 - \"\\", b"299 - \"\xff\"", b""] {
            assert_eq!(text(broken), None, "{broken:?}");
        }
    }
}
