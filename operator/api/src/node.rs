//! What operator, sidecar and a node's agent (`campfire-node`) say to each other, so that a pod without any right has an interface of the mesh
//! (docs/decisions/0031).
//!
//! The operator signs a [`Grant`], which says what one pod's interface is made of, and gives it to the pod's sidecar. The sidecar shows it to its node's
//! agent: one [`Request`] on a connection (`AF_UNIX`, `SOCK_SEQPACKET`) to the socket [`NODE_SOCKET`](crate::names::NODE_SOCKET) in
//! [`NODE_DIR`](crate::names::NODE_DIR), and one [`Answer`]. Each is one packet of at most [`MAX_MESSAGE`] bytes; numbers are big-endian. With the answer
//! [`Answer::Made`] to a request for the device comes the descriptor of the TUN device (`SCM_RIGHTS`): non-blocking, with a `virtio_net_hdr` before
//! each packet, as large as it takes them.
//!
//! | message | bytes |
//! | --- | --- |
//! | grant | version 1 · length of the uid, uid · MTU (2) · count, addresses · count, routes |
//! | signed grant | grant · signature (64): Ed25519 (RFC 8032) of `"campfire/2 node grant"` and the grant |
//! | request | version 1 · flags (1: the device is wanted) · length (2), signed grant · count, addresses that stay outside |
//! | answer | version 1 · 0, or why not ([`Reason`]) · words for people, UTF-8 |
//!
//! An address is its family (4 or 6) and 4 or 16 bytes; one of a network has the prefix's length behind it. Each value has one encoding, and nothing may
//! follow it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use ipnet::IpNet;

/// Largest message, bytes.
pub const MAX_MESSAGE: usize = 8 * 1024;
/// Most addresses of an interface.
pub const MAX_ADDRESSES: usize = 4;
/// Most routes of an interface.
pub const MAX_ROUTES: usize = 64;
/// Most addresses that a pod may keep outside.
pub const MAX_OUTSIDE: usize = 16;
/// Longest uid of a pod, bytes.
pub const MAX_UID: usize = 64;
/// Smallest and largest MTU of an interface, bytes.
pub const MTU: std::ops::RangeInclusive<u16> = 1280..=9000;
/// Longest words of an answer, bytes.
pub const MAX_WORDS: usize = 512;

const VERSION: u8 = 1;
const SIGNATURE: usize = 64;
const DOMAIN: &[u8] = b"campfire/2 node grant";
const WANTS_DEVICE: u8 = 1;

/// What one pod's interface is made of. Holds as long as the pod lives: a uid never comes twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The pod's uid: letters, digits and `-`, 1 to [`MAX_UID`].
    pub pod_uid: String,
    /// MTU, bytes, in [`MTU`].
    pub mtu: u16,
    /// Its addresses with the lengths of their networks, 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<IpNet>,
    /// Networks that are routed into the mesh, without host bits, at most [`MAX_ROUTES`].
    pub routes: Vec<IpNet>,
}

/// Why a message or a grant is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends too early, or something follows it.
    #[error("its length is not what it says")]
    Length,
    /// Of another version.
    #[error("it is of version {0}, and this program knows version {VERSION}: are operator, sidecar and node agent of the same release?")]
    Version(u8),
    /// More than one may be.
    #[error("it has too many or too few {0}")]
    Count(&'static str),
    /// A value that cannot be.
    #[error("its {0} cannot be")]
    Value(&'static str),
    /// The operator did not sign it.
    #[error("it is not signed by this cluster's operator")]
    Signature,
}

impl Grant {
    /// Encodes it, and signs it with the operator's key.
    ///
    /// # Errors
    /// It breaks one of the bounds that its fields name.
    pub fn sign(&self, key: &GrantKey) -> Result<Vec<u8>, Malformed> {
        let mut bytes = self.encode()?;
        let signature = key.0.sign(&statement(&bytes));
        bytes.extend(signature.to_bytes());
        Ok(bytes)
    }

    /// Reads a signed grant. Nothing of it is looked at before its signature.
    ///
    /// # Errors
    /// Not signed by this key, or not a grant.
    pub fn verify(signed: &[u8], key: &GrantPublicKey) -> Result<Self, Malformed> {
        let (grant, signature) = signed.split_last_chunk::<SIGNATURE>().ok_or(Malformed::Length)?;
        // Strict: no second signature of the same bytes, no key that signs everything.
        key.0.verify_strict(&statement(grant), &Signature::from_bytes(signature)).map_err(|_| Malformed::Signature)?;
        Self::decode(grant)
    }

    fn encode(&self) -> Result<Vec<u8>, Malformed> {
        self.check()?;
        let mut bytes = vec![VERSION];
        bytes.push(self.pod_uid.len() as u8);
        bytes.extend(self.pod_uid.as_bytes());
        bytes.extend(self.mtu.to_be_bytes());
        for nets in [&self.addresses, &self.routes] {
            bytes.push(nets.len() as u8);
            for net in nets {
                put_address(&mut bytes, net.addr());
                bytes.push(net.prefix_len());
            }
        }
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes)?;
        let length = usize::from(reader.byte()?);
        let pod_uid = String::from_utf8(reader.bytes(length)?.to_vec()).map_err(|_| Malformed::Value("pod's uid"))?;
        let mtu = reader.number()?;
        let addresses = reader.nets(MAX_ADDRESSES, "addresses")?;
        let routes = reader.nets(MAX_ROUTES, "routes")?;
        reader.end()?;
        let grant = Self { pod_uid, mtu, addresses, routes };
        grant.check()?;
        Ok(grant)
    }

    fn check(&self) -> Result<(), Malformed> {
        if !is_pod_uid(&self.pod_uid) {
            return Err(Malformed::Value("pod's uid"));
        }
        if !MTU.contains(&self.mtu) {
            return Err(Malformed::Value("MTU"));
        }
        if !(1..=MAX_ADDRESSES).contains(&self.addresses.len()) {
            return Err(Malformed::Count("addresses"));
        }
        if self.routes.len() > MAX_ROUTES {
            return Err(Malformed::Count("routes"));
        }
        if self.addresses.iter().any(|net| net.addr().is_unspecified() || net.addr().is_multicast() || net.addr().is_loopback()) {
            return Err(Malformed::Value("addresses"));
        }
        if self.routes.iter().any(|net| net.trunc() != *net) {
            return Err(Malformed::Value("routes"));
        }
        Ok(())
    }
}

/// What is signed: of nothing else that the project signs does the beginning look so.
fn statement(grant: &[u8]) -> Vec<u8> {
    [DOMAIN, grant].concat()
}

/// Whether a text can be a pod's uid: it is part of paths, and so nothing else.
pub fn is_pod_uid(text: &str) -> bool {
    (1..=MAX_UID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The operator's key for grants. Secret.
#[derive(Clone)]
pub struct GrantKey(SigningKey);

impl GrantKey {
    /// From its seed (RFC 8032 private key), 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// What agents know it by.
    pub fn public(&self) -> GrantPublicKey {
        GrantPublicKey(self.0.verifying_key())
    }
}

impl fmt::Debug for GrantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrantKey({})", self.public())
    }
}

/// By what an agent knows its operator. In text 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantPublicKey(VerifyingKey);

impl fmt::Display for GrantPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.as_bytes()))
    }
}

impl FromStr for GrantPublicKey {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| Malformed::Value("public key"))?;
        let key = VerifyingKey::from_bytes(&bytes).ok().filter(|key| !key.is_weak());
        key.map(Self).ok_or(Malformed::Value("public key"))
    }
}

/// What a sidecar asks of its node's agent: bring the interface to this grant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// A descriptor of the device is wanted. A device has one user at a time: who has one, and wants the interface brought to a newer grant, asks
    /// without.
    pub device: bool,
    /// The signed grant, as the operator gave it. Empty: there is none.
    pub grant: Vec<u8>,
    /// What must stay reachable outside the mesh, whatever routes the grant has: the operator's agent, the API server, name servers; at most
    /// [`MAX_OUTSIDE`]. Of the pod's own saying, for it is the pod alone that it concerns.
    pub outside: Vec<IpAddr>,
}

impl Request {
    /// As it is sent.
    ///
    /// # Errors
    /// It breaks a bound.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let length = u16::try_from(self.grant.len()).map_err(|_| Malformed::Length)?;
        let mut bytes = vec![VERSION, if self.device { WANTS_DEVICE } else { 0 }];
        bytes.extend(length.to_be_bytes());
        bytes.extend(&self.grant);
        let count = u8::try_from(self.outside.len()).ok().filter(|count| usize::from(*count) <= MAX_OUTSIDE);
        bytes.push(count.ok_or(Malformed::Count("addresses outside"))?);
        self.outside.iter().for_each(|address| put_address(&mut bytes, *address));
        if bytes.len() > MAX_MESSAGE { Err(Malformed::Length) } else { Ok(bytes) }
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// It is no request of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_MESSAGE {
            return Err(Malformed::Length);
        }
        let mut reader = Reader::new(bytes)?;
        let flags = reader.byte()?;
        if flags & !WANTS_DEVICE != 0 {
            return Err(Malformed::Value("flags"));
        }
        let length = usize::from(reader.number()?);
        let grant = reader.bytes(length)?.to_vec();
        let count = reader.count(MAX_OUTSIDE, "addresses outside")?;
        let outside = (0..count).map(|_| reader.address()).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { device: flags & WANTS_DEVICE != 0, grant, outside })
    }
}

/// Why an agent does not do what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The pod shows no grant: it is nobody's member.
    NotMember,
    /// The grant is another pod's.
    WrongPod,
    /// The grant is not signed by the operator whose key the agent has: ask the operator for another.
    BadSignature,
    /// The message is none, or of another version.
    BadRequest,
    /// The pod asked too often: at most once a second.
    TooMany,
    /// The agent has too much to do, does not know its node yet, or another process of the pod uses the device.
    Busy,
    /// The agent has no key of an operator yet.
    NoKey,
    /// The pod has the node's own network.
    HostNetwork,
    /// The kernel refused.
    Failed,
    /// What another version of the agent means by this number.
    Other(u8),
}

impl Reason {
    const ALL: [Self; 9] = [
        Self::NotMember,
        Self::WrongPod,
        Self::BadSignature,
        Self::BadRequest,
        Self::TooMany,
        Self::Busy,
        Self::NoKey,
        Self::HostNetwork,
        Self::Failed,
    ];

    /// Its number in an answer.
    pub fn code(self) -> u8 {
        match self {
            Self::NotMember => 1,
            Self::WrongPod => 2,
            Self::BadSignature => 3,
            Self::BadRequest => 4,
            Self::TooMany => 5,
            Self::Busy => 6,
            Self::NoKey => 7,
            Self::HostNetwork => 8,
            Self::Failed => 9,
            Self::Other(code) => code,
        }
    }

    /// Of a number that is not 0.
    pub fn of(code: u8) -> Self {
        Self::ALL.into_iter().find(|reason| reason.code() == code).unwrap_or(Self::Other(code))
    }

    /// As it is written in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotMember => "NotMember",
            Self::WrongPod => "WrongPod",
            Self::BadSignature => "BadSignature",
            Self::BadRequest => "BadRequest",
            Self::TooMany => "TooMany",
            Self::Busy => "Busy",
            Self::NoKey => "NoKey",
            Self::HostNetwork => "HostNetwork",
            Self::Failed => "Failed",
            Self::Other(_) => "Other",
        }
    }

    /// Whether the same request may be answered otherwise later.
    pub fn may_pass(self) -> bool {
        match self {
            Self::TooMany | Self::Busy | Self::NoKey | Self::Failed | Self::Other(_) => true,
            Self::NotMember | Self::WrongPod | Self::BadSignature | Self::BadRequest | Self::HostNetwork => false,
        }
    }
}

/// Why not, and for people: what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {words}", reason.name())]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// For people; at most [`MAX_WORDS`] bytes are sent.
    pub words: String,
}

impl Refusal {
    /// With words.
    pub fn new(reason: Reason, words: impl Into<String>) -> Self {
        Self { reason, words: words.into() }
    }
}

/// What an agent answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The interface is as the grant says; the descriptor comes along if it was asked for.
    Made,
    /// It is not.
    Refused(Refusal),
}

impl Answer {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Made => vec![VERSION, 0],
            Self::Refused(Refusal { reason, words }) => {
                let mut bytes = vec![VERSION, reason.code().max(1)];
                bytes.extend(words.get(..words.floor_char_boundary(MAX_WORDS)).unwrap_or_default().as_bytes());
                bytes
            }
        }
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// It is no answer of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes)?;
        let code = reader.byte()?;
        if code == 0 {
            reader.end()?;
            return Ok(Self::Made);
        }
        if reader.0.len() > MAX_WORDS {
            return Err(Malformed::Length);
        }
        let words = String::from_utf8(reader.0.to_vec()).map_err(|_| Malformed::Value("words"))?;
        Ok(Self::Refused(Refusal { reason: Reason::of(code), words }))
    }
}

fn put_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            bytes.push(4);
            bytes.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes.push(6);
            bytes.extend(v6.octets());
        }
    }
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Behind the version, which has to be ours.
    fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.split_first() {
            None => Err(Malformed::Length),
            Some((&VERSION, rest)) => Ok(Self(rest)),
            Some((&other, _)) => Err(Malformed::Version(other)),
        }
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn count(&mut self, most: usize, what: &'static str) -> Result<usize, Malformed> {
        let count = usize::from(self.byte()?);
        if count > most { Err(Malformed::Count(what)) } else { Ok(count) }
    }

    fn address(&mut self) -> Result<IpAddr, Malformed> {
        match self.byte()? {
            4 => self.array::<4>().map(IpAddr::from),
            6 => self.array::<16>().map(IpAddr::from),
            _ => Err(Malformed::Value("family of an address")),
        }
    }

    fn nets(&mut self, most: usize, what: &'static str) -> Result<Vec<IpNet>, Malformed> {
        let count = self.count(most, what)?;
        (0..count)
            .map(|_| {
                let address = self.address()?;
                IpNet::new(address, self.byte()?).map_err(|_| Malformed::Value(what))
            })
            .collect()
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_read_as_it_was_signed_and_by_its_operators_key_alone() {
        let (key, other) = (GrantKey::from_seed(&[1; 32]), GrantKey::from_seed(&[2; 32]));
        let signed = grant().sign(&key).unwrap();
        assert_eq!(Grant::verify(&signed, &key.public()), Ok(grant()));
        assert_eq!(Grant::verify(&signed, &other.public()), Err(Malformed::Signature));
        for at in 0..signed.len() {
            let mut forged = signed.clone();
            forged[at] ^= 1;
            assert_eq!(Grant::verify(&forged, &key.public()), Err(Malformed::Signature), "byte {at}");
        }
        for length in 0..signed.len() {
            assert!(Grant::verify(&signed[..length], &key.public()).is_err(), "{length} bytes of it");
        }
        // The same bytes, signed for something else.
        let body = &signed[..signed.len() - SIGNATURE];
        let elsewhere = [body, &key.0.sign(body).to_bytes()].concat();
        assert_eq!(Grant::verify(&elsewhere, &key.public()), Err(Malformed::Signature));
    }

    #[test]
    fn the_encoding_of_a_grant_is_this() {
        let bytes = Grant { routes: vec!["10.0.0.0/8".parse().unwrap()], ..grant() }.encode().unwrap();
        let mut wanted = vec![1, 3];
        wanted.extend(b"u-1");
        wanted.extend([0x05, 0x78, 2, 6]);
        wanted.extend("fd01:203::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        wanted.extend([48, 4, 100, 80, 0, 7, 16, 1, 4, 10, 0, 0, 0, 8]);
        assert_eq!(bytes, wanted);
    }

    #[test]
    fn a_grant_beyond_its_bounds_is_neither_signed_nor_read() {
        let key = GrantKey::from_seed(&[1; 32]);
        let route = |n: u8| IpNet::new([10, n, 0, 0].into(), 16).unwrap();
        let full = Grant { routes: (0..64).map(route).collect(), pod_uid: "u".repeat(64), ..grant() };
        let signed = full.sign(&key).unwrap();
        assert_eq!(Grant::verify(&signed, &key.public()), Ok(full.clone()));
        assert!(Request { device: true, grant: signed, outside: vec!["::1".parse().unwrap(); 16] }.encode().is_ok());
        let wrong = [
            (Grant { routes: (0..65).map(route).collect(), ..grant() }, Malformed::Count("routes")),
            (Grant { routes: vec!["10.0.0.1/8".parse().unwrap()], ..grant() }, Malformed::Value("routes")),
            (Grant { addresses: Vec::new(), ..grant() }, Malformed::Count("addresses")),
            (Grant { addresses: vec![route(1); 5], ..grant() }, Malformed::Count("addresses")),
            (Grant { addresses: vec!["127.0.0.1/8".parse().unwrap()], ..grant() }, Malformed::Value("addresses")),
            (Grant { mtu: 1279, ..grant() }, Malformed::Value("MTU")),
            (Grant { mtu: 9001, ..grant() }, Malformed::Value("MTU")),
            (Grant { pod_uid: String::new(), ..grant() }, Malformed::Value("pod's uid")),
            (Grant { pod_uid: "u".repeat(65), ..grant() }, Malformed::Value("pod's uid")),
            (Grant { pod_uid: "../u".into(), ..grant() }, Malformed::Value("pod's uid")),
        ];
        for (grant, why) in wrong {
            assert_eq!(grant.sign(&key), Err(why), "{grant:?}");
        }
    }

    #[test]
    fn requests_and_answers_are_read_as_they_were_written() {
        let request =
            Request { device: true, grant: vec![7; 100], outside: vec!["10.96.0.10".parse().unwrap(), "fd00::a".parse().unwrap()] };
        for request in [Request::default(), Request { device: false, ..request.clone() }, request] {
            let bytes = request.encode().unwrap();
            assert_eq!(Request::decode(&bytes), Ok(request));
            for length in 0..bytes.len() {
                assert!(Request::decode(&bytes[..length]).is_err(), "{length}");
            }
            assert_eq!(Request::decode(&[&bytes[..], &[0]].concat()), Err(Malformed::Length));
        }
        let refusals = Reason::ALL.into_iter().chain([Reason::Other(200)]).map(|reason| Answer::Refused(Refusal::new(reason, "because")));
        for answer in refusals.chain([Answer::Made]) {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        let long = Answer::Refused(Refusal::new(Reason::Failed, "ä".repeat(400)));
        assert_eq!(Answer::decode(&long.encode()), Ok(Answer::Refused(Refusal::new(Reason::Failed, "ä".repeat(256)))));
    }

    #[test]
    fn another_version_is_told_as_that_and_more_than_may_be_is_refused() {
        assert_eq!(Request::decode(&[2, 0]), Err(Malformed::Version(2)));
        assert_eq!(Answer::decode(&[9]), Err(Malformed::Version(9)));
        assert_eq!(Request::decode(&[1, 2, 0, 0, 0]), Err(Malformed::Value("flags")));
        assert_eq!(Request::decode(&[1, 0, 0, 0, 17]), Err(Malformed::Count("addresses outside")));
        assert_eq!(Request::decode(&vec![1; MAX_MESSAGE + 1]), Err(Malformed::Length));
        let request = Request { grant: vec![0; MAX_MESSAGE], ..Request::default() };
        assert_eq!(request.encode(), Err(Malformed::Length));
        assert!(Answer::decode(&[&[1, 1][..], &[b'x'; 513]].concat()).is_err());
    }

    #[test]
    fn a_public_key_is_hex_and_one_that_signs_everything_is_none() {
        let key = GrantKey::from_seed(&[1; 32]).public();
        assert_eq!(format!("{key}\n").parse(), Ok(key));
        let identity = format!("01{}", "00".repeat(31));
        for text in ["", "00", &identity, &"zz".repeat(32)] {
            assert!(text.parse::<GrantPublicKey>().is_err(), "{text}");
        }
        assert!(!format!("{:?}", GrantKey::from_seed(&[1; 32])).contains(&"01".repeat(32)));
    }

    fn grant() -> Grant {
        Grant {
            pod_uid: "u-1".into(),
            mtu: 1400,
            addresses: vec!["fd01:203::7/48".parse().unwrap(), "100.80.0.7/16".parse().unwrap()],
            routes: Vec::new(),
        }
    }
}
