//! The pre-shared key and everything derived from it (docs/protocol.md, "Keys").

use std::fmt;
use std::str::FromStr;

use crate::identity::NetworkId;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A pre-shared key: 32 random bytes. Never printed: `Debug` shows the fingerprint.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Psk([u8; 32]);

/// Why a text is not a key. Never echoes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a campfire key: expected 43 characters of base64url (as `campfire key new` prints) or 64 hex digits, found {length} characters"
)]
pub struct ParseKeyError {
    /// Characters found, surrounding white space left out.
    pub length: usize,
}

/// How a key is used (docs/protocol.md, "Rotation").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyMode {
    /// Be met under it: sit in its room too, but use those of announced keys where both sides have one.
    Accept,
    /// Meet under it.
    Announce,
}

/// Most keys that are held at once (docs/protocol.md, "Rotation").
pub const MAX_KEYS: usize = 4;

/// A key, or the name of a file with one, behind how it is used: `accept:` or `announce:` may precede it.
pub fn split_mode(text: &str, default: KeyMode) -> (KeyMode, &str) {
    match text.split_once(':') {
        Some(("accept", rest)) => (KeyMode::Accept, rest.trim()),
        Some(("announce", rest)) => (KeyMode::Announce, rest.trim()),
        _ => (default, text),
    }
}

/// Keys as a key file or a Secret holds them, newest first: one a line, `accept:` or `announce:` may precede (else `mode`); empty lines
/// and lines that begin with `#` are skipped. May be none, or more than can be held.
pub fn parse_keys(text: &str, mode: KeyMode) -> Result<Vec<(Psk, KeyMode)>, ParseKeyError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| split_mode(line, mode)).map(|(mode, key)| Ok((key.parse()?, mode))).collect()
}

/// The text that [`parse_keys`] reads. Secret.
pub fn keys_text(keys: &[(Psk, KeyMode)]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(keys.len() * 64));
    for (psk, mode) in keys {
        if *mode == KeyMode::Accept {
            text.push_str("accept:");
        }
        text.push_str(&psk.to_text());
        text.push('\n');
    }
    text
}

impl Psk {
    /// A key of these bytes, which must be random.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key as base64url without padding, 43 characters. Secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0))
    }

    /// Everything derived from this key.
    pub fn derive(&self) -> Keys {
        let hkdf = Hkdf::<Sha256>::new(Some(b"campfire/2"), &self.0);
        let derive = |label: &str| {
            let mut out = Zeroizing::new([0; 32]);
            // 32 bytes are always a valid HKDF-SHA256 length.
            let _ = hkdf.expand(label.as_bytes(), out.as_mut());
            out
        };
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&derive("fingerprint")[..8]);
        let mut network = [0; 5];
        network.copy_from_slice(&derive("network")[..5]);
        Keys {
            fingerprint: Fingerprint(fingerprint),
            network: NetworkId(network),
            room: RoomId(*derive("room")),
            server: derive("server"),
            announce: derive("announce"),
            signal: derive("signal"),
            tag: derive("tag"),
            relay: RelaySecret::from_text(&Zeroizing::new(URL_SAFE_NO_PAD.encode(*derive("relay")))),
            wireguard: derive("wireguard"),
        }
    }
}

impl FromStr for Psk {
    type Err = ParseKeyError;

    /// Takes 43 characters of base64url without padding or 64 hex digits; white space around is ignored.
    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let text = text.trim();
        let error = ParseKeyError { length: text.chars().count() };
        let bytes = match text.len() {
            43 => Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| error)?),
            64 => Zeroizing::new(hex::decode(text).map_err(|_| error)?),
            _ => return Err(error),
        };
        let array: [u8; 32] = bytes.as_slice().try_into().map_err(|_| error)?;
        Ok(Self(array))
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Psk({})", self.derive().fingerprint)
    }
}

/// Names a key in status, logs and TURN user names; safe to show. 16 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 8]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = hex::FromHexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 8];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// The room that the holders of one key share on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomId(pub [u8; 32]);

/// The TURN REST secret of a campfire: all that a server holds of it. In text 43 characters of base64url; the text's bytes
/// are the HMAC key (as in `draft-uberti-behave-turn-rest`).
#[derive(Clone, PartialEq, Eq)]
pub struct RelaySecret(Zeroizing<String>);

impl RelaySecret {
    /// A secret with this text (any non-empty text: a server may hold secrets of other systems too).
    pub fn from_text(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The text. Secret.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RelaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelaySecret(..)")
    }
}

/// What is derived from a [`Psk`]: one value per use.
#[derive(Clone)]
pub struct Keys {
    /// Names the key; safe to show.
    pub fingerprint: Fingerprint,
    /// The network id of a mesh that began with this key and carries no other.
    pub network: NetworkId,
    /// The room, seen by servers.
    pub room: RoomId,
    /// The TURN REST secret, held by servers.
    pub relay: RelaySecret,
    pub(crate) server: Zeroizing<[u8; 32]>,
    pub(crate) announce: Zeroizing<[u8; 32]>,
    #[cfg_attr(not(test), expect(dead_code, reason = "reserved: signals carry WireGuard messages as they are (docs/protocol.md)"))]
    pub(crate) signal: Zeroizing<[u8; 32]>,
    pub(crate) tag: Zeroizing<[u8; 32]>,
    pub(crate) wireguard: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// The WireGuard preshared key of a pair: `HMAC-SHA256(derive(wireguard), lower X25519 key ‖ higher)`.
    pub fn wireguard_preshared(&self, one: &[u8; 32], other: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        let (lower, higher) = if one <= other { (one, other) } else { (other, one) };
        Zeroizing::new(hmac_sha256(self.wireguard.as_ref(), &[lower, higher]))
    }

    /// The tag under which a member can be found in a large room: by overlay address (its text form, RFC 5952) or by name.
    pub fn tag(&self, what: &str) -> Tag {
        let mut tag = [0; 8];
        tag.copy_from_slice(&hmac_sha256(self.tag.as_ref(), &[what.as_bytes()])[..8]);
        Tag(tag)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.fingerprint)
    }
}

/// Under which a member can be found in a large room. Opaque to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub [u8; 8]);

/// `HMAC-SHA256(key, parts concatenated)`.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // An HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { unreachable!("HMAC takes any key length") };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
