//! Memberships in the terms of the fire, and what is seen there in those of the operator. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use campfire_fire::Fire;
use campfire_fire::config::{self, KeyEntry};
use campfire_fire::status::ServerState;
use campfire_protocol::announce::{Announcement, MAX_ADDRESSES, MAX_FINGERPRINTS, MAX_SERVERS, NO_TUNNEL, ServerRecord, Session};
use campfire_protocol::identity::{Identity, NetworkId, PublicKey, ipv4_in_pool};
use campfire_protocol::key::{Fingerprint, Keys};
use campfire_protocol::server::{Scope, Server, ServerId, ServerTag, Transport, merge};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::MemberId;
use ipnet::Ipv4Net;

use crate::state::{Membership, Sighting, View, WireguardKey};

/// The name that operators show at the fire, by which they find each other in large rooms.
pub(super) const NAME: &str = "campfire-operator";
/// Most members in a [`View`].
const MAX_SEEN: usize = 10_000;
/// Most addresses of other clusters' servers in a [`View`].
const MAX_FOREIGN: usize = 64;
/// Origins that are remembered, as in the mesh.
const MAX_ORIGINS: usize = 8;

/// A membership in the terms of the fire.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) keys: Vec<KeyEntry>,
    pub(super) network: NetworkId,
    pub(super) servers: Vec<Server>,
    /// What origins published, kept while they are away.
    pub(super) heard: Vec<Server>,
    pub(super) record: ServerRecord,
    pub(super) cluster: String,
    pub(super) pool: Option<Ipv4Net>,
}

/// There can be no camping with such a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the membership holds no key")]
pub(super) struct Keyless;

impl Plan {
    /// Of a membership with at least one key.
    pub(super) fn new(membership: &Membership) -> Result<Self, Keyless> {
        if membership.keys.is_empty() {
            return Err(Keyless);
        }
        Ok(Self {
            keys: membership.keys.iter().map(|held| KeyEntry { keys: held.keys.clone(), mode: held.mode }).collect(),
            network: membership.id,
            servers: membership.told(),
            heard: membership.heard.clone(),
            record: ServerRecord { version: membership.server_list_version, servers: published(membership.published()) },
            cluster: membership.cluster.clone(),
            pool: membership.network.ipv4_pool,
        })
    }

    /// Keys by fingerprint and use: what makes two sets the same.
    pub(super) fn key_names(&self) -> Vec<(Fingerprint, bool)> {
        self.keys.iter().map(|entry| (entry.keys.fingerprint, entry.mode == config::KeyMode::Announce)).collect()
    }
}

/// As many as a record may have.
fn published(mut servers: Vec<Server>) -> Vec<Server> {
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

    /// Their servers, without addresses that mean something else here.
    fn servers(&self) -> Vec<Server> {
        let mut left = MAX_FOREIGN;
        let servers = self.0.values().flat_map(|record| &record.servers).map(|server| {
            let mut server = server.clone();
            server.addresses.retain(|address| address.scope == Scope::External && abroad(&address.host));
            server.addresses.truncate(left);
            left -= server.addresses.len();
            // Says nothing where no address shows a certificate.
            server.certificate_pin.take_if(|_| server.addresses.iter().all(|address| address.transport != Transport::Tls));
            server
        });
        merge(servers.filter(|server| !server.addresses.is_empty()))
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

/// What is seen now; `before`: what was.
pub(super) fn view(fire: &Fire, now: Time, plan: &Plan, own: &PublicKey, origins: &Origins, before: &View) -> View {
    let camped = fire.servers(now).iter().filter(|server| server.state == ServerState::Camped).count();
    let seen = fire.peers().filter(|announcement| announcement.public_key != *own).take(MAX_SEEN);
    let mut seated: BTreeMap<Fingerprint, BTreeSet<ServerId>> = BTreeMap::new();
    for (keys, server) in fire.seated(now) {
        seated.entry(keys.fingerprint).or_default().extend(ServerId::new(server));
    }
    View {
        camped,
        members: fire.members().saturating_sub(1),
        seen: seen.map(|announcement| (announcement.public_key, sighting(announcement, plan, before))).collect(),
        foreign_servers: origins.servers(),
        seated,
    }
}

fn sighting(announcement: &Announcement, plan: &Plan, before: &View) -> Sighting {
    let key = &announcement.public_key;
    // Arithmetic on the curve, which is most of what a view costs: done once for each key.
    let wireguard = before.seen.get(key).map_or_else(|| WireguardKey(key.x25519()), |seen| seen.wireguard);
    let mut addresses = vec![IpAddr::V6(plan.network.address(key))];
    let claimed = announcement.ipv4.filter(|ipv4| plan.pool.and_then(|pool| ipv4_in_pool(pool, key)) == Some(*ipv4));
    addresses.extend(claimed.map(IpAddr::V4));
    Sighting {
        identity: *key,
        wireguard,
        name: announcement.name.clone(),
        namespace: announcement.namespace.clone(),
        cluster: announcement.cluster.clone(),
        addresses,
        fingerprints: announcement.fingerprints.clone(),
        origin: !announcement.has_tunnel(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by it")]

    use campfire_protocol::key::{KeyMode, Psk};

    use super::*;
    use crate::state::{HeldKey, MeshNetwork};

    #[test]
    fn a_record_too_large_for_an_announcement_loses_addresses_before_servers() {
        let texts: Vec<String> =
            (0..8).map(|n| format!("0123abcd-{n}=turn:a-long-name-of-a-load-balancer-{n}.elb.eu-central-1.example.com")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let record = ServerRecord { version: 7, servers: published(servers(&texts)) };
        let identity = Identity::from_seed(&[1; 32]);
        let keys = Psk::from_bytes([2; 32]).derive();
        let (fitted, trimmed) = fitting(&record, "east", &identity, &keys);
        assert!(trimmed);
        assert_eq!(fitted.version, 7);
        assert!(fitted.servers.iter().all(|server| server.addresses.len() == 1), "{fitted:?}");
        assert!((3..8).contains(&fitted.servers.len()), "{}", fitted.servers.len());
        let small = ServerRecord { version: 7, servers: published(servers(&texts[..2])) };
        assert_eq!(fitting(&small, "east", &identity, &keys), (small.clone(), false));
    }

    #[test]
    fn addresses_of_whoever_reads_them_are_no_servers_of_others() {
        for bad in ["127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "fe80::1", "localhost"] {
            assert!(!abroad(bad), "{bad}");
        }
        assert!(abroad("10.0.0.1") && abroad("2001:db8::1") && abroad("turn.example.com"));
    }

    #[test]
    fn a_membership_without_a_key_is_nothing_to_sit_with() {
        let keys = Psk::from_bytes([3; 32]).derive();
        let network = MeshNetwork { ipv4_pool: None, accept_routes: Vec::new(), mtu: 1280 };
        let mut membership = Membership {
            keys: Vec::new(),
            id: keys.network,
            own: servers(&["0123abcd-0=turn:192.0.2.1:3478"]),
            given: servers(&["turn.example.com"]),
            heard: servers(&["0123abcd-0=turn:192.0.2.1:3478", "west-0=turn:192.0.2.9:3478"]),
            cluster: "east".into(),
            network,
            server_list_version: 7,
        };
        assert_eq!(Plan::new(&membership).unwrap_err(), Keyless);
        membership.keys.push(HeldKey::new(Psk::from_bytes([3; 32]), KeyMode::Announce));
        let plan = Plan::new(&membership).unwrap();
        assert_eq!(plan.key_names(), [(keys.fingerprint, true)]);
        let ids = |servers: &[Server]| servers.iter().map(|server| server.id.to_string()).collect::<Vec<_>>();
        assert_eq!(ids(&plan.servers), ["0123abcd-0", "turn.example.com:3478"]);
        assert_eq!(ids(&plan.heard), ["0123abcd-0", "west-0"], "what others published is no more than that");
        assert_eq!((plan.record.version, plan.record.servers), (7, membership.own));
    }

    fn servers(texts: &[&str]) -> Vec<Server> {
        merge(texts.iter().map(|text| text.parse().unwrap()))
    }
}
