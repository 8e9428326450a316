//! A server without sockets, and clients that speak to it: campers and users of standard TURN.

use std::net::SocketAddr;
use std::time::Duration;

use campfire_protocol::credential;
use campfire_protocol::key::{Fingerprint, Keys, Psk, RelaySecret, RoomId, Tag};
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, TransactionId};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::{
    Auth, BindRequest, CampRequest, CampSuccess, Cursor, Ember, Entry, Failure, FindRequest, MemberId, MemberToken, SignalIndication,
    SignalRequest, decode_entries,
};
use campfire_turn::auth::Secrets;
use campfire_turn::io::{Forward, Input, ListenerId, Output, RelayId, StreamId, Via};
use campfire_turn::{Config, Server, Stats};
use zeroize::Zeroizing;

pub const START: u64 = 1_800_000_000_000;

pub fn psk(n: u8) -> Keys {
    Psk::from_bytes([n; 32]).derive()
}

pub fn udp(remote: &str) -> Via {
    Via::Udp { listener: ListenerId(0), remote: remote.parse().unwrap() }
}

pub fn stream(id: u64, remote: &str) -> Via {
    Via::Stream { stream: StreamId(id), remote: remote.parse().unwrap() }
}

/// A source of its own for each number.
pub fn source(n: usize) -> Via {
    let [a, b, c] = [(n >> 16) as u8, (n >> 8) as u8, n as u8];
    Via::Udp { listener: ListenerId(0), remote: SocketAddr::from(([10, a, b, c], 4_000)) }
}

pub struct World {
    pub server: Server,
    pub now: Time,
    pub wall: UnixMillis,
    pub sent: Vec<Output>,
    transaction: u64,
    /// Whether relay sockets are opened as soon as they are asked for.
    pub opens: bool,
}

impl World {
    pub fn new(config: Config) -> Self {
        let mut secrets = Secrets::new();
        for n in 1..=3 {
            secrets.add_campfire(psk(n).fingerprint, psk(n).relay);
        }
        secrets.add_rest(RelaySecret::from_text("other system"));
        secrets.add_user("alice".into(), Zeroizing::new("wonderland".into()));
        secrets.add_user("bob".into(), Zeroizing::new("builder".into()));
        let (now, wall) = (Time::from_micros(0), UnixMillis(START));
        Self { server: Server::new(config, secrets, [42; 32], now, wall), now, wall, sent: Vec::new(), transaction: 0, opens: true }
    }

    pub fn stats(&self) -> &Stats {
        self.server.stats()
    }

    pub fn transaction(&mut self) -> TransactionId {
        self.transaction += 1;
        let mut id = [0; 12];
        id[4..].copy_from_slice(&self.transaction.to_be_bytes());
        TransactionId(id)
    }

    pub fn input(&mut self, input: Input<'_>) {
        self.server.handle(self.now, self.wall, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll() {
            if let Output::OpenRelay { relay, ipv6, even } = output
                && self.opens
            {
                let port = 50_000 + 2 * relay.0 as u16 + u16::from(!even);
                let ip = if ipv6 { "2001:db8::9".parse().unwrap() } else { "192.0.2.9".parse().unwrap() };
                self.server.handle(self.now, self.wall, Input::RelayOpened { relay, address: SocketAddr::new(ip, port) });
            }
            self.sent.push(output);
        }
    }

    pub fn message(&mut self, via: Via, bytes: &[u8]) {
        self.input(Input::Message { via, bytes });
    }

    /// Lets time pass, with all that is due in it.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(wake) = self.server.next_wake().filter(|wake| *wake <= end) {
            self.tick(wake);
        }
        self.tick(end);
    }

    fn tick(&mut self, to: Time) {
        let to = to.max(self.now);
        self.wall = UnixMillis(self.wall.0 + (to.since(self.now).as_millis() as u64));
        self.now = to;
        self.input(Input::Wake);
    }

    /// Takes what was sent to a client.
    pub fn received(&mut self, via: Via) -> Vec<Vec<u8>> {
        let (mine, rest) =
            std::mem::take(&mut self.sent).into_iter().partition(|output| matches!(output, Output::Send { via: to, .. } if *to == via));
        self.sent = rest;
        let bytes = |output| if let Output::Send { bytes, .. } = output { bytes } else { unreachable!() };
        Vec::from_iter(mine).into_iter().map(bytes).collect()
    }

    /// What is sent back at once; other things to this client stay.
    pub fn ask(&mut self, via: Via, bytes: &[u8]) -> Option<Vec<u8>> {
        let transaction = Message::parse(bytes).unwrap().transaction();
        self.message(via, bytes);
        let answers = |output: &Output| match output {
            Output::Send { via: to, bytes } if *to == via => {
                Message::parse(bytes).is_ok_and(|answer| answer.transaction() == transaction && answer.class() != Class::Indication)
            }
            _ => false,
        };
        let at = self.sent.iter().position(answers)?;
        let Output::Send { bytes, .. } = self.sent.remove(at) else { unreachable!() };
        Some(bytes)
    }

    pub fn forward(&mut self, via: Via, channel: u16, payload: &[u8]) -> (Forward, Vec<u8>) {
        let mut frame = frame(channel, payload);
        let forward = self.server.forward(self.now, via, &mut frame);
        if forward == Forward::Slow {
            self.message(via, &frame);
        }
        (forward, frame)
    }

    /// What was sent from relay sockets.
    pub fn relayed(&mut self) -> Vec<(RelayId, SocketAddr, Vec<u8>)> {
        let (mine, rest) = std::mem::take(&mut self.sent).into_iter().partition(|output| matches!(output, Output::SendRelay { .. }));
        self.sent = rest;
        let parts = |output| if let Output::SendRelay { relay, to, payload } = output { (relay, to, payload) } else { unreachable!() };
        Vec::from_iter(mine).into_iter().map(parts).collect()
    }
}

pub fn frame(channel: u16, payload: &[u8]) -> Vec<u8> {
    [&channel.to_be_bytes()[..], &(payload.len() as u16).to_be_bytes(), payload].concat()
}

#[derive(Debug, PartialEq, Eq)]
pub enum Push {
    Ember(Ember),
    Signal(SignalIndication),
    Data(u16, Vec<u8>),
}

/// A member of a room.
pub struct Member {
    pub via: Via,
    pub fingerprint: Fingerprint,
    pub secret: RelaySecret,
    pub user_name: String,
    pub room: RoomId,
    pub token: MemberToken,
    pub nonce: Option<String>,
    pub cursor: Cursor,
    pub announcement: Option<Vec<u8>>,
    pub tags: Vec<Tag>,
    pub lifetime: u32,
}

impl Member {
    /// Number `n` of the campfire of key `key`, at a source of its own.
    pub fn new(key: u8, n: usize) -> Self {
        let keys = psk(key);
        let mut token = [key; 16];
        token[8..].copy_from_slice(&(n as u64).to_be_bytes());
        Self {
            via: source(n),
            fingerprint: keys.fingerprint,
            user_name: credential::user_name(START / 1_000 + 86_400, keys.fingerprint),
            secret: keys.relay,
            room: keys.room,
            token: MemberToken(token),
            nonce: None,
            cursor: Cursor::default(),
            announcement: Some(format!("announcement of {n}").into_bytes()),
            tags: Vec::new(),
            lifetime: 60,
        }
    }

    pub fn id(&self) -> MemberId {
        self.token.id()
    }

    pub fn key(&self) -> Zeroizing<[u8; 32]> {
        credential::campfire_key(&self.secret, &self.user_name)
    }

    pub fn camp_request(&self, world: &mut World) -> Vec<u8> {
        let request = CampRequest {
            room: self.room,
            token: self.token,
            lifetime: self.lifetime,
            unix_millis: world.wall.0,
            announcement: self.announcement.clone(),
            tags: self.tags.clone(),
            cursor: self.cursor,
        };
        let auth = Auth { user_name: &self.user_name, nonce: self.nonce.as_deref(), key: &self.key() };
        request.encode(world.transaction(), &auth)
    }

    pub fn camp(&mut self, world: &mut World) -> Result<CampSuccess, Failure> {
        let request = self.camp_request(world);
        let answer = world.ask(self.via, &request).expect("an answer");
        assert!(answer.len() <= 1_200, "{} bytes", answer.len());
        if self.nonce.is_none() {
            assert!(answer.len() <= request.len(), "an answer of {} bytes to a request of {}", answer.len(), request.len());
        }
        let success = self.read(&answer).map(|message| CampSuccess::decode(&message).unwrap())?;
        self.nonce = Some(success.nonce.clone());
        self.cursor = success.cursor;
        Ok(success)
    }

    /// The answer's content, its integrity checked; of a failure the nonce is taken.
    fn read(&mut self, answer: &[u8]) -> Result<Message, Failure> {
        let message = Message::parse(answer).unwrap();
        if message.class() == Class::Error {
            let failure = Failure::decode(&message).unwrap();
            if failure.nonce.is_some() {
                assert!(answer.len() <= 140, "a challenge of {} bytes", answer.len());
                self.nonce.clone_from(&failure.nonce);
            }
            return Err(failure);
        }
        message.verify_sha256(self.key().as_ref()).expect("integrity of the answer");
        Ok(message)
    }

    fn request(&mut self, world: &mut World, encode: impl FnOnce(TransactionId, &Auth<'_>) -> Vec<u8>) -> Result<Message, Failure> {
        let auth = Auth { user_name: &self.user_name, nonce: self.nonce.as_deref(), key: &self.key() };
        let request = encode(world.transaction(), &auth);
        let answer = world.ask(self.via, &request).expect("an answer");
        self.read(&answer)
    }

    pub fn signal(&mut self, world: &mut World, to: MemberId, data: &[u8]) -> Result<(), Failure> {
        let signal = SignalRequest { from: self.id(), to, data: data.to_vec() };
        self.request(world, |transaction, auth| signal.encode(transaction, auth)).map(|_| ())
    }

    pub fn bind(&mut self, world: &mut World, to: MemberId, channel: u16) -> Result<(), Failure> {
        let bind = BindRequest { from: self.id(), to, channel, release: false };
        self.request(world, |transaction, auth| bind.encode(transaction, auth)).map(|_| ())
    }

    pub fn release(&mut self, world: &mut World, to: MemberId, channel: u16) -> Result<(), Failure> {
        let bind = BindRequest { from: self.id(), to, channel, release: true };
        self.request(world, |transaction, auth| bind.encode(transaction, auth)).map(|_| ())
    }

    pub fn find(&mut self, world: &mut World, tags: &[Tag]) -> Result<Vec<Entry>, Failure> {
        let find = FindRequest { from: self.id(), tags: tags.to_vec() };
        let message = self.request(world, |transaction, auth| find.encode(transaction, auth))?;
        Ok(decode_entries(&message).unwrap())
    }

    /// What was pushed to it, with its integrity checked.
    pub fn pushes(&self, world: &mut World) -> Vec<Push> {
        let key = credential::push_key(&self.secret, &self.id());
        let read = |bytes: Vec<u8>| {
            if bytes[0] & 0xC0 == 0x40 {
                let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
                return Push::Data(u16::from_be_bytes([bytes[0], bytes[1]]), bytes[4..4 + length].to_vec());
            }
            let message = Message::parse(&bytes).unwrap();
            message.verify_sha256(key.as_ref()).expect("integrity of a push");
            match message.method() {
                Method::EMBER => {
                    assert!(bytes.len() <= 1_200);
                    Push::Ember(Ember::decode(&message).unwrap())
                }
                _ => Push::Signal(SignalIndication::decode(&message).unwrap()),
            }
        };
        world.received(self.via).into_iter().map(read).collect()
    }

    pub fn embers(&self, world: &mut World) -> Vec<Ember> {
        let only = |push| if let Push::Ember(ember) = push { ember } else { panic!("not an Ember: {push:?}") };
        self.pushes(world).into_iter().map(only).collect()
    }
}

/// Members `0..count` of one campfire, camped one after the other, twice: with a nonce.
pub fn camped(world: &mut World, key: u8, count: usize) -> Vec<Member> {
    let mut members: Vec<Member> = (0..count).map(|n| Member::new(key, n)).collect();
    for member in &mut members {
        member.camp(world).expect("a seat");
    }
    for member in &mut members {
        member.camp(world).expect("a seat still");
    }
    world.pass(Duration::from_millis(500));
    world.sent.clear();
    members
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// An attribute and its value.
pub type Given<'a> = (Attribute, &'a [u8]);

/// How a user of standard TURN proves who it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// MESSAGE-INTEGRITY with the MD5 key (RFC 5389's way).
    Sha1Md5,
    /// MESSAGE-INTEGRITY-SHA256 with the SHA-256 key.
    Sha256,
}

/// A user of standard TURN.
pub struct User {
    pub via: Via,
    pub name: String,
    pub password: String,
    pub nonce: String,
    pub realm: String,
    pub proof: Proof,
}

impl User {
    pub fn new(via: Via, name: &str, password: &str) -> Self {
        Self { via, name: name.into(), password: password.into(), nonce: String::new(), realm: "campfire".into(), proof: Proof::Sha1Md5 }
    }

    pub fn alice(via: Via) -> Self {
        Self::new(via, "alice", "wonderland")
    }

    /// Adds the credentials and signs.
    pub fn sign(&self, builder: Builder) -> Vec<u8> {
        let builder = builder
            .attribute(Attribute::USERNAME, self.name.as_bytes())
            .attribute(Attribute::REALM, self.realm.as_bytes())
            .attribute(Attribute::NONCE, self.nonce.as_bytes());
        match self.proof {
            Proof::Sha1Md5 => builder.finish_sha1(credential::long_term_key_md5(&self.name, &self.realm, &self.password).as_ref()),
            Proof::Sha256 => builder
                .attribute(Attribute::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0])
                .attribute(Attribute::PASSWORD_ALGORITHM, &[0, 2, 0, 0])
                .finish_sha256(credential::long_term_key_sha256(&self.name, &self.realm, &self.password).as_ref()),
        }
    }

    pub fn verify(&self, answer: &Message) {
        match self.proof {
            Proof::Sha1Md5 => answer.verify_sha1(credential::long_term_key_md5(&self.name, &self.realm, &self.password).as_ref()),
            Proof::Sha256 => answer.verify_sha256(credential::long_term_key_sha256(&self.name, &self.realm, &self.password).as_ref()),
        }
        .expect("integrity of the answer");
    }

    /// Asks, with the nonce that the server wants if need be. Of an error its code.
    pub fn request(&mut self, world: &mut World, method: Method, attributes: &[Given<'_>]) -> Result<Message, u16> {
        for _ in 0..2 {
            let start = Builder::new(Class::Request, method, world.transaction());
            let request = self.sign(attributes.iter().fold(start, |builder, (attribute, value)| builder.attribute(*attribute, value)));
            let answer = Message::parse(&world.ask(self.via, &request).expect("an answer")).unwrap();
            let Some((code, _)) = answer.error_code() else {
                self.verify(&answer);
                return Ok(answer);
            };
            match answer.text(Attribute::NONCE).unwrap() {
                Some(nonce) if nonce != self.nonce && (code == 438 || self.nonce.is_empty()) => self.nonce = nonce.into(),
                _ => return Err(code),
            }
        }
        Err(438)
    }

    /// The same with one address among the attributes.
    pub fn about(&mut self, world: &mut World, method: Method, peer: &str, attributes: &[Given<'_>]) -> Result<Message, u16> {
        self.about_all(world, method, &[peer], attributes)
    }

    pub fn about_all(&mut self, world: &mut World, method: Method, peers: &[&str], attributes: &[Given<'_>]) -> Result<Message, u16> {
        let start = Builder::new(Class::Request, method, world.transaction());
        let builder = peers.iter().fold(start, |builder, peer| builder.xor_address(Attribute::XOR_PEER_ADDRESS, peer.parse().unwrap()));
        let request = self.sign(attributes.iter().fold(builder, |builder, (attribute, value)| builder.attribute(*attribute, value)));
        let answer = Message::parse(&world.ask(self.via, &request).expect("an answer")).unwrap();
        if let Some((code, _)) = answer.error_code() {
            return Err(code);
        }
        self.verify(&answer);
        Ok(answer)
    }

    pub fn allocate(&mut self, world: &mut World) -> Result<SocketAddr, u16> {
        self.allocate_with(world, &[]).map(|answer| answer.xor_address(Attribute::XOR_RELAYED_ADDRESS).unwrap().unwrap())
    }

    pub fn allocate_with(&mut self, world: &mut World, more: &[Given<'_>]) -> Result<Message, u16> {
        let udp: Given<'_> = (Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        self.request(world, Method::ALLOCATE, &[&[udp], more].concat())
    }

    pub fn refresh(&mut self, world: &mut World, lifetime: u32) -> Result<u32, u16> {
        let answer = self.request(world, Method::REFRESH, &[(Attribute::LIFETIME, &lifetime.to_be_bytes())])?;
        Ok(answer.u32(Attribute::LIFETIME).unwrap().unwrap())
    }

    pub fn permit(&mut self, world: &mut World, peer: &str) -> Result<Message, u16> {
        self.about(world, Method::CREATE_PERMISSION, peer, &[])
    }

    pub fn bind(&mut self, world: &mut World, peer: &str, channel: u16) -> Result<Message, u16> {
        let [high, low] = channel.to_be_bytes();
        self.about(world, Method::CHANNEL_BIND, peer, &[(Attribute::CHANNEL_NUMBER, &[high, low, 0, 0])])
    }

    pub fn send(&self, world: &mut World, peer: &str, data: &[u8]) {
        let indication = Builder::new(Class::Indication, Method::SEND, world.transaction())
            .xor_address(Attribute::XOR_PEER_ADDRESS, peer.parse().unwrap())
            .attribute(Attribute::DATA, data)
            .finish();
        world.message(self.via, &indication);
    }
}
