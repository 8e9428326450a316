//! Reports, read, clipped and checked: what a sidecar says ends in statuses, metrics and tables.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{MAX_PROBLEMS, Problem, ProblemReason, Report};
use campfire_protocol::identity::PublicKey;
use campfire_protocol::key::Fingerprint;
use hyper::StatusCode;

use crate::state::{PeerReport, PodId, WireguardKey};
use campfire_http::message::Refusal;

/// Most addresses, and most fingerprints.
const MAX_ADDRESSES: usize = 8;
const MAX_FINGERPRINTS: usize = 4;
/// Bytes of a message for people, and of other texts.
const MAX_MESSAGE: usize = 256;
const MAX_WORD: usize = 64;

/// Reads the report of a pod and brings it within its bounds.
///
/// # Errors
/// 400: what can't be read. A text that is too long is cut instead. 403: it is not signed by the identity that it names, as this pod's.
pub fn read(body: &[u8], pod: &PodId) -> Result<PeerReport, Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let report: Report = serde_json::from_slice(body).map_err(|error| bad(format!("this is no report: {error}")))?;
    let wireguard = WireguardKey::read(&report.public_key).ok_or_else(|| bad("publicKey must be 32 bytes in base64".into()))?;
    let identity = identity(&report.identity).ok_or_else(|| bad("identity must be 64 hex digits, lower case".into()))?;
    if wireguard.0 != identity.x25519() {
        return Err(bad("publicKey is not the identity's".into()));
    }
    let addresses = list(&report.addresses, MAX_ADDRESSES, |address| address.parse().ok())
        .ok_or_else(|| bad(format!("addresses must be at most {MAX_ADDRESSES} IP addresses")))?;
    let fingerprints = list(&report.fingerprints, MAX_FINGERPRINTS, fingerprint)
        .ok_or_else(|| bad(format!("fingerprints must be at most {MAX_FINGERPRINTS}, each 16 hex digits, lower case")))?;
    let named = |problem: &Problem| !problem.reason.name().is_empty() && word(problem.reason.name());
    if !word(&report.reason) || !report.problems.iter().all(named) {
        return Err(bad(format!("a reason must be CamelCase, at most {MAX_WORD} letters and digits")));
    }
    let signature = signature(&report.signature).ok_or_else(|| bad("signature must be 64 bytes in base64".into()))?;
    if !identity.verify(&report.statement(&pod.key.namespace, &pod.key.name, &pod.uid), &signature) {
        let message =
            format!("the report is not signed by the identity that it names, as pod {}'s: a pod reports no identity but its own", pod.key);
        return Err(Refusal::new(StatusCode::FORBIDDEN, message));
    }
    let mut problems = report.problems;
    problems.truncate(MAX_PROBLEMS);
    for problem in &mut problems {
        problem.message = line(&problem.message, MAX_MESSAGE);
    }
    Ok(PeerReport {
        identity,
        wireguard,
        addresses,
        fingerprints,
        camped: report.camped,
        ready: report.ready,
        unconnected: report.unconnected,
        path: report.path,
        reason: report.reason,
        unreachable: problems.iter().any(|problem| problem.reason == ProblemReason::FireUnreachable),
        problems,
    })
}

/// All of a list, if each can be read and they are not too many.
fn list<T>(texts: &[String], most: usize, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    if texts.len() > most { None } else { texts.iter().map(|text| read(text)).collect() }
}

pub(super) fn identity(text: &str) -> Option<PublicKey> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(Some(text).filter(|text| digits(text))?, &mut bytes).ok()?;
    PublicKey::from_bytes(bytes).ok()
}

pub(super) fn signature(text: &str) -> Option<[u8; 64]> {
    // No longer than its bytes are in base64.
    STANDARD.decode(Some(text).filter(|text| text.len() <= 88)?).ok()?.try_into().ok()
}

fn fingerprint(text: &str) -> Option<Fingerprint> {
    text.parse().ok().filter(|_| digits(text))
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn word(text: &str) -> bool {
    text.len() <= MAX_WORD && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// At most `limit` bytes, and nothing that moves a terminal's cursor.
fn line(text: &str, limit: usize) -> String {
    let mut line = String::new();
    for character in text.chars().map(|character| if character.is_control() { ' ' } else { character }) {
        if line.len() + character.len_utf8() > limit {
            break;
        }
        line.push(character);
    }
    line
}
