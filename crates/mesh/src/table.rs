//! Whose address is whose, who may send from where: what the data plane's table says of who each peer is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use campfire_datapath::table::Addressing;
use campfire_protocol::announce::Session;
use campfire_protocol::identity::{NetworkId, PublicKey, ipv4_in_pool};
use campfire_tunnel::LinkId;
use ipnet::{IpNet, Ipv4Net};

/// What decides about addresses and routes.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) network: NetworkId,
    pub(crate) pool: Option<Ipv4Net>,
    /// Others' routes count if they lie within one of these.
    pub(crate) accepted: Vec<IpNet>,
    /// Routes that we offer.
    pub(crate) offered: Vec<IpNet>,
}

/// What a peer claims.
#[derive(Clone, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) link: LinkId,
    pub(crate) peer: PublicKey,
    /// Of two claims to the same the lower counts: the run's session, or the birth that is certified.
    pub(crate) seniority: Session,
    /// Follows from the key.
    pub(crate) address: Ipv6Addr,
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) routes: &'a [IpNet],
}

/// What we claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnClaim {
    pub(crate) peer: PublicKey,
    /// See [`Claim::seniority`].
    pub(crate) seniority: Session,
    pub(crate) ipv4: Option<Ipv4Addr>,
}

impl Rules {
    /// Whether a route of another's counts: accepted here, and not inside the overlay. Of one that holds the overlay the rest counts.
    pub(crate) fn accepts(&self, route: &IpNet) -> bool {
        let overlay = IpNet::V6(self.network.prefix());
        let pool = self.pool.map(IpNet::V4);
        let inside = |other: IpNet| other.contains(route);
        self.accepted.iter().any(|net| net.contains(route)) && !inside(overlay) && !pool.is_some_and(inside)
    }

    /// A route without what is the overlay's own: to that nobody is a router, and from there nobody else speaks.
    fn outside(&self, route: IpNet) -> Vec<IpNet> {
        let mut nets = without(route, IpNet::V6(self.network.prefix()));
        if let Some(pool) = self.pool {
            nets = nets.into_iter().flat_map(|net| without(net, IpNet::V4(pool))).collect();
        }
        nets
    }

    /// A peer's IPv4 claim, if it is the address that follows from its key: no other can be claimed.
    pub(crate) fn claimed(&self, peer: &PublicKey, ipv4: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        ipv4.filter(|address| self.pool.is_some_and(|pool| ipv4_in_pool(pool, peer) == Some(*address)))
    }

    /// Decides between all claims. Gives also the link that keeps our IPv4 address from us.
    pub(crate) fn addressing(&self, own: &OwnClaim, claims: &[Claim<'_>]) -> (Addressing, Option<LinkId>) {
        // Of two that claim the same the senior keeps it, whatever the order in which we learned of them.
        let mut ipv4: HashMap<Ipv4Addr, (Session, PublicKey, Option<LinkId>)> = HashMap::new();
        if let Some(address) = own.ipv4 {
            ipv4.insert(address, (own.seniority, own.peer, None));
        }
        let mut routes: BTreeMap<IpNet, (Session, PublicKey, LinkId)> = BTreeMap::new();
        for claim in claims {
            if let Some(address) = self.claimed(&claim.peer, claim.ipv4) {
                let holder = ipv4.entry(address).or_insert((claim.seniority, claim.peer, Some(claim.link)));
                if (claim.seniority, claim.peer) < (holder.0, holder.1) {
                    *holder = (claim.seniority, claim.peer, Some(claim.link));
                }
            }
            for route in claim.routes.iter().map(IpNet::trunc).filter(|route| self.accepts(route)).take(8) {
                let holder = routes.entry(route).or_insert((claim.seniority, claim.peer, claim.link));
                if (claim.seniority, claim.peer) < (holder.0, holder.1) {
                    *holder = (claim.seniority, claim.peer, claim.link);
                }
            }
        }
        let mut addressing = Addressing::default();
        let slots = claims.iter().map(|claim| claim.link.0 as usize + 1).max().unwrap_or(0);
        addressing.allowed.resize(slots, Vec::new());
        for claim in claims {
            let mut allowed = vec![IpNet::from(IpAddr::V6(claim.address))];
            if let Some(address) = self.claimed(&claim.peer, claim.ipv4)
                && ipv4.get(&address).is_some_and(|(_, _, link)| *link == Some(claim.link))
            {
                allowed.push(IpNet::from(IpAddr::V4(address)));
            }
            addressing.hosts.extend(allowed.iter().map(|net| (net.addr(), claim.link)));
            let unique: HashSet<IpNet> = claim.routes.iter().map(IpNet::trunc).collect();
            let kept = unique.into_iter().filter(|route| routes.get(route).is_some_and(|(_, _, link)| *link == claim.link));
            allowed.extend(kept.flat_map(|route| self.outside(route)));
            allowed[1..].sort();
            if let Some(slot) = addressing.allowed.get_mut(claim.link.0 as usize) {
                *slot = allowed;
            }
        }
        let pieces = |(route, (_, _, link))| self.outside(route).into_iter().map(move |piece| (piece, link));
        addressing.routes = routes.into_iter().flat_map(pieces).collect();
        addressing.routes.sort_by_key(|(route, _)| std::cmp::Reverse(route.prefix_len()));
        addressing.own.push(IpAddr::V6(self.network.address(&own.peer)));
        addressing.offered.clone_from(&self.offered);
        let mut taken = None;
        if let Some(address) = own.ipv4 {
            match ipv4.get(&address) {
                Some((_, _, Some(link))) => taken = Some(*link),
                Some((_, _, None)) | None => addressing.own.push(IpAddr::V4(address)),
            }
        }
        (addressing, taken)
    }
}

/// A network without a part of it: as many networks as bits lie between both lengths.
fn without(net: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&net) {
        return Vec::new();
    }
    let halves = net.prefix_len() + 1;
    match net.subnets(halves) {
        Ok(halves) if net.contains(&hole) => halves.flat_map(|half| without(half, hole)).collect(),
        Ok(_) | Err(_) => vec![net],
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use campfire_datapath::table::Table;
    use campfire_protocol::identity::Identity;
    use campfire_protocol::time::UnixMillis;

    use super::*;

    #[test]
    fn only_accepted_routes_outside_the_overlay_count() {
        let rules = rules(&["10.0.0.0/8", "fd00::/8", "100.64.0.0/10"]);
        for (route, counts) in [
            ("10.1.0.0/16", true),
            ("10.0.0.0/8", true),
            ("0.0.0.0/0", false),
            ("192.168.0.0/16", false),
            ("fd99::/16", true),
            ("fd01:203:405::/48", false),
            ("fd01:203:405:7::/64", false),
            ("fd00::/8", true),
            ("100.64.0.0/24", false),
            ("100.65.0.0/16", true),
        ] {
            assert_eq!(rules.accepts(&net(route)), counts, "{route}");
        }
    }

    #[test]
    fn a_default_route_is_none_to_the_overlay_itself() {
        let rules = rules(&["0.0.0.0/0", "::/0"]);
        let routes = [net("0.0.0.0/0"), net("::/0")];
        let (addressing, _) = rules.addressing(&own(50), &[claim(0, 1, 100, &routes)]);
        let leads = |to: &str| addressing.routes.iter().any(|(route, _)| route.contains(&to.parse::<IpAddr>().unwrap()));
        assert!(leads("8.8.8.8") && leads("255.255.255.255") && leads("2001:db8::1") && leads("fd01:203:406::1"));
        assert!(!leads("100.64.0.9") && !leads("fd01:203:405::9"), "{:?}", addressing.routes);
        let may_speak = |from: &str| addressing.allowed[0].iter().any(|net| net.contains(&from.parse::<IpAddr>().unwrap()));
        assert!(may_speak("8.8.8.8") && !may_speak("100.64.0.9") && !may_speak("fd01:203:405::9"));
        assert_eq!(addressing.routes.len(), usize::from(rules.pool.unwrap().prefix_len()) + 48);
    }

    #[test]
    fn of_two_claims_to_a_route_the_older_sessions_counts_in_any_order() {
        let rules = rules(&["10.0.0.0/8"]);
        let routes = [net("10.1.0.0/16")];
        let old = claim(0, 1, 100, &routes);
        let young = claim(1, 2, 200, &routes);
        for claims in [[old.clone(), young.clone()], [young.clone(), old.clone()]] {
            let (addressing, _) = rules.addressing(&own(50), &claims);
            assert_eq!(addressing.routes, [(net("10.1.0.0/16"), LinkId(0))]);
            assert!(addressing.allowed[0].contains(&net("10.1.0.0/16")));
            assert!(!addressing.allowed[1].contains(&net("10.1.0.0/16")));
        }
    }

    #[test]
    fn the_longest_route_comes_first() {
        let rules = rules(&["10.0.0.0/8"]);
        let short = [net("10.0.0.0/8")];
        let long = [net("10.1.2.0/24"), net("10.1.0.0/16")];
        let (addressing, _) = rules.addressing(&own(0), &[claim(0, 1, 1, &short), claim(1, 2, 2, &long)]);
        let order: Vec<u8> = addressing.routes.iter().map(|(route, _)| route.prefix_len()).collect();
        assert_eq!(order, [24, 16, 8]);
    }

    #[test]
    fn an_ipv4_address_that_does_not_follow_from_the_key_is_not_had() {
        let rules = rules(&[]);
        let mut thief = claim(0, 1, 1, &[]);
        thief.ipv4 = ipv4_in_pool(rules.pool.unwrap(), &key(2));
        let (addressing, _) = rules.addressing(&own(100), &[thief]);
        assert_eq!(addressing.hosts.len(), 1);
        assert_eq!(addressing.allowed[0].len(), 1);
    }

    #[test]
    fn on_an_ipv4_conflict_the_older_session_keeps_the_address() {
        // A pool this small makes everybody collide sooner or later.
        let mut rules = rules(&[]);
        rules.pool = Some("100.64.0.0/29".parse().unwrap());
        let mine = ipv4_in_pool(rules.pool.unwrap(), &key(9)).unwrap();
        let other = (1..200).find(|n| ipv4_in_pool(rules.pool.unwrap(), &key(*n)) == Some(mine) && *n != 9).unwrap();
        for (session, keeps) in [(10, false), (1_000, true)] {
            let mut theirs = claim(3, other, session, &[]);
            theirs.ipv4 = Some(mine);
            let ours = OwnClaim { ipv4: Some(mine), ..own(100) };
            let (addressing, taken) = rules.addressing(&ours, &[theirs]);
            assert_eq!(addressing.own.contains(&IpAddr::V4(mine)), keeps);
            assert_eq!(taken.is_none(), keeps);
            assert_eq!(addressing.hosts.contains_key(&IpAddr::V4(mine)), !keeps);
        }
    }

    #[test]
    fn red_7_9_an_address_and_a_route_are_taken_by_whoever_says_that_it_runs_since_1970() {
        let rules = rules(&["10.0.0.0/8"]);
        let pool = rules.pool.unwrap();
        let victims = ipv4_in_pool(pool, &key(2)).unwrap();
        let (tries, thief) = (0..u32::MAX)
            .find_map(|n| {
                let mut seed = [0xEE; 32];
                seed[..4].copy_from_slice(&n.to_be_bytes());
                let public = Identity::from_seed(&seed).public();
                (ipv4_in_pool(pool, &public) == Some(victims)).then_some((n, public))
            })
            .unwrap();
        println!("a key with {victims} after {tries} tries");
        let routes = [net("10.1.0.0/16")];
        let mut honest = claim(0, 2, 1_800_000_000_000, &routes);
        honest.ipv4 = Some(victims);
        let mut stolen = claim(1, 3, 0, &routes);
        (stolen.peer, stolen.ipv4) = (thief, Some(victims));
        let (addressing, _) = rules.addressing(&own(1_700_000_000_000), &[honest, stolen]);
        assert_eq!(addressing.hosts.get(&IpAddr::V4(victims)), Some(&LinkId(1)), "traffic to the victim goes to the thief");
        assert_eq!(addressing.routes, [(net("10.1.0.0/16"), LinkId(1))], "and that to its route");
        assert!(!addressing.allowed[0].contains(&IpNet::V4(format!("{victims}/32").parse().unwrap())));
    }

    #[test]
    fn packets_are_taken_to_our_addresses_and_the_routes_that_we_offer() {
        let (addressing, _) = rules(&["10.0.0.0/8"]).addressing(&own(0), &[claim(0, 1, 1, &[net("10.1.0.0/16")])]);
        let overlay = NetworkId([1, 2, 3, 4, 5]);
        let ours = [IpAddr::V6(overlay.address(&key(9))), "10.9.255.1".parse().unwrap()];
        let others = [IpAddr::V6(overlay.address(&key(1))), "10.1.0.1".parse().unwrap(), "10.10.0.1".parse().unwrap()];
        let table = Table { addressing: Arc::new(addressing), ..Table::default() };
        assert!(ours.iter().all(|address| table.is_ours(address)));
        assert!(!others.iter().any(|address| table.is_ours(address)));
    }

    fn rules(accepted: &[&str]) -> Rules {
        Rules {
            network: NetworkId([1, 2, 3, 4, 5]),
            pool: Some("100.64.0.0/16".parse().unwrap()),
            accepted: accepted.iter().map(|text| net(text)).collect(),
            offered: vec![net("10.9.0.0/16")],
        }
    }

    fn claim(link: u32, peer: u8, session: u64, routes: &[IpNet]) -> Claim<'_> {
        let session = Session { started: UnixMillis(session), nonce: 0 };
        let address = NetworkId([1, 2, 3, 4, 5]).address(&key(peer));
        Claim { link: LinkId(link), peer: key(peer), seniority: session, address, ipv4: None, routes }
    }

    fn own(session: u64) -> OwnClaim {
        OwnClaim { peer: key(9), seniority: Session { started: UnixMillis(session), nonce: 0 }, ipv4: None }
    }

    fn key(n: u8) -> PublicKey {
        Identity::from_seed(&[n; 32]).public()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }
}
