//! Large rooms: nobody holds the roster, and what a member pays does not grow with the room.

use campfire_sim::room::Room;
use campfire_sim::{secs, seed};

/// A small large room and a large one. (The example `room` goes to 10,000 and more.)
const SIZES: [usize; 2] = [100, 400];
/// A room is large above this, here, to be quick.
const THRESHOLD: usize = 24;

#[test]
fn a_members_cost_does_not_grow_with_the_room() {
    let costs = SIZES.map(|size| {
        let mut room = Room::new(seed(1), size, secs(5), THRESHOLD);
        let join = room.cost_of(secs(60));
        let steady = room.cost_of(secs(120));
        assert!(room.longest_roster() < 64, "{size}: nobody holds the roster");
        let restart = {
            for &member in &room.members {
                room.world.restart(member);
            }
            room.cost_of(secs(60))
        };
        assert!(join.bytes < 200_000.0, "{size}: {join:?}");
        assert!(restart.bytes < 200_000.0, "{size}: {restart:?}");
        // Two servers, a camp every 20 s on each, a few hundred bytes there and back.
        assert!(steady.bytes < 40_000.0, "{size}: {steady:?}");
        [join, steady, restart]
    });
    for (small, large) in costs[0].iter().zip(&costs[1]) {
        assert!(large.bytes < 1.5 * small.bytes + 2_000.0, "{small:?} {large:?}");
        assert!(large.inputs < 1.5 * small.inputs + 10.0, "{small:?} {large:?}");
    }
}

#[test]
fn strangers_in_a_large_room_reach_each_other_on_first_traffic() {
    let mut room = Room::new(seed(1), 200, secs(5), THRESHOLD);
    room.world.run_for(secs(40));
    assert_eq!(room.pings(50), 50);
}

#[test]
fn a_large_room_survives_the_death_of_its_best_server() {
    let mut room = Room::new(seed(1), 100, secs(5), THRESHOLD);
    room.world.run_for(secs(40));
    let servers = room.servers.clone();
    room.world.kill(servers[0]);
    room.world.run_for(secs(30));
    assert_eq!(room.pings(30), 30);
    room.world.kill(servers[1]);
    room.world.revive(servers[0]);
    room.world.run_for(secs(60));
    assert_eq!(room.pings(30), 30);
}
