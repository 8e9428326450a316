//! Who is known to be at a fire, and which keys they hold. Pure.

use std::collections::{BTreeMap, BTreeSet};

use campfire_api::{ClusterPeers, KeyGeneration};
use campfire_protocol::identity::PublicKey;
use campfire_protocol::key::Fingerprint;

use crate::events::clip;

/// Most clusters in status.
const MAX_CLUSTERS: usize = 32;
/// How the cluster of those is called that name none.
const UNNAMED: &str = "(unnamed)";

/// A peer, as far as a rotation asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its cluster; empty: it names none.
    pub cluster: String,
    /// The keys that it holds.
    pub holds: BTreeSet<Fingerprint>,
}

/// Who is known to be at the fire, and which keys they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// By identity.
    pub known: BTreeMap<PublicKey, Holder>,
    /// Those of them that are pods of this cluster.
    pub here: BTreeSet<PublicKey>,
    /// Members in all, where the room is too large to know each.
    pub counted: usize,
    /// Pods that claim a place there and have not reported.
    pub silent: usize,
}

impl Peers {
    /// How many there are.
    pub fn total(&self) -> i32 {
        i32::try_from(self.known.len().max(self.counted)).unwrap_or(i32::MAX)
    }

    /// By cluster, the largest first, at most 32, and in the order of their names.
    pub fn clusters(&self) -> Vec<ClusterPeers> {
        let mut counts: BTreeMap<String, i32> = BTreeMap::new();
        for peer in self.known.values() {
            let name = if peer.cluster.is_empty() { UNNAMED } else { clip(&peer.cluster, 63) };
            let count = counts.entry(name.to_owned()).or_default();
            *count = count.saturating_add(1);
        }
        let mut clusters: Vec<ClusterPeers> = counts.into_iter().map(|(name, peers)| ClusterPeers { name, peers }).collect();
        clusters.sort_by(|one, other| other.peers.cmp(&one.peers).then_with(|| one.name.cmp(&other.name)));
        clusters.truncate(MAX_CLUSTERS);
        clusters.sort_by(|one, other| one.name.cmp(&other.name));
        clusters
    }

    /// How many hold each of these keys.
    pub fn generations(&self, fingerprints: &[Fingerprint]) -> Vec<KeyGeneration> {
        let holders = |fingerprint: &Fingerprint| self.known.values().filter(|peer| peer.holds.contains(fingerprint)).count();
        let generation = |fingerprint: &Fingerprint| KeyGeneration {
            fingerprint: fingerprint.to_string(),
            peers: i32::try_from(holders(fingerprint)).unwrap_or(i32::MAX),
        };
        fingerprints.iter().map(generation).collect()
    }

    /// How many pods of this cluster lack this key.
    pub fn lacking_here(&self, fingerprint: Fingerprint) -> usize {
        self.here.iter().filter_map(|identity| self.known.get(identity)).filter(|peer| !peer.holds.contains(&fingerprint)).count()
    }

    /// Clusters with peers that lack this key, and how many.
    pub fn lacking(&self, fingerprint: Fingerprint) -> BTreeMap<String, usize> {
        let mut lacking: BTreeMap<String, usize> = BTreeMap::new();
        for peer in self.known.values().filter(|peer| !peer.holds.contains(&fingerprint)) {
            *lacking.entry(peer.cluster.clone()).or_default() += 1;
        }
        lacking
    }
}
