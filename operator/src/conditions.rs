//! Conditions of a status, by the Kubernetes API conventions. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::events::clip;

/// Longest message of a condition, bytes.
const MAX_MESSAGE: usize = 1024;

/// What a condition shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// CamelCase.
    pub reason: &'static str,
    /// For people: what to do.
    pub message: String,
}

impl Said {
    /// True.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "True", reason, message: message.into() }
    }

    /// False.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "False", reason, message: message.into() }
    }

    /// Unknown.
    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "Unknown", reason, message: message.into() }
    }

    /// Whether it is so.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// Conditions by type, in the order given. The time of a condition is that of its last change between True, False and Unknown.
pub fn merged(
    before: &[Condition],
    said: impl IntoIterator<Item = (&'static str, Said)>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let of = |(kind, said): (&'static str, Said)| {
        let held = before.iter().find(|condition| condition.type_ == kind && condition.status == said.status);
        Condition {
            type_: kind.into(),
            status: said.status.into(),
            reason: said.reason.into(),
            message: clip(&said.message, MAX_MESSAGE).into(),
            observed_generation: generation,
            last_transition_time: held.map_or(Time(now), |held| held.last_transition_time.clone()),
        }
    };
    said.into_iter().map(of).collect()
}

/// A condition by its type.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}
