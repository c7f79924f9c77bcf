//! Populations that come due: what a refresh costs, how fast they go, and whether any pod is left with an expired token.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::World;
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
/// Two thirds of what a token of these populations has to live: jitter spreads a tenth of the rest.
const SPREAD_SHARE: i64 = 10;
/// How long before the first is due the operator is started, once all are written.
const LEAD: Duration = Duration::from_secs(5);

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
    /// At the end.
    after: Memory,
    /// How long `GraphToken`s that were applied meanwhile waited.
    newcomers: Vec<Duration>,
    left: Duration,
}

impl World {
    pub(super) async fn refreshes(&self, grant: Grant, count: usize) -> Result<(), Failed> {
        say(&format!("{count} refreshes, {}", grant.name()));
        let floor = self.bare_refreshes(grant, count).await?;
        let storm = self.come_due(grant, count, &Due { within: 6 }, false).await?;
        self.cost(grant, count, &storm, floor);
        Ok(())
    }

    fn cost(&self, grant: Grant, count: usize, storm: &Storm, floor: Done) {
        let refreshes = float(count as u64);
        let ms = |cpu: Duration| cpu.as_secs_f64() * 1000.0 / refreshes;
        let parameters = json!({
            "n": count, "grant": grant.name(), "concurrency": CONCURRENCY, "starting_included": !storm.before_due,
            "provider_cpu_ms": rounded(ms(storm.provider_cpu)), "bare_loop_per_second": rounded(refreshes / floor.seconds),
        });
        let floor_ms = floor.cpu * 1000.0 / refreshes;
        let name = format!("CPU of one refresh, {}, of {count}", grant.name());
        self.figure(
            &name,
            ms(storm.cpu),
            "ms",
            Some(("bare loop", floor_ms)),
            Goal::RatioAtMost(1.3),
            parameters,
        );
        let (reads, writes) = tally(&storm.requests);
        let (most_reads, most_writes) = match grant {
            Grant::ClientCredentials => (0, 2),
            Grant::RefreshToken => (1, 4),
        };
        let each: BTreeMap<_, _> =
            storm.requests.iter().map(|(what, times)| (what, rounded(float(*times) / refreshes))).collect();
        let parameters = json!({"n": count, "grant": grant.name(), "requests_each": each, "exchanges_each": float(storm.exchanges) / refreshes});
        let name = format!("API requests of one refresh, {}, of {count}", grant.name());
        let total = (float(reads) + float(writes)) / refreshes;
        self.figure(
            &name,
            total,
            "requests",
            None,
            Goal::AtMost(float(most_reads + most_writes)),
            parameters,
        );
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
        let first = self.first_due(grant, count);
        let times = due.times(first);
        say(&format!("writing {count} {} that come due at {first}", grant.name()));
        drop(populate(&self.client, &kind, count, times).await?);
        let targets = Targets::watch(&self.client, NAMESPACE).await;
        let until_due = Duration::try_from(first.duration_since(wall_clock())).unwrap_or_default();
        sleep(until_due.saturating_sub(LEAD)).await;
        let left = Duration::try_from(times.expires_at().duration_since(wall_clock())).unwrap_or_default();

        let operator = Operator::start(&self.setup).await?;
        let looked = operator.looks(count as u64, PATIENCE).await?;
        let looked_after = operator.began.elapsed();
        let idle = operator.memory()?;
        let early = looked.issued();
        let until_due = Duration::try_from(first.duration_since(wall_clock())).unwrap_or_default();
        let before_due = !until_due.is_zero();
        let (cpu, provider_cpu, exchanges) =
            (operator.cpu()?, self.provider_cpu()?, self.provider.exchanges().await?);
        let began = now() + until_due;
        let arriving =
            async { if newcomers { self.newcomers(&targets, began).await } else { Ok(Vec::new()) } };
        let refreshing = async {
            let ended = targets.refreshed(count as u64, PATIENCE).await?;
            say("all are refreshed");
            Ok::<_, Failed>(ended)
        };
        let (waits, ended) = futures::future::try_join(arriving, refreshing).await?;
        let end = operator.quiet().await?;
        let storm = Storm {
            took: ended.saturating_duration_since(began),
            cpu: operator.cpu()?.saturating_sub(cpu),
            provider_cpu: self.provider_cpu()?.saturating_sub(provider_cpu),
            requests: difference(&looked, &end),
            exchanges: self.provider.exchanges().await? - exchanges,
            expired_seconds: targets.expired_seconds(wall_clock()),
            looked_after,
            before_due,
            start_requests: looked.requests(),
            early,
            idle,
            after: operator.memory()?,
            newcomers: waits,
            left,
        };
        if newcomers {
            operator.stop().await?;
            self.restart(grant, count).await?;
        } else {
            operator.stop().await?;
        }
        drop(targets);
        purge(&self.client, NAMESPACE).await?;
        Ok(storm)
    }

    /// When the population will have been written, on a slow machine too: about a dozen milliseconds for each write.
    fn first_due(&self, grant: Grant, count: usize) -> Timestamp {
        let writes: u64 = match grant {
            Grant::ClientCredentials => 3,
            Grant::RefreshToken => 5,
        };
        let millis = 5_000 + count as u64 * writes * 4;
        wall_clock() + SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// A few `GraphToken`s applied in the midst of it.
    async fn newcomers(&self, targets: &Targets, began: Instant) -> Result<Vec<Duration>, Failed> {
        let kind = self.kind(Grant::ClientCredentials);
        let mut waits = Vec::new();
        for number in 0..5 {
            tokio::time::sleep_until(began + Duration::from_secs(5 + 5 * number)).await;
            let number = 90_000 + usize::try_from(number).unwrap_or_default();
            let applied = now();
            kind.apply(&self.client, number).await?;
            let target = targets.one(&kind.name(number), PATIENCE).await?;
            waits.push(target.created - applied);
        }
        Ok(waits)
    }

    pub(super) async fn storm(&self) -> Result<(), Failed> {
        let (grant, count) = (Grant::RefreshToken, self.size.storm);
        let within = if self.short { 6 } else { 60 };
        let storm = Box::pin(self.come_due(grant, count, &Due { within }, true)).await?;
        let floor = self.bare_refreshes(grant, self.size.storm_floor).await?;
        self.cost(grant, count, &storm, floor);
        let rate = float(count as u64) / storm.took.as_secs_f64();
        let bare = float(self.size.storm_floor as u64) / floor.seconds;
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
        self.memory_of(
            "resident memory when nothing is due",
            count,
            storm.idle,
            (count == 10_000).then_some(64.0),
        );
        self.memory_of("resident memory after all were refreshed", count, storm.after, None);
        let parameters = json!({"n": count, "requests": storm.start_requests, "exchanges": storm.early});
        let name = format!("start with {count}, until all were looked at");
        self.figure(&name, storm.looked_after.as_secs_f64(), "s", None, Goal::None, parameters);
        Ok(())
    }

    fn memory_of(&self, what: &str, count: usize, memory: Memory, most: Option<f64>) {
        let parameters = json!({
            "n": count, "anonymous_mib": super::mib(memory.anonymous), "peak_mib": super::mib(memory.peak),
            "foreign_secrets": self.size.foreign.0,
        });
        let goal = most.map_or(Goal::None, Goal::AtMost);
        self.figure(&format!("{what}, {count}"), super::mib(memory.rss), "MiB", None, goal, parameters);
    }

    /// A restart on a population in which nothing is due, and then one with one that is new.
    async fn restart(&self, grant: Grant, count: usize) -> Result<(), Failed> {
        let before = self.provider.exchanges().await?;
        let targets = Targets::watch(&self.client, NAMESPACE).await;
        // Due work: one that nobody has served yet, there before the start.
        let kind = self.kind(Grant::ClientCredentials);
        kind.apply(&self.client, 95_000).await?;
        let operator = Operator::start(&self.setup).await?;
        let target = targets.one(&kind.name(95_000), PATIENCE).await?;
        let goes_on = target.created.saturating_duration_since(operator.began);
        let all = operator.looks(count as u64 + 1, PATIENCE).await?;
        let end = operator.quiet().await?;
        let made = (self.provider.exchanges().await? - before).saturating_sub(1);
        let parameters = json!({"n": count, "grant": grant.name(), "requests": end.requests(), "at_first_look": all.requests()});
        self.figure(
            &format!("restart with {count}: exchanges"),
            float(made),
            "exchanges",
            None,
            Goal::AtMost(0.0),
            parameters,
        );
        let name = format!("restart with {count}: until due work goes on");
        self.figure(
            &name,
            goes_on.as_secs_f64(),
            "s",
            None,
            Goal::AtMost(3.0),
            json!({"n": count, "work": "a first token"}),
        );
        operator.stop().await
    }
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
