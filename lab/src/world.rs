//! Namespaces, addresses, gateways.
//!
//! ```text
//!            inet (a router)
//!   ┌──────────┼───────────────┐
//! server    gateway (NAT)   gateway …        wan0: a routed /32 and /128 of documentation ranges
//!              │ br0
//!          ┌───┴───┐
//!        host    host …                      eth0: private, or public behind an open gateway
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

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
    fn has_ipv4(self) -> bool {
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

/// What this machine lacks to build worlds, in words; `None`: nothing.
pub fn missing_for_worlds() -> Option<String> {
    // The owner of one's own /proc entry is one's effective user.
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        return Some("needs root to make network namespaces; run as root".into());
    }
    for tool in ["ip", "nft", "ping"] {
        if which(tool).is_none() {
            return Some(format!("needs `{tool}`; run scripts/install"));
        }
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("needs /dev/net/tun".into());
    }
    None
}

/// Finds a program in the path.
pub fn which(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|p| p.is_file())
}

/// A world. See the [module](self).
#[derive(Debug)]
pub struct World {
    name: String,
    state: PathBuf,
    servers: u8,
    gateways: u8,
    keep: bool,
}

/// A namespace with an `eth0` (or `wan0`) that programs run in.
#[derive(Clone, Debug)]
pub struct Host {
    /// Name in the world.
    pub name: String,
    /// IPv4 address, if it has one.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address, if it has one.
    pub ipv6: Option<Ipv6Addr>,
    namespace: String,
    state: PathBuf,
}

/// A gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Name in the world.
    pub name: String,
    /// What it does.
    pub nat: Nat,
    /// Its public IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    index: u8,
    namespace: String,
    hosts: u8,
}

const STATE_ROOT: &str = "/run/campfire-lab";

impl World {
    /// Makes the internet of a world; `name` is at most 5 lower-case letters or digits. What an earlier run of the same name left is removed first.
    pub fn new(name: &str) -> Result<Self> {
        ensure!((1..=5).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric()), "world name `{name}`");
        if let Some(why) = missing_for_worlds() {
            bail!("{why}");
        }
        Self::remove(name)?;
        let state = Path::new(STATE_ROOT).join(name);
        fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
        let world = Self { name: name.to_owned(), state, servers: 0, gateways: 0, keep: false };
        let inet = world.namespace("inet");
        new_namespace(&inet)?;
        router_on(&inet)?;
        Ok(world)
    }

    /// Removes all that belongs to the world of this name: processes, namespaces, files.
    pub fn remove(name: &str) -> Result<()> {
        let prefix = format!("cf-{name}-");
        let listed = Command::new("ip").args(["netns", "list"]).output()?;
        let names: Vec<String> = String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|ns| ns.starts_with(&prefix))
            .map(str::to_owned)
            .collect();
        for signal in ["-TERM", "-KILL"] {
            let mut pids = Vec::new();
            for ns in &names {
                let out = Command::new("ip").args(["netns", "pids", ns]).output()?;
                pids.extend(String::from_utf8_lossy(&out.stdout).split_whitespace().map(str::to_owned));
            }
            pids.retain(|pid| *pid != std::process::id().to_string());
            if pids.is_empty() {
                break;
            }
            let _ = Command::new("kill").arg(signal).args(&pids).stderr(Stdio::null()).status();
            for _ in 0..30 {
                sleep(Duration::from_millis(50));
                if pids.iter().all(|pid| !is_running(pid)) {
                    break;
                }
            }
        }
        for ns in &names {
            let _ = Command::new("ip").args(["netns", "del", ns]).stderr(Stdio::null()).status();
        }
        match fs::remove_dir_all(Path::new(STATE_ROOT).join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("cannot remove the world's files"),
            _ => Ok(()),
        }
    }

    /// Leaves the world standing when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Where the world's files are (keys, logs, sockets): private to root.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A host on the internet: public addresses of both families.
    pub fn server(&mut self, name: &str) -> Result<Host> {
        self.servers += 1;
        let ipv4 = Ipv4Addr::new(198, 51, 100, self.servers * 10);
        let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, u16::from(self.servers) * 16);
        let namespace = self.namespace(name);
        new_namespace(&namespace)?;
        self.wan(&self.namespace("inet"), name, Some(ipv4), Some(ipv6))?;
        self.finish_host(name, Some(ipv4), Some(ipv6), namespace)
    }

    /// A gateway with its LAN. `ipv6`: also routed IPv6 behind a stateful firewall.
    pub fn gateway(&mut self, name: &str, nat: Nat, ipv6: bool) -> Result<Gateway> {
        self.gateways += 1;
        let index = self.gateways;
        let ipv6 = ipv6 || nat == Nat::Ipv6Only;
        let public4 = nat.has_ipv4().then(|| Ipv4Addr::new(203, 0, 113, index));
        let public6 = ipv6.then(|| Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, u16::from(index)));
        let namespace = self.namespace(name);
        new_namespace(&namespace)?;
        router_on(&namespace)?;
        let inet = self.namespace("inet");
        self.wan(&inet, name, public4, public6)?;
        sh(
            &namespace,
            "ip link add br0 type bridge mcast_snooping 0; ip link set br0 addrgenmode none; ip link set br0 up; sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 2>/dev/null || true",
        )?;
        if let Some(public) = public4 {
            if nat == Nat::Open {
                ip(&inet, &format!("route add 192.0.2.{}/28 via {public} dev w-{name} onlink", u16::from(index) * 16))?;
                ip(&namespace, &format!("addr add 192.0.2.{}/28 dev br0", u16::from(index) * 16 + 1))?;
            } else {
                ip(&namespace, "addr add 10.20.0.1/24 dev br0")?;
            }
        }
        if ipv6 {
            ip(&inet, &format!("-6 route add 2001:db8:c:{index:x}::/64 via fe80::2 dev w-{name}"))?;
            ip(&namespace, &format!("-6 addr add 2001:db8:c:{index:x}::1/64 dev br0 nodad"))?;
        }
        nft(&namespace, &rules(nat, public4))?;
        Ok(Gateway { name: name.to_owned(), nat, ipv4: public4, index, namespace, hosts: 0 })
    }

    /// A host behind a gateway. All LANs use the same private range on purpose.
    pub fn host(&mut self, gateway: &mut Gateway, name: &str) -> Result<Host> {
        gateway.hosts += 1;
        let k = gateway.hosts;
        let namespace = self.namespace(name);
        new_namespace(&namespace)?;
        let gw = &gateway.namespace;
        run(Command::new("ip").args([
            "link",
            "add",
            &format!("h{k}"),
            "netns",
            gw,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &namespace,
        ]))?;
        ip(gw, &format!("link set h{k} master br0 up"))?;
        sh(&namespace, "ip link set eth0 addrgenmode none; ip link set eth0 up")?;
        let ipv4 = gateway.nat.has_ipv4().then(|| {
            if gateway.nat == Nat::Open { Ipv4Addr::new(192, 0, 2, gateway.index * 16 + 1 + k) } else { Ipv4Addr::new(10, 20, 0, 10 + k) }
        });
        if let Some(address) = ipv4 {
            let (length, via) = if gateway.nat == Nat::Open {
                (28, Ipv4Addr::new(192, 0, 2, gateway.index * 16 + 1))
            } else {
                (24, Ipv4Addr::new(10, 20, 0, 1))
            };
            ip(&namespace, &format!("addr add {address}/{length} dev eth0"))?;
            ip(&namespace, &format!("route add default via {via}"))?;
        }
        let routed6 = Command::new("ip").args(["-n", gw, "-6", "route", "show", "dev", "br0"]).output()?;
        let ipv6 = String::from_utf8_lossy(&routed6.stdout)
            .contains("2001:db8:c:")
            .then(|| Ipv6Addr::new(0x2001, 0xdb8, 0xc, u16::from(gateway.index), 0, 0, 0, 0x10 + u16::from(k)));
        if let Some(address) = ipv6 {
            ip(&namespace, &format!("-6 addr add {address}/64 dev eth0 nodad"))?;
            ip(&namespace, &format!("-6 route add default via 2001:db8:c:{:x}::1", gateway.index))?;
        }
        self.finish_host(name, ipv4, ipv6, namespace)
    }

    /// Drops this share (0 to 100) of a server's or gateway's packets in each direction; 100 cuts it off.
    pub fn loss(&self, name: &str, percent: u8) -> Result<()> {
        let table = format!("loss-{name}");
        let rule = |side: &str| format!("{side} w-{name} numgen random mod 100 < {percent} drop;");
        nft(
            &self.namespace("inet"),
            &format!(
                "table inet {table}\ndelete table inet {table}\ntable inet {table} {{ chain forward {{ type filter hook forward priority -5; {} {} }} }}",
                rule("iifname"),
                rule("oifname")
            ),
        )
    }

    /// Sets the MTU of a gateway's link to the internet.
    pub fn mtu(&self, gateway: &Gateway, mtu: u16) -> Result<()> {
        ip(&gateway.namespace, &format!("link set wan0 mtu {mtu}"))?;
        ip(&self.namespace("inet"), &format!("link set w-{} mtu {mtu}", gateway.name))
    }

    /// Forgets all of a gateway's translations, as a reboot would.
    pub fn forget_mappings(&self, gateway: &Gateway) -> Result<()> {
        run(Command::new("ip").args(["netns", "exec", &gateway.namespace, "conntrack", "-F"]).stderr(Stdio::null()))
    }

    fn namespace(&self, name: &str) -> String {
        format!("cf-{}-{name}", self.name)
    }

    fn finish_host(&self, name: &str, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>, namespace: String) -> Result<Host> {
        let state = self.state.join(name);
        for folder in ["run-campfire", "run-wireguard"] {
            fs::create_dir_all(state.join(folder))?;
        }
        Ok(Host { name: name.to_owned(), ipv4, ipv6, namespace, state })
    }

    /// A routed link: `w-NAME` at the internet's side, `wan0` at the node's.
    fn wan(&self, inet: &str, name: &str, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> Result<()> {
        let node = self.namespace(name);
        ensure!(name.len() <= 12, "name `{name}` is longer than 12 characters");
        run(Command::new("ip").args([
            "link",
            "add",
            &format!("w-{name}"),
            "netns",
            inet,
            "type",
            "veth",
            "peer",
            "name",
            "wan0",
            "netns",
            &node,
        ]))?;
        sh(
            inet,
            &format!(
                "ip link set w-{name} addrgenmode none; ip link set w-{name} up; ip addr add 169.254.250.1/32 dev w-{name}; ip -6 addr add fe80::1/64 dev w-{name} nodad"
            ),
        )?;
        sh(&node, "ip link set wan0 addrgenmode none; ip link set wan0 up; ip -6 addr add fe80::2/64 dev wan0 nodad")?;
        if let Some(address) = ipv4 {
            ip(inet, &format!("route add {address}/32 dev w-{name}"))?;
            ip(&node, &format!("addr add {address}/32 dev wan0"))?;
            ip(&node, "route add default via 169.254.250.1 dev wan0 onlink")?;
        }
        if let Some(address) = ipv6 {
            ip(inet, &format!("-6 route add {address}/128 dev w-{name}"))?;
            ip(&node, &format!("-6 addr add {address}/128 dev wan0 nodad"))?;
            ip(&node, "-6 route add default via fe80::1 dev wan0")?;
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = Self::remove(&self.name)
        {
            eprintln!("could not remove world {}: {error:#}", self.name);
        }
    }
}

impl Host {
    /// A host of a world that an earlier process left standing (its addresses are not known any more).
    pub fn existing(world: &str, name: &str) -> Option<Self> {
        let state = Path::new(STATE_ROOT).join(world).join(name);
        state.is_dir().then(|| Self { name: name.to_owned(), ipv4: None, ipv6: None, namespace: format!("cf-{world}-{name}"), state })
    }

    /// A command that will run on this host, with `/run/campfire` and `/var/run/wireguard` of its own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace, "sh", "-c"])
            .arg("mkdir -p /run/campfire /run/wireguard && mount --bind \"$1\"/run-campfire /run/campfire && mount --bind \"$1\"/run-wireguard /run/wireguard && shift && exec \"$@\"")
            .arg("sh")
            .arg(&self.state)
            .arg(program);
        command
    }

    /// Runs to the end; its standard output, or an error that shows its standard error.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        let out = self.command(program).args(args).stdin(Stdio::null()).output()?;
        ensure!(
            out.status.success(),
            "`{program} {}` on {}: {}\n{}{}",
            args.join(" "),
            self.name,
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The host's files.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The namespace's name, for people.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its address: IPv4 if it has one.
    pub fn address(&self) -> IpAddr {
        self.ipv4.map(IpAddr::V4).or(self.ipv6.map(IpAddr::V6)).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

fn is_running(pid: &str) -> bool {
    // A zombie is as good as gone: its namespace is free.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let out = command.stdin(Stdio::null()).output().with_context(|| shown.clone())?;
    ensure!(out.status.success(), "{shown}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

fn ip(namespace: &str, arguments: &str) -> Result<()> {
    run(Command::new("ip").args(["-n", namespace]).args(arguments.split_whitespace()))
}

fn sh(namespace: &str, script: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "exec", namespace, "sh", "-ec", script]))
}

fn nft(namespace: &str, rules: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start nft")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "nft in {namespace}: {}\n{rules}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

fn new_namespace(name: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "add", name]))?;
    sh(
        name,
        "ip link set lo up; sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
         net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.accept_ra=0 \
         net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0",
    )
}

fn router_on(namespace: &str) -> Result<()> {
    sh(namespace, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
}

/// The gateway's ruleset.
fn rules(nat: Nat, public: Option<Ipv4Addr>) -> String {
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
