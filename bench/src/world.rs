//! Two ends in network namespaces of their own, and between them a cable or a node that forwards.

use std::net::Ipv4Addr;

use anyhow::Result;
use campfire_lab::{Namespace, Net, Route};
use clap::ValueEnum;
use serde::Serialize;

/// What lies between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// One cable: hosts on one network.
    Bare,
    /// A node that forwards between two cables, as it does for pods.
    Pod,
}

impl Topology {
    /// The one that was asked for, or both.
    pub fn chosen(one: Option<Self>) -> Vec<Self> {
        one.map_or(vec![Self::Bare, Self::Pod], |one| vec![one])
    }
}

/// The addresses of the two ends.
pub const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 1, 1), Ipv4Addr::new(10, 77, 2, 1)];
/// The node's, towards each end.
pub const NODE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 1, 2), Ipv4Addr::new(10, 77, 2, 2)];
/// All of them.
pub const NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 77, 0, 0), 16);

/// The namespaces; removed when dropped.
pub struct World {
    /// At `ADDRESSES`, device `cable`.
    pub ends: [Namespace; 2],
    /// What forwards between them.
    pub node: Option<Namespace>,
    _net: Net,
}

impl World {
    /// Makes them; what an interrupted run left is removed first.
    pub fn new(topology: Topology) -> Result<Self> {
        let net = Net::new("bench")?;
        let ends = [net.namespace("a")?, net.namespace("b")?];
        let node = match topology {
            Topology::Bare => {
                net.cable((&ends[0], "cable"), (&ends[1], "cable"))?;
                None
            }
            Topology::Pod => {
                let node = net.namespace("node")?;
                for (end, address) in ends.iter().zip(NODE) {
                    let port = format!("to-{}", end.name());
                    net.cable((end, "cable"), (&node, &port))?;
                    node.address(&port, address, 24)?;
                }
                node.forwards()?;
                Some(node)
            }
        };
        for ((end, address), router) in ends.iter().zip(ADDRESSES).zip(NODE) {
            end.address("cable", address, 24)?;
            let all = Route::to(NETWORK.0, NETWORK.1);
            end.route(&if node.is_some() { all.via(router) } else { all.on("cable") })?;
        }
        Ok(Self { ends, node, _net: net })
    }
}
