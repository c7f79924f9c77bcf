//! `grant_type=refresh_token`.

use super::{Issued, client_info, id_token};
use crate::client_auth;
use crate::clock::millis;
use crate::config::{Rotation, User};
use crate::random::digest;
use crate::refusal::Refusal;
use crate::scope::{Scopes, short_name};
use crate::state::{RefreshToken, Standing, State};
use crate::token::TokenRequest;

pub(super) fn redeem(state: &mut State, request: &TokenRequest, now: u64) -> Result<Issued, Refusal> {
    let client = client_auth::authenticated(state, request)?;
    let asked = Scopes::parse(request.param("scope"))?;
    let key = digest(request.required("refresh_token")?);

    let token = usable(state, &key, &client.id, now)?;
    let user = state.user(&token.oid).cloned().ok_or_else(Refusal::refresh_token_revoked)?;
    let granted = granted(&asked, &token, &user)?;

    if let Some(used) = state.refresh_tokens.get_mut(&key) {
        used.last_used_ms = now;
    }
    let refresh_token = asked.offline_access.then(|| rotate(state, &key, &token, now));
    let access_token = state.access_token(&client.id, Some(&user.oid), &granted, now);
    let scope: Vec<_> = granted.iter().chain(&asked.identity).map(String::as_str).collect();
    Ok(Issued {
        access_token,
        refresh_token,
        id_token: asked.openid().then(|| id_token(state, &client.id, &user.oid, now)),
        client_info: (request.param("client_info") == Some("1"))
            .then(|| client_info(&user.oid, &state.tenant.id)),
        scope: Some(scope.join(" ")),
    })
}

/// The presented token's record, if it may be redeemed.
fn usable(state: &mut State, key: &str, client_id: &str, now: u64) -> Result<RefreshToken, Refusal> {
    let token = state.refresh_tokens.get(key).cloned().ok_or_else(Refusal::refresh_token_unknown)?;
    if token.client_id != client_id {
        return Err(Refusal::refresh_token_of_another_client());
    }
    match token.standing {
        Standing::Revoked => return Err(Refusal::refresh_token_revoked()),
        Standing::Spent => {
            // A replay: whoever holds the successor may be a thief.
            state.revoke_family(token.family);
            return Err(Refusal::refresh_token_unknown());
        }
        Standing::Live => {}
    }
    let idle = now.saturating_sub(token.last_used_ms);
    if idle >= millis(state.settings.refresh_token_lifetime) {
        return Err(Refusal::refresh_token_expired());
    }
    Ok(token)
}

/// A new refresh token beside, or in place of, the one presented.
fn rotate(state: &mut State, key: &str, token: &RefreshToken, now: u64) -> String {
    if state.settings.rotation == Rotation::Strict
        && let Some(used) = state.refresh_tokens.get_mut(key)
    {
        used.standing = Standing::Spent;
    }
    state.successor(token, now)
}

/// The scopes of the access token, spelled as asked.
fn granted(asked: &Scopes, token: &RefreshToken, user: &User) -> Result<Vec<String>, Refusal> {
    if let Some(prefix) = &asked.default_of {
        let all = user.consented.as_ref().unwrap_or(&token.scopes);
        return Ok(all.iter().map(|scope| format!("{prefix}{}", short_name(scope))).collect());
    }
    if asked.named.is_empty() {
        return Ok(token.scopes.clone());
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
