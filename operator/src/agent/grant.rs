//! Grants: what a pod without rights shows its node's agent, to be given an interface.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{GrantRequest, Granted};
use campfire_api::names::NODE_DRIVER;
use campfire_api::node::{Grant, GrantKey};
use campfire_protocol::identity::{PublicKey, ipv4_in_pool};
use hyper::StatusCode;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use super::report::{identity, signature};
use crate::cluster::Cluster;
use crate::state::{Membership, PodId};
use campfire_http::message::Refusal;

/// For the API server's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which peer the pod says that it is.
///
/// # Errors
/// 400: what can't be read. 403: it is not signed by that identity, as this pod's.
pub fn read(body: &[u8], pod: &PodId) -> Result<PublicKey, Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let asked: GrantRequest = serde_json::from_slice(body).map_err(|error| bad(format!("this is no request for a grant: {error}")))?;
    let identity = identity(&asked.identity).ok_or_else(|| bad("identity must be 64 hex digits, lower case".into()))?;
    let signature = signature(&asked.signature).ok_or_else(|| bad("signature must be 64 bytes in base64".into()))?;
    if !identity.verify(&asked.statement(&pod.key.namespace, &pod.key.name, &pod.uid), &signature) {
        let message = format!("the request is not signed by the identity that it names, as pod {}'s", pod.key);
        return Err(Refusal::new(StatusCode::FORBIDDEN, message));
    }
    Ok(identity)
}

/// Whether the pod is one for an agent: asked of the API server itself, for annotations are what whoever made the pod wrote.
///
/// # Errors
/// 403: it is not. 503: nobody knows.
pub async fn checked(cluster: &Cluster, pod: &PodId) -> Result<(), Refusal> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &pod.key.namespace);
    let found = match tokio::time::timeout(PATIENCE, pods.get_opt(&pod.key.name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(pod = %pod.key, %error, "a pod that asks for a grant cannot be read");
            return Err(Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "the API server does not say what this pod is", 2));
        }
        Err(_) => return Err(Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "the API server does not answer", 2)),
    };
    let no = |why: &str| Err(Refusal::new(StatusCode::FORBIDDEN, format!("pod {} {why}", pod.key)));
    let Some(spec) = found.filter(|found| found.metadata.uid.as_ref() == Some(&pod.uid)).and_then(|found| found.spec) else {
        return no("of this uid is gone");
    };
    if spec.host_network == Some(true) {
        return no("uses its node's network, where no interface is made");
    }
    let ours = spec.volumes.iter().flatten().any(|volume| volume.csi.as_ref().is_some_and(|csi| csi.driver == NODE_DRIVER));
    if ours { Ok(()) } else { no("has no volume of the node agent's: make it anew, so that the webhook adds it") }
}

/// Signs what this peer's interface is made of. `routes`: as for its settings.
///
/// # Errors
/// The Campfire's network cannot be written into a grant.
pub fn granted(key: &GrantKey, membership: &Membership, pod: &PodId, peer: &PublicKey, routes: bool) -> Result<Granted, Refusal> {
    let network = &membership.network;
    let mut addresses = vec![net(membership.id.address(peer).into(), membership.id.prefix().prefix_len())];
    if let Some(pool) = network.ipv4_pool {
        addresses.extend(ipv4_in_pool(pool, peer).map(|address| net(address.into(), pool.prefix_len())));
    }
    let routes: Vec<IpNet> = network.accept_routes.iter().filter(|_| routes).map(IpNet::trunc).collect();
    let grant = Grant { pod_uid: pod.uid.clone(), mtu: network.mtu, addresses, routes: routes.clone() };
    let signed = grant.sign(key).map_err(|error| {
        tracing::warn!(pod = %pod.key, %error, "a grant cannot be signed: see spec.network of its Campfire");
        Refusal::later(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("a grant cannot be signed: {error}: see spec.network of the Campfire"),
            60,
        )
    })?;
    Ok(Granted {
        grant: STANDARD.encode(signed),
        network: membership.id.to_string(),
        mtu: network.mtu,
        ipv4_pool: network.ipv4_pool.as_ref().map(ToString::to_string),
        accept_routes: routes.iter().map(ToString::to_string).collect(),
    })
}

fn net(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).unwrap_or(IpNet::from(address))
}
