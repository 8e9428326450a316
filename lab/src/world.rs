//! An internet with servers on it, and gateways with hosts behind them.
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

use anyhow::Result;

use crate::nat::{self, Nat};
use crate::net::{self, Namespace, Net, Route};

/// The internet's side of each routed link.
const ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 250, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The other side.
const NODE6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// A gateway's inside. All LANs use the same private range on purpose.
const LAN: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);

/// A world. See the [module](self).
#[derive(Debug)]
pub struct World {
    net: Net,
    inet: Namespace,
    servers: u8,
    gateways: u8,
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
    namespace: Namespace,
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
    has_ipv6: bool,
    index: u8,
    namespace: Namespace,
    hosts: u8,
}

impl Gateway {
    /// Its address towards its hosts.
    fn inside(&self) -> (Ipv4Addr, u8) {
        if self.nat == Nat::Open { (Ipv4Addr::new(192, 0, 2, self.index * 16 + 1), 28) } else { (LAN, 24) }
    }

    fn inside6(&self) -> Ipv6Addr {
        lan6(self.index, 1)
    }
}

impl World {
    /// Makes the internet of a world; `name` as [`Net::new`] takes it.
    pub fn new(name: &str) -> Result<Self> {
        let net = Net::new(name)?;
        let inet = net.namespace("inet")?;
        inet.forwards()?;
        Ok(Self { net, inet, servers: 0, gateways: 0 })
    }

    /// Leaves the world standing when this value is dropped: [`Host::existing`] finds its hosts, [`Net::remove`] ends it.
    pub fn keep(&mut self) -> Result<()> {
        self.net.keep()
    }

    /// Where the world's files are (keys, logs, sockets): private to root.
    pub fn state(&self) -> &Path {
        self.net.state()
    }

    /// A host on the internet: public addresses of both families.
    pub fn server(&mut self, name: &str) -> Result<Host> {
        self.servers += 1;
        let ipv4 = Ipv4Addr::new(198, 51, 100, self.servers * 10);
        let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, u16::from(self.servers) * 16);
        let namespace = self.net.namespace(name)?;
        self.wan(&namespace, Some(ipv4), Some(ipv6))?;
        self.host_of(namespace, Some(ipv4), Some(ipv6))
    }

    /// A gateway with its LAN. `ipv6`: also routed IPv6 behind a stateful firewall.
    pub fn gateway(&mut self, name: &str, nat: Nat, ipv6: bool) -> Result<Gateway> {
        self.gateways += 1;
        let index = self.gateways;
        let has_ipv6 = ipv6 || nat == Nat::Ipv6Only;
        let public4 = nat.has_ipv4().then(|| Ipv4Addr::new(203, 0, 113, index));
        let public6 = has_ipv6.then(|| Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, u16::from(index)));
        let namespace = self.net.namespace(name)?;
        namespace.forwards()?;
        self.wan(&namespace, public4, public6)?;
        namespace.bridge("br0")?;
        // Only where the kernel's bridges pass packets to the firewall at all.
        let _ = namespace.sysctl(&["net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0"]);
        let gateway = Gateway { name: name.to_owned(), nat, ipv4: public4, has_ipv6, index, namespace, hosts: 0 };
        if let Some(public) = public4 {
            let (address, prefix) = gateway.inside();
            gateway.namespace.address("br0", address, prefix)?;
            if nat == Nat::Open {
                let subnet = Ipv4Addr::new(192, 0, 2, index * 16);
                self.inet.route(&Route::to(subnet, prefix).via(public).on(&link(name)).onlink())?;
            }
        }
        if has_ipv6 {
            gateway.namespace.address("br0", gateway.inside6(), 64)?;
            self.inet.route(&Route::to(lan6(index, 0), 64).via(NODE6).on(&link(name)))?;
        }
        gateway.namespace.nft(&nat::rules(nat, public4))?;
        Ok(gateway)
    }

    /// A host behind a gateway.
    pub fn host(&mut self, gateway: &mut Gateway, name: &str) -> Result<Host> {
        gateway.hosts += 1;
        let k = gateway.hosts;
        let namespace = self.net.namespace(name)?;
        let port = format!("h{k}");
        self.net.cable((&gateway.namespace, &port), (&namespace, "eth0"))?;
        gateway.namespace.plug(&port, "br0")?;
        let (inside, prefix) = gateway.inside();
        let ipv4 = gateway.nat.has_ipv4().then(|| {
            let [a, b, c, own] = inside.octets();
            Ipv4Addr::new(a, b, c, if gateway.nat == Nat::Open { own + k } else { 10 + k })
        });
        if let Some(address) = ipv4 {
            namespace.address("eth0", address, prefix)?;
            namespace.route(&Route::default_via(inside))?;
        }
        let ipv6 = gateway.has_ipv6.then(|| lan6(gateway.index, 0x10 + u16::from(k)));
        if let Some(address) = ipv6 {
            namespace.address("eth0", address, 64)?;
            namespace.route(&Route::default_via(gateway.inside6()))?;
        }
        self.host_of(namespace, ipv4, ipv6)
    }

    /// Drops this share (0 to 100) of a server's or gateway's packets in each direction; 100 cuts it off.
    pub fn loss(&self, name: &str, percent: u8) -> Result<()> {
        let (table, link) = (format!("loss-{name}"), link(name));
        let rule = |side: &str| format!("{side} {link} numgen random mod 100 < {percent} drop;");
        self.inet.nft(&format!(
            "table inet {table}\ndelete table inet {table}\ntable inet {table} {{ chain forward {{ type filter hook forward priority -5; {} {} }} }}",
            rule("iifname"),
            rule("oifname")
        ))
    }

    /// Sets the MTU of a gateway's link to the internet.
    pub fn mtu(&self, gateway: &Gateway, mtu: u16) -> Result<()> {
        gateway.namespace.mtu("wan0", mtu)?;
        self.inet.mtu(&link(&gateway.name), mtu)
    }

    /// Forgets all of a gateway's translations, as a reboot would.
    pub fn forget_mappings(&self, gateway: &Gateway) -> Result<()> {
        gateway.namespace.output("conntrack", &["-F"]).map(drop)
    }

    fn host_of(&self, namespace: Namespace, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> Result<Host> {
        let state = self.net.state().join(namespace.name());
        for folder in ["run-campfire", "run-wireguard"] {
            fs::create_dir_all(state.join(folder))?;
        }
        Ok(Host { name: namespace.name().to_owned(), ipv4, ipv6, namespace, state })
    }

    /// A routed link: `w-NAME` at the internet's side, `wan0` at the node's.
    fn wan(&self, node: &Namespace, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> Result<()> {
        let link = link(node.name());
        self.net.cable((&self.inet, &link), (node, "wan0"))?;
        self.inet.address(&link, ROUTER, 32)?;
        self.inet.address(&link, ROUTER6, 64)?;
        node.address("wan0", NODE6, 64)?;
        if let Some(address) = ipv4 {
            self.inet.route(&Route::to(address, 32).on(&link))?;
            node.address("wan0", address, 32)?;
            node.route(&Route::default_via(ROUTER).on("wan0").onlink())?;
        }
        if let Some(address) = ipv6 {
            self.inet.route(&Route::to(address, 128).on(&link))?;
            node.address("wan0", address, 128)?;
            node.route(&Route::default_via(ROUTER6).on("wan0"))?;
        }
        Ok(())
    }
}

/// What every command on a host runs behind: folders of the host's own under /run, and, whatever this machine's is, a device node that
/// everybody may open, as an ordinary Linux host has it.
const ENTER: &str = "mkdir -p /run/campfire /run/wireguard
mount --bind \"$1\"/run-campfire /run/campfire
mount --bind \"$1\"/run-wireguard /run/wireguard
mkdir -p /dev/net
mount -t tmpfs -o mode=755 tun /dev/net
mknod -m 666 /dev/net/tun c 10 200
shift
exec \"$@\"";

impl Host {
    /// A host of a world that an earlier process left standing (its addresses are not known any more).
    pub fn existing(world: &str, name: &str) -> Option<Self> {
        let (namespace, state) = Net::kept(world, name)?;
        let state = state.join(name);
        state.is_dir().then(|| Self { name: name.to_owned(), ipv4: None, ipv6: None, namespace, state })
    }

    /// A command that will run on this host, with `/run/campfire`, `/run/wireguard` and `/dev/net/tun` of its own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.namespace.command("sh");
        command.args(["-ec", ENTER, "sh"]).arg(&self.state).arg(program).stdin(Stdio::inherit());
        command
    }

    /// Runs to the end; its standard output, or an error that shows all it said.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        net::output(self.command(program).args(args), &self.name)
    }

    /// The host's files.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its address: IPv4 if it has one.
    pub fn address(&self) -> IpAddr {
        self.ipv4.map(IpAddr::V4).or(self.ipv6.map(IpAddr::V6)).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

/// An address of a gateway's LAN.
fn lan6(index: u8, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xc, u16::from(index), 0, 0, 0, host)
}

/// The internet's device towards a server or gateway.
fn link(name: &str) -> String {
    format!("w-{name}")
}
