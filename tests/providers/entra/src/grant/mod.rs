//! One file for each grant. A grant is a function from the request to what is issued.

mod authorization_code;
mod client_credentials;
mod delegated;
mod device_code;
mod refresh_token;

use crate::refusal::Refusal;
use crate::state::State;
use crate::token::TokenRequest;

/// The name of [`DEVICE_CODE_URN`] in the journal and in faults.
pub(crate) const DEVICE_CODE: &str = "device_code";
const DEVICE_CODE_URN: &str = "urn:ietf:params:oauth:grant-type:device_code";

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
        "authorization_code" => authorization_code::redeem(state, request, now),
        "refresh_token" => refresh_token::redeem(state, request, now),
        DEVICE_CODE_URN => device_code::redeem(state, request, now),
        "client_credentials" => client_credentials::redeem(state, request, now),
        other => Err(Refusal::unsupported_grant(other)),
    }
}

/// What a `grant_type` is called in the journal and in faults.
pub(crate) fn name(grant_type: &str) -> &str {
    if grant_type == DEVICE_CODE_URN { DEVICE_CODE } else { grant_type }
}
