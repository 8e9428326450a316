//! Starts the real program on loopback and talks to it.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, reason = "each test file uses a part of it, and a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use campfire_protocol::credential;
use campfire_protocol::key::{Keys, Psk};
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, TransactionId};
use campfire_protocol::wire::{Auth, BindRequest, CampRequest, CampSuccess, Cursor, MemberId, MemberToken};
use rustls::pki_types::{CertificateDer, ServerName};

/// Nothing on loopback takes this long; a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    pub udp: Vec<SocketAddr>,
    pub tcp: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    pub http: Option<SocketAddr>,
}

/// A command that runs the program, untouched by this shell's own environment.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_campfire-turn"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CAMPFIRE_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

impl Server {
    /// Starts it on any ports of loopback, with health and metrics, and these arguments on top.
    pub fn start(arguments: &[&str]) -> Self {
        let listen = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
        Self::start_with(&[&listen, arguments].concat())
    }

    /// Starts it with these arguments alone.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::spawn(program(), arguments)
    }

    /// Starts it as [`Self::start`] does, with so many open files allowed.
    pub fn start_under(files: u32, arguments: &[&str]) -> Self {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={files}:{files}")).arg(program().get_program());
        let listen = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
        Self::spawn(command, &[&listen, arguments].concat())
    }

    fn spawn(mut command: Command, arguments: &[&str]) -> Self {
        command.args(["--log-format", "json"]).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                written.lock().unwrap().push(line);
            }
        });
        let mut server = Self { child, log, udp: vec![], tcp: vec![], tls: vec![], http: None };
        let ready = server.wait_for_log("\"message\":\"ready\"");
        let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
        let addresses = |name: &str| -> Vec<SocketAddr> {
            ready[name].as_str().unwrap().split(',').filter(|text| !text.is_empty()).map(|text| text.parse().unwrap()).collect()
        };
        (server.udp, server.tcp, server.tls) = (addresses("udp"), addresses("tcp"), addresses("tls"));
        server.http = addresses("http").first().copied();
        server
    }

    /// All that was logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits for a line with this text.
    pub fn wait_for_log(&mut self, text: &str) -> String {
        let found = eventually(|| self.log.lock().unwrap().iter().find(|line| line.contains(text)).cloned());
        found.unwrap_or_else(|| panic!("no {text:?} in the log:\n{}", self.log()))
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until it has ended.
    pub fn ended(&mut self) -> ExitStatus {
        eventually(|| self.child.try_wait().unwrap()).unwrap_or_else(|| panic!("still running:\n{}", self.log()))
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Status and body of a page.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.http.unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// A metric, by its name and labels as Prometheus sees them, without the prefix.
    pub fn metric(&self, name: &str) -> u64 {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        let line = text.lines().find_map(|line| line.strip_prefix("campfire_turn_")?.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    /// Waits until a metric has this value.
    pub fn wait_for_metric(&self, name: &str, value: u64) {
        let reached = eventually(|| (self.metric(name) == value).then_some(()));
        assert!(reached.is_some(), "{name} is {} and not {value}", self.metric(name));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until there is an answer, or patience is at its end.
pub fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    ask()
}

/// Writes a file that its owner alone may read.
pub fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A certificate for 127.0.0.1 and its key, written as `cert.pem` and `key.pem`.
pub fn write_certificate(dir: &Path) -> CertificateDer<'static> {
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    write_secret(&dir.join("cert.pem"), &certified.cert.pem());
    write_secret(&dir.join("key.pem"), &certified.signing_key.serialize_pem());
    certified.cert.der().clone()
}

/// A client's way to the server: sends and receives whole frames.
pub enum Link {
    Udp(UdpSocket),
    Stream(Box<dyn ReadWrite>, Vec<u8>),
}

pub trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

impl Link {
    /// Over UDP.
    pub fn udp(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind(if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::Udp(socket)
    }

    /// Over TCP.
    pub fn tcp(server: SocketAddr) -> Self {
        let socket = TcpStream::connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::Stream(Box::new(socket), Vec::new())
    }

    /// Over TLS, with this certificate as the only one trusted.
    pub fn tls(server: SocketAddr, certificate: &CertificateDer<'static>) -> std::io::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = rustls::StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self::Stream(Box::new(stream), Vec::new()))
    }

    pub fn send(&mut self, frame: &[u8]) {
        match self {
            Self::Udp(socket) => assert_eq!(socket.send(frame).unwrap(), frame.len()),
            Self::Stream(stream, _) => {
                let mut padded = frame.to_vec();
                padded.resize(frame.len().next_multiple_of(4), 0);
                stream.write_all(&padded).unwrap();
                stream.flush().unwrap();
            }
        }
    }

    /// The next frame, without padding; `None` when the stream has ended.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Udp(socket) => {
                let mut bytes = vec![0; 65_536];
                let length = socket.recv(&mut bytes).unwrap();
                bytes.truncate(length);
                Some(bytes)
            }
            Self::Stream(stream, buffer) => loop {
                if let Some(field) = buffer.get(2..4) {
                    let length = usize::from(field[0]) << 8 | usize::from(field[1]);
                    let length = if buffer[0] >= 0x40 { 4 + length } else { 20 + length };
                    if buffer.len() >= length.next_multiple_of(4) {
                        let mut frame: Vec<u8> = buffer.drain(..length.next_multiple_of(4)).collect();
                        frame.truncate(length);
                        return Some(frame);
                    }
                }
                let mut bytes = [0; 8192];
                match stream.read(&mut bytes) {
                    Ok(0) => return None,
                    Ok(count) => buffer.extend_from_slice(&bytes[..count]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came"),
                    Err(_) => return None,
                }
            },
        }
    }

    /// Sends a request and waits for its answer; what else comes is passed over.
    pub fn ask(&mut self, transaction: TransactionId, request: &[u8]) -> Message {
        self.send(request);
        loop {
            let frame = self.receive().expect("the stream ended");
            match Message::parse(&frame) {
                Ok(message) if message.transaction() == transaction => return message,
                _ => {}
            }
        }
    }
}

/// A Binding request (RFC 8489).
pub fn binding_request(transaction: TransactionId) -> Vec<u8> {
    Builder::new(Class::Request, Method::BINDING, transaction).finish()
}

/// Whether a Binding request is answered with an address, and which.
pub fn observed_address(link: &mut Link) -> SocketAddr {
    let transaction = new_transaction();
    let answer = link.ask(transaction, &binding_request(transaction));
    assert_eq!((answer.class(), answer.method()), (Class::Success, Method::BINDING));
    answer.xor_address(Attribute::XOR_MAPPED_ADDRESS).unwrap().unwrap()
}

pub fn new_transaction() -> TransactionId {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).unwrap();
    TransactionId(bytes)
}

pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// What everybody at one fire knows.
pub fn keys(seed: u8) -> Keys {
    Psk::from_bytes([seed; 32]).derive()
}

/// The line of a file in `--secrets-dir`.
pub fn secret_line(keys: &Keys) -> String {
    format!("{}:{}\n", keys.fingerprint, keys.relay.text())
}

/// A member of a campfire, just able to camp, bind and relay.
pub struct Camper {
    pub link: Link,
    pub id: MemberId,
    keys: Keys,
    user_name: String,
    token: MemberToken,
    nonce: Option<String>,
}

impl Camper {
    /// Not camping yet.
    pub fn new(link: Link, keys: Keys) -> Self {
        let mut token = [0; 16];
        getrandom::fill(&mut token).unwrap();
        let token = MemberToken(token);
        let user_name = credential::user_name(unix_millis() / 1000 + 3600, keys.fingerprint);
        Self { link, id: token.id(), keys, user_name, token, nonce: None }
    }

    /// Takes a seat, or refreshes it; the error code if refused.
    pub fn camp(&mut self) -> Result<CampSuccess, u16> {
        let announcement = self.nonce.is_none().then(|| vec![7; 100]);
        self.camp_for(60, announcement)
    }

    /// Gives the seat up.
    pub fn leave(&mut self) {
        let _ = self.camp_for(0, None);
    }

    fn camp_for(&mut self, lifetime: u32, announcement: Option<Vec<u8>>) -> Result<CampSuccess, u16> {
        let request = CampRequest {
            room: self.keys.room,
            token: self.token,
            lifetime,
            unix_millis: unix_millis(),
            announcement,
            tags: Vec::new(),
            cursor: Cursor::default(),
        };
        let answer = self.request(|transaction, auth| request.encode(transaction, auth));
        if let Some((code, _)) = answer.error_code() {
            return Err(code);
        }
        if lifetime == 0 {
            return Err(0);
        }
        let success = CampSuccess::decode(&answer).unwrap();
        self.nonce = Some(success.nonce.clone());
        Ok(success)
    }

    /// Binds a channel to another member.
    pub fn bind(&mut self, to: MemberId, channel: u16) {
        let request = BindRequest { from: self.id, to, channel, release: false };
        let answer = self.request(|transaction, auth| request.encode(transaction, auth));
        assert_eq!(answer.class(), Class::Success, "{:?}", answer.error_code());
    }

    fn request(&mut self, encode: impl Fn(TransactionId, &Auth<'_>) -> Vec<u8>) -> Message {
        let key = credential::campfire_key(&self.keys.relay, &self.user_name);
        let transaction = new_transaction();
        let auth = Auth { user_name: &self.user_name, nonce: self.nonce.as_deref(), key: &key };
        let request = encode(transaction, &auth);
        self.link.ask(transaction, &request)
    }
}

/// Two members that have bound a channel to each other: 0x4001 at the first, 0x4002 at the second.
pub fn bound_pair(one: Link, other: Link, keys: &Keys) -> (Camper, Camper) {
    let mut one = Camper::new(one, keys.clone());
    let mut other = Camper::new(other, keys.clone());
    one.camp().unwrap();
    other.camp().unwrap();
    one.bind(other.id, 0x4001);
    other.bind(one.id, 0x4002);
    (one, other)
}

/// A ChannelData frame (RFC 8656 §12.4).
pub fn channel_data(channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = channel.to_be_bytes().to_vec();
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The next ChannelData frame; messages that come in between are passed over.
pub fn next_channel_data(link: &mut Link) -> (u16, Vec<u8>) {
    loop {
        let frame = link.receive().expect("the stream ended");
        if frame[0] & 0xF0 == 0x40 {
            return (u16::from_be_bytes([frame[0], frame[1]]), frame[4..].to_vec());
        }
    }
}
