//! Where the servers of this cluster are reached: from Services, nodes and pods. And what is said of them. Pure.

use std::net::IpAddr;

use campfire_api::conditions::Reason;
use campfire_api::{Endpoint, EndpointScope, ExposureType, TransportName};
use campfire_protocol::server::{Scope, Server, ServerAddress, ServerId, Transport, canonical_host, merge};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt as _;

use super::children::{pod_name, port, port_name, service_name};
use super::fetch::Found;
use super::validate::Valid;
use crate::conditions::Said;

/// This cluster's servers with all their addresses, by transport and scope.
pub fn servers(valid: &Valid, found: &Found) -> Vec<Server> {
    let Some(exposure) = &valid.turn.exposure else { return Vec::new() };
    let mut servers = Vec::new();
    for replica in 0..valid.turn.replicas {
        let Ok(id) = ServerId::new(&format!("{}-{replica}", valid.turn.origin)) else { continue };
        let pod = pod_name(&valid.key.name, replica);
        for transport in valid.turn.transports.iter().copied() {
            let name = service_name(&valid.key.name, replica, exposure.service_layout, transport);
            let service = found.children.services.get(&name);
            let mut add = |host: &str, port: u16, scope| {
                let address = |host| ServerAddress { host, port, transport: spoken(transport), scope };
                let server = |host| Server { id: id.clone(), addresses: vec![address(host)], certificate_pin: None };
                servers.extend(canonical_host(host).map(server));
            };
            let inside = service.map(cluster_addresses).unwrap_or_default();
            for ip in &inside {
                add(&ip.to_string(), port(transport), Scope::Cluster);
            }
            let node_port = service.and_then(|service| node_port(service, transport));
            let (seen, behind) = match exposure.kind {
                ExposureType::ClusterIp => (Vec::new(), Some(port(transport))),
                ExposureType::LoadBalancer => (service.map(balancer).unwrap_or_default(), Some(port(transport))),
                // A node has addresses of a family that its Services may not have.
                ExposureType::NodePort => (of_families(node_addresses(found, &pod), &inside), node_port),
                ExposureType::HostPort => (of_families(node_addresses(found, &pod), &pod_addresses(found, &pod)), Some(port(transport))),
            };
            let (hosts, behind) = match valid.turn.external.get(usize::from(replica)) {
                Some((host, given)) => (vec![host.clone()], (*given).or(behind)),
                None => (seen, behind),
            };
            for host in hosts {
                if let Some(port) = behind {
                    add(&host, port, Scope::External);
                }
            }
        }
    }
    merge(servers)
}

fn spoken(transport: TransportName) -> Transport {
    match transport {
        TransportName::Udp => Transport::Udp,
        TransportName::Tcp => Transport::Tcp,
        TransportName::Tls => Transport::Tls,
    }
}

/// The addresses of a Service inside the cluster, one of each family that it has.
fn cluster_addresses(service: &Service) -> Vec<IpAddr> {
    let spec = service.spec.clone().unwrap_or_default();
    one_of_each(spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()))
}

/// The addresses that a load balancer was given: IP addresses, one of each family, rather than a name.
fn balancer(service: &Service) -> Vec<String> {
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref()).unwrap_or_default();
    let ips = one_of_each(ingress.iter().filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()));
    if ips.is_empty() {
        return ingress.iter().find_map(|ingress| ingress.hostname.as_deref().and_then(canonical_host)).into_iter().collect();
    }
    ips.iter().map(ToString::to_string).collect()
}

/// The first address of each family, in the order in which they come.
fn one_of_each(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in addresses {
        if found.iter().all(|other| other.is_ipv4() != address.is_ipv4()) {
            found.push(address);
        }
    }
    found
}

/// Those of families that the others have; all, if nothing is known of them.
fn of_families(addresses: Vec<IpAddr>, others: &[IpAddr]) -> Vec<String> {
    let has = |address: &IpAddr| others.is_empty() || others.iter().any(|other| other.is_ipv4() == address.is_ipv4());
    addresses.into_iter().filter(has).map(|address| address.to_string()).collect()
}

fn node_port(service: &Service, transport: TransportName) -> Option<u16> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let port = ports.iter().find(|port| port.name.as_deref() == Some(port_name(transport)))?.node_port?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// The addresses of the node that a pod runs on, one of each family: no other node answers with `externalTrafficPolicy: Local`. Those that are known to be
/// external, and inner ones of a family that has no other if they can be meant for all the world, or if there are no others at all.
fn node_addresses(found: &Found, pod: &str) -> Vec<IpAddr> {
    let Some(pod) = found.pods.get(pod) else { return Vec::new() };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).and_then(|node| found.nodes.get(node));
    let addresses = node.and_then(|node| node.status.as_ref()?.addresses.as_deref()).unwrap_or_default();
    let of = |kind: &'static str| addresses.iter().filter(move |it| it.type_ == kind).filter_map(|it| it.address.parse::<IpAddr>().ok());
    let alone = of("ExternalIP").next().is_none();
    let for_all = |ip: &IpAddr| alone || matches!(ip, IpAddr::V6(ip) if ip.segments()[0] & 0xe000 == 0x2000);
    let known = one_of_each(of("ExternalIP").chain(of("InternalIP").filter(for_all)));
    let status = pod.status.as_ref();
    let host = || status.and_then(|status| status.host_ip.as_ref()?.parse().ok()).into_iter().collect();
    if known.is_empty() { host() } else { known }
}

fn pod_addresses(found: &Found, pod: &str) -> Vec<IpAddr> {
    let status = found.pods.get(pod).and_then(|pod| pod.status.as_ref());
    let ips = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
    ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect()
}

/// Servers as status shows them.
pub fn shown(servers: &[Server]) -> Vec<Endpoint> {
    let endpoint = |id: &ServerId, address: &ServerAddress| Endpoint {
        server: id.to_string(),
        address: address.host.clone(),
        port: address.port.into(),
        transport: match address.transport {
            Transport::Udp => TransportName::Udp,
            Transport::Tcp => TransportName::Tcp,
            Transport::Tls => TransportName::Tls,
        },
        scope: match address.scope {
            Scope::Cluster => EndpointScope::Cluster,
            Scope::External => EndpointScope::External,
        },
    };
    servers.iter().flat_map(|server| server.addresses.iter().map(|address| endpoint(&server.id, address))).collect()
}

/// Servers as status showed them.
pub fn read(endpoints: &[Endpoint]) -> Vec<Server> {
    merge(endpoints.iter().filter_map(|endpoint| {
        let address = ServerAddress {
            host: canonical_host(&endpoint.address)?,
            port: u16::try_from(endpoint.port).ok()?,
            transport: spoken(endpoint.transport),
            scope: match endpoint.scope {
                EndpointScope::Cluster => Scope::Cluster,
                EndpointScope::External => Scope::External,
            },
        };
        Some(Server { id: ServerId::new(&endpoint.server).ok()?, addresses: vec![address], certificate_pin: None })
    }))
}

/// What is said of the servers, by `TurnAvailable`. `elsewhere`: how many are known that others run.
pub fn turn_available(valid: &Valid, found: &Found, own: &[Server], elsewhere: usize) -> Said {
    let (wanted, ready) = (valid.turn.replicas, ready(valid, found));
    if wanted == 0 {
        return if elsewhere > 0 {
            Said::of(Reason::NotDeployed, format!("no servers here, {elsewhere} elsewhere"))
        } else {
            Said::of(Reason::NoServers, "no server to meet on: give spec.turn.servers, or spec.turn.replicas above 0")
        };
    }
    let trouble = trouble(found);
    if ready == 0 {
        let why = trouble.unwrap_or_else(|| "the pods of the servers are not ready yet".to_owned());
        let look = if found.no_pod.is_some() { "statefulsets" } else { "pods" };
        return Said::of(
            Reason::TurnNotReady,
            format!("0 of {wanted} servers are ready: {why}; kubectl describe {look} -l app.kubernetes.io/name=campfire-turn shows more"),
        );
    }
    let waiting = waiting(valid, found);
    if let Some(first) = waiting.first() {
        let message = format!(
            "Service {first} has no address yet ({} wait): is there a load balancer controller in this cluster? Else use exposure type NodePort or HostPort",
            waiting.len()
        );
        return Said::of(Reason::WaitingForAddress, message);
    }
    if own.is_empty() {
        return Said::of(Reason::NoEndpoints, "the Services of the servers have no address yet");
    }
    if ready < wanted {
        let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
        return Said::of(Reason::SomeReady, format!("{ready} of {wanted} servers are ready{why}"));
    }
    Said::of(Reason::AllReady, format!("{ready} of {wanted} servers are ready"))
}

/// How many servers are ready.
pub fn ready(valid: &Valid, found: &Found) -> u8 {
    let sets = found.children.sets.values();
    let ready = sets.filter_map(|set| set.status.as_ref()?.ready_replicas).max().unwrap_or(0);
    // One that is there to be tried serves nobody.
    let tried = found.pods.get(&pod_name(&valid.key.name, valid.turn.replicas)).is_some_and(is_ready);
    u8::try_from(ready.saturating_sub(tried.into()).max(0)).unwrap_or(u8::MAX).min(valid.turn.replicas)
}

/// Whether a pod says that it is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Names of Services that wait for an address.
fn waiting(valid: &Valid, found: &Found) -> Vec<String> {
    let Some(exposure) = valid.turn.exposure.as_ref().filter(|exposure| exposure.kind == ExposureType::LoadBalancer) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for replica in (0..valid.turn.replicas).filter(|replica| valid.turn.external.get(usize::from(*replica)).is_none()) {
        for transport in &valid.turn.transports {
            let name = service_name(&valid.key.name, replica, exposure.service_layout, *transport);
            if found.children.services.get(&name).is_none_or(|service| balancer(service).is_empty()) && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// Why a server's pod does not run, if the cluster says so; or why there is none.
fn trouble(found: &Found) -> Option<String> {
    found.pods.values().find_map(trouble_of).or_else(|| found.no_pod.clone())
}

/// Why a pod does not run, if the cluster says so: its first container that waits or has ended, or that it cannot be placed.
pub fn trouble_of(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = || status.container_statuses.iter().flatten().filter(|container| !container.ready);
    let waiting = containers().find_map(|container| container.state.as_ref()?.waiting.as_ref());
    let waiting = waiting.filter(|waiting| !matches!(waiting.reason.as_deref(), Some("ContainerCreating" | "PodInitializing") | None));
    // Whether it waits for its next start, or is just beginning it, is all the same.
    let ended = containers()
        .find_map(|container| [&container.state, &container.last_state].into_iter().find_map(|state| state.as_ref()?.terminated.as_ref()));
    let ended = ended.filter(|_| waiting.is_none_or(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff")));
    let name = pod.name_any();
    if let Some(ended) = ended {
        let reason = ended.reason.as_deref().unwrap_or_default();
        return Some(format!(
            "pod {name}: its container ends with exit code {} ({reason}): kubectl logs -p {name} shows more",
            ended.exit_code
        ));
    }
    let unplaced = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let (reason, message) = match (waiting, unplaced) {
        (Some(waiting), _) => (waiting.reason.as_deref(), waiting.message.as_deref()),
        (None, Some(unplaced)) => (unplaced.reason.as_deref(), unplaced.message.as_deref()),
        (None, None) => return None,
    };
    Some(format!("pod {name}: {} {}", reason.unwrap_or_default(), message.unwrap_or_default()).trim().to_owned())
}
