//! Clients: 5-tuples with something on them. Nothing else is remembered of a source.

use crate::io::Via;
use crate::table::{Map, Slab, map};

/// What may be pushed to a source that has not proven that it gets what is sent to it: this many times what came from it
/// (as in RFC 9000 §8.1).
const AMPLIFICATION: u32 = 3;
/// And never more than this much saved up, in bytes.
const MAX_CREDIT: u32 = 1 << 16;
/// Credit of a source that has proven itself.
const PROVEN: u32 = u32::MAX;

/// A 5-tuple with seats or an allocation.
pub(crate) struct Client {
    pub via: Via,
    /// Seats here.
    pub seats: Vec<u32>,
    /// The allocation here.
    pub allocation: Option<u32>,
    /// Bytes that may be pushed.
    credit: u32,
}

impl Client {
    /// Takes the bytes of a push from the credit, if it has them.
    pub fn spend(&mut self, bytes: usize) -> bool {
        if self.credit == PROVEN {
            return true;
        }
        match self.credit.checked_sub(bytes as u32) {
            Some(rest) => {
                self.credit = rest;
                true
            }
            None => false,
        }
    }

    /// Whether a push of this size would go out.
    pub fn affords(&self, bytes: usize) -> bool {
        self.credit as usize >= bytes
    }

    /// Whether the source has shown that it gets what is sent to it.
    pub fn proven(&self) -> bool {
        self.credit == PROVEN
    }

    /// The source showed a nonce.
    pub fn prove(&mut self) {
        self.credit = PROVEN;
    }

    /// The source sent something whose integrity was right.
    pub fn earn(&mut self, bytes: usize) {
        if self.credit != PROVEN {
            self.credit = self.credit.saturating_add((bytes as u32).saturating_mul(AMPLIFICATION)).min(MAX_CREDIT);
        }
    }
}

/// All of them.
pub(crate) struct Clients {
    by_via: Map<Via, u32>,
    slab: Slab<Client>,
}

impl Clients {
    pub fn new(seed: u64) -> Self {
        Self { by_via: map(seed), slab: Slab::new() }
    }

    #[inline]
    pub fn find(&self, via: &Via) -> Option<u32> {
        self.by_via.get(via).copied()
    }

    #[inline]
    pub fn get(&self, client: u32) -> Option<&Client> {
        self.slab.get(client)
    }

    pub fn get_mut(&mut self, client: u32) -> Option<&mut Client> {
        self.slab.get_mut(client)
    }

    /// The client of this 5-tuple, made if there is none.
    pub fn intern(&mut self, via: Via) -> u32 {
        if let Some(client) = self.find(&via) {
            return client;
        }
        // A stream's handshake has proven its source.
        let credit = if matches!(via, Via::Stream { .. }) { PROVEN } else { 0 };
        let client = self.slab.insert(Client { via, seats: Vec::new(), allocation: None, credit }).index;
        self.by_via.insert(via, client);
        client
    }

    /// Forgets a client on which nothing is left.
    pub fn tidy(&mut self, client: u32) {
        if self.slab.get(client).is_some_and(|client| client.seats.is_empty() && client.allocation.is_none())
            && let Some(client) = self.slab.remove(client)
        {
            self.by_via.remove(&client.via);
        }
    }

    pub fn len(&self) -> usize {
        self.by_via.len()
    }
}
