//! What becomes of a pod: pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use campfire_api::conditions::SkipReason;
use campfire_api::names::{
    AGENT_VOLUME, CA_ANNOTATION, CAMPFIRE_ANNOTATION, CONFIG_PREFIX, CONFIG_SETTINGS, DISABLED, ENABLED, INJECT_LABEL, INJECTED_LABEL,
    MODE_ANNOTATION, NODE_MODE, NODE_VOLUME, SETTINGS_HASH_ANNOTATION, STATE_VOLUME,
};
use campfire_api::{Campfire, Network, Resources, Sidecar, StartupPolicy};
use campfire_protocol::identity::NetworkId;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::{Value, json};

use super::amount::Amount;
use super::containers::{Defaults, Settings, Startup, agent_url, containers, hash, volumes};
use super::fit::{Wish, fit, ours};
use super::mode::{self, Way};
use crate::campfire::keys::network_of_prefix;
use crate::campfire::validate::readable;
use crate::cluster::Bounds;
use crate::members::{NamespaceMeta, NoPlace, Places, Trusted, Unadmitted};
use crate::state::ObjectKey;

/// Longest annotations of an object, bytes: more the API server does not take.
const MAX_ANNOTATIONS: usize = 256 * 1_024;
/// Annotation of pods that a kubelet made by itself, of which the API server has but the image.
const MIRROR: &str = "kubernetes.io/config.mirror";

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
        /// At which fire it would sit.
        campfire: Option<ObjectKey>,
    },
}

/// Why a pod is left alone, and for people what to do.
type Why = (SkipReason, String);

/// Decides on a pod that is being made. `bounds`: of its namespace. `ca`: by what the pod knows the operator's CA; empty: the operator has just
/// started and knows nothing yet.
pub fn decide(pod: &Pod, namespace: &NamespaceMeta, bounds: &Bounds, places: &Places, defaults: &Defaults, ca: &str) -> Decision {
    let asked = |labels: &BTreeMap<String, String>| match labels.get(INJECT_LABEL).map(String::as_str) {
        Some(ENABLED) => Some(true),
        Some(DISABLED) => Some(false),
        _ => None,
    };
    let skip = |(reason, message), campfire| Decision::Skip { reason, message, campfire };
    if !asked(pod.labels()).or_else(|| asked(&namespace.labels)).unwrap_or(false) {
        return skip((SkipReason::NotAsked, String::new()), None);
    }
    if namespace.name == "kube-system" || namespace.name == defaults.operator_namespace {
        return skip((SkipReason::ProtectedNamespace, format!("pods in namespace {} never get a sidecar", namespace.name)), None);
    }
    let chosen = choose(pod, namespace, places);
    let at = chosen.as_ref().ok().map(|campfire| ObjectKey::of(*campfire));
    match unfit(pod, ca).map_or(chosen, Err).and_then(|campfire| inject(pod, campfire, namespace, bounds, places, defaults, ca)) {
        Ok(patch) => patch,
        Err(why) => skip(why, at),
    }
}

/// Of a pod that sits at this Campfire.
fn inject(
    pod: &Pod,
    campfire: &Campfire,
    namespace: &NamespaceMeta,
    bounds: &Bounds,
    places: &Places,
    defaults: &Defaults,
    ca: &str,
) -> Result<Decision, Why> {
    let (said, network_said) = said_here(campfire, &namespace.name, &defaults.trusted);
    let way = mode::choose(said.mode, pod, namespace, &defaults.nodes, places, defaults.pod_security)?;
    let network = network(campfire).ok_or_else(|| {
        let campfire = ObjectKey::of(campfire);
        let message =
            format!("Campfire {campfire} has no network yet (kubectl wait campfire --for=condition=Ready): make the pod anew then");
        (SkipReason::CampfireNotReady, message)
    })?;
    let mut warnings = unsaid(pod, campfire, namespace, places, &said, &network_said);
    let user = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.run_as_user);
    let told = settings(pod.annotations(), &said, &network_said, network, defaults, &mut warnings);
    let settings = Settings { way, root: user == Some(0), ..told };
    let resources = pod.spec.as_ref().map_or_else(|| Ok(settings.wish.resources.clone()), |spec| fit(spec, &settings.wish, bounds))?;
    Ok(patch(pod, campfire, &settings, &resources, ca, warnings))
}

/// What a Campfire's `spec.sidecar` and `spec.network` come to for pods of a namespace: of another one's, unless it is trusted, neither what the
/// sidecar is (it has an init container that is root) nor what is routed into the mesh from the pod's start.
pub fn said_here<'a>(campfire: &'a Campfire, namespace: &str, trusted: &Trusted) -> (Cow<'a, Sidecar>, Cow<'a, Network>) {
    let (sidecar, network) = (&campfire.spec.sidecar, &campfire.spec.network);
    if trusted.rules(campfire.metadata.namespace.as_deref().unwrap_or_default(), namespace) {
        return (Cow::Borrowed(sidecar), Cow::Borrowed(network));
    }
    (Cow::Owned(Sidecar::default()), Cow::Owned(Network { accept_routes: Vec::new(), ..network.clone() }))
}

/// For whoever makes the pod: what its Campfire says and has no say in, and that there was another Campfire.
fn unsaid(pod: &Pod, campfire: &Campfire, namespace: &NamespaceMeta, places: &Places, sidecar: &Sidecar, network: &Network) -> Vec<String> {
    let (key, name) = (ObjectKey::of(campfire), &namespace.name);
    let mut warnings = Vec::new();
    if *sidecar != campfire.spec.sidecar || *network != campfire.spec.network {
        warnings.push(format!(
            "campfire: spec.sidecar and spec.network.acceptRoutes of Campfire {key} do not hold in namespace {name}: the chart's trustedNamespaces \
             does not name {}",
            key.namespace
        ));
    }
    if named(pod, namespace).is_none()
        && let Some(other) = places.passed_over(campfire, namespace)
    {
        warnings.push(format!(
            "campfire: several Campfires of other namespaces admit namespace {name}, and {key} is the oldest (then {other}): name one in annotation \
             {CAMPFIRE_ANNOTATION}"
        ));
    }
    warnings
}

fn network(campfire: &Campfire) -> Option<NetworkId> {
    network_of_prefix(campfire.status.as_ref()?.prefix.as_deref()?)
}

/// How long the app of a pod of this namespace with these annotations may wait for the mesh.
pub fn startup_timeout(namespace: &str, annotations: &BTreeMap<String, String>, campfire: &Campfire, trusted: &Trusted) -> Duration {
    let (sidecar, _) = said_here(campfire, namespace, trusted);
    let own = annotations.get("config.campfire.network/startup-timeout").and_then(|text| seconds(text.trim()));
    Duration::from_secs(own.or_else(|| seconds(&sidecar.startup.timeout)).unwrap_or(10).into())
}

/// The hash that a pod of this namespace with these annotations would be stamped with now; `None`: its Campfire has no network.
pub fn settings_hash(namespace: &str, annotations: &BTreeMap<String, String>, campfire: &Campfire, defaults: &Defaults) -> Option<String> {
    let (sidecar, said) = said_here(campfire, namespace, &defaults.trusted);
    let told = settings(annotations, &sidecar, &said, network(campfire)?, defaults, &mut Vec::new());
    // Where an interface comes from does not change while its pod lives.
    let node = annotations.get(MODE_ANNOTATION).is_some_and(|mode| mode == NODE_MODE);
    let settings = Settings { way: if node { Way::Node(BTreeMap::new()) } else { Way::Tun }, ..told };
    Some(hash(&ObjectKey::of(campfire), &settings))
}

/// Pods that no sidecar can help.
fn unfit(pod: &Pod, ca: &str) -> Option<Why> {
    // The API server sends no such pod.
    let Some(spec) = &pod.spec else { return Some((SkipReason::NotAsked, String::new())) };
    let said = |reason, message: &str| Some((reason, message.to_owned()));
    if spec.host_network == Some(true) {
        return said(SkipReason::HostNetwork, "the pod uses the node's network (hostNetwork), where the sidecar makes no interface");
    }
    let windows = |selector: &BTreeMap<String, String>| selector.get("kubernetes.io/os").is_some_and(|os| os == "windows");
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") || spec.node_selector.as_ref().is_some_and(windows) {
        return said(SkipReason::Windows, "the sidecar does not run on Windows");
    }
    if pod.annotations().contains_key(MIRROR) {
        return said(SkipReason::MirrorPod, "a kubelet runs the pod from a file on its node, and nothing is added to it here");
    }
    let held: usize = pod.annotations().iter().map(|(name, value)| name.len() + value.len()).sum();
    let ours = ca.len() + 512;
    if held + ours > MAX_ANNOTATIONS && !pod.annotations().contains_key(CA_ANNOTATION) {
        let message = format!(
            "the pod's annotations take {held} bytes, and with the sidecar's {ours} more than the {MAX_ANNOTATIONS} that there may be"
        );
        return Some((SkipReason::AnnotationsFull, message));
    }
    if let Some(name) = taken(pod, spec) {
        let message = format!("the pod has a container or volume named {name}, which the sidecar needs: rename it");
        return Some((SkipReason::NameTaken, message));
    }
    if ca.is_empty() {
        return said(SkipReason::OperatorStarting, "the operator has just started: delete the pod, so that it is made anew");
    }
    None
}

/// A name that the sidecar needs, and somebody else's container or volume has.
fn taken<'a>(pod: &'a Pod, spec: &'a PodSpec) -> Option<&'a String> {
    // Stamped by us, or copied from such a pod: then what bears our names is ours to replace.
    let stamped = pod.annotations().contains_key(SETTINGS_HASH_ANNOTATION);
    let mut taken = spec.containers.iter().filter(|container| ours(container)).map(|container| &container.name);
    let beside = || {
        let containers = inits(pod).iter().filter(|container| ours(container)).map(|container| &container.name);
        containers.chain(volumes_of(pod).iter().map(|volume| &volume.name).filter(|name| our_volume(name))).next()
    };
    taken.next().or_else(|| if stamped { None } else { beside() })
}

fn our_volume(name: &str) -> bool {
    [STATE_VOLUME, AGENT_VOLUME, NODE_VOLUME].contains(&name)
}

fn inits(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
}

fn volumes_of(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

/// What a pod, or else its namespace, names as its Campfire.
fn named<'a>(pod: &'a Pod, namespace: &'a NamespaceMeta) -> Option<&'a str> {
    pod.annotations().get(CAMPFIRE_ANNOTATION).or_else(|| namespace.annotations.get(CAMPFIRE_ANNOTATION)).map(String::as_str)
}

/// The Campfire of a pod (see [`Places::choose`]), or for people why it has none.
fn choose<'a>(pod: &Pod, namespace: &NamespaceMeta, places: &'a Places) -> Result<&'a Campfire, (SkipReason, String)> {
    places.choose(named(pod, namespace), namespace).map_err(|why| match why {
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
            format!(
                "several Campfires of namespace {} admit its pods ({one}, {other}): name one in annotation {CAMPFIRE_ANNOTATION}",
                namespace.name
            ),
        ),
    })
}

/// The sidecar's settings: the pod's annotations, else the Campfire's, else the chart's. What can't be read is left out, with a
/// warning: a typing mistake must not keep a pod out of the mesh.
fn settings(
    annotations: &BTreeMap<String, String>,
    sidecar: &Sidecar,
    said: &Network,
    network: NetworkId,
    defaults: &Defaults,
    warnings: &mut Vec<String>,
) -> Settings {
    let mut settings = Settings {
        image: sidecar.image.clone().unwrap_or_else(|| defaults.image.clone()),
        wish: Wish { resources: sidecar.resources.clone().unwrap_or_else(|| defaults.resources.clone()), own: sidecar.resources.is_some() },
        pull_secrets: sidecar.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
        startup: Startup { policy: sidecar.startup.policy, timeout: seconds(&sidecar.startup.timeout).unwrap_or(10) },
        log: None,
        pull_policy: defaults.pull_policy.clone(),
        agent: agent_url(&defaults.operator_namespace),
        agent_address: defaults.agent_address,
        network,
        mesh: readable(said),
        way: Way::Tun,
        root: false,
    };
    for (key, value) in annotations {
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
fn patch(pod: &Pod, campfire: &Campfire, settings: &Settings, resources: &Resources, ca: &str, warnings: Vec<String>) -> Decision {
    let campfire = ObjectKey::of(campfire);
    let wanted = containers(settings, resources);
    let hash = hash(&campfire, settings);
    let mut annotations =
        vec![(CAMPFIRE_ANNOTATION, campfire.to_string()), (SETTINGS_HASH_ANNOTATION, hash.clone()), (CA_ANNOTATION, ca.to_owned())];
    let same = pod.annotations().get(SETTINGS_HASH_ANNOTATION) == Some(&hash) && has(pod, resources);
    let mut ops = Vec::new();
    if let Way::Node(nodes) = &settings.way {
        annotations.push((MODE_ANNOTATION, NODE_MODE.to_owned()));
        let nodes: Vec<(&str, String)> = nodes.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        if !nodes.is_empty() {
            stamp(&mut ops, "/spec/nodeSelector", pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref()), &nodes);
        }
    } else if pod.annotations().contains_key(MODE_ANNOTATION) {
        // Copied from a pod that was given to an agent.
        ops.push(Op::Remove { path: pointer("/metadata/annotations", MODE_ANNOTATION) });
    }
    stamp(&mut ops, "/metadata/labels", pod.metadata.labels.as_ref(), &[(INJECTED_LABEL, ENABLED.to_owned())]);
    stamp(&mut ops, "/metadata/annotations", pod.metadata.annotations.as_ref(), &annotations);
    place_volumes(&mut ops, pod, same, volumes(&settings.way));
    place_containers(&mut ops, pod, same, wanted);
    add_pull_secrets(&mut ops, pod, &settings.pull_secrets);
    Decision::Patch { ops, campfire, warnings }
}

/// Whether our containers have these already; a LimitRange may have given them more.
fn has(pod: &Pod, resources: &Resources) -> bool {
    let within = |wanted: &BTreeMap<String, Quantity>, held: Option<&BTreeMap<String, Quantity>>| {
        wanted
            .iter()
            .all(|(name, amount)| held.and_then(|held| held.get(name)).is_some_and(|held| Amount::read(&held.0) == Amount::read(&amount.0)))
    };
    inits(pod).iter().filter(|container| ours(container)).all(|container| {
        let held = container.resources.as_ref();
        within(&resources.requests, held.and_then(|held| held.requests.as_ref()))
            && within(&resources.limits, held.and_then(|held| held.limits.as_ref()))
    })
}

/// Beside the pod's own, which stay.
fn add_pull_secrets(ops: &mut Vec<Op>, pod: &Pod, wanted: &[String]) {
    let held = pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref());
    let mut lacking = wanted.iter().filter(|name| !held.unwrap_or_default().iter().any(|secret| secret.name == **name)).peekable();
    if held.is_none() && lacking.peek().is_some() {
        ops.push(Op::Add { path: "/spec/imagePullSecrets".into(), value: json!([]) });
    }
    ops.extend(lacking.map(|name| Op::Add { path: "/spec/imagePullSecrets/-".into(), value: json!({ "name": name }) }));
}

/// JSON pointer of a member (RFC 6901).
fn pointer(parent: &str, key: &str) -> String {
    format!("{parent}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// Adds what is missing or different to a map that may be missing itself.
fn stamp(ops: &mut Vec<Op>, path: &str, held: Option<&BTreeMap<String, String>>, wanted: &[(&str, String)]) {
    if held.is_none() {
        ops.push(Op::Add { path: path.into(), value: json!({}) });
    }
    for (key, value) in wanted {
        if held.and_then(|held| held.get(*key)) != Some(value) {
            ops.push(Op::Add { path: pointer(path, key), value: json!(value) });
        }
    }
}

/// Our volumes at the end; kept if they are ours of now, else replaced.
fn place_volumes(ops: &mut Vec<Op>, pod: &Pod, same: bool, wanted: Vec<Value>) {
    let held: Vec<usize> =
        volumes_of(pod).iter().enumerate().filter(|(_, volume)| our_volume(&volume.name)).map(|(index, _)| index).collect();
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
fn place_containers(ops: &mut Vec<Op>, pod: &Pod, same: bool, wanted: Vec<Value>) {
    let inits = inits(pod);
    let ours_alone = |container: &Container| {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        mounts.iter().all(|mount| our_volume(&mount.name))
    };
    let first = |(index, wanted): (usize, &Value)| {
        inits.get(index).is_some_and(|container| wanted["name"] == container.name.as_str() && ours_alone(container))
    };
    let held: Vec<usize> = inits.iter().enumerate().filter(|(_, container)| ours(container)).map(|(index, _)| index).collect();
    if same && held.len() == wanted.len() && wanted.iter().enumerate().all(first) {
        return;
    }
    if pod.spec.as_ref().is_none_or(|spec| spec.init_containers.is_none()) {
        ops.push(Op::Add { path: "/spec/initContainers".into(), value: json!([]) });
    }
    ops.extend(held.iter().rev().map(|index| Op::Remove { path: format!("/spec/initContainers/{index}") }));
    ops.extend(wanted.into_iter().enumerate().map(|(index, value)| Op::Add { path: format!("/spec/initContainers/{index}"), value }));
}
