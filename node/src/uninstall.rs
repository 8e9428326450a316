//! What the chart runs before it is uninstalled: pods that have a volume of the driver could not end without it, so as long as there are any it
//! refuses. It asks the API server, by a ServiceAccount of its own that may list pods; the agents have no such right.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use campfire_api::names::{NODE_DRAIN_ANNOTATION, NODE_DRIVER};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Pods that are asked for at once, and the largest answer to that, bytes.
const PAGE: usize = 250;
const LARGEST: usize = 32 * 1_024 * 1_024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most pods that are named.
const NAMED: usize = 10;

/// Where the API server is, and how to show who we are.
#[derive(Debug)]
pub struct Api {
    /// Host and port.
    pub server: (String, u16),
    /// Folder with `token` and `ca.crt`, as a ServiceAccount's is mounted.
    pub account: PathBuf,
}

impl Api {
    /// As in every pod with a token.
    ///
    /// # Errors
    /// There is none.
    pub fn of_pod() -> Result<Self> {
        let variable =
            |name: &str| std::env::var(name).with_context(|| format!("{name} is not set: this runs in a pod of the chart's hook"));
        let port = variable("KUBERNETES_SERVICE_PORT")?.parse().context("KUBERNETES_SERVICE_PORT")?;
        Ok(Self {
            server: (variable("KUBERNETES_SERVICE_HOST")?, port),
            account: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount"),
        })
    }
}

#[derive(Debug, Deserialize)]
struct Pods {
    #[serde(default)]
    metadata: ListMetadata,
    items: Vec<Pod>,
}

#[derive(Debug, Default, Deserialize)]
struct ListMetadata {
    #[serde(default, rename = "continue")]
    next: String,
}

#[derive(Debug, Deserialize)]
struct Pod {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    namespace: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Spec {
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Debug, Deserialize)]
struct Volume {
    csi: Option<Csi>,
}

#[derive(Debug, Deserialize)]
struct Csi {
    driver: String,
}

impl Pod {
    fn has_ours(&self) -> bool {
        self.spec.volumes.iter().any(|volume| volume.csi.as_ref().is_some_and(|csi| csi.driver == NODE_DRIVER))
    }
}

/// Looks at all pods of the cluster.
///
/// # Errors
/// Some have a volume of the driver; or the API server does not say.
pub async fn may_uninstall(api: &Api) -> Result<()> {
    let (mut found, mut next) = (Vec::new(), String::new());
    loop {
        let asked = page(api, &next);
        let Ok(pods) = tokio::time::timeout(PATIENCE, asked).await else {
            bail!("the API server does not answer within {} s", PATIENCE.as_secs())
        };
        let pods = pods.context("pods of the cluster")?;
        found.extend(pods.items.iter().filter(|pod| pod.has_ours()).map(|pod| format!("{}/{}", pod.metadata.namespace, pod.metadata.name)));
        next = pods.metadata.next;
        if next.is_empty() {
            break;
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let (count, more) = (found.len(), if found.len() > NAMED { ", …" } else { "" });
    found.truncate(NAMED);
    // By kubectl: helm upgrades no release that it has begun to uninstall.
    bail!(
        "{count} pods have a volume of {NODE_DRIVER}, and could not end without it: {}{more}; let new ones do without (kubectl annotate csidriver \
         {NODE_DRIVER} {NODE_DRAIN_ANNOTATION}=true --overwrite), restart these, and uninstall then",
        found.join(", ")
    );
}

/// Some of the pods, from where the last ones ended.
async fn page(api: &Api, next: &str) -> Result<Pods> {
    let (host, port) = &api.server;
    let read = |name: &str| std::fs::read_to_string(api.account.join(name)).with_context(|| api.account.join(name).display().to_string());
    let stream = TcpStream::connect((host.as_str(), *port)).await.with_context(|| format!("{host}:{port}"))?;
    let stream = connector(&api.account.join("ca.crt"))?
        .connect(server_name(host)?, stream)
        .await
        .with_context(|| format!("TLS with {host}:{port}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    // The API server made it for a query, but for signs that mean something in one.
    let next = next.replace('%', "%25").replace('+', "%2B").replace('=', "%3D").replace('/', "%2F");
    let request = Request::get(format!("/api/v1/pods?limit={PAGE}&continue={next}"))
        .header("host", format!("{host}:{port}"))
        .header("accept", "application/json")
        .header("authorization", format!("Bearer {}", read("token")?.trim()))
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body =
        Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|error| anyhow::anyhow!("the answer: {error}"))?.to_bytes();
    ensure!(status.is_success(), "the API server answers {status}: may this ServiceAccount list pods?");
    serde_json::from_slice(&body).context("the answer")
}

fn server_name(host: &str) -> Result<ServerName<'static>> {
    Ok(match host.parse::<IpAddr>() {
        Ok(address) => ServerName::from(address),
        Err(_) => ServerName::try_from(host.to_owned()).with_context(|| host.to_owned())?,
    })
}

fn connector(ca: &Path) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).with_context(|| ca.display().to_string())? {
        roots.add(certificate.with_context(|| ca.display().to_string())?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
