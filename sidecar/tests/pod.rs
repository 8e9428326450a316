//! A peer in a pod, without a cluster: the real programs with a pod's rights, and an agent API made here that answers over real
//! TLS. The test runs itself again in a network namespace of its own, where that agent and a TURN server listen on loopback.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{GrantRequest, Granted, Key, KeyMode, ProblemReason, Report, ServerEntry, Settings, SettingsRequest};
use campfire_api::names::{CA_PIN, NODE_SOCKET};
use campfire_api::node::{self, Grant, GrantKey, MAX_MESSAGE, Reason, Refusal};
use campfire_interface::Interface;
use campfire_lab::{Net, Process};
use campfire_protocol::identity::{NetworkId, PublicKey, ipv4_in_pool};
use campfire_protocol::key::Psk;
use campfire_sys::local;
use campfire_sys::tun::Tun;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ipnet::{IpNet, Ipv4Net};
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const NEXT: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8";
const INSIDE: &str = "CAMPFIRE_POD_TEST_INSIDE";
const NO_RIGHTS: [&str; 5] = ["--reuid=51820", "--regid=51820", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];

#[test]
fn a_pods_containers_make_a_mesh_with_no_more_rights_than_they_have_in_a_pod() {
    if std::env::var_os(INSIDE).is_none() {
        if campfire_lab::net::skipped() {
            return;
        }
        let net = Net::new("pod").unwrap();
        let status = net
            .namespace("pod")
            .unwrap()
            .command(std::env::current_exe().unwrap())
            .args(["--exact", "a_pods_containers_make_a_mesh_with_no_more_rights_than_they_have_in_a_pod", "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success(), "inside the namespace");
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(inside());
}

#[expect(clippy::too_many_lines, reason = "a story, one thing after the other")]
async fn inside() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let agent = Agent::start(folder).await;
    let secrets = folder.join("secrets");
    fs::create_dir(&secrets).unwrap();
    for key in [KEY, NEXT] {
        let keys = key.parse::<Psk>().unwrap().derive();
        fs::write(secrets.join(keys.fingerprint.to_string()), keys.relay.text()).unwrap();
        fs::set_permissions(secrets.join(keys.fingerprint.to_string()), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let turn = campfire_lab::peer::binary("campfire-turn").unwrap();
    let _turn = Process(
        Command::new(turn)
            .args(["--enable-campfire", "--listen", "127.0.0.1:3478", "--secrets-dir"])
            .arg(&secrets)
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );

    // The init container asks nobody: where no operator answers it is done at once, the app need not wait longer than its timeout, and the
    // sidecar goes on asking for its keys, until the operator is there.
    agent.away();
    let late = Pod::new(folder, "late");
    let begun = Instant::now();
    late.init();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!late.state.join("problem").exists());
    let _late = late.up(&agent.url);
    wait_for("the app that need not wait", || late.ready("Wait", "1s"));
    assert!(!late.ready("Require", "1s"));
    agent.back();

    // What cannot be made keeps no app from starting, and is said.
    let broken = Pod::new(folder, "broken");
    broken.init_with("--bounding-set=-all,+mknod,+chown");
    let problem = fs::read_to_string(broken.state.join("problem")).unwrap();
    assert!(problem.contains("interface pod-broken cannot be made without rights"), "{problem}");
    assert!(broken.ready("Wait", "10m"), "there is nothing to wait for");
    assert!(!broken.ready("Require", "10m"));
    let _broken = broken.up(&agent.url);

    // Another CA than the operator's is told as that, with what to do.
    let stranger = Pod::new(folder, "odd");
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(folder.join("other"), pin(&other.cert)).unwrap();
    stranger.init();
    let _stranger = stranger.up_with(&agent.url, &folder.join("other"));
    let log = || fs::read_to_string(stranger.state.with_extension("log")).unwrap();
    wait_for("a word about the CA", || log().contains("not of the operator's CA as this pod knows it"));

    let (one, two) = (Pod::new(folder, "one"), Pod::new(folder, "two"));
    for pod in [&one, &two] {
        pod.init();
        // Twice is once: a sandbox that was made anew runs it again.
        let identity = fs::read(pod.state.join("identity")).unwrap();
        pod.init();
        assert_eq!(fs::read(pod.state.join("identity")).unwrap(), identity);
        assert_eq!(fs::metadata(pod.state.join("identity")).unwrap().uid(), 51_820);
    }
    let _one = one.up(&agent.url);
    let mut second = two.up(&agent.url);
    for pod in [&one, &two, &late] {
        wait_for("ready", || pod.ready("Require", "1s"));
        assert_eq!(fs::metadata(pod.state.join("settings.json")).unwrap().mode() & 0o007, 0);
    }
    wait_for("peers connected", || [&one, &two, &late].iter().all(|pod| pod.status().matches("\"connected\": true").count() == 2));
    // What the init container made for it, accepted routes too, the sidecar has no right to make and takes as it is.
    assert!(!one.status().contains("\"problems\""), "{}", one.status());
    wait_for("reports", || {
        let reports = agent.reports.lock().unwrap();
        reports.iter().filter(|report| report.ready && report.direct + report.relayed == 2 && report.unconnected == 0).count() >= 3
            && reports.iter().any(|report| report.problems.iter().any(|problem| problem.reason == ProblemReason::InterfaceUnconfigured))
    });

    without_rights(&agent, folder);

    // An app of the same user in a pod whose containers share their processes sees nothing of it.
    let spied = Command::new("setpriv")
        .args(["--reuid=51820", "--regid=51820", "--clear-groups", "--bounding-set=-all", "--no-new-privs"])
        .args(["sh", "-c", "cat /proc/$0/environ || cat /proc/$0/maps || ls /proc/$0/root/ || ls /proc/$0/fd"])
        .arg(second.0.id().to_string())
        .output()
        .unwrap();
    assert!(!spied.status.success() && spied.stdout.is_empty(), "{spied:?}");

    // Rotation, told by the operator: both keys are held, and the session lives.
    agent.say(|settings| settings.keys.insert(0, Key { psk: NEXT.to_owned().into(), mode: KeyMode::Accept }));
    wait_for("both keys held", || [&one, &two].iter().all(|pod| pod.status().matches(&fingerprint(NEXT)).count() >= 1));
    wait_for("peers connected under both keys", || one.status().contains("\"connected\": true"));

    // A network that changes later is another pod's: this one says so, and goes on with what its interface has.
    agent.say(|settings| settings.ipv4_pool = Some("100.90.0.0/16".into()));
    let status: serde_json::Value = serde_json::from_str(&one.status()).unwrap();
    let says = |reason: &ProblemReason, part: &str| {
        let reports = agent.reports.lock().unwrap();
        let last = reports.iter().rev().find(|report| status["self"]["identity"] == report.identity.as_str()).cloned().unwrap_or_default();
        last.problems.iter().any(|problem| problem.reason == *reason && problem.message.contains(part))
    };
    wait_for("a report of older settings", || {
        says(&ProblemReason::SettingsOutdated, "make the pod anew: its interface was made with IPv4 pool 100.80.0.0/16 (now 100.90.0.0/16)")
    });
    // What is done to its interface it has no right to undo, and says.
    let set = |to: &str| assert!(Command::new("ip").args(["link", "set", "pod-one", to]).status().unwrap().success());
    set("down");
    wait_for("a report of the interface", || says(&ProblemReason::InterfaceChanged, "cannot be set up: that needs root"));
    assert!(one.status().contains("cannot be set up"), "{}", one.status());
    set("up");

    // The operator goes away; a sidecar that restarts comes back from what it kept.
    agent.away();
    second.0.kill().unwrap();
    second.0.wait().unwrap();
    let _second = two.up(&agent.url);
    wait_for("the restarted one, without an operator", || two.ready("Require", "1s") && two.status().contains("\"connected\": true"));
    assert!(two.status().contains(&fingerprint(NEXT)), "the newest settings were kept");
    assert!(two.status().contains("its interface was made with IPv4 pool 100.80.0.0/16"), "{}", two.status());
    for pod in [&one, &two, &late] {
        let log = fs::read_to_string(pod.state.with_extension("log")).unwrap();
        for secret in [KEY, NEXT, "a-token-of-this-pod"] {
            assert!(!log.contains(secret), "{}: a secret in the log", pod.name);
        }
    }
}

/// A pod whose containers have no right at all, and whose device this test opens as its node's agent does.
fn without_rights(agent: &Agent, folder: &Path) {
    let (bare, node) = (Pod::new(folder, "bare"), folder.join("node"));
    fs::create_dir(&node).unwrap();
    let mut sidecar = bare.up_by_node(&agent.url, &node);
    wait_for("a word about the agent", || {
        bare.complaint().contains("waits for its interface") && bare.complaint().contains("the node's agent does not answer")
    });
    wait_for("the app that need not wait", || bare.ready("Wait", "1s"));
    assert!(!bare.ready("Require", "1s"));
    assert_eq!(*agent.grants.lock().unwrap(), 1);

    // A grant that the agent does not take is asked for anew.
    let refused = serve_devices(&node, &bare);
    wait_for("ready", || bare.ready("Require", "1s"));
    assert!(refused.load(Ordering::Relaxed));
    assert_eq!(*agent.grants.lock().unwrap(), 2);
    wait_for("peers connected", || bare.status().matches("\"connected\": true").count() == 3);
    assert!(!bare.status().contains("\"problems\""), "{}", bare.status());

    // It needs no operator to come back.
    agent.away();
    sidecar.0.kill().unwrap();
    sidecar.0.wait().unwrap();
    let _sidecar = bare.up_by_node(&agent.url, &node);
    wait_for("the restarted one, without an operator", || bare.ready("Require", "1s") && bare.status().contains("\"connected\": true"));
    assert_eq!(*agent.grants.lock().unwrap(), 2);
    agent.back();
    assert!(!fs::read_to_string(bare.state.with_extension("log")).unwrap().contains(KEY));
}

/// Answers as a node's agent: refuses once, and from then on sends the device.
fn serve_devices(node: &Path, pod: &Pod) -> Arc<AtomicBool> {
    let socket = node.join(NODE_SOCKET);
    let listener = UnixListener::from(local::listen(&socket, 4).unwrap());
    listener.set_nonblocking(false).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let (name, refused) = (format!("pod-{}", pod.name), Arc::new(AtomicBool::new(false)));
    let once = refused.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let connection = connection.unwrap();
            let mut packet = vec![0; MAX_MESSAGE];
            let Ok(length) = local::receive(&connection, &mut packet) else { continue };
            let request = node::Request::decode(&packet[..length]).unwrap();
            let grant = Grant::verify(&request.grant, &grant_key().public()).unwrap();
            assert!(request.device && grant.pod_uid == "u" && local::peer_user(&connection).unwrap() == 51_820);
            if once.swap(true, Ordering::Relaxed) {
                let device = made(&name, &grant);
                local::send(&connection, &node::Answer::Made.encode(), Some(device.as_fd())).unwrap();
            } else {
                let refusal = Refusal::new(Reason::BadSignature, "another operator's");
                local::send(&connection, &node::Answer::Refused(refusal).encode(), None).unwrap();
            }
        }
    });
    refused
}

fn made(name: &str, grant: &Grant) -> OwnedFd {
    let node = Path::new("/dev/net/tun");
    Tun::make_persistent(node, name, 51_820).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut interface = Interface::set_up(name, grant.mtu, &grant.addresses).await.unwrap();
        let host = interface.host().await.unwrap();
        interface.sync(&(grant.addresses.iter().copied().collect(), grant.routes.iter().copied().collect()), &host).await;
    });
    Tun::open(node, name, true).unwrap().into()
}

fn grant_key() -> GrantKey {
    GrantKey::from_seed(&[9; 32])
}

/// What the operator grants a peer of this pod.
fn granted(asked: &GrantRequest, pod: &Settings) -> Option<Granted> {
    let peer = signer(&asked.identity, &asked.signature, &asked.statement(&pod.namespace, &pod.name, &pod.uid))?;
    let (network, pool): (NetworkId, Ipv4Net) = (pod.network.parse().ok()?, pod.ipv4_pool.as_ref()?.parse().ok()?);
    let addresses = vec![
        IpNet::new(network.address(&peer).into(), network.prefix().prefix_len()).ok()?,
        IpNet::new(ipv4_in_pool(pool, &peer)?.into(), pool.prefix_len()).ok()?,
    ];
    let grant = Grant {
        pod_uid: pod.uid.clone(),
        mtu: pod.mtu,
        addresses,
        routes: pod.accept_routes.iter().map(|route| route.parse().unwrap()).collect(),
    };
    Some(Granted {
        grant: STANDARD.encode(grant.sign(&grant_key()).ok()?),
        network: pod.network.clone(),
        mtu: pod.mtu,
        ipv4_pool: pod.ipv4_pool.clone(),
        accept_routes: pod.accept_routes.clone(),
    })
}

fn fingerprint(key: &str) -> String {
    key.parse::<Psk>().unwrap().derive().fingerprint.to_string()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(40), "waited 40 s for: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a pod has: a state directory of its own (and here, an interface of its own name).
struct Pod {
    name: &'static str,
    state: PathBuf,
    secrets: PathBuf,
}

impl Pod {
    fn new(folder: &Path, name: &'static str) -> Self {
        let state = folder.join(name);
        fs::create_dir(&state).unwrap();
        // As the kubelet makes an emptyDir.
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        Self { name, state, secrets: folder.to_owned() }
    }

    fn command(&self, rights: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(rights).arg("--no-new-privs").arg("--").arg(env!("CARGO_BIN_EXE_campfire"));
        command.env_clear().env("CAMPFIRE_INTERFACE", format!("pod-{}", self.name)).env("CAMPFIRE_LOG", "trace");
        command.env("CAMPFIRE_STATE_DIR", &self.state).env("CAMPFIRE_RUN_DIR", &self.state);
        command.env("CAMPFIRE_WG_DIR", self.state.join("wireguard"));
        command.env("CAMPFIRE_AGENT_TOKEN_FILE", self.secrets.join("token"));
        command.env("CAMPFIRE_AGENT_CA_FILE", self.secrets.join("ca"));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.state.with_extension("log")).unwrap();
        command.stderr(log);
        command
    }

    fn init(&self) {
        self.init_with("--bounding-set=-all,+net_admin,+mknod,+chown");
    }

    fn init_with(&self, rights: &str) {
        let settings = first_settings();
        let mut command = self.command(&[rights, "--inh-caps=-all"]);
        command.arg("pod-init").env("CAMPFIRE_NETWORK", settings.network).env("CAMPFIRE_MTU", settings.mtu.to_string());
        command.env("CAMPFIRE_IPV4_POOL", settings.ipv4_pool.unwrap()).env("CAMPFIRE_ACCEPT_ROUTE", settings.accept_routes.join(","));
        let status = command.status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(self.state.with_extension("log")).unwrap());
    }

    fn up(&self, agent: &str) -> Process {
        self.up_with(agent, &self.secrets.join("ca"))
    }

    fn up_with(&self, agent: &str, ca: &Path) -> Process {
        let mut command = self.command(&NO_RIGHTS);
        Process(command.args(["up", "--agent", agent]).env("CAMPFIRE_AGENT_CA_FILE", ca).spawn().unwrap())
    }

    /// Without an init container, and with the directory of its node's agent.
    fn up_by_node(&self, agent: &str, node: &Path) -> Process {
        Process(self.command(&NO_RIGHTS).args(["up", "--agent", agent]).env("CAMPFIRE_NODE_DIR", node).spawn().unwrap())
    }

    /// What `status` says where there is none.
    fn complaint(&self) -> String {
        let output =
            self.command(&["--reuid=51820", "--regid=51820", "--clear-groups"]).arg("status").stderr(Stdio::piped()).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    }

    fn ready(&self, policy: &str, timeout: &str) -> bool {
        let output = self.command(&NO_RIGHTS).args(["ready", "--policy", policy, "--timeout", timeout]).output().unwrap();
        output.status.success()
    }

    fn status(&self) -> String {
        let output = self.command(&["--reuid=51820", "--regid=51820", "--clear-groups"]).args(["status", "--json"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// An agent API: one pod's settings for all, no waiting.
struct Agent {
    url: String,
    settings: Arc<Mutex<Option<Settings>>>,
    reports: Arc<Mutex<Vec<Report>>>,
    /// How many grants were given.
    grants: Arc<Mutex<usize>>,
}

impl Agent {
    async fn start(folder: &Path) -> Self {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        fs::write(folder.join("ca"), pin(&ca_certificate)).unwrap();
        fs::write(folder.join("token"), "a-token-of-this-pod\n").unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone(), ca_certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let settings = Arc::new(Mutex::new(Some(first_settings())));
        let reports = Arc::new(Mutex::new(Vec::new()));
        let grants = Arc::new(Mutex::new(0));
        let (held, told, given) = (settings.clone(), reports.clone(), grants.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, held, told, given) = (acceptor.clone(), held.clone(), told.clone(), given.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request| answer(request, held.clone(), told.clone(), given.clone()));
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, settings, reports, grants }
    }

    fn say(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.lock().unwrap();
        let settings = settings.as_mut().unwrap();
        change(settings);
        settings.version.push('+');
    }

    fn back(&self) {
        *self.settings.lock().unwrap() = Some(first_settings());
    }

    fn away(&self) {
        *self.settings.lock().unwrap() = None;
    }
}

async fn answer(
    request: Request<Incoming>,
    held: Arc<Mutex<Option<Settings>>>,
    told: Arc<Mutex<Vec<Report>>>,
    given: Arc<Mutex<usize>>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let plain = |status, body: Vec<u8>| Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap();
    let authorized = request.headers().get("authorization").is_some_and(|value| value == "Bearer a-token-of-this-pod");
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let Some(settings) = held.lock().unwrap().clone().filter(|_| authorized) else {
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, b"{\"message\":\"away\"}".to_vec()));
    };
    if path == campfire_api::agent::REPORT_PATH {
        let report: Report = serde_json::from_slice(&body).unwrap();
        if !own(&report, &settings) {
            return Ok(plain(StatusCode::FORBIDDEN, b"{\"message\":\"not signed\"}".to_vec()));
        }
        told.lock().unwrap().push(report);
        return Ok(plain(StatusCode::NO_CONTENT, Vec::new()));
    }
    if path == campfire_api::agent::GRANT_PATH {
        let granted = granted(&serde_json::from_slice(&body).unwrap(), &settings).unwrap();
        *given.lock().unwrap() += 1;
        return Ok(plain(StatusCode::OK, serde_json::to_vec(&granted).unwrap()));
    }
    let asked: SettingsRequest = serde_json::from_slice(&body).unwrap();
    if asked.have == settings.version {
        tokio::time::sleep(Duration::from_millis(300)).await;
        return Ok(plain(StatusCode::NO_CONTENT, Vec::new()));
    }
    Ok(plain(StatusCode::OK, serde_json::to_vec(&settings).unwrap()))
}

/// By what a pod knows a CA.
fn pin(ca: &Certificate) -> String {
    format!("{CA_PIN}{}", STANDARD.encode(Sha256::digest(ca.der())))
}

/// Whether it is signed by the identity that it names, as this pod's.
fn own(report: &Report, pod: &Settings) -> bool {
    signer(&report.identity, &report.signature, &report.statement(&pod.namespace, &pod.name, &pod.uid)).is_some()
}

fn signer(identity: &str, signature: &str, statement: &[u8]) -> Option<PublicKey> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(identity, &mut bytes).ok()?;
    let signature = STANDARD.decode(signature).ok()?.try_into().ok()?;
    let identity = PublicKey::from_bytes(bytes).ok()?;
    identity.verify(statement, &signature).then_some(identity)
}

fn first_settings() -> Settings {
    Settings {
        version: "1".into(),
        keys: vec![Key { psk: KEY.to_owned().into(), mode: KeyMode::Announce }],
        network: KEY.parse::<Psk>().unwrap().derive().network.to_string(),
        servers: vec![ServerEntry { text: "s=turn:127.0.0.1:3478?transport=udp".into(), in_cluster: true, heard: false }],
        name: "pod".into(),
        namespace: "default".into(),
        uid: "u".into(),
        cluster: "test".into(),
        ipv4_pool: Some("100.80.0.0/16".into()),
        accept_routes: vec!["10.55.0.0/16".into()],
        mtu: 1400,
        direct: true,
        agent_ca: String::new(),
    }
}
