//! The reconcilers in the test's own process, with a real API server.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use campfire_api::{Campfire, MeshPeer};
use campfire_operator::context::{Context, Shutdown};
use campfire_operator::leadership::{Leadership, Mandate};
use campfire_operator::members::{Served, Trusted};
use campfire_operator::metrics::Metrics;
use campfire_operator::settings::OperatorSettings;
use campfire_operator::state::{ObjectKey, Reports};
use campfire_operator::{campfire, meshpeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Both reconcilers; they end with it.
pub struct Operator {
    pub ctx: Arc<Context>,
    tasks: Vec<JoinHandle<()>>,
    _mandate: Mandate,
    _shutdown: watch::Sender<bool>,
}

impl Operator {
    /// As leader, for Campfires of these namespaces; all, if none is given.
    #[allow(dead_code, reason = "not all tests that share this file use it")]
    pub async fn start(client: &Client, namespaces: &[&str]) -> Self {
        Self::trusting(client, namespaces, &[]).await
    }

    /// One to whom `trusted` Campfires say what sidecars of other namespaces are.
    pub async fn trusting(client: &Client, namespaces: &[&str], trusted: &[&str]) -> Self {
        let (mandate, leadership) = Leadership::new();
        let (shutdown, stop) = Shutdown::new();
        mandate.lead_until(Instant::now() + Duration::from_hours(1));
        let (reports, queue) = Reports::new();
        let settings = OperatorSettings {
            namespace: "campfire-system".into(),
            pod_name: "campfire-0".into(),
            sidecar_image: "campfire:0".into(),
            turn_image: "campfire-turn:0".into(),
            image_pull_policy: "IfNotPresent".into(),
            cluster_name: "berlin".into(),
            served: Served::new(namespaces.iter().copied()),
            trusted: Trusted::new(trusted.iter().copied()),
            ..OperatorSettings::default()
        };
        let ctx = Arc::new(Context::start(client.clone(), settings, Arc::new(Metrics::default()), reports, leadership, stop));
        // One whose rights lack a kind tries for ever.
        tokio::time::timeout(PATIENCE, ctx.cluster.synced()).await.expect("its caches are filled: may it list all that it watches?");
        let tasks = vec![tokio::spawn(campfire::run(ctx.clone())), tokio::spawn(meshpeer::run(ctx.clone(), queue))];
        Self { ctx, tasks, _mandate: mandate, _shutdown: shutdown }
    }

    /// What members of a Campfire in the namespace `default` are told.
    #[allow(dead_code, reason = "not all tests that share this file use it")]
    pub fn told(&self, name: &str) -> Option<Arc<campfire_operator::state::Membership>> {
        self.ctx.memberships.get(&ObjectKey::new("default", name))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Waits for it.
#[allow(dead_code, reason = "not all tests that share this file use it")]
pub async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Status and message of a condition of a Campfire, once it has this reason.
#[allow(dead_code, reason = "not all tests that share this file use it")]
pub async fn campfire_says(api: &Api<Campfire>, name: &str, kind: &str, reason: &str) -> String {
    let conditions = async || api.get(name).await.unwrap().status.unwrap_or_default().conditions;
    says(name, kind, reason, conditions).await
}

/// The same of a MeshPeer.
#[allow(dead_code, reason = "not all tests that share this file use it")]
pub async fn peer_says(api: &Api<MeshPeer>, name: &str, kind: &str, reason: &str) -> String {
    let conditions = async || api.get(name).await.unwrap().status.unwrap_or_default().conditions;
    says(name, kind, reason, conditions).await
}

async fn says(name: &str, kind: &str, reason: &str, conditions: impl AsyncFn() -> Vec<Condition>) -> String {
    let begun = Instant::now();
    loop {
        let found = conditions().await;
        if let Some(condition) = found.iter().find(|condition| condition.type_ == kind && condition.reason == reason) {
            return format!("{}: {}", condition.status, condition.message);
        }
        assert!(begun.elapsed() < PATIENCE, "{name}: {kind} has not reason {reason}: {found:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
