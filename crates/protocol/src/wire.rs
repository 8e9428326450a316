//! The campfire messages on STUN (docs/protocol.md, "On the wire"). Requests are authenticated with
//! [`credential::campfire_key`](crate::credential::campfire_key), answers with the same key, pushes with
//! [`credential::push_key`](crate::credential::push_key).
//!
//! Common to all requests: USERNAME; NONCE unless it is a first Camp; MESSAGE-INTEGRITY-SHA256 last.

use std::net::SocketAddr;

use sha2::{Digest as _, Sha256};

use crate::announce::MAX_SEALED;
use crate::key::{RoomId, Tag};
use crate::stun::{Attribute, Builder, Class, MAX_MESSAGE, Message, Method, SHA256_SIZE, StunError, TransactionId};

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
    /// CAMP-INSTANCE: the same for one process and one source IP address, under whatever id and at whatever address it is reached.
    pub instance: [u8; 8],
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
    /// CAMP-DATA, 1 to 1,000 bytes; in the indication 1 to 1,420.
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

/// Most entries in one message: with the other attributes they stay below [`stun::MAX_ATTRIBUTES`](crate::stun::MAX_ATTRIBUTES).
pub const MAX_ENTRIES: usize = 19;
/// Most tags in a Camp request.
pub const MAX_CAMP_TAGS: usize = 8;
/// Most tags in a Find request.
pub const MAX_FIND_TAGS: usize = 16;
/// Most bytes of CAMP-DATA in a Signal request.
pub const MAX_SIGNAL: usize = 1_000;
/// Most bytes of CAMP-DATA in a Signal indication: relay frames reach a receiver that has not bound yet this way.
pub const MAX_RELAYED_SIGNAL: usize = 1_420;
/// Most bytes of a nonce, a user name, a reason phrase.
pub const MAX_TEXT: usize = 128;
/// Channel numbers that Bind takes (RFC 8656 §12).
pub const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x4FFF;

/// High bit of CAMP-MEMBERS: the room is large.
const LARGE: u32 = 1 << 31;

/// What the campfire methods may carry; other comprehension-required attributes get a 420 (RFC 8489 §6.3.1).
pub const KNOWN: [Attribute; 17] = [
    Attribute::CAMP_ROOM,
    Attribute::CAMP_TOKEN,
    Attribute::CAMP_FROM,
    Attribute::CAMP_TO,
    Attribute::CAMP_TIME,
    Attribute::CAMP_ANNOUNCEMENT,
    Attribute::CAMP_TAGS,
    Attribute::CAMP_CURSOR,
    Attribute::CAMP_PREVIOUS_CURSOR,
    Attribute::CAMP_HEAD,
    Attribute::CAMP_ENTRY,
    Attribute::CAMP_RESET,
    Attribute::CAMP_MEMBERS,
    Attribute::CAMP_SERVER_ID,
    Attribute::CAMP_DATA,
    Attribute::CAMP_LEAVING,
    Attribute::CAMP_INSTANCE,
];

impl CampRequest {
    /// Encodes; without a nonce padded to [`MAX_MESSAGE`].
    pub fn encode(&self, transaction: TransactionId, auth: &Auth<'_>) -> Vec<u8> {
        let mut builder = request(Method::CAMP, transaction, auth)
            .attribute(Attribute::CAMP_ROOM, &self.room.0)
            .attribute(Attribute::CAMP_TOKEN, &self.token.0)
            .u32(Attribute::LIFETIME, self.lifetime)
            .attribute(Attribute::CAMP_TIME, &self.unix_millis.to_be_bytes())
            .attribute(Attribute::CAMP_CURSOR, &self.cursor.to_bytes())
            .optional(Attribute::CAMP_ANNOUNCEMENT, self.announcement.as_deref());
        if !self.tags.is_empty() {
            builder = builder.attribute(Attribute::CAMP_TAGS, &encode_tags(&self.tags));
        }
        if auth.nonce.is_none() {
            builder = builder.pad_before_sha256(MAX_MESSAGE);
        }
        builder.finish_sha256(auth.key)
    }

    /// Reads from a message of method CAMP whose integrity was checked.
    pub fn decode(message: &Message) -> Result<Self, StunError> {
        expect(message, Method::CAMP, Class::Request)?;
        let announcement = message.get(Attribute::CAMP_ANNOUNCEMENT).map(<[u8]>::to_vec);
        if announcement.as_ref().is_some_and(|sealed| sealed.is_empty() || sealed.len() > MAX_SEALED) {
            return Err(malformed(Attribute::CAMP_ANNOUNCEMENT));
        }
        Ok(Self {
            room: RoomId(array(message, Attribute::CAMP_ROOM)?),
            token: MemberToken(array(message, Attribute::CAMP_TOKEN)?),
            lifetime: u32::from_be_bytes(array(message, Attribute::LIFETIME)?),
            unix_millis: u64::from_be_bytes(array(message, Attribute::CAMP_TIME)?),
            announcement,
            tags: decode_tags(message, MAX_CAMP_TAGS)?,
            cursor: Cursor::from_bytes(array(message, Attribute::CAMP_CURSOR)?),
        })
    }
}

impl Entry {
    /// Bytes that the entry takes in a message, header and padding included.
    pub fn encoded_len(&self) -> usize {
        4 + (16 + self.announcement.as_ref().map_or(0, Vec::len)).next_multiple_of(4)
    }
}

impl CampSuccess {
    /// Encodes. The caller keeps it within [`MAX_MESSAGE`] and [`MAX_ENTRIES`] (see [`CampSuccess::fits`]).
    pub fn encode(&self, transaction: TransactionId, key: &[u8; 32]) -> Vec<u8> {
        self.builder(transaction).finish_sha256(key)
    }

    /// Bytes of the encoded answer with the entries that it has.
    pub fn encoded_len(&self) -> usize {
        self.builder(TransactionId::default()).size() + SHA256_SIZE
    }

    /// Whether one more entry fits.
    pub fn fits(&self, entry: &Entry) -> bool {
        self.entries.len() < MAX_ENTRIES && self.encoded_len() + entry.encoded_len() <= MAX_MESSAGE
    }

    fn builder(&self, transaction: TransactionId) -> Builder {
        let builder = Builder::new(Class::Success, Method::CAMP, transaction)
            .u32(Attribute::LIFETIME, self.lifetime)
            .optional(Attribute::CAMP_SERVER_ID, self.server_id.as_ref().map(String::as_bytes))
            .attribute(Attribute::CAMP_INSTANCE, &self.instance)
            .attribute(Attribute::CAMP_TIME, &self.unix_millis.to_be_bytes())
            .xor_address(Attribute::XOR_MAPPED_ADDRESS, self.observed)
            .attribute(Attribute::NONCE, self.nonce.as_bytes())
            .u32(Attribute::CAMP_MEMBERS, self.members.min(LARGE - 1) | if self.large { LARGE } else { 0 })
            .optional(Attribute::CAMP_RESET, self.reset.then_some(&[]))
            .attribute(Attribute::CAMP_CURSOR, &self.cursor.to_bytes())
            .attribute(Attribute::CAMP_HEAD, &self.head.to_be_bytes())
            .optional(Attribute::CAMP_LEAVING, self.leaving.then_some(&[]));
        add_entries(builder, &self.entries)
    }

    /// Reads from a success response whose integrity was checked.
    pub fn decode(message: &Message) -> Result<Self, StunError> {
        expect(message, Method::CAMP, Class::Success)?;
        let members = u32::from_be_bytes(array(message, Attribute::CAMP_MEMBERS)?);
        let observed = message.xor_address(Attribute::XOR_MAPPED_ADDRESS)?;
        let nonce = text(message, Attribute::NONCE)?.ok_or(StunError::Missing(Attribute::NONCE.0))?;
        Ok(Self {
            lifetime: u32::from_be_bytes(array(message, Attribute::LIFETIME)?),
            server_id: text(message, Attribute::CAMP_SERVER_ID)?.map(for_people),
            instance: array(message, Attribute::CAMP_INSTANCE)?,
            unix_millis: u64::from_be_bytes(array(message, Attribute::CAMP_TIME)?),
            observed: observed.ok_or(StunError::Missing(Attribute::XOR_MAPPED_ADDRESS.0))?,
            nonce: nonce.to_owned(),
            members: members & !LARGE,
            reset: message.get(Attribute::CAMP_RESET).is_some(),
            cursor: Cursor::from_bytes(array(message, Attribute::CAMP_CURSOR)?),
            head: u64::from_be_bytes(array(message, Attribute::CAMP_HEAD)?),
            entries: entries_of(message)?,
            large: members & LARGE != 0,
            leaving: message.get(Attribute::CAMP_LEAVING).is_some(),
        })
    }
}

impl Ember {
    /// Encodes under the receiver's push key. The caller keeps it within [`MAX_MESSAGE`] and [`MAX_ENTRIES`] (see
    /// [`Ember::fits`]).
    pub fn encode(&self, transaction: TransactionId, push_key: &[u8; 32]) -> Vec<u8> {
        self.builder(transaction).finish_sha256(push_key)
    }

    /// Bytes of the encoded indication with the entries that it has.
    pub fn encoded_len(&self) -> usize {
        self.builder(TransactionId::default()).size() + SHA256_SIZE
    }

    /// Whether one more entry fits.
    pub fn fits(&self, entry: &Entry) -> bool {
        self.entries.len() < MAX_ENTRIES && self.encoded_len() + entry.encoded_len() <= MAX_MESSAGE
    }

    fn builder(&self, transaction: TransactionId) -> Builder {
        let builder = Builder::new(Class::Indication, Method::EMBER, transaction)
            .attribute(Attribute::CAMP_TO, &self.to.0)
            .attribute(Attribute::CAMP_PREVIOUS_CURSOR, &self.previous.to_bytes())
            .attribute(Attribute::CAMP_CURSOR, &self.cursor.to_bytes())
            .optional(Attribute::CAMP_LEAVING, self.leaving.then_some(&[]));
        add_entries(builder, &self.entries)
    }

    /// Reads from an indication whose integrity was checked.
    pub fn decode(message: &Message) -> Result<Self, StunError> {
        expect(message, Method::EMBER, Class::Indication)?;
        Ok(Self {
            to: MemberId(array(message, Attribute::CAMP_TO)?),
            previous: Cursor::from_bytes(array(message, Attribute::CAMP_PREVIOUS_CURSOR)?),
            cursor: Cursor::from_bytes(array(message, Attribute::CAMP_CURSOR)?),
            entries: entries_of(message)?,
            leaving: message.get(Attribute::CAMP_LEAVING).is_some(),
        })
    }
}

impl FindRequest {
    /// Encodes.
    pub fn encode(&self, transaction: TransactionId, auth: &Auth<'_>) -> Vec<u8> {
        request(Method::FIND, transaction, auth)
            .attribute(Attribute::CAMP_FROM, &self.from.0)
            .attribute(Attribute::CAMP_TAGS, &encode_tags(&self.tags))
            .finish_sha256(auth.key)
    }

    /// Reads from a request whose integrity was checked.
    pub fn decode(message: &Message) -> Result<Self, StunError> {
        expect(message, Method::FIND, Class::Request)?;
        let tags = decode_tags(message, MAX_FIND_TAGS)?;
        if tags.is_empty() {
            return Err(StunError::Missing(Attribute::CAMP_TAGS.0));
        }
        Ok(Self { from: MemberId(array(message, Attribute::CAMP_FROM)?), tags })
    }
}

impl SignalRequest {
    /// Encodes the request.
    pub fn encode(&self, transaction: TransactionId, auth: &Auth<'_>) -> Vec<u8> {
        self.content(request(Method::SIGNAL, transaction, auth)).finish_sha256(auth.key)
    }

    /// Encodes the indication, under the receiver's push key.
    pub fn encode_indication(&self, transaction: TransactionId, push_key: &[u8; 32]) -> Vec<u8> {
        self.content(Builder::new(Class::Indication, Method::SIGNAL, transaction)).finish_sha256(push_key)
    }

    fn content(&self, builder: Builder) -> Builder {
        builder
            .attribute(Attribute::CAMP_FROM, &self.from.0)
            .attribute(Attribute::CAMP_TO, &self.to.0)
            .attribute(Attribute::CAMP_DATA, &self.data)
    }

    /// Reads from a request (at most [`MAX_SIGNAL`] bytes of data) or indication ([`MAX_RELAYED_SIGNAL`]) whose integrity
    /// was checked.
    pub fn decode(message: &Message) -> Result<Self, StunError> {
        let most = match message.class() {
            Class::Request => MAX_SIGNAL,
            Class::Indication | Class::Success | Class::Error => MAX_RELAYED_SIGNAL,
        };
        if message.method() != Method::SIGNAL || !matches!(message.class(), Class::Request | Class::Indication) {
            return Err(StunError::Unexpected);
        }
        let data = message.require(Attribute::CAMP_DATA)?;
        if data.is_empty() || data.len() > most || message.as_bytes().len() > MAX_MESSAGE - MAX_SIGNAL + most {
            return Err(malformed(Attribute::CAMP_DATA));
        }
        Ok(Self {
            from: MemberId(array(message, Attribute::CAMP_FROM)?),
            to: MemberId(array(message, Attribute::CAMP_TO)?),
            data: data.to_vec(),
        })
    }
}

impl BindRequest {
    /// Encodes.
    pub fn encode(&self, transaction: TransactionId, auth: &Auth<'_>) -> Vec<u8> {
        let [high, low] = self.channel.to_be_bytes();
        request(Method::BIND, transaction, auth)
            .attribute(Attribute::CAMP_FROM, &self.from.0)
            .attribute(Attribute::CAMP_TO, &self.to.0)
            .attribute(Attribute::CHANNEL_NUMBER, &[high, low, 0, 0])
            .optional(Attribute::LIFETIME, self.release.then_some(&[0; 4]))
            .finish_sha256(auth.key)
    }

    /// Reads from a request whose integrity was checked.
    pub fn decode(message: &Message) -> Result<Self, StunError> {
        expect(message, Method::BIND, Class::Request)?;
        let [high, low, _, _] = array(message, Attribute::CHANNEL_NUMBER)?;
        let channel = u16::from_be_bytes([high, low]);
        if !CHANNELS.contains(&channel) {
            return Err(malformed(Attribute::CHANNEL_NUMBER));
        }
        Ok(Self {
            from: MemberId(array(message, Attribute::CAMP_FROM)?),
            to: MemberId(array(message, Attribute::CAMP_TO)?),
            channel,
            release: message.u32(Attribute::LIFETIME)? == Some(0),
        })
    }
}

/// Success without content of its own (Signal, Bind); Find's carries `entries`, of which those are left out that would
/// make it larger than [`MAX_MESSAGE`] or more than [`MAX_ENTRIES`].
pub fn encode_success(request: &Message, entries: &[Entry], key: &[u8; 32]) -> Vec<u8> {
    let mut builder = Builder::answer(Class::Success, request);
    for entry in entries.iter().take(MAX_ENTRIES) {
        if builder.size() + entry.encoded_len() + SHA256_SIZE <= MAX_MESSAGE {
            builder = add_entries(builder, std::slice::from_ref(entry));
        }
    }
    builder.finish_sha256(key)
}

/// The entries of a success response (Find).
pub fn decode_entries(message: &Message) -> Result<Vec<Entry>, StunError> {
    expect(message, message.method(), Class::Success)?;
    entries_of(message)
}

/// What an error response to a campfire request says (docs/protocol.md lists the codes: 400, 401 with nonce and server
/// time, 403, 404 no such member, 420, 438 stale nonce, 486 too many, 508 full).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Code, 300 to 699.
    pub code: u16,
    /// Reason phrase, for people; read without control characters.
    pub reason: String,
    /// NONCE to use, with 401 and 438.
    pub nonce: Option<String>,
    /// CAMP-TIME: the server's clock, with 401.
    pub unix_millis: Option<u64>,
}

impl Failure {
    /// Encodes; `key` where the request's integrity was right.
    pub fn encode(&self, request: &Message, key: Option<&[u8; 32]>) -> Vec<u8> {
        let builder = Builder::answer(Class::Error, request)
            .error_code(self.code, &self.reason)
            .optional(Attribute::NONCE, self.nonce.as_ref().map(String::as_bytes))
            .optional(Attribute::CAMP_TIME, self.unix_millis.map(u64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
        match key {
            Some(key) => builder.finish_sha256(key),
            None => builder.finish(),
        }
    }

    /// Reads from an error response.
    pub fn decode(message: &Message) -> Result<Self, StunError> {
        expect(message, message.method(), Class::Error)?;
        let (code, reason) = message.error_code().ok_or(malformed(Attribute::ERROR_CODE))?;
        Ok(Self {
            code,
            reason: for_people(reason),
            nonce: text(message, Attribute::NONCE)?.map(str::to_owned),
            unix_millis: message.array(Attribute::CAMP_TIME)?.map(u64::from_be_bytes),
        })
    }
}

impl Cursor {
    /// Incarnation, then sequence, big-endian.
    fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.incarnation) << 64 | u128::from(self.sequence)).to_be_bytes()
    }

    fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        Self { incarnation: (both >> 64) as u64, sequence: both as u64 }
    }
}

fn request(method: Method, transaction: TransactionId, auth: &Auth<'_>) -> Builder {
    Builder::new(Class::Request, method, transaction)
        .attribute(Attribute::USERNAME, auth.user_name.as_bytes())
        .optional(Attribute::NONCE, auth.nonce.map(str::as_bytes))
}

fn expect(message: &Message, method: Method, class: Class) -> Result<(), StunError> {
    let fits = message.as_bytes().len() <= MAX_MESSAGE;
    if fits && message.method() == method && message.class() == class { Ok(()) } else { Err(StunError::Unexpected) }
}

fn malformed(attribute: Attribute) -> StunError {
    StunError::Malformed(attribute.0)
}

fn array<const N: usize>(message: &Message, attribute: Attribute) -> Result<[u8; N], StunError> {
    message.array(attribute)?.ok_or(StunError::Missing(attribute.0))
}

fn text(message: &Message, attribute: Attribute) -> Result<Option<&str>, StunError> {
    let text = message.text(attribute)?;
    if text.is_some_and(|text| text.len() > MAX_TEXT) { Err(malformed(attribute)) } else { Ok(text) }
}

/// A text of a server's, fit for a log.
fn for_people(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

fn add_entries(mut builder: Builder, entries: &[Entry]) -> Builder {
    for entry in entries {
        let sealed = entry.announcement.as_deref().unwrap_or_default();
        builder = builder.attribute(Attribute::CAMP_ENTRY, &[&entry.member.0, sealed].concat());
    }
    builder
}

fn entries_of(message: &Message) -> Result<Vec<Entry>, StunError> {
    let decode = |value: &[u8]| {
        let (member, sealed) = value.split_first_chunk::<16>()?;
        let announcement = if sealed.is_empty() { None } else { Some(sealed.to_vec()) };
        (sealed.len() <= MAX_SEALED).then_some(Entry { member: MemberId(*member), announcement })
    };
    if message.all(Attribute::CAMP_ENTRY).nth(MAX_ENTRIES).is_some() {
        return Err(malformed(Attribute::CAMP_ENTRY));
    }
    message.all(Attribute::CAMP_ENTRY).map(|value| decode(value).ok_or(malformed(Attribute::CAMP_ENTRY))).collect()
}

fn encode_tags(tags: &[Tag]) -> Vec<u8> {
    tags.iter().flat_map(|tag| tag.0).collect()
}

fn decode_tags(message: &Message, most: usize) -> Result<Vec<Tag>, StunError> {
    let (tags, rest) = message.get(Attribute::CAMP_TAGS).unwrap_or_default().as_chunks::<8>();
    if tags.len() > most || !rest.is_empty() {
        return Err(malformed(Attribute::CAMP_TAGS));
    }
    Ok(tags.iter().map(|tag| Tag(*tag)).collect())
}
