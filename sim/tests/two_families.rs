//! One server that is reached over IPv4 and over IPv6, by an entry of each family whose ids share nothing (docs/protocol.md, "Servers").

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use campfire_fire::io::Notice;
use campfire_fire::status::ServerState;
use campfire_protocol::server::{Server, ServerId};
use campfire_sim::{FlowRef, Nat, PeerOptions, PeerRef, Place, ServerRef, World, millis, secs, seed};

/// A server that calls itself so, and an entry for each of its two families.
fn server(world: &mut World, says: Option<&str>) -> (ServerRef, [Server; 2]) {
    let server = world.server_with("oak", |server| server.config.server_id = says.map(str::to_owned));
    let (entry, node) = (world.server_entry(server), world.node(server));
    let (v4, v6) = world.net.addresses(node);
    let named = |id: &str, host: String| {
        let mut entry = Server { id: ServerId::new(id).unwrap(), ..entry.clone() };
        entry.addresses.iter_mut().for_each(|address| address.host.clone_from(&host));
        entry
    };
    (server, [named("east", v4.unwrap().to_string()), named("west", v6.unwrap().to_string())])
}

/// Peers of both families, of IPv4 alone and of IPv6 alone; each has both entries. The last two meet by the server alone.
fn peers(world: &mut World, list: &[Server]) -> [PeerRef; 4] {
    let knows = |peer: &mut PeerOptions| peer.config.fire.servers = list.to_vec();
    let both = |peer: &mut PeerOptions| {
        knows(peer);
        peer.ipv6 = true;
    };
    let (v4, v6) = (world.nat(Nat::symmetric()), world.ipv6_only());
    [world.peer_with(Place::Internet, both), world.peer_with(Place::Internet, both), world.peer_with(v4, knows), world.peer_with(v6, knows)]
}

fn flows(world: &mut World, peers: &[PeerRef]) -> Vec<FlowRef> {
    let pairs = peers.iter().flat_map(|one| peers.iter().filter(move |other| *other != one).map(move |other| (*one, *other)));
    pairs.map(|(one, other)| world.flow(one, other, millis(500))).collect()
}

fn camped(world: &World, peer: PeerRef) -> Vec<String> {
    let servers = world.status(peer).servers.into_iter();
    servers.filter(|server| server.state == ServerState::Camped).map(|server| server.id).collect()
}

/// Nobody thinks that it runs twice, or that several servers share an id; all know each other once.
fn all_is_well(world: &World, peers: &[PeerRef]) {
    for &peer in peers {
        let status = world.status(peer);
        assert!(status.problems.is_empty(), "{:?}", status.problems);
        assert_eq!(status.peers.len(), peers.len() - 1, "{:?}", status.peers);
        let told = world.camp_notices(peer).iter().filter(|(_, notice)| matches!(notice, Notice::Problem { .. })).collect::<Vec<_>>();
        assert!(told.is_empty(), "{told:?}");
    }
}

#[test]
fn whoever_has_both_families_sits_at_it_twice_where_it_is_called_by_neither_id_and_that_does_no_harm() {
    for says in [None, Some("oak")] {
        let mut world = World::new(seed(1));
        let (server, list) = server(&mut world, says);
        let peers = peers(&mut world, &list);
        world.run_until(secs(5), |world| world.all_connected(&peers)).expect("all are connected");
        let flows = flows(&mut world, &peers);
        // Longer than seats, sessions, and what is believed of servers.
        world.run_for(secs(4_000));
        for flow in flows {
            assert_eq!(world.report(flow).lost(), 0, "{says:?}");
            world.end_flow(flow);
        }
        assert_eq!(camped(&world, peers[0]), ["east", "west"], "{says:?}: nothing that could not be made up tells that they are one");
        assert_eq!((camped(&world, peers[2]), camped(&world, peers[3])), (vec!["east".into()], vec!["west".into()]), "{says:?}");
        all_is_well(&world, &peers);
        // All come again once it does.
        world.kill(server);
        world.run_for(secs(60));
        world.revive(server);
        world.run_until(secs(120), |world| world.all_connected(&peers)).expect("all are connected again");
        world.run_for(secs(60));
        all_is_well(&world, &peers);
    }
}

#[test]
fn whoever_has_both_families_sits_at_it_once_where_it_is_called_by_one_of_the_ids_and_others_by_the_one_that_they_reach() {
    for (says, other) in [("east", "west"), ("west", "east")] {
        let mut world = World::new(seed(1));
        let (_, list) = server(&mut world, Some(says));
        let peers = peers(&mut world, &list);
        world.run_until(secs(5), |world| world.all_connected(&peers)).expect("all are connected");
        let flows = flows(&mut world, &peers);
        world.run_for(secs(4_000));
        for flow in flows {
            assert_eq!(world.report(flow).lost(), 0, "{says}");
        }
        assert_eq!(camped(&world, peers[0]), [says]);
        let servers = world.status(peers[0]).servers;
        let held = servers.iter().find(|server| server.id == other).unwrap();
        assert_eq!(held.problem.as_deref(), Some(format!("it is {says} by another id: camped on once").as_str()));
        assert_eq!((camped(&world, peers[2]), camped(&world, peers[3])), (vec!["east".into()], vec!["west".into()]), "{says}");
        all_is_well(&world, &peers);
    }
}

#[test]
fn one_entry_with_the_addresses_of_both_families_is_one_server_to_all() {
    let mut world = World::new(seed(1));
    let (_, [v4, v6]) = server(&mut world, None);
    let mut list = Server { id: ServerId::new("oak").unwrap(), ..v4 };
    list.addresses.extend(v6.addresses);
    let peers = peers(&mut world, &[list]);
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("all are connected");
    world.run_for(secs(300));
    for peer in peers {
        assert_eq!(camped(&world, peer), ["oak"]);
    }
    all_is_well(&world, &peers);
}
