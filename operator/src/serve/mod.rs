//! HTTP/1.1 as the operator serves it: one way to accept connections, everything bounded. Used by the webhook and the agent API, over TLS 1.3,
//! and by health and metrics, without.

pub mod message;
pub mod tls;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use self::message::Answer;
use crate::certs::Bundle;

/// Pause after a connection could not be accepted: descriptors may have run out.
const AGAIN: Duration = Duration::from_millis(200);

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
    /// For the request that is under way then.
    pub grace: Duration,
    /// More than one request on a connection.
    pub keep_alive: bool,
    /// For all that is under way when the server stops.
    pub drain: Duration,
}

/// What lies between TCP and HTTP.
#[derive(Clone, Debug)]
pub enum Wire {
    /// Nothing.
    Plain,
    /// TLS with the certificate of now. Connections that come before there is one are closed.
    Tls(watch::Receiver<Arc<Bundle>>),
}

impl Wire {
    /// How the next connection is spoken to; `None`: not at all yet.
    fn now(&self) -> Option<Layer> {
        match self {
            Self::Plain => Some(Layer::Plain),
            Self::Tls(bundle) => bundle.borrow().server.clone().map(Layer::Tls),
        }
    }
}

/// [`Wire`] of one connection.
enum Layer {
    Plain,
    Tls(Arc<ServerConfig>),
}

/// Listens on a port, on IPv6 and IPv4, or on IPv4 alone where there is no IPv6.
pub async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
        bound => bound,
    }
    .with_context(|| format!("port {port} cannot be listened on: is another operator running on this machine?"))
}

/// Serves until `stop`, then lets what is under way end.
pub async fn serve<H, F>(listener: TcpListener, wire: Wire, limits: Limits, stop: impl Future<Output = ()>, handler: H)
where
    H: Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
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
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            let Some(layer) = wire.now() else { continue };
            let Some(place) = addresses.take(from.ip().to_canonical(), limits.per_address) else { continue };
            let handler = handler.clone();
            tokio::spawn(async move {
                let _places = (permit, place);
                if let Err(error) = connection(stream, layer, limits, move |request| handler(from, request)).await {
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
    let _ = tokio::time::timeout(limits.drain, permits.acquire_many(all)).await;
}

async fn connection<H, F>(stream: TcpStream, layer: Layer, limits: Limits, handler: H) -> Result<(), String>
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    // Small answers that nothing follows: waiting for more to send gains nothing.
    let _ = stream.set_nodelay(true);
    match layer {
        Layer::Plain => requests(stream, limits, handler).await,
        Layer::Tls(config) => {
            let stream = tokio::time::timeout(limits.head, TlsAcceptor::from(config).accept(stream))
                .await
                .map_err(|_| "no TLS handshake in time".to_owned())?
                .map_err(|error| error.to_string())?;
            requests(stream, limits, handler).await
        }
    }
}

/// The requests of one connection.
async fn requests<H, F>(stream: impl AsyncRead + AsyncWrite + Unpin, limits: Limits, handler: H) -> Result<(), String>
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
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
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        ended = http.as_mut() => return ended.map_err(|error| error.to_string()),
        () = tokio::time::sleep(limits.lifetime) => http.as_mut().graceful_shutdown(),
    }
    tokio::time::timeout(limits.grace, http).await.map_err(|_| "too slow".to_owned())?.map_err(|error| error.to_string())
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
