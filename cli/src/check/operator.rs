//! The operator: ready, led, its certificates; whether it is reached by the API server is [`webhook`]'s.

use campfire_api::names::{LEASE, WEBHOOK_CONFIGURATION};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use x509_parser::pem::Pem;

use super::clocks::{self, Clock};
use super::{Check, Findings, Outcome, webhook};
use crate::cluster::Cluster;
use campfire_text::count;

/// What the chart labels its Deployment with.
const SELECTOR: &str = "app.kubernetes.io/name=campfire-operator";
/// A CA that ends sooner, in seconds, should have been renewed.
const SOON: i64 = 14 * DAY;
const DAY: i64 = 24 * 3_600;

/// Looks.
pub(super) async fn look(cluster: &Cluster, findings: &mut Findings<'_>, clock: Clock) {
    let deployments = Api::<Deployment>::all(cluster.client.clone());
    match deployments.list(&ListParams::default().labels(SELECTOR)).await {
        Err(error) => findings.unknown(Check::OperatorReady, &cluster.explain(&error, "list deployments in all namespaces")),
        Ok(list) => match list.items.as_slice() {
            [] => findings.add(Check::OperatorReady, Outcome::Wrong, "there is no operator: no Deployment has its label"),
            [deployment] => {
                ready(findings, deployment);
                leader(cluster, findings, clock, &deployment.namespace().unwrap_or_default()).await;
            }
            several => {
                let names: Vec<String> = several.iter().map(crate::status::full).collect();
                findings.add(
                    Check::OperatorReady,
                    Outcome::Wrong,
                    format!("there are several operators, which disturb each other: {}", names.join(", ")),
                );
            }
        },
    }
    certificate(cluster, findings).await;
    webhook::look(cluster, findings).await;
}

fn ready(findings: &mut Findings<'_>, deployment: &Deployment) {
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let name = crate::status::full(deployment);
    let words = format!("{ready} of {wanted} pods of Deployment {name} are ready");
    let outcome = match ready {
        0 => Outcome::Wrong,
        some if some < wanted => Outcome::Warning,
        _ => Outcome::Good,
    };
    findings.add(Check::OperatorReady, outcome, words);
}

async fn leader(cluster: &Cluster, findings: &mut Findings<'_>, clock: Clock, namespace: &str) {
    let lease = match Api::<Lease>::namespaced(cluster.client.clone(), namespace).get_opt(LEASE).await {
        Err(error) => {
            return findings.unknown(Check::OperatorLeader, &cluster.explain(&error, &format!("get leases in namespace {namespace}")));
        }
        Ok(None) => return findings.add(Check::OperatorLeader, Outcome::Wrong, "no replica leads, or ever did: there is no Lease"),
        Ok(Some(lease)) => lease,
    };
    let (written, ahead) = (clocks::written(&lease), clocks::ahead(&lease));
    let lease = lease.spec.unwrap_or_default();
    let holder = lease.holder_identity.unwrap_or_default();
    if let Some(ahead) = ahead.filter(|_| !holder.is_empty()) {
        clocks::beside(findings, &format!("the operator ({holder})"), ahead);
    }
    // When the API server saw it: its holder's clock may be wrong.
    let renewed = lease.renew_time.map(|time| written.unwrap_or(time.0.as_second()));
    let held = i64::from(lease.lease_duration_seconds.unwrap_or(15));
    match renewed.map(|at| clock.now() - at) {
        _ if holder.is_empty() => findings.add(Check::OperatorLeader, Outcome::Wrong, "no replica leads: the Lease is given up"),
        None => findings.add(Check::OperatorLeader, Outcome::Wrong, format!("{holder} has never renewed its Lease")),
        // Clocks may differ.
        Some(ago) if ago > held * 3 => {
            findings.add(Check::OperatorLeader, Outcome::Wrong, format!("nobody leads: {holder} renewed its Lease {ago} s ago"));
        }
        Some(_) => findings.good(Check::OperatorLeader, format!("{holder} leads")),
    }
}

async fn certificate(cluster: &Cluster, findings: &mut Findings<'_>) {
    let configurations = Api::<MutatingWebhookConfiguration>::all(cluster.client.clone());
    let configuration = match configurations.get_opt(WEBHOOK_CONFIGURATION).await {
        Err(error) => return findings.unknown(Check::OperatorCertificate, &cluster.explain(&error, "get mutatingwebhookconfigurations")),
        Ok(None) => {
            return findings.add(
                Check::OperatorCertificate,
                Outcome::Wrong,
                format!("there is no MutatingWebhookConfiguration {WEBHOOK_CONFIGURATION}: no pod gets a sidecar"),
            );
        }
        Ok(Some(configuration)) => configuration,
    };
    let bundles: Vec<Vec<u8>> =
        configuration.webhooks.unwrap_or_default().into_iter().map(|it| it.client_config.ca_bundle.unwrap_or_default().0).collect();
    let (outcome, words) = judge_bundles(&bundles, Timestamp::now().as_second());
    findings.add(Check::OperatorCertificate, outcome, words);
}

/// The CA that ends last counts: while it is exchanged there are two.
fn judge_bundles(bundles: &[Vec<u8>], now: i64) -> (Outcome, String) {
    let Some(bundle) = bundles.iter().min_by_key(|bundle| bundle.len()).filter(|bundle| !bundle.is_empty()) else {
        return (
            Outcome::Wrong,
            "the API server has no CA for the webhook (caBundle is empty): the operator puts it there once it leads".into(),
        );
    };
    let ends = |pem: Pem| pem.parse_x509().ok().map(|certificate| certificate.validity().not_after.timestamp());
    let last = Pem::iter_from_buffer(bundle).flatten().filter_map(ends).max();
    match last.map(|ends| ends - now) {
        None => (Outcome::Wrong, "the webhook's caBundle holds no certificate".into()),
        Some(left) if left <= 0 => (Outcome::Wrong, "the webhook's CA has expired".into()),
        Some(left) if left < SOON => {
            (Outcome::Warning, format!("the webhook's CA ends in {}, and was not renewed", count((left / DAY) as usize, "day")))
        }
        Some(left) => (Outcome::Good, format!("the webhook's CA holds for {}", count((left / DAY) as usize, "day"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_ca_that_is_missing_broken_or_at_its_end_is_told() {
        let now = Timestamp::now().as_second();
        let authority = |days: u64| {
            let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
            parameters.not_after = (SystemTime::now() + Duration::from_hours(24 * days) + Duration::from_mins(10)).into();
            parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().into_bytes()
        };
        let judged = |bundles: &[Vec<u8>]| judge_bundles(bundles, now);
        assert_eq!(judged(&[]).0, Outcome::Wrong);
        assert_eq!(judged(&[authority(90), Vec::new()]).0, Outcome::Wrong, "each webhook needs it");
        assert_eq!(judged(&[b"nonsense".to_vec()]).0, Outcome::Wrong);
        assert_eq!(judged(&[authority(90)]), (Outcome::Good, "the webhook's CA holds for 90 days".into()));
        assert_eq!(judged(&[authority(3)]).0, Outcome::Warning);
        assert_eq!(judged(&[[authority(3), authority(90)].concat()]).0, Outcome::Good, "the next one is there");
        assert_eq!(judge_bundles(&[authority(3)], now + 4 * DAY).0, Outcome::Wrong);
    }
}
