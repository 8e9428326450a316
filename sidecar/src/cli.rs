//! The command line. Every option of `campfire up` may also stand in the environment or in a file: see [`Options`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;

/// `campfire`.
#[derive(Debug, Parser)]
#[command(
    name = "campfire",
    version,
    about = "Peers that share a key and a list of TURN servers form one encrypted mesh",
    long_about = "Peers that share a key and a list of TURN servers find each other and form one encrypted mesh: through a server at once, \
                  directly as soon as a path is found.",
    after_long_help = "\
Examples:
  campfire key new > psk && chmod 600 psk                    make the key; who holds it is in
  campfire up --psk-file psk --server turn.example.org       join (as root); the same on every other machine
  campfire status                                            who is there, direct or relayed, and why
  wg show                                                    the real one works too
  campfire graph | dot -Tsvg > mesh.svg                      a picture
  campfire why ada                                           why the path to ada is what it is

Exit codes: 0 done, 1 failed (the message says what to do), 64 wrong arguments or configuration."
)]
pub struct Cli {
    #[allow(missing_docs)]
    #[command(subcommand)]
    pub command: Command,
}

/// What is asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Join the mesh: run the peer in the foreground until it is told to stop
    Up(Box<Up>),
    /// Show who is there, direct or relayed, and why
    Status(StatusArgs),
    /// Draw who sees whom, in the language of Graphviz
    Graph(GraphArgs),
    /// Explain why the path to a peer is what it is, and what would help
    Why(WhyArgs),
    /// Ask a peer whether it answers, how fast, and on which path: inside the session, without any right to send pings
    Ping(PingArgs),
    /// Try each server now, by UDP, TCP and TLS, and tell what the network in between lets through: the kind of NAT, the address seen outside
    Netcheck(NetcheckArgs),
    /// Be `wg` of wireguard-tools, for reading: `campfire wg show`. Done too where this program is called by the name `wg`
    Wg(WgArgs),
    /// Make a key, or what follows from one
    #[command(subcommand)]
    Key(KeyCommand),
    /// Make the root of a certified mesh, which says who may come in; or show what of it others may know
    #[command(subcommand)]
    Root(RootCommand),
    /// Write the camp:// URI: all that another peer needs to join
    Uri(UriArgs),
    /// In a pod: make what needs rights (identity, device, interface), for a sidecar that has none
    PodInit(Box<PodInit>),
    /// In a pod: succeed once the mesh is up, or need not be waited for (the sidecar's startup probe)
    Ready(ReadyArgs),
}

/// `campfire up`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Options come from flags, else from the environment (CAMPFIRE_*, as shown), else from the --config file, else the default.
The file is TOML and takes the same names without dashes in front; what may be given several times is a list:

  server = [\"turn-a.example.org\", \"turn-b.example.org\"]
  psk-file = [\"/etc/campfire/psk\"]
  name = \"ada\"

Keys come from files (--psk-file, --uri-file) or from CAMPFIRE_PSK or CAMPFIRE_URI, which are taken out of the process's
environment once they are read; never from the command line, which everybody on the machine can read.

Signals: SIGHUP reads files again (servers, keys, routes); SIGTERM and SIGINT say goodbye to all peers and end.

Rotating a key, each step on all peers before the next (write the file, then SIGHUP):
  1. the new key first, `accept:` before it, the old one after it;  2. both without `accept:`;  3. the new one alone.
  --network must be given from then on (`campfire key fingerprint --network` of the first key): addresses follow from it.

Without root: make the device first (as root, once) and let an ordinary user attach to it:
  ip tuntap add dev campfire0 mode tun user ada vnet_hdr
  campfire up …        says which addresses it needs; ip address add ADDRESS dev campfire0; ip link set campfire0 mtu 1280 up

Examples:
  campfire up --psk-file psk --server turn.example.org
  campfire up --psk-file psk --server a=192.0.2.1:3478 --server b=192.0.2.2:3478 --name ada --cluster laptop
  campfire up --uri-file /run/secrets/join --ready-file /run/campfire/ready --metrics-listen 0.0.0.0:9469
  CAMPFIRE_URI='camp://…' campfire up --no-direct")]
pub struct Up {
    /// Read options that are given neither here nor in the environment from this TOML file
    #[arg(long, env = "CAMPFIRE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub options: Options,
    /// Refused, with a reason: see [`crate::config::refuse_secret_arguments`].
    #[arg(long, hide = true, value_name = "KEY")]
    pub psk: Option<String>,
    /// Refused as well.
    #[arg(long, hide = true, value_name = "URI")]
    pub uri: Option<String>,
    /// Secrets of the environment come on standard input: how `up` runs itself again without them in its environment.
    #[arg(long, hide = true)]
    pub secrets_on_stdin: bool,
}

/// What an app in a pod waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Policy {
    /// Until the mesh is up, or the timeout is over
    #[default]
    Wait,
    /// Until the mesh is up
    Require,
}

/// `campfire pod-init`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Runs as root with the capabilities NET_ADMIN, MKNOD and CHOWN and no others; the operator's webhook puts it into pods. Makes, in the state
directory (an emptyDir of medium Memory), the identity, a device node where the runtime gives none, and the interface with addresses, routes and
MTU. Asks nobody. Doing it again changes nothing. What cannot be made is written into the file `problem` there, and it succeeds none the less.

Example:
  campfire pod-init --network 0123456789 --ipv4-pool 100.80.0.0/16 --accept-route 10.8.0.0/16 --mtu 1280")]
pub struct PodInit {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub options: Options,
    /// The user that the sidecar runs as [default: 51820]
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,
}

/// `campfire ready`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Succeeds when this peer camps and all peers that it knows answer (nobody known counts too); with policy Wait also when the timeout is over.
Otherwise it says what is missing.

Example:
  campfire ready && echo the app may start")]
pub struct ReadyArgs {
    /// The peer's interface [default: campfire0]
    #[arg(long, env = "CAMPFIRE_INTERFACE", value_name = "NAME")]
    pub interface: Option<String>,
    /// Directory of its control socket
    #[arg(long, env = "CAMPFIRE_RUN_DIR", value_name = "DIR", default_value = "/run/campfire")]
    pub run_dir: PathBuf,
    /// Whether to wait for ever
    #[arg(long, env = "CAMPFIRE_STARTUP_POLICY", value_name = "POLICY", default_value = "Wait")]
    pub policy: Policy,
    /// How long the mesh is waited for with policy Wait, from the sidecar's first start, such as 10s
    #[arg(long, env = "CAMPFIRE_STARTUP_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = seconds)]
    pub timeout: u64,
}

/// `10s` or `2m`, in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|number| (1..=999).contains(number));
    let parsed = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(text), _) => number(text),
        (_, Some(text)) => number(text).map(|minutes| minutes * 60),
        _ => None,
    };
    parsed.ok_or_else(|| "expected a time such as 10s or 2m".into())
}

/// What `campfire up` may be told, by flag, environment or file. Nothing is checked here but the form: see
/// [`crate::config::Settings`].
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// A TURN server that everybody in the mesh is told of: [ID=]HOST[:PORT], turn:HOST[:PORT][?transport=udp|tcp] or
    /// turns:HOST[:PORT][?cert=SHA256]. May be given several times, in any order
    #[arg(long, env = "CAMPFIRE_SERVER", value_name = "SERVER", value_delimiter = ',', help_heading = "Who to meet, and where")]
    #[serde(deserialize_with = "one_or_many")]
    pub server: Vec<String>,
    /// A file with the key, readable by nobody else; several lines or files: newest first. `accept:` before the name or
    /// the key: be met under it, but prefer the others wherever they are shared
    #[arg(long, env = "CAMPFIRE_PSK_FILE", value_name = "[accept:]FILE", value_delimiter = ',', help_heading = "Who to meet, and where")]
    #[serde(deserialize_with = "one_or_many")]
    pub psk_file: Vec<String>,
    /// A file with a camp:// URI (key, servers, network), readable by nobody else
    #[arg(long, env = "CAMPFIRE_URI_FILE", value_name = "FILE", help_heading = "Who to meet, and where")]
    pub uri_file: Option<PathBuf>,
    /// In a pod: key, servers and all the rest come from the operator's agent API here, https://HOST:PORT
    #[arg(long, env = "CAMPFIRE_AGENT", value_name = "URL", help_heading = "Who to meet, and where")]
    pub agent: Option<String>,
    /// In a pod: address of the agent API, for when its name is not known here
    #[arg(long, env = "CAMPFIRE_AGENT_ADDRESS", value_name = "IP", help_heading = "Who to meet, and where")]
    pub agent_address: Option<IpAddr>,
    /// In a pod: the projected token that shows who this is [default: /var/run/secrets/campfire.network/agent/token]
    #[arg(long, env = "CAMPFIRE_AGENT_TOKEN_FILE", value_name = "FILE", help_heading = "Who to meet, and where")]
    pub agent_token_file: Option<PathBuf>,
    /// In a pod: SHA-256 of the agent API's CA certificates [default: /var/run/secrets/campfire.network/agent/ca]
    #[arg(long, env = "CAMPFIRE_AGENT_CA_FILE", value_name = "FILE", help_heading = "Who to meet, and where")]
    pub agent_ca_file: Option<PathBuf>,
    /// The overlay's id, 10 hex digits [default: the URI's, else it follows from the key]
    #[arg(long, env = "CAMPFIRE_NETWORK", value_name = "ID", help_heading = "Who to meet, and where")]
    pub network: Option<String>,
    /// This peer runs in the cluster where the servers' cluster addresses work: try those first
    #[arg(long, env = "CAMPFIRE_IN_CLUSTER", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Who to meet, and where")]
    pub in_cluster: Option<bool>,
    /// Never connect directly: all traffic goes through servers
    #[arg(long, env = "CAMPFIRE_NO_DIRECT", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Who to meet, and where")]
    pub no_direct: Option<bool>,
    /// Certificates (PEM) that TLS to servers is checked against, or `system`. Without it and without cert= at the server,
    /// TLS hides traffic from bystanders but does not prove who the server is
    #[arg(long, env = "CAMPFIRE_CA_FILE", value_name = "FILE", help_heading = "Who to meet, and where")]
    pub ca_file: Option<PathBuf>,

    /// How others see this peer [default: the host's name]
    #[arg(long, env = "CAMPFIRE_NAME", help_heading = "Who this is")]
    pub name: Option<String>,
    /// Shown beside the name
    #[arg(long, env = "CAMPFIRE_NAMESPACE", help_heading = "Who this is")]
    pub namespace: Option<String>,
    /// Shown beside the name: the cluster, site or kind of machine
    #[arg(long, env = "CAMPFIRE_CLUSTER", help_heading = "Who this is")]
    pub cluster: Option<String>,
    /// The file that holds who this peer is; made if it is missing [default: INTERFACE.identity in the state directory]
    #[arg(long, env = "CAMPFIRE_IDENTITY_FILE", value_name = "FILE", help_heading = "Who this is")]
    pub identity_file: Option<PathBuf>,
    /// [default: /var/lib/campfire; in a pod /run/campfire]
    #[arg(long, env = "CAMPFIRE_STATE_DIR", value_name = "DIR", help_heading = "Who this is")]
    pub state_dir: Option<PathBuf>,

    /// In a pod without rights: directory with the socket of the node's agent, which makes the interface
    #[arg(long, env = "CAMPFIRE_NODE_DIR", value_name = "DIR", help_heading = "Network")]
    pub node_dir: Option<PathBuf>,
    /// The network interface: made if it is missing, attached to if it is there [default: campfire0]
    #[arg(long, env = "CAMPFIRE_INTERFACE", value_name = "NAME", help_heading = "Network")]
    pub interface: Option<String>,
    /// The interface's MTU in bytes, 1280 to 9000 [default: 1280]
    #[arg(long, env = "CAMPFIRE_MTU", value_name = "BYTES", help_heading = "Network")]
    pub mtu: Option<u32>,
    /// UDP port, 0: any free one [default: 0]
    #[arg(long, env = "CAMPFIRE_LISTEN_PORT", value_name = "PORT", help_heading = "Network")]
    pub listen_port: Option<u16>,
    /// Take an IPv4 address in this network as well, such as 100.80.0.0/16; the same for all peers
    #[arg(long, env = "CAMPFIRE_IPV4_POOL", value_name = "CIDR", help_heading = "Network")]
    pub ipv4_pool: Option<Ipv4Net>,
    /// Offer others a route through this peer. May be given several times
    #[arg(long, env = "CAMPFIRE_ADVERTISE_ROUTE", value_name = "CIDR", value_delimiter = ',', help_heading = "Network")]
    #[serde(deserialize_with = "one_or_many")]
    pub advertise_route: Vec<IpNet>,
    /// Take routes that others offer if they lie within this network. May be given several times [default: none]
    #[arg(long, env = "CAMPFIRE_ACCEPT_ROUTE", value_name = "CIDR", value_delimiter = ',', help_heading = "Network")]
    #[serde(deserialize_with = "one_or_many")]
    pub accept_route: Vec<IpNet>,

    /// Directory of the control socket (INTERFACE.sock) [default: /run/campfire]
    #[arg(long, env = "CAMPFIRE_RUN_DIR", value_name = "DIR", help_heading = "Being watched")]
    pub run_dir: Option<PathBuf>,
    /// Directory of the socket that `wg` asks (INTERFACE.sock) [default: /var/run/wireguard]
    #[arg(long, env = "CAMPFIRE_WG_DIR", value_name = "DIR", help_heading = "Being watched")]
    pub wg_dir: Option<PathBuf>,
    /// Answer /metrics, /healthz and /readyz here [default: off]
    #[arg(long, env = "CAMPFIRE_METRICS_LISTEN", value_name = "ADDRESS:PORT", help_heading = "Being watched")]
    pub metrics_listen: Option<SocketAddr>,
    /// Make this file once camped and connected to all who were there; remove it at the end
    #[arg(long, env = "CAMPFIRE_READY_FILE", value_name = "FILE", help_heading = "Being watched")]
    pub ready_file: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or per part, such as info,campfire_mesh=debug [default: info]
    #[arg(long, env = "CAMPFIRE_LOG", value_name = "FILTER", help_heading = "Being watched")]
    pub log: Option<String>,
    /// How to log [default: text]
    #[arg(long, env = "CAMPFIRE_LOG_FORMAT", value_name = "FORMAT", help_heading = "Being watched")]
    pub log_format: Option<LogFormat>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Which running peer is meant.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// The interface of the peer [default: the only one that runs, else campfire0]
    #[arg(long, env = "CAMPFIRE_INTERFACE", value_name = "NAME")]
    pub interface: Option<String>,
    /// Directory of its control socket
    #[arg(long, env = "CAMPFIRE_RUN_DIR", value_name = "DIR", default_value = "/run/campfire")]
    pub run_dir: PathBuf,
}

/// `campfire status`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
PATH is direct, or the server that relays; WHY NOT DIRECT is the reason, which `campfire why PEER` explains.

Examples:
  campfire status
  campfire status --json | jq '.peers[] | {name, path, rtt_ms}'
  campfire status --wait=30 --peers 3 && echo three at least are there, and everybody known answers")]
pub struct StatusArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub which: Which,
    /// Everything, as JSON
    #[arg(long)]
    pub json: bool,
    /// First wait until this peer camps and all peers that it knows answer (nobody known counts too: see --peers; in a large
    /// room, where links are made on demand, nobody is waited for), at most so many seconds; fails after them
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "60")]
    pub wait: Option<u64>,
    /// With --wait: and until so many peers at least are connected
    #[arg(long, value_name = "N", requires = "wait", default_value_t = 0, hide_default_value = true)]
    pub peers: usize,
    /// Show it again every second, until interrupted
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
}

/// `campfire graph`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
A solid line is a direct path, a dashed one goes through the server of its colour; at each end stands the round trip measured there.

Examples:
  campfire graph | dot -Tsvg > mesh.svg                       as this peer sees it
  campfire status --json > ada.json                           on ada, the same on others
  campfire graph ada.json bob.json eve.json | dot -Tpng > mesh.png     all that they see, in one picture")]
pub struct GraphArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub which: Which,
    /// Outputs of `campfire status --json`, of several peers, instead of the running peer
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `campfire why`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  campfire why ada
  campfire why fd51:c3c8:1d2b::1")]
pub struct WhyArgs {
    /// A peer's name, overlay address or public key (or how it begins)
    pub peer: String,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub which: Which,
}

/// `campfire ping`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  campfire ping ada
  campfire ping --count 20 --interval 0.2 fd51:c3c8:1d2b::1
  campfire ping --full ada                                   do large packets come through?

Exit codes: 0 one answer at least, 1 none.")]
pub struct PingArgs {
    /// A peer's name, overlay address or public key (or how it begins)
    pub peer: String,
    /// How often to ask
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// Seconds between two
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: Duration,
    /// With packets as large as the interface takes (its MTU); else as small as can be
    #[arg(long)]
    pub full: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub which: Which,
}

/// Seconds between two pings.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.01..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected seconds, 0.01 to 3600".into())
}

/// `campfire netcheck`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Asks the peer that runs here to try the servers that it knows; with --server, --uri-file or --config it tries those named there, and needs no
peer. Nobody is joined, and no key is sent. It takes 3 s for what does not answer.

Examples:
  campfire netcheck
  campfire netcheck --config /etc/campfire/campfire.toml
  campfire netcheck --server turn-a.example.org --server turn-b.example.org
  campfire netcheck --json | jq '.servers[] | {id, by: [.by[] | select(.problem == null) | .transport]}'

Exit codes: 0 one server at least answers, 1 none.")]
pub struct NetcheckArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub which: Which,
    /// A server to try, as `campfire up` takes it. May be given several times
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    pub server: Vec<String>,
    /// A file with a camp:// URI, readable by nobody else: try its servers
    #[arg(long, value_name = "FILE")]
    pub uri_file: Option<PathBuf>,
    /// A file of `campfire up`'s options: try the servers that it names
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Certificates (PEM) that TLS to them is checked against, or `system`
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Everything, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `campfire wg`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct WgArgs {
    /// As `wg` takes them: show [INTERFACE | all | interfaces] [dump | peers | endpoints | …]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    pub words: Vec<String>,
}

/// `campfire key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Print a new key
    #[command(after_long_help = "Example:\n  campfire key new > psk && chmod 600 psk")]
    New,
    /// Print the key's fingerprint, which names it and may be seen by anybody
    #[command(
        after_long_help = "Examples:\n  campfire key fingerprint --psk-file psk\n  campfire key fingerprint --psk-file psk --network     the id of the network that begins with this key"
    )]
    Fingerprint {
        #[allow(missing_docs)]
        #[command(flatten)]
        source: KeySource,
        /// Print the id of the overlay network that begins with this key instead
        #[arg(long)]
        network: bool,
    },
    /// Print the relay secret: what a TURN server must hold to serve this mesh; it does not let anybody join
    #[command(
        after_long_help = "Example:\n  campfire key relay-secret --psk-file psk > \"secrets/$(campfire key fingerprint --psk-file psk)\""
    )]
    RelaySecret {
        #[allow(missing_docs)]
        #[command(flatten)]
        source: KeySource,
    },
}

/// `campfire root`.
#[derive(Debug, Subcommand)]
pub enum RootCommand {
    /// Print a new root. Whoever holds it decides who is let in: keep it where the key is not
    #[command(after_long_help = "Example:\n  campfire root new > root && chmod 600 root")]
    New,
    /// Print the root's public key, which all peers know
    #[command(after_long_help = "Example:\n  campfire root show --root-file root")]
    Show {
        /// A file with the root, readable by nobody else
        #[arg(long, value_name = "FILE")]
        root_file: PathBuf,
    },
}

/// Where a key comes from; else CAMPFIRE_PSK or CAMPFIRE_URI.
#[derive(Clone, Debug, Default, Args)]
pub struct KeySource {
    /// A file with the key, readable by nobody else
    #[arg(long, env = "CAMPFIRE_PSK_FILE", value_name = "FILE")]
    pub psk_file: Option<String>,
    /// A file with a camp:// URI, readable by nobody else
    #[arg(long, env = "CAMPFIRE_URI_FILE", value_name = "FILE")]
    pub uri_file: Option<PathBuf>,
}

/// `campfire uri`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The URI is a secret: whoever has it can join. Without --show-secret the key in it is hidden.

Examples:
  campfire uri --psk-file psk --server turn.example.org
  campfire uri --psk-file psk --server turn.example.org --show-secret > join && chmod 600 join
  campfire uri --psk-file psk --server turn.example.org --root-file root --for ada --show-secret > ada && chmod 600 ada")]
pub struct UriArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub source: KeySource,
    /// A server to put in, as `campfire up` takes it. May be given several times
    #[arg(long, env = "CAMPFIRE_SERVER", value_name = "SERVER", value_delimiter = ',')]
    pub server: Vec<String>,
    /// The overlay's id, 10 hex digits [default: it follows from the key]
    #[arg(long, env = "CAMPFIRE_NETWORK", value_name = "ID")]
    pub network: Option<String>,
    /// In a certified mesh: let one more peer in, under this name and no other. The URI is for it alone
    #[arg(long = "for", value_name = "NAME", requires = "root_file")]
    pub for_name: Option<String>,
    /// A file with the mesh's root, readable by nobody else
    #[arg(long, value_name = "FILE", requires = "for_name")]
    pub root_file: Option<PathBuf>,
    /// With --for: that peer may offer others routes within this network. May be given several times
    #[arg(long, value_name = "CIDR", value_delimiter = ',', requires = "for_name")]
    pub route: Vec<IpNet>,
    /// With --for: how long that peer is let in, days
    #[arg(long, value_name = "DAYS", requires = "for_name", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub days: u16,
    /// Print the key too
    #[arg(long)]
    pub show_secret: bool,
}

impl Options {
    /// These options, and where they are silent those of `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        fn list<T>(one: Vec<T>, other: Vec<T>) -> Vec<T> {
            if one.is_empty() { other } else { one }
        }
        Self {
            server: list(self.server, other.server),
            psk_file: list(self.psk_file, other.psk_file),
            uri_file: self.uri_file.or(other.uri_file),
            agent: self.agent.or(other.agent),
            agent_address: self.agent_address.or(other.agent_address),
            agent_token_file: self.agent_token_file.or(other.agent_token_file),
            agent_ca_file: self.agent_ca_file.or(other.agent_ca_file),
            node_dir: self.node_dir.or(other.node_dir),
            network: self.network.or(other.network),
            in_cluster: self.in_cluster.or(other.in_cluster),
            no_direct: self.no_direct.or(other.no_direct),
            ca_file: self.ca_file.or(other.ca_file),
            name: self.name.or(other.name),
            namespace: self.namespace.or(other.namespace),
            cluster: self.cluster.or(other.cluster),
            identity_file: self.identity_file.or(other.identity_file),
            state_dir: self.state_dir.or(other.state_dir),
            interface: self.interface.or(other.interface),
            mtu: self.mtu.or(other.mtu),
            listen_port: self.listen_port.or(other.listen_port),
            ipv4_pool: self.ipv4_pool.or(other.ipv4_pool),
            advertise_route: list(self.advertise_route, other.advertise_route),
            accept_route: list(self.accept_route, other.accept_route),
            run_dir: self.run_dir.or(other.run_dir),
            wg_dir: self.wg_dir.or(other.wg_dir),
            metrics_listen: self.metrics_listen.or(other.metrics_listen),
            ready_file: self.ready_file.or(other.ready_file),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

/// A list, or its only item.
fn one_or_many<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a value or a list of values of the right form")]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}
