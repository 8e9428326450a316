//! Streams to servers that behave and to such that do not, on loopback.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;
use crate::Trust;

#[test]
fn messages_overtake_batches_but_never_cut_one() {
    let now = Instant::now();
    let mut queue = WriteQueue::default();
    queue.push_batch(vec![1; 8], now).expect("room");
    queue.push_batch(vec![2; 8], now).expect("room");
    assert_eq!(queue.front(), Some([1; 8].as_slice()));
    queue.advance(3);
    queue.push_message(vec![9; 4]);
    assert_eq!(queue.front(), Some([1; 5].as_slice()));
    queue.advance(5);
    assert_eq!(queue.front(), Some([9; 4].as_slice()));
    queue.advance(4);
    assert_eq!(queue.front(), Some([2; 8].as_slice()));
    queue.advance(8);
    assert!(queue.is_empty());
}

#[test]
fn a_slow_stream_drops_the_newest_beyond_its_bounds() {
    let now = Instant::now();
    let mut queue = WriteQueue::default();
    let batch = vec![0; READ];
    for _ in 0..MAX_QUEUED / READ {
        queue.push_batch(batch.clone(), now).expect("room");
    }
    assert!(queue.push_batch(batch.clone(), now).is_err(), "256 KiB wait");
    queue.front();
    queue.advance(READ);
    assert!(queue.push_batch(batch.clone(), now + MAX_DELAY).is_ok());
    queue.front();
    queue.advance(READ);
    assert!(queue.push_batch(batch, now + MAX_DELAY + Duration::from_millis(1)).is_err(), "the oldest waits for too long");
}

#[tokio::test]
async fn frames_go_both_ways_between_server_fire_and_data_plane() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let stream = bench.open(&listener);
    let (mut server, _) = listener.accept().await.expect("a connection");
    assert!(matches!(bench.event().await, CampEvent::StreamOpened { stream: StreamId(7) }));
    let sender = bench.queue().await;

    // To the server: the fire's message, and the data plane's batch as it is.
    assert!(stream.send(stun(4)));
    sender.send(vec![0x40, 0, 0, 4, 1, 2, 3, 4]).await.expect("taken");
    let mut got = vec![0; 24 + 8];
    server.read_exact(&mut got).await.expect("read");
    assert!(got.windows(24).any(|window| window == stun(4)) && got.windows(4).any(|window| window == [1, 2, 3, 4]), "{got:?}");

    // From it: a message, and two frames with padding between, cut anywhere.
    let mut bytes = stun(0);
    bytes.extend([0x40, 1, 0, 1, 5, 0, 0, 0, 0x40, 2, 0, 2, 6, 6, 0, 0]);
    server.write_all(&bytes[..21]).await.expect("written");
    assert!(matches!(bench.event().await, CampEvent::Stun { stream: StreamId(7), message } if message == stun(0)));
    server.write_all(&bytes[21..]).await.expect("written");
    let mut frames = Vec::new();
    while frames.len() < 2 {
        if let Said::Frames(StreamId(7), some) = bench.said().await {
            frames.extend(some);
        }
    }
    assert_eq!(frames, [vec![0x40, 1, 0, 1, 5], vec![0x40, 2, 0, 2, 6, 6]]);

    drop(server);
    assert!(
        matches!(bench.event().await, CampEvent::StreamClosed { stream: StreamId(7), reason } if reason == "the server closed the connection")
    );
    assert!(matches!(bench.said().await, Said::Gone(StreamId(7))));
    assert!(!stream.send(stun(0)), "nobody takes it any more");
}

#[tokio::test]
async fn what_is_queued_goes_out_before_a_stream_closes() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let stream = bench.open(&listener);
    let (mut server, _) = listener.accept().await.expect("a connection");
    bench.event().await;
    for _ in 0..10 {
        assert!(stream.send(stun(100)));
    }
    stream.close();
    let mut all = Vec::new();
    server.read_to_end(&mut all).await.expect("read");
    assert_eq!(all.len(), 10 * 120);
}

#[tokio::test]
async fn a_server_that_reads_nothing_costs_bounded_memory_and_drops_are_counted() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let _stream = bench.open(&listener);
    let (server, _) = listener.accept().await.expect("a connection");
    bench.event().await;
    let sender = bench.queue().await;
    let mut batch = vec![0x40, 0, 0x3F, 0xFC];
    batch.resize(READ, 0);
    // More than the kernel's and our queues hold together.
    for _ in 0..1_000 {
        sender.send(batch.clone()).await.expect("the stream lives on");
    }
    let dropped = bench.opener.counters.dropped_frames.load(Ordering::Relaxed);
    assert!(dropped > 0, "nothing was dropped of 16 MB");
    drop(server);
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_left_with_a_reason() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let _stream = bench.open(&listener);
    let (mut server, _) = listener.accept().await.expect("a connection");
    bench.event().await;
    server.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.expect("written");
    assert!(
        matches!(bench.event().await, CampEvent::StreamClosed { reason, .. } if reason.starts_with("the server sends neither STUN nor ChannelData"))
    );
}

#[tokio::test]
async fn a_port_where_nothing_listens_says_so() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let _stream = bench.opener.open(target(address));
    let CampEvent::StreamClosed { reason, .. } = bench.event().await else { panic!("it opened") };
    assert_eq!(reason, format!("{address} refuses connections: nothing listens there"));
}

#[tokio::test]
async fn without_a_tunnel_channel_data_goes_to_nobody_and_messages_to_the_fire() {
    let mut bench = Bench::new();
    bench.opener.channels = None;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let _stream = bench.open(&listener);
    let (mut server, _) = listener.accept().await.expect("a connection");
    bench.event().await;
    let mut bytes = vec![0x40, 0x01, 0x00, 0x05, 1, 2, 3, 4, 5, 0, 0, 0];
    bytes.extend(stun(4));
    bytes.extend(b"HTTP/1.1 400 Bad Request");
    server.write_all(&bytes).await.expect("written");
    assert!(matches!(bench.event().await, CampEvent::Stun { message, .. } if message == stun(4)));
    assert!(matches!(bench.event().await, CampEvent::StreamClosed { .. }), "what is no frame ends the stream");
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_broken_off_and_the_data_plane_told() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let stream = bench.open(&listener);
    let (mut server, _) = listener.accept().await.expect("a connection");
    bench.event().await;
    let _queue = bench.queue().await;
    drop(stream);
    assert!(matches!(bench.said().await, Said::Gone(StreamId(7))));
    assert_eq!(server.read(&mut [0; 16]).await.expect("read"), 0, "the connection is closed");
}

/// What a stream talks to, seen from the other side.
struct Bench {
    opener: Opener,
    events: mpsc::Receiver<CampEvent>,
    said: mpsc::UnboundedReceiver<Said>,
}

/// What the data plane is told.
#[derive(Debug)]
enum Said {
    Ready(StreamId, mpsc::Sender<Vec<u8>>),
    Frames(StreamId, Vec<Vec<u8>>),
    Gone(StreamId),
}

struct Plane(mpsc::UnboundedSender<Said>);

impl ChannelSink for Plane {
    fn ready(&self, stream: StreamId, queue: mpsc::Sender<Vec<u8>>) {
        let _ = self.0.send(Said::Ready(stream, queue));
    }

    fn frames(&self, stream: StreamId, frames: Vec<Vec<u8>>) {
        let _ = self.0.send(Said::Frames(stream, frames));
    }

    fn gone(&self, stream: StreamId) {
        let _ = self.0.send(Said::Gone(stream));
    }
}

impl Bench {
    fn new() -> Self {
        let (sender, events) = mpsc::channel(64);
        let (plane, said) = mpsc::unbounded_channel();
        let tls = Arc::new(Tls::new(&Trust::Anybody).expect("TLS"));
        Self {
            opener: Opener { tls, channels: Some(Arc::new(Plane(plane))), events: sender, counters: Arc::default(), prepare: |_| {} },
            events,
            said,
        }
    }

    fn open(&self, listener: &TcpListener) -> Stream {
        self.opener.open(target(listener.local_addr().expect("an address")))
    }

    async fn event(&mut self) -> CampEvent {
        timeout(Duration::from_secs(20), self.events.recv()).await.expect("in time").expect("an event")
    }

    async fn said(&mut self) -> Said {
        timeout(Duration::from_secs(20), self.said.recv()).await.expect("in time").expect("something")
    }

    async fn queue(&mut self) -> mpsc::Sender<Vec<u8>> {
        match self.said().await {
            Said::Ready(StreamId(7), queue) => queue,
            other => panic!("{other:?}"),
        }
    }
}

fn target(remote: SocketAddr) -> Target {
    Target { stream: StreamId(7), remote, transport: Transport::Tcp, host: "localhost".into(), pin: None }
}

fn stun(length: u16) -> Vec<u8> {
    let mut message = vec![0x00, 0x01];
    message.extend(length.to_be_bytes());
    message.extend([0x21, 0x12, 0xA4, 0x42]);
    message.resize(20 + usize::from(length), 9);
    message
}
