//! One exchange of a credential at a time, whichever `GraphToken` or term of leadership began it: an exchange whose commit is
//! refused goes on in memory though its `GraphToken` was deleted, and one of the same name must not send its token again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Namespace and name of a `GraphToken`, by which its credential is named.
type Key = (String, String);
type Turns = HashMap<Key, Weak<tokio::sync::Mutex<()>>>;

/// The credentials of which an exchange is under way in this process.
#[derive(Clone, Default)]
pub struct InUse(Arc<Mutex<Turns>>);

/// The sole right to exchange a credential, until it is dropped.
pub struct Claim {
    key: Key,
    turns: InUse,
    guard: Option<OwnedMutexGuard<()>>,
}

impl InUse {
    /// Waits until no other exchange of this credential is under way. Safe to cancel.
    pub async fn claim(&self, namespace: &str, name: &str) -> Claim {
        let key = (namespace.to_owned(), name.to_owned());
        let turn = {
            let mut turns = self.lock();
            let known = turns.get(&key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::default();
                turns.insert(key.clone(), Arc::downgrade(&turn));
                turn
            })
        };
        Claim { key, turns: self.clone(), guard: Some(turn.lock_owned().await) }
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        // A panic elsewhere leaves the map whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        drop(self.guard.take());
        if turns.get(&self.key).is_some_and(|turn| turn.strong_count() == 0) {
            turns.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_credential_is_exchanged_by_one_at_a_time_and_then_forgotten() {
        let in_use = InUse::default();
        let first = in_use.claim("ns", "mail").await;
        let waiting = tokio::spawn({
            let in_use = in_use.clone();
            async move { in_use.claim("ns", "mail").await }
        });
        let _another = in_use.claim("ns", "other").await;
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        let second = waiting.await.unwrap();
        assert_eq!(in_use.lock().len(), 2);
        drop(second);
        assert_eq!(in_use.lock().len(), 1, "what nobody uses is not kept");
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_nothing_behind() {
        let in_use = InUse::default();
        let first = in_use.claim("ns", "mail").await;
        let mut waiting = Box::pin(in_use.claim("ns", "mail"));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(waiting);
        drop(first);
        assert!(in_use.lock().is_empty());
    }
}
