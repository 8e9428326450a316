//! AdmissionReview v1, as far as the webhook reads and writes it.
//!
//! Who reaches the port may send anything, and three bytes of JSON can stand for a kilobyte of a [`Pod`]: of a pod only that is read which a
//! decision needs ([`Sketch`]), and no list of more than [`MOST`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_http::message::Refusal;
use hyper::StatusCode;
use k8s_openapi::api::core::v1::{Container, Pod, PodOS, PodSpec, Volume, VolumeMount};
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
    /// The pod, if this is about one being made: of containers and volumes the names alone, and of init containers' mounts those of volumes.
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
    Ok(Asked { uid: request.uid, namespace: request.namespace, dry_run: request.dry_run.unwrap_or(false), pod })
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
    os: Option<PodOS>,
    node_selector: Option<BTreeMap<String, String>>,
    containers: Option<Few<Named>>,
    init_containers: Option<Few<Mounting>>,
    volumes: Option<Few<Named>>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mounting {
    #[serde(default)]
    name: String,
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
        let container = |name: String| Container { name, ..Container::default() };
        let containers = spec.containers.map_or_else(Vec::new, |list| list.0.into_iter().map(|named| container(named.name)).collect());
        let init_containers = spec.init_containers.map(|list| list.0.into_iter().map(Container::from).collect());
        let volumes = spec.volumes.map(|list| list.0.into_iter().map(|named| Volume { name: named.name, ..Volume::default() }).collect());
        let Spec { host_network, os, node_selector, .. } = spec;
        Self { host_network, os, node_selector, containers, init_containers, volumes, ..Self::default() }
    }
}

impl From<Mounting> for Container {
    fn from(Mounting { name, volume_mounts }: Mounting) -> Self {
        let names: Option<BTreeSet<String>> = volume_mounts.map(|list| list.0.into_iter().map(|mount| mount.name).collect());
        let volume_mounts =
            names.map(|names| names.into_iter().take(MOUNTS).map(|name| VolumeMount { name, ..VolumeMount::default() }).collect());
        Self { name, volume_mounts, ..Self::default() }
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
