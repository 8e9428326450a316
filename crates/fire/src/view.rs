//! What the fire knows: who is there, how servers see us, what servers are to us.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use campfire_protocol::announce::{Announcement, Session};
use campfire_protocol::carrier::{ServerSlot, Via};
use campfire_protocol::identity::PublicKey;
use campfire_protocol::key::Keys;
use campfire_protocol::time::{Time, UnixMillis};

use crate::answers;
use crate::counters::Counters;
use crate::status::{Server, ServerState};
use crate::{Fire, Mapped};

impl Fire {
    /// The newest announcement of a peer, as long as it sits anywhere.
    pub fn announcement(&self, peer: &PublicKey) -> Option<&Announcement> {
        self.hearth.roster.announcement(peer)
    }

    /// The peers known at present (in a large room: those found).
    pub fn peers(&self) -> impl Iterator<Item = &Announcement> {
        self.hearth.roster.seated()
    }

    /// Keys held with their room numbers, newest first.
    pub fn keys(&self) -> impl Iterator<Item = (u8, &Keys)> {
        self.hearth.rooms.iter().filter(|room| room.leaving.is_none()).map(|room| (room.number, &*room.keys))
    }

    /// The servers on which we sit, with the key of the room: a server that does not know a key yet is not among those of that key.
    pub fn seated(&self, now: Time) -> impl Iterator<Item = (&Keys, &str)> {
        self.keys().flat_map(move |(room, keys)| {
            let there = self.conversations.values().filter(move |conversation| conversation.seated(now, room));
            there.map(move |conversation| (keys, conversation.server.id.as_str()))
        })
    }

    /// Our own run.
    pub fn session(&self) -> Session {
        self.hearth.own.session()
    }

    /// The IPv4 address that we claim at present, if any.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.hearth.own.ipv4()
    }

    /// Members of the (largest) room, ourselves included, as servers count.
    pub fn members(&self) -> usize {
        let seatings = self.conversations.values().flat_map(|conversation| conversation.seatings.values());
        seatings.filter(|seating| seating.until.is_some()).map(|seating| seating.members as usize).max().unwrap_or(0)
    }

    /// Whether a room in which we sit is large: nobody gets its roster.
    pub fn large(&self) -> bool {
        self.conversations.values().flat_map(|conversation| conversation.seatings.values()).any(|s| s.large && s.until.is_some())
    }

    /// Outside addresses of our UDP sockets as seen by servers, newest word of each.
    pub fn mapped(&self) -> Vec<Mapped> {
        let all = self.conversations.values().flat_map(|conversation| {
            let server = conversation.slot;
            conversation.mapped.iter().map(move |(socket, observed)| Mapped { server, socket: *socket, observed: *observed })
        });
        all.collect()
    }

    /// Servers see different ports of the same socket.
    pub fn symmetric(&self) -> bool {
        let seen: Vec<Mapped> = self.mapped().into_iter().filter(|mapped| answers::is_primary(mapped.socket)).collect();
        // Where there is no NAT between, nothing is learned of it; and the way to a server inside has another NAT, if any.
        let behind_nat = |mapped: &&Mapped| self.hearth.sockets.get(&mapped.socket).is_none_or(|local| !local.contains(&mapped.observed));
        let outside: Vec<&Mapped> = seen.iter().filter(behind_nat).collect();
        let differs = |a: &Mapped, b: &Mapped| {
            a.socket == b.socket && is_private(a.observed.ip()) == is_private(b.observed.ip()) && a.observed.port() != b.observed.port()
        };
        outside.iter().enumerate().any(|(n, a)| outside.iter().skip(n + 1).any(|b| differs(a, b)))
    }

    /// Servers answer on streams and none on UDP.
    pub fn udp_blocked(&self) -> bool {
        self.hearth.udp_blocked
    }

    /// Where servers send from at present (a data plane takes ChannelData and STUN from there alone).
    pub fn vias(&self) -> impl Iterator<Item = (Via, ServerSlot)> {
        self.hearth.vias.iter().map(|(via, slot)| (*via, *slot))
    }

    /// Moves with every change of [`vias`](Self::vias).
    pub fn vias_version(&self) -> u64 {
        self.hearth.vias_version
    }

    /// A server's id, for people.
    pub fn server_name(&self, server: ServerSlot) -> Option<&str> {
        self.conversations.get(&server).map(|conversation| conversation.server.id.as_str())
    }

    /// The address of the server that answers at present.
    pub fn server_address(&self, server: ServerSlot) -> Option<SocketAddr> {
        self.conversations.get(&server)?.active().map(|active| active.remote)
    }

    /// The wall clock, corrected by what servers say (the median of them and our own).
    pub fn unix_now(&self, now: Time) -> UnixMillis {
        self.hearth.clock.now(now)
    }

    /// Our own wall clock, and that as corrected by what servers say: what is to be bound to a time holds if it does by one of them, so that
    /// no server alone ends anything.
    pub fn clocks(&self, now: Time) -> [UnixMillis; 2] {
        [self.hearth.clock.own(now), self.unix_now(now)]
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.hearth.counters
    }

    /// The servers for people, those that are camped on first.
    pub fn servers(&self, now: Time) -> Vec<Server> {
        let mut servers: Vec<Server> = self
            .conversations
            .values()
            .map(|conversation| {
                let mut server = conversation.status(now);
                if let Some(other) = self.choice.alias_of(conversation.slot).and_then(|other| self.server_name(other)) {
                    server.problem = Some(format!("it is {other} by another id: camped on once"));
                }
                server
            })
            .collect();
        servers.sort_by(|a, b| ((a.state != ServerState::Camped), &a.id).cmp(&((b.state != ServerState::Camped), &b.id)));
        servers
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback() || matches!(ip.octets(), [100, 64..=127, ..]),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}
