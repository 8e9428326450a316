//! What becomes of a pod: pure.

use std::collections::BTreeMap;

use campfire_api::conditions::SkipReason;
use campfire_api::names::{
    AGENT_VOLUME, CA_ANNOTATION, CAMPFIRE_ANNOTATION, CONFIG_PREFIX, CONFIG_SETTINGS, DISABLED, ENABLED, INIT_CONTAINER, INJECT_LABEL,
    INJECTED_LABEL, SETTINGS_HASH_ANNOTATION, SIDECAR_CONTAINER, STATE_VOLUME,
};
use campfire_api::{Campfire, SidecarMode, StartupPolicy};
use campfire_protocol::identity::NetworkId;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use kube::ResourceExt;
use serde::Serialize;
use serde_json::{Value, json};

use super::containers::{Defaults, Settings, Startup, agent_url, containers, hash, volumes};
use crate::campfire::keys::network_of_prefix;
use crate::campfire::validate::readable;
use crate::members::{NamespaceMeta, NoPlace, Places, Unadmitted};
use crate::state::ObjectKey;

/// Label of a namespace by which PodSecurity admission refuses pods.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// One operation of a JSON patch (RFC 6902).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Op {
    /// Puts a value there; in an array before what stands there.
    Add {
        /// JSON pointer.
        path: String,
        /// The value.
        value: Value,
    },
    /// Takes it away.
    Remove {
        /// JSON pointer.
        path: String,
    },
}

/// What becomes of a pod. It is never refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It gets the sidecar (no operation: it has it).
    Patch {
        /// What to change.
        ops: Vec<Op>,
        /// At which fire it sits.
        campfire: ObjectKey,
        /// For whoever made the pod.
        warnings: Vec<String>,
    },
    /// It is left alone.
    Skip {
        /// Why.
        reason: SkipReason,
        /// For people: why, and what to do.
        message: String,
    },
}

fn skip(reason: SkipReason, message: impl Into<String>) -> Decision {
    Decision::Skip { reason, message: message.into() }
}

/// Decides on a pod that is being made. `ca` is the operator's bundle, PEM; empty: the operator has just started and knows nothing yet.
pub fn decide(pod: &Pod, namespace: &NamespaceMeta, places: &Places, defaults: &Defaults, ca: &str) -> Decision {
    let asked = |labels: &BTreeMap<String, String>| match labels.get(INJECT_LABEL).map(String::as_str) {
        Some(ENABLED) => Some(true),
        Some(DISABLED) => Some(false),
        _ => None,
    };
    if !asked(pod.labels()).or_else(|| asked(&namespace.labels)).unwrap_or(false) {
        return skip(SkipReason::NotAsked, "");
    }
    if namespace.name == "kube-system" || namespace.name == defaults.operator_namespace {
        return skip(SkipReason::ProtectedNamespace, format!("pods in namespace {} never get a sidecar", namespace.name));
    }
    if let Some(refused) = unfit(pod) {
        return refused;
    }
    if ca.is_empty() {
        return skip(SkipReason::OperatorStarting, "the operator has just started: delete the pod, so that it is made anew");
    }
    let campfire = match choose(pod, namespace, places) {
        Ok(campfire) => campfire,
        Err((reason, message)) => return skip(reason, message),
    };
    if campfire.spec.sidecar.mode == SidecarMode::Auto
        && let Some(level @ ("baseline" | "restricted")) = namespace.labels.get(ENFORCE).map(String::as_str)
    {
        return skip(
            SkipReason::PodSecurityForbids,
            format!(
                "namespace {} enforces the Pod Security Standard {level}, which forbids the NET_ADMIN that the sidecar's init container needs: \
                 label the namespace {ENFORCE}=privileged, or move the pod to a namespace that allows it",
                namespace.name
            ),
        );
    }
    let network = campfire.status.as_ref().and_then(|status| network_of_prefix(status.prefix.as_deref()?));
    let Some(network) = network else {
        return skip(
            SkipReason::CampfireNotReady,
            format!(
                "Campfire {} has no network yet (kubectl wait campfire --for=condition=Ready): make the pod anew then",
                ObjectKey::of(campfire)
            ),
        );
    };
    let mut warnings = Vec::new();
    let settings = settings(pod, campfire, network, defaults, &mut warnings);
    patch(pod, campfire, &settings, ca, warnings)
}

/// Pods that no sidecar can help.
fn unfit(pod: &Pod) -> Option<Decision> {
    // The API server sends no such pod.
    let Some(spec) = &pod.spec else { return Some(skip(SkipReason::NotAsked, "")) };
    if spec.host_network == Some(true) {
        return Some(skip(SkipReason::HostNetwork, "the pod uses the node's network (hostNetwork), where the sidecar makes no interface"));
    }
    let windows = |selector: &BTreeMap<String, String>| selector.get("kubernetes.io/os").is_some_and(|os| os == "windows");
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") || spec.node_selector.as_ref().is_some_and(windows) {
        return Some(skip(SkipReason::Windows, "the sidecar does not run on Windows"));
    }
    // Stamped by us, or copied from such a pod: then what bears our names is ours to replace.
    let stamped = pod.annotations().contains_key(SETTINGS_HASH_ANNOTATION);
    let ours = |name: &str| name == INIT_CONTAINER || name == SIDECAR_CONTAINER;
    let mut taken = spec.containers.iter().map(|container| &container.name).filter(|name| ours(name)).collect::<Vec<_>>();
    if !stamped {
        taken.extend(inits(pod).iter().map(|container| &container.name).filter(|name| ours(name)));
        taken.extend(volumes_of(pod).iter().map(|volume| &volume.name).filter(|name| our_volume(name)));
    }
    taken.first().map(|name| {
        skip(SkipReason::NameTaken, format!("the pod has a container or volume named {name}, which the sidecar needs: rename it"))
    })
}

fn our_volume(name: &str) -> bool {
    name == STATE_VOLUME || name == AGENT_VOLUME
}

fn inits(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
}

fn volumes_of(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

/// The Campfire of a pod: the one that it or its namespace names, else the only one that admits the namespace.
fn choose<'a>(pod: &Pod, namespace: &NamespaceMeta, places: &'a Places) -> Result<&'a Campfire, (SkipReason, String)> {
    let named = pod.annotations().get(CAMPFIRE_ANNOTATION).or_else(|| namespace.annotations.get(CAMPFIRE_ANNOTATION));
    places.choose(named.map(String::as_str), namespace).map_err(|why| match why {
        NoPlace::Unreadable => {
            (SkipReason::InvalidAnnotation, format!("annotation {CAMPFIRE_ANNOTATION} is no [namespace/]name of a Campfire: correct it"))
        }
        NoPlace::At(key, Unadmitted::NotFound | Unadmitted::NotServed) => (
            SkipReason::CampfireNotFound,
            format!("there is no Campfire {key}: correct annotation {CAMPFIRE_ANNOTATION}, or create it and make the pod anew"),
        ),
        NoPlace::At(key, Unadmitted::NotAdmitted) => (
            SkipReason::NamespaceNotAdmitted,
            format!("Campfire {key} does not admit namespace {}: see its spec.members.namespaces", namespace.name),
        ),
        NoPlace::Nowhere => (
            SkipReason::NoCampfire,
            format!("no Campfire admits namespace {}: create one, or see spec.members.namespaces of those there are", namespace.name),
        ),
        NoPlace::Anywhere(one, other) => (
            SkipReason::AmbiguousCampfire,
            format!("several Campfires admit namespace {} ({one}, {other}): name one in annotation {CAMPFIRE_ANNOTATION}", namespace.name),
        ),
    })
}

/// The sidecar's settings: the pod's annotations, else the Campfire's, else the chart's. What can't be read is left out, with a
/// warning: a typing mistake must not keep a pod out of the mesh.
fn settings(pod: &Pod, campfire: &Campfire, network: NetworkId, defaults: &Defaults, warnings: &mut Vec<String>) -> Settings {
    let sidecar = &campfire.spec.sidecar;
    let mut settings = Settings {
        image: sidecar.image.clone().unwrap_or_else(|| defaults.image.clone()),
        resources: sidecar.resources.as_ref().map_or_else(|| defaults.resources.clone(), |wanted| json!(wanted)),
        startup: Startup { policy: sidecar.startup.policy, timeout: seconds(&sidecar.startup.timeout).unwrap_or(10) },
        log: None,
        pull_policy: defaults.pull_policy.clone(),
        agent: agent_url(&defaults.operator_namespace),
        agent_address: defaults.agent_address,
        network,
        mesh: readable(&campfire.spec.network),
    };
    for (key, value) in pod.annotations() {
        let Some(name) = key.strip_prefix(CONFIG_PREFIX) else { continue };
        let value = value.trim();
        let wrong = match name {
            "startup-policy" => match value {
                "Wait" => set(&mut settings.startup.policy, StartupPolicy::Wait),
                "Require" => set(&mut settings.startup.policy, StartupPolicy::Require),
                _ => Some("Wait or Require"),
            },
            "startup-timeout" => match seconds(value) {
                Some(timeout) => set(&mut settings.startup.timeout, timeout),
                None => Some("a time such as 10s or 2m"),
            },
            "image" if reference(value) => set(&mut settings.image, value.to_owned()),
            "image" => Some("an image, such as registry.example.org/campfire:1.0"),
            "log" if (1..=256).contains(&value.len()) && value.is_ascii() => set(&mut settings.log, Some(value.to_owned())),
            "log" => Some("a filter such as info or campfire_mesh=debug"),
            // Read by the agent API; checked here, where somebody sees it.
            "direct" if matches!(value, "Allow" | "Forbid") => None,
            "direct" => Some("Allow or Forbid"),
            _ => {
                let known = CONFIG_SETTINGS.join(", ");
                warnings
                    .push(format!("campfire: annotation {CONFIG_PREFIX}{} is not known and was ignored; there are {known}", shown(name)));
                continue;
            }
        };
        if let Some(form) = wrong {
            warnings.push(format!("campfire: annotation {key} must be {form}: the default is used"));
        }
    }
    settings
}

fn set<T>(field: &mut T, value: T) -> Option<&'static str> {
    *field = value;
    None
}

/// Short enough for a warning.
fn shown(text: &str) -> String {
    text.chars().take(63).collect()
}

/// Characters of image references, without which a node would refuse the whole pod.
fn reference(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"./:-_@".contains(&byte);
    (1..=512).contains(&text.len()) && text.bytes().all(plain) && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

/// `10s`, `2m`: 1 to 999 of either.
fn seconds(text: &str) -> Option<u32> {
    let (digits, unit) = text.strip_suffix('s').map(|digits| (digits, 1)).or_else(|| text.strip_suffix('m').map(|digits| (digits, 60)))?;
    let plain = (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    plain.then(|| digits.parse::<u32>().ok().map(|count| count * unit)).flatten()
}

/// The operations that make the pod what it should be; none if it is.
fn patch(pod: &Pod, campfire: &Campfire, settings: &Settings, ca: &str, warnings: Vec<String>) -> Decision {
    let campfire = ObjectKey::of(campfire);
    let wanted = containers(settings);
    let hash = hash(&campfire, settings);
    let annotations =
        [(CAMPFIRE_ANNOTATION, campfire.to_string()), (SETTINGS_HASH_ANNOTATION, hash.clone()), (CA_ANNOTATION, ca.to_owned())];
    let same = pod.annotations().get(SETTINGS_HASH_ANNOTATION) == Some(&hash);
    let mut ops = Vec::new();
    stamp(&mut ops, "/metadata/labels", pod.metadata.labels.as_ref(), &[(INJECTED_LABEL, ENABLED.to_owned())]);
    stamp(&mut ops, "/metadata/annotations", pod.metadata.annotations.as_ref(), &annotations);
    place_volumes(&mut ops, pod, same);
    place_containers(&mut ops, pod, same, wanted);
    Decision::Patch { ops, campfire, warnings }
}

/// Adds what is missing or different to a map that may be missing itself.
fn stamp(ops: &mut Vec<Op>, path: &str, held: Option<&BTreeMap<String, String>>, wanted: &[(&str, String)]) {
    if held.is_none() {
        ops.push(Op::Add { path: path.into(), value: json!({}) });
    }
    for (key, value) in wanted {
        if held.and_then(|held| held.get(*key)) != Some(value) {
            ops.push(Op::Add { path: format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), value: json!(value) });
        }
    }
}

/// Our volumes at the end; kept if they are ours of now, else replaced.
fn place_volumes(ops: &mut Vec<Op>, pod: &Pod, same: bool) {
    let held: Vec<usize> =
        volumes_of(pod).iter().enumerate().filter(|(_, volume)| our_volume(&volume.name)).map(|(index, _)| index).collect();
    let wanted = volumes();
    if same && held.len() == wanted.len() {
        return;
    }
    if pod.spec.as_ref().is_none_or(|spec| spec.volumes.is_none()) {
        ops.push(Op::Add { path: "/spec/volumes".into(), value: json!([]) });
    }
    ops.extend(held.iter().rev().map(|index| Op::Remove { path: format!("/spec/volumes/{index}") }));
    ops.extend(wanted.into_iter().map(|value| Op::Add { path: "/spec/volumes/-".into(), value }));
}

/// Our containers first of all: whatever runs before the app may need the mesh. On a second call (others changed the pod after us)
/// they may have been moved, or given a mount of the pod's own API token, which the sidecar must not have: they are put back.
fn place_containers(ops: &mut Vec<Op>, pod: &Pod, same: bool, wanted: [Value; 2]) {
    let inits = inits(pod);
    let ours_alone = |container: &Container| {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        mounts.iter().all(|mount| our_volume(&mount.name))
    };
    let first = |index: usize, name: &str| inits.get(index).is_some_and(|container| container.name == name && ours_alone(container));
    let ours = |container: &Container| container.name == INIT_CONTAINER || container.name == SIDECAR_CONTAINER;
    let held: Vec<usize> = inits.iter().enumerate().filter(|(_, container)| ours(container)).map(|(index, _)| index).collect();
    if same && held.len() == 2 && first(0, INIT_CONTAINER) && first(1, SIDECAR_CONTAINER) {
        return;
    }
    if pod.spec.as_ref().is_none_or(|spec| spec.init_containers.is_none()) {
        ops.push(Op::Add { path: "/spec/initContainers".into(), value: json!([]) });
    }
    ops.extend(held.iter().rev().map(|index| Op::Remove { path: format!("/spec/initContainers/{index}") }));
    ops.extend(wanted.into_iter().enumerate().map(|(index, value)| Op::Add { path: format!("/spec/initContainers/{index}"), value }));
}
