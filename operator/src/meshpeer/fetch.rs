//! What is known of whoever a MeshPeer stands for: from the caches, from what sidecars said, and from who is at the fires. Nobody is asked.

use std::sync::Arc;
use std::time::Instant;

use campfire_api::{MeshPeer, PeerType, RemotePeers};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt as _};

use super::status::{Heard, STALE};
use super::{Reconciler, plan};
use crate::cluster::InjectedPod;
use crate::conditions::Said;
use crate::members::Unadmitted;
use crate::state::{ObjectKey, PodId, Reported, Sighting, WireguardKey};

/// Longest name of a Campfire, bytes: a MeshPeer cannot refer to another.
const MAX_CAMPFIRE: usize = 40;

/// Who a MeshPeer of a name stands for, or would.
#[derive(Debug)]
pub(super) enum Known {
    /// A pod with a sidecar has the name.
    Pod(KnownPod),
    /// A peer of elsewhere, if it is known under the name.
    Remote(Option<KnownRemote>),
    /// What a person declared.
    External(KnownExternal),
    /// Nobody: its pod is gone.
    Nobody,
}

/// A pod with a sidecar.
#[derive(Debug)]
pub(super) struct KnownPod {
    pub(super) seen: PodSeen,
    /// Why it may not sit where it says.
    pub(super) refused: Option<Unadmitted>,
    /// How this cluster is called at its fire.
    pub(super) cluster: String,
    pub(super) reported: Option<Arc<Reported>>,
    /// The report, if there is one, is not too old.
    pub(super) fresh: bool,
    /// Why its sidecar says nothing, if its pod shows it.
    pub(super) cause: Option<Said>,
    /// This operator leads long enough to have heard of every pod.
    pub(super) heard_all: bool,
}

/// A pod as its object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodSeen {
    pub(super) pod: PodId,
    pub(super) campfire: ObjectKey,
}

/// A peer of elsewhere.
#[derive(Debug)]
pub(super) struct KnownRemote {
    pub(super) campfire: ObjectKey,
    /// It is at the fire, as far as is known.
    pub(super) present: bool,
    pub(super) sighting: Option<Sighting>,
    /// Its Campfire, as the owner of an object.
    pub(super) owner: Option<OwnerReference>,
}

/// What a person declared.
#[derive(Debug)]
pub(super) struct KnownExternal {
    pub(super) campfire: ObjectKey,
    /// Why it may not sit there.
    pub(super) refused: Option<Unadmitted>,
    /// The operator may write Secrets in its namespace.
    pub(super) served: bool,
    /// How the last look at its join Secret ended; `None`: it is to be looked at now.
    pub(super) joined: Option<Said>,
    pub(super) sighting: Option<Sighting>,
}

impl KnownPod {
    pub(super) fn heard(&self) -> Heard<'_> {
        match &self.reported {
            Some(reported) if self.fresh => Heard::Fresh(&reported.report),
            Some(reported) => Heard::Stale(&reported.report),
            None if self.heard_all => Heard::Nothing,
            None => Heard::Wait,
        }
    }
}

/// The pod of a name, if it has a sidecar and a Campfire.
pub(super) fn pod_seen(pod: &InjectedPod) -> Option<PodSeen> {
    // What no object may be called would be refused as a label's value, again and again.
    let campfire = pod.campfire().filter(|campfire| campfire.name.len() <= MAX_CAMPFIRE)?;
    Some(PodSeen { pod: pod.id.clone(), campfire: campfire.clone() })
}

/// The Campfire that a MeshPeer names.
pub(super) fn campfire_of(peer: &MeshPeer) -> ObjectKey {
    let reference = &peer.spec.campfire_ref;
    let own = || peer.namespace().unwrap_or_default();
    ObjectKey::new(reference.namespace.clone().unwrap_or_else(own), reference.name.clone())
}

/// The public key that a person declared.
pub(super) fn declared_key(peer: &MeshPeer) -> Option<WireguardKey> {
    WireguardKey::read(peer.spec.external.as_ref()?.public_key.as_ref()?)
}

impl Reconciler {
    /// What a MeshPeer needs now.
    pub(super) fn examine(&self, key: &ObjectKey, now: Instant) -> Option<plan::Action> {
        let peer = self.ctx.cluster.peers.get(key);
        let peer = peer.as_deref();
        // If the cache does not show what was written, its change brings us back here.
        if self.unsettled(key, peer, now) || peer.is_some_and(|peer| peer.metadata.deletion_timestamp.is_some()) {
            return None;
        }
        plan::plan(key, peer, &self.known(key, peer, now), k8s_openapi::jiff::Timestamp::now())
    }

    fn known(&self, key: &ObjectKey, peer: Option<&MeshPeer>, now: Instant) -> Known {
        if let Some(seen) = self.ctx.cluster.pods.get(key).and_then(|pod| pod_seen(&pod)) {
            return Known::Pod(self.pod(seen, now));
        }
        match peer.map(|peer| (peer.spec.kind, peer)) {
            None | Some((PeerType::Remote, _)) => Known::Remote(self.remote(key)),
            Some((PeerType::External, peer)) => Known::External(self.external(peer, key, now)),
            Some((PeerType::Pod, _)) => Known::Nobody,
        }
    }

    fn pod(&self, seen: PodSeen, now: Instant) -> KnownPod {
        let reported = self.ctx.reports.get(&seen.pod).filter(|reported| reported.campfire == seen.campfire);
        KnownPod {
            refused: self.ctx.cluster.admit(&seen.campfire, &seen.pod.key.namespace).err(),
            cluster: self.cluster(&seen.campfire),
            fresh: reported.as_ref().is_some_and(|reported| reported.at + STALE > now),
            cause: self.ctx.causes.of(&seen.pod),
            heard_all: self.began + STALE <= now,
            reported,
            seen,
        }
    }

    fn remote(&self, key: &ObjectKey) -> Option<KnownRemote> {
        let remote = self.remotes.get(key)?;
        let view = self.ctx.sightings.get(&remote.campfire);
        Some(KnownRemote {
            campfire: remote.campfire.clone(),
            present: remote.present(),
            sighting: remote.identity.as_ref().and_then(|identity| view.seen.get(identity)).cloned(),
            owner: self.ctx.cluster.campfires.get(&remote.campfire).and_then(|campfire| campfire.controller_owner_ref(&())),
        })
    }

    fn external(&self, peer: &MeshPeer, key: &ObjectKey, now: Instant) -> KnownExternal {
        let campfire = campfire_of(peer);
        let version = self.ctx.memberships.get(&campfire).map(|membership| membership.server_list_version);
        let view = self.ctx.sightings.get(&campfire);
        let wanted = declared_key(peer);
        KnownExternal {
            refused: self.ctx.cluster.admit(&campfire, &key.namespace).err(),
            served: self.ctx.cluster.served.holds(&key.namespace),
            joined: self.external.get(key).filter(|joined| !joined.due(version, now)).map(|joined| joined.said.clone()),
            sighting: wanted.and_then(|key| view.seen.values().find(|sighting| sighting.wireguard == key)).cloned(),
            campfire,
        }
    }

    /// How this cluster is called at a fire.
    pub(super) fn cluster(&self, campfire: &ObjectKey) -> String {
        let told = self.ctx.memberships.get(campfire).map(|membership| membership.cluster.clone());
        let asked = || self.ctx.cluster.campfires.get(campfire).and_then(|campfire| campfire.spec.cluster_name.clone());
        told.or_else(asked).unwrap_or_else(|| self.ctx.settings.cluster_name.clone())
    }

    /// Whether peers of other clusters are shown as objects.
    pub(super) fn shows_remotes(&self, campfire: &ObjectKey) -> bool {
        self.ctx
            .cluster
            .campfires
            .get(campfire)
            .is_some_and(|campfire| campfire.metadata.deletion_timestamp.is_none() && campfire.spec.remote_peers == RemotePeers::Objects)
    }
}
