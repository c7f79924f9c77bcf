//! How a client proves itself. Assertions would be further arms here.

use crate::config::Client;
use crate::refusal::Refusal;
use crate::state::State;
use crate::token::TokenRequest;

/// The client that the request is from, once it has proven itself.
pub(crate) fn authenticated(state: &State, request: &TokenRequest) -> Result<Client, Refusal> {
    let id = request.required("client_id")?;
    let client =
        state.clients.get(id).ok_or_else(|| Refusal::unknown_client(id, &state.tenant.domain))?.clone();
    match (&client.secret, request.param("client_secret")) {
        (None, Some(_)) => Err(Refusal::secret_on_public_client()),
        (Some(_), None) => Err(Refusal::secret_missing()),
        (Some(secret), Some(presented)) if secret != presented => Err(Refusal::wrong_secret(id)),
        (None, None) | (Some(_), Some(_)) => Ok(client),
    }
}
