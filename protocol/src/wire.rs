//! The campfire messages on STUN (docs/protocol.md, "On the wire"). Requests are authenticated with
//! [`credential::campfire_key`](crate::credential::campfire_key), answers with the same key, pushes with
//! [`credential::push_key`](crate::credential::push_key).
//!
//! Common to all requests: USERNAME; NONCE unless it is a first Camp; MESSAGE-INTEGRITY-SHA256 last.

use std::net::SocketAddr;

use sha2::{Digest as _, Sha256};

use crate::key::{RoomId, Tag};
use crate::stun::{Message, StunError, TransactionId};

/// Proves a seat: 16 random bytes, one for each server, known to the member and that server.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemberToken(pub [u8; 16]);

impl std::fmt::Debug for MemberToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemberToken(of {:?})", self.id())
    }
}

/// Names a member in a room on one server: the first 16 bytes of `SHA-256("campfire/2 member" ‖ token)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub [u8; 16]);

impl MemberToken {
    /// The member's public id.
    pub fn id(&self) -> MemberId {
        let mut hash = Sha256::new();
        hash.update(b"campfire/2 member");
        hash.update(self.0);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        MemberId(id)
    }
}

/// How far a member has read a room's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// 8 random bytes that a server draws when it starts (one for each room it opens); zero: nothing read yet.
    pub incarnation: u64,
    /// Position in the log.
    pub sequence: u64,
}

/// What a request needs beside its own content.
pub struct Auth<'a> {
    /// `expiry:fingerprint`.
    pub user_name: &'a str,
    /// The server's nonce, if one is known.
    pub nonce: Option<&'a str>,
    /// [`credential::campfire_key`](crate::credential::campfire_key).
    pub key: &'a [u8; 32],
}

/// Takes or refreshes a seat (lifetime 0: leaves).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CampRequest {
    /// CAMP-ROOM.
    pub room: RoomId,
    /// CAMP-TOKEN.
    pub token: MemberToken,
    /// LIFETIME in seconds; the server caps it (default 60).
    pub lifetime: u32,
    /// CAMP-TIME: the sender's clock, milliseconds since 1970 (checked on a first Camp without a nonce: within 60 s).
    pub unix_millis: u64,
    /// CAMP-ANNOUNCEMENT: sealed, ≤ 700 bytes; absent: unchanged.
    pub announcement: Option<Vec<u8>>,
    /// CAMP-TAGS: ≤ 8, sent along with an announcement.
    pub tags: Vec<Tag>,
    /// CAMP-CURSOR.
    pub cursor: Cursor,
}

/// A member's announcement, or its departure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub member: MemberId,
    /// Sealed announcement; `None`: left.
    pub announcement: Option<Vec<u8>>,
}

/// Answer to Camp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CampSuccess {
    /// LIFETIME granted, seconds.
    pub lifetime: u32,
    /// CAMP-SERVER-ID: what the server calls itself, if configured.
    pub server_id: Option<String>,
    /// CAMP-TIME: the server's clock.
    pub unix_millis: u64,
    /// XOR-MAPPED-ADDRESS.
    pub observed: SocketAddr,
    /// NONCE for further requests.
    pub nonce: String,
    /// CAMP-MEMBERS: seats in the room.
    pub members: u32,
    /// CAMP-RESET present: forget what this server said before; the entries begin anew.
    pub reset: bool,
    /// CAMP-CURSOR after these entries.
    pub cursor: Cursor,
    /// CAMP-HEAD: the log's end. Beyond `cursor`: more pages follow as Embers (proven source), or ask again.
    pub head: u64,
    /// CAMP-ENTRY, repeated. Empty in a large room (members > threshold): use Find.
    pub entries: Vec<Entry>,
    /// Whether the room is large (CAMP-MEMBERS with its high bit set): nobody gets the roster.
    pub large: bool,
    /// CAMP-LEAVING present: the server is about to stop; move.
    pub leaving: bool,
}

/// Pushed on change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ember {
    /// CAMP-TO: which of the receiver's seats.
    pub to: MemberId,
    /// CAMP-PREVIOUS-CURSOR (sequence only is compared; a mismatch is a gap: ask by Camp). In a large room both cursors are
    /// equal and no gap is inferred.
    pub previous: Cursor,
    /// CAMP-CURSOR after these entries.
    pub cursor: Cursor,
    /// CAMP-ENTRY, repeated.
    pub entries: Vec<Entry>,
    /// CAMP-LEAVING present.
    pub leaving: bool,
}

/// Asks for members by tag (≤ 16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindRequest {
    /// CAMP-FROM: the asking seat.
    pub from: MemberId,
    /// CAMP-TAGS.
    pub tags: Vec<Tag>,
}

/// Carries a WireGuard message to another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalRequest {
    /// CAMP-FROM: the sending seat.
    pub from: MemberId,
    /// CAMP-TO.
    pub to: MemberId,
    /// CAMP-DATA, ≤ 1,000 bytes.
    pub data: Vec<u8>,
}

/// The same at the receiver; `from` is stamped by the server.
pub type SignalIndication = SignalRequest;

/// Binds a channel (0x4000–0x4FFF) to another member; lifetime 0 releases it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindRequest {
    /// CAMP-FROM: the asking seat.
    pub from: MemberId,
    /// CAMP-TO.
    pub to: MemberId,
    /// CHANNEL-NUMBER.
    pub channel: u16,
    /// LIFETIME present and 0.
    pub release: bool,
}

impl CampRequest {
    /// Encodes; without a nonce padded to [`MAX_MESSAGE`](crate::stun::MAX_MESSAGE).
    pub fn encode(&self, _transaction: TransactionId, _auth: &Auth<'_>) -> Vec<u8> {
        todo!()
    }
    /// Reads from a message of method CAMP whose integrity was checked.
    pub fn decode(_message: &Message) -> Result<Self, StunError> {
        todo!()
    }
}

impl CampSuccess {
    /// Bytes of the encoded answer, given the entries (to fill a page).
    pub fn encode(&self, _transaction: TransactionId, _key: &[u8; 32]) -> Vec<u8> {
        todo!()
    }
    /// Reads from a success response whose integrity was checked.
    pub fn decode(_message: &Message) -> Result<Self, StunError> {
        todo!()
    }
}

impl Ember {
    /// Encodes under the receiver's push key.
    pub fn encode(&self, _transaction: TransactionId, _push_key: &[u8; 32]) -> Vec<u8> {
        todo!()
    }
    /// Reads from an indication whose integrity was checked.
    pub fn decode(_message: &Message) -> Result<Self, StunError> {
        todo!()
    }
}

impl FindRequest {
    /// Encodes.
    pub fn encode(&self, _transaction: TransactionId, _auth: &Auth<'_>) -> Vec<u8> {
        todo!()
    }
    /// Reads from a request whose integrity was checked.
    pub fn decode(_message: &Message) -> Result<Self, StunError> {
        todo!()
    }
}

impl SignalRequest {
    /// Encodes the request.
    pub fn encode(&self, _transaction: TransactionId, _auth: &Auth<'_>) -> Vec<u8> {
        todo!()
    }
    /// Encodes the indication, under the receiver's push key.
    pub fn encode_indication(&self, _transaction: TransactionId, _push_key: &[u8; 32]) -> Vec<u8> {
        todo!()
    }
    /// Reads from a request or indication whose integrity was checked.
    pub fn decode(_message: &Message) -> Result<Self, StunError> {
        todo!()
    }
}

impl BindRequest {
    /// Encodes.
    pub fn encode(&self, _transaction: TransactionId, _auth: &Auth<'_>) -> Vec<u8> {
        todo!()
    }
    /// Reads from a request whose integrity was checked.
    pub fn decode(_message: &Message) -> Result<Self, StunError> {
        todo!()
    }
}

/// Success without content of its own (Signal, Bind); Find's carries `entries`.
pub fn encode_success(_request: &Message, _entries: &[Entry], _key: &[u8; 32]) -> Vec<u8> {
    todo!()
}

/// The entries of a success response (Find).
pub fn decode_entries(_message: &Message) -> Result<Vec<Entry>, StunError> {
    todo!()
}

/// What an error response to a campfire request says (docs/protocol.md lists the codes: 400, 401 with nonce and server
/// time, 403, 404 no such member, 420, 438 stale nonce, 486 too many, 508 full).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Code.
    pub code: u16,
    /// Reason phrase, for people.
    pub reason: String,
    /// NONCE to use, with 401 and 438.
    pub nonce: Option<String>,
    /// CAMP-TIME: the server's clock, with 401.
    pub unix_millis: Option<u64>,
}

impl Failure {
    /// Encodes; `key` where the request's integrity was right.
    pub fn encode(&self, _request: &Message, _key: Option<&[u8; 32]>) -> Vec<u8> {
        todo!()
    }
    /// Reads from an error response.
    pub fn decode(_message: &Message) -> Result<Self, StunError> {
        todo!()
    }
}
