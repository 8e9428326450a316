//! Large rooms: how they are filled and what they cost, for the tests and the bench.

use std::time::Duration;

use crate::{Link, PeerRef, Place, ServerRef, World, millis, secs};

/// What a room costs each member, on average.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Bytes sent and received, with headers.
    pub bytes: f64,
    /// Datagrams sent and received.
    pub packets: f64,
    /// Times that the mesh was asked something.
    pub inputs: f64,
}

/// A room of many members on the internet, and three servers.
pub struct Room {
    /// The world.
    pub world: World,
    /// Its servers.
    pub servers: Vec<ServerRef>,
    /// The members.
    pub members: Vec<PeerRef>,
}

impl Room {
    /// `members` start within `within`; above `threshold` of them the room is large (256 unless a test wants to be quick).
    pub fn new(seed: u64, members: usize, within: Duration, threshold: usize) -> Self {
        let mut world = World::new(seed);
        world.wan = Link::clean(millis(10));
        let servers = ["a", "b", "c"].map(|name| {
            world.server_with(name, |server| {
                (server.config.limits.large, server.config.limits.small) = (threshold, threshold * 3 / 4);
            })
        });
        let servers = servers.to_vec();
        let members = (0..members as u32)
            .map(|number| world.peer_with(Place::Internet, |peer| peer.after = within * number / members as u32))
            .collect();
        Self { world, servers, members }
    }

    /// Lets time pass and says what it cost each member.
    pub fn cost_of(&mut self, duration: Duration) -> Cost {
        let before = self.total();
        self.world.run_for(duration);
        let after = self.total();
        let members = self.members.len() as f64;
        let per_member = |after: u64, before: u64| after.saturating_sub(before) as f64 / members;
        Cost { bytes: per_member(after[0], before[0]), packets: per_member(after[1], before[1]), inputs: per_member(after[2], before[2]) }
    }

    fn total(&self) -> [u64; 3] {
        let counters = self.members.iter().map(|&member| self.world.counters(member));
        counters.fold([0; 3], |total, member| {
            let bytes = member.sent_bytes + member.received_bytes;
            [total[0] + bytes, total[1] + member.sent + member.received, total[2] + member.inputs]
        })
    }

    /// `pairs` pairs of members, chosen by a fixed rule, ping each other: how many are answered within two seconds.
    pub fn pings(&mut self, pairs: usize) -> usize {
        let count = self.members.len();
        let pings: Vec<_> = (0..pairs)
            .map(|number| (number * 7_919 % count, (number * 104_729 + count / 2) % count))
            .map(|(one, other)| (self.members[one], self.members[if one == other { (other + 1) % count } else { other }]))
            .collect();
        let pings: Vec<_> = pings.into_iter().map(|(one, other)| self.world.ping(one, other)).collect();
        self.world.run_for(secs(2));
        pings.iter().filter(|&&ping| self.world.ping_result(ping).answered.is_some()).count()
    }

    /// The longest roster among a sample of the members.
    pub fn longest_roster(&self) -> usize {
        let sample = self.members.iter().step_by(1 + self.members.len() / 50);
        sample.map(|&member| self.world.status(member).peers.len()).max().unwrap_or(0)
    }
}
