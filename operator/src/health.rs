//! Health, readiness and metrics over HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use tokio::net::TcpListener;

use crate::context::Context;
use campfire_http::message::{Answer, of_kind};
use campfire_http::{Limits, Wire};

const LIMITS: Limits = Limits {
    connections: 64,
    // A kubelet, a Prometheus and somebody who looks, of one address.
    per_address: 16,
    bodies: 0,
    head: Duration::from_secs(10),
    // An idle client may not hold its place for ever.
    lifetime: Duration::from_mins(1),
    grace: Duration::ZERO,
    keep_alive: true,
    drain: Duration::ZERO,
};

/// What must have happened before the operator is ready.
#[derive(Debug, Default)]
pub struct Readiness {
    gates: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

/// One of the things that must have happened.
#[derive(Clone, Debug)]
pub struct Gate {
    name: &'static str,
    gates: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

impl Readiness {
    /// A thing that must happen, closed at first.
    pub fn gate(&self, name: &'static str) -> Gate {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).insert(name, false);
        Gate { name, gates: self.gates.clone() }
    }

    /// What is still waited for.
    pub fn waiting(&self) -> Vec<&'static str> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter(|(_, open)| !**open).map(|(name, _)| *name).collect()
    }
}

impl Gate {
    /// It happened.
    pub fn open(&self) {
        self.set(true);
    }

    /// It is undone.
    pub fn close(&self) {
        self.set(false);
    }

    fn set(&self, open: bool) {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).insert(self.name, open);
    }
}

/// Serves `/healthz`, `/readyz` and `/metrics` until the operator ends.
pub async fn serve(ctx: Arc<Context>, listener: TcpListener) {
    let stop = ctx.shutdown.told();
    campfire_http::serve(listener, Wire::Plain, LIMITS, ctx.metrics.closed("http"), stop, {
        let ctx = ctx.clone();
        move |_, request| {
            let answer = answer(&ctx, &request);
            async move { answer }
        }
    })
    .await;
}

fn answer(ctx: &Context, request: &Request<Incoming>) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match request.uri().path() {
        // That this is answered at all is what is asked.
        "/healthz" => plain(StatusCode::OK, "ok\n".into()),
        "/readyz" => {
            let waiting = ctx.readiness.waiting();
            if ctx.shutdown.is_told() {
                plain(StatusCode::SERVICE_UNAVAILABLE, "ending\n".into())
            } else if waiting.is_empty() {
                plain(StatusCode::OK, "ok\n".into())
            } else {
                plain(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", waiting.join(", ")))
            }
        }
        "/metrics" => of_kind(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", ctx.metrics.text().into()),
        _ => plain(StatusCode::NOT_FOUND, "not here: /healthz, /readyz, /metrics\n".into()),
    }
}

fn plain(status: StatusCode, text: String) -> Answer {
    of_kind(status, "text/plain; charset=utf-8", text.into())
}

#[cfg(test)]
mod red {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn red_1_sixty_four_silent_clients_do_not_fail_the_probes() {
        let rig = crate::testing::Rig::new(|_, _, _| (404, serde_json::json!({})));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(rig.ctx.clone(), listener));
        let probe = || async move {
            tokio::time::timeout(Duration::from_secs(3), async {
                let mut stream = TcpStream::connect(address).await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    .await
                    .unwrap();
                let mut answer = Vec::new();
                tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await.unwrap();
                String::from_utf8_lossy(&answer[..15]).into_owned()
            })
            .await
            .ok()
        };
        println!("before: {:?}", probe().await);
        for _ in 0..64 {
            tokio::spawn(async move {
                loop {
                    let socket = tokio::net::TcpSocket::new_v4().unwrap();
                    socket.bind("127.0.1.1:0".parse().unwrap()).unwrap();
                    if let Ok(mut stream) = socket.connect(address).await {
                        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut failed = 0;
        for _ in 0..20 {
            failed += usize::from(probe().await.is_none());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(failed, 0);
        assert!(rig.ctx.metrics.text().contains("connections_closed_total{port=\"http\",reason=\"silent\"}"));
    }
}
