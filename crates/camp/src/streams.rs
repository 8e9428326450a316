//! TCP and TLS streams to servers. Each has a task of its own; ChannelData goes between it and the data plane without
//! passing whoever holds the camp.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use campfire_protocol::carrier::StreamId;
use campfire_protocol::server::Transport;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::CampEvent;
use crate::Prepare;
use crate::frames::{self, Frame, Framer};
use crate::tls::{self, Tls};

/// How long connecting, TLS included, may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Frames may wait so long before newer ones are dropped (docs/protocol.md, "On the wire").
const MAX_DELAY: Duration = Duration::from_millis(100);
/// And so many bytes may wait.
const MAX_QUEUED: usize = 256 * 1024;
/// STUN messages of the fire that may wait for a stream.
const MESSAGES: usize = 64;
/// Batches of ChannelData that may wait for a stream before its task looks at them.
const BATCHES: usize = 16;
/// Bytes read at a time.
const READ: usize = 16 * 1024;
/// How long a stream that is closed may take to write what it was given.
const CLOSE: Duration = Duration::from_secs(1);

/// Who takes the ChannelData of streams, and gives it: a data plane. None of this may wait.
pub trait ChannelSink: Send + Sync + 'static {
    /// A stream may be used for sending, by `queue`: each item is a batch of whole ChannelData frames, one after the other, each
    /// already padded to four bytes (RFC 8656 §12.5): written as it is. What the queue does not take is to be dropped.
    fn ready(&self, stream: StreamId, queue: mpsc::Sender<Vec<u8>>);
    /// These came on a stream: header and payload, without padding.
    fn frames(&self, stream: StreamId, frames: Vec<Vec<u8>>);
    /// The stream may not be used any more.
    fn gone(&self, stream: StreamId);
}

/// What streams count.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Frames dropped because the stream was too slow.
    pub dropped_frames: AtomicU64,
    /// Bytes written.
    pub sent_bytes: AtomicU64,
    /// Bytes read.
    pub received_bytes: AtomicU64,
}

/// A stream as its camp holds it. Broken off when dropped.
pub(crate) struct Stream {
    id: StreamId,
    /// `None`: it is to end once all is written.
    messages: Option<mpsc::Sender<Vec<u8>>>,
    task: JoinHandle<()>,
    channels: Option<Arc<dyn ChannelSink>>,
}

impl Stream {
    /// Queues a STUN message or a ChannelData frame; dropped if too many wait.
    pub(crate) fn send(&self, mut frame: Vec<u8>) -> bool {
        frames::pad(&mut frame);
        self.messages.as_ref().is_some_and(|messages| messages.try_send(frame).is_ok())
    }

    /// Lets what is queued go out, then closes; broken off if that takes long.
    pub(crate) fn close(self) {
        let end = self.end();
        tokio::spawn(async move {
            let _ = timeout(CLOSE, end).await;
        });
    }

    /// Lets what is queued go out, then closes. Dropping the future breaks it off.
    pub(crate) fn end(mut self) -> impl Future<Output = ()> {
        // The task ends when the queue is closed and empty.
        self.messages = None;
        async move {
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.task.is_finished() {
            self.task.abort();
            if let Some(channels) = &self.channels {
                channels.gone(self.id);
            }
        }
    }
}

/// To where.
#[derive(Debug)]
pub(crate) struct Target {
    /// The stream's number.
    pub(crate) stream: StreamId,
    /// Address.
    pub(crate) remote: SocketAddr,
    /// TCP or TLS.
    pub(crate) transport: Transport,
    /// The server's name, for TLS.
    pub(crate) host: String,
    /// Its certificate, if pinned.
    pub(crate) pin: Option<[u8; 32]>,
}

/// Opens streams: what all of them share.
#[derive(Clone)]
pub(crate) struct Opener {
    pub(crate) tls: Arc<Tls>,
    /// `None`: ChannelData has nobody to go to.
    pub(crate) channels: Option<Arc<dyn ChannelSink>>,
    pub(crate) events: mpsc::Sender<CampEvent>,
    pub(crate) counters: Arc<StreamCounters>,
    pub(crate) prepare: Prepare,
}

impl Opener {
    /// Starts to connect.
    pub(crate) fn open(&self, target: Target) -> Stream {
        let (messages, queue) = mpsc::channel(MESSAGES);
        let opener = self.clone();
        let stream = target.stream;
        let task = tokio::spawn(async move {
            let reason = match opener.run(target, queue).await {
                Ok(()) => "closed".to_owned(),
                Err(reason) => reason,
            };
            if let Some(channels) = &opener.channels {
                channels.gone(stream);
            }
            let _ = opener.events.send(CampEvent::StreamClosed { stream, reason }).await;
        });
        Stream { id: stream, messages: Some(messages), task, channels: self.channels.clone() }
    }

    async fn run(&self, target: Target, messages: mpsc::Receiver<Vec<u8>>) -> Result<(), String> {
        let pinned = target.pin.is_some();
        let connected = timeout(CONNECT, async {
            let tcp = connect(target.remote, self.prepare).await.map_err(|error| connect_error(target.remote, &error))?;
            if target.transport != Transport::Tls {
                return Ok(Connected::Tcp(tcp));
            }
            let config = self.tls.config(target.pin).map_err(|error| error.to_string())?;
            let name = ServerName::try_from(target.host.clone()).unwrap_or_else(|_| ServerName::from(target.remote.ip()));
            let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| tls::explain(&error, pinned))?;
            Ok(Connected::Tls(Box::new(stream)))
        });
        match connected.await {
            Err(_) => Err(format!("no connection to {} within {} s", target.remote, CONNECT.as_secs())),
            Ok(Err(reason)) => Err(reason),
            Ok(Ok(Connected::Tcp(stream))) => self.carry(target.stream, stream, messages).await,
            Ok(Ok(Connected::Tls(stream))) => self.carry(target.stream, stream, messages).await,
        }
    }

    async fn carry(
        &self,
        stream: StreamId,
        io: impl AsyncRead + AsyncWrite + Send + 'static,
        messages: mpsc::Receiver<Vec<u8>>,
    ) -> Result<(), String> {
        let (queue, batches) = mpsc::channel(BATCHES);
        if let Some(channels) = &self.channels {
            channels.ready(stream, queue);
        }
        let _ = self.events.send(CampEvent::StreamOpened { stream }).await;
        let (reader, writer) = tokio::io::split(io);
        tokio::select! {
            read = self.read(stream, reader) => read,
            written = self.write(writer, messages, batches) => written.map_err(|error| error.to_string()),
        }
    }

    async fn read<T: AsyncRead>(&self, stream: StreamId, mut reader: ReadHalf<T>) -> Result<(), String> {
        let mut framer = Framer::default();
        let mut buffer = vec![0; READ];
        loop {
            let size = reader.read(&mut buffer).await.map_err(|error| error.to_string())?;
            if size == 0 {
                return Err("the server closed the connection".into());
            }
            self.counters.received_bytes.fetch_add(size as u64, Ordering::Relaxed);
            framer.push(buffer.get(..size).unwrap_or_default());
            let mut frames = Vec::new();
            loop {
                match framer.next_frame().map_err(|error| error.to_string())? {
                    Some(Frame::Stun(message)) => {
                        let _ = self.events.send(CampEvent::Stun { stream, message: message.to_vec() }).await;
                    }
                    Some(Frame::Channel(frame)) if self.channels.is_some() => frames.push(frame.to_vec()),
                    // Without a tunnel it has nobody to go to.
                    Some(Frame::Channel(_)) => {}
                    None => break,
                }
            }
            if let Some(channels) = self.channels.as_ref().filter(|_| !frames.is_empty()) {
                channels.frames(stream, frames);
            }
        }
    }

    /// Messages of the fire go first; batches of the data plane wait in order, and new ones are dropped while the oldest
    /// waits for more than [`MAX_DELAY`] or more than [`MAX_QUEUED`] bytes wait.
    async fn write<T: AsyncWrite>(
        &self,
        mut writer: WriteHalf<T>,
        mut messages: mpsc::Receiver<Vec<u8>>,
        mut batches: mpsc::Receiver<Vec<u8>>,
    ) -> io::Result<()> {
        let mut queue = WriteQueue::default();
        let mut more_messages = true;
        let mut more_batches = true;
        while more_messages || !queue.is_empty() {
            tokio::select! {
                biased;
                message = messages.recv(), if more_messages => match message {
                    Some(message) => queue.push_message(message),
                    None => more_messages = false,
                },
                batch = batches.recv(), if more_batches => match batch {
                    Some(batch) => if let Err(frames) = queue.push_batch(batch, Instant::now()) {
                        self.counters.dropped_frames.fetch_add(frames, Ordering::Relaxed);
                    },
                    None => more_batches = false,
                },
                written = async {
                    match queue.front() {
                        // Cancelled by a new item before anything was written: nothing is lost.
                        Some(bytes) => writer.write(bytes).await,
                        None => pending().await,
                    }
                } => {
                    let size = written?;
                    if size == 0 {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    queue.advance(size);
                    self.counters.sent_bytes.fetch_add(size as u64, Ordering::Relaxed);
                    if queue.is_empty() {
                        writer.flush().await?;
                    }
                }
            }
        }
        writer.shutdown().await
    }
}

enum Connected {
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn connect(remote: SocketAddr, prepare: Prepare) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prepare(&socket2::SockRef::from(&socket));
    // What the kernel holds is beyond our 100 ms: keep it small.
    socket.set_send_buffer_size(MAX_QUEUED as u32)?;
    let stream = socket.connect(remote).await?;
    stream.set_nodelay(true)?;
    let reference = socket2::SockRef::from(&stream);
    // A stream that nobody acknowledges any more is dead; the fire notices sooner under traffic.
    reference.set_tcp_user_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn connect_error(remote: SocketAddr, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        format!("{remote} refuses connections: nothing listens there")
    } else {
        format!("{remote}: {error}")
    }
}

/// What waits to be written.
#[derive(Debug, Default)]
struct WriteQueue {
    /// Next to be written first, with how much of it is written already.
    current: Option<(Vec<u8>, usize)>,
    messages: VecDeque<Vec<u8>>,
    batches: VecDeque<(Instant, Vec<u8>)>,
    batch_bytes: usize,
}

impl WriteQueue {
    fn is_empty(&self) -> bool {
        self.current.is_none() && self.messages.is_empty() && self.batches.is_empty()
    }

    fn push_message(&mut self, message: Vec<u8>) {
        self.messages.push_back(message);
    }

    /// `Err`: dropped, so many frames.
    fn push_batch(&mut self, batch: Vec<u8>, now: Instant) -> Result<(), u64> {
        let stale = self.batches.front().is_some_and(|(since, _)| now.duration_since(*since) > MAX_DELAY);
        if stale || self.batch_bytes + batch.len() > MAX_QUEUED {
            return Err(frames::count(&batch));
        }
        self.batch_bytes += batch.len();
        self.batches.push_back((now, batch));
        Ok(())
    }

    fn front(&mut self) -> Option<&[u8]> {
        if self.current.is_none() {
            self.current = match self.messages.pop_front() {
                Some(message) => Some((message, 0)),
                None => self.batches.pop_front().map(|(_, batch)| {
                    self.batch_bytes -= batch.len();
                    (batch, 0)
                }),
            };
        }
        self.current.as_ref().map(|(bytes, written)| bytes.get(*written..).unwrap_or_default())
    }

    fn advance(&mut self, size: usize) {
        if let Some((bytes, written)) = &mut self.current {
            *written += size;
            if *written >= bytes.len() {
                self.current = None;
            }
        }
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
