//! Who may use the server: secrets and users, integrity keys, nonces.

use std::collections::HashMap;

use campfire_protocol::key::{Fingerprint, RelaySecret};
use zeroize::Zeroizing;

/// What the server holds of its users. `Debug` shows how many, never the secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    campfires: HashMap<Fingerprint, RelaySecret>,
    rest: Vec<RelaySecret>,
    users: HashMap<String, Zeroizing<String>>,
}

impl Secrets {
    /// Nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves a campfire: its members may camp and relay to each other, nothing else.
    pub fn add_campfire(&mut self, fingerprint: Fingerprint, secret: RelaySecret) {
        self.campfires.insert(fingerprint, secret);
    }

    /// Takes a TURN REST secret of another system: whoever has a credential made of it may allocate.
    pub fn add_rest(&mut self, secret: RelaySecret) {
        self.rest.push(secret);
    }

    /// Takes a user of standard TURN with a fixed password.
    pub fn add_user(&mut self, name: String, password: Zeroizing<String>) {
        self.users.insert(name, password);
    }

    /// The campfires served.
    pub fn fingerprints(&self) -> impl Iterator<Item = Fingerprint> {
        self.campfires.keys().copied()
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({} campfires, {} REST secrets, {} users)", self.campfires.len(), self.rest.len(), self.users.len())
    }
}
