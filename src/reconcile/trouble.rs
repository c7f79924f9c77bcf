//! What is said where the API server fails.

use crate::api::Reason;
use crate::failure::Failure;
use crate::observed::Identity;
use crate::plan::{Act, Plan, Problem};
use crate::store::StoreError;

/// The plan where even reading failed.
pub(super) fn unreadable(identity: &Identity, error: &StoreError) -> Plan {
    let Identity { namespace, name, .. } = identity;
    tracing::warn!(namespace, name, %error, "what the decision rests on could not be read");
    waiting(storage_failure(error))
}

/// A plan that waits, and says why.
pub(super) fn waiting(failure: Failure) -> Plan {
    let Failure { message, administrator, .. } = failure;
    let problem = Problem { administrator, ..Problem::new(Reason::StorageUnavailable, message) };
    Plan { act: Act::Wait, look_at: None, next_exchange: None, problem: Some(problem) }
}

/// What is said where a Secret could not be read or written.
pub(super) fn storage_failure(error: &StoreError) -> Failure {
    Failure {
        message: storage_message(error),
        administrator: error.needs_administrator(),
        ..Failure::of(Reason::StorageUnavailable)
    }
}

fn storage_message(error: &StoreError) -> String {
    let then = if error.needs_administrator() {
        "a cluster administrator must act; the operator tries again by itself"
    } else {
        "the operator tries again by itself"
    };
    format!("a Secret could not be read or written: {error}; {then}")
}

/// The same where no error tells why.
pub(super) fn unstored(message: &str) -> Failure {
    Failure { message: message.to_owned(), ..Failure::of(Reason::StorageUnavailable) }
}

/// What an earlier `GraphToken` of the name left behind, while it cannot be stored.
pub(super) const OTHERS_COMMIT: &str = "the sign-in that an earlier GraphToken of this name used is being renewed, and the new one could \
    not be stored yet: it is kept in memory and tried again; ask a cluster administrator why Secrets cannot be written";

/// What an acquisition brought is in memory only, and why.
pub(super) fn not_stored_yet(error: &StoreError) -> Failure {
    Failure {
        message: format!(
            "a new token was acquired and could not be stored yet: it is kept in memory and tried again; {}",
            storage_message(error)
        ),
        administrator: error.needs_administrator(),
        ..Failure::of(Reason::StorageUnavailable)
    }
}
