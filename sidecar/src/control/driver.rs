//! The mesh, and what carries out what it asks for: the camp, the data thread, the interface, the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use campfire_api::agent::{Problem, ProblemReason};
use campfire_camp::{BindError, Camp, CampEvent, Epoch, Tls, Trust, unix_millis};
use campfire_datapath::command::Command;
use campfire_datapath::table::{Addressing, Table};
use campfire_fire::config::{KeyEntry, Reconfigure as CampChange};
use campfire_fire::io as fire;
use campfire_fire::netcheck::Targets;
use campfire_interface::{Dress, Interface, Told, explain_device};
use campfire_mesh::Mesh;
use campfire_mesh::config::Reconfigure;
use campfire_mesh::io::{Input, Notice, Output};
use campfire_mesh::ping::{Ping, Pong};
use campfire_mesh::status::Problem as MeshProblem;
use campfire_protocol::carrier::SocketId;
use campfire_protocol::identity::{NetworkId, ipv4_in_pool};
use campfire_protocol::server::{Server, Transport};
use campfire_protocol::time::Time;
use campfire_sys::tun::Tun;
use campfire_sys::udp::Socket;
use ipnet::Ipv4Net;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, trace, warn};
use zeroize::Zeroizing;

use super::overlay_net;
use super::plane::Plane;
use super::readiness::Readiness;
use crate::config::{self, BadConfig, PeerSettings, Reloaded, Remarks};
use crate::data::{self, DataConfig, DataHandle};
use crate::http::PingRequest;
use crate::membership::SelfCertifier;
use crate::metrics::Snapshot;
use crate::plane::{Counters, FromData, ToData};
use crate::report::Report;
use crate::secrets;
use crate::underlay;

/// Least time between two wakes of the mesh.
const BREATH: Duration = Duration::from_millis(1);
/// How long what was said at the end may take to go out.
const GOODBYE: Duration = Duration::from_millis(200);

/// What the loop listens to beside the camp.
pub(super) struct Inbox {
    pub(super) data: mpsc::Receiver<FromData>,
    pub(super) host: mpsc::Receiver<Told>,
}

/// See the module. After each `on_…`: [`carry_out`](Self::carry_out), then look at [`next_wake`](Self::next_wake).
pub(super) struct Driver {
    mesh: Mesh,
    pub(super) camp: Camp,
    tls: Arc<Tls>,
    plane: Plane,
    clock: Epoch,
    network: NetworkId,
    pool: Option<Ipv4Net>,
    interface: String,
    mtu: u16,
    /// What the mesh was told last of what may change.
    servers: Vec<Server>,
    keys: Vec<KeyEntry>,
    /// Makes our certificates, where nobody else does.
    certifier: Option<SelfCertifier>,
    data_thread: Option<std::thread::JoinHandle<()>>,
    counters: Arc<Counters>,
    published: Table,
    last_wake: Instant,
    /// TLS without a pin is not checked, and that has not been said yet.
    unchecked_tls: bool,
    sockets: BTreeMap<SocketId, SocketAddr>,
    /// The host's addresses, and what is wrong with the interface.
    host: Told,
    /// What was found wrong at the start and does not change.
    remarks: Vec<String>,
    /// What is wrong with what the peer was told since.
    standing: Vec<Problem>,
    dress: watch::Sender<Dress>,
    tending: JoinHandle<()>,
    readiness: Readiness,
    /// Who waits for the answer to which ping.
    pings: HashMap<u64, oneshot::Sender<Pong>>,
    next_ping: u64,
}

impl Driver {
    /// Opens sockets, device and interface, and starts the data thread. `sent`: the device, where somebody else opened it.
    /// `fatal`: what cannot work ends it; else it is a problem that is said.
    pub(super) async fn start(settings: &PeerSettings, sent: Option<Tun>, fatal: bool) -> Result<(Self, Inbox)> {
        let mut config = settings.mesh.clone();
        let mut certifier = settings.certifier();
        if let Some(certifier) = &mut certifier {
            config.membership = certifier.due(unix_millis());
        }
        let tls = Arc::new(Tls::new(&settings.trust).map_err(|error| BadConfig(format!("--ca-file: {error}")))?);
        let public = config.fire.identity.public();
        let mut addresses = vec![overlay_net(config.fire.network, None, IpAddr::V6(config.fire.network.address(&public)))];
        if let Some(pool) = config.fire.ipv4_pool {
            let ipv4 = ipv4_in_pool(pool, &public);
            addresses.extend(ipv4.map(|ipv4| overlay_net(config.fire.network, Some(pool), IpAddr::V4(ipv4))));
        }

        let open = || data::open_tun(&settings.tun_node, &settings.interface);
        let tun = sent.map_or_else(open, Ok).map_err(|error| explain_device(&settings.interface, &error))?;
        let interface = Interface::set_up(&settings.interface, settings.mtu, &addresses).await?;
        let host = interface.host().await.context("the host's addresses")?;
        let Remarks { fatal: why, others: mut remarks } = settings.check_on(&host.fixed, config::forwards());
        match why {
            Some(why) if fatal => return Err(BadConfig(why).into()),
            why => remarks.extend(why),
        }
        for remark in &remarks {
            warn!("{remark}");
        }
        if let Some(device) = host.device.as_deref().filter(|_| !config.accepted_routes.is_empty()) {
            underlay::fall_back_to(device);
        }
        let sockets = campfire_camp::bind(settings.listen_port, open_socket).map_err(|error| explain_bind(&error))?;
        let host = Told { addresses: host.addresses, problems: Vec::new() };

        let clock = Epoch::begin();
        let secret = config.fire.identity.x25519_secret();
        let DataHandle { to, from, counters, join } =
            data::start(DataConfig { tun, sockets, secret, mtu: settings.mtu, epoch: clock.instant() })
                .context("the data thread cannot be started")?;
        let (dress, dress_receiver) = watch::channel((addresses.iter().copied().collect(), BTreeSet::new()));
        let (host_sender, host_receiver) = mpsc::channel(1);
        let tending = tokio::spawn(campfire_interface::tend(interface, host.clone(), dress_receiver, host_sender));

        let mut seed = Zeroizing::new([0; 32]);
        secrets::random(seed.as_mut())?;
        let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let fingerprints: Vec<String> = config.fire.keys.iter().map(|key| key.keys.fingerprint.to_string()).collect();
        info!(
            interface = settings.interface,
            addresses = shown.join(" "),
            key = fingerprints.join(" "),
            network = %config.fire.network,
            servers = config.fire.servers.len(),
            "up"
        );
        let driver = Self {
            camp: Camp::new(tls.clone(), Some(Arc::new(to.clone()))).preparing(underlay::keep_out),
            tls,
            plane: Plane::new(to),
            network: config.fire.network,
            pool: config.fire.ipv4_pool,
            interface: settings.interface.clone(),
            mtu: settings.mtu,
            servers: config.fire.servers.clone(),
            keys: config.fire.keys.clone(),
            certifier,
            mesh: Mesh::new(config, *seed, Time::from_micros(0), unix_millis()),
            data_thread: Some(join),
            counters,
            published: Table::default(),
            last_wake: clock.instant(),
            unchecked_tls: settings.trust == Trust::Anybody,
            sockets: BTreeMap::new(),
            host,
            remarks,
            standing: Vec::new(),
            dress,
            tending,
            readiness: Readiness::new(clock.instant()),
            pings: HashMap::new(),
            next_ping: 0,
            clock,
        };
        Ok((driver, Inbox { data: from, host: host_receiver }))
    }

    /// The time of [`next_wake`](Self::next_wake) has come.
    pub(super) fn on_wake(&mut self) {
        self.last_wake = Instant::now();
        self.mesh.handle(self.clock.now(), Input::Wake);
    }

    /// A minute has passed.
    pub(super) fn on_wall(&mut self) {
        self.mesh.handle(self.clock.now(), Input::Wall { unix_millis: unix_millis().0 });
        self.certify();
    }

    /// Makes a new certificate, if one is due by the clock as servers correct it.
    fn certify(&mut self) {
        let now = self.clock.now();
        let due = self.certifier.as_mut().and_then(|certifier| certifier.due(self.mesh.unix_now(now)));
        if let Some(membership) = due {
            debug!(certified = membership.chain.is_some(), "a new certificate was due");
            self.mesh.handle(now, Input::Configure(Box::new(Reconfigure { membership: Some(membership), ..Reconfigure::default() })));
        }
    }

    /// When the loop must run again by itself.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let mesh = self.mesh.next_wake().map(|at| self.clock.at(at));
        mesh.into_iter().chain(self.plane.next_try()).min().map(|at| at.max(self.last_wake + BREATH))
    }

    /// The data thread says something.
    pub(super) fn on_data(&mut self, message: FromData) -> Result<()> {
        let now = self.clock.now();
        match message {
            FromData::Upcall(upcall) => self.mesh.upcall(now, upcall),
            FromData::SocketOpened { socket, local } => {
                self.sockets.insert(socket, local);
                self.tell_addresses(socket);
            }
            FromData::SocketClosed { socket } => {
                self.sockets.remove(&socket);
                self.mesh.handle(now, Input::Fire(fire::Input::SocketClosed { socket }));
            }
            FromData::Failed(reason) => bail!("{reason}"),
        }
        Ok(())
    }

    /// A stream or a name look-up says something.
    pub(super) fn on_camp(&mut self, event: &CampEvent) {
        self.mesh.handle(self.clock.now(), Input::Fire(event.input()));
    }

    /// Somebody wants to know whether a peer answers.
    pub(super) fn ping(&mut self, request: PingRequest) {
        // Those who have given up make room: as many wait as the control socket serves.
        self.pings.retain(|_, waits| !waits.is_closed());
        let token = self.next_ping;
        self.next_ping = token.wrapping_add(1);
        self.pings.insert(token, request.answer);
        self.mesh.handle(self.clock.now(), Input::Ping(Ping { token, address: request.address, full: request.full }));
    }

    /// Which servers may be tried, and whose certificates are taken.
    pub(super) fn targets(&self) -> (Targets, Arc<Tls>) {
        (self.mesh.targets(self.clock.now()), self.tls.clone())
    }

    /// The host's addresses changed, or what is wrong with the interface.
    pub(super) fn on_host(&mut self, host: Told) {
        let before = std::mem::replace(&mut self.host, host);
        if before.addresses == self.host.addresses {
            return;
        }
        debug!(addresses = ?self.host.addresses, "the host's addresses changed");
        let sockets: Vec<SocketId> = self.sockets.keys().copied().collect();
        for socket in sockets {
            self.tell_addresses(socket);
        }
    }

    /// Tells the mesh under which addresses others might reach a socket.
    fn tell_addresses(&mut self, socket: SocketId) {
        let Some(bound) = self.sockets.get(&socket).copied() else { return };
        let overlay = self.network.prefix();
        let local: Vec<SocketAddr> = self
            .host
            .addresses
            .iter()
            .filter(|address| address.is_ipv4() == bound.is_ipv4())
            .filter(|address| !matches!(address, IpAddr::V6(v6) if overlay.contains(v6)))
            .map(|address| SocketAddr::new(*address, bound.port()))
            .collect();
        self.mesh.handle(self.clock.now(), Input::Fire(fire::Input::SocketOpened { socket, local: &local }));
    }

    /// Carries out all that the mesh asks for, then publishes its table if it changed.
    pub(super) fn carry_out(&mut self) {
        while let Some(output) = self.mesh.poll() {
            trace!(?output, "mesh");
            match output {
                Output::Fire(output) => self.carry_out_camping(output),
                Output::Data(command) => self.plane.tell(ToData::Command(command)),
                Output::Notice(notice) => log(&notice),
                Output::Pong(pong) => {
                    if let Some(waits) = self.pings.remove(&pong.token) {
                        let _ = waits.send(pong);
                    }
                }
            }
        }
        let table = self.mesh.table();
        if self.published.version != table.version {
            let (table, before) = (table.clone(), std::mem::replace(&mut self.published, table.clone()));
            if !Arc::ptr_eq(&table.addressing, &before.addressing) {
                self.dress(&table.addressing);
            }
            self.plane.tell(ToData::Table(table));
        }
        self.plane.flush();
    }

    fn carry_out_camping(&mut self, output: fire::Output) {
        if let fire::Output::OpenStream { transport: Transport::Tls, pin: None, host, .. } = &output
            && std::mem::take(&mut self.unchecked_tls)
        {
            warn!(
                "TLS to {host} hides traffic from bystanders, but nobody checks who the server is: pin its certificate (cert= at the server) or give --ca-file"
            );
        }
        if let Some(datagram) = self.camp.carry_out(output) {
            let send = Command::Send { socket: datagram.socket, remote: datagram.remote, datagram: datagram.bytes };
            self.plane.tell(ToData::Command(send));
        }
    }

    /// Gives the interface the addresses and routes that it is to have now.
    fn dress(&self, addressing: &Addressing) {
        let addresses = addressing.own.iter().map(|address| overlay_net(self.network, self.pool, *address)).collect();
        let routes = addressing.routes.iter().map(|(route, _)| *route).collect();
        self.dress.send_if_modified(|dress| {
            let new: Dress = (addresses, routes);
            let changed = *dress != new;
            *dress = new;
            changed
        });
    }

    /// What may change while the peer runs was read again, or the operator says it anew.
    pub(super) fn reconfigure(&mut self, reloaded: Reloaded) {
        for remark in &reloaded.remarks {
            warn!("{remark}");
        }
        for problem in reloaded.problems.iter().filter(|problem| !self.standing.contains(problem)) {
            warn!("{}", problem.message);
        }
        self.standing = reloaded.problems;
        match (&mut self.certifier, reloaded.delegation) {
            (Some(certifier), Some(delegation)) => {
                certifier.changed(delegation, reloaded.change.fire.routes.clone().unwrap_or_default());
            }
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => {
                warn!("the mesh was open and is certified now, or the other way round: that needs a restart");
            }
        }
        let Reconfigure { fire: CampChange { mut servers, heard, mut keys, routes, record }, accepted_routes, membership } =
            reloaded.change;
        if let Some(new) = servers.take_if(|new| *new != self.servers) {
            info!(servers = new.len(), "a new list of servers");
            self.servers.clone_from(&new);
            servers = Some(new);
        } else {
            servers = None;
        }
        let same = |new: &mut Vec<KeyEntry>| names(new) == names(&self.keys);
        if keys.as_mut().is_some_and(same) {
            keys = None;
        }
        if let Some(new) = &keys {
            info!(keys = ?names(new), "a new set of keys");
            self.keys.clone_from(new);
        }
        let change = Reconfigure { fire: CampChange { servers, heard, keys, routes, record }, accepted_routes, membership };
        self.mesh.handle(self.clock.now(), Input::Configure(Box::new(change)));
        self.certify();
        info!("reloaded");
    }

    /// What the peer tells of itself.
    pub(super) fn report(&self) -> Report {
        let status = self.mesh.status(self.clock.now());
        let of_mesh = status.problems.iter().map(|problem| {
            let reason = match problem {
                MeshProblem::IdentityShared(_) => ProblemReason::IdentityShared,
                MeshProblem::AddressTaken(_) => ProblemReason::AddressTaken,
                MeshProblem::NotCertified(_) => ProblemReason::NotCertified,
            };
            Problem { reason, message: problem.message().to_owned() }
        });
        let of_settings = self.remarks.iter().map(|remark| Problem { reason: ProblemReason::NetworkConflict, message: remark.clone() });
        let found = self.host.problems.iter().chain(&self.standing).cloned();
        let problems = found.chain(of_mesh).chain(of_settings).collect();
        Report {
            version: env!("CARGO_PKG_VERSION").into(),
            interface: self.interface.clone(),
            listen_port: self.sockets.values().next().map_or(0, SocketAddr::port),
            mtu: self.mtu,
            uptime_ms: u64::try_from(self.clock.instant().elapsed().as_millis()).unwrap_or(u64::MAX),
            unix_ms: unix_millis().0,
            ready: self.readiness.is_ready(),
            problems,
            status,
        }
    }

    /// The same with what the shell counts.
    pub(super) fn snapshot(&self) -> Snapshot {
        let streams = self.camp.counters();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            report: self.report(),
            data: self.counters.values(),
            streams: [count(&streams.dropped_frames), count(&streams.sent_bytes), count(&streams.received_bytes)],
        }
    }

    /// Camped, and connected to all who were there; stays so once it was.
    pub(super) fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Looks whether it is ready now, and then says so in the log and by the file.
    pub(super) fn look_ready(&mut self, file: Option<&Path>) {
        let report = self.report();
        self.readiness.look(&report, file);
    }

    /// Says goodbye everywhere and ends the data thread and the streams.
    pub(super) async fn stop(mut self) {
        self.mesh.handle(self.clock.now(), Input::Shutdown);
        self.carry_out();
        self.plane.stop().await;
        self.camp.close(GOODBYE).await;
        drop(self.dress);
        let _ = tokio::time::timeout(GOODBYE, self.tending).await;
        if let Some(thread) = self.data_thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join());
            if tokio::time::timeout(Duration::from_secs(2), joined).await.is_err() {
                warn!("the data thread does not end");
            }
        }
    }
}

/// Fingerprints and modes of keys: what makes two sets the same.
fn names(keys: &[KeyEntry]) -> Vec<String> {
    keys.iter().map(|key| format!("{}:{:?}", key.keys.fingerprint, key.mode)).collect()
}

/// A UDP socket for the data thread, and where it is bound.
fn open_socket(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket = data::bind(address)?;
    let local = socket.local_addr()?;
    Ok((socket, local))
}

/// Why there are no sockets, and what to do.
fn explain_bind(error: &BindError) -> anyhow::Error {
    match error {
        BindError::Taken(_) => anyhow!("{error}: choose another with --listen-port, or leave it out for any free one"),
        BindError::Denied(_) => anyhow!("{error}: choose one above 1023 with --listen-port, or run as root"),
        BindError::NoFamily | BindError::Other { .. } => anyhow!("{error}"),
    }
}

/// What a person would notice of peers, as lines of the log.
fn log(notice: &Notice) {
    match notice {
        Notice::PeerConnected { peer, path } => info!(peer, path, "connected"),
        Notice::PathChanged { peer, path, reason: None } => info!(peer, path, "path changed"),
        Notice::PathChanged { peer, path, reason: Some(reason) } => info!(peer, path, ?reason, "path changed"),
        Notice::PeerGone { peer, reason } => info!(peer, reason, "gone"),
        Notice::PeerRefused { peer, reason } => warn!(peer, ?reason, "not let in: {}", reason.sentence()),
        Notice::Problem { text } => warn!("{text}"),
    }
}
