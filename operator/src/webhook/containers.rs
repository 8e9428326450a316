//! What is put into a pod: one or two containers, and their volumes.

use std::net::IpAddr;

use campfire_api::names::{
    AGENT_AUDIENCE, AGENT_DIR, AGENT_PORT, AGENT_SERVICE, AGENT_VOLUME, CA_ANNOTATION, CA_FILE, INIT_CONTAINER, NODE_DIR, NODE_DRIVER,
    NODE_VOLUME, SIDECAR_CONTAINER, SIDECAR_UID, STATE_DIR, STATE_VOLUME, TOKEN_FILE,
};
use campfire_api::{Resources, StartupPolicy};
use campfire_protocol::identity::NetworkId;
use k8s_openapi::api::core::v1::ResourceRequirements;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::fit::Wish;
use super::mode::Way;
use crate::members::Trusted;
use crate::nodes::Nodes;
use crate::settings::{Level, OperatorSettings};
use crate::state::{MeshNetwork, ObjectKey};

/// What the chart says of all sidecars.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The operator's namespace.
    pub operator_namespace: String,
    /// Image of the sidecar.
    pub image: String,
    /// When it is pulled, as in a container.
    pub pull_policy: String,
    /// CPU and memory.
    pub resources: Resources,
    /// The Pod Security Standard of namespaces that have no label, if nothing better is known.
    pub pod_security: Level,
    /// Whose Campfires say what sidecars of other namespaces are.
    pub trusted: Trusted,
    /// Cluster IP of the agent API, for pods whose DNS does not know its name.
    pub agent_address: Option<IpAddr>,
    /// What the cluster's nodes have for pods.
    pub nodes: Nodes,
}

impl Defaults {
    /// As the operator was told.
    pub fn of(settings: &OperatorSettings) -> Self {
        Self {
            operator_namespace: settings.namespace.clone(),
            image: settings.sidecar_image.clone(),
            pull_policy: settings.image_pull_policy.clone(),
            resources: settings.sidecar_resources.clone().unwrap_or_default(),
            pod_security: settings.pod_security,
            trusted: settings.trusted.clone(),
            agent_address: None,
            nodes: Nodes::default(),
        }
    }
}

/// The settings of one pod's sidecar.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image.
    pub image: String,
    /// See [`Defaults::pull_policy`].
    pub pull_policy: String,
    /// CPU and memory that are asked for: what a pod gets follows from it too.
    pub wish: Wish,
    /// Secrets to pull the image with, beside the pod's own.
    pub pull_secrets: Vec<String>,
    /// What the app waits for.
    pub startup: Startup,
    /// Log filter; `None`: the sidecar's default.
    pub log: Option<String>,
    /// URL of the agent API.
    pub agent: String,
    /// See [`Defaults::agent_address`].
    pub agent_address: Option<IpAddr>,
    /// The network's id.
    pub network: NetworkId,
    /// What the interface has beside its address, and of what its address is.
    pub mesh: MeshNetwork,
    /// Who makes it.
    pub way: Way,
    /// The pod runs as root where it says nothing else; the sidecar never does.
    pub root: bool,
}

/// What the app waits for.
#[derive(Clone, Copy, Debug)]
pub struct Startup {
    /// See `spec.sidecar.startup`.
    pub policy: StartupPolicy,
    /// Seconds.
    pub timeout: u32,
}

/// URL of the agent API of an operator in `namespace`.
pub fn agent_url(namespace: &str) -> String {
    format!("https://{AGENT_SERVICE}.{namespace}.svc:{AGENT_PORT}")
}

/// What runs before the app: the init container that makes what needs rights, and the sidecar that has none; where the node's agent makes the
/// interface, the sidecar alone. `resources`: what fits the pod.
pub fn containers(settings: &Settings, resources: &Resources) -> Vec<Value> {
    let resources = json!(ResourceRequirements::from(resources));
    match settings.way {
        Way::Tun => vec![init(settings, &resources), sidecar(settings, &resources)],
        Way::Node(_) => vec![sidecar(settings, &resources)],
    }
}

/// What both containers have.
fn container(settings: &Settings, resources: &Value, name: &str, arguments: &[&str]) -> Value {
    let policy = match settings.startup.policy {
        StartupPolicy::Wait => "Wait",
        StartupPolicy::Require => "Require",
    };
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut env = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        json!({ "name": "CAMPFIRE_STARTUP_POLICY", "value": policy }),
        json!({ "name": "CAMPFIRE_STARTUP_TIMEOUT", "value": format!("{}s", settings.startup.timeout) }),
    ];
    if let Some(log) = &settings.log {
        env.push(json!({ "name": "CAMPFIRE_LOG", "value": log }));
    }
    json!({
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "args": arguments,
        "env": env,
        "resources": resources,
        "volumeMounts": [{ "name": STATE_VOLUME, "mountPath": STATE_DIR }],
    })
}

fn push(container: &mut Value, list: &str, value: Value) {
    if let Some(list) = container[list].as_array_mut() {
        list.push(value);
    }
}

fn init(settings: &Settings, resources: &Value) -> Value {
    let mut init = container(settings, resources, INIT_CONTAINER, &["pod-init"]);
    // All that the interface is made of is public and known here: the init container asks nobody.
    let MeshNetwork { ipv4_pool, accept_routes, mtu } = &settings.mesh;
    let mut say = |name: &str, value: String| push(&mut init, "env", json!({ "name": name, "value": value }));
    say("CAMPFIRE_NETWORK", settings.network.to_string());
    say("CAMPFIRE_MTU", mtu.to_string());
    if let Some(pool) = ipv4_pool {
        say("CAMPFIRE_IPV4_POOL", pool.to_string());
    }
    if !accept_routes.is_empty() {
        say("CAMPFIRE_ACCEPT_ROUTE", accept_routes.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    // Said in full, for the pod's own securityContext would hold otherwise.
    init["securityContext"] = json!({
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": false,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "MKNOD", "CHOWN"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    init
}

fn sidecar(settings: &Settings, resources: &Value) -> Value {
    let mut sidecar = container(settings, resources, SIDECAR_CONTAINER, &["up", "--agent", &settings.agent]);
    sidecar["restartPolicy"] = json!("Always");
    if let Some(address) = settings.agent_address {
        push(&mut sidecar, "env", json!({ "name": "CAMPFIRE_AGENT_ADDRESS", "value": address.to_string() }));
    }
    push(&mut sidecar, "volumeMounts", json!({ "name": AGENT_VOLUME, "mountPath": AGENT_DIR, "readOnly": true }));
    let mut security = json!({
        "runAsNonRoot": true,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    // Where the agent makes the interface anybody may be its user: the pod's, which other admission may have chosen, else the image's.
    if settings.way == Way::Tun || settings.root {
        security["runAsUser"] = json!(SIDECAR_UID);
        security["runAsGroup"] = json!(SIDECAR_UID);
    }
    sidecar["securityContext"] = security;
    match settings.way {
        // `wg` looks for sockets there alone, and the root is read-only. The init container made the directory, for the sidecar's user.
        Way::Tun => {
            let mount = json!({ "name": STATE_VOLUME, "mountPath": "/var/run/wireguard", "subPath": "wireguard" });
            push(&mut sidecar, "volumeMounts", mount);
        }
        Way::Node(_) => {
            push(&mut sidecar, "volumeMounts", json!({ "name": NODE_VOLUME, "mountPath": NODE_DIR, "readOnly": true }));
            push(&mut sidecar, "env", json!({ "name": "CAMPFIRE_NODE_DIR", "value": NODE_DIR }));
            push(&mut sidecar, "env", json!({ "name": "CAMPFIRE_WG_DIR", "value": format!("{STATE_DIR}/wireguard") }));
        }
    }
    // The command itself knows policy and timeout; the threshold is only there for a sidecar that hangs.
    let threshold = match settings.startup.policy {
        StartupPolicy::Wait => settings.startup.timeout.saturating_add(60),
        StartupPolicy::Require => 86_400,
    };
    sidecar["startupProbe"] = json!({
        "exec": { "command": ["campfire", "ready"] },
        "periodSeconds": 1,
        "timeoutSeconds": 3,
        "failureThreshold": threshold,
    });
    sidecar
}

/// Memory for the identity and the cached settings; the token and the CA; where the node's agent makes the interface, the way to it.
pub fn volumes(way: &Way) -> Vec<Value> {
    let mut volumes = vec![
        json!({ "name": STATE_VOLUME, "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } }),
        json!({ "name": AGENT_VOLUME, "projected": { "sources": [
            { "serviceAccountToken": { "audience": AGENT_AUDIENCE, "expirationSeconds": 3600, "path": TOKEN_FILE } },
            { "downwardAPI": { "items": [{
                "path": CA_FILE,
                "fieldRef": { "fieldPath": format!("metadata.annotations['{CA_ANNOTATION}']") },
            }] } },
        ] } }),
    ];
    if let Way::Node(_) = way {
        volumes.push(json!({ "name": NODE_VOLUME, "csi": { "driver": NODE_DRIVER, "readOnly": true } }));
    }
    volumes
}

/// Hash of what a pod was given: 16 hex digits. It changes with whatever [`containers`] and [`volumes`] put into a pod, but for the address
/// of the agent API, which is a second way to it alone, and for what follows from the pod itself: its class, its user, its namespace's bounds.
pub fn hash(campfire: &ObjectKey, settings: &Settings) -> String {
    let settings = Settings { agent_address: None, root: false, ..settings.clone() };
    let given =
        json!([campfire.to_string(), containers(&settings, &settings.wish.resources), volumes(&settings.way), settings.pull_secrets]);
    let digest = Sha256::digest(given.to_string());
    hex::encode(digest.get(..8).unwrap_or_default())
}
