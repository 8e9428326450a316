//! `campfire graph`: who sees whom, as a Graphviz graph, from one report or from several.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use campfire_fire::status::ServerState;
use campfire_mesh::status::{PathKind, Peer};
use campfire_text::dot_quoted as quote;

use crate::report::{Report, label};
use crate::show::{full_name, milliseconds};

/// How one peer sends to another.
#[derive(Clone, Debug, PartialEq)]
struct Way {
    path: PathKind,
    server: Option<String>,
    rtt_ms: Option<f64>,
    reason: String,
}

/// More peers than this, and the numbers at the lines (tooltips keep them) would cover the picture.
const PEERS_WITH_NUMBERS: usize = 12;

/// What the lines mean.
const LEGEND: &str = "<table border=\"0\" cellspacing=\"0\">\
<tr><td align=\"left\"><font color=\"#2e7d32\">━━━━</font>  direct; at each end the round trip that it measured</td></tr>\
<tr><td align=\"left\">╸ ╸ ╸  relayed, in the colour of the server that does it</td></tr>\
<tr><td align=\"left\">· · · ·  camps there, in the server's colour; grey: not connected</td></tr></table>";

/// What is drawn.
#[derive(Default)]
struct Picture {
    /// Public key → cluster, name.
    peers: BTreeMap<String, (String, String)>,
    /// Id → the peers that camp there.
    servers: BTreeMap<String, BTreeSet<String>>,
    /// By who sends to whom.
    ways: BTreeMap<(String, String), Way>,
}

/// The reports as one graph: the peers in a ring, clusters side by side, the servers above it. A line for each pair, with the
/// round trip that each end measured: solid where both go directly, dashed in the server's colour where one relays; two
/// arrows where both ends send differently.
pub fn dot(reports: &[Report]) -> String {
    let mut picture = Picture::default();
    for report in reports {
        picture.add(report);
    }
    picture.draw()
}

impl Picture {
    fn add(&mut self, report: &Report) {
        let own = &report.status.own;
        let me = own.public_key.clone();
        self.peers.insert(me.clone(), (own.cluster.clone(), full_name(&label(&own.name, &me), &own.namespace, "")));
        for server in &report.status.servers {
            let campers = self.servers.entry(server.id.clone()).or_default();
            if server.state == ServerState::Camped {
                campers.insert(me.clone());
            }
        }
        for peer in &report.status.peers {
            let shown = (peer.cluster.clone(), full_name(&label(&peer.name, &peer.public_key), &peer.namespace, ""));
            self.peers.entry(peer.public_key.clone()).or_insert(shown);
            let way = way(peer);
            if let Some(server) = &way.server {
                self.servers.entry(server.clone()).or_default();
            }
            self.ways.insert((me.clone(), peer.public_key.clone()), way);
        }
    }

    fn draw(&self) -> String {
        let mut out = String::from("digraph campfire {\n");
        out.push_str("  graph [layout=neato, inputscale=72, splines=line, outputorder=edgesfirst, pad=0.2, dpi=110];\n");
        out.push_str("  node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=\"sans-serif\", fontsize=12, pin=true];\n");
        out.push_str("  edge [fontname=\"sans-serif\", fontsize=9, arrowsize=0.5, labelangle=0, labeldistance=5.5];\n");
        let radius = self.peers.len().max(6).saturating_mul(35);
        self.draw_peers(&mut out, radius);
        self.draw_servers(&mut out, radius);
        for ((from, to), way) in &self.ways {
            let back = self.ways.get(&(to.clone(), from.clone()));
            let same = back.filter(|back| back.path == way.path && back.server == way.server);
            // Drawn once, from the lesser key.
            if same.is_none() || from < to {
                self.draw_way(&mut out, (from, to), way, same);
            }
        }
        let _ = writeln!(out, "  legend [shape=plain, style=\"\", pos=\"0,-{}!\", label=<{LEGEND}>];\n}}", radius.saturating_add(85));
        out
    }

    fn draw_peers(&self, out: &mut String, radius: usize) {
        let clusters: BTreeSet<&String> = self.peers.values().map(|(cluster, _)| cluster).collect();
        let mut ring: Vec<_> = self.peers.iter().map(|(key, (cluster, name))| (cluster, name, key)).collect();
        ring.sort_unstable();
        for (place, (cluster, name, key)) in ring.iter().enumerate() {
            let (x, y) = on_ring(place, ring.len(), radius);
            let shown = if cluster.is_empty() { (*name).clone() } else { format!("{name}\n{cluster}") };
            let colour = cluster_colour(clusters.iter().position(|known| known == cluster).unwrap_or(0));
            let _ =
                writeln!(out, "  {} [label={}, fillcolor=\"{colour}\", pos=\"{x:.0},{y:.0}!\"];", quote(&peer_node(key)), quote(&shown));
        }
    }

    fn draw_servers(&self, out: &mut String, radius: usize) {
        let last = self.servers.len().saturating_sub(1);
        for (place, (id, campers)) in self.servers.iter().enumerate() {
            let colour = self.server_colour(id);
            let relayed: BTreeSet<_> = self
                .ways
                .iter()
                .filter(|(_, way)| way.server.as_ref() == Some(id))
                .map(|((from, to), _)| if from < to { (from, to) } else { (to, from) })
                .collect();
            let shown = format!("{id}\n{} camp here, {} pairs relayed", campers.len(), relayed.len());
            // Half a step is 130 points.
            let (right, left) = (place.saturating_mul(260), last.saturating_mul(130));
            let x = if right < left { format!("-{}", left.saturating_sub(right)) } else { right.saturating_sub(left).to_string() };
            let _ = writeln!(
                out,
                "  {} [label={}, shape=cylinder, style=filled, color=\"{colour}\", fontcolor=\"{colour}\", penwidth=2, pos=\"{x},{}!\"];",
                quote(&server_node(id)),
                quote(&shown),
                radius.saturating_add(110)
            );
            for peer in campers {
                let _ = writeln!(
                    out,
                    "  {} -> {} [dir=none, color=\"{colour}55\", style=dotted];",
                    quote(&peer_node(peer)),
                    quote(&server_node(id))
                );
            }
        }
    }

    /// A line from one peer to another; `back`: how the other sends, if the line is for both.
    fn draw_way(&self, out: &mut String, (from, to): (&str, &str), way: &Way, back: Option<&Way>) {
        let (style, colour, how) = match (way.path, &way.server) {
            (PathKind::Direct, _) => ("solid", "#2e7d32", "direct".to_owned()),
            (PathKind::Relay, Some(server)) => ("dashed", self.server_colour(server), format!("via {server}")),
            (PathKind::Relay, None) => ("dashed", "#606060", "relayed".to_owned()),
            (PathKind::None, _) => ("dotted", "#909090", "not connected".to_owned()),
        };
        let mut ends = String::new();
        if self.peers.len() <= PEERS_WITH_NUMBERS && way.path != PathKind::None {
            for (end, way) in [("taillabel", Some(way)), ("headlabel", back)] {
                if let Some(rtt) = way.and_then(|way| way.rtt_ms) {
                    let _ = write!(ends, ", {end}={}", number(&milliseconds(Some(rtt)), colour));
                }
            }
        }
        let mut tip = format!("{how}, {}", milliseconds(way.rtt_ms));
        if way.path != PathKind::Direct && !way.reason.is_empty() {
            let _ = write!(tip, ": {}", way.reason);
        }
        let direction = if back.is_some() { "none" } else { "forward" };
        let _ = writeln!(
            out,
            "  {} -> {} [dir={direction}, style={style}, color=\"{colour}\", penwidth=1.3{ends}, tooltip={}];",
            quote(&peer_node(from)),
            quote(&peer_node(to)),
            quote(&tip)
        );
    }

    fn server_colour(&self, id: &str) -> &'static str {
        let place = self.servers.keys().position(|known| known == id).unwrap_or(0);
        ["#c65d00", "#6a1b9a", "#00696b", "#ad1457", "#1a56b0"][place % 5]
    }
}

/// Where the peer at `place` of `count` is drawn, in points: clockwise from a little beside the top.
#[allow(clippy::cast_precision_loss, reason = "a picture")]
fn on_ring(place: usize, count: usize, radius: usize) -> (f64, f64) {
    let angle = std::f64::consts::TAU * (place as f64 + 0.5) / count.max(1) as f64;
    (angle.sin() * radius as f64, angle.cos() * radius as f64)
}

/// A number that stays readable on top of its line.
fn number(text: &str, colour: &str) -> String {
    format!(
        "<<table border=\"0\" cellpadding=\"0\" cellspacing=\"0\" bgcolor=\"white\"><tr><td><font color=\"{colour}\">{text}</font></td></tr></table>>"
    )
}

fn way(peer: &Peer) -> Way {
    Way {
        path: if peer.connected { peer.path } else { PathKind::None },
        server: peer.server.clone().filter(|_| peer.path == PathKind::Relay),
        rtt_ms: peer.rtt_ms,
        reason: peer.reason.clone().unwrap_or_default(),
    }
}

fn peer_node(key: &str) -> String {
    format!("peer {key}")
}

fn server_node(id: &str) -> String {
    format!("server {id}")
}

fn cluster_colour(cluster: usize) -> &'static str {
    ["#e3f2fd", "#e8f5e9", "#fce4ec", "#f3e5f5", "#fffde7", "#e0f7fa", "#efebe9"][cluster % 7]
}
