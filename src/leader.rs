//! Leader election on a `Lease`: [`claim`] decides, [`campaign`] acts.
//!
//! A rival's expiry is judged by our monotonic clock since its record last changed, never by the times in it;
//! every write is a compare-and-swap on the resourceVersion. The Lease saves work and does not guard
//! data: a process may be stopped between looking at the clock and sending a request.

mod claim;
#[cfg(test)]
mod tests;

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    pin::pin,
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease as KubeLease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, error::Elapsed, sleep_until, timeout},
};

pub use self::claim::{Claim, Record, Sighting, claim};
use crate::kubeclient::describe;

/// The name of the Lease.
pub const LEASE_NAME: &str = "graphtoken-operator";
const MAX_RETRY: Duration = Duration::from_secs(2);
const MIN_RETRY: Duration = Duration::from_millis(100);

// === What others see ===

/// Whether this process leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Another process leads, or none.
    Standby,
    /// We lead.
    Leading {
        /// The Lease's duration after the last successful renewal was sent.
        valid_until: Instant,
    },
}

impl Leadership {
    fn valid_until(self) -> Option<Instant> {
        match self {
            Self::Standby => None,
            Self::Leading { valid_until } => Some(valid_until),
        }
    }
}

/// A view of the leadership. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lease(Option<watch::Receiver<Leadership>>);

impl Lease {
    /// Where election is switched off: always valid.
    pub const fn always() -> Self {
        Self(None)
    }

    /// Whether this process leads now.
    pub fn leading(&self) -> bool {
        self.outlives(Duration::ZERO)
    }

    /// Whether this process leads for `span` from now at least, should no renewal succeed.
    pub fn outlives(&self, span: Duration) -> bool {
        let Some(leadership) = &self.0 else { return true };
        // By the clock and not by the variant alone: whoever publishes it may be late.
        leadership
            .borrow()
            .valid_until()
            .is_some_and(|until| until.saturating_duration_since(Instant::now()) > span)
    }

    /// Waits until leadership is won or lost (a renewal is no change). Never resolves without election, or
    /// once the campaign is over. Safe to cancel.
    pub async fn changed(&mut self) {
        if let Some(leadership) = &mut self.0
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
    task: JoinHandle<()>,
}

impl Campaign {
    /// Ends the campaign and gives the Lease back if we hold it, so that a standby takes over at once. Call it
    /// when all work that needs the Lease is done: until then it is kept.
    pub async fn release(self) {
        let _ = self.release.send(());
        let _ = self.task.await;
    }
}

/// Starts to stand for election, in a task of its own.
pub fn campaign(candidate: Candidate) -> (Lease, Campaign) {
    let (leadership, view) = watch::channel(Leadership::Standby);
    let (release, released) = oneshot::channel();
    let task = tokio::spawn(run(Keeper::new(candidate), leadership, released));
    (Lease(Some(view)), Campaign { release, task })
}

async fn run(mut keeper: Keeper, leadership: watch::Sender<Leadership>, mut released: oneshot::Receiver<()>) {
    loop {
        // An attempt is not cancelled by a release: a write whose outcome is unknown could not be taken back.
        let next = match expiring(&leadership, keeper.attempt()).await {
            Ok(Standing::Held { sent }) => {
                publish(&leadership, Leadership::Leading { valid_until: sent + keeper.duration });
                sent + keeper.duration / 3
            }
            Ok(Standing::Rival { until }) => {
                publish(&leadership, Leadership::Standby);
                until.min(Instant::now() + keeper.retry())
            }
            // Most likely a rival's success, but perhaps somebody's label: the next look tells.
            Err(error) if error.lost_race() => Instant::now() + keeper.retry(),
            Err(error) => {
                tracing::warn!(%error, "the Lease could not be read or written");
                Instant::now() + keeper.retry()
            }
        };
        let told = expiring(&leadership, async {
            tokio::select! {
                told = &mut released => Some(told.is_ok()),
                () = sleep_until(next) => None,
            }
        });
        if let Some(release) = told.await {
            publish(&leadership, Leadership::Standby);
            if release {
                keeper.give_back().await;
            }
            return;
        }
    }
}

/// Waits for `future`; meanwhile leadership ends by itself when its time is over.
async fn expiring<F: Future>(leadership: &watch::Sender<Leadership>, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let Some(valid_until) = leadership.borrow().valid_until() else { return future.await };
        tokio::select! {
            output = &mut future => return output,
            () = sleep_until(valid_until) => {
                tracing::warn!("the Lease was not renewed in time; standing by");
                publish(leadership, Leadership::Standby);
            }
        }
    }
}

/// How an attempt ended.
enum Standing {
    /// The Lease is ours by a request sent then.
    Held { sent: Instant },
    /// It is another's.
    Rival { until: Instant },
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no answer in time")]
    Deadline(#[from] Elapsed),
    #[error("{}", describe(.0))]
    Kube(#[from] kube::Error),
}

impl Error {
    /// Another wrote first, or deleted the Lease.
    fn lost_race(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }
}

/// Reads and writes the Lease.
struct Keeper {
    api: Api<KubeLease>,
    me: String,
    duration: Duration,
    /// The Lease as last read or written, and since when it is so.
    seen: Option<(KubeLease, Sighting<Instant>)>,
    /// `seen` may be behind: read before the next decision.
    stale: bool,
    /// The Lease may name us: a write succeeded, or its outcome is unknown.
    mine: bool,
}

impl Keeper {
    fn new(Candidate { client, namespace, identity, duration }: Candidate) -> Self {
        let api = Api::namespaced(client, &namespace);
        Self { api, me: identity, duration, seen: None, stale: true, mine: false }
    }

    fn retry(&self) -> Duration {
        (self.duration / 10).clamp(MIN_RETRY, MAX_RETRY)
    }

    /// Of each request: shorter than the time between two renewals.
    fn deadline(&self) -> Duration {
        self.duration / 4
    }

    /// Reads if need be, decides, and acts.
    async fn attempt(&mut self) -> Result<Standing, Error> {
        if self.stale {
            self.read().await?;
        }
        let seen = self.seen.as_ref().map(|(_, sighting)| sighting);
        let claim = claim(seen, &self.me, Instant::now());
        if let Claim::Wait { until } = claim {
            self.stale = true;
            return Ok(Standing::Rival { until });
        }
        let sent = Instant::now();
        self.write(&self.me.clone()).await?;
        if claim != Claim::Renew {
            tracing::info!(identity = self.me, "leading");
        }
        Ok(Standing::Held { sent })
    }

    async fn read(&mut self) -> Result<(), Error> {
        let lease = timeout(self.deadline(), self.api.get_opt(LEASE_NAME)).await??;
        self.mine = lease.as_ref().is_some_and(|l| holder(l) == self.me);
        let previous = self.seen.take().map(|(_, sighting)| sighting);
        self.seen = lease.map(|lease| {
            let record = record(&lease, self.duration);
            (lease, Sighting::next(previous, record, Instant::now()))
        });
        self.stale = false;
        Ok(())
    }

    /// Creates or replaces what was seen, with `holder` as its holder, who may be nobody.
    async fn write(&mut self, holder: &str) -> Result<(), Error> {
        let before = self.seen.as_ref().map(|(lease, _)| lease);
        let lease = successor(before, holder, self.duration);
        let params = PostParams::default();
        (self.stale, self.mine) = (true, true);
        let written = if before.is_some() {
            timeout(self.deadline(), self.api.replace(LEASE_NAME, &params, &lease)).await
        } else {
            timeout(self.deadline(), self.api.create(&params, &lease)).await
        };
        let lease = written.map_err(Error::from).and_then(|answer| Ok(answer?))?;
        let sighting = Sighting { record: record(&lease, self.duration), since: Instant::now() };
        self.seen = Some((lease, sighting));
        (self.stale, self.mine) = (false, !holder.is_empty());
        Ok(())
    }

    /// Leaves the Lease without a holder if it names us.
    async fn give_back(&mut self) {
        // The first try may meet a version that is behind.
        for _ in 0..2 {
            let tried = self.try_give_back().await;
            match tried {
                Err(error) if error.lost_race() => {}
                Err(error) => return tracing::warn!(%error, "the Lease could not be given back; it runs out"),
                Ok(()) => return,
            }
        }
    }

    async fn try_give_back(&mut self) -> Result<(), Error> {
        if self.stale && self.mine {
            self.read().await?;
        }
        if self.mine {
            self.write("").await?;
            tracing::info!("gave the Lease back");
        }
        Ok(())
    }
}

fn holder(lease: &KubeLease) -> &str {
    lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or_default()
}

/// `own` is for a Lease without a duration.
fn record(lease: &KubeLease, own: Duration) -> Record {
    let seconds = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds);
    let duration =
        seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).map_or(own, Duration::from_secs);
    let version = lease.metadata.resource_version.clone().unwrap_or_default();
    Record { holder: holder(lease).to_owned(), version, duration }
}

/// The Lease to write after `before`, in the sense of
/// <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/lease-v1/>.
fn successor(before: Option<&KubeLease>, holder: &str, duration: Duration) -> KubeLease {
    let new = || KubeLease {
        metadata: ObjectMeta { name: Some(LEASE_NAME.to_owned()), ..ObjectMeta::default() },
        spec: None,
    };
    let mut lease = before.cloned().unwrap_or_else(new);
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    let now = wall_clock();
    if spec.holder_identity.as_deref().unwrap_or_default() != holder && !holder.is_empty() {
        spec.lease_transitions =
            Some(before.map_or(0, |_| spec.lease_transitions.unwrap_or(0).saturating_add(1)));
        spec.acquire_time = Some(now.clone());
    }
    spec.holder_identity = Some(holder.to_owned());
    // Rounded up: rivals wait no shorter than we believe ourselves leader.
    let seconds = if holder.is_empty() { 1 } else { duration.as_millis().div_ceil(1000).max(1) };
    spec.lease_duration_seconds = Some(i32::try_from(seconds).unwrap_or(i32::MAX));
    spec.renew_time = Some(now);
    lease
}

/// For people who look at the Lease: nothing is decided by it.
#[expect(clippy::disallowed_methods, reason = "an edge: the Lease records wall-clock times")]
fn wall_clock() -> MicroTime {
    MicroTime(jiff::Timestamp::now())
}
