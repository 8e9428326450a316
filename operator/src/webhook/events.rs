//! Events about pods that got no sidecar, on what controls them: a pod made by a template has no name yet when it is admitted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use campfire_api::conditions::SkipReason;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Semaphore;

use super::given::controller;
use crate::bounds::{Bucket, Recent};
use crate::context::Context;
use crate::events::{Happened, say_of};

/// The same about the same owner is said once in this time.
const QUIET: Duration = Duration::from_mins(10);
/// Owners that are remembered.
const OWNERS: usize = 1_000;
/// Events a second, and at once.
const RATE: f64 = 2.0;
const BURST: f64 = 20.0;

/// Says why pods got no sidecar.
pub struct Events {
    ctx: Arc<Context>,
    said: Mutex<Said>,
    writing: Arc<Semaphore>,
}

struct Said {
    owners: Recent<(String, SkipReason), Instant>,
    bucket: Bucket,
}

impl Events {
    /// Nothing said yet.
    pub fn new(ctx: Arc<Context>) -> Self {
        let said = Said { owners: Recent::new(OWNERS), bucket: Bucket::new(BURST, Instant::now()) };
        Self { ctx, said: Mutex::new(said), writing: Arc::new(Semaphore::new(8)) }
    }

    /// Says it, unless it was said lately or there is too much to say. Does not wait for it.
    pub fn skipped(&self, namespace: &str, pod: &Pod, reason: SkipReason, message: &str) {
        // Whoever makes a single pod reads the warning.
        let Some(owner) = controller(namespace, pod) else { return };
        let now = Instant::now();
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (owner.uid.clone().unwrap_or_default(), reason);
            if said.owners.get(&key).is_some_and(|at| now.duration_since(*at) < QUIET) || said.bucket.take(now, RATE, BURST).is_err() {
                return;
            }
            said.owners.insert(key, now);
        }
        let Ok(permit) = self.writing.clone().try_acquire_owned() else { return };
        let (ctx, message) = (self.ctx.clone(), message.to_owned());
        tokio::spawn(async move {
            let _permit = permit;
            say_of(&ctx.cluster, &owner, Happened::Skipped(reason), &message).await;
        });
    }
}
