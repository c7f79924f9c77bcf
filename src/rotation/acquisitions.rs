//! The acquisitions of this process: each a task that nothing cancels, and never two at once for one `GraphToken`.
//!
//! They belong to the process and not to a leadership term. A commit that the API server keeps rejecting is retried for as
//! long as the process lives, because the new refresh token is nowhere else. It holds the entry of its own `GraphToken` and
//! nothing more, so a new term begins without it. Its result waits here until a reconcile takes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::report::Finished;
use crate::state::Key;
use crate::store::StoreError;

/// Enqueues a `GraphToken`: what runs for it has ended, or cannot be stored.
pub type Enqueue = Arc<dyn Fn(&Key) + Send + Sync>;

/// A task that is running.
#[derive(Debug, Clone)]
pub struct Running {
    /// The UID of the `GraphToken` that it was started for.
    pub uid: String,
    /// Whether it holds a new refresh token that is stored nowhere yet.
    pub holds_a_token: bool,
    /// Why the latest try to store what it acquired failed.
    pub unstored: Option<StoreError>,
}

/// The acquisitions of this process. Clones share them.
#[derive(Clone, Default)]
pub struct Acquisitions(Arc<Shared>);

#[derive(Default)]
struct Shared {
    entries: Mutex<Entries>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// Set once the process is about to exit.
    deadline: OnceLock<Instant>,
}

#[derive(Default)]
struct Entries {
    running: HashMap<Key, Running>,
    /// What has ended, with the UID of the `GraphToken` that it was started for, until a reconcile takes it.
    ended: HashMap<Key, (String, Ended)>,
    /// That of the present leadership term.
    enqueue: Option<Enqueue>,
    /// How many have ended so far.
    count: u64,
}

/// What a task brought; `None`: it panicked.
pub type Ended = Option<Finished>;

/// When the process is to exit, acquisitions have this long to end. With what follows that is less than the grace period of
/// 60 s in the chart.
const FINISH: Duration = Duration::from_secs(30);

impl Acquisitions {
    /// None yet. Once `stopping` is cancelled, none starts and none sends another request.
    pub fn new(stopping: CancellationToken) -> Self {
        Self(Arc::new(Shared { stopping, ..Shared::default() }))
    }

    /// Whether the process is about to exit.
    pub fn are_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic elsewhere leaves the maps whole: each change is one call.
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how a leadership term enqueues; `None`: the term is over.
    pub fn set_enqueue(&self, enqueue: Option<Enqueue>) {
        self.lock().enqueue = enqueue;
    }

    /// What is running for a `GraphToken` of this name, started by any term.
    pub fn running(&self, key: &Key) -> Option<Running> {
        self.lock().running.get(key).cloned()
    }

    /// Takes what has ended for a `GraphToken` of this name. What was started for another UID is dropped.
    pub fn take(&self, key: &Key, uid: &str) -> Option<Ended> {
        self.lock().ended.remove(key).filter(|(of, _)| of == uid).map(|(_, ended)| ended)
    }

    /// The keys for which something has ended that was not taken yet.
    pub fn ended_keys(&self) -> Vec<Key> {
        self.lock().ended.keys().cloned().collect()
    }

    /// A `GraphToken` is gone, and with it what has ended for it.
    pub fn forget(&self, key: &Key) {
        self.lock().ended.remove(key);
    }

    /// Whether nothing is running.
    pub fn is_empty(&self) -> bool {
        self.lock().running.is_empty()
    }

    /// How many have ended.
    pub fn ended(&self) -> u64 {
        self.lock().count
    }

    /// Starts a task, unless one is running for this key or the process is about to exit. Returns whether it did.
    pub fn start<F>(&self, key: &Key, uid: &str, task: impl FnOnce(Progress) -> F) -> bool
    where
        F: Future<Output = Finished> + Send + 'static,
    {
        {
            let mut entries = self.lock();
            if entries.running.contains_key(key) || self.are_stopping() {
                return false;
            }
            let running = Running { uid: uid.to_owned(), holds_a_token: false, unstored: None };
            entries.running.insert(key.clone(), running);
        }
        let entry = Entry { key: key.clone(), acquisitions: self.clone(), finished: None };
        let task = task(Progress { key: key.clone(), acquisitions: self.clone() });
        self.0.tasks.spawn(async move {
            // All of it, not the one field.
            let mut entry = entry;
            entry.finished = Some(task.await);
        });
        true
    }

    /// Until when they may go on once the process is about to exit: for 30 s from when this is asked first.
    pub fn deadline(&self) -> Instant {
        *self.0.deadline.get_or_init(|| Instant::now() + FINISH)
    }

    /// Waits until all have ended, but not longer than [`Self::deadline`]. Returns the keys of those that hold a token that is
    /// not stored.
    pub async fn finish(&self) -> Vec<Key> {
        self.0.tasks.close();
        if !self.0.tasks.is_empty() {
            tracing::info!(acquisitions = self.0.tasks.len(), "waiting for acquisitions to end");
        }
        let _ = tokio::time::timeout_at(self.deadline(), self.0.tasks.wait()).await;
        let entries = self.lock();
        let unstored = entries.running.iter().filter(|(_, running)| running.holds_a_token);
        unstored.map(|(key, _)| key.clone()).collect()
    }
}

/// What a running acquisition reports by.
pub struct Progress {
    key: Key,
    acquisitions: Acquisitions,
}

impl Progress {
    /// Whose acquisition it is.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// A new refresh token came back. It is in memory only until the task ends.
    pub fn holds_a_token(&self) {
        if let Some(running) = self.acquisitions.lock().running.get_mut(&self.key) {
            running.holds_a_token = true;
        }
    }

    /// What was acquired cannot be stored for now. Returns whether that is news: the same error is reported once.
    pub fn unstored(&self, error: &StoreError) -> bool {
        let mut entries = self.acquisitions.lock();
        let Some(running) = entries.running.get_mut(&self.key) else { return false };
        let is_new = running.unstored.replace(error.clone()).as_ref() != Some(error);
        let enqueue = entries.enqueue.clone().filter(|_| is_new);
        drop(entries);
        if let Some(enqueue) = enqueue {
            enqueue(&self.key);
        }
        is_new
    }
}

/// The entry of a task. It goes when the task ends, also by a panic.
struct Entry {
    key: Key,
    acquisitions: Acquisitions,
    finished: Option<Finished>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut entries = self.acquisitions.lock();
        entries.count += 1;
        // Under one lock: who finds nothing running finds what has ended.
        if let Some(Running { uid, .. }) = entries.running.remove(&self.key) {
            entries.ended.insert(self.key.clone(), (uid, self.finished.take()));
        }
        let enqueue = entries.enqueue.clone();
        drop(entries);
        if let Some(enqueue) = enqueue {
            enqueue(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
