//! One `GraphToken` after another, on an idle operator.

use std::time::Duration;

use futures::StreamExt as _;
use graphtoken::api::GraphToken;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use tokio::sync::mpsc;

use super::World;
use crate::Failed;
use crate::bare::Requests;
use crate::cluster::{LOOP_NAMESPACE, NAMESPACE, purge};
use crate::operator::Operator;
use crate::population::Grant;
use crate::report::{Goal, now, say};
use crate::stats::{millis, percentile};
use crate::targets::Targets;

const PATIENCE: Duration = Duration::from_secs(30);

impl World {
    pub(super) async fn latency(&self) -> Result<(), Failed> {
        let grant = Grant::ClientCredentials;
        say(&format!("{} GraphTokens one after another", self.size.latency));
        let half = self.size.latency / 2;
        // Half of the floor before and half after, so that what else the machine does is in both.
        let mut floor = self.trips(grant, 0, half).await?;
        let served = self.one_by_one(grant).await?;
        floor.extend(self.trips(grant, half + 1, self.size.latency - half).await?);
        let what = "the same requests and watch events one after another";
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let [value, floor] = [&served, &floor].map(|times| percentile(times, share).map_or(0.0, millis));
            let name = format!("one GraphToken until its Secret, {name}");
            let parameters = json!({"grant": grant.name(), "n": self.size.latency});
            self.figure(&name, value, "ms", Some((what, floor)), Goal::RatioAtMost(1.2), parameters);
        }
        purge(&self.client, NAMESPACE).await?;
        purge(&self.client, LOOP_NAMESPACE).await
    }

    async fn one_by_one(&self, grant: Grant) -> Result<Vec<Duration>, Failed> {
        let kind = self.kind(grant);
        let operator = Operator::start(&self.setup).await?;
        operator.quiet(None).await?;
        let targets = Targets::watch(&self.client, NAMESPACE).await;
        let mut times = Vec::new();
        // The first one connects to the provider.
        for number in 0..=self.size.latency {
            let began = now();
            kind.apply(&self.client, number).await?;
            let target = targets.one(&kind.name(number), PATIENCE).await?;
            if number > 0 {
                times.push(target.created - began);
            }
            // Idle again: its status is written.
            operator.looks(number as u64 + 1, PATIENCE).await?;
        }
        operator.stop().await?;
        Ok(times)
    }

    /// The sum of the round trips: applied, seen by a watch as the operator sees it, exchanged, written, seen by a watch.
    async fn trips(&self, grant: Grant, first: usize, count: usize) -> Result<Vec<Duration>, Failed> {
        let kind = self.loop_kind(grant);
        let requests = Requests::new(self.client.clone(), &kind)?;
        let targets = Targets::watch(&self.client, LOOP_NAMESPACE).await;
        let api: Api<GraphToken> = Api::namespaced(self.client.clone(), LOOP_NAMESPACE);
        let (send, mut seen) = mpsc::unbounded_channel();
        let watching = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
            while let Some(event) = events.next().await {
                if let Ok(Event::Apply(object) | Event::InitApply(object)) = event
                    && object.status.as_ref().is_none_or(|status| status.observed_generation < 0)
                {
                    let _ = send.send(object);
                }
            }
        });
        let mut times = Vec::new();
        // One more, which connects.
        for index in 0..=count {
            let number = first + index;
            let began = now();
            kind.apply(&self.client, number).await?;
            let object = loop {
                let object: GraphToken =
                    seen.recv().await.ok_or_else(|| Failed::new("the watch has ended"))?;
                if object.metadata.name.as_deref() == Some(&kind.name(number)) {
                    break object;
                }
            };
            let published = requests.publish_first(&object).await?;
            let target = targets.one(&kind.name(number), PATIENCE).await?;
            if index > 0 {
                times.push(target.created - began);
            }
            requests.tell_first(&object, published).await?;
        }
        watching.abort();
        Ok(times)
    }
}
