//! TLS to TURN servers, for whoever camps there, sidecar or operator: whose certificate is taken (docs/protocol.md, "Servers").

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

/// What TLS to servers without a pin is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nothing: privacy only.
    Anybody,
    /// The certificates in this file.
    File(PathBuf),
}

/// A file of certificates that cannot be used; says which and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTrust(pub String);

/// Makes the TLS configuration for a server.
pub struct Tls {
    provider: Arc<CryptoProvider>,
    /// For servers without a pin.
    unpinned: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the trusted certificates.
    pub fn new(trust: &Trust) -> Result<Self, BadTrust> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Anybody => Arc::new(Certificate { pin: None, provider: provider.clone() }),
            Trust::File(path) => authorities(path, &provider)?,
        };
        let unpinned = config(&provider, verifier).map_err(|error| BadTrust(format!("TLS: {error}")))?;
        Ok(Self { provider, unpinned })
    }

    /// For a server with this pin, or without one.
    pub fn config(&self, pin: Option<[u8; 32]>) -> Result<Arc<ClientConfig>, Error> {
        match pin {
            None => Ok(self.unpinned.clone()),
            Some(pin) => config(&self.provider, Arc::new(Certificate { pin: Some(pin), provider: self.provider.clone() })),
        }
    }
}

fn config(provider: &Arc<CryptoProvider>, verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>, Error> {
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn authorities(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, BadTrust> {
    let shown = path.display();
    let bad = |why: String| BadTrust(format!("{shown}: {why}"));
    let pem = fs::read(path).map_err(|error| bad(format!("cannot be read: {error}")))?;
    let mut roots = RootCertStore::empty();
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    // Bundles hold one or two that webpki does not take: those are left out.
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(bad("no certificate in it, expected PEM".into()));
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().map_err(|error| bad(error.to_string()))
}

/// Takes the certificate with this SHA-256, or any: what the server sends inside is authenticated by other means.
#[derive(Debug)]
struct Certificate {
    pin: Option<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Certificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.pin {
            Some(pin) if pin != <[u8; 32]>::from(Sha256::digest(end_entity)) => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What went wrong, for people.
pub fn explain(error: &std::io::Error, pinned: bool) -> String {
    let certificate = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .and_then(|error| if let Error::InvalidCertificate(why) = error { Some(why) } else { None });
    match certificate {
        Some(CertificateError::ApplicationVerificationFailure) if pinned => {
            "TLS: the server's certificate is not the one that cert= names: somebody stands in between, or it was renewed (then change cert=)".into()
        }
        Some(why) => format!("TLS: the server's certificate is not trusted ({why}): check --ca-file, or pin it with cert="),
        None => format!("TLS: {error}"),
    }
}
