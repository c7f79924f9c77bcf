//! The device authorization grant (RFC 8628; Microsoft: "Microsoft identity platform and the OAuth 2.0 device authorization
//! grant flow").

use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use url::Url;

use super::response::{seconds, usable_token};
use super::{GrantKind, Proof, TokenRequest};
use crate::failure::{self, Answer, Failure};

#[cfg(test)]
mod tests;

/// The life of a code whose server does not tell it: Entra's.
const DEFAULT_LIFE: Duration = Duration::from_mins(15);
/// No longer than this is believed.
const MAX_LIFE: Duration = Duration::from_hours(24);
/// Between two polls, where the server does not tell (RFC 8628 section 3.2).
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
/// No server needs us to be slower.
const MAX_INTERVAL: Duration = Duration::from_mins(1);
/// What a `slow_down` adds (RFC 8628 section 3.5).
pub const SLOW_DOWN: Duration = Duration::from_secs(5);
/// A person is to type it.
const MAX_USER_CODE: usize = 64;
const MAX_URI: usize = 512;

/// A code that waits for a user.
#[derive(Debug, Clone)]
pub struct Authorization {
    /// What the polls send.
    pub device_code: SecretString,
    /// What the user enters.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// How long it lives, from the moment the request was sent.
    pub expires_in: Duration,
    /// Between two polls.
    pub interval: Duration,
}

/// The form by which a code is asked for. `scopes` must have `offline_access`, or no refresh token comes of it.
pub fn authorization(client_id: &str, scopes: &[String], proof: Proof<'_>) -> TokenRequest {
    TokenRequest { form: Vec::new() }.with("client_id", client_id).with_scopes(scopes).with_proof(proof)
}

/// The form of a poll.
pub fn poll(client_id: &str, device_code: &SecretString, proof: Proof<'_>) -> TokenRequest {
    TokenRequest::new(client_id, GrantKind::DeviceCode)
        .with("device_code", device_code.clone())
        .with("client_info", "1")
        .with_proof(proof)
}

/// Reads the answer of the device authorization endpoint to this request. `now` is only for a Retry-After that is a date.
pub fn read(
    answer: &Answer<'_>,
    now: Timestamp,
    request: &TokenRequest,
) -> Result<Authorization, Box<Failure>> {
    if !answer.is_success() {
        return Err(failure::classify(GrantKind::DeviceCode, answer, now).into());
    }
    let body = answer.object().unwrap_or_default();
    started(&body, request).map_err(|why| failure::unusable(GrantKind::DeviceCode, answer, why, now).into())
}

/// A failure of this endpoint in words of its own: those that all requests share name the token endpoint.
#[must_use]
pub fn named(mut failure: Failure) -> Failure {
    failure.message = failure
        .message
        .replace("token endpoint", "device authorization endpoint")
        .replace("for a token response", "to be one")
        .replace("spec.endpoints.token", "spec.endpoints.deviceAuthorization");
    failure
}

fn started(body: &Map<String, Value>, request: &TokenRequest) -> Result<Authorization, &'static str> {
    let device_code = usable_token(body.get("device_code")).ok_or("no usable device_code is in it")?;
    let text = |member: &str| body.get(member).and_then(Value::as_str);
    let user_code =
        text("user_code").filter(|code| is_user_code(code)).ok_or("no usable user_code is in it")?;
    // Google's and old drafts' spelling is verification_url.
    let uri = text("verification_uri").or_else(|| text("verification_url"));
    let uri = uri.filter(|uri| is_uri(uri)).ok_or("no usable verification_uri is in it")?;
    // Both are shown in the status; and whoever has the device code gets the tokens.
    let shown = |secret: &SecretString| {
        [user_code, uri].into_iter().any(|text| failure::shows(text, secret.expose_secret()))
    };
    if shown(&device_code) || request.secrets().any(shown) {
        return Err("a secret shows in its user_code or verification_uri");
    }
    let told = |member: &str, default: Duration, most: Duration| {
        seconds(body.get(member)).filter(|told| !told.is_zero()).unwrap_or(default).min(most)
    };
    Ok(Authorization {
        device_code,
        user_code: user_code.to_owned(),
        verification_uri: uri.to_owned(),
        expires_in: told("expires_in", DEFAULT_LIFE, MAX_LIFE),
        interval: told("interval", DEFAULT_INTERVAL, MAX_INTERVAL),
    })
}

/// Whether a person can be shown this, wherever it comes from.
pub fn can_be_shown(user_code: &str, verification_uri: &str) -> bool {
    is_user_code(user_code) && is_uri(verification_uri)
}

fn is_user_code(code: &str) -> bool {
    (1..=MAX_USER_CODE).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        && code.trim() == code
}

/// It is shown to people, who are to open it.
fn is_uri(uri: &str) -> bool {
    uri.len() <= MAX_URI
        && uri.bytes().all(|byte| byte.is_ascii_graphic())
        && Url::parse(uri).is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.has_host())
}
