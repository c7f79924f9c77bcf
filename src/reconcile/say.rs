//! Events of which no condition speaks.

use crate::context::Context;
use crate::desired::{Desired, Grant};
use crate::events::EventReason;
use crate::observed::{Observed, SeedState};
use crate::plan::{policy_warning, refresh_token_warning, seed_problem};
use crate::state::{Key, Memory};

/// What no condition speaks of.
pub(super) fn say(ctx: &Context, desired: &Desired, observed: &Observed, memory: &mut Memory) {
    let identity = &observed.identity;
    if let Some(warning) = policy_warning(desired, observed)
        && memory.said.insert("RenewBeforeTooLong".to_owned())
    {
        ctx.events.warning(identity, EventReason::RenewBeforeTooLong, &warning);
    }
    match refresh_token_warning(observed, ctx.now()) {
        None => _ = memory.said.remove("RefreshTokenExpiring"),
        Some(note) if memory.said.insert("RefreshTokenExpiring".to_owned()) => {
            ctx.events.warning(identity, EventReason::RefreshTokenExpiring, &note);
        }
        Some(_) => {}
    }
    say_of_the_seed(ctx, desired, observed, memory);
    if let Some(note) = ctx.state.ends.notice(&Key::new(&identity.namespace, &identity.name), ctx.now()) {
        ctx.events.warning(identity, EventReason::ClientCredentialExpiring, &note);
    }
    if let Grant::RefreshToken { seed } = &desired.grant
        && matches!(observed.seed, SeedState::Found { .. })
    {
        let key = |name: &str| Key::new(&identity.namespace, name);
        let others = ctx.state.share_seed(&key(&seed.name), &key(&identity.name));
        if !others.is_empty() && memory.said.insert("SeedShared".to_owned()) {
            let note = format!(
                "Secret {} is also the seed of {}: at a server that takes a refresh token once, only one of them can sign in",
                seed.name,
                others.join(", ")
            );
            ctx.events.warning(identity, EventReason::SeedShared, &note);
        }
    }
}

/// A seed that cannot be used, beside a sign-in that is kept, is reported once.
fn say_of_the_seed(ctx: &Context, desired: &Desired, observed: &Observed, memory: &mut Memory) {
    const SAID: &str = "SeedRejected ";
    let problem = seed_problem(desired, observed);
    let key = problem.as_ref().map(|(digest, note)| format!("{SAID}{digest:?} {note}"));
    memory.said.retain(|said| !said.starts_with(SAID) || Some(said) == key.as_ref());
    if let Some(((_, note), key)) = problem.zip(key)
        && memory.said.insert(key)
    {
        ctx.events.warning(&observed.identity, EventReason::SeedRejected, &note);
    }
}
