//! `campfire-operator probe`: asks a running operator, from where the image has no other program to ask with.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long all attempts may take together.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// Asks `url` until it answers with 200, for at most [`PATIENCE`]; returns what it said.
pub async fn run(url: &str) -> Result<String> {
    let uri: hyper::Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        bail!("{url:?}: expected http://HOST:PORT/PATH");
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let asked = async {
        loop {
            match ask(authority.host(), authority.port_u16().unwrap_or(80), authority.as_str(), path).await {
                Ok(said) => return said,
                Err(error) => eprintln!("{url}: {error:#}; asking again"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.with_context(|| format!("{url} was not ready within {} s", PATIENCE.as_secs()))
}

async fn ask(host: &str, port: u16, authority: &str, path: &str) -> Result<String> {
    let stream = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect((host.trim_matches(['[', ']']), port)))
        .await
        .context("no answer within 5 s")?
        .context("cannot connect")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header(HOST, authority).body(Empty::<Bytes>::new())?;
    let answer = tokio::time::timeout(Duration::from_secs(5), sender.send_request(request)).await.context("no answer within 5 s")??;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), 4096).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    connection.abort();
    let said = String::from_utf8_lossy(&body).trim().to_owned();
    if !status.is_success() {
        bail!("{status}: {said}");
    }
    Ok(said)
}
