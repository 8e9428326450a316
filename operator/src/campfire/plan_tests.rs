//! Plans, by tables: what is found, and what follows from it.

use std::sync::Arc;

use campfire_api::conditions::{ConditionType, Reason};
use campfire_api::{Campfire, CampfireStatus, Rotation, names};
use campfire_protocol::key::KeyMode;
use campfire_protocol::server::ServerId;
use campfire_protocol::uri::CampUri;
use serde_json::{Value, json};

use super::endpoints::shown;
use super::fetch::Found;
use super::keys::{self, KeyWrite};
use super::peers::Holder;
use super::plan::{Plan, Wanted, plan};
use super::rotation::Step;
use super::tests::{base64, campfire, held, object, secret, service, settings, valid};
use super::validate::{Valid, validate};
use crate::conditions::Said;
use crate::members::Trusted;
use crate::settings::OperatorSettings;
use crate::state::View;
use crate::testing;

/// What is found of a Campfire with these keys, nothing of which was made yet.
fn found(keys: &[(u8, KeyMode)]) -> Found {
    let held = held(keys);
    let mut key = secret(json!({}));
    key.data = Some(keys::data(&held.keys, held.network));
    let seated = [(held.keys[0].fingerprint(), [ServerId::new("s").unwrap()].into())].into();
    let view = Arc::new(View { camped: 1, seated, ..View::default() });
    Found { key: Some(key), view, ..Found::default() }
}

const ONE: &[(u8, KeyMode)] = &[(1, KeyMode::Announce)];

/// With a rotation's step asked for.
fn asked(step: &str, spec: Value) -> Valid {
    let mut campfire: Campfire = campfire(spec);
    campfire.metadata.annotations = Some([(names::ROTATE_ANNOTATION.to_owned(), step.to_owned())].into());
    validate(&campfire, &settings()).unwrap()
}

fn inside() -> Value {
    json!({"turn": {"exposure": {"type": "ClusterIP"}}})
}

fn elsewhere() -> Value {
    json!({"turn": {"replicas": 0, "servers": ["turn.example.com"]}})
}

fn wanted(valid: &Valid, found: &Found) -> Wanted {
    match plan(valid, found, &settings()).unwrap() {
        Plan::All(wanted) => *wanted,
        Plan::Key(write) => panic!("{write:?}"),
    }
}

fn written(valid: &Valid, found: &Found) -> KeyWrite {
    match plan(valid, found, &settings()).unwrap() {
        Plan::Key(write) => write,
        Plan::All(wanted) => panic!("{wanted:?}"),
    }
}

fn said(wanted: &Wanted, kind: ConditionType) -> Option<&Said> {
    wanted.said.iter().find(|(condition, _)| *condition == kind).map(|(_, said)| said)
}

#[test]
fn without_a_key_nothing_is_planned_and_it_is_said_why() {
    let named = json!({"psk": {"secretRef": {"name": "k"}}, "turn": {"exposure": {"type": "ClusterIP"}}});
    let join = json!({"join": {"secretRef": {"name": "j"}}});
    let had = CampfireStatus { key_fingerprint: Some("0123456789abcdef".into()), ..CampfireStatus::default() };
    let table = [
        (named.clone(), Found::default(), Reason::KeySecretMissing),
        (named.clone(), Found { before: had.clone(), ..Found::default() }, Reason::KeyMissing),
        (inside(), Found { before: had, ..Found::default() }, Reason::KeyMissing),
        (join.clone(), Found::default(), Reason::JoinSecretMissing),
        (join, Found { key: Some(secret(json!({"uri": base64("camp://x")}))), ..Found::default() }, Reason::JoinSecretInvalid),
        (named, Found { claimed_by: Some("older".into()), ..found(ONE) }, Reason::KeyClaimed),
        (inside(), Found { key: Some(secret(json!({"psk": base64("hunter2")}))), ..Found::default() }, Reason::KeyInvalid),
    ];
    for (spec, found, expected) in table {
        assert_eq!(plan(&valid(spec.clone()), &found, &settings()).unwrap_err().reason, expected, "{spec}");
    }
}

#[test]
fn the_key_is_made_owned_or_let_go_before_anything_else() {
    assert!(matches!(written(&valid(inside()), &Found::default()), KeyWrite::Make));
    let with = |policy: &str| valid(json!({"psk": {"deletionPolicy": policy}, "turn": {"exposure": {"type": "ClusterIP"}}}));
    let ours = |owner: Value| {
        let mut found = found(ONE);
        let metadata =
            json!({"name": "fire-psk", "labels": {"app.kubernetes.io/managed-by": "campfire-operator"}, "ownerReferences": owner});
        found.key.as_mut().unwrap().metadata = object(metadata);
        found
    };
    let campfire = json!({"apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "name": "fire", "uid": "u-1"});
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u-2"});
    let KeyWrite::Own(owners) = written(&with("Delete"), &ours(json!([other]))) else { panic!() };
    assert_eq!(owners.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>(), ["u-2", "u-1"]);
    let KeyWrite::Own(owners) = written(&with("Retain"), &ours(json!([other, campfire]))) else { panic!() };
    assert_eq!(owners.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>(), ["u-2"]);
    wanted(&with("Delete"), &ours(json!([campfire])));
    wanted(&with("Retain"), &ours(json!([other])));
    wanted(&with("Delete"), &found(ONE));
    // As a backup of another cluster has it: the garbage collector would take the key.
    let gone = json!({"apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "name": "fire", "uid": "u-0"});
    for (policy, kept) in [("Retain", vec!["u-2"]), ("Delete", vec!["u-2", "u-1"])] {
        let KeyWrite::Own(owners) = written(&with(policy), &ours(json!([gone, other]))) else { panic!() };
        assert_eq!(owners.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>(), kept, "{policy}");
    }
}

#[test]
fn a_key_that_vanished_is_put_back_as_members_have_it_and_no_other_is() {
    let held = held(ONE);
    let told = |keys: &keys::Held| Some(Arc::new(testing::membership(keys.keys.clone())));
    let before = CampfireStatus { key_fingerprint: Some(held.keys[0].fingerprint().to_string()), ..CampfireStatus::default() };
    let gone = Found { before: before.clone(), told: told(&held), ..Found::default() };
    let KeyWrite::PutBack(back) = written(&valid(inside()), &gone) else { panic!() };
    assert_eq!((back.keys, back.network), (held.keys.clone(), gone.told.as_ref().unwrap().id));
    let refused = |spec: Value, found: Found| plan(&valid(spec), &found, &settings()).unwrap_err();
    let other = super::tests::held(&[(9, KeyMode::Announce)]);
    let why = refused(inside(), Found { before: before.clone(), told: told(&other), ..Found::default() });
    assert!(why.reason == Reason::KeyMissing && why.message.contains("and all its pods"), "{why:?}");
    // A person's own is the person's to put back.
    let named = json!({"psk": {"secretRef": {"name": "k"}}, "turn": {"exposure": {"type": "ClusterIP"}}});
    assert_eq!(refused(named, Found { before, told: told(&held), ..Found::default() }).reason, Reason::KeyMissing);
}

#[test]
fn a_step_of_a_rotation_is_taken_once_and_then_said() {
    let (accepted, both) = ([(2, KeyMode::Accept), (1, KeyMode::Announce)], [(2, KeyMode::Announce), (1, KeyMode::Announce)]);
    let table = [
        ("Distribute", ONE, Step::Distribute, Reason::Retired),
        ("Activate", &accepted, Step::Activate, Reason::Distributed),
        ("Retire", &accepted, Step::Activate, Reason::Distributed),
        ("Retire", &both, Step::Retire, Reason::Activated),
    ];
    for (step, keys, expected, stage) in table {
        let valid = asked(step, inside());
        let KeyWrite::Rotate { step: due, held } = written(&valid, &found(keys)) else { panic!() };
        assert_eq!((due, held.keys.len()), (expected, keys.len()), "{step}");
        let wanted = wanted(&valid, &Found { stepped: true, ..found(keys) });
        assert_eq!(said(&wanted, ConditionType::Rotated).unwrap().reason, stage, "who is to hear of it must have the time for that");
    }
    let over = wanted(&asked("Retire", inside()), &found(ONE));
    assert_eq!(said(&over, ConditionType::Rotated).unwrap().reason, Reason::Retired);
    assert_eq!(said(&wanted(&valid(inside()), &found(ONE)), ConditionType::Rotated), None, "nobody asks for one");
}

#[test]
fn a_rotation_waits_for_all_that_may_lack_the_new_key_and_names_them() {
    let keys = [(2, KeyMode::Accept), (1, KeyMode::Announce)];
    let (new, old) = (held(&keys).keys[0].fingerprint(), held(&keys).keys[1].fingerprint());
    let waits = |change: &dyn Fn(&mut Found)| {
        let mut found = found(&keys);
        change(&mut found);
        let wanted = wanted(&asked("Activate", inside()), &found);
        let said = said(&wanted, ConditionType::Rotated).unwrap().clone();
        assert_eq!(said.reason, Reason::WaitingForPeers);
        said.message
    };
    let on = "to go on without them: annotate campfire.network/rotate=ActivateNow or RetireNow";
    let message = |of: &str| format!("not all hold the new key {new} yet: {of}; a joined cluster needs the new join Secret; {on}");
    let peer = |found: &mut Found| {
        found.peers.known.insert(testing::identity(1), Holder { cluster: "west".into(), holds: [old].into() });
        found.peers.known.insert(testing::identity(2), Holder { cluster: String::new(), holds: [old].into() });
        found.peers.known.insert(testing::identity(3), Holder { cluster: "west".into(), holds: [new, old].into() });
    };
    assert_eq!(waits(&peer), message("1 in cluster (unnamed), 1 in cluster west"));
    assert_eq!(waits(&|found| found.peers.silent = 2), message("2 pods that have not reported"));
    let server = |found: &mut Found| {
        let seated = [(old, [ServerId::new("s-0").unwrap()].into())].into();
        found.view = Arc::new(View { camped: 1, seated, ..View::default() });
    };
    assert_eq!(waits(&server), message("server s-0 (those of this cluster learn it within two minutes)"));
    let away = message("who is elsewhere is not known, as the operator is not at the fire");
    assert_eq!(waits(&|found| found.view = Arc::default()), away);
}

#[test]
fn who_joined_is_told_where_to_rotate() {
    let spec = json!({"join": {"secretRef": {"name": "j"}}});
    let uri = base64(&format!("camp://192.0.2.1#{}", "ab".repeat(32)));
    let found = Found { key: Some(secret(json!({"uri": uri}))), ..Found::default() };
    let wanted = wanted(&asked("Distribute", spec), &found);
    assert_eq!(said(&wanted, ConditionType::Rotated).unwrap().reason, Reason::RotatesElsewhere);
    assert_eq!(said(&wanted, ConditionType::Joinable), None, "another cluster is let in by the one that made the key");
    assert_eq!((wanted.join.is_none(), wanted.status.join_secret_name), (true, None));
    assert_eq!(wanted.membership.given[0].id.as_str(), "192.0.2.1:3478");
}

#[test]
fn servers_that_stay_as_they_are_stay_where_they_are_and_all_else_goes_on() {
    let spec = |kind: &str| valid(json!({"turn": {"transports": ["UDP"], "exposure": {"type": kind}}}));
    let mut found = found(&[(2, KeyMode::Accept), (1, KeyMode::Announce)]);
    let ports = [service("fire-turn-0-udp", json!({"clusterIP": "10.0.0.9"}), json!([{ "ip": "192.0.2.1" }]))];
    found.children.services.extend(ports);
    let before = wanted(&spec("LoadBalancer"), &found);
    assert_eq!(before.membership.own[0].addresses.len(), 2);
    found.before = before.status.clone();
    let moved = wanted(&spec("ClusterIP"), &found);
    assert_eq!((moved.membership.own[0].addresses.len(), moved.status.server_list_version), (1, Some(2)));
    found.held = Some(Said::of(Reason::PodsRefused, "no"));
    let held = wanted(&spec("ClusterIP"), &found);
    assert_eq!((&held.membership, &held.status), (&before.membership, &before.status), "both keys, and the servers as they were");
    assert_eq!(said(&held, ConditionType::Accepted).unwrap().message, "no");
}

#[test]
fn the_version_of_the_list_of_servers_goes_up_when_it_changes_and_only_then() {
    let valid = valid(json!({"turn": {"transports": ["UDP"], "exposure": {"type": "LoadBalancer"}}}));
    let at = |ip: &str, before: &CampfireStatus| {
        let mut found = Found { before: before.clone(), ..found(ONE) };
        found.children.services.extend([service("fire-turn-0-udp", json!({"clusterIP": "10.0.0.9"}), json!([{ "ip": ip }]))]);
        let status = wanted(&valid, &found).status;
        (status.server_list_version, status)
    };
    let (version, status) = at("192.0.2.1", &CampfireStatus::default());
    assert_eq!((version, shown(&super::endpoints::read(&status.endpoints))), (Some(1), status.endpoints.clone()));
    let before = CampfireStatus { server_list_version: Some(7), ..status };
    assert_eq!(at("192.0.2.1", &before).0, Some(7));
    assert_eq!(at("192.0.2.2", &before).0, Some(8));
    let unseen = CampfireStatus { server_list_version: Some(7), ..CampfireStatus::default() };
    assert_eq!(wanted(&valid, &Found { before: unseen, ..found(ONE) }).status.server_list_version, Some(7));
}

#[test]
fn another_cluster_is_let_in_where_a_server_is_reached_from_outside_by_a_key_that_all_hold() {
    let uri = |wanted: &Wanted| {
        let secret = &wanted.join.as_ref().unwrap().0;
        std::str::from_utf8(&secret.data.as_ref().unwrap()[names::URI_KEY].0).unwrap().parse::<CampUri>().unwrap()
    };
    let key = |wanted: &Wanted| uri(wanted).psk.derive().fingerprint;
    let (first, second) = (held(ONE).keys[0].fingerprint(), held(&[(2, KeyMode::Accept)]).keys[0].fingerprint());
    let open = wanted(&valid(elsewhere()), &found(ONE));
    assert_eq!((said(&open, ConditionType::Joinable).unwrap().reason, key(&open)), (Reason::Joinable, first));
    assert_eq!((uri(&open).servers[0].id.as_str(), open.status.join_secret_name.as_deref()), ("turn.example.com:3478", Some("fire-join")));

    let closed = wanted(&valid(inside()), &found(ONE));
    assert_eq!(said(&closed, ConditionType::Joinable).unwrap().reason, Reason::NoExternalEndpoint);
    assert_eq!((closed.join.is_none(), closed.status.join_secret_name), (true, None));
    let before = CampfireStatus { join_secret_name: Some("fire-join".into()), ..CampfireStatus::default() };
    let stale = Found { before, join: Some(secret(json!({}))), ..found(ONE) };
    assert!(said(&wanted(&valid(inside()), &stale), ConditionType::Joinable).unwrap().message.contains("is out of date"));

    // In the middle of a rotation.
    let both = [(2, KeyMode::Accept), (1, KeyMode::Announce)];
    assert_eq!(key(&wanted(&valid(elsewhere()), &found(&both))), second, "all here hold it");
    let mut lacks = found(&both);
    lacks.peers.here.insert(testing::identity(1));
    lacks.peers.known.insert(testing::identity(1), Holder { cluster: "east".into(), holds: [first].into() });
    assert_eq!(key(&wanted(&valid(elsewhere()), &lacks)), first);
    let mut none = found(&[(2, KeyMode::Accept), (1, KeyMode::Accept)]);
    none.view = Arc::default();
    assert_eq!(said(&wanted(&valid(elsewhere()), &none), ConditionType::Joinable).unwrap().reason, Reason::NoKey);
}

#[test]
fn a_key_that_nobody_rotated_to_is_told_of() {
    let before =
        |fingerprint: String, rotation| CampfireStatus { key_fingerprint: Some(fingerprint), rotation, ..CampfireStatus::default() };
    let changed = |before| wanted(&valid(inside()), &Found { before, ..found(ONE) }).key_changed;
    let (own, other) = (held(ONE).keys[0].fingerprint().to_string(), "0123456789abcdef".to_owned());
    assert_eq!(changed(CampfireStatus::default()), None);
    assert_eq!(changed(before(own.clone(), None)), None);
    let note = format!("Secret fire-psk holds another key ({own}) than before ({other}): members get it now");
    assert_eq!(changed(before(other.clone(), None)), Some(note));
    assert_eq!(changed(before(other, Some(Rotation::Activate))), None, "its end");
}

#[test]
fn it_is_looked_at_sooner_while_something_is_to_come() {
    let again = |spec: Value, found: &Found| wanted(&valid(spec), found).again.as_secs();
    assert_eq!(again(inside(), &found(ONE)), 30, "its servers are not ready");
    assert_eq!(again(elsewhere(), &found(ONE)), 300);
    let mut ready = found(ONE);
    ready.children.sets.insert("fire-turn".into(), object(json!({"status": {"replicas": 1, "readyReplicas": 1}})));
    ready.children.services.extend([service("fire-turn-0-udp", json!({"clusterIP": "10.0.0.9"}), json!([]))]);
    assert_eq!(again(inside(), &ready), 300, "that nobody can join from outside is final where nothing is exposed");
}

#[test]
fn a_statefulset_that_can_make_no_pod_says_why_and_exposure_is_not_blamed_for_it() {
    let valid = valid(json!({"turn": {"exposure": {"type": "NodePort"}}}));
    let why = "StatefulSet fire-turn can make no pod: pods \"fire-turn-0\" is forbidden: exceeded quota: zero";
    let wanted = wanted(&valid, &Found { no_pod: Some(why.into()), ..found(ONE) });
    let turn = said(&wanted, ConditionType::TurnAvailable).unwrap();
    let look = "kubectl describe statefulsets -l app.kubernetes.io/name=campfire-turn shows more";
    assert_eq!((turn.reason, &turn.message), (Reason::TurnNotReady, &format!("0 of 1 servers are ready: {why}; {look}")));
    let joinable = said(&wanted, ConditionType::Joinable).unwrap();
    assert_eq!(joinable.reason, Reason::NoExternalEndpoint);
    assert!(joinable.message.contains("TurnAvailable says why") && !joinable.message.contains("make one"), "{}", joinable.message);
}

#[test]
fn who_has_just_begun_to_lead_counts_nobody_away_and_who_names_no_cluster_is_called_so() {
    let clusters = vec![campfire_api::ClusterPeers { name: "east".into(), peers: 13 }];
    let before = CampfireStatus { peers: Some(13), clusters: clusters.clone(), ..CampfireStatus::default() };
    let mut found = Found { before, settling: true, ..found(ONE) };
    let status = wanted(&valid(inside()), &found).status;
    assert_eq!((status.peers, &status.clusters), (Some(13), &clusters));
    found.settling = false;
    found.peers.known.insert(testing::identity(1), Holder::default());
    let status = wanted(&valid(inside()), &found).status;
    let names: Vec<_> = status.clusters.iter().map(|cluster| (cluster.name.as_str(), cluster.peers)).collect();
    assert_eq!((status.peers, names), (Some(1), vec![("(unnamed)", 1)]));
}

#[test]
fn what_a_campfire_says_of_sidecars_elsewhere_is_said_to_hold_at_home_alone_unless_it_is_trusted() {
    let accepted = |spec: Value, trusted: &[&str]| {
        let settings = OperatorSettings { trusted: Trusted::new(trusted.iter().copied()), ..settings() };
        validate(&campfire(spec), &settings).unwrap().accepted().message
    };
    let with = |more: Value| {
        let mut spec = inside();
        spec["members"] = json!({"namespaces": {"from": "All"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    for says in [json!({"sidecar": {"image": "own:1"}}), json!({"network": {"acceptRoutes": ["10.8.0.0/16"]}})] {
        let message = accepted(with(says.clone()), &[]);
        assert!(message.contains("hold for pods of namespace default alone"), "{message}");
        assert_eq!(accepted(with(says), &["default"]), "the spec is understood");
    }
    assert_eq!(accepted(with(json!({})), &[]), "the spec is understood");
    assert_eq!(
        accepted(json!({"turn": {"exposure": {"type": "ClusterIP"}}, "sidecar": {"image": "own:1"}}), &[]),
        "the spec is understood"
    );
}
