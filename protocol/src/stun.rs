//! STUN messages (RFC 8489): building, reading, integrity. The codec is `rtc-stun`; integrity with SHA-256 (RFC 8489
//! §14.6), bounds on what is read before it is authenticated, and TURN's attributes (RFC 8656 §18) are added here.

use std::net::SocketAddr;

/// Class of a message (RFC 8489 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Expects an answer.
    Request,
    /// Expects none.
    Indication,
    /// Success response.
    Success,
    /// Error response.
    Error,
}

/// Method: 12 bits, of which only 0x000–0x0FF are assigned (RFC 8489 §18.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(pub u16);

#[expect(missing_docs, reason = "names of the RFCs")]
impl Method {
    pub const BINDING: Method = Method(0x001);
    pub const ALLOCATE: Method = Method(0x003);
    pub const REFRESH: Method = Method(0x004);
    pub const SEND: Method = Method(0x006);
    pub const DATA: Method = Method(0x007);
    pub const CREATE_PERMISSION: Method = Method(0x008);
    pub const CHANNEL_BIND: Method = Method(0x009);
    pub const CAMP: Method = Method(0x0F1);
    pub const EMBER: Method = Method(0x0F2);
    pub const FIND: Method = Method(0x0F3);
    pub const SIGNAL: Method = Method(0x0F4);
    pub const BIND: Method = Method(0x0F5);
}

/// Attribute type. Below 0x8000: comprehension-required.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attribute(pub u16);

#[expect(missing_docs, reason = "names of the RFCs; the CAMP_ ones are explained in `wire`")]
impl Attribute {
    pub const MAPPED_ADDRESS: Attribute = Attribute(0x0001);
    pub const USERNAME: Attribute = Attribute(0x0006);
    pub const MESSAGE_INTEGRITY: Attribute = Attribute(0x0008);
    pub const ERROR_CODE: Attribute = Attribute(0x0009);
    pub const UNKNOWN_ATTRIBUTES: Attribute = Attribute(0x000A);
    pub const CHANNEL_NUMBER: Attribute = Attribute(0x000C);
    pub const LIFETIME: Attribute = Attribute(0x000D);
    pub const XOR_PEER_ADDRESS: Attribute = Attribute(0x0012);
    pub const DATA: Attribute = Attribute(0x0013);
    pub const REALM: Attribute = Attribute(0x0014);
    pub const NONCE: Attribute = Attribute(0x0015);
    pub const XOR_RELAYED_ADDRESS: Attribute = Attribute(0x0016);
    pub const REQUESTED_ADDRESS_FAMILY: Attribute = Attribute(0x0017);
    pub const EVEN_PORT: Attribute = Attribute(0x0018);
    pub const REQUESTED_TRANSPORT: Attribute = Attribute(0x0019);
    pub const DONT_FRAGMENT: Attribute = Attribute(0x001A);
    pub const MESSAGE_INTEGRITY_SHA256: Attribute = Attribute(0x001C);
    pub const PASSWORD_ALGORITHM: Attribute = Attribute(0x001D);
    pub const USERHASH: Attribute = Attribute(0x001E);
    pub const XOR_MAPPED_ADDRESS: Attribute = Attribute(0x0020);
    pub const RESERVATION_TOKEN: Attribute = Attribute(0x0022);
    pub const PADDING: Attribute = Attribute(0x0026);
    pub const ADDITIONAL_ADDRESS_FAMILY: Attribute = Attribute(0x8000);
    pub const ADDRESS_ERROR_CODE: Attribute = Attribute(0x8001);
    pub const PASSWORD_ALGORITHMS: Attribute = Attribute(0x8002);
    pub const ALTERNATE_DOMAIN: Attribute = Attribute(0x8003);
    pub const ICMP: Attribute = Attribute(0x8004);
    pub const SOFTWARE: Attribute = Attribute(0x8022);
    pub const ALTERNATE_SERVER: Attribute = Attribute(0x8023);
    pub const FINGERPRINT: Attribute = Attribute(0x8028);

    pub const CAMP_ROOM: Attribute = Attribute(0x4C01);
    pub const CAMP_TOKEN: Attribute = Attribute(0x4C02);
    pub const CAMP_FROM: Attribute = Attribute(0x4C03);
    pub const CAMP_TO: Attribute = Attribute(0x4C04);
    pub const CAMP_TIME: Attribute = Attribute(0x4C05);
    pub const CAMP_ANNOUNCEMENT: Attribute = Attribute(0x4C06);
    pub const CAMP_TAGS: Attribute = Attribute(0x4C07);
    pub const CAMP_CURSOR: Attribute = Attribute(0x4C08);
    pub const CAMP_PREVIOUS_CURSOR: Attribute = Attribute(0x4C09);
    pub const CAMP_HEAD: Attribute = Attribute(0x4C0A);
    pub const CAMP_ENTRY: Attribute = Attribute(0x4C0B);
    pub const CAMP_RESET: Attribute = Attribute(0x4C0C);
    pub const CAMP_MEMBERS: Attribute = Attribute(0x4C0D);
    pub const CAMP_SERVER_ID: Attribute = Attribute(0x4C0E);
    pub const CAMP_DATA: Attribute = Attribute(0x4C0F);
    pub const CAMP_LEAVING: Attribute = Attribute(0x4C10);
}

/// Transaction id (RFC 8489 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub [u8; 12]);

/// Largest campfire message that is built or taken, in bytes (a relayed frame delivered as a Signal may be larger).
pub const MAX_MESSAGE: usize = 1_200;

/// Why bytes are not a STUN message that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StunError {
    /// Not a STUN message at all (RFC 8489 §5).
    #[error("not a STUN message")]
    NotStun,
    /// Attributes run past the end, or there are more than we are willing to look at.
    #[error("attributes malformed")]
    Attributes,
    /// An attribute asked for is missing.
    #[error("attribute {0:#06x} missing")]
    Missing(u16),
    /// An attribute has the wrong size or content.
    #[error("attribute {0:#06x} malformed")]
    Malformed(u16),
    /// Integrity missing or wrong.
    #[error("integrity missing or wrong")]
    Integrity,
}

/// A received message.
pub struct Message {
    _inner: rtc_stun::message::Message,
}

impl Message {
    /// Reads a whole datagram (or one frame of a stream): length must fit exactly, at most 32 attributes.
    pub fn parse(_bytes: &[u8]) -> Result<Self, StunError> {
        todo!()
    }
    /// Class.
    pub fn class(&self) -> Class {
        todo!()
    }
    /// Method.
    pub fn method(&self) -> Method {
        todo!()
    }
    /// Transaction.
    pub fn transaction(&self) -> TransactionId {
        todo!()
    }
    /// First attribute of this type, if present (of those before an integrity attribute: RFC 8489 §14.5 says to ignore
    /// what follows one, except the other integrity and FINGERPRINT).
    pub fn get(&self, _attribute: Attribute) -> Option<&[u8]> {
        todo!()
    }
    /// All attributes of this type.
    pub fn all(&self, _attribute: Attribute) -> impl Iterator<Item = &[u8]> {
        std::iter::empty()
    }
    /// `get` or [`StunError::Missing`].
    pub fn require(&self, attribute: Attribute) -> Result<&[u8], StunError> {
        self.get(attribute).ok_or(StunError::Missing(attribute.0))
    }
    /// A u32 attribute (LIFETIME …).
    pub fn u32(&self, _attribute: Attribute) -> Result<Option<u32>, StunError> {
        todo!()
    }
    /// A UTF-8 attribute of at most 508 bytes (USERNAME, REALM, NONCE …).
    pub fn text(&self, _attribute: Attribute) -> Result<Option<&str>, StunError> {
        todo!()
    }
    /// An XOR-…-ADDRESS attribute.
    pub fn xor_address(&self, _attribute: Attribute) -> Result<Option<SocketAddr>, StunError> {
        todo!()
    }
    /// ERROR-CODE: number and reason.
    pub fn error_code(&self) -> Option<(u16, &str)> {
        todo!()
    }
    /// Comprehension-required attributes that are in neither `known` nor the standard set of RFC 8489/8656.
    pub fn unknown_required(&self, _known: &[Attribute]) -> Vec<u16> {
        todo!()
    }
    /// MESSAGE-INTEGRITY-SHA256 present and right (constant time).
    pub fn verify_sha256(&self, _key: &[u8]) -> Result<(), StunError> {
        todo!()
    }
    /// MESSAGE-INTEGRITY (HMAC-SHA1) present and right (constant time).
    pub fn verify_sha1(&self, _key: &[u8]) -> Result<(), StunError> {
        todo!()
    }
}

/// Builds a message. Attributes go out in the order of the calls.
pub struct Builder {
    _inner: rtc_stun::message::Message,
}

impl Builder {
    /// Starts one.
    pub fn new(_class: Class, _method: Method, _transaction: TransactionId) -> Self {
        todo!()
    }
    /// Adds an attribute.
    #[must_use]
    pub fn attribute(self, _attribute: Attribute, _value: &[u8]) -> Self {
        todo!()
    }
    /// Adds a u32 attribute.
    #[must_use]
    pub fn u32(self, attribute: Attribute, value: u32) -> Self {
        self.attribute(attribute, &value.to_be_bytes())
    }
    /// Adds an XOR-…-ADDRESS attribute.
    #[must_use]
    pub fn xor_address(self, _attribute: Attribute, _address: SocketAddr) -> Self {
        todo!()
    }
    /// Adds ERROR-CODE.
    #[must_use]
    pub fn error_code(self, _code: u16, _reason: &str) -> Self {
        todo!()
    }
    /// Pads the message with PADDING so that, with MESSAGE-INTEGRITY-SHA256 after it, it has `size` bytes (a multiple of 4); no-op if longer.
    #[must_use]
    pub fn pad_before_sha256(self, _size: usize) -> Self {
        todo!()
    }
    /// Bytes so far.
    pub fn size(&self) -> usize {
        todo!()
    }
    /// Adds MESSAGE-INTEGRITY-SHA256 and ends.
    pub fn finish_sha256(self, _key: &[u8]) -> Vec<u8> {
        todo!()
    }
    /// Adds MESSAGE-INTEGRITY (HMAC-SHA1) and ends.
    pub fn finish_sha1(self, _key: &[u8]) -> Vec<u8> {
        todo!()
    }
    /// Ends without integrity.
    pub fn finish(self) -> Vec<u8> {
        todo!()
    }
}
