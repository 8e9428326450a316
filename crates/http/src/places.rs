//! Who has a place, and who gives way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Counts, Limits};

/// The connections of a server. What is looked for in it is looked for one by one: there are some hundreds at most.
#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    most: usize,
    per_address: usize,
    bodies: usize,
    counts: Arc<Counts>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// Counts connections and what they say: an order of time.
    next: u64,
    connections: HashMap<u64, Connection>,
}

struct Connection {
    address: IpAddr,
    /// Since when it has owed a whole request; `None` while one is being answered.
    owing: Option<u64>,
    /// Of its request's body, until that is answered.
    bytes: usize,
    close: Arc<Notify>,
}

impl Held {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn of(&self, address: IpAddr) -> usize {
        self.connections.values().filter(|connection| connection.address == address).count()
    }

    /// Closes the one that has owed a request for longest, of this address or of the one whose connections have the most of `what`; none that has
    /// nothing of it.
    fn displace(&mut self, of: Option<IpAddr>, what: impl Fn(&Connection) -> usize) -> bool {
        let mut crowd = HashMap::new();
        for connection in self.connections.values() {
            *crowd.entry(connection.address).or_insert(0_usize) += what(connection);
        }
        let able = |connection: &Connection| of.is_none_or(|address| connection.address == address) && what(connection) > 0;
        let able = self.connections.iter().filter(|(_, connection)| able(connection));
        let owing = able.filter_map(|(id, connection)| Some((std::cmp::Reverse(crowd[&connection.address]), connection.owing?, *id)));
        let Some((.., id)) = owing.min() else { return false };
        if let Some(connection) = self.connections.remove(&id) {
            connection.close.notify_one();
        }
        true
    }
}

impl Places {
    pub fn new(limits: &Limits, counts: Arc<Counts>) -> Self {
        let Limits { connections: most, per_address, bodies, .. } = *limits;
        Self(Arc::new(Shared { most, per_address, bodies, counts, held: Mutex::default() }))
    }

    /// A place for a connection from there: a free one, or that of another. `None`: all are held by requests that are being answered.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let mut held = self.0.lock();
        let crowded = held.of(address) >= self.0.per_address;
        if crowded || held.connections.len() >= self.0.most {
            if !held.displace(crowded.then_some(address), |_| 1) {
                self.0.counts.refused.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            self.0.counts.displaced.fetch_add(1, Ordering::Relaxed);
        }
        let (id, close) = (held.tick(), Arc::new(Notify::new()));
        held.connections.insert(id, Connection { address, owing: Some(id), bytes: 0, close: close.clone() });
        Some(Place { id, close, shared: self.0.clone() })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection, free again when it is dropped.
pub struct Place {
    id: u64,
    close: Arc<Notify>,
    shared: Arc<Shared>,
}

impl Place {
    /// Another has it now.
    pub async fn displaced(&self) {
        self.close.notified().await;
    }

    /// To say that a whole request is there.
    pub fn heard(&self) -> Heard {
        Heard { id: self.id, shared: self.shared.clone() }
    }

    /// The request is answered; from now on the next one is owed.
    pub fn answered(&self) {
        let mut held = self.shared.lock();
        let now = held.tick();
        if let Some(connection) = held.connections.get_mut(&self.id) {
            (connection.owing, connection.bytes) = (Some(now), 0);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.lock().connections.remove(&self.id);
    }
}

/// What marks a connection as one that has said something.
#[derive(Clone)]
pub struct Heard {
    id: u64,
    shared: Arc<Shared>,
}

impl Heard {
    /// So much more of the body is held. If all bodies together are too much others give way, or this one. Whether it may go on.
    pub fn holds(&self, bytes: usize) -> bool {
        let counts = &self.shared.counts;
        let mut held = self.shared.lock();
        if let Some(connection) = held.connections.get_mut(&self.id) {
            connection.bytes += bytes;
        }
        while held.connections.values().map(|connection| connection.bytes).sum::<usize>() > self.shared.bodies {
            // (It owes its request itself: there is one.)
            if !held.displace(None, |connection| connection.bytes) {
                break;
            }
            counts.displaced.fetch_add(1, Ordering::Relaxed);
        }
        held.connections.contains_key(&self.id)
    }

    /// It has, whole.
    pub fn now(&self) {
        if let Some(connection) = self.shared.lock().connections.get_mut(&self.id) {
            connection.owing = None;
        }
    }
}
