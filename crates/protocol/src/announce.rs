//! Sealed and signed announcements, and the server records of origins (docs/protocol.md, "Announcements", "Servers").

use std::net::Ipv4Addr;

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use ipnet::IpNet;
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use crate::cbor::{self, Malformed, MapWriter, Written, infallible};
use crate::identity::{Identity, PublicKey};
use crate::key::{Fingerprint, Keys};
use crate::server::{Scope, Server, ServerAddress, ServerId, ServerTag, Transport, canonical_host};
use crate::time::UnixMillis;
use crate::wire::MemberId;

/// Which run of a peer speaks: ordered by start time, then the random part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// Milliseconds since 1970, server-corrected, when the run began.
    pub started: UnixMillis,
    /// 8 random bytes.
    pub nonce: u64,
}

/// What a member says of itself. Immutable once signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Who speaks.
    pub public_key: PublicKey,
    /// Which run of it.
    pub session: Session,
    /// Counts up within the session with each change.
    pub sequence: u32,
    /// When it was made, milliseconds since 1970, server-corrected: more than 10 minutes ahead is dropped.
    pub sent_at: UnixMillis,
    /// Display data: name, namespace, cluster. Sanitised when read: printable, at most 63 characters each, may be empty.
    pub name: String,
    /// See `name`.
    pub namespace: String,
    /// See `name`.
    pub cluster: String,
    /// Keys held (accepted or announced), newest first; at most 4.
    pub fingerprints: Vec<Fingerprint>,
    /// Servers camped on, best first; at most 8.
    pub servers: Vec<ServerTag>,
    /// Routes offered; at most 8. Count only where local configuration accepts them.
    pub routes: Vec<IpNet>,
    /// IPv4 address claimed in the pool.
    pub ipv4: Option<Ipv4Addr>,
    /// Feature bits: [`NO_TUNNEL`].
    pub features: u32,
    /// A server record, if this member is an origin.
    pub record: Option<ServerRecord>,
}

/// A list of servers that an origin stands for; part of its announcement and so signed and sealed with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRecord {
    /// Counts up with each change.
    pub version: u64,
    /// At most 8. Must fit the announcement's limit of 700 bytes.
    pub servers: Vec<Server>,
}

/// Largest sealed announcement, in bytes.
pub const MAX_SEALED: usize = 700;

/// Feature bit of a member without a tunnel: it sits at the fire to publish servers and to see who is there. Nobody links to it.
pub const NO_TUNNEL: u32 = 1;

/// Why a sealed announcement was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AnnouncementError {
    /// Does not open under this key for this room and member.
    #[error("does not open")]
    Sealed,
    /// Opens, but is not a well-formed announcement.
    #[error("malformed")]
    Malformed,
    /// Well formed, but the signature is not that of the key it names.
    #[error("wrongly signed")]
    Signature,
    /// Larger than [`MAX_SEALED`] when sealed.
    #[error("too large")]
    TooLarge,
}

/// Most characters of a display name.
pub const MAX_NAME: usize = 63;
/// Most fingerprints in an announcement.
pub const MAX_FINGERPRINTS: usize = 4;
/// Most servers in an announcement, and in a server record.
pub const MAX_SERVERS: usize = 8;
/// Most routes in an announcement.
pub const MAX_ROUTES: usize = 8;
/// Most addresses of one server in a server record.
pub const MAX_ADDRESSES: usize = 4;

const VERSION: u8 = 2;
pub(crate) const SIGNATURE_LABEL: &[u8] = b"campfire/2 announcement";
pub(crate) const SEAL_LABEL: &[u8] = b"campfire/2 announce";

/// Keys of the map. 14 is reserved.
mod key {
    pub const VERSION: u64 = 0;
    pub const PUBLIC_KEY: u64 = 1;
    pub const SESSION: u64 = 2;
    pub const SEQUENCE: u64 = 3;
    pub const SENT_AT: u64 = 4;
    pub const NAME: u64 = 5;
    pub const NAMESPACE: u64 = 6;
    pub const CLUSTER: u64 = 7;
    pub const FINGERPRINTS: u64 = 8;
    pub const SERVERS: u64 = 9;
    pub const ROUTES: u64 = 10;
    pub const IPV4: u64 = 11;
    pub const FEATURES: u64 = 12;
    pub const RECORD: u64 = 13;
}

impl Announcement {
    /// Whether links to this member can be made: see [`NO_TUNNEL`].
    pub fn has_tunnel(&self) -> bool {
        self.features & NO_TUNNEL == 0
    }

    /// Signs, encodes and seals for one seat. `nonce` must be random. Names are sanitised on the way.
    ///
    /// # Errors
    /// `TooLarge` if the result would exceed [`MAX_SEALED`] or a list its limit; `Signature` if `identity` is not that of
    /// `public_key`.
    pub fn seal(&self, identity: &Identity, keys: &Keys, member: &MemberId, nonce: &[u8; 24]) -> Result<Vec<u8>, AnnouncementError> {
        if identity.public() != self.public_key {
            return Err(AnnouncementError::Signature);
        }
        let outer = self.write_signed(identity, keys, member)?;
        let aad = bound(SEAL_LABEL, keys, member, &[]);
        let payload = Payload { msg: &outer, aad: &aad };
        let cipher = XChaCha20Poly1305::new((&*keys.announce).into());
        let sealed = cipher.encrypt(nonce.into(), payload).map_err(|_| AnnouncementError::TooLarge)?;
        let sealed = [nonce.as_slice(), &sealed].concat();
        if sealed.len() > MAX_SEALED { Err(AnnouncementError::TooLarge) } else { Ok(sealed) }
    }

    /// Opens, decodes, verifies and sanitises.
    pub fn open(sealed: &[u8], keys: &Keys, member: &MemberId) -> Result<Self, AnnouncementError> {
        if sealed.len() > MAX_SEALED {
            return Err(AnnouncementError::TooLarge);
        }
        let (nonce, ciphertext) = sealed.split_first_chunk::<24>().ok_or(AnnouncementError::Sealed)?;
        let aad = bound(SEAL_LABEL, keys, member, &[]);
        let cipher = XChaCha20Poly1305::new((&*keys.announce).into());
        let outer = cipher.decrypt(nonce.into(), Payload { msg: ciphertext, aad: &aad }).map_err(|_| AnnouncementError::Sealed)?;
        Self::read_signed(&outer, keys, member)
    }

    /// What [`Announcement::open`] does after decryption: takes the CBOR array `[content, signature]`.
    pub fn read_signed(outer: &[u8], keys: &Keys, member: &MemberId) -> Result<Self, AnnouncementError> {
        let (content, signature) = cbor::signed(outer).map_err(|Malformed| AnnouncementError::Malformed)?;
        let announcement = Self::decode(content).map_err(|Malformed| AnnouncementError::Malformed)?;
        if !announcement.public_key.verify(&bound(SIGNATURE_LABEL, keys, member, content), &signature) {
            return Err(AnnouncementError::Signature);
        }
        Ok(announcement)
    }

    /// What is sealed: the CBOR array `[content, signature]`.
    pub(crate) fn write_signed(&self, identity: &Identity, keys: &Keys, member: &MemberId) -> Result<Vec<u8>, AnnouncementError> {
        let content = self.encode()?;
        let signature = identity.sign(&bound(SIGNATURE_LABEL, keys, member, &content));
        let mut outer = Encoder::new(Vec::with_capacity(MAX_SEALED));
        infallible(&cbor::write_signed(&mut outer, &content, &signature));
        Ok(outer.into_writer())
    }

    /// The map, keys ascending, absent or empty values left out.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, AnnouncementError> {
        let record = self.record.as_ref();
        if self.fingerprints.len() > MAX_FINGERPRINTS
            || self.servers.len() > MAX_SERVERS
            || self.routes.len() > MAX_ROUTES
            || record.is_some_and(|record| record.servers.len() > MAX_SERVERS)
            || record.is_some_and(|record| record.servers.iter().any(|server| server.addresses.len() > MAX_ADDRESSES))
        {
            return Err(AnnouncementError::TooLarge);
        }
        let mut map = MapWriter::default();
        map.entry(key::VERSION, |e| e.u8(VERSION)?.ok());
        map.entry(key::PUBLIC_KEY, |e| e.bytes(self.public_key.as_bytes())?.ok());
        map.entry(key::SESSION, |e| {
            let both = u128::from(self.session.started.0) << 64 | u128::from(self.session.nonce);
            e.bytes(&both.to_be_bytes())?.ok()
        });
        map.entry(key::SEQUENCE, |e| e.u32(self.sequence)?.ok());
        map.entry(key::SENT_AT, |e| e.u64(self.sent_at.0)?.ok());
        for (key, name) in [(key::NAME, &self.name), (key::NAMESPACE, &self.namespace), (key::CLUSTER, &self.cluster)] {
            let name = display_name(name);
            if !name.is_empty() {
                map.entry(key, |e| e.str(&name)?.ok());
            }
        }
        if !self.fingerprints.is_empty() {
            let bytes: Vec<u8> = self.fingerprints.iter().flat_map(|fingerprint| fingerprint.0).collect();
            map.entry(key::FINGERPRINTS, |e| e.bytes(&bytes)?.ok());
        }
        if !self.servers.is_empty() {
            let bytes: Vec<u8> = self.servers.iter().flat_map(|tag| tag.0).collect();
            map.entry(key::SERVERS, |e| e.bytes(&bytes)?.ok());
        }
        if !self.routes.is_empty() {
            map.entry(key::ROUTES, |e| {
                e.array(self.routes.len() as u64)?;
                self.routes.iter().try_for_each(|route| e.bytes(&cbor::route_to_bytes(*route))?.ok())
            });
        }
        if let Some(ipv4) = self.ipv4 {
            map.entry(key::IPV4, |e| e.bytes(&ipv4.octets())?.ok());
        }
        if self.features != 0 {
            map.entry(key::FEATURES, |e| e.u32(self.features)?.ok());
        }
        if let Some(record) = record {
            map.entry(key::RECORD, |e| write_record(e, record));
        }
        Ok(map.finish())
    }

    fn decode(content: &[u8]) -> Result<Self, Malformed> {
        let (mut public_key, mut session, mut sequence, mut sent_at) = (None, None, None, None);
        let (mut name, mut namespace, mut cluster) = (String::new(), String::new(), String::new());
        let (mut fingerprints, mut servers, mut routes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ipv4, mut features, mut record) = (None, 0, None);
        cbor::map(content, |d, key| {
            match key {
                key::VERSION if d.u64()? != u64::from(VERSION) => return Err(Malformed),
                key::VERSION => {}
                key::PUBLIC_KEY => public_key = Some(PublicKey::from_bytes(cbor::exact(d)?).map_err(|_| Malformed)?),
                key::SESSION => {
                    let both = u128::from_be_bytes(cbor::exact(d)?);
                    session = Some(Session { started: UnixMillis((both >> 64) as u64), nonce: both as u64 });
                }
                key::SEQUENCE => sequence = Some(d.u32()?),
                key::SENT_AT => sent_at = Some(UnixMillis(d.u64()?)),
                key::NAME => name = display_name(d.str()?),
                key::NAMESPACE => namespace = display_name(d.str()?),
                key::CLUSTER => cluster = display_name(d.str()?),
                key::FINGERPRINTS => fingerprints = cbor::pieces(d, MAX_FINGERPRINTS)?.into_iter().map(Fingerprint).collect(),
                key::SERVERS => servers = cbor::pieces(d, MAX_SERVERS)?.into_iter().map(ServerTag).collect(),
                key::ROUTES => routes = cbor::list(d, MAX_ROUTES, |d| cbor::route(d.bytes()?))?,
                key::IPV4 => ipv4 = Some(Ipv4Addr::from(cbor::exact::<4>(d)?)),
                key::FEATURES => features = d.u32()?,
                key::RECORD => record = Some(read_record(d)?),
                _ => d.skip()?,
            }
            Ok(())
        })?;
        Ok(Self {
            public_key: public_key.ok_or(Malformed)?,
            session: session.ok_or(Malformed)?,
            sequence: sequence.ok_or(Malformed)?,
            sent_at: sent_at.ok_or(Malformed)?,
            name,
            namespace,
            cluster,
            fingerprints,
            servers,
            routes,
            ipv4,
            features,
            record,
        })
    }
}

/// A name fit for people's eyes: printable characters alone (no controls, no text direction marks, nothing invisible), at
/// most [`MAX_NAME`] of them, no white space around.
pub fn display_name(text: &str) -> String {
    // What `escape_debug` leaves alone is printable; it escapes quotes and backslashes too, which may stay.
    let printable = |c: &char| matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1;
    let kept: String = text.chars().filter(printable).take(MAX_NAME).collect();
    kept.trim().to_owned()
}

/// What a signature or a seal is bound to, then `content`.
pub(crate) fn bound(label: &[u8], keys: &Keys, member: &MemberId, content: &[u8]) -> Vec<u8> {
    [label, &keys.room.0, &member.0, content].concat()
}

fn write_record(encoder: &mut Encoder<Vec<u8>>, record: &ServerRecord) -> Written {
    encoder.array(2)?.u64(record.version)?.array(record.servers.len() as u64)?;
    for server in &record.servers {
        encoder.array(3)?.str(server.id.as_str())?.array(server.addresses.len() as u64)?;
        for address in &server.addresses {
            let transport = match address.transport {
                Transport::Udp => 0,
                Transport::Tcp => 1,
                Transport::Tls => 2,
            };
            let scope = match address.scope {
                Scope::Cluster => 0,
                Scope::External => 1,
            };
            encoder.array(4)?.str(&address.host)?.u16(address.port)?.u8(transport)?.u8(scope)?;
        }
        match &server.certificate_pin {
            Some(pin) => encoder.bytes(pin)?,
            None => encoder.null()?,
        };
    }
    Ok(())
}

fn read_record(decoder: &mut Decoder<'_>) -> Result<ServerRecord, Malformed> {
    if cbor::array(decoder)? != 2 {
        return Err(Malformed);
    }
    Ok(ServerRecord { version: decoder.u64()?, servers: cbor::list(decoder, MAX_SERVERS, read_server)? })
}

fn read_server(decoder: &mut Decoder<'_>) -> Result<Server, Malformed> {
    if cbor::array(decoder)? != 3 {
        return Err(Malformed);
    }
    let id = ServerId::new(decoder.str()?).map_err(|_| Malformed)?;
    let addresses = cbor::list(decoder, MAX_ADDRESSES, read_address)?;
    let certificate_pin = if decoder.datatype()? == Type::Null {
        decoder.null()?;
        None
    } else {
        Some(cbor::exact(decoder)?)
    };
    if addresses.is_empty() { Err(Malformed) } else { Ok(Server { id, addresses, certificate_pin }) }
}

fn read_address(decoder: &mut Decoder<'_>) -> Result<ServerAddress, Malformed> {
    if cbor::array(decoder)? != 4 {
        return Err(Malformed);
    }
    let host = canonical_host(decoder.str()?).ok_or(Malformed)?;
    let port = decoder.u16()?;
    let transport = match decoder.u8()? {
        0 => Transport::Udp,
        1 => Transport::Tcp,
        2 => Transport::Tls,
        _ => return Err(Malformed),
    };
    let scope = match decoder.u8()? {
        0 => Scope::Cluster,
        1 => Scope::External,
        _ => return Err(Malformed),
    };
    if port == 0 { Err(Malformed) } else { Ok(ServerAddress { host, port, transport, scope }) }
}

#[cfg(test)]
mod tests;
