//! Metrics and health over HTTP.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::engine::Handle;
use super::metrics::{self, Counters};

/// Connections served at once; more wait.
const CONNECTIONS: usize = 64;
/// Longest life of a connection.
const LIFETIME: Duration = Duration::from_secs(30);

/// What the pages are made of.
#[derive(Clone)]
pub struct Pages {
    /// The packet thread.
    pub handle: Handle,
    /// The shell's numbers.
    pub counters: Arc<Counters>,
    /// Newcomers are welcome.
    pub ready: Arc<AtomicBool>,
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, pages: Pages) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| respond(request, &pages));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(socket), service);
            // What goes wrong here is the client's concern alone.
            let _ = tokio::time::timeout(LIFETIME, connection).await;
            drop(place);
        });
    }
}

async fn respond(request: Request<Incoming>, pages: &Pages) -> Result<Response<Full<Bytes>>, Infallible> {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(page(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"));
    }
    Ok(match request.uri().path() {
        "/metrics" => match pages.handle.report().await.map(|report| metrics::render(report.metrics, &pages.counters)) {
            Some(Ok(text)) => {
                let mut response = page(StatusCode::OK, text);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
                response
            }
            _ => page(StatusCode::SERVICE_UNAVAILABLE, "the packet thread does not answer\n"),
        },
        // Alive: the packet thread answers.
        "/healthz" => match pages.handle.report().await {
            Some(_) => page(StatusCode::OK, "ok\n"),
            None => page(StatusCode::SERVICE_UNAVAILABLE, "the packet thread does not answer\n"),
        },
        "/readyz" if pages.ready.load(Ordering::Acquire) => page(StatusCode::OK, "ready\n"),
        "/readyz" => page(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        _ => page(StatusCode::NOT_FOUND, "try /metrics, /healthz or /readyz\n"),
    })
}

fn page(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
