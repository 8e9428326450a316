//! Two replicas of the operator's program on a real API server; the one that leads is killed while changes come in.

#![allow(clippy::unwrap_used)]

mod control_plane;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use campfire_api::names::{self, CAMPFIRE_ANNOTATION, ENABLED, INJECTED_LABEL};
use campfire_api::{Campfire, MeshPeer};
use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use self::control_plane::{ControlPlane, apply, define};

const HERE: &str = "two";
const FIRES: usize = 5;
/// What the changes change.
const ANNOTATION: &str = "example.org/change";
const PATIENCE: Duration = Duration::from_secs(30);
/// The promise.
const HAND_OVER: Duration = Duration::from_secs(15);

#[tokio::test]
async fn when_the_leader_is_killed_under_change_the_other_goes_on_and_nothing_is_lost_or_written_twice() {
    let Some(plane) = ControlPlane::start().await else { return };
    let client = plane.client.clone();
    prepare(&client).await;
    let mut replicas = BTreeMap::from(["a", "b"].map(|name| (name.to_owned(), Replica::start(&plane, name))));
    let leader = until("one leads", async || holder(&client).await).await;
    let history = History::follow(&client).await;
    let fires = Api::<Campfire>::namespaced(client.clone(), HERE);
    for number in 0..FIRES {
        let spec = json!({ "turn": { "exposure": { "type": "ClusterIP" } } });
        let fire =
            json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "name": fire(number) }, "spec": spec });
        apply(&fires, &self::fire(number), &fire).await;
    }
    until("all have their servers", async || (history.sets().len() == FIRES).then_some(())).await;

    // Changes come in all the time, before, while and after nobody leads.
    let changes = Changes::default();
    let before = counted(&client).await;
    let coming = tokio::spawn(changes.clone().come(client.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let killed = Instant::now();
    replicas.remove(&leader).unwrap().kill();
    let first_after = changes.made();
    let next = until("the other leads", async || holder(&client).await.filter(|holder| *holder != leader)).await;
    let led = killed.elapsed();
    until("a change made after the kill is done", async || {
        history.sets().values().flatten().any(|(_, change)| *change > first_after).then_some(())
    })
    .await;
    let done = killed.elapsed();
    assert_eq!(replicas.keys().collect::<Vec<_>>(), [&next]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    changes.stop();
    coming.await.unwrap();

    // Nothing is lost.
    let pods: BTreeSet<String> = changes.0.lock().unwrap().pods.clone();
    let last = changes.0.lock().unwrap().last.clone();
    until("every pod has its peer", async || (history.peers().keys().cloned().collect::<BTreeSet<_>>() == pods).then_some(())).await;
    until("every Campfire's last change is done", async || {
        let sets = history.sets();
        let newest = |fire: &usize| sets.get(&names::turn(&self::fire(*fire))).and_then(|seen| seen.last()).map(|(_, change)| *change);
        last.iter().all(|(fire, change)| newest(fire) == Some(*change)).then_some(())
    })
    .await;
    until("every peer has its status", async || history.peers().values().all(|versions| versions.len() == 2).then_some(())).await;
    // Whatever else it might write, it would by now.
    tokio::time::sleep(Duration::from_secs(2)).await;

    // Nothing is written twice: a peer is made once and gets its status once; each write of a StatefulSet is another generation of it,
    // and none takes back what a newer one brought.
    for (name, versions) in history.peers() {
        assert_eq!(versions.len(), 2, "{name} was written at {versions:?}");
    }
    let mut generations = 0;
    for (name, seen) in history.sets() {
        let expected: Vec<i64> = (1..=i64::try_from(seen.len()).unwrap()).collect();
        assert_eq!(seen.iter().map(|(generation, _)| *generation).collect::<Vec<_>>(), expected, "{name}");
        assert!(seen.is_sorted_by_key(|(_, change)| *change), "{name} went back: {seen:?}");
        generations += seen.len() - 1;
    }
    // Requests as the API server counts them, among them those that changed nothing. What the killed leader had sent is carried out though
    // it never read the answer; its successor begins with what is there. It may send again only what was under way: 4 Campfires and 8 peers
    // are written at the same time. A peer that is there already answers 409: a conflict, which is no write.
    let after = counted(&client).await;
    let count = |verb: &str, resource: &str, codes: &dyn Fn(&str) -> bool| {
        let sum = |counts: &BTreeMap<[String; 3], u64>| {
            counts.iter().filter(|([v, r, code], _)| v == verb && r == resource && codes(code)).map(|(_, count)| count).sum::<u64>()
        };
        sum(&after) - sum(&before)
    };
    let conflicts = ["POST", "PUT", "PATCH", "APPLY"].map(|verb| count(verb, "meshpeers", &|code| code == "409")).iter().sum::<u64>();
    let applied = count("APPLY", "statefulsets", &|_| true);
    let made = count("POST", "meshpeers", &|code| code == "201");
    println!(
        "hand-over: the other led {:.1} s after the kill and had done a change after {:.1} s; {} changes of Campfires, {generations} writes; \
         {} pods, {made} MeshPeers made; {conflicts} conflicts",
        led.as_secs_f64(),
        done.as_secs_f64(),
        changes.made(),
        pods.len(),
    );
    assert!(done < HAND_OVER, "the hand-over took {done:?}");
    // All are there, as seen above. What the killed one was making when it died need not be counted as answered.
    assert!((pods.len() as u64 - 8..=pods.len() as u64).contains(&made), "{made} MeshPeers made");
    assert!(conflicts <= 8, "{conflicts} conflicts");
    assert!(applied <= generations as u64 + 4, "{applied} applies for {generations} generations");
}

/// A running operator, ended with the test.
struct Replica(Child);

impl Replica {
    fn start(plane: &ControlPlane, name: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_campfire-operator"));
        command.args(["run", "--campfire-namespaces", HERE, "--namespace", HERE, "--pod-name", name, "--pod-ip", "127.0.0.1"]);
        for (flag, port) in ["--http-port", "--agent-port", "--webhook-port"].into_iter().zip(ports::<3>()) {
            command.arg(flag).arg(port.to_string());
        }
        command.env("KUBECONFIG", plane.kubeconfig()).stdin(Stdio::null());
        if std::env::var("CAMPFIRE_TEST_LOG").is_err() {
            command.stderr(Stdio::null());
        }
        Self(command.spawn().unwrap())
    }

    /// By SIGKILL.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was changed.
#[derive(Clone, Default)]
struct Changes(Arc<Mutex<Made>>);

#[derive(Default)]
struct Made {
    stopped: bool,
    count: usize,
    /// By number of the Campfire.
    last: BTreeMap<usize, usize>,
    pods: BTreeSet<String>,
}

impl Changes {
    /// Changes a Campfire and makes a pod, three times a second.
    async fn come(self, client: Client) {
        let fires = Api::<Campfire>::namespaced(client.clone(), HERE);
        let pods = Api::<Pod>::namespaced(client, HERE);
        for number in 1.. {
            if self.0.lock().unwrap().stopped {
                return;
            }
            let fire = number % FIRES;
            let patch = json!({ "spec": { "turn": { "podTemplate": { "annotations": { ANNOTATION: number.to_string() } } } } });
            fires.patch(&self::fire(fire), &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
            let name = format!("web-{number}");
            let pod = json!({
                "metadata": { "name": name, "labels": { INJECTED_LABEL: ENABLED }, "annotations": { CAMPFIRE_ANNOTATION: format!("{HERE}/{}", self::fire(fire)) } },
                "spec": { "containers": [{ "name": "app", "image": "app" }] },
            });
            pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
            {
                let mut made = self.0.lock().unwrap();
                made.count = number;
                made.last.insert(fire, number);
                made.pods.insert(name);
            }
            tokio::time::sleep(Duration::from_millis(330)).await;
        }
    }

    fn made(&self) -> usize {
        self.0.lock().unwrap().count
    }

    fn stop(&self) {
        self.0.lock().unwrap().stopped = true;
    }
}

/// All that was written, as a watch tells it.
struct History {
    sets: Arc<Mutex<Sets>>,
    peers: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

/// By name: generation, and the number of the change that it brought (0: none yet).
type Sets = BTreeMap<String, Vec<(i64, usize)>>;

impl History {
    /// From now on: there are none yet.
    async fn follow(client: &Client) -> Self {
        let history = Self { sets: Arc::default(), peers: Arc::default() };
        let (api, seen) = (Api::<StatefulSet>::namespaced(client.clone(), HERE), history.sets.clone());
        follow(api, move |set: StatefulSet| {
            let annotations = set.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref()?.annotations.clone()).unwrap_or_default();
            let change = annotations.get(ANNOTATION).map_or(0, |change| change.parse().unwrap());
            let written = (set.metadata.generation.unwrap(), change);
            seen.lock().unwrap().entry(set.name_any()).or_default().push(written);
        })
        .await;
        let (api, seen) = (Api::<MeshPeer>::namespaced(client.clone(), HERE), history.peers.clone());
        follow(api, move |peer: MeshPeer| {
            seen.lock().unwrap().entry(peer.name_any()).or_default().push(peer.resource_version().unwrap());
        })
        .await;
        history
    }

    fn sets(&self) -> Sets {
        self.sets.lock().unwrap().clone()
    }

    fn peers(&self) -> BTreeMap<String, Vec<String>> {
        self.peers.lock().unwrap().clone()
    }
}

async fn follow<K>(api: Api<K>, mut look: impl FnMut(K) + Send + 'static)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    tokio::spawn(async move {
        let mut events = std::pin::pin!(api.watch(&WatchParams::default(), &version).await.unwrap());
        while let Some(event) = events.next().await {
            match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => look(object),
                Ok(WatchEvent::Deleted(_)) => panic!("something was deleted"),
                _ => {}
            }
        }
    });
}

async fn prepare(client: &Client) {
    define(client).await;
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": HERE } });
    apply(&Api::<Namespace>::all(client.clone()), HERE, &namespace).await;
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    apply(&Api::<ServiceAccount>::namespaced(client.clone(), HERE), "default", &account).await;
}

/// Who holds the Lease.
async fn holder(client: &Client) -> Option<String> {
    let lease = Api::<Lease>::namespaced(client.clone(), HERE).get_opt(names::LEASE).await.unwrap()?;
    lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

/// Requests by verb, resource and status, as the API server counts them.
async fn counted(client: &Client) -> BTreeMap<[String; 3], u64> {
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = client.request_text(request).await.unwrap();
    let mut counts = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")) {
        let (labels, count) = line.rsplit_once("} ").unwrap();
        let label = |name: &str| {
            let value = labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'));
            value.unwrap_or_default().to_owned()
        };
        *counts.entry([label("verb"), label("resource"), label("code")]).or_default() += count.parse::<f64>().unwrap() as u64;
    }
    counts
}

async fn until<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = holds().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn fire(number: usize) -> String {
    format!("fire-{number}")
}

/// Ports that are free now.
fn ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
