//! The control loop: drives the mesh with what the data thread, the camp, timers and people say, and carries out what it asks for.
//!
//! | module | what it holds |
//! | --- | --- |
//! | here | the loop: what is listened to, in which order |
//! | `driver` | the mesh and what carries out its outputs, each by whom it is for |
//! | `plane` | the way to the data thread |
//! | `readiness` | when the peer counts as ready |

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use campfire_camp::sleep_until;
use campfire_protocol::identity::NetworkId;
use ipnet::{IpNet, Ipv4Net};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use self::driver::Driver;
use crate::cli::Options;
use crate::config::{BadConfig, PeerSettings, Reloaded};
use crate::http::{self, Asker, Pinger, Trier};
use crate::metrics::Snapshot;
use crate::pod;
use crate::report::Report;
use crate::secrets::EnvironmentSecrets;
use crate::uapi;

mod driver;
mod plane;
mod readiness;

/// Messages handled before outputs are carried out.
const BATCH: usize = 256;

/// Runs a peer until it is told to stop. `reload` reads options and secrets again; `link` is a pod's to its operator.
pub async fn run(
    settings: PeerSettings,
    reload: impl Fn() -> Result<(Options, EnvironmentSecrets), BadConfig>,
    mut link: Option<pod::AgentLink>,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut files = Files::default();
    let control = http::socket_path(&settings.run_dir, &settings.interface);
    let control_socket = http::bind_unix(&control)?;
    files.0.push(control);
    let metrics = metrics_listener(&settings).await?;

    let sent = link.as_mut().and_then(|link| link.device.take());
    let (mut driver, mut inbox) = Driver::start(&settings, sent, link.is_none()).await?;
    let (asker, mut requests) = asker();
    let (pinger, mut pings) = mpsc::channel(16);
    let (trier, mut trials) = mpsc::channel(16);
    tokio::spawn(http::listen_control(control_socket, asker.clone(), Pinger(pinger), Trier::new(trier)));
    if let Some(listener) = metrics {
        tokio::spawn(http::listen_probes(listener, asker.clone()));
    }
    // In a pod, other containers may run as root of it.
    let private_key = link.is_none().then(|| settings.mesh.fire.identity.x25519_secret());
    serve_wg(&settings, asker, private_key, &mut files);
    files.0.extend(settings.ready_file.clone());

    let mut minute = interval(Duration::from_mins(1));
    let mut tenth = interval(Duration::from_millis(100));
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tenth.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        driver.carry_out();
        let wake = driver.next_wake();
        // In this order: ending, what the data thread says, what the camp says, the rest.
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            message = inbox.data.recv() => {
                let Some(message) = message else { bail!("the data thread has ended") };
                driver.on_data(message)?;
                for _ in 0..BATCH {
                    let Ok(message) = inbox.data.try_recv() else { break };
                    driver.on_data(message)?;
                }
            }
            event = driver.camp.next() => {
                driver.on_camp(&event);
                for _ in 0..BATCH {
                    let Some(event) = driver.camp.try_next() else { break };
                    driver.on_camp(&event);
                }
            }
            () = sleep_until(wake) => driver.on_wake(),
            Some(host) = inbox.host.recv() => driver.on_host(host),
            Some(answer) = requests.recv() => {
                let _ = answer.send(driver.snapshot());
            }
            Some(request) = pings.recv() => driver.ping(request),
            Some(answer) = trials.recv() => {
                let _ = answer.send(driver.targets());
            }
            _ = hangup.recv() => match reload().and_then(|(options, environment)| Reloaded::new(&options, &environment, settings.network())) {
                Ok(reloaded) => driver.reconfigure(reloaded),
                Err(error) => error!("not reloaded, the old configuration stays: {error}"),
            },
            _ = tenth.tick(), if !driver.is_ready() => driver.look_ready(settings.ready_file.as_deref()),
            Some(change) = changed(&mut link) => driver.reconfigure(change),
            _ = second.tick(), if link.is_some() => if let Some(link) = &link {
                tell(link, &driver.report());
            },
            _ = minute.tick() => driver.on_wall(),
        }
    }
    info!("leaving: saying goodbye");
    tokio::select! {
        () = driver.stop() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
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

/// Where probes and Prometheus ask, if they may.
async fn metrics_listener(settings: &PeerSettings) -> Result<Option<TcpListener>> {
    let Some(address) = settings.metrics_listen else { return Ok(None) };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => Err(anyhow!("--metrics-listen: {address}: {error}; choose another address or port")),
    }
}

/// Serves `wg show`, where that can be had.
fn serve_wg(settings: &PeerSettings, asker: Asker, private_key: Option<Zeroizing<[u8; 32]>>, files: &mut Files) {
    let path = http::socket_path(&settings.wg_dir, &settings.interface);
    match http::bind_unix(&path) {
        Ok(listener) => {
            files.0.push(path);
            tokio::spawn(uapi::listen(listener, asker, private_key));
        }
        Err(error) => warn!("`wg show` will not find this interface: {error:#}"),
    }
}

/// The next change that the operator tells of.
async fn changed(link: &mut Option<pod::AgentLink>) -> Option<Reloaded> {
    match link {
        Some(link) => link.changes.recv().await,
        None => None,
    }
}

/// Hands on what is to be reported, if it is something new.
fn tell(link: &pod::AgentLink, own: &Report) {
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
