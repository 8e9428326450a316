//! Metrics: one registry for all parts; those that several parts write are here.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use campfire_http::Counts;

/// Who reconciled, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    controller: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Controller {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    verb: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCampfire {
    namespace: String,
    campfire: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPath {
    namespace: String,
    campfire: String,
    path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Closed {
    port: &'static str,
    reason: &'static str,
}

/// The registry, and what several parts write.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciles: Family<Outcome, Counter>,
    durations: Family<Controller, Histogram, fn() -> Histogram>,
    queue: Family<Controller, Gauge>,
    writes: Family<Write, Counter>,
    leader: Gauge,
    missed: Family<OfCampfire, Gauge>,
    peers: Family<OfPath, Gauge>,
    ready: Family<OfCampfire, Gauge>,
    closed: Family<Closed, Counter>,
    counts: Mutex<Vec<(&'static str, Arc<Counts>)>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("campfire_operator")),
            reconciles: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 4.0, 8))),
            queue: Family::default(),
            writes: Family::default(),
            leader: Gauge::default(),
            missed: Family::default(),
            peers: Family::default(),
            ready: Family::default(),
            closed: Family::default(),
            counts: Mutex::default(),
        };
        metrics.register(|registry| {
            registry.register("reconciles", "Reconciles by controller and result", metrics.reconciles.clone());
            registry.register_with_unit("reconcile_duration", "Time that a reconcile took", Unit::Seconds, metrics.durations.clone());
            registry.register("queue", "Objects that wait to be reconciled", metrics.queue.clone());
            registry.register(
                "api_writes",
                "Writes to the API by verb and HTTP status (Leases and events left out)",
                metrics.writes.clone(),
            );
            registry.register("leader", "1 while this operator leads", metrics.leader.clone());
            registry.register("meshpeers", "MeshPeers by Campfire and path, as their statuses say", metrics.peers.clone());
            registry.register("missed_pods", "Pods that should have a sidecar and have none", metrics.missed.clone());
            let help = "Connections closed for others: silent ones for want of places, or because all places were held by requests";
            registry.register("connections_closed", help, metrics.closed.clone());
            registry.register("campfire_ready", "1 while the Campfire is Ready", metrics.ready.clone());
        });
        metrics
    }
}

impl Metrics {
    /// Registers metrics of one part. Names get the prefix `campfire_operator_`.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All metrics as OpenMetrics text.
    pub fn text(&self) -> String {
        for (port, counts) in self.counts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for (reason, count) in [("silent", &counts.displaced), ("full", &counts.refused)] {
                let counter = self.closed.get_or_create(&Closed { port, reason });
                counter.inc_by(count.load(Ordering::Relaxed).saturating_sub(counter.get()));
            }
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }

    /// Where the server of this port counts the connections that it closes for others.
    pub fn closed(&self, port: &'static str) -> Arc<Counts> {
        let counts = Arc::new(Counts::default());
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).push((port, counts.clone()));
        counts
    }

    /// A reconcile ended; `result` is `ok`, `invalid` or `error`.
    pub fn reconciled(&self, controller: &'static str, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Outcome { controller, result }).inc();
        self.durations.get_or_create(&Controller { controller }).observe(took.as_secs_f64());
    }

    /// How many objects wait to be reconciled.
    pub fn queued(&self, controller: &'static str, waiting: usize) {
        self.queue.get_or_create(&Controller { controller }).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// The API answered a write.
    pub fn api_write(&self, verb: &str, code: u16) {
        self.writes.get_or_create(&Write { verb: verb.to_ascii_lowercase(), code }).inc();
    }

    /// Whether this operator leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// How many MeshPeers there are, by namespace and name of the Campfire and by path.
    pub fn peers(&self, counts: impl IntoIterator<Item = (String, String, &'static str, i64)>) {
        self.peers.clear();
        for (namespace, campfire, path, count) in counts {
            self.peers.get_or_create(&OfPath { namespace, campfire, path }).set(count);
        }
    }

    /// Shows a Campfire; `None`: it is gone.
    pub fn campfire(&self, namespace: &str, campfire: &str, shown: Option<(bool, i32)>) {
        let labels = OfCampfire { namespace: namespace.into(), campfire: campfire.into() };
        if let Some((ready, missed)) = shown {
            self.ready.get_or_create(&labels).set(i64::from(ready));
            self.missed.get_or_create(&labels).set(i64::from(missed));
        } else {
            self.ready.remove(&labels);
            self.missed.remove(&labels);
        }
    }
}
