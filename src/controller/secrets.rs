//! The watch of Secrets' metadata: whom a change wakes, and the credentials that have no `GraphToken` any more.

use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::mpsc;
use futures::stream::StreamExt as _;
use kube::api::ObjectMeta;
use kube::runtime::Controller;
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::{self, ObjectRef, Store, store::Writer};
use kube::runtime::watcher::Event;
use kube::{Api, Resource as _};

use super::{ERROR_PAUSE, Term, Wakes, broken, events, log_watch};
use crate::api::names::CREDENTIAL_SUFFIX;
use crate::cache::{GraphTokenStore, WatchedSecret};
use crate::clients::Feed;
use crate::context::Context;
use crate::retention::{is_credential, retain};
use crate::state::{Key, SecretVersion};
use crate::store::StoreError;

/// Keeps the cache of Secrets' metadata, and wakes whom a change concerns.
pub(super) async fn watch(
    api: Api<WatchedSecret>,
    ctx: Arc<Context>,
    wakes: Wakes,
    holds_client_secrets: bool,
) {
    let mut events = std::pin::pin!(events(api));
    while let Some(event) = events.next().await {
        if let Ok(event) = &event {
            wakes.secrets.take_in(event);
        }
        match event {
            Ok(Event::Apply(secret)) => changed(&ctx, &wakes, secret.meta(), true),
            Ok(Event::Delete(secret)) => changed(&ctx, &wakes, secret.meta(), false),
            Ok(Event::InitDone) => {
                wake_orphans(&wakes);
                wakes.everyone.has_secrets(&wakes.namespace);
                if holds_client_secrets {
                    wakes.everyone.wake(ctx.clients.secrets_known());
                }
            }
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => {
                log_watch("secrets", &error);
                if holds_client_secrets {
                    wakes.everyone.wake(ctx.clients.failed(Feed::Secrets, &broken(&error)));
                }
            }
        }
    }
}

fn changed(ctx: &Context, wakes: &Wakes, meta: &ObjectMeta, is_there: bool) {
    let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return };
    let secret = Key::new(namespace, name);
    let seen = is_there.then(|| SecretVersion {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
    });
    let concerned = ctx.state.referrers(&secret).into_iter();
    let concerned = concerned.filter(|key| ctx.state.concerns(key, seen.as_ref()));
    wakes.everyone.wake(concerned.collect::<Vec<_>>());
    let labels = meta.labels.as_ref().filter(|_| is_there);
    if labels.is_some_and(|labels| is_credential(name, labels)) && is_orphan(&secret, &wakes.graphtokens) {
        wakes.orphans.found(&secret);
    }
}

/// Credentials without a `GraphToken`, once both caches are filled.
pub(super) fn wake_orphans(wakes: &Wakes) {
    if !wakes.secrets.is_known() || !wakes.graphtokens.is_known() {
        return;
    }
    for (secret, meta) in wakes.secrets.named(CREDENTIAL_SUFFIX) {
        if is_credential(&secret.name, &meta.labels) && is_orphan(&secret, &wakes.graphtokens) {
            wakes.orphans.found(&secret);
        }
    }
}

fn is_orphan(credential: &Key, graphtokens: &GraphTokenStore) -> bool {
    let name = credential.name.strip_suffix(CREDENTIAL_SUFFIX).unwrap_or_default();
    !graphtokens.contains(&Key::new(&credential.namespace, name))
}

/// The credentials that have no `GraphToken`. They are few, so a `Controller` looks after them, with a store that has nothing else.
#[derive(Clone)]
pub(super) struct Orphans {
    writer: Arc<Mutex<Writer<WatchedSecret>>>,
    woken: mpsc::UnboundedSender<ObjectRef<WatchedSecret>>,
}

/// Their store, and who is woken of them.
pub(super) struct Orphaned {
    store: Store<WatchedSecret>,
    wakes: mpsc::UnboundedReceiver<ObjectRef<WatchedSecret>>,
}

/// Deletes credentials when their time has come, until the term is stopped.
pub(super) async fn look_after_orphans(
    orphans: Orphans,
    orphaned: Orphaned,
    ctx: &Arc<Context>,
    term: &Term,
) {
    let look_after = move |secret: Arc<WatchedSecret>, ctx: Arc<Context>| {
        let orphans = orphans.clone();
        async move { orphans.look_after(&secret, &ctx).await }
    };
    Controller::for_stream(futures::stream::pending(), orphaned.store)
        .with_config(controller::Config::default().concurrency(term.concurrency))
        .reconcile_on(orphaned.wakes)
        .graceful_shutdown_on(term.stop.clone().cancelled_owned())
        .run(
            look_after,
            |_, error, _| {
                tracing::debug!(%error, "a credential without a GraphToken was not seen to");
                Action::requeue(ERROR_PAUSE)
            },
            Arc::clone(ctx),
        )
        .for_each(|_| async {})
        .await;
}

impl Orphans {
    /// Nothing yet.
    pub(super) fn new() -> (Self, Orphaned) {
        let (store, mut writer) = reflector::store();
        // A Controller begins when its store has been filled.
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        let (woken, wakes) = mpsc::unbounded();
        (Self { writer: Arc::new(Mutex::new(writer)), woken }, Orphaned { store, wakes })
    }

    fn apply(&self, event: &Event<WatchedSecret>) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).apply_watcher_event(event);
    }

    /// One may be without a `GraphToken`.
    pub(super) fn found(&self, credential: &Key) {
        let Key { namespace, name } = credential.clone();
        let meta = ObjectMeta { namespace: Some(namespace), name: Some(name), ..ObjectMeta::default() };
        let secret = WatchedSecret::from(meta);
        let reference = ObjectRef::from_obj(&secret);
        self.apply(&Event::Apply(secret));
        let _ = self.woken.unbounded_send(reference);
    }

    /// Does what is due about one, at the version that the cache has of it.
    pub(super) async fn look_after(
        &self,
        secret: &WatchedSecret,
        ctx: &Context,
    ) -> Result<Action, StoreError> {
        let ObjectMeta { namespace: Some(namespace), name: Some(name), .. } = secret.meta() else {
            return Ok(Action::await_change());
        };
        let key = Key::new(namespace, name);
        let next = match ctx.secrets.get(namespace, name) {
            Some(meta) if is_credential(name, &meta.labels) => {
                retain(&ctx.exchanger.client, &key, meta, ctx.exchanger.clock.now()).await?
            }
            _ => Action::await_change(),
        };
        if next == Action::await_change() {
            self.apply(&Event::Delete(secret.clone()));
        }
        Ok(next)
    }
}
