//! A graph in the language of Graphviz, for those who want to lay it out in their own way.

use std::fmt::Write as _;

use super::{Graph, Way};
use campfire_text::{dot_quoted as quote, milliseconds};

/// The graph.
pub fn write(graph: &Graph) -> String {
    let mut out =
        String::from("graph campfire {\n  node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=\"sans-serif\"];\n");
    for (place, peer) in graph.peers.iter().enumerate() {
        let cluster = if peer.cluster.is_empty() { String::new() } else { format!("\n{}", peer.cluster) };
        let _ = writeln!(out, "  p{place} [label={}, tooltip={}];", quote(&format!("{}{cluster}", peer.name)), quote(&peer.key));
    }
    for link in &graph.links {
        let (style, how) = match link.way {
            Way::Direct => ("solid, color=\"#2e7d32\"", "direct".to_owned()),
            Way::Relay(server) => ("dashed, color=\"#c65d00\"", format!("via {}", graph.servers.get(server).map_or("", String::as_str))),
            Way::None => ("dotted, color=\"#9e9e9e\"", "not connected".to_owned()),
        };
        let rtt = link.rtt_ms.map(|rtt| format!(", {}", milliseconds(rtt))).unwrap_or_default();
        let _ = writeln!(out, "  p{} -- p{} [style={style}, tooltip={}];", link.ends.0, link.ends.1, quote(&format!("{how}{rtt}")));
    }
    out.push_str("}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::mesh;
    use super::*;

    #[test]
    fn each_pair_is_one_line_and_names_cannot_break_out() {
        let mut graph = mesh(3, 2);
        graph.peers[0].name = "x\"];evil[label=\"\\".into();
        let text = write(&graph);
        assert_eq!(text.matches(" -- ").count(), 3, "{text}");
        assert!(text.contains(r#"label="x\"];evil[label=\"\\"#), "{text}");
    }
}
