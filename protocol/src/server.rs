//! Servers: ids with addresses, and which of them to camp on (docs/protocol.md, "Servers").

use std::fmt;
use std::str::FromStr;

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

/// A server's id: 1 to 128 printable ASCII characters without spaces.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(String);

/// Why a text names no server. The message says what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseServerError(pub String);

impl ServerId {
    /// Checks the rules above.
    pub fn new(id: &str) -> Result<Self, ParseServerError> {
        if id.is_empty() || id.len() > 128 || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ParseServerError("a server id has 1 to 128 printable ASCII characters and no spaces".into()));
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

impl FromStr for Server {
    type Err = ParseServerError;

    /// Takes what people write in flags and files: `turn:host[:port][?transport=udp|tcp]`, `turns:host[:port]`, or plain
    /// `host[:port]` (all of UDP, TCP on the port, TLS on 5349 if the port is 3478, in that order). IPv6 in brackets. An id may precede: `id=host…`.
    fn from_str(_text: &str) -> Result<Self, ParseServerError> {
        todo!()
    }
}
