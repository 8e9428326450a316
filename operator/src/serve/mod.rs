//! The operator's HTTPS servers: TLS 1.3, HTTP/1.1, everything bounded. Used by the webhook and the agent API.
//! And how one of its own programs connects to them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::certs::Bundle;

/// The answer of a handler.
pub type Answer = Response<Full<Bytes>>;

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. Further ones wait in the kernel until one ends.
    pub connections: usize,
    /// Connections of one address. Further ones are closed.
    pub per_address: usize,
    /// For a handshake, and for the head of a request.
    pub head: Duration,
    /// For a whole connection, with all its requests: then it is closed between two.
    pub lifetime: Duration,
    /// More than one request on a connection.
    pub keep_alive: bool,
}

/// A request that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status code.
    pub status: StatusCode,
    /// For people: what is wrong, what to do.
    pub message: String,
    /// When to come again, seconds.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// One that is final.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    /// One that passes.
    pub fn later(status: StatusCode, message: impl Into<String>, seconds: u64) -> Self {
        Self { status, message: message.into(), retry_after: Some(seconds) }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let mut answer = json(refusal.status, &serde_json::json!({ "message": refusal.message }));
        if let Some(seconds) = refusal.retry_after {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer
    }
}

/// An answer in JSON.
pub fn json(status: StatusCode, body: &serde_json::Value) -> Answer {
    respond(status, Bytes::from(body.to_string()))
}

/// An answer of JSON bytes.
pub fn respond(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Reads a body of at most `limit` bytes within `patience`.
///
/// # Errors
/// 413, 408, or 400 when the client breaks off.
pub async fn read<B>(request: Request<B>, limit: usize, patience: Duration) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let large = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body may have {limit} bytes at most"));
    if request.body().size_hint().lower() > limit as u64 {
        return Err(large());
    }
    match tokio::time::timeout(patience, Limited::new(request.into_body(), limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(large()),
        Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "the body ended early")),
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {} s", patience.as_secs()))),
    }
}

/// Serves until `stop`, then lets what is under way end, for 5 seconds at most. Connections that come before there is a
/// certificate are closed.
pub async fn serve<H, F>(
    listener: TcpListener,
    bundle: watch::Receiver<Arc<Bundle>>,
    limits: Limits,
    stop: impl Future<Output = ()>,
    handler: H,
) where
    H: Fn(SocketAddr, Request<hyper::body::Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limits.connections));
    let addresses = Addresses::default();
    let accept = async {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let Some(config) = bundle.borrow().server.clone() else { continue };
            let Some(place) = addresses.take(from.ip().to_canonical(), limits.per_address) else { continue };
            let handler = handler.clone();
            tokio::spawn(async move {
                let _places = (permit, place);
                if let Err(error) = connection(stream, TlsAcceptor::from(config), limits, move |request| handler(from, request)).await {
                    tracing::debug!(%from, %error, "connection ended");
                }
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop => {}
    }
    drop(listener);
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(Duration::from_secs(5), permits.acquire_many(all)).await;
}

/// TLS with one of the operator's own servers, which has to show a certificate for `name` by one of the CAs in `pem`.
///
/// # Errors
/// In words: what failed.
pub async fn connect(address: impl ToSocketAddrs, name: &str, pem: &str) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned())?;
    let stream = TcpStream::connect(address).await.context("cannot connect")?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("no TLS with the operator's certificate")
}

/// Connections by address.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Addresses {
    fn take(&self, address: IpAddr, most: usize) -> Option<Place> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { addresses: self.clone(), address })
    }
}

/// One connection of an address.
struct Place {
    addresses: Addresses,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = held.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

async fn connection<H, F>(stream: TcpStream, acceptor: TlsAcceptor, limits: Limits, handler: H) -> Result<(), String>
where
    H: Fn(Request<hyper::body::Incoming>) -> F,
    F: Future<Output = Answer>,
{
    // Small answers that nothing follows: waiting for more to send gains nothing.
    let _ = stream.set_nodelay(true);
    let tls = tokio::time::timeout(limits.head, acceptor.accept(stream))
        .await
        .map_err(|_| "no TLS handshake in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let service = service_fn(|request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut http = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .keep_alive(limits.keep_alive)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(tls), service)
    );
    tokio::select! {
        ended = http.as_mut() => return ended.map_err(|error| error.to_string()),
        () = tokio::time::sleep(limits.lifetime) => http.as_mut().graceful_shutdown(),
    }
    tokio::time::timeout(limits.head, http).await.map_err(|_| "too slow".to_owned())?.map_err(|error| error.to_string())
}
