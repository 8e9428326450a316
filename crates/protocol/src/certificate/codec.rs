//! Certificates as bytes: maps as announcements are, but whose unknown keys are refused. A constraint that is not understood must not be
//! passed over.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use minicbor::{Decoder, Encoder};

use super::{
    CertifyError, Chain, IssuerCertificate, LabelDigest, MAX_CHAIN, MAX_CLUSTER, MAX_GRANTS, MAX_LABELS, MAX_NAME, MAX_ROUTES, Mandate,
    Namespaces, PeerCertificate, Rights, RootTag, Scope, Signed,
};
use crate::announce::display_name;
use crate::cbor::{self, Malformed, MapWriter, infallible};
use crate::identity::PublicKey;
use crate::time::UnixSeconds;

const VERSION: u8 = 2;
/// Stands alone in the list for [`Namespaces::All`].
const ALL: &str = "*";

/// Keys of an issuer's certificate.
mod issuer {
    pub const VERSION: u64 = 0;
    pub const KEY: u64 = 1;
    pub const ROOT: u64 = 2;
    pub const SCOPE: u64 = 3;
    pub const RIGHTS: u64 = 4;
    pub const NAMESPACES: u64 = 5;
    pub const ROUTES: u64 = 6;
    pub const FROM: u64 = 7;
    pub const UNTIL: u64 = 8;
}

/// Keys of a peer's certificate.
mod peer {
    pub const VERSION: u64 = 0;
    pub const IDENTITY: u64 = 1;
    pub const NAME: u64 = 2;
    pub const NAMESPACE: u64 = 3;
    pub const CLUSTER: u64 = 4;
    pub const POD: u64 = 5;
    pub const SERVICE_ACCOUNT: u64 = 6;
    pub const LABELS: u64 = 7;
    pub const IPV4: u64 = 8;
    pub const ROUTES: u64 = 9;
    pub const BORN: u64 = 10;
    pub const ISSUED: u64 = 11;
    pub const UNTIL: u64 = 12;
}

/// First element of a scope.
mod scope {
    pub const CLUSTER: u8 = 0;
    pub const OTHER: u8 = 1;
    pub const EXTERNAL: u8 = 2;
}

const CERTIFY: u8 = 1;
const PUBLISH: u8 = 2;
const REVOKE: u8 = 4;

/// A text that can be shown, of 1 to `most` bytes.
fn is_name(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && display_name(text) == text
}

fn is_cluster(text: &str) -> bool {
    is_name(text, MAX_CLUSTER) && !text.contains('/')
}

fn name(decoder: &mut Decoder<'_>) -> Result<String, Malformed> {
    decoder.str().map_err(Malformed::from).and_then(|text| if is_name(text, MAX_NAME) { Ok(text.to_owned()) } else { Err(Malformed) })
}

fn routes(decoder: &mut Decoder<'_>, most: usize) -> Result<Vec<IpNet>, Malformed> {
    cbor::list(decoder, most, |decoder| cbor::route(decoder.bytes()?))
}

fn write_routes(map: &mut MapWriter, key: u64, routes: &[IpNet]) {
    if !routes.is_empty() {
        map.entry(key, |e| {
            e.array(routes.len() as u64)?;
            routes.iter().try_for_each(|route| e.bytes(&cbor::route_to_bytes(*route))?.ok())
        });
    }
}

fn write_seconds(map: &mut MapWriter, key: u64, UnixSeconds(seconds): UnixSeconds) {
    map.entry(key, |e| e.u64(seconds)?.ok());
}

impl Scope {
    fn is_sound(&self) -> bool {
        match self {
            Self::Cluster(name) => is_cluster(name),
            Self::Other => true,
            Self::External(name) => is_name(name, MAX_NAME),
        }
    }

    fn write(&self, e: &mut Encoder<Vec<u8>>) -> cbor::Written {
        match self {
            Self::Cluster(name) => e.array(2)?.u8(scope::CLUSTER)?.str(name)?.ok(),
            Self::Other => e.array(1)?.u8(scope::OTHER)?.ok(),
            Self::External(name) => e.array(2)?.u8(scope::EXTERNAL)?.str(name)?.ok(),
        }
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        match (cbor::array(d)?, d.u8()?) {
            (2, scope::CLUSTER) => Ok(Self::Cluster(d.str()?.to_owned())),
            (1, scope::OTHER) => Ok(Self::Other),
            (2, scope::EXTERNAL) => Ok(Self::External(d.str()?.to_owned())),
            _ => Err(Malformed),
        }
    }
}

impl Rights {
    fn bits(self) -> u8 {
        let bit = |set, bit| if set { bit } else { 0 };
        bit(self.certify, CERTIFY) | bit(self.publish, PUBLISH) | bit(self.revoke, REVOKE)
    }

    fn from_bits(bits: u8) -> Result<Self, Malformed> {
        let set = |bit| bits & bit != 0;
        let rights = Self { certify: set(CERTIFY), publish: set(PUBLISH), revoke: set(REVOKE) };
        if rights.bits() == bits { Ok(rights) } else { Err(Malformed) }
    }
}

impl Namespaces {
    /// As they stand in the list.
    fn texts(&self) -> Vec<&str> {
        match self {
            Self::All => vec![ALL],
            Self::Only(names) => names.iter().map(String::as_str).collect(),
        }
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let names = cbor::list(d, MAX_GRANTS, name)?;
        match names.iter().any(|name| name == ALL) {
            false if !names.is_empty() => Ok(Self::Only(names)),
            true if names.len() == 1 => Ok(Self::All),
            true | false => Err(Malformed),
        }
    }
}

impl IssuerCertificate {
    /// What its bounds say against it.
    fn fault(&self) -> Option<&'static str> {
        let Mandate { scope, rights: _, namespaces, routes, from, until } = &self.mandate;
        let names = namespaces.texts();
        let only = matches!(namespaces, Namespaces::All) || names.iter().all(|name| is_name(name, MAX_NAME) && *name != ALL);
        // Text of 24 bytes and more has a length of two bytes before it, and so has a list of as many.
        let text = |length: usize| length + if length < 24 { 1 } else { 2 };
        let list = |count: usize| {
            if count == 0 {
                0
            } else if count < 24 {
                1
            } else {
                2
            }
        };
        let lists = list(names.len()) + list(routes.len());
        let grants = lists
            + names.iter().map(|name| text(name.len())).sum::<usize>()
            + routes.iter().map(|route| text(cbor::route_to_bytes(*route).len())).sum::<usize>();
        if !scope.is_sound() {
            Some("a cluster's name has 1 to 32 bytes without /, an external's 1 to 63, all of which can be shown")
        } else if !only {
            Some("a namespace has 1 to 63 bytes that can be shown")
        } else if grants > MAX_GRANTS {
            Some("namespaces and routes have more than 150 bytes together")
        } else if from > until {
            Some("it would end before it begins")
        } else {
            None
        }
    }

    /// The map, keys ascending, what is empty left out.
    pub(super) fn encode(&self) -> Result<Vec<u8>, CertifyError> {
        if let Some(fault) = self.fault() {
            return Err(CertifyError(fault));
        }
        let Mandate { scope, rights, namespaces, routes, from, until } = &self.mandate;
        let mut map = MapWriter::default();
        map.entry(issuer::VERSION, |e| e.u8(VERSION)?.ok());
        map.entry(issuer::KEY, |e| e.bytes(self.key.as_bytes())?.ok());
        map.entry(issuer::ROOT, |e| e.bytes(&self.root.0)?.ok());
        map.entry(issuer::SCOPE, |e| scope.write(e));
        map.entry(issuer::RIGHTS, |e| e.u8(rights.bits())?.ok());
        let names = namespaces.texts();
        if !names.is_empty() {
            map.entry(issuer::NAMESPACES, |e| {
                e.array(names.len() as u64)?;
                names.iter().try_for_each(|name| e.str(name)?.ok())
            });
        }
        write_routes(&mut map, issuer::ROUTES, routes);
        write_seconds(&mut map, issuer::FROM, *from);
        write_seconds(&mut map, issuer::UNTIL, *until);
        Ok(map.finish())
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, Malformed> {
        let (mut version, mut key, mut root, mut scope, mut rights) = (None, None, None, None, None);
        let (mut namespaces, mut granted, mut from, mut until) = (Namespaces::Only(Vec::new()), Vec::new(), None, None);
        cbor::map(content, |d, number| {
            match number {
                issuer::VERSION => version = Some(d.u8()?),
                issuer::KEY => key = Some(PublicKey::from_bytes(cbor::exact(d)?).map_err(|_| Malformed)?),
                issuer::ROOT => root = Some(RootTag(cbor::exact(d)?)),
                issuer::SCOPE => scope = Some(Scope::read(d)?),
                issuer::RIGHTS => rights = Some(Rights::from_bits(d.u8()?)?),
                issuer::NAMESPACES => namespaces = Namespaces::read(d)?,
                issuer::ROUTES => granted = routes(d, MAX_GRANTS)?,
                issuer::FROM => from = Some(UnixSeconds(d.u64()?)),
                issuer::UNTIL => until = Some(UnixSeconds(d.u64()?)),
                _ => return Err(Malformed),
            }
            Ok(())
        })?;
        let mandate = Mandate {
            scope: scope.ok_or(Malformed)?,
            rights: rights.ok_or(Malformed)?,
            namespaces,
            routes: granted,
            from: from.ok_or(Malformed)?,
            until: until.ok_or(Malformed)?,
        };
        let certificate = Self { key: key.ok_or(Malformed)?, root: root.ok_or(Malformed)?, mandate };
        if version == Some(VERSION) && certificate.fault().is_none() { Ok(certificate) } else { Err(Malformed) }
    }
}

impl PeerCertificate {
    /// What its bounds say against it.
    fn fault(&self) -> Option<&'static str> {
        if !is_name(&self.name, MAX_NAME) {
            Some("a name has 1 to 63 bytes that can be shown")
        } else if !(self.namespace.is_empty() || is_name(&self.namespace, MAX_NAME)) {
            Some("a namespace has 1 to 63 bytes that can be shown")
        } else if !self.cluster.as_ref().is_none_or(|cluster| is_cluster(cluster)) {
            Some("a cluster's name has 1 to 32 bytes that can be shown, without /")
        } else if self.labels.len() > MAX_LABELS {
            Some("more than 16 labels")
        } else if self.routes.len() > MAX_ROUTES {
            Some("more than 8 routes")
        } else if self.born > self.issued || self.issued > self.until {
            Some("it would be issued before the peer was born, or end before it is issued")
        } else {
            None
        }
    }

    /// The map, keys ascending, what is empty left out.
    pub(super) fn encode(&self) -> Result<Vec<u8>, CertifyError> {
        if let Some(fault) = self.fault() {
            return Err(CertifyError(fault));
        }
        let mut map = MapWriter::default();
        map.entry(peer::VERSION, |e| e.u8(VERSION)?.ok());
        map.entry(peer::IDENTITY, |e| e.bytes(self.identity.as_bytes())?.ok());
        map.entry(peer::NAME, |e| e.str(&self.name)?.ok());
        if !self.namespace.is_empty() {
            map.entry(peer::NAMESPACE, |e| e.str(&self.namespace)?.ok());
        }
        if let Some(cluster) = &self.cluster {
            map.entry(peer::CLUSTER, |e| e.str(cluster)?.ok());
        }
        if let Some(pod) = &self.pod {
            map.entry(peer::POD, |e| e.bytes(pod)?.ok());
        }
        if let Some(LabelDigest(account)) = &self.service_account {
            map.entry(peer::SERVICE_ACCOUNT, |e| e.bytes(account)?.ok());
        }
        if !self.labels.is_empty() {
            let bytes: Vec<u8> = self.labels.iter().flat_map(|label| label.0).collect();
            map.entry(peer::LABELS, |e| e.bytes(&bytes)?.ok());
        }
        if let Some(ipv4) = self.ipv4 {
            map.entry(peer::IPV4, |e| e.bytes(&ipv4.octets())?.ok());
        }
        write_routes(&mut map, peer::ROUTES, &self.routes);
        write_seconds(&mut map, peer::BORN, self.born);
        write_seconds(&mut map, peer::ISSUED, self.issued);
        write_seconds(&mut map, peer::UNTIL, self.until);
        Ok(map.finish())
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, Malformed> {
        let (mut version, mut identity, mut called, mut namespace, mut cluster) = (None, None, None, String::new(), None);
        let (mut pod, mut service_account, mut labels, mut ipv4, mut offered) = (None, None, Vec::new(), None, Vec::new());
        let (mut born, mut issued, mut until) = (None, None, None);
        cbor::map(content, |d, number| {
            match number {
                peer::VERSION => version = Some(d.u8()?),
                peer::IDENTITY => identity = Some(PublicKey::from_bytes(cbor::exact(d)?).map_err(|_| Malformed)?),
                peer::NAME => called = Some(name(d)?),
                peer::NAMESPACE => namespace = name(d)?,
                peer::CLUSTER => cluster = Some(name(d)?),
                peer::POD => pod = Some(cbor::exact(d)?),
                peer::SERVICE_ACCOUNT => service_account = Some(LabelDigest(cbor::exact(d)?)),
                peer::LABELS => labels = cbor::pieces(d, MAX_LABELS)?.into_iter().map(LabelDigest).collect(),
                peer::IPV4 => ipv4 = Some(Ipv4Addr::from(cbor::exact::<4>(d)?)),
                peer::ROUTES => offered = routes(d, MAX_ROUTES)?,
                peer::BORN => born = Some(UnixSeconds(d.u64()?)),
                peer::ISSUED => issued = Some(UnixSeconds(d.u64()?)),
                peer::UNTIL => until = Some(UnixSeconds(d.u64()?)),
                _ => return Err(Malformed),
            }
            Ok(())
        })?;
        let certificate = Self {
            identity: identity.ok_or(Malformed)?,
            name: called.ok_or(Malformed)?,
            namespace,
            cluster,
            pod,
            service_account,
            labels,
            ipv4,
            routes: offered,
            born: born.ok_or(Malformed)?,
            issued: issued.ok_or(Malformed)?,
            until: until.ok_or(Malformed)?,
        };
        if version == Some(VERSION) && certificate.fault().is_none() { Ok(certificate) } else { Err(Malformed) }
    }
}

/// The array `[content, signature]`.
pub(super) fn signed_bytes(signed: &Signed) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::with_capacity(signed.content.len() + 70));
    infallible(&cbor::write_signed(&mut encoder, &signed.content, &signed.signature));
    encoder.into_writer()
}

/// The array of both: the root's word on the issuer, the issuer's word on the peer.
pub(super) fn chain_bytes(chain: &Chain) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::with_capacity(MAX_CHAIN));
    infallible(&encoder.array(2).map(|_| ()));
    for signed in [&chain.issuer_signed, &chain.peer_signed] {
        infallible(&cbor::write_signed(&mut encoder, &signed.content, &signed.signature));
    }
    encoder.into_writer()
}

pub(super) fn chain(bytes: &[u8]) -> Result<Chain, Malformed> {
    let mut decoder = Decoder::new(bytes);
    if bytes.len() > MAX_CHAIN || cbor::array(&mut decoder)? != 2 {
        return Err(Malformed);
    }
    let [issuer_signed, peer_signed] = [next(&mut decoder)?, next(&mut decoder)?];
    if decoder.position() != bytes.len() {
        return Err(Malformed);
    }
    let issuer = IssuerCertificate::decode(&issuer_signed.content)?;
    let peer = PeerCertificate::decode(&peer_signed.content)?;
    Ok(Chain { issuer, peer, issuer_signed, peer_signed })
}

fn next(decoder: &mut Decoder<'_>) -> Result<Signed, Malformed> {
    let (content, signature) = cbor::next_signed(decoder)?;
    Ok(Signed { content: content.to_vec(), signature })
}
