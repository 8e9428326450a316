//! The contract between the mesh and its shell: what comes in ([`Input`]), what is to be done ([`Output`]), and the table
//! that the data plane reads ([`Table`]).
//!
//! After each [`Mesh::handle`](crate::Mesh::handle) the shell drains [`Mesh::poll`](crate::Mesh::poll) until it gives
//! `None`, then looks at [`Mesh::next_wake`](crate::Mesh::next_wake) and, if [`Table::version`] moved, hands the table to
//! the data plane.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use campfire_protocol::time::Time;
use campfire_tunnel::LinkId;
use ipnet::IpNet;

/// A UDP socket of the shell's. The shell opens `SocketId(0)` (IPv4) and `SocketId(1)` (IPv6), where the family exists,
/// before the mesh starts; the mesh asks for further ones (a fresh socket for another try at punching).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u16);

/// A TCP or TLS connection to a server, numbered by the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// A server in the mesh's list, numbered by the mesh; never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerSlot(pub u16);

/// What carries a datagram: where it came from or shall go.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// A UDP socket of ours and the address at the other end.
    Udp { socket: SocketId, remote: SocketAddr },
    /// A stream to a server. Frames on it are STUN messages and ChannelData padded to four bytes (RFC 8656 §12.5); the
    /// shell cuts and pads them.
    Stream(StreamId),
}

/// How a link's packets go.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// Straight to the other peer.
    Direct { socket: SocketId, remote: SocketAddr },
    /// As ChannelData with this channel number through a server, over `via`.
    Relay { server: ServerSlot, via: Via, channel: u16 },
}

/// What the shell tells the mesh.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Debug)]
pub enum Input<'a> {
    /// The time of [`Mesh::next_wake`](crate::Mesh::next_wake) has come.
    Wake,
    /// A socket is open; `local` are the addresses under which other hosts might reach it (interface addresses with the
    /// socket's port). Said again when the interfaces change.
    SocketOpened { socket: SocketId, local: &'a [SocketAddr] },
    /// A socket asked for could not be opened, or died.
    SocketClosed { socket: SocketId },
    /// Answer to [`Output::Resolve`]; empty when the name did not resolve.
    Resolved { server: ServerSlot, addresses: &'a [SocketAddr] },
    /// A stream asked for is up (TLS included).
    StreamOpened { stream: StreamId },
    /// A stream failed or ended. `reason` is for people.
    StreamClosed { stream: StreamId, reason: &'a str },
    /// A STUN message.
    Stun { via: Via, message: &'a [u8] },
    /// A WireGuard handshake message (types 1–3) that did not come through a Signal; `path` is how it came. The shell asks
    /// [`Tunnels::initiator`](campfire_tunnel::Tunnels::initiator) for type 1 and passes the key.
    Handshake { path: Path, message: &'a [u8], initiator: Option<[u8; 32]> },
    /// Answer to [`Output::IdentifyInitiation`].
    Initiation { token: u64, initiator: Option<[u8; 32]> },
    /// A control packet's payload that was opened by `link`'s session; `path` is how it came.
    Control { link: LinkId, path: Path, payload: &'a [u8] },
    /// The tunnels have something to say.
    Tunnel(campfire_tunnel::Event),
    /// What the data plane saw on a link since it last said so (about every 100 ms, for links with traffic alone).
    Traffic(Traffic),
    /// An application sends to an overlay address that has no link (or one without a session): make one.
    Wanted { address: IpAddr },
    /// A wall clock reading; said at start and every minute.
    Wall { unix_millis: u64 },
    /// New list of servers or keys (rotation, reload).
    Configure(Box<crate::config::Reconfigure>),
    /// Say goodbye everywhere; after draining the outputs the shell may exit.
    Shutdown,
}

/// What the data plane saw on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The link.
    pub link: LinkId,
    /// Payload bytes of applications sealed and sent (control packets are not counted).
    pub sent_bytes: u64,
    /// Payload bytes of applications opened.
    pub received_bytes: u64,
    /// When the last authentic message came, and how.
    pub last_received: Option<(Time, Path)>,
    /// When the last message was sent.
    pub last_sent: Option<Time>,
}

/// What the mesh asks of the shell.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this datagram (STUN or ChannelData, already framed) as it is.
    Send { via: Via, datagram: Vec<u8> },
    /// Send this WireGuard message (a handshake) on a path: bare when direct, wrapped in ChannelData when relayed.
    SendMessage { path: Path, message: Vec<u8> },
    /// Seal this control payload ([`campfire_tunnel::control::wrap`]) in the link's session and send it on this path.
    SendControl { link: LinkId, path: Path, payload: Vec<u8> },
    /// A command for the tunnels; its events come back as [`Input::Tunnel`].
    Tunnel(campfire_tunnel::Command),
    /// Which key does this initiation prove? Answer with [`Input::Initiation`].
    IdentifyInitiation { token: u64, message: Vec<u8> },
    /// Take this WireGuard message (handshake or data, it came by Signal) as if it had come on `path`.
    Receive { path: Path, message: Vec<u8> },
    /// Look up a server's name.
    Resolve { server: ServerSlot, host: String, port: u16 },
    /// Connect to a server; with TLS its certificate must match `pin`, or, without one, what the shell was told to trust.
    OpenStream {
        stream: StreamId,
        server: ServerSlot,
        remote: SocketAddr,
        transport: campfire_protocol::server::Transport,
        host: String,
        /// [`Server::certificate_pin`](campfire_protocol::server::Server::certificate_pin).
        pin: Option<[u8; 32]>,
    },
    /// Close it.
    CloseStream { stream: StreamId },
    /// Open one more UDP socket of the family of `like`.
    OpenSocket { socket: SocketId, like: SocketId },
    /// Close it.
    CloseSocket { socket: SocketId },
    /// Something a person would notice; for the log and for watchers.
    Notice(Notice),
}

/// Something a person would notice.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Camped on a server (again).
    Camped { server: String, transport: campfire_protocol::server::Transport },
    /// A server no longer answers.
    ServerLost { server: String, reason: String },
    /// A server speaks TURN but not campfire.
    PlainTurn { server: String },
    /// A peer is connected (first session).
    PeerConnected { peer: String, path: String },
    /// A connected peer's way changed.
    PathChanged { peer: String, path: String, reason: Option<WhyNotDirect> },
    /// A peer said goodbye or fell silent.
    PeerGone { peer: String, reason: String },
    /// A problem that somebody should act on: what is wrong and what to do about it.
    Problem { text: String },
}

/// Why a link is not direct (docs/protocol.md, "A link").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum WhyNotDirect {
    /// Our mapped ports differ between servers: nobody can aim at us, and the other side cannot be reached without.
    SymmetricNAT,
    /// The same of the other side.
    PeerSymmetricNAT,
    /// No UDP at all gets out on one side (the sentence beside it says which).
    UDPBlocked,
    /// No server told us an outside address.
    NoReflexiveAddress,
    /// Probes were sent and none came through.
    ProbeTimeout,
    /// Configuration forbids it.
    Policy,
    /// Not tried to the end yet.
    Pending,
}

impl WhyNotDirect {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::SymmetricNAT => "our NAT gives another port for each destination (symmetric): nobody can aim at us",
            Self::PeerSymmetricNAT => "the other side's NAT gives another port for each destination (symmetric): nobody can aim at it",
            Self::UDPBlocked => "no UDP gets out here",
            Self::NoReflexiveAddress => "no server told us an outside address",
            Self::ProbeTimeout => "probes were sent and none came through",
            Self::Policy => "our configuration forbids direct paths",
            Self::Pending => "not tried to the end yet",
        }
    }
}

/// What the data plane needs, replaced as a whole when anything in it changes.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Moves with every change.
    pub version: u64,
    /// Our own overlay addresses: IPv6 first, then IPv4 while we hold one. The device carries these, and packets to them
    /// and to [`offered`](Self::offered) alone are taken from links: see [`Table::is_ours`].
    pub own: Vec<IpAddr>,
    /// Routes that we offer others.
    pub offered: Vec<IpNet>,
    /// By [`LinkId`]; `None` where no link is.
    pub links: Vec<Option<LinkEntry>>,
    /// Overlay addresses (hosts) and whose they are.
    pub hosts: HashMap<IpAddr, LinkId>,
    /// Accepted routes, longest prefix first.
    pub routes: Vec<(IpNet, LinkId)>,
    /// Where servers send from: ChannelData and STUN are taken from here alone.
    pub servers: HashMap<Via, ServerSlot>,
}

impl Table {
    /// Whether a packet from a link may go to this address: it is ours, or one that we offer a route to.
    #[inline]
    pub fn is_ours(&self, destination: &IpAddr) -> bool {
        self.own.contains(destination) || self.offered.iter().any(|route| route.contains(destination))
    }
}

/// One link as the data plane sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEntry {
    /// Where to send; `None` while there is no way yet.
    pub path: Option<Path>,
    /// When the path is in doubt, data goes here as well.
    pub also: Option<Path>,
    /// The peer's own addresses and accepted routes: a packet with another source is dropped and counted.
    pub allowed: Vec<IpNet>,
}
