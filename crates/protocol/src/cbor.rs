//! What announcements, certificates and control messages share in CBOR (RFC 8949): definite lengths alone, everything bounded.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use minicbor::{Decoder, Encoder};

/// Not what was expected; each format has its own public error.
pub(crate) struct Malformed;

impl From<minicbor::decode::Error> for Malformed {
    fn from(_: minicbor::decode::Error) -> Self {
        Self
    }
}

/// The length of the array that begins here.
pub(crate) fn array(decoder: &mut Decoder<'_>) -> Result<u64, Malformed> {
    decoder.array()?.ok_or(Malformed)
}

/// A list of at most `most` items.
pub(crate) fn list<'b, T>(
    decoder: &mut Decoder<'b>,
    most: usize,
    mut item: impl FnMut(&mut Decoder<'b>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let length = array(decoder)?;
    if length > most as u64 {
        return Err(Malformed);
    }
    (0..length).map(|_| item(decoder)).collect()
}

/// Reads a map and nothing behind it. Its keys ascend from 0, so each occurs once; `entry` takes the value of each.
pub(crate) fn map<'b>(content: &'b [u8], mut entry: impl FnMut(&mut Decoder<'b>, u64) -> Result<(), Malformed>) -> Result<(), Malformed> {
    let mut decoder = Decoder::new(content);
    let length = decoder.map()?.ok_or(Malformed)?;
    let mut last = None;
    for _ in 0..length {
        let key = decoder.u64()?;
        let ascends = last.map_or(key == 0, |last| key > last);
        if !ascends {
            return Err(Malformed);
        }
        last = Some(key);
        entry(&mut decoder, key)?;
    }
    if decoder.position() == content.len() { Ok(()) } else { Err(Malformed) }
}

/// What somebody signed: the array `[content, signature]`, and nothing behind it.
pub(crate) fn signed(bytes: &[u8]) -> Result<(&[u8], [u8; 64]), Malformed> {
    let mut decoder = Decoder::new(bytes);
    let signed = next_signed(&mut decoder)?;
    if decoder.position() == bytes.len() { Ok(signed) } else { Err(Malformed) }
}

/// See [`signed`]; what follows is the caller's.
pub(crate) fn next_signed<'b>(decoder: &mut Decoder<'b>) -> Result<(&'b [u8], [u8; 64]), Malformed> {
    if array(decoder)? != 2 {
        return Err(Malformed);
    }
    Ok((decoder.bytes()?, exact(decoder)?))
}

/// See [`signed`].
pub(crate) fn write_signed(encoder: &mut Encoder<Vec<u8>>, content: &[u8], signature: &[u8; 64]) -> Written {
    encoder.array(2)?.bytes(content)?.bytes(signature)?.ok()
}

/// A byte string of exactly `N` bytes.
pub(crate) fn exact<const N: usize>(decoder: &mut Decoder<'_>) -> Result<[u8; N], Malformed> {
    decoder.bytes()?.try_into().map_err(|_| Malformed)
}

/// A byte string of at most `most` pieces of `N` bytes each.
pub(crate) fn pieces<const N: usize>(decoder: &mut Decoder<'_>, most: usize) -> Result<Vec<[u8; N]>, Malformed> {
    match decoder.bytes()?.as_chunks::<N>() {
        (pieces, []) if pieces.len() <= most => Ok(pieces.to_vec()),
        _ => Err(Malformed),
    }
}

/// 4 or 16 bytes of address, then the port, big-endian.
pub(crate) fn address_to_bytes(address: SocketAddr) -> Vec<u8> {
    let mut bytes = ip_to_bytes(address.ip());
    bytes.extend_from_slice(&address.port().to_be_bytes());
    bytes
}

/// See [`address_to_bytes`].
pub(crate) fn address(bytes: &[u8]) -> Result<SocketAddr, Malformed> {
    let (ip, port) = bytes.split_last_chunk::<2>().ok_or(Malformed)?;
    Ok(SocketAddr::new(self::ip(ip)?, u16::from_be_bytes(*port)))
}

/// 4 or 16 bytes.
pub(crate) fn ip_to_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// See [`ip_to_bytes`].
pub(crate) fn ip(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(octets.into());
    }
    <[u8; 16]>::try_from(bytes).map(IpAddr::from).map_err(|_| Malformed)
}

/// A network: its address, then the prefix length in one byte.
pub(crate) fn route_to_bytes(route: IpNet) -> Vec<u8> {
    let mut bytes = ip_to_bytes(route.network());
    bytes.push(route.prefix_len());
    bytes
}

/// See [`route_to_bytes`].
pub(crate) fn route(bytes: &[u8]) -> Result<IpNet, Malformed> {
    let (length, address) = bytes.split_last().ok_or(Malformed)?;
    Ok(IpNet::new(ip(address)?, *length).map_err(|_| Malformed)?.trunc())
}

/// What an [`Encoder`] gives.
pub(crate) type Written = Result<(), minicbor::encode::Error<Infallible>>;

/// Writing to a `Vec` cannot fail.
pub(crate) fn infallible(written: &Written) {
    debug_assert!(written.is_ok(), "writing to a Vec cannot fail");
}

/// A map whose length is known at its end.
#[derive(Default)]
pub(crate) struct MapWriter {
    length: u64,
    entries: Vec<u8>,
}

impl MapWriter {
    pub(crate) fn entry(&mut self, key: u64, value: impl FnOnce(&mut Encoder<Vec<u8>>) -> Written) {
        let mut encoder = Encoder::new(std::mem::take(&mut self.entries));
        infallible(&encoder.u64(key).map(|_| ()));
        infallible(&value(&mut encoder));
        self.entries = encoder.into_writer();
        self.length += 1;
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::with_capacity(self.entries.len() + 2));
        infallible(&encoder.map(self.length).map(|_| ()));
        let mut map = encoder.into_writer();
        map.extend_from_slice(&self.entries);
        map
    }
}
