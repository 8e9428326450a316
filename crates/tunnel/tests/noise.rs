//! Two real sets of tunnels against each other.

use campfire_tunnel::noise::{MAX_LINKS, NoiseTunnels};
use campfire_tunnel::{Command, Event, LinkId, OVERHEAD, Source, TunnelError, Tunnels, Unidentified, control};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

const LINK: LinkId = LinkId(7);
const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

#[test]
fn a_handshake_gives_both_sides_a_session() {
    let (mut a, mut b) = pair();
    let initiation = a.initiate();
    let response = b.take(&initiation);
    assert_eq!(response.len(), 1, "one response");
    assert_eq!(b.established, 0, "the responder waits for the first packet");
    assert_eq!(b.tunnels.seal(LINK, &packet(40), &mut [0; 200]), Err(TunnelError::NoSession));
    let keepalive = a.take(&response[0]);
    assert_eq!((a.established, a.as_initiator), (1, 1));
    assert_eq!(keepalive.len(), 1);
    b.take(&keepalive[0]);
    assert_eq!((b.established, b.as_initiator), (1, 0));
    assert!(a.tunnels.last_handshake_ms(LINK).is_some() && b.tunnels.last_handshake_ms(LINK).is_some());
}

#[test]
fn data_flows_both_ways_at_every_size() {
    let (mut a, mut b) = connected();
    for size in [20, 21, 40, 64, 576, 1279, 1280, 1420, 9000, 60000] {
        let message = a.seal(size);
        assert_eq!(message.len(), size + OVERHEAD);
        assert_eq!(b.open(&message), Ok(packet(size)));
        let message = b.seal(size);
        assert_eq!(a.open(&message), Ok(packet(size)));
    }
}

#[test]
fn a_replayed_message_is_refused() {
    let (mut a, mut b) = connected();
    let message = a.seal(100);
    assert!(b.open(&message).is_ok());
    assert_eq!(b.open(&message), Err(TunnelError::Replayed));
}

#[test]
fn messages_may_overtake_each_other_within_the_window() {
    let (mut a, mut b) = connected();
    let messages: Vec<_> = (0..500).map(|_| a.seal(100)).collect();
    for message in messages.iter().rev() {
        assert!(b.open(message).is_ok());
    }
}

#[test]
fn a_forged_message_is_refused() {
    let (mut a, mut b) = connected();
    let mut message = a.seal(100);
    message[60] ^= 1;
    assert_eq!(b.open(&message), Err(TunnelError::Forged));
    message[60] ^= 1;
    message[6] ^= 1;
    assert_eq!(b.open(&message), Err(TunnelError::UnknownIndex));
    message[6] ^= 1;
    assert!(b.open(&message).is_ok(), "the original still opens");
}

#[test]
fn what_is_no_ip_packet_is_malformed() {
    let (mut a, mut b) = connected();
    let mut out = [0; 200];
    let length = a.tunnels.seal(LINK, &[0x12; 50], &mut out).unwrap();
    assert_eq!(b.open(&out[..length]), Err(TunnelError::Malformed));
}

#[test]
fn a_control_packet_passes_whole() {
    let (mut a, mut b) = connected();
    let mut out = [0; 300];
    let length = a.tunnels.seal(LINK, &control::wrap(b"hello"), &mut out).unwrap();
    assert_eq!(control::unwrap(&b.open(&out[..length]).unwrap()), Some(&b"hello"[..]));
}

#[test]
fn buffers_that_are_too_small_are_an_error() {
    let (mut a, mut b) = connected();
    assert_eq!(a.tunnels.seal(LINK, &packet(100), &mut [0; 131]), Err(TunnelError::BufferTooSmall));
    let message = a.seal(100);
    assert_eq!(b.tunnels.open(&message, &mut [0; 115], &mut Vec::new()), Err(TunnelError::BufferTooSmall));
    assert!(b.tunnels.open(&message, &mut [0; 116], &mut Vec::new()).is_ok());
}

#[test]
fn the_initiator_of_an_initiation_is_known_before_there_is_a_link() {
    let (mut a, b) = pair();
    let initiation = a.initiate();
    let mut stranger = NoiseTunnels::new(&b.secret);
    assert_eq!(stranger.initiator(&initiation, Source::Relayed), Ok(a.public));
    assert_eq!(stranger.handshake(&initiation, Source::Relayed, &mut Vec::new()), Err(TunnelError::UnknownLink));
    let mut forged = initiation.clone();
    forged[50] ^= 1;
    assert_eq!(stranger.initiator(&forged, Source::Relayed), Err(Unidentified::Refused(TunnelError::Forged)));
    assert_eq!(
        NoiseTunnels::new(&Zeroizing::new([9; 32])).initiator(&initiation, Source::Relayed),
        Err(Unidentified::Refused(TunnelError::Forged)),
        "not meant for us"
    );
}

#[test]
fn simultaneous_initiations_end_in_working_sessions() {
    let (mut a, mut b) = pair();
    let (from_a, from_b) = (a.initiate(), b.initiate());
    let (to_a, to_b) = (b.take(&from_a), a.take(&from_b));
    settle(&mut a, &mut b, to_a, to_b);
    assert!(a.established >= 1 && b.established >= 1);
    works(&mut a, &mut b);
}

#[test]
fn one_side_may_restart() {
    let (mut a, b) = connected();
    let mut b = Side::new(&b.secret, a.public, OLD);
    let message = a.seal(100);
    assert!(b.open(&message).is_err(), "the old session is gone");
    let initiation = b.initiate();
    let to_b = a.take(&initiation);
    settle(&mut a, &mut b, Vec::new(), to_b);
    works(&mut a, &mut b);
}

#[test]
fn a_new_key_takes_over_without_a_lost_packet() {
    let (mut a, mut b) = connected();
    a.rekey(NEW);
    b.rekey(NEW);
    works(&mut a, &mut b);
    let initiation = a.initiate();
    let in_flight = b.seal(200);
    let mut responses = b.take(&initiation);
    assert_eq!(responses.len(), 2, "one under each key");
    works(&mut a, &mut b);
    let old = responses.pop().unwrap();
    let keepalive = a.take(&responses[0]);
    assert_eq!(a.take(&old), Vec::<Vec<u8>>::new(), "the other key's answer is dropped");
    let from_new = a.seal(100);
    assert_eq!(a.open(&in_flight), Ok(packet(200)), "the old session still opens what is under way");
    let established = b.established;
    b.take(&keepalive[0]);
    assert_eq!(b.established, established + 1);
    assert_eq!(b.open(&from_new), Ok(packet(100)));
    works(&mut a, &mut b);
}

#[test]
fn a_new_key_on_one_side_only_leaves_the_old_session_alone() {
    let (mut a, mut b) = connected();
    a.rekey(NEW);
    let initiation = a.initiate();
    for response in b.take(&initiation) {
        assert!(a.take(&response).is_empty(), "an answer under the old key does not do");
    }
    works(&mut a, &mut b);
    // The other side, under the old key alone, can renew the session with us.
    let initiation = b.initiate();
    let to_b = a.take(&initiation);
    settle(&mut a, &mut b, Vec::new(), to_b);
    works(&mut a, &mut b);
    b.rekey(NEW);
    let initiation = b.initiate();
    let to_b = a.take(&initiation);
    let established = (a.established, b.established);
    settle(&mut a, &mut b, Vec::new(), to_b);
    assert_eq!((a.established, b.established), (established.0 + 1, established.1 + 1));
    works(&mut a, &mut b);
}

#[test]
fn a_wrong_key_gives_no_session() {
    let (mut a, mut b) = pair();
    b = Side::new(&b.secret, a.public, NEW);
    let initiation = a.initiate();
    for response in b.take(&initiation) {
        assert!(a.take(&response).is_empty());
    }
    assert_eq!((a.established, b.established), (0, 0));
    assert_eq!(a.tunnels.seal(LINK, &packet(100), &mut [0; 200]), Err(TunnelError::NoSession));
}

#[test]
fn a_member_that_floods_with_handshakes_is_limited_and_others_are_not() {
    let (mut a, mut b) = pair();
    let (third, secret) = (LinkId(9), Zeroizing::new([77; 32]));
    let mut c = Side::new(&secret, b.public, OLD);
    b.add(third, c.public, OLD);
    let mut limited = 0;
    for _ in 0..100 {
        let initiation = a.initiate();
        limited += usize::from(b.tunnels.handshake(&initiation, Source::Relayed, &mut Vec::new()) == Err(TunnelError::Limited));
    }
    assert!(limited > 50, "limited {limited} of 100");
    let initiation = c.initiate();
    assert_eq!(b.tunnels.handshake(&initiation, Source::Relayed, &mut Vec::new()), Ok(third));
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let (mut a, _) = connected();
    for length in 0..300 {
        for kind in 0..6 {
            let mut message = vec![0xa5; length];
            for (byte, value) in message.iter_mut().zip([kind, 0, 0, 0, 1, 14, 0, 0]) {
                *byte = value;
            }
            assert!(a.tunnels.handshake(&message, Source::Relayed, &mut Vec::new()).is_err());
            assert!(a.tunnels.open(&message, &mut [0; 400], &mut Vec::new()).is_err());
            assert!(a.tunnels.initiator(&message, Source::Relayed).is_err());
        }
    }
}

#[test]
fn a_removed_link_is_gone() {
    let (mut a, mut b) = connected();
    let message = a.seal(100);
    b.tunnels.execute(Command::Remove { link: LINK }, &mut Vec::new());
    assert_eq!(b.open(&message), Err(TunnelError::UnknownIndex));
    assert_eq!(b.tunnels.seal(LINK, &packet(100), &mut [0; 200]), Err(TunnelError::UnknownLink));
}

#[test]
fn session_indices_lead_to_their_link_and_never_look_like_stun() {
    let (mut a, mut b) = connected();
    let mut message = a.seal(100);
    let index = u32::from_le_bytes(message[4..8].try_into().unwrap());
    assert_eq!(index >> 9, LINK.0, "the upper bits are the link's number");
    message[4..8].copy_from_slice(&0x42A4_1221_u32.to_le_bytes());
    assert_eq!(b.open(&message), Err(TunnelError::UnknownIndex));
    a.add(LinkId(MAX_LINKS), b.public, OLD);
    let mut events = Vec::new();
    a.tunnels.execute(Command::Initiate { link: LinkId(MAX_LINKS) }, &mut events);
    assert!(events.is_empty(), "no link beyond the bound");
}

#[test]
fn a_key_belongs_to_the_link_that_it_was_given_last() {
    let (mut a, mut b) = pair();
    let (other, key) = (LinkId(3), a.public);
    b.add(other, key, OLD);
    b.tunnels.execute(Command::Remove { link: LINK }, &mut Vec::new());
    let initiation = a.initiate();
    assert_eq!(
        b.tunnels.handshake(&initiation, Source::Relayed, &mut Vec::new()),
        Ok(other),
        "though the link before it was removed later"
    );
    b.add(other, [5; 32], OLD);
    let initiation = a.initiate();
    assert_eq!(
        b.tunnels.handshake(&initiation, Source::Relayed, &mut Vec::new()),
        Err(TunnelError::UnknownLink),
        "the link is somebody else's now"
    );
}

#[test]
fn keys_are_not_shown() {
    let command = Command::Add { link: LINK, public_key: [0xab; 32], preshared: Zeroizing::new([0xcd; 32]) };
    let shown = format!("{command:?} {:?}", NoiseTunnels::new(&Zeroizing::new([0xef; 32])));
    for byte in ["ab", "cd", "ef", "171", "205", "239"] {
        assert!(!shown.contains(byte), "{shown}");
    }
}

struct Side {
    tunnels: NoiseTunnels,
    secret: Zeroizing<[u8; 32]>,
    public: [u8; 32],
    established: usize,
    as_initiator: usize,
    events: Vec<Event>,
}

impl Side {
    fn new(secret: &Zeroizing<[u8; 32]>, peer: [u8; 32], preshared: [u8; 32]) -> Self {
        let mut side = Self {
            tunnels: NoiseTunnels::new(secret),
            secret: secret.clone(),
            public: public(secret),
            established: 0,
            as_initiator: 0,
            events: Vec::new(),
        };
        side.add(LINK, peer, preshared);
        side
    }

    fn add(&mut self, link: LinkId, public_key: [u8; 32], preshared: [u8; 32]) {
        self.tunnels.execute(Command::Add { link, public_key, preshared: Zeroizing::new(preshared) }, &mut self.events);
    }

    fn rekey(&mut self, preshared: [u8; 32]) {
        self.tunnels.execute(Command::Rekey { link: LINK, preshared: Zeroizing::new(preshared) }, &mut self.events);
    }

    fn initiate(&mut self) -> Vec<u8> {
        self.tunnels.execute(Command::Initiate { link: LINK }, &mut self.events);
        self.drain().pop().expect("an initiation")
    }

    /// Takes a handshake message or data; gives what is to be sent.
    fn take(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        if message[0] == 4 {
            let _ = self.tunnels.open(message, &mut vec![0; message.len()], &mut events);
        } else {
            let _ = self.tunnels.handshake(message, Source::Relayed, &mut events);
        }
        self.events.append(&mut events);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        for event in self.events.drain(..) {
            match event {
                Event::Send { message, .. } => messages.push(message),
                Event::Established { initiator, .. } => {
                    self.established += 1;
                    self.as_initiator += usize::from(initiator);
                }
                Event::Expired { .. } => {}
            }
        }
        messages
    }

    fn seal(&mut self, size: usize) -> Vec<u8> {
        let mut out = vec![0; size + OVERHEAD];
        let length = self.tunnels.seal(LINK, &packet(size), &mut out).expect("a session");
        out.truncate(length);
        out
    }

    fn open(&mut self, message: &[u8]) -> Result<Vec<u8>, TunnelError> {
        let mut out = vec![0; message.len()];
        let opened = self.tunnels.open(message, &mut out, &mut self.events)?;
        self.drain();
        Ok(out[opened.packet].to_vec())
    }
}

fn public(secret: &Zeroizing<[u8; 32]>) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(**secret)).to_bytes()
}

/// Two sides that know each other and have not spoken.
fn pair() -> (Side, Side) {
    let (a, b) = (Zeroizing::new([11; 32]), Zeroizing::new([22; 32]));
    (Side::new(&a, public(&b), OLD), Side::new(&b, public(&a), OLD))
}

fn connected() -> (Side, Side) {
    let (mut a, mut b) = pair();
    let initiation = a.initiate();
    let to_a = b.take(&initiation);
    settle(&mut a, &mut b, to_a, Vec::new());
    (a, b)
}

/// Delivers everything until nobody has anything to say.
fn settle(a: &mut Side, b: &mut Side, mut to_a: Vec<Vec<u8>>, mut to_b: Vec<Vec<u8>>) {
    for _ in 0..10 {
        let from_a: Vec<_> = to_a.drain(..).flat_map(|message| a.take(&message)).collect();
        let from_b: Vec<_> = to_b.drain(..).flat_map(|message| b.take(&message)).collect();
        (to_a, to_b) = (from_b, from_a);
    }
}

fn works(a: &mut Side, b: &mut Side) {
    let message = a.seal(300);
    assert_eq!(b.open(&message), Ok(packet(300)));
    let message = b.seal(400);
    assert_eq!(a.open(&message), Ok(packet(400)));
}

/// An IPv4 packet of `size` bytes.
fn packet(size: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; size];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(size as u16).to_be_bytes());
    packet
}
