//! Join secrets of External peers: the Campfire's own join secret, copied to where a person declared the peer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use campfire_api::conditions::Reason;
use campfire_api::{Campfire, MeshPeer, names};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;

use super::fetch::campfire_of;
use crate::cluster::of_secret;
use crate::conditions::Said;
use crate::context::Context;
use crate::state::ObjectKey;

/// How soon it is looked again after a success, and after a failure.
const AGAIN: Duration = Duration::from_mins(5);
const RETRY: Duration = Duration::from_secs(30);

/// How the last look ended.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    pub(super) said: Said,
    version: Option<u64>,
    at: Instant,
}

impl Joined {
    /// Whether to look again: the servers changed, or it is long ago.
    pub(super) fn due(&self, version: Option<u64>, now: Instant) -> bool {
        let again = if self.said.is_true() { AGAIN } else { RETRY };
        self.version != version || self.at + again <= now
    }
}

/// Writes the join secret if it is not so already.
pub(super) async fn join(ctx: &Context, key: &ObjectKey) -> Joined {
    let peer = ctx.cluster.peers.get(key);
    let version = peer.as_ref().and_then(|peer| ctx.memberships.get(&campfire_of(peer))).map(|membership| membership.server_list_version);
    let said = match peer {
        None => Said::of(Reason::Gone, ""),
        Some(peer) => match write(ctx, &peer).await {
            Ok(said) => said,
            Err(kube::Error::Api(status)) if status.code == 403 => Said::of(
                Reason::SecretForbidden,
                "the operator may not read or write Secrets of this namespace: add it to campfireNamespaces of the chart",
            ),
            Err(error) => {
                tracing::warn!(peer = %key, error = of_secret(&error), "the join secret could not be written; tried again");
                Said::of(Reason::SecretNotWritten, "the API did not take the join secret; it is tried again")
            }
        },
    };
    Joined { said, version, at: Instant::now() }
}

async fn write(ctx: &Context, peer: &MeshPeer) -> kube::Result<Said> {
    let campfire = campfire_of(peer);
    let namespace = peer.namespace().unwrap_or_default();
    let asked = peer.spec.external.as_ref().and_then(|external| external.secret_name.clone());
    let name = asked.unwrap_or_else(|| names::join_secret(&peer.name_any()));
    let source: Api<Secret> = Api::namespaced(ctx.cluster.client.clone(), &campfire.namespace);
    let source = source.get_opt(&names::join_secret(&campfire.name)).await?;
    // A Secret of the right name that the Campfire does not own is none that the operator wrote.
    let source = source
        .filter(|secret| secret.owner_references().iter().any(|owner| owner.kind == Campfire::kind(&()) && owner.name == campfire.name));
    let Some(uri) = source.and_then(|secret| secret.data.unwrap_or_default().remove(names::URI_KEY)) else {
        let why = format!("Campfire {campfire} has no join secret yet: its condition Joinable says why");
        return Ok(Said::of(Reason::NoExternalEndpoint, why));
    };
    let target: Api<Secret> = Api::namespaced(ctx.cluster.client.clone(), &namespace);
    let data = BTreeMap::from([(names::URI_KEY.to_owned(), uri)]);
    let written =
        Said::of(Reason::JoinSecretWritten, format!("Secret {name} holds the camp:// URI to join by: whoever has it is a member"));
    let by = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
    match target.get_opt(&name).await? {
        Some(held) if !held.owner_references().iter().any(|owner| Some(&owner.uid) == peer.metadata.uid.as_ref()) => {
            let why = format!("Secret {name} exists and is not this object's: delete it, or name another one in spec.external.secretName");
            Ok(Said::of(Reason::SecretExists, why))
        }
        Some(held) if held.data.as_ref() == Some(&data) => Ok(written),
        Some(held) => {
            let change = json!({ "metadata": { "uid": held.metadata.uid }, "data": data });
            let by = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
            target.patch(&name, &by, &Patch::Merge(change)).await?;
            Ok(written)
        }
        None => {
            let Some(mut owner) = peer.controller_owner_ref(&()) else { return Ok(Said::of(Reason::Gone, "")) };
            owner.block_owner_deletion = None;
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                owner_references: Some(vec![owner]),
                labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), names::FIELD_MANAGER.into())])),
                ..ObjectMeta::default()
            };
            target.create(&by, &Secret { metadata, data: Some(data), ..Secret::default() }).await?;
            Ok(written)
        }
    }
}
