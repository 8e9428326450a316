//! Names of servers.

use std::time::Duration;

use campfire_protocol::carrier::ServerSlot;
use tokio::net::lookup_host;
use tokio::sync::mpsc;
use tracing::debug;

use crate::CampEvent;

/// How long a look-up may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks a server's name up and tells what it means.
pub(crate) fn resolve(events: mpsc::Sender<CampEvent>, server: ServerSlot, host: String, port: u16) {
    tokio::spawn(async move {
        let addresses = match tokio::time::timeout(PATIENCE, lookup_host((host.as_str(), port))).await {
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
        let _ = events.send(CampEvent::Resolved { server, addresses }).await;
    });
}
