//! `campfire ready`: the startup probe of a pod's sidecar.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::cli::{Policy, ReadyArgs};
use crate::config;
use crate::http;
use crate::pod::init::PROBLEM;

/// File whose age is that of the sidecar's first start in this pod.
const STARTED: &str = "started";

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

/// Succeeds when the peer is ready, or, with policy `Wait`, the timeout is over.
pub async fn check(arguments: &ReadyArgs) -> Result<()> {
    if let Ok(problem) = fs::read_to_string(arguments.run_dir.join(PROBLEM)) {
        if arguments.policy == Policy::Wait {
            println!("there is no interface ({problem}): the app need not wait for it");
            return Ok(());
        }
        bail!("there is no interface: {problem}");
    }
    let interface = arguments.interface.clone().unwrap_or_else(|| config::INTERFACE.to_owned());
    let asked = tokio::time::timeout(Duration::from_secs(2), http::fetch(&http::socket_path(&arguments.run_dir, &interface))).await;
    let why = match asked {
        Ok(Ok(report)) if report.ready => return Ok(()),
        Ok(Ok(report)) if report.camped() => {
            let (connected, known) = report.connected();
            format!("camped; {connected} of {known} peers answer")
        }
        Ok(Ok(_)) => "no TURN server answers yet".into(),
        Ok(Err(_)) | Err(_) => "waits for its settings from the operator".into(),
    };
    let running = fs::metadata(arguments.run_dir.join(STARTED)).and_then(|metadata| metadata.modified());
    let running = running.ok().and_then(|since| SystemTime::now().duration_since(since).ok());
    let timeout = Duration::from_secs(arguments.timeout);
    if arguments.policy == Policy::Wait && running.is_some_and(|running| running >= timeout) {
        println!("not ready ({why}), but the app need not wait any longer");
        return Ok(());
    }
    bail!("not ready: {why}")
}
