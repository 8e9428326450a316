//! What there is: read from the cluster, from its caches, and from what the parts of the operator know. Nothing is decided here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use campfire_api::{Campfire, CampfireStatus, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::admission;
use super::children::{self, Children, MANAGED_BY, MANAGER};
use super::endpoints;
use super::error::{Error, during, during_secret};
use super::missed::Reasons;
use super::peers::{Holder, Peers};
use super::reconcile::Remembered;
use super::rollout::{self, Attempt, Trial};
use super::validate::{self, KeySource, Valid};
use crate::conditions::Said;
use crate::context::Context;
use crate::state::{Membership, ObjectKey, PodId, View};
use crate::webhook::containers::Defaults;
use crate::webhook::inject::settings_hash;

/// What there is of a Campfire whose spec is understood.
#[derive(Default)]
pub struct Found {
    /// What its status said before.
    pub before: CampfireStatus,
    /// The older Campfire that has its key.
    pub claimed_by: Option<String>,
    /// The Secret with its key. Its Debug would show it.
    pub key: Option<Secret>,
    /// The join Secret.
    pub join: Option<Secret>,
    /// Its children.
    pub children: Children,
    /// The servers' pods, by name.
    pub pods: BTreeMap<String, Pod>,
    /// Nodes that they run on, by name.
    pub nodes: BTreeMap<String, Node>,
    /// Who is at the fire.
    pub peers: Peers,
    /// What is seen there.
    pub view: Arc<View>,
    /// More peers of other clusters are there than are shown.
    pub truncated: bool,
    /// What members are told.
    pub told: Option<Arc<Membership>>,
    /// Pods that are without the mesh, by reason.
    pub without: Reasons,
    /// Pods whose sidecar was given other settings than one would be given now.
    pub outdated: usize,
    /// Whether the API server reaches the webhook, if that is known.
    pub reached: Option<Said>,
    /// Whether pods with a sidecar are admitted in its namespace, if it was tried.
    pub admitted: Option<Said>,
    /// Why the StatefulSet can make no pod, where one is missing: as its last event has it.
    pub no_pod: Option<String>,
    /// Why the servers stay as they are, whatever the spec says of them.
    pub held: Option<Said>,
    /// Why their TLS stays as it is.
    pub certificate: Option<Said>,
    /// A change of theirs is tried on one more beside them.
    pub trial: Option<Trial>,
    /// What is known of that one.
    pub attempt: Attempt,
    /// This operator has not led for long enough to have seen all who are there.
    pub settling: bool,
    /// A step of a rotation was taken since this was read.
    pub stepped: bool,
}

/// The Campfire, unless it is gone or going.
pub async fn campfire(ctx: &Context, key: &ObjectKey) -> Result<Option<Campfire>, Error> {
    let api: Api<Campfire> = Api::namespaced(ctx.cluster.client.clone(), &key.namespace);
    let found = api.get_opt(&key.name).await.map_err(during("the Campfire could not be read"))?;
    Ok(found.filter(|campfire| campfire.metadata.deletion_timestamp.is_none()))
}

/// The Secret with its key, and what is known without asking anybody: all that a Campfire's members need.
pub async fn key(ctx: &Context, remembered: &Remembered, campfire: &Campfire, valid: &Valid) -> Result<Found, Error> {
    Ok(Found { key: secret(ctx, valid).await?, ..known(ctx, remembered, campfire, valid) })
}

/// The Secret with its key.
async fn secret(ctx: &Context, valid: &Valid) -> Result<Option<Secret>, Error> {
    let name = valid.source.secret();
    let api: Api<Secret> = Api::namespaced(ctx.cluster.client.clone(), &valid.key.namespace);
    api.get_opt(name).await.map_err(during_secret(format!("Secret {name} could not be read")))
}

/// What is known without asking anybody.
fn known(ctx: &Context, remembered: &Remembered, campfire: &Campfire, valid: &Valid) -> Found {
    Found {
        before: campfire.status.clone().unwrap_or_default(),
        claimed_by: claimed_by(ctx, campfire, valid),
        peers: peers(ctx, &valid.key),
        view: ctx.sightings.get(&valid.key),
        truncated: ctx.sightings.truncated(&valid.key),
        told: ctx.memberships.get(&valid.key),
        without: remembered.without(&valid.key),
        reached: remembered.reached(),
        outdated: outdated(ctx, campfire, &valid.key),
        settling: remembered.is_new(),
        ..Found::default()
    }
}

/// All there is.
pub async fn all(ctx: &Context, remembered: &Remembered, campfire: &Campfire, valid: &Valid) -> Result<Found, Error> {
    let failed = |kind: &str| format!("{kind}s of the Campfire could not be listed");
    let mut secrets = list::<Secret>(ctx, valid, during_secret(failed("Secret"))).await?;
    // The key has the label too, where the operator made it: then it needs no call of its own.
    let listed = secrets.get(valid.source.secret()).cloned();
    let key = if listed.is_some() { listed } else { secret(ctx, valid).await? };
    let mut found = Found { key, ..known(ctx, remembered, campfire, valid) };
    found.join = secrets.remove(&names::join_secret(&valid.key.name));
    secrets.retain(|name, _| *name == names::relay_secret(&valid.key.name));
    found.children = Children {
        secrets,
        accounts: list(ctx, valid, during(failed("ServiceAccount"))).await?,
        services: list(ctx, valid, during(failed("Service"))).await?,
        sets: list(ctx, valid, during(failed("StatefulSet"))).await?,
    };
    let image = campfire.spec.sidecar.image.as_deref();
    found.admitted = Some(admission::tried(ctx, &remembered.verdicts, &valid.key.namespace, image).await);
    if valid.turn.replicas > 0 {
        servers(ctx, valid, &mut found).await?;
    }
    Ok(found)
}

/// Children of a kind, by name.
async fn list<K>(ctx: &Context, valid: &Valid, failed: impl FnOnce(kube::Error) -> Error) -> Result<BTreeMap<String, K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let labels = format!("{}={},{MANAGED_BY}={MANAGER}", names::CAMPFIRE_LABEL, valid.key.name);
    let api: Api<K> = Api::namespaced(ctx.cluster.client.clone(), &valid.key.namespace);
    let listed = api.list(&ListParams::default().labels(&labels)).await.map_err(failed)?;
    Ok(listed.items.into_iter().map(|object| (object.name_any(), object)).collect())
}

/// The servers' pods, and the nodes that they run on.
async fn servers(ctx: &Context, valid: &Valid, found: &mut Found) -> Result<(), Error> {
    let labels: Vec<String> = children::selector(&valid.key.name).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pods: Api<Pod> = Api::namespaced(ctx.cluster.client.clone(), &valid.key.namespace);
    let pods = pods.list(&ListParams::default().labels(&labels.join(","))).await;
    found.pods = pods.map_err(during("the servers' pods could not be listed"))?.into_iter().map(|pod| (pod.name_any(), pod)).collect();
    let wanted = found.children.sets.values().filter_map(|set| set.spec.as_ref()?.replicas).max().unwrap_or_default();
    if found.pods.len() < usize::from(valid.turn.replicas).max(usize::try_from(wanted).unwrap_or_default()) {
        found.no_pod = no_pod(ctx, &valid.key.namespace, &found.children.sets).await;
    }
    let names: BTreeSet<String> = found.pods.values().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    let nodes: Api<Node> = Api::all(ctx.cluster.client.clone());
    for name in names {
        if let Some(node) = nodes.get_opt(&name).await.map_err(during(format!("node {name} could not be read")))? {
            found.nodes.insert(name, node);
        }
    }
    if let Some(set) = found.children.sets.get(&names::turn(&valid.key.name))
        && let Some(tried) = rollout::tried(set)
    {
        found.attempt = attempt(ctx, &valid.key.namespace, found, set, &tried).await;
    }
    Ok(())
}

/// Why StatefulSets can make no pod: nothing is asked of those that have made all, as they say, and one of whose pods is on its way out or in.
async fn no_pod(ctx: &Context, namespace: &str, sets: &BTreeMap<String, StatefulSet>) -> Option<String> {
    for set in sets.iter().filter(|(_, set)| lacks(set)).map(|(name, _)| name) {
        let of = format!("involvedObject.kind=StatefulSet,involvedObject.name={set},reason=FailedCreate");
        if let Some(message) = last_event(ctx, namespace, &of, |_| true).await {
            return Some(format!("StatefulSet {set} can make no pod: {message}"));
        }
    }
    None
}

/// Whether a StatefulSet has made fewer pods than it is to have.
fn lacks(set: &StatefulSet) -> bool {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    set.status.as_ref().is_none_or(|status| status.replicas < wanted)
}

/// What is known of the server that is tried beside the others.
async fn attempt(ctx: &Context, namespace: &str, found: &Found, set: &StatefulSet, tried: &str) -> Attempt {
    let mut attempt = Attempt::default();
    let Some(pod) = found.pods.get(tried) else {
        // Not what was said of another, which was tried before.
        let ours = set.managed_fields().iter().filter(|entry| entry.manager.as_deref() == Some(names::FIELD_MANAGER));
        let applied = ours.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max();
        let of = format!("involvedObject.kind=StatefulSet,involvedObject.uid={},reason=FailedCreate", set.uid().unwrap_or_default());
        let recent = |event: &Event| event.last_timestamp.as_ref().map(|time| time.0) >= applied;
        attempt.refused = last_event(ctx, namespace, &of, recent).await;
        return attempt;
    };
    if rollout::is_unplaced(pod) {
        let pods: Api<Pod> = Api::all(ctx.cluster.client.clone());
        for node in found.nodes.keys() {
            let there = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
            // Where that is not known there is no room.
            if let Ok(listed) = pods.list(&ListParams::default().fields(&there)).await {
                attempt.neighbours.insert(node.clone(), listed.items);
            }
        }
    } else if !endpoints::is_ready(pod) && endpoints::trouble_of(pod).is_none() {
        let of = format!("involvedObject.kind=Pod,involvedObject.uid={},type=Warning", pod.uid().unwrap_or_default());
        attempt.warning = last_event(ctx, namespace, &of, |_| true).await;
    }
    attempt
}

/// The message of the last of these events: some things are said by nothing else.
async fn last_event(ctx: &Context, namespace: &str, fields: &str, counts: impl Fn(&Event) -> bool) -> Option<String> {
    let events: Api<Event> = Api::namespaced(ctx.cluster.client.clone(), namespace);
    // An older chart gave no right to them: then it is not known.
    let listed = events.list(&ListParams::default().fields(fields)).await.ok()?;
    let last = listed.items.into_iter().filter(counts).max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    last.and_then(|event| event.message)
}

/// What pods have in common that are given the same: their namespace, and annotations that are settings.
type Same = (String, BTreeMap<String, String>);

/// How many pods were given other settings than they would be given now, by the hash that the webhook stamped.
pub fn outdated(ctx: &Context, campfire: &Campfire, key: &ObjectKey) -> usize {
    let defaults = Defaults::of(&ctx.settings);
    // Of a thousand pods most say the same.
    let mut hashes: HashMap<Same, Option<String>> = HashMap::new();
    let mut outdated = 0;
    for pod in ctx.cluster.pods.state_filter(|pod| pod.claims(key)) {
        let Some(stamped) = &pod.stamped else { continue };
        let same = (pod.id.key.namespace.clone(), pod.annotations.clone());
        let fresh = || settings_hash(&pod.id.key.namespace, &pod.annotations, campfire, &defaults);
        let now = hashes.entry(same).or_insert_with(fresh);
        outdated += usize::from(now.as_deref().is_some_and(|now| now != &**stamped));
    }
    outdated
}

/// The older one has less.
fn age(campfire: &Campfire) -> (Option<Timestamp>, Option<&str>) {
    (campfire.metadata.creation_timestamp.as_ref().map(|time| time.0), campfire.metadata.uid.as_deref())
}

/// Two Campfires with one key would be one mesh with two lists of members: the older one has it.
fn claimed_by(ctx: &Context, campfire: &Campfire, valid: &Valid) -> Option<String> {
    let KeySource::Psk { secret, .. } = &valid.source else { return None };
    let older = ctx.cluster.campfires.find(|other| {
        other.metadata.namespace.as_ref() == Some(&valid.key.namespace)
            && other.metadata.uid != campfire.metadata.uid
            && other.metadata.deletion_timestamp.is_none()
            && age(other) < age(campfire)
            && matches!(validate::source(other), Ok(KeySource::Psk { secret: theirs, .. }) if theirs == *secret)
    });
    older.map(|older| older.name_any())
}

/// Who is known to be at a Campfire, and how many pods of which nothing is known yet.
pub fn peers(ctx: &Context, key: &ObjectKey) -> Peers {
    let view = ctx.sightings.get(key);
    let (origins, others): (Vec<_>, Vec<_>) = view.seen.iter().partition(|(_, seen)| seen.origin);
    let mut peers = Peers { counted: view.members.saturating_sub(origins.len()), ..Peers::default() };
    for (identity, seen) in others {
        peers.known.insert(*identity, Holder { cluster: seen.cluster.clone(), holds: seen.fingerprints.iter().copied().collect() });
    }
    let cluster = ctx.memberships.get(key).map(|membership| membership.cluster.clone()).unwrap_or_default();
    let mut reported = BTreeSet::new();
    ctx.reports.for_each(|pod, said| {
        // What a pod that is gone said last would keep a rotation waiting for it.
        if said.campfire == *key && ctx.cluster.pod(pod).is_some() {
            reported.insert(pod.key.clone());
            if said.report.camped {
                let holds = said.report.fingerprints.iter().copied().collect();
                peers.here.insert(said.report.identity);
                // What a peer itself said, signed, is better than what a pod reports: of whom it likes.
                peers.known.entry(said.report.identity).or_insert_with(|| Holder { cluster: cluster.clone(), holds });
            }
        }
    });
    // Whoever makes pods may write a claim on them.
    let claimed = ctx.cluster.pods.state_filter(|pod| pod.claims(key));
    let silent = |pod: &PodId| !reported.contains(&pod.key) && ctx.cluster.admit(key, &pod.key.namespace).is_ok();
    peers.silent = claimed.iter().filter(|pod| silent(&pod.id)).count();
    peers
}
