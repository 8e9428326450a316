//! Memberships in the terms of the fire, and what is seen there in those of the operator. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use campfire_api::agent::{Key, KeyMode, ServerEntry};
use campfire_fire::Fire;
use campfire_fire::config::{self, KeyEntry};
use campfire_fire::status::ServerState;
use campfire_protocol::announce::{Announcement, MAX_ADDRESSES, MAX_FINGERPRINTS, MAX_SERVERS, NO_TUNNEL, ServerRecord, Session};
use campfire_protocol::identity::{Identity, NetworkId, PublicKey, ipv4_in_pool};
use campfire_protocol::key::{Fingerprint, Keys, Psk};
use campfire_protocol::server::{Scope, Server, ServerAddress, ServerTag, Transport, merge};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::MemberId;
use ipnet::Ipv4Net;

use crate::state::{Membership, Sighting, View};

/// The name that operators show at the fire, by which they find each other in large rooms.
pub(super) const NAME: &str = "campfire-operator";
/// Most members in a [`View`].
const MAX_SEEN: usize = 10_000;
/// Most servers of other clusters in a [`View`], as texts.
const MAX_FOREIGN: usize = 64;
/// Origins that are remembered, as in the mesh.
const MAX_ORIGINS: usize = 8;

/// A membership that was understood.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) keys: Vec<KeyEntry>,
    pub(super) network: NetworkId,
    pub(super) servers: Vec<Server>,
    pub(super) record: ServerRecord,
    pub(super) cluster: String,
    pub(super) pool: Option<Ipv4Net>,
}

/// Why there can be no camping with a membership. Never holds what it could not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadMembership {
    #[error("the membership holds no key that can be read")]
    Key,
    #[error("the membership's network id is not 10 hex digits")]
    Network,
}

impl Plan {
    /// Servers that cannot be read are left out: whoever published them has said so.
    pub(super) fn new(membership: &Membership) -> Result<Self, BadMembership> {
        let keys: Vec<KeyEntry> = membership.keys.iter().filter_map(key).collect();
        if keys.is_empty() {
            return Err(BadMembership::Key);
        }
        Ok(Self {
            keys,
            network: membership.network.parse().map_err(|_| BadMembership::Network)?,
            servers: merge(membership.servers.iter().filter_map(server)),
            record: ServerRecord { version: membership.server_list_version, servers: published(&membership.published) },
            cluster: membership.cluster.clone(),
            pool: membership.ipv4_pool.as_ref().and_then(|pool| pool.parse().ok()),
        })
    }

    /// Keys by fingerprint and use: what makes two sets the same.
    pub(super) fn key_names(&self) -> Vec<(Fingerprint, bool)> {
        self.keys.iter().map(|entry| (entry.keys.fingerprint, entry.mode == config::KeyMode::Announce)).collect()
    }
}

fn key(key: &Key) -> Option<KeyEntry> {
    let keys = Arc::new(key.psk.parse::<Psk>().ok()?.derive());
    let mode = match key.mode {
        KeyMode::Accept => config::KeyMode::Accept,
        KeyMode::Announce => config::KeyMode::Announce,
    };
    Some(KeyEntry { keys, mode })
}

fn server(entry: &ServerEntry) -> Option<Server> {
    let mut server: Server = entry.text.parse().ok()?;
    if entry.in_cluster {
        server.addresses.iter_mut().for_each(|address| address.scope = Scope::Cluster);
    }
    Some(server)
}

fn published(texts: &[String]) -> Vec<Server> {
    let mut servers = merge(texts.iter().filter_map(|text| text.parse().ok()));
    servers.truncate(MAX_SERVERS);
    for server in &mut servers {
        server.addresses.truncate(MAX_ADDRESSES);
    }
    servers
}

/// The most of a record that fits an announcement (700 bytes): with fewer addresses of each server first, then with fewer
/// servers. Tells whether something was left out.
pub(super) fn fitting(record: &ServerRecord, cluster: &str, identity: &Identity, keys: &Keys) -> (ServerRecord, bool) {
    let largest = |record: &ServerRecord| Announcement {
        public_key: identity.public(),
        session: Session { started: UnixMillis(u64::MAX), nonce: u64::MAX },
        sequence: u32::MAX,
        sent_at: UnixMillis(u64::MAX),
        name: NAME.into(),
        namespace: String::new(),
        cluster: cluster.into(),
        fingerprints: vec![Fingerprint([0; 8]); MAX_FINGERPRINTS],
        servers: vec![ServerTag([0; 8]); MAX_SERVERS],
        routes: Vec::new(),
        ipv4: None,
        features: NO_TUNNEL,
        record: Some(record.clone()),
    };
    let fits = |record: &ServerRecord| largest(record).seal(identity, keys, &MemberId([0; 16]), &[0; 24]).is_ok();
    if fits(record) {
        return (record.clone(), false);
    }
    let mut trimmed = record.clone();
    for most in (1..MAX_ADDRESSES).rev() {
        for server in &mut trimmed.servers {
            server.addresses.truncate(most);
        }
        if fits(&trimmed) {
            return (trimmed, true);
        }
    }
    while trimmed.servers.pop().is_some() && !fits(&trimmed) {}
    (trimmed, true)
}

/// What origins said, by their keys. Kept while this process sits at the fire: their servers stay good while their operators
/// are away.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<PublicKey, ServerRecord>);

impl Origins {
    /// Takes what is said now.
    pub(super) fn look(&mut self, fire: &Fire, own: &PublicKey) {
        for announcement in fire.peers().filter(|announcement| announcement.public_key != *own) {
            let (origin, Some(record)) = (announcement.public_key, &announcement.record) else { continue };
            if self.0.get(&origin).is_some_and(|known| known.version >= record.version) {
                continue;
            }
            if !self.0.contains_key(&origin) && self.0.len() >= MAX_ORIGINS {
                let Some(gone) = self.0.keys().find(|known| fire.announcement(known).is_none()).copied() else { continue };
                self.0.remove(&gone);
            }
            self.0.insert(origin, record.clone());
        }
    }

    /// Their servers as texts, without addresses that mean something else here.
    fn servers(&self) -> Vec<String> {
        let mut texts: Vec<String> = Vec::new();
        for server in self.0.values().flat_map(|record| &record.servers) {
            for address in server.addresses.iter().filter(|address| address.scope == Scope::External && abroad(&address.host)) {
                let text = text(server, address);
                if texts.len() < MAX_FOREIGN && !texts.contains(&text) {
                    texts.push(text);
                }
            }
        }
        texts
    }
}

/// Not an address of whoever reads it.
fn abroad(host: &str) -> bool {
    match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(ip)) => !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast()),
        Ok(std::net::IpAddr::V6(ip)) => !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast()),
        Err(_) => host != "localhost",
    }
}

/// A server's address as a text of docs/protocol.md ("Servers").
fn text(server: &Server, address: &ServerAddress) -> String {
    let (scheme, mut query) = match address.transport {
        Transport::Udp => ("turn", vec!["transport=udp".to_owned()]),
        Transport::Tcp => ("turn", vec!["transport=tcp".to_owned()]),
        Transport::Tls => ("turns", Vec::new()),
    };
    if let Some(pin) = server.certificate_pin.filter(|_| address.transport == Transport::Tls) {
        query.push(format!("cert={}", URL_SAFE_NO_PAD.encode(pin)));
    }
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    format!("{}={scheme}:{host}:{}{query}", server.id, address.port)
}

/// What is seen now.
pub(super) fn view(fire: &Fire, now: Time, plan: &Plan, own: &PublicKey, origins: &Origins) -> View {
    let camped = fire.servers(now).iter().filter(|server| server.state == ServerState::Camped).count();
    let seen = fire.peers().filter(|announcement| announcement.public_key != *own).take(MAX_SEEN);
    let mut seated: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (keys, server) in fire.seated(now) {
        seated.entry(keys.fingerprint.to_string()).or_default().insert(server.to_owned());
    }
    View {
        camped,
        members: fire.members().saturating_sub(1),
        seen: seen.map(|announcement| (announcement.public_key.to_string(), sighting(announcement, plan))).collect(),
        foreign_servers: origins.servers(),
        seated,
    }
}

fn sighting(announcement: &Announcement, plan: &Plan) -> Sighting {
    let key = &announcement.public_key;
    let mut addresses = vec![plan.network.address(key).to_string()];
    let claimed = announcement.ipv4.filter(|ipv4| plan.pool.and_then(|pool| ipv4_in_pool(pool, key)) == Some(*ipv4));
    addresses.extend(claimed.map(|ipv4| ipv4.to_string()));
    Sighting {
        identity: key.to_string(),
        public_key: STANDARD.encode(key.x25519()),
        name: announcement.name.clone(),
        namespace: announcement.namespace.clone(),
        cluster: announcement.cluster.clone(),
        addresses,
        fingerprints: announcement.fingerprints.iter().map(ToString::to_string).collect(),
        origin: !announcement.has_tunnel(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by it")]

    use super::*;

    #[test]
    fn a_record_too_large_for_an_announcement_loses_addresses_before_servers() {
        let texts: Vec<String> =
            (0..8).map(|n| format!("0123abcd-{n}=turn:a-long-name-of-a-load-balancer-{n}.elb.eu-central-1.example.com")).collect();
        let record = ServerRecord { version: 7, servers: published(&texts) };
        let identity = Identity::from_seed(&[1; 32]);
        let keys = Psk::from_bytes([2; 32]).derive();
        let (fitted, trimmed) = fitting(&record, "east", &identity, &keys);
        assert!(trimmed);
        assert_eq!(fitted.version, 7);
        assert!(fitted.servers.iter().all(|server| server.addresses.len() == 1), "{fitted:?}");
        assert!((3..8).contains(&fitted.servers.len()), "{}", fitted.servers.len());
        let small = ServerRecord { version: 7, servers: published(&texts[..2]) };
        assert_eq!(fitting(&small, "east", &identity, &keys), (small.clone(), false));
    }

    #[test]
    fn a_server_written_as_texts_is_read_as_the_same_server() {
        let pin = URL_SAFE_NO_PAD.encode([9; 32]);
        let texts = [
            "one-0=turn:192.0.2.1:3478?transport=udp".to_owned(),
            "one-0=turn:[2001:db8::1]:3479?transport=tcp".to_owned(),
            format!("one-0=turns:turn.example.com:5349?cert={pin}"),
        ];
        let [server] = published(&texts).try_into().unwrap();
        let written: Vec<String> = server.addresses.iter().map(|address| text(&server, address)).collect();
        assert_eq!(written, texts);
    }

    #[test]
    fn addresses_of_whoever_reads_them_are_no_servers_of_others() {
        for bad in ["127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "fe80::1", "localhost"] {
            assert!(!abroad(bad), "{bad}");
        }
        assert!(abroad("10.0.0.1") && abroad("2001:db8::1") && abroad("turn.example.com"));
    }

    #[test]
    fn what_cannot_be_read_of_a_membership_is_said_without_showing_it() {
        let membership = Membership {
            network: "0123456789".into(),
            servers: vec![ServerEntry { text: "nonsense::".into(), in_cluster: false }],
            cluster: "east".into(),
            ..Membership::default()
        };
        assert_eq!(Plan::new(&membership).unwrap_err(), BadMembership::Key);
        let key = Key { psk: Psk::from_bytes([3; 32]).to_text(), mode: KeyMode::Announce };
        let membership = Membership { keys: vec![key], ..membership };
        assert!(Plan::new(&membership).unwrap().servers.is_empty());
        let membership = Membership { network: "secret".into(), ..membership };
        assert_eq!(Plan::new(&membership).unwrap_err(), BadMembership::Network);
    }
}
