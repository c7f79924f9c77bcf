//! When a token is tried at Microsoft Graph, and what a refusal leads to. It all comes from the status as it was stored, so
//! that a restart neither repeats a trial nor forgets a refusal.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::timing::doubling;
use super::{HOURLY, at_hand, is_ahead, jitter, plus};
use crate::api::status::LastProbe;
use crate::api::{GraphTokenStatus, Open, Reason, Time};
use crate::desired::{Desired, Probing};
use crate::observed::{Observed, TokenFacts};
use crate::seed::hex;
use crate::verdict::Verdict;

/// No token is tried more often, whatever the spec says.
const SHORTEST: SignedDuration = SignedDuration::from_mins(1);
/// What is asked for by default: by the first of these resources that a granted scope tells of.
const DEFAULTS: [(&str, &str); 3] = [
    ("User.", "/me?$select=id"),
    ("Mail.", "/me/mailFolders/inbox?$select=id"),
    ("Files.", "/me/drive?$select=id"),
];

/// What is asked for, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The whole URL.
    pub url: String,
    /// The part of it that the spec or a granted scope tells.
    pub path: String,
    /// Digest of the URL and of the spec that the token is for.
    pub inputs: String,
}

/// What a token would be tried with; `None`: none is.
pub fn trial(desired: &Desired, observed: &Observed) -> Option<Trial> {
    let probing = desired.probing.as_ref()?;
    let path = probing.path.clone().or_else(|| default_path(desired, observed))?;
    let url = format!("{}{path}", probing.graph);
    let mut hash = Sha256::new();
    for part in [&url, &desired.issued_for] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    Some(Trial { inputs: hex(&hash.finalize()[..8]), url, path })
}

fn default_path(desired: &Desired, observed: &Observed) -> Option<String> {
    let stored = observed.credential().and_then(|c| c.record.token.as_ref());
    let granted = stored.map_or(&observed.status.granted_scopes, |token| &token.granted_scopes);
    let short = |scope: &str| {
        let of_graph = scope.strip_prefix(desired.client.scope_prefix).and_then(|s| s.strip_prefix('/'));
        of_graph.unwrap_or(scope).to_ascii_lowercase()
    };
    let tells =
        |resource: &str| granted.iter().any(|scope| short(scope).starts_with(&resource.to_ascii_lowercase()));
    DEFAULTS.iter().find(|(resource, _)| tells(resource)).map(|(_, path)| (*path).to_owned())
}

/// The token that could be tried now: the one that pods have, if it is the newest for this spec and will not run out meanwhile.
pub fn token<'a>(desired: &Desired, observed: &'a Observed, now: Timestamp) -> Option<&'a TokenFacts> {
    let served = observed.served()?;
    let newest = at_hand(desired, observed)?.attempt == served.attempt;
    let life = served.expires_at.duration_since(served.issued_at);
    let left = served.expires_at.duration_since(now);
    (newest && served.issued_for == desired.issued_for && left > (life / 10).min(SHORTEST)).then_some(served)
}

/// When the token that pods have is to be tried; `None`: it is not.
pub(super) fn due(desired: &Desired, observed: &Observed, now: Timestamp) -> Option<Timestamp> {
    let probing = desired.probing.as_ref()?;
    let trial = trial(desired, observed)?;
    let token = token(desired, observed, now)?;
    let last = observed.status.last_probe.as_ref().filter(|last| !is_ahead(last.time.into(), now));
    let Some(last) = last else { return Some(now) };
    if wanted(&observed.status, last, &trial, token) {
        // As with exchanges, nothing passes over what the service asked for.
        return Some(if last.reason == Reason::Throttled { pause_ends(last) } else { now });
    }
    let at = last.time.into();
    Some(match last.reason.known() {
        Some(Reason::Throttled) => pause_ends(last),
        Some(Reason::ProviderUnavailable) => plus(at, doubling(last.inconclusive, 60, HOURLY.as_secs())),
        Some(Reason::TokenRejected) => plus(at, interval(probing).min(HOURLY)),
        _ => routine(probing, last, token, &observed.identity.uid),
    })
}

/// Whether there is more reason to try the token than that time has passed.
fn wanted(status: &GraphTokenStatus, last: &LastProbe, trial: &Trial, token: &TokenFacts) -> bool {
    // It is the token got by a request that is tried, not one that is there because the request failed.
    let requested = status.last_handled_request.is_some()
        && status.last_handled_request != last.request
        && !super::failed(status);
    requested || last.inputs != trial.inputs || (awaits_replacement(last) && last.token != token.attempt)
}

/// Up to a tenth earlier than the interval, by a hash; and from then on at once with a new token, whose status is to be
/// written anyway.
fn routine(probing: &Probing, last: &LastProbe, token: &TokenFacts, uid: &str) -> Timestamp {
    let (at, interval) = (Timestamp::from(last.time), interval(probing));
    let earliest = plus(at, interval / 10 * 9);
    if token.attempt != last.token && token.issued_at >= earliest {
        return token.issued_at;
    }
    plus(at, interval - interval / 10_000 * jitter(uid, at))
}

fn interval(probing: &Probing) -> SignedDuration {
    SignedDuration::try_from(probing.interval).unwrap_or(SignedDuration::MAX).max(SHORTEST)
}

/// The pause that was asked for, and longer where one asks again and again; a minute, doubling, where none was named.
fn pause_ends(last: &LastProbe) -> Timestamp {
    let at = Timestamp::from(last.time);
    let first = if last.retry_after.is_some() { 1 } else { 60 };
    let backoff = plus(at, doubling(last.inconclusive, first, HOURLY.as_secs()));
    last.retry_after.map_or(backoff, |until| backoff.max(until.into())).min(plus(at, HOURLY))
}

/// Whether another token is to be got because this one was refused.
pub fn is_refused(desired: &Desired, observed: &Observed, token: &TokenFacts) -> bool {
    let last = observed.status.last_probe.as_ref();
    let refused = last.is_some_and(|last| last.refused_token.as_ref() == Some(&token.attempt));
    refused && trial(desired, observed).is_some()
}

/// Whether the token that was tried is to be replaced, for it was the first to be refused.
pub fn awaits_replacement(last: &LastProbe) -> bool {
    last.reason == Reason::TokenRejected && last.refused_token.as_ref() == Some(&last.token)
}

/// The status with what came of a trial.
pub fn noted(
    mut status: GraphTokenStatus,
    trial: Trial,
    token: &TokenFacts,
    verdict: Verdict,
    now: Timestamp,
) -> GraphTokenStatus {
    let before = status.last_probe.take();
    let reason = verdict.reason();
    let told_nothing =
        |reason: &Open<Reason>| *reason == Reason::Throttled || *reason == Reason::ProviderUnavailable;
    let in_a_row =
        before.as_ref().filter(|last| told_nothing(&last.reason)).map_or(0, |last| last.inconclusive);
    let refused_before = before.and_then(|last| last.refused_token);
    let pause = if let Verdict::Throttled(pause) = verdict { pause } else { None };
    if reason == Reason::Accepted {
        status.last_verified_time = Some(now.into());
    }
    status.last_probe = Some(LastProbe {
        time: now.into(),
        token: token.attempt.clone(),
        reason: reason.into(),
        message: verdict.message(&trial.path),
        path: trial.path,
        inputs: trial.inputs,
        // Whole seconds, rounded up: the pause is not to be cut.
        retry_after: pause
            .and_then(|pause| SignedDuration::try_from(pause).ok())
            .map(|pause| Time::from(plus(plus(now, pause), SignedDuration::new(0, 999_999_999)))),
        inconclusive: if told_nothing(&reason.into()) { in_a_row.saturating_add(1) } else { 0 },
        refused_token: match reason {
            Reason::Accepted => None,
            Reason::TokenRejected => refused_before.or_else(|| Some(token.attempt.clone())),
            _ => refused_before,
        },
        request: status.last_handled_request.clone(),
    });
    status
}
