//! What a holder of a relay secret could do, and what it comes to.

use crate::world::*;
use campfire_protocol::credential;
use campfire_protocol::key::{RoomId, Tag};
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, TransactionId};
use campfire_protocol::wire::{CampSuccess, MemberToken};
use campfire_turn::Config;

/// docs/protocol.md: "an answer to a first Camp is no larger than the request".
#[test]
fn red_19_a_first_camp_that_leaves_is_answered_with_no_more_than_it_brought() {
    let id = "x".repeat(128);
    let mut world = World::new(Config { server_id: Some(id), ..Config::default() });
    let keys = psk(1);
    let name = format!("{}:{}", START / 1_000 + 3_600, keys.fingerprint);
    let key = credential::campfire_key(&keys.relay, &name);
    let request = Builder::new(Class::Request, Method::CAMP, TransactionId([7; 12]))
        .attribute(Attribute::USERNAME, name.as_bytes())
        .attribute(Attribute::CAMP_ROOM, &keys.room.0)
        .attribute(Attribute::CAMP_TOKEN, &[1; 16])
        .u32(Attribute::LIFETIME, 0)
        .attribute(Attribute::CAMP_TIME, &START.to_be_bytes())
        .attribute(Attribute::CAMP_CURSOR, &[0; 16])
        .finish_sha256(key.as_ref());
    let mut answered = 0;
    let mut bytes = 0;
    for _ in 0..10_000 {
        if let Some(answer) = world.ask(udp("203.0.113.66:6666"), &request) {
            answered += 1;
            bytes = bytes.max(answer.len());
            assert!(CampSuccess::decode(&Message::parse(&answer).unwrap()).is_err());
        }
    }
    println!(
        "{} bytes in, {bytes} bytes out, {answered} of 10000 answered at one instant (limit of unproven sources: 4000)",
        request.len()
    );
    assert!(bytes <= request.len() && answered <= 4_000);
}

/// A holder of the relay secret opens all rooms of the campfire, from one address or from one for each room, and again and again.
#[test]
fn red_12_made_up_rooms_lock_nobody_out() {
    for addresses in [1, 16] {
        let mut world = World::new(Config::default());
        let attack = |world: &mut World, round: usize| {
            for n in 0..16_usize {
                let mut attacker = Member::new(1, 1_000 + n % addresses + 50 * round);
                attacker.via = udp(&format!("203.0.113.{}:{}", 1 + n % addresses, 5_000 + n));
                attacker.room = RoomId([n as u8; 32]);
                let _ = attacker.camp(world);
            }
        };
        attack(&mut world, 0);
        // The server has just been started: the members come one by one, the attacker goes on between them.
        let mut members: Vec<_> = (1..4).map(|n| Member::new(1, n)).collect();
        for (round, member) in members.iter_mut().enumerate() {
            member.camp(&mut world).unwrap();
            world.pass(seconds(1));
            if round > 0 {
                attack(&mut world, round);
            }
        }
        for member in &mut members {
            world.pass(seconds(1));
            assert!(member.camp(&mut world).unwrap().members >= 2, "{addresses}");
        }
    }
}

/// Large rooms: a member is found by its tag. Whoever else registers that tag hides it.
#[test]
fn red_13_a_few_hundred_seats_under_a_victims_tag_do_not_hide_it() {
    let mut world = World::new(Config::default());
    let tag = Tag([0x55; 8]);
    let mut victim = Member::new(1, 1);
    victim.tags = vec![tag];
    victim.camp(&mut world).unwrap();
    // One host, many ports: 8 seats at each.
    for n in 0..400_usize {
        let mut attacker = Member::new(1, 10_000 + n);
        attacker.via = udp(&format!("203.0.113.66:{}", 10_000 + n / 8));
        attacker.token = MemberToken([(n >> 8) as u8, n as u8, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        attacker.tags = vec![tag];
        attacker.camp(&mut world).unwrap();
    }
    let mut seeker = Member::new(1, 2);
    seeker.camp(&mut world).unwrap();
    seeker.camp(&mut world).unwrap();
    let mut found = 0;
    for _ in 0..100 {
        let entries = seeker.find(&mut world, &[tag]).unwrap();
        // What does not fit into the answer follows it.
        let followed = seeker.embers(&mut world).into_iter().flat_map(|ember| ember.entries);
        found += usize::from(entries.into_iter().chain(followed).any(|entry| entry.member == victim.id()));
        world.pass(seconds(1));
        seeker.camp(&mut world).unwrap();
        victim.camp(&mut world).unwrap();
    }
    println!("found in {found} of 100 tries");
    assert_eq!(found, 100);
}
