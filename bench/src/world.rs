//! Two namespaces on one cable: clients in one, the server in the other.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// Where the clients are.
pub const CLIENTS: &str = "campfire-bench-c";
/// Where the server is.
pub const SERVER: &str = "campfire-bench-s";

/// The namespaces; removed when dropped.
pub struct World;

impl World {
    /// Makes them; what an interrupted run left is removed first.
    pub fn new() -> Result<Self> {
        Self::remove();
        let world = Self;
        for line in [
            format!("netns add {CLIENTS}"),
            format!("netns add {SERVER}"),
            format!("-n {CLIENTS} link add cable type veth peer name cable netns {SERVER}"),
            format!("-n {CLIENTS} address add 10.77.0.1/24 dev cable"),
            format!("-n {SERVER} address add 10.77.0.2/24 dev cable"),
            format!("-n {CLIENTS} link set cable up"),
            format!("-n {SERVER} link set cable up"),
            format!("-n {CLIENTS} link set lo up"),
            format!("-n {SERVER} link set lo up"),
        ] {
            let output = Command::new("ip").args(line.split(' ')).output().context("ip (Debian's package iproute2)")?;
            if !output.status.success() {
                bail!("ip {line}: {} (this bench needs root)", String::from_utf8_lossy(&output.stderr).trim());
            }
        }
        Ok(world)
    }

    fn remove() {
        for name in [CLIENTS, SERVER] {
            let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
        }
    }

    /// A command inside a namespace.
    pub fn command(name: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", name]).arg(program).stdin(Stdio::null());
        command
    }

    /// Where clients are.
    pub fn client_address() -> SocketAddr {
        SocketAddr::from(([10, 77, 0, 1], 0))
    }

    /// Where the server is.
    pub fn server_address() -> SocketAddr {
        SocketAddr::from(([10, 77, 0, 2], 3478))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        Self::remove();
    }
}

/// A server's process; ended when dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
