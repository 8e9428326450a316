//! The operator's CA, known by the hash of its certificate: what the webhook writes into a pod is a line, and not a page. The server sends the certificate
//! itself along, and it is a trust anchor if its hash is one of those; from there on all is as with any CA.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::names::CA_PIN;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

/// Hashes in a text; what is none is passed over.
pub fn read(text: &str) -> Vec<[u8; 32]> {
    text.split_whitespace().filter_map(|word| STANDARD.decode(word.strip_prefix(CA_PIN)?).ok()?.try_into().ok()).collect()
}

/// Checks a server by CA certificates, some of which are known by their SHA-256 alone.
pub struct Pinned {
    /// Of the DER of CA certificates.
    pins: Vec<[u8; 32]>,
    /// Those that are known as a whole.
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    /// By these; `None`: there are none, and nobody could be believed.
    pub fn new(pins: Vec<[u8; 32]>, roots: RootCertStore, provider: Arc<CryptoProvider>) -> Option<Self> {
        (!pins.is_empty() || !roots.is_empty()).then_some(Self { pins, roots, provider })
    }

    fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("pins", &self.pins.len()).field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut roots = self.roots.clone();
        for sent in intermediates.iter().filter(|sent| self.pins.contains(&Sha256::digest(sent).into())) {
            // The right one, so it can be read.
            let _ = roots.add(sent.clone().into_owned());
        }
        if roots.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let by_roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        let by_roots = by_roots.build().map_err(|error| Error::General(error.to_string()))?;
        by_roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    #[test]
    fn a_server_is_believed_by_a_ca_of_which_the_hash_is_known_and_by_nothing_that_merely_shows_it() {
        let (ca, stranger) = (Ca::new("one"), Ca::new("other"));
        let (leaf, false_leaf) = (ca.signs("agent"), stranger.signs("agent"));
        let pin = |ca: &Ca| format!("{CA_PIN}{}", STANDARD.encode(Sha256::digest(ca.certificate.der())));
        let checked = |pins: &str, chain: &[&Certificate], name: &str, later: u64| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let pinned = Pinned::new(read(pins), RootCertStore::empty(), provider).unwrap();
            let rest: Vec<_> = chain[1..].iter().map(|certificate| certificate.der().clone()).collect();
            let name = ServerName::try_from(name.to_owned()).unwrap();
            let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000 + later));
            pinned.verify_server_cert(chain[0].der(), &rest, &name, &[], now).is_ok()
        };
        let both = format!("{} {}\n", pin(&stranger), pin(&ca));
        assert!(checked(&pin(&ca), &[&leaf, &ca.certificate], "agent", 0));
        assert!(checked(&both, &[&leaf, &ca.certificate], "agent", 0) && checked(&both, &[&false_leaf, &stranger.certificate], "agent", 0));
        assert!(!checked(&pin(&ca), &[&leaf], "agent", 0), "the CA is not sent along");
        assert!(!checked(&pin(&ca), &[&false_leaf, &stranger.certificate], "agent", 0));
        assert!(!checked(&pin(&ca), &[&false_leaf, &ca.certificate], "agent", 0), "the right CA beside a certificate that is another's");
        assert!(!checked(&pin(&ca), &[&false_leaf, &stranger.certificate, &ca.certificate], "agent", 0));
        assert!(!checked(&pin(&ca), &[&leaf, &ca.certificate], "other", 0), "another name");
        assert!(!checked(&pin(&ca), &[&leaf, &ca.certificate], "agent", 100_000_000_000), "it has ended");
        let none =
            Pinned::new(read("sha256- sha256-AAAA -----BEGIN"), RootCertStore::empty(), Arc::new(rustls::crypto::ring::default_provider()));
        assert!(none.is_none());
    }

    struct Ca {
        certificate: Certificate,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Ca {
        fn new(name: &str) -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            let certificate = params.self_signed(&key).unwrap();
            Self { certificate, issuer: Issuer::new(params, key) }
        }

        fn signs(&self, name: &str) -> Certificate {
            let key = KeyPair::generate().unwrap();
            CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap()
        }
    }
}
