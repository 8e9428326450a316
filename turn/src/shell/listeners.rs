//! What is listened on: bound at the start, all of it or nothing but what was optional.

use std::net::{Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

use super::config::{Listen, Settings};
use super::sockets::Listener as UdpListener;

/// The listening sockets.
pub(super) struct Listeners {
    pub(super) udp: Vec<UdpListener>,
    pub(super) tcp: Vec<TcpListener>,
    pub(super) tls: Vec<TcpListener>,
    /// Health and metrics.
    pub(super) http: Option<TcpListener>,
}

impl Listeners {
    /// Binds what the settings name. Errors say what to do.
    pub(super) fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let mut udp = Vec::new();
        for listen in &settings.udp {
            udp.extend(optional("UDP", *listen, UdpListener::bind(listen.address))?);
        }
        let tcp = bind_tcp("TCP", &settings.tcp)?;
        let tls = bind_tcp("TLS", &settings.tls)?;
        let http = match settings.http {
            Some(address) => optional("HTTP", Listen { address, optional: false }, listen_http(address))?,
            None => None,
        };
        if udp.is_empty() && tcp.is_empty() && tls.is_empty() {
            anyhow::bail!(
                "nothing is left to listen on: this kernel has no IPv6, so name IPv4 addresses with --listen, such as 0.0.0.0:3478"
            );
        }
        Ok(Self { udp, tcp, tls, http })
    }

    /// Where they listen, with the ports that were got.
    pub(super) fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses {
            udp: self.udp.iter().map(UdpListener::address).collect::<Result<_, _>>()?,
            tcp: self.tcp.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?,
            tls: self.tls.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?,
            http: self.http.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?,
        })
    }
}

/// What is listened on, with the ports that were got.
pub(super) struct Addresses {
    udp: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
}

impl Addresses {
    pub(super) fn say_ready(&self) {
        let list = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        tracing::info!(
            udp = list(&self.udp),
            tcp = list(&self.tcp),
            tls = list(&self.tls),
            http = list(&self.http),
            version = env!("CARGO_PKG_VERSION"),
            "ready"
        );
    }
}

fn bind_tcp(what: &str, listeners: &[Listen]) -> anyhow::Result<Vec<TcpListener>> {
    let mut bound = Vec::new();
    for listen in listeners {
        bound.extend(optional(what, *listen, listen_tcp(listen.address, listen.address.is_ipv6()))?);
    }
    Ok(bound)
}

/// Health and metrics have one address: `[::]` stands for all, IPv4 too, also where there is no IPv6. A probe comes by whatever the pod has.
fn listen_http(address: SocketAddr) -> std::io::Result<TcpListener> {
    if !address.is_ipv6() || !address.ip().is_unspecified() {
        return listen_tcp(address, address.is_ipv6());
    }
    match listen_tcp(address, false) {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            listen_tcp(SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port()), false)
        }
        bound => bound,
    }
}

fn listen_tcp(address: SocketAddr, only_v6: bool) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Whether the kernel has no IPv6 at all.
fn no_ipv6(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// A listener that was not asked for by name may be missing; another one's failure says what to do.
fn optional<T>(what: &str, listen: Listen, result: std::io::Result<T>) -> anyhow::Result<Option<T>> {
    let Listen { address, optional } = listen;
    match result {
        Ok(listener) => Ok(Some(listener)),
        // `[::]` of a kernel without IPv6 is as good as not asked for: who writes it means all addresses.
        Err(error) if optional || (address == SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port()) && no_ipv6(&error)) => {
            tracing::warn!(%error, "not listening on {what} {address}");
            Ok(None)
        }
        Err(error) => {
            let advice = match error.kind() {
                std::io::ErrorKind::AddrInUse => "another program holds it; stop that, or choose another with --listen",
                std::io::ErrorKind::AddrNotAvailable => "this machine has no such address; see `ip address`",
                std::io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start"
                }
                _ => "choose another with --listen",
            };
            Err(anyhow::anyhow!("cannot listen on {what} {address}: {error} ({advice})"))
        }
    }
}
