//! `kubectl campfire`: what goes on at the campfires of one cluster or of several, and why.
//!
//! It knows nothing of its own: it shows what stands in the objects of the API, and asks sidecars (`kubectl exec`) what they know of themselves.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`cli`], [`complete`] | the command line and its completion |
//! | [`cluster`] | one context of the kubeconfig: objects, sidecars, and what to do where they cannot be had |
//! | [`member`], [`report`] | which pod is meant; what its sidecar tells of itself |
//! | [`status`], [`ask`], [`join`] | `status` and `peers`; `why` and `ping`; `join` |
//! | [`check`] | what is wrong, why, and what to do |
//! | [`node`] | the agent that makes interfaces for pods without rights, and what a pod of its waits for |
//! | [`netcheck`], [`dump`] | what a pod's network lets through; all that a report of a fault needs |
//! | [`graph`] | who sees whom, as a picture |

#![deny(clippy::wildcard_enum_match_arm, clippy::too_many_lines)]

pub mod ask;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod complete;
pub mod dump;
pub mod graph;
pub mod join;
pub mod member;
pub mod netcheck;
pub mod node;
pub mod report;
pub mod run;
pub mod status;
