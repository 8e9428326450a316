//! Says in the status what was found and done.

use campfire_api::conditions::{ConditionType, Reason};
use campfire_api::{Campfire, CampfireStatus, WithoutMesh};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;

use super::error::{Error, during};
use super::missed::{MISSED, Reasons};
use crate::conditions::{Said, Stated, merged, reason};
use crate::context::Context;
use crate::definitions::REMEDY;
use crate::events::{self, Happened};
use crate::state::ObjectKey;

/// Reasons in status, at most.
const MAX_REASONS: usize = 32;

/// Ready follows from the others: the first that is not True says why.
pub fn ready(said: &[Stated], status: &CampfireStatus) -> Said {
    let needed = [ConditionType::Accepted, ConditionType::KeyReady, ConditionType::TurnAvailable];
    let lacking = said.iter().find(|(kind, said)| needed.contains(kind) && !said.is_true());
    let all = || Said::of(Reason::Ready, format!("{} peers at the fire{}", status.peers.unwrap_or(0), without(status)));
    lacking.map_or_else(all, |(_, lacking)| lacking.clone())
}

/// Pods that want for something, with what to do, after the number of peers.
fn without(status: &CampfireStatus) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let count = |pods: i32| if pods == 1 { "1 pod".to_owned() } else { format!("{pods} pods") };
    let pods = status.pods_without_mesh.unwrap_or(0);
    if pods > 0 {
        let reasons: Vec<String> = status.without_mesh.iter().map(|why| format!("{} {}", why.pods, why.reason)).collect();
        let _ = write!(text, "; {} without the mesh: {} (kubectl describe pod says more)", count(pods), reasons.join(", "));
    }
    let outdated = status.outdated_pods.unwrap_or(0);
    if outdated > 0 {
        let _ = write!(text, "; {} with older settings: make them anew (kubectl rollout restart)", count(outdated));
    }
    text
}

/// Puts the pods that are without the mesh into a status.
pub fn with_pods(status: CampfireStatus, without: &Reasons, outdated: usize) -> CampfireStatus {
    let mut reasons: Vec<WithoutMesh> =
        without.iter().map(|(reason, pods)| WithoutMesh { reason: (*reason).to_owned(), pods: *pods }).collect();
    reasons.truncate(MAX_REASONS);
    CampfireStatus {
        missed_pods: Some(without.get(MISSED).copied().unwrap_or(0)),
        pods_without_mesh: Some(without.values().fold(0, |sum: i32, pods| sum.saturating_add(*pods))),
        without_mesh: reasons,
        outdated_pods: Some(i32::try_from(outdated).unwrap_or(i32::MAX)),
        ..status
    }
}

/// Writes the status if it says something new, and tells by an event when Ready turned.
pub async fn write(ctx: &Context, campfire: &Campfire, mut next: CampfireStatus, mut said: Vec<Stated>) -> Result<(), Error> {
    let before = campfire.status.clone().unwrap_or_default();
    let generation = campfire.metadata.generation;
    let ready = ready(&said, &next);
    said.push((ConditionType::Ready, ready.clone()));
    next.conditions = merged(&before.conditions, said.iter().cloned(), generation, Timestamp::now());
    next.observed_generation = generation;
    let ObjectKey { namespace, name } = ObjectKey::of(campfire);
    ctx.metrics.campfire(&namespace, &name, Some((ready.is_true(), next.missed_pods.unwrap_or(0))));
    if campfire.status.as_ref() == Some(&next) {
        return Ok(());
    }
    if !ctx.leadership.may_write() {
        return Err(Error::Fenced);
    }
    // A status alone, of the object of this uid: not a whole Campfire.
    let object = json!({
        "apiVersion": Campfire::api_version(&()), "kind": Campfire::kind(&()),
        "metadata": { "name": name, "uid": campfire.uid() },
        "status": next,
    });
    let api: Api<Campfire> = Api::namespaced(ctx.cluster.client.clone(), &namespace);
    match api.patch_status(&name, &PatchParams::apply(campfire_api::names::FIELD_MANAGER).force(), &Patch::Apply(&object)).await {
        // Deleted meanwhile: an apply that names the uid does not make it anew.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return Ok(()),
        Err(kube::Error::Api(status)) if status.message.contains("field not declared in schema") => {
            let message = format!("the CustomResourceDefinition is older than the operator, and drops what it does not know: {REMEDY}");
            said.push((ConditionType::DefinitionCurrent, Said::of(Reason::DefinitionOutdated, message)));
            next.conditions = merged(&before.conditions, said, generation, Timestamp::now());
            // Without the fields that are not known there.
            let written = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({ "status": next }))).await;
            written.map_err(during("the status could not be written"))?;
        }
        Err(error) => return Err(during("the status could not be written")(error)),
        Ok(_) => {}
    }
    if let Some(note) = turned(reason(&before.conditions, ConditionType::Ready), &ready) {
        events::say(&ctx.cluster, campfire, Happened::Turned(ready.reason), &note).await;
    }
    Ok(())
}

/// What an event tells when Ready turned; `None`: nothing. Servers that a Campfire has just begun to make are no news, and how many peers there
/// are when it is Ready is not for an event, which stays as it was.
fn turned(before: Option<Reason>, ready: &Said) -> Option<String> {
    let begins = [Reason::TurnNotReady, Reason::WaitingForAddress, Reason::NoEndpoints].contains(&ready.reason);
    match (before, ready.reason) {
        (None, _) if begins => None,
        (Some(before), now) if before == now => None,
        (_, Reason::Ready) => Some("peers can meet".into()),
        (_, _) => Some(ready.message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_start_is_no_warning_and_no_event_counts_peers() {
        let said = |reason| Said::of(reason, "0 peers at the fire");
        assert_eq!(turned(None, &said(Reason::TurnNotReady)), None);
        assert_eq!(turned(Some(Reason::TurnNotReady), &said(Reason::Ready)).as_deref(), Some("peers can meet"));
        assert_eq!(turned(Some(Reason::Ready), &said(Reason::Ready)), None);
        assert!(turned(Some(Reason::Ready), &said(Reason::TurnNotReady)).is_some(), "servers that were there");
        assert!(turned(None, &said(Reason::InvalidSpec)).is_some());
    }

    #[test]
    fn ready_counts_the_pods_that_are_without_the_mesh_and_those_with_older_settings() {
        let without = Reasons::from([("ImageNotPulled", 2), (MISSED, 1)]);
        let status = with_pods(CampfireStatus { peers: Some(4), ..CampfireStatus::default() }, &without, 1);
        assert_eq!((status.pods_without_mesh, status.missed_pods, status.without_mesh.len()), (Some(3), Some(1), 2));
        let said = ready(&[], &status).message;
        assert_eq!(
            said,
            "4 peers at the fire; 3 pods without the mesh: 2 ImageNotPulled, 1 SidecarMissed (kubectl describe pod says more); 1 pod with older \
             settings: make them anew (kubectl rollout restart)"
        );
    }
}
