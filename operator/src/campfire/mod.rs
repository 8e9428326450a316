//! The Campfire reconciler: fetch, validate, plan, apply, status.
//!
//! | step | module | what it does | sees |
//! | --- | --- | --- | --- |
//! | 1 | `fetch` | what there is: [`Found`](fetch::Found) | the client, caches, what others told |
//! | 2 | `validate` | what is asked for: [`Valid`](validate::Valid) | the Campfire |
//! | 3 | `plan` | what there should be: [`Wanted`](plan::Wanted) | both of these values |
//! | 4 | `apply` | brings it to that, without needless writes | the client |
//! | 5 | `status` | says what was found and done | the client |
//!
//! `reconcile` is these five in a row. A plan is made of `keys` (what the Secret holds), `rotation` (how one key follows another),
//! `children` (what a Campfire consists of), `endpoints` (where its servers are reached) and `peers` (who is there): all pure. Where what was
//! applied tells more (a key that was made, a Service's address), it is planned again. `watch` says what makes a Campfire be looked at again,
//! `queue` when; `missed` looks for pods that got no sidecar, `unmeshed` for those whose sidecar has no mesh, `refused` for those that are refused with one,
//! `admission` tries whether pods with one are admitted, `replacement` whether the servers' are before a change of theirs is made, `rollout` on one more
//! whether they become ready (and `room`, where it finds no place, whether each would in the place of another), and `canary` whether the API server reaches the webhook. `certificate` lets TLS alone wait for its Secret.
//!
//! A child that a person edits is put back; what others add to it (labels, annotations, containers) is left alone. Nothing is written when nothing
//! changed. An invalid spec is a condition, and waited on: what runs goes on meanwhile. What may pass is tried again with backoff.

mod admission;
mod apply;
pub mod canary;
mod certificate;
mod children;
mod endpoints;
mod error;
mod fetch;
#[cfg(test)]
mod golden_tests;
pub mod keys;
mod missed;
mod peers;
mod plan;
#[cfg(test)]
mod plan_tests;
mod queue;
mod reconcile;
mod refused;
mod replacement;
mod rollout;
mod room;
mod rotation;
mod status;
#[cfg(test)]
mod tests;
mod unmeshed;
pub mod validate;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::error::Error;
use self::queue::DueCampfires;
use self::reconcile::{Reconciled, Remembered, reconcile};
use self::watch::Followed;
use crate::context::Context;
use crate::events::{self, Happened};
use crate::state::ObjectKey;

/// Changes within this time are looked at together: those of all children of a Campfire that was just made, say.
const SETTLE: Duration = Duration::from_millis(100);
/// Time between looks at who is at the fires.
const PEERS: Duration = Duration::from_secs(5);
/// Failures in a row after which an event tells of them: about ten seconds.
const FAILURES_SAID: u32 = 4;
/// The controller's name in metrics.
const CONTROLLER: &str = "campfire";

/// Reconciles all Campfires while this operator leads. Ends when it is dropped.
pub async fn run(ctx: Arc<Context>) {
    let remembered = Arc::new(Remembered::default());
    let (touched, mut touches) = mpsc::channel::<ObjectKey>(4_096);
    let _watches = watch::start(&ctx, &touched);
    let _looks = look_for_missed(&ctx, &remembered, &touched);
    let mut changes = ctx.cluster.changes.campfires.subscribe();
    let mut controller = Controller::new(ctx.clone(), remembered);
    let mut peers = tokio::time::interval(PEERS);
    peers.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        controller.start();
        let next = controller.queue.next();
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.recv() => match changed {
                Ok(key) => controller.queue.put(key, Duration::ZERO),
                Err(RecvError::Lagged(_)) => controller.put_all(SETTLE),
                Err(RecvError::Closed) => return,
            },
            Some(key) = touches.recv() => controller.queue.put(key, SETTLE),
            Some(done) = controller.tasks.join_next() => if let Ok((key, result)) = done { controller.ended(key, &result) },
            _ = peers.tick() => controller.look_at_fires(),
            () = wait => {}
        }
    }
}

/// Which Campfires are looked at, and which wait for it.
struct Controller {
    ctx: Arc<Context>,
    remembered: Arc<Remembered>,
    queue: DueCampfires,
    tasks: JoinSet<(ObjectKey, Result<Reconciled, Error>)>,
    followed: HashMap<ObjectKey, Followed>,
}

impl Controller {
    /// All are looked at first.
    fn new(ctx: Arc<Context>, remembered: Arc<Remembered>) -> Self {
        let mut controller = Self { ctx, remembered, queue: DueCampfires::default(), tasks: JoinSet::new(), followed: HashMap::new() };
        controller.put_all(Duration::ZERO);
        controller
    }

    fn put_all(&mut self, after: Duration) {
        for campfire in self.ctx.cluster.campfires.state() {
            self.queue.put(ObjectKey::of(&*campfire), after);
        }
    }

    /// Begins with those that are due.
    fn start(&mut self) {
        while let Some((key, failures)) = self.queue.take(Instant::now()) {
            let (ctx, remembered) = (self.ctx.clone(), self.remembered.clone());
            self.tasks.spawn(async move {
                let begun = Instant::now();
                let result = reconcile(&ctx, &remembered, &key).await;
                let shown = match &result {
                    Ok(Reconciled::Invalid(_) | Reconciled::Held) => "invalid",
                    Ok(Reconciled::Done(_) | Reconciled::Gone) => "ok",
                    Err(error) => {
                        say_failure(&ctx, &key, error, failures + 1).await;
                        "error"
                    }
                };
                ctx.metrics.reconciled(CONTROLLER, shown, begun.elapsed());
                (key, result)
            });
        }
        self.ctx.metrics.queued(CONTROLLER, self.queue.waiting());
    }

    fn ended(&mut self, key: ObjectKey, result: &Result<Reconciled, Error>) {
        match result {
            Ok(Reconciled::Gone) => {
                // Who claimed the same Secret may have it now.
                for other in self.ctx.cluster.campfires.state() {
                    let other = ObjectKey::of(&*other);
                    if other.namespace == key.namespace {
                        self.queue.put(other, SETTLE);
                    }
                }
                self.queue.done(key, None);
            }
            Ok(Reconciled::Done(again)) => self.queue.done(key, Some(*again)),
            Ok(Reconciled::Invalid(again)) => self.queue.done(key, *again),
            Ok(Reconciled::Held) | Err(_) => self.queue.failed(key),
        }
    }

    /// Those whose fire has changed are looked at again.
    fn look_at_fires(&mut self) {
        let now = watch::followed(&self.ctx);
        for key in now.iter().filter(|(key, now)| self.followed.get(*key) != Some(*now)).map(|(key, _)| key) {
            self.queue.put(key.clone(), SETTLE);
        }
        self.followed = now;
    }
}

async fn say_failure(ctx: &Context, key: &ObjectKey, error: &Error, failures: u32) {
    tracing::warn!(campfire = %key, %error, "could not be reconciled; tried again");
    // What passes by itself is no event, and what stays is one.
    if failures == FAILURES_SAID
        && let Some(campfire) = ctx.cluster.campfires.get(key)
    {
        let note = format!("{error}; tried again, ever more seldom");
        events::say(&ctx.cluster, campfire.as_ref(), Happened::ReconcileFailed, &note).await;
    }
}

/// Looks for pods that got no sidecar, for as long as what is returned lives.
fn look_for_missed(ctx: &Arc<Context>, remembered: &Arc<Remembered>, touched: &mpsc::Sender<ObjectKey>) -> JoinSet<()> {
    let (ctx, remembered, touched) = (ctx.clone(), remembered.clone(), touched.clone());
    let mut looks = JoinSet::new();
    looks.spawn(async move {
        loop {
            for key in remembered.asked(&ctx, canary::look(&ctx).await) {
                let _ = touched.send(key).await;
            }
            match remembered.missed.look(&ctx).await {
                Ok(changed) => {
                    for key in changed {
                        let _ = touched.send(key).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "pods without sidecar could not be looked for; tried again"),
            }
            for key in remembered.refused.look(&ctx).await {
                let _ = touched.send(key).await;
            }
            for key in remembered.unmeshed.look(&ctx).await {
                let _ = touched.send(key).await;
            }
            tokio::time::sleep(missed::EVERY).await;
        }
    });
    looks
}
