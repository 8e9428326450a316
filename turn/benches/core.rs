//! What the core costs: a frame between members and to a peer, a Camp in a room of ten thousand, a change in a full small
//! room, and the memory of a member; for version 1 a candidate, and an entry when there is no room for more. `cargo bench -p campfire-turn --bench core`.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use campfire_protocol::credential::{campfire_key, long_term_key_md5, user_name};
use campfire_protocol::key::{Keys, Psk};
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, TransactionId};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::{Auth, BindRequest, CampRequest, CampSuccess, Cursor, MemberToken};
use campfire_turn::auth::Secrets;
use campfire_turn::config::Rate;
use campfire_turn::io::{Forward, Input, ListenerId, Output, Via};
use campfire_turn::{Config, Server};

const WALL: UnixMillis = UnixMillis(1_800_000_000_000);
/// Frames of each measurement.
const FRAMES: usize = 4_000_000;

fn main() {
    // First, while resident memory is the server's alone.
    for members in [1_000, 10_000] {
        room(members);
    }
    version_1();
    forward_between_members(2);
    forward_between_members(1_000);
    forward_to_peers();
    small_room();
}

fn forward_between_members(count: usize) {
    let mut bench = Bench::new();
    let members: Vec<Member> = (0..count).map(|n| bench.camp(n, 250)).collect();
    for pair in members.as_chunks::<2>().0 {
        bench.bind(&pair[0], &pair[1]);
        bench.bind(&pair[1], &pair[0]);
    }
    let frame = frame(1_200);
    report(&format!("forward between members, {count} of them"), FRAMES, || {
        let mut frame = frame.clone();
        for n in 0..FRAMES {
            frame[..2].copy_from_slice(&0x4000_u16.to_be_bytes());
            let forward = bench.server.forward(bench.now, members[n % count].via, &mut frame);
            assert!(matches!(black_box(forward), Forward::Client { .. }));
        }
    });
}

fn forward_to_peers() {
    let mut bench = Bench::new();
    let (via, peer) = (source(1), SocketAddr::from(([203, 0, 113, 1], 9_000)));
    let relay = bench.allocate(via, peer);
    let mut frame = frame(1_200);
    report("forward from a client to a peer", FRAMES, || {
        for _ in 0..FRAMES {
            let forward = bench.server.forward(bench.now, via, &mut frame);
            assert!(matches!(black_box(forward), Forward::Peer { .. }));
        }
    });
    report("forward from a peer to a client", FRAMES, || {
        for _ in 0..FRAMES {
            let forward = bench.server.forward_relayed(bench.now, relay, peer, &mut frame);
            assert!(matches!(black_box(forward), Forward::Client { .. }));
        }
    });
}

/// Joining, refreshing and changing in a large room, and what a member costs in memory.
fn room(count: usize) {
    let mut bench = Bench::new();
    let before = resident();
    let start = Instant::now();
    let mut members: Vec<Member> = (0..count).map(|n| bench.camp(n, 250)).collect();
    let joining = start.elapsed();
    bench.outputs.clear();
    bench.outputs.shrink_to_fit();
    let bytes = resident().saturating_sub(before) / count;
    println!("{:<56}{:>9.1} µs", format!("a join, room of {count}"), joining.as_secs_f64() * 1e6 / count as f64);
    println!(
        "{:<56}{bytes:>9} B (announcement of 250 B and this bench's own client included)",
        format!("memory of a member, room of {count}")
    );
    report(&format!("a refresh, room of {count}"), count, || {
        for member in &mut members {
            bench.refresh(member, None);
        }
    });
    report(&format!("a change, room of {count}"), count, || {
        for member in &mut members {
            bench.refresh(member, Some(vec![3; 250]));
        }
    });
}

/// All of a full small room change at once, and everybody hears of it.
fn small_room() {
    let mut bench = Bench::new();
    let mut members: Vec<Member> = (0..256).map(|n| bench.camp(n, 250)).collect();
    bench.settle();
    for member in &mut members {
        bench.refresh(member, None);
    }
    bench.settle();
    bench.outputs.clear();
    let start = Instant::now();
    for member in &mut members {
        bench.refresh(member, Some(vec![4; 250]));
    }
    bench.settle();
    let took = start.elapsed();
    println!("{:<56}{:>9.1} ms, {} messages", "256 of 256 change at once, all told", took.as_secs_f64() * 1e3, bench.outputs.len());
}

/// Passing on a candidate of version 1, taking an entry when others must make way, and what an entry costs in memory.
fn version_1() {
    const ENTRIES: usize = 100_000;
    let server = |entries| {
        let mut config = Config { campfire_v1: true, ..Config::default() };
        (config.limits.v1_entries, config.limits.memory) = (entries, 8 << 30);
        config.limits.v1_datagrams = Rate { rate: u32::MAX, burst: u32::MAX };
        Server::new(config, Secrets::new(), [7; 32], Time::default(), WALL)
    };
    let mut outputs = 0;
    let mut send = |server: &mut Server, from: usize, bytes: &[u8]| {
        server.handle(Time::default(), WALL, Input::Message { via: source(from), bytes });
        outputs += std::iter::from_fn(|| server.poll()).count();
    };
    let mut roomy = server(2 * ENTRIES);
    for (what, kind) in [("waiter", 1), ("negotiation", 2)] {
        let before = resident();
        for n in 0..ENTRIES {
            send(&mut roomy, n, &message_v1(kind, n, n));
        }
        println!("{:<56}{:>9} B", format!("memory of a {what} of version 1"), resident().saturating_sub(before) / ENTRIES);
    }
    let mut candidate = message_v1(4, 1, 1);
    let data = candidate.len() - size_of::<usize>();
    report("a candidate of version 1, passed on", ENTRIES, || {
        for n in 0..ENTRIES {
            // None comes twice.
            candidate[data..].copy_from_slice(&n.to_be_bytes());
            send(&mut roomy, 1, black_box(&candidate));
        }
    });
    let mut full = server(4_096);
    report("an announcement of version 1, most when there is no room", ENTRIES, || {
        (0..ENTRIES).for_each(|n| send(&mut full, n, &message_v1(1, n, n)));
    });
    assert_eq!(outputs, 2 * ENTRIES);
}

/// A message of a campfire and a negotiation that these numbers name (docs/campfire-v1.md).
fn message_v1(kind: u8, campfire: usize, id: usize) -> Vec<u8> {
    let sides = [0, 1].map(|side| format!("{campfire:0108}{side}"));
    let [own, other] = if kind == 1 { [0, 1] } else { [1, 0] }.map(|side| &sides[side]);
    let id = format!("{id:08x}-1111-4222-8333-444444444444");
    let data = if kind == 1 { "" } else { &"sealed".repeat(50) };
    let fields = [(2_u8, id.as_str()), (3, "abcd"), (4, own), (5, "abcd"), (6, other), (7, data)];
    let mut bytes = vec![8, kind];
    for (number, text) in fields.into_iter().filter(|(_, text)| !text.is_empty()) {
        bytes.push(number << 3 | 2);
        let length = text.len();
        if length > 0x7F {
            bytes.extend([length as u8 | 0x80, (length >> 7) as u8]);
        } else {
            bytes.push(length as u8);
        }
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

struct Member {
    via: Via,
    token: MemberToken,
    nonce: String,
    cursor: Cursor,
}

struct Bench {
    server: Server,
    now: Time,
    keys: Keys,
    name: String,
    key: [u8; 32],
    transaction: u64,
    outputs: Vec<Output>,
}

impl Bench {
    fn new() -> Self {
        let keys = Psk::from_bytes([1; 32]).derive();
        let name = user_name(WALL.0 / 1_000 + 3_600, keys.fingerprint);
        let mut secrets = Secrets::new();
        secrets.add_campfire(keys.fingerprint, keys.relay.clone());
        secrets.add_user("alice".into(), zeroize::Zeroizing::new("wonderland".into()));
        let now = Time::from_micros(0);
        let key = *campfire_key(&keys.relay, &name);
        Self {
            server: Server::new(Config::default(), secrets, [7; 32], now, WALL),
            now,
            keys,
            name,
            key,
            transaction: 0,
            outputs: Vec::new(),
        }
    }

    fn transaction(&mut self) -> TransactionId {
        self.transaction += 1;
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.transaction.to_be_bytes());
        TransactionId(id)
    }

    fn handle(&mut self, input: Input<'_>) {
        self.server.handle(self.now, WALL, input);
        self.outputs.extend(std::iter::from_fn(|| self.server.poll()));
    }

    /// The answer to a request, which is the first thing sent.
    fn ask(&mut self, via: Via, bytes: &[u8]) -> Message {
        let first = self.outputs.len();
        self.handle(Input::Message { via, bytes });
        let Some(Output::Send { bytes, .. }) = self.outputs.get(first) else { panic!("no answer") };
        Message::parse(bytes).expect("a message")
    }

    fn camp(&mut self, n: usize, announcement: usize) -> Member {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let mut member = Member { via: source(n), token: MemberToken(token), nonce: String::new(), cursor: Cursor::default() };
        self.refresh(&mut member, Some(vec![2; announcement]));
        member
    }

    fn refresh(&mut self, member: &mut Member, announcement: Option<Vec<u8>>) {
        let request = CampRequest {
            room: self.keys.room,
            token: member.token,
            lifetime: 60,
            unix_millis: WALL.0,
            announcement,
            tags: vec![self.keys.tag("one"), self.keys.tag("two")],
            cursor: member.cursor,
        };
        let nonce = Some(member.nonce.as_str()).filter(|nonce| !nonce.is_empty());
        let bytes = request.encode(self.transaction(), &Auth { user_name: &self.name, nonce, key: &self.key });
        let success = CampSuccess::decode(&self.ask(member.via, &bytes)).expect("a seat");
        (member.nonce, member.cursor) = (success.nonce, success.cursor);
    }

    fn bind(&mut self, from: &Member, to: &Member) {
        let bind = BindRequest { from: from.token.id(), to: to.token.id(), channel: 0x4000, release: false };
        let bytes = bind.encode(self.transaction(), &Auth { user_name: &self.name, nonce: Some(&from.nonce), key: &self.key });
        assert_eq!(self.ask(from.via, &bytes).class(), Class::Success);
    }

    fn allocate(&mut self, via: Via, peer: SocketAddr) -> campfire_turn::io::RelayId {
        let key = long_term_key_md5("alice", "campfire", "wonderland");
        let mut nonce = String::new();
        for _ in 0..2 {
            let start = Builder::new(Class::Request, Method::ALLOCATE, self.transaction());
            let request = signed(start.attribute(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]), &nonce, key.as_ref());
            self.handle(Input::Message { via, bytes: &request });
            if let Some(Output::Send { bytes, .. }) = self.outputs.pop_if(|output| matches!(output, Output::Send { .. })) {
                let challenge = Message::parse(&bytes).expect("a message");
                challenge.text(Attribute::NONCE).expect("text").expect("a nonce").clone_into(&mut nonce);
            }
        }
        let Some(Output::OpenRelay { relay, .. }) = self.outputs.pop() else { panic!("no relay socket asked for") };
        self.handle(Input::RelayOpened { relay, address: ([192, 0, 2, 1], 50_000).into() });
        let start = Builder::new(Class::Request, Method::CHANNEL_BIND, self.transaction()).xor_address(Attribute::XOR_PEER_ADDRESS, peer);
        let request = signed(start.attribute(Attribute::CHANNEL_NUMBER, &[0x40, 0, 0, 0]), &nonce, key.as_ref());
        assert_eq!(self.ask(via, &request).class(), Class::Success);
        relay
    }

    /// Lets a few seconds pass.
    fn settle(&mut self) {
        let end = self.now + Duration::from_secs(5);
        while let Some(wake) = self.server.next_wake().filter(|wake| *wake <= end) {
            self.now = wake.max(self.now);
            self.handle(Input::Wake);
        }
        self.now = end;
    }
}

fn signed(builder: Builder, nonce: &str, key: &[u8]) -> Vec<u8> {
    builder
        .attribute(Attribute::USERNAME, b"alice")
        .attribute(Attribute::REALM, b"campfire")
        .attribute(Attribute::NONCE, nonce.as_bytes())
        .finish_sha1(key)
}

fn source(n: usize) -> Via {
    Via::Udp { listener: ListenerId(0), remote: SocketAddr::from(([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 4_000)) }
}

fn frame(payload: u16) -> Vec<u8> {
    let [high, low] = payload.to_be_bytes();
    [vec![0x40, 0, high, low], vec![0; usize::from(payload)]].concat()
}

fn report(what: &str, times: usize, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    let each = start.elapsed().as_secs_f64() * 1e9 / times as f64;
    println!("{what:<56}{each:>9.1} ns");
}

/// Resident bytes of this process; 0 where the system does not say.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or(0) * 4_096
}
