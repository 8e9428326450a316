//! What gateways do to packets, in nftables.

use std::net::Ipv4Addr;

/// What a gateway does to UDP (RFC 4787: mapping, filtering).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// No translation, no filter: hosts have public addresses.
    Open,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    Restricted,
    /// Endpoint-independent mapping to a random port, address- and port-dependent filtering.
    PortRestricted,
    /// Plain `masquerade`: keeps the port where it can, so that it looks endpoint-independent until two hosts use one port.
    Masquerade,
    /// `masquerade fully-random`: another port for each destination, as many CNIs and cloud NAT gateways do.
    Symmetric,
    /// As `Masquerade`, but UDP is dropped.
    UdpBlocked,
    /// As `Masquerade`, but nothing leaves except TCP to port 443.
    OnlyTcp443,
    /// No IPv4 at all; IPv6 routed behind a stateful firewall.
    Ipv6Only,
}

impl Nat {
    pub(crate) fn has_ipv4(self) -> bool {
        self != Nat::Ipv6Only
    }

    /// For tables and pictures.
    pub fn label(self) -> &'static str {
        match self {
            Nat::Open => "open",
            Nat::FullCone => "full cone",
            Nat::Restricted => "restricted cone",
            Nat::PortRestricted => "port-restricted cone",
            Nat::Masquerade => "Linux masquerade",
            Nat::Symmetric => "symmetric",
            Nat::UdpBlocked => "UDP blocked",
            Nat::OnlyTcp443 => "TCP 443 only",
            Nat::Ipv6Only => "IPv6 only, firewalled",
        }
    }
}

/// The gateway's ruleset, towards the internet on `wan0`.
pub(crate) fn rules(nat: Nat, public: Option<Ipv4Addr>) -> String {
    let public = public.map_or_else(String::new, |a| a.to_string());
    // Endpoint-independent mapping: (inside address, port) → one outside port for every destination. `in` holds the
    // inverse, learnt after translation, for what the filters of the cones let in.
    let cone = format!(
        "map out {{ type ipv4_addr . inet_service : inet_service; flags dynamic,timeout; timeout 10m; size 65535; }}
         map in {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 10m; size 65535; }}
         set talked {{ type inet_service . ipv4_addr; flags dynamic,timeout; timeout 10m; size 65535; }}
         chain post {{ type nat hook postrouting priority srcnat;
           oifname wan0 meta l4proto udp update @out {{ ip saddr . udp sport : numgen random mod 30000 offset 20000 }}
           oifname wan0 meta l4proto udp snat ip to {public} : ip saddr . udp sport map @out
           oifname wan0 masquerade
         }}
         chain learn {{ type filter hook postrouting priority srcnat + 10;
           oifname wan0 ct direction original update @in {{ udp sport : ct original ip saddr . ct original proto-src }}
           oifname wan0 update @talked {{ udp sport . ip daddr }}
         }}"
    );
    let masquerade = "chain post { type nat hook postrouting priority srcnat; oifname wan0 masquerade; }".to_owned();
    let translate = match nat {
        Nat::Open | Nat::Ipv6Only => String::new(),
        Nat::Masquerade | Nat::UdpBlocked | Nat::OnlyTcp443 => masquerade,
        Nat::Symmetric => "chain post { type nat hook postrouting priority srcnat; oifname wan0 masquerade fully-random; }".into(),
        Nat::PortRestricted => cone,
        Nat::Restricted => format!(
            "{cone}\n chain pre {{ type nat hook prerouting priority dstnat; iifname wan0 ip daddr {public} udp dport . ip saddr @talked dnat ip to udp dport map @in; }}\n"
        ),
        Nat::FullCone => format!(
            "{cone}\n chain pre {{ type nat hook prerouting priority dstnat; iifname wan0 ip daddr {public} meta l4proto udp dnat ip to udp dport map @in; }}\n"
        ),
    };
    let forward = match nat {
        Nat::Open => "accept",
        Nat::UdpBlocked => "meta nfproto ipv4 meta l4proto udp drop; ct state established,related accept; iifname != wan0 accept; drop",
        Nat::OnlyTcp443 => "ct state established,related accept; iifname != wan0 oifname wan0 tcp dport 443 accept; drop",
        _ => "ct state established,related accept; iifname != wan0 accept; ct status dnat accept; drop",
    };
    let input = if nat == Nat::Open {
        "accept"
    } else {
        "ct state established,related accept; iifname != wan0 accept; meta l4proto { icmp, ipv6-icmp } accept; drop"
    };
    format!(
        "flush ruleset\ntable ip nat {{\n{translate}\n}}\ntable inet fw {{
           chain input {{ type filter hook input priority filter; {input}; }}
           chain forward {{ type filter hook forward priority filter; {forward}; }}
         }}"
    )
}
