//! Networks that are no pod's: the node's own, which the kubelet connects from, and this agent's. A pod of the node's network (`hostNetwork`) would
//! have the interface made for the whole node.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use campfire_api::node::{Reason, Refusal};
use campfire_sys::namespace::Network;
use tracing::debug;

/// Most that are held: of a node there is one.
const MOST: usize = 8;

/// Them.
#[derive(Debug)]
pub struct Networks {
    own: Network,
    others: Mutex<Others>,
}

#[derive(Debug, Default)]
struct Others {
    /// From where somebody connected to what is the kubelet's alone. Held open, so that no other gets its number.
    seen: Vec<Network>,
    /// The kubelet has.
    registered: bool,
}

impl Networks {
    /// With the agent's own.
    ///
    /// # Errors
    /// The kernel does not tell it.
    pub fn new() -> io::Result<Self> {
        Ok(Self { own: Network::own()?, others: Mutex::default() })
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody connected to a socket that is the kubelet's alone.
    pub fn learn(&self, connection: impl AsFd) {
        match Network::of_socket(connection) {
            Ok(network) => {
                let mut others = self.others();
                if !self.own.is(&network) && !others.seen.iter().any(|seen| seen.is(&network)) && others.seen.len() < MOST {
                    others.seen.push(network);
                }
            }
            Err(error) => debug!(%error, "from where the kubelet connects"),
        }
    }

    /// The kubelet has taken this driver, so that what it connected from is known.
    pub fn set_registered(&self, registered: bool) {
        self.others().registered = registered;
    }

    /// Whether the kubelet has taken this driver since it was started.
    pub fn is_registered(&self) -> bool {
        self.others().registered
    }

    /// Whether this may be a pod's.
    ///
    /// # Errors
    /// It is none, or nobody knows yet.
    pub fn check(&self, network: &Network) -> Result<(), Refusal> {
        let others = self.others();
        if self.own.is(network) || others.seen.iter().any(|seen| seen.is(network)) {
            return Err(Refusal::new(
                Reason::HostNetwork,
                "the pod has the node's own network (hostNetwork: true), where nothing is made for one pod",
            ));
        }
        if !others.registered {
            return Err(Refusal::new(
                Reason::Busy,
                "the kubelet has not registered this driver yet, and from it the agent knows the node's network",
            ));
        }
        Ok(())
    }
}
