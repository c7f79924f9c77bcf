//! Watches → queue → workers, for the length of a leadership term.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use jiff::Timestamp;
use kube::{Api, ResourceExt as _};
use tokio_util::sync::CancellationToken;

use crate::api::names::credential_name;
use crate::cache::{GraphTokenCache, GraphTokenStore, SecretCache, SecretStore, Watched, WatchedSecret};
use crate::clients::ClientCache;
use crate::context::Context;
use crate::desired::shared_client;
use crate::kubeclient::Clients;
use crate::metrics::{ConditionSample, Metrics, ObjectSample};
use crate::state::{Ends, Key};
use crate::supervise::{Heartbeats, Supervised, TaskEnded};

mod clock;
mod everyone;
mod queue;
mod scope;
mod shared;
mod watch;
mod worker;

use everyone::Everyone;
pub use queue::Item;
pub use scope::Scope;
pub use worker::{Reconciler, Work};

/// The caches of a term of leadership.
#[derive(Clone, Default)]
pub struct Caches(Arc<Mutex<Stores>>);

/// The `GraphToken`s, the `ClusterGraphClient`s, and when client credentials end.
#[derive(Clone, Default)]
struct Stores {
    graphtokens: GraphTokenCache,
    clients: Option<Arc<ClientCache>>,
    ends: Ends,
    everyone: Option<Everyone>,
}

impl Caches {
    fn lock(&self) -> std::sync::MutexGuard<'_, Stores> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `/metrics` shows of each `GraphToken`.
    pub fn samples(&self) -> Vec<ObjectSample> {
        let Stores { graphtokens, clients, .. } = self.lock().clone();
        let clients = clients.as_deref();
        graphtokens.all().map(|g| sample(&g, clients)).collect()
    }

    /// When the certificates and client secrets that are in use end.
    pub fn ends(&self) -> BTreeMap<Key, Timestamp> {
        let ends = self.lock().ends.clone();
        ends.all()
    }

    /// Whether a term is served and its mirrors are filled.
    pub fn are_filled(&self) -> bool {
        let everyone = self.lock().everyone.clone();
        everyone.is_some_and(|everyone| everyone.are_known())
    }
}

/// As far as it can be read: a series that went away would be an alert that does.
fn sample(object: &Watched, clients: Option<&ClientCache>) -> ObjectSample {
    let (spec, status) = (object.readable_spec(), object.status().unwrap_or_default());
    let spec = spec.as_ref();
    let stated = || {
        let stated = spec.map(|spec| (spec.tenant.clone(), spec.client_id.clone())).unwrap_or_default();
        (stated.0.unwrap_or_default(), stated.1.unwrap_or_default())
    };
    let shared = spec.and_then(shared_client).and_then(|name| clients?.tenant_and_client(name));
    let (tenant, client_id) = shared.unwrap_or_else(stated);
    let mut conditions: Vec<ConditionSample> = status
        .conditions
        .iter()
        .map(|c| ConditionSample {
            kind: c.type_.label(),
            status: c.status.as_str(),
            reason: c.reason.label(),
        })
        .collect();
    // Several of another version are one series.
    conditions.sort_unstable();
    conditions.dedup();
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
        grant: match spec.map(|spec| &spec.grant) {
            None => "",
            Some(grant) if grant.client_credentials.is_some() => "clientCredentials",
            Some(grant) if grant.device_code.is_some() => "deviceCode",
            Some(_) => "refreshToken",
        },
    }
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
    /// Where `/metrics` finds the mirrors.
    pub caches: Caches,
    /// The loops of the process.
    pub heartbeats: Heartbeats,
    /// Ends the term.
    pub stop: CancellationToken,
}

/// The mirrors of a term, to be filled by its watches.
pub struct Mirrors {
    /// `GraphToken`s.
    pub graphtokens: GraphTokenCache,
    /// Secrets' metadata.
    pub secrets: Arc<SecretCache>,
}

/// A term of leadership.
pub struct Controller {
    term: Term,
    ctx: Arc<Context>,
    work: Work,
    everyone: Everyone,
    scopes: Vec<Scope>,
    client_secrets: Option<shared::ClientSecrets>,
}

impl Controller {
    /// One with empty mirrors.
    pub fn new(term: Term, context: impl FnOnce(Mirrors) -> Context) -> Self {
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
        let cache = GraphTokenCache::new(graphtokens.clone());
        let ctx = Arc::new(context(Mirrors {
            graphtokens: cache.clone(),
            secrets: Arc::new(SecretCache::new(stores)),
        }));
        let work = Work::new(term.concurrency, cache.clone());
        let everyone = Everyone::new(work.clone(), &graphtokens);
        *term.caches.lock() = Stores {
            graphtokens: cache,
            clients: Some(Arc::clone(&ctx.clients)),
            ends: ctx.state.ends.clone(),
            everyone: Some(everyone.clone()),
        };
        let scope =
            |((namespace, secrets), graphtokens): ((Option<String>, SecretStore), GraphTokenStore)| Scope {
                // As long as all namespaces or this one are watched, its Secrets need no watch of their own.
                holds_client_secrets: term
                    .client_namespace
                    .as_deref()
                    .is_some_and(|of| namespace.as_deref().is_none_or(|own| own == of)),
                namespace,
                graphtokens,
                secrets,
                everyone: everyone.clone(),
                work: work.clone(),
                ctx: Arc::clone(&ctx),
            };
        let scopes = secrets.into_iter().zip(graphtokens.into_values()).map(scope).collect();
        ctx.exchanger.acquisitions.set_enqueue(Some(ended(&ctx, &work, &everyone)));
        let parked = everyone.clone();
        let enqueue = move |key| parked.wake([key]);
        ctx.exchanger.permits.set_enqueue(Some(Arc::new(enqueue)));
        Self { term, ctx, work, everyone, scopes, client_secrets }
    }

    /// What its reconciles share.
    pub const fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    /// Its queue.
    pub fn work(&self) -> Work {
        self.work.clone()
    }

    /// What its watches fill.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// The worker loop.
    pub fn worker(&self) -> impl Future<Output = ()> + Send + use<> {
        let reconciler = Reconciler {
            graphtokens: self.ctx.graphtokens.clone(),
            ctx: Arc::clone(&self.ctx),
            metrics: self.term.metrics.clone(),
        };
        let heart = self.term.heartbeats.of("worker");
        self.work.clone().run(Arc::new(reconciler), heart, self.term.stop.clone())
    }

    /// Runs until the term is stopped and its reconciles have ended. What acquisitions are running goes on: they belong to the
    /// process. An error: one of its loops has ended.
    pub async fn run(mut self) -> Result<(), TaskEnded> {
        let mut watches = Supervised::default();
        for scope in &self.scopes {
            let namespace = scope.namespace.as_deref();
            let graphtokens: Api<Watched> = watch::api(&self.term.clients.watches, namespace);
            let secrets: Api<WatchedSecret> = watch::api(&self.term.clients.watches, namespace);
            let heart = self.term.heartbeats.of("graphtokens");
            let own = scope.clone();
            watches.spawn(
                "graphtokens",
                watch::follow("graphtokens", graphtokens, heart, move |e| own.graphtoken_event(e)),
            );
            let heart = self.term.heartbeats.of("secrets");
            let own = scope.clone();
            watches.spawn("secrets", watch::follow("secrets", secrets, heart, move |e| own.secret_event(e)));
        }
        let client_secrets = self.client_secrets.take();
        shared::watch(&mut watches, &self.term, &self.ctx, &self.everyone, client_secrets);
        let stop = self.term.stop.clone();
        let mut worker = Supervised::default();
        worker.spawn("worker", self.worker());
        let ended = tokio::select! {
            ended = watches.ended() => Err(ended),
            // It ends once it is stopped.
            ended = worker.ended() => if stop.is_cancelled() { Ok(()) } else { Err(ended) },
        };
        self.ctx.exchanger.acquisitions.set_enqueue(None);
        self.ctx.exchanger.permits.set_enqueue(None);
        *self.term.caches.lock() = Stores::default();
        ended
    }
}

/// Enqueues a `GraphToken` whose acquisition has ended. What ends before the mirrors of a new term are filled enqueues nothing:
/// all are enqueued then.
fn ended(ctx: &Arc<Context>, work: &Work, everyone: &Everyone) -> Arc<dyn Fn(&Key) + Send + Sync> {
    // Not the owner: the context holds the acquisitions, which hold this.
    let (ctx, work, everyone): (Weak<Context>, _, _) = (Arc::downgrade(ctx), work.clone(), everyone.clone());
    Arc::new(move |key| {
        everyone.wake([key.clone()]);
        // It may have written a credential of which the watch shows nothing new: see `Scope::secret_event`.
        if ctx.upgrade().is_some_and(|ctx| !ctx.graphtokens.contains(key)) {
            work.enqueue([Item::Credential(Key::new(&key.namespace, &credential_name(&key.name)))]);
        }
    })
}
