//! What is said where the API server fails.

use crate::api::Reason;
use crate::plan::{Act, Plan, Problem};
use crate::store::StoreError;

/// The plan where even reading failed.
pub(super) fn unreadable(error: &StoreError) -> Plan {
    tracing::warn!(%error, "what the decision rests on could not be read");
    let problem = Problem { reason: Reason::StorageUnavailable, message: storage_message(error) };
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

/// An exchange takes long: why, if that is known.
pub(super) fn not_stored_yet(trouble: Option<&StoreError>) -> String {
    let why = trouble
        .map_or("let whoever runs the cluster see why Secrets cannot be written".to_owned(), storage_message);
    format!(
        "a new token was got, or is about to be, and could not be stored yet: it is kept in memory and tried again; {why}"
    )
}
