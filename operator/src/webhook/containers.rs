//! What is put into a pod: two containers and two volumes.

use campfire_api::StartupPolicy;
use campfire_api::names::{
    AGENT_AUDIENCE, AGENT_DIR, AGENT_PORT, AGENT_SERVICE, AGENT_VOLUME, CA_ANNOTATION, CA_FILE, INIT_CONTAINER, SIDECAR_CONTAINER,
    STATE_DIR, STATE_VOLUME, TOKEN_FILE, UID,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::state::ObjectKey;

/// What the chart says of all sidecars.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The operator's namespace.
    pub operator_namespace: String,
    /// Image of the sidecar.
    pub image: String,
    /// When it is pulled, as in a container.
    pub pull_policy: String,
    /// CPU and memory, as in a container.
    pub resources: Value,
}

/// The settings of one pod's sidecar.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image.
    pub image: String,
    /// See [`Defaults::pull_policy`].
    pub pull_policy: String,
    /// CPU and memory, as in a container.
    pub resources: Value,
    /// What the app waits for.
    pub startup: Startup,
    /// Log filter; `None`: the sidecar's default.
    pub log: Option<String>,
    /// URL of the agent API.
    pub agent: String,
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

/// The init container that makes what needs rights, and the sidecar that has none.
pub fn containers(settings: &Settings) -> [Value; 2] {
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
    let mounts = json!([
        { "name": STATE_VOLUME, "mountPath": STATE_DIR },
        { "name": AGENT_VOLUME, "mountPath": AGENT_DIR, "readOnly": true },
    ]);
    let container = |name: &str, command: &str| {
        json!({
            "name": name,
            "image": settings.image,
            "imagePullPolicy": settings.pull_policy,
            "args": [command, "--agent", settings.agent],
            "env": env,
            "resources": settings.resources,
            "volumeMounts": mounts,
        })
    };

    let mut init = container(INIT_CONTAINER, "pod-init");
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

    let mut sidecar = container(SIDECAR_CONTAINER, "up");
    sidecar["restartPolicy"] = json!("Always");
    // `wg` looks for sockets there alone, and the root is read-only. The init container made the directory, for the sidecar's user.
    if let Some(mounts) = sidecar["volumeMounts"].as_array_mut() {
        mounts.push(json!({ "name": STATE_VOLUME, "mountPath": "/var/run/wireguard", "subPath": "wireguard" }));
    }
    sidecar["securityContext"] = json!({
        "runAsUser": UID,
        "runAsGroup": UID,
        "runAsNonRoot": true,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
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
    [init, sidecar]
}

/// Memory for the identity and the cached settings; the token and the CA.
pub fn volumes() -> [Value; 2] {
    [
        json!({ "name": STATE_VOLUME, "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } }),
        json!({ "name": AGENT_VOLUME, "projected": { "sources": [
            { "serviceAccountToken": { "audience": AGENT_AUDIENCE, "expirationSeconds": 3600, "path": TOKEN_FILE } },
            { "downwardAPI": { "items": [{
                "path": CA_FILE,
                "fieldRef": { "fieldPath": format!("metadata.annotations['{CA_ANNOTATION}']") },
            }] } },
        ] } }),
    ]
}

/// Hash of what a pod was given: 16 hex digits. It changes with whatever [`containers`] and [`volumes`] put into a pod.
pub fn hash(campfire: &ObjectKey, settings: &Settings) -> String {
    let given = json!([campfire.to_string(), containers(settings), volumes()]);
    let digest = Sha256::digest(given.to_string());
    hex::encode(digest.get(..8).unwrap_or_default())
}
