//! Real Kubernetes clusters for user stories: `kind-tests/cluster` makes them, this crate talks to them.
//!
//! A story is one test. It asks for [`Cluster::one`] (shared by all stories) or also [`Cluster::two`] (on a docker network of its own),
//! works in a [`Cluster::namespace`] of its own, and waits with [`Cluster::wait_for`], which says what it waits for and, when that does not
//! come, prints the pods, events and logs. Whoever cannot make clusters sees `SKIPPED: reason`.
#![allow(clippy::print_stdout)]
#![forbid(unsafe_code)]

pub mod mesh;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The image that stories' own pods run: a static busybox.
pub const TEST_APP: &str = "localhost/campfire-test-app:1";

/// The first of the second cluster's NodePorts, all of which are published on its host.
pub const NODE_PORT_OF_TWO: u16 = 30410;

/// The operator's namespace.
pub const SYSTEM: &str = "campfire-system";

/// What the chart defines.
pub const CRDS: [&str; 2] = ["campfires.campfire.network", "meshpeers.campfire.network"];

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    name: &'static str,
    /// What stands before each command: a story runs hundreds, and one by `kind-tests/cluster run` takes as long as three by themselves.
    prefix: Vec<String>,
    operator: OnceLock<()>,
}

/// The namespaces in which stories have Campfires: the operator has rights in these alone.
const WITH_CAMPFIRES: [&str; 10] = ["mesh", "job", "join", "lifecycle", "outages", "node", "nodes", "plugin", "attack", "soak"];

static ONE: OnceLock<Option<Cluster>> = OnceLock::new();
static TWO: OnceLock<Option<Cluster>> = OnceLock::new();

impl Cluster {
    /// The cluster that all stories share. `None`, and a line that says why, where clusters cannot be made.
    pub fn one() -> Option<&'static Self> {
        // Two servers behind load balancers of their own take eight, and the quickstart two.
        ONE.get_or_init(|| Self::start("one", &["--node-ports", "30396-30409"])).as_ref()
    }

    /// A second one, which shares nothing with the first but the machine: a docker network of its own, the same pod and service addresses.
    pub fn two() -> Option<&'static Self> {
        let ports = format!("{NODE_PORT_OF_TWO}-{}", NODE_PORT_OF_TWO + 7);
        TWO.get_or_init(|| Self::start("two", &["--network", "campfire-two", "--node-ports", &ports])).as_ref()
    }

    fn start(name: &'static str, options: &[&str]) -> Option<Self> {
        if let Some(reason) = cannot() {
            println!("SKIPPED: {reason}");
            return None;
        }
        let mut command = Command::new(script());
        // Its progress lines go past the test runner's capture: making a cluster for the first time takes half an hour.
        let status = command.arg("up").arg(name).args(options).stdin(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "kind-tests/cluster up {name} failed: its output is above");
        let prefix = Command::new(script()).args(["prefix", name]).stdin(Stdio::null()).output();
        let prefix = prefix.unwrap_or_else(|error| panic!("kind-tests/cluster prefix {name}: {error}"));
        assert!(prefix.status.success(), "kind-tests/cluster prefix {name}: {}", String::from_utf8_lossy(&prefix.stderr));
        let prefix = String::from_utf8_lossy(&prefix.stdout).lines().map(str::to_owned).collect();
        let cluster = Self { name, prefix, operator: OnceLock::new() };
        let app = image("campfire-test-app");
        let made = Command::new(root().join("kind-tests/offline/test-app")).arg(&app).stdin(Stdio::null()).status();
        assert!(made.is_ok_and(|status| status.success()), "kind-tests/offline/test-app failed: its output is above");
        cluster.load(&app);
        Some(cluster)
    }

    /// Brings the operator in by its chart, once a run, and returns the story's namespace, emptied of what an earlier run left. The
    /// namespace must be one of those that the operator has rights in.
    pub fn with_operator(&self, namespace: &'static str) -> &'static str {
        assert!(WITH_CAMPFIRES.contains(&namespace), "add {namespace} to WITH_CAMPFIRES: the chart gives the operator its rights there");
        self.operator.get_or_init(|| self.install());
        for kinds in ["deployments,statefulsets,jobs,pods", "campfires,meshpeers", "secrets"] {
            self.kubectl(&["delete", "-n", namespace, kinds, "--all", "--wait", "--timeout=90s"]);
        }
        namespace
    }

    /// Brings the operator in again, after a story took it away.
    pub fn reinstall(&self) {
        self.install();
    }

    /// Loads the images that `make images` made.
    pub fn load_images(&self) {
        self.load_all(&["campfire-operator", "campfire", "campfire-turn"].map(image));
    }

    /// Takes the chart, its CRDs, all Campfires and its namespace away, whatever there is of them.
    pub fn uninstall(&self) {
        if self.helm(&["list", "-n", SYSTEM, "-q"]).contains("campfire") {
            self.helm(&["uninstall", "campfire", "-n", SYSTEM, "--wait", "--timeout", "120s"]);
        }
        self.kubectl(&["delete", "crd", CRDS[0], CRDS[1], "--ignore-not-found", "--timeout=60s"]);
        self.kubectl(&["delete", "namespace", SYSTEM, "--ignore-not-found", "--timeout=60s"]);
    }

    fn install(&self) {
        self.load_images();
        for namespace in WITH_CAMPFIRES {
            if self.try_kubectl(&["get", "namespace", namespace]).is_err() {
                self.kubectl(&["create", "namespace", namespace]);
            }
        }
        let chart = root().join("charts/campfire");
        let namespaces = format!("campfireNamespaces={{{}}}", WITH_CAMPFIRES.join(","));
        let cluster = format!("clusterName={}", self.name);
        // A story does not wait ten minutes for it.
        let linger = "remotePeers.lingerSeconds=10";
        let args = ["upgrade", "--install", "campfire", &chart.to_string_lossy(), "-n", SYSTEM, "--create-namespace"];
        println!("[{}] installing the chart", self.name);
        self.helm(&[&args[..], &["--set", &namespaces, "--set", &cluster, "--set", linger]].concat());
        // The tag stays the same while what is in it changes.
        self.kubectl(&["rollout", "restart", "-n", SYSTEM, "deployment", "-l", "app.kubernetes.io/name=campfire-operator"]);
        let rolled_out = || self.try_kubectl(&["rollout", "status", "-n", SYSTEM, "deployment", "--timeout=5s"]).ok();
        self.wait_for("the operator to be ready", SYSTEM, Duration::from_mins(2), rolled_out);
    }

    /// Its name for `kind-tests/cluster run`.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Loads an image archive into its nodes, unless it is there.
    pub fn load(&self, archive: &Path) {
        self.load_all(&[archive.to_owned()]);
    }

    fn load_all(&self, archives: &[PathBuf]) {
        let output = Command::new(script()).arg("load").arg(self.name).args(archives).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("kind-tests/cluster load: {error}"));
        assert!(output.status.success(), "loading {archives:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// `kubectl ARGS`: its standard output, or its complaint.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.run("kubectl", args, None)
    }

    /// `kubectl ARGS`, which has to work.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|error| panic!("kubectl {}: {error}", args.join(" ")))
    }

    /// `helm ARGS`, which has to work.
    pub fn helm(&self, args: &[&str]) -> String {
        self.try_helm(args).unwrap_or_else(|error| panic!("helm {}: {error}", args.join(" ")))
    }

    /// The same, where it need not.
    pub fn try_helm(&self, args: &[&str]) -> Result<String, String> {
        self.run("helm", args, None)
    }

    /// An object as JSON; `None` when it is not there (or cannot be read: then the wait that asks says so in the end).
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        let text = self.try_kubectl(&["get", "-n", namespace, kind, name, "-o", "json"]).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// All objects of a kind in a namespace, as JSON.
    pub fn list(&self, namespace: &str, kind: &str, selector: &str) -> Vec<Value> {
        let text = self.kubectl(&["get", "-n", namespace, kind, "-l", selector, "-o", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("kubectl get {kind}: {error}: {text}"));
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Applies manifests (YAML), in `namespace` where they name none.
    pub fn apply(&self, namespace: &str, manifests: &str) {
        let applied = self.try_apply(namespace, manifests);
        applied.unwrap_or_else(|error| panic!("kubectl apply: {error}\n{manifests}"));
    }

    /// The same, where being refused is the point.
    pub fn try_apply(&self, namespace: &str, manifests: &str) -> Result<String, String> {
        self.run("kubectl", &["apply", "-n", namespace, "-f", "-"], Some(manifests))
    }

    /// Runs a shell line in a container of a pod: its standard output, or what it complained about.
    pub fn exec(&self, namespace: &str, pod: &str, container: &str, line: &[&str]) -> Result<String, String> {
        let mut args = vec!["exec", "-n", namespace, pod, "-c", container, "--"];
        args.extend_from_slice(line);
        self.try_kubectl(&args)
    }

    /// Runs a line of bash as a person would who talks to this cluster, in the checkout. `more`: environment.
    pub fn bash(&self, line: &str, more: &[(&str, &str)]) -> Result<String, String> {
        let variables: Vec<String> = more.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut args: Vec<&str> = variables.iter().map(String::as_str).collect();
        args.extend(["bash", "-euo", "pipefail", "-c", line]);
        self.run("env", &args, None)
    }

    /// What a container of a pod has logged.
    pub fn logs(&self, namespace: &str, pod: &str, container: &str) -> String {
        self.try_kubectl(&["logs", "-n", namespace, pod, "-c", container]).unwrap_or_else(|error| error)
    }

    /// An empty namespace of this name: one that an earlier run left is deleted first.
    pub fn namespace(&self, name: &str) {
        if self.try_kubectl(&["get", "namespace", name]).is_ok() {
            println!("waiting for namespace {name} of an earlier run to be deleted");
            self.kubectl(&["delete", "namespace", name, "--wait", "--timeout=120s"]);
        }
        self.kubectl(&["create", "namespace", name]);
        self.wait_for(&format!("the default ServiceAccount of namespace {name}"), name, Duration::from_secs(30), || {
            self.get(name, "serviceaccount", "default")
        });
    }

    /// Waits until the pod is ready and returns it.
    pub fn ready(&self, namespace: &str, pod: &str) -> Value {
        self.wait_for(&format!("pod {namespace}/{pod} to be ready"), namespace, Duration::from_mins(1), || {
            self.get(namespace, "pod", pod).filter(is_ready)
        })
    }

    /// Asks four times a second until there is an answer. Says what it waits for; when `timeout` is over, prints what stands in `namespace`
    /// and panics.
    pub fn wait_for<T>(&self, what: &str, namespace: &str, timeout: Duration, mut asked: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        println!("[{}] waiting for {what}", self.name);
        loop {
            if let Some(answer) = asked() {
                println!("[{}]   after {:.1} s", self.name, start.elapsed().as_secs_f64());
                return answer;
            }
            if start.elapsed() > timeout {
                for cluster in [&ONE, &TWO].into_iter().filter_map(|cluster| cluster.get()?.as_ref()) {
                    println!("{}", cluster.state_of(namespace));
                }
                panic!("[{}] not within {} s: {what} (its state is above)", self.name, timeout.as_secs());
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// What a person would look at: objects, events and the ends of the logs of a namespace, and of the operator.
    pub fn state_of(&self, namespace: &str) -> String {
        let mut all = format!("===== cluster {}, namespace {namespace} =====\n", self.name);
        let mut show = |args: &[&str]| {
            let output = self.try_kubectl(args).unwrap_or_else(|error| error);
            all.push_str(&["--- kubectl ", &args.join(" "), "\n", &output, "\n"].concat());
        };
        show(&["get", "nodes,pods", "-A", "-o", "wide"]);
        show(&["get", "-n", namespace, "all,campfires,meshpeers", "-o", "wide"]);
        show(&["get", "-n", namespace, "campfires", "-o", "yaml"]);
        show(&["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=campfire-operator", "--prefix", "--tail=60"]);
        show(&["get", "-n", namespace, "events", "--sort-by=.lastTimestamp"]);
        let pods = self.try_kubectl(&["get", "-n", namespace, "pods", "-o", "name"]).unwrap_or_default();
        for pod in pods.lines().take(10) {
            show(&["describe", "-n", namespace, pod]);
            show(&["logs", "-n", namespace, pod, "--all-containers", "--prefix", "--tail=30"]);
            show(&["exec", "-n", namespace, pod, "-c", "campfire", "--", "/campfire", "status"]);
        }
        all
    }

    /// The address at which this cluster's pods reach what another publishes: the gateway of their own network (answers to UDP that was sent to
    /// any other address of the host would come from this one).
    pub fn gateway(&self) -> String {
        let node = self.node();
        let format = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";
        self.docker(&["inspect", "--format", format, &node]).trim().to_owned()
    }

    /// Runs a shell line on the cluster's node.
    pub fn on_node(&self, line: &str) -> String {
        self.docker(&["exec", &self.node(), "sh", "-c", line])
    }

    /// Restarts its node, with all that runs on it.
    pub fn restart_node(&self) {
        self.docker(&["restart", "-t", "5", &self.node()]);
    }

    /// Stops its node, with all that runs on it, and starts it again after a while.
    pub fn stop_and_start(&self, away: Duration) {
        self.docker(&["stop", "-t", "10", &self.node()]);
        std::thread::sleep(away);
        self.docker(&["start", &self.node()]);
    }

    /// `docker ARGS`, which has to work.
    fn docker(&self, args: &[&str]) -> String {
        self.run("docker", args, None).unwrap_or_else(|error| panic!("docker {}: {error}", args.join(" ")))
    }

    fn node(&self) -> String {
        format!("campfire-{}-control-plane", self.name)
    }

    /// A node's address on its docker network.
    pub fn node_address(&self) -> String {
        self.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}"])
    }

    fn run(&self, program: &str, args: &[&str], input: Option<&str>) -> Result<String, String> {
        let (first, words) = self.prefix.split_first().expect("kind-tests/cluster prefix prints at least one word");
        let mut command = Command::new(first);
        command.args(words).arg(program).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).map_err(|error| error.to_string())?;
        }
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    }
}

/// Whether a pod says that it is ready.
pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

/// A condition of an object's status.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// The archive of an image that `make images` (or this crate) makes.
pub fn image(name: &str) -> PathBuf {
    root().join("target/images").join(format!("{name}.tar"))
}

/// The checkout.
pub fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

fn script() -> PathBuf {
    root().join("kind-tests/cluster")
}

fn cannot() -> Option<&'static str> {
    if std::env::var("CAMPFIRE_TEST_ROOT").is_ok_and(|value| value == "no") {
        return Some("clusters are left out of the fast tests");
    }
    let ordinary = || Command::new("docker").arg("info").output().is_ok_and(|output| output.status.success());
    let root = || std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t0\t"));
    (!root() && !ordinary()).then_some("clusters need docker, or root to make one")
}
