//! Names that more than one program must agree on.

/// The API group.
pub const GROUP: &str = "campfire.network";
/// The API version.
pub const VERSION: &str = "v1alpha1";
/// The one field manager of the operator's server-side applies.
pub const FIELD_MANAGER: &str = "campfire-operator";

/// Label on a pod or namespace that asks for the sidecar: [`ENABLED`] or [`DISABLED`]; a pod's wins.
pub const INJECT_LABEL: &str = "campfire.network/inject";
/// Value of [`INJECT_LABEL`].
pub const ENABLED: &str = "enabled";
/// Value of [`INJECT_LABEL`].
pub const DISABLED: &str = "disabled";
/// Label that the webhook stamps on pods that got a sidecar; its value is [`ENABLED`].
pub const INJECTED_LABEL: &str = "campfire.network/injected";
/// Annotation on a pod or namespace: `[namespace/]name` of the Campfire. The webhook stamps it, in full, on each pod that it
/// injects: the agent API believes the pod's annotation, nothing that a sidecar says.
pub const CAMPFIRE_ANNOTATION: &str = "campfire.network/campfire";
/// Annotation stamped at injection: hash of the settings that the pod was given, 16 hex digits.
pub const SETTINGS_HASH_ANNOTATION: &str = "campfire.network/settings-hash";
/// Prefix of the annotations on a pod that change its sidecar's settings; the names are [`CONFIG_SETTINGS`].
pub const CONFIG_PREFIX: &str = "config.campfire.network/";
/// What may stand behind [`CONFIG_PREFIX`]: `startup-policy` (`Wait`, `Require`), `startup-timeout` (`10s`), `image`, `log` and
/// `direct` (`Allow`, `Forbid`).
pub const CONFIG_SETTINGS: [&str; 5] = ["startup-policy", "startup-timeout", "image", "log", "direct"];

/// Label on everything that belongs to a Campfire: its name.
pub const CAMPFIRE_LABEL: &str = "campfire.network/campfire";
/// Label on a Campfire's children whose owner lives in another namespace, or that are listed by it: the namespace.
pub const CAMPFIRE_NAMESPACE_LABEL: &str = "campfire.network/campfire-namespace";
/// Label on what belongs to one replica of the TURN servers: its ordinal.
pub const TURN_REPLICA_LABEL: &str = "campfire.network/turn-replica";

/// Annotation on a Campfire that moves the rotation of its key: a [`Rotation`](crate::Rotation) step by name.
pub const ROTATE_ANNOTATION: &str = "campfire.network/rotate";

/// Name of the sidecar's container.
pub const SIDECAR_CONTAINER: &str = "campfire";
/// Name of the init container that prepares the interface.
pub const INIT_CONTAINER: &str = "campfire-init";
/// The interface in a pod.
pub const INTERFACE: &str = "campfire0";
/// User and group that the operator and the TURN servers run as.
pub const UID: i64 = 65_532;
/// User and group of the sidecar in a pod: one of its own, for in a pod that shares its processes another of the same user reads its files, and 65532
/// is what many images run as.
pub const SIDECAR_UID: i64 = 51_820;

/// Memory emptyDir of the sidecar (mounted in both containers): identity and cache of the settings. Name of the volume.
pub const STATE_VOLUME: &str = "campfire-state";
/// Where [`STATE_VOLUME`] is mounted. Holds `identity` (the Ed25519 seed), `settings.json` (what the operator said last), `tun`
/// (a device node, where the runtime gives none) and the control sockets.
pub const STATE_DIR: &str = "/run/campfire";
/// Directory of the projected volume with token and CA bundle. Name of the volume.
pub const AGENT_VOLUME: &str = "campfire-agent";
/// Where [`AGENT_VOLUME`] is mounted: files [`TOKEN_FILE`] and [`CA_FILE`].
pub const AGENT_DIR: &str = "/var/run/secrets/campfire.network/agent";
/// The projected, audience-bound, pod-bound token.
pub const TOKEN_FILE: &str = "token";
/// By what the operator's CA certificates are known: a downward-API file of the annotation [`CA_ANNOTATION`].
pub const CA_FILE: &str = "ca";
/// Annotation stamped at injection: the operator's CA certificates (current and next), each as [`CA_PIN`] and the SHA-256 of its DER in base64, with a
/// space between. Short, for `kubectl describe` shows it first; the certificates themselves the agent API's server sends.
pub const CA_ANNOTATION: &str = "campfire.network/agent-ca";
/// What an entry of [`CA_ANNOTATION`] begins with.
pub const CA_PIN: &str = "sha256-";
/// Audience of the sidecars' tokens.
pub const AGENT_AUDIENCE: &str = "campfire.network/agent";
/// Annotation stamped at injection on pods whose interface the node's agent makes, with the value [`NODE_MODE`].
pub const MODE_ANNOTATION: &str = "campfire.network/mode";
/// Value of [`MODE_ANNOTATION`].
pub const NODE_MODE: &str = "Node";
/// Name of the Service (no selector; the leader writes its EndpointSlice) that sidecars talk to.
pub const AGENT_SERVICE: &str = "campfire-agent";
/// Port of [`AGENT_SERVICE`] and of the operator's agent API.
pub const AGENT_PORT: u16 = 8443;
/// Name of the Service of all replicas of the operator: metrics and health.
pub const OPERATOR_SERVICE: &str = "campfire-operator";
/// Name of the Service (no selector; it leads to the leader) that the API server asks about each pod.
pub const WEBHOOK_SERVICE: &str = "campfire-webhook";
/// Name of the Service (no selector; it leads to the other replicas) that the API server asks about pods that got no sidecar by [`WEBHOOK_SERVICE`].
pub const STANDBY_SERVICE: &str = "campfire-webhook-standby";
/// Port of the operator's webhook (the Service has 443).
pub const WEBHOOK_PORT: u16 = 9443;
/// Path of the injection webhook.
pub const INJECT_PATH: &str = "/inject";
/// Path by which it is asked a second time, about pods that have no sidecar after the first: the leader did not answer, or had its reason.
pub const INJECT_AGAIN_PATH: &str = "/inject-again";
/// Name of the MutatingWebhookConfiguration (made by the chart, caBundle patched by the operator).
pub const WEBHOOK_CONFIGURATION: &str = "campfire-injection";
/// Port of health (`/healthz`, `/readyz`) and metrics (`/metrics`) of the operator.
pub const HTTP_PORT: u16 = 8080;
/// Name of the entry in [`WEBHOOK_CONFIGURATION`] by which the operator finds out whether the API server reaches it.
pub const CANARY_WEBHOOK: &str = "canary.inject.campfire.network";
/// Label of the MeshPeers, never made, that [`CANARY_WEBHOOK`] is asked about: `asked`, and `answered` by the webhook.
pub const CANARY_LABEL: &str = "campfire.network/canary";
/// Name of the operator's Lease.
pub const LEASE: &str = "campfire-operator";
/// Secret in the operator's namespace with its CA: `ca.crt`, `ca.key`, `next.crt`, `next.key`.
pub const CA_SECRET: &str = "campfire-ca";

/// Secret in the operator's namespace from which its identities at the fires are made: [`SEED_KEY`].
pub const ORIGIN_SECRET: &str = "campfire-origin";
/// Key in [`ORIGIN_SECRET`]: 32 random bytes.
pub const SEED_KEY: &str = "seed";

/// Name of the CSI driver of a node's agent.
pub const NODE_DRIVER: &str = "node.campfire.network";
/// Annotation on the CSIDriver [`NODE_DRIVER`]: the agent's namespace, where [`NODE_CONFIG_MAP`] is.
pub const NODE_NAMESPACE_ANNOTATION: &str = "node.campfire.network/namespace";
/// Annotation on the CSIDriver: labels, as a JSON object, of the nodes that have an agent; `{}`: all of Linux.
pub const NODE_SELECTOR_ANNOTATION: &str = "node.campfire.network/node-selector";
/// Annotation on the CSIDriver: `true` while the agent is about to be uninstalled, and no further pod shall need it.
pub const NODE_DRAIN_ANNOTATION: &str = "node.campfire.network/drain";
/// Name of the inline volume of [`NODE_DRIVER`] in a pod.
pub const NODE_VOLUME: &str = "campfire-node";
/// Where the sidecar has [`NODE_VOLUME`], read-only.
pub const NODE_DIR: &str = "/run/campfire-node";
/// The agent's socket in [`NODE_DIR`] (see [`node`](crate::node)).
pub const NODE_SOCKET: &str = "node.sock";
/// ConfigMap in the agent's namespace, kept by the operator: [`NODE_KEY`].
pub const NODE_CONFIG_MAP: &str = "campfire-node";
/// Key in [`NODE_CONFIG_MAP`]: the public key of the operator's grants ([`GrantPublicKey`](crate::node::GrantPublicKey)), 64 hex digits.
pub const NODE_KEY: &str = "public-key";

/// Key in a psk Secret: one or more keys, newest first, one a line, in the form of a key file of `campfire up --psk-file`.
pub const PSK_KEY: &str = "psk";
/// Key in a psk Secret: the network id (10 hex digits), written when the key was made and never changed by rotation.
pub const NETWORK_KEY: &str = "network";
/// Key in a join Secret: the `camp://` URI.
pub const URI_KEY: &str = "uri";

/// Name of the Secret with the key that the operator makes.
pub fn psk_secret(campfire: &str) -> String {
    format!("{campfire}-psk")
}

/// Name of the Secret by which another cluster joins.
pub fn join_secret(campfire: &str) -> String {
    format!("{campfire}-join")
}

/// Name of the StatefulSet of the TURN servers, of their headless Service, and of their ServiceAccount.
pub fn turn(campfire: &str) -> String {
    format!("{campfire}-turn")
}

/// Name of the Secret with the relay secrets that the TURN servers mount (file name: the key's fingerprint).
pub fn relay_secret(campfire: &str) -> String {
    format!("{campfire}-relay")
}

/// Name of the MeshPeer of a peer in another cluster: its Ed25519 public key, hex.
pub fn remote_peer(campfire: &str, identity_hex: &str) -> String {
    let shown = identity_hex.get(..20).unwrap_or(identity_hex);
    format!("{campfire}-r-{shown}")
}
