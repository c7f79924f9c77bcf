//! A `GraphToken` that nothing can be decided on: it cannot be read, its spec is at fault, or its client is not known yet.

use std::time::Duration;

use jiff::Timestamp;
use kube::core::error_boundary::InvalidObject;

use super::{TIMER, identity, save};
use crate::api::{ConditionStatus, ConditionType, GraphToken, GraphTokenStatus};
use crate::clients::Unresolved;
use crate::context::Context;
use crate::desired::SpecError;
use crate::observe;
use crate::observed::Identity;
use crate::state::Memory;
use crate::status;
use crate::store::StoreError;

/// Tells the author of a `GraphToken` that does not decode, as after a CRD and an operator of different versions met.
pub(super) async fn refuse(invalid: &InvalidObject, ctx: &Context) -> Result<Option<Duration>, StoreError> {
    let identity = identity(&invalid.metadata);
    let error = SpecError::Undecodable(invalid.error.clone());
    let status = status::project_invalid(&identity, &GraphTokenStatus::default(), &error, ctx.now());
    match status::write(&ctx.exchanger.client, &identity, &status).await {
        // It was written: what comes back does not decode either.
        Ok(_) | Err(StoreError::Unanswered(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// There is nothing to go by: the status says why, and the watches bring the end of it.
pub(super) async fn undecided(
    object: &GraphToken,
    identity: &Identity,
    ctx: &Context,
    memory: &mut Memory,
    unresolved: Unresolved,
) -> Result<Option<Duration>, StoreError> {
    let (before, now) = (observe::status(object, memory), ctx.now());
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
