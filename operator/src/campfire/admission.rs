//! Whether pods with a sidecar are admitted in a Campfire's namespace. A label says so of PodSecurity; the cluster's default and the policies of
//! others no object shows: then two pods are tried that never come to be (dry runs), one with our containers and one without. What the API
//! server has against the first and not against the second it has against us.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use campfire_api::StartupPolicy;
use campfire_api::conditions::Reason;
use campfire_api::names::{CA_ANNOTATION, DISABLED, INJECT_LABEL};
use campfire_protocol::identity::NetworkId;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::conditions::Said;
use crate::context::Context;
use crate::members::NamespaceMeta;
use crate::settings::Level;
use crate::state::MeshNetwork;
use crate::webhook::containers::{Defaults, Settings, Startup, agent_url, containers, volumes};
use crate::webhook::fit::{Wish, fit};
use crate::webhook::guard::labelled;
use crate::webhook::mode::Way;

/// How long a verdict holds: less than the Campfire is left alone for, so that it is found anew each time.
const HOLDS: Duration = Duration::from_secs(25);
/// For one try.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last verdict of each namespace, for all of its Campfires.
#[derive(Debug, Default)]
pub struct Verdicts(Mutex<HashMap<String, Verdict>>);

/// When, with which label and who makes the interface, and what.
type Verdict = (Instant, (Option<Level>, Way), Said);

/// What is to be said by `MembersAdmitted`. `image`: of the sidecar.
pub async fn tried(ctx: &Context, verdicts: &Verdicts, namespace: &str, image: Option<&str>) -> Said {
    let meta =
        ctx.cluster.namespace(namespace).unwrap_or_else(|| Arc::new(NamespaceMeta { name: namespace.into(), ..NamespaceMeta::default() }));
    let level = labelled(&meta);
    let agent = ctx.cluster.nodes().agent.is_some_and(|agent| !agent.drain) && level != Some(Level::Privileged);
    let way = if agent { Way::Node(BTreeMap::new()) } else { Way::Tun };
    if let Some(level @ (Level::Baseline | Level::Restricted)) = level
        && !agent
    {
        let message = format!(
            "namespace {namespace} enforces the Pod Security Standard {}: its own pods get no sidecar, those of other members may",
            level.name()
        );
        return Said::of(Reason::PodSecurityForbids, message);
    }
    let held = verdicts.0.lock().unwrap_or_else(PoisonError::into_inner).get(namespace).cloned();
    if let Some((at, of, said)) = held
        && of == (level, way.clone())
        && at.elapsed() < HOLDS
    {
        return said;
    }
    let said = dry_run(ctx, namespace, image, level, &way).await;
    let mut held = verdicts.0.lock().unwrap_or_else(PoisonError::into_inner);
    held.retain(|_, (at, ..)| at.elapsed() < HOLDS);
    held.insert(namespace.to_owned(), (Instant::now(), (level, way), said.clone()));
    said
}

async fn dry_run(ctx: &Context, namespace: &str, image: Option<&str>, level: Option<Level>, way: &Way) -> Said {
    let defaults = Defaults::of(&ctx.settings);
    let image = image.unwrap_or(&defaults.image);
    let bare = bare(image);
    let with = match with_sidecar(&bare, &defaults, image, ctx, namespace, way) {
        Ok(with) => with,
        Err(why) => return Said::of(Reason::NotTried, format!("in namespace {namespace}: {why}")),
    };
    let Err(refused) = create(ctx, namespace, with).await else {
        return match level {
            Some(_) => Said::of(Reason::Admitted, format!("pods with the sidecar are admitted in namespace {namespace}")),
            None => Said::of(
                Reason::AdmittedByDefault,
                format!("pods with the sidecar are admitted in namespace {namespace}, which has no PodSecurity label"),
            ),
        };
    };
    if let Err(why) = create(ctx, namespace, bare).await {
        return Said::of(Reason::NotTried, format!("no pod can be tried in namespace {namespace}, with or without the sidecar: {why}"));
    }
    if refused.contains("violates PodSecurity") {
        let message = format!("this cluster's PodSecurity forbids the sidecar where a namespace has no label ({})", short(&refused));
        Said::of(Reason::PodSecurityDefault, message)
    } else {
        let message = format!(
            "a policy of this cluster refuses pods with the sidecar in namespace {namespace}, which start without ({refused}): exempt the containers \
             campfire-init and campfire from it"
        );
        Said::of(Reason::PolicyForbids, message)
    }
}

/// Without what it says of each container.
fn short(refused: &str) -> &str {
    let from = refused.find("violates PodSecurity").unwrap_or(0);
    let all = refused.get(from..).unwrap_or_default();
    all.split_once(": ").map_or(all, |(first, _)| first)
}

/// A pod that any level takes. No webhook of ours is asked about it.
fn bare(image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "campfire-tried-", "labels": { INJECT_LABEL: DISABLED }, "annotations": { CA_ANNOTATION: "-" } },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65_532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "app", "image": image,
                "resources": { "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "cpu": "100m", "memory": "32Mi" } },
                "securityContext": { "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    })
}

/// The same with our containers, as they fit the namespace.
fn with_sidecar(bare: &Value, defaults: &Defaults, image: &str, ctx: &Context, namespace: &str, way: &Way) -> Result<Value, String> {
    let settings = Settings {
        image: image.to_owned(),
        pull_policy: defaults.pull_policy.clone(),
        wish: Wish { resources: defaults.resources.clone(), own: false },
        pull_secrets: Vec::new(),
        startup: Startup { policy: StartupPolicy::Wait, timeout: 10 },
        log: None,
        agent: agent_url(&defaults.operator_namespace),
        agent_address: None,
        network: NetworkId([0; 5]),
        mesh: MeshNetwork { ipv4_pool: None, accept_routes: Vec::new(), mtu: 1280 },
        way: way.clone(),
        root: false,
    };
    let pod: Pod = serde_json::from_value(bare.clone()).map_err(|error| error.to_string())?;
    let spec = pod.spec.unwrap_or_default();
    let resources = fit(&spec, &settings.wish, &ctx.cluster.bounds(namespace)).map_err(|(_, why)| why)?;
    let mut with = bare.clone();
    with["spec"]["initContainers"] = json!(containers(&settings, &resources));
    with["spec"]["volumes"] = json!(volumes(way));
    Ok(with)
}

/// As if it were made.
async fn create(ctx: &Context, namespace: &str, pod: Value) -> Result<(), String> {
    let pod: Pod = serde_json::from_value(pod).map_err(|error| error.to_string())?;
    let api: Api<Pod> = Api::namespaced(ctx.cluster.client.clone(), namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match tokio::time::timeout(PATIENCE, api.create(&dry, &pod)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => Err(status.message),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
