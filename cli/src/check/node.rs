//! The node agent: installed where it is needed, on its nodes, known to kubelets, and pods that wait for it.

use std::collections::BTreeMap;

use campfire_api::SidecarMode;
use campfire_api::names::{ENABLED, INJECTED_LABEL, NODE_CONFIG_MAP};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;

use super::fires::some_of;
use super::{Check, Findings, Outcome};
use crate::cluster::{Cluster, member};
use crate::node::{NodeAgent, is_of_agent, is_ready, sidecar_runs, trouble};
use crate::status::full;
use campfire_text::{count, printable};

/// Pods that are asked what they wait for.
const ASKED: usize = 3;

/// Looks.
pub(super) async fn look(cluster: &Cluster, findings: &mut Findings<'_>) {
    let pods = match cluster.api::<Pod>().list(&ListParams::default().labels(&format!("{INJECTED_LABEL}={ENABLED}"))).await {
        Ok(pods) => pods.items.into_iter().filter(is_of_agent).collect::<Vec<_>>(),
        Err(error) => return findings.unknown(Check::NodeAgentPods, &cluster.explain(&error, "list pods")),
    };
    let wanting: Vec<String> = match cluster.campfires().await {
        Ok(campfires) => campfires.iter().filter(|campfire| campfire.spec.sidecar.mode == SidecarMode::Node).map(full).collect(),
        Err(error) => return findings.unknown(Check::NodeAgentInstalled, &error),
    };
    let agent = match NodeAgent::of(cluster).await {
        Ok(agent) => agent,
        // Not everybody may look at nodes.
        Err(error) if pods.is_empty() && wanting.is_empty() => {
            return findings
                .good(Check::NodeAgentInstalled, format!("nobody needs it here; whether it is there cannot be seen: {error:#}"));
        }
        Err(error) => return findings.unknown(Check::NodeAgentInstalled, &error),
    };
    installed(findings, agent.as_ref(), &wanting, &pods);
    if let Some(agent) = &agent {
        runs(findings, agent);
        key(findings, agent);
    }
    if agent.is_some() || !pods.is_empty() {
        waiting(cluster, findings, agent.as_ref(), &pods).await;
    }
}

fn installed(findings: &mut Findings<'_>, agent: Option<&NodeAgent>, wanting: &[String], pods: &[Pod]) {
    let mut needed = Vec::new();
    if !wanting.is_empty() {
        needed.push(format!("{} (spec.sidecar.mode: Node)", some_of(wanting)));
    }
    if !pods.is_empty() {
        needed.push(format!("{} that it made the interface of", count(pods.len(), "pod")));
    }
    let needed = needed.join(" and ");
    let (outcome, words) = match agent {
        None if needed.is_empty() => (Outcome::Good, "it is not installed, and nobody needs it here".to_owned()),
        None => (Outcome::Wrong, format!("it is not installed, and is needed by {needed}: such pods cannot start, nor end")),
        Some(agent) if agent.drain && !needed.is_empty() => {
            (Outcome::Warning, format!("it is to be uninstalled (drain), and is needed by {needed}"))
        }
        Some(agent) => {
            let drain = if agent.drain { ", to be uninstalled (drain)" } else { "" };
            (Outcome::Good, format!("it is installed in namespace {}{drain}", agent.namespace.as_deref().unwrap_or("(not known)")))
        }
    };
    findings.add(Check::NodeAgentInstalled, outcome, words);
}

fn runs(findings: &mut Findings<'_>, agent: &NodeAgent) {
    let Some(wanted) = agent.wanted else {
        return findings.add(Check::NodeAgentRuns, Outcome::Wrong, "its DaemonSet is gone, or has no status yet");
    };
    if wanted == 0 {
        return findings.add(Check::NodeAgentRuns, Outcome::Wrong, "no node is chosen for it: see the nodeSelector of its chart");
    }
    let not_ready = agent.on.iter().filter(|(_, ready)| !**ready).map(|(node, _)| node.clone()).collect::<Vec<_>>();
    let ready = agent.on.values().filter(|ready| **ready).count();
    let unknown = agent.on.iter().filter(|(node, ready)| **ready && !agent.registered.contains(*node)).map(|(node, _)| node.clone());
    let unknown: Vec<String> = unknown.collect();
    let mut wrong = Vec::new();
    if ready < wanted {
        let named = if not_ready.is_empty() { String::new() } else { format!(" (not on {})", some_of(&not_ready)) };
        wrong.push(format!("it is ready on {ready} of {}{named}", count(wanted, "node")));
    }
    if !unknown.is_empty() {
        wrong.push(format!("it runs, and the kubelet has not registered its driver, on {}", some_of(&unknown)));
    }
    findings.each(Check::NodeAgentRuns, Outcome::Wrong, wrong, format!("it is ready and registered on {}", count(wanted, "node")));
}

fn key(findings: &mut Findings<'_>, agent: &NodeAgent) {
    let place = agent.namespace.as_deref().unwrap_or_default();
    if agent.has_key {
        findings.good(Check::NodeAgentKey, "it knows the key of the operator's grants");
    } else {
        let words = format!("the operator has written no key into ConfigMap {place}/{NODE_CONFIG_MAP}: every grant is refused");
        findings.add(Check::NodeAgentKey, Outcome::Wrong, words);
    }
}

/// Pods without an interface, by what they wait for: the cluster's objects say it, or the sidecar.
async fn waiting(cluster: &Cluster, findings: &mut Findings<'_>, agent: Option<&NodeAgent>, pods: &[Pod]) {
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut asked = 0;
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let mut why = trouble(pod, agent).map(|why| if is_ready(pod) { format!("{why}; what was made goes on") } else { why });
        if sidecar_runs(pod) && asked < ASKED && (why.is_some() || !is_ready(pod)) {
            asked += 1;
            if let Ok(ran) = cluster.run(&member(pod), &["status", "--json"], |_| ()).await
                && !ran.well
            {
                why = Some(printable(ran.complained.trim_start_matches("campfire: ")));
            }
        }
        if let Some(why) = why {
            told.entry(why).or_default().push(format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()));
        }
    }
    let told = told.into_iter().map(|(why, names)| format!("{}: {why}", some_of(&names))).collect();
    findings.each(Check::NodeAgentPods, Outcome::Wrong, told, format!("none of {} waits for it", count(pods.len(), "pod")));
}
