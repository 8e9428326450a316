//! What sidecars say to the agent API: TLS of their own for each request, a token of their own pod, and nothing shared.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{HEARTBEAT, MAX_WAIT, REPORT_PATH, Report, SETTINGS_PATH, Settings, SettingsRequest};
use campfire_api::names::{AGENT_AUDIENCE, AGENT_SERVICE};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::RETRY_AFTER;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::cluster::{Cluster, Peer, SYSTEM, at_once};

/// Requests at once, where they come as fast as they are taken.
const AT_ONCE: usize = 64;
/// The first pause of a sidecar that got no answer; the next is twice that.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The sidecars of all pods.
pub struct Sidecars {
    each: Vec<Sidecar>,
    tls: TlsConnector,
    operator: SocketAddr,
}

struct Sidecar {
    peer: Peer,
    number: usize,
    token: String,
    report: Bytes,
}

struct Answer {
    status: u16,
    retry_after: Option<u64>,
    body: Bytes,
}

/// What came of a flood.
pub struct Flood {
    pub reports: usize,
    pub refused: u64,
    pub seconds: f64,
    /// Milliseconds, in order.
    pub latencies: Vec<f64>,
}

/// What came of a day's traffic.
#[derive(Default)]
pub struct Day {
    pub reports: AtomicU64,
    pub settings: AtomicU64,
    pub failed: AtomicU64,
}

impl Sidecars {
    /// Gets a token for each pod, as its kubelet does.
    pub async fn new(cluster: &Cluster, peers: &[Peer], port: u16) -> Result<Self> {
        let each = at_once("tokens", 0..peers.len(), async |number| {
            let peer = peers.get(number).context("a peer")?.clone();
            let bound = json!({ "apiVersion": "v1", "kind": "Pod", "name": peer.name, "uid": peer.uid });
            let request =
                json!({ "metadata": {}, "spec": { "audiences": [AGENT_AUDIENCE], "expirationSeconds": 3600, "boundObjectRef": bound } });
            let request: TokenRequest = serde_json::from_value(request)?;
            let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), &peer.namespace);
            let made = accounts.create_token_request("default", &PostParams::default(), &request).await.context("a token")?;
            let token = made.status.context("a token")?.token;
            let statement = peer.report.statement(&peer.namespace, &peer.name, &peer.uid);
            let report = Report { signature: STANDARD.encode(peer.identity.sign(&statement)), ..peer.report.clone() };
            let report = serde_json::to_vec(&report)?.into();
            Ok(Sidecar { peer, number, token, report })
        })
        .await?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(cluster.ca.as_bytes()) {
            roots.add(certificate?)?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Each is a process of its own, which knows no session of another's.
        config.resumption = Resumption::disabled();
        Ok(Self { each, tls: TlsConnector::from(Arc::new(config)), operator: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    /// All report at once, as to a new leader; each tries again when it is told to. Until the last was heard, seconds.
    pub async fn arrive(self: &Arc<Self>) -> Result<f64> {
        let begun = Instant::now();
        let heard = Arc::new(AtomicUsize::new(0));
        let mut all = JoinSet::new();
        for index in 0..self.each.len() {
            let (sidecars, heard) = (self.clone(), heard.clone());
            all.spawn(async move {
                // As the real one: within five seconds, not all in the same moment.
                tokio::time::sleep(Duration::from_millis(random(5_000))).await;
                let sidecar = sidecars.get(index)?;
                let mut pause = FIRST_PAUSE;
                while let Some(asked) = sidecars.report(sidecar).await? {
                    // As the real one.
                    let wait =
                        asked.map_or(pause / 2, |asked| asked) + Duration::from_millis(random(asked.unwrap_or(pause).as_millis() as u64));
                    pause = (pause * 2).min(Duration::from_mins(1));
                    tokio::time::sleep(wait).await;
                }
                heard.fetch_add(1, Ordering::Relaxed);
                anyhow::Ok(())
            });
        }
        let mut told = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                ended = all.join_next() => match ended {
                    Some(ended) => ended??,
                    None => return Ok(begun.elapsed().as_secs_f64()),
                },
                _ = told.tick() => eprintln!("  reports: {} of {}", heard.load(Ordering::Relaxed), self.each.len()),
            }
        }
    }

    /// Reports as fast as they are taken.
    pub async fn flood(self: &Arc<Self>, time: Duration) -> Result<Flood> {
        let begun = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (sidecars, next) = (self.clone(), next.clone());
            workers.spawn(async move {
                let (mut latencies, mut refused) = (Vec::new(), 0);
                while begun.elapsed() < time {
                    let sidecar = sidecars.get(next.fetch_add(1, Ordering::Relaxed) % sidecars.each.len())?;
                    let asked = Instant::now();
                    match sidecars.report(sidecar).await? {
                        None => latencies.push(asked.elapsed().as_secs_f64() * 1e3),
                        Some(_) => refused += 1,
                    }
                }
                anyhow::Ok((latencies, refused))
            });
        }
        let mut flood = Flood { reports: 0, refused: 0, seconds: 0.0, latencies: Vec::new() };
        while let Some(ended) = workers.join_next().await {
            let (latencies, refused) = ended??;
            flood.latencies.extend(latencies);
            flood.refused += refused;
        }
        flood.seconds = begun.elapsed().as_secs_f64();
        flood.reports = flood.latencies.len();
        flood.latencies.sort_by(f64::total_cmp);
        Ok(flood)
    }

    /// All do what sidecars do all day: wait for a change of their settings, and report every five minutes. Ends when what is
    /// returned is dropped.
    pub fn live(self: &Arc<Self>, day: &Arc<Day>) -> JoinSet<()> {
        let mut all = JoinSet::new();
        for index in 0..self.each.len() {
            let (sidecars, counted) = (self.clone(), day.clone());
            all.spawn(async move {
                tokio::time::sleep(Duration::from_millis(random(MAX_WAIT * 1_000))).await;
                let mut have = String::new();
                while let Ok(sidecar) = sidecars.get(index) {
                    let wait = sidecars.settings(sidecar, &mut have, &counted).await;
                    tokio::time::sleep(wait).await;
                }
            });
            let (sidecars, counted) = (self.clone(), day.clone());
            all.spawn(async move {
                tokio::time::sleep(Duration::from_millis(random(HEARTBEAT * 1_000))).await;
                while let Ok(sidecar) = sidecars.get(index) {
                    let wait = match sidecars.report(sidecar).await {
                        Ok(None) => {
                            counted.reports.fetch_add(1, Ordering::Relaxed);
                            Duration::from_secs(HEARTBEAT)
                        }
                        Ok(Some(wait)) => {
                            counted.failed.fetch_add(1, Ordering::Relaxed);
                            wait.unwrap_or(Duration::from_secs(5))
                        }
                        Err(error) => {
                            eprintln!("  {error:#}");
                            return;
                        }
                    };
                    tokio::time::sleep(wait).await;
                }
            });
        }
        all
    }

    /// How long to wait before the next.
    async fn settings(&self, sidecar: &Sidecar, have: &mut String, day: &Day) -> Duration {
        let request = SettingsRequest { have: have.clone(), wait: MAX_WAIT };
        let answer = match serde_json::to_vec(&request) {
            Ok(body) => self.ask(sidecar, SETTINGS_PATH, body.into()).await,
            Err(error) => Err(error.into()),
        };
        match answer {
            Ok(Answer { status: 200, body, .. }) => {
                day.settings.fetch_add(1, Ordering::Relaxed);
                *have = serde_json::from_slice::<Settings>(&body).map(|settings| settings.version).unwrap_or_default();
                Duration::ZERO
            }
            Ok(Answer { status, retry_after, .. }) => {
                let counter = if status == 204 { &day.settings } else { &day.failed };
                counter.fetch_add(1, Ordering::Relaxed);
                retry_after.map(|seconds| Duration::from_millis(seconds * 1_000 + random(seconds * 100))).unwrap_or_default()
            }
            Err(_) => {
                day.failed.fetch_add(1, Ordering::Relaxed);
                Duration::from_secs(5)
            }
        }
    }

    /// `Some`: not now, but, if that was said, in so long.
    async fn report(&self, sidecar: &Sidecar) -> Result<Option<Option<Duration>>> {
        match self.ask(sidecar, REPORT_PATH, sidecar.report.clone()).await {
            // No connection: there are bounds on them.
            Err(_) => Ok(Some(None)),
            Ok(Answer { status: 204, .. }) => Ok(None),
            Ok(Answer { retry_after: Some(seconds), .. }) => Ok(Some(Some(Duration::from_secs(seconds)))),
            Ok(Answer { status, body, .. }) => bail!("a report was refused: {status} {}", String::from_utf8_lossy(&body)),
        }
    }

    async fn ask(&self, sidecar: &Sidecar, path: &str, body: Bytes) -> Result<Answer> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Peer::node(sidecar.number), 0)))?;
        let stream = socket.connect(self.operator).await.context("the agent API")?;
        let stream = self.tls.connect(ServerName::try_from(format!("{AGENT_SERVICE}.{SYSTEM}.svc"))?, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::post(path).header("host", "operator").header("authorization", format!("Bearer {}", sidecar.token));
        let answer = sender.send_request(request.body(Full::new(body))?).await?;
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = answer.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok(Answer { status, retry_after, body })
    }

    fn get(&self, index: usize) -> Result<&Sidecar> {
        self.each.get(index).context("a sidecar")
    }

    /// The pods that they are in.
    pub fn len(&self) -> usize {
        self.each.iter().map(|sidecar| &sidecar.peer.uid).filter(|uid| !uid.is_empty()).count()
    }
}

/// Below `bound`.
fn random(bound: u64) -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers all come at once.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes) % bound.max(1)
}
