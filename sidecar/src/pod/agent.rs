//! The operator's agent API, as a sidecar uses it: JSON over HTTPS, with the pod's projected token.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{
    GRANT_PATH, GrantRequest, Granted, HEARTBEAT, MAX_ANSWER, MAX_WAIT, REPORT_PATH, Report, SETTINGS_PATH, Settings, SettingsRequest,
};
use campfire_api::names::{AGENT_DIR, CA_FILE, TOKEN_FILE};
use campfire_protocol::identity::Identity;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::pins::{self, Pinned};
use crate::cli::Options;
use crate::config::BadConfig;

/// For an answer that need not wait. Short: what answers nothing now is better asked anew than waited for.
const PATIENCE: Duration = Duration::from_secs(4);
/// For a connection by the name, before the address is tried too: DNS may not know it, or somebody on the way may hold it.
const BY_NAME: Duration = Duration::from_millis(1_500);
/// Least time between two reports.
const BETWEEN: Duration = Duration::from_secs(5);
/// Largest token or CA file that is read, bytes.
const MAX_FILE: usize = 256 * 1024;

/// Why the operator gave no answer that can be used. Never echoes a token or settings.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It is to be asked again after so long.
    #[error("{1}")]
    Later(Duration, String),
    /// It answers, and refuses.
    #[error("{1}")]
    Refused(StatusCode, String),
    /// It cannot be asked, cannot be reached, or what it answers cannot be read.
    #[error("{0}")]
    Unreached(String),
}

impl Failure {
    /// How long it wants to be left in peace, if it says so.
    pub fn later(&self) -> Option<Duration> {
        match self {
            Self::Later(later, _) => Some(*later),
            Self::Refused(..) | Self::Unreached(_) => None,
        }
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Unreached(why)
    }
}

/// Where the agent API is, and how to show who we are.
pub struct Agent {
    host: String,
    port: u16,
    address: Option<IpAddr>,
    token_file: PathBuf,
    ca_file: PathBuf,
    /// What the operator said last of its CA: a long-lived pod's own file does not change.
    ca: Mutex<String>,
}

impl Agent {
    /// From `--agent`, `--agent-token-file`, `--agent-ca-file`.
    pub fn new(options: &Options) -> Result<Self, BadConfig> {
        let url = options.agent.as_deref().unwrap_or_default();
        let bad = || BadConfig("--agent: expected https://HOST:PORT, such as https://campfire-agent.campfire-system.svc:8443".into());
        let (host, port) = url.strip_prefix("https://").and_then(|rest| rest.trim_end_matches('/').rsplit_once(':')).ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        if host.is_empty() || host.contains(['/', '@', '?', '#']) {
            return Err(bad());
        }
        let file = |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| PathBuf::from(AGENT_DIR).join(name));
        Ok(Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            address: options.agent_address,
            token_file: file(&options.agent_token_file, TOKEN_FILE),
            ca_file: file(&options.agent_ca_file, CA_FILE),
            ca: Mutex::default(),
        })
    }

    /// Trusts these CA certificates too, PEM, instead of those trusted so before.
    pub fn trust(&self, pem: &str) {
        pem.clone_into(&mut self.ca.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The settings, if they are others than those of version `have`; waits up to `wait` seconds for a change.
    pub async fn settings(&self, have: &str, wait: u64) -> Result<Option<Settings>, Failure> {
        let body = SettingsRequest { have: have.to_owned(), wait: wait.min(MAX_WAIT) };
        let answer = self.post(SETTINGS_PATH, &body, PATIENCE + Duration::from_secs(body.wait)).await?;
        match answer {
            None => Ok(None),
            Some(text) => serde_json::from_slice(&text)
                .map(Some)
                // Not the parser's own words: they may quote what they found.
                .map_err(|error| {
                    Failure::Unreached(format!("its settings cannot be read (line {}, column {})", error.line(), error.column()))
                }),
        }
    }

    /// Reports.
    pub async fn report(&self, report: &Report) -> Result<(), Failure> {
        self.post(REPORT_PATH, report, PATIENCE).await.map(drop)
    }

    /// What the pod shows its node's agent.
    pub async fn grant(&self, request: &GrantRequest) -> Result<Granted, Failure> {
        let answer = self.post(GRANT_PATH, request, PATIENCE).await?.unwrap_or_default();
        let unread = |error: serde_json::Error| Failure::Unreached(format!("its grant cannot be read: {error}"));
        serde_json::from_slice(&answer).map_err(unread)
    }

    async fn post<T: serde::Serialize>(&self, path: &str, body: &T, patience: Duration) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
        match tokio::time::timeout(patience, self.exchange(path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Unreached(format!("{}:{} does not answer in time", self.host, self.port))),
        }
    }

    async fn exchange(&self, path: &str, body: Vec<u8>) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let authority = format!("{}:{}", self.host, self.port);
        let said = |what: &str, error: &dyn std::fmt::Display| Failure::Unreached(format!("{authority}: {what}: {error}"));
        let token = self.token()?;
        let tls = TlsConnector::from(self.tls()?);
        let name = ServerName::try_from(self.host.clone()).map_err(|error| said("no host name", &error))?;
        let stream = self.connect().await.map_err(|error| said("no connection", &error))?;
        let stream =
            tls.connect(name, stream).await.map_err(|error| Failure::Unreached(format!("{authority}: {}", self.explain(&error))))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| said("no HTTP", &error))?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &authority)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, token.as_str())
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| Failure::Unreached(format!("{}: holds no token", self.token_file.display())))?;
        let answer = sender.send_request(request).await;
        let result = match answer {
            Err(error) => Err(said("no answer", &error)),
            Ok(answer) => {
                let status = answer.status();
                let later = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                let text =
                    Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| said("the answer breaks off", &error))?;
                let text = Zeroizing::new(text.to_bytes().to_vec());
                match (status, later) {
                    (StatusCode::OK, _) => Ok(Some(text)),
                    // Nothing changed, and nobody could wait for it there.
                    (StatusCode::NO_CONTENT, Some(seconds)) if path == SETTINGS_PATH => {
                        Err(Failure::Later(Duration::from_secs(seconds.min(300)), "nothing new".into()))
                    }
                    (StatusCode::NO_CONTENT, _) => Ok(None),
                    (_, Some(seconds)) => Err(Failure::Later(Duration::from_secs(seconds.min(300)), refusal(status, &text))),
                    _ => Err(Failure::Refused(status, refusal(status, &text))),
                }
            }
        };
        drop(sender);
        connection.abort();
        result
    }

    /// By name; and where that fails, or takes long, by the address that the webhook knew.
    async fn connect(&self) -> io::Result<TcpStream> {
        let by_name = TcpStream::connect((self.host.as_str(), self.port));
        let Some(address) = self.address else { return by_name.await };
        match tokio::time::timeout(BY_NAME, by_name).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(_)) | Err(_) => TcpStream::connect((address, self.port)).await,
        }
    }

    /// Why there is no TLS, and what to do.
    fn explain(&self, error: &io::Error) -> String {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => format!(
                "the certificate is not of the operator's CA as this pod knows it ({why}; {}): make the pod anew, and if that does not help look at who \
                 answers there",
                self.ca_file.display()
            ),
            _ => format!("TLS: {error}"),
        }
    }

    /// The header with the token. Read each time: the kubelet renews it.
    fn token(&self) -> Result<Zeroizing<String>, Failure> {
        let shown = self.token_file.display();
        let text = read(&self.token_file).map_err(|error| format!("{shown}: {error}; is the projected token mounted?"))?;
        Ok(Zeroizing::new(format!("Bearer {}", text.trim())))
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, Failure> {
        let mut roots = RootCertStore::empty();
        let said = self.ca.lock().unwrap_or_else(PoisonError::into_inner).clone();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(said.as_bytes()).filter_map(Result::ok));
        let pins = pins::read(&read(&self.ca_file).unwrap_or_default());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pinned = Pinned::new(pins, roots, provider.clone()).ok_or_else(|| {
            Failure::Unreached(format!("{}: no hash of the operator's CA in it: make the pod anew", self.ca_file.display()))
        })?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pinned))
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

fn read(path: &std::path::Path) -> io::Result<Zeroizing<String>> {
    let text = Zeroizing::new(fs::read_to_string(path)?);
    if text.len() > MAX_FILE { Err(io::Error::other(format!("longer than {MAX_FILE} bytes"))) } else { Ok(text) }
}

/// What the operator says for people, without control characters and not too much of it.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        message: String,
    }
    let message = serde_json::from_slice::<Body>(body).map(|body| body.message).unwrap_or_default();
    let message: String = message.chars().filter(|c| !c.is_control()).take(300).collect();
    if message.is_empty() { status.to_string() } else { format!("{message} ({status})") }
}

/// From 0 up to 1.
fn random() -> f64 {
    let mut bytes = [0; 2];
    // Without random numbers all come at once: no reason to fail.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u16::from_le_bytes(bytes)) / 65_536.0
}

/// Pauses that grow, with jitter, so that sidecars do not come all at once when an operator returns.
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);

    /// From a quarter of a second to `longest`.
    pub fn new(longest: Duration) -> Self {
        Self { next: Self::FIRST, longest }
    }

    /// Something worked.
    pub fn reset(&mut self) {
        self.next = Self::FIRST;
    }

    /// Pauses; `asked`: as long as that at least.
    pub async fn wait(&mut self, asked: Option<Duration>) {
        let pause = self.next;
        self.next = (self.next * 2).min(self.longest);
        let jitter = 0.5 + random();
        tokio::time::sleep(asked.unwrap_or(pause).mul_f64(if asked.is_some() { 0.5 + jitter } else { jitter })).await;
    }
}

/// Who reports: a peer in its pod.
pub struct Reporter {
    identity: Identity,
    namespace: String,
    name: String,
    uid: String,
}

impl Reporter {
    /// This peer, in the pod that the operator says it is.
    pub fn new(identity: &Identity, settings: &Settings) -> Self {
        let Settings { namespace, name, uid, .. } = settings;
        Self { identity: identity.clone(), namespace: namespace.clone(), name: name.clone(), uid: uid.clone() }
    }

    /// The same report, with the proof that it is this one's.
    fn signed(&self, report: &Report) -> Report {
        let signature = self.identity.sign(&report.statement(&self.namespace, &self.name, &self.uid));
        Report { signature: STANDARD.encode(signature), ..report.clone() }
    }
}

/// Reports what changes, with [`BETWEEN`] between two, and every [`HEARTBEAT`] if nothing does.
pub async fn report(agent: Arc<Agent>, reporter: Reporter, mut reports: watch::Receiver<Option<Report>>) {
    let mut pause = Backoff::new(Duration::from_mins(1));
    let mut said: Option<Report> = None;
    loop {
        let changed = reports.wait_for(|now| now.as_ref().is_some_and(|report| !report.identity.is_empty()) && *now != said);
        // Earlier by up to a fifth, so that pods that were made together do not report together.
        let quiet = Duration::from_secs(HEARTBEAT).mul_f64(1.0 - random() / 5.0);
        if let Ok(Err(_)) = tokio::time::timeout(quiet, async { changed.await.map(drop) }).await {
            return;
        }
        // The first report of a peer follows its first look at itself.
        let Some(now) = reports.borrow_and_update().clone().filter(|report| !report.identity.is_empty()) else { continue };
        match agent.report(&reporter.signed(&now)).await {
            Ok(()) => {
                pause.reset();
                said = Some(now);
                tokio::time::sleep(BETWEEN).await;
            }
            Err(failure) => {
                debug!("not reported: {failure}");
                let later = if let Failure::Later(later, _) = &failure { Some(*later) } else { None };
                if matches!(&failure, Failure::Unreached(why) if why.contains("(4")) {
                    warn!("the operator refuses this pod's report: {failure}");
                }
                pause.wait(later).await;
            }
        }
    }
}
