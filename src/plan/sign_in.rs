//! Refresh tokens that are new to us: in the seed, and in the login Secret.

use super::{Problem, Source, chain_is_usable, invalid};
use crate::desired::Desired;
use crate::observed::{Credential, Observed, SeedState};

/// Where a refresh token is that is new to us. What a person just signed in with goes before what GitOps keeps.
pub(super) fn new_sign_in(
    desired: &Desired,
    observed: &Observed,
    credential: Option<&Credential>,
) -> Option<Source> {
    if new_login(observed, credential) {
        return Some(Source::Login);
    }
    new_seed(desired, observed, credential).then_some(Source::Seed)
}

/// Whether the login Secret holds a refresh token that was neither adopted nor refused.
fn new_login(observed: &Observed, credential: Option<&Credential>) -> bool {
    let SeedState::Found { digest } = &observed.login else { return false };
    let refused = credential.and_then(|c| c.record.rejected_login.as_ref());
    refused.is_none_or(|login| login.digest != *digest) && !was_adopted(digest, credential)
}

/// Whether a refresh token was adopted before, or is the one that is kept.
pub fn was_adopted(digest: &String, credential: Option<&Credential>) -> bool {
    credential.is_some_and(|c| {
        c.record.seed_digests.contains(digest) || c.refresh_token_digest.as_ref() == Some(digest)
    })
}

/// A login Secret that is of no use stays until a person sees to it; the sign-in that is kept goes on meanwhile.
pub(super) fn login_problem(observed: &Observed) -> Option<Problem> {
    match &observed.login {
        SeedState::Malformed(message) => Some(invalid(message.clone())),
        SeedState::Found { digest } => {
            let refused = observed.credential().and_then(|c| c.record.rejected_login.as_ref());
            let refused = refused.filter(|login| login.digest == *digest)?;
            let message = format!("the login Secret was refused: {}", refused.message);
            Some(Problem { reason: refused.reason, message })
        }
        SeedState::Unneeded | SeedState::Missing(_) => None,
    }
}

/// Whether the seed holds a refresh token that was neither adopted nor, while a chain goes on, refused before.
fn new_seed(desired: &Desired, observed: &Observed, credential: Option<&Credential>) -> bool {
    let SeedState::Found { digest } = &observed.seed else { return false };
    let refused = credential.is_some_and(|c| {
        c.record.rejected_seed_digest.as_ref() == Some(digest) && chain_is_usable(desired, c)
    });
    !refused && !was_adopted(digest, credential)
}
