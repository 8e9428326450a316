//! What a Campfire consists of in the cluster. Pure, cannot fail.
//!
//! Children are typed, and applied as they are: what is left out here is nobody's, and what is set is the operator's
//! (docs/decisions/0018).

use std::collections::BTreeMap;
use std::fmt;

use campfire_api::names::{self, CAMPFIRE_LABEL, TURN_REPLICA_LABEL};
use campfire_api::{Campfire, Exposure, ExposureType, ServiceLayout, TransportName};
use campfire_protocol::server::{PORT, TLS_PORT};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, LocalObjectReference, ObjectFieldSelector,
    PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, Secret,
    SecretVolumeSource, SecurityContext, Service, ServiceAccount, ServicePort, ServiceSpec, Toleration, Volume, VolumeMount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource as _;

use super::keys::Held;
use super::rollout::replacing_from;
use super::validate::{Deployed, Valid};
use crate::settings::OperatorSettings;

/// Value of label `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = names::FIELD_MANAGER;
/// Label by which the operator's children are known.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Port of the servers' health and metrics.
const HEALTH_PORT: u16 = 9641;
/// Where the servers find their relay secrets.
const SECRETS_DIR: &str = "/run/campfire/secrets";
/// Where they find their certificate.
const TLS_DIR: &str = "/run/campfire/tls";
/// Name of the volume with their certificate.
pub const TLS_VOLUME: &str = "tls";
/// Who may read what is mounted: its owner and its group.
const SECRET_MODE: i32 = 0o440;

/// Children by name: those that are wanted, or those that there are.
#[derive(Clone, Default)]
pub struct Children {
    /// The servers' relay secrets. Holds keys.
    pub secrets: BTreeMap<String, Secret>,
    /// The servers' ServiceAccount.
    pub accounts: BTreeMap<String, ServiceAccount>,
    /// Services.
    pub services: BTreeMap<String, Service>,
    /// The servers.
    pub sets: BTreeMap<String, StatefulSet>,
}

impl fmt::Debug for Children {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.secrets.keys().chain(self.accounts.keys()).chain(self.services.keys()).chain(self.sets.keys());
        f.debug_list().entries(names).finish()
    }
}

/// Name of a Service of one server.
pub fn service_name(campfire: &str, replica: u8, layout: ServiceLayout, transport: TransportName) -> String {
    let turn = names::turn(campfire);
    match (layout, transport) {
        (ServiceLayout::Mixed, _) => format!("{turn}-{replica}"),
        (ServiceLayout::PerTransport, TransportName::Udp) => format!("{turn}-{replica}-udp"),
        (ServiceLayout::PerTransport, TransportName::Tcp | TransportName::Tls) => format!("{turn}-{replica}-tcp"),
    }
}

/// Name of the pod of one server.
pub fn pod_name(campfire: &str, replica: u8) -> String {
    format!("{}-{replica}", names::turn(campfire))
}

/// Port of a transport.
pub fn port(transport: TransportName) -> u16 {
    match transport {
        TransportName::Udp | TransportName::Tcp => PORT,
        TransportName::Tls => TLS_PORT,
    }
}

/// Name of a transport's port in Services and pods.
pub fn port_name(transport: TransportName) -> &'static str {
    match transport {
        TransportName::Udp => "turn-udp",
        TransportName::Tcp => "turn-tcp",
        TransportName::Tls => "turn-tls",
    }
}

fn protocol(transport: TransportName) -> &'static str {
    match transport {
        TransportName::Udp => "UDP",
        TransportName::Tcp | TransportName::Tls => "TCP",
    }
}

/// Labels of everything that belongs to a Campfire. None says of which instance it is: by that Argo CD knows what it has applied itself, and
/// takes the rest away, a key that outlived its Campfire as well.
pub fn labels(campfire: &str) -> BTreeMap<String, String> {
    map([("app.kubernetes.io/part-of", "campfire"), (MANAGED_BY, MANAGER), (CAMPFIRE_LABEL, campfire)])
}

/// Labels by which a Campfire's servers are selected.
pub fn selector(campfire: &str) -> BTreeMap<String, String> {
    map([("app.kubernetes.io/name", "campfire-turn"), (CAMPFIRE_LABEL, campfire)])
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Metadata of a child that is deleted with its Campfire.
fn metadata(valid: &Valid, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(valid.key.namespace.clone()),
        labels: Some(labels(&valid.key.name)),
        owner_references: Some(vec![owner(valid)]),
        ..ObjectMeta::default()
    }
}

/// The reference to the Campfire as owner.
pub fn owner(valid: &Valid) -> OwnerReference {
    OwnerReference {
        api_version: Campfire::api_version(&()).into_owned(),
        kind: Campfire::kind(&()).into_owned(),
        name: valid.key.name.clone(),
        uid: valid.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// An opaque Secret of a Campfire. `data` holds keys.
pub fn secret(valid: &Valid, name: &str, data: impl IntoIterator<Item = (String, String)>) -> Secret {
    Secret {
        metadata: metadata(valid, name),
        type_: Some("Opaque".into()),
        data: Some(data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect()),
        ..Secret::default()
    }
}

/// The servers, with all that belongs to them; nothing where there are no replicas.
pub fn children(valid: &Valid, held: &Held, settings: &OperatorSettings) -> Children {
    let mut children = Children::default();
    let Some(exposure) = valid.turn.exposure.as_ref().filter(|_| valid.turn.replicas > 0) else { return children };
    let name = names::turn(&valid.key.name);
    // What the servers are given: relay secrets by the fingerprint of the key.
    let relay = held.keys.iter().map(|key| (key.fingerprint().to_string(), key.keys.relay.text().to_owned()));
    let relay_name = names::relay_secret(&valid.key.name);
    children.secrets.insert(relay_name.clone(), secret(valid, &relay_name, relay));
    let (account, set) = servers(valid, settings);
    children.accounts.insert(name.clone(), account);
    children.services.insert(name.clone(), headless(valid, &name));
    for replica in 0..valid.turn.replicas {
        for (service, transports) in transports_by_service(valid, replica, exposure.service_layout) {
            children.services.insert(service.clone(), server_service(valid, exposure, replica, &service, &transports));
        }
    }
    children.sets.insert(name, set);
    children
}

/// The servers themselves, and their ServiceAccount: what does not follow from a key.
pub fn servers(valid: &Valid, settings: &OperatorSettings) -> (ServiceAccount, StatefulSet) {
    let name = names::turn(&valid.key.name);
    let account =
        ServiceAccount { metadata: metadata(valid, &name), automount_service_account_token: Some(false), ..ServiceAccount::default() };
    (account, stateful_set(valid, &name, settings))
}

fn transports_by_service(valid: &Valid, replica: u8, layout: ServiceLayout) -> BTreeMap<String, Vec<TransportName>> {
    let mut services: BTreeMap<String, Vec<TransportName>> = BTreeMap::new();
    for transport in valid.turn.transports.iter().copied() {
        services.entry(service_name(&valid.key.name, replica, layout, transport)).or_default().push(transport);
    }
    services
}

/// The Service that a StatefulSet needs; metrics are read by it.
fn headless(valid: &Valid, name: &str) -> Service {
    let http = ServicePort {
        name: Some("http".into()),
        port: HEALTH_PORT.into(),
        target_port: Some(IntOrString::String("http".into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        cluster_ip: Some("None".into()),
        selector: Some(selector(&valid.key.name)),
        publish_not_ready_addresses: Some(true),
        ports: Some(vec![http]),
        ..ServiceSpec::default()
    };
    Service { metadata: metadata(valid, name), spec: Some(spec), ..Service::default() }
}

/// A Service of one server.
fn server_service(valid: &Valid, exposure: &Exposure, replica: u8, name: &str, transports: &[TransportName]) -> Service {
    let mut metadata = metadata(valid, name);
    metadata.labels.get_or_insert_default().insert(TURN_REPLICA_LABEL.into(), replica.to_string());
    metadata.annotations = some(&exposure.annotations);
    let mut selector = selector(&valid.key.name);
    selector.insert("statefulset.kubernetes.io/pod-name".into(), pod_name(&valid.key.name, replica));
    let port = |transport: &TransportName| ServicePort {
        name: Some(port_name(*transport).into()),
        port: port(*transport).into(),
        target_port: Some(IntOrString::String(port_name(*transport).into())),
        protocol: Some(protocol(*transport).into()),
        ..ServicePort::default()
    };
    let (kind, outside) = match exposure.kind {
        ExposureType::ClusterIp | ExposureType::HostPort => ("ClusterIP", false),
        ExposureType::NodePort => ("NodePort", true),
        ExposureType::LoadBalancer => ("LoadBalancer", true),
    };
    let spec = ServiceSpec {
        selector: Some(selector),
        ports: Some(transports.iter().map(port).collect()),
        // A server that drains is not ready, and serves who is there until they have moved: there is no other behind this Service.
        publish_not_ready_addresses: Some(true),
        type_: Some(kind.into()),
        // Both families, where the cluster has both: members may have one of them alone.
        ip_family_policy: Some("PreferDualStack".into()),
        // Else the server sees a node's address instead of the peer's.
        external_traffic_policy: outside.then(|| "Local".into()),
        load_balancer_class: exposure.load_balancer_class.clone().filter(|_| exposure.kind == ExposureType::LoadBalancer),
        ..ServiceSpec::default()
    };
    Service { metadata, spec: Some(spec), ..Service::default() }
}

fn arguments(turn: &Deployed) -> Vec<String> {
    let mut arguments = vec![
        "--enable-campfire".to_owned(),
        format!("--secrets-dir={SECRETS_DIR}"),
        format!("--server-id={}-$(ORDINAL)", turn.origin),
        format!("--http-listen=[::]:{HEALTH_PORT}"),
        "--drain-timeout=60s".to_owned(),
        "--log-format=json".to_owned(),
    ];
    let default = [TransportName::Udp, TransportName::Tcp].iter().all(|transport| turn.transports.contains(transport));
    if !default {
        for transport in turn.transports.iter().copied() {
            let scheme = match transport {
                TransportName::Udp => "udp",
                TransportName::Tcp => "tcp",
                TransportName::Tls => "tls",
            };
            arguments.push(format!("--listen={scheme}://0.0.0.0:{}", port(transport)));
            arguments.push(format!("--listen={scheme}://[::]:{}", port(transport)));
        }
    }
    if turn.tls.is_some() {
        arguments.push(format!("--tls-cert={TLS_DIR}/tls.crt"));
        arguments.push(format!("--tls-key={TLS_DIR}/tls.key"));
    }
    let limits = &turn.limits;
    let raised = [
        ("--max-members-per-room", limits.members_per_room),
        ("--max-seats-per-source", limits.seats_per_source),
        ("--max-state-mib", limits.state_mib),
        ("--max-connections", limits.connections),
        ("--max-connections-per-source", limits.connections_per_source),
    ];
    arguments.extend(raised.into_iter().filter_map(|(flag, limit)| Some(format!("{flag}={}", limit?))));
    arguments
}

fn stateful_set(valid: &Valid, name: &str, settings: &OperatorSettings) -> StatefulSet {
    let turn = &valid.turn;
    let selected = || LabelSelector { match_labels: Some(selector(&valid.key.name)), ..LabelSelector::default() };
    let own = |key: &str| key.starts_with("campfire.network/") || key.starts_with("app.kubernetes.io/");
    let mut pod_labels: BTreeMap<String, String> =
        turn.template.labels.iter().filter(|(key, _)| !own(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    pod_labels.extend(labels(&valid.key.name));
    pod_labels.extend(selector(&valid.key.name));
    pod_labels.insert("app.kubernetes.io/component".into(), "turn".into());
    // A server in a namespace whose pods get sidecars needs none.
    pod_labels.insert(names::INJECT_LABEL.into(), names::DISABLED.into());
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(pod_labels), annotations: some(&turn.template.annotations), ..ObjectMeta::default() }),
        spec: Some(pod(valid, name, settings, selected())),
    };
    let spec = StatefulSetSpec {
        replicas: Some(turn.replicas.into()),
        service_name: Some(name.to_owned()),
        pod_management_policy: Some("Parallel".into()),
        update_strategy: Some(replacing_from(0)),
        selector: selected(),
        template,
        ..StatefulSetSpec::default()
    };
    StatefulSet { metadata: metadata(valid, name), spec: Some(spec), ..StatefulSet::default() }
}

fn pod(valid: &Valid, name: &str, settings: &OperatorSettings, selected: LabelSelector) -> PodSpec {
    let (turn, template) = (&valid.turn, &valid.turn.template);
    let mounted = |name: &str, secret: &str| Volume {
        name: name.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.into()),
            default_mode: Some(SECRET_MODE),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![mounted("secrets", &names::relay_secret(&valid.key.name))];
    volumes.extend(turn.tls.as_deref().map(|tls| mounted(TLS_VOLUME, tls)));
    let toleration = |toleration: &campfire_api::Toleration| Toleration {
        key: toleration.key.clone(),
        operator: toleration.operator.clone(),
        value: toleration.value.clone(),
        effect: toleration.effect.clone(),
        toleration_seconds: toleration.toleration_seconds,
    };
    // Rather on nodes that have none yet.
    let apart = WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: PodAffinityTerm {
            topology_key: "kubernetes.io/hostname".into(),
            label_selector: Some(selected),
            ..PodAffinityTerm::default()
        },
    };
    let pull_secrets = template.image_pull_secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() });
    PodSpec {
        service_account_name: Some(name.to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        // Longer than the servers wait for their members to move.
        termination_grace_period_seconds: Some(70),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(names::UID),
            run_as_group: Some(names::UID),
            fs_group: Some(names::UID),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(turn, settings)],
        volumes: Some(volumes),
        affinity: Some(Affinity {
            pod_anti_affinity: Some(PodAntiAffinity {
                preferred_during_scheduling_ignored_during_execution: Some(vec![apart]),
                ..PodAntiAffinity::default()
            }),
            ..Affinity::default()
        }),
        node_selector: some(&template.node_selector),
        tolerations: Some(template.tolerations.iter().map(toleration).collect()).filter(|all: &Vec<_>| !all.is_empty()),
        priority_class_name: template.priority_class_name.clone(),
        image_pull_secrets: Some(pull_secrets.collect()).filter(|all: &Vec<_>| !all.is_empty()),
        ..PodSpec::default()
    }
}

fn container(turn: &Deployed, settings: &OperatorSettings) -> Container {
    let on_host = turn.exposure.as_ref().is_some_and(|exposure| exposure.kind == ExposureType::HostPort);
    let open = |transport: &TransportName| ContainerPort {
        name: Some(port_name(*transport).into()),
        container_port: port(*transport).into(),
        host_port: on_host.then(|| port(*transport).into()),
        protocol: Some(protocol(*transport).into()),
        ..ContainerPort::default()
    };
    let http = ContainerPort {
        name: Some("http".into()),
        container_port: HEALTH_PORT.into(),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("secrets", SECRETS_DIR)];
    mounts.extend(turn.tls.as_ref().map(|_| mount(TLS_VOLUME, TLS_DIR)));
    let probe = |path: &str, period: i32, failures: i32| Probe {
        http_get: Some(HTTPGetAction { path: Some(path.into()), port: IntOrString::String("http".into()), ..HTTPGetAction::default() }),
        period_seconds: Some(period),
        timeout_seconds: Some(3),
        failure_threshold: Some(failures),
        ..Probe::default()
    };
    let ordinal = ObjectFieldSelector { field_path: "metadata.labels['apps.kubernetes.io/pod-index']".into(), api_version: None };
    Container {
        name: "turn".into(),
        image: Some(settings.turn_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(arguments(turn)),
        env: Some(vec![EnvVar {
            name: "ORDINAL".into(),
            value_from: Some(EnvVarSource { field_ref: Some(ordinal), ..EnvVarSource::default() }),
            ..EnvVar::default()
        }]),
        ports: Some(turn.transports.iter().map(open).chain([http]).collect()),
        resources: Some(turn.template.resources.as_ref().map_or_else(|| modest(turn), ResourceRequirements::from)),
        startup_probe: Some(probe("/healthz", 1, 60)),
        liveness_probe: Some(probe("/healthz", 10, 3)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// What a server gets that asks for nothing: room for what it may hold, twice.
fn modest(turn: &Deployed) -> ResourceRequirements {
    let quantities = |all: &[(&str, &str)]| all.iter().map(|(key, value)| ((*key).to_owned(), Quantity((*value).to_owned()))).collect();
    let memory = turn.limits.state_mib.map_or(512, |state| i64::from(state).saturating_mul(2).max(512));
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "50m"), ("memory", "64Mi")])),
        limits: Some(quantities(&[("memory", &format!("{memory}Mi"))])),
        ..ResourceRequirements::default()
    }
}

/// An empty map is left out: it would be one that is ours.
fn some(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    Some(map.clone()).filter(|map| !map.is_empty())
}
