//! `camp://host[:port][/host[:port]…]?net=…[&transport=…][&cert=…][&root=…]#PSK[.ISSUER]`: all that a peer needs to join. A secret.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::certificate::{Issuer, RootPublic};
use crate::identity::NetworkId;
use crate::key::Psk;
use crate::server::{PORT, ParseServerError, Server, ServerAddress, ServerId, TLS_PORT, Transport};
use crate::server::{addresses, host_port, merge, parse_pin, plain_transports, split_host};

/// A parsed `camp://` URI. `Debug` shows the fingerprint in place of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CampUri {
    /// The servers, in the order given (which does not matter).
    pub servers: Vec<Server>,
    /// `net=`; `None`: from the key.
    pub network: Option<NetworkId>,
    /// The key.
    pub psk: Psk,
    /// `root=`: whose word counts in a certified mesh; none: the mesh is open.
    pub roots: Vec<RootPublic>,
    /// Behind the key: what lets its holder certify, by one of the roots.
    pub issuer: Option<Issuer>,
    /// Whether it was a version 1 URI (a warning is due).
    pub version1: bool,
}

/// Why a text is no campfire URI. Never echoes the fragment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseUriError(pub String);

/// Longest URI that is read, in bytes.
pub const MAX_URI: usize = 4_096;
/// Most servers in a URI.
pub const MAX_SERVERS: usize = 16;
/// Most roots of a mesh: two, while one takes the other's place.
pub const MAX_ROOTS: usize = 2;

const SCHEME: &str = "camp://";

impl CampUri {
    /// The URI's text. Secret. A server is written as `[id=]host[:port]` for each host and port that it has; one set of
    /// transports stands for all servers (the union of theirs), which is exact for servers that came from a URI, but for the
    /// order of one server's addresses.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut segments = Vec::new();
        let mut pins = Vec::new();
        let mut transports = Vec::new();
        let mut plain = true;
        for server in &self.servers {
            let mut places: Vec<(&str, u16)> = Vec::new();
            for address in &server.addresses {
                if !places.contains(&place(server, address)) {
                    places.push(place(server, address));
                }
                if !transports.contains(&address.transport) {
                    transports.push(address.transport);
                }
            }
            for (host, port) in places {
                let here =
                    server.addresses.iter().filter(|address| place(server, address) == (host, port)).map(|address| address.transport);
                plain &= here.eq(plain_transports(port).iter().copied());
                let authority = host_port(host, port);
                let id = if server.id.as_str() == authority { String::new() } else { format!("{}=", server.id) };
                segments.push(id + authority.strip_suffix(":3478").unwrap_or(&authority));
                pins.push(server.certificate_pin);
            }
        }
        let mut query = Vec::new();
        if let Some(network) = self.network {
            query.push(format!("net={network}"));
        }
        if !plain {
            let names: Vec<&str> = transports.into_iter().map(transport_name).collect();
            query.push(format!("transport={}", names.join(",")));
        }
        if pins.iter().any(Option::is_some) {
            // One pin for all is said once.
            let same = pins.windows(2).all(|pair| pair[0] == pair[1]);
            let shown = pins.iter().take(if same { 1 } else { pins.len() });
            let shown: Vec<String> = shown.map(|pin| pin.map(|pin| URL_SAFE_NO_PAD.encode(pin)).unwrap_or_default()).collect();
            query.push(format!("cert={}", shown.join(",")));
        }
        if !self.roots.is_empty() {
            let roots: Vec<String> = self.roots.iter().map(ToString::to_string).collect();
            query.push(format!("root={}", roots.join(",")));
        }
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let mut text = Zeroizing::new(String::with_capacity(MAX_URI));
        for part in [SCHEME, &segments.join("/"), &query, "#", &self.psk.to_text()] {
            text.push_str(part);
        }
        if let Some(issuer) = &self.issuer {
            text.push('.');
            text.push_str(&issuer.to_text());
        }
        text
    }
}

/// Host and port of the segment that an address comes from: TLS on 5349 goes with 3478, unless 5349 is the server's port
/// for other transports and 3478 is not.
fn place<'a>(server: &Server, address: &'a ServerAddress) -> (&'a str, u16) {
    let other_on = |port| server.addresses.iter().any(|a| a.host == address.host && a.port == port && a.transport != Transport::Tls);
    let tls_default = address.transport == Transport::Tls && address.port == TLS_PORT;
    (&address.host, if tls_default && (other_on(PORT) || !other_on(TLS_PORT)) { PORT } else { address.port })
}

impl FromStr for CampUri {
    type Err = ParseUriError;

    /// Servers are segments `[id=]host[:port]`, those with one id being one server; `transport=` (repeated or
    /// comma-separated: `udp`, `tcp`, `tls`) holds for all of them, by default as for plain server texts; TLS is on 5349 where the
    /// port is 3478, else on the port. `cert=` is one pin for all, or one (maybe empty) for each segment. `root=` is one root or two; an
    /// issuer behind the key must be of one of them. Other parameters are ignored.
    fn from_str(text: &str) -> Result<Self, ParseUriError> {
        let text = text.trim();
        if text.len() > MAX_URI {
            return Err(error("longer than 4096 bytes"));
        }
        let (head, fragment) = text.split_once('#').ok_or_else(|| error("expected #KEY at its end"))?;
        let scheme = head.get(..SCHEME.len()).filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME));
        let rest = scheme.and_then(|_| head.get(SCHEME.len()..)).ok_or_else(|| error("expected camp:// at its beginning"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (fragment, issuer) = split_issuer(fragment)?;
        let (psk, version1) = parse_key(fragment)?;
        let query = Query::parse(query)?;
        if let Some(issuer) = &issuer {
            check_issuer(issuer, &query.roots)?;
        }

        let segments: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
        if segments.len() > MAX_SERVERS {
            return Err(error("more than 16 servers"));
        }
        if query.pins.len() > 1 && query.pins.len() != segments.len() {
            return Err(error("expected one cert= for all servers, or one for each"));
        }
        let mut servers = Vec::with_capacity(segments.len());
        for (index, segment) in segments.iter().enumerate() {
            let pin = query.pins.get(index).or_else(|| query.pins.first().filter(|_| query.pins.len() == 1)).copied().flatten();
            let server = parse_segment(segment, &query.transports, pin);
            servers.push(server.map_err(|ParseServerError(why)| error(&format!("server {}: {why}", index + 1)))?);
        }
        Ok(Self { servers: merge(servers), network: query.network, psk, roots: query.roots, issuer, version1 })
    }
}

#[derive(Default)]
struct Query {
    network: Option<NetworkId>,
    transports: Vec<Transport>,
    pins: Vec<Option<[u8; 32]>>,
    roots: Vec<RootPublic>,
}

impl Query {
    fn parse(text: &str) -> Result<Self, ParseUriError> {
        let mut query = Self::default();
        for (key, value) in text.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))) {
            match key {
                "net" if query.network.is_some() => return Err(error("net= given twice")),
                "net" => query.network = Some(value.parse().map_err(|_| error("expected 10 hex digits behind net="))?),
                "transport" => {
                    for name in value.split(',') {
                        let transport = [Transport::Udp, Transport::Tcp, Transport::Tls].into_iter().find(|t| transport_name(*t) == name);
                        let transport = transport.ok_or_else(|| error("expected udp, tcp or tls behind transport="))?;
                        if !query.transports.contains(&transport) {
                            query.transports.push(transport);
                        }
                    }
                }
                "cert" => {
                    for pin in value.split(',') {
                        let pin = if pin.is_empty() { None } else { Some(parse_pin(pin).map_err(|ParseServerError(why)| error(&why))?) };
                        query.pins.push(pin);
                    }
                }
                "root" => {
                    for root in value.split(',') {
                        let root =
                            root.parse().map_err(|_| error("expected behind root= the 43 characters that `campfire root show` prints"))?;
                        if !query.roots.contains(&root) {
                            query.roots.push(root);
                        }
                    }
                    if query.roots.len() > MAX_ROOTS {
                        return Err(error("more than two roots"));
                    }
                }
                _ => {}
            }
        }
        Ok(query)
    }
}

fn parse_segment(segment: &str, transports: &[Transport], pin: Option<[u8; 32]>) -> Result<Server, ParseServerError> {
    let (id, place) = match segment.split_once('=') {
        Some((id, place)) => (Some(ServerId::new(id)?), place),
        None => (None, segment),
    };
    let (host, port) = split_host(place)?;
    let port = port.unwrap_or(PORT);
    let transports = if transports.is_empty() { plain_transports(port) } else { transports };
    let id = id.map_or_else(|| ServerId::new(&host_port(&host, port)), Ok)?;
    let tls_port = if port == PORT { TLS_PORT } else { port };
    Ok(Server { id, addresses: addresses(&host, port, tls_port, transports), certificate_pin: pin })
}

/// What follows the key of ours behind a dot. In a version 1 key a dot is one of its characters.
fn split_issuer(fragment: &str) -> Result<(&str, Option<Issuer>), ParseUriError> {
    match fragment.split_once('.') {
        Some((key, issuer)) if key.parse::<Psk>().is_ok() => {
            let issuer = issuer
                .trim()
                .parse()
                .map_err(|_| error("what follows the key and a dot is not what `campfire uri --for` prints; was it cut?"))?;
            Ok((key, Some(issuer)))
        }
        Some(_) | None => Ok((fragment, None)),
    }
}

/// An issuer without its root would certify for nobody.
fn check_issuer(issuer: &Issuer, roots: &[RootPublic]) -> Result<(), ParseUriError> {
    if roots.is_empty() {
        return Err(error("expected root= where something that certifies follows the key"));
    }
    if issuer.is_of(roots) {
        Ok(())
    } else {
        Err(error("what certifies behind the key is not by the root that root= names: ask for a new URI"))
    }
}

/// A key of ours, or version 1's: 32 printable ASCII characters, taken as the bytes that they are.
fn parse_key(fragment: &str) -> Result<(Psk, bool), ParseUriError> {
    if let Ok(psk) = fragment.parse() {
        return Ok((psk, false));
    }
    let bytes = percent_decode(fragment).filter(|bytes| bytes.iter().all(|b| matches!(b, 0x20..=0x7E)));
    let key = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
    let key = key.ok_or_else(|| error("expected a key behind #: 43 characters of base64url or 64 hex digits"))?;
    Ok((Psk::from_bytes(key), true))
}

fn percent_decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (digits, tail) = rest.split_first_chunk::<2>()?;
            let mut decoded = [0];
            hex::decode_to_slice(digits, &mut decoded).ok()?;
            bytes.push(decoded[0]);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
    }
}

fn error(what: &str) -> ParseUriError {
    ParseUriError(format!("not a campfire URI: {what}"))
}
