//! AdmissionReview v1, as far as the webhook reads and writes it.
//!
//! Who reaches the port may send anything, and three bytes of JSON can stand for a kilobyte of a [`Pod`]: of a pod only that is read which a
//! decision needs ([`Sketch`]), and no list of more than [`MOST`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::names::GROUP;
use campfire_http::message::Refusal;
use hyper::StatusCode;
use k8s_openapi::api::core::v1::{
    Container, LocalObjectReference, Pod, PodOS, PodSecurityContext, PodSpec, ResourceRequirements, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::inject::Op;
use crate::members::is_label;

const API_VERSION: &str = "admission.k8s.io/v1";

/// Elements that a list may have: no kubelet runs a pod of more.
const MOST: usize = 1_000;
/// Names of volumes that are read of a container's mounts: those of ours, and one that is not.
const MOUNTS: usize = 3;

/// What the API server asks about a pod.
#[derive(Debug)]
pub struct Asked {
    /// To be given back.
    pub uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// Whether this is the operator's own question, by which it finds out whether it is reached.
    pub canary: bool,
    /// The pod, if this is about one being made: of volumes and pull secrets the names alone, of containers also resources and the volumes that
    /// they mount.
    pub pod: Option<Box<Pod>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: String,
    kind: String,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    namespace: String,
    operation: String,
    #[serde(default)]
    dry_run: Option<bool>,
    #[serde(default, borrow)]
    object: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Resource {
    group: String,
    resource: String,
}

/// Reads a review.
///
/// # Errors
/// 400, with what is wrong.
pub fn read(body: &[u8]) -> Result<Asked, Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let review: Review = serde_json::from_slice(body).map_err(|error| bad(format!("this is no AdmissionReview: {error}")))?;
    if review.api_version != API_VERSION || review.kind != "AdmissionReview" {
        return Err(bad(format!("this is no AdmissionReview of {API_VERSION}")));
    }
    let request = review.request.ok_or_else(|| bad("the AdmissionReview has no request".into()))?;
    if request.uid.is_empty() || request.uid.len() > 128 {
        return Err(bad("the AdmissionReview's request has no uid of at most 128 bytes".into()));
    }
    // It becomes part of a path at the API server.
    if !is_label(&request.namespace) {
        return Err(bad("the AdmissionReview's request is of no namespace".into()));
    }
    let canary = request.operation == "CREATE"
        && request.resource.group == GROUP
        && request.resource.resource == "meshpeers"
        && request.dry_run == Some(true);
    let creates = request.operation == "CREATE"
        && request.resource.group.is_empty()
        && request.resource.resource == "pods"
        && request.sub_resource.is_empty();
    let pod = match request.object.filter(|_| creates) {
        None => None,
        Some(object) => {
            let sketch: Sketch =
                serde_json::from_str(object.get()).map_err(|error| bad(format!("the AdmissionReview's object is no Pod: {error}")))?;
            Some(Box::new(sketch.into()))
        }
    };
    Ok(Asked { uid: request.uid, namespace: request.namespace, dry_run: request.dry_run.unwrap_or(false), canary, pod })
}

/// A pod, as far as it is read.
#[derive(Deserialize)]
struct Sketch {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<Spec>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    generate_name: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Few<OwnerReference>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    host_network: Option<bool>,
    host_users: Option<bool>,
    os: Option<PodOS>,
    node_selector: Option<BTreeMap<String, String>>,
    runtime_class_name: Option<String>,
    security_context: Option<Security>,
    active_deadline_seconds: Option<i64>,
    priority_class_name: Option<String>,
    image_pull_secrets: Option<Few<Named>>,
    resources: Option<Amounts>,
    containers: Option<Few<Containing>>,
    init_containers: Option<Few<Containing>>,
    volumes: Option<Few<Named>>,
}

/// Who runs what says nothing else.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Security {
    run_as_user: Option<i64>,
}

/// CPU, memory and storage that a container or a pod has.
#[derive(Deserialize)]
struct Amounts {
    requests: Option<Three>,
    limits: Option<Three>,
}

/// Of what may have any name, what decides.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Three {
    cpu: Option<String>,
    memory: Option<String>,
    ephemeral_storage: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Containing {
    #[serde(default)]
    name: String,
    restart_policy: Option<String>,
    resources: Option<Amounts>,
    volume_mounts: Option<Few<Named>>,
}

/// A list of [`MOST`] elements at most.
struct Few<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
            type Value = Few<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MOST} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Few<T>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    if elements.len() == MOST {
                        return Err(A::Error::custom(format!("a list has more than {MOST} elements")));
                    }
                    elements.push(element);
                }
                Ok(Few(elements))
            }
        }
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

impl From<Sketch> for Pod {
    fn from(Sketch { metadata, spec }: Sketch) -> Self {
        let Metadata { name, generate_name, labels, annotations, owner_references } = metadata;
        let owner_references = owner_references.map(|list| list.0);
        let metadata = ObjectMeta { name, generate_name, labels, annotations, owner_references, ..ObjectMeta::default() };
        Self { metadata, spec: spec.map(PodSpec::from), status: None }
    }
}

impl From<Spec> for PodSpec {
    fn from(spec: Spec) -> Self {
        let containers = |list: Few<Containing>| list.0.into_iter().map(Container::from).collect();
        let secret = |named: Named| LocalObjectReference { name: named.name };
        let volume = |named: Named| Volume { name: named.name, ..Volume::default() };
        Self {
            host_network: spec.host_network,
            host_users: spec.host_users,
            os: spec.os,
            node_selector: spec.node_selector,
            runtime_class_name: spec.runtime_class_name,
            security_context: spec
                .security_context
                .map(|security| PodSecurityContext { run_as_user: security.run_as_user, ..PodSecurityContext::default() }),
            active_deadline_seconds: spec.active_deadline_seconds,
            priority_class_name: spec.priority_class_name,
            image_pull_secrets: spec.image_pull_secrets.map(|list| list.0.into_iter().map(secret).collect()),
            resources: spec.resources.map(ResourceRequirements::from),
            containers: spec.containers.map_or_else(Vec::new, containers),
            init_containers: spec.init_containers.map(containers),
            volumes: spec.volumes.map(|list| list.0.into_iter().map(volume).collect()),
            ..Self::default()
        }
    }
}

impl From<Containing> for Container {
    fn from(container: Containing) -> Self {
        let Containing { name, restart_policy, resources, volume_mounts } = container;
        let names: Option<BTreeSet<String>> = volume_mounts.map(|list| list.0.into_iter().map(|mount| mount.name).collect());
        let volume_mounts =
            names.map(|names| names.into_iter().take(MOUNTS).map(|name| VolumeMount { name, ..VolumeMount::default() }).collect());
        Self { name, restart_policy, resources: resources.map(ResourceRequirements::from), volume_mounts, ..Self::default() }
    }
}

impl From<Amounts> for ResourceRequirements {
    fn from(Amounts { requests, limits }: Amounts) -> Self {
        let read = |Three { cpu, memory, ephemeral_storage }: Three| {
            let named = [("cpu", cpu), ("memory", memory), ("ephemeral-storage", ephemeral_storage)];
            named.into_iter().filter_map(|(name, text)| Some((name.to_owned(), Quantity(text?)))).collect()
        };
        Self { requests: requests.map(read), limits: limits.map(read), ..Self::default() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

/// Most warnings in an answer: the API server cuts off what is beyond 4 KiB in all.
const MAX_WARNINGS: usize = 8;

/// The answer: always allowed.
pub fn write(uid: &str, ops: &[Op], warnings: &[String]) -> Vec<u8> {
    let patch = if ops.is_empty() { None } else { serde_json::to_vec(ops).ok() };
    let answer = Answer {
        api_version: API_VERSION,
        kind: "AdmissionReview",
        response: Response {
            uid,
            allowed: true,
            patch_type: patch.is_some().then_some("JSONPatch"),
            patch: patch.map(|bytes| STANDARD.encode(bytes)),
            warnings: warnings.get(..warnings.len().min(MAX_WARNINGS)).unwrap_or_default(),
        },
    };
    serde_json::to_vec(&answer).unwrap_or_default()
}
