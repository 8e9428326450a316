//! HTTP on the control socket (`campfire status` and the others ask it) and, if wanted, on a TCP port for probes and
//! Prometheus.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::metrics::{self, Snapshot};
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

/// The largest answer that a client reads, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
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

/// Takes clients.
pub trait Listener: Send {
    /// One of them.
    type Client: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one.
    fn client(&self) -> impl Future<Output = io::Result<Self::Client>> + Send;
}

impl Listener for TcpListener {
    type Client = TcpStream;

    async fn client(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for UnixListener {
    type Client = UnixStream;

    async fn client(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// Has each client served in a task of its own, [`MAX_CLIENTS`] at the same time, until this is dropped.
pub async fn each_client<L: Listener, F: Future<Output = ()> + Send + 'static>(listener: L, serve: impl Fn(L::Client) -> F) {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(permit) = clients.clone().acquire_owned().await else { return };
        match listener.client().await {
            Ok(client) => {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Probes and metrics.
    Probes,
    /// Those and the status: for the control socket.
    All,
}

/// Serves HTTP until the task is dropped.
pub async fn listen(listener: impl Listener, asker: Asker, pages: Pages) {
    each_client(listener, move |client| serve(client, asker.clone(), pages)).await;
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, asker: Asker, pages: Pages) {
    let service = service_fn(move |request: Request<Incoming>| {
        let asker = asker.clone();
        async move { Ok::<_, Infallible>(answer(&request, &asker, pages).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // An idle client may not hold its place for ever.
    let _ = tokio::time::timeout(Duration::from_mins(1), connection).await;
}

async fn answer(request: &Request<Incoming>, asker: &Asker, pages: Pages) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    let path = request.uri().path();
    if path == "/healthz" {
        // That this is answered at all is what is asked.
        return plain(StatusCode::OK, "ok\n");
    }
    let known = matches!(path, "/readyz" | "/metrics") || (pages == Pages::All && path == "/v1/status");
    if !known {
        return plain(StatusCode::NOT_FOUND, "not here\n");
    }
    let Some(snapshot) = asker.ask().await else { return plain(StatusCode::SERVICE_UNAVAILABLE, "ending\n") };
    match path {
        "/readyz" if snapshot.report.ready => plain(StatusCode::OK, "ok\n"),
        "/readyz" if snapshot.report.camped() => plain(StatusCode::SERVICE_UNAVAILABLE, "camped, not yet connected to all\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "not camped\n"),
        "/metrics" => {
            respond(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics::text(snapshot).into_bytes())
        }
        _ => match serde_json::to_vec(&snapshot.report) {
            Ok(json) => respond(StatusCode::OK, "application/json", json),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text.as_bytes().to_vec())
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// Why a control socket cannot be asked, and what to do.
#[cfg_attr(not(test), expect(clippy::wildcard_enum_match_arm, reason = "the system's kinds of errors, an open list"))]
fn explain_socket(socket: &Path, error: &io::Error) -> anyhow::Error {
    let shown = socket.display();
    match error.kind() {
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

/// Asks a running peer by its control socket.
pub async fn fetch(socket: &Path) -> Result<Report> {
    let shown = socket.display();
    let stream = UnixStream::connect(socket).await.map_err(|error| explain_socket(socket, &error))?;
    let ask = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get("/v1/status").header(header::HOST, "campfire").body(Full::new(Bytes::new()))?;
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            bail!("{shown} answers {}", response.status());
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        serde_json::from_slice(&body.to_bytes()).context("an answer of another version of campfire?")
    };
    match tokio::time::timeout(Duration::from_secs(10), ask).await {
        Ok(report) => report,
        Err(_) => bail!("{shown} does not answer: the peer hangs"),
    }
}
