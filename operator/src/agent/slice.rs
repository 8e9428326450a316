//! The EndpointSlice by which Service [`AGENT_SERVICE`], that has no selector, leads to the leader.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use campfire_api::names::{AGENT_SERVICE, FIELD_MANAGER};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};

use crate::context::Context;

/// Name of the port in the Service, by which an EndpointSlice's port belongs to it.
const PORT_NAME: &str = "https";
/// By which an EndpointSlice belongs to its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// While leader: makes the slice, and puts it back when somebody changes it. Returns when the program ends.
pub async fn keep(ctx: Arc<Context>, address: IpAddr) {
    let port = ctx.settings.agent_port;
    let slices = Api::<EndpointSlice>::namespaced(ctx.cluster.client.clone(), &ctx.settings.namespace);
    let services = Api::<Service>::namespaced(ctx.cluster.client.clone(), &ctx.settings.namespace);
    let mut changes = pin!(watcher::watch_object(slices.clone(), AGENT_SERVICE).default_backoff());
    let mut leader = ctx.leadership.follow();
    // `None`: not known yet.
    let mut seen: Option<Option<EndpointSlice>> = None;
    let mut retry = false;
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(found)) => seen = Some(found),
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot watch EndpointSlice {AGENT_SERVICE}; trying again");
                    continue;
                }
                None => return,
            },
            changed = leader.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(5)), if retry => {}
        }
        retry = false;
        let Some(found) = &seen else { continue };
        if !*leader.borrow() || !ctx.leadership.may_write() || found.as_ref().is_some_and(|slice| right(slice, address, port)) {
            continue;
        }
        match write(&slices, &services, found.as_ref(), address, port).await {
            Ok(written) => {
                tracing::info!(%address, "sidecars are led to this replica");
                seen = Some(Some(written));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot write EndpointSlice {AGENT_SERVICE}, without which sidecars get no answer; trying again");
                retry = true;
            }
        }
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Whether it leads here, and nowhere else.
fn right(slice: &EndpointSlice, address: IpAddr, listens: u16) -> bool {
    let endpoint = match slice.endpoints.as_slice() {
        [endpoint] => endpoint.addresses == [address.to_string()] && endpoint.conditions.as_ref().and_then(|it| it.ready) != Some(false),
        _ => false,
    };
    let port = match slice.ports.as_deref() {
        Some([port]) => port.port == Some(i32::from(listens)) && port.name.as_deref() == Some(PORT_NAME),
        _ => false,
    };
    let service = slice.labels().get(SERVICE_LABEL).is_some_and(|name| name == AGENT_SERVICE);
    slice.address_type == family(address) && endpoint && port && service
}

async fn write(
    slices: &Api<EndpointSlice>,
    services: &Api<Service>,
    found: Option<&EndpointSlice>,
    address: IpAddr,
    port: u16,
) -> Result<EndpointSlice, kube::Error> {
    if found.is_some_and(|slice| slice.address_type != family(address)) {
        // The type can't be changed.
        slices.delete(AGENT_SERVICE, &DeleteParams::default()).await?;
    }
    // Owned by the Service, so that nothing stays behind when that goes.
    let service = services.get_metadata(AGENT_SERVICE).await?;
    let slice = wanted(address, port, service.metadata.uid.as_deref().unwrap_or_default());
    slices.patch(AGENT_SERVICE, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(slice)).await
}

fn wanted(address: IpAddr, port: u16, service_uid: &str) -> EndpointSlice {
    let labels = [
        (SERVICE_LABEL, AGENT_SERVICE),
        ("endpointslice.kubernetes.io/managed-by", FIELD_MANAGER),
        ("app.kubernetes.io/managed-by", FIELD_MANAGER),
    ];
    let owner = OwnerReference {
        api_version: Service::api_version(&()).into_owned(),
        kind: Service::kind(&()).into_owned(),
        name: AGENT_SERVICE.into(),
        uid: service_uid.into(),
        ..OwnerReference::default()
    };
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(AGENT_SERVICE.into()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: family(address).into(),
        endpoints: vec![Endpoint {
            addresses: vec![address.to_string()],
            conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
            ..Endpoint::default()
        }],
        ports: Some(vec![EndpointPort {
            name: Some(PORT_NAME.into()),
            port: Some(port.into()),
            protocol: Some("TCP".into()),
            ..EndpointPort::default()
        }]),
    }
}
