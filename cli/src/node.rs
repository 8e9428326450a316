//! The node agent, which makes the interface of pods that may do nothing: where it should be, where it is, and what a pod of its waits for.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use campfire_api::names::{
    MODE_ANNOTATION, NODE_CONFIG_MAP, NODE_DRAIN_ANNOTATION, NODE_DRIVER, NODE_KEY, NODE_MODE, NODE_NAMESPACE_ANNOTATION, SIDECAR_CONTAINER,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use crate::cluster::Cluster;
use crate::member::Member;

/// What the chart labels DaemonSet and pods with.
const SELECTOR: &str = "app.kubernetes.io/name=campfire-node";

/// The agent, as the objects of its cluster say.
#[derive(Clone, Debug, Default)]
pub struct NodeAgent {
    /// It is to be uninstalled.
    pub drain: bool,
    /// Its namespace; `None`: nobody says.
    pub namespace: Option<String>,
    /// Nodes on which it should run; `None`: its DaemonSet is gone.
    pub wanted: Option<usize>,
    /// Whether it is ready on each node that has a pod of it.
    pub on: BTreeMap<String, bool>,
    /// Nodes whose kubelets have registered its driver.
    pub registered: BTreeSet<String>,
    /// The operator has told it by what key grants are signed.
    pub has_key: bool,
}

impl NodeAgent {
    /// As it is; `None`: it is not installed.
    ///
    /// # Errors
    /// A right is missing, or the API server does not answer.
    pub async fn of(cluster: &Cluster) -> Result<Option<Self>> {
        let client = || cluster.client.clone();
        let told = |error: &kube::Error, doing: &str| cluster.explain(error, doing);
        let driver =
            Api::<CSIDriver>::all(client()).get_opt(NODE_DRIVER).await.map_err(|error| told(&error, "get csidrivers.storage.k8s.io"))?;
        let Some(driver) = driver else { return Ok(None) };
        let said = |name: &str| driver.annotations().get(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let mut agent = Self {
            drain: said(NODE_DRAIN_ANNOTATION).as_deref() == Some("true"),
            namespace: said(NODE_NAMESPACE_ANNOTATION),
            ..Self::default()
        };
        let all = Api::<CSINode>::all(client()).list(&ListParams::default()).await;
        let all = all.map_err(|error| told(&error, "list csinodes.storage.k8s.io"))?;
        let ours = |node: &&CSINode| node.spec.drivers.iter().any(|driver| driver.name == NODE_DRIVER);
        agent.registered = all.items.iter().filter(ours).map(kube::ResourceExt::name_any).collect();
        let Some(namespace) = agent.namespace.clone() else { return Ok(Some(agent)) };
        let labelled = ListParams::default().labels(SELECTOR);
        let sets = Api::<DaemonSet>::namespaced(client(), &namespace).list(&labelled).await;
        let sets = sets.map_err(|error| told(&error, &format!("list daemonsets in namespace {namespace}")))?;
        agent.wanted = sets.items.first().and_then(|set| usize::try_from(set.status.as_ref()?.desired_number_scheduled).ok());
        let pods = Api::<Pod>::namespaced(client(), &namespace).list(&labelled).await;
        let pods = pods.map_err(|error| told(&error, &format!("list pods in namespace {namespace}")))?;
        for pod in pods.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
                *agent.on.entry(node).or_default() |= is_ready(pod);
            }
        }
        let map = Api::<ConfigMap>::namespaced(client(), &namespace).get_opt(NODE_CONFIG_MAP).await;
        let map = map.map_err(|error| told(&error, &format!("get configmaps in namespace {namespace}")))?;
        agent.has_key = map.is_some_and(|map| map.data.is_some_and(|data| data.contains_key(NODE_KEY)));
        Ok(Some(agent))
    }

    /// What of it is wrong on a node.
    fn lacks(&self, node: &str) -> Option<String> {
        match self.on.get(node) {
            None => Some(format!("there is no agent on node {node}")),
            Some(false) => Some(format!("the agent on node {node} is not ready")),
            Some(true) if !self.registered.contains(node) => Some(format!("the kubelet of node {node} has not registered {NODE_DRIVER}")),
            Some(true) => None,
        }
    }
}

/// Why a pod of the agent's may have no interface, as far as its cluster's objects say; `None`: it is none of the agent's, or nothing is wrong.
pub fn trouble(pod: &Pod, agent: Option<&NodeAgent>) -> Option<String> {
    if !is_of_agent(pod) {
        return None;
    }
    let Some(agent) = agent else {
        return Some("its interface is made by the node agent, which is not installed: install the chart campfire-node again".into());
    };
    let node = pod.spec.as_ref()?.node_name.as_ref()?;
    let lacks = agent.lacks(node).or_else(|| (!agent.has_key).then(|| "the operator has not written its key for the agents".to_owned()))?;
    Some(format!("its interface is made by the node agent, and {lacks}"))
}

/// Whether the node's agent makes a pod's interface.
pub fn is_of_agent(pod: &Pod) -> bool {
    pod.annotations().get(MODE_ANNOTATION).is_some_and(|mode| mode == NODE_MODE)
}

/// Whether a pod's sidecar runs, so that it can be asked.
pub fn sidecar_runs(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    statuses
        .filter(|status| status.name == SIDECAR_CONTAINER)
        .any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// Whether a pod says that it is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// [`trouble`] of a member, in words that follow others. What cannot be found out is left out: the others are what was asked for.
pub async fn beside(cluster: &Cluster, member: &Member) -> String {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &member.namespace);
    let Ok(Some(pod)) = pods.get_opt(&member.name).await else { return String::new() };
    if !is_of_agent(&pod) {
        return String::new();
    }
    let Ok(agent) = NodeAgent::of(cluster).await else { return String::new() };
    trouble(&pod, agent.as_ref()).map_or_else(String::new, |trouble| format!(" ({trouble})"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_waits_for_is_told_by_its_node() {
        let agent = || NodeAgent {
            namespace: Some("campfire-node".into()),
            wanted: Some(3),
            on: [("a", true), ("b", false), ("c", true)].map(|(node, ready)| (node.to_owned(), ready)).into(),
            registered: BTreeSet::from(["a".into(), "b".into()]),
            has_key: true,
            ..NodeAgent::default()
        };
        let of = |node: &str| trouble(&pod("Node", node), Some(&agent())).unwrap_or_default();
        assert_eq!(of("a"), "");
        assert!(of("b").ends_with("the agent on node b is not ready"), "{}", of("b"));
        assert!(of("c").ends_with("the kubelet of node c has not registered node.campfire.network"), "{}", of("c"));
        assert!(of("d").ends_with("there is no agent on node d"), "{}", of("d"));
        let unsigned = trouble(&pod("Node", "a"), Some(&NodeAgent { has_key: false, ..agent() }));
        assert!(unsigned.unwrap().contains("the operator has not written its key"));
        assert!(trouble(&pod("Node", "a"), None).unwrap().contains("not installed"));
        // Others are none of its.
        assert_eq!(trouble(&pod("Tun", "d"), None), None);
    }

    fn pod(mode: &str, node: &str) -> Pod {
        let pod = json!({
            "metadata": { "name": "web", "annotations": { MODE_ANNOTATION: mode } },
            "spec": { "nodeName": node, "containers": [] },
        });
        serde_json::from_value(pod).unwrap()
    }
}
