//! The control loop: drives the [`Mesh`] with what the data thread, streams, name look-ups, timers and people say, and
//! carries out what it asks for.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use campfire_camp::{Tls, Trust};
use campfire_datapath::command::Command;
use campfire_datapath::table::{Addressing, Table};
use campfire_fire::config::{KeyEntry, Reconfigure as CampChange};
use campfire_fire::io as fire;
use campfire_mesh::Mesh;
use campfire_mesh::config::Reconfigure;
use campfire_mesh::io::{Input, Notice, Output};
use campfire_protocol::carrier::{ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::identity::{NetworkId, ipv4_in_pool};
use campfire_protocol::server::{Server, Transport};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_sys::udp::Socket;
use ipnet::{IpNet, Ipv4Net};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error, info, trace, warn};
use zeroize::Zeroizing;

use self::interface::Interface;
use self::streams::{Context as Streams, Stream, StreamCounters, Target};
use crate::cli::Options;
use crate::config::{BadConfig, Reloaded, Settings};
use crate::data::{self, DataConfig, DataHandle, ToDataSender};
use crate::http::{self, Asker};
use crate::metrics::Snapshot;
use crate::plane::{Counters, FromData, ToData};
use crate::pod;
use crate::report::Report;
use crate::secrets::{self, EnvironmentSecrets};
use crate::uapi;

pub mod interface;
pub mod streams;

/// Commands for the data thread that may wait for it.
const MAX_BACKLOG: usize = 65_536;
/// How often a full queue of the data thread is tried again, and least time between two wakes of the mesh.
const SHORT: Duration = Duration::from_millis(1);
/// How long a name look-up may take.
const RESOLVE: Duration = Duration::from_secs(5);
/// How long after camping the peer counts as ready even if some known peer does not answer (it may be gone).
const READY_AFTER: Duration = Duration::from_secs(10);
/// When no server is reached so long after the start, the log says so.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(5);
/// Messages handled before outputs are carried out.
const BATCH: usize = 256;

/// Runs a peer until it is told to stop. `reload` reads options and secrets again; `link` is a pod's to its operator.
pub async fn run(
    settings: Settings,
    reload: impl Fn() -> Result<(Options, EnvironmentSecrets), BadConfig>,
    mut link: Option<pod::Link>,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut files = Files::default();

    let (asker, mut requests) = asker();
    let control = http::socket_path(&settings.run_dir, &settings.interface);
    let control_socket = http::bind_unix(&control)?;
    files.0.push(control);
    let metrics = match settings.metrics_listen {
        None => None,
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .map_err(|error| anyhow!("--metrics-listen: {address}: {error}; choose another address or port"))?,
        ),
    };

    let (mut peer, mut inbox) = Peer::start(&settings).await?;
    tokio::spawn(http::serve_unix(control_socket, asker.clone()));
    if let Some(listener) = metrics {
        tokio::spawn(http::serve_tcp(listener, asker.clone()));
    }
    match http::bind_unix(&http::socket_path(&settings.wg_dir, &settings.interface)) {
        Ok(listener) => {
            files.0.push(http::socket_path(&settings.wg_dir, &settings.interface));
            tokio::spawn(uapi::listen(listener, asker));
        }
        Err(error) => warn!("`wg show` will not find this interface: {error:#}"),
    }
    files.0.extend(settings.ready_file.clone());

    let mut minute = tokio::time::interval(Duration::from_mins(1));
    let mut tenth = tokio::time::interval(Duration::from_millis(100));
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tenth.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        peer.carry_out();
        let wake = peer.next_wake();
        let now = |peer: &Peer| peer.now();
        // In this order: ending, what the data thread says, what streams say, the rest.
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            message = inbox.data.recv() => {
                let Some(message) = message else { bail!("the data thread has ended") };
                peer.on_data(message)?;
                for _ in 0..BATCH {
                    let Ok(message) = inbox.data.try_recv() else { break };
                    peer.on_data(message)?;
                }
            }
            Some(event) = inbox.streams.recv() => {
                peer.on_stream(event);
                for _ in 0..BATCH {
                    let Ok(event) = inbox.streams.try_recv() else { break };
                    peer.on_stream(event);
                }
            }
            () = sleep_until(wake) => peer.wake(),
            Some((server, addresses)) = inbox.resolved.recv() => {
                peer.mesh.handle(now(&peer), Input::Resolved { server, addresses: &addresses });
            }
            Some(addresses) = inbox.addresses.recv() => peer.on_addresses(addresses),
            Some(answer) = requests.recv() => {
                let _ = answer.send(peer.snapshot());
            }
            _ = hangup.recv() => match reload().and_then(|(options, environment)| Reloaded::new(&options, &environment, peer.network)) {
                Ok(reloaded) => peer.reconfigure(reloaded),
                Err(error) => error!("not reloaded, the old configuration stays: {error}"),
            },
            _ = tenth.tick(), if !peer.ready => peer.look_ready(settings.ready_file.as_deref()),
            Some(change) = changed(&mut link) => peer.reconfigure(change),
            _ = second.tick(), if link.is_some() => if let Some(link) = &link {
                tell(link, &peer.report());
            },
            _ = minute.tick() => peer.mesh.handle(now(&peer), Input::Wall { unix_millis: unix_millis() }),
        }
    }
    info!("leaving: saying goodbye");
    let stopped = peer.stop();
    tokio::select! {
        () = stopped => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// The next change that the operator tells of.
async fn changed(link: &mut Option<pod::Link>) -> Option<Reloaded> {
    match link {
        Some(link) => link.changes.recv().await,
        None => None,
    }
}

/// Hands on what is to be reported, if it is something new.
fn tell(link: &pod::Link, own: &Report) {
    link.told.send_if_modified(|told| {
        let report = pod::report(own, told.as_ref());
        let changed = told.as_ref() != Some(&report);
        *told = Some(report);
        changed
    });
}

/// Removes what was made when the peer ends, however it ends.
#[derive(Default)]
struct Files(Vec<PathBuf>);

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

fn asker() -> (Asker, mpsc::Receiver<oneshot::Sender<Snapshot>>) {
    let (sender, receiver) = mpsc::channel(16);
    (Asker(sender), receiver)
}

/// What the loop listens to.
struct Inbox {
    data: mpsc::Receiver<FromData>,
    streams: mpsc::Receiver<streams::Event>,
    resolved: mpsc::Receiver<(ServerSlot, Vec<SocketAddr>)>,
    addresses: mpsc::Receiver<BTreeSet<IpAddr>>,
}

/// Addresses and accepted routes of the interface.
type Wanted = (BTreeSet<IpNet>, BTreeSet<IpNet>);

/// The mesh and what belongs to it.
struct Peer {
    mesh: Mesh,
    epoch: Instant,
    network: NetworkId,
    pool: Option<Ipv4Net>,
    interface: String,
    mtu: u16,
    servers: Vec<Server>,
    keys: Vec<KeyEntry>,

    data: ToDataSender,
    data_thread: Option<std::thread::JoinHandle<()>>,
    counters: Arc<Counters>,
    backlog: VecDeque<ToData>,
    published: Table,
    last_wake: Instant,

    context: Streams,
    streams: HashMap<StreamId, Stream>,
    stream_counters: Arc<StreamCounters>,
    unchecked_tls: bool,
    resolved: mpsc::Sender<(ServerSlot, Vec<SocketAddr>)>,
    sockets: BTreeMap<SocketId, SocketAddr>,
    host_addresses: BTreeSet<IpAddr>,
    wanted: watch::Sender<Wanted>,

    ready: bool,
    camped_since: Option<Instant>,
    said_unreachable: bool,
}

impl Peer {
    async fn start(settings: &Settings) -> Result<(Self, Inbox)> {
        let config = settings.mesh.clone();
        let tls = Arc::new(Tls::new(&settings.trust).map_err(|error| BadConfig(format!("--ca-file: {error}")))?);
        let public = config.fire.identity.public();
        let mut addresses = vec![overlay_net(config.fire.network, None, IpAddr::V6(config.fire.network.address(&public)))];
        if let Some(pool) = config.fire.ipv4_pool {
            let ipv4 = ipv4_in_pool(pool, &public);
            addresses.extend(ipv4.map(|ipv4| overlay_net(config.fire.network, Some(pool), IpAddr::V4(ipv4))));
        }

        let sockets = bind(settings.listen_port)?;
        let tun = data::open_tun(&settings.tun_node, &settings.interface)
            .map_err(|error| interface::explain_device(&settings.interface, &error))?;
        let interface = Interface::set_up(&settings.interface, settings.mtu, &addresses).await?;
        let host_addresses = interface.host_addresses().await.context("the host's addresses")?;

        let epoch = Instant::now();
        let secret = config.fire.identity.x25519_secret();
        let DataHandle { to, from, counters, join } =
            data::start(DataConfig { tun, sockets, secret, mtu: settings.mtu, epoch }).context("the data thread cannot be started")?;

        let (wanted, wanted_receiver) = watch::channel((addresses.iter().copied().collect(), BTreeSet::new()));
        let (addresses_sender, addresses_receiver) = mpsc::channel(1);
        tokio::spawn(tend(interface, host_addresses.clone(), wanted_receiver, addresses_sender));
        let (events, streams_receiver) = mpsc::channel(1024);
        let (resolved, resolved_receiver) = mpsc::channel(64);
        let stream_counters = Arc::new(StreamCounters::default());

        let mut seed = Zeroizing::new([0; 32]);
        secrets::random(seed.as_mut())?;
        let fingerprints: Vec<String> = config.fire.keys.iter().map(|key| key.keys.fingerprint.to_string()).collect();
        let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        info!(
            interface = settings.interface,
            addresses = shown.join(" "),
            key = fingerprints.join(" "),
            network = %config.fire.network,
            servers = config.fire.servers.len(),
            "up"
        );
        let peer = Self {
            network: config.fire.network,
            pool: config.fire.ipv4_pool,
            interface: settings.interface.clone(),
            mtu: settings.mtu,
            servers: config.fire.servers.clone(),
            keys: config.fire.keys.clone(),
            mesh: Mesh::new(config, *seed, Time::from_micros(0), UnixMillis(unix_millis())),
            epoch,
            context: Streams { tls, data: to.clone(), events, counters: stream_counters.clone() },
            data: to,
            data_thread: Some(join),
            counters,
            backlog: VecDeque::new(),
            published: Table::default(),
            last_wake: epoch,
            streams: HashMap::new(),
            stream_counters,
            unchecked_tls: settings.trust == Trust::Anybody,
            resolved,
            sockets: BTreeMap::new(),
            host_addresses,
            wanted,
            ready: false,
            camped_since: None,
            said_unreachable: false,
        };
        let inbox = Inbox { data: from, streams: streams_receiver, resolved: resolved_receiver, addresses: addresses_receiver };
        Ok((peer, inbox))
    }

    fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn wake(&mut self) {
        self.last_wake = Instant::now();
        self.mesh.handle(self.now(), Input::Wake);
    }

    /// When the loop must run again by itself.
    fn next_wake(&self) -> Option<Instant> {
        let mesh = self.mesh.next_wake().map(|at| self.epoch + Duration::from_micros(at.as_micros()));
        let backlog = (!self.backlog.is_empty()).then(|| Instant::now() + SHORT);
        mesh.into_iter().chain(backlog).min().map(|at| at.max(self.last_wake + SHORT))
    }

    fn on_data(&mut self, message: FromData) -> Result<()> {
        let now = self.now();
        match message {
            FromData::Upcall(upcall) => self.mesh.upcall(now, upcall),
            FromData::SocketOpened { socket, local } => {
                self.sockets.insert(socket, local);
                self.tell_addresses(socket);
            }
            FromData::SocketClosed { socket } => {
                self.sockets.remove(&socket);
                self.mesh.handle(now, Input::SocketClosed { socket });
            }
            FromData::Failed(reason) => bail!("{reason}"),
        }
        Ok(())
    }

    fn on_stream(&mut self, event: streams::Event) {
        let now = self.now();
        match event {
            // Closed by the mesh meanwhile: of no interest any more.
            streams::Event::Opened(stream) | streams::Event::Stun(stream, _) | streams::Event::Closed(stream, _)
                if !self.streams.contains_key(&stream) => {}
            streams::Event::Opened(stream) => self.mesh.handle(now, Input::StreamOpened { stream }),
            streams::Event::Stun(stream, message) => self.mesh.handle(now, Input::Stun { via: Via::Stream(stream), message: &message }),
            streams::Event::Closed(stream, reason) => {
                self.streams.remove(&stream);
                debug!(stream = stream.0, reason, "stream closed");
                self.mesh.handle(now, Input::StreamClosed { stream, reason: &reason });
            }
        }
    }

    fn on_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        debug!(?addresses, "the host's addresses changed");
        self.host_addresses = addresses;
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
            .host_addresses
            .iter()
            .filter(|address| address.is_ipv4() == bound.is_ipv4())
            .filter(|address| !matches!(address, IpAddr::V6(v6) if overlay.contains(v6)))
            .map(|address| SocketAddr::new(*address, bound.port()))
            .collect();
        self.mesh.handle(self.now(), Input::SocketOpened { socket, local: &local });
    }

    /// Carries out all that the mesh asks for, then publishes its table if it changed.
    fn carry_out(&mut self) {
        while let Some(output) = self.mesh.poll() {
            self.output(output);
        }
        let table = self.mesh.table();
        if self.published.version != table.version {
            let (table, before) = (table.clone(), std::mem::replace(&mut self.published, table.clone()));
            if !Arc::ptr_eq(&table.addressing, &before.addressing) {
                self.dress(&table.addressing);
            }
            self.tell_data(ToData::Table(table));
        }
        self.flush();
    }

    /// Gives the interface the addresses and routes that it is to have now.
    fn dress(&self, addressing: &Addressing) {
        let addresses = addressing.own.iter().map(|address| overlay_net(self.network, self.pool, *address)).collect();
        let routes = addressing.routes.iter().map(|(route, _)| *route).collect();
        self.wanted.send_if_modified(|wanted| {
            let new: Wanted = (addresses, routes);
            let changed = *wanted != new;
            *wanted = new;
            changed
        });
    }

    fn output(&mut self, output: Output) {
        trace!(?output, "mesh");
        match output {
            Output::Fire(output) => self.camp(output),
            Output::Data(command) => self.tell_data(ToData::Command(command)),
            Output::Notice(notice) => say(&notice),
        }
    }

    fn camp(&mut self, output: fire::Output) {
        match output {
            fire::Output::Send { via: Via::Udp { socket, remote }, datagram } => {
                self.tell_data(ToData::Command(Command::Send { socket, remote, datagram }));
            }
            fire::Output::Send { via: Via::Stream(stream), datagram } => {
                if let Some(stream) = self.streams.get(&stream)
                    && !stream.send(datagram)
                {
                    debug!("a stream takes no more messages");
                }
            }
            fire::Output::Resolve { server, host, port } => self.resolve(server, host, port),
            fire::Output::OpenStream { stream, server: _, remote, transport, host, pin } => {
                if transport == Transport::Tls && pin.is_none() && std::mem::take(&mut self.unchecked_tls) {
                    warn!(
                        "TLS to {host} hides traffic from bystanders, but nobody checks who the server is: pin its certificate (cert= at the server) or give --ca-file"
                    );
                }
                self.streams.insert(stream, self.context.open(Target { stream, remote, transport, host, pin }));
            }
            fire::Output::CloseStream { stream } => {
                if let Some(stream) = self.streams.remove(&stream) {
                    stream.close();
                }
            }
            fire::Output::Notice(notice) => say_camp(&notice),
        }
    }

    fn resolve(&self, server: ServerSlot, host: String, port: u16) {
        let results = self.resolved.clone();
        tokio::spawn(async move {
            let found = tokio::time::timeout(RESOLVE, tokio::net::lookup_host((host.as_str(), port))).await;
            let addresses = match found {
                Ok(Ok(addresses)) => addresses.collect(),
                Ok(Err(error)) => {
                    debug!(host, %error, "name look-up");
                    Vec::new()
                }
                Err(_) => {
                    debug!(host, "name look-up takes too long");
                    Vec::new()
                }
            };
            let _ = results.send((server, addresses)).await;
        });
    }

    fn tell_data(&mut self, message: ToData) {
        if self.backlog.len() >= MAX_BACKLOG {
            // The data thread hangs or has ended, which its own message will say.
            self.backlog.pop_front();
        }
        self.backlog.push_back(message);
    }

    /// Hands over what waits, in order, as far as the data thread takes it.
    fn flush(&mut self) {
        while let Some(message) = self.backlog.pop_front() {
            if let Err(message) = self.data.offer(message) {
                self.backlog.push_front(message);
                return;
            }
        }
    }

    fn reconfigure(&mut self, reloaded: Reloaded) {
        for remark in &reloaded.remarks {
            warn!("{remark}");
        }
        let Reconfigure { fire: CampChange { mut servers, mut keys, routes, record }, accepted_routes } = reloaded.change;
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
        let change = Reconfigure { fire: CampChange { servers, keys, routes, record }, accepted_routes };
        self.mesh.handle(self.now(), Input::Configure(Box::new(change)));
        info!("reloaded");
    }

    fn report(&self) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION").into(),
            interface: self.interface.clone(),
            listen_port: self.sockets.values().next().map_or(0, SocketAddr::port),
            mtu: self.mtu,
            uptime_ms: u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX),
            ready: self.ready,
            status: self.mesh.status(self.now()),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let streams = &self.stream_counters;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            report: self.report(),
            data: self.counters.values(),
            streams: [count(&streams.dropped_frames), count(&streams.sent_bytes), count(&streams.received_bytes)],
        }
    }

    fn look_ready(&mut self, file: Option<&Path>) {
        let report = self.report();
        if !report.camped() {
            if !self.said_unreachable && self.epoch.elapsed() > UNREACHABLE_AFTER {
                self.said_unreachable = true;
                for server in &report.status.servers {
                    warn!(server = server.id, problem = server.problem.as_deref().unwrap_or("no answer"), "not reached yet; tried on");
                }
            }
            return;
        }
        let since = *self.camped_since.get_or_insert_with(Instant::now);
        if !report.settled(0) && since.elapsed() < READY_AFTER {
            return;
        }
        self.ready = true;
        let (connected, known) = report.connected();
        info!(connected, known, "ready");
        if let Some(file) = file
            && let Err(error) = fs::write(file, b"ready\n")
        {
            warn!("--ready-file: {} cannot be written: {error}", file.display());
        }
    }

    /// Says goodbye everywhere and ends the data thread and the streams.
    async fn stop(mut self) {
        self.mesh.handle(self.now(), Input::Shutdown);
        self.carry_out();
        self.tell_data(ToData::Stop);
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.backlog.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(SHORT).await;
            self.flush();
        }
        let open = !self.streams.is_empty();
        self.streams.drain().for_each(|(_, stream)| stream.close());
        if open {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
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

/// Keeps the interface as the mesh wants it and looks at the host's addresses, on change and every 10 s.
async fn tend(
    mut interface: Interface,
    mut known: BTreeSet<IpAddr>,
    mut wanted: watch::Receiver<Wanted>,
    out: mpsc::Sender<BTreeSet<IpAddr>>,
) {
    let mut changes = interface::watch().map_err(|error| debug!(%error, "changes of interfaces are not told")).ok();
    let mut regularly = tokio::time::interval(Duration::from_secs(10));
    loop {
        let changed = async {
            let Some(receiver) = &mut changes else { return std::future::pending().await };
            if receiver.recv().await.is_none() {
                changes = None;
            }
        };
        tokio::select! {
            change = wanted.changed() => {
                if change.is_err() {
                    return;
                }
                let (addresses, routes) = wanted.borrow_and_update().clone();
                interface.sync(addresses, routes).await;
                continue;
            }
            () = changed => tokio::time::sleep(Duration::from_millis(100)).await,
            _ = regularly.tick() => {}
        }
        match interface.host_addresses().await {
            Ok(addresses) if addresses != known => {
                known.clone_from(&addresses);
                if out.send(addresses).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => debug!("the host's addresses: {error:#}"),
        }
    }
}

/// An address of ours with the length of its network, so that the kernel makes the route to the overlay.
pub(crate) fn overlay_net(network: NetworkId, pool: Option<Ipv4Net>, address: IpAddr) -> IpNet {
    let length = match (address, pool) {
        (IpAddr::V6(_), _) => network.prefix().prefix_len(),
        (IpAddr::V4(_), Some(pool)) => pool.prefix_len(),
        (IpAddr::V4(_), None) => 32,
    };
    IpNet::new(address, length).unwrap_or(IpNet::from(address))
}

/// One UDP socket for each family that the host has, on the same port if it is free.
fn bind(port: u16) -> Result<Vec<(SocketId, Socket)>> {
    let mut sockets = Vec::new();
    let mut port_of_first = port;
    for (id, address) in [(SocketId(0), IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (SocketId(1), IpAddr::V6(Ipv6Addr::UNSPECIFIED))] {
        let bound = match data::bind(SocketAddr::new(address, port_of_first)) {
            // Any port will do, so one that is free for one family alone does too.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && port == 0 => data::bind(SocketAddr::new(address, 0)),
            other => other,
        };
        match bound {
            Ok(socket) => {
                port_of_first = socket.local_addr()?.port();
                sockets.push((id, socket));
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                bail!("UDP port {port} is taken by another process: choose another with --listen-port, or leave it out for any free one");
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                debug!(%address, %error, "this host lacks the address family");
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                bail!("UDP port {port} may not be used without rights: choose one above 1023 with --listen-port, or run as root");
            }
            Err(error) => return Err(error).context(format!("UDP port {port}")),
        }
    }
    if sockets.is_empty() {
        bail!("this host has neither IPv4 nor IPv6");
    }
    Ok(sockets)
}

fn say(notice: &Notice) {
    match notice {
        Notice::PeerConnected { peer, path } => info!(peer, path, "connected"),
        Notice::PathChanged { peer, path, reason: None } => info!(peer, path, "path changed"),
        Notice::PathChanged { peer, path, reason: Some(reason) } => info!(peer, path, ?reason, "path changed"),
        Notice::PeerGone { peer, reason } => info!(peer, reason, "gone"),
        Notice::Problem { text } => warn!("{text}"),
    }
}

fn say_camp(notice: &fire::Notice) {
    match notice {
        fire::Notice::Camped { server, transport } => info!(server, ?transport, "camped"),
        fire::Notice::ServerLost { server, reason } => warn!(server, reason, "a server no longer answers"),
        fire::Notice::PlainTurn { server } => warn!(server, "speaks TURN but not campfire: nobody can camp there"),
        fire::Notice::Problem { text } => warn!("{text}"),
    }
}

/// Never, if there is no time.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => pin!(tokio::time::sleep_until(at.into())).await,
        None => std::future::pending().await,
    }
}

/// The wall clock.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}
