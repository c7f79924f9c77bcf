//! Populations that come due: what a refresh costs, how fast they go, and whether any pod is left with an expired token.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::World;
use crate::audit::Audit;
use crate::bare::{Bare, CONCURRENCY, Done, Job, populate};
use crate::cluster::{LOOP_NAMESPACE, NAMESPACE, purge};
use crate::operator::{Metrics, Operator};
use crate::population::{Grant, Kind, Times};
use crate::process::Memory;
use crate::report::{Goal, now, say};
use crate::stats::{float, rounded};
use crate::targets::Targets;
use crate::{Failed, wall_clock};

const PATIENCE: Duration = Duration::from_mins(10);
/// The life that is left to a token when it is due at the latest, in seconds.
const LEFT: u64 = 300;
/// The operator's jitter moves each up to a tenth of its age earlier: tokens of one expiry come due within a tenth of that.
const SPREAD_SHARE: i64 = 10;
/// `GraphToken`s that are applied in the midst of it.
const NEWCOMERS: usize = 5;

/// Tokens of one expiry that come due within so many seconds, the last with [`LEFT`] to live.
struct Due {
    /// Seconds between the first and the last of them.
    within: i64,
}

impl Due {
    /// Times of tokens of which the first is due then. The operator's jitter moves each up to a tenth earlier.
    fn times(&self, first: Timestamp) -> Times {
        let age = self.within * SPREAD_SHARE;
        let issued_at = first - SignedDuration::from_secs(age - self.within);
        Times { issued_at, life: age + i64::try_from(LEFT).unwrap_or_default() }
    }

    /// The other way round.
    fn first(&self, times: Times) -> Timestamp {
        times.issued_at + SignedDuration::from_secs(self.within * SPREAD_SHARE - self.within)
    }
}

/// What became of a population that came due.
struct Storm {
    /// From when the first was due to when the last was refreshed.
    took: Duration,
    /// CPU of the operator in this time.
    cpu: Duration,
    /// CPU of the provider in this time.
    provider_cpu: Duration,
    /// Requests by kind.
    requests: BTreeMap<String, u64>,
    /// The same as the API server's audit log has it; `None`: it was cut meanwhile.
    audited: Option<u64>,
    exchanges: u64,
    expired_seconds: f64,
    /// When the operator had looked at all of them, after its start.
    looked_after: Duration,
    /// Whether that was before the first was due, so that starting is not in the CPU.
    before_due: bool,
    /// Requests of the start.
    start_requests: BTreeMap<String, u64>,
    /// Exchanges made before anything was due.
    early: u64,
    /// While nothing was due.
    idle: Memory,
    /// The first scrape of `/metrics`: how long it took, its bytes, and the memory afterwards.
    scrape: (Duration, usize, Memory),
    /// At the end.
    after: Memory,
    /// How long `GraphToken`s that were applied meanwhile waited.
    newcomers: Vec<Duration>,
    left: Duration,
}

impl World {
    pub(super) async fn refreshes(&self, grant: Grant, count: usize) -> Result<(), Failed> {
        say(&format!("{count} refreshes, {}", grant.name()));
        let floor =
            self.bare_refreshes(grant, count.min(self.size.storm_floor.max(self.size.applied))).await?;
        let storm = self.come_due(grant, count, &Due { within: 6 }, false).await?;
        purge(&self.client, NAMESPACE).await?;
        self.cost(grant, count, &storm, floor);
        if count >= self.size.storm && storm.before_due {
            self.memory_of(grant, "when nothing is due", count, storm.idle);
        }
        Ok(())
    }

    fn cost(&self, grant: Grant, count: usize, storm: &Storm, floor: Done) {
        let refreshes = float(storm.exchanges.max(1));
        let ms = |cpu: Duration| cpu.as_secs_f64() * 1000.0 / refreshes;
        let parameters = json!({
            "n": count, "grant": grant.name(), "concurrency": CONCURRENCY, "all_looked_at_before": storm.before_due,
            "refreshes": storm.exchanges, "bare_loop_n": floor.count, "provider_cpu_ms": rounded(ms(storm.provider_cpu)),
            "bare_loop_per_second": rounded(float(floor.count) / floor.seconds),
        });
        let floor_ms = floor.cpu * 1000.0 / float(floor.count);
        let name = format!("CPU of one refresh, {}, of {count}", grant.name());
        self.figure(
            &name,
            ms(storm.cpu),
            "ms",
            Some(("bare loop", floor_ms)),
            Goal::RatioAtMost(1.3),
            parameters,
        );
        let most = match grant {
            Grant::ClientCredentials => 2.0,
            Grant::RefreshToken => 5.0,
        };
        let each = |times: u64| rounded(float(times) / refreshes);
        let (reads, writes) = tally(&storm.requests);
        let by_kind: BTreeMap<_, _> =
            storm.requests.iter().map(|(what, times)| (what, each(*times))).collect();
        let parameters = json!({
            "n": count, "grant": grant.name(), "reads": each(reads), "writes": each(writes), "requests_each": by_kind,
            "by_audit_log": storm.audited.map(each),
        });
        let name = format!("API requests of one refresh, {}, of {count}", grant.name());
        self.figure(&name, each(reads + writes), "requests", None, Goal::AtMost(most), parameters);
    }

    async fn bare_refreshes(&self, grant: Grant, count: usize) -> Result<Done, Failed> {
        let times = Times { issued_at: wall_clock(), life: 3600 };
        let bare = Bare::prepare(&Job { kind: self.loop_kind(grant), count, refreshes: Some(times) }).await?;
        let done = bare.go().await?;
        purge(&self.client, LOOP_NAMESPACE).await?;
        Ok(done)
    }

    /// Writes a population, starts an operator, and follows until all are refreshed.
    async fn come_due(
        &self,
        grant: Grant,
        count: usize,
        due: &Due,
        newcomers: bool,
    ) -> Result<Storm, Failed> {
        let kind = Kind { renew_before: Some(LEFT), ..self.kind(grant) };
        // For the operator to have looked at all of them once, before the first is due.
        let lead =
            Duration::from_secs(5) + Duration::from_millis(4) * u32::try_from(count).unwrap_or_default();
        let (_, times) = populate(&self.client, &kind, count, |takes| {
            let first = wall_clock() + takes + lead;
            say(&format!("writing {count} {} of which the first is due at {first:.0}", grant.name()));
            due.times(first)
        })
        .await?;
        let first = due.first(times);
        let targets = Targets::watch(&self.client, NAMESPACE).await;
        sleep(until(first).saturating_sub(lead)).await;

        let operator = Operator::start(&self.setup).await?;
        let looked_after = operator.quiet(Some(now() + until(first))).await? - operator.began;
        let idle = operator.memory()?;
        let scraped = now();
        let looked = operator.metrics().await?;
        let scrape = (scraped.elapsed(), looked.bytes(), operator.memory()?);
        let (early, until_due) = (looked.issued(), until(first));
        let (cpu, provider_cpu, exchanges) =
            (operator.cpu()?, self.provider_cpu()?, self.provider.exchanges().await?);
        // The log is cut at 100 MB, which a storm fills.
        let audit =
            (!newcomers).then(|| (Audit::beside(&self.kubeconfig), Audit::beside(&self.kubeconfig).mark()));
        let began = now() + until_due;
        let left = until(times.expires_at()).saturating_sub(until_due);
        let arriving =
            async { if newcomers { self.newcomers(&targets, began).await } else { Ok(Vec::new()) } };
        let refreshing = targets.refreshed(count as u64, PATIENCE);
        let (newcomers, ended) = futures::future::try_join(arriving, refreshing).await?;
        say("all are refreshed");
        operator.quiet(None).await?;
        let cpu = operator.cpu()?.saturating_sub(cpu);
        let end = operator.metrics().await?;
        let storm = Storm {
            took: ended.saturating_duration_since(began),
            cpu,
            scrape,
            provider_cpu: self.provider_cpu()?.saturating_sub(provider_cpu),
            requests: difference(&looked, &end),
            audited: audit.map(|(audit, mark)| {
                let requests = audit.since(mark, NAMESPACE);
                (requests.all.len() + requests.events.len()) as u64
            }),
            exchanges: self.provider.exchanges().await? - exchanges,
            expired_seconds: targets.expired_seconds(wall_clock()),
            looked_after,
            before_due: !until_due.is_zero(),
            start_requests: looked.requests(),
            early,
            idle,
            after: operator.memory()?,
            newcomers,
            left,
        };
        operator.stop().await?;
        Ok(storm)
    }

    /// A few `GraphToken`s applied in the midst of it.
    async fn newcomers(&self, targets: &Targets, began: Instant) -> Result<Vec<Duration>, Failed> {
        let kind = Kind { prefix: "new".to_owned(), ..self.kind(Grant::ClientCredentials) };
        let mut waits = Vec::new();
        for number in 0..NEWCOMERS {
            let seconds = u64::try_from(number + 1).unwrap_or_default() * if self.short { 1 } else { 8 };
            tokio::time::sleep_until(began + Duration::from_secs(seconds)).await;
            waits.push(self.newcomer(targets, &kind, number).await?);
        }
        Ok(waits)
    }

    /// How long one that is applied now waits for its Secret.
    async fn newcomer(&self, targets: &Targets, kind: &Kind, number: usize) -> Result<Duration, Failed> {
        let applied = now();
        kind.apply(&self.client, number).await?;
        let target = targets.one(&kind.name(number), PATIENCE).await?;
        Ok(target.created - applied)
    }

    pub(super) async fn storm(&self) -> Result<(), Failed> {
        let (grant, count) = (Grant::RefreshToken, self.size.storm);
        let within = if self.short { 6 } else { 60 };
        let storm = Box::pin(self.come_due(grant, count, &Due { within }, true)).await?;
        self.restart(grant, count).await?;
        // Beside the whole population: the API server has as much to hold.
        let floor = self.bare_refreshes(grant, self.size.storm_floor).await?;
        purge(&self.client, NAMESPACE).await?;
        self.cost(grant, count, &storm, floor);
        let rate = float(count as u64) / storm.took.as_secs_f64();
        let bare = float(floor.count) / floor.seconds;
        let parameters = json!({
            "n": count, "grant": grant.name(), "due_within_s": within, "life_left_s": rounded(storm.left.as_secs_f64()),
            "took_s": rounded(storm.took.as_secs_f64()), "bare_loop_n": self.size.storm_floor, "concurrency": CONCURRENCY,
        });
        let name = format!("refreshes per second, {count} due at once");
        self.figure(
            &name,
            rate,
            "1/s",
            Some(("bare loop", bare)),
            Goal::RatioAtLeast(0.8),
            parameters.clone(),
        );
        let name = format!("seconds with an expired token, {count} due at once");
        self.figure(&name, storm.expired_seconds, "s", None, Goal::AtMost(0.0), parameters);
        let most = storm.newcomers.iter().max().copied().unwrap_or_default();
        let waits: Vec<_> = storm.newcomers.iter().map(|wait| rounded(wait.as_secs_f64())).collect();
        let name = "a GraphToken applied meanwhile, until its Secret";
        self.figure(
            name,
            most.as_secs_f64(),
            "s",
            None,
            Goal::AtMost(2.0),
            json!({"n": count, "each_s": waits}),
        );
        self.memory_of(grant, "after all were refreshed", count, storm.after);
        if storm.before_due {
            self.before_due(grant, count, &storm);
        } else {
            say(
                "the first came due before the operator had looked at all: its start and its rest were not measured",
            );
        }
        Ok(())
    }

    /// What there is to tell of the time in which nothing was due.
    fn before_due(&self, grant: Grant, count: usize, storm: &Storm) {
        self.memory_of(grant, "when nothing is due", count, storm.idle);
        let (took, bytes, memory) = storm.scrape;
        let parameters = json!({"n": count, "bytes": bytes, "resident_mib_after": super::mib(memory.rss)});
        self.figure(
            &format!("a scrape of /metrics, {count}"),
            took.as_secs_f64(),
            "s",
            None,
            Goal::None,
            parameters,
        );
        let parameters = json!({"n": count, "requests": storm.start_requests, "exchanges": storm.early});
        let name = format!("start with {count}, until all were looked at");
        self.figure(&name, storm.looked_after.as_secs_f64(), "s", None, Goal::None, parameters);
    }

    fn memory_of(&self, grant: Grant, when: &str, count: usize, memory: Memory) {
        let parameters = json!({
            "n": count, "grant": grant.name(), "anonymous_mib": super::mib(memory.anonymous), "peak_mib": super::mib(memory.peak),
            "foreign_secrets": self.size.foreign.0,
        });
        let goal = if count == 10_000 { Goal::AtMost(64.0) } else { Goal::None };
        let name = format!("resident memory {when}, {count} {}", grant.name());
        self.figure(&name, super::mib(memory.rss), "MiB", None, goal, parameters);
    }

    /// A restart on a population in which nothing is due, but one that nobody has served yet: the last that is listed.
    async fn restart(&self, grant: Grant, count: usize) -> Result<(), Failed> {
        say("a restart");
        let before = self.provider.exchanges().await?;
        let targets = Targets::watch(&self.client, NAMESPACE).await;
        let kind = Kind { prefix: "zzz".to_owned(), ..self.kind(Grant::ClientCredentials) };
        kind.apply(&self.client, 0).await?;
        let operator = Operator::start(&self.setup).await?;
        let target = targets.one(&kind.name(0), PATIENCE).await?;
        let goes_on = target.created.saturating_duration_since(operator.began);
        let looked_after = operator.quiet(None).await? - operator.began;
        let (cpu, memory) = (operator.cpu()?, operator.memory()?);
        let end = operator.metrics().await?;
        let made = (self.provider.exchanges().await? - before).saturating_sub(1);
        let parameters = json!({
            "n": count, "grant": grant.name(), "requests": end.requests(), "all_looked_at_s": rounded(looked_after.as_secs_f64()),
            "cpu_s": cpu.as_secs_f64(),
        });
        let name = format!("restart with {count}: exchanges of what is not due");
        self.figure(&name, float(made), "exchanges", None, Goal::AtMost(0.0), parameters);
        let name = format!("restart with {count}: until due work goes on");
        let parameters = json!({"n": count, "due": "one first token, of the GraphToken that is listed last"});
        self.figure(&name, goes_on.as_secs_f64(), "s", None, Goal::AtMost(3.0), parameters);
        self.memory_of(grant, "after a restart", count, memory);
        operator.stop().await
    }
}

/// From now.
fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(wall_clock())).unwrap_or_default()
}

fn difference(before: &Metrics, after: &Metrics) -> BTreeMap<String, u64> {
    let before = before.requests();
    let made = after.requests().into_iter().map(|(what, count)| {
        let earlier = before.get(&what).copied().unwrap_or_default();
        (what, count - earlier)
    });
    made.filter(|(_, count)| *count > 0).collect()
}

/// Reads and writes.
fn tally(requests: &BTreeMap<String, u64>) -> (u64, u64) {
    let reads = |what: &str| what.starts_with("get ") || what.starts_with("list ");
    let sum =
        |read: bool| requests.iter().filter(|(what, _)| reads(what) == read).map(|(_, count)| count).sum();
    (sum(true), sum(false))
}
