use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use campfire_api::agent::{Path, ProblemReason, Report, Settings};
use campfire_api::names::{AGENT_AUDIENCE, CAMPFIRE_ANNOTATION};
use campfire_protocol::identity::Identity;
use campfire_protocol::key::KeyMode;
use campfire_protocol::server::{Scope, Server, ServerAddress};
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

use super::token::{Reviewer, Tokens};
use super::*;
use crate::state::{HeldKey, Membership, ObjectKey, WireguardKey};
use crate::testing::{Rig, connect, post};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[tokio::test]
async fn a_pod_gets_its_settings_and_reports() {
    let camp = Camp::start(&[("web", "u1")]).await;
    let token = bound("web", "u1");
    let (status, _, body) = camp.post(SETTINGS_PATH, Some(&token), "{}").await;
    assert_eq!(status, 200, "{body}");
    let settings: Settings = serde_json::from_str(&body).unwrap();
    assert_eq!((settings.namespace.as_str(), settings.name.as_str()), ("shop", "web"));
    assert_eq!(*settings.keys[0].psk, KEY);
    assert!(settings.servers[0].in_cluster, "in-cluster servers first: {:?}", settings.servers);
    assert_eq!(settings.agent_ca, camp.rig.ca());
    assert!(settings.direct);

    let (status, _, body) = camp.post(SETTINGS_PATH, Some(&token), json!({ "have": settings.version }).to_string()).await;
    assert_eq!((status, body.as_str()), (204, ""));
    let (status, _, body) = camp.post(REPORT_PATH, Some(&token), signed(report(), 1, &pod("web", "u1"))).await;
    assert_eq!((status, body.as_str()), (204, ""));
    let held = camp.rig.ctx.reports.get(&pod("web", "u1")).unwrap();
    assert_eq!(held.campfire.to_string(), "shop/home");
    let report = &held.report;
    assert_eq!((report.identity.to_string(), report.path, report.camped), (identity(), Path::Direct, true));
    assert_eq!(report.addresses, [address()]);
    assert_eq!(report.fingerprints[0].to_string(), "0123456789abcdef");
    assert_eq!(camp.reviewer.asked(), 1, "one TokenReview for three requests");
    let metrics = camp.rig.ctx.metrics.text();
    assert!(metrics.contains(r#"agent_requests_total{path="/v1/settings",code="204"} 1"#), "{metrics}");
    assert!(metrics.contains("token_reviews_total 1"), "{metrics}");
}

#[tokio::test]
async fn who_waits_is_told_of_a_change_and_of_nothing_else() {
    let camp = Camp::start(&[("web", "u1")]).await;
    let token = bound("web", "u1");
    let first = camp.settings(&token).await;
    let waiting = camp.wait(token, first.version).await;
    camp.publish(1280);
    camp.publish(1400);
    let (status, _, body) = waiting.await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<Settings>(&body).unwrap().mtu, 1400);
    camp.held(0).await;
}

#[tokio::test]
async fn a_new_ca_is_a_change_of_the_settings() {
    let camp = Camp::start(&[("web", "u1")]).await;
    let token = bound("web", "u1");
    let first = camp.settings(&token).await;
    let waiting = camp.wait(token, first.version).await;
    camp.rig
        .bundle
        .send_modify(|bundle| *bundle = Arc::new(Bundle { pem: format!("{}next\n", bundle.pem), servers: bundle.servers.clone() }));
    let (status, _, body) = waiting.await.unwrap();
    assert_eq!(status, 200);
    assert!(serde_json::from_str::<Settings>(&body).unwrap().agent_ca.ends_with("next\n"));
}

#[tokio::test]
async fn who_waits_is_sent_away_when_the_leader_changes_the_pod_is_shut_out_or_the_campfire_goes() {
    let mut camp = Camp::start(&[("a", "u1"), ("b", "u2"), ("c", "u3")]).await;
    let token = bound("a", "u1");
    let have = camp.settings(&token).await.version;
    let waiting = camp.wait(token, have).await;
    camp.rig.delete_pod("shop", "a");
    camp.publish(1400);
    assert_eq!(waiting.await.unwrap().0, 403);

    let token = bound("b", "u2");
    let have = camp.settings(&token).await.version;
    let waiting = camp.wait(token, have).await;
    camp.rig.ctx.memberships.withdraw(&home());
    assert_eq!(waiting.await.unwrap().0, 503);

    camp.publish(1280);
    let token = bound("c", "u3");
    let have = camp.settings(&token).await.version;
    let waiting = camp.wait(token, have).await;
    camp.rig.mandate.resign();
    let (status, later, body) = waiting.await.unwrap();
    assert_eq!((status, later), (503, Some(2)));
    assert_eq!(body, r#"{"message":"this replica of the operator does not lead: try again"}"#);
}

#[tokio::test]
async fn each_refusal_says_what_to_do() {
    let mut camp = Camp::start(&[("web", "u1"), ("named", "u2"), ("lost", "u3"), ("away", "u4")]).await;
    camp.rig.pod("shop", "named", "u2", &json!({}));
    camp.rig.pod("shop", "lost", "u3", &json!({ CAMPFIRE_ANNOTATION: "shop/gone" }));
    camp.rig.pod("shop", "away", "u4", &json!({ CAMPFIRE_ANNOTATION: "infra/closed" }));
    camp.rig.campfire("infra", "closed", &json!({}));
    let claims = |change: &dyn Fn(&mut Value)| {
        let mut claims = claims("web", "u1");
        change(&mut claims);
        token(&claims)
    };
    let cases: Vec<(Option<String>, u16, &str)> = vec![
        (None, 401, "send the pod's projected token: `Authorization: Bearer …`"),
        (
            Some("a.b.c".into()),
            401,
            "the token is not bound to a pod: mount a projected serviceAccountToken with audience campfire.network/agent",
        ),
        (Some("x".repeat(9_000)), 401, "the token is too long"),
        (
            Some(claims(&|claims| claims["aud"] = json!(["https://kubernetes.default.svc"]))),
            401,
            "the token is for another audience: it must be campfire.network/agent",
        ),
        (
            Some(claims(&|claims| claims["exp"] = json!(1))),
            401,
            "the token has expired: read it again from its file, which the kubelet keeps fresh",
        ),
        (
            Some(claims(&|claims| drop(claims["kubernetes.io"].as_object_mut().unwrap().remove("pod")))),
            401,
            "the token is not bound to a pod: mount a projected serviceAccountToken with audience campfire.network/agent",
        ),
        (
            Some(claims(&|claims| claims["sub"] = json!("forged"))),
            401,
            "the API server of this cluster does not accept the token: it has expired, is another cluster's, or its pod is gone",
        ),
        (
            Some(claims(&|claims| claims["kubernetes.io"]["pod"]["uid"] = json!("old"))),
            403,
            "no pod shop/web of this uid has a sidecar: it is gone, or not seen yet",
        ),
        (Some(bound("ghost", "u9")), 403, "no pod shop/ghost of this uid has a sidecar: it is gone, or not seen yet"),
        (Some(bound("named", "u2")), 403, "pod shop/named names no Campfire in annotation campfire.network/campfire: make it anew"),
        (Some(bound("lost", "u3")), 404, "there is no Campfire shop/gone"),
        (Some(bound("away", "u4")), 403, "Campfire infra/closed does not admit namespace shop: see its spec.members.namespaces"),
    ];
    for (token, expected, message) in cases {
        let (status, _, body) = camp.post(SETTINGS_PATH, token.as_deref(), "{}").await;
        assert_eq!((status, body), (expected, json!({ "message": message }).to_string()));
    }
    let asked = camp.reviewer.asked();
    let mut other = claims_of("shop", "web", "u1");
    other["sub"] = json!("other");
    // The API server says that it is another pod's than it claims.
    let stolen = token(&other);
    camp.reviewer.accept(&stolen, status("shop", "named", "u2", AGENT_AUDIENCE));
    assert_eq!(camp.post(SETTINGS_PATH, Some(&stolen), "{}").await.2, r#"{"message":"the token is another pod's"}"#);
    other["sub"] = json!("elsewhere");
    let elsewhere = token(&other);
    camp.reviewer.accept(&elsewhere, status("shop", "web", "u1", "other"));
    assert_eq!(camp.post(SETTINGS_PATH, Some(&elsewhere), "{}").await.0, 401);
    assert_eq!(camp.reviewer.asked(), asked + 2);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_what_was_expected() {
    let camp = Camp::start(&[("web", "u1")]).await;
    let good = bound("web", "u1");
    for (path, body, expected, message) in [
        ("/", "{}".to_owned(), 404, "there are /v1/settings, /v1/report and /v1/grant"),
        (SETTINGS_PATH, "{".to_owned(), 400, "this is no request for settings: EOF while parsing an object at line 1 column 1"),
        (SETTINGS_PATH, " ".repeat(MAX_REQUEST + 1), 413, "the body may have 16384 bytes at most"),
        (REPORT_PATH, report_with("publicKey", json!("short")), 400, "publicKey must be 32 bytes in base64"),
        (REPORT_PATH, report_with("identity", json!("X")), 400, "identity must be 64 hex digits, lower case"),
        (REPORT_PATH, report_with("addresses", json!(["nowhere"])), 400, "addresses must be at most 8 IP addresses"),
        (
            REPORT_PATH,
            report_with("fingerprints", json!(vec![""; 5])),
            400,
            "fingerprints must be at most 4, each 16 hex digits, lower case",
        ),
        (REPORT_PATH, report_with("reason", json!("<b>")), 400, "a reason must be CamelCase, at most 64 letters and digits"),
        (REPORT_PATH, unsigned(&json!("")), 400, "signature must be 64 bytes in base64"),
        (REPORT_PATH, unsigned(&json!(STANDARD.encode([0; 63]))), 400, "signature must be 64 bytes in base64"),
        (REPORT_PATH, unsigned(&json!(STANDARD.encode([0; 65]))), 400, "signature must be 64 bytes in base64"),
        (REPORT_PATH, unsigned(&json!("A".repeat(12_000))), 400, "signature must be 64 bytes in base64"),
    ] {
        let (status, _, answer) = camp.post(path, Some(&good), body).await;
        assert_eq!((status, answer), (expected, json!({ "message": message }).to_string()));
    }
    let mut unsigned = report();
    unsigned.as_object_mut().unwrap().remove("signature");
    let (status, _, answer) = camp.post(REPORT_PATH, Some(&good), unsigned.to_string()).await;
    assert!(status == 400 && answer.contains("missing field `signature`"), "{status} {answer}");
}

#[tokio::test]
async fn a_report_is_clipped_to_its_bounds() {
    let problem = json!({ "reason": "NoPath", "message": format!("\u{1b}[2J{}ä", "x".repeat(252)) });
    let (report, _) = report::read(report_with("problems", Value::from(vec![problem; 20])).as_bytes(), &pod("web", "u1"), None).unwrap();
    assert_eq!(report.problems.len(), 8);
    assert_eq!(report.problems[0].message, format!(" [2J{}", "x".repeat(252)));
}

#[test]
fn a_problem_is_known_by_its_reason_and_one_that_is_not_known_is_shown_as_it_is() {
    for (name, reason, unreachable) in [
        ("FireUnreachable", ProblemReason::FireUnreachable, true),
        ("InterfaceUnconfigured", ProblemReason::InterfaceUnconfigured, false),
        ("NoPath", ProblemReason::Other("NoPath".into()), false),
    ] {
        let problem = json!([{ "reason": name, "message": "" }]);
        let (report, _) = report::read(report_with("problems", problem.clone()).as_bytes(), &pod("web", "u1"), None).unwrap();
        assert_eq!((&report.problems[0].reason, report.unreachable), (&reason, unreachable));
        assert_eq!((reason.name(), json!(report.problems)), (name, problem));
    }
    for wrong in ["", "no path", &"X".repeat(65)] {
        let problem = json!([{ "reason": wrong, "message": "" }]);
        assert!(report::read(report_with("problems", problem).as_bytes(), &pod("web", "u1"), None).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn of_many_requests_with_a_new_token_one_asks_and_all_are_answered() {
    let reviewer = Arc::new(Fake::default());
    let token = token(&claims("web", "u1"));
    reviewer.accept(&token, status("shop", "web", "u1", AGENT_AUDIENCE));
    let tokens = Arc::new(Tokens::new(reviewer.clone()));
    let all = (0..100).map(|_| {
        let (tokens, token) = (tokens.clone(), token.clone());
        tokio::spawn(async move { tokens.pod(&token, HERE, |_| Ok(())).await })
    });
    for one in all.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), Ok(pod("web", "u1")));
    }
    assert_eq!(reviewer.asked(), 1);
}

#[tokio::test]
async fn an_api_server_that_is_away_is_asked_again_and_its_no_is_remembered() {
    let reviewer = Arc::new(Fake::default());
    let tokens = Tokens::new(reviewer.clone());
    let token = token(&claims("web", "u1"));
    reviewer.away.store(1, Ordering::SeqCst);
    let refused = tokens.pod(&token, HERE, |_| Ok(())).await.unwrap_err();
    assert_eq!((refused.status.as_u16(), refused.retry_after), (503, Some(2)));
    reviewer.away.store(0, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(tokens.pod(&token, HERE, |_| Ok(())).await.unwrap_err().status.as_u16(), 401);
    }
    assert_eq!(reviewer.asked(), 2, "the API server's no is believed for a while");
}

#[tokio::test]
async fn made_up_tokens_never_reach_the_api_server_and_copied_uids_are_limited_by_address() {
    let reviewer = Arc::new(Fake::default());
    let tokens = Tokens::new(reviewer.clone());
    let gone = || Refusal::new(StatusCode::FORBIDDEN, "gone");
    for number in 0..1_000 {
        let forged = token(&claims("web", &number.to_string()));
        assert_eq!(tokens.pod(&forged, HERE, |_| Err(gone())).await, Err(gone()));
    }
    assert_eq!(reviewer.asked(), 0);
    let mut limited = 0;
    for number in 0..1_000 {
        let mut claims = claims("web", "u1");
        claims["sub"] = json!(number);
        let refusal = tokens.pod(&token(&claims), HERE, |_| Ok(())).await.unwrap_err();
        limited += usize::from(refusal.status == StatusCode::TOO_MANY_REQUESTS && refusal.retry_after == Some(1));
    }
    assert!(limited >= 800, "{limited} of 1000 were limited");
    let real = token(&claims("web", "u1"));
    reviewer.accept(&real, status("shop", "web", "u1", AGENT_AUDIENCE));
    let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    assert_eq!(tokens.pod(&real, other, |_| Ok(())).await, Ok(pod("web", "u1")), "others are served meanwhile");
}

#[tokio::test]
async fn a_pod_that_asks_too_often_is_told_to_wait() {
    let camp = Camp::start(&[("web", "u1")]).await;
    let token = bound("web", "u1");
    let mut limited = None;
    for _ in 0..60 {
        let (status, later, body) = camp.post(SETTINGS_PATH, Some(&token), "{}").await;
        if status == 429 {
            limited = Some((later, body));
            break;
        }
    }
    let (later, body) = limited.expect("a limit");
    assert_eq!(later, Some(1));
    assert!(body.contains("wait for a change with `wait`"), "{body}");
}

#[tokio::test]
async fn who_finds_no_place_to_wait_is_told_when_to_come_again() {
    let camp = Camp::start(&[("web", "u1")]).await;
    let token = bound("web", "u1");
    let have = camp.settings(&token).await.version;
    let all = camp.agent.held.acquire_many(u32::try_from(HELD).unwrap()).await.unwrap();
    let (status, later, _) = camp.post(SETTINGS_PATH, Some(&token), json!({ "have": have, "wait": 60 }).to_string()).await;
    assert_eq!((status, later), (204, Some(COME_AGAIN)));
    drop(all);
}

#[tokio::test]
async fn connections_that_say_nothing_or_nonsense_stop_nobody() {
    let camp = Camp::start(&[("web", "u1")]).await;
    let mut silent = Vec::new();
    for _ in 0..LIMITS.per_address - 10 {
        silent.push(TcpStream::connect(camp.address).await.unwrap());
    }
    let mut nonsense = TcpStream::connect(camp.address).await.unwrap();
    nonsense.write_all(&[0x16, 0x03, 0x01, 0xff, 0xff, 0, 0, 0]).await.unwrap();
    let mut plain = TcpStream::connect(camp.address).await.unwrap();
    plain.write_all(b"POST /v1/settings HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Whether it is an alert or a reset: no HTTP.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    let mut endless = connect(camp.address, &camp.rig.ca()).await.unwrap();
    endless.write_all(b"POST /v1/settings HTTP/1.1\r\n").await.unwrap();
    let line = format!("x: {}\r\n", "y".repeat(1_000));
    while endless.write_all(line.as_bytes()).await.is_ok() && endless.flush().await.is_ok() {
        if tokio::time::timeout(Duration::from_millis(5), endless.read_u8()).await.is_ok() {
            break;
        }
    }
    camp.settings(&bound("web", "u1")).await;
}

#[tokio::test]
async fn keys_are_in_no_refusal_and_no_debug_text() {
    let camp = Camp::start(&[("web", "u1")]).await;
    let settings = camp.settings(&bound("web", "u1")).await;
    assert!(!format!("{settings:?}").contains(KEY));
    assert!(!format!("{:?}", camp.rig.ctx.memberships.get(&home())).contains(KEY));
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let camp = Camp::start(&[("web", "u1")]).await;
    let mut silent = Vec::new();
    for _ in 0..LIMITS.per_address + 10 {
        silent.push(TcpStream::connect(camp.address).await.unwrap());
    }
    camp.settings(&bound("web", "u1")).await;
    // Who said nothing for longest was closed for it.
    for stream in &mut silent[..10] {
        let mut byte = [0; 1];
        let read = tokio::io::AsyncReadExt::read(stream, &mut byte);
        assert!(matches!(tokio::time::timeout(Duration::from_secs(5), read).await, Ok(Ok(0) | Err(_))));
    }
}

/// Fewer than one address may have.
const WAITING: usize = 200;

/// What requests that wait cost, in this process; the clients are another one.
#[test]
fn what_a_request_that_waits_costs() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Ok(told) = std::env::var("CAMPFIRE_TEST_HOLD") {
        let (address, ca) = serde_json::from_str::<(SocketAddr, String)>(&told).unwrap();
        return runtime().block_on(hold(address, ca));
    }
    if std::env::var_os("CAMPFIRE_TEST_MEASURE").is_none() {
        // Other tests' memory is not to be measured.
        let measured = again().env("CAMPFIRE_TEST_MEASURE", "1").status().unwrap();
        assert!(measured.success());
        return;
    }
    runtime().block_on(async {
        let names: Vec<(String, String)> = (0..WAITING).map(|number| (format!("p{number}"), format!("u{number}"))).collect();
        let names: Vec<(&str, &str)> = names.iter().map(|(name, uid)| (name.as_str(), uid.as_str())).collect();
        let camp = Camp::start(&names).await;
        let tokens: Vec<String> = names.iter().map(|(name, uid)| bound(name, uid)).collect();
        // Each token known, so that only the waiting is measured.
        for (number, token) in tokens.iter().enumerate() {
            let from = IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(number % 250).unwrap()));
            let known = camp.agent.tokens.pod(token, from, |_| Ok(())).await;
            assert!(known.is_ok() || known.is_err_and(|refusal| refusal.status == StatusCode::TOO_MANY_REQUESTS));
        }
        camp.settings(&tokens[0]).await;
        let before = resident();
        let told = json!((camp.address, camp.rig.ca())).to_string();
        let mut clients = again().env("CAMPFIRE_TEST_HOLD", told).spawn().unwrap();
        let wanted = WAITING - 50;
        camp.held_at_least(wanted).await;
        let each = resident().saturating_sub(before) / wanted;
        println!("a request that waits costs {each} bytes ({wanted} of them)");
        clients.kill().unwrap();
        clients.wait().unwrap();
        assert!(each < 64 * 1024, "{each} bytes");
    });
}

/// This test in another process.
fn again() -> std::process::Command {
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "--nocapture", "agent::tests::what_a_request_that_waits_costs"]);
    again
}

/// Asks for each pod's settings, then waits.
async fn hold(address: SocketAddr, ca: String) {
    let all = (0..WAITING).map(|number| {
        let ca = ca.clone();
        tokio::spawn(async move {
            let token = token(&claims(&format!("p{number}"), &format!("u{number}")));
            let (status, _, body) = post(address, &ca, SETTINGS_PATH, Some(&token), "{}").await;
            if status == 200 {
                let have = serde_json::from_str::<Settings>(&body).unwrap().version;
                post(address, &ca, SETTINGS_PATH, Some(&token), json!({ "have": have, "wait": 60 }).to_string()).await;
            }
        })
    });
    for one in all.collect::<Vec<_>>() {
        let _ = one.await;
    }
}

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Namespace `shop` with Campfire `home` and pods, served over TLS.
pub(super) struct Camp {
    pub(super) rig: Rig,
    agent: Arc<Agent>,
    reviewer: Arc<Fake>,
    pub(super) address: SocketAddr,
}

impl Camp {
    pub(super) async fn start(pods: &[(&str, &str)]) -> Self {
        Self::within(LIMITS, pods).await
    }

    /// With places for these connections.
    pub(super) async fn within(limits: Limits, pods: &[(&str, &str)]) -> Self {
        Self::beside(Rig::new(|_, _, _| (404, json!({}))), limits, pods).await
    }

    /// With an API server that answers so.
    pub(super) async fn asking(api: impl Fn(&str, &str, &Value) -> (u16, Value) + Send + Sync + 'static, pods: &[(&str, &str)]) -> Self {
        Self::beside(Rig::new(api), LIMITS, pods).await
    }

    async fn beside(mut rig: Rig, limits: Limits, pods: &[(&str, &str)]) -> Self {
        rig.namespace("shop", &json!({}));
        rig.campfire("shop", "home", &json!({}));
        let reviewer = Arc::new(Fake::default());
        for (name, uid) in pods {
            rig.pod("shop", name, uid, &json!({ CAMPFIRE_ANNOTATION: "shop/home" }));
            reviewer.accept(&token(&claims(name, uid)), status("shop", name, uid, AGENT_AUDIENCE));
        }
        rig.ctx.memberships.publish(&home(), membership());
        let agent = Arc::new(Agent::new(rig.ctx.clone(), rig.bundle.subscribe(), reviewer.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(listen(agent.clone(), rig.bundle.subscribe(), listener, limits, std::future::pending()));
        Self { rig, agent, reviewer, address }
    }

    pub(super) async fn post(&self, path: &str, token: Option<&str>, body: impl Into<Bytes>) -> (u16, Option<u64>, String) {
        post(self.address, &self.rig.ca(), path, token, body).await
    }

    async fn settings(&self, token: &str) -> Settings {
        let (status, _, body) = self.post(SETTINGS_PATH, Some(token), "{}").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn publish(&self, mtu: u16) {
        let mut membership = membership();
        membership.network.mtu = mtu;
        self.rig.ctx.memberships.publish(&home(), membership);
    }

    /// A request for settings that waits.
    async fn wait(&self, token: String, have: String) -> tokio::task::JoinHandle<(u16, Option<u64>, String)> {
        let (address, ca) = (self.address, self.rig.ca());
        let body = json!({ "have": have, "wait": 60 }).to_string();
        let waiting = tokio::spawn(async move { post(address, &ca, SETTINGS_PATH, Some(&token), body).await });
        self.held(1).await;
        waiting
    }

    /// Until so many requests wait.
    async fn held(&self, wanted: usize) {
        while HELD - self.agent.held.available_permits() != wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn held_at_least(&self, wanted: usize) {
        while HELD - self.agent.held.available_permits() < wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// An API server that accepts what it was told.
#[derive(Default)]
struct Fake {
    accepted: Mutex<HashMap<String, TokenReviewStatus>>,
    asked: AtomicUsize,
    away: AtomicUsize,
}

impl Fake {
    fn accept(&self, token: &str, status: TokenReviewStatus) {
        self.accepted.lock().unwrap().insert(token.into(), status);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Reviewer for Fake {
    fn review(&self, token: Zeroizing<String>) -> Pin<Box<dyn Future<Output = Result<TokenReviewStatus, String>> + Send>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let away = self.away.load(Ordering::SeqCst) > 0;
        let status = self.accepted.lock().unwrap().get(token.as_str()).cloned().unwrap_or_default();
        Box::pin(async move {
            tokio::task::yield_now().await;
            if away { Err("connection refused".into()) } else { Ok(status) }
        })
    }
}

fn status(namespace: &str, name: &str, uid: &str, audience: &str) -> TokenReviewStatus {
    let extra = BTreeMap::from([
        ("authentication.kubernetes.io/pod-name".to_owned(), vec![name.to_owned()]),
        ("authentication.kubernetes.io/pod-uid".to_owned(), vec![uid.to_owned()]),
    ]);
    let user = UserInfo { username: Some(format!("system:serviceaccount:{namespace}:default")), extra: Some(extra), ..UserInfo::default() };
    TokenReviewStatus { authenticated: Some(true), audiences: Some(vec![audience.into()]), user: Some(user), error: None }
}

pub(super) fn claims(name: &str, uid: &str) -> Value {
    claims_of("shop", name, uid)
}

fn claims_of(namespace: &str, name: &str, uid: &str) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    json!({
        "aud": [AGENT_AUDIENCE],
        "exp": now / 3600 * 3600 + 7200,
        "kubernetes.io": { "namespace": namespace, "pod": { "name": name, "uid": uid } },
    })
}

/// A token of a pod that the API server accepts.
pub(super) fn bound(name: &str, uid: &str) -> String {
    token(&claims(name, uid))
}

pub(super) fn token(claims: &Value) -> String {
    format!("{}.{}.{}", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims.to_string()), URL_SAFE_NO_PAD.encode("signature"))
}

pub(super) fn home() -> ObjectKey {
    ObjectKey::new("shop", "home")
}

pub(super) fn pod(name: &str, uid: &str) -> PodId {
    PodId { key: ObjectKey::new("shop", name), uid: uid.into() }
}

pub(super) fn membership() -> Membership {
    let key = HeldKey::new(KEY.parse().unwrap(), KeyMode::Announce);
    let mut server: Server = "a-0=192.0.2.1:3478".parse().unwrap();
    let inside = ServerAddress { host: "10.0.0.1".into(), scope: Scope::Cluster, ..server.addresses[0].clone() };
    server.addresses.push(inside);
    Membership { own: vec![server], ..crate::testing::membership(vec![key]) }
}

/// What identity 1 says of itself, not signed.
pub(super) fn report() -> Value {
    json!({
        "publicKey": WireguardKey(crate::testing::identity(1).x25519()).to_string(), "identity": identity(), "addresses": [address()],
        "settingsVersion": "v", "fingerprints": ["0123456789abcdef"], "camped": true, "ready": true, "direct": 3, "relayed": 0,
        "unconnected": 0, "path": "Direct", "signature": "",
    })
}

/// Its address in the mesh.
pub(super) fn address() -> IpAddr {
    membership().id.address(&crate::testing::identity(1)).into()
}

/// A report with another signature, whatever it is.
fn unsigned(signature: &Value) -> String {
    let mut report = report();
    report["signature"] = signature.clone();
    report.to_string()
}

/// Of whoever reports, hex.
fn identity() -> String {
    crate::testing::identity(1).to_string()
}

/// The same, but for a field, signed for pod web.
pub(super) fn report_with(field: &str, value: Value) -> String {
    let mut report = report();
    report[field] = value;
    signed(report, 1, &pod("web", "u1"))
}

/// A report with the signature of an identity, as a pod's.
pub(super) fn signed(mut report: Value, by: u8, pod: &PodId) -> String {
    let said: Report = serde_json::from_value(report.clone()).unwrap();
    let signature = Identity::from_seed(&[by; 32]).sign(&said.statement(&pod.key.namespace, &pod.key.name, &pod.uid));
    report["signature"] = json!(STANDARD.encode(signature));
    report.to_string()
}
