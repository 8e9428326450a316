//! Configuration: flags, environment variables and a TOML file become one validated [`Settings`], or a message that says
//! what to do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use campfire_turn::Config;
use campfire_turn::config::{Limits, PeerPolicy};
use clap::{Parser, ValueEnum};
use ipnet::IpNet;
use serde::Deserialize;

const AFTER_HELP: &str = "\
Examples:
  A campfire server for everybody who holds the key in the file psk (443 passes most firewalls):
    umask 077; mkdir secrets
    campfire key relay-secret --psk-file psk > \"secrets/$(campfire key fingerprint --psk-file psk)\"
    campfire-turn --enable-campfire --secrets-dir secrets \\
        --listen 0.0.0.0:3478 --listen tls://0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem

  A standard TURN server (RFC 8656) for WebRTC, with a password file and public relay addresses:
    umask 077; echo 'alice:correct horse battery staple' > users
    campfire-turn --users-file users --realm example.org --relay-address 203.0.113.7

  The same from a file, checked but not run:
    campfire-turn --config turn.toml --check

Secrets are read from files alone, never from flags or the environment. They are loaded again when they change, and on
SIGHUP. SIGTERM drains: the server turns unready, tells members to move, and leaves when they have (when those who are
left have nowhere to go, so that none has left for 10 s; or after --drain-timeout); a second SIGTERM ends it at once.";

/// The TURN server that campfires burn on: RFC 8656 over UDP, TCP and TLS, and rooms in which peers meet.
///
/// Every option can also be given as an environment variable (shown beside it) or in a TOML file (`--config`) under its
/// long name, for instance `relay-ports = "50000-50999"`. A flag wins over the environment, which wins over the file.
#[derive(Clone, Debug, Default, Parser, Deserialize)]
#[command(name = "campfire-turn", version, after_help = AFTER_HELP, max_term_width = 110)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// TOML file with any of these options.
    #[arg(long, env = "CAMPFIRE_TURN_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Check the configuration, say what it means, and exit.
    #[arg(long)]
    #[serde(skip)]
    pub check: bool,

    /// Where to listen: `udp://`, `tcp://` or `tls://` and an address with its port; without a scheme: UDP and TCP.
    /// Repeat it, or separate by commas. [default: 0.0.0.0:3478 and [::]:3478; with --tls-cert also tls:// on 5349]
    #[arg(long, env = "CAMPFIRE_TURN_LISTEN", value_name = "ADDRESS", value_delimiter = ',', help_heading = "Listening")]
    pub listen: Vec<String>,

    /// PEM file with the TLS certificate chain. Loaded again when it changes.
    #[arg(long, env = "CAMPFIRE_TURN_TLS_CERT", value_name = "FILE", help_heading = "Listening")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the TLS private key.
    #[arg(long, env = "CAMPFIRE_TURN_TLS_KEY", value_name = "FILE", help_heading = "Listening")]
    pub tls_key: Option<PathBuf>,

    /// Where to serve /metrics (Prometheus), /healthz and /readyz. Not served without it.
    #[arg(long, env = "CAMPFIRE_TURN_HTTP_LISTEN", value_name = "ADDRESS", help_heading = "Listening")]
    pub http_listen: Option<SocketAddr>,

    /// Serve rooms and relay channels between members to those who hold a secret of --secrets-dir.
    #[arg(long, env = "CAMPFIRE_TURN_ENABLE_CAMPFIRE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Who may use it")]
    pub enable_campfire: Option<bool>,

    /// Also let nodes of campfire version 1 (webmesh, August 2023) that share a key meet here, over UDP. Of these the server
    /// verifies nothing, and whoever sees their datagrams can take their campfire over: see docs/campfire-v1.md.
    #[arg(long, env = "CAMPFIRE_TURN_ENABLE_CAMPFIRE_V1", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Who may use it")]
    pub enable_campfire_v1: Option<bool>,

    /// Directory with one file per campfire. Its content is `FINGERPRINT:RELAY-SECRET` (as `campfire key fingerprint` and
    /// `campfire key relay-secret` print them; several lines during a rotation), or the relay secret alone in a file named
    /// by the fingerprint. A mounted Kubernetes Secret is such a directory.
    #[arg(long, env = "CAMPFIRE_TURN_SECRETS_DIR", value_name = "DIR", help_heading = "Who may use it")]
    pub secrets_dir: Option<PathBuf>,

    /// File with users of the standard TURN service, one `NAME:PASSWORD` a line.
    #[arg(long, env = "CAMPFIRE_TURN_USERS_FILE", value_name = "FILE", help_heading = "Who may use it")]
    pub users_file: Option<PathBuf>,

    /// File with TURN REST secrets of other systems (for instance a web application that hands out credentials), one a line.
    #[arg(long, env = "CAMPFIRE_TURN_REST_SECRETS_FILE", value_name = "FILE", help_heading = "Who may use it")]
    pub rest_secrets_file: Option<PathBuf>,

    /// What the server is called in its campers' lists, if not by host and port.
    #[arg(long, env = "CAMPFIRE_TURN_SERVER_ID", value_name = "ID", help_heading = "Who may use it")]
    pub server_id: Option<String>,

    /// The realm of standard users' passwords. [default: campfire]
    #[arg(long, env = "CAMPFIRE_TURN_REALM", value_name = "NAME", help_heading = "Who may use it")]
    pub realm: Option<String>,

    /// Refuse to start when others on this machine may read a file with secrets, instead of warning.
    #[arg(long, env = "CAMPFIRE_TURN_STRICT", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Who may use it")]
    pub strict: Option<bool>,

    /// Local address of relay sockets, at most one IPv4 and one IPv6. Members of campfires need none; standard users reach
    /// nobody beyond this machine on the default. [default: 127.0.0.1 and ::1]
    #[arg(long, env = "CAMPFIRE_TURN_RELAY_ADDRESS", value_name = "IP", value_delimiter = ',', help_heading = "Standard relaying")]
    pub relay_address: Vec<IpAddr>,

    /// What to tell clients in place of --relay-address, behind a one-to-one NAT.
    #[arg(
        long,
        env = "CAMPFIRE_TURN_RELAY_EXTERNAL_ADDRESS",
        value_name = "IP",
        value_delimiter = ',',
        help_heading = "Standard relaying"
    )]
    pub relay_external_address: Vec<IpAddr>,

    /// Ports of relay sockets. [default: 49152-65535]
    #[arg(long, env = "CAMPFIRE_TURN_RELAY_PORTS", value_name = "FROM-TO", help_heading = "Standard relaying")]
    pub relay_ports: Option<String>,

    /// Peers to relay to although the built-in list denies them (loopback, link-local, private, metadata and so on).
    #[arg(long, env = "CAMPFIRE_TURN_ALLOW_PEER", value_name = "CIDR", value_delimiter = ',', help_heading = "Standard relaying")]
    pub allow_peer: Vec<IpNet>,

    /// Relay to private addresses too (RFC 1918, RFC 6598, RFC 4193), cloud metadata services excepted.
    #[arg(long, env = "CAMPFIRE_TURN_ALLOW_PRIVATE_PEERS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Standard relaying")]
    pub allow_private_peers: Option<bool>,

    /// Peers never to relay to, whatever --allow-peer says.
    #[arg(long, env = "CAMPFIRE_TURN_DENY_PEER", value_name = "CIDR", value_delimiter = ',', help_heading = "Standard relaying")]
    pub deny_peer: Vec<IpNet>,

    /// Most allocations at once. [default: 4096]
    #[arg(long, env = "CAMPFIRE_TURN_MAX_ALLOCATIONS", value_name = "N", help_heading = "Limits")]
    pub max_allocations: Option<usize>,

    /// Most allocations of one user at once. [default: 64]
    #[arg(long, env = "CAMPFIRE_TURN_MAX_ALLOCATIONS_PER_USER", value_name = "N", help_heading = "Limits")]
    pub max_allocations_per_user: Option<usize>,

    /// Most members of one room. [default: 16384]
    #[arg(long, env = "CAMPFIRE_TURN_MAX_MEMBERS_PER_ROOM", value_name = "N", help_heading = "Limits")]
    pub max_members_per_room: Option<usize>,

    /// Most members behind one source address and port. [default: 8]
    #[arg(long, env = "CAMPFIRE_TURN_MAX_SEATS_PER_SOURCE", value_name = "N", help_heading = "Limits")]
    pub max_seats_per_source: Option<usize>,

    /// Bytes a second that all allocations of one user may relay, both directions together. [default: no limit]
    #[arg(long, env = "CAMPFIRE_TURN_MAX_BANDWIDTH_PER_USER", value_name = "BYTES", help_heading = "Limits")]
    pub max_bandwidth_per_user: Option<u32>,

    /// Most memory for members, rooms and allocations, in MiB. Newcomers are refused when it is used up. [default: 256]
    #[arg(long, env = "CAMPFIRE_TURN_MAX_STATE_MIB", value_name = "MIB", help_heading = "Limits")]
    pub max_state_mib: Option<usize>,

    /// Most TCP and TLS connections at once. [default: 10000]
    #[arg(long, env = "CAMPFIRE_TURN_MAX_CONNECTIONS", value_name = "N", help_heading = "Limits")]
    pub max_connections: Option<usize>,

    /// Most TCP and TLS connections at once from one IPv4 address or IPv6 /64. [default: 256]
    #[arg(long, env = "CAMPFIRE_TURN_MAX_CONNECTIONS_PER_SOURCE", value_name = "N", help_heading = "Limits")]
    pub max_connections_per_source: Option<usize>,

    /// How long a connection may be silent. [default: 15m]
    #[arg(long, env = "CAMPFIRE_TURN_IDLE_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    pub idle_timeout: Option<String>,

    /// How long a TLS handshake, a first message and the rest of a begun message may take. [default: 10s]
    #[arg(long, env = "CAMPFIRE_TURN_HANDSHAKE_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    pub handshake_timeout: Option<String>,

    /// How long SIGTERM waits at most for members to move elsewhere, and for allocations to end. [default: 60s]
    #[arg(long, env = "CAMPFIRE_TURN_DRAIN_TIMEOUT", value_name = "DURATION", help_heading = "Operation")]
    pub drain_timeout: Option<String>,

    /// How the log is written, to standard error. [default: text]
    #[arg(long, env = "CAMPFIRE_TURN_LOG_FORMAT", value_name = "FORMAT", help_heading = "Operation")]
    pub log_format: Option<LogFormat>,

    /// What is logged: error, warn, info, debug, trace, or a filter in RUST_LOG's syntax. RUST_LOG works too. [default: info]
    #[arg(long, env = "CAMPFIRE_TURN_LOG", value_name = "FILTER", help_heading = "Operation")]
    pub log: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a configuration cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

fn bad<T>(message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(message.into()))
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address; port 0: any.
    pub address: SocketAddr,
    /// It was not asked for by name: that it cannot be had is no reason not to start (a host without IPv6).
    pub optional: bool,
}

/// Where relay sockets of one address family live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// What they are bound to.
    pub bind: IpAddr,
    /// What clients are told.
    pub external: IpAddr,
    /// It was not asked for: that a host has no such address is no reason not to start.
    pub optional: bool,
}

/// The two files of a TLS identity.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// Where secrets come from.
#[derive(Clone, Debug)]
pub struct SecretFiles {
    /// One file per campfire.
    pub campfires: Option<PathBuf>,
    /// Standard users.
    pub users: Option<PathBuf>,
    /// TURN REST secrets of other systems.
    pub rest: Option<PathBuf>,
    /// Files that others may read are an error.
    pub strict: bool,
}

/// Limits of TCP and TLS connections.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// In total.
    pub connections: usize,
    /// From one IPv4 address or IPv6 /64.
    pub per_source: usize,
    /// Longest silence.
    pub idle: Duration,
    /// Longest TLS handshake, wait for a first message, and wait for the rest of a message.
    pub handshake: Duration,
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// UDP sockets.
    pub udp: Vec<Listen>,
    /// TCP listeners.
    pub tcp: Vec<Listen>,
    /// TLS listeners.
    pub tls: Vec<Listen>,
    /// Their identity; given if there are TLS listeners.
    pub tls_files: Option<TlsFiles>,
    /// Metrics and health.
    pub http: Option<SocketAddr>,
    /// What the core is told.
    pub core: Config,
    /// Where secrets come from.
    pub secrets: SecretFiles,
    /// IPv4 relay address.
    pub relay_v4: Option<RelayAddress>,
    /// IPv6 relay address.
    pub relay_v6: Option<RelayAddress>,
    /// Relay ports.
    pub relay_ports: RangeInclusive<u16>,
    /// TCP and TLS.
    pub streams: StreamLimits,
    /// Longest drain.
    pub drain_timeout: Duration,
    /// Log lines.
    pub log_format: LogFormat,
    /// Log filter.
    pub log: String,
}

macro_rules! fill_from {
    ($self:ident, $file:ident, options: [$($option:ident),* $(,)?], lists: [$($list:ident),* $(,)?]) => {
        $(if $self.$option.is_none() { $self.$option = $file.$option; })*
        $(if $self.$list.is_empty() { $self.$list = $file.$list; })*
    };
}

impl Options {
    /// Reads the file of `--config`, if one is given, and fills in what flags and environment left open.
    pub fn with_file(mut self) -> Result<Self, ConfigError> {
        let Some(path) = self.config.clone() else { return Ok(self) };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| ConfigError(format!("cannot read the configuration file {}: {error}", path.display())))?;
        let mut file: Options =
            toml::from_str(&text).map_err(|error| ConfigError(format!("{} is not a valid configuration: {error}", path.display())))?;
        let base = path.parent().unwrap_or(Path::new(""));
        let Options { tls_cert, tls_key, secrets_dir, users_file, rest_secrets_file, .. } = &mut file;
        for path in [tls_cert, tls_key, secrets_dir, users_file, rest_secrets_file] {
            *path = path.take().map(|path| base.join(path));
        }
        fill_from!(self, file,
            options: [tls_cert, tls_key, http_listen, enable_campfire, enable_campfire_v1, secrets_dir, users_file,
                rest_secrets_file, server_id, realm, strict, relay_ports, allow_private_peers, max_allocations, max_allocations_per_user,
                max_members_per_room, max_seats_per_source, max_bandwidth_per_user, max_state_mib, max_connections,
                max_connections_per_source, idle_timeout, handshake_timeout, drain_timeout, log_format, log],
            lists: [listen, relay_address, relay_external_address, allow_peer, deny_peer]);
        Ok(self)
    }

    /// Checks everything that can be checked without touching the network.
    pub fn validate(self) -> Result<Settings, ConfigError> {
        let tls_files = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            _ => return bad("--tls-cert and --tls-key belong together: give both, or neither"),
        };
        let (udp, tcp, tls) = listeners(&self.listen, tls_files.is_some())?;
        let campfire = self.enable_campfire.unwrap_or(false);
        if campfire && self.secrets_dir.is_none() {
            return bad("--enable-campfire needs --secrets-dir: the directory with one file per campfire (see --help)");
        }
        let standard = self.users_file.is_some() || self.rest_secrets_file.is_some();
        let campfire_v1 = self.enable_campfire_v1.unwrap_or(false);
        if campfire_v1 && udp.is_empty() {
            return bad("--enable-campfire-v1 needs UDP, which version 1 speaks alone: give --listen udp://0.0.0.0:3478 too");
        }
        if !campfire && !campfire_v1 && !standard {
            return bad(
                "nobody could use this server: give --users-file for standard TURN users, or --enable-campfire with --secrets-dir (see --help)",
            );
        }
        if let Some(dir) = &self.secrets_dir
            && !dir.is_dir()
        {
            return bad(format!("--secrets-dir {}: there is no such directory; create it (it may be empty at first)", dir.display()));
        }
        let realm = self.realm.unwrap_or_else(|| "campfire".into());
        if realm.is_empty() || realm.len() > 127 || realm.chars().any(|c| c.is_control() || c == '"') {
            return bad("--realm must have 1 to 127 bytes, without quotes and control characters (RFC 8489 section 14.9)");
        }
        let (relay_v4, relay_v6) = relay_addresses(&self.relay_address, &self.relay_external_address)?;
        let limits = Limits::default();
        let core = Config {
            realm,
            server_id: self.server_id,
            campfire,
            campfire_v1,
            allocations: standard,
            relay_ipv4: relay_v4.is_some(),
            relay_ipv6: relay_v6.is_some(),
            peers: PeerPolicy { allow: self.allow_peer, deny: self.deny_peer, allow_private: self.allow_private_peers.unwrap_or(false) },
            limits: Limits {
                allocations: positive("--max-allocations", self.max_allocations, limits.allocations)?,
                allocations_per_user: positive("--max-allocations-per-user", self.max_allocations_per_user, limits.allocations_per_user)?,
                members: positive("--max-members-per-room", self.max_members_per_room, limits.members)?,
                seats_per_source: positive("--max-seats-per-source", self.max_seats_per_source, limits.seats_per_source)?,
                bandwidth_per_user: self.max_bandwidth_per_user,
                memory: positive("--max-state-mib", self.max_state_mib, limits.memory >> 20)?.saturating_mul(1 << 20),
                ..limits
            },
            ..Config::default()
        };
        Ok(Settings {
            udp,
            tcp,
            tls,
            tls_files,
            http: self.http_listen,
            core,
            secrets: SecretFiles {
                campfires: self.secrets_dir,
                users: self.users_file,
                rest: self.rest_secrets_file,
                strict: self.strict.unwrap_or(false),
            },
            relay_v4,
            relay_v6,
            relay_ports: ports(self.relay_ports.as_deref().unwrap_or("49152-65535"))?,
            streams: StreamLimits {
                connections: positive("--max-connections", self.max_connections, 10_000)?,
                per_source: positive("--max-connections-per-source", self.max_connections_per_source, 256)?,
                idle: duration("--idle-timeout", self.idle_timeout.as_deref().unwrap_or("15m"))?,
                handshake: duration("--handshake-timeout", self.handshake_timeout.as_deref().unwrap_or("10s"))?,
            },
            drain_timeout: duration("--drain-timeout", self.drain_timeout.as_deref().unwrap_or("60s"))?,
            log_format: self.log_format.unwrap_or_default(),
            log: self.log.or_else(|| std::env::var("RUST_LOG").ok().filter(|s| !s.is_empty())).unwrap_or_else(|| "info".into()),
        })
    }
}

fn positive(name: &str, value: Option<usize>, default: usize) -> Result<usize, ConfigError> {
    match value {
        Some(0) => bad(format!("{name} must be at least 1")),
        value => Ok(value.unwrap_or(default)),
    }
}

type Listeners = (Vec<Listen>, Vec<Listen>, Vec<Listen>);

fn listeners(listen: &[String], have_tls: bool) -> Result<Listeners, ConfigError> {
    let (mut udp, mut tcp, mut tls) = (Vec::new(), Vec::new(), Vec::new());
    if listen.is_empty() {
        for ip in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let at = |port| Listen { address: SocketAddr::new(ip, port), optional: ip.is_ipv6() };
            udp.push(at(3478));
            tcp.push(at(3478));
            if have_tls {
                tls.push(at(5349));
            }
        }
    }
    for text in listen {
        let (scheme, address) = text.split_once("://").unwrap_or(("", text));
        let Ok(address) = address.parse::<SocketAddr>() else {
            return bad(format!("--listen {text}: expected an address with a port, such as 0.0.0.0:3478, [::]:3478 or tls://0.0.0.0:443"));
        };
        let listen = Listen { address, optional: false };
        match scheme {
            "" => {
                udp.push(listen);
                tcp.push(listen);
            }
            "udp" => udp.push(listen),
            "tcp" => tcp.push(listen),
            "tls" => tls.push(listen),
            other => return bad(format!("--listen {text}: unknown scheme {other}://; it is one of udp://, tcp:// and tls://")),
        }
    }
    if !tls.is_empty() && !have_tls {
        return bad("a tls:// listener needs --tls-cert and --tls-key (PEM files)");
    }
    for (index, listen) in udp.iter().enumerate() {
        if listen.address.port() != 0 && udp.iter().take(index).any(|other| other.address == listen.address) {
            return bad(format!("--listen {}: given twice", listen.address));
        }
    }
    if udp.len() > 64 {
        return bad("--listen: at most 64 UDP addresses; listen on 0.0.0.0 or [::] for all of a host's");
    }
    Ok((udp, tcp, tls))
}

fn relay_addresses(bind: &[IpAddr], external: &[IpAddr]) -> Result<(Option<RelayAddress>, Option<RelayAddress>), ConfigError> {
    let pick = |list: &[IpAddr], ipv6: bool, name: &str| {
        let mut of_family = list.iter().copied().filter(|ip| ip.is_ipv6() == ipv6);
        let first = of_family.next();
        if of_family.next().is_some() {
            return bad(format!("{name}: at most one IPv4 and one IPv6 address"));
        }
        Ok(first)
    };
    let mut result = [None, None];
    for (place, ipv6) in result.iter_mut().zip([false, true]) {
        let default = match (bind.is_empty(), ipv6) {
            (true, false) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            (true, true) => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            (false, _) => None,
        };
        let external = pick(external, ipv6, "--relay-external-address")?;
        let optional = default.is_some();
        let bind = pick(bind, ipv6, "--relay-address")?.or(default);
        *place = match (bind, external) {
            (Some(bind), None) if bind.is_unspecified() => {
                return bad(format!(
                    "--relay-address {bind}: clients must be told a real address; give that one, or add --relay-external-address"
                ));
            }
            (Some(bind), external) => Some(RelayAddress { bind, external: external.unwrap_or(bind), optional }),
            (None, Some(external)) => {
                return bad(format!("--relay-external-address {external}: there is no --relay-address of this family"));
            }
            (None, None) => None,
        };
    }
    let [v4, v6] = result;
    Ok((v4, v6))
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, ConfigError> {
    let parsed = text.split_once('-').and_then(|(from, to)| Some((from.trim().parse().ok()?, to.trim().parse().ok()?)));
    match parsed {
        Some((from, to)) if from > 0 && from <= to => Ok(from..=to),
        _ => bad(format!("--relay-ports {text}: expected a range such as 49152-65535")),
    }
}

fn duration(name: &str, text: &str) -> Result<Duration, ConfigError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..) {
        Some("" | "s") => Some(1000),
        Some("ms") => Some(1),
        Some("m") => Some(60_000),
        Some("h") => Some(3_600_000),
        _ => None,
    };
    match digits.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit)) {
        Some(milliseconds) if milliseconds > 0 && milliseconds <= 7 * 24 * 3_600_000 => Ok(Duration::from_millis(milliseconds)),
        _ => bad(format!("{name} {text}: expected a duration such as 30s, 15m or 1h (at most a week)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_standard_configuration_listens_on_both_families_and_relays_on_loopback() {
        let settings = parse(&["--users-file", "users"]).validate().unwrap();
        assert_eq!(settings.udp.len(), 2);
        assert!(!settings.udp[0].optional && settings.udp[1].optional);
        assert_eq!(settings.relay_v4.unwrap().external, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert!(settings.tls.is_empty());
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        for (arguments, expected) in [
            (&[] as &[&str], "--users-file"),
            (&["--enable-campfire"], "--secrets-dir"),
            (&["--users-file", "u", "--tls-cert", "c"], "--tls-key"),
            (&["--users-file", "u", "--listen", "tls://0.0.0.0:443"], "--tls-cert"),
            (&["--users-file", "u", "--listen", "0.0.0.0"], "0.0.0.0:3478"),
            (&["--users-file", "u", "--listen", "quic://0.0.0.0:1"], "udp://"),
            (&["--users-file", "u", "--listen", "0.0.0.0:1,0.0.0.0:1"], "twice"),
            (&["--users-file", "u", "--relay-ports", "9-3"], "49152-65535"),
            (&["--users-file", "u", "--relay-address", "0.0.0.0"], "--relay-external-address"),
            (&["--users-file", "u", "--relay-address", "10.0.0.1,10.0.0.2"], "at most one"),
            (&["--users-file", "u", "--relay-address", "10.0.0.1", "--relay-external-address", "::5"], "--relay-address"),
            (&["--users-file", "u", "--drain-timeout", "soon"], "30s"),
            (&["--users-file", "u", "--max-connections", "0"], "at least 1"),
            (&["--users-file", "u", "--realm", ""], "--realm"),
            (&["--enable-campfire", "--secrets-dir", "/nowhere/at/all"], "create it"),
            (&["--enable-campfire-v1", "--listen", "tcp://0.0.0.0:3478"], "udp://"),
        ] {
            let error = parse(arguments).validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_paths_in_it_are_relative_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("turn.toml");
        std::fs::write(&path, "users-file = \"users\"\nrealm = \"file\"\nmax-members-per-room = 7\nenable-campfire = false\n").unwrap();
        let options = parse(&["--config", path.to_str().unwrap(), "--realm", "flag"]).with_file().unwrap();
        let settings = options.validate().unwrap();
        assert_eq!(settings.core.realm, "flag");
        assert_eq!(settings.core.limits.members, 7);
        assert_eq!(settings.secrets.users.unwrap(), dir.path().join("users"));
    }

    #[test]
    fn a_misspelt_key_in_the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("turn.toml");
        std::fs::write(&path, "user-file = \"users\"\n").unwrap();
        let error = parse(&["--config", path.to_str().unwrap()]).with_file().unwrap_err().to_string();
        assert!(error.contains("user-file"), "{error}");
    }

    fn parse(arguments: &[&str]) -> Options {
        Options::try_parse_from(std::iter::once(&"campfire-turn").chain(arguments)).unwrap()
    }
}
