//! What the grants of a signed-in user have in common.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::Issued;
use crate::config::User;
use crate::random::digest;
use crate::refusal::Refusal;
use crate::scope::{Scopes, short_name};
use crate::state::State;
use crate::token::TokenRequest;

/// How long an ID token says it lives: Entra's answer is about an hour too.
const ID_TOKEN_SECONDS: u64 = 3_600;

/// Whom tokens are for.
pub(super) struct SignedIn<'a> {
    pub(super) client_id: &'a str,
    pub(super) oid: &'a str,
}

/// Issues an access token with the scopes granted, and what else was asked for.
pub(super) fn issue(
    state: &mut State,
    request: &TokenRequest,
    SignedIn { client_id, oid }: SignedIn<'_>,
    asked: &Scopes,
    granted: &[String],
    now: u64,
) -> Issued {
    let scope: Vec<_> = granted.iter().chain(&asked.identity).map(String::as_str).collect();
    Issued {
        access_token: state.access_token(client_id, Some(oid), granted, now),
        refresh_token: None,
        id_token: asked.openid().then(|| id_token(state, client_id, oid, now)),
        client_info: (request.param("client_info") == Some("1")).then(|| client_info(oid, &state.tenant.id)),
        scope: Some(scope.join(" ")),
    }
}

/// The scopes of the access token, spelled as asked; those of the `sign_in` if none is named.
pub(super) fn granted(asked: &Scopes, sign_in: &[String], user: &User) -> Result<Vec<String>, Refusal> {
    if let Some(prefix) = &asked.default_of {
        let all = user.consented.as_deref().unwrap_or(sign_in);
        return Ok(all.iter().map(|scope| format!("{prefix}{}", short_name(scope))).collect());
    }
    if asked.named.is_empty() {
        return Ok(sign_in.to_vec());
    }
    if let Some(consented) = &user.consented
        && let Some(refused) = asked
            .named
            .iter()
            .find(|scope| !consented.iter().any(|consent| consent.eq_ignore_ascii_case(short_name(scope))))
    {
        return Err(Refusal::consent_missing(refused));
    }
    Ok(asked.named.clone())
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
