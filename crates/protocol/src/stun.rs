//! STUN messages (RFC 8489): building, reading, integrity. The codec is `rtc-stun`; integrity with SHA-256 (RFC 8489
//! §14.6), bounds on what is read before it is authenticated, and TURN's attributes (RFC 8656 §18) are added here.

use std::net::{IpAddr, SocketAddr};

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use rtc_stun::attributes::AttrType;
use sha1::Sha1;
use sha2::Sha256;

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
    pub const CAMP_INSTANCE: Attribute = Attribute(0x4C11);
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
    /// A message of another method or class than the one asked for.
    #[error("another method or class than expected")]
    Unexpected,
}

/// Header of a message, in bytes (RFC 8489 §5).
pub const HEADER: usize = 20;

/// Most attributes that a message may have. More are refused before anything is allocated.
pub const MAX_ATTRIBUTES: usize = 32;

/// Bytes that MESSAGE-INTEGRITY-SHA256 takes, its header included.
pub const SHA256_SIZE: usize = 36;

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

/// The attributes of RFC 8489 and RFC 8656 below 0x8000, and PADDING (RFC 5780): known to everybody.
const STANDARD: [Attribute; 20] = [
    Attribute::MAPPED_ADDRESS,
    Attribute::USERNAME,
    Attribute::MESSAGE_INTEGRITY,
    Attribute::ERROR_CODE,
    Attribute::UNKNOWN_ATTRIBUTES,
    Attribute::CHANNEL_NUMBER,
    Attribute::LIFETIME,
    Attribute::XOR_PEER_ADDRESS,
    Attribute::DATA,
    Attribute::REALM,
    Attribute::NONCE,
    Attribute::XOR_RELAYED_ADDRESS,
    Attribute::REQUESTED_ADDRESS_FAMILY,
    Attribute::EVEN_PORT,
    Attribute::REQUESTED_TRANSPORT,
    Attribute::DONT_FRAGMENT,
    Attribute::MESSAGE_INTEGRITY_SHA256,
    Attribute::XOR_MAPPED_ADDRESS,
    Attribute::RESERVATION_TOKEN,
    Attribute::PADDING,
];

/// A received message.
#[derive(Clone, Debug)]
pub struct Message {
    inner: rtc_stun::message::Message,
    /// Attributes before the first integrity attribute: all that counts of the content.
    covered: usize,
}

impl Message {
    /// Reads a whole datagram (or one frame of a stream): the length must fit exactly, at most [`MAX_ATTRIBUTES`]
    /// attributes.
    pub fn parse(bytes: &[u8]) -> Result<Self, StunError> {
        check_frame(bytes)?;
        let mut inner = rtc_stun::message::Message::default();
        inner.unmarshal_binary(bytes).map_err(|_| StunError::Attributes)?;
        let covered = inner.attributes.0.iter().position(|a| is_integrity(Attribute(a.typ.0))).unwrap_or(inner.attributes.0.len());
        Ok(Self { inner, covered })
    }

    /// Class.
    pub fn class(&self) -> Class {
        match self.inner.typ.value() & 0x0110 {
            0x0000 => Class::Request,
            0x0010 => Class::Indication,
            0x0100 => Class::Success,
            _ => Class::Error,
        }
    }

    /// Method.
    pub fn method(&self) -> Method {
        let word = self.inner.typ.value();
        Method(word & 0x000F | (word & 0x00E0) >> 1 | (word & 0x3E00) >> 2)
    }

    /// Transaction.
    pub fn transaction(&self) -> TransactionId {
        TransactionId(self.inner.transaction_id.0)
    }

    /// The message's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.inner.raw
    }

    /// First attribute of this type, if present (of those before an integrity attribute: RFC 8489 §14.5 says to ignore
    /// what follows one, except the other integrity and FINGERPRINT).
    pub fn get(&self, attribute: Attribute) -> Option<&[u8]> {
        self.all(attribute).next()
    }

    /// All attributes of this type; the rule of [`Message::get`] applies.
    pub fn all(&self, attribute: Attribute) -> impl Iterator<Item = &[u8]> {
        let end = if is_integrity(attribute) || attribute == Attribute::FINGERPRINT { usize::MAX } else { self.covered };
        self.inner.attributes.0.iter().take(end).filter(move |a| a.typ.0 == attribute.0).map(|a| a.value.as_slice())
    }

    /// `get` or [`StunError::Missing`].
    pub fn require(&self, attribute: Attribute) -> Result<&[u8], StunError> {
        self.get(attribute).ok_or(StunError::Missing(attribute.0))
    }

    /// An attribute of exactly `N` bytes, if present.
    pub fn array<const N: usize>(&self, attribute: Attribute) -> Result<Option<[u8; N]>, StunError> {
        self.get(attribute).map(|value| value.try_into().map_err(|_| StunError::Malformed(attribute.0))).transpose()
    }

    /// A u32 attribute (LIFETIME …).
    pub fn u32(&self, attribute: Attribute) -> Result<Option<u32>, StunError> {
        Ok(self.array(attribute)?.map(u32::from_be_bytes))
    }

    /// A UTF-8 attribute of at most 508 bytes (USERNAME, REALM, NONCE …).
    pub fn text(&self, attribute: Attribute) -> Result<Option<&str>, StunError> {
        let malformed = StunError::Malformed(attribute.0);
        match self.get(attribute) {
            None => Ok(None),
            Some(value) if value.len() > 508 => Err(malformed),
            Some(value) => std::str::from_utf8(value).map(Some).map_err(|_| malformed),
        }
    }

    /// An XOR-…-ADDRESS attribute (RFC 8489 §14.2).
    pub fn xor_address(&self, attribute: Attribute) -> Result<Option<SocketAddr>, StunError> {
        let Some(value) = self.get(attribute) else { return Ok(None) };
        decode_xor_address(value, self.transaction()).map(Some).ok_or(StunError::Malformed(attribute.0))
    }

    /// All XOR-…-ADDRESS attributes of this type, as CreatePermission may carry them (RFC 8656 §9.1).
    pub fn xor_addresses(&self, attribute: Attribute) -> Result<Vec<SocketAddr>, StunError> {
        let decode = |value| decode_xor_address(value, self.transaction()).ok_or(StunError::Malformed(attribute.0));
        self.all(attribute).map(decode).collect()
    }

    /// ERROR-CODE: number and reason (RFC 8489 §14.8).
    pub fn error_code(&self) -> Option<(u16, &str)> {
        let (head, reason) = self.get(Attribute::ERROR_CODE)?.split_first_chunk::<4>()?;
        let (class, number) = (u16::from(head[2] & 7), u16::from(head[3]));
        if !(3..=6).contains(&class) || number > 99 {
            return None;
        }
        Some((class * 100 + number, std::str::from_utf8(reason).ok()?))
    }

    /// Comprehension-required attributes that are in neither `known` nor the standard set of RFC 8489/8656.
    pub fn unknown_required(&self, known: &[Attribute]) -> Vec<u16> {
        let types = self.inner.attributes.0.iter().take(self.covered).map(|a| a.typ.0);
        let mut unknown: Vec<u16> =
            types.filter(|&t| t < 0x8000 && !known.contains(&Attribute(t)) && !STANDARD.contains(&Attribute(t))).collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    /// MESSAGE-INTEGRITY-SHA256 present, untruncated and right (constant time; RFC 8489 §14.6).
    pub fn verify_sha256(&self, key: &[u8]) -> Result<(), StunError> {
        self.verify::<Hmac<Sha256>>(key, Attribute::MESSAGE_INTEGRITY_SHA256)
    }

    /// MESSAGE-INTEGRITY (HMAC-SHA1) present and right (constant time; RFC 8489 §14.5).
    pub fn verify_sha1(&self, key: &[u8]) -> Result<(), StunError> {
        self.verify::<Hmac<Sha1>>(key, Attribute::MESSAGE_INTEGRITY)
    }

    fn verify<M: Mac + KeyInit>(&self, key: &[u8], attribute: Attribute) -> Result<(), StunError> {
        let raw = &self.inner.raw;
        // Where the integrity attribute begins: behind all attributes before it.
        let before = self.inner.attributes.0.iter().take_while(|a| a.typ.0 != attribute.0);
        let start = HEADER + before.map(|a| 4 + a.value.len().next_multiple_of(4)).sum::<usize>();
        let value = self.get(attribute).ok_or(StunError::Integrity)?;
        let (header, body) = (raw.get(..HEADER), raw.get(HEADER..start));
        let (Some(header), Some(body)) = (header, body) else { return Err(StunError::Integrity) };
        let mac = mac_of::<M>(key, header, body, value.len()).ok_or(StunError::Integrity)?;
        // Compares in constant time and takes the full length alone.
        mac.verify_slice(value).map_err(|_| StunError::Integrity)
    }
}

/// Builds a message. Attributes go out in the order of the calls. A value that would make the message longer than its
/// 16-bit length can say is left out; whoever sends what others chose checks [`Builder::size`] first.
pub struct Builder {
    inner: rtc_stun::message::Message,
}

impl Builder {
    /// Starts one. Of `method` 12 bits count.
    pub fn new(class: Class, method: Method, transaction: TransactionId) -> Self {
        let mut inner = rtc_stun::message::Message::new();
        let class = match class {
            Class::Request => 0x0000,
            Class::Indication => 0x0010,
            Class::Success => 0x0100,
            Class::Error => 0x0110,
        };
        let method = method.0;
        inner.typ.read_value(class | method & 0x000F | (method & 0x0070) << 1 | (method & 0x0F80) << 2);
        inner.transaction_id.0 = transaction.0;
        inner.write_header();
        Self { inner }
    }

    /// Starts the answer to a request.
    pub fn answer(class: Class, request: &Message) -> Self {
        Self::new(class, request.method(), request.transaction())
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, attribute: Attribute, value: &[u8]) -> Self {
        if u16::try_from(self.size() + 4 + value.len().next_multiple_of(4) + SHA256_SIZE).is_ok() {
            self.inner.add(AttrType(attribute.0), value);
        }
        self
    }

    /// Adds an attribute if there is a value.
    #[must_use]
    pub fn optional(self, attribute: Attribute, value: Option<&[u8]>) -> Self {
        match value {
            Some(value) => self.attribute(attribute, value),
            None => self,
        }
    }

    /// Adds a u32 attribute.
    #[must_use]
    pub fn u32(self, attribute: Attribute, value: u32) -> Self {
        self.attribute(attribute, &value.to_be_bytes())
    }

    /// Adds an XOR-…-ADDRESS attribute (RFC 8489 §14.2).
    #[must_use]
    pub fn xor_address(self, attribute: Attribute, address: SocketAddr) -> Self {
        let mask = xor_mask(TransactionId(self.inner.transaction_id.0));
        let port = address.port() ^ u16::from_be_bytes([mask[0], mask[1]]);
        let mut value = vec![0, if address.is_ipv4() { 1 } else { 2 }];
        value.extend_from_slice(&port.to_be_bytes());
        match address.ip() {
            IpAddr::V4(ip) => value.extend(ip.octets().iter().zip(mask).map(|(byte, mask)| byte ^ mask)),
            IpAddr::V6(ip) => value.extend(ip.octets().iter().zip(mask).map(|(byte, mask)| byte ^ mask)),
        }
        self.attribute(attribute, &value)
    }

    /// Adds ERROR-CODE (RFC 8489 §14.8); `code` from 300 to 699.
    #[must_use]
    pub fn error_code(self, code: u16, reason: &str) -> Self {
        let mut value = vec![0, 0, (code / 100) as u8, (code % 100) as u8];
        value.extend_from_slice(reason.as_bytes());
        self.attribute(Attribute::ERROR_CODE, &value)
    }

    /// Pads the message with PADDING so that, with MESSAGE-INTEGRITY-SHA256 after it, it has `size` bytes (a multiple of 4); no-op if longer.
    #[must_use]
    pub fn pad_before_sha256(self, size: usize) -> Self {
        match size.checked_sub(self.size() + SHA256_SIZE + 4) {
            Some(padding) => self.attribute(Attribute::PADDING, &vec![0; padding]),
            None => self,
        }
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        self.inner.raw.len()
    }

    /// Adds MESSAGE-INTEGRITY-SHA256 and ends.
    pub fn finish_sha256(self, key: &[u8]) -> Vec<u8> {
        self.finish_with::<Hmac<Sha256>>(key, Attribute::MESSAGE_INTEGRITY_SHA256)
    }

    /// Adds MESSAGE-INTEGRITY (HMAC-SHA1) and ends.
    pub fn finish_sha1(self, key: &[u8]) -> Vec<u8> {
        self.finish_with::<Hmac<Sha1>>(key, Attribute::MESSAGE_INTEGRITY)
    }

    /// Ends without integrity.
    pub fn finish(self) -> Vec<u8> {
        self.inner.raw
    }

    fn finish_with<M: Mac + KeyInit>(mut self, key: &[u8], attribute: Attribute) -> Vec<u8> {
        let raw = &self.inner.raw;
        if let Some((header, body)) = raw.split_at_checked(HEADER)
            && let Some(mac) = mac_of::<M>(key, header, body, M::output_size())
        {
            self.inner.add(AttrType(attribute.0), &mac.finalize().into_bytes());
        }
        self.inner.raw
    }
}

/// The frame without its meaning: header, exact length, attributes that fit and are few.
fn check_frame(bytes: &[u8]) -> Result<(), StunError> {
    let (header, mut rest) = bytes.split_first_chunk::<HEADER>().ok_or(StunError::NotStun)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] & 0xC0 != 0 || header[4..8] != MAGIC_COOKIE || length != rest.len() || length % 4 != 0 {
        return Err(StunError::NotStun);
    }
    for _ in 0..MAX_ATTRIBUTES {
        let Some((head, tail)) = rest.split_first_chunk::<4>() else { break };
        let padded = usize::from(u16::from_be_bytes([head[2], head[3]])).next_multiple_of(4);
        rest = tail.get(padded..).ok_or(StunError::Attributes)?;
    }
    if rest.is_empty() { Ok(()) } else { Err(StunError::Attributes) }
}

fn is_integrity(attribute: Attribute) -> bool {
    matches!(attribute, Attribute::MESSAGE_INTEGRITY | Attribute::MESSAGE_INTEGRITY_SHA256)
}

/// The MAC over header and body, the header's length saying that an integrity attribute of `value` bytes is the last
/// (RFC 8489 §14.5).
fn mac_of<M: Mac + KeyInit>(key: &[u8], header: &[u8], body: &[u8], value: usize) -> Option<M> {
    let length = u16::try_from(body.len() + 4 + value).ok()?;
    let mut mac = <M as Mac>::new_from_slice(key).ok()?;
    mac.update(header.get(..2)?);
    mac.update(&length.to_be_bytes());
    mac.update(header.get(4..)?);
    mac.update(body);
    Some(mac)
}

fn xor_mask(transaction: TransactionId) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE);
    mask[4..].copy_from_slice(&transaction.0);
    mask
}

fn xor<const N: usize>(value: &[u8], mask: &[u8; 16]) -> Option<[u8; N]> {
    let mut out: [u8; N] = value.try_into().ok()?;
    out.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    Some(out)
}

fn decode_xor_address(value: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    let mask = xor_mask(transaction);
    let (&[_, family, port_high, port_low], rest) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([port_high ^ mask[0], port_low ^ mask[1]]);
    let ip = match family {
        1 => IpAddr::from(xor::<4>(rest, &mask)?),
        2 => IpAddr::from(xor::<16>(rest, &mask)?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}
