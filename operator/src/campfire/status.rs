//! The status of a Campfire. Pure: what it says follows from what was found.

use std::collections::{BTreeMap, BTreeSet};

use campfire_api::conditions::{ConditionType, Reason};
use campfire_api::{CampfireStatus, ClusterPeers, Endpoint, KeyGeneration};

use crate::conditions::{Said, Stated};
use crate::events::clip;

/// Most clusters in status.
const MAX_CLUSTERS: usize = 32;

/// Ready follows from the others: the first that is not True says why.
pub fn ready(said: &[Stated], ready_message: &str) -> Said {
    let needed = [ConditionType::Accepted, ConditionType::KeyReady, ConditionType::TurnAvailable];
    let lacking = said.iter().find(|(kind, said)| needed.contains(kind) && !said.is_true());
    lacking.map_or_else(|| Said::of(Reason::Ready, ready_message), |(_, lacking)| lacking.clone())
}

/// Version of the list of servers: one more whenever it changes.
pub fn list_version(before: &CampfireStatus, published: &BTreeSet<String>, published_before: &BTreeSet<String>) -> i64 {
    match before.server_list_version {
        Some(version) if published == published_before => version,
        Some(version) => version.saturating_add(1),
        None => 1,
    }
}

/// Who is known to be at the fire, and which keys they hold.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// By identity: cluster and fingerprints.
    pub known: BTreeMap<String, (String, BTreeSet<String>)>,
    /// Those of them that are pods of this cluster.
    pub here: BTreeSet<String>,
    /// Members in all, where the room is too large to know each.
    pub counted: usize,
}

impl Peers {
    /// How many there are.
    pub fn total(&self) -> i32 {
        i32::try_from(self.known.len().max(self.counted)).unwrap_or(i32::MAX)
    }

    /// By cluster, the largest first, at most 32, and in the order of their names.
    pub fn clusters(&self) -> Vec<ClusterPeers> {
        let mut counts: BTreeMap<String, i32> = BTreeMap::new();
        for (cluster, _) in self.known.values() {
            let count = counts.entry(clip(cluster, 63).to_owned()).or_default();
            *count = count.saturating_add(1);
        }
        let mut clusters: Vec<ClusterPeers> = counts.into_iter().map(|(name, peers)| ClusterPeers { name, peers }).collect();
        clusters.sort_by(|one, other| other.peers.cmp(&one.peers).then_with(|| one.name.cmp(&other.name)));
        clusters.truncate(MAX_CLUSTERS);
        clusters.sort_by(|one, other| one.name.cmp(&other.name));
        clusters
    }

    /// How many hold each of these keys.
    pub fn generations(&self, fingerprints: &[String]) -> Vec<KeyGeneration> {
        let holders = |fingerprint: &String| self.known.values().filter(|(_, held)| held.contains(fingerprint)).count();
        fingerprints
            .iter()
            .map(|fingerprint| KeyGeneration {
                fingerprint: fingerprint.clone(),
                peers: i32::try_from(holders(fingerprint)).unwrap_or(i32::MAX),
            })
            .collect()
    }

    /// How many pods of this cluster lack this key.
    pub fn lacking_here(&self, fingerprint: &str) -> usize {
        self.here.iter().filter_map(|identity| self.known.get(identity)).filter(|(_, held)| !held.contains(fingerprint)).count()
    }

    /// Clusters with peers that lack this key, and how many.
    pub fn lacking(&self, fingerprint: &str) -> BTreeMap<String, usize> {
        let mut lacking: BTreeMap<String, usize> = BTreeMap::new();
        for (cluster, _) in self.known.values().filter(|(_, held)| !held.contains(fingerprint)) {
            *lacking.entry(cluster.clone()).or_default() += 1;
        }
        lacking
    }
}

/// What is said of the servers, by `TurnAvailable`.
pub fn turn_available(wanted: u8, ready: i32, elsewhere: usize, waiting: &[String], trouble: Option<&str>, endpoints: &[Endpoint]) -> Said {
    if wanted == 0 {
        return if elsewhere > 0 {
            Said::of(Reason::NotDeployed, format!("no servers here, {elsewhere} elsewhere"))
        } else {
            Said::of(Reason::NoServers, "no server to meet on: give spec.turn.servers, or spec.turn.replicas above 0")
        };
    }
    if ready <= 0 {
        let why = trouble.map_or_else(|| "the pods of the servers are not ready yet".to_owned(), str::to_owned);
        return Said::of(
            Reason::TurnNotReady,
            format!("0 of {wanted} servers are ready: {why}; kubectl describe pods -l app.kubernetes.io/name=campfire-turn shows more"),
        );
    }
    if let Some(first) = waiting.first() {
        let message = format!(
            "Service {first} has no address yet ({} wait): is there a load balancer controller in this cluster? Else use exposure type NodePort or HostPort",
            waiting.len()
        );
        return Said::of(Reason::WaitingForAddress, message);
    }
    if endpoints.is_empty() {
        return Said::of(Reason::NoEndpoints, "the Services of the servers have no address yet");
    }
    if ready < i32::from(wanted) {
        let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
        return Said::of(Reason::SomeReady, format!("{ready} of {wanted} servers are ready{why}"));
    }
    Said::of(Reason::AllReady, format!("{ready} of {wanted} servers are ready"))
}
