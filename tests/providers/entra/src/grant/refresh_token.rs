//! `grant_type=refresh_token`.

use super::Issued;
use super::delegated::{self, SignedIn};
use crate::client_auth;
use crate::clock::millis;
use crate::config::Rotation;
use crate::random::digest;
use crate::refusal::Refusal;
use crate::scope::Scopes;
use crate::state::{RefreshToken, Standing, State};
use crate::token::TokenRequest;

pub(super) fn redeem(state: &mut State, request: &TokenRequest, now: u64) -> Result<Issued, Refusal> {
    let client = client_auth::authenticated(state, request, now)?;
    let asked = Scopes::parse(request.param("scope"))?;
    let key = digest(request.required("refresh_token")?);

    let token = usable(state, &key, &client.id, now)?;
    if token.single_page && !request.is_cross_origin {
        return Err(Refusal::refresh_token_of_a_single_page_app());
    }
    let user = state.user(&token.oid).cloned().ok_or_else(Refusal::refresh_token_revoked)?;
    let granted = delegated::granted(&asked, &token.scopes, &user)?;

    if let Some(used) = state.refresh_tokens.get_mut(&key) {
        used.last_used_ms = now;
    }
    let refresh_token = asked.offline_access.then(|| rotate(state, &key, &token, now));
    let signed_in = SignedIn { client_id: &client.id, oid: &user.oid };
    let issued = delegated::issue(state, request, signed_in, &asked, &granted, now);
    Ok(Issued { refresh_token, ..issued })
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
