//! What the shell counts, and how all metrics are written for Prometheus.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use campfire_turn::stats::{Kind, Metric};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// A number that any thread may change.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds.
    pub fn add(&self, value: u64) {
        if value > 0 {
            self.0.fetch_add(value, Ordering::Relaxed);
        }
    }

    /// Takes away from a gauge.
    pub fn sub(&self, value: u64) {
        self.0.fetch_sub(value, Ordering::Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($field:ident: $kind:ident $name:literal $([$label:literal = $value:literal])?, $help:literal;)*) => {
        /// The shell's counters and gauges.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $field: Number,)*
        }

        impl Counters {
            /// All of them, those of one name together.
            pub fn metrics(&self) -> impl Iterator<Item = Metric> {
                [$(Metric {
                    name: $name,
                    label: counters!(@label $($label, $value)?),
                    help: $help,
                    kind: Kind::$kind,
                    value: self.$field.get(),
                },)*].into_iter()
            }
        }
    };
    (@label) => { None };
    (@label $label:literal, $value:literal) => { Some(($label, $value)) };
}

counters! {
    udp_received: Counter "udp_datagrams_total" ["direction" = "received"], "Datagrams on all UDP sockets, relay sockets among them.";
    udp_sent: Counter "udp_datagrams_total" ["direction" = "sent"], "Datagrams on all UDP sockets, relay sockets among them.";
    udp_received_bytes: Counter "udp_bytes_total" ["direction" = "received"], "UDP payload bytes.";
    udp_sent_bytes: Counter "udp_bytes_total" ["direction" = "sent"], "UDP payload bytes.";
    udp_receive_calls: Counter "udp_calls_total" ["direction" = "received"], "System calls that moved datagrams: the fewer a datagram, the better the batches.";
    udp_send_calls: Counter "udp_calls_total" ["direction" = "sent"], "System calls that moved datagrams: the fewer a datagram, the better the batches.";
    udp_full: Counter "udp_dropped_total" ["reason" = "buffer_full"], "Datagrams not sent.";
    udp_refused: Counter "udp_dropped_total" ["reason" = "refused"], "Datagrams not sent.";
    udp_truncated: Counter "udp_dropped_total" ["reason" = "truncated"], "Datagrams not sent.";
    tcp_connections: Gauge "connections" ["transport" = "tcp"], "Open client connections.";
    tls_connections: Gauge "connections" ["transport" = "tls"], "Open client connections.";
    accepted: Counter "connections_accepted_total", "Client connections accepted.";
    over_limit: Counter "connections_refused_total" ["reason" = "limit"], "Client connections closed at once because there were too many.";
    over_source_limit: Counter "connections_refused_total" ["reason" = "source_limit"], "Client connections closed at once because there were too many.";
    over_descriptors: Counter "connections_refused_total" ["reason" = "descriptors"], "Client connections closed at once because there were too many.";
    tls_failed: Counter "connections_ended_total" ["reason" = "tls"], "Client connections that ended early.";
    malformed: Counter "connections_ended_total" ["reason" = "malformed"], "Client connections that ended early.";
    timed_out: Counter "connections_ended_total" ["reason" = "timeout"], "Client connections that ended early.";
    http_displaced: Counter "http_connections_closed_total" ["reason" = "silent"], "Connections of the HTTP port closed for others: silent ones for want of places, or because all places were held by requests.";
    http_refused: Counter "http_connections_closed_total" ["reason" = "full"], "Connections of the HTTP port closed for others: silent ones for want of places, or because all places were held by requests.";
    stream_received: Counter "stream_frames_total" ["direction" = "received"], "Frames on TCP and TLS connections.";
    stream_sent: Counter "stream_frames_total" ["direction" = "sent"], "Frames on TCP and TLS connections.";
    stream_dropped: Counter "stream_frames_dropped_total", "Frames not queued for a connection that reads too slowly.";
    relay_sockets: Gauge "relay_sockets", "Relay sockets open.";
    relay_failed: Counter "relay_bind_failures_total", "Relay sockets that could not be bound.";
    campfires: Gauge "secrets" ["kind" = "campfire"], "Secrets and users loaded.";
    rest_secrets: Gauge "secrets" ["kind" = "rest"], "Secrets and users loaded.";
    users: Gauge "secrets" ["kind" = "user"], "Secrets and users loaded.";
    reloads: Counter "reloads_total" ["result" = "ok"], "Reloads of secrets and certificates.";
    reload_failures: Counter "reloads_total" ["result" = "error"], "Reloads of secrets and certificates.";
    draining: Gauge "draining", "1 while the server drains.";
}

/// What the core counted when it was asked.
struct Snapshot {
    core: Vec<Metric>,
    shell: Arc<Counters>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot")
    }
}

/// A metric with all values of its label.
struct Group(Vec<Metric>);

impl EncodeMetric for Group {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for metric in &self.0 {
            match (metric.label, metric.kind) {
                (Some(label), Kind::Counter) => ConstCounter::new(metric.value).encode(encoder.encode_family(&[label])?)?,
                (Some(label), Kind::Gauge) => {
                    ConstGauge::new(gauge(metric.value)).encode(encoder.encode_family(&[label])?)?;
                }
                (None, Kind::Counter) => {
                    encoder.encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(&metric.value, None)?;
                }
                (None, Kind::Gauge) => encoder.encode_gauge(&gauge(metric.value))?,
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        match self.0.first().map(|metric| metric.kind) {
            Some(Kind::Counter) => MetricType::Counter,
            _ => MetricType::Gauge,
        }
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all: Vec<Metric> = self.core.iter().copied().chain(self.shell.metrics()).collect();
        for group in all.chunk_by(|one, other| one.name == other.name) {
            let Some(first) = group.first() else { continue };
            // The encoder adds the suffix itself.
            let name = first.name.strip_suffix("_total").unwrap_or(first.name);
            let group = Group(group.to_vec());
            group.encode(encoder.encode_descriptor(name, first.help, None, group.metric_type())?)?;
        }
        Ok(())
    }
}

/// All metrics as text for Prometheus (OpenMetrics).
pub fn render(core: Vec<Metric>, shell: &Arc<Counters>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("campfire_turn");
    registry.register_collector(Box::new(Snapshot { core, shell: Arc::clone(shell) }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labelled_metrics_share_one_description() {
        let counters = Arc::new(Counters::default());
        counters.udp_received.add(3);
        let text = render(campfire_turn::Stats::default().metrics().collect(), &counters).unwrap();
        assert_eq!(text.matches("# TYPE campfire_turn_udp_datagrams counter").count(), 1, "{text}");
        assert!(text.contains("campfire_turn_udp_datagrams_total{direction=\"received\"} 3\n"), "{text}");
        assert!(text.contains("campfire_turn_connections{transport=\"tls\"} 0\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
