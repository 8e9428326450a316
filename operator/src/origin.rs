//! What the operator's identities are made from: who it is at the fires (docs/decisions/0009-operator-identity.md), and by what node agents know
//! what it granted (docs/decisions/0031).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use campfire_api::names;
use campfire_api::node::GrantKey;
use campfire_protocol::identity::Identity;
use campfire_protocol::key::hmac_sha256;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use zeroize::Zeroizing;

use crate::cluster::of_secret;
use crate::context::Context;

/// What the operator's identities are made from.
pub struct Seed(Zeroizing<[u8; 32]>);

impl Seed {
    /// The identity at one Campfire's fire: the same for as long as Campfire and seed live.
    pub fn identity(&self, campfire_uid: &str) -> Identity {
        let seed = Zeroizing::new(hmac_sha256(self.0.as_ref(), &[b"campfire operator identity", campfire_uid.as_bytes()]));
        Identity::from_seed(&seed)
    }

    /// The key that grants for node agents are signed with.
    pub fn grant_key(&self) -> GrantKey {
        GrantKey::from_seed(&Zeroizing::new(hmac_sha256(self.0.as_ref(), &[b"campfire node grants"])))
    }
}

/// Reads the seed, and makes it where there is none.
///
/// # Errors
/// The Secret can neither be read nor made, or holds something else.
pub async fn load(ctx: &Context) -> Result<Seed> {
    let secrets: Api<Secret> = Api::namespaced(ctx.cluster.client.clone(), &ctx.settings.namespace);
    let named = || format!("Secret {}/{}", ctx.settings.namespace, names::ORIGIN_SECRET);
    for _ in 0..2 {
        if let Some(secret) = secrets.get_opt(names::ORIGIN_SECRET).await.map_err(|error| anyhow!(of_secret(&error))).with_context(named)? {
            return read(secret).with_context(named);
        }
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|error| anyhow!("no random numbers: {error}"))?;
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(names::ORIGIN_SECRET.into()),
                labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), names::FIELD_MANAGER.into())])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(names::SEED_KEY.into(), ByteString(seed.to_vec()))])),
            type_: Some("Opaque".into()),
            ..Secret::default()
        };
        let by = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
        match secrets.create(&by, &secret).await {
            Ok(_) => return Ok(Seed(seed)),
            // Another replica was faster: its seed is the one.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(anyhow!(of_secret(&error))).with_context(named),
        }
    }
    bail!("{}: it comes and goes", named())
}

fn read(secret: Secret) -> Result<Seed> {
    let held = secret.data.unwrap_or_default().remove(names::SEED_KEY).map(|bytes| Zeroizing::new(bytes.0));
    let seed: Option<[u8; 32]> = held.and_then(|bytes| bytes.as_slice().try_into().ok());
    Ok(Seed(Zeroizing::new(seed.context("its key `seed` is not 32 bytes: delete the Secret, it is made anew")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_stable_and_of_one_campfire_alone() {
        let seed = Seed(Zeroizing::new([1; 32]));
        assert_eq!(seed.identity("a").public(), Seed(Zeroizing::new([1; 32])).identity("a").public());
        assert_ne!(seed.identity("a").public(), seed.identity("b").public());
        assert_ne!(seed.identity("a").public(), Seed(Zeroizing::new([2; 32])).identity("a").public());
        assert_ne!(seed.grant_key().public(), Seed(Zeroizing::new([2; 32])).grant_key().public());
    }
}
