//! The pure steps: validate, children, endpoints, keys, rotation, status.

use std::sync::Arc;

use campfire_api::conditions::{ConditionType, Reason};
use campfire_api::{Campfire, CampfireStatus, EndpointScope, Rotation};
use campfire_protocol::identity::NetworkId;
use campfire_protocol::key::{Fingerprint, KeyMode, Psk};
use campfire_protocol::server::Server;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::children::{Children, children};
use super::endpoints::{self, shown};
use super::fetch::{Found, peers};
use super::keys::{Held, parse_keys, read_join, read_psk};
use super::peers::{Holder, Peers};
use super::rotation::{Asked, Next, Step, next_step};
use super::status;
use super::validate::{Valid, validate};
use crate::conditions::{Said, merged};
use crate::members::Served;
use crate::settings::OperatorSettings;
use crate::state::{HeldKey, Membership, ObjectKey, PeerReport, PodId};
use crate::testing::{self, Rig};

pub(super) fn settings() -> OperatorSettings {
    OperatorSettings {
        namespace: "campfire-system".into(),
        pod_name: "op".into(),
        sidecar_image: "side:1".into(),
        turn_image: "turn:1".into(),
        image_pull_policy: "IfNotPresent".into(),
        cluster_name: "east".into(),
        served: Served::new(["default"]),
        ..OperatorSettings::default()
    }
}

pub(super) fn campfire(spec: Value) -> Campfire {
    let mut object = json!({"apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": {"name": "fire", "namespace": "default", "uid": "u-1"}});
    object["spec"] = spec;
    serde_json::from_value(object).unwrap()
}

pub(super) fn valid(spec: Value) -> Valid {
    validate(&campfire(spec), &settings()).unwrap()
}

/// Keys, the newest first.
pub(super) fn held(keys: &[(u8, KeyMode)]) -> Held {
    let keys: Vec<HeldKey> = keys.iter().map(|(byte, mode)| HeldKey::new(Psk::from_bytes([*byte; 32]), *mode)).collect();
    let network = NetworkId::of(&keys.last().unwrap().keys);
    Held { keys, network, servers: Vec::new() }
}

/// Children as they are sent.
pub(super) fn sent(children: &Children) -> Vec<Value> {
    fn all<K: serde::Serialize>(objects: &std::collections::BTreeMap<String, K>) -> impl Iterator<Item = Value> {
        objects.values().map(|object| serde_json::to_value(object).unwrap())
    }
    all(&children.secrets).chain(all(&children.accounts)).chain(all(&children.services)).chain(all(&children.sets)).collect()
}

fn made(valid: &Valid) -> Children {
    children(valid, &held(&[(1, KeyMode::Announce)]), &settings())
}

fn refused(spec: Value) -> String {
    let invalid = validate(&campfire(spec), &settings()).unwrap_err();
    format!("{}: {}", invalid.reason, invalid.message)
}

pub(super) fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn what_the_api_server_cannot_refuse_is_refused_with_what_to_change() {
    let node_port = |addresses: Value, replicas: u8| json!({"turn": {"replicas": replicas, "exposure": {"type": "NodePort", "externalAddresses": addresses}}});
    assert!(refused(json!({"turn": {"exposure": {"type": "ClusterIP"}, "servers": ["turn:ok", "a b"]}})).contains("spec.turn.servers[1]"));
    assert!(refused(json!({"turn": {"replicas": 0}})).starts_with("NoServers: "));
    assert!(refused(json!({"turn": {"replicas": 1}})).contains("exposure.type is required"));
    assert!(refused(node_port(json!(["a:1"]), 2)).contains("one host:port cannot stand for 2 servers"));
    assert!(refused(node_port(json!(["a", "b", "c"]), 2)).contains("found 3"));
    assert!(refused(node_port(json!(["http://x"]), 1)).contains("externalAddresses[0]"));
    let network = |network: Value| json!({"turn": {"exposure": {"type": "ClusterIP"}}, "network": network});
    assert!(refused(network(json!({"acceptRoutes": ["10.0.0.0/8", "all"]}))).contains("acceptRoutes[1]"));
    assert!(refused(network(json!({"ipv4Pool": "300.1.1.0/16"}))).contains("ipv4Pool"));
    assert!(refused(network(json!({"ipv4Pool": "10.1.1.1/16"}))).contains("ipv4Pool"), "host bits");
    assert!(
        refused(json!({"psk": {"secretRef": {"name": "fire-relay"}}, "turn": {"exposure": {"type": "ClusterIP"}}}))
            .contains("writes itself")
    );
    let mut elsewhere = campfire(json!({"turn": {"exposure": {"type": "ClusterIP"}}}));
    elsewhere.metadata.namespace = Some("other".into());
    assert_eq!(validate(&elsewhere, &settings()).unwrap_err().reason, Reason::NamespaceNotServed);
    elsewhere.metadata.namespace = Some("default".into());
    elsewhere.metadata.annotations = Some([("campfire.network/rotate".to_owned(), "Now".to_owned())].into());
    let rotate = validate(&elsewhere, &settings()).unwrap().rotate;
    assert_eq!(rotate.unwrap_err().reason, Reason::InvalidAnnotation, "a typing error there stops the rotation alone");
}

#[test]
fn a_campfire_that_joins_deploys_no_server_unless_asked() {
    assert_eq!(valid(json!({"join": {"secretRef": {"name": "j"}}})).turn.replicas, 0);
    assert_eq!(valid(json!({"turn": {"exposure": {"type": "ClusterIP"}}})).turn.replicas, 1);
    assert!(sent(&made(&valid(json!({"join": {"secretRef": {"name": "j"}}})))).is_empty());
}

#[test]
fn each_server_has_services_of_its_own_and_all_pass_the_restricted_standard() {
    let valid =
        valid(json!({"turn": {"replicas": 2, "exposure": {"type": "LoadBalancer", "loadBalancerClass": "c", "annotations": {"a": "b"}}}}));
    let children = made(&valid);
    let services: Vec<&String> = children.services.keys().collect();
    assert_eq!(services, ["fire-turn", "fire-turn-0-tcp", "fire-turn-0-udp", "fire-turn-1-tcp", "fire-turn-1-udp"]);
    let sent = sent(&children);
    for child in &sent {
        let owner = &child["metadata"]["ownerReferences"][0];
        assert_eq!((owner["uid"].as_str(), owner["controller"].as_bool()), (Some("u-1"), Some(true)));
    }
    let udp = sent.iter().find(|child| child["metadata"]["name"] == "fire-turn-1-udp").unwrap();
    assert_eq!(udp["spec"]["externalTrafficPolicy"], "Local");
    assert_eq!(udp["spec"]["selector"]["statefulset.kubernetes.io/pod-name"], "fire-turn-1");
    let set = sent.last().unwrap();
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(set["spec"]["podManagementPolicy"], "Parallel");
}

#[test]
fn a_template_changes_what_it_may_and_not_the_labels_by_which_pods_are_found() {
    let template = json!({"labels": {"team": "x", "campfire.network/campfire": "other"}, "nodeSelector": {"pool": "edge"}, "resources": {"limits": {"cpu": "1000m"}}});
    let valid = valid(json!({"turn": {"exposure": {"type": "HostPort"}, "podTemplate": template}}));
    let set = sent(&made(&valid)).pop().unwrap();
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!((labels["team"].as_str(), labels["campfire.network/campfire"].as_str()), (Some("x"), Some("fire")));
    assert_eq!(set["spec"]["template"]["spec"]["nodeSelector"]["pool"], "edge");
    assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["ports"][0]["hostPort"], 3478);
}

#[allow(clippy::needless_pass_by_value, reason = "called with json!")]
pub(super) fn service(name: &str, spec: Value, ingress: Value) -> (String, Service) {
    (name.into(), object(json!({"metadata": {"name": name}, "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}})))
}

#[test]
fn a_load_balancer_is_known_by_its_address_rather_than_its_name_and_waited_for() {
    let valid = valid(json!({"turn": {"transports": ["UDP"], "exposure": {"type": "LoadBalancer"}}}));
    let mut found = Found::default();
    found.children.sets.insert("fire-turn".into(), object(json!({"status": {"replicas": 1, "readyReplicas": 1}})));
    let available = |found: &Found| {
        let own = endpoints::servers(&valid, found);
        endpoints::turn_available(&valid, found, &own, 0)
    };
    assert!(endpoints::servers(&valid, &found).is_empty());
    found.children.services.extend([service("fire-turn-0-udp", json!({"clusterIP": "10.0.0.9"}), json!([]))]);
    let waits = available(&found);
    assert_eq!(waits.reason, Reason::WaitingForAddress);
    assert!(waits.message.starts_with("Service fire-turn-0-udp has no address yet (1 wait)"), "{}", waits.message);
    assert_eq!(shown(&endpoints::servers(&valid, &found)).len(), 1, "inside the cluster it is reached already");
    let ingress = json!([{"hostname": "lb.example"}, {"ip": "192.0.2.1"}]);
    found.children.services.extend([service("fire-turn-0-udp", json!({"clusterIP": "10.0.0.9"}), ingress)]);
    assert_eq!(available(&found).reason, Reason::AllReady);
    let own = endpoints::servers(&valid, &found);
    let seen = shown(&own);
    assert_eq!((seen[1].address.as_str(), seen[1].port, seen[1].scope), ("192.0.2.1", 3478, EndpointScope::External));
    assert_eq!(seen[0].server, seen[1].server);
    assert_eq!((own.len(), crate::state::external(&own)[0].addresses.len()), (1, 1));
    assert_eq!(endpoints::read(&seen), own, "what status shows is read back as it was");
}

#[test]
fn a_node_port_is_reached_at_the_node_that_its_pod_runs_on_or_where_the_spec_says() {
    let spec =
        |addresses: Value| json!({"turn": {"transports": ["UDP"], "exposure": {"type": "NodePort", "externalAddresses": addresses}}});
    let mut found = Found::default();
    let ports = json!({"clusterIP": "10.0.0.9", "ports": [{"name": "turn-udp", "port": 3478, "protocol": "UDP", "nodePort": 30478}]});
    found.children.services.extend([service("fire-turn-0-udp", ports, json!([]))]);
    let seen = |valid: &Valid, found: &Found| shown(&endpoints::servers(valid, found));
    assert_eq!(seen(&valid(spec(json!([]))), &found).len(), 1, "its pod runs nowhere yet");
    let pod = object(json!({"metadata": {"name": "fire-turn-0"}, "spec": {"nodeName": "n", "containers": []}}));
    found.pods.insert("fire-turn-0".into(), pod);
    let addresses = json!([{"type": "InternalIP", "address": "172.18.0.2"}, {"type": "ExternalIP", "address": "192.0.2.7"}]);
    found.nodes.insert("n".into(), object(json!({"metadata": {"name": "n"}, "status": {"addresses": addresses}})));
    let outside = |valid: &Valid| seen(valid, &found).pop().map(|endpoint| (endpoint.address, endpoint.port)).unwrap();
    assert_eq!(outside(&valid(spec(json!([])))), ("192.0.2.7".into(), 30_478));
    assert_eq!(outside(&valid(spec(json!(["nat.example"])))), ("nat.example".into(), 30_478));
    assert_eq!(outside(&valid(spec(json!(["[2001:db8::1]:99"])))), ("2001:db8::1".into(), 99));
}

#[test]
fn in_a_cluster_of_two_families_servers_are_reached_in_both() {
    let outside = |spec: &Value, service: Value, ingress: Value, node: Value, pod_ips: Value| {
        let mut found = Found::default();
        found.children.services.extend([self::service("fire-turn-0-udp", service, ingress)]);
        let pod = json!({"metadata": {"name": "fire-turn-0"}, "spec": {"nodeName": "n", "containers": []}, "status": {"podIPs": pod_ips}});
        found.pods.insert("fire-turn-0".into(), object(pod));
        found.nodes.insert("n".into(), object(json!({"metadata": {"name": "n"}, "status": {"addresses": node}})));
        let shown = shown(&endpoints::servers(&valid(spec.clone()), &found));
        let of = |scope| shown.iter().filter(|it| it.scope == scope).map(|it| it.address.clone()).collect::<Vec<_>>();
        (of(EndpointScope::Cluster), of(EndpointScope::External))
    };
    let exposed = |kind: &str| json!({"turn": {"transports": ["UDP"], "exposure": {"type": kind}}});
    let ports =
        |ips: &[&str]| json!({"clusterIP": ips[0], "clusterIPs": ips, "ports": [{"name": "turn-udp", "port": 3478, "nodePort": 30478}]});
    let both = ports(&["10.0.0.9", "fd00::9"]);
    let inside = vec!["10.0.0.9".to_owned(), "fd00::9".to_owned()];
    let node = |addresses: &[(&str, &str)]| addresses.iter().map(|(kind, ip)| json!({"type": kind, "address": ip})).collect::<Value>();
    let (inner, pods) = (node(&[("InternalIP", "172.18.0.2"), ("InternalIP", "fc00::2")]), json!([{"ip": "10.1.0.2"}, {"ip": "fd01::2"}]));

    let (cluster, external) = outside(&exposed("NodePort"), both.clone(), json!([]), inner.clone(), pods.clone());
    assert_eq!((cluster, external), (inside.clone(), vec!["172.18.0.2".to_owned(), "fc00::2".to_owned()]));
    let (cluster, external) = outside(&exposed("NodePort"), ports(&["10.0.0.9"]), json!([]), inner.clone(), pods.clone());
    assert_eq!((cluster.len(), external), (1, vec!["172.18.0.2".to_owned()]), "a Service of one family answers in that alone");
    let (_, external) = outside(&exposed("HostPort"), both.clone(), json!([]), inner.clone(), json!([{"ip": "fd01::2"}]));
    assert_eq!(external, ["fc00::2"], "and so does a pod");
    let balancers = json!([{"ip": "192.0.2.1"}, {"hostname": "lb.example"}, {"ip": "192.0.2.2"}, {"ip": "2001:db8::1"}]);
    let (_, external) = outside(&exposed("LoadBalancer"), both.clone(), balancers, inner, pods.clone());
    assert_eq!(external, ["192.0.2.1", "2001:db8::1"]);
    // An inner address beside an external one is for all the world, or for nobody outside.
    for (inner, expected) in [("2001:db8::2", vec!["192.0.2.7", "2001:db8::2"]), ("fc00::2", vec!["192.0.2.7"])] {
        let node = node(&[("InternalIP", "172.18.0.2"), ("InternalIP", inner), ("ExternalIP", "192.0.2.7")]);
        assert_eq!(outside(&exposed("NodePort"), both.clone(), json!([]), node, pods.clone()).1, expected);
    }
}

#[test]
fn keys_are_read_in_order_and_errors_never_show_what_was_found() {
    let (one, two) = (Psk::from_bytes([1; 32]), Psk::from_bytes([2; 32]));
    let text = format!("# newest first\naccept:{}\n\n announce: {}\n", *one.to_text(), *two.to_text());
    let keys = parse_keys(&text, "s").unwrap();
    assert_eq!(keys, [HeldKey::new(one.clone(), KeyMode::Accept), HeldKey::new(two, KeyMode::Announce)]);
    let error = parse_keys("hunter2", "s").unwrap_err();
    assert_eq!(error.reason, Reason::KeyInvalid);
    assert!(error.message.contains("Secret s") && !error.message.contains("hunter2"), "{}", error.message);
    assert!(parse_keys("\n# nothing\n", "s").unwrap_err().message.contains("holds no key"));
    let many = format!("{}\n", *one.to_text()).repeat(5);
    assert!(parse_keys(&many, "s").unwrap_err().message.contains("at most 4"));
}

#[allow(clippy::needless_pass_by_value, reason = "called with json!")]
pub(super) fn secret(data: Value) -> Secret {
    object(json!({"metadata": {"name": "s"}, "data": data}))
}

pub(super) fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn a_secret_that_lost_its_network_id_keeps_the_network_that_status_knows() {
    let psk = Psk::from_bytes([1; 32]);
    let data = json!({"psk": base64(&psk.to_text())});
    let own = read_psk(&secret(data.clone()), None).unwrap();
    assert_eq!(own.network.to_string(), NetworkId::of(&psk.derive()).to_string());
    let known = read_psk(&secret(data), Some("fd01:203:405::/48")).unwrap();
    assert_eq!(known.network.to_string(), "0102030405");
    let bad = secret(json!({"psk": base64(&psk.to_text()), "network": base64("zz")}));
    assert_eq!(read_psk(&bad, None).unwrap_err().reason, Reason::NetworkInvalid);
    assert_eq!(read_psk(&secret(json!({})), None).unwrap_err().reason, Reason::KeyInvalid);
    assert_eq!(read_join(&secret(json!({"uri": base64("camp://x")}))).unwrap_err().reason, Reason::JoinSecretInvalid);
}

#[test]
fn a_rotation_goes_step_by_step_and_only_when_all_are_ready() {
    use Rotation::{Activate, Distribute, Retire};
    let asks = |step| Some(Asked { step, now: false });
    assert_eq!(next_step(None, None, true), Next::Nothing);
    assert_eq!(next_step(asks(Distribute), None, false), Next::Take(Step::Distribute));
    assert_eq!(next_step(asks(Distribute), Some(Distribute), true), Next::Nothing);
    assert_eq!(next_step(asks(Activate), Some(Distribute), false), Next::Wait);
    assert_eq!(next_step(asks(Activate), Some(Distribute), true), Next::Take(Step::Activate));
    assert_eq!(next_step(asks(Activate), Some(Activate), true), Next::Nothing);
    assert_eq!(next_step(asks(Retire), Some(Distribute), true), Next::Take(Step::Activate));
    assert_eq!(next_step(asks(Retire), Some(Activate), false), Next::Wait);
    assert_eq!(next_step(asks(Retire), Some(Activate), true), Next::Take(Step::Retire));
    assert_eq!(next_step(asks(Retire), None, true), Next::Nothing, "done");
}

#[test]
fn the_time_of_a_condition_is_that_of_its_last_change_and_ready_says_what_lacks() {
    let (early, late) = (Timestamp::from_second(1).unwrap(), Timestamp::from_second(9).unwrap());
    let before = merged(&[], [(ConditionType::KeyReady, Said::of(Reason::KeyMissing, "a"))], Some(1), early);
    let same = merged(&before, [(ConditionType::KeyReady, Said::of(Reason::KeyInvalid, "b"))], Some(2), late);
    assert_eq!((same[0].last_transition_time.0, same[0].reason.as_str(), same[0].observed_generation), (early, "KeyInvalid", Some(2)));
    let turned = merged(&same, [(ConditionType::KeyReady, Said::of(Reason::KeyReady, "c"))], Some(2), late);
    assert_eq!(turned[0].last_transition_time.0, late);
    let said = [
        (ConditionType::Accepted, Said::of(Reason::Accepted, "")),
        (ConditionType::KeyReady, Said::of(Reason::KeyMissing, "put it back")),
        (ConditionType::TurnAvailable, Said::of(Reason::NoEndpoints, "")),
    ];
    let ready = status::ready(&said, &CampfireStatus::default());
    assert_eq!((ready.is_true(), ready.reason, ready.message.as_str()), (false, Reason::KeyMissing, "put it back"));
    let three = CampfireStatus { peers: Some(3), ..CampfireStatus::default() };
    assert_eq!(status::ready(&said[..1], &three), Said::of(Reason::Ready, "3 peers at the fire"));
}

fn holding(cluster: &str, keys: &[u8]) -> Holder {
    Holder { cluster: cluster.into(), holds: keys.iter().map(|key| fingerprint(*key)).collect() }
}

/// Stands for a key.
pub(super) fn fingerprint(key: u8) -> Fingerprint {
    Fingerprint([key; 8])
}

#[test]
fn peers_are_counted_by_cluster_and_by_the_keys_they_hold() {
    let (new, old) = (2, 1);
    let mut peers = Peers::default();
    for number in 0..40 {
        let keys = if number % 2 == 0 { vec![new, old] } else { vec![old] };
        peers.known.insert(testing::identity(number), holding(&format!("c{number:02}"), &keys));
    }
    assert_eq!((peers.total(), peers.clusters().len()), (40, 32));
    let generations = peers.generations(&[fingerprint(new), fingerprint(old)]);
    assert_eq!((generations[0].peers, generations[1].peers), (20, 40));
    assert_eq!(peers.lacking(fingerprint(new)).len(), 20);
    assert!(peers.lacking(fingerprint(old)).is_empty());
}

#[test]
fn servers_that_wait_say_what_for() {
    let two = valid(json!({"turn": {"replicas": 2, "transports": ["UDP"], "exposure": {"type": "LoadBalancer"}}}));
    let found = |ready: i32, pod: Value| {
        let mut found = Found::default();
        found.children.sets.insert("fire-turn".into(), object(json!({"status": {"replicas": 2, "readyReplicas": ready}})));
        found.pods.insert("fire-turn-0".into(), object(pod));
        found
    };
    let waiting = json!({"reason": "ErrImagePull", "message": "no such image"});
    let broken = json!({"metadata": {"name": "fire-turn-0"}, "status": {"containerStatuses": [{
        "name": "turn", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": waiting},
    }]}});
    let said = |valid: &Valid, found: &Found, elsewhere| endpoints::turn_available(valid, found, &[], elsewhere);
    assert!(said(&two, &found(0, broken), 0).message.contains("pod fire-turn-0: ErrImagePull no such image"));
    assert_eq!(said(&two, &found(1, json!({})), 0).reason, Reason::WaitingForAddress);
    let inside = valid(json!({"turn": {"replicas": 2, "exposure": {"type": "ClusterIP"}}}));
    assert_eq!(said(&inside, &found(2, json!({})), 0).reason, Reason::NoEndpoints);
    let some = endpoints::turn_available(&inside, &found(1, json!({})), &["turn.example.com".parse::<Server>().unwrap()], 0);
    assert_eq!((some.reason, some.message.as_str()), (Reason::SomeReady, "1 of 2 servers are ready"));
    let none = valid(json!({"join": {"secretRef": {"name": "j"}}}));
    assert_eq!(said(&none, &Found::default(), 0).reason, Reason::NoServers);
    assert!(said(&none, &Found::default(), 2).is_true());
}

/// A pod of namespace `default` says this.
fn says(rig: &Rig, name: &str, uid: &str, report: PeerReport) {
    let pod = PodId { key: ObjectKey::new("default", name), uid: uid.into() };
    rig.ctx.reports.put(pod, testing::reported(&ObjectKey::new("default", "fire"), report));
}

#[tokio::test]
async fn what_a_pod_said_counts_as_long_as_the_pod_is_there() {
    let mut world = Rig::new(|_, _, _| (404, json!({})));
    let fire = ObjectKey::new("default", "fire");
    let (new, old) = (fingerprint(2), fingerprint(1));
    for (number, name, uid) in [(1, "a", "1"), (2, "b", "2")] {
        world.pod("default", name, uid, &json!({ campfire_api::names::CAMPFIRE_ANNOTATION: "default/fire" }));
        says(&world, name, uid, PeerReport { fingerprints: vec![old], ..testing::report(number) });
    }
    assert_eq!(peers(&world.ctx, &fire).total(), 2);
    world.delete_pod("default", "a");
    let known = peers(&world.ctx, &fire);
    assert_eq!(
        (known.total(), known.lacking(new).values().sum::<usize>(), known.silent),
        (1, 1, 0),
        "a rotation waits for no pod that is gone"
    );
}

#[test]
fn a_joined_cluster_holds_the_old_key_until_nobody_at_the_fire_lacks_the_new_one() {
    let valid = valid(json!({"join": {"secretRef": {"name": "s"}}}));
    let (old, new) = (Psk::from_bytes([1; 32]), Psk::from_bytes([2; 32]));
    let fingerprint = |psk: &Psk| psk.derive().fingerprint;
    let joined = |psk: &Psk| {
        let uri = base64(&format!("camp://192.0.2.1?net=0102030405#{}", &*psk.to_text()));
        read_join(&secret(json!({"uri": uri}))).unwrap()
    };
    let told = |held: &Held| Arc::new(Membership { id: held.network, ..testing::membership(held.keys.clone()) });
    let holds = |keys: &[&Psk]| Holder { cluster: "west".into(), holds: keys.iter().map(|psk| fingerprint(psk)).collect() };
    let mut found = Found { told: Some(told(&joined(&old))), ..Found::default() };
    found.peers.known.insert(testing::identity(1), holds(&[&old]));

    let mut held = joined(&new);
    held.hold_on(&valid, &found);
    assert_eq!(held.fingerprints(), [fingerprint(&new), fingerprint(&old)]);
    found.told = Some(told(&held));
    found.peers.known.insert(testing::identity(1), holds(&[&new, &old]));
    let mut held = joined(&new);
    held.hold_on(&valid, &found);
    assert_eq!(held.fingerprints(), [fingerprint(&new)]);
}

#[tokio::test]
async fn red_6_a_pod_of_a_namespace_that_is_not_admitted_holds_up_no_rotation() {
    let mut rig = Rig::new(|_, _, _| (404, json!({})));
    rig.campfire("default", "main", &json!({"members": {"namespaces": {"from": "Same"}}}));
    rig.namespace("stranger", &json!({}));
    let key = ObjectKey::new("default", "main");
    assert_eq!(peers(&rig.ctx, &key).silent, 0);
    // What any user of any namespace may write on a pod of its own (with label campfire.network/injected=enabled): it need not even start.
    rig.pod("stranger", "x", "uid-of-x", &json!({"campfire.network/campfire": "default/main"}));
    assert_eq!(peers(&rig.ctx, &key).silent, 0);
    rig.namespace("default", &json!({}));
    rig.pod("default", "y", "uid-of-y", &json!({"campfire.network/campfire": "default/main"}));
    assert_eq!(peers(&rig.ctx, &key).silent, 1, "one that is admitted is waited for");
}

#[test]
fn red_6_who_is_to_be_removed_holds_up_its_removal_only_as_long_as_one_waits_for_it() {
    let mut known = Peers::default();
    // At the fire under the old key, as anybody who holds it may: says that it holds the old key alone.
    known.known.insert(testing::identity(66), holding("", &[1]));
    known.known.insert(testing::identity(1), holding("", &[2, 1]));
    let lacking = known.lacking(fingerprint(2));
    assert!(!lacking.is_empty());
    let asked = |step: &str| {
        let mut campfire = campfire(json!({"turn": {"exposure": {"type": "ClusterIP"}}}));
        campfire.metadata.annotations = Some([("campfire.network/rotate".to_owned(), step.to_owned())].into());
        validate(&campfire, &settings()).unwrap().rotate.unwrap()
    };
    for stands in [Rotation::Distribute, Rotation::Activate] {
        assert_eq!(next_step(asked("Retire"), Some(stands), lacking.is_empty()), Next::Wait);
    }
    assert_eq!(next_step(asked("ActivateNow"), Some(Rotation::Distribute), lacking.is_empty()), Next::Take(Step::Activate));
    assert_eq!(next_step(asked("RetireNow"), Some(Rotation::Distribute), lacking.is_empty()), Next::Take(Step::Activate));
    assert_eq!(next_step(asked("RetireNow"), Some(Rotation::Activate), lacking.is_empty()), Next::Take(Step::Retire));
    assert_eq!(next_step(asked("RetireNow"), None, lacking.is_empty()), Next::Nothing, "done");
}

#[tokio::test]
async fn red_16_a_report_of_one_pod_does_not_speak_for_another_peer() {
    use crate::state::{Sighting, View};
    let mut rig = Rig::new(|_, _, _| (404, json!({})));
    let fire = ObjectKey::new("default", "fire");
    let (new, old) = (fingerprint(2), fingerprint(1));
    let victim = testing::identity(171);
    let seen = Sighting { name: "laptop".into(), namespace: String::new(), fingerprints: vec![old], ..testing::sighting(171) };
    // What the laptop itself says, signed: it holds the old key alone.
    rig.ctx.sightings.publish(&fire, View { camped: 1, members: 1, seen: [(victim, seen)].into(), ..View::default() });
    assert_eq!(peers(&rig.ctx, &fire).lacking(new).len(), 1);
    // What a member pod reports, with its own token.
    rig.pod("default", "evil", "1", &json!({ campfire_api::names::CAMPFIRE_ANNOTATION: "default/fire" }));
    says(&rig, "evil", "1", PeerReport { identity: victim, fingerprints: vec![new, old], ..testing::report(1) });
    let known = peers(&rig.ctx, &fire);
    assert_eq!((known.lacking(new).len(), known.silent), (1, 0));
}
