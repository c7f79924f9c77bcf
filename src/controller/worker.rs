//! One reconcile at a time for each slot, and what is done with an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use tokio::sync::{Semaphore, watch};

use super::{ERROR_PAUSE, Everyone};
use crate::cache::Watched;
use crate::context::Context;
use crate::metrics::Metrics;
use crate::reconcile::{reconcile, refuse};
use crate::store::StoreError;

#[derive(Clone)]
pub(super) struct Worker {
    pub(super) slots: Arc<Semaphore>,
    pub(super) metrics: Metrics,
    /// Whether the cache of Secrets is filled. (The store's own `wait_until_ready` wakes only one of several tasks in kube 5.0.)
    pub(super) secrets_known: watch::Receiver<bool>,
    pub(super) everyone: Everyone,
    /// Set with the first reconcile that has all it needs.
    pub(super) began: Arc<AtomicBool>,
}

impl Worker {
    pub(super) async fn work(
        mut self,
        object: Arc<Watched>,
        ctx: Arc<Context>,
    ) -> Result<Action, StoreError> {
        // Neither can fail: the semaphore is never closed, and the writer lives as long as the watch.
        let _slot = self.slots.acquire().await;
        let _ = self.secrets_known.wait_for(|known| *known).await;
        self.everyone.all_heard().await;
        self.began.store(true, Ordering::Release);
        let began = tokio::time::Instant::now();
        let done = match object.decoded() {
            Ok(graphtoken) => reconcile(&graphtoken, &ctx).await,
            Err(invalid) => refuse(&invalid, &ctx).await,
        };
        self.metrics.reconciled(began.elapsed());
        done
    }
}

/// Only the API server's failures come here; they are in nobody's status, so they are logged.
#[expect(clippy::needless_pass_by_value, reason = "kube's signature")]
pub(super) fn on_error(object: Arc<Watched>, error: &StoreError, _: Arc<Context>) -> Action {
    match error {
        // Changed under our hands: the watch brings the news.
        StoreError::Conflict | StoreError::Gone => {
            tracing::debug!(%error, name = object.name_any(), "look again");
        }
        error => {
            tracing::warn!(%error, namespace = object.namespace(), name = object.name_any(), "look failed");
        }
    }
    Action::requeue(ERROR_PAUSE)
}
