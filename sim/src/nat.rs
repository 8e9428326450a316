//! Gateways' treatment of UDP: the NATs of RFC 4787 (mapping × filtering) and Linux masquerade (see [`crate::conntrack`]).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use campfire_protocol::time::Time;

use crate::conntrack::Conntrack;
use crate::random::Random;

/// On what a mapping depends besides the inside address (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// On nothing: one outside port for all destinations.
    EndpointIndependent,
    /// On the destination's address.
    AddressDependent,
    /// On the destination's address and port.
    AddressAndPortDependent,
}

/// Who may send to a mapping (RFC 4787 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Anybody.
    EndpointIndependent,
    /// Whom the inside has sent to, from any port.
    AddressDependent,
    /// Whom the inside has sent to, address and port.
    AddressAndPortDependent,
}

/// What a Linux gateway's INPUT chain does with unsolicited packets to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unsolicited {
    /// Dropped before conntrack remembers them.
    #[default]
    Drop,
    /// Accepted, though nobody listens: conntrack remembers them, and takes the port away from a later flow to the same
    /// place (the early-probe trap).
    Accept,
}

/// A kind of NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As RFC 4787 describes.
    Classic {
        /// Mapping behaviour.
        mapping: Mapping,
        /// Filtering behaviour.
        filtering: Filtering,
        /// Whether the outside port equals the inside one where it is free.
        preserve_port: bool,
    },
    /// nftables' `masquerade`, conntrack and all.
    Masquerade {
        /// `fully-random`: every flow gets another port, which makes it symmetric.
        fully_random: bool,
        /// The INPUT chain.
        unsolicited: Unsolicited,
    },
}

/// A NAT's behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// What it does to UDP.
    pub kind: Kind,
    /// Whether inside hosts reach each other by their outside addresses (RFC 4787 §6).
    pub hairpin: bool,
    /// How long a mapping lives that was answered (Linux: `nf_conntrack_udp_timeout_stream`).
    pub timeout: Duration,
    /// How long one that was not (Linux alone: `nf_conntrack_udp_timeout`).
    pub timeout_unreplied: Duration,
}

impl Nat {
    const fn of(kind: Kind) -> Self {
        Self { kind, hairpin: false, timeout: Duration::from_mins(2), timeout_unreplied: Duration::from_secs(30) }
    }

    /// A NAT of RFC 4787's terms, ports at random.
    pub const fn classic(mapping: Mapping, filtering: Filtering) -> Self {
        Self::of(Kind::Classic { mapping, filtering, preserve_port: false })
    }

    /// Endpoint-independent mapping and filtering.
    pub const fn full_cone() -> Self {
        Self::classic(Mapping::EndpointIndependent, Filtering::EndpointIndependent)
    }

    /// Endpoint-independent mapping, address-dependent filtering.
    pub const fn restricted() -> Self {
        Self::classic(Mapping::EndpointIndependent, Filtering::AddressDependent)
    }

    /// Endpoint-independent mapping, address-and-port-dependent filtering.
    pub const fn port_restricted() -> Self {
        Self::classic(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent)
    }

    /// Linux masquerade behind an INPUT chain that drops: keeps the port where it can.
    pub const fn masquerade() -> Self {
        Self::of(Kind::Masquerade { fully_random: false, unsolicited: Unsolicited::Drop })
    }

    /// Linux masquerade of a node without a firewall: has the early-probe trap.
    pub const fn masquerade_accepting() -> Self {
        Self::of(Kind::Masquerade { fully_random: false, unsolicited: Unsolicited::Accept })
    }

    /// `masquerade fully-random`, as CNIs do it: address-and-port-dependent mapping and filtering.
    pub const fn symmetric() -> Self {
        Self::of(Kind::Masquerade { fully_random: true, unsolicited: Unsolicited::Drop })
    }

    /// The same with hairpinning.
    #[must_use]
    pub const fn hairpin(mut self) -> Self {
        self.hairpin = true;
        self
    }

    /// The same with these timeouts.
    #[must_use]
    pub const fn timeouts(mut self, unreplied: Duration, replied: Duration) -> Self {
        self.timeout_unreplied = unreplied;
        self.timeout = replied;
        self
    }
}

/// A NAT's state. Addresses outside are one IP address's ports; which address is the gateway's business.
#[derive(Debug)]
pub enum Table {
    /// Of [`Kind::Classic`].
    Classic(Classic),
    /// Of [`Kind::Masquerade`].
    Masquerade(Conntrack),
}

impl Table {
    /// An empty one.
    pub fn new(nat: &Nat) -> Self {
        match nat.kind {
            Kind::Classic { mapping, filtering, preserve_port } => Self::Classic(Classic {
                mapping,
                filtering,
                preserve_port,
                timeout: nat.timeout,
                mappings: HashMap::new(),
                ports: HashMap::new(),
                purge_at: 64,
            }),
            Kind::Masquerade { fully_random, unsolicited } => {
                Self::Masquerade(Conntrack::new(fully_random, unsolicited, nat.timeout_unreplied, nat.timeout))
            }
        }
    }

    /// The outside port from which a packet of `inside` to `remote` leaves.
    pub fn outbound(&mut self, now: Time, inside: SocketAddr, remote: SocketAddr, random: &mut Random) -> Option<u16> {
        match self {
            Self::Classic(table) => table.outbound(now, inside, remote, random),
            Self::Masquerade(table) => table.outbound(now, inside, remote, random),
        }
    }

    /// Where inside a packet from `remote` to outside port `port` goes; `None`: nowhere.
    pub fn inbound(&mut self, now: Time, remote: SocketAddr, port: u16) -> Option<SocketAddr> {
        match self {
            Self::Classic(table) => table.inbound(now, remote, port),
            Self::Masquerade(table) => table.inbound(now, remote, port),
        }
    }
}

/// Mappings and permissions of a NAT of RFC 4787's terms.
#[derive(Debug)]
pub struct Classic {
    mapping: Mapping,
    filtering: Filtering,
    preserve_port: bool,
    timeout: Duration,
    mappings: HashMap<Key, Mapped>,
    ports: HashMap<u16, Key>,
    purge_at: usize,
}

type Key = (SocketAddr, Option<IpAddr>, u16);

#[derive(Debug)]
struct Mapped {
    port: u16,
    expires: Time,
    /// Whom the inside has sent to (port 0 where it does not count), until when that holds.
    permitted: HashMap<(IpAddr, u16), Time>,
}

impl Classic {
    fn key(&self, inside: SocketAddr, remote: SocketAddr) -> Key {
        match self.mapping {
            Mapping::EndpointIndependent => (inside, None, 0),
            Mapping::AddressDependent => (inside, Some(remote.ip()), 0),
            Mapping::AddressAndPortDependent => (inside, Some(remote.ip()), remote.port()),
        }
    }

    fn permission(&self, remote: SocketAddr) -> (IpAddr, u16) {
        (remote.ip(), if self.filtering == Filtering::AddressAndPortDependent { remote.port() } else { 0 })
    }

    fn outbound(&mut self, now: Time, inside: SocketAddr, remote: SocketAddr, random: &mut Random) -> Option<u16> {
        if self.mappings.len() >= self.purge_at {
            self.mappings.retain(|_, mapped| mapped.expires > now);
            self.ports.retain(|_, key| self.mappings.contains_key(key));
            self.purge_at = 64.max(self.mappings.len() * 2);
        }
        let key = self.key(inside, remote);
        let permission = self.permission(remote);
        let expires = now + self.timeout;
        if self.mappings.get(&key).is_some_and(|mapped| mapped.expires <= now) {
            self.forget(&key);
        }
        if !self.mappings.contains_key(&key) {
            let port = self.free_port(now, inside.port(), random)?;
            self.ports.insert(port, key);
            self.mappings.insert(key, Mapped { port, expires, permitted: HashMap::new() });
        }
        let mapped = self.mappings.get_mut(&key)?;
        mapped.expires = expires;
        mapped.permitted.insert(permission, expires);
        Some(mapped.port)
    }

    fn inbound(&mut self, now: Time, remote: SocketAddr, port: u16) -> Option<SocketAddr> {
        let key = self.ports.get(&port)?;
        let mapped = self.mappings.get(key).filter(|mapped| mapped.expires > now)?;
        let allowed = self.filtering == Filtering::EndpointIndependent
            || mapped.permitted.get(&self.permission(remote)).is_some_and(|&expires| expires > now);
        allowed.then_some(key.0)
    }

    fn free_port(&mut self, now: Time, wanted: u16, random: &mut Random) -> Option<u16> {
        if self.preserve_port && self.is_free(now, wanted) {
            return Some(wanted);
        }
        (0..256).map(|_| 20_000 + random.below(30_000) as u16).find(|&port| self.is_free(now, port))
    }

    fn is_free(&mut self, now: Time, port: u16) -> bool {
        let Some(key) = self.ports.get(&port).copied() else { return true };
        let expired = self.mappings.get(&key).is_none_or(|mapped| mapped.expires <= now);
        if expired {
            self.forget(&key);
        }
        expired
    }

    fn forget(&mut self, key: &Key) {
        if let Some(mapped) = self.mappings.remove(key) {
            self.ports.remove(&mapped.port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSIDE: &str = "10.0.0.2:5000";
    const SERVER: &str = "198.51.100.1:3478";
    const SERVER_OTHER_PORT: &str = "198.51.100.1:9";
    const STRANGER: &str = "198.51.100.9:3478";

    #[test]
    fn mappings_depend_on_what_the_kind_says() {
        use Mapping::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        for (mapping, same_port_other_port, same_port_stranger) in
            [(EndpointIndependent, true, true), (AddressDependent, true, false), (AddressAndPortDependent, false, false)]
        {
            let mut world = Case::new(Nat::classic(mapping, Filtering::EndpointIndependent));
            let port = world.out(INSIDE, SERVER);
            assert_eq!(world.out(INSIDE, SERVER), port);
            assert_eq!(world.out(INSIDE, SERVER_OTHER_PORT) == port, same_port_other_port, "{mapping:?}");
            assert_eq!(world.out(INSIDE, STRANGER) == port, same_port_stranger, "{mapping:?}");
        }
    }

    #[test]
    fn filters_let_in_whom_the_kind_says() {
        use Filtering::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        for (filtering, other_port, stranger) in
            [(EndpointIndependent, true, true), (AddressDependent, true, false), (AddressAndPortDependent, false, false)]
        {
            let mut world = Case::new(Nat::classic(Mapping::EndpointIndependent, filtering));
            let port = world.out(INSIDE, SERVER);
            assert!(world.comes_in(SERVER, port));
            assert_eq!(world.comes_in(SERVER_OTHER_PORT, port), other_port, "{filtering:?}");
            assert_eq!(world.comes_in(STRANGER, port), stranger, "{filtering:?}");
        }
    }

    #[test]
    fn a_mapping_lapses_unless_the_inside_sends() {
        let mut world = Case::new(Nat::full_cone());
        let port = world.out(INSIDE, SERVER);
        world.wait(100);
        assert_eq!(world.out(INSIDE, SERVER), port);
        world.wait(100);
        assert!(world.comes_in(SERVER, port), "inbound packets do not matter, the outbound one renewed it");
        world.wait(21);
        assert!(!world.comes_in(SERVER, port));
        assert_ne!(world.out(INSIDE, SERVER), port);
    }

    #[test]
    fn masquerade_keeps_the_port_until_two_hosts_use_one() {
        let mut world = Case::new(Nat::masquerade());
        assert_eq!(world.out(INSIDE, SERVER), 5000);
        assert_eq!(world.out(INSIDE, STRANGER), 5000);
        assert_ne!(world.out("10.0.0.3:5000", SERVER), 5000);
        assert_eq!(world.out("10.0.0.3:5000", "203.0.113.77:1"), 5000, "free for that destination");
    }

    #[test]
    fn fully_random_masquerade_is_symmetric() {
        let mut world = Case::new(Nat::symmetric());
        let port = world.out(INSIDE, SERVER);
        assert_eq!(world.out(INSIDE, SERVER), port);
        assert_ne!(world.out(INSIDE, SERVER_OTHER_PORT), port);
        assert!(world.comes_in(SERVER, port));
        assert!(!world.comes_in(STRANGER, port));
    }

    #[test]
    fn an_early_probe_takes_the_port_where_input_accepts() {
        for (nat, kept) in [(Nat::masquerade(), true), (Nat::masquerade_accepting(), false)] {
            let mut world = Case::new(nat);
            assert_eq!(world.out(INSIDE, SERVER), 5000);
            assert!(!world.comes_in(STRANGER, 5000));
            assert_eq!(world.out(INSIDE, STRANGER) == 5000, kept, "{nat:?}");
        }
    }

    #[test]
    fn the_trap_opens_again_when_the_entry_lapses_and_not_while_probes_renew_it() {
        let mut world = Case::new(Nat::masquerade_accepting());
        for _ in 0..10 {
            assert!(!world.comes_in(STRANGER, 5000));
            world.wait(20);
        }
        let mut renewed = Case::new(Nat::masquerade_accepting());
        assert!(!renewed.comes_in(STRANGER, 5000));
        renewed.wait(31);
        assert_eq!(renewed.out(INSIDE, STRANGER), 5000);
        assert_ne!(world.out(INSIDE, STRANGER), 5000);
    }

    #[test]
    fn masquerade_forgets_sooner_what_was_never_answered() {
        let mut world = Case::new(Nat::masquerade());
        world.out(INSIDE, SERVER);
        world.out(INSIDE, STRANGER);
        assert!(world.comes_in(SERVER, 5000));
        world.wait(3);
        world.out(INSIDE, SERVER);
        assert!(world.comes_in(SERVER, 5000));
        world.wait(31);
        assert!(!world.comes_in(STRANGER, 5000), "unreplied: 30 s");
        world.wait(80);
        assert!(world.comes_in(SERVER, 5000), "a stream: 120 s");
    }

    struct Case {
        table: Table,
        now: Time,
        random: Random,
    }

    impl Case {
        fn new(nat: Nat) -> Self {
            Self { table: Table::new(&nat), now: Time::from_micros(0), random: Random::new(7) }
        }

        fn out(&mut self, inside: &str, remote: &str) -> u16 {
            self.table.outbound(self.now, inside.parse().unwrap(), remote.parse().unwrap(), &mut self.random).unwrap()
        }

        fn comes_in(&mut self, remote: &str, port: u16) -> bool {
            self.table.inbound(self.now, remote.parse().unwrap(), port).is_some()
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }
}
