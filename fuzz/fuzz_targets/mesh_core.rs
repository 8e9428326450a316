//! A short life of one peer's brain among servers and peers that hold the keys and use them in bad faith, on a network
//! that says anything. Nothing panics, what is sent can be read, and time passes: no wake-up asks for itself at once.
#![no_main]

mod script;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use campfire_datapath::command::Command;
use campfire_datapath::table::Traffic;
use campfire_fire::config::Reconfigure as CampChange;
use campfire_fire::io as fire;
use campfire_mesh::Mesh;
use campfire_mesh::config::{Config, Reconfigure};
use campfire_mesh::io::{Input, Output};
use campfire_protocol::announce::{Announcement, ServerRecord, Session};
use campfire_protocol::carrier::{Path, ServerSlot, SocketId, StreamId, Via};
use campfire_protocol::control::Control;
use campfire_protocol::credential::{campfire_key, push_key};
use campfire_protocol::identity::Identity;
use campfire_protocol::key::{Keys, Psk};
use campfire_protocol::server::Server;
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, TransactionId};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::{
    BindRequest, CampRequest, CampSuccess, Cursor, Ember, Entry, Failure, MemberId, SignalRequest, encode_success,
};
use campfire_tunnel::{Event, LinkId};
use libfuzzer_sys::fuzz_target;

use self::script::Script;

const WALL: u64 = 1_800_000_000_000;
const PEERS: u8 = 4;
const SEATS: u8 = 6;
const VERSIONS: u32 = 3;

static KEYS: LazyLock<Keys> = LazyLock::new(|| Psk::from_bytes([1; 32]).derive());
static IDENTITIES: LazyLock<Vec<Identity>> = LazyLock::new(|| (0..=PEERS).map(|seed| Identity::from_seed(&[seed; 32])).collect());
/// By peer, seat, version. Signing in the loop would be all that is measured.
static SEALED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut sealed = Vec::new();
    for peer in 0..=PEERS {
        for seat in 0..SEATS {
            for version in 0..VERSIONS {
                sealed
                    .push(announcement(peer, version).seal(&IDENTITIES[usize::from(peer)], &KEYS, &member(seat), &[7; 24]).expect("fits"));
            }
        }
    }
    sealed
});

fuzz_target!(|bytes: &[u8]| {
    let mut script = Script(bytes);
    let mut world = World::new(script.small());
    while let Some(step) = script.byte() {
        world.step(step, &mut script);
    }
    world.end();
});

struct World {
    mesh: Mesh,
    now: Time,
    /// Requests that have not been answered, the newest last.
    requests: VecDeque<(Via, Vec<u8>)>,
    members: Vec<(Via, MemberId)>,
    streams: Vec<StreamId>,
    tokens: Vec<u64>,
}

impl World {
    fn new(shape: u8) -> Self {
        let list = ["192.0.2.1", "turn:192.0.2.2?transport=udp", "turns:192.0.2.3", "turn.example.com", "192.0.2.5", "192.0.2.6"];
        let count = 1 + usize::from(shape) % list.len();
        let servers: Vec<Server> = list[..count].iter().map(|text| text.parse().expect("a server")).collect();
        let mut config = Config::new(IDENTITIES[0].clone(), KEYS.clone(), servers);
        config.fire.name = "fuzz".into();
        config.fire.ipv4_pool = Some("100.64.0.0/29".parse().expect("a pool"));
        config.accepted_routes = vec!["10.0.0.0/8".parse().expect("a prefix")];
        (config.fire.members, config.limits.links, config.limits.eager_links) = (6, 4, usize::from(shape / 16) % 4);
        config.idle_close_ms = 2_000;
        let mesh = Mesh::new(config, [shape; 32], Time::default(), UnixMillis(WALL));
        let mut world =
            Self { mesh, now: Time::default(), requests: VecDeque::new(), members: Vec::new(), streams: Vec::new(), tokens: Vec::new() };
        world.handle(Input::Fire(fire::Input::SocketOpened { socket: SocketId(0), local: &[([10, 1, 0, 2], 4_000).into()] }));
        world
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        match step % 16 {
            0..=3 => self.answer(script),
            4 | 5 => self.push(script),
            6 => {
                let (via, bytes) = (via(script.small()), script.bytes(255));
                self.handle(Input::Fire(fire::Input::Stun { via, message: bytes }));
            }
            7 => {
                let (link, path) = (LinkId(u32::from(script.small() % 6)), path(script));
                let payload = control(script);
                self.handle(Input::Control { link, path, payload: &payload });
            }
            8 => {
                let link = LinkId(u32::from(script.small() % 6));
                self.handle(Input::Tunnel(match script.small() % 4 {
                    0 => Event::Send { link, message: vec![1; 148] },
                    1 | 2 => Event::Established { link, initiator: script.small() % 2 == 0 },
                    _ => Event::Expired { link },
                }));
            }
            9 => {
                let initiator = initiator(script.small());
                match self.tokens.pop() {
                    Some(token) => self.handle(Input::Initiation { token, initiator }),
                    None => {
                        let mut message = vec![0; 148];
                        message[0] = 1 + script.small() % 3;
                        self.handle(Input::Handshake { path: path(script), message: &message, initiator });
                    }
                }
            }
            10 => {
                let traffic = Traffic {
                    link: LinkId(u32::from(script.small() % 6)),
                    sent_bytes: u64::from(script.small()),
                    received_bytes: u64::from(script.small()),
                    last_received: Some((self.now, path(script))).filter(|_| script.small() % 2 == 0),
                    last_sent: Some(self.now).filter(|_| script.small() % 2 == 0),
                };
                self.handle(Input::Traffic(traffic));
            }
            11 => {
                let address = match script.small() % (PEERS + 2) {
                    peer if peer <= PEERS => KEYS.network.address(&IDENTITIES[usize::from(peer)].public()).into(),
                    other => [100, 64, 0, other].into(),
                };
                self.handle(Input::Wanted { address });
            }
            12 => {
                self.now += Duration::from_millis(u64::from(script.small()).pow(2));
                self.handle(Input::Wake);
            }
            13 => match script.small() % 8 {
                0 => self.handle(Input::Fire(fire::Input::SocketClosed { socket: SocketId(u16::from(script.small() % 4)) })),
                1..=3 => {
                    let local: Vec<SocketAddr> = script.bytes(4).iter().map(|byte| address(*byte)).collect();
                    self.handle(Input::Fire(fire::Input::SocketOpened { socket: SocketId(u16::from(script.small() % 4)), local: &local }));
                }
                4 => self.handle(Input::Wall { unix_millis: WALL + u64::from(script.small()) * 60_000 }),
                5 => {
                    let stream = self.stream(script);
                    self.handle(Input::Fire(fire::Input::StreamClosed { stream, reason: "it ended" }));
                }
                _ => {
                    let stream = self.stream(script);
                    self.handle(Input::Fire(fire::Input::StreamOpened { stream }));
                }
            },
            14 => {
                let addresses: Vec<SocketAddr> = script.bytes(3).iter().map(|byte| address(*byte)).collect();
                self.handle(Input::Fire(fire::Input::Resolved { server: ServerSlot(u16::from(script.small() % 8)), addresses: &addresses }));
            }
            _ => match script.small() % 16 {
                0 => self.handle(Input::Shutdown),
                1..=4 => {
                    let servers =
                        ["192.0.2.9", "192.0.2.1"][..usize::from(script.small() % 3)].iter().map(|text| text.parse().expect("a server"));
                    let change = Reconfigure {
                        fire: CampChange { servers: Some(servers.collect()), ..CampChange::default() },
                        ..Reconfigure::default()
                    };
                    self.handle(Input::Configure(Box::new(change)));
                }
                _ => drop(self.mesh.status(self.now)),
            },
        }
    }

    fn stream(&self, script: &mut Script<'_>) -> StreamId {
        self.streams.get(usize::from(script.small())).copied().unwrap_or(StreamId(0))
    }

    /// A server answers a request, correctly signed, with whatever it likes.
    fn answer(&mut self, script: &mut Script<'_>) {
        let pick = usize::from(script.small() % 4).min(self.requests.len().saturating_sub(1));
        let Some((via, bytes)) = self.requests.remove(pick) else { return };
        let request = Message::parse(&bytes).expect("what is sent can be read");
        let (id, method) = (request.transaction(), request.method());
        let name = request.text(Attribute::USERNAME).expect("what is sent can be read").unwrap_or_default();
        let key = campfire_key(&KEYS.relay, name);
        let kind = script.small();
        let answer = if kind % 8 == 7 {
            let failure = Failure {
                code: [400, 401, 403, 404, 420, 438, 486, 508][usize::from(kind / 8) % 8],
                reason: "no".into(),
                nonce: Some("another".into()).filter(|_| script.small() % 2 == 0),
                unix_millis: Some(WALL + u64::from(script.small()) * 10_000).filter(|_| script.small() % 2 == 0),
            };
            failure.encode(&request, Some(&key))
        } else if method == Method::BINDING {
            Builder::answer(Class::Success, &request).xor_address(Attribute::XOR_MAPPED_ADDRESS, address(kind)).finish()
        } else if method == Method::CAMP {
            let cursor = cursor(script);
            let success = CampSuccess {
                instance: [0; 8],
                lifetime: u32::from(script.small()),
                server_id: None,
                unix_millis: WALL + self.now.as_micros() / 1_000 + u64::from(script.small()),
                observed: address(kind / 8),
                nonce: "nonce".into(),
                members: u32::from(script.small()),
                reset: script.small() % 2 == 0,
                cursor,
                head: cursor.sequence + u64::from(script.small() % 4),
                entries: entries(script),
                large: script.small() % 8 == 0,
                leaving: script.small() % 16 == 0,
            };
            success.encode(id, &key)
        } else {
            encode_success(&request, &entries(script), &key)
        };
        self.handle(Input::Fire(fire::Input::Stun { via, message: &answer }));
    }

    /// A server pushes to one of our seats.
    fn push(&mut self, script: &mut Script<'_>) {
        let Some((via, to)) = self.members.get(usize::from(script.small())).or(self.members.last()).copied() else { return };
        let (key, id) = (push_key(&KEYS.relay, &to), TransactionId([script.small(); 12]));
        let message = if script.small() % 2 == 0 {
            let previous = cursor(script);
            let cursor = Cursor { sequence: previous.sequence + u64::from(script.small() % 3), ..previous };
            Ember { to, previous, cursor, entries: entries(script), leaving: script.small() % 16 == 0 }.encode(id, &key)
        } else {
            let mut data = vec![0; 148];
            data[0] = 1 + script.small() % 4;
            SignalRequest { from: member(script.small() % SEATS), to, data }.encode_indication(id, &key)
        };
        self.handle(Input::Fire(fire::Input::Stun { via, message: &message }));
    }

    fn handle(&mut self, input: Input<'_>) {
        self.mesh.handle(self.now, input);
        let mut count = 0;
        while let Some(output) = self.mesh.poll() {
            count += 1;
            assert!(count < 2_000, "one input makes no flood");
            match output {
                Output::Fire(fire::Output::Send { via, datagram }) if datagram[0] < 4 => {
                    let message = Message::parse(&datagram).expect("what is sent can be read");
                    assert!(datagram.len() <= 1_200);
                    if let Ok(camp) = CampRequest::decode(&message)
                        && !self.members.contains(&(via, camp.token.id()))
                    {
                        self.members.push((via, camp.token.id()));
                    }
                    if message.method() == Method::BIND {
                        BindRequest::decode(&message).expect("what is sent can be read");
                    }
                    self.requests.push_back((via, datagram));
                    if self.requests.len() > 32 {
                        self.requests.pop_front();
                    }
                }
                Output::Data(Command::SendControl { payload, .. }) => {
                    assert!(Control::decode(&payload).expect("what is sent can be read").is_some());
                }
                Output::Fire(fire::Output::OpenStream { stream, .. }) => self.streams.push(stream),
                Output::Data(Command::IdentifyInitiation { token, .. }) => self.tokens.push(token),
                Output::Fire(_) | Output::Data(_) | Output::Notice(_) | Output::Pong(_) => {}
            }
        }
        let _ = self.mesh.table();
    }

    /// Left alone for a while, it neither spins nor dies.
    fn end(&mut self) {
        let mut last = self.now;
        let mut at_once = 0;
        for _ in 0..60 {
            let Some(wake) = self.mesh.next_wake() else { break };
            self.now = self.now.max(wake);
            at_once = if self.now == last { at_once + 1 } else { 0 };
            assert!(at_once < 10, "wake-ups ask for themselves at once");
            last = self.now;
            self.handle(Input::Wake);
        }
    }
}

fn announcement(peer: u8, version: u32) -> Announcement {
    Announcement {
        public_key: IDENTITIES[usize::from(peer)].public(),
        session: Session { started: UnixMillis(WALL + u64::from(version / 2)), nonce: 1 },
        sequence: version,
        sent_at: UnixMillis(WALL),
        name: format!("peer-{peer}"),
        namespace: String::new(),
        cluster: String::new(),
        fingerprints: vec![KEYS.fingerprint],
        servers: vec![],
        routes: vec!["10.1.0.0/16".parse().expect("a prefix"), "::/0".parse().expect("a prefix")],
        ipv4: Some([100, 64, 0, 2 + peer % 5].into()),
        features: version,
        record: (peer == 1).then(|| ServerRecord { version: u64::from(version), servers: vec!["192.0.2.8".parse().expect("a server")] }),
    }
}

fn entries(script: &mut Script<'_>) -> Vec<Entry> {
    let entry = |byte: &u8| {
        let (peer, seat, version) = (byte % (PEERS + 1), byte / 8 % SEATS, u32::from(byte / 64) % VERSIONS);
        let index = (usize::from(peer) * usize::from(SEATS) + usize::from(seat)) * VERSIONS as usize + version as usize;
        Entry { member: member(seat), announcement: (byte & 192 != 192).then(|| SEALED[index].clone()) }
    };
    script.bytes(3).iter().map(entry).collect()
}

fn cursor(script: &mut Script<'_>) -> Cursor {
    Cursor { incarnation: u64::from(script.small() % 3), sequence: u64::from(script.small() % 16) }
}

fn control(script: &mut Script<'_>) -> Vec<u8> {
    let id = u64::from(script.small());
    match script.small() % 8 {
        0 => script.bytes(255).to_vec(),
        1 => Control::Goodbye.encode(),
        2 => Control::Punch { attempt: u32::from(script.small() % 4) }.encode(),
        3 => Control::PunchAck { attempt: u32::from(script.small() % 4), ready: script.small() % 2 == 0 }.encode(),
        4 => Control::Probe { id, size: u16::from(script.small()) * 8 }.encode(),
        5 => Control::ProbeReply { id, observed: Some(address(script.small())), size: 0 }.encode(),
        _ => {
            let addresses = script.bytes(8).iter().map(|byte| address(*byte)).collect();
            let flags = script.small();
            Control::Candidates {
                addresses,
                symmetric: flags & 1 != 0,
                udp_blocked: flags & 2 != 0,
                forbidden: flags & 12 == 12,
                generation: u32::from(flags),
            }
            .encode()
        }
    }
}

fn member(seat: u8) -> MemberId {
    MemberId([seat; 16])
}

fn initiator(choice: u8) -> Option<[u8; 32]> {
    IDENTITIES.get(usize::from(choice % 8)).map(|identity| identity.public().x25519())
}

fn via(choice: u8) -> Via {
    if choice % 8 == 7 {
        Via::Stream(StreamId(u32::from(choice / 8)))
    } else {
        Via::Udp { socket: SocketId(u16::from(choice % 2)), remote: ([192, 0, 2, choice / 2 % 8], 3_478).into() }
    }
}

fn path(script: &mut Script<'_>) -> Path {
    let choice = script.small();
    if choice % 2 == 0 {
        Path::Direct { socket: SocketId(u16::from(choice / 2 % 2)), remote: address(choice / 4) }
    } else {
        let channel = 0x4000 + u16::from(script.small());
        Path::Relay { server: ServerSlot(u16::from(choice / 2 % 4)), via: via(choice / 8), channel }
    }
}

fn address(choice: u8) -> SocketAddr {
    let port = 4_000 + u16::from(choice / 8);
    match choice % 8 {
        0 => ([127, 0, 0, 1], port).into(),
        1 => ([0, 0, 0, 0, 0, 0xFFFF, 0xCB00, 0x7101], port).into(),
        2 => ([0x2001, 0xDB8, 0, 0, 0, 0, 0, 1], port).into(),
        3 => ([0, 0, 0, 0], 0).into(),
        low => ([203, 0, 113, low], port).into(),
    }
}
