//! The user-space WireGuard control protocol (<https://www.wireguard.com/xplatform/#configuration-protocol>), read only:
//! so that `wg show` works. The private key is told to root alone (which can read it in any case, as with every implementation), and never
//! in a pod; preshared keys to nobody.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_camp::unix_millis;
use campfire_mesh::status::PathKind;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use zeroize::Zeroizing;

use crate::http::{Asker, each_client};
use crate::report::Report;

/// The longest line that is read, in bytes. The protocol's own are below 100.
pub const MAX_LINE: usize = 512;
/// The most lines of one request.
pub const MAX_LINES: usize = 100_000;
/// How long one client may hold its place.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `get=1`: tell.
    Get,
    /// `set=1`: change, which is refused; the first line that would change something is told in the log.
    Set,
}

/// Why a request was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Neither `get=1` nor `set=1`, or more than that.
    #[error("expected get=1 or set=1")]
    Malformed,
    /// Beyond [`MAX_LINE`] or [`MAX_LINES`].
    #[error("request too long")]
    TooLong,
}

/// Reads one request: lines up to an empty one. `None`: the other side has closed.
pub async fn read_request<R: AsyncBufRead + Unpin>(reader: &mut R) -> io::Result<Option<Result<Request, RequestError>>> {
    let mut kind = None;
    let mut line = Vec::new();
    for number in 0..=MAX_LINES {
        line.clear();
        let size = (&mut *reader).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).await?;
        if size == 0 {
            // Closed: between requests that is the end, within one it never was a request.
            return Ok((number > 0).then_some(Err(RequestError::Malformed)));
        }
        if line.pop_if(|last| *last == b'\n').is_none() {
            let error = if size > MAX_LINE { RequestError::TooLong } else { RequestError::Malformed };
            return Ok(Some(Err(error)));
        }
        match (line.as_slice(), kind) {
            (b"get=1", None) => kind = Some(Request::Get),
            (b"set=1", None) => kind = Some(Request::Set),
            (b"", Some(kind)) => return Ok(Some(Ok(kind))),
            (key_value, Some(Request::Set)) if key_value.contains(&b'=') => {}
            _ => return Ok(Some(Err(RequestError::Malformed))),
        }
    }
    Ok(Some(Err(RequestError::TooLong)))
}

/// The answer to [`Request::Get`]. Without the private key the real `wg` shows no key of the interface, for it makes the public one of it.
pub fn render(report: &Report, now_unix_millis: u64, private_key: Option<&[u8; 32]>) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::new());
    if let Some(key) = private_key {
        let _ = writeln!(out, "private_key={}", *Zeroizing::new(hex::encode(key)));
    }
    let _ = writeln!(out, "listen_port={}", report.listen_port);
    for peer in &report.status.peers {
        let Some(public_key) = STANDARD.decode(&peer.public_key).ok().filter(|key| key.len() == 32) else { continue };
        let _ = writeln!(out, "public_key={}", hex::encode(public_key));
        let _ = writeln!(out, "preshared_key={}", "0".repeat(64));
        out.push_str("protocol_version=1\n");
        if let Some(endpoint) = peer.endpoint.filter(|_| peer.path != PathKind::None) {
            let _ = writeln!(out, "endpoint={endpoint}");
        }
        let handshake = peer.last_handshake_ms.map_or(0, |ago| now_unix_millis.saturating_sub(ago));
        let _ = writeln!(out, "last_handshake_time_sec={}\nlast_handshake_time_nsec={}", handshake / 1000, handshake % 1000 * 1_000_000);
        let _ = writeln!(out, "tx_bytes={}\nrx_bytes={}\npersistent_keepalive_interval=0", peer.sent_bytes, peer.received_bytes);
        for address in &peer.addresses {
            let _ = writeln!(out, "allowed_ip={address}/{}", if address.is_ipv4() { 32 } else { 128 });
        }
        for route in &peer.routes {
            let _ = writeln!(out, "allowed_ip={route}");
        }
    }
    out.push_str("errno=0\n\n");
    out
}

/// Talks with one client until it closes or says what is not understood. `report` gives the state when asked for; `private_key` is
/// there for a client that may read it.
pub async fn serve<S, F>(stream: S, private_key: Option<&[u8; 32]>, mut report: impl FnMut() -> F) -> io::Result<()>
where
    S: tokio::io::AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Option<(Report, u64)>>,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::with_capacity(4096, reader);
    while let Some(request) = read_request(&mut reader).await? {
        let answer = match request {
            Ok(Request::Get) => match report().await {
                Some((report, now)) => render(&report, now, private_key),
                None => errno(libc::EIO).into(),
            },
            Ok(Request::Set) => {
                tracing::warn!(
                    "`wg` asked to change the interface, which is refused: peers follow from the key alone; see `campfire up --help` for what can be set"
                );
                errno(libc::EOPNOTSUPP).into()
            }
            Err(error) => {
                tracing::debug!(%error, "request on the WireGuard socket");
                writer.write_all(errno(libc::EPROTO).as_bytes()).await?;
                return writer.shutdown().await;
            }
        };
        writer.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

fn errno(code: i32) -> String {
    format!("errno={}\n\n", -code)
}

/// Serves the socket that `wg` asks until the task is dropped. `private_key`: for those who are root.
pub async fn listen(listener: UnixListener, asker: Asker, private_key: Option<Zeroizing<[u8; 32]>>) {
    let private_key = Arc::new(private_key);
    each_client(listener, move |client: UnixStream| {
        let (asker, private_key) = (asker.clone(), private_key.clone());
        async move {
            let is_root = client.peer_cred().is_ok_and(|who| who.uid() == 0);
            let told = private_key.as_ref().as_deref().filter(|_| is_root);
            let report = || async { asker.ask().await.map(|snapshot| (snapshot.report, unix_millis().0)) };
            let _ = tokio::time::timeout(PATIENCE, serve(client, told, report)).await;
        }
    })
    .await;
}
