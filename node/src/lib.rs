//! The agent of a node: makes the interface of a mesh for pods that may do nothing (docs/decisions/0031).
//!
//! A pod of a namespace that enforces `restricted` may not have NET_ADMIN, so this privileged process, one a node, makes its interface and hands its
//! sidecar the open device. It makes interfaces and nothing else: it holds no key, carries no packet, asks the API server for nothing and dials nobody.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`run`] | all parts, from start to end |
//! | [`grpc`] | the kubelet's two sockets: registration and CSI; [`authority`] makes what it sends readable, [`csi`] has the messages |
//! | [`driver`] | what the kubelet may ask: who we are, volumes' beginning and end |
//! | [`volume`] | a volume as the kubelet asks for it, read and checked; its directory |
//! | [`records`] | which volumes are published, on disk |
//! | [`pods`] | pods' sockets: who asks, how much, whether it may |
//! | [`networks`] | networks that are no pod's |
//! | [`make`] | the thread that enters a pod's network and makes the interface |
//! | [`metrics`] | figures for Prometheus, where they are asked for |
//! | [`probe`] | what probes run |
//! | [`uninstall`] | what the chart runs before it is uninstalled, and nobody else |

#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod authority;
pub mod cli;
pub mod csi;
pub mod driver;
pub mod grpc;
pub mod make;
pub mod metrics;
pub mod networks;
pub mod pods;
pub mod probe;
pub mod records;
pub mod run;
pub mod uninstall;
pub mod volume;
