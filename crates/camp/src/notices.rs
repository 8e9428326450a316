//! What a person would notice of servers, as lines of the log. Who sits at several fires says which one by a span.

use campfire_fire::io::Notice;
use tracing::{info, warn};

/// Writes a line.
pub(crate) fn log(notice: &Notice) {
    match notice {
        Notice::Camped { server, transport } => info!(server, ?transport, "camped"),
        Notice::ServerLost { server, reason } => warn!(server, reason, "a server no longer answers"),
        Notice::PlainTurn { server } => warn!(server, "speaks TURN but not campfire: nobody can camp there"),
        Notice::Problem { text } => warn!("{text}"),
    }
}
