//! `campfire pod-init`: the init container of a pod. Makes all that needs rights, so that the sidecar needs none: identity,
//! device node, and the interface with its addresses, routes and MTU. Doing it twice is doing it once.
//!
//! It asks nobody: what the interface is made of is public, and the webhook wrote it into the pod. So no operator, DNS or other mesh on the
//! way decides whether the pod has a mesh for as long as it lives; keys are the sidecar's to ask for. And it ends well whatever fails: what
//! could not be made is written down ([`PROBLEM`]), for the sidecar to report, and the startup policy decides there whether the app waits.
//!
//! It runs as root with NET_ADMIN, MKNOD and CHOWN and nothing else. Without DAC_OVERRIDE root may not open what belongs to
//! others, so things are made and opened first and given away last; what the sidecar writes stays readable by group
//! (the directory is setgid), which root is in.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use campfire_api::names::SIDECAR_UID;
use campfire_api::node::MAX_OUTSIDE;
use campfire_interface::{Interface, explain_device};
use campfire_protocol::identity::{NetworkId, ipv4_in_pool};
use campfire_sys::tun::{self, Tun};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::made::Made;
use super::{ready, state_dir};
use crate::cli::PodInit;
use crate::config;
use crate::control::overlay_net;
use crate::secrets::OwnIdentity;

/// Name of the identity's file in the state directory.
pub const IDENTITY: &str = "identity";
/// Name of the device node in the state directory.
pub const TUN_NODE: &str = "tun";
/// File that says why there is no interface.
pub const PROBLEM: &str = "problem";
/// Longest problem that is written down, characters.
const LONGEST: usize = 1_000;
/// Directory, in the state directory, that is mounted where `wg` looks for sockets.
pub(super) const WIREGUARD: &str = "wireguard";

/// Makes it all, unless it is told to stop before: as a container's first process it would not end of SIGTERM by itself.
///
/// # Errors
/// Told to stop. What cannot be made is no error: see [`PROBLEM`].
pub async fn run(arguments: &PodInit) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let made = tokio::select! {
        made = make(arguments) => made,
        _ = terminate.recv() => bail!("told to stop before all was made"),
    };
    let problem = state_dir(&arguments.options).join(PROBLEM);
    let written = match &made {
        Ok(()) => match fs::remove_file(&problem) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
        Err(error) => {
            let why: String = format!("{error:#}").chars().take(LONGEST).collect();
            error!("{why}: this pod has no interface of the mesh, and its sidecar says so");
            fs::write(&problem, why)
        }
    };
    if let Err(error) = written {
        warn!("{}: {error}", problem.display());
    }
    Ok(())
}

async fn make(arguments: &PodInit) -> Result<()> {
    let begun = Instant::now();
    let options = &arguments.options;
    let state = state_dir(options);
    let owner = arguments.uid.unwrap_or_else(|| u32::try_from(SIDECAR_UID).unwrap_or(51_820));
    directory(&state, owner)?;
    ready::forget(&state)?;
    let identity = identity(&state, owner)?;
    let sockets = state.join(WIREGUARD);
    if !sockets.exists() {
        fs::create_dir(&sockets).with_context(|| format!("{} cannot be made", sockets.display()))?;
        give(&sockets, owner)?;
    }

    let network: NetworkId = match options.network.as_deref().map(str::parse) {
        Some(Ok(network)) => network,
        Some(Err(_)) => bail!("CAMPFIRE_NETWORK is no network id (10 hex digits): the operator's webhook sets it, so make the pod anew"),
        None => bail!("CAMPFIRE_NETWORK is not set: the operator's webhook sets it, so make the pod anew"),
    };
    let interface = options.interface.clone().unwrap_or_else(|| config::INTERFACE.to_owned());
    let node = node(&state)?;
    let mtu = options.mtu.and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(1280).clamp(1280, 9000);
    let pool = options.ipv4_pool.map(|pool| pool.trunc());
    let said = Made {
        network: network.to_string(),
        mtu,
        ipv4_pool: pool.map(|pool| pool.to_string()),
        accept_routes: options.accept_route.iter().map(ToString::to_string).collect(),
    };
    said.store(&state).with_context(|| format!("{}: what the interface is made of cannot be written down", state.display()))?;
    match Tun::make_persistent(&node, &interface, owner) {
        // Its sidecar runs already, attached to what an earlier run of this container made.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            info!(interface, "is in use: made before");
            return Ok(());
        }
        made => made.map_err(|error| explain_device(&interface, &error))?,
    }
    if node.starts_with(&state) {
        give(&node, owner)?;
    }
    let public = identity.identity.public();
    let mut addresses = vec![overlay_net(network, None, network.address(&public).into())];
    if let Some(pool) = pool {
        addresses.extend(ipv4_in_pool(pool, &public).map(|ipv4| overlay_net(network, Some(pool), ipv4.into())));
    }
    let mut made = Interface::set_up(&interface, mtu, &addresses).await?;
    // The sidecar cannot make routes when peers offer some: what it may take is routed from the start.
    let routes = options.accept_route.iter().copied().collect();
    made.pin(outside().into_iter().collect());
    made.sync(&(addresses.iter().copied().collect(), routes), &made.host().await?).await;
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    info!(interface, addresses = shown.join(" "), milliseconds = begun.elapsed().as_millis() as u64, "made");
    Ok(())
}

/// Who has to be reached outside the mesh, whatever routes are accepted: the operator's agent, the API server, name servers.
pub(super) fn outside() -> Vec<IpAddr> {
    let named = ["CAMPFIRE_AGENT_ADDRESS", "KUBERNETES_SERVICE_HOST"].into_iter().filter_map(|name| std::env::var(name).ok());
    let servers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = servers.lines().filter_map(|line| line.strip_prefix("nameserver")).map(|server| server.trim().to_owned());
    let addresses: BTreeSet<IpAddr> = named.chain(servers).filter_map(|address| address.parse().ok()).collect();
    addresses.into_iter().take(MAX_OUTSIDE).collect()
}

/// The state directory belongs to the sidecar, and what is made in it to root's group.
fn directory(state: &Path, owner: u32) -> Result<()> {
    let shown = state.display();
    let metadata = fs::metadata(state)
        .map_err(|error| anyhow!("{shown}: {error}; mount an emptyDir (medium: Memory) there for this container and the sidecar"))?;
    if metadata.uid() == owner {
        return Ok(());
    }
    fs::set_permissions(state, Permissions::from_mode(0o2770)).with_context(|| format!("{shown}: mode 2770"))?;
    give(state, owner)
}

/// Gives something to the sidecar's user; the group stays.
fn give(path: &Path, owner: u32) -> Result<()> {
    chown(path, Some(owner), None)
        .map_err(|error| anyhow!("{} cannot be given to uid {owner}: {error}; this container needs the capability CHOWN", path.display()))
}

/// Who the pod is, for as long as it lives.
fn identity(state: &Path, owner: u32) -> Result<OwnIdentity> {
    let path = state.join(IDENTITY);
    let made = !path.exists();
    let identity = OwnIdentity::from_file(&path)?;
    if made {
        fs::set_permissions(&path, Permissions::from_mode(0o640)).with_context(|| format!("{}: mode 640", path.display()))?;
        give(&path, owner)?;
    }
    Ok(identity)
}

/// A device node that can be opened: the runtime's, else one of our own.
fn node(state: &Path) -> Result<PathBuf> {
    let open = |path: &Path| -> io::Result<File> { OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path) };
    let given = config::tun_node();
    // The sidecar's user must be able to open it as well.
    let everybody = fs::metadata(&given).is_ok_and(|metadata| metadata.mode() & 0o006 == 0o006);
    if everybody && open(&given).is_ok() {
        return Ok(given);
    }
    let own = state.join(TUN_NODE);
    match fs::remove_file(&own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(|| own.display().to_string()),
        _ => {}
    }
    tun::make_node(&own).map_err(|error| {
        anyhow!("TunDeniedByRuntime: the device node {} cannot be made: {error}; this container needs the capability MKNOD", own.display())
    })?;
    match open(&own) {
        Ok(_) => Ok(own),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => bail!(
            "TunDeniedByRuntime: the container runtime forbids TUN devices ({error}); runc 1.2.0 to 1.2.3 do: update runc, or give the pod /dev/net/tun"
        ),
        Err(error) => bail!("TunDeniedByRuntime: {}: {error}; is the kernel's module `tun` loaded?", own.display()),
    }
}
