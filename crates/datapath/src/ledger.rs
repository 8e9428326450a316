//! What was seen on links since the control plane was told.

use campfire_protocol::carrier::Path;
use campfire_protocol::time::Time;
use campfire_tunnel::LinkId;

use crate::table::Traffic;

/// What was seen on one link.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub last_received: Option<(Time, Path)>,
    pub last_sent: Option<Time>,
    active: bool,
}

/// All links, and which of them have something to tell.
#[derive(Default)]
pub(crate) struct Ledger {
    links: Vec<Seen>,
    active: Vec<LinkId>,
}

impl Ledger {
    /// A link's page. Links are numbered densely, so there are no more pages than links.
    #[inline]
    pub fn of(&mut self, link: LinkId) -> &mut Seen {
        let index = link.0 as usize;
        if index >= self.links.len() {
            self.links.resize(index + 1, Seen::default());
        }
        let seen = &mut self.links[index];
        if !seen.active {
            seen.active = true;
            self.active.push(link);
        }
        seen
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// All that there is to tell; it begins anew.
    pub fn close(&mut self) -> Vec<Traffic> {
        let links = &mut self.links;
        let told = self.active.drain(..).map(|link| {
            let seen = std::mem::take(&mut links[link.0 as usize]);
            Traffic {
                link,
                sent_bytes: seen.sent_bytes,
                received_bytes: seen.received_bytes,
                last_received: seen.last_received,
                last_sent: seen.last_sent,
            }
        });
        told.collect()
    }
}
