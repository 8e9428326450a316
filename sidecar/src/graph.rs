//! `campfire graph`: who sees whom, as a Graphviz graph, from one report or from several.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use campfire_mesh::status::{PathKind, Peer, ServerState};

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

/// The reports as one graph: a node for each peer and server; a solid line where both sides go directly, a dashed one
/// where a server relays, an arrow where only one direction is known or both differ.
pub fn dot(reports: &[Report]) -> String {
    // Public key → name, cluster.
    let mut peers: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut servers: BTreeSet<String> = BTreeSet::new();
    let mut camps: BTreeSet<(String, String)> = BTreeSet::new();
    let mut ways: BTreeMap<(String, String), Way> = BTreeMap::new();
    for report in reports {
        let own = &report.status.own;
        let me = own.public_key.clone();
        peers.insert(me.clone(), (full_name(&label(&own.name, &me), &own.namespace, ""), own.cluster.clone()));
        for server in &report.status.servers {
            servers.insert(server.id.clone());
            if server.state == ServerState::Camped {
                camps.insert((me.clone(), server.id.clone()));
            }
        }
        for peer in &report.status.peers {
            let name = (full_name(&label(&peer.name, &peer.public_key), &peer.namespace, ""), peer.cluster.clone());
            peers.entry(peer.public_key.clone()).or_insert(name);
            servers.extend(peer.server.clone());
            ways.insert((me.clone(), peer.public_key.clone()), way(peer));
        }
    }

    let mut out = String::from("digraph campfire {\n");
    out.push_str("  graph [layout=neato, overlap=false, splines=true, outputorder=edgesfirst, fontname=\"sans-serif\"];\n");
    out.push_str("  node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=\"sans-serif\", fontsize=11];\n");
    out.push_str("  edge [fontname=\"sans-serif\", fontsize=9, len=2.5];\n");
    let clusters: BTreeSet<&String> = peers.values().map(|(_, cluster)| cluster).collect();
    for (key, (name, cluster)) in &peers {
        let shown = if cluster.is_empty() { name.clone() } else { format!("{name}\n{cluster}") };
        let colour = colour(clusters.iter().position(|known| *known == cluster).unwrap_or(0));
        let _ = writeln!(out, "  {} [label={}, fillcolor=\"{colour}\"];", quote(&peer_node(key)), quote(&shown));
    }
    for id in &servers {
        let _ = writeln!(out, "  {} [label={}, shape=cylinder, fillcolor=\"#ffe0b3\"];", quote(&server_node(id)), quote(id));
    }
    for (peer, server) in &camps {
        let _ =
            writeln!(out, "  {} -> {} [dir=none, color=\"#d9a05b\", style=dotted];", quote(&peer_node(peer)), quote(&server_node(server)));
    }
    for ((from, to), way) in &ways {
        let back = ways.get(&(to.clone(), from.clone()));
        let both = back.is_some_and(|back| back.path == way.path && back.server == way.server);
        if both && from > to {
            // Drawn from the other side.
            continue;
        }
        edge(&mut out, from, to, way, both);
    }
    out.push_str("}\n");
    out
}

fn edge(out: &mut String, from: &str, to: &str, way: &Way, both: bool) {
    let (style, colour, label) = match way.path {
        PathKind::Direct => ("solid", "#2e7d32", milliseconds(way.rtt_ms)),
        PathKind::Relay => {
            let server = way.server.as_deref().unwrap_or("relay");
            ("dashed", "#c65d00", format!("{} via {server}", milliseconds(way.rtt_ms)))
        }
        PathKind::None => ("dotted", "#b0b0b0", "not connected".to_owned()),
    };
    let direction = if both { "both" } else { "forward" };
    let tip = if way.path == PathKind::Relay { way.reason.as_str() } else { "" };
    let _ = writeln!(
        out,
        "  {} -> {} [dir={direction}, arrowsize=0.5, style={style}, color=\"{colour}\", label={}, tooltip={}];",
        quote(&peer_node(from)),
        quote(&peer_node(to)),
        quote(&label),
        quote(tip)
    );
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

fn colour(cluster: usize) -> &'static str {
    ["#e3f2fd", "#e8f5e9", "#fce4ec", "#f3e5f5", "#fffde7", "#e0f7fa", "#efebe9"][cluster % 7]
}

/// A quoted string of the DOT language; names come from others.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
