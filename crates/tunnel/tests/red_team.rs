//! Handshake messages by whoever knows a public key, which is no secret (`kubectl get meshpeers -o wide` shows it).
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use campfire_tunnel::noise::NoiseTunnels;
use campfire_tunnel::{Command, Event, LinkId, Source, TunnelError, Tunnels, Unidentified};
use zeroize::Zeroizing;

const FRIEND: [u8; 32] = [9; 32];
const FRIENDS_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
const PRESHARED: [u8; 32] = [0; 32];

/// A peer with a link to the friend, its public key, and the friend's.
fn victim() -> (NoiseTunnels, PublicKey, [u8; 32]) {
    let secret = Zeroizing::new([7; 32]);
    let public = PublicKey::from(&StaticSecret::from(*secret));
    let friend = *PublicKey::from(&StaticSecret::from(FRIEND)).as_bytes();
    let mut victim = NoiseTunnels::new(&secret);
    victim.execute(Command::Add { link: LinkId(0), public_key: friend, preshared: Zeroizing::new(PRESHARED) }, &mut Vec::new());
    (victim, public, friend)
}

fn tunn(from: [u8; 32], to: &PublicKey, index: u32) -> Tunn {
    Tunn::new(StaticSecret::from(from), *to, Some(PRESHARED), None, index, None)
}

fn initiate(tunn: &mut Tunn) -> Vec<u8> {
    let mut out = [0; 256];
    match tunn.format_handshake_initiation(&mut out, true) {
        TunnResult::WriteToNetwork(message) => message.to_vec(),
        _ => panic!(),
    }
}

/// Initiations of strangers, made beforehand, each with a source of its own.
fn flood(public: &PublicKey) -> Vec<(Vec<u8>, Source)> {
    let one = |n: u32| {
        let mut key = [3; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        (initiate(&mut tunn(key, public, n)), Source::Direct(Ipv4Addr::from(0x0a00_0000 + n).into()))
    };
    (0..2_000).map(one).collect()
}

#[test]
fn red_17_a_flood_of_initiations_stops_none_that_comes_through_a_server() {
    let (mut victim, public, friend) = victim();
    let flood = flood(&public);
    let friends: Vec<Vec<u8>> = (0..100).map(|n| initiate(&mut tunn(FRIEND, &public, 10 + n))).collect();
    let mut looked_at = 0;
    // As fast as it goes, the friend's one in a hundred.
    for (n, initiation) in friends.iter().enumerate() {
        for (message, from) in flood.iter().skip(n * 19).take(100) {
            looked_at += usize::from(victim.initiator(message, *from).is_ok());
        }
        assert_eq!(victim.initiator(initiation, Source::Relayed), Ok(friend), "{n}");
    }
    assert!(looked_at <= 1_000, "{looked_at} of 10,000 that nothing proves cost a Diffie-Hellman");
}

#[test]
fn red_17_under_a_flood_whoever_brings_the_cookie_is_looked_at() {
    let (mut victim, public, friend) = victim();
    let flood = flood(&public);
    let (mut tunn, from) = (tunn(FRIEND, &public, 77), Source::Direct(FRIENDS_ADDRESS));
    let storm = |victim: &mut NoiseTunnels| flood.iter().take(2_000).for_each(|(message, from)| drop(victim.initiator(message, *from)));
    storm(&mut victim);
    let Err(Unidentified::Cookie(cookie)) = victim.initiator(&initiate(&mut tunn), from) else { panic!("no cookie") };
    assert_eq!(cookie.len(), 64, "less than half of what it answers");
    // It can be opened by who asked alone, and is good for its address alone.
    assert!(matches!(tunn.decapsulate(None, &cookie, &mut [0; 256]), TunnResult::Done));
    storm(&mut victim);
    let second = initiate(&mut tunn);
    let elsewhere = Source::Direct(Ipv4Addr::new(192, 0, 2, 10).into());
    assert!(matches!(victim.initiator(&second, elsewhere), Err(Unidentified::Cookie(_))));
    assert_eq!(victim.initiator(&second, from), Ok(friend));
    // It is answered, too, though the mesh gives it back a moment later.
    storm(&mut victim);
    let mut events = Vec::new();
    assert_eq!(victim.handshake(&second, from, &mut events), Ok(LinkId(0)));
    let response = events.iter().find_map(|event| match event {
        Event::Send { message, .. } => Some(message.clone()),
        Event::Established { .. } | Event::Expired { .. } => None,
    });
    assert!(matches!(tunn.decapsulate(None, &response.unwrap(), &mut [0; 256]), TunnResult::WriteToNetwork(_)));
}

#[test]
fn red_17_a_source_that_is_real_takes_no_more_than_its_share() {
    let (mut victim, public, friend) = victim();
    let flood = flood(&public);
    let storm = |victim: &mut NoiseTunnels| flood.iter().take(1_000).for_each(|(message, from)| drop(victim.initiator(message, *from)));
    let cookie_of = |victim: &mut NoiseTunnels, tunn: &mut Tunn, from: Source| {
        let Err(Unidentified::Cookie(cookie)) = victim.initiator(&initiate(tunn), from) else { panic!("no cookie") };
        assert!(matches!(tunn.decapsulate(None, &cookie, &mut [0; 256]), TunnResult::Done));
    };
    storm(&mut victim);
    let greedy = Source::Direct(Ipv4Addr::new(198, 51, 100, 1).into());
    let mut stranger = tunn([4; 32], &public, 5);
    cookie_of(&mut victim, &mut stranger, greedy);
    let start = Instant::now();
    let mut limited = 0;
    for _ in 0..300 {
        limited += usize::from(victim.initiator(&initiate(&mut stranger), greedy) == Err(Unidentified::Refused(TunnelError::Limited)));
    }
    let share = 50 + usize::try_from(start.elapsed().as_secs()).unwrap() * 10 + 10;
    assert!(limited >= 300 - share, "{limited} of 300 refused");
    let mut tunn = tunn(FRIEND, &public, 77);
    storm(&mut victim);
    cookie_of(&mut victim, &mut tunn, Source::Direct(FRIENDS_ADDRESS));
    assert_eq!(victim.initiator(&initiate(&mut tunn), Source::Direct(FRIENDS_ADDRESS)), Ok(friend));
}

#[test]
fn made_up_responses_do_not_keep_the_real_one_out() {
    let (mut victim, public, _) = victim();
    let mut events = Vec::new();
    victim.execute(Command::Initiate { link: LinkId(0) }, &mut events);
    let Some(Event::Send { message: initiation, .. }) = events.pop() else { panic!() };
    let mut tunn = Tunn::new(StaticSecret::from(FRIEND), public, Some(PRESHARED), None, 1, None);
    let mut out = [0; 256];
    let TunnResult::WriteToNetwork(response) = tunn.decapsulate(None, &initiation, &mut out) else { panic!() };
    let response = response.to_vec();
    // Right but for what only the two can know: who knows the public key makes the first MAC, too, and session indices are guessed.
    let mut forged = response.clone();
    forged[20] ^= 1;
    let mac1_key = [b"mac1----".as_slice(), public.as_bytes()].concat();
    let digest = <blake2::Blake2s256 as blake2::Digest>::digest(&mac1_key);
    let mut mac = <blake2::Blake2sMac<blake2::digest::consts::U16> as blake2::digest::KeyInit>::new_from_slice(&digest).unwrap();
    blake2::digest::Update::update(&mut mac, &forged[..60]);
    forged[60..76].copy_from_slice(&blake2::digest::FixedOutput::finalize_fixed(mac));
    for n in 0..500_u32 {
        let from = Source::Direct(Ipv4Addr::from(0x0a00_0000 + n).into());
        assert_eq!(victim.handshake(&forged, from, &mut events), Err(TunnelError::Forged));
    }
    assert_eq!(victim.handshake(&response, Source::Relayed, &mut events), Ok(LinkId(0)));
    assert!(events.iter().any(|event| matches!(event, Event::Established { .. })));
}
