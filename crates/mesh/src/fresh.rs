//! Fresh sockets for another try at a direct path: a NAT has no memory of them.

use std::time::Duration;

use campfire_protocol::carrier::SocketId;
use campfire_protocol::time::Time;

use crate::candidates::Candidates;

/// Open at a time.
const MAX_OPEN: usize = 4;
/// How long one serves links that try again.
const FRESH: Duration = Duration::from_secs(10);
/// How long to wait for the servers to say how they see it.
const MAPPING: Duration = Duration::from_millis(1_500);
/// What nobody uses is closed after this.
const UNUSED: Duration = Duration::from_mins(1);
/// Between two looks at one that servers have not seen yet.
const LOOK: Duration = Duration::from_millis(50);

/// Whether one can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// This one.
    Ready(SocketId),
    /// Ask again then.
    Wait(Time),
    /// This one is to be opened; ask again then.
    Open(SocketId, Time),
    /// No: the first socket has to do.
    No,
}

/// Those that are open, and since when.
#[derive(Debug)]
pub(crate) struct FreshSockets {
    open: Vec<(SocketId, Time)>,
    next: u16,
}

impl Default for FreshSockets {
    fn default() -> Self {
        // The first two are the shell's.
        Self { open: Vec::new(), next: 2 }
    }
}

impl FreshSockets {
    /// A fresh IPv4 socket for another try.
    pub(crate) fn get(&mut self, now: Time, candidates: &Candidates) -> Fresh {
        if let Some((socket, opened)) = self.open.last().copied().filter(|(_, opened)| now.since(*opened) < FRESH) {
            let waited = now.since(opened) >= MAPPING;
            return if candidates.is_mapped(socket) || (waited && candidates.is_open(socket)) {
                Fresh::Ready(socket)
            } else if waited {
                Fresh::No
            } else {
                Fresh::Wait(now + LOOK)
            };
        }
        if self.open.len() >= MAX_OPEN || !candidates.is_open(SocketId(0)) || self.next == u16::MAX {
            return Fresh::No;
        }
        let socket = SocketId(self.next);
        self.next += 1;
        self.open.push((socket, now));
        Fresh::Open(socket, now + LOOK)
    }

    /// Those that have had their time: the caller closes what no link uses.
    pub(crate) fn old(&self, now: Time) -> Vec<SocketId> {
        self.open.iter().filter(|(_, opened)| now.since(*opened) > UNUSED).map(|(socket, _)| *socket).collect()
    }

    /// Whether any are open.
    pub(crate) fn any(&self) -> bool {
        !self.open.is_empty()
    }

    /// One is gone.
    pub(crate) fn forget(&mut self, socket: SocketId) {
        self.open.retain(|(open, _)| *open != socket);
    }
}
