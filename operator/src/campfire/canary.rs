//! Whether the API server reaches the webhook, asked of the API server itself: a MeshPeer that never comes to be (a dry run), about which it asks the
//! webhook by an entry of its own. That entry alone fails where the others are passed over, so that the cause is told and not only the effect.

use std::time::Duration;

use campfire_api::MeshPeer;
use campfire_api::conditions::Reason;
use campfire_api::names::{CANARY_LABEL, CANARY_WEBHOOK, WEBHOOK_CONFIGURATION};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::conditions::Said;
use crate::context::Context;
use crate::state::ObjectKey;

/// For one try: longer than the API server waits.
const PATIENCE: Duration = Duration::from_secs(8);

/// What is to be said by `WebhookReached`; `None`: nobody is to be asked, or the API server said something else.
pub async fn look(ctx: &Context) -> Option<Said> {
    let configurations = Api::<MutatingWebhookConfiguration>::all(ctx.cluster.client.clone());
    let configuration = configurations.get_opt(WEBHOOK_CONFIGURATION).await.ok()??;
    configuration.webhooks.iter().flatten().find(|webhook| webhook.name == CANARY_WEBHOOK)?;
    let campfire = ctx.cluster.places().campfires().first().map(|campfire| ObjectKey::of(&**campfire))?;
    let canary = json!({
        "apiVersion": "campfire.network/v1alpha1", "kind": "MeshPeer",
        "metadata": { "name": "campfire-canary", "labels": { CANARY_LABEL: "asked" } },
        "spec": { "type": "External", "campfireRef": { "name": campfire.name }, "external": {} },
    });
    let canary: MeshPeer = serde_json::from_value(canary).ok()?;
    let peers: Api<MeshPeer> = Api::namespaced(ctx.cluster.client.clone(), &campfire.namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let cause = match tokio::time::timeout(PATIENCE, peers.create(&dry, &canary)).await {
        Ok(Ok(back)) if back.labels().get(CANARY_LABEL).is_some_and(|label| label == "answered") => {
            return Some(Said::of(Reason::Reached, "the API server reaches the webhook: new pods get their sidecar"));
        }
        Ok(Ok(_)) => "it does not ask".to_owned(),
        Ok(Err(kube::Error::Api(status))) if status.message.contains(CANARY_WEBHOOK) => status.message,
        Ok(Err(_)) | Err(_) => return None,
    };
    let message = format!(
        "the API server does not reach the webhook, so new pods start without a sidecar: {cause}. A firewall between it and the nodes (the chart's \
         webhook.port), a NetworkPolicy, or a network in which it reaches no pods (operator.hostNetwork)"
    );
    Some(Said::of(Reason::Unreached, message))
}
