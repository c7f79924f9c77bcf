//! A slot of the reconcile concurrency limit (`--concurrency`).
//!
//! A reconcile hands its slot on to the acquisition that it starts, so that ten thousand tokens that are due at once do not
//! become ten thousand acquisitions at once. An acquisition gives it back as soon as a provider or a commit lets it wait.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::controller::{Item, Work};

/// For this long a provider may keep a slot taken.
const PATIENCE: Duration = Duration::from_millis(500);

/// A slot. It is given back when it is dropped.
pub struct Slot(Mutex<Option<(Work, String)>>);

impl Slot {
    pub(crate) fn new(work: &Work, item: &Item) -> Self {
        Self(Mutex::new(Some((work.clone(), item.namespace().to_owned()))))
    }

    /// None, as of a reconcile that has handed its own on.
    pub const fn none() -> Self {
        Self(Mutex::new(None))
    }

    /// Gives it back.
    pub fn release(&self) {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((work, namespace)) = taken {
            work.release(&namespace);
        }
    }

    /// Waits for something that a provider has in its hand, and keeps the slot for half a second of that at most.
    pub async fn hold<T>(&self, provider: impl Future<Output = T>) -> T {
        let mut provider = std::pin::pin!(provider);
        if let Ok(done) = tokio::time::timeout(PATIENCE, &mut provider).await {
            return done;
        }
        self.release();
        provider.await
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.release();
    }
}
