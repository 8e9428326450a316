//! What all parts of the operator share.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::grants::Signer;
use crate::health::Readiness;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::settings::OperatorSettings;
use crate::state::{Causes, Memberships, Reports, Sightings};
use crate::webhook::given::Given;

/// What all parts of the operator share.
pub struct Context {
    /// What the operator was told at its start.
    pub settings: OperatorSettings,
    /// The cluster.
    pub cluster: Cluster,
    /// Whether this operator leads.
    pub leadership: Leadership,
    /// What members are told.
    pub memberships: Arc<Memberships>,
    /// What sidecars said.
    pub reports: Arc<Reports>,
    /// Who is at the fires.
    pub sightings: Arc<Sightings>,
    /// Why pods are without the mesh.
    pub causes: Arc<Causes>,
    /// Which pods the webhook gave a sidecar.
    pub given: Given,
    /// Signs grants, while this operator leads.
    pub signer: Arc<Signer>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// What `/readyz` waits for.
    pub readiness: Arc<Readiness>,
    /// When to end.
    pub shutdown: Shutdown,
}

impl Context {
    /// Makes the context and begins to fill the cluster's caches.
    pub fn start(
        client: Client,
        settings: OperatorSettings,
        metrics: Arc<Metrics>,
        reports: Reports,
        leadership: Leadership,
        shutdown: Shutdown,
    ) -> Self {
        let readiness = Arc::new(Readiness::default());
        Self {
            cluster: Cluster::start(client, &settings, &readiness),
            settings,
            leadership,
            memberships: Arc::default(),
            reports: Arc::new(reports),
            sightings: Arc::default(),
            causes: Arc::default(),
            given: Given::default(),
            signer: Arc::default(),
            metrics,
            readiness,
            shutdown,
        }
    }
}

/// When to end.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Not yet, and who says so: `true`.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (stop, shutdown) = watch::channel(false);
        (stop, Self(shutdown))
    }

    /// Whether it was said.
    pub fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is.
    pub async fn told(&self) {
        let mut shutdown = self.0.clone();
        // Who could say so is gone: that is the end too.
        let _ = shutdown.wait_for(|stop| *stop).await;
    }
}
