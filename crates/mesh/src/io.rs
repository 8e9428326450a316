//! The contract between the mesh and its shell: what comes in ([`Input`]) and what is to be done ([`Output`]), sorted by who does it.
//!
//! After each [`Mesh::handle`](crate::Mesh::handle) the shell drains [`Mesh::poll`](crate::Mesh::poll) until it gives
//! `None`, then looks at [`Mesh::next_wake`](crate::Mesh::next_wake) and, if the version of [`Mesh::table`](crate::Mesh::table) moved,
//! hands the table to the data plane.

use std::net::IpAddr;

use campfire_datapath::command::Command;
use campfire_datapath::table::Traffic;
use campfire_protocol::carrier::Path;
use campfire_protocol::certificate::Refusal;
use campfire_tunnel::LinkId;

use crate::ping::{Ping, Pong};

/// What the shell tells the mesh.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Debug)]
pub enum Input<'a> {
    /// The time of [`Mesh::next_wake`](crate::Mesh::next_wake) has come.
    Wake,
    /// A wall clock reading; said at start and every minute.
    Wall { unix_millis: u64 },
    /// What sockets, streams and names say.
    Fire(campfire_fire::io::Input<'a>),
    /// A WireGuard handshake message (types 1–3) that did not come through a Signal; `path` is how it came. The shell asks
    /// [`Tunnels::initiator`](campfire_tunnel::Tunnels::initiator) for type 1 and passes the key.
    Handshake { path: Path, message: &'a [u8], initiator: Option<[u8; 32]> },
    /// Answer to [`Command::IdentifyInitiation`].
    Initiation { token: u64, initiator: Option<[u8; 32]> },
    /// A control packet's payload that was opened by `link`'s session; `path` is how it came.
    Control { link: LinkId, path: Path, payload: &'a [u8] },
    /// The tunnels have something to say.
    Tunnel(campfire_tunnel::Event),
    /// What the data plane saw on a link since it last said so (about every 100 ms, for links with traffic alone).
    Traffic(Traffic),
    /// An application sends to an overlay address that has no link (or one without a session): make one.
    Wanted { address: IpAddr },
    /// Somebody asks whether a peer answers.
    Ping(Ping),
    /// New list of servers or keys (rotation, reload).
    Configure(Box<crate::config::Reconfigure>),
    /// Say goodbye everywhere; after draining the outputs the shell may exit.
    Shutdown,
}

/// What the mesh asks of the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// What camping needs: datagrams to servers, streams, names.
    Fire(campfire_fire::io::Output),
    /// For the data plane, in order.
    Data(Command),
    /// Something about a peer that a person would notice; for the log and for watchers.
    Notice(Notice),
    /// What came of a ping.
    Pong(Pong),
}

/// Something about a peer that a person would notice (what concerns servers is a [`campfire_fire::io::Notice`]).
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A peer is connected (first session).
    PeerConnected { peer: String, path: String },
    /// A connected peer's way changed.
    PathChanged { peer: String, path: String, reason: Option<WhyNotDirect> },
    /// A peer said goodbye or fell silent.
    PeerGone { peer: String, reason: String },
    /// A peer is not let in.
    PeerRefused { peer: String, reason: Refusal },
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
    /// Small probes came through, and none as large as the interface's packets.
    MTUTooSmall,
    /// Configuration forbids it.
    Policy,
    /// There is a direct path, much slower than the relay.
    SlowerThanRelay,
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
            Self::MTUTooSmall => "small probes come through, full-size ones do not: the path's MTU is too small",
            Self::Policy => "our configuration forbids direct paths",
            Self::SlowerThanRelay => "there is a direct path, much slower than the relay",
            Self::Pending => "not tried to the end yet",
        }
    }
}
