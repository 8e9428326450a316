//! What other hosts and kernels have: bridges, strict filters, no IPv6, devices that take no superpackets. What this kernel cannot be made
//! to do is emulated by a program under which ours run; such a test says so by its name. Needs root; says so where it cannot run.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use campfire_lab::peer::{INTERFACE, Keys, binary, emulator};
use campfire_lab::{Host, Nat, Peer, PeerOptions, TurnServer, World};
use serde_json::Value;

#[test]
fn a_tun_that_refuses_superpackets_carries_tcp_all_the_same_emulated() {
    let Some(mut lab) = Lab::new("notso") else { return };
    let (ada, bob) = (lab.open("ada"), lab.open("bob"));
    let ada = lab.start(ada);
    lab.options.under = Some((emulator(lab.world.state()).unwrap(), "no-superpackets"));
    let bob = lab.start(bob);
    lab.meet(&[&ada, &bob]);
    assert_eq!(transfer(&ada, &bob, 2_000_000), 2_000_000, "{}", bob.log_tail(20));
    let log = bob.log_tail(usize::MAX);
    assert_eq!(log.matches("the TUN device takes no superpackets").count(), 1, "{log}");
    assert!(!ada.log_tail(usize::MAX).contains("takes no superpackets"));
}

#[test]
fn a_server_told_to_listen_on_all_addresses_does_where_there_is_no_ipv6_emulated() {
    let Some(mut lab) = Lab::new("nov6") else { return };
    let emulator = emulator(lab.world.state()).unwrap();
    let (host, ada, bob) = (lab.open("elm"), lab.open("ada"), lab.open("bob"));
    let serve = |listen: &[&str]| {
        // Who should end and does not is ended.
        let mut command = host.command("timeout");
        command.arg("60").arg(&emulator).arg("no-ipv6").arg(binary("campfire-turn").unwrap());
        command.args(["--enable-campfire", "--secrets-dir"]).arg(&lab.keys.secrets);
        command.args(listen.iter().flat_map(|listen| ["--listen", listen]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // What is asked for by address, and what leaves nothing, is told.
    for listen in [&["udp://[::1]:3478"][..], &["udp://[::]:3478"]] {
        let output = serve(listen).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{listen:?}: {said}");
        assert!(said.contains("[::1]:3478") || said.contains("this kernel has no IPv6"), "{said}");
    }
    let mut server = serve(&["udp://0.0.0.0:3478", "udp://[::]:3478", "tcp://[::]:3478"]).spawn().unwrap();
    lab.options.servers = vec![format!("elm={}:3478", host.address())];
    let peers = [lab.start(ada), lab.start(bob)];
    lab.meet(&[&peers[0], &peers[1]]);
    assert!(server.try_wait().unwrap().is_none(), "it runs");
    // It hands this on, which it could not if it were killed.
    assert!(Command::new("kill").arg(server.id().to_string()).status().unwrap().success());
    server.wait().unwrap();
}

#[test]
fn two_hosts_of_one_network_find_each_other_there_however_many_bridges_they_have() {
    let Some(mut lab) = Lab::new("bridges") else { return };
    let mut gateway = lab.world.gateway("gw", Nat::Masquerade, false).unwrap();
    let hosts = ["ada", "bob"].map(|name| lab.world.host(&mut gateway, name).unwrap());
    for host in &hosts {
        // As container runtimes make them: with the same addresses everywhere, some of which sort before the network's own.
        for n in 1..=9 {
            let (name, address) = (format!("br{n}"), format!("10.0.{n}.1/24"));
            host.output("ip", &["link", "add", &name, "type", "bridge"]).unwrap();
            host.output("ip", &["address", "add", &address, "dev", &name]).unwrap();
            host.output("ip", &["link", "set", &name, "up"]).unwrap();
        }
    }
    let addresses = hosts.each_ref().map(|host| host.address().to_string());
    let peers = hosts.map(|host| lab.start(host));
    lab.meet(&[&peers[0], &peers[1]]);
    let start = Instant::now();
    loop {
        let seen = lab.status(&peers[0])["peers"][0].clone();
        if seen["path"] == "Direct" {
            let endpoints = peers[0].host.output("wg", &["show", INTERFACE, "endpoints"]).unwrap();
            assert!(endpoints.contains(&format!("{}:", addresses[1])), "{endpoints}");
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{seen}\n{}", peers[0].campfire(&["why", "bob"]).unwrap());
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_strict_reverse_path_filter_beside_an_accepted_default_route_is_told_with_its_remedy() {
    let Some(mut lab) = Lab::new("rpf") else { return };
    let mut gateway = lab.world.gateway("gw", Nat::Masquerade, false).unwrap();
    let (ada, bob) = (lab.world.host(&mut gateway, "ada").unwrap(), lab.open("bob"));
    bob.namespace().sysctl(&["net.ipv4.ip_forward=1"]).unwrap();
    bob.output("ip", &["address", "add", "10.99.0.1/32", "dev", "lo"]).unwrap();
    let default = ada.output("ip", &["-4", "route", "show", "default"]).unwrap();
    let device = default.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap().to_owned();
    ada.namespace().sysctl(&[&format!("net.ipv4.conf.{device}.rp_filter=1")]).unwrap();
    lab.options.extra = ["--ipv4-pool", "100.80.0.0/16", "--advertise-route", "0.0.0.0/0"].map(String::from).into();
    let bob = lab.start(bob);
    lab.options.extra = ["--ipv4-pool", "100.80.0.0/16", "--accept-route", "0.0.0.0/0"].map(String::from).into();
    let ada = lab.start(ada);
    let remedy = format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2");
    let problems = |peer: &Peer| peer.campfire(&["status", "--interface", INTERFACE]).unwrap_or_default();
    let start = Instant::now();
    while !problems(&ada).contains(&remedy) {
        assert!(start.elapsed() < Duration::from_secs(20), "{}\n{}", problems(&ada), ada.log_tail(20));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(ada.log_tail(usize::MAX).contains(&remedy), "it is in the log, too");
    ada.host.namespace().sysctl(&[&format!("net.ipv4.conf.{device}.rp_filter=2")]).unwrap();
    lab.meet(&[&ada, &bob]);
    ada.host.output("ping", &["-c", "3", "-i", "0.2", "-W", "3", "10.99.0.1"]).unwrap();
    let start = Instant::now();
    while problems(&ada).contains("rp_filter") {
        assert!(start.elapsed() < Duration::from_secs(20), "done as told, and still a problem: {}", problems(&ada));
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Packets of links alone: WireGuard's messages by their type, ChannelData by its channel. The rest is camping.
const COUNTERS: &str = "table inet idle {
  counter direct {}
  counter relayed {}
  chain out {
    type filter hook output priority 0;
    meta l4proto udp @th,64,32 { 0x01000000, 0x02000000, 0x03000000, 0x04000000 } counter name direct
    meta l4proto udp @th,64,4 4 counter name relayed
  }
}";

#[test]
#[ignore = "soak: watches idle links for five minutes"]
fn soak_an_idle_link_costs_eight_packets_a_minute_at_most() {
    const WATCHED: Duration = Duration::from_mins(5);
    let Some(mut lab) = Lab::new("idle") else { return };
    let mut pairs = Vec::new();
    for (kind, extra) in [("direct", &[][..]), ("relayed", &["--no-direct"])] {
        let keys = Keys::make(&lab.folder(kind)).unwrap();
        std::fs::copy(keys.secrets.join(&keys.fingerprint), lab.keys.secrets.join(&keys.fingerprint)).unwrap();
        lab.options.extra = extra.iter().map(|word| (*word).to_owned()).collect();
        let pair = ["a", "b"].map(|name| {
            let mut gateway = lab.world.gateway(&format!("{name}{kind}"), Nat::PortRestricted, false).unwrap();
            let host = lab.world.host(&mut gateway, &format!("{name}-{kind}")).unwrap();
            host.namespace().nft(COUNTERS).unwrap();
            Peer::start(host, &keys.psk, &lab.options).unwrap()
        });
        pairs.push((kind, pair));
    }
    for (_, [one, other]) in &pairs {
        lab.meet(&[one, other]);
    }
    std::thread::sleep(Duration::from_mins(2));
    let counted = |pair: &[Peer; 2], kind: &str| -> u64 { pair.iter().map(|peer| count(&peer.host, kind)).sum() };
    let before: Vec<u64> = pairs.iter().map(|(kind, pair)| counted(pair, kind)).collect();
    std::thread::sleep(WATCHED);
    for ((kind, pair), before) in pairs.iter().zip(before) {
        let path = lab.status(&pair[0])["peers"][0]["path"].clone();
        assert_eq!(path, if *kind == "direct" { "Direct" } else { "Relay" });
        let a_minute = (counted(pair, kind) - before) as f64 * 60.0 / WATCHED.as_secs_f64();
        println!("SOAK: an idle {kind} link costs {a_minute:.1} packets a minute");
        assert!(a_minute <= 8.0, "{kind}: {a_minute}");
        assert!(a_minute >= 2.0, "{kind}: {a_minute}: nothing is counted");
    }
}

fn count(host: &Host, name: &str) -> u64 {
    let listed = host.output("nft", &["list", "counter", "inet", "idle", name]).unwrap();
    listed.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap().parse().unwrap()
}

/// Sends so many bytes over the overlay by TCP; how many came.
fn transfer(from: &Peer, to: &Peer, bytes: usize) -> usize {
    let address = to.overlay().unwrap();
    let receive = format!(
        "import socket\ns=socket.socket(socket.AF_INET6); s.bind(('{address}',7777)); s.listen(1); s.settimeout(20); print('up',flush=True)\n\
         c,_=s.accept(); c.settimeout(20); n=0\nwhile True:\n b=c.recv(65536)\n if not b: break\n n+=len(b)\nprint(n)"
    );
    let mut receiver = to.host.command("python3").args(["-c", &receive]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let send =
        format!("import socket\ns=socket.create_connection(('{address}',7777),10); s.settimeout(15); s.sendall(b'x'*{bytes}); s.close()");
    let sent = from.host.output("python3", &["-c", &send]);
    if sent.is_err() {
        let _ = receiver.kill();
    }
    let out = String::from_utf8(receiver.wait_with_output().unwrap().stdout).unwrap();
    sent.unwrap();
    out.lines().last().unwrap().parse().unwrap()
}

/// A world with a server and a key.
struct Lab {
    world: World,
    _server: TurnServer,
    keys: Keys,
    options: PeerOptions,
}

impl Lab {
    /// `None`, with the reason printed, where it cannot be.
    fn new(name: &str) -> Option<Self> {
        if campfire_lab::net::skipped() {
            return None;
        }
        let mut world = World::new(name).unwrap();
        let keys = Keys::make(world.state()).unwrap();
        let host = world.server("oak").unwrap();
        let options = PeerOptions { servers: vec![format!("oak={}:3478", host.address())], ..PeerOptions::default() };
        let server = TurnServer::start(host, &keys.secrets).unwrap();
        Some(Self { world, _server: server, keys, options })
    }

    /// A host without a NAT.
    fn open(&mut self, name: &str) -> Host {
        self.world.server(name).unwrap()
    }

    fn folder(&self, name: &str) -> std::path::PathBuf {
        let folder = self.world.state().join(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    fn start(&self, host: Host) -> Peer {
        Peer::start(host, &self.keys.psk, &self.options).unwrap()
    }

    fn status(&self, peer: &Peer) -> Value {
        let _ = self;
        peer.status().unwrap()
    }

    fn meet(&self, peers: &[&Peer]) {
        let _ = self;
        for peer in peers {
            peer.wait_for_peers(peers.len() - 1, Duration::from_secs(20)).unwrap();
        }
    }
}
