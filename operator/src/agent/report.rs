//! Reports, read, clipped and checked: what a sidecar says ends in statuses, metrics and tables.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{MAX_PROBLEMS, Problem, ProblemReason, Report};
use campfire_protocol::identity::PublicKey;
use campfire_protocol::key::Fingerprint;
use hyper::StatusCode;

use crate::state::{PeerReport, PodId, Proof, Reported, WireguardKey};
use campfire_http::message::Refusal;

/// Most addresses, and most fingerprints.
const MAX_ADDRESSES: usize = 8;
const MAX_FINGERPRINTS: usize = 4;
/// Bytes of a message for people, and of other texts.
const MAX_MESSAGE: usize = 256;
const MAX_WORD: usize = 64;

/// Reads the report of a pod and brings it within its bounds. `last`: what was taken of it before.
///
/// Most reports are heartbeats, in which all that is signed is as it was, and a verification costs as much as the rest of the request but for its
/// TLS. So one is verified if it, its signature included, is not byte for byte what was verified last. That is as good as verifying: the result is
/// a function of the signature, the identity and the statement alone, and the last two are one (namespace, name and uid of the pod, its keys and its
/// addresses are all in the statement). Whoever else's `last` it were, nothing could be gained by it.
///
/// # Errors
/// 400: what can't be read. A text that is too long is cut instead. 403: it is not signed by the identity that it names, as this pod's.
pub fn read(body: &[u8], pod: &PodId, last: Option<&Reported>) -> Result<(PeerReport, Proof), Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let report: Report = serde_json::from_slice(body).map_err(|error| bad(format!("this is no report: {error}")))?;
    let (signature, statement) = (signature(&report.signature), report.statement(&pod.key.namespace, &pod.key.name, &pod.uid));
    let proof = signature.map(|signature| Proof::of(&signature, &statement));
    let proven = last.filter(|last| Some(last.proof) == proof);
    let (identity, wireguard) = match proven {
        Some(last) => (last.report.identity, last.report.wireguard),
        None => keys(&report)?,
    };
    let addresses = list(&report.addresses, MAX_ADDRESSES, |address| address.parse().ok())
        .ok_or_else(|| bad(format!("addresses must be at most {MAX_ADDRESSES} IP addresses")))?;
    let fingerprints = list(&report.fingerprints, MAX_FINGERPRINTS, fingerprint)
        .ok_or_else(|| bad(format!("fingerprints must be at most {MAX_FINGERPRINTS}, each 16 hex digits, lower case")))?;
    let named = |problem: &Problem| !problem.reason.name().is_empty() && word(problem.reason.name());
    if !word(&report.reason) || !report.problems.iter().all(named) {
        return Err(bad(format!("a reason must be CamelCase, at most {MAX_WORD} letters and digits")));
    }
    let (Some(signature), Some(proof)) = (signature, proof) else { return Err(bad("signature must be 64 bytes in base64".into())) };
    if proven.is_none() && !identity.verify(&statement, &signature) {
        let message =
            format!("the report is not signed by the identity that it names, as pod {}'s: a pod reports no identity but its own", pod.key);
        return Err(Refusal::new(StatusCode::FORBIDDEN, message));
    }
    let mut problems = report.problems;
    problems.truncate(MAX_PROBLEMS);
    for problem in &mut problems {
        problem.message = line(&problem.message, MAX_MESSAGE);
    }
    let report = PeerReport {
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
    };
    Ok((report, proof))
}

/// The keys that a report names, which are one identity's.
fn keys(report: &Report) -> Result<(PublicKey, WireguardKey), Refusal> {
    let bad = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, message);
    let wireguard = WireguardKey::read(&report.public_key).ok_or_else(|| bad("publicKey must be 32 bytes in base64"))?;
    let identity = identity(&report.identity).ok_or_else(|| bad("identity must be 64 hex digits, lower case"))?;
    if wireguard.0 == identity.x25519() { Ok((identity, wireguard)) } else { Err(bad("publicKey is not the identity's")) }
}

/// All of a list, if each can be read and they are not too many. It takes no more room than they do: for 10,000 pods that adds up.
fn list<T>(texts: &[String], most: usize, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    if texts.len() > most {
        return None;
    }
    let mut list = Vec::with_capacity(texts.len());
    for text in texts {
        list.push(read(text)?);
    }
    Some(list)
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
