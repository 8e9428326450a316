//! What a Campfire consists of in the cluster. Pure, cannot fail.

use std::collections::BTreeMap;

use campfire_api::names::{self, CAMPFIRE_LABEL, TURN_REPLICA_LABEL};
use campfire_api::{ExposureType, ServiceLayout, TransportName};
use campfire_protocol::server::{PORT, TLS_PORT};
use serde_json::{Map, Value, json};

use super::validate::{Deployed, Valid};
use crate::settings::OperatorSettings;

/// Value of label `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = names::FIELD_MANAGER;
/// Label by which the operator's children are known.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Port of the servers' health and metrics.
pub const HEALTH_PORT: u16 = 9641;
/// Where the servers find their relay secrets.
const SECRETS_DIR: &str = "/run/campfire/secrets";
/// Where they find their certificate.
const TLS_DIR: &str = "/run/campfire/tls";

/// Kinds of children, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Secrets.
    Secret,
    /// The servers' ServiceAccount.
    ServiceAccount,
    /// Services.
    Service,
    /// The servers.
    StatefulSet,
}

/// A child as it should be.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All fields that are the operator's, as they are applied. May hold keys: never logged.
    pub object: Value,
}

/// Name of a Service of one server.
pub fn service_name(campfire: &str, replica: u8, layout: ServiceLayout, transport: TransportName) -> String {
    let turn = names::turn(campfire);
    match (layout, transport) {
        (ServiceLayout::Mixed, _) => format!("{turn}-{replica}"),
        (ServiceLayout::PerTransport, TransportName::Udp) => format!("{turn}-{replica}-udp"),
        (ServiceLayout::PerTransport, _) => format!("{turn}-{replica}-tcp"),
    }
}

/// Port of a transport.
pub fn port(transport: TransportName) -> u16 {
    if transport == TransportName::Tls { TLS_PORT } else { PORT }
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
    if transport == TransportName::Udp { "UDP" } else { "TCP" }
}

/// Labels of everything that belongs to a Campfire.
pub fn labels(campfire: &str) -> BTreeMap<String, String> {
    let pairs = [
        ("app.kubernetes.io/part-of", "campfire"),
        (MANAGED_BY, MANAGER),
        ("app.kubernetes.io/instance", campfire),
        (CAMPFIRE_LABEL, campfire),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Metadata of a child that is deleted with its Campfire.
pub fn metadata(valid: &Valid, name: &str) -> Value {
    json!({
        "name": name,
        "namespace": valid.key.namespace,
        "labels": labels(&valid.key.name),
        "ownerReferences": [owner(valid)],
    })
}

/// The reference to the Campfire as owner.
pub fn owner(valid: &Valid) -> Value {
    json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
        "kind": "Campfire",
        "name": valid.key.name,
        "uid": valid.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// An opaque Secret of a Campfire. `data` holds keys.
pub fn secret(valid: &Valid, name: &str, data: &BTreeMap<String, String>) -> Child {
    use base64::Engine as _;
    let encode = |(key, value): (&String, &String)| (key.clone(), Value::String(base64::engine::general_purpose::STANDARD.encode(value)));
    let data: Map<String, Value> = data.iter().map(encode).collect();
    let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata(valid, name), "data": data});
    Child { kind: Kind::Secret, name: name.to_owned(), object }
}

/// The servers, with all that belongs to them; none where there are no replicas.
pub fn turn(valid: &Valid, settings: &OperatorSettings) -> Vec<Child> {
    let Some(exposure) = valid.turn.exposure.as_ref().filter(|_| valid.turn.replicas > 0) else { return Vec::new() };
    let name = names::turn(&valid.key.name);
    let mut children = vec![
        Child {
            kind: Kind::ServiceAccount,
            name: name.clone(),
            object: json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(valid, &name), "automountServiceAccountToken": false,
            }),
        },
        Child {
            kind: Kind::Service,
            name: name.clone(),
            object: json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata(valid, &name),
                "spec": {
                    "clusterIP": "None", "selector": selector(&valid.key.name), "publishNotReadyAddresses": true,
                    "ports": [{"name": "http", "port": HEALTH_PORT, "targetPort": "http", "protocol": "TCP"}],
                },
            }),
        },
    ];
    for replica in 0..valid.turn.replicas {
        let mut services: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for transport in valid.turn.transports.iter().copied() {
            let service = service_name(&valid.key.name, replica, exposure.service_layout, transport);
            services.entry(service).or_default().push(json!({
                "name": port_name(transport), "port": port(transport), "targetPort": port_name(transport), "protocol": protocol(transport),
            }));
        }
        for (service, ports) in services {
            let mut metadata = metadata(valid, &service);
            metadata["labels"][TURN_REPLICA_LABEL] = replica.to_string().into();
            if !exposure.annotations.is_empty() {
                metadata["annotations"] = json!(exposure.annotations);
            }
            let mut selector = selector(&valid.key.name);
            selector.insert("statefulset.kubernetes.io/pod-name".into(), format!("{name}-{replica}"));
            let mut spec = json!({
                "selector": selector,
                "ports": ports,
                // A server that drains is not ready, and serves who is there until they have moved: there is no other behind this Service.
                "publishNotReadyAddresses": true,
                "type": match exposure.kind {
                    ExposureType::ClusterIp | ExposureType::HostPort => "ClusterIP",
                    ExposureType::NodePort => "NodePort",
                    ExposureType::LoadBalancer => "LoadBalancer",
                },
            });
            if matches!(exposure.kind, ExposureType::NodePort | ExposureType::LoadBalancer) {
                // Else the server sees a node's address instead of the peer's.
                spec["externalTrafficPolicy"] = "Local".into();
            }
            if exposure.kind == ExposureType::LoadBalancer
                && let Some(class) = &exposure.load_balancer_class
            {
                spec["loadBalancerClass"] = class.as_str().into();
            }
            children.push(Child {
                kind: Kind::Service,
                name: service,
                object: json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}),
            });
        }
    }
    children.push(Child { kind: Kind::StatefulSet, name: name.clone(), object: stateful_set(valid, &name, settings) });
    children
}

/// Labels by which a Campfire's servers are selected.
pub fn selector(campfire: &str) -> BTreeMap<String, String> {
    [("app.kubernetes.io/name", "campfire-turn"), (CAMPFIRE_LABEL, campfire)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
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
        for transport in &turn.transports {
            let (scheme, port) = match transport {
                TransportName::Udp => ("udp", PORT),
                TransportName::Tcp => ("tcp", PORT),
                TransportName::Tls => ("tls", TLS_PORT),
            };
            arguments.push(format!("--listen={scheme}://0.0.0.0:{port}"));
            arguments.push(format!("--listen={scheme}://[::]:{port}"));
        }
    }
    if turn.tls.is_some() {
        arguments.push(format!("--tls-cert={TLS_DIR}/tls.crt"));
        arguments.push(format!("--tls-key={TLS_DIR}/tls.key"));
    }
    arguments
}

fn stateful_set(valid: &Valid, name: &str, settings: &OperatorSettings) -> Value {
    let turn = &valid.turn;
    let template = &turn.template;
    let host_port = turn.exposure.as_ref().is_some_and(|exposure| exposure.kind == ExposureType::HostPort);
    let mut ports: Vec<Value> = turn
        .transports
        .iter()
        .map(|transport| {
            let mut port =
                json!({"name": port_name(*transport), "containerPort": self::port(*transport), "protocol": protocol(*transport)});
            if host_port {
                port["hostPort"] = self::port(*transport).into();
            }
            port
        })
        .collect();
    ports.push(json!({"name": "http", "containerPort": HEALTH_PORT, "protocol": "TCP"}));

    let mut volumes =
        vec![json!({"name": "secrets", "secret": {"secretName": names::relay_secret(&valid.key.name), "defaultMode": 0o440}})];
    let mut mounts = vec![json!({"name": "secrets", "mountPath": SECRETS_DIR, "readOnly": true})];
    if let Some(tls) = &turn.tls {
        volumes.push(json!({"name": "tls", "secret": {"secretName": tls, "defaultMode": 0o440}}));
        mounts.push(json!({"name": "tls", "mountPath": TLS_DIR, "readOnly": true}));
    }
    let resources = template
        .resources
        .as_ref()
        .map_or_else(|| json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}), |resources| json!(resources));
    let probe = |path: &str, period: u32, failures: u32| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures});
    let own = |key: &str| key.starts_with("campfire.network/") || key.starts_with("app.kubernetes.io/");
    let mut pod_labels: BTreeMap<String, String> =
        template.labels.iter().filter(|(key, _)| !own(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    pod_labels.extend(labels(&valid.key.name));
    pod_labels.extend(selector(&valid.key.name));
    pod_labels.insert("app.kubernetes.io/component".into(), "turn".into());
    // A server in a namespace whose pods get sidecars needs none.
    pod_labels.insert(names::INJECT_LABEL.into(), names::DISABLED.into());

    let mut pod = json!({
        "serviceAccountName": name,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // Longer than the servers wait for their members to move.
        "terminationGracePeriodSeconds": 70,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": names::UID, "runAsGroup": names::UID, "fsGroup": names::UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": "turn",
            "image": settings.turn_image,
            "imagePullPolicy": settings.image_pull_policy,
            "args": arguments(turn),
            "env": [{"name": "ORDINAL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}}],
            "ports": ports,
            "resources": resources,
            "startupProbe": probe("/healthz", 1, 60),
            "livenessProbe": probe("/healthz", 10, 3),
            "readinessProbe": probe("/readyz", 2, 2),
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": selector(&valid.key.name)}},
        }]}},
    });
    if !template.node_selector.is_empty() {
        pod["nodeSelector"] = json!(template.node_selector);
    }
    if !template.tolerations.is_empty() {
        pod["tolerations"] = json!(template.tolerations);
    }
    if let Some(class) = &template.priority_class_name {
        pod["priorityClassName"] = class.as_str().into();
    }
    if !template.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(template.image_pull_secrets);
    }
    let mut pod_metadata = json!({"labels": pod_labels});
    if !template.annotations.is_empty() {
        pod_metadata["annotations"] = json!(template.annotations);
    }
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata(valid, name),
        "spec": {
            "replicas": turn.replicas,
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": selector(&valid.key.name)},
            "template": {"metadata": pod_metadata, "spec": pod},
        },
    })
}
