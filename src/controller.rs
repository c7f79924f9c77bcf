//! Watches, and who is woken by what; concurrency; what is done with an error.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{Stream, StreamExt as _};
use jiff::Timestamp;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource as _, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::api::GraphToken;
use crate::api::names::credential_name;
use crate::cache::{
    GraphTokenCache, GraphTokenStore, News, SecretCache, SecretStore, Watched, WatchedSecret,
};
use crate::clients::ClientCache;
use crate::context::Context;
use crate::desired::shared_client;
use crate::kubeclient::Clients;
use crate::metrics::{ConditionSample, Metrics, ObjectSample};
use crate::state::{Ends, Key};

mod everyone;
mod queue;
mod secrets;
mod shared;
mod worker;

use everyone::Everyone;
use secrets::{Orphaned, Orphans};
use worker::{Looker, Work};

/// After an error that is not the provider's.
const ERROR_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause before a broken watch is taken up again.
const MAX_WATCH_PAUSE: Duration = Duration::from_secs(5);

/// kube's own, which grows to a minute: for so long an operator would be blind when its API server is back after an outage.
#[derive(Default)]
struct WatchBackoff(watcher::DefaultBackoff);

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(MAX_WATCH_PAUSE))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// The caches of a term of leadership.
#[derive(Clone, Default)]
pub struct Caches(Arc<Mutex<Stores>>);

/// The `GraphToken`s, the `ClusterGraphClient`s, and when client credentials end.
type Stores = (GraphTokenCache, Option<Arc<ClientCache>>, Ends);

impl Caches {
    fn lock(&self) -> std::sync::MutexGuard<'_, Stores> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `/metrics` shows of each `GraphToken`.
    pub fn samples(&self) -> Vec<ObjectSample> {
        let (stores, clients, _) = self.lock().clone();
        let clients = clients.as_deref();
        stores.all().filter_map(|g| g.decoded().ok().map(|g| sample(&g, clients))).collect()
    }

    /// When the certificates and client secrets that are in use end.
    pub fn ends(&self) -> BTreeMap<Key, Timestamp> {
        let (_, _, ends) = self.lock().clone();
        ends.all()
    }
}

fn sample(object: &GraphToken, clients: Option<&ClientCache>) -> ObjectSample {
    let status = object.status.clone().unwrap_or_default();
    let stated = || {
        (object.spec.tenant.clone().unwrap_or_default(), object.spec.client_id.clone().unwrap_or_default())
    };
    let shared = shared_client(&object.spec).and_then(|name| clients?.tenant_and_client(name));
    let (tenant, client_id) = shared.unwrap_or_else(stated);
    let conditions: Vec<ConditionSample> = status
        .conditions
        .iter()
        .map(|c| ConditionSample {
            kind: c.type_.as_str(),
            status: c.status.as_str(),
            reason: c.reason.as_str(),
        })
        .collect();
    ObjectSample {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        ready: conditions.iter().any(|c| c.kind == "Ready" && c.status == "True"),
        expires_at: status.expires_at.map(crate::api::Time::epoch),
        last_refresh: status.last_refresh_time.map(crate::api::Time::epoch),
        refresh_token_expires_at: status.refresh_token_expires_at.map(crate::api::Time::epoch),
        consecutive_failures: status.consecutive_failures.into(),
        conditions,
        tenant,
        client_id,
        grant: if object.spec.grant.client_credentials.is_some() {
            "clientCredentials"
        } else if object.spec.grant.device_code.is_some() {
            "deviceCode"
        } else {
            "refreshToken"
        },
    }
}

/// One namespace, or all of them: what is known of it, and whom a change there wakes.
#[derive(Clone)]
struct Wakes {
    namespace: Option<String>,
    graphtokens: GraphTokenStore,
    secrets: SecretStore,
    everyone: Everyone,
    orphans: Orphans,
}

/// What a term of leadership runs with.
pub struct Term {
    /// Clients of the API server.
    pub clients: Clients,
    /// The namespaces to watch; none: all.
    pub namespaces: Vec<String>,
    /// Reconciles at once.
    pub concurrency: u16,
    /// Where the Secrets of `ClusterGraphClient`s are.
    pub client_namespace: Option<String>,
    /// Counters.
    pub metrics: Metrics,
    /// Where `/metrics` finds the caches.
    pub caches: Caches,
    /// Ends the term; what is in flight is finished first.
    pub stop: CancellationToken,
}

/// Runs until the term is stopped and all that was begun is finished.
pub async fn run(term: Term, context: impl FnOnce(SecretCache) -> Context) {
    let namespaces: Vec<Option<String>> = if term.namespaces.is_empty() {
        vec![None]
    } else {
        term.namespaces.iter().cloned().map(Some).collect()
    };
    let graphtokens: BTreeMap<_, GraphTokenStore> =
        namespaces.iter().map(|namespace| (namespace.clone(), GraphTokenStore::default())).collect();
    let secrets: BTreeMap<_, SecretStore> =
        namespaces.iter().map(|namespace| (namespace.clone(), SecretStore::default())).collect();
    let mut stores = secrets.clone();
    let client_secrets = shared::ClientSecrets::beside(&mut stores, term.client_namespace.as_deref());
    let ctx = Arc::new(context(SecretCache::new(stores)));
    let cache = GraphTokenCache::new(graphtokens.clone());
    *term.caches.lock() = (cache.clone(), Some(Arc::clone(&ctx.clients)), ctx.state.ends.clone());
    let work = Work::new(term.concurrency, cache.clone());
    let everyone = Everyone::new(work.clone(), &graphtokens);
    let shared =
        tokio::spawn(shared::watch(term.clients.clone(), Arc::clone(&ctx), everyone.clone(), client_secrets));
    let looker = Looker { graphtokens: cache, ctx: Arc::clone(&ctx), metrics: term.metrics.clone() };
    let finished = tokio::spawn(work.run(Arc::new(looker), term.stop.clone())).map(drop).shared();
    let running =
        secrets.into_iter().zip(graphtokens.into_values()).map(|((namespace, secrets), graphtokens)| {
            let (orphans, orphaned) = Orphans::new();
            let wakes = Wakes { namespace, graphtokens, secrets, everyone: everyone.clone(), orphans };
            serve(wakes, orphaned, &ctx, &term, finished.clone())
        });
    futures::future::join_all(running).await;
    shared.abort();
    ctx.exchanger.tasks.close();
    if !ctx.exchanger.tasks.is_empty() {
        tracing::info!(exchanges = ctx.exchanger.tasks.len(), "waiting for exchanges in flight");
    }
    ctx.exchanger.tasks.wait().await;
    *term.caches.lock() = Default::default();
}

/// Watches a scope until the term is stopped and all looks that were begun are finished.
async fn serve(
    wakes: Wakes,
    orphaned: Orphaned,
    ctx: &Arc<Context>,
    term: &Term,
    finished: impl Future<Output = ()>,
) {
    let namespace = wakes.namespace.as_deref();
    let graphtokens: Api<Watched> = api(&term.clients.watches, namespace);
    let secrets: Api<WatchedSecret> = api(&term.clients.watches, namespace);
    // As long as all namespaces or this one are watched, its Secrets need no watch of their own.
    let holds_client_secrets =
        term.client_namespace.as_deref().is_some_and(|of| namespace.is_none_or(|own| own == of));
    let watching = [
        tokio::spawn(watch_graphtokens(graphtokens, Arc::clone(ctx), wakes.clone())),
        tokio::spawn(secrets::watch(secrets, Arc::clone(ctx), wakes.clone(), holds_client_secrets)),
    ];
    secrets::look_after_orphans(wakes.orphans, orphaned, ctx, term).await;
    finished.await;
    for task in watching {
        task.abort();
    }
}

/// What a watch shows, in lists of kube's pages. It is taken up again by itself.
fn events<K>(api: Api<K>) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, watcher::Config::default()).backoff(WatchBackoff::default())
}

fn api<K>(client: &kube::Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Keeps the cache of `GraphToken`s, and wakes those that changed in a way that matters.
async fn watch_graphtokens(api: Api<Watched>, ctx: Arc<Context>, wakes: Wakes) {
    let mut events = std::pin::pin!(events(api));
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                wakes.everyone.heard(&wakes.namespace);
                log_watch("graphtokens", &error);
                continue;
            }
        };
        let News { changed, gone } = wakes.graphtokens.take_in(&event);
        for key in &gone {
            forget(&ctx, &wakes, key);
        }
        match event {
            Event::Apply(object) | Event::InitApply(object) => note(&ctx, &object),
            Event::InitDone => {
                wakes.everyone.heard(&wakes.namespace);
                secrets::wake_orphans(&wakes);
            }
            Event::Init | Event::Delete(_) => {}
        }
        wakes.everyone.wake(changed);
    }
}

/// What a provider said to one `GraphToken` holds for others, whichever process heard it; and a status that has come back need
/// not be kept in two places.
fn note(ctx: &Context, object: &Watched) {
    if object.may_tell_of_silence()
        && let Some(failure) = object.status().and_then(|status| status.last_failure)
    {
        ctx.exchanger.throttle.note(&failure, ctx.now());
    }
    let meta = object.meta();
    if let (Some(namespace), Some(name), Some(version)) =
        (&meta.namespace, &meta.name, &meta.resource_version)
    {
        ctx.state.status_shown(&Key::new(namespace, name), version);
    }
}

fn forget(ctx: &Context, wakes: &Wakes, key: &Key) {
    ctx.state.forget(key);
    ctx.clients.forget(key);
    wakes.orphans.found(&Key::new(&key.namespace, &credential_name(&key.name)));
}

fn log_watch(what: &str, error: &watcher::Error) {
    tracing::warn!(what, why = broken(error), "a watch broke off; it is taken up again");
}

fn broken(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            crate::kubeclient::describe(error)
        }
        WatchError(status) => format!("the API server answered {} {}", status.code, status.reason),
        NoResourceVersion => "an answer without a resourceVersion".to_owned(),
    }
}
