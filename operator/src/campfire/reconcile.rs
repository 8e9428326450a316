//! One Campfire, in steps: fetch, validate, keys, children, apply, status.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use campfire_api::agent::ServerEntry;
use campfire_api::conditions::{ConditionType, Reason};
use campfire_api::{Campfire, CampfireStatus, Endpoint, EndpointScope, ExposureType, Network, Rotation, names};
use campfire_protocol::key::{KeyMode, MAX_KEYS, Psk};
use campfire_protocol::uri::{CampUri, MAX_SERVERS};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::apply::{Error, Settled, apply, delete, during, list};
use super::children::{self, Child, Kind};
use super::endpoints::{self, Seen};
use super::keys::{self, Held, Step};
use super::missed::Missed;
use super::status::{self, Peers};
use super::validate::{self, KeySource, Valid, validate};
use crate::conditions::{Said, Stated, merged, reason};
use crate::context::Context;
use crate::definitions::REMEDY;
use crate::events::{self, Happened};
use crate::members::Claim;
use crate::state::{Membership, ObjectKey, View};

/// Most servers that members are told of.
const MAX_TOLD: usize = 32;

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it should be; look again after this time, if given.
    Done(Option<Duration>),
    /// The spec, or a Secret, must change first; or the API server's mind, for which it is looked again after this time.
    Invalid(Option<Duration>),
    /// The Campfire is gone.
    Gone,
}

/// What the reconciler remembers between two looks.
#[derive(Debug, Default)]
pub struct Memory {
    /// See [`Settled`].
    pub settled: Settled,
    /// See [`Missed`].
    pub missed: Missed,
}

/// Who is known to be at a Campfire, and pods of which nothing is known yet.
pub fn peers(ctx: &Context, key: &ObjectKey) -> (Peers, usize) {
    let view = ctx.sightings.get(key);
    let (origins, others): (Vec<_>, Vec<_>) = view.seen.iter().partition(|(_, seen)| seen.origin);
    let mut peers = Peers { counted: view.members.saturating_sub(origins.len()), ..Peers::default() };
    for (identity, seen) in others {
        peers.known.insert(identity.clone(), (seen.cluster.clone(), seen.fingerprints.iter().cloned().collect()));
    }
    let cluster = ctx.memberships.get(key).map(|membership| membership.cluster.clone()).unwrap_or_default();
    let mut reported = BTreeSet::new();
    ctx.reports.for_each(|pod, said| {
        // What a pod that is gone said last would keep a rotation waiting for it.
        if said.campfire == *key && ctx.cluster.pod(pod).is_some() {
            reported.insert(pod.key.clone());
            if said.report.camped {
                peers.here.insert(said.report.identity.clone());
                peers.known.insert(said.report.identity.clone(), (cluster.clone(), said.report.fingerprints.iter().cloned().collect()));
            }
        }
    });
    let silent = ctx.cluster.pods.state_filter(|pod| {
        Claim::of(&pod.metadata).is_some_and(|claim| claim.campfire == *key) && !reported.contains(&ObjectKey::of(pod))
    });
    (peers, silent.len())
}

/// How soon it is tried again what the API server refused.
const REFUSED: Duration = Duration::from_mins(1);

/// Brings one Campfire to what it should be.
pub async fn reconcile(ctx: &Context, memory: &Memory, key: &ObjectKey) -> Result<Outcome, Error> {
    let api: Api<Campfire> = Api::namespaced(ctx.cluster.client.clone(), &key.namespace);
    let found = api.get_opt(&key.name).await.map_err(during("the Campfire could not be read"))?;
    let Some(campfire) = found.filter(|campfire| campfire.metadata.deletion_timestamp.is_none()) else {
        ctx.memberships.withdraw(key);
        ctx.sightings.withdraw(key);
        ctx.metrics.campfire(&key.namespace, &key.name, None);
        memory.settled.forget(&key.namespace, &key.name);
        return Ok(Outcome::Gone);
    };
    let refused = match validate(&campfire, &ctx.settings) {
        Ok(valid) => match steps(ctx, memory, &api, &campfire, &valid).await {
            Err(error) => refused(&error, key).ok_or(error)?,
            done => return done,
        },
        Err(why) => why,
    };
    // What runs goes on with what it has: a typing error must not part the peers.
    let again = matches!(refused.reason, Reason::Forbidden | Reason::Refused).then_some(REFUSED);
    let next = CampfireStatus { missed_pods: Some(memory.missed.of(key)), ..campfire.status.clone().unwrap_or_default() };
    write_status(ctx, &api, &campfire, next, vec![(ConditionType::Accepted, refused)], "").await?;
    match keep(ctx, &campfire).await {
        Ok(()) => Ok(Outcome::Invalid(again)),
        Err(error) => {
            tracing::debug!(campfire = %key, %error, "what members are told could not be found out; tried again");
            Ok(Outcome::Invalid(Some(REFUSED)))
        }
    }
}

/// What is said where the API server refuses what it is asked for: that is for a person to change.
fn refused(error: &Error, key: &ObjectKey) -> Option<Said> {
    let (code, why) = error.refusal()?;
    tracing::warn!(campfire = %key, %error, "the API server refuses what a Campfire needs");
    Some(if code == 403 {
        let remedy = "the operator has its rights in the chart's campfireNamespaces: name this one there and run helm upgrade (again, if it was made anew)";
        Said::of(Reason::Forbidden, format!("{why}: {remedy}"))
    } else {
        Said::of(Reason::Refused, format!("the API server refuses what the spec asks for; change spec.turn: {why}"))
    })
}

/// Tells members of an invalid Campfire what holds for those who are there, should nobody have told it since this operator leads.
async fn keep(ctx: &Context, campfire: &Campfire) -> Result<(), Error> {
    let before = campfire.status.clone().unwrap_or_default();
    let Some((valid, network)) = validate::known(campfire, &ctx.settings) else { return Ok(()) };
    if before.key_fingerprint.is_none() || ctx.memberships.get(&valid.key).is_some() || claimed(ctx, campfire, &valid).is_some() {
        return Ok(());
    }
    if let Ok(held) = keys::obtain(ctx, &valid, before.key_fingerprint.as_deref(), before.prefix.as_deref()).await? {
        publish(ctx, &network, &valid, &held, &before.endpoints, before.server_list_version);
    }
    Ok(())
}

/// The steps after it was validated.
async fn steps(ctx: &Context, memory: &Memory, api: &Api<Campfire>, campfire: &Campfire, valid: &Valid) -> Result<Outcome, Error> {
    let key = &valid.key;
    let before = campfire.status.clone().unwrap_or_default();
    let mut next = CampfireStatus { missed_pods: Some(memory.missed.of(key)), ..before.clone() };
    let mut said = vec![(ConditionType::Accepted, Said::of(Reason::Accepted, "the spec is understood"))];
    let held = match claimed(ctx, campfire, valid) {
        Some(refused) => Err(refused),
        None => keys::obtain(ctx, valid, before.key_fingerprint.as_deref(), before.prefix.as_deref()).await?,
    };
    let mut held = match held {
        Ok(held) => held,
        Err(why) => {
            said.push((ConditionType::KeyReady, why));
            write_status(ctx, api, campfire, next, said, "").await?;
            return Ok(Outcome::Invalid(None));
        }
    };
    let (peers, silent) = peers(ctx, key);
    hold_on(ctx, valid, &mut held, &peers);
    said.push((ConditionType::KeyReady, Said::of(Reason::KeyReady, format!("Secret {} holds the key", valid.source.secret()))));
    let rotation = rotate(ctx, valid, &mut held, &peers, silent).await?;
    let fingerprints = held.fingerprints();
    if let (Some(was), Some(newest)) = (&before.key_fingerprint, fingerprints.first())
        && !fingerprints.contains(was)
        && before.rotation.is_none()
    {
        let note = format!("Secret {} holds another key ({newest}) than before ({was}): members get it now", valid.source.secret());
        events::say(&ctx.cluster, campfire, Happened::KeyChanged, &note).await;
    }

    let seen = make(ctx, memory, valid, &held).await?;
    let endpoints = endpoints::endpoints(valid, &seen.cluster);
    let published = texts(&endpoints, EndpointScope::External);
    next.server_list_version = Some(status::list_version(&before, &published, &texts(&before.endpoints, EndpointScope::External)));
    publish(ctx, &campfire.spec.network, valid, &held, &endpoints, next.server_list_version);

    let join = join_secret(ctx, memory, valid, &held, &endpoints, &seen, before.join_secret_name.is_some(), &peers).await?;
    let elsewhere = valid.servers.len() + held.servers.len();
    let trouble = endpoints::trouble(&seen.cluster);
    let waiting = endpoints::waiting(valid, &seen.cluster);
    said.push((
        ConditionType::TurnAvailable,
        status::turn_available(valid.turn.replicas, seen.ready, elsewhere, &waiting, trouble.as_deref(), &endpoints),
    ));
    next.join_secret_name = join.is_none().then(|| names::join_secret(&key.name));
    if matches!(valid.source, KeySource::Join { .. }) {
        next.join_secret_name = None;
    } else {
        let joinable = || Said::of(Reason::Joinable, format!("another cluster joins by Secret {}", names::join_secret(&key.name)));
        said.push((ConditionType::Joinable, join.unwrap_or_else(joinable)));
    }
    said.extend(rotation.map(|rotation| (ConditionType::Rotated, rotation)));
    if ctx.sightings.truncated(key) {
        let message = "more peers of other clusters are at the fire than are shown as MeshPeers: status.clusters counts them all";
        said.push((ConditionType::RemotePeersTruncated, Said::of(Reason::TooMany, message)));
    }
    next.turn = Some(format!("{}/{}", seen.ready, valid.turn.replicas));
    next.endpoint_count = Some(i32::try_from(endpoints.len()).unwrap_or(i32::MAX));
    next.endpoints = endpoints;
    next.key_fingerprint = fingerprints.first().cloned();
    next.prefix = Some(held.network.prefix().to_string());
    next.key_generations = peers.generations(&fingerprints);
    next.rotation = held.rotation();
    next.peers = Some(peers.total());
    next.clusters = peers.clusters();
    // Where nothing is exposed no address outside comes by itself: 200 such Campfires would be looked at 7 times a second for nothing.
    let inside = valid.turn.exposure.as_ref().is_none_or(|exposure| exposure.kind == ExposureType::ClusterIp);
    let final_word = |kind: ConditionType| inside && kind == ConditionType::Joinable;
    let unsettled = said.iter().any(|(kind, said)| !said.is_true() && !final_word(*kind));
    let message = format!("{} peers at the fire", peers.total());
    write_status(ctx, api, campfire, next, said, &message).await?;
    // Addresses of nodes and of load balancers come without a word to us.
    Ok(Outcome::Done(Some(if unsettled { Duration::from_secs(30) } else { Duration::from_mins(5) })))
}

fn texts(endpoints: &[Endpoint], scope: EndpointScope) -> BTreeSet<String> {
    endpoints.iter().filter(|endpoint| endpoint.scope == scope).map(endpoints::endpoint_text).collect()
}

/// Two Campfires with one key would be one mesh with two lists of members: the older one has it.
fn claimed(ctx: &Context, campfire: &Campfire, valid: &Valid) -> Option<Said> {
    let KeySource::Psk { secret, .. } = &valid.source else { return None };
    let age = |campfire: &Campfire| (campfire.creation_timestamp().map(|time| time.0), campfire.uid());
    let other = ctx.cluster.campfires.find(|other| {
        other.namespace().as_ref() == Some(&valid.key.namespace)
            && other.uid() != campfire.uid()
            && other.metadata.deletion_timestamp.is_none()
            && age(other) < age(campfire)
            && matches!(validate::source(other), Ok(KeySource::Psk { secret: theirs, .. }) if theirs == *secret)
    })?;
    let message = format!(
        "Secret {secret} is the key of Campfire {} already: give this one another Secret, or let its pods be members of that one",
        other.name_any()
    );
    Some(Said::of(Reason::KeyClaimed, message))
}

/// Servers on which the operator sits, and not under this key. A server that knows an old key alone would be lost with it: kubelets bring new
/// Secrets to pods within a minute or two.
fn unaware<'a>(view: &'a View, fingerprint: &str) -> BTreeSet<&'a str> {
    let know = view.seated.get(fingerprint);
    let all = view.seated.values().flatten();
    all.filter(|server| know.is_none_or(|know| !know.contains(*server))).map(String::as_str).collect()
}

/// The key of a join Secret may be another than before: those of before are held as long as somebody at the fire lacks it, as its own cluster
/// does when it rotates.
pub(super) fn hold_on(ctx: &Context, valid: &Valid, held: &mut Held, peers: &Peers) {
    let Some(newest) = held.fingerprints().into_iter().next() else { return };
    if !matches!(valid.source, KeySource::Join { .. }) || peers.lacking(&newest).is_empty() {
        return;
    }
    let Some(before) = ctx.memberships.get(&valid.key).filter(|before| before.network == held.network.to_string()) else { return };
    let old = before.keys.iter().filter_map(|key| key.psk.parse::<Psk>().ok()).filter(|psk| psk.derive().fingerprint.to_string() != newest);
    held.keys.extend(old.map(|psk| (psk, KeyMode::Announce)));
    held.keys.truncate(MAX_KEYS);
}

/// Takes the next step of a rotation; says where it stands.
async fn rotate(ctx: &Context, valid: &Valid, held: &mut Held, peers: &Peers, silent: usize) -> Result<Option<Said>, Error> {
    let asked = match &valid.rotate {
        Ok(asked) => *asked,
        Err(why) => return Ok(Some(why.clone())),
    };
    if asked.is_none() && held.rotation().is_none() {
        return Ok(None);
    }
    if matches!(valid.source, KeySource::Join { .. }) {
        let message = "the key comes from the join Secret: rotate it in the cluster that made it, then put its new join Secret here";
        return Ok(asked.map(|_| Said::of(Reason::RotatesElsewhere, message)));
    }
    let newest = held.fingerprints().into_iter().next().unwrap_or_default();
    let lacking = peers.lacking(&newest);
    let view = ctx.sightings.get(&valid.key);
    let camped = view.camped > 0;
    let unaware = unaware(&view, &newest);
    let all = lacking.is_empty() && silent == 0 && camped && unaware.is_empty();
    let step = keys::next_step(asked, held.rotation(), all);
    keys::take(ctx, valid, held, step).await?;
    let missing = || {
        let mut missing: Vec<String> = lacking
            .iter()
            .take(8)
            .map(|(cluster, peers)| format!("{peers} in cluster {}", if cluster.is_empty() { "(unnamed)" } else { cluster }))
            .collect();
        if silent > 0 {
            missing.push(format!("{silent} pods that have not reported"));
        }
        if !unaware.is_empty() {
            let servers = unaware.iter().copied().collect::<Vec<_>>().join(", ");
            missing.push(format!("server {servers} (those of this cluster learn it within two minutes)"));
        }
        if !camped {
            missing.push("who is elsewhere is not known, as the operator is not at the fire".into());
        }
        missing.join(", ")
    };
    Ok(match (step, held.rotation()) {
        (Step::Wait, _) => Some(Said::of(
            Reason::WaitingForPeers,
            format!("not all hold the new key {newest} yet: {}; a joined cluster needs the new join Secret", missing()),
        )),
        (_, Some(Rotation::Distribute)) => {
            Some(Said::of(Reason::Distributed, format!("everybody gets the new key; next: annotate {}=Activate", names::ROTATE_ANNOTATION)))
        }
        (_, Some(_)) => Some(Said::of(
            Reason::Activated,
            format!("everybody meets under both keys; next: annotate {}=Retire", names::ROTATE_ANNOTATION),
        )),
        (_, None) => Some(Said::of(Reason::Retired, "the old key is dropped")),
    })
}

/// What was found of the children.
#[derive(Debug, Default)]
struct Found {
    cluster: Seen,
    ready: i32,
    secrets: BTreeMap<String, DynamicObject>,
}

/// Makes the children, removes those that are no longer wanted, and looks at what became of them.
async fn make(ctx: &Context, memory: &Memory, valid: &Valid, held: &Held) -> Result<Found, Error> {
    let namespace = &valid.key.namespace;
    let mut wanted: Vec<Child> = Vec::new();
    if valid.turn.replicas > 0 {
        wanted.push(children::secret(valid, &names::relay_secret(&valid.key.name), &held.relay()));
    }
    wanted.extend(children::turn(valid, &ctx.settings));
    let mut found = Found::default();
    for kind in [Kind::Secret, Kind::ServiceAccount, Kind::Service, Kind::StatefulSet] {
        let mut live: BTreeMap<String, DynamicObject> =
            list(ctx, kind, &valid.key).await?.into_iter().map(|object| (object.name_any(), object)).collect();
        if kind == Kind::Secret {
            // The key and the join Secret are kept elsewhere.
            found.secrets = live.clone();
            live.retain(|name, _| *name == names::relay_secret(&valid.key.name));
        }
        for child in wanted.iter().filter(|child| child.kind == kind) {
            let applied = apply(ctx, &memory.settled, child, live.remove(&child.name), namespace).await?;
            match kind {
                Kind::Service => {
                    if let Ok(service) = applied.try_parse::<Service>() {
                        found.cluster.services.insert(child.name.clone(), service);
                    }
                }
                Kind::StatefulSet => {
                    let ready = applied.data.pointer("/status/readyReplicas").and_then(serde_json::Value::as_i64).unwrap_or(0);
                    found.ready = i32::try_from(ready).unwrap_or(0).min(i32::from(valid.turn.replicas));
                }
                Kind::Secret | Kind::ServiceAccount => {}
            }
        }
        for orphan in live.values() {
            delete(ctx, kind, orphan, namespace, PropagationPolicy::Background).await?;
        }
    }
    if valid.turn.replicas > 0 {
        let labels: Vec<String> = children::selector(&valid.key.name).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        let pods =
            Api::<Pod>::namespaced(ctx.cluster.client.clone(), namespace).list(&ListParams::default().labels(&labels.join(","))).await;
        let pods = pods.map_err(during("the servers' pods could not be listed"))?;
        let nodes: BTreeSet<String> = pods.items.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
        found.cluster.pods = pods.items.into_iter().map(|pod| (pod.name_any(), pod)).collect();
        let api: Api<Node> = Api::all(ctx.cluster.client.clone());
        for name in nodes {
            if let Some(node) = api.get_opt(&name).await.map_err(during(format!("node {name} could not be read")))? {
                found.cluster.nodes.insert(name, node);
            }
        }
    }
    Ok(found)
}

/// Says what members are told.
fn publish(ctx: &Context, network: &Network, valid: &Valid, held: &Held, endpoints: &[Endpoint], version: Option<i64>) {
    let entry = |text: String, in_cluster| ServerEntry { text, in_cluster };
    let own = |scope| endpoints.iter().filter(move |endpoint| endpoint.scope == scope).map(endpoints::endpoint_text);
    let published: Vec<String> = own(EndpointScope::External).collect();
    let mut servers: Vec<ServerEntry> = own(EndpointScope::Cluster).map(|text| entry(text, true)).collect();
    let elsewhere = published.iter().cloned().chain(valid.servers.iter().cloned()).chain(held.servers.iter().flat_map(keys::texts));
    for text in elsewhere.chain(ctx.sightings.get(&valid.key).foreign_servers.iter().cloned()) {
        if servers.len() < 4 * MAX_TOLD && !servers.iter().any(|held| held.text == text) {
            servers.push(entry(text, false));
        }
    }
    let membership = Membership {
        keys: held.told(),
        network: held.network.to_string(),
        servers,
        cluster: valid.cluster.clone(),
        ipv4_pool: network.ipv4_pool.clone(),
        accept_routes: network.accept_routes.clone(),
        mtu: u16::try_from(network.mtu).unwrap_or(1280),
        domain: network.domain.clone(),
        server_list_version: version.and_then(|version| u64::try_from(version).ok()).unwrap_or(1),
        published,
    };
    ctx.memberships.publish(&valid.key, membership);
}

/// Keeps the join Secret. Returns what to say where there can be none.
#[expect(clippy::too_many_arguments, reason = "all of it goes into the Secret")]
async fn join_secret(
    ctx: &Context,
    memory: &Memory,
    valid: &Valid,
    held: &Held,
    endpoints: &[Endpoint],
    found: &Found,
    was_there: bool,
    peers: &Peers,
) -> Result<Option<Said>, Error> {
    let name = names::join_secret(&valid.key.name);
    if matches!(valid.source, KeySource::Join { .. }) {
        return Ok(None);
    }
    let mut servers = endpoints::external_servers(endpoints);
    servers.extend(valid.servers.iter().filter_map(|text| text.parse().ok()));
    servers.truncate(MAX_SERVERS);
    if servers.is_empty() {
        // What was given away holds until there are other addresses.
        if was_there && found.secrets.contains_key(&name) {
            return Ok(Some(Said::of(
                Reason::NoExternalEndpoint,
                format!("Secret {name} is out of date: no server is reached from outside now"),
            )));
        }
        let message = "no server is reached from outside this cluster: exposure type NodePort, LoadBalancer or HostPort, externalAddresses, or \
                       spec.turn.servers make one; there is no join Secret until then";
        return Ok(Some(Said::of(Reason::NoExternalEndpoint, message)));
    }
    // Who joins while the key rotates gets the new one as soon as everybody here holds it, and the servers: other clusters get it in no
    // other way, so they are not waited for.
    let view = ctx.sightings.get(&valid.key);
    let newest = held.keys.first().filter(|(psk, _)| {
        let fingerprint = psk.derive().fingerprint.to_string();
        held.keys.len() == 1 || peers.lacking_here(&fingerprint) == 0 && view.camped > 0 && unaware(&view, &fingerprint).is_empty()
    });
    let Some((psk, _)) = newest.or_else(|| held.keys.iter().find(|(_, mode)| *mode == KeyMode::Announce)) else {
        return Ok(Some(Said::of(Reason::NoKey, "no key is in use by everybody yet")));
    };
    let uri = CampUri { servers, network: Some(held.network), psk: psk.clone(), version1: false }.to_text();
    let data = BTreeMap::from([(names::URI_KEY.to_owned(), uri.as_str().to_owned())]);
    let child = children::secret(valid, &name, &data);
    let live = found.secrets.get(&name).cloned();
    apply(ctx, &memory.settled, &child, live, &valid.key.namespace).await?;
    Ok(None)
}

/// Writes the status if it says something new.
async fn write_status(
    ctx: &Context,
    api: &Api<Campfire>,
    campfire: &Campfire,
    mut next: CampfireStatus,
    mut said: Vec<Stated>,
    ready_message: &str,
) -> Result<(), Error> {
    let before = campfire.status.clone().unwrap_or_default();
    let generation = campfire.metadata.generation;
    let ready = status::ready(&said, ready_message);
    let is_ready = ready.is_true();
    said.push((ConditionType::Ready, ready.clone()));
    next.conditions = merged(&before.conditions, said.iter().cloned(), generation, Timestamp::now());
    next.observed_generation = generation;
    let (namespace, name) = (campfire.namespace().unwrap_or_default(), campfire.name_any());
    ctx.metrics.campfire(&namespace, &name, Some((is_ready, next.missed_pods.unwrap_or(0))));
    if campfire.status.as_ref() == Some(&next) {
        return Ok(());
    }
    if !ctx.leadership.may_write() {
        return Err(Error::Fenced);
    }
    let changed = reason(&before.conditions, ConditionType::Ready) != Some(ready.reason);
    let object = json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION), "kind": "Campfire",
        "metadata": {"name": name, "uid": campfire.uid()},
        "status": next,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    match api.patch_status(&name, &params, &Patch::Apply(&object)).await {
        // Deleted meanwhile: an apply that names the uid does not make it anew.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return Ok(()),
        Err(kube::Error::Api(status)) if status.message.contains("field not declared in schema") => {
            let message = format!("the CustomResourceDefinition is older than the operator, and drops what it does not know: {REMEDY}");
            said.push((ConditionType::DefinitionCurrent, Said::of(Reason::DefinitionOutdated, message)));
            next.conditions = merged(&before.conditions, said, generation, Timestamp::now());
            // Without the fields that are not known there.
            let written = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({"status": next}))).await;
            written.map_err(during("the status could not be written"))?;
        }
        Err(error) => return Err(during("the status could not be written")(error)),
        Ok(_) => {}
    }
    if changed {
        events::say(&ctx.cluster, campfire, Happened::Turned(ready.reason), &ready.message).await;
    }
    Ok(())
}

/// What of a Campfire's peers its status follows from, cheap to compare: when it changes, the status is looked at.
#[derive(Debug)]
pub struct Followed {
    view: Arc<View>,
    /// Sum of hashes, in whatever order.
    reports: u64,
    pods: usize,
    truncated: bool,
}

impl PartialEq for Followed {
    fn eq(&self, other: &Self) -> bool {
        // Mostly the same one: a large one is compared only when it was replaced.
        (Arc::ptr_eq(&self.view, &other.view) || self.view == other.view)
            && (self.reports, self.pods, self.truncated) == (other.reports, other.pods, other.truncated)
    }
}

/// The same of all Campfires, in one pass over reports and pods.
pub fn followed(ctx: &Context) -> HashMap<ObjectKey, Followed> {
    let mut reports: HashMap<ObjectKey, u64> = HashMap::new();
    ctx.reports.for_each(|pod, said| {
        let mut hash = DefaultHasher::new();
        (pod, said.report.camped, &said.report.identity, &said.report.fingerprints).hash(&mut hash);
        let sum = reports.entry(said.campfire.clone()).or_default();
        *sum = sum.wrapping_add(hash.finish());
    });
    let mut pods: HashMap<ObjectKey, usize> = HashMap::new();
    for pod in ctx.cluster.pods.state() {
        if let Some(claim) = Claim::of(&pod.metadata) {
            *pods.entry(claim.campfire).or_default() += 1;
        }
    }
    let campfires = ctx.cluster.campfires.state().into_iter().map(|campfire| ObjectKey::of(campfire.as_ref()));
    campfires
        .map(|key| {
            let now = Followed {
                view: ctx.sightings.get(&key),
                reports: reports.get(&key).copied().unwrap_or_default(),
                pods: pods.get(&key).copied().unwrap_or_default(),
                truncated: ctx.sightings.truncated(&key),
            };
            (key, now)
        })
        .collect()
}
