//! Leader election on a `Lease`: [`claim`] decides, [`campaign`] acts.
//!
//! A rival's expiry is judged by our monotonic clock since its record last changed, never by the times in it;
//! every write is a compare-and-swap on the resourceVersion. The Lease saves work and does not guard
//! data: a process may be stopped between looking at the clock and sending a request.

mod claim;
mod keeper;
#[cfg(test)]
mod tests;

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    pin::pin,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

pub use self::claim::{Claim, Record, Sighting, claim};
use self::keeper::{Keeper, Standing};
use crate::clock::Clock;

/// The name of the Lease.
pub const LEASE_NAME: &str = "graphtoken-operator";
/// The longest time between two heartbeats of a campaign.
pub const MAX_BEAT: Duration = Duration::from_secs(5);

// === What others see ===

/// Whether this process leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// No attempt has told yet.
    Unknown,
    /// Another process leads, or none.
    Standby,
    /// We lead.
    Leading {
        /// The Lease's duration after the last successful renewal was sent.
        valid_until: Instant,
        /// The same by the wall clock.
        wall_until: Timestamp,
    },
}

impl Leadership {
    fn valid_until(self) -> Option<Instant> {
        match self {
            Self::Unknown | Self::Standby => None,
            Self::Leading { valid_until, .. } => Some(valid_until),
        }
    }
}

/// A view of the leadership. Cheap to clone.
#[derive(Clone)]
pub struct Lease(Option<View>);

#[derive(Clone)]
struct View {
    leadership: watch::Receiver<Leadership>,
    clock: Clock,
}

impl Lease {
    /// Where election is switched off: always valid.
    pub const fn always() -> Self {
        Self(None)
    }

    /// Whether this process leads now, by the monotonic clock.
    pub fn leading(&self) -> bool {
        let Some(View { leadership, .. }) = &self.0 else { return true };
        // By the clock and not by the variant alone: the task that publishes it may be late.
        leadership.borrow().valid_until().is_some_and(|until| until > Instant::now())
    }

    /// Whether an attempt has told who leads. Always true without election.
    pub fn is_known(&self) -> bool {
        self.0.as_ref().is_none_or(|View { leadership, .. }| *leadership.borrow() != Leadership::Unknown)
    }

    /// Whether this process leads for `span` from now at least, should no renewal succeed.
    ///
    /// Both clocks must say so. The monotonic clock stands still while the machine is suspended, and another replica may
    /// lead by then. The wall clock may be set back, which then shortens nothing and extends nothing.
    pub fn outlives(&self, span: Duration) -> bool {
        let Some(View { leadership, clock }) = &self.0 else { return true };
        let Leadership::Leading { valid_until, wall_until } = *leadership.borrow() else { return false };
        let span_of_wall = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
        valid_until.saturating_duration_since(Instant::now()) > span
            && wall_until.duration_since(clock.now()) > span_of_wall
    }

    /// Waits until leadership is won or lost (a renewal is no change). Never resolves without election, or
    /// once the campaign is over. Safe to cancel.
    pub async fn changed(&mut self) {
        if let Some(View { leadership, .. }) = &mut self.0
            && leadership.changed().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}

/// Publishes; only winning and losing wake those who wait.
fn publish(leadership: &watch::Sender<Leadership>, new: Leadership) {
    leadership.send_if_modified(|old| {
        let turned = old.valid_until().is_some() != new.valid_until().is_some();
        *old = new;
        turned
    });
}

// === The campaign ===

/// Who stands for election, and where.
pub struct Candidate {
    /// Its requests must not be paced behind others.
    pub client: Client,
    /// The Lease's namespace.
    pub namespace: String,
    /// Unique among all candidates: [`identity`].
    pub identity: String,
    /// How long the Lease is valid without being renewed.
    pub duration: Duration,
    /// By which a suspended machine is noticed.
    pub clock: Clock,
}

/// `<hostname>_<random>`: unique to this process, and tells a person which pod it is.
pub fn identity() -> String {
    let name = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
    let name = name.or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok()).unwrap_or_default();
    // Keyed by the operating system's random source.
    format!("{}_{:016x}", name.trim(), RandomState::new().build_hasher().finish())
}

/// A running campaign. Dropped, it ends without giving the Lease back.
#[derive(Debug)]
pub struct Campaign {
    release: oneshot::Sender<()>,
    /// Until its end was seen.
    task: Option<JoinHandle<()>>,
}

/// A campaign that ended though nobody ended it: from then on the Lease is not renewed.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// A mistake of ours.
    #[error("the leader election panicked")]
    Panicked,
    /// It returned, or was aborted.
    #[error("the leader election ended")]
    Returned,
}

impl Campaign {
    /// Waits for the campaign to end by itself, which it should not: it is for supervision. Safe to cancel.
    pub async fn ended(&mut self) -> Result<(), Ended> {
        let Some(task) = &mut self.task else { return Err(Ended::Returned) };
        let end = task.await;
        self.task = None;
        Err(if end.is_err_and(|error| error.is_panic()) { Ended::Panicked } else { Ended::Returned })
    }

    /// Ends the campaign and gives the Lease back if we hold it, so that a standby takes over at once. Call it
    /// when all work that needs the Lease is done: until then it is kept.
    pub async fn release(self) {
        let _ = self.release.send(());
        if let Some(task) = self.task {
            let _ = task.await;
        }
    }
}

/// Starts to stand for election, in a task of its own.
///
/// `serving` is true while a term is served, or what it began is being finished. A process that holds the Lease for longer
/// than the Lease's duration without that gives it back. `beat` is called at least every [`MAX_BEAT`] while the task works.
pub fn campaign(
    candidate: Candidate,
    serving: watch::Receiver<bool>,
    beat: impl Fn() + Send + Sync + 'static,
) -> (Lease, Campaign) {
    let (leadership, view) = watch::channel(Leadership::Unknown);
    let (release, released) = oneshot::channel();
    let clock = candidate.clock.clone();
    let post = Post { leadership, beat: Box::new(beat) };
    let unserved = Unserved { serving, since: None, most: candidate.duration };
    let task = tokio::spawn(run(Keeper::new(candidate), post, unserved, released));
    (Lease(Some(View { leadership: view, clock })), Campaign { release, task: Some(task) })
}

async fn run(mut keeper: Keeper, post: Post, mut unserved: Unserved, mut released: oneshot::Receiver<()>) {
    let mut next = Instant::now();
    loop {
        let held = || post.leadership.borrow().valid_until().is_some();
        match post.during(unserved.until(next, held, &mut released)).await {
            // An attempt is not cancelled by a release: a write whose outcome is unknown could not be taken back.
            Step::Attempt => next = post.attempt(&mut keeper).await,
            Step::GiveBack => {
                tracing::error!("the Lease is held and no term is served; giving it back");
                publish(&post.leadership, Leadership::Standby);
                post.during(keeper.give_back()).await;
                next = Instant::now() + keeper.duration;
            }
            Step::End { release } => {
                publish(&post.leadership, Leadership::Standby);
                if release {
                    post.during(keeper.give_back()).await;
                }
                return;
            }
        }
    }
}

/// What is to be done next.
enum Step {
    Attempt,
    /// Nothing is done with the Lease, so another is to have it.
    GiveBack,
    End {
        release: bool,
    },
}

/// Notices that the Lease is held for nothing.
struct Unserved {
    serving: watch::Receiver<bool>,
    since: Option<Instant>,
    most: Duration,
}

impl Unserved {
    /// Waits for the next step; `next`: when an attempt is due.
    async fn until(
        &mut self,
        next: Instant,
        held: impl Fn() -> bool,
        released: &mut oneshot::Receiver<()>,
    ) -> Step {
        loop {
            let idle = held() && !*self.serving.borrow_and_update();
            self.since = idle.then(|| self.since.unwrap_or_else(Instant::now));
            let give_back_at = self.since.map(|since| since + self.most).filter(|at| *at <= next);
            let (at, step) = give_back_at.map_or((next, Step::Attempt), |at| (at, Step::GiveBack));
            tokio::select! {
                biased;
                told = &mut *released => return Step::End { release: told.is_ok() },
                // An error: the sender is gone, and the value is final.
                Ok(()) = self.serving.changed() => {}
                () = sleep_until(at) => return step,
            }
        }
    }
}

/// What the campaign shows to the rest of the process.
struct Post {
    leadership: watch::Sender<Leadership>,
    beat: Box<dyn Fn() + Send + Sync>,
}

impl Post {
    /// Makes an attempt; returns when the next is due.
    async fn attempt(&self, keeper: &mut Keeper) -> Instant {
        match self.during(keeper.attempt()).await {
            Ok(Standing::Held { sent, sent_wall }) => {
                let valid_until = sent + keeper.duration;
                let wall_until = sent_wall.saturating_add(keeper.duration).unwrap_or(Timestamp::MAX);
                publish(&self.leadership, Leadership::Leading { valid_until, wall_until });
                return sent + keeper.duration / 3;
            }
            Ok(Standing::Rival { until }) => {
                publish(&self.leadership, Leadership::Standby);
                return until.min(Instant::now() + keeper.retry());
            }
            // Most likely a rival's success, but perhaps somebody's label: the next attempt tells.
            Err(error) if error.lost_race() => {}
            Err(error) => tracing::warn!(%error, "the Lease could not be read or written"),
        }
        Instant::now() + keeper.retry()
    }

    /// Waits for `future`; meanwhile leadership ends by itself when its time is over, and the heart beats.
    async fn during<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        loop {
            (self.beat)();
            let beat_at = Instant::now() + MAX_BEAT;
            let valid_until = self.leadership.borrow().valid_until();
            tokio::select! {
                output = &mut future => return output,
                () = sleep_until(valid_until.map_or(beat_at, |until| until.min(beat_at))) => {}
            }
            if valid_until.is_some_and(|until| until <= Instant::now()) {
                tracing::warn!("the Lease was not renewed in time; standing by");
                publish(&self.leadership, Leadership::Standby);
            }
        }
    }
}
