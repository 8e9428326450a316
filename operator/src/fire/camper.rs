//! One Campfire's seat at its fire: a [`Fire`], and a [`Camp`] with UDP sockets that carries out what it asks for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use campfire_camp::{Camp, Epoch, Tls, UdpSockets, sleep_until, unix_millis};
use campfire_fire::config::{Config, Reconfigure};
use campfire_fire::io::Input;
use campfire_fire::{Fire, FireEvent};
use campfire_protocol::announce::ServerRecord;
use campfire_protocol::carrier::{SocketId, Via};
use campfire_protocol::identity::{Identity, PublicKey};
use campfire_protocol::time::Time;
use tokio::sync::{oneshot, watch};
use tracing::{Instrument as _, error_span, warn};
use zeroize::Zeroizing;

use super::record::{self, NAME, Origins, Plan};
use crate::state::{Membership, Memberships, ObjectKey, Sightings};

/// Changes of what is seen are told together.
const TELL: Duration = Duration::from_millis(500);
/// How often members of the servers' counts and the wall clock are looked at.
const LOOK: Duration = Duration::from_secs(30);
/// How often other operators are looked for in a large room, where nobody is told who is there.
const FIND: Duration = Duration::from_mins(1);
/// How long sockets that cannot be opened are waited for.
const RETRY: Duration = Duration::from_secs(5);
/// How long a goodbye may take to go out.
const GOODBYE: Duration = Duration::from_millis(200);
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
    pub(super) tls: Arc<Tls>,
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
    pub(super) async fn run(self, stop: oneshot::Receiver<()>) {
        // What the camp writes to the log says so which fire it is about, at whatever level the log is.
        let span = error_span!("fire", campfire = %self.campfire);
        self.attend(stop).instrument(span).await;
    }

    async fn attend(&self, mut stop: oneshot::Receiver<()>) {
        loop {
            let mut membership = self.memberships.follow(&self.campfire);
            let plan = tokio::select! {
                _ = &mut stop => return,
                plan = self.next_plan(&mut membership) => plan,
            };
            let Some(plan) = plan else { continue };
            match Sitting::new(self, plan) {
                Ok(sitting) => {
                    if matches!(sitting.run(&mut membership, &mut stop).await, Ended::Stopped) {
                        return;
                    }
                }
                Err(error) => {
                    warn!("no socket for the fire: {error}; tried again");
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
                Some(Err(error)) => warn!("not at the fire: {error}"),
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
    camp: Camp,
    sockets: UdpSockets,
    epoch: Epoch,
    origins: Origins,
    tell_at: Option<Instant>,
}

impl<'a> Sitting<'a> {
    fn new(camper: &'a Camper, plan: Plan) -> Result<Self> {
        let sockets = UdpSockets::open(|_| {})?;
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|error| anyhow!("no random numbers: {error}"))?;
        let config = Config {
            identity: camper.identity.clone(),
            keys: plan.keys.clone(),
            network: plan.network,
            servers: plan.servers.clone(),
            heard: plan.heard.clone(),
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
            fire: Fire::new(&config, *seed, Time::from_micros(0), unix_millis()),
            camp: Camp::new(camper.tls.clone(), None),
            camper,
            plan,
            sockets,
            epoch: Epoch::begin(),
            origins: Origins::default(),
            tell_at: None,
        };
        let open: Vec<SocketId> = sitting.sockets.ids().collect();
        for socket in open {
            // Nobody reaches us but over servers: no addresses of our own.
            sitting.fire.handle(sitting.epoch.now(), Input::SocketOpened { socket, local: &[] });
        }
        Ok(sitting)
    }

    async fn run(mut self, membership: &mut watch::Receiver<Option<Arc<Membership>>>, stop: &mut oneshot::Receiver<()>) -> Ended {
        let mut look = tokio::time::interval(LOOK);
        let mut find = tokio::time::interval(FIND);
        let mut buffer = [0; DATAGRAM];
        let ended = loop {
            self.carry_out();
            let wake = self.fire.next_wake().map(|at| self.epoch.at(at));
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
                (socket, remote, size) = self.sockets.receive(&mut buffer) => {
                    self.on_datagram(socket, remote, buffer.get(..size).unwrap_or_default());
                    for _ in 0..BATCH {
                        let Some((socket, remote, size)) = self.sockets.try_receive(&mut buffer) else { break };
                        self.on_datagram(socket, remote, buffer.get(..size).unwrap_or_default());
                    }
                }
                event = self.camp.next() => self.fire.handle(self.now(), event.input()),
                () = sleep_until(wake) => self.fire.on_wake(self.now()),
                () = sleep_until(self.tell_at) => self.tell(),
                _ = look.tick() => {
                    self.fire.on_wall(self.now(), unix_millis());
                    self.tell_at.get_or_insert_with(Instant::now);
                }
                _ = find.tick() => self.fire.find(self.now(), NAME),
            }
        };
        self.fire.shutdown(self.now());
        self.carry_out();
        self.camp.close(GOODBYE).await;
        self.camper.sightings.withdraw(&self.camper.campfire);
        ended
    }

    fn now(&self) -> Time {
        self.epoch.now()
    }

    /// Takes a changed membership over; `false`: it needs another sitting.
    fn change(&mut self, membership: &Membership) -> bool {
        let Ok(plan) = Plan::new(membership) else { return false };
        if plan.network != self.plan.network || plan.cluster != self.plan.cluster {
            return false;
        }
        let change = Reconfigure {
            servers: (plan.servers != self.plan.servers).then(|| plan.servers.clone()),
            heard: (plan.heard != self.plan.heard).then(|| plan.heard.clone()),
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
            self.fire.handle(self.now(), Input::Stun { via: Via::Udp { socket, remote }, message: datagram });
        }
    }

    /// Does what the fire asks for.
    fn carry_out(&mut self) {
        while let Some(event) = self.fire.poll_event() {
            match event {
                FireEvent::Member { announcement, .. } => {
                    if announcement.record.is_some() {
                        // Operators are looked for again where the room is large.
                        self.fire.interest(&announcement.public_key, true);
                    }
                    self.changed();
                }
                FireEvent::Departed { .. } | FireEvent::Camped { .. } | FireEvent::Lost { .. } => self.changed(),
                // Of these only who links has a use.
                FireEvent::Signal { .. }
                | FireEvent::Bound { .. }
                | FireEvent::Unreachable { .. }
                | FireEvent::Mapped { .. }
                | FireEvent::Suspect { .. }
                | FireEvent::Trusted { .. } => {}
            }
        }
        while let Some(output) = self.fire.poll_output() {
            if let Some(datagram) = self.camp.carry_out(output) {
                self.sockets.send(&datagram);
            }
        }
    }

    fn changed(&mut self) {
        self.tell_at.get_or_insert_with(|| Instant::now() + TELL);
    }

    fn tell(&mut self) {
        self.tell_at = None;
        self.origins.look(&self.fire, &self.own);
        let Camper { sightings, campfire, .. } = self.camper;
        let view = record::view(&self.fire, self.now(), &self.plan, &self.own, &self.origins, &sightings.get(campfire));
        sightings.publish(campfire, view);
    }
}

/// The record as far as it fits.
fn fitting(camper: &Camper, plan: &Plan) -> ServerRecord {
    let Some(entry) = plan.keys.first() else { return plan.record.clone() };
    let (record, trimmed) = record::fitting(&plan.record, &plan.cluster, &camper.identity, &entry.keys);
    if trimmed {
        warn!(
            servers = record.servers.len(),
            of = plan.record.servers.len(),
            "not all addresses of this cluster's servers fit what other clusters are told: use fewer servers, or IP addresses or short names for them"
        );
    }
    record
}
