//! Starts all parts, and those of the leader while it leads.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::certs::Bundle;
use crate::cluster::connect;
use crate::context::{Context, Shutdown};
use crate::leadership::{Leadership, endpoints, lease};
use crate::metrics::Metrics;
use crate::settings::OperatorSettings;
use crate::state::{PodId, Reports};
use crate::{agent, campfire, certs, definitions, fire, grants, health, meshpeer, webhook};

/// How long parts may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the operator until SIGTERM or SIGINT.
pub async fn run(settings: OperatorSettings) -> Result<()> {
    let (stop, shutdown) = Shutdown::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened to")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened to")?;

    let metrics = Arc::new(Metrics::default());
    let client = connect(metrics.clone()).await?;
    let http = listen(settings.http_port).await?;
    let sidecars = listen(settings.agent_port).await?;
    let admissions = listen(settings.webhook_port).await?;
    if settings.served.namespaces().is_none() {
        tracing::warn!(
            "Campfires of all namespaces are served: this needs rights to Secrets everywhere; --campfire-namespaces names fewer"
        );
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = %settings.namespace,
        pod = %settings.pod_name,
        campfire_namespaces = ?settings.served.namespaces().unwrap_or_default(),
        "starts"
    );
    let (reports, queue) = Reports::new();
    let (mandate, leadership) = Leadership::new();
    let ctx = Arc::new(Context::start(client, settings, metrics, reports, leadership, shutdown));

    let mut parts = JoinSet::new();
    part(&mut parts, "http", health::serve(ctx.clone(), http));
    part(&mut parts, "lease", lease::run(ctx.clone(), mandate));
    part(&mut parts, "endpoints", endpoints::keep(ctx.clone()));
    part(&mut parts, "definitions", definitions::run(ctx.clone()));
    let bundle = certs::run(ctx.clone());
    part(&mut parts, "leader", lead(ctx.clone(), bundle.clone(), queue));
    part(&mut parts, "webhook", webhook::serve(ctx.clone(), bundle.clone(), admissions));
    part(&mut parts, "agent", agent::serve(ctx.clone(), bundle, sidecars));

    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        // A part that ends by itself is broken: begin anew, the other replica takes over.
        Some(ended) = parts.join_next() => Err(anyhow::anyhow!("{} ended unexpectedly", ended.unwrap_or("a part"))),
    };
    tracing::info!("ends");
    stop.send_replace(true);
    let all = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all).await.is_err() {
        tracing::warn!("some parts did not end within 10 s and are dropped");
    }
    result
}

fn part(parts: &mut JoinSet<&'static str>, name: &'static str, run: impl Future<Output = ()> + Send + 'static) {
    parts.spawn(async move {
        run.await;
        name
    });
}

/// Runs the leader's parts for as long as we lead: they are dropped where they stand when that ends.
async fn lead(ctx: Arc<Context>, certs: watch::Receiver<Arc<Bundle>>, mut queue: mpsc::Receiver<PodId>) {
    let mut leader = ctx.leadership.follow();
    tokio::select! {
        () = ctx.cluster.synced() => {}
        () = ctx.shutdown.told() => return,
    }
    loop {
        tokio::select! {
            changed = leader.wait_for(|leads| *leads) => if changed.is_err() { return },
            () = ctx.shutdown.told() => return,
        }
        // Who waits for a Campfire to be Ready makes pods next: they are to get their sidecar.
        tokio::select! {
            () = webhook::route::laid(&ctx, &certs) => {}
            _ = leader.wait_for(|leads| !*leads) => continue,
            () = ctx.shutdown.told() => return,
        }
        // What an earlier term knew may be wrong by now.
        ctx.memberships.clear();
        let (hints, term_queue) = mpsc::channel(16_384);
        let mut parts = JoinSet::new();
        start_term(&mut parts, &ctx, term_queue);
        let ended = loop {
            tokio::select! {
                changed = leader.wait_for(|leads| !*leads) => { let _ = changed; break None }
                () = ctx.shutdown.told() => break None,
                Some(pod) = queue.recv() => { let _ = hints.try_send(pod); }
                Some(ended) = parts.join_next() => break Some(ended.unwrap_or("a part of the leader")),
            }
        };
        parts.shutdown().await;
        ctx.memberships.clear();
        if let Some(part) = ended {
            tracing::error!(%part, "ended unexpectedly");
            return;
        }
    }
}

/// Parts that the leader runs: each owner adds its own.
fn start_term(parts: &mut JoinSet<&'static str>, ctx: &Arc<Context>, reports: mpsc::Receiver<PodId>) {
    part(parts, "campfires", campfire::run(ctx.clone()));
    part(parts, "fire", fire::run(ctx.clone()));
    part(parts, "grants", grants::run(ctx.clone()));
    part(parts, "meshpeer", meshpeer::run(ctx.clone(), reports));
}

/// Listens on one of the operator's ports.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let listening = campfire_http::listen(port).await;
    listening.with_context(|| format!("port {port} cannot be listened on: is another operator running on this machine?"))
}
