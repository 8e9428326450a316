//! The webhook that puts the sidecar into new pods. It never refuses one: where it can't help it says why, in a warning to
//! whoever makes the pod and in an event on what controls it.

pub mod amount;
pub mod containers;
mod events;
pub mod fit;
#[cfg(test)]
mod fit_tests;
pub mod given;
pub mod guard;
pub mod inject;
pub mod mode;
#[cfg(test)]
mod mode_tests;
#[cfg(test)]
mod red_tests;
pub mod review;
pub mod route;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use campfire_api::conditions::SkipReason;
use campfire_api::names::{AGENT_SERVICE, CANARY_LABEL, INJECT_AGAIN_PATH, INJECT_PATH};
use campfire_http::Limits;
use campfire_http::message::{self, Answer, Refusal};
use hyper::body::{Body, Bytes};
use hyper::{Method, Request, StatusCode};
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, Pod, Service};
use kube::Api;
use kube::core::PartialObjectMeta;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::containers::Defaults;
use self::events::Events;
use self::inject::{Decision, Op, decide};
use crate::certs::{Bundle, wire};
use crate::context::Context;
use crate::members::NamespaceMeta;

/// Largest AdmissionReview, bytes: etcd takes objects of 1.5 MiB.
const MAX_REVIEW: usize = 1_700_000;

const LIMITS: Limits = Limits {
    connections: 384,
    // An API server has a connection for each review that is under way, and 200 changes under way where nobody said otherwise; several have one
    // address where they come through a proxy.
    per_address: 256,
    // An eighth of the memory that the chart gives.
    bodies: 16 * MAX_REVIEW,
    // Between two requests too: an API server connects anew within a millisecond.
    head: Duration::from_secs(30),
    lifetime: Duration::from_mins(10),
    grace: Duration::from_secs(30),
    keep_alive: true,
    drain: Duration::from_secs(5),
};

/// The API server waits 3 s; more would be for nobody.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a review waits for the caches of an operator that has just started.
const SYNC: Duration = Duration::from_secs(1);
/// How long a review waits for a Campfire's network, and how often it looks.
const NETWORK: Duration = Duration::from_millis(1_500);
const LOOK: Duration = Duration::from_millis(50);
/// How long the address of the agent API is believed.
const ADDRESS: Duration = Duration::from_mins(5);

/// Serves until the program ends. All replicas do.
pub async fn serve(ctx: Arc<Context>, certs: watch::Receiver<Arc<Bundle>>, listener: TcpListener) {
    let webhook = Arc::new(Webhook::new(ctx.clone(), certs.clone()));
    // When this pod is to end the API server hears of it a little later; who asks until then still gets an answer.
    let stop = async move {
        ctx.shutdown.told().await;
        tokio::time::sleep(PATIENCE).await;
    };
    let closed = webhook.ctx.metrics.closed("webhook");
    campfire_http::serve(listener, wire(certs, |servers| &servers.webhook), LIMITS, closed, stop, move |_, request| {
        let webhook = webhook.clone();
        async move { webhook.answer(request).await }
    })
    .await;
}

/// Answers reviews.
pub struct Webhook {
    ctx: Arc<Context>,
    certs: watch::Receiver<Arc<Bundle>>,
    defaults: Defaults,
    events: Events,
    pods: Family<Outcome, Counter>,
    /// When the address of the agent API was read, and what it was.
    agent: Mutex<Option<(Instant, Option<IpAddr>)>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

impl Webhook {
    /// With the chart's defaults.
    pub fn new(ctx: Arc<Context>, certs: watch::Receiver<Arc<Bundle>>) -> Self {
        let defaults = Defaults::of(&ctx.settings);
        let pods = Family::<Outcome, Counter>::default();
        ctx.metrics.register(|registry| {
            let help = "Pods that the webhook was asked about, by result: Injected, or the reason why not";
            registry.register("admissions", help, pods.clone());
        });
        Self { events: Events::new(ctx.clone()), ctx, certs, defaults, pods, agent: Mutex::default() }
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.try_answer(request).await.unwrap_or_else(|refusal| {
            tracing::warn!(status = refusal.status.as_u16(), why = refusal.message, "refused an admission request");
            refusal.into()
        })
    }

    async fn try_answer<B>(&self, request: Request<B>) -> Result<Answer, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let asked_again = request.uri().path() == INJECT_AGAIN_PATH;
        if !asked_again && request.uri().path() != INJECT_PATH {
            return Err(Refusal::new(StatusCode::NOT_FOUND, format!("there are {INJECT_PATH} and {INJECT_AGAIN_PATH} alone")));
        }
        if request.method() != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview"));
        }
        let body = message::read(request, MAX_REVIEW, PATIENCE).await?;
        let asked = review::read(&body)?;
        let Some(pod) = &asked.pod else {
            let path = format!("/metadata/labels/{}", CANARY_LABEL.replace('/', "~1"));
            let answered = [Op::Add { path, value: "answered".into() }];
            let ops = if asked.canary { &answered[..] } else { &[] };
            return Ok(message::respond(StatusCode::OK, Bytes::from(review::write(&asked.uid, ops, &[]))));
        };
        let synced = tokio::time::timeout(SYNC, self.ctx.cluster.synced()).await.is_ok();
        let namespace = self.namespace(&asked.namespace).await;
        let pins = if synced { self.certs.borrow().pins() } else { String::new() };
        let defaults = Defaults { agent_address: self.agent_address().await, nodes: self.ctx.cluster.nodes(), ..self.defaults.clone() };
        // Who asks again has waited already.
        let patience = if asked_again { Duration::ZERO } else { NETWORK };
        let decision = self.decide(pod, &namespace, &defaults, &pins, patience).await;
        let result = match &decision {
            Decision::Patch { .. } => "Injected",
            Decision::Skip { reason, .. } => reason.name(),
        };
        // What the leader said is said and counted; if it said nothing, the pod is found without a sidecar later (`campfire/missed.rs`).
        if asked_again && matches!(decision, Decision::Skip { .. }) {
            return Ok(message::respond(StatusCode::OK, Bytes::from(review::write(&asked.uid, &[], &[]))));
        }
        self.pods.get_or_create(&Outcome { result }).inc();
        let (ops, warnings) = match decision {
            Decision::Patch { ops, campfire, warnings } => {
                tracing::debug!(namespace = namespace.name, %campfire, operations = ops.len(), "injects a pod");
                if !asked.dry_run {
                    self.ctx.given.note(&namespace.name, pod, &campfire, Instant::now());
                }
                (ops, warnings)
            }
            Decision::Skip { reason: SkipReason::NotAsked, .. } => (Vec::new(), Vec::new()),
            Decision::Skip { reason, message, .. } => {
                tracing::info!(namespace = namespace.name, %reason, why = message, "a pod gets no sidecar");
                if !asked.dry_run {
                    self.events.skipped(&namespace.name, pod, reason, &message);
                }
                (Vec::new(), vec![reason.warning(&message)])
            }
        };
        Ok(message::respond(StatusCode::OK, Bytes::from(review::write(&asked.uid, &ops, &warnings))))
    }

    /// What becomes of the pod. A Campfire that was made together with it has a network in a moment: for `patience` it is waited for.
    async fn decide(&self, pod: &Pod, namespace: &NamespaceMeta, defaults: &Defaults, ca: &str, patience: Duration) -> Decision {
        let begun = Instant::now();
        let bounds = self.ctx.cluster.bounds(&namespace.name);
        loop {
            let decision = decide(pod, namespace, &bounds, &self.ctx.cluster.places(), defaults, ca);
            let waits = matches!(decision, Decision::Skip { reason: SkipReason::CampfireNotReady, .. });
            if !waits || begun.elapsed() >= patience {
                return decision;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The cluster IP of the agent API, read again now and then. `None`: not known, or the Service has none.
    async fn agent_address(&self) -> Option<IpAddr> {
        let known = *self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, address)) = known
            && read.elapsed() < ADDRESS
        {
            return address;
        }
        let services = Api::<Service>::namespaced(self.ctx.cluster.client.clone(), &self.ctx.settings.namespace);
        let address = match tokio::time::timeout(Duration::from_millis(500), services.get_opt(AGENT_SERVICE)).await {
            Ok(Ok(service)) => service.and_then(|service| service.spec?.cluster_ip?.parse().ok()),
            Ok(Err(_)) | Err(_) => known.and_then(|(_, address)| address),
        };
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), address));
        address
    }

    /// A namespace that was made this very moment may not have been seen yet: then it is asked for.
    async fn namespace(&self, name: &str) -> Arc<NamespaceMeta> {
        match self.ctx.cluster.namespace(name) {
            Some(found) => found,
            None => Arc::new(NamespaceMeta::new(name, self.ask(name).await.unwrap_or_default())),
        }
    }

    async fn ask(&self, name: &str) -> Option<kube::core::ObjectMeta> {
        let namespaces = Api::<KubeNamespace>::all(self.ctx.cluster.client.clone());
        let asked = tokio::time::timeout(Duration::from_secs(1), namespaces.get_metadata_opt(name)).await;
        asked.ok()?.ok()?.map(|found: PartialObjectMeta<KubeNamespace>| found.metadata)
    }
}
