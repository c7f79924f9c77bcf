//! The condition `Verified`: what the latest trial of a token at Microsoft Graph told.

use super::Says;
use crate::api::{ConditionStatus, ConditionType, GraphTokenStatus, Reason};
use crate::desired::Desired;
use crate::observed::Observed;
use crate::plan::probe::{awaits_replacement, trial};

/// What becomes of the condition.
pub(super) enum Verified<'a> {
    /// There is none: no token is tried, or none was yet.
    Off,
    /// It stays as it was, with the generation that it speaks of.
    AsBefore,
    /// It says this.
    Says(Says<'a>),
}

/// `failing`: whether no token can be got at present.
pub(super) fn verified<'a>(
    desired: &Desired,
    observed: &Observed,
    failing: bool,
    status: &'a GraphTokenStatus,
) -> Verified<'a> {
    let Some((last, trial)) = status.last_probe.as_ref().zip(trial(desired, observed)) else {
        return Verified::Off;
    };
    let waits = awaits_replacement(last);
    // What is tried now is another thing, or the verdict is not final.
    if desired.suspend || last.inputs != trial.inputs || (waits && !failing) {
        return Verified::AsBefore;
    }
    let says = |status, message: &'a str| {
        Verified::Says(Says::new(ConditionType::Verified, status, last.reason.clone(), message))
    };
    match last.reason.known() {
        Some(Reason::Accepted) if last.message.is_empty() => {
            says(ConditionStatus::True, "Microsoft Graph took the token when it was last tried")
        }
        Some(Reason::Accepted) => says(ConditionStatus::True, &last.message),
        Some(Reason::TokenRejected) if waits => says(
            ConditionStatus::False,
            "Microsoft Graph refused the token, and no other could be got in its place: see the condition Refreshed",
        ),
        Some(Reason::TokenRejected | Reason::ProbeFailed) => says(ConditionStatus::False, &last.message),
        _ => says(ConditionStatus::Unknown, &last.message),
    }
}
