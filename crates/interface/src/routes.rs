//! Accepted routes, in a table of their own, so that they never swallow the way that the mesh itself needs.
//!
//! A rule leads there all packets that do not bear our own [`MARK`]. Beside the accepted routes the table says of the
//! host's own, where an accepted one holds them, that they are not its business (`throw`): the more specific route counts, whichever table
//! it is in. What is a neighbour here is not routed into the mesh at all.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use futures_util::TryStreamExt as _;
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Error, Handle, IpVersion, RouteMessageBuilder};

use crate::host::{Local, destination, device_of, routes};
use crate::os_error;

/// Mark of a peer's own packets (`SO_MARK`), which the rule of the accepted routes leaves alone.
pub const MARK: u32 = 0xca3f;
/// Tables are this and the interface's index.
const TABLE: u32 = 0x6361_0000;
/// Before the main table's rule (32766), after what people write by hand with low numbers.
const PRIORITY: u32 = 20_951;
/// Most of the host's routes that are looked after.
const MOST: usize = 1_024;

/// Link-local (and with it the clouds' metadata), multicast, broadcast.
const ALWAYS_HERE: [&str; 5] = ["169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "fe80::/10", "ff00::/8"];

/// Where no server or peer of the open Internet is.
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];

/// An entry of the table. What stays out comes first, so that nothing is swallowed meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    /// Not this table's business.
    Out(IpNet),
    /// Into the mesh.
    In(IpNet),
}

impl Entry {
    fn net(self) -> IpNet {
        match self {
            Self::Out(net) | Self::In(net) => net,
        }
    }
}

/// The table of one interface.
pub(crate) struct Routes {
    handle: Handle,
    index: u32,
    /// What we put there, and so may take away.
    added: BTreeSet<Entry>,
    ruled: BTreeSet<bool>,
}

/// Routes that are taken, and those that are not, each with the reason.
pub(crate) fn sort(accepted: &BTreeSet<IpNet>, own: &BTreeSet<IpNet>, locals: &BTreeSet<Local>) -> (BTreeSet<IpNet>, Vec<String>) {
    let mut refused = Vec::new();
    let taken = accepted.iter().copied().filter(|route| {
        let v4 = matches!(route, IpNet::V4(_));
        if !own.iter().any(|address| matches!(address, IpNet::V4(_)) == v4) {
            refused.push(format!(
                "the route {route} is not taken: there is no address of its family here; give --ipv4-pool, the same on all peers"
            ));
            return false;
        }
        if let Some(local) = locals.iter().find(|local| (local.on_link && local.net.contains(route)) || local.net == *route) {
            refused.push(format!("the route {route} is not taken: this machine reaches that by {} itself", local.device));
            return false;
        }
        true
    });
    (taken.collect(), refused)
}

/// What is wrong if the underlay's device drops what comes in by it from where a taken route leads: servers and peers may be there.
pub(crate) fn filtered(taken: &BTreeSet<IpNet>, device: &str, setting: impl Fn(&str) -> Option<u8>) -> Option<String> {
    let is_private = |route: &Ipv4Net| PRIVATE.iter().filter_map(|net| net.parse().ok()).any(|net: Ipv4Net| net.contains(route));
    let route = taken.iter().find(|route| matches!(route, IpNet::V4(route) if !is_private(route)))?;
    // The larger one counts: 1 is strict, 2 is loose.
    let strict = setting("all").max(setting(device)) == Some(1);
    strict.then(|| {
        format!(
            "reverse path filtering of {device} is strict (rp_filter 1): with the route {route} taken, answers of servers and peers may be \
             dropped; sysctl -w net.ipv4.conf.{device}.rp_filter=2"
        )
    })
}

/// The kernel's setting of reverse path filtering for `all` devices or one.
pub(crate) fn rp_filter(device: &str) -> Option<u8> {
    std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter")).ok()?.trim().parse().ok()
}

/// The host's own networks that lie in accepted routes, and what is never elsewhere than here: those stay where they are. `pinned`: single
/// addresses that do too.
fn kept(taken: &BTreeSet<IpNet>, locals: &BTreeSet<Local>, pinned: &BTreeSet<IpAddr>) -> BTreeSet<IpNet> {
    let always = ALWAYS_HERE.iter().filter_map(|net| net.parse().ok());
    let locals = locals.iter().map(|local| local.net).chain(pinned.iter().copied().map(IpNet::from));
    always.chain(locals).filter(|net| taken.iter().any(|route| route.contains(net))).take(MOST).collect()
}

impl Routes {
    /// Of the interface with this index.
    pub fn new(handle: Handle, index: u32) -> Self {
        Self { handle, index, added: BTreeSet::new(), ruled: BTreeSet::new() }
    }

    fn table(&self) -> u32 {
        TABLE | (self.index & 0xffff)
    }

    /// Counts as ours whatever the table has, and the rules that lead there.
    pub async fn take_over(&mut self) -> Result<()> {
        self.added = self.held().await?;
        for v4 in [true, false] {
            if self.is_ruled(v4).await? {
                self.ruled.insert(v4);
            }
        }
        Ok(())
    }

    /// What the kernel has in the table.
    async fn held(&self) -> Result<BTreeSet<Entry>> {
        let messages = routes(&self.handle, self.table()).await?;
        let entries = messages.iter().filter_map(|message| {
            if message.header.kind == RouteType::Throw {
                return Some(Entry::Out(destination(message)));
            }
            (device_of(message) == Some(self.index)).then(|| Entry::In(destination(message)))
        });
        Ok(entries.collect())
    }

    /// Brings the table to these routes, compared with what the kernel has. Tells what could not be done, and what somebody else had taken away.
    pub async fn sync(
        &mut self,
        taken: &BTreeSet<IpNet>,
        locals: &BTreeSet<Local>,
        pinned: &BTreeSet<IpAddr>,
    ) -> Result<(Vec<String>, Vec<String>)> {
        let (mut failed, mut mended) = (Vec::new(), Vec::new());
        if taken.is_empty() && self.added.is_empty() {
            return Ok((failed, mended));
        }
        let wanted: BTreeSet<_> =
            taken.iter().copied().map(Entry::In).chain(kept(taken, locals, pinned).into_iter().map(Entry::Out)).collect();
        let held = self.held().await?;
        // What stays out goes in first, and out last.
        for new in wanted.difference(&held) {
            let done = self.handle.route().add(self.message(*new)).execute().await;
            if note(&mut failed, &format!("route {} cannot be made", new.net()), done)
                && self.added.contains(new)
                && matches!(new, Entry::In(_))
            {
                mended.push(format!("route {}", new.net()));
            }
            self.added.insert(*new);
        }
        for v4 in [true, false] {
            let needed = taken.iter().any(|route| matches!(route, IpNet::V4(_)) == v4);
            // Asked of the kernel: somebody may have taken it away, and in a pod the init container made it, for one who may not.
            let there = self.is_ruled(v4).await?;
            if needed && !there {
                let mut add = self.handle.rule().add();
                *add.message_mut() = self.rule(v4);
                let made = note(&mut failed, "the rule for accepted routes cannot be made", add.execute().await);
                if !self.ruled.insert(v4) && made {
                    mended.push("the rule for accepted routes".to_owned());
                }
            } else if needed {
                self.ruled.insert(v4);
            } else if self.ruled.remove(&v4) && there {
                note(&mut failed, "the rule for accepted routes cannot be removed", self.handle.rule().del(self.rule(v4)).execute().await);
            }
        }
        let gone: Vec<_> = self.added.difference(&wanted).copied().collect();
        for gone in gone {
            if held.contains(&gone) {
                note(
                    &mut failed,
                    &format!("route {} cannot be removed", gone.net()),
                    self.handle.route().del(self.message(gone)).execute().await,
                );
            }
            self.added.remove(&gone);
        }
        Ok((failed, mended))
    }

    fn message(&self, entry: Entry) -> RouteMessage {
        let builder = RouteMessageBuilder::<IpAddr>::new().table_id(self.table());
        let builder = match entry {
            Entry::Out(_) => builder.kind(RouteType::Throw),
            Entry::In(_) => builder.output_interface(self.index),
        };
        let net = entry.net();
        // The prefix's length fits its family: it comes out of a network.
        builder.destination_prefix(net.addr(), net.prefix_len()).map(RouteMessageBuilder::build).unwrap_or_default()
    }

    /// Whether the rule of a family is there.
    async fn is_ruled(&self, v4: bool) -> Result<bool> {
        let version = if v4 { IpVersion::V4 } else { IpVersion::V6 };
        let mut rules = std::pin::pin!(self.handle.rule().get(version).execute());
        while let Some(rule) = rules.try_next().await? {
            let says = |wanted: RuleAttribute| rule.attributes.contains(&wanted);
            if says(RuleAttribute::Priority(PRIORITY)) && says(RuleAttribute::Table(self.table())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn rule(&self, v4: bool) -> RuleMessage {
        let mut add = self.handle.rule().add().table_id(self.table()).priority(PRIORITY).fw_mark(MARK).action(RuleAction::ToTable);
        let message = add.message_mut();
        message.header.family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.flags |= RuleFlags::Invert;
        message.clone()
    }
}

/// Whether it was done (or is so); if not, it is noted.
pub(crate) fn note(failed: &mut Vec<String>, what: &str, done: Result<(), Error>) -> bool {
    let Err(error) = done else { return true };
    match os_error(&error) {
        Some(libc::EEXIST | libc::EADDRNOTAVAIL | libc::ESRCH | libc::ENOENT) => return true,
        Some(libc::EPERM) => failed.push(format!("{what}: that needs root or CAP_NET_ADMIN: do it by hand, or make the pod anew")),
        _ => failed.push(format!("{what}: {error}")),
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_stay_neighbours_and_a_family_without_an_address_takes_no_routes() {
        let locals = BTreeSet::from([local("10.1.0.0/24", true), local("172.16.0.0/12", false)]);
        let own = nets(&["fd00:1::1/48", "100.80.0.1/16"]);
        let accepted = nets(&["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/24", "10.1.0.128/25", "172.16.0.0/12", "172.16.5.0/24", "fd05::/64"]);
        let (taken, refused) = sort(&accepted, &own, &locals);
        assert_eq!(taken, nets(&["0.0.0.0/0", "10.0.0.0/8", "172.16.5.0/24", "fd05::/64"]));
        assert_eq!(refused.len(), 3, "{refused:?}");
        assert!(refused[0].contains("10.1.0.0/24 is not taken: this machine reaches that by eth0 itself"), "{refused:?}");
        let stays = kept(&taken, &locals, &BTreeSet::from(["8.8.8.8".parse().unwrap()]));
        assert_eq!(stays, nets(&["10.1.0.0/24", "172.16.0.0/12", "8.8.8.8/32", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"]));
        assert!(kept(&nets(&["10.77.0.0/16"]), &locals, &BTreeSet::from(["8.8.8.8".parse().unwrap()])).is_empty());

        let (taken, refused) = sort(&nets(&["10.2.0.0/24"]), &nets(&["fd00:1::1/48"]), &locals);
        assert!(taken.is_empty() && refused[0].contains("give --ipv4-pool"), "{refused:?}");
    }

    #[test]
    fn a_strict_filter_is_told_where_a_route_holds_the_open_internet() {
        let setting = |all, device| move |name: &str| Some(if name == "all" { all } else { device });
        let told = filtered(&nets(&["0.0.0.0/0"]), "eth0", setting(0, 1)).expect("strict");
        assert!(told.contains("sysctl -w net.ipv4.conf.eth0.rp_filter=2"), "{told}");
        assert!(filtered(&nets(&["10.0.0.0/8", "198.51.100.0/24"]), "eth0", setting(1, 0)).is_some());
        for (all, device) in [(0, 0), (2, 1), (1, 2)] {
            assert!(filtered(&nets(&["0.0.0.0/0"]), "eth0", setting(all, device)).is_none(), "{all} {device}");
        }
        assert!(filtered(&nets(&["10.0.0.0/8", "::/0"]), "eth0", setting(1, 1)).is_none());
    }

    fn local(net: &str, on_link: bool) -> Local {
        Local { net: net.parse().unwrap(), on_link, device: "eth0".into() }
    }

    fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }
}
