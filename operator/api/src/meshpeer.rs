//! The `MeshPeer` resource: one peer at a campfire.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::agent::Path;
use crate::rules;

/// Who it is and where it sits: a pod of this cluster, a peer elsewhere that was met at the fire, or something outside that a person
/// declares in order to get its join secret.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "campfire.network",
    version = "v1alpha1",
    kind = "MeshPeer",
    plural = "meshpeers",
    singular = "meshpeer",
    shortname = "mp",
    category = "campfire-network",
    namespaced,
    status = "MeshPeerStatus",
    doc = "One peer at a campfire. The operator makes those of pods and of other clusters; people declare what is outside.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Campfire","type":"string","jsonPath":".spec.campfireRef.name"}"#,
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".status.clusterName"}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".status.addresses[0]"}"#,
    printcolumn = r#"{"name":"Path","type":"string","jsonPath":".status.path"}"#,
    printcolumn = r#"{"name":"Why","type":"string","jsonPath":".status.reason","description":"Why the path is not direct"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#,
    printcolumn = r#"{"name":"Key","type":"string","priority":1,"jsonPath":".status.publicKey"}"#,
    validation = Rule::new("self.spec.type != 'External' || (has(self.spec.external) && has(self.spec.external.secretName)) || self.metadata.name.size() <= 248").message("metadata.name is too long to call the join Secret by it: give external.secretName, or a name of at most 248 characters"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("a MeshPeer's spec cannot change: delete it and make it anew"),
    validation = Rule::new("(self.type == 'Pod') == has(self.podRef)").message("type: Pod needs a podRef, and no other type may have one; the operator makes those of pods"),
    validation = Rule::new("(self.type == 'External') == has(self.external)").message("type: External needs external (which may be empty), and no other type may have it"),
)]
pub struct MeshPeerSpec {
    /// `Pod`: a pod of this cluster, and `Remote`: a peer of another cluster or a machine, are made by the operator. `External`: something
    /// outside that a person declares, for which the operator writes a join secret.
    #[serde(rename = "type")]
    pub kind: PeerType,
    /// The Campfire that it sits at.
    pub campfire_ref: CampfireRef,
    /// The pod, with `type: Pod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_ref: Option<PodRef>,
    /// Something outside, with `type: External`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
}

/// What a peer is.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PeerType {
    /// A pod of this cluster. Owned by the pod.
    Pod,
    /// A peer of another cluster or a machine, met at the fire. Removed 10 minutes after it left.
    Remote,
    /// Something outside that a person declares: the operator writes its join secret.
    External,
}

/// A Campfire.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CampfireRef {
    /// Its namespace. Default: the MeshPeer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::label())]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::label())]
    pub name: String,
}

/// A pod.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its uid.
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,
}

/// Something outside the cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct External {
    /// Secret, in the MeshPeer's namespace, that the operator writes the `camp://` URI to. Default: `<name>-join`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub secret_name: Option<String>,
    /// Its WireGuard public key (base64) once it is known, so that this object shows what the peer of this key does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = rules::public_key())]
    pub public_key: Option<String>,
}

/// What is known of the peer. Written on transitions alone: numbers that move are metrics.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshPeerStatus {
    /// `Accepted`, `Connected`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// WireGuard public key, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 44))]
    pub public_key: Option<String>,
    /// Addresses in the mesh, IPv6 first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 45)), extend("x-kubernetes-list-type" = "atomic"))]
    pub addresses: Vec<String>,
    /// Cluster that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cluster_name: Option<String>,
    /// How its packets go: `Direct`, by `Relay` (through TURN servers), `Mixed` (some links so, some so), or `None` (no link).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathName>,
    /// Why not direct, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// What is wrong, and what to do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub problems: Vec<PeerProblem>,
}

/// How a peer's packets go, over all of its links.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PathName {
    /// Straight.
    Direct,
    /// Through TURN servers.
    Relay,
    /// Some links so, some so.
    Mixed,
    /// No link.
    None,
}

impl From<Path> for PathName {
    fn from(path: Path) -> Self {
        match path {
            Path::Direct => Self::Direct,
            Path::Relay => Self::Relay,
            Path::Mixed => Self::Mixed,
            Path::None => Self::None,
        }
    }
}

/// Something that is wrong with a peer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerProblem {
    /// CamelCase.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// For people: what to do.
    #[schemars(length(max = 256))]
    pub message: String,
}
