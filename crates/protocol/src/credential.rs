//! TURN REST credentials (draft-uberti-behave-turn-rest-00) and the integrity keys made of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::key::{Fingerprint, RelaySecret, hmac_sha256};
use crate::wire::MemberId;

/// The realm that campfire methods use in their integrity key, whatever realm a server announces: a first Camp is sent
/// before any answer was seen.
pub const CAMPFIRE_REALM: &str = "campfire";

/// A user name `expiry:identity`; `expiry` in seconds since 1970.
pub fn user_name(expiry_unix_seconds: u64, fingerprint: Fingerprint) -> String {
    format!("{expiry_unix_seconds}:{fingerprint}")
}

/// Splits a REST user name into expiry (seconds since 1970) and identity: what follows the first colon, or, where there is none, the name
/// itself. The draft makes identity and colon optional (§2.2), and coturn takes such names.
pub fn parse_user_name(user_name: &str) -> Option<(u64, &str)> {
    let (expiry, identity) = user_name.split_once(':').unwrap_or((user_name, user_name));
    // `parse` alone would take a plus sign.
    if expiry.is_empty() || !expiry.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((expiry.parse().ok()?, identity))
}

/// The password that belongs to a user name: base64 of `HMAC-SHA1(secret, user name)`.
pub fn password(secret: &RelaySecret, user_name: &str) -> Zeroizing<String> {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.text().as_bytes()) else { unreachable!("HMAC takes any key length") };
    mac.update(user_name.as_bytes());
    Zeroizing::new(STANDARD.encode(mac.finalize().into_bytes()))
}

/// Long-term key with MD5: `MD5(user:realm:password)` (RFC 8489 §18.5.1.1), for MESSAGE-INTEGRITY of standard clients.
pub fn long_term_key_md5(user_name: &str, realm: &str, password: &str) -> Zeroizing<[u8; 16]> {
    use md5::Md5;
    let mut hash = Md5::new();
    hash.update(user_name);
    hash.update(":");
    hash.update(realm);
    hash.update(":");
    hash.update(password);
    Zeroizing::new(hash.finalize().into())
}

/// Long-term key with SHA-256: `SHA-256(user:realm:password)` (RFC 8489 §18.5.1.2).
pub fn long_term_key_sha256(user_name: &str, realm: &str, password: &str) -> Zeroizing<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(user_name);
    hash.update(":");
    hash.update(realm);
    hash.update(":");
    hash.update(password);
    Zeroizing::new(hash.finalize().into())
}

/// The integrity key of campfire requests and their answers: [`long_term_key_sha256`] with [`CAMPFIRE_REALM`].
pub fn campfire_key(secret: &RelaySecret, user_name: &str) -> Zeroizing<[u8; 32]> {
    long_term_key_sha256(user_name, CAMPFIRE_REALM, &password(secret, user_name))
}

/// The integrity key of what a server pushes to a member (Ember, Signal): `HMAC-SHA256(secret, "push" ‖ member id)`.
pub fn push_key(secret: &RelaySecret, member: &MemberId) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(hmac_sha256(secret.text().as_bytes(), &[b"push", &member.0]))
}
