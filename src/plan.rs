//! `plan(desired, observed, now)` → what to do next, when to look again, and why nothing is done. Pure and deterministic:
//! due times and failure counts come from what is persisted, jitter from a hash, so a restart neither stampedes nor forgets.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::api::Reason;
use crate::api::status::LastFailure;
use crate::desired::{Desired, Grant, RefreshPolicy};
use crate::observed::{
    ChainClient, Credential, CredentialState, Observed, ProofState, SeedState, TargetState, TokenFacts,
};
use crate::render::layout_digest;
use crate::throttle::{self, Silence};

mod device;

/// A failure that only a person can mend is tried again this often, in case it was mended where we cannot see.
const HOURLY: SignedDuration = SignedDuration::from_hours(1);
/// Two refreshes of one `GraphToken` are never closer than this.
const SPACING: SignedDuration = SignedDuration::from_secs(1);
/// Clocks of two nodes differ by less than this. What was noted further in the future was noted before our clock was set back.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(1);
/// Somebody else's write-ahead record must stand unchanged for this long before it is taken over.
pub const PENDING_STANDS: Duration = Duration::from_secs(3);

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Nothing until the next look.
    Wait,
    /// Get a token from the provider.
    Exchange(Exchange),
    /// Write the newest token into the target.
    Publish,
}

/// An exchange with the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// Why now.
    pub why: Why,
    /// What is sent.
    pub source: Source,
}

/// Why an exchange takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The seed, or the login Secret, holds a refresh token that is new to us.
    NewSeed,
    /// A user is to sign in, or is at it.
    SignIn,
    /// There is no token for this spec.
    NoToken,
    /// A user asked for it.
    Requested,
    /// The token is due for a refresh, or has run out.
    Due,
    /// The attempt before failed.
    Retry,
    /// An exchange was begun and never settled.
    Recovery,
}

/// What an exchange sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The refresh token of the chain.
    Chain,
    /// The refresh token of the seed.
    Seed,
    /// The refresh token of the login Secret.
    Login,
    /// What asks for a device code.
    DeviceStart,
    /// The device code that waits for a user.
    DevicePoll,
    /// The client's proof alone.
    Client,
}

/// Something that stands in the way without an attempt having been made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The reason in the conditions.
    pub reason: Reason,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub act: Act,
    /// When to look again at the latest; `None`: only when something changes.
    pub look_at: Option<Timestamp>,
    /// When the next exchange is to be made.
    pub next_exchange: Option<Timestamp>,
    /// What stands in the way.
    pub problem: Option<Problem>,
}

/// Decides. See the module.
pub fn plan(desired: &Desired, observed: &Observed, now: Timestamp) -> Plan {
    let plan = decide(desired, observed, now);
    let problem = plan.problem.clone().or_else(|| login_problem(observed));
    Plan { problem, ..plan }
}

fn decide(desired: &Desired, observed: &Observed, now: Timestamp) -> Plan {
    match &observed.target {
        TargetState::Conflict(message) => return blocked(Reason::TargetConflict, message, observed, now),
        TargetState::Deleting => return waiting(None, None, observed, now),
        TargetState::Absent | TargetState::Ours(_) => {}
    }
    if let Some(token) = publishable(desired, observed, now)
        && !serves(desired, observed, token)
    {
        let at = publish_gate(observed, now).unwrap_or(now);
        let act = if at <= now { Act::Publish } else { Act::Wait };
        return Plan { act, ..waiting(None, Some(at), observed, now) };
    }
    match want(desired, observed, now) {
        Want::Nothing => waiting(None, None, observed, now),
        Want::Later(at) => waiting(None, Some(at), observed, now),
        Want::Blocked(problem) => blocked(problem.reason, &problem.message, observed, now),
        Want::Poll { at, until, problem } => {
            let at = gate(desired, observed, now).map_or(at, |gate| gate.max(at));
            let at = held_up(desired, observed, at).map_or(at, |(held, _)| held);
            let exchange = Exchange { why: Why::SignIn, source: Source::DevicePoll };
            let act = if at <= now { Act::Exchange(exchange) } else { Act::Wait };
            // No time is shown: a poll every few seconds would change it each time.
            Plan { act, problem: Some(problem), ..waiting(None, Some(at.min(until)), observed, now) }
        }
        Want::Exchange(exchange, at) => {
            let at =
                [Some(at), gate(desired, observed, now), spacing(observed, now)].into_iter().flatten().max();
            let at = at.unwrap_or(now);
            if let Some((held, silence)) = held_up(desired, observed, at).filter(|(held, _)| *held > now) {
                return silent(at, held, silence, desired, observed, now);
            }
            let act = if at <= now { Act::Exchange(exchange) } else { Act::Wait };
            waiting_with(act, Some(at), observed, now)
        }
    }
}

/// Until when an exchange that is to be made at `at` is held up by the client's silence. Who was told itself begins first;
/// the others follow, spread out.
fn held_up(desired: &Desired, observed: &Observed, at: Timestamp) -> Option<(Timestamp, Silence)> {
    let silence = observed.silence?;
    let told = told_itself(desired, observed);
    let spread = if told { SignedDuration::ZERO } else { silence.spread() };
    let begins = plus(silence.until, spread / 1000 * jitter(&observed.identity.uid, silence.until));
    (at < begins).then_some((begins, silence))
}

fn told_itself(desired: &Desired, observed: &Observed) -> bool {
    let failure = observed.status.last_failure.as_ref().filter(|f| f.reason == Reason::Throttled);
    failure.is_some_and(|f| f.throttles.as_ref().is_none_or(|of| *of == throttle::key(&desired.client)))
}

/// A plan that is held up from `at` on. That is said once it is due: until then nothing is amiss.
fn silent(
    at: Timestamp,
    held: Timestamp,
    silence: Silence,
    desired: &Desired,
    observed: &Observed,
    now: Timestamp,
) -> Plan {
    let due = at <= now;
    let problem = (due && !told_itself(desired, observed)).then(|| Problem {
        reason: Reason::Throttled,
        message: format!(
            "The provider asked the client {} for silence until {}, in an answer to another GraphToken: the operator goes on \
             by itself after that.",
            desired.client.client_id, silence.until
        ),
    });
    Plan { problem, ..waiting(Some(held), Some(if due { held } else { at }), observed, now) }
}

fn waiting_with(act: Act, next_exchange: Option<Timestamp>, observed: &Observed, now: Timestamp) -> Plan {
    Plan { act, ..waiting(next_exchange, next_exchange, observed, now) }
}

/// A plan that waits: until `at`, and for the token in the target to run out, for then the conditions change.
fn waiting(
    next_exchange: Option<Timestamp>,
    at: Option<Timestamp>,
    observed: &Observed,
    now: Timestamp,
) -> Plan {
    let expiry = observed.served().map(|token| token.expires_at);
    let look_at = [at, expiry].into_iter().flatten().filter(|t| *t > now).min();
    Plan { act: Act::Wait, look_at, next_exchange, problem: None }
}

fn blocked(reason: Reason, message: &str, observed: &Observed, now: Timestamp) -> Plan {
    let problem = Some(Problem { reason, message: message.to_owned() });
    let hourly = plus(now, HOURLY);
    let at = match &observed.proof {
        ProofState::NotYet { from, .. } if *from > now => hourly.min(*from),
        _ => hourly,
    };
    Plan { problem, ..waiting(None, Some(at), observed, now) }
}

/// The newest token for this spec that is at hand, unexpired.
fn publishable<'a>(desired: &Desired, observed: &'a Observed, now: Timestamp) -> Option<&'a TokenFacts> {
    at_hand(desired, observed).filter(|token| token.expires_at > now)
}

/// The newest token for this spec that could be written into the target without an exchange.
fn at_hand<'a>(desired: &Desired, observed: &'a Observed) -> Option<&'a TokenFacts> {
    let token = match desired.grant {
        Grant::ClientCredentials => observed.in_hand.as_ref().or_else(|| observed.served()),
        Grant::RefreshToken { .. } | Grant::DeviceCode => observed
            .credential()
            .filter(|c| c.has_access_token && account_problem(desired, c).is_none())
            .and_then(|c| c.record.token.as_ref())
            .map(|token| &token.facts),
    };
    token.filter(|token| token.issued_for == desired.issued_for)
}

/// Whether the target is just as it would be written now.
fn serves(desired: &Desired, observed: &Observed, token: &TokenFacts) -> bool {
    let Some(view) = observed.target() else { return false };
    let Some(published) = view.published.as_ref().filter(|_| view.intact) else {
        return false;
    };
    let rendered_alike = published.layout == layout_digest(&desired.target.data);
    if desired.grant == Grant::ClientCredentials && observed.in_hand.is_none() && !rendered_alike {
        // The token cannot be had back from the target: `want` sees to another.
        return true;
    }
    published.facts.attempt == token.attempt
        && rendered_alike
        && crate::target_shape::metadata_holds(desired, observed, &view.meta)
}

enum Want {
    Nothing,
    Later(Timestamp),
    Blocked(Problem),
    Poll { at: Timestamp, until: Timestamp, problem: Problem },
    Exchange(Exchange, Timestamp),
}

fn want(desired: &Desired, observed: &Observed, now: Timestamp) -> Want {
    if desired.suspend {
        return Want::Nothing;
    }
    if let ProofState::Unusable(message) | ProofState::NotYet { message, .. } = &observed.proof {
        return Want::Blocked(invalid(message.clone()));
    }
    match &desired.grant {
        Grant::ClientCredentials => want_app_only(desired, observed, now),
        Grant::RefreshToken { .. } | Grant::DeviceCode => want_delegated(desired, observed, now),
    }
}

fn want_app_only(desired: &Desired, observed: &Observed, now: Timestamp) -> Want {
    let layout = layout_digest(&desired.target.data);
    let served_alike =
        observed.target().and_then(|view| view.published.as_ref()).is_some_and(|p| p.layout == layout);
    let token = at_hand(desired, observed).filter(|_| served_alike || observed.in_hand.is_some());
    timed(desired, observed, token, Source::Client, now)
}

fn want_delegated(desired: &Desired, observed: &Observed, now: Timestamp) -> Want {
    let credential = match &observed.credential {
        CredentialState::Foreign(message) => return Want::Blocked(invalid(message.clone())),
        CredentialState::Present(credential) => Some(&**credential),
        CredentialState::Absent | CredentialState::Unneeded => None,
    };
    if let Some(pending) = credential.and_then(|c| c.pending.as_ref())
        && pending.holder != observed.holder
    {
        if !observed.pending_stood {
            return Want::Later(now.saturating_add(PENDING_STANDS).unwrap_or(now));
        }
        let source = new_sign_in(desired, observed, credential).unwrap_or(Source::Chain);
        if source != Source::Chain || credential.is_some_and(|c| chain_is_usable(desired, c)) {
            return Want::Exchange(Exchange { why: Why::Recovery, source }, now);
        }
    }
    if let Some(source) = new_sign_in(desired, observed, credential) {
        return Want::Exchange(Exchange { why: Why::NewSeed, source }, now);
    }
    if desired.grant == Grant::DeviceCode
        && let Some(want) = device::want(desired, observed, credential, now)
    {
        return want;
    }
    let Some(credential) = credential.filter(|c| chain_is_usable(desired, c)) else {
        return Want::Blocked(no_chain(desired, observed, credential));
    };
    if let Some(problem) = account_problem(desired, credential) {
        return Want::Blocked(problem);
    }
    timed(desired, observed, at_hand(desired, observed), Source::Chain, now)
}

/// An exchange at the time that the token at hand asks for.
fn timed(
    desired: &Desired,
    observed: &Observed,
    token: Option<&TokenFacts>,
    source: Source,
    now: Timestamp,
) -> Want {
    let (why, at) = match token {
        None => (Why::NoToken, now),
        Some(_) if observed.requested() => (Why::Requested, now),
        // How much of its life is left cannot be told.
        Some(token) if is_ahead(token.issued_at, now) => (Why::Due, now),
        // Whatever asked for it, it is made good: by then the gate holds it back.
        Some(_) if observed.status.last_failure.is_some() => (Why::Retry, now),
        Some(token) => (Why::Due, due(desired.refresh, token, &observed.identity.uid)),
    };
    Want::Exchange(Exchange { why, source }, at)
}

/// Where a refresh token is that is new to us. What a person just signed in with goes before what GitOps keeps.
fn new_sign_in(desired: &Desired, observed: &Observed, credential: Option<&Credential>) -> Option<Source> {
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
fn login_problem(observed: &Observed) -> Option<Problem> {
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

/// Whether the chain's refresh token was issued to this client, in this tenant, by this server.
fn chain_is_usable(desired: &Desired, credential: &Credential) -> bool {
    credential.refresh_token_digest.is_some() && {
        let record = &credential.record;
        let wanted = ChainClient::from(&desired.client);
        record.client.as_ref().is_none_or(|got| {
            let tenant_id = record.account.as_ref().and_then(|a| a.tenant_id.as_deref());
            // A domain or a GUID, both without regard to case.
            let same_tenant = [Some(&*got.tenant), tenant_id]
                .into_iter()
                .flatten()
                .any(|tenant| tenant.eq_ignore_ascii_case(&wanted.tenant));
            same_tenant && got.client_id == wanted.client_id && got.token_origin == wanted.token_origin
        })
    }
}

fn no_chain(desired: &Desired, observed: &Observed, credential: Option<&Credential>) -> Problem {
    if let Some(problem) = login_problem(observed) {
        return problem;
    }
    match &observed.seed {
        SeedState::Missing(message) | SeedState::Malformed(message) => invalid(message.clone()),
        _ if credential.is_some_and(|c| c.refresh_token_digest.is_some()) => Problem {
            reason: Reason::AuthorizationRequired,
            message: format!(
                "the sign-in that is kept was made for another tenant, client or token endpoint than {} at {}; sign in for \
                 this one and put the new refresh token into the seed Secret",
                desired.client.client_id, desired.client.token_origin
            ),
        },
        _ => Problem {
            reason: Reason::AuthorizationRequired,
            message: "the seed was used up before and the sign-in that came of it is gone; sign in again and put the \
                      new refresh token into the seed Secret"
                .to_owned(),
        },
    }
}

fn account_problem(desired: &Desired, credential: &Credential) -> Option<Problem> {
    let wanted = desired.account.as_deref()?;
    let bound = credential.record.account.as_ref()?;
    (!account_matches(wanted, bound)).then(|| Problem {
        reason: Reason::WrongAccount,
        message: "the account that is signed in is not spec.account; sign in as spec.account and put that refresh token \
                  into the seed Secret, or correct spec.account"
            .to_owned(),
    })
}

/// Whether an account is the one that `spec.account` names, by object id or UPN, both without regard to case.
pub fn account_matches(wanted: &str, account: &crate::grant::Account) -> bool {
    let username = account.username.as_deref();
    wanted.eq_ignore_ascii_case(&account.object_id)
        || username.is_some_and(|u| u.eq_ignore_ascii_case(wanted))
}

fn invalid(message: String) -> Problem {
    Problem { reason: Reason::InvalidConfiguration, message }
}

/// The earliest time for another attempt after a failure; `None`: no failure holds anything up.
fn gate(desired: &Desired, observed: &Observed, now: Timestamp) -> Option<Timestamp> {
    let failure = observed.status.last_failure.as_ref()?;
    let failed_at = Timestamp::from(failure.time);
    if is_ahead(failed_at, now) {
        return None;
    }
    let failures = observed.status.consecutive_failures;
    let wait = match failure.reason {
        // It was said to the client that the spec named before.
        Reason::Throttled if !told_itself(desired, observed) => return None,
        Reason::Throttled => {
            let asked = failure.retry_after.map_or(failed_at, Timestamp::from);
            return Some(asked.max(plus(failed_at, doubling(failures, 5, 60))));
        }
        // What it is made with has changed, or a user asks: that passes over back-off, though not over throttling.
        _ if observed.requested() || failure.inputs.as_ref() != Some(&observed.inputs) => return None,
        // What was wrong is not watched: whoever noted it knows when it is worth another look.
        reason if reason.needs_a_person() => match failure.retry_after {
            Some(at) => return Some(Timestamp::from(at)),
            None => HOURLY,
        },
        _ => backoff(observed, failure, failures),
    };
    Some(plus(failed_at, wait))
}

/// Publishing costs the provider nothing: only a store that failed holds it up. A request asks for an exchange: it would
/// wait here, and pass over every back-off meanwhile.
fn publish_gate(observed: &Observed, now: Timestamp) -> Option<Timestamp> {
    let failure = observed.status.last_failure.as_ref().filter(|f| f.reason == Reason::StorageUnavailable)?;
    let as_before = failure.inputs.as_ref() == Some(&observed.inputs);
    (as_before && !is_ahead(failure.time.into(), now))
        .then(|| plus(failure.time.into(), backoff(observed, failure, observed.status.consecutive_failures)))
}

/// Doubles from 5 s to 30 s; while pods hold a valid token never above a quarter of what is left of its life.
fn backoff(observed: &Observed, failure: &LastFailure, failures: u32) -> SignedDuration {
    let doubled = doubling(failures, 5, 30);
    let left = observed
        .served()
        .map(|token| token.expires_at.duration_since(failure.time.into()))
        .filter(SignedDuration::is_positive);
    left.map_or(doubled, |left| doubled.min((left / 4).max(SPACING)))
}

fn doubling(failures: u32, first: i64, most: i64) -> SignedDuration {
    let doubled = first.saturating_mul(1_i64 << failures.saturating_sub(1).min(20));
    SignedDuration::from_secs(doubled.min(most))
}

/// Counts from the newest token, whatever spec it was got for.
fn spacing(observed: &Observed, now: Timestamp) -> Option<Timestamp> {
    let stored = observed.credential().and_then(|c| c.record.token.as_ref()).map(|token| &token.facts);
    let tokens = [stored, observed.in_hand.as_ref(), observed.served()];
    let issued = tokens.into_iter().flatten().map(|token| token.issued_at);
    issued.filter(|at| !is_ahead(*at, now)).map(|at| plus(at, SPACING)).max()
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
fn jitter(uid: &str, expires_at: Timestamp) -> i32 {
    let mut hash = Sha256::new();
    hash.update(uid);
    hash.update(expires_at.as_millisecond().to_be_bytes());
    let digest = hash.finalize();
    i32::from(u16::from_be_bytes([digest[0], digest[1]]) % 1001)
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

#[cfg(test)]
pub(crate) mod tests;
