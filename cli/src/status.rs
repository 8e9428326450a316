//! `status` and `peers`: what stands in the objects, as tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use campfire_api::conditions::{ConditionType, NOT_DIRECT, Truth};
use campfire_api::{Campfire, MeshPeer, PathName, PeerType};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;

use crate::cluster::Cluster;
use campfire_text::{count, printable, table};

/// `status`.
pub async fn campfires(clusters: &[Cluster]) -> Result<String> {
    let mut out = String::new();
    for cluster in clusters {
        let (campfires, peers) = tokio::try_join!(cluster.campfires(), cluster.peers())?;
        head(&mut out, clusters, cluster);
        if campfires.is_empty() {
            let _ = writeln!(
                out,
                "no Campfire in {}: examples/quickstart.yaml makes one, `kubectl campfire join` brings this cluster to another's",
                cluster.place()
            );
            continue;
        }
        out.push_str(&fires(&campfires, &peers));
    }
    Ok(out)
}

/// `peers`.
pub async fn peers(clusters: &[Cluster]) -> Result<String> {
    let mut out = String::new();
    for cluster in clusters {
        let peers = cluster.peers().await?;
        head(&mut out, clusters, cluster);
        if peers.is_empty() {
            let _ = writeln!(out, "no peer in {}", cluster.place());
            continue;
        }
        out.push_str(&rows(&peers, cluster.namespace.is_none()));
    }
    Ok(out)
}

/// The context's name, where there are several.
fn head(out: &mut String, clusters: &[Cluster], cluster: &Cluster) {
    if clusters.len() > 1 {
        let gap = if out.is_empty() { "" } else { "\n" };
        let _ = writeln!(out, "{gap}Context {}", cluster.context);
    }
}

/// A table of Campfires, and below it what is wrong with them and how packets go.
pub fn fires(campfires: &[Campfire], peers: &[MeshPeer]) -> String {
    let mut table_rows = vec![["CAMPFIRE", "READY", "SERVERS", "PEERS", "CLUSTERS", "KEY", "JOINABLE BY"].map(String::from).to_vec()];
    for campfire in campfires {
        let status = campfire.status.clone().unwrap_or_default();
        let clusters: Vec<String> = status
            .clusters
            .iter()
            .map(|cluster| format!("{} {}", if cluster.name.is_empty() { "(none)" } else { &cluster.name }, cluster.peers))
            .collect();
        let ready = condition(&status.conditions, ConditionType::Ready).map_or("Unknown", |it| it.status.as_str());
        let joinable = status.join_secret_name.map_or_else(|| "-".into(), |name| format!("Secret {name}"));
        table_rows.push(vec![
            full(campfire),
            ready.into(),
            status.turn.unwrap_or_else(|| "-".into()),
            status.peers.map_or_else(|| "-".into(), |peers| peers.to_string()),
            if clusters.is_empty() { "-".into() } else { clusters.join(", ") },
            status.key_fingerprint.unwrap_or_else(|| "-".into()),
            joinable,
        ]);
    }
    let mut out = table(&table_rows, 3);
    for campfire in campfires {
        out.push_str(&wrong(campfire));
        out.push_str(&paths(campfire, peers));
    }
    out
}

/// What is wrong with a Campfire, a line each.
fn wrong(campfire: &Campfire) -> String {
    let mut out = String::new();
    let name = full(campfire);
    let Some(status) = &campfire.status else {
        return format!("\n{name}: nothing is known of it yet: does the operator run? (kubectl campfire check)\n");
    };
    let ready = condition(&status.conditions, ConditionType::Ready);
    for it in &status.conditions {
        // Ready repeats another one, unless it stands alone.
        let repeated = it.type_ == ConditionType::Ready.name()
            && status.conditions.iter().any(|other| other.type_ != it.type_ && other.reason == it.reason);
        let is_news = it.type_ == "RemotePeersTruncated";
        if (it.status != Truth::True.name() || is_news) && !repeated {
            let _ = writeln!(out, "\n{name}: {} {}: {}", it.type_, it.reason, printable(&it.message));
        }
    }
    if ready.is_none() {
        let _ = writeln!(out, "\n{name}: the operator has not said whether it is ready: does it run? (kubectl campfire check)");
    }
    if let Some(missed) = status.missed_pods.filter(|missed| *missed > 0) {
        let pods = count(usize::try_from(missed).unwrap_or_default(), "pod");
        let _ = writeln!(
            out,
            "\n{name}: {pods} should have a sidecar and have none, made while no operator answered: make them anew (kubectl get events --field-selector reason=SidecarMissed)"
        );
    }
    out
}

/// How the packets of a Campfire's pods go, in a line.
fn paths(campfire: &Campfire, peers: &[MeshPeer]) -> String {
    let here: Vec<&MeshPeer> = peers.iter().filter(|peer| peer.spec.kind == PeerType::Pod && sits_at(peer, campfire)).collect();
    if here.is_empty() {
        return String::new();
    }
    let mut ways: BTreeMap<String, usize> = BTreeMap::new();
    for peer in &here {
        let status = peer.status.clone().unwrap_or_default();
        let why = status.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        *ways.entry(format!("{}{why}", way(status.path))).or_default() += 1;
    }
    let ways: Vec<String> = ways.into_iter().map(|(way, pods)| format!("{pods} {way}")).collect();
    let unready = here.iter().filter(|peer| !is_ready(peer)).count();
    let unready = if unready == 0 { String::new() } else { format!("; {unready} not ready: kubectl campfire peers") };
    format!("\n{}: {} here: {}{unready}\n", full(campfire), count(here.len(), "pod"), ways.join(", "))
}

fn sits_at(peer: &MeshPeer, campfire: &Campfire) -> bool {
    let namespace = peer.spec.campfire_ref.namespace.clone().or_else(|| peer.namespace());
    peer.spec.campfire_ref.name == campfire.name_any() && namespace == campfire.namespace()
}

fn way(path: Option<PathName>) -> &'static str {
    match path {
        Some(PathName::Direct) => "direct",
        Some(PathName::Relay) => "relayed",
        Some(PathName::Mixed) => "some direct, some relayed",
        Some(PathName::None) | None => "no link",
    }
}

/// A table of MeshPeers.
pub fn rows(peers: &[MeshPeer], with_namespace: bool) -> String {
    let mut rows = vec![["PEER", "TYPE", "CAMPFIRE", "CLUSTER", "ADDRESS", "PATH", "READY", "WHY"].map(String::from).to_vec()];
    for peer in peers {
        let status = peer.status.clone().unwrap_or_default();
        let dash = || "-".to_owned();
        let kind = match peer.spec.kind {
            PeerType::Pod => "pod",
            PeerType::Remote => "remote",
            PeerType::External => "external",
        };
        let name = if with_namespace { full(peer) } else { peer.name_any() };
        rows.push(vec![
            name,
            kind.into(),
            peer.spec.campfire_ref.name.clone(),
            status.cluster_name.as_deref().filter(|name| !name.is_empty()).map_or_else(dash, printable),
            status.addresses.first().cloned().unwrap_or_else(dash),
            if peer.spec.kind == PeerType::Pod { way(status.path).into() } else { dash() },
            condition(&status.conditions, ConditionType::Ready).map_or("Unknown", |it| it.status.as_str()).into(),
            why(peer),
        ]);
    }
    table(&rows, 3)
}

/// Why it is not ready, else why it is not direct.
fn why(peer: &MeshPeer) -> String {
    let status = peer.status.clone().unwrap_or_default();
    if let Some(problem) = status.problems.first() {
        return printable(&problem.message);
    }
    match condition(&status.conditions, ConditionType::Ready) {
        Some(it) if it.status != Truth::True.name() => printable(&it.message),
        _ => {
            let reason = status.reason.unwrap_or_default();
            let words = NOT_DIRECT.iter().find(|(name, _)| *name == reason).map_or(reason.as_str(), |(_, words)| *words);
            printable(words)
        }
    }
}

fn is_ready(peer: &MeshPeer) -> bool {
    let conditions = peer.status.as_ref().map_or(&[][..], |status| &status.conditions);
    condition(conditions, ConditionType::Ready).is_some_and(|it| it.status == Truth::True.name())
}

/// A condition by its type.
pub fn condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|it| it.type_ == kind.name())
}

/// `namespace/name`.
pub fn full<K: kube::ResourceExt>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn campfires_are_shown_with_what_is_wrong_and_how_packets_go() {
        let campfire = campfire(&json!({
            "turn": "0/1", "peers": 3, "keyFingerprint": "0c92726f408e3ae0", "missedPods": 1,
            "clusters": [{ "name": "berlin", "peers": 2 }, { "name": "", "peers": 1 }],
            "conditions": [
                condition_of("Accepted", "True", "Accepted", "the spec is understood"),
                condition_of("TurnAvailable", "False", "TurnNotReady", "no server is ready: ImagePullBackOff"),
                condition_of("Ready", "False", "TurnNotReady", "no server is ready: ImagePullBackOff"),
            ],
        }));
        let peers = [pod("hello-a", "Direct", None, "True"), pod("hello-b", "Mixed", Some("PeerSymmetricNAT"), "False")];
        assert_eq!(
            fires(&[campfire], &peers),
            "\
CAMPFIRE       READY   SERVERS   PEERS   CLUSTERS             KEY                JOINABLE BY
default/main   False   0/1       3       berlin 2, (none) 1   0c92726f408e3ae0   -

default/main: TurnAvailable TurnNotReady: no server is ready: ImagePullBackOff

default/main: 1 pod should have a sidecar and have none, made while no operator answered: make them anew (kubectl get events --field-selector reason=SidecarMissed)

default/main: 2 pods here: 1 direct, 1 some direct, some relayed (PeerSymmetricNAT); 1 not ready: kubectl campfire peers
"
        );
    }

    #[test]
    fn a_campfire_of_which_nothing_is_known_points_to_the_operator() {
        let text =
            fires(&[serde_json::from_value(json!({ "metadata": { "name": "main", "namespace": "default" }, "spec": {} })).unwrap()], &[]);
        assert!(text.contains("does the operator run?"), "{text}");
    }

    #[test]
    fn peers_are_shown_with_why_they_are_not_direct_or_not_ready() {
        let mut left = pod("hello-c", "None", None, "False");
        left.spec.kind = PeerType::Remote;
        let shown = rows(&[pod("hello-a", "Direct", None, "True"), pod("hello-b", "Relay", Some("UDPBlocked"), "True"), left], false);
        assert_eq!(
            shown,
            "\
PEER      TYPE     CAMPFIRE   CLUSTER   ADDRESS   PATH      READY   WHY
hello-a   pod      main       berlin    fd00::1   direct    True
hello-b   pod      main       berlin    fd00::1   relayed   True    no UDP gets out here
hello-c   remote   main       berlin    fd00::1   -         False   it is so
"
        );
    }

    fn campfire(status: &Value) -> Campfire {
        serde_json::from_value(json!({ "metadata": { "name": "main", "namespace": "default" }, "spec": {}, "status": status })).unwrap()
    }

    fn pod(name: &str, path: &str, reason: Option<&str>, ready: &str) -> MeshPeer {
        let peer = json!({
            "metadata": { "name": name, "namespace": "default" },
            "spec": { "type": "Pod", "campfireRef": { "name": "main" }, "podRef": { "name": name, "uid": "1" } },
            "status": {
                "path": path, "reason": reason, "clusterName": "berlin", "addresses": ["fd00::1"],
                "conditions": [condition_of("Ready", ready, "Ready", "it is so")],
            },
        });
        serde_json::from_value(peer).unwrap()
    }

    fn condition_of(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-27T08:00:00Z" })
    }
}
