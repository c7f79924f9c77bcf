//! `plan(desired, observed, now)` → what to do next, when to look again, and why nothing is done. Pure and deterministic:
//! due times and failure counts come from what is persisted, jitter from a hash, so a restart neither stampedes nor forgets.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::api::{GraphTokenStatus, Open, Reason};
use crate::desired::{Desired, Grant};
use crate::observed::{
    ChainClient, Credential, CredentialState, Observed, ProofState, SeedState, TargetState, TokenFacts,
};

mod device;
pub mod probe;
mod sign_in;
mod silence;
mod timing;

use sign_in::{failed_last, login_problem, new_or_kept, new_sign_in};
pub use sign_in::{keeps_a_sign_in, made_with, seed_problem, was_adopted};
use timing::{dies_soon_from, earliest, gate, jitter, publish_gate};
pub use timing::{due, policy_warning, refresh_token_warning, renew_before_is_too_long};
pub(crate) use timing::{is_ahead, plus};

/// A failure that only a person can mend is tried again this often, in case it was mended where we cannot see.
const HOURLY: SignedDuration = SignedDuration::from_hours(1);
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
    /// Try the token in the target at Microsoft Graph.
    Probe,
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
    /// Microsoft Graph refused the token.
    Rejected,
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
    pub reason: Open<Reason>,
    /// What is wrong and what to do about it.
    pub message: String,
    /// Whether a cluster administrator must act.
    pub administrator: bool,
}

impl Problem {
    /// One that no cluster administrator is needed for.
    pub fn new(reason: impl Into<Open<Reason>>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), administrator: false }
    }

    /// Whether only a person can fix it.
    pub fn needs_a_person(&self) -> bool {
        self.administrator || self.reason.needs_a_person()
    }
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
        TargetState::Conflict(message) => {
            return blocked(Problem::new(Reason::TargetConflict, message), observed, now);
        }
        TargetState::Deleting => return waiting(None, observed, now),
        TargetState::Absent | TargetState::Ours(_) => {}
    }
    if let Some(token) = publishable(desired, observed, now)
        && !serves(desired, observed, token)
    {
        let layout = &desired.target.layout;
        let unrenderable = observed.unrenderable.as_ref();
        if let Some(known) = unrenderable.filter(|u| u.attempt == token.attempt && u.layout == *layout) {
            return blocked(invalid(known.message.clone()), observed, now);
        }
        let at = publish_gate(observed, now).unwrap_or(now);
        let act = if at <= now { Act::Publish } else { Act::Wait };
        return Plan { act, ..waiting(Some(at), observed, now) };
    }
    match want(desired, observed, now) {
        Want::Nothing => waiting(None, observed, now),
        Want::Later(at) => waiting(Some(at), observed, now),
        Want::Blocked(problem) => blocked(problem, observed, now),
        Want::Poll { at, until, problem } => {
            let at = gate(desired, observed, Source::DevicePoll, now).map_or(at, |gate| gate.max(at));
            let at = silence::held_up(desired, observed, at).map_or(at, |(held, _)| held);
            let exchange = Exchange { why: Why::SignIn, source: Source::DevicePoll };
            let act = if at <= now { Act::Exchange(exchange) } else { Act::Wait };
            // No time is shown: a poll every few seconds would change it each time.
            Plan { act, problem: Some(problem), ..waiting(Some(at.min(until)), observed, now) }
        }
        Want::Exchange(exchange, at) => {
            let at = earliest(desired, observed, exchange.source, at, now);
            if let Some((held, silence)) =
                silence::held_up(desired, observed, at).filter(|(held, _)| *held > now)
            {
                return silence::silent(at, held, silence, desired, observed, now);
            }
            let probe_at = probe::due(desired, observed, now);
            let act = match probe_at {
                _ if at <= now => Act::Exchange(exchange),
                Some(probe_at) if probe_at <= now => Act::Probe,
                _ => Act::Wait,
            };
            let look_at = [Some(at), probe_at].into_iter().flatten().min();
            Plan { act, next_exchange: Some(at), ..waiting(look_at, observed, now) }
        }
    }
}

/// A plan that waits: until `at`, and for the token in the target to run out, for then the conditions change.
fn waiting(at: Option<Timestamp>, observed: &Observed, now: Timestamp) -> Plan {
    let expiry = observed.served().map(|token| token.expires_at);
    let look_at = [at, expiry, dies_soon_from(observed)].into_iter().flatten().filter(|t| *t > now).min();
    Plan { act: Act::Wait, look_at, next_exchange: None, problem: None }
}

fn blocked(problem: Problem, observed: &Observed, now: Timestamp) -> Plan {
    let hourly = plus(now, HOURLY);
    let at = match &observed.proof {
        ProofState::NotYet { from, .. } if *from > now => hourly.min(*from),
        _ => hourly,
    };
    Plan { problem: Some(problem), ..waiting(Some(at), observed, now) }
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
    let rendered_alike = published.layout == desired.target.layout;
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
    let layout = &desired.target.layout;
    let served_alike =
        observed.target().and_then(|view| view.published.as_ref()).is_some_and(|p| p.layout == *layout);
    let token = at_hand(desired, observed).filter(|_| served_alike || observed.in_hand.is_some());
    timed(desired, observed, token, Source::Client, now)
}

fn want_delegated(desired: &Desired, observed: &Observed, now: Timestamp) -> Want {
    let credential = match &observed.credential {
        CredentialState::Foreign(message) => return Want::Blocked(invalid(message.clone())),
        CredentialState::Present(credential) => Some(&**credential),
        CredentialState::Absent | CredentialState::Unneeded => None,
    };
    let mut why = Why::NewSeed;
    if let Some(pending) = credential.and_then(|c| c.pending.as_ref())
        && pending.holder != observed.holder
    {
        if !observed.pending_stood {
            return Want::Later(now.saturating_add(PENDING_STANDS).unwrap_or(now));
        }
        why = Why::Recovery;
    }
    let kept = match credential.filter(|c| why == Why::Recovery && chain_is_usable(desired, c)) {
        Some(_) => Want::Exchange(Exchange { why, source: Source::Chain }, now),
        None => want_kept(desired, observed, credential, now),
    };
    match new_sign_in(desired, observed, credential) {
        Some(source) => new_or_kept(Exchange { why, source }, kept, desired, observed, now),
        None => kept,
    }
}

/// What the sign-in that is kept asks for, or one that is to be made by device code.
fn want_kept(
    desired: &Desired,
    observed: &Observed,
    credential: Option<&Credential>,
    now: Timestamp,
) -> Want {
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
        Some(token) if probe::is_refused(desired, observed, token) => (Why::Rejected, now),
        // How much of its life is left cannot be told.
        Some(token) if is_ahead(token.issued_at, now) => (Why::Due, now),
        // A refresh that failed is due now, and the gate delays it by its back-off. The failure of a new sign-in does not count
        // here.
        Some(_) if failed(&observed.status) && !failed_last(desired, observed) => (Why::Retry, now),
        Some(token) => (Why::Due, due(desired.refresh, token, &observed.identity.uid)),
    };
    Want::Exchange(Exchange { why, source }, at)
}

/// Whether the latest attempt to get or to store a token failed.
fn failed(status: &GraphTokenStatus) -> bool {
    status.last_failure.is_some() || status.last_storage_failure.is_some()
}

/// Whether the chain's refresh token was issued to this client, in this tenant, by this server.
pub(crate) fn chain_is_usable(desired: &Desired, credential: &Credential) -> bool {
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
            same_tenant && got.client_id == wanted.client_id && got.same_server(&wanted)
        })
    }
}

fn no_chain(desired: &Desired, observed: &Observed, credential: Option<&Credential>) -> Problem {
    if let Some(problem) = login_problem(observed) {
        return problem;
    }
    match &observed.seed {
        SeedState::Missing(message) | SeedState::Malformed(message) => invalid(message.clone()),
        _ if credential.is_some_and(|c| c.refresh_token_digest.is_some()) => Problem::new(
            Reason::AuthorizationRequired,
            format!(
                "the sign-in that is kept was made for another tenant, client or token endpoint than {} at {}; sign in for \
                 this one and put the new refresh token into the seed Secret",
                desired.client.client_id, desired.client.token_url
            ),
        ),
        _ => Problem::new(
            Reason::AuthorizationRequired,
            "the seed was used up before and the sign-in that came of it is gone; sign in again and put the \
             new refresh token into the seed Secret",
        ),
    }
}

/// That another account is signed in than the one that `spec.account` names, if that is so.
pub(crate) fn account_problem(desired: &Desired, credential: &Credential) -> Option<Problem> {
    let wanted = desired.account.as_deref()?;
    let bound = credential.record.account.as_ref()?;
    (!account_matches(wanted, bound)).then(|| {
        Problem::new(
            Reason::WrongAccount,
            "the account that is signed in is not spec.account; sign in as spec.account and put that refresh token \
             into the seed Secret, or correct spec.account",
        )
    })
}

/// Whether an account is the one that `spec.account` names, by object id or UPN, both without regard to case.
pub fn account_matches(wanted: &str, account: &crate::grant::Account) -> bool {
    let username = account.username.as_deref();
    wanted.eq_ignore_ascii_case(&account.object_id)
        || username.is_some_and(|u| u.eq_ignore_ascii_case(wanted))
}

fn invalid(message: String) -> Problem {
    Problem::new(Reason::InvalidConfiguration, message)
}

#[cfg(test)]
pub(crate) mod tests;
