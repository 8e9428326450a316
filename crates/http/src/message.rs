//! Requests that are read, within bounds, and answers in JSON.

use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};

use super::Heard;

/// The answer of a handler.
pub type Answer = Response<Full<Bytes>>;

/// A request that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status code.
    pub status: StatusCode,
    /// For people: what is wrong, what to do.
    pub message: String,
    /// When to come again, seconds.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// One that is final.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    /// One that passes.
    pub fn later(status: StatusCode, message: impl Into<String>, seconds: u64) -> Self {
        Self { status, message: message.into(), retry_after: Some(seconds) }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let mut answer = json(refusal.status, &serde_json::json!({ "message": refusal.message }));
        if let Some(seconds) = refusal.retry_after {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer
    }
}

/// An answer in JSON.
pub fn json(status: StatusCode, body: &serde_json::Value) -> Answer {
    respond(status, Bytes::from(body.to_string()))
}

/// An answer of JSON bytes.
pub fn respond(status: StatusCode, body: Bytes) -> Answer {
    of_kind(status, "application/json", body)
}

/// An answer of this media type.
pub fn of_kind(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// Reads a body of at most `limit` bytes within `patience`. Until it is there the connection has said nothing (see the crate).
///
/// # Errors
/// 413, 408, or 400 when the client breaks off.
pub async fn read<B>(request: Request<B>, limit: usize, patience: Duration) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let large = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body may have {limit} bytes at most"));
    if request.body().size_hint().lower() > limit as u64 {
        return Err(large());
    }
    let (parts, body) = request.into_parts();
    let heard = parts.extensions.get::<Heard>();
    match tokio::time::timeout(patience, collect(Limited::new(body, limit), heard)).await {
        Ok(Ok(body)) => {
            if let Some(heard) = heard {
                heard.now();
            }
            Ok(body.into())
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(large()),
        Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "the body ended early")),
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {} s", patience.as_secs()))),
    }
}

/// A body, piece by piece, each of which needs room.
async fn collect<B>(body: B, heard: Option<&Heard>) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = std::pin::pin!(body);
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(Into::into)?.into_data() else { continue };
        if heard.is_some_and(|heard| !heard.holds(piece.len())) {
            return Err("others wanted the room".into());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}
