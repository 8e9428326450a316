//! A peer's identity: an Ed25519 key pair, the X25519 pair that WireGuard uses, and the overlay addresses that follow
//! from the public key (docs/protocol.md, "Keys").

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use ipnet::{Ipv4Net, Ipv6Net};
use sha2::{Digest as _, Sha256, Sha512};
use zeroize::Zeroizing;

/// A peer's Ed25519 public key: its name for good. In text 64 hex digits; people see the WireGuard (X25519) form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// Not the encoding of a usable Ed25519 point (small-order points and encodings that are not canonical are refused).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a usable Ed25519 public key")]
pub struct BadPublicKey;

impl PublicKey {
    /// Checks that `bytes` are the canonical encoding of a point of large order.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, BadPublicKey> {
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| BadPublicKey)?;
        // A name has one spelling: decompression alone would take y coordinates that are not reduced.
        let canonical = key.to_edwards().compress().to_bytes() == bytes;
        if key.is_weak() || !canonical { Err(BadPublicKey) } else { Ok(Self(bytes)) }
    }

    /// The encoding (RFC 8032 §5.1.2).
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The same key in X25519 (Montgomery) form: the WireGuard public key.
    pub fn x25519(&self) -> [u8; 32] {
        // Checked at construction.
        VerifyingKey::from_bytes(&self.0).map_or([0; 32], |key| key.to_montgomery().to_bytes())
    }

    /// Strict verification (RFC 8032 §5.1.7, no malleability, no small-order keys).
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }

    fn address_hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"campfire/2 address");
        hash.update(self.0);
        hash.finalize().into()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}…)", hex::encode(&self.0[..4]))
    }
}

/// A peer's key pair.
#[derive(Clone)]
pub struct Identity {
    signing: SigningKey,
    public: PublicKey,
}

impl Identity {
    /// From a 32-byte seed (RFC 8032 private key), which must be random.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let signing = SigningKey::from_bytes(seed);
        let public = PublicKey(signing.verifying_key().to_bytes());
        Self { signing, public }
    }

    /// The seed. Secret.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.signing.to_bytes())
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The WireGuard private key: the lower half of SHA-512 of the seed, which X25519 clamps. Secret.
    pub fn x25519_secret(&self) -> Zeroizing<[u8; 32]> {
        let hash = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(self.signing.as_bytes())));
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(&hash[..32]);
        secret
    }

    /// Signs (RFC 8032 §5.1.6).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.public)
    }
}

/// Names an overlay network for good: 5 random bytes made with the first key and carried beside it. 10 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub [u8; 5]);

impl NetworkId {
    /// The default where none is carried beside the key: the first 5 bytes of `derive("network")` of the first key.
    pub fn of(keys: &crate::key::Keys) -> Self {
        keys.network
    }

    /// The overlay's prefix: `fd` + network id, a /48 (RFC 4193).
    pub fn prefix(&self) -> Ipv6Net {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&self.0);
        // 48 is a valid prefix length.
        Ipv6Net::new_assert(Ipv6Addr::from(octets), 48)
    }

    /// A peer's address: the prefix, then the first 80 bits of `SHA-256("campfire/2 address" ‖ Ed25519 public key)`.
    pub fn address(&self, key: &PublicKey) -> Ipv6Addr {
        let mut octets = self.prefix().addr().octets();
        octets[6..].copy_from_slice(&key.address_hash()[..10]);
        Ipv6Addr::from(octets)
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkId({self})")
    }
}

impl std::str::FromStr for NetworkId {
    type Err = hex::FromHexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; 5];
        hex::decode_to_slice(text, &mut id)?;
        Ok(Self(id))
    }
}

/// A peer's IPv4 address in a pool: the pool's prefix and bits of the address hash (bytes 10–13); never the network or
/// broadcast address, nor the first host (customarily a gateway's). `None` for pools smaller than a /29.
pub fn ipv4_in_pool(pool: Ipv4Net, key: &PublicKey) -> Option<Ipv4Addr> {
    if pool.prefix_len() > 29 {
        return None;
    }
    let hash = key.address_hash();
    let bits = u32::from_be_bytes([hash[10], hash[11], hash[12], hash[13]]);
    let hosts = u32::MAX >> pool.prefix_len();
    // Of 2^n addresses, three are not given: network, first host, broadcast.
    let host = 2 + bits % (hosts - 2);
    Some(Ipv4Addr::from(u32::from(pool.network()) | host))
}
