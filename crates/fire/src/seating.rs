//! Our seat in one room on one server: who we are there, how far we have read, what the server holds of us.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use campfire_protocol::carrier::Via;
use campfire_protocol::credential::{campfire_key, push_key, user_name};
use campfire_protocol::key::Keys;
use campfire_protocol::limit::Limit;
use campfire_protocol::stun::TransactionId;
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::{Cursor, Ember, MemberId, MemberToken};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore as _;
use zeroize::Zeroizing;

use crate::roster::Version;

/// How long a credential is valid, seconds.
const CREDENTIAL: u64 = 86_400;
/// Pages that came before the one that precedes them are kept up to this many.
const MAX_HELD: usize = 16;

/// How long an Ember that should have come may be late.
const LATE: Duration = Duration::from_millis(50);
/// Everything is read again at most this often.
const READ_AGAIN: Duration = Duration::from_secs(30);

/// User name and integrity key.
pub(crate) struct Credential {
    pub(crate) user_name: String,
    pub(crate) key: Zeroizing<[u8; 32]>,
    expiry: u64,
}

/// Pushes that a Camp alone can confirm make us camp at most this often.
const HINTS: Duration = Duration::from_secs(1);

/// What a server lists after a reset: who is not in it by the end is gone.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) seen: BTreeSet<MemberId>,
    /// The log's end when it began.
    pub(crate) head: u64,
}

/// Our seat in one room on one server.
pub(crate) struct Seating {
    token: MemberToken,
    pub(crate) member: MemberId,
    pub(crate) push_key: Zeroizing<[u8; 32]>,
    credential: Option<Credential>,
    nonce: Option<(Via, String)>,
    /// We want to sit there.
    pub(crate) wanted: bool,
    /// The server has given us a seat that lasts until then, over this via.
    pub(crate) until: Option<Time>,
    pub(crate) via: Option<Via>,
    /// `Camped` was told since the conversation came up.
    pub(crate) told: bool,
    /// What the server holds of us.
    pub(crate) held: Option<Version>,
    pub(crate) cursor: Cursor,
    /// The log's end as last told,
    pub(crate) head: u64,
    /// and when it was last a push that told.
    pushed: Option<Time>,
    /// When a push last made us camp.
    hinted: Option<Time>,
    /// By how many the members that the server counts and those known here differed last.
    unaccounted: i64,
    /// A push said that somebody is gone, since everything was last read.
    pub(crate) doubted: bool,
    /// The log's end when we came: what is beyond came later.
    pub(crate) joined_at: u64,
    pub(crate) listing: Option<Listing>,
    /// Pages that came too early, by the sequence that precedes them.
    early: BTreeMap<u64, Ember>,
    /// When to ask for what is missing.
    pub(crate) catch_up_at: Option<Time>,
    /// The next Camp asks for everything.
    pub(crate) read_again: bool,
    /// Not before this time is everything read again.
    read_again_at: Option<Time>,
    pub(crate) refresh_at: Option<Time>,
    /// The Camp in flight.
    pub(crate) camp: Option<TransactionId>,
    /// When a Camp was first tried since the conversation came up.
    pub(crate) tried: Option<Time>,
    /// Challenges (401, 438, 400) in a row.
    pub(crate) challenges: u8,
    pub(crate) members: u32,
    pub(crate) large: bool,
    /// Why the server refuses us.
    pub(crate) problem: Option<String>,
    /// Which limit it is, if it is one.
    pub(crate) limit: Option<Limit>,
}

impl Seating {
    pub(crate) fn new(rng: &mut ChaCha20Rng, keys: &Keys) -> Self {
        let mut token = [0; 16];
        rng.fill_bytes(&mut token);
        let token = MemberToken(token);
        let member = token.id();
        Self {
            token,
            member,
            push_key: push_key(&keys.relay, &member),
            credential: None,
            nonce: None,
            wanted: false,
            until: None,
            via: None,
            told: false,
            held: None,
            cursor: Cursor::default(),
            head: 0,
            pushed: None,
            hinted: None,
            unaccounted: 0,
            doubted: false,
            joined_at: 0,
            listing: None,
            early: BTreeMap::new(),
            catch_up_at: None,
            read_again: false,
            read_again_at: None,
            refresh_at: None,
            camp: None,
            tried: None,
            challenges: 0,
            members: 0,
            large: false,
            problem: None,
            limit: None,
        }
    }

    pub(crate) fn token(&self) -> MemberToken {
        self.token
    }

    /// The server gave us a seat and it has not run out.
    pub(crate) fn seated(&self, now: Time) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// A credential that is valid by the server's clock.
    pub(crate) fn credential(&mut self, keys: &Keys, server_time: UnixMillis) -> &Credential {
        let now = server_time.0 / 1_000;
        let make = || {
            let expiry = now.saturating_add(CREDENTIAL);
            let user_name = user_name(expiry, keys.fingerprint);
            Credential { key: campfire_key(&keys.relay, &user_name), user_name, expiry }
        };
        let half = CREDENTIAL / 2;
        // Half run out, or made by a clock that was wrong.
        self.credential.take_if(|held| !(now.saturating_add(half)..=now.saturating_add(2 * CREDENTIAL)).contains(&held.expiry));
        self.credential.get_or_insert_with(make)
    }

    /// From where on to read.
    pub(crate) fn read_from(&self) -> Cursor {
        if self.read_again { Cursor::default() } else { self.cursor }
    }

    /// The server's nonce, if it was given for this via.
    pub(crate) fn nonce(&self, via: Via) -> Option<&str> {
        self.nonce.as_ref().filter(|(of, _)| *of == via).map(|(_, nonce)| nonce.as_str())
    }

    pub(crate) fn set_nonce(&mut self, via: Via, nonce: String) {
        self.nonce = Some((via, nonce));
    }

    /// We no longer sit there, as far as we know.
    pub(crate) fn stand_up(&mut self) {
        self.until = None;
        self.held = None;
        self.told = false;
        self.tried = None;
        self.camp = None;
        self.refresh_at = None;
        self.catch_up_at = None;
        self.listing = None;
        self.early.clear();
        self.cursor = Cursor::default();
        self.challenges = 0;
    }

    /// The conversation broke off; the seat may still be there.
    pub(crate) fn interrupted(&mut self) {
        self.told = false;
        self.tried = None;
        self.camp = None;
        self.refresh_at = None;
        self.catch_up_at = None;
        self.challenges = 0;
    }

    /// Keeps a page that came too early.
    pub(crate) fn hold(&mut self, ember: Ember) {
        if self.early.len() < MAX_HELD {
            self.early.insert(ember.previous.sequence, ember);
        }
    }

    /// The kept page that follows what has been read.
    pub(crate) fn following(&mut self) -> Option<Ember> {
        let at = self.cursor.sequence;
        self.early.retain(|previous, _| *previous >= at);
        self.early.remove(&at)
    }

    pub(crate) fn forget_early(&mut self) {
        self.early.clear();
    }

    /// Somebody speaks whom we do not know, though the server tells members of each other first: its Ember is late or lost. If
    /// nothing is missing by the cursor, it is the cursor that is wrong: everything is read again, though not often.
    pub(crate) fn miss_somebody(&mut self, now: Time) {
        let soon = now + LATE;
        if self.cursor.sequence >= self.head && self.read_again_at.is_none_or(|at| at <= now) {
            self.read_again_at = Some(now + READ_AGAIN);
            self.read_again = true;
        }
        self.catch_up_at = Some(self.catch_up_at.map_or(soon, |at| at.min(soon)));
    }

    /// A push says what only a Camp can tell for certain: asked soon, within `spread`.
    pub(crate) fn hint(&mut self, now: Time, spread: Duration) {
        if self.catch_up_at.is_none() {
            let at = self.hinted.map_or(now, |last| now.max(last + HINTS)) + spread;
            self.hinted = Some(at);
            self.catch_up_at = Some(at);
        }
    }

    /// A push says that the log goes on to here.
    pub(crate) fn pushed(&mut self, now: Time, head: u64) {
        self.head = self.head.max(head);
        self.pushed = Some(now);
    }

    /// The answer to a Camp that was sent then says where the log ends. What was pushed before it was sent is refuted by it.
    pub(crate) fn ends(&mut self, sent: Time, head: u64) {
        if self.pushed.is_some_and(|at| at >= sent) {
            self.head = self.head.max(head);
        } else {
            self.head = head;
            self.early.retain(|previous, _| *previous <= head);
        }
    }

    /// The server counts so many members, we know so many beside us. If that differs in another way than before, or after
    /// somebody was said to be gone, a push was wrong or was missed.
    pub(crate) fn count(&mut self, now: Time, members: u32, known: usize) {
        if self.large || self.listing.is_some() || self.cursor.sequence < self.head {
            return;
        }
        let unaccounted = i64::from(members) - 1 - i64::try_from(known).unwrap_or(i64::MAX);
        let differs = std::mem::replace(&mut self.unaccounted, unaccounted) != unaccounted;
        if unaccounted != 0 && (differs || self.doubted) && !self.read_again {
            self.doubted = false;
            self.read_all_again(now);
        }
    }

    /// Everything is read again, as soon as that is due.
    pub(crate) fn read_all_again(&mut self, now: Time) {
        let at = self.read_again_at.map_or(now, |at| at.max(now));
        self.read_again_at = Some(at + READ_AGAIN);
        self.read_again = true;
        self.catch_up_at = Some(self.catch_up_at.map_or(at, |already| already.min(at)));
    }

    /// Sets when to ask for what is missing, if anything is.
    pub(crate) fn expect_more(&mut self, now: Time, patience: Duration) {
        let missing = self.cursor.sequence < self.head || !self.early.is_empty();
        self.catch_up_at = (missing && !self.large).then(|| now + patience);
    }
}
