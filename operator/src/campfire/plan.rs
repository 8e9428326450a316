//! What there should be: from what is asked for and what there is. Pure: the same values give the same plan.

use std::collections::BTreeSet;
use std::time::Duration;

use campfire_api::conditions::{ConditionType, Reason};
use campfire_api::{CampfireStatus, ExposureType, names};
use campfire_protocol::key::{Fingerprint, KeyMode};
use campfire_protocol::server::{Server, ServerAddress, ServerId};
use campfire_protocol::uri::{CampUri, MAX_SERVERS};
use k8s_openapi::api::core::v1::Secret;

use super::apply::{Stays, are_as_wanted};
use super::children::{self, Children};
use super::endpoints;
use super::fetch::Found;
use super::keys::{self, Held, KeyWrite};
use super::rotation::{self, Lacking, Standing};
use super::validate::{KeySource, Valid};
use super::{rollout, status};
use crate::conditions::{Said, Stated};
use crate::settings::OperatorSettings;
use crate::state::{Membership, external};

/// Most addresses of servers that people named, and of servers of other clusters, that members are told of.
const MAX_TOLD: usize = 64;
/// How soon it is looked again while something is not as it should be, and while all is.
const UNSETTLED: Duration = Duration::from_secs(30);
const SETTLED: Duration = Duration::from_mins(5);

/// What is to be done.
#[derive(Debug)]
pub enum Plan {
    /// The Secret with the key comes first, for all else follows from it: then it is planned again.
    Key(KeyWrite),
    /// This.
    All(Box<Wanted>),
}

/// What there should be, and what is to be said.
#[derive(Debug)]
pub struct Wanted {
    /// The children, and no others.
    pub children: Children,
    /// What of them is left as it is.
    pub stays: Stays,
    /// What members are told.
    pub membership: Membership,
    /// The join Secret; `None`: what there is of it stays.
    pub join: Option<JoinSecret>,
    /// The status, without its conditions.
    pub status: CampfireStatus,
    /// Its conditions, but for `Ready`.
    pub said: Vec<Stated>,
    /// Somebody put another key into the Secret: what to tell of it.
    pub key_changed: Option<String>,
    /// When to look again at the latest.
    pub again: Duration,
}

/// The Secret that lets another cluster in. `Debug` hides it.
pub struct JoinSecret(pub Secret);

impl std::fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

/// Plans.
///
/// # Errors
/// Why there is no key to work with: what runs goes on as it is.
pub fn plan(valid: &Valid, found: &Found, settings: &OperatorSettings) -> Result<Plan, Said> {
    if let Some(write) = keys::due(valid, found)? {
        return Ok(Plan::Key(write));
    }
    let mut held = keys::read(valid, found)?;
    held.hold_on(valid, found);
    let fingerprints = held.fingerprints();
    let newest = *fingerprints.first().ok_or_else(|| Said::of(Reason::KeyInvalid, "there is no key"))?;
    let lacking = Lacking::of(newest, &found.peers, &found.view);
    let rotated = match rotation::look(valid, &held, &lacking, found.stepped) {
        Standing::Due(step) => return Ok(Plan::Key(KeyWrite::Rotate { step, held })),
        Standing::Said(said) => said,
    };
    let spec = valid;
    let (children, stays, as_is) = consisting(valid, found, &held, settings);
    let valid = as_is.as_ref().unwrap_or(valid);
    // A spec that is not done to the servers says nothing of their addresses.
    let own = if stays.services { endpoints::read(&found.before.endpoints) } else { endpoints::servers(valid, found) };
    let (join, joinable) = join(valid, found, &held, &own);
    let mut said = vec![
        (ConditionType::Accepted, accepted(spec, found)),
        (ConditionType::KeyReady, Said::of(Reason::KeyReady, format!("Secret {} holds the key", valid.source.secret()))),
        (ConditionType::TurnAvailable, endpoints::turn_available(valid, found, &own, valid.servers.len() + held.servers.len())),
    ];
    said.extend(joinable.map(|joinable| (ConditionType::Joinable, joinable)));
    said.extend(rotated.map(|rotated| (ConditionType::Rotated, rotated)));
    said.extend(found.admitted.clone().map(|admitted| (ConditionType::MembersAdmitted, admitted)));
    said.extend(found.reached.clone().map(|reached| (ConditionType::WebhookReached, reached)));
    if found.truncated {
        let message = "more peers of other clusters are at the fire than are shown as MeshPeers: status.clusters counts them all";
        said.push((ConditionType::RemotePeersTruncated, Said::of(Reason::TooMany, message)));
    }
    let status = status(valid, found, &held, &own, &said);
    Ok(Plan::All(Box::new(Wanted {
        children,
        stays,
        membership: membership(valid, &held, own, found, status.server_list_version),
        join,
        key_changed: key_changed(valid, found, &fingerprints),
        again: again(valid, &said),
        status,
        said,
    })))
}

/// What a Campfire is to consist of, and what stays as it is; while a change of its servers waits, what is said of them is said of them as they are.
fn consisting(valid: &Valid, found: &Found, held: &Held, settings: &OperatorSettings) -> (Children, Stays, Option<Valid>) {
    let mut children = children::children(valid, held, settings);
    if found.held.is_none() && found.trial.is_none() {
        return (children, Stays::default(), None);
    }
    for (name, set) in &mut children.sets {
        if found.trial.is_some()
            && let Some(live) = found.children.sets.get(name)
        {
            *set = rollout::one_more(set, live, &found.pods);
        }
    }
    let as_is = rollout::as_they_are(valid, found);
    if let Some(as_is) = &as_is {
        children.services = children::children(as_is, held, settings).services;
    }
    // Nodes and load balancers of servers change while they wait; what leads to them by the new spec may be nothing yet.
    let services = as_is.is_none() || !are_as_wanted(&children.services, &found.children.services);
    (children, Stays { servers: found.held.is_some(), services }, as_is)
}

/// What is said by `Accepted`: what of the spec is not done, first of all.
fn accepted(valid: &Valid, found: &Found) -> Said {
    let trial = found.trial.as_ref().map(|trial| &trial.said);
    let waits = [found.held.as_ref(), trial.filter(|said| !said.is_true()), found.certificate.as_ref(), trial];
    waits.into_iter().flatten().next().cloned().unwrap_or_else(|| valid.accepted())
}

/// What members are told.
pub fn membership(valid: &Valid, held: &Held, own: Vec<Server>, found: &Found, version: Option<i64>) -> Membership {
    let mut given: Vec<Server> = valid.servers.iter().chain(&held.servers).cloned().collect();
    let mut heard = found.view.foreign_servers.clone();
    for servers in [&mut given, &mut heard] {
        let mut left = MAX_TOLD;
        servers.retain(|server| {
            let fits = server.addresses.len() <= left;
            left = left.saturating_sub(server.addresses.len());
            fits
        });
    }
    Membership {
        keys: held.keys.clone(),
        id: held.network,
        own,
        given,
        heard,
        cluster: valid.cluster.clone(),
        network: valid.network.clone(),
        server_list_version: version.and_then(|version| u64::try_from(version).ok()).unwrap_or(1),
    }
}

/// The join Secret, and what is said of it; neither where this cluster joined another one.
fn join(valid: &Valid, found: &Found, held: &Held, own: &[Server]) -> (Option<JoinSecret>, Option<Said>) {
    if matches!(valid.source, KeySource::Join { .. }) {
        return (None, None);
    }
    let name = names::join_secret(&valid.key.name);
    let mut servers = external(own);
    servers.extend(valid.servers.iter().cloned());
    servers.truncate(MAX_SERVERS);
    if servers.is_empty() {
        // What was given away holds until there are other addresses.
        let stale = found.before.join_secret_name.is_some() && found.join.is_some();
        let exposed = valid.turn.exposure.as_ref().is_some_and(|exposure| exposure.kind != ExposureType::ClusterIp);
        let message = if exposed && !stale {
            "the servers have no address outside this cluster yet: TurnAvailable says why; there is no join Secret until then".to_owned()
        } else if stale {
            format!("Secret {name} is out of date: no server is reached from outside now")
        } else {
            "no server is reached from outside this cluster: exposure type NodePort, LoadBalancer or HostPort, externalAddresses, or \
             spec.turn.servers make one; there is no join Secret until then"
                .to_owned()
        };
        return (None, Some(Said::of(Reason::NoExternalEndpoint, message)));
    }
    // Who joins while the key rotates gets the new one as soon as everybody here holds it, and the servers: other clusters get it in no
    // other way, so they are not waited for.
    let newest = held.keys.first().filter(|key| {
        let (view, fingerprint) = (&found.view, key.fingerprint());
        held.keys.len() == 1
            || found.peers.lacking_here(fingerprint) == 0 && view.camped > 0 && rotation::unaware(view, fingerprint).is_empty()
    });
    let Some(key) = newest.or_else(|| held.keys.iter().find(|key| key.mode == KeyMode::Announce)) else {
        return (None, Some(Said::of(Reason::NoKey, "no key is in use by everybody yet")));
    };
    let uri =
        CampUri { servers, network: Some(held.network), psk: key.psk.clone(), roots: Vec::new(), issuer: None, version1: false }.to_text();
    let secret = children::secret(valid, &name, [(names::URI_KEY.to_owned(), uri.as_str().to_owned())]);
    (Some(JoinSecret(secret)), Some(Said::of(Reason::Joinable, format!("another cluster joins by Secret {name}"))))
}

/// The status, without its conditions.
fn status(valid: &Valid, found: &Found, held: &Held, own: &[Server], said: &[Stated]) -> CampfireStatus {
    let fingerprints = held.fingerprints();
    let endpoints = endpoints::shown(own);
    let joinable = said.iter().any(|(kind, said)| *kind == ConditionType::Joinable && said.is_true());
    let before = status::with_pods(found.before.clone(), &found.without, found.outdated);
    // Who has just begun to lead has not met everybody: until then there are as many as there were.
    let counted = before.peers.filter(|peers| found.settling && *peers > found.peers.total());
    let (peers, clusters) = counted.map_or_else(|| (found.peers.total(), found.peers.clusters()), |peers| (peers, before.clusters.clone()));
    CampfireStatus {
        server_list_version: Some(list_version(&found.before, own)),
        join_secret_name: joinable.then(|| names::join_secret(&valid.key.name)),
        turn: Some(format!("{}/{}", endpoints::ready(valid, found), valid.turn.replicas)),
        endpoint_count: Some(i32::try_from(endpoints.len()).unwrap_or(i32::MAX)),
        endpoints,
        key_fingerprint: fingerprints.first().map(ToString::to_string),
        prefix: Some(held.network.prefix().to_string()),
        key_generations: found.peers.generations(&fingerprints),
        rotation: held.rotation(),
        peers: Some(peers),
        clusters,
        ..before
    }
}

/// Version of the list of servers that is published: one more whenever it changes.
fn list_version(before: &CampfireStatus, own: &[Server]) -> i64 {
    match before.server_list_version {
        Some(version) if addresses(own) == addresses(&endpoints::read(&before.endpoints)) => version,
        Some(version) => version.saturating_add(1),
        None => 1,
    }
}

/// Where servers are reached from outside, in whatever order.
fn addresses(servers: &[Server]) -> BTreeSet<(ServerId, ServerAddress)> {
    external(servers).into_iter().flat_map(|server| server.addresses.into_iter().map(move |address| (server.id.clone(), address))).collect()
}

/// A key that nobody rotated to, and that status did not have.
fn key_changed(valid: &Valid, found: &Found, held: &[Fingerprint]) -> Option<String> {
    let was = found.before.key_fingerprint.as_deref()?;
    let newest = held.first()?;
    let known = was.parse().is_ok_and(|was| held.contains(&was)) || found.before.rotation.is_some() || found.stepped;
    let note = || format!("Secret {} holds another key ({newest}) than before ({was}): members get it now", valid.source.secret());
    (!known).then(note)
}

/// Addresses of nodes and of load balancers come without a word to us.
fn again(valid: &Valid, said: &[Stated]) -> Duration {
    // Where nothing is exposed no address outside comes by itself: 200 such Campfires would be looked at 7 times a second for nothing.
    let inside = valid.turn.exposure.as_ref().is_none_or(|exposure| exposure.kind == ExposureType::ClusterIp);
    let final_word = |kind: ConditionType| inside && kind == ConditionType::Joinable;
    if said.iter().any(|(kind, said)| !said.is_true() && !final_word(*kind)) { UNSETTLED } else { SETTLED }
}
