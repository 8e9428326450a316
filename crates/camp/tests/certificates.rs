//! Whose certificate is taken: the pinned one, one of a known authority, or any.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::io;
use std::sync::Arc;

use campfire_camp::{Tls, Trust, explain};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use sha2::{Digest as _, Sha256};
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[test]
fn the_pinned_certificate_is_taken_whatever_its_name() {
    let server = Server::own("somewhere.else");
    assert_eq!(connect(&server, &Trust::Anybody, Some(server.pin()), "turn.example.org"), Ok(()));
    // Even where authorities are given that do not know it.
    let other = Authority::new();
    assert_eq!(connect(&server, &other.trust(), Some(server.pin()), "turn.example.org"), Ok(()));
}

#[test]
fn another_certificate_than_the_pinned_one_is_refused_with_what_to_do() {
    let authority = Authority::new();
    let server = authority.server("turn.example.org");
    let mut pin = server.pin();
    pin[31] ^= 1;
    let refused =
        "TLS: the server's certificate is not the one that cert= names: somebody stands in between, or it was renewed (then change cert=)";
    assert_eq!(connect(&server, &authority.trust(), Some(pin), "turn.example.org"), Err(refused.to_owned()));
}

#[test]
fn an_authority_vouches_for_a_name_and_for_no_other() {
    let authority = Authority::new();
    let server = authority.server("turn.example.org");
    assert_eq!(connect(&server, &authority.trust(), None, "turn.example.org"), Ok(()));
    let error = connect(&server, &authority.trust(), None, "other.example.org").unwrap_err();
    assert!(error.starts_with("TLS: the server's certificate is not trusted ("), "{error}");
    assert!(error.ends_with("): check --ca-file, or pin it with cert="), "{error}");
    let error = connect(&server, &Authority::new().trust(), None, "turn.example.org").unwrap_err();
    assert!(error.starts_with("TLS: the server's certificate is not trusted ("), "{error}");
}

#[test]
fn without_pin_and_authority_any_certificate_is_taken() {
    assert_eq!(connect(&Server::own("x"), &Trust::Anybody, None, "turn.example.org"), Ok(()));
}

#[test]
fn a_file_without_certificates_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "no PEM").unwrap();
    let error = Tls::new(&Trust::File(file.path().to_owned())).err().unwrap().to_string();
    assert!(error.ends_with("no certificate in it, expected PEM"), "{error}");
}

struct Server {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Server {
    fn own(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        Self { chain: vec![certificate.der().clone()], key }
    }

    fn pin(&self) -> [u8; 32] {
        Sha256::digest(&self.chain[0]).into()
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: tempfile::NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    fn trust(&self) -> Trust {
        Trust::File(self.file.path().to_owned())
    }

    fn server(&self, name: &str) -> Server {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        Server { chain: vec![certificate.der().clone()], key }
    }
}

fn connect(server: &Server, trust: &Trust, pin: Option<[u8; 32]>, name: &str) -> Result<(), String> {
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(server.chain.clone(), PrivatePkcs8KeyDer::from(server.key.serialize_der()).into())
        .unwrap();
    let tls = Tls::new(trust).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let result: io::Result<()> = runtime.block_on(async {
        let (one, other) = tokio::io::duplex(64 * 1024);
        let (client, _) = tokio::join!(
            TlsConnector::from(tls.config(pin).unwrap()).connect(name, one),
            TlsAcceptor::from(Arc::new(config)).accept(other)
        );
        client.map(|_| ())
    });
    result.map_err(|error| explain(&error, pin.is_some()))
}
