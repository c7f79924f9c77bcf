//! What an answer of the sign-in endpoints says about the request it belongs to.

use axum::http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::answer::Processed;
use crate::fault::EntraError;
use crate::random::guid;
use crate::refusal::Refusal;

pub(crate) struct Trace {
    /// The caller's `client-request-id`, or a new one.
    correlation_id: String,
    /// Whether the caller wants it back.
    echo: bool,
    now_ms: u64,
}

impl Trace {
    pub(crate) fn of(headers: &HeaderMap, now_ms: u64) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            correlation_id: text("client-request-id").map_or_else(guid, str::to_owned),
            echo: text("return-client-request-id") == Some("true"),
            now_ms,
        }
    }

    pub(crate) fn error(&self, refusal: &Refusal) -> Value {
        let timestamp = i64::try_from(self.now_ms)
            .ok()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok())
            .map(|time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
            .unwrap_or_default();
        let trace_id = guid();
        let correlation_id = &self.correlation_id;
        let number = refusal.codes.first().map_or_else(String::new, |code| format!("AADSTS{code}: "));
        let description = format!(
            "{number}{} Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {timestamp}",
            refusal.message
        );
        let mut body = json!({
            "error": refusal.error,
            "error_description": description,
            "error_codes": refusal.codes,
            "timestamp": timestamp,
            "trace_id": trace_id,
            "correlation_id": correlation_id,
        });
        if let Some(suberror) = &refusal.suberror {
            body["suberror"] = json!(suberror);
        }
        body
    }

    pub(crate) fn injected(&self, error: &EntraError) -> Processed {
        let refusal = Refusal {
            status: error.status,
            error: error.error.clone(),
            codes: error.codes.clone(),
            suberror: error.suberror.clone(),
            message: "A fault of the simulator.".to_owned(),
        };
        let mut processed = self.respond(error.status, &self.error(&refusal));
        if let Some(retry_after) = &error.retry_after {
            processed.headers.push(("retry-after".to_owned(), retry_after.clone()));
        }
        processed
    }

    pub(crate) fn respond(&self, status: u16, body: &Value) -> Processed {
        let trace_id = body.get("trace_id").and_then(Value::as_str).map_or_else(guid, str::to_owned);
        let mut headers = vec![
            ("cache-control".to_owned(), "no-store, no-cache".to_owned()),
            ("pragma".to_owned(), "no-cache".to_owned()),
            ("x-ms-request-id".to_owned(), trace_id),
        ];
        if self.echo {
            headers.push(("client-request-id".to_owned(), self.correlation_id.clone()));
        }
        Processed { status, headers, ..Processed::json(status, body) }
    }
}
