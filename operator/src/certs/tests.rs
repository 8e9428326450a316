use super::*;
use crate::testing::{Rig, connect};

const TIMES: Times = Times {
    ca: Duration::from_hours(365 * 24),
    publish: Duration::from_hours(60 * 24),
    switch: Duration::from_hours(30 * 24),
    server: Duration::from_hours(15 * 24),
    skew: Duration::from_hours(1),
};

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + 20_000 * DAY
}

#[test]
fn the_next_ca_is_published_thirty_days_before_it_takes_over() {
    let first = Authority::make(start(), &TIMES).unwrap();
    assert!(first.step(start() + 304 * DAY, &TIMES).unwrap().is_none());
    let both = first.step(start() + 306 * DAY, &TIMES).unwrap().expect("the next one");
    assert!(both.current == first.current);
    assert_eq!(both.pem().matches("BEGIN CERTIFICATE").count(), 2);
    assert!(both.pem().starts_with(&first.pem()));
    let pins = |authority: &Authority| Bundle { pem: authority.pem(), servers: None }.pins();
    assert!(pins(&both).starts_with(&format!("{} {CA_PIN}", pins(&first))) && pins(&both).len() == 2 * 51 + 1, "{}", pins(&both));
    assert_eq!(Bundle::default().pins(), "", "no CA yet");
    assert!(both.step(start() + 334 * DAY, &TIMES).unwrap().is_none());
    let second = both.step(start() + 336 * DAY, &TIMES).unwrap().expect("it takes over");
    assert!(Some(&second.current) == both.next.as_ref());
    assert!(second.next.is_none());
    assert!(both.pem().ends_with(&second.pem()), "who learned both knows the one that is left");
    assert!(second.step(start() + 336 * DAY, &TIMES).unwrap().is_none());
}

#[test]
fn an_operator_that_was_away_for_a_year_begins_anew() {
    let first = Authority::make(start(), &TIMES).unwrap();
    let both = first.step(start() + 306 * DAY, &TIMES).unwrap().unwrap();
    let late = start() + 2_000 * DAY;
    for old in [first, both] {
        let new = old.step(late, &TIMES).unwrap().expect("a new one");
        assert_eq!(new.current.left(late), TIMES.ca);
        assert!(new.next.is_none());
    }
}

#[test]
fn what_is_written_into_the_secret_is_read_again() {
    let both = Authority::make(start(), &TIMES).unwrap().step(start() + 306 * DAY, &TIMES).unwrap().unwrap();
    assert_eq!(both.data().keys().collect::<Vec<_>>(), ["ca.crt", "ca.key", "next.crt", "next.key"]);
    assert!(Authority::read(&both.data()).unwrap() == both);
}

#[test]
fn a_secret_edited_by_hand_is_refused_with_what_is_wrong() {
    let data = Authority::make(start(), &TIMES).unwrap().data();
    let other = Authority::make(start(), &TIMES).unwrap().data();
    let error = |change: &dyn Fn(&mut BTreeMap<String, ByteString>)| {
        let mut data = data.clone();
        change(&mut data);
        Authority::read(&data).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(error(&|data| data.clear()), "Secret campfire-ca has no readable `ca.crt`");
    assert_eq!(error(&|data| drop(data.remove("ca.key"))), "Secret campfire-ca has no readable `ca.key`");
    assert_eq!(
        error(&|data| drop(data.insert("ca.key".into(), ByteString(b"nonsense".to_vec())))),
        "`ca.key` in Secret campfire-ca is no CA certificate or key that the operator made"
    );
    assert_eq!(
        error(&|data| drop(data.insert("ca.crt".into(), other["ca.crt"].clone()))),
        "`ca.crt` in Secret campfire-ca belongs to another key"
    );
    assert_eq!(
        error(&|data| drop(data.insert("next.crt".into(), other["ca.crt"].clone()))),
        "Secret campfire-ca has no readable `next.key`"
    );
}

#[test]
fn a_servers_certificate_is_renewed_ahead_and_never_outlives_its_ca() {
    let authority = Authority::make(start(), &TIMES).unwrap();
    let (_, renew) = authority.server(&server_names("x"), start(), &TIMES).unwrap();
    assert_eq!(renew, start() + 10 * DAY);
    let late = start() + 362 * DAY;
    let (_, renew) = authority.server(&server_names("x"), late, &TIMES).unwrap();
    assert_eq!(renew, late + 2 * DAY);
}

#[test]
fn all_services_are_named_in_all_their_forms() {
    assert_eq!(
        server_names("ops"),
        [
            "campfire-agent.ops.svc",
            "campfire-agent.ops.svc.cluster.local",
            "campfire-agent.ops",
            "campfire-webhook.ops.svc",
            "campfire-webhook.ops.svc.cluster.local",
            "campfire-webhook.ops",
            "campfire-webhook-standby.ops.svc",
            "campfire-webhook-standby.ops.svc.cluster.local",
            "campfire-webhook-standby.ops",
        ]
    );
}

#[tokio::test]
async fn who_knows_another_ca_does_not_talk_to_the_operator() {
    let rig = Rig::new(|_, _, _| (404, serde_json::json!({})));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = campfire_http::Limits {
        connections: 4,
        per_address: 4,
        bodies: 0,
        head: Duration::from_secs(5),
        lifetime: Duration::from_secs(5),
        grace: Duration::from_secs(5),
        keep_alive: false,
        drain: Duration::ZERO,
    };
    let answer = |_, _| async { campfire_http::message::respond(hyper::StatusCode::OK, hyper::body::Bytes::new()) };
    tokio::spawn(campfire_http::serve(
        listener,
        wire(rig.bundle.subscribe(), |servers| &servers.agent),
        limits,
        Arc::default(),
        std::future::pending(),
        answer,
    ));
    connect(address, &rig.ca()).await.unwrap();
    let other = Authority::make(SystemTime::now(), &TIMES).unwrap();
    let refused = format!("{:#}", connect(address, &other.pem()).await.unwrap_err());
    assert!(refused.contains("invalid peer certificate"), "{refused}");
    let stream = connect(address, &format!("{}{}", other.pem(), rig.ca())).await.unwrap();
    let sent = stream.get_ref().1.peer_certificates().unwrap();
    assert_eq!(
        format!("{CA_PIN}{}", STANDARD.encode(Sha256::digest(&sent[1]))),
        rig.bundle.borrow().pins(),
        "who knows the CA by its hash gets it"
    );
}

#[tokio::test]
async fn an_api_server_that_is_held_to_tls_1_2_reaches_the_webhook_and_nothing_else() {
    let authority = Authority::make(SystemTime::now(), &TIMES).unwrap();
    let (servers, _) = authority.server(&server_names("x"), SystemTime::now(), &TIMES).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let old = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    let met = async |server: &Arc<ServerConfig>| {
        let (near, far) = tokio::io::duplex(65_536);
        let name = rustls_pki_types::ServerName::try_from("campfire-webhook.x.svc").unwrap();
        let client = tokio_rustls::TlsConnector::from(old.clone()).connect(name, near);
        let (client, server) = tokio::join!(client, tokio_rustls::TlsAcceptor::from(server.clone()).accept(far));
        client.is_ok() && server.is_ok()
    };
    assert!(met(&servers.webhook).await);
    assert!(!met(&servers.agent).await);
}

#[test]
fn the_webhooks_configuration_is_written_only_when_a_ca_in_it_is_wrong() {
    let configuration = |cas: &[Option<&str>]| -> MutatingWebhookConfiguration {
        let webhooks: Vec<_> = cas
            .iter()
            .enumerate()
            .map(|(index, ca)| {
                let ca = ca.map(|ca| ByteString(ca.as_bytes().to_vec()));
                serde_json::json!({ "name": format!("w{index}"), "clientConfig": { "caBundle": ca }, "sideEffects": "None", "admissionReviewVersions": ["v1"] })
            })
            .collect();
        serde_json::from_value(serde_json::json!({ "metadata": {}, "webhooks": webhooks })).unwrap()
    };
    assert_eq!(ca_patch(&configuration(&[Some("CA"), Some("CA")]), "CA"), None);
    assert_eq!(ca_patch(&configuration(&[]), "CA"), None);
    for wrong in [&[None, Some("CA")], &[Some("CA"), Some("old")]] {
        let patch = ca_patch(&configuration(wrong), "CA").expect("a write");
        assert_eq!(
            patch["webhooks"],
            serde_json::json!([
                { "name": "w0", "clientConfig": { "caBundle": "Q0E=" } }, { "name": "w1", "clientConfig": { "caBundle": "Q0E=" } },
            ])
        );
    }
}
