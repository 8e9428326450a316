//! A peer in a pod: its settings come from the operator's agent API, it reports there, and it changes nothing about the
//! interface, which the init container made ([`init`]), or the node's agent ([`node`]).
//!
//! The operator is needed for the first start alone. What it said is kept in the pod's memory ([`Cache`]): a sidecar that
//! restarts while nobody answers starts from there and catches up later.

pub mod agent;
pub mod init;
mod made;
mod node;
mod pins;
pub mod ready;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use campfire_api::agent::{KeyMode as AgentKeyMode, MAX_ANSWER, MAX_PROBLEMS, Path as AgentPath, Problem, ProblemReason, Report, Settings};
use campfire_camp::Trust;
use campfire_fire::config::{KeyEntry, KeyMode, MEMBERS};
use campfire_mesh::config::{Config, DirectPolicy, IDLE_CLOSE_MS, Limits, Reconfigure};
use campfire_mesh::status::PathKind;
use campfire_protocol::identity::NetworkId;
use campfire_protocol::key::Psk;
use campfire_protocol::server::{Scope, Server, merge};
use campfire_sys::tun::Tun;
use ipnet::{IpNet, Ipv4Net};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use self::agent::Agent;
use self::made::Made;
use crate::cli::Options;
use crate::config::{self, BadConfig, MAX_KEYS, MAX_SERVERS, Reloaded};
use crate::control;
use crate::report::Report as Own;
use crate::secrets::OwnIdentity;

/// How the control loop and the operator's agent API talk.
pub struct AgentLink {
    /// The device, where the node's agent sent it.
    pub device: Option<Tun>,
    /// New settings.
    pub changes: mpsc::Receiver<Reloaded>,
    /// What is reported.
    pub told: watch::Sender<Option<Report>>,
}

/// File that says why the sidecar has no settings yet, while it has none.
pub const WAITING: &str = "waiting";
/// The same of the interface, where the node's agent makes it.
pub const WAITING_INTERFACE: &str = "waiting-interface";
/// How long a peer that starts may try before it is a problem that no server answers.
const STARTING: Duration = Duration::from_secs(3);
/// Longest pause between two tries to reach the operator.
const PATIENCE: Duration = Duration::from_secs(15);
/// Least time between two questions.
const BETWEEN: Duration = Duration::from_secs(1);

/// What the operator said last, in the pod's memory.
pub struct Cache(PathBuf);

impl Cache {
    /// In the pod's state directory.
    pub fn new(state: &Path) -> Self {
        Self(state.join("settings.json"))
    }

    /// What is kept; `None` if there is nothing (whole) to read.
    pub fn load(&self) -> Option<Settings> {
        let text = Zeroizing::new(fs::read(&self.0).ok().filter(|text| text.len() <= MAX_ANSWER)?);
        serde_json::from_slice(&text).ok()
    }

    /// Replaces it, whole or not at all. Mode 0640: the directory's group is the init container's, which reads it again
    /// when the pod's sandbox was made anew.
    pub fn store(&self, settings: &Settings) -> io::Result<()> {
        let text = Zeroizing::new(serde_json::to_vec(settings).map_err(io::Error::other)?);
        let part = self.0.with_extension("part");
        let _ = fs::remove_file(&part);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&part)?;
        file.write_all(&text)?;
        fs::rename(&part, &self.0)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// What the mesh is told, from what the operator said. Nothing is believed to be well-formed.
struct Told {
    keys: Vec<KeyEntry>,
    network: NetworkId,
    servers: Vec<Server>,
    /// What other clusters' operators published.
    heard: Vec<Server>,
    accepted_routes: Vec<IpNet>,
    ipv4_pool: Option<Ipv4Net>,
}

impl Told {
    fn new(settings: &Settings) -> Result<Self, BadConfig> {
        let bad = |what: &str| BadConfig(format!("the operator's settings: {what}; are operator and sidecar of the same version?"));
        let mut keys = Vec::new();
        for key in settings.keys.iter().take(MAX_KEYS) {
            let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(key.psk.trim()).map_err(|_| bad("a key is not base64url"))?);
            let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| bad("a key is not of 32 bytes"))?;
            let mode = match key.mode {
                AgentKeyMode::Accept => KeyMode::Accept,
                AgentKeyMode::Announce => KeyMode::Announce,
            };
            keys.push(KeyEntry { keys: Arc::new(Psk::from_bytes(bytes).derive()), mode });
        }
        if !keys.iter().any(|key| key.mode == KeyMode::Announce) {
            return Err(bad("no key to announce"));
        }
        let network = settings.network.parse().map_err(|_| bad("no network id"))?;
        let (mut servers, mut heard) = (Vec::new(), Vec::new());
        for entry in settings.servers.iter().take(MAX_SERVERS) {
            let Ok(mut server) = entry.text.parse::<Server>() else {
                warn!("the operator names a server that this version does not understand: left out");
                continue;
            };
            if entry.in_cluster {
                server.addresses.iter_mut().for_each(|address| address.scope = Scope::Cluster);
            }
            if entry.heard { &mut heard } else { &mut servers }.push(server);
        }
        let accepted_routes = settings.accept_routes.iter().take(64).filter_map(|route| route.parse::<IpNet>().ok()).collect();
        let ipv4_pool = settings.ipv4_pool.as_deref().and_then(|pool| pool.parse::<Ipv4Net>().ok()).map(|pool| pool.trunc());
        Ok(Self { keys, network, servers: merge(servers), heard: merge(heard), accepted_routes, ipv4_pool })
    }
}

/// What may change while the peer runs.
fn change(settings: &Settings, made: Option<&Made>) -> Result<Reloaded, BadConfig> {
    let told = Told::new(settings)?;
    Ok(Reloaded {
        change: Reconfigure {
            fire: campfire_fire::config::Reconfigure {
                servers: Some(told.servers),
                heard: Some(told.heard),
                keys: Some(told.keys),
                routes: None,
                record: None,
            },
            accepted_routes: Some(told.accepted_routes),
            membership: None,
        },
        delegation: None,
        remarks: Vec::new(),
        problems: made.iter().filter_map(|made| made.outdated(settings)).collect(),
    })
}

/// All that a peer in a pod starts with.
fn complete(
    options: &Options,
    state: &Path,
    settings: &Settings,
    made: Option<&Made>,
    identity: OwnIdentity,
) -> Result<config::PeerSettings, BadConfig> {
    // The interface is as it was made, and the sidecar may not change it.
    let settings = &made.map_or_else(|| settings.clone(), |made| made.applied_to(settings));
    let told = Told::new(settings)?;
    let clip = |text: &str| text.chars().filter(|c| !c.is_control()).take(63).collect::<String>();
    let fire = campfire_fire::config::Config {
        identity: identity.identity.clone(),
        keys: told.keys,
        network: told.network,
        servers: told.servers,
        heard: told.heard,
        in_cluster: true,
        name: clip(&settings.name),
        namespace: clip(&settings.namespace),
        cluster: clip(&settings.cluster),
        routes: Vec::new(),
        ipv4_pool: told.ipv4_pool,
        tunnel: true,
        record: None,
        members: MEMBERS,
    };
    let mesh = Config {
        fire,
        accepted_routes: told.accepted_routes,
        direct: if settings.direct { DirectPolicy::Allow } else { DirectPolicy::Forbid },
        idle_close_ms: IDLE_CLOSE_MS,
        mtu: settings.mtu.clamp(1280, 9000),
        limits: Limits::default(),
        membership: None,
    };
    let own_node = state.join(init::TUN_NODE);
    Ok(config::PeerSettings {
        mesh,
        identity,
        delegation: None,
        interface: options.interface.clone().unwrap_or_else(|| config::INTERFACE.to_owned()),
        mtu: settings.mtu.clamp(1280, 9000),
        listen_port: options.listen_port.unwrap_or(0),
        trust: match &options.ca_file {
            None => Trust::Anybody,
            Some(path) => Trust::File(path.clone()),
        },
        tun_node: if own_node.exists() { own_node } else { config::tun_node() },
        run_dir: options.run_dir.clone().unwrap_or_else(|| state.to_owned()),
        wg_dir: options.wg_dir.clone().unwrap_or_else(|| "/var/run/wireguard".into()),
        metrics_listen: options.metrics_listen,
        ready_file: options.ready_file.clone(),
        remarks: Vec::new(),
    })
}

/// `campfire up --agent`: runs until it is told to stop.
pub async fn up(options: &Options) -> Result<()> {
    let agent = Arc::new(Agent::new(options)?);
    let state = state_dir(options);
    let cache = Cache::new(&state);
    ready::started(&state);
    let mut terminate = signal(SignalKind::terminate())?;
    let waiting = state.join(WAITING);
    let settings = tokio::select! {
        settings = first(&agent, &cache, &waiting) => settings,
        // Nobody knows this peer yet: there is nobody to say goodbye to.
        _ = terminate.recv() => return Ok(()),
    };
    agent.trust(&settings.agent_ca);

    let identity = OwnIdentity::from_file(&state.join(init::IDENTITY))?;
    let (device, made) = match &options.node_dir {
        None => (None, Made::load(&state)),
        Some(dir) => {
            // In other pods the init container made it.
            let _ = fs::create_dir(state.join(init::WIREGUARD));
            let (device, made) = tokio::select! {
                made = node::device(&agent, dir, &state, &settings, &identity.identity) => made,
                _ = terminate.recv() => return Ok(()),
            };
            (Some(device), Some(made))
        }
    };
    let peer = complete(options, &state, &settings, made.as_ref(), identity)?;
    let reporter = agent::Reporter::new(&peer.mesh.fire.identity, &settings);
    if let Ok(problem) = fs::read_to_string(state.join(init::PROBLEM)) {
        // There is no interface and will be none, and to end would keep the app from starting.
        error!("{problem}: the app runs without the mesh; mend that and make the pod anew");
        let (_told, reports) = watch::channel(Some(unconfigured(&peer, &settings, &problem)));
        tokio::select! {
            () = agent::report(agent, reporter, reports) => {}
            _ = terminate.recv() => {}
        }
        return Ok(());
    }
    let (changes, receiver) = mpsc::channel(1);
    let (told, reports) = watch::channel(None::<Report>);
    told.send_replace(Some(Report { settings_version: settings.version.clone(), ..Report::default() }));
    tokio::spawn(follow(agent.clone(), cache, settings, made, changes, told.clone()));
    tokio::spawn(agent::report(agent, reporter, reports));
    let reload = || Err(BadConfig("in a pod the operator says what changes, and tells it by itself".into()));
    Box::pin(control::run(peer, reload, Some(AgentLink { device, changes: receiver, told }))).await
}

/// The state directory of a pod's containers.
fn state_dir(options: &Options) -> PathBuf {
    options.state_dir.clone().unwrap_or_else(|| campfire_api::names::STATE_DIR.into())
}

/// The settings to start with: what is kept, else what the operator says as soon as it answers.
async fn first(agent: &Agent, cache: &Cache, waiting: &Path) -> Settings {
    if let Some(settings) = cache.load() {
        return settings;
    }
    let mut pause = agent::Backoff::new(PATIENCE);
    loop {
        let why = match agent.settings("", 0).await {
            Ok(Some(settings)) => {
                keep(cache, &settings);
                let _ = fs::remove_file(waiting);
                return settings;
            }
            Ok(None) => "the operator has no settings for this pod yet".to_owned(),
            Err(failure) => format!("no settings from the operator yet: {failure}"),
        };
        warn!("{why}; asking again");
        // For whoever looks into the pod, by `campfire status` or at its startup probe.
        let _ = fs::write(waiting, &why);
        pause.wait(None).await;
    }
}

fn keep(cache: &Cache, settings: &Settings) {
    if let Err(error) = cache.store(settings) {
        warn!("{}: {error}: a restart of this container will need the operator", cache.path().display());
    }
}

/// Hands changes of the settings to the peer, as long as it runs.
async fn follow(
    agent: Arc<Agent>,
    cache: Cache,
    mut held: Settings,
    made: Option<Made>,
    changes: mpsc::Sender<Reloaded>,
    told: watch::Sender<Option<Report>>,
) {
    // Said at a restart as well.
    if let Ok(reloaded) = change(&held, made.as_ref())
        && !reloaded.problems.is_empty()
    {
        let _ = changes.send(reloaded).await;
    }
    let mut pause = agent::Backoff::new(Duration::from_mins(1));
    let mut away = false;
    // What was kept may be old.
    let mut wait = 0;
    while !changes.is_closed() {
        let asked = Instant::now();
        match agent.settings(&held.version, wait).await {
            Ok(None) => {
                pause.reset();
                wait = campfire_api::agent::MAX_WAIT;
            }
            Ok(Some(settings)) => {
                wait = campfire_api::agent::MAX_WAIT;
                agent.trust(&settings.agent_ca);
                match change(&settings, made.as_ref()) {
                    Ok(mut reloaded) => {
                        if settings.direct != held.direct {
                            reloaded.remarks.push("whether direct paths may be used changed: that holds when the pod is made anew".into());
                        }
                        pause.reset();
                        if changes.send(reloaded).await.is_err() {
                            return;
                        }
                        keep(&cache, &settings);
                        held = settings;
                        let version = held.version.clone();
                        told.send_if_modified(|report| {
                            report
                                .as_mut()
                                .is_some_and(|report| std::mem::replace(&mut report.settings_version, version.clone()) != version)
                        });
                    }
                    Err(error) => {
                        warn!("{error}: what was held before stays");
                        pause.wait(None).await;
                    }
                }
            }
            Err(failure) => {
                if !std::mem::replace(&mut away, true) {
                    warn!("the operator does not answer ({failure}): going on with what it said before");
                }
                pause.wait(failure.later()).await;
                continue;
            }
        }
        if std::mem::take(&mut away) {
            info!("the operator answers again");
        }
        // An operator that does not wait, whatever it was asked for, is not asked without a pause.
        tokio::time::sleep(BETWEEN.saturating_sub(asked.elapsed())).await;
    }
}

/// What is reported of a peer in this state.
pub fn report(own: &Own, before: Option<&Report>) -> Report {
    let count = |kind: PathKind| {
        let peers = own.status.peers.iter().filter(|peer| peer.connected && peer.path == kind).count();
        u32::try_from(peers).unwrap_or(u32::MAX)
    };
    let (direct, relayed) = (count(PathKind::Direct), count(PathKind::Relay));
    let known = u32::try_from(own.status.peers.len()).unwrap_or(u32::MAX);
    let camped = own.camped();
    let mut problems = Vec::new();
    if !camped && (own.ready || Duration::from_millis(own.uptime_ms) > STARTING) {
        let why = own.status.servers.iter().find_map(|server| server.problem.as_ref().map(|problem| format!("{}: {problem}", server.id)));
        let message = why.unwrap_or_else(|| "no TURN server answers: look at the Campfire's endpoints and at network policies".into());
        problems.push(Problem { reason: ProblemReason::FireUnreachable, message: clipped(&message) });
    }
    problems.extend(own.problems.iter().map(|problem| Problem { message: clipped(&problem.message), ..problem.clone() }));
    problems.truncate(MAX_PROBLEMS);
    Report {
        public_key: own.status.own.public_key.clone(),
        identity: own.status.own.identity.clone(),
        addresses: own.status.own.addresses.iter().map(ToString::to_string).collect(),
        settings_version: before.map(|report| report.settings_version.clone()).unwrap_or_default(),
        fingerprints: own.status.own.fingerprints.clone(),
        camped,
        ready: own.ready,
        direct,
        relayed,
        unconnected: known.saturating_sub(direct).saturating_sub(relayed),
        path: match (direct, relayed) {
            (0, 0) => AgentPath::None,
            (_, 0) => AgentPath::Direct,
            (0, _) => AgentPath::Relay,
            _ => AgentPath::Mixed,
        },
        reason: common_reason(own),
        problems,
        sidecar_version: own.version.clone(),
        signature: String::new(),
    }
}

/// What a peer reports that has no interface.
fn unconfigured(peer: &config::PeerSettings, settings: &Settings, problem: &str) -> Report {
    let message = format!("{problem}: the app runs without the mesh; mend that and make the pod anew");
    Report {
        public_key: STANDARD.encode(peer.mesh.fire.identity.public().x25519()),
        identity: peer.mesh.fire.identity.public().to_string(),
        settings_version: settings.version.clone(),
        problems: vec![Problem { reason: ProblemReason::InterfaceUnconfigured, message: clipped(&message) }],
        sidecar_version: env!("CARGO_PKG_VERSION").into(),
        ..Report::default()
    }
}

/// As long as a problem's message may be.
fn clipped(message: &str) -> String {
    message.chars().take(256).collect()
}

/// The most common reason of the links that are not direct.
fn common_reason(own: &Own) -> String {
    let mut counts = std::collections::BTreeMap::<_, usize>::new();
    for peer in own.status.peers.iter().filter(|peer| peer.connected && peer.path == PathKind::Relay) {
        if let Some(why) = peer.why_not_direct {
            *counts.entry(why).or_default() += 1;
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(why, _)| crate::show::reason(why).to_owned()).unwrap_or_default()
}
