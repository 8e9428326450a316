//! Events: what `kubectl describe` shows under an object.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::runtime::events::{Event, EventType};

use crate::context::Context;

/// Longest note, bytes.
const MAX_NOTE: usize = 1000;

/// Says what happened to an object. Whether that works changes nothing: it is logged at most.
pub async fn say<K: Resource<DynamicType = ()>>(ctx: &Context, object: &K, kind: EventType, reason: &str, action: &str, note: &str) {
    say_of(ctx, &object.object_ref(&()), kind, reason, action, note).await;
}

/// The same for an object that is known by reference.
pub async fn say_of(ctx: &Context, object: &ObjectReference, kind: EventType, reason: &str, action: &str, note: &str) {
    let event =
        Event { type_: kind, reason: reason.into(), note: Some(clip(note, MAX_NOTE).into()), action: action.into(), secondary: None };
    if let Err(error) = ctx.cluster.recorder.publish(&event, object).await {
        tracing::debug!(%reason, %error, "an event was not taken");
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
