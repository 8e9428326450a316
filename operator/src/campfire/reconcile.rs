//! One Campfire: fetch, validate, plan, apply, status.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use campfire_api::Campfire;
use campfire_api::conditions::{ConditionType, Reason};
use k8s_openapi::jiff::Timestamp;

use super::admission::Verdicts;
use super::apply::{self, Settled};
use super::error::Error;
use super::keys::KeyWrite;
use super::missed::{Missed, Reasons};
use super::plan::{self, Plan, plan};
use super::refused::Refused;
use super::replacement::Replacement;
use super::unmeshed::Unmeshed;
use super::validate::{self, Valid, validate};
use super::{certificate, endpoints, fetch, keys, replacement, rollout, status};
use crate::conditions::Said;
use crate::context::Context;
use crate::events::{self, Happened};
use crate::state::ObjectKey;

/// How soon it is tried again what the API server refused.
const REFUSED: Duration = Duration::from_mins(1);
/// How soon it is looked again for what is on its way: a certificate, a pod that is tried.
const SOON: Duration = Duration::from_secs(10);
/// How long an operator that has just begun to lead believes what the one before it counted.
const SETTLING: Duration = Duration::from_mins(1);
/// Plans of one reconcile: one for the key that is made, one for its owner, one for a step of its rotation, one for the children, and one
/// that finds nothing more to do.
const ROUNDS: usize = 6;

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// All is as it should be; look again after this time.
    Done(Duration),
    /// The spec, or a Secret, must change first; or the API server's mind, for which it is looked again after this time.
    Invalid(Option<Duration>),
    /// All but the servers is as it should be. What they wait for is not the spec alone, and nobody tells when it has changed: it is looked for ever
    /// more seldom.
    Held,
    /// The Campfire is gone.
    Gone,
}

/// What the reconciler remembers between two looks.
#[derive(Debug, Default)]
pub struct Remembered {
    /// See [`Settled`].
    pub settled: Settled,
    /// See [`Missed`].
    pub missed: Missed,
    /// See [`Unmeshed`].
    pub unmeshed: Unmeshed,
    /// See [`Refused`].
    pub refused: Refused,
    /// See [`Verdicts`].
    pub verdicts: Verdicts,
    /// Since when.
    began: Began,
    /// Whether the API server reaches the webhook, as far as is known.
    reached: Mutex<Option<Said>>,
}

/// When something began: with its value.
#[derive(Debug)]
struct Began(Instant);

impl Default for Began {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Remembered {
    /// Whether so short a time that not all who are there have been seen.
    pub fn is_new(&self) -> bool {
        self.began.0.elapsed() < SETTLING
    }

    /// Whether the API server reaches the webhook.
    pub fn reached(&self) -> Option<Said> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was found of that; returns the Campfires that are to say so. What is not known now stays as it was.
    pub fn asked(&self, ctx: &Context, found: Option<Said>) -> Vec<ObjectKey> {
        let mut held = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_none() || *held == found {
            return Vec::new();
        }
        *held = found;
        ctx.cluster.campfires.state().iter().map(|campfire| ObjectKey::of(&**campfire)).collect()
    }

    /// How many pods of a Campfire are without the mesh, by why: those without a sidecar, and those whose sidecar has none.
    pub fn without(&self, campfire: &ObjectKey) -> Reasons {
        let mut reasons = self.missed.of(campfire);
        self.refused.add(campfire, &mut reasons);
        for (reason, pods) in self.unmeshed.of(campfire) {
            let sum = reasons.entry(reason).or_default();
            *sum = sum.saturating_add(pods);
        }
        reasons
    }
}

/// Brings one Campfire to what it should be.
pub async fn reconcile(ctx: &Context, remembered: &Remembered, key: &ObjectKey) -> Result<Reconciled, Error> {
    let Some(campfire) = fetch::campfire(ctx, key).await? else {
        forget(ctx, remembered, key);
        return Ok(Reconciled::Gone);
    };
    let why = match validate(&campfire, &ctx.settings) {
        Ok(valid) => match make(ctx, remembered, &campfire, &valid).await {
            Ok(done) => return Ok(done),
            Err(error) => {
                let Some(why) = error.refusal() else { return Err(error) };
                tracing::warn!(campfire = %key, %error, "the API server refuses what a Campfire needs");
                why
            }
        },
        Err(why) => why,
    };
    refuse(ctx, remembered, &campfire, why).await
}

/// Of a Campfire whose spec is understood.
async fn make(ctx: &Context, remembered: &Remembered, campfire: &Campfire, valid: &Valid) -> Result<Reconciled, Error> {
    let (namespace, settled) = (&valid.key.namespace, &remembered.settled);
    let mut found = fetch::all(ctx, remembered, campfire, valid).await?;
    let waits = certificate::look(ctx, valid, &found.children).await?;
    let valid = waits.as_ref().and_then(|waits| waits.meanwhile.as_deref()).unwrap_or(valid);
    if let Some(certificate::Waits { said, meanwhile: None }) = &waits {
        found.held = Some(said.clone());
    } else {
        // A pod is large, and is not tried often.
        let replaced = Box::pin(replacement::tried(ctx, settled, valid, &mut found)).await?;
        found.trial = rollout::trial(valid, &found, &replaced, Timestamp::now());
        found.certificate = waits.as_ref().map(|waits| waits.said.clone());
        if let Replacement::Refused(why) = replaced {
            found.held = Some(why);
        }
    }
    for _ in 0..ROUNDS {
        let wanted = match plan(valid, &found, &ctx.settings) {
            Ok(Plan::All(wanted)) => wanted,
            Ok(Plan::Key(write)) => {
                let put_back = matches!(write, KeyWrite::PutBack(_));
                apply::key(ctx, valid, write, &mut found).await?;
                if put_back {
                    let note = format!("Secret {}, which held the key, was gone: it is put back as members have it", valid.source.secret());
                    events::say(&ctx.cluster, campfire, Happened::KeyPutBack, &note).await;
                }
                continue;
            }
            Err(why) => {
                let next = status::with_pods(found.before, &found.without, found.outdated);
                status::write(ctx, campfire, next, vec![(ConditionType::Accepted, valid.accepted()), (ConditionType::KeyReady, why)])
                    .await?;
                return Ok(Reconciled::Invalid(None));
            }
        };
        if apply::children(ctx, settled, namespace, &wanted.children, wanted.stays, &mut found.children).await? {
            // Services have their addresses only now.
            continue;
        }
        ctx.memberships.publish(&valid.key, wanted.membership);
        if let Some(join) = &wanted.join {
            apply::join(ctx, settled, namespace, join, found.join.as_ref()).await?;
        }
        if let Some(note) = &wanted.key_changed {
            events::say(&ctx.cluster, campfire, Happened::KeyChanged, note).await;
        }
        let accepted = wanted.said.iter().find(|(kind, _)| *kind == ConditionType::Accepted).map(|(_, said)| said.reason);
        let trying = found.trial.is_some();
        status::write(ctx, campfire, wanted.status, wanted.said).await?;
        return Ok(match accepted {
            // That the one that is tried is ready the StatefulSet tells.
            Some(Reason::PodsRefused | Reason::NewServerNotReady) => Reconciled::Held,
            Some(Reason::TlsSecretMissing) => Reconciled::Invalid(Some(SOON)),
            // What is wrong with it nobody tells.
            _ if trying => Reconciled::Done(SOON),
            _ => Reconciled::Done(wanted.again),
        });
    }
    Err(Error::Unsettled)
}

/// Of a Campfire that cannot be made as it is: it is said why. What runs goes on with what it has, as a typing error must not part the peers.
async fn refuse(ctx: &Context, remembered: &Remembered, campfire: &Campfire, why: Said) -> Result<Reconciled, Error> {
    let again = matches!(why.reason, Reason::Forbidden | Reason::Refused).then_some(REFUSED);
    let key = ObjectKey::of(campfire);
    let outdated = fetch::outdated(ctx, campfire, &key);
    let next = status::with_pods(campfire.status.clone().unwrap_or_default(), &remembered.without(&key), outdated);
    status::write(ctx, campfire, next, vec![(ConditionType::Accepted, why)]).await?;
    match keep(ctx, remembered, campfire).await {
        Ok(()) => Ok(Reconciled::Invalid(again)),
        Err(error) => {
            tracing::debug!(campfire = %key, %error, "what members are told could not be found out; tried again");
            Ok(Reconciled::Invalid(Some(REFUSED)))
        }
    }
}

/// Tells members of an invalid Campfire what holds for those who are there, should nobody have told it since this operator leads.
async fn keep(ctx: &Context, remembered: &Remembered, campfire: &Campfire) -> Result<(), Error> {
    let Some(valid) = validate::known(campfire, &ctx.settings) else { return Ok(()) };
    let was_told = campfire.status.as_ref().is_some_and(|status| status.key_fingerprint.is_some());
    if !was_told || ctx.memberships.get(&valid.key).is_some() {
        return Ok(());
    }
    let found = fetch::key(ctx, remembered, campfire, &valid).await?;
    if found.claimed_by.is_none()
        && let Ok(held) = keys::read(&valid, &found)
    {
        let own = endpoints::read(&found.before.endpoints);
        let version = found.before.server_list_version;
        ctx.memberships.publish(&valid.key, plan::membership(&valid, &held, own, &found, version));
    }
    Ok(())
}

fn forget(ctx: &Context, remembered: &Remembered, key: &ObjectKey) {
    ctx.memberships.withdraw(key);
    ctx.sightings.withdraw(key);
    ctx.metrics.campfire(&key.namespace, &key.name, None);
    remembered.settled.forget(key);
}
