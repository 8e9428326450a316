//! Campfire's operator: makes what `Campfire` and `MeshPeer` resources ask for, gives pods their sidecar, and sidecars their keys.
//!
//! | module | what it does |
//! | --- | --- |
//! | `campfire` | reconciles Campfires: keys, TURN servers, endpoints, join secrets, status |
//! | `meshpeer` | makes, keeps and removes MeshPeers; writes transitions within a budget |
//! | `fire` | sits at each fire, without a tunnel: publishes this cluster's servers, reads the others', sees who is there |
//! | [`agent`] | the API that sidecars get their settings from and report to |
//! | [`webhook`] | injects the sidecar into new pods |
//! | [`grants`] | signs what pods without rights show their node's agent, and tells agents by what key |
//! | [`certs`] | the operator's own CA and its certificates |
//! | [`conditions`], [`events`] | what statuses and events say, by the conventions |
//! | [`definitions`] | whether the API server's are those of this operator |
//! | [`cluster`] | the client and the caches |
//! | [`leadership`] | whether this replica may write |
//! | [`members`] | who may sit at which fire |
//! | [`nodes`] | what the cluster's nodes have for pods |
//! | [`origin`] | what the operator's identities are made from |
//! | [`state`] | what the parts tell each other |
//!
//! The parts tell each other by [`state`] and decide who may sit where by [`members`]; none calls another, but that pods without a sidecar are
//! looked for with the webhook's own rule. [`run`] starts them all, and those of the leader while it leads.

#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod agent;
pub mod bounds;
pub mod campfire;
pub mod certs;
pub mod cli;
pub mod cluster;
pub mod conditions;
pub mod context;
pub mod definitions;
pub mod events;
pub mod fire;
pub mod grants;
pub mod health;
pub mod leadership;
pub mod members;
pub mod meshpeer;
pub mod metrics;
pub mod nodes;
pub mod origin;
pub mod probe;
pub mod run;
pub mod settings;
pub mod state;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod webhook;
