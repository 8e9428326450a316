//! When the peer counts as ready: camped, and connected to all who were there.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::report::Report;

/// How long after camping the peer counts as ready even if some known peer does not answer (it may be gone).
const READY_AFTER: Duration = Duration::from_secs(10);
/// When no server is reached so long after the start, the log says so.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(5);

/// See the module. Stays ready once it was.
pub(super) struct Readiness {
    begun: Instant,
    camped_since: Option<Instant>,
    said_unreachable: bool,
    ready: bool,
}

impl Readiness {
    pub(super) fn new(begun: Instant) -> Self {
        Self { begun, camped_since: None, said_unreachable: false, ready: false }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Looks at what the peer says of itself; when it becomes ready, the log and the file say so.
    pub(super) fn look(&mut self, report: &Report, file: Option<&Path>) {
        if !report.camped() {
            if !self.said_unreachable && self.begun.elapsed() > UNREACHABLE_AFTER {
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
}
