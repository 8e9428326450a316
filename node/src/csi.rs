//! The messages of the Container Storage Interface (version 1) and of the kubelet's plugin registration (version 1) that are used here, and of those
//! the fields. Unknown fields are passed over, as protocol buffers have it.

use std::collections::HashMap;

use prost::{Message, Oneof};

/// Asks for nothing in particular: `GetPluginInfo`, `GetPluginCapabilities`, `Probe`, `NodeGetCapabilities`, `NodeGetInfo`, `GetInfo`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Nothing {}

/// `csi.v1.GetPluginInfoResponse`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PluginInfo {
    /// The driver's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub vendor_version: String,
}

/// `google.protobuf.BoolValue`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Flag {
    /// It.
    #[prost(bool, tag = "1")]
    pub value: bool,
}

/// `csi.v1.ProbeResponse`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ProbeResponse {
    /// Whether volumes can be published.
    #[prost(message, optional, tag = "1")]
    pub ready: Option<Flag>,
}

/// `csi.v1.NodeGetInfoResponse`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NodeInfo {
    /// The node's name.
    #[prost(string, tag = "1")]
    pub node_id: String,
}

/// `csi.v1.NodePublishVolumeRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NodePublishVolumeRequest {
    /// The kubelet's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Of drivers that attach.
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: HashMap<String, String>,
    /// Of drivers that stage.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
    /// Where the volume is wanted.
    #[prost(string, tag = "4")]
    pub target_path: String,
    /// As what.
    #[prost(message, optional, tag = "5")]
    pub volume_capability: Option<VolumeCapability>,
    /// Whether the pod may not write to it.
    #[prost(bool, tag = "6")]
    pub readonly: bool,
    /// What a Secret that the pod names holds.
    #[prost(map = "string, string", tag = "7")]
    pub secrets: HashMap<String, String>,
    /// What the pod says of the volume, and over it what the kubelet says of the pod.
    #[prost(map = "string, string", tag = "8")]
    pub volume_context: HashMap<String, String>,
}

/// `csi.v1.VolumeCapability`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct VolumeCapability {
    /// Block device or file system.
    #[prost(oneof = "Access", tags = "1, 2")]
    pub access: Option<Access>,
}

/// How a volume is used.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum Access {
    /// As a block device.
    #[prost(message, tag = "1")]
    Block(Nothing),
    /// As files.
    #[prost(message, tag = "2")]
    Mount(MountVolume),
}

/// `csi.v1.VolumeCapability.MountVolume`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MountVolume {
    /// File system.
    #[prost(string, tag = "1")]
    pub fs_type: String,
    /// Options.
    #[prost(string, repeated, tag = "2")]
    pub mount_flags: Vec<String>,
}

/// `csi.v1.NodeUnpublishVolumeRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NodeUnpublishVolumeRequest {
    /// The kubelet's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where it was wanted.
    #[prost(string, tag = "2")]
    pub target_path: String,
}

/// `pluginregistration.PluginInfo`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RegistrationInfo {
    /// `CSIPlugin`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The driver's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Path of its socket.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    /// Of the CSI.
    #[prost(string, repeated, tag = "4")]
    pub supported_versions: Vec<String>,
}

/// `pluginregistration.RegistrationStatus`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RegistrationStatus {
    /// Whether it was taken.
    #[prost(bool, tag = "1")]
    pub plugin_registered: bool,
    /// Why not.
    #[prost(string, tag = "2")]
    pub error: String,
}
