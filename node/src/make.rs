//! The interface of one pod, made by a thread that enters the pod's network and ends with it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use campfire_api::names::INTERFACE;
use campfire_api::node::{Grant, Reason, Refusal};
use campfire_interface::{Interface, explain_device};
use campfire_sys::namespace::Network;
use campfire_sys::tun::Tun;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Error, Handle, IpVersion, new_connection};
use tokio::sync::oneshot;
use tracing::info_span;

/// Of the rule by which nothing that comes in by the interface goes on elsewhere: behind the table of local addresses (0, or where another network of the
/// pod's has put it), before the rule of accepted routes and the main table.
const PRIORITY: u32 = 20_950;

/// What is to be made, and where.
#[derive(Debug)]
pub struct Order {
    /// The pod's.
    pub network: Network,
    /// Who may attach to the device: the sidecar's user.
    pub owner: u32,
    /// What the operator said.
    pub grant: Grant,
    /// What stays outside.
    pub outside: BTreeSet<IpAddr>,
    /// Whether the device is wanted.
    pub device: bool,
    /// The device node of TUN.
    pub node: PathBuf,
}

/// Makes it, on a thread of its own, for as long as `patience` at most. The descriptor of the device, if it was wanted.
///
/// # Errors
/// Why not.
pub async fn make(order: Order, patience: Duration) -> Result<Option<OwnedFd>, Refusal> {
    let (sender, made) = oneshot::channel();
    let work = move || {
        let _span = info_span!("pod", uid = order.grant.pod_uid).entered();
        let _ = sender.send(enter(&order, patience));
    };
    let failed = |why: String| Refusal::new(Reason::Failed, why);
    let thread = std::thread::Builder::new().name("pod".into()).spawn(work).map_err(|error| failed(format!("no thread: {error}")))?;
    // It ends by itself in time, as far as the kernel lets it.
    let made = made.await;
    // It has nothing left to do but to end, and counts until then.
    let _ = thread.join();
    made.unwrap_or_else(|_| Err(failed("the thread that made the interface has ended".into())))
}

/// The thread: in the pod's network from here on.
fn enter(order: &Order, patience: Duration) -> Result<Option<OwnedFd>, Refusal> {
    let failed = |error: &dyn std::fmt::Display| Refusal::new(Reason::Failed, error.to_string());
    order.network.enter().map_err(|error| failed(&format!("the pod's network cannot be entered: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    match runtime.block_on(async { tokio::time::timeout(patience, shape(order)).await }) {
        Ok(made) => made,
        Err(_) => Err(failed(&format!("the kernel took more than {} s", patience.as_secs()))),
    }
}

async fn shape(order: &Order) -> Result<Option<OwnedFd>, Refusal> {
    let in_use = || Refusal::new(Reason::Busy, format!("{INTERFACE} is in use by another process of this pod"));
    let is_busy = |error: &io::Error| error.raw_os_error() == Some(libc::EBUSY);
    let failed = |error: anyhow::Error| Refusal::new(Reason::Failed, format!("{error:#}"));
    match Tun::make_persistent(&order.node, INTERFACE, order.owner) {
        Ok(()) => {}
        // Whoever asks has it.
        Err(error) if is_busy(&error) && !order.device => {}
        Err(error) if is_busy(&error) => return Err(in_use()),
        Err(error) => return Err(failed(explain_device(INTERFACE, &error))),
    }
    confine().map_err(failed)?;
    bring(order).await.map_err(failed)?;
    if !order.device {
        return Ok(None);
    }
    match Tun::open(&order.node, INTERFACE, true) {
        Ok(tun) => Ok(Some(tun.into())),
        Err(error) if is_busy(&error) => Err(in_use()),
        Err(error) => Err(failed(explain_device(INTERFACE, &error))),
    }
}

/// The kernel's settings of the interface. The sidecar is the pod's, and may write packets of any source to it: none of them may leave by another
/// interface under the pod's or anybody's address, though the pod's network be a copy of the node's settings, which forward.
fn confine() -> Result<()> {
    let set = |name: &str, value: &str| {
        let path = Path::new("/proc/sys/net").join(name);
        fs::write(&path, value).with_context(|| format!("{}: {value} cannot be written", path.display()))
    };
    set(&format!("ipv4/conf/{INTERFACE}/forwarding"), "0")?;
    let ipv6 = format!("ipv6/conf/{INTERFACE}");
    if Path::new("/proc/sys/net").join(&ipv6).exists() {
        set(&format!("{ipv6}/disable_ipv6"), "0")?;
        set(&format!("{ipv6}/forwarding"), "0")?;
        // Nobody in the mesh is anybody's router.
        set(&format!("{ipv6}/accept_ra"), "0")?;
    }
    Ok(())
}

/// Addresses, MTU, routes.
async fn bring(order: &Order) -> Result<()> {
    let (connection, handle, _) = new_connection().context("no netlink socket")?;
    tokio::spawn(connection);
    keep_in(&handle).await?;
    let Grant { mtu, addresses, routes, .. } = &order.grant;
    let mut interface = Interface::set_up(INTERFACE, *mtu, addresses).await?;
    // What an earlier grant had is gone with it.
    interface.take_over().await?;
    interface.pin(order.outside.clone());
    let host = interface.host().await.context("what else the pod has")?;
    let dress = (addresses.iter().copied().collect::<BTreeSet<IpNet>>(), routes.iter().copied().collect());
    interface.sync(&dress, &host).await;
    Ok(())
}

/// A rule of each family: what comes in by the interface and is for none of the pod's own addresses is refused. (`forwarding` of one interface says so for
/// IPv4; for IPv6 the kernel asks `all` alone.)
async fn keep_in(handle: &Handle) -> Result<()> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut add = handle.rule().add().input_interface(INTERFACE.to_owned()).priority(PRIORITY).action(RuleAction::Prohibit);
        add.message_mut().header.family = family;
        if is_ruled(handle, add.message_mut()).await? {
            continue;
        }
        match add.execute().await {
            Ok(()) => {}
            // Without IPv6 in the kernel.
            Err(Error::NetlinkError(error))
                if family == AddressFamily::Inet6 && error.code.is_some_and(|code| -code.get() == libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error).context("the rule that keeps packets in the pod cannot be made"),
        }
    }
    Ok(())
}

async fn is_ruled(handle: &Handle, rule: &RuleMessage) -> Result<bool> {
    use futures_util::TryStreamExt as _;
    let version = if rule.header.family == AddressFamily::Inet { IpVersion::V4 } else { IpVersion::V6 };
    let mut rules = std::pin::pin!(handle.rule().get(version).execute());
    let says = |held: &RuleMessage, wanted: RuleAttribute| held.attributes.contains(&wanted);
    while let Some(held) = rules.try_next().await? {
        if held.header.action == RuleAction::Prohibit
            && says(&held, RuleAttribute::Priority(PRIORITY))
            && says(&held, RuleAttribute::Iifname(INTERFACE.to_owned()))
        {
            return Ok(true);
        }
    }
    Ok(false)
}
