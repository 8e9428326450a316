//! What a MeshPeer needs: from the object as it is and from what is known of whoever it stands for. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use campfire_api::conditions::Reason;
use campfire_api::{Campfire, CampfireRef, MeshPeer, MeshPeerSpec, MeshPeerStatus, PeerType, PodRef, names};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt as _};

use super::fetch::{Known, KnownExternal, KnownPod, KnownRemote, PodSeen, campfire_of};
use super::status;
use crate::conditions::Said;
use crate::members::Unadmitted;
use crate::state::{ObjectKey, PodId};

/// Changes of a status are gathered for this long.
const DEBOUNCE: Duration = Duration::from_secs(10);
/// What is told at once is told after this.
const PROMPT: Duration = Duration::from_millis(300);
/// The garbage collector deletes the peers of deleted pods: it is given this long.
const COLLECT: Duration = Duration::from_secs(5);

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Make the object.
    Create(Box<MeshPeer>),
    /// Delete this very object; `in_time`: it is in somebody's way.
    Delete { uid: String, in_time: bool },
    /// Write the status of this very object.
    Status { uid: String, status: Box<MeshPeerStatus>, prompt: bool },
    /// Write the join secret of an External peer.
    Join,
}

impl Action {
    /// How long it waits.
    pub(super) fn delay(&self) -> Duration {
        match self {
            Self::Create(_) | Self::Join | Self::Delete { in_time: true, .. } => Duration::ZERO,
            Self::Delete { in_time: false, .. } => COLLECT,
            Self::Status { prompt: true, .. } => PROMPT,
            Self::Status { prompt: false, .. } => DEBOUNCE,
        }
    }
}

/// What a MeshPeer needs now; `None`: nothing.
pub(super) fn plan(key: &ObjectKey, peer: Option<&MeshPeer>, known: &Known, now: Timestamp) -> Option<Action> {
    let Some(peer) = peer else {
        return match known {
            Known::Pod(pod) => Some(Action::Create(Box::new(pod_peer(&pod.seen)))),
            Known::Remote(Some(remote)) => remote_peer(key, remote).map(|peer| Action::Create(Box::new(peer))),
            Known::Remote(None) | Known::External(_) | Known::Nobody => None,
        };
    };
    match known {
        Known::Pod(pod) => of_pod(peer, pod, now),
        Known::External(external) => of_external(peer, external, now),
        Known::Remote(remote) if owned_by::<Campfire>(peer) => match remote {
            Some(remote) => of_remote(peer, remote, now),
            None => delete(peer, true),
        },
        Known::Nobody if owned_by::<Pod>(peer) => delete(peer, false),
        Known::Remote(_) | Known::Nobody => {
            let kind = if peer.spec.kind == PeerType::Pod { "Pod" } else { "Remote" };
            let why =
                format!("objects of type {kind} are made by the operator: delete this one; declare what is outside with type External");
            write(peer, status::refused(peer, Said::of(Reason::NotManaged, why), now))
        }
    }
}

fn of_pod(peer: &MeshPeer, pod: &KnownPod, now: Timestamp) -> Option<Action> {
    let seen = &pod.seen;
    if !owned_by::<Pod>(peer) {
        let why = "a pod of this name has a sidecar, and its MeshPeer needs this name: delete this object or give it another name";
        return write(peer, status::refused(peer, Said::of(Reason::NameTaken, why), now));
    }
    let same_pod = peer.spec.pod_ref.as_ref().is_some_and(|pod| pod.uid == seen.pod.uid);
    if !same_pod || campfire_of(peer) != seen.campfire {
        return delete(peer, true);
    }
    let accepted = accepted(&seen.campfire, &seen.pod.key.namespace, pod.refused);
    write(peer, status::of_pod(peer, accepted, &pod.cluster, pod.heard(), pod.cause.as_ref(), now))
}

fn of_remote(peer: &MeshPeer, remote: &KnownRemote, now: Timestamp) -> Option<Action> {
    if remote.sighting.is_none() && remote.present {
        // It was there a moment ago, or we do not sit there ourselves: the next look tells.
        return None;
    }
    let accepted = Said::of(Reason::Accepted, "it holds the key of the Campfire");
    let absent = Said::of(Reason::Left, "it is no longer at the fire; this object is removed some minutes after that");
    write(peer, status::of_sighting(peer, accepted, absent, remote.sighting.as_ref(), now))
}

fn of_external(peer: &MeshPeer, external: &KnownExternal, now: Timestamp) -> Option<Action> {
    let namespace = peer.namespace().unwrap_or_default();
    let mut accepted = accepted(&external.campfire, &namespace, external.refused);
    if accepted.is_true() && !external.served {
        accepted = Said::of(
            Reason::NamespaceNotServed,
            "the operator may write Secrets only where Campfires are served: make this object in the Campfire's namespace, or add this one to campfireNamespaces of the chart",
        );
    }
    if !accepted.is_true() {
        return write(peer, status::refused(peer, accepted, now));
    }
    let Some(joined) = external.joined.clone() else { return Some(Action::Join) };
    if !joined.is_true() {
        return write(peer, status::refused(peer, joined, now));
    }
    let declared = peer.spec.external.as_ref().is_some_and(|external| external.public_key.is_some());
    let absent = if declared {
        Said::of(Reason::NotAtTheFire, "nobody with this public key is at the fire")
    } else {
        Said::of(Reason::NoPublicKey, "give spec.external.publicKey to see here what the peer of that key does")
    };
    write(peer, status::of_sighting(peer, joined, absent, external.sighting.as_ref(), now))
}

/// Whether a peer of this namespace may sit at the Campfire, in words.
fn accepted(campfire: &ObjectKey, namespace: &str, refused: Option<Unadmitted>) -> Said {
    match refused {
        None => Said::of(Reason::Accepted, ""),
        Some(Unadmitted::NotFound) => Said::of(
            Reason::CampfireNotFound,
            format!(
                "there is no Campfire {campfire}: make it, or name another one (a pod by annotation campfire.network/campfire, an External in \
                 spec.campfireRef) and make this anew"
            ),
        ),
        Some(Unadmitted::NotServed) => Said::of(
            Reason::CampfireNotFound,
            format!(
                "there is no Campfire {campfire}: the operator serves no Campfires of this namespace: add it to campfireNamespaces of the chart"
            ),
        ),
        Some(Unadmitted::NotAdmitted) => Said::of(
            Reason::NamespaceNotAdmitted,
            format!(
                "Campfire {campfire} does not admit namespace {namespace}: change its spec.members.namespaces or the namespace's labels"
            ),
        ),
    }
}

/// Whether a MeshPeer was made by the operator for an object of this kind.
pub(super) fn owned_by<K: Resource<DynamicType = ()>>(peer: &MeshPeer) -> bool {
    peer.owner_references().iter().any(|owner| owner.kind == K::kind(&()) && owner.controller == Some(true))
}

/// Writes a status, unless it is already so.
fn write(peer: &MeshPeer, status: MeshPeerStatus) -> Option<Action> {
    if peer.status.as_ref() == Some(&status) {
        return None;
    }
    let prompt = status::prompt(peer.status.as_ref());
    Some(Action::Status { uid: peer.uid()?, status: Box::new(status), prompt })
}

fn delete(peer: &MeshPeer, in_time: bool) -> Option<Action> {
    Some(Action::Delete { uid: peer.uid()?, in_time })
}

fn pod_peer(seen: &PodSeen) -> MeshPeer {
    let PodId { key, uid } = &seen.pod;
    let owner = OwnerReference {
        api_version: Pod::api_version(&()).into_owned(),
        kind: Pod::kind(&()).into_owned(),
        name: key.name.clone(),
        uid: uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let campfire_ref = CampfireRef { namespace: Some(seen.campfire.namespace.clone()), name: seen.campfire.name.clone() };
    let pod_ref = Some(PodRef { name: key.name.clone(), uid: uid.clone() });
    let spec = MeshPeerSpec { kind: PeerType::Pod, campfire_ref, pod_ref, external: None };
    MeshPeer { metadata: metadata(key, &seen.campfire, owner), spec, status: None }
}

fn remote_peer(key: &ObjectKey, remote: &KnownRemote) -> Option<MeshPeer> {
    let owner = remote.owner.clone().filter(|_| remote.present)?;
    let campfire_ref = CampfireRef { namespace: None, name: remote.campfire.name.clone() };
    let spec = MeshPeerSpec { kind: PeerType::Remote, campfire_ref, pod_ref: None, external: None };
    Some(MeshPeer { metadata: metadata(key, &remote.campfire, owner), spec, status: None })
}

fn metadata(key: &ObjectKey, campfire: &ObjectKey, mut owner: OwnerReference) -> ObjectMeta {
    owner.block_owner_deletion = None;
    let labels = BTreeMap::from([
        (names::CAMPFIRE_LABEL.into(), campfire.name.clone()),
        (names::CAMPFIRE_NAMESPACE_LABEL.into(), campfire.namespace.clone()),
        ("app.kubernetes.io/managed-by".into(), names::FIELD_MANAGER.into()),
    ]);
    ObjectMeta {
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use campfire_api::External;

    use super::*;
    use crate::conditions::reason;
    use crate::state::{PeerReport, Reported};
    use crate::testing;
    use campfire_api::conditions::ConditionType;

    #[test]
    fn who_has_no_object_gets_one_if_it_is_there() {
        let made = |known: &Known| match plan(&key(), None, known, at()) {
            Some(Action::Create(peer)) => Some((peer.spec.kind, peer.owner_references()[0].kind.clone())),
            None => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(made(&Known::Pod(pod())), Some((PeerType::Pod, "Pod".into())));
        assert_eq!(made(&Known::Remote(Some(remote(true)))), Some((PeerType::Remote, "Campfire".into())));
        assert_eq!(made(&Known::Remote(Some(remote(false)))), None, "who has left is shown by an object that there is");
        assert_eq!(made(&Known::Remote(Some(KnownRemote { owner: None, ..remote(true) }))), None, "its Campfire is gone");
        assert_eq!(made(&Known::Remote(None)), None);
        assert_eq!(made(&Known::Nobody), None);
    }

    #[test]
    fn objects_in_the_way_and_objects_of_nobody_are_deleted_the_first_at_once() {
        let other = |change: &dyn Fn(&mut KnownPod)| {
            let mut pod = pod();
            change(&mut pod);
            plan(&key(), Some(&pod_object()), &Known::Pod(pod), at())
        };
        let now = Action::Delete { uid: "o".into(), in_time: true };
        assert_eq!(other(&|pod| pod.seen.pod.uid = "another".into()), Some(now.clone()), "a pod of the same name that came later");
        assert_eq!(other(&|pod| pod.seen.campfire = ObjectKey::new("camp", "other")), Some(now.clone()));
        let left = plan(&key(), Some(&pod_object()), &Known::Nobody, at());
        assert_eq!(left, Some(Action::Delete { uid: "o".into(), in_time: false }), "the garbage collector comes first");
        let mut shown = remote_object();
        assert_eq!(plan(&key(), Some(&shown), &Known::Remote(None), at()), Some(now));
        shown.metadata.owner_references = None;
        assert_eq!(says(plan(&key(), Some(&shown), &Known::Remote(None), at())), Some(Reason::NotManaged), "a person's is a person's");
        let mut forged = pod_object();
        forged.metadata.owner_references = None;
        assert_eq!(says(plan(&key(), Some(&forged), &Known::Nobody, at())), Some(Reason::NotManaged));
        assert_eq!(says(plan(&key(), Some(&forged), &Known::Pod(pod()), at())), Some(Reason::NameTaken));
    }

    #[test]
    fn why_a_peer_is_not_accepted_is_said_for_pods_and_for_what_people_declare_alike() {
        let table = [
            (None, Reason::Accepted),
            (Some(Unadmitted::NotFound), Reason::CampfireNotFound),
            (Some(Unadmitted::NotServed), Reason::CampfireNotFound),
            (Some(Unadmitted::NotAdmitted), Reason::NamespaceNotAdmitted),
        ];
        for (refused, expected) in table {
            let pod = plan(&key(), Some(&pod_object()), &Known::Pod(KnownPod { refused, ..pod() }), at());
            assert_eq!(says(pod), Some(expected));
            let external = plan(&key(), Some(&declared(None)), &Known::External(KnownExternal { refused, ..external() }), at());
            let expected = if refused.is_none() { Reason::JoinSecretWritten } else { expected };
            assert_eq!(says(external), Some(expected));
        }
    }

    #[test]
    fn what_a_person_declares_gets_its_secret_first_and_then_says_what_is_seen() {
        let ask = |peer: &MeshPeer, change: &dyn Fn(&mut KnownExternal)| {
            let mut known = external();
            change(&mut known);
            plan(&key(), Some(peer), &Known::External(known), at())
        };
        let connected = |action| status_of(action).and_then(|status| reason(&status.conditions, ConditionType::Connected));
        let (plain, keyed) = (declared(None), declared(Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")));
        assert_eq!(ask(&plain, &|known| known.joined = None), Some(Action::Join));
        assert_eq!(says(ask(&plain, &|known| known.served = false)), Some(Reason::NamespaceNotServed));
        let exists = |known: &mut KnownExternal| known.joined = Some(Said::of(Reason::SecretExists, ""));
        assert_eq!(says(ask(&plain, &exists)), Some(Reason::SecretExists));
        assert_eq!(connected(ask(&plain, &|_| {})), Some(Reason::NoPublicKey));
        assert_eq!(connected(ask(&keyed, &|_| {})), Some(Reason::NotAtTheFire));
        assert_eq!(connected(ask(&keyed, &|known| known.sighting = Some(testing::sighting(1)))), Some(Reason::AtTheFire));
    }

    #[test]
    fn what_is_already_so_is_not_written_and_what_is_on_its_way_is_told_soon() {
        let mut peer = pod_object();
        let Some(Action::Status { status, prompt, .. }) = plan(&key(), Some(&peer), &Known::Pod(pod()), at()) else { panic!() };
        assert!(prompt, "nothing was told yet");
        peer.status = Some(*status);
        assert_eq!(plan(&key(), Some(&peer), &Known::Pod(pod()), at()), None);
        let ready = KnownPod { reported: Some(reported(&testing::report(1))), fresh: true, ..pod() };
        let Some(Action::Status { status, .. }) = plan(&key(), Some(&peer), &Known::Pod(ready), at()) else { panic!() };
        peer.status = Some(*status);
        let lost = PeerReport { camped: false, ..testing::report(1) };
        let lost = plan(&key(), Some(&peer), &Known::Pod(KnownPod { reported: Some(reported(&lost)), fresh: true, ..pod() }), at());
        assert!(matches!(&lost, Some(Action::Status { prompt: false, .. })), "{lost:?}");
        assert_eq!(lost.map(|action| action.delay()), Some(DEBOUNCE));
    }

    #[test]
    fn a_peer_elsewhere_that_is_not_seen_is_not_gone_until_a_look_says_so() {
        let peer = remote_object();
        assert_eq!(plan(&key(), Some(&peer), &Known::Remote(Some(remote(true))), at()), None);
        let connected = |action| status_of(action).and_then(|status| reason(&status.conditions, ConditionType::Connected));
        assert_eq!(connected(plan(&key(), Some(&peer), &Known::Remote(Some(remote(false))), at())), Some(Reason::Left));
        let seen = KnownRemote { sighting: Some(testing::sighting(1)), ..remote(true) };
        assert_eq!(connected(plan(&key(), Some(&peer), &Known::Remote(Some(seen)), at())), Some(Reason::AtTheFire));
    }

    #[test]
    fn red_18a_an_annotation_that_no_label_can_hold_makes_no_object() {
        let seen = |named: &str| {
            let pod = serde_json::from_value(serde_json::json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": "stranger", "name": "p", "uid": "u", "annotations": {"campfire.network/campfire": named}},
            }))
            .unwrap();
            crate::meshpeer::fetch::pod_seen(&crate::cluster::InjectedPod::of(pod))
        };
        for odd in [
            "not a label!/neither;",
            "default/-main",
            "default/main-",
            "-/main",
            "default/Main",
            "default/a.b",
            "a/b/c",
            "",
            "/",
            "default/",
        ] {
            assert!(seen(odd).is_none(), "{odd}");
        }
        assert!(seen("default/main").is_some() && seen("main").is_some());
    }

    fn status_of(action: Option<Action>) -> Option<MeshPeerStatus> {
        match action {
            Some(Action::Status { status, .. }) => Some(*status),
            _ => None,
        }
    }

    /// The reason of `Accepted`.
    fn says(action: Option<Action>) -> Option<Reason> {
        status_of(action).and_then(|status| reason(&status.conditions, ConditionType::Accepted))
    }

    fn key() -> ObjectKey {
        ObjectKey::new("shop", "web")
    }

    fn at() -> Timestamp {
        Timestamp::from_second(1).unwrap()
    }

    fn reported(report: &PeerReport) -> Arc<Reported> {
        Arc::new(testing::reported(&ObjectKey::new("camp", "fire"), report.clone()))
    }

    fn pod() -> KnownPod {
        let seen = PodSeen { pod: PodId { key: key(), uid: "p".into() }, campfire: ObjectKey::new("camp", "fire") };
        KnownPod { seen, refused: None, cluster: "here".into(), reported: None, cause: None, fresh: false, heard_all: false }
    }

    fn owner() -> OwnerReference {
        OwnerReference { kind: "Campfire".into(), controller: Some(true), ..OwnerReference::default() }
    }

    fn remote(present: bool) -> KnownRemote {
        KnownRemote { campfire: ObjectKey::new("camp", "fire"), present, sighting: None, owner: Some(owner()) }
    }

    fn external() -> KnownExternal {
        let joined = Some(Said::of(Reason::JoinSecretWritten, ""));
        KnownExternal { campfire: ObjectKey::new("camp", "fire"), refused: None, served: true, joined, sighting: None }
    }

    fn object(mut peer: MeshPeer) -> MeshPeer {
        peer.metadata.uid = Some("o".into());
        peer
    }

    fn pod_object() -> MeshPeer {
        object(pod_peer(&pod().seen))
    }

    fn remote_object() -> MeshPeer {
        object(remote_peer(&key(), &remote(true)).unwrap())
    }

    fn declared(public_key: Option<&str>) -> MeshPeer {
        let external = Some(External { secret_name: None, public_key: public_key.map(Into::into) });
        let campfire_ref = CampfireRef { namespace: Some("camp".into()), name: "fire".into() };
        let spec = MeshPeerSpec { kind: PeerType::External, campfire_ref, pod_ref: None, external };
        object(MeshPeer { metadata: ObjectMeta { namespace: Some("shop".into()), ..ObjectMeta::default() }, spec, status: None })
    }
}
