//! Where the operator's Services lead. They have no selector: the leader writes their EndpointSlices, so that who calls meets the replica that can
//! answer. Sidecars and the API server are led to the leader; where the API server gets no answer there, it asks the standbys, which are all the
//! other replicas (docs/decisions/0024). So of the two that are asked about a pod at most one is the replica that hangs.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use campfire_api::names::{AGENT_SERVICE, FIELD_MANAGER, OPERATOR_SERVICE, STANDBY_SERVICE, WEBHOOK_SERVICE};
use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};

use crate::context::Context;

/// Name of the port in the Services, by which an EndpointSlice's port belongs to it.
const PORT_NAME: &str = "https";
/// By which an EndpointSlice belongs to its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Most standbys that are led to.
const MAX_STANDBYS: usize = 16;
/// Time until what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// A Service of ours: its slice has the same name.
struct Way {
    service: &'static str,
    port: u16,
    to: To,
}

/// Which replicas a Service leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Leader,
    /// The others.
    Standbys,
}

/// While leader: makes the slices, and puts them back when somebody changes them. Returns when the program ends, after it has led the API server to the
/// others.
pub async fn keep(ctx: Arc<Context>) {
    let Some(address) = ctx.settings.pod_ip else {
        tracing::warn!("POD_IP is not set: sidecars and the API server are not led here by this replica");
        return ctx.shutdown.told().await;
    };
    let webhook = |to| Way { service: WEBHOOK_SERVICE, port: ctx.settings.webhook_port, to };
    let ways = [
        Way { service: AGENT_SERVICE, port: ctx.settings.agent_port, to: To::Leader },
        webhook(To::Leader),
        Way { service: STANDBY_SERVICE, ..webhook(To::Standbys) },
    ];
    let slices = Api::<EndpointSlice>::namespaced(ctx.cluster.client.clone(), &ctx.settings.namespace);
    let services = Api::<Service>::namespaced(ctx.cluster.client.clone(), &ctx.settings.namespace);
    let names = [OPERATOR_SERVICE, AGENT_SERVICE, WEBHOOK_SERVICE, STANDBY_SERVICE].join(",");
    let ours = watcher::Config::default().labels(&format!("{SERVICE_LABEL} in ({names})"));
    let (seen, writer) = reflector::store::<EndpointSlice>();
    let mut changes = pin!(reflector::reflector(writer, watcher(slices.clone(), ours).default_backoff()));
    let mut leader = ctx.leadership.follow();
    let (mut led, mut retry) = (false, false);
    loop {
        tokio::select! {
            change = changes.next() => match change {
                // What is listed is seen as a whole, at its end.
                Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => continue,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot watch the EndpointSlices of the operator's Services; trying again");
                    continue;
                }
                None => return,
            },
            changed = leader.changed() => if changed.is_err() { return },
            () = ctx.shutdown.told() => break,
            () = tokio::time::sleep(AGAIN), if retry => {}
        }
        // Before the first list is whole nothing is known.
        led = *leader.borrow() && ctx.leadership.may_write() && seen.wait_until_ready().now_or_never().is_some();
        retry = false;
        if !led {
            continue;
        }
        for way in &ways {
            if let Err(error) = lead(&slices, &services, &seen, way, address).await {
                let service = way.service;
                tracing::warn!(%error, "cannot write EndpointSlice {service}, by which this replica is found; trying again");
                retry = true;
            }
        }
    }
    // The next leader comes in a second or so; who asks about a pod until then is not to wait for a replica that is gone.
    if led && let Err(error) = lead(&slices, &services, &seen, &webhook(To::Standbys), address).await {
        tracing::debug!(%error, "the API server still looks for the webhook here");
    }
}

/// Makes one Service lead where it should, if it does not.
async fn lead(
    slices: &Api<EndpointSlice>,
    services: &Api<Service>,
    seen: &Store<EndpointSlice>,
    way: &Way,
    address: IpAddr,
) -> kube::Result<()> {
    let to = match way.to {
        To::Leader => vec![address],
        To::Standbys => standbys(&seen.state(), address),
    };
    let found = seen.state().into_iter().find(|slice| slice.name_any() == way.service);
    let family = family(address);
    if found.as_ref().is_some_and(|slice| right(slice, way, family, &to)) {
        return Ok(());
    }
    if found.as_ref().is_some_and(|slice| slice.address_type != family) {
        // The type can't be changed.
        slices.delete(way.service, &DeleteParams::default()).await?;
    }
    // Owned by the Service, so that nothing stays behind when that goes.
    let service = services.get_metadata(way.service).await?;
    let slice = wanted(way, family, &to, service.metadata.uid.as_deref().unwrap_or_default());
    slices.patch(way.service, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(slice)).await?;
    tracing::info!(service = way.service, ?to, "callers are led");
    Ok(())
}

/// The other replicas that are ready, of the same family, by what the cluster says of the Service that all of them are behind.
fn standbys(slices: &[Arc<EndpointSlice>], me: IpAddr) -> Vec<IpAddr> {
    let all = slices.iter().filter(|slice| slice.labels().get(SERVICE_LABEL).is_some_and(|name| name == OPERATOR_SERVICE));
    let ready = all.flat_map(|slice| &slice.endpoints).filter(|endpoint| ready(endpoint));
    let addresses = ready.flat_map(|endpoint| &endpoint.addresses).filter_map(|text| text.parse::<IpAddr>().ok());
    let mut others: Vec<IpAddr> = addresses.filter(|address| *address != me && family(*address) == family(me)).collect();
    others.sort_unstable();
    others.dedup();
    others.truncate(MAX_STANDBYS);
    others
}

fn ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|it| it.ready) != Some(false)
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Whether it leads there, and nowhere else.
fn right(slice: &EndpointSlice, way: &Way, family: &str, to: &[IpAddr]) -> bool {
    let endpoints = slice.endpoints.len() == to.len()
        && slice.endpoints.iter().zip(to).all(|(endpoint, address)| endpoint.addresses == [address.to_string()] && ready(endpoint));
    let port = match slice.ports.as_deref() {
        Some([port]) => port.port == Some(i32::from(way.port)) && port.name.as_deref() == Some(PORT_NAME),
        _ => false,
    };
    let service = slice.labels().get(SERVICE_LABEL).is_some_and(|name| name == way.service);
    slice.address_type == family && endpoints && port && service
}

fn wanted(way: &Way, family: &str, to: &[IpAddr], service_uid: &str) -> EndpointSlice {
    let labels = [
        (SERVICE_LABEL, way.service),
        ("endpointslice.kubernetes.io/managed-by", FIELD_MANAGER),
        ("app.kubernetes.io/managed-by", FIELD_MANAGER),
    ];
    let owner = OwnerReference {
        api_version: Service::api_version(&()).into_owned(),
        kind: Service::kind(&()).into_owned(),
        name: way.service.into(),
        uid: service_uid.into(),
        ..OwnerReference::default()
    };
    let endpoint = |address: &IpAddr| Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
        ..Endpoint::default()
    };
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(way.service.into()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: family.into(),
        endpoints: to.iter().map(endpoint).collect(),
        ports: Some(vec![EndpointPort {
            name: Some(PORT_NAME.into()),
            port: Some(way.port.into()),
            protocol: Some("TCP".into()),
            ..EndpointPort::default()
        }]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standbys_are_the_other_replicas_that_are_ready_and_of_the_same_family() {
        let slice = |service: &str, addresses: &[(&str, Option<bool>)]| {
            let endpoints = addresses.iter().map(|(address, ready)| Endpoint {
                addresses: vec![(*address).to_owned()],
                conditions: Some(EndpointConditions { ready: *ready, ..EndpointConditions::default() }),
                ..Endpoint::default()
            });
            let labels = Some([(SERVICE_LABEL.to_owned(), service.to_owned())].into());
            Arc::new(EndpointSlice {
                metadata: ObjectMeta { labels, ..ObjectMeta::default() },
                endpoints: endpoints.collect(),
                ..EndpointSlice::default()
            })
        };
        let yes = Some(true);
        let all = [
            slice(OPERATOR_SERVICE, &[("10.0.0.9", yes), ("10.0.0.1", yes), ("10.0.0.2", Some(false)), ("10.0.0.3", None)]),
            slice(OPERATOR_SERVICE, &[("fd00::9", yes), ("10.0.0.3", yes), ("nonsense", yes)]),
            slice(AGENT_SERVICE, &[("10.0.0.4", yes)]),
        ];
        let of = |me: &str| standbys(&all, me.parse().unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(of("10.0.0.1"), ["10.0.0.3", "10.0.0.9"]);
        assert_eq!(of("fd00::1"), ["fd00::9"]);
        assert_eq!(standbys(&[], "10.0.0.1".parse().unwrap()), [] as [IpAddr; 0]);
    }
}
