//! Who asks: from the token alone, as the API server confirms it.
//!
//! Before the API server is asked, what the token claims (not yet believed) must fit a pod that is known, whose uid nobody can
//! guess: a flood of made-up tokens costs the API server nothing. What it said is remembered for [`REMEMBER`], by the token's
//! hash; of several requests with one new token one asks and the others wait for it.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use campfire_api::names::AGENT_AUDIENCE;
use hyper::StatusCode;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use prometheus_client::metrics::counter::Counter;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::bounds::{Bucket, Recent};
use crate::cluster::of_secret;
use crate::state::{ObjectKey, PodId};
use campfire_http::message::Refusal;

/// For so long, and no longer than the token lives, an answer of the API server is believed.
pub const REMEMBER: Duration = Duration::from_mins(5);
/// A refused token is not asked for again in this time.
const REMEMBER_REFUSED: Duration = Duration::from_secs(10);
/// Tokens that are remembered, at most.
const TOKENS: usize = 32_768;
/// Refused ones.
const REFUSED: usize = 4_096;
/// Addresses whose rate is remembered.
const ADDRESSES: usize = 8_192;
/// Longest token, bytes.
const MAX_TOKEN: usize = 8 * 1024;
/// TokenReviews a second, and at once: for a new leader of 10,000 pods a minute's work.
const RATE: f64 = 200.0;
const BURST: f64 = 400.0;
/// The same of one address (a node with 110 pods, if addresses are translated).
const RATE_ADDRESS: f64 = 10.0;
const BURST_ADDRESS: f64 = 150.0;
/// Nobody is told to come again later than this.
const LONGEST: Duration = Duration::from_mins(1);
/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks whether a token is good; the error is for the log.
pub trait Reviewer: Send + Sync + 'static {
    /// Asks.
    fn review(&self, token: Zeroizing<String>) -> Pin<Box<dyn Future<Output = Result<TokenReviewStatus, String>> + Send>>;
}

/// The API server.
pub struct ApiServer(pub kube::Client);

impl Reviewer for ApiServer {
    fn review(&self, token: Zeroizing<String>) -> Pin<Box<dyn Future<Output = Result<TokenReviewStatus, String>> + Send>> {
        let reviews = Api::<TokenReview>::all(self.0.clone());
        Box::pin(async move {
            let spec = TokenReviewSpec { audiences: Some(vec![AGENT_AUDIENCE.into()]), token: Some((*token).clone()) };
            let mut review = TokenReview { metadata: ObjectMeta::default(), spec, status: None };
            let answer = tokio::time::timeout(PATIENCE, reviews.create(&PostParams::default(), &review)).await;
            if let Some(token) = review.spec.token.take() {
                drop(Zeroizing::new(token));
            }
            match answer {
                Ok(Ok(review)) => review.status.ok_or_else(|| "the API server's TokenReview has no status".into()),
                // An API server may quote what it refuses: here the token.
                Ok(Err(error)) => Err(of_secret(&error)),
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            }
        })
    }
}

/// What a token says of itself: not believed, but a reason not to ask.
struct Claims {
    pod: PodId,
    expires: Instant,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    aud: Audience,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

#[derive(Deserialize)]
struct Bound {
    namespace: String,
    pod: BoundPod,
}

#[derive(Deserialize)]
struct BoundPod {
    name: String,
    uid: String,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
    #[default]
    None,
}

fn unauthorized(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, message)
}

impl Claims {
    fn read(token: &str) -> Result<Self, Refusal> {
        let not_ours = || {
            unauthorized(format!("the token is not bound to a pod: mount a projected serviceAccountToken with audience {AGENT_AUDIENCE}"))
        };
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(not_ours());
        };
        let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).map_err(|_| not_ours())?);
        let payload: Payload = serde_json::from_slice(&payload).map_err(|_| not_ours())?;
        let meant = match &payload.aud {
            Audience::One(audience) => audience == AGENT_AUDIENCE,
            Audience::Many(audiences) => audiences.iter().any(|audience| audience == AGENT_AUDIENCE),
            Audience::None => false,
        };
        if !meant {
            return Err(unauthorized(format!("the token is for another audience: it must be {AGENT_AUDIENCE}")));
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if payload.exp <= now {
            return Err(unauthorized("the token has expired: read it again from its file, which the kubelet keeps fresh"));
        }
        let left = Duration::from_secs(payload.exp - now).min(REMEMBER);
        let Bound { namespace, pod: BoundPod { name, uid } } = payload.kubernetes;
        let plain = |text: &String| text.len() <= 253 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        // They stand in refusals and in the log.
        if ![&namespace, &name, &uid].into_iter().all(plain) {
            return Err(not_ours());
        }
        let pod = PodId { key: ObjectKey::new(namespace, name), uid };
        Ok(Self { pod, expires: Instant::now() + left })
    }
}

type Outcome = Result<PodId, Refusal>;

#[derive(Clone)]
enum Entry {
    /// It is the pod's that it claims to be of. Until then.
    Known(Instant),
    Asking(watch::Receiver<Option<Outcome>>),
}

struct Memory {
    tokens: Recent<[u8; 32], Entry>,
    refused: Recent<[u8; 32], (Refusal, Instant)>,
    addresses: Recent<IpAddr, Bucket>,
    all: Bucket,
    /// When the last of those has a place who were told to come again.
    booked: Instant,
}

impl Memory {
    /// When there is a place for one more: of thousands who were told "in a second" thousands would be back in a second, and their
    /// handshakes leave no time for anything else.
    fn place(&mut self, now: Instant) -> Duration {
        self.booked = (self.booked.max(now) + Duration::from_secs_f64(1.0 / RATE)).min(now + LONGEST);
        self.booked.saturating_duration_since(now)
    }
}

/// Takes tokens for pods.
pub struct Tokens {
    reviewer: Arc<dyn Reviewer>,
    memory: Arc<Mutex<Memory>>,
    /// Times that the API server was asked.
    pub asked: Counter,
}

impl Tokens {
    /// Nothing remembered.
    pub fn new(reviewer: Arc<dyn Reviewer>) -> Self {
        let memory = Memory {
            tokens: Recent::new(TOKENS),
            refused: Recent::new(REFUSED),
            addresses: Recent::new(ADDRESSES),
            all: Bucket::new(BURST, Instant::now()),
            booked: Instant::now(),
        };
        Self { reviewer, memory: Arc::new(Mutex::new(memory)), asked: Counter::default() }
    }

    /// The pod whose token this is. `known` says whether there is such a pod.
    ///
    /// # Errors
    /// 401 (the token), 403 (the pod), 429 (too much), 503 (the API server).
    pub async fn pod(&self, token: &str, from: IpAddr, known: impl Fn(&PodId) -> Result<(), Refusal>) -> Outcome {
        if token.len() > MAX_TOKEN {
            return Err(unauthorized("the token is too long"));
        }
        let claims = Claims::read(token)?;
        known(&claims.pod)?;
        let hash: [u8; 32] = Sha256::digest(token).into();
        let mut waiting = match self.find(&hash, from)? {
            Found::Known => return Ok(claims.pod),
            Found::Asked(waiting) => waiting,
            Found::New(asker) => {
                self.asked.inc();
                let waiting = asker.subscribe();
                // On its own: who asked may break off, and others wait for the same answer.
                let review = self.reviewer.review(Zeroizing::new(token.to_owned()));
                tokio::spawn(ask(self.memory.clone(), hash, claims, review, asker));
                waiting
            }
        };
        let outcome = waiting.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(unchecked()))
    }

    fn find(&self, hash: &[u8; 32], from: IpAddr) -> Result<Found, Refusal> {
        let now = Instant::now();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        match memory.tokens.get(hash) {
            Some(Entry::Known(until)) if now < *until => return Ok(Found::Known),
            Some(Entry::Asking(waiting)) => return Ok(Found::Asked(waiting.clone())),
            _ => {}
        }
        if let Some((refusal, until)) = memory.refused.get(hash)
            && now < *until
        {
            return Err(refusal.clone());
        }
        if memory.addresses.get(&from).is_none() {
            memory.addresses.insert(from, Bucket::new(BURST_ADDRESS, now));
        }
        let address = memory.addresses.get(&from).map_or(Ok(()), |bucket| bucket.take(now, RATE_ADDRESS, BURST_ADDRESS));
        address.and_then(|()| memory.all.take(now, RATE, BURST).map_err(|_| memory.place(now))).map_err(|wait| {
            Refusal::later(StatusCode::TOO_MANY_REQUESTS, "too many new tokens at once: try again later", wait.as_secs() + 1)
        })?;
        let asker = watch::Sender::new(None);
        memory.tokens.insert(*hash, Entry::Asking(asker.subscribe()));
        Ok(Found::New(asker))
    }
}

enum Found {
    Known,
    Asked(watch::Receiver<Option<Outcome>>),
    New(watch::Sender<Option<Outcome>>),
}

fn unchecked() -> Refusal {
    Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "the API server could not check the token: try again", 2)
}

async fn ask(
    memory: Arc<Mutex<Memory>>,
    hash: [u8; 32],
    claims: Claims,
    review: impl Future<Output = Result<TokenReviewStatus, String>>,
    asker: watch::Sender<Option<Outcome>>,
) {
    let outcome = match review.await {
        Ok(status) => proven(&status).and_then(|pod| {
            // They differ only if the token was made to look like another pod's.
            if pod == claims.pod { Ok(pod) } else { Err(unauthorized("the token is another pod's")) }
        }),
        Err(error) => {
            tracing::warn!(error, "cannot check a sidecar's token by TokenReview; it is told to try again");
            Err(unchecked())
        }
    };
    {
        let now = Instant::now();
        let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Ok(_) => memory.tokens.insert(hash, Entry::Known(claims.expires)),
            Err(refusal) => {
                memory.tokens.remove(&hash);
                if refusal.retry_after.is_none() {
                    memory.refused.insert(hash, (refusal.clone(), now + REMEMBER_REFUSED));
                }
            }
        }
    }
    asker.send_replace(Some(outcome));
}

/// What the API server says that the token proves.
fn proven(status: &TokenReviewStatus) -> Result<PodId, Refusal> {
    if status.authenticated != Some(true) {
        return Err(unauthorized(
            "the API server of this cluster does not accept the token: it has expired, is another cluster's, or its pod is gone",
        ));
    }
    if !status.audiences.iter().flatten().any(|audience| audience == AGENT_AUDIENCE) {
        return Err(unauthorized(format!("the token is for another audience: it must be {AGENT_AUDIENCE}")));
    }
    let unbound = || unauthorized("the token is not bound to a pod: mount a projected serviceAccountToken");
    let user = status.user.as_ref().ok_or_else(unbound)?;
    let account = user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:"));
    let (namespace, _) = account.and_then(|account| account.split_once(':')).ok_or_else(unbound)?;
    let one = |key: &str| match user.extra.as_ref().and_then(|extra| extra.get(key)).map(Vec::as_slice) {
        Some([value]) => Ok(value.clone()),
        _ => Err(unbound()),
    };
    let name = one("authentication.kubernetes.io/pod-name")?;
    let uid = one("authentication.kubernetes.io/pod-uid")?;
    Ok(PodId { key: ObjectKey::new(namespace, name), uid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_room_is_told_to_come_when_there_is_some_for_it_within_a_minute() {
        struct Nobody;
        impl Reviewer for Nobody {
            fn review(&self, _: Zeroizing<String>) -> Pin<Box<dyn Future<Output = Result<TokenReviewStatus, String>> + Send>> {
                Box::pin(async { Err("nobody is asked".into()) })
            }
        }
        let tokens = Tokens::new(Arc::new(Nobody));
        let mut memory = tokens.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let places: Vec<u64> = (0..100_000).map(|_| memory.place(now).as_secs()).collect();
        for second in 0..59 {
            assert!((199..=201).contains(&places.iter().filter(|place| **place == second).count()), "in second {second}");
        }
        assert_eq!(places.last(), Some(&60));
        assert!(memory.place(now + LONGEST) < Duration::from_secs(1), "their time has come and gone");
    }
}
