//! Network namespaces: clients in one, the server in another, and between them a cable or a node that forwards.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

/// Where the clients are.
pub const CLIENTS: &str = "campfire-bench-clients";
/// Where the server is.
pub const SERVER: &str = "campfire-bench-server";
/// What forwards between them.
const NODE: &str = "campfire-bench-node";

/// What lies between clients and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// One cable: a server on a host's own network.
    Bare,
    /// A node that forwards to the server's cable, as to a pod's.
    Pod,
}

/// The namespaces; removed when dropped.
pub struct World;

impl World {
    /// Makes them; what an interrupted run left is removed first.
    pub fn new(topology: Topology) -> Result<Self> {
        Self::remove();
        let world = Self;
        let mut lines = vec![format!("netns add {CLIENTS}"), format!("netns add {SERVER}")];
        match topology {
            Topology::Bare => lines.extend([
                format!("-n {CLIENTS} link add cable type veth peer name cable netns {SERVER}"),
                format!("-n {CLIENTS} address add 10.77.1.1/24 dev cable"),
                format!("-n {CLIENTS} link set cable up"),
                format!("-n {SERVER} address add 10.77.1.2/24 dev cable"),
                format!("-n {SERVER} link set cable up"),
            ]),
            Topology::Pod => lines.extend([
                format!("netns add {NODE}"),
                format!("-n {CLIENTS} link add cable type veth peer name outside netns {NODE}"),
                format!("-n {SERVER} link add cable type veth peer name pod netns {NODE}"),
                format!("-n {NODE} address add 10.77.0.254/24 dev outside"),
                format!("-n {NODE} address add 10.77.1.254/24 dev pod"),
                format!("-n {NODE} link set outside up"),
                format!("-n {NODE} link set pod up"),
                format!("-n {CLIENTS} address add 10.77.0.1/24 dev cable"),
                format!("-n {CLIENTS} link set cable up"),
                format!("-n {CLIENTS} route add default via 10.77.0.254"),
                format!("-n {SERVER} address add 10.77.1.2/24 dev cable"),
                format!("-n {SERVER} link set cable up"),
                format!("-n {SERVER} route add default via 10.77.1.254"),
                format!("netns exec {NODE} sysctl -qw net.ipv4.ip_forward=1"),
            ]),
        }
        lines.extend([format!("-n {CLIENTS} link set lo up"), format!("-n {SERVER} link set lo up")]);
        for line in lines {
            let output = Command::new("ip").args(line.split(' ')).output().context("ip (Debian's package iproute2)")?;
            if !output.status.success() {
                bail!("ip {line}: {} (this bench needs root)", String::from_utf8_lossy(&output.stderr).trim());
            }
        }
        Ok(world)
    }

    fn remove() {
        for name in [CLIENTS, SERVER, NODE] {
            let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
        }
    }

    /// A command inside a namespace.
    pub fn command(name: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", name]).arg(program).stdin(Stdio::null());
        command
    }

    /// Where the server is.
    pub fn server_address() -> SocketAddr {
        SocketAddr::from(([10, 77, 1, 2], 3478))
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
