//! Why a reconcile did not get to its end.

use campfire_api::conditions::Reason;

use crate::cluster::of_secret;
use crate::conditions::Said;

/// Why a reconcile did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused or did not answer.
    #[error("{what}: {}", of_api(source))]
    Api {
        /// What was tried.
        what: String,
        /// What the API said.
        source: kube::Error,
    },
    /// The same of a Secret, without what it holds.
    #[error("{what}: {why}")]
    Secret {
        /// What was tried.
        what: String,
        /// What the API said, as far as it may be shown.
        why: String,
        /// Its code, if it answered.
        code: Option<u16>,
    },
    /// This operator leads no more.
    #[error("this operator leads no more")]
    Fenced,
    /// What was written is not what the API server gives back.
    #[error("what is written does not stay as it is written: does another controller change it?")]
    Unsettled,
    /// The system has no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

impl Error {
    /// What is said where the API server refuses what it is asked for: not allowed (403), or invalid (422). Trying again alone changes nothing
    /// then; it is for a person to change.
    pub fn refusal(&self) -> Option<Said> {
        let (what, why, code) = match self {
            Self::Api { what, source: kube::Error::Api(status) } => (what, &status.message, status.code),
            Self::Secret { what, why, code: Some(code) } => (what, why, *code),
            Self::Api { .. } | Self::Secret { .. } | Self::Fenced | Self::Unsettled | Self::Random(_) => return None,
        };
        match code {
            403 => {
                let remedy = "the operator has its rights in the chart's campfireNamespaces: name this one there and run helm upgrade (again, if it was made anew)";
                Some(Said::of(Reason::Forbidden, format!("{what}: {why}: {remedy}")))
            }
            422 => {
                Some(Said::of(Reason::Refused, format!("the API server refuses what the spec asks for; change spec.turn: {what}: {why}")))
            }
            _ => None,
        }
    }
}

/// What the API said, and nothing around it.
fn of_api(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error { status.message.clone() } else { error.to_string() }
}

/// Adds what was tried to an error of the API.
pub fn during(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let what = what.into();
    move |source| Error::Api { what, source }
}

/// The same of a Secret.
pub fn during_secret(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let what = what.into();
    move |source| {
        let code = if let kube::Error::Api(status) = &source { Some(status.code) } else { None };
        Error::Secret { what, why: of_secret(&source), code }
    }
}
