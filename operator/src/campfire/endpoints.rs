//! Where the servers of this cluster are reached: from Services, nodes and pods. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use campfire_api::{Endpoint, EndpointScope, ExposureType, TransportName};
use campfire_protocol::server::{Scope, Server, ServerAddress, ServerId, Transport, merge};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::ResourceExt as _;

use super::children::{port, port_name, service_name};
use super::keys::text;
use super::validate::Valid;

/// What the cluster says, by name.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The servers' Services.
    pub services: BTreeMap<String, Service>,
    /// The servers' pods.
    pub pods: BTreeMap<String, Pod>,
    /// Nodes that they run on.
    pub nodes: BTreeMap<String, Node>,
}

/// Id of a server.
pub fn server_id(valid: &Valid, replica: u8) -> String {
    format!("{}-{replica}", valid.turn.origin)
}

/// All endpoints, by server, transport and scope.
pub fn endpoints(valid: &Valid, seen: &Seen) -> Vec<Endpoint> {
    let Some(exposure) = &valid.turn.exposure else { return Vec::new() };
    let mut endpoints = Vec::new();
    for replica in 0..valid.turn.replicas {
        for transport in valid.turn.transports.iter().copied() {
            let name = service_name(&valid.key.name, replica, exposure.service_layout, transport);
            let service = seen.services.get(&name);
            let endpoint = |address: String, port: u16, scope| Endpoint {
                server: server_id(valid, replica),
                address,
                port: port.into(),
                transport,
                scope,
            };
            let cluster_ip =
                service.and_then(|service| service.spec.as_ref()?.cluster_ip.clone()).filter(|ip| ip.parse::<IpAddr>().is_ok());
            if let Some(ip) = cluster_ip {
                endpoints.push(endpoint(ip, port(transport), EndpointScope::Cluster));
            }
            let node_port = service.and_then(|service| node_port(service, transport));
            let outside = match exposure.kind {
                ExposureType::ClusterIp => None,
                ExposureType::LoadBalancer => service.and_then(balancer).map(|host| (host, port(transport))),
                ExposureType::NodePort => node_address(seen, &pod_name(valid, replica)).zip(node_port),
                ExposureType::HostPort => node_address(seen, &pod_name(valid, replica)).map(|host| (host, port(transport))),
            };
            let behind = if exposure.kind == ExposureType::NodePort { node_port } else { Some(port(transport)) };
            let outside = match valid.turn.external.get(usize::from(replica)) {
                Some((host, given)) => (*given).or(behind).map(|port| (host.clone(), port)),
                None => outside,
            };
            if let Some((host, port)) = outside {
                endpoints.push(endpoint(host, port, EndpointScope::External));
            }
        }
    }
    endpoints
}

fn pod_name(valid: &Valid, replica: u8) -> String {
    format!("{}-{replica}", campfire_api::names::turn(&valid.key.name))
}

/// The address that a load balancer was given: an IP address rather than a name.
fn balancer(service: &Service) -> Option<String> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    let ip = ingress.iter().find_map(|ingress| ingress.ip.clone().filter(|ip| ip.parse::<IpAddr>().is_ok()));
    ip.or_else(|| ingress.iter().find_map(|ingress| ingress.hostname.as_deref().and_then(campfire_protocol::server::canonical_host)))
}

fn node_port(service: &Service, transport: TransportName) -> Option<u16> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let port = ports.iter().find(|port| port.name.as_deref() == Some(port_name(transport)))?.node_port?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// The address of the node that a pod runs on: no other answers with `externalTrafficPolicy: Local`.
fn node_address(seen: &Seen, pod: &str) -> Option<String> {
    let pod = seen.pods.get(pod)?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).and_then(|node| seen.nodes.get(node));
    let addresses = node.and_then(|node| node.status.as_ref()?.addresses.as_deref()).unwrap_or_default();
    let of = |kind: &str| addresses.iter().find(|address| address.type_ == kind && address.address.parse::<IpAddr>().is_ok());
    of("ExternalIP").or_else(|| of("InternalIP")).map(|address| address.address.clone()).or_else(|| pod.status.as_ref()?.host_ip.clone())
}

/// An endpoint as text of docs/protocol.md.
pub fn endpoint_text(endpoint: &Endpoint) -> String {
    text(&endpoint.server, &address(endpoint))
}

fn address(endpoint: &Endpoint) -> ServerAddress {
    ServerAddress {
        host: endpoint.address.clone(),
        port: u16::try_from(endpoint.port).unwrap_or_default(),
        transport: match endpoint.transport {
            TransportName::Udp => Transport::Udp,
            TransportName::Tcp => Transport::Tcp,
            TransportName::Tls => Transport::Tls,
        },
        scope: match endpoint.scope {
            EndpointScope::Cluster => Scope::Cluster,
            EndpointScope::External => Scope::External,
        },
    }
}

/// Servers that are reached from outside.
pub fn external_servers(endpoints: &[Endpoint]) -> Vec<Server> {
    let external = endpoints.iter().filter(|endpoint| endpoint.scope == EndpointScope::External);
    merge(external.filter_map(|endpoint| {
        let id = ServerId::new(&endpoint.server).ok()?;
        Some(Server { id, addresses: vec![address(endpoint)], certificate_pin: None })
    }))
}

/// Names of Services that wait for an address.
pub fn waiting(valid: &Valid, seen: &Seen) -> Vec<String> {
    let Some(exposure) = valid.turn.exposure.as_ref().filter(|exposure| exposure.kind == ExposureType::LoadBalancer) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for replica in (0..valid.turn.replicas).filter(|replica| valid.turn.external.get(usize::from(*replica)).is_none()) {
        for transport in &valid.turn.transports {
            let name = service_name(&valid.key.name, replica, exposure.service_layout, *transport);
            if seen.services.get(&name).and_then(balancer).is_none() && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// Why a server's pod does not run, if the cluster says so: its first container that waits, or that it cannot be placed.
pub fn trouble(seen: &Seen) -> Option<String> {
    seen.pods.values().find_map(|pod| {
        let status = pod.status.as_ref()?;
        let waiting = status.container_statuses.iter().flatten().find_map(|container| container.state.as_ref()?.waiting.as_ref());
        let waiting = waiting.filter(|waiting| !matches!(waiting.reason.as_deref(), Some("ContainerCreating" | "PodInitializing") | None));
        let unplaced =
            status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
        let (reason, message) = match (waiting, unplaced) {
            (Some(waiting), _) => (waiting.reason.as_deref(), waiting.message.as_deref()),
            (None, Some(unplaced)) => (unplaced.reason.as_deref(), unplaced.message.as_deref()),
            (None, None) => return None,
        };
        Some(format!("pod {}: {} {}", pod.name_any(), reason.unwrap_or_default(), message.unwrap_or_default()).trim().to_owned())
    })
}
