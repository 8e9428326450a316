//! The pure steps: validate, children, endpoints, keys, status.

use std::collections::BTreeSet;

use campfire_api::agent::Report;
use campfire_api::conditions::{ConditionType, Reason};
use campfire_api::{Campfire, CampfireStatus, EndpointScope, Rotation};
use campfire_protocol::key::KeyMode;
use campfire_protocol::key::Psk;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, Service};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::children::{self, Kind};
use super::endpoints::{Seen, endpoints, external_servers, waiting};
use super::keys::{Step, next_step, parse_keys, read_join, read_psk};
use super::reconcile::{hold_on, peers};
use super::status::{self, Peers};
use super::validate::{Valid, validate};
use crate::conditions::{Said, merged};
use crate::members::Served;
use crate::settings::OperatorSettings;
use crate::state::{self, Membership, ObjectKey, Reported};
use crate::testing::Rig;

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

fn campfire(spec: Value) -> Campfire {
    let mut object = json!({"apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": {"name": "fire", "namespace": "default", "uid": "u-1"}});
    object["spec"] = spec;
    serde_json::from_value(object).unwrap()
}

pub(super) fn valid(spec: Value) -> Valid {
    validate(&campfire(spec), &settings()).unwrap()
}

fn refused(spec: Value) -> String {
    let invalid = validate(&campfire(spec), &settings()).unwrap_err();
    format!("{}: {}", invalid.reason, invalid.message)
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
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
    assert!(children::turn(&valid(json!({"join": {"secretRef": {"name": "j"}}})), &settings()).is_empty());
}

#[test]
fn each_server_has_services_of_its_own_and_all_pass_the_restricted_standard() {
    let valid =
        valid(json!({"turn": {"replicas": 2, "exposure": {"type": "LoadBalancer", "loadBalancerClass": "c", "annotations": {"a": "b"}}}}));
    let children = children::turn(&valid, &settings());
    let services: Vec<&str> = children.iter().filter(|child| child.kind == Kind::Service).map(|child| child.name.as_str()).collect();
    assert_eq!(services, ["fire-turn", "fire-turn-0-tcp", "fire-turn-0-udp", "fire-turn-1-tcp", "fire-turn-1-udp"]);
    for child in &children {
        let owner = &child.object["metadata"]["ownerReferences"][0];
        assert_eq!((owner["uid"].as_str(), owner["controller"].as_bool()), (Some("u-1"), Some(true)));
    }
    let udp = &children.iter().find(|child| child.name == "fire-turn-1-udp").unwrap().object;
    assert_eq!(udp["spec"]["externalTrafficPolicy"], "Local");
    assert_eq!(udp["spec"]["selector"]["statefulset.kubernetes.io/pod-name"], "fire-turn-1");
    let set = &children.last().unwrap().object;
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
    let set = children::turn(&valid, &settings()).pop().unwrap().object;
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!((labels["team"].as_str(), labels["campfire.network/campfire"].as_str()), (Some("x"), Some("fire")));
    assert_eq!(set["spec"]["template"]["spec"]["nodeSelector"]["pool"], "edge");
    assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["ports"][0]["hostPort"], 3478);
}

#[allow(clippy::needless_pass_by_value, reason = "called with json!")]
fn service(name: &str, spec: Value, ingress: Value) -> Service {
    object(json!({"metadata": {"name": name}, "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}}))
}

#[test]
fn a_load_balancer_is_known_by_its_address_rather_than_its_name_and_waited_for() {
    let valid = valid(json!({"turn": {"transports": ["UDP"], "exposure": {"type": "LoadBalancer"}}}));
    let mut seen = Seen::default();
    assert!(endpoints(&valid, &seen).is_empty());
    seen.services.insert("fire-turn-0-udp".into(), service("fire-turn-0-udp", json!({"clusterIP": "10.0.0.9"}), json!([])));
    assert_eq!(waiting(&valid, &seen), ["fire-turn-0-udp"]);
    assert_eq!(endpoints(&valid, &seen).len(), 1, "inside the cluster it is reached already");
    let ingress = json!([{"hostname": "lb.example"}, {"ip": "192.0.2.1"}]);
    seen.services.insert("fire-turn-0-udp".into(), service("fire-turn-0-udp", json!({"clusterIP": "10.0.0.9"}), ingress));
    assert!(waiting(&valid, &seen).is_empty());
    let found = endpoints(&valid, &seen);
    assert_eq!((found[1].address.as_str(), found[1].port, found[1].scope), ("192.0.2.1", 3478, EndpointScope::External));
    assert_eq!(found[0].server, found[1].server);
    assert_eq!(external_servers(&found).len(), 1);
}

#[test]
fn a_node_port_is_reached_at_the_node_that_its_pod_runs_on_or_where_the_spec_says() {
    let spec =
        |addresses: Value| json!({"turn": {"transports": ["UDP"], "exposure": {"type": "NodePort", "externalAddresses": addresses}}});
    let mut seen = Seen::default();
    let ports = json!({"clusterIP": "10.0.0.9", "ports": [{"name": "turn-udp", "port": 3478, "protocol": "UDP", "nodePort": 30478}]});
    seen.services.insert("fire-turn-0-udp".into(), service("fire-turn-0-udp", ports, json!([])));
    assert_eq!(endpoints(&valid(spec(json!([]))), &seen).len(), 1, "its pod runs nowhere yet");
    let pod: Pod = object(json!({"metadata": {"name": "fire-turn-0"}, "spec": {"nodeName": "n", "containers": []}}));
    seen.pods.insert("fire-turn-0".into(), pod);
    let addresses = json!([{"type": "InternalIP", "address": "172.18.0.2"}, {"type": "ExternalIP", "address": "192.0.2.7"}]);
    let node: Node = object(json!({"metadata": {"name": "n"}, "status": {"addresses": addresses}}));
    seen.nodes.insert("n".into(), node);
    let outside = |valid: &Valid| endpoints(valid, &seen).pop().map(|endpoint| (endpoint.address, endpoint.port)).unwrap();
    assert_eq!(outside(&valid(spec(json!([])))), ("192.0.2.7".into(), 30_478));
    assert_eq!(outside(&valid(spec(json!(["nat.example"])))), ("nat.example".into(), 30_478));
    assert_eq!(outside(&valid(spec(json!(["[2001:db8::1]:99"])))), ("2001:db8::1".into(), 99));
}

#[test]
fn keys_are_read_in_order_and_errors_never_show_what_was_found() {
    let (one, two) = (Psk::from_bytes([1; 32]), Psk::from_bytes([2; 32]));
    let text = format!("# newest first\naccept:{}\n\n announce: {}\n", *one.to_text(), *two.to_text());
    let keys = parse_keys(&text, "s").unwrap();
    assert_eq!(keys, [(one.clone(), KeyMode::Accept), (two, KeyMode::Announce)]);
    let error = parse_keys("hunter2", "s").unwrap_err();
    assert_eq!(error.reason, Reason::KeyInvalid);
    assert!(error.message.contains("Secret s") && !error.message.contains("hunter2"), "{}", error.message);
    assert!(parse_keys("\n# nothing\n", "s").unwrap_err().message.contains("holds no key"));
    let many = format!("{}\n", *one.to_text()).repeat(5);
    assert!(parse_keys(&many, "s").unwrap_err().message.contains("at most 4"));
}

#[allow(clippy::needless_pass_by_value, reason = "called with json!")]
fn secret(data: Value) -> Secret {
    object(json!({"metadata": {"name": "s"}, "data": data}))
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn a_secret_that_lost_its_network_id_keeps_the_network_that_status_knows() {
    let psk = Psk::from_bytes([1; 32]);
    let data = json!({"psk": base64(&psk.to_text())});
    let own = read_psk(&secret(data.clone()), None).unwrap();
    assert_eq!(own.network.to_string(), campfire_protocol::identity::NetworkId::of(&psk.derive()).to_string());
    let known = read_psk(&secret(data), Some("fd01:203:405::/48")).unwrap();
    assert_eq!((known.network.to_string().as_str(), known.network_kept), ("0102030405", false));
    let bad = secret(json!({"psk": base64(&psk.to_text()), "network": base64("zz")}));
    assert_eq!(read_psk(&bad, None).unwrap_err().reason, Reason::NetworkInvalid);
    assert_eq!(read_psk(&secret(json!({})), None).unwrap_err().reason, Reason::KeyInvalid);
    assert_eq!(read_join(&secret(json!({"uri": base64("camp://x")}))).unwrap_err().reason, Reason::JoinSecretInvalid);
}

#[test]
fn a_rotation_goes_step_by_step_and_only_when_all_are_ready() {
    use Rotation::{Activate, Distribute, Retire};
    assert_eq!(next_step(None, None, true), Step::Nothing);
    assert_eq!(next_step(Some(Distribute), None, false), Step::Distribute);
    assert_eq!(next_step(Some(Distribute), Some(Distribute), true), Step::Nothing);
    assert_eq!(next_step(Some(Activate), Some(Distribute), false), Step::Wait);
    assert_eq!(next_step(Some(Activate), Some(Distribute), true), Step::Activate);
    assert_eq!(next_step(Some(Activate), Some(Activate), true), Step::Nothing);
    assert_eq!(next_step(Some(Retire), Some(Distribute), true), Step::Activate);
    assert_eq!(next_step(Some(Retire), Some(Activate), false), Step::Wait);
    assert_eq!(next_step(Some(Retire), Some(Activate), true), Step::Retire);
    assert_eq!(next_step(Some(Retire), None, true), Step::Nothing, "done");
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
    let ready = status::ready(&said, "");
    assert_eq!((ready.is_true(), ready.reason, ready.message.as_str()), (false, Reason::KeyMissing, "put it back"));
    assert!(status::ready(&said[..1], "3 peers").is_true());
}

#[test]
fn the_version_of_the_list_of_servers_goes_up_when_it_changes_and_only_then() {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<String>>();
    let mut before = CampfireStatus::default();
    assert_eq!(status::list_version(&before, &list(&[]), &list(&[])), 1);
    before.server_list_version = Some(7);
    assert_eq!(status::list_version(&before, &list(&["a"]), &list(&["a"])), 7);
    assert_eq!(status::list_version(&before, &list(&["a", "b"]), &list(&["a"])), 8);
}

#[test]
fn peers_are_counted_by_cluster_and_by_the_keys_they_hold() {
    let mut peers = Peers::default();
    for number in 0..40 {
        let keys = if number % 2 == 0 { vec!["new".to_owned(), "old".to_owned()] } else { vec!["old".to_owned()] };
        peers.known.insert(format!("p{number}"), (format!("c{number:02}"), keys.into_iter().collect()));
    }
    assert_eq!((peers.total(), peers.clusters().len()), (40, 32));
    let generations = peers.generations(&["new".into(), "old".into()]);
    assert_eq!((generations[0].peers, generations[1].peers), (20, 40));
    assert_eq!(peers.lacking("new").len(), 20);
    assert!(peers.lacking("old").is_empty());
}

#[test]
fn servers_that_wait_say_what_for() {
    let said = |ready, waiting: &[String], trouble| status::turn_available(2, ready, 0, waiting, trouble, &[]);
    assert!(said(0, &[], Some("pod fire-turn-0: ErrImagePull no such image")).message.contains("ErrImagePull"));
    assert_eq!(said(1, &["fire-turn-0-udp".into()], None).reason, Reason::WaitingForAddress);
    assert_eq!(said(2, &[], None).reason, Reason::NoEndpoints);
    assert_eq!(status::turn_available(0, 0, 0, &[], None, &[]).reason, Reason::NoServers);
    assert!(status::turn_available(0, 0, 2, &[], None, &[]).is_true());
}

#[tokio::test]
async fn what_a_pod_said_counts_as_long_as_the_pod_is_there() {
    let mut world = Rig::new(|_, _, _| (404, json!({})));
    let fire = ObjectKey::new("default", "fire");
    for (name, uid) in [("a", "1"), ("b", "2")] {
        world.pod("default", name, uid, &json!({ campfire_api::names::CAMPFIRE_ANNOTATION: "default/fire" }));
        let report = Report { identity: name.into(), camped: true, fingerprints: vec!["old".into()], ..Report::default() };
        let pod = state::PodId { key: ObjectKey::new("default", name), uid: uid.into() };
        world.ctx.reports.put(pod, Reported { campfire: fire.clone(), report, at: std::time::Instant::now() });
    }
    assert_eq!(peers(&world.ctx, &fire).0.total(), 2);
    world.delete_pod("default", "a", "1");
    let (known, silent) = peers(&world.ctx, &fire);
    assert_eq!(
        (known.total(), known.lacking("new").values().sum::<usize>(), silent),
        (1, 1, 0),
        "a rotation waits for no pod that is gone"
    );
}

#[tokio::test]
async fn a_joined_cluster_holds_the_old_key_until_nobody_at_the_fire_lacks_the_new_one() {
    let rig = Rig::new(|_, _, _| (404, json!({})));
    let valid = valid(json!({"join": {"secretRef": {"name": "s"}}}));
    let (old, new) = (Psk::from_bytes([1; 32]), Psk::from_bytes([2; 32]));
    let fingerprint = |psk: &Psk| psk.derive().fingerprint.to_string();
    let network = "0102030405";
    let joined =
        |psk: &Psk| read_join(&secret(json!({"uri": base64(&format!("camp://192.0.2.1?net={network}#{}", &*psk.to_text()))}))).unwrap();
    let before = Membership { keys: joined(&old).told(), network: network.into(), ..Membership::default() };
    rig.ctx.memberships.publish(&valid.key, before);
    let mut peers = Peers::default();
    peers.known.insert("elsewhere".into(), ("west".into(), [fingerprint(&old)].into()));

    let mut held = joined(&new);
    hold_on(&rig.ctx, &valid, &mut held, &peers);
    assert_eq!(held.fingerprints(), [fingerprint(&new), fingerprint(&old)]);
    rig.ctx.memberships.publish(&valid.key, Membership { keys: held.told(), network: network.into(), ..Membership::default() });
    peers.known.insert("elsewhere".into(), ("west".into(), [fingerprint(&new), fingerprint(&old)].into()));
    let mut held = joined(&new);
    hold_on(&rig.ctx, &valid, &mut held, &peers);
    assert_eq!(held.fingerprints(), [fingerprint(&new)]);
}

#[tokio::test]
async fn red_6_a_pod_of_a_namespace_that_is_not_admitted_holds_up_a_rotation() {
    let mut rig = Rig::new(|_, _, _| (404, json!({})));
    rig.campfire("default", "main", &json!({"members": {"namespaces": {"from": "Same"}}}));
    rig.namespace("stranger", &json!({}));
    let key = ObjectKey::new("default", "main");
    assert_eq!(peers(&rig.ctx, &key).1, 0);
    // What any user of any namespace may write on a pod of its own (with label campfire.network/injected=enabled): it need not even start.
    rig.pod("stranger", "x", "uid-of-x", &json!({"campfire.network/campfire": "default/main"}));
    let (_, silent) = peers(&rig.ctx, &key);
    println!("pods that have not reported: {silent}");
    assert_eq!(silent, 1);
    // Rotation goes on only if `silent == 0`.
    assert_eq!(next_step(Some(Rotation::Retire), Some(Rotation::Distribute), false), Step::Wait);
    assert_eq!(next_step(Some(Rotation::Retire), Some(Rotation::Activate), false), Step::Wait);
}

#[test]
fn red_6_who_is_to_be_removed_holds_up_its_removal() {
    let mut known = Peers::default();
    // At the fire under the old key, as anybody who holds it may: says that it holds the old key alone.
    known.known.insert("attacker".into(), (String::new(), BTreeSet::from(["0000000000000001".to_owned()])));
    known.known.insert("honest".into(), (String::new(), BTreeSet::from(["0000000000000002".to_owned(), "0000000000000001".to_owned()])));
    let lacking = known.lacking("0000000000000002");
    println!("lack the new key: {lacking:?}");
    assert!(!lacking.is_empty());
    assert_eq!(next_step(Some(Rotation::Retire), Some(Rotation::Distribute), lacking.is_empty()), Step::Wait);
}

#[tokio::test]
async fn red_16_a_report_of_one_pod_speaks_for_another_peer() {
    use crate::state::{Sighting, View};
    let mut rig = Rig::new(|_, _, _| (404, json!({})));
    let fire = ObjectKey::new("default", "fire");
    let victim = "ab".repeat(32);
    let seen = Sighting {
        identity: victim.clone(),
        public_key: String::new(),
        name: "laptop".into(),
        namespace: String::new(),
        cluster: String::new(),
        addresses: Vec::new(),
        fingerprints: vec!["old".into()],
        origin: false,
    };
    // What the laptop itself says, signed: it holds the old key alone.
    rig.ctx.sightings.publish(&fire, View { camped: 1, members: 1, seen: [(victim.clone(), seen)].into(), ..View::default() });
    assert_eq!(peers(&rig.ctx, &fire).0.lacking("new").len(), 1);
    // What a member pod reports, with its own token.
    rig.pod("default", "evil", "1", &json!({ campfire_api::names::CAMPFIRE_ANNOTATION: "default/fire" }));
    let report = Report { identity: victim, camped: true, fingerprints: vec!["new".into(), "old".into()], ..Report::default() };
    let pod = state::PodId { key: ObjectKey::new("default", "evil"), uid: "1".into() };
    rig.ctx.reports.put(pod, Reported { campfire: fire.clone(), report, at: std::time::Instant::now() });
    let (known, silent) = peers(&rig.ctx, &fire);
    println!("lacking {:?}, silent {silent}, total {}: Retire goes on", known.lacking("new"), known.total());
    assert!(known.lacking("new").is_empty() && silent == 0);
}
