//! Sealed and signed announcements, and the server records of origins (docs/protocol.md, "Announcements", "Servers").

use std::net::Ipv4Addr;

use ipnet::IpNet;

use crate::identity::{Identity, PublicKey};
use crate::key::{Fingerprint, Keys};
use crate::server::{Server, ServerTag};
use crate::time::UnixMillis;
use crate::wire::MemberId;

/// Which run of a peer speaks: ordered by start time, then the random part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// Milliseconds since 1970, server-corrected, when the run began.
    pub started: UnixMillis,
    /// 8 random bytes.
    pub nonce: u64,
}

/// What a member says of itself. Immutable once signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Who speaks.
    pub public_key: PublicKey,
    /// Which run of it.
    pub session: Session,
    /// Counts up within the session with each change.
    pub sequence: u32,
    /// When it was made, milliseconds since 1970, server-corrected: more than 10 minutes ahead is dropped.
    pub sent_at: UnixMillis,
    /// Display data: name, namespace, cluster. Sanitised when read: printable, at most 63 characters each, may be empty.
    pub name: String,
    /// See `name`.
    pub namespace: String,
    /// See `name`.
    pub cluster: String,
    /// Keys held (accepted or announced), newest first; at most 4.
    pub fingerprints: Vec<Fingerprint>,
    /// Servers camped on, best first; at most 8.
    pub servers: Vec<ServerTag>,
    /// Routes offered; at most 8. Count only where local configuration accepts them.
    pub routes: Vec<IpNet>,
    /// IPv4 address claimed in the pool.
    pub ipv4: Option<Ipv4Addr>,
    /// Feature bits, none defined yet.
    pub features: u32,
    /// A server record, if this member is an origin.
    pub record: Option<ServerRecord>,
}

/// A list of servers that an origin stands for; part of its announcement and so signed and sealed with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRecord {
    /// Counts up with each change.
    pub version: u64,
    /// At most 8. Must fit the announcement's limit of 700 bytes.
    pub servers: Vec<Server>,
}

/// Largest sealed announcement, in bytes.
pub const MAX_SEALED: usize = 700;

/// Why a sealed announcement was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AnnouncementError {
    /// Does not open under this key for this room and member.
    #[error("does not open")]
    Sealed,
    /// Opens, but is not a well-formed announcement.
    #[error("malformed")]
    Malformed,
    /// Well formed, but the signature is not that of the key it names.
    #[error("wrongly signed")]
    Signature,
    /// Larger than [`MAX_SEALED`] when sealed.
    #[error("too large")]
    TooLarge,
}

impl Announcement {
    /// Signs, encodes and seals for one seat. `nonce` must be random.
    pub fn seal(&self, _identity: &Identity, _keys: &Keys, _member: &MemberId, _nonce: &[u8; 24]) -> Result<Vec<u8>, AnnouncementError> {
        todo!()
    }

    /// Opens, decodes, verifies and sanitises.
    pub fn open(_sealed: &[u8], _keys: &Keys, _member: &MemberId) -> Result<Self, AnnouncementError> {
        todo!()
    }
}
