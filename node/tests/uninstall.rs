//! The chart's hook against an API server that is a few lines: pages, tokens, refusals. (The real one is asked by the cluster tests.)

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::path::Path;
use std::sync::Arc;

use campfire_node::uninstall::{Api, may_uninstall};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[tokio::test]
async fn it_is_refused_while_a_pod_on_any_page_has_a_volume_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let pod =
        |name: &str, volumes: Value| json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"volumes": volumes}, "status": {}});
    let others = json!([{"name": "a", "emptyDir": {}}, {"name": "b", "csi": {"driver": "other.example.org"}}]);
    let ours = json!([{"name": "a", "emptyDir": {}}, {"name": "b", "csi": {"driver": "node.campfire.network", "readOnly": true}}]);
    let bare = json!({"metadata": {"namespace": "shop", "name": "bare"}, "spec": {}});
    let first = json!({"metadata": {"continue": "a+b/c="}, "items": [pod("one", others.clone()), bare]});

    let free = serve(folder.path(), vec![first.clone(), json!({"metadata": {}, "items": [pod("two", others)]})]).await;
    may_uninstall(&free).await.unwrap();
    let taken =
        serve(folder.path(), vec![first, json!({"metadata": {}, "items": [pod("web-0", ours.clone()), pod("web-1", ours.clone())]})]).await;
    let refused = may_uninstall(&taken).await.unwrap_err().to_string();
    assert!(
        refused.starts_with("2 pods have a volume") && refused.contains("shop/web-0, shop/web-1;") && refused.contains("drain=true"),
        "{refused}"
    );
    let many: Vec<Value> = (0..30).map(|number| pod(&format!("p{number}"), ours.clone())).collect();
    let refused = may_uninstall(&serve(folder.path(), vec![json!({"metadata": {}, "items": many})]).await).await.unwrap_err().to_string();
    assert!(refused.starts_with("30 pods") && refused.contains("shop/p9, …") && !refused.contains("shop/p10"), "{refused}");
}

#[tokio::test]
async fn what_cannot_be_asked_is_no_consent() {
    let folder = tempfile::tempdir().unwrap();
    let empty = json!({"metadata": {}, "items": []});
    let api = serve(folder.path(), vec![empty.clone()]).await;
    may_uninstall(&api).await.unwrap();
    std::fs::write(folder.path().join("token"), "another").unwrap();
    let refused = format!("{:#}", may_uninstall(&api).await.unwrap_err());
    assert!(refused.contains("403") && refused.contains("may this ServiceAccount list pods?") && !refused.contains("another"), "{refused}");
    // Another CA than the server's.
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.path().join("ca.crt"), other.cert.pem()).unwrap();
    assert!(format!("{:#}", may_uninstall(&api).await.unwrap_err()).contains("TLS with 127.0.0.1"));
    serve(folder.path(), vec![json!({"items": 5})]).await;
    assert!(may_uninstall(&serve(folder.path(), vec![json!({"items": 5})]).await).await.is_err());
}

/// One that answers with these pages, and believes `a-token`.
async fn serve(folder: &Path, pages: Vec<Value>) -> Api {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.join("ca.crt"), certificate.pem()).unwrap();
    std::fs::write(folder.join("token"), "a-token\n").unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pages = Arc::new(pages);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, pages) = (acceptor.clone(), pages.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |request| {
                    std::future::ready(Ok::<_, std::convert::Infallible>(answer(&request, &pages)))
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Api { server: ("127.0.0.1".into(), port), account: folder.to_owned() }
}

fn answer(request: &Request<Incoming>, pages: &[Value]) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let page = match query.rsplit_once("continue=").map(|(_, next)| next) {
        Some("") => 0,
        Some("a%2Bb%2Fc%3D") => 1,
        other => panic!("{other:?}"),
    };
    let allowed =
        request.uri().path() == "/api/v1/pods" && request.headers().get("authorization").is_some_and(|value| value == "Bearer a-token");
    let (status, body) = if allowed { (StatusCode::OK, pages[page].to_string()) } else { (StatusCode::FORBIDDEN, "{}".into()) };
    Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap()
}
