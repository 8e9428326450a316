//! What a MeshPeer needs: from the caches alone, without asking anybody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use campfire_api::conditions::Reason;
use campfire_api::{CampfireRef, MeshPeer, MeshPeerSpec, MeshPeerStatus, PeerType, PodRef, RemotePeers, names};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::{Resource, ResourceExt as _};

use super::status::{self, Heard, STALE};
use super::{ACT, Reconciler};
use crate::cluster::cached;
use crate::conditions::Said;
use crate::members::{Claim, Unadmitted};
use crate::state::{self, ObjectKey, Sighting};

/// Changes of a status are gathered for this long.
pub(super) const DEBOUNCE: Duration = Duration::from_secs(10);
/// What is told at once is told after this.
const PROMPT: Duration = Duration::from_millis(300);
/// The garbage collector deletes the peers of deleted pods: it is given this long.
const COLLECT: Duration = Duration::from_secs(5);

/// Longest name of a Campfire, bytes: a MeshPeer cannot refer to another.
const MAX_CAMPFIRE: usize = 40;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Action {
    /// Make the object.
    Create(Box<MeshPeer>),
    /// Delete this very object.
    Delete { uid: String, in_time: bool },
    /// Write the status of this very object.
    Status { uid: String, status: Box<MeshPeerStatus>, prompt: bool },
    /// Write the join secret of an External peer.
    Join,
}

impl Action {
    /// How long it waits.
    pub(super) fn delay(&self) -> Duration {
        match self {
            Self::Create(_) | Self::Join => Duration::ZERO,
            Self::Delete { in_time, .. } => {
                if *in_time {
                    Duration::ZERO
                } else {
                    COLLECT
                }
            }
            Self::Status { prompt, .. } => {
                if *prompt {
                    PROMPT
                } else {
                    DEBOUNCE
                }
            }
        }
    }
}

/// A pod as its object says.
pub(super) struct PodSeen {
    pub(super) pod: state::PodId,
    pub(super) campfire: ObjectKey,
}

/// The pod of a name, if it has a sidecar and a Campfire.
pub(super) fn pod_seen(pod: &PartialObjectMeta<Pod>) -> Option<PodSeen> {
    let campfire = Claim::of(&pod.metadata)?.campfire;
    if campfire.name.len() > MAX_CAMPFIRE {
        return None;
    }
    let key = ObjectKey::new(pod.namespace()?, pod.name_any());
    Some(PodSeen { pod: state::PodId { key, uid: pod.uid()? }, campfire })
}

/// The Campfire that a MeshPeer names.
pub(super) fn campfire_of(peer: &MeshPeer) -> ObjectKey {
    let reference = &peer.spec.campfire_ref;
    let own = || peer.namespace().unwrap_or_default();
    ObjectKey::new(reference.namespace.clone().unwrap_or_else(own), reference.name.clone())
}

/// Whether a MeshPeer was made by the operator for an object of this kind.
pub(super) fn owned_by(peer: &MeshPeer, kind: &str) -> bool {
    peer.owner_references().iter().any(|owner| owner.kind == kind && owner.controller == Some(true))
}

impl Reconciler {
    /// What a MeshPeer needs now.
    pub(super) fn examine(&self, key: &ObjectKey, now: Instant) -> Option<Action> {
        let peer = cached(&self.ctx.cluster.peers, key);
        let peer = peer.as_deref();
        if self.sent.get(key).is_some_and(|sent| !sent.settled(peer) && sent.at + ACT > now) {
            // The cache does not show what was written: its change brings us back here.
            return None;
        }
        if peer.is_some_and(|peer| peer.metadata.deletion_timestamp.is_some()) {
            return None;
        }
        if let Some(seen) = cached(&self.ctx.cluster.pods, key).and_then(|pod| pod_seen(&pod)) {
            return self.pod(peer, &seen, now);
        }
        let Some(peer) = peer else { return self.new_remote(key) };
        let by_person = || {
            let kind = if peer.spec.kind == PeerType::Pod { "Pod" } else { "Remote" };
            let why =
                format!("objects of type {kind} are made by the operator: delete this one; declare what is outside with type External");
            write(peer, status::refused(peer, Said::of(Reason::NotManaged, why), Timestamp::now()))
        };
        match peer.spec.kind {
            PeerType::Pod if owned_by(peer, "Pod") => delete(peer, false),
            PeerType::Remote if owned_by(peer, "Campfire") => self.remote(peer, key),
            PeerType::Pod | PeerType::Remote => by_person(),
            PeerType::External => self.external(peer, key, now),
        }
    }

    fn pod(&self, peer: Option<&MeshPeer>, seen: &PodSeen, now: Instant) -> Option<Action> {
        let Some(peer) = peer else { return Some(Action::Create(Box::new(pod_peer(seen)))) };
        if !owned_by(peer, "Pod") {
            let why = "a pod of this name has a sidecar, and its MeshPeer needs this name: delete this object or give it another name";
            return write(peer, status::refused(peer, Said::of(Reason::NameTaken, why), Timestamp::now()));
        }
        let same_pod = peer.spec.pod_ref.as_ref().is_some_and(|pod| pod.uid == seen.pod.uid);
        if !same_pod || campfire_of(peer) != seen.campfire {
            return delete(peer, true);
        }
        let accepted = self.accepted(&seen.campfire, &seen.pod.key.namespace);
        let reported = self.ctx.reports.get(&seen.pod).filter(|reported| reported.campfire == seen.campfire);
        let heard = match &reported {
            Some(reported) if reported.at + STALE > now => Heard::Fresh(&reported.report),
            Some(reported) => Heard::Stale(&reported.report),
            None if self.began + STALE > now => Heard::Wait,
            None => Heard::Nothing,
        };
        let cluster = self.cluster(&seen.campfire);
        write(peer, status::of_pod(peer, accepted, &cluster, heard, Timestamp::now()))
    }

    fn new_remote(&self, key: &ObjectKey) -> Option<Action> {
        let remote = self.remotes.get(key).filter(|remote| remote.present())?;
        let campfire = cached(&self.ctx.cluster.campfires, &remote.campfire)?;
        let owner = campfire.controller_owner_ref(&())?;
        let campfire_ref = CampfireRef { namespace: None, name: remote.campfire.name.clone() };
        let spec = MeshPeerSpec { kind: PeerType::Remote, campfire_ref, pod_ref: None, external: None };
        Some(Action::Create(Box::new(MeshPeer { metadata: metadata(key, &remote.campfire, owner), spec, status: None })))
    }

    fn remote(&self, peer: &MeshPeer, key: &ObjectKey) -> Option<Action> {
        let Some(remote) = self.remotes.get(key) else { return delete(peer, true) };
        let view = self.ctx.sightings.get(&remote.campfire);
        let sighting = remote.identity.as_ref().and_then(|identity| view.seen.get(identity));
        if sighting.is_none() && remote.present() {
            // It was there a moment ago, or we do not sit there ourselves: the next look tells.
            return None;
        }
        let accepted = Said::of(Reason::Accepted, "it holds the key of the Campfire");
        let absent = Said::of(Reason::Left, "it is no longer at the fire; this object is removed some minutes after that");
        write(peer, status::of_sighting(peer, accepted, absent, sighting, Timestamp::now()))
    }

    fn external(&self, peer: &MeshPeer, key: &ObjectKey, now: Instant) -> Option<Action> {
        let campfire = campfire_of(peer);
        let mut accepted = self.accepted(&campfire, &key.namespace);
        if accepted.is_true() && !self.ctx.settings.served.holds(&key.namespace) {
            accepted = Said::of(
                Reason::NamespaceNotServed,
                "the operator may write Secrets only where Campfires are served: make this object in the Campfire's namespace, or add this one to campfireNamespaces of the chart",
            );
        }
        if !accepted.is_true() {
            return write(peer, status::refused(peer, accepted, Timestamp::now()));
        }
        let version = self.ctx.memberships.get(&campfire).map(|membership| membership.server_list_version);
        let joined = match self.external.get(key) {
            Some(joined) if !joined.due(version, now) => joined,
            _ => return Some(Action::Join),
        };
        if !joined.said.is_true() {
            return write(peer, status::refused(peer, joined.said.clone(), Timestamp::now()));
        }
        let wanted = peer.spec.external.as_ref().and_then(|external| external.public_key.as_ref());
        let absent = match wanted {
            None => Said::of(Reason::NoPublicKey, "give spec.external.publicKey to see here what the peer of that key does"),
            Some(_) => Said::of(Reason::NotAtTheFire, "nobody with this public key is at the fire"),
        };
        let view = self.ctx.sightings.get(&campfire);
        let sighting: Option<&Sighting> = wanted.and_then(|key| view.seen.values().find(|sighting| sighting.public_key == *key));
        write(peer, status::of_sighting(peer, joined.said.clone(), absent, sighting, Timestamp::now()))
    }

    /// Whether a peer of this namespace may sit at the Campfire.
    fn accepted(&self, campfire: &ObjectKey, namespace: &str) -> Said {
        match self.ctx.cluster.admit(campfire, namespace) {
            Ok(_) => Said::of(Reason::Accepted, ""),
            Err(Unadmitted::NotFound) => Said::of(
                Reason::CampfireNotFound,
                format!(
                    "there is no Campfire {campfire}: make it, or name another one (a pod by annotation campfire.network/campfire, an External in \
                     spec.campfireRef) and make this anew"
                ),
            ),
            Err(Unadmitted::NotServed) => Said::of(
                Reason::CampfireNotFound,
                format!(
                    "there is no Campfire {campfire}: the operator serves no Campfires of this namespace: add it to campfireNamespaces of the chart"
                ),
            ),
            Err(Unadmitted::NotAdmitted) => Said::of(
                Reason::NamespaceNotAdmitted,
                format!(
                    "Campfire {campfire} does not admit namespace {namespace}: change its spec.members.namespaces or the namespace's labels"
                ),
            ),
        }
    }

    /// How this cluster is called at a fire.
    pub(super) fn cluster(&self, campfire: &ObjectKey) -> String {
        let told = self.ctx.memberships.get(campfire).map(|membership| membership.cluster.clone());
        let asked = || cached(&self.ctx.cluster.campfires, campfire).and_then(|campfire| campfire.spec.cluster_name.clone());
        told.or_else(asked).unwrap_or_else(|| self.ctx.settings.cluster_name.clone())
    }

    /// Whether peers of other clusters are shown as objects.
    pub(super) fn shows_remotes(&self, campfire: &ObjectKey) -> bool {
        cached(&self.ctx.cluster.campfires, campfire)
            .is_some_and(|campfire| campfire.metadata.deletion_timestamp.is_none() && campfire.spec.remote_peers == RemotePeers::Objects)
    }
}

/// Writes a status, unless it is already so.
fn write(peer: &MeshPeer, status: MeshPeerStatus) -> Option<Action> {
    if peer.status.as_ref() == Some(&status) {
        return None;
    }
    let prompt = status::prompt(peer.status.as_ref());
    Some(Action::Status { uid: peer.uid()?, status: Box::new(status), prompt })
}

fn delete(peer: &MeshPeer, in_time: bool) -> Option<Action> {
    Some(Action::Delete { uid: peer.uid()?, in_time })
}

fn pod_peer(seen: &PodSeen) -> MeshPeer {
    let state::PodId { key, uid } = &seen.pod;
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: key.name.clone(),
        uid: uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let campfire_ref = CampfireRef { namespace: Some(seen.campfire.namespace.clone()), name: seen.campfire.name.clone() };
    let pod_ref = Some(PodRef { name: key.name.clone(), uid: uid.clone() });
    let spec = MeshPeerSpec { kind: PeerType::Pod, campfire_ref, pod_ref, external: None };
    MeshPeer { metadata: metadata(key, &seen.campfire, owner), spec, status: None }
}

fn metadata(key: &ObjectKey, campfire: &ObjectKey, mut owner: OwnerReference) -> ObjectMeta {
    owner.block_owner_deletion = None;
    let labels = BTreeMap::from([
        (names::CAMPFIRE_LABEL.into(), campfire.name.clone()),
        (names::CAMPFIRE_NAMESPACE_LABEL.into(), campfire.namespace.clone()),
        ("app.kubernetes.io/managed-by".into(), names::FIELD_MANAGER.into()),
    ]);
    ObjectMeta {
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod red {
    #[test]
    fn red_18a_an_annotation_that_no_label_can_hold_is_taken() {
        let pod: kube::api::PartialObjectMeta<k8s_openapi::api::core::v1::Pod> = serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "stranger", "name": "p", "uid": "u", "annotations": {"campfire.network/campfire": "not a label!/neither;"}},
        }))
        .unwrap();
        let peer = super::pod_peer(&super::pod_seen(&pod).unwrap());
        println!("{:?}", peer.metadata.labels);
        assert!(peer.metadata.labels.unwrap().values().any(|value| value.contains('!')));
    }
}
