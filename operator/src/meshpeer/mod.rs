//! MeshPeers: one for each pod with a sidecar, for each peer of another cluster (at most 200 of a Campfire), and what people
//! declare. Only transitions are written, debounced, within a budget of 20 writes a second.
//!
//! | module | |
//! | --- | --- |
//! | `fetch` | what is known of whoever a MeshPeer stands for, from the caches alone |
//! | `plan` | what the object needs then: pure |
//! | [`status`] | what its status says: pure |
//! | `apply` | writes it; `external`: the join secrets of External peers |
//! | `queue` | what waits to be written, debounce and budget |
//! | `remote` | which of those at a fire are none of ours |
//!
//! There is no task for each object: a change brings a key, the key is examined in memory, and what it needs is queued; it
//! is examined again when its turn has come. What is already so is never written.

mod apply;
mod external;
mod fetch;
mod plan;
mod queue;
mod remote;
pub mod status;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use campfire_api::{Campfire, MeshPeer, PathName, PeerType};
use campfire_protocol::identity::PublicKey;
use kube::ResourceExt as _;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tracing::warn;

use self::apply::{Done, write};
use self::external::Joined;
use self::fetch::{campfire_of, declared_key, pod_seen};
use self::plan::owned_by;
use self::queue::WriteQueue;
use self::remote::{Kin, Remotes};
use self::status::STALE;
use crate::context::Context;
use crate::state::{ObjectKey, PodId, Sighting, View, WireguardKey};

/// How long the cache may take to show what was written.
const ACT: Duration = Duration::from_secs(10);
/// How often everything is looked at, whatever was said of changes.
const SWEEP: Duration = Duration::from_secs(30);
/// How soon everything is looked at after a Campfire or namespace changed.
const SOON: Duration = Duration::from_secs(1);
/// How often the fires are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Writes at the same time.
const WRITES: usize = 8;
/// How long a write that failed waits.
const RETRY: Duration = Duration::from_secs(5);

/// What was written last, until the cache shows it.
#[derive(Debug)]
struct Sent {
    /// `None`: deleted.
    version: Option<String>,
    at: Instant,
}

impl Sent {
    fn settled(&self, peer: Option<&MeshPeer>) -> bool {
        self.version.as_ref() == peer.and_then(|peer| peer.metadata.resource_version.as_ref())
    }
}

/// Who at a fire is known to be of here.
#[derive(Default)]
struct Ours {
    /// Identities, as pods' sidecars reported them.
    reported: HashSet<PublicKey>,
    /// Public keys of what people declared.
    declared: HashSet<WireguardKey>,
}

struct Reconciler {
    ctx: Arc<Context>,
    began: Instant,
    queue: WriteQueue,
    remotes: Remotes,
    external: HashMap<ObjectKey, Joined>,
    sent: HashMap<ObjectKey, Sent>,
    views: HashMap<ObjectKey, Arc<View>>,
    writes: JoinSet<(ObjectKey, Done)>,
    writing: HashSet<ObjectKey>,
    complained: bool,
    sweep_at: Instant,
}

/// Keeps MeshPeers. Runs while this operator leads. `reports`: pods whose report changed.
pub async fn run(ctx: Arc<Context>, mut reports: mpsc::Receiver<PodId>) {
    let (mut pods, mut peers) = (ctx.cluster.changes.pods.subscribe(), ctx.cluster.changes.peers.subscribe());
    let (mut campfires, mut namespaces) = (ctx.cluster.changes.campfires.subscribe(), ctx.cluster.changes.namespaces.subscribe());
    let now = Instant::now();
    let remotes = Remotes::new(ctx.settings.remote_peers_linger);
    let mut reconciler = Reconciler {
        ctx,
        began: now,
        queue: WriteQueue::new(now),
        remotes,
        external: HashMap::new(),
        sent: HashMap::new(),
        views: HashMap::new(),
        writes: JoinSet::new(),
        writing: HashSet::new(),
        complained: false,
        sweep_at: now,
    };
    reconciler.adopt(now);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let now = Instant::now();
        reconciler.start_writes(now);
        let wake = reconciler.next_wake(now);
        tokio::select! {
            Some(ended) = reconciler.writes.join_next() => {
                if let Ok((key, done)) = ended {
                    reconciler.ended(&key, done);
                }
            }
            changed = peers.recv() => {
                if let Ok(key) = &changed {
                    reconciler.declared(key);
                }
                reconciler.changed(changed);
            }
            changed = pods.recv() => reconciler.changed(changed),
            Some(pod) = reports.recv() => reconciler.hint(&pod.key, Instant::now()),
            _ = campfires.recv() => reconciler.sweep_soon(),
            _ = namespaces.recv() => reconciler.sweep_soon(),
            _ = look.tick() => reconciler.look(Instant::now()),
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
}

impl Reconciler {
    /// Objects of peers of other clusters that an earlier leader made.
    fn adopt(&mut self, now: Instant) {
        for peer in self.ctx.cluster.peers.state() {
            if peer.spec.kind == PeerType::Remote && owned_by::<Campfire>(&peer) {
                self.remotes.adopt(ObjectKey::of(&*peer), campfire_of(&peer), now);
            }
        }
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let due = self.queue.next_wake(now).filter(|_| self.writes.len() < WRITES);
        // A token's time is rounded: not before a millisecond, lest this spins.
        due.map_or(self.sweep_at, |due| due.max(now + Duration::from_millis(1)).min(self.sweep_at))
    }

    fn changed(&mut self, changed: Result<ObjectKey, broadcast::error::RecvError>) {
        match changed {
            Ok(key) => self.hint(&key, Instant::now()),
            Err(_) => self.sweep_soon(),
        }
    }

    /// Whoever is declared is no Remote: its fire is looked at again.
    fn declared(&mut self, key: &ObjectKey) {
        if let Some(peer) = self.ctx.cluster.peers.get(key).filter(|peer| declared_key(peer).is_some()) {
            self.views.remove(&campfire_of(&peer));
        }
    }

    fn sweep_soon(&mut self) {
        self.sweep_at = self.sweep_at.min(Instant::now() + SOON);
    }

    /// Whether the cache does not show yet what was written.
    fn unsettled(&self, key: &ObjectKey, peer: Option<&MeshPeer>, now: Instant) -> bool {
        self.sent.get(key).is_some_and(|sent| !sent.settled(peer) && sent.at + ACT > now)
    }

    /// Something may have changed for this MeshPeer.
    fn hint(&mut self, key: &ObjectKey, now: Instant) {
        if self.writing.contains(key) {
            // It is examined again when the write has ended.
            return;
        }
        match self.examine(key, now) {
            Some(action) => self.queue.push(key, now + action.delay()),
            None => self.queue.cancel(key),
        }
    }

    /// Begins the writes whose turn has come.
    fn start_writes(&mut self, now: Instant) {
        if self.sweep_at <= now {
            self.sweep(now);
        }
        while self.writes.len() < WRITES {
            let Some(key) = self.queue.pop(now) else { break };
            let Some(action) = self.examine(&key, now) else { continue };
            self.queue.spend();
            self.writing.insert(key.clone());
            let ctx = self.ctx.clone();
            self.writes.spawn(async move {
                let done = write(&ctx, &key, action).await;
                (key, done)
            });
        }
        self.ctx.metrics.queued("meshpeer", self.queue.waiting());
    }

    fn ended(&mut self, key: &ObjectKey, done: Done) {
        let now = Instant::now();
        self.writing.remove(key);
        match done {
            Done::Written(sent) => {
                self.complained = false;
                self.sent.insert(key.clone(), sent);
            }
            Done::Joined(joined) => {
                self.external.insert(key.clone(), joined);
            }
            Done::Overtaken => {}
            Done::Failed(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    warn!(peer = %key, error, "a MeshPeer could not be written; tried again");
                }
                self.queue.push(key, now + RETRY);
                return;
            }
        }
        self.hint(key, now);
    }

    /// Looks at everything.
    fn sweep(&mut self, now: Instant) {
        self.sweep_at = now + SWEEP;
        let mut keys: HashSet<ObjectKey> = HashSet::new();
        let mut paths: HashMap<(ObjectKey, &'static str), i64> = HashMap::new();
        self.ctx.cluster.pods.for_each(|key, _| {
            keys.insert(key.clone());
        });
        self.ctx.cluster.peers.for_each(|key, peer| {
            let path = match peer.status.as_ref().and_then(|status| status.path) {
                Some(PathName::Direct) => "direct",
                Some(PathName::Relay) => "relay",
                Some(PathName::Mixed) => "mixed",
                Some(PathName::None) => "none",
                None => "unknown",
            };
            *paths.entry((campfire_of(peer), path)).or_default() += 1;
            if !keys.contains(key) {
                keys.insert(key.clone());
            }
        });
        self.ctx.metrics.peers(paths.into_iter().map(|((campfire, path), count)| (campfire.namespace, campfire.name, path, count)));
        self.sent.retain(|_, sent| sent.at + ACT > now);
        self.external.retain(|external, _| keys.contains(external));
        let showing: HashSet<ObjectKey> = self
            .ctx
            .cluster
            .campfires
            .state()
            .iter()
            .map(|campfire| ObjectKey::of(&**campfire))
            .filter(|campfire| self.shows_remotes(campfire))
            .collect();
        keys.extend(self.remotes.sweep(now, |campfire| showing.contains(campfire)));
        self.forget_reports(now);
        // Whoever says to be of this cluster is looked at again.
        self.views.clear();
        for key in keys {
            self.hint(&key, now);
        }
    }

    /// Reports of pods that are gone.
    fn forget_reports(&self, now: Instant) {
        let mut gone = Vec::new();
        self.ctx.reports.for_each(|pod, reported| {
            if reported.at + STALE <= now && self.ctx.cluster.pod(pod).is_none() {
                gone.push(pod.clone());
            }
        });
        for pod in gone {
            self.ctx.reports.forget(&pod);
        }
    }

    /// Looks at the fires whose view changed.
    fn look(&mut self, now: Instant) {
        let mut shown: HashMap<ObjectKey, (Arc<View>, Ours)> = HashMap::new();
        for campfire in self.ctx.cluster.campfires.state().iter().map(|campfire| ObjectKey::of(&**campfire)) {
            let view = self.ctx.sightings.get(&campfire);
            let same = self.views.get(&campfire).is_some_and(|held| Arc::ptr_eq(held, &view));
            if same || view.camped == 0 {
                continue;
            }
            self.views.insert(campfire.clone(), view.clone());
            if self.shows_remotes(&campfire) {
                shown.insert(campfire, (view, Ours::default()));
            } else {
                self.ctx.sightings.set_truncated(&campfire, false);
            }
        }
        if shown.is_empty() {
            return;
        }
        // Once for all of them: after a sweep that is every fire.
        self.ctx.reports.for_each(|_, reported| {
            if let Some((_, ours)) = shown.get_mut(&reported.campfire) {
                ours.reported.insert(reported.report.identity);
            }
        });
        for peer in self.ctx.cluster.peers.state() {
            // Who may not sit there hides nobody.
            let campfire = campfire_of(&peer);
            if let Some(declared) = declared_key(&peer)
                && let Some((_, ours)) = shown.get_mut(&campfire)
                && self.ctx.cluster.admit(&campfire, &peer.namespace().unwrap_or_default()).is_ok()
            {
                ours.declared.insert(declared);
            }
        }
        for (campfire, (view, ours)) in shown {
            for key in self.look_at(&campfire, &view, &ours, now) {
                self.hint(&key, now);
            }
        }
    }

    fn look_at(&mut self, campfire: &ObjectKey, view: &View, ours: &Ours, now: Instant) -> Vec<ObjectKey> {
        let own = self.cluster(campfire);
        let ctx = self.ctx.clone();
        let kin = |sighting: &Sighting| {
            if ours.reported.contains(&sighting.identity) || ours.declared.contains(&sighting.wireguard) {
                return Kin::Ours;
            }
            if sighting.cluster != own {
                return Kin::Foreign;
            }
            let named = ObjectKey::new(sighting.namespace.clone(), sighting.name.clone());
            let pod = ctx.cluster.pods.get(&named).and_then(|pod| pod_seen(&pod)).filter(|seen| seen.campfire == *campfire);
            // A pod that has reported has another identity: it is not this one. One that never does gives its name to nobody for long, unless it is
            // known by this key since an earlier operator led.
            let silent = pod.is_some_and(|seen| ctx.reports.get(&seen.pod).is_none());
            let known = || {
                let key = ctx.cluster.peers.get(&named).and_then(|peer| WireguardKey::read(peer.status.as_ref()?.public_key.as_ref()?));
                key == Some(sighting.wireguard)
            };
            if silent && known() { Kin::Ours } else { Kin::Claimed }
        };
        let (concerned, truncated) = self.remotes.look(campfire, view, now, kin);
        self.ctx.sightings.set_truncated(campfire, truncated);
        concerned
    }
}
