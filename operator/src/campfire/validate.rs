//! What a Campfire asks for, checked: what the API server could not refuse is refused here, with what to change. Pure.

use std::net::IpAddr;

use campfire_api::conditions::Reason;
use campfire_api::{
    Campfire, DeletionPolicy, Exposure, NamespacesFrom, Network, PodTemplate, Rotation, Sidecar, TransportName, TurnLimits, names,
};
use campfire_protocol::server::{Server, canonical_host};
use ipnet::{IpNet, Ipv4Net};
use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};

use super::rotation::Asked;
use crate::conditions::Said;
use crate::settings::OperatorSettings;
use crate::state::{MeshNetwork, ObjectKey};

/// Most TURN servers that a Campfire deploys.
pub const MAX_REPLICAS: u8 = 8;

/// A Campfire that can be made.
#[derive(Clone, Debug)]
pub struct Valid {
    /// Namespace and name.
    pub key: ObjectKey,
    /// uid.
    pub uid: String,
    /// Where the key comes from.
    pub source: KeySource,
    /// How this cluster is called.
    pub cluster: String,
    /// Servers deployed here.
    pub turn: Deployed,
    /// Servers run elsewhere.
    pub servers: Vec<Server>,
    /// Addresses and routes.
    pub network: MeshNetwork,
    /// It admits other namespaces, and what it says of sidecars and routes does not hold there.
    pub at_home_alone: bool,
    /// The rotation's step that is asked for. One that does not exist stops nothing else.
    pub rotate: Result<Option<Asked>, Said>,
}

/// Where the key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A Secret with keys.
    Psk {
        /// Its name.
        secret: String,
        /// The operator makes it if it is missing.
        made: bool,
        /// What becomes of a Secret that it made.
        deletion: DeletionPolicy,
    },
    /// A Secret with another cluster's URI.
    Join {
        /// Its name.
        secret: String,
    },
}

impl KeySource {
    /// Name of the Secret.
    pub fn secret(&self) -> &str {
        match self {
            Self::Psk { secret, .. } | Self::Join { secret } => secret,
        }
    }
}

/// Servers deployed here.
#[derive(Clone, Debug, Default)]
pub struct Deployed {
    /// How many.
    pub replicas: u8,
    /// How they are reached; `None` where there are none.
    pub exposure: Option<Exposure>,
    /// What they speak, each once, in the order of the type.
    pub transports: Vec<TransportName>,
    /// Secret with their certificate.
    pub tls: Option<String>,
    /// Changes to their pods.
    pub template: PodTemplate,
    /// How much they take.
    pub limits: TurnLimits,
    /// Where they are reached from outside, for each server: host and maybe port.
    pub external: Vec<(String, Option<u16>)>,
    /// First part of their ids, stable for this Campfire.
    pub origin: String,
}

impl Valid {
    /// That it is, and what of it does not hold for all its members.
    pub fn accepted(&self) -> Said {
        let message = if self.at_home_alone {
            format!(
                "the spec is understood; spec.sidecar and spec.network.acceptRoutes hold for pods of namespace {} alone, unless the chart's \
                 trustedNamespaces names it",
                self.key.namespace
            )
        } else {
            "the spec is understood".to_owned()
        };
        Said::of(Reason::Accepted, message)
    }
}

/// Whether a Campfire that admits other namespaces says of sidecars or routes what holds in its own alone.
fn at_home_alone(campfire: &Campfire, settings: &OperatorSettings) -> bool {
    let spec = &campfire.spec;
    let says = spec.sidecar != Sidecar::default() || !spec.network.accept_routes.is_empty();
    let beyond = spec.members.namespaces.from != NamespacesFrom::Same;
    says && beyond && !settings.trusted.beyond(campfire.metadata.namespace.as_deref().unwrap_or_default())
}

fn invalid<T>(reason: Reason, message: impl Into<String>) -> Result<T, Said> {
    Err(Said::of(reason, message))
}

/// Checks a Campfire.
pub fn validate(campfire: &Campfire, settings: &OperatorSettings) -> Result<Valid, Said> {
    let spec = &campfire.spec;
    let key = ObjectKey::of(campfire);
    if !settings.served.holds(&key.namespace) {
        return invalid(
            Reason::NamespaceNotServed,
            format!(
                "the operator serves Campfires in {} only: add {} to campfireNamespaces in the chart's values, or make the Campfire there",
                settings.served, key.namespace
            ),
        );
    }
    let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if key.name.len() > 40
        || !key.name.starts_with(|c: char| c.is_ascii_lowercase())
        || key.name.ends_with('-')
        || !key.name.bytes().all(label)
    {
        return invalid(
            Reason::InvalidName,
            "the name becomes part of Service names: at most 40 lower-case letters, digits and '-', a letter first",
        );
    }
    let uid = campfire.uid().unwrap_or_default();
    let source = source(campfire)?;
    let mut servers = Vec::new();
    for (index, text) in spec.turn.iter().flat_map(|turn| &turn.servers).enumerate() {
        match text.parse::<Server>() {
            Ok(server) => servers.push(server),
            Err(error) => return invalid(Reason::InvalidServer, format!("spec.turn.servers[{index}]: {error}")),
        }
    }
    let network = network(&spec.network)?;
    let members = &spec.members.namespaces;
    if members.from == NamespacesFrom::Selector
        && members.selector.clone().is_none_or(|selector| kube::core::Selector::try_from(selector).is_err())
    {
        return invalid(
            Reason::InvalidMembers,
            "spec.members.namespaces.selector: expected matchLabels, or matchExpressions with operator In, NotIn, Exists or DoesNotExist",
        );
    }
    let cluster = cluster(campfire, settings);
    let (turn, at_home_alone) = (deployed(campfire, &uid)?, at_home_alone(campfire, settings));
    Ok(Valid { turn, key, uid, source, cluster, servers, network, at_home_alone, rotate: rotation(campfire) })
}

fn cluster(campfire: &Campfire, settings: &OperatorSettings) -> String {
    campfire.spec.cluster_name.clone().unwrap_or_else(|| settings.cluster_name.clone())
}

/// Where the key comes from, whatever else is wrong.
pub fn source(campfire: &Campfire) -> Result<KeySource, Said> {
    let (spec, name) = (&campfire.spec, campfire.name_any());
    let source = match (&spec.join, &spec.psk) {
        (Some(_), Some(_)) => {
            return invalid(Reason::InvalidSpec, "spec.psk and spec.join exclude each other: the join secret carries the key");
        }
        (Some(join), None) => KeySource::Join { secret: join.secret_ref.name.clone() },
        (None, psk) => {
            let given = psk.as_ref().and_then(|psk| psk.secret_ref.as_ref()).map(|secret| secret.name.clone());
            KeySource::Psk {
                made: given.is_none(),
                secret: given.unwrap_or_else(|| names::psk_secret(&name)),
                deletion: psk.as_ref().map(|psk| psk.deletion_policy).unwrap_or_default(),
            }
        }
    };
    if [names::relay_secret(&name), names::join_secret(&name)].iter().any(|own| own == source.secret()) {
        return invalid(
            Reason::InvalidSpec,
            format!("Secret {} is one that the operator writes itself: give another name", source.secret()),
        );
    }
    Ok(source)
}

/// The step of a rotation that is asked for.
fn rotation(campfire: &Campfire) -> Result<Option<Asked>, Said> {
    let (step, now) = match campfire.annotations().get(names::ROTATE_ANNOTATION).map(|step| step.trim()) {
        None | Some("") => return Ok(None),
        Some("Distribute") => (Rotation::Distribute, false),
        Some("Activate") => (Rotation::Activate, false),
        Some("ActivateNow") => (Rotation::Activate, true),
        Some("Retire") => (Rotation::Retire, false),
        Some("RetireNow") => (Rotation::Retire, true),
        Some(_) => {
            return invalid(
                Reason::InvalidAnnotation,
                format!("annotation {}: expected Distribute, Activate, Retire, ActivateNow or RetireNow", names::ROTATE_ANNOTATION),
            );
        }
    };
    Ok(Some(Asked { step, now }))
}

/// What can be understood of a Campfire that is invalid, for members that are there already: no servers here, whose children are left
/// as they are; of the lists what can be read. `None`, if it is not even known whose key it is.
pub fn known(campfire: &Campfire, settings: &OperatorSettings) -> Option<Valid> {
    let (key, spec) = (ObjectKey::of(campfire), &campfire.spec);
    Some(Valid {
        source: source(campfire).ok().filter(|_| settings.served.holds(&key.namespace))?,
        cluster: cluster(campfire, settings),
        turn: Deployed::default(),
        servers: spec.turn.iter().flat_map(|turn| &turn.servers).filter_map(|text| text.parse().ok()).collect(),
        network: readable(&spec.network),
        at_home_alone: false,
        rotate: Ok(None),
        uid: campfire.uid().unwrap_or_default(),
        key,
    })
}

/// What can be read of a `spec.network`.
pub fn readable(spec: &Network) -> MeshNetwork {
    MeshNetwork {
        ipv4_pool: spec.ipv4_pool.as_deref().and_then(pool),
        accept_routes: spec.accept_routes.iter().filter_map(|route| route.parse().ok()).collect(),
        mtu: mtu(spec),
    }
}

fn network(spec: &Network) -> Result<MeshNetwork, Said> {
    let mut accept_routes = Vec::new();
    for (index, route) in spec.accept_routes.iter().enumerate() {
        match route.parse::<IpNet>() {
            Ok(route) => accept_routes.push(route),
            Err(_) => {
                return invalid(
                    Reason::InvalidNetwork,
                    format!("spec.network.acceptRoutes[{index}]: expected a network such as 10.8.0.0/16 or fd00:8::/32"),
                );
            }
        }
    }
    let ipv4_pool = spec.ipv4_pool.as_deref().map(|text| pool(text).ok_or(text)).transpose();
    let Ok(ipv4_pool) = ipv4_pool else {
        return invalid(Reason::InvalidNetwork, "spec.network.ipv4Pool: expected an IPv4 prefix from /8 to /29, such as 100.80.0.0/16");
    };
    Ok(MeshNetwork { ipv4_pool, accept_routes, mtu: mtu(spec) })
}

/// Within the bounds that the API server knows.
fn mtu(spec: &Network) -> u16 {
    u16::try_from(spec.mtu).unwrap_or(1280)
}

/// An IPv4 network from /8 to /29.
fn pool(text: &str) -> Option<Ipv4Net> {
    text.parse::<Ipv4Net>().ok().filter(|pool| (8..=29).contains(&pool.prefix_len()) && pool.trunc() == *pool)
}

fn deployed(campfire: &Campfire, uid: &str) -> Result<Deployed, Said> {
    let turn = campfire.spec.turn.clone().unwrap_or_default();
    let joins = campfire.spec.join.is_some();
    let replicas = turn.replicas.unwrap_or(i32::from(!joins));
    let replicas = u8::try_from(replicas).ok().filter(|replicas| *replicas <= MAX_REPLICAS);
    let Some(replicas) = replicas else { return invalid(Reason::InvalidSpec, format!("spec.turn.replicas: expected 0 to {MAX_REPLICAS}")) };
    if replicas > 0 && turn.exposure.is_none() {
        return invalid(Reason::InvalidSpec, "spec.turn.exposure.type is required: ClusterIP, NodePort, LoadBalancer or HostPort");
    }
    if replicas == 0 && !joins && turn.servers.is_empty() {
        return invalid(Reason::NoServers, "spec.turn.replicas is 0 and spec.turn.servers is empty: peers need a server to meet on");
    }
    let mut transports = if turn.transports.is_empty() { campfire_api::default_transports() } else { turn.transports.clone() };
    transports.sort_unstable();
    transports.dedup();
    if transports.contains(&TransportName::Tls) && turn.tls.is_none() {
        return invalid(Reason::InvalidSpec, "spec.turn.transports has TLS: give spec.turn.tls.secretName");
    }
    let addresses = turn.exposure.as_ref().map(|exposure| exposure.external_addresses.as_slice()).unwrap_or_default();
    let mut external = Vec::with_capacity(addresses.len());
    for (index, text) in addresses.iter().enumerate() {
        match host_port(text) {
            Some(address) => external.push(address),
            None => {
                return invalid(
                    Reason::InvalidExternalAddress,
                    format!(
                        "spec.turn.exposure.externalAddresses[{index}]: expected host or host:port, a port from 1 to 65535, an IPv6 address in brackets"
                    ),
                );
            }
        }
    }
    let several = replicas > 1 && external.len() == 1;
    if several && external.iter().any(|(_, port)| port.is_some()) {
        return invalid(
            Reason::InvalidExternalAddress,
            format!(
                "spec.turn.exposure.externalAddresses: one host:port cannot stand for {replicas} servers: give one for each, or a host alone"
            ),
        );
    }
    if external.len() > 1 && external.len() != usize::from(replicas) {
        return invalid(
            Reason::InvalidExternalAddress,
            format!(
                "spec.turn.exposure.externalAddresses: expected one for all or {replicas}, one for each server; found {}",
                external.len()
            ),
        );
    }
    if several {
        external = vec![external.remove(0); usize::from(replicas)];
    }
    Ok(Deployed {
        replicas,
        exposure: turn.exposure,
        tls: turn.tls.map(|tls| tls.secret_name).filter(|_| transports.contains(&TransportName::Tls)),
        transports,
        template: turn.pod_template.unwrap_or_default(),
        limits: turn.limits.unwrap_or_default(),
        external,
        origin: hex::encode(&Sha256::digest(uid.as_bytes())[..4]),
    })
}

/// Reads `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.
fn host_port(text: &str) -> Option<(String, Option<u16>)> {
    let text = text.trim();
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip.to_string(), None));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port > 0)?),
        None => None,
    };
    Some((canonical_host(host)?, port))
}
