//! What the operator is told at its start.

use std::net::IpAddr;
use std::time::Duration;

use campfire_api::Resources;
use clap::ValueEnum;

use crate::members::{Served, Trusted};

/// What the operator was told at its start: [`crate::cli`] reads it from flags and environment.
#[derive(Clone, Debug, Default)]
pub struct OperatorSettings {
    /// Namespace that it runs in.
    pub namespace: String,
    /// Its pod's name: its identity in the Lease and in events.
    pub pod_name: String,
    /// Its pod's address: what the EndpointSlice of the agent Service says while it leads.
    pub pod_ip: Option<IpAddr>,
    /// Image of the sidecar.
    pub sidecar_image: String,
    /// Image of the TURN servers.
    pub turn_image: String,
    /// `Always`, `IfNotPresent` or `Never`, for both.
    pub image_pull_policy: String,
    /// CPU and memory of sidecars whose Campfire asks for none.
    pub sidecar_resources: Option<Resources>,
    /// The Pod Security Standard of namespaces that have no label, where no Campfire's namespace tells it.
    pub pod_security: Level,
    /// Namespaces whose Campfires say what sidecars of other namespaces are.
    pub trusted: Trusted,
    /// How this cluster is called where a Campfire does not say.
    pub cluster_name: String,
    /// Namespaces that may hold Campfires.
    pub served: Served,
    /// How long the MeshPeer of a peer elsewhere stays after the peer left.
    pub remote_peers_linger: Duration,
    /// Port of health and metrics.
    pub http_port: u16,
    /// Port of the agent API.
    pub agent_port: u16,
    /// Port of the webhook.
    pub webhook_port: u16,
}

/// A Pod Security Standard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Everything is allowed.
    #[default]
    Privileged,
    /// No added capabilities.
    Baseline,
    /// What hardened pods do.
    Restricted,
}

impl Level {
    /// As namespaces are labelled.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}
