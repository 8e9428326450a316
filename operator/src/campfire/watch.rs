//! What makes a Campfire be looked at again besides its own change: its children, the Secrets that it names, and who is at its fire.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use campfire_api::names;
use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount};
use kube::api::PartialObjectMeta;
use kube::core::NamespaceResourceScope;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::children::{MANAGED_BY, MANAGER};
use super::validate::source;
use crate::context::Context;
use crate::state::{ObjectKey, View};

/// Watches, as metadata alone, for as long as what is returned lives.
pub fn start(ctx: &Arc<Context>, touched: &mpsc::Sender<ObjectKey>) -> JoinSet<()> {
    let mut watches = JoinSet::new();
    let namespaces = match ctx.cluster.served.namespaces() {
        None => vec![None],
        Some(served) => served.iter().map(String::as_str).map(Some).collect(),
    };
    let ours = format!("{MANAGED_BY}={MANAGER},{}", names::CAMPFIRE_LABEL);
    for namespace in namespaces {
        watch::<StatefulSet>(&mut watches, ctx, namespace, &ours, touched);
        watch::<Service>(&mut watches, ctx, namespace, &ours, touched);
        watch::<ServiceAccount>(&mut watches, ctx, namespace, &ours, touched);
        // Also those that people made and a Campfire names.
        watch::<Secret>(&mut watches, ctx, namespace, "", touched);
    }
    watches
}

fn watch<K>(watches: &mut JoinSet<()>, ctx: &Arc<Context>, namespace: Option<&str>, labels: &str, touched: &mpsc::Sender<ObjectKey>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + Send + Sync + 'static,
    PartialObjectMeta<K>: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api: Api<PartialObjectMeta<K>> = match namespace {
        Some(namespace) => Api::namespaced(ctx.cluster.client.clone(), namespace),
        None => Api::all(ctx.cluster.client.clone()),
    };
    let (ctx, touched) = (ctx.clone(), touched.clone());
    let config = watcher::Config::default().labels(labels);
    watches.spawn(async move {
        let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff().touched_objects());
        while let Some(event) = events.next().await {
            match event {
                Ok(object) => {
                    for key in concerned(&ctx, &object) {
                        // Ends with the reconciler.
                        let _ = touched.send(key).await;
                    }
                }
                Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "a watch broke and is begun anew"),
            }
        }
    });
}

/// The Campfires that an object concerns: by its label, or because they name it.
fn concerned<K: Resource<DynamicType = ()>>(ctx: &Context, object: &PartialObjectMeta<K>) -> Vec<ObjectKey> {
    let namespace = object.namespace().unwrap_or_default();
    let name = object.name_any();
    let mut keys = Vec::new();
    if let Some(campfire) = object.labels().get(names::CAMPFIRE_LABEL) {
        keys.push(ObjectKey::new(&namespace, campfire));
    }
    for campfire in ctx.cluster.campfires.state() {
        if campfire.namespace().as_deref() != Some(&namespace) {
            continue;
        }
        let own = ObjectKey::of(campfire.as_ref());
        // Also one that is invalid otherwise.
        let named = source(&campfire).is_ok_and(|source| source.secret() == name);
        if named && !keys.contains(&own) {
            keys.push(own);
        }
    }
    keys
}

/// What of a Campfire's peers its status follows from, cheap to compare: when it changes, the status is looked at.
#[derive(Debug)]
pub struct Followed {
    view: Arc<View>,
    /// Sum of hashes, in whatever order.
    reports: u64,
    pods: usize,
    truncated: bool,
}

impl PartialEq for Followed {
    fn eq(&self, other: &Self) -> bool {
        // Mostly the same one: a large one is compared only when it was replaced.
        (Arc::ptr_eq(&self.view, &other.view) || self.view == other.view)
            && (self.reports, self.pods, self.truncated) == (other.reports, other.pods, other.truncated)
    }
}

/// The same of all Campfires, in one pass over reports and pods.
pub fn followed(ctx: &Context) -> HashMap<ObjectKey, Followed> {
    let mut reports: HashMap<ObjectKey, u64> = HashMap::new();
    ctx.reports.for_each(|pod, said| {
        let mut hash = DefaultHasher::new();
        (pod, said.report.camped, &said.report.identity, &said.report.fingerprints).hash(&mut hash);
        // A copy of the key for each of ten thousand, every five seconds, would be most of the work.
        match reports.get_mut(&said.campfire) {
            Some(sum) => *sum = sum.wrapping_add(hash.finish()),
            None => drop(reports.insert(said.campfire.clone(), hash.finish())),
        }
    });
    let mut pods: HashMap<ObjectKey, usize> = HashMap::new();
    ctx.cluster.pods.for_each(|_, pod| {
        let Some(claim) = &pod.claim else { return };
        match pods.get_mut(&claim.campfire) {
            Some(count) => *count += 1,
            None => drop(pods.insert(claim.campfire.clone(), 1)),
        }
    });
    let campfires = ctx.cluster.campfires.state().into_iter().map(|campfire| ObjectKey::of(campfire.as_ref()));
    campfires
        .map(|key| {
            let now = Followed {
                view: ctx.sightings.get(&key),
                reports: reports.get(&key).copied().unwrap_or_default(),
                pods: pods.get(&key).copied().unwrap_or_default(),
                truncated: ctx.sightings.truncated(&key),
            };
            (key, now)
        })
        .collect()
}
