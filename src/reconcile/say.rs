//! Events of which no condition speaks.

use crate::context::Context;
use crate::desired::{Desired, Grant};
use crate::events::EventReason;
use crate::observed::{Observed, SeedState};
use crate::plan::{keeps_a_sign_in, policy_warning, refresh_token_warning};
use crate::state::{Key, Memory};

/// What no condition speaks of.
pub(super) async fn say(ctx: &Context, desired: &Desired, observed: &Observed, memory: &mut Memory) {
    let identity = &observed.identity;
    if let Some(warning) = policy_warning(desired, observed)
        && memory.said.insert("RenewBeforeTooLong".to_owned())
    {
        ctx.events.warning(identity, EventReason::RenewBeforeTooLong, &warning).await;
    }
    match refresh_token_warning(observed, ctx.now()) {
        None => _ = memory.said.remove("RefreshTokenExpiring"),
        Some(note) if memory.said.insert("RefreshTokenExpiring".to_owned()) => {
            ctx.events.warning(identity, EventReason::RefreshTokenExpiring, &note).await;
        }
        Some(_) => {}
    }
    say_of_a_malformed_seed(ctx, desired, observed, memory).await;
    if let Some(note) = ctx.state.ends.notice(&Key::new(&identity.namespace, &identity.name), ctx.now()) {
        ctx.events.warning(identity, EventReason::ClientCredentialExpiring, &note).await;
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
            ctx.events.warning(identity, EventReason::SeedShared, &note).await;
        }
    }
}

/// Where a sign-in is kept, no condition speaks of a seed that cannot be used.
async fn say_of_a_malformed_seed(ctx: &Context, desired: &Desired, observed: &Observed, memory: &mut Memory) {
    const SAID: &str = "SeedRejected ";
    let why = match &observed.seed {
        SeedState::Malformed(why) if keeps_a_sign_in(desired, observed) => Some(format!("{SAID}{why}")),
        _ => None,
    };
    memory.said.retain(|said| !said.starts_with(SAID) || Some(said) == why.as_ref());
    if let Some(why) = why.filter(|why| memory.said.insert(why.clone())) {
        let why = &why[SAID.len()..];
        let note = format!("the seed cannot be used, and the sign-in that is kept goes on: {why}");
        ctx.events.warning(&observed.identity, EventReason::SeedRejected, &note).await;
    }
}
