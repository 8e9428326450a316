//! Whether the API server has the CustomResourceDefinitions of this operator. With older ones it drops what it does not know.

use std::sync::Arc;
use std::time::Duration;

use campfire_api::{definitions, names};
use kube::Client;
use serde_json::Value;

use crate::context::Context;

/// How often it is looked while all is well, and while it is not.
const EVERY: Duration = Duration::from_mins(10);
const AGAIN: Duration = Duration::from_mins(1);
/// Fields that are named.
const SHOWN: usize = 8;

/// What to do about it.
pub const REMEDY: &str = "apply those of this version: helm upgrade with crds.enabled, or \
                          `campfire-operator crds | kubectl apply --server-side -f -`";

/// Looks until the program ends, and says in the log what is wrong.
pub async fn run(ctx: Arc<Context>) {
    loop {
        let again = match lacking(&ctx.cluster.client).await {
            Ok(None) => EVERY,
            Ok(Some(lacking)) => {
                tracing::error!("{lacking}: {REMEDY}");
                AGAIN
            }
            Err(error) => {
                tracing::debug!(%error, "the definitions could not be looked at; tried again");
                AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(again) => {}
            () = ctx.shutdown.told() => return,
        }
    }
}

/// What the API server's definitions lack, in a sentence.
///
/// # Errors
/// The API server's: whoever is authenticated may read what this reads.
pub async fn lacking(client: &Client) -> kube::Result<Option<String>> {
    let path = format!("/openapi/v3/apis/{}/{}", names::GROUP, names::VERSION);
    let request = http::Request::get(path).header("accept", "application/json").body(Vec::new());
    let served: Value = match client.request(request.map_err(kube::Error::HttpError)?).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Value::Null,
        answer => answer?,
    };
    let mut unknown = Vec::new();
    for definition in definitions() {
        let kind = definition.spec.names.kind.clone();
        let schemas = served.pointer("/components/schemas").and_then(Value::as_object);
        let Some(known) = schemas.into_iter().flatten().find_map(|(name, schema)| name.ends_with(&format!(".{kind}")).then_some(schema))
        else {
            return Ok(Some(format!("the API server knows no {kind}: the CustomResourceDefinitions are not installed")));
        };
        let own = serde_json::to_value(&definition).map_err(kube::Error::SerdeError)?;
        if let Some(own) = own.pointer("/spec/versions/0/schema/openAPIV3Schema") {
            compare(&kind.to_lowercase(), own, known, &mut unknown);
        }
    }
    if unknown.is_empty() {
        return Ok(None);
    }
    let more = unknown.len().saturating_sub(SHOWN);
    unknown.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Ok(Some(format!(
        "the CustomResourceDefinitions are older than this operator, and what they do not know is lost: {}{more}",
        unknown.join(", ")
    )))
}

/// Paths of fields that `own` has and `known` has not.
fn compare(path: &str, own: &Value, known: &Value, unknown: &mut Vec<String>) {
    for (name, field) in own.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{name}");
        match known.pointer(&format!("/properties/{name}")) {
            Some(known) => compare(&path, field, known, unknown),
            None => unknown.push(path),
        }
    }
    for within in ["items", "additionalProperties"] {
        if let (Some(own), Some(known)) = (own.get(within), known.get(within)) {
            compare(path, own, known, unknown);
        }
    }
}
