//! The acquisitions of this process: each a task that nothing cancels, and never two at once for one `GraphToken`.
//!
//! They belong to the process and not to a leadership term. A commit that the API server keeps rejecting is retried for as
//! long as the process lives, because the new refresh token is nowhere else. It holds the entry of its own `GraphToken` and
//! nothing more, so a new term begins without it. Its result goes to the controller that runs when it ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::report::Finished;
use crate::state::Key;
use crate::store::StoreError;

/// The controller of the present leadership term.
pub trait Listener: Send + Sync {
    /// Keeps what a task brought, for the `GraphToken` of this UID; `None`: the task panicked. A reconcile that finds
    /// nothing running finds this. It must not call back into [`Acquisitions`].
    fn keep(&self, key: &Key, uid: &str, finished: Option<Finished>);
    /// Enqueues a `GraphToken`: something that concerns it has ended, or cannot be stored.
    fn enqueue(&self, key: &Key);
}

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
    running: Mutex<HashMap<Key, Running>>,
    listener: Mutex<Option<Arc<dyn Listener>>>,
    tasks: TaskTracker,
    ended: AtomicU64,
    stopping: CancellationToken,
    /// Set once the process is about to exit.
    deadline: OnceLock<Instant>,
}

/// When the process is to exit, acquisitions have this long to end. With what follows that is less than the grace period of
/// 60 s in the chart.
const FINISH: Duration = Duration::from_secs(30);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the values whole: each change is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Acquisitions {
    /// None yet. Once `stopping` is cancelled, none starts and none sends another request.
    pub fn new(stopping: CancellationToken) -> Self {
        Self(Arc::new(Shared { stopping, ..Shared::default() }))
    }

    /// Whether the process is about to exit.
    pub fn are_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// Sets the controller of a leadership term; `None`: the term is over.
    pub fn set_listener(&self, listener: Option<Arc<dyn Listener>>) {
        *lock(&self.0.listener) = listener;
    }

    fn listener(&self) -> Option<Arc<dyn Listener>> {
        lock(&self.0.listener).clone()
    }

    /// What is running for a `GraphToken` of this name, whichever term started it.
    pub fn running(&self, key: &Key) -> Option<Running> {
        lock(&self.0.running).get(key).cloned()
    }

    /// Whether nothing is running.
    pub fn is_empty(&self) -> bool {
        lock(&self.0.running).is_empty()
    }

    /// How many have ended.
    pub fn ended(&self) -> u64 {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// Starts a task, unless one is running for this key or the process is about to exit. Returns whether it did.
    pub fn start<F>(&self, key: &Key, uid: &str, task: impl FnOnce(Progress) -> F) -> bool
    where
        F: Future<Output = Finished> + Send + 'static,
    {
        {
            let mut running = lock(&self.0.running);
            if running.contains_key(key) || self.are_stopping() {
                return false;
            }
            running
                .insert(key.clone(), Running { uid: uid.to_owned(), holds_a_token: false, unstored: None });
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
        let running = lock(&self.0.running);
        let unstored = running.iter().filter(|(_, running)| running.holds_a_token);
        unstored.map(|(key, _)| key.clone()).collect()
    }
}

/// By this a running acquisition reports.
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
        if let Some(running) = lock(&self.acquisitions.0.running).get_mut(&self.key) {
            running.holds_a_token = true;
        }
    }

    /// What was acquired cannot be stored for now. Returns whether that is news: the same error is reported once.
    pub fn unstored(&self, error: &StoreError) -> bool {
        let before = match lock(&self.acquisitions.0.running).get_mut(&self.key) {
            Some(running) => running.unstored.replace(error.clone()),
            None => return false,
        };
        let is_new = before.as_ref() != Some(error);
        if is_new && let Some(listener) = self.acquisitions.listener() {
            listener.enqueue(&self.key);
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
        let listener = self.acquisitions.listener();
        {
            self.acquisitions.0.ended.fetch_add(1, Ordering::Relaxed);
            // Both under this lock: who finds the entry gone finds the result.
            let mut running = lock(&self.acquisitions.0.running);
            let ended = running.remove(&self.key);
            if let (Some(listener), Some(Running { uid, .. })) = (&listener, ended) {
                listener.keep(&self.key, &uid, self.finished.take());
            }
        }
        if let Some(listener) = listener {
            listener.enqueue(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
