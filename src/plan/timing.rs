//! When: due times, back-off after failures, and what is to be warned of in time.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{HOURLY, Source, at_hand, keeps_a_sign_in, made_with, silence};
use crate::api::Reason;
use crate::desired::{Desired, RefreshPolicy};
use crate::observed::{Observed, TokenFacts};

/// How long before a refresh token's end a warning is given.
const WARNING_AHEAD: SignedDuration = SignedDuration::from_hours(14 * 24);
/// Two refreshes of one `GraphToken` are never closer than this.
pub(super) const SPACING: SignedDuration = SignedDuration::from_secs(1);
/// After a failure the next attempt is never sooner, also if a refresh is requested, while pods hold a token that is good for a while.
const AFTER_FAILURE: i64 = 5;
/// Clocks of two nodes differ by less than this. What was noted further in the future was noted before our clock was set back.
pub(super) const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(1);

/// The earliest time for a token request that is to be made at `at`.
pub(super) fn earliest(
    desired: &Desired,
    observed: &Observed,
    source: Source,
    at: Timestamp,
    now: Timestamp,
) -> Timestamp {
    let held_up = [gate(desired, observed, source, now), spacing(observed, now)];
    held_up.into_iter().flatten().fold(at, Timestamp::max)
}

/// The earliest time for another attempt after a failure; `None`: no failure holds anything up.
///
/// The status holds the latest failure of a token request only, be it of a new sign-in or of the one that is kept. What a person
/// must act on holds up the one that failed; a provider or a store that fails holds up both.
pub(super) fn gate(
    desired: &Desired,
    observed: &Observed,
    source: Source,
    now: Timestamp,
) -> Option<Timestamp> {
    storage_gate(desired, observed, source, now).max(token_gate(desired, observed, source, now))
}

/// The same after a failure of the store.
fn storage_gate(desired: &Desired, observed: &Observed, source: Source, now: Timestamp) -> Option<Timestamp> {
    let failed_at = Timestamp::from(observed.status.last_storage_failure.as_ref()?.time);
    if is_ahead(failed_at, now) {
        return None;
    }
    let as_before = publish_gate(observed, now).filter(|_| !requested(desired, observed, source));
    Some(as_before.unwrap_or_else(|| after_failure(observed, failed_at)))
}

/// The same after a failed token request.
fn token_gate(desired: &Desired, observed: &Observed, source: Source, now: Timestamp) -> Option<Timestamp> {
    let failure = observed.status.last_failure.as_ref()?;
    let failed_at = Timestamp::from(failure.time);
    if is_ahead(failed_at, now) {
        return None;
    }
    let failures = observed.status.consecutive_failures;
    let wait = match failure.reason.known() {
        // It was said to the client that the spec named before.
        Some(Reason::Throttled) if !silence::told_itself(desired, observed) => return None,
        Some(Reason::Throttled) => {
            let asked = failure.retry_after.map_or(failed_at, Timestamp::from);
            return Some(asked.max(plus(failed_at, doubling(failures, 5, 60))));
        }
        // What it is made with has changed, or a user asks: that passes over back-off, though not over throttling.
        _ if requested(desired, observed, source) || !is_as_before(observed, failure.inputs.as_ref()) => {
            return Some(after_failure(observed, failed_at));
        }
        Some(reason) if reason.needs_a_person() && !concerns(observed, failure.inputs.as_ref(), source) => {
            return Some(after_failure(observed, failed_at));
        }
        // What was wrong is not watched: whoever noted it knows when it is worth another look.
        Some(reason) if reason.needs_a_person() => match failure.retry_after {
            Some(at) => return Some(Timestamp::from(at)),
            None => HOURLY,
        },
        _ => backoff(observed, failed_at, failures),
    };
    Some(plus(failed_at, wait))
}

/// Whether a user asks for this. A request is handled by the sign-in that is kept, where there is one.
fn requested(desired: &Desired, observed: &Observed, source: Source) -> bool {
    let is_new = matches!(source, Source::Seed | Source::Login);
    observed.requested() && !(is_new && keeps_a_sign_in(desired, observed))
}

/// Whether what failed is what would be tried now, with a new sign-in or with the one that is kept.
fn is_as_before(observed: &Observed, made_with_hash: Option<&String>) -> bool {
    let sources = [Source::Chain, Source::Seed, Source::Login];
    sources.into_iter().any(|source| concerns(observed, made_with_hash, source))
}

fn concerns(observed: &Observed, made_with_hash: Option<&String>, source: Source) -> bool {
    made_with_hash == Some(&observed.inputs) || made_with_hash == Some(&made_with(observed, source))
}

/// The earliest time for any attempt after one that failed.
fn after_failure(observed: &Observed, failed_at: Timestamp) -> Timestamp {
    plus(failed_at, backoff(observed, failed_at, 1))
}

/// Publishing costs the provider nothing: only a store that failed holds it up. A request asks for an exchange: it would
/// wait here, and pass over every back-off meanwhile.
pub(super) fn publish_gate(observed: &Observed, now: Timestamp) -> Option<Timestamp> {
    let failure = observed.status.last_storage_failure.as_ref()?;
    let failed_at = Timestamp::from(failure.time);
    (is_as_before(observed, failure.inputs.as_ref()) && !is_ahead(failed_at, now))
        .then(|| plus(failed_at, backoff(observed, failed_at, observed.status.consecutive_failures)))
}

/// Doubles from 5 s to 25 s, so that half a minute after the trouble is over all is well again; while pods hold a valid token never above a quarter of what is left of its life.
fn backoff(observed: &Observed, failed_at: Timestamp, failures: u32) -> SignedDuration {
    let doubled = doubling(failures, AFTER_FAILURE, 25);
    let left = observed
        .served()
        .map(|token| token.expires_at.duration_since(failed_at))
        .filter(SignedDuration::is_positive);
    left.map_or(doubled, |left| doubled.min((left / 4).max(SPACING)))
}

pub(super) fn doubling(failures: u32, first: i64, most: i64) -> SignedDuration {
    let doubled = first.saturating_mul(1_i64 << failures.saturating_sub(1).min(20));
    SignedDuration::from_secs(doubled.min(most))
}

/// Counts from the newest token of any spec, and from the new sign-in that was rejected last.
fn spacing(observed: &Observed, now: Timestamp) -> Option<Timestamp> {
    let stored = observed.credential().and_then(|c| c.record.token.as_ref()).map(|token| &token.facts);
    let tokens = [stored, observed.in_hand.as_ref(), observed.served()];
    let issued = tokens.into_iter().flatten().map(|token| token.issued_at);
    let issued = issued.filter(|at| !is_ahead(*at, now)).map(|at| plus(at, SPACING));
    let record = observed.credential().map(|c| &c.record);
    let rejected = record.into_iter().flat_map(|record| [&record.rejected_seed, &record.rejected_login]);
    let rejected = rejected.flatten().map(|rejected| rejected.time).filter(|at| !is_ahead(*at, now));
    issued.chain(rejected.map(|at| after_failure(observed, at))).max()
}

/// Whether a time that was noted lies in the future: nothing can be counted from it.
pub(crate) fn is_ahead(noted: Timestamp, now: Timestamp) -> bool {
    noted > plus(now, CLOCK_TOLERANCE)
}

pub(crate) fn plus(at: Timestamp, wait: SignedDuration) -> Timestamp {
    at.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// When a token is due for a refresh: what the policy and the provider ask for, moved up to a tenth earlier by a hash of
/// UID and expiry, so that tokens issued together do not come due together.
pub fn due(policy: RefreshPolicy, token: &TokenFacts, uid: &str) -> Timestamp {
    let life = token.expires_at.duration_since(token.issued_at).max(SignedDuration::ZERO);
    let asked = match policy {
        RefreshPolicy::Percentage(percentage) => life / 100 * i32::from(100_u8.saturating_sub(percentage)),
        RefreshPolicy::Before(_) if renew_before_is_too_long(policy, life) => life / 2,
        RefreshPolicy::Before(before) => {
            life - SignedDuration::try_from(before).unwrap_or(SignedDuration::MAX)
        }
    };
    let hinted =
        token.refresh_at.map(|at| at.duration_since(token.issued_at)).filter(SignedDuration::is_positive);
    let wait = hinted.map_or(asked, |hinted| hinted.min(asked));
    plus(token.issued_at, wait - wait / 10_000 * jitter(uid, token.expires_at))
}

/// Whether `renewBefore` leaves less than a tenth of a token's life: half of the life is used then, with a warning.
pub fn renew_before_is_too_long(policy: RefreshPolicy, life: SignedDuration) -> bool {
    matches!(policy, RefreshPolicy::Before(before)
        if SignedDuration::try_from(before).map_or(true, |before| before >= life / 10 * 9))
}

/// 0–1000 ten-thousandths, the same for the same token of the same `GraphToken`.
pub(super) fn jitter(uid: &str, expires_at: Timestamp) -> i32 {
    let mut hash = Sha256::new();
    hash.update(uid);
    hash.update(expires_at.as_millisecond().to_be_bytes());
    let digest = hash.finalize();
    i32::from(u16::from_be_bytes([digest[0], digest[1]]) % 1001)
}

/// When it is time to warn that the refresh token dies for want of use: as long before as a person may be on holiday.
pub(super) fn dies_soon_from(observed: &Observed) -> Option<Timestamp> {
    let dies = Timestamp::from(observed.status.refresh_token_expires_at?);
    dies.saturating_sub(WARNING_AHEAD).ok()
}

/// Says that the refresh token dies soon, if it does.
pub fn refresh_token_warning(observed: &Observed, now: Timestamp) -> Option<String> {
    let dies = observed.status.refresh_token_expires_at?;
    dies_soon_from(observed).filter(|from| *from <= now)?;
    Some(format!(
        "the refresh token has not been used for long and dies about {dies}: see in the conditions why it is not refreshed, \
         or a user must sign in again"
    ))
}

/// The refresh policy's warning for the token at hand, if there is one.
pub fn policy_warning(desired: &Desired, observed: &Observed) -> Option<String> {
    let token = at_hand(desired, observed)?;
    let life = token.expires_at.duration_since(token.issued_at);
    renew_before_is_too_long(desired.refresh, life).then(|| {
        format!(
            "spec.refresh.renewBefore leaves less than a tenth of the token's life of {}s: it is refreshed at half of its life",
            life.as_secs()
        )
    })
}
