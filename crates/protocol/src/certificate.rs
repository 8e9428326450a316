//! Certificates: the root of a mesh says who issues for it, an issuer says who a peer is (docs/protocol.md, "Certificates").
//!
//! Three keys, and one way from the first to the last: a [`RootKey`] delegates to an [`Issuer`], which certifies peers; what a peer
//! shows of that is its [`Chain`]. Whoever knows the [`RootPublic`] finds by [`Chain::verify`] who the peer is, or why not.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::cbor::{self, Malformed};
use crate::identity::{Identity, PublicKey};
use crate::time::{UnixMillis, UnixSeconds};

mod codec;

/// Largest chain, in bytes. The largest that the other bounds allow has 779.
pub const MAX_CHAIN: usize = 790;
/// Most bytes of a peer's name and of its namespace.
pub const MAX_NAME: usize = 63;
/// Most bytes of a cluster's name.
pub const MAX_CLUSTER: usize = 32;
/// Most bytes of an issuer's namespaces and routes together, as encoded.
pub const MAX_GRANTS: usize = 150;
/// Most labels in a peer's certificate.
pub const MAX_LABELS: usize = 16;
/// Most routes in a peer's certificate: as many as count of one peer.
pub const MAX_ROUTES: usize = 8;
/// By how much the clock of whoever looks may differ from that of whoever signed.
pub const LEEWAY: Duration = Duration::from_mins(15);

const ISSUER_LABEL: &[u8] = b"campfire/2 issuer certificate";
const PEER_LABEL: &[u8] = b"campfire/2 peer certificate";

/// The key of a mesh: whoever holds it says who issues. Never printed.
#[derive(Clone, Debug)]
pub struct RootKey(Identity);

/// What everybody knows of a [`RootKey`]. In text 43 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootPublic(PublicKey);

/// The first 8 bytes of a root's public key: by these a certificate says which root signed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootTag(pub [u8; 8]);

/// Not a root. Never echoes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a root: expected 43 characters of base64url, as `campfire root` prints them")]
pub struct ParseRootError;

/// For whom an issuer speaks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The peers of this cluster: 1 to [`MAX_CLUSTER`] bytes, no `/`.
    Cluster(String),
    /// The peers of clusters that nobody has named: such a cluster names itself, and is called `other/…`.
    Other,
    /// One peer that is in no cluster, of this name.
    External(String),
}

/// What an issuer may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rights {
    /// Certify peers.
    pub certify: bool,
    /// Publish servers.
    pub publish: bool,
    /// Revoke what others issued.
    pub revoke: bool,
}

/// Whose pods an issuer may certify.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Namespaces {
    /// Those of any namespace.
    All,
    /// Those of these. Empty for an external.
    Only(Vec<String>),
}

/// What a root delegates. Namespaces and routes have at most [`MAX_GRANTS`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mandate {
    /// For whom.
    pub scope: Scope,
    /// To do what.
    pub rights: Rights,
    /// For which namespaces.
    pub namespaces: Namespaces,
    /// What it may grant to externals.
    pub routes: Vec<IpNet>,
    /// Holds from here,
    pub from: UnixSeconds,
    /// until here.
    pub until: UnixSeconds,
}

/// A root's word on an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerCertificate {
    /// The issuer.
    pub key: PublicKey,
    /// Who says so.
    pub root: RootTag,
    /// What it may do.
    pub mandate: Mandate,
}

/// The digest of a label or, under the empty key, of a service account: enough to compare with, and to say nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelDigest(pub [u8; 10]);

/// An issuer's word on a peer. Externals have name and routes alone; pods all else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The peer.
    pub identity: PublicKey,
    /// Its name: 1 to [`MAX_NAME`] bytes that can be shown.
    pub name: String,
    /// Its namespace: at most [`MAX_NAME`] bytes; empty for an external.
    pub namespace: String,
    /// What its cluster calls itself, under [`Scope::Other`] alone.
    pub cluster: Option<String>,
    /// Its pod's uid.
    pub pod: Option<[u8; 16]>,
    /// Digest of its service account's name, under the empty key.
    pub service_account: Option<LabelDigest>,
    /// Digests of its labels; at most [`MAX_LABELS`].
    pub labels: Vec<LabelDigest>,
    /// Its IPv4 address in the overlay.
    pub ipv4: Option<Ipv4Addr>,
    /// Routes that it offers; at most [`MAX_ROUTES`].
    pub routes: Vec<IpNet>,
    /// When it came to be: of two that claim the same the earlier born has it.
    pub born: UnixSeconds,
    /// When this was said: of two certificates of one peer the later counts.
    pub issued: UnixSeconds,
    /// Until when it holds.
    pub until: UnixSeconds,
}

/// Why a chain does not let its peer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// None was shown, or what was shown is none: another's, wrongly signed, malformed.
    NotCertified,
    /// Not yet, or no more.
    CertificateExpired,
    /// Its root is none that is known here.
    UnknownIssuer,
    /// It says what its issuer may not say.
    OutOfScope,
}

impl Refusal {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NotCertified => "it has shown no certificate that is its own",
            Self::CertificateExpired => "its certificate does not hold now: it ended, or clocks differ by more than 15 minutes",
            Self::UnknownIssuer => "its certificate is of another mesh: of a root that is not known here",
            Self::OutOfScope => "its certificate says what its issuer may not say",
        }
    }
}

/// What cannot be certified: which bound it would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot be certified: {0}")]
pub struct CertifyError(pub &'static str);

/// Bytes that are no chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chain of certificates")]
pub struct ChainError;

/// Not a delegated issuer. Never echoes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a delegated issuer")]
pub struct ParseIssuerError;

/// The right to certify, in somebody's hands: a key and the root's word for it. Secret; never printed.
#[derive(Clone)]
pub struct Issuer {
    key: Identity,
    certificate: IssuerCertificate,
    signed: Signed,
}

/// What a peer shows: the root's word on its issuer, and the issuer's word on it.
#[derive(Clone, PartialEq, Eq)]
pub struct Chain {
    issuer: IssuerCertificate,
    peer: PeerCertificate,
    issuer_signed: Signed,
    peer_signed: Signed,
}

/// What a chain that holds says of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    issuer: IssuerCertificate,
    peer: PeerCertificate,
}

/// Content as it was signed, and the signature.
#[derive(Clone, PartialEq, Eq)]
struct Signed {
    content: Vec<u8>,
    signature: [u8; 64],
}

impl Signed {
    fn new(key: &Identity, label: &[u8], content: Vec<u8>) -> Self {
        Self { signature: key.sign(&[label, &content].concat()), content }
    }

    fn is_by(&self, key: &PublicKey, label: &[u8]) -> bool {
        key.verify(&[label, &self.content].concat(), &self.signature)
    }
}

impl RootKey {
    /// From 32 bytes, which must be random.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Identity::from_seed(seed))
    }

    /// Those bytes as base64url without padding, 43 characters. Secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(*self.0.seed()))
    }

    /// What others may know of it.
    pub fn public(&self) -> RootPublic {
        RootPublic(self.0.public())
    }

    /// Lets a key issue.
    ///
    /// # Errors
    /// A bound that the mandate would break.
    pub fn delegate(&self, key: Identity, mandate: Mandate) -> Result<Issuer, CertifyError> {
        let certificate = IssuerCertificate { key: key.public(), root: self.public().tag(), mandate };
        let signed = Signed::new(&self.0, ISSUER_LABEL, certificate.encode()?);
        Ok(Issuer { key, certificate, signed })
    }
}

impl FromStr for RootKey {
    type Err = ParseRootError;

    /// Takes what [`RootKey::to_text`] gives; white space around is ignored.
    fn from_str(text: &str) -> Result<Self, ParseRootError> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| ParseRootError)?);
        bytes.as_slice().try_into().map(Self::from_seed).map_err(|_| ParseRootError)
    }
}

impl RootPublic {
    /// See [`RootTag`].
    pub fn tag(&self) -> RootTag {
        let mut tag = [0; 8];
        tag.copy_from_slice(&self.0.as_bytes()[..8]);
        RootTag(tag)
    }
}

impl fmt::Display for RootPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for RootPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootPublic({self})")
    }
}

impl FromStr for RootPublic {
    type Err = ParseRootError;

    fn from_str(text: &str) -> Result<Self, ParseRootError> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| ParseRootError)?;
        let bytes = bytes.as_slice().try_into().map_err(|_| ParseRootError)?;
        PublicKey::from_bytes(bytes).map(Self).map_err(|_| ParseRootError)
    }
}

impl LabelDigest {
    /// Of a label, or of a service account's name under the empty key.
    pub fn of(key: &str, value: &str) -> Self {
        let hash = Sha256::new().chain_update(b"campfire/2 label").chain_update(key).chain_update([0]).chain_update(value).finalize();
        let mut digest = [0; 10];
        digest.copy_from_slice(&hash[..10]);
        Self(digest)
    }
}

impl Issuer {
    /// The root's word for it.
    pub fn certificate(&self) -> &IssuerCertificate {
        &self.certificate
    }

    /// Whether one of these roots said so.
    pub fn is_of(&self, roots: &[RootPublic]) -> bool {
        by_root(&self.certificate, &self.signed, roots).is_ok()
    }

    /// Says who a peer is.
    ///
    /// # Errors
    /// A bound that the certificate would break, or what this issuer may not say.
    pub fn certify(&self, peer: PeerCertificate) -> Result<Chain, CertifyError> {
        let peer_signed = Signed::new(&self.key, PEER_LABEL, peer.encode()?);
        if !self.certificate.covers(&peer) {
            return Err(CertifyError("this issuer may not say that"));
        }
        let chain = Chain { issuer: self.certificate.clone(), peer, issuer_signed: self.signed.clone(), peer_signed };
        if chain.to_bytes().len() > MAX_CHAIN { Err(CertifyError("the chain would be larger than 790 bytes")) } else { Ok(chain) }
    }

    /// As [`certify`](Self::certify), whatever the issuer may say.
    #[cfg(test)]
    pub(crate) fn sign_unchecked(&self, peer: PeerCertificate) -> Chain {
        let peer_signed = Signed::new(&self.key, PEER_LABEL, peer.encode().unwrap_or_default());
        Chain { issuer: self.certificate.clone(), peer, issuer_signed: self.signed.clone(), peer_signed }
    }

    /// The issuer as base64url without padding: its seed, then the array `[content, signature]` of the root's word. Secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let signed = codec::signed_bytes(&self.signed);
        let bytes = Zeroizing::new([self.key.seed().as_slice(), &signed].concat());
        Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
    }
}

impl FromStr for Issuer {
    type Err = ParseIssuerError;

    /// Takes what [`Issuer::to_text`] gives. That a root that is known has signed it is for [`Issuer::is_of`] to say.
    fn from_str(text: &str) -> Result<Self, ParseIssuerError> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| ParseIssuerError)?);
        let (seed, signed) = bytes.split_first_chunk().ok_or(ParseIssuerError)?;
        let (content, signature) = cbor::signed(signed).map_err(|Malformed| ParseIssuerError)?;
        let certificate = IssuerCertificate::decode(content).map_err(|Malformed| ParseIssuerError)?;
        let key = Identity::from_seed(seed);
        if key.public() != certificate.key {
            return Err(ParseIssuerError);
        }
        Ok(Self { key, certificate, signed: Signed { content: content.to_vec(), signature } })
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl PartialEq for Issuer {
    fn eq(&self, other: &Self) -> bool {
        self.signed == other.signed
    }
}

impl Eq for Issuer {}

impl IssuerCertificate {
    /// Whether the issuer may say this of a peer.
    fn covers(&self, peer: &PeerCertificate) -> bool {
        let Mandate { scope, rights, namespaces, routes, from: _, until } = &self.mandate;
        let served = match namespaces {
            Namespaces::All => !peer.namespace.is_empty(),
            Namespaces::Only(namespaces) => namespaces.contains(&peer.namespace),
        };
        let pod = served && peer.routes.is_empty();
        let is_of_scope = match scope {
            Scope::Cluster(_) => pod && peer.cluster.is_none(),
            Scope::Other => pod && peer.cluster.is_some(),
            Scope::External(name) => {
                let bare = peer.namespace.is_empty() && peer.cluster.is_none() && peer.pod.is_none() && peer.ipv4.is_none();
                let plain = peer.service_account.is_none() && peer.labels.is_empty();
                let granted = |route: &IpNet| routes.iter().any(|grant| grant.contains(route));
                peer.name == *name && bare && plain && peer.routes.iter().all(granted)
            }
        };
        rights.certify && is_of_scope && peer.until <= *until
    }
}

/// Whether one of the roots has signed this.
fn by_root(certificate: &IssuerCertificate, signed: &Signed, roots: &[RootPublic]) -> Result<(), Refusal> {
    let root = roots.iter().find(|root| root.tag() == certificate.root).ok_or(Refusal::UnknownIssuer)?;
    if signed.is_by(&root.0, ISSUER_LABEL) { Ok(()) } else { Err(Refusal::NotCertified) }
}

impl Chain {
    /// Reads a chain; what it says is believed when it [holds](Self::verify).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ChainError> {
        codec::chain(bytes).map_err(|Malformed| ChainError)
    }

    /// The chain as it is shown.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::chain_bytes(self)
    }

    /// What it says of its peer, whether it holds or not.
    pub fn peer(&self) -> &PeerCertificate {
        &self.peer
    }

    /// Who the peer is. It holds if one of `roots` signed for the issuer and the issuer for the peer, says nothing that the issuer may
    /// not, and is within its times, give or take [`LEEWAY`], by any one of the `clocks`.
    pub fn verify(&self, roots: &[RootPublic], clocks: &[UnixMillis]) -> Result<Certified, Refusal> {
        by_root(&self.issuer, &self.issuer_signed, roots)?;
        if !self.peer_signed.is_by(&self.issuer.key, PEER_LABEL) {
            return Err(Refusal::NotCertified);
        }
        if !self.issuer.covers(&self.peer) {
            return Err(Refusal::OutOfScope);
        }
        let certified = Certified { issuer: self.issuer.clone(), peer: self.peer.clone() };
        if certified.holds_for(clocks).is_zero() { Err(Refusal::CertificateExpired) } else { Ok(certified) }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({:?} by {:?})", self.peer.identity, self.issuer.key)
    }
}

impl Certified {
    /// The issuer's word.
    pub fn peer(&self) -> &PeerCertificate {
        &self.peer
    }

    /// The root's word.
    pub fn issuer(&self) -> &IssuerCertificate {
        &self.issuer
    }

    /// The peer's cluster, empty for an external.
    pub fn cluster(&self) -> Cow<'_, str> {
        match (&self.issuer.mandate.scope, &self.peer.cluster) {
            (Scope::Cluster(name), _) => Cow::Borrowed(name),
            (Scope::Other, Some(name)) => Cow::Owned(format!("other/{name}")),
            (Scope::Other, None) | (Scope::External(_), _) => Cow::Borrowed(""),
        }
    }

    /// Since when the peer has a right to what it claims. An external certifies itself, so it cannot be older than what it was given.
    pub fn since(&self) -> UnixSeconds {
        match self.issuer.mandate.scope {
            Scope::Cluster(_) | Scope::Other => self.peer.born,
            Scope::External(_) => self.peer.born.max(self.issuer.mandate.from),
        }
    }

    /// For how long it still holds, by the clock by which it does so longest; zero: by none.
    pub fn holds_for(&self, clocks: &[UnixMillis]) -> Duration {
        let leeway = LEEWAY.as_secs();
        let from = self.issuer.mandate.from.max(self.peer.issued).0;
        let until = self.peer.until.min(self.issuer.mandate.until).0.saturating_add(leeway);
        let left = |clock: UnixMillis| {
            let begun = UnixSeconds::from(clock).0.saturating_add(leeway) >= from;
            if begun { Duration::from_millis(until.saturating_mul(1_000).saturating_sub(clock.0)) } else { Duration::ZERO }
        };
        clocks.iter().copied().map(left).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
