//! What a sidecar and the operator say to each other: JSON over HTTPS, `POST`, the pod's projected token as bearer.
//!
//! The operator takes who the pod is from the token (TokenReview: namespace, pod name, pod uid) and which Campfire it belongs to
//! from the pod's annotation; nothing in these bodies says either. Which peer the pod is the sidecar says, and proves ([`Report::statement`]).

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Path of [`SettingsRequest`] → [`Settings`] (`200`), or `204` when nothing changed within the time asked for.
///
/// The operator lets a bounded number of requests wait. A `204` with a `Retry-After` (seconds) says that there was no place: ask
/// again after that time. Each connection carries one request. Refusals are JSON `{"message": …}`; 429 and 503, and some 403 and
/// 404 (a pod that the operator has not seen yet, a Campfire that may still come), say when to come again by `Retry-After`.
pub const SETTINGS_PATH: &str = "/v1/settings";
/// Path of [`Report`] → `204`.
pub const REPORT_PATH: &str = "/v1/report";
/// Path of [`GrantRequest`] → [`Granted`], for pods whose interface the node's agent makes.
pub const GRANT_PATH: &str = "/v1/grant";
/// Largest body of a request, bytes.
pub const MAX_REQUEST: usize = 16 * 1024;
/// Largest body of an answer, bytes.
pub const MAX_ANSWER: usize = 64 * 1024;
/// Longest wait for a change, seconds.
pub const MAX_WAIT: u64 = 60;
/// Time between two reports when nothing changed, seconds.
pub const HEARTBEAT: u64 = 300;
/// Most problems in a report.
pub const MAX_PROBLEMS: usize = 8;

/// Asks for the pod's settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettingsRequest {
    /// Version of the settings held, from [`Settings::version`]; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub have: String,
    /// If they are still current: how long to wait for a change, seconds, at most [`MAX_WAIT`].
    #[serde(default)]
    pub wait: u64,
}

/// How a key is used (docs/protocol.md, "Rotation").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyMode {
    /// Be met under it.
    Accept,
    /// Meet under it.
    Announce,
}

/// A key that members hold. `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// 32 bytes, base64url without padding.
    pub psk: Zeroizing<String>,
    /// How it is used.
    pub mode: KeyMode,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// A pod's settings: all that its sidecar needs. Holds keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Changes with the rest; opaque.
    pub version: String,
    /// Keys, newest first; 1 to 4.
    pub keys: Vec<Key>,
    /// Network id, 10 hex digits.
    pub network: String,
    /// Servers as texts of docs/protocol.md ("Servers"), each with its id, in-cluster addresses first.
    pub servers: Vec<ServerEntry>,
    /// Name that the peer shows: the pod's.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's uid, by which it signs its reports ([`Report::statement`]).
    pub uid: String,
    /// This cluster's name.
    pub cluster: String,
    /// Pool of IPv4 addresses, if wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_pool: Option<String>,
    /// Routes of others that count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accept_routes: Vec<String>,
    /// MTU of the interface, bytes.
    pub mtu: u16,
    /// Whether direct paths may be used.
    pub direct: bool,
    /// CA certificates for TLS to the agent API, PEM: the newest known to the operator, so that a long-lived pod follows its rotation.
    pub agent_ca: String,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerEntry {
    /// Text of docs/protocol.md, `id=host:port?transport=…`.
    pub text: String,
    /// Only reached from inside the cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_cluster: bool,
    /// Another cluster's operator published it: nobody here gave it, and names in it that lead into the pod itself are not followed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub heard: bool,
}

/// How a peer's packets go, over all of its links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Path {
    /// Straight.
    Direct,
    /// Through TURN servers.
    Relay,
    /// Some links so, some so.
    Mixed,
    /// No link.
    #[default]
    None,
}

/// What a sidecar says of itself: on change (at most one in 5 s), else every [`HEARTBEAT`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Report {
    /// WireGuard public key, base64.
    pub public_key: String,
    /// Ed25519 public key, hex.
    pub identity: String,
    /// Overlay addresses.
    pub addresses: Vec<String>,
    /// Version of the settings in use.
    pub settings_version: String,
    /// Fingerprints of the keys held, newest first.
    pub fingerprints: Vec<String>,
    /// It sits at the fire on at least one server.
    pub camped: bool,
    /// It was started and is ready in the sense of the startup policy.
    pub ready: bool,
    /// Links by how they go.
    pub direct: u32,
    /// See `direct`.
    pub relayed: u32,
    /// Known peers without a session.
    pub unconnected: u32,
    /// Over all links.
    pub path: Path,
    /// Why not direct: CamelCase, of the most common reason; empty if direct.
    #[serde(default)]
    pub reason: String,
    /// For people; at most [`MAX_PROBLEMS`], 256 bytes each.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// Version of the sidecar.
    #[serde(default)]
    pub sidecar_version: String,
    /// Ed25519 signature by `identity` of [`Report::statement`], 64 bytes in base64.
    pub signature: String,
}

impl Report {
    /// What a peer signs to show that the identity is its own: that it runs in this pod, and which keys and addresses are its. So no pod reports an
    /// identity whose private key it does not have, and a report that was seen elsewhere is nobody else's.
    ///
    /// `"campfire/2 report"`, which nothing else that an identity signs begins with, then namespace, name and uid of the pod, `public_key`, `identity` and
    /// each of `addresses`, as the texts that they are here, each after its length in bytes (four bytes, big-endian).
    pub fn statement(&self, namespace: &str, name: &str, uid: &str) -> Vec<u8> {
        let own = [namespace, name, uid, &self.public_key, &self.identity];
        statement("campfire/2 report", own.into_iter().chain(self.addresses.iter().map(String::as_str)))
    }
}

/// What is signed: which statement it is, and its texts, each after its length.
fn statement<'a>(what: &str, texts: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut statement = what.as_bytes().to_vec();
    for text in texts {
        // No text that can be sent is longer than four bytes can say.
        statement.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        statement.extend(text.as_bytes());
    }
    statement
}

/// Asks for what the pod shows its node's agent, to be given an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantRequest {
    /// Ed25519 public key of the peer that the pod is, hex: its addresses follow from it.
    pub identity: String,
    /// Ed25519 signature by `identity` of [`GrantRequest::statement`], 64 bytes in base64.
    pub signature: String,
}

impl GrantRequest {
    /// What a peer signs to show that the identity is its own, as this pod's: `"campfire/2 grant"`, then namespace, name and uid of the pod and
    /// `identity`, each after its length in bytes (four bytes, big-endian).
    pub fn statement(&self, namespace: &str, name: &str, uid: &str) -> Vec<u8> {
        statement("campfire/2 grant", [namespace, name, uid, &self.identity].into_iter())
    }
}

/// A grant, and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Granted {
    /// The signed grant ([`Grant::sign`](crate::node::Grant::sign)), base64.
    pub grant: String,
    /// As in [`Settings`].
    pub network: String,
    /// As in [`Settings`].
    pub mtu: u16,
    /// As in [`Settings`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_pool: Option<String>,
    /// As in [`Settings`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accept_routes: Vec<String>,
}

/// Why something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemReason {
    /// No TURN server answers the peer.
    FireUnreachable,
    /// The init container could not make the interface.
    InterfaceUnconfigured,
    /// Something in the pod changed the interface, and the sidecar may not put it right.
    InterfaceChanged,
    /// A route of others cannot be taken.
    RouteNotTaken,
    /// The kernel gives the interface no IPv6.
    IPv6Off,
    /// The Campfire's network changed since the interface was made.
    SettingsOutdated,
    /// Another process uses the peer's identity.
    IdentityShared,
    /// Another peer has its IPv4 address.
    AddressTaken,
    /// What it was told does not go with the network where it runs.
    NetworkConflict,
    /// In a certified mesh, its certificate lets it in nowhere.
    NotCertified,
    /// As a sidecar of another version calls it: CamelCase.
    #[serde(untagged)]
    Other(String),
}

impl ProblemReason {
    /// As it is written.
    pub fn name(&self) -> &str {
        match self {
            Self::FireUnreachable => "FireUnreachable",
            Self::InterfaceUnconfigured => "InterfaceUnconfigured",
            Self::InterfaceChanged => "InterfaceChanged",
            Self::RouteNotTaken => "RouteNotTaken",
            Self::IPv6Off => "IPv6Off",
            Self::SettingsOutdated => "SettingsOutdated",
            Self::IdentityShared => "IdentityShared",
            Self::AddressTaken => "AddressTaken",
            Self::NetworkConflict => "NetworkConflict",
            Self::NotCertified => "NotCertified",
            Self::Other(name) => name,
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Problem {
    /// Why.
    pub reason: ProblemReason,
    /// For people: what to do.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_things_that_a_peer_may_say_of_itself_are_signed_alike() {
        let report = |key: &str, addresses: &[&str]| Report {
            public_key: key.into(),
            identity: "i".into(),
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            ..Report::default()
        };
        let said = [
            report("k", &["a", "b"]).statement("n", "p", "u"),
            report("k", &["ab"]).statement("n", "p", "u"),
            report("k", &["a", "b"]).statement("np", "", "u"),
            report("k", &["a", "b"]).statement("n", "pu", ""),
            report("", &["a", "b"]).statement("n", "p", "uk"),
            report("k", &[]).statement("n", "p", "u"),
            report("k", &["b", "a"]).statement("n", "p", "u"),
        ];
        for (number, one) in said.iter().enumerate() {
            assert!(said.iter().skip(number + 1).all(|other| one != other), "{number}");
        }
        assert_eq!(said[5], b"campfire/2 report\0\0\0\x01n\0\0\0\x01p\0\0\0\x01u\0\0\0\x01k\0\0\0\x01i");
    }
}
