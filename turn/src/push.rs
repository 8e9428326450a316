//! What members are told without asking: changes at the fire (Embers), coalesced and paced, and that the server leaves.

use std::time::Duration;

use campfire_protocol::credential;
use campfire_protocol::stun::{MAX_MESSAGE, TransactionId};
use campfire_protocol::time::Time;
use campfire_protocol::wire::{Cursor, Ember, Entry, MAX_ENTRIES, MemberId};
use rand_core::RngCore as _;
use zeroize::Zeroizing;

use crate::Server;
use crate::io::Output;

/// Embers of one room in one turn, before the next room has its own.
const TURN: usize = 64;
/// Pages for one member in one turn.
const PAGES_A_TURN: usize = 4;
/// Pause between a room's turns.
const PACE: Duration = Duration::from_millis(5);
/// Bytes of an Ember without entries: header, CAMP-TO, two cursors, integrity.
const EMBER_OVERHEAD: usize = 20 + 20 + 20 + 20 + 36;
/// Bytes for entries in one page.
const PAGE: usize = MAX_MESSAGE - EMBER_OVERHEAD;

impl Server {
    pub(crate) fn transaction(&mut self) -> TransactionId {
        let mut id = [0; 12];
        self.rng.fill_bytes(&mut id);
        TransactionId(id)
    }

    /// Under which pushes to this seat are signed.
    pub(crate) fn push_key(&self, seat: u32) -> Option<Zeroizing<[u8; 32]>> {
        let seat = self.camp.seats.get(seat)?;
        let room = self.camp.open.get(seat.room)?;
        Some(credential::push_key(self.secrets.campfire(room.fingerprint)?, &seat.member))
    }

    /// Sends to a member, if there is a way and its source may be sent this much. Whether it went.
    pub(crate) fn push(&mut self, seat: u32, bytes: Vec<u8>) -> bool {
        let client = self.camp.seats.get(seat).and_then(|seat| seat.client);
        let Some(client) = client.and_then(|client| self.clients.get_mut(client)) else {
            self.stats.dropped_absent += 1;
            return false;
        };
        if !client.spend(bytes.len()) {
            self.stats.dropped_push_unproven += 1;
            return false;
        }
        let via = client.via;
        self.outputs.push_back(Output::Send { via, bytes });
        true
    }

    fn push_ember(&mut self, seat: u32, ember: &Ember) -> bool {
        let transaction = self.transaction();
        let Some(key) = self.push_key(seat) else { return false };
        let pushed = self.push(seat, ember.encode(transaction, &key));
        self.stats.pushed_embers += u64::from(pushed);
        pushed
    }

    /// Sends the next pages of a small room's log to a member, up to `most`. How many went.
    pub(crate) fn push_pages(&mut self, seat: u32, most: usize, departures: bool) -> usize {
        for sent in 0..most {
            let Some(sitting) = self.camp.seats.get(seat) else { return sent };
            let Some(room) = self.camp.open.get(sitting.room) else { return sent };
            let (from, head) = (sitting.pushed, room.head);
            if from >= head {
                return sent;
            }
            // An unproven source is not owed a page that it cannot get yet: it will ask.
            let client = sitting.client.and_then(|client| self.clients.get(client));
            if !client.is_some_and(|client| client.affords(MAX_MESSAGE)) {
                return sent;
            }
            let (entries, read) = self.camp.page(seat, from, departures, PAGE, MAX_ENTRIES);
            let ember =
                Ember { to: sitting.member, previous: room.cursor(from), cursor: room.cursor(read), entries, leaving: self.draining };
            if let Some(sitting) = self.camp.seats.get_mut(seat) {
                sitting.pushed = read;
            }
            if read == from || !self.push_ember(seat, &ember) {
                return sent;
            }
        }
        most
    }

    /// Sends entries to a member of a large room.
    pub(crate) fn push_entries(&mut self, seat: u32, entries: Vec<Entry>) {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let (mut page, mut left) = (Vec::new(), PAGE);
            while let Some(entry) = entries.next_if(|entry| entry.encoded_len() <= left && page.len() < MAX_ENTRIES) {
                left -= entry.encoded_len();
                page.push(entry);
            }
            let Some((to, cursor)) = self.place(seat) else { return };
            // An entry larger than a page cannot be: announcements are at most 700 bytes.
            if page.is_empty() || !self.push_ember(seat, &Ember { to, previous: cursor, cursor, entries: page, leaving: self.draining }) {
                return;
            }
        }
    }

    fn place(&self, seat: u32) -> Option<(MemberId, Cursor)> {
        let seat = self.camp.seats.get(seat)?;
        let room = self.camp.open.get(seat.room)?;
        Some((seat.member, room.cursor(if room.large { room.head } else { seat.pushed })))
    }

    /// Something changed in this room: its members are told soon.
    pub(crate) fn schedule_pushes(&mut self, room: u32) {
        let due = self.now + self.config.coalesce;
        if let Some(inside) = self.camp.open.get_mut(room)
            && !inside.dirty
        {
            inside.dirty = true;
            self.dirty.push_back((due, room));
        }
    }

    /// Pushes what is due, room after room.
    pub(crate) fn flush(&mut self, now: Time) {
        while let Some((_, room)) = self.dirty.front().copied().filter(|(due, _)| *due <= now) {
            self.dirty.pop_front();
            let rate = self.config.limits.embers;
            let Some(inside) = self.camp.open.get_mut(room) else { continue };
            if !inside.dirty {
                continue;
            }
            let large = inside.large;
            let mut done = false;
            if self.embers.take(now, rate, 0) {
                let mut turn = TURN;
                done = if large { self.flush_large(room, &mut turn) } else { self.flush_small(room, &mut turn) };
                self.embers.owe(now, rate, (TURN - turn) as u32);
            }
            if done {
                if let Some(inside) = self.camp.open.get_mut(room) {
                    inside.dirty = false;
                }
            } else {
                self.dirty.push_back((now + PACE, room));
            }
        }
    }

    /// One turn of a small room: whoever is behind gets the next pages. Whether nobody is left.
    fn flush_small(&mut self, room: u32, turn: &mut usize) -> bool {
        let Some(seats) = self.camp.open.get(room).map(|room| room.seats.len()) else { return true };
        let mut behind = false;
        for _ in 0..seats {
            let Some(inside) = self.camp.open.get_mut(room) else { return true };
            inside.next = (inside.next + 1) % seats.max(1);
            let Some(seat) = inside.seats.get(inside.next).copied() else { continue };
            let pages = self.push_pages(seat, PAGES_A_TURN.min(*turn), true);
            *turn -= pages;
            behind |= pages == PAGES_A_TURN;
            if *turn == 0 {
                return false;
            }
        }
        !behind
    }

    /// One turn of a large room.
    fn flush_large(&mut self, room: u32, turn: &mut usize) -> bool {
        while *turn > 0 {
            let Some((to, member)) = self.camp.next_pending(room) else { return true };
            if self.camp.seats.at(to).is_none_or(|seat| seat.room != room) {
                continue;
            }
            *turn -= 1;
            let now_there = self.camp.member(room, member).and_then(|seat| self.camp.entry(seat));
            let entry = now_there.unwrap_or(Entry { member, announcement: None });
            self.push_entries(to.index, vec![entry]);
        }
        self.camp.open.get(room).is_none_or(|room| !room.has_pending())
    }

    /// Begins to tell everybody that the server leaves.
    pub(crate) fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.farewell = Some((self.now, 0));
        }
    }

    /// Tells the next members that the server leaves.
    pub(crate) fn say_farewell(&mut self, now: Time) {
        let Some((due, first)) = self.farewell else { return };
        if due > now {
            return;
        }
        let end = (first + TURN as u32).min(self.camp.seats.end());
        for seat in first..end {
            if let Some((to, cursor)) = self.place(seat) {
                self.push_ember(seat, &Ember { to, previous: cursor, cursor, entries: Vec::new(), leaving: true });
            }
        }
        self.farewell = (end < self.camp.seats.end()).then_some((now + PACE, end));
    }
}
