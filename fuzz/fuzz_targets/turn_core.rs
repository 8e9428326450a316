//! A short life of the server's core: strangers, members and TURN users at a few addresses, in any order, in good and bad
//! faith. Nothing panics, all that is sent can be read, and when everybody's time is up nothing is left.
#![no_main]

mod script;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use campfire_protocol::credential::{campfire_key, long_term_key_md5, user_name};
use campfire_protocol::key::{Keys, Psk, Tag};
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, TransactionId};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::{Auth, BindRequest, CampRequest, Cursor, FindRequest, KNOWN, MAX_FIND_TAGS, MemberToken, SignalRequest};
use campfire_turn::Server;
use campfire_turn::auth::Secrets;
use campfire_turn::config::{Config, PeerPolicy};
use campfire_turn::io::{Forward, Input, ListenerId, Output, RelayId, StreamId, Via};
use libfuzzer_sys::fuzz_target;

use self::script::Script;

const WALL: u64 = 1_800_000_000_000;

struct Credentials {
    keys: Keys,
    name: String,
    key: [u8; 32],
}

static CREDENTIALS: LazyLock<[Credentials; 2]> = LazyLock::new(|| {
    [1, 2].map(|byte| {
        let keys = Psk::from_bytes([byte; 32]).derive();
        let name = user_name(WALL / 1_000 + 3_600, keys.fingerprint);
        let key = *campfire_key(&keys.relay, &name);
        Credentials { keys, name, key }
    })
});

fuzz_target!(|bytes: &[u8]| {
    let mut world = World::new();
    let mut script = Script(bytes);
    while let Some(step) = script.byte() {
        world.step(step, &mut script);
    }
    world.end();
});

struct World {
    server: Server,
    now: Time,
    nonces: BTreeMap<Via, String>,
    relays: Vec<RelayId>,
}

impl World {
    fn new() -> Self {
        let mut config = Config { server_id: Some("fuzz".into()), relay_ipv6: true, ..Config::default() };
        config.peers = PeerPolicy { allow: vec!["127.0.0.0/8".parse().expect("a prefix")], ..PeerPolicy::default() };
        let limits = &mut config.limits;
        (limits.members, limits.large, limits.small, limits.rooms) = (7, 4, 2, 2);
        (limits.bindings, limits.seats_per_source, limits.departures, limits.memory) = (3, 3, 3, 1 << 16);
        (limits.permissions, limits.channels, limits.interest) = (3, 3, 2);
        let server = Server::new(config, secrets(2), [7; 32], Time::default(), UnixMillis(WALL));
        Self { server, now: Time::default(), nonces: BTreeMap::new(), relays: Vec::new() }
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        let via = via(step >> 4);
        let who = &CREDENTIALS[usize::from(step >> 6 & 1)];
        let (from, to) = (script.small() % 10, script.small() % 10);
        let (from, to) = (token(from), token(to).id());
        let id = TransactionId([step; 12]);
        let nonce = self.nonces.get(&via).cloned();
        let auth = Auth { user_name: &who.name, nonce: nonce.as_deref(), key: &who.key };
        match step & 15 {
            0 => self.message(via, script.bytes(255)),
            1 => {
                let method = Method(0xF0 + u16::from(script.small() % 8));
                let mut builder = Builder::new(Class::Request, method, id).attribute(Attribute::USERNAME, who.name.as_bytes());
                builder = builder.optional(Attribute::NONCE, nonce.as_ref().map(String::as_bytes));
                for _ in 0..script.small() % 8 {
                    let attribute = KNOWN[usize::from(script.small()) % KNOWN.len()];
                    builder = builder.attribute(attribute, script.bytes(64));
                }
                self.message(via, &builder.finish_sha256(&who.key));
            }
            2..=4 => {
                let announcement = script.bytes(255).repeat(usize::from(script.small() % 3));
                let camp = CampRequest {
                    room: who.keys.room,
                    token: from,
                    lifetime: u32::from(script.small() / 2),
                    unix_millis: WALL + self.now.as_micros() / 1_000 + u64::from(script.small()) * 300,
                    announcement: Some(announcement).filter(|announcement| !announcement.is_empty() && announcement.len() <= 700),
                    tags: script.bytes(8).iter().map(|byte| Tag([*byte % 4; 8])).collect(),
                    cursor: Cursor { incarnation: u64::from(script.small() % 2), sequence: u64::from(script.small()) },
                };
                self.message(via, &camp.encode(id, &auth));
            }
            5 => {
                let tags: Vec<Tag> = script.bytes(MAX_FIND_TAGS).iter().map(|byte| Tag([*byte % 4; 8])).collect();
                self.message(via, &FindRequest { from: from.id(), tags }.encode(id, &auth));
            }
            6 => {
                let data = script.bytes(255).repeat(4);
                self.message(via, &SignalRequest { from: from.id(), to, data }.encode(id, &auth));
            }
            7 => {
                let channel = 0x4000 + u16::from(script.small() % 4);
                self.message(via, &BindRequest { from: from.id(), to, channel, release: script.small() % 4 == 0 }.encode(id, &auth));
            }
            8 | 9 => {
                let payload = script.bytes(255);
                let mut frame = vec![0x40, script.small() % 4, 0, payload.len() as u8];
                frame.extend_from_slice(payload);
                if self.server.forward(self.now, via, &mut frame) == Forward::Slow {
                    self.message(via, &frame);
                }
            }
            10 => {
                let method =
                    [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND][usize::from(script.small() % 4)];
                let builder = Builder::new(Class::Request, method, id)
                    .attribute(Attribute::USERNAME, b"user")
                    .attribute(Attribute::REALM, b"campfire");
                let mut builder = builder.optional(Attribute::NONCE, nonce.as_ref().map(String::as_bytes));
                if script.small() % 8 != 0 {
                    builder = builder
                        .attribute(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
                        .xor_address(Attribute::XOR_PEER_ADDRESS, peer(script.small()));
                    builder = builder.attribute(Attribute::CHANNEL_NUMBER, &[0x40, script.small() % 4, 0, 0]);
                }
                for _ in 0..script.small() % 4 {
                    builder = builder.attribute(Attribute(u16::from(script.small())), script.bytes(24));
                }
                self.message(via, &builder.finish_sha1(&*long_term_key_md5("user", "campfire", "password")));
            }
            11 => {
                let builder =
                    Builder::new(Class::Indication, Method::SEND, id).xor_address(Attribute::XOR_PEER_ADDRESS, peer(script.small()));
                self.message(via, &builder.attribute(Attribute::DATA, script.bytes(255)).finish());
            }
            12 => {
                let millis = u64::from(script.small()).pow(2);
                self.now += Duration::from_millis(millis);
                self.handle(Input::Wake);
            }
            13 => {
                let relay = self.relays.get(usize::from(script.small())).copied().unwrap_or(RelayId(0));
                match script.small() % 4 {
                    0 => self.handle(Input::RelayOpened { relay, address: peer(script.small()) }),
                    1 => self.handle(Input::RelayFailed { relay }),
                    _ => {
                        let (from, payload) = (peer(script.small()), script.bytes(255));
                        let mut frame = [&[0; 4], payload].concat();
                        if self.server.forward_relayed(self.now, relay, from, &mut frame) == Forward::Slow {
                            self.handle(Input::RelayDatagram { relay, from, payload });
                        }
                    }
                }
            }
            14 => self.handle(Input::StreamClosed { via }),
            _ => match script.small() % 16 {
                0 => self.handle(Input::Drain),
                1 => self.handle(Input::Secrets(secrets(1))),
                _ => self.handle(Input::Secrets(secrets(2))),
            },
        }
    }

    fn message(&mut self, via: Via, bytes: &[u8]) {
        self.handle(Input::Message { via, bytes });
    }

    fn handle(&mut self, input: Input<'_>) {
        let wall = UnixMillis(WALL + self.now.as_micros() / 1_000);
        self.server.handle(self.now, wall, input);
        while let Some(output) = self.server.poll() {
            match output {
                Output::Send { via, bytes } if bytes[0] < 0x40 => {
                    let message = Message::parse(&bytes).expect("what is sent can be read");
                    if let Ok(Some(nonce)) = message.text(Attribute::NONCE) {
                        self.nonces.insert(via, nonce.to_owned());
                    }
                    let campfire = (0xF1..=0xF5).contains(&message.method().0);
                    assert!(!campfire || bytes.len() <= 1_620);
                }
                Output::OpenRelay { relay, .. } => self.relays.push(relay),
                _ => {}
            }
        }
    }

    /// Everybody's time is up.
    fn end(&mut self) {
        for _ in 0..10_000 {
            let Some(wake) = self.server.next_wake() else { break };
            self.now = self.now.max(wake);
            self.handle(Input::Wake);
        }
        assert_eq!(self.server.next_wake(), None);
        let relays = std::mem::take(&mut self.relays);
        for relay in relays {
            self.handle(Input::RelayFailed { relay });
        }
        let stats = self.server.stats();
        assert_eq!((stats.seats, stats.rooms, stats.bindings, stats.allocations), (0, 0, 0, 0));
        assert_eq!((stats.permissions, stats.channels, stats.clients, stats.memory), (0, 0, 0, 0));
    }
}

fn secrets(campfires: usize) -> Secrets {
    let mut secrets = Secrets::new();
    for credentials in CREDENTIALS.iter().take(campfires) {
        secrets.add_campfire(credentials.keys.fingerprint, credentials.keys.relay.clone());
    }
    secrets.add_user("user".into(), "password".to_owned().into());
    secrets
}

fn via(choice: u8) -> Via {
    let remote: SocketAddr = ([192, 0, 2, choice & 3], 4_000).into();
    match choice & 3 {
        0..=2 => Via::Udp { listener: ListenerId(0), remote },
        _ => Via::Stream { stream: StreamId(1), remote },
    }
}

fn token(choice: u8) -> MemberToken {
    MemberToken([choice; 16])
}

fn peer(choice: u8) -> SocketAddr {
    if choice % 4 == 3 { ([0, 0, 0, 0, 0, 0xFFFF, 0x7F00, 1], 9).into() } else { ([127, 0, 0, choice % 4], 7).into() }
}
