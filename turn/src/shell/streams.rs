//! TCP and TLS connections: a task for each cuts what arrives into frames for the packet thread and writes what it queues.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use campfire_turn::io::StreamId;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::config::StreamLimits;
use super::descriptors::Descriptors;
use super::engine::{Handle, StreamEvent};
use super::framing::{self, MAX_FRAME};
use super::metrics::Counters;
use super::queue::Queue;

/// Bytes that the kernel may hold unsent for a connection, on top of our own queue.
const UNSENT: u32 = 64 * 1024;
/// Longest time that one chunk of at most a TLS record may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Read buffers begin small, for most connections idle, and grow while reads fill them.
const SMALL_BUFFER: usize = 2048;

/// What all connections share.
pub struct Streams {
    descriptors: Descriptors,
    handle: Handle,
    limits: StreamLimits,
    counters: Arc<Counters>,
    sources: Mutex<HashMap<IpAddr, usize>>,
    next: AtomicU64,
}

/// A connection's place among those allowed; given back when dropped.
struct Place {
    streams: Arc<Streams>,
    source: IpAddr,
    tls: bool,
}

impl Streams {
    /// No connections yet.
    pub fn new(handle: Handle, limits: StreamLimits, counters: Arc<Counters>, descriptors: Descriptors) -> Arc<Self> {
        Arc::new(Self { handle, limits, counters, descriptors, sources: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// Accepts connections for ever, with TLS if an acceptor is given.
    pub async fn accept(self: Arc<Self>, listener: TcpListener, tls: Option<TlsAcceptor>) {
        loop {
            match listener.accept().await {
                Ok((socket, remote)) => {
                    let Some(place) = self.place(remote.ip(), tls.is_some()) else { continue };
                    tokio::spawn(Arc::clone(&self).connection(socket, remote, tls.clone(), place));
                }
                Err(error) => {
                    // Out of descriptors or memory: the connections that are open must end first.
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn place(self: &Arc<Self>, remote: IpAddr, tls: bool) -> Option<Place> {
        let source = source(remote);
        let Ok(mut sources) = self.sources.lock() else { return None };
        if self.counters.tcp_connections.get() + self.counters.tls_connections.get() >= self.limits.connections as u64 {
            self.counters.over_limit.add(1);
            return None;
        }
        if !self.descriptors.left() {
            self.counters.over_descriptors.add(1);
            return None;
        }
        let count = sources.entry(source).or_insert(0);
        if *count >= self.limits.per_source {
            self.counters.over_source_limit.add(1);
            return None;
        }
        *count += 1;
        let gauge = if tls { &self.counters.tls_connections } else { &self.counters.tcp_connections };
        gauge.add(1);
        self.counters.accepted.add(1);
        Some(Place { streams: Arc::clone(self), source, tls })
    }

    async fn connection(self: Arc<Self>, socket: TcpStream, remote: SocketAddr, tls: Option<TlsAcceptor>, place: Place) {
        let options = SockRef::from(&socket);
        // None of these is needed to serve; a kernel without one of them serves without it.
        let _ = options.set_tcp_nodelay(true);
        let _ = options.set_tcp_notsent_lowat(UNSENT);
        let _ = options.set_keepalive(true);
        tracing::debug!(%remote, tls = tls.is_some(), "connection opened");
        let result = match tls {
            None => {
                let (reader, writer) = socket.into_split();
                self.serve(reader, writer, Writes::Chunks, remote).await
            }
            // Records are collected before they are handed to the kernel: one system call for several.
            Some(acceptor) => match timeout(self.limits.handshake, acceptor.accept(BufWriter::new(socket))).await {
                Ok(Ok(stream)) => {
                    let (reader, writer) = tokio::io::split(stream);
                    self.serve(reader, writer, Writes::Frames, remote).await
                }
                Ok(Err(error)) => {
                    self.counters.tls_failed.add(1);
                    Err(error)
                }
                Err(_) => {
                    self.counters.timed_out.add(1);
                    Err(io::ErrorKind::TimedOut.into())
                }
            },
        };
        match result {
            Ok(()) => tracing::debug!(%remote, "connection closed"),
            Err(error) => tracing::debug!(%remote, %error, "connection ended"),
        }
        drop(place);
    }

    async fn serve<R, W>(&self, reader: R, writer: W, writes: Writes, remote: SocketAddr) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let stream = StreamId(self.next.fetch_add(1, Ordering::Relaxed));
        let queue = Arc::new(Queue::default());
        self.handle.stream(StreamEvent::Opened(stream, remote, Arc::clone(&queue))).await;
        let result = tokio::select! {
            result = self.read(reader, stream) => result,
            result = write(writer, writes, &queue) => result,
        };
        queue.close();
        self.handle.stream(StreamEvent::Closed(stream)).await;
        result
    }

    /// Reads until the client has ended, is silent for too long or sends what no frame begins with.
    async fn read(&self, mut reader: impl AsyncRead + Unpin, stream: StreamId) -> io::Result<()> {
        let mut buffer: Vec<u8> = Vec::with_capacity(SMALL_BUFFER);
        let mut greeted = false;
        let mut deadline = None;
        loop {
            // A message that was begun, and the first one, must be there in time, however many bytes trickle in.
            let hurry = !greeted || !buffer.is_empty();
            let until = if hurry {
                *deadline.get_or_insert_with(|| tokio::time::Instant::now() + self.limits.handshake)
            } else {
                tokio::time::Instant::now() + self.limits.idle
            };
            let read = timeout_at(until, reader.read_buf(&mut buffer)).await;
            let Ok(read) = read else {
                self.counters.timed_out.add(1);
                return Err(io::ErrorKind::TimedOut.into());
            };
            if read? == 0 {
                return Ok(());
            }
            let begin = if greeted { Ok(()) } else { framing::may_begin(&buffer) };
            let whole = begin.and_then(|()| framing::whole_frames(&buffer)).map_err(|malformed| {
                self.counters.malformed.add(1);
                io::Error::new(io::ErrorKind::InvalidData, malformed)
            })?;
            let full = buffer.len() == buffer.capacity();
            if whole > 0 {
                greeted = true;
                deadline = None;
                let capacity = if full { (buffer.capacity() * 2).min(MAX_FRAME) } else { buffer.capacity() };
                let mut rest = Vec::with_capacity(capacity);
                rest.extend_from_slice(buffer.get(whole..).unwrap_or_default());
                buffer.truncate(whole);
                self.handle.stream(StreamEvent::Frames(stream, std::mem::replace(&mut buffer, rest))).await;
            } else if full {
                // A frame is never longer than the buffer may become.
                buffer.reserve_exact(buffer.len().min(MAX_FRAME.saturating_sub(buffer.len())).max(1));
            }
        }
    }
}

/// How bytes are handed to a connection.
#[derive(Clone, Copy)]
enum Writes {
    /// All that there is.
    Chunks,
    /// Frame by frame. On TLS each becomes a record: there are clients (coturn's among them) that take what one read of a
    /// record gives for one message.
    Frames,
}

/// Writes what is queued until the queue is closed and empty.
async fn write(mut writer: impl AsyncWrite + Unpin, writes: Writes, queue: &Queue) -> io::Result<()> {
    while let Some(chunk) = queue.next().await {
        timeout(WRITE_TIMEOUT, async {
            let mut rest = chunk.as_slice();
            while !rest.is_empty() {
                let length = match (writes, framing::first_frame(rest)) {
                    (Writes::Frames, Ok(Some(frame))) => frame.total.min(rest.len()),
                    _ => rest.len(),
                };
                let (now, later) = rest.split_at(length);
                writer.write_all(now).await?;
                rest = later;
            }
            writer.flush().await
        })
        .await??;
    }
    let _ = timeout(Duration::from_secs(1), writer.shutdown()).await;
    Ok(())
}

/// What counts as one source: an IPv4 address, or the /64 of an IPv6 address.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let counters = &self.streams.counters;
        if self.tls {
            counters.tls_connections.sub(1);
        } else {
            counters.tcp_connections.sub(1);
        }
        if let Ok(mut sources) = self.streams.sources.lock()
            && let Some(count) = sources.get_mut(&self.source)
        {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}
