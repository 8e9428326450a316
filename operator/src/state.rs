//! What the operator's parts tell each other. The Campfire reconciler publishes what members are told ([`Memberships`]); the
//! agent API gives it out and takes in [`Reports`]; the fire sees who is there ([`Sightings`]); the MeshPeer reconciler and the
//! Campfires' status read both. All of it is memory: whoever becomes leader builds it anew.
//!
//! Keys, identities, addresses and servers are values here. They are texts at the agent API and in statuses, and there alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{Path, Problem};
use campfire_protocol::identity::{NetworkId, PublicKey};
use campfire_protocol::key::{Fingerprint, KeyMode, Keys, Psk};
use campfire_protocol::server::{Scope, Server, ServerId, merge};
use ipnet::{IpNet, Ipv4Net};
use kube::{Resource, ResourceExt as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};

use crate::conditions::Said;

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

/// A key that members hold, with what follows from it. `Debug` shows its fingerprint.
#[derive(Clone)]
pub struct HeldKey {
    /// The key.
    pub psk: Psk,
    /// How it is used.
    pub mode: KeyMode,
    /// What is derived from it.
    pub keys: Arc<Keys>,
}

impl HeldKey {
    /// This key.
    pub fn new(psk: Psk, mode: KeyMode) -> Self {
        let keys = Arc::new(psk.derive());
        Self { psk, mode, keys }
    }

    /// Its fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.keys.fingerprint
    }
}

impl PartialEq for HeldKey {
    fn eq(&self, other: &Self) -> bool {
        // The rest follows.
        (&self.psk, self.mode) == (&other.psk, other.mode)
    }
}

impl Eq for HeldKey {}

impl fmt::Debug for HeldKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldKey({}, {:?})", self.fingerprint(), self.mode)
    }
}

/// Addresses and routes of a mesh: `spec.network`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshNetwork {
    /// The pool of IPv4 addresses, if IPv4 is wanted.
    pub ipv4_pool: Option<Ipv4Net>,
    /// Routes of others count if they lie within one of these.
    pub accept_routes: Vec<IpNet>,
    /// Of the interface, bytes.
    pub mtu: u16,
}

/// What all members of one Campfire are told; the agent API adds who the pod is. Holds keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Keys, newest first; 1 to 4.
    pub keys: Vec<HeldKey>,
    /// The network id.
    pub id: NetworkId,
    /// This cluster's servers, by the addresses at which they are reached from inside and from outside.
    pub own: Vec<Server>,
    /// Servers that people named: by `spec.turn.servers`, or by the join Secret.
    pub given: Vec<Server>,
    /// Servers that other clusters' operators published at the fire.
    pub heard: Vec<Server>,
    /// This cluster's name.
    pub cluster: String,
    /// Addresses and routes.
    pub network: MeshNetwork,
    /// Version of the list of servers of this cluster, for the server record that the fire publishes.
    pub server_list_version: u64,
}

impl Membership {
    /// This cluster's servers and those that people named, each once.
    pub fn told(&self) -> Vec<Server> {
        merge([&self.own, &self.given].into_iter().flatten().cloned())
    }

    /// All servers, each once; this cluster's first.
    pub fn servers(&self) -> Vec<Server> {
        merge([&self.own, &self.given, &self.heard].into_iter().flatten().cloned())
    }

    /// This cluster's servers as they are reached from outside: what the server record says.
    pub fn published(&self) -> Vec<Server> {
        external(&self.own)
    }
}

/// Servers with the addresses alone at which they are reached from outside.
pub fn external(servers: &[Server]) -> Vec<Server> {
    let mut external = servers.to_vec();
    external.retain_mut(|server| {
        server.addresses.retain(|address| address.scope == Scope::External);
        !server.addresses.is_empty()
    });
    external
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

/// A WireGuard (X25519) public key. In text base64, as `wg` shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireguardKey(pub [u8; 32]);

impl WireguardKey {
    /// Of its text.
    pub fn read(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireguardKey({self})")
    }
}

/// What a pod's sidecar said of itself, as far as the operator has a use for it. Its own word, but for its identity, which it has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerReport {
    /// Its Ed25519 public key.
    pub identity: PublicKey,
    /// Its WireGuard public key.
    pub wireguard: WireguardKey,
    /// Its addresses in the mesh.
    pub addresses: Vec<IpAddr>,
    /// Of the keys that it holds, newest first.
    pub fingerprints: Vec<Fingerprint>,
    /// It sits at the fire on at least one server.
    pub camped: bool,
    /// It was started and is ready in the sense of the startup policy.
    pub ready: bool,
    /// Known peers without a session.
    pub unconnected: u32,
    /// How its packets go, over all links.
    pub path: Path,
    /// Why not direct, in a word; empty if direct.
    pub reason: String,
    /// No TURN server answers it.
    pub unreachable: bool,
    /// What is wrong, for people.
    pub problems: Vec<Problem>,
}

/// By what a report was proven to be its pod's: the SHA-256 of a signature that was verified and of all that it was verified over. Two that are equal
/// are of the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof([u8; 32]);

impl Proof {
    /// Of a signature and what it signs.
    pub fn of(signature: &[u8; 64], statement: &[u8]) -> Self {
        // The first has one length: no two pairs run together to the same bytes.
        Self(Sha256::new().chain_update(signature).chain_update(statement).finalize().into())
    }
}

/// What a pod's sidecar said last.
#[derive(Clone, Debug)]
pub struct Reported {
    /// The Campfire, from the pod's annotation.
    pub campfire: ObjectKey,
    /// What it said.
    pub report: PeerReport,
    /// That it is this pod's word.
    pub proof: Proof,
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
    pub fn put(&self, pod: PodId, reported: Reported) {
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
    /// Its Ed25519 public key.
    pub identity: PublicKey,
    /// Its WireGuard public key, which follows from that.
    pub wireguard: WireguardKey,
    /// Name, namespace and cluster that it shows; may be empty.
    pub name: String,
    /// See `name`.
    pub namespace: String,
    /// See `name`.
    pub cluster: String,
    /// Addresses in the mesh.
    pub addresses: Vec<IpAddr>,
    /// Fingerprints of the keys that it holds.
    pub fingerprints: Vec<Fingerprint>,
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
    pub seen: BTreeMap<PublicKey, Sighting>,
    /// Servers that other clusters' operators published.
    pub foreign_servers: Vec<Server>,
    /// The servers on which it sits, by the key under which it does.
    pub seated: BTreeMap<Fingerprint, BTreeSet<ServerId>>,
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

/// Why pods are without the mesh whose sidecars do not say it themselves.
#[derive(Debug, Default)]
pub struct Causes(Mutex<HashMap<PodId, Said>>);

impl Causes {
    /// Of one pod.
    pub fn of(&self, pod: &PodId) -> Option<Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(pod).cloned()
    }

    /// Replaces all.
    pub fn replace(&self, causes: HashMap<PodId, Said>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = causes;
    }
}
