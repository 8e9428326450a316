//! TCP and TLS streams to servers: nothing but STUN messages go over them, for there is no tunnel.

use std::net::SocketAddr;
use std::time::Duration;

use campfire_camp::{Tls, Trust};
use campfire_protocol::carrier::StreamId;
use campfire_protocol::server::Transport;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long connecting, TLS included, may take.
const CONNECT: Duration = Duration::from_secs(5);
/// STUN messages that may wait for a stream.
const MESSAGES: usize = 64;
/// Longest STUN message, bytes.
const MAX_STUN: usize = 2_048;

/// What streams say.
#[derive(Debug)]
pub(super) enum Event {
    /// Up.
    Opened(StreamId),
    /// Did not come up, or ended; why.
    Closed(StreamId, String),
    /// A STUN message came.
    Stun(StreamId, Vec<u8>),
}

/// Where to connect to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) stream: StreamId,
    pub(super) remote: SocketAddr,
    pub(super) transport: Transport,
    pub(super) host: String,
    pub(super) pin: Option<[u8; 32]>,
}

/// A stream. Closed when dropped.
#[derive(Debug)]
pub(super) struct Stream {
    messages: mpsc::Sender<Vec<u8>>,
    task: AbortHandle,
}

impl Stream {
    /// Begins to connect; the rest is told by events.
    pub(super) fn open(target: Target, events: mpsc::Sender<Event>) -> Self {
        let (messages, queue) = mpsc::channel(MESSAGES);
        let task = tokio::spawn(async move {
            let stream = target.stream;
            let reason = match run(target, queue, &events).await {
                Ok(()) => "closed".to_owned(),
                Err(reason) => reason,
            };
            let _ = events.send(Event::Closed(stream, reason)).await;
        });
        Self { messages, task: task.abort_handle() }
    }

    /// A full queue drops the message: requests are retried.
    pub(super) fn send(&self, message: Vec<u8>) {
        let _ = self.messages.try_send(message);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(target: Target, messages: mpsc::Receiver<Vec<u8>>, events: &mpsc::Sender<Event>) -> Result<(), String> {
    let connected = timeout(CONNECT, async {
        let tcp = TcpStream::connect(target.remote).await.map_err(|error| format!("{}: {error}", target.remote))?;
        let _ = tcp.set_nodelay(true);
        if target.transport != Transport::Tls {
            return Ok(Connected::Tcp(tcp));
        }
        let name = ServerName::try_from(target.host.clone()).unwrap_or_else(|_| ServerName::from(target.remote.ip()));
        let config = Tls::new(&Trust::Anybody).map_err(|error| error.to_string())?.config(target.pin).map_err(|error| error.to_string())?;
        let pinned = target.pin.is_some();
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| campfire_camp::explain(&error, pinned))?;
        Ok(Connected::Tls(Box::new(stream)))
    });
    match connected.await {
        Err(_) => Err(format!("no connection to {} within {} s", target.remote, CONNECT.as_secs())),
        Ok(Err(reason)) => Err(reason),
        Ok(Ok(Connected::Tcp(io))) => carry(target.stream, io, messages, events).await,
        Ok(Ok(Connected::Tls(io))) => carry(target.stream, io, messages, events).await,
    }
}

enum Connected {
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn carry(
    stream: StreamId,
    io: impl AsyncRead + AsyncWrite,
    mut messages: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<Event>,
) -> Result<(), String> {
    let _ = events.send(Event::Opened(stream)).await;
    let (reader, mut writer) = tokio::io::split(io);
    let read = async {
        let mut reader = BufReader::new(reader);
        loop {
            if let Some(message) = next_stun(&mut reader).await? {
                let _ = events.send(Event::Stun(stream, message)).await;
            }
        }
    };
    let write = async {
        while let Some(message) = messages.recv().await {
            writer.write_all(&message).await.map_err(|error| error.to_string())?;
            writer.flush().await.map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
    }
}

/// The next frame (RFC 8489 §6.2.2, RFC 8656 §12.5); `None`: it was ChannelData, which has nobody to go to.
async fn next_stun(reader: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, String> {
    let mut header = [0; 4];
    reader.read_exact(&mut header).await.map_err(|error| error.to_string())?;
    let [first, _, high, low] = header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    match first {
        0x00..=0x3F if 20 + length <= MAX_STUN && length.is_multiple_of(4) => {
            let mut message = header.to_vec();
            message.resize(20 + length, 0);
            let rest = message.get_mut(4..).unwrap_or_default();
            reader.read_exact(rest).await.map_err(|error| error.to_string())?;
            Ok(Some(message))
        }
        0x40..=0x4F => {
            let mut rest = vec![0; length.next_multiple_of(4)];
            reader.read_exact(&mut rest).await.map_err(|error| error.to_string())?;
            Ok(None)
        }
        _ => Err("the server sends something else than STUN and ChannelData".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by it")]

    use super::*;

    #[tokio::test]
    async fn frames_are_cut_and_what_is_none_ends_the_stream() {
        let mut stun = vec![0x01, 0x01, 0x00, 0x04];
        stun.resize(24, 7);
        let mut bytes = vec![0x40, 0x01, 0x00, 0x05, 1, 2, 3, 4, 5, 0, 0, 0];
        bytes.extend(&stun);
        bytes.extend(b"HTTP/1.1 400 Bad Request");
        let mut reader = &bytes[..];
        assert_eq!(next_stun(&mut reader).await, Ok(None));
        assert_eq!(next_stun(&mut reader).await, Ok(Some(stun)));
        assert!(next_stun(&mut reader).await.is_err());
    }
}
