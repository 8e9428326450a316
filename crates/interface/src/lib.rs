//! The overlay's network interface: its addresses, MTU and routes, by rtnetlink. Whoever makes one uses this: a peer on a host, a pod's init
//! container, a node's agent for a pod.
//!
//! | module | what it holds |
//! | --- | --- |
//! | here | [`Interface`]: compared with what it should be, and put right; [`tend`] does that as long as a peer lives |
//! | `routes` | accepted routes, in a table of their own |
//! | [`host`] | what the host has beside the interface |

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use campfire_api::agent::{Problem, ProblemReason};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Error, Handle, LinkUnspec, MulticastGroup, new_connection, new_multicast_connection};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::host::{Host, address_of};
use crate::routes::{Routes, note};

pub mod host;
mod routes;

pub use crate::routes::MARK;

/// How often everything is compared, whether or not the kernel says that something changed.
const LOOK: Duration = Duration::from_secs(10);

/// Addresses and accepted routes of the interface.
pub type Dress = (BTreeSet<IpNet>, BTreeSet<IpNet>);

/// What [`tend`] tells: the host's addresses, the likeliest first, and what is wrong with the interface or its routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Under which others might reach it ([`Host::addresses`]).
    pub addresses: Vec<IpAddr>,
    /// With what to do about each.
    pub problems: Vec<Problem>,
}

/// The overlay's interface.
pub struct Interface {
    handle: Handle,
    name: String,
    index: u32,
    mtu: u16,
    /// What it was given last.
    addresses: BTreeSet<IpNet>,
    routes: Routes,
    /// Addresses of others that no accepted route may swallow.
    pinned: BTreeSet<IpAddr>,
    problems: Vec<Problem>,
}

impl Interface {
    /// Gives the interface `name`, which exists, these addresses (with their networks' lengths: the kernel makes the
    /// routes) and MTU, and sets it up. What is as it should be is left alone, so that a process without rights can use
    /// an interface that was made for it.
    pub async fn set_up(name: &str, mtu: u16, addresses: &[IpNet]) -> Result<Self> {
        let (connection, handle, _) = new_connection().context("no netlink socket")?;
        tokio::spawn(connection);
        let link = link(&handle, name).await?.with_context(|| format!("interface {name} is not there"))?;
        let index = link.header.index;
        let has = addresses_of(&handle, index).await?;

        let mut missing = Vec::new();
        if link_mtu(&link) != Some(u32::from(mtu)) {
            let set = LinkUnspec::new_with_index(index).mtu(u32::from(mtu)).build();
            if let Err(error) = handle.link().set(set).execute().await {
                denied(&error).with_context(|| format!("interface {name}: MTU {mtu}: {error}"))?;
                missing.push(format!("ip link set {name} mtu {mtu}"));
            }
        }
        let mut given = BTreeSet::new();
        for address in addresses.iter().filter(|address| !has.contains(address)) {
            match add_address(&handle, name, index, *address).await {
                // With the other family the mesh is still of use; [`Interface::sync`] goes on trying, and says so.
                Err(error) if is_switched_off(&error, *address) && addresses.iter().any(|other| matches!(other, IpNet::V4(_))) => continue,
                Err(error) => {
                    denied(&error).with_context(|| address_error(name, *address, &error))?;
                    missing.push(format!("ip address add {address} dev {name}"));
                }
                Ok(()) => {}
            }
            given.insert(*address);
        }
        given.extend(addresses.iter().filter(|address| has.contains(address)));
        if !link.header.flags.contains(LinkFlags::Up) {
            let set = LinkUnspec::new_with_index(index).up().build();
            if let Err(error) = handle.link().set(set).execute().await {
                denied(&error).with_context(|| format!("interface {name} cannot be set up: {error}"))?;
                missing.push(format!("ip link set {name} up"));
            }
        }
        if !missing.is_empty() {
            bail!(
                "interface {name} is not as it should be, and changing it needs root or CAP_NET_ADMIN; run as root once:\n  {}",
                missing.join("\n  ")
            );
        }
        let routes = Routes::new(handle.clone(), index);
        Ok(Self { handle, name: name.to_owned(), index, mtu, addresses: given, routes, pinned: BTreeSet::new(), problems: Vec::new() })
    }

    /// Counts as given whatever the interface has: [`Self::sync`] takes away what of it is not wanted, whoever gave it. For who brings an interface to
    /// something else than it was made for, by a process that is no more.
    pub async fn take_over(&mut self) -> Result<()> {
        let is_the_kernels = |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
        self.addresses = addresses_of(&self.handle, self.index).await?.into_iter().filter(|net| !is_the_kernels(net)).collect();
        self.routes.take_over().await
    }

    /// What is wrong with it since the last [`Self::sync`], with what to do.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What no accepted route may swallow beside the host's own networks: name servers, who must be asked for keys.
    pub fn pin(&mut self, pinned: BTreeSet<IpAddr>) {
        self.pinned = pinned;
    }

    /// What the host has beside this interface.
    pub async fn host(&self) -> Result<Host> {
        Host::look(&self.handle, self.index).await
    }

    /// Brings the interface to these addresses and accepted routes, compared with what the kernel has: whoever changed it, it is put right,
    /// and what cannot be is a problem, said once and kept for [`Told`].
    pub async fn sync(&mut self, (addresses, routes): &Dress, host: &Host) {
        let (mut problems, mut mended) = (Vec::new(), Vec::new());
        if let Err(error) = self.compare(addresses, routes, host, &mut problems, &mut mended).await {
            debug!("interface {}: {error:#}", self.name);
            return;
        }
        if !mended.is_empty() {
            info!("interface {} was changed from outside, and is put right: {}", self.name, mended.join(", "));
        }
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            warn!("interface {}: {}", self.name, problem.message);
        }
        self.problems = problems;
    }

    async fn compare(
        &mut self,
        addresses: &BTreeSet<IpNet>,
        routes: &BTreeSet<IpNet>,
        host: &Host,
        problems: &mut Vec<Problem>,
        mended: &mut Vec<String>,
    ) -> Result<()> {
        let mut wrong = Vec::new();
        // A device that is gone ends the process elsewhere.
        let Some(link) = link(&self.handle, &self.name).await? else { return Ok(()) };
        if link_mtu(&link) != Some(u32::from(self.mtu)) {
            let set = LinkUnspec::new_with_index(self.index).mtu(u32::from(self.mtu)).build();
            if note(&mut wrong, &format!("MTU {} cannot be set", self.mtu), self.handle.link().set(set).execute().await) {
                mended.push(format!("MTU {}", self.mtu));
            }
        }
        if !link.header.flags.contains(LinkFlags::Up) {
            let set = LinkUnspec::new_with_index(self.index).up().build();
            if note(&mut wrong, "cannot be set up", self.handle.link().set(set).execute().await) {
                mended.push("set up".to_owned());
            }
        }
        let mut has = addresses_of(&self.handle, self.index).await?;
        let gone: Vec<_> = self.addresses.difference(addresses).filter(|gone| has.contains(gone)).copied().collect();
        for gone in &gone {
            let message = self.handle.address().add(self.index, gone.addr(), gone.prefix_len()).message_mut().clone();
            note(&mut wrong, &format!("address {gone} cannot be removed"), self.handle.address().del(message).execute().await);
        }
        if !gone.is_empty() {
            // With the first of a network's the kernel may take its others.
            has = addresses_of(&self.handle, self.index).await?;
        }
        let mut given = BTreeSet::new();
        for address in addresses {
            if !has.contains(address) {
                match add_address(&self.handle, &self.name, self.index, *address).await {
                    Err(error) if is_switched_off(&error, *address) => {
                        let message = format!("{}; the mesh has IPv4 alone here", address_error(&self.name, *address, &error));
                        problems.push(Problem { reason: ProblemReason::IPv6Off, message });
                        continue;
                    }
                    done => {
                        if note(&mut wrong, &format!("address {address} cannot be added"), done) && self.addresses.contains(address) {
                            mended.push(format!("address {address}"));
                        }
                    }
                }
            }
            given.insert(*address);
        }
        self.addresses = given;
        let (taken, refused) = routes::sort(routes, &self.addresses, &host.locals);
        let filtered = host.device.as_ref().and_then(|device| routes::filtered(&taken, device, routes::rp_filter));
        let (failed, again) = self.routes.sync(&taken, &host.locals, &self.pinned).await?;
        let of = |reason: ProblemReason| move |message| Problem { reason: reason.clone(), message };
        problems.extend(wrong.into_iter().map(of(ProblemReason::InterfaceChanged)));
        problems.extend(refused.into_iter().chain(filtered).chain(failed).map(of(ProblemReason::RouteNotTaken)));
        mended.extend(again);
        Ok(())
    }
}

/// Keeps the interface as the mesh wants it, whoever changes it, and looks at the host's addresses: on change, and every 10 s.
pub async fn tend(mut interface: Interface, mut known: Told, mut dress: watch::Receiver<Dress>, out: mpsc::Sender<Told>) {
    let mut changes = watch_changes().map_err(|error| debug!(%error, "changes of interfaces are not told")).ok();
    let mut regularly = tokio::time::interval(LOOK);
    loop {
        let changed = async {
            let Some(receiver) = &mut changes else { return std::future::pending().await };
            if receiver.recv().await.is_none() {
                changes = None;
            }
        };
        tokio::select! {
            change = dress.changed() => if change.is_err() {
                // The peer ends. Its device takes its routes along, but not the rule that leads to them.
                let _ = interface.routes.sync(&BTreeSet::new(), &BTreeSet::new(), &BTreeSet::new()).await;
                return;
            },
            () = changed => tokio::time::sleep(Duration::from_millis(100)).await,
            _ = regularly.tick() => {}
        }
        let host = match interface.host().await {
            Ok(host) => host,
            Err(error) => {
                debug!("the host's addresses: {error:#}");
                continue;
            }
        };
        let wanted = dress.borrow_and_update().clone();
        interface.sync(&wanted, &host).await;
        let told = Told { addresses: host.addresses, problems: interface.problems.clone() };
        if told != known {
            known.clone_from(&told);
            if out.send(told).await.is_err() {
                return;
            }
        }
    }
}

/// Says something whenever links or addresses of the host change.
fn watch_changes() -> io::Result<mpsc::Receiver<()>> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut messages) = new_multicast_connection(&groups)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(connection);
    tokio::spawn(async move {
        // The connection lives as long as its handle.
        let _handle = handle;
        while messages.next().await.is_some() {
            // Full: a change is waiting to be noticed already.
            if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                break;
            }
        }
    });
    Ok(receiver)
}

/// What opening the device failed with, and what to do about it.
pub fn explain_device(name: &str, error: &io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        // Only the device node answers so; the interface itself asks for a capability (EPERM).
        Some(libc::EACCES) => anyhow!(
            "/dev/net/tun may not be opened by this user ({error}): run as root, or open the device to all users, as ordinary hosts have it, \
             as root: chmod 0666 /dev/net/tun"
        ),
        Some(libc::EPERM) => anyhow!(
            "interface {name} cannot be made without rights ({error}): run as root, give the process CAP_NET_ADMIN, or make the device first, \
             as root: ip tuntap add dev {name} mode tun user \"$USER\" vnet_hdr"
        ),
        Some(libc::EBUSY) => anyhow!("interface {name} is in use by another process: end it, or choose another with --interface"),
        Some(libc::EINVAL) => anyhow!("interface {name} exists and is no TUN device of ours: choose another with --interface"),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => anyhow!(
            "/dev/net/tun is not there ({error}): load the module (modprobe tun), or in a container give it the device (--device /dev/net/tun)"
        ),
        _ => anyhow!("interface {name}: {error}"),
    }
}

/// `Ok` if the kernel refused for lack of rights, which is told together with all else that lacks.
fn denied(error: &Error) -> Result<()> {
    match os_error(error) {
        Some(libc::EPERM) => Ok(()),
        _ => Err(anyhow!("the kernel refuses")),
    }
}

async fn add_address(handle: &Handle, name: &str, index: u32, address: IpNet) -> Result<(), Error> {
    let add = || handle.address().add(index, address.addr(), address.prefix_len()).execute();
    match add().await {
        // Container runtimes switch IPv6 off on new interfaces; this one is ours to switch it on again.
        Err(error) if os_error(&error) == Some(libc::EACCES) => {
            match fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "0") {
                Ok(()) => add().await,
                Err(_) => Err(error),
            }
        }
        other => other,
    }
}

/// The kernel gives no IPv6 here.
fn is_switched_off(error: &Error, address: IpNet) -> bool {
    matches!((os_error(error), address), (Some(libc::EOPNOTSUPP | libc::EACCES), IpNet::V6(_)))
}

fn address_error(name: &str, address: IpNet, error: &Error) -> String {
    if is_switched_off(error, address) {
        return format!(
            "interface {name}: address {address}: IPv6 is switched off here (sysctl net.ipv6.conf.all.disable_ipv6): switch it on, or give --ipv4-pool, the same on all peers"
        );
    }
    format!("interface {name}: address {address}: {error}")
}

fn os_error(error: &Error) -> Option<i32> {
    if let Error::NetlinkError(message) = error { message.code.map(|code| -code.get()) } else { None }
}

async fn link(handle: &Handle, name: &str) -> Result<Option<LinkMessage>> {
    let mut links = std::pin::pin!(handle.link().get().match_name(name.to_owned()).execute());
    match links.try_next().await {
        Err(error) if os_error(&error) == Some(libc::ENODEV) => Ok(None),
        other => Ok(other?),
    }
}

fn link_mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| if let LinkAttribute::Mtu(mtu) = attribute { Some(*mtu) } else { None })
}

async fn addresses_of(handle: &Handle, index: u32) -> Result<BTreeSet<IpNet>> {
    let mut addresses = BTreeSet::new();
    let mut all = std::pin::pin!(handle.address().get().set_link_index_filter(index).execute());
    while let Some(message) = all.try_next().await? {
        if message.header.index == index {
            addresses.extend(address_of(&message));
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_the_device_explains_what_to_do() {
        let text = |code| explain_device("campfire0", &io::Error::from_raw_os_error(code)).to_string();
        assert!(text(libc::EPERM).contains("run as root, give the process CAP_NET_ADMIN, or make the device first"));
        let closed = text(libc::EACCES);
        assert!(closed.contains("as root: chmod 0666 /dev/net/tun") && !closed.contains("ip tuntap"), "{closed}");
        assert!(text(libc::EBUSY).contains("in use by another process"));
        assert!(text(libc::ENOENT).contains("/dev/net/tun is not there"));
        assert!(text(libc::EINVAL).contains("is no TUN device"));
    }
}
