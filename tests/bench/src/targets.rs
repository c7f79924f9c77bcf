//! What pods have, and since when: a watch on the targets' annotations.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use graphtoken::api::names::{ANNOTATION_EXPIRES_AT, ANNOTATION_REFRESHED_AT};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::Failed;
use crate::report::now;
use crate::stats::covered;

/// One target.
#[derive(Clone, Debug)]
pub struct Target {
    /// When the token in it expires.
    expires_at: Timestamp,
    /// The token that is in it.
    refreshed_at: String,
    /// When it was seen first.
    pub created: Instant,
}

#[derive(Default)]
struct Seen {
    targets: HashMap<String, Target>,
    refreshes: u64,
    last: Option<Instant>,
    /// Spans, in milliseconds since the epoch, in which a target held an expired token.
    expired: Vec<(i64, i64)>,
}

/// A running watch. It ends when it is dropped.
pub struct Targets {
    seen: Arc<Mutex<Seen>>,
    changed: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Targets {
    /// Begins to watch a namespace; returns when what is there is known.
    pub async fn watch(client: &Client, namespace: &str) -> Self {
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), namespace);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (change, changed) = watch::channel(());
        let (known, mut is_known) = watch::channel(false);
        let config = watcher::Config::default().labels("app.kubernetes.io/managed-by=graphtoken-operator");
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                let mut events = std::pin::pin!(watcher(api, config));
                while let Some(event) = events.next().await {
                    match event {
                        Ok(Event::Apply(secret) | Event::InitApply(secret)) => {
                            lock(&seen).note(&secret.metadata);
                        }
                        Ok(Event::InitDone) => {
                            known.send_replace(true);
                        }
                        // It is taken up again by itself.
                        _ => {}
                    }
                    change.send_replace(());
                }
            }
        });
        let _ = is_known.wait_for(|known| *known).await;
        Self { seen, changed, task }
    }

    async fn until<T>(
        &self,
        what: &str,
        patience: Duration,
        look: impl Fn(&Seen) -> Option<T>,
    ) -> Result<T, Failed> {
        let mut changed = self.changed.clone();
        let deadline = now() + patience;
        loop {
            if let Some(found) = look(&lock(&self.seen)) {
                return Ok(found);
            }
            let waited = timeout_at(deadline, changed.changed()).await;
            if !matches!(waited, Ok(Ok(()))) {
                return Err(Failed::new(format!("{what} were not seen in {} s", patience.as_secs())));
            }
        }
    }

    /// Waits until there are so many targets; returns when the last of them was seen first.
    pub async fn created(&self, count: usize, patience: Duration) -> Result<Instant, Failed> {
        let what = format!("{count} targets");
        self.until(&what, patience, |seen| {
            if seen.targets.len() < count {
                return None;
            }
            seen.targets.values().map(|target| target.created).max()
        })
        .await
    }

    /// Waits for one target.
    pub async fn one(&self, name: &str, patience: Duration) -> Result<Target, Failed> {
        self.until(name, patience, |seen| seen.targets.get(name).cloned()).await
    }

    /// Waits until targets were refreshed so often in all; returns when the last was.
    pub async fn refreshed(&self, times: u64, patience: Duration) -> Result<Instant, Failed> {
        self.until(&format!("{times} refreshes"), patience, |seen| {
            seen.last.filter(|_| seen.refreshes >= times)
        })
        .await
    }

    /// Seconds in which any target held an expired token, until now.
    pub fn expired_seconds(&self, until: Timestamp) -> f64 {
        let seen = lock(&self.seen);
        let until = until.as_millisecond();
        let still =
            seen.targets.values().map(|target| target.expires_at.as_millisecond()).filter(|end| *end < until);
        let spans: Vec<_> = seen.expired.iter().copied().chain(still.map(|end| (end, until))).collect();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a run")]
        let seconds = covered(&spans) as f64 / 1000.0;
        seconds
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    fn note(&mut self, meta: &ObjectMeta) {
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|annotations| annotations.get(key));
        // Credentials have no such annotation.
        let Some(expires_at) = annotation(ANNOTATION_EXPIRES_AT).and_then(|text| text.parse().ok()) else {
            return;
        };
        let refreshed_at = annotation(ANNOTATION_REFRESHED_AT).cloned().unwrap_or_default();
        let (name, at) = (meta.name.clone().unwrap_or_default(), now());
        let Some(target) = self.targets.get_mut(&name) else {
            let target = Target { expires_at, refreshed_at, created: at };
            self.targets.insert(name, target);
            return;
        };
        if target.refreshed_at == refreshed_at {
            return;
        }
        let wall = crate::wall_clock().as_millisecond();
        let ended = target.expires_at.as_millisecond();
        if ended < wall {
            self.expired.push((ended, wall));
        }
        *target = Target { expires_at, refreshed_at, created: target.created };
        self.refreshes += 1;
        self.last = Some(at);
    }
}
