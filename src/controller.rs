//! Watches, and who is woken by what; concurrency; what is done with an error.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::channel::mpsc;
use futures::stream::{self, Stream, StreamExt as _};
use jiff::Timestamp;
use kube::api::ObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt as _, controller};
use kube::{Api, Resource as _, ResourceExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::GraphToken;
use crate::api::names::{ANNOTATION_REQUESTED_AT, credential_name};
use crate::cache::{GraphTokenStore, SecretCache, SecretStore, Watched, WatchedSecret};
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
use secrets::Orphans;
use worker::{Enqueuer, Looker, Work};

/// After an error that is not the provider's.
const ERROR_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause before a broken watch is taken up again.
const MAX_WATCH_PAUSE: Duration = Duration::from_secs(5);

/// Objects a page of a list: few enough that a page, with all that it is decoded to, is small beside the cache, and enough for
/// ten thousand to be there within a second or two.
const PAGE_SIZE: u32 = 250;

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
type Stores = (Vec<GraphTokenStore>, Option<Arc<ClientCache>>, Ends);

impl Caches {
    fn lock(&self) -> std::sync::MutexGuard<'_, Stores> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `/metrics` shows of each `GraphToken`.
    pub fn samples(&self) -> Vec<ObjectSample> {
        let (stores, clients, _) = self.lock().clone();
        let clients = clients.as_deref();
        let graphtokens = stores.iter().flat_map(Store::state);
        graphtokens.filter_map(|g| g.decoded().ok().map(|g| sample(&g, clients))).collect()
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

/// One namespace, or all of them: its caches and the streams that fill them.
struct Scope {
    clients: Clients,
    namespace: Option<String>,
    graphtokens: GraphTokenStore,
    graphtoken_writer: reflector::store::Writer<Watched>,
    secrets: SecretStore,
    woken: mpsc::UnboundedReceiver<ObjectRef<Watched>>,
}

/// Where the watch of Secrets sends what it saw.
#[derive(Clone)]
struct Wakes {
    everyone: Everyone,
    all: mpsc::UnboundedSender<()>,
    orphans: Orphans,
    secrets_known: Arc<watch::Sender<bool>>,
    graphtokens_known: Arc<watch::Sender<bool>>,
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
    let everyone = Everyone::default();
    let scopes: Vec<Scope> =
        namespaces.into_iter().map(|ns| Scope::new(term.clients.clone(), ns, &everyone)).collect();
    let mut stores: BTreeMap<Option<String>, SecretStore> =
        scopes.iter().map(|scope| (scope.namespace.clone(), scope.secrets.clone())).collect();
    let client_secrets = shared::ClientSecrets::beside(&mut stores, term.client_namespace.as_deref());
    let ctx = Arc::new(context(SecretCache::new(stores)));
    let graphtokens: Arc<BTreeMap<_, _>> =
        Arc::new(scopes.iter().map(|scope| (scope.namespace.clone(), scope.graphtokens.clone())).collect());
    *term.caches.lock() =
        (graphtokens.values().cloned().collect(), Some(Arc::clone(&ctx.clients)), ctx.state.ends.clone());
    let shared =
        tokio::spawn(shared::watch(term.clients.clone(), Arc::clone(&ctx), everyone.clone(), client_secrets));
    let work = Work::new(term.concurrency, Arc::clone(&graphtokens));
    let looker = Looker { graphtokens, ctx: Arc::clone(&ctx), metrics: term.metrics.clone() };
    let finished = tokio::spawn(work.clone().run(Arc::new(looker), term.stop.clone())).map(drop).shared();
    let running = scopes
        .into_iter()
        .map(|scope| scope.run(&ctx, &term, work.clone(), finished.clone(), everyone.clone()));
    futures::future::join_all(running).await;
    shared.abort();
    ctx.exchanger.tasks.close();
    if !ctx.exchanger.tasks.is_empty() {
        tracing::info!(exchanges = ctx.exchanger.tasks.len(), "waiting for exchanges in flight");
    }
    ctx.exchanger.tasks.wait().await;
    *term.caches.lock() = Default::default();
}

impl Scope {
    fn new(clients: Clients, namespace: Option<String>, everyone: &Everyone) -> Self {
        let (graphtokens, graphtoken_writer) = reflector::store();
        let secrets = SecretStore::default();
        let woken = everyone.join(namespace.clone());
        Self { clients, namespace, graphtokens, graphtoken_writer, secrets, woken }
    }

    async fn run(
        self,
        ctx: &Arc<Context>,
        term: &Term,
        work: Work,
        finished: impl Future<Output = ()>,
        everyone: Everyone,
    ) {
        let (all, all_woken) = mpsc::unbounded();
        let (orphans, orphaned, orphans_woken) = Orphans::new();
        let (known, secrets_known) = watch::channel(false);
        let graphtokens_known = Arc::new(watch::Sender::new(false));
        let wakes = Wakes {
            everyone: everyone.clone(),
            all,
            orphans,
            secrets_known: Arc::new(known),
            graphtokens_known,
        };
        let graphtoken_api = api(&self.clients.watches, self.namespace.as_deref());
        let secret_api: Api<WatchedSecret> = api(&self.clients.watches, self.namespace.as_deref());

        // As long as all namespaces or this one are watched, its Secrets need no watch of their own.
        let holds_client_secrets = term
            .client_namespace
            .as_ref()
            .is_some_and(|of| self.namespace.as_ref().is_none_or(|own| own == of));
        let seen = graphtoken_events(
            graphtoken_api,
            self.graphtoken_writer,
            Arc::clone(ctx),
            wakes.clone(),
            self.secrets.clone(),
            self.namespace.clone(),
        );
        let secrets = secrets::watch(
            secret_api,
            self.secrets,
            Arc::clone(ctx),
            wakes.clone(),
            self.graphtokens.clone(),
            holds_client_secrets,
        );
        let config = controller::Config::default().concurrency(term.concurrency);
        let began = Arc::new(AtomicBool::new(false));
        let enqueuer = Enqueuer { work, secrets_known, everyone, began: Arc::clone(&began) };
        // It merges who wakes whom. The looks themselves are elsewhere: who is held up here is taken in no order.
        let waking = Controller::for_stream(seen, self.graphtokens)
            .with_config(config.clone())
            .reconcile_on(self.woken)
            .reconcile_all_on(all_woken)
            .graceful_shutdown_on(term.stop.clone().cancelled_owned())
            .run(
                move |object, _| enqueue(enqueuer.clone(), object),
                |_, never, _| match *never {},
                Arc::clone(ctx),
            )
            .for_each(|_| async {});
        let retention = Controller::for_stream(stream::pending(), orphaned)
            .with_config(config)
            .reconcile_on(orphans_woken)
            .graceful_shutdown_on(term.stop.clone().cancelled_owned())
            .run(
                move |secret, ctx| {
                    let orphans = wakes.orphans.clone();
                    async move { orphans.look_after(&secret, &ctx).await }
                },
                |_, error, _| {
                    tracing::debug!(%error, "a credential without a GraphToken was not seen to");
                    Action::requeue(ERROR_PAUSE)
                },
                Arc::clone(ctx),
            )
            .for_each(|_| async {});
        let watching = tokio::spawn(secrets);
        // A Controller that is stopped before its cache is filled waits for that for ever (kube 5.0), for it has stopped
        // filling it. Then no reconcile has begun, and there is nothing to be finished.
        let stopped_early = async {
            term.stop.cancelled().await;
            if began.load(Ordering::Acquire) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = futures::future::join(waking, retention) => {}
            () = stopped_early => {}
        }
        finished.await;
        watching.abort();
    }
}

async fn enqueue(enqueuer: Enqueuer, object: Arc<Watched>) -> Result<Action, Infallible> {
    let namespace = object.namespace().unwrap_or_default();
    enqueuer.enqueue(Key { namespace, name: object.name_any() }).await;
    Ok(Action::await_change())
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

/// The `GraphToken`s that changed in a way that matters: our own writes of the status do not.
fn graphtoken_events(
    api: Api<Watched>,
    writer: reflector::store::Writer<Watched>,
    ctx: Arc<Context>,
    wakes: Wakes,
    secrets: SecretStore,
    namespace: Option<String>,
) -> impl Stream<Item = Result<Watched, watcher::Error>> + Send {
    let graphtokens = writer.as_reader();
    watcher(api, watcher::Config::default().page_size(PAGE_SIZE))
        .backoff(WatchBackoff::default())
        .reflect(writer)
        .inspect(move |event| match event {
            Ok(Event::Delete(object)) => forget(&ctx, &wakes, object.meta()),
            Ok(Event::Apply(object) | Event::InitApply(object)) => note(&ctx, object),
            // What was deleted while the watch was broken shows only now.
            Ok(Event::InitDone) => {
                wakes.graphtokens_known.send_replace(true);
                wakes.everyone.heard(&namespace);
                secrets::wake_orphans(&wakes, &secrets, &graphtokens);
            }
            Ok(Event::Init) => {}
            Err(error) => {
                wakes.everyone.heard(&namespace);
                log_watch("graphtokens", error);
            }
        })
        .applied_objects()
        .predicate_filter(
            |object: &Watched| {
                let meta = object.meta();
                let requested = meta.annotations.as_ref().and_then(|a| a.get(ANNOTATION_REQUESTED_AT));
                Some(fingerprint(&(&meta.uid, meta.generation, requested, meta.deletion_timestamp.is_some())))
            },
            PredicateConfig::default(),
        )
        // They are logged and waited for; a Controller would wait once more, by a back-off of its own.
        .filter(|seen| std::future::ready(seen.is_ok()))
}

fn fingerprint(value: &impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
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

fn forget(ctx: &Context, wakes: &Wakes, meta: &ObjectMeta) {
    let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return };
    ctx.state.forget(&Key::new(namespace, name));
    ctx.clients.forget(&Key::new(namespace, name));
    wakes.orphans.found(&Key::new(namespace, &credential_name(name)));
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
