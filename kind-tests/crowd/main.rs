//! What a pod of a stranger does, and one of an honest caller: a program of its own in an image, of the standard library alone, which a story
//! compiles with `rustc`.
//!
//! usage: `crowd hold COUNT SECONDS FILE HOST:PORT…`   COUNT connections to each, which owe something and never say it; whoever is dropped comes
//!                                                 back: for SECONDS, and until there is FILE
//!        `crowd ask KIND HOST:PORT TIMES`        asks so often and prints `asked A failed F p50 MS p99 MS`; KIND: http, tls, stun, stun-tcp

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// For a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest stay, should nobody say that it is enough.
const MOST: Duration = Duration::from_mins(10);
const STUN: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, b'c', b'r', b'o', b'w', b'd', b'-', b'a', b's', b'k', b'i', b'n', b'g'];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["hold", count, seconds, enough, targets @ ..] if !targets.is_empty() => {
            hold(number(count), &Stay::new(number(seconds), enough), targets);
        }
        ["ask", kind, target, times] => ask(kind, resolved(target), number(times)),
        _ => panic!("usage: crowd hold COUNT SECONDS FILE HOST:PORT… | crowd ask http|tls|stun|stun-tcp HOST:PORT TIMES"),
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn resolved(target: &str) -> SocketAddr {
    let found = target.to_socket_addrs().unwrap_or_else(|error| panic!("{target}: {error}")).next();
    found.unwrap_or_else(|| panic!("{target}: no address"))
}

/// How long connections are held: on a busy machine those that are asked meanwhile need longer than on another.
#[derive(Clone)]
struct Stay {
    least: Instant,
    most: Instant,
    enough: PathBuf,
}

impl Stay {
    fn new(seconds: usize, enough: &str) -> Self {
        let now = Instant::now();
        Self { least: now + Duration::from_secs(seconds as u64), most: now + MOST, enough: enough.into() }
    }

    fn goes_on(&self) -> bool {
        let now = Instant::now();
        now < self.least || now < self.most && !self.enough.exists()
    }
}

/// Holds connections, each in its own way: silent, in the middle of a request, in the middle of a TLS hello.
fn hold(count: usize, stay: &Stay, targets: &[&str]) {
    let threads: Vec<_> = targets
        .iter()
        .map(|target| (resolved(target), stay.clone()))
        .map(|(target, stay)| std::thread::spawn(move || keep(target, count, &stay)))
        .collect();
    for thread in threads {
        let (target, most, made) = thread.join().unwrap();
        println!("{target}: {most} held at once, {made} made");
    }
}

fn keep(target: SocketAddr, count: usize, stay: &Stay) -> (SocketAddr, usize, usize) {
    let mut held: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    let (mut most, mut made) = (0, 0);
    while stay.goes_on() {
        for (index, place) in held.iter_mut().enumerate() {
            if place.as_mut().is_some_and(is_open) || !stay.goes_on() {
                continue;
            }
            *place = TcpStream::connect_timeout(&target, PATIENCE).ok().filter(|stream| begin(stream, index).is_ok());
            made += usize::from(place.is_some());
        }
        most = most.max(held.iter().flatten().count());
        std::thread::sleep(Duration::from_millis(20));
    }
    (target, most, made)
}

fn begin(mut stream: &TcpStream, index: usize) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    match index % 4 {
        0 => stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: "),
        1 => stream.write_all(b"\x16\x03\x01\x02\x00\x01"),
        2 => stream.write_all(&STUN[..3]),
        _ => Ok(()),
    }
}

fn is_open(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 64];
    match stream.read(&mut bytes) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Asks as whoever has a right to an answer.
fn ask(kind: &str, target: SocketAddr, times: usize) {
    let (mut took, mut failed) = (Vec::with_capacity(times), 0);
    let mut last = String::new();
    for _ in 0..times {
        let begun = Instant::now();
        match once(kind, target) {
            Ok(()) => took.push(begun.elapsed()),
            Err(error) => {
                failed += 1;
                last = format!(" last: {error}");
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    took.sort_unstable();
    let at = |share: usize| {
        took.get((took.len() * share / 100).min(took.len().saturating_sub(1))).map_or(0.0, |took| took.as_secs_f64() * 1_000.0)
    };
    println!("asked {times} failed {failed} p50 {:.1} p99 {:.1}{last}", at(50), at(99));
}

fn once(kind: &str, target: SocketAddr) -> io::Result<()> {
    let mut answer = [0; 512];
    if kind == "stun" {
        let socket = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(&STUN, target)?;
        let length = socket.recv(&mut answer)?;
        return expect(&answer[..length], &[1, 1]);
    }
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    match kind {
        "http" => {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")?;
            let length = stream.read(&mut answer)?;
            expect(&answer[..length], b"HTTP/1.1 200")
        }
        "tls" => {
            stream.write_all(&client_hello())?;
            let length = stream.read(&mut answer)?;
            // A handshake record with a ServerHello.
            expect(&answer[..length], &[22, 3, 3])?;
            expect(answer.get(5..length).unwrap_or_default(), &[2])
        }
        "stun-tcp" => {
            stream.write_all(&STUN)?;
            let length = stream.read(&mut answer)?;
            expect(&answer[..length], &[1, 1])
        }
        _ => panic!("{kind:?}: http, tls, stun or stun-tcp"),
    }
}

fn expect(answer: &[u8], begins: &[u8]) -> io::Result<()> {
    if answer.starts_with(begins) { Ok(()) } else { Err(io::Error::other(format!("answered {:?}", String::from_utf8_lossy(answer)))) }
}

/// A ClientHello of TLS 1.3 (RFC 8446, section 4.1.2) and 1.2 that any server answers: X25519, two suites, the usual signatures.
fn client_hello() -> Vec<u8> {
    let sized = |body: &[u8]| [&u16::try_from(body.len()).unwrap_or(0).to_be_bytes()[..], body].concat();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &sized(body)].concat();
    // The u-coordinate 9: a point that there is.
    let mut point = [0; 32];
    point[0] = 9;
    let extensions = [
        extension(43, &[4, 3, 4, 3, 3]),                                 // supported_versions: 1.3, 1.2
        extension(10, &sized(&[0, 29, 0, 23])),                          // supported_groups: x25519, secp256r1
        extension(11, &[1, 0]),                                          // ec_point_formats: uncompressed
        extension(13, &sized(&[4, 3, 8, 4, 8, 7, 4, 1])),                // signature_algorithms
        extension(51, &sized(&[&[0, 29][..], &sized(&point)].concat())), // key_share
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(sized(&[0x13, 0x01, 0x13, 0x02, 0xc0, 0x2b, 0xc0, 0x2f]));
    body.extend([1, 0]);
    body.extend(sized(&extensions));
    let length = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}
