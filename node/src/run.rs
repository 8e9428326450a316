//! All parts of the agent, from the first to the last moment.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::cli::Run;
use crate::driver::Driver;
use crate::grpc::{bind, learn, serve};
use crate::metrics;
use crate::networks::Networks;
use crate::pods::Shared;
use crate::records::Records;
use crate::volume::Kubelet;

/// After how long a kubelet that did not take the driver is asked again.
const AGAIN: Duration = Duration::from_secs(10);

/// Runs until it is told to end. Pods' sockets and records stay, for the next one.
///
/// # Errors
/// It cannot start, or cannot go on.
pub async fn run(options: &Run) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if let Err(error) = campfire_sys::process::raise_descriptor_limit() {
        warn!("the limit of open files stays as it is: {error}");
    }
    let places = &options.kubelet;
    let shown = places.kubelet_dir.display();
    let kubelet = Kubelet::open(&places.kubelet_dir).with_context(|| format!("{shown}: the kubelet's directory, by --kubelet-dir"))?;
    let own = places.own();
    fs::DirBuilder::new().recursive(true).mode(0o750).create(&own).with_context(|| own.display().to_string())?;
    let records = Records::open(&own.join("pods")).with_context(|| format!("{}: records of volumes", own.display()))?;
    let networks = Networks::new().context("the agent's own network")?;
    let shared = Arc::new(Shared::new(networks, options.key_file.clone(), options.tun.clone()));
    let endpoint = places.driver_socket();
    let shown_endpoint = endpoint.to_str().context("--kubelet-dir has to be UTF-8")?.to_owned();
    let driver = Arc::new(Driver::new(options.node_name.clone(), shown_endpoint, kubelet, records, shared.clone()));
    driver.restore().context("volumes that were published before")?;

    // Our sockets of the kubelet's go with us: it hears that the driver is gone. Those of pods stay.
    let sockets = Sockets(vec![places.registration_socket(), endpoint.clone()]);
    let listener = bind(&endpoint).with_context(|| endpoint.display().to_string())?;
    let requests = serve(listener, driver.clone(), learn(&shared.networks));
    let registration = register(places.registration_socket(), driver.clone(), &shared.networks);
    info!(node = options.node_name, kubelet = %shown, "running");
    tokio::select! {
        ended = requests => { ended.context("the driver's socket")?; bail!("the driver's socket was closed") }
        ended = registration => return ended,
        ended = metrics::serve(options.metrics_port, driver.clone()) => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(sockets);
    driver.end();
    info!("ending: what was made stays, and so do pods' sockets");
    Ok(())
}

/// Has the kubelet register the driver; once more, if it did not want to.
async fn register(path: PathBuf, driver: Arc<Driver>, networks: &Networks) -> Result<()> {
    loop {
        // The kubelet watches the directory: a socket that appears is asked what it is.
        let listener = bind(&path).with_context(|| path.display().to_string())?;
        tokio::select! {
            ended = serve(listener, driver.clone(), learn(networks)) => { ended.context("the registration's socket")?; bail!("the registration's socket was closed") }
            () = driver.refused.notified() => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// Removed when this value is.
struct Sockets(Vec<PathBuf>);

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}
