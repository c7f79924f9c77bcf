//! Refresh tokens that are new to us: in the seed, and in the login Secret. They go first, and never hold up the sign-in that is
//! kept.

use jiff::Timestamp;

use super::{Exchange, Problem, Source, Want, account_problem, chain_is_usable, earliest, invalid};
use crate::desired::Desired;
use crate::observed::{Credential, Observed, RejectedSignIn, SeedState, hash_of};

/// Where a refresh token is that was neither adopted nor rejected. What a person just signed in with goes before what GitOps keeps.
pub(super) fn new_sign_in(
    desired: &Desired,
    observed: &Observed,
    credential: Option<&Credential>,
) -> Option<Source> {
    // Where nothing is kept, a seed that was rejected is all there is to try.
    let counts = |source| source == Source::Login || credential.is_some_and(|c| chain_is_usable(desired, c));
    [Source::Login, Source::Seed].into_iter().find(|source| {
        digest(observed, *source).is_some_and(|digest| {
            let rejected = counts(*source) && rejection(observed, credential, digest).is_some();
            !rejected && !was_adopted(digest, credential)
        })
    })
}

/// The digest of the refresh token that a new sign-in would send.
fn digest(observed: &Observed, source: Source) -> Option<&String> {
    let found = match source {
        Source::Login => &observed.login,
        Source::Seed => &observed.seed,
        Source::Chain | Source::DeviceStart | Source::DevicePoll | Source::Client => return None,
    };
    if let SeedState::Found { digest } = found { Some(digest) } else { None }
}

/// Hash of everything that a token request is made with: spec, client credential and, of a new sign-in, its refresh token. A failure
/// that is noted with [`Observed::inputs`] alone concerns any request.
pub fn made_with(observed: &Observed, source: Source) -> String {
    hash_of([Some(observed.inputs.as_str()), digest(observed, source).map(String::as_str)])
}

/// Whether there is a sign-in that continues if a new one is rejected.
pub fn keeps_a_sign_in(desired: &Desired, observed: &Observed) -> bool {
    let credential = observed.credential();
    credential.is_some_and(|c| chain_is_usable(desired, c) && account_problem(desired, c).is_none())
}

/// Whether the latest failure, of a token request or of the store, is that of a sign-in that is still new.
pub(super) fn failed_last(desired: &Desired, observed: &Observed) -> bool {
    let token = observed.status.last_failure.as_ref().map(|failure| (failure.time, &failure.inputs));
    let storage =
        observed.status.last_storage_failure.as_ref().map(|failure| (failure.time, &failure.inputs));
    let latest = [token, storage].into_iter().flatten().max_by_key(|(time, _)| *time);
    let source = new_sign_in(desired, observed, observed.credential());
    latest.zip(source).is_some_and(|((_, inputs), source)| *inputs == Some(made_with(observed, source)))
}

/// A new sign-in goes first. While it has to wait, the one that is kept is refreshed when it is due; and where both could be tried,
/// the one that failed last gives way.
pub(super) fn new_or_kept(
    new: Exchange,
    kept: Want,
    desired: &Desired,
    observed: &Observed,
    now: Timestamp,
) -> Want {
    if let Want::Exchange(refresh, at) = kept
        && refresh.source == Source::Chain
    {
        let kept_at = earliest(desired, observed, Source::Chain, at, now).max(now);
        let new_at = earliest(desired, observed, new.source, now, now).max(now);
        let kept_goes_first =
            if failed_last(desired, observed) { kept_at <= new_at } else { kept_at < new_at };
        if kept_goes_first {
            return kept;
        }
    }
    Want::Exchange(new, now)
}

/// Whether a refresh token was adopted before, or is the one that is kept.
pub fn was_adopted(digest: &String, credential: Option<&Credential>) -> bool {
    credential.is_some_and(|c| {
        c.record.seed_digests.contains(digest) || c.refresh_token_digest.as_ref() == Some(digest)
    })
}

/// Whether and why this refresh token was rejected, under this spec and with this client credential: a change of those gives it
/// another chance.
fn rejection<'a>(
    observed: &Observed,
    credential: Option<&'a Credential>,
    digest: &str,
) -> Option<&'a RejectedSignIn> {
    let record = &credential?.record;
    let noted = [&record.rejected_login, &record.rejected_seed].into_iter().flatten();
    noted.into_iter().find(|r| r.digest == digest && r.made_with_hash == observed.inputs)
}

/// A login Secret that is of no use stays until a person sees to it; the sign-in that is kept goes on meanwhile.
pub(super) fn login_problem(observed: &Observed) -> Option<Problem> {
    match &observed.login {
        SeedState::Malformed(message) => Some(invalid(message.clone())),
        SeedState::Found { digest } => {
            let rejected = rejection(observed, observed.credential(), digest)?;
            let message = format!("the login Secret was refused: {}", rejected.message);
            Some(Problem::new(rejected.reason.clone(), message))
        }
        SeedState::Unneeded | SeedState::Missing(_) => None,
    }
}

/// What is wrong with a seed beside a sign-in that is kept, and, if it was rejected, the digest of its refresh token. No condition
/// speaks of it. It comes from the record, so that a process that was killed right after a rejection takes no report along.
pub fn seed_problem(desired: &Desired, observed: &Observed) -> Option<(Option<String>, String)> {
    let kept = observed.credential().filter(|c| chain_is_usable(desired, c));
    kept?;
    match &observed.seed {
        SeedState::Malformed(why) => {
            Some((None, format!("the seed cannot be used, and the sign-in that is kept goes on: {why}")))
        }
        SeedState::Found { digest } => {
            let rejected = rejection(observed, kept, digest).filter(|_| !was_adopted(digest, kept))?;
            let why = &rejected.message;
            let note = format!("the seed was rejected, and the sign-in that is kept goes on: {why}");
            Some((Some(digest.clone()), note))
        }
        SeedState::Unneeded | SeedState::Missing(_) => None,
    }
}
