//! Assertions that another issuer signs for a client: the token of a Kubernetes service account, as a rule.

use serde::Deserialize;

use super::jwks::{self, Jwks};
use super::jwt::Jwt;
use crate::config::Client;
use crate::refusal::Refusal;
use crate::state::State;

/// The audience of such assertions in the public cloud.
pub const TOKEN_EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";

/// Whose tokens prove a client. All of them are compared as they are written, letter by letter.
#[derive(Clone, Debug, Deserialize)]
pub struct FederatedCredential {
    /// The `iss`.
    pub issuer: String,
    /// The `sub`, as in `system:serviceaccount:pipelines:etl`.
    pub subject: String,
    /// The `aud`.
    #[serde(default = "token_exchange")]
    pub audience: String,
    /// The issuer's keys.
    #[serde(flatten)]
    pub keys: Jwks,
}

impl FederatedCredential {
    /// A credential for tokens with [`TOKEN_EXCHANGE_AUDIENCE`].
    pub fn new(issuer: impl Into<String>, subject: impl Into<String>, keys: Jwks) -> Self {
        Self { issuer: issuer.into(), subject: subject.into(), audience: token_exchange(), keys }
    }
}

fn token_exchange() -> String {
    TOKEN_EXCHANGE_AUDIENCE.to_owned()
}

/// A federated assertion may come again while it lives: the journal tells whether it did.
pub(super) fn verify(state: &State, client: &Client, jwt: &Jwt<'_>, now: u64) -> Result<(), Refusal> {
    let keys = &matching(client, jwt)?.keys;
    let keys = jwks::keys(&state.assertions, keys).map_err(|why| Refusal::federated_keys(&why))?;
    keys.verify(jwt)?;
    jwt.in_time(now / 1_000)?;
    Ok(())
}

/// The credential that the assertion is for; or what of it fits none.
pub(super) fn matching<'a>(client: &'a Client, jwt: &Jwt<'_>) -> Result<&'a FederatedCredential, Refusal> {
    let claims = &jwt.claims;
    let issuer = |credential: &&FederatedCredential| Some(&credential.issuer) == claims.iss.as_ref();
    let subject = |credential: &&FederatedCredential| Some(&credential.subject) == claims.sub.as_ref();
    let audience = |credential: &&FederatedCredential| claims.aud.contains(&credential.audience);

    let all = || client.federated.iter();
    all().next().ok_or_else(Refusal::no_federated_credential)?;
    all().find(issuer).ok_or_else(Refusal::federated_issuer)?;
    let of_subject = || all().filter(issuer).filter(subject);
    of_subject().next().ok_or_else(Refusal::federated_subject)?;
    of_subject().find(audience).ok_or_else(Refusal::federated_audience)
}
