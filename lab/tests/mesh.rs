//! The real programs in real namespaces: the kernel's NAT, TUN, `ping` and `wg`. Needs root; says so where it cannot run.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use campfire_lab::peer::{Certificate, INTERFACE, Keys};
use campfire_lab::{Gateway, Host, Nat, Peer, PeerOptions, TurnServer, World};
use serde_json::Value;

#[test]
fn symmetric_and_masquerade_talk_through_the_fire_and_say_why() {
    let Some(mut lab) = Lab::new("sym", 2) else { return };
    let (mut one, mut two) = (lab.gateway("a", Nat::Symmetric), lab.gateway("b", Nat::Masquerade));
    let (p, q) = (lab.peer(&mut one, "p"), lab.peer(&mut two, "q"));
    lab.all_ping(&[&p, &q]);
    let (at_p, at_q) = (lab.settled(&p, "q"), lab.settled(&q, "p"));
    assert_eq!((at_p["path"].as_str(), at_p["why_not_direct"].as_str()), (Some("Relay"), Some("SymmetricNAT")), "{at_p}");
    assert_eq!((at_q["path"].as_str(), at_q["why_not_direct"].as_str()), (Some("Relay"), Some("PeerSymmetricNAT")), "{at_q}");
}

#[test]
fn port_restricted_peers_find_a_direct_path() {
    let Some(mut lab) = Lab::new("prpr", 2) else { return };
    let (mut one, mut two) = (lab.gateway("a", Nat::PortRestricted), lab.gateway("b", Nat::PortRestricted));
    let (p, q) = (lab.peer(&mut one, "p"), lab.peer(&mut two, "q"));
    lab.all_ping(&[&p, &q]);
    assert_eq!(lab.settled(&p, "q")["path"], "Direct");
    assert_eq!(lab.settled(&q, "p")["path"], "Direct");
    let peers = p.host.output("wg", &["show", INTERFACE, "endpoints"]).unwrap();
    assert!(peers.contains(&two.ipv4.unwrap().to_string()), "wg shows the direct endpoint: {peers}");
    lab.all_ping(&[&p, &q]);
}

#[test]
fn symmetric_reaches_a_full_cone_and_an_open_host_directly() {
    let Some(mut lab) = Lab::new("symfc", 2) else { return };
    let (mut one, mut two, mut three) = (lab.gateway("a", Nat::Symmetric), lab.gateway("b", Nat::FullCone), lab.gateway("c", Nat::Open));
    let (p, q, o) = (lab.peer(&mut one, "p"), lab.peer(&mut two, "q"), lab.peer(&mut three, "o"));
    lab.all_ping(&[&p, &q, &o]);
    for other in ["q", "o"] {
        let seen = lab.settled(&p, other);
        assert_eq!(seen["path"], "Direct", "{seen}");
    }
}

#[test]
fn a_peer_without_udp_camps_over_tcp() {
    let Some(mut lab) = Lab::new("tcp", 1) else { return };
    let (mut one, mut two) = (lab.gateway("a", Nat::UdpBlocked), lab.gateway("b", Nat::Masquerade));
    let (p, q) = (lab.peer(&mut one, "p"), lab.peer(&mut two, "q"));
    lab.all_ping(&[&p, &q]);
    let seen = lab.settled(&p, "q");
    assert_eq!((seen["path"].as_str(), seen["why_not_direct"].as_str()), (Some("Relay"), Some("UDPBlocked")), "{seen}");
    assert_eq!(lab.status(&p)["servers"][0]["transport"], "tcp");
}

#[test]
fn a_peer_that_gets_out_on_tcp_443_alone_camps_over_tls_with_a_server_that_it_knows() {
    let Some(mut lab) = Lab::new("tls", 0) else { return };
    let host = lab.world.server("srv0").unwrap();
    let address = host.address();
    let made = rcgen::generate_simple_self_signed(vec![address.to_string()]).unwrap();
    let certificate = Certificate { chain: lab.world.state().join("cert.pem"), key: lab.world.state().join("key.pem") };
    std::fs::write(&certificate.chain, made.cert.pem()).unwrap();
    std::fs::write(&certificate.key, made.signing_key.serialize_pem()).unwrap();
    lab.options.servers = vec![format!("srv0={address}:3478"), format!("srv0=turns:{address}:443")];
    lab.options.extra = vec!["--ca-file".into(), certificate.chain.display().to_string()];
    lab.servers.push(TurnServer::start_with(host, &lab.keys.secrets, Some(certificate)).unwrap());
    let (mut one, mut two) = (lab.gateway("a", Nat::OnlyTcp443), lab.gateway("b", Nat::Masquerade));
    let (p, q) = (lab.peer(&mut one, "p"), lab.peer(&mut two, "q"));
    lab.all_ping(&[&p, &q]);
    assert_eq!(lab.settled(&p, "q")["why_not_direct"], "UDPBlocked");
    assert_eq!(lab.status(&p)["servers"][0]["transport"], "tls");
    assert_eq!(lab.status(&q)["servers"][0]["transport"], "udp");
}

#[test]
fn peers_with_ipv6_alone_meet_and_talk() {
    let Some(mut lab) = Lab::new("v6", 1) else { return };
    let (mut one, mut two) = (lab.gateway("a", Nat::Ipv6Only), lab.gateway("b", Nat::Ipv6Only));
    let (p, q) = (lab.peer(&mut one, "p"), lab.peer(&mut two, "q"));
    lab.all_ping(&[&p, &q]);
    assert_eq!(lab.settled(&p, "q")["path"], "Direct", "both sides start together, so a stateful firewall lets them through");
}

#[test]
fn a_path_of_1280_bytes_carries_full_packets() {
    let Some(mut lab) = Lab::new("mtu", 1) else { return };
    let (mut one, mut two) = (lab.gateway("a", Nat::Masquerade), lab.gateway("b", Nat::PortRestricted));
    lab.world.mtu(&one, 1280).unwrap();
    let (p, q) = (lab.peer(&mut one, "p"), lab.peer(&mut two, "q"));
    lab.all_ping(&[&p, &q]);
    lab.settled(&p, "q");
    // 1,232 bytes of ICMP payload make a packet of the overlay's MTU, 1,280.
    for (from, to) in [(&p, &q), (&q, &p)] {
        let out =
            from.host.output("ping", &["-6", "-M", "do", "-s", "1232", "-c", "5", "-i", "0.2", "-W", "2", &to.overlay().unwrap()]).unwrap();
        assert!(out.contains(" 0% packet loss"), "{out}");
    }
}

#[test]
fn a_killed_server_costs_less_than_two_seconds_and_no_session() {
    let Some(mut lab) = Lab::new("fail", 2) else { return };
    let (mut one, mut two) = (lab.gateway("a", Nat::Symmetric), lab.gateway("b", Nat::Symmetric));
    let (p, q) = (lab.peer(&mut one, "p"), lab.peer(&mut two, "q"));
    lab.all_ping(&[&p, &q]);
    let before = lab.settled(&p, "q");
    let server = before["server"].as_str().unwrap().to_owned();
    let ping = p
        .host
        .command("ping")
        .args(["-6", "-D", "-i", "0.05", "-c", "140", "-W", "1", &q.overlay().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    lab.servers.iter_mut().find(|s| s.host.name == server).unwrap().kill();
    let out = ping.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let stamps: Vec<f64> =
        text.lines().filter(|l| l.contains("icmp_seq")).filter_map(|l| l.strip_prefix('[')?.split(']').next()?.parse().ok()).collect();
    let gap = stamps.windows(2).map(|w| w[1] - w[0]).fold(0.0, f64::max);
    println!("gap {gap:.2} s over {} answers", stamps.len());
    assert!(stamps.len() > 90 && gap < 2.0, "gap {gap:.2} s, {} answers\n{}", stamps.len(), p.log_tail(30));
    let after = lab.settled(&p, "q");
    assert_ne!(after["server"], before["server"]);
    assert!(after["last_handshake_ms"].as_u64().unwrap() > 6_000, "the session is the one from before: {after}");
}

#[test]
fn a_goodbye_is_known_within_a_second() {
    let Some(mut lab) = Lab::new("bye", 1) else { return };
    let mut gateway = lab.gateway("a", Nat::Masquerade);
    let (p, q) = (lab.peer(&mut gateway, "p"), lab.peer(&mut gateway, "q"));
    lab.all_ping(&[&p, &q]);
    q.stop().unwrap();
    let start = Instant::now();
    while lab.status(&p)["peers"].as_array().unwrap().iter().any(|peer| peer["name"] == "q" && peer["path"] != "None") {
        assert!(start.elapsed() < Duration::from_secs(1), "p still shows q after a second: {}", lab.status(&p));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn no_key_is_ever_printed_not_even_at_trace() {
    let Some(mut lab) = Lab::new("keys", 1) else { return };
    lab.options.log = Some("trace".into());
    let (mut one, mut two) = (lab.gateway("a", Nat::Masquerade), lab.gateway("b", Nat::Symmetric));
    let (p, q) = (lab.peer(&mut one, "p"), lab.peer(&mut two, "q"));
    lab.all_ping(&[&p, &q]);
    let mut said = String::new();
    for peer in [&p, &q] {
        said += &peer.log_tail(usize::MAX);
        said += &lab.status(peer).to_string();
        said += &peer.host.output("wg", &["show", INTERFACE, "dump"]).unwrap();
        said += &peer.campfire(&["graph", "--interface", INTERFACE]).unwrap();
        said += &std::fs::read_to_string(format!("/proc/{}/cmdline", peer.pid())).unwrap();
    }
    said += &std::fs::read_to_string(lab.servers[0].host.state().join("campfire-turn.log")).unwrap();
    let psk = std::fs::read_to_string(&lab.keys.psk).unwrap();
    let relay = std::fs::read_to_string(lab.keys.secrets.join(&lab.keys.fingerprint)).unwrap();
    assert!(said.len() > 10_000, "the logs were written at all");
    for secret in [psk.trim(), relay.trim()] {
        assert!(secret.len() >= 32);
        assert!(!said.contains(secret), "a secret was printed");
    }
    for peer in [&p, &q] {
        let identity = std::fs::read_to_string(peer.host.state().join("identity")).unwrap();
        assert!(!said.contains(identity.trim()), "an identity's seed was printed");
    }
}

/// A world with servers and a key.
struct Lab {
    world: World,
    servers: Vec<TurnServer>,
    keys: Keys,
    options: PeerOptions,
}

impl Lab {
    /// `None`, with the reason printed, where it cannot be.
    fn new(name: &str, servers: usize) -> Option<Self> {
        if campfire_lab::net::skipped() {
            return None;
        }
        let mut world = World::new(name).unwrap();
        let keys = Keys::make(world.state()).unwrap();
        let mut options = PeerOptions::default();
        let servers = (0..servers)
            .map(|k| {
                let host = world.server(&format!("srv{k}")).unwrap();
                let address = match host.ipv6 {
                    Some(v6) if name == "v6" => format!("[{v6}]"),
                    _ => host.address().to_string(),
                };
                options.servers.push(format!("{}={address}:3478", host.name));
                TurnServer::start(host, &keys.secrets).unwrap()
            })
            .collect();
        Some(Self { world, servers, keys, options })
    }

    fn gateway(&mut self, name: &str, nat: Nat) -> Gateway {
        self.world.gateway(&format!("gw-{name}"), nat, false).unwrap()
    }

    fn peer(&mut self, gateway: &mut Gateway, name: &str) -> Peer {
        let host: Host = self.world.host(gateway, name).unwrap();
        Peer::start(host, &self.keys.psk, &self.options).unwrap()
    }

    fn status(&self, peer: &Peer) -> Value {
        let _ = self;
        peer.status().unwrap()
    }

    /// Every peer reaches every other by `ping` over the overlay.
    fn all_ping(&self, peers: &[&Peer]) {
        let _ = self;
        for peer in peers {
            peer.wait_for_peers(peers.len() - 1, Duration::from_secs(20)).unwrap();
        }
        for from in peers {
            for to in peers.iter().filter(|to| to.host.name != from.host.name) {
                let overlay = to.overlay().unwrap();
                if let Err(error) = from.host.output("ping", &["-6", "-c", "3", "-i", "0.2", "-W", "3", &overlay]) {
                    panic!("{} → {}: {error:#}\n{}", from.host.name, to.host.name, from.log_tail(40));
                }
            }
        }
    }

    /// What `peer` says of the one called `name` once its path is no longer being looked for.
    fn settled(&self, peer: &Peer, name: &str) -> Value {
        let start = Instant::now();
        loop {
            let status = self.status(peer);
            let seen = status["peers"].as_array().unwrap().iter().find(|p| p["name"] == name).cloned().unwrap_or(Value::Null);
            if seen["path"] == "Direct"
                || (seen["path"] == "Relay" && seen["why_not_direct"] != "Pending")
                || start.elapsed() > Duration::from_secs(20)
            {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
