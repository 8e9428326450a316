//! The API from which sidecars get their settings, and to which they report. All replicas listen, the leader answers.
//!
//! Who asks is known by the token alone ([`token`]); at which fire the pod sits, by the annotation on the pod, as the API server
//! has it now; whether it may, by the Campfire's members, as they are now.
//!
//! Waiting costs a connection (docs/decisions: "Who waits for settings"): [`HELD`] of them wait at once, whoever comes when all
//! are taken is told to come again. So memory does not grow with the number of pods.

mod grant;
#[cfg(test)]
mod grant_tests;
#[cfg(test)]
mod red_tests;
mod report;
mod settings;
#[cfg(test)]
mod tests;
pub mod token;

use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use campfire_api::agent::{GRANT_PATH, MAX_ANSWER, MAX_REQUEST, MAX_WAIT, REPORT_PATH, SETTINGS_PATH, SettingsRequest};
use campfire_api::names::CAMPFIRE_ANNOTATION;
use campfire_protocol::identity::ipv4_in_pool;
use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use zeroize::Zeroizing;

use self::settings::settings;
use self::token::{ApiServer, Reviewer, Tokens};
use crate::bounds::{Bucket, Recent};
use crate::certs::{Bundle, wire};
use crate::context::Context;
use crate::members::{Claim, MAX_NAME, Unadmitted};
use crate::state::{PodId, Reported};
use campfire_http::Limits;
use campfire_http::message::{self, Answer, Refusal};

/// Requests that wait for a change, at once.
pub const HELD: usize = 256;
/// Who finds no place to wait comes again after so long, seconds.
const COME_AGAIN: u64 = 60;
/// Requests of one pod: a second, and at once.
const RATE: f64 = 1.0;
const BURST: f64 = 20.0;
/// Pods whose rate is remembered.
const PODS: usize = 32_768;
/// For the body of a request.
const PATIENCE: Duration = Duration::from_secs(5);

const LIMITS: Limits = Limits {
    connections: HELD + 256,
    // A node's pods, should their addresses be translated.
    per_address: 256,
    bodies: (HELD + 256) * MAX_REQUEST,
    head: Duration::from_secs(5),
    lifetime: Duration::from_secs(MAX_WAIT + 15),
    grace: Duration::from_secs(5),
    // One request each: an idle connection costs as much as one that waits.
    keep_alive: false,
    drain: Duration::from_secs(5),
};

/// Serves until the program ends.
pub async fn serve(ctx: Arc<Context>, certs: watch::Receiver<Arc<Bundle>>, listener: TcpListener) {
    let agent = Arc::new(Agent::new(ctx.clone(), certs.clone(), Arc::new(ApiServer(ctx.cluster.client.clone()))));
    listen(agent, certs, listener, LIMITS, async move { ctx.shutdown.told().await }).await;
}

async fn listen(
    agent: Arc<Agent>,
    certs: watch::Receiver<Arc<Bundle>>,
    listener: TcpListener,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let closed = agent.ctx.metrics.closed("agent");
    campfire_http::serve(listener, wire(certs, |servers| &servers.agent), limits, closed, stop, move |from, request| {
        let agent = agent.clone();
        async move { agent.answer(from.ip().to_canonical(), request).await }
    })
    .await;
}

/// Answers sidecars.
pub struct Agent {
    ctx: Arc<Context>,
    certs: watch::Receiver<Arc<Bundle>>,
    tokens: Tokens,
    /// By the hash of the pod: there may be very many, and two that share a rate now and then do no harm.
    rates: Mutex<Recent<u64, Bucket>>,
    hashing: RandomState,
    held: Semaphore,
    requests: Family<Answered, Counter>,
    waiting: Gauge,
}

/// What a sidecar wants.
enum Asked {
    Settings,
    Report,
    Grant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    path: &'static str,
    code: u16,
}

impl Agent {
    /// One that asks `reviewer` about tokens.
    pub fn new(ctx: Arc<Context>, certs: watch::Receiver<Arc<Bundle>>, reviewer: Arc<dyn Reviewer>) -> Self {
        let (requests, waiting) = (Family::default(), Gauge::default());
        let tokens = Tokens::new(reviewer);
        ctx.metrics.register(|registry| {
            registry.register("agent_requests", "Requests of sidecars by path and HTTP status", requests.clone());
            registry.register("agent_waiting", "Requests of sidecars that wait for a change of their settings", waiting.clone());
            registry.register("token_reviews", "TokenReviews asked of the API server", tokens.asked.clone());
        });
        Self {
            ctx,
            certs,
            tokens,
            rates: Mutex::new(Recent::new(PODS)),
            hashing: RandomState::new(),
            held: Semaphore::new(HELD),
            requests,
            waiting,
        }
    }

    /// Answers one request of a client at `from`.
    pub async fn answer<B>(&self, from: IpAddr, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = [SETTINGS_PATH, REPORT_PATH, GRANT_PATH].into_iter().find(|path| *path == request.uri().path()).unwrap_or("other");
        let answer = self.try_answer(from, request).await.unwrap_or_else(|refusal| {
            tracing::debug!(%from, status = refusal.status.as_u16(), why = refusal.message, "refused a sidecar's request");
            refusal.into()
        });
        self.requests.get_or_create(&Answered { path, code: answer.status().as_u16() }).inc();
        self.waiting.set(i64::try_from(HELD.saturating_sub(self.held.available_permits())).unwrap_or(i64::MAX));
        answer
    }

    async fn try_answer<B>(&self, from: IpAddr, request: Request<B>) -> Result<Answer, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let asked = match request.uri().path() {
            SETTINGS_PATH => Asked::Settings,
            REPORT_PATH => Asked::Report,
            GRANT_PATH => Asked::Grant,
            _ => {
                return Err(Refusal::new(StatusCode::NOT_FOUND, format!("there are {SETTINGS_PATH}, {REPORT_PATH} and {GRANT_PATH}")));
            }
        };
        if request.method() != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "POST it"));
        }
        self.leads()?;
        let pod = {
            let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim).filter(|token| !token.is_empty());
            let token =
                token.ok_or_else(|| Refusal::new(StatusCode::UNAUTHORIZED, "send the pod's projected token: `Authorization: Bearer …`"))?;
            self.tokens.pod(token, from, |pod| self.known(pod).map(drop)).await?
        };
        self.rate(&pod)?;
        let seat = self.seat(&pod)?;
        let body = Zeroizing::new(message::read(request, MAX_REQUEST, PATIENCE).await?.to_vec());
        match asked {
            Asked::Settings => self.settings(&pod, &seat, &body).await,
            Asked::Report => self.report(pod, seat, &body),
            Asked::Grant => self.grant(&pod, &seat, &body).await,
        }
    }

    fn leads(&self) -> Result<(), Refusal> {
        if self.ctx.leadership.leads() {
            return Ok(());
        }
        Err(Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "this replica of the operator does not lead: try again", 2))
    }

    fn rate(&self, pod: &PodId) -> Result<(), Refusal> {
        let now = Instant::now();
        let pod = self.hashing.hash_one(pod);
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.get(&pod).is_none() {
            rates.insert(pod, Bucket::new(BURST, now));
        }
        rates.get(&pod).map_or(Ok(()), |bucket| bucket.take(now, RATE, BURST)).map_err(|wait| {
            Refusal::later(
                StatusCode::TOO_MANY_REQUESTS,
                "too many requests of this pod: wait for a change with `wait`",
                wait.as_secs() + 1,
            )
        })
    }

    /// What a pod that has a sidecar says of its place.
    fn known(&self, pod: &PodId) -> Result<Claim, Refusal> {
        let found = self.ctx.cluster.pod(pod).ok_or_else(|| {
            // A new pod may be quicker than the watch.
            Refusal::later(StatusCode::FORBIDDEN, format!("no pod {} of this uid has a sidecar: it is gone, or not seen yet", pod.key), 1)
        })?;
        found.claim.clone().filter(|claim| claim.plain).ok_or_else(|| {
            Refusal::new(
                StatusCode::FORBIDDEN,
                format!("pod {} names no Campfire in annotation {CAMPFIRE_ANNOTATION}: make it anew", pod.key),
            )
        })
    }

    /// The place of a pod, if it may be there.
    fn seat(&self, pod: &PodId) -> Result<Claim, Refusal> {
        let claim = self.known(pod)?;
        match self.ctx.cluster.admit(&claim.campfire, &pod.key.namespace) {
            Ok(_) => Ok(claim),
            Err(Unadmitted::NotFound | Unadmitted::NotServed) => {
                Err(Refusal::later(StatusCode::NOT_FOUND, format!("there is no Campfire {}", claim.campfire), 30))
            }
            Err(Unadmitted::NotAdmitted) => Err(Refusal::later(
                StatusCode::FORBIDDEN,
                format!("Campfire {} does not admit namespace {}: see its spec.members.namespaces", claim.campfire, pod.key.namespace),
                60,
            )),
        }
    }

    async fn settings(&self, pod: &PodId, seat: &Claim, body: &[u8]) -> Result<Answer, Refusal> {
        let asked: SettingsRequest = serde_json::from_slice(body)
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("this is no request for settings: {error}")))?;
        let until = tokio::time::Instant::now() + Duration::from_secs(asked.wait.min(MAX_WAIT));
        let mut membership = self.ctx.memberships.follow(&seat.campfire);
        let mut certs = self.certs.clone();
        let mut leader = self.ctx.leadership.follow();
        let mut place = None;
        loop {
            let current = membership.borrow_and_update().clone();
            let pem = certs.borrow_and_update().pem.clone();
            leader.borrow_and_update();
            self.leads()?;
            // Since it began to wait it may have been moved or shut out.
            let seat = self.seat(pod).and_then(|now| if now.campfire == seat.campfire { Ok(now) } else { Err(moved()) })?;
            if let Some(membership) = &current {
                let routes = self.ctx.settings.trusted.rules(&seat.campfire.namespace, &pod.key.namespace);
                let settings = settings(membership, pod, seat.direct, routes, &pem);
                if settings.version != asked.have {
                    return give(&settings);
                }
            }
            if tokio::time::Instant::now() >= until {
                break;
            }
            if place.is_none() {
                match self.held.try_acquire() {
                    Ok(permit) => {
                        place = Some(permit);
                        self.waiting.inc();
                    }
                    Err(_) if current.is_some() => return Ok(come_again()),
                    Err(_) => break,
                }
            }
            tokio::select! {
                changed = membership.changed() => if changed.is_err() { break },
                _ = certs.changed() => {}
                _ = leader.changed() => {}
                () = self.ctx.shutdown.told() => {
                    return Err(Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "the operator ends: its successor will answer", 1));
                }
                () = tokio::time::sleep_until(until) => {}
            }
        }
        if membership.borrow().is_some() {
            return Ok(unchanged());
        }
        Err(Refusal::later(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("Campfire {} has no key or no servers yet: see `kubectl describe campfire`", seat.campfire),
            2,
        ))
    }

    async fn grant(&self, pod: &PodId, seat: &Claim, body: &[u8]) -> Result<Answer, Refusal> {
        let peer = grant::read(body, pod)?;
        let later = |message: &str| Refusal::later(StatusCode::SERVICE_UNAVAILABLE, message, 2);
        let key = self.ctx.signer.key().ok_or_else(|| later("this operator has just begun to lead: try again"))?;
        let membership = self
            .ctx
            .memberships
            .get(&seat.campfire)
            .ok_or_else(|| later("the pod's Campfire has no network yet: see kubectl describe campfire"))?;
        grant::checked(&self.ctx.cluster, pod).await?;
        let routes = self.ctx.settings.trusted.rules(&seat.campfire.namespace, &pod.key.namespace);
        let granted = grant::granted(&key, &membership, pod, &peer, routes)?;
        Ok(message::respond(StatusCode::OK, Bytes::from(serde_json::to_vec(&granted).unwrap_or_default())))
    }

    fn report(&self, pod: PodId, seat: Claim, body: &[u8]) -> Result<Answer, Refusal> {
        let (mut report, proof) = report::read(body, &pod, self.ctx.reports.get(&pod).as_deref())?;
        // Which pod it is a peer says at the fire too: it is not two.
        if let Some(seen) = self.ctx.sightings.get(&seat.campfire).seen.get(&report.identity) {
            let is = |said: &str, own: &str| own.chars().take(MAX_NAME).eq(said.chars());
            if !is(&seen.name, &pod.key.name) || !is(&seen.namespace, &pod.key.namespace) {
                return Err(Refusal::new(StatusCode::FORBIDDEN, "the identity is another peer's, as that one says at the fire"));
            }
        }
        if let Some(membership) = self.ctx.memberships.get(&seat.campfire) {
            // Addresses follow from the identity; those of an older network are nobody's now.
            report.addresses.retain(|address| match address {
                IpAddr::V6(address) => *address == membership.id.address(&report.identity),
                IpAddr::V4(address) => membership.network.ipv4_pool.and_then(|pool| ipv4_in_pool(pool, &report.identity)) == Some(*address),
            });
        } else {
            // An operator that has just begun to lead has not looked at the Campfire yet: what an earlier one let pass stands until the next report.
            let shown = self.shown(&pod);
            report.addresses.retain(|address| shown.contains(&address.to_string()));
        }
        self.ctx.reports.put(pod, Reported { campfire: seat.campfire, report, proof, at: Instant::now() });
        Ok(unchanged())
    }

    /// The addresses of a pod, as its MeshPeer shows them.
    fn shown(&self, pod: &PodId) -> Vec<String> {
        let peer = self.ctx.cluster.peers.get(&pod.key);
        let peer = peer.filter(|peer| peer.spec.pod_ref.as_ref().is_some_and(|shown| shown.uid == pod.uid));
        peer.and_then(|peer| peer.status.as_ref().map(|status| status.addresses.clone())).unwrap_or_default()
    }
}

fn moved() -> Refusal {
    Refusal::later(StatusCode::CONFLICT, "the pod's Campfire changed: ask again", 1)
}

fn unchanged() -> Answer {
    let mut answer = Answer::new(Full::new(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

fn come_again() -> Answer {
    let mut answer = unchanged();
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(COME_AGAIN));
    answer
}

/// Bytes that are wiped once they are sent.
fn give(settings: &campfire_api::agent::Settings) -> Result<Answer, Refusal> {
    let mut body = Zeroizing::new(Vec::with_capacity(8 * 1024));
    let written = serde_json::to_writer(&mut *body, settings);
    if written.is_err() || body.len() > MAX_ANSWER {
        tracing::error!(length = body.len(), "settings too large to be given to a pod: fewer servers or routes are needed");
        return Err(Refusal::later(StatusCode::INTERNAL_SERVER_ERROR, "the settings are too large: see the operator's log", 60));
    }
    Ok(message::respond(StatusCode::OK, Bytes::from_owner(body)))
}
