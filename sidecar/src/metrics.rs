//! Prometheus metrics of a peer, made from its report and counters when asked for.

use std::fmt;

use campfire_fire::status::ServerState;
use campfire_mesh::status::PathKind;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::{Registry, Unit};

use crate::report::Report;

/// A report and the shell's counters (name, help, value).
#[derive(Debug)]
pub struct Snapshot {
    /// The report.
    pub report: Report,
    /// The data thread's counters by name.
    pub data: Vec<(&'static str, u64)>,
    /// Of streams: frames dropped, bytes sent, bytes received.
    pub streams: [u64; 3],
}

/// The text of `/metrics` (OpenMetrics).
pub fn text(snapshot: Snapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshots(snapshot)));
    let mut out = String::new();
    // A String takes everything.
    let _ = encode(&mut out, &registry);
    out
}

#[derive(Debug)]
struct Snapshots(Snapshot);

impl Collector for Snapshots {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Snapshot { report, data, streams } = &self.0;
        let peers = &report.status.peers;
        let by_path = |path: PathKind| peers.iter().filter(|peer| peer.path == path).count();
        family(&mut encoder, "campfire_peers", "Peers known, by how packets go to them", None, MetricType::Gauge, |encoder| {
            for (path, name) in [(PathKind::Direct, "direct"), (PathKind::Relay, "relay"), (PathKind::None, "none")] {
                gauge(encoder, &[("path", name)], by_path(path) as f64)?;
            }
            Ok(())
        })?;
        let mut reasons = std::collections::BTreeMap::new();
        for why in peers.iter().filter(|peer| peer.path == PathKind::Relay).filter_map(|peer| peer.why_not_direct) {
            *reasons.entry(crate::show::reason(why)).or_insert(0_u32) += 1;
        }
        family(
            &mut encoder,
            "campfire_peers_relayed",
            "Relayed peers, by the reason why not direct",
            None,
            MetricType::Gauge,
            |encoder| reasons.iter().try_for_each(|(reason, count)| gauge(encoder, &[("reason", reason)], f64::from(*count))),
        )?;
        family(&mut encoder, "campfire_room_members", "Members of the room, as the servers count", None, MetricType::Gauge, |encoder| {
            gauge(encoder, &[], report.status.own.members as f64)
        })?;
        family(&mut encoder, "campfire_ready", "1 once camped and connected to all who were there", None, MetricType::Gauge, |encoder| {
            gauge(encoder, &[], if report.ready { 1.0 } else { 0.0 })
        })?;
        family(&mut encoder, "campfire_server_camped", "1 where this peer camps", None, MetricType::Gauge, |encoder| {
            report.status.servers.iter().try_for_each(|server| {
                gauge(encoder, &[("server", &server.id)], if server.state == ServerState::Camped { 1.0 } else { 0.0 })
            })
        })?;
        family(&mut encoder, "campfire_server_rtt", "Round trip to a server", Some(&Unit::Seconds), MetricType::Gauge, |encoder| {
            report.status.servers.iter().try_for_each(|server| match server.rtt_ms {
                Some(ms) => gauge(encoder, &[("server", &server.id)], ms / 1000.0),
                None => Ok(()),
            })
        })?;
        family(
            &mut encoder,
            "campfire_peers_sent",
            "Payload sent to peers that are linked",
            Some(&Unit::Bytes),
            MetricType::Gauge,
            |encoder| gauge(encoder, &[], peers.iter().map(|peer| peer.sent_bytes).sum::<u64>() as f64),
        )?;
        family(
            &mut encoder,
            "campfire_peers_received",
            "Payload received from peers that are linked",
            Some(&Unit::Bytes),
            MetricType::Gauge,
            |encoder| gauge(encoder, &[], peers.iter().map(|peer| peer.received_bytes).sum::<u64>() as f64),
        )?;
        for (name, value) in data {
            count(&mut encoder, &format!("campfire_data_{name}"), "Counted by the data thread", *value)?;
        }
        for (name, value) in &report.status.counters {
            count(&mut encoder, &format!("campfire_mesh_{name}"), "Counted by the mesh", *value)?;
        }
        let [dropped, sent, received] = *streams;
        count(&mut encoder, "campfire_streams_dropped_frames", "Frames dropped because a TCP or TLS stream was too slow", dropped)?;
        count(&mut encoder, "campfire_streams_sent_bytes", "Bytes written to TCP and TLS streams", sent)?;
        count(&mut encoder, "campfire_streams_received_bytes", "Bytes read from TCP and TLS streams", received)
    }
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    kind: MetricType,
    write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    write(&mut encoder.encode_descriptor(name, help, unit, kind)?)
}

fn gauge(encoder: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: f64) -> fmt::Result {
    if labels.is_empty() { encoder.encode_gauge(&value) } else { encoder.encode_family(&labels)?.encode_gauge(&value) }
}

fn count(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    ConstCounter::new(value).encode(encoder.encode_descriptor(&clean, help, None, MetricType::Counter)?)
}
