//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// `kubectl campfire`.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-campfire",
    bin_name = "kubectl campfire",
    display_name = "kubectl campfire",
    version,
    about = "What goes on at the campfires of your clusters, and why",
    after_long_help = "\
Pods are named as `hello-6d9f7c5b84-4xkzp`, or by how they begin (`hello`: the first that is ready; of two pods, two), or with their namespace \
(`shop/hello`). Several --context stand for several clusters; `why` and `ping` take the first for the first pod and the last for the second.

Examples:
  kubectl campfire status                          what there is, and what is wrong
  kubectl campfire ping hello hello                does one pod answer another, how fast, on which path?
  kubectl campfire why hello shop                  why is that path what it is, and what would help?
  kubectl campfire graph -o svg > mesh.svg         who sees whom
  kubectl campfire check                           what is wrong, and what to do
  kubectl campfire --context berlin join paris     bring another cluster to the fire

Exit codes: 0 done, 1 failed (the message says what to do), 64 wrong arguments."
)]
pub struct Cli {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub scope: Scope,
    #[allow(missing_docs)]
    #[command(subcommand)]
    pub command: Command,
}

/// Which clusters and namespaces.
#[derive(Clone, Debug, Default, Args)]
pub struct Scope {
    /// Namespace [default: the context's]
    #[arg(short, long, global = true, value_name = "NAME", help_heading = "Where")]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace", help_heading = "Where")]
    pub all_namespaces: bool,
    /// Context of the kubeconfig; several stand for several clusters [default: the current one]
    #[arg(long, global = true, value_name = "NAME", value_delimiter = ',', help_heading = "Where")]
    pub context: Vec<String>,
    /// The kubeconfig [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Where")]
    pub kubeconfig: Option<PathBuf>,
}

/// What is asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show campfires: servers, peers by cluster, the key in use, and what is wrong
    #[command(after_long_help = "Examples:\n  kubectl campfire status\n  kubectl campfire status -A --context berlin --context paris")]
    Status,
    /// Show who is there: address, path, and why it is not direct
    #[command(after_long_help = "Example:\n  kubectl campfire peers -n shop")]
    Peers,
    /// Explain why the path between two pods is what it is, and what would help
    #[command(
        after_long_help = "Examples:\n  kubectl campfire why hello shop\n  kubectl campfire why hello laptop                                       a machine outside\n  kubectl campfire --context berlin --context paris why hello hello       across clusters"
    )]
    Why(Pair),
    /// Ask from one pod whether another answers, how fast, and on which path
    #[command(
        after_long_help = "Asked by small packets inside the session, so no firewall for pings is in the way, and no right is needed in the pod.\n\nExamples:\n  kubectl campfire ping hello hello\n  kubectl campfire --context berlin --context paris ping hello hello       across clusters\n  kubectl campfire ping --full hello shop                                 do large packets come through?"
    )]
    Ping(PingArgs),
    /// Draw who sees whom
    #[command(
        after_long_help = "A solid line is a direct path, a dashed one goes through the server of its colour. With more than 12 peers the lines between two clusters are one.\n\nExamples:\n  kubectl campfire graph > mesh.svg\n  kubectl campfire graph -o png > mesh.png\n  kubectl campfire graph -A --context berlin --context paris > both.svg"
    )]
    Graph(GraphArgs),
    /// Bring other clusters to this cluster's fire: carries the join secret there, and never shows it
    #[command(
        after_long_help = "In each CONTEXT, where the chart must be installed, a Secret and a Campfire are made that joins; where that Campfire is there already its Secret is renewed, as is needed after the key has been rotated.\n\nExample:\n  kubectl campfire --context berlin join paris oslo"
    )]
    Join(JoinArgs),
    /// Look for what is wrong, and say what to do
    #[command(
        after_long_help = "Nothing is pulled and nothing is left behind: a pod for the webhook is made in a dry run. What each line means stands in docs/cli.md.\n\nExit codes: 0 all is well, 1 something to know of, or that could not be looked at, 2 something does not work.\n\nExamples:\n  kubectl campfire check --pre                                     before it is installed\n  kubectl campfire check --short --context berlin --context paris\n  kubectl campfire check -o json | jq '.checks[] | select(.result == \"failed\")'\n  until kubectl campfire check --short; do sleep 5; done"
    )]
    Check(CheckArgs),
    /// Try each server from a pod, now, by UDP, TCP and TLS, and tell what its network lets through: round trips, the address seen outside, the
    /// kind of NAT
    #[command(
        after_long_help = "It takes 3 s for what does not answer. A machine outside does the same by itself: campfire netcheck --config FILE.\n\nExamples:\n  kubectl campfire netcheck\n  kubectl campfire netcheck hello\n  kubectl campfire netcheck -o json | jq '.[].netcheck.servers[] | {id, by: [.by[] | {transport, rtt_ms, problem}]}'"
    )]
    Netcheck(NetcheckArgs),
    /// Gather all that a report of a fault needs: objects, events, logs, what sidecars say. No Secret is read
    #[command(
        after_long_help = "Of containers of others, and of their annotations, nothing is kept. Read it before you send it, all the same: it holds names and addresses.\n\nExample:\n  kubectl campfire dump --context berlin --context paris > campfire-dump.txt"
    )]
    Dump,
    /// Print a script by which a shell completes these commands
    #[command(
        after_long_help = "Examples:\n  ln -s \"$(command -v kubectl-campfire)\" ~/.local/bin/kubectl_complete-campfire     kubectl's own completion asks it\n  source <(kubectl campfire completion bash)                                        for the program kubectl-campfire"
    )]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// What kubectl's completion asks: the words so far, the last one unfinished
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Two peers.
#[derive(Clone, Debug, Args)]
pub struct Pair {
    /// The pod that is asked
    #[arg(value_name = "POD")]
    pub from: String,
    /// The other: a pod, or any other peer by its name or address
    #[arg(value_name = "POD")]
    pub to: String,
}

/// `kubectl campfire ping`.
#[derive(Clone, Debug, Args)]
pub struct PingArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub pair: Pair,
    /// How often to ask
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,
    /// Seconds between two
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0)]
    pub interval: f64,
    /// With packets as large as the interface takes (its MTU); else as small as can be
    #[arg(long)]
    pub full: bool,
}

/// Kinds of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For browsers and documents
    Svg,
    /// As pixels
    Png,
    /// The language of Graphviz
    Dot,
}

/// `kubectl campfire graph`.
#[derive(Clone, Debug, Args)]
pub struct GraphArgs {
    /// What to write
    #[arg(short, long, value_name = "FORMAT", default_value = "svg")]
    pub output: Format,
}

/// How findings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For programs
    Json,
    /// For CI
    Junit,
}

/// `kubectl campfire netcheck`.
#[derive(Clone, Debug, Default, Args)]
pub struct NetcheckArgs {
    /// The pod that is asked [default: one of each Campfire]
    pub pod: Option<String>,
    /// What to write [default: text]
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<NetcheckFormat>,
}

/// How what was tried is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetcheckFormat {
    /// For programs
    Json,
}

/// `kubectl campfire check`.
#[derive(Clone, Debug, Default, Args)]
pub struct CheckArgs {
    /// Before it is installed: could it be?
    #[arg(long)]
    pub pre: bool,
    /// What is not well alone
    #[arg(long, conflicts_with = "output")]
    pub short: bool,
    /// What to write [default: text]
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<CheckFormat>,
}

/// `kubectl campfire join`.
#[derive(Clone, Debug, Args)]
pub struct JoinArgs {
    /// Contexts of the clusters that join
    #[arg(value_name = "CONTEXT", required = true)]
    pub to: Vec<String>,
    /// The Campfire that is joined [default: the only one in the namespace]
    #[arg(long, value_name = "NAME")]
    pub campfire: Option<String>,
    /// Namespace there [default: the same]
    #[arg(long, value_name = "NAME")]
    pub to_namespace: Option<String>,
    /// Seconds until it must have joined; 0: do not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub timeout: u64,
}
