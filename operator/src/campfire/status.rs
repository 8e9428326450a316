//! The status of a Campfire. Pure: what it says follows from what was found.

use std::collections::{BTreeMap, BTreeSet};

use campfire_api::{CampfireStatus, ClusterPeers, Endpoint, KeyGeneration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::events::clip;

/// Longest message of a condition, bytes.
const MAX_MESSAGE: usize = 1024;
/// Most clusters in status.
const MAX_CLUSTERS: usize = 32;

/// What is said of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its type.
    pub kind: &'static str,
    /// `None`: Unknown.
    pub status: Option<bool>,
    /// CamelCase.
    pub reason: String,
    /// What to do.
    pub message: String,
}

impl Said {
    /// True.
    pub fn yes(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, status: Some(true), reason: reason.into(), message: message.into() }
    }

    /// False.
    pub fn no(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, status: Some(false), reason: reason.into(), message: message.into() }
    }

    /// Unknown.
    pub fn unknown(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, status: None, reason: reason.into(), message: message.into() }
    }
}

/// Conditions in the order given. The time of a condition is that of its last change between True, False and Unknown.
pub fn conditions(before: &[Condition], said: &[Said], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let of = |said: &Said| {
        let status = match said.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let held = before.iter().find(|condition| condition.type_ == said.kind && condition.status == status);
        Condition {
            type_: said.kind.into(),
            status: status.into(),
            reason: said.reason.clone(),
            message: clip(&said.message, MAX_MESSAGE).into(),
            observed_generation: generation,
            last_transition_time: held.map_or(Time(now), |held| held.last_transition_time.clone()),
        }
    };
    said.iter().map(of).collect()
}

/// Ready follows from the others: the first that is not True says why.
pub fn ready(said: &[Said], ready_message: &str) -> Said {
    let needed = ["Accepted", "KeyReady", "TurnAvailable"];
    match said.iter().find(|said| needed.contains(&said.kind) && said.status != Some(true)) {
        Some(lacking) => Said { kind: "Ready", ..lacking.clone() },
        None => Said::yes("Ready", "Ready", ready_message),
    }
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

    /// Clusters with peers that lack this key, and how many.
    pub fn lacking(&self, fingerprint: &str) -> BTreeMap<String, usize> {
        let mut lacking: BTreeMap<String, usize> = BTreeMap::new();
        for (cluster, _) in self.known.values().filter(|(_, held)| !held.contains(fingerprint)) {
            *lacking.entry(cluster.clone()).or_default() += 1;
        }
        lacking
    }
}

/// What is said of the servers.
pub fn turn_available(wanted: u8, ready: i32, elsewhere: usize, waiting: &[String], trouble: Option<&str>, endpoints: &[Endpoint]) -> Said {
    let kind = "TurnAvailable";
    if wanted == 0 {
        return if elsewhere > 0 {
            Said::yes(kind, "NotDeployed", format!("no servers here, {elsewhere} elsewhere"))
        } else {
            Said::no(kind, "NoServers", "no server to meet on: give spec.turn.servers, or spec.turn.replicas above 0")
        };
    }
    if ready <= 0 {
        let why = trouble.map_or_else(|| "the pods of the servers are not ready yet".to_owned(), str::to_owned);
        return Said::no(kind, "TurnNotReady", format!("0 of {wanted} servers are ready: {why}; kubectl describe shows more"));
    }
    if let Some(first) = waiting.first() {
        let message = format!(
            "Service {first} has no address yet ({} wait): is there a load balancer controller in this cluster? Else use exposure type NodePort or HostPort",
            waiting.len()
        );
        return Said::no(kind, "WaitingForAddress", message);
    }
    if endpoints.is_empty() {
        return Said::no(kind, "NoEndpoints", "the Services of the servers have no address yet");
    }
    if ready < i32::from(wanted) {
        let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
        return Said::yes(kind, "SomeReady", format!("{ready} of {wanted} servers are ready{why}"));
    }
    Said::yes(kind, "AllReady", format!("{ready} of {wanted} servers are ready"))
}
