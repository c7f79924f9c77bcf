//! The `client_credentials` grant (RFC 6749 section 4.4; Microsoft: "Microsoft identity platform and the OAuth 2.0
//! client credentials flow").

use super::{GrantKind, Proof, TokenRequest};

/// The form by which an app gets a token for itself.
pub fn request(client_id: &str, scopes: &[String], proof: Proof<'_>) -> TokenRequest {
    TokenRequest::new(client_id, GrantKind::ClientCredentials).with_scopes(scopes).with_proof(proof)
}
