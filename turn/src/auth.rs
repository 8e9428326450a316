//! Who may use the server: secrets and users, integrity keys, nonces.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use campfire_protocol::credential;
use campfire_protocol::key::{Fingerprint, RelaySecret, hmac_sha256};
use campfire_protocol::stun::{Attribute, Builder, Message, StunError};
use campfire_protocol::time::{Time, UnixMillis};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::io::Via;

/// What the server holds of its users. `Debug` shows how many, never the secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    campfires: BTreeMap<Fingerprint, RelaySecret>,
    rest: Vec<RelaySecret>,
    users: BTreeMap<String, Zeroizing<String>>,
}

impl Secrets {
    /// Nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves a campfire: its members may camp and relay to each other, nothing else.
    pub fn add_campfire(&mut self, fingerprint: Fingerprint, secret: RelaySecret) {
        self.campfires.insert(fingerprint, secret);
    }

    /// Takes a TURN REST secret of another system: whoever has a credential made of it may allocate.
    pub fn add_rest(&mut self, secret: RelaySecret) {
        self.rest.push(secret);
    }

    /// Takes a user of standard TURN with a fixed password.
    pub fn add_user(&mut self, name: String, password: Zeroizing<String>) {
        self.users.insert(name, password);
    }

    /// The campfires served.
    pub fn fingerprints(&self) -> impl Iterator<Item = Fingerprint> {
        self.campfires.keys().copied()
    }

    /// The secret of a campfire.
    pub(crate) fn campfire(&self, fingerprint: Fingerprint) -> Option<&RelaySecret> {
        self.campfires.get(&fingerprint)
    }

    /// Whether a standard credential proved by this source is still one.
    pub(crate) fn covers(&self, source: &Source) -> bool {
        match source {
            Source::User { name, password } => self.users.get(name) == Some(password),
            Source::Rest(secret) => self.rest.contains(secret),
        }
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({} campfires, {} REST secrets, {} users)", self.campfires.len(), self.rest.len(), self.users.len())
    }
}

/// By what a user of standard TURN was proved.
#[derive(Clone)]
pub(crate) enum Source {
    /// A static user.
    User { name: String, password: Zeroizing<String> },
    /// One of the REST secrets.
    Rest(RelaySecret),
}

/// A user for quotas and ownership: the static name, or the identity in a REST user name (which outlives its expiry).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// Whether it is a REST identity: the two kinds do not meet.
    pub rest: bool,
    pub name: String,
}

impl Hash for User {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// With what to sign the answers to a request.
pub(crate) struct Key {
    bytes: Zeroizing<Vec<u8>>,
    /// MESSAGE-INTEGRITY-SHA256, or MESSAGE-INTEGRITY.
    sha256: bool,
}

impl Key {
    /// A key for MESSAGE-INTEGRITY-SHA256.
    pub fn sha256(key: &[u8]) -> Self {
        Self { bytes: Zeroizing::new(key.to_vec()), sha256: true }
    }

    pub fn finish(&self, builder: Builder) -> Vec<u8> {
        if self.sha256 { builder.finish_sha256(&self.bytes) } else { builder.finish_sha1(&self.bytes) }
    }

    fn verify(&self, message: &Message) -> Result<(), StunError> {
        if self.sha256 { message.verify_sha256(&self.bytes) } else { message.verify_sha1(&self.bytes) }
    }
}

/// A standard request whose integrity is right.
pub(crate) struct Standard {
    pub user: User,
    pub source: Source,
    pub key: Key,
    /// Of a REST credential, seconds since 1970.
    pub expiry: Option<u64>,
}

/// Why a standard request's credentials are not taken (RFC 8489 §9.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No integrity: the usual first request. 401.
    Absent,
    /// USERNAME, REALM or NONCE missing or not as RFC 8489 wants it, or the offered algorithms were tampered with. 400.
    Malformed,
    /// Unknown user. 401.
    User,
    /// A campfire's credentials. 403: they camp and relay to members, nothing else.
    Campfire,
    /// Wrong password. 401.
    Integrity,
}

/// PASSWORD-ALGORITHMS as offered: SHA-256, MD5, without parameters (RFC 8489 §14.11).
pub(crate) const PASSWORD_ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];
const MD5: [u8; 4] = [0, 1, 0, 0];
const SHA256: [u8; 4] = [0, 2, 0, 0];

/// Checks a request of standard TURN: long-term credentials (RFC 8489 §9.2), of a static user or of TURN REST. The nonce
/// and a REST credential's expiry are the caller's to check.
pub(crate) fn standard(secrets: &Secrets, realm: &str, message: &Message) -> Result<Standard, Refusal> {
    let sha256 = message.get(Attribute::MESSAGE_INTEGRITY_SHA256).is_some();
    if !sha256 && message.get(Attribute::MESSAGE_INTEGRITY).is_none() {
        return Err(Refusal::Absent);
    }
    let text = |attribute| message.text(attribute).ok().flatten().ok_or(Refusal::Malformed);
    let (name, nonce) = (text(Attribute::USERNAME)?, text(Attribute::NONCE)?);
    text(Attribute::REALM)?;
    let algorithm = match (message.get(Attribute::PASSWORD_ALGORITHMS), message.get(Attribute::PASSWORD_ALGORITHM)) {
        (None, None) => MD5,
        // A nonce without the bit for password algorithms is not ours, and will be found stale.
        _ if !nonce.starts_with(COOKIE) => MD5,
        // Bid-down protection: what the client saw offered must be what was offered (RFC 8489 §9.2.4).
        (Some(offered), Some(chosen)) if offered == PASSWORD_ALGORITHMS => match chosen {
            chosen if chosen == MD5 => MD5,
            chosen if chosen == SHA256 => SHA256,
            _ => return Err(Refusal::Malformed),
        },
        _ => return Err(Refusal::Malformed),
    };
    let key = |password: &str| {
        let bytes = if algorithm == SHA256 {
            Zeroizing::new(credential::long_term_key_sha256(name, realm, password).to_vec())
        } else {
            Zeroizing::new(credential::long_term_key_md5(name, realm, password).to_vec())
        };
        Key { bytes, sha256 }
    };
    if let Some(password) = secrets.users.get(name) {
        let key = key(password);
        key.verify(message).map_err(|_| Refusal::Integrity)?;
        let source = Source::User { name: name.to_owned(), password: password.clone() };
        return Ok(Standard { user: User { rest: false, name: name.to_owned() }, source, key, expiry: None });
    }
    let (expiry, identity) = credential::parse_user_name(name).ok_or(Refusal::User)?;
    for secret in &secrets.rest {
        let key = key(&credential::password(secret, name));
        if key.verify(message).is_ok() {
            let user = User { rest: true, name: identity.to_owned() };
            return Ok(Standard { user, source: Source::Rest(secret.clone()), key, expiry: Some(expiry) });
        }
    }
    if let Some(secret) = identity.parse().ok().and_then(|fingerprint| secrets.campfire(fingerprint))
        && key(&credential::password(secret, name)).verify(message).is_ok()
    {
        return Err(Refusal::Campfire);
    }
    Err(if secrets.rest.is_empty() { Refusal::User } else { Refusal::Integrity })
}

/// A campfire request whose integrity is right.
pub(crate) struct Camper {
    pub fingerprint: Fingerprint,
    /// Seconds since 1970.
    pub expiry: u64,
    pub key: Zeroizing<[u8; 32]>,
}

/// Checks a campfire request's integrity; `None`: no such campfire, or wrong.
pub(crate) fn camper(secrets: &Secrets, message: &Message) -> Option<Camper> {
    let name = message.text(Attribute::USERNAME).ok()??;
    let (expiry, identity) = credential::parse_user_name(name)?;
    let fingerprint = identity.parse().ok()?;
    let key = credential::campfire_key(secrets.campfire(fingerprint)?, name);
    message.verify_sha256(key.as_ref()).ok()?;
    Some(Camper { fingerprint, expiry, key })
}

/// Nonce cookie and security features (RFC 8489 §9.2, §18.1): password algorithms, which is bit 0, the leftmost.
const COOKIE: &str = "obMatJos2gAAA";
/// Bytes of the MAC in a nonce.
const MAC: usize = 14;

/// What a nonce says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NonceState {
    /// Ours, for this source, and fresh.
    Fresh {
        /// When it was given out.
        issued: Time,
    },
    /// Too old, of another source or of an earlier run.
    Stale,
}

/// Makes and checks nonces without remembering them: a time and a MAC over it and the source.
pub(crate) struct Nonces {
    key: Zeroizing<[u8; 32]>,
}

impl Nonces {
    pub fn new(key: [u8; 32]) -> Self {
        Self { key: Zeroizing::new(key) }
    }

    /// A nonce for a source; 37 characters.
    pub fn issue(&self, now: Time, via: &Via) -> String {
        // Rounded down: a nonce ends up to a second early.
        let seconds = (now.as_micros() / 1_000_000) as u32;
        let mut bytes = [0; 4 + MAC];
        bytes[..4].copy_from_slice(&seconds.to_be_bytes());
        bytes[4..].copy_from_slice(&self.mac(seconds, via));
        format!("{COOKIE}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What this nonce is worth from this source.
    pub fn check(&self, now: Time, lifetime: std::time::Duration, via: &Via, nonce: &str) -> NonceState {
        let mut bytes = [0; 4 + MAC];
        let encoded = nonce.strip_prefix(COOKIE).filter(|rest| rest.len() == 24);
        if encoded.and_then(|rest| URL_SAFE_NO_PAD.decode_slice(rest, &mut bytes).ok()) != Some(bytes.len()) {
            return NonceState::Stale;
        }
        let seconds = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if !bool::from(self.mac(seconds, via).ct_eq(&bytes[4..])) {
            return NonceState::Stale;
        }
        let issued = Time::from_micros(u64::from(seconds) * 1_000_000);
        if now.since(issued) > lifetime { NonceState::Stale } else { NonceState::Fresh { issued } }
    }

    /// What tells a client that two ways to a server end at this process: another server cannot learn it, for it is told another one.
    pub fn instance(&self, client: IpAddr) -> [u8; 8] {
        let mac = hmac_sha256(self.key.as_ref(), &[b"instance", &octets(client)]);
        let mut out = [0; 8];
        out.copy_from_slice(&mac[..8]);
        out
    }

    fn mac(&self, seconds: u32, via: &Via) -> [u8; MAC] {
        let remote = via.remote();
        let ip = octets(remote.ip());
        let stream = [u8::from(matches!(via, Via::Stream { .. }))];
        let mac = hmac_sha256(self.key.as_ref(), &[b"nonce", &seconds.to_be_bytes(), &ip, &remote.port().to_be_bytes(), &stream]);
        let mut out = [0; MAC];
        out.copy_from_slice(&mac[..MAC]);
        out
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Whether a credential that ends at `expiry` (seconds since 1970) was valid `ago` before now. A credential is looked at
/// when it is first used and when a nonce is renewed: it must have been valid when the nonce in use was given out.
pub(crate) fn unexpired(expiry: u64, wall: UnixMillis, ago: std::time::Duration) -> bool {
    let then = wall.0.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
    expiry.saturating_mul(1_000) >= then
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::io::ListenerId;

    #[test]
    fn a_nonce_is_good_for_its_source_and_its_time_alone() {
        let nonces = Nonces::new([7; 32]);
        let udp = |remote: &str| Via::Udp { listener: ListenerId(0), remote: remote.parse().expect("an address") };
        let (via, lifetime) = (udp("192.0.2.1:4000"), Duration::from_mins(10));
        let issued = Time::from_micros(90_000_000);
        let nonce = nonces.issue(issued, &via);
        assert_eq!(nonces.check(issued + lifetime, lifetime, &via, &nonce), NonceState::Fresh { issued });
        assert_eq!(nonces.check(issued + lifetime + Duration::from_secs(1), lifetime, &via, &nonce), NonceState::Stale);
        for other in [udp("192.0.2.1:4001"), udp("192.0.2.2:4000"), Via::Stream { stream: crate::io::StreamId(1), remote: via.remote() }] {
            assert_eq!(nonces.check(issued, lifetime, &other, &nonce), NonceState::Stale);
        }
        for forged in ["", "obMatJos2", &nonce[1..], &nonce[..36], &format!("{nonce}A"), &nonce.replace('2', "3")] {
            assert_eq!(nonces.check(issued, lifetime, &via, forged), NonceState::Stale, "{forged}");
        }
        assert_eq!(Nonces::new([8; 32]).check(issued, lifetime, &via, &nonce), NonceState::Stale);
    }

    #[test]
    fn an_instance_is_that_of_the_process_and_of_who_asks() {
        let (one, other) = (Nonces::new([7; 32]), Nonces::new([8; 32]));
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(one.instance(ip("192.0.2.1")), one.instance(ip("192.0.2.1")));
        assert_ne!(one.instance(ip("192.0.2.1")), one.instance(ip("192.0.2.2")), "what one client is told is of no use with another");
        assert_ne!(one.instance(ip("192.0.2.1")), other.instance(ip("192.0.2.1")));
    }

    #[test]
    fn the_nonce_cookie_says_password_algorithms_and_nothing_else() {
        assert_eq!(STANDARD.decode(&COOKIE[9..]).expect("base64"), [0x80, 0, 0]);
    }
}
