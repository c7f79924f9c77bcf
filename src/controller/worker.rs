//! The worker loop: takes what is due from the queue and reconciles each item in a task of its own.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock::ClockWatch;
use super::queue::{Ended, Item, Queue};
use crate::cache::{GraphTokenCache, Urgency};
use crate::context::Context;
use crate::metrics::Metrics;
use crate::reconcile::{Failed, Reconciled, reconcile};
use crate::retention::look_after;
use crate::slot::Slot;
use crate::state::{Key, Version};
use crate::store::StoreError;
use crate::supervise::{self, Heart};

/// The farthest that a timer is set: an `Instant` has an end.
const MAX_PAUSE: Duration = Duration::from_hours(24 * 365);
/// At the end of a term, reconciles have this long to end. They hold requests to the API server only, and one that is
/// aborted is repeated by the next leader.
const DRAIN: Duration = Duration::from_secs(15);

/// What the scopes enqueue, all in one queue: many namespaces do not mean many reconciles at once.
#[derive(Clone)]
pub struct Work {
    queue: Arc<Mutex<Queue>>,
    changed: Arc<Notify>,
    /// How many reconciles are running, as of the last round of the worker loop.
    running: Arc<watch::Sender<usize>>,
    /// How many reconciles there have been.
    begun: Arc<AtomicU64>,
}

/// What was reconciled, and how that ended.
struct Done {
    item: Item,
    ended: Ended,
    own: Vec<Version>,
}

impl Work {
    /// This many reconciles at once.
    pub fn new(concurrency: u16, graphtokens: GraphTokenCache) -> Self {
        let urgency = move |item: &Item| match item {
            Item::GraphToken(key) => graphtokens.urgency(key).unwrap_or(Urgency::New),
            // No user waits for it.
            Item::Credential(_) => Urgency::Failing,
        };
        let queue = Queue::new(usize::from(concurrency), urgency);
        Self {
            queue: Arc::new(Mutex::new(queue)),
            changed: Arc::default(),
            running: Arc::new(watch::Sender::new(0)),
            begun: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are due now.
    pub(super) fn enqueue(&self, items: impl IntoIterator<Item = Item>) {
        let mut items = items.into_iter().peekable();
        if items.peek().is_none() {
            return;
        }
        let (mut queue, now) = (self.lock(), Instant::now());
        items.for_each(|item| queue.enqueue(item, now));
        drop(queue);
        self.changed.notify_one();
    }

    /// A watch shows another version of an object that concerns these.
    pub(super) fn changed(&self, items: impl IntoIterator<Item = Item>, version: &Version) {
        let mut items = items.into_iter().peekable();
        if items.peek().is_none() {
            return;
        }
        let (mut queue, now) = (self.lock(), Instant::now());
        items.for_each(|item| queue.changed(item, version.clone(), now));
        drop(queue);
        self.changed.notify_one();
    }

    /// Gives a slot back.
    pub(crate) fn release(&self, namespace: &str) {
        self.lock().release(namespace);
        self.changed.notify_one();
    }

    /// Changes each time the worker loop has gone round.
    pub fn rounds(&self) -> watch::Receiver<usize> {
        self.running.subscribe()
    }

    /// Whether an item is due.
    pub fn is_due(&self) -> bool {
        self.lock().is_due(Instant::now())
    }

    /// Whether no reconcile is running and none is due.
    pub fn is_idle(&self) -> bool {
        *self.running.borrow() == 0 && !self.is_due()
    }

    /// When the next item is due.
    pub fn due(&self) -> Option<Instant> {
        self.lock().due()
    }

    /// How many reconciles there have been.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Reconciles until it is stopped.
    pub async fn run(self, reconciler: Arc<Reconciler>, heart: Heart, stop: CancellationToken) {
        let mut running = JoinSet::new();
        let mut beats = supervise::beats();
        let mut clock = ClockWatch::new(reconciler.ctx.now(), Instant::now());
        loop {
            let due = self.begin(&reconciler, &mut running);
            self.running.send_replace(running.len());
            // If the process is to exit, what acquisitions still bring is published first, and its status written.
            let acquisitions = &reconciler.ctx.exchanger.acquisitions;
            let exits = stop.is_cancelled() && acquisitions.are_stopping();
            let deadline = exits.then(|| acquisitions.deadline());
            let is_done = acquisitions.is_empty() && running.is_empty() && !self.is_due();
            if deadline.is_some_and(|deadline| is_done || Instant::now() >= deadline) {
                break;
            }
            tokio::select! {
                () = stop.cancelled(), if deadline.is_none() => {
                    if !acquisitions.are_stopping() {
                        break;
                    }
                    // Nothing else is begun.
                    self.lock().clear();
                    self.enqueue(acquisitions.ended_keys().into_iter().map(Item::GraphToken));
                }
                () = until(deadline) => {}
                () = self.changed.notified() => {}
                Some(ended) = running.join_next() => self.end(ended),
                () = until(due) => {}
                _ = beats.tick() => {
                    heart.beat();
                    if clock.jumped(reconciler.ctx.now(), Instant::now()) {
                        tracing::info!("the wall clock and the timers disagree: all that waits for a timer is reconciled");
                        let items = self.lock().items();
                        self.enqueue(items);
                    }
                }
            }
        }
        if tokio::time::timeout(DRAIN, async { while running.join_next().await.is_some() {} }).await.is_err()
        {
            tracing::warn!(reconciles = running.len(), "reconciles did not end in time and are aborted");
        }
    }

    /// Begins what is due and has a slot. Returns when the next item is due.
    fn begin(&self, reconciler: &Arc<Reconciler>, running: &mut JoinSet<Done>) -> Option<Instant> {
        let (items, due) = {
            let mut queue = self.lock();
            let items: Vec<Item> = std::iter::from_fn(|| queue.next(Instant::now())).collect();
            (items, queue.due())
        };
        // Not under the lock: a slot takes it when it is dropped.
        for item in items {
            self.begun.fetch_add(1, Ordering::Relaxed);
            let slot = Slot::new(self, &item);
            running.spawn(Arc::clone(reconciler).reconcile(item, slot));
        }
        due
    }

    fn end(&self, ended: Result<Done, JoinError>) {
        // None is cancelled, and a panic is caught within.
        if let Ok(Done { item, ended, own }) = ended {
            self.lock().done(item, ended, &own, Instant::now());
        }
    }
}

/// Resolves then; `None`: never.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What reconciles.
pub struct Reconciler {
    /// The `GraphToken`s.
    pub graphtokens: GraphTokenCache,
    /// What reconciles share.
    pub ctx: Arc<Context>,
    /// Where each is counted.
    pub metrics: Metrics,
}

impl Reconciler {
    async fn reconcile(self: Arc<Self>, item: Item, slot: Slot) -> Done {
        let began = Instant::now();
        let reconciled = AssertUnwindSafe(self.dispatch(&item, slot)).catch_unwind().await;
        self.metrics.reconciled(began.elapsed());
        let (ended, own) = match reconciled {
            Ok(Reconciled { result: Ok(next), own }) => {
                let next = next.and_then(|pause| Instant::now().checked_add(pause.min(MAX_PAUSE)));
                (Ended::Well(next), own)
            }
            Ok(Reconciled { result: Err(Failed { error, due }), own }) => {
                log(&item, &error);
                (Ended::Failed(due.and_then(|due| Instant::now().checked_add(due.min(MAX_PAUSE)))), own)
            }
            // The hook has logged it. One object's defect does not stop the others.
            Err(_) => (Ended::Panicked, Vec::new()),
        };
        Done { item, ended, own }
    }

    async fn dispatch(&self, item: &Item, slot: Slot) -> Reconciled {
        match item {
            Item::GraphToken(key) => reconcile(key, &self.graphtokens, slot, &self.ctx).await,
            Item::Credential(key) => {
                let (result, own) = look_after(key, &self.graphtokens, &self.ctx).await;
                Reconciled { result: result.map_err(Failed::from), own }
            }
        }
    }
}

/// An error of the API server. It is in no status, so it is logged.
fn log(item: &Item, error: &StoreError) {
    let (Item::GraphToken(Key { namespace, name }) | Item::Credential(Key { namespace, name })) = item;
    match error {
        // The watch brings the change.
        StoreError::Conflict | StoreError::Gone => {
            tracing::debug!(%error, namespace, name, "reconcile is repeated");
        }
        error => tracing::warn!(%error, namespace, name, "reconcile failed"),
    }
}
