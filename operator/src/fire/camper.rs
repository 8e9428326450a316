//! One Campfire's seat at its fire: carries out what [`Fire`] asks for, on a UDP socket for each family and on streams.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use campfire_fire::config::{Config, Reconfigure};
use campfire_fire::io::{Notice, Output};
use campfire_fire::{Event, Fire};
use campfire_protocol::announce::ServerRecord;
use campfire_protocol::carrier::{ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::identity::{Identity, PublicKey};
use campfire_protocol::time::{Time, UnixMillis};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::record::{self, NAME, Origins, Plan};
use super::streams::{self, Stream, Target};
use crate::state::{Membership, Memberships, ObjectKey, Sightings};

/// Changes of what is seen are told together.
const TELL: Duration = Duration::from_millis(500);
/// How often members of the servers' counts and the wall clock are looked at.
const LOOK: Duration = Duration::from_secs(30);
/// How often other operators are looked for in a large room, where nobody is told who is there.
const FIND: Duration = Duration::from_mins(1);
/// How long a name look-up may take.
const RESOLVE: Duration = Duration::from_secs(5);
/// How long sockets that cannot be opened are waited for.
const RETRY: Duration = Duration::from_secs(5);
/// Members held.
const MEMBERS: usize = 2_048;
/// Datagrams read before what follows from them is carried out.
const BATCH: usize = 64;
/// Largest datagram that the fire has a use for, bytes.
const DATAGRAM: usize = 2_048;

/// Who sits, and where it looks and tells.
pub(super) struct Camper {
    pub(super) campfire: ObjectKey,
    pub(super) identity: Identity,
    pub(super) memberships: Arc<Memberships>,
    pub(super) sightings: Arc<Sightings>,
}

/// Why a sitting ended.
enum Ended {
    /// Told to stop.
    Stopped,
    /// The membership is gone, or changed in what cannot change while sitting.
    Anew,
}

impl Camper {
    /// Sits at the fire whenever there is a membership, until `stop` is used or dropped; then says goodbye.
    pub(super) async fn run(self, mut stop: oneshot::Receiver<()>) {
        loop {
            let mut membership = self.memberships.follow(&self.campfire);
            let plan = tokio::select! {
                _ = &mut stop => return,
                plan = self.next_plan(&mut membership) => plan,
            };
            let Some(plan) = plan else { continue };
            match Sitting::new(&self, plan) {
                Ok(sitting) => {
                    if matches!(sitting.run(&mut membership, &mut stop).await, Ended::Stopped) {
                        return;
                    }
                }
                Err(error) => {
                    warn!(campfire = %self.campfire, "no socket for the fire: {error}; tried again");
                    tokio::select! {
                        _ = &mut stop => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    /// Waits for a membership that can be understood. `None`: it was withdrawn; follow anew.
    async fn next_plan(&self, membership: &mut watch::Receiver<Option<Arc<Membership>>>) -> Option<Plan> {
        loop {
            let held = membership.borrow_and_update().clone();
            match held.as_deref().map(Plan::new) {
                Some(Ok(plan)) => return Some(plan),
                Some(Err(error)) => warn!(campfire = %self.campfire, "not at the fire: {error}"),
                None => {}
            }
            membership.changed().await.ok()?;
        }
    }
}

/// One run of the fire.
struct Sitting<'a> {
    camper: &'a Camper,
    plan: Plan,
    own: PublicKey,
    fire: Fire,
    epoch: Instant,
    sockets: [Option<UdpSocket>; 2],
    streams: HashMap<StreamId, Stream>,
    stream_events: (mpsc::Sender<streams::Event>, mpsc::Receiver<streams::Event>),
    resolved: (mpsc::Sender<Resolved>, mpsc::Receiver<Resolved>),
    origins: Origins,
    tell_at: Option<Instant>,
}

type Resolved = (ServerSlot, Vec<SocketAddr>);

impl<'a> Sitting<'a> {
    fn new(camper: &'a Camper, plan: Plan) -> io::Result<Self> {
        let sockets = [bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))), bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))];
        let sockets = match sockets {
            [Err(error), Err(_)] => return Err(error),
            [v4, v6] => [v4.ok(), v6.ok()],
        };
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|error| io::Error::other(error.to_string()))?;
        let config = Config {
            identity: camper.identity.clone(),
            keys: plan.keys.clone(),
            network: plan.network,
            servers: plan.servers.clone(),
            in_cluster: true,
            name: NAME.into(),
            namespace: String::new(),
            cluster: plan.cluster.clone(),
            routes: Vec::new(),
            ipv4_pool: None,
            tunnel: false,
            record: Some(fitting(camper, &plan)),
            members: MEMBERS,
        };
        let mut sitting = Self {
            own: camper.identity.public(),
            fire: Fire::new(&config, *seed, Time::from_micros(0), wall()),
            camper,
            plan,
            epoch: Instant::now(),
            sockets,
            streams: HashMap::new(),
            stream_events: mpsc::channel(256),
            resolved: mpsc::channel(64),
            origins: Origins::default(),
            tell_at: None,
        };
        for (id, socket) in [(SocketId(0), 0), (SocketId(1), 1)] {
            let open = sitting.sockets.get(socket).is_some_and(Option::is_some);
            if open {
                sitting.fire.on_socket_opened(sitting.now(), id, &[]);
            }
        }
        Ok(sitting)
    }

    async fn run(mut self, membership: &mut watch::Receiver<Option<Arc<Membership>>>, stop: &mut oneshot::Receiver<()>) -> Ended {
        let mut look = tokio::time::interval(LOOK);
        let mut find = tokio::time::interval(FIND);
        let (mut four, mut six) = ([0; DATAGRAM], [0; DATAGRAM]);
        let ended = loop {
            self.carry_out();
            let wake = self.fire.next_wake().map(|at| self.epoch + Duration::from_micros(at.as_micros()));
            tokio::select! {
                biased;
                _ = &mut *stop => break Ended::Stopped,
                changed = membership.changed() => {
                    let held = membership.borrow_and_update().clone();
                    let known = changed.ok().and(held);
                    if !known.is_some_and(|membership| self.change(&membership)) {
                        break Ended::Anew;
                    }
                }
                Some((size, remote)) = receive(self.sockets[0].as_ref(), &mut four) => {
                    self.on_datagram(SocketId(0), remote, four.get(..size).unwrap_or_default());
                    self.drain(SocketId(0), &mut four);
                }
                Some((size, remote)) = receive(self.sockets[1].as_ref(), &mut six) => {
                    self.on_datagram(SocketId(1), remote, six.get(..size).unwrap_or_default());
                    self.drain(SocketId(1), &mut six);
                }
                Some(event) = self.stream_events.1.recv() => self.on_stream(event),
                Some((server, addresses)) = self.resolved.1.recv() => self.fire.on_resolved(self.now(), server, &addresses),
                () = sleep_until(wake) => self.fire.on_wake(self.now()),
                () = sleep_until(self.tell_at) => self.tell(),
                _ = look.tick() => {
                    self.fire.on_wall(self.now(), wall());
                    self.tell_at.get_or_insert_with(Instant::now);
                }
                _ = find.tick() => self.fire.find(self.now(), NAME),
            }
        };
        self.fire.shutdown(self.now());
        self.carry_out();
        if !self.streams.is_empty() {
            // What was said on streams is written by their tasks.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.camper.sightings.withdraw(&self.camper.campfire);
        ended
    }

    fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Takes a changed membership over; `false`: it needs another sitting.
    fn change(&mut self, membership: &Membership) -> bool {
        let Ok(plan) = Plan::new(membership) else { return false };
        if plan.network != self.plan.network || plan.cluster != self.plan.cluster {
            return false;
        }
        let change = Reconfigure {
            servers: (plan.servers != self.plan.servers).then(|| plan.servers.clone()),
            keys: (plan.key_names() != self.plan.key_names()).then(|| plan.keys.clone()),
            record: (plan.record != self.plan.record).then(|| fitting(self.camper, &plan)),
            ..Reconfigure::default()
        };
        self.plan = plan;
        self.fire.reconfigure(self.now(), &change);
        true
    }

    fn on_datagram(&mut self, socket: SocketId, remote: SocketAddr, datagram: &[u8]) {
        // Anything but STUN (first two bits zero) has nobody to go to.
        if datagram.first().is_some_and(|first| *first < 0x40) {
            self.fire.on_stun(self.now(), Via::Udp { socket, remote }, datagram);
        }
    }

    /// What else has come.
    fn drain(&mut self, id: SocketId, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            let Some(Some(socket)) = self.sockets.get(usize::from(id.0)) else { return };
            let Ok((size, remote)) = socket.try_recv_from(buffer) else { return };
            self.on_datagram(id, remote, buffer.get(..size).unwrap_or_default());
        }
    }

    fn on_stream(&mut self, event: streams::Event) {
        let now = self.now();
        match event {
            // Closed by the fire meanwhile: of no interest any more.
            streams::Event::Opened(stream) | streams::Event::Stun(stream, _) | streams::Event::Closed(stream, _)
                if !self.streams.contains_key(&stream) => {}
            streams::Event::Opened(stream) => self.fire.on_stream_opened(now, stream),
            streams::Event::Stun(stream, message) => self.fire.on_stun(now, Via::Stream(stream), &message),
            streams::Event::Closed(stream, reason) => {
                self.streams.remove(&stream);
                self.fire.on_stream_closed(now, stream, &reason);
            }
        }
    }

    /// Does what the fire asks for.
    fn carry_out(&mut self) {
        while let Some(event) = self.fire.poll_event() {
            match event {
                Event::Member { announcement, .. } => {
                    if announcement.record.is_some() {
                        // Operators are looked for again where the room is large.
                        self.fire.interest(&announcement.public_key, true);
                    }
                    self.changed();
                }
                Event::Departed { .. } | Event::Camped { .. } | Event::Lost { .. } => self.changed(),
                // What tunnels and their paths are made of.
                Event::Signal { .. }
                | Event::Bound { .. }
                | Event::Unreachable { .. }
                | Event::Mapped { .. }
                | Event::Suspect { .. }
                | Event::Trusted { .. } => {}
            }
        }
        while let Some(output) = self.fire.poll_output() {
            match output {
                Output::Send { via: Via::Udp { socket, remote }, datagram } => {
                    if let Some(Some(socket)) = self.sockets.get(usize::from(socket.0)) {
                        // What a full buffer drops is asked again.
                        let _ = socket.try_send_to(&datagram, remote);
                    }
                }
                Output::Send { via: Via::Stream(stream), datagram } => {
                    if let Some(stream) = self.streams.get(&stream) {
                        stream.send(datagram);
                    }
                }
                Output::Resolve { server, host, port } => self.resolve(server, host, port),
                Output::OpenStream { stream, server: _, remote, transport, host, pin } => {
                    let target = Target { stream, remote, transport, host, pin };
                    self.streams.insert(stream, Stream::open(target, self.stream_events.0.clone()));
                }
                Output::CloseStream { stream } => {
                    self.streams.remove(&stream);
                }
                Output::Notice(notice) => self.say(&notice),
            }
        }
    }

    fn changed(&mut self) {
        self.tell_at.get_or_insert_with(|| Instant::now() + TELL);
    }

    fn tell(&mut self) {
        self.tell_at = None;
        self.origins.look(&self.fire, &self.own);
        let view = record::view(&self.fire, self.now(), &self.plan, &self.own, &self.origins);
        self.camper.sightings.publish(&self.camper.campfire, view);
    }

    fn resolve(&self, server: ServerSlot, host: String, port: u16) {
        let results = self.resolved.0.clone();
        tokio::spawn(async move {
            let found = tokio::time::timeout(RESOLVE, tokio::net::lookup_host((host.as_str(), port))).await;
            let addresses = found.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default();
            let _ = results.send((server, addresses)).await;
        });
    }

    fn say(&self, notice: &Notice) {
        let campfire = &self.camper.campfire;
        match notice {
            Notice::Camped { server, transport } => info!(%campfire, server, ?transport, "at the fire"),
            Notice::ServerLost { server, reason } => warn!(%campfire, server, reason, "a server no longer answers"),
            Notice::PlainTurn { server } => warn!(%campfire, server, "speaks TURN but not campfire: nobody can camp there"),
            Notice::Problem { text } => warn!(%campfire, "{text}"),
        }
    }
}

/// The record as far as it fits.
fn fitting(camper: &Camper, plan: &Plan) -> ServerRecord {
    let Some(entry) = plan.keys.first() else { return plan.record.clone() };
    let (record, trimmed) = record::fitting(&plan.record, &plan.cluster, &camper.identity, &entry.keys);
    if trimmed {
        warn!(
            campfire = %camper.campfire,
            servers = record.servers.len(),
            of = plan.record.servers.len(),
            "not all addresses of this cluster's servers fit what other clusters are told: use fewer servers, or IP addresses or short names for them"
        );
    }
    record
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// `None`: nothing to read (an ICMP error, told as one of ours).
async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await.ok(),
        None => pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

fn wall() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
