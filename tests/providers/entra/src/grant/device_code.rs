//! `grant_type=urn:ietf:params:oauth:grant-type:device_code`.

use super::Issued;
use super::delegated::{self, SignedIn};
use crate::client_auth;
use crate::device::DeviceStanding;
use crate::random::digest;
use crate::refusal::Refusal;
use crate::scope::Scopes;
use crate::state::{State, default_scopes, new_refresh_token};
use crate::token::TokenRequest;

pub(super) fn redeem(state: &mut State, request: &TokenRequest, now: u64) -> Result<Issued, Refusal> {
    let client = client_auth::authenticated(state, request, now)?;
    let key = digest(request.required("device_code")?);
    let flow = state.settings.device;
    let code = state.device_codes.get_mut(&key).filter(|code| code.client_id == client.id);
    let code = code.ok_or_else(Refusal::device_code_unknown)?;
    let oid = code.poll(&flow, now)?;
    let asked = Scopes::parse(Some(&code.scopes.join(" ")))?;

    let user = state.user(&oid).cloned().ok_or_else(Refusal::refresh_token_revoked)?;
    let granted = delegated::granted(&asked, &default_scopes(), &user)?;
    if let Some(code) = state.device_codes.get_mut(&key) {
        code.standing = DeviceStanding::Redeemed;
    }
    let refresh_token = asked.offline_access.then(|| {
        let token = new_refresh_token();
        state.sign_in(&token, &client.id, &oid, &granted, now);
        token
    });
    let signed_in = SignedIn { client_id: &client.id, oid: &oid };
    let issued = delegated::issue(state, request, signed_in, &asked, &granted, now);
    Ok(Issued { refresh_token, ..issued })
}
