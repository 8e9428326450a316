//! How one of the operator's own programs connects to its HTTPS servers.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// TLS with one of the operator's own servers, which has to show a certificate for `name` by one of the CAs in `pem`.
///
/// # Errors
/// In words: what failed.
pub async fn connect(address: impl ToSocketAddrs, name: &str, pem: &str) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned())?;
    let stream = TcpStream::connect(address).await.context("cannot connect")?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("no TLS with the operator's certificate")
}
