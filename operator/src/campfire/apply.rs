//! Brings children to what they should be, with no write where they are that already.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::PoisonError;

use campfire_api::names;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy, TypeMeta};
use kube::core::Status;
use kube::core::response::StatusCause;
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::children::{Child, Kind, MANAGED_BY, MANAGER};
use crate::cluster::of_secret;
use crate::context::Context;
use crate::state::ObjectKey;

/// Annotation on each child: hash of what was applied, so that a field that is no longer wanted is seen to be.
pub const APPLIED: &str = "campfire.network/applied";

/// Why a reconcile did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused or did not answer.
    #[error("{what}: {}", of_api(source))]
    Api {
        /// What was tried.
        what: String,
        /// What the API said.
        source: kube::Error,
    },
    /// The same of a Secret, without what it holds.
    #[error("{what}: {why}")]
    Secret {
        /// What was tried.
        what: String,
        /// What the API said, as far as it may be shown.
        why: String,
        /// Its code, if it answered.
        code: Option<u16>,
    },
    /// This operator leads no more.
    #[error("this operator leads no more")]
    Fenced,
    /// The system has no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

impl Error {
    /// What the API server does not allow (403), or finds invalid (422): trying again alone changes nothing.
    pub fn refusal(&self) -> Option<(u16, String)> {
        let (what, why, code) = match self {
            Self::Api { what, source: kube::Error::Api(status) } => (what, &status.message, status.code),
            Self::Secret { what, why, code: Some(code) } => (what, why, *code),
            _ => return None,
        };
        matches!(code, 403 | 422).then(|| (code, format!("{what}: {why}")))
    }
}

/// What the API said, and nothing around it.
fn of_api(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Adds what was tried to an error of the API.
pub fn during(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let what = what.into();
    move |source| Error::Api { what, source }
}

/// The same of a Secret.
pub fn during_secret(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let what = what.into();
    move |source| {
        let code = if let kube::Error::Api(status) = &source { Some(status.code) } else { None };
        Error::Secret { what, why: of_secret(&source), code }
    }
}

/// The same of an object of this kind.
fn during_on(kind: Kind, what: String) -> impl FnOnce(kube::Error) -> Error {
    move |source| if kind == Kind::Secret { during_secret(what)(source) } else { during(what)(source) }
}

/// What a child differed in after it was applied: what the API server writes in another way (a quantity), or somebody else insists on.
/// Writing it again would change nothing.
#[derive(Debug, Default)]
pub struct Settled(Mutex<HashMap<Id, (String, BTreeSet<String>)>>);

type Id = (Kind, ObjectKey);

impl Settled {
    fn is(&self, id: &(Kind, ObjectKey), hash: &str, differs: &BTreeSet<String>) -> bool {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(id).is_some_and(|(held, known)| held == hash && differs.is_subset(known))
    }

    fn put(&self, id: (Kind, ObjectKey), hash: String, differs: BTreeSet<String>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if differs.is_empty() {
            held.remove(&id);
        } else {
            held.insert(id, (hash, differs));
        }
    }

    /// Forgets a Campfire's children.
    pub fn forget(&self, namespace: &str, campfire: &str) {
        let prefix = format!("{campfire}-");
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(_, key), _| key.namespace != namespace || !key.name.starts_with(&prefix));
    }
}

/// The API resource of a kind.
pub fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::Secret => ApiResource::erase::<Secret>(&()),
        Kind::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
        Kind::Service => ApiResource::erase::<Service>(&()),
        Kind::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
    }
}

/// Children of a kind in a namespace.
pub fn api(ctx: &Context, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(ctx.cluster.client.clone(), namespace, &resource(kind))
}

/// All children of a Campfire, as they are.
pub async fn list(ctx: &Context, kind: Kind, campfire: &ObjectKey) -> Result<Vec<DynamicObject>, Error> {
    let labels = format!("{}={},{MANAGED_BY}={MANAGER}", names::CAMPFIRE_LABEL, campfire.name);
    let listed = api(ctx, kind, &campfire.namespace).list(&ListParams::default().labels(&labels)).await;
    let mut objects = listed.map_err(during_on(kind, format!("{kind:?}s of the Campfire could not be listed")))?.items;
    // The items of a list do not say what they are; without it each would differ from what is wanted, and be written.
    let ApiResource { api_version, kind, .. } = resource(kind);
    for object in &mut objects {
        object.types.get_or_insert_with(|| TypeMeta { api_version: api_version.clone(), kind: kind.clone() });
    }
    Ok(objects)
}

/// Applies what differs; returns the child as it is then.
pub async fn apply(
    ctx: &Context,
    settled: &Settled,
    child: &Child,
    live: Option<DynamicObject>,
    namespace: &str,
) -> Result<DynamicObject, Error> {
    let hash = hash(&child.object);
    let mut desired = child.object.clone();
    if let Some(metadata) = desired.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(APPLIED.into(), hash.clone().into());
        }
    }
    let id = (child.kind, ObjectKey::new(namespace, &child.name));
    let live = match live {
        Some(live) => {
            let differs = differences(&desired, &value(&live));
            if differs.is_empty() || settled.is(&id, &hash, &differs) {
                return Ok(live);
            }
            tracing::debug!(kind = ?child.kind, %namespace, name = %child.name, fields = ?differs, "is put right");
            Some(live)
        }
        None => None,
    };
    if !ctx.leadership.may_write() {
        return Err(Error::Fenced);
    }
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    let applied = api(ctx, child.kind, namespace).patch(&child.name, &params, &Patch::Apply(&desired)).await;
    let applied = match (applied, live) {
        (Err(kube::Error::Api(status)), Some(live)) if immutable(&status) => {
            // Servers go on meanwhile, and the StatefulSet that comes takes them over.
            let fields = causes(&status).iter().map(|cause| cause.field.as_str()).collect::<Vec<_>>().join(", ");
            tracing::info!(kind = ?child.kind, %namespace, name = %child.name, fields, "is made anew, as these cannot be changed");
            delete(ctx, child.kind, &live, namespace, PropagationPolicy::Orphan).await?;
            // While something holds the old one (a load balancer that is taken down) this fails, and is tried again.
            api(ctx, child.kind, namespace).patch(&child.name, &params, &Patch::Apply(&desired)).await
        }
        (applied, _) => applied,
    };
    let applied = applied.map_err(during_on(child.kind, format!("{:?} {} could not be applied", child.kind, child.name)))?;
    settled.put(id, hash, differences(&desired, &value(&applied)));
    Ok(applied)
}

/// Whether the API refuses nothing but that a field changes which cannot: the class of a load balancer, or what another version of this
/// operator gave a StatefulSet.
fn immutable(status: &Status) -> bool {
    let fixed = |message: &str| {
        ["may not change once set", "field is immutable", "updates to statefulset spec"].iter().any(|text| message.contains(text))
    };
    status.code == 422 && !causes(status).is_empty() && causes(status).iter().all(|cause| fixed(&cause.message))
}

fn causes(status: &Status) -> &[StatusCause] {
    status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default()
}

/// Deletes a child, if it is still the one that was seen. `of_it`: what becomes of what belongs to it.
pub async fn delete(ctx: &Context, kind: Kind, live: &DynamicObject, namespace: &str, of_it: PropagationPolicy) -> Result<(), Error> {
    if live.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    if !ctx.leadership.may_write() {
        return Err(Error::Fenced);
    }
    let preconditions = Some(Preconditions { uid: live.uid(), resource_version: None });
    let params = DeleteParams { preconditions, propagation_policy: Some(of_it), ..DeleteParams::default() };
    match api(ctx, kind, namespace).delete(&live.name_any(), &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(during_on(kind, format!("{kind:?} {} could not be deleted", live.name_any()))(error)),
        Ok(_) => Ok(()),
    }
}

fn value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or(Value::Null)
}

fn hash(object: &Value) -> String {
    hex::encode(&Sha256::digest(object.to_string().as_bytes())[..8])
}

/// Paths of what is wanted and is not so. What is there besides is somebody else's.
fn differences(desired: &Value, live: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    differ("", desired, live, &mut found);
    found
}

fn differ(path: &str, desired: &Value, live: &Value, found: &mut BTreeSet<String>) {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            for (key, desired) in desired {
                differ(&format!("{path}/{key}"), desired, live.get(key).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(desired), Value::Array(live)) => {
            for (index, element) in desired.iter().enumerate() {
                // Named elements are known by name wherever they stand, and others may be between them.
                let named = ["name", "uid"].into_iter().find_map(|key| element.get(key).map(|name| (key, name)));
                let other = match named {
                    Some((key, name)) => live.iter().find(|live| live.get(key) == Some(name)),
                    None => live.get(index).filter(|_| live.len() == desired.len()),
                };
                differ(&format!("{path}/{index}"), element, other.unwrap_or(&Value::Null), found);
            }
        }
        // What is empty is left out by the API server.
        (Value::Object(desired), Value::Null) if desired.is_empty() => {}
        (Value::Array(desired), Value::Null) if desired.is_empty() => {}
        (Value::Bool(false), Value::Null) => {}
        _ if desired == live => {}
        _ => {
            // With what is found there: another edit of the same field is another difference. Hashed, for it may be a key.
            let found_there = hex::encode(&Sha256::digest(live.to_string().as_bytes())[..4]);
            found.insert(format!("{path}={found_there}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_add_is_no_difference_and_what_they_change_is() {
        let desired = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"ports": [{"name": "x", "port": 1}], "args": ["a", "b"]}});
        let mut live = json!({
            "metadata": {"labels": {"a": "1", "theirs": "2"}, "uid": "u"},
            "spec": {"ports": [{"name": "other", "port": 9}, {"name": "x", "port": 1, "nodePort": 30000}], "args": ["a", "b"]},
            "status": {},
        });
        assert!(differences(&desired, &live).is_empty());
        live["spec"]["ports"][1]["port"] = json!(2);
        live["spec"]["args"] = json!(["a", "b", "c"]);
        live["metadata"]["labels"]["a"] = json!("x");
        assert_eq!(differences(&desired, &live).len(), 4);
    }

    #[test]
    fn what_the_server_writes_in_another_way_is_written_once_and_another_edit_of_it_again() {
        let desired = json!({"limits": {"cpu": "1000m"}});
        let settled = Settled::default();
        let id = (Kind::StatefulSet, ObjectKey::new("n", "fire-turn"));
        let after = differences(&desired, &json!({"limits": {"cpu": "1"}}));
        settled.put(id.clone(), "hash".into(), after.clone());
        assert!(settled.is(&id, "hash", &after));
        assert!(!settled.is(&id, "hash", &differences(&desired, &json!({"limits": {"cpu": "7"}}))));
        assert!(!settled.is(&id, "other", &after));
    }
}
