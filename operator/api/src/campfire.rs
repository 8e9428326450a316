//! The `Campfire` resource: one fire, that is a key, the servers to camp on, and who may sit there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// What is asked for. Without `join`, a key is made (or taken from `psk.secretRef`) and TURN servers are deployed; with `join`,
/// this cluster joins a campfire of another one.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "campfire.network",
    version = "v1alpha1",
    kind = "Campfire",
    plural = "campfires",
    singular = "campfire",
    shortname = "cf",
    category = "campfire-network",
    namespaced,
    status = "CampfireStatus",
    doc = "A campfire: pods and machines that hold its key find each other on its TURN servers and form one encrypted mesh.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"TURN","type":"string","jsonPath":".status.turn","description":"TURN servers that are ready, of those wanted here"}"#,
    printcolumn = r#"{"name":"Endpoints","type":"integer","jsonPath":".status.endpointCount","description":"Addresses of all servers of this cluster"}"#,
    printcolumn = r#"{"name":"Peers","type":"integer","jsonPath":".status.peers","description":"Peers at the fire, in all clusters"}"#,
    printcolumn = r#"{"name":"No-Mesh","type":"integer","jsonPath":".status.podsWithoutMesh","description":"Pods that ask for the mesh and are without it"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#,
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name becomes part of Service names: expected at most 40 characters, lower-case letters, digits and '-', a letter first"),
    validation = Rule::new("!has(self.spec.psk) || !has(self.spec.psk.secretRef) || !(self.spec.psk.secretRef.name in [self.metadata.name + '-relay', self.metadata.name + '-join'])").message("the operator writes the Secret of this name itself: give another name").field_path(".spec.psk.secretRef.name"),
    validation = Rule::new("!has(self.spec.join) || !(self.spec.join.secretRef.name in [self.metadata.name + '-relay', self.metadata.name + '-join'])").message("the operator writes the Secret of this name itself: give another name").field_path(".spec.join.secretRef.name"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.join) || has(self.turn)").message("turn is required: say in turn.exposure.type how the TURN servers are reached, or join another cluster's campfire by join.secretRef"),
    validation = Rule::new("!(has(self.join) && has(self.psk))").message("psk and join exclude each other: the join secret carries the key"),
    validation = Rule::new("has(self.join) == has(oldSelf.join)").message("join can be given at creation only; delete the Campfire and make it anew"),
    validation = Rule::new("(has(self.psk) && has(self.psk.secretRef)) == (has(oldSelf.psk) && has(oldSelf.psk.secretRef))").message("psk.secretRef can be given at creation only; delete the Campfire and make it anew"),
    validation = Rule::new("!has(self.turn) || has(self.turn.exposure) || (has(self.turn.replicas) ? self.turn.replicas == 0 : has(self.join))").message("turn.exposure.type is required where servers are deployed here: ClusterIP, NodePort, LoadBalancer or HostPort"),
    validation = Rule::new("has(self.join) || !has(self.turn) || !has(self.turn.replicas) || self.turn.replicas != 0 || (has(self.turn.servers) && self.turn.servers.size() > 0)").message("turn.replicas is 0 and turn.servers is empty: peers need a server to meet on"),
    validation = Rule::new("!has(self.turn) || !has(self.turn.exposure) || !has(self.turn.exposure.externalAddresses) || self.turn.exposure.externalAddresses.size() <= 1 || self.turn.exposure.externalAddresses.size() == (has(self.turn.replicas) ? self.turn.replicas : (has(self.join) ? 0 : 1))").message("expected one for each server, as many as turn.replicas, or one for all").field_path(".turn.exposure.externalAddresses"),
)]
pub struct CampfireSpec {
    /// The pre-shared key. Left out, one is made in Secret `<name>-psk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psk: Option<Psk>,
    /// Join the campfire of another cluster. Excludes `psk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
    /// How this cluster is called in names and tables. Default: what the chart was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::label())]
    pub cluster_name: Option<String>,
    /// The TURN servers. Required unless `join` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    /// Addresses and routes of the mesh.
    #[serde(default)]
    pub network: Network,
    /// Which namespaces' pods may sit at this fire.
    #[serde(default)]
    pub members: Members,
    /// The sidecar in member pods.
    #[serde(default)]
    pub sidecar: Sidecar,
    /// How peers of other clusters are shown: one MeshPeer each (`Objects`, at most 200), or numbers per cluster alone.
    #[serde(default)]
    pub remote_peers: RemotePeers,
}

/// A reference to a Secret in the Campfire's namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
}

/// What becomes of the key's Secret when the Campfire is deleted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// It stays, and a new Campfire of the name adopts it.
    #[default]
    Retain,
    /// It is deleted, if the operator made it.
    Delete,
}

/// The pre-shared key.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Psk {
    /// An existing Secret with the key under `psk` (base64url of 32 bytes, or 64 hex digits). Can be given at
    /// creation only; the Secret that it names may be another one later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// What becomes of the Secret when the Campfire is deleted. `Retain`: it stays, and a new Campfire of the name adopts it; `Delete`: it
    /// is deleted, if the operator made it.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Joining another cluster's campfire.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Join {
    /// Secret with the other cluster's `camp://` URI under `uri`, copied from its Secret `<name>-join`.
    pub secret_ref: SecretRef,
}

/// How packets get to a TURN server.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TransportName {
    /// UDP, port 3478.
    #[serde(rename = "UDP")]
    Udp,
    /// TCP, port 3478.
    #[serde(rename = "TCP")]
    Tcp,
    /// TLS over TCP, port 5349. Needs `turn.tls`.
    #[serde(rename = "TLS")]
    Tls,
}

/// The TURN servers: those deployed here, and others that are used.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.transports) || !('TLS' in self.transports) || has(self.tls)").message("TLS needs a certificate: give turn.tls.secretName").field_path(".transports"),
    validation = Rule::new("!has(self.exposure) || !has(self.exposure.externalAddresses) || self.exposure.externalAddresses.size() != 1 || !has(self.replicas) || self.replicas < 2 || (self.exposure.type == 'NodePort' && !self.exposure.externalAddresses[0].matches(r'^([^:]+|\\[.*\\]):[0-9]+$'))").message("one address cannot stand for several servers, unless it is a host alone and the type is NodePort: give one for each").field_path(".exposure.externalAddresses"),
)]
pub struct Turn {
    /// Servers deployed here. Default: 1, or 0 when joining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 8))]
    pub replicas: Option<i32>,
    /// How peers reach them. There is no default, so that nobody gets a public load balancer unasked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Exposure>,
    /// What they speak: `UDP` and `TCP` on port 3478, `TLS` on port 5349, which needs `tls`.
    #[serde(default = "default_transports")]
    #[schemars(length(min = 1, max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub transports: Vec<TransportName>,
    /// Certificate for TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TurnTls>,
    /// What is added to the pods of the servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
    /// How much the servers take, where that is too little: each refusal is in their logs, with what to raise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<TurnLimits>,
    /// Further servers, run elsewhere, as `[id=]host[:port]`, `turn:…` or `turns:…` (docs/protocol.md, "Servers").
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::servers")]
    pub servers: Vec<String>,
}

/// The default of [`Turn::transports`].
pub fn default_transports() -> Vec<TransportName> {
    vec![TransportName::Udp, TransportName::Tcp]
}

/// Certificate of the TURN servers.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TurnTls {
    /// Secret of type `kubernetes.io/tls` in the Campfire's namespace.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub secret_name: String,
}

/// How much a TURN server takes. What is not given stays as the server has it by itself.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TurnLimits {
    /// Most members of one room. By itself: 16384.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub members_per_room: Option<i32>,
    /// Most members behind one source address and port. By itself: 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub seats_per_source: Option<i32>,
    /// Most memory for members and rooms, in MiB. By itself: 256. The pod's memory limit is twice that, and 512Mi at least, unless
    /// `podTemplate.resources` says another one.
    #[serde(default, rename = "stateMiB", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub state_mib: Option<i32>,
    /// Most TCP and TLS connections at once. By itself: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: Option<i32>,
    /// Most TCP and TLS connections at once from one IPv4 address or IPv6 /64: all members of a cluster may have one. By itself: 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_per_source: Option<i32>,
}

/// Kinds of exposure.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExposureType {
    /// In this cluster alone.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// On a port of the nodes.
    NodePort,
    /// By a load balancer for each server.
    LoadBalancer,
    /// On port 3478 (5349) of the nodes that they run on.
    HostPort,
}

/// How many Services a server has.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceLayout {
    /// One for UDP and one for TCP and TLS: many clouds take no Service of both.
    #[default]
    PerTransport,
    /// One for all.
    Mixed,
}

/// How peers reach the TURN servers.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.loadBalancerClass) || self.type == 'LoadBalancer'").message("loadBalancerClass needs type LoadBalancer").field_path(".loadBalancerClass"),
)]
pub struct Exposure {
    /// `ClusterIP`: inside this cluster alone. `NodePort`: on a port of the nodes. `LoadBalancer`: by a load balancer for each server.
    /// `HostPort`: on port 3478 (TLS: 5349) of the nodes that they run on.
    #[serde(rename = "type")]
    pub kind: ExposureType,
    /// Annotations for the Services (for a cloud's load balancer).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
    /// Class of the load balancers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
    /// Where the servers are reached from outside, if this cluster cannot know (a NAT before the nodes): `host` or `host:port`, one for each
    /// server in their order; or, with type `NodePort`, one `host` for all, behind which each server's node port is put.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::external_addresses")]
    pub external_addresses: Vec<String>,
    /// Services of a server. `PerTransport`: one for UDP and one for TCP and TLS, as many clouds take no Service of both; `Mixed`: one for
    /// all.
    #[serde(default)]
    pub service_layout: ServiceLayout,
}

/// Changes to the pods of the TURN servers.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the pods; those of `campfire.network/` and `app.kubernetes.io/` are the operator's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// CPU and memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Labels of the nodes that they may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// Priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub priority_class_name: Option<String>,
    /// Secrets to pull images with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub image_pull_secrets: Vec<SecretRef>,
}

/// A taint that is tolerated, as in a pod.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Key of the taint; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// `Exists` or `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = rules::one_of(&["Exists", "Equal"]))]
    pub operator: Option<String>,
    /// Value of the taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect of the taint: `NoSchedule`, `PreferNoSchedule` or `NoExecute`; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"]))]
    pub effect: Option<String>,
    /// For how long, with effect `NoExecute`; seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub toleration_seconds: Option<i64>,
}

/// CPU and memory, as in a container.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What it may take at most, by resource: `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "rules::quantities")]
    pub limits: BTreeMap<String, Quantity>,
    /// What is kept for it, by resource: `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "rules::quantities")]
    pub requests: BTreeMap<String, Quantity>,
}

impl From<&Resources> for ResourceRequirements {
    /// Those of a container. What is empty is left out.
    fn from(resources: &Resources) -> Self {
        let some = |amounts: &BTreeMap<String, Quantity>| Some(amounts.clone()).filter(|amounts| !amounts.is_empty());
        Self { limits: some(&resources.limits), requests: some(&resources.requests), ..Self::default() }
    }
}

pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Addresses and routes of the mesh.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Give each peer an IPv4 address of this pool too (/8 to /29), such as `100.80.0.0/16`. Default: IPv6 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 18))]
    #[x_kube(validation = rules::pool(), validation = rules::pool_is_a_network(), validation = rules::pool_is_unicast())]
    pub ipv4_pool: Option<String>,
    /// MTU of the interface, bytes.
    #[serde(default = "default_mtu")]
    #[schemars(range(min = 1280, max = 9000))]
    pub mtu: i32,
    /// Routes that other peers offer are taken if they lie within one of these. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::networks")]
    pub accept_routes: Vec<String>,
}

fn default_mtu() -> i32 {
    1280
}

impl Default for Network {
    fn default() -> Self {
        Self { ipv4_pool: None, mtu: default_mtu(), accept_routes: Vec::new() }
    }
}

/// Which namespaces' pods may sit at the fire. Who may create pods there holds the key.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Members {
    /// Namespaces.
    #[serde(default)]
    pub namespaces: MemberNamespaces,
}

/// Kinds of [`MemberNamespaces`].
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespacesFrom {
    /// The Campfire's own.
    #[default]
    Same,
    /// Those that `selector` selects.
    Selector,
    /// All.
    All,
}

/// Namespaces, as in the Gateway API.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.from == 'Selector') == has(self.selector)").message("from: Selector needs a selector, and nothing else may have one: give both or neither"),
)]
pub struct MemberNamespaces {
    /// `Same`: the Campfire's own. `Selector`: those that `selector` selects. `All`: all. Who may create pods in them holds the key.
    #[serde(default)]
    pub from: NamespacesFrom,
    /// Labels of the namespaces, with `from: Selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// How the sidecar gets at packets.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SidecarMode {
    /// `Tun` where the namespace's PodSecurity level is `privileged`, else `Node` where the node agent is installed, else `Tun` where nothing is
    /// known to forbid it; else the pod is left alone, with an event.
    #[default]
    Auto,
    /// A TUN interface, made by an init container with NET_ADMIN.
    Tun,
    /// A TUN interface, made by the node agent (chart `campfire-node`): no container of the pod has a capability.
    Node,
}

/// What the app waits for.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartupPolicy {
    /// Start when the mesh is up, or after `timeout`.
    #[default]
    Wait,
    /// Start only when the mesh is up.
    Require,
}

/// What the app waits for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Startup {
    /// `Wait`: it starts when the mesh is up, or after `timeout`. `Require`: only when the mesh is up.
    #[serde(default)]
    pub policy: StartupPolicy,
    /// How long `Wait` waits, such as `10s`.
    #[serde(default = "default_startup_timeout")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = rules::duration())]
    pub timeout: String,
}

fn default_startup_timeout() -> String {
    "10s".into()
}

impl Default for Startup {
    fn default() -> Self {
        Self { policy: StartupPolicy::default(), timeout: default_startup_timeout() }
    }
}

/// The sidecar in member pods: those of the Campfire's own namespace, and of others where the chart's `trustedNamespaces` names that. Changes hold for
/// pods made later.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// Who makes the interface: `Tun`, an init container with NET_ADMIN; `Node`, the node agent (chart campfire-node), and no container has a
    /// capability; `Auto`, as the namespace's PodSecurity level allows; where neither can, the pod is left alone, with an event that says why.
    #[serde(default)]
    pub mode: SidecarMode,
    /// What the app waits for.
    #[serde(default)]
    pub startup: Startup,
    /// Image, instead of the chart's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// CPU and memory, instead of the chart's. A pod's QoS class, its quotas and LimitRanges come first: see docs/kubernetes.md.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Secrets to pull the image with, in the pods' own namespaces; added to the pods' own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub image_pull_secrets: Vec<SecretRef>,
}

/// How peers of other clusters are shown.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemotePeers {
    /// A MeshPeer each, at most 200.
    #[default]
    Objects,
    /// Numbers per cluster, in status.
    Summary,
}

/// What the operator found.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CampfireStatus {
    /// The generation of the spec that this describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `KeyReady`, `TurnAvailable`, `Joinable`, `Ready`, and others where there is something to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// TURN servers here, ready of wanted, such as `1/1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<String>,
    /// Where the servers of this cluster are reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub endpoints: Vec<Endpoint>,
    /// How many endpoints there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_count: Option<i32>,
    /// Version of the list of servers, as published at the fire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_list_version: Option<i64>,
    /// Fingerprint of the newest key, 16 hex digits. Safe to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_fingerprint: Option<String>,
    /// The mesh's IPv6 prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Keys held, newest first, and how many peers hold each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub key_generations: Vec<KeyGeneration>,
    /// Where a rotation stands, if one is under way. `Distribute`: everybody gets the new key; `Activate`: everybody meets under both;
    /// `Retire`: the old one is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Peers at the fire, in all clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<i32>,
    /// The same by cluster, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub clusters: Vec<ClusterPeers>,
    /// Pods that should have a sidecar and have none (they were made while the operator was away): make them anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_pods: Option<i32>,
    /// Pods that ask for the mesh and are without it, for whatever reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods_without_mesh: Option<i32>,
    /// The same by reason: those for which a pod gets no sidecar, and those of its MeshPeer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["reason"]))]
    pub without_mesh: Vec<WithoutMesh>,
    /// Pods whose sidecar was given other settings than one would be given now (pool, routes, MTU, image, …): make them anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outdated_pods: Option<i32>,
    /// Secret by which another cluster joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_secret_name: Option<String>,
}

/// From where an endpoint is reached.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EndpointScope {
    /// From inside this cluster.
    Cluster,
    /// From anywhere.
    External,
}

/// An address of a TURN server of this cluster.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Id of the server, stable.
    #[schemars(length(max = 128))]
    pub server: String,
    /// IP address or host name.
    #[schemars(length(max = 253))]
    pub address: String,
    /// Port.
    pub port: i32,
    /// Transport.
    pub transport: TransportName,
    /// From where it is reached: `Cluster` (this one alone) or `External`.
    pub scope: EndpointScope,
}

/// How many pods are without the mesh for a reason.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WithoutMesh {
    /// CamelCase.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// How many.
    pub pods: i32,
}

/// A key that is held.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyGeneration {
    /// Fingerprint, 16 hex digits.
    #[schemars(length(max = 16))]
    pub fingerprint: String,
    /// Known peers that hold it.
    pub peers: i32,
}

/// Steps of a rotation, each taken when all known peers are ready for it.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rotation {
    /// Everybody gets the new key and accepts it.
    Distribute,
    /// Everybody meets under both.
    Activate,
    /// The old key is dropped.
    Retire,
}

/// Peers of one cluster.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPeers {
    /// The cluster; `(unnamed)`: clusters without a `clusterName`, and machines.
    #[schemars(length(max = 64))]
    pub name: String,
    /// Peers at the fire.
    pub peers: i32,
}
