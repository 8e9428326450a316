//! Leader election by a Lease (coordination.k8s.io/v1), as other controllers do it.
//!
//! Who holds the Lease renews it every [`RENEW`]. Who does not hold it looks every [`LOOK`], and takes it when it is released or
//! has not changed for [`DURATION`] of the looker's own clock (clocks of different machines are never compared). A leader that could not renew
//! for [`DEADLINE`] stops leading, so that it has stopped before anybody takes the Lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use campfire_api::names;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;

use super::Mandate;
use crate::context::Context;

/// How long a Lease holds without being renewed.
pub const DURATION: Duration = Duration::from_secs(10);
/// A leader that could not renew for so long stops.
pub const DEADLINE: Duration = Duration::from_secs(7);
/// Time between renewals.
pub const RENEW: Duration = Duration::from_secs(3);
/// Time between looks of who does not lead: what a released Lease waits for at most.
pub const LOOK: Duration = Duration::from_secs(1);
/// Longest wait for an answer of the API.
const ANSWER: Duration = Duration::from_secs(2);

/// What was seen of the Lease, and when it last changed.
#[derive(Debug, Default)]
struct Seen {
    version: Option<String>,
    since: Option<Instant>,
}

impl Seen {
    /// Whether the holder may be taken for gone.
    fn stale(&mut self, lease: &Lease, now: Instant) -> bool {
        if self.version != lease.metadata.resource_version || self.since.is_none() {
            self.version.clone_from(&lease.metadata.resource_version);
            self.since = Some(now);
        }
        // What the holder promised, within bounds: a Lease that somebody wrote by hand must not stop us for ever.
        let promised = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        let promised = promised.map_or(DURATION, Duration::from_secs).clamp(Duration::from_secs(1), Duration::from_mins(1));
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= promised)
    }
}

/// Takes part in the election until the operator ends; then releases the Lease.
pub async fn run(ctx: Arc<Context>, mandate: Mandate) {
    let api: Api<Lease> = Api::namespaced(ctx.cluster.client.clone(), &ctx.settings.namespace);
    let me = ctx.settings.pod_name.clone();
    let mut seen = Seen::default();
    let mut renewed: Option<Instant> = None;
    let mut complained = false;
    loop {
        let begun = Instant::now();
        match tokio::time::timeout(ANSWER, attempt(&api, &me, &mut seen)).await {
            Ok(Ok(true)) => {
                // Counted from before the request: whatever it took, the Lease was written after that.
                renewed = Some(begun);
                complained = false;
                if mandate.lead_until(begun + DEADLINE) {
                    ctx.metrics.leads(true);
                    tracing::info!(holder = %me, "leads");
                }
            }
            Ok(Ok(false)) => {
                complained = false;
                if renewed.take().is_some() {
                    resign(&ctx, &mandate, "somebody else holds the Lease");
                }
            }
            Ok(Err(error)) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%error, "the Lease could not be read or written; tried again");
                }
            }
            Err(_) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!("the API did not answer about the Lease within 2 s; asked again");
                }
            }
        }
        if renewed.is_some_and(|renewed| renewed.elapsed() + LOOK >= DEADLINE) {
            renewed = None;
            resign(&ctx, &mandate, "the Lease could not be renewed in time");
        }
        // After a renewal that failed the next try comes soon.
        let pause = if renewed.is_some() && !complained { RENEW } else { LOOK };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = ctx.shutdown.told() => break,
        }
    }
    if renewed.is_some() {
        resign(&ctx, &mandate, "the operator ends");
        release(&api, &me).await;
    }
}

fn resign(ctx: &Context, mandate: &Mandate, why: &str) {
    mandate.resign();
    ctx.metrics.leads(false);
    tracing::info!(%why, "leads no more");
}

/// Takes or renews the Lease if it may. `true`: we hold it.
async fn attempt(api: &Api<Lease>, me: &str, seen: &mut Seen) -> kube::Result<bool> {
    let now = MicroTime(Timestamp::now());
    let Some(mut lease) = api.get_opt(names::LEASE).await? else {
        let spec = LeaseSpec {
            holder_identity: Some(me.into()),
            lease_duration_seconds: Some(seconds(DURATION)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta { name: Some(names::LEASE.into()), ..ObjectMeta::default() };
        return won(api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await);
    };
    let stale = seen.stale(&lease, Instant::now());
    let spec = lease.spec.get_or_insert_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder != me {
        if !holder.is_empty() && !stale {
            return Ok(false);
        }
        spec.holder_identity = Some(me.into());
        spec.acquire_time = Some(now.clone());
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
    }
    spec.lease_duration_seconds = Some(seconds(DURATION));
    spec.renew_time = Some(now);
    // Carries the version that was read: of two that try, one wins.
    won(api.replace(names::LEASE, &PostParams::default(), &lease).await)
}

/// A conflict says that somebody else was faster.
fn won(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says that nobody holds it, so that the next need not wait.
async fn release(api: &Api<Lease>, me: &str) {
    let release = async {
        let Some(mut lease) = api.get_opt(names::LEASE).await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(me) {
            return Ok(());
        }
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        api.replace(names::LEASE, &PostParams::default(), &lease).await.map(drop)
    };
    match tokio::time::timeout(ANSWER, release).await {
        Ok(Ok(())) => tracing::info!("the Lease is released"),
        Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be released: the next leader waits until it has run out"),
        Err(_) => tracing::warn!("the Lease could not be released within 2 s: the next leader waits until it has run out"),
    }
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(version: &str, seconds: i32) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec { lease_duration_seconds: Some(seconds), ..LeaseSpec::default() }),
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_has_not_changed_for_as_long_as_it_promises() {
        let mut seen = Seen::default();
        let start = Instant::now();
        assert!(!seen.stale(&lease("1", 10), start));
        assert!(!seen.stale(&lease("1", 10), start + Duration::from_secs(9)));
        assert!(!seen.stale(&lease("2", 10), start + Duration::from_secs(11)), "it was renewed");
        assert!(!seen.stale(&lease("2", 10), start + Duration::from_secs(20)));
        assert!(seen.stale(&lease("2", 10), start + Duration::from_secs(21)));
    }

    #[test]
    fn a_lease_that_promises_nonsense_does_not_stop_the_election() {
        let mut seen = Seen::default();
        let start = Instant::now();
        assert!(!seen.stale(&lease("1", i32::MAX), start));
        assert!(seen.stale(&lease("1", i32::MAX), start + Duration::from_secs(61)));
        assert!(!Seen::default().stale(&lease("1", -1), start));
    }

    #[test]
    fn a_leader_stops_before_anybody_may_take_the_lease() {
        assert!(DEADLINE + ANSWER < DURATION);
        assert!(RENEW + ANSWER < DEADLINE);
    }
}
