//! The stand-in sessions behave as WireGuard's do, as far as the mesh can see.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use campfire_protocol::identity::Identity;
use campfire_protocol::time::Time;
use campfire_sim::secs;
use campfire_sim::standin::{Clock, StandIn};
use campfire_tunnel::{Command, Event, LinkId, OVERHEAD, Source, TunnelError, Tunnels, Unidentified};
use zeroize::Zeroizing;

const LINK: LinkId = LinkId(0);

#[test]
fn a_handshake_gives_both_a_session_and_has_the_sizes_of_wireguard() {
    let mut pair = Pair::new([7; 32], [7; 32]);
    let initiation = pair.initiate();
    assert_eq!(initiation.len(), 148);
    let response = pair.two.take_handshake(&initiation).unwrap();
    assert_eq!(response.len(), 92);
    assert_eq!(pair.two.tunnels.seal(LINK, &packet(100), &mut [0; 200]), Err(TunnelError::NoSession));
    let keepalive = pair.one.take_handshake(&response).unwrap();
    assert_eq!(keepalive.len(), 32);
    assert!(pair.one.told.contains(&Event::Established { link: LINK, initiator: true }));
    assert_eq!(pair.two.open(&keepalive), Ok(vec![]));
    assert!(pair.two.told.contains(&Event::Established { link: LINK, initiator: false }));
    let message = pair.two.seal(&packet(100));
    assert_eq!(message.len(), 100 + OVERHEAD);
    assert_eq!(pair.one.open(&message), Ok(packet(100)));
}

#[test]
fn no_session_without_the_same_preshared_key() {
    let mut pair = Pair::new([7; 32], [8; 32]);
    let initiation = pair.initiate();
    let response = pair.two.take_handshake(&initiation).unwrap();
    assert_eq!(pair.one.take_handshake(&response), Err(TunnelError::Forged));
}

#[test]
fn nobody_can_initiate_in_anothers_name() {
    let mut pair = Pair::new([7; 32], [7; 32]);
    let mut initiation = pair.initiate();
    assert_eq!(pair.two.tunnels.initiator(&initiation, Source::Relayed), Ok(Identity::from_seed(&[1; 32]).public().x25519()));
    let victim = Identity::from_seed(&[3; 32]).public().x25519();
    initiation[40..72].copy_from_slice(&victim);
    assert_eq!(pair.two.tunnels.initiator(&initiation, Source::Relayed), Err(Unidentified::Refused(TunnelError::Forged)));
    assert_eq!(pair.two.take_handshake(&initiation), Err(TunnelError::Forged));
}

#[test]
fn altered_and_replayed_messages_are_refused() {
    let mut pair = Pair::connected();
    let message = pair.one.seal(&packet(60));
    let mut altered = message.clone();
    altered[30] ^= 1;
    assert_eq!(pair.two.open(&altered), Err(TunnelError::Forged));
    assert_eq!(pair.two.open(&message), Ok(packet(60)));
    assert_eq!(pair.two.open(&message), Err(TunnelError::Replayed));
    let mut unknown = message;
    unknown[4] ^= 1;
    assert_eq!(pair.two.open(&unknown), Err(TunnelError::UnknownIndex));
}

#[test]
fn both_may_initiate_at_once() {
    let mut pair = Pair::new([7; 32], [7; 32]);
    let from_one = pair.initiate();
    let from_two = pair.two.execute(Command::Initiate { link: LINK }).swap_remove(0);
    let to_one = pair.two.take_handshake(&from_one).unwrap();
    let to_two = pair.one.take_handshake(&from_two).unwrap();
    pair.one.take_handshake(&to_one).unwrap();
    pair.two.take_handshake(&to_two).unwrap();
    let (message, answer) = (pair.one.seal(&packet(60)), pair.two.seal(&packet(60)));
    assert_eq!(pair.two.open(&message), Ok(packet(60)));
    assert_eq!(pair.one.open(&answer), Ok(packet(60)));
}

#[test]
fn an_initiation_counts_once() {
    let mut pair = Pair::new([7; 32], [7; 32]);
    let initiation = pair.initiate();
    pair.two.take_handshake(&initiation).unwrap();
    pair.pass(secs(1));
    assert_eq!(pair.two.take_handshake(&initiation), Err(TunnelError::Replayed));
}

#[test]
fn messages_may_overtake_each_other_within_the_window() {
    let mut pair = Pair::connected();
    let messages: Vec<_> = (0..2_000).map(|_| pair.one.seal(&packet(40))).collect();
    for message in messages[1_500..].iter().rev() {
        assert!(pair.two.open(message).is_ok());
    }
    assert_eq!(pair.two.open(&messages[1_500]), Err(TunnelError::Replayed));
    assert_eq!(pair.two.open(&messages[100]), Err(TunnelError::Replayed));
    assert!(pair.two.open(&messages[1_400]).is_ok());
}

#[test]
fn a_session_in_use_is_renewed_after_two_minutes_and_an_idle_one_dies_after_three() {
    let mut pair = Pair::connected();
    pair.exchange_for(secs(119));
    assert_eq!(pair.handshakes, 0);
    pair.exchange_for(secs(10));
    assert_eq!(pair.handshakes, 1);
    pair.pass(secs(181));
    assert_eq!(pair.one.tunnels.seal(LINK, &packet(40), &mut [0; 100]), Err(TunnelError::NoSession));
    assert_eq!(pair.one.tunnels.last_handshake_ms(LINK), None);
}

#[test]
fn silence_after_data_starts_a_handshake_that_is_repeated_and_given_up() {
    let mut pair = Pair::connected();
    pair.one.seal(&packet(40));
    let mut initiations = 0;
    for _ in 0..(300 * 4) {
        pair.pass(Duration::from_millis(250));
        initiations += pair.one.tick().iter().filter(|message| message.len() == 148).count();
    }
    assert!((15..=19).contains(&initiations), "{initiations} in 90 s");
    assert!(pair.one.told.contains(&Event::Expired { link: LINK }));
}

#[test]
fn data_is_answered_by_a_keepalive_after_ten_seconds() {
    let mut pair = Pair::connected();
    let message = pair.one.seal(&packet(40));
    pair.two.open(&message).unwrap();
    pair.pass(secs(9));
    assert!(pair.two.tick().is_empty());
    pair.pass(secs(1));
    assert_eq!(pair.two.tick().iter().map(Vec::len).collect::<Vec<_>>(), [32]);
}

#[test]
fn a_new_preshared_key_takes_over_whoever_has_it_first() {
    for first in [true, false] {
        let mut pair = Pair::connected();
        pair.pass(secs(1));
        let rekey = || Command::Rekey { link: LINK, preshared: Zeroizing::new([9; 32]) };
        let ends = if first { &mut pair.one } else { &mut pair.two };
        ends.execute(rekey());
        // The old session lives, and handshakes go on under the key that both have.
        let message = pair.one.seal(&packet(40));
        assert!(pair.two.open(&message).is_ok());
        pair.handshake();
        let other = if first { &mut pair.two } else { &mut pair.one };
        other.execute(rekey());
        pair.pass(secs(1));
        pair.handshake();
        let message = pair.two.seal(&packet(40));
        assert!(pair.one.open(&message).is_ok());
    }
}

struct End {
    tunnels: StandIn,
    told: Vec<Event>,
}

impl End {
    fn execute(&mut self, command: Command) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        self.tunnels.execute(command, &mut events);
        self.note(events)
    }

    fn take_handshake(&mut self, message: &[u8]) -> Result<Vec<u8>, TunnelError> {
        let mut events = Vec::new();
        self.tunnels.handshake(message, Source::Relayed, &mut events)?;
        Ok(self.note(events).swap_remove(0))
    }

    fn all_answers(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        self.tunnels.handshake(message, Source::Relayed, &mut events).map_or(Vec::new(), |_| self.note(events))
    }

    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 2_048];
        let length = self.tunnels.seal(LINK, packet, &mut out).unwrap();
        out.truncate(length);
        out
    }

    fn open(&mut self, message: &[u8]) -> Result<Vec<u8>, TunnelError> {
        let (mut out, mut events) = (vec![0; 2_048], Vec::new());
        let opened = self.tunnels.open(message, &mut out, &mut events);
        self.note(events);
        opened.map(|opened| out[opened.packet].to_vec())
    }

    fn tick(&mut self) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        self.tunnels.tick(&mut events);
        self.note(events)
    }

    fn note(&mut self, events: Vec<Event>) -> Vec<Vec<u8>> {
        self.told.extend(events.iter().cloned());
        let messages = events.into_iter().filter_map(|event| match event {
            Event::Send { message, .. } => Some(message),
            _ => None,
        });
        messages.collect()
    }
}

struct Pair {
    one: End,
    two: End,
    clock: Clock,
    handshakes: usize,
}

impl Pair {
    fn new(preshared_one: [u8; 32], preshared_two: [u8; 32]) -> Self {
        let clock = Clock::default();
        clock.set(Time::from_micros(1_000_000));
        let identities = [Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32])];
        let end = |own: usize, preshared| {
            let tunnels = StandIn::new(*identities[own].x25519_secret(), own as u64, clock.clone());
            let mut end = End { tunnels, told: Vec::new() };
            let public_key = identities[1 - own].public().x25519();
            end.execute(Command::Add { link: LINK, public_key, preshared: Zeroizing::new(preshared) });
            end
        };
        Self { one: end(0, preshared_one), two: end(1, preshared_two), clock: clock.clone(), handshakes: 0 }
    }

    fn connected() -> Self {
        let mut pair = Self::new([7; 32], [7; 32]);
        pair.handshake();
        pair
    }

    fn initiate(&mut self) -> Vec<u8> {
        self.one.execute(Command::Initiate { link: LINK }).swap_remove(0)
    }

    fn handshake(&mut self) {
        let initiation = self.initiate();
        let mut done = false;
        for response in self.two.all_answers(&initiation) {
            if let Ok(keepalive) = self.one.take_handshake(&response) {
                done |= self.two.open(&keepalive).is_ok();
            }
        }
        assert!(done);
    }

    fn pass(&mut self, duration: Duration) {
        self.clock.set(self.clock.now() + duration);
    }

    /// Both send every quarter of a second, and their timers run.
    fn exchange_for(&mut self, duration: Duration) {
        for _ in 0..duration.as_millis() / 250 {
            self.pass(Duration::from_millis(250));
            let (message, answer) = (self.one.seal(&packet(40)), self.two.seal(&packet(40)));
            self.two.open(&message).unwrap();
            self.one.open(&answer).unwrap();
            for initiation in self.one.tick().into_iter().filter(|message| message.len() == 148) {
                self.handshakes += 1;
                for response in self.two.all_answers(&initiation) {
                    let keepalive = self.one.take_handshake(&response).unwrap();
                    self.two.open(&keepalive).unwrap();
                }
            }
            self.two.tick();
        }
    }
}

/// An IPv6 packet of this size.
fn packet(size: usize) -> Vec<u8> {
    let mut packet = vec![0; size];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&((size - 40) as u16).to_be_bytes());
    packet
}
