//! Datagrams of version 1 at the server's core, from a few sources, in any order, well-formed and not, while hours pass. Nothing
//! panics; what is sent is what came in, once; what is not sent is counted; limits hold; and when the hour is over nothing is
//! left.
#![no_main]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use campfire_protocol::time::{Time, UnixMillis};
use campfire_turn::Server;
use campfire_turn::auth::Secrets;
use campfire_turn::config::{Config, Rate};
use campfire_turn::io::{Input, ListenerId, Output, Via};
use libfuzzer_sys::fuzz_target;

const WALL: u64 = 1_795_348_375_000;
const MEMORY: usize = 1 << 17;
const ENTRIES: usize = 7;

fuzz_target!(|bytes: &[u8]| {
    let mut world = World::new();
    let mut script = Script(bytes);
    while let Some(step) = script.byte() {
        world.step(step, &mut script);
    }
    world.end();
});

/// The input, read from the front; zeros when it is used up.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn small(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.small()) << 8 | usize::from(self.small());
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

struct World {
    server: Server,
    now: Time,
    /// What has come in and not gone out.
    taken: BTreeMap<Vec<u8>, usize>,
    /// How many of them claimed to be of version 1.
    claimed: u64,
}

impl World {
    fn new() -> Self {
        let mut config = Config { campfire_v1: true, ..Config::default() };
        let limits = &mut config.limits;
        (limits.memory, limits.v1_entries, limits.v1_entries_per_source) = (MEMORY, ENTRIES, 4);
        limits.v1_datagrams = Rate { rate: 5, burst: 60 };
        let server = Server::new(config, Secrets::new(), [7; 32], Time::default(), UnixMillis(WALL));
        Self { server, now: Time::default(), taken: BTreeMap::new(), claimed: 0 }
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        let from = step >> 3;
        match step & 7 {
            0 => self.datagram(from, script.bytes()),
            kind @ 1..=4 => {
                let message = message(kind, script);
                self.datagram(from, &message);
            }
            5 => {
                let mut message = message(1 + from % 4, script);
                let at = (usize::from(script.small()) << 8 | usize::from(script.small())) % message.len();
                message[at] = script.small();
                message.truncate(message.len() - usize::from(script.small()) % 8);
                self.datagram(from, &message);
            }
            6 => {
                self.now += Duration::from_millis(u64::from(script.small()).pow(2) * 50);
                self.handle(Input::Wake);
            }
            _ => self.handle(if from == 31 { Input::Drain } else { Input::Wake }),
        }
    }

    fn datagram(&mut self, from: u8, bytes: &[u8]) {
        *self.taken.entry(bytes.to_vec()).or_default() += 1;
        self.claimed += u64::from(matches!(bytes, [8, 1..=4, ..]));
        // Two to a /24, and two to an address.
        let remote: SocketAddr = ([192, 0, from >> 2 & 3, from >> 1 & 1], 4_000 + u16::from(from & 1)).into();
        self.handle(Input::Message { via: Via::Udp { listener: ListenerId(0), remote }, bytes });
    }

    fn handle(&mut self, input: Input<'_>) {
        self.server.handle(self.now, UnixMillis(WALL + self.now.as_micros() / 1_000), input);
        while let Some(output) = self.server.poll() {
            let Output::Send { bytes, .. } = output else { panic!("{output:?}") };
            // STUN's answers are not looked at here.
            if bytes[0] == 8 {
                let left = self.taken.get_mut(&bytes).expect("what is sent came in");
                *left = left.checked_sub(1).expect("and is sent once");
            }
        }
        let stats = self.server.stats();
        assert!(stats.v1_waiters + stats.v1_negotiations <= ENTRIES as u64);
        assert!(stats.memory <= MEMORY as u64 / 8);
    }

    /// The hour is over.
    fn end(&mut self) {
        let hour = self.now + Duration::from_mins(61);
        while let Some(wake) = self.server.next_wake() {
            assert!(wake <= hour);
            self.now = self.now.max(wake);
            self.handle(Input::Wake);
        }
        let stats = self.server.stats();
        assert_eq!((stats.v1_waiters, stats.v1_negotiations, stats.v1_held, stats.memory), (0, 0, 0, 0));
        let to_pass_on = stats.v1_offers + stats.v1_answers + stats.v1_candidates;
        let not_understood = stats.v1_dropped_sender + stats.v1_dropped_malformed;
        assert_eq!(self.claimed, not_understood + stats.v1_announces + to_pass_on);
        let by_hold = stats.v1_dropped_hold + stats.v1_dropped_lapsed;
        let at_the_door = stats.v1_dropped_receiver + stats.v1_dropped_repeated + stats.v1_dropped_no_receiver;
        assert_eq!(to_pass_on, stats.v1_forwarded + by_hold + at_the_door);
        assert_eq!(stats.v1_dropped_full, 0, "there is room for one always");
    }
}

/// A message as nodes write it, of one of two campfires and one of four negotiations.
fn message(kind: u8, script: &mut Script<'_>) -> Vec<u8> {
    let choice = script.small();
    let sides = [b'w', b'j'].map(|side| [vec![side; 108], vec![choice & 1]].concat());
    let [own, other] = if choice & 2 == 0 { [&sides[0], &sides[1]] } else { [&sides[1], &sides[0]] };
    let id = format!("0000000{}-1111-4222-8333-444444444444", choice >> 2 & 3);
    let data = vec![choice; if kind == 1 { 0 } else { 1 + 16 * usize::from(script.small()) }];
    let mut bytes = vec![8, kind];
    for (number, value) in [(2, id.as_bytes()), (3, b"abcd"), (4, own), (5, b"abcd"), (6, other), (7, &data)] {
        if !value.is_empty() {
            bytes.push(number << 3 | 2);
            match value.len() {
                length @ ..0x80 => bytes.push(length as u8),
                length => bytes.extend([length as u8 | 0x80, (length >> 7) as u8]),
            }
            bytes.extend_from_slice(value);
        }
    }
    bytes
}
