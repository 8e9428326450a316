//! What announcements and control messages share in reading CBOR (RFC 8949): definite lengths alone, everything bounded.

use std::net::{IpAddr, SocketAddr};

use minicbor::Decoder;

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
