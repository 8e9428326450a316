//! Where we might be reached: interface addresses, the addresses that servers saw, and those that peers saw.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use campfire_protocol::carrier::{ServerSlot, SocketId};
use ipnet::IpNet;

/// Most addresses in a list.
pub(crate) const MAX_CANDIDATES: usize = 8;
/// Most addresses kept that peers have seen.
const MAX_SEEN: usize = 2;
/// Places at the end of a list for what one server alone says.
const DOUBTFUL: usize = 2;

/// The sockets that the shell opens before the mesh starts: not fresh ones for another try at punching.
pub(crate) const MAIN_SOCKETS: [SocketId; 2] = [SocketId(0), SocketId(1)];

/// Our own addresses.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    local: BTreeMap<SocketId, Vec<SocketAddr>>,
    mapped: BTreeMap<(SocketId, ServerSlot), SocketAddr>,
    seen: VecDeque<SocketAddr>,
    /// The overlay's own prefixes: an address in them would lead into the tunnel itself.
    overlay: Vec<IpNet>,
}

impl Candidates {
    pub(crate) fn new(overlay: Vec<IpNet>) -> Self {
        Self { overlay, ..Self::default() }
    }

    /// A socket is open under these addresses. Tells whether anything changed.
    pub(crate) fn opened(&mut self, socket: SocketId, local: &[SocketAddr]) -> bool {
        let local: Vec<_> = local.iter().copied().filter(|address| self.usable(*address)).take(MAX_CANDIDATES).collect();
        self.local.insert(socket, local.clone()).is_none_or(|old| old != local)
    }

    /// A socket is gone.
    pub(crate) fn closed(&mut self, socket: SocketId) -> bool {
        self.mapped.retain(|(of, _), _| *of != socket);
        self.local.remove(&socket).is_some()
    }

    /// A server sees this socket so.
    pub(crate) fn mapped(&mut self, socket: SocketId, server: ServerSlot, observed: SocketAddr) -> bool {
        let old = self.mapped.insert((socket, server), observed);
        if let Some(old) = old.filter(|old| *old != observed) {
            // The NAT's mapping moved. Servers that still say the old address have not looked since.
            self.mapped.retain(|(of, _), address| *of != socket || *address != old);
        }
        old != Some(observed)
    }

    /// A peer saw us under this address on a direct path.
    pub(crate) fn observed(&mut self, address: SocketAddr) -> bool {
        let known = self.seen.contains(&address) || self.is_local(address);
        let mapped = self.mapped.values().any(|mapped| *mapped == address);
        if known || (self.symmetric() && !mapped) || !self.usable(address) {
            return false;
        }
        if self.seen.len() == MAX_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(address);
        !mapped
    }

    fn is_local(&self, address: SocketAddr) -> bool {
        self.local.values().flatten().any(|local| *local == address)
    }

    /// One server alone says that it sees this socket there, another says otherwise, and no peer has seen us there. A NAT that gives each
    /// destination another port is no better reached for it; and the server may be wrong, or lie.
    fn is_doubtful(&self, socket: SocketId, address: SocketAddr) -> bool {
        // Where no NAT is in between, nothing is said of it.
        let said = self.mapped.iter().filter(|((of, _), said)| *of == socket && !self.is_local(**said));
        let (same, other): (Vec<_>, Vec<_>) = said.map(|(_, said)| *said).partition(|said| *said == address);
        same.len() == 1 && !other.is_empty() && !self.seen.contains(&address)
    }

    /// The mapped address differs between servers: a NAT with address-dependent mapping (RFC 4787 §4.1).
    pub(crate) fn symmetric(&self) -> bool {
        MAIN_SOCKETS.iter().any(|socket| {
            let mut mapped = self.mapped.iter().filter(|((of, _), _)| of == socket).map(|(_, address)| address);
            mapped.next().is_some_and(|first| mapped.any(|other| other != first))
        })
    }

    /// Some server saw an address of ours over UDP.
    pub(crate) fn reflexive(&self) -> bool {
        !self.mapped.is_empty()
    }

    /// Whether a server has seen this socket.
    pub(crate) fn is_mapped(&self, socket: SocketId) -> bool {
        self.mapped.keys().any(|(of, _)| *of == socket)
    }

    /// Whether a socket is open.
    pub(crate) fn is_open(&self, socket: SocketId) -> bool {
        self.local.contains_key(&socket)
    }

    /// The list for a peer, best first, when `v4` is the socket for IPv4.
    pub(crate) fn list(&self, v4: SocketId) -> Vec<SocketAddr> {
        let sockets = [v4, SocketId(1)];
        let mapped = sockets.iter().flat_map(|socket| self.mapped.iter().filter(move |((of, _), _)| of == socket));
        let (doubtful, mapped): (Vec<_>, Vec<_>) = mapped.partition(|((socket, _), address)| self.is_doubtful(*socket, **address));
        let seen = self.seen.iter().copied().filter(|_| v4 == SocketId(0));
        // One of each family in turns: many of one must not keep out all of the other.
        let local = |socket| self.local.get(&socket).map_or(&[][..], Vec::as_slice);
        let (ipv4, ipv6) = (local(v4), local(SocketId(1)));
        let local = (0..ipv4.len().max(ipv6.len())).flat_map(|index| [ipv6.get(index), ipv4.get(index)]).flatten().copied();
        let mut list: Vec<SocketAddr> = Vec::new();
        let mut add = |address: SocketAddr, most: usize| {
            if list.len() < most && self.usable(address) && !list.contains(&address) {
                list.push(address);
            }
        };
        let most = MAX_CANDIDATES - doubtful.len().min(DOUBTFUL);
        for address in mapped.into_iter().map(|(_, address)| *address).chain(seen).chain(local) {
            add(address, most);
        }
        for (_, address) in doubtful {
            add(*address, MAX_CANDIDATES);
        }
        list
    }

    /// What a peer told, reduced to what may be probed.
    pub(crate) fn filter(&self, told: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut list: Vec<SocketAddr> = Vec::new();
        for address in told.iter().take(MAX_CANDIDATES).map(|address| canonical(*address)) {
            if self.usable(address) && !list.contains(&address) {
                list.push(address);
            }
        }
        list
    }

    /// May an address be probed or told? Never loopback, link-local (and with it the clouds' metadata), multicast, unspecified, reserved,
    /// or inside the overlay; private ones may.
    pub(crate) fn usable(&self, address: SocketAddr) -> bool {
        let ip = canonical(address).ip();
        let fine = match ip {
            IpAddr::V4(v4) => {
                !(v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_unspecified() || v4.is_broadcast())
                    && v4.octets()[0] != 0
                    && v4.octets()[0] < 240
            }
            IpAddr::V6(v6) => {
                // fd00:ec2::254 is a metadata service in one cloud.
                let metadata = v6.segments()[..2] == [0xfd00, 0x0ec2];
                !(v6.is_loopback() || v6.is_multicast() || v6.is_unspecified() || v6.is_unicast_link_local() || metadata)
            }
        };
        fine && address.port() != 0 && !self.overlay.iter().any(|net| net.contains(&ip))
    }
}

/// `::ffff:a.b.c.d` as the IPv4 address that it is.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_nowhere_or_into_the_host_itself_are_no_candidates() {
        let candidates = candidates();
        for bad in [
            "127.0.0.1:1",
            "0.0.0.0:1",
            "0.1.2.3:1",
            "169.254.169.254:80",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "241.0.0.1:1",
            "10.0.0.1:0",
            "[::1]:1",
            "[::]:1",
            "[fe80::1]:1",
            "[ff02::1]:1",
            "[::ffff:127.0.0.1]:1",
            "[::ffff:169.254.169.254]:1",
            "[fd01:203:405::7]:1",
            "[fd00:ec2::254]:80",
        ] {
            assert!(!candidates.usable(bad.parse().unwrap()), "{bad}");
        }
        for good in ["10.0.0.1:1", "192.168.1.1:5", "8.8.8.8:53", "[2001:db8::1]:1", "[fd02::1]:1"] {
            assert!(candidates.usable(good.parse().unwrap()), "{good}");
        }
    }

    #[test]
    fn ports_that_differ_between_servers_mean_a_symmetric_nat() {
        let mut candidates = candidates();
        assert!(candidates.mapped(SocketId(0), ServerSlot(0), "1.2.3.4:1000".parse().unwrap()));
        assert!(!candidates.symmetric());
        assert!(candidates.mapped(SocketId(0), ServerSlot(1), "1.2.3.4:1001".parse().unwrap()));
        assert!(candidates.symmetric());
    }

    #[test]
    fn a_moved_mapping_is_not_taken_for_a_symmetric_nat() {
        let mut candidates = candidates();
        candidates.mapped(SocketId(0), ServerSlot(0), "1.2.3.4:1000".parse().unwrap());
        candidates.mapped(SocketId(0), ServerSlot(1), "1.2.3.4:1000".parse().unwrap());
        assert!(candidates.mapped(SocketId(0), ServerSlot(0), "1.2.3.4:2000".parse().unwrap()));
        assert!(!candidates.symmetric());
        assert_eq!(candidates.list(SocketId(0)), vec!["1.2.3.4:2000".parse().unwrap()]);
    }

    #[test]
    fn what_one_server_alone_says_comes_last_until_a_peer_has_seen_it() {
        let (truth, lie) = ("1.2.3.4:1000".parse().unwrap(), "10.96.0.10:53".parse().unwrap());
        let mut candidates = candidates();
        let local: Vec<SocketAddr> = (1..20).map(|i| format!("10.0.0.{i}:5").parse().unwrap()).collect();
        candidates.opened(SocketId(0), &local);
        candidates.mapped(SocketId(0), ServerSlot(0), lie);
        assert_eq!(candidates.list(SocketId(0))[0], lie, "there is nothing else to be had");
        candidates.mapped(SocketId(0), ServerSlot(1), truth);
        let list = candidates.list(SocketId(0));
        assert_eq!(list[..6], local[..6], "who is right is not known");
        assert_eq!(list[6..], [lie, truth]);
        candidates.mapped(SocketId(0), ServerSlot(2), truth);
        let list = candidates.list(SocketId(0));
        assert_eq!((list[0], list[MAX_CANDIDATES - 1]), (truth, lie));
        // Or of two servers, if a peer has seen us so.
        candidates.mapped.remove(&(SocketId(0), ServerSlot(2)));
        assert!(!candidates.observed(truth));
        let list = candidates.list(SocketId(0));
        assert_eq!((list[0], list[MAX_CANDIDATES - 1]), (truth, lie));
        // A server inside, to which there is no NAT, does not count.
        let mut candidates = self::candidates();
        candidates.opened(SocketId(0), &local);
        candidates.mapped(SocketId(0), ServerSlot(0), local[0]);
        candidates.mapped(SocketId(0), ServerSlot(1), truth);
        assert_eq!(candidates.list(SocketId(0))[1], truth);
    }

    #[test]
    fn outside_addresses_come_first_and_the_list_is_short() {
        let mut candidates = candidates();
        let local: Vec<SocketAddr> = (1..20).map(|i| format!("10.0.0.{i}:5").parse().unwrap()).collect();
        candidates.opened(SocketId(0), &local);
        candidates.mapped(SocketId(0), ServerSlot(0), "1.2.3.4:1000".parse().unwrap());
        candidates.observed("1.2.3.9:1000".parse().unwrap());
        let list = candidates.list(SocketId(0));
        assert_eq!(list.len(), MAX_CANDIDATES);
        assert_eq!(list[0], "1.2.3.4:1000".parse().unwrap());
        assert_eq!(list[1], "1.2.3.9:1000".parse().unwrap());
        assert_eq!(list[2], local[0]);
    }

    #[test]
    fn many_addresses_of_one_family_leave_room_for_the_other() {
        let mut candidates = candidates();
        let bridges: Vec<SocketAddr> = (1..20).map(|i| format!("10.0.{i}.1:5").parse().unwrap()).collect();
        candidates.opened(SocketId(0), &[&["192.168.1.7:5".parse().unwrap()], &bridges[..]].concat());
        candidates.opened(SocketId(1), &["[2001:db8::7]:5".parse().unwrap(), "[2001:db8::8]:5".parse().unwrap()]);
        let list: Vec<String> = candidates.list(SocketId(0)).iter().map(ToString::to_string).collect();
        assert_eq!(list[..4], ["[2001:db8::7]:5", "192.168.1.7:5", "[2001:db8::8]:5", "10.0.1.1:5"]);
        assert_eq!(list.len(), MAX_CANDIDATES);
    }

    #[test]
    fn a_fresh_socket_is_told_in_place_of_the_first() {
        let mut candidates = candidates();
        candidates.opened(SocketId(0), &["10.0.0.1:5".parse().unwrap()]);
        candidates.opened(SocketId(2), &["10.0.0.1:6".parse().unwrap()]);
        candidates.mapped(SocketId(0), ServerSlot(0), "1.2.3.4:1000".parse().unwrap());
        candidates.mapped(SocketId(2), ServerSlot(0), "1.2.3.4:1001".parse().unwrap());
        let list: Vec<String> = candidates.list(SocketId(2)).iter().map(ToString::to_string).collect();
        assert_eq!(list, ["1.2.3.4:1001", "10.0.0.1:6"]);
    }

    fn candidates() -> Candidates {
        Candidates::new(vec!["fd01:203:405::/48".parse().unwrap()])
    }
}
