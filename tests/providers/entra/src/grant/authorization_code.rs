//! `grant_type=authorization_code`.

use super::Issued;
use super::delegated::{self, SignedIn};
use crate::client_auth;
use crate::random::digest;
use crate::refusal::Refusal;
use crate::scope::Scopes;
use crate::state::{State, default_scopes, new_refresh_token};
use crate::token::TokenRequest;

pub(super) fn redeem(state: &mut State, request: &TokenRequest, now: u64) -> Result<Issued, Refusal> {
    let client = client_auth::authenticated(state, request, now)?;
    let key = digest(request.required("code")?);
    let redirect_uri = request.required("redirect_uri")?;
    let code = state.authorization_codes.get(&key).filter(|code| code.client_id == client.id).cloned();
    let code = code.ok_or_else(Refusal::code_unknown)?;
    if code.redeemed {
        return Err(Refusal::code_redeemed());
    }
    if now >= code.expires_ms {
        return Err(Refusal::code_expired());
    }
    if code.redirect_uri != redirect_uri {
        return Err(Refusal::redirect_uri_differs());
    }
    if !code.verifies(request.param("code_verifier")) {
        return Err(Refusal::verifier_differs());
    }
    let asked = Scopes::parse(Some(&code.scopes.join(" ")))?;
    let user = state.user(&code.oid).cloned().ok_or_else(Refusal::refresh_token_revoked)?;
    let granted = delegated::granted(&asked, &default_scopes(), &user)?;
    if let Some(code) = state.authorization_codes.get_mut(&key) {
        code.redeemed = true;
    }
    let refresh_token = asked.offline_access.then(|| {
        let token = new_refresh_token();
        state.sign_in(&token, &client.id, &user.oid, &granted, now);
        token
    });
    let signed_in = SignedIn { client_id: &client.id, oid: &user.oid };
    let issued = delegated::issue(state, request, signed_in, &asked, &granted, now);
    Ok(Issued { refresh_token, ..issued })
}
