//! What follows a sign-in that was adopted.

use crate::api::names::login_name;
use crate::api::status::SignInSource;
use crate::context::Context;
use crate::events::EventReason;
use crate::observed::{Observed, SeedState};
use crate::plan::was_adopted;
use crate::state::{Login, Memory};
use crate::store::StoreError;
use crate::target;

/// A login that was adopted is deleted: what is in it is spent, or the operator's own by now. Returns whether none is left.
pub(super) async fn discard_login(ctx: &Context, observed: &Observed, memory: &Memory) -> bool {
    let Some(Login { meta, state: SeedState::Found { digest }, .. }) = memory.login.as_deref() else {
        return true;
    };
    if !was_adopted(digest, observed.credential()) {
        return true;
    }
    let identity = &observed.identity;
    let name = login_name(&identity.name);
    // At the version that was read: a newer one may hold a newer login.
    match target::delete(&ctx.exchanger.client, &identity.namespace, &name, meta.clone()).await {
        Ok(()) | Err(StoreError::Gone | StoreError::Conflict) => true,
        Err(error) => {
            tracing::warn!(
                namespace = identity.namespace, name = identity.name, %error, secret = name,
                "the login Secret could not be deleted yet"
            );
            false
        }
    }
}

/// By what a user signed in, for an event.
pub(super) const fn sign_in_event(source: SignInSource) -> (EventReason, &'static str) {
    match source {
        SignInSource::Seed => (
            EventReason::SeedAdopted,
            "the seed was exchanged; the operator keeps the sign-in from now on, and the seed may be deleted",
        ),
        SignInSource::Login => (
            EventReason::LoginAdopted,
            "the login was exchanged; the operator keeps the sign-in from now on, and deletes the login Secret",
        ),
        SignInSource::DeviceCode => {
            (EventReason::SignedIn, "a user signed in by device code; the operator keeps the sign-in")
        }
    }
}
