//! The command line.

use std::path::PathBuf;

use campfire_api::names::NODE_DRIVER;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Exit status when the command line or the environment cannot be used.
pub const BAD_USAGE: u8 = 64;
/// Exit status when something failed while running.
pub const FAILED: u8 = 1;

const EXIT: &str = "Exit status: 0 after SIGTERM or SIGINT, 1 when something failed, 64 when the command line cannot be used.";

/// Campfire's agent of a node: makes the interface of a mesh for pods that may do nothing. A CSI driver (node.campfire.network) of inline volumes; by a
/// pod's volume it knows the pod, and by a grant of Campfire's operator what to make. It holds no key, carries no packet and has no rights in the API.
#[derive(Debug, Parser)]
#[command(name = "campfire-node", version, after_help = EXIT)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent, privileged, with the kubelet's directories plugins, plugins_registry and pods.
    Run(Run),
    /// Ask the agent of this node whether it lives: what its probes run.
    Probe(Probe),
    /// Ask the API server whether any pod has a volume of the driver: what the chart runs before it is uninstalled. Fails as long as one has.
    MayUninstall,
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

/// The kubelet's directory.
#[derive(Args, Debug)]
pub struct Kubelet {
    /// The kubelet's directory (its --root-dir), here where it is on the node.
    #[arg(long, env = "CAMPFIRE_KUBELET_DIR", value_name = "PATH", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: PathBuf,
}

impl Kubelet {
    /// Our own directory in it: the driver's socket, and records.
    pub fn own(&self) -> PathBuf {
        self.kubelet_dir.join("plugins").join(NODE_DRIVER)
    }

    /// Where the kubelet asks for volumes.
    pub fn driver_socket(&self) -> PathBuf {
        self.own().join("csi.sock")
    }

    /// Where it finds that there is a driver.
    pub fn registration_socket(&self) -> PathBuf {
        self.kubelet_dir.join("plugins_registry").join(format!("{NODE_DRIVER}-reg.sock"))
    }
}

/// Flags of `run`.
#[derive(Args, Debug)]
#[command(after_help = EXIT)]
pub struct Run {
    /// Where the kubelet is.
    #[command(flatten)]
    pub kubelet: Kubelet,
    /// Name of the node.
    #[arg(long, env = "CAMPFIRE_NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// File with the public key of the operator's grants (64 hex digits), as ConfigMap campfire-node has it. It is read for each request: it may come and
    /// change while the agent runs.
    #[arg(long, env = "CAMPFIRE_KEY_FILE", value_name = "PATH", default_value = "/etc/campfire-node/public-key")]
    pub key_file: PathBuf,
    /// The device node of TUN; made where there is none.
    #[arg(long, env = "CAMPFIRE_TUN", value_name = "PATH", default_value = "/dev/net/tun")]
    pub tun: PathBuf,
    /// Port of metrics for Prometheus (HTTP, /metrics), on all addresses. [default: none]
    #[arg(long, env = "CAMPFIRE_METRICS_PORT", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub metrics_port: Option<u16>,
    /// How the log is written, to standard error.
    #[arg(long, env = "CAMPFIRE_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t, help_heading = "Log")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,campfire_node=debug.
    #[arg(long, env = "CAMPFIRE_LOG", value_name = "FILTER", default_value = "info", help_heading = "Log")]
    pub log: String,
}

/// Flags of `probe`.
#[derive(Args, Debug)]
pub struct Probe {
    /// Where the kubelet is.
    #[command(flatten)]
    pub kubelet: Kubelet,
    /// Not only that it answers: that the kubelet has registered it, and volumes can be published.
    #[arg(long)]
    pub ready: bool,
}
