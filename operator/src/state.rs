//! What the operator's parts tell each other. The Campfire reconciler publishes what members are told ([`Memberships`]); the
//! agent API gives it out and takes in [`Reports`]; the fire sees who is there ([`Sightings`]); the MeshPeer reconciler and the
//! Campfires' status read both. All of it is memory: whoever becomes leader builds it anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use campfire_api::agent::{Key, Report, ServerEntry};
use kube::{Resource, ResourceExt as _};
use tokio::sync::{mpsc, watch};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// From both.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Of an object.
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What all members of one Campfire are told; the agent API adds who the pod is. Holds keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Keys, newest first; 1 to 4.
    pub keys: Vec<Key>,
    /// Network id, 10 hex digits.
    pub network: String,
    /// Servers: this cluster's, those of `spec.turn.servers` and of the join secret.
    pub servers: Vec<ServerEntry>,
    /// This cluster's name.
    pub cluster: String,
    /// See `spec.network`.
    pub ipv4_pool: Option<String>,
    /// See `spec.network`.
    pub accept_routes: Vec<String>,
    /// See `spec.network`, bytes.
    pub mtu: u16,
    /// See `spec.network`.
    pub domain: String,
    /// Version of the list of servers of this cluster, for the server record that the fire publishes.
    pub server_list_version: u64,
    /// Servers of this cluster that can be reached from outside, as texts: what the server record says.
    pub published: Vec<String>,
}

/// The memberships of all Campfires.
#[derive(Debug, Default)]
pub struct Memberships {
    inner: Mutex<HashMap<ObjectKey, watch::Sender<Option<Arc<Membership>>>>>,
}

impl Memberships {
    /// Says what members of a Campfire are told from now on. Tells nobody when it is the same as before.
    pub fn publish(&self, campfire: &ObjectKey, membership: Membership) {
        let sender = self.sender(campfire);
        sender.send_if_modified(|held| {
            let changed = held.as_deref() != Some(&membership);
            if changed {
                *held = Some(Arc::new(membership));
            }
            changed
        });
    }

    /// The Campfire is gone, or has no key.
    pub fn withdraw(&self, campfire: &ObjectKey) {
        if let Some(sender) = self.inner.lock().unwrap_or_else(PoisonError::into_inner).remove(campfire) {
            sender.send_replace(None);
        }
    }

    /// Withdraws all: what is told stands for one term of a leader.
    pub fn clear(&self) {
        let inner = std::mem::take(&mut *self.inner.lock().unwrap_or_else(PoisonError::into_inner));
        for sender in inner.into_values() {
            sender.send_replace(None);
        }
    }

    /// Follows a Campfire, which need not exist yet. When it is withdrawn the sender is dropped.
    pub fn follow(&self, campfire: &ObjectKey) -> watch::Receiver<Option<Arc<Membership>>> {
        self.sender(campfire).subscribe()
    }

    /// What is published for a Campfire now. Unlike [`Self::follow`] it makes no entry.
    pub fn get(&self, campfire: &ObjectKey) -> Option<Arc<Membership>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.get(campfire).and_then(|sender| sender.borrow().clone())
    }

    fn sender(&self, campfire: &ObjectKey) -> watch::Sender<Option<Arc<Membership>>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.entry(campfire.clone()).or_insert_with(|| watch::Sender::new(None)).clone()
    }
}

/// A pod: one of the same name that comes later is another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId {
    /// Namespace and name.
    pub key: ObjectKey,
    /// uid.
    pub uid: String,
}

/// What a pod's sidecar said last.
#[derive(Clone, Debug)]
pub struct Reported {
    /// The Campfire, from the pod's annotation.
    pub campfire: ObjectKey,
    /// What it said, clipped to the bounds.
    pub report: Report,
    /// When.
    pub at: Instant,
}

/// The last report of each pod.
#[derive(Debug)]
pub struct Reports {
    inner: Mutex<HashMap<PodId, Arc<Reported>>>,
    changed: mpsc::Sender<PodId>,
}

impl Reports {
    /// Empty, and the queue of pods whose report changed (heartbeats that say the same are not in it).
    pub fn new() -> (Self, mpsc::Receiver<PodId>) {
        let (changed, queue) = mpsc::channel(16_384);
        (Self { inner: Mutex::default(), changed }, queue)
    }

    /// Takes a report in. If the queue is full the pod is found by the next sweep.
    pub fn put(&self, pod: PodId, mut reported: Reported) {
        // A reader leaves room for four: for 10,000 pods that adds up.
        reported.report.addresses.shrink_to_fit();
        reported.report.fingerprints.shrink_to_fit();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let same = inner.get(&pod).is_some_and(|held| held.report == reported.report && held.campfire == reported.campfire);
        inner.insert(pod.clone(), Arc::new(reported));
        if !same {
            // A full queue loses a hint, not the report.
            let _ = self.changed.try_send(pod);
        }
    }

    /// The last report of a pod.
    pub fn get(&self, pod: &PodId) -> Option<Arc<Reported>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).get(pod).cloned()
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, pod: &PodId) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).remove(pod);
    }

    /// Looks at all reports.
    pub fn for_each(&self, mut look: impl FnMut(&PodId, &Reported)) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|(pod, reported)| look(pod, reported));
    }
}

/// Somebody at the fire, as announced there (signed by itself).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Ed25519 public key, hex.
    pub identity: String,
    /// WireGuard public key, base64.
    pub public_key: String,
    /// Name, namespace and cluster that it shows; may be empty.
    pub name: String,
    /// See `name`.
    pub namespace: String,
    /// See `name`.
    pub cluster: String,
    /// Addresses in the mesh.
    pub addresses: Vec<String>,
    /// Fingerprints of the keys that it holds.
    pub fingerprints: Vec<String>,
    /// It has no tunnel: an operator, which counts as no peer.
    pub origin: bool,
}

/// What the operator sees at one fire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// It sits at the fire, on this many servers.
    pub camped: usize,
    /// Members as the servers count them (ourselves not included); in a large room more than `seen` holds.
    pub members: usize,
    /// Who is there, by identity; bounded.
    pub seen: BTreeMap<String, Sighting>,
    /// Servers that other clusters' operators published, as texts.
    pub foreign_servers: Vec<String>,
    /// Ids of the servers on which it sits, by the fingerprint of the key under which it does.
    pub seated: BTreeMap<String, BTreeSet<String>>,
}

/// The views of all fires.
#[derive(Debug, Default)]
pub struct Sightings {
    inner: Mutex<HashMap<ObjectKey, watch::Sender<Arc<View>>>>,
    truncated: Mutex<BTreeSet<ObjectKey>>,
}

impl Sightings {
    /// What is seen at a fire now; tells nobody when it is the same.
    pub fn publish(&self, campfire: &ObjectKey, view: View) {
        self.sender(campfire).send_if_modified(|held| {
            let changed = **held != view;
            if changed {
                *held = Arc::new(view);
            }
            changed
        });
    }

    /// Follows a fire.
    pub fn follow(&self, campfire: &ObjectKey) -> watch::Receiver<Arc<View>> {
        self.sender(campfire).subscribe()
    }

    /// What is seen now.
    pub fn get(&self, campfire: &ObjectKey) -> Arc<View> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.get(campfire).map(|sender| sender.borrow().clone()).unwrap_or_default()
    }

    /// The Campfire is gone.
    pub fn withdraw(&self, campfire: &ObjectKey) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).remove(campfire);
        self.set_truncated(campfire, false);
    }

    /// Says whether more peers of other clusters are at a fire than are shown as objects.
    pub fn set_truncated(&self, campfire: &ObjectKey, truncated: bool) {
        let mut held = self.truncated.lock().unwrap_or_else(PoisonError::into_inner);
        if truncated {
            held.insert(campfire.clone());
        } else {
            held.remove(campfire);
        }
    }

    /// Whether more peers of other clusters are at a fire than are shown as objects: condition `RemotePeersTruncated`.
    pub fn truncated(&self, campfire: &ObjectKey) -> bool {
        self.truncated.lock().unwrap_or_else(PoisonError::into_inner).contains(campfire)
    }

    fn sender(&self, campfire: &ObjectKey) -> watch::Sender<Arc<View>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.entry(campfire.clone()).or_insert_with(|| watch::Sender::new(Arc::default())).clone()
    }
}
