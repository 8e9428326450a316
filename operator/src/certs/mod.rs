//! The operator's own CA. Secret [`CA_SECRET`] in the operator's namespace holds it, and for its last months the next one too. The
//! leader makes and rotates both; each replica follows that one Secret and makes itself, in memory, a certificate for the
//! Services that it answers for. The leader also keeps the CA in the webhook's configuration.
//!
//! Order of a rotation: the next CA is published (in the Secret, the webhook's configuration, new pods and the settings of old
//! ones) [`Times::publish`] before the current one ends; [`Times::switch`] before the end it becomes the current one. What lies
//! between is the time that a pod has to learn of it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::names::{AGENT_SERVICE, CA_PIN, CA_SECRET, FIELD_MANAGER, STANDBY_SERVICE, WEBHOOK_CONFIGURATION, WEBHOOK_SERVICE};
use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::cluster::{of_secret, of_watched_secret};
use crate::context::Context;
use crate::health::Gate;

const DAY: Duration = Duration::from_hours(24);

/// Lifetimes, and how long before an end what is done.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Lifetime of a CA.
    pub ca: Duration,
    /// The next CA is published so long before the current one's end.
    pub publish: Duration,
    /// The next CA takes over so long before the current one's end.
    pub switch: Duration,
    /// Lifetime of a server's certificate; with a third of it left it is made anew.
    pub server: Duration,
    /// Certificates hold from so long before they are made: clocks differ.
    pub skew: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { ca: 365 * DAY, publish: 60 * DAY, switch: 30 * DAY, server: 15 * DAY, skew: DAY / 24 }
    }
}

/// What the operator's servers serve with, and what others check them with.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// CA certificates, current first, PEM. Empty: no CA yet.
    pub pem: String,
    /// `None`: no CA yet.
    pub servers: Option<Servers>,
}

impl Bundle {
    /// By what pods know the CA certificates: see [`CA_ANNOTATION`](campfire_api::names::CA_ANNOTATION). Empty: no CA yet.
    pub fn pins(&self) -> String {
        let certificates = CertificateDer::pem_slice_iter(self.pem.as_bytes()).filter_map(Result::ok);
        let pins: Vec<String> =
            certificates.map(|certificate| format!("{CA_PIN}{}", STANDARD.encode(Sha256::digest(&certificate)))).collect();
        pins.join(" ")
    }
}

/// One certificate, as it is shown to those who call.
#[derive(Clone, Debug)]
pub struct Servers {
    /// The agent API: TLS 1.3, as sidecars are ours.
    pub agent: Arc<ServerConfig>,
    /// The webhook: TLS 1.2 too, as an API server may be held to that (`--tls-min-version` and FIPS builds of some distributions).
    pub webhook: Arc<ServerConfig>,
}

/// How a server speaks whose certificate is the one of now.
pub fn wire(bundle: watch::Receiver<Arc<Bundle>>, of: fn(&Servers) -> &Arc<ServerConfig>) -> campfire_http::Wire {
    campfire_http::Wire::Tls(Arc::new(move || bundle.borrow().servers.as_ref().map(|servers| of(servers).clone())))
}

/// Why a Secret holds no CA.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key is missing, or no text.
    #[error("Secret {CA_SECRET} has no readable `{0}`")]
    Missing(&'static str),
    /// It can't be read as what it should be.
    #[error("`{0}` in Secret {CA_SECRET} is no CA certificate or key that the operator made")]
    Unreadable(&'static str),
    /// Two things that do not belong together.
    #[error("`{0}` in Secret {CA_SECRET} belongs to another key")]
    Mismatch(&'static str),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS refused what was made.
    #[error("cannot serve with the certificate made: {0}")]
    Tls(#[from] rustls::Error),
}

/// One CA.
#[derive(Clone, PartialEq, Eq)]
struct Ca {
    certificate: String,
    key: Zeroizing<String>,
    ends: SystemTime,
}

impl Ca {
    fn make(now: SystemTime, times: &Times) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        // The name carries the time, so that current and next differ for those who choose an issuer by its name.
        let made = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        params.distinguished_name.push(DnType::CommonName, format!("campfire-operator-ca-{made}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let ends = now + times.ca;
        params.not_before = (now - times.skew).into();
        params.not_after = ends.into();
        let certificate = params.self_signed(&key)?;
        Self::read(&certificate.pem(), Zeroizing::new(key.serialize_pem()), "ca.crt", "ca.key")
    }

    fn read(certificate: &str, key: Zeroizing<String>, crt_name: &'static str, key_name: &'static str) -> Result<Self, Error> {
        let pair = KeyPair::from_pem(&key).map_err(|_| Error::Unreadable(key_name))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| Error::Unreadable(crt_name))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| Error::Unreadable(crt_name))?;
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(Error::Mismatch(crt_name));
        }
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).map_err(|_| Error::Unreadable(crt_name))?;
        Ok(Self { certificate: certificate.to_owned(), key, ends: SystemTime::UNIX_EPOCH + Duration::from_secs(ends) })
    }

    fn left(&self, now: SystemTime) -> Duration {
        self.ends.duration_since(now).unwrap_or_default()
    }
}

/// The current CA and, near its end, the next one.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    current: Ca,
    next: Option<Ca>,
}

impl Authority {
    /// A new one.
    pub fn make(now: SystemTime, times: &Times) -> Result<Self, Error> {
        Ok(Self { current: Ca::make(now, times)?, next: None })
    }

    /// Reads the Secret's data.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, Error> {
        let text = |key: &'static str| data.get(key).and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
        let ca = |crt: &'static str, key: &'static str| {
            let certificate = text(crt).ok_or(Error::Missing(crt))?;
            let secret = text(key).ok_or(Error::Missing(key))?;
            Ca::read(certificate, Zeroizing::new(secret.to_owned()), crt, key)
        };
        let next = if data.contains_key("next.crt") || data.contains_key("next.key") { Some(ca("next.crt", "next.key")?) } else { None };
        Ok(Self { current: ca("ca.crt", "ca.key")?, next })
    }

    /// The Secret's data.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::new();
        let mut put = |name: &str, text: &str| data.insert(name.to_owned(), ByteString(text.as_bytes().to_vec()));
        put("ca.crt", &self.current.certificate);
        put("ca.key", &self.current.key);
        if let Some(next) = &self.next {
            put("next.crt", &next.certificate);
            put("next.key", &next.key);
        }
        data
    }

    /// What the leader makes of it now; `None`: it is as it should be.
    pub fn step(&self, now: SystemTime, times: &Times) -> Result<Option<Self>, Error> {
        let left = self.current.left(now);
        match &self.next {
            // A next one that is over as well helps nobody.
            Some(next) if left <= times.switch && next.left(now) > times.switch => Ok(Some(Self { current: next.clone(), next: None })),
            None if left <= times.publish && !left.is_zero() => {
                Ok(Some(Self { current: self.current.clone(), next: Some(Ca::make(now, times)?) }))
            }
            _ if left.is_zero() => Self::make(now, times).map(Some),
            _ => Ok(None),
        }
    }

    /// CA certificates, current first, PEM.
    pub fn pem(&self) -> String {
        let next = self.next.as_ref().map_or("", |next| &next.certificate);
        format!("{}{next}", self.current.certificate)
    }

    /// A certificate for `names` in memory, and when to make the next one.
    pub fn server(&self, names: &[String], now: SystemTime, times: &Times) -> Result<(Servers, SystemTime), Error> {
        let issuer = Issuer::from_ca_cert_pem(&self.current.certificate, KeyPair::from_pem(&self.current.key)?)?;
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "campfire-operator");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let ends = (now + times.server).min(self.current.ends);
        params.not_before = (now - times.skew).into();
        params.not_after = ends.into();
        let certificate = params.signed_by(&key, &issuer)?;
        // The CA too: pods know it by its hash alone.
        let ca = CertificateDer::from_pem_slice(self.current.certificate.as_bytes()).map_err(|_| Error::Unreadable("ca.crt"))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = |versions| -> Result<Arc<ServerConfig>, Error> {
            let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(versions)?
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone(), ca.clone()], key.clone_key())?;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            // Connections are short and many: tickets would cost more memory than the handshakes that they save.
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            Ok(Arc::new(config))
        };
        let servers =
            Servers { agent: config(&[&rustls::version::TLS13])?, webhook: config(&[&rustls::version::TLS13, &rustls::version::TLS12])? };
        let lifetime = ends.duration_since(now).unwrap_or_default();
        Ok((servers, now + lifetime * 2 / 3))
    }
}

/// The names that the operator's servers are called by.
pub fn server_names(namespace: &str) -> Vec<String> {
    let of = |service: &str| {
        ["", ".cluster.local"].map(|tail| format!("{service}.{namespace}.svc{tail}")).into_iter().chain([format!("{service}.{namespace}")])
    };
    [AGENT_SERVICE, WEBHOOK_SERVICE, STANDBY_SERVICE].into_iter().flat_map(of).collect()
}

/// Follows (and, while leader, keeps) the CA. The bundle is empty until there is one.
pub fn run(ctx: Arc<Context>) -> watch::Receiver<Arc<Bundle>> {
    let (sender, bundle) = watch::channel(Arc::<Bundle>::default());
    let ready = ctx.readiness.gate("certificate");
    let known = ctx.readiness.gate("the CA in the webhook's configuration");
    tokio::spawn(keep_webhook(ctx.clone(), bundle.clone(), known));
    tokio::spawn(Keeper::new(ctx, Times::default(), sender, ready).run());
    bundle
}

/// What the API server said of the Secret last.
enum Stored {
    Unknown,
    Absent,
    /// With its resource version.
    There(Option<String>),
    /// It holds no CA; with its resource version.
    Broken(Option<String>),
}

struct Keeper {
    ctx: Arc<Context>,
    times: Times,
    sender: watch::Sender<Arc<Bundle>>,
    stored: Stored,
    held: Option<Authority>,
    renew: Option<SystemTime>,
    ready: Gate,
}

impl Keeper {
    fn new(ctx: Arc<Context>, times: Times, sender: watch::Sender<Arc<Bundle>>, ready: Gate) -> Self {
        Self { ctx, times, sender, stored: Stored::Unknown, held: None, renew: None, ready }
    }

    async fn run(mut self) {
        let secrets = Api::<Secret>::namespaced(self.ctx.cluster.client.clone(), &self.ctx.settings.namespace);
        let mut changes = pin!(watcher::watch_object(secrets.clone(), CA_SECRET).default_backoff());
        let mut leader = self.ctx.leadership.follow();
        let mut retry = Duration::from_secs(1);
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(Ok(secret)) => self.take(secret),
                    Some(Err(error)) => tracing::warn!(error = of_watched_secret(&error), "cannot watch Secret {CA_SECRET}: check the operator's Role; trying again"),
                    None => return,
                },
                changed = leader.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(retry) => {}
            }
            // Nothing here is in a hurry: lifetimes are days.
            retry = Duration::from_mins(10);
            if *leader.borrow()
                && self.ctx.leadership.may_write()
                && let Err(error) = self.write(&secrets).await
            {
                tracing::warn!(error = format!("{error:#}"), "cannot keep Secret {CA_SECRET}; trying again");
                retry = Duration::from_secs(5);
            }
            if let Err(error) = self.serve() {
                tracing::error!(%error, "cannot make the operator's server certificate; trying again");
                retry = Duration::from_secs(30);
            }
        }
    }

    fn take(&mut self, secret: Option<Secret>) {
        let Some(secret) = secret else {
            self.stored = Stored::Absent;
            return;
        };
        let version = secret.resource_version();
        match Authority::read(secret.data.as_ref().unwrap_or(&BTreeMap::new())) {
            Ok(authority) => {
                self.stored = Stored::There(version);
                if self.held.as_ref() != Some(&authority) {
                    self.held = Some(authority);
                    self.renew = None;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the leader puts the CA back");
                self.stored = Stored::Broken(version);
            }
        }
    }

    /// Leader only: makes the Secret, puts it back, or moves the rotation on.
    async fn write(&mut self, secrets: &Api<Secret>) -> anyhow::Result<()> {
        let now = SystemTime::now();
        let (wanted, version) = match &self.stored {
            Stored::Unknown => return Ok(()),
            Stored::There(version) => {
                let Some(held) = &self.held else { return Ok(()) };
                match held.step(now, &self.times)? {
                    Some(next) => (next, version.clone()),
                    None => return Ok(()),
                }
            }
            // Pods check the operator by the CA that they were given: what was lost is put back, not made anew.
            Stored::Absent => (self.or_make(now)?, None),
            Stored::Broken(version) => (self.or_make(now)?, version.clone()),
        };
        let create = version.is_none();
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(CA_SECRET.into()),
                namespace: Some(self.ctx.settings.namespace.clone()),
                resource_version: version,
                labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), FIELD_MANAGER.into())])),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".into()),
            data: Some(wanted.data()),
            ..Secret::default()
        };
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let written = if create { secrets.create(&params, &secret).await } else { secrets.replace(CA_SECRET, &params, &secret).await };
        match written {
            Ok(written) => {
                tracing::info!("wrote the CA into Secret {CA_SECRET}");
                self.take(Some(written));
                Ok(())
            }
            // Somebody was quicker; the watch brings what they wrote.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(anyhow::anyhow!(of_secret(&error))).context("writing it"),
        }
    }

    fn or_make(&self, now: SystemTime) -> Result<Authority, Error> {
        self.held.clone().map_or_else(|| Authority::make(now, &self.times), Ok)
    }

    /// Makes the server's certificate when there is none or it grows old, and tells everybody.
    fn serve(&mut self) -> Result<(), Error> {
        let now = SystemTime::now();
        let Some(held) = &self.held else { return Ok(()) };
        if self.renew.is_some_and(|at| now < at) {
            return Ok(());
        }
        let (servers, renew) = held.server(&server_names(&self.ctx.settings.namespace), now, &self.times)?;
        self.renew = Some(renew);
        self.sender.send_replace(Arc::new(Bundle { pem: held.pem(), servers: Some(servers) }));
        self.ready.open();
        Ok(())
    }
}

/// While leader: keeps the CA in the webhook's configuration, which the chart makes without one. `known` is opened when it is there for the first
/// time: from then on the API server asks.
async fn keep_webhook(ctx: Arc<Context>, mut bundle: watch::Receiver<Arc<Bundle>>, known: Gate) {
    let configurations = Api::<MutatingWebhookConfiguration>::all(ctx.cluster.client.clone());
    let mut changes = pin!(watcher::watch_object(configurations.clone(), WEBHOOK_CONFIGURATION).default_backoff());
    let mut leader = ctx.leadership.follow();
    let mut seen = None;
    let mut retry = false;
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(found)) => {
                    // Without a configuration nobody asks, and nothing is to be waited for.
                    if found.is_none() {
                        known.open();
                    }
                    seen = found;
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot watch MutatingWebhookConfiguration {WEBHOOK_CONFIGURATION}; trying again");
                    continue;
                }
                None => return,
            },
            changed = bundle.changed() => if changed.is_err() { return },
            changed = leader.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(1)), if retry => {}
        }
        retry = false;
        let pem = bundle.borrow_and_update().pem.clone();
        let Some(found) = seen.as_ref().filter(|_| !pem.is_empty()) else { continue };
        let Some(patch) = ca_patch(found, &pem) else {
            known.open();
            continue;
        };
        if !(*leader.borrow() && ctx.leadership.may_write()) {
            continue;
        }
        match configurations.patch(WEBHOOK_CONFIGURATION, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await {
            Ok(written) => {
                tracing::info!("wrote the CA into MutatingWebhookConfiguration {WEBHOOK_CONFIGURATION}");
                seen = Some(written);
                known.open();
            }
            Err(error) => {
                tracing::warn!(%error, "cannot write the CA into MutatingWebhookConfiguration {WEBHOOK_CONFIGURATION}; trying again");
                retry = true;
            }
        }
    }
}

/// What to apply so that all webhooks have the CA; `None`: they have.
fn ca_patch(found: &MutatingWebhookConfiguration, pem: &str) -> Option<serde_json::Value> {
    let webhooks = found.webhooks.as_deref().unwrap_or_default();
    let right = |bundle: &Option<ByteString>| bundle.as_ref().is_some_and(|bytes| bytes.0 == pem.as_bytes());
    if webhooks.iter().all(|webhook| right(&webhook.client_config.ca_bundle)) {
        return None;
    }
    let ca = ByteString(pem.as_bytes().to_vec());
    let entries: Vec<_> =
        webhooks.iter().map(|webhook| serde_json::json!({ "name": webhook.name, "clientConfig": { "caBundle": ca } })).collect();
    Some(serde_json::json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": WEBHOOK_CONFIGURATION },
        "webhooks": entries,
    }))
}
