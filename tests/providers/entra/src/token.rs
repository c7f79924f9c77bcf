//! The token endpoint: reads the form, meets faults, applies the grant, writes journal and answer.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::http::HeaderMap;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::answer::{self, Processed};
use crate::control::Control;
use crate::fault::{Action, Endpoint, EntraError, Subject};
use crate::grant::{self, Issued};
use crate::journal::{Outcome, TokenEntry};
use crate::random::{digest, guid};
use crate::refusal::Refusal;
use crate::state::Settings;

/// A token request, read but not yet judged.
#[derive(Debug)]
pub(crate) struct TokenRequest {
    pub(crate) tenant: String,
    parameters: BTreeMap<String, String>,
}

/// What an answer says about the request it belongs to.
struct Trace {
    /// The caller's `client-request-id`, or a new one.
    correlation_id: String,
    /// Whether the caller wants it back.
    echo: bool,
    now_ms: u64,
}

pub(crate) async fn endpoint(
    Shared(control): Shared<Control>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = TokenRequest::read(tenant, &headers, &body);
    let now = control.now_ms();
    let trace = Trace::of(&headers, now);
    let (entry, fault) = control.with(|state| {
        let subject = Subject {
            path: Endpoint::Token,
            grant: request.param("grant_type"),
            client_id: request.param("client_id"),
        };
        let fault = state.faults.take(&subject);
        state
            .journal
            .token
            .push(TokenEntry { fault: fault.as_ref().map(Action::name), ..request.entry(now) });
        (state.journal.token.len() - 1, fault)
    });

    let faulted = |status, error: Option<&EntraError>| {
        control.with(|state| {
            if let Some(entry) = state.journal.token.get_mut(entry) {
                entry.outcome = Outcome::Faulted;
                entry.status = Some(status);
                entry.error = error.map(|error| error.error.clone());
                entry.codes = error.map(|error| error.codes.clone()).unwrap_or_default();
            }
        });
    };
    answer::through(
        fault,
        faulted,
        |error| trace.injected(error),
        || {
            // The delay is over: the rules apply at the time of processing.
            let now = control.now_ms();
            control.with(|state| {
                let result = grant::redeem(state, &request, now);
                if let Some(entry) = state.journal.token.get_mut(entry) {
                    settle(entry, &result);
                }
                match result {
                    Ok(issued) => trace.respond(200, &success(&issued, state.settings)),
                    Err(refusal) => trace.respond(refusal.status, &trace.error(&refusal)),
                }
            })
        },
    )
    .await
}

impl TokenRequest {
    fn read(tenant: String, headers: &HeaderMap, body: &[u8]) -> Self {
        let is_form = headers
            .get("content-type")
            .is_some_and(|value| value.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        // Anything but a form has no parameters, and is refused for lacking them.
        let parameters =
            if is_form { form_urlencoded::parse(body).into_owned().collect() } else { BTreeMap::new() };
        Self { tenant, parameters }
    }

    /// A parameter, if it is there and not empty.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.param(name).ok_or_else(|| Refusal::missing_parameter(name))
    }

    fn entry(&self, now: u64) -> TokenEntry {
        let text = |name| self.param(name).unwrap_or_default().to_owned();
        TokenEntry {
            time_ms: now,
            tenant: self.tenant.clone(),
            grant: text("grant_type"),
            client_id: text("client_id"),
            scopes: text("scope").split_ascii_whitespace().map(str::to_owned).collect(),
            received_sha256: self.param("refresh_token").map(digest),
            ..TokenEntry::default()
        }
    }
}

fn settle(entry: &mut TokenEntry, result: &Result<Issued, Refusal>) {
    match result {
        Ok(issued) => {
            entry.outcome = Outcome::Issued;
            entry.status = Some(200);
            entry.issued_sha256 = issued.refresh_token.as_deref().map(digest);
            entry.access_sha256 = Some(digest(&issued.access_token));
        }
        Err(refusal) => {
            entry.outcome = Outcome::Refused;
            entry.status = Some(refusal.status);
            entry.error = Some(refusal.error.clone());
            entry.codes.clone_from(&refusal.codes);
        }
    }
}

fn success(issued: &Issued, settings: Settings) -> Value {
    let number = |seconds: u64| {
        if settings.numbers_as_strings { json!(seconds.to_string()) } else { json!(seconds) }
    };
    let lifetime = settings.token_lifetime.as_secs();
    let mut body = Map::new();
    body.insert("token_type".to_owned(), json!("Bearer"));
    body.insert("expires_in".to_owned(), number(lifetime));
    body.insert("ext_expires_in".to_owned(), number(lifetime));
    body.insert("access_token".to_owned(), json!(issued.access_token));
    let optional = [
        ("scope", &issued.scope),
        ("refresh_token", &issued.refresh_token),
        ("id_token", &issued.id_token),
        ("client_info", &issued.client_info),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            body.insert(name.to_owned(), json!(value));
        }
    }
    if let Some(refresh_in) = settings.refresh_in {
        body.insert("refresh_in".to_owned(), number(refresh_in.as_secs()));
    }
    Value::Object(body)
}

impl Trace {
    fn of(headers: &HeaderMap, now_ms: u64) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            correlation_id: text("client-request-id").map_or_else(guid, str::to_owned),
            echo: text("return-client-request-id") == Some("true"),
            now_ms,
        }
    }

    fn error(&self, refusal: &Refusal) -> Value {
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

    fn injected(&self, error: &EntraError) -> Processed {
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

    fn respond(&self, status: u16, body: &Value) -> Processed {
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
