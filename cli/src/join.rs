//! `join`: carries a Campfire's join Secret to other clusters. What is in it is written into a Secret there, and shown nowhere.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use campfire_api::conditions::{ConditionType, Truth};
use campfire_api::names::{GROUP, URI_KEY, VERSION};
use campfire_api::{Campfire, CampfireStatus};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::cli::{JoinArgs, Scope};
use crate::cluster::Cluster;
use crate::status::{condition, full};
use campfire_text::printable;

/// The field manager of what is applied.
const MANAGER: &str = "kubectl-campfire";
/// How often it is looked whether a cluster has joined.
const LOOK: Duration = Duration::from_secs(1);

/// `join`.
pub async fn join(scope: &Scope, arguments: &JoinArgs) -> Result<()> {
    if scope.context.len() > 1 || scope.all_namespaces {
        bail!("one --context and one namespace have the Campfire that is joined; those that join stand behind `join`");
    }
    let Some(from) = Cluster::of(scope).await?.pop() else { bail!("no cluster") };
    let campfire = joined(&from, arguments.campfire.as_deref()).await?;
    let uri = uri(&from, &campfire).await?;
    let namespace = arguments.to_namespace.clone().or_else(|| campfire.namespace());
    for context in &arguments.to {
        if *context == from.context {
            bail!("{context} is the cluster that is joined");
        }
        let there = Cluster::open(&Scope { namespace: namespace.clone(), context: Vec::new(), ..scope.clone() }, Some(context)).await?;
        bring(&there, &campfire.name_any(), &uri, arguments.timeout).await?;
    }
    Ok(())
}

/// The Campfire that is joined.
async fn joined(from: &Cluster, name: Option<&str>) -> Result<Campfire> {
    let mut campfires = from.campfires().await?;
    campfires.retain(|campfire| name.is_none_or(|name| campfire.name_any() == name));
    match (campfires.len(), name) {
        (1, _) => Ok(campfires.remove(0)),
        (0, Some(name)) => bail!("there is no Campfire {name} in {}", from.place()),
        (0, None) => bail!("there is no Campfire in {}", from.place()),
        (_, _) => {
            let names: Vec<String> = campfires.iter().map(full).collect();
            bail!("there are several Campfires in {}: name one with --campfire ({})", from.place(), names.join(", "))
        }
    }
}

/// What its join Secret holds. A secret.
async fn uri(from: &Cluster, campfire: &Campfire) -> Result<ByteString> {
    let name = full(campfire);
    let status = campfire.status.clone().unwrap_or_default();
    let Some(secret) = status.join_secret_name.clone() else {
        bail!("{name} cannot be joined: {}", not_joinable(&status));
    };
    let secrets = from.api::<Secret>();
    let found = secrets.get_opt(&secret).await.map_err(|error| from.explain(&error, "get secrets"))?;
    let data = found.with_context(|| format!("{name} names a join Secret {secret}, which is not there yet"))?.data.unwrap_or_default();
    data.into_iter()
        .find(|(key, _)| key == URI_KEY)
        .map(|(_, uri)| uri)
        .with_context(|| format!("Secret {secret} has nothing under `{URI_KEY}`"))
}

fn not_joinable(status: &CampfireStatus) -> String {
    let joinable = condition(&status.conditions, ConditionType::Joinable);
    joinable
        .map_or_else(|| "the operator has not said whether it can be yet".into(), |it| format!("{}: {}", it.reason, printable(&it.message)))
}

/// Makes Secret and Campfire in a cluster, or renews the Secret of the Campfire that is there.
async fn bring(there: &Cluster, name: &str, uri: &ByteString, timeout: u64) -> Result<()> {
    let context = &there.context;
    let campfires = there.api::<Campfire>();
    let present = campfires.get_opt(name).await.map_err(|error| there.explain(&error, "get campfires.campfire.network"))?;
    let own = format!("{name}-uri");
    let secret = match &present {
        None => own,
        Some(campfire) => match &campfire.spec.join {
            Some(join) => join.secret_ref.name.clone(),
            None => bail!(
                "context {context} has a Campfire {} with a key of its own: delete it there first, or join from another namespace (--to-namespace)",
                full(campfire)
            ),
        },
    };
    let params = PatchParams::apply(MANAGER).force();
    let object = Secret {
        metadata: kube::api::ObjectMeta { name: Some(secret.clone()), ..kube::api::ObjectMeta::default() },
        data: Some(BTreeMap::from([(URI_KEY.to_owned(), uri.clone())])),
        type_: Some("Opaque".into()),
        ..Secret::default()
    };
    let secrets = there.api::<Secret>();
    // Not with the error's own words alone: an API server may quote what it refuses.
    secrets.patch(&secret, &params, &Patch::Apply(&object)).await.map_err(|error| without(&there.explain(&error, "patch secrets"), uri))?;
    if present.is_some() {
        eprintln!("{context}: Secret {secret} renewed");
    } else {
        let campfire = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "Campfire", "metadata": { "name": name },
            "spec": { "join": { "secretRef": { "name": secret } } },
        });
        campfires
            .patch(name, &params, &Patch::Apply(&campfire))
            .await
            .map_err(|error| there.explain(&error, "create campfires.campfire.network"))?;
        eprintln!("{context}: Secret {secret} and Campfire {name} made");
    }
    if timeout > 0 {
        wait(there, &campfires, name, Duration::from_secs(timeout)).await?;
    }
    Ok(())
}

/// An error without what must not be shown.
fn without(error: &anyhow::Error, uri: &ByteString) -> anyhow::Error {
    let text = format!("{error:#}");
    let plain = String::from_utf8_lossy(&uri.0);
    let encoded = serde_json::to_value(uri).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
    let holds = |secret: &str| !secret.is_empty() && text.contains(secret);
    let key = plain.split_once('#').map_or("", |(_, key)| key);
    if holds(&plain) || holds(&encoded) || holds(key) {
        anyhow!("the Secret was not taken; what the API server said holds it, and is not shown")
    } else {
        anyhow!(text)
    }
}

async fn wait(there: &Cluster, campfires: &Api<Campfire>, name: &str, timeout: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut said = String::new();
    loop {
        let campfire = campfires.get_opt(name).await.map_err(|error| there.explain(&error, "get campfires.campfire.network"))?;
        let status = campfire.as_ref().and_then(|campfire| campfire.status.clone()).unwrap_or_default();
        let generation = campfire.and_then(|campfire| campfire.metadata.generation);
        let current = status.observed_generation == generation;
        let ready = condition(&status.conditions, ConditionType::Ready).filter(|_| current);
        let now = ready.map_or_else(|| "waiting for the operator".into(), |it| printable(&it.message));
        if ready.is_some_and(|it| it.status == Truth::True.name()) {
            eprintln!("{}: has joined; {}", there.context, at_the_fire(status.peers.unwrap_or_default()));
            return Ok(());
        }
        if begun.elapsed() >= timeout {
            bail!("context {} has not joined after {} s: {now}", there.context, timeout.as_secs());
        }
        if now != said {
            eprintln!("{}: {now}", there.context);
            said = now;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Who sits there already.
fn at_the_fire(peers: i32) -> String {
    match peers {
        0 => "no peers are at the fire yet: they come with the next pods".into(),
        1 => "1 peer is at the fire".into(),
        many => format!("{many} peers are at the fire"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_api_server_quotes_is_not_shown() {
        let uri = ByteString(b"camp://0123456789/oak#c2VjcmV0".to_vec());
        let encoded = "Y2FtcDovLzAxMjM0NTY3ODkvb2FrI2MyVmpjbVYw";
        for quoted in ["camp://0123456789/oak#c2VjcmV0", encoded, "c2VjcmV0"] {
            let shown = without(&anyhow!("data: invalid: {quoted}"), &uri).to_string();
            assert!(!shown.contains(quoted), "{shown}");
        }
        assert_eq!(without(&anyhow!("a quota is against it"), &uri).to_string(), "a quota is against it");
    }

    #[test]
    fn an_empty_fire_is_said_to_wait_for_pods() {
        assert_eq!(at_the_fire(0), "no peers are at the fire yet: they come with the next pods");
        assert_eq!((at_the_fire(1).as_str(), at_the_fire(3).as_str()), ("1 peer is at the fire", "3 peers are at the fire"));
    }

    #[test]
    fn why_there_is_nothing_to_join_is_said() {
        assert!(not_joinable(&CampfireStatus::default()).contains("has not said"));
    }
}
