//! One file for each grant. A grant is a function from the request to what is issued.

mod client_credentials;
mod refresh_token;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::random::digest;
use crate::refusal::Refusal;
use crate::state::State;
use crate::token::TokenRequest;

/// How long an ID token says it lives: Entra's answer is about an hour too.
const ID_TOKEN_SECONDS: u64 = 3_600;

/// What a grant issues.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) access_token: String,
    pub(crate) refresh_token: Option<String>,
    pub(crate) id_token: Option<String>,
    pub(crate) client_info: Option<String>,
    pub(crate) scope: Option<String>,
}

/// Applies the rules of the request's grant.
pub(crate) fn redeem(state: &mut State, request: &TokenRequest, now: u64) -> Result<Issued, Refusal> {
    let grant = request.required("grant_type")?;
    if !state.knows_tenant(&request.tenant) {
        return Err(Refusal::unknown_tenant(&request.tenant));
    }
    match grant {
        "refresh_token" => refresh_token::redeem(state, request, now),
        "client_credentials" => client_credentials::redeem(state, request, now),
        other => Err(Refusal::unsupported_grant(other)),
    }
}

/// `client_info`: which account this is, as MSAL wants it.
fn client_info(oid: &str, tenant_id: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!({"uid": oid, "utid": tenant_id}).to_string())
}

/// An ID token that nobody signed: a client that got it over TLS from the token endpoint need not verify it.
fn id_token(state: &State, client_id: &str, oid: &str, now: u64) -> String {
    let tenant_id = &state.tenant.id;
    let now_s = now / 1_000;
    let header = json!({"alg": "none", "typ": "JWT"});
    let claims = json!({
        "aud": client_id,
        "iss": format!("https://login.microsoftonline.com/{tenant_id}/v2.0"),
        "iat": now_s,
        "nbf": now_s,
        "exp": now_s + ID_TOKEN_SECONDS,
        "oid": oid,
        "preferred_username": state.user(oid).map(|user| user.upn.as_str()),
        // Pairwise, as Entra's: another client sees another subject.
        "sub": URL_SAFE_NO_PAD.encode(digest(&format!("{client_id}/{oid}")).get(..32).unwrap_or_default()),
        "tid": tenant_id,
        "ver": "2.0",
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(header), part(claims))
}
