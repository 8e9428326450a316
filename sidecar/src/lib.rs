//! The campfire peer: TUN, UDP, the control loop around the mesh, status.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`cli`], [`config`], [`secrets`] | flags, environment, file; checked once |
//! | [`membership`] | a peer in no cluster certifies itself |
//! | [`control`] | the loop around [`campfire_mesh::Mesh`], the interface |
//! | [`pod`] | a peer in a pod: settings from the operator, reports to it, what its init container does |
//! | [`plane`], [`data`] | the hot thread and the contract with it |
//! | [`report`], [`show`], [`graph`], [`why`], [`ping`], [`netcheck`] | what a peer tells of itself, for people |
//! | [`http`], [`uapi`], [`metrics`] | and for programs |
//! | [`wg`] | what the real `wg show` prints, where there is none |

#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]

pub mod cli;
pub mod config;
pub mod control;
pub mod data;
pub mod graph;
pub mod http;
pub mod logging;
pub mod membership;
pub mod metrics;
pub mod netcheck;
pub mod ping;
pub mod plane;
pub mod pod;
pub mod report;
pub mod secrets;
pub mod show;
pub mod uapi;
pub mod underlay;
pub mod wg;
pub mod why;
