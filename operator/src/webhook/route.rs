//! Whether the API server would reach the webhook. A pod that is ready is reached by its Service only when the nodes know, a second or two later;
//! pods made until then would start without a sidecar, and a Campfire that said `Ready` would have promised too much.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use campfire_api::names::{WEBHOOK_CONFIGURATION, WEBHOOK_SERVICE};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use tokio::net::ToSocketAddrs;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::certs::Bundle;
use crate::context::Context;
use crate::tls::connect;

/// For how long it is tried. Then the operator goes on without: a mesh is kept whether pods can be added to it or not.
const PATIENCE: Duration = Duration::from_secs(10);
/// For one try, and between two.
const ANSWER: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(250);
/// Where the way has just been laid, other nodes (the API server's) may know of it so much later than this one.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// Waits until the webhook's Service leads to a webhook, at most [`PATIENCE`]. Returns at once where no configuration asks for one.
pub async fn laid(ctx: &Context, certs: &watch::Receiver<Arc<Bundle>>) {
    let configurations = Api::<MutatingWebhookConfiguration>::all(ctx.cluster.client.clone());
    if matches!(configurations.get_metadata_opt(WEBHOOK_CONFIGURATION).await, Ok(None)) {
        return;
    }
    let name = format!("{WEBHOOK_SERVICE}.{}.svc", ctx.settings.namespace);
    match answered((name.as_str(), 443), &name, certs, PATIENCE).await {
        Ok(waited) => tracing::debug!(ms = waited.as_millis(), "the webhook is reached by its Service"),
        Err(error) => tracing::warn!(
            error = format!("{error:#}"),
            "the webhook is not reached by Service {WEBHOOK_SERVICE}: until it is, pods start without a sidecar"
        ),
    }
}

/// Tries until a server with our certificate answers at `address`: how long that took, or why the last try failed.
async fn answered(
    address: impl ToSocketAddrs + Clone,
    name: &str,
    certs: &watch::Receiver<Arc<Bundle>>,
    patience: Duration,
) -> Result<Duration> {
    let begun = Instant::now();
    let mut at_once = true;
    loop {
        let pem = certs.borrow().pem.clone();
        let tried = tokio::time::timeout(ANSWER, connect(address.clone(), name, &pem)).await.context("no answer within 1 s");
        match tried.and_then(|result| result) {
            Ok(_) if at_once => return Ok(begun.elapsed()),
            Ok(_) => {
                tokio::time::sleep(ELSEWHERE).await;
                return Ok(begun.elapsed());
            }
            Err(error) if begun.elapsed() >= patience => return Err(error),
            Err(_) => at_once = false,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use hyper::StatusCode;
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::Rig;
    use campfire_http::message::json as answer;
    use campfire_http::{Limits, serve};

    const LIMITS: Limits = Limits {
        connections: 4,
        per_address: 4,
        bodies: 0,
        head: Duration::from_secs(5),
        lifetime: Duration::from_secs(5),
        grace: Duration::from_secs(5),
        keep_alive: false,
        drain: Duration::ZERO,
    };

    fn rig() -> Rig {
        Rig::new(|_, _, _| {
            (404, json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "message": "", "code": 404 }))
        })
    }

    #[tokio::test]
    async fn it_is_waited_for_until_the_way_is_laid_and_not_at_all_where_it_is() {
        let (rig, other) = (rig(), rig());
        let name = format!("{WEBHOOK_SERVICE}.campfire-system.svc");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let late = Duration::from_millis(600);
        let certs = rig.bundle.subscribe();
        let server = tokio::spawn(async move {
            tokio::time::sleep(late).await;
            let listener = TcpListener::bind(address).await.unwrap();
            serve(listener, crate::certs::wire(certs, |servers| &servers.webhook), LIMITS, Arc::default(), pending(), |_, _| async {
                answer(StatusCode::OK, &json!({}))
            })
            .await;
        });
        let waited = answered(address, &name, &rig.bundle.subscribe(), PATIENCE).await.unwrap();
        assert!(waited >= late + ELSEWHERE, "refused at first: {waited:?}");
        let waited = answered(address, &name, &rig.bundle.subscribe(), PATIENCE).await.unwrap();
        assert!(waited < ELSEWHERE, "it is there: {waited:?}");

        // Somebody else's server is none.
        let error = answered(address, &name, &other.bundle.subscribe(), AGAIN).await.unwrap_err();
        assert!(format!("{error:#}").starts_with("no TLS with the operator's certificate: "), "{error:#}");
        server.abort();
    }

    #[tokio::test]
    async fn where_no_configuration_asks_for_it_nothing_is_waited_for() {
        let rig = rig();
        let begun = Instant::now();
        laid(&rig.ctx, &rig.bundle.subscribe()).await;
        assert!(begun.elapsed() < ANSWER, "{:?}", begun.elapsed());
    }
}
