//! A `GraphToken` that nothing can be decided on: it cannot be read, its spec is at fault, or its client is not known yet.

use std::time::Duration;

use jiff::Timestamp;

use super::{Failed, TIMER, save};
use crate::api::{ConditionStatus, ConditionType, GraphToken, GraphTokenStatus};
use crate::cache::Undecodable;
use crate::clients::Unresolved;
use crate::context::Context;
use crate::desired::SpecError;
use crate::observe;
use crate::observed::Identity;
use crate::state::Memory;
use crate::status;

/// The operator may be replaced by one that reads the spec without a change of the object.
const UNDECODABLE_PAUSE: Duration = Duration::from_hours(1);

/// Tells the author of a `GraphToken` whose spec does not decode. All else in the status stays as it is.
pub(super) async fn refuse(
    undecodable: &Undecodable,
    identity: &Identity,
    ctx: &Context,
    memory: &mut Memory,
) -> Result<Option<Duration>, Failed> {
    let before = observe::status(undecodable.status.as_ref(), memory);
    let error = SpecError::Undecodable(undecodable.error.clone());
    let status = GraphTokenStatus {
        next_refresh_time: before.next_refresh_time,
        ..status::project_invalid(identity, &before, &error, ctx.now())
    };
    save(ctx, identity, memory, &before, status).await?;
    Ok(Some(UNDECODABLE_PAUSE))
}

/// There is nothing to go by: the status says why, and the watches bring the end of it.
pub(super) async fn undecided(
    object: &GraphToken,
    identity: &Identity,
    ctx: &Context,
    memory: &mut Memory,
    unresolved: Unresolved,
) -> Result<Option<Duration>, Failed> {
    let (before, now) = (observe::status(object.status.as_ref(), memory), ctx.now());
    let left = before.expires_at.map(|at| Timestamp::from(at).duration_since(now));
    let left = left.and_then(|left| Duration::try_from(left).ok()).filter(|left| !left.is_zero());
    let ready = before.condition(ConditionType::Ready).is_some_and(|c| c.status == ConditionStatus::True);
    // The caches are just being filled: what the status says is as good as before, while a token that is said to live does.
    let as_good = before.observed_generation == identity.generation && (left.is_some() || !ready);
    let status = match unresolved {
        Unresolved::Spec(error) => status::project_invalid(identity, &before, &error, now),
        Unresolved::Unknown(None) if as_good => before.clone(),
        Unresolved::Unknown(why) => status::project_unknown(identity, &before, why.as_deref(), now),
    };
    save(ctx, identity, memory, &before, status).await?;
    Ok(left.map(|left| left + TIMER))
}
