//! The way below the mesh. Whatever routes are accepted, our own packets to servers and peers must not enter the tunnel that they carry.
//!
//! With CAP_NET_ADMIN they bear a [`MARK`], for which the rule of the accepted routes (`campfire_interface`) does not hold. A pod's sidecar
//! has no such right: its sockets are bound to the device of the default route, which needs none (Linux 5.7), and routes to another
//! device do not hold for those.

use std::sync::OnceLock;

use campfire_interface::MARK;
use socket2::SockRef;

/// What sockets are bound to where they may not be marked.
static DEVICE: OnceLock<String> = OnceLock::new();

/// From now on sockets that may not be marked are bound to this device.
pub fn fall_back_to(device: &str) {
    let _ = DEVICE.set(device.to_owned());
}

/// Keeps a new socket's packets out of the tunnel.
pub fn keep_out(socket: &SockRef<'_>) {
    if let (Err(_), Some(device)) = (socket.set_mark(MARK), DEVICE.get())
        && let Err(error) = socket.bind_device(Some(device.as_bytes()))
    {
        tracing::debug!(%error, device, "a socket that an accepted route may lead into the tunnel");
    }
}
