//! The client of the cluster, and what is shown of its errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use kube::runtime::watcher;

use crate::metrics::Metrics;

/// A client by the pod's ServiceAccount, or by the kubeconfig outside of a cluster. Each write is counted in the metrics.
///
/// For tests: with `CAMPFIRE_FAILPOINT_WRITES=n` in the environment the process ends right after its n-th write (those to
/// Leases and of events left out), as if it had been killed there.
pub async fn connect(metrics: Arc<Metrics>) -> Result<Client> {
    let mut config = kube::Config::infer()
        .await
        .context("no cluster to work for: run in a pod with a ServiceAccount, or say by KUBECONFIG which cluster")?;
    // Watches are held open longer than this by the server's own bookmarks; anything else is stuck.
    config.read_timeout = Some(Duration::from_secs(295));
    config.connect_timeout = Some(Duration::from_secs(5));
    let namespace = config.default_namespace.clone();
    let inner = Client::try_from(config).context("the client of the cluster cannot be made")?;
    let failpoint: Option<u64> = std::env::var("CAMPFIRE_FAILPOINT_WRITES").ok().and_then(|count| count.parse().ok());
    let writes = Arc::new(AtomicU64::new(0));
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let inner = inner.clone();
        let metrics = metrics.clone();
        let writes = writes.clone();
        async move {
            let verb = request.method().clone();
            let path = request.uri().path();
            let silent = path.contains("/leases") || path.contains("/events") || path.contains("/tokenreviews");
            // What is only tried changes nothing.
            let tried = request.uri().query().is_some_and(|query| query.contains("dryRun="));
            let counted = !tried && !matches!(verb, http::Method::GET | http::Method::HEAD) && !silent;
            let response = inner.send(request).await?;
            if counted {
                metrics.api_write(verb.as_str(), response.status().as_u16());
                if response.status().is_success() && Some(writes.fetch_add(1, Ordering::Relaxed) + 1) == failpoint {
                    std::process::exit(137);
                }
            }
            Ok::<_, kube::Error>(response)
        }
    });
    Ok(Client::new(service, namespace))
}

/// An error of a call about a Secret, without what the Secret holds: API servers and parsers may quote what they did not expect.
#[expect(clippy::wildcard_enum_match_arm, reason = "what is not known to be harmless is not shown")]
pub fn of_secret(error: &kube::Error) -> String {
    match error {
        // Not allowed, not there, there already: these name the Secret alone.
        kube::Error::Api(status) if matches!(status.code, 403 | 404 | 409) => status.message.clone(),
        kube::Error::Api(status) => format!("the API answers {} {}", status.code, status.reason),
        kube::Error::Service(error) => format!("the API does not answer: {error}"),
        kube::Error::HyperError(error) => format!("the API does not answer: {error}"),
        _ => "the API's answer cannot be read".into(),
    }
}

/// The same of a watch.
pub fn of_watched_secret(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            of_secret(error)
        }
        watcher::Error::WatchError(status) => format!("the API answers {} {}", status.code, status.reason),
        watcher::Error::NoResourceVersion => "the API's answer cannot be read".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_call_about_a_secret_shows_nothing_of_it() {
        let value = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        let parser = serde_json::from_str::<u8>(&format!("\"{value}\"")).unwrap_err();
        assert!(parser.to_string().contains(value), "what would be shown otherwise");
        let refused = kube::core::Status::failure(&format!("Invalid value: {value}"), "Invalid").with_code(422);
        for error in [kube::Error::SerdeError(parser), kube::Error::Api(Box::new(refused))] {
            assert!(!of_secret(&error).contains(value), "{}", of_secret(&error));
        }
        let forbidden = kube::core::Status::failure("secrets \"x\" is forbidden", "Forbidden").with_code(403);
        assert!(of_secret(&kube::Error::Api(Box::new(forbidden))).contains("forbidden"));
    }
}
