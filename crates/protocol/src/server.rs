//! Servers: ids with addresses, and which of them to camp on (docs/protocol.md, "Servers").

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::key::{Keys, hmac_sha256};

/// How a server is reached. Tried in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TURN over UDP.
    Udp,
    /// TURN over TCP.
    Tcp,
    /// TURN over TLS over TCP.
    Tls,
}

/// From where an address of a server can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Inside the server's own cluster; tried first by those who are told that they are there.
    Cluster,
    /// From anywhere.
    #[default]
    External,
}

/// One way to a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress {
    /// DNS name or IP address (IPv6 without brackets).
    pub host: String,
    /// Port.
    pub port: u16,
    /// Transport.
    pub transport: Transport,
    /// Scope.
    pub scope: Scope,
}

/// A server: an id, which decides who camps on it, and ways to reach it, in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The id; by default `host:port` of the first address.
    pub id: ServerId,
    /// At least one.
    pub addresses: Vec<ServerAddress>,
    /// SHA-256 of the server's certificate (DER) that TLS must show, if pinned.
    pub certificate_pin: Option<[u8; 32]>,
}

/// A server's id: 1 to 128 ASCII letters, digits and `. - _ : [ ]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(String);

/// Why a text names no server. The message says what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseServerError(pub String);

impl ServerId {
    /// Checks the rules above.
    pub fn new(id: &str) -> Result<Self, ParseServerError> {
        if id.is_empty() || id.len() > 128 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b)) {
            return Err(ParseServerError("not a server id: expected 1 to 128 ASCII letters, digits and . - _ : [ ]".into()));
        }
        Ok(Self(id.to_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// First 8 bytes of a server's score: names a server in announcements without saying which it is to those without the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerTag(pub [u8; 8]);

/// A server's rank for a key: `HMAC-SHA256(derive(server), id)`; the highest is the best.
pub fn score(keys: &Keys, id: &ServerId) -> [u8; 32] {
    hmac_sha256(keys.server.as_ref(), &[id.0.as_bytes()])
}

/// See [`ServerTag`].
pub fn tag(keys: &Keys, id: &ServerId) -> ServerTag {
    let mut tag = [0; 8];
    tag.copy_from_slice(&score(keys, id)[..8]);
    ServerTag(tag)
}

/// Default port of TURN over UDP and TCP (RFC 8656 §4).
pub const PORT: u16 = 3478;
/// Default port of TURN over TLS (RFC 8656 §4).
pub const TLS_PORT: u16 = 5349;

impl FromStr for Server {
    type Err = ParseServerError;

    /// Takes what people write in flags and files, one of
    ///
    /// | text | addresses |
    /// | --- | --- |
    /// | `host[:port]` | UDP, TCP on the port (default 3478); if that is 3478 also TLS on 5349 |
    /// | `turn:host[:port]` | UDP, TCP on the port (default 3478) |
    /// | `turn:host[:port]?transport=udp` (or `tcp`) | that transport alone |
    /// | `turns:host[:port]` (`?transport=tcp` allowed) | TLS on the port (default 5349) |
    ///
    /// `host` is a DNS name, an IPv4 address, or an IPv6 address in brackets. `cert=PIN` (base64url of the SHA-256 of the
    /// certificate) may be given behind `?` or `&`. The id is what precedes as `id=`, by default `host:port` in lower
    /// case, where 5349 of `turns:` counts as 3478: `turn:host` and `turns:host` are one server. Errors never echo the text:
    /// people paste keys into wrong places.
    fn from_str(text: &str) -> Result<Self, ParseServerError> {
        let text = text.trim();
        let (address, query) = text.split_once('?').map_or((text, ""), |(address, query)| (address, query));
        let (id, address) = match address.split_once('=') {
            Some((id, address)) => (Some(ServerId::new(id)?), address),
            None => (None, address),
        };
        let (scheme, address) = match address.split_at_checked(5).map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest)) {
            Some((scheme, rest)) if scheme == "turn:" => (Some(Scheme::Turn), rest),
            Some((scheme, rest)) if scheme == "turns" && rest.starts_with(':') => (Some(Scheme::Turns), &rest[1..]),
            _ => (None, address),
        };
        let mut transport = None;
        let mut certificate_pin = None;
        for (key, value) in query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, ""))) {
            match (key, value, scheme) {
                ("transport", "udp", Some(Scheme::Turn)) if transport.is_none() => transport = Some(Transport::Udp),
                ("transport", "tcp", Some(Scheme::Turn)) if transport.is_none() => transport = Some(Transport::Tcp),
                ("transport", "tcp", Some(Scheme::Turns)) => {}
                ("cert", pin, _) if certificate_pin.is_none() => certificate_pin = Some(parse_pin(pin)?),
                _ => return Err(expected("?transport=udp or ?transport=tcp (with turn: alone), or cert=")),
            }
        }
        let (host, port) = split_host(address)?;
        let (port, transports): (u16, &[Transport]) = match (scheme, transport) {
            (Some(Scheme::Turns), _) => (port.unwrap_or(TLS_PORT), &[Transport::Tls]),
            (Some(Scheme::Turn), Some(Transport::Udp)) => (port.unwrap_or(PORT), &[Transport::Udp]),
            (Some(Scheme::Turn), Some(_)) => (port.unwrap_or(PORT), &[Transport::Tcp]),
            (Some(Scheme::Turn), None) => (port.unwrap_or(PORT), &[Transport::Udp, Transport::Tcp]),
            (None, _) => (port.unwrap_or(PORT), plain_transports(port.unwrap_or(PORT))),
        };
        let id_port = if scheme == Some(Scheme::Turns) && port == TLS_PORT { PORT } else { port };
        let id = id.map_or_else(|| ServerId::new(&host_port(&host, id_port)), Ok)?;
        let tls_port = if scheme.is_none() { TLS_PORT } else { port };
        Ok(Self { id, addresses: addresses(&host, port, tls_port, transports), certificate_pin })
    }
}

/// One address for each transport.
pub(crate) fn addresses(host: &str, port: u16, tls_port: u16, transports: &[Transport]) -> Vec<ServerAddress> {
    let address = |transport: &Transport| {
        let port = if *transport == Transport::Tls { tls_port } else { port };
        ServerAddress { host: host.to_owned(), port, transport: *transport, scope: Scope::External }
    };
    transports.iter().map(address).collect()
}

/// Makes one server of those with the same id: addresses in the order given, each once; the first pin counts.
pub fn merge(servers: impl IntoIterator<Item = Server>) -> Vec<Server> {
    let mut merged: Vec<Server> = Vec::new();
    for server in servers {
        let Some(known) = merged.iter_mut().find(|known| known.id == server.id) else {
            merged.push(server);
            continue;
        };
        for address in server.addresses {
            if !known.addresses.contains(&address) {
                known.addresses.push(address);
            }
        }
        known.certificate_pin = known.certificate_pin.or(server.certificate_pin);
    }
    merged
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Turn,
    Turns,
}

/// The transports of a plain `host:port`.
pub(crate) fn plain_transports(port: u16) -> &'static [Transport] {
    if port == PORT { &[Transport::Udp, Transport::Tcp, Transport::Tls] } else { &[Transport::Udp, Transport::Tcp] }
}

/// `host:port`, an IPv6 address in brackets.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The one form of a host that all peers agree on: an IP address as RFC 5952 writes it, or a DNS name in lower case.
/// `None` if it is neither (1 to 253 letters, digits, `-`, `_`, `.`; no empty label).
pub fn canonical_host(host: &str) -> Option<String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(ip.to_string());
    }
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let name = host.strip_suffix('.').unwrap_or(host);
    // Digits and dots that are no IP address are a typing error, not a name.
    let numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (name.len() <= 253 && !numeric && name.split('.').all(label)).then(|| host.to_ascii_lowercase())
}

/// Splits `host[:port]` and brings the host to its canonical form.
pub(crate) fn split_host(text: &str) -> Result<(String, Option<u16>), ParseServerError> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(|| expected("a closing bracket behind the IPv6 address"))?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(expected("an IPv6 address in the brackets"));
        }
        let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(|| expected("`:port` behind the bracket"))?) };
        (host, port)
    } else {
        let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        if port.is_some_and(|port| port.contains(':')) {
            return Err(expected("brackets around an IPv6 address, as in [2001:db8::1]:3478"));
        }
        (host, port)
    };
    let port = match port {
        None => None,
        Some(port) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(|| expected("a port from 1 to 65535"))?)
        }
        Some(_) => return Err(expected("a port from 1 to 65535")),
    };
    Ok((canonical_host(host).ok_or_else(|| expected("a DNS name or an IP address as host"))?, port))
}

/// Reads a pin: base64url without padding of 32 bytes.
pub(crate) fn parse_pin(text: &str) -> Result<[u8; 32], ParseServerError> {
    let pin = URL_SAFE_NO_PAD.decode(text).ok().and_then(|pin| pin.try_into().ok());
    pin.ok_or_else(|| expected("43 characters of base64url behind cert=, the SHA-256 of the certificate"))
}

fn expected(what: &str) -> ParseServerError {
    ParseServerError(format!("not a server: expected {what}"))
}
