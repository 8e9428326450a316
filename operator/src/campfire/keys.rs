//! Keys from Secrets: read, made, rotated. Errors and conditions name Secrets and fingerprints, never a key.

use std::collections::BTreeMap;

use campfire_api::agent::{self, Key};
use campfire_api::conditions::Reason;
use campfire_api::{DeletionPolicy, Rotation, names};
use campfire_protocol::identity::NetworkId;
use campfire_protocol::key::{self, KeyMode, MAX_KEYS, Psk};
use campfire_protocol::server::{Server, ServerAddress, Transport};
use campfire_protocol::uri::CampUri;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use zeroize::Zeroizing;

use super::apply::{Error, during_secret};
use super::children::{MANAGED_BY, MANAGER, labels, owner};
use super::validate::{KeySource, Valid};
use crate::conditions::Said;
use crate::context::Context;

/// The keys of a Campfire.
#[derive(Clone, Debug)]
pub struct Held {
    /// Newest first, 1 to 4.
    pub keys: Vec<(Psk, KeyMode)>,
    /// The network id.
    pub network: NetworkId,
    /// The network id stands in the Secret (or needs not, for the key says it).
    pub network_kept: bool,
    /// Servers of a join URI.
    pub servers: Vec<Server>,
}

impl Held {
    /// Fingerprints, newest first.
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys.iter().map(|(psk, _)| psk.derive().fingerprint.to_string()).collect()
    }

    /// As the agent API gives them out.
    pub fn told(&self) -> Vec<Key> {
        let mode = |mode: KeyMode| if mode == KeyMode::Accept { agent::KeyMode::Accept } else { agent::KeyMode::Announce };
        self.keys.iter().map(|(psk, used)| Key { psk: psk.to_text(), mode: mode(*used) }).collect()
    }

    /// What the TURN servers are given: relay secrets by fingerprint.
    pub fn relay(&self) -> BTreeMap<String, String> {
        let derived = self.keys.iter().map(|(psk, _)| psk.derive());
        derived.map(|keys| (keys.fingerprint.to_string(), keys.relay.text().to_owned())).collect()
    }

    /// The step at which a rotation stands, if more than one key is held.
    pub fn rotation(&self) -> Option<Rotation> {
        let (_, newest) = self.keys.first().filter(|_| self.keys.len() > 1)?;
        Some(if *newest == KeyMode::Accept { Rotation::Distribute } else { Rotation::Activate })
    }
}

/// Reads the text of a Secret with keys ([`key::parse_keys`]), which are 1 to 4.
pub fn parse_keys(text: &str, secret: &str) -> Result<Vec<(Psk, KeyMode)>, Said> {
    let under = names::PSK_KEY;
    let keys = key::parse_keys(text, KeyMode::Announce)
        .map_err(|error| Said::of(Reason::KeyInvalid, format!("Secret {secret}, under {under}: {error}")))?;
    match keys.len() {
        0 => Err(Said::of(Reason::KeyInvalid, format!("Secret {secret} holds no key under {under}: `campfire key new` makes one"))),
        1..=MAX_KEYS => Ok(keys),
        found => Err(Said::of(
            Reason::KeyInvalid,
            format!("Secret {secret} holds {found} keys, at most {MAX_KEYS} can be held: drop the oldest"),
        )),
    }
}

/// Reads a Secret with keys. `prefix` is the mesh's prefix as status has it: it tells the network of a Secret that lost its id.
pub fn read_psk(secret: &Secret, prefix: Option<&str>) -> Result<Held, Said> {
    let name = secret.name_any();
    let text = entry(secret, names::PSK_KEY)?;
    let keys = parse_keys(&text, &name)?;
    let derived = keys.last().map(|(psk, _)| NetworkId::of(&psk.derive()));
    let (network, network_kept) = match secret.data.as_ref().and_then(|data| data.get(names::NETWORK_KEY)) {
        Some(ByteString(bytes)) => {
            let network = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok());
            let bad = || {
                Said::of(
                    Reason::NetworkInvalid,
                    format!("Secret {name}, under {}: expected 10 hex digits: put back what was edited", names::NETWORK_KEY),
                )
            };
            (network.ok_or_else(bad)?, true)
        }
        None => match (prefix.and_then(network_of_prefix), derived) {
            (Some(known), derived) => (known, derived == Some(known) && keys.len() == 1),
            (None, Some(derived)) => (derived, keys.len() == 1),
            (None, None) => return Err(Said::of(Reason::KeyInvalid, format!("Secret {name} holds no key"))),
        },
    };
    Ok(Held { keys, network, network_kept, servers: Vec::new() })
}

fn network_of_prefix(prefix: &str) -> Option<NetworkId> {
    let ipnet::IpNet::V6(net) = prefix.parse().ok()? else { return None };
    let octets = net.addr().octets();
    Some(NetworkId(octets.get(1..6)?.try_into().ok()?))
}

/// Reads a join Secret.
pub fn read_join(secret: &Secret) -> Result<Held, Said> {
    let name = secret.name_any();
    let text = entry(secret, names::URI_KEY)?;
    let uri: CampUri =
        text.parse().map_err(|error| Said::of(Reason::JoinSecretInvalid, format!("Secret {name}, under {}: {error}", names::URI_KEY)))?;
    let network = uri.network.unwrap_or_else(|| NetworkId::of(&uri.psk.derive()));
    Ok(Held { keys: vec![(uri.psk, KeyMode::Announce)], network, network_kept: true, servers: uri.servers })
}

fn entry(secret: &Secret, key: &str) -> Result<Zeroizing<String>, Said> {
    let name = secret.name_any();
    let reason = if key == names::URI_KEY { Reason::JoinSecretInvalid } else { Reason::KeyInvalid };
    let Some(ByteString(bytes)) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        return Err(Said::of(reason, format!("Secret {name} has nothing under {key}: put it there")));
    };
    let text = std::str::from_utf8(bytes).map_err(|_| Said::of(reason, format!("Secret {name}: what is under {key} is no text")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The keys of a Campfire, which are made if they are the operator's to make and were not made before. `before` is the
/// fingerprint that status has.
pub async fn obtain(ctx: &Context, valid: &Valid, before: Option<&str>, prefix: Option<&str>) -> Result<Result<Held, Said>, Error> {
    let api: Api<Secret> = Api::namespaced(ctx.cluster.client.clone(), &valid.key.namespace);
    let name = valid.source.secret();
    let secret = api.get_opt(name).await.map_err(during_secret(format!("Secret {name} could not be read")))?;
    let secret = match (&valid.source, secret) {
        (KeySource::Join { .. }, Some(secret)) => return Ok(read_join(&secret)),
        (KeySource::Join { .. }, None) => {
            let message = format!("Secret {name} is missing: copy it from the other cluster, where it is <campfire>-join");
            return Ok(Err(Said::of(Reason::JoinSecretMissing, message)));
        }
        (KeySource::Psk { .. }, None) if before.is_some() => {
            let message = format!(
                "Secret {name}, which held the key, is gone, and a new key would part the peers: put it back from a backup, or delete the \
                 Campfire and make it anew"
            );
            return Ok(Err(Said::of(Reason::KeyMissing, message)));
        }
        (KeySource::Psk { made: false, .. }, None) => {
            let message = format!("Secret {name} is missing: create it with a key of `campfire key new` under {}", names::PSK_KEY);
            return Ok(Err(Said::of(Reason::KeySecretMissing, message)));
        }
        (KeySource::Psk { made: true, .. }, None) => make(ctx, &api, valid, name).await?,
        (KeySource::Psk { .. }, Some(secret)) => secret,
    };
    if let KeySource::Psk { made: true, deletion, .. } = &valid.source {
        own(ctx, &api, valid, &secret, *deletion).await?;
    }
    Ok(read_psk(&secret, prefix))
}

/// Makes the key. A Secret that appeared meanwhile is an error, and so adopted by the next try.
async fn make(ctx: &Context, api: &Api<Secret>, valid: &Valid, name: &str) -> Result<Secret, Error> {
    let psk = random_key()?;
    let mut network = [0; 5];
    getrandom::fill(&mut network).map_err(Error::Random)?;
    let data = [(names::PSK_KEY, psk.to_text()), (names::NETWORK_KEY, Zeroizing::new(NetworkId(network).to_string()))];
    let mut secret = Secret {
        type_: Some("Opaque".into()),
        data: Some(data.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec()))).collect()),
        ..Secret::default()
    };
    secret.metadata.name = Some(name.into());
    secret.metadata.labels = Some(labels(&valid.key.name));
    if matches!(valid.source, KeySource::Psk { deletion: DeletionPolicy::Delete, .. }) {
        secret.metadata.owner_references = serde_json::from_value(json!([owner(valid)])).ok();
    }
    if !ctx.leadership.may_write() {
        return Err(Error::Fenced);
    }
    let params = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
    api.create(&params, &secret).await.map_err(during_secret(format!("Secret {name} could not be made")))
}

fn random_key() -> Result<Psk, Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut()).map_err(Error::Random)?;
    Ok(Psk::from_bytes(*bytes))
}

/// Brings the owner reference of a Secret that the operator made to what the deletion policy says.
async fn own(ctx: &Context, api: &Api<Secret>, valid: &Valid, secret: &Secret, deletion: DeletionPolicy) -> Result<(), Error> {
    let made = secret.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    let owned = secret.owner_references().iter().any(|owner| owner.uid == valid.uid);
    let wanted = deletion == DeletionPolicy::Delete;
    if !made || owned == wanted {
        return Ok(());
    }
    let mut owners: Vec<serde_json::Value> = secret
        .owner_references()
        .iter()
        .filter(|owner| owner.kind != "Campfire")
        .filter_map(|owner| serde_json::to_value(owner).ok())
        .collect();
    if wanted {
        owners.push(owner(valid));
    }
    let patch = json!({"metadata": {"ownerReferences": owners, "resourceVersion": secret.resource_version()}});
    write(ctx, api, secret, &patch).await
}

async fn write(ctx: &Context, api: &Api<Secret>, secret: &Secret, patch: &serde_json::Value) -> Result<(), Error> {
    if !ctx.leadership.may_write() {
        return Err(Error::Fenced);
    }
    let name = secret.name_any();
    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
    api.patch(&name, &params, &Patch::Merge(patch)).await.map_err(during_secret(format!("Secret {name} could not be changed")))?;
    Ok(())
}

/// What a rotation does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is asked for, or all is done.
    Nothing,
    /// A new key is made, which all accept.
    Distribute,
    /// All meet under both.
    Activate,
    /// The old keys are dropped.
    Retire,
    /// Not all hold the newest key yet.
    Wait,
}

/// Decides on the next step: `asked` by annotation, `stands` in the Secret, `all` known peers hold the newest key. One that asks
/// for a later step than the next gets them one after the other.
pub fn next_step(asked: Option<Rotation>, stands: Option<Rotation>, all: bool) -> Step {
    match (asked, stands) {
        // Retire is asked for until something else is: with one key left it is done.
        (None, _)
        | (Some(Rotation::Retire), None)
        | (Some(Rotation::Distribute), Some(_))
        | (Some(Rotation::Activate), Some(Rotation::Activate | Rotation::Retire)) => Step::Nothing,
        (Some(_), None) => Step::Distribute,
        (Some(_), Some(_)) if !all => Step::Wait,
        (Some(_), Some(Rotation::Distribute)) => Step::Activate,
        (Some(_), Some(_)) => Step::Retire,
    }
}

/// Takes a step in the Secret, and in what is held.
pub async fn take(ctx: &Context, valid: &Valid, held: &mut Held, step: Step) -> Result<(), Error> {
    let mut next = held.clone();
    match step {
        Step::Nothing | Step::Wait => return Ok(()),
        Step::Distribute => next.keys.insert(0, (random_key()?, KeyMode::Accept)),
        Step::Activate => next.keys.iter_mut().for_each(|(_, mode)| *mode = KeyMode::Announce),
        Step::Retire => next.keys.truncate(1),
    }
    let api: Api<Secret> = Api::namespaced(ctx.cluster.client.clone(), &valid.key.namespace);
    let name = valid.source.secret();
    let secret = api.get(name).await.map_err(during_secret(format!("Secret {name} could not be read")))?;
    // Somebody else changed it since it was read: look again.
    let same = secret.data.as_ref().and_then(|data| data.get(names::PSK_KEY)).and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
    if same.and_then(|text| parse_keys(text, name).ok()).as_ref() != Some(&held.keys) {
        return Ok(());
    }
    let data = BTreeMap::from([
        (names::PSK_KEY, ByteString(key::keys_text(&next.keys).as_bytes().to_vec())),
        (names::NETWORK_KEY, ByteString(held.network.to_string().into_bytes())),
    ]);
    let patch = json!({"metadata": {"resourceVersion": secret.resource_version()}, "data": data});
    write(ctx, &api, &secret, &patch).await?;
    next.network_kept = true;
    *held = next;
    Ok(())
}

/// Texts of a server as docs/protocol.md has them, one for each address.
pub fn texts(server: &Server) -> Vec<String> {
    use base64::Engine as _;
    let pin = server.certificate_pin.map(|pin| format!("&cert={}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(pin)));
    let pin = pin.unwrap_or_default();
    server.addresses.iter().map(|address| format!("{}{pin}", text(server.id.as_str(), address))).collect()
}

/// The text of one address of a server.
pub fn text(id: &str, ServerAddress { host, port, transport, .. }: &ServerAddress) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    match transport {
        Transport::Udp => format!("{id}=turn:{host}:{port}?transport=udp"),
        Transport::Tcp => format!("{id}=turn:{host}:{port}?transport=tcp"),
        Transport::Tls => format!("{id}=turns:{host}:{port}?transport=tcp"),
    }
}
