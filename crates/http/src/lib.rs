//! HTTP/1.1 served to strangers: one way to accept connections for the webhook, the agent API, probes and metrics, everything bounded.
//!
//! Who connects and says nothing must not keep others out. So a connection is **always accepted**; what it takes a place from, if there is none,
//! is decided then: of the address that has the most connections, the one that has owed a whole request for longest is closed. A connection
//! whose request is being answered is never closed for another. Memory for what requests hold is taken and given up by the same rule, byte by
//! byte, so that there may be many connections though each may send much. What this costs is counted ([`Counts`]).
//!
//! The contract: [`serve`] with a handler. A handler reads its request's body by [`message::read`], which is when the connection has *said
//! something*; a request without a body has, once its head is there.
//!
//! It knows of nothing of ours.

pub mod message;
mod places;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use self::message::Answer;
use self::places::{Heard, Place, Places};

/// Pause after a connection could not be accepted: descriptors may have run out.
const AGAIN: Duration = Duration::from_millis(200);
/// Largest head of a request, bytes.
const HEAD: usize = 16 * 1024;

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections of one address at once.
    pub per_address: usize,
    /// Bytes of requests' bodies that are held at once, of all connections.
    pub bodies: usize,
    /// For a handshake, and for the head of a request.
    pub head: Duration,
    /// For a whole connection, with all its requests: then it is closed between two.
    pub lifetime: Duration,
    /// For the request that is under way then.
    pub grace: Duration,
    /// More than one request on a connection.
    pub keep_alive: bool,
    /// For all that is under way when the server stops.
    pub drain: Duration,
}

impl Limits {
    /// Of probes and metrics, which few ask, often, and which are answered at once. `connections`: at once.
    pub const fn of_probes(connections: usize) -> Self {
        Self {
            connections,
            // A kubelet, a Prometheus and somebody who looks, of one address.
            per_address: 16,
            bodies: 0,
            head: Duration::from_secs(5),
            lifetime: Duration::from_secs(30),
            grace: Duration::from_secs(1),
            keep_alive: true,
            drain: Duration::ZERO,
        }
    }
}

/// Connections that were not served to their end, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Closed before they had said anything whole, for the place.
    pub displaced: AtomicU64,
    /// Closed at once: all places were held by requests under way.
    pub refused: AtomicU64,
}

/// The TLS configuration of now, or `None`: connections are closed.
type Certificates = Arc<dyn Fn() -> Option<Arc<ServerConfig>> + Send + Sync>;

/// What lies between TCP and HTTP.
#[derive(Clone)]
pub enum Wire {
    /// Nothing.
    Plain,
    /// TLS, with what this says at each connection.
    Tls(Certificates),
}

/// [`Wire`] of one connection.
enum Layer {
    Plain,
    Tls(Arc<ServerConfig>),
}

impl Wire {
    fn now(&self) -> Option<Layer> {
        match self {
            Self::Plain => Some(Layer::Plain),
            Self::Tls(certificates) => certificates().map(Layer::Tls),
        }
    }
}

/// Listens on a port, on IPv6 and IPv4, or on IPv4 alone where there is no IPv6.
///
/// # Errors
/// What the kernel says of the port.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
        bound => bound,
    }
}

/// Serves until `stop`, then lets what is under way end, for [`Limits::drain`] at most.
pub async fn serve<H, F>(listener: TcpListener, wire: Wire, limits: Limits, counts: Arc<Counts>, stop: impl Future<Output = ()>, handler: H)
where
    H: Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Places::new(&limits, counts);
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = stop.as_mut() => break,
        };
        match accepted {
            Ok((stream, from)) => {
                let Some(layer) = wire.now() else { continue };
                let Some(place) = places.take(from.ip().to_canonical()) else { continue };
                let handler = handler.clone();
                connections.spawn(async move {
                    let served = connection(stream, layer, limits, &place, |request| handler(from, request));
                    let ended = tokio::select! {
                        ended = served => ended,
                        () = place.displaced() => Err("said nothing, and others wanted the place".to_owned()),
                    };
                    if let Err(error) = ended {
                        tracing::debug!(%from, %error, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(limits.drain, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection<H, F>(stream: TcpStream, layer: Layer, limits: Limits, place: &Place, handler: H) -> Result<(), String>
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    // Small answers that nothing follows: waiting for more to send gains nothing.
    let _ = stream.set_nodelay(true);
    match layer {
        Layer::Plain => requests(stream, limits, place, handler).await,
        Layer::Tls(config) => {
            // Apart from the task, which has room for all that it may ever hold, in each function that it is handed to: one that waits for its answer is
            // long done with its handshake.
            let stream = Box::pin(tokio::time::timeout(limits.head, TlsAcceptor::from(config).accept(stream)))
                .await
                .map_err(|_| "no TLS handshake in time".to_owned())?
                .map_err(|error| error.to_string())?;
            requests(Box::new(stream), limits, place, handler).await
        }
    }
}

/// The requests of one connection.
async fn requests<H, F>(stream: impl AsyncRead + AsyncWrite + Unpin, limits: Limits, place: &Place, handler: H) -> Result<(), String>
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(|mut request: Request<Incoming>| {
        let heard = place.heard();
        if request.body().is_end_stream() {
            heard.now();
        } else {
            request.extensions_mut().insert(heard);
        }
        let answer = handler(request);
        async move {
            let answer = answer.await;
            place.answered();
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .keep_alive(limits.keep_alive)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        ended = http.as_mut() => return ended.map_err(|error| error.to_string()),
        () = tokio::time::sleep(limits.lifetime) => http.as_mut().graceful_shutdown(),
    }
    tokio::time::timeout(limits.grace, http).await.map_err(|_| "too slow".to_owned())?.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
