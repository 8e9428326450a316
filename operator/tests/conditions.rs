//! What the API server cannot know to be wrong is said in conditions, each with what to change: these are the messages.

#![allow(clippy::unwrap_used)]

mod control_plane;
mod in_process;

use std::time::Duration;

use campfire_api::names::ROTATE_ANNOTATION;
use campfire_api::{Campfire, MeshPeer};
use campfire_operator::definitions::lacking;
use control_plane::{ControlPlane, apply, define};
use in_process::{Operator, campfire_says, eventually, peer_says};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, CustomResourceExt, ResourceExt};
use serde_json::{Value, json};

#[tokio::test]
async fn a_key_that_was_deleted_by_mistake_is_put_back_and_pods_with_older_settings_are_counted() {
    let Some(world) = World::start().await else { return };
    let operator = Operator::start(&world.client, &["default"]).await;
    let spec = |pool: &str| json!({ "turn": { "replicas": 0, "servers": ["turn:192.0.2.1"] }, "network": { "ipv4Pool": pool } });
    world.campfire("fire", spec("100.80.0.0/16")).await;
    campfire_says(&world.campfires(), "fire", "Ready", "Ready").await;
    let made = world.secrets().get("fire-psk").await.unwrap();
    assert!(
        made.owner_references().is_empty() && !made.labels().contains_key("app.kubernetes.io/instance"),
        "it belongs to nobody: {made:?}"
    );
    world.secrets().delete("fire-psk", &DeleteParams::default()).await.unwrap();
    eventually("it is put back", || async {
        world.secrets().get_opt("fire-psk").await.unwrap().is_some_and(|back| back.uid() != made.uid() && back.data == made.data)
    })
    .await;
    eventually("an event says so", || async {
        let events = Api::<k8s_openapi::api::events::v1::Event>::namespaced(world.client.clone(), "default");
        let events = events.list(&ListParams::default()).await.unwrap();
        events.iter().any(|event| event.reason.as_deref() == Some("KeyPutBack"))
    })
    .await;

    // A pod as the webhook stamped it, when the pool was another.
    let stamped = {
        let defaults = campfire_operator::webhook::containers::Defaults::of(&operator.ctx.settings);
        let campfire = world.campfires().get("fire").await.unwrap();
        campfire_operator::webhook::inject::settings_hash("default", &std::collections::BTreeMap::new(), &campfire, &defaults).unwrap()
    };
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    apply(&Api::<ServiceAccount>::namespaced(world.client.clone(), "default"), "default", &account).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "spec": { "containers": [{ "name": "app", "image": "app" }] },
        "metadata": { "name": "old", "labels": { "campfire.network/injected": "enabled" },
            "annotations": { "campfire.network/campfire": "default/fire", "campfire.network/settings-hash": stamped } },
    });
    apply(&Api::<k8s_openapi::api::core::v1::Pod>::namespaced(world.client.clone(), "default"), "old", &pod).await;
    let outdated = async || world.campfires().get("fire").await.unwrap().status.unwrap_or_default().outdated_pods;
    eventually("the pod is as it would be now", || async { outdated().await == Some(0) && operator.ctx.cluster.pods.state().len() == 1 })
        .await;
    world.campfire("fire", spec("100.90.0.0/16")).await;
    eventually("the pod is counted", || async { outdated().await == Some(1) }).await;
    let said = campfire_says(&world.campfires(), "fire", "Ready", "Ready").await;
    assert!(said.contains("1 pod with older settings: make them anew (kubectl rollout restart)"), "{said}");
}

#[tokio::test]
async fn a_campfire_that_is_invalid_says_what_to_change() {
    let Some(world) = World::start().await else { return };
    let _operator = Operator::start(&world.client, &["default"]).await;
    let elsewhere = |more: Value| {
        let mut spec = json!({ "turn": { "replicas": 0, "servers": ["turn:192.0.2.1"] } });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let exposed = |address: &str| json!({ "turn": { "exposure": { "type": "NodePort", "externalAddresses": [address] } } });
    let selector = json!({ "from": "Selector", "selector": { "matchExpressions": [{ "key": "a", "operator": "Is" }] } });
    let template = json!({ "turn": { "exposure": { "type": "ClusterIP" }, "podTemplate": { "labels": { "team": "not a label!" } } } });
    let table = [
        (
            json!({ "turn": { "replicas": 0, "servers": ["turn:192.0.2.1", "turn:192.0.2.2:70000"] } }),
            ("Accepted", "InvalidServer", "False: spec.turn.servers[1]: not a server: expected a port from 1 to 65535"),
        ),
        (
            exposed("192.0.2.1:70000"),
            (
                "Accepted",
                "InvalidExternalAddress",
                "False: spec.turn.exposure.externalAddresses[0]: expected host or host:port, a port from 1 to 65535, an IPv6 address in brackets",
            ),
        ),
        (
            exposed("192.0.2.300"),
            (
                "Accepted",
                "InvalidExternalAddress",
                "False: spec.turn.exposure.externalAddresses[0]: expected host or host:port, a port from 1 to 65535, an IPv6 address in brackets",
            ),
        ),
        (
            elsewhere(json!({ "network": { "acceptRoutes": ["10.8.0.0/16", "fd00:::/8"] } })),
            ("Accepted", "InvalidNetwork", "False: spec.network.acceptRoutes[1]: expected a network such as 10.8.0.0/16 or fd00:8::/32"),
        ),
        (
            elsewhere(json!({ "members": { "namespaces": selector } })),
            (
                "Accepted",
                "InvalidMembers",
                "False: spec.members.namespaces.selector: expected matchLabels, or matchExpressions with operator In, NotIn, Exists or DoesNotExist",
            ),
        ),
        (
            template,
            (
                "Accepted",
                "Refused",
                "False: the API server refuses what the spec asks for; change spec.turn: StatefulSet fire-5-turn could not be applied: StatefulSet.apps \"fire-5-turn\" is invalid: spec.template.labels: Invalid value: \"not a label!\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
        ),
        (
            elsewhere(json!({ "psk": { "secretRef": { "name": "none" } } })),
            ("KeyReady", "KeySecretMissing", "False: Secret none is missing: create it with a key of `campfire key new` under psk"),
        ),
        (
            json!({ "join": { "secretRef": { "name": "none" } } }),
            ("KeyReady", "JoinSecretMissing", "False: Secret none is missing: copy it from the other cluster, where it is <campfire>-join"),
        ),
    ];
    let mut found = Vec::new();
    for (number, (spec, (kind, reason, expected))) in table.into_iter().enumerate() {
        let name = format!("fire-{number}");
        world.campfire(&name, spec.clone()).await;
        let message = campfire_says(&world.campfires(), &name, kind, reason).await;
        if message != expected {
            found.push(format!("{spec}\n  {message}"));
        }
        assert_eq!(campfire_says(&world.campfires(), &name, "Ready", reason).await, message, "Ready says the same");
    }
    assert!(found.is_empty(), "{}", found.join("\n"));

    // A typing error in the annotation stops the rotation, and nothing else.
    world.campfire("rotates", elsewhere(json!({}))).await;
    campfire_says(&world.campfires(), "rotates", "Ready", "Ready").await;
    let annotation = json!({ "metadata": { "annotations": { ROTATE_ANNOTATION: "Now" } } });
    world.campfires().patch("rotates", &PatchParams::default(), &Patch::Merge(annotation)).await.unwrap();
    let message = campfire_says(&world.campfires(), "rotates", "Rotated", "InvalidAnnotation").await;
    assert_eq!(message, "False: annotation campfire.network/rotate: expected Distribute, Activate, Retire, ActivateNow or RetireNow");
    assert!(campfire_says(&world.campfires(), "rotates", "Ready", "Ready").await.starts_with("True: "));
}

#[tokio::test]
async fn a_secret_that_is_wrong_is_said_to_be_without_a_word_of_what_it_holds() {
    let Some(world) = World::start().await else { return };
    let _operator = Operator::start(&world.client, &["default"]).await;
    let keyed =
        |secret: &str| json!({ "psk": { "secretRef": { "name": secret } }, "turn": { "replicas": 0, "servers": ["turn:192.0.2.1"] } });
    let says = async |name: &str, reason: &str| campfire_says(&world.campfires(), name, "KeyReady", reason).await;
    world.campfire("one", keyed("key")).await;
    assert_eq!(says("one", "KeySecretMissing").await, "False: Secret key is missing: create it with a key of `campfire key new` under psk");
    let short = |found: usize| {
        format!(
            "False: Secret key, under psk: not a campfire key: expected 43 characters of base64url (as `campfire key new` prints) or 64 hex digits, found {found} characters"
        )
    };
    let key = "ab".repeat(32);
    let table = [
        (json!({ "other": "x" }), "KeyInvalid", "False: Secret key has nothing under psk: put it there".to_owned()),
        (json!({ "psk": "" }), "KeyInvalid", "False: Secret key holds no key under psk: `campfire key new` makes one".to_owned()),
        (json!({ "psk": "hunter2" }), "KeyInvalid", short(7)),
        (json!({ "psk": "ab".repeat(31) }), "KeyInvalid", short(62)),
        (
            json!({ "psk": format!("{key}\n").repeat(5) }),
            "KeyInvalid",
            "False: Secret key holds 5 keys, at most 4 can be held: drop the oldest".to_owned(),
        ),
        (
            json!({ "psk": key, "network": "here" }),
            "NetworkInvalid",
            "False: Secret key, under network: expected 10 hex digits: put back what was edited".to_owned(),
        ),
        (json!({ "psk": key }), "KeyReady", "True: Secret key holds the key".to_owned()),
    ];
    for (data, reason, expected) in table {
        world.secret("key", data).await;
        eventually(&expected, async || says("one", reason).await == expected).await;
    }

    // The older one has it, even while its spec is invalid.
    let claimed =
        "False: Secret key is the key of Campfire one already: give this one another Secret, or let its pods be members of that one";
    // Their age is counted in seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    world.campfire("two", keyed("key")).await;
    assert_eq!(says("two", "KeyClaimed").await, claimed);
    let wrong = json!({ "spec": { "turn": { "servers": ["turn:192.0.2.1:70000"] } } });
    world.campfires().patch("one", &PatchParams::default(), &Patch::Merge(wrong)).await.unwrap();
    campfire_says(&world.campfires(), "one", "Accepted", "InvalidServer").await;
    let other = json!({ "metadata": { "annotations": { "looked": "at again" } } });
    world.campfires().patch("two", &PatchParams::default(), &Patch::Merge(other)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(says("two", "KeyClaimed").await, claimed);

    world.campfires().delete("one", &DeleteParams::default()).await.unwrap();
    assert_eq!(says("two", "KeyReady").await, "True: Secret key holds the key");
    world.secrets().delete("key", &DeleteParams::default()).await.unwrap();
    assert_eq!(
        says("two", "KeyMissing").await,
        "False: Secret key, which held the key, is gone, and a new key would part the peers: put it back from a backup, or delete the Campfire and \
         make it anew, and all its pods"
    );
    world.secret("uri", json!({ "uri": "camp://turn.example.org" })).await;
    world.campfire("joins", json!({ "join": { "secretRef": { "name": "uri" } } })).await;
    assert_eq!(says("joins", "JoinSecretInvalid").await, "False: Secret uri, under uri: not a campfire URI: expected #KEY at its end");
}

#[tokio::test]
async fn servers_that_cannot_be_reached_say_what_they_wait_for() {
    let Some(world) = World::start().await else { return };
    let _operator = Operator::start(&world.client, &["default"]).await;
    world.campfire("fire", json!({ "turn": { "exposure": { "type": "LoadBalancer" } } })).await;
    let says = async |kind: &str, reason: &str| campfire_says(&world.campfires(), "fire", kind, reason).await;
    assert_eq!(
        says("TurnAvailable", "TurnNotReady").await,
        "False: 0 of 1 servers are ready: the pods of the servers are not ready yet; kubectl describe pods -l app.kubernetes.io/name=campfire-turn shows more"
    );
    let ready = json!({ "status": { "replicas": 1, "readyReplicas": 1 } });
    let sets = Api::<StatefulSet>::namespaced(world.client.clone(), "default");
    sets.patch_status("fire-turn", &PatchParams::default(), &Patch::Merge(ready)).await.unwrap();
    assert_eq!(
        says("TurnAvailable", "WaitingForAddress").await,
        "False: Service fire-turn-0-udp has no address yet (2 wait): is there a load balancer controller in this cluster? Else use exposure type \
         NodePort or HostPort"
    );
    assert_eq!(
        says("Joinable", "NoExternalEndpoint").await,
        "False: the servers have no address outside this cluster yet: TurnAvailable says why; there is no join Secret until then"
    );
    let services = Api::<Service>::namespaced(world.client.clone(), "default");
    for service in ["fire-turn-0-udp", "fire-turn-0-tcp"] {
        let address = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.7" }] } } });
        services.patch_status(service, &PatchParams::default(), &Patch::Merge(address)).await.unwrap();
    }
    assert_eq!(says("TurnAvailable", "AllReady").await, "True: 1 of 1 servers are ready");
    assert_eq!(says("Joinable", "Joinable").await, "True: another cluster joins by Secret fire-join");
}

#[tokio::test]
async fn a_namespace_without_rights_says_so_and_one_that_is_not_served_too() {
    let Some(world) = World::start().await else { return };
    for namespace in ["forbidden", "other"] {
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        apply(&Api::<Namespace>::all(world.client.clone()), namespace, &object).await;
    }
    let operator = world.with_rights_in("default").await;
    let mut open = reached();
    open["members"] = json!({ "namespaces": { "from": "All" } });
    let _operator = Operator::start(&operator, &["default", "forbidden"]).await;
    let spec = json!({ "turn": { "exposure": { "type": "ClusterIP" } } });
    let table = [
        ("default", "KeyReady", "KeyReady", "True: Secret fire-psk holds the key"),
        (
            "forbidden",
            "Accepted",
            "Forbidden",
            "False: Secret fire-psk could not be read: secrets \"fire-psk\" is forbidden: User \"operator\" cannot get resource \"secrets\" in API \
             group \"\" in the namespace \"forbidden\": the operator has its rights in the chart's campfireNamespaces: name this one there and run \
             helm upgrade (again, if it was made anew)",
        ),
        (
            "other",
            "Accepted",
            "NamespaceNotServed",
            "False: the operator serves Campfires in default, forbidden only: add other to campfireNamespaces in the chart's values, or make the \
             Campfire there",
        ),
    ];
    for (namespace, kind, reason, expected) in table {
        let campfires = Api::<Campfire>::namespaced(world.client.clone(), namespace);
        apply(&campfires, "fire", &campfire("fire", &spec)).await;
        assert_eq!(campfire_says(&campfires, "fire", kind, reason).await, expected);
    }

    world.campfire("open", open).await;
    campfire_says(&world.campfires(), "open", "Joinable", "Joinable").await;
    let peers = Api::<MeshPeer>::namespaced(world.client.clone(), "forbidden");
    let spec = json!({ "type": "External", "campfireRef": { "name": "open", "namespace": "default" }, "external": {} });
    let peer = json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "MeshPeer", "metadata": { "name": "laptop" }, "spec": spec });
    apply(&peers, "laptop", &peer).await;
    assert_eq!(
        peer_says(&peers, "laptop", "Accepted", "SecretForbidden").await,
        "False: the operator may not read or write Secrets of this namespace: add it to campfireNamespaces of the chart"
    );
}

#[tokio::test]
async fn a_new_leader_leaves_an_invalid_campfire_running_as_it_was() {
    let Some(world) = World::start().await else { return };
    let first = Operator::start(&world.client, &["default"]).await;
    let spec =
        json!({ "turn": { "exposure": { "type": "NodePort", "externalAddresses": ["203.0.113.7"] }, "servers": ["turn:192.0.2.1"] } });
    world.campfire("fire", spec).await;
    campfire_says(&world.campfires(), "fire", "Joinable", "Joinable").await;
    let before = first.told("fire").unwrap();
    let sets = Api::<StatefulSet>::namespaced(world.client.clone(), "default");
    let version = async || sets.get("fire-turn").await.unwrap().resource_version();
    let set = version().await;
    let wrong = [
        ("InvalidServer", json!({ "spec": { "turn": { "servers": ["turn:192.0.2.1", "turn:192.0.2.2:70000"] } } })),
        ("Refused", json!({ "spec": { "turn": { "servers": ["turn:192.0.2.1"], "podTemplate": { "labels": { "a": "not a label!" } } } } })),
    ];
    drop(first);
    for (reason, wrong) in wrong {
        world.campfires().patch("fire", &PatchParams::default(), &Patch::Merge(wrong)).await.unwrap();
        let next = Operator::start(&world.client, &["default"]).await;
        campfire_says(&world.campfires(), "fire", "Accepted", reason).await;
        eventually("members are told what held before", async || next.told("fire").is_some()).await;
        let told = next.told("fire").unwrap();
        assert_eq!(told, before);
        assert_eq!(version().await, set, "the servers are left alone");
        let services = Api::<Service>::namespaced(world.client.clone(), "default").list(&ListParams::default()).await.unwrap();
        assert_eq!(services.iter().filter(|service| service.name_any().starts_with("fire-")).count(), 3);
    }
}

#[tokio::test]
async fn with_older_definitions_the_operator_works_on_and_says_which_to_apply() {
    let Some(world) = World::start().await else { return };
    let mut older = serde_json::to_value(Campfire::crd()).unwrap();
    let schema = older.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties").unwrap();
    schema["status"]["properties"].as_object_mut().unwrap().remove("missedPods");
    schema["spec"]["properties"]["network"]["properties"].as_object_mut().unwrap().remove("acceptRoutes");
    let definitions = Api::<CustomResourceDefinition>::all(world.client.clone());
    definitions.delete("campfires.campfire.network", &DeleteParams::default()).await.unwrap();
    // Both: what is applied to one that is still being deleted goes with it.
    eventually("it is gone", async || definitions.get_opt("campfires.campfire.network").await.unwrap().is_none()).await;
    eventually("it is published no more", async || lacking(&world.client).await.unwrap().is_some()).await;
    let none = lacking(&world.client).await.unwrap();
    assert_eq!(none.as_deref(), Some("the API server knows no Campfire: the CustomResourceDefinitions are not installed"));
    apply(&definitions, "campfires.campfire.network", &older).await;
    eventually("it is served", async || world.campfires().list(&ListParams::default()).await.is_ok()).await;
    eventually("it is published", async || lacking(&world.client).await.unwrap() != none).await;
    assert_eq!(
        lacking(&world.client).await.unwrap().as_deref(),
        Some(
            "the CustomResourceDefinitions are older than this operator, and what they do not know is lost: campfire.spec.network.acceptRoutes, \
             campfire.status.missedPods"
        )
    );
    let _operator = Operator::start(&world.client, &["default"]).await;
    world.campfire("fire", json!({ "turn": { "replicas": 0, "servers": ["turn:192.0.2.1"] } })).await;
    assert_eq!(
        campfire_says(&world.campfires(), "fire", "DefinitionCurrent", "DefinitionOutdated").await,
        "False: the CustomResourceDefinition is older than the operator, and drops what it does not know: apply those of this version: helm \
         upgrade with crds.enabled, or `campfire-operator crds | kubectl apply --server-side -f -`"
    );
    assert!(campfire_says(&world.campfires(), "fire", "Ready", "Ready").await.starts_with("True: "));
    apply(&definitions, "campfires.campfire.network", &Campfire::crd()).await;
    eventually("nothing lacks", async || lacking(&world.client).await.unwrap().is_none()).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_there_replaces_no_server_that_works() {
    let Some(world) = World::start().await else { return };
    let _operator = Operator::start(&world.client, &["default"]).await;
    world.campfire("fire", json!({ "turn": { "exposure": { "type": "ClusterIP" } } })).await;
    let sets = Api::<StatefulSet>::namespaced(world.client.clone(), "default");
    eventually("its servers", || async { sets.get_opt("fire-turn").await.unwrap().is_some() }).await;
    let template = async || sets.get("fire-turn").await.unwrap().spec.unwrap().template;
    let before = template().await;
    let tls = json!({ "turn": { "exposure": { "type": "ClusterIP" }, "transports": ["UDP", "TLS"], "tls": { "secretName": "nope" } } });
    world.campfire("fire", tls).await;
    assert_eq!(
        campfire_says(&world.campfires(), "fire", "Accepted", "TlsSecretMissing").await,
        "False: spec.turn.tls.secretName: there is no Secret nope in namespace default: make it (kubectl create secret tls nope --cert=FILE \
         --key=FILE); what runs goes on as it was"
    );
    // One that holds something else is none either.
    world.secret("nope", json!({ "tls.crt": "-----BEGIN CERTIFICATE-----", "key": "x" })).await;
    eventually("it is looked at again", || async {
        let campfire = world.campfires().get("fire").await.unwrap();
        let conditions = campfire.status.unwrap().conditions;
        conditions.iter().any(|condition| condition.type_ == "Accepted" && condition.message.contains("holds no certificate"))
    })
    .await;
    assert_eq!(template().await, before);
    let both = json!({ "tls.crt": "-----BEGIN CERTIFICATE-----", "tls.key": "-----BEGIN PRIVATE KEY-----" });
    world.secret("nope", both).await;
    campfire_says(&world.campfires(), "fire", "Accepted", "Accepted").await;
    eventually("its servers have it", || async { template().await != before }).await;
}

#[tokio::test]
async fn a_change_whose_pods_the_api_server_would_refuse_replaces_no_server_that_works() {
    let Some(world) = World::start().await else { return };
    let operator = Operator::start(&world.client, &["default"]).await;
    let exposed = |kind: &str, template: Value| json!({ "turn": { "exposure": { "type": kind }, "podTemplate": template } });
    world.campfire("fire", exposed("ClusterIP", json!({}))).await;
    let sets = Api::<StatefulSet>::namespaced(world.client.clone(), "default");
    eventually("its servers", || async { sets.get_opt("fire-turn").await.unwrap().is_some() }).await;
    let runs = json!({ "status": { "replicas": 1, "readyReplicas": 1 } });
    sets.patch_status("fire-turn", &PatchParams::default(), &Patch::Merge(runs)).await.unwrap();
    let template = async || sets.get("fire-turn").await.unwrap().spec.unwrap().template;
    let goes_on = async |before| {
        campfire_says(&world.campfires(), "fire", "Accepted", "Accepted").await;
        eventually("its servers have it", || async { template().await != before }).await;
    };
    let refused = async || campfire_says(&world.campfires(), "fire", "Accepted", "PodsRefused").await;

    let before = template().await;
    world.campfire("fire", exposed("ClusterIP", json!({ "priorityClassName": "nope" }))).await;
    assert_eq!(
        refused().await,
        "False: the servers stay as they are, for the API server refuses their pods as spec.turn has them now: pods \"fire-turn-0\" is forbidden: no \
         PriorityClass with name nope was found: correct spec.turn.podTemplate or what it names; it is tried again within two minutes, and all else goes on"
    );
    // All else goes on: a key is rotated, of which the servers hear too.
    let rotate = json!({ "metadata": { "annotations": { ROTATE_ANNOTATION: "Distribute" } } });
    world.campfires().patch("fire", &PatchParams::default(), &Patch::Merge(rotate)).await.unwrap();
    eventually("members have both keys", async || operator.told("fire").is_some_and(|told| told.keys.len() == 2)).await;
    assert_eq!(world.secrets().get("fire-relay").await.unwrap().data.unwrap().len(), 2);
    assert_eq!(template().await, before);
    let class = json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": "nope" }, "value": 10 });
    apply(&Api::<PriorityClass>::all(world.client.clone()), "nope", &class).await;
    goes_on(before).await;

    // The ServiceAccount is the operator's: it is put back, and no pod is refused for it.
    let accounts = Api::<ServiceAccount>::namespaced(world.client.clone(), "default");
    accounts.delete("fire-turn", &DeleteParams::default()).await.unwrap();
    let before = template().await;
    world.campfire("fire", exposed("ClusterIP", json!({ "labels": { "team": "a" } }))).await;
    goes_on(before).await;
    assert!(accounts.get_opt("fire-turn").await.unwrap().is_some());

    // What members reach the servers by stays with them.
    let enforce = async |level: &str| {
        let label = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": level } } });
        Api::<Namespace>::all(world.client.clone()).patch("default", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    };
    enforce("baseline").await;
    let before = template().await;
    let services = Api::<Service>::namespaced(world.client.clone(), "default");
    let versions = async || {
        let listed = services.list(&ListParams::default()).await.unwrap().items;
        listed.into_iter().map(|service| (service.name_any(), service.resource_version())).collect::<Vec<_>>()
    };
    let reached = versions().await;
    world.campfire("fire", exposed("HostPort", json!({}))).await;
    assert!(refused().await.contains("violates PodSecurity \"baseline:latest\": hostPort"));
    assert_eq!((template().await, versions().await), (before.clone(), reached));
    enforce("privileged").await;
    goes_on(before).await;

    // A quota that is full has room for a pod in the place of another; one of nothing has not.
    let quotas = Api::<ResourceQuota>::namespaced(world.client.clone(), "default");
    let quota = json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "few" }, "spec": { "hard": { "pods": "1" } } });
    apply(&quotas, "few", &quota).await;
    for (hard, class, fits) in [("1", "one", true), ("0", "two", false)] {
        let counted = json!({ "status": { "hard": { "pods": hard }, "used": { "pods": "1" } } });
        quotas.patch_status("few", &PatchParams::default(), &Patch::Merge(counted)).await.unwrap();
        eventually("the operator has seen it", || async {
            let of = |quota: &ResourceQuota| quota.status.clone().and_then(|status| status.hard?.get("pods").cloned());
            operator.ctx.cluster.quotas.state().iter().any(|quota| of(quota).is_some_and(|seen| seen.0 == hard))
        })
        .await;
        let before = template().await;
        world.campfire("fire", exposed("HostPort", json!({ "labels": { "class": class } }))).await;
        if fits {
            goes_on(before).await;
        } else {
            let said = refused().await;
            assert!(said.contains("exceeded quota: few") && said.contains("(quota few allows 0 of pods, and it would be 1)"), "{said}");
            assert_eq!(template().await, before);
        }
    }

    // An operator that may try no pods holds nothing up.
    drop(operator);
    let before = template().await;
    let _operator = Operator::start(&world.with_rights_in("default").await, &["default"]).await;
    goes_on(before).await;
}

#[tokio::test]
async fn a_meshpeer_that_is_not_accepted_says_what_to_change() {
    let Some(world) = World::start().await else { return };
    let other = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "other" } });
    apply(&Api::<Namespace>::all(world.client.clone()), "other", &other).await;
    let _operator = Operator::start(&world.client, &["default"]).await;
    world.campfire("fire", json!({ "turn": { "exposure": { "type": "ClusterIP" } } })).await;
    world
        .campfire("open", json!({ "turn": { "exposure": { "type": "ClusterIP" } }, "members": { "namespaces": { "from": "All" } } }))
        .await;
    world.secret("mine", json!({ "a": "b" })).await;
    world.campfire("reached", reached()).await;
    campfire_says(&world.campfires(), "reached", "Joinable", "Joinable").await;
    let external =
        |campfire: &str| json!({ "type": "External", "campfireRef": { "name": campfire, "namespace": "default" }, "external": {} });
    let table = [
        (
            "default",
            json!({ "type": "Remote", "campfireRef": { "name": "fire" } }),
            "NotManaged",
            "False: objects of type Remote are made by the operator: delete this one; declare what is outside with type External",
        ),
        (
            "default",
            external("none"),
            "CampfireNotFound",
            "False: there is no Campfire default/none: make it, or name another one (a pod by annotation campfire.network/campfire, an External in spec.campfireRef) and make this anew",
        ),
        (
            "other",
            json!({ "type": "External", "campfireRef": { "name": "fire" }, "external": {} }),
            "CampfireNotFound",
            "False: there is no Campfire other/fire: the operator serves no Campfires of this namespace: add it to campfireNamespaces of the chart",
        ),
        (
            "other",
            external("fire"),
            "NamespaceNotAdmitted",
            "False: Campfire default/fire does not admit namespace other: change its spec.members.namespaces or the namespace's labels",
        ),
        (
            "other",
            external("open"),
            "NamespaceNotServed",
            "False: the operator may write Secrets only where Campfires are served: make this object in the Campfire's namespace, or add this one to campfireNamespaces of the chart",
        ),
        (
            "default",
            external("fire"),
            "NoExternalEndpoint",
            "False: Campfire default/fire has no join secret yet: its condition Joinable says why",
        ),
        (
            "default",
            json!({ "type": "External", "campfireRef": { "name": "reached" }, "external": { "secretName": "mine" } }),
            "SecretExists",
            "False: Secret mine exists and is not this object's: delete it, or name another one in spec.external.secretName",
        ),
    ];
    let mut found = Vec::new();
    for (number, (namespace, spec, reason, expected)) in table.into_iter().enumerate() {
        let name = format!("peer-{number}");
        let peers = Api::<MeshPeer>::namespaced(world.client.clone(), namespace);
        let peer = json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "MeshPeer", "metadata": { "name": name }, "spec": spec });
        apply(&peers, &name, &peer).await;
        let message = peer_says(&peers, &name, "Accepted", reason).await;
        if message != expected {
            found.push(format!("{reason} {spec}\n  {message}"));
        }
        assert_eq!(peer_says(&peers, &name, "Ready", reason).await, message, "Ready says the same");
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

struct World {
    plane: ControlPlane,
    client: Client,
}

impl World {
    async fn start() -> Option<Self> {
        let plane = ControlPlane::start().await?;
        let client = plane.client.clone();
        define(&client).await;
        Some(Self { plane, client })
    }

    fn campfires(&self) -> Api<Campfire> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn campfire(&self, name: &str, spec: Value) {
        apply(&self.campfires(), name, &campfire(name, &spec)).await;
    }

    async fn secret(&self, name: &str, data: Value) {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data });
        let _ = self.secrets().delete(name, &DeleteParams::default()).await;
        apply(&self.secrets(), name, &secret).await;
    }

    /// A client that may do in this namespace alone what the chart lets the operator do where Campfires live.
    async fn with_rights_in(&self, namespace: &str) -> Client {
        let everywhere = json!([
            { "apiGroups": ["campfire.network"], "resources": ["*"], "verbs": ["*"] },
            { "apiGroups": [""], "resources": ["pods", "namespaces", "nodes", "limitranges", "resourcequotas"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"] },
        ]);
        let there =
            json!([{ "apiGroups": ["", "apps"], "resources": ["secrets", "services", "serviceaccounts", "statefulsets"], "verbs": ["*"] }]);
        let rbac = |kind: &str, more: Value| {
            let mut object = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": "operator" } });
            object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            object
        };
        let subjects = json!([{ "kind": "User", "name": "operator" }]);
        let bound = |kind: &str| json!({ "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "operator" }, "subjects": subjects });
        let client = || self.client.clone();
        apply(&Api::<ClusterRole>::all(client()), "operator", &rbac("ClusterRole", json!({ "rules": everywhere }))).await;
        apply(&Api::<ClusterRoleBinding>::all(client()), "operator", &rbac("ClusterRoleBinding", bound("ClusterRole"))).await;
        apply(&Api::<Role>::namespaced(client(), namespace), "operator", &rbac("Role", json!({ "rules": there }))).await;
        apply(&Api::<RoleBinding>::namespaced(client(), namespace), "operator", &rbac("RoleBinding", bound("Role"))).await;
        let mut kubeconfig: Kubeconfig = serde_json::from_slice(&std::fs::read(self.plane.kubeconfig()).unwrap()).unwrap();
        kubeconfig.auth_infos[0].auth_info.as_mut().unwrap().impersonate = Some("operator".into());
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }
}

/// A Campfire that others can join.
fn reached() -> Value {
    json!({ "turn": { "exposure": { "type": "NodePort", "externalAddresses": ["203.0.113.7"] } } })
}

fn campfire(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "name": name }, "spec": spec })
}
