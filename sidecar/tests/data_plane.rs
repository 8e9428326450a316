//! Two data planes in network namespaces of their own, with tables made by hand; and one against wireguard-go. Needs root; says so where it
//! has to skip.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use campfire_lab::{Namespace, Net};

const SECRETS: [&str; 2] = [
    "0101010101010101010101010101010101010101010101010101010101010101",
    "0202020202020202020202020202020202020202020202020202020202020202",
];
const PRESHARED: &str = "0303030303030303030303030303030303030303030303030303030303030303";

/// The public keys of the two secrets.
const PUBLIC: [&str; 2] = [
    "a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209",
    "ce8d3ad1ccb633ec7b70c17814a5c76ecd029685050d344745ba05870e587d59",
];

#[test]
fn two_peers_talk_directly() {
    let Some(mut world) = World::new(1500) else { return };
    world.peers(["10.77.0.2:4001", "10.77.0.1:4001"]);
    world.ping("10.9.0.2");
    world.ping("fd09::2");
    world.transfer("10.9.0.2:5001", 40_000_000);
    world.transfer("[fd09::2]:5001", 40_000_000);
}

#[test]
fn two_peers_talk_through_channel_data() {
    let Some(mut world) = World::new(1500) else { return };
    world.start(0, &["relay", "10.77.0.1:3478", "10.77.0.1:4001", "10.77.0.2:4001"], None);
    world.peers(["relay@10.77.0.1:3478@4001"; 2]);
    world.ping("fd09::2");
    world.transfer("[fd09::2]:5001", 5_000_000);
}

#[test]
fn two_peers_talk_over_ipv6() {
    let Some(mut world) = World::new(1500) else { return };
    world.peers(["[fd77::2]:4001", "[fd77::1]:4001"]);
    world.ping("10.9.0.2");
    world.transfer("[fd09::2]:5001", 20_000_000);
}

#[test]
fn a_path_too_narrow_for_the_datagrams_works_by_fragments() {
    let Some(mut world) = World::new(1280) else { return };
    world.peers(["10.77.0.2:4001", "10.77.0.1:4001"]);
    world.ping("10.9.0.2");
    world.transfer("[fd09::2]:5001", 5_000_000);
}

#[test]
fn packets_that_come_before_the_session_wait_for_it() {
    let Some(mut world) = World::new(1500) else { return };
    world.peer(0, "10.77.0.2:4001", false);
    let ping = world.spawn(0, &["ping", "-c", "1", "-W", "4", "10.9.0.2"]);
    std::thread::sleep(Duration::from_millis(300));
    // A device that was there before, as in a pod: attached to.
    world.run(1, &["ip", "tuntap", "add", "dev", "cft1", "mode", "tun"]);
    world.addresses(1);
    world.start_peer(1, "10.77.0.1:4001", true);
    assert!(ping.wait_with_output().is_ok_and(|output| output.status.success()), "the first ping was answered");
}

#[test]
fn a_source_address_of_somebody_else_is_dropped() {
    let Some(mut world) = World::new(1500) else { return };
    world.peers(["10.77.0.2:4001", "10.77.0.1:4001"]);
    world.ping("10.9.0.2");
    world.run(0, &["ip", "addr", "add", "10.9.0.3/32", "dev", "cft0"]);
    world.run(1, &["ip", "route", "add", "10.9.0.3/32", "dev", "cft1"]);
    let forged = world.spawn(0, &["ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", "10.9.0.3", "10.9.0.2"]);
    assert!(forged.wait_with_output().is_ok_and(|output| !output.status.success()), "answered a forged source");
}

#[test]
fn a_packet_to_an_address_that_is_not_ours_is_dropped() {
    let Some(mut world) = World::new(1500) else { return };
    world.peers(["10.77.0.2:4001", "10.77.0.1:4001"]);
    world.ping("10.9.0.2");
    // Another address of that machine, which its peers have no business with, however they come to send there.
    world.run(1, &["ip", "addr", "add", "10.9.0.4/32", "dev", "lo"]);
    let asked = world.spawn(0, &["ping", "-c", "2", "-i", "0.2", "-W", "1", "10.9.0.4"]);
    assert!(asked.wait_with_output().is_ok_and(|output| !output.status.success()), "answered for an address that is not ours");
    world.ping("10.9.0.2");
}

#[test]
fn a_peer_talks_to_wireguard_go() {
    let Some(go) = wireguard_go() else {
        println!("SKIPPED: no wireguard-go; `GOFLAGS=-mod=mod go install golang.zx2c4.com/wireguard@latest`, or its path in WIREGUARD_GO");
        return;
    };
    if Command::new("wg").arg("--version").output().is_err() {
        println!("SKIPPED: no wg; `apt-get install wireguard-tools`");
        return;
    }
    let Some(mut world) = World::new(1500) else { return };
    let mut daemon = world.command(1, &[&go.to_string_lossy(), "-f", "cft1"]);
    world
        .children
        .push(daemon.env("WG_PROCESS_FOREGROUND", "1").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("wireguard-go"));
    world.until("wireguard-go has its interface", |world| {
        world.command(1, &["wg", "show", "cft1"]).output().is_ok_and(|output| output.status.success())
    });
    let configuration = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 4001\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.9.0.1/32, fd09::1/128\nEndpoint = 10.77.0.1:4001\n",
        base64(SECRETS[1]),
        base64(PUBLIC[0]),
        base64(PRESHARED)
    );
    let mut set = world.command(1, &["wg", "setconf", "cft1", "/dev/stdin"]).stdin(Stdio::piped()).spawn().expect("wg");
    set.stdin.take().expect("stdin").write_all(configuration.as_bytes()).expect("wg reads");
    assert!(set.wait().expect("wg").success());
    world.addresses(1);
    world.peer(0, "10.77.0.2:4001", true);
    world.ping("10.9.0.2");
    world.transfer("10.9.0.2:5001", 20_000_000);
    world.transfer("[fd09::2]:5001", 20_000_000);
    let shown = world.command(1, &["wg", "show", "cft1", "latest-handshakes"]).output().expect("wg");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(!shown.trim().ends_with("\t0"), "no handshake by wireguard-go's account: {shown}");
    // And the other way round: it begins.
    world.children.remove(world.children.len() - 1).kill().expect("our peer");
    world.run(0, &["sh", "-c", "while ip link show cft0 2>/dev/null >&2; do sleep 0.1; done"]);
    world.peer(0, "10.77.0.2:4001", false);
    world.command(1, &["ping", "-c", "1", "-W", "6", "10.9.0.1"]).output().expect("ping");
    world.ping("10.9.0.2");
}

fn wireguard_go() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let named = std::env::var_os("WIREGUARD_GO").map(PathBuf::from);
    let known = ["/usr/local/bin/wireguard", "/usr/bin/wireguard-go", "/usr/bin/wireguard"].map(PathBuf::from);
    named.into_iter().chain([home.join("go/bin/wireguard")]).chain(known).find(|path| path.is_file())
}

fn base64(hex: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = (0..64).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap_or(0)).collect();
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().chain([&0, &0]).take(3).fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        text.extend((0..4).map(|at| if at > chunk.len() { '=' } else { char::from(DIGITS[(word >> (18 - 6 * at)) as usize & 63]) }));
    }
    text
}

/// Two namespaces on one cable, 10.77.0.1 and 10.77.0.2, and what runs in them.
struct World {
    children: Vec<Child>,
    ends: [Namespace; 2],
    _net: Net,
}

impl World {
    /// `None`, with the reason printed, where it cannot be.
    fn new(mtu: u16) -> Option<Self> {
        if campfire_lab::net::skipped() {
            return None;
        }
        let net = Net::new("plane").expect("a net");
        let ends = ["one", "two"].map(|name| net.namespace(name).expect("a namespace"));
        net.cable((&ends[0], "cable"), (&ends[1], "cable")).expect("a cable");
        for (end, number) in ends.iter().zip(1..) {
            end.address("cable", [10, 77, 0, number], 24).expect("an address");
            end.address("cable", [0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)], 64).expect("an address");
            end.mtu("cable", mtu).expect("an MTU");
        }
        Some(Self { children: Vec::new(), ends, _net: net })
    }

    fn command(&self, side: usize, arguments: &[&str]) -> Command {
        let mut command = self.ends[side].command(arguments[0]);
        command.args(&arguments[1..]);
        command
    }

    fn spawn(&self, side: usize, arguments: &[&str]) -> Child {
        self.command(side, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ip netns exec")
    }

    fn run(&self, side: usize, arguments: &[&str]) {
        let output = self.command(side, arguments).output().expect("ip netns exec");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts the example, and waits for the line that `ready` begins.
    fn start(&mut self, side: usize, arguments: &[&str], ready: Option<&str>) {
        let program = example();
        let mut all = vec![program.to_str().expect("a path in UTF-8")];
        all.extend(arguments);
        let takes = format!("10.9.0.{0}/32,fd09::{0}/128", side + 1);
        let mut child = self.command(side, &all).env("TAKES", takes).stdout(Stdio::piped()).spawn().expect("the example");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        self.children.push(child);
        if let Some(ready) = ready {
            assert!(lines.any(|line| line.is_ok_and(|line| line.starts_with(ready))), "{arguments:?} ended before it was {ready}");
        }
        // Nobody reads further lines; the pipe has to stay open for them all the same.
        std::mem::forget(lines);
    }

    fn peer(&mut self, side: usize, endpoint: &str, initiate: bool) {
        self.start_peer(side, endpoint, initiate);
        self.addresses(side);
    }

    fn start_peer(&mut self, side: usize, endpoint: &str, initiate: bool) {
        let v6 = endpoint.starts_with('[');
        let listen = if v6 { format!("[fd77::{}]:4001", side + 1) } else { format!("10.77.0.{}:4001", side + 1) };
        let device = format!("cft{side}");
        let other = 2 - side;
        let flag = if initiate { ",initiate" } else { "" };
        // 10.9.0.4 is nobody's: what is sent there arrives all the same.
        let nobodys = if side == 0 { "+10.9.0.4/32" } else { "" };
        let peer = format!("{},{endpoint},10.9.0.{other}/32+fd09::{other}/128{nobodys}{flag}", PUBLIC[1 - side]);
        self.start(side, &["run", &device, &listen, SECRETS[side], PRESHARED, "1280", &peer], Some("running"));
    }

    fn addresses(&self, side: usize) {
        let (device, number) = (format!("cft{side}"), side + 1);
        self.run(side, &["ip", "addr", "add", &format!("10.9.0.{number}/24"), "dev", &device]);
        self.run(side, &["ip", "addr", "add", &format!("fd09::{number}/64"), "dev", &device, "nodad"]);
        self.run(side, &["ip", "link", "set", &device, "mtu", "1280", "up"]);
    }

    fn peers(&mut self, endpoints: [&str; 2]) {
        self.peer(1, endpoints[1], false);
        self.peer(0, endpoints[0], true);
    }

    fn ping(&self, address: &str) {
        self.until(&format!("{address} answers"), |world| {
            world.command(0, &["ping", "-c", "1", "-W", "1", address]).output().is_ok_and(|output| output.status.success())
        });
    }

    /// Sends bytes over TCP from side 0 to side 1 and back their number; every byte is checked there.
    fn transfer(&mut self, address: &str, bytes: usize) {
        self.start(1, &["sink", address], Some("listening"));
        let program = example();
        let output = self
            .command(0, &[program.to_str().expect("a path in UTF-8"), "source", address, &bytes.to_string()])
            .output()
            .expect("the example");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said.trim(), format!("arrived {bytes}"), "{}", String::from_utf8_lossy(&output.stderr));
        let mut sink = self.children.pop().expect("the sink");
        sink.wait().expect("the sink");
    }

    fn until(&self, what: &str, mut happens: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !happens(self) {
            assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The example beside this test: a whole `cargo test` builds examples, one with `--test` does not.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let target = test.parent().and_then(std::path::Path::parent).expect("target directory");
    let path = target.join("examples/static_peer");
    if !path.is_file() {
        let built = Command::new(env!("CARGO")).args(["build", "-p", env!("CARGO_PKG_NAME"), "--example", "static_peer"]).status();
        assert!(built.is_ok_and(|status| status.success()), "the example does not build");
    }
    path
}
