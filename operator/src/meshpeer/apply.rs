//! Writes what a MeshPeer needs.

use std::time::Instant;

use campfire_api::conditions::{ConditionType, Reason, Truth};
use campfire_api::{MeshPeer, names};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use tracing::debug;

use super::Sent;
use super::external::{self, Joined};
use super::plan::Action;
use super::status;
use crate::conditions::condition;
use crate::context::Context;
use crate::events::{self, Happened};
use crate::state::ObjectKey;

/// How a write ended.
pub(super) enum Done {
    Written(Sent),
    Joined(Joined),
    /// Somebody else was faster: the cache will tell.
    Overtaken,
    Failed(String),
}

/// Does it, if this operator still leads.
pub(super) async fn write(ctx: &Context, key: &ObjectKey, action: Action) -> Done {
    if !ctx.leadership.may_write() {
        return Done::Overtaken;
    }
    let peers: Api<MeshPeer> = Api::namespaced(ctx.cluster.client.clone(), &key.namespace);
    let sent = |version| Done::Written(Sent { version, at: Instant::now() });
    let begun = Instant::now();
    let result = match action {
        Action::Join => return Done::Joined(external::join(ctx, key).await),
        Action::Create(peer) => {
            let by = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
            peers.create(&by, &peer).await.map(|peer| sent(peer.metadata.resource_version))
        }
        Action::Delete { uid, .. } => {
            let only = DeleteParams {
                preconditions: Some(Preconditions { uid: Some(uid), ..Preconditions::default() }),
                ..DeleteParams::default()
            };
            peers.delete(&key.name, &only).await.map(|_| sent(None))
        }
        Action::Status { uid, status, .. } => {
            let by = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
            let written = peers.patch_status(&key.name, &by, &Patch::Merge(status::patch(&uid, &status))).await;
            if let Ok(peer) = &written {
                say_refusal(ctx, key, peer).await;
            }
            written.map(|peer| sent(peer.metadata.resource_version))
        }
    };
    let (done, outcome) = match result {
        Ok(done) => (done, "ok"),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            debug!(peer = %key, code = status.code, "somebody else was faster");
            (Done::Overtaken, "ok")
        }
        Err(error) => (Done::Failed(error.to_string()), "error"),
    };
    ctx.metrics.reconciled("meshpeer", outcome, begun.elapsed());
    done
}

/// An event, when a peer was not accepted.
async fn say_refusal(ctx: &Context, key: &ObjectKey, peer: &MeshPeer) {
    let Some(accepted) = peer.status.as_ref().and_then(|status| condition(&status.conditions, ConditionType::Accepted)) else { return };
    let Some(why) = Reason::named(&accepted.reason).filter(|why| why.status() == Truth::False) else { return };
    let held = ctx.cluster.peers.get(key);
    if status::reason(held.as_ref().and_then(|peer| peer.status.as_ref()), ConditionType::Accepted) != Some(why) {
        events::say(&ctx.cluster, peer, Happened::NotAccepted(why), &accepted.message).await;
    }
}
