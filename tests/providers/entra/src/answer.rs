//! From what was processed, and the fault that was met, to what goes over the wire.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::Value;
use tokio::time::sleep;

use crate::fault::{Action, Canned, EntraError};

const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const MEBIBYTE: usize = 1 << 20;

/// Marks a response that must not be sent: the server closes the connection instead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HangUp;

/// An answer before it is sent.
#[derive(Debug)]
pub(crate) struct Processed {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Processed {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            content_type: JSON.to_owned(),
            headers: Vec::new(),
            body: Bytes::from(body.to_string()),
        }
    }

    fn canned(canned: Canned) -> Self {
        let (body, content_type) = match canned.body {
            Value::Null => (String::new(), HTML),
            Value::String(text) => (text, HTML),
            other => (other.to_string(), JSON),
        };
        Self {
            status: canned.status,
            content_type: canned.content_type.unwrap_or_else(|| content_type.to_owned()),
            headers: canned.headers,
            body: Bytes::from(body),
        }
    }

    pub(crate) fn send(self) -> Response {
        let body = self.body.clone();
        self.with_body(Body::from(body))
    }

    fn with_body(self, body: Body) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let content_type = ("content-type".to_owned(), self.content_type);
        for (name, value) in self.headers.into_iter().chain([content_type]) {
            // A fault's header that HTTP cannot carry is left out.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}

/// Answers through the fault, if there is one. `process` is called at most once, and only by faults that
/// process; `faulted` hears the status of an answer that the fault made up; `error` words an Entra error.
pub(crate) async fn through(
    fault: Option<Action>,
    faulted: impl FnOnce(u16, Option<&EntraError>),
    error: impl FnOnce(&EntraError) -> Processed,
    process: impl FnOnce() -> Processed,
) -> Response {
    match fault {
        None => process().send(),
        Some(Action::Respond(canned)) => {
            faulted(canned.status, None);
            Processed::canned(canned).send()
        }
        Some(Action::Error(entra)) => {
            faulted(entra.status, Some(&entra));
            error(&entra).send()
        }
        Some(Action::DelayMs(delay)) => {
            sleep(Duration::from_millis(delay)).await;
            process().send()
        }
        // The server drops this when the client goes.
        Some(Action::Hang) => std::future::pending().await,
        Some(Action::Close) => hang_up(),
        Some(Action::AnswerLost) => {
            process();
            hang_up()
        }
        Some(Action::HugeBody { megabytes }) => {
            faulted(200, None);
            Processed::json(200, &Value::Null).with_body(huge(megabytes))
        }
        Some(Action::SlowBody { chunk_bytes, delay_ms }) => {
            let processed = process();
            let body = slow(processed.body.clone(), chunk_bytes.max(1), Duration::from_millis(delay_ms));
            processed.with_body(body)
        }
    }
}

fn hang_up() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.extensions_mut().insert(HangUp);
    response
}

/// Valid JSON that looks like an answer, made as it is sent.
fn huge(megabytes: u32) -> Body {
    let head = Bytes::from_static(br#"{"token_type":"Bearer","expires_in":3600,"access_token":""#);
    let filler = Bytes::from(vec![b'a'; MEBIBYTE]);
    let tail = Bytes::from_static(b"\"}");
    let middle = std::iter::repeat_n(filler, usize::try_from(megabytes).unwrap_or(usize::MAX));
    let chunks = std::iter::once(head).chain(middle).chain(std::iter::once(tail));
    Body::from_stream(stream::iter(chunks.map(Ok::<_, std::convert::Infallible>)))
}

fn slow(body: Bytes, chunk: usize, delay: Duration) -> Body {
    Body::from_stream(stream::unfold(body, move |mut left| async move {
        if left.is_empty() {
            return None;
        }
        sleep(delay).await;
        let piece = left.split_to(chunk.min(left.len()));
        Some((Ok::<_, std::convert::Infallible>(piece), left))
    }))
}
