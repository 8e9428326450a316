//! The servers' certificate: a Secret that somebody else makes, and may make later than the Campfire that names it. Servers that mount one that is not
//! there do not start: until it comes TLS alone waits for it, and all else is done.

use campfire_api::conditions::Reason;
use campfire_api::{TransportName, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::children::{Children, TLS_VOLUME};
use super::error::{Error, during_secret};
use super::validate::Valid;
use crate::conditions::Said;
use crate::context::Context;

/// A Campfire whose certificate is not there.
#[derive(Debug)]
pub struct Waits {
    /// What is to be said.
    pub said: Said,
    /// The Campfire with as much of TLS as its servers have already; `None`: nothing is left of its servers without, or those that run could not be made
    /// anew either. Then they stay as they are.
    pub meanwhile: Option<Box<Valid>>,
}

/// What there is to do about a certificate that is not there; `None`: it is, or none is asked for.
pub async fn look(ctx: &Context, valid: &Valid, live: &Children) -> Result<Option<Waits>, Error> {
    let Some(name) = &valid.turn.tls else { return Ok(None) };
    let namespace = &valid.key.namespace;
    let Some(what) = lacks(ctx, namespace, name).await? else { return Ok(None) };
    let set = live.sets.get(&names::turn(&valid.key.name));
    let mut meanwhile = valid.clone();
    let possible = match set.and_then(mounted) {
        // The certificate that it names already.
        Some(held) if held == *name => false,
        Some(held) => {
            let there = lacks(ctx, namespace, &held).await?.is_none();
            meanwhile.turn.tls = Some(held);
            there
        }
        None => {
            meanwhile.turn.tls = None;
            meanwhile.turn.transports.retain(|transport| *transport != TransportName::Tls);
            !meanwhile.turn.transports.is_empty()
        }
    };
    let until =
        if possible { "TLS waits for it, and all else goes on" } else { "the servers stay as they are until then, and all else goes on" };
    let message = format!("spec.turn.tls.secretName: {what}: make it (kubectl create secret tls {name} --cert=FILE --key=FILE); {until}");
    let said = Said::of(Reason::TlsSecretMissing, message);
    Ok(Some(Waits { said, meanwhile: possible.then(|| Box::new(meanwhile)) }))
}

/// What a Secret lacks to be a certificate with its key.
async fn lacks(ctx: &Context, namespace: &str, name: &str) -> Result<Option<String>, Error> {
    let api: Api<Secret> = Api::namespaced(ctx.cluster.client.clone(), namespace);
    let found = api.get_opt(name).await.map_err(during_secret(format!("Secret {name} could not be read")))?;
    let Some(secret) = found else { return Ok(Some(format!("there is no Secret {name} in namespace {namespace}"))) };
    let data = secret.data.unwrap_or_default();
    let holds = |key: &str, text: &str| data.get(key).is_some_and(|held| held.0.windows(text.len()).any(|at| at == text.as_bytes()));
    let complete = holds("tls.crt", "-----BEGIN CERTIFICATE") && holds("tls.key", "PRIVATE KEY-----");
    Ok((!complete).then(|| format!("Secret {name} holds no certificate under tls.crt and key under tls.key, as PEM")))
}

/// The Secret that servers have their certificate from.
fn mounted(set: &StatefulSet) -> Option<String> {
    let volumes = set.spec.as_ref()?.template.spec.as_ref()?.volumes.as_ref()?;
    volumes.iter().find(|volume| volume.name == TLS_VOLUME)?.secret.as_ref()?.secret_name.clone()
}
