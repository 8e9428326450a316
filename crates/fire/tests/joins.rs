//! Coming to the fire: first contact, rosters, clocks, transports, servers that speak no campfire.
#![allow(clippy::unwrap_used)]

mod world;

use campfire_fire::io::Notice;
use campfire_fire::status::ServerState;
use campfire_fire::{Fire, FireEvent, Learned};
use campfire_protocol::carrier::{SocketId, Via};
use campfire_protocol::limit::Limit;
use campfire_protocol::server::{Server as Entry, Transport};
use campfire_turn::Config as ServerConfig;

use world::{DELAY, Speaks, World, address, ms, name, secs};

#[test]
fn a_newcomer_learns_of_everybody_after_one_round_trip_and_they_learn_of_it_by_ember() {
    let mut world = World::new(1);
    let (old, new) = (world.join(&[0]), world.peer());
    world.run(secs(5));
    let config = world::config(new, &[0]);
    world.begin(new, &config);
    let took = world.run_until(secs(1), "the newcomer knows the other", |world| world.knows(new, old));
    assert_eq!(took, DELAY * 2);
    assert_eq!(world.learned(new, old), Some(Learned::Camp));
    world.run(ms(100));
    assert_eq!(world.learned(old, new), Some(Learned::Ember));
}

#[test]
fn a_clock_that_is_ten_minutes_wrong_costs_one_round_trip_and_is_corrected() {
    for error in [-600_000, 600_000, 86_400_000 * 30, -86_400_000 * 3_650] {
        let mut world = World::new(1);
        let old = world.join(&[0]);
        world.run(secs(2));
        let wrong = world.peer();
        world.peers[wrong].clock_error = error;
        let config = world::config(wrong, &[0]);
        world.begin(wrong, &config);
        let took = world.run_until(secs(1), "the wrong one knows the other", |world| world.knows(wrong, old));
        assert_eq!(took, DELAY * 4, "clock wrong by {error} ms");
        world.run(ms(200));
        assert!(world.knows(old, wrong));
        let off = world.look(wrong).unix_now(world.now).0.abs_diff(world.wall(0).0);
        assert!(off < 50, "off by {off} ms");
        let session = world.look(old).announcement(&world.peers[wrong].key).unwrap().session;
        assert!(session.started.0.abs_diff(world.wall(0).0) < 5_000, "the run began at the right time");
    }
}

#[test]
fn a_room_that_is_full_is_told_once_with_what_raises_the_limit_and_is_no_problem_once_there_is_room() {
    let mut world = World::new(0);
    let mut config = ServerConfig::default();
    config.limits.members = 2;
    let server = world.add_server(config);
    let (one, _two) = (world.join(&[server]), world.join(&[server]));
    world.run(secs(5));
    let late = world.join(&[server]);
    world.run(secs(40));
    let status = |world: &World| world.look(late).servers(world.now)[0].clone();
    assert_eq!((status(&world).state, status(&world).limit), (ServerState::Connecting, Some(Limit::Members)));
    let problem = "the server is full (508 Room Full): raise --max-members-per-room (of a Campfire: spec.turn.limits.membersPerRoom)";
    assert_eq!(status(&world).problem.as_deref(), Some(problem));
    let said = world.peers[late].notices.iter().filter(|notice| matches!(notice, Notice::Problem { text } if text.ends_with(problem)));
    assert_eq!(said.count(), 1);
    world.fire(one, Fire::shutdown);
    world.run_until(secs(60), "the late one sits", |world| world.look(late).servers(world.now)[0].state == ServerState::Camped);
    assert_eq!((status(&world).limit, status(&world).problem), (None, None));
}

#[test]
fn one_server_with_a_wrong_clock_is_spoken_to_in_its_own_time_and_believed_by_nobody() {
    let mut world = World::new(2);
    world.hosts[1].clock_error = 3_600_000;
    world.start(1);
    let (a, b) = (world.join(&[0, 1]), world.join(&[0, 1]));
    world.run(secs(3));
    assert!(world.all_know_all());
    assert_eq!(world.sits_at(a).len(), 2);
    assert_eq!(world.look(b).seats(&world.peers[a].key).len(), 2);
    assert!(world.look(a).unix_now(world.now).0.abs_diff(world.wall(0).0) < 100);
}

#[test]
fn a_room_of_a_hundred_and_twenty_is_read_in_pages_and_nobody_is_missed() {
    let mut world = World::new(1);
    for _ in 0..120 {
        world.join(&[0]);
        world.run(ms(20));
    }
    world.run(secs(5));
    assert!(world.all_know_all());
    let new = world.join(&[0]);
    let took = world.run_until(secs(3), "all are known", |world| world.look(new).peers().count() == 120);
    assert!(took <= ms(500), "{took:?}");
    assert_eq!(world.look(new).members(), 121);
    let all_old =
        world.peers[new].events.iter().filter(|(_, event)| matches!(event, FireEvent::Member { learned: Learned::Camp, .. })).count();
    assert_eq!(all_old, 120, "all came before");
}

#[test]
fn a_steady_member_of_a_room_of_a_hundred_and_twenty_says_little() {
    let mut world = World::new(1);
    for _ in 0..120 {
        world.join(&[0]);
    }
    world.run(secs(30));
    assert!(world.all_know_all());
    let before = world.peers[7].sent_bytes;
    world.run(secs(300));
    let spent = world.peers[7].sent_bytes - before;
    assert!(spent < 16 * 300, "{spent} bytes in five minutes");
    assert!(world.peers[7].sent_messages < 60, "{} messages in all", world.peers[7].sent_messages);
}

#[test]
fn where_udp_is_blocked_a_member_camps_by_tcp_and_returns_to_udp_when_it_can() {
    let mut world = World::new(2);
    let other = world.join(&[0, 1]);
    let blocked = world.peer();
    world.peers[blocked].udp_blocked = true;
    let config = world::config(blocked, &[0, 1]);
    world.begin(blocked, &config);
    world.run(secs(3));
    assert!(world.knows(blocked, other) && world.knows(other, blocked));
    assert!(world.look(blocked).udp_blocked());
    assert!(!world.look(other).udp_blocked());
    let server = world.look(blocked).servers(world.now)[0].clone();
    assert_eq!((server.state, server.transport), (ServerState::Camped, Some(Transport::Tcp)));
    let seat = world.seat(blocked, other);
    world.fire(blocked, |fire, now| fire.bind(now, &seat));
    world.run(ms(100));
    assert!(world.look(blocked).relay_path(&seat).is_some());

    world.peers[blocked].udp_blocked = false;
    world.run(secs(60));
    assert!(!world.look(blocked).udp_blocked());
    assert!(world.look(blocked).servers(world.now).iter().all(|server| server.transport == Some(Transport::Udp)));
    let path = world.look(blocked).relay_path(&seat);
    assert!(matches!(path, Some(campfire_protocol::carrier::Path::Relay { via: Via::Udp { .. }, .. })), "{path:?}");
    assert_eq!(world.count(other, |event| matches!(event, FireEvent::Departed { .. })), 0, "the seats moved along");
    assert_eq!(world.count(blocked, |event| matches!(event, FireEvent::Lost { .. })), 0);
}

#[test]
fn the_second_server_does_not_wait_for_udp_once_it_is_known_to_be_blocked() {
    let mut world = World::new(2);
    let blocked = world.peer();
    world.peers[blocked].udp_blocked = true;
    let config = world::config(blocked, &[0]);
    world.begin(blocked, &config);
    world.run(secs(3));
    assert!(world.look(blocked).udp_blocked());
    let change = campfire_fire::config::Reconfigure { servers: Some(vec![world::entry(0), world::entry(1)]), ..Default::default() };
    world.fire(blocked, |fire, now| fire.reconfigure(now, &change));
    let took = world.run_until(secs(2), "it sits at the second server", |world| world.sits_at(blocked).contains(&1));
    assert!(took <= ms(100), "{took:?}");
}

#[test]
fn a_server_that_refuses_campfire_is_plain_turn_and_harms_nothing() {
    let mut world = World::new(2);
    world.hosts[1].config.campfire = false;
    world.start(1);
    let (a, b) = (world.join(&[0, 1]), world.join(&[0, 1]));
    world.run(secs(10));
    assert!(world.all_know_all());
    assert_eq!(world.sits_at(a), [0].into());
    assert_eq!(plain_notices(&world, a), 1);
    assert_eq!(plain_notices(&world, b), 1);
    let state = world.look(a).servers(world.now).into_iter().find(|server| server.id == "s1").unwrap();
    assert_eq!(state.state, ServerState::PlainTurn);
    assert!(world.look(a).mapped().len() == 2, "it still tells how it sees us");
    world.run(secs(280));
    let quiet = world.peers[a].sent_messages;
    world.run(secs(5));
    assert!(world.peers[a].sent_messages - quiet <= 2, "it is left alone");
    world.hosts[1].config.campfire = true;
    world.start(1);
    world.run(secs(400));
    assert_eq!(world.sits_at(a), [0, 1].into(), "it is tried again, rarely");
}

#[test]
fn a_server_that_answers_binding_alone_is_plain_turn_after_two_rounds() {
    let mut world = World::new(2);
    world.hosts[1].speaks = Speaks::BindingAlone;
    let a = world.join(&[0, 1]);
    world.run(secs(60));
    assert_eq!(plain_notices(&world, a), 1);
    assert_eq!(world.sits_at(a), [0].into());
}

#[test]
fn a_server_without_our_key_is_named_as_the_problem() {
    let mut world = World::new(2);
    world.hosts[1].keys = vec![2];
    world.start(1);
    let a = world.join(&[0, 1]);
    world.run(secs(120));
    assert_eq!(world.sits_at(a), [0].into());
    let problems: Vec<&Notice> = world.peers[a].notices.iter().filter(|notice| matches!(notice, Notice::Problem { .. })).collect();
    assert_eq!(problems.len(), 1, "said once: {problems:?}");
    let Notice::Problem { text } = problems[0] else { panic!() };
    assert!(text.contains("s1") && text.contains(&world::psk(1).fingerprint.to_string()), "{text}");
    let server = world.look(a).servers(world.now).into_iter().find(|server| server.id == "s1").unwrap();
    assert!(server.problem.is_some());
}

#[test]
fn names_are_resolved_and_a_server_whose_name_is_unknown_is_asked_for_again() {
    let mut world = World::new(1);
    let peer = world.peer();
    let mut config = world::config(peer, &[]);
    let known: Entry = format!("{}:3478", name(0)).parse().unwrap();
    config.servers = vec![known, "nowhere.example:3478".parse().unwrap()];
    world.begin(peer, &config);
    world.run(secs(60));
    assert_eq!(world.look(peer).servers(world.now).iter().filter(|server| server.state == ServerState::Camped).count(), 1);
    assert!(world.peers[peer].resolves > 5 && world.peers[peer].resolves < 60, "{}", world.peers[peer].resolves);
}

#[test]
fn a_dead_server_is_tried_for_ever_but_no_more_often_than_every_few_seconds() {
    let mut world = World::new(2);
    world.stop(1);
    let a = world.join(&[0, 1]);
    world.run(secs(120));
    let before = world.peers[a].sent_messages;
    world.run(secs(600));
    let sent = world.peers[a].sent_messages - before;
    assert!((60..900).contains(&sent), "{sent}");
    world.start(1);
    let took = world.run_until(secs(20), "it is found again", |world| world.sits_at(a).contains(&1));
    assert!(took < secs(15), "{took:?}");
}

#[test]
fn a_symmetric_nat_is_told_from_one_that_is_not() {
    let mut world = World::new(2);
    let a = world.join(&[0, 1]);
    world.run(secs(2));
    assert!(!world.look(a).symmetric());
    assert_eq!(world.look(a).mapped().iter().filter(|mapped| mapped.socket == SocketId(0)).count(), 2);
}

#[test]
fn the_ways_to_servers_are_known_before_anything_is_sent_there() {
    let mut world = World::new(3);
    let a = world.join(&[0, 1, 2]);
    let vias: Vec<Via> = world.look(a).vias().map(|(via, _)| via).collect();
    for server in 0..3 {
        assert!(vias.contains(&Via::Udp { socket: SocketId(0), remote: address(server) }));
    }
}

#[test]
fn a_full_room_refuses_newcomers_who_wait_and_come_later() {
    let mut world = World::new(0);
    let mut config = ServerConfig::default();
    config.limits.members = 2;
    world.add_server(config);
    let (a, b) = (world.join(&[0]), world.join(&[0]));
    world.run(secs(1));
    for (one, other) in [(a, b), (b, a)] {
        // Who exchanges frames is not turned out.
        let seat = world.seat(one, other);
        world.fire(one, |fire, now| fire.bind(now, &seat));
    }
    world.run(secs(1));
    let c = world.join(&[0]);
    world.run(secs(30));
    let sitting = [a, b, c].into_iter().filter(|peer| !world.sits_at(*peer).is_empty()).count();
    assert_eq!(sitting, 2);
    let out = [a, b, c].into_iter().find(|peer| world.sits_at(*peer).is_empty()).unwrap();
    let leaves = [a, b, c].into_iter().find(|peer| *peer != out).unwrap();
    world.fire(leaves, campfire_fire::Fire::shutdown);
    world.run(secs(20));
    assert!(!world.sits_at(out).is_empty());
}

fn plain_notices(world: &World, peer: usize) -> usize {
    world.peers[peer].notices.iter().filter(|notice| matches!(notice, Notice::PlainTurn { .. })).count()
}
