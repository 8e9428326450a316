//! What changes at the fire: servers that die, start anew, leave or are full of others; lists, keys and addresses that change.
#![allow(clippy::unwrap_used)]

mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use campfire_fire::config::{KeyEntry, KeyMode, Reconfigure};
use campfire_fire::io::Notice;
use campfire_fire::{Fire, FireEvent, Learned};
use campfire_protocol::announce::ServerRecord;
use campfire_protocol::carrier::Path;
use campfire_protocol::server::score;
use campfire_turn::Config as ServerConfig;

use world::{World, entry, entry_as, ms, psk, secs};

#[test]
fn signals_and_channels_reach_members_and_not_those_who_left() {
    let mut world = World::new(1);
    let (a, b) = (world.join(&[0]), world.join(&[0]));
    world.run(secs(1));
    let (to_b, to_a) = (world.seat(a, b), world.seat(b, a));
    world.fire(a, |fire, now| fire.signal(now, &to_b, vec![1; 148]));
    world.run(ms(30));
    assert!(world.count(b, |event| matches!(event, FireEvent::Signal { from, data } if *from == to_a && data.len() == 148)) == 1);
    world.fire(a, |fire, now| fire.bind(now, &to_b));
    world.fire(a, |fire, now| fire.bind(now, &to_b));
    world.run(ms(30));
    assert_eq!(world.count(a, |event| matches!(event, FireEvent::Bound { seat, .. } if *seat == to_b)), 1);
    let Some(Path::Relay { channel, .. }) = world.look(a).relay_path(&to_b) else { panic!("not bound") };
    assert_eq!(world.look(a).seat_of_channel(to_b.server, channel), Some(to_b));
    world.fire(b, campfire_fire::Fire::shutdown);
    world.run(ms(200));
    assert_eq!(world.count(a, |event| matches!(event, FireEvent::Departed { seat, .. } if *seat == to_b)), 1, "within a second");
    world.fire(a, |fire, now| fire.signal(now, &to_b, vec![1; 148]));
    world.run(ms(100));
    assert_eq!(world.count(a, |event| matches!(event, FireEvent::Unreachable { seat, code: 404 } if *seat == to_b)), 1);
    world.fire(a, |fire, now| fire.release(now, &to_b));
    assert!(world.look(a).relay_path(&to_b).is_none());
}

#[test]
fn a_released_channel_number_is_not_given_to_another_member() {
    let mut world = World::new(1);
    let (a, b, c) = (world.join(&[0]), world.join(&[0]), world.join(&[0]));
    world.run(secs(1));
    let (to_b, to_c) = (world.seat(a, b), world.seat(a, c));
    world.fire(a, |fire, now| fire.bind(now, &to_b));
    world.run(ms(50));
    let first = channel(&world, a, to_b);
    world.fire(a, |fire, now| fire.release(now, &to_b));
    world.fire(a, |fire, now| fire.bind(now, &to_c));
    world.run(ms(50));
    assert_ne!(channel(&world, a, to_c), first);
}

#[test]
fn a_server_that_starts_anew_and_empty_is_filled_again_and_channels_are_bound_again() {
    let mut world = World::new(1);
    let (a, b) = (world.join(&[0]), world.join(&[0]));
    world.run(secs(1));
    let seat = world.seat(a, b);
    world.fire(a, |fire, now| fire.bind(now, &seat));
    world.run(secs(9));
    world.forget_events();
    world.start(0);
    world.run(secs(60));
    assert!(world.all_know_all());
    assert_eq!(world.seat(a, b), seat, "tokens, and so seats, are the same as before");
    assert!(world.count(a, |event| matches!(event, FireEvent::Camped { kept: false, .. })) >= 1);
    if world.look(a).relay_path(&seat).is_none() {
        // Bound again before the other was there again: the links bind when they hear of it.
        assert!(world.count(a, |event| matches!(event, FireEvent::Unreachable { .. })) >= 1);
        world.fire(a, |fire, now| fire.bind(now, &seat));
        world.run(ms(100));
    }
    assert!(world.look(a).relay_path(&seat).is_some());
    assert_eq!(world.count(a, |event| matches!(event, FireEvent::Lost { .. })), 0, "nobody noticed an outage");
}

#[test]
fn who_left_during_an_outage_is_gone_after_the_reset() {
    let mut world = World::new(1);
    let (a, b, c) = (world.join(&[0]), world.join(&[0]), world.join(&[0]));
    world.run(secs(1));
    world.stop(0);
    world.kill(c);
    world.run(secs(30));
    world.start(0);
    world.run(secs(40));
    assert!(world.knows(a, b) && world.knows(b, a));
    assert!(!world.knows(a, c) && !world.knows(b, c));
    assert!(world.count(a, |event| matches!(event, FireEvent::Departed { .. })) >= 1);
}

#[test]
fn a_nonce_that_grew_stale_costs_a_round_trip_and_no_signal() {
    let mut world = World::new(0);
    world.add_server(ServerConfig { nonce_lifetime: secs(2), ..ServerConfig::default() });
    let (a, b) = (world.join(&[0]), world.join(&[0]));
    world.run(secs(10));
    let seat = world.seat(a, b);
    for _ in 0..5 {
        world.fire(a, |fire, now| fire.signal(now, &seat, vec![1; 100]));
        world.fire(a, |fire, now| fire.bind(now, &seat));
        world.run(secs(7));
    }
    assert_eq!(world.count(b, |event| matches!(event, FireEvent::Signal { .. })), 5);
    assert_eq!(world.count(a, |event| matches!(event, FireEvent::Unreachable { .. } | FireEvent::Lost { .. })), 0);
}

#[test]
fn a_server_silent_under_traffic_is_suspect_within_a_second_and_a_half_and_lost_soon_after() {
    let mut world = World::new(2);
    let (a, _) = (world.join(&[0, 1]), world.join(&[0, 1]));
    world.run(secs(5));
    world.forget_events();
    world.stop(0);
    let slot = world.slot_of(a, 0);
    let died = world.now;
    for _ in 0..60 {
        world.run(ms(50));
        let now = world.now;
        world.fire(a, |fire, _| fire.note_traffic(now, slot, Some(now), None));
    }
    let suspect = world.first(a, |event| matches!(event, FireEvent::Suspect { server } if *server == slot)).unwrap();
    assert!(suspect.since(died) <= ms(1_500), "{:?}", suspect.since(died));
    let lost = world.first(a, |event| matches!(event, FireEvent::Lost { server } if *server == slot)).unwrap();
    assert!(lost.since(died) <= ms(3_500), "{:?}", lost.since(died));
    assert_eq!(world.sits_at(a), [1].into());
    world.start(0);
    let back = world.run_until(secs(12), "it is camped on again", |world| world.sits_at(a).contains(&0));
    assert!(back < secs(6), "{back:?}");
}

#[test]
fn one_way_traffic_does_not_make_a_live_server_suspect() {
    let mut world = World::new(1);
    let (a, _) = (world.join(&[0]), world.join(&[0]));
    world.run(secs(5));
    let slot = world.slot_of(a, 0);
    for _ in 0..200 {
        world.run(ms(50));
        let now = world.now;
        world.fire(a, |fire, _| fire.note_traffic(now, slot, Some(now), None));
    }
    assert_eq!(world.count(a, |event| matches!(event, FireEvent::Suspect { .. } | FireEvent::Lost { .. })), 0);
}

#[test]
fn a_nat_that_rebinds_under_traffic_is_noticed_and_the_seat_moves() {
    let mut world = World::new(1);
    let (a, b) = (world.join(&[0]), world.join(&[0]));
    world.run(secs(5));
    let (to_b, to_a) = (world.seat(a, b), world.seat(b, a));
    world.fire(a, |fire, now| fire.bind(now, &to_b));
    world.run(secs(1));
    world.forget_events();
    world.peers[a].mapped.set_port(50_001);
    let changed = world.now;
    let slot = world.slot_of(a, 0);
    while world.count(a, |event| matches!(event, FireEvent::Mapped { .. })) == 0 {
        world.run(ms(50));
        let now = world.now;
        world.fire(a, |fire, _| fire.note_traffic(now, slot, Some(now), None));
        assert!(now.since(changed) < secs(2), "the new address is noticed");
    }
    world.run(ms(200));
    world.fire(b, |fire, now| fire.signal(now, &to_a, vec![1; 100]));
    world.run(ms(100));
    assert_eq!(world.count(a, |event| matches!(event, FireEvent::Signal { .. })), 1, "it is reached at its new address");
    assert_eq!(world.count(b, |event| matches!(event, FireEvent::Departed { .. })), 0);
    assert!(world.look(a).relay_path(&to_b).is_some());
}

#[test]
fn without_traffic_a_rebinding_is_healed_by_the_next_refresh() {
    let mut world = World::new(1);
    let (a, b) = (world.join(&[0]), world.join(&[0]));
    world.run(secs(5));
    world.peers[a].mapped.set_port(50_001);
    world.run(secs(25));
    let to_a = world.seat(b, a);
    world.fire(b, |fire, now| fire.signal(now, &to_a, vec![1; 100]));
    world.run(ms(100));
    assert_eq!(world.count(a, |event| matches!(event, FireEvent::Signal { .. })), 1);
    assert_eq!(world.count(b, |event| matches!(event, FireEvent::Departed { .. })), 0);
}

#[test]
fn of_six_servers_the_best_two_are_home_and_the_next_takes_over_while_one_is_down() {
    let mut world = World::new(6);
    let ranked = ranked(&[0, 1, 2, 3, 4, 5]);
    let (a, b) = (world.join(&[0, 1, 2, 3, 4, 5]), world.join(&[0, 1, 2, 3, 4, 5]));
    // The first visits are over.
    world.run(secs(230));
    assert_eq!(world.sits_at(a), ranked[..2].iter().copied().collect::<BTreeSet<_>>());
    assert_eq!(world.host_of(a, world.seat(a, b).server), ranked[0], "a pair uses the best");
    world.forget_events();
    world.stop(ranked[0]);
    let took = world.run_until(secs(60), "the third is camped on", |world| {
        [a, b].into_iter().all(|peer| world.sits_at(peer).is_superset(&[ranked[1], ranked[2]].into()))
    });
    assert!(took < secs(30), "{took:?}");
    assert_eq!(world.host_of(a, world.seat(a, b).server), ranked[1]);
    assert_eq!(world.count(a, |event| matches!(event, FireEvent::Lost { .. })), 1);
    assert!(world.peers[a].notices.iter().any(|notice| matches!(notice, Notice::ServerLost { .. })));
    world.start(ranked[0]);
    let back = world.run_until(secs(15), "the best is camped on again", |world| world.sits_at(a).contains(&ranked[0]));
    assert!(back < secs(13), "{back:?}");
    world.run(secs(300));
    assert!(world.all_know_all());
    assert_eq!(world.host_of(a, world.seat(a, b).server), ranked[0]);
}

#[test]
fn peers_that_share_only_one_of_six_servers_meet_there_and_stay() {
    let (mine, theirs) = ([0, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10]);
    let mut world = World::new(11);
    let a = world.join(&mine);
    world.run(secs(60));
    let b = world.join(&theirs);
    world.run_until(secs(360), "they meet", |world| world.knows(a, b) && world.knows(b, a));
    world.forget_events();
    for _ in 0..60 {
        world.run(secs(30));
        assert!(world.knows(a, b) && world.knows(b, a), "they stay in touch");
        assert!(world.sits_at(a).contains(&5) && world.sits_at(b).contains(&5));
    }
}

#[test]
fn a_server_that_leaves_is_left_for_the_next_one_before_it_goes() {
    let mut world = World::new(6);
    let all = [0, 1, 2, 3, 4, 5];
    let ranked = ranked(&all);
    let (a, b) = (world.join(&all), world.join(&all));
    world.run(secs(230));
    world.forget_events();
    world.drain(ranked[0]);
    world.run(secs(5));
    for peer in [a, b] {
        assert!(world.sits_at(peer).is_superset(&ranked[..3].iter().copied().collect()), "{:?}", world.sits_at(peer));
        assert_eq!(world.count(peer, |event| matches!(event, FireEvent::Suspect { .. })), 1);
        assert_eq!(world.count(peer, |event| matches!(event, FireEvent::Lost { .. })), 0);
    }
    assert_ne!(world.host_of(a, world.seat(a, b).server), ranked[0]);
    world.stop(ranked[0]);
    world.run(secs(60));
    assert!(world.all_know_all());
}

#[test]
fn after_a_changed_list_an_old_server_is_kept_while_somebody_is_met_there_alone() {
    let mut world = World::new(4);
    let (a, b) = (world.join(&[0, 1]), world.join(&[0, 1]));
    world.run(secs(5));
    let change = Reconfigure { servers: Some(vec![entry(2), entry(3)]), ..Reconfigure::default() };
    world.fire(a, |fire, now| fire.reconfigure(now, &change));
    for _ in 0..50 {
        world.run(secs(60));
        assert!(world.knows(a, b) && world.knows(b, a));
    }
    assert!(world.sits_at(a).is_superset(&[2, 3].into()) && world.sits_at(a).len() > 2, "{:?}", world.sits_at(a));
    world.fire(b, |fire, now| fire.reconfigure(now, &change));
    world.run(secs(60));
    assert_eq!(world.sits_at(a), [2, 3].into(), "all have the new list");
    assert!(world.knows(a, b) && world.knows(b, a));
    assert_eq!(world.sits_at(b), [2, 3].into());
    let known: Vec<String> = world.look(a).servers(world.now).into_iter().map(|server| server.id).collect();
    assert_eq!(known, ["s2", "s3"], "the others are forgotten");
    assert!(world.all_know_all());
}

#[test]
fn a_record_of_an_origin_adds_servers_and_addresses() {
    let mut world = World::new(3);
    let origin = world.peer();
    let mut config = world::config(origin, &[0]);
    let mut second_way = entry(1);
    second_way.id = entry(0).id;
    config.record = Some(ServerRecord { version: 1, servers: vec![entry(2), second_way.clone()] });
    world.begin(origin, &config);
    let a = world.join(&[0]);
    world.run(secs(5));
    assert_eq!(world.sits_at(a), [0, 2].into());
    // A lower version says nothing any more, a higher one replaces it.
    let change = Reconfigure { record: Some(ServerRecord { version: 2, servers: vec![second_way] }), ..Reconfigure::default() };
    world.fire(origin, |fire, now| fire.reconfigure(now, &change));
    world.run(secs(2 * 3_600));
    assert_eq!(world.sits_at(a), [0].into());
    assert!(world.all_know_all());
}

#[test]
fn a_server_known_by_two_ids_is_camped_on_once() {
    let mut world = World::new(1);
    let a = world.peer();
    let mut config = world::config(a, &[0]);
    config.servers.push(entry_as(0, "the-same"));
    world.begin(a, &config);
    let b = world.join(&[0]);
    world.run(secs(90));
    let camped = world.look(a).servers(world.now).iter().filter(|s| s.state == campfire_fire::status::ServerState::Camped).count();
    assert_eq!(camped, 1);
    assert!(world.knows(a, b) && world.knows(b, a));
    assert_eq!(world.look(b).seats(&world.peers[a].key).len(), 1);
    assert_eq!(world.look(b).members(), 2);
}

#[test]
fn a_key_is_rotated_in_three_observed_steps_and_nobody_is_out_of_touch() {
    let accept = vec![key(2, KeyMode::Accept), key(1, KeyMode::Announce)];
    let both = vec![key(2, KeyMode::Announce), key(1, KeyMode::Announce)];
    let new = vec![key(2, KeyMode::Announce)];
    let mut world = World::new(2);
    let peers: Vec<usize> = (0..4).map(|_| world.join(&[0, 1])).collect();
    world.run(secs(5));
    for step in [&accept, &both, &new] {
        for peer in &peers {
            let change = Reconfigure { keys: Some(step.clone()), ..Reconfigure::default() };
            world.fire(*peer, |fire, now| fire.reconfigure(now, &change));
            for _ in 0..60 {
                world.run(ms(250));
                assert!(world.all_know_all());
            }
        }
        world.run(secs(30));
    }
    for peer in &peers {
        assert_eq!(world.look(*peer).keys().map(|(_, keys)| keys.fingerprint).collect::<Vec<_>>(), [psk(2).fingerprint]);
        let told = &world.look(*peer).announcement(&world.peers[peers[(peer + 1) % 4]].key).unwrap().fingerprints;
        assert_eq!(*told, [psk(2).fingerprint]);
        assert_eq!(world.look(*peer).members(), 4);
    }
}

#[test]
fn even_if_steps_of_a_rotation_are_skipped_two_peers_with_a_common_key_meet() {
    let mut world = World::new(1);
    let (early, late) = (world.join(&[0]), world.join(&[0]));
    world.run(secs(2));
    let change = |keys| Reconfigure { keys: Some(keys), ..Reconfigure::default() };
    world.fire(late, |fire, now| fire.reconfigure(now, &change(vec![key(2, KeyMode::Accept), key(1, KeyMode::Announce)])));
    world.run(secs(5));
    world.fire(early, |fire, now| fire.reconfigure(now, &change(vec![key(2, KeyMode::Announce)])));
    world.run(secs(60));
    assert!(world.knows(early, late) && world.knows(late, early));
    // A room's number may be given again once its key is forgotten.
    world.fire(early, |fire, now| fire.reconfigure(now, &change(vec![key(1, KeyMode::Announce), key(2, KeyMode::Announce)])));
    world.run(secs(60));
    assert_eq!(world.look(early).seats(&world.peers[late].key).len(), 2);
}

#[test]
fn the_older_session_keeps_an_address_that_two_claim() {
    // A pool so small that two of a few peers must collide.
    let mut world = World::new(1);
    let peers: Vec<usize> = (0..7)
        .map(|_| {
            let peer = world.peer();
            let mut config = world::config(peer, &[0]);
            config.ipv4_pool = Some("10.9.0.0/29".parse().unwrap());
            world.begin(peer, &config);
            world.run(secs(2));
            peer
        })
        .collect();
    world.run(secs(5));
    let held: Vec<_> = peers.iter().filter_map(|peer| world.look(*peer).ipv4()).collect();
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len(), "no address is held twice");
    let without: Vec<usize> = peers.iter().copied().filter(|peer| world.look(*peer).ipv4().is_none()).collect();
    assert!(!without.is_empty());
    for peer in without {
        assert!(world.peers[peer].notices.iter().any(|notice| matches!(notice, Notice::Problem { text } if text.contains("IPv4"))));
    }
    assert!(world.look(peers[0]).ipv4().is_some(), "the first one keeps its address");
}

#[test]
fn a_peer_that_starts_again_replaces_its_earlier_run() {
    let mut world = World::new(2);
    let (a, b) = (world.join(&[0, 1]), world.join(&[0, 1]));
    world.run(secs(5));
    let before = world.seat(a, b);
    world.kill(b);
    world.run(secs(1));
    let config = world::config(b, &[0, 1]);
    world.begin(b, &config);
    world.run(secs(2));
    let after = world.seat(a, b);
    assert_ne!(before, after);
    assert_eq!(world.look(a).seats(&world.peers[b].key).len(), 2, "the seats of the earlier run are not used");
    assert!(world.count(a, |event| matches!(event, FireEvent::Departed { seat, .. } if *seat == before)) >= 1);
}

#[test]
fn who_comes_back_on_another_connection_is_not_forgotten_for_having_been_away() {
    let mut world = World::new(1);
    let (a, b) = (world.join(&[0]), world.peer());
    world.peers[b].udp_blocked = true;
    let config = world::config(b, &[0]);
    world.begin(b, &config);
    world.run(secs(5));
    let (to_a, to_b) = (world.seat(b, a), world.seat(a, b));
    world.cut_streams(b);
    world.fire(a, |fire, now| fire.signal(now, &to_b, vec![1; 148]));
    world.run(ms(40));
    assert_eq!(world.count(a, |event| matches!(event, FireEvent::Unreachable { code: 404, .. })), 1, "it is between two connections");
    world.run(secs(5));
    assert_eq!(world.seat(a, b), to_b);
    world.fire(b, |fire, now| fire.signal(now, &to_a, vec![1; 148]));
    world.run(ms(100));
    assert_eq!(world.count(a, |event| matches!(event, FireEvent::Signal { .. })), 1);
}

#[test]
fn a_run_whose_clock_was_set_back_is_not_taken_for_a_replay() {
    let mut world = World::new(1);
    let (a, b) = (world.join(&[0]), world.peer());
    world.peers[b].clock_error = 50_000;
    let config = world::config(b, &[0]);
    world.begin(b, &config);
    world.run(secs(3));
    let before = world.seat(a, b);
    world.kill(b);
    world.peers[b].clock_error = 0;
    world.begin(b, &config);
    world.run(secs(2));
    assert_ne!(world.seat(a, b), before);
    assert!(!world.peers[b].notices.iter().any(|notice| matches!(notice, Notice::Problem { .. })));
}

#[test]
fn two_processes_with_one_identity_are_told() {
    let mut world = World::new(1);
    let (a, b) = (world.join(&[0]), world.join(&[0]));
    let config = world::config(a, &[0]);
    world.begin(b, &config);
    world.run(secs(60));
    let told = |peer: usize| world.peers[peer].notices.iter().any(|n| matches!(n, Notice::Problem { text } if text.contains("identity")));
    assert!(told(a) || told(b));
    for peer in [a, b] {
        assert_eq!(world.look(peer).identity_shared().is_some(), told(peer), "who was told says so as long as it is so");
    }
    assert!(world.peers[a].sent_messages + world.peers[b].sent_messages < 60, "they do not outbid each other for ever");
}

#[test]
fn who_outlives_another_process_with_its_identity_is_known_again() {
    for gone_by in ["goodbye", "silence"] {
        let mut world = World::new(1);
        let (witness, first, second) = (world.join(&[0]), world.join(&[0]), world.peer());
        let config = world::config(first, &[0]);
        world.begin(second, &config);
        world.run(secs(30));
        let session = |world: &World| world.look(witness).peers().find(|known| known.public_key == world.peers[first].key).unwrap().session;
        let of_both = session(&world);
        match gone_by {
            "goodbye" => world.fire(second, Fire::shutdown),
            _ => world.kill(second),
        }
        world.run(secs(90));
        assert_eq!(world.look(first).identity_shared(), None, "{gone_by}");
        assert!(world.knows(witness, first), "{gone_by}: the witness holds the one that stayed for gone");
        // Whoever believed the goodbye of the one that left takes nothing earlier than it from this key.
        assert!(session(&world) > of_both, "{gone_by}: the one that stayed speaks as an earlier run");
        let seat = world.seat(witness, first);
        world.fire(witness, |fire, now| fire.signal(now, &seat, vec![1; 148]));
        world.run(ms(100));
        assert_eq!(
            world.count(first, |event| matches!(event, FireEvent::Signal { .. })),
            1,
            "{gone_by}: the seat is that of the one that stayed"
        );
    }
}

#[test]
fn in_a_large_room_nobody_holds_the_roster_and_members_are_found_by_address_and_name() {
    let mut world = World::new(0);
    let mut config = ServerConfig::default();
    (config.limits.large, config.limits.small) = (20, 10);
    world.add_server(config);
    let peers: Vec<usize> = (0..60).map(|_| world.join(&[0])).collect();
    world.run(secs(60));
    assert!(world.look(peers[50]).large());
    assert_eq!(world.look(peers[50]).members(), 60);
    assert_eq!(world.look(peers[50]).peers().count(), 0);
    let (seeker, sought) = (peers[50], peers[40]);
    let network = psk(1).network;
    let address = network.address(&world.peers[sought].key).to_string();
    world.fire(seeker, |fire, now| fire.find(now, &address));
    let took = world.run_until(secs(1), "found by address", |world| world.knows(seeker, sought));
    assert!(took <= ms(45), "{took:?}");
    assert_eq!(world.learned(seeker, sought), Some(Learned::Find));
    world.fire(seeker, |fire, now| fire.find(now, "Peer-41"));
    world.run_until(secs(1), "found by name", |world| world.knows(seeker, peers[41]));
    // The one that is signalled learns of the sender first.
    let seat = world.seat(seeker, sought);
    world.fire(seeker, |fire, now| fire.signal(now, &seat, vec![1; 148]));
    world.run(ms(50));
    let heard = &world.peers[sought].events;
    let known = heard.iter().position(
        |(_, event)| matches!(event, FireEvent::Member { announcement, .. } if announcement.public_key == world.peers[seeker].key),
    );
    let signal = heard.iter().position(|(_, event)| matches!(event, FireEvent::Signal { .. }));
    assert!(known.unwrap() < signal.unwrap());
    // Who is linked is found again after the server started anew.
    let key = world.peers[sought].key;
    world.fire(seeker, |fire, _| fire.interest(&key, true));
    world.start(0);
    world.run(secs(60));
    assert!(world.knows(seeker, sought));
    let quiet = world.peers[seeker].sent_bytes;
    world.run(secs(100));
    assert!(world.peers[seeker].sent_bytes - quiet < 100 * 16, "its cost does not grow with the room");
}

fn key(n: u8, mode: KeyMode) -> KeyEntry {
    KeyEntry { keys: Arc::new(psk(n)), mode }
}

fn ranked(servers: &[usize]) -> Vec<usize> {
    let mut ranked = servers.to_vec();
    ranked.sort_by_key(|server| std::cmp::Reverse(score(&psk(1), &entry(*server).id)));
    ranked
}

fn channel(world: &World, peer: usize, seat: campfire_fire::Seat) -> u16 {
    match world.look(peer).relay_path(&seat) {
        Some(Path::Relay { channel, .. }) => channel,
        other => panic!("{other:?}"),
    }
}
