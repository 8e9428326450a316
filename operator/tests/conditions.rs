//! What the API server cannot know to be wrong is said in conditions, each with what to change: these are the messages.

#![allow(clippy::unwrap_used)]

mod control_plane;
mod in_process;
mod world;

use std::time::Duration;

use campfire_api::names::ROTATE_ANNOTATION;
use campfire_api::{Campfire, MeshPeer};
use campfire_operator::definitions::lacking;
use control_plane::apply;
use in_process::{Operator, campfire_says, eventually, peer_says};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, CustomResourceExt, ResourceExt};
use serde_json::{Value, json};
use world::{World, campfire};

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
async fn in_a_cluster_of_two_families_members_are_told_of_servers_in_both() {
    let Some(world) = World::dual_stack().await else { return };
    let operator = Operator::start(&world.client, &["default"]).await;
    world.campfire("fire", json!({ "turn": { "transports": ["UDP"], "exposure": { "type": "LoadBalancer" } } })).await;
    let services = Api::<Service>::namespaced(world.client.clone(), "default");
    eventually("its Service", || async { services.get_opt("fire-turn-0-udp").await.unwrap().is_some() }).await;
    let spec = services.get("fire-turn-0-udp").await.unwrap().spec.unwrap();
    assert_eq!(spec.ip_families.as_deref(), Some(&["IPv4".to_owned(), "IPv6".to_owned()][..]));
    let address = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.7" }, { "ip": "2001:db8::7" }] } } });
    services.patch_status("fire-turn-0-udp", &PatchParams::default(), &Patch::Merge(address)).await.unwrap();
    let mut expected = [spec.cluster_ips.unwrap(), vec!["203.0.113.7".into(), "2001:db8::7".into()]].concat();
    expected.sort();
    assert!(expected.iter().any(|ip| ip.starts_with("fd91::")), "{expected:?}");
    let told = || operator.told("fire").map(|told| told.own.clone()).unwrap_or_default();
    eventually("members are told of all four", || async { told().first().is_some_and(|server| server.addresses.len() == 4) }).await;
    assert_eq!(told().len(), 1, "one server");
    let mut hosts: Vec<String> = told()[0].addresses.iter().map(|address| address.host.clone()).collect();
    hosts.sort();
    assert_eq!(hosts, expected);
    // The status is written after members are told.
    let shown = async || world.campfires().get("fire").await.unwrap().status.unwrap_or_default().endpoints.len();
    eventually("the status shows all four", || async { shown().await == 4 }).await;
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
            "False: Secrets of the Campfire could not be listed: secrets is forbidden: User \"operator\" cannot list resource \"secrets\" in API \
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

/// A Campfire that others can join.
fn reached() -> Value {
    json!({ "turn": { "exposure": { "type": "NodePort", "externalAddresses": ["203.0.113.7"] } } })
}
