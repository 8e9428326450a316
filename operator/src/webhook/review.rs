//! AdmissionReview v1, as far as the webhook reads and writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::inject::Op;
use crate::serve::message::Refusal;

const API_VERSION: &str = "admission.k8s.io/v1";

/// What the API server asks about a pod.
#[derive(Debug)]
pub struct Asked {
    /// To be given back.
    pub uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// The pod, if this is about one being made.
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
    let creates = request.operation == "CREATE"
        && request.resource.group.is_empty()
        && request.resource.resource == "pods"
        && request.sub_resource.is_empty();
    let pod = match request.object.filter(|_| creates) {
        None => None,
        Some(object) => {
            Some(serde_json::from_str(object.get()).map_err(|error| bad(format!("the AdmissionReview's object is no Pod: {error}")))?)
        }
    };
    Ok(Asked { uid: request.uid, namespace: request.namespace, dry_run: request.dry_run.unwrap_or(false), pod })
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
