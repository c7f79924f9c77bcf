//! Watches, and who is woken by what; concurrency; what is done with an error.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::mpsc;
use futures::stream::{self, Stream, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt as _, controller};
use kube::{Api, Resource as _, ResourceExt as _};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::api::GraphToken;
use crate::api::names::{ANNOTATION_REQUESTED_AT, CREDENTIAL_SUFFIX, GROUP, credential_name};
use crate::clients::{ClientCache, Feed};
use crate::context::Context;
use crate::desired::shared_client;
use crate::kubeclient::Clients;
use crate::metrics::{ConditionSample, Metrics, ObjectSample};
use crate::retention::{is_credential, retain};
use crate::state::{Ends, Key, SecretCache, SecretStore};

mod everyone;
mod shared;
mod worker;

use everyone::Everyone;
use worker::{Worker, on_error};

/// A `GraphToken` as it is watched: one that does not decode must not blind us to the others.
pub type Guarded = DeserializeGuard<GraphToken>;
/// The cache of `GraphToken`s.
pub type GraphTokenStore = Store<Guarded>;

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
        graphtokens.filter_map(|g| g.0.as_ref().ok().map(|g| sample(g, clients))).collect()
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
            kind: c.type_.as_str().to_owned(),
            status: c.status.as_str().to_owned(),
            reason: c.reason.as_str().to_owned(),
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
    graphtoken_writer: reflector::store::Writer<Guarded>,
    secrets: SecretStore,
    secret_writer: reflector::store::Writer<PartialObjectMeta<Secret>>,
    woken: mpsc::UnboundedReceiver<ObjectRef<Guarded>>,
}

/// Where the watch of Secrets sends what it saw.
#[derive(Clone)]
struct Wakes {
    everyone: Everyone,
    all: mpsc::UnboundedSender<()>,
    credentials: mpsc::UnboundedSender<ObjectRef<PartialObjectMeta<Secret>>>,
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
    let graphtokens = scopes.iter().map(|scope| scope.graphtokens.clone()).collect();
    *term.caches.lock() = (graphtokens, Some(Arc::clone(&ctx.clients)), ctx.state.ends.clone());
    let shared =
        tokio::spawn(shared::watch(term.clients.clone(), Arc::clone(&ctx), everyone.clone(), client_secrets));
    // Shared by the scopes, so that many namespaces do not mean many reconciles at once.
    let slots = Arc::new(Semaphore::new(usize::from(term.concurrency)));
    let running =
        scopes.into_iter().map(|scope| scope.run(&ctx, &term, Arc::clone(&slots), everyone.clone()));
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
        let (secrets, secret_writer) = reflector::store();
        let woken = everyone.join(namespace.clone());
        Self { clients, namespace, graphtokens, graphtoken_writer, secrets, secret_writer, woken }
    }

    async fn run(self, ctx: &Arc<Context>, term: &Term, slots: Arc<Semaphore>, everyone: Everyone) {
        let (all, all_woken) = mpsc::unbounded();
        let (credentials, credentials_woken) = mpsc::unbounded();
        let (known, secrets_known) = watch::channel(false);
        let graphtokens_known = Arc::new(watch::Sender::new(false));
        let wakes = Wakes {
            everyone: everyone.clone(),
            all,
            credentials,
            secrets_known: Arc::new(known),
            graphtokens_known,
        };
        let graphtoken_api = api(&self.clients.watches, self.namespace.as_deref());
        let secret_api: Api<PartialObjectMeta<Secret>> =
            api(&self.clients.watches, self.namespace.as_deref());

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
        let secrets = watch_secrets(
            secret_api,
            self.secret_writer,
            Arc::clone(ctx),
            wakes,
            self.graphtokens.clone(),
            holds_client_secrets,
        );
        let config = controller::Config::default().concurrency(term.concurrency);
        let began = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            slots,
            metrics: term.metrics.clone(),
            secrets_known,
            everyone,
            began: Arc::clone(&began),
        };
        let work = Controller::for_stream(seen, self.graphtokens)
            .with_config(config.clone())
            .reconcile_on(self.woken)
            .reconcile_all_on(all_woken)
            .graceful_shutdown_on(term.stop.clone().cancelled_owned())
            .run(move |object, ctx| worker.clone().work(object, ctx), on_error, Arc::clone(ctx))
            .for_each(|_| async {});
        let retention = Controller::for_stream(stream::pending(), self.secrets)
            .with_config(config)
            .reconcile_on(credentials_woken)
            .graceful_shutdown_on(term.stop.clone().cancelled_owned())
            .run(
                |secret, ctx| async move {
                    retain(&ctx.exchanger.client, &secret.metadata, ctx.exchanger.clock.now()).await
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
            _ = futures::future::join(work, retention) => {}
            () = stopped_early => {}
        }
        watching.abort();
    }
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
    api: Api<Guarded>,
    writer: reflector::store::Writer<Guarded>,
    ctx: Arc<Context>,
    wakes: Wakes,
    secrets: SecretStore,
    namespace: Option<String>,
) -> impl Stream<Item = Result<Guarded, watcher::Error>> + Send {
    let graphtokens = writer.as_reader();
    watcher(api, watcher::Config::default())
        .backoff(WatchBackoff::default())
        .modify(|object| object.meta_mut().managed_fields = None)
        .reflect(writer)
        .inspect(move |event| match event {
            Ok(Event::Delete(object)) => forget(&ctx, &wakes, object.meta()),
            Ok(Event::Apply(object) | Event::InitApply(object)) => note_failure(&ctx, object),
            // What was deleted while the watch was broken shows only now.
            Ok(Event::InitDone) => {
                wakes.graphtokens_known.send_replace(true);
                wakes.everyone.heard(&namespace);
                wake_orphans(&wakes, &secrets, &graphtokens);
            }
            Ok(Event::Init) => {}
            Err(error) => {
                wakes.everyone.heard(&namespace);
                log_watch("graphtokens", error);
            }
        })
        .applied_objects()
        .predicate_filter(
            |object: &Guarded| {
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

/// What a provider said to one `GraphToken` holds for others, whichever process heard it.
fn note_failure(ctx: &Context, object: &Guarded) {
    let status = object.0.as_ref().ok().and_then(|graphtoken| graphtoken.status.as_ref());
    if let Some(failure) = status.and_then(|status| status.last_failure.as_ref()) {
        ctx.exchanger.throttle.note(failure, ctx.now());
    }
}

fn forget(ctx: &Context, wakes: &Wakes, meta: &ObjectMeta) {
    let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return };
    ctx.state.forget(&Key::new(namespace, name));
    ctx.clients.forget(&Key::new(namespace, name));
    let credential = ObjectRef::new(&credential_name(name)).within(namespace);
    let _ = wakes.credentials.unbounded_send(credential);
}

/// Keeps the cache of Secrets' metadata, and wakes whom a change concerns.
async fn watch_secrets(
    api: Api<PartialObjectMeta<Secret>>,
    writer: reflector::store::Writer<PartialObjectMeta<Secret>>,
    ctx: Arc<Context>,
    wakes: Wakes,
    graphtokens: GraphTokenStore,
    holds_client_secrets: bool,
) {
    let secrets = writer.as_reader();
    let events = watcher(api, watcher::Config::default())
        .backoff(WatchBackoff::default())
        .modify(|object| {
            object.metadata.managed_fields = None;
            if let Some(annotations) = &mut object.metadata.annotations {
                annotations.retain(|key, _| key.split('/').next() == Some(GROUP));
            }
        })
        .reflect(writer);
    events
        .for_each(|event| {
            match &event {
                Ok(Event::Apply(secret)) => {
                    secret_changed(&ctx, &wakes, &graphtokens, &secret.metadata, true);
                }
                Ok(Event::Delete(secret)) => {
                    secret_changed(&ctx, &wakes, &graphtokens, &secret.metadata, false);
                }
                Ok(Event::InitDone) => {
                    wakes.secrets_known.send_replace(true);
                    wake_orphans(&wakes, &secrets, &graphtokens);
                    let _ = wakes.all.unbounded_send(());
                    if holds_client_secrets {
                        wakes.everyone.wake(ctx.clients.secrets_known());
                    }
                }
                Ok(Event::Init | Event::InitApply(_)) => {}
                Err(error) => {
                    log_watch("secrets", error);
                    if holds_client_secrets {
                        wakes.everyone.wake(ctx.clients.failed(Feed::Secrets, &broken(error)));
                    }
                }
            }
            std::future::ready(())
        })
        .await;
}

fn secret_changed(
    ctx: &Context,
    wakes: &Wakes,
    graphtokens: &GraphTokenStore,
    meta: &ObjectMeta,
    is_there: bool,
) {
    let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return };
    for graphtoken in ctx.state.referrers(&Key::new(namespace, name)) {
        let version = meta.resource_version.as_deref().unwrap_or_default();
        if is_there && ctx.state.is_own_write(&graphtoken, version) {
            continue;
        }
        wakes.everyone.wake([graphtoken]);
    }
    if is_there && is_credential(meta) && is_orphan(meta, graphtokens) {
        let _ = wakes.credentials.unbounded_send(ObjectRef::new(name).within(namespace));
    }
}

/// Credentials without a `GraphToken`, once both caches are filled.
fn wake_orphans(wakes: &Wakes, secrets: &SecretStore, graphtokens: &GraphTokenStore) {
    if !*wakes.secrets_known.borrow() || !*wakes.graphtokens_known.borrow() {
        return;
    }
    for secret in secrets.state().iter().filter(|secret| is_credential(&secret.metadata)) {
        if is_orphan(&secret.metadata, graphtokens) {
            let _ = wakes.credentials.unbounded_send(ObjectRef::from_obj(secret));
        }
    }
}

fn is_orphan(credential: &ObjectMeta, graphtokens: &GraphTokenStore) -> bool {
    let name = credential.name.as_deref().unwrap_or_default();
    let owner = ObjectRef::new(name.strip_suffix(CREDENTIAL_SUFFIX).unwrap_or_default());
    graphtokens.get(&owner.within(credential.namespace.as_deref().unwrap_or_default())).is_none()
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
