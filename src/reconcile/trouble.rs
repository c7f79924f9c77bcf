//! What is said where the API server fails.

use crate::api::Reason;
use crate::observed::Identity;
use crate::plan::{Act, Plan, Problem};
use crate::store::StoreError;

/// The plan where even reading failed.
pub(super) fn unreadable(identity: &Identity, error: &StoreError) -> Plan {
    let Identity { namespace, name, .. } = identity;
    tracing::warn!(namespace, name, %error, "what the decision rests on could not be read");
    let problem = Problem { reason: Reason::StorageUnavailable.into(), message: storage_message(error) };
    Plan { act: Act::Wait, look_at: None, next_exchange: None, problem: Some(problem) }
}

pub(super) fn storage_message(error: &StoreError) -> String {
    let then = if error.is_transient() {
        "the operator tries again by itself"
    } else {
        "let whoever runs the cluster mend it; the operator tries again by itself"
    };
    format!("a Secret could not be read or written: {error}; {then}")
}

/// What an earlier `GraphToken` of the name left behind, while it cannot be stored.
pub(super) const OTHERS_COMMIT: &str = "the sign-in that an earlier GraphToken of this name used is being renewed, and the new one could \
    not be stored yet: it is kept in memory and tried again; let whoever runs the cluster see why Secrets cannot be written";

/// What an acquisition brought is in memory only, and why.
pub(super) fn not_stored_yet(error: &StoreError) -> String {
    format!(
        "a new token was acquired and could not be stored yet: it is kept in memory and tried again; {}",
        storage_message(error)
    )
}
