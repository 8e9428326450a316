//! Conditions of a status, by the Kubernetes API conventions: what the operator says, and how it is written and read back. Pure.

use campfire_api::conditions::{CAMPFIRE, ConditionType, MESH_PEER, Reason, Truth};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::events::clip;

/// Longest message of a condition, bytes.
const MAX_MESSAGE: usize = 1024;

/// What a condition shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Why. Whether it is so follows from it.
    pub reason: Reason,
    /// For people: what to do.
    pub message: String,
}

/// A condition, and what is said of it.
pub type Stated = (ConditionType, Said);

impl Said {
    /// This, with a message.
    pub fn of(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// Whether it is so.
    pub fn is_true(&self) -> bool {
        self.reason.status() == Truth::True
    }
}

/// Conditions by type, in the order given. The time of a condition is that of its last change between True, False and Unknown.
pub fn merged(before: &[Condition], said: impl IntoIterator<Item = Stated>, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let of = |(kind, said): Stated| {
        debug_assert!(documented(kind, said.reason), "{kind} has no reason {}", said.reason);
        let status = said.reason.status().name();
        let held = condition(before, kind).filter(|held| held.status == status);
        Condition {
            type_: kind.name().into(),
            status: status.into(),
            reason: said.reason.name().into(),
            message: clip(&said.message, MAX_MESSAGE).into(),
            observed_generation: generation,
            last_transition_time: held.map_or(Time(now), |held| held.last_transition_time.clone()),
        }
    };
    said.into_iter().map(of).collect()
}

/// Whether the tables know the reason; `Ready` has those of others as well.
fn documented(kind: ConditionType, reason: Reason) -> bool {
    let mut known = CAMPFIRE.iter().chain(MESH_PEER).filter(|row| row.reason == reason);
    known.any(|row| row.condition == kind || kind == ConditionType::Ready)
}

/// A condition by its type.
pub fn condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == kind.name())
}

/// What was said by a condition, as it was read from the API. `None`: nothing, or by another version something that is not known here.
pub fn reason(conditions: &[Condition], kind: ConditionType) -> Option<Reason> {
    condition(conditions, kind).and_then(|condition| Reason::named(&condition.reason))
}
