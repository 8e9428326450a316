//! What the kubelet may ask: who we are, a volume for a pod, and its end. Each looks at its request and at files alone, and so is never slow.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use campfire_api::names::NODE_DRIVER;
use tokio::sync::Notify;
use tonic::Status;
use tracing::{error, info, warn};

use crate::csi::{
    Flag, NodeInfo, NodePublishVolumeRequest, NodeUnpublishVolumeRequest, Nothing, PluginInfo, ProbeResponse, RegistrationInfo,
    RegistrationStatus,
};
use crate::pods::{FILES, Pods, Shared};
use crate::records::Records;
use crate::volume::{Invalid, Kubelet, Target, Volume};

/// The driver of this node.
#[derive(Debug)]
pub struct Driver {
    node: String,
    endpoint: String,
    kubelet: Kubelet,
    records: Records,
    pods: Pods,
    shared: Arc<Shared>,
    /// One change of volumes at a time.
    changing: Mutex<()>,
    /// The kubelet did not take us.
    pub refused: Notify,
}

impl Driver {
    /// Of the node of this name, whose kubelet finds it at `endpoint`.
    pub fn new(node: String, endpoint: String, kubelet: Kubelet, records: Records, shared: Arc<Shared>) -> Self {
        let pods = Pods::new(shared.clone());
        Self { node, endpoint, kubelet, records, pods, shared, changing: Mutex::default(), refused: Notify::new() }
    }

    /// Listens again for all pods whose volumes an earlier agent published.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn restore(&self) -> io::Result<()> {
        for volume in self.records.all()? {
            let done = match self.kubelet.folder(&volume.target) {
                // Gone with its pod, while no agent was there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.records.remove(&volume.target.pod_uid),
                folder => folder.and_then(|folder| self.pods.listen(&volume, &folder)),
            };
            if let Err(error) = done {
                error!(pod = volume.pod, %error, "a volume that was published cannot be served: make its pod anew");
            }
        }
        info!(volumes = self.pods.count(), "listening for the pods of this node");
        Ok(())
    }

    /// Figures, for Prometheus.
    pub fn metrics(&self) -> String {
        self.shared.metrics.render(self.pods.count(), self.shared.networks.is_registered())
    }

    /// The agent ends. Where no pod has a volume nothing is kept for the next one.
    pub fn end(&self) {
        self.records.end();
    }

    /// `GetPluginInfo`.
    pub fn plugin_info() -> PluginInfo {
        PluginInfo { name: NODE_DRIVER.into(), vendor_version: env!("CARGO_PKG_VERSION").into() }
    }

    /// `Probe`: ready once the kubelet has registered the driver.
    pub fn probe(&self) -> ProbeResponse {
        ProbeResponse { ready: Some(Flag { value: self.shared.networks.is_registered() }) }
    }

    /// `NodeGetInfo`.
    pub fn node_info(&self) -> NodeInfo {
        NodeInfo { node_id: self.node.clone() }
    }

    /// `GetInfo` of the registration.
    pub fn registration(&self) -> RegistrationInfo {
        RegistrationInfo {
            kind: "CSIPlugin".into(),
            name: NODE_DRIVER.into(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".into()],
        }
    }

    /// `NotifyRegistrationStatus`.
    pub fn registered(&self, status: &RegistrationStatus) -> Nothing {
        self.shared.networks.set_registered(status.plugin_registered);
        if status.plugin_registered {
            info!("the kubelet has registered {NODE_DRIVER}");
        } else {
            error!("the kubelet has not registered {NODE_DRIVER}: {}", status.error);
            self.refused.notify_one();
        }
        Nothing {}
    }

    /// `NodePublishVolume`: a directory with a socket.
    ///
    /// # Errors
    /// `InvalidArgument`: such a volume is for nobody. `Internal`: the disk or the kernel.
    pub fn publish(&self, request: &NodePublishVolumeRequest) -> Result<Nothing, Status> {
        let volume = Volume::read(self.kubelet.path(), request).map_err(|why| refuse(&why))?;
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let pod_uid = &volume.target.pod_uid;
        if self.pods.target(pod_uid).is_some_and(|target| target != volume.target) {
            return Err(Status::invalid_argument(format!("a pod has one volume of {NODE_DRIVER}, and this one has another already")));
        }
        let internal = |what: &str, error: &io::Error| Status::internal(format!("{what}: {error}"));
        // First of all: what is made is never without a record by which it is found again.
        self.records.store(&volume).map_err(|error| internal("the volume cannot be written down", &error))?;
        let folder = self.kubelet.make(&volume.target).map_err(|error| internal("target_path cannot be made", &error))?;
        self.pods.listen(&volume, &folder).map_err(|error| internal("the socket cannot be made", &error))?;
        info!(pod = volume.pod, uid = pod_uid, "published");
        Ok(Nothing {})
    }

    /// `NodeUnpublishVolume`. What is not there is done.
    ///
    /// # Errors
    /// As of [`Self::publish`].
    pub fn unpublish(&self, request: &NodeUnpublishVolumeRequest) -> Result<Nothing, Status> {
        if request.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let target = Target::read(self.kubelet.path(), &request.target_path).map_err(|why| refuse(&why))?;
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        // A second volume, which was refused, is not the pod's first one.
        let ours = self.pods.target(&target.pod_uid).is_none_or(|serving| serving == target);
        if ours {
            self.pods.end(&target.pod_uid);
        }
        let internal = |error: io::Error| Status::internal(format!("target_path cannot be removed: {error}"));
        self.kubelet.remove(&target, &FILES).map_err(internal)?;
        if ours {
            self.records.remove(&target.pod_uid).map_err(internal)?;
            info!(uid = target.pod_uid, "unpublished");
        }
        Ok(Nothing {})
    }
}

fn refuse(why: &Invalid) -> Status {
    warn!("a volume is refused: {why}");
    Status::invalid_argument(why.to_string())
}
