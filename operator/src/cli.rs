//! The command line.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use campfire_api::{Resources, names};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::members::{Served, Trusted, is_label};
use crate::settings::{Level, OperatorSettings};

/// Exit status when the command line or the environment cannot be used.
pub const BAD_USAGE: u8 = 64;
/// Exit status when something failed while running.
pub const FAILED: u8 = 1;

/// Campfire's operator: makes what Campfire and MeshPeer resources ask for, gives pods their sidecar, and sidecars their keys.
#[derive(Debug, Parser)]
#[command(name = "campfire-operator", version, after_help = EXIT)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT: &str = "Exit status: 0 after SIGTERM or SIGINT, 1 when something failed, 64 when the command line cannot be used.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator. Several may run in a cluster: one leads, all serve the webhook.
    Run(Box<Run>),
    /// Print the CustomResourceDefinitions as YAML, for `kubectl apply --server-side -f -`.
    Crds,
    /// Ask a running operator at URL (http alone) until it answers 200, for at most 30 s: what `helm test` runs.
    Probe {
        /// Such as <http://campfire-operator.campfire-system.svc:8080/readyz>.
        url: String,
    },
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of `run`.
#[derive(Args, Debug)]
#[command(after_help = EXIT)]
pub struct Run {
    /// Image of the sidecar that member pods get.
    #[arg(long, env = "CAMPFIRE_SIDECAR_IMAGE", value_name = "IMAGE", help_heading = "What it deploys")]
    sidecar_image: Option<String>,
    /// Image of the TURN servers.
    #[arg(long, env = "CAMPFIRE_TURN_IMAGE", value_name = "IMAGE", help_heading = "What it deploys")]
    turn_image: Option<String>,
    /// When both are pulled: Always, IfNotPresent or Never.
    #[arg(long, env = "CAMPFIRE_IMAGE_PULL_POLICY", value_name = "POLICY", default_value = "IfNotPresent",
          value_parser = ["Always", "IfNotPresent", "Never"], help_heading = "What it deploys")]
    image_pull_policy: String,
    /// CPU and memory of sidecars, as JSON: {"requests":{"cpu":"10m"},"limits":{"memory":"128Mi"}}. A Campfire's spec.sidecar.resources
    /// wins.
    #[arg(long, env = "CAMPFIRE_SIDECAR_RESOURCES", value_name = "JSON", help_heading = "What it deploys")]
    sidecar_resources: Option<String>,

    /// The Pod Security Standard that the cluster enforces in namespaces without a label. Found out by a dry run where a Campfire's namespace has
    /// none; this holds until then.
    #[arg(long, env = "CAMPFIRE_POD_SECURITY", value_name = "LEVEL", value_enum, default_value_t, help_heading = "What it looks at")]
    pod_security: Level,
    /// Namespaces that may hold Campfires, separated by commas. There, and nowhere else, it reads and writes Secrets. Left out: all
    /// namespaces, for which its ServiceAccount needs rights to Secrets everywhere.
    #[arg(long, env = "CAMPFIRE_NAMESPACES", value_name = "NAMES", value_delimiter = ',', help_heading = "What it looks at")]
    campfire_namespaces: Vec<String>,
    /// Namespaces whose Campfires say what sidecars in other namespaces are (spec.sidecar) and what they route into the mesh
    /// (spec.network.acceptRoutes), separated by commas. Left out: none; there sidecars are as the other flags say.
    #[arg(long, env = "CAMPFIRE_TRUSTED_NAMESPACES", value_name = "NAMES", value_delimiter = ',', help_heading = "What it looks at")]
    trusted_namespaces: Vec<String>,
    /// How this cluster is called in names and tables, unless a Campfire says otherwise.
    #[arg(long, env = "CAMPFIRE_CLUSTER_NAME", value_name = "NAME", default_value = "", help_heading = "What it looks at")]
    cluster_name: String,
    /// Seconds for which the MeshPeer of a peer of another cluster stays after the peer left.
    #[arg(long, env = "CAMPFIRE_REMOTE_PEERS_LINGER", value_name = "SECONDS", default_value_t = 600,
          value_parser = clap::value_parser!(u32).range(10..=86_400), help_heading = "What it looks at")]
    remote_peers_linger: u32,

    /// Namespace that it runs in: of its Lease, its CA and its Services.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "campfire-system", help_heading = "Who it is")]
    namespace: String,
    /// Its name in the Lease and in events. Default: the host's.
    #[arg(long, env = "POD_NAME", value_name = "NAME", help_heading = "Who it is")]
    pod_name: Option<String>,
    /// Its address, at which sidecars reach it while it leads.
    #[arg(long, env = "POD_IP", value_name = "IP", help_heading = "Who it is")]
    pod_ip: Option<IpAddr>,

    // Ports are no variables: a Service campfire-agent makes the kubelet set CAMPFIRE_AGENT_PORT to something else.
    /// Port of /healthz, /readyz and /metrics.
    #[arg(long, value_name = "PORT", default_value_t = names::HTTP_PORT, help_heading = "Where it listens")]
    http_port: u16,
    /// Port of the API that sidecars talk to.
    #[arg(long, value_name = "PORT", default_value_t = names::AGENT_PORT, help_heading = "Where it listens")]
    agent_port: u16,
    /// Port of the injection webhook.
    #[arg(long, value_name = "PORT", default_value_t = names::WEBHOOK_PORT, help_heading = "Where it listens")]
    webhook_port: u16,

    /// How the log is written, to standard error.
    #[arg(long, env = "CAMPFIRE_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t, help_heading = "Log")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,campfire_operator=debug.
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info", help_heading = "Log")]
    pub log: String,
}

impl Run {
    /// Checks the flags. The error says which one to change.
    pub fn settings(&self) -> Result<OperatorSettings> {
        let version = env!("CARGO_PKG_VERSION");
        let sidecar_resources: Option<Resources> = match self.sidecar_resources.as_deref().map(str::trim) {
            None | Some("") => None,
            Some(text) => Some(serde_json::from_str(text).context("--sidecar-resources: expected JSON with `requests` and `limits`")?),
        };
        let lists = [("--campfire-namespaces", &self.campfire_namespaces), ("--trusted-namespaces", &self.trusted_namespaces)];
        let listed = lists.into_iter().flat_map(|(flag, names)| names.iter().map(move |name| (flag, name)));
        for (flag, name) in listed.chain([("--namespace", &self.namespace)]) {
            if !name.is_empty() && !is_label(name) {
                bail!("{flag}: {name:?} is no name of a namespace");
            }
        }
        if !self.cluster_name.is_empty() && !is_label(&self.cluster_name) {
            bail!("--cluster-name: expected at most 63 lower-case letters, digits and '-', found {:?}", self.cluster_name);
        }
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Ok(OperatorSettings {
            namespace: self.namespace.clone(),
            pod_name: self.pod_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(host),
            pod_ip: self.pod_ip,
            sidecar_image: self.sidecar_image.clone().unwrap_or_else(|| format!("localhost/campfire:{version}")),
            turn_image: self.turn_image.clone().unwrap_or_else(|| format!("localhost/campfire-turn:{version}")),
            image_pull_policy: self.image_pull_policy.clone(),
            sidecar_resources,
            pod_security: self.pod_security,
            cluster_name: self.cluster_name.clone(),
            trusted: Trusted::new(self.trusted_namespaces.iter().filter(|name| !name.is_empty())),
            served: Served::new(self.campfire_namespaces.iter().filter(|name| !name.is_empty())),
            remote_peers_linger: Duration::from_secs(self.remote_peers_linger.into()),
            http_port: self.http_port,
            agent_port: self.agent_port,
            webhook_port: self.webhook_port,
        })
    }
}
