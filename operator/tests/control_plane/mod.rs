//! A bare control plane: etcd and an API server on this machine's loopback, nothing that runs pods. Ready in about three seconds.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use campfire_api::{Campfire, MeshPeer};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

const TOKEN: &str = "admin-of-a-test";

/// Ends with it.
pub struct ControlPlane {
    pub client: Client,
    servers: Vec<Child>,
    dir: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl ControlPlane {
    /// Starts one; says why and returns `None` where there are no binaries (`CAMPFIRE_KUBERNETES_BIN`, or where the cluster tests
    /// keep theirs).
    #[allow(dead_code, reason = "one test starts it in another way")]
    pub async fn start() -> Option<Self> {
        Self::begin(None, "10.91.0.0/16").await
    }

    /// The same, whose Services may have addresses of both families.
    #[allow(dead_code, reason = "one test has one")]
    pub async fn dual_stack() -> Option<Self> {
        Self::begin(None, "10.91.0.0/16,fd91::/112").await
    }

    /// The same, with this AdmissionConfiguration (YAML).
    #[allow(dead_code, reason = "one test has one")]
    pub async fn with_admission(configuration: Option<&str>) -> Option<Self> {
        Self::begin(configuration, "10.91.0.0/16").await
    }

    async fn begin(configuration: Option<&str>, services: &str) -> Option<Self> {
        let Some(bin) = binaries() else {
            println!("SKIPPED: no etcd and kube-apiserver: run `make test` once, or say where they are in CAMPFIRE_KUBERNETES_BIN");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let [client_port, peer_port, api_port] = ports();
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(at("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(at("sa.pub"), key.public_key_pem()).unwrap();
        std::fs::write(at("tokens"), format!("{TOKEN},admin,1,system:masters\n")).unwrap();
        let etcd = format!("http://127.0.0.1:{client_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let file = |flag: &str, name: &str| format!("--{flag}={}", at(name).display());
        let mut servers = vec![serve(
            &bin.join("etcd"),
            &at("etcd.log"),
            &[
                file("data-dir", "etcd"),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
                "--unsafe-no-fsync".into(),
            ],
        )];
        let mut flags = vec![
            format!("--etcd-servers={etcd}"),
            format!("--secure-port={api_port}"),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=192.0.2.1".into(),
            file("cert-dir", "certs"),
            file("token-auth-file", "tokens"),
            file("service-account-key-file", "sa.pub"),
            file("service-account-signing-key-file", "sa.key"),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-cluster-ip-range={services}"),
            "--authorization-mode=Node,RBAC".into(),
        ];
        if let Some(configuration) = configuration {
            std::fs::write(at("admission.yaml"), configuration).unwrap();
            flags.push(file("admission-control-config-file", "admission.yaml"));
        }
        servers.push(serve(&bin.join("kube-apiserver"), &at("api.log"), &flags));
        let kubeconfig = at("kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_of(api_port).to_string()).unwrap();
        let plane = Self { client: client(api_port).await, servers, dir, kubeconfig };
        let namespaces = Api::<Namespace>::all(plane.client.clone());
        let started = Instant::now();
        while namespaces.get("default").await.is_err() {
            let log = || std::fs::read_to_string(plane.dir.path().join("api.log")).unwrap_or_default();
            assert!(started.elapsed() < Duration::from_mins(2), "the API server does not start:\n{}", log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Some(plane)
    }

    /// File by which a program gets at it.
    #[allow(dead_code, reason = "not every test runs a program")]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for server in self.servers.iter_mut().rev() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Ends with this thread, should the test be killed.
fn serve(program: &Path, log: &Path, flags: &[String]) -> Child {
    let log = std::fs::File::create(log).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(flags);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Ports that are free now.
fn ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Another of Kubernetes' programs, where it is beside them.
#[allow(dead_code, reason = "not every test runs a program")]
pub fn program(name: &str) -> Option<PathBuf> {
    binaries().map(|dir| dir.join(name)).filter(|path| path.is_file())
}

fn binaries() -> Option<PathBuf> {
    let complete = |dir: &PathBuf| dir.join("etcd").is_file() && dir.join("kube-apiserver").is_file();
    if let Some(dir) = std::env::var_os("CAMPFIRE_KUBERNETES_BIN") {
        return Some(PathBuf::from(dir)).filter(complete);
    }
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = set("CAMPFIRE_KIND_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("campfire/kind-tests")))?;
    std::fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path()).find(complete)
}

/// As an admin, over a certificate that nobody signed.
async fn client(port: u16) -> Client {
    let config: Kubeconfig = serde_json::from_value(kubeconfig_of(port)).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap()).unwrap()
}

fn kubeconfig_of(port: u16) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{ "name": "test", "cluster": { "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true } }],
        "users": [{ "name": "admin", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin" } }],
        "current-context": "test",
    })
}

/// Applies our definitions; back when they are served.
#[allow(dead_code, reason = "one test defines others")]
pub async fn define(client: &Client) {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for definition in campfire_api::definitions() {
        apply(&definitions, &definition.name_any(), &definition).await;
    }
    let one = ListParams::default().limit(1);
    let (campfires, peers) = (Api::<Campfire>::all(client.clone()), Api::<MeshPeer>::all(client.clone()));
    let started = Instant::now();
    while campfires.list(&one).await.is_err() || peers.list(&one).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(30), "the definitions are not served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Applies an object, as `kubectl apply --server-side` does.
#[allow(dead_code, reason = "not all tests that share this file use it")]
pub async fn apply<K>(api: &Api<K>, name: &str, object: &(impl Serialize + std::fmt::Debug))
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    // A definition that was made this moment takes another to be served.
    for last in [false, false, false, true] {
        match api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await {
            Err(kube::Error::Api(status)) if status.code == 404 && !last => tokio::time::sleep(Duration::from_secs(1)).await,
            applied => return drop(applied.unwrap()),
        }
    }
}
