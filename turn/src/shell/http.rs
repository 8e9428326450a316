//! Metrics and health over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use campfire_http::message::{Answer, of_kind};
use campfire_http::{Counts, Limits, Wire};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use tokio::net::TcpListener;

use super::engine::Handle;
use super::metrics::{self, Counters};

const LIMITS: Limits = Limits::of_probes(CONNECTIONS);

/// Connections at once.
pub const CONNECTIONS: usize = 64;

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
    let counts = Arc::new(Counts::default());
    let counted = counts.clone();
    let handler = move |_: SocketAddr, request: Request<Incoming>| {
        let (pages, counts) = (pages.clone(), counted.clone());
        async move {
            pages.counters.http_displaced.set(counts.displaced.load(Ordering::Relaxed));
            pages.counters.http_refused.set(counts.refused.load(Ordering::Relaxed));
            answer(&request, &pages).await
        }
    };
    campfire_http::serve(listener, Wire::Plain, LIMITS, counts, std::future::pending(), handler).await;
}

async fn answer(request: &Request<Incoming>, pages: &Pages) -> Answer {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return page(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match request.uri().path() {
        "/metrics" => match pages.handle.report().await.map(|report| metrics::render(report.metrics, &pages.counters)) {
            Some(Ok(text)) => of_kind(StatusCode::OK, OPEN_METRICS, text.into()),
            Some(Err(_)) | None => page(StatusCode::SERVICE_UNAVAILABLE, "the packet thread does not answer\n"),
        },
        // Alive: the packet thread answers.
        "/healthz" => match pages.handle.report().await {
            Some(_) => page(StatusCode::OK, "ok\n"),
            None => page(StatusCode::SERVICE_UNAVAILABLE, "the packet thread does not answer\n"),
        },
        "/readyz" if pages.ready.load(Ordering::Acquire) => page(StatusCode::OK, "ready\n"),
        "/readyz" => page(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        _ => page(StatusCode::NOT_FOUND, "try /metrics, /healthz or /readyz\n"),
    }
}

fn page(status: StatusCode, text: &'static str) -> Answer {
    of_kind(status, "text/plain; charset=utf-8", text.into())
}
