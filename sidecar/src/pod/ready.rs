//! `campfire ready`: the startup probe of a pod's sidecar.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::cli::{Policy, ReadyArgs};
use crate::config;
use crate::http;
use crate::pod::init::PROBLEM;
use crate::pod::{WAITING, WAITING_INTERFACE};

/// File whose age is that of the sidecar's first start in this pod.
pub const STARTED: &str = "started";

/// Notes that the sidecar starts, unless it did before: a restart does not wait all over again.
pub fn started(state: &Path) {
    let path = state.join(STARTED);
    if !path.exists() {
        let _ = fs::write(path, b"");
    }
}

/// In a sandbox that was made anew everything starts anew.
pub fn forget(state: &Path) -> Result<()> {
    let path = state.join(STARTED);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| path.display().to_string()),
        _ => Ok(()),
    }
}

/// How long one call waits for the peer to be ready: less than the probe's own timeout of 3 s. A kubelet asks once a second; who answers as soon
/// as it is so saves the app what is left of that second.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Succeeds when the peer is ready, or, with policy `Wait`, the timeout is over. Waits for that, a little.
pub async fn check(arguments: &ReadyArgs) -> Result<()> {
    if let Ok(problem) = fs::read_to_string(arguments.run_dir.join(PROBLEM)) {
        if arguments.policy == Policy::Wait {
            println!("there is no interface ({problem}): the app need not wait for it");
            return Ok(());
        }
        bail!("there is no interface: {problem}");
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let Some(why) = lacking(arguments, until).await else { return Ok(()) };
        let running = fs::metadata(arguments.run_dir.join(STARTED)).and_then(|metadata| metadata.modified());
        let running = running.ok().and_then(|since| SystemTime::now().duration_since(since).ok());
        if arguments.policy == Policy::Wait && running.is_some_and(|running| running >= Duration::from_secs(arguments.timeout)) {
            println!("not ready ({why}), but the app need not wait any longer");
            return Ok(());
        }
        if Instant::now() + LOOK >= until {
            bail!("not ready: {why}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the peer lacks to be ready; `None`: nothing.
async fn lacking(arguments: &ReadyArgs, until: Instant) -> Option<String> {
    let interface = arguments.interface.clone().unwrap_or_else(|| config::INTERFACE.to_owned());
    let socket = http::socket_path(&arguments.run_dir, &interface);
    match tokio::time::timeout_at(until.into(), http::fetch(&socket)).await {
        Ok(Ok(report)) if report.ready => None,
        Ok(Ok(report)) if report.camped() => {
            let (connected, known) = report.connected();
            Some(format!("camped; {connected} of {known} peers answer"))
        }
        Ok(Ok(_)) => Some("no TURN server answers yet".into()),
        Ok(Err(_)) | Err(_) => {
            if let Ok(why) = fs::read_to_string(arguments.run_dir.join(WAITING_INTERFACE)) {
                return Some(format!("waits for its interface: {why}"));
            }
            let last = fs::read_to_string(arguments.run_dir.join(WAITING)).map(|why| format!(": {why}")).unwrap_or_default();
            Some(format!("waits for its settings from the operator{last}"))
        }
    }
}
