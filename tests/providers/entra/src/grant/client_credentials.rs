//! `grant_type=client_credentials`.

use super::Issued;
use crate::client_auth;
use crate::refusal::Refusal;
use crate::scope::Scopes;
use crate::state::{State, is_multi_tenant};
use crate::token::TokenRequest;

pub(super) fn redeem(state: &mut State, request: &TokenRequest, now: u64) -> Result<Issued, Refusal> {
    if is_multi_tenant(&request.tenant) {
        return Err(Refusal::tenant_needed());
    }
    if request.param("client_secret").is_none() && request.param("client_assertion").is_none() {
        return Err(Refusal::proof_needed_for_client_credentials());
    }
    let client = client_auth::authenticated(state, request, now)?;
    let scope = request.required("scope")?;
    let asked = Scopes::parse(Some(scope)).map_err(|_| Refusal::app_scope_not_default(scope))?;
    if asked.default_of.is_none() || asked.offline_access || !asked.identity.is_empty() {
        return Err(Refusal::app_scope_not_default(scope));
    }
    Ok(Issued {
        access_token: state.access_token(&client.id, None, &client.app_roles, now),
        refresh_token: None,
        id_token: None,
        client_info: None,
        // Entra does not repeat the scope here.
        scope: None,
    })
}
