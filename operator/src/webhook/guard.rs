//! Whether admission would refuse a pod for the capabilities that its sidecar's init container needs. Pure.
//!
//! A namespace says so by its label; the cluster's default, which no object shows, and other policies are found out by a dry run in the
//! namespaces of Campfires (`campfire::admission`) and stand in their condition `MembersAdmitted`, where all replicas read them.

use campfire_api::Campfire;
use campfire_api::conditions::{ConditionType, Reason, SkipReason};

use crate::conditions::{condition, reason};
use crate::members::{NamespaceMeta, Places};
use crate::settings::Level;

/// Label of a namespace by which PodSecurity admission refuses pods.
pub const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// The level of a namespace's label; `None`: it has none. What is no level holds as the strictest, as PodSecurity takes it.
pub fn labelled(namespace: &NamespaceMeta) -> Option<Level> {
    Some(match namespace.labels.get(ENFORCE)?.as_str() {
        "privileged" => Level::Privileged,
        "baseline" => Level::Baseline,
        _ => Level::Restricted,
    })
}

/// Why a pod with a sidecar would be refused in a namespace, if that is known. `default`: the level where there is no label, if no Campfire's
/// namespace tells.
pub fn refusal(namespace: &NamespaceMeta, places: &Places, default: Level) -> Option<(SkipReason, String)> {
    let (name, label) = (&namespace.name, labelled(namespace));
    if let Some(level @ (Level::Baseline | Level::Restricted)) = label {
        return Some((
            SkipReason::PodSecurityForbids,
            format!(
                "namespace {name} enforces the Pod Security Standard {}, which forbids the NET_ADMIN that the sidecar's init container needs: \
                 label the namespace {ENFORCE}=privileged, or move the pod to a namespace that allows it",
                level.name()
            ),
        ));
    }
    let tried = |campfire: &Campfire| reason(&campfire.status.as_ref()?.conditions, ConditionType::MembersAdmitted);
    let here = places.campfires().iter().filter(|campfire| campfire.metadata.namespace.as_ref() == Some(name));
    let verdicts: Vec<(Reason, &Campfire)> = here.filter_map(|campfire| Some((tried(campfire)?, &**campfire))).collect();
    if let Some((_, campfire)) = verdicts.iter().find(|(verdict, _)| *verdict == Reason::PolicyForbids) {
        return Some((SkipReason::PolicyForbids, said(campfire)));
    }
    if label.is_some() || verdicts.iter().any(|(verdict, _)| matches!(verdict, Reason::Admitted | Reason::AdmittedByDefault)) {
        return None;
    }
    let mut elsewhere = places.campfires().iter().map(|campfire| (tried(campfire), &**campfire));
    let forbidden = elsewhere.clone().find(|(verdict, _)| *verdict == Some(Reason::PodSecurityDefault));
    let mut allowed = || elsewhere.any(|(verdict, _)| verdict == Some(Reason::AdmittedByDefault));
    let why = match (forbidden, default) {
        (Some((_, campfire)), _) => said(campfire),
        (None, Level::Baseline | Level::Restricted) if !allowed() => {
            format!("the chart's podSecurity.default says that this cluster enforces {} where a namespace has no label", default.name())
        }
        (None, _) => return None,
    };
    Some((
        SkipReason::PodSecurityForbids,
        format!("{why}: label namespace {name} {ENFORCE}=privileged, or move the pod to one that allows it"),
    ))
}

fn said(campfire: &Campfire) -> String {
    let conditions = campfire.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition(conditions, ConditionType::MembersAdmitted).map(|condition| condition.message.clone()).unwrap_or_default()
}
