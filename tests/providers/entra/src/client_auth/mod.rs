//! How a client proves itself: by nothing, a secret, or an assertion.

mod certificate;
mod federated;
mod jwks;
mod jwt;

use std::collections::{HashMap, HashSet};

pub use self::certificate::{Certificate, InvalidCertificate};
pub use self::federated::{FederatedCredential, TOKEN_EXCHANGE_AUDIENCE};
pub use self::jwks::Jwks;
pub(crate) use self::jwks::fetch_keys;
use self::jwt::Jwt;
use crate::config::Client;
use crate::journal::AssertionEntry;
use crate::random::digest;
use crate::refusal::Refusal;
use crate::state::State;
use crate::token::TokenRequest;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What is remembered of assertions.
#[derive(Debug, Default)]
pub(crate) struct Assertions {
    /// Digests of those received.
    seen: HashSet<String>,
    /// Digests of client and `jti` of those accepted, and when they expire, in seconds since the epoch.
    accepted: HashMap<String, u64>,
    /// The keys fetched, or why not, by address.
    fetched: HashMap<String, Result<jwks::KeySet, String>>,
}

/// The client that the request is from, once it has proven itself.
pub(crate) fn authenticated(state: &mut State, request: &TokenRequest, now: u64) -> Result<Client, Refusal> {
    let id = request.required("client_id")?;
    let client =
        state.clients.get(id).ok_or_else(|| Refusal::unknown_client(id, &state.tenant.domain))?.clone();
    match (request.param("client_secret"), request.param("client_assertion")) {
        (None, None) if client.is_confidential() => Err(Refusal::proof_missing()),
        (None, None) => Ok(client),
        _ if !client.is_confidential() => Err(Refusal::proof_of_public_client()),
        (Some(_), Some(_)) => Err(Refusal::two_proofs()),
        (Some(secret), None) if client.secret.as_deref() == Some(secret) => Ok(client),
        (Some(_), None) => Err(Refusal::wrong_secret(id)),
        (None, Some(assertion)) => {
            if request.param("client_assertion_type") != Some(ASSERTION_TYPE) {
                return Err(Refusal::assertion_type_unknown());
            }
            let jwt = Jwt::parse(assertion)?;
            // Who signs for itself has a certificate; any other issuer is a federated one.
            if jwt.claims.iss.as_deref() == Some(id) {
                certificate::verify(state, request, &client, &jwt, now)?;
            } else {
                federated::verify(state, &client, &jwt, now)?;
            }
            Ok(client)
        }
    }
}

/// What the journal says of the request's assertion. The assertion counts as seen from now on.
pub(crate) fn entry(state: &mut State, request: &TokenRequest) -> Option<AssertionEntry> {
    let assertion = request.param("client_assertion")?;
    let sha256 = digest(assertion);
    let seen_before = !state.assertions.seen.insert(sha256.clone());
    let entry = AssertionEntry { sha256, seen_before, ..AssertionEntry::default() };
    let Ok(Jwt { header, claims, .. }) = Jwt::parse(assertion) else {
        return Some(entry);
    };
    Some(AssertionEntry {
        lifetime_seconds: claims.exp.zip(claims.nbf).map(|(exp, nbf)| exp.saturating_sub(nbf)),
        jti_sha256: claims.jti.as_deref().map(digest),
        algorithm: Some(header.alg),
        key: header.x5t_s256.or(header.kid),
        issuer: claims.iss,
        subject: claims.sub,
        audience: claims.aud,
        ..entry
    })
}
