//! Streams to servers that behave and to such that do not, on loopback.

use std::net::Ipv4Addr;
use std::sync::mpsc::Receiver;

use tokio::net::TcpListener;

use super::*;
use crate::plane::StreamSender;
use campfire_camp::Trust;

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
    let batch = vec![0; STREAM_BATCH];
    for _ in 0..MAX_QUEUED / STREAM_BATCH {
        queue.push_batch(batch.clone(), now).expect("room");
    }
    assert!(queue.push_batch(batch.clone(), now).is_err(), "256 KiB wait");
    queue.front();
    queue.advance(STREAM_BATCH);
    assert!(queue.push_batch(batch.clone(), now + MAX_DELAY).is_ok());
    queue.front();
    queue.advance(STREAM_BATCH);
    assert!(queue.push_batch(batch, now + MAX_DELAY + Duration::from_millis(1)).is_err(), "the oldest waits for too long");
}

#[tokio::test]
async fn frames_go_both_ways_between_server_mesh_and_data_thread() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let stream = bench.open(&listener);
    let (mut server, _) = listener.accept().await.expect("a connection");
    assert!(matches!(bench.event().await, Event::Opened(StreamId(7))));
    let sender = bench.sender().await;

    // To the server: the mesh's message, and the data thread's batch as it is.
    assert!(stream.send(stun(4)));
    sender.send(vec![0x40, 0, 0, 4, 1, 2, 3, 4]).await.expect("taken");
    let mut got = vec![0; 24 + 8];
    server.read_exact(&mut got).await.expect("read");
    assert!(got.windows(24).any(|window| window == stun(4)) && got.windows(4).any(|window| window == [1, 2, 3, 4]), "{got:?}");

    // From it: a message, and two frames with padding between, cut anywhere.
    let mut bytes = stun(0);
    bytes.extend([0x40, 1, 0, 1, 5, 0, 0, 0, 0x40, 2, 0, 2, 6, 6, 0, 0]);
    server.write_all(&bytes[..21]).await.expect("written");
    assert!(matches!(bench.event().await, Event::Stun(StreamId(7), message) if message == stun(0)));
    server.write_all(&bytes[21..]).await.expect("written");
    let mut frames = Vec::new();
    while frames.len() < 2 {
        if let ToData::StreamFrames { stream: StreamId(7), frames: some } = bench.to_data().await {
            frames.extend(some);
        }
    }
    assert_eq!(frames, [vec![0x40, 1, 0, 1, 5], vec![0x40, 2, 0, 2, 6, 6]]);

    drop(server);
    assert!(matches!(bench.event().await, Event::Closed(StreamId(7), reason) if reason == "the server closed the connection"));
    assert!(matches!(bench.to_data().await, ToData::StreamGone { stream: StreamId(7) }));
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
    let sender = bench.sender().await;
    let mut batch = vec![0x40, 0, 0x3F, 0xFC];
    batch.resize(STREAM_BATCH, 0);
    // More than the kernel's and our queues hold together.
    for _ in 0..1_000 {
        sender.send(batch.clone()).await.expect("the stream lives on");
    }
    let dropped = bench.context.counters.dropped_frames.load(Ordering::Relaxed);
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
    assert!(matches!(bench.event().await, Event::Closed(_, reason) if reason.starts_with("the server sends neither STUN nor ChannelData")));
}

#[tokio::test]
async fn a_port_where_nothing_listens_says_so() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let _stream = bench.context.open(target(address));
    let Event::Closed(_, reason) = bench.event().await else { panic!("it opened") };
    assert_eq!(reason, format!("{address} refuses connections: nothing listens there"));
}

/// What a stream talks to, seen from the other side.
struct Bench {
    context: Context,
    events: mpsc::Receiver<Event>,
    data: Receiver<ToData>,
}

impl Bench {
    fn new() -> Self {
        let (sender, events) = mpsc::channel(64);
        let (data, commands) = ToDataSender::without_thread();
        let tls = Arc::new(Tls::new(&Trust::Anybody).expect("TLS"));
        Self { context: Context { tls, data, events: sender, counters: Arc::default() }, events, data: commands }
    }

    fn open(&self, listener: &TcpListener) -> Stream {
        self.context.open(target(listener.local_addr().expect("an address")))
    }

    async fn event(&mut self) -> Event {
        timeout(Duration::from_secs(20), self.events.recv()).await.expect("in time").expect("an event")
    }

    async fn to_data(&self) -> ToData {
        let start = Instant::now();
        loop {
            match self.data.try_recv() {
                Ok(command) => return command,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "no command: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn sender(&self) -> StreamSender {
        match self.to_data().await {
            ToData::StreamReady { stream: StreamId(7), sender } => sender,
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
