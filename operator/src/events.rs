//! Events: what `kubectl describe` shows under an object.

use campfire_api::conditions::{Reason, SkipReason};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::runtime::events::{Event, EventType};

use crate::cluster::Cluster;

/// Longest note, bytes.
const MAX_NOTE: usize = 1000;

/// What an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// The API refuses something again and again.
    ReconcileFailed,
    /// Somebody put another key into the Secret.
    KeyChanged,
    /// The Secret with the key was gone, and was put back.
    KeyPutBack,
    /// A pod was made while no webhook answered.
    SidecarMissed,
    /// Pods are given a sidecar, and refused afterwards.
    PodsRefusedWithSidecar,
    /// A Campfire is Ready now, or no more.
    Turned(Reason),
    /// A MeshPeer was not accepted.
    NotAccepted(Reason),
    /// A pod with a sidecar is without the mesh.
    WithoutMesh(Reason),
    /// A pod gets no sidecar.
    Skipped(SkipReason),
}

impl Happened {
    fn reason(self) -> &'static str {
        match self {
            Self::ReconcileFailed => "ReconcileFailed",
            Self::KeyChanged => "KeyChanged",
            Self::KeyPutBack => "KeyPutBack",
            Self::SidecarMissed => "SidecarMissed",
            Self::PodsRefusedWithSidecar => "PodsRefusedWithSidecar",
            Self::Turned(reason) | Self::NotAccepted(reason) | Self::WithoutMesh(reason) => reason.name(),
            Self::Skipped(reason) => reason.name(),
        }
    }

    /// What the operator was doing.
    fn action(self) -> &'static str {
        match self {
            Self::ReconcileFailed | Self::Turned(_) => "Reconcile",
            Self::KeyChanged | Self::KeyPutBack => "ReadKey",
            Self::SidecarMissed | Self::PodsRefusedWithSidecar | Self::Skipped(_) => "Inject",
            Self::NotAccepted(_) => "Accept",
            Self::WithoutMesh(_) => "Connect",
        }
    }

    fn kind(self) -> EventType {
        match self {
            Self::Turned(Reason::Ready) => EventType::Normal,
            Self::ReconcileFailed
            | Self::KeyChanged
            | Self::KeyPutBack
            | Self::SidecarMissed
            | Self::PodsRefusedWithSidecar
            | Self::Turned(_)
            | Self::NotAccepted(_)
            | Self::WithoutMesh(_)
            | Self::Skipped(_) => EventType::Warning,
        }
    }
}

/// Says what happened to an object. Whether that works changes nothing: it is logged at most.
pub async fn say<K: Resource<DynamicType = ()>>(cluster: &Cluster, object: &K, happened: Happened, note: &str) {
    say_of(cluster, &object.object_ref(&()), happened, note).await;
}

/// The same for an object that is known by reference.
pub async fn say_of(cluster: &Cluster, object: &ObjectReference, happened: Happened, note: &str) {
    let event = Event {
        type_: happened.kind(),
        reason: happened.reason().into(),
        note: Some(clip(note, MAX_NOTE).into()),
        action: happened.action().into(),
        secondary: None,
    };
    if let Err(error) = cluster.recorder.publish(&event, object).await {
        tracing::debug!(reason = event.reason, %error, "an event was not taken");
    }
}

/// The first `most` bytes of a text, at the end of a character.
pub fn clip(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
