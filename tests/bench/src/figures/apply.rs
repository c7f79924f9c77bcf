//! Many `GraphToken`s at once, until the last Secret is there.

use std::time::Duration;

use serde_json::json;

use super::World;
use crate::Failed;
use crate::bare::{Bare, CONCURRENCY, Done, Job, apply_all};
use crate::cluster::{LOOP_NAMESPACE, NAMESPACE, PREPARING, each, purge};
use crate::operator::Operator;
use crate::population::{Grant, Kind};
use crate::report::{Goal, now, say};
use crate::stats::{float, rounded};
use crate::targets::Targets;

const PATIENCE: Duration = Duration::from_mins(10);

/// What one round took.
struct Round {
    /// Until the last Secret was there.
    operator: Duration,
    bare: Duration,
    /// Of the operator for one `GraphToken`.
    cpu_ms: f64,
    /// Of the loop, which applied them too.
    bare_cpu: Done,
    requests: Vec<(String, f64)>,
}

impl World {
    pub(super) async fn applied(&self, grant: Grant) -> Result<(), Failed> {
        let count = self.size.applied;
        let mut rounds = Vec::new();
        for number in 0..self.size.rounds {
            say(&format!("{count} GraphTokens at once, {}, round {}", grant.name(), number + 1));
            rounds.push(self.round(grant, number + 1 == self.size.rounds).await?);
        }
        // The least of each: what else the machine did took time from some rounds.
        let least = |of: fn(&Round) -> f64| rounds.iter().map(of).fold(f64::INFINITY, f64::min);
        let (value, floor) =
            (least(|round| round.operator.as_secs_f64()), least(|round| round.bare.as_secs_f64()));
        let parameters = json!({
            "n": count, "grant": grant.name(), "concurrency": CONCURRENCY, "applied_at_once": PREPARING,
            "operator_s": rounds.iter().map(|round| rounded(round.operator.as_secs_f64())).collect::<Vec<_>>(),
            "bare_loop_s": rounds.iter().map(|round| rounded(round.bare.as_secs_f64())).collect::<Vec<_>>(),
            "cpu_ms_each": least(|round| round.cpu_ms),
            "bare_loop_cpu_ms_each_with_applying": least(|round| round.bare_cpu.cpu) * 1000.0 / float(count as u64),
            "requests_each": rounds.last().map(|round| round.requests.iter().cloned().collect::<std::collections::BTreeMap<_, _>>()),
        });
        let name = format!("{count} {} at once until the last Secret", grant.name());
        self.figure(&name, value, "s", Some(("bare loop", floor)), Goal::RatioAtMost(1.25), parameters);
        Ok(())
    }

    async fn seeds(&self, kind: &Kind, count: usize) -> Result<(), Failed> {
        each(0..count, PREPARING, |number| kind.seed(&self.client, number)).await
    }

    async fn round(&self, grant: Grant, last: bool) -> Result<Round, Failed> {
        let count = self.size.applied;
        let kind = self.loop_kind(grant);
        self.seeds(&kind, count).await?;
        let loop_targets = Targets::watch(&self.client, LOOP_NAMESPACE).await;
        let bare = Bare::prepare(&Job { kind, count, refreshes: None }).await?;
        let began = now();
        let (done, ended) =
            futures::future::try_join(bare.go(), loop_targets.created(count, PATIENCE)).await?;
        let bare = ended - began;
        drop(loop_targets);
        purge(&self.client, LOOP_NAMESPACE).await?;

        let kind = self.kind(grant);
        self.seeds(&kind, count).await?;
        let operator = Operator::start(&self.setup).await?;
        operator.quiet(None).await?;
        let before = operator.metrics().await?.requests();
        let cpu = operator.cpu()?;
        let targets = Targets::watch(&self.client, NAMESPACE).await;
        let began = now();
        apply_all(&self.client, &kind, count, |_| {}).await?;
        let ended = targets.created(count, PATIENCE).await?;
        operator.quiet(None).await?;
        let cpu = operator.cpu()?.saturating_sub(cpu);
        let requests = operator.metrics().await?.requests();
        if last {
            self.at_rest(&operator, grant, count).await?;
        }
        operator.stop().await?;
        drop(targets);
        purge(&self.client, NAMESPACE).await?;
        let each = |count_of: u64| rounded(float(count_of) / float(count as u64));
        let requests = requests.into_iter().map(|(what, times)| {
            let earlier = before.get(&what).copied().unwrap_or_default();
            (what, each(times - earlier))
        });
        Ok(Round {
            operator: ended - began,
            bare,
            cpu_ms: rounded(cpu.as_secs_f64() * 1000.0 / float(count as u64)),
            bare_cpu: done,
            requests: requests.filter(|(_, each)| *each > 0.0).collect(),
        })
    }

    /// While nothing is due.
    async fn at_rest(&self, operator: &Operator, grant: Grant, count: usize) -> Result<(), Failed> {
        let most = (count == 1_000).then_some(16.0);
        self.resident(operator, count, Some(grant), most)?;
        let before = operator.metrics().await?.requests();
        let (began, cpu) = (now(), operator.cpu()?);
        say(&format!("nothing is due for {} s", self.size.idle.as_secs()));
        tokio::time::sleep(self.size.idle).await;
        let cpu = operator.cpu()?.saturating_sub(cpu);
        let after = operator.metrics().await?.requests();
        let made = after.values().sum::<u64>() - before.values().sum::<u64>();
        let window = began.elapsed().as_secs_f64();
        let name = format!("API requests of an idle hour, {count} {}", grant.name());
        let parameters = json!({
            "window_seconds": rounded(window), "n": count, "counted": "all but Leases and watches",
            "cpu_percent": rounded(cpu.as_secs_f64() * 100.0 / window),
        });
        self.figure(&name, float(made) * 3600.0 / window, "requests", None, Goal::AtMost(0.0), parameters);
        Ok(())
    }
}
