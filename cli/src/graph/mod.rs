//! `graph`: who sees whom, as a picture that needs no other program.
//!
//! | module | what it holds |
//! | --- | --- |
//! | here | who and which links, out of what sidecars tell |
//! | [`layout`] | where everything stands: a pure function |
//! | [`svg`], [`png`], [`dot`] | how it is written |

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::cluster::Cluster;
use crate::report::{Report, label};

pub mod dot;
pub mod layout;
pub mod png;
pub mod svg;

/// More sidecars than this, and it is said that they are asked: it takes a while.
const MANY: usize = 40;

/// Peers and what is between them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// By cluster and name.
    pub peers: Vec<Node>,
    /// Servers that relay.
    pub servers: Vec<String>,
    /// Each pair once.
    pub links: Vec<Link>,
}

/// A peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Its cluster; may be empty.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Its public key.
    pub key: String,
}

/// A pair that knows of each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Indices of both in [`Graph::peers`], the lesser first.
    pub ends: (usize, usize),
    /// How their packets go; of two answers the worse.
    pub way: Way,
    /// Least round trip that one of them measured, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Why it is not direct.
    pub why: String,
}

/// How packets go: the better, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Straight.
    Direct,
    /// Through a server: index in [`Graph::servers`].
    Relay(usize),
    /// Not at all.
    None,
}

/// Asks all sidecars.
pub async fn gather(clusters: &[Cluster]) -> Result<Graph> {
    let mut reports = Vec::new();
    let mut silent = Vec::new();
    for cluster in clusters {
        let members = cluster.members().await?;
        if members.len() > MANY {
            eprintln!("asking {} sidecars in {}", members.len(), cluster.place());
        }
        for (_, report) in cluster.reports(&members).await {
            match report {
                Ok(report) => reports.push(report),
                Err(error) => silent.push(error),
            }
        }
    }
    if reports.is_empty() {
        if let Some(error) = silent.pop() {
            return Err(error);
        }
        let places: Vec<String> = clusters.iter().map(Cluster::place).collect();
        bail!("no pod in {} has a sidecar", places.join(" or in "));
    }
    for error in silent.iter().take(5) {
        eprintln!("not in the picture: {error:#}");
    }
    if silent.len() > 5 {
        eprintln!("and {} more", silent.len() - 5);
    }
    Ok(Graph::of(&reports))
}

impl Graph {
    /// Of what peers tell.
    pub fn of(reports: &[Report]) -> Self {
        let mut known: BTreeMap<&str, Node> = BTreeMap::new();
        let node = |cluster: &str, name: &str, namespace: &str, key: &str| {
            let name = label(name, key);
            let name = if namespace.is_empty() { name } else { format!("{name}.{namespace}") };
            Node { cluster: cluster.to_owned(), name, key: key.to_owned() }
        };
        for report in reports {
            for peer in &report.peers {
                known.entry(&peer.public_key).or_insert_with(|| node(&peer.cluster, &peer.name, &peer.namespace, &peer.public_key));
            }
        }
        // What a peer says of itself counts.
        for own in reports.iter().map(|report| &report.own) {
            known.insert(&own.public_key, node(&own.cluster, &own.name, &own.namespace, &own.public_key));
        }
        let mut peers: Vec<Node> = known.into_values().collect();
        peers.sort();
        let place: BTreeMap<&str, usize> = peers.iter().enumerate().map(|(place, node)| (node.key.as_str(), place)).collect();
        let mut servers: Vec<String> = reports.iter().flat_map(|report| &report.peers).filter_map(|peer| peer.server.clone()).collect();
        servers.sort();
        servers.dedup();

        let mut links: BTreeMap<(usize, usize), Link> = BTreeMap::new();
        for report in reports {
            let Some(own) = place.get(report.own.public_key.as_str()) else { continue };
            for peer in &report.peers {
                let Some(other) = place.get(peer.public_key.as_str()).filter(|other| *other != own) else { continue };
                let server = peer.server.as_ref().and_then(|server| servers.binary_search(server).ok());
                let way = match peer.path.as_str() {
                    "Direct" if peer.connected => Way::Direct,
                    "Relay" if peer.connected => server.map_or(Way::None, Way::Relay),
                    _ => Way::None,
                };
                let why = peer.reason.clone().filter(|_| way != Way::Direct).unwrap_or_default();
                let new = Link { ends: (*own.min(other), *own.max(other)), way, rtt_ms: peer.rtt_ms, why };
                links.entry(new.ends).and_modify(|link| link.and(&new)).or_insert(new);
            }
        }
        Self { links: links.into_values().collect(), servers, peers }
    }
}

impl Link {
    /// What the other end says of it.
    fn and(&mut self, other: &Self) {
        let rtt_ms = [self.rtt_ms, other.rtt_ms].into_iter().flatten().reduce(f64::min);
        if other.way > self.way {
            *self = other.clone();
        }
        self.rtt_ms = rtt_ms;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::{Own, Peer};

    #[test]
    fn a_pair_is_one_link_and_of_two_answers_the_worse_counts() {
        let ada = report("ada", "one", &[("bob", "two", "Relay", Some("oak"), 9.0)]);
        let bob = report("bob", "two", &[("ada", "", "Direct", None, 3.0), ("eve", "", "None", None, 0.0)]);
        let graph = Graph::of(&[ada, bob]);
        let names: Vec<&str> = graph.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["eve", "ada", "bob"], "by cluster and name");
        assert_eq!(graph.peers[1].cluster, "one", "as it says itself");
        assert_eq!(graph.servers, ["oak"]);
        let ways: Vec<_> = graph.links.iter().map(|link| (link.ends, link.way, link.rtt_ms)).collect();
        assert_eq!(ways, [((0, 2), Way::None, Some(0.0)), ((1, 2), Way::Relay(0), Some(3.0))]);
    }

    #[test]
    fn nobody_makes_an_empty_graph() {
        assert_eq!(Graph::of(&[]), Graph::default());
    }

    type Told<'a> = (&'a str, &'a str, &'a str, Option<&'a str>, f64);

    fn report(name: &str, cluster: &str, peers: &[Told<'_>]) -> Report {
        let own = Own { public_key: format!("key of {name}"), name: name.into(), cluster: cluster.into(), ..Own::default() };
        let peers = peers.iter().map(|(name, cluster, path, server, rtt)| Peer {
            name: (*name).into(),
            cluster: (*cluster).into(),
            public_key: format!("key of {name}"),
            connected: *path != "None",
            path: (*path).into(),
            server: server.map(str::to_owned),
            rtt_ms: Some(*rtt),
            ..Peer::default()
        });
        Report { own, peers: peers.collect(), ..Report::default() }
    }

    /// A mesh of so many peers in so many clusters: directly within one, else through one of two servers.
    pub(crate) fn mesh(peers: usize, clusters: usize) -> Graph {
        let cluster = |peer: usize| peer * clusters / peers;
        let node = |peer: usize| Node {
            cluster: format!("cluster-{}", cluster(peer)),
            name: format!("hello-6d9f7c5b84-{peer:05}.default"),
            key: format!("{peer}"),
        };
        let mut links = Vec::new();
        for a in 0..peers {
            for b in a + 1..peers {
                let way = match (cluster(a) == cluster(b), (a + b) % 97) {
                    (_, 0) => Way::None,
                    (true, _) => Way::Direct,
                    (false, rest) => Way::Relay(rest % 2),
                };
                links.push(Link { ends: (a, b), way, rtt_ms: Some(12.5), why: "a NAT is in the way".into() });
            }
        }
        Graph { peers: (0..peers).map(node).collect(), servers: vec!["birch".into(), "oak".into()], links }
    }
}
