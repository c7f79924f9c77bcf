//! The token endpoint: reads the form, meets faults, applies the grant, writes journal and answer.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::answer;
use crate::client_auth;
use crate::control::Control;
use crate::fault::{Action, Endpoint, EntraError, Subject};
use crate::grant::{self, Issued};
use crate::journal::{Outcome, TokenEntry};
use crate::random::digest;
use crate::refusal::Refusal;
use crate::state::Settings;
use crate::trace::Trace;

/// A token request, read but not yet judged.
#[derive(Debug)]
pub(crate) struct TokenRequest {
    pub(crate) tenant: String,
    /// The simulator's address as the client wrote it.
    pub(crate) base: String,
    /// Whether a page in a browser sent it.
    pub(crate) is_cross_origin: bool,
    parameters: BTreeMap<String, String>,
}

pub(crate) async fn endpoint(
    Shared(control): Shared<Control>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = TokenRequest::read(tenant, control.base(&headers), &headers, &body);
    client_auth::fetch_keys(&control, &request).await;
    let now = control.now_ms();
    let trace = Trace::of(&headers, now);
    let (entry, fault) = control.with(|state| {
        let subject = Subject {
            path: Endpoint::Token,
            grant: request.param("grant_type").map(grant::name),
            client_id: request.param("client_id"),
        };
        let fault = state.faults.take(&subject);
        let entry = TokenEntry {
            fault: fault.as_ref().map(Action::name),
            assertion: client_auth::entry(state, &request),
            ..request.entry(now)
        };
        state.journal.token.push(entry);
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
    pub(crate) fn read(tenant: String, base: String, headers: &HeaderMap, body: &[u8]) -> Self {
        let is_form = headers
            .get("content-type")
            .is_some_and(|value| value.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        // Anything but a form has no parameters, and is refused for lacking them.
        let parameters =
            if is_form { form_urlencoded::parse(body).into_owned().collect() } else { BTreeMap::new() };
        Self { tenant, base, is_cross_origin: headers.contains_key("origin"), parameters }
    }

    /// The same parameters, in a query.
    pub(crate) fn of_query(tenant: String, base: String, query: &str) -> Self {
        let parameters = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Self { tenant, base, is_cross_origin: false, parameters }
    }

    /// A parameter, if it is there and not empty.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.param(name).ok_or_else(|| Refusal::missing_parameter(name))
    }

    /// The scopes asked for, as spelled.
    pub(crate) fn scopes(&self) -> Vec<String> {
        let scope = self.param("scope").unwrap_or_default();
        scope.split_ascii_whitespace().map(str::to_owned).collect()
    }

    fn entry(&self, now: u64) -> TokenEntry {
        TokenEntry {
            time_ms: now,
            tenant: self.tenant.clone(),
            grant: self.param("grant_type").map(grant::name).unwrap_or_default().to_owned(),
            client_id: self.param("client_id").unwrap_or_default().to_owned(),
            scopes: self.scopes(),
            received_sha256: self.param("refresh_token").map(digest),
            device_sha256: self.param("device_code").map(digest),
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
            entry.outcome = if refusal.is_wait() { Outcome::Pending } else { Outcome::Refused };
            entry.status = Some(refusal.status);
            entry.error = Some(refusal.error.clone());
            entry.codes.clone_from(&refusal.codes);
        }
    }
}

fn success(issued: &Issued, settings: Settings) -> Value {
    let number = |seconds| settings.number(seconds);
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
