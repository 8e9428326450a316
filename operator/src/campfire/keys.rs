//! Keys from Secrets: which there are, and what is to be done about the Secret first. Pure. Errors and conditions name Secrets and
//! fingerprints, never a key.

use std::collections::BTreeMap;

use campfire_api::conditions::Reason;
use campfire_api::{Campfire, DeletionPolicy, Rotation, names};
use campfire_protocol::identity::NetworkId;
use campfire_protocol::key::{self, Fingerprint, KeyMode, MAX_KEYS};
use campfire_protocol::server::Server;
use campfire_protocol::uri::CampUri;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};
use zeroize::Zeroizing;

use super::children::{MANAGED_BY, MANAGER, owner};
use super::fetch::Found;
use super::rotation::Step;
use super::validate::{KeySource, Valid};
use crate::conditions::Said;
use crate::state::HeldKey;

/// The keys of a Campfire.
#[derive(Clone, Debug)]
pub struct Held {
    /// Newest first, 1 to 4.
    pub keys: Vec<HeldKey>,
    /// The network id.
    pub network: NetworkId,
    /// Servers of a join URI.
    pub servers: Vec<Server>,
}

impl Held {
    /// Fingerprints, newest first.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.keys.iter().map(HeldKey::fingerprint).collect()
    }

    /// The step at which a rotation stands, if more than one key is held.
    pub fn rotation(&self) -> Option<Rotation> {
        let newest = self.keys.first().filter(|_| self.keys.len() > 1)?;
        Some(match newest.mode {
            KeyMode::Accept => Rotation::Distribute,
            KeyMode::Announce => Rotation::Activate,
        })
    }

    /// The key of a join Secret may be another than before: those of before are held as long as somebody at the fire lacks it, as its own cluster
    /// does when it rotates.
    pub fn hold_on(&mut self, valid: &Valid, found: &Found) {
        let Some(newest) = self.keys.first().map(HeldKey::fingerprint) else { return };
        if !matches!(valid.source, KeySource::Join { .. }) || found.peers.lacking(newest).is_empty() {
            return;
        }
        let Some(before) = found.told.as_ref().filter(|before| before.id == self.network) else { return };
        let old = before.keys.iter().filter(|key| key.fingerprint() != newest);
        self.keys.extend(old.map(|key| HeldKey { mode: KeyMode::Announce, ..key.clone() }));
        self.keys.truncate(MAX_KEYS);
    }
}

/// What is written into the Secret with the key, or done to it.
#[derive(Clone, Debug)]
pub enum KeyWrite {
    /// It is made, with a new key.
    Make,
    /// It is gone, and put back as members were told it.
    PutBack(Held),
    /// Its owners become these.
    Own(Vec<OwnerReference>),
    /// A step of a rotation is taken.
    Rotate {
        /// Which.
        step: Step,
        /// What is held before it.
        held: Held,
    },
}

/// What must happen to the Secret with the key before it can be read.
///
/// # Errors
/// Why there is no key to work with.
pub fn due(valid: &Valid, found: &Found) -> Result<Option<KeyWrite>, Said> {
    let name = valid.source.secret();
    if let Some(older) = &found.claimed_by {
        let message = format!(
            "Secret {name} is the key of Campfire {older} already: give this one another Secret, or let its pods be members of that one"
        );
        return Err(Said::of(Reason::KeyClaimed, message));
    }
    match (&valid.source, &found.key) {
        (KeySource::Join { .. }, None) => {
            let message = format!("Secret {name} is missing: copy it from the other cluster, where it is <campfire>-join");
            Err(Said::of(Reason::JoinSecretMissing, message))
        }
        (KeySource::Psk { made: true, .. }, None) if told(found).is_some() => Ok(told(found).map(KeyWrite::PutBack)),
        (KeySource::Psk { .. }, None) if found.before.key_fingerprint.is_some() => {
            let message = format!(
                "Secret {name}, which held the key, is gone, and a new key would part the peers: put it back from a backup, or delete the \
                 Campfire and make it anew, and all its pods"
            );
            Err(Said::of(Reason::KeyMissing, message))
        }
        (KeySource::Psk { made: false, .. }, None) => {
            let message = format!("Secret {name} is missing: create it with a key of `campfire key new` under {}", names::PSK_KEY);
            Err(Said::of(Reason::KeySecretMissing, message))
        }
        (KeySource::Psk { made: true, .. }, None) => Ok(Some(KeyWrite::Make)),
        (KeySource::Psk { made: true, deletion, .. }, Some(secret)) => Ok(owners(valid, secret, *deletion).map(KeyWrite::Own)),
        (KeySource::Psk { made: false, .. } | KeySource::Join { .. }, Some(_)) => Ok(None),
    }
}

/// The keys that members are told, if they are those of which the status has the fingerprint.
fn told(found: &Found) -> Option<Held> {
    let told = found.told.as_ref()?;
    let newest = told.keys.first()?.fingerprint().to_string();
    let known = found.before.key_fingerprint.as_ref() == Some(&newest);
    known.then(|| Held { keys: told.keys.clone(), network: told.id, servers: Vec::new() })
}

/// What the owners of a Secret that the operator made become by the deletion policy; `None`: they are so.
fn owners(valid: &Valid, secret: &Secret, deletion: DeletionPolicy) -> Option<Vec<OwnerReference>> {
    let made = secret.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    let campfires = || secret.owner_references().iter().filter(|owner| owner.kind == Campfire::kind(&()));
    let owned = campfires().any(|owner| owner.uid == valid.uid);
    // One that is no more, as in a backup of another cluster: with it the garbage collector would take the key.
    let stale = campfires().any(|owner| owner.uid != valid.uid);
    let wanted = deletion == DeletionPolicy::Delete;
    if (!made || owned == wanted) && !stale {
        return None;
    }
    let wanted = if made { wanted } else { owned };
    let others = secret.owner_references().iter().filter(|owner| owner.kind != Campfire::kind(&()));
    Some(others.cloned().chain(wanted.then(|| owner(valid))).collect())
}

/// The keys of a Campfire.
///
/// # Errors
/// Why they cannot be read.
pub fn read(valid: &Valid, found: &Found) -> Result<Held, Said> {
    let Some(secret) = &found.key else {
        return Err(Said::of(Reason::KeyMissing, format!("Secret {} is gone", valid.source.secret())));
    };
    match valid.source {
        KeySource::Join { .. } => read_join(secret),
        KeySource::Psk { .. } => read_psk(secret, found.before.prefix.as_deref()),
    }
}

/// Reads the text of a Secret with keys ([`key::parse_keys`]), which are 1 to 4.
pub fn parse_keys(text: &str, secret: &str) -> Result<Vec<HeldKey>, Said> {
    let under = names::PSK_KEY;
    let invalid = |message| Said::of(Reason::KeyInvalid, message);
    let keys = key::parse_keys(text, KeyMode::Announce).map_err(|error| invalid(format!("Secret {secret}, under {under}: {error}")))?;
    match keys.len() {
        0 => Err(invalid(format!("Secret {secret} holds no key under {under}: `campfire key new` makes one"))),
        1..=MAX_KEYS => Ok(keys.into_iter().map(|(psk, mode)| HeldKey::new(psk, mode)).collect()),
        count => Err(invalid(format!("Secret {secret} holds {count} keys, at most {MAX_KEYS} can be held: drop the oldest"))),
    }
}

/// Reads a Secret with keys. `prefix` is the mesh's prefix as status has it: it tells the network of a Secret that lost its id.
pub fn read_psk(secret: &Secret, prefix: Option<&str>) -> Result<Held, Said> {
    let name = secret.name_any();
    let keys = parse_keys(&entry(secret, names::PSK_KEY, Reason::KeyInvalid)?, &name)?;
    let network = match secret.data.as_ref().and_then(|data| data.get(names::NETWORK_KEY)) {
        Some(ByteString(bytes)) => {
            let network = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok());
            let bad = || {
                Said::of(
                    Reason::NetworkInvalid,
                    format!("Secret {name}, under {}: expected 10 hex digits: put back what was edited", names::NETWORK_KEY),
                )
            };
            network.ok_or_else(bad)?
        }
        // That of the oldest key, unless it is known to be another.
        None => prefix
            .and_then(network_of_prefix)
            .or_else(|| keys.last().map(|oldest| NetworkId::of(&oldest.keys)))
            .ok_or_else(|| Said::of(Reason::KeyInvalid, format!("Secret {name} holds no key")))?,
    };
    Ok(Held { keys, network, servers: Vec::new() })
}

/// The id of the network whose addresses lie under this prefix, as a Campfire's status has it.
pub fn network_of_prefix(prefix: &str) -> Option<NetworkId> {
    let ipnet::IpNet::V6(net) = prefix.parse().ok()? else { return None };
    let octets = net.addr().octets();
    Some(NetworkId(octets.get(1..6)?.try_into().ok()?))
}

/// Reads a join Secret.
pub fn read_join(secret: &Secret) -> Result<Held, Said> {
    let name = secret.name_any();
    let invalid = Reason::JoinSecretInvalid;
    let uri: CampUri = entry(secret, names::URI_KEY, invalid)?
        .parse()
        .map_err(|error| Said::of(invalid, format!("Secret {name}, under {}: {error}", names::URI_KEY)))?;
    let key = HeldKey::new(uri.psk, KeyMode::Announce);
    let network = uri.network.unwrap_or_else(|| NetworkId::of(&key.keys));
    Ok(Held { keys: vec![key], network, servers: uri.servers })
}

fn entry(secret: &Secret, key: &str, invalid: Reason) -> Result<Zeroizing<String>, Said> {
    let name = secret.name_any();
    let Some(ByteString(bytes)) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        return Err(Said::of(invalid, format!("Secret {name} has nothing under {key}: put it there")));
    };
    let text = std::str::from_utf8(bytes).map_err(|_| Said::of(invalid, format!("Secret {name}: what is under {key} is no text")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// What stands in a Secret with keys.
pub fn data(keys: &[HeldKey], network: NetworkId) -> BTreeMap<String, ByteString> {
    let keys: Vec<_> = keys.iter().map(|key| (key.psk.clone(), key.mode)).collect();
    [(names::PSK_KEY, key::keys_text(&keys).as_bytes().to_vec()), (names::NETWORK_KEY, network.to_string().into_bytes())]
        .into_iter()
        .map(|(key, text)| (key.to_owned(), ByteString(text)))
        .collect()
}
