//! `camp://host[:port][/host[:port]…]?net=…[&transport=…][&cert=…]#PSK`: all that a peer needs to join. A secret.

use std::str::FromStr;

use zeroize::Zeroizing;

use crate::identity::NetworkId;
use crate::key::Psk;
use crate::server::Server;

/// A parsed `camp://` URI. `Debug` shows the fingerprint in place of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CampUri {
    /// The servers, in the order given (which does not matter).
    pub servers: Vec<Server>,
    /// `net=`; `None`: from the key.
    pub network: Option<NetworkId>,
    /// The key.
    pub psk: Psk,
    /// Whether it was a version 1 URI (a warning is due).
    pub version1: bool,
}

/// Why a text is no campfire URI. Never echoes the fragment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseUriError(pub String);

impl CampUri {
    /// The URI's text. Secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        todo!()
    }
}

impl FromStr for CampUri {
    type Err = ParseUriError;
    fn from_str(_text: &str) -> Result<Self, ParseUriError> {
        todo!()
    }
}
