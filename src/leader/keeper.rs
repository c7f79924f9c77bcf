//! Reads and writes the Lease, as [`claim`] decides.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease as KubeLease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, api::PostParams};
use tokio::time::{Instant, error::Elapsed, timeout};

use super::{
    Candidate, LEASE_NAME,
    claim::{Claim, Record, Sighting, claim},
};
use crate::{clock::Clock, kubeclient::describe};

pub(super) const MAX_RETRY: Duration = Duration::from_secs(2);
const MIN_RETRY: Duration = Duration::from_millis(100);

/// How an attempt ended.
pub(super) enum Standing {
    /// The Lease is ours by a request sent then.
    Held { sent: Instant, sent_wall: Timestamp },
    /// It is another's.
    Rival { until: Instant },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no answer in time")]
    Deadline(#[from] Elapsed),
    #[error("{}", describe(.0))]
    Kube(#[from] kube::Error),
    #[error("namespace {0} does not exist: create it, or name one that exists with --lease-namespace")]
    NoNamespace(String),
}

impl Error {
    /// Another wrote first, or deleted the Lease before it could be replaced.
    pub(super) fn lost_race(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }
}

/// Reads and writes the Lease.
pub(super) struct Keeper {
    api: Api<KubeLease>,
    namespace: String,
    me: String,
    pub(super) duration: Duration,
    clock: Clock,
    /// The Lease as last read or written, and since when it is so.
    seen: Option<(KubeLease, Sighting<Instant>)>,
    /// `seen` may be behind: read before the next decision.
    stale: bool,
    /// The Lease may name us: a write succeeded, or its outcome is unknown.
    mine: bool,
}

impl Keeper {
    pub(super) fn new(Candidate { client, namespace, identity, duration, clock }: Candidate) -> Self {
        let api = Api::namespaced(client, &namespace);
        Self { api, namespace, me: identity, duration, clock, seen: None, stale: true, mine: false }
    }

    pub(super) fn retry(&self) -> Duration {
        (self.duration / 10).clamp(MIN_RETRY, MAX_RETRY)
    }

    /// Of each request: shorter than the time between two renewals.
    fn deadline(&self) -> Duration {
        self.duration / 4
    }

    /// Reads if need be, decides, and acts.
    pub(super) async fn attempt(&mut self) -> Result<Standing, Error> {
        if self.stale {
            self.read().await?;
        }
        let seen = self.seen.as_ref().map(|(_, sighting)| sighting);
        let claim = claim(seen, &self.me, Instant::now());
        if let Claim::Wait { until } = claim {
            self.stale = true;
            return Ok(Standing::Rival { until });
        }
        let (sent_wall, sent) = (self.clock.now(), Instant::now());
        self.write(&self.me.clone()).await?;
        if claim != Claim::Renew {
            tracing::info!(identity = self.me, "leading");
        }
        Ok(Standing::Held { sent, sent_wall })
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
        let lease = successor(before, holder, self.duration, self.clock.now());
        let params = PostParams::default();
        (self.stale, self.mine) = (true, true);
        let written = if before.is_some() {
            timeout(self.deadline(), self.api.replace(LEASE_NAME, &params, &lease)).await
        } else {
            timeout(self.deadline(), self.api.create(&params, &lease)).await
        };
        let is_new = before.is_none();
        let lease =
            written.map_err(Error::from).and_then(|answer| Ok(answer?)).map_err(|error| match error {
                Error::Kube(kube::Error::Api(status)) if is_new && status.code == 404 => {
                    Error::NoNamespace(self.namespace.clone())
                }
                error => error,
            })?;
        let sighting = Sighting { record: record(&lease, self.duration), since: Instant::now() };
        self.seen = Some((lease, sighting));
        (self.stale, self.mine) = (false, !holder.is_empty());
        Ok(())
    }

    /// Leaves the Lease without a holder if it names us.
    pub(super) async fn give_back(&mut self) {
        // The first try may meet a version that is behind.
        for _ in 0..2 {
            let tried = self.try_give_back().await;
            match tried {
                Err(error) if error.lost_race() => {}
                Err(error) => {
                    return tracing::warn!(%error, "the Lease could not be released; it expires by itself");
                }
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
pub(super) fn record(lease: &KubeLease, own: Duration) -> Record {
    let seconds = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds);
    let duration =
        seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).map_or(own, Duration::from_secs);
    let version = lease.metadata.resource_version.clone().unwrap_or_default();
    Record { holder: holder(lease).to_owned(), version, duration }
}

/// The Lease to write after `before`, in the sense of
/// <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/lease-v1/>.
pub(super) fn successor(
    before: Option<&KubeLease>,
    holder: &str,
    duration: Duration,
    now: Timestamp,
) -> KubeLease {
    let new = || KubeLease {
        metadata: ObjectMeta { name: Some(LEASE_NAME.to_owned()), ..ObjectMeta::default() },
        spec: None,
    };
    let mut lease = before.cloned().unwrap_or_else(new);
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    // For people who read the Lease: nothing is decided by it.
    let now = MicroTime(now);
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
