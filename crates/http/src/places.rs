//! Who has a place, and who gives way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Counts;

/// The connections of a server. What is looked for in it is looked for one by one: there are some hundreds at most.
#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    most: usize,
    per_address: usize,
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

    /// Closes the one that has owed a request for longest, of this address or of the one that has the most connections.
    fn displace(&mut self, of: Option<IpAddr>) -> bool {
        let mut crowd = HashMap::new();
        for connection in self.connections.values() {
            *crowd.entry(connection.address).or_insert(0_usize) += 1;
        }
        let owing = self.connections.iter().filter(|(_, connection)| of.is_none_or(|address| connection.address == address));
        let owing = owing.filter_map(|(id, connection)| Some((std::cmp::Reverse(crowd[&connection.address]), connection.owing?, *id)));
        let Some((.., id)) = owing.min() else { return false };
        if let Some(connection) = self.connections.remove(&id) {
            connection.close.notify_one();
        }
        true
    }
}

impl Places {
    pub fn new(most: usize, per_address: usize, counts: Arc<Counts>) -> Self {
        Self(Arc::new(Shared { most, per_address, counts, held: Mutex::default() }))
    }

    /// A place for a connection from there: a free one, or that of another. `None`: all are held by requests that are being answered.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let mut held = self.0.lock();
        let crowded = held.of(address) >= self.0.per_address;
        if crowded || held.connections.len() >= self.0.most {
            if !held.displace(crowded.then_some(address)) {
                self.0.counts.refused.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            self.0.counts.displaced.fetch_add(1, Ordering::Relaxed);
        }
        let (id, close) = (held.tick(), Arc::new(Notify::new()));
        held.connections.insert(id, Connection { address, owing: Some(id), close: close.clone() });
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
            connection.owing = Some(now);
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
    /// It has, whole.
    pub fn now(&self) {
        if let Some(connection) = self.shared.lock().connections.get_mut(&self.id) {
            connection.owing = None;
        }
    }
}
