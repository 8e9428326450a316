//! An API server that is a function: of method, path and body, JSON comes back, or what a command in a container prints, over a WebSocket as the real
//! one sends it.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use futures_util::SinkExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    pub body: Value,
}

impl Asked {
    /// The words of a command that is to be run.
    pub fn command(&self) -> Vec<String> {
        let values = self.query.split('&').filter_map(|pair| pair.strip_prefix("command="));
        values.map(|value| value.replace("%3A", ":").replace('+', " ")).collect()
    }
}

/// What comes back.
pub enum Answer {
    Json(u16, Value),
    /// The same, with a warning.
    Warned(Value, String),
    /// The same, by a clock that shows so many seconds more.
    Dated(i64, Value),
    /// Standard output, standard error, and whether it ended well.
    Ran(String, String, bool),
}

/// One server, and what it was asked.
pub struct Api {
    kubeconfig: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
    _serving: tokio::runtime::Runtime,
}

/// Contexts of the kubeconfig: all are this server, each under a path of its own (`/berlin/api/…`).
pub const CONTEXTS: [&str; 2] = ["berlin", "paris"];

impl Api {
    /// The function gets the context first.
    pub fn new(answer: impl Fn(&str, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let serving = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = serving.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), asked.clone());
        serving.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (answer.clone(), log.clone());
                let service = service_fn(move |request| {
                    let (answer, log) = (answer.clone(), log.clone());
                    async move { Ok::<_, Infallible>(serve(request, &*answer, &log).await) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
            }
        });
        let kubeconfig = tempfile::tempdir().unwrap();
        let each = |make: &dyn Fn(&str) -> Value| CONTEXTS.iter().map(|name| make(name)).collect::<Vec<_>>();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": CONTEXTS[0],
            "clusters": each(&|name| json!({ "name": name, "cluster": { "server": format!("http://{address}/{name}") } })),
            "users": [{ "name": "somebody", "user": {} }],
            "contexts": each(&|name| json!({ "name": name, "context": { "cluster": name, "user": "somebody", "namespace": "default" } })),
        });
        std::fs::write(kubeconfig.path().join("config"), config.to_string()).unwrap();
        Self { kubeconfig, asked, _serving: serving }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.path().join("config")
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Runs the plugin: exit code, output, errors.
    pub fn run(&self, words: &[&str]) -> (i32, Vec<u8>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-campfire"));
        command.env("KUBECONFIG", self.kubeconfig()).env("COLUMNS", "140").args(words).stdin(Stdio::null());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), output.stdout, String::from_utf8(output.stderr).unwrap())
    }

    /// The same, which has to end well; its output.
    pub fn well(&self, words: &[&str]) -> String {
        let (code, output, errors) = self.run(words);
        assert_eq!(code, 0, "{words:?}: {errors}");
        String::from_utf8(output).unwrap()
    }

    /// The same, which has to fail; what it says.
    pub fn fails(&self, words: &[&str]) -> String {
        let (code, output, errors) = self.run(words);
        assert_eq!(code, 1, "{words:?}: {}{errors}", String::from_utf8_lossy(&output));
        errors
    }
}

async fn serve(
    mut request: Request<Incoming>,
    answer: &(dyn Fn(&str, &Asked) -> Answer + Sync + Send),
    log: &Mutex<Vec<Asked>>,
) -> Response<Full<Bytes>> {
    let body = request.body_mut().collect().await.unwrap().to_bytes();
    let path = request.uri().path().to_owned();
    let (context, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
    let asked = Asked {
        method: request.method().to_string(),
        path: format!("/{rest}"),
        query: request.uri().query().unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    log.lock().unwrap().push(asked.clone());
    match answer(context, &asked) {
        Answer::Json(code, value) => Response::builder()
            .status(code)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(value.to_string().into()))
            .unwrap(),
        Answer::Warned(value, warning) => {
            let warning = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
            Response::builder().status(201).header(header::WARNING, warning).body(Full::new(value.to_string().into())).unwrap()
        }
        Answer::Dated(ahead, value) => {
            let at = k8s_openapi::jiff::Timestamp::now() + k8s_openapi::jiff::SignedDuration::from_secs(ahead);
            let date = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            Response::builder().header(header::DATE, date).body(Full::new(value.to_string().into())).unwrap()
        }
        Answer::Ran(stdout, stderr, well) => {
            let key = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(request).await.unwrap();
                let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                let status = if well {
                    json!({ "status": "Success" })
                } else {
                    json!({ "status": "Failure", "message": "command terminated with exit code 1" })
                };
                for (channel, text) in [(1_u8, stdout), (2, stderr), (3, status.to_string())] {
                    for piece in text.as_bytes().chunks(30_000) {
                        socket.send(Message::binary([&[channel][..], piece].concat())).await.unwrap();
                    }
                }
                let _ = socket.close(None).await;
            });
            Response::builder()
                .status(101)
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "websocket")
                .header(header::SEC_WEBSOCKET_ACCEPT, key)
                .header(header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io")
                .body(Full::default())
                .unwrap()
        }
    }
}

/// An API server's refusal.
pub fn refused(code: u16, reason: &str, message: &str) -> Answer {
    Answer::Json(
        code,
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message }),
    )
}

/// A list.
pub fn list(items: &[Value]) -> Answer {
    Answer::Json(200, json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items }))
}
