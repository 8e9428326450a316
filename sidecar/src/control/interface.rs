//! The overlay's network interface (addresses, MTU, routes) and the host's other addresses, by rtnetlink.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use campfire_protocol::identity::NetworkId;
use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Error, Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder, new_connection, new_multicast_connection};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

/// Addresses and accepted routes of the interface.
pub(super) type Dress = (BTreeSet<IpNet>, BTreeSet<IpNet>);

/// The overlay's interface.
pub struct Interface {
    handle: Handle,
    name: String,
    index: u32,
    addresses: BTreeSet<IpNet>,
    routes: BTreeSet<IpNet>,
    /// We may not change it: said once.
    fixed: bool,
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
        for address in addresses.iter().filter(|address| !has.contains(address)) {
            if let Err(error) = add_address(&handle, name, index, *address).await {
                denied(&error).with_context(|| address_error(name, *address, &error))?;
                missing.push(format!("ip address add {address} dev {name}"));
            }
        }
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
        let ours = addresses.iter().copied().collect();
        Ok(Self { handle, name: name.to_owned(), index, addresses: ours, routes: BTreeSet::new(), fixed: false })
    }

    /// The interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Brings addresses and routes to these.
    pub async fn sync(&mut self, addresses: BTreeSet<IpNet>, routes: BTreeSet<IpNet>) {
        for gone in self.addresses.difference(&addresses) {
            let message = self.handle.address().add(self.index, gone.addr(), gone.prefix_len()).message_mut().clone();
            let done = self.handle.address().del(message).execute().await;
            report(&self.name, &mut self.fixed, &format!("address {gone} not removed"), done);
        }
        for new in addresses.difference(&self.addresses) {
            let done = add_address(&self.handle, &self.name, self.index, *new).await;
            report(&self.name, &mut self.fixed, &format!("address {new} not added"), done);
        }
        for gone in self.routes.difference(&routes) {
            if let Some(message) = self.route(*gone) {
                let done = self.handle.route().del(message).execute().await;
                report(&self.name, &mut self.fixed, &format!("route {gone} not removed"), done);
            }
        }
        for new in routes.difference(&self.routes) {
            if let Some(message) = self.route(*new) {
                let done = self.handle.route().add(message).execute().await;
                report(&self.name, &mut self.fixed, &format!("route {new} not added"), done);
            }
        }
        self.addresses = addresses;
        self.routes = routes;
    }

    fn route(&self, to: IpNet) -> Option<rtnetlink::packet_route::route::RouteMessage> {
        let builder = RouteMessageBuilder::<IpAddr>::new().output_interface(self.index);
        Some(builder.destination_prefix(to.addr(), to.prefix_len()).ok()?.build())
    }

    /// Addresses of the host under which others might reach it: not loopback, link-local or multicast, not of this
    /// interface, of interfaces that are up.
    pub async fn host_addresses(&self) -> Result<BTreeSet<IpAddr>> {
        let mut up: HashMap<u32, bool> = HashMap::new();
        let mut links = std::pin::pin!(self.handle.link().get().execute());
        while let Some(link) = links.try_next().await? {
            let flags = link.header.flags;
            up.insert(link.header.index, flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Loopback));
        }
        let mut addresses = BTreeSet::new();
        let mut all = std::pin::pin!(self.handle.address().get().execute());
        while let Some(message) = all.try_next().await? {
            let index = message.header.index;
            if index == self.index || !up.get(&index).copied().unwrap_or(false) || !is_settled(&message) {
                continue;
            }
            addresses.extend(address_of(&message).map(|net| net.addr()).filter(is_reachable));
        }
        Ok(addresses)
    }
}

/// Keeps the interface as the mesh wants it and looks at the host's addresses, on change and every 10 s.
pub(super) async fn tend(
    mut interface: Interface,
    mut known: BTreeSet<IpAddr>,
    mut dress: watch::Receiver<Dress>,
    out: mpsc::Sender<BTreeSet<IpAddr>>,
) {
    let mut changes = watch_changes().map_err(|error| debug!(%error, "changes of interfaces are not told")).ok();
    let mut regularly = tokio::time::interval(Duration::from_secs(10));
    loop {
        let changed = async {
            let Some(receiver) = &mut changes else { return std::future::pending().await };
            if receiver.recv().await.is_none() {
                changes = None;
            }
        };
        tokio::select! {
            change = dress.changed() => {
                if change.is_err() {
                    return;
                }
                let (addresses, routes) = dress.borrow_and_update().clone();
                interface.sync(addresses, routes).await;
                continue;
            }
            () = changed => tokio::time::sleep(Duration::from_millis(100)).await,
            _ = regularly.tick() => {}
        }
        match interface.host_addresses().await {
            Ok(addresses) if addresses != known => {
                known.clone_from(&addresses);
                if out.send(addresses).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => debug!("the host's addresses: {error:#}"),
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

/// An address of ours with the length of its network, so that the kernel makes the route to the overlay.
pub(crate) fn overlay_net(network: NetworkId, pool: Option<Ipv4Net>, address: IpAddr) -> IpNet {
    let length = match (address, pool) {
        (IpAddr::V6(_), _) => network.prefix().prefix_len(),
        (IpAddr::V4(_), Some(pool)) => pool.prefix_len(),
        (IpAddr::V4(_), None) => 32,
    };
    IpNet::new(address, length).unwrap_or(IpNet::from(address))
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

fn address_error(name: &str, address: IpNet, error: &Error) -> String {
    match (os_error(error), address) {
        (Some(libc::EOPNOTSUPP | libc::EACCES), IpNet::V6(_)) => {
            format!(
                "interface {name}: address {address}: IPv6 is switched off here (sysctl net.ipv6.conf.all.disable_ipv6), but the overlay needs it"
            )
        }
        _ => format!("interface {name}: address {address}: {error}"),
    }
}

fn report(name: &str, fixed: &mut bool, what: &str, done: Result<(), Error>) {
    let Err(error) = done else { return };
    match os_error(&error) {
        Some(libc::EEXIST | libc::EADDRNOTAVAIL | libc::ESRCH) => {}
        Some(libc::EPERM) if *fixed => debug!("interface {name}: {what}: no rights"),
        Some(libc::EPERM) => {
            *fixed = true;
            warn!("interface {name}: {what}: that needs root or CAP_NET_ADMIN; do it by hand");
        }
        _ => warn!("interface {name}: {what}: {error}"),
    }
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

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    // On point-to-point links ADDRESS is the other side; ours is LOCAL.
    let local = message.attributes.iter().find_map(|attribute| if let AddressAttribute::Local(ip) = attribute { Some(*ip) } else { None });
    let address =
        message.attributes.iter().find_map(|attribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None });
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

/// Neither waiting for duplicate detection nor about to go.
fn is_settled(message: &AddressMessage) -> bool {
    let header = message.header.flags;
    let more =
        message.attributes.iter().find_map(|attribute| if let AddressAttribute::Flags(flags) = attribute { Some(*flags) } else { None });
    let unsettled = AddressHeaderFlags::Tentative | AddressHeaderFlags::Deprecated | AddressHeaderFlags::Dadfailed;
    !header.intersects(unsettled)
        && !more.is_some_and(|flags| flags.intersects(AddressFlags::Tentative | AddressFlags::Deprecated | AddressFlags::Dadfailed))
}

fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast()),
        IpAddr::V6(v6) => {
            let link_local = v6.segments()[0] & 0xFFC0 == 0xFE80;
            !(v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || link_local || v6.to_ipv4_mapped().is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_nobody_else_can_reach_are_left_out() {
        for text in ["127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1", "ff02::1", "::", "::ffff:10.0.0.1"] {
            let address = text.parse().expect("an address");
            assert!(!is_reachable(&address), "{text}");
        }
        for text in ["10.0.0.1", "192.0.2.1", "fd00::1", "2001:db8::1"] {
            assert!(is_reachable(&text.parse().expect("an address")), "{text}");
        }
    }

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
