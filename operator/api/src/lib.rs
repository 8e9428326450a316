//! Campfire's Kubernetes API, group `campfire.network`: types and nothing else.
//!
//! [`Campfire`] and [`MeshPeer`] are the custom resources (feature `resources`), [`conditions`] what theirs say, [`agent`] is what sidecars and the operator
//! say to each other, [`node`] what both and a node's agent do, [`names`] holds every label, annotation, path and name that more than one program
//! must agree on.

#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod agent;
#[cfg(feature = "resources")]
mod campfire;
#[cfg(feature = "resources")]
pub mod conditions;
#[cfg(feature = "resources")]
mod meshpeer;
pub mod names;
pub mod node;
#[cfg(feature = "resources")]
mod rules;

#[cfg(feature = "resources")]
pub use self::campfire::*;
#[cfg(feature = "resources")]
pub use self::meshpeer::*;

/// The CustomResourceDefinitions as they are applied: those of the types, each description on one line, which `kubectl explain` breaks as
/// it needs.
#[cfg(feature = "resources")]
pub fn definitions() -> [k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition; 2] {
    use kube::CustomResourceExt as _;
    [Campfire::crd(), MeshPeer::crd()].map(|definition| {
        let mut value = serde_json::to_value(&definition).unwrap_or_default();
        unbroken(&mut value);
        serde_json::from_value(value).unwrap_or(definition)
    })
}

/// Takes line breaks out of descriptions.
#[cfg(feature = "resources")]
fn unbroken(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if name == "description"
                    && let Value::String(text) = field
                {
                    *text = text.replace('\n', " ");
                } else {
                    unbroken(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(unbroken),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
