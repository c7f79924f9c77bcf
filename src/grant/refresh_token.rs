//! The `refresh_token` grant (RFC 6749 section 6; Microsoft: "Microsoft identity platform and OAuth 2.0 authorization
//! code flow", "Refresh the access token").

use secrecy::SecretString;

use super::{GrantKind, Proof, TokenRequest};

/// The form by which a refresh token is exchanged. `scopes` must have `offline_access`, or Entra sends no new refresh
/// token back.
pub fn request(
    client_id: &str,
    refresh_token: &SecretString,
    scopes: &[String],
    proof: Proof<'_>,
) -> TokenRequest {
    TokenRequest::new(client_id, GrantKind::RefreshToken)
        .with("refresh_token", refresh_token.clone())
        .with_scopes(scopes)
        // As MSAL does: it is how Entra says whose token it is. Others ignore it.
        .with("client_info", "1")
        .with_proof(proof)
}
