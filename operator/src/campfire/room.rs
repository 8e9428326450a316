//! Whether a node has room for a pod: as its scheduler would say, of what servers can ask for. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::webhook::amount::Amount;

/// Amounts by resource.
type Amounts = BTreeMap<String, Amount>;

/// Whether a pod may run on a node and has room there beside others.
pub fn has_room<'a>(node: &Node, others: impl Iterator<Item = &'a Pod>, pod: &PodSpec) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selected = pod.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let spec = node.spec.clone().unwrap_or_default();
    let taints = spec.taints.iter().flatten().filter(|taint| taint.effect != "PreferNoSchedule");
    let mut open = taints.map(|taint| pod.tolerations.iter().flatten().any(|it| tolerates(it, taint)));
    if !selected || spec.unschedulable == Some(true) || !open.all(|tolerated| tolerated) {
        return false;
    }
    let mut used = asked(pod);
    add(&mut used, "pods", Amount::of(1));
    let wanted: Vec<String> = used.iter().filter(|(_, amount)| !amount.is_zero()).map(|(name, _)| name.clone()).collect();
    for other in others {
        let Some(other) = &other.spec else { continue };
        if host_ports(other).any(|held| host_ports(pod).any(|port| port == held)) {
            return false;
        }
        add(&mut used, "pods", Amount::of(1));
        for (name, amount) in asked(other) {
            add(&mut used, &name, amount);
        }
    }
    let has = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    wanted.iter().all(|name| {
        let has = has.and_then(|has| Amount::read(&has.get(name)?.0)).unwrap_or_default();
        used.get(name).is_some_and(|used| *used <= has)
    })
}

/// The ports of its node that a pod takes, with their protocols.
pub fn host_ports(pod: &PodSpec) -> impl Iterator<Item = (i32, &str)> {
    let ports = pod.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| Some((port.host_port?, port.protocol.as_deref().unwrap_or("TCP"))))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect)
        && ((exists && key.is_empty()) || (key == taint.key && (exists || value)))
}

/// What a pod is given on its node.
fn asked(pod: &PodSpec) -> Amounts {
    let mut sum = Amounts::new();
    let of = |container: &Container| container.resources.as_ref().and_then(|resources| resources.requests.clone()).unwrap_or_default();
    let inits = || pod.init_containers.iter().flatten();
    for container in pod.containers.iter().chain(inits().filter(|container| container.restart_policy.is_some())) {
        for (name, amount) in read(&of(container)) {
            add(&mut sum, &name, amount);
        }
    }
    // One that ends before the others begin, and what a pod asks for as a whole.
    let whole = pod.resources.as_ref().and_then(|resources| resources.requests.clone()).unwrap_or_default();
    for amounts in inits().map(of).chain([whole]) {
        for (name, amount) in read(&amounts) {
            let held = sum.entry(name).or_default();
            *held = (*held).max(amount);
        }
    }
    for (name, amount) in read(pod.overhead.as_ref().unwrap_or(&BTreeMap::new())) {
        add(&mut sum, &name, amount);
    }
    sum
}

fn read(quantities: &BTreeMap<String, Quantity>) -> Amounts {
    quantities.iter().filter_map(|(name, quantity)| Some((name.clone(), Amount::read(&quantity.0)?))).collect()
}

fn add(sum: &mut Amounts, name: &str, amount: Amount) {
    let held = sum.entry(name.to_owned()).or_default();
    *held = held.plus(amount);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_node_has_room_for_what_it_lets_in_and_has_left() {
        let pod = |more: Value| -> Pod {
            let mut spec = json!({ "containers": [{ "name": "turn", "resources": { "requests": { "cpu": "500m", "memory": "64Mi" } } }] });
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value(json!({ "spec": spec })).unwrap()
        };
        let node = |labels: Value, spec: Value| -> Node {
            let has = json!({ "cpu": "1", "memory": "1Gi", "pods": "2" });
            serde_json::from_value(json!({ "metadata": { "labels": labels }, "spec": spec, "status": { "allocatable": has } })).unwrap()
        };
        let port = |protocol: &str| json!({ "containers": [{ "name": "turn", "ports": [{ "containerPort": 1, "hostPort": 3478, "protocol": protocol }] }] });
        let small = json!({ "containers": [{ "name": "x", "resources": { "requests": { "cpu": "100m" } } }] });
        let large = json!({ "containers": [{ "name": "x", "resources": { "requests": { "cpu": "600m" } } }] });
        let first = json!({ "initContainers": [{ "name": "i", "resources": { "requests": { "cpu": "600m" } } }] });
        let gpu = json!({ "containers": [{ "name": "x", "resources": { "requests": { "example.org/gpu": "1" } } }] });
        let taint = json!({ "taints": [{ "key": "spot", "value": "yes", "effect": "NoSchedule" }] });
        let soft = json!({ "taints": [{ "key": "spot", "effect": "PreferNoSchedule" }] });
        let none = || json!({});
        let table = [
            ("alone", none(), none(), vec![], none(), true),
            ("beside one of the same size", none(), none(), vec![none()], none(), true),
            ("beside one that leaves less", none(), none(), vec![large.clone()], none(), false),
            ("and one that needed as much to begin with", none(), none(), vec![first], none(), false),
            ("where there are enough", none(), none(), vec![small.clone(), small.clone()], none(), false),
            ("of a resource that it has not", none(), none(), vec![], gpu, false),
            ("a node that is shut", none(), json!({ "unschedulable": true }), vec![], none(), false),
            ("a label that it has", json!({ "disk": "ssd" }), none(), vec![], json!({ "nodeSelector": { "disk": "ssd" } }), true),
            ("a label that it has no more", none(), none(), vec![], json!({ "nodeSelector": { "disk": "ssd" } }), false),
            ("a taint", none(), taint.clone(), vec![], none(), false),
            ("one that it tolerates", none(), taint.clone(), vec![], json!({ "tolerations": [{ "key": "spot", "value": "yes" }] }), true),
            ("as any", none(), taint.clone(), vec![], json!({ "tolerations": [{ "operator": "Exists" }] }), true),
            ("another", none(), taint, vec![], json!({ "tolerations": [{ "key": "spot", "operator": "Equal", "value": "no" }] }), false),
            ("one that is a wish", none(), soft, vec![], none(), true),
            ("a port that somebody has", none(), none(), vec![port("UDP")], port("UDP"), false),
            ("the same number of the other protocol", none(), none(), vec![port("TCP")], port("UDP"), true),
        ];
        for (what, labels, spec, others, asked, fits) in table {
            let others: Vec<Pod> = others.into_iter().map(pod).collect();
            assert_eq!(has_room(&node(labels, spec), others.iter(), &pod(asked).spec.unwrap()), fits, "{what}");
        }
    }
}
