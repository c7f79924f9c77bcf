//! A slot of the reconcile concurrency limit (`--concurrency`).
//!
//! A reconcile hands its slot on to the acquisition that it starts, so that ten thousand tokens that are due at once do not
//! become ten thousand acquisitions at once. An acquisition gives it back as soon as a provider lets it wait: see
//! [`Slot::hold`].

use std::time::Duration;

use crate::controller::{Item, Work};

/// For this long a provider may keep a slot taken.
const PATIENCE: Duration = Duration::from_millis(500);

/// A slot. It is given back when it is dropped.
pub struct Slot(Option<(Work, String)>);

impl Slot {
    pub(crate) fn new(work: &Work, item: &Item) -> Self {
        Self(Some((work.clone(), item.namespace().to_owned())))
    }

    /// One that is of no queue, for tests.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Gives it back.
    pub fn release(&mut self) {
        if let Some((work, namespace)) = self.0.take() {
            work.release(&namespace);
        }
    }

    /// Waits for something that a provider has in its hand, and keeps the slot for half a second of that at most.
    pub async fn hold<T>(&mut self, provider: impl Future<Output = T>) -> T {
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
