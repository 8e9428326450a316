//! Campfire's Kubernetes API, group `campfire.network`: types and nothing else.
//!
//! [`Campfire`] and [`MeshPeer`] are the custom resources (feature `resources`), [`conditions`] what theirs say, [`agent`] is what sidecars and the operator
//! say to each other, [`names`] holds every label, annotation, path and name that more than one program must agree on.

#![forbid(unsafe_code)]

pub mod agent;
#[cfg(feature = "resources")]
mod campfire;
#[cfg(feature = "resources")]
pub mod conditions;
#[cfg(feature = "resources")]
mod meshpeer;
pub mod names;
#[cfg(feature = "resources")]
mod rules;

#[cfg(feature = "resources")]
pub use self::campfire::*;
#[cfg(feature = "resources")]
pub use self::meshpeer::*;
