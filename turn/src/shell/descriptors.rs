//! Descriptors, which each connection and each relay socket takes one of: some are kept for probes and files, whatever clients do.

use std::sync::Arc;

use super::http;
use super::metrics::Counters;

/// Kept for the HTTP port, listeners, files and what the runtime needs.
const SPARE: u64 = http::CONNECTIONS as u64 + 64;

/// How many descriptors may be open, and how many clients' are.
#[derive(Clone)]
pub struct Descriptors {
    most: u64,
    counters: Arc<Counters>,
}

impl Descriptors {
    /// Of a process that may have `most` open.
    pub fn new(most: u64, counters: Arc<Counters>) -> Self {
        Self { most, counters }
    }

    /// As many as the system lets us have; says so where that is fewer than clients may need by the limits.
    pub fn raise(wanted: u64, counters: Arc<Counters>) -> Self {
        let most = campfire_sys::process::raise_descriptor_limit().unwrap_or_else(|error| {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            1024
        });
        if most.saturating_sub(SPARE) < wanted {
            tracing::warn!(
                limit = most,
                wanted = wanted + SPARE,
                "fewer open files are allowed than --max-connections and --max-allocations may need: raise the hard limit (ulimit -Hn, LimitNOFILE=, the container's), \
                 or lower those"
            );
        }
        Self::new(most, counters)
    }

    /// Whether one more may be a client's.
    pub fn left(&self) -> bool {
        let counters = &self.counters;
        let held = counters.tcp_connections.get() + counters.tls_connections.get() + counters.relay_sockets.get();
        held + SPARE < self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_some_to_probes() {
        let counters = Arc::new(Counters::default());
        let descriptors = Descriptors::new(SPARE + 3, counters.clone());
        assert!(descriptors.left());
        counters.tcp_connections.set(1);
        counters.tls_connections.set(1);
        assert!(descriptors.left());
        counters.relay_sockets.set(1);
        assert!(!descriptors.left());
    }
}
