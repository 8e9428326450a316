//! What stories about meshes share: apps with the label, who they are in the mesh, and traffic that counts what it loses.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD as STANDARD, BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::{Cluster, TEST_APP, condition, is_ready};

/// How often [`Traffic`] asks.
const PING_EVERY: Duration = Duration::from_millis(100);

/// A Deployment of pods with the label: `app` answers each connection to port 7000 with its pod's name. `annotations` are the pods' own, as YAML
/// (`{a: b}`).
pub fn deployment(name: &str, replicas: u32, annotations: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}, campfire.network/inject: enabled}}, annotations: {annotations}}}
    spec:
      terminationGracePeriodSeconds: 3
      containers:
      - name: app
        image: {TEST_APP}
        imagePullPolicy: Never
        command: [sh, -c, 'trap exit TERM; while true; do hostname | nc -l -p 7000 & wait; done']
"
    )
}

/// A Campfire `main` whose spec is this YAML (in one line: `{turn: …}`).
pub fn campfire(spec: &str) -> String {
    format!("apiVersion: campfire.network/v1alpha1\nkind: Campfire\nmetadata: {{name: main}}\nspec: {spec}\n")
}

/// The name of an object.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Whether a condition of an object is true for its present generation.
pub fn is_true(object: &Value, kind: &str) -> bool {
    let current = |it: &Value| it["observedGeneration"].is_null() || it["observedGeneration"] == object["metadata"]["generation"];
    condition(object, kind).is_some_and(|it| it["status"] == "True" && current(it))
}

impl Cluster {
    /// Waits until Campfire `main` is as its spec asks.
    pub fn campfire_ready(&self, namespace: &str) -> Value {
        self.wait_for("Campfire main to be Ready", namespace, Duration::from_mins(1), || {
            self.get(namespace, "campfire", "main").filter(|campfire| is_true(campfire, "Ready"))
        })
    }

    /// Changes Campfire `main` (a JSON merge patch) and waits until the operator has done it.
    pub fn change(&self, namespace: &str, patch: &str) -> Value {
        self.kubectl(&["patch", "-n", namespace, "campfire", "main", "--type=merge", "-p", patch]);
        self.campfire_ready(namespace)
    }

    /// Waits until an app has so many pods, all ready and none on its way out.
    pub fn pods(&self, namespace: &str, app: &str, count: usize) -> Vec<Value> {
        self.wait_for(&format!("{count} pods of {app} to be ready"), namespace, Duration::from_mins(2), || {
            let pods = self.list(namespace, "pods", &format!("app={app}"));
            (pods.len() == count && pods.iter().all(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null())).then_some(pods)
        })
    }

    /// The address of a pod in the mesh, as its interface has it.
    pub fn mesh_address(&self, namespace: &str, pod: &str) -> String {
        self.wait_for(&format!("the mesh address of {pod}"), namespace, Duration::from_secs(30), || {
            let text = self.exec(namespace, pod, "app", &["ip", "-6", "addr", "show", "dev", "campfire0", "scope", "global"]).ok()?;
            let address = text.split_whitespace().skip_while(|word| *word != "inet6").nth(1)?;
            Some(address.split('/').next()?.to_owned())
        })
    }

    /// Waits until all pods of an app are in the mesh: their MeshPeers are ready, with the addresses that their interfaces have. (After a restart of
    /// the node those of before are there until the new ones are reported.)
    pub fn members(&self, namespace: &str, app: &str, count: usize, patience: Duration) {
        let address = |pod: &Value| {
            let line = ["ip", "-6", "addr", "show", "dev", "campfire0", "scope", "global"];
            let text = self.exec(namespace, name(pod), "app", &line).ok()?;
            Some(text.split_whitespace().skip_while(|word| *word != "inet6").nth(1)?.split('/').next()?.to_owned())
        };
        let joined = |pod: &Value| {
            let peer = self.get(namespace, "meshpeer", name(pod))?;
            let same = peer["spec"]["podRef"]["uid"] == pod["metadata"]["uid"] && is_true(&peer, "Ready");
            (same && peer["status"]["addresses"][0] == address(pod)?.as_str()).then_some(())
        };
        self.wait_for(&format!("the {count} pods of {app} to be in the mesh"), namespace, patience, || {
            let pods = self.list(namespace, "pods", &format!("app={app}"));
            (pods.len() == count && pods.iter().all(|pod| joined(pod).is_some())).then_some(())
        });
    }

    /// Seconds from before a pod is asked for until its app `app`, which pings a peer with its first command, is answered over the mesh.
    pub fn seconds_to_start(&self, namespace: &str, pod: &str, manifest: &str) -> f64 {
        let of_day = |since: Duration| since.as_secs_f64() % 86_400.0;
        let asked = of_day(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        self.apply(namespace, manifest);
        let log = self.wait_for(&format!("the app of {pod} to be answered over the mesh"), namespace, Duration::from_secs(30), || {
            let log = self.try_kubectl(&["logs", "-n", namespace, pod, "-c", "app", "--timestamps"]).ok()?;
            log.contains("bytes from").then_some(log)
        });
        self.kubectl(&["delete", "-n", namespace, "pod", pod]);
        // 2026-11-24T16:53:39.123456789Z
        let answered = log.lines().find(|line| line.contains("bytes from")).unwrap_or_default();
        let time = answered.split_once('T').and_then(|(_, time)| time.split_once('Z')).map_or("", |(time, _)| time);
        let answered = time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap_or(f64::NAN));
        (answered - asked).rem_euclid(86_400.0)
    }

    /// Waits until the app in a pod is answered by `name` at a mesh address.
    pub fn talks(&self, namespace: &str, pod: &str, address: &str, name: &str) {
        let line = format!("echo | nc -w 2 {address} 7000");
        let answer =
            self.wait_for(&format!("the app in {pod} to talk to {name} over the mesh"), namespace, Duration::from_secs(30), || {
                self.exec(namespace, pod, "app", &["sh", "-c", &line]).ok().filter(|answer| !answer.is_empty())
            });
        assert_eq!(answer.trim(), name);
    }

    /// What the sidecar of a pod says of itself and its peers.
    pub fn status(&self, namespace: &str, pod: &str) -> Value {
        let text = self.exec(namespace, pod, "campfire", &["/campfire", "status", "--json"]);
        let text = text.unwrap_or_else(|error| panic!("campfire status in {pod}: {error}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("campfire status in {pod}: {error}: {text}"))
    }

    /// All keys that the Secrets of the operator hold in a namespace, in each form in which they could be shown: to look for, not to print.
    pub fn keys(&self, namespace: &str) -> Vec<String> {
        let text = self.kubectl(&["get", "-n", namespace, "secrets", "-l", "app.kubernetes.io/managed-by=campfire-operator", "-o", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("kubectl get secrets: {error}"));
        let mut keys = Vec::new();
        for data in list["items"].as_array().into_iter().flatten().filter_map(|secret| secret["data"].as_object()) {
            // The network id is no secret.
            for encoded in data.iter().filter(|(key, _)| *key != "network").filter_map(|(_, value)| value.as_str()) {
                keys.push(encoded.to_owned());
                let plain = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
                // Lists of keys, and URIs, hold them between other text.
                for word in plain.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').filter(|word| word.len() >= 32) {
                    keys.push(word.to_owned());
                    let bytes = URL_SAFE_NO_PAD.decode(word).unwrap_or_default();
                    keys.push(
                        bytes
                            .iter()
                            .flat_map(|byte| [byte >> 4, byte & 15])
                            .filter_map(|digit| char::from_digit(digit.into(), 16))
                            .collect(),
                    );
                }
            }
        }
        keys.retain(|key| key.len() >= 32);
        keys
    }

    /// All that somebody may read who may not read Secrets: objects of all kinds, logs of all containers, metrics, the chart's manifests.
    pub fn everything_readable(&self) -> String {
        let kinds = self.kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
        let kinds: Vec<&str> = kinds.lines().filter(|kind| *kind != "secrets" && !kind.contains("metrics.k8s.io")).collect();
        let mut all = self.kubectl(&["get", "-A", &kinds.join(","), "-o", "yaml", "--ignore-not-found"]);
        let pods =
            self.kubectl(&["get", "pods", "-A", "-o", "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{\"\\n\"}{end}"]);
        for (namespace, pod) in pods.lines().filter_map(|line| line.split_once(' ')) {
            for more in [&[][..], &["--previous"]] {
                let args = [&["logs", "-n", namespace, pod, "--all-containers", "--ignore-errors"][..], more].concat();
                all.push_str(&self.try_kubectl(&args).unwrap_or_default());
            }
            for port in [8080, 9641] {
                let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics");
                if pod.starts_with("campfire-operator") || pod.contains("-turn-") {
                    all.push_str(&self.try_kubectl(&["get", "--raw", &path]).unwrap_or_default());
                }
            }
        }
        for what in ["manifest", "values", "notes"] {
            all.push_str(&self.try_helm(&["get", what, "campfire", "-n", "campfire-system"]).unwrap_or_default());
        }
        all
    }

    /// Begins to ping a mesh address from a pod, ten times a second, in the pod itself: whatever happens to the API server.
    pub fn traffic<'a>(&'a self, namespace: &'a str, pod: &str, address: &str) -> Traffic<'a> {
        let line = format!("ping -i {} {address} >/tmp/ping 2>&1 & echo $! >/tmp/ping.pid", PING_EVERY.as_secs_f64());
        let begun = self.exec(namespace, pod, "app", &["sh", "-c", &line]);
        begun.unwrap_or_else(|error| panic!("ping in {pod}: {error}"));
        let traffic = Traffic { cluster: self, namespace, pod: pod.to_owned() };
        self.wait_for(&format!("{pod} to be answered"), namespace, Duration::from_secs(10), || {
            (traffic.so_far().answered > 0).then_some(())
        });
        traffic
    }
}

/// Pings that go on until they are stopped.
#[derive(Debug)]
pub struct Traffic<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    pod: String,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    /// Pings that were answered.
    pub answered: u32,
    /// Pings that were not, of those before the last that was.
    pub lost: u32,
    /// The longest time without an answer.
    pub gap: Duration,
}

impl Traffic<'_> {
    /// What became of the pings so far.
    pub fn so_far(&self) -> Loss {
        loss(&self.cluster.exec(self.namespace, &self.pod, "app", &["cat", "/tmp/ping"]).unwrap_or_default())
    }

    /// Ends it, once the way is open (again).
    pub fn stop(self) -> Loss {
        let before = self.so_far().answered;
        let again = || (self.so_far().answered > before).then_some(());
        self.cluster.wait_for("pings to be answered still", self.namespace, Duration::from_secs(10), again);
        let ended = self.cluster.exec(self.namespace, &self.pod, "app", &["sh", "-c", "kill $(cat /tmp/ping.pid)"]);
        ended.unwrap_or_else(|error| panic!("kill ping in {}: {error}", self.pod));
        let loss = self.so_far();
        println!("[{}] {} pings answered, {} lost, longest gap {} ms", self.cluster.name(), loss.answered, loss.lost, loss.gap.as_millis());
        loss
    }
}

/// Reads what busybox's ping prints: `64 bytes from fd00::1: seq=3 ttl=64 time=0.412 ms`.
fn loss(text: &str) -> Loss {
    let mut loss = Loss::default();
    let mut next = 0;
    for word in text.split_whitespace().filter_map(|word| word.strip_prefix("seq=")) {
        let Ok(seq) = word.parse::<u32>() else { continue };
        // Duplicates, and answers that overtook each other, change nothing.
        if seq < next {
            continue;
        }
        let missing = seq - next;
        loss.answered += 1;
        loss.lost += missing;
        if missing > 0 {
            loss.gap = loss.gap.max(PING_EVERY * (missing + 1));
        }
        next = seq + 1;
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ping_prints_is_counted() {
        let lines = [0, 1, 4, 5].map(|seq| format!("64 bytes from fd00::1: seq={seq} ttl=64 time=0.4 ms\n")).concat();
        let loss = loss(&lines);
        assert_eq!((loss.answered, loss.lost, loss.gap), (4, 2, Duration::from_millis(300)));
    }
}
