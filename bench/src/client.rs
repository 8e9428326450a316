//! Just enough of a client to get a pair of channels: two members of a campfire, or two standard allocations.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use campfire_protocol::credential;
use campfire_protocol::key::{Keys, Psk};
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, TransactionId};
use campfire_protocol::wire::{Auth, BindRequest, CampRequest, CampSuccess, Cursor, MemberId, MemberToken};

/// The campfire that is measured.
pub fn keys() -> Keys {
    Psk::from_bytes([42; 32]).derive()
}

/// User and password of standard allocations.
pub const USER: (&str, &str) = ("bench", "bench-password");
/// The channel on which the sender sends.
pub const CHANNEL: u16 = 0x4001;

/// Sender and receiver, with channels bound to each other.
pub struct Pair {
    /// Sends on [`CHANNEL`].
    pub sender: UdpSocket,
    /// Gets ChannelData.
    pub receiver: UdpSocket,
}

/// Two members that have bound to each other.
pub fn members(server: SocketAddr) -> Result<Pair> {
    let mut one = Member::camp(socket(server)?)?;
    let mut other = Member::camp(socket(server)?)?;
    one.bind(other.id, CHANNEL)?;
    other.bind(one.id, CHANNEL)?;
    Ok(Pair { sender: one.socket, receiver: other.socket })
}

/// Two allocations with a channel to each other's relayed address.
pub fn allocations(server: SocketAddr) -> Result<Pair> {
    let mut one = Allocation::new(socket(server)?)?;
    let mut other = Allocation::new(socket(server)?)?;
    one.bind(other.relayed)?;
    other.bind(one.relayed)?;
    Ok(Pair { sender: one.socket, receiver: other.socket })
}

/// A socket that talks to `server` alone.
pub fn socket(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}

fn transaction() -> Result<TransactionId> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(TransactionId(bytes))
}

fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Sends a request until it is answered.
fn ask(socket: &UdpSocket, transaction: TransactionId, request: &[u8]) -> Result<Message> {
    let mut bytes = [0; 2048];
    for _ in 0..5 {
        socket.send(request)?;
        while let Ok(length) = socket.recv(&mut bytes) {
            match Message::parse(bytes.get(..length).unwrap_or_default()) {
                Ok(message) if message.transaction() == transaction => return Ok(message),
                _ => {}
            }
        }
    }
    bail!("the server does not answer")
}

fn expect_success(answer: Message) -> Result<Message> {
    ensure!(answer.class() == Class::Success, "the server refused: {:?}", answer.error_code());
    Ok(answer)
}

/// Writes the campfire's secret as a server takes it.
pub fn write_secret(path: &Path) -> Result<()> {
    std::fs::write(path, format!("{}:{}\n", keys().fingerprint, keys().relay.text()))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}

/// A first Camp, on its way.
pub struct Camping {
    id: MemberId,
    user_name: String,
    transaction: TransactionId,
    request: Vec<u8>,
}

impl Camping {
    /// Of a new member with an announcement of so many bytes.
    pub fn new(announcement: usize) -> Result<Self> {
        let mut token = [0; 16];
        getrandom::fill(&mut token).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let token = MemberToken(token);
        let user_name = credential::user_name(unix_millis() / 1000 + 86_400, keys().fingerprint);
        let request = CampRequest {
            room: keys().room,
            token,
            lifetime: 60,
            unix_millis: unix_millis(),
            announcement: Some(vec![7; announcement]),
            tags: Vec::new(),
            cursor: Cursor::default(),
        };
        let key = credential::campfire_key(&keys().relay, &user_name);
        let transaction = transaction()?;
        let request = request.encode(transaction, &Auth { user_name: &user_name, nonce: None, key: &key });
        Ok(Self { id: token.id(), user_name, transaction, request })
    }

    /// What to send.
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// Whether this is the answer; a refusal is an error.
    pub fn answers(&self, bytes: &[u8]) -> Result<bool> {
        match Message::parse(bytes) {
            Ok(message) if message.transaction() == self.transaction => expect_success(message).map(|_| true),
            _ => Ok(false),
        }
    }
}

struct Member {
    socket: UdpSocket,
    id: MemberId,
    user_name: String,
    nonce: String,
}

impl Member {
    fn camp(socket: UdpSocket) -> Result<Self> {
        let camping = Camping::new(250)?;
        let answer = expect_success(ask(&socket, camping.transaction, camping.request())?)?;
        let nonce = CampSuccess::decode(&answer).context("answer to Camp")?.nonce;
        Ok(Self { socket, id: camping.id, user_name: camping.user_name, nonce })
    }

    fn bind(&mut self, to: MemberId, channel: u16) -> Result<()> {
        let request = BindRequest { from: self.id, to, channel, release: false };
        self.request(|transaction, auth| request.encode(transaction, auth)).map(|_| ())
    }

    fn request(&self, encode: impl Fn(TransactionId, &Auth<'_>) -> Vec<u8>) -> Result<Message> {
        let key = credential::campfire_key(&keys().relay, &self.user_name);
        let transaction = transaction()?;
        let auth = Auth { user_name: &self.user_name, nonce: Some(&self.nonce), key: &key };
        expect_success(ask(&self.socket, transaction, &encode(transaction, &auth))?)
    }
}

struct Allocation {
    socket: UdpSocket,
    relayed: SocketAddr,
    realm: String,
    nonce: String,
}

impl Allocation {
    fn new(socket: UdpSocket) -> Result<Self> {
        let udp = |builder: Builder| builder.attribute(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let first = transaction()?;
        let refused = ask(&socket, first, &udp(Builder::new(Class::Request, Method::ALLOCATE, first)).finish())?;
        let text = |attribute| -> Result<String> { Ok(refused.text(attribute)?.context("no realm or nonce in the answer")?.to_owned()) };
        let relayed = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut allocation = Self { socket, relayed, realm: text(Attribute::REALM)?, nonce: text(Attribute::NONCE)? };
        let answer = allocation.request(Method::ALLOCATE, udp)?;
        allocation.relayed = answer.xor_address(Attribute::XOR_RELAYED_ADDRESS)?.context("no relayed address")?;
        Ok(allocation)
    }

    fn bind(&mut self, peer: SocketAddr) -> Result<()> {
        let [high, low] = CHANNEL.to_be_bytes();
        let answer = self.request(Method::CHANNEL_BIND, |builder| {
            builder.attribute(Attribute::CHANNEL_NUMBER, &[high, low, 0, 0]).xor_address(Attribute::XOR_PEER_ADDRESS, peer)
        });
        answer.map(|_| ())
    }

    fn request(&self, method: Method, content: impl Fn(Builder) -> Builder) -> Result<Message> {
        let transaction = transaction()?;
        let key = credential::long_term_key_md5(USER.0, &self.realm, USER.1);
        let request = content(Builder::new(Class::Request, method, transaction))
            .attribute(Attribute::USERNAME, USER.0.as_bytes())
            .attribute(Attribute::REALM, self.realm.as_bytes())
            .attribute(Attribute::NONCE, self.nonce.as_bytes())
            .finish_sha1(key.as_ref());
        expect_success(ask(&self.socket, transaction, &request)?)
    }
}
