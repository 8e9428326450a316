//! Figures of this agent, for Prometheus. There is no port unless one is asked for: whoever breaks the agent has the node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use campfire_api::node::Reason;
use campfire_http::message::of_kind;
use campfire_http::{Counts, Limits, Wire};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::driver::Driver;

/// Who asks is a Prometheus.
const LIMITS: Limits = Limits {
    connections: 16,
    per_address: 8,
    bodies: 0,
    head: Duration::from_secs(5),
    lifetime: Duration::from_secs(30),
    grace: Duration::from_secs(1),
    keep_alive: true,
    drain: Duration::ZERO,
};
/// Upper bounds, seconds.
const BUCKETS: [f64; 8] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    /// Of a refusal; `Made`: it was none.
    reason: &'static str,
}

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<Labels, Counter>,
    seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { requests: Family::default(), seconds: Histogram::new(BUCKETS) }
    }
}

impl Metrics {
    /// A request of a pod was answered. `refused`: by this reason.
    pub fn count(&self, refused: Option<Reason>, took: Duration) {
        self.requests.get_or_create(&Labels { reason: refused.map_or("Made", Reason::name) }).inc();
        if refused.is_none() {
            self.seconds.observe(took.as_secs_f64());
        }
    }

    /// All of it as OpenMetrics, with what is so now.
    pub fn render(&self, volumes: usize, registered: bool) -> String {
        let now = |value: i64| {
            let gauge = Gauge::<i64, AtomicI64>::default();
            gauge.set(value);
            gauge
        };
        let mut all = Registry::with_prefix("campfire_node");
        all.register("volumes", "Volumes that pods of this node have", now(i64::try_from(volumes).unwrap_or(i64::MAX)));
        all.register("registered", "Whether the kubelet has registered the driver (1) or not (0)", now(registered.into()));
        all.register("requests", "Requests of pods that were answered, by what came of them", self.requests.clone());
        all.register_with_unit("make", "From a pod's request to its interface", Unit::Seconds, self.seconds.clone());
        let mut text = String::new();
        // To a string it cannot fail.
        let _ = encode(&mut text, &all);
        text
    }
}

/// Serves them, if a port is named; else waits for ever.
///
/// # Errors
/// The port cannot be listened on.
pub async fn serve(port: Option<u16>, driver: Arc<Driver>) -> Result<()> {
    let Some(port) = port else { return std::future::pending().await };
    let listener = campfire_http::listen(port).await.with_context(|| format!("--metrics-port {port}"))?;
    let handler = move |_: SocketAddr, request: Request<Incoming>| {
        let driver = driver.clone();
        async move {
            match request.uri().path() {
                "/metrics" => of_kind(StatusCode::OK, OPEN_METRICS, driver.metrics().into()),
                _ => of_kind(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "try /metrics\n".into()),
            }
        }
    };
    campfire_http::serve(listener, Wire::Plain, LIMITS, Arc::new(Counts::default()), std::future::pending(), handler).await;
    bail!("nobody serves metrics any more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_requests_and_how_things_stand_is_told() {
        let metrics = Metrics::default();
        metrics.count(None, Duration::from_millis(7));
        metrics.count(Some(Reason::WrongPod), Duration::from_millis(1));
        let text = metrics.render(3, true);
        for line in [
            "campfire_node_volumes 3",
            "campfire_node_registered 1",
            "campfire_node_requests_total{reason=\"Made\"} 1",
            "campfire_node_requests_total{reason=\"WrongPod\"} 1",
            "campfire_node_make_seconds_count 1",
            "campfire_node_make_seconds_bucket{le=\"0.01\"} 1",
        ] {
            assert!(text.lines().any(|written| written == line), "no {line} in:\n{text}");
        }
    }
}
