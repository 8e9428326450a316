//! A node in namespaces: the agent in a network of its own, as in a pod; the test is the kubelet, in the node's; pods are processes without any
//! right, in networks of their own, that have their volume's directory mounted read-only as a kubelet mounts it.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use campfire_api::names::{NODE_DRIVER, NODE_SOCKET};
use campfire_api::node::{Grant, GrantKey, Request};
use campfire_lab::net::skipped;
use campfire_lab::{Namespace, Net, Process};
use campfire_node::csi::{
    Access, MountVolume, NodeInfo, NodePublishVolumeRequest, NodeUnpublishVolumeRequest, Nothing, RegistrationInfo, RegistrationStatus,
    VolumeCapability,
};
use campfire_node::probe::Client;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::Status;

/// Any user: 65532 as many images have it.
pub const USER: u32 = 65_532;
/// What makes the test program a pod's sidecar: its socket.
pub const SIDECAR: &str = "CAMPFIRE_TEST_SIDECAR";
/// Where a pod has its volume.
const MOUNTED: &str = "/mnt";

pub struct Node {
    pub net: Net,
    pub kubelet: PathBuf,
    pub key: GrantKey,
    own: Namespace,
    agent: Option<Process>,
    runtime: Runtime,
}

impl Node {
    /// With an agent that is registered; `None`: this machine cannot.
    pub fn new(name: &str) -> Option<Self> {
        let mut node = Self::bare(name)?;
        node.start();
        node.register();
        Some(node)
    }

    /// Without an agent.
    pub fn bare(name: &str) -> Option<Self> {
        if skipped() {
            return None;
        }
        let net = Net::new(name).unwrap();
        let kubelet = net.state().join("kubelet");
        for folder in ["plugins", "plugins_registry", "pods"] {
            fs::create_dir_all(kubelet.join(folder)).unwrap();
        }
        let own = net.namespace("agent").unwrap();
        let key = GrantKey::from_seed(&[7; 32]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let node = Self { net, kubelet, key, own, agent: None, runtime };
        node.write_key(&node.key.public().to_string());
        Some(node)
    }

    fn key_file(&self) -> PathBuf {
        self.net.state().join("public-key")
    }

    /// As the ConfigMap's volume changes.
    pub fn write_key(&self, text: &str) {
        fs::write(self.key_file(), text).unwrap();
    }

    pub fn start(&mut self) {
        let mut command = self.own.command(env!("CARGO_BIN_EXE_campfire-node"));
        command.args(["run", "--node-name", "node-1", "--log", "debug", "--kubelet-dir"]).arg(&self.kubelet);
        command.arg("--key-file").arg(self.key_file());
        let log = fs::OpenOptions::new().create(true).append(true).open(self.net.state().join("log")).unwrap();
        self.agent = Some(Process::start(command.stderr(log)).unwrap());
        let socket = self.kubelet.join("plugins_registry").join(format!("{NODE_DRIVER}-reg.sock"));
        wait_for("the agent", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    }

    /// Ends it as the kernel does, without a word.
    pub fn kill(&mut self) {
        self.agent = None;
    }

    pub fn agent(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.net.state().join("log")).unwrap()
    }

    fn ask<Q, A>(&self, socket: &Path, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        // As the kubelet: a connection for each call.
        self.runtime.block_on(async { Client::connect(socket).await.unwrap().call(method, request).await })
    }

    /// As the kubelet's plugin watcher does.
    pub fn register(&self) {
        let socket = self.kubelet.join("plugins_registry").join(format!("{NODE_DRIVER}-reg.sock"));
        let info: RegistrationInfo = self.ask(&socket, "/pluginregistration.Registration/GetInfo", Nothing {}).unwrap();
        assert_eq!(
            (info.kind.as_str(), info.name.as_str(), info.supported_versions.as_slice()),
            ("CSIPlugin", NODE_DRIVER, &["1.0.0".to_owned()][..])
        );
        assert_eq!(Path::new(&info.endpoint), self.driver());
        let node: NodeInfo = self.ask(&self.driver(), "/csi.v1.Node/NodeGetInfo", Nothing {}).unwrap();
        assert_eq!(node.node_id, "node-1");
        let taken = RegistrationStatus { plugin_registered: true, error: String::new() };
        let _: Nothing = self.ask(&socket, "/pluginregistration.Registration/NotifyRegistrationStatus", taken).unwrap();
    }

    pub fn driver(&self) -> PathBuf {
        self.kubelet.join("plugins").join(NODE_DRIVER).join("csi.sock")
    }

    pub fn target(&self, uid: &str, volume: &str) -> PathBuf {
        self.kubelet.join("pods").join(uid).join("volumes/kubernetes.io~csi").join(volume).join("mount")
    }

    pub fn record(&self, uid: &str) -> PathBuf {
        self.kubelet.join("plugins").join(NODE_DRIVER).join("pods").join(uid)
    }

    /// What a kubelet asks for.
    pub fn request(&self, uid: &str, volume: &str) -> NodePublishVolumeRequest {
        let said =
            [("pod.name", "web"), ("pod.namespace", "shop"), ("pod.uid", uid), ("serviceAccount.name", "default"), ("ephemeral", "true")];
        let mount = MountVolume { fs_type: String::new(), mount_flags: Vec::new() };
        NodePublishVolumeRequest {
            volume_id: format!("csi-{uid}-{volume}"),
            target_path: self.target(uid, volume).to_str().unwrap().into(),
            volume_capability: Some(VolumeCapability { access: Some(Access::Mount(mount)) }),
            readonly: true,
            volume_context: said.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value.to_owned())).into(),
            ..NodePublishVolumeRequest::default()
        }
    }

    pub fn publish_as(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.ask(&self.driver(), "/csi.v1.Node/NodePublishVolume", request).map(|Nothing {}| ())
    }

    pub fn publish(&self, uid: &str) {
        // The kubelet makes the directory around it.
        fs::create_dir_all(self.target(uid, "campfire-node").parent().unwrap()).unwrap();
        self.publish_as(self.request(uid, "campfire-node")).unwrap();
    }

    pub fn unpublish(&self, uid: &str, volume: &str) -> Result<(), Status> {
        let NodePublishVolumeRequest { volume_id, target_path, .. } = self.request(uid, volume);
        let request = NodeUnpublishVolumeRequest { volume_id, target_path };
        self.ask(&self.driver(), "/csi.v1.Node/NodeUnpublishVolume", request).map(|Nothing {}| ())
    }

    /// A pod with its volume, in a network of its own.
    pub fn pod(&self, name: &str) -> Pod {
        let namespace = self.net.namespace(name).unwrap();
        let uid = format!("0c5d6a0e-43a5-4b0c-9d7c-{name:0>12}");
        self.publish(&uid);
        let sidecar = Sidecar::start(namespace.command("sh"), &self.target(&uid, "campfire-node"));
        Pod { uid, namespace, sidecar }
    }

    /// A sidecar of a pod that has the node's network.
    pub fn on_the_node(&self, uid: &str) -> Sidecar {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh"]);
        Sidecar::start(command, &self.target(uid, "campfire-node"))
    }

    /// A sidecar, of a pod, that has the agent's own network.
    pub fn beside_the_agent(&self, uid: &str) -> Sidecar {
        Sidecar::start(self.own.command("sh"), &self.target(uid, "campfire-node"))
    }

    /// The bytes of a request with this grant, for the device.
    pub fn wants(&self, grant: &Grant) -> Vec<u8> {
        let outside = vec!["10.77.0.10".parse().unwrap()];
        Request { device: true, grant: grant.sign(&self.key).unwrap(), outside }.encode().unwrap()
    }
}

/// What an operator would grant a pod.
pub fn grant_of(uid: &str) -> Grant {
    Grant {
        pod_uid: uid.to_owned(),
        mtu: 1400,
        addresses: vec!["fd01:203:405::7/48".parse().unwrap(), "100.80.0.7/16".parse().unwrap()],
        routes: vec!["10.77.0.0/16".parse().unwrap(), "fd77::/64".parse().unwrap()],
    }
}

pub struct Pod {
    pub uid: String,
    pub namespace: Namespace,
    pub sidecar: Sidecar,
}

impl Pod {
    /// Another process of the same pod.
    pub fn other(&self, node: &Node) -> Sidecar {
        Sidecar::start(self.namespace.command("sh"), &node.target(&self.uid, "campfire-node"))
    }

    pub fn shows(&self, words: &[&str]) -> String {
        self.namespace.output("ip", words).unwrap()
    }
}

/// A process in a pod, and what it says.
pub struct Sidecar {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Sidecar {
    /// Mounts the volume, drops all rights, and becomes this very program.
    fn start(mut command: Command, volume: &Path) -> Self {
        let script = "mount --bind \"$0\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
        command.args(["-c", script]).arg(volume).arg(MOUNTED).args(["setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}")]);
        command.args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]);
        command.arg(std::env::current_exe().unwrap()).args(["--exact", "the_sidecar_of_a_pod", "--nocapture"]);
        command.env(SIDECAR, Path::new(MOUNTED).join(NODE_SOCKET)).env("RUST_TEST_THREADS", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// Tells it to do something; what it says.
    pub fn tell(&mut self, words: &str) -> String {
        self.order(words);
        self.said()
    }

    pub fn order(&mut self, words: &str) {
        writeln!(self.input, "{words}").unwrap();
    }

    pub fn said(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the sidecar has ended");
            // The test harness says things of its own, in front of ours too.
            if let Some((_, said)) = line.split_once("SAYS ") {
                return said.trim_end().to_owned();
            }
        }
    }

    /// Shows these bytes to the agent; what comes of it.
    pub fn ask(&mut self, request: &[u8]) -> String {
        self.tell(&format!("ask {}", hex(request)))
    }

    /// As [`Self::ask`], a little later if it asked too soon.
    pub fn ask_again(&mut self, request: &[u8]) -> String {
        std::thread::sleep(Duration::from_millis(1_050));
        self.ask(request)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited 20 s for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
