//! HTTP on the control socket (`campfire status` and the others ask it) and, if wanted, on a TCP port for probes and
//! Prometheus.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use campfire_camp::Tls;
use campfire_fire::netcheck::{Netcheck, Targets};
use campfire_http::message::{Answer, of_kind, respond};
use campfire_http::{Counts, Limits, Wire};
use campfire_mesh::ping::Pong;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::metrics::{self, Snapshot};
use crate::netcheck;
use crate::ping;
use crate::pod::init::PROBLEM;
use crate::pod::ready::STARTED;
use crate::pod::{WAITING, WAITING_INTERFACE};
use crate::report::Report;

/// Asks the control loop for its state.
#[derive(Clone, Debug)]
pub struct Asker(pub mpsc::Sender<oneshot::Sender<Snapshot>>);

impl Asker {
    /// `None`: the peer is ending.
    pub async fn ask(&self) -> Option<Snapshot> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(sender).await.ok()?;
        receiver.await.ok()
    }
}

/// Has peers asked whether they answer.
#[derive(Clone, Debug)]
pub struct Pinger(pub mpsc::Sender<PingRequest>);

/// One that is to be asked.
#[derive(Debug)]
pub struct PingRequest {
    /// One of its overlay addresses.
    pub address: IpAddr,
    /// With a packet as large as can be.
    pub full: bool,
    /// Who waits for the answer.
    pub answer: oneshot::Sender<Pong>,
}

impl Pinger {
    /// `None`: no answer came.
    async fn ping(&self, address: IpAddr, full: bool) -> Option<Pong> {
        let (answer, receiver) = oneshot::channel();
        self.0.send(PingRequest { address, full, answer }).await.ok()?;
        tokio::time::timeout(PING_PATIENCE, receiver).await.ok()?.ok()
    }
}

/// Has servers tried: whether they answer, and by what.
#[derive(Clone, Debug)]
pub struct Trier {
    targets: mpsc::Sender<oneshot::Sender<(Targets, Arc<Tls>)>>,
    /// Each opens sockets of its own.
    places: Arc<Semaphore>,
}

impl Trier {
    /// The control loop is asked which.
    pub fn new(targets: mpsc::Sender<oneshot::Sender<(Targets, Arc<Tls>)>>) -> Self {
        Self { targets, places: Arc::new(Semaphore::new(MAX_TRIALS)) }
    }

    async fn run(&self) -> Result<Netcheck> {
        let _place = self.places.acquire().await?;
        let (sender, receiver) = oneshot::channel();
        self.targets.send(sender).await?;
        let (targets, tls) = receiver.await?;
        netcheck::run(targets, tls).await
    }
}

/// How long a ping's answer is waited for: what comes later is of no use to whoever asks.
const PING_PATIENCE: Duration = Duration::from_secs(2);
/// The largest answer that a client reads, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Trials of servers that run at the same time; others wait.
const MAX_TRIALS: usize = 2;
/// Clients served at the same time on one listener.
const MAX_CLIENTS: usize = 64;

/// Where a peer's control socket is.
pub fn socket_path(run_dir: &Path, interface: &str) -> PathBuf {
    run_dir.join(format!("{interface}.sock"))
}

/// Binds a unix socket that only its owner and group may use. A socket that nobody listens on any more is replaced.
pub fn bind_unix(path: &Path) -> Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("directory {} cannot be made", parent.display()))?;
    }
    if BlockingUnixStream::connect(path).is_ok() {
        bail!("another process listens on {}: is a campfire with this interface running already?", path.display());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{} cannot be replaced", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("socket {} cannot be made", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Has each client of a socket on this machine served in a task of its own, [`MAX_CLIENTS`] at the same time, until this is dropped.
pub async fn each_client<F: Future<Output = ()> + Send + 'static>(listener: UnixListener, serve: impl Fn(UnixStream) -> F) {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(permit) = clients.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let serving = serve(client);
                tokio::spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            // Out of descriptors: wait for some.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// What is served.
#[derive(Clone, Debug)]
enum Pages {
    /// Probes and metrics.
    Probes,
    /// Those, the status, pings and trials of servers: for the control socket.
    All(Pinger, Trier),
}

/// Bounds of probes and metrics: whoever reaches the pod reaches them.
const LIMITS: Limits = Limits::of_probes(MAX_CLIENTS);

/// Serves probes and metrics until the task is dropped. Who connects and says nothing keeps nobody out.
pub async fn listen_probes(listener: TcpListener, asker: Asker) {
    let handler = move |_: SocketAddr, request: Request<Incoming>| {
        let asker = asker.clone();
        async move { answer(&request, &asker, &Pages::Probes).await }
    };
    campfire_http::serve(listener, Wire::Plain, LIMITS, Arc::new(Counts::default()), std::future::pending(), handler).await;
}

/// Serves the control socket until the task is dropped.
pub async fn listen_control(listener: UnixListener, asker: Asker, pinger: Pinger, trier: Trier) {
    let pages = Pages::All(pinger, trier);
    each_client(listener, move |client| control(client, asker.clone(), pages.clone())).await;
}

async fn control(client: UnixStream, asker: Asker, pages: Pages) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (asker, pages) = (asker.clone(), pages.clone());
        async move { Ok::<_, Infallible>(answer(&request, &asker, &pages).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(client), service);
    // An idle client may not hold its place for ever.
    let _ = tokio::time::timeout(Duration::from_mins(1), connection).await;
}

async fn answer(request: &Request<Incoming>, asker: &Asker, pages: &Pages) -> Answer {
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    let path = request.uri().path();
    if path == "/healthz" {
        // That this is answered at all is what is asked.
        return plain(StatusCode::OK, "ok\n");
    }
    match (pages, path) {
        (Pages::All(pinger, _), "/v1/ping") => return ping(pinger, request.uri().query().unwrap_or_default()).await,
        (Pages::All(_, trier), "/v1/netcheck") => {
            return match trier.run().await {
                Ok(found) => json(&found),
                Err(error) => plain(StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}\n")),
            };
        }
        _ => {}
    }
    let known = matches!(path, "/readyz" | "/metrics") || (matches!(pages, Pages::All(..)) && path == "/v1/status");
    if !known {
        return plain(StatusCode::NOT_FOUND, "not here\n");
    }
    let Some(snapshot) = asker.ask().await else { return plain(StatusCode::SERVICE_UNAVAILABLE, "ending\n") };
    match path {
        "/readyz" if snapshot.report.ready => plain(StatusCode::OK, "ok\n"),
        "/readyz" if snapshot.report.camped() => plain(StatusCode::SERVICE_UNAVAILABLE, "camped, not yet connected to all\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "not camped\n"),
        "/metrics" => of_kind(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics::text(snapshot).into()),
        _ => json(&snapshot.report),
    }
}

/// Asks the peer that the query names: `address=fd00::7&full=1`.
async fn ping(pinger: &Pinger, query: &str) -> Answer {
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let Some(address) = value("address").and_then(|address| address.parse().ok()) else {
        return plain(StatusCode::BAD_REQUEST, "address=, an overlay address, is missing\n");
    };
    json(&ping::Answer::from(pinger.ping(address, value("full") == Some("1")).await))
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(json) => respond(StatusCode::OK, json.into()),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn plain(status: StatusCode, text: &str) -> Answer {
    of_kind(status, "text/plain; charset=utf-8", Bytes::from(text.to_owned()))
}

/// Why a control socket cannot be asked, and what to do.
#[cfg_attr(not(test), expect(clippy::wildcard_enum_match_arm, reason = "the system's kinds of errors, an open list"))]
fn explain_socket(socket: &Path, error: &io::Error) -> anyhow::Error {
    let shown = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused if in_pod(socket).is_some() => {
            anyhow::anyhow!("{}", in_pod(socket).unwrap_or_default())
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            anyhow::anyhow!(
                "no campfire runs here (nothing listens on {shown}): start it with `campfire up`, or name its --interface or --run-dir"
            )
        }
        io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{shown} may not be used by this user: ask as the user that runs campfire, or as root")
        }
        _ => anyhow::anyhow!("{shown}: {error}"),
    }
}

/// What a pod's sidecar wrote down of why it does not listen yet, or will not, with what to do.
fn in_pod(socket: &Path) -> Option<String> {
    let state = socket.parent()?;
    let read = |name: &str| {
        std::fs::read_to_string(state.join(name)).ok().map(|text| text.chars().filter(|c| !c.is_control()).collect::<String>())
    };
    if let Some(problem) = read(PROBLEM) {
        return Some(format!("this pod has no interface of the mesh: {problem}: mend that and make the pod anew"));
    }
    if let Some(why) = read(WAITING_INTERFACE) {
        return Some(format!("the sidecar waits for its interface, and comes into the mesh as soon as it has it: {why}"));
    }
    let last = read(WAITING).or_else(|| read(STARTED).map(|_| "it has just begun to ask".into()))?;
    Some(format!(
        "the sidecar waits for its settings from the operator, and comes into the mesh as soon as it has them ({last}): does the operator run, and does \
         this pod reach its Service campfire-agent? NetworkPolicies for egress and another mesh's redirection may forbid it"
    ))
}

/// Asks a running peer by its control socket what it knows.
pub async fn fetch(socket: &Path) -> Result<Report> {
    serde_json::from_slice(&get(socket, "/v1/status").await?).context("an answer of another version of campfire?")
}

/// Asks a running peer by its control socket.
pub async fn get(socket: &Path, question: &str) -> Result<Bytes> {
    let shown = socket.display();
    let stream = UnixStream::connect(socket).await.map_err(|error| explain_socket(socket, &error))?;
    let ask = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(question).header(header::HOST, "campfire").body(Full::new(Bytes::new()))?;
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            bail!("{shown} answers {}", response.status());
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(body.to_bytes())
    };
    match tokio::time::timeout(Duration::from_secs(10), ask).await {
        Ok(answer) => answer,
        Err(_) => bail!("{shown} does not answer: the peer hangs"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn silent_connections_keep_no_probe_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asker, _requests) = mpsc::channel(1);
        let server = tokio::spawn(listen_probes(listener, Asker(asker)));
        let mut silent = Vec::new();
        for _ in 0..2 * MAX_CLIENTS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut probe = TcpStream::connect(address).await.unwrap();
        probe.write_all(b"GET /healthz HTTP/1.1\r\nHost: campfire\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(1), probe.read_to_string(&mut answer)).await.expect("within a second").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        server.abort();
    }

    #[test]
    fn in_a_pod_that_is_without_its_mesh_status_says_why_and_not_to_start_it() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("campfire0.sock");
        let said = || explain_socket(&socket, &io::ErrorKind::NotFound.into()).to_string();
        assert!(said().contains("start it with `campfire up`"), "on a host: {}", said());
        crate::pod::ready::started(dir.path());
        assert!(said().contains("waits for its settings from the operator") && said().contains("just begun"), "{}", said());
        std::fs::write(dir.path().join(WAITING), "no settings from the operator yet: connection refused").unwrap();
        assert!(said().contains("connection refused") && said().contains("Service campfire-agent"), "{}", said());
        std::fs::write(dir.path().join(WAITING_INTERFACE), "the node's agent does not answer").unwrap();
        assert!(said().contains("waits for its interface") && said().ends_with("the node's agent does not answer"), "{}", said());
        std::fs::write(dir.path().join(PROBLEM), "TunDeniedByRuntime: not permitted").unwrap();
        assert!(said().contains("no interface of the mesh: TunDeniedByRuntime: not permitted: mend that"), "{}", said());
    }
}
