//! The device authorization endpoint: hands out a code for the device and one for the user.

use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::{DEVICE_LOGIN_URI, DeviceCode, DeviceStanding};
use crate::answer;
use crate::clock::millis;
use crate::control::Control;
use crate::fault::{Action, Endpoint, EntraError, Subject};
use crate::grant;
use crate::journal::{DeviceEntry, Outcome};
use crate::random::{self, digest};
use crate::refusal::Refusal;
use crate::scope::Scopes;
use crate::state::{Settings, State};
use crate::token::TokenRequest;
use crate::trace::Trace;

/// A code as it is answered, once.
struct HandedOut {
    device_code: String,
    user_code: String,
}

pub(crate) async fn endpoint(
    Shared(control): Shared<Control>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = TokenRequest::read(tenant, control.base(&headers), &headers, &body);
    let now = control.now_ms();
    let trace = Trace::of(&headers, now);
    let (index, fault) = control.with(|state| {
        let client_id = request.param("client_id");
        let subject = Subject { path: Endpoint::Device, grant: Some(grant::DEVICE_CODE), client_id };
        let fault = state.faults.take(&subject);
        state.journal.device.push(DeviceEntry {
            time_ms: now,
            tenant: request.tenant.clone(),
            client_id: client_id.unwrap_or_default().to_owned(),
            scopes: request.scopes(),
            fault: fault.as_ref().map(Action::name),
            ..DeviceEntry::default()
        });
        (state.journal.device.len() - 1, fault)
    });
    let note = |state: &mut State, change: &dyn Fn(&mut DeviceEntry)| {
        if let Some(entry) = state.journal.device.get_mut(index) {
            change(entry);
        }
    };

    answer::through(
        fault,
        |status, error: Option<&EntraError>| {
            control.with(|state| {
                note(state, &|entry| {
                    entry.outcome = Outcome::Faulted;
                    entry.status = Some(status);
                    entry.error = error.map(|error| error.error.clone());
                    entry.codes = error.map(|error| error.codes.clone()).unwrap_or_default();
                });
            });
        },
        |error| trace.injected(error),
        || {
            let now = control.now_ms();
            control.with(|state| match hand_out(state, &request, now) {
                Ok(code) => {
                    note(state, &|entry| {
                        entry.outcome = Outcome::Issued;
                        entry.status = Some(200);
                        entry.device_sha256 = Some(digest(&code.device_code));
                    });
                    trace.respond(200, &success(&code, &state.settings))
                }
                Err(refusal) => {
                    note(state, &|entry| {
                        entry.outcome = Outcome::Refused;
                        entry.status = Some(refusal.status);
                        entry.error = Some(refusal.error.clone());
                        entry.codes.clone_from(&refusal.codes);
                    });
                    trace.respond(refusal.status, &trace.error(&refusal))
                }
            })
        },
    )
    .await
}

/// A client proves itself only when it redeems the code, as on Entra.
fn hand_out(state: &mut State, request: &TokenRequest, now: u64) -> Result<HandedOut, Refusal> {
    if !state.knows_tenant(&request.tenant) {
        return Err(Refusal::unknown_tenant(&request.tenant));
    }
    let client_id = request.required("client_id")?;
    if !state.clients.contains_key(client_id) {
        return Err(Refusal::unknown_client(client_id, &state.tenant.domain));
    }
    Scopes::parse(Some(request.required("scope")?))?;
    let flow = state.settings.device;
    let code = HandedOut { device_code: random::device_code(), user_code: random::user_code() };
    state.device_codes.insert(
        digest(&code.device_code),
        DeviceCode {
            user_code: code.user_code.clone(),
            client_id: client_id.to_owned(),
            scopes: request.scopes(),
            expires_ms: now.saturating_add(millis(flow.lifetime)),
            interval_ms: flow.interval_ms(),
            last_poll_ms: None,
            standing: DeviceStanding::Pending,
        },
    );
    Ok(code)
}

fn success(code: &HandedOut, settings: &Settings) -> Value {
    let user_code = &code.user_code;
    let mut body = json!({
        "device_code": code.device_code,
        "user_code": user_code,
        "verification_uri": DEVICE_LOGIN_URI,
        "expires_in": settings.number(settings.device.lifetime.as_secs()),
        "message": format!("Open {DEVICE_LOGIN_URI} in a browser and enter the code {user_code}."),
    });
    if let Some(interval) = settings.device.interval {
        body["interval"] = settings.number(interval.as_secs());
    }
    body
}
