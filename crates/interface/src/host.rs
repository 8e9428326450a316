//! What the host has beside our interface, by rtnetlink: addresses under which others might reach it, and where its own routes lead.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

/// A route of the host's, neither a default one nor ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Local {
    /// To where.
    pub net: IpNet,
    /// Hosts there are neighbours: no router lies between.
    pub on_link: bool,
    /// Name of the device.
    pub device: String,
}

/// What the host has beside our interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Addresses under which others might reach it, the likeliest first: those of the default route's device, then others, then those of
    /// bridges (which containers and virtual machines hang on). Not loopback, link-local or multicast; of devices that are up.
    pub addresses: Vec<IpAddr>,
    /// Those of them that no TUN device has: another mesh's may well lie in the same network as ours.
    pub fixed: Vec<IpAddr>,
    /// Its own routes.
    pub locals: BTreeSet<Local>,
    /// Device of the default route.
    pub device: Option<String>,
}

/// A device.
struct Device {
    name: String,
    bridge: bool,
    tun: bool,
}

impl Host {
    /// Looks at all but the interface `own`.
    pub async fn look(handle: &Handle, own: u32) -> Result<Self> {
        let mut devices = HashMap::new();
        let mut links = std::pin::pin!(handle.link().get().execute());
        while let Some(link) = links.try_next().await? {
            let flags = link.header.flags;
            if link.header.index != own && flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Loopback) {
                devices.insert(
                    link.header.index,
                    Device { name: name_of(&link), bridge: is_a(&link, &InfoKind::Bridge), tun: is_a(&link, &InfoKind::Tun) },
                );
            }
        }
        let (mut locals, mut defaults) = (BTreeSet::new(), Vec::new());
        for message in routes(handle, u32::from(RouteHeader::RT_TABLE_MAIN)).await? {
            let Some((index, device)) = device_of(&message).and_then(|index| Some((index, devices.get(&index)?))) else { continue };
            let net = destination(&message);
            if net.prefix_len() == 0 {
                defaults.push((priority(&message), index));
            } else if message.header.kind == RouteType::Unicast && is_reachable(&net.addr()) {
                let on_link = is_on_link(&message);
                locals.insert(Local { net, on_link, device: device.name.clone() });
            }
        }
        defaults.sort_unstable();
        let first = defaults.first().map(|(_, index)| *index);

        let (mut addresses, mut fixed) = (Vec::new(), Vec::new());
        let mut all = std::pin::pin!(handle.address().get().execute());
        while let Some(message) = all.try_next().await? {
            let index = message.header.index;
            let Some(device) = devices.get(&index).filter(|_| is_settled(&message)) else { continue };
            let rank = if defaults.iter().any(|(_, of)| *of == index) { 0 } else { 1 + u8::from(device.bridge) };
            let address = address_of(&message).map(|net| net.addr()).filter(is_reachable);
            addresses.extend(address.map(|address| (rank, address)));
            fixed.extend(address.filter(|_| !device.tun));
        }
        addresses.sort_unstable();
        addresses.dedup();
        let addresses = addresses.into_iter().map(|(_, address)| address).collect();
        Ok(Self { addresses, fixed, locals, device: first.and_then(|index| devices.remove(&index)).map(|device| device.name) })
    }
}

/// Routes of both families in a table.
pub(crate) async fn routes(handle: &Handle, table: u32) -> Result<Vec<RouteMessage>> {
    let mut found = Vec::new();
    let families = [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        .map(|message| handle.route().get(message));
    for family in families {
        let mut all = std::pin::pin!(family.execute());
        while let Some(message) = all.try_next().await? {
            if table_of(&message) == table {
                found.push(message);
            }
        }
    }
    Ok(found)
}

fn table_of(message: &RouteMessage) -> u32 {
    let table =
        message.attributes.iter().find_map(|attribute| if let RouteAttribute::Table(table) = attribute { Some(*table) } else { None });
    table.unwrap_or_else(|| u32::from(message.header.table))
}

/// To where a route leads.
pub(crate) fn destination(message: &RouteMessage) -> IpNet {
    let address = message.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(address) = attribute else { return None };
        if let RouteAddress::Inet(v4) = address {
            Some(IpAddr::V4(*v4))
        } else if let RouteAddress::Inet6(v6) = address {
            Some(IpAddr::V6(*v6))
        } else {
            None
        }
    });
    let v4 = message.header.address_family == rtnetlink::packet_route::AddressFamily::Inet;
    let address = address.unwrap_or(if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() });
    IpNet::new(address, message.header.destination_prefix_length).unwrap_or(IpNet::from(address))
}

/// The device that a route leads to.
pub(crate) fn device_of(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::MultiPath(hops) = attribute {
            return hops.first().map(|hop| hop.interface_index);
        }
        if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None }
    })
}

fn priority(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| if let RouteAttribute::Priority(priority) = attribute { Some(*priority) } else { None })
        .unwrap_or(0)
}

fn is_on_link(message: &RouteMessage) -> bool {
    let router = message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_)));
    !router && matches!(message.header.scope, RouteScope::Link | RouteScope::Universe)
}

fn name_of(link: &LinkMessage) -> String {
    link.attributes
        .iter()
        .find_map(|attribute| if let LinkAttribute::IfName(name) = attribute { Some(name.clone()) } else { None })
        .unwrap_or_default()
}

fn is_a(link: &LinkMessage, wanted: &InfoKind) -> bool {
    link.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.iter().any(|info| matches!(info, LinkInfo::Kind(kind) if kind == wanted)))
    })
}

/// An interface's address with the length of its network.
pub(crate) fn address_of(message: &AddressMessage) -> Option<IpNet> {
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
}
