//! Reports, clipped: what a sidecar says ends in statuses, metrics and tables.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{MAX_PROBLEMS, Report};
use hyper::StatusCode;

use crate::serve::message::Refusal;

/// Most addresses, and most fingerprints.
const MAX_ADDRESSES: usize = 8;
const MAX_FINGERPRINTS: usize = 4;
/// Bytes of a message for people, and of other texts.
const MAX_MESSAGE: usize = 256;
const MAX_WORD: usize = 64;

/// Reads a report and brings it within its bounds.
///
/// # Errors
/// 400: what can't be read. A text that is too long is cut instead.
pub fn read(body: &[u8]) -> Result<Report, Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let mut report: Report = serde_json::from_slice(body).map_err(|error| bad(format!("this is no report: {error}")))?;
    if STANDARD.decode(&report.public_key).map(|key| key.len()) != Ok(32) {
        return Err(bad("publicKey must be 32 bytes in base64".into()));
    }
    if !digits(&report.identity, 64) {
        return Err(bad("identity must be 64 hex digits, lower case".into()));
    }
    if report.addresses.len() > MAX_ADDRESSES || report.addresses.iter().any(|address| address.parse::<IpAddr>().is_err()) {
        return Err(bad(format!("addresses must be at most {MAX_ADDRESSES} IP addresses")));
    }
    if report.fingerprints.len() > MAX_FINGERPRINTS || report.fingerprints.iter().any(|fingerprint| !digits(fingerprint, 16)) {
        return Err(bad(format!("fingerprints must be at most {MAX_FINGERPRINTS}, each 16 hex digits, lower case")));
    }
    if !word(&report.reason) || report.problems.iter().any(|problem| problem.reason.is_empty() || !word(&problem.reason)) {
        return Err(bad(format!("a reason must be CamelCase, at most {MAX_WORD} letters and digits")));
    }
    report.problems.truncate(MAX_PROBLEMS);
    for problem in &mut report.problems {
        problem.message = line(&problem.message, MAX_MESSAGE);
    }
    report.settings_version = line(&report.settings_version, MAX_WORD);
    report.sidecar_version = line(&report.sidecar_version, MAX_WORD);
    Ok(report)
}

fn digits(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
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
