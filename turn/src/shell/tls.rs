//! The server's TLS identity, replaced while it runs.

use std::path::Path;
use std::sync::{Arc, RwLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::config::TlsFiles;

/// Why a certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// The identity that new connections get.
#[derive(Debug)]
pub struct Identity {
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Identity {
    /// Loads it.
    pub fn load(files: &TlsFiles) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let current = RwLock::new(Arc::new(certified_key(&provider, files)?));
        Ok(Arc::new(Self { provider, current }))
    }

    /// Loads it again; on an error the old one stays. Open connections keep what they have.
    pub fn reload(&self, files: &TlsFiles) -> Result<(), TlsError> {
        let key = Arc::new(certified_key(&self.provider, files)?);
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = key;
        Ok(())
    }

    /// The configuration of TLS 1.2 and 1.3 with this identity.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Self>::clone(self));
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }
}

fn certified_key(provider: &CryptoProvider, files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let problem = |option: &str, path: &Path, what: &dyn std::fmt::Display| TlsError(format!("{option} {}: {what}", path.display()));
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|error| problem("--tls-cert", &files.cert, &error))?;
    if chain.is_empty() {
        return Err(problem("--tls-cert", &files.cert, &"no certificate in it (expected PEM)"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| problem("--tls-key", &files.key, &error))?;
    let key = provider.key_provider.load_private_key(key).map_err(|error| problem("--tls-key", &files.key, &error))?;
    let key = CertifiedKey::new(chain, key);
    match key.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err(problem("--tls-key", &files.key, &format!("does not belong to the certificate {}", files.cert.display())))
        }
        _ => Ok(key),
    }
}
