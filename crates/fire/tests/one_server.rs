//! One server under two ids, an id that moves, and servers that say that they are another.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use campfire_fire::config::Reconfigure;
use campfire_fire::io::Notice;
use campfire_fire::status::ServerState;
use campfire_protocol::server::Server as Entry;
use campfire_turn::Config as ServerConfig;
use world::{World, entry, entry_as, ms, secs};

const SEED: u8 = 200;

fn named(id: &str) -> ServerConfig {
    ServerConfig { server_id: Some(id.to_owned()), ..ServerConfig::default() }
}

/// A world with servers that call themselves so, or not at all, and two peers that have this list.
fn world(servers: &[Option<&str>], list: &[Entry]) -> World {
    let mut world = World::new(0);
    for name in servers {
        world.add_server(name.map_or_else(ServerConfig::default, named));
    }
    for _ in 0..2 {
        join(&mut world, list);
    }
    world
}

fn join(world: &mut World, list: &[Entry]) -> usize {
    let peer = world.peer();
    let mut config = world::config(peer, &[]);
    config.servers = list.to_vec();
    world.begin(peer, &config);
    peer
}

fn give(world: &mut World, peer: usize, list: &[Entry]) {
    let change = Reconfigure { servers: Some(list.to_vec()), ..Reconfigure::default() };
    world.fire(peer, |fire, now| fire.reconfigure(now, &change));
}

fn camped(world: &World, peer: usize) -> Vec<String> {
    let servers = world.look(peer).servers(world.now).into_iter();
    servers.filter(|server| server.state == ServerState::Camped).map(|server| server.id).collect()
}

fn problem(world: &World, peer: usize, id: &str) -> Option<String> {
    world.look(peer).servers(world.now).into_iter().find(|server| server.id == id).unwrap().problem
}

/// Each knows the other by one seat, nobody is counted twice, nobody thinks that it runs twice.
fn all_is_well(world: &World) {
    let peers = 0..world.peers.len();
    for peer in peers.clone() {
        assert_eq!(world.look(peer).members(), peers.len(), "{peer}");
        assert_eq!(world.look(peer).identity_shared(), None);
        assert!(
            !world.peers[peer].notices.iter().any(|notice| matches!(notice, Notice::Problem { .. })),
            "{:?}",
            world.peers[peer].notices
        );
        for other in peers.clone().filter(|other| *other != peer) {
            assert_eq!(world.look(peer).seats(&world.peers[other].key).len(), 1, "{peer} of {other}");
        }
    }
}

#[test]
fn a_server_made_anew_at_an_address_of_before_is_camped_on_once_under_its_new_id() {
    for both_listed in [false, true] {
        let (old, new) = (entry_as(0, "old-0"), entry_as(0, "new-0"));
        let mut world = world(&[Some("old-0")], std::slice::from_ref(&old));
        world.run(secs(60));
        world.stop(0);
        world.run(secs(5));
        world.hosts[0].config = named("new-0");
        world.start(0);
        world.run(secs(20));
        let list = if both_listed { vec![old, new] } else { vec![new] };
        let seats: Vec<_> = [0, 1].map(|peer| world.seat(peer, 1 - peer)).into();
        for (peer, seat) in seats.iter().enumerate() {
            world.fire(peer, |fire, now| fire.bind(now, seat));
        }
        world.run(secs(1));
        for (peer, seat) in seats.iter().enumerate() {
            give(&mut world, peer, &list);
            // Paths through the seat that there is are not so much as moved.
            for _ in 0..50 {
                world.run(ms(100));
                assert!(world.look(peer).relay_path(seat).is_some(), "{both_listed}");
            }
        }
        join(&mut world, &list);
        world.run(secs(60));
        for peer in 0..3 {
            assert_eq!(camped(&world, peer), ["new-0"]);
            if both_listed {
                assert_eq!(problem(&world, peer, "old-0").unwrap(), "it is new-0 by another id: camped on once");
            } else {
                assert_eq!(world.look(peer).servers(world.now).len(), 1, "what is in no list is forgotten");
            }
        }
        all_is_well(&world);
        // It stays so while the hours pass, and the server starts anew.
        world.run(secs(3 * 3_600));
        world.stop(0);
        world.run(secs(30));
        world.start(0);
        world.run(secs(120));
        assert_eq!(camped(&world, 0), ["new-0"]);
        all_is_well(&world);
    }
}

#[test]
fn one_process_at_two_addresses_is_camped_on_once_and_both_are_again_when_they_part() {
    let mut world = World::new(2);
    world.start_with(0, SEED);
    world.start_with(1, SEED);
    let list = [entry(0), entry(1)];
    let (a, b) = (join(&mut world, &list), join(&mut world, &list));
    world.run(secs(60));
    let (at_a, at_b) = (camped(&world, a), camped(&world, b));
    assert!(at_a.len() == 1 && at_a == at_b, "{at_a:?} {at_b:?}");
    // The other address comes to be another server's: that is noticed.
    let other = usize::from(at_a[0] == "s0");
    world.stop(other);
    world.start(other);
    world.run(secs(3_700));
    assert_eq!(camped(&world, a), ["s0", "s1"]);
    assert!(world.all_know_all());
}

#[test]
fn an_id_that_moves_is_followed_though_its_old_address_still_answers() {
    let mut world = world(&[Some("s0"), Some("s0")], &[entry(0)]);
    world.run(secs(10));
    for peer in 0..2 {
        give(&mut world, peer, &[entry_as(1, "s0")]);
    }
    world.run(secs(10));
    for peer in 0..2 {
        assert_eq!(world.look(peer).servers(world.now)[0].address, Some(world::address(1)));
    }
    all_is_well(&world);
}

#[test]
fn a_server_that_says_that_it_is_another_hides_itself_alone() {
    // Whichever is first in the list, and whether the real one has a name or not.
    for real in [Some("s0"), None] {
        for list in [[entry(0), entry(1)], [entry(1), entry(0)]] {
            let mut world = world(&[real, Some("s0")], &list);
            world.run(secs(90));
            for peer in 0..2 {
                assert_eq!(camped(&world, peer), ["s0"]);
                assert!(problem(&world, peer, "s1").is_some());
            }
            // It can stop that, and is camped on again.
            world.hosts[1].config = named("s1");
            world.start(1);
            world.run(secs(3_700));
            assert_eq!(camped(&world, 0), ["s0", "s1"]);
        }
    }
}

#[test]
fn whoever_came_to_know_what_another_tells_of_its_process_hides_nobody_either() {
    for claim in ["s1", "s0"] {
        let mut world = World::new(0);
        world.add_server(named("s0"));
        world.add_server(named(claim));
        world.start_with(0, SEED);
        world.start_with(1, SEED);
        for list in [[entry(0), entry(1)], [entry(1), entry(0)]] {
            join(&mut world, &list);
        }
        world.run(secs(90));
        for peer in 0..2 {
            assert!(camped(&world, peer).contains(&"s0".to_owned()), "{claim}");
            let address = world.look(peer).servers(world.now).into_iter().find(|server| server.id == "s0").unwrap().address;
            assert_eq!(address, Some(world::address(0)), "{claim}");
        }
        assert!(world.all_know_all());
    }
}

#[test]
fn two_servers_that_say_to_be_each_other_leave_one() {
    let mut world = world(&[Some("s1"), Some("s0")], &[entry(0), entry(1)]);
    world.run(secs(10));
    for _ in 0..20 {
        world.run(secs(30));
        assert_eq!(camped(&world, 0).len(), 1);
        assert!(world.all_know_all());
    }
}

#[test]
fn two_processes_that_take_turns_under_one_id_are_told_of_and_one_that_starts_anew_is_not() {
    let mut list = entry(0);
    list.addresses.extend(entry(1).addresses);
    let mut world = World::new(2);
    let peer = join(&mut world, std::slice::from_ref(&list));
    world.run(secs(30));
    assert_eq!(camped(&world, peer), ["s0"]);
    let other_than = |world: &World, server: usize| {
        let address = world.look(peer).servers(world.now)[0].address;
        address == Some(world::address(1 - server))
    };
    // One starts anew, twice; then its line is cut, and the other answers.
    for _ in 0..2 {
        world.stop(0);
        world.start(0);
        world.run(secs(60));
    }
    let first = usize::from(other_than(&world, 0));
    let cut = world.hosts[first].core.take();
    world.run(secs(60));
    assert!(other_than(&world, first) && problem(&world, peer, "s0").is_none());
    // And the same the other way round: it was there all the time.
    world.hosts[first].core = cut;
    world.stop(1 - first);
    world.run(secs(60));
    assert!(other_than(&world, 1 - first));
    let text = problem(&world, peer, "s0").unwrap();
    assert!(text.contains("give each server an id of its own"), "{text}");
    let told = |notice: &&Notice| matches!(notice, Notice::Problem { text: said } if *said == format!("s0: {text}"));
    assert_eq!(world.peers[peer].notices.iter().filter(told).count(), 1, "{:?}", world.peers[peer].notices);
    // It is no longer so, and no longer said.
    world.run(secs(2 * 3_600));
    assert_eq!(problem(&world, peer, "s0"), None);
}

#[test]
fn lists_that_change_for_ever_leave_nothing_behind() {
    let mut world = world(&[None], &[entry(0)]);
    for n in 0..500 {
        let mut list = vec![entry(0)];
        list.extend((0..3).map(|m| entry_as(1, &format!("x{n}-{m}"))));
        for server in &mut list[1..] {
            server.addresses.truncate(1);
            server.addresses[0].host = "192.0.2.9".into();
        }
        give(&mut world, 0, &list);
        world.run(secs(1));
    }
    world.run(secs(60));
    give(&mut world, 0, &[entry(0)]);
    world.run(secs(60));
    assert_eq!(world.look(0).servers(world.now).len(), 1);
    assert!(world.all_know_all());
}

#[test]
fn red_20_what_whoever_configures_us_heard_is_believed_no_more_than_what_we_hear() {
    let mut world = World::new(1);
    let here = |id: &str| {
        let mut server = entry_as(0, id);
        server.addresses.iter_mut().for_each(|address| address.host = "127.0.0.1".into());
        server.addresses.truncate(1);
        server
    };
    let peer = world.peer();
    let mut config = world::config(peer, &[0]);
    config.servers.push(here("given"));
    config.heard = vec![here("heard")];
    config.heard[0].addresses[0].host = "127.0.0.2".into();
    world.begin(peer, &config);
    world.run(secs(60));
    assert_eq!(problem(&world, peer, "given").as_deref(), Some("no answer"), "who configures us may mean this machine");
    assert_eq!(problem(&world, peer, "heard").as_deref(), Some("no address could be reached or resolved"));
    // Later, too, and what is heard no more is forgotten.
    let change = Reconfigure { heard: Some(vec![]), ..Reconfigure::default() };
    world.fire(peer, |fire, now| fire.reconfigure(now, &change));
    world.run(secs(60));
    assert!(world.look(peer).servers(world.now).iter().all(|server| server.id != "heard"));
}
