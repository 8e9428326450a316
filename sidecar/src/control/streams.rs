//! TCP and TLS streams to servers. Each has a task of its own; ChannelData goes between it and the data thread without
//! passing the control loop.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use campfire_camp::Tls;
use campfire_protocol::carrier::StreamId;
use campfire_protocol::server::Transport;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::data::ToDataSender;
use crate::plane::{STREAM_BATCH, STREAM_QUEUE, ToData};
use campfire_camp::frames::{self, Frame, Framer};

/// How long connecting, TLS included, may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Frames may wait so long before newer ones are dropped (docs/protocol.md, "On the wire").
const MAX_DELAY: Duration = Duration::from_millis(100);
/// And so many bytes may wait.
const MAX_QUEUED: usize = 256 * 1024;
/// STUN messages of the mesh that may wait for a stream.
const MESSAGES: usize = 64;

/// What streams tell the control loop.
#[derive(Debug)]
pub enum Event {
    /// Up.
    Opened(StreamId),
    /// Did not come up, or ended.
    Closed(StreamId, String),
    /// A STUN message came.
    Stun(StreamId, Vec<u8>),
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

/// A stream as the control loop holds it.
pub struct Stream {
    id: StreamId,
    messages: mpsc::Sender<Vec<u8>>,
    task: AbortHandle,
    data: ToDataSender,
}

impl Stream {
    /// Queues a STUN message or a ChannelData frame; dropped if too many wait.
    pub fn send(&self, mut frame: Vec<u8>) -> bool {
        frames::pad(&mut frame);
        self.messages.try_send(frame).is_ok()
    }

    /// Lets what is queued go out, then closes.
    pub fn close(self) {
        let Self { id, messages, task, data } = self;
        // The task ends when the queue is closed and empty; not later than this.
        drop(messages);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !task.is_finished() {
                task.abort();
                let _ = data.send(ToData::StreamGone { stream: id });
            }
        });
    }
}

/// To where.
#[derive(Debug)]
pub struct Target {
    /// The stream's number.
    pub stream: StreamId,
    /// Address.
    pub remote: SocketAddr,
    /// TCP or TLS.
    pub transport: Transport,
    /// The server's name, for TLS.
    pub host: String,
    /// Its certificate, if pinned.
    pub pin: Option<[u8; 32]>,
}

/// What all streams share.
#[derive(Clone)]
pub struct Context {
    /// TLS.
    pub tls: Arc<Tls>,
    /// The data thread.
    pub data: ToDataSender,
    /// The control loop.
    pub events: mpsc::Sender<Event>,
    /// Counters.
    pub counters: Arc<StreamCounters>,
}

impl Context {
    /// Starts to connect.
    pub fn open(&self, target: Target) -> Stream {
        let (messages, queue) = mpsc::channel(MESSAGES);
        let context = self.clone();
        let stream = target.stream;
        let task = tokio::spawn(async move {
            let reason = match context.run(target, queue).await {
                Ok(()) => "closed".to_owned(),
                Err(reason) => reason,
            };
            let _ = context.data.send(ToData::StreamGone { stream });
            let _ = context.events.send(Event::Closed(stream, reason)).await;
        });
        Stream { id: stream, messages, task: task.abort_handle(), data: self.data.clone() }
    }

    async fn run(&self, target: Target, messages: mpsc::Receiver<Vec<u8>>) -> Result<(), String> {
        let pinned = target.pin.is_some();
        let connected = timeout(CONNECT, async {
            let tcp = connect(target.remote).await.map_err(|error| connect_error(target.remote, &error))?;
            if target.transport != Transport::Tls {
                return Ok(Connected::Tcp(tcp));
            }
            let config = self.tls.config(target.pin).map_err(|error| error.to_string())?;
            let name = ServerName::try_from(target.host.clone()).unwrap_or_else(|_| ServerName::from(target.remote.ip()));
            let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| campfire_camp::explain(&error, pinned))?;
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
        let (sender, batches) = mpsc::channel(STREAM_QUEUE);
        let _ = self.data.send(ToData::StreamReady { stream, sender });
        let _ = self.events.send(Event::Opened(stream)).await;
        let (reader, writer) = tokio::io::split(io);
        tokio::select! {
            read = self.read(stream, reader) => read,
            written = self.write(writer, messages, batches) => written.map_err(|error| error.to_string()),
        }
    }

    async fn read<T: AsyncRead>(&self, stream: StreamId, mut reader: ReadHalf<T>) -> Result<(), String> {
        let mut framer = Framer::default();
        let mut buffer = vec![0; STREAM_BATCH];
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
                        let _ = self.events.send(Event::Stun(stream, message.to_vec())).await;
                    }
                    Some(Frame::Channel(frame)) => frames.push(frame.to_vec()),
                    None => break,
                }
            }
            if !frames.is_empty() {
                // A full queue means that the data thread cannot keep up: what it would do is drop them.
                let _ = self.data.send(ToData::StreamFrames { stream, frames });
            }
        }
    }

    /// Messages of the mesh go first; batches of the data thread wait in order, and new ones are dropped while the oldest
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

async fn connect(remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // What the kernel holds is beyond our 100 ms: keep it small.
    socket.set_send_buffer_size(MAX_QUEUED as u32)?;
    let stream = socket.connect(remote).await?;
    stream.set_nodelay(true)?;
    let reference = socket2::SockRef::from(&stream);
    // A stream that nobody acknowledges any more is dead; the mesh notices sooner under traffic.
    reference.set_tcp_user_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn connect_error(remote: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{remote} refuses connections: nothing listens there"),
        _ => format!("{remote}: {error}"),
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
