//! Options, checked once and turned into what the peer runs with.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use campfire_api::agent::Problem;
use campfire_camp::Trust;
use campfire_fire::config::{KeyEntry, KeyMode};
use campfire_fire::netcheck::Targets;
use campfire_mesh::config::{Config, DirectPolicy, Limits, Reconfigure};
use campfire_protocol::identity::NetworkId;
pub use campfire_protocol::key::MAX_KEYS;
use campfire_protocol::key::{Keys, Psk};
use campfire_protocol::server::{Server, merge};
use campfire_protocol::uri::CampUri;
use ipnet::IpNet;

use crate::cli::{KeySource, LogFormat, NetcheckArgs, Options, Up, UriArgs};
use crate::membership::{self, Delegation, SelfCertifier};
use crate::secrets::{self, EnvironmentSecrets, OwnIdentity};

/// Arguments or configuration that cannot be used; says what was expected. The process ends with code 64 (EX_USAGE).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(pub String);

/// Exit code for [`BadConfig`]: EX_USAGE of sysexits.h.
pub const EXIT_BAD_CONFIG: u8 = 64;

/// The most servers in a list.
pub const MAX_SERVERS: usize = 64;
/// The most routes offered.
pub const MAX_ROUTES: usize = 8;
/// Default of `--interface`.
pub const INTERFACE: &str = "campfire0";
/// Default of `--run-dir`.
pub const RUN_DIR: &str = "/run/campfire";

/// What `campfire up` runs with: checked, complete. Holds keys: no `Debug`.
pub struct PeerSettings {
    /// For the mesh.
    pub mesh: Config,
    /// Who we are.
    pub identity: OwnIdentity,
    /// What certifies us, where a URI brought that.
    pub delegation: Option<Delegation>,
    /// Interface name.
    pub interface: String,
    /// Interface MTU, bytes.
    pub mtu: u16,
    /// UDP port; 0: any.
    pub listen_port: u16,
    /// TLS.
    pub trust: Trust,
    /// Device node of TUN.
    pub tun_node: PathBuf,
    /// Directory of the control socket.
    pub run_dir: PathBuf,
    /// Directory of `wg`'s socket.
    pub wg_dir: PathBuf,
    /// Metrics and health.
    pub metrics_listen: Option<SocketAddr>,
    /// Ready file.
    pub ready_file: Option<PathBuf>,
    /// Things to say once logging works.
    pub remarks: Vec<String>,
}

/// What may change while the peer runs, read again.
pub struct Reloaded {
    /// For the mesh.
    pub change: Reconfigure,
    /// What certifies us from now on, where a URI brings that.
    pub delegation: Option<Delegation>,
    /// Things to say.
    pub remarks: Vec<String>,
    /// What is wrong from now on, instead of what was before.
    pub problems: Vec<Problem>,
}

/// The device node of TUN: `CAMPFIRE_TUN`, by default `/dev/net/tun`.
pub fn tun_node() -> PathBuf {
    std::env::var_os("CAMPFIRE_TUN").map_or_else(|| PathBuf::from("/dev/net/tun"), PathBuf::from)
}

/// The options of `campfire up` together with those of its file.
pub fn options(up: &Up) -> Result<Options, BadConfig> {
    let file = up.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
    Ok(up.options.clone().or(file))
}

/// A key in an argument is seen by everybody on the machine: refused before anything else is said.
pub fn refuse_secret_arguments(up: &Up) -> Result<(), BadConfig> {
    let (given, instead) = match (&up.psk, &up.uri) {
        (Some(_), _) => ("--psk", "--psk-file FILE or CAMPFIRE_PSK"),
        (None, Some(_)) => ("--uri", "--uri-file FILE or CAMPFIRE_URI"),
        (None, None) => return Ok(()),
    };
    Err(BadConfig(format!(
        "{given}: a secret on the command line can be read by everybody on this machine; use {instead}, and make a new key if this one counts"
    )))
}

/// What is logged, and how.
pub fn logging(options: &Options) -> (&str, LogFormat) {
    (options.log.as_deref().unwrap_or("info"), options.log_format.unwrap_or_default())
}

impl PeerSettings {
    /// The overlay's id.
    pub fn network(&self) -> NetworkId {
        self.mesh.fire.network
    }

    /// Checks everything. Reads and, where it is missing, makes the identity.
    pub fn new(options: &Options, environment: &EnvironmentSecrets) -> Result<Self, BadConfig> {
        let interface = options.interface.clone().unwrap_or_else(|| INTERFACE.to_owned());
        check_interface(&interface)?;
        let mtu = check_mtu(options.mtu.unwrap_or(1280))?;
        if options.ipv4_pool.is_some_and(|pool| pool.prefix_len() > 29 || pool.prefix_len() < 8) {
            return Err(BadConfig("--ipv4-pool: expected a network from /8 to /29, such as 100.80.0.0/16".into()));
        }
        let run_dir = options.run_dir.clone().unwrap_or_else(|| RUN_DIR.into());
        let wg_dir = options.wg_dir.clone().unwrap_or_else(|| "/var/run/wireguard".into());
        if run_dir == wg_dir {
            return Err(BadConfig(
                "--run-dir and --wg-dir: give each a directory of its own, both have a socket INTERFACE.sock there".into(),
            ));
        }
        let mut remarks = Vec::new();
        let gathered = gather(options, environment, None, &mut remarks)?;
        let trust = trust(options.ca_file.as_deref())?;
        let identity = identity(options, &interface, &mut remarks)?;
        let routes = routes(options, gathered.network)?;
        let mut name = display_name("--name", options.name.clone().unwrap_or_else(secrets::host_name))?;
        if let Some(delegation) = &gathered.delegation {
            delegation.check_routes(&routes)?;
            if options.name.as_deref().is_some_and(|wanted| wanted != delegation.name()) {
                remarks.push(format!("--name {name}: others see this peer as {}, as its URI certifies", delegation.name()));
            }
            delegation.name().clone_into(&mut name);
        }
        let fire = campfire_fire::config::Config {
            identity: identity.identity.clone(),
            keys: gathered.keys,
            network: gathered.network,
            servers: gathered.servers,
            heard: Vec::new(),
            in_cluster: options.in_cluster.unwrap_or(false),
            name,
            namespace: display_name("--namespace", options.namespace.clone().unwrap_or_default())?,
            cluster: display_name("--cluster", options.cluster.clone().unwrap_or_default())?,
            routes,
            ipv4_pool: options.ipv4_pool.map(|pool| pool.trunc()),
            tunnel: true,
            record: None,
            members: campfire_fire::config::MEMBERS,
        };
        let mut mesh = Config {
            fire,
            accepted_routes: options.accept_route.clone(),
            direct: if options.no_direct.unwrap_or(false) { DirectPolicy::Forbid } else { DirectPolicy::Allow },
            idle_close_ms: campfire_mesh::config::IDLE_CLOSE_MS,
            mtu,
            limits: Limits::default(),
            membership: None,
        };
        mesh.accepted_routes.truncate(64);
        Ok(Self {
            mesh,
            identity,
            delegation: gathered.delegation,
            interface,
            mtu,
            listen_port: options.listen_port.unwrap_or(0),
            trust,
            tun_node: tun_node(),
            run_dir,
            wg_dir,
            metrics_listen: options.metrics_listen,
            ready_file: options.ready_file.clone(),
            remarks,
        })
    }
}

impl PeerSettings {
    /// What certifies this peer, if it does so itself.
    pub fn certifier(&self) -> Option<SelfCertifier> {
        let delegation = self.delegation.clone()?;
        Some(SelfCertifier::new(delegation, self.mesh.fire.identity.public(), self.mesh.fire.routes.clone()))
    }
}

/// What of the settings cannot work on this host, each with what to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// The mesh would swallow the way that it needs.
    pub fatal: Option<String>,
    /// The rest works.
    pub others: Vec<String>,
}

impl PeerSettings {
    /// Compares pool and routes with the host's addresses, the servers', and what the kernel forwards. `forwards`: for IPv4, for IPv6.
    pub fn check_on(&self, host: &[IpAddr], forwards: [bool; 2]) -> Remarks {
        let fire = &self.mesh.fire;
        let mut remarks = Remarks::default();
        let servers = fire.servers.iter().flat_map(|server| &server.addresses);
        let servers = servers.filter_map(|address| address.host.parse().ok().map(|ip| (ip, "the server")));
        let own = host.iter().map(|ip| (*ip, "this machine's own address"));
        if let Some(pool) = fire.ipv4_pool
            && let Some((ip, what)) = servers.chain(own).find(|(ip, _)| matches!(ip, IpAddr::V4(v4) if pool.contains(v4)))
        {
            remarks.fatal = Some(format!(
                "--ipv4-pool {pool} holds {what} {ip}: what is sent there would go into the mesh; choose a network that nothing else uses, such as 100.80.0.0/16, the same on all peers"
            ));
        }
        for route in &fire.routes {
            let v4 = matches!(route, IpNet::V4(_));
            if v4 && fire.ipv4_pool.is_none() {
                remarks.others.push(format!(
                    "--advertise-route {route}: peers without an IPv4 address in the mesh cannot use it; give --ipv4-pool, the same on all peers"
                ));
            }
            // Its own address needs no forwarding.
            if !forwards[usize::from(!v4)]
                && !host.iter().any(|ip| route.contains(ip) && route.prefix_len() == IpNet::from(*ip).prefix_len())
            {
                let sysctl = if v4 { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" };
                remarks.others.push(format!("--advertise-route {route}: this machine forwards nothing; as root: sysctl -w {sysctl}=1"));
            }
        }
        remarks
    }
}

/// Whether the kernel forwards packets, of IPv4 and of IPv6.
pub fn forwards() -> [bool; 2] {
    ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"]
        .map(|name| std::fs::read_to_string(Path::new("/proc/sys").join(name)).map_or(true, |text| text.trim() != "0"))
}

impl Reloaded {
    /// Reads again what may change: servers, keys, routes. `network` is that of the running peer, which stays.
    pub fn new(options: &Options, environment: &EnvironmentSecrets, network: NetworkId) -> Result<Self, BadConfig> {
        let mut remarks = Vec::new();
        let gathered = gather(options, environment, Some(network), &mut remarks)?;
        let routes = routes(options, network)?;
        if let Some(delegation) = &gathered.delegation {
            delegation.check_routes(&routes)?;
        }
        Ok(Self {
            change: Reconfigure {
                fire: campfire_fire::config::Reconfigure {
                    servers: Some(gathered.servers),
                    heard: None,
                    keys: Some(gathered.keys),
                    routes: Some(routes),
                    record: None,
                },
                accepted_routes: Some(options.accept_route.clone()),
                membership: None,
            },
            delegation: gathered.delegation,
            remarks,
            problems: Vec::new(),
        })
    }
}

struct Gathered {
    keys: Vec<KeyEntry>,
    network: NetworkId,
    servers: Vec<Server>,
    delegation: Option<Delegation>,
}

/// Keys, network and servers from all their sources.
fn gather(
    options: &Options,
    environment: &EnvironmentSecrets,
    running: Option<NetworkId>,
    remarks: &mut Vec<String>,
) -> Result<Gathered, BadConfig> {
    let mut psks: Vec<(Psk, KeyMode)> = Vec::new();
    for argument in &options.psk_file {
        psks.extend(secrets::read_key_argument(argument)?);
    }
    if let Some(text) = &environment.psk {
        psks.extend(secrets::parse_keys(text, KeyMode::Announce, "CAMPFIRE_PSK")?);
    }
    let mut uris: Vec<CampUri> = Vec::new();
    if let Some(path) = &options.uri_file {
        uris.push(uri_file(path)?);
    }
    if let Some(text) = &environment.uri {
        uris.push(secrets::parse_uri(text, "CAMPFIRE_URI")?);
    }
    psks.extend(uris.iter().map(|uri| (uri.psk.clone(), KeyMode::Announce)));
    if uris.iter().any(|uri| uri.version1) {
        remarks.push("the URI is of version 1, whose keys can be guessed: make a new key with `campfire key new`".into());
    }

    let mut keys: Vec<KeyEntry> = Vec::new();
    for (psk, mode) in &psks {
        let derived: Keys = psk.derive();
        if !keys.iter().any(|known| known.keys.fingerprint == derived.fingerprint) {
            keys.push(KeyEntry { keys: Arc::new(derived), mode: *mode });
        }
    }
    match keys.len() {
        0 => {
            return Err(BadConfig(
                "no key: give --psk-file FILE or --uri-file FILE, or set CAMPFIRE_PSK or CAMPFIRE_URI; `campfire key new` makes a key"
                    .into(),
            ));
        }
        1..=MAX_KEYS => {}
        many => return Err(BadConfig(format!("{many} keys: at most {MAX_KEYS} are held at once; drop the oldest"))),
    }
    if keys.iter().all(|key| key.mode == KeyMode::Accept) {
        return Err(BadConfig("all keys are accept: one at least must be announced, or nobody is met".into()));
    }

    let network = match (&options.network, running) {
        (_, Some(network)) => network,
        (Some(text), None) => parse_network(text)?,
        (None, None) => {
            let oldest = keys.last().map(|key| key.keys.network);
            match (uris.iter().find_map(|uri| uri.network), oldest) {
                (Some(network), _) => network,
                (None, Some(network)) if keys.len() == 1 => network,
                (None, oldest) => {
                    let oldest = oldest.map(|id| id.to_string()).unwrap_or_default();
                    return Err(BadConfig(format!(
                        "several keys: say which network they are of, as addresses follow from it: --network ID (of the oldest key here: {oldest})"
                    )));
                }
            }
        }
    };

    let delegation = Delegation::of(&uris)?;
    Ok(Gathered { keys, network, servers: servers(options, uris)?, delegation })
}

/// The key of `campfire key` and `campfire uri`: the newest, where there are several.
pub fn only_key(source: &KeySource, environment: &EnvironmentSecrets) -> Result<(Psk, Option<CampUri>), BadConfig> {
    if let Some(argument) = &source.psk_file {
        return first(secrets::read_key_argument(argument)?).map(|psk| (psk, None));
    }
    if let Some(path) = &source.uri_file {
        let uri = uri_file(path)?;
        return Ok((uri.psk.clone(), Some(uri)));
    }
    if let Some(text) = &environment.psk {
        return first(secrets::parse_keys(text, KeyMode::Announce, "CAMPFIRE_PSK")?).map(|psk| (psk, None));
    }
    if let Some(text) = &environment.uri {
        let uri = secrets::parse_uri(text, "CAMPFIRE_URI")?;
        return Ok((uri.psk.clone(), Some(uri)));
    }
    Err(BadConfig("no key: give --psk-file FILE or --uri-file FILE, or set CAMPFIRE_PSK or CAMPFIRE_URI".into()))
}

fn first(keys: Vec<(Psk, KeyMode)>) -> Result<Psk, BadConfig> {
    keys.into_iter().next().map(|(psk, _)| psk).ok_or_else(|| BadConfig("no key".into()))
}

/// The URI of `campfire uri`.
pub fn uri(arguments: &UriArgs, environment: &EnvironmentSecrets) -> Result<CampUri, BadConfig> {
    let (psk, given) = only_key(&arguments.source, environment)?;
    let mut servers = Vec::new();
    for text in &arguments.server {
        servers.push(text.parse::<Server>().map_err(|error| BadConfig(format!("--server: {error}")))?);
    }
    let mut network = arguments.network.as_deref().map(parse_network).transpose()?;
    let (mut roots, mut issuer) = (Vec::new(), None);
    if let Some(given) = given {
        servers.extend(given.servers);
        network = network.or(given.network);
        (roots, issuer) = (given.roots, given.issuer);
    }
    if let (Some(name), Some(file)) = (&arguments.for_name, &arguments.root_file) {
        let root = secrets::read_root(file)?;
        if !roots.contains(&root.public()) {
            roots = vec![root.public()];
        }
        let life = Duration::from_hours(24) * u32::from(arguments.days);
        issuer = Some(membership::delegate(&root, name, &arguments.route, life)?);
    }
    let network = network.or_else(|| Some(psk.derive().network));
    let servers = merge(servers);
    if servers.is_empty() {
        return Err(BadConfig("no server: give --server HOST once or more".into()));
    }
    Ok(CampUri { servers, network, psk, roots, issuer, version1: false })
}

/// What `campfire netcheck` tries, and whose certificates it takes; `None`: whatever the running peer knows.
pub fn targets(arguments: &NetcheckArgs) -> Result<Option<(Targets, Trust)>, BadConfig> {
    if arguments.server.is_empty() && arguments.uri_file.is_none() && arguments.config.is_none() {
        return Ok(None);
    }
    let given = Options {
        server: arguments.server.clone(),
        uri_file: arguments.uri_file.clone(),
        ca_file: arguments.ca_file.clone(),
        ..Options::default()
    };
    let options = given.or(arguments.config.as_deref().map(read_file).transpose()?.unwrap_or_default());
    let uri = options.uri_file.as_deref().map(uri_file).transpose()?;
    let servers = servers(&options, uri)?;
    Ok(Some((Targets::given(servers, options.in_cluster.unwrap_or(false)), trust(options.ca_file.as_deref())?)))
}

/// The servers of options and URIs, each once.
fn servers(options: &Options, uris: impl IntoIterator<Item = CampUri>) -> Result<Vec<Server>, BadConfig> {
    let mut servers = Vec::new();
    for text in &options.server {
        servers.push(text.parse::<Server>().map_err(|error| BadConfig(format!("--server: {error}")))?);
    }
    servers.extend(uris.into_iter().flat_map(|uri| uri.servers));
    let servers = merge(servers);
    match servers.len() {
        0 => Err(BadConfig("no server: give --server HOST once or more, or a camp:// URI with servers".into())),
        1..=MAX_SERVERS => Ok(servers),
        many => Err(BadConfig(format!("{many} servers: at most {MAX_SERVERS} are held"))),
    }
}

fn uri_file(path: &Path) -> Result<CampUri, BadConfig> {
    secrets::parse_uri(&secrets::read_secret_file(path, "--uri-file")?, &path.display().to_string())
}

fn trust(ca_file: Option<&Path>) -> Result<Trust, BadConfig> {
    Ok(match ca_file {
        None => Trust::Anybody,
        Some(path) if path.as_os_str() == "system" => Trust::File(system_bundle()?),
        Some(path) => Trust::File(path.to_owned()),
    })
}

fn parse_network(text: &str) -> Result<NetworkId, BadConfig> {
    text.trim().parse().map_err(|_| BadConfig("--network: expected 10 hex digits".into()))
}

/// A file of options. Errors name the line, never what stands in it: it may be a key in the wrong place.
fn read_file(path: &Path) -> Result<Options, BadConfig> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| BadConfig(format!("--config: {shown} cannot be read: {error}")))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
        let message = error.message();
        // serde quotes values it did not expect.
        let message = match message.strip_prefix("unknown variant ") {
            Some(rest) => rest.rfind("expected ").and_then(|at| rest.get(at..)).unwrap_or("a value that this option does not have"),
            None if message.contains("string \"") => "a text where another kind of value is expected",
            None => message,
        };
        BadConfig(format!("--config: {shown}, line {line}: {message}"))
    })
}

fn check_interface(name: &str) -> Result<(), BadConfig> {
    let fits = (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fits && name != "." && name != ".." {
        Ok(())
    } else {
        Err(BadConfig("--interface: expected 1 to 15 letters, digits and . - _".into()))
    }
}

fn check_mtu(mtu: u32) -> Result<u16, BadConfig> {
    match u16::try_from(mtu) {
        Ok(fits) if (1280..=9000).contains(&fits) => Ok(fits),
        _ => Err(BadConfig(format!("--mtu: expected 1280 to 9000 bytes (IPv6 needs 1280), found {mtu}"))),
    }
}

fn display_name(option: &str, name: String) -> Result<String, BadConfig> {
    if name.chars().count() <= 63 && !name.chars().any(char::is_control) {
        Ok(name)
    } else {
        Err(BadConfig(format!("{option}: expected at most 63 printable characters")))
    }
}

fn routes(options: &Options, network: NetworkId) -> Result<Vec<IpNet>, BadConfig> {
    let overlay = IpNet::V6(network.prefix());
    let mut routes: Vec<IpNet> = options.advertise_route.iter().map(IpNet::trunc).collect();
    routes.sort_unstable();
    routes.dedup();
    if routes.len() > MAX_ROUTES {
        return Err(BadConfig(format!("--advertise-route: at most {MAX_ROUTES}, found {}", routes.len())));
    }
    if let Some(bad) = routes.iter().find(|route| overlaps(route, &overlay)) {
        return Err(BadConfig(format!("--advertise-route: {bad} overlaps the overlay's own network {overlay}")));
    }
    Ok(routes)
}

fn overlaps(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

fn identity(options: &Options, interface: &str, remarks: &mut Vec<String>) -> Result<OwnIdentity, BadConfig> {
    if let Some(path) = &options.identity_file {
        return OwnIdentity::from_file(path);
    }
    let folder = options.state_dir.clone().unwrap_or_else(|| "/var/lib/campfire".into());
    let path = folder.join(format!("{interface}.identity"));
    let writable = path.exists() || fs::create_dir_all(&folder).is_ok_and(|()| is_writable(&folder));
    if writable {
        return OwnIdentity::from_file(&path);
    }
    remarks.push(format!(
        "{} is not writable: this peer's identity and address last until it ends (keep them with --identity-file or --state-dir)",
        folder.display()
    ));
    OwnIdentity::ephemeral().map_err(|error| BadConfig(format!("no random numbers: {error}")))
}

fn is_writable(folder: &Path) -> bool {
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    let writable = fs::OpenOptions::new().write(true).create_new(true).open(&probe).is_ok();
    let _ = fs::remove_file(probe);
    writable
}

/// Where systems keep their bundle of certificates.
const BUNDLES: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

fn system_bundle() -> Result<PathBuf, BadConfig> {
    BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()).ok_or_else(|| {
        BadConfig(format!("--ca-file: this system has no certificates at {}; install ca-certificates, or name a file", BUNDLES.join(", ")))
    })
}
