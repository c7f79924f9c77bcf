//! The loops that the operator consists of: each beats while it works, and none may end by itself.
//!
//! A loop that ends or panics ends the process with an error, so that a standby takes over. A loop that hangs stops beating:
//! `/livez` says so, and the kubelet restarts the container. A loop that waits for an API server that does not answer beats.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// A loop beats this often at least.
pub const BEAT: Duration = Duration::from_secs(5);
/// A loop that has not beaten for this long hangs.
const HANGS: Duration = Duration::from_mins(1);

/// A loop that was to run until it is stopped has ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the task {task} {how}: the process exits so that another takes over")]
pub struct TaskEnded {
    task: &'static str,
    how: &'static str,
}

impl TaskEnded {
    /// It returned.
    pub const fn by_itself(task: &'static str) -> Self {
        Self { task, how: "ended by itself" }
    }

    /// It panicked; the panic is in the log.
    pub const fn by_panic(task: &'static str) -> Self {
        Self { task, how: "panicked" }
    }
}

/// The loops of this process and when each beat last. Clones share them.
#[derive(Clone, Default)]
pub struct Heartbeats(Arc<Mutex<Beats>>);

#[derive(Default)]
struct Beats {
    next: u64,
    last: BTreeMap<u64, (&'static str, Instant)>,
}

impl Heartbeats {
    fn lock(&self) -> MutexGuard<'_, Beats> {
        // A panic elsewhere leaves the map whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The heart of a loop that begins now. It is watched until it is dropped.
    pub fn of(&self, task: &'static str) -> Heart {
        let mut beats = self.lock();
        beats.next += 1;
        let number = beats.next;
        beats.last.insert(number, (task, Instant::now()));
        Heart { number, beats: self.clone() }
    }

    /// The name of a loop that hangs, if one does.
    pub fn hanging(&self) -> Option<&'static str> {
        let now = Instant::now();
        let beats = self.lock();
        let hangs = |at: &Instant| now.saturating_duration_since(*at) > HANGS;
        beats.last.values().find(|(_, at)| hangs(at)).map(|(task, _)| *task)
    }
}

/// One loop's.
pub struct Heart {
    number: u64,
    beats: Heartbeats,
}

impl Heart {
    /// The loop works.
    pub fn beat(&self) {
        let task = {
            let mut beats = self.beats.lock();
            let Some((task, at)) = beats.last.get_mut(&self.number) else { return };
            *at = Instant::now();
            *task
        };
        injected::panic_if_asked(task);
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.beats.lock().last.remove(&self.number);
    }
}

/// Ticks at each beat.
pub fn beats() -> Interval {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

/// Loops of which none may end before all are dropped.
#[derive(Default)]
pub struct Supervised(JoinSet<TaskEnded>);

impl Supervised {
    /// Starts one.
    pub fn spawn(&mut self, task: &'static str, body: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            match AssertUnwindSafe(body).catch_unwind().await {
                Ok(()) => TaskEnded::by_itself(task),
                Err(_) => TaskEnded::by_panic(task),
            }
        });
    }

    /// Resolves when one has ended. Never where there is none.
    pub async fn ended(&mut self) -> TaskEnded {
        loop {
            match self.0.join_next().await {
                Some(Ok(ended)) => return ended,
                // Nothing aborts them but the end of this.
                Some(Err(_)) => {}
                None => return std::future::pending().await,
            }
        }
    }
}

/// For tests of the supervision, in debug builds only: a loop panics at its next beat if the file that
/// `GRAPHTOKEN_TEST_PANIC` names holds the name of the loop.
#[cfg(debug_assertions)]
mod injected {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("GRAPHTOKEN_TEST_PANIC").map(PathBuf::from));

    pub(super) fn panic_if_asked(task: &str) {
        let asked = FILE.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        assert!(asked.is_none_or(|asked| asked.trim() != task), "a test asks the task {task} to panic");
    }
}

#[cfg(not(debug_assertions))]
mod injected {
    pub(super) const fn panic_if_asked(_: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stops_beating_hangs_until_it_is_gone() {
        let beats = Heartbeats::default();
        let (worker, elector) = (beats.of("worker"), beats.of("elector"));
        tokio::time::advance(HANGS).await;
        elector.beat();
        assert_eq!(beats.hanging(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(beats.hanging(), Some("worker"));
        worker.beat();
        assert_eq!(beats.hanging(), None);
        tokio::time::advance(HANGS * 2).await;
        elector.beat();
        drop(worker);
        assert_eq!(beats.hanging(), None, "a term that is over is not missed");
    }

    #[tokio::test]
    async fn a_loop_that_ends_or_panics_is_named() {
        let mut tasks = Supervised::default();
        tasks.spawn("watch", std::future::pending());
        tasks.spawn("worker", async {});
        assert_eq!(tasks.ended().await, TaskEnded::by_itself("worker"));
        tasks.spawn("elector", async { panic!("a defect") });
        assert_eq!(tasks.ended().await, TaskEnded::by_panic("elector"));
    }
}
