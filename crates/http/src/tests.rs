use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;

use super::*;

const LIMITS: Limits = Limits {
    connections: 64,
    per_address: 8,
    bodies: 64 * 1000,
    head: Duration::from_secs(30),
    lifetime: Duration::from_mins(1),
    grace: Duration::from_secs(1),
    keep_alive: true,
    drain: Duration::ZERO,
};

#[tokio::test]
async fn who_says_nothing_keeps_nobody_out() {
    let server = Server::start(LIMITS).await;
    // From one address, and from more addresses than there are places.
    for addresses in [1, 200] {
        let mut silent = Vec::new();
        for n in 0..200_u8 {
            silent.push(server.connect(n % addresses).await);
        }
        for _ in 0..10 {
            assert!(
                server.asks(250, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.starts_with("HTTP/1.1 200"),
                "{addresses}"
            );
        }
        assert!(server.counts.displaced.load(Ordering::Relaxed) >= 136);
        assert_eq!(server.counts.refused.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn neither_does_who_says_half_or_has_said_all_that_it_wanted() {
    let server = Server::start(LIMITS).await;
    for said in [
        "GET / HT",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhalf a body",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let mut slow = Vec::new();
        for n in 0..100 {
            let mut stream = server.connect(n % 20).await;
            stream.write_all(said.as_bytes()).await.unwrap();
            slow.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let answer = server.asks(250, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hi"), "{said:?}: {answer}");
    }
}

#[tokio::test]
async fn a_crowd_pays_for_itself_and_a_request_under_way_stays() {
    let server = Server::start(LIMITS).await;
    // One that waits for its answer, one that is quiet between two requests, and then a crowd.
    let mut waits = server.connect(1).await;
    waits.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut quiet = server.connect(2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut crowd = Vec::new();
    for n in 0..200 {
        crowd.push(server.connect(10 + n % 20).await);
    }
    quiet.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read(&mut quiet).await.starts_with("HTTP/1.1 200"));
    server.go.add_permits(1);
    assert!(read(&mut waits).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn who_comes_when_all_are_being_answered_is_refused_and_counted() {
    let server = Server::start(Limits { connections: 4, per_address: 2, ..LIMITS }).await;
    let mut under_way = Vec::new();
    for n in 0..4 {
        let mut stream = server.connect(n / 2).await;
        stream.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        under_way.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(read(&mut server.connect(9).await).await, "");
    assert_eq!(server.counts.refused.load(Ordering::Relaxed), 1);
    server.go.add_permits(4);
    for mut stream in under_way {
        assert!(read(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    assert!(server.asks(9, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn bodies_have_room_for_so_many_bytes_and_whose_are_the_most_gives_way() {
    let server = Server::start(Limits { bodies: 2000, ..LIMITS }).await;
    let begun =
        |length: usize| format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1000\r\n\r\n{}", "x".repeat(length));
    let small = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 200\r\n\r\n".to_owned() + &"y".repeat(200);
    // Two of one address that nearly fill it, and one of another.
    let mut streams = Vec::new();
    for (host, length) in [(1, 900), (1, 900), (2, 100)] {
        let mut stream = server.connect(host).await;
        stream.write_all(begun(length).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        streams.push(stream);
    }
    assert_eq!(server.counts.displaced.load(Ordering::Relaxed), 0);
    assert!(server.asks(3, &small).await.ends_with('y'), "who comes has room");
    assert_eq!(server.counts.displaced.load(Ordering::Relaxed), 1);
    assert_eq!(read(&mut streams[0]).await, "", "of the largest the oldest");
    for (stream, left) in streams.iter_mut().skip(1).zip([100, 900]) {
        stream.write_all("z".repeat(left).as_bytes()).await.unwrap();
        assert!(read(stream).await.ends_with('z'));
    }
    // What was held is free again.
    for _ in 0..20 {
        assert!(server.asks(3, &small).await.ends_with('y'));
    }
    assert_eq!(server.counts.displaced.load(Ordering::Relaxed), 1);
}

/// A server that says back what it is told; `/wait` waits.
struct Server {
    address: SocketAddr,
    counts: Arc<Counts>,
    go: Arc<Semaphore>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port()));
        let (counts, go) = (Arc::new(Counts::default()), Arc::new(Semaphore::new(0)));
        let waits = go.clone();
        tokio::spawn(serve(listener, Wire::Plain, limits, counts.clone(), std::future::pending(), move |_, request: Request<Incoming>| {
            let waits = waits.clone();
            async move {
                if request.uri().path() == "/wait" {
                    waits.acquire().await.unwrap().forget();
                }
                match message::read(request, 1000, Duration::from_secs(30)).await {
                    Ok(body) => message::respond(StatusCode::OK, body),
                    Err(refusal) => message::respond(refusal.status, Bytes::new()),
                }
            }
        }));
        Self { address, counts, go }
    }

    /// A connection from 127.0.1.`host`.
    async fn connect(&self, host: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((IpAddr::from([127, 0, 1, host]), 0))).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn asks(&self, host: u8, request: &str) -> String {
        let mut stream = self.connect(host).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read(&mut stream).await
    }
}

/// All that comes until the connection ends, within a kubelet's patience.
async fn read(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_string(&mut text)).await.expect("an end in time");
    text
}
