//! What the silence that a client's `GraphToken`s share holds up.

use jiff::{SignedDuration, Timestamp};

use super::{Plan, Problem, jitter, plus, waiting};
use crate::api::Reason;
use crate::desired::Desired;
use crate::observed::Observed;
use crate::throttle::{self, Silence};

/// Until when an exchange that is to be made at `at` is held up by the client's silence. Who was told itself begins first;
/// the others follow, spread out.
pub(super) fn held_up(desired: &Desired, observed: &Observed, at: Timestamp) -> Option<(Timestamp, Silence)> {
    let silence = observed.silence?;
    let told = told_itself(desired, observed);
    let spread = if told { SignedDuration::ZERO } else { silence.spread() };
    let begins = plus(silence.until, spread / 1000 * jitter(&observed.identity.uid, silence.until));
    (at < begins).then_some((begins, silence))
}

pub(super) fn told_itself(desired: &Desired, observed: &Observed) -> bool {
    let failure = observed.status.last_failure.as_ref().filter(|f| f.reason == Reason::Throttled);
    failure.is_some_and(|f| f.throttles.as_ref().is_none_or(|of| *of == throttle::key(&desired.client)))
}

/// A plan that is held up from `at` on. That is said once it is due: until then nothing is amiss.
pub(super) fn silent(
    at: Timestamp,
    held: Timestamp,
    silence: Silence,
    desired: &Desired,
    observed: &Observed,
    now: Timestamp,
) -> Plan {
    let due = at <= now;
    let problem = (due && !told_itself(desired, observed)).then(|| {
        let message = format!(
            "The provider asked the client {} for silence until {}, in an answer to another GraphToken: the operator goes on \
             by itself after that.",
            desired.client.client_id, silence.until
        );
        Problem::new(Reason::Throttled, message)
    });
    let look_at = Some(if due { held } else { at });
    Plan { problem, next_exchange: Some(held), ..waiting(look_at, observed, now) }
}
