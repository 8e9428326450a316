//! Which peers an allocation may talk to. Denied unless allowed: what would let a client reach the server's own host, its
//! neighbours or its cloud's secrets (see [`PeerPolicy`]), in every form in which IPv6 can say an IPv4 address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::PeerPolicy;

impl PeerPolicy {
    /// Whether this address may be a peer. What `allow` or `deny` say of an IPv4 address counts for itself alone, what is
    /// built in counts for its IPv6 forms too.
    pub fn permits(&self, peer: IpAddr) -> bool {
        let listed = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&peer));
        if listed(&self.deny) || embedded(peer).is_some_and(|inner| self.deny.iter().any(|net| net.contains(&IpAddr::V4(inner)))) {
            return false;
        }
        listed(&self.allow) || !self.denied_by_default(peer)
    }

    fn denied_by_default(&self, peer: IpAddr) -> bool {
        match peer {
            IpAddr::V4(ip) => self.denied_v4(ip),
            // A v4-mapped address on an IPv6 socket is IPv4 by a back door, whatever it maps.
            IpAddr::V6(ip) => {
                NEVER_V6.iter().any(|net| net.contains(&ip))
                    || METADATA_V6.contains(&ip)
                    || !self.allow_private && PRIVATE_V6.iter().any(|net| net.contains(&ip))
                    || embedded(peer).is_some_and(|inner| self.denied_v4(inner))
            }
        }
    }

    fn denied_v4(&self, ip: Ipv4Addr) -> bool {
        NEVER_V4.iter().any(|net| net.contains(&ip))
            || METADATA_V4.contains(&ip)
            || !self.allow_private && PRIVATE_V4.iter().any(|net| net.contains(&ip))
    }
}

/// The IPv4 address that an IPv6 address carries: NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380), ISATAP
/// (RFC 5214), v4-mapped and v4-compatible (RFC 4291).
fn embedded(peer: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = peer else { return None };
    let bits = ip.to_bits();
    let low = Ipv4Addr::from_bits(bits as u32);
    match ip.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] | [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Some(low),
        [0x2002, ..] => Some(Ipv4Addr::from_bits((bits >> 80) as u32)),
        [0x2001, 0, ..] => Some(Ipv4Addr::from_bits(!(bits as u32))),
        _ => None,
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(a: u16, b: u16, c: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), length)
}

/// "This" network and unspecified, loopback, link-local (most clouds' metadata are there), IETF assignments, multicast,
/// reserved and broadcast.
const NEVER_V4: [Ipv4Net; 6] =
    [v4(0, 0, 0, 0, 8), v4(127, 0, 0, 0, 8), v4(169, 254, 0, 0, 16), v4(192, 0, 0, 0, 24), v4(224, 0, 0, 0, 4), v4(240, 0, 0, 0, 4)];

/// RFC 1918, RFC 6598.
const PRIVATE_V4: [Ipv4Net; 4] = [v4(10, 0, 0, 0, 8), v4(172, 16, 0, 0, 12), v4(192, 168, 0, 0, 16), v4(100, 64, 0, 0, 10)];

/// Metadata services outside 169.254.0.0/16: Alibaba Cloud, Azure's host.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];

/// Unspecified, loopback, v4-compatible and v4-mapped (all in ::/64), v4-translated, link-local, site-local, multicast,
/// discard-only, and the NAT64 prefix for local use, in which the IPv4 address may stand in several places (RFC 8215).
const NEVER_V6: [Ipv6Net; 6] =
    [v6(0, 0, 0, 64), v6(0x64, 0xff9b, 1, 48), v6(0xfe80, 0, 0, 10), v6(0xfec0, 0, 0, 10), v6(0xff00, 0, 0, 8), v6(0x100, 0, 0, 64)];

/// RFC 4193.
const PRIVATE_V6: [Ipv6Net; 1] = [v6(0xfc00, 0, 0, 7)];

/// Metadata services: Amazon (also its DNS and time), Google.
const METADATA_V6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x123),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(policy: &PeerPolicy, peer: &str) -> bool {
        policy.permits(peer.parse().expect("an address"))
    }

    #[test]
    fn what_leads_into_the_host_or_its_cloud_is_denied_in_all_its_forms() {
        let denied = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "169.254.1.1",
            "192.0.0.192",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "::ffff:0:127.0.0.1",
            "fe80::1",
            "fe80::a9fe:a9fe",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "2001:0:808:808:0:0:80ff:fffe",
            "2001:db8::5efe:7f00:1",
            "2001:db8::200:5efe:a9fe:a9fe",
            "64:ff9b::",
        ];
        let lenient = PeerPolicy { allow_private: true, ..PeerPolicy::default() };
        for peer in denied {
            assert!(!permits(&PeerPolicy::default(), peer), "{peer}");
            assert!(!permits(&lenient, peer), "{peer} although private ones are allowed");
        }
    }

    #[test]
    fn private_addresses_are_denied_until_allowed() {
        let lenient = PeerPolicy { allow_private: true, ..PeerPolicy::default() };
        for peer in
            ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fd12:3456::1", "64:ff9b::a00:1", "2002:a00:1::"]
        {
            assert!(!permits(&PeerPolicy::default(), peer), "{peer}");
            assert!(permits(&lenient, peer), "{peer}");
        }
    }

    #[test]
    fn public_addresses_are_permitted() {
        for peer in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "203.0.113.7", "2001:db8::1", "2600::1", "64:ff9b::808:808", "2002:808:808::1"]
        {
            assert!(permits(&PeerPolicy::default(), peer), "{peer}");
        }
    }

    #[test]
    fn allow_opens_what_is_built_in_and_deny_wins_over_it() {
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        let policy = PeerPolicy {
            allow: vec![net("127.0.0.0/8"), net("9.9.9.0/24")],
            deny: vec![net("127.0.0.2/32"), net("8.8.8.0/24")],
            allow_private: false,
        };
        assert!(permits(&policy, "127.0.0.1"));
        assert!(!permits(&policy, "127.0.0.2"));
        assert!(!permits(&policy, "8.8.8.8"));
        assert!(!permits(&policy, "64:ff9b::808:808"), "a denied IPv4 address is denied through NAT64 too");
        assert!(!permits(&policy, "::ffff:127.0.0.1"), "an allowed IPv4 address does not open its IPv6 forms");
    }
}
