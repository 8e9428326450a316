//! What CPU and memory our containers get, so that the pod stays what it is and is admitted where it was without them. Pure.
//!
//! | what | what ours do |
//! | --- | --- |
//! | QoS class | `Guaranteed`: requests are limits; `BestEffort`: none, but what a Campfire asks for itself; else what is asked for |
//! | a quota wants each container to say something | a request, or a limit, where all of the pod's own containers have one |
//! | the pod has resources of its own | none of those that it names |
//! | a LimitRange | within its bounds and its ratio |
//!
//! Where that is not to be had (a quota is used up by the pod itself, a LimitRange leaves too little) the pod is left alone, with the reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use campfire_api::Resources;
use campfire_api::conditions::SkipReason;
use campfire_api::names::{INIT_CONTAINER, SIDECAR_CONTAINER};
use k8s_openapi::api::core::v1::{Container, LimitRangeItem, PodSpec, ResourceQuota, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;

use super::amount::Amount;
use crate::cluster::Bounds;

/// The resources that ours may have; a class follows from the first two.
const NAMES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// What ours get where they must say something and nobody said what: request and limit.
const USUAL: [(Amount, Amount); 3] = [
    (Amount::milli(10), Amount::milli(200)),
    (Amount::of(24 * 1_048_576), Amount::of(128 * 1_048_576)),
    (Amount::of(1_048_576), Amount::of(64 * 1_048_576)),
];
/// With less memory the sidecar does not live.
const LEAST_MEMORY: Amount = Amount::of(24 * 1_048_576);

/// What ours shall have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// CPU and memory.
    pub resources: Resources,
    /// Whoever wrote the Campfire asked for them, and not the chart for all.
    pub own: bool,
}

/// Why ours do not fit, with what to do.
pub type Unfit = (SkipReason, String);

/// Of Kubernetes: who is evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Each container has limits, and its requests are the same.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is.
    BestEffort,
}

/// Requests or limits.
type Amounts = BTreeMap<&'static str, Amount>;

/// What one container has, or all of a pod.
#[derive(Clone, Debug, Default)]
struct Has {
    requests: Amounts,
    limits: Amounts,
}

impl Has {
    fn of(resources: Option<&ResourceRequirements>) -> Self {
        let read = |amounts: Option<&BTreeMap<String, Quantity>>| -> Amounts {
            let amount = |name: &'static str| Some((name, Amount::read(&amounts?.get(name)?.0)?));
            NAMES.into_iter().filter_map(amount).collect()
        };
        let limits = read(resources.and_then(|resources| resources.limits.as_ref()));
        let mut requests = read(resources.and_then(|resources| resources.requests.as_ref()));
        // As the API server does.
        for (name, amount) in &limits {
            requests.entry(name).or_insert(*amount);
        }
        Self { requests, limits }
    }

    fn says(&self, name: &str) -> bool {
        self.requests.contains_key(name) || self.limits.contains_key(name)
    }
}

/// A container of ours.
pub fn ours(container: &Container) -> bool {
    container.name == INIT_CONTAINER || container.name == SIDECAR_CONTAINER
}

/// A pod without our containers.
struct Own {
    /// Its own resources, if it has some.
    pod: Option<Has>,
    /// Of each container, those that run before the app too.
    each: Vec<Has>,
    total: Has,
    class: Class,
}

impl Own {
    fn of(spec: &PodSpec) -> Self {
        let inits = || spec.init_containers.iter().flatten().filter(|container| !ours(container));
        let pod = spec.resources.as_ref().map(|resources| Has::of(Some(resources))).filter(|has| NAMES.iter().any(|name| has.says(name)));
        let each: Vec<Has> = spec.containers.iter().chain(inits()).map(|container| Has::of(container.resources.as_ref())).collect();
        let mut total = Has::default();
        for container in &spec.containers {
            add(&mut total, &Has::of(container.resources.as_ref()));
        }
        // Each that ends before the next needs its own while it runs, beside those that have stayed.
        let (mut stay, mut most) = (Has::default(), Has::default());
        for container in inits() {
            let has = Has::of(container.resources.as_ref());
            let mut now = stay.clone();
            add(&mut now, &has);
            raise(&mut most, &now);
            if container.restart_policy.is_some() {
                stay = now;
            }
        }
        add(&mut total, &stay);
        raise(&mut total, &most);
        let class = class(pod.as_ref().map_or(each.as_slice(), std::slice::from_ref));
        Self { pod, each, total, class }
    }

    fn all(&self, says: impl Fn(&Has) -> bool) -> bool {
        !self.each.is_empty() && self.each.iter().all(says)
    }
}

fn add(sum: &mut Has, has: &Has) {
    merge(sum, has, Amount::plus);
}

fn raise(most: &mut Has, has: &Has) {
    merge(most, has, Amount::max);
}

fn merge(into: &mut Has, has: &Has, both: impl Fn(Amount, Amount) -> Amount) {
    for (into, has) in [(&mut into.requests, &has.requests), (&mut into.limits, &has.limits)] {
        for (name, amount) in has {
            let held = into.entry(name).or_default();
            *held = both(*held, *amount);
        }
    }
}

/// The class of a pod whose containers have these.
fn class(each: &[Has]) -> Class {
    let classed = ["cpu", "memory"];
    let nothing = |has: &Has| classed.iter().all(|name| has.requests.get(name).is_none_or(|amount| amount.is_zero()));
    let guaranteed = |has: &Has| classed.iter().all(|name| has.limits.get(name).is_some_and(|limit| has.requests.get(name) == Some(limit)));
    if each.iter().all(nothing) {
        Class::BestEffort
    } else if each.iter().all(guaranteed) {
        Class::Guaranteed
    } else {
        Class::Burstable
    }
}

/// The class of a pod, our containers left out.
pub fn class_of(spec: &PodSpec) -> Class {
    Own::of(spec).class
}

/// What LimitRanges allow of one resource in one container.
#[derive(Default)]
struct Allowed {
    min: Option<Amount>,
    max: Option<Amount>,
    ratio: Option<Amount>,
    /// Which said something.
    by: Option<String>,
}

impl Allowed {
    fn of(name: &str, bounds: &Bounds) -> Self {
        let mut allowed = Self::default();
        for range in &bounds.ranges {
            for item in range.spec.iter().flat_map(|spec| &spec.limits) {
                let amount = |amounts: &Option<BTreeMap<String, Quantity>>| Amount::read(&amounts.as_ref()?.get(name)?.0);
                // If no container is beyond the ratio all together are not.
                let ratio = amount(&item.max_limit_request_ratio);
                let (min, max) = if item.type_ == "Container" { (amount(&item.min), amount(&item.max)) } else { (None, None) };
                if min.is_some() || max.is_some() || ratio.is_some() {
                    allowed.by = Some(range.name_any());
                }
                allowed.min = allowed.min.max(min);
                allowed.max = least(allowed.max, max);
                allowed.ratio = least(allowed.ratio, ratio);
            }
        }
        allowed
    }
}

fn least(one: Option<Amount>, other: Option<Amount>) -> Option<Amount> {
    one.into_iter().chain(other).min()
}

/// What both of our containers get.
///
/// # Errors
/// The pod is left alone, for it would be refused with ours.
pub fn fit(spec: &PodSpec, wish: &Wish, bounds: &Bounds) -> Result<Resources, Unfit> {
    let own = Own::of(spec);
    let mut fitted = Has::default();
    for (name, usual) in NAMES.into_iter().zip(USUAL) {
        let allowed = Allowed::of(name, bounds);
        let (request, limit) = match &own.pod {
            Some(pod) if pod.says(name) => within_pod(name, pod, &own, &allowed)?,
            Some(_) | None => within_range(name, asked(name, usual, wish, &own, bounds), usual, own.class, &allowed)?,
        };
        fitted.requests.extend(request.map(|amount| (name, amount)));
        fitted.limits.extend(limit.map(|amount| (name, amount)));
    }
    pod_ranges(&own, &fitted, bounds)?;
    quotas(spec, &own, &fitted, bounds)?;
    let texts = |amounts: Amounts| amounts.into_iter().map(|(name, amount)| (name.to_owned(), amount.into())).collect();
    Ok(Resources { requests: texts(fitted.requests), limits: texts(fitted.limits) })
}

/// Request and limit of one resource.
type Pair = (Option<Amount>, Option<Amount>);

/// What ours would have of a resource if nothing bounded it.
fn asked(name: &'static str, usual: (Amount, Amount), wish: &Wish, own: &Own, bounds: &Bounds) -> Pair {
    let given = |amounts: &BTreeMap<String, Quantity>| Amount::read(&amounts.get(name)?.0);
    let (request, limit) = (given(&wish.resources.requests), given(&wish.resources.limits));
    let classed = name != "ephemeral-storage";
    match own.class {
        Class::Guaranteed if classed => {
            let limit = limit.unwrap_or(usual.1);
            (Some(limit), Some(limit))
        }
        // Where a quota tells the classes apart another class is another quota.
        Class::BestEffort if classed && (!wish.own || bounds.quotas.iter().any(|quota| tells_classes(quota))) => (None, None),
        Class::Guaranteed | Class::Burstable | Class::BestEffort => {
            let request = request.or_else(|| own.all(|has| has.requests.contains_key(name)).then_some(usual.0));
            let limit = limit.or_else(|| own.all(|has| has.limits.contains_key(name)).then_some(usual.1));
            // More than the limit nobody may ask for.
            (request.map(|request| limit.map_or(request, |limit| request.min(limit))), limit)
        }
    }
}

/// The same within the bounds of LimitRanges.
fn within_range(name: &str, asked: Pair, usual: (Amount, Amount), class: Class, allowed: &Allowed) -> Result<Pair, Unfit> {
    let (mut request, mut limit) = asked;
    if let Some(min) = allowed.min {
        request = Some(request.unwrap_or(usual.0).max(min));
        limit = limit.map(|limit| limit.max(min));
    }
    if let Some(max) = allowed.max {
        limit = Some(limit.unwrap_or(usual.1).min(max));
    }
    if let Some(ratio) = allowed.ratio {
        let most = *limit.get_or_insert_with(|| usual.1.max(request.unwrap_or_default()));
        request = Some(request.unwrap_or(usual.0).max(most.over(ratio)));
    }
    request = request.map(|request| limit.map_or(request, |limit| request.min(limit)));
    if class == Class::Guaranteed && name != "ephemeral-storage" {
        // Both were the same, and the bounds move both alike.
        request = limit;
    }
    let little = name == "memory" && limit.is_some_and(|limit| limit < LEAST_MEMORY);
    match (&allowed.by, little) {
        (Some(by), true) => Err((
            SkipReason::LimitRangeForbids,
            format!("LimitRange {by} leaves a container less memory than the sidecar needs ({LEAST_MEMORY}): raise its max"),
        )),
        (Some(_) | None, _) => Ok((request, limit)),
    }
}

/// Of a resource that the pod itself has: none, unless a LimitRange makes each container have some and there is enough.
fn within_pod(name: &str, pod: &Has, own: &Own, allowed: &Allowed) -> Result<Pair, Unfit> {
    let Some(by) = &allowed.by else { return Ok((None, None)) };
    let used = own.each.iter().filter_map(|has| has.requests.get(name)).fold(Amount::default(), |sum, amount| sum.plus(*amount));
    let left = pod.requests.get(name).map_or(Amount::default(), |request| request.minus(used));
    let request = allowed.min.unwrap_or_default();
    let floor = if name == "memory" { LEAST_MEMORY } else { Amount::milli(1) };
    let limit = allowed.max.or(pod.limits.get(name).copied()).map(|limit| limit.max(request));
    let limit = least(limit, pod.limits.get(name).copied());
    let request = allowed.ratio.zip(limit).map_or(request, |(ratio, limit)| request.max(limit.over(ratio)));
    if request > left || limit.is_some_and(|limit| limit < floor || limit < request) {
        let message = format!(
            "the pod has {name} of its own (spec.resources), of which {left} are left, and LimitRange {by} makes each container have {request}: \
             give the pod more, or have the LimitRange say nothing of {name}"
        );
        return Err((SkipReason::LimitRangeForbids, message));
    }
    Ok((Some(request), limit))
}

/// Bounds of LimitRanges on pods as a whole.
fn pod_ranges(own: &Own, fitted: &Has, bounds: &Bounds) -> Result<(), Unfit> {
    for range in &bounds.ranges {
        let pods = |item: &&LimitRangeItem| item.type_ == "Pod";
        for item in range.spec.iter().flat_map(|spec| &spec.limits).filter(pods) {
            for name in NAMES.into_iter().filter(|name| own.pod.as_ref().is_none_or(|pod| !pod.says(name))) {
                let Some(max) = item.max.as_ref().and_then(|max| Amount::read(&max.get(name)?.0)) else { continue };
                for (kind, of_pod, ours) in
                    [("limit", &own.total.limits, &fitted.limits), ("request", &own.total.requests, &fitted.requests)]
                {
                    let (Some(of_pod), Some(ours)) = (of_pod.get(name), ours.get(name)) else { continue };
                    if *of_pod <= max && of_pod.plus(*ours) > max {
                        return Err((
                            SkipReason::LimitRangeForbids,
                            format!(
                                "LimitRange {} allows a pod {max} of {name}, the pod's own {kind} is {of_pod}, and the sidecar would add {ours}: raise it, \
                                 or give the pod less",
                                range.name_any()
                            ),
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// What is left of quotas.
fn quotas(spec: &PodSpec, own: &Own, fitted: &Has, bounds: &Bounds) -> Result<(), Unfit> {
    for quota in bounds.quotas.iter().filter(|quota| counts(quota, spec, own.class)) {
        let Some(status) = &quota.status else { continue };
        for (resource, hard) in status.hard.iter().flatten() {
            let (name, limits) = counted(resource);
            if own.pod.as_ref().is_some_and(|pod| pod.says(name)) {
                continue;
            }
            let (of_pod, ours) = if limits { (&own.total.limits, &fitted.limits) } else { (&own.total.requests, &fitted.requests) };
            let Some(ours) = ours.get(name) else { continue };
            let used = status.used.as_ref().and_then(|used| Amount::read(&used.get(resource)?.0)).unwrap_or_default();
            let Some(hard) = Amount::read(&hard.0) else { continue };
            let alone = used.plus(of_pod.get(name).copied().unwrap_or_default());
            if alone <= hard && alone.plus(*ours) > hard {
                let (quota, left) = (quota.name_any(), hard.minus(alone));
                return Err((
                    SkipReason::QuotaForbids,
                    format!(
                        "quota {quota} has room for the pod and then {left} of {resource}, and the sidecar needs {ours}: raise the quota, and make the pod anew"
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Which resource a quota counts by this name, and whether it counts limits.
fn counted(resource: &str) -> (&str, bool) {
    resource.strip_prefix("limits.").map_or_else(|| (resource.strip_prefix("requests.").unwrap_or(resource), false), |name| (name, true))
}

/// The quota that has no room for a pod once another is gone, in words; `None`: there is room.
pub fn no_room_instead_of(gone: &PodSpec, spec: &PodSpec, quotas: &[Arc<ResourceQuota>]) -> Option<String> {
    let of = |spec: &PodSpec, quota: &ResourceQuota, resource: &str| {
        let own = Own::of(spec);
        if !counts(quota, spec, own.class) {
            return Amount::default();
        }
        if matches!(resource, "pods" | "count/pods") {
            return Amount::of(1);
        }
        let (name, limits) = counted(resource);
        let amounts = if limits { own.total.limits } else { own.total.requests };
        amounts.get(name).copied().unwrap_or_default()
    };
    quotas.iter().find_map(|quota| {
        let status = quota.status.as_ref()?;
        status.hard.iter().flatten().find_map(|(resource, hard)| {
            let hard = Amount::read(&hard.0)?;
            let used = status.used.as_ref().and_then(|used| Amount::read(&used.get(resource)?.0)).unwrap_or_default();
            let asked = of(spec, quota, resource);
            let would = used.minus(of(gone, quota, resource)).plus(asked);
            (!asked.is_zero() && would > hard)
                .then(|| format!("quota {} allows {hard} of {resource}, and it would be {would}", quota.name_any()))
        })
    })
}

/// Whether a quota counts a pod.
fn counts(quota: &ResourceQuota, spec: &PodSpec, class: Class) -> bool {
    let Some(of_quota) = &quota.spec else { return true };
    let terminating = spec.active_deadline_seconds.is_some();
    let within = |scope: &str| match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => class == Class::BestEffort,
        "NotBestEffort" => class != Class::BestEffort,
        // One that is not known here may count it.
        _ => true,
    };
    let priority = spec.priority_class_name.as_deref().unwrap_or_default();
    let selected = of_quota.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten()).all(|expression| {
        if expression.scope_name != "PriorityClass" {
            return within(&expression.scope_name);
        }
        let named = expression.values.iter().flatten().any(|value| value == priority);
        match expression.operator.as_str() {
            "In" => named,
            "NotIn" => !named,
            "DoesNotExist" => priority.is_empty(),
            "Exists" => !priority.is_empty(),
            _ => true,
        }
    });
    selected && of_quota.scopes.iter().flatten().all(|scope| within(scope))
}

fn tells_classes(quota: &ResourceQuota) -> bool {
    let Some(spec) = &quota.spec else { return false };
    let by_scope = spec.scopes.iter().flatten().map(String::as_str);
    let by_selector = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    by_scope.chain(by_selector.map(|expression| expression.scope_name.as_str())).any(|scope| scope.ends_with("BestEffort"))
}
