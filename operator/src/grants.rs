//! The key that grants for node agents are signed with ([`campfire_api::node`]), and how agents know it: the leader keeps it in a ConfigMap in the
//! agent's namespace, which the chart `campfire-node` makes and lets the operator write.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use campfire_api::names::{FIELD_MANAGER, NODE_CONFIG_MAP, NODE_DRIVER, NODE_KEY};
use campfire_api::node::GrantKey;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::context::Context;
use crate::origin;

/// Time between two looks: whoever changes the ConfigMap, or the Secret that the key is made from, waits so long.
const EVERY: Duration = Duration::from_secs(30);
/// Until the first try after a failure.
const AGAIN: Duration = Duration::from_secs(5);

/// Signs grants.
#[derive(Debug, Default)]
pub struct Signer(Mutex<Option<GrantKey>>);

impl Signer {
    /// The key; `None`: this operator does not lead, or has not read it yet.
    pub fn key(&self) -> Option<GrantKey> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this one.
    pub fn put(&self, key: GrantKey) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }
}

/// Keeps key and ConfigMap for as long as this operator leads.
pub async fn run(ctx: Arc<Context>) {
    let mut said = String::new();
    let mut installed = ctx.cluster.changes.drivers.subscribe();
    loop {
        let pause = match keep(&ctx).await {
            Ok(()) => {
                said.clear();
                EVERY
            }
            Err(error) => {
                let why = format!("{error:#}");
                if why != said {
                    tracing::warn!("node agents cannot be told by what key grants are signed: {why}; tried again");
                    said = why;
                }
                AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // An agent that was just installed need not wait.
            _ = installed.recv() => {}
        }
    }
}

/// Reads the key, and tells agents, where there are some.
async fn keep(ctx: &Context) -> Result<()> {
    let Some(agent) = ctx.cluster.nodes().agent else {
        // Nobody needs it; who asks for a grant has a pod that was made when there was an agent.
        return Ok(());
    };
    let key = origin::load(ctx).await?.grant_key();
    let public = key.public().to_string();
    ctx.signer.put(key);
    let Some(namespace) = agent.namespace else {
        bail!("CSIDriver {NODE_DRIVER} does not say in which namespace the node agent is: install it by its chart, campfire-node");
    };
    let named = || format!("ConfigMap {namespace}/{NODE_CONFIG_MAP}");
    let maps: Api<ConfigMap> = Api::namespaced(ctx.cluster.client.clone(), &namespace);
    let Some(found) = maps.get_opt(NODE_CONFIG_MAP).await.with_context(named)? else {
        bail!("{} is gone: upgrade the release of chart campfire-node, which makes it", named());
    };
    if found.data.as_ref().and_then(|data| data.get(NODE_KEY)) == Some(&public) {
        return Ok(());
    }
    let data: BTreeMap<&str, &String> = [(NODE_KEY, &public)].into();
    let patch = Patch::Merge(json!({ "data": data }));
    let by = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    maps.patch(NODE_CONFIG_MAP, &by, &patch).await.with_context(named)?;
    tracing::info!(namespace, "node agents know the key of this operator's grants");
    Ok(())
}
