//! When a device code is asked for, polled, or given up.

use jiff::Timestamp;

use super::{Exchange, Problem, Source, Want, Why, account_problem, chain_is_usable};
use crate::api::Reason;
use crate::desired::Desired;
use crate::observed::{Credential, Device, Observed};

/// What the grant asks for beyond the chain of refresh tokens; `None`: nothing, the chain goes on.
///
/// The first code is issued by itself. When it has come to nothing, or the chain to its end, a person asks for another:
/// codes that nobody looks at would be issued for ever.
pub(super) fn want(
    desired: &Desired,
    observed: &Observed,
    credential: Option<&Credential>,
    now: Timestamp,
) -> Option<Want> {
    let device = credential.and_then(|c| c.device.as_ref()).filter(|d| d.issued_for == desired.issued_for);
    let chain = credential.filter(|c| chain_is_usable(desired, c) && account_problem(desired, c).is_none());
    let start = Want::Exchange(Exchange { why: Why::SignIn, source: Source::DeviceStart }, now);
    if observed.requested() && (chain.is_none() || refused(observed)) {
        return Some(start);
    }
    match device {
        Some(device) if device.waits(&desired.issued_for, now) => Some(Want::Poll {
            at: observed.poll_at.unwrap_or(now),
            until: device.expires_at,
            problem: waiting_for_a_user(device),
        }),
        _ if chain.is_some() => None,
        None => Some(start),
        Some(_) => Some(Want::Blocked(came_to_nothing(observed))),
    }
}

/// Whether the provider or the account bound refused the sign-in that is kept, or the latest one.
fn refused(observed: &Observed) -> bool {
    let reason = observed.status.last_failure.as_ref().and_then(|failure| failure.reason.known());
    matches!(reason, Some(Reason::AuthorizationRequired | Reason::WrongAccount))
}

fn waiting_for_a_user(device: &Device) -> Problem {
    Problem::new(
        Reason::AuthorizationRequired,
        format!(
            "a user must sign in: open {} and enter the code that status.deviceCode.userCode shows, before {:.0}",
            device.verification_uri, device.expires_at
        ),
    )
}

/// The latest failure tells it better, if it speaks of the sign-in.
fn came_to_nothing(observed: &Observed) -> Problem {
    let failure = observed.status.last_failure.as_ref().filter(|_| refused(observed));
    failure.map_or_else(
        || {
            Problem::new(
                Reason::AuthorizationRequired,
                "the code ran out before anybody entered it: ask for a new one by a new value of the annotation \
                 graphtoken.io/requested-at, and sign in with it",
            )
        },
        |failure| Problem::new(failure.reason.clone(), &failure.message),
    )
}
