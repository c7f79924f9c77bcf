//! The work: who is woken waits for a turn in the queue, and is looked at by a task of its own.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ERROR_PAUSE;
use super::queue::Queue;
use crate::cache::{GraphTokenCache, Urgency};
use crate::context::Context;
use crate::metrics::Metrics;
use crate::reconcile::reconcile;
use crate::state::Key;
use crate::store::StoreError;

/// The farthest that a timer is set: an `Instant` has an end.
const MAX_PAUSE: Duration = Duration::from_hours(24 * 365);
/// After a panic, which is a mistake of ours.
const PANIC_PAUSE: Duration = Duration::from_mins(1);

/// Whom the scopes wake, all in one queue: many namespaces do not mean many looks at once.
#[derive(Clone)]
pub(super) struct Work {
    queue: Arc<Mutex<Queue>>,
    woken: Arc<Notify>,
}

/// Who was looked at, and when the next look is due.
type Looked = (Key, Option<Instant>);

impl Work {
    /// So many looks at once.
    pub(super) fn new(concurrency: u16, graphtokens: GraphTokenCache) -> Self {
        let urgency = move |key: &Key| graphtokens.urgency(key).unwrap_or(Urgency::New);
        let queue = Queue::new(usize::from(concurrency), urgency);
        Self { queue: Arc::new(Mutex::new(queue)), woken: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are to be looked at now.
    pub(super) fn wake(&self, keys: impl IntoIterator<Item = Key>) {
        let mut keys = keys.into_iter().peekable();
        if keys.peek().is_none() {
            return;
        }
        let (mut queue, now) = (self.lock(), Instant::now());
        keys.for_each(|key| queue.wake(key, now));
        drop(queue);
        self.woken.notify_one();
    }

    /// Works until it is stopped and what was begun is finished.
    pub(super) async fn run(self, looker: Arc<Looker>, stop: CancellationToken) {
        let mut running = JoinSet::new();
        loop {
            let due = self.begin(&looker, &mut running);
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.woken.notified() => {}
                Some(ended) = running.join_next() => self.end(ended),
                () = timer => {}
            }
        }
        running.join_all().await;
    }

    /// Begins what is due and has a slot; returns when the next is due.
    fn begin(&self, looker: &Arc<Looker>, running: &mut JoinSet<Looked>) -> Option<Instant> {
        let mut queue = self.lock();
        while let Some(key) = queue.next(Instant::now()) {
            running.spawn(Arc::clone(looker).look(key));
        }
        queue.due()
    }

    fn end(&self, ended: Result<Looked, JoinError>) {
        // It is never cancelled, and a panic is caught within.
        if let Ok((key, again)) = ended {
            self.lock().done(key, again);
        }
    }
}

/// What looks.
pub(super) struct Looker {
    pub(super) graphtokens: GraphTokenCache,
    pub(super) ctx: Arc<Context>,
    pub(super) metrics: Metrics,
}

impl Looker {
    async fn look(self: Arc<Self>, key: Key) -> Looked {
        let began = Instant::now();
        // As it is by now. Who is gone meanwhile needs no look.
        let read = || self.graphtokens.get(&key).map(|found| found.decoded());
        let done = AssertUnwindSafe(reconcile(&key, read, &self.ctx)).catch_unwind().await;
        self.metrics.reconciled(began.elapsed());
        let pause = match done {
            Ok(Ok(pause)) => pause,
            Ok(Err(error)) => Some(pause_after(&key, &error)),
            // The hook has logged it. What goes wrong with one GraphToken is not to stop all others.
            Err(_) => Some(PANIC_PAUSE),
        };
        let again = pause.and_then(|pause| Instant::now().checked_add(pause.min(MAX_PAUSE)));
        (key, again)
    }
}

/// Only the API server's failures come here; they are in nobody's status, so they are logged.
fn pause_after(key: &Key, error: &StoreError) -> Duration {
    let Key { namespace, name } = key;
    match error {
        // Changed under our hands: the watch brings the news.
        StoreError::Conflict | StoreError::Gone => tracing::debug!(%error, namespace, name, "look again"),
        error => tracing::warn!(%error, namespace, name, "look failed"),
    }
    ERROR_PAUSE
}
