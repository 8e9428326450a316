//! Peers at the fires: each camps and announces itself by the mesh's own code, with a socket and an identity of its own. They make
//! no links.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use campfire_api::names;
use campfire_fire::config::Config;
use campfire_fire::io::{Input, Output};
use campfire_fire::{Fire, FireEvent};
use campfire_protocol::carrier::{SocketId, Via};
use campfire_protocol::identity::NetworkId;
use campfire_protocol::key::{KeyMode, Keys, parse_keys};
use campfire_protocol::server::Server;
use campfire_protocol::time::{Time, UnixMillis};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::cluster::{CAMP, CLUSTER, Cluster, Peer, fire};

/// All are there within this, or never.
const PATIENCE: Duration = Duration::from_mins(5);
/// Members that come in a second: on one machine with all they talk to.
const RATE: usize = 400;

/// Those at the fires. They leave without a word when this is dropped.
pub struct Members {
    _tasks: JoinSet<()>,
}

struct Room {
    keys: Arc<Keys>,
    network: NetworkId,
    servers: Vec<Server>,
}

impl Members {
    /// Brings all peers to their fires.
    pub async fn camp(cluster: &Cluster, peers: &[Peer]) -> Result<Self> {
        let mut rooms = Vec::new();
        let secrets = Api::<Secret>::namespaced(cluster.client.clone(), CAMP);
        for number in 0..cluster.campfires {
            let secret = secrets.get(&names::psk_secret(&fire(number))).await?;
            let entry = |name: &str| {
                let held = secret.data.as_ref().and_then(|data| data.get(name)).with_context(|| format!("{}: {name}", secret.name_any()));
                anyhow::Ok(String::from_utf8(held?.0.clone())?)
            };
            let (psk, _) = parse_keys(&entry(names::PSK_KEY)?, KeyMode::Announce)?.pop().context("a key")?;
            let status = cluster.fires().get(&fire(number)).await?.status;
            rooms.push(Room {
                keys: Arc::new(psk.derive()),
                network: entry(names::NETWORK_KEY)?.trim().parse()?,
                servers: servers(status)?,
            });
        }
        let camped = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let begun = Instant::now();
        let mut told = Instant::now();
        for (number, peer) in peers.iter().enumerate() {
            let room = rooms.get(peer.campfire).context("a Campfire")?;
            let socket = UdpSocket::bind(SocketAddr::from((Peer::node(number), 0)))
                .await
                .context("a socket: `ulimit -n` says how many there may be")?;
            let mut config = Config::new(peer.identity.clone(), (*room.keys).clone(), room.servers.clone());
            config.network = room.network;
            config.in_cluster = true;
            (config.name, config.namespace, config.cluster) = (peer.name.clone(), peer.namespace.clone(), CLUSTER.into());
            // Whoever else is there does not matter to them.
            config.members = 1;
            tasks.spawn(member(config, socket, camped.clone()));
            if number.is_multiple_of(RATE / 10) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if told.elapsed() > Duration::from_secs(2) {
                told = Instant::now();
                eprintln!("  at the fires: {} of {}", camped.load(Ordering::Relaxed), peers.len());
            }
        }
        while camped.load(Ordering::Relaxed) < peers.len() {
            ensure!(begun.elapsed() < PATIENCE, "{} of {} peers got to their fire", camped.load(Ordering::Relaxed), peers.len());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Self { _tasks: tasks })
    }
}

fn servers(status: Option<campfire_api::CampfireStatus>) -> Result<Vec<Server>> {
    let endpoints = status.map(|status| status.endpoints).unwrap_or_default();
    let udp = endpoints.iter().find(|endpoint| endpoint.transport == campfire_api::TransportName::Udp).context("an endpoint")?;
    Ok(vec![format!("{}=turn:{}:{}?transport=udp", udp.server, udp.address, udp.port).parse()?])
}

async fn member(config: Config, socket: UdpSocket, camped: Arc<AtomicUsize>) {
    let epoch = Instant::now();
    let now = || Time::from_micros(u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX));
    let mut seed = [0; 32];
    if getrandom::fill(&mut seed).is_err() {
        return;
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut fire = Fire::new(&config, seed, now(), UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)));
    fire.handle(now(), Input::SocketOpened { socket: SocketId(0), local: &[] });
    let mut counted = false;
    let mut buffer = [0; 2_048];
    loop {
        while let Some(event) = fire.poll_event() {
            if matches!(event, FireEvent::Camped { .. }) && !std::mem::replace(&mut counted, true) {
                camped.fetch_add(1, Ordering::Relaxed);
            }
        }
        while let Some(output) = fire.poll_output() {
            if let Output::Send { via: Via::Udp { remote, .. }, datagram } = output {
                let _ = socket.try_send_to(&datagram, remote);
            }
        }
        let wake = fire.next_wake().map_or(epoch + Duration::from_hours(24), |at| epoch + Duration::from_micros(at.as_micros()));
        tokio::select! {
            Ok((size, remote)) = socket.recv_from(&mut buffer) => {
                let datagram = buffer.get(..size).unwrap_or_default();
                if datagram.first().is_some_and(|first| *first < 0x40) {
                    fire.handle(now(), Input::Stun { via: Via::Udp { socket: SocketId(0), remote }, message: datagram });
                }
            }
            () = tokio::time::sleep_until(wake.into()) => fire.on_wake(now()),
        }
    }
}
