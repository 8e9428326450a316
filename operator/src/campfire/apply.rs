//! Brings the Secret with the key, the children and the join Secret to what they should be, with no write where they are that already.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use campfire_api::{DeletionPolicy, names};
use campfire_protocol::identity::NetworkId;
use campfire_protocol::key::{KeyMode, Psk};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PodTemplateSpec, Secret, Service, ServiceAccount};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::response::StatusCause;
use kube::core::{NamespaceResourceScope, Status};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::children::{Children, labels, owner};
use super::error::{Error, during, during_secret};
use super::fetch::Found;
use super::keys::{self, KeyWrite};
use super::plan::JoinSecret;
use super::rotation;
use super::validate::{KeySource, Valid};
use crate::context::Context;
use crate::state::{HeldKey, ObjectKey};

/// Annotation on each child: hash of what was applied, so that a field that is no longer wanted is seen to be.
const APPLIED: &str = "campfire.network/applied";

/// An object that belongs to a Campfire.
pub trait Child: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned {
    /// Adds what was tried to an error of the API.
    fn during(what: String) -> impl FnOnce(kube::Error) -> Error {
        during(what)
    }
}

impl Child for ServiceAccount {}
impl Child for Service {}
impl Child for StatefulSet {}
impl Child for Secret {
    fn during(what: String) -> impl FnOnce(kube::Error) -> Error {
        during_secret(what)
    }
}

/// What a child differed in after it was applied: what the API server writes in another way (a quantity), or somebody else insists on.
/// Writing it again would change nothing.
#[derive(Debug, Default)]
pub struct Settled(Mutex<HashMap<ChildId, (String, BTreeSet<String>)>>);

/// Kind, namespace and name.
type ChildId = (Cow<'static, str>, ObjectKey);

impl Settled {
    fn is(&self, id: &ChildId, hash: &str, differs: &BTreeSet<String>) -> bool {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(id).is_some_and(|(held, known)| held == hash && differs.is_subset(known))
    }

    fn put(&self, id: ChildId, hash: String, differs: BTreeSet<String>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if differs.is_empty() {
            held.remove(&id);
        } else {
            held.insert(id, (hash, differs));
        }
    }

    /// Forgets a Campfire's children.
    pub fn forget(&self, campfire: &ObjectKey) {
        let prefix = format!("{}-", campfire.name);
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, key), _| key.namespace != campfire.namespace || !key.name.starts_with(&prefix));
    }
}

/// Does to the Secret with the key what must be done first.
pub async fn key(ctx: &Context, valid: &Valid, write: KeyWrite, found: &mut Found) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(ctx.cluster.client.clone(), &valid.key.namespace);
    match (write, &found.key) {
        (KeyWrite::Make, _) => {
            let mut network = [0; 5];
            getrandom::fill(&mut network).map_err(Error::Random)?;
            let key = HeldKey::new(random_key()?, KeyMode::Announce);
            found.key = Some(make(ctx, &api, valid, keys::data(&[key], NetworkId(network))).await?);
        }
        (KeyWrite::PutBack(held), _) => {
            found.key = Some(make(ctx, &api, valid, keys::data(&held.keys, held.network)).await?);
            tracing::warn!(campfire = %valid.key, secret = valid.source.secret(), "the Secret with the key was gone, and is put back");
        }
        (KeyWrite::Own(owners), Some(secret)) => {
            let change = json!({ "metadata": { "ownerReferences": owners } });
            found.key = Some(change_key(ctx, &api, secret, change).await?);
        }
        (KeyWrite::Rotate { step, held }, Some(secret)) => {
            let keys = rotation::after(step, &held.keys, random_key)?;
            let change = json!({ "data": keys::data(&keys, held.network) });
            found.key = Some(change_key(ctx, &api, secret, change).await?);
            found.stepped = true;
            tracing::info!(campfire = %valid.key, ?step, "a step of the key's rotation is taken");
        }
        (KeyWrite::Own(_) | KeyWrite::Rotate { .. }, None) => {}
    }
    Ok(())
}

/// Makes the Secret with the key. One that appeared meanwhile is an error, and so adopted by the next try.
async fn make(ctx: &Context, api: &Api<Secret>, valid: &Valid, data: BTreeMap<String, ByteString>) -> Result<Secret, Error> {
    let name = valid.source.secret();
    let owned = matches!(valid.source, KeySource::Psk { deletion: DeletionPolicy::Delete, .. });
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(labels(&valid.key.name)),
            owner_references: owned.then(|| vec![owner(valid)]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".into()),
        data: Some(data),
        ..Secret::default()
    };
    may_write(ctx)?;
    let params = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
    api.create(&params, &secret).await.map_err(during_secret(format!("Secret {name} could not be made")))
}

fn random_key() -> Result<Psk, Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut()).map_err(Error::Random)?;
    Ok(Psk::from_bytes(*bytes))
}

/// Changes the Secret with the key, if it is still as it was read.
async fn change_key(ctx: &Context, api: &Api<Secret>, secret: &Secret, mut change: Value) -> Result<Secret, Error> {
    may_write(ctx)?;
    let name = secret.name_any();
    change["metadata"]["resourceVersion"] = json!(secret.resource_version());
    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
    api.patch(&name, &params, &Patch::Merge(&change)).await.map_err(during_secret(format!("Secret {name} could not be changed")))
}

/// Brings all children to what they should be. `true`: something was written, and `live` has what the API server made of it.
pub async fn children(
    ctx: &Context,
    settled: &Settled,
    namespace: &str,
    wanted: &Children,
    stays: Stays,
    live: &mut Children,
) -> Result<bool, Error> {
    let mut written = all(ctx, settled, namespace, &wanted.secrets, &mut live.secrets).await?;
    if !stays.services {
        written |= all(ctx, settled, namespace, &wanted.services, &mut live.services).await?;
    }
    if !stays.servers {
        written |= all(ctx, settled, namespace, &wanted.accounts, &mut live.accounts).await?;
        written |= all(ctx, settled, namespace, &wanted.sets, &mut live.sets).await?;
    }
    Ok(written)
}

/// What stays as it is. Keys never do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stays {
    /// The servers.
    pub servers: bool,
    /// The Services that lead to them.
    pub services: bool,
}

/// Whether what there is of a kind is what is wanted, or was when it was applied, whatever somebody did to it since.
pub fn are_as_wanted<K: Child>(wanted: &BTreeMap<String, K>, live: &BTreeMap<String, K>) -> bool {
    let is =
        |(name, wanted): (&String, &K)| live.get(name).is_some_and(|live| live.annotations().get(APPLIED) == Some(&hash(&value(wanted))));
    wanted.len() == live.len() && wanted.iter().all(is)
}

/// The template of a StatefulSet as it would be once it is applied, if that is another than now: from the API server, which knows its defaults and
/// what others have put in. `None` as well where it would take none: that is said when it is applied.
pub async fn next_template(ctx: &Context, settled: &Settled, wanted: &StatefulSet, live: &StatefulSet) -> Option<PodTemplateSpec> {
    let desired = Desired::of(wanted);
    let differs = differences(&desired.value, &value(live));
    // What is no longer wanted differs in nothing but in what was applied.
    let taken_back = format!("/metadata/annotations/{APPLIED}=");
    let may_be = |path: &String| path.starts_with("/spec/template/") || path.starts_with(&taken_back);
    if !differs.iter().any(may_be) || settled.is(&desired.id, &desired.hash, &differs) {
        return None;
    }
    let key = ObjectKey::of(live);
    let api: Api<StatefulSet> = Api::namespaced(ctx.cluster.client.clone(), &key.namespace);
    let params = PatchParams::apply(names::FIELD_MANAGER).force().dry_run();
    let next = match api.patch(&key.name, &params, &Patch::Apply(&desired.object)).await {
        Ok(next) => next,
        // It is made anew then, and takes the pods over.
        Err(kube::Error::Api(status)) if immutable(&status) => wanted.clone(),
        Err(_) => return None,
    };
    let template = |set: &StatefulSet| set.spec.as_ref().map(|spec| spec.template.clone());
    template(&next).filter(|next| Some(next) != template(live).as_ref())
}

/// All of one kind. Those that are no longer wanted are deleted.
pub async fn all<K: Child>(
    ctx: &Context,
    settled: &Settled,
    namespace: &str,
    wanted: &BTreeMap<String, K>,
    live: &mut BTreeMap<String, K>,
) -> Result<bool, Error> {
    let api: Api<K> = Api::namespaced(ctx.cluster.client.clone(), namespace);
    let mut written = false;
    for (name, child) in wanted {
        if let Some(applied) = apply(ctx, settled, &api, child, live.get(name)).await? {
            live.insert(name.clone(), applied);
            written = true;
        }
    }
    for orphan in live.extract_if(.., |name, _| !wanted.contains_key(name)).collect::<BTreeMap<_, _>>().into_values() {
        delete(ctx, &api, &orphan, PropagationPolicy::Background).await?;
    }
    Ok(written)
}

/// Keeps the join Secret.
pub async fn join(ctx: &Context, settled: &Settled, namespace: &str, wanted: &JoinSecret, live: Option<&Secret>) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(ctx.cluster.client.clone(), namespace);
    apply(ctx, settled, &api, &wanted.0, live).await.map(drop)
}

/// A child as it is sent.
struct Desired<K> {
    id: ChildId,
    object: K,
    value: Value,
    /// Of what is wanted, which the object has as an annotation.
    hash: String,
}

impl<K: Child> Desired<K> {
    fn of(wanted: &K) -> Self {
        let hash = hash(&value(wanted));
        let mut object = wanted.clone();
        object.annotations_mut().insert(APPLIED.into(), hash.clone());
        Self { id: (K::kind(&()), ObjectKey::of(wanted)), value: value(&object), object, hash }
    }
}

/// Applies a child if it differs; returns it as it is then.
async fn apply<K: Child>(ctx: &Context, settled: &Settled, api: &Api<K>, wanted: &K, live: Option<&K>) -> Result<Option<K>, Error> {
    let Desired { id, object: desired, value: desired_value, hash } = Desired::of(wanted);
    let (kind, key) = id.clone();
    if let Some(live) = live {
        let differs = differences(&desired_value, &value(live));
        if differs.is_empty() || settled.is(&id, &hash, &differs) {
            return Ok(None);
        }
        tracing::debug!(%kind, %key, fields = ?differs, "is put right");
    }
    may_write(ctx)?;
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    let applied = match (api.patch(&key.name, &params, &Patch::Apply(&desired)).await, live) {
        (Err(kube::Error::Api(status)), Some(live)) if immutable(&status) => {
            // Servers go on meanwhile, and the StatefulSet that comes takes them over.
            let fields = causes(&status).iter().map(|cause| cause.field.as_str()).collect::<Vec<_>>().join(", ");
            tracing::info!(%kind, %key, fields, "is made anew, as these cannot be changed");
            delete(ctx, api, live, PropagationPolicy::Orphan).await?;
            // While something holds the old one (a load balancer that is taken down) this fails, and is tried again.
            api.patch(&key.name, &params, &Patch::Apply(&desired)).await
        }
        (applied, _) => applied,
    };
    let applied = applied.map_err(K::during(format!("{kind} {} could not be applied", key.name)))?;
    settled.put(id, hash, differences(&desired_value, &value(&applied)));
    Ok(Some(applied))
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
async fn delete<K: Child>(ctx: &Context, api: &Api<K>, live: &K, of_it: PropagationPolicy) -> Result<(), Error> {
    if live.meta().deletion_timestamp.is_some() {
        return Ok(());
    }
    may_write(ctx)?;
    let preconditions = Some(Preconditions { uid: live.uid(), resource_version: None });
    let params = DeleteParams { preconditions, propagation_policy: Some(of_it), ..DeleteParams::default() };
    match api.delete(&live.name_any(), &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(K::during(format!("{} {} could not be deleted", K::kind(&()), live.name_any()))(error)),
        Ok(_) => Ok(()),
    }
}

/// To be asked right before each write.
fn may_write(ctx: &Context) -> Result<(), Error> {
    if ctx.leadership.may_write() { Ok(()) } else { Err(Error::Fenced) }
}

fn value<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).unwrap_or(Value::Null)
}

fn hash(object: &Value) -> String {
    hex::encode(&Sha256::digest(object.to_string().as_bytes())[..8])
}

/// Paths of what is wanted and is not so. What is there besides is somebody else's.
fn differences(desired: &Value, live: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    differ(&mut String::new(), desired, live, &mut found);
    found
}

/// `path`: where this is. As a rule nothing differs, so no path is made that is not told.
fn differ(path: &mut String, desired: &Value, live: &Value, found: &mut BTreeSet<String>) {
    let here = path.len();
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            for (key, desired) in desired {
                path.extend(["/", key]);
                differ(path, desired, live.get(key).unwrap_or(&Value::Null), found);
                path.truncate(here);
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
                path.extend(["/", &index.to_string()]);
                differ(path, element, other.unwrap_or(&Value::Null), found);
                path.truncate(here);
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
        let id = (StatefulSet::kind(&()), ObjectKey::new("n", "fire-turn"));
        let after = differences(&desired, &json!({"limits": {"cpu": "1"}}));
        settled.put(id.clone(), "hash".into(), after.clone());
        assert!(settled.is(&id, "hash", &after));
        assert!(!settled.is(&id, "hash", &differences(&desired, &json!({"limits": {"cpu": "7"}}))));
        assert!(!settled.is(&id, "other", &after));
    }
}
