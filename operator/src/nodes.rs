//! What the cluster's nodes have for pods: the agent that makes interfaces for pods without rights, and runtimes whose pods it does not reach. Pure.

use std::collections::{BTreeMap, BTreeSet};

use campfire_api::names::{NODE_DRAIN_ANNOTATION, NODE_NAMESPACE_ANNOTATION, NODE_SELECTOR_ANNOTATION};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::ResourceExt as _;

/// Most labels by which the agent's nodes are chosen.
const MAX_LABELS: usize = 16;
/// What handlers of runtimes begin with whose pods have a kernel of their own (gVisor, Kata).
const SANDBOXES: [&str; 2] = ["runsc", "kata"];

/// The node agent, as its CSIDriver says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAgent {
    /// Where it runs.
    pub namespace: Option<String>,
    /// Labels of the nodes on which it runs; none: all.
    pub nodes: BTreeMap<String, String>,
    /// It is to be uninstalled.
    pub drain: bool,
}

impl NodeAgent {
    /// As the CSIDriver says. Labels that cannot be read are of nodes that there are not: no pod is brought to them.
    pub fn of(driver: &CSIDriver) -> Self {
        let said = |name: &str| driver.annotations().get(name).map(|text| text.trim());
        let nodes = said(NODE_SELECTOR_ANNOTATION).filter(|text| !text.is_empty()).map(serde_json::from_str);
        let nodes: BTreeMap<String, String> = match nodes {
            None => BTreeMap::new(),
            Some(Ok(nodes)) => nodes,
            Some(Err(_)) => BTreeMap::from([(NODE_SELECTOR_ANNOTATION.to_owned(), "unreadable".to_owned())]),
        };
        Self {
            namespace: said(NODE_NAMESPACE_ANNOTATION).filter(|text| !text.is_empty()).map(str::to_owned),
            nodes: nodes.into_iter().take(MAX_LABELS).collect(),
            drain: said(NODE_DRAIN_ANNOTATION) == Some("true"),
        }
    }
}

/// What the cluster's nodes have for pods.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    /// The agent, where it is installed.
    pub agent: Option<NodeAgent>,
    /// Names of RuntimeClasses whose pods have a kernel of their own.
    pub sandboxes: BTreeSet<String>,
}

impl Nodes {
    /// Of what there is.
    pub fn of<'a>(driver: Option<&CSIDriver>, classes: impl IntoIterator<Item = &'a RuntimeClass>) -> Self {
        let sandbox = |class: &&RuntimeClass| SANDBOXES.iter().any(|handler| class.handler.starts_with(handler));
        Self { agent: driver.map(NodeAgent::of), sandboxes: classes.into_iter().filter(sandbox).map(kube::ResourceExt::name_any).collect() }
    }
}
