//! Who makes a pod's interface: an init container of its own, or its node's agent. Pure.
//!
//! | the namespace enforces | agent installed | none |
//! | --- | --- | --- |
//! | `privileged` | Tun | Tun |
//! | nothing | Node | as the cluster's default was found ([`guard`]) |
//! | `baseline`, `restricted` | Node | skipped, `PodSecurityForbids` |
//!
//! That is `Auto`; a pod with a user namespace, in which no TUN device can be made, is Node's too. `Tun` and `Node` are what they say.

use std::collections::BTreeMap;

use campfire_api::SidecarMode;
use campfire_api::conditions::SkipReason;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt as _;

use super::guard::{self, labelled};
use crate::members::{NamespaceMeta, Places};
use crate::nodes::{NodeAgent, Nodes};
use crate::settings::Level;

/// Label of pods that run on no node where an agent could.
const FARGATE: &str = "eks.amazonaws.com/fargate-profile";

/// Who makes the interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// An init container.
    #[default]
    Tun,
    /// The agent of a node with these labels.
    Node(BTreeMap<String, String>),
}

/// Who makes the interface of this pod, or why nobody can.
///
/// # Errors
/// The pod is left alone, for that reason; with what to do.
pub fn choose(
    mode: SidecarMode,
    pod: &Pod,
    namespace: &NamespaceMeta,
    nodes: &Nodes,
    places: &Places,
    default: Level,
) -> Result<Way, (SkipReason, String)> {
    let spec = pod.spec.as_ref();
    let own_users = spec.is_some_and(|spec| spec.host_users == Some(false));
    let agent = nodes.agent.as_ref().filter(|agent| !agent.drain);
    match (mode, agent) {
        (SidecarMode::Tun, _) => Ok(Way::Tun),
        (SidecarMode::Auto, _) if labelled(namespace) == Some(Level::Privileged) && !own_users => {
            guard::refusal(namespace, places, default).map_or(Ok(Way::Tun), Err)
        }
        (SidecarMode::Node, Some(agent)) => {
            sandboxed(pod, nodes)?;
            let wanted = spec.and_then(|spec| elsewhere(spec, agent));
            wanted.map_or_else(|| Ok(Way::Node(agent.nodes.clone())), |label| Err(nowhere(agent, &label)))
        }
        (SidecarMode::Auto, Some(agent)) => {
            sandboxed(pod, nodes)?;
            let selected = spec.and_then(|spec| spec.node_selector.as_ref());
            let held = |(key, value): (&String, &String)| selected.and_then(|selected| selected.get(key)) == Some(value);
            if agent.nodes.iter().all(held) { Ok(Way::Node(BTreeMap::new())) } else { Err(not_everywhere(agent)) }
        }
        (SidecarMode::Auto, None) if own_users => Err((
            SkipReason::UserNamespace,
            "the pod has a user namespace (hostUsers: false), in which no TUN device can be made: install the node agent (chart campfire-node), take \
             that away, or, where the runtime gives pods /dev/net/tun, set spec.sidecar.mode: Tun in the Campfire"
                .into(),
        )),
        (SidecarMode::Auto, None) => guard::refusal(namespace, places, default).map_or(Ok(Way::Tun), Err),
        (SidecarMode::Node, None) => Err(no_agent(nodes)),
    }
}

fn no_agent(nodes: &Nodes) -> (SkipReason, String) {
    let message = match nodes.agent {
        Some(_) => {
            "spec.sidecar.mode is Node, and the node agent is being uninstalled (its chart's value drain): take that back, or choose another mode"
        }
        None => "spec.sidecar.mode is Node, and no node agent is installed: install the chart campfire-node, or choose another mode",
    };
    (SkipReason::NoNodeAgent, message.into())
}

/// A pod whose network the agent of its node cannot enter.
fn sandboxed(pod: &Pod, nodes: &Nodes) -> Result<(), (SkipReason, String)> {
    let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_ref());
    let why = match class.filter(|class| nodes.sandboxes.contains(*class)) {
        Some(class) => format!("the pod's RuntimeClass {class} gives it a kernel of its own"),
        None if pod.labels().contains_key(FARGATE) => "the pod runs on Fargate".to_owned(),
        None => return Ok(()),
    };
    let message =
        format!("{why}, whose network the node agent does not reach: set spec.sidecar.mode: Tun where the pod may have NET_ADMIN");
    Err((SkipReason::Sandboxed, message))
}

/// A label that the pod wants otherwise than the agent's nodes have it.
fn elsewhere(spec: &PodSpec, agent: &NodeAgent) -> Option<String> {
    let selected = spec.node_selector.as_ref()?;
    agent.nodes.iter().find(|(key, value)| selected.get(*key).is_some_and(|held| held != *value)).map(|(key, _)| key.clone())
}

fn nowhere(agent: &NodeAgent, label: &str) -> (SkipReason, String) {
    let message =
        format!("the pod's nodeSelector wants another {label} than the node agent's nodes have ({}): correct either", shown(agent));
    (SkipReason::NodeAgentNotEverywhere, message)
}

fn not_everywhere(agent: &NodeAgent) -> (SkipReason, String) {
    let message = format!(
        "the node agent runs on nodes with {} alone, and the pod may run on others: give it that nodeSelector, or set spec.sidecar.mode: Node, which does",
        shown(agent)
    );
    (SkipReason::NodeAgentNotEverywhere, message)
}

fn shown(agent: &NodeAgent) -> String {
    agent.nodes.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
