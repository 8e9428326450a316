//! UDP sockets for camping: bound for whoever moves packets, or read and written here where nobody does.

use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as BlockingSocket};

use campfire_protocol::carrier::SocketId;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tracing::debug;

use crate::{Datagram, Prepare};

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process has the port.
    #[error("UDP port {0} is taken by another process")]
    Taken(u16),
    /// The port is for processes with rights.
    #[error("UDP port {0} may not be used without rights")]
    Denied(u16),
    /// The host has neither IPv4 nor IPv6.
    #[error("this host has neither IPv4 nor IPv6")]
    NoFamily,
    /// Anything else.
    #[error("UDP port {port}: {error}")]
    Other {
        /// The port.
        port: u16,
        /// What the kernel says.
        error: io::Error,
    },
}

/// One UDP socket for each family that the host has, opened by `open`, which tells where it bound it, on the same port if it is free;
/// port 0: any.
pub fn bind<S>(port: u16, open: impl Fn(SocketAddr) -> io::Result<(S, SocketAddr)>) -> Result<Vec<(SocketId, S)>, BindError> {
    let mut sockets = Vec::new();
    let mut port_of_first = port;
    for (id, address) in [(SocketId(0), IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (SocketId(1), IpAddr::V6(Ipv6Addr::UNSPECIFIED))] {
        let bound = match open(SocketAddr::new(address, port_of_first)) {
            // Any port will do, so one that is free for one family alone does too.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port == 0 => open(SocketAddr::new(address, 0)),
            other => other,
        };
        match bound {
            Ok((socket, local)) => {
                port_of_first = local.port();
                sockets.push((id, socket));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(BindError::Taken(port)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                debug!(%address, %error, "this host lacks the address family");
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(BindError::Denied(port)),
            Err(error) => return Err(BindError::Other { port, error }),
        }
    }
    if sockets.is_empty() { Err(BindError::NoFamily) } else { Ok(sockets) }
}

/// The sockets of a camp without a data plane: STUN messages alone go through them.
pub struct UdpSockets {
    sockets: Vec<(SocketId, UdpSocket)>,
}

impl UdpSockets {
    /// Opens one for each family, on any port, each prepared by this.
    pub fn open(prepare: Prepare) -> Result<Self, BindError> {
        let open = |address| {
            let socket = BlockingSocket::bind(address)?;
            prepare(&SockRef::from(&socket));
            socket.set_nonblocking(true)?;
            let local = socket.local_addr()?;
            Ok((socket, local))
        };
        let tokio = |(id, socket)| Ok((id, UdpSocket::from_std(socket).map_err(|error| BindError::Other { port: 0, error })?));
        Ok(Self { sockets: bind(0, open)?.into_iter().map(tokio).collect::<Result<_, BindError>>()? })
    }

    /// Those that are open.
    pub fn ids(&self) -> impl Iterator<Item = SocketId> {
        self.sockets.iter().map(|(id, _)| *id)
    }

    /// Sends; what a full buffer drops is asked again by whoever asked.
    pub fn send(&self, datagram: &Datagram) {
        if let Some((_, socket)) = self.sockets.iter().find(|(id, _)| *id == datagram.socket) {
            // Past tokio, which holds that a new socket cannot be written before it has looked.
            let _ = SockRef::from(socket).send_to(&datagram.bytes, &datagram.remote.into());
        }
    }

    /// Waits for a datagram: on which socket it came, from where, and its length in `buffer`. Safe to be cancelled.
    pub async fn receive(&self, buffer: &mut [u8]) -> (SocketId, SocketAddr, usize) {
        loop {
            if let Some(received) = self.try_receive(buffer) {
                return received;
            }
            tokio::select! {
                () = self.readable(SocketId(0)) => {}
                () = self.readable(SocketId(1)) => {}
            }
        }
    }

    /// A datagram that is there already.
    pub fn try_receive(&self, buffer: &mut [u8]) -> Option<(SocketId, SocketAddr, usize)> {
        // An error is an ICMP message's, told as one of ours.
        self.sockets.iter().find_map(|(id, socket)| socket.try_recv_from(buffer).ok().map(|(size, remote)| (*id, remote, size)))
    }

    async fn readable(&self, wanted: SocketId) {
        match self.sockets.iter().find(|(id, _)| *id == wanted) {
            Some((_, socket)) => drop(socket.readable().await),
            None => pending().await,
        }
    }
}
