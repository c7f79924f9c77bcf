//! A day of the operator's own controller in a few minutes: the API server is in memory, the provider on loopback, and the
//! time is Tokio's, paused. It moves on to the next timer whenever nothing is under way.

mod plane;
mod provider;
#[cfg(test)]
mod rejected;
mod time;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use graphtoken::clients::ClientCache;
use graphtoken::context::Context;
use graphtoken::controller::{self, Caches, Mirrors, Term};
use graphtoken::desired::Guards;
use graphtoken::events::Events;
use graphtoken::exchange::Provider;
use graphtoken::kubeclient::Clients;
use graphtoken::leader::Lease;
use graphtoken::metrics::Metrics;
use graphtoken::permits::Permits;
use graphtoken::rotation::{Acquisitions, Exchanger};
use graphtoken::state::State;
use graphtoken::supervise::{Heartbeats, TaskEnded};
use graphtoken::throttle::Throttle;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::plane::{NAMESPACE, Plane};
use self::provider::Idp;
use self::time::Time;
use crate::Failed;
use crate::population::{Grant, Kind};

/// The operator's default `--provider-qps`.
pub const PROVIDER_QPS: f64 = 200.0;
/// The operator's default `--concurrency`.
const CONCURRENCY: u16 = 16;

/// What kind of day it is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// `GraphToken`s whose tokens are for users.
    pub users: usize,
    /// `GraphToken`s whose tokens are for the app.
    pub apps: usize,
    /// How long it lasts, in seconds.
    pub lasts: u64,
    /// When the provider begins to answer 503, and for how long, in seconds.
    pub outage: (u64, u64),
    /// The least and the most that a token lives, in seconds. Each is another one's length.
    pub life: (u64, u64),
}

/// What it was like.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Day {
    /// Seconds in which any target held an expired token.
    pub expired_seconds: f64,
    /// Tokens that had expired before they were replaced.
    pub expired_tokens: u64,
    /// Targets at the end.
    pub targets: usize,
    /// Tokens that were issued.
    pub issued: u64,
    /// Requests that were answered 503.
    pub refused: u64,
    /// Requests that the rules of single-use refresh tokens forbid.
    pub forbidden: u64,
    /// The most requests in one second.
    pub busiest_second: u64,
    /// The most requests in one minute, for each second of it.
    pub busiest_minute: f64,
    /// Requests to the API server by kind.
    pub requests: BTreeMap<String, u64>,
}

/// Lives through it. On a runtime of its own, of this thread alone: the time is that runtime's.
pub fn live(plan: Plan) -> Result<Day, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    runtime.block_on(through(plan))
}

async fn through(plan: Plan) -> Result<Day, Failed> {
    let acquisitions = Acquisitions::default();
    let time = Time::new(acquisitions.clone());
    let idp = Idp::start(plan, &time).await?;
    let plane = Plane::new(&time);
    for (grant, count, prefix) in
        [(Grant::RefreshToken, plan.users, "user"), (Grant::ClientCredentials, plan.apps, "app")]
    {
        let kind = Kind {
            namespace: NAMESPACE.to_owned(),
            grant,
            token_url: idp.token_url(),
            renew_before: None,
            prefix: prefix.to_owned(),
        };
        for number in 0..count {
            plane.put(&kind, number)?;
        }
    }
    let controller = Controller::start(&plane, &time, acquisitions)?;
    time.pass(Duration::from_secs(plan.lasts)).await?;
    let day = tell(&plane, &idp, time.now());
    controller.end();
    Ok(day)
}

/// The operator's own controller, at work on an API server in memory.
struct Controller {
    stop: CancellationToken,
    work: JoinHandle<Result<(), TaskEnded>>,
}

impl Controller {
    fn start(plane: &Plane, time: &Time, acquisitions: Acquisitions) -> Result<Self, Failed> {
        let client = plane.client();
        let clients = Clients { watches: client.clone(), requests: client.clone() };
        let metrics = Metrics::default();
        let exchanger = Exchanger {
            provider: Arc::new(Provider::new(PROVIDER_QPS, Vec::new())?),
            client: client.clone(),
            clock: time.clock(),
            lease: Lease::always(),
            lease_duration: None,
            metrics: metrics.clone(),
            holder: "the-day".to_owned(),
            acquisitions,
            permits: Permits::default(),
            throttle: Throttle::default(),
        };
        let stop = CancellationToken::new();
        let term = Term {
            clients,
            namespaces: vec![NAMESPACE.to_owned()],
            concurrency: CONCURRENCY,
            client_namespace: None,
            metrics: metrics.clone(),
            caches: Caches::default(),
            heartbeats: Heartbeats::default(),
            stop: stop.clone(),
        };
        let guards = Guards {
            allowed_endpoint_hosts: vec!["127.0.0.1".to_owned()],
            allow_http_endpoints: true,
            ..Guards::default()
        };
        let controller = controller::Controller::new(term, move |Mirrors { graphtokens, secrets }| Context {
            exchanger,
            graphtokens,
            secrets,
            clients: Arc::new(ClientCache::new(false)),
            state: State::default(),
            guards,
            secret_labels: BTreeMap::new(),
            events: Events::new(client, "the-day".to_owned()),
        });
        Ok(Self { stop, work: tokio::spawn(controller.run()) })
    }

    fn end(self) {
        self.stop.cancel();
        self.work.abort();
    }
}

fn tell(plane: &Plane, idp: &Idp, now: Timestamp) -> Day {
    let mut day = idp.tell();
    plane.tell(&mut day, now);
    day
}
