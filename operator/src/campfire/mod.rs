//! The Campfire reconciler: fetch, validate into newtypes, build children, apply, status.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`validate`] | what a Campfire asks for, checked |
//! | [`children`] | what it consists of in the cluster |
//! | [`apply`] | brings children to that, without needless writes |
//! | [`keys`] | keys from Secrets: read, made, rotated |
//! | [`endpoints`] | where the servers are reached |
//! | [`status`] | what status says |
//! | [`missed`] | pods that got no sidecar |
//! | [`reconcile`] | one Campfire, all steps |
//! | [`watch`] | what makes a Campfire be looked at again |
//!
//! A child that a person edits is put back; what others add to it (labels, annotations, containers) is left alone. Nothing is written when nothing
//! changed. An invalid spec is a condition, and waited on: what runs goes on meanwhile. What may pass is tried again with backoff.

pub mod apply;
pub mod children;
pub mod endpoints;
#[cfg(test)]
mod golden_tests;
pub mod keys;
pub mod missed;
pub mod reconcile;
pub mod status;
#[cfg(test)]
mod tests;
pub mod validate;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::apply::Error;
use self::reconcile::{Memory, Outcome, reconcile};
use crate::context::Context;
use crate::events::{self, Happened};
use crate::state::ObjectKey;

/// Campfires that are reconciled at the same time.
const CONCURRENT: usize = 4;
/// Changes within this time are looked at together: those of all children of a Campfire that was just made, say.
const SETTLE: Duration = Duration::from_millis(100);
/// Time between looks at who is at the fires.
const PEERS: Duration = Duration::from_secs(5);
/// Longest wait after an error.
const MAX_BACKOFF: Duration = Duration::from_mins(2);
/// Failures in a row after which an event tells of them: about ten seconds.
const FAILURES_SAID: u32 = 4;
/// The controller's name in metrics.
const CONTROLLER: &str = "campfire";

/// Campfires that wait to be looked at, and when.
#[derive(Debug, Default)]
struct Queue {
    due: HashMap<ObjectKey, Instant>,
    running: HashSet<ObjectKey>,
    failures: HashMap<ObjectKey, u32>,
}

impl Queue {
    /// Look at it within `after`.
    fn put(&mut self, key: ObjectKey, after: Duration) {
        let at = Instant::now() + after;
        self.due.entry(key).and_modify(|due| *due = at.min(*due)).or_insert(at);
    }

    /// One that is due and is not being looked at.
    fn take(&mut self, now: Instant) -> Option<ObjectKey> {
        if self.running.len() >= CONCURRENT {
            return None;
        }
        let next = self.due.iter().filter(|(key, at)| **at <= now && !self.running.contains(*key)).min_by_key(|(_, at)| **at)?;
        let key = next.0.clone();
        self.due.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// How often it failed since it last did not.
    fn failures(&self, key: &ObjectKey) -> u32 {
        self.failures.get(key).copied().unwrap_or(0)
    }

    /// When the next one is due.
    fn next(&self) -> Option<Instant> {
        if self.running.len() >= CONCURRENT {
            return None;
        }
        self.due.iter().filter(|(key, _)| !self.running.contains(*key)).map(|(_, at)| *at).min()
    }

    /// It was looked at.
    fn done(&mut self, key: ObjectKey, result: &Result<Outcome, Error>) {
        self.running.remove(&key);
        if let Ok(outcome) = result {
            self.failures.remove(&key);
            if let Outcome::Done(Some(again)) | Outcome::Invalid(Some(again)) = outcome {
                self.put(key, jittered(*again));
            }
        } else {
            let failures = self.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            let backoff = Duration::from_millis(500).saturating_mul(1 << (*failures).min(10)).min(MAX_BACKOFF);
            self.put(key, jittered(backoff));
        }
    }
}

/// Up to a quarter more, so that not all come at once.
fn jittered(time: Duration) -> Duration {
    let mut random = [0; 1];
    // Without random numbers there is no jitter.
    let _ = getrandom::fill(&mut random);
    time + time * u32::from(random[0]) / 1024
}

/// Reconciles all Campfires while this operator leads. Ends when it is dropped.
pub async fn run(ctx: Arc<Context>) {
    let memory = Arc::new(Memory::default());
    let (touched, mut touches) = mpsc::channel::<ObjectKey>(4_096);
    let _watches = watch::start(&ctx, &touched);
    let _looks = look_for_missed(&ctx, &memory, &touched);
    let mut changes = ctx.cluster.changes.campfires.subscribe();
    let mut queue = Queue::default();
    let mut followed = HashMap::new();
    for campfire in ctx.cluster.campfires.state() {
        queue.put(ObjectKey::of(campfire.as_ref()), Duration::ZERO);
    }
    let mut tasks: JoinSet<(ObjectKey, Result<Outcome, Error>)> = JoinSet::new();
    let mut peers = tokio::time::interval(PEERS);
    peers.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while let Some(key) = queue.take(Instant::now()) {
            let (ctx, memory, failures) = (ctx.clone(), memory.clone(), queue.failures(&key));
            tasks.spawn(async move {
                let begun = Instant::now();
                let result = reconcile(&ctx, &memory, &key).await;
                let shown = match &result {
                    Ok(Outcome::Invalid(_)) => "invalid",
                    Ok(_) => "ok",
                    Err(error) => {
                        tracing::warn!(campfire = %key, %error, "could not be reconciled; tried again");
                        // What passes by itself is no event, and what stays is one.
                        if failures + 1 == FAILURES_SAID
                            && let Some(campfire) = ctx.cluster.campfires.find(|campfire| ObjectKey::of(campfire) == key)
                        {
                            let note = format!("{error}; tried again, ever more seldom");
                            events::say(&ctx.cluster, campfire.as_ref(), Happened::ReconcileFailed, &note).await;
                        }
                        "error"
                    }
                };
                ctx.metrics.reconciled(CONTROLLER, shown, begun.elapsed());
                (key, result)
            });
        }
        ctx.metrics.queued(CONTROLLER, queue.due.len());
        let next = queue.next();
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.recv() => match changed {
                Ok(key) => queue.put(key, Duration::ZERO),
                Err(RecvError::Lagged(_)) => {
                    for campfire in ctx.cluster.campfires.state() {
                        queue.put(ObjectKey::of(campfire.as_ref()), SETTLE);
                    }
                }
                Err(RecvError::Closed) => return,
            },
            Some(key) = touches.recv() => queue.put(key, SETTLE),
            Some(done) = tasks.join_next() => {
                if let Ok((key, result)) = done {
                    if matches!(result, Ok(Outcome::Gone)) {
                        // Who claimed the same Secret may have it now.
                        for other in ctx.cluster.campfires.state() {
                            let other = ObjectKey::of(other.as_ref());
                            if other.namespace == key.namespace {
                                queue.put(other, SETTLE);
                            }
                        }
                    }
                    queue.done(key, &result);
                }
            }
            _ = peers.tick() => {
                let now = reconcile::followed(&ctx);
                for key in now.iter().filter(|(key, now)| followed.get(*key) != Some(*now)).map(|(key, _)| key) {
                    queue.put(key.clone(), SETTLE);
                }
                followed = now;
            }
            () = wait => {}
        }
    }
}

/// Looks for pods that got no sidecar, for as long as what is returned lives.
fn look_for_missed(ctx: &Arc<Context>, memory: &Arc<Memory>, touched: &mpsc::Sender<ObjectKey>) -> JoinSet<()> {
    let (ctx, memory, touched) = (ctx.clone(), memory.clone(), touched.clone());
    let mut looks = JoinSet::new();
    looks.spawn(async move {
        loop {
            match memory.missed.look(&ctx).await {
                Ok(changed) => {
                    for key in changed {
                        let _ = touched.send(key).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "pods without sidecar could not be looked for; tried again"),
            }
            tokio::time::sleep(missed::EVERY).await;
        }
    });
    looks
}
