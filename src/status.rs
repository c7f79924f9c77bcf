//! Observed + plan → status. [`project`] is pure; [`write()`] writes what has changed and nothing else.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};

use crate::api::status::{AccountStatus, DeviceCodeStatus, LastFailure, LastStorageFailure, TargetVersion};
use crate::api::{Condition, ConditionStatus, ConditionType, GraphTokenStatus, Open, Reason, Time};
use crate::desired::{Client, Desired, Grant, SpecError};
use crate::failure::Failure;
use crate::observed::{Identity, Observed, StoredToken};
use crate::plan::{Plan, Problem, account_problem};
use crate::throttle;
use verified::Verified;

mod verified;
mod write;

pub use write::write;

/// A refresh token that is not used dies after this at Entra ("Refresh tokens in the Microsoft identity platform").
const UNUSED_REFRESH_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);

/// What `Reconciling` says.
const AT_WORK: &str = "the operator is at work; nobody need act";

/// What a condition says, before it is compared with the one before.
struct Says<'a> {
    type_: ConditionType,
    status: ConditionStatus,
    reason: Open<Reason>,
    message: Cow<'a, str>,
}

impl<'a> Says<'a> {
    fn new(
        type_: ConditionType,
        status: ConditionStatus,
        reason: impl Into<Open<Reason>>,
        message: impl Into<Cow<'a, str>>,
    ) -> Self {
        Self { type_, status, reason: reason.into(), message: message.into() }
    }

    /// What a problem is said with.
    fn of(type_: ConditionType, status: ConditionStatus, problem: &'a Problem) -> Self {
        Self::new(type_, status, problem.reason.clone(), problem.message.as_str())
    }
}

/// The status of a `GraphToken` whose spec parsed.
pub fn project(desired: &Desired, observed: &Observed, plan: &Plan, now: Timestamp) -> GraphTokenStatus {
    let mut status = observed.status.clone();
    let served = observed.served();
    if let Some(view) = observed.target().filter(|view| view.intact) {
        status.target = Some(TargetVersion {
            uid: view.meta.uid.clone(),
            resource_version: view.meta.resource_version.clone(),
        });
    }
    // Until the new target serves pods, the former is remembered: it is deleted then.
    if served.is_some() || status.secret_name.is_none() {
        status.secret_name = Some(desired.target.secret_name.clone());
    }
    status.grant = Some(desired.grant.kind().spec_name().to_owned());
    status.expires_at = served.map(|token| token.expires_at.into());
    // An app's token is told of by the target alone, where a process ended before it wrote the status.
    status.last_refresh_time = status.last_refresh_time.max(served.map(|token| token.issued_at.into()));
    status.next_refresh_time = plan.next_exchange.map(Time::from);
    if let Some(credential) = observed.credential() {
        let record = &credential.record;
        status.signed_in.clone_from(&record.signed_in);
        status.account = record.account.as_ref().map(|account| AccountStatus {
            object_id: Some(account.object_id.clone()),
            tenant_id: account.tenant_id.clone(),
        });
        if let Some(token) = &record.token {
            status = with_token(status, token);
            let dies = token.facts.issued_at.saturating_add(UNUSED_REFRESH_TOKEN_LIFE);
            status.refresh_token_expires_at = dies.ok().map(Time::from);
        }
    }
    if !desired.grant.kind().is_delegated() {
        // Of a delegated grant that the spec asked for before.
        status.signed_in = None;
        status.refresh_token_expires_at = None;
        if let Some(account) = &mut status.account {
            account.object_id = None;
        }
    }
    let device = observed.credential().and_then(|c| c.device.as_ref());
    let device = device.filter(|d| desired.grant == Grant::DeviceCode && d.waits(&desired.issued_for, now));
    status.device_code = device.map(|device| DeviceCodeStatus {
        user_code: device.user_code.clone(),
        verification_uri: device.verification_uri.clone(),
        expires_at: device.expires_at.into(),
    });
    if crate::plan::probe::trial(desired, observed).is_none() {
        status.last_probe = None;
        status.last_verified_time = None;
    }
    status.observed_generation = observed.identity.generation;
    status.conditions = conditions(desired, observed, plan, &status, now);
    status
}

/// The status of a `GraphToken` whose spec did not parse.
pub fn project_invalid(
    identity: &Identity,
    status: &GraphTokenStatus,
    error: &SpecError,
    now: Timestamp,
) -> GraphTokenStatus {
    let message = error.to_string();
    let mut status = status.clone();
    status.observed_generation = identity.generation;
    status.next_refresh_time = None;
    let says = [
        (ConditionType::Stalled, ConditionStatus::True),
        (ConditionType::Ready, ConditionStatus::False),
        (ConditionType::Refreshed, ConditionStatus::False),
    ];
    let says =
        says.map(|(type_, status)| Says::new(type_, status, Reason::InvalidConfiguration, message.as_str()));
    // Of the token nothing new is known.
    let verified = status.condition(ConditionType::Verified).cloned();
    let others = of_other_versions(&status.conditions);
    status.conditions = stamped(says.into(), &status.conditions, identity.generation, now);
    status.conditions.extend(verified);
    status.conditions.extend(others);
    status
}

/// The status of a `GraphToken` whose client is not known, and why, if that is known. Until its end, the token that is in
/// the target serves on.
pub fn project_unknown(
    identity: &Identity,
    status: &GraphTokenStatus,
    why: Option<&str>,
    now: Timestamp,
) -> GraphTokenStatus {
    let mut status = status.clone();
    let same_spec = status.observed_generation == identity.generation;
    let ready = status.condition(ConditionType::Ready);
    let issued = |c: &&Condition| c.reason == Reason::TokenValid || c.reason == Reason::TokenExpired;
    let ready = ready.filter(issued).filter(|_| same_spec).cloned();
    let lives = status.expires_at.is_some_and(|at| Timestamp::from(at) > now);
    status.observed_generation = identity.generation;
    status.next_refresh_time = None;
    let waiting = why.unwrap_or("the operator has not seen the ClusterGraphClients yet");
    let reason = if why.is_some() { Reason::StorageUnavailable } else { Reason::TokenPending };
    let mut conditions = match &ready {
        Some(ready) if lives => {
            vec![Says::new(ConditionType::Ready, ready.status, ready.reason.clone(), ready.message.as_str())]
        }
        Some(_) => {
            let message = format!("the token has run out: {waiting}");
            vec![Says::new(ConditionType::Ready, ConditionStatus::False, Reason::TokenExpired, message)]
        }
        None => vec![Says::new(ConditionType::Ready, ConditionStatus::False, reason, waiting)],
    };
    let refreshed = if why.is_some() { ConditionStatus::False } else { ConditionStatus::Unknown };
    conditions.push(Says::new(ConditionType::Refreshed, refreshed, reason, waiting));
    if conditions.iter().any(|c| c.type_ == ConditionType::Ready && c.status != ConditionStatus::True) {
        conditions.push(at_work());
    }
    let others = of_other_versions(&status.conditions);
    status.conditions = stamped(conditions, &status.conditions, identity.generation, now);
    status.conditions.extend(others);
    status
}

/// Notes a token that was got.
pub fn with_token(mut status: GraphTokenStatus, token: &StoredToken) -> GraphTokenStatus {
    status.last_refresh_time = Some(token.facts.issued_at.into());
    status.granted_scopes.clone_from(&token.granted_scopes);
    status
}

/// Forgets the failures before an answer that was none.
pub fn forget_failures(status: &mut GraphTokenStatus) {
    status.last_failure = None;
    forget_storage_failure(status);
}

/// Forgets that the API server failed. What the provider said last holds on.
pub fn forget_storage_failure(status: &mut GraphTokenStatus) {
    status.last_storage_failure = None;
    if status.last_failure.is_none() {
        status.consecutive_failures = 0;
    }
}

/// Notes a failed attempt. A failure of the API server does not take the place of what the provider said last: that tells
/// until when it is throttled, and who must act.
pub fn with_failure(
    mut status: GraphTokenStatus,
    failure: Failure,
    inputs: &str,
    now: Timestamp,
) -> GraphTokenStatus {
    status.consecutive_failures = status.consecutive_failures.saturating_add(1);
    if failure.reason == Reason::StorageUnavailable {
        status.last_storage_failure = Some(LastStorageFailure {
            time: now.into(),
            message: failure.message,
            administrator_must_act: failure.administrator,
            inputs: Some(inputs.to_owned()),
        });
        return status;
    }
    // The status shows whole seconds: rounded up, for the provider's pause is not to be cut.
    let retry_after = failure
        .retry_after
        .and_then(|pause| now.saturating_add(SignedDuration::try_from(pause).ok()?).ok())
        .and_then(|until| until.saturating_add(SignedDuration::new(0, 999_999_999)).ok())
        .map(Time::from);
    status.last_failure = Some(LastFailure {
        time: now.into(),
        reason: failure.reason.into(),
        error: failure.error,
        suberror: failure.suberror,
        codes: failure.codes,
        correlation_id: failure.correlation_id,
        trace_id: failure.trace_id,
        retry_after,
        throttles: None,
        message: failure.message,
        inputs: Some(inputs.to_owned()),
    });
    status
}

/// Notes a failed exchange. A pause that the provider asks for is for all that are on the client.
pub fn with_refusal(
    status: GraphTokenStatus,
    failure: Failure,
    client: &Client,
    inputs: &str,
    now: Timestamp,
) -> GraphTokenStatus {
    let mut status = with_failure(status, failure, inputs, now);
    if let Some(failure) = status.last_failure.as_mut().filter(|failure| failure.reason == Reason::Throttled)
    {
        failure.throttles = Some(throttle::key(client));
    }
    status
}

fn conditions(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    status: &GraphTokenStatus,
    now: Timestamp,
) -> Vec<Condition> {
    let failed = status.last_failure.as_ref();
    let failed = failed.map(|failure| Problem::new(failure.reason.clone(), &failure.message));
    let storage = status.last_storage_failure.as_ref().map(|failure| Problem {
        administrator: failure.administrator_must_act,
        ..Problem::new(Reason::StorageUnavailable, &failure.message)
    });
    let failure = plan.problem.as_ref().or(storage.as_ref()).or(failed.as_ref());
    // The token that pods have is for this spec, and not for the account that it names.
    let other_account = observed.credential().and_then(|credential| account_problem(desired, credential));
    let ready = match &other_account {
        Some(problem) => Says::of(ConditionType::Ready, ConditionStatus::False, problem),
        None => ready(desired, observed, failure, now),
    };
    let is_ready = ready.status == ConditionStatus::True;
    let mut says = Vec::with_capacity(3);
    // An API server that fails for a moment does not mend what a person must.
    let problems = [plan.problem.as_ref(), failed.as_ref(), storage.as_ref()];
    let stalled = problems.into_iter().flatten().find(|problem| problem.needs_a_person());
    if let Some(failure) = stalled {
        says.push(Says::of(ConditionType::Stalled, ConditionStatus::True, failure));
    }
    says.push(ready);
    // That the target is taken says nothing of the latest exchange.
    let exchange = plan.problem.as_ref().filter(|f| f.reason != Reason::TargetConflict);
    let exchange = exchange.or(failed.as_ref()).or(storage.as_ref());
    says.push(refreshed(desired, status, exchange));
    if !is_ready && stalled.is_none() && !desired.suspend {
        says.push(at_work());
    }
    let (before, generation) = (&observed.status.conditions, observed.identity.generation);
    let mut conditions = stamped(says, before, generation, now);
    conditions.extend(match verified::verified(desired, observed, failure.is_some(), status) {
        Verified::Off => None,
        Verified::AsBefore => observed.status.condition(ConditionType::Verified).cloned(),
        Verified::Says(says) => stamped(vec![says], before, generation, now).pop(),
    });
    conditions.extend(of_other_versions(before));
    conditions
}

/// Conditions of types that this version does not know: they stay as they are.
fn of_other_versions(before: &[Condition]) -> Vec<Condition> {
    before.iter().filter(|c| c.type_.known().is_none()).cloned().collect()
}

fn at_work() -> Says<'static> {
    Says::new(ConditionType::Reconciling, ConditionStatus::True, Reason::Progressing, AT_WORK)
}

fn ready<'a>(
    desired: &Desired,
    observed: &Observed,
    failure: Option<&'a Problem>,
    now: Timestamp,
) -> Says<'a> {
    let says = |status, reason: Reason, message: Cow<'a, str>| {
        Says::new(ConditionType::Ready, status, reason, message)
    };
    // A target that is not ours serves nothing.
    let ours = observed.served().filter(|token| token.issued_for == desired.issued_for);
    match (ours, failure) {
        (Some(token), _) if token.expires_at > now => says(
            ConditionStatus::True,
            Reason::TokenValid,
            format!("Secret {} holds a token for this spec", desired.target.secret_name).into(),
        ),
        (Some(_), _) => says(
            ConditionStatus::False,
            Reason::TokenExpired,
            failure
                .map_or("the token has run out".to_owned(), |f| {
                    format!("the token has run out: {}", f.message)
                })
                .into(),
        ),
        (None, Some(failure)) => Says::of(ConditionType::Ready, ConditionStatus::False, failure),
        (None, None) => says(
            ConditionStatus::False,
            Reason::TokenPending,
            if desired.suspend {
                "no token was issued for this spec yet, and spec.suspend is set".into()
            } else {
                "no token was issued for this spec yet".into()
            },
        ),
    }
}

fn refreshed<'a>(desired: &Desired, status: &GraphTokenStatus, failure: Option<&'a Problem>) -> Says<'a> {
    let says = |status, reason: Reason, message: Cow<'a, str>| {
        Says::new(ConditionType::Refreshed, status, reason, message)
    };
    if desired.suspend {
        return says(ConditionStatus::Unknown, Reason::Suspended, suspended(status).into());
    }
    match failure {
        Some(failure) => Says::of(ConditionType::Refreshed, ConditionStatus::False, failure),
        None if status.last_refresh_time.is_some() => {
            says(ConditionStatus::True, Reason::Succeeded, "the latest exchange worked".into())
        }
        None => says(ConditionStatus::Unknown, Reason::TokenPending, "no exchange took place yet".into()),
    }
}

/// A suspended chain's clock is running.
fn suspended(status: &GraphTokenStatus) -> String {
    let dies = status.refresh_token_expires_at.map(|dies| {
        format!("; the refresh token dies about {dies} for want of use, and then a user must sign in again")
    });
    format!("spec.suspend is set: no exchange takes place{}", dies.unwrap_or_default())
}

/// Conditions keep the time at which their status last changed.
fn stamped(says: Vec<Says<'_>>, before: &[Condition], generation: i64, now: Timestamp) -> Vec<Condition> {
    let stamp = |says: Says<'_>| {
        let same = before.iter().find(|c| c.type_ == says.type_ && c.status == says.status);
        Condition {
            type_: says.type_.into(),
            status: says.status,
            reason: says.reason,
            message: says.message.into_owned(),
            last_transition_time: same.map_or_else(|| now.into(), |c| c.last_transition_time),
            observed_generation: generation,
        }
    };
    says.into_iter().map(stamp).collect()
}

#[cfg(test)]
mod tests;
