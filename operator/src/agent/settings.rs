//! What a pod is told.

use campfire_api::agent::{ServerEntry, Settings};
use sha2::{Digest, Sha256};

use crate::state::{Membership, PodId};

/// Settings of a pod: what all members of its Campfire are told, and who it is. `direct`: whether direct paths may be used.
pub fn settings(membership: &Membership, pod: &PodId, direct: bool, agent_ca: &str) -> Settings {
    let mut servers: Vec<ServerEntry> = membership.servers.clone();
    servers.sort_by_key(|server| !server.in_cluster);
    let mut settings = Settings {
        version: String::new(),
        keys: membership.keys.clone(),
        network: membership.network.clone(),
        servers,
        name: pod.key.name.clone(),
        namespace: pod.key.namespace.clone(),
        cluster: membership.cluster.clone(),
        ipv4_pool: membership.ipv4_pool.clone(),
        accept_routes: membership.accept_routes.clone(),
        mtu: membership.mtu,
        domain: membership.domain.clone(),
        direct,
        agent_ca: agent_ca.to_owned(),
    };
    settings.version = version(&settings);
    settings
}

/// A hash of all the rest: 32 hex digits, the same whoever leads.
fn version(settings: &Settings) -> String {
    let mut hash = Sha256::new();
    // Written into the hash, so that no copy of the keys is left in memory.
    let _ = serde_json::to_writer(&mut hash, settings);
    let digest = hash.finalize();
    hex::encode(digest.get(..16).unwrap_or_default())
}
